"""Bad input gets an exception that says what was given and what is allowed; unusual input gets the right answer."""

import numpy as np
import pytest
from scipy import sparse
from sklearn import neural_network
from sklearn.datasets import load_iris
from sklearn.exceptions import ConvergenceWarning, NotFittedError

from fastmlp import MLPClassifier, MLPRegressor, _core
from fastmlp._losses import NUMBER_LOSSES

ESTIMATORS = [MLPClassifier, MLPRegressor]
X, y = load_iris(return_X_y=True)
X, y = np.ascontiguousarray(X[::3] - X.mean(axis=0)), y[::3]
QUICK = {"hidden_layer_sizes": (8,), "max_iter": 4, "random_state": 0}


def with_value(value, dtype=float):
    changed = X.astype(dtype)
    changed[7, 2] = value
    return changed


def weights(model):
    return [array.tobytes() for array in model.coefs_ + model.intercepts_]


# --- features ------------------------------------------------------------------------------------------------------

BAD_FEATURES = {
    "one dimension": (X[0], ValueError, "Expected 2D array, got 1D array instead"),
    "three dimensions": (X[None], ValueError, "Found array with dim 3"),
    "a number": (1.0, ValueError, "Expected 2D array, got scalar array instead"),
    "None": (None, ValueError, "Expected 2D array, got scalar array instead"),
    "no rows": (X[:0], ValueError, r"Found array with 0 sample\(s\)"),
    "no features": (X[:, :0], ValueError, r"Found array with 0 feature\(s\)"),
    "NaN": (with_value(np.nan), ValueError, "Input X contains NaN"),
    "None among numbers": (with_value(None, object), ValueError, "Input X contains NaN"),
    "infinity": (with_value(-np.inf), ValueError, "Input X contains infinity or a value too large"),
    "complex": (X + 1j, ValueError, "Complex data not supported"),
    "text": (np.char.add(X.astype(str), "cm"), ValueError, "could not convert string to float|bytes/strings"),
    "text among numbers": (with_value("tall", object), ValueError, "could not convert string to float: 'tall'"),
    "objects": (np.full(X.shape, object()), TypeError, "must be a string or a real number, not 'object'"),
    "ragged": ([[1, 2], [3]], ValueError, "inhomogeneous|setting an array element with a sequence"),
    "sparse, one dimension": (sparse.coo_array(X[0]), ValueError, r"Expected 2D input, got input with shape \(4,\)"),
    "sparse, NaN": (sparse.csr_array(with_value(np.nan)), ValueError, "Input X contains NaN"),
    "sparse, complex": (sparse.csr_array(X + 1j), ValueError, "Complex data not supported"),
}


@pytest.mark.parametrize("kind", BAD_FEATURES)
@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_features(estimator, kind):
    """The same exception from each method, and a model that is as it was."""
    rows, error, message = BAD_FEATURES[kind]
    model = estimator(**QUICK).fit(X, y)
    before = weights(model)
    for method in (estimator(**QUICK).fit, model.partial_fit):
        with pytest.raises(error, match=message):
            method(rows, y)
    with pytest.raises(error, match=message):
        model.predict(rows)
    assert weights(model) == before


@pytest.mark.filterwarnings("ignore:overflow encountered in cast:RuntimeWarning")
def test_numbers_that_only_float32_cannot_hold():
    for method in (MLPRegressor(**QUICK, dtype="float32").fit, MLPRegressor(**QUICK, dtype="float32").partial_fit):
        with pytest.raises(ValueError, match=r"infinity or a value too large for dtype\('float32'\)"):
            method(with_value(1e300), y)


@pytest.mark.parametrize("method", ["predict", "partial_fit"])
@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_another_number_of_features(estimator, method):
    arguments = (X[:, :3],) if method == "predict" else (X[:, :3], y)
    with pytest.raises(ValueError, match=f"X has 3 features, but {estimator.__name__} is expecting 4 features"):
        getattr(estimator(**QUICK).fit(X, y), method)(*arguments)


