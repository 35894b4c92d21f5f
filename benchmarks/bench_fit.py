"""Training: one ``fit`` of each workload, every installed library in the same group, the same final loss demanded.

All run in this one process, where they disturb each other: ``compare.py`` keeps them apart.
"""

import functools

import pytest
from libraries import LIBRARIES, libraries_for, make_training
from workloads import Workload


@functools.cache
def expected_loss(workload: Workload) -> float:
    training = make_training("scikit-learn", workload)
    training.restart()
    training.fit()
    return training.loss()


@pytest.mark.parametrize("library", LIBRARIES)
def test_fit(benchmark, workload, library):
    if library not in libraries_for(workload):
        pytest.skip(f"{library} is not installed or takes no part")
    benchmark.group = f"fit {workload.shape} {workload.what}"
    training = make_training(library, workload)
    benchmark.pedantic(training.fit, setup=training.restart, rounds=5, warmup_rounds=1)
    benchmark.extra_info["loss"] = training.loss()
    assert training.loss() == pytest.approx(expected_loss(workload), rel=workload.rtol)
