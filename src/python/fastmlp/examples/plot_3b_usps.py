"""
3. Handwritten digits: USPS
===========================

Zip codes from envelopes: 7,291 digits to learn, 2,007 to test, 16 x 16 pixels in grey. The test digits are known to be
hard: people misread about 2.5 % of them (Bromley and Säckinger, 1991), the nearest neighbour among the training digits
misreads 5.6 %.

Three steps bring a network down: dropout, so that it does not learn the training digits by heart; deformed digits, new
ones in each epoch, which are still the same digits; and a vote of several networks.
"""

import time
import warnings

import matplotlib.pyplot as plt
import numpy as np
from scipy.ndimage import gaussian_filter, map_coordinates
from sklearn.exceptions import ConvergenceWarning
from sklearn.neighbors import KNeighborsClassifier

from fastmlp import MLPClassifier
from fastmlp.examples import quick
from fastmlp.examples.data import usps

plt.style.use("fastmlp.examples.lessons")
warnings.simplefilter("ignore", ConvergenceWarning)  # max_iter is where training shall end

# %%
# Deformed digits
# ---------------
# A digit that is shifted, turned, slanted or bent a little is the same digit. So each image is drawn again with every
# pixel taken from a place nearby: a random affine map, and on top of it a smooth random field (elastic distortion:
# Simard, Steinkraus and Platt, 2003).
X_train, X_test, y_train, y_test = usps()
rng = np.random.RandomState(0)


def deform(images, affine=1.0, elastic=2.0, smooth=2.5):
    n = len(images)
    down, across = np.mgrid[:16, :16] - 7.5
    turn, slant, high, wide = affine * rng.uniform(-0.15, 0.15, (4, n, 1, 1))
    shift = affine * rng.uniform(-1, 1, (2, n, 1, 1))
    field = gaussian_filter(rng.uniform(-1, 1, (2, n, 16, 16)).astype(np.float32), (0, 0, smooth, smooth))
    field *= 2 * smooth * elastic  # the filter has made it smaller
    rows = (1 + high) * (np.cos(turn) * down + np.sin(turn) * across) + shift[0] + field[0] + 7.5
    columns = (1 + wide) * (np.cos(turn) * across - np.sin(turn) * down) + slant * down + shift[1] + field[1] + 7.5
    number = np.broadcast_to(np.arange(n)[:, None, None], rows.shape)
    return map_coordinates(images.reshape(n, 16, 16), [number, rows, columns], order=1).reshape(n, 256)


figure, axes = plt.subplots(4, 10, figsize=(9, 3.9))
first = [int(np.flatnonzero(y_train == digit)[0]) for digit in range(10)]
for line, images in zip(axes, [X_train[first], *(deform(X_train[first]) for _ in range(3))], strict=True):
    for ax, image in zip(line, images, strict=True):
        ax.imshow(image.reshape(16, 16))
        ax.set(xticks=[], yticks=[])
        ax.spines[:].set(visible=True, color="#e8ebee")
axes[0, 0].set_ylabel("as written")
axes[2, 0].set_ylabel("deformed")

# %%
# From 6 to 3 per cent
# --------------------
# All networks have the same two hidden layers. What differs is what they learn from. ``partial_fit`` trains for one
# epoch, and goes on in the learning rate's schedule; so each epoch can have digits of its own. Three networks share
# them, and vote: their confidences are averaged.
EPOCHS = 2 if quick() else 40
settings = {
    "hidden_layer_sizes": (512, 256),
    "activation": "gelu",
    "solver": "adamw",
    "learning_rate": "cosine",
    "learning_rate_init": 0.002,
    "batch_size": 128,
    "max_iter": EPOCHS,
    "n_iter_no_change": np.inf,
}
errors, seconds = {}, {}


def judge(name, read, start):
    errors[name], seconds[name] = np.mean(read != y_test), time.perf_counter() - start
    print(f"{name:<32}{errors[name]:>12.2%}{seconds[name]:>10.1f}", flush=True)


print(f"{'':<32}{'test error':>12}{'seconds':>10}")
start = time.perf_counter()
judge("nearest neighbour", KNeighborsClassifier(1).fit(X_train, y_train).predict(X_test), start)
start = time.perf_counter()
plain = MLPClassifier(**settings, random_state=0).fit(X_train, y_train)
judge("network", plain.predict(X_test), start)
start = time.perf_counter()
dropped = MLPClassifier(**settings, dropout=0.4, input_dropout=0.2, random_state=0).fit(X_train, y_train)
judge("network, dropout", dropped.predict(X_test), start)

start = time.perf_counter()
voters = [MLPClassifier(**settings, dropout=0.1, random_state=seed) for seed in range(3)]
for _ in range(EPOCHS):
    images = deform(X_train)
    for voter in voters:
        voter.partial_fit(images, y_train, classes=range(10))
confidences = [voter.predict_proba(X_test) for voter in voters]
for number, own in enumerate(confidences, start=1):
    judge(f"network {number}, deformed digits", own.argmax(axis=1), start)
vote = np.mean(confidences, axis=0)
judge("their vote", vote.argmax(axis=1), start)

figure, ax = plt.subplots(figsize=(8, 3.4))
shares = [100 * error for error in errors.values()]
colors = ["#6f7d89", "#56B4E9", "#56B4E9", "#0072B2", "#0072B2", "#0072B2", "#009E73"]
ax.bar_label(ax.barh(list(errors), shares, color=colors), fmt="%.2f %%", padding=5)
ax.axvline(2.5, color="#D55E00", linestyle="--", linewidth=1)
ax.text(2.5, -0.75, "people", color="#D55E00", ha="center", va="bottom")
ax.invert_yaxis()
ax.margins(x=0.12)
ax.set(xlabel="test digits misread, %")

# %%
# What is still misread
# ---------------------
# The mistakes of which the vote is surest. Some of these digits we would misread as well.
read = vote.argmax(axis=1)
wrong = np.flatnonzero(read != y_test)
shown = wrong[np.argsort(-vote[wrong, read[wrong]])][:20]
figure, axes = plt.subplots(2, 10, figsize=(9, 2.5))
for ax in axes.flat:
    ax.axis("off")
for ax, row in zip(axes.flat, shown, strict=False):
    ax.imshow(X_test[row].reshape(16, 16))
    ax.set_title(f"{y_test[row]} as {read[row]}", fontsize=9, weight="normal", loc="center")