@pytest.mark.parametrize("method", ["predict", "score", "predict_proba", "predict_log_proba"])
def test_not_fitted(method):
    for estimator in ESTIMATORS:
        if hasattr(estimator, method):
            with pytest.raises(NotFittedError, match=f"This {estimator.__name__} instance is not fitted yet"):
                getattr(estimator(), method)(*(X, y)[: 1 + (method == "score")])


# --- targets -------------------------------------------------------------------------------------------------------

BAD_TARGETS = {
    "None": (ESTIMATORS, None, ValueError, "requires y to be passed, but the target y is None"),
    "too few": (ESTIMATORS, y[:-1], ValueError, r"inconsistent numbers of samples: \[50, 49\]"),
    "none at all": (ESTIMATORS, [], ValueError, r"Found array with 0 sample\(s\)"),
    "NaN": (ESTIMATORS, np.where(y == 1, np.nan, y), ValueError, "Input y contains NaN"),
    "infinity": (ESTIMATORS, np.where(y == 1, np.inf, y), ValueError, "Input y contains infinity"),
    "complex": (ESTIMATORS, y + 1j, ValueError, "Complex data not supported"),
    "three dimensions": (ESTIMATORS, np.zeros((50, 2, 2)), ValueError, "Found array with dim 3"),
    "a number": (ESTIMATORS, np.array(3), TypeError, "should have at least 1 dimension"),
    "measured values": ([MLPClassifier], X[:, 0], ValueError, "Unknown label type"),
    "two columns of classes": ([MLPClassifier], np.stack([y, y], 1), ValueError, "Multioutput target data is not supp"),
    "text": ([MLPRegressor], np.array(list("abc"))[y], ValueError, "could not convert|must hold real numbers"),
}


@pytest.mark.parametrize("kind", BAD_TARGETS)
def test_targets(kind):
    estimators, targets, error, message = BAD_TARGETS[kind]
    for estimator in estimators:
        with pytest.raises(error, match=message):
            estimator(**QUICK).fit(X, targets)


@pytest.mark.parametrize("solver", ["sgd", "adam", "lbfgs"])
def test_negative_counts(solver):
    model = MLPRegressor("poisson", **QUICK, solver=solver)
    for method in [model.fit] + ([model.partial_fit] if solver != "lbfgs" else []):
        with pytest.raises(ValueError, match=r"(?s)(?=.*poisson)(?=.*-1)(?=.*(0 or more|>= 0|non-negative))"):
            method(X, y - 1.0)


def test_classes_of_partial_fit():
    with pytest.raises(ValueError, match="classes must be passed on the first call to partial_fit"):
        MLPClassifier().partial_fit(X, y)
    with pytest.raises(ValueError, match=r"`y` has classes not in `self.classes_`. `self.classes_` has \[0 1\]"):
        MLPClassifier().partial_fit(X, y, classes=[0, 1])
    model = MLPClassifier(**QUICK).partial_fit(X, y, classes=[0, 1, 2])
    before = weights(model)
    with pytest.raises(ValueError, match=r"`self.classes_` has \[0 1 2\]. 'y' has \[1 2 3\]"):
        model.partial_fit(X, y + 1)
    with pytest.raises(ValueError, match=r"`classes=\[0, 1\]` is not the same as on last call to partial_fit"):
        model.partial_fit(X, y, classes=[0, 1])
    assert weights(model) == before


@pytest.mark.parametrize("label", [1, "only", True])
def test_one_class(label):
    labels = np.full(50, label)
    assert (MLPClassifier(**QUICK).fit(X, labels).predict(X) == labels).all()


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_another_number_of_targets_or_neurons(estimator):
    model = estimator(**QUICK, warm_start=True).fit(X, y)
    if estimator is MLPRegressor:
        with pytest.raises(ValueError, match=r"(?s)\[4, 8, 1\].*\[4, 8, 2\]"):
            model.partial_fit(X, X[:, :2])
    with pytest.raises(ValueError, match=r"(?s)(?=.*hidden_layer_sizes)(?=.*\[4, 5, 5, \d\])"):
        model.set_params(hidden_layer_sizes=(5, 5)).fit(X, y)


