"""Learning rate schedules: what ``learning_rate_init`` is multiplied by at every step of a training.

A schedule is a function of the number of a step, counted from 0, and of the number of all steps. Those of this page are
values that can be compared, combined, pickled and saved; any other function ``f(step, n_steps)`` serves as well. To add
one, write a class like its neighbours and name it in the list at the bottom.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, fields
from math import inf, isfinite
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

AnySchedule: TypeAlias = "Schedule | Callable[[int, int], float]"


class Schedule(ABC):
    """A schedule as a value. ``a * b`` follows both; ``WarmUp`` goes before another one.

    Examples
    --------
    >>> from fastmlp import MLPClassifier
    >>> from fastmlp.schedules import Cosine, StepDecay, WarmUp
    >>> WarmUp(0.1, then=Cosine())(0, 1000)  # the first of 1000 steps
    np.float64(0.01)
    >>> schedule = WarmUp(50) * StepDecay(0.5, gamma=0.1)
    >>> X, y = [[0.0], [1.0], [2.0], [3.0]], [0, 0, 1, 1]
    >>> model = MLPClassifier(learning_rate=schedule, learning_rate_init=0.01, max_iter=200, random_state=0).fit(X, y)
    >>> round(model.learning_rate_, 6)  # that of the last step
    0.001
    """

    @abstractmethod
    def __call__(self, step: Any, n_steps: int) -> Any:
        """Return the factor at ``step`` (0 for the first, or an array of such numbers) of ``n_steps``."""

    def __mul__(self, other: AnySchedule) -> Product:
        return Product(self, other)

    def parts(self) -> tuple[Any, ...]:
        """Return the schedules that this one is made of."""
        return ()


@dataclass(frozen=True)
class StepDecay(Schedule):
    """Multiplied by ``gamma`` after every ``step_size`` steps, or after that share of all steps.

    Parameters
    ----------
    step_size : int or float, default=1/3
        A number of steps if it is an integer, else a share of all steps in (0, 1].
    gamma : float, default=0.1
        The factor.
    """

    step_size: float = 1 / 3
    gamma: float = 0.1

    def __post_init__(self) -> None:
        _check_length(self.step_size, "step_size")
        _check_number(self.gamma, "gamma", 0)

    def __call__(self, step: Any, n_steps: int) -> Any:
        """Return the factor."""
        return np.power(float(self.gamma), step // _steps(self.step_size, n_steps))


@dataclass(frozen=True)
class Exponential(Schedule):
    """The same factor at every step, so that ``end`` is reached at the end: ``end ** (step / n_steps)``.

    Parameters
    ----------
    end : float, default=0.01
        Where it goes; above 1 for a rate that rises.
    """

    end: float = 0.01

    def __post_init__(self) -> None:
        _check_number(self.end, "end", 0)
        if self.end == 0:
            raise ValueError("end must not be 0: no factor leads there")

    def __call__(self, step: Any, n_steps: int) -> Any:
        """Return the factor."""
        return np.power(float(self.end), step / n_steps)


@dataclass(frozen=True)
class Cosine(Schedule):
    """Half a wave from 1 down to ``end``.

    Parameters
    ----------
    end : float, default=0.0
        Where it goes.

    References
    ----------
    Loshchilov, I. and Hutter, F. (2016). SGDR: stochastic gradient descent with warm restarts. arXiv:1608.03983.
    """

    end: float = 0.0

    def __post_init__(self) -> None:
        _check_number(self.end, "end", 0)

    def __call__(self, step: Any, n_steps: int) -> Any:
        """Return the factor."""
        return _half_wave(1, self.end, step / n_steps)


@dataclass(frozen=True)
class OneCycle(Schedule):
    """Half a wave up to 1 and half a wave down, far below the start.

    Parameters
    ----------
    pct_start : float, default=0.3
        Share of the steps in which it rises.
    div_factor : float, default=25.0
        It starts at ``1 / div_factor``.
    final_div_factor : float, default=1e4
        It ends at ``1 / (div_factor * final_div_factor)``.

    References
    ----------
    Smith, L. N. and Topin, N. (2017). Super-convergence. arXiv:1708.07120. The names are PyTorch's.
    """

    pct_start: float = 0.3
    div_factor: float = 25.0
    final_div_factor: float = 1e4

    def __post_init__(self) -> None:
        _check_share(self.pct_start, "pct_start")
        _check_number(self.div_factor, "div_factor", 1)
        _check_number(self.final_div_factor, "final_div_factor", 1)

    def __call__(self, step: Any, n_steps: int) -> Any:
        """Return the factor."""
        progress, start = step / n_steps, 1 / self.div_factor
        rising = _half_wave(start, 1, progress / self.pct_start)
        falling = _half_wave(1, start / self.final_div_factor, (progress - self.pct_start) / (1 - self.pct_start))
        return np.where(progress < self.pct_start, rising, falling)[()]


@dataclass(frozen=True)
class FlatCosine(Schedule):
    """First 1, then half a wave down to 0.

    Parameters
    ----------
    flat : float, default=0.5
        Share of the steps in which it stays at 1.
    """

    flat: float = 0.5

    def __post_init__(self) -> None:
        _check_share(self.flat, "flat")

    def __call__(self, step: Any, n_steps: int) -> Any:
        """Return the factor."""
        return _half_wave(1, 0, np.maximum(0, (step / n_steps - self.flat) / (1 - self.flat)))


@dataclass(frozen=True)
class CosLog(Schedule):
    """Waves from 0 to 1 and back, each twice as long as the one before: ``(1 - cos(2 pi log2(1 + (2^n - 1) p))) / 2``.

    Parameters
    ----------
    n_cycles : int, default=4
        Number of waves.

    References
    ----------
    Holzmueller, D., Grinsztajn, L. and Steinwart, I. (2024). Better by default: strong pre-tuned MLPs and boosted trees
    on tabular data. arXiv:2407.04491, where it is coslog4.
    """

    n_cycles: int = 4

    def __post_init__(self) -> None:
        if not _is_integer(self.n_cycles) or not 1 <= self.n_cycles <= 50:
            raise ValueError(f"n_cycles must be an integer from 1 to 50, got {self.n_cycles!r}")

    def __call__(self, step: Any, n_steps: int) -> Any:
        """Return the factor."""
        return (1 - np.cos(2 * np.pi * np.log2(1 + (2**self.n_cycles - 1) * (step / n_steps)))) / 2


@dataclass(frozen=True)
class ReduceOnPlateau(Schedule):
    """Multiplied by ``factor`` when ``patience`` epochs have brought no improvement and one more brings none either.

    What an improvement is, ``tol`` and ``early_stopping`` of the estimator say. Training stops after
    ``n_iter_no_change`` such epochs: a larger patience has no effect.

    Parameters
    ----------
    factor : float, default=0.1
        The factor, in (0, 1).
    patience : int, default=4
        Epochs without improvement that are borne; every ``patience + 1`` in a row reduce the rate.
    lowest : float, default=0.0
        The product of all reductions does not get smaller than this.
    """

    factor: float = 0.1
    patience: int = 4
    lowest: float = 0.0

    def __post_init__(self) -> None:
        _check_share(self.factor, "factor")
        _check_number(self.lowest, "lowest", 0, 1)
        if not _is_integer(self.patience) or self.patience < 0:
            raise ValueError(f"patience must be an integer of 0 or more, got {self.patience!r}")

    def __call__(self, step: Any, n_steps: int) -> Any:
        """Return 1: the reductions come from outside, where it is known how training goes."""
        return np.ones(np.shape(step))[()]

    def reduced(self, reduction: float, no_improvement_count: int) -> float:
        """Return the product of all reductions after an epoch, ``reduction`` being that before."""
        if no_improvement_count == 0 or no_improvement_count % (self.patience + 1) > 0:
            return reduction
        return max(self.lowest, reduction * self.factor)


@dataclass(frozen=True)
class WarmUp(Schedule):
    """A straight rise to the beginning of another schedule, which gets the rest of the steps.

    Parameters
    ----------
    length : int or float, default=0.1
        A number of steps if it is an integer, else a share of all steps in (0, 1].
    then : Schedule or callable, default=None
        What follows; None stays at 1.
    """

    length: float = 0.1
    then: AnySchedule | None = None

    def __post_init__(self) -> None:
        _check_length(self.length, "length")
        if self.then is not None:
            _check_schedule(self.then, "then")

    def __call__(self, step: Any, n_steps: int) -> Any:
        """Return the factor."""
        length = min(_steps(self.length, n_steps), n_steps)
        rise = np.minimum(1.0, (step + 1) / length)
        if self.then is None:
            return rise
        return rise * factors(self.then, np.maximum(0, step - length), max(1, n_steps - length))

    def parts(self) -> tuple[Any, ...]:
        """Return what follows."""
        return (self.then,)


@dataclass(frozen=True)
class Product(Schedule):
    """Two schedules at once: ``a * b``.

    Parameters
    ----------
    first, second : Schedule or callable
        Their factors are multiplied.
    """

    first: AnySchedule
    second: AnySchedule

    def __post_init__(self) -> None:
        _check_schedule(self.first, "first")
        _check_schedule(self.second, "second")

    def __call__(self, step: Any, n_steps: int) -> Any:
        """Return the factor."""
        return factors(self.first, step, n_steps) * factors(self.second, step, n_steps)

    def parts(self) -> tuple[Any, ...]:
        """Return both."""
        return self.first, self.second


def factors(schedule: AnySchedule, step: Any, n_steps: int) -> Any:
    """Return the factors of any schedule at a step or an array of steps; a plain function is called for each."""
    if isinstance(schedule, Schedule):
        return schedule(step, n_steps)
    values = [float(schedule(int(number), n_steps)) for number in np.ravel(step)]
    return np.array(values).reshape(np.shape(step))[()]


def learning_rates(
    schedule: AnySchedule, learning_rate: float, first: int, count: int, n_steps: int
) -> NDArray[np.float64]:
    """Return the learning rates of ``count`` steps from number ``first``; after ``n_steps`` the last one stays."""
    steps = np.minimum(np.arange(first, first + count), n_steps - 1)
    rates: NDArray[np.float64] = np.broadcast_to(learning_rate * factors(schedule, steps, n_steps), count)
    return np.ascontiguousarray(rates, np.float64)


def plateau_of(schedule: Any) -> ReduceOnPlateau | None:
    """Return the ``ReduceOnPlateau`` in a schedule, if there is one."""
    if isinstance(schedule, ReduceOnPlateau):
        return schedule
    found = [plateau_of(part) for part in (schedule.parts() if isinstance(schedule, Schedule) else ())]
    plateaus = [plateau for plateau in found if plateau is not None]
    if len(plateaus) > 1:
        raise ValueError(f"a schedule may hold one ReduceOnPlateau, got {schedule}")
    return plateaus[0] if plateaus else None


def build(kind: Any, arguments: dict[str, Any]) -> Schedule:
    """Return the schedule of the class named ``kind``, as a file tells it."""
    kinds = {cls.__name__: cls for cls in KINDS}
    if not isinstance(kind, str) or kind not in kinds:
        raise ValueError(f"unknown schedule {kind!r}; valid names: {', '.join(kinds)}")
    cls: Any = kinds[kind]
    if arguments.keys() != (names := {field.name for field in fields(cls)}):
        raise ValueError(f"{kind} has the fields {sorted(names)}, found {sorted(arguments)}")
    return cls(**arguments)  # type: ignore[no-any-return]


def _half_wave(start: float, end: float, progress: Any) -> Any:
    return end + (start - end) * (1 + np.cos(np.pi * progress)) / 2


def _steps(length: float, n_steps: int) -> int:
    return int(length) if _is_integer(length) else max(1, round(length * n_steps))


def _is_integer(value: Any) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool)


def _check_number(value: Any, name: str, low: float, high: float = inf) -> None:
    number = isinstance(value, Real) and not isinstance(value, bool)
    if not number or not low <= value <= high or not isfinite(value):
        limit = f"of at least {low}" if high == inf else f"between {low} and {high}"
        raise ValueError(f"{name} must be a finite number {limit}, got {value!r}")


def _check_share(value: Any, name: str) -> None:
    _check_number(value, name, 0, 1)
    if value in (0, 1):
        raise ValueError(f"{name} must be above 0 and below 1, got {value!r}")


def _check_length(value: Any, name: str) -> None:
    if not _is_integer(value):
        _check_number(value, name, 0, 1)
    if value <= 0:
        raise ValueError(f"{name} must be a positive number of steps, or a share of them in (0, 1], got {value!r}")


def _check_schedule(value: Any, name: str) -> None:
    if not callable(value):
        raise ValueError(f"{name} must be a schedule or a function of step and n_steps, got {value!r}")


KINDS: list[type[Schedule]] = [
    StepDecay,
    Exponential,
    Cosine,
    OneCycle,
    FlatCosine,
    CosLog,
    ReduceOnPlateau,
    WarmUp,
    Product,
]
# what the estimators' `learning_rate` takes beside scikit-learn's names and schedules
NAMES: dict[str, Callable[[], Schedule]] = {
    "step": StepDecay,
    "exponential": Exponential,
    "cosine": Cosine,
    "one_cycle": OneCycle,
    "flat_cosine": FlatCosine,
    "coslog4": CosLog,
    "reduce_on_plateau": ReduceOnPlateau,
    "warmup": WarmUp,
}
