"""Conversions from and to other libraries: the same outputs, and the same gradients as their automatic derivatives."""

import sys
from importlib.util import find_spec

import numpy as np
import pytest
from conftest import WITHOUT_FORMULA
from sklearn import neural_network
from sklearn.exceptions import NotFittedError
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from test_hidden_layers import KINDS, trained
from test_losses import targets

from fastmlp import MLPClassifier, MLPRegressor, Network, _core, export

RANDOM = np.random.RandomState(0)
X = RANDOM.randn(40, 5)
TARGETS = {loss: targets(loss, RANDOM, 40, 3) for loss in _core.losses()}
CLOSE = {"float32": {"rtol": 2e-5, "atol": 2e-6}, "float64": {"rtol": 1e-11, "atol": 1e-13}}


@pytest.fixture
def torch():
    return pytest.importorskip("torch", reason="torch is not installed")


def network(activation, loss, dtype="float64", **parameters):
    n_outputs = 3 * _core.loss_outputs(loss, parameters)[0]
    return Network([5, 7, 6, n_outputs], activation, loss, dtype, random_state=3, loss_parameters=parameters)


# --- PyTorch ----------------------------------------------------------------------------------------------------------


def test_outputs_in_torch(activation, loss, dtype, torch):
    net = network(activation, loss, dtype)
    sequential = export.to_torch(net)
    outputs = sequential(torch.tensor(X, dtype=getattr(torch, dtype)))
    assert str(outputs.dtype) == f"torch.{dtype}"
    np.testing.assert_allclose(outputs.detach(), net(X), **CLOSE[dtype])


def test_there_and_back(activation, loss, dtype, torch):
    net = network(activation, loss, dtype)
    back = export.from_torch(export.to_torch(net))
    np.testing.assert_array_equal(back.parameters, net.parameters)
    losses = {entry["link"]: loss for loss, entry in reversed(_core.losses().items())}  # the first one of each link
    link = net.output_activation if net.output_activation != "sort" else "identity"  # a single quantile
    assert (back.activations, back.loss_name, back.dtype) == (net.activations, losses[link], net.dtype)
    again = export.from_torch(export.to_torch(net, output_activation=False), loss=loss)
    np.testing.assert_array_equal(again(X), net(X))


@pytest.mark.parametrize(
    ("name", "parameters"), [("quantile", {"quantile": [0.1, 0.3, 0.5, 0.9]}), ("gaussian_nll", {"eps": 0.7})]
)
def test_there_and_back_with_hyperparameters(name, parameters, dtype, torch):
    net = network("tanh", name, dtype, **parameters)
    sequential = export.to_torch(net)
    outputs = sequential(torch.tensor(X, dtype=getattr(torch, dtype))).detach()
    np.testing.assert_allclose(outputs, net(X), **CLOSE[dtype])
    back = export.from_torch(sequential)
    assert (back.loss_name, back.loss_parameters) == (name, parameters)
    np.testing.assert_array_equal(back(X), net(X))
    bare = export.to_torch(net, output_activation=False)
    np.testing.assert_array_equal(export.from_torch(bare, name, loss_parameters=parameters)(X), net(X))


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_hidden_layers_with_normalization_and_skips(kind, dtype, torch):
    net = trained(*kind, dtype, loss="log_loss")
    sequential = export.to_torch(net)
    outputs = sequential(torch.tensor(X, dtype=getattr(torch, dtype))).detach()
    np.testing.assert_allclose(outputs, net(X), **CLOSE[dtype])
    back = export.from_torch(sequential)
    assert repr(back) == repr(net)
    np.testing.assert_array_equal(back.parameters, net.parameters)


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_gradients_of_hidden_layers_are_those_of_autograd(kind, torch):
    """In training: with the statistics of the rows."""
    net = trained(*kind, loss="log_loss")
    sequential = export.to_torch(net, output_activation=False).train()
    loss = torch_loss(torch, "log_loss", sequential(torch.tensor(X)), torch.tensor(TARGETS["log_loss"]))
    loss.backward()
    ours, flat = net.loss_and_gradient(X, TARGETS["log_loss"])
    assert ours == pytest.approx(float(loss.detach()), rel=1e-11)
    with torch.no_grad():
        for parameter in sequential.parameters():
            parameter.copy_(parameter.grad)
    theirs = export.from_torch(sequential, "log_loss").parameters  # puts the gradients into our order
    n = net.network.n_trainable
    np.testing.assert_allclose(flat[:n], theirs[:n], rtol=1e-9, atol=1e-13)


