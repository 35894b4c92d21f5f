"""
6. Deeper or fatter? What depth can say in few words
====================================================

One hidden layer comes close to any function, if it is wide enough (lesson 7). Then why deep networks? Because of the
price. Some functions take a deep network twenty neurons, and a flat one a thousand.

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
# Those weights were set by hand. Now networks of about 1,000 parameters, more than enough for every depth, start from
# random weights and learn the same functions from 2,000 points. Each is trained nine times: with three learning rates,
# from three starts. The best of the nine counts. The error is the mean squared one as a share of the variance: a
# constant has 100 %.

NETWORKS = [(333,), (29,) * 2, (21,) * 3, (14,) * 5]
FOLDS = (2, 3, 4)
RATES = [0.01] if quick() else [0.003, 0.01, 0.03]
SEEDS = range(1 if quick() else 3)
X = np.random.RandomState(0).uniform(0, 1, (2000, 1)).astype(np.float32)


def trial(times, layers, rate, seed):
    model = MLPRegressor(
        hidden_layer_sizes=layers, learning_rate="cosine", learning_rate_init=rate, batch_size=100, alpha=0,
        max_iter=2 if quick() else 100, n_iter_no_change=np.inf, random_state=seed, n_jobs=1,
    )  # fmt: skip
    model.fit(2 * X - 1, folding(times)(X)[:, 0])
    answers = model.predict(2 * x[:, None] - 1)
    return 100 * np.mean((answers - folded[times]) ** 2) / folded[times].var(), answers


settings = [(rate, seed) for rate in RATES for seed in SEEDS]
cells = [(times, layers) for times in FOLDS for layers in NETWORKS]
runs = Parallel(n_jobs=-1, prefer="threads")(delayed(trial)(*cell, *setting) for cell in cells for setting in settings)
best = {}
for number, cell in enumerate(cells):
    best[cell] = min(runs[number * len(settings) : (number + 1) * len(settings)], key=lambda run: run[0])

print(f"{'layers':<10}" + "".join(f"{times:>4} folds" for times in FOLDS) + "   error in %")
for layers in NETWORKS:
    print(f"{len(layers)} x {layers[0]:<6}" + "".join(f"{best[times, layers][0]:>10.1f}" for times in FOLDS))

# %%
# Can say is not will find
# ------------------------
# Two folds and three are found by all. Four are found by none, although 25 parameters are enough to say them. The slope
# of the loss shows no way there: as long as the lower layers do not fold, nothing that the upper ones do helps much.
# What depth can say is one thing; the next part asks what training makes of it in tasks that are less contrived.

fig, axes = plt.subplots(len(FOLDS), 1, figsize=(9, 5.4), sharex=True, sharey=True)
for ax, times in zip(axes, FOLDS, strict=True):
    ax.plot(x, folded[times], color="#d5dbe0", lw=5, label="function")
    for layers, color in ((NETWORKS[0], "#D55E00"), (NETWORKS[2], "#0072B2")):
        ax.plot(x, best[times, layers][1], color=color, lw=1.4, label=f"{len(layers)} x {layers[0]}")
    ax.set(title=f"{times} folds", yticks=[0, 1])
axes[-1].set_xlabel("x")
fig.legend(*axes[0].get_legend_handles_labels(), loc="outside right center")
