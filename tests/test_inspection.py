"""Looking inside: gradients by the features and Hessian products, against central differences, NumPy and PyTorch."""

import numpy as np
import pytest
import reference
from scipy.sparse import csr_matrix
from sklearn.exceptions import NotFittedError
from test_losses import GIVEN, targets

from fastmlp import MLPClassifier, MLPRegressor, Network, _core
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


@pytest.mark.parametrize("output_activation", _core.output_activations())
def test_input_gradients_with_every_output_activation(output_activation):
    net = Network([4, 8, 3], "tanh", "squared_error", output_activation=output_activation, random_state=0)
    X = np.random.RandomState(0).standard_normal((20, 4))
    assert_close(net.input_gradient(X), central_differences(net, X, 1e-6), 1e-6)
    np.testing.assert_array_equal(net.input_gradient(X, 1), net.input_gradient(X)[:, 1])
    sums = central_differences(lambda X: net.hidden(X, 1) @ net.weights[1].T + net.biases[1], X)
    assert_close(net.input_gradient(X, before_link=True), sums)
    model = MLPRegressor(hidden_layer_sizes=(8,), output_activation=output_activation, activation="tanh", max_iter=2)
    model.set_params(n_iter_no_change=2, random_state=0).fit(X, X[:, :3])
    assert_close(model.input_gradient(X), central_differences(model.predict, X, 1e-6), 1e-6)


def test_a_loss_of_ones_own():
    """Predictions have gradients; the loss has no second derivatives that anyone told."""

    def loss(y, outputs, sample_weight):
        return 0.5 * np.mean((outputs - y) ** 2), (outputs - y) / len(y)

    X = np.random.RandomState(0).standard_normal((20, 4))
    model = MLPRegressor(loss, (8,), "tanh", output_activation="softplus", max_iter=2, random_state=0)
    model.set_params(n_iter_no_change=2).fit(X, X[:, 0])
    assert_close(model.input_gradient(X), central_differences(model.predict, X))
    with pytest.raises(ValueError, match="a function as the loss has no Hessian"):
        model.hessian_vector_product(X, X[:, 0], np.zeros(49))


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


# --- Hessian-vector products --------------------------------------------------------------------------------------


def derivative_along(gradient, parameters, vector, step=2e-4):
    """Of a gradient along a vector, by central differences of the fourth order."""
    at = [gradient(parameters + i * step * vector) for i in (-2, -1, 1, 2)]
    return (at[0] - 8 * at[1] + 8 * at[2] - at[3]) / (12 * step)


def assert_hessian_vector_product(network, n_rows=41, weighted=True, rtol=1e-8):
    random = np.random.RandomState(3)
    flat = random_parameters(network, random)
    X = random.standard_normal((n_rows, network.layer_sizes[0]))
    n_targets = network.layer_sizes[-1] // _core.loss_outputs(network.loss, network.loss_parameters)[0]
    y = targets(network.loss, random, n_rows, n_targets)
    if network.loss_parameters.get("power", 0) >= 2:
        y = y + 0.5
    weights = random.uniform(0, 2, n_rows) if weighted else None
    vector = random.standard_normal(network.n_parameters)
    trained = np.where(np.arange(len(flat)) < network.n_trainable, vector, 0.0)
    engine = engine_of(network)
    expected = derivative_along(lambda p: engine.loss_and_gradient(p, X, y, weights, 0.3)[2], flat, trained)
    found = _core.hessian_vector_product(network, flat, X, y, weights, 0.3, vector)
    assert_close(found, expected, rtol)


@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("normalization", NORMALIZATIONS)
def test_hessian_products_of_every_normalization(normalization, residual):
    """Skips with and without a projection, statistics of rows and of the batch."""
    network = _core.Network(
        (5, 9, 17, 17, 3), ("tanh", "gelu", "silu"), "log_loss", {}, [normalization] * 3, (), residual
    )
    assert_hessian_vector_product(network)


def test_hessian_products_of_every_activation(activation):
    network = _core.Network((5, 8, 7, 2), [activation] * 2, "squared_error")
    smooth = activation not in ("relu", "leaky_relu", "elu", "selu")  # kinks, which no difference may cross
    if smooth:
        assert_hessian_vector_product(network)
    random = np.random.RandomState(0)
    flat, X, y = random_parameters(network, random), random.standard_normal((9, 5)), random.standard_normal((9, 2))
    vector, engine = random.standard_normal(network.n_parameters), engine_of(network)
    near = derivative_along(lambda p: engine.loss_and_gradient(p, X, y, None, 0.0)[2], flat, vector, 1e-6)
    assert_close(_core.hessian_vector_product(network, flat, X, y, None, 0.0, vector), near, 1e-7)


