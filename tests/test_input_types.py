"""Data as people have it: frames, series, lists, sparse matrices, memory maps. Each gives what a plain array gives."""

import numpy as np
import pytest
import sklearn.neural_network
from scipy import sparse
from sklearn.exceptions import DataConversionWarning
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler

from fastmlp import MLPClassifier, MLPRegressor

pd = pytest.importorskip("pandas")
pl = pytest.importorskip("polars")

NAMES = ["age", "height", "weight", "income", "rooms"]
rng = np.random.RandomState(0)
X = rng.standard_normal((80, 5)) * (rng.uniform(size=(80, 5)) > 0.3)
TARGETS = X @ rng.standard_normal((5, 3))
LABELS = TARGETS.argmax(axis=1)
SETTINGS = {"hidden_layer_sizes": (9,), "max_iter": 5, "random_state": 0}


def classifier(**settings):
    return MLPClassifier(**SETTINGS | settings)


def regressor(**settings):
    return MLPRegressor(**SETTINGS | settings)


def assert_same_model(model, expected, rows=X, plain=X):
    """The same weights and the same predictions, bit for bit."""
    for ours, theirs in zip(model.coefs_ + model.intercepts_, expected.coefs_ + expected.intercepts_, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    predict, predict_plain = (getattr(m, "predict_proba", m.predict) for m in (model, expected))
    np.testing.assert_array_equal(predict(rows), predict_plain(plain))


# --- features ------------------------------------------------------------------------------------------------------


def memory_mapped(array, path):
    mapped = np.memmap(path, array.dtype, "w+", shape=array.shape)
    mapped[:] = array
    mapped.flush()
    return np.memmap(path, array.dtype, "r", shape=array.shape)


DENSE = {
    "list of lists": lambda path: X.tolist(),
    "list of arrays": lambda path: list(X),
    "pandas": lambda path: pd.DataFrame(X, columns=NAMES),
    "pandas, numbered": lambda path: pd.DataFrame(X),
    "pandas, nullable": lambda path: pd.DataFrame(X, columns=NAMES).convert_dtypes(),
    "pandas, other index": lambda path: pd.DataFrame(X, columns=NAMES, index=range(80, 0, -1)),
    "pandas, own blocks": lambda path: pd.concat(
        [pd.Series(X[:, i], name=name) for i, name in enumerate(NAMES)], axis=1
    ),
    "polars": lambda path: pl.DataFrame(X, schema=NAMES),
    "memory map": lambda path: memory_mapped(X, path),
}


@pytest.mark.parametrize("make", [classifier, regressor])
@pytest.mark.parametrize("kind", DENSE)
def test_features(kind, make, tmp_path):
    rows = DENSE[kind](tmp_path / "rows")
    y = LABELS if make is classifier else TARGETS
    assert_same_model(make().fit(rows, y), make().fit(X, y), rows)


@pytest.mark.parametrize("kind", ["pandas", "polars"])
def test_mixed_columns_become_float64(kind):
    columns = {"a": np.arange(80, dtype=np.int8), "b": X[:, 0].astype(np.float32), "c": X[:, 1] > 0, "d": X[:, 2]}
    frame = {"pandas": pd.DataFrame, "polars": pl.DataFrame}[kind]
    plain = np.column_stack([column.astype(float) for column in columns.values()])
    assert_same_model(classifier().fit(frame(columns), LABELS), classifier().fit(plain, LABELS), frame(columns), plain)


def test_columns_of_float32_stay_float32():
    frame = pd.DataFrame(X.astype(np.float32), columns=NAMES)
    model = classifier().fit(frame, LABELS)
    assert {array.dtype for array in model.coefs_ + model.intercepts_} == {np.dtype("float32")}
    assert_same_model(model, classifier().fit(X.astype(np.float32), LABELS), frame, X.astype(np.float32))


# --- sparse features -----------------------------------------------------------------------------------------------

CSR = sparse.csr_array(X)


def unsorted(matrix):
    """The same rows, the entries of each from the last column to the first."""
    order = np.concatenate([np.arange(a, b)[::-1] for a, b in zip(matrix.indptr, matrix.indptr[1:], strict=False)])
    return sparse.csr_array((matrix.data[order], matrix.indices[order], matrix.indptr), matrix.shape)


def with_stored_zeros(matrix):
    changed = matrix.copy()
    changed.data[::3] = 0
    return changed


def long_indices(matrix):
    changed = matrix.copy()
    changed.indices, changed.indptr = changed.indices.astype(np.int64), changed.indptr.astype(np.int64)
    return changed


SPARSE = {
    "csr": CSR,
    "csc": CSR.tocsc(),
    "coo": CSR.tocoo(),
    "lil": CSR.tolil(),
    "dok": CSR.todok(),
    "csr matrix": sparse.csr_matrix(X),
    "csc matrix": sparse.csc_matrix(X),
    "columns not sorted": unsorted(CSR),
    "stored zeros": with_stored_zeros(CSR),
    "64-bit indices": long_indices(CSR),
    "twice the same entry": sparse.coo_array(
        (np.repeat(CSR.data / 2, 2), (np.repeat(CSR.tocoo().row, 2), np.repeat(CSR.tocoo().col, 2))), CSR.shape
    ),
    "float32": CSR.astype(np.float32),
    "integers": (CSR * 10).astype(np.int16),
    "nothing stored": sparse.csr_array(X.shape),
}


@pytest.mark.parametrize("solver", ["sgd", "adam", "lbfgs"])
@pytest.mark.parametrize("kind", SPARSE)
def test_sparse_features(kind, solver):
    """What the same rows give when they are dense, to rounding: zeros are skipped, so sums come in another order."""
    rows = SPARSE[kind]
    dense = rows.toarray()
    ours, expected = (regressor(solver=solver).fit(x, TARGETS) for x in (rows, dense))
    tolerance = {"rtol": 1e-3, "atol": 1e-3} if dense.dtype == np.float32 else {"rtol": 1e-6, "atol": 1e-9}
    np.testing.assert_allclose(ours.predict(dense), expected.predict(dense), **tolerance)
    np.testing.assert_allclose(ours.predict(rows), expected.predict(rows), **tolerance)
    np.testing.assert_allclose(ours.predict(rows), ours.predict(dense), **tolerance)


@pytest.mark.parametrize("kind", ["csc", "coo", "lil", "csr matrix", "64-bit indices"])
def test_sparse_layouts_agree_bit_for_bit(kind):
    assert_same_model(classifier().fit(SPARSE[kind], LABELS), classifier().fit(CSR, LABELS), SPARSE[kind], CSR)


def test_a_frame_of_sparse_columns_is_a_sparse_matrix():
    frame = pd.DataFrame.sparse.from_spmatrix(CSR, columns=NAMES)
    assert_same_model(classifier().fit(frame, LABELS), classifier().fit(CSR, LABELS), frame, CSR)


def test_sparse_input_is_left_as_it_was():
    rows = unsorted(CSR)
    before = [rows.data.copy(), rows.indices.copy(), rows.indptr.copy()]
    classifier(early_stopping=True).fit(rows, LABELS).predict(rows)
    for now, then in zip([rows.data, rows.indices, rows.indptr], before, strict=True):
        np.testing.assert_array_equal(now, then)


# --- targets and weights -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "labels",
    [
        LABELS.tolist(),
        LABELS.astype(np.int8),
        LABELS.astype(float),
        pd.Series(LABELS, index=range(80, 0, -1)),
        pd.Series(LABELS).convert_dtypes(),
        pl.Series(LABELS),
        np.array(["a", "b", "c"])[LABELS],
        np.array(["a", "b", "c"], dtype=object)[LABELS],
        pd.Series(list("abc"))[LABELS],
        pd.Series(np.array(list("abc"))[LABELS], dtype="category"),
        pl.Series(np.array(list("abc"))[LABELS].tolist()),
    ],
    ids=lambda labels: f"{type(labels).__module__.split('.')[0]} {getattr(labels, 'dtype', 'list')}",
)
def test_labels(labels):
    model = classifier(early_stopping=True).fit(X, labels)
    assert_same_model(model, classifier(early_stopping=True).fit(X, LABELS))
    assert set(model.predict(X)) <= set(labels)
    assert model.score(X, labels) == np.mean(model.predict(X) == np.asarray(labels))


