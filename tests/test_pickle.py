"""A saved model is its weights and what the optimizer remembers; it goes on as if it had never been saved."""

import copy
import pickle
import re

import joblib
import numpy as np
import pytest
from sklearn.datasets import load_digits

from fastmlp import MLPClassifier, MLPRegressor, _core

X, y = load_digits(n_class=4, return_X_y=True)
X = X[:300] / 16
y = y[:300]
SETTINGS = {"hidden_layer_sizes": (50, 30), "max_iter": 4, "random_state": 0}


def by_pickle(model, tmp_path):
    return pickle.loads(pickle.dumps(model))


def by_joblib(model, tmp_path):
    joblib.dump(model, tmp_path / "model.joblib", compress=3)
    return joblib.load(tmp_path / "model.joblib")


def by_memmap(model, tmp_path):
    path = tmp_path / f"model {len(list(tmp_path.iterdir()))}.joblib"  # a file that is mapped must not be overwritten
    joblib.dump(model, path)
    return joblib.load(path, mmap_mode="r")


WAYS = [by_pickle, by_joblib, by_memmap, lambda model, tmp_path: copy.deepcopy(model)]


@pytest.fixture(params=WAYS, ids=["pickle", "joblib", "memmap", "deepcopy"])
def saved_and_loaded(request, tmp_path):
    return lambda model: request.param(model, tmp_path)


def weights(model):
    return [array.tobytes() for array in model.coefs_ + model.intercepts_]


# --- what comes back -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("solver", ["sgd", "adam", "lbfgs"])
@pytest.mark.parametrize("estimator", [MLPClassifier, MLPRegressor])
def test_round_trip(estimator, solver, dtype, saved_and_loaded):
    model = estimator(**SETTINGS, solver=solver, dtype=dtype).fit(X, y)
    loaded = saved_and_loaded(model)
    assert loaded.get_params() == model.get_params()
    assert weights(loaded) == weights(model)
    np.testing.assert_array_equal(loaded.predict(X), model.predict(X))
    for name in {name for name in dir(model) if re.fullmatch("[a-z].*_", name)} - {"coefs_", "intercepts_"}:
        np.testing.assert_equal(getattr(loaded, name), getattr(model, name))


def test_a_loaded_model_is_its_own(saved_and_loaded):
    model = MLPClassifier(**SETTINGS).fit(X, y)
    before = weights(model)
    saved_and_loaded(model).partial_fit(X, y)
    assert weights(model) == before


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
def test_every_protocol(protocol):
    model = MLPClassifier(**SETTINGS).fit(X, y)
    loaded = pickle.loads(pickle.dumps(model, protocol))
    np.testing.assert_array_equal(loaded.predict_proba(X), model.predict_proba(X))


def test_not_fitted_yet(saved_and_loaded):
    loaded = saved_and_loaded(MLPRegressor(**SETTINGS, activation=["tanh", "mish"]))
    assert not hasattr(loaded, "coefs_")
    assert loaded.fit(X, y).n_iter_ == 4


def test_text_labels_feature_names_and_other_shapes(saved_and_loaded):
    pd = pytest.importorskip("pandas")
    frame = pd.DataFrame(X, columns=[f"pixel {i}" for i in range(64)])
    model = MLPClassifier((), solver="sgd", max_iter=2, random_state=0).fit(frame, np.array(["a", "b", "c", "d"])[y])
    loaded = saved_and_loaded(model)
    np.testing.assert_array_equal(loaded.predict(frame), model.predict(frame))
    np.testing.assert_array_equal(loaded.feature_names_in_, frame.columns)


# --- its size ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("early_stopping", [False, True])
@pytest.mark.parametrize("solver", ["sgd", "adam", "lbfgs"])
@pytest.mark.parametrize("estimator", [MLPClassifier, MLPRegressor])
def test_size_is_the_weights_and_the_slots(estimator, solver, early_stopping, dtype):
    """No copy of the best weights, no gradients, no training data (which alone are ten times larger here)."""
    many = np.tile(X, (20, 1))
    model = estimator(**SETTINGS, solver=solver, early_stopping=early_stopping, dtype=dtype)
    model.fit(many, np.tile(y, 20))
    n_weights = sum(array.size for array in model.coefs_ + model.intercepts_)
    n_slots = len(_core.optimizers()[solver]["slots"]) if solver != "lbfgs" else 0
    size = len(pickle.dumps(model))
    assert size <= n_weights * (1 + n_slots) * np.dtype(dtype).itemsize + 8192
    assert many.nbytes > 10 * size


def test_size_does_not_grow_with_use():
    model = MLPClassifier(**SETTINGS).fit(X, y)
    size = len(pickle.dumps(model))
    for _ in range(5):
        model.predict(X)
        model.partial_fit(X, y)
    assert len(pickle.dumps(pickle.loads(pickle.dumps(model)))) <= size + 1024  # five more losses, no more arrays


# --- going on ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("random_state", [0, "instance"])
@pytest.mark.parametrize(
    "settings",
    [
        {"solver": "adam"},
        {"solver": "sgd"},
        {"solver": "sgd", "learning_rate": "invscaling", "momentum": 0.5},
        {"solver": "sgd", "learning_rate": "adaptive", "tol": 0.1, "n_iter_no_change": 1, "nesterovs_momentum": False},
    ],
    ids=str,
)
@pytest.mark.parametrize("begin", ["fit", "partial_fit"])
def test_training_goes_on_as_if_never_saved(begin, settings, random_state, saved_and_loaded):
    """Weights, moments, step numbers, learning rate, stopping counters and the generator's state are all kept."""

    def train(between):
        seed = np.random.RandomState(0) if random_state == "instance" else random_state
        model = MLPClassifier((20,), batch_size=32, max_iter=4, random_state=seed, **settings)
        model = model.fit(X, y) if begin == "fit" else model.partial_fit(X, y, classes=range(4))
        for part in (slice(0, 150), slice(150, 300), slice(50, 250)):
            model = between(model).partial_fit(X[part], y[part])
        return model

    uninterrupted, resumed = train(lambda model: model), train(saved_and_loaded)
    assert weights(resumed) == weights(uninterrupted)
    assert resumed.loss_curve_ == uninterrupted.loss_curve_
    assert (resumed.t_, resumed._no_improvement_count) == (uninterrupted.t_, uninterrupted._no_improvement_count)


@pytest.mark.parametrize("solver", ["sgd", "adam", "lbfgs"])
def test_warm_start_goes_on(solver, saved_and_loaded):
    model = MLPRegressor(**SETTINGS, solver=solver, warm_start=True).fit(X, y)
    resumed = saved_and_loaded(model).fit(X, y)
    assert weights(resumed) == weights(model.fit(X, y))


@pytest.mark.parametrize("solver", ["sgd", "adam"])
def test_a_memory_mapped_model_learns_and_leaves_its_file_alone(solver, tmp_path):
    model = MLPClassifier(**SETTINGS, solver=solver).fit(X, y)
    loaded = by_memmap(model, tmp_path)
    (path,) = tmp_path.iterdir()
    content = path.read_bytes()
    np.testing.assert_array_equal(loaded.predict_proba(X), model.predict_proba(X))
    for _ in range(2):
        loaded.partial_fit(X, y)
        model.partial_fit(X, y)
    assert weights(loaded) == weights(model)
    assert path.read_bytes() == content
