"""The learning rate range test: one training with a rate that rises from far too small to far too large."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from sklearn.base import clone

from fastmlp._training import batch_rows
from fastmlp.estimators import BaseMLP
from fastmlp.schedules import Exponential

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True)
class RangeTest:
    """What a learning rate range test has seen.

    Attributes
    ----------
    rates : ndarray of shape (n_steps,)
        Learning rate of each step.
    losses : ndarray of shape (n_steps,)
        Loss of the batch before that step, penalty included; NaN where the training had diverged for good.
    """

    rates: NDArray[np.float64]
    losses: NDArray[np.float64]

    @property
    def smoothed(self) -> NDArray[np.float64]:
        """Losses averaged over a window around each step: a bell that is a fifth of the steps wide."""
        bell = np.hanning(2 * (len(self.losses) // 10) + 3)
        smoothed: NDArray[np.float64] = np.convolve(self.losses, bell, "same")
        return smoothed / np.convolve(np.ones(len(self.losses)), bell, "same")

    @property
    def suggestion(self) -> float:
        """The rate at which the smoothed loss falls fastest, over the logarithm of the rate, before it is smallest."""
        smoothed = self.smoothed
        lowest = int(np.nanargmin(smoothed))
        if lowest < 2:
            raise ValueError("the loss never fell: begin with a smaller min_rate, or take more steps")
        slopes = np.gradient(smoothed[: lowest + 1], np.log(self.rates[: lowest + 1]))
        return float(self.rates[slopes.argmin()])

    def plot(self, ax: Any = None) -> Any:
        """Draw losses over rates, and the suggestion.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Where to draw; None is a new figure.

        Returns
        -------
        ax : matplotlib Axes
            What was drawn on.

        Raises
        ------
        ImportError
            Without matplotlib, which comes with ``pip install fastmlp[plot]``.
        """
        if ax is None:
            from matplotlib import pyplot

            ax = pyplot.subplots()[1]
        smoothed = self.smoothed
        ax.plot(self.rates, self.losses, color="0.8", label="loss of each batch")
        ax.plot(self.rates, smoothed, label="smoothed")
        ax.axvline(self.suggestion, color="C1", linestyle="--", label=f"suggestion: {self.suggestion:.2g}")
        low, high = np.nanmin(smoothed), smoothed[0]  # what comes after the minimum may be higher by far
        ax.set(xscale="log", ylim=(low - 0.2 * (high - low), high + 0.5 * (high - low)))
        ax.set(xlabel="learning rate", ylabel="training loss")
        ax.legend()
        return ax


def lr_find(
    estimator: BaseMLP,
    X: Any,
    y: Any,
    sample_weight: Any = None,
    *,
    min_rate: float = 1e-6,
    max_rate: float = 10.0,
    n_steps: int = 200,
) -> RangeTest:
    """Train a copy of an estimator with a learning rate that rises exponentially, to see where the loss falls fastest.

    Parameters
    ----------
    estimator : MLPClassifier or MLPRegressor
        All its parameters count but those that say how long to train and the learning rate. It is not changed.
    X : {array-like, sparse matrix} of shape (n_samples, n_features)
        As for ``fit``.
    y : array-like of shape (n_samples,) or (n_samples, n_outputs)
        As for ``fit``.
    sample_weight : array-like of shape (n_samples,), default=None
        As for ``fit``.
    min_rate, max_rate : float, default=1e-6 and 10.0
        The rate of the first step, and where it goes.
    n_steps : int, default=200
        Steps at least: as many whole epochs as they take.

    Returns
    -------
    result : RangeTest
        ``rates``, ``losses``, ``suggestion`` and ``plot()``.

    Raises
    ------
    TypeError
        If the estimator is of another class.
    ValueError
        For the solver "lbfgs", which has no learning rate, rates that do not rise, and data that ``fit`` refuses.

    References
    ----------
    Smith, L. N. (2015). Cyclical learning rates for training neural networks. arXiv:1506.01186.

    Examples
    --------
    >>> from fastmlp import MLPClassifier, lr_find
    >>> from sklearn.datasets import load_digits
    >>> X, y = load_digits(return_X_y=True)
    >>> result = lr_find(MLPClassifier(random_state=0), X / 16, y)
    >>> 1e-3 < result.suggestion < 1
    True
    """
    if not isinstance(estimator, BaseMLP):
        raise TypeError(f"estimator must be an MLPClassifier or MLPRegressor, got {estimator!r}")
    model: Any = clone(estimator)
    if model.solver == "lbfgs":
        raise ValueError('the solver "lbfgs" has no learning rate to find')
    if not 0 < min_rate < max_rate < math.inf:
        raise ValueError(f"0 < min_rate < max_rate < inf must hold, got {min_rate!r} and {max_rate!r}")
    if n_steps < 10:
        raise ValueError(f"n_steps must be at least 10, got {n_steps!r}")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it has not converged, or that batches are larger than the data
        steps_per_epoch = math.ceil(len(y) / batch_rows(model.batch_size, len(y)))
        max_iter = math.ceil(n_steps / steps_per_epoch)
        model.set_params(
            learning_rate=Exponential(max_rate / min_rate),
            learning_rate_init=min_rate,
            max_iter=max_iter,
            n_iter_no_change=np.inf,
            early_stopping=False,
            verbose=False,
        )
        losses: list[float] = []
        model._batch_losses = losses
        try:
            model.fit(X, y, sample_weight)
        except ValueError:  # data that is refused, or a training that has diverged, as it should
            if not losses:
                raise
    n_steps = max_iter * steps_per_epoch
    rates = min_rate * Exponential(max_rate / min_rate)(np.arange(n_steps), n_steps)
    return RangeTest(rates, np.pad(losses, (0, n_steps - len(losses)), constant_values=np.nan))
