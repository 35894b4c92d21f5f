"""
2. Hidden layers are feature extractors
=======================================

The last layer of a network is a linear classifier: it draws straight lines. What stands before it, the hidden layers,
has one task: to turn the input into features between which straight lines are enough. Nobody designs these features;
they are learned together with the rest.

First a problem in the plane, where all can be seen. Then handwritten digits, layer by layer.
"""

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.patheffects import withStroke
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split

from fastmlp import MLPClassifier
from fastmlp.examples import quick
from fastmlp.examples.data import semeion

plt.style.use("fastmlp.examples.lessons")

# %%
# Bending the plane
# -----------------
# Four clouds, two classes, crosswise: no straight line separates them. A hidden layer of two neurons moves every point
# of the plane to another place (its grid shows how). There, one straight line does it: the output neuron.
rng = np.random.RandomState(0)
centres = np.array([[-1, -1], [1, 1], [-1, 1], [1, -1]])
points = np.concatenate([rng.normal(centre, 0.3, (60, 2)) for centre in centres])
label = np.repeat([0, 0, 1, 1], 60)
cross = MLPClassifier((2,), activation="tanh", solver="lbfgs", alpha=0.1, max_iter=500, random_state=3).fit(
    points, label
)
straight = LogisticRegression().fit(points, label)
after = LogisticRegression(C=100).fit(cross.transform(points), label)
print(f"{'a straight line separates':<32}{'of the points':>14}")
print(f"{'the input':<32}{straight.score(points, label):>14.1%}")
print(f"{'what the hidden layer makes of it':<32}{after.score(cross.transform(points), label):>13.1%}")

ticks, fine = np.linspace(-2, 2, 13), np.linspace(-2, 2, 60)
lines = [np.c_[np.full(60, t), fine] for t in ticks] + [np.c_[fine, np.full(60, t)] for t in ticks]
figure, axes = plt.subplots(1, 2, figsize=(8.4, 4.1))
for ax, move in zip(axes, (np.asarray, cross.transform), strict=True):
    for line in lines:
        ax.plot(*move(line).T, color="#c3ccd3", linewidth=0.8, zorder=0)
    for value, color, marker in ((0, "#0072B2", "o"), (1, "#D55E00", "^")):
        ax.scatter(*move(points[label == value]).T, 22, color=color, marker=marker, edgecolor="white", linewidth=0.4)
    ax.set(xticks=[], yticks=[], aspect="equal")
    ax.spines[:].set_visible(False)
axes[0].set_title("input")
axes[1].set(title="after the hidden layer", xlim=(-1.1, 1.1), ylim=(-1.1, 1.1))
weights, bias = cross.coefs_[1][:, 0], cross.intercepts_[1][0]
axes[1].axline(
    -bias * weights / (weights @ weights), slope=-weights[0] / weights[1], color="#22303c", label="output neuron"
)
axes[1].legend(loc="lower center", bbox_to_anchor=(0.5, -0.12))

# %%
# Digits, layer by layer
# ----------------------
# A network with three hidden layers learns to read digits. Then each layer's view of digits that it has never seen is
# drawn in two dimensions (the two main axes of a PCA, which knows nothing of the classes). Layer by layer, equal digits
# move together and different ones apart.
X, y = semeion()
X_train, X_test, y_train, y_test = train_test_split(X, y, test_size=0.3, stratify=y, random_state=0)
net = MLPClassifier((64, 32, 16), activation="tanh", alpha=1.0, max_iter=10 if quick() else 100, random_state=0)
net.fit(X_train, y_train)
views = {"input: 256 pixels": (X_train, X_test)}
for layer, size in enumerate(net.hidden_layer_sizes, start=1):
    views[f"hidden layer {layer}: {size} units"] = net.transform(X_train, layer), net.transform(X_test, layer)

figure, axes = plt.subplots(2, 2, figsize=(8.6, 7.6))
for ax, (name, (_, seen)) in zip(axes.flat, views.items(), strict=True):
    place = PCA(2).fit_transform(seen)
    for digit in range(10):
        own = place[y_test == digit]
        color = plt.colormaps["tab10"](digit)
        ax.scatter(*own.T, 9, color=color, alpha=0.55, linewidth=0)
        ax.text(*np.median(own, axis=0), digit, color=color, fontsize=17, weight="bold", ha="center", va="center",
                path_effects=[withStroke(linewidth=3, foreground="white")])  # fmt: skip
    ax.set(title=name, xticks=[], yticks=[])
    ax.spines[:].set_visible(False)

# %%
# The same as numbers
# -------------------
# The same linear classifier learns from the pixels and from each layer. What matters is how well it reads digits that
# neither it nor the network has seen. *Apart* is the distance of the centres of the classes, measured by the spread
# inside the classes.


def apart(features):
    centres = np.array([features[y_test == digit].mean(axis=0) for digit in range(10)])
    inside = features - centres[y_test]
    return np.sqrt(np.sum((centres - centres.mean(axis=0)) ** 2) / 10 / (np.sum(inside**2) / len(inside)))


scores, distances = {}, {}
print(f"{'features':<28}{'linear classifier':>18}{'apart':>8}")
for name, (learned, seen) in views.items():
    linear = LogisticRegression(max_iter=2000).fit(learned, y_train)
    scores[name], distances[name] = linear.score(seen, y_test), apart(seen)
    print(f"{name:<28}{scores[name]:>18.1%}{distances[name]:>8.2f}")

figure, ax = plt.subplots(figsize=(8, 2.6))
errors = [100 * (1 - score) for score in scores.values()]
ax.bar_label(
    ax.barh(list(scores), errors, color=["#6f7d89", "#56B4E9", "#2a93cc", "#0072B2"]), fmt="%.1f %%", padding=5
)
ax.set(xlabel="test digits misread by a linear classifier, %", title="Deeper features are easier")
ax.invert_yaxis()
ax.margins(x=0.12)
