"""scikit-learn's own tests of its multilayer perceptrons, run on ours: only the import is changed.

The source is read from the installed scikit-learn, so nothing of it is copied here. Its tests become tests of this
module, with their parametrisation; line numbers in tracebacks are those of the original file.
"""

import importlib.util
import re
from pathlib import Path

import numpy as np
import pytest
import sklearn
from sklearn.preprocessing import LabelBinarizer

import fastmlp
from fastmlp import _core

if not sklearn.__version__.startswith("1.9."):
    pytest.skip(f"written for scikit-learn 1.9, found {sklearn.__version__}", allow_module_level=True)

# What cannot run, why, and the test below that proves the same thing.
EXCEPTED = {
    "test_gradient": "calls the private method _loss_grad_lbfgs; see test_gradient_of_*",
}
ORIGINAL = Path(importlib.util.find_spec("sklearn.neural_network.tests.test_mlp").origin)
SOURCE = ORIGINAL.read_text(encoding="utf-8")
IMPORT = "from sklearn.neural_network import MLPClassifier, MLPRegressor"

suite = {"__name__": __name__}
exec(compile(SOURCE.replace(IMPORT, "from fastmlp import MLPClassifier, MLPRegressor"), ORIGINAL, "exec"), suite)
globals().update({name: test for name, test in suite.items() if name.startswith("test_") and name not in EXCEPTED})


@pytest.fixture
def global_random_seed():
    """The default of the fixture of this name in scikit-learn's own conftest."""
    return 42


def test_the_suite_is_complete_and_about_our_estimators(request):
    functions = set(re.findall(r"^def (test_\w+)", SOURCE, re.MULTILINE))
    collected = {item.originalname for item in request.node.getparent(pytest.Module).collect()}
    assert SOURCE.count(IMPORT) == 1
    assert suite["MLPClassifier"] is fastmlp.MLPClassifier
    assert suite["MLPRegressor"] is fastmlp.MLPRegressor
    assert len(functions) >= 40
    assert functions - collected == EXCEPTED.keys()


# --- the exception: the gradient, by the core's own function and by the class that learners use ----------------------


def central_differences(value, theta, step=1e-5):
    slopes = np.empty_like(theta)
    for i, shift in enumerate(np.eye(theta.size) * step):
        slopes[i] = (value(theta + shift) - value(theta - shift)) / (2 * step)
    return slopes


@pytest.fixture(params=[2, 3], ids=["2 classes", "3 classes"])
def problem(request, activation):
    """The data, settings and fitted weights (flat) of scikit-learn's ``test_gradient``; targets as columns."""
    X = np.random.RandomState(42).rand(5, 10)
    y = 1 + np.arange(1, 6) % request.param
    mlp = fastmlp.MLPClassifier(10, activation, solver="lbfgs", alpha=1e-5, max_iter=1, random_state=1).fit(X, y)
    theta = np.hstack([array.ravel() for array in mlp.coefs_ + mlp.intercepts_])
    network = [10, 10, mlp.n_outputs_], [activation], "binary_log_loss" if request.param == 2 else "log_loss"
    return mlp, network, theta, X, LabelBinarizer().fit_transform(y).astype(float)


ACTIVATIONS = pytest.mark.parametrize("activation", ["identity", "logistic", "tanh", "relu"])


@ACTIVATIONS
def test_gradient_of_a_fitted_classifier(problem):
    """The gradient that L-BFGS is given is the slope of the objective that it is given, penalty included."""
    mlp, network, theta, X, Y = problem
    engine = _core.Engine(_core.Network(*network), "float64")

    def objective(theta):
        loss, penalty, gradient = engine.loss_and_gradient(theta, X, Y, None, mlp.alpha)
        return loss + penalty, np.array(gradient)

    value, gradient = objective(theta)
    assert value == pytest.approx(mlp.loss_, rel=1e-12)
    np.testing.assert_allclose(gradient, central_differences(lambda t: objective(t)[0], theta), rtol=1e-6, atol=1e-9)


@ACTIVATIONS
def test_gradient_of_the_same_network(problem):
    mlp, network, theta, X, Y = problem
    net = fastmlp.Network(*network)
    net.weights, net.biases = [W.T for W in mlp.coefs_], mlp.intercepts_
    np.testing.assert_array_equal(net.parameters, theta)
    assert net.loss(X, Y, alpha=mlp.alpha) == pytest.approx(mlp.loss_, rel=1e-12)

    def value(theta):
        net.parameters = theta
        return net.loss(X, Y, alpha=mlp.alpha)

    weight_gradients, bias_gradients = net.gradient(X, Y, alpha=mlp.alpha)
    gradient = np.hstack([array.ravel() for array in [g.T for g in weight_gradients] + bias_gradients])
    np.testing.assert_allclose(gradient, central_differences(value, theta), rtol=1e-6, atol=1e-9)
