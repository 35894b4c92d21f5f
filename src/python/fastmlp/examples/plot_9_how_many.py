"""
9. How many layers, how many neurons?
=====================================

*How many layers? How many neurons in each?* No formula tells. The lecture's answer is **trial and error**, guided by
intuition. So what counts is how long a trial takes.

This lesson tries a whole grid of structures on the digits of the US Postal Service, shows all their validation curves
in one picture, and measures what the same trials take with scikit-learn.
"""

import time
import warnings

import matplotlib.pyplot as plt
import numpy as np
from joblib import Parallel, cpu_count, delayed
from sklearn import neural_network
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import train_test_split
from threadpoolctl import threadpool_limits

from fastmlp import MLPClassifier
from fastmlp.examples import quick
from fastmlp.examples.data import usps

plt.style.use("fastmlp.examples.lessons")
warnings.simplefilter("ignore", ConvergenceWarning)  # every trial has the same number of epochs, on purpose

X, X_test, y, y_test = usps()
X_train, X_val, y_train, y_val = train_test_split(X, y, test_size=0.2, stratify=y, random_state=0)
print(f"{len(X_train)} digits to train, {len(X_val)} to choose the structure, {len(X_test)} to test the choice")

# %%
# The grid
# --------
# Four depths, five widths, and two runs of each, with other initial weights. A fit here takes one thread and does not
# hold Python's lock. So joblib can run as many of them side by side as there are cores, in threads: no data is copied.

DEPTHS = [1, 2] if quick() else [1, 2, 3, 5]
WIDTHS = [8, 32] if quick() else [8, 16, 32, 64, 128]
SEEDS = [0, 1]
SETTINGS = {"batch_size": 128, "max_iter": 2 if quick() else 20, "n_iter_no_change": np.inf}


def trial(depth, width, seed):
    model = MLPClassifier((width,) * depth, random_state=seed, n_jobs=1, **SETTINGS)
    return model.fit(X_train, y_train, X_val=X_val, y_val=y_val)


cells = [(depth, width, seed) for depth in DEPTHS for width in WIDTHS for seed in SEEDS]
start = time.perf_counter()
models = dict(zip(cells, Parallel(n_jobs=-1, prefer="threads")(delayed(trial)(*cell) for cell in cells), strict=True))
seconds = time.perf_counter() - start
print(f"{len(cells)} networks in {seconds:.1f} s, on {cpu_count()} cores")

# %%
# All validation curves
# ---------------------
# Of each network: the share of the validation digits that it misreads, after each epoch.

fig, axes = plt.subplots(1, len(DEPTHS), figsize=(9, 3.4), sharey=True)
colors = dict(zip(WIDTHS, plt.get_cmap("viridis_r")(np.linspace(0.15, 1, len(WIDTHS))), strict=True))
for ax, depth in zip(axes, DEPTHS, strict=True):
    for width in WIDTHS:
        for seed in SEEDS:
            error = 100 * (1 - models[depth, width, seed].history_["val_accuracy"])
            ax.plot(
                np.arange(1, len(error) + 1), error, color=colors[width], lw=1.2, label=f"{width}" if not seed else None
            )
    ax.set(yscale="log", xlabel="epoch", title=f"{depth} hidden layer{'s' * (depth > 1)}", yticks=[3, 5, 10, 20, 50])
    ax.yaxis.set_major_formatter("{x:g}")
    ax.yaxis.set_minor_locator(plt.NullLocator())
    ax.grid(axis="y")
axes[0].set_ylabel("validation error, %")
axes[-1].legend(title="neurons in each", fontsize=8, title_fontsize=8)

# %%
# The choice
# ----------
# Of each structure: the validation error at the end, mean of its runs. And how much two runs of *one* structure differ:
# differences between structures that are not larger say nothing. So the grid tells what is too small. Among what is
# large enough, most choices are as good: take one that is cheap.
#
# The test error is larger than the validation error: the test digits of this collection are known to be harder.

ends = np.array(
    [[[100 * (1 - models[d, w, s].history_["val_accuracy"][-1]) for s in SEEDS] for w in WIDTHS] for d in DEPTHS]
)
means, noise = ends.mean(axis=2), np.sqrt(ends.var(axis=2, ddof=1).mean())
print(f"{'layers':>6}" + "".join(f"{width:>8}" for width in WIDTHS) + "   neurons in each")
for depth, row in zip(DEPTHS, means, strict=True):
    print(f"{depth:>6}" + "".join(f"{error:>7.2f}%" for error in row))
print(f"one structure, other initial weights: standard deviation {noise:.2f}%")
i, j = np.unravel_index(means.argmin(), means.shape)
chosen = [100 * (1 - models[DEPTHS[i], WIDTHS[j], seed].score(X_test, y_test)) for seed in SEEDS]
print(f"the choice: {DEPTHS[i]} x {WIDTHS[j]}; on the test digits it misreads {np.mean(chosen):.2f}%")

# %%
# What a trial costs
# ------------------
# The same structures with scikit-learn, from the same initial weights, over the same batches: a part of the grid, one
# fit after the other, one thread each. Both are timed now, in turns, and of two times the smaller one counts. Their
# validation errors agree, as long as roundings have not added up.

PART = [(1, 8), (2, 32)] if quick() else [(1, 16), (2, 32), (3, 64), (5, 128)]
CLASSES = {"fastmlp": MLPClassifier, "scikit-learn": neural_network.MLPClassifier}
times, scores = {}, {}
with threadpool_limits(1):
    for depth, width, name in [(*cell, name) for cell in PART for name in [*CLASSES] * 2]:
        model = CLASSES[name]((width,) * depth, random_state=0, **SETTINGS)
        start = time.perf_counter()
        model.fit(X_train, y_train)
        seconds = time.perf_counter() - start
        times[depth, width, name] = min(seconds, times.get((depth, width, name), np.inf))
        scores[depth, width, name] = model.score(X_val, y_val)

print(f"{'':<10}{'fastmlp: time, error':>22}{'scikit-learn: time, error':>28}{'times as fast':>16}")
for depth, width in PART:
    row = f"{depth} x {width:<6}"
    for name, space in zip(CLASSES, (12, 18), strict=True):
        row += f"{times[depth, width, name]:>{space}.2f} s{100 * (1 - scores[depth, width, name]):>7.2f}%"
    print(row + f"{times[depth, width, 'scikit-learn'] / times[depth, width, 'fastmlp']:>16.1f}")
ours, theirs = (sum(times[(*cell, name)] for cell in PART) for name in CLASSES)
print(f"{'together':<10}{ours:>12.2f} s{theirs:>26.2f} s{theirs / ours:>24.1f}")

# %%
# In a picture:

fig, ax = plt.subplots(figsize=(8, 3))
for shift, (name, color) in zip((-0.19, 0.19), {"fastmlp": "#0072B2", "scikit-learn": "#E69F00"}.items(), strict=True):
    bars = ax.barh(np.arange(len(PART)) + shift, [times[(*cell, name)] for cell in PART], 0.36, color=color, label=name)
    ax.bar_label(bars, fmt="%.2f s", padding=4, fontsize=9)
ax.set_yticks(np.arange(len(PART)), [f"{depth} x {width}" for depth, width in PART])
ax.set(xlabel="seconds", title="One fit, one thread")
ax.invert_yaxis()
ax.margins(x=0.1)
ax.legend(loc="upper right")
