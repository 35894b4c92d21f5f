"""Rows that are watched: where they come from, what is measured on them, what that decides, and what is remembered."""

import pickle

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.compose import TransformedTargetRegressor
from sklearn.datasets import load_diabetes, load_iris
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import accuracy_score, get_scorer, log_loss, make_scorer, mean_absolute_error, r2_score
from sklearn.model_selection import (
    GridSearchCV,
    GroupShuffleSplit,
    KFold,
    PredefinedSplit,
    TimeSeriesSplit,
    cross_validate,
    train_test_split,
)
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from fastmlp import MLPClassifier, MLPRegressor

X, y = load_iris(return_X_y=True)
names = np.array(["setosa", "versicolor", "virginica"])[y]
X_train, X_val, y_train, y_val = train_test_split(X, names, random_state=0)
weights = np.random.RandomState(0).uniform(0.5, 2, len(y_val))
NUMBERS_X, NUMBERS_Y = load_diabetes(return_X_y=True)
NUMBERS_Y = NUMBERS_Y / 100
SETTINGS = {"hidden_layer_sizes": (8,), "max_iter": 12, "random_state": 0, "learning_rate_init": 0.02}


def same(model, other):
    for array, expected in zip(model.coefs_ + model.intercepts_, other.coefs_ + other.intercepts_, strict=True):
        np.testing.assert_array_equal(array, expected)


# --- data of its own -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("sample_weight", [None, weights], ids=["", "weighted"])
def test_validation_loss_and_score_are_those_of_the_model(dtype, sample_weight):
    """After n epochs the curves end with what scikit-learn's metrics say of a model trained for n epochs."""
    for n in (1, 5, 12):
        model = MLPClassifier(**{**SETTINGS, "max_iter": n}, tol=0).fit(
            X_train.astype(dtype), y_train, X_val=X_val, y_val=y_val, sample_weight_val=sample_weight
        )
        p = model.predict_proba(X_val.astype(dtype)).astype(np.float64)
        p /= p.sum(axis=1, keepdims=True)  # float32 sums to 1 in float32
        expected = log_loss(y_val, p, sample_weight=sample_weight), model.score(X_val, y_val, sample_weight)
        found = model.history_["val_loss"][-1], model.history_["val_accuracy"][-1]
        np.testing.assert_allclose(found, expected, rtol=1e-9 if dtype == np.float64 else 1e-5)
    assert {len(curve) for curve in model.history_.values()} == {12}
    np.testing.assert_array_equal(model.history_["loss"], model.loss_curve_)


@pytest.mark.parametrize("loss", ["squared_error", "absolute_error", "poisson"])
def test_validation_loss_of_a_regressor(loss):
    half = {"squared_error": lambda d, p: (d**2).mean() / 2, "absolute_error": lambda d, p: np.abs(d).mean()}
    data = {"X_val": NUMBERS_X[::3], "y_val": NUMBERS_Y[::3]}
    model = MLPRegressor(**SETTINGS, loss=loss).fit(NUMBERS_X[1::3], NUMBERS_Y[1::3], **data)
    p = model.predict(NUMBERS_X[::3])
    np.testing.assert_allclose(model.history_["val_r2"][-1], r2_score(NUMBERS_Y[::3], p))
    if loss in half:
        np.testing.assert_allclose(model.history_["val_loss"][-1], half[loss](NUMBERS_Y[::3] - p, p))


@pytest.mark.parametrize("n_jobs", [1, 3])
def test_to_watch_changes_nothing(n_jobs):
    plain = MLPClassifier(**SETTINGS).fit(X_train, y_train)
    watched = MLPClassifier(**SETTINGS, n_jobs=n_jobs, eval_metric=["loss", "f1_macro"])
    same(watched.fit(X_train, y_train, X_val=X_val, y_val=y_val), plain)
    assert watched.validation_scores_ is None
    assert not plain.history_.keys() & {"val_loss"}


def test_same_curves_for_any_number_of_threads_and_for_sparse_rows():
    from scipy.sparse import csr_array

    def curves(n_jobs, form):
        model = MLPClassifier(**SETTINGS, n_jobs=n_jobs, normalization="batch_norm", dropout=0.2)
        return model.fit(X_train, y_train, X_val=form(X_val), y_val=y_val).history_["val_loss"]

    first = curves(1, np.asarray)
    for n_jobs, form in ((2, np.asarray), (5, np.asarray), (2, csr_array)):
        np.testing.assert_array_equal(curves(n_jobs, form), first)


