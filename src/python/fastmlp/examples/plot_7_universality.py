"""
7. One wide layer can do everything. At what price?
===================================================

A network with one hidden layer comes as close as you like to any continuous function, if the layer is wide enough
(`Cybenko 1989 <https://doi.org/10.1007/BF02551274>`_, `Hornik 1991 <https://doi.org/10.1016/0893-6080(91)90009-T>`_).
This is called *universality*. It says that enough neurons exist. It does not say how many are enough, nor that training
finds their weights. Both can be measured.
"""

from concurrent.futures import ThreadPoolExecutor

import matplotlib.pyplot as plt
import numpy as np

from fastmlp import MLPRegressor, Network
from fastmlp.examples import quick

plt.style.use("fastmlp.examples.lessons")

TARGETS = {
    "one wave": lambda x: np.sin(np.pi * x),
    "four waves": lambda x: np.sin(4 * np.pi * x),
    "sixteen waves": lambda x: np.sin(16 * np.pi * x),
    "a cusp": lambda x: np.sqrt(np.abs(x)),
}
COLORS = dict(zip(TARGETS, ["#0072B2", "#009E73", "#D55E00", "#CC79A7"], strict=True))
x = np.linspace(-1, 1, 2001)

# %%
# By hand
# -------
# The sum of n relus is a chain of straight pieces: each neuron adds one bend, where its own sum passes 0. So we can write
# down a network without any training. Let the bends lie evenly, and choose the output weights such that the chain meets
# the function at each of them.


def by_hand(f, n):
    bends = np.linspace(-1, 1, n + 1)
    slopes = np.diff(f(bends)) / np.diff(bends)
    net = Network([1, n, 1], activation="relu", loss="squared_error")
    net.weights = [np.ones((n, 1)), [np.diff(slopes, prepend=0)]]  # each neuron changes the slope
    net.biases = [-bends[:-1], f(bends[:1])]
    return net


def errors(predicted, f):
    difference = np.ravel(predicted) - f(x)
    return np.sqrt(np.mean(difference**2)), np.max(np.abs(difference))


f = TARGETS["one wave"]
fig, axes = plt.subplots(1, 3, figsize=(9, 2.8), sharey=True)
for ax, n in zip(axes, (3, 6, 12), strict=True):
    ax.plot(x, f(x), color="#aab5bf", lw=4, label="the function")
    ax.plot(x, by_hand(f, n)(x[:, None]), label="the network")
    ax.plot(np.linspace(-1, 1, n + 1), f(np.linspace(-1, 1, n + 1)), "o", ms=4, color="#0072B2", label="bends")
    ax.set(xlabel="x", title=f"{n} neurons")
axes[0].legend(loc="upper left", fontsize=8)

# %%
# More neurons, shorter pieces
# ----------------------------
# Taylor tells how far a smooth function strays from a straight piece of length h between its ends: at most
# h² / 8 · max |f''|. Here h = 2/n, so the largest error is at most max |f''| / (2 n²): **twice the neurons, a quarter
# of the error**. In a picture with logarithmic axes that is a line of slope -2.
#
# Four waves are as hard as one wave with a quarter of the neurons: their line is the same, moved to the right. A cusp is
# harder in another way. There, f'' has no bound, the argument fails, and the slope is another: -1/2.

widths = np.array([4, 8, 16, 32, 64, 128, 256])
drawn = {name: np.array([errors(by_hand(f, n)(x[:, None]), f)[1] for n in widths]) for name, f in TARGETS.items()}
slopes = {name: np.polyfit(np.log(widths[-3:]), np.log(largest[-3:]), 1)[0] for name, largest in drawn.items()}
print(f"{'largest error, neurons:':<24}" + "".join(f"{n:>9}" for n in widths) + f"{'slope':>8}")
for name, largest in drawn.items():
    print(f"{name:<24}" + "".join(f"{error:>9.2g}" for error in largest) + f"{slopes[name]:>8.2f}")

# %%
# By training
# -----------
# Does training find bends as good as these, from random weights? We minimise the squared error over the 2,001 points
# with L-BFGS, a method that uses the curvature and all rows at once, and take the best of three starts.

starts = range(1 if quick() else 3)
iterations = 30 if quick() else 1000


def train(name, n, start):
    f = TARGETS[name]
    model = MLPRegressor(
        hidden_layer_sizes=(n,), solver="lbfgs", alpha=0, max_iter=iterations, max_fun=10**6, tol=1e-8,
        random_state=start, n_jobs=1,
    )  # fmt: skip
    return errors(model.fit(x[:, None], f(x)).predict(x[:, None]), f)
