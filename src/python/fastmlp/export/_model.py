"""What every format needs to know of a model: its layers, and how outputs become labels."""

from __future__ import annotations

from dataclasses import dataclass, replace
from importlib import import_module
from typing import TYPE_CHECKING, Any

import numpy as np

from fastmlp import _core
from fastmlp._losses import OUTPUT_ACTIVATIONS
from fastmlp._parameters import float_dtype, layer_sizes, views
from fastmlp._validation import hidden_activations
from fastmlp.export._functions import Function, function
from fastmlp.export._preprocessing import scaling
from fastmlp.network import Network

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True)
class Model:
    """A trained network, and scalers before it, as plain data.

    ``functions`` holds a name for each layer: the hidden activations, then the output activation. ``classes`` is None
    where outputs are numbers. With ``multilabel`` each output is the probability of one label.
    """

    coefs: list[NDArray[Any]]  # (fan_in, fan_out)
    intercepts: list[NDArray[Any]]  # (fan_out,)
    functions: list[str]
    classes: NDArray[Any] | None
    multilabel: bool
    feature_names: list[str]
    loss: str  # it owns the output activation, which may depend on its hyper-parameters
    loss_parameters: dict[str, Any]
    center: NDArray[Any] | None = None  # (n_features,), of scalers before the network: (x - center) * factor
    factor: NDArray[Any] | None = None

    @property
    def sizes(self) -> list[int]:
        """Units of each layer, input first."""
        return layer_sizes(self.coefs, self.intercepts)

    @property
    def dtype(self) -> np.dtype[Any]:
        """The numbers of the parameters: float32 or float64."""
        return float_dtype(np.result_type(*self.coefs, *self.intercepts))

    @property
    def two_columns(self) -> bool:
        """Whether a single output stands for two columns of probabilities, as in ``predict_proba``."""
        return self.classes is not None and self.sizes[-1] == 1

    @property
    def entries(self) -> list[Function]:
        """``functions`` in other languages."""
        *hidden, link = self.functions
        return [*map(function, hidden), function(link, self.loss_parameters, self.sizes[-1])]

    def scaled(self, X: Any) -> NDArray[Any]:
        """Return rows as the first layer takes them."""
        return np.asarray(X) if self.center is None else (np.asarray(X) - self.center) * self.factor

    def network(self, coefs: list[NDArray[Any]] | None = None, dtype: str = "float64") -> Network:
        """Return the same function, or that of other weights, as a ``Network``."""
        network = Network(self.sizes, self.functions[:-1], self.loss, dtype, loss_parameters=self.loss_parameters)
        network.weights = [coef.T for coef in coefs or self.coefs]
        network.biases = self.intercepts
        return network


def loss_of(link: str) -> str:
    """Return the name of the first loss that owns this output activation."""
    losses = [loss for loss, activation in OUTPUT_ACTIVATIONS.items() if activation == link]
    if not losses:
        valid = ", ".join(map(repr, dict.fromkeys(OUTPUT_ACTIVATIONS.values())))
        raise ValueError(f"unknown output activation {link!r}; valid names: {valid}")
    return losses[0]


def read_model(model: Any) -> Model:
    """Return what a model is.

    It may be a fitted estimator (ours or scikit-learn's), a pipeline of scalers and one of them, a ``Predictor``, or a
    ``Network``.

    Raises
    ------
    TypeError
        If it is something else.
    NotFittedError
        If it is an estimator that has not been fitted.
    """
    if hasattr(model, "steps"):
        *scalers, last = (step for _, step in model.steps)
        plan = read_model(last)
        center, factor = scaling(scalers, plan.sizes[0])
        return replace(plan, center=center, factor=factor, feature_names=_feature_names(model))
    if hasattr(model, "hidden_layer_sizes"):
        import_module("sklearn.utils.validation").check_is_fitted(model, "coefs_")
        _check_plain(bool(getattr(model, "residual", False)) or hasattr(model, "scales_"))
        coefs, intercepts = ([np.asarray(array) for array in arrays] for arrays in (model.coefs_, model.intercepts_))
        activations = hidden_activations(model.activation, len(coefs) - 1)
    elif hasattr(model, "layer_sizes"):
        _check_plain(not model.network.is_plain)
        coefs, intercepts = views(model.parameters, model.layer_sizes)
        activations = list(model.activations)
    else:
        allowed = "an MLPClassifier, an MLPRegressor, a Pipeline that ends in one, a Predictor or a Network"
        raise TypeError(f"model must be {allowed}, got {type(model).__name__}")
    link = model.output_activation if isinstance(model, Network) else model.out_activation_
    loss, parameters = _loss(model, link)
    classes = getattr(model, "classes_", None)
    multilabel = classes is not None and coefs[-1].shape[1] > 1 and link != "softmax"
    names = _feature_names(model)
    return Model(coefs, intercepts, [*activations, link], classes, multilabel, names, loss, parameters)


def _loss(model: Any, link: str) -> tuple[str, dict[str, Any]]:
    """Return the name of the loss and all its hyper-parameters."""
    loss: Any = model.loss_name if isinstance(model, Network) else getattr(model, "loss", None)
    given: Any = getattr(model, "loss_parameters", None) or {}
    if hasattr(model, "_core_loss"):
        loss, given = model._core_loss(), model._core_loss_parameters()
    if OUTPUT_ACTIVATIONS.get(loss) != link:  # scikit-learn calls its losses otherwise
        loss, given = loss_of(link), {}
    return loss, {**_core.losses()[loss]["hyperparameters"], **given}


def _check_plain(has_more: bool) -> None:
    if has_more:
        raise ValueError(
            "networks with normalization or residual skips cannot be exported; save(path) keeps all of them"
        )


def _feature_names(model: Any) -> list[str]:
    names = getattr(model, "feature_names_in_", None)
    return [] if names is None else [str(name) for name in names]