@pytest.mark.parametrize(("loss", "given"), EVERY_LOSS)
def test_hessian_products_of_every_loss(loss, given):
    n_outputs = 3 * reference.outputs_per_target(loss, given)
    network = _core.Network((5, 6, n_outputs), ["tanh"], loss, given)
    if loss in ("huber", "absolute_error", "quantile"):  # kinks again: among few rows there is none nearby
        assert_hessian_vector_product(network, n_rows=6, rtol=1e-6)
    else:
        assert_hessian_vector_product(network)


@pytest.mark.parametrize("output_activation", ["softplus", "tanh", "gelu"])
def test_hessian_products_with_an_output_activation(output_activation):
    network = _core.Network((5, 6, 3), ["tanh"], "log_cosh", {}, (), (), False, output_activation)
    assert_hessian_vector_product(network)


def test_the_hessian_is_symmetric_and_linear():
    network = _core.Network((4, 6, 6, 3), ["mish", "tanh"], "focal", {}, ["batch_norm"] * 2, (), True)
    random = np.random.RandomState(0)
    flat, X, y = random_parameters(network, random), random.standard_normal((30, 4)), np.eye(3)[np.arange(30) % 3]
    hessian = np.array(
        [_core.hessian_vector_product(network, flat, X, y, None, 0.1, v) for v in np.eye(network.n_parameters)]
    )
    assert_close(hessian, hessian.T.copy(), 1e-12)
    vector = random.standard_normal(network.n_parameters)
    assert_close(_core.hessian_vector_product(network, flat, X, y, None, 0.1, vector), hessian @ vector, 1e-12)
    assert not hessian[network.n_trainable :].any()


@pytest.mark.parametrize("normalization", ["none", "batch_norm"])
def test_hessian_products_have_the_same_bits_with_any_threads(normalization):
    """More rows than are taken at once; class numbers and sparse features say the same as one-hot and dense ones."""
    network = _core.Network((30, 300, 20, 4), ["tanh", "relu"], "log_loss", {}, [normalization] * 2, (), True)
    random = np.random.RandomState(0)
    flat, vector = random_parameters(network, random), random.standard_normal(network.n_parameters)
    X = random.standard_normal((333, 30)) * (random.uniform(size=(333, 30)) < 0.5)
    labels = random.randint(4, size=333).astype(np.int32)
    before = _core.set_steady_threads(True)
    try:
        found = {
            _core.hessian_vector_product(network, flat, X, labels, None, 0.1, vector, n_threads).tobytes()
            for n_threads in (1, 2, 3, 7)
        }
    finally:
        _core.set_steady_threads(before)
    csr = csr_matrix(X)
    parts = csr.data, csr.indices.astype(np.int32), csr.indptr.astype(np.int64), 30
    found.add(_core.hessian_vector_product(network, flat, parts, np.eye(4)[labels], None, 0.1, vector).tobytes())
    assert len(found) == 1
    halves = [
        _core.hessian_vector_product(network, flat, X[part], labels[part], None, 0.0, vector)
        for part in (slice(166), slice(166, 333))
    ]
    if normalization == "none":
        whole = _core.hessian_vector_product(network, flat, X, labels, None, 0.0, vector)
        assert_close(whole, (166 * halves[0] + 167 * halves[1]) / 333, 1e-12)


def test_hessian_products_of_a_network_in_float32_are_float64():
    wide = Network([3, 5, 2], "tanh", "log_loss", random_state=0)
    narrow = Network([3, 5, 2], "tanh", "log_loss", dtype="float32")
    narrow.parameters = wide.parameters
    wide.parameters = narrow.parameters
    X, y = np.eye(3), [0, 1, 1]
    vector, weights = np.arange(wide.n_parameters), [1.0, 2.0, 0.5]
    found = narrow.hessian_vector_product(X, y, vector, weights, alpha=0.5)
    assert found.dtype == np.float64
    np.testing.assert_array_equal(found, wide.hessian_vector_product(X, y, vector, weights, alpha=0.5))
    for bad in (vector[1:], vector[None], np.r_[vector[1:], np.nan]):
        with pytest.raises(ValueError, match="vector"):
            wide.hessian_vector_product(X, y, bad)
    assert not wide.hessian_vector_product(X, y, vector, [0.0, 0.0, 0.0]).any()


