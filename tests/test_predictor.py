"""Predictor: the estimator's answers to the bit, from any thread, without scikit-learn."""

import copy
import pickle
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import FrozenInstanceError

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import sparse
from sklearn.exceptions import NotFittedError

from fastmlp import MLPClassifier, MLPRegressor, Predictor, _core

random = np.random.RandomState(0)
X = random.randn(60, 5)
SIGNAL = X @ random.randn(5, 3)
NUMBERS = (SIGNAL[:, 0] > 0) + (SIGNAL[:, 1] > 0).astype(int)
TARGETS = {
    "two classes": NUMBERS > 0,
    "one class": np.array(["only"] * 60),
    "three classes": np.array(["low", "middle", "high"])[NUMBERS],
    "objects": np.array(["low", "middle", "high"], dtype=object)[NUMBERS],
    "negative numbers": NUMBERS.astype(np.int8) - 1,
    "labels": (SIGNAL > 0).astype(int),
    "one number": SIGNAL[:, 0],
    "numbers": SIGNAL,
}


def fitted(target, data="float64", **settings):
    y = TARGETS[target]
    kind = MLPRegressor if "number" in target and y.dtype == np.float64 else MLPClassifier
    parameters = {"hidden_layer_sizes": (7, 4), "activation": ["tanh", "relu"], "max_iter": 5, "random_state": 0}
    return kind(**{**parameters, **settings}).fit(X.astype(data), y)


def expected(model, X):
    return model.predict_proba(X) if hasattr(model, "classes_") else model.predict(X)


def same(found, wanted):
    assert np.asarray(found).dtype == wanted.dtype
    np.testing.assert_array_equal(found, wanted, strict=isinstance(found, np.ndarray))


@pytest.fixture(scope="module")
def model():
    return fitted("three classes")


@pytest.fixture(scope="module")
def predictor(model):
    return model.compile()


# --- the estimator's answers ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", TARGETS)
def test_answers_are_the_estimators(target, dtype):
    model = fitted(target, dtype)
    predictor, rows = model.compile(), X.astype(dtype)
    same(predictor(rows), expected(model, rows))
    same(predictor.predict(rows), model.predict(rows))
    same(predictor(rows[3]), expected(model, rows)[3])
    same(predictor.predict(rows[3]), model.predict(rows)[3])


@pytest.mark.parametrize("target", TARGETS)
def test_attributes(target, dtype):
    model = fitted(target, dtype)
    predictor = model.compile()
    for name in ("n_features_in_", "n_outputs_", "out_activation_"):
        assert getattr(predictor, name) == getattr(model, name)
    assert (predictor.layer_sizes, predictor.activations) == ((5, 7, 4, model.n_outputs_), ("tanh", "relu"))
    assert predictor.dtype == dtype
    assert predictor.feature_names_in_ is None
    if hasattr(model, "classes_"):
        same(predictor.classes_, model.classes_)
    else:
        assert predictor.classes_ is None


def test_sparse_labels_are_answered_dense():
    model = MLPClassifier((4,), max_iter=3, random_state=0).fit(X, sparse.csr_matrix(TARGETS["labels"]))
    labels = model.compile().predict(X)
    np.testing.assert_array_equal(labels, model.predict(X).toarray())


@pytest.mark.parametrize("own", [None, "float32", "float64"])
@pytest.mark.parametrize("asked", [None, "float32", "float64"])
def test_dtype_is_asked_for_else_the_estimators_else_the_weights(own, asked, dtype):
    model = fitted("numbers", dtype, dtype=own)
    predictor = model.compile(dtype=asked)
    assert predictor.dtype == predictor(X).dtype == (asked or own or dtype)


def test_a_float32_predictor_rounds_float64_data():
    predictor = fitted("three classes", "float32").compile()
    same(predictor(X), predictor(X.astype(np.float32)))
    with pytest.raises(ValueError, match=r"X contains inf at position \(0,\); only finite float32"):
        predictor(np.full(5, 1e300))


