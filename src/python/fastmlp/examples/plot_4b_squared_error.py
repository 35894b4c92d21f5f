"""
4. Goodness of a function: why not the squared error
====================================================

How far are confidences from their targets? Most people would first think of the squared error. For classes it is a poor
choice, and a picture shows why: its surface is flat where the function is worst. There, gradient descent does not know
where to go. The cross-entropy is steep exactly there.
"""

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_iris

from fastmlp import Network
from fastmlp.examples import quick
from fastmlp.examples.data import semeion

plt.style.use("fastmlp.examples.lessons")
BLUE, ORANGE = "#0072B2", "#D55E00"

# %%
# Two surfaces
# ------------
# One neuron, two parameters: its loss is a surface. On the left is the cross-entropy, on the right the squared error of
# the same confidences. The left surface is steep wherever the neuron is wrong: any start rolls down to the minimum. The
# right one is flat exactly where the neuron is most wrong: there, nothing tells which way is down.
iris = load_iris()
rows = iris.target > 0
x, label = iris.data[rows][:, 2:3] - iris.data[rows][:, 2].mean(), iris.target[rows] == 2
neurons = {
    "cross-entropy": Network([1, 1], loss="binary_log_loss"),
    "squared error": Network([1, 1], loss="squared_error", output_activation="logistic"),
}
grid = np.linspace(-12, 12, 21 if quick() else 81)
surfaces, slopes = {}, {}
for name, neuron in neurons.items():
    values = []
    for bias in grid:
        for weight in grid:
            neuron.parameters = [weight, bias]
            values.append(neuron.loss(x, label))
    surfaces[name] = np.reshape(values, (len(grid), -1))
    neuron.parameters = [-12, 12]
    slopes[name] = np.linalg.norm(neuron.loss_and_gradient(x, label)[1])
    print(f"{name}: slope {slopes[name]:.1e} where weight is -12 and bias 12")

figure, axes = plt.subplots(1, 2, figsize=(9, 4.2), subplot_kw={"projection": "3d"})
for ax, (name, surface) in zip(axes, surfaces.items(), strict=True):
    ax.plot_surface(*np.meshgrid(grid, grid), surface, cmap="cividis", rcount=80, ccount=80, linewidth=0)
    ax.set(xlabel="weight", ylabel="bias", zlabel="loss", title=name, xticks=[-10, 0, 10], yticks=[-10, 0, 10])
    ax.locator_params(axis="z", nbins=4)
    ax.view_init(elev=30, azim=-60)

# %%
# The same as numbers
# -------------------
# For one example of class 1 the derivative of the loss by the neuron's sum *z* is ``p - 1`` for the cross-entropy, and
# that times ``p (1 - p)`` for the squared error. When the neuron is sure and wrong (*z* far below 0) the first is -1,
# the second almost 0.
sums = np.linspace(-10, 10, 201)
derivatives = {name: [] for name in neurons}
for name, neuron in neurons.items():
    for z in sums:
        neuron.parameters = [0, z]  # the weight is 0: the bias alone is the sum
        derivatives[name].append(-neuron.gradient([0.0], [1.0])[1][0][0])
print(f"{'z':>5} {'confidence':>12} {'cross-entropy':>15} {'squared error':>15}")
for z in (-10, -5, -2, 0, 2, 5):
    at = int(np.argmin(np.abs(sums - z)))
    print(f"{z:>5} {1 / (1 + np.exp(-z)):>12.5f}", *(f"{-values[at]:>15.5f}" for values in derivatives.values()))

figure, ax = plt.subplots(figsize=(8, 2.8))
for (name, values), color in zip(derivatives.items(), (BLUE, ORANGE), strict=True):
    ax.plot(sums, values, color=color)
    ax.text(-9.8, values[0] + 0.04, name, color=color, weight="bold")
ax.set(
    xlabel="sum z of the neuron; the right answer is 1",
    ylabel="push upwards",
    ylim=(0, 1.15),
    title="How hard an example pushes: minus the derivative of its loss",
)

# %%
# A race
# ------
# Ten sigmoid neurons, one for each digit, learn by gradient descent from a bad start: all of them answer "yes, surely"
# (their biases are 5). Each loss gets the best of six learning rates. The cross-entropy leaves at once; the squared
# error has almost no gradient to follow.
X, y = semeion()
targets = np.eye(10)[y]
steps = 10 if quick() else 100
races = {}
for name, loss in (("cross-entropy", "binary_log_loss"), ("squared error", "squared_error")):
    for rate in (0.1, 0.3, 1, 3, 10, 30):
        racer = Network(
            [256, 10], loss=loss, random_state=0, output_activation="logistic" if loss == "squared_error" else None
        )
        racer.biases = [[5] * 10]
        accuracy = []
        for _ in range(steps):
            racer.parameters -= rate * racer.loss_and_gradient(X, targets)[1]
            accuracy.append(np.mean(racer(X).argmax(axis=1) == y))
        if name not in races or np.mean(accuracy) > np.mean(races[name][1]):
            races[name] = rate, accuracy
figure, ax = plt.subplots(figsize=(8, 3))
for (name, (rate, accuracy)), color in zip(races.items(), (BLUE, ORANGE), strict=True):
    ax.plot(np.arange(1, steps + 1), accuracy, color=color, label=f"{name}, rate {rate}")
    print(f"{name}: {accuracy[-1]:.1%} of the images right after {steps} steps")
ax.set(xlabel="step of gradient descent", ylabel="share read correctly", ylim=(0, 1), title="From a bad start")
ax.legend(loc="lower right")