# --- sample weights ------------------------------------------------------------------------------------------------

BAD_WEIGHTS = {
    "too few": (np.ones(49), r"sample_weight.shape == \(49,\), expected \(50,\)"),
    "NaN": (np.where(y == 1, np.nan, 1), "Input sample_weight contains NaN"),
    "infinity": (np.where(y == 1, np.inf, 1), "Input sample_weight contains infinity"),
    "all zero": (np.zeros(50), "Sample weights must contain at least one non-zero number"),
    "sum to zero": (np.where(np.arange(50) % 2, 1.0, -1.0), "Sample weights must not sum to 0"),
    "a column": (np.ones((50, 1)), "Sample weights must be 1D array or scalar"),
    "text": (["a"] * 50, "could not convert string to float"),
    "complex": (np.ones(50) + 1j, "Complex data not supported"),
}


@pytest.mark.parametrize("kind", BAD_WEIGHTS)
@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_sample_weights(estimator, kind):
    sample_weight, message = BAD_WEIGHTS[kind]
    with pytest.raises(ValueError, match=message):
        estimator(**QUICK).fit(X, y, sample_weight)


@pytest.mark.parametrize("sample_weight", [3, np.where(y == 1, -0.1, 1), np.where(np.arange(50) < 20, 0.0, 1)])
def test_one_number_a_few_negative_and_many_zero_weights(sample_weight):
    """As in scikit-learn: a negative weight pushes the model away from its row."""
    ours, theirs = (
        library(**QUICK).fit(X, y, sample_weight) for library in (MLPRegressor, neural_network.MLPRegressor)
    )
    np.testing.assert_allclose(ours.loss_curve_, theirs.loss_curve_, rtol=1e-7)
    np.testing.assert_allclose(ours.predict(X), theirs.predict(X), rtol=1e-7)


# --- parameters ----------------------------------------------------------------------------------------------------

BAD_PARAMETERS = [
    *[("hidden_layer_sizes", sizes, "hidden_layer_sizes.*(> 0|1, inf)") for sizes in (0, -3, (4, 0), (4, -1))],
    *[("hidden_layer_sizes", sizes, "units and layers such as '256x3', got") for sizes in ("abc", "4", "x3", "4x3x2")],
    *[("hidden_layer_sizes", sizes, "hidden_layer_sizes.*int") for sizes in (4.5, None, (4.5,), ("4",), [[4]])],
    *[("activation", ["relu"] * n, rf"activation.*hidden layer \(1\).*{n}") for n in (0, 2)],
    *[("batch_size", size, r"'batch_size'.*'auto'.*\[1, inf\)") for size in (0, -1, 2.5, "all")],
    *[("max_iter", number, r"'max_iter'.*int in the range \[1, inf\)") for number in (0, -1, 2.5)],
    *[("max_fun", number, r"'max_fun'.*int in the range \[1, inf\)") for number in (0, 2.5)],
    *[("n_iter_no_change", number, r"'n_iter_no_change'.*\[1, inf\).*inf") for number in (0, 2.5)],
    *[("random_state", seed, r"'random_state'.*RandomState") for seed in ("seed", -1, 2.5, 2**32)],
    *[("validation_fraction", share, r"'validation_fraction'.*\[0.0, 1.0\)") for share in (-0.1, 1.0, "a")],
    *[(name, value, f"'{name}'.*range") for name in ("alpha", "tol", "power_t") for value in (-1, "a", np.nan)],
    *[(name, value, f"'{name}'.*range") for name in ("learning_rate_init", "epsilon") for value in (0, -1, np.nan)],
    *[(name, value, f"'{name}'.*range") for name in ("momentum", "beta_1", "beta_2") for value in (-0.1, 1.1, np.nan)],
    *[(name, 2, f"'{name}'.*bool") for name in ("shuffle", "warm_start", "nesterovs_momentum", "early_stopping")],
    ("loss_parameters", [0.1], "loss_parameters.*dict"),
    ("loss_parameters", {"nope": 1}, "unknown hyper-parameter 'nope' of '.*'; valid names:"),
    ("loss_parameters", {"x": "y"}, r"loss_parameters\['x'\] must be a number or a list of numbers, got 'y'"),
    (
        "loss_parameters",
        {"x": [[1.0]]},
        r"loss_parameters\['x'\] must be a number or a list of numbers, got \[\[1.0\]\]",
    ),
    *[("n_jobs", number, "n_jobs.*None.*-1.*") for number in (0, 2.5, "two")],
]


