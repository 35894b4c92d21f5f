"""The estimators as scikit-learn users meet them: attributes, parameters, meta-estimators, weights, early stopping."""

import inspect

import numpy as np
import pytest
from sklearn import neural_network
from sklearn.base import clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.datasets import load_iris, make_multilabel_classification
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler, scale
from sklearn.utils.class_weight import compute_sample_weight

from fastmlp import MLPClassifier, MLPRegressor, _core
from fastmlp._losses import CLASS_LOSSES, NUMBER_LOSSES

ESTIMATORS = [MLPClassifier, MLPRegressor]
X, y = load_iris(return_X_y=True)
X = scale(X)
X_multi, y_multi = make_multilabel_classification(60, random_state=0)
QUICK = {"hidden_layer_sizes": (8,), "max_iter": 10, "random_state": 0}


def weights(model):
    return [array.tobytes() for array in model.coefs_ + model.intercepts_]


def flat(model):
    return np.hstack([array.ravel() for array in model.coefs_ + model.intercepts_])


# --- attributes ----------------------------------------------------------------------------------------------------


DATA = {
    "multiclass": (MLPClassifier, X, y),
    "binary": (MLPClassifier, X, y == 1),
    "multilabel": (MLPClassifier, X_multi, y_multi),
    "one target": (MLPRegressor, X, X[:, 0]),
    "three targets": (MLPRegressor, X, X[:, 1:]),
}


def assert_same_attributes(ours, theirs):
    """The same public names, and under each the same type and shape."""
    names = {name for name in vars(theirs) if name.endswith("_") and name[0] != "_"}
    assert len(names) >= 9
    for name in names:
        our_value, their_value = getattr(ours, name), getattr(theirs, name)
        if isinstance(their_value, list):
            assert list(map(np.shape, our_value)) == list(map(np.shape, their_value))
        assert isinstance(our_value, type(their_value)) or isinstance(their_value, type(our_value)), name
    for name in ["n_iter_", "t_", "n_layers_", "n_outputs_", "n_features_in_", "out_activation_"]:
        assert getattr(ours, name) == getattr(theirs, name)


@pytest.mark.parametrize("change", [{}, {"early_stopping": True}, {"solver": "sgd"}, {"solver": "lbfgs"}], ids=str)
@pytest.mark.parametrize("kind", DATA)
def test_the_same_attributes_as_scikit_learn(kind, change):
    """After a first fit, one that goes on, and a ``partial_fit``."""
    estimator, rows, targets = DATA[kind]
    theirs = getattr(neural_network, estimator.__name__)(**QUICK | change, warm_start=True)
    ours = estimator(**QUICK | change, warm_start=True)
    assert_same_attributes(ours.fit(rows, targets), theirs.fit(rows, targets))
    assert_same_attributes(ours.fit(rows, targets), theirs.fit(rows, targets))
    if hasattr(ours, "partial_fit") and not theirs.early_stopping:
        assert_same_attributes(ours.partial_fit(rows, targets), theirs.partial_fit(rows, targets))


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_the_same_signature_as_scikit_learn(estimator):
    """Names, order, defaults and which are keyword-only; ours come behind theirs."""
    ours, theirs = (
        list(inspect.signature(model).parameters.values())
        for model in (estimator, getattr(neural_network, estimator.__name__))
    )
    assert [(p.name, p.default, p.kind) for p in ours[: len(theirs)]] == [(p.name, p.default, p.kind) for p in theirs]
    assert all(p.kind is inspect.Parameter.KEYWORD_ONLY for p in ours[len(theirs) :])


def test_methods_come_and_go_with_the_solver():
    for estimator in ESTIMATORS:
        assert hasattr(estimator(), "partial_fit")
        assert not hasattr(estimator(solver="lbfgs"), "partial_fit")
        assert not hasattr(estimator(), "decision_function")
    with pytest.raises(AttributeError, match="partial_fit"):
        MLPRegressor(solver="lbfgs").partial_fit(X, y)


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_warns_when_epochs_run_out(estimator):
    with pytest.warns(ConvergenceWarning, match=r"Maximum iterations \(10\) reached and the optimization hasn't conv"):
        estimator(**QUICK).fit(X, y)
    with pytest.warns(ConvergenceWarning, match="lbfgs failed to converge after 3 iteration"):
        estimator(**QUICK | {"solver": "lbfgs", "max_iter": 3}).fit(X, y)


