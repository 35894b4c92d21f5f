"""Every loss of the catalogue: predictions, value and gradient of a row, each dtype and instruction set."""

import numpy as np
import pytest
import reference

from fastmlp import _core

LOG2 = np.log(2.0)
# loss, z, y, predictions, loss: worked out by hand
BY_HAND = [
    ("log_loss", [0, 0], [0, 1], [0.5, 0.5], LOG2),
    ("log_loss", [LOG2, 0, 0], [1, 0, 0], [0.5, 0.25, 0.25], LOG2),
    ("log_loss", [LOG2, 0, 0], [0, 0, 1], [0.5, 0.25, 0.25], 2 * LOG2),
    ("log_loss", [7, 7, 7, 7], [0, 0, 1, 0], [0.25] * 4, 2 * LOG2),
    ("binary_log_loss", [0], [1], [0.5], LOG2),
    ("binary_log_loss", [np.log(3)], [0], [0.75], 2 * LOG2),
    ("binary_log_loss", [np.log(3), 0, -np.log(3)], [0, 1, 0], [0.75, 0.5, 0.25], 3 * LOG2 + np.log(4 / 3)),
    ("squared_error", [3], [1], [3], 2.0),
    ("squared_error", [1, -2, 0.5], [0, 2, 0.5], [1, -2, 0.5], 8.5),
    ("poisson", [0], [0], [1], 1.0),
    ("poisson", [0], [1], [1], 0.0),
    ("poisson", [LOG2, 0], [2, 2], [2, 1], 2 * LOG2 - 1),
]


def targets(loss, random, n, m):
    """Random valid targets; a loss that is not known here gets one-hot rows, which lie in the domain of any."""
    if loss == "binary_log_loss":
        return random.randint(2, size=(n, m)).astype(float)
    if loss == "squared_error":
        return random.randn(n, m)
    if loss == "poisson":
        return random.poisson(2.0, size=(n, m)).astype(float)
    return np.eye(m)[random.randint(m, size=n)]


def rows(loss, n, m, dtype="float64"):
    random = np.random.RandomState(0)
    return random.randn(n, m).astype(dtype), targets(loss, random, n, m).astype(dtype)


def test_has_a_formula(loss, has_formula):
    has_formula(loss)
    assert loss in reference.LOSSES


@pytest.mark.parametrize(("name", "z", "y", "prediction", "value"), BY_HAND)
def test_by_hand(name, z, y, prediction, value, dtype, instruction_set):
    z, y = np.array([z], dtype), np.array([y], dtype)
    predictions, losses, gradient = _core.apply_loss(name, z, y)
    assert predictions.dtype == losses.dtype == gradient.dtype == dtype
    eps = np.finfo(dtype).eps
    np.testing.assert_allclose(predictions, [prediction], rtol=8 * eps)
    np.testing.assert_allclose(losses, [value], rtol=8 * eps, atol=8 * eps)
    np.testing.assert_allclose(gradient, [prediction] - y, rtol=8 * eps, atol=8 * eps)


@pytest.mark.parametrize("m", [1, 2, 3, 8, 15, 16, 17, 33])
def test_against_the_oracle(loss, dtype, instruction_set, m):
    eps = np.finfo(dtype).eps
    for n in (1, 2, 7, 16, 33):
        z, y = rows(loss, n, m, dtype)
        expected = reference.LOSSES[loss](3 * z.astype(np.float64), y.astype(np.float64), eps)
        for part, wanted in zip(_core.apply_loss(loss, 3 * z, y), expected, strict=True):
            np.testing.assert_allclose(part, wanted, rtol=50 * eps, atol=m * 8 * eps * max(1, np.abs(wanted).max()))


def test_gradient_is_the_central_difference(loss, instruction_set):
    z, y = rows(loss, 6, 3)
    gradient, h = _core.apply_loss(loss, z, y)[2], 1e-5
    for column in range(3):
        step = h * np.eye(3)[column]
        difference = (_core.apply_loss(loss, z + step, y)[1] - _core.apply_loss(loss, z - step, y)[1]) / (2 * h)
        np.testing.assert_allclose(gradient[:, column], difference, rtol=1e-7, atol=1e-9)