@pytest.mark.parametrize(("name", "value", "message"), BAD_PARAMETERS)
@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_parameters(estimator, name, value, message):
    model = estimator(**QUICK | {name: value})
    with pytest.raises(ValueError, match=message):
        model.fit(X, y)
    with pytest.raises(ValueError, match=message):
        model.partial_fit(X, y, **{"classes": [0, 1, 2]} if estimator is MLPClassifier else {})


VALID_NAMES = {
    "activation": _core.activations(),
    "solver": ["lbfgs", *_core.optimizers()],
    "learning_rate": ["constant", "invscaling", "adaptive"],
    "dtype": ["float32", "float64"],
    "loss": NUMBER_LOSSES,
}


@pytest.mark.parametrize("given", ["nope", ["nope"], 3])
@pytest.mark.parametrize("name", VALID_NAMES)
def test_unknown_names_are_answered_by_the_valid_ones(name, given):
    with pytest.raises(ValueError, match=f"(?s){name}.*{given if given == 3 else 'nope'}|nope.*{name}") as error:
        MLPRegressor(**QUICK | {name: given}).fit(X, y)
    assert all(repr(valid) in str(error.value) for valid in VALID_NAMES[name])


@pytest.mark.parametrize(
    "sizes", [(10**7, 10**7), (10**10, 10**10), 10**19, (2**31, 2**31, 2**31), (1,) * 10 + (2**62,)]
)
@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_networks_larger_than_any_memory(estimator, sizes):
    with pytest.raises((MemoryError, ValueError), match=r"allocate|memory|hidden_layer_sizes|parameters"):
        estimator(hidden_layer_sizes=sizes).fit(X, y)


@pytest.mark.parametrize("fraction", [0.0, 0.001, 0.02, 0.99])
@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_validation_sets_too_small_or_too_large(estimator, fraction):
    message = "validation set is too small|test_size=0.0 should be|train set will be empty"
    with pytest.raises(ValueError, match=message):
        estimator(**QUICK, early_stopping=True, validation_fraction=fraction).fit(X, y)


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_batches_larger_than_the_data(estimator):
    with pytest.warns(UserWarning, match="Got `batch_size` less than 1 or larger than sample size"):
        model = estimator(**QUICK, batch_size=10**9).fit(X, y)
    assert weights(model) == weights(estimator(**QUICK, batch_size=50).fit(X, y))


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize(
    ("name", "good", "bad"),
    [
        ("warm_start", True, 1),
        ("max_iter", 1, 1.0),
        ("max_iter", 3, np.float64(3)),
        ("n_jobs", 1, 1.0),
        ("alpha", 0.5, [0.5]),
    ],
)
def test_a_parameter_that_was_valid_may_become_invalid(estimator, name, good, bad):
    """What was found valid is remembered: equal values of other types are not."""
    model = estimator(**QUICK | {name: good}).fit(X, y).fit(X, y)
    with pytest.raises(ValueError, match=f"The '{name}' parameter of {estimator.__name__} must be"):
        model.set_params(**{name: bad}).fit(X, y)
    model.set_params(**{name: good}).fit(X, y)


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_sizes_that_were_valid_may_become_invalid(estimator):
    model = estimator(**QUICK).fit(X, y)
    for bad in (8.0, (8.0,), ((8,),), ("8",), 0, (0,)):
        with pytest.raises(ValueError, match="hidden_layer_sizes"):
            model.set_params(hidden_layer_sizes=bad).fit(X, y)
    model.set_params(hidden_layer_sizes=(8,)).fit(X, y)