@pytest.mark.parametrize("kind", ["two", "many", "labels"])
@pytest.mark.parametrize("class_weight", [None, "balanced"])
def test_hessian_products_of_classifiers(kind, class_weight):
    """The derivative of a gradient that a step of plain gradient descent takes."""
    model, X, y = classifier(kind, class_weight=class_weight, alpha=0.2, normalization="layer_norm", warm_start=True)
    weights = np.linspace(0.5, 2, 60)
    network, flat, data = model._checked_targets(X, y, weights)
    vector = np.random.RandomState(1).standard_normal(network.n_parameters)
    gradient = derivative_along(
        lambda p: engine_of(network).loss_and_gradient(p, data.X, data.y, data.sample_weight, 0.2)[2], flat, vector
    )
    state = model.__getstate__()
    assert_close(model.hessian_vector_product(X, y, vector, weights), gradient, 1e-8)
    assert model.__getstate__().keys() == state.keys()
    few = y[:7] if kind == "labels" else np.repeat(y[:1], 7)  # rows of a single class, as partial_fit would take them
    assert np.isfinite(model.hessian_vector_product(X[:7], few, vector)).all()


def test_hessian_products_of_regressors_and_bad_input():
    model, X, _ = classifier("many")
    regressor = MLPRegressor(hidden_layer_sizes=(), alpha=0.6, max_iter=1, n_iter_no_change=1).fit(X, X[:, :2])
    vector, inputs = np.arange(10.0), np.c_[X, np.ones(60)]
    by_output = np.vstack([vector[:8].reshape(4, 2), vector[8:]])
    expected = inputs.T @ inputs @ by_output / 60  # a linear model
    expected[:4] += 0.6 / 60 * by_output[:4]
    assert_close(regressor.hessian_vector_product(X, X[:, :2], vector), expected.ravel(), 1e-12)
    for y in (X[:, 0], X[:, :3]):
        with pytest.raises(ValueError, match=r"y must have shape \(60, 2\)"):
            regressor.hessian_vector_product(X, y, vector)
    with pytest.raises(ValueError, match=r"vector must have shape \(10,\), got \(9,\)"):
        regressor.hessian_vector_product(X, X[:, :2], vector[1:])
    with pytest.raises(ValueError, match="classes that fit has not seen"):
        model.hessian_vector_product(X, np.arange(60), vector)
    with pytest.raises(NotFittedError):
        MLPRegressor().hessian_vector_product(X, X[:, 0], vector)


# --- PyTorch ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("normalization", ["none", "batch_norm", "layer_norm"])
def test_against_pytorch(normalization):
    """Both, by its automatic differentiation, with a skip."""
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    sizes = (6, 8, 8, 3)
    network = _core.Network(sizes, ["tanh", "softplus"], "log_loss", {}, [normalization] * 2, (), True)
    random = np.random.RandomState(0)
    flat, vector = random_parameters(network, random), random.standard_normal(network.n_parameters)
    X, labels = random.standard_normal((20, 6)), random.randint(3, size=20).astype(np.int32)

    def sums(parameters, X, training):
        def array(kind, layer, *shape):
            start = network.offsets[kind][layer]
            return parameters[start : start + int(np.prod(shape))].reshape(shape)

        units, below = X, None
        for layer, activation in enumerate([torch.tanh, torch.nn.functional.softplus, None]):
            fan_in, fan_out = sizes[layer : layer + 2]
            z = units @ array("coefs", layer, fan_in, fan_out) + array("intercepts", layer, fan_out)
            if activation is None:
                break
            if below is not None:
                z = z + below
            below = units = z
            if normalization != "none":
                scale, offset = array("scales", layer, fan_out), array("offsets", layer, fan_out)
                if normalization == "layer_norm":
                    units = torch.nn.functional.layer_norm(z, (fan_out,), scale, offset)
                else:
                    averages = array("running_means", layer, fan_out), array("running_variances", layer, fan_out)
                    averages = [each.detach().clone() for each in averages]
                    units = torch.nn.functional.batch_norm(z, *averages, scale, offset, training)
            units = activation(units)
        return z

    def loss(parameters):
        z = sums(parameters, torch.tensor(X), True)
        return torch.nn.functional.cross_entropy(z, torch.tensor(labels, dtype=torch.int64))

    parameters, rows = torch.tensor(flat), torch.tensor(X)
    jacobian = torch.autograd.functional.jacobian(lambda X: sums(parameters, X, False).sum(0), rows)
    found = engine_of(network).input_gradient(flat, X, one_hot_vectors(20, 3))
    assert_close(found, jacobian.numpy().transpose(1, 0, 2), 1e-13)
    product = torch.autograd.functional.hvp(loss, parameters, torch.tensor(vector))[1].numpy()
    assert_close(_core.hessian_vector_product(network, flat, X, labels, None, 0.0, vector), product, 1e-12)
