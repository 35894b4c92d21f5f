"""Parameters: one flat buffer, and the lists of arrays that are views of it.

The order is the core's: all weight matrices, each (fan_in, fan_out) in C order, then all biases; then what hidden
layers may have besides, by kind.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable, Sequence
from functools import lru_cache
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import DTypeLike, NDArray

    from fastmlp import _core

Shapes: TypeAlias = "dict[str, tuple[tuple[int, ...] | None, ...]]"

# of arrays in the flat buffer, in its order; a fitted estimator has each as a list, under this name with "_"
KINDS = ("coefs", "intercepts", "scales", "offsets", "projections", "running_means", "running_variances")


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


@lru_cache(maxsize=256)
def array_shapes(network: _core.Network) -> Shapes:
    """Return the shapes of a network's arrays by kind: one for each layer, None where there is no array."""
    sizes = network.layer_sizes
    matrices, vectors = list(pairwise(sizes)), [(size,) for size in sizes[1:]]
    return {
        kind: tuple(
            None if start < 0 else shape
            for start, shape in zip(starts, matrices if kind in ("coefs", "projections") else vectors, strict=False)
        )
        for kind, starts in network.offsets.items()
    }


def cut(flat: NDArray[Any], shapes: Shapes) -> dict[str, list[Any]]:
    """Return views of ``flat`` with these shapes, one after the other."""
    arrays: dict[str, list[Any]] = {kind: [] for kind in shapes}
    start = 0
    for kind, of_layers in shapes.items():
        for shape in of_layers:
            end = start if shape is None else start + math.prod(shape)
            arrays[kind].append(None if shape is None else flat[start:end].reshape(shape))
            start = end
    return arrays


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


class _Views(NamedTuple):
    """Arrays that are views of one buffer."""

    flat: NDArray[Any]
    shapes: Shapes
    sizes: list[int]
    arrays: list[Any]
    others: list[str]  # kinds beside weights and biases


class FlatParameters:
    """The part of an estimator that holds ``coefs_``, ``intercepts_`` and their like as views of one buffer.

    All are plain lists, so a user may put other arrays in: they are gathered into a new buffer when they are needed.
    """

    coefs_: list[Any]
    intercepts_: list[Any]

    def _set_parameters(self, flat: NDArray[Any], shapes: Shapes) -> None:
        """Make ``coefs_``, ``intercepts_`` and what else there is views of ``flat``."""
        arrays = cut(flat, shapes)
        self.coefs_, self.intercepts_ = arrays["coefs"], arrays["intercepts"]
        others = [kind for kind in KINDS[2:] if any(array is not None for array in arrays.get(kind, []))]
        for kind in KINDS[2:]:
            if kind in others:
                setattr(self, f"{kind}_", arrays[kind])
            else:
                vars(self).pop(f"{kind}_", None)
        sizes = layer_sizes(self.coefs_, self.intercepts_)
        self._flat = _Views(flat, shapes, sizes, self._arrays(others), others)

    def _arrays(self, others: Iterable[str] = KINDS[2:]) -> list[Any]:
        """Return all arrays in the order of the flat buffer."""
        arrays = [*self.coefs_, *self.intercepts_]
        for kind in others:
            arrays += [array for array in getattr(self, f"{kind}_", []) if array is not None]
        return arrays

    def _parameters(self) -> tuple[NDArray[Any], list[int]]:
        """Return all parameters flat, and the layer sizes: no copy while the lists hold ``_set_parameters``' views."""
        if hasattr(self, "_flat"):
            made = self._flat
            arrays = self._arrays(made.others)
            if len(arrays) == len(made.arrays) and all(map(operator.is_, arrays, made.arrays)):
                return made.flat, made.sizes
        sizes = layer_sizes(self.coefs_, self.intercepts_)
        return np.concatenate([np.ravel(array) for array in self._arrays()]), sizes

    def _own_parameters(self, network: _core.Network, dtype: str | None) -> NDArray[Any]:
        """Return the buffer, of which the lists are views from now on, to be trained in place.

        Without a ``dtype`` it is float32 if all parameters are, else float64.
        """
        flat, given = self._parameters()
        sizes = network.layer_sizes
        if given != sizes:
            raise ValueError(
                f"coefs_ and intercepts_ belong to layers of {given} units, "
                f"but hidden_layer_sizes and the data need {sizes}"
            )
        if flat.size != network.n_parameters:
            raise ValueError(
                f"normalization and residual need {network.n_parameters} parameters, "
                f"but there are {flat.size}: they must not change before training goes on"
            )
        flat, shapes = flat.astype(dtype or float_dtype(flat.dtype), copy=False), array_shapes(network)
        if not hasattr(self, "_flat") or flat is not self._flat.flat or shapes != self._flat.shapes:
            self._set_parameters(flat, shapes)
        return flat

    def __getstate__(self) -> dict[str, Any]:
        state: dict[str, Any] = super().__getstate__()  # type: ignore[misc]
        return {name: value for name, value in state.items() if name != "_flat"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # type: ignore[misc]
        if hasattr(self, "coefs_"):
            lists = {kind: getattr(self, f"{kind}_", []) for kind in KINDS}
            shapes = {
                kind: tuple(None if array is None else np.shape(array) for array in arrays)
                for kind, arrays in lists.items()
            }
            self._set_parameters(self._parameters()[0], shapes)
