"""One training from its first epoch to its last: what callbacks look at, stop, store and resume."""

from __future__ import annotations

import hashlib
import math
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
from sklearn.exceptions import ConvergenceWarning

from fastmlp import _core
from fastmlp._cuda_arrays import host_blocks
from fastmlp._divergence import diagnose
from fastmlp._training import Data

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from fastmlp._held_out import HeldOut, Scoring
    from fastmlp.optimizer_state import OptimizerState

FINAL = ("no_improvement", "learning_rate")  # reasons to stop that more epochs would not change
MOST_BACK_OFFS = 10
BACK_OFF = 0.1  # what a training that has diverged multiplies its learning rate by

# numbers of an estimator and of its optimizer that change from epoch to epoch
_ESTIMATOR_NUMBERS = ("t_", "best_loss_", "best_validation_score_", "_no_improvement_count")
_OPTIMIZER_NUMBERS = ("t", "learning_rate", "learning_rate_init", "reduction", "dropout_seed")


class Callback:
    """Base class of callbacks: none of its methods does anything.

    Each gets the running training as ``run``: ``run.estimator``, which predicts with what it has learned so far,
    ``run.n_iter`` and ``run.max_iter``, and ``run.history``, a dict of lists: "loss", "learning_rate" and, with rows to
    validate on, "val_loss" and the metrics.

    Examples
    --------
    Stop when the loss is small enough:

    >>> from fastmlp import MLPClassifier
    >>> from sklearn.datasets import load_iris
    >>> X, y = load_iris(return_X_y=True)
    >>> model = MLPClassifier(max_iter=500, random_state=0, callbacks=[lambda run: run.history["loss"][-1] < 0.3])
    >>> model = model.fit(X, y)
    >>> model.stopped_, model.loss_ < 0.3, model.n_iter_ < 500
    ('callback', True, True)
    """

    def on_train_begin(self, run: Run) -> None:
        """Look at a training before its first epoch."""

    def on_epoch_end(self, run: Run) -> bool | None:
        """Look at it after an epoch; True stops it."""
        return None

    def on_train_end(self, run: Run) -> None:
        """Look at it after its last epoch, also if an error ended it."""


