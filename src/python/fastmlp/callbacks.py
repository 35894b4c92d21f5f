"""What can look at a training, and steer it, after each epoch: ``MLPClassifier(callbacks=[...])``.

A callback is a function of the running training that may return True to stop it, or a ``Callback`` with more to say.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from numbers import Real
from typing import TYPE_CHECKING, Any

from fastmlp import files
from fastmlp._run import Callback

if TYPE_CHECKING:
    from fastmlp._run import Run

__all__ = ["Callback", "Checkpoint", "ProgressBar"]

CHECKPOINT, CHECKPOINT_VERSION = "fastmlp checkpoint", 1


class _Function(Callback):
    def __init__(self, function: Callable[[Run], Any]) -> None:
        self._function = function

    def on_epoch_end(self, run: Run) -> bool:
        return bool(self._function(run))


def as_callbacks(given: Any) -> list[Callback]:
    """Return the callbacks of an estimator's parameter: one, several, or none."""
    if given is None:
        return []
    several = given if isinstance(given, list | tuple) else [given]
    for callback in several:
        if isinstance(callback, type) or not (isinstance(callback, Callback) or callable(callback)):
            raise TypeError(f"callbacks must be functions or instances of fastmlp.callbacks.Callback, got {callback!r}")
    return [callback if isinstance(callback, Callback) else _Function(callback) for callback in several]


class ProgressBar(Callback):
    """A bar of epochs with the losses of the last one, by tqdm, which comes with ``pip install fastmlp[demo]``.

    Parameters
    ----------
    **options : dict
        For ``tqdm.auto.tqdm``, such as ``desc``, ``leave`` or ``file``.

    Examples
    --------
    >>> import io
    >>> from fastmlp import MLPRegressor
    >>> from fastmlp.callbacks import ProgressBar
    >>> text = io.StringIO()
    >>> model = MLPRegressor(max_iter=1000, callbacks=[ProgressBar(file=text)]).fit([[0.0], [1.0]], [0.0, 1.0])
    >>> "loss=" in text.getvalue()
    True
    """

    def __init__(self, **options: Any) -> None:
        self.options = options
        self._bar: Any = None

    def on_train_begin(self, run: Run) -> None:
        """Draw an empty bar, or what a resumed training begins with."""
        from tqdm.auto import tqdm

        self._bar = tqdm(**{"total": run.max_iter, "unit": "epoch", "initial": run.n_iter, **self.options})

    def on_epoch_end(self, run: Run) -> None:
        """Draw on."""
        losses = {name: run.history[name][-1] for name in ("loss", "val_loss") if name in run.history}
        self._bar.set_postfix(losses, refresh=False)
        self._bar.update()

    def on_train_end(self, run: Run) -> None:
        """Close the bar."""
        self._bar.close()
        self._bar = None

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_bar": None}


class Checkpoint(Callback):
    """Keep a training on disk, so that one that was killed goes on where it was, and ends with the same bits.

    After an epoch the file holds all that the next one depends on: parameters, the optimizer's state, the order of the
    rows, random numbers, stopping rules, best parameters and history. It is replaced at once: a crash leaves the old
    one or the new one. When ``fit`` begins and the file is there, training goes on from it; a training that had ended
    is not repeated.

    Parameters
    ----------
    path : str or path-like
        The file. Delete it to begin anew.
    interval : float, default=10.0
        Seconds at least between two writings; 0 writes after each epoch. A training that ends is always written.

    Raises
    ------
    ModelFileError
        By ``fit``, if the file is no checkpoint, or one of other data or other parameters (all count but ``max_iter``,
        ``max_time``, ``n_jobs``, ``verbose`` and ``callbacks``). It is a ``ValueError``.
    OSError
        By ``fit``, if the file cannot be read or written.

    Examples
    --------
    >>> import os, tempfile
    >>> from fastmlp import MLPClassifier
    >>> from fastmlp.callbacks import Checkpoint
    >>> from sklearn.datasets import load_iris
    >>> X, y = load_iris(return_X_y=True)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     checkpoint = Checkpoint(os.path.join(folder, "training.safetensors"), interval=0)
    ...     model = MLPClassifier(max_iter=20, random_state=0, tol=0, callbacks=[checkpoint])
    ...     stopped = model.set_params(callbacks=[checkpoint, lambda run: run.n_iter == 7]).fit(X, y).n_iter_
    ...     resumed = model.set_params(callbacks=[checkpoint]).fit(X, y)
    >>> whole = MLPClassifier(max_iter=20, random_state=0, tol=0).fit(X, y)
    >>> stopped, resumed.n_iter_, bool((resumed.coefs_[0] == whole.coefs_[0]).all())
    (7, 20, True)
    """

    path: str
    interval: float
    _fingerprint: str
    _written: float  # when
    _is_due: bool

    def __init__(self, path: str | os.PathLike[str], *, interval: float = 10.0) -> None:
        if not isinstance(interval, Real) or not interval >= 0:
            raise ValueError(f"interval must be seconds, at least 0, got {interval!r}")
        self.path = os.fspath(path)
        self.interval = float(interval)
        self._fingerprint = ""
        self._written = 0.0
        self._is_due = False

    def on_train_begin(self, run: Run) -> None:
        """Take up a training that is on disk."""
        self._fingerprint, self._written, self._is_due = run.fingerprint(), time.monotonic(), False
        if not os.path.exists(self.path):
            return
        with files.errors_name(self.path, "checkpoint"):
            header, tensors = files.read(self.path, CHECKPOINT, CHECKPOINT_VERSION)
            if files.entry(header, "fingerprint", str) != self._fingerprint:
                raise ValueError(
                    "it is of a training with other data or other parameters; delete it, or choose another path"
                )
            numbers = {name: files.decode(value) for name, value in files.entry(header, "numbers", dict).items()}
            run.restore({**tensors, "numbers": numbers})

    def on_epoch_end(self, run: Run) -> None:
        """Write, if the last time is long enough ago."""
        self._is_due = True
        if time.monotonic() - self._written >= self.interval:
            self._write(run)

    def on_train_end(self, run: Run) -> None:
        """Write the end, if it is that of an epoch."""
        if self._is_due and run.is_whole:
            self._write(run)

    def _write(self, run: Run) -> None:
        state = run.state()
        numbers = {name: files.encode(value, name) for name, value in state.pop("numbers").items()}
        header = {"format_version": CHECKPOINT_VERSION, "fingerprint": self._fingerprint, "numbers": numbers}
        files.write(self.path, header, state, CHECKPOINT)
        self._written, self._is_due = time.monotonic(), False
