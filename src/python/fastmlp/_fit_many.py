"""Many fits at once: small networks, which train side by side on a GPU, as a search over parameters and folds has them.

Internal. Each estimator does all that its own ``fit`` would do, but for the epochs, which the core computes together.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from copy import deepcopy
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from sklearn.utils import _safe_indexing, check_array, check_consistent_length, check_random_state
from sklearn.utils.validation import _num_samples

from fastmlp import _core
from fastmlp._calibrated import forget_calibration
from fastmlp._cuda import device_number
from fastmlp._cuda_arrays import is_cuda_array
from fastmlp._engine import make_engine
from fastmlp._held_out import UserData, row_numbers
from fastmlp._random_state import RandomNumbers
from fastmlp._training import Data, refuse_non_finite
from fastmlp._validation import core_array, thread_count
from fastmlp.callbacks import as_callbacks

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from fastmlp._cuda import Place
    from fastmlp._solvers import Start

_FLOAT32 = np.dtype(np.float32)


def fit_many(
    estimators: Sequence[Any],
    X: Any,
    y: Any,
    sample_weight: Any = None,
    *,
    row_indices: Iterable[Any] | None = None,
) -> list[Exception | None]:
    """Fit estimators to rows of the same data: on a GPU all at once, elsewhere one after another.

    Those whose ``device`` names a GPU are trained together as far as they have one architecture, solver and precision;
    everything else may differ. Each becomes what ``fit`` on its rows would have made of it, up to rounding.

    Parameters
    ----------
    estimators : sequence of MLPClassifier or MLPRegressor
        No object may be there twice.
    X : array-like of shape (n_samples, n_features)
        On a GPU it is computed in float32: X must be that, or estimators have ``dtype="float32"``.
    y : array-like of shape (n_samples,) or (n_samples, n_outputs)
        Targets, as in ``fit``.
    sample_weight : array-like of shape (n_samples,), default=None
        Weights, as in ``fit``.
    row_indices : iterable of array-like of int or bool, default=None
        For each estimator the numbers of the rows that it is fitted to, or a mask of them; None for all rows.

    Returns
    -------
    list of Exception or None
        For each estimator what its ``fit`` would have raised.

    Raises
    ------
    ValueError
        If the GPU engine has not what an estimator asks for when it trains many networks at once, and for data that are
        on a GPU.
    RuntimeError
        If the GPU cannot be used.
    MemoryError
        If there is not enough memory for all of them. After all three, estimators are what they were before.
    """
    for name, array in (("X", X), ("y", y), ("sample_weight", sample_weight)):
        if is_cuda_array(array):
            raise ValueError(f"many fits at once take {name} from the host, got an array on a GPU")
    check_consistent_length(X, y, sample_weight)
    rows = _rows_of(estimators, row_indices, _num_samples(X))
    on_gpu = [i for i, estimator in enumerate(estimators) if device_number(estimator.device) is not None]
    before = [_attributes(estimators[i]) for i in on_gpu]
    errors: list[Exception | None] = [None] * len(estimators)
    try:
        fits = _Fits(X, y, sample_weight)
        places = [_checked_place(estimators[i], X) for i in on_gpu]
        taken: list[np.random.RandomState] = []
        for i, place in zip(on_gpu, places, strict=True):
            random = _own_numbers(estimators[i].random_state, taken)
            errors[i] = _caught(fits.add, i, estimators[i], rows[i], place, random)
        for number, error in fits.train():
            errors[number] = error
    except BaseException:
        for i, attributes in zip(on_gpu, before, strict=True):
            vars(estimators[i]).clear()
            vars(estimators[i]).update(attributes)
        raise
    for i in sorted({*range(len(estimators))} - {*on_gpu}):
        given = [None if part is None else _part(part, rows[i]) for part in (X, y, sample_weight)]
        errors[i] = _caught(estimators[i].fit, *given)
    return errors


def _attributes(estimator: Any) -> dict[str, Any]:
    """Return all attributes: copies of those that training goes on from, and changes in place."""
    attributes = dict(vars(estimator))
    if estimator.warm_start:
        learned = {name: attributes[name] for name in attributes.keys() - estimator.get_params(deep=False).keys()}
        learned.pop("_flat", None)  # the buffer of views that will be other objects
        attributes.pop("_flat", None)
        attributes |= deepcopy(learned)
    return attributes


def _rows_of(
    estimators: Sequence[Any], row_indices: Iterable[Any] | None, n_rows: int
) -> list[NDArray[np.int64] | None]:
    if len({id(estimator) for estimator in estimators}) < len(estimators):
        raise ValueError("estimators must be different objects")
    rows = [
        None if numbers is None else row_numbers(numbers, n_rows, "row_indices")
        for numbers in (row_indices if row_indices is not None else [None] * len(estimators))
    ]
    if len(rows) != len(estimators):
        raise ValueError(f"row_indices must be one array for each of {len(estimators)} estimators, got {len(rows)}")
    return rows


def _part(data: Any, rows: NDArray[np.int64] | None) -> Any:
    return data if rows is None else _safe_indexing(data, rows)


def _caught(work: Any, *arguments: Any) -> Exception | None:
    """Do the work; return what it raises, unless that concerns all fits."""
    try:
        work(*arguments)
    except (MemoryError, _Missing):
        raise
    except Exception as error:
        return error
    return None


class _Missing(ValueError):
    """The GPU engine lacks something, for one network or for many."""


def _checked_place(estimator: Any, X: Any) -> Place:
    """Return the GPU that an estimator names; raise if that lacks what it asks for."""
    place: Place = estimator._check_device(X, None)
    wanted = {
        "early_stopping": estimator.early_stopping,
        "callbacks": as_callbacks(estimator.callbacks) or getattr(estimator, "_skl_callbacks", None),
        "max_time": estimator.max_time is not None,
        "on_divergence='back_off'": estimator.on_divergence == "back_off",
        "verbose": estimator.verbose,
        "precision 'bf16'": estimator.precision == "bf16",
    }
    for name, is_wanted in wanted.items():
        if is_wanted:
            raise _Missing(f"many fits at once on device={estimator.device!r} have no {name}: fit one after another")
    return place


def _own_numbers(seed: Any, taken: list[np.random.RandomState]) -> RandomNumbers:
    """Return numbers that no other fit draws: a generator that fits share, such as NumPy's own, seeds others."""
    random = RandomNumbers(seed)
    if random.is_own:
        return random
    generator = random.random_state
    shared = generator is check_random_state(None) or any(generator is other for other in taken)
    taken.append(generator)
    return RandomNumbers(np.random.RandomState(generator.randint(2**32, size=4, dtype=np.uint32))) if shared else random


