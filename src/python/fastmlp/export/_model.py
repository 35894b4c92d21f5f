"""What every format needs to know of a model: its layers, and how outputs become labels."""

from __future__ import annotations

from dataclasses import dataclass, replace
from importlib import import_module
from typing import TYPE_CHECKING, Any

import numpy as np

from fastmlp import _core
from fastmlp._losses import loss_and_activation
from fastmlp._parameters import KINDS, array_shapes, cut, float_dtype, layer_sizes
from fastmlp._validation import hidden_activations
from fastmlp.export._functions import EPSILON, Function, Normalization, function, normalization
from fastmlp.export._preprocessing import scaling
from fastmlp.network import Network

if TYPE_CHECKING:
    from numpy.typing import NDArray


# arrays of a layer: their names in ``Layer``, and among the parameters
_KINDS = dict(zip(("coef", "intercept", "scale", "offset", "projection", "mean", "variance"), KINDS, strict=True))


@dataclass(frozen=True)
class Layer:
    """One layer: z = x W + b, with a skip plus the z of the layer below, or its product with ``projection``.

    What it hands on is ``function`` of z, which is normalised, multiplied by ``scale``, and moved by ``offset`` before.
    """

    coef: NDArray[Any]  # (fan_in, fan_out)
    intercept: NDArray[Any]  # (fan_out,)
    function: str  # name of the activation, or of the output activation
    normalization: str = "none"
    scale: Any = None  # (fan_out,) or None, as are all of these
    offset: Any = None
    mean: NDArray[Any] | None = None  # statistics of training, where the normalisation takes those
    variance: NDArray[Any] | None = None
    has_skip: bool = False
    projection: NDArray[Any] | None = None  # (fan_in, fan_out)

    @property
    def matrix(self) -> NDArray[Any]:
        """All weights: with a projection, those of x and z side by side."""
        return self.coef if self.projection is None else np.concatenate([self.coef, self.projection])

    @property
    def normalized(self) -> Normalization:
        """What is left of the normalisation in other languages, before ``scale_and_offset``."""
        return normalization(self.normalization)

    @property
    def scale_and_offset(self) -> tuple[NDArray[Any] | None, NDArray[Any] | None]:
        """Both, with the statistics of training folded into them."""
        if self.mean is None or self.variance is None:
            return self.scale, self.offset
        scale = self.scale / np.sqrt(self.variance.astype(float) + EPSILON)
        return scale, self.offset - self.mean * scale

    @property
    def steps(self) -> str:
        """What it is, in words."""
        names = [self.normalization] * (self.normalization != "none") + [self.function]
        return f"{self.coef.shape[1]} {' '.join(names)}"


@dataclass(frozen=True)
class Model:
    """A trained network, and scalers before it, as plain data.

    ``classes`` is None where outputs are numbers. With ``multilabel`` each output is the probability of one label.
    """

    layers: list[Layer]
    classes: NDArray[Any] | None
    multilabel: bool
    feature_names: list[str]
    loss: str  # it may own the output activation, which may depend on its hyper-parameters
    loss_parameters: dict[str, Any]
    center: NDArray[Any] | None = None  # (n_features,), of scalers before the network: (x - center) * factor
    factor: NDArray[Any] | None = None

    @property
    def sizes(self) -> list[int]:
        """Units of each layer, input first."""
        return [len(self.layers[0].coef), *(layer.coef.shape[1] for layer in self.layers)]

    @property
    def dtype(self) -> np.dtype[Any]:
        """The numbers of the parameters: float32 or float64."""
        return float_dtype(np.result_type(*(array for layer in self.layers for array in (layer.coef, layer.intercept))))

    @property
    def two_columns(self) -> bool:
        """Whether a single output stands for two columns of probabilities, as in ``predict_proba``."""
        return self.classes is not None and self.sizes[-1] == 1

    @property
    def entries(self) -> list[Function]:
        """The functions of all layers in other languages."""
        *hidden, last = self.layers
        link = function(last.function, self.loss_parameters, self.sizes[-1])
        return [*(function(layer.function) for layer in hidden), link]

    def scaled(self, X: Any) -> NDArray[Any]:
        """Return rows as the first layer takes them."""
        return np.asarray(X) if self.center is None else (np.asarray(X) - self.center) * self.factor

    def passes_on(self, number: int) -> bool:
        """Whether a skip takes the sums of a layer to the next one."""
        return number + 1 < len(self.layers) and self.layers[number + 1].has_skip

    def network(self, matrices: list[NDArray[Any]] | None = None, dtype: str = "float64") -> Network:
        """Return the same function, or that of other weights, as a ``Network``."""
        *hidden, last = self.layers
        network = Network(
            self.sizes,
            [layer.function for layer in hidden],
            self.loss,
            dtype,
            loss_parameters=self.loss_parameters,
            normalization=[layer.normalization for layer in hidden],
            residual=any(layer.has_skip for layer in hidden),
            output_activation=None if last.function == "identity" else last.function,
        )
        arrays = cut(network.parameters, array_shapes(network.network))
        for number, layer in enumerate(self.layers):
            matrix, n_in = matrices[number] if matrices else layer.matrix, len(layer.coef)
            weights = {"coef": matrix[:n_in], "projection": matrix[n_in:]}
            for name, kind in _KINDS.items():
                if number < len(arrays[kind]) and arrays[kind][number] is not None:
                    arrays[kind][number][...] = weights.get(name, getattr(layer, name))
        return network