# --- parameters ----------------------------------------------------------------------------------------------------

# For each parameter: a setting in which it matters, and another value. ``learning_rate_init`` of the base is large, so
# that training stalls within its 10 epochs.
BASE = {"hidden_layer_sizes": (8,), "max_iter": 10, "random_state": 0, "batch_size": 32, "learning_rate_init": 0.02}
SGD, ADAM, LBFGS = {"solver": "sgd"}, {"solver": "adam"}, {"solver": "lbfgs"}
STALLING = SGD | {"tol": 0.1, "n_iter_no_change": 2, "max_iter": 30}
EFFECTS = {
    "hidden_layer_sizes": (ADAM, (9,)),
    "activation": (ADAM, "tanh"),
    "solver": (ADAM, "sgd"),
    "alpha": (ADAM, 1.0),
    "batch_size": (ADAM, 33),
    "learning_rate": (SGD, "invscaling"),
    "learning_rate_init": (ADAM, 0.021),
    "power_t": (SGD | {"learning_rate": "invscaling"}, 0.4),
    "max_iter": (ADAM, 11),
    "shuffle": (ADAM, False),
    "random_state": (ADAM, 1),
    "tol": (STALLING, 1e-9),
    "warm_start": (ADAM, True),
    "momentum": (SGD, 0.8),
    "nesterovs_momentum": (SGD, False),
    "early_stopping": (ADAM, True),
    "validation_fraction": ({"early_stopping": True}, 0.3),
    "beta_1": (ADAM, 0.8),
    "beta_2": (ADAM, 0.9),
    "epsilon": (ADAM, 1e-3),
    "n_iter_no_change": (STALLING, 5),
    "max_fun": (LBFGS, 4),
    "dtype": (ADAM, "float32"),
    "normalization": (ADAM, "layer_norm"),
    "dropout": (ADAM, 0.2),
    "input_dropout": (ADAM, 0.2),
    "residual": ({"hidden_layer_sizes": (8, 8)}, True),
    "initialization": (ADAM, "he_normal"),
    "weight_decay": ({"solver": "adamw"}, 0.1),
    "rho": ({"solver": "rmsprop"}, 0.9),
    "clip_norm": (ADAM, 0.1),
    "clip_value": (ADAM, 0.01),
    "ema_decay": (ADAM, 0.9),
    "eval_metric": ({"early_stopping": True}, lambda model, X, y: -np.abs(model.coefs_[0]).sum()),
    "max_time": (ADAM, 1e-9),
    "callbacks": (ADAM, [lambda run: run.n_iter == 3]),
}
# What must not change the weights, and the test of what it does change.
WITHOUT_EFFECT = {
    "verbose": "test_verbose_prints",
    "n_jobs": "test_threads.py",
    "device": "test_cuda.py: results agree to rounding",
    "precision": "test_cuda.py",
    "on_divergence": "test_validation.py: without it there are no weights",
}


def fitted_twice(estimator, settings):
    model = estimator(**BASE | settings).fit(X[::2], y[::2])
    return weights(model.fit(X[::2], y[::2]))  # a second time for the sake of warm_start


def test_every_parameter_is_tested():
    for estimator in ESTIMATORS:
        tested_below = {"loss", "loss_parameters", "output_activation"}  # the last in test_output_activations.py
        if estimator is MLPClassifier:
            tested_below |= {"class_weight", "calibration"}  # the latter in test_calibration.py
        assert estimator().get_params().keys() == EFFECTS.keys() | WITHOUT_EFFECT.keys() | tested_below


@pytest.mark.parametrize("parameter", EFFECTS)
@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_every_parameter_has_an_effect(estimator, parameter):
    setting, other = EFFECTS[parameter]
    assert fitted_twice(estimator, setting | {parameter: other}) != fitted_twice(estimator, setting)


LOSSES = [(MLPClassifier, loss) for loss in CLASS_LOSSES] + [(MLPRegressor, loss) for loss in NUMBER_LOSSES]


