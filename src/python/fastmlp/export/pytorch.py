"""PyTorch: networks to and from ``torch.nn.Sequential``."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
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
from fastmlp.export._functions import EPSILON, FUNCTIONS, NORMALIZATIONS, Function
from fastmlp.export._model import Layer, Model, loss_of, read_model
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


class Residual(nn.Module):  # type: ignore[misc]
    """Hidden layers with skips: to the sums of each but the first those of the layer below are added.

    ``sums`` are ``Linear``; ``projections`` ``Linear`` without biases, or ``Identity`` where widths are equal; ``rest``
    is what each layer does behind its sums.
    """

    def __init__(self, sums: list[nn.Module], projections: list[nn.Module], rest: list[nn.Module]) -> None:
        super().__init__()
        self.sums, self.projections, self.rest = map(nn.ModuleList, (sums, projections, rest))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the units of the last of these layers."""
        z = self.sums[0](x)
        for layer, projection, before in zip(self.sums[1:], self.projections, self.rest, strict=False):
            z = layer(before(z)) + projection(z)
        return self.rest[-1](z)


_OWN = {each.__name__: each for each in (Exp, Sort, MeanVariance)}


def to_torch(model: Any, *, output_activation: bool = True) -> nn.Sequential:
    """Return a model as PyTorch's ``nn.Sequential`` of ``Linear`` layers, normalisations and activations.

    Its outputs are those of the output layer: for a classifier one column per class, or a single one, the probability
    of the second class, if there are two. Parameters are copies in the model's dtype. The modules are set to
    evaluation; there is no dropout among them. Hidden layers with skips are one module, ``Residual``.

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
    linears = [_linear(layer.coef, layer.intercept, plan.dtype) for layer in plan.layers]
    rest = [_behind_sums(*each, plan.dtype) for each in zip(plan.layers, plan.entries, strict=True)]
    if not output_activation:
        rest[-1] = []
    modules: list[nn.Module] = []
    n_together = 0
    if any(layer.has_skip for layer in plan.layers):
        n_together = len(linears) - 1
        projections = [
            nn.Identity() if layer.projection is None else _linear(layer.projection, None, plan.dtype)
            for layer in plan.layers[1:-1]
        ]
        modules.append(Residual(linears[:-1], projections, [nn.Sequential(*each) for each in rest[:-1]]))
    for linear, behind in zip(linears[n_together:], rest[n_together:], strict=True):
        modules += [linear, *behind]
    return nn.Sequential(*modules).eval()


def _linear(coef: Any, intercept: Any, dtype: np.dtype[Any]) -> nn.Linear:
    linear = nn.Linear(*coef.shape, bias=intercept is not None)
    linear.weight = _parameter(coef.T, dtype)
    if intercept is not None:
        linear.bias = _parameter(intercept, dtype)
    return linear


def _behind_sums(layer: Layer, entry: Function, dtype: np.dtype[Any]) -> list[nn.Module]:
    """Return the modules of a layer for its normalisation and its activation."""
    modules: list[nn.Module] = []
    if layer.scale is not None:
        norm = getattr(nn, layer.normalized.torch)(len(layer.scale), eps=EPSILON)
        norm.weight = _parameter(layer.scale, dtype)
        if layer.offset is not None:
            norm.bias = _parameter(layer.offset, dtype)
        if layer.mean is not None and layer.variance is not None:
            norm.running_mean, norm.running_var = (_parameter(a, dtype).data for a in (layer.mean, layer.variance))
        modules.append(norm)
    if entry.torch != "Identity":
        modules.append((_OWN.get(entry.torch) or getattr(nn, entry.torch))(**entry.settings))
    return modules


def _parameter(array: Any, dtype: np.dtype[Any]) -> nn.Parameter:
    return nn.Parameter(torch.tensor(np.asarray(array, dtype)))


def from_torch(
    sequential: nn.Module, loss: str | None = None, *, loss_parameters: LossParameters | None = None
) -> Network:
    """Return PyTorch's ``nn.Sequential`` of ``Linear`` layers, normalisations and activations as a ``Network``.

    Parameters
    ----------
    sequential : torch.nn.Sequential
        ``Linear`` layers; behind each ``BatchNorm1d``, ``LayerNorm``, ``RMSNorm`` or none, and then an activation of
        ours or none. ``Sequential`` may be nested. ``Dropout``, ``Flatten`` and ``Identity`` are passed over. Behind
        the last ``Linear`` also ``Softmax``. With skips only what ``to_torch`` has made.
    loss : str or None, default=None
        The loss of the network. None takes one that owns the output activation that the last module tells: "log_loss"
        for ``Softmax``, "binary_log_loss" for ``Sigmoid``; else "squared_error" behind it. Name it if the module
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
    layers: list[Layer] = []
    for place, module in _modules(sequential, ""):
        if isinstance(module, nn.Linear):
            layers.append(_layer_of(module))
            continue
        changes = _changes(module, place)
        if isinstance(module, Link):
            loss_parameters = loss_parameters or module.loss_parameters
        is_free = bool(layers) and layers[-1].function == "identity"
        if not is_free or ("normalization" in changes and layers[-1].scale is not None):
            only = "only normalization" if "normalization" in changes else "only activation"
            raise TypeError(f"module {place} ({module}) must follow a Linear layer, as its {only}")
        if "normalization" in changes and len(changes["scale"]) != len(layers[-1].intercept):
            raise TypeError(f"module {place} ({module}) must normalize all {len(layers[-1].intercept)} units")
        layers[-1] = replace(layers[-1], **changes)
    if not layers:
        raise TypeError("the module has no Linear layer")
    if layers[-1].scale is not None:
        raise TypeError("the last Linear layer must not be normalized")
    _add_skips(layers, sequential)
    link = layers[-1].function
    if loss is None:
        loss = loss_of(link)
    wanted = _core.losses()[name_among(loss, _core.losses(), "loss")]["link"]
    if link not in ("identity", wanted) and wanted != "identity":
        raise ValueError(f"loss {loss!r} has the output activation {wanted!r}, but the last module is {link!r}")
    plan = Model(layers, None, False, [], loss, dict(loss_parameters or {}))
    doubles = any(layer.coef.dtype == np.float64 for layer in layers)
    return plan.network(dtype="float64" if doubles else "float32")