def loss_of(link: str) -> str:
    """Return the name of the first loss that owns this output activation, else the first that has none of its own."""
    return loss_and_activation("", link)[0]


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
        network = _network(model, layer_sizes(model.coefs_, model.intercepts_))
        arrays = {kind: [*getattr(model, f"{kind}_", [])] for kind in KINDS}
    elif hasattr(model, "layer_sizes"):
        network = model.network
        arrays = cut(model.parameters, array_shapes(network))
    else:
        allowed = "an MLPClassifier, an MLPRegressor, a Pipeline that ends in one, a Predictor or a Network"
        raise TypeError(f"model must be {allowed}, got {type(model).__name__}")
    link = model.output_activation if isinstance(model, Network) else model.out_activation_
    loss, parameters = _loss(model, link)
    classes = getattr(model, "classes_", None)
    multilabel = classes is not None and network.layer_sizes[-1] > 1 and link != "softmax"
    return Model(_layers(network, arrays, link), classes, multilabel, _feature_names(model), loss, parameters)


def _network(model: Any, sizes: list[int]) -> _core.Network:
    """Return the core's description of a fitted estimator, ours or scikit-learn's."""
    if hasattr(model, "_network"):
        network: _core.Network = model._network(sizes)
        return network
    return _core.Network(sizes, hidden_activations(model.activation, len(sizes) - 2), loss_of(model.out_activation_))


def _layers(network: _core.Network, arrays: dict[str, list[Any]], link: str) -> list[Layer]:
    functions, normalizations = [*network.activations, link], [*network.normalizations, "none"]
    layers = []
    for number, names in enumerate(zip(functions, normalizations, strict=True)):
        given = {ours: arrays[kind][number] for ours, kind in _KINDS.items() if number < len(arrays[kind])}
        parts: dict[str, Any] = {ours: None if array is None else np.asarray(array) for ours, array in given.items()}
        has_skip = network.residual and 0 < number < len(functions) - 1
        layers.append(Layer(**parts, function=names[0], normalization=names[1], has_skip=has_skip))
    return layers


def _loss(model: Any, link: str) -> tuple[str, dict[str, Any]]:
    """Return the name of the loss and all its hyper-parameters."""
    loss: Any = model.loss_name if isinstance(model, Network) else getattr(model, "loss", None)
    given: Any = getattr(model, "loss_parameters", None) or {}
    if hasattr(model, "_core_loss"):
        loss, given = model._core_loss(), model._core_loss_parameters()
    found = loss_and_activation(loss, link)[0]
    if found != loss:  # scikit-learn calls its losses otherwise
        loss, given = found, {}
    return loss, {**_core.losses()[loss]["hyperparameters"], **given}


def _feature_names(model: Any) -> list[str]:
    names = getattr(model, "feature_names_in_", None)
    return [] if names is None else [str(name) for name in names]