@dataclass
class _Targets:
    """Targets and weights of all rows, as far as they are known from fits; such fits agree about them."""

    y: NDArray[Any]
    sample_weight: NDArray[Any] | None
    known: NDArray[np.bool_]

    @classmethod
    def like(cls, data: Data, n_rows: int) -> _Targets:
        y = np.empty((n_rows, *data.y.shape[1:]), data.y.dtype)
        y[:] = data.y[0]  # valid in rows that nobody looks at, too
        weights = None if data.sample_weight is None else np.ones(n_rows, data.sample_weight.dtype)
        return cls(y, weights, np.zeros(n_rows, bool))

    def take(self, data: Data, rows: NDArray[np.int64]) -> bool:
        """Take over the targets of these rows, unless they contradict what is known."""
        if (self.sample_weight is None) != (data.sample_weight is None) or (
            (self.y.dtype, self.y.shape[1:]) != (data.y.dtype, data.y.shape[1:])
        ):
            return False
        pairs = [(self.y, data.y)]
        if self.sample_weight is not None and data.sample_weight is not None:
            pairs.append((self.sample_weight, data.sample_weight))
        known = self.known[rows]
        if not all(np.array_equal(ours[rows[known]], theirs[known]) for ours, theirs in pairs):
            return False
        for ours, theirs in pairs:
            ours[rows] = theirs
        self.known[rows] = True
        return True


