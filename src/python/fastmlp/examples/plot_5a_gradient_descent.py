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
from sklearn.preprocessing import StandardScaler

from fastmlp import Network
from fastmlp.examples import quick
from fastmlp.examples.data import semeion

plt.style.use("fastmlp.examples.lessons")

# %%
# Walking downhill
# ----------------
# One neuron on iris flowers, its loss with a small L2 penalty: two parameters, so the surface can be drawn. Each step
# goes against the gradient, as far as the learning rate says. A small rate creeps, a good one arrives, one that is too
# large jumps from wall to wall.
iris = load_iris()
rows = iris.target > 0
x, label = StandardScaler().fit_transform(iris.data[rows][:, 2:3]), iris.target[rows] == 2
neuron = Network([1, 1], loss="binary_log_loss")
START, STEPS = [-4.0, 4.5], 25
walks = {}
for rate in (0.3, 5, 21):
    neuron.parameters = START
    walk = [neuron.parameters.copy()]
    for _ in range(STEPS):
        neuron.parameters -= rate * neuron.loss_and_gradient(x, label, alpha=2)[1]
        walk.append(neuron.parameters.copy())
    walks[rate] = np.array(walk)


def loss_at(network, parameters, X, y, alpha=0):
    network.parameters = parameters
    return network.loss(X, y, alpha=alpha)


weights, biases = np.linspace(-6, 12, 80), np.linspace(-6, 6, 80)
surface = np.array([[loss_at(neuron, [w, b], x, label, alpha=2) for w in weights] for b in biases])
ends = {rate: loss_at(neuron, walk[-1], x, label, alpha=2) for rate, walk in walks.items()}
print(f"{'learning rate':>13} {'loss after ' + str(STEPS) + ' steps':>22}")
for rate, end in ends.items():
    print(f"{rate:>13} {end:>22.4f}")

figure, axes = plt.subplots(1, 3, figsize=(9, 3.3), sharey=True)
for ax, (rate, walk) in zip(axes, walks.items(), strict=True):
    levels = np.geomspace(0.98 * surface.min(), surface.max(), 22)
    ax.contourf(weights, biases, surface, levels, cmap="cividis", norm="log")
    ax.plot(*walk.T, "o-", color="white", markersize=3, linewidth=1)
    ax.plot(*walk[0], "o", color="#D55E00", markersize=8)
    ax.set(title=f"learning rate {rate}", xlabel="weight", xlim=(-6, 12), ylim=(-6, 6))
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
