"""Files that are no models: foreign, damaged, or made by someone with bad intentions. Each is refused, by name."""

import pickle

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given
from hypothesis import strategies as st
from test_predictor import X, fitted

import fastmlp
from fastmlp import MLPClassifier, MLPRegressor, files
from fastmlp.files import ModelFileError


@pytest.fixture
def path(tmp_path):
    return tmp_path / "model.safetensors"


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """The content of a small file, where to put altered ones, and the model."""
    path = tmp_path_factory.mktemp("small") / "model.safetensors"
    model = MLPClassifier((2,), max_iter=2, random_state=0).fit(X[:, :2], X[:, 0] > 0)
    model.save(path, optimizer=True)
    return path.read_bytes(), path, model


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The content of a file that has everything, and where to put altered ones."""
    path = tmp_path_factory.mktemp("whole") / "model.safetensors"
    model = fitted("three classes", early_stopping=True, random_state=np.random.RandomState(0))
    model.feature_names_in_ = np.array(list("abcde"), dtype=object)
    model.save(path, optimizer=True)
    return path.read_bytes(), path


def assert_refused_or_equal(load, path, model):
    try:
        loaded = load(path)
    except ModelFileError as error:
        assert str(path) in str(error)  # noqa: PT017  no error is fine too
    else:
        np.testing.assert_array_equal(loaded.predict(X[:, :2]), model.predict(X[:, :2]))
        predictor = loaded if load is fastmlp.load else loaded.compile()
        np.testing.assert_array_equal(predictor.parameters, model.compile().parameters)


def test_every_byte_changed(small):
    content, path, model = small
    path.write_bytes(content)
    with open(path, "r+b", buffering=0) as file:
        for position, byte in enumerate(content):
            file.seek(position)
            file.write(bytes([byte ^ 1 << position % 8]))
            assert_refused_or_equal(MLPClassifier.load, path, model)
            file.seek(position)
            file.write(bytes([byte]))
    assert path.read_bytes() == content
    np.testing.assert_array_equal(MLPClassifier.load(path).predict_proba(X[:, :2]), model.predict_proba(X[:, :2]))


def test_every_truncation(small):
    content, path, _ = small
    path.write_bytes(content)
    with open(path, "r+b", buffering=0) as file:
        for size in reversed(range(len(content))):
            file.truncate(size)
            with pytest.raises(ModelFileError, match="foreign, corrupt or truncated"):
                fastmlp.load(path)


@given(st.data())
def test_bytes_changed_cut_out_and_put_in(small, data):
    content, path, model = small
    start = data.draw(st.integers(0, len(content)))
    end = data.draw(st.integers(start, min(start + 20, len(content))))
    path.write_bytes(content[:start] + data.draw(st.binary(max_size=20)) + content[end:])
    for load in (fastmlp.load, MLPClassifier.load):
        assert_refused_or_equal(load, path, model)


SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
JSON = st.recursive(SCALARS, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=5)


@given(st.data())
def test_any_value_anywhere_in_the_header(whole, data):
    """With a right checksum: the work of someone else. It is refused, or it is a model of some kind."""
    content, path = whole
    path.write_bytes(content)
    header, tensors = files.read(path)
    target = header
    while True:
        keys = list(target) if isinstance(target, dict) else list(range(len(target)))
        key = data.draw(st.sampled_from(keys))
        if not isinstance(target[key], dict | list) or not target[key] or data.draw(st.booleans()):
            break
        target = target[key]
    target[key] = data.draw(JSON)
    files.write(path, header, tensors)
    for load in (fastmlp.load, MLPClassifier.load):
        try:
            load(path)
        except ModelFileError as error:
            assert str(path) in str(error)  # noqa: PT017


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "foreign, corrupt or truncated, no safetensors file"),
        (b"network = MLPClassifier()\n" * 9, "foreign, corrupt or truncated, no safetensors file"),
        (pickle.dumps(fitted("numbers")), "foreign, corrupt or truncated, no safetensors file"),
        (safetensors.numpy.save({"a": X}), "something else: its metadata needs 'fastmlp', found none"),
        (safetensors.numpy.save({"a": X}, {"format": "pt"}), "needs 'fastmlp', found 'format'"),
        (safetensors.numpy.save({"a": X}, {"fastmlp": "[1]"}), r"must be a JSON object, found \[1\]"),
        (safetensors.numpy.save({"a": X}, {"fastmlp": "{}"}), "'format_version' must be of type int, found nothing"),
        (safetensors.numpy.save({"a": X}, {"fastmlp": "[" * 10**5}), "is not a model file that can be read"),
        (safetensors.numpy.save({"a": X}, {"fastmlp": '{"format_version":1'}), "is not a model file that can be read"),
        (safetensors.numpy.save({"a": X}, {"fastmlp": '{"format_version":1}'}), "the checksum must be None, found"),
    ],
)
def test_foreign_files(content, message, path):
    path.write_bytes(content)
    for load in (fastmlp.load, MLPRegressor.load):
        with pytest.raises(ModelFileError, match=message) as error:
            load(path)
        assert str(path) in str(error.value)


def test_the_other_estimator(path):
    fitted("numbers").save(path)
    with pytest.raises(ModelFileError, match="holds an estimator of class 'MLPRegressor', not 'MLPClassifier'"):
        MLPClassifier.load(path)


# where in the header, what to put there, what the error says: files with a right checksum, made by someone else
WRONG = [
    ("format_version", 3, "format version 3, but fastmlp .* reads 1 to 2: install a newer fastmlp"),
    ("format_version", 0, "format version 0"),
    ("format_version", "1", "'format_version' must be of type int, found '1'"),
    ("network", None, "'network' must be of type dict, found None"),
    ("network.layer_sizes", [5, 7, 3], "'coefs.1' must have shape"),
    ("network.layer_sizes", [5, 7, 4, 2**30], "'coefs.2' must have shape"),
    ("network.layer_sizes", [5, 7, 4, 3, 3], "need the tensor 'coefs.3', found"),
    ("network.layer_sizes", [5.0, 7, 4, 3], "must hold integers"),
    ("network.layer_sizes", ["5", 7, 4, 3], "must hold integers"),
    ("network.layer_sizes", [], "must name at least an input and an output layer"),
    ("network.layer_sizes", [5, 7, 4, 2**31], "must be at most 1073741824"),
    ("network.normalizations", ["none"], "one normalization per hidden layer is needed: 2, got 1"),
    ("network.normalizations", ["none", "group_norm"], "unknown normalization 'group_norm'; valid names: 'none'"),
    ("network.normalizations", ["none", "layer_norm"], "need the tensor 'scales.1', found"),
    ("network.residual", 1, "'residual' must be of type bool, found 1"),
    ("network.residual", True, "need the tensor 'projections.1', found"),
    ("network.activations", ["tanh"], r"one per hidden layer \(2\), got 1"),
    ("network.activations", ["tanh", ["relu"]], r"unknown activation \['relu'\]; valid names"),
    ("network.loss", "hinge", "unknown loss 'hinge'; valid names"),
    ("network.loss_parameters", {"delta": 1.0}, "unknown hyper-parameter 'delta' of 'log_loss'; valid names"),
    ("network.loss_parameters", {"label_smoothing": 2}, "must be between 0.0 and 1.0, got 2.0"),
    ("network.loss_parameters", {"label_smoothing": "much"}, "must be a number or a list of numbers, got 'much'"),
    ("network.loss_parameters", [0.1], r"loss_parameters must be a dict or None, got \[0.1\]"),
    ("network.out_activation", "identity", "'out_activation' must be 'softmax' for the loss 'log_loss'"),
    ("dtype", "int8", "'dtype' must be 'float32' or 'float64', found 'int8'"),
    ("target_type", "binary", r"must be an array of shape \(1,\) or \(2,\)"),
    ("preprocessing", {"scale": 2}, "'preprocessing' must be null in version 1"),
    ("classes", None, r"must be an array of shape \(3,\)"),
    ("classes.values", ["low", "high"], r"must be an array of shape \(3,\)"),
    ("classes.values", ["low", "high", ["middle"]], "must be bools, numbers and strings"),
    ("classes.values", ["low", "high", "much too long"], "do not fit their dtype"),
    ("classes.dtype", "<U99999999", "must take at most 67108864 bytes, found 3 of '<U99999999'"),
    ("classes.dtype", "(999999,)i8", "must be one of bools, integers, floats, strings"),
    ("classes.dtype", "|i1", "invalid literal"),
    ("feature_names", ["a"], "must hold 5 strings"),
    ("feature_names", "abcde", "'feature_names' must be of type list or null, found 'abcde'"),
]
WRONG_ESTIMATORS = [
    ("estimator", None, "'estimator' must be of type dict, found None"),
    ("estimator.parameters.alpha", -1, "'alpha' parameter of MLPClassifier must be a float"),
    ("estimator.parameters.alpha", {"eval": "1"}, "must be {'tuple': .*found {'eval': '1'}"),
    ("estimator.parameters.momentums", 1, r"unknown parameters \['momentums'\] of MLPClassifier; valid names: activ"),
    ("estimator.attributes.t_", "five", "'t_' must be a number or null, found 'five'"),
    ("estimator.sparse_targets", None, "'sparse_targets' must be null exactly if there are no classes"),
    ("estimator.random_state", {}, "the tensor 'random_state.key' is missing, found coefs.0, coefs.1"),
    ("optimizer.state.name", "nope", "unknown optimizer 'nope'; valid names: 'sgd', 'adam'"),
    ("optimizer.state.t", None, "of the optimizer must be numbers"),
    ("optimizer.state.hyperparameters.beta_1", [], r"float\(\) argument must be"),
    ("optimizer.curves", ["loss_"], "unknown curve 'loss_'; valid names: loss_curve_, validation_scores_"),
    ("optimizer.curves", ["validation_scores_"], "tensor 'training.validation_scores_' is missing"),
]


@pytest.mark.parametrize(("place", "value", "message"), WRONG + WRONG_ESTIMATORS)
def test_wrong_headers(place, value, message, path):
    fitted("three classes").save(path, optimizer=True)
    header, tensors = files.read(path)
    *parents, name = place.split(".")
    target = header
    for parent in parents:
        target = target[parent]
    target[name] = value
    files.write(path, header, tensors)
    both = (place, value, message) in WRONG
    for load in (fastmlp.load, MLPClassifier.load) if both else (MLPClassifier.load,):
        with pytest.raises(ModelFileError, match=message):
            load(path)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("coefs.0", None, "need the tensor 'coefs.0'"),
        ("coefs.1", np.zeros((4, 7)), r"'coefs.1' must have shape \(7, 4\), found \(4, 7\)"),
        ("intercepts.0", np.zeros(7, np.float32), "must all be float32 or all float64, found float32, float64"),
        ("coefs.0", np.full((5, 7), np.nan), "parameters contains nan"),
        ("optimizer.m", np.zeros(3), r"'optimizer.m' must have shape \(89,\) .* found \(3,\)"),
        ("optimizer.v", np.full(89, np.nan), "'optimizer.v' contains NaN"),
        ("training.loss_curve_", np.zeros(4, np.int8), "dtype float64, found .* int8"),
    ],
)
def test_wrong_tensors(name, value, message, path):
    fitted("three classes").save(path, optimizer=True)
    header, tensors = files.read(path)
    del tensors[name]
    files.write(path, header, tensors if value is None else {**tensors, name: value})
    with pytest.raises(ModelFileError, match=message):
        MLPClassifier.load(path)
