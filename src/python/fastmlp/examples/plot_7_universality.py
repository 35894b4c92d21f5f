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
from scipy.optimize import minimize
from threadpoolctl import threadpool_limits

from fastmlp import Network
from fastmlp.examples import quick

plt.style.use("fastmlp.examples.lessons")

TARGETS = {
    "one wave": lambda x: np.sin(np.pi * x),
    "four waves": lambda x: np.sin(4 * np.pi * x),
    "sixteen waves": lambda x: np.sin(16 * np.pi * x),
    "a cusp": lambda x: np.sqrt(np.abs(x)),
}
x = np.linspace(-1, 1, 1001)

# %%
# By hand
# -------
# A sum of n relus is a chain of straight pieces: each neuron makes one bend, where what enters it passes 0. So nobody
# needs to train. Let the bends lie evenly, and choose the output weights such that the chain meets the function there.


def by_hand(f, n):
    bends = np.linspace(-1, 1, n + 1)
    slopes = np.diff(f(bends)) / np.diff(bends)
    net = Network([1, n, 1], activation="relu", loss="squared_error")
    net.weights = [np.ones((n, 1)), [np.diff(slopes, prepend=0)]]  # each neuron changes the slope
    net.biases = [-bends[:-1], f(bends[:1])]
    return net


fig, axes = plt.subplots(1, 3, figsize=(9, 2.8), sharey=True)
for ax, n in zip(axes, (3, 6, 12), strict=True):
    ax.plot(x, np.sin(np.pi * x), color="#aab5bf", lw=5, label="function")
    ax.plot(x, by_hand(TARGETS["one wave"], n)(x[:, None]), label="network")
    ax.set(xlabel="x", title=f"{n} neurons")
axes[0].legend(loc="upper left", fontsize=9)

# %%
# Twice the neurons, a quarter of the error
# -----------------------------------------
# Between two bends at a distance h, a straight piece strays from a smooth function by at most ``h² / 8 · max |f''|``:
# that is Taylor's formula. Here h = 2 / n. So the error falls like 1 / n²: in a picture with logarithmic axes a line of
# **slope -2**. Four waves need four times the neurons of one wave, for four times as many arcs. Their line is the same,
# moved to the right.
#
# A cusp is hard in another way. There f'' has no bound, and the argument fails at one place: the slope is only -1.
#
# A famous guarantee has a third slope: **-1/2** (`Barron 1993 <https://doi.org/10.1109/18.256500>`_). Its argument is a
# poll: write the function as a mean over infinitely many neurons, ask n of them drawn by lot, and err like 1 / √n. That
# holds for *any number of inputs*, while pieces on a grid come down to -2/d with d inputs. With one smooth input the
# pieces win; from five on, the poll. The error here is the root of the mean squared error.

WIDTHS = np.array([4, 8, 16, 32] if quick() else [4, 8, 16, 32, 64, 128])


def error(net, f):
    return np.sqrt(np.mean((net(x[:, None])[:, 0] - f(x)) ** 2))


def table(title, rows):
    print(f"{title:<24}" + "".join(f"{n:>9}" for n in WIDTHS) + "    last slope")
    for name, row in rows.items():
        print(f"{name:<24}" + "".join(f"{value:>9.5f}" for value in row) + f"{np.log2(row[-1] / row[-2]):>14.2f}")


drawn = {name: np.array([error(by_hand(f, n), f) for n in WIDTHS]) for name, f in TARGETS.items()}
table("by hand, neurons:", drawn)

# %%
# By training
# -----------
# Does training find such weights? We minimise the mean squared error with L-BFGS, which uses all rows at once, and the
# curvature of the loss. It starts once from the network made by hand, and three times from random weights.

STEPS = 20 if quick() else 1000


def train(net, f):
    def loss_and_gradient(parameters):
        net.parameters = parameters
        return net.loss_and_gradient(x[:, None], f(x))

    options = {"maxiter": STEPS, "maxfun": 10 * STEPS, "maxcor": 20, "ftol": 0, "gtol": 1e-10}
    net.parameters = minimize(loss_and_gradient, net.parameters.copy(), jac=True, method="L-BFGS-B", options=options).x
    return error(net, f)


def four_starts(job):
    name, n = job
    nets = [Network([1, n, 1], "relu", "squared_error", random_state=seed) for seed in range(3)]
    return [train(net, TARGETS[name]) for net in [by_hand(TARGETS[name], n), *nets]]


# One thread each: with so few numbers, the threads that SciPy's BLAS would start spend their time waiting.
with threadpool_limits(1), ThreadPoolExecutor() as pool:
    found = list(pool.map(four_starts, [(name, n) for name in TARGETS for n in WIDTHS]))
runs = dict(zip(TARGETS, np.reshape(found, (len(TARGETS), len(WIDTHS), 4)), strict=True))
improved = {name: ends[:, 0] for name, ends in runs.items()}
trained = {name: ends[:, 1:].min(axis=1) for name, ends in runs.items()}
table("from weights by hand:", improved)
table("from random weights:", trained)

# %%
# Exists is not found
# -------------------
# - The bends made by hand are not the best. Training moves them to where the function curves, and divides the error by
#   about two and a half: the same slope, -2, with a better constant.
# - From random weights (dots: three starts; line: the best) one wave is found, though further and further from what is
#   possible. Of sixteen waves nearly nothing is found: 128 neurons stop at an error of 0.44, where 0.02 is possible.
#
# Enough neurons exist. To find their weights is another matter.

fig, axes = plt.subplots(1, len(TARGETS), figsize=(9, 3.6), sharey=True)
for ax, name in zip(axes, TARGETS, strict=True):
    ax.plot(WIDTHS, drawn[name], "o-", color="#22303c", ms=4, label="by hand")
    ax.plot(WIDTHS, improved[name], "o-", color="#0072B2", ms=4, label="by hand, then trained")
    ax.plot(WIDTHS, trained[name], "-", color="#D55E00", label="trained from random weights")
    ax.plot(WIDTHS, runs[name][:, 1:], ".", color="#D55E00", ms=5)
    ax.set(xscale="log", yscale="log", xlabel="neurons", title=name)
    ax.set_xticks([4, 16, 64], ["4", "16", "64"])
    ax.set_xticks([], minor=True)
    ax.grid(axis="y")
fig.supylabel("error")
fig.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
