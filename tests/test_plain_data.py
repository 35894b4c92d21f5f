"""Plain arrays, which a fit takes as they are: only where scikit-learn's checks would have nothing to say."""

import itertools

import numpy as np
import pytest
import sklearn
from sklearn.utils.validation import check_X_y

from fastmlp import MLPClassifier, MLPRegressor, _core
from fastmlp._labels import _plain_classes

DTYPES = (np.float32, np.float64)


@pytest.mark.parametrize("n_threads", [1, 3])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_no_number_is_missed(value, dtype, n_threads):
    for size in (1, 15, 64, 1000):
        array = np.full(size, np.finfo(dtype).max)
        assert _core.all_finite(array, n_threads)
        for at in range(size):
            array[at] = value
            assert not _core.all_finite(array, n_threads)
            array[at] = 0


def test_parts_of_many_threads():
    array = np.zeros((1000, 2000), np.float32)
    assert _core.all_finite(array)
    array[-1, -1] = np.nan
    assert not _core.all_finite(array)
    assert _core.all_finite(np.empty((0, 3)))


@pytest.mark.parametrize(
    ("array", "error", "message"),
    [
        (np.zeros(3, int), TypeError, "array must have dtype float64, got int64"),
        (np.zeros(3, ">f8"), TypeError, "array must have dtype float64"),
        (np.zeros((3, 4))[:, ::2], ValueError, "array must be C-contiguous"),
        (np.zeros((3, 4), order="F"), ValueError, "array must be C-contiguous"),
    ],
)
def test_arrays_that_are_not_looked_at(array, error, message):
    with pytest.raises(error, match=message):
        _core.all_finite(array)


class Subclass(np.ndarray):
    pass


def with_value(array, value):
    changed = np.array(array, np.float64)
    changed[2, ...] = value
    return changed


X = np.random.default_rng(0).normal(size=(20, 3))
Y = np.arange(20) % 2
FEATURES = {
    "float64": X,
    "float32": X.astype(np.float32),
    "int": Y.reshape(-1, 1),
    "float16": X.astype(np.float16),
    "other byte order": X.astype(">f8"),
    "complex": X.astype(complex),
    "objects": X.astype(object),
    "Fortran order": np.asfortranarray(X),
    "strided": np.repeat(X, 2, axis=1)[:, ::2],
    "subclass": X.view(Subclass),
    "list": X.tolist(),
    "NaN": with_value(X, np.nan),
    "infinite": with_value(X, np.inf),
    "1-d": X[:, 0],
    "3-d": X[:, :, np.newaxis],
    "no rows": X[:0],
    "no columns": X[:, :0],
    "fewer": X[:5],
}
TARGETS = {
    "int": Y,
    "small int": Y.astype(np.int8),
    "bool": Y.astype(bool),
    "float": Y.astype(np.float64),
    "float32": Y.astype(np.float32),
    "other byte order": Y.astype(">f8"),
    "text": Y.astype(str),
    "objects": Y.astype(object),
    "complex": Y.astype(complex),
    "column": Y.reshape(-1, 1),
    "NaN": with_value(Y, np.nan),
    "infinite": with_value(Y, -np.inf),
    "list": Y.tolist(),
    "strided": np.repeat(Y, 2)[::2],
    "no rows": Y[:0],
    "None": None,
}
PLAIN = set(itertools.product(["float64", "float32"], ["int", "small int", "bool", "float", "float32", "strided"]))


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("estimator", [MLPClassifier, MLPRegressor])
def test_what_is_plain_comes_back_unchanged(estimator):
    model = estimator()
    for (features, rows), (targets, y) in itertools.product(FEATURES.items(), TARGETS.items()):
        plain = model._are_plain(rows, y)
        assert plain == ((features, targets) in PLAIN), (features, targets)
        if plain:
            checked_X, checked_y = check_X_y(
                rows, y, dtype=DTYPES, multi_output=True, y_numeric=estimator is MLPRegressor
            )
            assert checked_X is rows
            assert np.shares_memory(checked_y, y)
            assert checked_y.dtype == y.dtype


def test_a_dtype_makes_others_less_plain():
    model = MLPClassifier(dtype="float32")
    assert model._are_plain(FEATURES["float32"], Y)
    assert not model._are_plain(FEATURES["float64"], Y)


def test_without_a_look_at_the_numbers():
    with sklearn.config_context(assume_finite=True):
        assert MLPClassifier()._are_plain(FEATURES["NaN"], Y)
    assert not MLPClassifier()._are_plain(FEATURES["NaN"], Y)


@pytest.mark.parametrize("estimator", [MLPClassifier, MLPRegressor])
@pytest.mark.parametrize("targets", ["int", "bool", "float"])
def test_a_list_gives_the_same_fit(estimator, targets):
    y = TARGETS[targets]
    plain, listed = (
        estimator(hidden_layer_sizes=(5,), max_iter=3, random_state=0, n_iter_no_change=4).fit(rows, y)
        for rows in (X, X.tolist())
    )
    assert plain.n_features_in_ == listed.n_features_in_ == 3
    for a, b in zip(plain.coefs_, listed.coefs_, strict=True):
        np.testing.assert_array_equal(a, b)


def test_features_are_still_counted():
    model = MLPClassifier((5,), max_iter=1, warm_start=True).fit(X, Y)
    with pytest.raises(ValueError, match="X has 2 features, but MLPClassifier is expecting 3 features as input"):
        model.fit(np.ascontiguousarray(X[:, :2]), Y)


def test_names_of_features_are_forgotten_and_missed():
    pandas = pytest.importorskip("pandas")
    model = MLPClassifier((5,), max_iter=1).fit(pandas.DataFrame(X, columns=["a", "b", "c"]), Y)
    assert model.feature_names_in_.tolist() == ["a", "b", "c"]
    with pytest.warns(UserWarning, match="does not have valid feature names"):
        model.partial_fit(X, Y)
    assert not hasattr(model.fit(X, Y), "feature_names_in_")
    assert model.fit(np.ascontiguousarray(X[:, :2]), Y).n_features_in_ == 2


def test_labels_of_a_warm_start():
    model = MLPClassifier((5,), max_iter=1, warm_start=True).fit(X, Y)
    with pytest.raises(ValueError, match="same classes as in the previous call"):
        model.fit(X, Y + 1)
    assert model.fit(X, Y.astype(bool)).classes_.tolist() == [0, 1]


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int64, np.uint64, ">i4"])
def test_classes_of_any_integers(dtype):
    limits = np.iinfo(dtype)
    for low in (limits.min, 0, 5, limits.max - 100):
        labels = (low + np.array([3, 0, 100, 3, 3, 100, 100, 0, 1]).astype(object)).astype(dtype)
        close_together, apart, single = np.tile(labels, 40), np.tile(labels, 2), np.full(300, labels[0])
        for y in (close_together, apart, single):
            classes = _plain_classes(y)
            np.testing.assert_array_equal(classes, np.unique(y))
            assert classes.dtype == np.unique(y).dtype


def test_labels_that_are_not_plain():
    for y in (np.arange(10), np.arange(10.0) % 2, np.ones((4, 1), int), np.array([1, "a", 1, 1], object)):
        assert _plain_classes(y) is None
    assert _plain_classes(np.array(["b", "a"] * 5)).tolist() == ["a", "b"]
    assert _plain_classes(np.array([True, False] * 5)).tolist() == [False, True]