def test_norms_and_dropout_from_torch(torch):
    nn = torch.nn
    sequential = nn.Sequential(
        nn.Sequential(nn.Linear(5, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Dropout(0.5)),
        nn.Sequential(nn.Linear(6, 4), nn.LayerNorm(4, elementwise_affine=False), nn.GELU()),
        nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4, bias=False)),
        nn.Sequential(nn.Linear(4, 3), nn.RMSNorm(3, eps=1e-5), nn.SiLU(), nn.Dropout(0.1)),
        nn.Linear(3, 2),
    ).double()
    sequential(torch.tensor(X))  # in training: statistics change
    net = export.from_torch(sequential.eval())
    assert net.normalizations == ("batch_norm", "layer_norm", "layer_norm", "rms_norm")
    np.testing.assert_allclose(net(X), sequential(torch.tensor(X)).detach(), **CLOSE["float64"])


def test_norms_that_are_no_part_of_a_perceptron(torch):
    nn = torch.nn
    linear, last = nn.Linear(4, 4), nn.Linear(4, 1)
    for norm, message in (
        (nn.LayerNorm(4, eps=1e-3), r"module 1 \(LayerNorm.*must have eps=1e-05, one axis"),
        (nn.RMSNorm(4), r"module 1 \(RMSNorm.*must have eps=1e-05, one axis"),
        (nn.LayerNorm((2, 4)), "one axis"),
        (nn.BatchNorm1d(4, track_running_stats=False), "and its running statistics"),
        (nn.LayerNorm(1), r"module 1 \(LayerNorm.*must normalize all 4 units"),
        (nn.Sequential(nn.ReLU(), nn.LayerNorm(4)), r"module 1.1 \(LayerNorm.*as its only normalization"),
        (nn.Sequential(nn.RMSNorm(4, eps=1e-5), nn.LayerNorm(4)), "must follow a Linear layer, as its only norm"),
    ):
        with pytest.raises(TypeError, match=message):
            export.from_torch(nn.Sequential(linear, norm, last))
    with pytest.raises(TypeError, match="the last Linear layer must not be normalized"):
        export.from_torch(nn.Sequential(linear, nn.LayerNorm(4)))
    residual = export.to_torch(trained(None, residual=True))
    with pytest.raises(TypeError, match="a single Residual must hold all Linear layers but the last"):
        export.from_torch(nn.Sequential(*residual, nn.Linear(3, 1)))


def torch_loss(torch, loss, z, y):
    functional, summed = torch.nn.functional, {"reduction": "sum"}

    def focal(p):
        return -((1 - p) ** 2 * torch.log(p)).sum()

    losses = {
        "log_loss": lambda: functional.cross_entropy(z, y, **summed),
        "binary_log_loss": lambda: functional.binary_cross_entropy_with_logits(z, y, **summed),
        "focal": lambda: focal(torch.softmax(z, -1)[y == 1]),
        "binary_focal": lambda: focal(torch.sigmoid(torch.where(y == 1, z, -z))),
        "squared_error": lambda: functional.mse_loss(z, y, **summed) / 2,
        "absolute_error": lambda: functional.l1_loss(z, y, **summed),
        "huber": lambda: functional.huber_loss(z, y, **summed),
        "log_cosh": lambda: torch.log(torch.cosh(z - y)).sum(),
        "quantile": lambda: functional.l1_loss(z, y, **summed) / 2,
        "poisson": lambda: functional.poisson_nll_loss(z, y, **summed) + (torch.xlogy(y, y) - y).sum(),
        "gamma": lambda: (y / torch.exp(z) - torch.log(y) + z - 1).sum(),
        "tweedie": lambda: (-4 * y.sqrt() + 2 * y * torch.exp(-z / 2) + 2 * torch.exp(z / 2)).sum(),
        "gaussian_nll": lambda: functional.gaussian_nll_loss(z[:, ::2], y, torch.exp(z[:, 1::2]) + 1e-6, **summed),
    }
    return losses[loss]() / len(y)


