"""Losses as users of the estimators meet them: hyper-parameters, quantiles, variances, smoothed labels, focal loss."""

import pickle

import numpy as np
import pytest
from scipy import sparse
from scipy.stats import norm
from sklearn.base import clone
from sklearn.metrics import d2_pinball_score, mean_pinball_loss, r2_score
from sklearn.model_selection import GridSearchCV
from test_losses import targets

import fastmlp
from fastmlp import MLPClassifier, MLPRegressor, Network
from fastmlp._losses import CLASS_LOSSES, NUMBER_LOSSES, VARIANCE_LOSSES

RANDOM = np.random.RandomState(0)
X = RANDOM.uniform(-1, 1, (2000, 1))
SPREAD = 0.1 + 0.4 * (X[:, 0] + 1)  # of the noise: it grows with x
Y = np.sin(3 * X[:, 0]) + SPREAD * RANDOM.randn(2000)
BOTH = np.stack([Y, 2 - Y], axis=1)  # two targets
LEVELS = [0.05, 0.25, 0.5, 0.75, 0.95]
QUICK = {"hidden_layer_sizes": (6,), "max_iter": 3, "random_state": 0}
PATIENT = {"hidden_layer_sizes": (32, 32), "activation": "tanh", "learning_rate_init": 0.01, "random_state": 0}


def weights(model):
    return [array.tobytes() for array in model.coefs_ + model.intercepts_]


def bit_equal(a, b):
    np.testing.assert_array_equal(a, b)
    assert np.asarray(a).dtype == np.asarray(b).dtype


def quantiles_of(levels):
    """A regressor for these levels, at last with small steps: the gradient does not fade near the optimum."""
    model = MLPRegressor("quantile", loss_parameters={"quantile": levels}, max_iter=60, **PATIENT).fit(X, Y)
    return model.set_params(warm_start=True, learning_rate_init=1e-4, max_iter=30).fit(X, Y)


@pytest.fixture(scope="module")
def quantiles():
    return quantiles_of(LEVELS)


@pytest.fixture(scope="module")
def gaussian():
    return MLPRegressor("gaussian_nll", max_iter=60, **PATIENT).fit(X, Y)


# --- quantiles ------------------------------------------------------------------------------------------------------


def test_quantiles_cover_what_they_say(quantiles):
    """Also near both ends, where the noise is a ninth of what it is at the other."""
    below = Y[:, None] <= quantiles.predict(X)
    np.testing.assert_allclose(below.mean(axis=0), LEVELS, atol=0.03)
    for part in (X[:, 0] < -0.5, X[:, 0] > 0.5):
        np.testing.assert_allclose(below[part].mean(axis=0), LEVELS, atol=0.07)
    true = np.sin(3 * X) + SPREAD[:, None] * norm.ppf(LEVELS)
    assert np.abs(quantiles.predict(X) - true).mean() < 0.1


def test_quantiles_do_not_cross_and_sorting_makes_them_no_worse():
    """A training of three epochs leaves raw outputs that do cross."""
    model = MLPRegressor("quantile", loss_parameters={"quantile": LEVELS}, **QUICK).fit(X, Y)
    raw = Network([1, 6, 5], "relu", "squared_error")
    raw.weights, raw.biases = [w.T for w in model.coefs_], model.intercepts_
    crossed, answer = raw(X), model.predict(X)
    assert (np.diff(crossed, axis=1) < 0).any()
    bit_equal(answer, np.sort(crossed, axis=1))
    losses = [sum(mean_pinball_loss(Y, p[:, j], alpha=q) for j, q in enumerate(LEVELS)) for p in (answer, crossed)]
    assert losses[0] < losses[1]


