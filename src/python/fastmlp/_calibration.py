"""The mathematics of calibration: temperature scaling, and what split-conformal prediction compares and counts."""

from __future__ import annotations

import math
import warnings
from fractions import Fraction
from numbers import Real
from typing import TYPE_CHECKING, Any

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils.validation import _check_sample_weight

if TYPE_CHECKING:
    from numpy.typing import NDArray

_WIDEST = 20.0  # logarithm of the largest temperature, and of the inverse of the smallest


def fit_temperature(logits: NDArray[Any], y: NDArray[Any], sample_weight: Any = None) -> float:
    """Return the number T for which the log loss of ``logits / T`` is smallest.

    The loss is convex in 1 / T: its slope changes its sign once, and that is where T is.

    Parameters
    ----------
    logits : ndarray of shape (n_samples, n_outputs)
        Sums of the output layer, before softmax or logistic function.
    y : ndarray of int of shape (n_samples,), or of 0 and 1 of shape (n_samples, n_outputs)
        Class numbers, for softmax; or for each output whether the label is there, for the logistic function.
    sample_weight : array-like of shape (n_samples,), default=None
        Weight of each row; None means 1.

    Returns
    -------
    temperature : float
        Above 0. It is 1, with a ``ConvergenceWarning``, if the loss has no minimum: it falls towards T = 0 if there is
        no mistake to learn from, and towards infinity if the logits are no better than chance.
    """
    from scipy.optimize import brentq
    from scipy.special import expit, softmax

    z = np.asarray(logits, np.float64)
    weights = _check_sample_weight(sample_weight, z, dtype=np.float64)
    if not weights.any() or weights.min() < 0:
        raise ValueError(f"sample_weight must hold numbers of 0 or more, and not only 0; got {sample_weight!r}")
    if y.ndim == 1:
        true, link = np.take_along_axis(z, y[:, np.newaxis], axis=1)[:, 0], softmax
    else:
        true, link = (y * z).sum(axis=1), expit

    def slope(log_temperature: float) -> float:
        scaled = z * math.exp(-log_temperature)
        probabilities = link(scaled, axis=1) if link is softmax else link(scaled)
        return float(weights @ ((probabilities * z).sum(axis=1) - true))

    sharpest, flattest = slope(-_WIDEST), slope(_WIDEST)
    if sharpest > 0 > flattest:
        return math.exp(brentq(slope, -_WIDEST, _WIDEST, xtol=1e-13))
    why = "no row is classified wrongly" if flattest < 0 else "the outputs are no better than chance"
    warnings.warn(
        f"no temperature has the smallest log loss on these {len(z)} rows, because {why}: it stays 1. "
        "Calibrate with more rows, which were not trained on.",
        ConvergenceWarning,
        stacklevel=3,
    )
    return 1.0


def mass_above(probabilities: NDArray[Any], temperature: float = 1.0) -> NDArray[np.float64]:
    """Return for each class the probability of all classes of its row that are more probable: 0 for the first.

    Probabilities (n_samples, n_classes) that a temperature has flattened are taken as they were before.
    """
    p = np.asarray(probabilities, np.float64)
    p = (p / p.max(axis=1, keepdims=True)) ** temperature
    p /= p.sum(axis=1, keepdims=True)
    order = np.argsort(-p, axis=1, kind="stable")
    ranked = np.take_along_axis(p, order, axis=1)
    above = np.zeros_like(ranked)
    above[:, 1:] = np.cumsum(ranked, axis=1)[:, :-1]
    above[:, 1:][ranked[:, 1:] == ranked[:, :-1]] = 0  # equals have the same above them: that of the first
    mass = np.empty_like(above)
    np.put_along_axis(mass, order, np.maximum.accumulate(above, axis=1), axis=1)
    return mass


def conformal_quantile(scores: NDArray[np.float64], coverage: Any) -> Any:
    """Return of sorted ``scores`` (n, ...) the ``ceil((n + 1) coverage)``-th: a new one is no larger so often.

    Raises
    ------
    ValueError
        If ``coverage`` is not between 0 and 1, or asks for more scores than there are.
    """
    if isinstance(coverage, bool) or not isinstance(coverage, Real) or not 0 < float(coverage) < 1:
        raise ValueError(f"coverage must be a number above 0 and below 1, got {coverage!r}")
    share, n = Fraction(repr(float(coverage))), len(scores)  # the decimal that was meant: 100 * 0.07 is 7
    rank = math.ceil((n + 1) * share)
    if rank > n:
        raise ValueError(
            f"coverage={coverage} needs at least {math.ceil(share / (1 - share))} calibration rows, got {n}: "
            "with fewer only everything, or an infinite interval, is sure to cover so much"
        )
    return scores[rank - 1]
