"""The engine against the oracle: every layer's output, every gradient by name, whatever the shape, dtype or kernels."""

import os
import subprocess
import sys

import numpy as np
import pytest
import reference
from scipy.sparse import csr_array
from test_losses import targets

from fastmlp import _core

# rows and layer sizes around the widths of the panels (8 and 16), and far from them
SHAPES = [
    (1, (1, 1)),
    (70, (3, 2)),
    (2, (1, 1, 1)),
    (7, (3, 8, 3)),
    (8, (8, 15, 2)),
    (15, (15, 16, 3)),
    (16, (16, 17, 1)),
    (17, (17, 33, 8)),
    (33, (33, 3, 17)),
    (31, (16, 8, 15, 3)),
    (50, (5, 33, 16, 2)),
    (64, (1, 17, 3, 33, 4)),
    (70, (9, 3, 8, 1, 16, 3)),
]
TOLERANCE = {"float32": 1e-4, "float64": 1e-11}


def problem(n, layer_sizes, activation, loss, dtype="float64", seed=0, given=None):
    """A network with random weights, and rows with valid targets (as many as the last of the sizes) and weights."""
    random, n_targets, given = np.random.RandomState(seed), layer_sizes[-1], given or {}
    layer_sizes = (*layer_sizes[:-1], n_targets * reference.outputs_per_target(loss, given))
    net = reference.Net(layer_sizes, (activation,) * (len(layer_sizes) - 2), loss, given)
    flat, X = reference.glorot(net, random), random.randn(n, layer_sizes[0])
    y, weights = targets(loss, random, n, n_targets), random.rand(n) + 0.1
    return net, *(a.astype(dtype) for a in (flat, X, y, weights))


def double(*arrays):
    return (a.astype(np.float64) for a in arrays)


def engine_of(net, dtype="float64", n_threads=1):
    return _core.Engine(_core.Network(*net), dtype, n_threads)


def assert_close_by_array(actual, expected, tolerance):
    """Compare lists of arrays by name, each array on its own scale, and name the one that is wrong."""
    largest = max(np.abs(array).max() for arrays in expected.values() for array in arrays if array is not None)
    floor = 0.01 * largest + np.finfo(np.float32).tiny
    for name in expected:
        for i, (a, b) in enumerate(zip(actual[name], expected[name], strict=True)):
            if b is not None:
                atol = tolerance * max(floor, np.abs(b).max())
                np.testing.assert_allclose(a, b, rtol=0, atol=atol, err_msg=f"{name}[{i}]")


def assert_gradients_match(net, actual, expected, tolerance):
    by_name = [
        dict(zip(("coefs", "intercepts"), reference.unpack(net, flat), strict=True)) for flat in (actual, expected)
    ]
    assert_close_by_array(*by_name, tolerance)


@pytest.mark.parametrize("weighted", [False, True], ids=["", "weighted"])
def test_loss_and_every_gradient_by_name(activation, loss, dtype, instruction_set, weighted):
    for n, layer_sizes in SHAPES:
        net, flat, X, y, weights = problem(n, layer_sizes, activation, loss, dtype)
        weights, alpha = (weights, 0.3) if weighted else (None, 0.0)
        value, penalty, gradient = engine_of(net, dtype).loss_and_gradient(flat, X, y, weights, alpha)
        weights = None if weights is None else weights.astype(np.float64)
        expected = reference.loss_and_gradient(net, *double(flat, X, y), weights, alpha)
        assert isinstance(value, float)
        assert isinstance(penalty, float)
        assert gradient.dtype == dtype
        tolerance = TOLERANCE[dtype]
        np.testing.assert_allclose([value, penalty], expected[:2], rtol=tolerance, atol=tolerance, err_msg=str(net))
        assert_gradients_match(net, gradient, expected[2], tolerance)


def test_gradient_is_the_central_difference(activation, loss, instruction_set):
    """Holds without any formula in NumPy, so also for an entry that was added a minute ago."""
    net, flat, X, y, weights = problem(5, (3, 4, 3, 2), activation, loss)
    engine, h = engine_of(net), 1e-5
    gradient = engine.loss_and_gradient(flat, X, y, weights, 0.5)[2]
    difference = np.empty_like(flat)
    for i in range(flat.size):
        up, down = flat.copy(), flat.copy()
        up[i] += h
        down[i] -= h
        above, below = (sum(engine.loss_and_gradient(w, X, y, weights, 0.5)[:2]) for w in (up, down))
        difference[i] = (above - below) / (2 * h)
    assert_gradients_match(net, gradient, difference, 1e-6)