def test_shapes_of_quantiles(quantiles):
    assert quantiles.n_outputs_ == 5
    assert quantiles.predict(X).shape == (2000, 5)
    one = MLPRegressor("quantile", loss_parameters={"quantile": 0.9}, **QUICK)
    assert one.fit(X, Y).predict(X).shape == (2000,)
    assert one.fit(X, BOTH).predict(X).shape == (2000, 2)
    many = MLPRegressor("quantile", loss_parameters={"quantile": [0.1, 0.5, 0.9]}, **QUICK).fit(X, BOTH)
    assert many.n_outputs_ == 6
    assert many.predict(X).shape == (2000, 2, 3)
    assert (np.diff(many.predict(X), axis=2) >= 0).all()


def test_one_level_is_scikit_learns_quantile_in_meaning():
    """The level 0.9 lies above nine tenths, and beats the mean by scikit-learn's own score."""
    answer = quantiles_of(0.9).predict(X)
    assert np.mean(answer >= Y) == pytest.approx(0.9, abs=0.03)
    assert d2_pinball_score(Y, answer, alpha=0.9) > 0.4


def test_score_is_of_the_level_nearest_to_the_median(quantiles):
    assert quantiles.score(X, Y) == r2_score(Y, quantiles.predict(X)[:, 2])
    many = MLPRegressor("quantile", loss_parameters={"quantile": [0.2, 0.6, 0.9]}, **QUICK).fit(X, BOTH)
    assert many.score(X, BOTH, SPREAD) == r2_score(BOTH, many.predict(X)[:, :, 1], sample_weight=SPREAD)


# --- mean and variance ----------------------------------------------------------------------------------------------


def test_the_noise_is_found(gaussian):
    mean, deviation = gaussian.predict(X, return_std=True)
    bit_equal(mean, gaussian.predict(X))
    assert np.abs(mean - np.sin(3 * X[:, 0])).mean() < 0.08
    assert np.abs(deviation / SPREAD - 1).mean() < 0.15
    assert gaussian.score(X, Y) == r2_score(Y, mean)


@pytest.mark.parametrize("scale", [1e-3, 1e3])
def test_noise_of_any_scale(scale):
    """The logarithm of the variance is learned, so that the scale of the targets hardly matters."""
    noise, settings = scale * RANDOM.randn(2000), {"solver": "lbfgs", "max_iter": 500, "random_state": 0}
    model = MLPRegressor("gaussian_nll", (4,), "tanh", loss_parameters={"eps": 1e-12}, **settings).fit(X, noise)
    _, deviation = model.predict(X, return_std=True)
    np.testing.assert_allclose(deviation / scale, 1, atol=0.3)


def test_shapes_of_means_and_deviations():
    model = MLPRegressor("gaussian_nll", **QUICK).fit(X, BOTH)
    assert model.n_outputs_ == 4
    mean, deviation = model.predict(X, return_std=True)
    assert mean.shape == deviation.shape == model.predict(X).shape == (2000, 2)
    outputs = model.compile()(X)
    bit_equal(outputs[:, ::2], mean)
    np.testing.assert_allclose(outputs[:, 1::2], deviation**2, rtol=1e-12)


def test_deviations_need_a_variance():
    for loss in set(NUMBER_LOSSES) - set(VARIANCE_LOSSES):
        model = MLPRegressor(loss, **QUICK).fit(X, np.abs(Y) + 0.1)
        with pytest.raises(ValueError, match=f"variance \\('gaussian_nll'\\), got loss='{loss}'"):
            model.predict(X, return_std=True)


# --- every loss for numbers ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("solver", ["adam", "lbfgs"])
@pytest.mark.parametrize("loss", NUMBER_LOSSES)
def test_every_loss_learns(loss, solver, dtype):
    """Dense or sparse, in both dtypes: the fit explains what a constant does not."""
    y = np.exp(Y / 2) if loss in ("gamma", "tweedie", "poisson") else Y
    model = MLPRegressor(loss, max_iter=40, solver=solver, dtype=dtype, **PATIENT)
    assert model.fit(X, y).score(X, y) > 0.4
    assert model.predict(X).dtype == dtype
    dense = model.predict(X)
    rows = sparse.csr_array(X)
    np.testing.assert_allclose(model.predict(rows), dense, rtol=1e-4, atol=1e-5)
    if solver == "adam":
        assert model.fit(rows, y).score(rows, y) > 0.4


