"""The facts without which a measured time means nothing: processor, threads, versions, build, measured peak."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import Any

import fastmlp
from fastmlp import _core

THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")


def confine_to(n_threads: int) -> None:
    """Let processes started from now on use this many cores and threads, BLAS included."""
    for variable in THREAD_VARIABLES:
        os.environ[variable] = str(n_threads)
    if hasattr(os, "sched_setaffinity"):  # Linux only
        os.sched_setaffinity(0, ALLOWED_CPUS[-n_threads:])


def usable_cpus() -> list[int]:
    """Return the processors that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


ALLOWED_CPUS = usable_cpus()  # before anything is confined


def describe(n_threads: int) -> dict[str, Any]:
    """Return what this process measures on."""
    return {
        "processor": _processor(),
        "system": platform.platform(),
        "n_cpus": os.cpu_count(),
        "n_threads": n_threads,
        "environment": {
            name: value for name, value in os.environ.items() if name.startswith(("OPENBLAS_", "FASTMLP_"))
        },
        "config": fastmlp.show_config("dicts"),
        # The best of several: another process can only make the peak look lower.
        "peak_gflops": max(_core.fma_peak("float32", n_threads) for _ in range(5)) / 1e9,
    }


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()