def test_weights_that_were_assigned(model):
    changed = copy.deepcopy(model)
    changed.coefs_[0] = np.asfortranarray(changed.coefs_[0] * 2)
    same(changed.compile()(X), changed.predict_proba(X))


def test_later_training_does_not_change_it(model):
    changed = copy.deepcopy(model)
    predictor = changed.compile()
    before = predictor(X)
    changed.partial_fit(X, TARGETS["three classes"])
    same(predictor(X), before)
    assert (changed.predict_proba(X) != before).any()


def test_not_fitted_and_unknown_dtype(model):
    with pytest.raises(NotFittedError):
        MLPClassifier().compile()
    with pytest.raises(ValueError, match="unknown dtype 'int8'; valid names: 'float32', 'float64'"):
        model.compile(dtype="int8")


# --- what goes in --------------------------------------------------------------------------------------------------


def read_only(X):
    X = X.copy()
    X.setflags(write=False)
    return X


@pytest.mark.parametrize(
    "layout",
    [
        np.asfortranarray,
        read_only,
        lambda X: np.repeat(X, 2, axis=1)[:, ::2],
        lambda X: np.concatenate([X, X])[:60],
        lambda X: X[::-1].copy()[::-1],
        lambda X: X.astype(">f8"),
        np.ndarray.tolist,
    ],
    ids=["fortran", "read-only", "strided", "longer buffer", "negative strides", "big-endian", "lists"],
)
def test_layouts(predictor, layout):
    same(predictor(layout(X)), predictor(X))


def test_integers_and_booleans(predictor):
    integers = np.arange(10).reshape(2, 5)
    same(predictor(integers), predictor(integers.astype(float)))
    same(predictor(integers > 3), predictor((integers > 3).astype(float)))


@pytest.mark.parametrize("target", TARGETS)
def test_no_rows_give_no_answers(target):
    model = fitted(target)
    predictor = model.compile()
    same(predictor(X[:0]), expected(model, X)[:0])
    same(predictor.predict(X[:0]), model.predict(X)[:0])


BAD_DATA = {
    r"shape \(n_samples, 5\) or \(5,\), got \(60, 4\)": X[:, :4],
    r"shape \(n_samples, 5\) or \(5,\), got \(6,\)": np.zeros(6),
    r"shape \(n_samples, 5\) or \(5,\), got \(\)": 3.0,
    r"shape \(n_samples, 5\) or \(5,\), got \(1, 60, 5\)": X[None],
    "real numbers, got an array of dtype complex": X + 0j,
    "real numbers, got an array of dtype <U": X.astype(str),
    "real numbers, got an array of dtype object": X.astype(object),
    r"X contains nan at position \(0, 1\)": [[0, np.nan, 0, 0, 0]],
    r"X contains inf at position \(2,\)": [0, 0, np.inf, 0, 0],
}


@pytest.mark.parametrize("message", BAD_DATA)
@pytest.mark.parametrize("assume_finite", [False, True])
def test_bad_data(model, message, assume_finite):
    predictor = model.compile(assume_finite=assume_finite)
    for answer in (predictor, predictor.predict):
        if assume_finite and "contains" in message:
            assert len(answer(BAD_DATA[message])) > 0
        else:
            with pytest.raises(ValueError, match=message):
                answer(BAD_DATA[message])


def test_columns_of_a_data_frame():
    pd = pytest.importorskip("pandas")
    frame = pd.DataFrame(X, columns=list("abcde"))
    model = MLPRegressor(hidden_layer_sizes=(3,), max_iter=3, random_state=0).fit(frame, TARGETS["numbers"])
    predictor = model.compile()
    same(predictor.feature_names_in_, model.feature_names_in_)
    same(predictor(frame), model.predict(frame))
    same(predictor(X), model.predict(frame))  # arrays have no names
    same(predictor(frame.set_axis(range(5), axis=1)), model.predict(frame))
    with pytest.raises(ValueError, match=r"differ from number 1 on: \['c', 'b', 'd'\] in place of \['b', 'c', 'd'\]"):
        predictor(frame[list("acbde")])
    with pytest.raises(ValueError, match=r"\(5\), got 4 columns; they differ from number 4 on: \[\] in place of .'e'."):
        predictor(frame[list("abcd")])


