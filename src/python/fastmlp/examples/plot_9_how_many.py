"""
9. How many layers, how many neurons?
=====================================

*How many layers? How many neurons in each?* There is no formula. The answer of the lecture is: **trial and error**, and
intuition. So what counts is how long a trial takes.

This lesson tries a whole grid of structures at once on the digits of the US Postal Service, looks at their validation
curves in one picture, and measures what the same trials take with scikit-learn.
"""

import time

import matplotlib.pyplot as plt
import numpy as np
from joblib import Parallel, cpu_count, delayed
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPClassifier as SklearnMLPClassifier

from fastmlp import MLPClassifier
from fastmlp.examples import quick
from fastmlp.examples.data import usps

plt.style.use("fastmlp.examples.lessons")

data = usps()
X_train, X_val, y_train, y_val = train_test_split(
    data.X_train, data.y_train, test_size=0.2, stratify=data.y_train, random_state=0
)
print(f"{len(X_train)} digits to train, {len(X_val)} to choose, {len(data.X_test)} to test")

# %%
# The grid
# --------
# Four depths, five widths, and two runs of each with other initial weights. A fit takes one thread and does not hold
# Python's lock, so that joblib can run as many of them side by side as there are cores.

DEPTHS = [1, 2] if quick() else [1, 2, 3, 5]
WIDTHS = [8, 32] if quick() else [8, 16, 32, 64, 128]
SEEDS = [0] if quick() else [0, 1]
SETTINGS = {"batch_size": 128, "max_iter": 2 if quick() else 20, "n_iter_no_change": np.inf}


def fit(depth, width, seed):
    model = MLPClassifier([width] * depth, random_state=seed, n_jobs=1, **SETTINGS)
    return model.fit(X_train, y_train, X_val=X_val, y_val=y_val)


trials = [(depth, width, seed) for depth in DEPTHS for width in WIDTHS for seed in SEEDS]
start = time.perf_counter()
models = dict(zip(trials, Parallel(n_jobs=-1, prefer="threads")(delayed(fit)(*trial) for trial in trials), strict=True))
seconds = time.perf_counter() - start
print(f"{len(trials)} networks trained in {seconds:.1f} s on {cpu_count()} cores")
