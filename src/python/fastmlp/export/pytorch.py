"""PyTorch: networks to and from ``torch.nn.Sequential``."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar

import numpy as np

try:
    import torch
    from torch import nn
except ImportError as error:
    raise ImportError("conversions from and to PyTorch need it: pip install torch") from error

from fastmlp import _core
from fastmlp._losses import LossParameters
from fastmlp._validation import name_among
from fastmlp.export._functions import FUNCTIONS, Function
from fastmlp.export._model import loss_of, read_model
from fastmlp.network import Network

# what does nothing to a row when a network predicts
_PASSED_OVER = (nn.Identity, nn.Dropout, nn.Flatten)


class Exp(nn.Module):  # type: ignore[misc]
    """The output activation of the Poisson loss, which PyTorch has no module for."""

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        """Return exp(z)."""
        return torch.exp(z)


class Link(nn.Module):  # type: ignore[misc]
    """An output activation that depends on a hyper-parameter of its loss, given by its name."""

    link: ClassVar[str]

    def __init__(self, **loss_parameters: Any) -> None:
        super().__init__()
        self.loss_parameters = loss_parameters
        (self.value,) = loss_parameters.values()


class Sort(Link):
    """The output activation of the quantile loss: the quantiles of each target in increasing order."""

    link = "sort"

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        """Return z, sorted among the outputs of each target."""
        return z.unflatten(-1, (-1, len(self.value))).sort(-1).values.flatten(-2)


class MeanVariance(Link):
    """The output activation of the Gaussian loss: means as they are, variances from their logarithms."""

    link = "mean_variance"

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        """Return mean and variance by turns."""
        mean, log_variance = z[..., ::2], z[..., 1::2]
        return torch.stack([mean, log_variance.exp() + self.value], -1).flatten(-2)


_OWN = {each.__name__: each for each in (Exp, Sort, MeanVariance)}


def to_torch(model: Any, *, output_activation: bool = True) -> nn.Sequential:
    """Return a model as PyTorch's ``nn.Sequential`` of ``Linear`` layers and activations.

    Its outputs are those of the output layer: for a classifier one column per class, or a single one, the probability
    of the second class, if there are two. Parameters are copies in the model's dtype.

    Parameters
    ----------
    model : MLPClassifier, MLPRegressor, Predictor or Network
        A fitted estimator, scikit-learn's own included; what ``compile`` or ``load`` returns; or a network.
    output_activation : bool, default=True
        Whether the output activation (softmax, logistic, exp) is the last module. Without it the outputs are what
        PyTorch's losses take, such as ``CrossEntropyLoss``.

    Returns
    -------
    sequential : torch.nn.Sequential
        The same function.

    Raises
    ------
    TypeError
        If ``model`` is anything else.

    Examples
    --------
    >>> from fastmlp import Network
    >>> from fastmlp.export import to_torch
    >>> to_torch(Network([2, 3, 1], activation="tanh"))
    Sequential(
      (0): Linear(in_features=2, out_features=3, bias=True)
      (1): Tanh()
      (2): Linear(in_features=3, out_features=1, bias=True)
      (3): Sigmoid()
    )
    """
    plan = read_model(model)
    if plan.center is not None:
        raise TypeError("to_torch takes the network alone: give it pipeline[-1], and scale the data as before")
    modules: list[nn.Module] = []
    for coef, intercept, entry in zip(plan.coefs, plan.intercepts, plan.entries, strict=True):
        weight, bias = (torch.tensor(np.asarray(array, plan.dtype)) for array in (coef.T, intercept))
        linear = nn.Linear(*coef.shape, dtype=weight.dtype)
        linear.weight, linear.bias = nn.Parameter(weight), nn.Parameter(bias)
        modules.append(linear)
        if entry.torch != "Identity":
            modules.append((_OWN.get(entry.torch) or getattr(nn, entry.torch))(**entry.settings))
    changes_outputs = not isinstance(modules[-1], nn.Linear)
    return nn.Sequential(*(modules[:-1] if changes_outputs and not output_activation else modules))


def from_torch(
    sequential: nn.Module, loss: str | None = None, *, loss_parameters: LossParameters | None = None
) -> Network:
    """Return PyTorch's ``nn.Sequential`` of ``Linear`` layers and activations as a ``Network``.

    Parameters
    ----------
    sequential : torch.nn.Sequential
        ``Linear`` layers, with an activation of ours behind each or none; ``Sequential`` may be nested. ``Dropout``,
        ``Flatten`` and ``Identity`` are passed over. Behind the last ``Linear`` only ``Softmax``, ``Sigmoid`` or none.
    loss : str or None, default=None
        The loss of the network, which owns its output activation. None takes the one that the last module tells:
        "log_loss" for ``Softmax``, "binary_log_loss" for ``Sigmoid``, else "squared_error". Name it if the module
        returns logits: its output activation is then added.
    loss_parameters : dict or None, default=None
        Hyper-parameters of the loss by name. None takes those that the last module tells, else defaults.

    Returns
    -------
    network : Network
        The same function, with copies of the parameters: float64 if they are, else float32.

    Raises
    ------
    TypeError
        For modules that are not part of such a network; the message names them.
    ValueError
        If the loss has another output activation than the last module.

    Examples
    --------
    >>> import torch
    >>> from fastmlp.export import from_torch
    >>> from_torch(torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.GELU(), torch.nn.Linear(8, 1)))
    Network(4 -> 8 gelu -> 1 identity; loss='squared_error', dtype='float32')
    """
    linears: list[nn.Linear] = []
    names: list[str] = []
    for place, module in _modules(sequential, ""):
        if isinstance(module, nn.Linear):
            linears.append(module)
            names.append("identity")
            continue
        if isinstance(module, Link):
            name, loss_parameters = module.link, loss_parameters or module.loss_parameters
        else:
            name = _name_of(module, place)
        if names[-1:] != ["identity"]:
            raise TypeError(f"module {place} ({module}) must follow a Linear layer, as its only activation")
        names[-1] = name
    if not linears:
        raise TypeError("the module has no Linear layer")
    *hidden, link = names
    if loss is None:
        loss = loss_of(link)
    elif link != _core.losses()[name_among(loss, _core.losses(), "loss")]["link"] and link != "identity":
        wanted = _core.losses()[loss]["link"]
        raise ValueError(f"loss {loss!r} has the output activation {wanted!r}, but the last module is {link!r}")
    sizes = [linears[0].in_features, *(linear.out_features for linear in linears)]
    doubles = any(linear.weight.dtype == torch.float64 for linear in linears)
    dtype = "float64" if doubles else "float32"
    network = Network(sizes, hidden, loss, dtype, loss_parameters=loss_parameters)
    network.weights = [_numbers(linear.weight) for linear in linears]
    network.biases = [
        np.zeros(linear.out_features) if linear.bias is None else _numbers(linear.bias) for linear in linears
    ]
    return network


def _modules(module: nn.Module, place: str) -> Iterator[tuple[str, nn.Module]]:
    """Walk through nested Sequentials; yield what does something."""
    if not isinstance(module, nn.Sequential):
        if not isinstance(module, _PASSED_OVER):
            yield place or "itself", module
        return
    for number, part in enumerate(module):  # not named_children, which passes over a module that is there twice
        yield from _modules(part, f"{place}.{number}".lstrip("."))


def _name_of(module: nn.Module, place: str) -> str:
    for name, entry in FUNCTIONS.items():
        if type(module).__name__ == entry.torch and isinstance(module, (Exp, getattr(nn, entry.torch, Exp))):
            if all(getattr(module, setting) == value for setting, value in entry.settings.items()):
                return name
            raise TypeError(f"module {place} ({module}) must be {_written(entry)}")
    allowed = ["Sequential", "Linear", *(_written(entry) for entry in FUNCTIONS.values()), "Dropout", "Flatten"]
    raise TypeError(f"module {place} ({module}) is not part of a multilayer perceptron; allowed: {', '.join(allowed)}")


def _written(entry: Function) -> str:
    settings = ", ".join(f"{name}={value!r}" for name, value in entry.settings.items())
    return f"{entry.torch}({settings})"


def _numbers(tensor: torch.Tensor) -> np.ndarray[Any, Any]:
    tensor = tensor.detach().cpu()
    return np.asarray(tensor if tensor.dtype in (torch.float32, torch.float64) else tensor.float())
