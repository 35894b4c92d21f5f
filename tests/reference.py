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

from collections.abc import Mapping
from itertools import pairwise
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
from scipy.special import erfc, expit, log_softmax, softmax, xlogy

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
# Each is paired with its link. As in scikit-learn, logarithms are taken of probabilities clipped to [clip, 1 - clip],
# so that a confident mistake costs a finite amount. Hyper-parameters are keywords with the core's defaults.


def log_loss(z, y, clip=EPS, label_smoothing=0.0):
    p = softmax(z, axis=1)
    if label_smoothing:  # PyTorch's: not clipped
        t = (1 - label_smoothing) * y + label_smoothing / y.shape[1]
        return p, -(t * log_softmax(z, axis=1)).sum(axis=1), p - t
    return p, -xlogy(y, np.clip(p, clip, 1 - clip)).sum(axis=1), p - y


def binary_log_loss(z, y, clip=EPS, label_smoothing=0.0):
    p, t = expit(z), (1 - label_smoothing) * y + label_smoothing / 2
    q = np.clip(p, clip, 1 - clip)
    return p, -(xlogy(t, q) + xlogy(1 - t, 1 - q)).sum(axis=1), p - t


def focal(z, y, clip=EPS, gamma=2.0):
    """``-(1 - p)^gamma log p`` of the true class (Lin et al. 2017, arXiv:1708.02002)."""
    p = softmax(z, axis=1)
    true, rest = (np.clip((part * p).sum(axis=1), clip, 1 - clip) for part in (y, 1 - y))
    slope = gamma * rest ** (gamma - 1) * np.log(true) - rest**gamma / true  # with respect to `true`
    return p, -(rest**gamma) * np.log(true), (slope * true)[:, None] * (y - p)


def binary_focal(z, y, clip=EPS, gamma=2.0):
    pairs = [focal(np.stack([0 * z[:, k], z[:, k]], axis=1), np.eye(2)[y[:, k].astype(int)], clip, gamma)
             for k in range(z.shape[1])]  # fmt: skip
    losses = np.sum([loss for _, loss, _ in pairs], axis=0)
    return expit(z), losses, np.stack([gradient[:, 1] for *_, gradient in pairs], axis=1)


def squared_error(z, y, clip=EPS):
    return z, 0.5 * ((z - y) ** 2).sum(axis=1), z - y


def absolute_error(z, y, clip=EPS):
    return z, np.abs(z - y).sum(axis=1), np.sign(z - y)


def huber(z, y, clip=EPS, delta=1.0):
    """Squared near the target, absolute far from it (Huber 1964)."""
    d, a = z - y, np.abs(z - y)
    return z, np.where(a <= delta, d * d / 2, delta * (a - delta / 2)).sum(axis=1), np.clip(d, -delta, delta)


def log_cosh(z, y, clip=EPS):
    a = np.abs(z - y)
    return z, (a + np.log1p(np.exp(-2 * a)) - np.log(2)).sum(axis=1), np.tanh(z - y)


def quantile(z, y, clip=EPS, quantile=0.5):
    """Pinball loss of each quantile of each target (Koenker & Bassett 1978); sorted predictions do not cross."""
    q = np.atleast_1d(quantile)
    z = z.reshape(len(y), y.shape[1], len(q))
    d = y[:, :, None] - z
    gradient = np.where(d > 0, -q, np.where(d < 0, 1 - q, 0 * d))
    rows = len(y), -1
    return np.sort(z, axis=2).reshape(rows), np.maximum(q * d, (q - 1) * d).sum(axis=(1, 2)), gradient.reshape(rows)


def poisson(z, y, clip=EPS):
    p = np.exp(z)
    return p, (xlogy(y, y) - y * z - y + p).sum(axis=1), p - y


def gamma(z, y, clip=EPS):
    p = np.exp(z)
    return p, (y / p - np.log(y / p) - 1).sum(axis=1), 1 - y / p


def tweedie(z, y, clip=EPS, power=1.5):
    if power in (1, 2):
        return (poisson if power == 1 else gamma)(z, y)
    p, a, b = np.exp(z), 1 - power, 2 - power
    with np.errstate(divide="ignore"):
        constant = np.where(y > 0, y**b, 0)
    return p, (constant / (a * b) - y * p**a / a + p**b / b).sum(axis=1), p**b - y * p**a


def gaussian_nll(z, y, clip=EPS, eps=1e-6):
    """Mean and logarithm of the variance by turns (Nix & Weigend 1994); ``eps`` is the least variance."""
    mean, share = z[:, ::2], np.exp(z[:, 1::2])
    variance, d = share + eps, mean - y
    predictions = np.stack([mean, variance], axis=2).reshape(z.shape)
    gradient = np.stack([d / variance, share / variance * (1 - d * d / variance) / 2], axis=2).reshape(z.shape)
    return predictions, (np.log(variance) + d * d / variance).sum(axis=1) / 2, gradient


LOSSES = {
    each.__name__: each
    for each in (
        *(log_loss, binary_log_loss, focal, binary_focal),
        *(squared_error, absolute_error, huber, log_cosh, quantile),
        *(poisson, gamma, tweedie, gaussian_nll),
    )
}
MEAN_OVER_OUTPUTS = {"squared_error", "absolute_error", "huber", "log_cosh", "quantile"}


def outputs_per_target(loss, parameters):
    return {"gaussian_nll": 2, "quantile": np.size(parameters.get("quantile", 0.5))}.get(loss, 1)


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
    loss_parameters: Mapping = MappingProxyType({})


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
    y = np.ones((len(X), layers[-1].shape[1] // outputs_per_target(net.loss, net.loss_parameters)))
    layers[-1] = LOSSES[net.loss](layers[-1], y, **net.loss_parameters)[0]
    return layers[layer]


def loss_and_gradient(net, flat, X, y, sample_weight=None, alpha=0.0):
    """Weighted mean loss, L2 penalty, and the flat gradient of their sum."""
    (coefs, _), (layers, slopes) = unpack(net, flat), forward(net, flat, X)
    _, losses, delta = LOSSES[net.loss](layers[-1], y, **net.loss_parameters)
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
