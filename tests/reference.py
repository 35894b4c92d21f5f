"""The multilayer perceptron in plain NumPy, float64: the oracle of the tests, and a page to learn the mathematics from.

1. **A set of functions.** Layer sizes ``(n_0, ..., n_L)``, weights ``W_l`` ``(n_l, n_{l+1})``, biases ``b_l``::

       a_0 = X,    z_l = a_l W_l + b_l,    a_{l+1} = f(z_l) for each hidden layer,    prediction p = link(z_{L-1})

2. **How good is one of them?** Each row has a loss; the objective is their weighted mean plus a penalty::

       J = sum_i w_i loss(y_i, p_i) / sum_i w_i  +  alpha/2 * sum of all squared weights / sum_i w_i

3. **Pick the best.** Backpropagation is the chain rule from the last layer to the first. With ``d_l = dJ/dz_l``::

       dJ/dW_l = a_l^T d_l + alpha W_l / sum w,    dJ/db_l = sum of d_l's rows,    d_{l-1} = d_l W_l^T * f'(z_{l-1})

   An optimizer walks against this gradient, one batch of rows at a time.

The entries of ``ACTIVATIONS``, ``LOSSES`` and ``OPTIMIZERS`` have the signatures of ``fastmlp._core.apply_*``.
The flat parameter buffer holds all ``W_l`` in C order, then all ``b_l``.
"""

from itertools import pairwise
from typing import NamedTuple

import numpy as np
from scipy.special import erfc, expit, softmax, xlogy

EPS = float(np.finfo(np.float64).eps)

# --- activations: z -> (value, slope), written so that no tail cancels or overflows -------------------------------

LEAK = 0.01
SELU_SCALE, SELU_ALPHA = 1.0507009873554805, 1.6732632423543772  # Klambauer et al. 2017, arXiv:1706.02515


def relu_leaking(z, leak):
    return np.where(z > 0, z, leak * z), np.where(z > 0, 1.0, leak)


def exponential_below_zero(z, scale, alpha):
    below = np.minimum(z, 0)
    return scale * np.where(z > 0, z, alpha * np.expm1(below)), scale * np.where(z > 0, 1, alpha * np.exp(below))


def softplus(z):
    return np.maximum(z, 0) + np.log1p(np.exp(-np.abs(z))), expit(z)


def gelu(z):
    """``z Phi(z)`` with the normal distribution function ``Phi`` (Hendrycks & Gimpel 2016, arXiv:1606.08415)."""
    phi, density = erfc(-z / np.sqrt(2.0)) / 2, np.exp(-z * z / 2) / np.sqrt(2 * np.pi)
    return z * phi, phi + z * density


def mish(z):
    """``z tanh(softplus(z))`` (Misra 2019, arXiv:1908.08681)."""
    # tanh(log(1 + e^z)) is e^z (e^z + 2) / (e^z (e^z + 2) + 2): for z > 0 both parts are divided by e^2z
    u = np.exp(-np.abs(z))
    up, rest = np.where(z > 0, 1 + 2 * u, u * (u + 2)), np.where(z > 0, 2 * u * u, 2)
    gate = up / (up + rest)
    return z * gate, gate + z * expit(z) * rest * (2 * up + rest) / (up + rest) ** 2


ACTIVATIONS = {
    "identity": lambda z: (z, np.ones_like(z)),
    "logistic": lambda z: (expit(z), expit(z) * expit(-z)),
    "tanh": lambda z: (np.tanh(z), 4 * expit(2 * z) * expit(-2 * z)),
    "relu": lambda z: relu_leaking(z, 0.0),
    "leaky_relu": lambda z: relu_leaking(z, LEAK),
    "elu": lambda z: exponential_below_zero(z, 1.0, 1.0),
    "selu": lambda z: exponential_below_zero(z, SELU_SCALE, SELU_ALPHA),
    "softplus": softplus,
    "gelu": gelu,
    "silu": lambda z: (z * expit(z), expit(z) * (1 + z * expit(-z))),
    "mish": mish,
}

# --- losses: (z, y) -> (predictions (n, m), losses (n,), gradient with respect to z (n, m)) -----------------------
# Each loss is paired with the link for which the gradient is "prediction minus target". As in scikit-learn, logarithms
# are taken of probabilities clipped to [eps, 1 - eps], so that a confident mistake costs a finite amount.


def log_loss(z, y, eps=EPS):
    p = softmax(z, axis=1)
    return p, -xlogy(y, np.clip(p, eps, 1 - eps)).sum(axis=1), p - y


