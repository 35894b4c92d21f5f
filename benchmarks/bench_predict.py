"""Prediction: the latency of one row and the throughput of 10,000, every installed library in the same group.

All have the same weights and must give the same answers.
"""

import numpy as np
import pytest
from libraries import LIBRARIES, libraries_for, make_training


@pytest.mark.parametrize("n_rows", [1, 10_000])
@pytest.mark.parametrize("library", LIBRARIES)
def test_predict(benchmark, workload, library, n_rows):
    if library not in libraries_for(workload):
        pytest.skip(f"{library} is not installed or takes no part")
    benchmark.group = f"predict {n_rows} rows, {workload.shape} {workload.what}"
    X = np.random.default_rng(3).standard_normal((n_rows, workload.layer_sizes[0]), dtype=workload.dtype)
    training, reference = (make_training(name, workload) for name in (library, "scikit-learn"))
    training.restart()
    reference.restart()
    answer, expected = benchmark(training.outputs, X), reference.outputs(X)
    last_column, expected = (np.reshape(array, (n_rows, -1))[:, -1] for array in (answer, expected))
    np.testing.assert_allclose(last_column, expected, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("n_rows", [1, 10_000])
def test_predictor(benchmark, workload, n_rows):
    benchmark.group = f"predict {n_rows} rows, {workload.shape} {workload.what}"
    training = make_training("fastmlp", workload)
    training.restart()
    X = np.random.default_rng(3).standard_normal((n_rows, workload.layer_sizes[0]), dtype=workload.dtype)
    np.testing.assert_array_equal(benchmark(training.model.compile(), X), training.outputs(X))
