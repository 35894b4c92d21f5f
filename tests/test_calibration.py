"""Temperatures, prediction sets and intervals, beside plain NumPy and what their promises say of few rows."""

import pickle
from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest
from scipy.optimize import minimize_scalar
from scipy.sparse import csr_array
from scipy.special import expit, log_expit, log_softmax, logit
from sklearn.base import clone
from sklearn.datasets import make_classification, make_multilabel_classification
from sklearn.exceptions import ConvergenceWarning, DataConversionWarning, NotFittedError
from sklearn.metrics import log_loss

from fastmlp import MLPClassifier, MLPRegressor, load
from fastmlp._calibration import conformal_quantile, fit_temperature, mass_above
from fastmlp.files import ModelFileError

RANDOM = np.random.RandomState(0)
QUICK = {"hidden_layer_sizes": (16,), "learning_rate_init": 0.02, "max_iter": 30, "random_state": 0}


def three_classes(n, seed=0):
    X, y = make_classification(
        n, n_features=6, n_informative=4, n_classes=3, n_clusters_per_class=1, flip_y=0.3, random_state=seed
    )
    return X, np.array(["ash", "elm", "oak"])[y]


def heteroscedastic(n, seed=0):
    random = np.random.RandomState(seed)
    X = random.uniform(-1, 1, (n, 2))
    return X, X[:, 0] + (0.05 + np.abs(X[:, 1])) * random.standard_normal(n)


X, y = three_classes(900)
TRAIN, HELD_OUT, TEST = slice(0, 300), slice(300, 600), slice(600, 900)
KINDS = {
    "binary": (X, (y == "oak").astype(int)),
    "multiclass": (X, y),
    "multilabel": make_multilabel_classification(900, n_features=6, n_classes=4, random_state=0),
}


def fitted(kind="multiclass", **parameters):
    rows, targets = KINDS[kind]
    return MLPClassifier(**QUICK | parameters).fit(rows[TRAIN], targets[TRAIN])


def weights(model):
    return [array.tobytes() for array in model.coefs_ + model.intercepts_]


# --- temperature ----------------------------------------------------------------------------------------------------


def loss_at(temperature, logits, targets, sample_weight):
    """Log loss in NumPy: for class numbers of softmax, for a table of 0 and 1 of logistic outputs."""
    z = logits / temperature
    if targets.ndim == 1:
        losses = -log_softmax(z, axis=1)[np.arange(len(z)), targets]
    else:
        losses = -np.where(targets == 1, log_expit(z), log_expit(-z)).sum(axis=1)
    return np.average(losses, weights=sample_weight)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("n_outputs", [1, 3])
@pytest.mark.parametrize("link", ["softmax", "logistic"])
@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e4])
def test_no_other_temperature_is_better(link, n_outputs, weighted, scale):
    """Beside SciPy's minimiser of the values; ours goes by the slope and is the more exact of the two."""
    random = np.random.RandomState(n_outputs)
    n_outputs += link == "softmax"
    logits = scale * random.standard_normal((80, n_outputs))
    if link == "softmax":
        targets = np.array([random.choice(n_outputs, p=p) for p in np.exp(log_softmax(logits / scale / 2, axis=1))])
    else:
        targets = (random.uniform(size=logits.shape) < expit(logits / scale / 2)).astype(int)
    sample_weight = random.uniform(0, 2, 80) if weighted else None
    found = fit_temperature(logits, targets, sample_weight)
    wanted = minimize_scalar(
        lambda t: loss_at(np.exp(t), logits, targets, sample_weight),
        bounds=(np.log(scale) - 4, np.log(scale) + 4),
        method="bounded",
        options={"xatol": 1e-10},
    )
    assert found == pytest.approx(np.exp(wanted.x), rel=1e-6)
    assert loss_at(found, logits, targets, sample_weight) <= wanted.fun * (1 + 1e-14)


def test_a_known_temperature():
    """Three of four rows are right, each with the logit log 27: three quarters is the logistic function of log 3."""
    logits = np.full((4, 1), np.log(27))
    assert fit_temperature(logits, np.array([[1], [1], [1], [0]])) == pytest.approx(3, rel=1e-12)