def test_early_stopping_on_data_of_its_own_is_that_on_a_split():
    """The rows of a predefined split, given as data of their own."""
    fold = np.where(np.arange(len(y)) % 4 == 0, 0, -1)
    settings = {**SETTINGS, "max_iter": 60, "early_stopping": True, "n_iter_no_change": 3, "shuffle": False}
    split = MLPClassifier(**settings, validation_fraction=PredefinedSplit(fold)).fit(X, names)
    own = MLPClassifier(**settings).fit(X[fold < 0], names[fold < 0], X_val=X[fold == 0], y_val=names[fold == 0])
    same(own, split)
    assert own.validation_scores_ == split.validation_scores_
    assert own.stopped_ == split.stopped_ == "no_improvement"
    np.testing.assert_array_equal(own.history_["val_loss"], split.history_["val_loss"])


def test_multilabel_and_two_classes():
    labels = np.column_stack([y == 0, y > 1])
    model = MLPClassifier(**SETTINGS).fit(X, labels, X_val=X[::2], y_val=labels[::2])
    assert model.history_["val_accuracy"][-1] == accuracy_score(labels[::2], model.predict(X[::2]))
    model = MLPClassifier(**SETTINGS).fit(X, names == "setosa", X_val=X[::2], y_val=(names == "setosa")[::2])
    expected = log_loss(names[::2] == "setosa", model.predict_proba(X[::2]))
    np.testing.assert_allclose(model.history_["val_loss"][-1], expected)


def test_class_weight_counts_in_validation():
    data = {"X_val": X_val, "y_val": y_val}
    model = MLPClassifier(**SETTINGS, class_weight={"setosa": 5}).fit(X_train, y_train, **data)
    counted = np.where(y_val == "setosa", 5, 1)
    expected = log_loss(y_val, model.predict_proba(X_val), sample_weight=counted)
    np.testing.assert_allclose(model.history_["val_loss"][-1], expected)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"X_val": X_val}, "belong together"),
        ({"y_val": y_val}, "belong together"),
        ({"sample_weight_val": weights}, "belong together"),
        ({"X_val": X_val, "y_val": y_val[:5]}, "inconsistent numbers of samples"),
        ({"X_val": X_val[:, :3], "y_val": y_val}, "3 features"),
        (
            {"X_val": X_val, "y_val": np.where(y_val == "setosa", "iris", y_val)},
            r"y_val has classes.*\['iris'\]",
        ),
        ({"X_val": np.where(X_val > 7, np.nan, X_val), "y_val": y_val}, "NaN"),
        ({"X_val": X_val, "y_val": y_val, "sample_weight_val": weights[:4]}, "sample_weight"),
        ({"groups": names}, "groups are for the splitter"),
    ],
)
def test_bad_validation_data(data, message):
    with pytest.raises(ValueError, match=message):
        MLPClassifier(**SETTINGS).fit(X_train, y_train, **data)


def test_lbfgs_refuses_to_watch():
    model = MLPClassifier(**SETTINGS, solver="lbfgs", early_stopping=True)
    with pytest.raises(ValueError, match="X_val needs a solver"):
        model.fit(X_train, y_train, X_val=X_val, y_val=y_val)
    with pytest.raises(ValueError, match="groups are for the splitter"):
        model.fit(X_train, y_train, groups=y_train)


@pytest.mark.parametrize("fraction", [np.float32(0.25), np.float64(0.25)])
def test_a_share_may_be_any_real_number(fraction):
    settings = {**SETTINGS, "early_stopping": True}
    same(
        MLPClassifier(**settings, validation_fraction=fraction).fit(X, names),
        MLPClassifier(**settings, validation_fraction=0.25).fit(X, names),
    )


