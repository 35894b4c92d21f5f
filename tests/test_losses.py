"""Every loss of the catalogue: predictions, value and gradient of a row, each dtype and instruction set."""

import numpy as np
import pytest
import reference
from conftest import WITHOUT_FORMULA

from fastmlp import _core

LOG2 = np.log(2.0)
# loss, z, y, predictions, loss: worked out by hand, where the gradient is prediction minus target
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
# and where it is another one: loss, hyper-parameters, z, y, predictions, loss, gradient
BY_HAND_TOO = [
    ("log_loss", {"label_smoothing": 0.4}, [LOG2, 0, 0], [1, 0, 0], [0.5, 0.25, 0.25], (0.6 + 2 / 3) * LOG2,
     [0.5 - 0.6 - 0.4 / 3, 0.25 - 0.4 / 3, 0.25 - 0.4 / 3]),
    ("binary_log_loss", {"label_smoothing": 0.2}, [np.log(3)], [0], [0.75], np.log(4) - 0.1 * np.log(3), [0.65]),
    ("focal", {"gamma": 1}, [0, 0], [0, 1], [0.5, 0.5], LOG2 / 2, [(1 + LOG2) / 4, -(1 + LOG2) / 4]),
    ("binary_focal", {"gamma": 1}, [0, 0], [0, 1], [0.5, 0.5], LOG2, [(1 + LOG2) / 4, -(1 + LOG2) / 4]),
    ("absolute_error", {}, [3, -1, 2], [1, 1, 2], [3, -1, 2], 4, [1, -1, 0]),
    ("huber", {"delta": 2}, [3, -1, 2], [0, 0, 2], [3, -1, 2], 4.5, [2, -1, 0]),
    ("log_cosh", {}, [LOG2, 0], [0, 0], [LOG2, 0], np.log(1.25), [0.6, 0]),
    ("quantile", {}, [3, 1], [1, 2], [3, 1], 1.5, [0.5, -0.5]),
    ("quantile", {"quantile": [0.25, 0.75]}, [5, 1], [2], [1, 5], 3, [0.75, -0.75]),
    ("quantile", {"quantile": [0.1, 0.5, 0.9]}, [1, 1, 0, 3, 2, 1], [1, 2], [0, 1, 1, 1, 2, 3], 0.9 + 0.9 + 0.9,
     [0, 0, -0.9, 0.9, 0, -0.9]),
    ("gamma", {}, [0], [1], [1], 0, [0]),
    ("gamma", {}, [LOG2, 0], [1, 2], [2, 1], 0.5, [0.5, -1]),
    ("tweedie", {"power": 1.5}, [np.log(4), 0], [1, 0], [4, 1], -4 + 1 + 4 + 2, [1.5, 1]),
    ("tweedie", {"power": 3}, [LOG2], [1], [2], 0.5 * (1 - 2 / 2 + 1 / 4), [0.25]),
    ("gaussian_nll", {"eps": 1}, [3, 0, 1, np.log(3)], [1, 1], [3, 2, 1, 4], 1.5 * LOG2 + 1, [1, -0.25, 0, 0.375]),
]  # fmt: skip
# what defaults do not show
GIVEN = [
    ("log_loss", {"label_smoothing": 0.1}),
    ("log_loss", {"label_smoothing": 1.0}),
    ("binary_log_loss", {"label_smoothing": 0.1}),
    ("focal", {"gamma": 0.5}),
    ("binary_focal", {"gamma": 5.0}),
    ("huber", {"delta": 0.3}),
    ("quantile", {"quantile": 0.8}),
    ("quantile", {"quantile": [0.05, 0.5, 0.6]}),
    ("tweedie", {"power": 1.0}),
    ("tweedie", {"power": 1.2}),
    ("tweedie", {"power": 2.0}),
    ("tweedie", {"power": 2.7}),
    ("gaussian_nll", {"eps": 0.5}),
]