@pytest.mark.parametrize("loss", ["absolute_error", "huber", "log_cosh"])
def test_outliers_do_not_matter(loss):
    """A twentieth of the targets is far off: the distances that grow slowly stay with the others."""
    spoiled = Y.copy()
    spoiled[::20] += 50
    errors = {}
    for name in (loss, "squared_error"):
        model = MLPRegressor(name, max_iter=60, **PATIENT).fit(X, spoiled)
        errors[name] = np.abs(model.predict(X) - np.sin(3 * X[:, 0])).mean()
    assert errors[loss] < 0.3
    assert errors[loss] < errors["squared_error"] / 3


@pytest.mark.parametrize("loss", NUMBER_LOSSES)
def test_a_weight_is_a_repeated_row(loss):
    counts = np.where(X[:, 0] > 0, 3, 1)
    y = np.abs(Y) + 0.1
    settings = {"hidden_layer_sizes": (6,), "solver": "sgd", "max_iter": 5, "random_state": 0}
    weighted = MLPRegressor(loss, batch_size=len(X), **settings).fit(X, y, counts)
    rows = np.repeat(X, counts, axis=0)
    repeated = MLPRegressor(loss, batch_size=len(rows), **settings).fit(rows, np.repeat(y, counts))
    np.testing.assert_allclose(weighted.coefs_[0], repeated.coefs_[0], rtol=1e-9)
    assert weighted.loss_ == pytest.approx(repeated.loss_, rel=1e-9)


@pytest.mark.parametrize("loss", NUMBER_LOSSES)
def test_reported_loss_of_several_targets(loss):
    """Distances report the mean over outputs, as scikit-learn does; negative log-likelihoods add up."""
    y, twice = np.abs(Y) + 0.1, np.stack([np.abs(Y) + 0.1] * 2, axis=1)
    alone = MLPRegressor(loss, (), solver="sgd", learning_rate_init=1e-9, alpha=0, max_iter=1, random_state=0).fit(X, y)
    both = clone(alone).fit(X, twice)
    both.coefs_, both.intercepts_ = ([np.concatenate([a, a], axis=-1)] for (a,) in (alone.coefs_, alone.intercepts_))
    both.warm_start = True
    alone.warm_start = True
    share = fastmlp._core.losses()[loss]["mean_over_outputs"]
    assert both.fit(X, twice).loss_ == pytest.approx(alone.fit(X, y).loss_ * (1 if share else 2), rel=1e-5)


# --- classes --------------------------------------------------------------------------------------------------------

THREE = np.digitize(Y, [-0.5, 0.5])
TARGETS = {"three": THREE, "two": THREE > 1, "labels": np.stack([THREE > 0, THREE > 1, Y > 0], axis=1).astype(int)}


@pytest.mark.parametrize("kind", TARGETS)
@pytest.mark.parametrize("loss", CLASS_LOSSES)
def test_every_loss_classifies(loss, kind):
    model = MLPClassifier(loss=loss, max_iter=30, **PATIENT).fit(X, TARGETS[kind])
    plain = MLPClassifier(max_iter=30, **PATIENT).fit(X, TARGETS[kind])
    assert model.out_activation_ == plain.out_activation_ == ("softmax" if kind == "three" else "logistic")
    assert model.score(X, TARGETS[kind]) > plain.score(X, TARGETS[kind]) - 0.05
    assert model.predict_proba(X).shape == plain.predict_proba(X).shape


