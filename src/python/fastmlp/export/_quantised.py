"""Weights as 8-bit integers with one scale for each neuron, and the error that this makes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from fastmlp.export._model import Model

if TYPE_CHECKING:
    from numpy.typing import NDArray

LARGEST = 127  # -128 is left out, so that the integers are symmetric


@dataclass(frozen=True)
class Quantised:
    """The integers and scales (fan_out,) of each layer's matrix, and what they cost."""

    layers: list[tuple[NDArray[np.int8], NDArray[np.float32]]]
    error: float
    n_rows: int
    relative: bool

    def report(self) -> list[str]:
        """Return what the file says about itself."""
        integers = sum(weights.size for weights, _ in self.layers)
        small = integers + sum(scales.nbytes for _, scales in self.layers)
        share = "of the range of that output" if self.relative else "in a probability"
        return [
            f"Weights are 8-bit integers with a scale for each neuron: {small} bytes in place of {4 * integers}.",
            f"Largest error on {self.n_rows} calibration rows: {self.error:.3g} {share}.",
        ]


def quantise(plan: Model, calibration: Any, max_error: float) -> Quantised:
    """Return rounded weights and their error on the calibration rows.

    Raises
    ------
    ValueError
        If the rows are missing or have another number of features, or if the error is above ``max_error``.
    """
    if calibration is None:
        raise ValueError("weights='int8' needs calibration: rows of shape (n_samples, n_features) to measure the error")
    layers = [_rounded(layer.matrix) for layer in plan.layers]
    exact, rough = plan.network(), plan.network([integers * scales.astype(float) for integers, scales in layers])
    rows = np.atleast_2d(plan.scaled(calibration))
    if not len(rows):
        raise ValueError("calibration must hold at least one row")
    wanted = exact(rows)
    errors = np.abs(rough(rows) - wanted)
    relative = plan.classes is None
    if relative:
        span = np.ptp(wanted, axis=0)
        errors /= np.where(span > 0, span, 1.0)
    error = float(errors.max())
    if not error <= max_error:
        raise ValueError(
            f"weights='int8' makes an error of {error:.3g} on the calibration rows; max_error={max_error!r}"
        )
    return Quantised(layers, error, len(rows), relative)


def _rounded(matrix: NDArray[Any]) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    scales = (np.abs(matrix).max(axis=0) / LARGEST).astype(np.float32)
    scales[scales == 0] = 1.0  # a neuron without weights
    return np.rint(matrix / scales).clip(-LARGEST, LARGEST).astype(np.int8), scales
