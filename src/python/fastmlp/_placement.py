"""The part of an estimator that chooses where it trains, and keeps what it has learned if there is no room there."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import wraps
from typing import TYPE_CHECKING, Any, TypeVar

import scipy.sparse

from fastmlp._cuda import Place, Work, automatic_place, gpu_place, library_path, tell
from fastmlp._cuda_arrays import cuda_array, is_cuda_array
from fastmlp._training import batch_rows

if TYPE_CHECKING:
    from fastmlp import _core


_Method = TypeVar("_Method", bound=Callable[..., Any])


def keeps_what_was_learned(fit: _Method) -> _Method:
    """Make a method that trains leave the estimator as it was, if there is not enough memory."""

    @wraps(fit)
    def checked(estimator: Any, *arguments: Any, **more: Any) -> Any:
        before = dict(vars(estimator))
        try:
            return fit(estimator, *arguments, **more)
        except MemoryError:
            vars(estimator).clear()
            vars(estimator).update(before)
            raise

    return checked  # type: ignore[return-value]


class Placement:
    """The part of an estimator that knows ``device`` and ``precision``."""

    if TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            """Parameters and fitted attributes of the estimator."""

    def _check_device(self, X: Any, X_val: Any) -> Place | None:
        """Return the GPU that was asked for; raise if it cannot be used, or lacks what the estimator needs."""
        place = gpu_place(self.device, self.precision)
        on_gpu = [(given, name) for given, name in ((X, "X"), (X_val, "X_val")) if is_cuda_array(given)]
        if on_gpu and self.device == "auto":
            place = Place(library_path(), cuda_array(*on_gpu[0], "auto").device, self.precision)
        if place is not None and (missing := self._missing_on_gpu(X, X_val)):
            if on_gpu:
                raise ValueError(f"{on_gpu[0][1]} is on a GPU, where there is no {missing}: copy it to the host")
            raise ValueError(
                f"device={self.device!r} has no {missing}: use device='cpu', or 'auto' for whichever has it"
            )
        return place

    def _missing_on_gpu(self, X: Any, X_val: Any) -> str | None:
        if self.solver == "lbfgs":
            return "solver 'lbfgs'"
        if not isinstance(self.loss, str):
            return "custom losses"
        if scipy.sparse.issparse(X) or scipy.sparse.issparse(X_val):
            return "sparse X"
        return None

    def _place(
        self, asked: Place | None, network: _core.Network, X: Any, X_val: Any, dtype: Any, max_iter: int
    ) -> Place | None:
        """Return where to train, None for the CPU; with ``device="auto"`` say so."""
        if self.device != "auto":
            return asked
        if asked is not None:
            tell(asked, f"device='auto': GPU {asked.device}, where the data are", self.verbose)
            return asked
        missing = self._missing_on_gpu(X, X_val)
        if missing is None and self.precision != "ieee" and dtype.itemsize != 4:
            missing = f"precision {self.precision!r} for {dtype.name}"
        n_rows = X.shape[0]
        batch = min(
            n_rows, batch_rows(self.batch_size, n_rows) if isinstance(self.batch_size, str) else self.batch_size
        )
        work = Work(tuple(network.layer_sizes), batch, math.ceil(n_rows / batch), max_iter)
        place, why = automatic_place(work, self.precision, missing)
        tell(place, why, self.verbose)
        return place