# --- splitters -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("splitter", [KFold(4), TimeSeriesSplit(3), [(np.arange(100), np.arange(100, 150))]])
def test_the_first_split_of_a_splitter(splitter):
    order = np.random.RandomState(0).permutation(len(X))
    rows, targets = X[order], names[order]
    train, held_out = next(iter(splitter if isinstance(splitter, list) else splitter.split(X)))
    settings = {**SETTINGS, "early_stopping": True, "shuffle": False}
    model = MLPClassifier(**settings, validation_fraction=splitter).fit(rows, targets)
    other = MLPClassifier(**settings)
    same(model, other.fit(rows[train], targets[train], X_val=rows[held_out], y_val=targets[held_out]))


def test_groups_stay_together():
    groups = np.arange(len(y)) // 10
    splitter = GroupShuffleSplit(1, test_size=0.3, random_state=0)
    seen = []
    model = MLPClassifier(
        **SETTINGS,
        early_stopping=True,
        validation_fraction=splitter,
        eval_metric=lambda _, X, __: float(seen.append(X) or 0),
    )
    model.fit(X, names, groups=groups)
    _, held_out = next(splitter.split(X, names, groups))
    np.testing.assert_array_equal(seen[0], X[held_out])


@pytest.mark.parametrize(
    ("fraction", "given", "message"),
    [
        (0.2, {"groups": names}, "needs a splitter"),
        ([], {}, "offers no split"),
        ([(np.arange(5), np.arange(3, 9))], {}, "not validated on"),
        ([(np.arange(5), np.array([150, 151]))], {}, "row numbers from 0 to 149"),
        ([(np.arange(5), np.array([7]))], {}, "too small"),
        (GroupShuffleSplit(1), {}, "groups"),
    ],
)
def test_bad_splits(fraction, given, message):
    model = MLPClassifier(**SETTINGS, early_stopping=True, validation_fraction=fraction)
    with pytest.raises(ValueError, match=message):
        model.fit(X, names, **given)


# --- metrics ---------------------------------------------------------------------------------------------------------

METRICS = {
    "loss": lambda model: -log_loss(y_val, model.predict_proba(X_val)),
    "accuracy": lambda model: model.score(X_val, y_val),
    "f1_macro": lambda model: get_scorer("f1_macro")(model, X_val, y_val),
    "neg_log_loss": lambda model: get_scorer("neg_log_loss")(model, X_val, y_val),
}


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("ema_decay", [None, 0.9])
def test_the_metric_decides(metric, ema_decay):
    """The parameters that are kept are those of the epoch with the best score, as a model trained so far has it."""
    settings = {**SETTINGS, "max_iter": 15, "tol": 0, "n_iter_no_change": np.inf, "ema_decay": ema_decay}
    watch = {"X_val": X_val, "y_val": y_val}
    model = MLPClassifier(**settings, early_stopping=True, eval_metric=metric).fit(X_train, y_train, **watch)
    models = [MLPClassifier(**{**settings, "max_iter": n}).fit(X_train, y_train) for n in range(1, 16)]
    scores = [METRICS[metric](other) for other in models]
    np.testing.assert_allclose(model.validation_scores_, scores, rtol=1e-12)
    assert model.best_iteration_ == np.argmax(scores) + 1
    assert model.best_validation_score_ == model.validation_scores_[model.best_iteration_ - 1]
    same(model, models[model.best_iteration_ - 1])


def test_several_metrics_and_their_names():
    def spread(model, X, y):
        return model.predict_proba(X).std()

    metrics = ["f1_macro", spread, "loss", "accuracy", make_scorer(mean_absolute_error, greater_is_better=False)]
    model = MLPClassifier(**SETTINGS, eval_metric=metrics).fit(X_train, y[:112], X_val=X_val, y_val=y[112:])
    assert [*model.history_] == [
        "loss", "learning_rate", "val_loss", "val_f1_macro", "val_spread", "val_accuracy", "val_mean_absolute_error",
    ]  # fmt: skip
    assert model.history_["val_spread"][-1] == spread(model, X_val, None)
    assert model.history_["val_accuracy"][-1] == model.score(X_val, y[112:])
    assert model.history_["val_mean_absolute_error"][-1] == -mean_absolute_error(y[112:], model.predict(X_val))