def fitted_with(estimator, loss, targets, **parameters):
    settings = BASE | {"loss": loss, "loss_parameters": parameters}
    return weights(estimator(**settings).fit(X, targets if estimator is MLPClassifier else targets + 1.0))


def test_the_loss_has_an_effect():
    fits = [fitted_with(estimator, loss, y) for estimator, loss in LOSSES]
    assert len({str(fit) for fit in fits}) == len(LOSSES)


@pytest.mark.parametrize("targets", [y, y % 2], ids=["three", "two"])
@pytest.mark.parametrize(("estimator", "loss"), LOSSES)
def test_every_hyperparameter_of_a_loss_has_an_effect(estimator, loss, targets):
    for name, default in _core.losses()[loss]["hyperparameters"].items():
        plain = fitted_with(estimator, loss, targets)
        assert fitted_with(estimator, loss, targets, **{name: default}) == plain
        assert fitted_with(estimator, loss, targets, **{name: 0.9 * default + 0.27}) != plain


@pytest.mark.parametrize("solver", ["sgd", "adam", "lbfgs"])
@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_verbose_prints(estimator, solver, capsys):
    quiet = fitted_twice(estimator, {"solver": solver})
    assert capsys.readouterr().out == ""
    assert fitted_twice(estimator, {"solver": solver, "verbose": True}) == quiet
    assert capsys.readouterr().out


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_every_activation_alone_and_in_a_list(estimator, activation):
    """One name stands for that name in every hidden layer, and each layer may have its own."""
    settings = QUICK | {"hidden_layer_sizes": (8, 6), "max_iter": 60, "learning_rate_init": 0.02}
    alone = estimator(activation=activation, **settings).fit(X, y)
    listed = estimator(activation=[activation] * 2, **settings).fit(X, y)
    assert weights(listed) == weights(alone)
    assert alone.score(X, y) > 0.8
    other = "tanh" if activation != "tanh" else "relu"
    mixed = [estimator(activation=names, **settings).fit(X, y) for names in ([activation, other], (other, activation))]
    assert len({tuple(weights(model)) for model in [alone, *mixed]}) == 3


