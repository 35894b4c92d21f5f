"""Training: one ``fit`` of each workload, scikit-learn in the same group, the same loss curve demanded of both."""

import functools

import numpy as np
import pytest
from workloads import LIBRARIES, Training, Workload


@functools.cache
def expected_loss_curve(workload: Workload) -> np.ndarray:
    training = Training("scikit-learn", workload)
    training.restart()
    training.fit()
    return training.loss_curve


@pytest.mark.parametrize("library", LIBRARIES)
def test_fit(benchmark, workload, library):
    benchmark.group = f"fit {workload.shape}"
    training = Training(library, workload)
    benchmark.pedantic(training.fit, setup=training.restart, rounds=5, warmup_rounds=1)
    np.testing.assert_allclose(training.loss_curve, expected_loss_curve(workload), rtol=workload.rtol)