# --- what comes out ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("rows", [X, X[:1], X[0], X[:0]], ids=lambda rows: str(rows.shape))
def test_out(target, rows, dtype):
    predictor = fitted(target, dtype).compile()
    wanted = predictor(rows)
    out = np.full(np.shape(wanted), 9, dtype)
    assert predictor(rows, out) is out
    same(out, np.asarray(wanted))


BAD_OUTS = {
    r"must have shape \(60, 3\) and dtype float64, got shape \(60, 2\) and dtype float64": np.zeros((60, 2)),
    r"must have shape \(60, 3\) and dtype float64, got shape \(60, 3\) and dtype float32": np.zeros((60, 3), "f4"),
    "must be C-contiguous, aligned and writeable": np.zeros((3, 60)).T,
    "C-contiguous, aligned and writeable": read_only(np.zeros((60, 3))),
    "must be a NumPy array, got list": [[0.0] * 3] * 60,
}


@pytest.mark.parametrize("message", BAD_OUTS)
def test_bad_out(predictor, message):
    with pytest.raises(ValueError, match=message):
        predictor(X, BAD_OUTS[message])


@given(arrays(np.float64, st.tuples(st.integers(0, 40), st.just(5)), elements=st.floats(-1e6, 1e6)))
def test_a_row_is_the_same_alone_and_in_any_batch(predictor, rows):
    answers = predictor(rows)
    for row, answer in zip(rows, answers, strict=True):
        same(predictor(row), answer)


# --- one object for all --------------------------------------------------------------------------------------------


def test_eight_threads_share_one(predictor):
    """100,000 calls, of rows one by one and of batches."""
    batches = [X[i : i + 1 + i % 7] for i in range(50)]
    wanted = [predictor(batch).tobytes() for batch in batches]
    with ThreadPoolExecutor(8) as pool:
        found = pool.map(lambda _: [predictor(batch).tobytes() for batch in batches], range(2000))
    assert all(answers == wanted for answers in found)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("way", [lambda p: pickle.loads(pickle.dumps(p)), copy.copy, copy.deepcopy])
def test_pickle_and_copy(target, way):
    predictor = fitted(target).compile(assume_finite=True)
    loaded = way(predictor)
    same(loaded(X), predictor(X))
    same(loaded.predict(X), predictor.predict(X))
    assert repr(loaded) == repr(predictor)
    assert loaded.assume_finite


def test_it_cannot_be_changed(predictor, model):
    with pytest.raises(FrozenInstanceError):
        predictor.loss = "squared_error"
    for array in (predictor.parameters, predictor.classes_):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = array[1]
    assert not np.shares_memory(predictor.parameters, model.coefs_[0])


def test_parts_that_do_not_belong_together(predictor):
    parts = {"parameters": np.zeros(9), "layer_sizes": (1, 2, 1, 1), "activations": ("tanh", "relu")}
    parts |= {"loss": "squared_error", "target_type": "continuous"}
    assert Predictor(**parts)([1.0]) == 0
    for changed, message in [
        ({"layer_sizes": (2,)}, "at least an input and an output layer"),
        ({"layer_sizes": (1, 2, 2, 1)}, r"must have shape \(13,\), got \(9,\)"),
        ({"layer_sizes": (1, 2.5, 1, 1)}, "must hold integers"),
        ({"activations": ("tanh",)}, r"one per hidden layer \(2\), got 1"),
        ({"activations": ("tanh", "sin")}, "unknown activation 'sin'; valid names"),
        ({"loss": "hinge"}, "unknown loss 'hinge'; valid names"),
        ({"target_type": "ordinal"}, "unknown target_type 'ordinal'; valid names: 'binary'"),
        ({"parameters": np.full(9, np.nan)}, r"parameters contains nan at position \(0,\)"),
        ({"classes_": [1, 2]}, "for target_type 'continuous' must be None"),
        ({"target_type": "binary"}, r"must be an array of shape \(1,\) or \(2,\), with 1 output; got None"),
        ({"target_type": "binary", "classes_": [1, 2, 3]}, r"shape \(1,\) or \(2,\)"),
        ({"target_type": "multiclass", "classes_": [1, 2]}, r"must be an array of shape \(1,\)"),
        ({"feature_names_in_": ["a", "b"]}, "must hold 1 strings"),
        ({"feature_names_in_": [1]}, "must hold 1 strings"),
    ]:
        with pytest.raises(ValueError, match=message):
            Predictor(**{**parts, **changed})