def test_one_training_step_with_an_activation_for_each_layer():
    """The order of the list is that of the layers, shown by the core's own gradient."""
    settings = {"hidden_layer_sizes": (8, 6), "activation": ["mish", "softplus"], "random_state": 0, "alpha": 0.1}
    model = MLPRegressor(**settings, solver="sgd", momentum=0, learning_rate_init=0.5, warm_start=True, max_iter=1)
    before = flat(model.fit(X, X[:, :2]))
    engine = _core.Engine(_core.Network([4, 8, 6, 2], ["mish", "softplus"], "squared_error"), "float64")
    gradient = engine.loss_and_gradient(before, X, X[:, :2].copy(), None, 0.1)[2]
    after = flat(model.fit(X, X[:, :2]))
    np.testing.assert_allclose(after, before - 0.5 * gradient, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("given", [np.float32, np.float64])
@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_dtype_on_request(estimator, given, dtype):
    model = estimator(**QUICK, dtype=dtype).fit(X.astype(given), y)
    assert {array.dtype for array in model.coefs_ + model.intercepts_} == {np.dtype(dtype)}
    assert getattr(model, "predict_proba", model.predict)(X).dtype == dtype
    assert weights(model) == weights(estimator(**QUICK).fit(X.astype(given).astype(dtype), y))


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_clone_get_and_set_params(estimator):
    model = estimator(hidden_layer_sizes=[7, 3], activation=["tanh", "gelu"], n_jobs=2, dtype="float32")
    copy = clone(model.fit(X, y))
    assert copy.get_params() == model.get_params()
    assert not hasattr(copy, "coefs_")
    assert copy.set_params(n_jobs=1, activation="relu").get_params()["activation"] == "relu"
    assert repr(estimator(n_jobs=2)) == f"{estimator.__name__}(n_jobs=2)"
    with pytest.raises(ValueError, match="Invalid parameter 'hidden_sizes'"):
        model.set_params(hidden_sizes=(3,))


# --- inside other estimators ---------------------------------------------------------------------------------------


def test_grid_search_over_layer_sizes():
    one_name = {"hidden_layer_sizes": [(4,), (8, 8), (), 5], "activation": ["relu"]}
    grid = [one_name, {"hidden_layer_sizes": [(8, 8)], "activation": [["gelu", "tanh"]]}]
    search = GridSearchCV(MLPClassifier(**BASE | {"max_iter": 30}), grid, cv=3).fit(X, y)
    assert search.best_score_ > 0.9
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()
    assert len(search.cv_results_["params"]) == 5


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_cross_validation_of_a_pipeline(estimator):
    pipeline = make_pipeline(StandardScaler(), estimator(hidden_layer_sizes=(16,), solver="lbfgs", random_state=0))
    order = np.random.RandomState(0).permutation(len(X))
    assert cross_val_score(pipeline, 100 * X[order], y[order], cv=3).min() > 0.8


@pytest.mark.parametrize("method", ["sigmoid", "isotonic"])
def test_calibration(method):
    calibrated = CalibratedClassifierCV(MLPClassifier(**BASE | {"max_iter": 30}), method=method, cv=3).fit(X, y)
    assert calibrated.score(X, y) > 0.9
    np.testing.assert_allclose(calibrated.predict_proba(X).sum(axis=1), 1)


# --- sample weights ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("change", [SGD, ADAM, LBFGS, {"early_stopping": True}, {"dtype": "float32"}], ids=str)
@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_weights_of_one_are_no_weights(estimator, change):
    plain = estimator(**BASE | change).fit(X, y)
    weighted = estimator(**BASE | change).fit(X, y, np.ones(len(X)))
    assert weights(weighted) == weights(plain)
    assert getattr(weighted, "loss_curve_", []) == getattr(plain, "loss_curve_", [])
    assert getattr(weighted, "validation_scores_", None) == getattr(plain, "validation_scores_", None)


@pytest.mark.filterwarnings("ignore:Got `batch_size` less than 1 or larger than sample size:UserWarning")
@pytest.mark.parametrize("change", [SGD, ADAM, LBFGS | {"tol": 1e-10, "max_iter": 20}], ids=str)
@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_a_weight_is_a_number_of_repeats(estimator, change):
    """With whole batches, where it is exact; weight 0 is a row that is not there."""
    repeats = np.random.RandomState(0).randint(0, 4, size=len(X))
    settings = QUICK | {"activation": "tanh", "alpha": 1, "batch_size": 2 * len(X), "shuffle": False} | change
    weighted = estimator(**settings).fit(X, y, repeats)
    repeated = estimator(**settings).fit(np.repeat(X, repeats, axis=0), np.repeat(y, repeats))
    for ours, theirs in zip(weighted.coefs_, repeated.coefs_, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)
    assert weighted.loss_ == pytest.approx(repeated.loss_, rel=1e-8)


# --- class weights -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("change", [ADAM, LBFGS, {"early_stopping": True}], ids=str)
@pytest.mark.parametrize("kind", ["multiclass", "binary", "multilabel"])
def test_class_weights_multiply_sample_weights(kind, change):
    _, rows, targets = DATA[kind]
    given = np.random.RandomState(0).uniform(0.5, 2, size=len(rows))
    by_hand = [{0: 0.25, 1: 2.0}] * targets.shape[1] if kind == "multilabel" else {0: 0.25, 1: 2.0}
    settings, plain = BASE | change, weights(MLPClassifier(**BASE | change).fit(rows, targets))
    for class_weight in ["balanced", by_hand]:
        wanted = compute_sample_weight(class_weight, targets)
        ours = MLPClassifier(**settings, class_weight=class_weight)
        assert weights(ours.fit(rows, targets)) == weights(MLPClassifier(**settings).fit(rows, targets, wanted))
        assert weights(ours) != plain or np.all(wanted == 1)  # "balanced" of balanced classes
        both = weights(ours.fit(rows, targets, given))
        if class_weight == "balanced" and kind != "multilabel":  # of classes as they are weighted
            numbers = np.unique(targets, return_inverse=True)[1]
            counts = np.bincount(numbers, given)
            wanted = (counts.sum() / (len(counts) * counts))[numbers]
        assert both == weights(MLPClassifier(**settings).fit(rows, targets, wanted * given))


def test_class_weights_make_a_rare_class_heard():
    random = np.random.RandomState(0)
    rows, labels = random.randn(1000, 2), np.where(np.arange(1000) < 50, "rare", "common")
    rows[:50] += 1
    plain, balanced = (
        MLPClassifier((8,), solver="lbfgs", max_iter=50, alpha=1, random_state=0, class_weight=choice).fit(rows, labels)
        for choice in (None, "balanced")
    )
    assert np.mean(plain.predict(rows[:50]) == "rare") < 0.3 < 0.6 < np.mean(balanced.predict(rows[:50]) == "rare")


def test_class_weights_in_partial_fit():
    """A batch need not hold every class that has a weight, nor a weight be there for every class."""
    settings, classes, batch = BASE | {"max_iter": 1}, [0, 1, 2], y != 1
    ours = MLPClassifier(**settings, class_weight={1: 5.0, 2: 3.0}).partial_fit(X[batch], y[batch], classes=classes)
    theirs = MLPClassifier(**settings).partial_fit(X[batch], y[batch], np.where(y[batch] == 2, 3.0, 1.0), classes)
    assert weights(ours) == weights(theirs)
    with pytest.raises(ValueError, match="class_weight='balanced' needs all samples at once"):
        MLPClassifier(class_weight="balanced").partial_fit(X, y, classes=classes)


def test_wrong_class_weights():
    with pytest.raises(ValueError, match="'class_weight' parameter of MLPClassifier must be"):
        MLPClassifier(class_weight="even").fit(X, y)
    with pytest.raises(ValueError, match=r"a dict or 'balanced' for one label a sample, .* got \[\{0: 1\}\]"):
        MLPClassifier(class_weight=[{0: 1}]).fit(X, y)
    with pytest.raises(ValueError, match=r"a list of dicts or 'balanced' for multilabel targets, got \{0: 1\}"):
        MLPClassifier(class_weight={0: 1}).fit(X_multi, y_multi)
    with pytest.raises(ValueError, match="not in class_weight"):
        MLPClassifier(class_weight={"no such class": 1}).fit(X, y)
    with pytest.raises(ValueError, match="at least one non-zero"):
        MLPClassifier(class_weight=dict.fromkeys(range(3), 0)).fit(X, y)


# --- early stopping ------------------------------------------------------------------------------------------------

STOPPING = {"hidden_layer_sizes": (8,), "early_stopping": True, "random_state": 0, "learning_rate_init": 0.05, "tol": 0}


@pytest.mark.parametrize("solver", ["sgd", "adam"])
@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_early_stopping_restores_the_best_epoch(estimator, solver):
    """A training that ends at the best epoch of a longer one leaves the same weights."""
    longer = estimator(**STOPPING, solver=solver, max_iter=100).fit(X, y)
    best = int(np.argmax(longer.validation_scores_)) + 1
    assert best < longer.n_iter_
    assert longer.best_validation_score_ == max(longer.validation_scores_)
    assert weights(estimator(**STOPPING, solver=solver, max_iter=best).fit(X, y)) == weights(longer)


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_started_again_it_never_ends_worse_than_the_best_seen(estimator):
    model = estimator(**STOPPING, warm_start=True, max_iter=50).fit(X, y)
    best, score = weights(model), model.best_validation_score_
    model.set_params(learning_rate_init=1e3, max_iter=3).fit(X, y)
    assert max(model.validation_scores_[-3:]) < score
    assert model.best_validation_score_ == score
    assert weights(model) == best


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_early_stopping_may_be_switched_off_and_on(estimator):
    """scikit-learn fails on the records that the other way of stopping has left."""
    model = estimator(**STOPPING, warm_start=True, max_iter=5).fit(X, y)
    model.set_params(early_stopping=False).partial_fit(X, y)
    assert model.validation_scores_ is None
    assert model.best_loss_ == model.loss_curve_[-1]
    model.set_params(early_stopping=True).fit(X, y)
    assert len(model.validation_scores_) == model.n_iter_ == 5
    assert model.best_loss_ is None