def test_weights_go_to_scorers_that_take_them():
    given = []

    def metric(model, X, y, sample_weight=None):
        given.append(sample_weight)
        return 0.0

    model = MLPClassifier(**SETTINGS, eval_metric=["f1_macro", metric, lambda model, X, y: 0.0])
    model.fit(X_train, y_train, X_val=X_val, y_val=y_val, sample_weight_val=weights)
    np.testing.assert_array_equal(given[0], weights)
    expected = get_scorer("f1_macro")(model, X_val, y_val, sample_weight=weights)
    assert model.history_["val_f1_macro"][-1] == expected


@pytest.mark.parametrize(
    ("metric", "error", "message"),
    [
        ("f2", ValueError, "unknown eval_metric 'f2'"),
        (["loss", "loss"], ValueError, "twice"),
        ([], ValueError, "at least one"),
        ([3], ValueError, "got 3"),
        (lambda model, X, y: "good", TypeError, "must return a number, got 'good'"),
        (lambda model, X, y: 1 / 0, ZeroDivisionError, "division"),
    ],
)
def test_bad_metrics(metric, error, message):
    model = MLPClassifier(**SETTINGS, eval_metric=metric)
    with pytest.raises(error, match=message):
        model.fit(X_train, y_train, X_val=X_val, y_val=y_val)


# --- history ---------------------------------------------------------------------------------------------------------


def test_history_of_several_calls():
    model = MLPClassifier(**SETTINGS, warm_start=True).fit(X_train, y_train)
    model.fit(X_train, y_train, X_val=X_val, y_val=y_val)
    history = model.partial_fit(X_train, y_train).history_
    assert {len(curve) for curve in history.values()} == {25}
    np.testing.assert_array_equal(np.isnan(history["val_loss"]), [True] * 12 + [False] * 12 + [True])
    restored = pickle.loads(pickle.dumps(model)).history_
    for name, curve in history.items():
        np.testing.assert_array_equal(restored[name], curve)


def test_history_logs_learning_rates():
    model = MLPClassifier(**SETTINGS, learning_rate="cosine", batch_size=50).fit(X, names)
    assert (np.diff(model.history_["learning_rate"]) < 0).all()
    assert model.history_["learning_rate"][-1] == model.learning_rate_
    pandas = pytest.importorskip("pandas")
    assert pandas.DataFrame(model.history_).shape == (12, 2)


def test_there_is_no_history_before_fit():
    assert not hasattr(MLPClassifier(), "history_")
    assert not hasattr(MLPClassifier(), "best_iteration_")


# --- divergence ------------------------------------------------------------------------------------------------------

DIVERGING = {**SETTINGS, "solver": "sgd", "batch_size": 50, "dtype": "float32"}


@pytest.mark.parametrize(
    ("rate", "data", "message"),
    [
        (1e30, NUMBERS_X, r"layer 2 of 2 overflows: its inputs reach .*StandardScaler"),
        (0.1, NUMBERS_X * 1e20, r"the coefs of layer 2 of 2 are not finite since the step before.*clip_norm"),
        (0.1, NUMBERS_X * 1e30, r"every layer is finite, but the loss is not: outputs reach \S+, targets 3.46"),
        (0.1, np.full_like(NUMBERS_X, 3e38), r"layer 1 of 2 overflows: feature \d reaches 3e\+38"),
    ],
)
def test_divergence_names_the_layer_and_the_cause(rate, data, message):
    model = MLPRegressor(**{**DIVERGING, "learning_rate_init": rate, "max_iter": 50})
    with pytest.raises(ValueError, match=rf"non-finite at epoch \d+, batch \d+: {message}"):
        model.fit(data, NUMBERS_Y)


def test_back_off_is_a_restart_at_a_lower_rate():
    """Until the rate is low enough; the epochs that were lost leave no trace but the warning."""
    model = MLPRegressor(**{**DIVERGING, "learning_rate_init": 1e30}, on_divergence="back_off", n_iter_no_change=99)
    with pytest.raises(ValueError, match="non-finite"), pytest.warns(ConvergenceWarning, match="Back to the weights"):
        model.fit(NUMBERS_X, NUMBERS_Y)  # ten times a tenth is not enough
    model.set_params(learning_rate_init=1e6)
    with pytest.warns(ConvergenceWarning, match="after epoch 0, with learning rate 1"):
        model.fit(NUMBERS_X, NUMBERS_Y)
    assert np.isfinite(model.loss_curve_).all()
    assert len(model.loss_curve_) == model.n_iter_ == 12
    assert model.loss_ < 2
    assert model.history_["learning_rate"][-1] == model.learning_rate_ <= 1.001


