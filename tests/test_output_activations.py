"""An activation of the output layer before the loss: values, gradients, predictions, files and exports."""

import ctypes
import importlib.util
import pickle
import subprocess

import numpy as np
import pytest
import reference
from sklearn.base import clone
from test_custom_losses import mean_of
from test_engine import SHAPES, TOLERANCE, assert_gradients_match, problem, sparse
from test_export_c import COMPILER, STRICT, needs_compiler

import fastmlp
from fastmlp import MLPClassifier, MLPRegressor, Network, _core
from fastmlp._losses import OPEN_LOSSES
from fastmlp.export import to_c, to_onnx
from fastmlp.export._model import read_model
from fastmlp.predictor import Predictor

FUNCTIONS = {**reference.ACTIVATIONS, "exp": lambda z: (np.exp(z), np.exp(z))}
OUTPUTS = list(_core.output_activations())
RANDOM = np.random.RandomState(0)
X = RANDOM.randn(90, 5)
Y = 0.4 + 0.2 * np.tanh(X[:, :3])  # a number that every one of them can reach
FAST = {"hidden_layer_sizes": (8, 6), "max_iter": 6, "batch_size": 32, "learning_rate_init": 0.01, "random_state": 0}


def network_of(net, output):
    return _core.Network(*net, (), (), False, output)


def oracle(net, output, flat, X, y, weights, alpha):
    """Predictions, loss, penalty and gradient: the oracle's network, whose last layer is taken for a hidden one."""
    (coefs, _), (layers, slopes) = reference.unpack(net, flat), reference.forward(net, flat, X)
    predictions, slopes[-1] = FUNCTIONS[output](layers[-1])
    _, losses, delta = reference.LOSSES[net.loss](predictions, y, **net.loss_parameters)
    share = weights / weights.sum()
    delta = delta * share[:, None]
    by_coefs, by_intercepts = [], []
    for layer in reversed(range(len(coefs))):
        delta = delta * slopes[layer]
        by_coefs.insert(0, layers[layer].T @ delta + alpha / weights.sum() * coefs[layer])
        by_intercepts.insert(0, delta.sum(axis=0))
        delta = delta @ coefs[layer].T
    penalty = 0.5 * alpha / weights.sum() * sum((coef**2).sum() for coef in coefs)
    return predictions, share @ losses, penalty, reference.pack(by_coefs, by_intercepts)


def test_the_catalogue_holds_those_of_hidden_layers_and_more():
    assert [*_core.activations(), "exp"] == OUTPUTS
    with pytest.raises(ValueError, match="unknown activation 'exp'; valid names: 'identity'"):
        _core.Network([2, 3, 1], ["exp"], "squared_error")
    with pytest.raises(ValueError, match="activation"):
        MLPRegressor(activation="exp").fit(X, Y)


def test_exp(dtype, instruction_set):
    z = np.linspace(-80, 80, 401).astype(dtype)
    value, slope = _core.apply_activation("exp", z)
    np.testing.assert_allclose(value, np.exp(z.astype(float)), rtol=4 * np.finfo(dtype).eps)
    np.testing.assert_array_equal(slope, value)
    far = _core.apply_activation("exp", np.array([-1e4, 1e4, np.nan], dtype))[0]
    np.testing.assert_array_equal(far, [0, np.inf, np.nan])


@pytest.mark.parametrize("output", OUTPUTS)
def test_predictions_loss_and_every_gradient(output, dtype, instruction_set):
    for loss, (n, layer_sizes) in zip(4 * OPEN_LOSSES, SHAPES, strict=False):
        net, flat, rows, y, weights = problem(n, layer_sizes, "tanh", loss, dtype)
        engine = _core.Engine(network_of(net, output), dtype, 1)
        predictions, *expected = oracle(net, output, *(a.astype(float) for a in (flat, rows, y, weights)), 0.3)
        tolerance = TOLERANCE[dtype]
        np.testing.assert_allclose(engine.predict(flat, rows), predictions, rtol=tolerance, atol=tolerance)
        value, penalty, gradient = engine.loss_and_gradient(flat, rows, y, weights, 0.3)
        np.testing.assert_allclose([value, penalty], expected[:2], rtol=tolerance, atol=tolerance)
        assert_gradients_match(net, gradient, expected[2], tolerance)


@pytest.mark.parametrize("output", OUTPUTS)
def test_gradient_is_the_central_difference(output, instruction_set):
    net, flat, rows, y, weights = problem(9, (3, 4, 2), "tanh", "squared_error")
    engine, h = _core.Engine(network_of(net, output), "float64", 1), 1e-5
    gradient = engine.loss_and_gradient(flat, rows, y, weights, 0.5)[2]
    difference = np.empty_like(flat)
    for i in range(flat.size):
        steps = [flat + way * h * (np.arange(flat.size) == i) for way in (1, -1)]
        above, below = (sum(engine.loss_and_gradient(each, rows, y, weights, 0.5)[:2]) for each in steps)
        difference[i] = (above - below) / (2 * h)
    assert_gradients_match(net, gradient, difference, 1e-6)