@dataclass
class _Fit:
    """One of the fits: which estimator it is of, what it begins with, and its rows and targets."""

    number: int
    estimator: Any
    start: Start
    rows: NDArray[np.int64]
    targets: int


@dataclass
class _Group:
    """Fits that the core trains together."""

    place: Place
    targets: list[_Targets] = field(default_factory=list)
    fits: list[_Fit] = field(default_factory=list)

    def number_of_targets(self, data: Data, rows: NDArray[np.int64], n_rows: int) -> int:
        """Return which of the targets are those of a fit; add some if need be."""
        for number, targets in enumerate(self.targets):
            if targets.take(data, rows):
                return number
        self.targets.append(_Targets.like(data, n_rows))
        self.targets[-1].take(data, rows)
        return len(self.targets) - 1

    def train(self, X: NDArray[np.float32], given: UserData) -> Iterable[tuple[int, Exception | None]]:
        """Train all of them; tell of each what its ``fit`` would have raised."""
        first = self.fits[0]
        network = first.start.network
        engine = make_engine(network, _FLOAT32, first.estimator.n_jobs)  # says why a loss is not finite
        data = [Data(X, targets.y, targets.sample_weight) for targets in self.targets]
        with ExitStack() as streams:
            runs = [
                streams.enter_context(
                    fit.estimator._run_of(
                        engine, fit.start._replace(data=data[fit.targets], given=given), None, False, fit.rows
                    )
                )
                for fit in self.fits
            ]
            jobs = [run.one_of_many(fit.targets) for run, fit in zip(runs, self.fits, strict=True)]
            pairs = [(targets.y, targets.sample_weight) for targets in self.targets]
            threads = thread_count(first.estimator.n_jobs)
            outcomes = _core.fit_many(network, self.place, X, pairs, jobs, threads)
            for run, outcome in zip(runs, outcomes, strict=True):
                run.trained(outcome)
        for fit, run, outcome in zip(self.fits, runs, outcomes, strict=True):
            yield fit.number, _caught(_conclude, fit.estimator, run, outcome)


def _conclude(estimator: Any, run: Any, outcome: dict[str, Any]) -> None:
    estimator._conclude(run, outcome, incremental=False)
    refuse_non_finite(run.parameters)


class _Fits:
    """All fits on a GPU, in groups."""

    def __init__(self, X: Any, y: Any, sample_weight: Any) -> None:
        self._given = UserData(X, y, sample_weight)
        self._groups: dict[Any, _Group] = {}

    def add(
        self,
        number: int,
        estimator: Any,
        rows: NDArray[np.int64] | None,
        place: Place,
        random: RandomNumbers,
    ) -> None:
        """Begin a fit as the estimator itself would, on its rows alone."""
        estimator._validate_params()
        given = self._given
        X, y, sample_weight = (
            None if part is None else _part(part, rows) for part in (given.X, given.y, given.sample_weight)
        )
        start = estimator._begin(X, y, sample_weight, None, False, random)
        if start.parameters.dtype != _FLOAT32:
            raise _Missing(
                "many fits at once on a GPU compute in float32: pass X of that dtype, or estimators with "
                f"dtype='float32', got {start.parameters.dtype}"
            )
        forget_calibration(estimator)
        n_rows = _num_samples(given.X)
        numbers = np.arange(n_rows, dtype=np.int64) if rows is None else rows
        group = self._groups.setdefault(
            (start.network, estimator.solver, bool(estimator.ema_decay), place), _Group(place)
        )
        targets = group.number_of_targets(start.data, numbers, n_rows)
        group.fits.append(_Fit(number, estimator, start._replace(X=None, data=None, given=None), numbers, targets))

    def train(self) -> Iterable[tuple[int, Exception | None]]:
        """Train them, group after group; tell of each what its ``fit`` would have raised."""
        if self._groups:
            X = core_array(check_array(self._given.X, dtype=_FLOAT32, ensure_all_finite=False), _FLOAT32)
            for group in self._groups.values():
                yield from group.train(X, self._given)