def test_rows_are_independent(loss, dtype, instruction_set):
    z, y = rows(loss, 37, 5, dtype)
    whole = _core.apply_loss(loss, z, y)
    for n in range(37):
        for part, all_of_it in zip(_core.apply_loss(loss, z[:n], y[:n]), whole, strict=True):
            np.testing.assert_array_equal(part, all_of_it[:n])
        for part, all_of_it in zip(_core.apply_loss(loss, z[n:], y[n:]), whole, strict=True):
            np.testing.assert_array_equal(part, all_of_it[n:])


@pytest.mark.parametrize("name", ["log_loss", "binary_log_loss"])
@pytest.mark.parametrize("z", [50.0, 800.0, 1e30])
def test_confident_classifier(name, z, dtype, instruction_set):
    """Huge logits: right answers cost next to nothing, wrong ones a finite ``-log(eps)``, as in scikit-learn."""
    z = np.array([[z, -z], [-z, z]], dtype)
    y = np.array([[1, 0], [1, 0]], dtype)
    predictions, losses, gradient = _core.apply_loss(name, z, y)
    eps = float(np.finfo(dtype).eps)
    np.testing.assert_allclose(predictions, [[1, 0], [0, 1]], atol=eps)
    np.testing.assert_allclose(gradient, [[0, 0], [-1, 1]], atol=eps)
    n_terms = 1 if name == "log_loss" else 2
    np.testing.assert_allclose(losses[0], -n_terms * np.log1p(-eps), atol=2 * eps)
    np.testing.assert_allclose(losses[1], -n_terms * np.log(eps), rtol=4 * eps)


def test_softmax_does_not_care_about_a_common_shift(dtype, instruction_set):
    z, y = rows("log_loss", 9, 5, dtype)
    for part, shifted in zip(
        _core.apply_loss("log_loss", z, y), _core.apply_loss("log_loss", z + 1024, y), strict=True
    ):
        np.testing.assert_allclose(part, shifted, atol=1024 * float(np.finfo(dtype).eps) * 4)


def test_poisson_extremes(dtype, instruction_set):
    """A vanishing prediction costs nothing where nothing was counted; one that overflows is not finite."""
    z = np.array([[-2000.0], [-50.0], [2000.0]], dtype)
    predictions, losses, gradient = _core.apply_loss("poisson", z, np.array([[0], [0], [1]], dtype))
    np.testing.assert_allclose(predictions[:2], [[0], [np.exp(-50)]], rtol=1e-5)
    np.testing.assert_allclose(losses[:2], [0, np.exp(-50)], rtol=1e-5)
    assert predictions[2] == gradient[2] == np.inf
    assert not np.isfinite(losses[2])


def test_nan_is_never_hidden(loss, dtype, instruction_set):
    """One spoiled row stays visible in its loss, and only there: this is how a diverging fit is noticed."""
    z, y = rows(loss, 20, 3, dtype)
    z[11, 1] = np.nan
    for part in _core.apply_loss(loss, z, y):
        bad = np.isnan(part).reshape(20, -1).any(axis=1)
        np.testing.assert_array_equal(np.flatnonzero(bad), [11])


def test_single_precision_agrees_with_double(loss, instruction_set):
    z, y = rows(loss, 20, 4, "float32")
    doubles = _core.apply_loss(loss, z.astype(np.float64), y.astype(np.float64))
    for single, double in zip(_core.apply_loss(loss, z, y), doubles, strict=True):
        np.testing.assert_allclose(single, double, rtol=1e-5, atol=1e-5)


def test_unknown_name_lists_the_valid_ones():
    with pytest.raises(ValueError, match="nope") as error:
        _core.apply_loss("nope", np.zeros((2, 2)), np.zeros((2, 2)))
    assert all(valid in str(error.value) for valid in _core.losses())


def test_mismatched_arrays():
    with pytest.raises(ValueError, match="shape"):
        _core.apply_loss("squared_error", np.zeros((2, 3)), np.zeros((3, 2)))
    with pytest.raises(TypeError):
        _core.apply_loss("squared_error", np.zeros((2, 3)), np.zeros((2, 3), np.float32))


def test_catalogue_tells_what_a_loss_is():
    assert _core.losses().keys() >= {"log_loss", "binary_log_loss", "squared_error", "poisson"}
    assert {name for name, entry in _core.losses().items() if entry["mean_over_outputs"]} == reference.MEAN_OVER_OUTPUTS
    assert all(entry[key].strip() for entry in _core.losses().values() for key in ("formula", "link", "domain"))
