"""Training: the core's epochs with scikit-learn's random numbers, lines and warnings; L-BFGS over the core's gradient.

Knows no estimator. Batches and stopping rules are the core's; what a training found out comes back as plain values.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.optimize
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import train_test_split

from fastmlp import _core

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from fastmlp._core import Matrix, Targets

OnEpoch = Callable[[int, float, float], None]

NOT_FINITE = (
    "Solver produced non-finite parameter weights. The input data may contain large values and need to be preprocessed."
)


@dataclass(frozen=True)
class Data:
    """What is learned from, as the core takes it: n rows of features, their targets and weights."""

    X: Matrix
    y: Targets
    sample_weight: NDArray[Any] | None

    @property
    def n_rows(self) -> int:
        """Number of rows."""
        return len(self.y)


@contextmanager
def shuffles_of(random_state: np.random.RandomState) -> Iterator[_core.MT19937]:
    """Lend the stream of ``random_state`` to the core; afterwards it stands where scikit-learn would have left it.

    A RandomState over another bit generator than MT19937 has no stream that the core can draw: it seeds one.
    """
    state: dict[str, Any] = random_state.get_state(legacy=False)
    own = state["bit_generator"] == "MT19937"
    if not own:
        seed = random_state.randint(2**32, size=4, dtype=np.uint32)
        state = np.random.RandomState(seed).get_state(legacy=False)
    stream = _core.MT19937(state["state"]["key"], state["state"]["pos"])
    try:
        yield stream
    finally:
        if own:
            key, pos = stream.state
            random_state.set_state({**state, "state": {"key": key, "pos": pos}})


def split_rows(
    n_rows: int, fraction: float, stratify: NDArray[Any] | None, random_state: np.random.RandomState
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the numbers of the rows for training and for validation: scikit-learn's, in its order."""
    rows, validation_rows = train_test_split(
        np.arange(n_rows, dtype=np.int64), random_state=random_state, test_size=fraction, stratify=stratify
    )
    if len(validation_rows) < 2:
        raise ValueError("The validation set is too small. Increase 'validation_fraction' or the size of your dataset.")
    return rows, validation_rows


def batch_rows(batch_size: int | str, n_rows: int) -> int:
    """Return the number of rows of a batch, with a warning if there are fewer rows than asked for."""
    if isinstance(batch_size, str):
        return min(200, n_rows)
    if batch_size > n_rows:
        warnings.warn(
            "Got `batch_size` less than 1 or larger than sample size. It is going to be clipped", stacklevel=2
        )
    return min(int(batch_size), n_rows)


def report_epochs(
    options: dict[str, Any], early_stopping: bool, verbose: bool, listener: OnEpoch | None
) -> Callable[[int, float, float, float], None] | None:
    """Return what the core calls after each epoch: the ``listener``, and with ``verbose`` scikit-learn's lines."""
    if not verbose and listener is None:
        return None
    rate = options["learning_rate"] if options["schedule"] == "adaptive" else -math.inf

    def on_epoch(n_iter: int, loss: float, score: float, learning_rate: float) -> None:
        nonlocal rate
        if verbose:
            print(f"Iteration {n_iter}, loss = {loss:.8f}")
            if early_stopping:
                print(f"Validation score: {score:f}")
            if learning_rate < rate:
                rate = learning_rate
                print(f"{_impatience(options, early_stopping)} Setting learning rate to {rate:f}")
        if listener is not None:
            listener(n_iter, loss, score)

    return on_epoch


def print_stop(stopped: str, options: dict[str, Any], early_stopping: bool) -> None:
    """Print why training stopped, if a rule stopped it."""
    if stopped == "no_improvement":
        print(f"{_impatience(options, early_stopping)} Stopping.")
    elif stopped == "learning_rate":
        print(f"{_impatience(options, early_stopping)} Learning rate too small. Stopping.")


def _impatience(options: dict[str, Any], early_stopping: bool) -> str:
    what = "Validation score" if early_stopping else "Training loss"
    tol, n_epochs = options["tol"], options["n_iter_no_change"]
    return f"{what} did not improve more than tol={tol:f} for {n_epochs:.0f} consecutive epochs."


