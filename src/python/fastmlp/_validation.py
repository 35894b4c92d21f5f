"""What goes into the core: names, sizes and arrays, checked, with errors that say what was given and what is allowed.

Knows NumPy and ``_core`` only. Estimators have scikit-learn check their data first, so that messages are the familiar
ones; ``Network``, which works without scikit-learn, uses ``real_array``.
"""

from __future__ import annotations

import operator
from collections.abc import Collection, Iterable
from typing import TYPE_CHECKING, Any

import numpy as np

from fastmlp import _core

if TYPE_CHECKING:
    from numpy.typing import DTypeLike, NDArray

    from fastmlp._core import Matrix


ACTIVATIONS = tuple(_core.activations())
MOST_UNITS = 2**30  # of a layer: the core counts with 32-bit integers


def name_among(given: object, allowed: Collection[str], what: str) -> str:
    """Return ``given`` if it is one of the ``allowed`` names."""
    if not isinstance(given, str) or given not in allowed:
        raise ValueError(f"unknown {what} {given!r}; valid names: {', '.join(map(repr, allowed))}")
    return given


def unit_counts(given: Any, name: str) -> list[int]:
    """Return the numbers of units per layer: ``given`` is one positive integer or an iterable of them."""
    sizes = list(given) if isinstance(given, Iterable) else [given]
    try:
        counts = [operator.index(size) for size in sizes]
    except TypeError:
        raise ValueError(f"{name} must hold integers, got {given!r}.") from None
    if any(count <= 0 for count in counts):
        raise ValueError(f"{name} must be > 0, got {sizes}.")
    if any(count > MOST_UNITS for count in counts):
        raise ValueError(f"{name} must be at most {MOST_UNITS}, got {sizes}.")
    return counts


def hidden_activations(given: str | Iterable[str], n_hidden: int) -> list[str]:
    """Return one activation per hidden layer: ``given`` is a name for all of them, or one name each."""
    names = [given] * n_hidden if isinstance(given, str) else list(given)
    if len(names) != n_hidden:
        raise ValueError(f"activation must be one name or one per hidden layer ({n_hidden}), got {len(names)}: {names}")
    return [name_among(name, ACTIVATIONS, "activation") for name in names]


def thread_count(n_jobs: int | None) -> int:
    """Return the core's number of threads: None lets the engine choose (0), -1 means all that the process may use."""
    if n_jobs is None:
        return 0
    if n_jobs == -1:
        return int(_core.config()["threads"])
    if n_jobs < 1:
        raise ValueError(f"n_jobs must be None, -1 or a positive integer, got {n_jobs!r}")
    return operator.index(n_jobs)


def real_array(values: Any, name: str, dtype: DTypeLike) -> NDArray[Any]:
    """Return ``values`` as an array of finite numbers for the core: ``dtype``, C-contiguous, aligned.

    Raises
    ------
    ValueError
        For complex numbers, text, objects and ragged lists, and for NaN or infinity (also after rounding to ``dtype``).
    """
    array = np.asarray(values)
    if array.dtype.kind not in "biuf":
        raise ValueError(f"{name} must hold real numbers, got an array of dtype {array.dtype}")
    with np.errstate(over="ignore"):
        array = core_array(array, dtype)
    if not np.isfinite(array).all():
        position = tuple(int(i) for i in np.argwhere(~np.isfinite(array))[0])
        raise ValueError(f"{name} contains {array[position]} at position {position}; only finite {dtype} is allowed")
    return array


def core_array(array: Any, dtype: DTypeLike) -> NDArray[Any]:
    """Return a checked array as the core takes it: ``dtype`` in native byte order, C-contiguous, aligned."""
    return np.require(array, dtype, ["C", "A"])


def core_matrix(X: Any, dtype: DTypeLike) -> Matrix:
    """Return checked features as the core takes them: contiguous rows, or the parts of a CSR matrix.

    A NumPy array whose rows are contiguous is not copied, even if the rows are apart.
    """
    if hasattr(X, "tocsr"):
        csr = X.tocsr()
        return (
            core_array(csr.data, dtype),
            core_array(csr.indices, np.int32),
            core_array(csr.indptr, np.int64),
            int(csr.shape[1]),
        )
    array = np.asarray(X, dtype)
    rows_fit = array.flags.aligned and array.strides[1] == array.itemsize and array.strides[0] % array.itemsize == 0
    return array if rows_fit else core_array(array, dtype)