class Run:
    """A training while it runs.

    Attributes
    ----------
    estimator : MLPClassifier or MLPRegressor
        What is trained: between epochs it predicts with what it has learned so far.
    n_iter : int
        Epochs done in this call of ``fit``.
    max_iter : int
        Most epochs.
    history : dict of str to list of float
        Losses, learning rates and validation metrics of the epochs so far, in all calls.
    stopped : str or None
        Why training has ended, None before.
    is_whole : bool
        Whether the last epoch was trained to its end.
    """

    def __init__(
        self,
        estimator: Any,
        engine: _core.Engine,
        network: _core.Network,
        parameters: NDArray[Any],
        data: Data,
        rows: NDArray[np.int64] | None,
        held_out: HeldOut | None,
        scoring: Scoring | None,
        stream: _core.MT19937,
        batch_size: int,
        max_iter: int,
        on_epoch: Callable[[int, float, float, float], None] | None,
        callbacks: list[Callback],
    ) -> None:
        self.estimator, self.engine, self.parameters, self.data = estimator, engine, parameters, data
        self.network, self.held_out, self.scoring, self.stream = network, held_out, scoring, stream
        self.callbacks, self.batch_size, self.max_iter = callbacks, batch_size, max_iter
        self.by_epoch = bool(callbacks) or estimator.on_divergence == "back_off"
        self.rows = np.arange(data.n_rows, dtype=np.int64) if rows is None and self.by_epoch else rows
        self.n_iter = 0
        self.stopped: str | None = None
        self.is_whole = True
        self.best = parameters.copy() if self.by_epoch and estimator.early_stopping else None
        self._on_epoch = on_epoch
        self._deadline = math.inf if estimator.max_time is None else time.monotonic() + estimator.max_time
        n_rows = data.n_rows if rows is None else len(rows)
        self._rates = self.optimizer.rates(estimator.max_iter * math.ceil(n_rows / batch_size))

    @property
    def optimizer(self) -> OptimizerState:
        """State of the optimizer."""
        optimizer: OptimizerState = self.estimator._optimizer
        return optimizer

    @property
    def history(self) -> dict[str, list[float]]:
        """See the class."""
        curves: dict[str, list[float]] = self.estimator._curves()
        return curves

    def train(self) -> dict[str, Any]:
        """Train to the end and return what the core reported last, of the whole training."""
        if not self.by_epoch:
            outcome = self._epochs(self.max_iter)
        else:
            with self._data_held(), self._callbacks_told():
                outcome = self._one_by_one()
        self.stopped = outcome["stopped"]
        return outcome

    # --- beside others ------------------------------------------------------------------------------------------------

    def one_of_many(self, data: int) -> tuple[Any, ...]:
        """Return the whole training as `_core.fit_many` takes it; ``data`` is the number of its data there."""
        weights = self.data.sample_weight
        if weights is not None and self.rows is not None:
            weights = weights[self.rows]
        # which steps an epoch has, or their learning rates, may depend on the one before
        one_by_one = (weights is not None and bool((weights <= 0).any())) or self.optimizer.asks_for_progress
        slots = self.optimizer.writable_slots(self.parameters.dtype)
        options = self._options(self.max_iter)
        return data, self.rows, self.parameters, slots, self.stream, options, self._rates, one_by_one

    def trained(self, outcome: dict[str, Any]) -> None:
        """Take over what the core reports of the whole training."""
        self.stopped = self._take(outcome)["stopped"]

    # --- epochs -------------------------------------------------------------------------------------------------------

    def _epochs(self, n_epochs: int) -> dict[str, Any]:
        """Have the core train for this many epochs, and take over what it reports."""
        done = self.n_iter
        on_epoch = self._on_epoch
        if on_epoch is not None and done:
            listener = on_epoch

            def on_epoch(n_iter: int, *news: float) -> None:
                listener(done + n_iter, *news)

        outcome = self.engine.train(
            self.parameters,
            self.optimizer.writable_slots(self.parameters.dtype),
            self.data.X,
            self.data.y,
            self.data.sample_weight,
            self.rows,
            None if self.held_out is None else self.held_out.rows,
            self.stream,
            self._options(n_epochs),
            on_epoch,
            self._rates,
            None if self.held_out is None else self.held_out.core_form,
            self.scoring,
        )
        return self._take(outcome)

    def _options(self, n_epochs: int) -> dict[str, Any]:
        left = self._deadline - time.monotonic()
        options: dict[str, Any] = self.estimator._training_options(
            self.batch_size, n_epochs, left, self.scoring is not None
        )
        return options

    def _take(self, outcome: dict[str, Any]) -> dict[str, Any]:
        """Take over what the core reports of some epochs."""
        estimator, done = self.estimator, self.n_iter
        self.n_iter += outcome["n_iter"]
        self.is_whole = outcome["n_iter"] > 0 and outcome["stopped"] != "not_finite"
        outcome["failed_epoch"] += done if outcome["failed_epoch"] else 0
        outcome["n_iter"] = self.n_iter
        if self.best is not None:
            if outcome["best_validation_score"] > estimator.best_validation_score_:
                self.best = outcome["best_parameters"]
            outcome["best_parameters"] = self.best
        estimator._record(outcome, self.scoring)
        return outcome

    def _one_by_one(self) -> dict[str, Any]:
        outcome = {"stopped": self.stopped or "max_iter", "failed_epoch": 0, "failed_batch": 0, "n_iter": self.n_iter}
        outcome["best_parameters"] = self.best
        way_back = WayBack(self) if self.estimator.on_divergence == "back_off" else None
        while self.n_iter < self.max_iter and outcome["stopped"] not in FINAL:
            outcome = self._epochs(1)
            if outcome["stopped"] == "not_finite" and way_back is not None and way_back.take(outcome):
                outcome["stopped"] = "max_iter"
            elif self._is_over(outcome):
                break
            elif way_back is not None:
                way_back.look(outcome)
        return outcome

    def _is_over(self, outcome: dict[str, Any]) -> bool:
        """Tell the callbacks of an epoch that ended as it should; whether it was the last."""
        if not self.is_whole:
            return True
        self.stopped = outcome["stopped"] if outcome["stopped"] in FINAL else None
        try:
            stops = [bool(callback.on_epoch_end(self)) for callback in self.callbacks]
        except KeyboardInterrupt:
            outcome["stopped"] = "interrupted"
            return True
        if any(stops) and outcome["stopped"] == "max_iter":
            outcome["stopped"] = "callback"
        return bool(outcome["stopped"] != "max_iter")

    @contextmanager
    def _data_held(self) -> Iterator[None]:
        """Have the engine keep the data from epoch to epoch, where it copies them."""
        own = None if self.held_out is None else self.held_out.core_form
        self.engine.hold(self.data.X, self.data.y, self.data.sample_weight, own)
        try:
            yield
        finally:
            self.engine.release()

    @contextmanager
    def _callbacks_told(self) -> Iterator[None]:
        begun = []
        try:
            for callback in self.callbacks:
                callback.on_train_begin(self)
                begun.append(callback)
            yield
        finally:
            for callback in reversed(begun):
                callback.on_train_end(self)

    # --- divergence ---------------------------------------------------------------------------------------------------

    def diagnosis(self, outcome: dict[str, Any]) -> str:
        """Say where and why the loss is not finite."""
        where = f"The loss became non-finite at epoch {outcome['failed_epoch']}, batch {outcome['failed_batch']}"
        return f"{where}: {diagnose(self.engine, self.network, self.parameters, self.data)}"

    # --- state --------------------------------------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        """Return a copy of all that the next epoch depends on: arrays, and numbers under "numbers"."""
        key, position = self.stream.state
        arrays = {"parameters": self.parameters, "rows": self.rows, "random.key": key}
        arrays |= {f"slots.{name}": slot for name, slot in self.optimizer.slots.items()}
        arrays |= {f"history.{name}": np.array(values) for name, values in self.history.items()}
        if self.best is not None:
            arrays["best"] = self.best
        if self.held_out is not None and self.held_out.rows is not None:
            arrays["validation_rows"] = self.held_out.rows
        numbers = {"n_iter": self.n_iter, "stopped": self.stopped, "random.position": position}
        numbers |= {name: getattr(self.estimator, name) for name in _ESTIMATOR_NUMBERS}
        numbers |= {f"optimizer.{name}": getattr(self.optimizer, name) for name in _OPTIMIZER_NUMBERS}
        return {**{name: np.array(array) for name, array in arrays.items()}, "numbers": numbers}

    def restore(self, state: dict[str, Any]) -> None:
        """Go back, or on, to a ``state``."""
        numbers = state["numbers"]
        self.parameters[...] = state["parameters"]
        if self.rows is not None:
            self.rows[...] = state["rows"]
        for name, slot in self.optimizer.slots.items():
            slot[...] = state[f"slots.{name}"]
        if self.best is not None:
            self.best = state["best"].copy()
        if self.held_out is not None and self.held_out.rows is not None:
            self.held_out.rows[...] = state["validation_rows"]
        self.stream.set_state(state["random.key"], numbers["random.position"])
        self.n_iter, self.stopped = numbers["n_iter"], numbers["stopped"]
        self.estimator.n_iter_ = self.n_iter
        for name in _ESTIMATOR_NUMBERS:
            setattr(self.estimator, name, numbers[name])
        for name in _OPTIMIZER_NUMBERS:
            setattr(self.optimizer, name, numbers[f"optimizer.{name}"])
        prefix = "history."
        curves = {name[len(prefix) :]: array.tolist() for name, array in state.items() if name.startswith(prefix)}
        self.estimator._set_curves(curves)

    def fingerprint(self) -> str:
        """Return a digest of the data and of the parameters that decide how a training goes on."""
        digest = hashlib.blake2b(digest_size=16)
        own = None if self.held_out is None else self.held_out.core_form
        for part in (self.data.X, self.data.y, self.data.sample_weight, *(own or ())):
            for array in part if isinstance(part, tuple) else (part,):
                if isinstance(array, np.ndarray | _core.CudaArray):
                    digest.update(f"{array.dtype} {array.shape}".encode())
                    for block in host_blocks(array) if isinstance(array, _core.CudaArray) else [array]:
                        digest.update(np.ascontiguousarray(block).data)
                else:
                    digest.update(repr(array).encode())
        free = ("callbacks", "max_iter", "max_time", "n_jobs", "verbose")
        for name, value in sorted(self.estimator.get_params(deep=False).items()):
            if name not in free:
                digest.update(f"{name}={_stable(value)};".encode())
        return digest.hexdigest()


