"""Looking inside: gradients by the features and Hessian products, against central differences, NumPy and PyTorch."""

import doctest

import numpy as np
import pytest
import reference
from scipy.sparse import csr_matrix
from sklearn.exceptions import NotFittedError
from test_losses import GIVEN, targets

from fastmlp import MLPClassifier, MLPRegressor, Network, _core, _inspection
from fastmlp._losses import NUMBER_LOSSES

NORMALIZATIONS = tuple(_core.normalizations())
BLAS_MODES = ["off", "on"]


def random_parameters(network, random, dtype="float64"):
    """Parameters with which no layer is trivial, running statistics included."""
    flat = 0.4 * random.standard_normal(network.n_parameters)
    trained = network.n_trainable
    flat[trained:] = random.uniform(0.5, 2.0, network.n_parameters - trained)
    return flat.astype(dtype)


def one_hot_vectors(n_rows, n_outputs, dtype="float64"):
    return np.ascontiguousarray(np.broadcast_to(np.eye(n_outputs, dtype=dtype), (n_rows, n_outputs, n_outputs)))


def central_differences(function, X, step=1e-5):
    """Derivatives of ``function`` of rows by their features, as its last axis."""
    columns = []
    for k in range(X.shape[1]):
        ahead, behind = X.copy(), X.copy()
        ahead[:, k] += step
        behind[:, k] -= step
        columns.append((function(ahead) - function(behind)) / (2 * step))
    return np.stack(columns, axis=-1)


def assert_close(found, expected, rtol=1e-7):
    assert found.shape == expected.shape
    scale = np.abs(expected).max()
    assert scale > 0
    np.testing.assert_allclose(found, expected, rtol=0, atol=rtol * scale)


def test_the_examples_of_the_documentation():
    results = doctest.testmod(_inspection)
    assert results.attempted > 10
    assert results.failed == 0


# --- the core: gradients by the inputs ----------------------------------------------------------------------------


@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("normalization", NORMALIZATIONS)
def test_input_gradients_of_every_normalization(normalization, residual):
    """Skips with and without a projection; dropout, which predictions know nothing of."""
    random = np.random.RandomState(0)
    sizes, names = (5, 9, 17, 17, 3), ("tanh", "gelu", "softplus")
    network = _core.Network(sizes, names, "squared_error", {}, [normalization] * 3, [0.3] * 4, residual)
    flat, X, engine = random_parameters(network, random), random.standard_normal((37, 5)), engine_of(network)
    found = engine.input_gradient(flat, X, one_hot_vectors(37, 3))
    assert_close(found, central_differences(lambda X: engine.predict(flat, X), X))


def engine_of(network, dtype="float64", n_threads=2):
    return _core.Engine(network, dtype, n_threads)


def test_input_gradients_of_every_activation(activation, dtype, instruction_set):
    net = reference.Net((6, 40, 7, 2), (activation,) * 2, "squared_error")
    random = np.random.RandomState(1)
    flat, X = reference.glorot(net, random) * 2, random.standard_normal((50, 6))
    _, slopes = reference.forward(net, flat, X)
    coefs, _ = reference.unpack(net, flat)
    jacobian = np.broadcast_to(coefs[-1].T, (50, 2, 7))
    for coef, slope in zip(coefs[-2::-1], slopes[-2::-1], strict=True):
        jacobian = jacobian * slope[:, None] @ coef.T
    engine = engine_of(_core.Network(*net), dtype)
    found = engine.input_gradient(flat.astype(dtype), X.astype(dtype), one_hot_vectors(50, 2, dtype))
    assert found.dtype == dtype
    assert_close(found, jacobian, {"float32": 2e-5, "float64": 1e-13}[dtype])


@pytest.mark.parametrize(("normalization", "residual"), [("none", False), ("batch_norm", True), ("layer_norm", True)])
def test_input_gradients_have_the_same_bits_alone_and_with_any_threads(normalization, residual, dtype):
    random = np.random.RandomState(2)
    network = _core.Network((40, 33, 20, 3), ["relu", "silu"], "log_loss", {}, [normalization] * 2, (), residual)
    flat, X = random_parameters(network, random, dtype), random.standard_normal((700, 40)).astype(dtype)
    vectors = random.standard_normal((700, 2, 3)).astype(dtype)
    before = _core.set_steady_threads(True)
    try:
        found = engine_of(network, dtype, 1).input_gradient(flat, X, vectors)
        for n_threads in (2, 3, 7):
            other = engine_of(network, dtype, n_threads).input_gradient(flat, X, vectors)
            assert other.tobytes() == found.tobytes()
    finally:
        _core.set_steady_threads(before)
    for row in (0, 5, 699):
        alone = engine_of(network, dtype).input_gradient(flat, X[[row]], vectors[[row], 1:])
        assert alone.tobytes() == found[row, 1:].tobytes()


