"""Rows that are watched instead of trained on: where they come from, and what measures them."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from numbers import Real
from typing import TYPE_CHECKING, Any

import numpy as np
from sklearn.metrics import get_scorer, get_scorer_names
from sklearn.model_selection import check_cv, train_test_split
from sklearn.utils import _safe_indexing

from fastmlp._cuda_arrays import is_cuda_array

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from fastmlp._training import Data

LOSS = "loss"  # the metric that is the loss itself


@dataclass(frozen=True)
class HeldOut:
    """What is watched: ``rows`` of the training data, or ``data`` of its own; and the same as scorers take it."""

    rows: NDArray[np.int64] | None
    data: Data | None
    given: Callable[[], tuple[Any, Any, Any]]  # X, y, sample_weight

    @property
    def core_form(self) -> tuple[Any, Any, Any] | None:
        """Data of its own as the core takes it."""
        return None if self.data is None else (self.data.X, self.data.y, self.data.sample_weight)


@dataclass(frozen=True)
class UserData:
    """What ``fit`` was given, after it was checked, as the user writes it: scorers look at names of features, too."""

    X: Any
    y: Any
    sample_weight: NDArray[Any] | None = None
    groups: Any = None

    def __getitem__(self, rows: NDArray[np.int64]) -> tuple[Any, Any, Any]:
        weights = None if self.sample_weight is None else self.sample_weight[rows]
        X = self.X[rows] if is_cuda_array(self.X) else _safe_indexing(self.X, rows)
        return X, self.y[rows], weights

    def hold_out(
        self, fraction: Any, stratify: NDArray[Any] | None, random_state: np.random.RandomState
    ) -> tuple[NDArray[np.int64], HeldOut]:
        """Return the numbers of the rows to train on, and the others."""
        rows, others = split_rows(fraction, self.X, self.y, self.groups, stratify, random_state)
        return rows, HeldOut(others, None, lambda: self[others])


def split_rows(
    fraction: Any,
    X: Any,
    y: Any,
    groups: Any,
    stratify: NDArray[Any] | None,
    random_state: np.random.RandomState,
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the numbers of the rows for training and for validation.

    For a share of the rows these are scikit-learn's, in its order; for a splitter, or pairs of row numbers, the first
    pair.
    """
    n_rows = len(y)
    if isinstance(fraction, Real):
        if groups is not None:
            raise ValueError("groups needs a splitter such as GroupShuffleSplit() as validation_fraction, got a number")
        rows, validation_rows = train_test_split(
            np.arange(n_rows, dtype=np.int64), random_state=random_state, test_size=fraction, stratify=stratify
        )
    else:
        features = np.zeros(n_rows) if is_cuda_array(X) else X  # splitters count them
        pair = next(iter(check_cv(fraction).split(features, y, groups)), None)
        if pair is None:
            raise ValueError(f"validation_fraction={fraction!r} offers no split")
        rows, validation_rows = (row_numbers(part, n_rows, "a split of validation_fraction") for part in pair)
        if len(rows) == 0 or len(np.intersect1d(rows, validation_rows)):
            raise ValueError("the first split of validation_fraction must have training rows that are not validated on")
    if len(validation_rows) < 2:
        raise ValueError("The validation set is too small. Increase 'validation_fraction' or the size of your dataset.")
    return rows, validation_rows


def row_numbers(part: Any, n_rows: int, what: str) -> NDArray[np.int64]:
    """Return the numbers of some of n rows, given as such or as a mask."""
    numbers = np.asarray(part)
    if numbers.dtype == bool:
        numbers = np.flatnonzero(numbers)
    if numbers.ndim != 1 or numbers.dtype.kind not in "iu" or not ((numbers >= 0) & (numbers < n_rows)).all():
        raise ValueError(f"{what} must hold row numbers from 0 to {n_rows - 1}, got {part!r}")
    return numbers.astype(np.int64)


