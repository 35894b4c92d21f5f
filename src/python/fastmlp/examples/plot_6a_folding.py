"""
6. Deeper or fatter? What depth can say in few words
====================================================

One hidden layer comes close to any function, if it is wide enough (lesson 7). Then why deep networks? Because of the
price. Some functions take a deep network a handful of neurons, and a flat one thousands.

Here is such a function, and an honest question behind it: does training find what a deep network *can* say?
"""

import matplotlib.pyplot as plt
import numpy as np
from joblib import Parallel, delayed

from fastmlp import MLPRegressor, Network
from fastmlp.examples import quick

plt.style.use("fastmlp.examples.lessons")

# %%
# Folding
# -------
# Fold a strip of paper in two. Where a point lands is the *tent map*: a function of two straight pieces, 2x and 2 - 2x.
# Two relus make it. Fold again and again: each layer of **two** neurons doubles the number of pieces. In one hidden
# layer a neuron adds only one piece, so it takes a thousand of them to do what ten folds do
# (`Telgarsky 2016 <https://arxiv.org/abs/1602.04485>`_).


def folding(times):
    net = Network([1] + [2] * times + [1], activation="relu", loss="squared_error")
    net.weights = [[[2], [4]]] + [[[2, -2], [4, -4]]] * (times - 1) + [[[1, -1]]]
    net.biases = [[0, -2]] * times + [[0]]
    return net


x = np.linspace(0, 1, 2**10 + 1)
folded = {times: folding(times)(x[:, None])[:, 0] for times in (1, 2, 3, 4, 5, 10)}
pieces = {times: np.count_nonzero(np.diff(np.sign(np.diff(y)))) + 1 for times, y in folded.items()}
print(f"{'folds':>5}{'pieces':>8}{'parameters of the deep network':>33}{'of a flat one, at least':>26}")
for times in folded:
    print(f"{times:>5}{pieces[times]:>8}{folding(times).n_parameters:>33,}{3 * (pieces[times] - 1) + 1:>26,}")

# %%
# Three of these networks, exactly as they are:

fig, axes = plt.subplots(1, 3, figsize=(9, 2.4), sharey=True)
for ax, times in zip(axes, (1, 3, 5), strict=True):
    ax.plot(x, folded[times])
    ax.set(xlabel="x", title=f"{times} fold{'s' * (times > 1)}, {folding(times).n_parameters} parameters")

# %%
# Can say, or will find?
# ----------------------
# Those weights were set by hand. Now networks of about 1,000 parameters, more than enough in each case, start from
# random weights and learn the same functions from 2,000 points. Each depth is tried with four learning rates, three
# times each; we keep the rate with the smallest mean. The error is the mean squared one, as a share of the variance:
# 100 % is what a constant achieves.

NETWORKS = [(333,), (29,) * 2, (21,) * 3, (14,) * 5]
FOLDS = (1, 2, 3, 4)
RATES = [0.01] if quick() else [0.003, 0.01, 0.03, 0.1]
SEEDS = range(1 if quick() else 3)
X = np.random.RandomState(0).uniform(0, 1, (2000, 1)).astype(np.float32)


def trial(times, layers, rate, seed):
    model = MLPRegressor(
        hidden_layer_sizes=layers, learning_rate="cosine", learning_rate_init=rate, batch_size=100, alpha=0,
        max_iter=2 if quick() else 60, n_iter_no_change=np.inf, random_state=seed, n_jobs=1,
    )  # fmt: skip
    model.fit(2 * X - 1, folding(times)(X)[:, 0])
    return 100 * (1 - model.score(2 * x[:, None] - 1, folding(times)(x[:, None])[:, 0]))


cells = [(times, layers, rate, seed) for times in FOLDS for layers in NETWORKS for rate in RATES for seed in SEEDS]
found = Parallel(n_jobs=-1, prefer="threads")(delayed(trial)(*cell) for cell in cells)
found = np.reshape(found, (len(FOLDS), len(NETWORKS), len(RATES), len(SEEDS)))
errors = found.mean(axis=3).min(axis=2)
print(f"{'error in %':<20}" + "".join(f"{times} fold{'s' * (times > 1)}".rjust(10) for times in FOLDS))
for layers, row in zip(NETWORKS, errors.T, strict=True):
    print(f"{f'{len(layers)} x {layers[0]}':<20}" + "".join(f"{error:>10.1f}" for error in row))