def test_without_scikit_learn(tmp_path):
    """Neither a pickle nor a call brings it in."""
    model = fitted("three classes")
    (tmp_path / "predictor").write_bytes(pickle.dumps(model.compile()))
    code = (
        "import pickle, sys\n"
        "predictor = pickle.load(open(sys.argv[1], 'rb'))\n"
        "print(*predictor.predict([[0.0] * 5, [1.0] * 5]))\n"
        "print([name for name in ('sklearn', 'scipy', 'pandas', 'safetensors') if name in sys.modules])"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "predictor")]
    ran = subprocess.run(command, capture_output=True, text=True, check=True)
    answers = " ".join(model.predict([[0.0] * 5, [1.0] * 5]))
    assert ran.stdout.splitlines() == [answers, "[]"]


# --- the core's part ------------------------------------------------------------------------------------------------


def core_predictor(sizes=(3, 4, 1), **options):
    network = _core.Network(list(sizes), ["tanh"] * (len(sizes) - 2), "squared_error")
    return _core.Predictor(network, np.linspace(-1, 1, network.n_parameters), **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_threads": -1}, "n_threads must not be negative, got -1"),
        ({"sizes": (3, 2), "flat": True}, "two_columns and flat need one output, got 2"),
        ({"sizes": (3, 2), "two_columns": True}, "two_columns and flat need one output, got 2"),
    ],
)
def test_core_refuses(options, message):
    with pytest.raises(ValueError, match=message):
        core_predictor(**options)


@pytest.mark.parametrize("n_rows", [2, 40])
def test_core_leaves_what_it_cannot_use_as_it_is(n_rows):
    predictor = core_predictor()
    X = np.ones((n_rows, 3))
    wanted = predictor(X)
    assert wanted.shape == (n_rows, 1)
    with_nan = X.copy()
    with_nan[-1, -1] = np.nan
    for other in (X.tolist(), X.astype(np.float32), np.asfortranarray(X), X[::-1], X[:, :2], X[None], with_nan):
        assert predictor(other) is None
    memory = np.ones(4 * n_rows)
    rows, beside, within = memory[n_rows:].reshape(n_rows, 3), memory[:n_rows, None], memory[1 : n_rows + 1, None]
    read_only = np.empty((n_rows, 1))
    read_only.flags.writeable = False
    for out in (within, read_only, np.empty((n_rows, 1), np.float32), np.empty(n_rows), np.empty((n_rows + 1, 1)), 5):
        assert predictor(rows, out) is None
    assert (memory == 1).all()
    assert predictor(rows, beside) is beside
    np.testing.assert_array_equal(beside, wanted)


@pytest.mark.parametrize("bad", [np.inf, -np.inf, np.nan])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_core_sees_every_number(dtype, bad):
    network = _core.Network([67, 1], [], "squared_error")
    predictor, x = _core.Predictor(network, np.zeros(68, dtype), flat=True), np.full(67, np.finfo(dtype).max, dtype)
    assert predictor(x) == 0
    for i in range(67):
        x[i], kept = bad, x[i]
        assert predictor(x) is None
        x[i] = kept