def test_two_classes_as_booleans():
    model = classifier().fit(X, LABELS == 0)
    assert model.predict(X).dtype == bool
    assert model.classes_.tolist() == [False, True]


@pytest.mark.parametrize(
    "targets",
    [
        TARGETS.tolist(),
        pd.DataFrame(TARGETS, index=range(80, 0, -1)),
        pl.DataFrame(TARGETS),
        np.asfortranarray(TARGETS),
        TARGETS.astype(object),
    ],
    ids=lambda targets: type(targets).__module__,
)
def test_targets(targets):
    assert_same_model(regressor().fit(X, targets), regressor().fit(X, TARGETS))


@pytest.mark.parametrize("make", [classifier, regressor])
def test_a_column_of_targets_is_flattened_with_a_warning(make):
    y = LABELS if make is classifier else TARGETS[:, 0]
    with pytest.warns(DataConversionWarning, match="A column-vector y was passed when a 1d array was expected"):
        model = make().fit(X, y[:, None])
    assert_same_model(model, make().fit(X, y))
    assert model.predict(X).shape == (80,)


@pytest.mark.parametrize("kind", [list, pd.Series, pl.Series, np.float32, lambda w: w[::-1][::-1]])
def test_weights(kind):
    w = rng.randint(1, 5, size=80).astype(float)
    assert_same_model(classifier().fit(X, LABELS, kind(w)), classifier().fit(X, LABELS, w))