class WayBack:
    """Where a training that has diverged goes on: after the epoch with the smallest loss, if that is below the first.

    If the next epoch diverges again, those weights were lost already, and it goes back to the start.
    """

    def __init__(self, run: Run) -> None:
        self._run = run
        self._start = self._good = run.state()
        self._factor = self._factor_of_good = 1.0
        self._n_taken = self._failed_epoch = 0
        self._least = math.inf

    def look(self, outcome: dict[str, Any]) -> None:
        """Keep the state after an epoch, if it is the best one so far."""
        if self._run.n_iter == 1:
            self._least = outcome["batch_losses"][0]
        if outcome["loss_curve"][0] <= self._least:
            self._least = outcome["loss_curve"][0]
            self._good, self._factor_of_good = self._run.state(), self._factor

    def take(self, outcome: dict[str, Any]) -> bool:
        """Go back, with a warning and a lower learning rate; False if that was in vain too often."""
        if self._n_taken == MOST_BACK_OFFS:
            return False
        run, why = self._run, self._run.diagnosis(outcome)
        if outcome["failed_epoch"] == self._failed_epoch:
            self._good, self._factor_of_good = self._start, 1.0
        self._failed_epoch = outcome["failed_epoch"]
        self._n_taken += 1
        self._factor *= BACK_OFF
        run.restore(self._good)
        run.optimizer.learning_rate_init *= self._factor / self._factor_of_good
        run.optimizer.learning_rate *= self._factor / self._factor_of_good
        rate = run.optimizer.learning_rate
        warnings.warn(
            f"{why} Back to the weights after epoch {run.n_iter}, with learning rate {rate:.3g}.",
            ConvergenceWarning,
            stacklevel=2,
        )
        return True


def _stable(value: Any) -> str:
    """Return text that is the same in another process: functions have addresses in theirs."""
    if isinstance(value, np.random.RandomState):
        return "RandomState"
    if callable(value) and hasattr(value, "__qualname__"):
        return f"{value.__module__}.{value.__qualname__}"
    if isinstance(value, list | tuple):
        return f"{type(value).__name__}({', '.join(map(_stable, value))})"
    text = repr(value)
    return type(value).__qualname__ if " at 0x" in text else text
