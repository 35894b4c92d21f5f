"""
5. Pick the best: gradient descent
==================================

The third step of deep learning. The loss is a surface over the parameters; we look for its deepest point. Nobody can
see the whole surface. But at each point we can compute the slope, and walk downhill: that is gradient descent.

Here are such walks on real surfaces: one with two parameters, which can be drawn whole, and one with 4,282.
"""

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_iris

from fastmlp import Network
from fastmlp.examples import quick
from fastmlp.examples.data import semeion

plt.style.use("fastmlp.examples.lessons")

# %%
# Walking downhill
# ----------------
# One neuron on iris flowers: two parameters, so the surface can be drawn. Each step goes against the gradient, as far
# as the learning rate says. A small rate creeps, a good one arrives, one that is too large jumps from wall to wall.
iris = load_iris()
rows = iris.target > 0
x, label = iris.data[rows][:, 2:3] - iris.data[rows][:, 2].mean(), iris.target[rows] == 2
neuron = Network([1, 1], loss="binary_log_loss")
START, STEPS = [-3.0, 3.0], 40
walks = {}
for rate in (0.3, 5, 14):
    neuron.parameters = START
    walk = [neuron.parameters.copy()]
    for _ in range(STEPS):
        neuron.parameters -= rate * neuron.loss_and_gradient(x, label)[1]
        walk.append(neuron.parameters.copy())
    walks[rate] = np.array(walk)


def loss_at(network, parameters, X, y):
    network.parameters = parameters
    return network.loss(X, y)


weights, biases = np.linspace(-6, 13, 80), np.linspace(-5, 5, 80)
surface = [[loss_at(neuron, [w, b], x, label) for w in weights] for b in biases]
print(f"{'learning rate':>13} {'loss after ' + str(STEPS) + ' steps':>22}")
figure, axes = plt.subplots(1, 3, figsize=(9, 3.3), sharey=True)
for ax, (rate, walk) in zip(axes, walks.items(), strict=True):
    print(f"{rate:>13} {loss_at(neuron, walk[-1], x, label):>22.4f}")
    ax.contourf(weights, biases, surface, np.geomspace(0.1, 20, 24), cmap="cividis", norm="log", extend="both")
    ax.plot(*walk.T, "o-", color="white", markersize=3, linewidth=1)
    ax.plot(*walk[0], "o", color="#D55E00", markersize=8)
    ax.set(title=f"learning rate {rate}", xlabel="weight", xlim=(-6, 13), ylim=(-5, 5))
axes[0].set_ylabel("bias")

# %%
# A real network
# --------------
# The digits network 256 - 16 - 10 has 4,282 parameters: a surface in as many dimensions. We cut it with the plane in
# which most of its training lies (the two main directions of the path) and colour the plane by the loss.
X, y = semeion()
net = Network([256, 16, 10], activation="tanh", loss="log_loss", dtype="float32", random_state=1)
path = [net.parameters.copy()]
for _ in range(10 if quick() else 150):
    net.parameters -= 0.5 * net.loss_and_gradient(X, y)[1]
    path.append(net.parameters.copy())
path = np.array(path)
end = path[-1]
directions = np.linalg.svd(path - end, full_matrices=False)[2][:2]
steps = (path - end) @ directions.T
low, high = steps.min(axis=0), steps.max(axis=0)
spans = [
    np.linspace(a - 0.35 * (b - a), b + 0.35 * (b - a), 15 if quick() else 50) for a, b in zip(low, high, strict=True)
]
cut = [[loss_at(net, end + a * directions[0] + b * directions[1], X, y) for a in spans[0]] for b in spans[1]]
print(f"loss at the start {loss_at(net, path[0], X, y):.3f}, after {len(path) - 1} steps {loss_at(net, end, X, y):.3f}")
figure, ax = plt.subplots(figsize=(7, 4.2))
image = ax.contourf(*spans, cut, 25, cmap="cividis")
ax.plot(*steps.T, "o-", color="white", markersize=2.5, linewidth=1)
ax.plot(*steps[0], "o", color="#D55E00", markersize=9)
ax.annotate("start", steps[0], (8, 6), textcoords="offset points", color="white", weight="bold")
ax.set(
    xlabel="first direction", ylabel="second direction", title="Gradient descent in 4,282 dimensions, cut by a plane"
)
figure.colorbar(image, label="loss", ticks=plt.MaxNLocator(6))