def targets(loss, random, n, m):
    """Random valid targets (n, m) of a loss, as its entry in the catalogue describes them."""
    entry = _core.losses()[loss]
    if entry["class_numbers"]:
        return np.eye(m)[random.randint(m, size=n)]
    if entry["link"] == "logistic":
        return random.randint(2, size=(n, m)).astype(float)
    if entry["domain"] == "any finite number":
        return random.randn(n, m)
    if entry["domain"].startswith("0 or more"):
        return random.poisson(2.0, size=(n, m)).astype(float)
    return random.gamma(2.0, size=(n, m))


def rows(loss, n, m, dtype="float64", parameters=None):
    """Pre-activations and targets of n rows with m targets."""
    random = np.random.RandomState(0)
    z = random.randn(n, m * reference.outputs_per_target(loss, parameters or {}))
    y = targets(loss, random, n, m)
    return z.astype(dtype), (np.maximum(y, 1) if parameters and parameters.get("power", 0) >= 2 else y).astype(dtype)


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


@pytest.mark.parametrize(("name", "given", "z", "y", "prediction", "value", "slope"), BY_HAND_TOO)
def test_by_hand_too(name, given, z, y, prediction, value, slope, dtype, instruction_set):
    predictions, losses, gradient = _core.apply_loss(name, np.array([z], dtype), np.array([y], dtype), given)
    close = {"rtol": 16 * np.finfo(dtype).eps, "atol": 16 * np.finfo(dtype).eps}
    np.testing.assert_allclose(predictions, [prediction], **close)
    np.testing.assert_allclose(losses, [value], **close)
    np.testing.assert_allclose(gradient, [slope], **close)


def test_every_hyperparameter_is_held_by_hand_and_oracle(loss, has_formula):
    has_formula(loss)
    for parameter in _core.losses()[loss]["hyperparameters"]:
        for known in (BY_HAND_TOO, GIVEN):
            assert any(name == loss and parameter in given for name, given, *_ in known)


@pytest.mark.parametrize("m", [1, 2, 3, 8, 15, 16, 17, 33])
def test_against_the_oracle(loss, dtype, instruction_set, m):
    eps = np.finfo(dtype).eps
    for n in (1, 2, 7, 16, 33):
        z, y = rows(loss, n, m, dtype)
        expected = reference.LOSSES[loss](3 * z.astype(np.float64), y.astype(np.float64), eps)
        for part, wanted in zip(_core.apply_loss(loss, 3 * z, y), expected, strict=True):
            np.testing.assert_allclose(part, wanted, rtol=50 * eps, atol=m * 8 * eps * max(1, np.abs(wanted).max()))


@pytest.mark.parametrize(("name", "given"), GIVEN)
def test_given_hyperparameters_against_the_oracle(name, given, dtype, instruction_set):
    eps = np.finfo(dtype).eps
    for m in (1, 3, 17):
        z, y = rows(name, 33, m, dtype, given)
        expected = reference.LOSSES[name](3 * z.astype(np.float64), y.astype(np.float64), eps, **given)
        for part, wanted in zip(_core.apply_loss(name, 3 * z, y, given), expected, strict=True):
            np.testing.assert_allclose(part, wanted, rtol=200 * eps, atol=m * 20 * eps * max(1, np.abs(wanted).max()))


def central_differences(name, z, y, given):
    h, columns = 1e-5, []
    for step in h * np.eye(z.shape[1]):
        above, below = (_core.apply_loss(name, z + way, y, given)[1] for way in (step, -step))
        columns.append((above - below) / (2 * h))
    return np.stack(columns, axis=1)


