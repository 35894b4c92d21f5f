"""What Python needs to know of the core's losses: which there are, their hyper-parameters, and how outputs are read."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from fastmlp import _core

if TYPE_CHECKING:
    from numpy.typing import NDArray

LossParameters: TypeAlias = Mapping[str, float | Sequence[float]]
# y (n, n_targets), outputs (n, n_outputs), sample_weight (n,) or None: the mean loss and its gradient (n, n_outputs)
CustomLoss: TypeAlias = Callable[[Any, Any, Any], tuple[Any, Any]]

OUTPUT_ACTIVATIONS: dict[str, str] = {name: entry["link"] for name, entry in _core.losses().items()}
# by the kind of their targets: the class of a row, a label that is there or not, a number
CLASS_LOSSES = [name for name, entry in _core.losses().items() if entry["class_numbers"]]
LABEL_LOSSES = [name for name, link in OUTPUT_ACTIVATIONS.items() if link == "logistic"]
NUMBER_LOSSES = [name for name in OUTPUT_ACTIVATIONS if name not in (*CLASS_LOSSES, *LABEL_LOSSES)]
# their outputs are the predictions: an activation may come before them
OPEN_LOSSES = [name for name, link in OUTPUT_ACTIVATIONS.items() if link == "identity"]
ACTIVATIONS = tuple(_core.output_activations())
VARIANCE_LOSSES = [name for name, entry in _core.losses().items() if entry["outputs"] == ["mean", "variance"]]


def loss_numbers(loss: str | CustomLoss, given: Any) -> dict[str, Any]:
    """Return the hyper-parameters of a loss as the core takes them: by name, floats and lists of floats.

    Raises
    ------
    ValueError
        If ``given`` is no dict or None, or holds a name or a value that the loss does not allow.
    """
    if given is None:
        return {}
    if not isinstance(loss, str):
        raise ValueError(
            f"loss_parameters are those of losses by name; loss={loss!r} must have its own, for example by "
            f"functools.partial, and loss_parameters=None; got {given!r}"
        )
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


def loss_and_activation(loss: str, output: str) -> tuple[str, str]:
    """Return the core's loss and the activation before it which together have this output activation.

    The loss is ``loss`` if that is possible, else its sibling for labels, else the first one that will do.

    Raises
    ------
    ValueError
        If there is no such output activation.
    """
    for name in (loss, f"binary_{loss}"):
        if OUTPUT_ACTIVATIONS.get(name) == output:
            return name, "identity"
    if loss in OPEN_LOSSES and output in ACTIVATIONS:
        return loss, output
    for name, link in OUTPUT_ACTIVATIONS.items():
        if link == output:
            return name, "identity"
    if output in ACTIVATIONS:
        return OPEN_LOSSES[0], output
    valid = sorted({*OUTPUT_ACTIVATIONS.values(), *ACTIVATIONS})
    raise ValueError(f"out_activation_ must be one of {valid}, got {output!r}")


def number_output(loss: str | CustomLoss, wanted: str | None) -> str:
    """Return the output activation of a regression: the one that is wanted, or (None) that of its loss.

    Raises
    ------
    ValueError
        If the loss does not allow it.
    """
    link = OUTPUT_ACTIVATIONS[loss] if isinstance(loss, str) else "identity"
    if wanted in (None, link):
        return link
    if link != "identity":
        able = ", ".join(map(repr, OPEN_LOSSES))
        raise ValueError(
            f"loss={loss!r} has the output activation {link!r}: output_activation must be None or {link!r}, got "
            f"{wanted!r}. Losses that take any activation: {able}, and functions of your own"
        )
    if wanted not in ACTIVATIONS:
        valid = ", ".join(map(repr, ACTIVATIONS))
        raise ValueError(f"with loss={loss!r}, output_activation must be None or one of {valid}; got {wanted!r}")
    return str(wanted)


def batch_loss(loss: str | CustomLoss) -> _core.BatchLoss | None:
    """Return a custom loss as the core calls it, with what it returns in the core's types; None for a name.

    Raises, when called
    -------------------
    ValueError
        If the loss does not return a number and an array of real numbers. Shapes are checked by the core.
    """
    if isinstance(loss, str):
        return None

    def evaluate(y: Any, outputs: Any, sample_weight: Any) -> tuple[float, NDArray[Any]]:
        answer = loss(y, outputs, sample_weight)
        if not isinstance(answer, tuple | list) or len(answer) != 2:
            raise ValueError(f"loss={loss!r} must return two values, the loss and its gradient, got {answer!r}")
        number, gradient = (np.asarray(each) for each in answer)
        if number.ndim != 0 or number.dtype.kind not in "iuf":
            raise ValueError(f"the loss that loss={loss!r} returns must be a real number, got {answer[0]!r}")
        if gradient.dtype.kind not in "iuf":
            raise ValueError(f"the gradient that loss={loss!r} returns must hold real numbers, got {gradient.dtype}")
        return float(number), np.ascontiguousarray(gradient, y.dtype)

    return evaluate


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