@pytest.mark.parametrize("layer_sizes", [(5, 2), (5, 8, 17)])
@pytest.mark.parametrize("output", OUTPUTS)
def test_a_row_has_the_same_bits_however_it_comes(output, layer_sizes, dtype, instruction_set):
    net, flat, rows, _, _ = problem(40, layer_sizes, "tanh", "squared_error", dtype)
    rows, as_sparse = sparse(rows)
    network = network_of(net, output)
    batch = _core.Engine(network, dtype, 2).predict(flat, rows)
    close = {"rtol": TOLERANCE[dtype], "atol": TOLERANCE[dtype]}
    np.testing.assert_allclose(_core.Engine(network, dtype, 1).predict(flat, as_sparse), batch, **close)
    compiled = _core.Predictor(network, flat)
    np.testing.assert_array_equal(compiled(rows), batch)
    for i in (0, 3, 39):
        np.testing.assert_array_equal(_core.predict(network, flat, rows[i : i + 1]), batch[i : i + 1])
        np.testing.assert_array_equal(compiled(rows[i]), batch[i])


@pytest.mark.parametrize("output", OUTPUTS)
def test_sparse_rows_teach_the_same(output, dtype):
    net, flat, rows, y, weights = problem(40, (30, 17), "tanh", "squared_error", dtype)
    rows, as_sparse = sparse(rows)
    engine = _core.Engine(network_of(net, output), dtype, 2)
    dense, found = (engine.loss_and_gradient(flat, data, y, weights, 0.1) for data in (rows, as_sparse))
    np.testing.assert_allclose(found[0], dense[0], rtol=TOLERANCE[dtype])
    assert_gradients_match(net, found[2], dense[2], TOLERANCE[dtype])


# --- estimators ------------------------------------------------------------------------------------------------------

CHANGES = [{}, {"solver": "lbfgs"}, {"normalization": "batch_norm", "residual": True}, {"dtype": "float32"}]


@pytest.mark.parametrize(("output", "change"), [*zip(OUTPUTS, 3 * CHANGES, strict=True)], ids=str)
def test_a_custom_loss_sees_the_activated_outputs(output, change):
    settings = FAST | {"output_activation": output} | change

    def loss(y, outputs, sample_weight):
        value, gradient = mean_of("squared_error", y, outputs, sample_weight)
        return value / 3, gradient

    theirs = MLPRegressor(**settings).fit(X, Y)
    if "solver" in change:
        loss = lambda *batch: mean_of("squared_error", *batch)  # noqa: E731
    ours = MLPRegressor(loss, **settings).fit(X, Y)
    close = 1e-4 if "dtype" in change else 1e-9
    np.testing.assert_allclose(ours.coefs_[-1], theirs.coefs_[-1], rtol=close, atol=close)
    np.testing.assert_allclose(ours.predict(X), theirs.predict(X), rtol=close, atol=close)
    assert ours.out_activation_ == theirs.out_activation_ == output


@pytest.mark.parametrize("loss", OPEN_LOSSES)
def test_it_has_an_effect_and_its_range(loss):
    fits = {output: MLPRegressor(loss, **FAST, output_activation=output).fit(X, 20 * Y - 8) for output in OUTPUTS}
    assert len({model.coefs_[0].tobytes() for model in fits.values()}) == len(OUTPUTS)
    assert all((fits[output].predict(10 * X) >= 0).all() for output in ("exp", "softplus", "relu", "logistic"))
    assert fits["logistic"].predict(10 * X).max() <= 1
    plain = MLPRegressor(loss, **FAST).fit(X, 20 * Y - 8)
    assert plain.coefs_[0].tobytes() == fits["identity"].coefs_[0].tobytes()
    assert plain.out_activation_ == "identity"


def test_exponential_growth_is_learned():
    t = np.linspace(0, 5, 200)[:, None]
    y = 3 * np.exp(-t[:, 0])
    model = MLPRegressor(hidden_layer_sizes=(), solver="lbfgs", output_activation="exp", alpha=0, tol=1e-10).fit(t, y)
    np.testing.assert_allclose([model.coefs_[0][0, 0], model.intercepts_[0][0]], [-1, np.log(3)], rtol=1e-5)
    assert model.score(t, y) > 0.999999


def test_early_stopping_validates_what_it_predicts():
    model = MLPRegressor(**FAST, output_activation="logistic", early_stopping=True, tol=0).fit(X, Y)
    assert model.best_validation_score_ == max(model.validation_scores_)