def conclude(outcome: dict[str, Any], parameters: NDArray[Any], early_stopping: bool, max_iter: int | None) -> None:
    """Warn of a training that did not end as it should, or raise; with early stopping, restore the best parameters.

    ``max_iter`` is the number of epochs after which to warn that training has not converged, if any.
    """
    stopped = outcome["stopped"]
    where = f"The loss became non-finite at epoch {outcome['failed_epoch']}, batch {outcome['failed_batch']}."
    if early_stopping:
        parameters[...] = outcome["best_parameters"]
    if stopped == "not_finite" and not early_stopping:
        raise ValueError(f"{NOT_FINITE} {where}")
    if stopped == "not_finite":
        message = f"{where} The parameters with the best validation score are kept."
        warnings.warn(message, ConvergenceWarning, stacklevel=2)
    elif stopped == "interrupted":
        warnings.warn("Training interrupted by user.", stacklevel=2)
    elif stopped == "max_iter" and max_iter is not None:
        warnings.warn(
            f"Stochastic Optimizer: Maximum iterations ({max_iter}) reached and the optimization hasn't converged yet.",
            ConvergenceWarning,
            stacklevel=2,
        )


@dataclass
class LbfgsOutcome:
    """Where L-BFGS ended: the loss as scikit-learn reports it, and the number of iterations."""

    loss: float
    n_iter: int


class _Objective:
    """Loss plus penalty and gradient at given parameters, for SciPy; keeps the iterate accepted last."""

    def __init__(self, engine: _core.Engine, data: Data, alpha: float, start: NDArray[np.float64], verbose: bool):
        self.engine, self.data, self.alpha, self.verbose = engine, data, alpha, verbose
        self.accepted = start
        self.n_iter = 0
        self.value = math.nan

    def evaluate(self, parameters: NDArray[np.float64]) -> tuple[float, float, NDArray[Any]]:
        data = self.data
        return self.engine.loss_and_gradient(parameters, data.X, data.y, data.sample_weight, self.alpha)

    def __call__(self, parameters: NDArray[np.float64]) -> tuple[float, NDArray[Any]]:
        loss, penalty, gradient = self.evaluate(parameters)
        self.value = loss + penalty
        return self.value, gradient

    def accept(self, parameters: NDArray[np.float64]) -> None:
        self.accepted = parameters.copy()
        self.n_iter += 1
        if self.verbose:
            print(f"Iteration {self.n_iter}, loss = {self.value:.8f}")


def minimize_lbfgs(
    engine: _core.Engine,
    parameters: NDArray[Any],
    data: Data,
    *,
    alpha: float,
    loss_share: int,
    max_iter: int,
    max_fun: int,
    tol: float,
    verbose: bool,
) -> LbfgsOutcome:
    """Minimise the loss of all rows in float64 by L-BFGS, updating ``parameters`` in place.

    ``engine`` and ``data`` are float64; ``parameters`` may be float32 and then hold the result rounded. The reported
    loss is ``loss / loss_share + penalty``. Ctrl-C ends it at the iterate accepted last.

    References
    ----------
    Byrd, R. H., Lu, P., Nocedal, J. and Zhu, C. (1995). A limited memory algorithm for bound constrained optimization.
    SIAM J. Sci. Comput. 16(5), 1190-1208.
    """
    objective = _Objective(engine, data, alpha, parameters.astype(np.float64), verbose)
    try:
        result = scipy.optimize.minimize(
            objective,
            objective.accepted,
            method="L-BFGS-B",
            jac=True,
            callback=objective.accept,
            options={"maxfun": max_fun, "maxiter": max_iter, "gtol": tol},
        )
    except KeyboardInterrupt:
        warnings.warn("Training interrupted by user.", stacklevel=2)
        solution, n_iter = objective.accepted, objective.n_iter
    else:
        solution, n_iter = result.x, min(int(result.nit), max_iter)
        if result.status != 0:
            _warn_lbfgs(n_iter, result.status, result.message, max_iter)
    loss, penalty, _ = objective.evaluate(solution)
    parameters[...] = solution
    return LbfgsOutcome(loss / loss_share + penalty, n_iter)


def _warn_lbfgs(n_iter: int, status: int, message: str, max_iter: int) -> None:
    lines = [f"lbfgs failed to converge after {n_iter} iteration(s) (status={status}):", f"{message}", ""]
    if n_iter == max_iter:
        lines += [f"Increase the number of iterations to improve the convergence (max_iter={max_iter})."]
    lines += [
        "You might also want to scale the data as shown in:",
        "    https://scikit-learn.org/stable/modules/preprocessing.html",
    ]
    warnings.warn("\n".join(lines), ConvergenceWarning, stacklevel=2)
