"""Why a loss is not finite: which layer, and what may help."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from fastmlp import _core
from fastmlp._cuda_arrays import host_blocks
from fastmlp._parameters import array_shapes, cut

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from fastmlp._core import Matrix
    from fastmlp._training import Data


def diagnose(engine: _core.Engine, network: _core.Network, parameters: NDArray[Any], data: Data) -> str:
    """Say what makes the loss of the data non-finite, at the parameters of the step at which it was found."""
    n_layers = len(network.layer_sizes) - 1
    for kind, arrays in cut(parameters, array_shapes(network)).items():
        for layer, array in enumerate(arrays, 1):
            if array is not None and not np.isfinite(array).all():
                return (
                    f"the {kind} of layer {layer} of {n_layers} are not finite since the step before. Lower "
                    "learning_rate_init, or set clip_norm."
                )
    reach = _reach(engine, parameters, data.X, n_layers)
    for layer in range(1, n_layers + 1):
        if not np.isfinite(reach[layer]):
            what = _largest_feature(data.X) if layer == 1 else "its inputs reach"
            return (
                f"layer {layer} of {n_layers} overflows: {what} {reach[layer - 1]:.3g}. Scale the features, for "
                "example by StandardScaler, lower learning_rate_init, or set clip_norm."
            )
    targets = "" if data.y.ndim == 1 else f", targets {np.abs(data.y).max():.3g}"
    return (
        f"every layer is finite, but the loss is not: outputs reach {reach[-1]:.3g}{targets}. Scale the features and "
        "targets, or lower learning_rate_init."
    )


def _reach(engine: _core.Engine, parameters: NDArray[Any], X: Matrix, n_layers: int) -> NDArray[np.float64]:
    """Return the largest absolute value of each layer, the features first; not finite if one of them is not."""
    reach = np.zeros(n_layers + 1)
    for block in _blocks(X):
        numbers = block[0] if isinstance(block, tuple) else block
        reach[0] = max(reach[0], np.abs(numbers).max(initial=0))
        for layer in range(1, n_layers + 1):
            with np.errstate(invalid="ignore"):  # NaN is what is looked for
                largest = np.abs(engine.predict(parameters, block, layer)).max(initial=0)
                reach[layer] = np.maximum(reach[layer], largest)
    return reach


def _blocks(X: Matrix) -> Iterator[Any]:
    if isinstance(X, tuple):
        yield X
    elif isinstance(X, _core.CudaArray):
        yield from host_blocks(X)
    else:
        yield from (X[first : first + 4096] for first in range(0, len(X), 4096))


def _largest_feature(X: Matrix) -> str:
    if isinstance(X, tuple):
        return "features reach"
    largest = np.max([np.abs(block).max(axis=0) for block in _blocks(X)], axis=0)
    return f"feature {int(largest.argmax())} reaches"