def test_output_of_every_layer(activation, loss, dtype, instruction_set):
    for n, layer_sizes in SHAPES:
        net, flat, X, _, _ = problem(n, layer_sizes, activation, loss, dtype)
        engine = engine_of(net, dtype)
        for layer in (*range(len(layer_sizes)), -1):
            output = engine.predict(flat, X, layer)
            assert output.dtype == dtype
            expected, tolerance = reference.predict(net, *double(flat, X), layer), TOLERANCE[dtype]
            np.testing.assert_allclose(output, expected, rtol=tolerance, atol=tolerance, err_msg=f"{layer} of {net}")
        np.testing.assert_array_equal(engine.predict(flat, X), engine.predict(flat, X, len(layer_sizes) - 1))
        np.testing.assert_array_equal(engine.predict(flat, X, 0), X)


def test_layers_may_differ_in_activation(dtype):
    net = reference.Net((4, 5, 6, 7, 3), ("tanh", "relu", "mish"), "log_loss")
    _, _, X, y, _ = problem(20, net.layer_sizes, "relu", "log_loss", dtype)
    flat = reference.glorot(net, np.random.RandomState(1)).astype(dtype)
    gradient = engine_of(net, dtype).loss_and_gradient(flat, X, y, None, 0.1)[2]
    expected = reference.loss_and_gradient(net, *double(flat, X, y), None, 0.1)[2]
    assert_gradients_match(net, gradient, expected, TOLERANCE[dtype])


@pytest.mark.parametrize(("n", "layer_sizes"), [(300, (200, 150, 10)), (1000, (5, 300, 2)), (3, (600, 260, 130, 3))])
def test_wide_and_long(n, layer_sizes, dtype, instruction_set):
    """Large enough to be cut into blocks of rows, of inputs and of units."""
    net, flat, X, y, weights = problem(n, layer_sizes, "tanh", "log_loss", dtype)
    gradient = engine_of(net, dtype).loss_and_gradient(flat, X, y, weights, 0.1)[2]
    expected = reference.loss_and_gradient(net, *double(flat, X, y, weights), 0.1)[2]
    assert_gradients_match(net, gradient, expected, TOLERANCE[dtype])


# --- the ways to hand over rows, targets and weights ----------------------------------------------------------------


