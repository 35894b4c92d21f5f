"""Every activation of the catalogue: value and slope, each dtype, length and instruction set."""

import numpy as np
import pytest
import reference

from fastmlp import _core

RANDOM = np.random.RandomState(0)
# dense around the origin, sparse in the tails, where the functions saturate or grow
POINTS = np.concatenate([np.linspace(-12, 12, 401), RANDOM.randn(400), 10 ** np.linspace(-30, 3, 100)])
POINTS = np.concatenate([POINTS, -POINTS])


def assert_close(z, actual, expected, scale, n_ulp=8):
    """Within ``n_ulp`` units in the last place of ``scale``; a subnormal factor may have been flushed to zero."""
    info = np.finfo(actual.dtype)
    assert actual.dtype == z.dtype
    assert actual.shape == expected.shape
    flushed = info.tiny * np.maximum(1, np.abs(z.astype(np.float64)))
    error = (np.abs(actual.astype(np.float64) - expected) - flushed) / (np.abs(scale) + info.tiny) / info.eps
    worst = np.argmax(error)
    assert error[worst] <= n_ulp, f"{error[worst]:.1f} ulp at {z[worst]}: {actual[worst]!r}, not {expected[worst]!r}"


def test_has_a_formula(activation, has_formula):
    has_formula(activation)
    assert activation in reference.ACTIVATIONS


def test_value_and_slope(activation, dtype, instruction_set):
    z = POINTS.astype(dtype)
    value, slope = _core.apply_activation(activation, z)
    expected_value, expected_slope = reference.ACTIVATIONS[activation](z.astype(np.float64))
    # one unit in the last place of z moves the value by so much, whatever the formula
    unavoidable = np.abs(z.astype(np.float64) * expected_slope)
    assert_close(z, value, expected_value, np.abs(expected_value) + unavoidable)
    assert_close(z, slope, expected_slope, np.maximum(np.abs(expected_slope), 1), n_ulp=20)


def test_slope_is_the_central_difference(activation, instruction_set):
    z, h = np.linspace(-9, 9, 200), 1e-5  # no point lies within h of a kink at 0
    difference = (_core.apply_activation(activation, z + h)[0] - _core.apply_activation(activation, z - h)[0]) / (2 * h)
    np.testing.assert_allclose(_core.apply_activation(activation, z)[1], difference, rtol=1e-7, atol=1e-9)


def test_single_precision_agrees_with_double(activation, instruction_set):
    z = POINTS.astype(np.float32)
    for single, double in zip(
        _core.apply_activation(activation, z), _core.apply_activation(activation, z.astype(np.float64)), strict=True
    ):
        np.testing.assert_allclose(single, double, rtol=3e-6, atol=1e-6)


def test_any_length(activation, dtype, instruction_set):
    """An element's result depends neither on the length of the array nor on its place in it."""
    z = POINTS[:100].astype(dtype)
    whole = _core.apply_activation(activation, z)
    for length in range(101):
        for part, all_of_it in zip(_core.apply_activation(activation, z[:length]), whole, strict=True):
            np.testing.assert_array_equal(part, all_of_it[:length])
    for part, all_of_it in zip(_core.apply_activation(activation, z[1:].copy()), whole, strict=True):
        np.testing.assert_array_equal(part, all_of_it[1:])


def test_nan_propagates(activation, dtype, instruction_set):
    z = np.linspace(-2, 2, 21).astype(dtype)
    z[[0, 7, 20]] = np.nan
    value, slope = _core.apply_activation(activation, z)
    np.testing.assert_array_equal(np.isnan(value), np.isnan(z))
    assert np.isfinite(slope[~np.isnan(z)]).all()


HUGE = {dtype: float(np.finfo(dtype).max) / 4 for dtype in ("float32", "float64")}


def at_the_far_end(activation, z):
    """Value and slope by the oracle, whose intermediate numbers may overflow out there."""
    with np.errstate(all="ignore"):
        (value,), (slope,) = reference.ACTIVATIONS[activation](np.array([z]))
    return value, slope


@pytest.mark.parametrize("sign", [1, -1])
def test_huge_numbers(activation, dtype, instruction_set, sign):
    """A function that levels off has reached its limit; the others go on growing."""
    z = sign * HUGE[dtype]
    (value,), (slope,) = _core.apply_activation(activation, np.array([z], dtype))
    expected, expected_slope = at_the_far_end(activation, z)
    assert np.isfinite(value)
    assert value == pytest.approx(expected, rel=1e-6)
    assert slope == pytest.approx(expected_slope, rel=1e-6)


@pytest.mark.parametrize("sign", [1, -1])
def test_infinity_is_never_a_wrong_number(activation, dtype, instruction_set, sign):
    """The limit, or NaN where the formula is infinity times zero: a fit that diverges must not seem to recover."""
    (value,), (slope,) = _core.apply_activation(activation, np.array([sign * np.inf], dtype))
    far, far_slope = at_the_far_end(activation, sign * HUGE["float64"])
    limit = far if abs(far) < 1e150 else np.sign(far) * np.inf
    assert value == pytest.approx(limit, rel=1e-6) or np.isnan(value)
    assert slope == pytest.approx(far_slope, rel=1e-6) or np.isnan(slope)


def test_around_zero(activation, dtype, instruction_set):
    """Zeros of both signs and the smallest numbers, where a sloppy formula divides by zero."""
    info = np.finfo(dtype)
    z = np.array([0.0, -0.0, info.tiny, -info.tiny, info.smallest_subnormal, -info.smallest_subnormal], dtype)
    value, slope = _core.apply_activation(activation, z)
    expected_value, expected_slope = reference.ACTIVATIONS[activation](z.astype(np.float64))
    np.testing.assert_allclose(value, expected_value, rtol=4 * info.eps, atol=info.tiny)
    # at the kink itself either one-sided slope is right, and a subnormal number may count as zero
    sides = reference.ACTIVATIONS[activation](np.array([-1e-300, 1e-300]))[1]
    assert np.all(np.isclose(slope, expected_slope) | np.isclose(slope, sides[0]) | np.isclose(slope, sides[1]))


def test_relu_is_flat_at_zero(dtype, instruction_set):
    """As in scikit-learn: a unit that is exactly off does not learn."""
    np.testing.assert_array_equal(_core.apply_activation("relu", np.zeros(3, dtype))[1], 0)


@pytest.mark.parametrize("name", ["nope", "", "RELU"])
def test_unknown_name_lists_the_valid_ones(name):
    with pytest.raises(ValueError, match="relu") as error:
        _core.apply_activation(name, np.zeros(3))
    assert all(valid in str(error.value) for valid in _core.activations())


def test_catalogue_tells_formulas():
    assert _core.activations().keys() >= {"identity", "logistic", "tanh", "relu"}  # scikit-learn's own
    assert all(entry["formula"].strip() for entry in _core.activations().values())