# --- training that diverges ----------------------------------------------------------------------------------------

DIVERGING = {"activation": "identity", "solver": "sgd", "learning_rate_init": 1e6, "batch_size": 20, "max_iter": 100}


def test_divergence_says_where():
    message = "Solver produced non-finite parameter weights. The input data may contain large values and need to be"
    with pytest.raises(ValueError, match=f"{message} preprocessed. The loss became non-finite at epoch"):
        MLPRegressor(**DIVERGING, random_state=0).fit(X, y)


def test_divergence_with_early_stopping_keeps_the_best():
    with pytest.warns(ConvergenceWarning, match="The loss became non-finite at epoch"):
        model = MLPRegressor(**DIVERGING, random_state=0, early_stopping=True).fit(X, y)
    assert np.isfinite(model.predict(X)).all()


# --- weights set by hand -------------------------------------------------------------------------------------------

BAD_COEFS = {
    "rows": (0, np.zeros((5, 8)), r"coefs_\[0\].*\(5, 8\)|\[5, 8, 6, 1\]"),
    "columns": (0, np.zeros((4, 7)), r"(coefs|intercepts)_\[0\].*7|\(7, "),
    "dimensions": (1, np.zeros(8), r"coefs_\[1\].*\(8,\)"),
    "text": (1, "abc", r"coefs_\[1\]"),
    "None": (0, None, r"coefs_\[0\]"),
    "complex": (1, np.ones((8, 6)) * 1j, r"coefs_.*complex"),
    "objects": (1, np.full((8, 6), None), r"coefs_.*object"),
}


@pytest.mark.parametrize("kind", BAD_COEFS)
@pytest.mark.parametrize("method", ["predict", "partial_fit"])
def test_weights_of_a_wrong_shape_or_type(kind, method):
    layer, coefs, message = BAD_COEFS[kind]
    model = MLPRegressor(**QUICK | {"hidden_layer_sizes": (8, 6)}).fit(X, y)
    model.coefs_[layer] = coefs
    with pytest.raises((ValueError, TypeError), match=message):
        getattr(model, method)(*(X, y)[: 1 + (method == "partial_fit")])


@pytest.mark.parametrize("length", [0, 1, 3])
@pytest.mark.parametrize("name", ["coefs_", "intercepts_"])
def test_a_wrong_number_of_layers(name, length):
    model = MLPRegressor(**QUICK).fit(X, y)
    setattr(model, name, (getattr(model, name) * 2)[:length])
    for call in (lambda: model.predict(X), lambda: model.partial_fit(X, y)):
        with pytest.raises(ValueError, match=rf"coefs_ and intercepts_.*\b{length}\b"):
            call()


@pytest.mark.parametrize(
    "form",
    [np.asfortranarray, np.ndarray.tolist, lambda W: W.astype(">f8"), lambda W: W[::-1].copy()[::-1], np.float32],
    ids=["F order", "list", "byte-swapped", "reversed", "float32"],
)
def test_weights_in_another_form(form):
    model, other = (MLPRegressor(**QUICK).fit(X, y) for _ in range(2))
    plain = [np.round(16 * W) / 16 for W in model.coefs_]  # numbers that float32 holds too
    model.coefs_, other.coefs_ = plain, [form(W) for W in plain]
    np.testing.assert_array_equal(other.predict(X), model.predict(X))
    assert weights(other.partial_fit(X, y)) == weights(model.partial_fit(X, y))


