"""What Python needs to know of the core's losses: which there are, their hyper-parameters, and how outputs are read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from fastmlp import _core

if TYPE_CHECKING:
    from numpy.typing import NDArray

LossParameters: TypeAlias = Mapping[str, float | Sequence[float]]

OUTPUT_ACTIVATIONS: dict[str, str] = {name: entry["link"] for name, entry in _core.losses().items()}
# by the kind of their targets: the class of a row, a label that is there or not, a number
CLASS_LOSSES = [name for name, entry in _core.losses().items() if entry["class_numbers"]]
LABEL_LOSSES = [name for name, link in OUTPUT_ACTIVATIONS.items() if link == "logistic"]
NUMBER_LOSSES = [name for name in OUTPUT_ACTIVATIONS if name not in (*CLASS_LOSSES, *LABEL_LOSSES)]
VARIANCE_LOSSES = [name for name, entry in _core.losses().items() if entry["outputs"] == ["mean", "variance"]]


def loss_numbers(loss: str, given: Any) -> dict[str, Any]:
    """Return the hyper-parameters of a loss as the core takes them: by name, floats and lists of floats.

    Raises
    ------
    ValueError
        If ``given`` is no dict or None, or holds a name or a value that the loss does not allow.
    """
    if given is None:
        return {}
    if not isinstance(given, Mapping):
        raise ValueError(f"loss_parameters must be a dict or None, got {given!r}")
    numbers = {}
    for name, value in given.items():
        array = np.asarray(value)
        if array.dtype.kind not in "iuf" or array.ndim > 1:
            raise ValueError(f"loss_parameters[{name!r}] must be a number or a list of numbers, got {value!r}")
        numbers[str(name)] = array.astype(np.float64).tolist()
    _core.loss_outputs(loss, numbers)
    return numbers


def loss_with_link(loss: str, link: str) -> str:
    """Return ``loss`` if it owns this output activation, else its sibling for labels, else the first one that does.

    Raises
    ------
    ValueError
        If no loss has this output activation.
    """
    for name in (loss, f"binary_{loss}", *OUTPUT_ACTIVATIONS):
        if OUTPUT_ACTIVATIONS.get(name) == link:
            return name
    valid = sorted(set(OUTPUT_ACTIVATIONS.values()))
    raise ValueError(f"out_activation_ must be one of {valid}, got {link!r}")


def central_values(outputs: NDArray[Any], loss: str, parameters: Mapping[str, Any]) -> NDArray[Any]:
    """Return of outputs (..., n_outputs) the one for each target (..., n_targets) that scores are taken of."""
    per_target, central = _core.loss_outputs(loss, parameters)
    return outputs[..., central::per_target]


def standard_deviations(outputs: NDArray[Any]) -> NDArray[Any]:
    """Return of outputs (..., n_outputs), mean and variance by turns, the standard deviations (..., n_targets)."""
    deviations: NDArray[Any] = np.sqrt(outputs[..., 1::2])
    return deviations


def predicted_values(outputs: NDArray[Any], loss: str, parameters: Mapping[str, Any]) -> NDArray[Any]:
    """Return of outputs (..., n_outputs) what ``predict`` answers: (..., n_targets), or (...,) for a single target.

    Losses with several values of one kind for each target, such as quantiles, have one more axis for them.
    """
    per_target, _ = _core.loss_outputs(loss, parameters)
    if per_target == 1 or loss in VARIANCE_LOSSES:
        values, axis = central_values(outputs, loss, parameters), -1
    else:
        values, axis = outputs.reshape(*outputs.shape[:-1], -1, per_target), -2
    return values.squeeze(axis) if values.shape[axis] == 1 else values
