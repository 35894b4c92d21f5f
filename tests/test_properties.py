"""What must hold for every network, whatever its shape, weights and data: searched by hypothesis, no oracle needed."""

import numpy as np
import reference
from hypothesis import given
from hypothesis import strategies as st
from test_engine import engine_of, problem

from fastmlp import _core

ACTIVATIONS, LOSSES = list(_core.activations()), list(_core.losses())


def layer_sizes(n_hidden):
    return st.lists(st.integers(1, 20), min_size=n_hidden + 2, max_size=5).map(tuple)


@st.composite
def problems(draw, dtype="float64", losses=LOSSES, n_hidden=0, n_rows=1):
    """Network, parameters, rows, targets and sample weights; ``n_hidden`` and ``n_rows`` are the least of each."""
    activation, loss = draw(st.sampled_from(ACTIVATIONS)), draw(st.sampled_from(losses))
    seed = draw(st.integers(0, 2**32 - 1))
    return problem(draw(st.integers(n_rows, 40)), draw(layer_sizes(n_hidden)), activation, loss, dtype, seed)


def objective(net, flat, X, y, weights, alpha=0.0):
    """Loss, penalty and gradient as one vector."""
    value, penalty, gradient = engine_of(net).loss_and_gradient(flat, X, y, weights, alpha)
    return np.array([value, penalty, *gradient])


def assert_equal_to_rounding(actual, expected):
    np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-11 * max(1, np.abs(expected).max()))


@given(problems(), st.randoms(use_true_random=False))
def test_the_order_of_rows_does_not_matter(example, random):
    net, flat, X, y, weights = example
    order = random.sample(range(len(X)), len(X))
    expected = objective(net, flat, X, y, weights)
    assert_equal_to_rounding(objective(net, flat, X[order], y[order], weights[order]), expected)


@given(problems(n_rows=2), st.data())
def test_a_batch_is_the_weighted_mean_of_its_parts(example, data):
    net, flat, X, y, weights = example
    cut = data.draw(st.integers(1, len(X) - 1))
    parts = [(X[:cut], y[:cut], weights[:cut]), (X[cut:], y[cut:], weights[cut:])]
    total = sum(w.sum() * objective(net, flat, *rows, w) for *rows, w in parts)
    assert_equal_to_rounding(total / weights.sum(), objective(net, flat, X, y, weights))


@given(problems(), st.integers(2, 4))
def test_a_row_of_weight_k_is_k_rows(example, k):
    net, flat, X, y, weights = example
    counts = np.where(weights > 0.6, k, 1)
    repeated = [np.repeat(a, counts, axis=0) for a in (X, y)]
    expected = objective(net, flat, *repeated, None, alpha=0.5)
    assert_equal_to_rounding(objective(net, flat, X, y, counts.astype(float), alpha=0.5), expected)


@given(problems(n_rows=2))
def test_a_row_of_weight_zero_is_no_row(example):
    net, flat, X, y, weights = example
    weights[weights < 0.6] = 0
    weights[0] = 1
    kept = weights > 0
    expected = objective(net, flat, X[kept], y[kept], weights[kept], alpha=0.5)
    assert_equal_to_rounding(objective(net, flat, X, y, weights, alpha=0.5), expected)


@given(problems(), st.floats(0.01, 100))
def test_the_scale_of_weights_matters_to_the_penalty_only(example, factor):
    net, flat, X, y, weights = example
    assert_equal_to_rounding(objective(net, flat, X, y, factor * weights), objective(net, flat, X, y, weights))


@given(problems(), st.floats(0, 10))
def test_the_penalty_is_linear_in_alpha(example, alpha):
    """And spares the biases."""
    net, flat, X, y, weights = example
    coefs, intercepts = reference.unpack(net, flat)
    with_penalty, without = objective(net, flat, X, y, weights, alpha), objective(net, flat, X, y, weights)
    decay = alpha / weights.sum() * reference.pack(coefs, [0 * b for b in intercepts])
    squares = sum((W**2).sum() for W in coefs)
    assert_equal_to_rounding(with_penalty - without, np.array([0, 0.5 * alpha / weights.sum() * squares, *decay]))


@given(problems(n_hidden=1), st.data())
def test_hidden_units_have_no_order(example, data):
    """Permuting the units of a hidden layer, with their weights in and out, gives the same function."""
    net, flat, X, _, _ = example
    layer = data.draw(st.integers(0, len(net.layer_sizes) - 3))
    order = data.draw(st.permutations(range(net.layer_sizes[layer + 1])))
    coefs, intercepts = (list(arrays) for arrays in reference.unpack(net, flat))
    coefs[layer], intercepts[layer] = coefs[layer][:, order], intercepts[layer][order]
    coefs[layer + 1] = coefs[layer + 1][order]
    engine = engine_of(net)
    assert_equal_to_rounding(engine.predict(reference.pack(coefs, intercepts), X), engine.predict(flat, X))


@given(problems())
def test_no_loss_is_negative(example):
    net, flat, X, y, weights = example
    value, penalty, _ = engine_of(net).loss_and_gradient(flat, X, y, weights, 0.5)
    assert value >= -1e-15  # the deviance of a perfect prediction is a difference of equal numbers
    assert penalty > 0


@given(problems(losses=["log_loss"]))
def test_class_probabilities_sum_to_one(example):
    net, flat, X, _, _ = example
    p = engine_of(net).predict(100 * flat, X)
    assert ((p >= 0) & (p <= 1)).all()
    np.testing.assert_allclose(p.sum(axis=1), 1, rtol=1e-14)


@given(data=st.data())
def test_other_rows_have_no_influence_on_a_prediction(dtype, data):
    net, flat, X, _, _ = data.draw(problems(dtype))
    rows = data.draw(st.lists(st.integers(0, len(X) - 1), max_size=50))
    n_threads = data.draw(st.integers(1, 3))
    whole = engine_of(net, dtype).predict(flat, X)
    np.testing.assert_array_equal(engine_of(net, dtype, n_threads).predict(flat, X[rows]), whole[rows])


@given(data=st.data())
def test_threads_have_no_influence_on_a_gradient(dtype, data):
    net, flat, X, y, weights = data.draw(problems(dtype))
    one, many = (
        engine_of(net, dtype, n).loss_and_gradient(flat, X, y, weights, 0.5) for n in (1, data.draw(st.integers(2, 5)))
    )
    assert one[:2] == many[:2]
    np.testing.assert_array_equal(one[2], many[2])


@given(problems(), st.floats(1e-4, 1e-2))
def test_a_small_step_downhill_goes_down(example, size):
    net, flat, X, y, weights = example
    value, _, gradient = engine_of(net).loss_and_gradient(flat, X, y, weights, 0.0)
    norm = np.linalg.norm(gradient)
    step = 1e-6 * size * gradient / max(norm, 1e-300)
    after, _, _ = engine_of(net).loss_and_gradient(flat - step, X, y, weights, 0.0)
    assert after <= value + 1e-12 * max(1, abs(value))
