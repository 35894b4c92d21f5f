"""Prediction: the latency of one row and the throughput of 10,000, the same answers demanded of both libraries."""

import numpy as np
import pytest
from workloads import LIBRARIES, Training


@pytest.fixture
def trained(workload):
    """The workload's network in both libraries, with the same weights."""
    trainings = {library: Training(library, workload) for library in LIBRARIES}
    for training in trainings.values():
        training.restart()
    return {library: training.model for library, training in trainings.items()}


@pytest.mark.parametrize("n_rows", [1, 10_000])
@pytest.mark.parametrize("library", LIBRARIES)
def test_predict(benchmark, workload, trained, library, n_rows):
    benchmark.group = f"predict {n_rows} rows, {workload.shape}"
    X = np.random.default_rng(3).standard_normal((n_rows, workload.layer_sizes[0]), dtype=np.float32)
    method = "predict" if workload.regression else "predict_proba"
    answer = benchmark(getattr(trained[library], method), X)
    expected = getattr(trained["scikit-learn"], method)(X)
    np.testing.assert_allclose(answer, expected, rtol=1e-3, atol=1e-5)