@pytest.mark.parametrize("mode", BLAS_MODES)
def test_input_gradients_with_a_blas_and_of_sparse_rows(mode, monkeypatch):
    monkeypatch.setenv("FASTMLP_BLAS", mode)
    random = np.random.RandomState(3)
    net = Network([7, 12, 9, 4], "tanh", "log_loss", random_state=0)
    X = random.standard_normal((300, 7)) * (random.uniform(size=(300, 7)) < 0.4)
    assert_close(net.input_gradient(X), central_differences(net, X))
    model = MLPClassifier((6,), max_iter=3, n_iter_no_change=1, random_state=0).fit(X, np.arange(300) % 3)
    dense, sparse = model.input_gradient(X), model.input_gradient(csr_matrix(X))
    np.testing.assert_allclose(sparse, dense, rtol=1e-12, atol=1e-15)
    if mode == "off":
        np.testing.assert_array_equal(sparse, dense)


def test_input_gradients_need_vectors_for_each_row():
    network = _core.Network((2, 3), (), "squared_error")
    engine, flat, X = engine_of(network), np.zeros(9), np.zeros((4, 2))
    assert engine.input_gradient(flat, X, np.zeros((4, 0, 3))).shape == (4, 0, 2)
    assert engine.input_gradient(flat, X[:0], np.zeros((0, 2, 3))).shape == (0, 2, 2)
    for shape in [(4, 3), (3, 1, 3), (4, 1, 2)]:
        with pytest.raises(ValueError, match=r"vectors must have shape \(4, n, 3\)"):
            engine.input_gradient(flat, X, np.zeros(shape))
    with pytest.raises(TypeError, match="float64"):
        engine.input_gradient(flat, X, np.zeros((4, 1, 3), np.float32))


# --- Network and estimators ---------------------------------------------------------------------------------------

EVERY_LOSS = [*((name, {}) for name in _core.losses()), *GIVEN]


@pytest.mark.parametrize(("loss", "given"), EVERY_LOSS)
def test_input_gradients_of_a_network_with_every_link(loss, given):
    n_outputs = 3 * reference.outputs_per_target(loss, given)
    net = Network([4, 8, n_outputs], "tanh", loss, loss_parameters=given, random_state=0)
    X = np.random.RandomState(0).standard_normal((20, 4))
    found = net.input_gradient(X)
    assert_close(found, central_differences(net, X, 1e-6), 1e-6)
    np.testing.assert_array_equal(net.input_gradient(X, 1), found[:, 1])
    np.testing.assert_array_equal(net.input_gradient(X[3]), found[3])
    np.testing.assert_array_equal(net.input_gradient(X[3], 2), found[3, 2])
    sums = central_differences(lambda X: net.hidden(X, 1) @ net.weights[1].T + net.biases[1], X)
    assert_close(net.input_gradient(X, before_link=True), sums)


@pytest.mark.parametrize("output", [-1, 3, 1.0, "1"])
def test_no_such_output(output):
    with pytest.raises(ValueError, match="output must be an integer between 0 and 2"):
        Network([2, 3], loss="log_loss").input_gradient([0.0, 0.0], output)


def classifier(kind, **settings):
    random = np.random.RandomState(0)
    X = random.standard_normal((60, 4))
    y = {
        "two": np.where(X[:, 0] > 0.2, "yes", "no"),
        "many": np.array([7, 3, 5])[random.randint(3, size=60)],
        "labels": (random.uniform(size=(60, 3)) < 0.5).astype(int),
    }[kind]
    defaults = {"activation": "tanh", "solver": "adam", "max_iter": 5, "n_iter_no_change": 1, "random_state": 0}
    return MLPClassifier((6,), **(defaults | settings)).fit(X, y), X, y


@pytest.mark.parametrize("kind", ["two", "many", "labels"])
@pytest.mark.parametrize("loss", ["log_loss", "focal"])
def test_input_gradients_of_classifiers(kind, loss):
    model, X, _ = classifier(kind, loss=loss)
    for method in ("predict_log_proba", "predict_proba"):
        found = model.input_gradient(X, response_method=method)
        assert_close(found, central_differences(getattr(model, method), X))
    np.testing.assert_array_equal(model.input_gradient(X), model.input_gradient(X, response_method="predict_log_proba"))
    score = central_differences(lambda X: model.transform(X) @ model.coefs_[-1] + model.intercepts_[-1], X)
    expected = np.concatenate([-score, score], axis=1) if kind == "two" else score
    assert_close(model.input_gradient(X, response_method="decision_function"), expected)