@pytest.mark.parametrize("loss", ["log_loss", "focal"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_probabilities_become_those_of_the_scaled_logits(kind, loss, dtype):
    rows, targets = KINDS[kind]
    model = fitted(kind, loss=loss, dtype=dtype)
    before, labels = model.predict_proba(rows[TEST]).astype(np.float64), model.predict(rows)
    assert model.calibrate(rows[HELD_OUT], targets[HELD_OUT]) is model
    T, after = model.temperature_, model.predict_proba(rows[TEST])
    assert T != 1
    if kind == "multiclass":
        wanted = before ** (1 / T) / (before ** (1 / T)).sum(axis=1, keepdims=True)
    else:
        wanted = expit(logit(before) / T)
    assert after.dtype == dtype
    np.testing.assert_allclose(
        after, wanted, rtol=1e-4 if dtype == "float32" else 1e-9, atol=1e-5 * (after.itemsize < 8)
    )
    np.testing.assert_array_equal(model.predict(rows), labels)


def test_held_out_log_loss_falls_and_is_smallest():
    model = fitted()
    before = log_loss(y[HELD_OUT], model.predict_proba(X[HELD_OUT]))
    test_before = log_loss(y[TEST], model.predict_proba(X[TEST]))
    model.calibrate(X[HELD_OUT], y[HELD_OUT])
    assert log_loss(y[HELD_OUT], model.predict_proba(X[HELD_OUT])) < before
    assert log_loss(y[TEST], model.predict_proba(X[TEST])) < test_before
    probabilities, numbers = model.predict_proba(X[HELD_OUT]), np.searchsorted(model.classes_, y[HELD_OUT])
    assert fit_temperature(np.log(probabilities), numbers) == pytest.approx(1, abs=1e-9)


def test_weights_count_like_repeats():
    counts = np.random.RandomState(1).randint(0, 3, 300)
    repeated = np.repeat(np.arange(300, 600), counts)
    by_weight = fitted().calibrate(X[HELD_OUT], y[HELD_OUT], counts).temperature_
    assert by_weight == pytest.approx(fitted().calibrate(X[repeated], y[repeated]).temperature_, rel=1e-9)
    assert by_weight != fitted().calibrate(X[HELD_OUT], y[HELD_OUT]).temperature_


def test_all_that_knows_the_weights_knows_the_temperature(tmp_path):
    model = fitted(normalization="layer_norm", residual=True, hidden_layer_sizes=(8, 8))
    scales, coefs = model.scales_[0].copy(), [coef.copy() for coef in model.coefs_]
    model.calibrate(X[HELD_OUT], y[HELD_OUT])
    np.testing.assert_allclose(model.coefs_[-1] * model.temperature_, coefs[-1], rtol=1e-14)
    np.testing.assert_array_equal(model.coefs_[0], coefs[0])
    np.testing.assert_array_equal(model.scales_[0], scales)
    model.save(tmp_path / "model.safetensors")
    answers = [
        model.compile()(X),
        load(tmp_path / "model.safetensors")(X),
        pickle.loads(pickle.dumps(model)).predict_proba(X),
    ]
    for answer in answers:
        np.testing.assert_array_equal(answer, model.predict_proba(X))


def test_the_same_bits_for_any_number_of_threads():
    models = [fitted(n_jobs=n_jobs).calibrate(X[HELD_OUT], y[HELD_OUT]) for n_jobs in (1, 3)]
    assert weights(models[0]) == weights(models[1])
    assert models[0].conformity_scores_.tobytes() == models[1].conformity_scores_.tobytes()


def test_rows_of_every_kind():
    """Data frames, sparse matrices and lists; labels in a column, and sparse ones."""
    pandas = pytest.importorskip("pandas", reason="data frames need pandas")
    wanted = fitted().calibrate(X[HELD_OUT], y[HELD_OUT])
    frame = pandas.DataFrame(X, columns=list("abcdef"))
    named = MLPClassifier(**QUICK).fit(frame[TRAIN], y[TRAIN]).calibrate(frame[HELD_OUT], pandas.Series(y)[HELD_OUT])
    others = [
        fitted().calibrate(csr_array(X[HELD_OUT]), y[HELD_OUT]),
        fitted().calibrate(X[HELD_OUT].tolist(), y[HELD_OUT].tolist()),
    ]
    for model in (named, *others):
        assert model.temperature_ == pytest.approx(wanted.temperature_, rel=1e-9)
    np.testing.assert_array_equal(named.predict_set(frame), wanted.predict_set(X))
    with pytest.warns(DataConversionWarning):
        fitted().calibrate(X[HELD_OUT], y[HELD_OUT, np.newaxis])
    rows, labels = KINDS["multilabel"]
    sparse = fitted("multilabel").calibrate(rows[HELD_OUT], csr_array(labels[HELD_OUT]))
    assert sparse.temperature_ == fitted("multilabel").calibrate(rows[HELD_OUT], labels[HELD_OUT]).temperature_


def test_arrays_of_others_are_not_changed():
    model, donor = fitted(), fitted()
    model.coefs_, model.intercepts_ = donor.coefs_, donor.intercepts_
    before = weights(donor)
    assert weights(model.calibrate(X[HELD_OUT], y[HELD_OUT])) != before == weights(donor)


def test_no_temperature_where_none_is_best():
    with pytest.warns(ConvergenceWarning, match="no row is classified wrongly: it stays 1"):
        assert fit_temperature(np.array([[3.0, 1.0], [0.0, 2.0]]), np.array([0, 1])) == 1
    with pytest.warns(ConvergenceWarning, match="no better than chance: it stays 1"):
        assert fit_temperature(np.array([[3.0, 1.0], [0.0, 2.0]]), np.array([1, 0])) == 1
    model = fitted()
    right = np.flatnonzero(model.predict(X[HELD_OUT]) == y[HELD_OUT]) + 300
    before = weights(model)
    with pytest.warns(ConvergenceWarning, match="classified wrongly"):
        model.calibrate(X[right], y[right])
    assert model.temperature_ == 1
    assert weights(model) == before


# --- with the rows that early stopping sets aside -------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_a_temperature_at_the_end_of_fit(kind):
    """From validation data, with its weights; the network is that of the best epoch."""
    rows, targets = KINDS[kind]
    given = {"X_val": rows[HELD_OUT], "y_val": targets[HELD_OUT], "sample_weight_val": np.arange(300)}
    plain, asked = (
        MLPClassifier(**QUICK, early_stopping=True, calibration=how).fit(rows[TRAIN], targets[TRAIN], **given)
        for how in (None, "temperature")
    )
    assert not hasattr(plain, "temperature_")
    plain.calibrate(rows[HELD_OUT], targets[HELD_OUT], np.arange(300))
    assert plain.temperature_ == asked.temperature_ != 1
    assert weights(plain) == weights(asked)
    with pytest.raises((NotFittedError, ValueError)):
        asked.predict_set(rows)  # the rows have chosen the epoch: they cannot promise a coverage


def test_a_temperature_from_rows_that_were_set_aside():
    settings = QUICK | {"early_stopping": True, "validation_fraction": [(np.arange(300), np.arange(300, 600))]}
    model = MLPClassifier(**settings, calibration="temperature").fit(X[:600], y[:600])
    by_hand = MLPClassifier(**settings).fit(X[:600], y[:600]).calibrate(X[HELD_OUT], y[HELD_OUT])
    assert model.temperature_ == by_hand.temperature_
    assert weights(model) == weights(by_hand)
    np.testing.assert_array_equal(clone(model).fit(X[:600], y[:600]).predict_proba(X), model.predict_proba(X))


def test_a_temperature_at_the_end_of_fit_with_data_frames():
    pandas = pytest.importorskip("pandas", reason="data frames need pandas")
    frame = pandas.DataFrame(X, columns=list("abcdef"))
    model = MLPClassifier(**QUICK, early_stopping=True, calibration="temperature").fit(frame, y)  # warns of nothing
    assert model.temperature_ != 1


def test_a_temperature_at_the_end_of_fit_needs_rows():
    needs = "calibration='temperature' needs rows that are not trained on: early_stopping=True, or X_val and y_val"
    for model in (MLPClassifier(calibration="temperature"), MLPClassifier(calibration="temperature", solver="lbfgs")):
        with pytest.raises(ValueError, match=needs):
            model.fit(X, y)
    with pytest.raises(ValueError, match=needs):
        MLPClassifier(calibration="temperature").partial_fit(X, y, classes=np.unique(y))
    with pytest.raises(ValueError, match="'calibration' parameter of MLPClassifier must be"):
        MLPClassifier(calibration="isotonic").fit(X, y)


# --- what is kept, and for how long ---------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["fit", "partial_fit", "warm_start"])
def test_training_forgets_and_goes_on_from_the_folded_weights(how):
    model = fitted(warm_start=how == "warm_start", solver="sgd").calibrate(X[HELD_OUT], y[HELD_OUT])
    other = pickle.loads(pickle.dumps(model))
    del other.temperature_, other.conformity_scores_
    for one in (model, other):
        getattr(one, "partial_fit" if how == "partial_fit" else "fit")(X[TRAIN], y[TRAIN])
    assert weights(model) == weights(other)
    assert (weights(model) == weights(fitted(solver="sgd"))) == (how == "fit")
    assert not hasattr(model, "temperature_")
    with pytest.raises(NotFittedError, match="MLPClassifier is not calibrated: call 'calibrate'"):
        model.predict_set(X)


def test_calibrated_twice_is_calibrated_once():
    model = fitted().calibrate(X[HELD_OUT], y[HELD_OUT])
    before = model.predict_proba(X)
    assert model.calibrate(X[HELD_OUT], y[HELD_OUT]).temperature_ == pytest.approx(1, abs=1e-9)
    np.testing.assert_allclose(model.predict_proba(X), before, rtol=1e-7)


@pytest.mark.parametrize("estimator", [MLPClassifier, MLPRegressor])
def test_what_comes_back_from_pickles_and_files(estimator, tmp_path):
    targets = {MLPClassifier: y, MLPRegressor: X[:, :2] @ [[1.0, 0], [2, 3]]}[estimator]
    model = estimator(**QUICK).fit(X[TRAIN], targets[TRAIN]).calibrate(X[HELD_OUT], targets[HELD_OUT])
    method = "predict_set" if estimator is MLPClassifier else "predict_interval"
    model.save(tmp_path / "model.safetensors")
    for copy in (pickle.loads(pickle.dumps(model)), estimator.load(tmp_path / "model.safetensors")):
        np.testing.assert_array_equal(copy.conformity_scores_, model.conformity_scores_)
        assert getattr(copy, "temperature_", None) == getattr(model, "temperature_", None)
        np.testing.assert_array_equal(getattr(copy, method)(X[TEST]), getattr(model, method)(X[TEST]))
    fresh = clone(model)
    assert not hasattr(fresh, "conformity_scores_")
    with pytest.raises(NotFittedError):
        getattr(fresh, method)(X)


@pytest.mark.parametrize(
    ("scores", "temperature"),
    [
        ([0.2, 0.1], 2.0),
        ([0.1, np.nan], 2.0),
        ([0.1, np.inf], 2.0),
        ([], 2.0),
        ([[0.1, 0.2]], 2.0),
        (np.float32([0.1]), 2.0),
        ([0.1, 0.2], 0.0),
        ([0.1, 0.2], None),
    ],
)
def test_files_with_wrong_scores(scores, temperature, tmp_path):
    model = fitted().calibrate(X[HELD_OUT], y[HELD_OUT])
    path = tmp_path / "model.safetensors"
    model.conformity_scores_ = np.asarray(scores)
    model.temperature_ = temperature
    if temperature is None:
        del model.temperature_
    model.save(path)
    with pytest.raises(ModelFileError, match=r"conformity_scores.* (sorted finite numbers|need the attribute)"):
        MLPClassifier.load(path)
    np.testing.assert_array_equal(load(path)(X), model.predict_proba(X))  # who only predicts passes them over


# --- the promise of conformal prediction ----------------------------------------------------------------------------


def test_the_quantile_is_exact_for_every_size():
    for n in range(1, 40):
        scores = np.arange(1.0, n + 1)
        for percent in range(1, 100):
            rank = -(-(n + 1) * percent // 100)  # the ceiling, in integers
            if rank <= n:
                assert conformal_quantile(scores, percent / 100) == rank
            else:
                needed = next(m for m in range(1, 200) if Fraction(percent, 100) * (m + 1) <= m)
                with pytest.raises(ValueError, match=rf"needs at least {needed} calibration rows, got {n}: "):
                    conformal_quantile(scores, percent / 100)


@pytest.mark.parametrize("coverage", [0, 1, 0.0, 1.5, -0.1, np.nan, True, "0.9", None])
def test_wrong_coverages(coverage):
    with pytest.raises(ValueError, match="coverage must be a number above 0 and below 1, got "):
        conformal_quantile(np.arange(100.0), coverage)


def left_out(n):
    """Each row once as the new one. Rows that are drawn alike could have come in any order, so this is all there is."""
    for i in range(n):
        yield i, np.delete(np.arange(n), i)


def half_of_the_square(y, output, sample_weight):
    return np.square(output - y).sum() / 2 / len(y), (output - y) / len(y)


REGRESSIONS = {
    "distance": {"loss": "squared_error"},
    "function": {"loss": half_of_the_square},
    "quantiles": {"loss": "quantile", "loss_parameters": {"quantile": [0.3, 0.5, 0.7]}},
    "variance": {"loss": "gaussian_nll"},
}


@pytest.mark.parametrize("coverage", [0.3, 0.5, 0.8, 0.9])
@pytest.mark.parametrize("kind", REGRESSIONS)
def test_intervals_cover_exactly_as_often_as_promised(kind, coverage):
    rows, targets = heteroscedastic(100)
    model = MLPRegressor(**QUICK | REGRESSIONS[kind]).fit(rows[:80], targets[:80])
    few, true, n = rows[80:], targets[80:], 20
    covered = 0
    for i, others in left_out(n):
        low, high = model.calibrate(few[others], true[others]).predict_interval(few[[i]], coverage)[0]
        covered += low <= true[i] <= high
    assert covered == np.ceil(n * coverage)  # no two residuals are equal


@pytest.mark.parametrize("coverage", [0.3, 0.5, 0.8, 0.9])
@pytest.mark.parametrize("kind", ["binary", "multiclass"])
def test_sets_cover_at_least_as_often_as_promised(kind, coverage):
    """Also with the temperature from the same rows, which would spoil the promise if it moved the scores."""
    rows, targets = KINDS[kind]
    few, true, n = rows[400:420], targets[400:420], 20
    numbers = np.unique(targets, return_inverse=True)[1][400:420]
    covered = 0
    fresh = pickle.dumps(fitted(kind))
    for i, others in left_out(n):
        sets = pickle.loads(fresh).calibrate(few[others], true[others]).predict_set(few[[i]], coverage)
        covered += sets[0, numbers[i]]
    right = (pickle.loads(fresh).predict(few) == true).sum()
    assert max(n * coverage, right) <= covered <= max(np.ceil(n * coverage), right)


@pytest.mark.parametrize("kind", REGRESSIONS)
def test_coverage_of_intervals_on_many_rows(kind):
    rows, targets = heteroscedastic(3400)
    model = MLPRegressor(**QUICK | REGRESSIONS[kind]).fit(rows[:400], targets[:400])
    model.calibrate(rows[400:1400], targets[400:1400])
    for coverage in (0.5, 0.9, 0.99):
        low, high = model.predict_interval(rows[1400:], coverage).T
        hits = ((low <= targets[1400:]) & (targets[1400:] <= high)).sum()
        # the coverage itself varies with the calibration rows: beta(k, n + 1 - k), here of 1000 rows
        deviation = 5 * np.sqrt(coverage * (1 - coverage) * (1 / 1000 + 1 / 2000))
        assert abs(hits / 2000 - coverage) < deviation


def test_intervals_adapt_where_the_loss_does():
    """Where the targets scatter more, variance and quantiles give wider intervals; distances cannot."""
    rows, targets = heteroscedastic(2000)
    calm, wild = np.array([[0.0, 0.0]]), np.array([[0.0, 1.0]])
    for kind in REGRESSIONS:
        model = MLPRegressor(**QUICK | REGRESSIONS[kind] | {"max_iter": 60}).fit(rows[:1000], targets[:1000])
        model.calibrate(rows[1000:], targets[1000:])
        narrow, wide = np.diff(model.predict_interval(np.vstack([calm, wild])))[:, 0]
        if kind in ("distance", "function"):
            assert narrow == pytest.approx(wide)
        else:
            assert wide > 1.5 * narrow


def test_several_targets_each_by_itself():
    rows, target = heteroscedastic(900)
    targets = np.stack([target, 100 * rows[:, 1]], axis=1)
    for kind in REGRESSIONS:
        model = MLPRegressor(**QUICK | REGRESSIONS[kind]).fit(rows[TRAIN], targets[TRAIN])
        intervals = model.calibrate(rows[HELD_OUT], targets[HELD_OUT]).predict_interval(rows[TEST], 0.8)
        assert intervals.shape == (300, 2, 2)
        assert model.conformity_scores_.shape == (300, 2)
        assert (np.diff(model.conformity_scores_, axis=0) >= 0).all()
        covered = ((intervals[..., 0] <= targets[TEST]) & (targets[TEST] <= intervals[..., 1])).mean(axis=0)
        assert (np.abs(covered - 0.8) < 5 * np.sqrt(0.16 * 2 / 300)).all()


def test_intervals_by_hand():
    """Symmetric, with quantiles, and with a standard deviation, from what ``predict`` says."""
    rows, targets = heteroscedastic(100)
    for kind in REGRESSIONS:
        model = MLPRegressor(**QUICK | REGRESSIONS[kind]).fit(rows[:50], targets[:50])
        if kind == "variance":
            mean, scale = model.predict(rows, return_std=True)
            low = high = mean
        else:
            values = model.predict(rows).reshape(100, -1)
            low, high, scale = values[:, 0], values[:, -1], np.ones(100)
        scores = np.sort(np.maximum(low - targets, targets - high)[50:] / scale[50:])
        for coverage in (0.2, 0.9):
            q = scores[int(np.ceil(51 * coverage)) - 1]
            wanted = np.stack([low - q * scale, high + q * scale], axis=1)
            crossed = wanted[:, 0] > wanted[:, 1]
            wanted[crossed] = wanted[crossed].mean(axis=1, keepdims=True)
            found = model.calibrate(rows[50:], targets[50:]).predict_interval(rows, coverage)
            np.testing.assert_allclose(found, wanted, rtol=1e-12)
            assert (found[:, 0] <= found[:, 1]).all()


def test_quantiles_moved_inwards_end_as_points():
    rows, targets = heteroscedastic(200)
    levels = {"quantile": [0.01, 0.99]}
    model = MLPRegressor("quantile", **QUICK | {"max_iter": 100}, loss_parameters=levels).fit(rows[:100], targets[:100])
    widths = np.diff(model.calibrate(rows[100:], targets[100:]).predict_interval(rows, 0.05))
    assert (widths >= 0).all()
    assert (widths == 0).any()


def test_intervals_of_counts_are_never_below_zero():
    rows, _ = heteroscedastic(300)
    counts = np.random.RandomState(0).poisson(np.exp(rows[:, 0]))
    model = MLPRegressor("poisson", **QUICK).fit(rows[:100], counts[:100]).calibrate(rows[100:], counts[100:])
    intervals = model.predict_interval(rows, 0.95)
    assert intervals.min() == 0
    assert ((intervals[100:, 0] <= counts[100:]) & (counts[100:] <= intervals[100:, 1])).mean() > 0.94


def test_mass_above_by_hand():
    found = mass_above(np.array([[0.2, 0.5, 0.3], [0.25, 0.5, 0.25], [1, 0, 0], [1 / 3, 1 / 3, 1 / 3]]))
    np.testing.assert_allclose(found, [[0.8, 0, 0.5], [0.5, 0, 0.5], [0, 1, 1], [0, 0, 0]], rtol=1e-15)
    flattened = np.array([[0.2, 0.5, 0.3]]) ** 0.5
    flattened /= flattened.sum()
    np.testing.assert_allclose(mass_above(flattened, 2.0), [[0.8, 0, 0.5]], rtol=1e-12)
    assert mass_above(np.array([[0.1, 0.9]]), 1e9).tolist() == [[1.0, 0.0]]  # nothing becomes NaN


def test_sets_are_those_of_the_probabilities_before_the_temperature():
    """Else the rows that a quantile is taken of would have chosen what is measured, and nothing were exact."""
    model = fitted()
    before, numbers = model.predict_proba(X), np.searchsorted(model.classes_, y)
    above = np.where(before[:, np.newaxis, :] > before[:, :, np.newaxis], before[:, np.newaxis, :], 0).sum(axis=2)
    scores = np.sort(above[np.arange(900), numbers][HELD_OUT])
    model.calibrate(X[HELD_OUT], y[HELD_OUT])
    np.testing.assert_allclose(model.conformity_scores_, scores, rtol=1e-9, atol=1e-14)
    for coverage in (0.7, 0.9, 0.95):
        quantile = scores[int(np.ceil(301 * coverage)) - 1]
        sure = np.abs(above - quantile) > 1e-9  # the row that is the quantile may fall to either side by rounding
        np.testing.assert_array_equal(model.predict_set(X, coverage)[sure], (above <= quantile)[sure])


def test_sets_grow_with_coverage_and_hold_the_prediction():
    model = fitted().calibrate(X[HELD_OUT], y[HELD_OUT])
    sets = [model.predict_set(X[TEST], coverage) for coverage in (0.01, 0.5, 0.8, 0.9, 0.99)]
    predicted = np.searchsorted(model.classes_, model.predict(X[TEST]))
    for small, large in pairwise(sets):
        assert small.dtype == bool
        assert small.shape == (300, 3)
        assert (small <= large).all()
        assert small[np.arange(300), predicted].all()
    assert sets[0].sum() == 300
    assert 1 < sets[3].sum(axis=1).mean() < 3
    alone = np.vstack([model.predict_set(row[np.newaxis], 0.9) for row in X[TEST][:50]])
    np.testing.assert_array_equal(alone, sets[3][:50])


# --- what is refused ------------------------------------------------------------------------------------------------


def test_wrong_calls_of_classifiers():
    with pytest.raises(NotFittedError):
        MLPClassifier().calibrate(X, y)
    with pytest.raises(NotFittedError):
        MLPClassifier().predict_set(X)
    model = fitted()
    before = weights(model)
    with pytest.raises(NotFittedError, match="not calibrated"):
        model.predict_set(X)
    with pytest.raises(
        ValueError, match=r"y has the labels \['fir'\], which are not in classes_: \['ash' 'elm' 'oak'\]"
    ):
        model.calibrate(X[:2], ["ash", "fir"])
    with pytest.raises(ValueError, match="inconsistent numbers of samples"):
        model.calibrate(X, y[:-1])
    with pytest.raises(ValueError, match="X has 5 features, but MLPClassifier is expecting 6"):
        model.calibrate(X[:, :5], y)
    for weights_of_rows in (np.zeros(900), -np.ones(900)):
        with pytest.raises(ValueError, match=r"at least one non-zero number|must hold numbers of 0 or more"):
            model.calibrate(X, y, weights_of_rows)
    with pytest.raises(ValueError, match="Input X contains NaN"):
        model.calibrate(X * np.nan, y)
    assert weights(model) == before
    assert not hasattr(model, "temperature_")
    with pytest.raises(ValueError, match=r"coverage=0.999 needs at least 999 calibration rows, got 300"):
        model.calibrate(X[HELD_OUT], y[HELD_OUT]).predict_set(X, coverage=0.999)
    one = MLPClassifier(**QUICK).fit(X, np.zeros(900))
    with pytest.raises(ValueError, match="calibrate needs at least two classes"):
        one.calibrate(X, np.zeros(900))
    rows, labels = KINDS["multilabel"]
    many = fitted("multilabel").calibrate(rows[HELD_OUT], labels[HELD_OUT])
    assert not hasattr(many, "conformity_scores_")
    with pytest.raises(ValueError, match="predict_set needs targets with one label for each row"):
        many.predict_set(rows)


def test_a_calibration_set_may_lack_a_class():
    some = np.flatnonzero(y[HELD_OUT] != "elm") + 300
    assert fitted(warm_start=True).calibrate(X[some], y[some]).temperature_ > 0


def test_wrong_calls_of_regressors():
    rows, targets = heteroscedastic(100)
    with pytest.raises(NotFittedError):
        MLPRegressor().calibrate(rows, targets)
    with pytest.raises(NotFittedError):
        MLPRegressor().predict_interval(rows)
    model = MLPRegressor(**QUICK).fit(rows, targets)
    with pytest.raises(NotFittedError, match="MLPRegressor is not calibrated"):
        model.predict_interval(rows)
    with pytest.raises(ValueError, match=r"y must have 1 targets for each row, got an array of shape \(100, 2\)"):
        model.calibrate(rows, np.stack([targets, targets], axis=1))
    with pytest.raises(ValueError, match="Input y contains NaN"):
        model.calibrate(rows, targets * np.nan)
    with pytest.raises(ValueError, match="inconsistent numbers of samples"):
        model.calibrate(rows, targets[:-1])
    with pytest.raises(ValueError, match=r"coverage=0.999 needs at least 999 calibration rows, got 100: with fewer"):
        model.calibrate(rows, targets).predict_interval(rows, 0.999)