def _layer_of(linear: nn.Linear) -> Layer:
    bias = np.zeros(linear.out_features) if linear.bias is None else _numbers(linear.bias)
    return Layer(_numbers(linear.weight).T, bias, "identity")


def _changes(module: nn.Module, place: str) -> dict[str, Any]:
    """Return what a module behind a Linear layer says of that layer."""
    if isinstance(module, Link):
        return {"function": module.link}
    for name, entry in NORMALIZATIONS.items():
        if type(module) is getattr(nn, entry.torch, None):
            return {"normalization": name, **_normalization(module, place)}
    return {"function": _name_of(module, place)}


def _normalization(module: nn.Module, place: str) -> dict[str, Any]:
    """Return the arrays of a normalisation."""
    centred, averages = (
        not hasattr(module, "normalized_shape") or hasattr(module, "bias"),
        hasattr(module, "running_mean"),
    )
    shape = getattr(module, "normalized_shape", (getattr(module, "num_features", 0),))
    if module.eps != EPSILON or len(shape) != 1 or (averages and module.running_mean is None):
        raise TypeError(f"module {place} ({module}) must have eps={EPSILON}, one axis, and its running statistics")
    scale, offset = (getattr(module, name, None) for name in ("weight", "bias"))
    arrays = {"scale": np.ones(shape) if scale is None else _numbers(scale)}
    if centred:
        arrays["offset"] = np.zeros(shape) if offset is None else _numbers(offset)
    if averages:
        arrays |= {"mean": _numbers(module.running_mean), "variance": _numbers(module.running_var)}
    return arrays


def _add_skips(layers: list[Layer], sequential: nn.Module) -> None:
    """Say of the layers which skips they have."""
    together = [module for module in sequential.modules() if isinstance(module, Residual)]
    if not together:
        return
    if [len(each.sums) for each in together] != [len(layers) - 1]:
        raise TypeError("a single Residual must hold all Linear layers but the last")
    for number, projection in enumerate(together[0].projections, 1):
        matrix = _numbers(projection.weight).T if isinstance(projection, nn.Linear) else None
        layers[number] = replace(layers[number], has_skip=True, projection=matrix)


def _modules(module: nn.Module, place: str) -> Iterator[tuple[str, nn.Module]]:
    """Walk through nested Sequentials, and hidden layers with skips; yield what does something."""
    if isinstance(module, Residual):
        parts = [part for pair in zip(module.sums, module.rest, strict=True) for part in pair]
    elif isinstance(module, nn.Sequential):
        parts = list(module)  # not named_children, which passes over a module that is there twice
    else:
        if not isinstance(module, _PASSED_OVER):
            yield place or "itself", module
        return
    for number, part in enumerate(parts):
        yield from _modules(part, f"{place}.{number}".lstrip("."))


def _name_of(module: nn.Module, place: str) -> str:
    for name, entry in FUNCTIONS.items():
        if type(module).__name__ == entry.torch and isinstance(module, (Exp, getattr(nn, entry.torch, Exp))):
            if all(getattr(module, setting) == value for setting, value in entry.settings.items()):
                return name
            raise TypeError(f"module {place} ({module}) must be {_written(entry)}")
    norms = [entry.torch for entry in NORMALIZATIONS.values() if entry.torch != "Identity"]
    activations = [_written(entry) for entry in FUNCTIONS.values()]
    allowed = ["Sequential", "Linear", *norms, *activations, "Dropout", "Flatten"]
    raise TypeError(f"module {place} ({module}) is not part of a multilayer perceptron; allowed: {', '.join(allowed)}")


def _written(entry: Function) -> str:
    settings = ", ".join(f"{name}={value!r}" for name, value in entry.settings.items())
    return f"{entry.torch}({settings})"


def _numbers(tensor: torch.Tensor) -> np.ndarray[Any, Any]:
    tensor = tensor.detach().cpu()
    return np.asarray(tensor if tensor.dtype in (torch.float32, torch.float64) else tensor.float())
