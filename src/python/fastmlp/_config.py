"""``fastmlp.show_config``: what was built, what was chosen on this machine, and on which versions it runs."""

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import fastmlp
from fastmlp import _core
from fastmlp._cuda import cuda_status, library_path
from fastmlp._engine import blas_mode
from fastmlp._validation import name_among


def show_config(mode: str = "stdout") -> dict[str, Any] | None:
    """Print, or return, how fastmlp was built and what it chose on this machine.

    Parameters
    ----------
    mode : {"stdout", "dicts"}, default="stdout"
        Print it, or return it as a dictionary of dictionaries, as ``numpy.show_config`` does.

    Returns
    -------
    dict or None
        With ``mode="dicts"``: ``"fastmlp"`` (version and what the C++ core says of itself: compiler, instruction sets,
        threads), ``"cuda"`` (whether the GPU engine can be used, and if not, why), ``"blas"`` (the ``FASTMLP_BLAS``
        setting and the library that SciPy carries) and ``"versions"``.

    Raises
    ------
    ValueError
        If ``mode`` or the environment variable ``FASTMLP_BLAS`` is not a valid name.

    Examples
    --------
    >>> import fastmlp
    >>> fastmlp.show_config("dicts")["fastmlp"]["version"]
    '0.1.0'
    """
    name_among(mode, ["stdout", "dicts"], "mode")
    rooms = {
        "fastmlp": {"version": fastmlp.__version__, **_core.config(), "cuda": os.path.exists(library_path())},
        "cuda": _cuda(),
        "blas": {"FASTMLP_BLAS": blas_mode(), "library": _scipy_blas()},
        "versions": {
            "python": platform.python_version(),
            **{package: _version(package) for package in ("numpy", "scipy", "scikit-learn")},
        },
    }
    if mode == "dicts":
        return rooms
    for room, entries in rooms.items():
        print(f"{room}:")
        for name, value in entries.items():
            print(f"  {name}: {value}")
    return None


def _cuda() -> dict[str, Any]:
    status = cuda_status()
    return {"state": status.state, "text": status.text}


def _scipy_blas() -> str:
    import scipy

    blas = scipy.show_config(mode="dicts")["Build Dependencies"]["blas"]
    return f"{blas['name']} {blas['version']}"


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"
