"""Parameters: one flat buffer, and the lists of weight matrices and biases that are views of it.

The order is the core's: all weight matrices, each (fan_in, fan_out) in C order, then all biases.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import DTypeLike, NDArray


_DRAWN_AT_ONCE = 1 << 16


def parameter_count(sizes: Sequence[int]) -> int:
    """Return the number of weights and biases of a network with these layer sizes."""
    return sum((fan_in + 1) * fan_out for fan_in, fan_out in pairwise(sizes))


def views(flat: NDArray[Any], sizes: Sequence[int]) -> tuple[list[NDArray[Any]], list[NDArray[Any]]]:
    """Return the weight matrices (fan_in, fan_out) and the biases (fan_out,) as views of ``flat``."""
    coefs, biases, start = [], [], 0
    for fan_in, fan_out in pairwise(sizes):
        coefs.append(flat[start : start + fan_in * fan_out].reshape(fan_in, fan_out))
        start += fan_in * fan_out
    for fan_out in sizes[1:]:
        biases.append(flat[start : start + fan_out])
        start += fan_out
    return coefs, biases


def layer_sizes(coefs: Sequence[Any], intercepts: Sequence[Any]) -> list[int]:
    """Return the layer sizes that the shapes of ``coefs_`` and ``intercepts_`` tell, input first.

    Raises
    ------
    ValueError
        If the shapes do not belong to one network, or if an array does not hold real numbers.
    """
    if len(coefs) != len(intercepts) or not coefs:
        raise ValueError(
            "coefs_ and intercepts_ must hold one array for each layer of weights, "
            f"got {len(coefs)} and {len(intercepts)} arrays"
        )
    sizes = list(np.shape(coefs[0])[:1])
    for layer, (coef, intercept) in enumerate(zip(coefs, intercepts, strict=True)):
        shape = np.shape(coef)
        if len(shape) != 2 or shape[0] != sizes[-1]:
            needed = f"({sizes[-1]}, n)" if sizes else "(n_features, n)"
            raise ValueError(f"coefs_[{layer}] must have shape {needed}, got {shape}")
        if np.shape(intercept) != shape[1:]:
            raise ValueError(f"intercepts_[{layer}] must have shape ({shape[1]},), got {np.shape(intercept)}")
        sizes.append(shape[1])
        for name, array in (("coefs_", coef), ("intercepts_", intercept)):
            if np.asarray(array).dtype.kind not in "biuf":
                raise ValueError(f"{name}[{layer}] must hold real numbers, got dtype {np.asarray(array).dtype}")
    return sizes


def float_dtype(dtype: DTypeLike) -> np.dtype[Any]:
    """Return the dtype in which the core computes with numbers of ``dtype``: float32 stays, all else is float64."""
    return np.dtype(np.float32 if np.dtype(dtype) == np.float32 else np.float64)


def glorot_uniform(
    sizes: Sequence[int], activation: str | Sequence[str], random: Any, dtype: DTypeLike
) -> NDArray[Any]:
    """Draw initial parameters, flat: scikit-learn's numbers from ``random.uniform``, rounded to ``dtype``.

    Weights and biases of a layer are uniform within ``sqrt(factor / (fan_in + fan_out))``; ``factor`` is 2 where the
    ``activation`` (one name, or one for each hidden layer) is "logistic" and 6 otherwise. The output layer is drawn
    like the last hidden one.

    References
    ----------
    Glorot, X. and Bengio, Y. (2010). Understanding the difficulty of training deep feedforward neural networks.
    AISTATS.
    """
    if isinstance(activation, str):
        activations = [activation] * (len(sizes) - 1)
    else:
        activations = [*activation, *(activation[-1:] or ["identity"])]
    flat = np.empty(parameter_count(sizes), dtype)
    for coef, bias, name in zip(*views(flat, sizes), activations, strict=True):
        bound = np.sqrt((2.0 if name == "logistic" else 6.0) / sum(coef.shape))
        for numbers in (coef.ravel(), bias):  # views; in parts, as float64 would take twice the room of float32
            for start in range(0, numbers.size, _DRAWN_AT_ONCE):
                part = numbers[start : start + _DRAWN_AT_ONCE]
                part[...] = random.uniform(-bound, bound, part.size)
    return flat


class FlatParameters:
    """The part of an estimator that holds ``coefs_`` and ``intercepts_`` as views of one buffer.

    Both are plain lists, so a user may put other arrays in: they are gathered into a new buffer when they are needed.
    """

    coefs_: list[Any]
    intercepts_: list[Any]

    def _set_parameters(self, flat: NDArray[Any], sizes: list[int]) -> None:
        """Make ``coefs_`` and ``intercepts_`` views of ``flat``."""
        self.coefs_, self.intercepts_ = views(flat, sizes)
        self._flat: tuple[NDArray[Any], list[int], list[Any]] = flat, sizes, [*self.coefs_, *self.intercepts_]

    def _parameters(self) -> tuple[NDArray[Any], list[int]]:
        """Return all parameters flat, and the layer sizes: no copy while the lists hold ``_set_parameters``' views."""
        arrays = [*self.coefs_, *self.intercepts_]
        if hasattr(self, "_flat"):
            flat, sizes, made = self._flat
            if len(arrays) == len(made) and all(map(operator.is_, arrays, made)):
                return flat, sizes
        sizes = layer_sizes(self.coefs_, self.intercepts_)
        return np.concatenate([np.ravel(array) for array in arrays]), sizes

    def _own_parameters(self, sizes: list[int], dtype: str | None) -> NDArray[Any]:
        """Return the buffer, of which ``coefs_`` and ``intercepts_`` are views from now on, to be trained in place.

        Without a ``dtype`` it is float32 if all parameters are, else float64.
        """
        flat, given = self._parameters()
        if given != sizes:
            raise ValueError(
                f"coefs_ and intercepts_ belong to layers of {given} units, "
                f"but hidden_layer_sizes and the data need {sizes}"
            )
        flat = flat.astype(dtype or float_dtype(flat.dtype), copy=False)
        self._set_parameters(flat, sizes)
        return flat

    def __getstate__(self) -> dict[str, Any]:
        state: dict[str, Any] = super().__getstate__()  # type: ignore[misc]
        return {name: value for name, value in state.items() if name != "_flat"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # type: ignore[misc]
        if hasattr(self, "coefs_"):
            self._set_parameters(*self._parameters())