def binary_log_loss(z, y, eps=EPS):
    p = expit(z)
    q = np.clip(p, eps, 1 - eps)
    return p, -(xlogy(y, q) + xlogy(1 - y, 1 - q)).sum(axis=1), p - y


def squared_error(z, y, eps=EPS):
    return z, 0.5 * ((z - y) ** 2).sum(axis=1), z - y


def poisson(z, y, eps=EPS):
    p = np.exp(z)
    return p, (xlogy(y, y) - y * z - y + p).sum(axis=1), p - y


LOSSES = {"log_loss": log_loss, "binary_log_loss": binary_log_loss, "squared_error": squared_error, "poisson": poisson}
MEAN_OVER_OUTPUTS = {"squared_error"}

# --- optimizers: one step in place; t counts from 1 ---------------------------------------------------------------


def sgd(hyperparameters, learning_rate, t, w, g, slots):
    """Momentum; Nesterov's variant applies it once more, looking a step ahead."""
    momentum, (velocity,) = hyperparameters["momentum"], slots
    velocity[:] = momentum * velocity - learning_rate * g
    w += momentum * velocity - learning_rate * g if hyperparameters["nesterov"] else velocity


def adam(hyperparameters, learning_rate, t, w, g, slots):
    """Steps scaled by running moments of the gradient (Kingma & Ba 2014, arXiv:1412.6980)."""
    b1, b2, (m, v) = hyperparameters["beta_1"], hyperparameters["beta_2"], slots
    m[:] = b1 * m + (1 - b1) * g
    v[:] = b2 * v + (1 - b2) * g * g
    w -= learning_rate * np.sqrt(1 - b2**t) / (1 - b1**t) * m / (np.sqrt(v) + hyperparameters["epsilon"])


def adamw(hyperparameters, learning_rate, t, w, g, slots):
    """Adam with a decay of the weights beside the gradient (Loshchilov & Hutter 2017, arXiv:1711.05101)."""
    b1, b2, (m, v) = hyperparameters["beta_1"], hyperparameters["beta_2"], slots
    m[:] = b1 * m + (1 - b1) * g
    v[:] = b2 * v + (1 - b2) * g * g
    w *= 1 - learning_rate * hyperparameters["weight_decay"]
    w -= learning_rate * m / (1 - b1**t) / (np.sqrt(v / (1 - b2**t)) + hyperparameters["epsilon"])


def nadam(hyperparameters, learning_rate, t, w, g, slots):
    """Adam that looks a step ahead, with a momentum that grows (Dozat 2016)."""
    b1, b2, (m, v) = hyperparameters["beta_1"], hyperparameters["beta_2"], slots
    momenta = b1 * (1 - 0.5 * 0.96 ** (0.004 * np.arange(1, t + 2)))
    m[:] = b1 * m + (1 - b1) * g
    v[:] = b2 * v + (1 - b2) * g * g
    now = (1 - momenta[-2]) / (1 - momenta[:-1].prod()) * g
    ahead = momenta[-1] / (1 - momenta.prod()) * m
    w -= learning_rate * (now + ahead) / (np.sqrt(v / (1 - b2**t)) + hyperparameters["epsilon"])


def rmsprop(hyperparameters, learning_rate, t, w, g, slots):
    """Steps scaled by the running root mean square of the gradient (Hinton 2012)."""
    rho, (v,) = hyperparameters["rho"], slots
    v[:] = rho * v + (1 - rho) * g * g
    w -= learning_rate * g / (np.sqrt(v) + hyperparameters["epsilon"])


def lion(hyperparameters, learning_rate, t, w, g, slots):
    """Steps of one size, in the direction of the sign (Chen et al. 2023, arXiv:2302.06675)."""
    b1, rho, (m,) = hyperparameters["beta_1"], hyperparameters["rho"], slots
    w -= learning_rate * (np.sign(b1 * m + (1 - b1) * g) + hyperparameters["weight_decay"] * w)
    m[:] = rho * m + (1 - rho) * g


OPTIMIZERS = {"sgd": sgd, "adam": adam, "adamw": adamw, "nadam": nadam, "rmsprop": rmsprop, "lion": lion}


def spare_biases(hyperparameters, n_weights, n_parameters):
    """The same settings with a weight decay for each parameter, which is 0 for biases."""
    if "weight_decay" not in hyperparameters:
        return hyperparameters
    return {**hyperparameters, "weight_decay": hyperparameters["weight_decay"] * (np.arange(n_parameters) < n_weights)}


