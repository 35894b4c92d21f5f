"""The learning rate range test: what it tries, what it sees, what it suggests."""

import matplotlib as mpl
import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.linear_model import SGDClassifier

from fastmlp import MLPClassifier, MLPRegressor, lr_find
from fastmlp._lr_find import RangeTest
from fastmlp.schedules import Cosine, Exponential

X, y = load_digits(return_X_y=True)
X = X[:500] / 16
y = y[:500]
SETTINGS = {"hidden_layer_sizes": (20,), "batch_size": 50, "random_state": 0}


def test_rates_rise_over_whole_epochs():
    result = lr_find(MLPClassifier(**SETTINGS), X, y, min_rate=1e-4, max_rate=1.0, n_steps=25)
    np.testing.assert_allclose(result.rates, 1e-4 * 1e4 ** (np.arange(30) / 30))
    assert result.losses.shape == (30,)


@pytest.mark.parametrize("solver", ["sgd", "adam", "lion"])
def test_losses_are_those_of_a_training_with_these_rates(solver):
    """With the estimator's own settings, sample weights included."""
    estimator = MLPClassifier(**SETTINGS, solver=solver, alpha=0.1, clip_norm=1.0)
    weights = np.linspace(0, 1, len(y))
    result = lr_find(estimator, X, y, weights, min_rate=1e-5, max_rate=0.1, n_steps=30)
    settings = {"learning_rate": Exponential(1e4), "learning_rate_init": 1e-5, "max_iter": 3}
    model = MLPClassifier(**{**estimator.get_params(), **settings}).fit(X, y, weights)
    np.testing.assert_allclose(result.losses.reshape(3, 10).mean(axis=1), model.loss_curve_, rtol=1e-14)


def test_the_estimator_is_not_changed():
    stopping = {"early_stopping": True, "max_iter": 3, "learning_rate": Cosine(), "verbose": True}
    estimator = MLPClassifier(**SETTINGS, **stopping).fit(X, y)
    before, coefs = estimator.get_params(), [coef.copy() for coef in estimator.coefs_]
    lr_find(estimator, X, y, n_steps=10)
    assert estimator.get_params() == before
    for coef, was in zip(estimator.coefs_, coefs, strict=True):
        np.testing.assert_array_equal(coef, was)
    assert not hasattr(estimator, "_batch_losses")


def test_it_prints_and_warns_nothing(capsys, recwarn):
    lr_find(MLPClassifier(random_state=0, batch_size=1000, verbose=True), X, y, n_steps=10)
    assert capsys.readouterr().out == ""
    assert not recwarn.list


@pytest.mark.parametrize("solver", ["sgd", "adam"])
def test_the_suggestion_trains(solver):
    """Between rates that do nothing and rates that destroy."""
    estimator = MLPClassifier(**SETTINGS, solver=solver, max_iter=20)
    rate = lr_find(estimator, X, y).suggestion
    scores = [estimator.set_params(learning_rate_init=rate * k).fit(X, y).score(X, y) for k in (1e-3, 1, 1e3)]
    assert scores[1] > 0.9 > max(scores[0], scores[2])


def test_a_training_that_diverges_is_what_it_looks_for():
    result = lr_find(MLPRegressor(**SETTINGS, solver="sgd"), X, y.astype(float), max_rate=1e6)
    diverged = np.isnan(result.losses)
    assert diverged[-1]
    assert not diverged[:50].any()
    assert result.suggestion < result.rates[diverged.argmax()]


def valley(n=200):
    """Losses that fall fastest at 1e-3 and rise again beyond 1e-1."""
    rates = np.logspace(-6, 1, n)
    position = np.log10(rates)
    return RangeTest(rates, 2 - np.tanh(2 * (position + 3)) + np.exp(6 * (position + 0.5)))


def test_the_suggestion_is_the_steepest_descent():
    assert valley().suggestion == pytest.approx(1e-3, rel=0.05)
    noisy = valley()
    noisy = RangeTest(noisy.rates, noisy.losses + np.random.RandomState(0).randn(200) / 5)
    assert 3e-4 < noisy.suggestion < 3e-3


def test_smoothing_keeps_a_constant():
    np.testing.assert_allclose(RangeTest(np.logspace(-3, 0, 50), np.full(50, 2.0)).smoothed, 2.0)


def test_losses_that_only_rise_suggest_nothing():
    rising = RangeTest(np.logspace(-3, 0, 50), np.arange(50.0))
    with pytest.raises(ValueError, match="smaller min_rate"):
        _ = rising.suggestion


def test_the_picture():
    mpl.use("agg")
    from matplotlib import pyplot

    result = valley()
    ax = pyplot.subplots()[1]
    assert result.plot(ax) is ax
    assert ax.get_xscale() == "log"
    losses, smoothed, suggestion = ax.get_lines()
    np.testing.assert_array_equal(losses.get_data(), [result.rates, result.losses])
    np.testing.assert_array_equal(smoothed.get_data(), [result.rates, result.smoothed])
    assert suggestion.get_xdata()[0] == result.suggestion
    assert ax.get_ylim()[1] < result.losses.max()  # the explosion must not flatten the valley
    assert result.plot().figure is not ax.figure
    pyplot.close("all")


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"estimator": SGDClassifier()}, TypeError, r"MLPClassifier or MLPRegressor, got SGDClassifier\(\)"),
        ({"estimator": MLPClassifier(solver="lbfgs")}, ValueError, "lbfgs.* no learning rate"),
        ({"min_rate": 0.0}, ValueError, "0 < min_rate < max_rate < inf must hold, got 0.0 and 10.0"),
        ({"max_rate": 1e-7}, ValueError, "got 1e-06 and 1e-07"),
        ({"max_rate": np.inf}, ValueError, "got 1e-06 and inf"),
        ({"n_steps": 9}, ValueError, "n_steps must be at least 10, got 9"),
        ({"X": X * np.nan}, ValueError, "NaN"),
    ],
)
def test_bad_arguments_are_named(arguments, error, message):
    with pytest.raises(error, match=message):
        lr_find(**{"estimator": MLPClassifier(**SETTINGS), "X": X, "y": y, **arguments})
