"""
2. Hidden layers are feature extractors
=======================================

The last layer of a network is a linear classifier: it draws straight lines. What stands before it, the hidden layers,
has one task: to turn the input into features between which straight lines are enough. Nobody designs these features;
they are learned together with the rest.

First a problem in the plane, where all can be seen. Then handwritten digits, layer by layer.
"""

import warnings

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.patheffects import withStroke
from sklearn.datasets import make_moons
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import NearestCentroid
from threadpoolctl import threadpool_limits

from fastmlp import MLPClassifier
from fastmlp.examples import quick
from fastmlp.examples.data import usps

plt.style.use("fastmlp.examples.lessons")
warnings.simplefilter("ignore", UserWarning)  # max_iter is where training shall end; some pixels are always empty

# %%
# Bending the plane
# -----------------
# Two moons, each of which reaches into the other: no straight line separates them. A hidden layer of two neurons moves
# every point of the plane to another place; its grid shows how. There one straight line does it, the output neuron.
points, label = make_moons(240, noise=0.1, random_state=0)
points = (points - points.mean(axis=0)) / points.std(axis=0)
bender = MLPClassifier((2,), activation="tanh", solver="lbfgs", alpha=0.2, max_iter=1000, random_state=19)
moved = bender.fit(points, label).transform(points)
straight = {
    "the input": LogisticRegression().fit(points, label).score(points, label),
    "what the hidden layer makes of it": bender.score(points, label),
}
print(f"{'a straight line separates':<34}{'of the points':>14}")
for name, share in straight.items():
    print(f"{name:<34}{share:>14.1%}")

ticks, fine = np.linspace(-2.2, 2.2, 17), np.linspace(-2.2, 2.2, 80)
lines = [np.c_[np.full(80, t), fine] for t in ticks] + [np.c_[fine, np.full(80, t)] for t in ticks]
figure, axes = plt.subplots(1, 2, figsize=(8.6, 4.2))
for ax, move in zip(axes, (np.asarray, bender.transform), strict=True):
    for line in lines:
        ax.plot(*move(line).T, color="#c3ccd3", linewidth=0.8, zorder=0)
    for value, color, marker in ((0, "#0072B2", "o"), (1, "#D55E00", "^")):
        ax.scatter(*move(points[label == value]).T, 24, color=color, marker=marker, edgecolor="white", linewidth=0.4)
    ax.set(xticks=[], yticks=[], aspect="equal")
    ax.spines[:].set_visible(False)
axes[0].set_title("input")
axes[1].set(title="after the hidden layer", xlim=(-1.08, 1.08), ylim=(-1.08, 1.08))
weights, bias = bender.coefs_[1][:, 0], bender.intercepts_[1][0]
border = -bias * weights / (weights @ weights)
axes[1].axline(border, slope=-weights[0] / weights[1], color="#22303c", label="where the output neuron says 0.5")
axes[1].legend(loc="upper center", bbox_to_anchor=(0.5, 0.02))

# %%
# Digits, layer by layer
# ----------------------
# A network with three hidden layers learns to read digits. Then each layer's view of digits that it has never seen is
# drawn in two dimensions (the two main axes of a PCA, which knows nothing of the classes). Layer by layer equal digits
# move together and different ones apart.
X_train, X_test, y_train, y_test = usps()
networks = [
    MLPClassifier(
        (200, 100, 50),
        activation="tanh",
        dropout=0.3,
        input_dropout=0.1,
        learning_rate="cosine",
        learning_rate_init=0.003,
        max_iter=10 if quick() else 30,
        random_state=seed,
    ).fit(X_train, y_train)
    for seed in range(1 if quick() else 3)
]
names = ["input: 256 pixels"] + [f"hidden layer {layer}: {200 // 2 ** (layer - 1)} units" for layer in (1, 2, 3)]


def view(network, X, layer):
    return network.transform(X, layer) if layer else X


figure, axes = plt.subplots(2, 2, figsize=(8.6, 7.8))
for layer, ax in enumerate(axes.flat):
    place = PCA(2).fit_transform(view(networks[0], X_test, layer))
    for digit in range(10):
        color, own = plt.colormaps["tab10"](digit), place[y_test == digit]
        ax.scatter(*own.T, 6, color=color, alpha=0.5, linewidth=0)
        ax.text(
            *np.median(own, axis=0),
            digit,
            color=color,
            fontsize=18,
            weight="bold",
            ha="center",
            va="center",
            path_effects=[withStroke(linewidth=3.5, foreground="white")],
        )
    ax.set(title=names[layer], xticks=[], yticks=[])
    ax.spines[:].set_visible(False)

# %%
# The same as numbers
# -------------------
# Two linear classifiers learn from the pixels and from each layer, and read digits that neither they nor the network
# have seen. The simplest one knows only the mean of each digit and answers with the nearest; logistic regression is the
# best that straight lines can do. Means over three networks.
linear = {"nearest mean": NearestCentroid(), "logistic regression": LogisticRegression(max_iter=30 if quick() else 300)}
errors = {name: np.zeros((len(networks), 4)) for name in linear}
for i, network in enumerate(networks):
    for layer in range(4):
        for name, classifier in linear.items():
            with threadpool_limits(1):  # of so small matrices threads would only wait for each other
                classifier.fit(view(network, X_train, layer), y_train)
            errors[name][i, layer] = 1 - classifier.score(view(network, X_test, layer), y_test)
print(f"{'misread from':<28}" + "".join(f"{name:>22}" for name in linear))
for layer in range(4):
    print(f"{names[layer]:<28}" + "".join(f"{errors[name][:, layer].mean():>22.1%}" for name in linear))

figure, ax = plt.subplots(figsize=(8, 3))
for (name, values), color, marker in zip(errors.items(), ("#D55E00", "#0072B2"), "o^", strict=True):
    ax.plot(range(4), 100 * values.mean(axis=0), marker=marker, markersize=8, color=color, label=name)
ax.set(
    xticks=range(4),
    ylim=(0, 20),
    yticks=range(0, 21, 5),
    ylabel="test digits misread, %",
    title="Deeper features are easier",
)
ax.set_xticklabels([name.replace(": ", "\n") for name in names])
ax.legend()
