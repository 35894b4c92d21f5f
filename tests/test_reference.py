"""The oracle has an oracle: central differences, and scikit-learn's private multilayer perceptron."""

import numpy as np
import pytest
import reference
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.neural_network._stochastic_optimizers import AdamOptimizer, SGDOptimizer
from test_losses import targets


def central_difference(f, x, h=1e-5):
    """Slope of a scalar function of a vector, one element at a time."""
    return np.array([(f(x + step) - f(x - step)) / (2 * h) for step in h * np.eye(x.size)])


@pytest.mark.parametrize("name", reference.ACTIVATIONS)
def test_slope_of_every_activation(name):
    z, h = np.linspace(-9, 9, 200), 1e-5  # 200 points straddle the kink at 0
    slope = (reference.ACTIVATIONS[name](z + h)[0] - reference.ACTIVATIONS[name](z - h)[0]) / (2 * h)
    np.testing.assert_allclose(reference.ACTIVATIONS[name](z)[1], slope, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("name", reference.LOSSES)
def test_gradient_of_every_loss(name):
    random = np.random.RandomState(0)
    z, y = random.randn(4), targets(name, random, 1, 4 // reference.outputs_per_target(name, {}))
    gradient = central_difference(lambda z: reference.LOSSES[name](z[None], y)[1][0], z)
    np.testing.assert_allclose(reference.LOSSES[name](z[None], y)[2][0], gradient, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("loss", reference.LOSSES)
@pytest.mark.parametrize("activation", reference.ACTIVATIONS)
def test_gradient_of_a_network(activation, loss):
    net = reference.Net((3, 4, 2, 2 * reference.outputs_per_target(loss, {})), (activation, activation), loss)
    random = np.random.RandomState(1)
    X, y, weights = random.randn(5, 3), targets(loss, random, 5, 2), random.rand(5) + 0.1
    flat = reference.glorot(net, random)
    gradient = reference.loss_and_gradient(net, flat, X, y, weights, alpha=0.5)[2]
    slope = central_difference(lambda w: sum(reference.loss_and_gradient(net, w, X, y, weights, 0.5)[:2]), flat)
    np.testing.assert_allclose(gradient, slope, rtol=1e-6, atol=1e-8)


CASES = [
    (MLPClassifier, "log_loss", "softmax", 3),
    (MLPClassifier, "log_loss", "logistic", 1),
    (MLPRegressor, "squared_error", "identity", 1),
    (MLPRegressor, "poisson", "exp", 2),
]


@pytest.mark.parametrize("activation", ["identity", "logistic", "tanh", "relu"])
@pytest.mark.parametrize(("estimator", "loss", "link", "n_outputs"), CASES)
@pytest.mark.parametrize("weighted", [False, True])
def test_loss_and_gradient_are_scikit_learns(estimator, loss, link, n_outputs, activation, weighted):
    net = reference.Net((4, 5, n_outputs), (activation,), "binary_log_loss" if link == "logistic" else loss)
    random = np.random.RandomState(2)
    flat, X, y = reference.glorot(net, random), random.randn(7, 4), random.randint(2, size=(7, n_outputs)) * 1.0
    if link == "softmax":
        y = np.eye(n_outputs)[random.randint(n_outputs, size=7)]
    sample_weight = random.rand(7) if weighted else None
    model = estimator(activation=activation, alpha=0.3)
    model.loss, model.out_activation_, model.n_layers_, model.n_outputs_ = loss, link, 3, n_outputs
    model.coefs_, model.intercepts_ = reference.unpack(net, flat)
    expected, *gradients = model._backprop(X, y, sample_weight, [X, None, None], [None] * 2, [None] * 2, [None] * 2)
    value, penalty, gradient = reference.loss_and_gradient(net, flat, X, y, sample_weight, alpha=0.3)
    np.testing.assert_allclose(value + penalty, expected, rtol=1e-13)
    np.testing.assert_allclose(gradient, reference.pack(*gradients), rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize(
    ("name", "hyperparameters", "peer"),
    [
        ("sgd", {"momentum": 0.8, "nesterov": 0}, lambda w: SGDOptimizer([w], 0.1, momentum=0.8, nesterov=False)),
        ("sgd", {"momentum": 0.8, "nesterov": 1}, lambda w: SGDOptimizer([w], 0.1, momentum=0.8, nesterov=True)),
        ("adam", {"beta_1": 0.8, "beta_2": 0.9, "epsilon": 1e-3}, lambda w: AdamOptimizer([w], 0.1, 0.8, 0.9, 1e-3)),
    ],
)
def test_steps_are_scikit_learns(name, hyperparameters, peer):
    random = np.random.RandomState(3)
    w = random.randn(6)
    expected, slots = w.copy(), [np.zeros(6), np.zeros(6)][: 1 if name == "sgd" else 2]
    optimizer = peer(expected)
    for t in range(1, 6):
        g = random.randn(6)
        reference.OPTIMIZERS[name](hyperparameters, 0.1, t, w, g, slots)
        optimizer.update_params([expected], [g])
    np.testing.assert_allclose(w, expected, rtol=1e-14)


@pytest.mark.parametrize("activation", ["logistic", "relu"])
def test_training_is_scikit_learns(activation):
    random = np.random.RandomState(4)
    X, y = random.randn(23, 4), random.randint(3, size=23)
    model = MLPClassifier((5,), activation=activation, alpha=0.1, batch_size=7, max_iter=4, random_state=5).fit(X, y)
    net = reference.Net((4, 5, 3), (activation,), "log_loss")
    random = np.random.RandomState(5)
    flat = reference.glorot(net, random, factor=2.0 if activation == "logistic" else 6.0)

    def step(t, *state):
        reference.adam({"beta_1": 0.9, "beta_2": 0.999, "epsilon": 1e-8}, 1e-3, t, *state)

    slots = [np.zeros_like(flat), np.zeros_like(flat)]
    options = {"alpha": 0.1, "batch_size": 7, "max_iter": 4, "random": random}
    curve = reference.train(net, flat, slots, X, np.eye(3)[y], step, **options)
    np.testing.assert_allclose(curve, model.loss_curve_, rtol=1e-12)
    np.testing.assert_allclose(flat, reference.pack(model.coefs_, model.intercepts_), rtol=1e-10)
