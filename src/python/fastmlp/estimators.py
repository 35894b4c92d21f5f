"""What MLPClassifier and MLPRegressor share: parameters and fitting.

The subclasses say how targets become numbers for the core and how predictions become answers. Nothing here loops over
batches: data is checked, put into the core's form and handed to it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from sklearn.base import BaseEstimator, TransformerMixin, _fit_context
from sklearn.utils.validation import _check_sample_weight, check_is_fitted

from fastmlp import _core
from fastmlp._answers import Answers
from fastmlp._calibrated import forget_calibration
from fastmlp._constraints import Constraints, defaults
from fastmlp._engine import make_engine, network_of
from fastmlp._features import HiddenFeatures
from fastmlp._held_out import HeldOut, UserData, metrics_by_name
from fastmlp._initialization import DEFAULT, Rule, initial_parameters, initialization_rules
from fastmlp._losses import (
    CustomLoss,
    LossParameters,
    batch_loss,
    loss_and_activation,
    loss_numbers,
)
from fastmlp._parameters import array_shapes
from fastmlp._placement import Placement, keeps_what_was_learned
from fastmlp._random_state import RandomNumbers
from fastmlp._saving import Saving
from fastmlp._scikit_learn_callbacks import CallbackSupportMixin, with_callbacks
from fastmlp._solvers import Solvers, Start
from fastmlp._training import core_data, refuse_non_finite
from fastmlp._validation import (
    core_array,
    hidden_activations,
    hidden_dropout,
    hidden_normalizations,
    unit_counts,
)
from fastmlp.callbacks import as_callbacks

if TYPE_CHECKING:
    from numpy.typing import DTypeLike, NDArray
    from typing_extensions import Self

    from fastmlp._training import Data
    from fastmlp.schedules import AnySchedule


class BaseMLP(
    Constraints,
    Solvers,
    Placement,
    Saving,
    HiddenFeatures,
    Answers,
    CallbackSupportMixin,  # type: ignore[misc]
    TransformerMixin,  # type: ignore[misc]
    BaseEstimator,  # type: ignore[misc]
    ABC,
):
    """A multilayer perceptron behind scikit-learn's interface; the parameters are described in the subclasses."""

    _score_name: ClassVar[str]
    _default_loss: ClassVar[str]

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
        validation_fraction: Any = 0.1,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-8,
        n_iter_no_change: float = 10,
        max_fun: int = 15000,
        n_jobs: int | None = None,
        dtype: str | None = None,
        loss: str | CustomLoss = "log_loss",
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
        output_activation: str | None = None,
        eval_metric: Any = None,
        max_time: float | None = None,
        on_divergence: str = "raise",
        callbacks: Any = None,
        device: str = "cpu",
        precision: str = "ieee",
        class_weight: Any = None,
        calibration: str | None = None,
    ) -> None:
        for name, value in [*locals().items()]:
            if name != "self":
                setattr(self, name, value)

    @_fit_context(prefer_skip_nested_validation=True)  # type: ignore[untyped-decorator]
    @with_callbacks  # type: ignore[untyped-decorator]
    def fit(
        self,
        X: Any,
        y: Any,
        sample_weight: Any = None,
        *,
        X_val: Any = None,
        y_val: Any = None,
        sample_weight_val: Any = None,
        groups: Any = None,
    ) -> Self:
        """Fit the model to features and targets.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            Finite numbers. float32 is computed in float32, all else in float64, unless ``dtype`` says otherwise.
        y : array-like of shape (n_samples,) or (n_samples, n_outputs)
            Class labels or, in regression, finite numbers.
        sample_weight : array-like of shape (n_samples,), default=None
            Weight of each sample in the loss and in the validation score; None means 1.
        X_val : {array-like, sparse matrix} of shape (n_val, n_features), default=None
            Data of its own to validate on after each epoch: see ``history_``. With ``early_stopping`` it takes the
            place of rows set aside. "lbfgs" refuses it.
        y_val : array-like of shape (n_val,) or (n_val, n_outputs), default=None
            Its targets.
        sample_weight_val : array-like of shape (n_val,), default=None
            Its weights; None means 1.
        groups : array-like of shape (n_samples,), default=None
            Groups of the samples, for a splitter as ``validation_fraction``.

        Returns
        -------
        self : object
            The fitted estimator.

        Raises
        ------
        ValueError
            For data that is not as above, for targets that the loss does not accept, and for a training that diverges.
        """
        return self._fit(X, y, sample_weight, False, groups, (X_val, y_val, sample_weight_val))

    @keeps_what_was_learned
    def _fit(
        self,
        X: Any,
        y: Any,
        sample_weight: Any,
        incremental: bool,
        groups: Any = None,
        validation: tuple[Any, Any, Any] = (None, None, None),
    ) -> Self:
        if incremental and self.early_stopping:
            raise ValueError("partial_fit does not support early_stopping=True")
        gpu = self._check_device(X, validation[0])
        if groups is not None and (self.solver == "lbfgs" or not self.early_stopping or validation[0] is not None):
            raise ValueError("groups are for the splitter of early_stopping=True, which is not used here")
        start = self._begin(X, y, sample_weight, groups, incremental, RandomNumbers(self.random_state))
        dtype = np.dtype(np.float64) if self.solver == "lbfgs" else start.parameters.dtype
        gpu = self._place(gpu, start.network, start.X, validation[0], dtype, 1 if incremental else self.max_iter)
        engine = make_engine(start.network, dtype, self.n_jobs, batch_loss(self.loss), gpu)
        forget_calibration(self)
        held_out = self._own_validation(validation, dtype)
        if self.solver == "lbfgs":
            self._fit_lbfgs(engine, start.parameters, start.data)
        else:
            self._fit_stochastic(engine, start, held_out, incremental)
        refuse_non_finite(start.parameters)
        return self

    def _begin(
        self, X: Any, y: Any, sample_weight: Any, groups: Any, incremental: bool, random: RandomNumbers
    ) -> Start:
        """Check parameters and data, and learn from them all that is known before the first step."""
        hidden = unit_counts(self.hidden_layer_sizes, "hidden_layer_sizes")
        hidden_activations(self.activation, len(hidden))
        hidden_normalizations(self.normalization, len(hidden))
        hidden_dropout(self.dropout, len(hidden))
        initialization_rules(self.initialization, len(hidden) + 1)
        loss_numbers(self.loss, self.loss_parameters)  # refuses what the loss does not know, before all work
        first_pass = not hasattr(self, "coefs_") or (not self.warm_start and not incremental)
        metrics_by_name(self.eval_metric, self._score_name)
        as_callbacks(self.callbacks)
        y, sample_weight = self._on_host(y, "y"), self._on_host(sample_weight, "sample_weight")
        given_X = X
        X, labels = self._validate_data(X, y, reset=first_pass)
        self._learn_targets(labels, incremental)
        y = self._encode(labels)
        sample_weight = self._weights(X, y, sample_weight, incremental)
        given = UserData(given_X, labels, sample_weight, None if groups is None else np.asarray(groups))
        sizes = [X.shape[1], *hidden, self.n_outputs_]
        if first_pass:
            self.out_activation_ = self._first_output_activation()
        else:
            self._refuse_other_output_activation()
        network = self._network(sizes)  # refuses sizes that no machine can hold
        if self.solver == "lbfgs":
            _refuse_chance(network)
        if first_pass:
            self._initialize(network, X.dtype, random)
        parameters = self._own_parameters(network, self.dtype)
        dtype = np.dtype(np.float64) if self.solver == "lbfgs" else parameters.dtype
        return Start(network, parameters, X, core_data(X, y, sample_weight, dtype), given, random)

    def _weights(self, X: Any, y: NDArray[Any], sample_weight: Any, incremental: bool) -> NDArray[Any] | None:
        """Return the weights of samples, those of their classes included; None if all are 1."""
        if sample_weight is not None:
            sample_weight = _check_sample_weight(sample_weight, X)
        class_weights = self._weights_by_class(y, sample_weight, incremental)
        if class_weights is not None:
            sample_weight = class_weights if sample_weight is None else class_weights * sample_weight
        if sample_weight is None:
            return None
        if not sample_weight.any():  # scikit-learn before 1.9 lets it pass
            raise ValueError("Sample weights must contain at least one non-zero number.")
        if sample_weight.sum() == 0:
            raise ValueError("Sample weights must not sum to 0: the loss is divided by their sum.")
        return np.asarray(sample_weight)

    def _own_validation(self, validation: tuple[Any, Any, Any], dtype: np.dtype[Any]) -> HeldOut | None:
        """Check the data for validation, if there is any."""
        X, y, sample_weight = validation
        if X is None and y is None and sample_weight is None:
            return None
        if X is None or y is None:
            raise ValueError("X_val and y_val belong together: fit was given only one of them, or only weights")
        if self.solver == "lbfgs":
            raise ValueError("X_val needs a solver that descends batch by batch, not 'lbfgs'")
        y, sample_weight = self._on_host(y, "y_val"), self._on_host(sample_weight, "sample_weight_val")
        given_X = X
        X, labels = self._validate_data(X, y, reset=False, name="X_val")
        self._check_known(labels, "y_val")
        y = self._encode(labels)
        sample_weight = self._weights(X, y, sample_weight, incremental=False)
        user_data = (given_X, labels, sample_weight)
        return HeldOut(None, core_data(X, y, sample_weight, dtype), lambda: user_data)

    def _checked_targets(self, X: Any, y: Any, sample_weight: Any) -> tuple[_core.Network, NDArray[Any], Data]:
        """Return a fitted network, its parameters and data as a training would take them, all in float64."""
        check_is_fitted(self)
        flat, sizes = self._parameters()
        X, labels = self._validate_data(X, y, reset=False)
        self._check_known(labels, "y")
        y = self._encode(labels)
        weights = self._weights(X, y, sample_weight, incremental=False)
        wide = np.dtype(np.float64)
        return self._network(sizes), core_array(flat, wide), core_data(X, y, weights, wide)

    @abstractmethod
    def _validate_data(self, X: Any, y: Any, reset: bool, name: str = "X") -> tuple[Any, NDArray[Any]]:
        """Check data, of which errors call the features ``name``; return features and targets in the user's form."""

    @abstractmethod
    def _learn_targets(self, y: NDArray[Any], incremental: bool) -> None:
        """Learn what targets there are: sets ``n_outputs_``, and ``classes_`` of a classifier."""

    def _check_known(self, y: NDArray[Any], name: str) -> None:
        """Raise if there are targets that cannot be predicted."""

    @abstractmethod
    def _encode(self, y: NDArray[Any]) -> NDArray[Any]:
        """Return checked targets as the core takes them: int32 class numbers (n,), else numbers (n, n_targets)."""

    @abstractmethod
    def _first_output_activation(self) -> str:
        """Name of the output activation of a new network; refuses an ``output_activation`` that the loss does not."""

    def _refuse_other_output_activation(self) -> None:
        """Raise if training cannot go on with the output activation that the network has."""
        kept = f"a fitted network keeps its output activation {self.out_activation_!r}"
        if self.output_activation not in (None, self.out_activation_):
            raise ValueError(f"{kept}: output_activation must be None or that, got {self.output_activation!r}")
        if isinstance(self.loss, str) and self._core_loss() not in (self.loss, f"binary_{self.loss}"):
            raise ValueError(f"{kept}, which loss={self.loss!r} does not have: fit anew with warm_start=False")

    def _weights_by_class(self, y: NDArray[Any], sample_weight: Any, incremental: bool) -> NDArray[Any] | None:
        """Weights of samples that follow from their checked targets, if any."""
        return None

    def _stratify(self, y: NDArray[Any]) -> NDArray[Any] | None:
        """What the split for early stopping keeps balanced."""
        return None

    def _loss_and_activation(self) -> tuple[str, str]:
        """The core's loss and the activation before it; a custom loss is that of its output activation to the core."""
        return loss_and_activation(self._loss_by_name(), self.out_activation_)

    def _loss_by_name(self) -> str:
        return self.loss if isinstance(self.loss, str) else self._default_loss

    def _core_loss(self) -> str:
        """Name of the loss that owns ``out_activation_``: ``loss``, or its sibling for two classes and for labels."""
        return self._loss_and_activation()[0]

    def _core_loss_parameters(self) -> dict[str, Any]:
        return loss_numbers(self._core_loss(), self.loss_parameters)

    def _network(self, sizes: list[int]) -> _core.Network:
        plain = self.normalization is None and not self.residual and self.dropout == self.input_dropout == 0
        if plain and self.loss_parameters is None and isinstance(self.activation, str):  # a row must not wait for more
            return _plain_network(tuple(sizes), self.activation, self._loss_by_name(), self.out_activation_)
        n_hidden = len(sizes) - 2
        loss_parameters = tuple((name, tuple(np.ravel(v))) for name, v in self._core_loss_parameters().items())
        extras: tuple[Any, ...] = ()
        if not plain:
            dropout = [float(self.input_dropout), *hidden_dropout(self.dropout, n_hidden)]
            extras = tuple(hidden_normalizations(self.normalization, n_hidden)), tuple(dropout), bool(self.residual)
        activations = tuple(hidden_activations(self.activation, n_hidden))
        loss, activation = self._loss_and_activation()
        if activation != "identity":
            extras = *(extras or ((), (), False)), activation
        return network_of(tuple(sizes), activations, loss, loss_parameters, *extras)

    def _initialize(self, network: _core.Network, dtype: DTypeLike, random: RandomNumbers) -> None:
        self.n_iter_ = 0
        self.t_ = 0
        self.n_layers_ = len(network.layer_sizes)
        flat = initial_parameters(network, self.activation, self.initialization, random.random_state, dtype)
        self._set_parameters(flat, array_shapes(network))
        if self.solver != "lbfgs":
            self._start_records()

    # --- scikit-learn's protocols -------------------------------------------------------------------------------------

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__({**defaults(type(self)), **state})  # a pickle of an older version lacks the newer ones

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        tags.transformer_tags.preserves_dtype = [self.dtype] if self.dtype else ["float64", "float32"]
        return tags


@lru_cache(maxsize=256)
def _plain_network(sizes: tuple[int, ...], activation: str, loss: str, out_activation: str) -> _core.Network:
    """Return the network of hidden layers that are all alike and do no more than their activation."""
    core_loss, output = loss_and_activation(loss, out_activation)
    extras: tuple[Any, ...] = () if output == "identity" else ((), (), False, output)
    return network_of(sizes, tuple(hidden_activations(activation, len(sizes) - 2)), core_loss, (), *extras)


def _refuse_chance(network: _core.Network) -> None:
    """Raise if the loss would change from one evaluation to the next, or with the rows: L-BFGS needs one function."""
    if any(network.dropout):
        raise ValueError("dropout needs a solver that descends batch by batch, not 'lbfgs'")
    averages = {name for name, entry in _core.normalizations().items() if entry["averages"]}
    if found := averages.intersection(network.normalizations):
        raise ValueError(f"normalization {found.pop()!r} needs a solver that descends batch by batch, not 'lbfgs'")