def test_back_off_changes_nothing_without_need():
    plain = MLPClassifier(**SETTINGS, early_stopping=True).fit(X, names)
    same(MLPClassifier(**SETTINGS, early_stopping=True, on_divergence="back_off").fit(X, names), plain)


# --- inside scikit-learn ---------------------------------------------------------------------------------------------


def test_early_stopping_inside_a_search_and_its_like():
    model = MLPClassifier(**SETTINGS, early_stopping=True, eval_metric="neg_log_loss", validation_fraction=0.2)
    search = GridSearchCV(make_pipeline(StandardScaler(), model), {"mlpclassifier__alpha": [0.1, 1e-4]}, cv=3)
    best = search.fit(X, names).best_estimator_[-1]
    assert len(best.history_["val_neg_log_loss"]) == best.n_iter_
    assert cross_validate(model, X, names, cv=3)["test_score"].shape == (3,)
    assert CalibratedClassifierCV(model, cv=3).fit(X, names).predict_proba(X).shape == (150, 3)
    assert clone(model).get_params() == model.get_params()
    regressor = MLPRegressor(**SETTINGS, early_stopping=True, eval_metric="neg_median_absolute_error")
    fitted = TransformedTargetRegressor(regressor, transformer=StandardScaler()).fit(NUMBERS_X, NUMBERS_Y)
    assert "val_neg_median_absolute_error" in fitted.regressor_.history_


def test_validation_data_through_a_pipeline():
    """Metadata routing hands X_val to the last step, transformed by those before it."""
    import sklearn

    with sklearn.config_context(enable_metadata_routing=True):
        model = MLPClassifier(**SETTINGS).set_fit_request(X_val=True, y_val=True)
        pipeline = make_pipeline(StandardScaler(), model, transform_input=["X_val"])
        pipeline.fit(X_train, y_train, X_val=X_val, y_val=y_val)
    scaled = pipeline[0].transform(X_val)
    expected = log_loss(y_val, pipeline[-1].predict_proba(scaled))
    np.testing.assert_allclose(pipeline[-1].history_["val_loss"][-1], expected)


# --- losses of one's own ----------------------------------------------------------------------------------------------


def half_squared_error(y, output, sample_weight):
    shares = np.full(len(y), 1 / len(y)) if sample_weight is None else sample_weight / sample_weight.sum()
    difference = output - y
    return float((shares[:, None] * difference**2).sum() / 2), shares[:, None] * difference


@pytest.mark.parametrize("n_jobs", [1, 3])
@pytest.mark.parametrize("weighted", [False, True])
def test_a_loss_of_ones_own_is_validated(n_jobs, weighted):
    sample_weight = np.random.RandomState(0).uniform(0.5, 2, len(NUMBERS_Y[::3])) if weighted else None
    data = {"X_val": NUMBERS_X[::3], "y_val": NUMBERS_Y[::3], "sample_weight_val": sample_weight}
    settings = {**SETTINGS, "n_jobs": n_jobs, "eval_metric": "loss", "early_stopping": True}
    own = MLPRegressor(**settings, loss=half_squared_error).fit(NUMBERS_X[1::3], NUMBERS_Y[1::3], **data)
    built_in = MLPRegressor(**settings).fit(NUMBERS_X[1::3], NUMBERS_Y[1::3], **data)
    for name, curve in built_in.history_.items():
        np.testing.assert_allclose(own.history_[name], curve, rtol=1e-9)


def test_a_loss_that_fails_in_validation():
    def loss(y, output, sample_weight):
        if len(y) == 148:
            raise ZeroDivisionError("in validation")
        return half_squared_error(y, output, sample_weight)

    model = MLPRegressor(**SETTINGS, loss=loss)
    with pytest.raises(ZeroDivisionError, match="in validation"):
        model.fit(NUMBERS_X[1::3], NUMBERS_Y[1::3], X_val=NUMBERS_X[::3], y_val=NUMBERS_Y[::3])
    assert np.isfinite(model.predict(NUMBERS_X)).all()
