"""scikit-learn's lines of a training with ``verbose``."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any


def print_epochs(estimator: Any) -> Callable[[int, float, float, float], None]:
    """Return what prints the lines of an epoch."""
    optimizer = estimator._optimizer
    rate = optimizer.learning_rate if optimizer.schedule == "adaptive" else -math.inf

    def on_epoch(n_iter: int, loss: float, score: float, learning_rate: float) -> None:
        nonlocal rate
        print(f"Iteration {n_iter}, loss = {loss:.8f}")
        if estimator.early_stopping or not math.isnan(score):
            print(f"Validation score: {score:f}")
        if learning_rate < rate:
            rate = learning_rate
            print(f"{_impatience(estimator)} Setting learning rate to {rate:f}")

    return on_epoch


def print_stop(estimator: Any) -> None:
    """Print why training stopped, if a rule stopped it."""
    if estimator.stopped_ == "no_improvement":
        print(f"{_impatience(estimator)} Stopping.")
    elif estimator.stopped_ == "learning_rate":
        print(f"{_impatience(estimator)} Learning rate too small. Stopping.")


def _impatience(estimator: Any) -> str:
    what = "Validation score" if estimator.early_stopping else "Training loss"
    tol, n_epochs = estimator.tol, estimator.n_iter_no_change
    return f"{what} did not improve more than tol={tol:f} for {n_epochs:.0f} consecutive epochs."
