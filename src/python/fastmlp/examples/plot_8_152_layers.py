"""
8. 152 layers
=============

In 2015 a network of 152 layers won the ImageNet challenge (`He et al. 2015 <https://arxiv.org/abs/1512.03385>`_). Why
had nobody stacked so many before? Because they could not be trained. This lesson shows why, and the two ideas that
changed it: **normalisation** and the **residual** connection.

We stack 152 layers of weights on a simple task, the 8 x 8 digits of scikit-learn, in four ways. The layers are narrow:
what counts here is only how many there are.
"""

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from fastmlp import MLPClassifier, Network
from fastmlp.examples import quick

plt.style.use("fastmlp.examples.lessons")

X, y = load_digits(return_X_y=True)
X = (X / 16).astype(np.float32)
X_train, X_test, y_train, y_test = train_test_split(X, y, stratify=y, random_state=0)

DEPTH = 152  # layers of weights; the last one is the output layer
HIDDEN = [32] * (DEPTH - 1)
KINDS = {
    "logistic": {"activation": "logistic"},
    "relu": {"activation": "relu"},
    "relu, He's initial weights": {"activation": "relu", "initialization": "he_normal"},
    "relu, residual and normalised": {"activation": "relu", "residual": True, "normalization": "layer_norm"},
}
LOOKS = dict(zip(KINDS, [("#CC79A7", "-."), ("#E69F00", ":"), ("#D55E00", "--"), ("#0072B2", "-")], strict=True))

# %%
# Before the first step: the gradient
# -----------------------------------
# Training follows the gradient. Backpropagation computes it from the last layer down to the first, and multiplies on its
# way by the weights and by the slope of each layer. 152 factors a little below 1 make almost nothing: the gradient
# *vanishes*. 152 factors a little above 1 make a huge number: it *explodes*.
#
# The slope of the logistic function is at most 1/4. Random weights of the usual size do not make up for it. A relu has a
# slope of 0 or 1, and on average loses half of what passes. He's weights are larger by just that much: their variance is
# 2 / fan_in (`He et al. 2015 <https://arxiv.org/abs/1502.01852>`_).

gradients = {}
for kind, settings in KINDS.items():
    net = Network([64, *HIDDEN, 10], loss="log_loss", random_state=0, **settings)
    weight_gradients, _ = net.gradient(X_train, y_train)
    gradients[kind] = np.array([np.linalg.norm(gradient) for gradient in weight_gradients])

print(f"{'size of the gradient in layer':<32}{1:>10}{50:>10}{100:>10}{152:>10}")
for kind, norms in gradients.items():
    print(f"{kind:<32}" + "".join(f"{norms[layer - 1]:>10.0e}" for layer in (1, 50, 100, 152)))

# %%
# The same numbers, layer by layer:

fig, ax = plt.subplots(figsize=(8, 4))
for kind, norms in gradients.items():
    color, style = LOOKS[kind]
    ax.plot(np.arange(1, DEPTH + 1), norms, style, color=color, label=kind)
ax.set(yscale="log", xlabel="layer", ylabel="length of the gradient", title="Before the first step")
ax.legend()

# %%
# Training
# --------
# All four are trained alike: the same batches, optimizer and schedule, and for each the better of three learning rates.

epochs = 2 if quick() else 20
fits = {}
for kind, settings in KINDS.items():
    for rate in [0.003] if quick() else [0.0003, 0.001, 0.003]:
        model = MLPClassifier(
            HIDDEN, solver="adamw", learning_rate="cosine", learning_rate_init=rate, batch_size=64, max_iter=epochs,
            n_iter_no_change=np.inf, random_state=0, **settings,
        )  # fmt: skip
        model.fit(X_train, y_train)
        if kind not in fits or model.loss_ < fits[kind].loss_:
            fits[kind] = model
