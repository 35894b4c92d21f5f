"""What goes into the core: names, sizes and arrays, checked, with errors that say what was given and what is allowed.

Knows NumPy and ``_core`` only. Estimators have scikit-learn check their data first, so that messages are the familiar
ones; ``Network``, which works without scikit-learn, uses ``real_array``.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Collection, Iterable
from numbers import Real
from typing import TYPE_CHECKING, Any

import numpy as np

from fastmlp import _core

if TYPE_CHECKING:
    from numpy.typing import DTypeLike, NDArray

    from fastmlp._core import Matrix


ACTIVATIONS = tuple(_core.activations())
NORMALIZATIONS = tuple(_core.normalizations())
MOST_UNITS = 2**30  # of a layer: the core counts with 32-bit integers


def name_among(given: object, allowed: Collection[str], what: str) -> str:
    """Return ``given`` if it is one of the ``allowed`` names."""
    if not isinstance(given, str) or given not in allowed:
        raise ValueError(f"unknown {what} {given!r}; valid names: {', '.join(map(repr, allowed))}")
    return given


def unit_counts(given: Any, name: str) -> list[int]:
    """Return the numbers of units per layer: ``given`` is a positive integer, an iterable of them, or "256x3"."""
    if isinstance(given, str):
        parts = re.fullmatch(r"(\d+)x(\d+)", given)
        if parts is None:
            raise ValueError(f"{name} as a string must be units and layers such as '256x3', got {given!r}.")
        given = [int(parts[1])] * int(parts[2])
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
    return _one_per_hidden_layer(given, n_hidden, ACTIVATIONS, "activation")


def hidden_normalizations(given: str | Iterable[str | None] | None, n_hidden: int) -> list[str]:
    """Return one normalisation per hidden layer: ``given`` is a name for all, or one name each; None for none."""
    names = given if isinstance(given, str) or given is None else ["none" if name is None else name for name in given]
    return _one_per_hidden_layer(names or "none", n_hidden, NORMALIZATIONS, "normalization")


def hidden_dropout(given: Any, n_hidden: int) -> list[float]:
    """Return the dropout of each hidden layer: ``given`` is a number for all of them, or one number each."""
    shares = [given] * n_hidden if isinstance(given, Real) else list(given)
    if len(shares) != n_hidden:
        raise ValueError(
            f"dropout must be one number or one per hidden layer ({n_hidden}), got {len(shares)}: {shares}"
        )
    for share in shares:
        if not isinstance(share, Real) or not 0 <= float(share) < 1:
            raise ValueError(f"dropout must be at least 0 and below 1, got {share!r}")
    return [float(share) for share in shares]


def _one_per_hidden_layer(given: str | Iterable[str], n_hidden: int, allowed: Collection[str], what: str) -> list[str]:
    names = [given] * n_hidden if isinstance(given, str) else list(given)
    if len(names) != n_hidden:
        raise ValueError(f"{what} must be one name or one per hidden layer ({n_hidden}), got {len(names)}: {names}")
    return [name_among(name, allowed, what) for name in names]


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

    A NumPy array whose rows are contiguous is not copied, even if the rows are apart. What is on a GPU stays there.
    """
    if isinstance(X, _core.CudaArray):
        return X if X.dtype == dtype else X.converted()
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
