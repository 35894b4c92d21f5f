"""An estimator's prediction for plain arrays: quick, but with every check and every bit of the long way."""

import copy
import os
import pickle
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import reference
import sklearn
from sklearn.base import clone
from test_engine import engine_of
from test_predictor import TARGETS, X, expected, fitted, same

from fastmlp import MLPClassifier, _core

BAD_VALUES = [np.nan, np.inf, -np.inf]


@pytest.fixture
def model():
    return fitted("three classes")


class Subclass(np.ndarray):
    """Takes the long way."""


def the_long_way(X):
    return X.view(Subclass)


# --- the same answers ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("n_rows", [1, 2, 4, 5, 60])
def test_plain_arrays_get_the_answers_of_the_long_way(target, n_rows, dtype):
    model, rows = fitted(target, dtype), X[:n_rows].astype(dtype)
    same(expected(model, rows), expected(model, the_long_way(rows)))
    same(model.predict(rows), model.predict(the_long_way(rows)))


@pytest.mark.parametrize("n_in", [1, 2, 7, 9, 33])
def test_a_row_where_the_weights_lie_has_the_bits_of_a_batch(n_in, dtype, instruction_set):
    """Layers whose units fill no registers, down to one unit; nothing behind the parameters is used."""
    rows = np.random.RandomState(1).standard_normal((6, n_in)).astype(dtype)
    for n_out in range(1, 36):
        net = reference.Net((n_in, n_out, n_out), ("tanh",), "squared_error")
        flat = reference.glorot(net, np.random.RandomState(0)).astype(dtype)
        framed = np.full(flat.size + 64, np.nan, dtype)
        framed[:-64] = flat
        batch = engine_of(net, dtype).predict(flat, rows)
        for i, parameters in enumerate([flat, framed[:-64]] * 3):
            same(_core.predict(_core.Network(*net), parameters, rows[i : i + 1]), batch[i : i + 1])


@pytest.mark.parametrize(("own", "given"), [("float32", "float64"), (None, "float64"), (None, "int64")])
def test_data_of_another_dtype(own, given):
    model, rows = fitted("numbers", "float32", dtype=own), (10 * X).astype(given)
    wanted = model.predict(rows.astype(own or "float64"))
    same(model.predict(rows[:1]), wanted[:1])
    same(model.predict(rows), wanted)


def test_eight_threads_share_one(model):
    wanted = [model.predict_proba(X[i : i + 1]).tobytes() for i in range(60)]
    with ThreadPoolExecutor(8) as pool:
        found = pool.map(lambda i: model.predict_proba(X[i : i + 1]).tobytes(), list(range(60)) * 100)
    assert list(found) == wanted * 100


def test_with_the_blas_of_scipy(tmp_path):
    """A row then has the bits that the BLAS gives it, as in a batch of its own; a Predictor uses its own kernels."""
    model = fitted("three classes")
    model.save(tmp_path / "model.safetensors")
    (tmp_path / "model.pickle").write_bytes(pickle.dumps(model))
    code = (
        "import fastmlp, pickle, sys\n"
        "predictor, row = fastmlp.load('model.safetensors'), [[1.0, -2.0, 3.0, 0.0, 0.5]]\n"
        "print(predictor(row * 9).tobytes().hex(), 'scipy' in sys.modules)\n"
        "import numpy as np\n"
        "model, row = pickle.load(open('model.pickle', 'rb')), np.array(row)\n"
        "print(np.array_equal(model.predict_proba(row), model.predict_proba(row.tolist())))\n"
        "print(abs(model.predict_proba(row) - predictor(row)).max() < 1e-14, fastmlp._core.config()['blas'])\n"
    )
    environment = {**os.environ, "FASTMLP_BLAS": "on", "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", code]
    ran = subprocess.run(command, capture_output=True, text=True, check=True, env=environment, cwd=tmp_path)
    bits = model.compile()([[1.0, -2.0, 3.0, 0.0, 0.5]] * 9).tobytes().hex()
    assert ran.stdout.split() == [bits, "False", "True", "True", "on"]


# --- parameters that change ----------------------------------------------------------------------------------------


def test_weights_changed_in_place(model):
    before = model.predict_proba(X[:1])
    model.coefs_[1][...] *= 2
    model.intercepts_[0][2] = 1
    after = model.predict_proba(X[:1])
    assert (after != before).any()
    same(after, model.compile()(X[:1]))


@pytest.mark.parametrize("dtype", ["float32", "float64", "int64"])
def test_weights_assigned(model, dtype):
    before = model.predict_proba(X[:1])
    model.coefs_[0] = np.asfortranarray(np.ones((5, 7), dtype))
    after = model.predict_proba(X[:1])
    assert (after != before).any()
    same(after, model.compile()(X[:1]))


def test_another_activation_than_fitted_with(model):
    before = model.predict_proba(X[:1])
    after = model.set_params(activation=["tanh", "elu"]).predict_proba(X[:1])
    assert (after != before).any()
    same(after, model.compile()(X[:1]))
    model.set_params(activation=["tanh"])
    with pytest.raises(ValueError, match=r"one per hidden layer \(2\), got 1"):
        model.predict_proba(X[:1])
    model.set_params(activation=[["tanh"], "tanh"])
    with pytest.raises(ValueError, match="unknown activation"):
        model.predict_proba(X[:1])