def sparse(X, density=0.3):
    """The rows with most entries missing, as an array and as CSR with unsorted columns and stored zeros."""
    random = np.random.RandomState(0)
    X = X * (random.rand(*X.shape) < density)
    X[len(X) // 2] = 0
    rows = csr_array(X + np.where(random.rand(*X.shape) < 0.1, 1, 0))
    rows.data[:] = X[np.repeat(np.arange(len(X)), np.diff(rows.indptr)), rows.indices]
    for start, end in zip(rows.indptr[:-1], rows.indptr[1:], strict=True):
        order = random.permutation(end - start) + start
        rows.data[start:end], rows.indices[start:end] = rows.data[order], rows.indices[order]
    return X, (rows.data.astype(X.dtype), rows.indices.astype(np.int32), rows.indptr.astype(np.int64), X.shape[1])


def test_sparse_rows_are_the_dense_ones(loss, dtype, instruction_set):
    for n, layer_sizes in SHAPES:
        net, flat, X, y, weights = problem(n, layer_sizes, "tanh", loss, dtype)
        X, rows = sparse(X)
        engine, tolerance = engine_of(net, dtype), TOLERANCE[dtype]
        np.testing.assert_allclose(engine.predict(flat, rows), engine.predict(flat, X), rtol=tolerance, atol=tolerance)
        np.testing.assert_array_equal(engine.predict(flat, rows, 0), X)
        ours = engine.loss_and_gradient(flat, rows, y, weights, 0.1)
        theirs = engine.loss_and_gradient(flat, X, y, weights, 0.1)
        np.testing.assert_allclose(ours[:2], theirs[:2], rtol=tolerance)
        assert_gradients_match(net, ours[2], theirs[2], tolerance)


def test_repeated_entries_of_a_sparse_row_add_up():
    net, flat, _, _, _ = problem(1, (3, 4, 2), "tanh", "log_loss")
    rows = np.array([1.5, 2.0, -0.5]), np.array([2, 0, 2], np.int32), np.array([0, 3]), 3
    engine = engine_of(net)
    np.testing.assert_allclose(engine.predict(flat, rows), engine.predict(flat, np.array([[2.0, 0, 1]])), rtol=1e-12)


def test_class_numbers_stand_for_one_hot_rows(dtype):
    net, flat, X, y, weights = problem(33, (3, 5, 4), "tanh", "log_loss", dtype)
    classes, engine = y.argmax(axis=1).astype(np.int32), engine_of(net, dtype)
    ours = engine.loss_and_gradient(flat, X, classes, weights, 0.1)
    theirs = engine.loss_and_gradient(flat, X, y, weights, 0.1)
    np.testing.assert_allclose(ours[:2], theirs[:2], rtol=1e-6)
    assert_gradients_match(net, ours[2], theirs[2], TOLERANCE[dtype])


def test_class_numbers_are_for_classes():
    net, flat, X, _, _ = problem(5, (3, 5, 4), "tanh", "squared_error")
    with pytest.raises(ValueError, match="log_loss"):
        engine_of(net).loss_and_gradient(flat, X, np.zeros(5, np.int32), None, 0.0)


def test_every_other_row(dtype):
    """Rows need not follow one another in memory, and nothing is written to what was read-only."""
    net, flat, X, y, _ = problem(40, (5, 6, 3), "tanh", "log_loss", dtype)
    engine = engine_of(net, dtype)
    for array in (flat, X, y):
        array.flags.writeable = False
    np.testing.assert_array_equal(engine.predict(flat, X[::2]), engine.predict(flat, X[::2].copy()))
    ours = engine.loss_and_gradient(flat, X[::2], y[::2].copy(), None, 0.1)
    theirs = engine.loss_and_gradient(flat, X[::2].copy(), y[::2].copy(), None, 0.1)
    np.testing.assert_array_equal(ours[2], theirs[2])


def test_no_rows(dtype):
    net, flat, X, y, _ = problem(3, (5, 6, 3), "tanh", "log_loss", dtype)
    assert engine_of(net, dtype).predict(flat, X[:0]).shape == (0, 3)
    with pytest.raises(ValueError, match="row"):
        engine_of(net, dtype).loss_and_gradient(flat, X[:0], y[:0], None, 0.0)


def test_weights_of_one_are_no_weights(loss, dtype):
    net, flat, X, y, _ = problem(40, (5, 6, 3), "tanh", loss, dtype)
    engine = engine_of(net, dtype)
    ours = engine.loss_and_gradient(flat, X, y, np.ones(40, dtype), 0.1)
    theirs = engine.loss_and_gradient(flat, X, y, None, 0.1)
    assert ours[:2] == theirs[:2]
    np.testing.assert_array_equal(ours[2], theirs[2])


# --- promises about bits --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [1, 16, 17, 333])
def test_same_bits_for_any_number_of_threads(loss, dtype, n):
    net, flat, X, y, weights = problem(n, (17, 33, 9, 3), "tanh", loss, dtype)
    engines = [engine_of(net, dtype, n_threads) for n_threads in (1, 2, 3, 5)]
    gradients = [engine.loss_and_gradient(flat, X, y, weights, 0.1) for engine in engines]
    for engine, (value, penalty, gradient) in zip(engines, gradients, strict=True):
        assert (value, penalty) == gradients[0][:2]
        np.testing.assert_array_equal(gradient, gradients[0][2])
        np.testing.assert_array_equal(engine.predict(flat, X), engines[0].predict(flat, X))


def test_a_prediction_does_not_depend_on_the_batch(activation, loss, dtype, instruction_set):
    net, flat, X, _, _ = problem(70, (17, 33, 9, 3), activation, loss, dtype)
    engine = engine_of(net, dtype, 2)
    whole = engine.predict(flat, X)
    for start, end in ((0, 1), (3, 4), (69, 70), (0, 8), (5, 21), (16, 33), (1, 70)):
        np.testing.assert_array_equal(engine.predict(flat, X[start:end]), whole[start:end])
    _, rows = sparse(X, density=1.0)
    np.testing.assert_allclose(engine.predict(flat, rows)[:3], whole[:3], rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])


