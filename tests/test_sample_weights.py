"""Weights of samples: 1 changes nothing, not a bit; k says the same as k repeats; for every loss and every solver."""

import numpy as np
import pytest
import reference
from test_losses import GIVEN, targets
from test_trainer import generator, new_slots, options

from fastmlp import MLPClassifier, MLPRegressor, _core
from fastmlp._losses import CLASS_LOSSES, NUMBER_LOSSES

EVERY_LOSS = [*((name, {}) for name in _core.losses()), *GIVEN]
N_ROWS = 40


def problem(loss, given, dtype="float64"):
    """A network with this loss, an engine, parameters, rows and targets."""
    random = np.random.RandomState(0)
    net = reference.Net((5, 7, 3 * reference.outputs_per_target(loss, given)), ("tanh",), loss, given)
    y = targets(loss, random, N_ROWS, 3) + (0.5 if given.get("power", 0) >= 2 else 0.0)
    network = _core.Network(*net)
    flat = reference.glorot(net, random).astype(dtype)
    X = random.standard_normal((N_ROWS, 5)).astype(dtype)
    return _core.Engine(network, dtype), flat, X, y.astype(dtype)


def trained(engine, optimizer, flat, X, y, sample_weight, batch_size):
    """Parameters, what the optimizer keeps, and the loss of each of three epochs."""
    flat, slots = flat.copy(), new_slots(optimizer, flat)
    settings = options(optimizer, batch_size=batch_size, max_iter=3, alpha=0.1)
    report = engine.train(flat, slots, X, y, sample_weight, None, None, generator(), settings, None)
    return flat, slots, report["loss_curve"]


def assert_ones_are_no_weights(engine, optimizer, flat, X, y):
    ours, theirs = (trained(engine, optimizer, flat, X, y, w, 16) for w in (None, np.ones(N_ROWS, flat.dtype)))
    assert not np.array_equal(ours[0], flat)
    for own, other in zip([ours[0], *ours[1]], [theirs[0], *theirs[1]], strict=True):
        assert own.tobytes() == other.tobytes()
    assert ours[2] == theirs[2]


@pytest.mark.parametrize(("loss", "given"), EVERY_LOSS)
def test_ones_are_no_weights_to_any_loss(loss, given, dtype):
    engine, flat, X, y = problem(loss, given, dtype)
    assert_ones_are_no_weights(engine, "adam", flat, X, y)
    none, ones = (engine.loss_and_gradient(flat, X, y, w, 0.1) for w in (None, np.ones(N_ROWS, dtype)))
    assert none[:2] == ones[:2]
    assert none[2].tobytes() == ones[2].tobytes()


def test_ones_are_no_weights_to_any_optimizer(optimizer, dtype):
    engine, *rest = problem("log_loss", {}, dtype)
    assert_ones_are_no_weights(engine, optimizer, *rest)


@pytest.mark.parametrize(
    ("estimator", "loss"),
    [*((MLPClassifier, name) for name in CLASS_LOSSES), *((MLPRegressor, name) for name in NUMBER_LOSSES)],
)
def test_ones_are_no_weights_to_lbfgs(estimator, loss):
    random = np.random.RandomState(0)
    X, y = random.standard_normal((N_ROWS, 3)), 1 + random.randint(3, size=N_ROWS)
    settings = {"hidden_layer_sizes": (4,), "solver": "lbfgs", "max_iter": 6, "random_state": 0, "loss": loss}
    plain, weighted = (estimator(**settings).fit(X, y, w) for w in (None, np.ones(N_ROWS)))
    for ours, theirs in zip(plain.coefs_ + plain.intercepts_, weighted.coefs_ + weighted.intercepts_, strict=True):
        assert ours.tobytes() == theirs.tobytes()
    assert plain.loss_ == weighted.loss_


def repeated(counts, *arrays):
    return [array.repeat(counts, axis=0) for array in arrays]


@pytest.mark.parametrize(("loss", "given"), EVERY_LOSS)
def test_a_weight_is_a_number_of_repeats_to_any_loss(loss, given):
    engine, flat, X, y = problem(loss, given)
    counts = np.random.RandomState(1).randint(0, 4, N_ROWS)
    weighted = engine.loss_and_gradient(flat, X, y, counts.astype(float), 0.1)
    expected = engine.loss_and_gradient(flat, *repeated(counts, X, y), None, 0.1)
    for ours, theirs in zip(weighted, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-11, atol=1e-13)


def test_a_weight_is_a_number_of_repeats_to_any_optimizer(optimizer):
    """With whole batches, as the penalty is divided by what a batch weighs."""
    engine, flat, X, y = problem("log_loss", {})
    counts = np.random.RandomState(1).randint(0, 4, N_ROWS)
    weighted = trained(engine, optimizer, flat, X, y, counts.astype(float), N_ROWS)
    expected = trained(engine, optimizer, flat, *repeated(counts, X, y), None, counts.sum())
    np.testing.assert_allclose(weighted[0], expected[0], rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(weighted[2], expected[2], rtol=1e-9)