def test_another_name_of_activation_or_output_than_fitted_with(model):
    answers = [model.predict_proba(X[:1])]
    for activation in ("tanh", "elu"):
        answers.append(model.set_params(activation=activation).predict_proba(X[:1]))
        same(answers[-1], model.compile()(X[:1]))
    assert len({answer.tobytes() for answer in answers}) == 3
    model.out_activation_ = "identity"
    raw = model._outputs(X[:1])[0]
    np.testing.assert_allclose(np.exp(raw) / np.exp(raw).sum(), answers[-1][0], rtol=1e-12)


def test_another_dtype_than_fitted_with(model):
    assert model.predict_proba(X[:1]).dtype == "float64"
    assert model.set_params(dtype="float32").predict_proba(X[:1]).dtype == "float32"


def test_other_weights_for_other_features(model):
    model.coefs_[0] = np.ones((4, 7))
    with pytest.raises(ValueError, match=r"coefs_\[0\] must have shape \(5, n\), got \(4, 7\)"):
        model.predict_proba(X[:1])
    with pytest.raises(ValueError, match="X has 4 features, but MLPClassifier is expecting 5"):
        model.predict_proba(X[:1, :4].copy())


@pytest.mark.parametrize("way", [copy.deepcopy, clone, lambda model: pickle.loads(pickle.dumps(model))])
def test_a_prediction_leaves_nothing_behind(model, way):
    before = pickle.dumps(way(model))
    model.predict_proba(X[:1])
    assert pickle.dumps(way(model)) == before


# --- the checks of scikit-learn ------------------------------------------------------------------------------------


@pytest.mark.parametrize("n_rows", [1, 60])
@pytest.mark.parametrize("value", BAD_VALUES)
def test_only_finite_numbers(model, value, n_rows, dtype):
    rows = X[:n_rows].astype(dtype)
    rows[-1, 4] = value
    model.set_params(dtype=dtype)
    model.coefs_ = [coef.astype(dtype) for coef in model.coefs_]
    with pytest.raises(ValueError, match="Input X contains"):
        model.predict_proba(rows)
    with sklearn.config_context(assume_finite=True):
        assert model.predict_proba(rows).shape == (n_rows, 3)
    with pytest.raises(ValueError, match="Input X contains"):
        model.predict_proba(rows)


@pytest.mark.parametrize("n_features", [1, 7, 16, 70])
def test_a_value_that_is_not_finite_is_found_anywhere(n_features, dtype, instruction_set):
    network = _core.Network([n_features, 2], [], "squared_error")
    flat, rows = np.zeros(network.n_parameters, dtype), np.full((20, n_features), np.finfo(dtype).max, dtype)
    predictor = _core.Predictor(network, flat, 2)
    for position in range(rows.size):
        rows.flat[position] = BAD_VALUES[position % 3]
        row = rows[[position // n_features]]
        assert _core.predict(network, flat, row) is _core.predict(network, flat, rows) is None
        assert predictor(row) is predictor(rows) is None
        rows.flat[position] = -np.finfo(dtype).max
    assert not predictor(rows).any()


@pytest.mark.parametrize("assume_finite", [False, True])
def test_shapes(model, assume_finite):
    with sklearn.config_context(assume_finite=assume_finite):
        for rows, message in [
            (X[0], "Expected 2D array, got 1D array"),
            (X[None], "Found array with dim 3"),
            (X[:0], "Found array with 0 sample"),
            (X[:1, :4].copy(), "X has 4 features, but MLPClassifier is expecting 5 features"),
            (X[:1] + 0j, "Complex data not supported"),
        ]:
            with pytest.raises(ValueError, match=message):
                model.predict_proba(rows)
        with pytest.raises(TypeError, match=r"np\.matrix is not supported"):
            model.predict_proba(X[:1].view(np.matrix))


def test_feature_names():
    pd = pytest.importorskip("pandas")
    frame = pd.DataFrame(X, columns=list("abcde"))
    model = MLPClassifier((3,), max_iter=2, random_state=0).fit(frame, TARGETS["three classes"])
    answer = model.predict_proba(frame[:1])
    with pytest.warns(UserWarning, match="X does not have valid feature names"):
        same(model.predict_proba(X[:1]), answer)
    with pytest.raises(ValueError, match="feature names should match"):
        model.predict_proba(frame[:1][list("bacde")])


def test_the_core_leaves_what_it_cannot_use(model):
    network = _core.Network((5, 7, 4, 3), ("tanh", "relu"), "log_loss")
    flat = model.compile().parameters
    same(_core.predict(network, flat, X[:1]), model.predict_proba(X[:1]))
    for rows in (X[0], X[:0], X[:, :4].copy(), X[::2], X.astype("f4"), X.astype(">f8"), X.tolist(), the_long_way(X)):
        assert _core.predict(network, flat, rows) is None
    for parameters in (flat[1:], flat[None], flat.astype("f4"), flat.tolist(), np.repeat(flat, 2)[::2]):
        assert _core.predict(network, parameters, X) is None
    with pytest.raises(ValueError, match="n_threads must not be negative, got -1"):
        _core.predict(network, flat, X, -1)
