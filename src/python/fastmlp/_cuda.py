"""Where training runs: the GPU engine, whether it can be had, what to do if not, and when it is worth its start."""

from __future__ import annotations

import importlib.util
import logging
import os
import re
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

from fastmlp import _core
from fastmlp._validation import name_among

PRECISIONS = ("ieee", "tf32", "bf16")
LIBRARY = "libfastmlp_cuda.so"

_DRIVER = "580"  # the first with CUDA 13
_EXPLANATIONS = {
    "ok": "ready: {device}, compute capability {capability}, {free:.1f} of {total:.1f} GiB free, "
    "CUDA {runtime}, cuBLASLt {cublas}",
    "not_built": "fastmlp was built without its GPU engine: there is no {library}. Install it anew with nvcc of CUDA "
    "13, pip install . -C cmake.define.FASTMLP_CUDA=ON, or let pip fetch it, FASTMLP_CUDA_WHEELS=1 pip install .",
    "unusable": "the GPU engine cannot be used: {detail}. Install fastmlp anew, so that its parts are of one build",
    "no_driver": "there is no NVIDIA driver ({detail}). Install one of version " + _DRIVER + " or newer",
    "driver_too_old": "the NVIDIA driver knows CUDA {driver}, and the GPU engine needs {runtime}. Install driver "
    + _DRIVER
    + " or newer",
    "no_device": "there is no such GPU ({detail}). `nvidia-smi` lists what the driver sees, and the environment "
    "variable CUDA_VISIBLE_DEVICES hides some",
    "device_too_old": "{device} has {detail}, and the GPU engine needs 8.0 (Ampere) or newer. Use another GPU or "
    "device='cpu'",
    "no_cublas": "cuBLASLt cannot be opened ({detail}). Install it, pip install 'nvidia-cublas==13.*', or set the "
    "environment variable FASTMLP_CUBLASLT to the path of libcublasLt.so.13",
    "error": "the GPU cannot be used: {detail}",
}


@dataclass(frozen=True)
class CudaStatus:
    """Whether the GPU engine can be used, and if not, why and what helps. True if it can.

    Attributes
    ----------
    state : str
        "ok", "not_built", "unusable" (the library cannot be opened, or is of another build), "no_driver",
        "driver_too_old", "no_device", "device_too_old" (compute capability below 8.0), "no_cublas" or "error".
    text : str
        The same in words, with what to do about it.
    details : dict
        What the engine reported: versions, the name of the device, its memory.
    """

    state: str
    text: str
    details: dict[str, Any] = field(default_factory=dict, repr=False)

    def __bool__(self) -> bool:
        return self.state == "ok"

    def __str__(self) -> str:
        return self.text


class Place(NamedTuple):
    """A GPU and how products of matrices are computed there; what `_core.Engine` takes as ``cuda``."""

    library: str
    device: int
    precision: str


def cuda_status(device: int = 0) -> CudaStatus:
    """Say whether training can run on a GPU, and if not, why and what to do.

    Parameters
    ----------
    device : int, default=0
        Number of the GPU, as in ``device="cuda:0"``.

    Returns
    -------
    CudaStatus
        True if the GPU can be used; ``str`` explains.

    Raises
    ------
    ValueError
        If ``device`` is negative.

    Examples
    --------
    >>> import fastmlp
    >>> status = fastmlp.cuda_status()
    >>> status.state in ("ok", "not_built", "no_driver") or len(status.text) > 0
    True
    """
    if device < 0:
        raise ValueError(f"device must not be negative, got {device}")
    library = library_path()
    if not os.path.exists(library):
        return _status("not_built", {"detail": ""}, library)
    try:
        found = _core.cuda_status(library, device, cublas_names())
    except RuntimeError as error:
        return _status("unusable", {"detail": str(error)}, library)
    return _status(found["state"], found, library)


def _status(state: str, found: dict[str, Any], library: str) -> CudaStatus:
    words = {
        "library": library,
        "detail": found["detail"],
        "device": found.get("device", ""),
        "driver": _version(found.get("driver", 0)),
        "runtime": _version(found.get("runtime", 0)),
        "cublas": found.get("cublas", 0),
        "capability": ".".join(map(str, found.get("capability", ()))),
        "free": found.get("free_bytes", 0) / 2**30,
        "total": found.get("total_bytes", 0) / 2**30,
    }
    return CudaStatus(state, _EXPLANATIONS[state].format(**words), found)


def _version(number: int) -> str:
    return f"{number // 1000}.{number % 1000 // 10}"


def library_path() -> str:
    """Return where the GPU engine is: ``FASTMLP_CUDA_LIBRARY``, or beside the core."""
    return os.environ.get("FASTMLP_CUDA_LIBRARY") or str(Path(_core.__file__).parent / LIBRARY)


