"""Where engines are made and asked for single predictions, after the BLAS of SciPy has been handed to the core."""

from __future__ import annotations

import os
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from fastmlp import _core
from fastmlp._validation import name_among, thread_count

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from fastmlp._core import FloatArray
    from fastmlp._cuda import Place


@lru_cache(maxsize=256)
def network_of(
    sizes: tuple[int, ...],
    activations: tuple[str, ...],
    loss: str,
    loss_parameters: tuple[tuple[str, Any], ...] = (),
    normalizations: tuple[str, ...] = (),
    dropout: tuple[float, ...] = (),
    residual: bool = False,
    output_activation: str = "identity",
) -> _core.Network:
    """Return the network of this description: it never changes, and making it takes longer than a row through it."""
    extras = normalizations, dropout, residual, output_activation
    return _core.Network(sizes, activations, loss, dict(loss_parameters), *extras)


def predict_plain(
    network: _core.Network, parameters: NDArray[Any], X: Any, n_jobs: int | None, *, assume_finite: bool
) -> FloatArray | None:
    """Return the output layer if X is a plain array that needs no conversion, else None; from any number of threads."""
    _hand_over_blas(blas_mode())
    return _core.predict(network, parameters, X, thread_count(n_jobs), assume_finite)


def make_engine(
    network: _core.Network,
    dtype: np.dtype[Any],
    n_jobs: int | None,
    loss: _core.BatchLoss | None = None,
    gpu: Place | None = None,
) -> _core.Engine:
    """Return an engine for one network in one dtype, and a loss in place of the network's; on the CPU or a GPU.

    Engines are cheap to make and serve one thread at a time. So each call of an estimator makes its own, and one
    estimator can predict in many threads.
    """
    _hand_over_blas(blas_mode())
    return _core.Engine(network, "float32" if dtype == np.float32 else "float64", thread_count(n_jobs), loss, gpu)


def blas_mode() -> str:
    """Return what ``FASTMLP_BLAS`` asks for: the core's own kernels ("off"), the BLAS where it wins, or always BLAS."""
    return name_among(os.environ.get("FASTMLP_BLAS", "auto"), ["off", "auto", "on"], "FASTMLP_BLAS")


@lru_cache(maxsize=1)  # again only when the mode has changed
def _hand_over_blas(mode: str) -> None:
    if mode != "on":  # "auto" has found no network yet for which the BLAS wins: SciPy need not be imported
        _core.set_blas(mode, None, None)
        return
    from scipy.linalg import cython_blas

    capsules = cython_blas.__pyx_capi__
    _core.set_blas(mode, capsules["sgemm"], capsules["dgemm"])
