"""What MLPClassifier and MLPRegressor share: parameters, fitting, raw predictions.

The subclasses say how targets become numbers for the core and how predictions become answers. Nothing here loops over
batches: data is checked, put into the core's form and handed to it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import cache, lru_cache
from inspect import signature
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from sklearn import get_config
from sklearn.base import BaseEstimator, TransformerMixin, _fit_context
from sklearn.utils import check_random_state
from sklearn.utils._param_validation import Interval, Options, StrOptions, validate_parameter_constraints
from sklearn.utils.validation import _check_sample_weight, check_is_fitted, validate_data

from fastmlp import _core
from fastmlp._engine import make_engine, network_of, predict_plain
from fastmlp._features import HiddenFeatures
from fastmlp._initialization import DEFAULT, Rule, initial_parameters, initialization_rules
from fastmlp._losses import LossParameters, loss_numbers, loss_with_link
from fastmlp._parameters import FlatParameters, array_shapes, float_dtype
from fastmlp._saving import Saving
from fastmlp._solvers import Solvers
from fastmlp._training import NOT_FINITE, Data
from fastmlp._validation import (
    core_array,
    core_matrix,
    hidden_activations,
    hidden_dropout,
    hidden_normalizations,
    unit_counts,
)
from fastmlp.schedules import NAMES

if TYPE_CHECKING:
    from numpy.typing import DTypeLike, NDArray
    from typing_extensions import Self

    from fastmlp._core import FloatArray
    from fastmlp.schedules import AnySchedule

SPARSE_FORMATS = ["csr", "csc"]


class BaseMLP(Solvers, Saving, HiddenFeatures, FlatParameters, TransformerMixin, BaseEstimator, ABC):  # type: ignore[misc]
    """A multilayer perceptron behind scikit-learn's interface; the parameters are described in the subclasses."""

    _score_name: ClassVar[str]

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        "hidden_layer_sizes": ["array-like", str, Interval(Integral, 1, None, closed="left")],
        "activation": [StrOptions(set(_core.activations())), list, tuple],
        "solver": [StrOptions({"lbfgs", *_core.optimizers()})],
        "alpha": [Interval(Real, 0, None, closed="left")],
        "batch_size": [StrOptions({"auto"}), Interval(Integral, 1, None, closed="left")],
        "learning_rate": [StrOptions({"constant", "invscaling", "adaptive", *NAMES}), callable],
        "learning_rate_init": [Interval(Real, 0, None, closed="neither")],
        "power_t": [Interval(Real, 0, None, closed="left")],
        "max_iter": [Interval(Integral, 1, None, closed="left")],
        "shuffle": ["boolean"],
        "random_state": ["random_state"],
        "tol": [Interval(Real, 0, None, closed="left")],
        "verbose": ["verbose"],
        "warm_start": ["boolean"],
        "momentum": [Interval(Real, 0, 1, closed="both")],
        "nesterovs_momentum": ["boolean"],
        "early_stopping": ["boolean"],
        "validation_fraction": [Interval(Real, 0, 1, closed="left")],
        "beta_1": [Interval(Real, 0, 1, closed="left")],
        "beta_2": [Interval(Real, 0, 1, closed="left")],
        "epsilon": [Interval(Real, 0, None, closed="neither")],
        "n_iter_no_change": [Interval(Integral, 1, None, closed="left"), Options(Real, {np.inf})],
        "max_fun": [Interval(Integral, 1, None, closed="left")],
        "n_jobs": [None, Options(Integral, {-1}), Interval(Integral, 1, None, closed="left")],
        "dtype": [None, StrOptions({"float32", "float64"})],
        "loss_parameters": [dict, None],
        "normalization": [None, str, list, tuple],
        "dropout": [Interval(Real, 0, 1, closed="left"), list, tuple],
        "input_dropout": [Interval(Real, 0, 1, closed="left")],
        "residual": ["boolean"],
        "initialization": [str, callable, list, tuple],
        "weight_decay": [Interval(Real, 0, None, closed="left")],
        "rho": [Interval(Real, 0, 1, closed="left")],
        "clip_norm": [None, Interval(Real, 0, None, closed="neither")],
        "clip_value": [None, Interval(Real, 0, None, closed="neither")],
        "ema_decay": [None, Interval(Real, 0, 1, closed="neither")],
    }

    def __init__(
        self,
        hidden_layer_sizes: int | str | Sequence[int] = (100,),
        activation: str | Sequence[str] = "relu",
        *,
        solver: str = "adam",
        alpha: float = 0.0001,
        batch_size: int | str = "auto",
        learning_rate: str | AnySchedule = "constant",
        learning_rate_init: float = 0.001,
        power_t: float = 0.5,
        max_iter: int = 200,
        shuffle: bool = True,
        random_state: int | np.random.RandomState | None = None,
        tol: float = 1e-4,
        verbose: bool = False,
        warm_start: bool = False,
        momentum: float = 0.9,
        nesterovs_momentum: bool = True,
        early_stopping: bool = False,
        validation_fraction: float = 0.1,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-8,
        n_iter_no_change: float = 10,
        max_fun: int = 15000,
        n_jobs: int | None = None,
        dtype: str | None = None,
        loss: str = "log_loss",
        loss_parameters: LossParameters | None = None,
        normalization: str | Sequence[str | None] | None = None,
        dropout: float | Sequence[float] = 0.0,
        input_dropout: float = 0.0,
        residual: bool = False,
        initialization: Rule | Sequence[Rule] = DEFAULT,
        weight_decay: float = 0.01,
        rho: float = 0.99,
        clip_norm: float | None = None,
        clip_value: float | None = None,
        ema_decay: float | None = None,
        class_weight: Any = None,
    ) -> None:
        for name, value in [*locals().items()]:
            if name != "self":
                setattr(self, name, value)

    @_fit_context(prefer_skip_nested_validation=True)  # type: ignore[untyped-decorator]
    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Fit the model to features and targets.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            Finite numbers. float32 is computed in float32, all else in float64, unless ``dtype`` says otherwise.
        y : array-like of shape (n_samples,) or (n_samples, n_outputs)
            Class labels or, in regression, finite numbers.
        sample_weight : array-like of shape (n_samples,), default=None
            Weight of each sample in the loss and in the validation score; None means 1.

        Returns
        -------
        self : object
            The fitted estimator.

        Raises
        ------
        ValueError
            For data that is not as above, for targets that the loss does not accept, and for a training that diverges.
        """
        return self._fit(X, y, sample_weight, incremental=False)

    def _fit(self, X: Any, y: Any, sample_weight: Any, incremental: bool) -> Self:
        hidden = unit_counts(self.hidden_layer_sizes, "hidden_layer_sizes")
        hidden_activations(self.activation, len(hidden))
        hidden_normalizations(self.normalization, len(hidden))
        hidden_dropout(self.dropout, len(hidden))
        initialization_rules(self.initialization, len(hidden) + 1)
        loss_numbers(self.loss, self.loss_parameters)  # refuses what the loss does not know, before all work
        first_pass = not hasattr(self, "coefs_") or (not self.warm_start and not incremental)
        X, y = self._validate_fit(X, y, incremental, reset=first_pass)
        if sample_weight is not None:
            sample_weight = _check_sample_weight(sample_weight, X)
        class_weights = self._weights_by_class(y, sample_weight, incremental)
        if class_weights is not None:
            sample_weight = class_weights if sample_weight is None else class_weights * sample_weight
        if sample_weight is not None:
            if not sample_weight.any():  # scikit-learn before 1.9 lets it pass
                raise ValueError("Sample weights must contain at least one non-zero number.")
            if sample_weight.sum() == 0:
                raise ValueError("Sample weights must not sum to 0: the loss is divided by their sum.")
        self._random_state = check_random_state(self.random_state)
        sizes = [X.shape[1], *hidden, self.n_outputs_]
        if first_pass:
            self.out_activation_ = self._first_output_activation()
        network = self._network(sizes)  # refuses sizes that no machine can hold
        if first_pass:
            self._initialize(network, X.dtype)
        parameters = self._own_parameters(network, self.dtype)
        dtype = np.dtype(np.float64) if self.solver == "lbfgs" else parameters.dtype
        engine = make_engine(network, dtype, self.n_jobs)
        if self.solver == "lbfgs":
            _refuse_chance(network)
        data = Data(
            core_matrix(X, dtype),
            y if y.ndim == 1 else core_array(y, dtype),
            None if sample_weight is None else core_array(sample_weight, dtype),
        )
        if self.solver == "lbfgs":
            self._fit_lbfgs(engine, parameters, data)
        else:
            self._fit_stochastic(engine, network, parameters, data, incremental)
        with np.errstate(over="ignore", invalid="ignore"):  # a finite sum has finite terms, and needs no room
            if not np.isfinite(parameters.sum()) and not np.isfinite(parameters).all():
                raise ValueError(NOT_FINITE)
        return self

    @abstractmethod
    def _validate_fit(self, X: Any, y: Any, incremental: bool, reset: bool) -> tuple[Any, NDArray[Any]]:
        """Check data; return features and targets: int32 class numbers (n,), else numbers (n, m). Sets n_outputs_."""

    @abstractmethod
    def _first_output_activation(self) -> str:
        """Name of the output activation of a new network."""

    def _weights_by_class(self, y: NDArray[Any], sample_weight: Any, incremental: bool) -> NDArray[Any] | None:
        """Weights of samples that follow from their checked targets, if any."""
        return None

    def _stratify(self, y: NDArray[Any]) -> NDArray[Any] | None:
        """What the split for early stopping keeps balanced."""
        return None

    def _core_loss(self) -> str:
        """Name of the loss that owns ``out_activation_``: ``loss``, or its sibling for two classes and for labels."""
        return loss_with_link(self.loss, self.out_activation_)

    def _core_loss_parameters(self) -> dict[str, Any]:
        return loss_numbers(self._core_loss(), self.loss_parameters)

    def _network(self, sizes: list[int]) -> _core.Network:
        plain = self.normalization is None and not self.residual and self.dropout == self.input_dropout == 0
        if plain and self.loss_parameters is None and isinstance(self.activation, str):  # a row must not wait for more
            return _plain_network(tuple(sizes), self.activation, self.loss, self.out_activation_)
        n_hidden = len(sizes) - 2
        loss_parameters = tuple((name, tuple(np.ravel(v))) for name, v in self._core_loss_parameters().items())
        extras: tuple[Any, ...] = ()
        if not plain:
            dropout = [float(self.input_dropout), *hidden_dropout(self.dropout, n_hidden)]
            extras = tuple(hidden_normalizations(self.normalization, n_hidden)), tuple(dropout), bool(self.residual)
        activations = tuple(hidden_activations(self.activation, n_hidden))
        return network_of(tuple(sizes), activations, self._core_loss(), loss_parameters, *extras)

    def _initialize(self, network: _core.Network, dtype: DTypeLike) -> None:
        self.n_iter_ = 0
        self.t_ = 0
        self.n_layers_ = len(network.layer_sizes)
        flat = initial_parameters(network, self.activation, self.initialization, self._random_state, dtype)
        self._set_parameters(flat, array_shapes(network))
        if self.solver != "lbfgs":
            self._start_records()

    # --- predictions --------------------------------------------------------------------------------------------------

    def _outputs(self, X: Any) -> FloatArray:
        """Return the output layer (n_samples, n_outputs), computed in the dtype of X and the weights together."""
        if "coefs_" not in vars(self):  # the check takes longer than a row of a small network
            check_is_fitted(self)
        flat, sizes = self._parameters()
        network = self._network(sizes)
        if (
            sizes[0] == getattr(self, "n_features_in_", None)
            and (self.dtype is None or self.dtype == flat.dtype)
            and not hasattr(self, "feature_names_in_")
        ):
            outputs = predict_plain(network, flat, X, self.n_jobs, assume_finite=get_config()["assume_finite"])
            if outputs is not None:  # X is what the validation would return unchanged
                return outputs
        return self._layer(X, len(sizes) - 1)

    def _layer(self, X: Any, layer: int) -> FloatArray:
        """Return a layer (n_samples, n_units) of a fitted network; 0 is the input. As ``_outputs``, for any X."""
        flat, sizes = self._parameters()
        X = validate_data(self, X, accept_sparse=SPARSE_FORMATS, dtype=self.dtype or "numeric", reset=False)
        if sizes[0] != X.shape[1]:
            raise ValueError(f"coefs_[0] must have shape ({X.shape[1]}, n), got {np.shape(self.coefs_[0])}")
        dtype = float_dtype(self.dtype or np.result_type(X.dtype, flat.dtype))
        engine = make_engine(self._network(sizes), dtype, self.n_jobs)
        return engine.predict(core_array(flat, dtype), core_matrix(X, dtype), layer)

    # --- scikit-learn's protocols -------------------------------------------------------------------------------------

    def _validate_params(self) -> None:
        """Validate parameters as scikit-learn does, but for defaults: to look at all takes longer than a small fit."""
        names = (name for name, default in _defaults(type(self)).items() if getattr(self, name) is not default)
        given = {name: getattr(self, name) for name in names}
        validate_parameter_constraints(self._parameter_constraints, given, caller_name=type(self).__name__)

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__({**_defaults(type(self)), **state})  # a pickle of an older version lacks the newer ones

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        tags.transformer_tags.preserves_dtype = [self.dtype] if self.dtype else ["float64", "float32"]
        return tags


@lru_cache(maxsize=256)
def _plain_network(sizes: tuple[int, ...], activation: str, loss: str, out_activation: str) -> _core.Network:
    """Return the network of hidden layers that are all alike and do no more than their activation."""
    activations = tuple(hidden_activations(activation, len(sizes) - 2))
    return network_of(sizes, activations, loss_with_link(loss, out_activation))


@cache
def _defaults(estimator: type) -> dict[str, Any]:
    """Return the parameters of a class and their defaults."""
    return {name: parameter.default for name, parameter in signature(estimator).parameters.items()}


def _refuse_chance(network: _core.Network) -> None:
    """Raise if the loss would change from one evaluation to the next, or with the rows: L-BFGS needs one function."""
    if any(network.dropout):
        raise ValueError("dropout needs a solver that descends batch by batch, not 'lbfgs'")
    averages = {name for name, entry in _core.normalizations().items() if entry["averages"]}
    if found := averages.intersection(network.normalizations):
        raise ValueError(f"normalization {found.pop()!r} needs a solver that descends batch by batch, not 'lbfgs'")
