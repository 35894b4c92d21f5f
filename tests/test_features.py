"""Hidden layers as features: against NumPy, under scikit-learn's names, in a Pipeline."""

import numpy as np
import pytest
from reference import ACTIVATIONS
from scipy.sparse import csr_matrix
from sklearn.base import clone
from sklearn.datasets import load_iris
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from fastmlp import MLPClassifier, MLPRegressor

X, y = load_iris(return_X_y=True)
ESTIMATORS = [MLPClassifier, MLPRegressor]
SETTINGS = {
    "hidden_layer_sizes": (6, 3),
    "activation": ["tanh", "softplus"],
    "solver": "lbfgs",
    "max_iter": 9,
    "tol": 1.0,
}


def fitted(estimator, **settings):
    return estimator(**SETTINGS | {"random_state": 0} | settings).fit(X, y)


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_layers_are_those_of_the_network(estimator):
    model = fitted(estimator)
    first = ACTIVATIONS["tanh"](X @ model.coefs_[0] + model.intercepts_[0])[0]
    second = ACTIVATIONS["softplus"](first @ model.coefs_[1] + model.intercepts_[1])[0]
    for layer, expected in {1: first, -2: first, 2: second, -1: second}.items():
        np.testing.assert_allclose(model.transform(X, layer=layer), expected, rtol=1e-10, atol=1e-12)
        np.testing.assert_allclose(model.transform(csr_matrix(X), layer=layer), expected, rtol=1e-10, atol=1e-12)
    np.testing.assert_array_equal(model.transform(X), model.transform(X, layer=2))
    assert model.transform(X.astype(np.float32)).dtype == np.float64  # as predictions: the weights are float64
    assert fitted(estimator, dtype="float32").transform(X).dtype == np.float32


def test_normalised_and_residual_layers_with_dropout():
    """What comes after them is a function of the features alone, and dropout is for training only."""
    settings = {"hidden_layer_sizes": (6, 6), "normalization": "batch_norm", "residual": True, "dropout": 0.5}
    model = fitted(MLPClassifier, **settings, solver="adam", max_iter=3, n_iter_no_change=1)
    z = model.transform(X) @ model.coefs_[-1] + model.intercepts_[-1]
    p = np.exp(z - z.max(axis=1, keepdims=True))
    np.testing.assert_allclose(model.predict_proba(X), p / p.sum(axis=1, keepdims=True), rtol=1e-10)


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_names(estimator):
    model, prefix = fitted(estimator), estimator.__name__.lower()
    assert model.get_feature_names_out().tolist() == [f"{prefix}{i}" for i in range(3)]
    assert model.get_feature_names_out(layer=1).tolist() == [f"{prefix}{i}" for i in range(6)]
    with pytest.raises(ValueError, match="input_features"):
        model.get_feature_names_out(["too", "few"])


@pytest.mark.parametrize("library", ["pandas", "polars"])
def test_data_frames(library):
    pytest.importorskip(library)
    model = fitted(MLPClassifier).set_output(transform=library)
    for layer in (1, 2):
        frame = model.transform(X, layer=layer)
        assert type(frame).__module__.startswith(library)
        assert list(frame.columns) == model.get_feature_names_out(layer=layer).tolist()
        np.testing.assert_array_equal(frame.to_numpy(), fitted(MLPClassifier).transform(X, layer=layer))


def test_data_frames_keep_their_index():
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(X, index=range(7, 7 + len(X)), columns=list("abcd"))
    model = MLPClassifier(**SETTINGS).set_output(transform="pandas").fit(frame, y)
    assert model.transform(frame, layer=1).index.equals(frame.index)


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_a_step_of_a_pipeline(estimator):
    pipeline = make_pipeline(estimator(**SETTINGS, random_state=0), LogisticRegression(max_iter=1000)).fit(X, y)
    alone = fitted(estimator).transform(X)
    np.testing.assert_array_equal(pipeline[:-1].transform(X), alone)
    expected = LogisticRegression(max_iter=1000).fit(alone, y).predict(alone)
    np.testing.assert_array_equal(pipeline.predict(X), expected)
    assert pipeline[:-1].get_feature_names_out().tolist() == [f"{estimator.__name__.lower()}{i}" for i in range(3)]
    assert clone(pipeline).fit(X, y).score(X, y) == pipeline.score(X, y)
    assert make_pipeline(estimator(**SETTINGS, random_state=0)).fit(X, y).transform(X).shape == (len(X), 3)


@pytest.mark.parametrize("layer", [0, 3, -3, 1.0, "1", None])
def test_no_such_layer(layer):
    with pytest.raises(ValueError, match=r"between 1 .* and 2, or between -1 .* and -2; got"):
        fitted(MLPClassifier).transform(X, layer=layer)


def test_no_hidden_layer():
    model = fitted(MLPClassifier, hidden_layer_sizes=(), activation="relu")
    for ask in (lambda: model.transform(X), model.get_feature_names_out):
        with pytest.raises(ValueError, match=r"no hidden layer .* hidden_layer_sizes is empty"):
            ask()


def test_not_fitted():
    for ask in (lambda: MLPClassifier().transform(X), MLPClassifier().get_feature_names_out):
        with pytest.raises(NotFittedError):
            ask()
