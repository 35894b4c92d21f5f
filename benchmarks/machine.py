"""The facts without which a measured time means nothing: processor, threads, build; and who may use how many cores."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import Any

THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
    "TF_NUM_INTRAOP_THREADS",
    "TF_NUM_INTEROP_THREADS",
)


def confine_to(n_threads: int) -> None:
    """Let processes started from now on use this many cores and threads, whatever their library, and no GPU."""
    for variable in THREAD_VARIABLES:
        os.environ[variable] = str(n_threads)
    os.environ |= {"CUDA_VISIBLE_DEVICES": "-1", "JAX_PLATFORMS": "cpu", "TF_CPP_MIN_LOG_LEVEL": "3"}
    os.environ["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false" if n_threads == 1 else ""
    if hasattr(os, "sched_setaffinity"):  # Linux only
        os.sched_setaffinity(0, ALLOWED_CPUS[-n_threads:])


def usable_cpus() -> list[int]:
    """Return the processors that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


ALLOWED_CPUS = usable_cpus()  # before anything is confined


def describe(n_threads: int) -> dict[str, Any]:
    """Return what is measured on."""
    import fastmlp  # not at the top: this module is also imported where another library is measured

    config = fastmlp.show_config("dicts")
    config["cuda"].pop("text", None)  # it names folders
    return {
        "processor": processor(),
        "system": platform.platform(),
        "n_cpus": len(ALLOWED_CPUS),
        "n_threads": n_threads,
        "environment": {
            name: value
            for name, value in os.environ.items()
            if name.startswith(("OPENBLAS_", "OMP_", "XLA_", "FASTMLP_"))
        },
        "config": config,
    }


def instruction_set(n_parameters: int) -> str:
    """Return the kernel set that fastmlp chooses here for a network of so many parameters."""
    import fastmlp

    core = fastmlp.show_config("dicts")["fastmlp"]
    few = core["few_parameters"]
    return str(few["instruction_set"] if n_parameters <= few["most"] else core["instruction_set"])


def processor() -> str:
    """Return its name."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()
