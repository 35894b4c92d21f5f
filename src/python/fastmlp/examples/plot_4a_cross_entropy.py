"""
4. Goodness of a function: cross-entropy
========================================

The second step of deep learning. A set of functions is of no use until we can say which of two functions is better. A
*loss* says it with one number, measured on examples whose answers we know: the smaller, the better.

For classes the usual loss is the cross-entropy. Here it is computed for one example and for all of them.
"""

import matplotlib.pyplot as plt
import numpy as np

from fastmlp import Network
from fastmlp.examples import quick
from fastmlp.examples.data import semeion

plt.style.use("fastmlp.examples.lessons")
BLUE, ORANGE = "#0072B2", "#D55E00"

# %%
# One example
# -----------
# The network looks at an image and gives ten confidences, which sum to 1. The target is 1 for the right digit and 0 for
# the nine others. Of the cross-entropy ``-sum(target * ln(confidence))`` only one term is left: minus the logarithm of
# the confidence in the right digit. A network that only guesses, 0.1 for each digit, has a loss of ln 10 = 2.30. Before
# training it is not much better, or even worse.
X, y = semeion()
net = Network([256, 30, 10], activation="tanh", loss="log_loss", random_state=0)
example = int(np.flatnonzero(y == 2)[3])
stages = {"before training": net(X[example])}
before = net.loss(X, y)
for _ in range(5 if quick() else 100):
    net.parameters -= 0.5 * net.loss_and_gradient(X, y)[1]
stages["after training"] = net(X[example])

print(f"{'':<18}{'confidence in ' + str(y[example]):>18}{'cross-entropy':>16}")
for stage, confidences in stages.items():
    print(f"{stage:<18}{confidences[y[example]]:>18.3f}{-np.log(confidences[y[example]]):>16.3f}")

figure, axes = plt.subplots(1, 3, figsize=(9, 2.7), width_ratios=[0.8, 1, 1])
axes[0].imshow(X[example].reshape(16, 16))
axes[0].set(xticks=[], yticks=[], title=f"a {y[example]}")
axes[0].spines[:].set_visible(False)
for ax, (stage, confidences) in zip(axes[1:], stages.items(), strict=True):
    ax.bar(range(10), confidences, color=[BLUE if digit == y[example] else "#b9c3cc" for digit in range(10)])
    ax.set(ylim=(0, 1.05), xticks=range(10), yticks=[0, 0.5, 1], xlabel="digit", title=stage)
    ax.text(9.4, 0.97, f"loss {-np.log(confidences[y[example]]):.3f}", ha="right", va="top", color=BLUE)
axes[1].set_ylabel("confidence")

# %%
# All examples
# ------------
# The total loss is the sum over the examples; divided by their number it is what ``Network.loss`` returns. Training
# makes it small. Most examples end near 0; each of the few that are misread counts as much as many others.
each = -np.log(net(X)[np.arange(len(y)), y])
total = each.sum()
print(f"before training: total {before * len(y):8.1f}, mean {before:.4f}")
print(f"after training:  total {total:8.1f}, mean {total / len(y):.4f}; Network.loss {net.loss(X, y):.4f}")

wrong = net(X).argmax(axis=1) != y
figure, ax = plt.subplots(figsize=(8, 2.9))
bins = np.geomspace(max(each.min(), 1e-4), each.max(), 50)
ax.hist(
    [each[~wrong], each[wrong]],
    bins,
    stacked=True,
    color=[BLUE, ORANGE],
    label=[
        f"read correctly: {each[~wrong].sum() / total:.0%} of the total loss",
        f"misread: {wrong.sum()} images, {each[wrong].sum() / total:.0%} of the total loss",
    ],
)
ax.set(xscale="log", xlabel="cross-entropy of an example (logarithmic)", ylabel="examples")
ax.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2)