def test_an_engine_is_reusable(dtype):
    """Buffers left by a larger batch, or by another call, leave no trace."""
    net, flat, X, y, weights = problem(70, (9, 17, 3), "relu", "log_loss", dtype)
    fresh, used = engine_of(net, dtype), engine_of(net, dtype)
    for n in (70, 3, 33):
        used.predict(flat, np.full_like(X, np.nan))
        used.loss_and_gradient(flat, np.full_like(X, np.nan), y, weights, 0.1)
        expected = engine_of(net, dtype).loss_and_gradient(flat, X[:n], y[:n], weights[:n], 0.1)
        actual = used.loss_and_gradient(flat, X[:n], y[:n], weights[:n], 0.1)
        assert actual[:2] == expected[:2]
        np.testing.assert_array_equal(actual[2], expected[2])
        np.testing.assert_array_equal(used.predict(flat, X[:n]), fresh.predict(flat, X[:n]))


def test_one_spoiled_row_spoils_no_other(dtype, instruction_set):
    net, flat, X, _, _ = problem(40, (9, 17, 3), "tanh", "log_loss", dtype)
    clean = engine_of(net, dtype).predict(flat, X)
    X[11, 4] = np.nan
    spoiled = engine_of(net, dtype).predict(flat, X)
    assert np.isnan(spoiled[11]).all()
    np.testing.assert_array_equal(np.delete(spoiled, 11, axis=0), np.delete(clean, 11, axis=0))


# --- the machine ----------------------------------------------------------------------------------------------------


def test_instruction_sets(instruction_set):
    assert _core.config()["instruction_set"] == instruction_set
    with pytest.raises(ValueError, match="nope") as error:
        _core.set_instruction_set("nope")
    assert all(name in str(error.value) for name in _core.config()["instruction_sets"])
    assert _core.config()["instruction_set"] == instruction_set


def test_rate_of_multiply_adds(dtype, instruction_set):
    assert _core.fma_peak(dtype, 2, 0.001) > 1e6
    for arguments in (("float16", 1, 0.001), (dtype, 1, 0.0), (dtype, 1, np.nan), (dtype, 1, 1e9)):
        with pytest.raises(ValueError, match=r"dtype|seconds"):
            _core.fma_peak(*arguments)


BOTH_WAYS = """
import sys
import numpy as np
from fastmlp import _core
from fastmlp._engine import make_engine
from test_engine import problem, sparse
from test_trainer import generator, new_slots, options
mode, path = sys.argv[1:]
losses = [("log_loss", {}), ("quantile", {"quantile": [0.1, 0.5, 0.9]}), ("gaussian_nll", {"eps": 0.1})]
for dtype, (loss, given) in ((dtype, each) for dtype in ("float32", "float64") for each in losses):
    results = {} if loss == "log_loss" else results
    net, flat, X, y, weights = problem(300, (70, 50, 40, 10), "gelu", loss, dtype, given=given)
    engine = make_engine(_core.Network(*net), np.dtype(dtype), 2)
    assert _core.config()["blas"] == mode
    results |= {f"{loss} layer": engine.predict(flat, X, 2), f"{loss} prediction": engine.predict(flat, X[::3])}
    for name, rows in ((f"{loss} dense", X), (f"{loss} sparse", sparse(X)[1])):
        value, penalty, gradient = engine.loss_and_gradient(flat, rows, y, weights, 0.1)
        slots = new_slots("adam", flat)
        settings = options(batch_size=70)
        trained = flat.copy()
        report = engine.train(trained, slots, rows, y, weights, None, None, generator(), settings, None)
        results |= {f"{name} gradient": gradient, f"{name} loss": [value, penalty], f"{name} weights": trained,
                    f"{name} m": slots[0], f"{name} v": slots[1], f"{name} curve": report["loss_curve"]}
    np.savez(f"{path}-{dtype}.npz", **results)
"""


def test_blas_agrees_with_the_own_kernels(tmp_path):
    for mode in ("off", "on"):
        path = os.pathsep.join([os.path.dirname(__file__), *sys.path])
        environment = {**os.environ, "FASTMLP_BLAS": mode, "PYTHONPATH": path}
        subprocess.run([sys.executable, "-c", BOTH_WAYS, mode, tmp_path / mode], env=environment, check=True)
    for dtype, tolerance in (("float32", 1e-3), ("float64", 1e-10)):
        off, on = (np.load(tmp_path / f"{mode}-{dtype}.npz") for mode in ("off", "on"))
        for name in off.files:
            atol = tolerance * np.abs(off[name]).max()
            np.testing.assert_allclose(on[name], off[name], rtol=0, atol=atol, err_msg=f"{name}, {dtype}")