def test_gradients_are_those_of_autograd(activation, loss, torch):
    if loss in WITHOUT_FORMULA:
        pytest.skip(f"{loss!r} is not known here")
    net = network(activation, loss)
    sequential = export.to_torch(net, output_activation=False)
    theirs = torch_loss(torch, loss, sequential(torch.tensor(X)), torch.tensor(TARGETS[loss]))
    theirs.backward()
    weights, biases = net.gradient(X, TARGETS[loss])
    linears = [module for module in sequential if isinstance(module, torch.nn.Linear)]
    assert net.loss(X, TARGETS[loss]) == pytest.approx(float(theirs.detach()), rel=1e-11)
    for linear, weight, bias in zip(linears, weights, biases, strict=True):
        np.testing.assert_allclose(linear.weight.grad, weight, rtol=1e-9, atol=1e-13)
        np.testing.assert_allclose(linear.bias.grad, bias, rtol=1e-9, atol=1e-13)


def test_estimators_in_torch(torch):
    y = np.arange(40) % 3
    for target, answer in ((y, "predict_proba"), (y % 2, "predict_proba"), (X[:, 0], "predict")):
        kind = MLPRegressor if answer == "predict" else MLPClassifier
        model = kind(hidden_layer_sizes=(4,), max_iter=2).fit(X, target)
        outputs = export.to_torch(model)(torch.tensor(X)).detach().numpy()
        expected = getattr(model, answer)(X).reshape(40, -1)
        np.testing.assert_allclose(outputs, expected[:, -outputs.shape[1] :], rtol=1e-12)


def test_softplus_does_not_become_linear_too_early(torch):
    net = Network([1, 1, 1], "softplus", "squared_error")
    net.parameters = [1, 1, 0, 0]
    z = np.linspace(-30, 30, 61)[:, None]
    np.testing.assert_allclose(export.to_torch(net)(torch.tensor(z)).detach(), net(z), rtol=1e-9)


def test_pipelines_are_not_for_torch(torch):
    pipeline = make_pipeline(StandardScaler(), MLPRegressor(max_iter=2)).fit(X, X[:, 0])
    with pytest.raises(TypeError, match=r"to_torch takes the network alone: give it pipeline\[-1\]"):
        export.to_torch(pipeline)


def test_parameters_are_copies(torch):
    net = network("tanh", "squared_error")
    sequential = export.to_torch(net)
    before = net(X)
    with torch.no_grad():
        sequential[0].weight += 1
    np.testing.assert_array_equal(net(X), before)
    back = export.from_torch(sequential)
    back.parameters[:] = 0
    assert float(sequential[0].weight.detach().abs().min()) > 0


def test_nested_modules_dropout_missing_biases_and_half_precision(torch):
    nn = torch.nn
    inner = nn.Sequential(nn.Linear(5, 4, bias=False), nn.Dropout(0.5), nn.Identity())
    sequential = nn.Sequential(nn.Flatten(), inner, nn.ReLU(), nn.Linear(4, 2)).eval()
    net = export.from_torch(sequential)
    assert repr(net) == "Network(5 -> 4 relu -> 2 identity; loss='squared_error', dtype='float32')"
    expected = sequential(torch.tensor(X, dtype=torch.float32)).detach()
    np.testing.assert_allclose(net(X), expected, **CLOSE["float32"])
    np.testing.assert_allclose(export.from_torch(sequential.bfloat16())(X), expected, atol=0.02)


def test_a_module_that_is_used_twice(torch):
    nn = torch.nn
    linear, relu = nn.Linear(5, 5).double(), nn.ReLU()
    sequential = nn.Sequential(linear, relu, linear, relu, linear)
    np.testing.assert_allclose(
        export.from_torch(sequential)(X), sequential(torch.tensor(X)).detach(), **CLOSE["float64"]
    )