REFUSED = [
    (MLPRegressor, {"loss": "poisson", "output_activation": "tanh"}, "loss='poisson' has the output activation 'exp': "
     "output_activation must be None or 'exp', got 'tanh'. Losses that take any activation: 'squared_error', "),
    (MLPRegressor, {"loss": "quantile", "output_activation": "softplus"}, "must be None or 'sort', got 'softplus'"),
    (MLPRegressor, {"output_activation": "softmax"}, r"with loss='squared_error', output_activation must be None or "
     r"one of 'identity', .*'exp'; got 'softmax'|'output_activation' parameter of MLPRegressor must be"),
    (MLPRegressor, {"output_activation": "sort"}, "output_activation must be None or one of 'identity', "),
    (MLPRegressor, {"output_activation": "nope"}, "'output_activation' parameter of MLPRegressor must be"),
    (MLPRegressor, {"output_activation": 3}, "'output_activation' parameter of MLPRegressor must be"),
    (MLPClassifier, {"output_activation": "logistic"}, "for multiclass targets output_activation must be None or "
     "'softmax', got 'logistic'"),
    (MLPClassifier, {"output_activation": "tanh", "loss": "focal"}, "must be None or 'softmax', got 'tanh'"),
]  # fmt: skip


@pytest.mark.parametrize(("estimator", "parameters", "message"), REFUSED)
def test_refused(estimator, parameters, message):
    y = Y if estimator is MLPRegressor else np.arange(90) % 3
    with pytest.raises(ValueError, match=message):
        estimator(**FAST, **parameters).fit(X, y)


def test_the_link_of_a_loss_may_be_named():
    for loss, output in (("poisson", "exp"), ("squared_error", "identity"), ("quantile", "sort")):
        named = MLPRegressor(loss, **FAST, output_activation=output).fit(X, Y)
        assert named.coefs_[0].tobytes() == MLPRegressor(loss, **FAST).fit(X, Y).coefs_[0].tobytes()
        assert named.out_activation_ == output
    for output, y in (("softmax", np.arange(90) % 3), ("logistic", np.arange(90) % 2)):
        assert MLPClassifier(**FAST, output_activation=output).fit(X, y).out_activation_ == output
    with pytest.raises(ValueError, match="for binary targets output_activation must be None or 'logistic'"):
        MLPClassifier(**FAST, output_activation="softmax").fit(X, np.arange(90) % 2)


def test_a_fitted_network_keeps_its_own():
    model = MLPRegressor(**FAST, output_activation="softplus", warm_start=True).fit(X, Y)
    model.set_params(output_activation=None).fit(X, Y)
    assert model.out_activation_ == "softplus"
    with pytest.raises(ValueError, match="'softplus': output_activation must be None or that, got 'tanh'"):
        model.set_params(output_activation="tanh").fit(X, Y)
    with pytest.raises(ValueError, match="'softplus', which loss='poisson' does not have: fit anew"):
        model.set_params(output_activation=None, loss="poisson").fit(X, Y)
    with pytest.raises(ValueError, match="'softplus', which loss='poisson' does not have"):
        model.partial_fit(X, Y)
    model.set_params(loss="huber").fit(X, Y)
    assert model.out_activation_ == "softplus"
    assert model.set_params(warm_start=False, loss="poisson").fit(X, Y).out_activation_ == "exp"


@pytest.mark.parametrize("output", OUTPUTS)
def test_derivatives_of_predictions_and_of_the_loss(output):
    settings = FAST | {"activation": "tanh", "output_activation": output}
    model, h = MLPRegressor(**settings).fit(X, Y), 1e-6
    gradient = model.input_gradient(X)
    for feature, step in enumerate(h * np.eye(5)):
        difference = (model.predict(X + step) - model.predict(X - step)) / (2 * h)
        np.testing.assert_allclose(gradient[:, :, feature], difference, rtol=1e-5, atol=1e-8)
    network = Network((5, 4, 3), "tanh", "squared_error", random_state=0, output_activation=output)
    by_inputs, by_sums = (network.input_gradient(X, before_link=before) for before in (False, True))
    z = X @ network.weights[0].T + network.biases[0]
    slopes = FUNCTIONS[output](np.tanh(z) @ network.weights[1].T + network.biases[1])[1]
    np.testing.assert_allclose(by_inputs, slopes[:, :, None] * by_sums, rtol=1e-10, atol=1e-12)
    vector, parameters = np.random.RandomState(1).randn(network.n_parameters), network.parameters.copy()
    product = network.hessian_vector_product(X, Y, vector)
    gradients = []
    for way in (h, -h):
        network.parameters = parameters + way * vector
        gradients.append(network.loss_and_gradient(X, Y)[1])
    np.testing.assert_allclose(product, (gradients[0] - gradients[1]) / (2 * h), rtol=1e-5, atol=1e-7)


# --- copies, files and exports ---------------------------------------------------------------------------------------

