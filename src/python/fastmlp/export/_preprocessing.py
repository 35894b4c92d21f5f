"""Scalers in front of a network, as two numbers for each feature."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

# scikit-learn's scalers that compute (x - center) / scale, and the attributes that hold these; either may be None
_DIVIDING = {
    "StandardScaler": ("mean_", "scale_"),
    "RobustScaler": ("center_", "scale_"),
    "MaxAbsScaler": ("", "scale_"),
}


def scaling(steps: Sequence[Any], n_features: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return ``center`` and ``factor``, (n_features,) each: together the steps make ``(x - center) * factor`` of x.

    Raises
    ------
    TypeError
        For a step that is no scaler.
    """
    center, factor = np.zeros(n_features), np.ones(n_features)
    for step in steps:
        its_center, its_factor = _of_one(step)
        center = center + its_center / factor
        factor = factor * its_factor
    return center, factor


def _of_one(step: Any) -> tuple[Any, Any]:
    kind = type(step).__name__
    if step is None or step == "passthrough":
        return 0.0, 1.0
    if kind in _DIVIDING:
        center, scale = (getattr(step, name, None) for name in _DIVIDING[kind])
        if not getattr(step, "with_mean", True):  # mean_ is there all the same
            center = None
        return (0.0 if center is None else center), (1.0 if scale is None else 1.0 / scale)
    if kind == "MinMaxScaler" and not step.clip:
        return -step.min_ / step.scale_, step.scale_
    allowed = ", ".join([*_DIVIDING, "MinMaxScaler (without clip)", "'passthrough'"])
    raise TypeError(f"a Pipeline may hold these steps before the network: {allowed}; got {step!r}")