def test_modules_that_are_no_perceptron(torch):
    nn = torch.nn
    linear = nn.Linear(2, 2)
    for module, message in (
        (
            nn.Conv1d(1, 1, 1),
            r"module itself \(Conv1d.*not part of a multilayer perceptron; allowed: Sequential, Linear",
        ),
        (nn.Sequential(linear, nn.Sequential(nn.GroupNorm(1, 2))), r"module 1\.0 \(GroupNorm.*LayerNorm.*ReLU\(\)"),
        (nn.Sequential(linear, nn.ReLU(), nn.Tanh()), r"module 2 \(Tanh\(\)\) must follow a Linear layer"),
        (nn.Sequential(nn.ReLU(), linear), r"module 0 \(ReLU\(\)\) must follow a Linear layer"),
        (nn.Sequential(linear, nn.LeakyReLU(0.2), linear), r"must be LeakyReLU\(negative_slope=0.01\)"),
        (nn.Sequential(linear, nn.GELU("tanh"), linear), r"must be GELU\(approximate='none'\)"),
        (nn.Sequential(nn.Flatten()), "no Linear layer"),
    ):
        with pytest.raises(TypeError, match=message):
            export.from_torch(module)
    with pytest.raises(ValueError, match="unknown activation 'softmax'; valid names: 'identity', 'logistic'"):
        export.from_torch(nn.Sequential(linear, nn.Softmax(-1), linear))
    with pytest.raises(ValueError, match="'poisson' has the output activation 'exp', but the last module is 'softmax'"):
        export.from_torch(nn.Sequential(linear, nn.Softmax(-1)), loss="poisson")


# --- TensorFlow -------------------------------------------------------------------------------------------------------


def tensorflow_activation(tf, name, z):
    own = {  # not there, or with constants of 32 bits
        "identity": lambda z: z,
        "logistic": tf.nn.sigmoid,
        "mish": lambda z: z * tf.tanh(tf.nn.softplus(z)),
        "leaky_relu": lambda z: tf.maximum(z, 0.01 * z),
        "gelu": lambda z: z * (1 + tf.math.erf(z * np.sqrt(0.5))) / 2,
    }
    return (own.get(name) or getattr(tf.nn, name))(z)


@pytest.mark.skipif(find_spec("tensorflow") is None, reason="tensorflow is not installed")
@pytest.mark.filterwarnings("ignore")  # of TensorFlow's own imports
def test_gradients_are_those_of_the_gradient_tape(activation):
    import tensorflow as tf

    net, y = network(activation, "log_loss"), TARGETS["log_loss"]
    variables = [tf.Variable(weight.T) for weight in net.weights], [tf.Variable(bias) for bias in net.biases]
    with tf.GradientTape() as tape:
        a = tf.constant(X)
        for layer, (weight, bias) in enumerate(zip(*variables, strict=True)):
            z = a @ weight + bias
            a = tensorflow_activation(tf, activation, z) if layer < 2 else z
        loss = tf.reduce_mean(tf.nn.softmax_cross_entropy_with_logits(y, a))
    weights, biases = net.gradient(X, y)
    theirs = tape.gradient(loss, variables)
    assert net.loss(X, y) == pytest.approx(float(loss), rel=1e-11)
    for given, weight in zip(theirs[0], weights, strict=True):
        np.testing.assert_allclose(given.numpy().T, weight, rtol=1e-9, atol=1e-13)
    for given, bias in zip(theirs[1], biases, strict=True):
        np.testing.assert_allclose(given.numpy(), bias, rtol=1e-9, atol=1e-13)


# --- scikit-learn -----------------------------------------------------------------------------------------------------

LABELS = {
    "three strings": np.array(["a", "b", "c"])[np.arange(40) % 3],
    "two numbers": np.arange(40) % 2,
    "many labels": (RANDOM.rand(40, 3) > 0.5).astype(int),
}


@pytest.mark.parametrize("solver", ["adam", "sgd", "lbfgs"])
@pytest.mark.parametrize("kind", LABELS)
def test_classifiers_from_scikit_learn(kind, solver):
    y = LABELS[kind]
    theirs = neural_network.MLPClassifier((6, 5), "tanh", solver=solver, random_state=0, max_iter=5).fit(X, y)
    ours = export.from_sklearn(theirs)
    assert type(ours) is MLPClassifier
    np.testing.assert_allclose(ours.predict_proba(X), theirs.predict_proba(X), rtol=1e-14, atol=1e-15)
    np.testing.assert_array_equal(ours.predict(X), theirs.predict(X))
    assert ours.get_params().items() >= theirs.get_params().items()
    assert (ours.n_iter_, ours.loss_, ours.n_features_in_) == (theirs.n_iter_, theirs.loss_, theirs.n_features_in_)
    theirs.coefs_[0][:] = 0
    assert ours.coefs_[0].any()


