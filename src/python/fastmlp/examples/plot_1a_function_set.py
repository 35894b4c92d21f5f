"""
1. A set of functions
=====================

Deep learning takes three steps: define a set of functions, measure how good a function is, pick the best one. This is
the first step. A neural network is a function of its input. Its weights and biases are numbers that we may choose, and
with each choice it is another function. So the structure alone, the layers and how many neurons they have, defines a
whole *set* of functions.

Three claims are shown here: the numbers that a small network computes, how many functions one structure holds, and that
a single neuron is logistic regression.
"""

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.patheffects import withStroke
from sklearn.datasets import load_iris
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from fastmlp import MLPClassifier, Network, plot
from fastmlp.examples import quick

plt.style.use("fastmlp.examples.lessons")

# %%
# A network by hand
# -----------------
# Two inputs, then three layers of two neurons. Each neuron multiplies its inputs by its weights, adds its bias and
# passes the sum through the sigmoid function ``1 / (1 + exp(-z))``. Row *i* of a weight matrix belongs to neuron *i*.
net = Network([2, 2, 2, 2], activation="logistic")
net.weights = [[[1, -2], [-1, 1]], [[2, -1], [-2, -1]], [[3, -1], [-1, 4]]]
net.biases = [[1, 0], [0, 0], [-2, 2]]

inputs = np.array([[1, -1], [0, 0]])
layers = [net.hidden(inputs, layer) for layer in range(3)] + [net(inputs)]
print(f"{'input':>10} {'layer 1':>14} {'layer 2':>14} {'output':>14}")
for i in range(len(inputs)):
    cells = [f"({layer[i, 0]:.2f}, {layer[i, 1]:.2f})" for layer in layers[1:]]
    print(f"{tuple(inputs[i].tolist())!s:>10}", *(f"{cell:>14}" for cell in cells))

# %%
# The same as pictures: blue weights are positive, orange ones negative, wide ones large. Beside each neuron stands its
# answer. Another input, other answers; the function is the same.
figure, axes = plt.subplots(1, 2, figsize=(9, 3.1))
figure.get_layout_engine().set(wspace=0.12)
for i, ax in enumerate(axes):
    plot.network(net, ax)
    ax.set_title(f"input ({inputs[i, 0]}, {inputs[i, 1]})", pad=24)
    for number, layer in enumerate(layers):
        for neuron in range(2):  # plot.network draws the layers 3 apart, the neurons 1 apart
            ax.annotate(
                f"{layer[i, neuron]:.3g}" if number == 0 else f"{layer[i, neuron]:.2f}",
                (3 * number, 0.5 - neuron),
                (0, 12),
                textcoords="offset points",
                ha="center",
                weight="bold",
                path_effects=[withStroke(linewidth=3, foreground="white")],
            )

# %%
# Other parameters, another function
# ----------------------------------
# Eight times the same structure, 2 - 8 - 8 - 1, each time with new random parameters. What is drawn is the output over
# the plane of the two inputs. Learning means: look in this set for the function that does what we want.
grid = np.linspace(-4, 4, 40 if quick() else 200)
plane = np.stack(np.meshgrid(grid, grid), axis=-1).reshape(-1, 2)
figure, axes = plt.subplots(2, 4, figsize=(9, 4.4), sharex=True, sharey=True)
for seed, ax in enumerate(axes.flat):
    function = Network([2, 8, 8, 1], activation="tanh")
    function.parameters = np.random.RandomState(seed).normal(scale=1.3, size=function.n_parameters)
    image = ax.pcolormesh(grid, grid, function(plane).reshape(len(grid), -1), cmap="cividis", vmin=0, vmax=1)
    ax.set(xticks=[-4, 0, 4], yticks=[-4, 0, 4], aspect="equal")
    ax.set_title(f"parameters {seed + 1}", weight="normal", fontsize=9)
figure.colorbar(image, ax=axes, label="output", ticks=[0, 0.5, 1], aspect=30)

# %%
# One neuron is logistic regression
# ---------------------------------
# Without hidden layers a single neuron is left: ``sigmoid(w x + b)``. That is logistic regression. Both minimise the
# same loss with the same penalty (``alpha = 1 / C``), so they must find the same weights, and they do.
iris = load_iris()
rows = iris.target > 0
X, y = StandardScaler().fit_transform(iris.data[rows][:, 2:]), iris.target[rows] == 2
neuron = MLPClassifier((), solver="lbfgs", alpha=1.0, tol=1e-8, max_iter=1000, random_state=0).fit(X, y)
regression = LogisticRegression(C=1.0, tol=1e-8, max_iter=1000).fit(X, y)
solutions = {
    "MLPClassifier": [*neuron.coefs_[0][:, 0], neuron.intercepts_[0][0]],
    "LogisticRegression": [*regression.coef_[0], regression.intercept_[0]],
}
print(f"{'':<20} {'w1':>10} {'w2':>10} {'b':>10}")
for name, solution in solutions.items():
    print(f"{name:<20}", *(f"{value:>10.4f}" for value in solution))

grid = np.linspace(-2.6, 2.6, 200)
plane = np.stack(np.meshgrid(grid, grid), axis=-1).reshape(-1, 2)
figure, ax = plt.subplots(figsize=(6, 4.6))
image = ax.pcolormesh(grid, grid, neuron.predict_proba(plane)[:, 1].reshape(200, 200), cmap="cividis", alpha=0.85)
for model, style in ((neuron, {"colors": "white", "linewidths": 5}), (regression, {"colors": "#D55E00"})):
    ax.contour(grid, grid, model.predict_proba(plane)[:, 1].reshape(200, 200), [0.5], **style)
for label, marker, name in ((False, "o", "versicolor"), (True, "^", "virginica")):
    ax.scatter(
        *X[y == label].T,
        marker=marker,
        s=34,
        color="#F0E442" if label else "#56B4E9",
        edgecolor="#22303c",
        linewidth=0.7,
        label=name,
    )
ax.plot([], [], color="0.75", linewidth=5, label="neuron: 0.5")
ax.plot([], [], color="#D55E00", label="regression: 0.5")
ax.set(xlabel="petal length (standardised)", ylabel="petal width (standardised)", title="Two libraries, one line")
ax.legend(loc="upper left", frameon=True, framealpha=0.92, edgecolor="none")
figure.colorbar(image, label="probability of virginica", ticks=[0.1, 0.5, 0.9])
