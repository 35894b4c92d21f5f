"""Arrays that are on a GPU already: CuPy's, PyTorch's, and all others that DLPack or the CUDA array interface describe.

Features are read where they are. Targets and weights, which are small and looked at closely, come to the host.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from fastmlp import _core
from fastmlp._cuda import Place, cuda_status, device_number, library_path

if TYPE_CHECKING:
    from numpy.typing import DTypeLike

_ON_A_GPU = (2, 13)  # DLPack's numbers of CUDA's memory, and of managed memory


def is_cuda_array(given: Any) -> bool:
    """Whether an array is in the memory of an NVIDIA GPU."""
    if isinstance(given, np.ndarray):
        return False
    if hasattr(given, "__dlpack_device__"):
        return given.__dlpack_device__()[0] in _ON_A_GPU
    return hasattr(given, "__cuda_array_interface__")


def cuda_array(given: Any, name: str, device: str) -> _core.CudaArray:
    """Return an array as the core takes it, ready to be read on its GPU.

    Raises
    ------
    ValueError
        If it is on another device than ``device``.
    RuntimeError
        If its GPU cannot be used.
    """
    if device == "cpu":
        raise ValueError(
            f"{name} is on a GPU, and device='cpu': use device='cuda', or copy {name} to the host, with {name}.get() "
            f"of CuPy or {name}.cpu() of PyTorch"
        )
    wanted = device_number(device)
    _require(wanted or 0, name)
    array = _core.CudaArray(given, library_path(), name)
    if wanted is not None and array.device != wanted:
        raise ValueError(
            f"{name} is on GPU {array.device}, and device={device!r} is GPU {wanted}: use device="
            f"'cuda:{array.device}', or copy {name} to GPU {wanted}"
        )
    if wanted is None and array.device != 0:
        _require(array.device, name)
    return array


def _require(number: int, name: str) -> None:
    status = cuda_status(number)
    if not status:
        raise RuntimeError(f"{name} is on a GPU, and GPU {number} cannot be used: {status}.")


def on_host(given: Any, name: str, device: str) -> Any:
    """Return an array from a GPU as a NumPy array, anything else as it is."""
    return cuda_array(given, name, device).to_host() if is_cuda_array(given) else given


def features_on_gpu(given: Any, name: str, device: str, dtype: DTypeLike | None, *, assume_finite: bool) -> Any:
    """Return checked features that are on a GPU, in ``dtype`` or, if it is None, in their own one.

    Raises
    ------
    ValueError
        If they have not two axes, or hold NaN or infinity; and as ``cuda_array``.
    TypeError
        If they are neither float32 nor float64.
    """
    array = cuda_array(given, name, device)
    if len(array.shape) != 2:
        raise ValueError(f"Expected 2D array, got {len(array.shape)}D array instead: {name} has shape {array.shape}")
    if array.dtype not in (np.float32, np.float64):
        raise TypeError(
            f"{name} on a GPU must have dtype float32 or float64, got {array.dtype}: convert it there, with "
            f"{name}.astype('float32') of CuPy or {name}.float() of PyTorch"
        )
    if dtype is not None and array.dtype != dtype:
        array = array.converted()
    if not assume_finite and (place := array.find_not_finite()) is not None:
        row, column = place
        found = "NaN" if np.isnan(array.to_host(row, 1)[0, column]) else _TOO_LARGE.format(array.dtype)
        raise ValueError(f"Input {name} contains {found}, in row {row}, column {column}.")
    return array


_TOO_LARGE = "infinity or a value too large for dtype('{}')"  # scikit-learn's words


def host_blocks(X: _core.CudaArray) -> Iterator[Any]:
    """Bring features to the host, some rows at a time: for the few who must look at all of them."""
    n_rows = max(1, (1 << 22) // X.shape[1])
    for first in range(0, len(X), n_rows):
        yield X.to_host(first, min(n_rows, len(X) - first))


def place_of(X: Any, precision: str = "ieee") -> Place | None:
    """Return the GPU on which checked features are, None for the host."""
    return Place(library_path(), X.device, precision) if isinstance(X, _core.CudaArray) else None
