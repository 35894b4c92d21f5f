"""The part of an estimator that runs its solver: options for the core in, what the core reports out."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from fastmlp import _core
from fastmlp._parameters import array_shapes
from fastmlp._training import (
    Data,
    batch_rows,
    conclude,
    minimize_lbfgs,
    print_stop,
    report_epochs,
    shuffles_of,
    split_rows,
)
from fastmlp.optimizer_state import OptimizerState
from fastmlp.schedules import NAMES

if TYPE_CHECKING:
    from numpy.typing import DTypeLike, NDArray

# estimator parameters that the core's optimizers call otherwise; all others are passed under their own name
_PARAMETER_OF = {"nesterov": "nesterovs_momentum"}


class Solvers:
    """The part of an estimator that trains it."""

    if TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            """Parameters and fitted attributes of the estimator."""

    def _fit_lbfgs(self, engine: _core.Engine, parameters: NDArray[Any], data: Data) -> None:
        outcome = minimize_lbfgs(
            engine,
            parameters,
            data,
            alpha=self.alpha,
            loss_share=self.n_outputs_ if self._reports_mean_over_outputs() else 1,
            max_iter=self.max_iter,
            max_fun=self.max_fun,
            tol=self.tol,
            verbose=bool(self.verbose),
        )
        self.loss_, self.n_iter_ = outcome.loss, outcome.n_iter
        if not isinstance(self.loss, str) and not math.isfinite(self.loss_):
            raise ValueError(f"loss={self.loss!r} or its gradient is not finite where L-BFGS ended")

    def _reports_mean_over_outputs(self) -> bool:
        return isinstance(self.loss, str) and bool(_core.losses()[self._core_loss()]["mean_over_outputs"])

    def _fit_stochastic(
        self, engine: _core.Engine, network: _core.Network, parameters: NDArray[Any], data: Data, incremental: bool
    ) -> None:
        if self.early_stopping and incremental:
            raise ValueError("partial_fit does not support early_stopping=True")
        if not incremental or not hasattr(self, "_optimizer"):
            self._optimizer = self._new_optimizer(network, parameters.dtype)
            self._optimizer.start_average(parameters)
        if not hasattr(self, "loss_curve_") or self.early_stopping != self._has_scores():
            self._start_records()
        rows = validation_rows = None
        if self.early_stopping:
            stratify = self._stratify(data.y)
            rows, validation_rows = split_rows(data.n_rows, self.validation_fraction, stratify, self._random_state)
        n_rows = data.n_rows if rows is None else len(rows)
        batch_size = batch_rows(self.batch_size, n_rows)
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
                self._optimizer.rates(self.max_iter * math.ceil(n_rows / batch_size)),
            )
        self._record(outcome)
        if verbose:
            print_stop(outcome["stopped"], options, self.early_stopping)
        to_the_end = incremental or not isinstance(self._optimizer.schedule, str)  # a schedule is made for all epochs
        conclude(outcome, parameters, self.early_stopping, None if to_the_end else self.max_iter)
        if self.early_stopping:
            self._optimizer.start_average(parameters)

    def _new_optimizer(self, network: _core.Network, dtype: DTypeLike) -> OptimizerState:
        defaults = _core.optimizers()[self.solver]["hyperparameters"]
        hyperparameters = {
            name: float(getattr(self, _PARAMETER_OF.get(name, name), default)) for name, default in defaults.items()
        }
        schedule = self.learning_rate
        if isinstance(schedule, str):
            if schedule in NAMES:
                schedule = NAMES[schedule]()
            elif self.solver == "adam":
                schedule = "constant"  # as in scikit-learn, whose names are for "sgd"
        optimizer = OptimizerState(
            self.solver,
            hyperparameters,
            self.learning_rate_init,
            schedule,
            self.power_t,
            network.layer_sizes,
            dtype,
            array_shapes(network),
            self.ema_decay or 0.0,
        )
        if any(network.dropout):
            optimizer.dropout_seed = int(self._random_state.randint(1, 2**31 - 1))
        return optimizer

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
            "clip_norm": math.inf if self.clip_norm is None else self.clip_norm,
            "clip_value": math.inf if self.clip_value is None else self.clip_value,
            "report_batch_losses": hasattr(self, "_batch_losses"),
        }

    def _record(self, outcome: dict[str, Any]) -> None:
        """Take over what the core reports of a training."""
        self.n_iter_ = outcome["n_iter"]
        self.t_ = outcome["n_samples_seen"]
        self._optimizer.t = outcome["t"]
        self._optimizer.learning_rate = self.learning_rate_ = outcome["learning_rate"]
        self._no_improvement_count = outcome["no_improvement_count"]
        self.loss_curve_ += outcome["loss_curve"]
        if hasattr(self, "_batch_losses"):
            self._batch_losses.extend(outcome["batch_losses"])
        if outcome["loss_curve"]:
            self.loss_ = outcome["loss_curve"][-1]
        if not self.early_stopping:
            self.best_loss_ = outcome["best_loss"]
        else:
            self.validation_scores_ += outcome["validation_scores"]
            self.best_validation_score_ = outcome["best_validation_score"]

    def _check_solver(self) -> bool:
        if self.solver == "lbfgs":
            raise AttributeError("partial_fit is only available for stochastic optimizers. lbfgs is not stochastic.")
        return True