# --- the network --------------------------------------------------------------------------------------------------


class Net(NamedTuple):
    """What a network is: the arguments of ``fastmlp._core.Network``."""

    layer_sizes: tuple[int, ...]
    activations: tuple[str, ...]
    loss: str


def pack(coefs, intercepts):
    return np.concatenate([p.ravel() for p in (*coefs, *intercepts)])


def unpack(net, flat):
    """Views of the flat buffer: weight matrices ``(fan_in, fan_out)`` and biases ``(fan_out,)``."""
    shapes = [*pairwise(net.layer_sizes), *((n,) for n in net.layer_sizes[1:])]
    ends = np.cumsum([int(np.prod(shape)) for shape in shapes])
    parts = [part.reshape(shape) for part, shape in zip(np.split(flat, ends[:-1]), shapes, strict=True)]
    return parts[: len(parts) // 2], parts[len(parts) // 2 :]


def glorot(net, random, factor=6.0):
    """Weights and biases uniform within ``sqrt(factor / (fan_in + fan_out))`` (Glorot & Bengio 2010), by layer."""
    coefs, intercepts = [], []
    for fan_in, fan_out in pairwise(net.layer_sizes):
        bound = np.sqrt(factor / (fan_in + fan_out))
        coefs.append(random.uniform(-bound, bound, (fan_in, fan_out)))
        intercepts.append(random.uniform(-bound, bound, fan_out))
    return pack(coefs, intercepts)


def forward(net, flat, X):
    """Layers ``a_0 ... a_L``, the last being the linear ``z_{L-1}`` before the link; and slopes ``f'(z_l)``."""
    layers, slopes = [X], []
    for W, b, name in zip(*unpack(net, flat), (*net.activations, "identity"), strict=True):
        value, slope = ACTIVATIONS[name](layers[-1] @ W + b)
        layers.append(value)
        slopes.append(slope)
    return layers, slopes


def predict(net, flat, X, layer=-1):
    """Output of a layer: 0 is the input, ``L`` or -1 the predictions."""
    layers, _ = forward(net, flat, X)
    layers[-1] = LOSSES[net.loss](layers[-1], np.zeros_like(layers[-1]))[0]
    return layers[layer]


def loss_and_gradient(net, flat, X, y, sample_weight=None, alpha=0.0):
    """Weighted mean loss, L2 penalty, and the flat gradient of their sum."""
    (coefs, _), (layers, slopes) = unpack(net, flat), forward(net, flat, X)
    _, losses, delta = LOSSES[net.loss](layers[-1], y)
    weights = np.ones(len(X)) if sample_weight is None else sample_weight
    total = weights.sum()
    delta = delta * weights[:, None] / total
    coef_gradients, intercept_gradients = [], []
    for layer in reversed(range(len(coefs))):
        delta = delta * slopes[layer]
        coef_gradients.insert(0, layers[layer].T @ delta + alpha / total * coefs[layer])
        intercept_gradients.insert(0, delta.sum(axis=0))
        delta = delta @ coefs[layer].T
    penalty = 0.5 * alpha / total * sum((W**2).sum() for W in coefs)
    return weights @ losses / total, penalty, pack(coef_gradients, intercept_gradients)


def train(net, flat, slots, X, y, step, *, sample_weight=None, alpha=0.0, batch_size=200, max_iter=1, random=None):
    """Mini-batch epochs: ``step(t, flat, gradient, slots)`` changes ``flat`` in place, ``random`` shuffles the rows.

    Returns the loss curve: the mean of the batches' losses, each taken before its step and weighted by its rows. As
    in scikit-learn, it tells the mean of the squared error over the outputs, while the gradient is that of its sum.
    """
    rows, curve, t = np.arange(len(X)), [], 0
    share = net.layer_sizes[-1] if net.loss in MEAN_OVER_OUTPUTS else 1
    for _ in range(max_iter):
        if random is not None:
            random.shuffle(rows)
        total = 0.0
        for batch in np.split(rows, range(batch_size, len(X), batch_size)):
            weights = None if sample_weight is None else sample_weight[batch]
            value, penalty, gradient = loss_and_gradient(net, flat, X[batch], y[batch], weights, alpha)
            t += 1
            step(t, flat, gradient, slots)
            total += (value / share + penalty) * len(batch)
        curve.append(total / len(X))
    return curve
