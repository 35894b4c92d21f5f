"""
3. Handwritten digits: Semeion
==============================

An image of 16 x 16 pixels is 256 inputs, 1 for ink and 0 for none. Ten outputs are the confidences that it is a 0, a 1,
... a 9. The network is a function from one to the other, and 1,593 digits from about 80 writers are the examples from
which it is learned.

How well it reads is measured by 10-fold cross-validation: ten times, nine tenths of the digits are learned and the last
tenth is read. So each digit is read once by a network that has never seen it.
"""

import time
import warnings

import matplotlib.pyplot as plt
import numpy as np
from sklearn.base import clone
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import confusion_matrix
from sklearn.model_selection import StratifiedKFold
from sklearn.neural_network import MLPClassifier as ScikitMLP
from sklearn.svm import SVC
from threadpoolctl import threadpool_limits

from fastmlp import MLPClassifier
from fastmlp.examples import quick
from fastmlp.examples.data import semeion

plt.style.use("fastmlp.examples.lessons")
warnings.simplefilter("ignore", ConvergenceWarning)  # max_iter is where training shall end

# %%
# Ten folds, five classifiers
# ---------------------------
# fastmlp and scikit-learn train the same network. The third is a better one: with dropout, which scikit-learn's MLP
# does not have. Support vectors and boosted trees stand beside them. Seconds are for all ten folds, training and
# reading, with one thread each. With so few digits support vectors are hard to beat; the next lesson has more.
X, y = semeion()
network = {"hidden_layer_sizes": (200,), "alpha": 0.1, "max_iter": 3 if quick() else 60, "random_state": 0}
contestants = {
    "fastmlp": MLPClassifier(**network, n_jobs=1),
    "scikit-learn MLP": ScikitMLP(**network),
    "fastmlp, dropout": MLPClassifier(
        (400,),
        activation="gelu",
        dropout=0.5,
        input_dropout=0.3,
        learning_rate="cosine",
        learning_rate_init=0.003,
        max_iter=network["max_iter"],
        n_iter_no_change=np.inf,
        random_state=0,
        n_jobs=1,
    ),
    "SVC": SVC(C=10),
    "boosted trees": HistGradientBoostingClassifier(max_iter=2 if quick() else 30, learning_rate=0.3, max_leaf_nodes=8),
}
folds = list(StratifiedKFold(10, shuffle=True, random_state=0).split(X, y))[: 2 if quick() else 10]
accuracy, seconds, confidences = {}, {}, np.full((len(y), 10), np.nan)
print(f"{'classifier':<20}{'accuracy':>10}{'of the folds':>18}{'seconds':>10}")
for name, model in contestants.items():
    start, scores = time.perf_counter(), []
    for train, test in folds:
        with threadpool_limits(1):
            fitted = clone(model).fit(X[train], y[train])
            scores.append(fitted.score(X[test], y[test]))
        if name == "fastmlp, dropout":
            confidences[test] = fitted.predict_proba(X[test])
    accuracy[name], seconds[name] = np.mean(scores), time.perf_counter() - start
    print(f"{name:<20}{accuracy[name]:>10.2%}{min(scores):>10.1%} -{max(scores):>6.1%}{seconds[name]:>10.2f}")

figure, ax = plt.subplots(figsize=(8, 3.4))
for name in contestants:
    ours = name.startswith("fastmlp")
    ax.plot(seconds[name], 100 * accuracy[name], "o", markersize=11, color="#0072B2" if ours else "#D55E00")
    ax.annotate(name, (seconds[name], 100 * accuracy[name]), (0, 10), textcoords="offset points", ha="center")
ax.set(
    xscale="log",
    xlabel="seconds for ten folds (logarithmic)",
    ylabel="digits read correctly, %",
    title="Fast and right is at the top left",
)
ax.set_xticks([1, 2, 5, 10, 20, 50], [1, 2, 5, 10, 20, 50])
ax.minorticks_off()
ax.margins(0.15, 0.25)
ax.grid(axis="y")

# %%
# What a 2 is
# -----------
# Of all digits, read by a network that had not seen them: which has the highest confidence of a "2"? Which of the
# others looks most like a 2, and which 2 the least? The last network of the table answers, with ten numbers for each
# image.
read = ~np.isnan(confidences[:, 0])
shown = {"surest 2": np.nanargmax(confidences[:, 2])}
shown["surest 2 that is none"] = np.nanargmax(np.where(y == 2, np.nan, confidences[:, 2]))
shown["2 that is least like one"] = np.nanargmin(np.where(y == 2, confidences[:, 2], np.nan))
figure, axes = plt.subplots(2, 3, figsize=(9, 4.4), height_ratios=[1.5, 1])
for (image, bars), (name, row) in zip(axes.T, shown.items(), strict=True):
    print(f"{name:<26} is the digit {y[row]}; confidence of a 2: {confidences[row, 2]:.4f}")
    image.imshow(X[row].reshape(16, 16))
    image.set(title=name, xticks=[], yticks=[])
    image.spines[:].set_visible(False)
    bars.bar(range(10), confidences[row], color=["#D55E00" if digit == 2 else "#b9c3cc" for digit in range(10)])
    bars.set(ylim=(0, 1), yticks=[0, 0.5, 1], xticks=range(10))
axes[1, 0].set_ylabel("confidence")

# %%
# What is taken for what
# ----------------------
# Rows are what the digits are, columns what they were read as. The diagonal, all that is right, has no colour.
table = confusion_matrix(y[read], confidences[read].argmax(axis=1))
mistakes = np.where(np.eye(10, dtype=bool), 0, table)
print(f"{mistakes.sum()} of {read.sum()} digits misread")
figure, ax = plt.subplots(figsize=(5.6, 5))
image = ax.imshow(np.where(np.eye(10, dtype=bool), np.nan, table), cmap="Oranges")
for i, j in zip(*np.nonzero(table), strict=True):
    ax.text(
        j,
        i,
        table[i, j],
        ha="center",
        va="center",
        fontsize=9,
        color="#6f7d89" if i == j else "white" if table[i, j] > 0.6 * mistakes.max() else "#22303c",
    )
ax.set(xticks=range(10), yticks=range(10), xlabel="read as", ylabel="is", title="Semeion, ten folds")
ax.spines[:].set_visible(False)
figure.colorbar(image, label="mistakes")