# --- names of features ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "frame", [pd.DataFrame(X, columns=NAMES), pl.DataFrame(X, schema=NAMES)], ids=["pandas", "polars"]
)
def test_feature_names(frame):
    model = classifier(early_stopping=True).fit(frame, LABELS)
    assert model.feature_names_in_.tolist() == NAMES
    assert model.predict(frame).shape == (80,)
    with pytest.warns(UserWarning, match="X does not have valid feature names, but MLPClassifier was fitted with"):
        model.predict(X)
    with pytest.raises(ValueError, match=r"feature names should match(.|\n)*same order"):
        model.predict(frame[NAMES[::-1]])
    with pytest.raises(ValueError, match=r"feature names should match(.|\n)*seen at fit time, yet now missing"):
        model.set_params(early_stopping=False).partial_fit(frame[NAMES[1:]], LABELS)


def test_names_are_forgotten_when_fitted_without():
    model = classifier().fit(pd.DataFrame(X, columns=NAMES), LABELS).fit(X, LABELS)
    assert not hasattr(model, "feature_names_in_")
    with pytest.warns(UserWarning, match="X has feature names, but MLPClassifier was fitted without feature names"):
        model.predict(pd.DataFrame(X, columns=NAMES))


def test_names_pass_through_a_pipeline_with_set_output():
    frame = pd.DataFrame(X, columns=NAMES)
    pipeline = make_pipeline(StandardScaler(), classifier()).set_output(transform="pandas").fit(frame, LABELS)
    assert pipeline[-1].feature_names_in_.tolist() == NAMES
    scaled = pipeline[:-1].transform(frame)
    assert_same_model(pipeline[-1], classifier().fit(scaled.to_numpy(), LABELS), scaled, scaled.to_numpy())


def test_a_pipeline_whose_steps_give_polars():
    frame = pl.DataFrame(X, schema=NAMES)
    pipeline = make_pipeline(FunctionTransformer(), regressor()).set_output(transform="polars").fit(frame, TARGETS)
    assert pipeline[-1].feature_names_in_.tolist() == NAMES
    assert_same_model(pipeline[-1], regressor().fit(X, TARGETS), frame)


def test_a_split_frame_keeps_rows_and_labels_together():
    frame, y = pd.DataFrame(X, columns=NAMES), pd.Series(LABELS)
    X_train, X_test, y_train, y_test = train_test_split(frame, y, random_state=0)
    model = classifier().fit(X_train, y_train)
    plain = classifier().fit(X[X_train.index], LABELS[y_train.index])
    assert_same_model(model, plain, X_test, X[X_test.index])
    assert model.score(X_test, y_test) == plain.score(X[X_test.index], LABELS[y_test.index])


@pytest.mark.parametrize(
    "classes",
    [
        np.arange(-100, 101, dtype=np.int8),
        np.arange(3, dtype=np.uint64) + np.uint64(2**63 - 1),
        np.arange(2**63 - 3, 2**63 - 1),
        np.array([-5, 7, 8]),
        np.array([False, True]),
        np.array(["a", "b"], dtype=object),
    ],
    ids=lambda classes: f"{classes.dtype} {len(classes)}",
)
def test_class_numbers(classes):
    """Labels become class numbers by a short cut where they are consecutive integers: like scikit-learn's, always."""
    y = np.random.RandomState(0).permutation(np.repeat(classes, 3))
    X = np.random.RandomState(1).randn(len(y), 4)
    settings = {"hidden_layer_sizes": (5,), "max_iter": 3, "random_state": 0}
    ours, theirs = MLPClassifier(**settings).fit(X, y), sklearn.neural_network.MLPClassifier(**settings).fit(X, y)
    np.testing.assert_array_equal(ours.classes_, theirs.classes_)
    np.testing.assert_allclose(ours.loss_curve_, theirs.loss_curve_, rtol=1e-9)
    np.testing.assert_array_equal(ours.predict(X), theirs.predict(X))
