"""The part of an estimator that runs its solver: options for the core in, what the core reports out."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

from fastmlp import _core
from fastmlp._held_out import LOSS, HeldOut, Scoring, UserData, metrics_by_name
from fastmlp._history import History
from fastmlp._parameters import array_shapes
from fastmlp._random_state import RandomNumbers
from fastmlp._run import Run
from fastmlp._scikit_learn_callbacks import scikit_learn_callbacks
from fastmlp._training import Data, batch_rows, conclude, minimize_lbfgs
from fastmlp._verbose import print_epochs, print_stop
from fastmlp.callbacks import as_callbacks
from fastmlp.optimizer_state import OPTIMIZERS, OptimizerState
from fastmlp.schedules import NAMES

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import DTypeLike, NDArray

# estimator parameters that the core's optimizers call otherwise; all others are passed under their own name
_PARAMETER_OF = {"nesterov": "nesterovs_momentum"}


class Start(NamedTuple):
    """What a training begins with, after it was checked."""

    network: _core.Network
    parameters: NDArray[Any]  # flat; trained in place
    X: Any
    data: Data  # the same for the core, and targets and weights
    given: UserData
    random: RandomNumbers


class Solvers(History):
    """The part of an estimator that trains it."""

    if TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            """Parameters and fitted attributes of the estimator."""

    def _fit_lbfgs(self, engine: _core.Engine, parameters: NDArray[Any], data: Data) -> None:
        self._check_calibration(None, False)
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

    def _fit_stochastic(self, engine: _core.Engine, start: Start, held_out: HeldOut | None, incremental: bool) -> None:
        with self._run_of(engine, start, held_out, incremental) as run:
            outcome = run.train()
        self._conclude(run, outcome, incremental)

    @contextmanager
    def _run_of(
        self,
        engine: _core.Engine,
        start: Start,
        held_out: HeldOut | None,
        incremental: bool,
        rows: NDArray[np.int64] | None = None,
    ) -> Iterator[Run]:
        """Make a training of all rows, or of some, that can be run inside the context."""
        network, parameters, _, data, given, random = start
        if not incremental or not hasattr(self, "_optimizer"):
            self._optimizer = self._new_optimizer(network, parameters.dtype)
            self._optimizer.start_average(parameters)
        if any(network.dropout) and not getattr(self._optimizer, "dropout_seed", 0):  # it may begin in a later call
            self._optimizer.dropout_seed = int(random.random_state.randint(1, 2**31 - 1))
        if not hasattr(self, "loss_curve_") or self.early_stopping != self._has_scores():
            self._start_records()
        if self.early_stopping and held_out is None:
            rows, held_out = given.hold_out(self.validation_fraction, self._stratify(data.y), random.random_state)
        self._check_calibration(held_out, incremental)
        scoring = None
        if held_out is not None and not self._core_scores():
            scoring = Scoring(self._metrics(), self, held_out)
        batch_size = batch_rows(self.batch_size, data.n_rows if rows is None else len(rows))
        max_iter = 1 if incremental else self.max_iter
        on_epoch = print_epochs(self) if self.verbose else None
        callbacks = [] if incremental else [*as_callbacks(self.callbacks), *scikit_learn_callbacks(self, given)]
        with random.stream() as stream:
            yield Run(
                self, engine, network, parameters, data, rows, held_out, scoring, stream, batch_size, max_iter,
                on_epoch, callbacks,
            )  # fmt: skip

    def _conclude(self, run: Run, outcome: dict[str, Any], incremental: bool) -> None:
        """Say how a training ended, and leave what belongs to its best epoch."""
        self.stopped_ = outcome["stopped"]
        if self.verbose:
            print_stop(self)
        to_the_end = incremental or not isinstance(self._optimizer.schedule, str)  # a schedule is made for all epochs
        why = run.diagnosis(outcome) if self.stopped_ == "not_finite" else ""
        conclude(outcome, run.parameters, self.early_stopping, None if to_the_end else self.max_iter, why)
        if self.early_stopping:
            self._optimizer.start_average(run.parameters)
        self._calibrate_held_out(run.held_out)

    def _check_calibration(self, held_out: HeldOut | None, incremental: bool) -> None:
        """Raise if the estimator shall be calibrated after a training without rows for that."""

    def _calibrate_held_out(self, held_out: HeldOut | None) -> None:
        """Calibrate the trained estimator, if it shall be."""

    def _new_optimizer(self, network: _core.Network, dtype: DTypeLike) -> OptimizerState:
        defaults = OPTIMIZERS[self.solver]["hyperparameters"]
        hyperparameters = {
            name: float(getattr(self, _PARAMETER_OF.get(name, name), default)) for name, default in defaults.items()
        }
        schedule = self.learning_rate
        if isinstance(schedule, str):
            if schedule in NAMES:
                schedule = NAMES[schedule]()
            elif self.solver == "adam":
                schedule = "constant"  # as in scikit-learn, whose names are for "sgd"
        return OptimizerState(
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

    def _has_scores(self) -> bool:
        return getattr(self, "validation_scores_", None) is not None

    def _metrics(self) -> dict[str, Any]:
        """Return the metrics by name, of which the first decides: scorers, or None for what the core computes."""
        return metrics_by_name(self.eval_metric, self._score_name)

    def _core_scores(self) -> bool:
        """Whether the core computes all that is asked for."""
        metrics = self._metrics()
        return len(metrics) == 1 and not any(metrics.values())

    def _core_score(self) -> str:
        """Return the name of the score that the core computes where no scorer is asked."""
        return LOSS if self._core_scores() and LOSS in self._metrics() else self._score_name

    def _start_records(self) -> None:
        self.loss_curve_: list[float] = []
        self._history: dict[str, list[float]] = {}
        self._no_improvement_count = 0
        self.best_loss_ = None if self.early_stopping else math.inf
        self.validation_scores_: list[float] | None = [] if self.early_stopping else None
        self.best_validation_score_ = -math.inf if self.early_stopping else None

    def _training_options(self, batch_size: int, max_iter: int, max_seconds: float, asks: bool) -> dict[str, Any]:
        return {
            **self._optimizer.options(),
            "batch_size": batch_size,
            "max_iter": max_iter,
            "max_seconds": max(max_seconds, 0.0),
            "n_samples_seen": self.t_,
            "alpha": self.alpha,
            "shuffle": self.shuffle,
            "tol": self.tol,
            "n_iter_no_change": self.n_iter_no_change,
            "no_improvement_count": self._no_improvement_count,
            "early_stopping": self.early_stopping,
            "best_loss": math.inf if self.early_stopping else self.best_loss_,
            "best_validation_score": self.best_validation_score_ if self.early_stopping else -math.inf,
            "score": "given" if asks else self._core_score(),
            "clip_norm": math.inf if self.clip_norm is None else self.clip_norm,
            "clip_value": math.inf if self.clip_value is None else self.clip_value,
            "report_batch_losses": hasattr(self, "_batch_losses") or self.on_divergence == "back_off",
        }

    def _record(self, outcome: dict[str, Any], scoring: Scoring | None) -> None:
        """Take over what the core reports of some epochs."""
        self.n_iter_ = outcome["n_iter"]
        self.t_ = outcome["n_samples_seen"]
        self._optimizer.t = outcome["t"]
        self._optimizer.learning_rate = self.learning_rate_ = outcome["learning_rate"]
        self._no_improvement_count = outcome["no_improvement_count"]
        curves = {"loss": outcome["loss_curve"], "learning_rate": outcome["learning_rates"]}
        if outcome["validation_losses"]:
            name = next(iter(self._metrics()))
            curves |= {"val_loss": outcome["validation_losses"]}
            curves |= {} if name == LOSS else {f"val_{name}": outcome["validation_scores"]}
            others = scoring.take() if scoring else {}
            curves |= {f"val_{other}": values for other, values in others.items() if other != LOSS}
        self._extend_history(curves)
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