def test_gradient_is_the_central_difference(loss, instruction_set):
    z, y = rows(loss, 6, 3)
    gradient = _core.apply_loss(loss, z, y)[2]
    np.testing.assert_allclose(gradient, central_differences(loss, z, y, {}), rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize(("name", "given"), GIVEN)
def test_gradient_is_the_central_difference_with_hyperparameters(name, given, instruction_set):
    z, y = rows(name, 20, 3, parameters=given)
    gradient = _core.apply_loss(name, z, y, given)[2]
    np.testing.assert_allclose(gradient, central_differences(name, z, y, given), rtol=1e-7, atol=1e-9)


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
    assert _core.losses().keys() >= reference.LOSSES.keys() - WITHOUT_FORMULA
    assert {name for name, entry in _core.losses().items() if entry["mean_over_outputs"]} == reference.MEAN_OVER_OUTPUTS
    assert all(entry[key].strip() for entry in _core.losses().values() for key in ("formula", "link", "domain"))


# --- extremes -------------------------------------------------------------------------------------------------------


def test_far_off_targets_cost_what_they_should(dtype, instruction_set):
    """Nothing overflows where the loss itself does not, and the slope is the limit."""
    z, y = np.array([[1e4], [-1e30]], dtype), np.zeros((2, 1), dtype)
    far = np.abs(z[:, 0].astype(np.float64))
    for name, factor, constant in (("absolute_error", 1, 0), ("huber", 1, -0.5), ("log_cosh", 1, -LOG2)):
        _, losses, gradient = _core.apply_loss(name, z, y)
        np.testing.assert_allclose(losses, factor * far + constant, rtol=4 * np.finfo(dtype).eps)
        np.testing.assert_array_equal(gradient, [[1], [-1]])


def test_gamma_of_a_tiny_target(dtype, instruction_set):
    """The ratio of target and prediction is never formed: it could overflow or vanish."""
    tiny = float(np.finfo(dtype).tiny)
    z, y = np.array([[np.log(tiny) + 1], [0], [60]], dtype), np.full((3, 1), tiny, dtype)
    u = np.log(tiny) - z[:, 0].astype(np.float64)
    _, losses, gradient = _core.apply_loss("gamma", z, y)
    np.testing.assert_allclose(losses, np.expm1(u) - u, rtol=1e-4 if dtype == "float32" else 1e-12)
    np.testing.assert_allclose(gradient[:, 0], -np.expm1(u), rtol=1e-4 if dtype == "float32" else 1e-12)


@pytest.mark.parametrize("power", [1.0, 1.5, 1.99])
def test_a_vanishing_mean_of_nothing_costs_nothing(power, dtype, instruction_set):
    _, losses, gradient = _core.apply_loss(
        "tweedie", np.array([[-4e3]], dtype), np.zeros((1, 1), dtype), {"power": power}
    )
    np.testing.assert_allclose([losses[0], gradient[0, 0]], 0, atol=1e-7 if power == 1.99 else 0)


def test_tweedie_ends_in_poisson_and_gamma(dtype):
    z, y = rows("gamma", 20, 3, dtype)
    for power, name in ((1.0, "poisson"), (2.0, "gamma")):
        for ours, theirs in zip(
            _core.apply_loss("tweedie", z, y, {"power": power}), _core.apply_loss(name, z, y), strict=True
        ):
            np.testing.assert_array_equal(ours, theirs)
        near = _core.apply_loss(
            "tweedie", z.astype(float), y.astype(float), {"power": abs(power - 1e-4) + 2e-4 * (power == 1)}
        )
        for ours, theirs in zip(near, _core.apply_loss(name, z.astype(float), y.astype(float)), strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-2, atol=1e-3)


def test_gaussian_variances_do_not_overflow(dtype, instruction_set):
    """Neither a variance that vanishes nor one that no number holds spoils the loss or its gradient."""
    z = np.array([[1, -1e4], [1, 50], [1, 1e4]], dtype)
    _, losses, gradient = _core.apply_loss("gaussian_nll", z, np.zeros((3, 1), dtype))
    np.testing.assert_allclose(losses, [(np.log(1e-6) + 1e6) / 2, 25, 5e3], rtol=1e-6)
    np.testing.assert_allclose(gradient, [[1e6, 0], [np.exp(-50), 0.5], [0, 0.5]], rtol=1e-4, atol=1e-30)


@pytest.mark.parametrize("name", ["focal", "binary_focal"])
@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_confident_focal_losses(name, gamma, dtype, instruction_set):
    z, y = np.array([[800, -800], [-800, 800]], dtype), np.array([[1, 0], [1, 0]], dtype)
    _, losses, gradient = _core.apply_loss(name, z, y, {"gamma": gamma})
    eps = float(np.finfo(dtype).eps)
    n_terms = 1 if name == "focal" else 2
    np.testing.assert_allclose(losses, [0, -n_terms * np.log(eps)], atol=4 * eps, rtol=4 * eps)
    np.testing.assert_allclose(gradient[0], 0, atol=4 * eps)
    np.testing.assert_allclose(gradient[1], [-1, 1], rtol=1e-4)


# --- what one loss has to do with another ---------------------------------------------------------------------------


@pytest.mark.parametrize(("focal", "plain"), [("focal", "log_loss"), ("binary_focal", "binary_log_loss")])
def test_focal_of_gamma_0_is_log_loss(focal, plain, dtype, instruction_set):
    z, y = rows(focal, 40, 3, dtype)
    eps = float(np.finfo(dtype).eps)
    for ours, theirs in zip(_core.apply_loss(focal, z, y, {"gamma": 0}), _core.apply_loss(plain, z, y), strict=True):
        if focal == "focal":
            np.testing.assert_array_equal(ours, theirs)
        np.testing.assert_allclose(ours, theirs, rtol=20 * eps, atol=20 * eps)


def test_smoothing_is_soft_targets(dtype, instruction_set):
    """Labels that are a tenth, or 1 - a tenth, certain are what a smoothing of a fifth makes of 0 and 1."""
    z, y = rows("binary_log_loss", 40, 3, dtype)
    smoothed = _core.apply_loss("binary_log_loss", z, y, {"label_smoothing": 0.2})
    soft = _core.apply_loss("binary_log_loss", z, (0.8 * y + 0.1).astype(dtype))
    for ours, theirs in zip(smoothed, soft, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5 if dtype == "float32" else 1e-13, atol=1e-6)


def test_two_classes_by_one_output_or_two(dtype):
    """The softmax of (0, z) is the logistic function of z: the siblings agree, whatever their hyper-parameters."""
    z, y = rows("binary_log_loss", 40, 1, dtype)
    both = np.hstack([0 * z, z]), np.hstack([1 - y, y])
    for single, double, given in (
        ("binary_log_loss", "log_loss", "label_smoothing"),
        ("binary_focal", "focal", "gamma"),
    ):
        one, two = _core.apply_loss(single, z, y, {given: 0.3}), _core.apply_loss(double, *both, {given: 0.3})
        np.testing.assert_allclose(one[1], two[1], rtol=1e-5)
        np.testing.assert_allclose(one[2][:, 0], two[2][:, 1], rtol=1e-4, atol=1e-6)


# --- hyper-parameters -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "given"), GIVEN)
def test_every_hyperparameter_has_an_effect(name, given):
    z, y = rows(name, 20, 3, parameters=given)
    quantiles = np.size(given.get("quantile", 1))
    default = _core.apply_loss(name, z[:, ::quantiles].copy(), y)
    changed = _core.apply_loss(name, z, y, given)
    assert not np.allclose(changed[1], default[1])
    assert not np.allclose(changed[2][:, ::quantiles], default[2])


def test_defaults_may_be_named(loss):
    z, y = rows(loss, 20, 3)
    defaults = _core.losses()[loss]["hyperparameters"]
    for ours, theirs in zip(_core.apply_loss(loss, z, y, defaults), _core.apply_loss(loss, z, y), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert _core.Network([1, 2], [], loss).loss_parameters.keys() == defaults.keys()


@pytest.mark.parametrize(
    ("name", "given", "message"),
    [
        ("huber", {"alpha": 1.0}, "unknown hyper-parameter 'alpha' of 'huber'; valid names: 'delta'"),
        ("squared_error", {"delta": 1.0}, "unknown hyper-parameter 'delta' of 'squared_error'; valid names: none"),
        ("huber", {"delta": 0.0}, "delta of 'huber' must be between 1e-30 and 1e+30, got 0.0"),
        ("huber", {"delta": float("nan")}, "delta of 'huber' must be between 1e-30 and 1e+30, got nan"),
        ("huber", {"delta": [1.0, 2.0]}, "delta of 'huber' must be one number, got a list of 2"),
        ("log_loss", {"label_smoothing": 1.5}, "label_smoothing of 'log_loss' must be between 0.0 and 1.0, got 1.5"),
        ("tweedie", {"power": 0.0}, "power of 'tweedie' must be between 1.0 and 3.0, got 0.0"),
        ("quantile", {"quantile": 1.0}, "quantile of 'quantile' must be between .* and 0.9999999999999999, got 1.0"),
        ("quantile", {"quantile": []}, "quantile of .* must be one number or a list of some, got an empty list"),
        ("quantile", {"quantile": [0.9, 0.1]}, "quantile of 'quantile' must be in increasing order, got 0.1 after 0.9"),
        ("quantile", {"quantile": [0.5, 0.5]}, "quantile of 'quantile' must be in increasing order, got 0.5 after 0.5"),
    ],
)  # fmt: skip
def test_wrong_hyperparameters(name, given, message):
    for call in (
        lambda: _core.loss_outputs(name, given),
        lambda: _core.Network([1, 6], [], name, given),
        lambda: _core.apply_loss(name, np.ones((2, 6)), np.ones((2, 6)), given),
    ):
        with pytest.raises(ValueError, match=message.replace("+", r"\+")):
            call()


def test_outputs_must_divide_into_targets():
    quantiles = {"quantile": [0.1, 0.5, 0.9]}
    assert _core.loss_outputs("quantile", quantiles) == (3, 1)
    assert _core.loss_outputs("gaussian_nll") == (2, 0)
    assert _core.loss_outputs("quantile", {"quantile": [0.1, 0.4, 0.6]}) == (3, 1)  # as near as 0.6, and before it
    with pytest.raises(ValueError, match="'quantile' needs 3 outputs for each target, and so a multiple of it, got 4"):
        _core.Network([2, 4], [], "quantile", quantiles)
    with pytest.raises(ValueError, match="multiple of 3 columns"):
        _core.apply_loss("quantile", np.ones((2, 4)), np.ones((2, 1)), quantiles)
    with pytest.raises(ValueError, match=r"shape \(2, 2\)"):
        _core.apply_loss("quantile", np.ones((2, 6)), np.ones((2, 6)), quantiles)


@pytest.mark.parametrize(
    ("name", "given", "y"),
    [
        ("gamma", {}, 0.0),
        ("gamma", {}, -1.0),
        ("tweedie", {"power": 1.5}, -1.0),
        ("tweedie", {"power": 2.0}, 0.0),
        ("tweedie", {"power": 3.0}, 0.0),
        ("absolute_error", {}, np.inf),
        ("gaussian_nll", {}, np.nan),
        ("focal", {}, 0.5),
        ("binary_focal", {}, 0.5),
    ],
)
def test_targets_outside_the_domain(name, given, y):
    network = _core.Network([1, 2], [], name, given)
    n_targets = 2 // reference.outputs_per_target(name, given)
    targets = np.full((3, n_targets), 1.0)
    targets[1, 0] = y
    with pytest.raises(ValueError, match=f"targets of the loss '{name}' must be"):
        _core.Engine(network, "float64").loss_and_gradient(np.zeros(4), np.ones((3, 1)), targets, None, 0.0)


# --- other people's losses ------------------------------------------------------------------------------------------

SKLEARNS = [
    ("squared_error", {}, "HalfSquaredError", {}),
    ("absolute_error", {}, "AbsoluteError", {}),
    ("huber", {"delta": 0.7}, "HuberLoss", {"delta": 0.7}),
    ("quantile", {"quantile": 0.8}, "PinballLoss", {"quantile": 0.8}),
    ("poisson", {}, "HalfPoissonLoss", {}),
    ("gamma", {}, "HalfGammaLoss", {}),
    ("tweedie", {"power": 1.3}, "HalfTweedieLoss", {"power": 1.3}),
    ("tweedie", {"power": 2.5}, "HalfTweedieLoss", {"power": 2.5}),
    ("binary_log_loss", {}, "HalfBinomialLoss", {}),
]


@pytest.mark.parametrize(("name", "given", "theirs", "theirs_given"), SKLEARNS)
def test_value_and_gradient_are_scikit_learns(name, given, theirs, theirs_given):
    module = pytest.importorskip("sklearn._loss.loss", reason="this scikit-learn has no loss module")
    z, y = rows(name, 50, 1, parameters=given)
    loss = getattr(module, theirs)(**theirs_given)
    value, gradient = loss.loss_gradient(y[:, 0].copy(), z[:, 0].copy())
    value += loss.constant_to_optimal_zero(y[:, 0].copy())
    _, ours, slope = _core.apply_loss(name, z, y, given)
    np.testing.assert_allclose(ours, value, rtol=1e-11, atol=1e-13)
    np.testing.assert_allclose(slope[:, 0], gradient, rtol=1e-11, atol=1e-13)


def test_value_and_gradient_are_pytorchs():
    torch = pytest.importorskip("torch", reason="torch is not installed")
    functional = torch.nn.functional
    cases = [
        ("absolute_error", {}, lambda z, y: functional.l1_loss(z, y, reduction="none")),
        ("huber", {"delta": 0.7}, lambda z, y: functional.huber_loss(z, y, reduction="none", delta=0.7)),
        ("log_loss", {"label_smoothing": 0.2},
         lambda z, y: functional.cross_entropy(z, y.argmax(1), reduction="none", label_smoothing=0.2)[:, None]),
        ("gaussian_nll", {},
         lambda z, y: functional.gaussian_nll_loss(z[:, ::2], y, torch.exp(z[:, 1::2]) + 1e-6, reduction="none")),
        ("focal", {"gamma": 3.0},
         lambda z, y: ((1 - torch.softmax(z, 1)) ** 3 * -torch.log_softmax(z, 1) * y)),
        ("log_cosh", {}, lambda z, y: torch.log(torch.cosh(z - y))),
    ]  # fmt: skip
    for name, given, theirs in cases:
        z, y = rows(name, 50, 3, parameters=given)
        tensor = torch.tensor(z, requires_grad=True)
        losses = theirs(tensor, torch.tensor(y)).sum(dim=1)
        losses.sum().backward()
        _, ours, gradient = _core.apply_loss(name, z, y, given)
        np.testing.assert_allclose(ours, losses.detach(), rtol=1e-11, atol=1e-13, err_msg=name)
        np.testing.assert_allclose(gradient, tensor.grad, rtol=1e-10, atol=1e-13, err_msg=name)


# --- through a network ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "given"), GIVEN)
def test_networks_with_hyperparameters(name, given, dtype, instruction_set):
    """Loss, gradients and predictions of the engine are the oracle's, dense and sparse, with any number of threads."""
    from test_engine import TOLERANCE, assert_gradients_match, double, engine_of, sparse

    random, per_target = np.random.RandomState(3), reference.outputs_per_target(name, given)
    net = reference.Net((5, 9, 3 * per_target), ("tanh",), name, given)
    flat, X = reference.glorot(net, random).astype(dtype), random.randn(70, 5).astype(dtype)
    y, weights = rows(name, 70, 3, dtype, given)[1], (random.rand(70) + 0.1).astype(dtype)
    X, csr = sparse(X, density=0.7)
    expected = reference.loss_and_gradient(net, *double(flat, X, y, weights), 0.3)
    tolerance, first = TOLERANCE[dtype], None
    for n_threads in (1, 3):
        engine = engine_of(net, dtype, n_threads)
        for rows_given in (X, csr):
            value, penalty, gradient = engine.loss_and_gradient(flat, rows_given, y, weights, 0.3)
            np.testing.assert_allclose([value, penalty], expected[:2], rtol=tolerance)
            assert_gradients_match(net, gradient, expected[2], tolerance)
        predictions = engine.predict(flat, X)
        np.testing.assert_allclose(
            predictions, reference.predict(net, *double(flat, X)), rtol=tolerance, atol=tolerance
        )
        np.testing.assert_array_equal(np.vstack([engine.predict(flat, row[None]) for row in X]), predictions)
        found = [gradient.tobytes(), predictions.tobytes(), value]
        first = first or found
        assert found == first