@pytest.mark.parametrize("kind", TARGETS)
def test_smoothing_keeps_probabilities_off_the_ends(kind):
    """What the labels certainly are is learned as 1 - e + e/K."""
    certain = (X[:, 0] > 0).astype(int) if kind != "labels" else np.stack([X[:, 0] > 0, X[:, 0] < 0], 1).astype(int)
    settings = {"max_iter": 200, "hidden_layer_sizes": (20,), "solver": "lbfgs", "alpha": 0, "random_state": 0}
    y = certain if kind != "three" else certain + 2 * (X[:, 0] < -0.5)
    rows = np.abs(X[:, 0]) > 0.1
    rows &= np.abs(X[:, 0] + 0.5) > 0.1
    model = MLPClassifier(loss_parameters={"label_smoothing": 0.3}, **settings).fit(X[rows], y[rows])
    n_classes = 3 if kind == "three" else 2
    top = model.predict_proba(X[rows]).max(axis=1)
    assert np.median(top) == pytest.approx(1 - 0.3 + 0.3 / n_classes, abs=0.01)
    assert model.score(X[rows], y[rows]) > 0.99


def test_no_smoothing_and_no_focus_are_log_loss_bit_for_bit():
    for kind, y in TARGETS.items():
        plain = weights(MLPClassifier(**QUICK).fit(X, y))
        assert weights(MLPClassifier(**QUICK, loss_parameters={"label_smoothing": 0}).fit(X, y)) == plain
        if kind == "three":
            assert weights(MLPClassifier(**QUICK, loss="focal", loss_parameters={"gamma": 0}).fit(X, y)) == plain


def test_focal_loss_cares_for_the_hard_rows():
    """What is certain counts less: probabilities are less extreme, the worst rows are less wrong."""
    plain, focal = (MLPClassifier(loss=loss, max_iter=60, **PATIENT).fit(X, THREE) for loss in ("log_loss", "focal"))
    assert focal.predict_proba(X).max(axis=1).mean() < plain.predict_proba(X).max(axis=1).mean() - 0.02


# --- around them ----------------------------------------------------------------------------------------------------

PARAMETERS = [
    (MLPRegressor, "quantile", {"quantile": [0.1, 0.5, 0.9]}),
    (MLPRegressor, "gaussian_nll", {"eps": 0.01}),
    (MLPRegressor, "huber", {"delta": 0.3}),
    (MLPRegressor, "tweedie", {"power": 1.2}),
    (MLPClassifier, "focal", {"gamma": 1.0}),
    (MLPClassifier, "log_loss", {"label_smoothing": 0.2}),
]


def fitted(estimator, loss, parameters, n_targets=1, **settings):
    y = targets(loss, np.random.RandomState(1), 2000, n_targets).squeeze() if estimator is MLPRegressor else THREE
    return estimator(loss=loss, loss_parameters=parameters, **QUICK | settings).fit(X, y)


@pytest.mark.parametrize("n_targets", [1, 2])
@pytest.mark.parametrize(("estimator", "loss", "parameters"), PARAMETERS)
def test_saved_compiled_pickled(estimator, loss, parameters, n_targets, dtype, tmp_path):
    model = fitted(estimator, loss, parameters, n_targets, dtype=dtype)
    rows, path = X.astype(dtype), tmp_path / "model.safetensors"
    model.save(path, optimizer=True)
    predictor, loaded = fastmlp.load(path), estimator.load(path)
    assert loaded.get_params() == model.get_params()
    bit_equal(loaded.predict(rows), model.predict(rows))
    for each in (predictor, model.compile(), pickle.loads(pickle.dumps(predictor))):
        assert each.loss_parameters == {**fastmlp._core.losses()[loss]["hyperparameters"], **parameters}
        bit_equal(each.predict(rows), model.predict(rows))
        bit_equal(np.stack([each.predict(row) for row in rows[:5]]), model.predict(rows[:5]))
        bit_equal(np.stack([each(row) for row in rows[:5]]), each(rows)[:5])