def test_weights_changed_in_place_are_used():
    model = MLPRegressor(**QUICK).fit(X, y)
    model.coefs_[1][:] = 0
    model.intercepts_[1] = np.array([3.0])
    np.testing.assert_array_equal(model.predict(X), np.full(50, 3.0))


# --- unusual, but right --------------------------------------------------------------------------------------------


def memory_mapped(array, tmp_path):
    np.save(tmp_path / "array.npy", array)
    return np.load(tmp_path / "array.npy", mmap_mode="r")


def unaligned(array, tmp_path):
    moved = np.zeros(array.nbytes + 1, np.uint8)[1:].view(array.dtype).reshape(array.shape)
    moved[...] = array
    return moved


def read_only(array, tmp_path):
    array = array.copy()
    array.flags.writeable = False
    return array


FORMS = {
    "F order": lambda array, tmp_path: np.asfortranarray(array),
    "every other row": lambda array, tmp_path: np.repeat(array, 2, axis=0)[::2],
    "every other column": lambda array, tmp_path: np.repeat(array, 2, axis=-1)[..., ::2],
    "part of a wider array": lambda array, tmp_path: np.concatenate([array, array], axis=-1)[..., : array.shape[-1]],
    "reversed": lambda array, tmp_path: array[::-1].copy()[::-1],
    "mirrored": lambda array, tmp_path: array[..., ::-1].copy()[..., ::-1],
    "byte-swapped": lambda array, tmp_path: array.astype(array.dtype.newbyteorder()),
    "objects": lambda array, tmp_path: array.astype(object),
    "read-only": read_only,
    "memory map": memory_mapped,
    "unaligned": unaligned,
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("solver", ["adam", "lbfgs"])
def test_arrays_in_any_form(form, solver, dtype, tmp_path):
    """Features, targets and weights give, bit for bit, what contiguous ones give; and are left as they were."""
    w = np.linspace(0.5, 2, 50).astype(dtype)
    plain = X.astype(dtype), X[:, :2].astype(dtype), w
    for path in "Xyw":
        (tmp_path / path).mkdir()
    given = [FORMS[form](array, tmp_path / path) for array, path in zip(plain, "Xyw", strict=True)]
    model, expected = (MLPRegressor(**QUICK, solver=solver, dtype=dtype).fit(*data) for data in (given, plain))
    assert weights(model) == weights(expected)
    np.testing.assert_array_equal(model.predict(given[0]), expected.predict(plain[0]))
    for array, before in zip(given, plain, strict=True):
        np.testing.assert_array_equal(array, before)


@pytest.mark.parametrize("kind", ["float16", "longdouble", "int8", "uint8", "int64", "uint64", "bool", ">i4", "<f2"])
def test_any_type_of_number(kind):
    rows = np.abs(10 * X).astype(kind)
    model, expected = (MLPClassifier(**QUICK).fit(data, y) for data in (rows, rows.astype(float)))
    assert weights(model) == weights(expected)
    np.testing.assert_array_equal(model.predict_proba(rows), expected.predict_proba(rows.astype(float)))
    assert model.coefs_[0].dtype == np.float64


@pytest.mark.parametrize("kind", ["float16", "float32", "int8", "uint64", "bool", "object"])
def test_any_type_of_target(kind):
    targets = np.round(np.abs(X[:, :2])).astype(kind)
    model, expected = (MLPRegressor(**QUICK).fit(X, data) for data in (targets, targets.astype(float)))
    assert weights(model) == weights(expected)


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_one_row_and_one_feature(estimator):
    model = estimator(**QUICK).fit(X[:1, :1], y[:1])
    assert model.predict(X[:3, :1]).shape == (3,)
