"""Training: the core's epochs with scikit-learn's lines and warnings; L-BFGS over the core's gradient.

Knows no estimator. Batches and stopping rules are the core's; what a training found out comes back as plain values.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.optimize
from sklearn.exceptions import ConvergenceWarning

from fastmlp import _core
from fastmlp._validation import core_array, core_matrix

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from fastmlp._core import Matrix, Targets

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


def core_data(X: Any, y: NDArray[Any], sample_weight: NDArray[Any] | None, dtype: np.dtype[Any]) -> Data:
    """Return checked data as the core takes it."""
    return Data(
        core_matrix(X, dtype),
        y if y.ndim == 1 else core_array(y, dtype),
        None if sample_weight is None else core_array(sample_weight, dtype),
    )


def batch_rows(batch_size: int | str, n_rows: int) -> int:
    """Return the number of rows of a batch, with a warning if there are fewer rows than asked for."""
    if isinstance(batch_size, str):
        return min(200, n_rows)
    if batch_size > n_rows:
        warnings.warn(
            "Got `batch_size` less than 1 or larger than sample size. It is going to be clipped", stacklevel=2
        )
    return min(int(batch_size), n_rows)


def conclude(
    outcome: dict[str, Any], parameters: NDArray[Any], early_stopping: bool, max_iter: int | None, why: str
) -> None:
    """Warn of a training that did not end as it should, or raise; with early stopping, restore the best parameters.

    ``max_iter`` is the number of epochs after which to warn that training has not converged, if any; ``why`` says what
    a loss that is not finite comes from.
    """
    stopped = outcome["stopped"]
    if early_stopping:
        parameters[...] = outcome["best_parameters"]
    if stopped == "not_finite" and not early_stopping:
        raise ValueError(f"{NOT_FINITE} {why}")
    if stopped == "not_finite":
        message = f"{why} The parameters with the best validation score are kept."
        warnings.warn(message, ConvergenceWarning, stacklevel=2)
    elif stopped == "interrupted":
        warnings.warn("Training interrupted by user.", stacklevel=2)
    elif stopped == "max_time":
        message = f"max_time reached after {outcome['n_iter']} epochs, and the optimization hasn't converged yet."
        warnings.warn(message, ConvergenceWarning, stacklevel=2)
    elif stopped == "max_iter" and max_iter is not None:
        warnings.warn(
            f"Stochastic Optimizer: Maximum iterations ({max_iter}) reached and the optimization hasn't converged yet.",
            ConvergenceWarning,
            stacklevel=2,
        )


def refuse_non_finite(parameters: NDArray[Any]) -> None:
    """Raise if a training has left parameters that are not finite."""
    with np.errstate(over="ignore", invalid="ignore"):  # a finite sum has finite terms, and needs no room
        if not np.isfinite(parameters.sum()) and not np.isfinite(parameters).all():
            raise ValueError(NOT_FINITE)


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
