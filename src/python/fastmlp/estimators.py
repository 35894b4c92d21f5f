"""What MLPClassifier and MLPRegressor share: parameters, fitting, raw predictions.

The subclasses say how targets become numbers for the core and how predictions become answers. Nothing here loops over
batches: data is checked, put into the core's form and handed to it.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from inspect import signature
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from sklearn.base import BaseEstimator, _fit_context
from sklearn.utils import check_random_state
from sklearn.utils._param_validation import Interval, Options, StrOptions
from sklearn.utils.validation import _check_sample_weight, check_is_fitted, validate_data

from fastmlp import _core
from fastmlp._engine import make_engine
from fastmlp._losses import LossParameters, loss_numbers, loss_with_link
from fastmlp._parameters import FlatParameters, float_dtype, glorot_uniform
from fastmlp._saving import Saving
from fastmlp._training import (
    NOT_FINITE,
    Data,
    batch_rows,
    conclude,
    minimize_lbfgs,
    print_stop,
    report_epochs,
    shuffles_of,
    split_rows,
)
from fastmlp._validation import core_array, core_matrix, hidden_activations, unit_counts
from fastmlp.optimizer_state import OptimizerState

if TYPE_CHECKING:
    from numpy.typing import DTypeLike, NDArray
    from typing_extensions import Self

    from fastmlp._core import FloatArray

SPARSE_FORMATS = ["csr", "csc"]

# estimator parameters that the core's optimizers call otherwise; all others are passed under their own name
_PARAMETER_OF = {"nesterov": "nesterovs_momentum"}


class BaseMLP(Saving, FlatParameters, BaseEstimator, ABC):  # type: ignore[misc]
    """A multilayer perceptron behind scikit-learn's interface; the parameters are described in the subclasses."""

    _score_name: ClassVar[str]

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        "hidden_layer_sizes": ["array-like", Interval(Integral, 1, None, closed="left")],
        "activation": [StrOptions(set(_core.activations())), list, tuple],
        "solver": [StrOptions({"lbfgs", *_core.optimizers()})],
        "alpha": [Interval(Real, 0, None, closed="left")],
        "batch_size": [StrOptions({"auto"}), Interval(Integral, 1, None, closed="left")],
        "learning_rate": [StrOptions({"constant", "invscaling", "adaptive"})],
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
    }

    def __init__(
        self,
        hidden_layer_sizes: int | Sequence[int] = (100,),
        activation: str | Sequence[str] = "relu",
        *,
        solver: str = "adam",
        alpha: float = 0.0001,
        batch_size: int | str = "auto",
        learning_rate: str = "constant",
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
    ) -> None:
        self.hidden_layer_sizes = hidden_layer_sizes
        self.activation = activation
        self.solver = solver
        self.alpha = alpha
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.learning_rate_init = learning_rate_init
        self.power_t = power_t
        self.max_iter = max_iter
        self.shuffle = shuffle
        self.random_state = random_state
        self.tol = tol
        self.verbose = verbose
        self.warm_start = warm_start
        self.momentum = momentum
        self.nesterovs_momentum = nesterovs_momentum
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.beta_1 = beta_1
        self.beta_2 = beta_2
        self.epsilon = epsilon
        self.n_iter_no_change = n_iter_no_change
        self.max_fun = max_fun
        self.n_jobs = n_jobs
        self.dtype = dtype
        self.loss = loss
        self.loss_parameters = loss_parameters

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
        activations = hidden_activations(self.activation, len(hidden))
        loss_numbers(self.loss, self.loss_parameters)  # refuses what the loss does not know, before all work
        first_pass = not hasattr(self, "coefs_") or (not self.warm_start and not incremental)
        X, y = self._validate_fit(X, y, incremental, reset=first_pass)
        if sample_weight is not None:
            sample_weight = _check_sample_weight(sample_weight, X)
            if not sample_weight.any():  # scikit-learn before 1.9 lets it pass
                raise ValueError("Sample weights must contain at least one non-zero number.")
            if sample_weight.sum() == 0:
                raise ValueError("Sample weights must not sum to 0: the loss is divided by their sum.")
        self._random_state = check_random_state(self.random_state)
        sizes = [X.shape[1], *hidden, self.n_outputs_]
        if first_pass:
            self.out_activation_ = self._first_output_activation()
        network = self._network(sizes, activations)  # refuses sizes that no machine can hold
        if first_pass:
            self._initialize(sizes, X.dtype)
        parameters = self._own_parameters(sizes, self.dtype)
        dtype = np.dtype(np.float64) if self.solver == "lbfgs" else parameters.dtype
        engine = make_engine(network, dtype, self.n_jobs)
        data = Data(
            core_matrix(X, dtype),
            y if y.ndim == 1 else core_array(y, dtype),
            None if sample_weight is None else core_array(sample_weight, dtype),
        )
        if self.solver == "lbfgs":
            self._fit_lbfgs(engine, parameters, data)
        else:
            self._fit_stochastic(engine, parameters, data, sizes, incremental)
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

    def _stratify(self, y: NDArray[Any]) -> NDArray[Any] | None:
        """What the split for early stopping keeps balanced."""
        return None

    def _core_loss(self) -> str:
        """Name of the loss that owns ``out_activation_``: ``loss``, or its sibling for two classes and for labels."""
        return loss_with_link(self.loss, self.out_activation_)

    def _core_loss_parameters(self) -> dict[str, Any]:
        return loss_numbers(self._core_loss(), self.loss_parameters)

    def _network(self, sizes: list[int], activations: list[str]) -> _core.Network:
        return _core.Network(sizes, activations, self._core_loss(), self._core_loss_parameters())

    # --- solvers ------------------------------------------------------------------------------------------------------

    def _initialize(self, sizes: list[int], dtype: DTypeLike) -> None:
        self.n_iter_ = 0
        self.t_ = 0
        self.n_layers_ = len(sizes)
        self._set_parameters(glorot_uniform(sizes, self.activation, self._random_state, dtype), sizes)
        if self.solver != "lbfgs":
            self._start_records()

    def _fit_lbfgs(self, engine: _core.Engine, parameters: NDArray[Any], data: Data) -> None:
        outcome = minimize_lbfgs(
            engine,
            parameters,
            data,
            alpha=self.alpha,
            loss_share=self.n_outputs_ if _core.losses()[self._core_loss()]["mean_over_outputs"] else 1,
            max_iter=self.max_iter,
            max_fun=self.max_fun,
            tol=self.tol,
            verbose=bool(self.verbose),
        )
        self.loss_, self.n_iter_ = outcome.loss, outcome.n_iter

    def _fit_stochastic(
        self, engine: _core.Engine, parameters: NDArray[Any], data: Data, sizes: list[int], incremental: bool
    ) -> None:
        if self.early_stopping and incremental:
            raise ValueError("partial_fit does not support early_stopping=True")
        if not incremental or not hasattr(self, "_optimizer"):
            self._optimizer = self._new_optimizer(sizes, parameters.dtype)
        if not hasattr(self, "loss_curve_") or self.early_stopping != self._has_scores():
            self._start_records()
        rows = validation_rows = None
        if self.early_stopping:
            stratify = self._stratify(data.y)
            rows, validation_rows = split_rows(data.n_rows, self.validation_fraction, stratify, self._random_state)
        batch_size = batch_rows(self.batch_size, data.n_rows if rows is None else len(rows))
        options = self._training_options(batch_size, 1 if incremental else self.max_iter)
        verbose, listener = bool(self.verbose), getattr(self, "_on_epoch", None)
        with shuffles_of(self._random_state) as stream:
            outcome = engine.train(
                parameters,
                self._optimizer.writable_slots(parameters.dtype),
                data.X,
                data.y,
                data.sample_weight,
                rows,
                validation_rows,
                stream,
                options,
                report_epochs(options, self.early_stopping, verbose, listener),
            )
        self._record(outcome)
        if verbose:
            print_stop(outcome["stopped"], options, self.early_stopping)
        conclude(outcome, parameters, self.early_stopping, None if incremental else self.max_iter)

    def _new_optimizer(self, sizes: list[int], dtype: DTypeLike) -> OptimizerState:
        defaults = _core.optimizers()[self.solver]["hyperparameters"]
        hyperparameters = {
            name: float(getattr(self, _PARAMETER_OF.get(name, name), default)) for name, default in defaults.items()
        }
        # as in scikit-learn, "adam" adapts its steps and ignores the schedule
        schedule = "constant" if self.solver == "adam" else self.learning_rate
        return OptimizerState(
            self.solver, hyperparameters, self.learning_rate_init, schedule, self.power_t, sizes, dtype
        )

    def _has_scores(self) -> bool:
        return getattr(self, "validation_scores_", None) is not None

    def _start_records(self) -> None:
        self.loss_curve_: list[float] = []
        self._no_improvement_count = 0
        self.best_loss_ = None if self.early_stopping else math.inf
        self.validation_scores_: list[float] | None = [] if self.early_stopping else None
        self.best_validation_score_ = -math.inf if self.early_stopping else None

    def _training_options(self, batch_size: int, max_iter: int) -> dict[str, Any]:
        return {
            **self._optimizer.options(),
            "batch_size": batch_size,
            "max_iter": max_iter,
            "n_samples_seen": self.t_,
            "alpha": self.alpha,
            "shuffle": self.shuffle,
            "tol": self.tol,
            "n_iter_no_change": self.n_iter_no_change,
            "no_improvement_count": self._no_improvement_count,
            "best_loss": math.inf if self.early_stopping else self.best_loss_,
            "best_validation_score": self.best_validation_score_ if self.early_stopping else -math.inf,
            "score": self._score_name,
        }

    def _record(self, outcome: dict[str, Any]) -> None:
        """Take over what the core reports of a training."""
        self.n_iter_ = outcome["n_iter"]
        self.t_ = outcome["n_samples_seen"]
        self._optimizer.t = outcome["t"]
        self._optimizer.learning_rate = outcome["learning_rate"]
        self._no_improvement_count = outcome["no_improvement_count"]
        self.loss_curve_ += outcome["loss_curve"]
        if outcome["loss_curve"]:
            self.loss_ = outcome["loss_curve"][-1]
        if not self.early_stopping:
            self.best_loss_ = outcome["best_loss"]
        else:
            self.validation_scores_ += outcome["validation_scores"]
            self.best_validation_score_ = outcome["best_validation_score"]

    # --- predictions --------------------------------------------------------------------------------------------------

    def _outputs(self, X: Any) -> FloatArray:
        """Return the output layer (n_samples, n_outputs), computed in the dtype of X and the weights together."""
        if "coefs_" not in vars(self):  # the check takes longer than a row of a small network
            check_is_fitted(self)
        if not self._is_plain(X):
            X = validate_data(self, X, accept_sparse=SPARSE_FORMATS, dtype=self.dtype or "numeric", reset=False)
        flat, sizes = self._parameters()
        if sizes[0] != X.shape[1]:
            raise ValueError(f"coefs_[0] must have shape ({X.shape[1]}, n), got {np.shape(self.coefs_[0])}")
        dtype = float_dtype(self.dtype or np.result_type(X.dtype, flat.dtype))
        network = self._network(sizes, hidden_activations(self.activation, len(sizes) - 2))
        return make_engine(network, dtype, self.n_jobs).predict(core_array(flat, dtype), core_matrix(X, dtype))

    def _is_plain(self, X: Any) -> bool:
        """Whether X is what validation would return unchanged: seen at a glance, which halves the time of one row."""
        return (
            type(X) is np.ndarray
            and X.dtype in ([self.dtype] if self.dtype else [np.float64, np.float32])
            and X.ndim == 2
            and X.shape[0] > 0
            and X.shape[1] == getattr(self, "n_features_in_", None)
            and not hasattr(self, "feature_names_in_")
            and bool(np.isfinite(X).all())
        )

    # --- scikit-learn's protocols -------------------------------------------------------------------------------------

    def __setstate__(self, state: dict[str, Any]) -> None:
        given = signature(type(self)).parameters.values()  # a pickle of an older version lacks the newer ones
        super().__setstate__({**{each.name: each.default for each in given}, **state})

    def _check_solver(self) -> bool:
        if self.solver == "lbfgs":
            raise AttributeError("partial_fit is only available for stochastic optimizers. lbfgs is not stochastic.")
        return True

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        return tags