def cublas_names() -> list[str]:
    """Return where cuBLASLt is looked for: its package, conda, then wherever the system finds it, then CUDA_HOME."""
    if chosen := os.environ.get("FASTMLP_CUBLASLT"):
        return [chosen]
    spec = importlib.util.find_spec("nvidia")
    roots = list(spec.submodule_search_locations or ()) if spec else []
    files = [os.path.join(root, *place) for root in roots for place in _PLACES]
    if prefix := os.environ.get("CONDA_PREFIX"):
        files += [os.path.join(prefix, "lib", name) for name in _SONAMES]
    homes = [os.environ[name] for name in ("CUDA_HOME", "CUDA_PATH") if os.environ.get(name)]
    last = [os.path.join(home, "lib64", name) for home in homes for name in _SONAMES]
    return [*filter(os.path.exists, files), *_SONAMES, *filter(os.path.exists, last)]


_SONAMES = ("libcublasLt.so.13", "libcublasLt.so.12")
_PLACES = (("cu13", "lib", _SONAMES[0]), ("cublas", "lib", _SONAMES[1]))


def device_number(device: str) -> int | None:
    """Return the number of the GPU that ``device`` names, None for "cpu" and "auto"."""
    if device in ("cpu", "auto"):
        return None
    match = re.fullmatch(r"cuda(?::(\d{1,4}))?", device) if isinstance(device, str) else None
    if match is None:
        raise ValueError(f"device must be 'cpu', 'cuda', 'cuda:N' with the number of a GPU, or 'auto', got {device!r}")
    return int(match[1] or 0)


def gpu_place(device: str, precision: str) -> Place | None:
    """Return the GPU that ``device`` names, None for "cpu" and "auto"; raise if it cannot be used."""
    name_among(precision, PRECISIONS, "precision")
    number = device_number(device)
    if number is None:
        if device == "cpu" and precision != "ieee":
            raise ValueError(f"precision={precision!r} is for a GPU: device='cpu' computes in 'ieee' precision")
        return None
    status = cuda_status(number)
    if not status:
        raise RuntimeError(f"device={device!r} cannot be used: {status}.")
    return Place(library_path(), number, precision)


class Work(NamedTuple):
    """What a training would do at most: what decides where it runs."""

    layer_sizes: tuple[int, ...]
    batch_size: int
    n_batches: int
    max_iter: int

    @property
    def operations(self) -> float:
        """Floating-point operations of a step: two a multiply-add, forward and twice back."""
        return 6.0 * self.batch_size * sum(a * b for a, b in pairwise(self.layer_sizes))

    @property
    def n_steps(self) -> int:
        """Steps of the whole training."""
        return self.n_batches * self.max_iter


# Estimates, not measured on a GPU by this project: rates that full products of float32 reach, the time of a kernel in a
# CUDA graph, and what it takes to start a GPU, compile a graph and copy the data.
_CPU_RATE, _GPU_RATE = 3e10, 1.5e13
_KERNEL_SECONDS, _START_SECONDS = 2e-6, 1.0


def estimated_seconds(work: Work, n_threads: int) -> tuple[float, float]:
    """Return what a training may take at most on the CPU and on a GPU."""
    kernels = 2 * len(work.layer_sizes)  # one after the other
    on_gpu = kernels * _KERNEL_SECONDS + work.operations / _GPU_RATE
    return work.n_steps * work.operations / (_CPU_RATE * n_threads), _START_SECONDS + work.n_steps * on_gpu


def automatic_place(work: Work, precision: str, obstacle: str | None) -> tuple[Place | None, str]:
    """Return where ``device="auto"`` trains, None for the CPU, and why in words."""
    if obstacle:
        return None, f"device='auto': the CPU, as the GPU engine has no {obstacle}"
    on_cpu, on_gpu = estimated_seconds(work, _core.config()["threads"])
    if on_cpu <= on_gpu:
        return None, f"device='auto': the CPU, which may take {on_cpu:.2g} s and a GPU {on_gpu:.2g} s"
    status = cuda_status()
    if not status:
        return None, f"device='auto': the CPU, as {status}"
    return Place(library_path(), 0, precision), f"device='auto': {status.details['device']}"


def tell(place: Place | None, why: str, verbose: Any) -> None:
    """Say where ``device="auto"`` trains: if ``verbose`` always, else once for each place to the logger "fastmlp"."""
    if verbose:
        print(why)
    if place not in _told:
        _told.add(place)
        logging.getLogger("fastmlp").info(why)


_told: set[Place | None] = set()  # in this process
