"""scikit-learn's own callbacks, ``set_callbacks``: its protocol, which began with version 1.9, behind ours.

References
----------
https://scikit-learn.org/1.9/callbacks.html
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from fastmlp._parameters import KINDS, array_shapes, cut
from fastmlp.callbacks import Callback

if TYPE_CHECKING:
    from fastmlp._held_out import UserData
    from fastmlp._run import Run

__all__ = ["CallbackSupportMixin", "scikit_learn_callbacks", "with_callbacks"]

try:
    from sklearn.callback import CallbackSupportMixin, with_callbacks
except ImportError:  # an older scikit-learn has no callbacks: `set_callbacks` is not there
    F = TypeVar("F", bound=Callable[..., Any])

    class CallbackSupportMixin:  # type: ignore[no-redef]
        """Nothing."""

    def with_callbacks(method: F) -> F:
        """Return the method as it is."""
        return method


def scikit_learn_callbacks(estimator: Any, given: UserData) -> list[Callback]:
    """Return a callback that tells those of ``estimator.set_callbacks``, if there are any."""
    return [_ScikitLearnCallbacks(given)] if getattr(estimator, "_skl_callbacks", None) else []


class _ScikitLearnCallbacks(Callback):
    def __init__(self, given: UserData) -> None:
        self._data = {"X": given.X, "y": given.y}
        if given.sample_weight is not None:
            self._data["metadata"] = {"sample_weight": given.sample_weight}

    def on_train_begin(self, run: Run) -> None:
        estimator = run.estimator
        self._root = estimator._init_callback_context(task_name="fit", max_subtasks=run.max_iter - run.n_iter)
        self._root.call_on_fit_task_begin(estimator=estimator, **self._data)
        self._begin_epoch(run)

    def on_epoch_end(self, run: Run) -> bool:
        stop = bool(self._epoch.call_on_fit_task_end(**self._state(run)))
        if not stop and run.stopped is None and run.n_iter < run.max_iter:
            self._begin_epoch(run)
        return stop

    def on_train_end(self, run: Run) -> None:
        self._root.call_on_fit_task_end(**self._state(run))

    def _begin_epoch(self, run: Run) -> None:
        self._epoch = self._root.subcontext(task_name="epoch")
        self._epoch.call_on_fit_task_begin(**self._state(run))

    def _state(self, run: Run) -> dict[str, Any]:
        """Return what a hook is told; the copy of the parameters is made only if a callback wants to predict."""

        def attributes() -> dict[str, Any]:
            arrays = cut(np.array(run.parameters), array_shapes(run.network))
            return {f"{kind}_": arrays[kind] for kind in KINDS if hasattr(run.estimator, f"{kind}_")}

        return {"estimator": run.estimator, "reconstruction_attributes": attributes, **self._data}