@pytest.mark.parametrize(("estimator", "loss", "parameters"), PARAMETERS)
def test_training_goes_on_after_loading(estimator, loss, parameters, tmp_path):
    model = fitted(estimator, loss, parameters)
    model.save(tmp_path / "model", optimizer=True)
    y = THREE if estimator is MLPClassifier else np.abs(Y)
    assert weights(estimator.load(tmp_path / "model").partial_fit(X, y)) == weights(model.partial_fit(X, y))


def test_pickles_of_older_estimators():
    """They lack the newer parameters, and answer as before."""
    for model in (MLPClassifier(**QUICK).fit(X, THREE), MLPRegressor(**QUICK).fit(X, Y)):
        state = model.__getstate__()
        for name in ("loss_parameters", *(["loss"] if isinstance(model, MLPClassifier) else [])):
            del state[name]
        old = type(model).__new__(type(model))
        old.__setstate__(state)
        assert old.get_params() == model.get_params()
        bit_equal(old.predict(X), model.predict(X))
        old.partial_fit(X, THREE)


def test_searched_over_cloned_and_described():
    grid = [{"delta": 0.1}, {"delta": 10.0}]
    search = GridSearchCV(MLPRegressor("huber", **QUICK), {"loss_parameters": grid}, cv=2).fit(X, Y)
    assert search.best_params_["loss_parameters"] in grid
    model = clone(MLPRegressor("huber", loss_parameters=grid[0]))
    assert model.loss_parameters == grid[0]
    assert "loss_parameters={'delta': 0.1}" in repr(model)


def test_parameters_are_numbers_of_any_kind():
    plain = fitted(MLPRegressor, "quantile", {"quantile": [0.25, 0.75]})
    for values in ((0.25, 0.75), np.array([0.25, 0.75]), np.array([0.25, 0.75], np.float32)):
        assert weights(fitted(MLPRegressor, "quantile", {"quantile": values})) == weights(plain)
    assert weights(fitted(MLPRegressor, "huber", {"delta": np.float32(2)})) == weights(
        fitted(MLPRegressor, "huber", {"delta": 2})
    )


def test_classes_and_numbers_have_their_own_losses():
    assert set(NUMBER_LOSSES) & set(CLASS_LOSSES) == set()
    with pytest.raises(ValueError, match=r"'loss' parameter of MLPClassifier must be a str among .*'focal'.*'huber'"):
        MLPClassifier(loss="huber").fit(X, THREE)
    with pytest.raises(ValueError, match=r"'loss' parameter of MLPRegressor must be a str among .*'huber'.*'focal'"):
        MLPRegressor("focal").fit(X, Y)


@pytest.mark.parametrize(("loss", "bad"), [("gamma", 0.0), ("tweedie", -1.0)])
def test_targets_that_a_loss_does_not_accept(loss, bad):
    with pytest.raises(ValueError, match=f"targets of the loss '{loss}' must be .*, got {bad}"):
        MLPRegressor(loss, **QUICK).fit(X, np.where(X[:, 0] > 0.9, bad, 1.0))


def test_network_class():
    net = Network([2, 6], loss="quantile", loss_parameters={"quantile": [0.1, 0.5, 0.9]}, random_state=0)
    assert net.n_targets == 2
    assert net.loss([[1.0, 2.0]], [[3.0, 4.0]]) > 0
    assert (np.diff(net([1.0, 2.0]).reshape(2, 3)) >= 0).all()
    with pytest.raises(ValueError, match="loss 'quantile' needs 3 outputs for each target"):
        Network([2, 4], loss="quantile", loss_parameters={"quantile": [0.1, 0.5, 0.9]})
    with pytest.raises(ValueError, match=r"y must have shape \(1, 2\) for this X and 6 outputs, got \(1, 6\)"):
        net.loss([[1.0, 2.0]], [[3.0] * 6])
    classes = Network([2, 3], loss="focal", random_state=0)
    assert classes.loss([[1.0, 2.0]], [1]) == classes.loss([[1.0, 2.0]], [[0, 1, 0]])
