"""
6. Deeper or fatter? Three tasks, one price
===========================================

In the lecture there is a table for speech (`Seide, Li and Yu 2011 <https://doi.org/10.21437/Interspeech.2011-169>`_).
Seven layers of 2,000 neurons misread 17.1 % of the words; one layer with as many parameters, 22.6 %. Does deeper beat
fatter in every task? We try three tasks of our own. All networks of a task have the same number of parameters and are
trained with equal care.
"""

from concurrent.futures import ThreadPoolExecutor

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from fastmlp import MLPClassifier, MLPRegressor
from fastmlp.examples import quick
from fastmlp.examples.data import usps

plt.style.use("fastmlp.examples.lessons")

# %%
# Three tasks
# -----------
# - A function that is **made of functions**: f = h(h(x1, x2), h(x3, x4)), where h(a, b) = sin(π (a b + (a - b) / 2)).
#   The error is the mean squared error as a share of the variance; 4,000 examples to learn from.
# - The 1,797 small **digits** that come with scikit-learn, 8 x 8 pixels.
# - The 9,298 digits of the **US Postal Service**, 16 x 16 pixels, with the test set that everybody uses.
#
# A quarter of what there is to learn from only chooses the learning rate. The test rows are seen once, at the end.


def h(a, b):
    return np.sin(np.pi * (a * b + (a - b) / 2))


X_composed = np.random.RandomState(0).uniform(-1, 1, (10000, 4)).astype(np.float32)
x1, x2, x3, x4 = X_composed.T
digits = load_digits()
post = usps()
learn_and_test = {
    "made of functions": train_test_split(X_composed, h(h(x1, x2), h(x3, x4)), train_size=5333, random_state=0),
    "digits": train_test_split((digits.data / 16).astype(np.float32), digits.target, random_state=0),
    "postal digits": [post.X_train, post.X_test, post.y_train, post.y_test],
}
BUDGETS = {"made of functions": 4000, "digits": 10000, "postal digits": 30000}  # parameters
EPOCHS = {"made of functions": 40, "digits": 40, "postal digits": 12}

# %%
# Structures of one price
# -----------------------
# One to seven hidden layers, each as wide as the budget allows. And, because width is the other way to spend, one
# hidden layer with eight times the parameters.

DEPTHS = (1, 3) if quick() else range(1, 8)
STRUCTURES = [(depth, 1) for depth in DEPTHS] + [(1, 8)]  # hidden layers, price in budgets


def widest(task, depth, price):
    """Return how many neurons each layer can have; each has a weight for each input, and a bias."""
    X, _, y, _ = learn_and_test[task]
    n_in, n_out, width, parameters = X.shape[1], 1 if y.dtype.kind == "f" else 10, 0, 0
    while parameters <= price * BUDGETS[task]:
        width += 1
        parameters = (n_in + 1) * width + (depth - 1) * (width + 1) * width + (width + 1) * n_out
    return width - 1


# %%
# Equal care
# ----------
# Every structure is trained by Adam with a cosine schedule, with each of four learning rates, twice. The rate with the
# smallest validation error is kept and trained three times more: five runs with other initial weights and batches.

RATES = [0.01] if quick() else [0.001, 0.003, 0.01, 0.03]
FIRST, MORE = ((0,), (1,)) if quick() else ((0, 1), (2, 3, 4))


def trial(task, structure, rate, seed, patience=1):
    X, X_test, y, y_test = learn_and_test[task]
    X, X_val, y, y_val = train_test_split(X, y, test_size=0.25, random_state=0)
    kind = MLPRegressor if y.dtype.kind == "f" else MLPClassifier
    model = kind(
        hidden_layer_sizes=(widest(task, *structure),) * structure[0], learning_rate="cosine", learning_rate_init=rate,
        max_iter=1 if quick() else patience * EPOCHS[task], batch_size=100, n_iter_no_change=np.inf, random_state=seed,
        n_jobs=1,
    ).fit(X, y)  # fmt: skip
    return 1 - model.score(X_val, y_val), 1 - model.score(X_test, y_test)  # 1 - R², or the share of wrong answers


cells = [(task, structure) for task in BUDGETS for structure in STRUCTURES]
with ThreadPoolExecutor() as pool:
    runs = {(cell, rate): [pool.submit(trial, *cell, rate, seed) for seed in FIRST] for cell in cells for rate in RATES}
    best = {cell: min(RATES, key=lambda rate: sum(run.result()[0] for run in runs[cell, rate])) for cell in cells}
    for cell, rate in best.items():
        runs[cell, rate] += [pool.submit(trial, *cell, rate, seed) for seed in MORE]
    late = pool.map(lambda seed: trial("made of functions", (1, 1), 0.01, seed, patience=10)[1], FIRST + MORE)
errors = {cell: np.array([100 * run.result()[1] for run in runs[cell, best[cell]]]) for cell in cells}

print(f"{'test error in %':<24}" + "".join(f"{task:>20}" for task in BUDGETS))
for depth, price in STRUCTURES:
    found = [errors[task, (depth, price)] for task in BUDGETS]
    what = f"{depth} layer{'s' * (depth > 1)}{f', {price} x the price' * (price > 1)}"
    print(f"{what:<24}" + "".join(f"{runs.mean():>13.1f} ± {runs.std():<4.1f}" for runs in found))
late = 100 * np.array(list(late))
print(f"{'1 layer, 10 x the epochs':<24}{late.mean():>13.1f} ± {late.std():<4.1f}")

# %%
# The answer depends on the task
# ------------------------------
# - The function made of functions wants depth. One hidden layer leaves 64 % of the variance, five leave 14 %; seven
#   are harder to train. Eight times the parameters in one layer leave 59 %, ten times the epochs 42 %.
# - The digits do not. One layer is as good as any here, and more neurons are better than more layers.
#
# So depth seems to pay where a task is done in steps, each made of the results of the last, as speech goes from sounds
# to words, and where there are enough examples to learn the steps from. There is no law: try it (lesson 9).
#
# Dots are means, bars standard deviations. Beside them the published table for speech: its circles cost more the deeper
# they are, and its squares are single layers of the same price.

SPEECH = {1: 24.2, 2: 20.4, 3: 18.4, 4: 17.8, 5: 17.2, 7: 17.1}

fig, axes = plt.subplots(2, 2, figsize=(9, 6.6))
for ax, task in zip(axes.flat[1:], BUDGETS, strict=True):
    ends = np.array([errors[task, (depth, 1)] for depth in DEPTHS])
    ax.errorbar(DEPTHS, ends.mean(1), ends.std(1), fmt="o-", capsize=3, label=f"{BUDGETS[task]:,} parameters")
    wide = errors[task, (1, 8)].mean()
    ax.axhline(wide, color="#D55E00", ls="--", label=f"1 layer, {8 * BUDGETS[task]:,} parameters")
    ax.set(title=task, ylabel="test error, %")
speech = axes[0, 0]
speech.plot(SPEECH.keys(), SPEECH.values(), "o-", label="layers of 2,000 neurons")
speech.plot([5, 7], [22.5, 22.6], "s", color="#009E73", label="1 layer, as many parameters")
speech.axhline(22.1, color="#D55E00", ls="--", label="1 layer of 16,000 neurons")
speech.set(title="speech (Seide, Li and Yu 2011)", ylabel="misread words, %")
for ax in axes.flat:
    ax.set(xlabel="hidden layers", ylim=(0, 1.06 * ax.get_ylim()[1]), xticks=range(1, 8))
    ax.grid(axis="y")
    ax.legend(fontsize=8, loc="lower left")
