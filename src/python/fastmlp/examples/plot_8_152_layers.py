"""
8. 152 layers
=============

In 2015 a network of 152 layers won the ImageNet challenge (`He et al. 2015 <https://arxiv.org/abs/1512.03385>`_). Why
had nobody used so many before? Because they could not be trained. This lesson shows what goes wrong on the way through
many layers, and why it takes **two** ideas together to mend it: the *residual* connection and *normalisation*.

The task is small: the 8 x 8 digits of scikit-learn. The layers are narrow. What counts here is how many there are.
"""

import warnings

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import train_test_split

from fastmlp import MLPClassifier, Network
from fastmlp.examples import quick

plt.style.use("fastmlp.examples.lessons")
warnings.simplefilter("ignore", ConvergenceWarning)  # all have the same number of epochs, on purpose

X, y = load_digits(return_X_y=True)
X = (X / 16).astype(np.float32)
X_train, X_test, y_train, y_test = train_test_split(X, y, stratify=y, random_state=0)

DEPTH = 152  # layers of weights; the last one is the output layer
HIDDEN = (32,) * (DEPTH - 1)
KINDS = {
    "logistic": {"activation": "logistic"},
    "relu": {},
    "relu, He's weights": {"initialization": "he_normal"},
    "relu, residual": {"residual": True},
    "relu, normalised": {"normalization": "layer_norm"},
    "relu, residual + normalised": {"residual": True, "normalization": "layer_norm"},
}
COLORS = dict(zip(KINDS, ["#CC79A7", "#E69F00", "#D55E00", "#56B4E9", "#009E73", "#0072B2"], strict=True))

# %%
# Before the first step
# ---------------------
# Every layer needs two things. On the way back, the **gradient** must arrive. Backpropagation multiplies by the weights
# and the slope of each layer. 152 factors a little below 1 leave nothing: the gradient *vanishes*. 152 factors a little
# above 1 make a huge number: it *explodes*. On the way forth, **the difference between the images** must arrive. A
# layer that answers all digits alike cannot tell them apart, nor can any layer above it.
#
# So we measure both in each layer. First, the length of the gradient of its weights. Second, how much the directions of
# its answers differ: their standard deviation over the images, 0 if all point the same way (1e-14 is rounding).

gradients, differences = {}, {}
layers = [*range(1, DEPTH, 10), DEPTH - 1]
for kind, settings in KINDS.items():
    net = Network([64, *HIDDEN, 10], loss="log_loss", random_state=0, **{"activation": "relu", **settings})
    gradients[kind] = np.array([np.linalg.norm(gradient) for gradient in net.gradient(X_train, y_train)[0]])
    answers = [net.hidden(X_train, layer) for layer in layers]
    directions = [a / np.maximum(np.linalg.norm(a, axis=1, keepdims=True), 1e-300) for a in answers]
    differences[kind] = np.array([np.sqrt(a.var(axis=0).sum()) for a in directions])

print(f"{'':<28}{'gradient in layer 1':>20}{'layer 76':>10}{'layer 152':>11}{'difference in layer 151':>25}")
for kind, lengths in gradients.items():
    print(f"{kind:<28}{lengths[0]:>20.0e}{lengths[75]:>10.0e}{lengths[151]:>11.0e}{differences[kind][-1]:>25.0e}")

# %%
# Only one network has both
# -------------------------
# With logistic units the gradient is lost after a few layers, as their slope is at most 1/4. Plain relus lose half of
# what passes. He's larger weights (`He et al. 2015 <https://arxiv.org/abs/1502.01852>`_) make up for that half, and the
# gradient lives; but the images still grow alike. A residual connection adds to each layer what enters it: nothing is
# lost, but everything adds up, and explodes. Normalisation keeps the size of the answers, but not the difference. Both
# together keep the size *and* the difference.

fig, (back, forth) = plt.subplots(1, 2, figsize=(9, 4.2))
for kind, color in COLORS.items():
    back.plot(np.arange(1, DEPTH + 1), gradients[kind], color=color, label=kind)
    forth.plot(layers, differences[kind], color=color)
back.axhspan(1e-60, 1e-45, color="#e8ebee", lw=0)
back.text(3, 1e-46, "0 in float32", va="top", color="#6f7d89", fontsize=9)
back.set(yscale="log", ylim=(1e-52, 1e15), title="Back: length of the gradient")
forth.set(yscale="log", title="Forth: difference between images")
for ax in (back, forth):
    ax.set(xlabel="layer", xticks=[1, 50, 100, 152])
    ax.grid(axis="y")
fig.legend(loc="outside lower center", ncols=3, fontsize=9)

# %%
# Training
# --------
# All are trained alike: AdamW, the same batches, a cosine schedule; of two learning rates the better one is shown.

EPOCHS = 2 if quick() else 30


def fit(kind, rate, epochs):
    model = MLPClassifier(
        HIDDEN, solver="adamw", learning_rate="cosine", learning_rate_init=rate, batch_size=64, max_iter=epochs,
        n_iter_no_change=np.inf, random_state=0, **KINDS[kind],
    )  # fmt: skip
    return model.fit(X_train, y_train)


RATES = [0.003] if quick() else [0.001, 0.003]
fits = {kind: min((fit(kind, rate, EPOCHS) for rate in RATES), key=lambda model: model.loss_) for kind in KINDS}

print(f"{'':<28}{'loss':>8}{'test digits read correctly':>30}")
for kind, model in fits.items():
    print(f"{kind:<28}{model.loss_:>8.3f}{model.score(X_test, y_test):>30.1%}")
print(f"{'guessing':<28}{np.log(10):>8.3f}{0.1:>30.1%}")
shallow = MLPClassifier((32,), learning_rate_init=0.003, batch_size=64, max_iter=EPOCHS, random_state=0)
shallow.fit(X_train, y_train)
print(f"{'one hidden layer of 32':<28}{shallow.loss_:>8.3f}{shallow.score(X_test, y_test):>30.1%}")

# %%
# Only one of them learns
# -----------------------
# Four lines lie on each other, at the loss of guessing. The network that has kept both learns all of its digits. On
# these it is no better than a single hidden layer: they do not need depth. But now depth can be had where it is needed.

fig, ax = plt.subplots(figsize=(8, 4))
for width, (kind, color) in zip((11, 8, 5, 1.8, 2, 1.8), COLORS.items(), strict=True):
    curve = fits[kind].loss_curve_
    ax.plot(np.arange(1, len(curve) + 1), curve, color=color, lw=width, label=kind, solid_capstyle="butt")
ax.set(yscale="log", xlabel="epoch", ylabel="training loss", title="Training 152 layers")
ax.yaxis.set_major_formatter("{x:g}")
ax.grid(axis="y")
ax.legend(fontsize=9, loc="lower left")
