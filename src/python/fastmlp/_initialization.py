"""Initial parameters: weights drawn by a named rule or by the user's own, and what everything else starts from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from fastmlp._parameters import array_shapes, cut
from fastmlp._validation import name_among

if TYPE_CHECKING:
    from numpy.typing import DTypeLike, NDArray

    from fastmlp import _core

Rule: TypeAlias = "str | Callable[[int, int, Any], Any]"

_DRAWN_AT_ONCE = 1 << 16
DEFAULT = "glorot_uniform"
# by fan_in and fan_out: the variance of the weights
_VARIANCES: dict[str, Callable[[int, int], float]] = {
    "glorot": lambda fan_in, fan_out: 2 / (fan_in + fan_out),
    "he": lambda fan_in, fan_out: 2 / fan_in,
    "lecun": lambda fan_in, fan_out: 1 / fan_in,
}
INITIALIZATIONS = [f"{name}_{shape}" for name in _VARIANCES for shape in ("uniform", "normal")] + [
    "orthogonal",
    "zeros",
]


def initial_parameters(
    network: _core.Network,
    activation: str | Sequence[str],
    initialization: Rule | Sequence[Rule],
    random: Any,
    dtype: DTypeLike,
) -> NDArray[Any]:
    """Draw the parameters of a network, flat.

    Parameters
    ----------
    network : _core.Network
        What they are for.
    activation : str or sequence of str
        One name, or one for each hidden layer: "glorot_uniform" draws smaller weights where it is "logistic". The
        output layer is drawn like the last hidden one.
    initialization : str, callable, or list of them
        One rule for all layers of weights, or one each. A callable takes ``(fan_in, fan_out, random)`` and returns an
        array-like of shape ``(fan_in, fan_out)``. "glorot_uniform" draws scikit-learn's numbers, biases included; with
        all others biases are 0.
    random : RandomState or Generator
        Where numbers come from. Projections of skips are drawn last, by "glorot_uniform" without biases.
    dtype : dtype
        float32 or float64: numbers are rounded to it.

    References
    ----------
    Glorot and Bengio (2010), Understanding the difficulty of training deep feedforward neural networks, AISTATS.
    He et al. (2015), arXiv:1502.01852. LeCun et al. (1998), Efficient BackProp. Saxe et al. (2013), arXiv:1312.6120,
    for "orthogonal".
    """
    rules = initialization_rules(initialization, len(network.layer_sizes) - 1)
    if isinstance(activation, str):
        activations = [activation] * len(rules)
    else:
        activations = [*activation, *(activation[-1:] or ["identity"])]
    flat = np.zeros(network.n_parameters, dtype)
    arrays = cut(flat, array_shapes(network))
    for layer, (coef, bias) in enumerate(zip(arrays["coefs"], arrays["intercepts"], strict=True)):
        rule = rules[layer]
        if rule == DEFAULT:
            factor = (
                2.0 if activations[layer] == "logistic" else 6.0
            )  # the output layer is drawn like the last hidden one
            bound = np.sqrt(factor / sum(coef.shape))
            for numbers in (coef.ravel(), bias):  # views
                _fill_uniform(numbers, bound, random)
        elif callable(rule):
            coef[...] = _by_callable(rule, coef.shape, random, layer)
        else:
            _fill(coef, rule, random)
    for kind in ("scales", "running_variances"):
        for array in arrays[kind]:
            if array is not None:
                array[...] = 1
    for array in arrays["projections"]:
        if array is not None:
            _fill(array, DEFAULT, random)
    return flat


def initialization_rules(given: Rule | Sequence[Rule], n_layers: int) -> list[Rule]:
    """Return one rule for each layer of weights: ``given`` is one for all of them, or one each."""
    rules = [given] * n_layers if isinstance(given, str) or callable(given) else list(given)
    if len(rules) != n_layers:
        raise ValueError(
            f"initialization must be one rule or one per layer of weights ({n_layers}), got {len(rules)}: {rules}"
        )
    return [rule if callable(rule) else name_among(rule, INITIALIZATIONS, "initialization") for rule in rules]


def _fill(coef: NDArray[Any], name: str, random: Any) -> None:
    if name == "zeros":
        return
    numbers = coef.ravel()  # a view
    if name == "orthogonal":
        coef[...] = _orthogonal(coef.shape, random)
        return
    scale, shape = name.split("_")
    fan_in, fan_out = coef.shape
    variance = _VARIANCES[scale](fan_in, fan_out)
    if shape == "uniform":
        _fill_uniform(numbers, np.sqrt(3 * variance), random)
        return
    for part in _parts(numbers):
        part[...] = random.normal(0.0, np.sqrt(variance), part.size)


def _fill_uniform(numbers: NDArray[Any], bound: float, random: Any) -> None:
    for part in _parts(numbers):
        part[...] = random.uniform(-bound, bound, part.size)


def _parts(numbers: NDArray[Any]) -> list[NDArray[Any]]:
    """Cut a long array: float64 would take twice the room of float32."""
    return [numbers[start : start + _DRAWN_AT_ONCE] for start in range(0, numbers.size, _DRAWN_AT_ONCE)]


def _orthogonal(shape: tuple[int, ...], random: Any) -> NDArray[Any]:
    """Orthonormal rows or columns, whichever are fewer, drawn uniformly (Mezzadri 2007, arXiv:math-ph/0609050)."""
    fan_in, fan_out = shape
    q, r = np.linalg.qr(random.normal(size=(max(shape), min(shape))))
    q *= np.sign(np.diagonal(r))
    return q if fan_in >= fan_out else q.T


def _by_callable(rule: Callable[[int, int, Any], Any], shape: tuple[int, ...], random: Any, layer: int) -> NDArray[Any]:
    fan_in, fan_out = shape
    values = np.asarray(rule(fan_in, fan_out, random))
    if values.shape != shape or values.dtype.kind not in "biuf" or not np.isfinite(values).all():
        raise ValueError(
            f"initialization of layer {layer} must return finite numbers of shape {shape}, "
            f"got {values.dtype} of shape {values.shape}"
        )
    return values