@pytest.mark.parametrize("y", [X[:, 0], X[:, :2]], ids=["one output", "two outputs"])
def test_regressors_from_scikit_learn(y):
    theirs = neural_network.MLPRegressor(hidden_layer_sizes=(6,), random_state=0, max_iter=5).fit(X, y)
    ours = export.from_sklearn(theirs)
    assert type(ours) is MLPRegressor
    np.testing.assert_allclose(ours.predict(X), theirs.predict(X), rtol=1e-14, atol=1e-15)


@pytest.mark.parametrize("learning_rate", ["constant", "invscaling", "adaptive"])
@pytest.mark.parametrize("solver", ["adam", "sgd"])
def test_training_goes_on_where_scikit_learn_stopped(solver, learning_rate):
    y = LABELS["three strings"]
    parameters = {"solver": solver, "learning_rate": learning_rate, "learning_rate_init": 0.1, "random_state": 0}
    theirs = neural_network.MLPClassifier((6,), batch_size=9, max_iter=7, **parameters).fit(X, y)
    ours = export.from_sklearn(theirs)
    for _ in range(3):
        theirs.partial_fit(X, y)
        ours.partial_fit(X, y)
    assert len(ours.loss_curve_) == len(theirs.loss_curve_) == 10  # each has its own
    np.testing.assert_allclose(ours.loss_curve_, theirs.loss_curve_, rtol=1e-10)
    np.testing.assert_allclose(ours.coefs_[0], theirs.coefs_[0], rtol=1e-9)


def test_warm_start_goes_on():
    parameters = {"hidden_layer_sizes": (4,), "random_state": 0, "max_iter": 3, "warm_start": True}
    theirs = neural_network.MLPRegressor(**parameters).fit(X, X[:, 0])
    ours = export.from_sklearn(theirs)
    np.testing.assert_allclose(
        ours.fit(X, X[:, 0]).predict(X), theirs.fit(X, X[:, 0]).predict(X), rtol=1e-9, atol=1e-12
    )


def test_what_is_not_from_scikit_learn():
    with pytest.raises(NotFittedError):
        export.from_sklearn(neural_network.MLPClassifier())
    with pytest.raises(TypeError, match="must be scikit-learn's MLPClassifier or MLPRegressor, got BernoulliRBM"):
        export.from_sklearn(neural_network.BernoulliRBM())


# --- the package ------------------------------------------------------------------------------------------------------


def test_names():
    assert set(export.__all__) <= set(dir(export))
    with pytest.raises(AttributeError, match="no attribute 'to_fortran'; it offers from_sklearn, from_torch"):
        _ = export.to_fortran


def test_missing_torch_is_named(monkeypatch):
    monkeypatch.delitem(sys.modules, "fastmlp.export.pytorch", raising=False)
    monkeypatch.setitem(sys.modules, "torch", None)
    monkeypatch.delitem(vars(export), "to_torch", raising=False)
    with pytest.raises(ImportError, match="pip install torch"):
        _ = export.to_torch


def test_what_is_not_exported_is_refused_by_name():
    """A new activation or link may do without a line in the table; whoever exports it is told so."""
    from fastmlp.export._functions import FUNCTIONS, LINKS, NORMALIZATIONS, function, normalization

    links = {name: entry["link"] for name, entry in _core.losses().items()}
    known = {*_core.activations(), *links.values()}
    demanded = {*_core.activations()} - WITHOUT_FORMULA
    demanded |= {link for loss, link in links.items() if loss not in WITHOUT_FORMULA}
    assert demanded <= {*FUNCTIONS, *LINKS} <= known
    assert NORMALIZATIONS.keys() == _core.normalizations().keys()
    with pytest.raises(NotImplementedError, match="'cubic' cannot be exported yet; normalizations that can: none"):
        normalization("cubic")
    for name in {*known - FUNCTIONS.keys() - LINKS.keys(), "cubic"}:
        with pytest.raises(NotImplementedError, match=f"'{name}' cannot be exported yet; activations that can: .*relu"):
            function(name)
