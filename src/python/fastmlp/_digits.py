"""What ``python -m fastmlp`` does with the digits: the data, the training with its progress, the race.

Knows estimators only by ``fit``, so that fastmlp's and scikit-learn's are measured by the same code.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

N_TEST = 450  # a quarter of the 1,797 digits

Advance = Callable[[int, str], None]  # (steps done so far, a note) -> None


class Split(NamedTuple):
    """Training and test digits: images as rows of 64 pixels in [0, 1], labels 0 to 9."""

    X_train: NDArray[Any]
    X_test: NDArray[Any]
    y_train: NDArray[Any]
    y_test: NDArray[Any]


def load_split(seed: int, dtype: str) -> Split:
    """Split scikit-learn's 8x8 handwritten digits, every class in the same share on both sides."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    X, y = load_digits(return_X_y=True)
    X = (X / 16).astype(dtype)
    return Split(*train_test_split(X, y, test_size=N_TEST, stratify=y, random_state=seed))


@contextmanager
def progress(label: str, total: int, unit: str) -> Iterator[Advance]:
    """Show progress: a bar on a terminal that has tqdm, about five plain lines anywhere else."""
    bar_class = _tqdm() if sys.stdout.isatty() else None
    if bar_class is None:
        yield _plain_lines(label, total, unit)
        return
    with bar_class(total=total, desc=label, unit=f" {unit}", file=sys.stdout, dynamic_ncols=True) as bar:

        def advance(done: int, note: str) -> None:
            bar.set_postfix_str(note, refresh=False)
            bar.update(done - bar.n)

        yield advance


def fit_with_progress(model: Any, split: Split) -> None:
    """Fit a fastmlp estimator and show its epochs as they end."""
    with progress("training", model.max_iter, "epochs") as advance:
        callbacks = [lambda run: advance(run.n_iter, f"loss {run.history['loss'][-1]:.4f}")]
        try:
            model.set_params(callbacks=callbacks).fit(split.X_train, split.y_train)
        finally:
            model.set_params(callbacks=None)


def time_alternating(models: Sequence[Any], split: Split, repeats: int) -> list[float]:
    """Fit the models in turns and return the median seconds of each: a slow moment of the machine hits all alike."""
    seconds: list[list[float]] = [[] for _ in models]
    with progress("timing", repeats * len(models), "fits") as advance:
        for repeat in range(repeats):
            for turn, model in enumerate(models):
                start = time.perf_counter()
                model.fit(split.X_train, split.y_train)
                seconds[turn].append(time.perf_counter() - start)
                advance(repeat * len(models) + turn + 1, "")
    return [statistics.median(times) for times in seconds]


def largest_difference(curve: Sequence[float], other: Sequence[float]) -> float:
    """Largest relative difference of two loss curves over the epochs that both have."""
    n_epochs = min(len(curve), len(other))
    a, b = np.asarray(curve[:n_epochs]), np.asarray(other[:n_epochs])
    return float(np.max(np.abs(a - b) / b))


def _tqdm() -> Any:
    try:
        from tqdm import tqdm
    except ImportError:
        return None
    return tqdm


def _plain_lines(label: str, total: int, unit: str) -> Advance:
    step = max(1, total // 5)

    def advance(done: int, note: str) -> None:
        if done % step == 0 or done == total:
            print(f"{label}: {done}/{total} {unit} {note}".rstrip(), flush=True)

    return advance