@pytest.mark.parametrize("kind", ["two", "many", "labels"])
@pytest.mark.parametrize("method", ["predict_log_proba", "predict_proba", "decision_function"])
def test_the_gradient_of_one_class(kind, method):
    model, X, y = classifier(kind)
    everything = model.input_gradient(X, response_method=method)
    for column, label in enumerate(model.classes_):
        one = model.input_gradient(X, label, response_method=method)
        np.testing.assert_array_equal(one, everything[:, column])
    each = y if y.ndim == 1 else np.arange(60) % 3
    columns = np.searchsorted(model.classes_, each)
    np.testing.assert_array_equal(
        model.input_gradient(X, each, response_method=method), everything[np.arange(60), columns]
    )


def test_probabilities_near_0_and_1_keep_their_digits():
    """The logarithm of 1 - p changes with p, however near to 1 that rounds."""
    net = MLPClassifier((), max_iter=1, n_iter_no_change=1).fit([[0.0], [1.0]], [0, 1])
    net.coefs_, net.intercepts_ = [np.array([[1.0]])], [np.array([0.0])]
    np.testing.assert_allclose(net.input_gradient([[50.0]], 1), [[np.exp(-50)]], rtol=1e-12)
    np.testing.assert_allclose(net.input_gradient([[50.0]], 0), [[-1.0]], rtol=1e-12)
    many = MLPClassifier((), max_iter=1, n_iter_no_change=1).fit([[0.0], [1.0], [2.0]], [0, 1, 2])
    many.coefs_, many.intercepts_ = [np.array([[1.0, 0.0, 0.0]])], [np.zeros(3)]
    np.testing.assert_allclose(many.input_gradient([[50.0]], 0), [[2 * np.exp(-50)]], rtol=1e-12)


@pytest.mark.parametrize(("loss", "given"), [each for each in EVERY_LOSS if each[0] in NUMBER_LOSSES])
@pytest.mark.parametrize("n_targets", [1, 3])
def test_input_gradients_of_regressors(loss, given, n_targets):
    random = np.random.RandomState(0)
    X, y = random.standard_normal((30, 4)), targets(loss, random, 30, n_targets)
    if given.get("power", 0) >= 2:
        y = y + 0.5
    settings = {"activation": "tanh", "max_iter": 3, "n_iter_no_change": 1, "random_state": 0}
    model = MLPRegressor(loss, (6,), loss_parameters=given, **settings).fit(X, y.squeeze())
    found = model.input_gradient(X)
    assert_close(found, central_differences(model.predict, X, 1e-6), 1e-6)
    for target in range(n_targets):
        alone = found if n_targets == 1 else found[:, target]
        np.testing.assert_array_equal(model.input_gradient(X, target), alone)


def test_input_gradients_follow_the_dtype_and_names_of_the_data():
    pandas = pytest.importorskip("pandas")
    model, X, _ = classifier("many", dtype="float32")
    assert model.input_gradient(X).dtype == np.float32
    frame = pandas.DataFrame(X, columns=list("abcd"))
    named = MLPClassifier((3,), max_iter=2, n_iter_no_change=1, random_state=0).fit(frame, np.arange(60) % 2)
    assert named.input_gradient(frame).dtype == np.float64
    with pytest.raises(ValueError, match="feature names"):
        named.input_gradient(frame[list("dcba")])


def test_bad_targets_and_methods():
    model, X, y = classifier("many")
    for target in (4, "7", [7, 3], [[7]], 7.5, {}):
        with pytest.raises(ValueError, match="target must be"):
            model.input_gradient(X, target)
    with pytest.raises(ValueError, match=r"response_method must be one of 'predict_log_proba', .* got 'predict'"):
        model.input_gradient(X, response_method="predict")
    regressor = MLPRegressor(hidden_layer_sizes=(), max_iter=1, n_iter_no_change=1).fit(X, y)
    for target in (-1, 1, 0.0, "0"):
        with pytest.raises(ValueError, match="target must be an integer between 0 and 0"):
            regressor.input_gradient(X, target)
    for unfitted in (MLPClassifier(), MLPRegressor()):
        with pytest.raises(NotFittedError):
            unfitted.input_gradient(X)
    with pytest.raises(ValueError, match="4 features"):
        model.input_gradient(X[:, :3])
