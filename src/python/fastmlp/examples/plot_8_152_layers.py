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
LOOKS = dict(
    zip(
        KINDS,
        [("#CC79A7", "--"), ("#E69F00", "--"), ("#D55E00", "--"), ("#56B4E9", "-"), ("#009E73", "-"), ("#0072B2", "-")],
        strict=True,
    )
)

# %%
# Before the first step
# ---------------------
# Training needs two things from every layer. On the way back, the **gradient** must arrive. Backpropagation multiplies
# by the weights and the slope of each layer: 152 factors a little below 1 leave nothing, the gradient *vanishes*; 152
# factors a little above 1 make a huge number, it *explodes*. On the way forth, **the difference between the images**
# must arrive. A layer that answers all digits alike cannot tell them apart, and no layer above it can.
#
# So we measure both in each layer: the length of the gradient of its weights; and how much of its answers depends on
# the image, that is, their standard deviation over the images, as a share of their size. In float32, with which we
# train below, everything under 1e-45 is 0.

gradients, differences = {}, {}
layers = [*range(1, DEPTH, 10), DEPTH - 1]
for kind, settings in KINDS.items():
    net = Network([64, *HIDDEN, 10], loss="log_loss", random_state=0, **{"activation": "relu", **settings})
    gradients[kind] = np.array([np.linalg.norm(gradient) for gradient in net.gradient(X_train, y_train)[0]])
    answers = [net.hidden(X_train, layer) for layer in layers]
    differences[kind] = np.array([np.sqrt(a.var(axis=0).sum() / (a**2).mean(axis=0).sum()) for a in answers])

print(f"{'':<28}{'gradient in layer 1':>20}{'layer 76':>10}{'layer 152':>11}{'what differs in layer 151':>27}")
for kind, lengths in gradients.items():
    print(f"{kind:<28}{lengths[0]:>20.0e}{lengths[75]:>10.0e}{lengths[151]:>11.0e}{differences[kind][-1]:>27.0e}")

# %%
# In the picture, the upper end of each panel is the healthy one, except that a gradient can be too large.

fig, (back, forth) = plt.subplots(1, 2, figsize=(9, 4.2))
for kind, (color, style) in LOOKS.items():
    back.plot(np.arange(1, DEPTH + 1), gradients[kind], style, color=color, label=kind)
    forth.plot(layers, differences[kind], style, color=color)
back.set(yscale="log", ylim=(1e-50, 1e15), title="Back: length of the gradient")
forth.set(yscale="log", title="Forth: what differs from image to image")
for ax in (back, forth):
    ax.set(xlabel="layer", xticks=[1, 50, 100, 152])
    ax.grid(axis="y")
fig.legend(loc="outside lower center", ncols=3, fontsize=9)

# %%
# Training
# --------
# All are trained alike: AdamW, the same batches, a cosine schedule; of two learning rates the better one is shown.

epochs = 2 if quick() else 30
fits = {}
for kind, settings in KINDS.items():
    for rate in [0.003] if quick() else [0.001, 0.003]:
        model = MLPClassifier(
            HIDDEN, solver="adamw", learning_rate="cosine", learning_rate_init=rate, batch_size=64, max_iter=epochs,
            n_iter_no_change=np.inf, random_state=0, **settings,
        ).fit(X_train, y_train)  # fmt: skip
        if kind not in fits or model.loss_ < fits[kind].loss_:
            fits[kind] = model

print(f"{'':<28}{'loss':>8}{'test digits read correctly':>30}")
for kind, model in fits.items():
    print(f"{kind:<28}{model.loss_:>8.3f}{model.score(X_test, y_test):>30.1%}")
print(f"{'guessing':<28}{np.log(10):>8.3f}{0.1:>30.1%}")
shallow = MLPClassifier((32,), learning_rate_init=0.003, batch_size=64, max_iter=epochs, random_state=0)
shallow.fit(X_train, y_train)
print(f"{'one hidden layer of 32':<28}{shallow.loss_:>8.3f}{shallow.score(X_test, y_test):>30.1%}")

# %%
# Only one of them learns:

fig, ax = plt.subplots(figsize=(8, 4))
for kind, (color, style) in LOOKS.items():
    curve = fits[kind].loss_curve_
    ax.plot(np.arange(1, len(curve) + 1), curve, style, color=color, label=kind)
ax.axhline(np.log(10), color="#6f7d89", lw=0.8, zorder=0)
ax.set(yscale="log", xlabel="epoch", title="Training loss of 152 layers")
ax.legend(fontsize=9)