MODELS = {output: MLPRegressor(**FAST, output_activation=output).fit(X, 3 * Y - 1) for output in OUTPUTS}


@pytest.mark.parametrize("output", OUTPUTS)
def test_copies_and_files(output, tmp_path):
    model, path = MODELS[output], tmp_path / "model.safetensors"
    predictions = model.predict(X)
    predictor = model.compile()
    assert predictor.out_activation_ == output
    assert f"3 {output}; " in repr(predictor)
    model.save(path)
    copies = [predictor, pickle.loads(pickle.dumps(predictor)), fastmlp.load(path)]
    assert clone(model).output_activation == output
    for copy in [*copies, MLPRegressor.load(path).predict, pickle.loads(pickle.dumps(model)).predict]:
        np.testing.assert_array_equal(copy(X), predictions)
    loaded = MLPRegressor.load(path)
    assert loaded.out_activation_ == output
    assert loaded.partial_fit(X, Y).n_iter_ == 1


@pytest.mark.parametrize("output", OUTPUTS)
@pytest.mark.skipif(importlib.util.find_spec("onnxruntime") is None, reason="onnxruntime is not installed")
def test_onnx(output):
    runtime = pytest.importorskip("onnxruntime")
    session = runtime.InferenceSession(to_onnx(MODELS[output]).SerializeToString(), providers=["CPUExecutionProvider"])
    np.testing.assert_allclose(session.run(None, {"X": X})[0], MODELS[output].predict(X), rtol=1e-11, atol=1e-12)


@needs_compiler
def test_c(tmp_path):
    for output, model in MODELS.items():
        to_c(model, tmp_path / f"{output}.c", name=f"o_{output}")
    together = tmp_path / "together.c"
    together.write_text("".join(f'#include "{output}.c"\n' for output in MODELS))
    subprocess.run(
        [COMPILER, *STRICT, "-O2", "-shared", "-fPIC", together, "-o", tmp_path / "all.so", "-lm"], check=True
    )
    library = ctypes.CDLL(tmp_path / "all.so")
    rows, found = X.astype(np.float32), np.empty(3, np.float32)
    for output, model in MODELS.items():
        for row, wanted in zip(rows, model.predict(rows), strict=True):
            library[f"o_{output}_predict"](ctypes.c_void_p(row.ctypes.data), ctypes.c_void_p(found.ctypes.data))
            np.testing.assert_allclose(found, wanted, rtol=2e-5, atol=2e-6, err_msg=output)


@pytest.mark.parametrize("output", OUTPUTS)
def test_what_exports_read(output):
    """The network on which the error of 8 bits is measured."""
    network = read_model(MODELS[output]).network()
    assert network.output_activation == output
    np.testing.assert_array_equal(network(X), MODELS[output].predict(X))
    to_c(MODELS[output], weights="int8", calibration=X, max_error=0.3)


@pytest.mark.parametrize("output", OUTPUTS)
def test_pytorch(output):
    torch = pytest.importorskip("torch", reason="torch is not installed")
    from fastmlp.export import from_torch, to_torch

    module = to_torch(MODELS[output])
    with torch.no_grad():
        found = module(torch.tensor(X)).numpy()
    np.testing.assert_allclose(found, MODELS[output].predict(X), rtol=1e-10, atol=1e-12)
    back = from_torch(module, loss="squared_error")
    assert back.output_activation == output
    np.testing.assert_allclose(back(X), MODELS[output].predict(X), rtol=1e-12, atol=1e-14)


def test_the_bare_network():
    network = Network([2, 3, 1], loss="squared_error", output_activation="softplus", random_state=0)
    assert network.output_activation == "softplus"
    assert "1 softplus; " in repr(network)
    plain = Network([2, 3, 1], loss="squared_error", random_state=0)
    np.testing.assert_allclose(network([1, -1]), np.log1p(np.exp(plain([1, -1]))), rtol=1e-14)
    assert Network([2, 1], loss="log_loss").output_activation == "softmax"
    with pytest.raises(ValueError, match="output_activation must be None or 'softmax', got 'tanh'"):
        Network([2, 1], loss="log_loss", output_activation="tanh")


def test_predictors_and_the_core_refuse_two_output_activations():
    with pytest.raises(ValueError, match="'poisson' has the output activation 'exp' and takes no other, got 'tanh'"):
        _core.Network([2, 1], [], "poisson", output_activation="tanh")
    with pytest.raises(ValueError, match="loss 'log_loss' has the output activation 'softmax' and takes no other"):
        Predictor(np.zeros(6), (2, 2), (), "log_loss", "multiclass", ["a", "b"], output_activation="relu")
    with pytest.raises(ValueError, match="output_activation"):
        Predictor(np.zeros(3), (2, 1), (), "squared_error", "continuous", output_activation="nope")