def metrics_by_name(eval_metric: Any, default: str) -> dict[str, Any]:
    """Return what ``eval_metric`` asks for: scorers by their names, None for what the core computes itself.

    Parameters
    ----------
    eval_metric : str, callable, iterable of them, or None
        As in the estimators.
    default : str
        Name of the score that the core computes.

    Raises
    ------
    ValueError
        For names that neither scikit-learn nor fastmlp knows, and for a name that occurs twice.
    """
    given = [default] if eval_metric is None else [eval_metric] if _is_single(eval_metric) else list(eval_metric)
    metrics: dict[str, Any] = {}
    for metric in given:
        name = metric if isinstance(metric, str) else _name_of(metric)
        if name in metrics:
            raise ValueError(f"eval_metric names {name!r} twice")
        if not isinstance(metric, str):
            metrics[name] = metric
        elif name in (LOSS, default):
            metrics[name] = None
        elif name in get_scorer_names():
            metrics[name] = get_scorer(name)
        else:
            raise ValueError(
                f"unknown eval_metric {name!r}; valid names: {LOSS!r} and sklearn.metrics.get_scorer_names()"
            )
    if not metrics:
        raise ValueError("eval_metric must name at least one metric")
    return metrics


def _is_single(metric: Any) -> bool:
    return isinstance(metric, str) or callable(metric) or not isinstance(metric, Iterable)


def _name_of(scorer: Any) -> str:
    if not callable(scorer):
        raise ValueError(f"eval_metric must be names and scorers (estimator, X, y) -> float, got {scorer!r}")
    function = getattr(scorer, "_score_func", scorer)  # of what make_scorer returned
    return str(getattr(function, "__name__", type(function).__name__))


class Scoring:
    """The scorers of a training, asked after each epoch; the first metric is the one that decides.

    Parameters
    ----------
    metrics : mapping of str to scorer or None
        What ``metrics_by_name`` returned.
    estimator : object
        What is scored: its parameters are those of the last epoch.
    held_out : HeldOut
        What it is scored on. Weights go to scorers that take ``sample_weight``.
    """

    def __init__(self, metrics: Mapping[str, Any], estimator: Any, held_out: HeldOut) -> None:
        self._metrics, self._estimator, self._given = dict(metrics), estimator, held_out.given
        self._watched: tuple[Any, Any, Any] | None = None
        self._others: dict[str, list[float]] = {name: [] for name in [*metrics][1:]}

    def __call__(self, loss: float) -> float:
        """Return the score of the first metric; ``loss`` is the validation loss."""
        if self._watched is None:
            self._watched = self._given()
        scores = [self._score(name, scorer, loss, *self._watched) for name, scorer in self._metrics.items()]
        for values, score in zip(self._others.values(), scores[1:], strict=True):
            values.append(score)
        return scores[0]

    def take(self) -> dict[str, list[float]]:
        """Return the scores of all metrics but the first since the last time, one for each epoch."""
        taken, self._others = self._others, {name: [] for name in self._others}
        return taken

    def _score(self, name: str, scorer: Any, loss: float, X: Any, y: Any, sample_weight: Any) -> float:
        if scorer is None and name == LOSS:
            return -loss
        scorer = _own_score if scorer is None else scorer
        weighted = sample_weight is not None and _takes_weights(scorer)
        score = scorer(self._estimator, X, y, **({"sample_weight": sample_weight} if weighted else {}))
        try:
            return float(score)
        except (TypeError, ValueError):
            raise TypeError(f"the metric {name!r} must return a number, got {score!r}") from None


def _own_score(estimator: Any, X: Any, y: Any, sample_weight: Any = None) -> Any:
    return estimator.score(X, y, sample_weight)


def _takes_weights(scorer: Any) -> bool:
    if hasattr(scorer, "_score_func"):
        scorer = scorer._score_func
    parameters = inspect.signature(scorer).parameters.values()
    return any(parameter.name == "sample_weight" or parameter.kind == parameter.VAR_KEYWORD for parameter in parameters)
