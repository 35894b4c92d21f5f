"""
1. A set of functions: matrix products
======================================

All neurons of a layer, for all rows of the data, are one product of matrices and one function of each number:
``sigmoid(X W + b)``. A network is a chain of them. That is why it can be computed fast.

Here one network answers the same rows in three ways: neuron by neuron in Python; layer by layer with NumPy's matrix
products; and by fastmlp's core, which takes a few rows through all layers while their numbers are in the cache.
"""

import statistics
import time
from math import exp
from operator import mul

import matplotlib.pyplot as plt
import numpy as np

from fastmlp import Network
from fastmlp.examples import quick

plt.style.use("fastmlp.examples.lessons")

# %%
# One function, three ways to compute it
# --------------------------------------
chain = Network([256, 64, 64, 10], activation="logistic", dtype="float32", random_state=0)
batch = np.random.RandomState(0).uniform(size=(20 if quick() else 200, 256)).astype(np.float32)
matrices = [(weights.T.copy(), biases.copy()) for weights, biases in zip(chain.weights, chain.biases, strict=True)]
lists = [(weights.tolist(), biases.tolist()) for weights, biases in zip(chain.weights, chain.biases, strict=True)]


def neuron_by_neuron(rows):
    answers = []
    for row in rows.tolist():
        for weights, biases in lists:
            sums = [bias + sum(map(mul, neuron, row)) for neuron, bias in zip(weights, biases, strict=True)]
            row = [1 / (1 + exp(-z)) for z in sums]
        answers.append(row)
    return answers


def matrix_by_matrix(rows):
    for weights, biases in matrices:
        rows = 1 / (1 + np.exp(-(rows @ weights + biases)))
    return rows


# %%
# The three take turns, so that a slow moment of the machine hits all alike, and the medians count.
ways = {"Python, neuron by neuron": neuron_by_neuron, "NumPy, matrix products": matrix_by_matrix, "fastmlp": chain}
seconds = {name: [] for name in ways}
for _ in range(2 if quick() else 9):
    for name, way in ways.items():
        n_times = 1 if way is neuron_by_neuron else 20
        start = time.perf_counter()
        for _ in range(n_times):
            answer = way(batch)
        seconds[name].append((time.perf_counter() - start) / n_times)
medians = {name: statistics.median(times) for name, times in seconds.items()}
differences = {name: float(np.abs(way(batch) - chain(batch)).max()) for name, way in ways.items()}
slowest = max(medians.values())
print(f"{len(batch)} rows, 256 - 64 - 64 - 10{'milliseconds':>16} {'times as fast':>15} {'difference':>12}")
for name, median in medians.items():
    print(f"{name:<28}{1000 * median:>16.3f} {slowest / median:>15.0f} {differences[name]:>12.0e}")

figure, ax = plt.subplots(figsize=(8, 2.4))
bars = ax.barh(list(ways), [1000 * median for median in medians.values()], color=["#6f7d89", "#56B4E9", "#0072B2"])
ax.bar_label(bars, [f"{1000 * median:.3g} ms" for median in medians.values()], padding=5)
ax.set(
    xscale="log", xlabel=f"milliseconds for {len(batch)} rows (logarithmic)", title="One function, computed three ways"
)
ax.invert_yaxis()
ax.margins(x=0.15)
