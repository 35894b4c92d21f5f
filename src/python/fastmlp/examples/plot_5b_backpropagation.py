"""
5. Pick the best: backpropagation
=================================

Gradient descent needs the derivative of the loss by each parameter. Backpropagation finds all of them in one sweep from
the output back to the input; it is the chain rule, and nothing more.

Are they right? Each can be checked: move one parameter a little up and down, and see how the loss changes. That is a
central difference. And PyTorch, JAX and TensorFlow compute the derivatives in their own way; those that are installed
are asked.
"""

import os
import statistics
import time
from importlib.util import find_spec

import matplotlib.pyplot as plt
import numpy as np

from fastmlp import Network
from fastmlp.examples import quick

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # TensorFlow greets otherwise
plt.style.use("fastmlp.examples.lessons")

# %%
# One network, its derivatives in up to five ways
# -----------------------------------------------
rng = np.random.RandomState(0)
checked = Network([6, 8, 7, 4], activation="tanh", loss="log_loss", random_state=0)
inputs, classes = rng.normal(size=(30, 6)), rng.randint(4, size=30)
start = checked.parameters.copy()
backpropagation = checked.loss_and_gradient(inputs, classes)[1]


def loss_at(parameters):
    checked.parameters = parameters
    return checked.loss(inputs, classes)


def central_differences():
    moves = 1e-5 * np.eye(len(start))
    return [(loss_at(start + move) - loss_at(start - move)) / 2e-5 for move in moves]


# For the others: matrices (fan_in, fan_out), then biases, and the network in any library's operations.
parts = [weights.T.copy() for weights in checked.weights] + [biases.copy() for biases in checked.biases]


def scores(rows, parts, tanh):
    for layer in range(3):
        rows = rows @ parts[layer] + parts[3 + layer]
        rows = tanh(rows) if layer < 2 else rows
    return rows


def torch():
    import torch

    tensors = [torch.tensor(part, requires_grad=True) for part in parts]
    output = scores(torch.tensor(inputs), tensors, torch.tanh)
    torch.nn.functional.cross_entropy(output, torch.tensor(classes)).backward()
    return [tensor.grad for tensor in tensors]


def jax():
    import jax

    jax.config.update("jax_enable_x64", True)

    def loss(parts):
        return -jax.nn.log_softmax(scores(inputs, parts, jax.numpy.tanh))[np.arange(30), classes].mean()

    return jax.grad(loss)(parts)


def tensorflow():
    import tensorflow as tf

    variables = [tf.Variable(part) for part in parts]
    with tf.GradientTape() as tape:
        output = scores(tf.constant(inputs), variables, tf.tanh)
        loss = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(classes, output))
    return tape.gradient(loss, variables)


libraries = (torch,) if quick() else (torch, jax, tensorflow)
ways = [central_differences] + [library for library in libraries if find_spec(library.__name__)]
gradients = {way.__name__: np.concatenate([np.ravel(part) for part in way()]) for way in ways}
differences = {}
print(f"{'backpropagation against':<24}{'largest difference / largest derivative':>42}")
for name, gradient in gradients.items():
    differences[name] = np.abs(gradient - backpropagation).max() / np.abs(backpropagation).max()
    print(f"{name.replace('_', ' '):<24}{differences[name]:>42.1e}")

figure, (ax, errors) = plt.subplots(1, 2, figsize=(9, 3.6), width_ratios=[1, 1.2])
ax.plot(backpropagation, gradients["central_differences"], "o", markersize=4, alpha=0.6)
ax.set(xlabel="by backpropagation", ylabel="by central differences", title=f"{len(start)} derivatives")
for place, gradient in enumerate(gradients.values()):
    size = np.maximum(np.abs(gradient - backpropagation), 1e-18)  # equal to the last bit: at the left edge
    errors.plot(size, place + rng.uniform(-0.2, 0.2, len(size)), "o", markersize=3, alpha=0.5)
errors.set(xscale="log", xlim=(5e-19, 1e-8), xlabel="size of the difference (logarithmic)", title="Differences")
errors.set_yticks(range(len(gradients)), [name.replace("_", "\n") for name in gradients])
errors.invert_yaxis()

# %%
# Why it is worth the trouble
# ---------------------------
# Central differences need two losses for each parameter: twice as many parameters, twice as many losses. One sweep of
# backpropagation costs about as much as a few losses, however many parameters there are.
widths = (8, 16) if quick() else (8, 16, 32, 64, 128, 256, 512)
rows, labels = rng.normal(size=(200, 20)), rng.randint(4, size=200)
sizes, one_loss, one_sweep = [], [], []
for width in widths:
    wide = Network([20, width, width, 4], activation="tanh", loss="log_loss", random_state=0, n_jobs=1)
    times = {wide.forward: [], wide.loss_and_gradient: []}
    for _ in range(15):
        for call, arguments in ((wide.forward, (rows,)), (wide.loss_and_gradient, (rows, labels))):
            begin = time.perf_counter()
            call(*arguments)
            times[call].append(time.perf_counter() - begin)
    sizes.append(wide.n_parameters)
    one_loss.append(statistics.median(times[wide.forward]))
    one_sweep.append(statistics.median(times[wide.loss_and_gradient]))
by_differences = 2 * np.array(sizes) * one_loss
print(f"{'parameters':>10} {'backpropagation':>17} {'central differences':>21} {'ratio':>9}")
for size, sweep, slow in zip(sizes, one_sweep, by_differences, strict=True):
    print(f"{size:>10,} {1000 * sweep:>14.2f} ms {slow:>19.2f} s {slow / sweep:>9,.0f}")

figure, ax = plt.subplots(figsize=(8, 3.2))
ax.loglog(sizes, by_differences, "o-", color="#D55E00")
ax.loglog(sizes, one_sweep, "o-", color="#0072B2")
name = "central differences: one loss, measured,\ntimes twice the parameters"
ax.text(sizes[0], by_differences[-1], name, color="#D55E00", va="top")
ax.text(sizes[-1], one_sweep[0], "backpropagation", color="#0072B2", ha="right")
ax.set(xlabel="parameters", ylabel="seconds", title="Time for all derivatives")
ax.margins(y=0.15)
