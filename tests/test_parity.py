"""scikit-learn's own numbers: the same seed gives the same training, to rounding.

Not every combination of settings, but with each solver every *pair*: the cases are chosen so that any two settings
meet in at least one of them. Mistakes come from two settings that forget each other far more often than from three.
"""

import random
from itertools import combinations, product

import numpy as np
import pytest
from scipy import sparse
from sklearn import neural_network

import fastmlp

MAX_ITER = 30
FACTORS = {
    "task": ["binary", "multiclass", "multilabel", "one target", "three targets", "poisson"],
    "mode": ["fit", "early stopping", "warm start", "warm early stopping", "partial_fit", "fit then partial_fit"],
    "activation": ["identity", "logistic", "tanh", "relu"],
    "hidden": [(), (5,), (7, 3)],
    "batch": [7, 64, "auto"],  # of 90 rows: 7 and 64 leave a smaller last batch
    "rows": ["dense", "csr", "csc"],
    "weights": ["even", "weighted"],
    "rate": ["constant", "invscaling", "adaptive"],
    "momentum": ["no momentum", "plain momentum", "nesterov"],
    "seed": ["int", "RandomState", "global"],
    "order": ["shuffled", "in order"],
    "alpha": [0, 0.1],
}
REGRESSION = {"one target", "three targets", "poisson"}


def pairs(case):
    return set(combinations(case.items(), 2))


def every_pair():
    levels = [[(factor, level) for level in FACTORS[factor]] for factor in FACTORS]
    return dict.fromkeys(pair for two in combinations(levels, 2) for pair in product(*two))


def pairwise_cases():
    """Greedy: of some random cases with a pair that is still missing, take the one with most of the missing pairs."""
    choose, missing = random.Random(0).choice, every_pair()
    while missing:
        wanted = dict(next(iter(missing)))
        candidates = [{f: wanted.get(f, choose(levels)) for f, levels in FACTORS.items()} for _ in range(30)]
        best = max(candidates, key=lambda case: len(pairs(case) & missing.keys()))
        missing = {pair: None for pair in missing if pair not in pairs(best)}
        yield best


CASES = list(pairwise_cases())


def test_the_cases_hold_every_pair():
    assert set().union(*map(pairs, CASES)) == every_pair().keys()


# --- data and training ---------------------------------------------------------------------------------------------


def make_data(task, rows, weights):
    """90 rows, 6 features, 40 % zeros. Continuous values, so that no relu stands on its kink in one library only."""
    rng = np.random.RandomState(0)
    X = rng.standard_normal((90, 6)) * (rng.uniform(size=(90, 6)) > 0.4)
    scores = np.tanh(X @ rng.standard_normal((6, 3))) + 0.3 * rng.standard_normal((90, 3))
    y = {
        "binary": np.where(scores[:, 0] > 0, "yes", "no"),
        "multiclass": scores.argmax(axis=1) * 10,
        "multilabel": (scores > 0).astype(int),
        "one target": scores[:, 0],
        "three targets": scores,
        "poisson": rng.poisson(np.exp(scores[:, 0])).astype(float),
    }[task]
    w = rng.uniform(0.2, 3, size=90)
    w[[0, 10]] = 0
    return (
        {"dense": np.asarray, "csr": sparse.csr_array, "csc": sparse.csc_array}[rows](X),
        y,
        (w if weights == "weighted" else None),
    )


def make_model(library, solver, case):
    model = library.MLPRegressor if case["task"] in REGRESSION else library.MLPClassifier
    loss = {"loss": "poisson"} if case["task"] == "poisson" else {}
    # "adaptive" is about what happens when training stalls; the others are to run all their epochs.
    patience = {"n_iter_no_change": 2, "tol": 1e-2} if case["rate"] == "adaptive" else {"n_iter_no_change": 1000}
    seeds = {"int": 3, "RandomState": np.random.RandomState(3), "global": None}
    np.random.seed(3)
    return model(
        **{"tol": 1e-9} | patience | loss,
        solver=solver,
        hidden_layer_sizes=case["hidden"],
        activation=case["activation"],
        alpha=case["alpha"],
        batch_size=case["batch"],
        learning_rate=case["rate"],
        learning_rate_init=0.02,
        power_t=0.3,
        max_iter=MAX_ITER,
        shuffle=case["order"] == "shuffled",
        random_state=seeds[case["seed"]],
        momentum=0 if case["momentum"] == "no momentum" else 0.8,
        nesterovs_momentum=case["momentum"] == "nesterov",
        warm_start="warm" in case["mode"],
        early_stopping="early" in case["mode"],
        validation_fraction=0.2,
    )


def train(model, mode, X, y, w):
    """Fit as the mode says; part of the rows at a time for ``partial_fit``."""
    classes = {}
    if hasattr(model, "predict_proba"):
        classes["classes"] = np.unique(y) if y.ndim == 1 else np.arange(y.shape[1])
    parts = [slice(0, 50), slice(50, 90)]
    if mode != "partial_fit":
        model.fit(X, y, w)
    if "warm" in mode:
        model.fit(X, y, w)
    for part in parts * (5 if "partial_fit" in mode else 0):
        model.partial_fit(X[part], y[part], None if w is None else w[part], **classes)
    return model


# --- comparison ----------------------------------------------------------------------------------------------------


def assert_close(actual, expected, rtol=1e-7):
    """Relative to the largest number of the array: a weight that passes through 0 has no relative error of its own."""
    expected = np.asarray(expected)
    np.testing.assert_allclose(actual, expected, rtol=rtol, atol=rtol * np.abs(expected).max())


def assert_same_training(ours, theirs):
    assert (ours.n_iter_, ours.t_, ours.n_layers_, ours.n_outputs_) == (
        theirs.n_iter_,
        theirs.t_,
        theirs.n_layers_,
        theirs.n_outputs_,
    )
    assert ours.out_activation_ == theirs.out_activation_
    assert ours._no_improvement_count == theirs._no_improvement_count
    assert_close(ours.loss_curve_, theirs.loss_curve_)
    assert_close(ours.loss_, theirs.loss_)
    for name in ["validation_scores_", "best_validation_score_", "best_loss_"]:
        if getattr(theirs, name) is None:
            assert getattr(ours, name) is None
        else:
            assert_close(getattr(ours, name), getattr(theirs, name))


def assert_same_network(ours, theirs, X):
    for layer in range(theirs.n_layers_ - 1):
        assert_close(ours.coefs_[layer], theirs.coefs_[layer])
        assert_close(ours.intercepts_[layer], theirs.intercepts_[layer])
    if hasattr(theirs, "predict_proba"):
        assert_close(ours.predict_proba(X), theirs.predict_proba(X))
        np.testing.assert_array_equal(ours.predict(X), theirs.predict(X))
        np.testing.assert_array_equal(ours.classes_, theirs.classes_)
    else:
        assert_close(ours.predict(X), theirs.predict(X))


def random_states(model):
    """Of the global generator and, if one was given, of the model's."""
    states = [np.random.get_state()]
    if isinstance(model.random_state, np.random.RandomState):
        states.append(model.random_state.get_state())
    return [(state[1].tolist(), state[2]) for state in states]


@pytest.fixture(autouse=True)
def global_generator():
    """Put NumPy's global generator back when the test is over."""
    state = np.random.get_state()
    yield
    np.random.set_state(state)


@pytest.mark.filterwarnings("ignore:Got `batch_size` less than 1 or larger than sample size:UserWarning")
@pytest.mark.parametrize("solver", ["sgd", "adam"])
@pytest.mark.parametrize("case", CASES, ids=lambda case: "-".join(map(str, case.values())))
def test_same_training(case, solver):
    X, y, w = make_data(case["task"], case["rows"], case["weights"])
    theirs = train(make_model(neural_network, solver, case), case["mode"], X, y, w)
    their_states = random_states(theirs)
    ours = train(make_model(fastmlp, solver, case), case["mode"], X, y, w)
    assert random_states(ours) == their_states
    assert_same_training(ours, theirs)
    # Started again, scikit-learn overwrites its best weights until better ones are found; ours are kept (documented).
    if case["mode"] != "warm early stopping" or np.argmax(theirs.validation_scores_) >= MAX_ITER:
        assert_same_network(ours, theirs, X)


def fits_by_lbfgs(task, **changes):
    case = {factor: levels[-1] for factor, levels in FACTORS.items()} | {"task": task, "mode": "fit"} | changes
    X, y, w = make_data(task, "csr", "weighted")
    ours, theirs = (train(make_model(library, "lbfgs", case), "fit", X, y, w) for library in (fastmlp, neural_network))
    method = "predict" if task in REGRESSION else "predict_proba"
    return ours, theirs, getattr(ours, method)(X), getattr(theirs, method)(X)


@pytest.mark.parametrize("activation", FACTORS["activation"])
@pytest.mark.parametrize("task", [task for task in FACTORS["task"] if task != "three targets"])
def test_same_training_by_lbfgs(task, activation):
    """Looser than above: each line search decides by comparing numbers, so rounding grows with every iteration."""
    ours, theirs, our_predictions, their_predictions = fits_by_lbfgs(task, activation=activation)
    assert ours.n_iter_ == theirs.n_iter_
    assert not hasattr(ours, "loss_curve_")
    assert_close(ours.loss_, theirs.loss_, rtol=1e-6)
    assert_close(our_predictions, their_predictions, rtol=1e-4)


def test_lbfgs_finds_the_same_minimum_for_three_targets():
    """The way there differs: scikit-learn gives its line searches the mean over targets but the gradient of the sum."""
    ours, theirs, our_predictions, their_predictions = fits_by_lbfgs("three targets", hidden=())
    assert_close(ours.loss_, theirs.loss_, rtol=1e-5)
    assert_close(our_predictions, their_predictions, rtol=1e-3)


@pytest.mark.parametrize("change", [{}, {"learning_rate": "adaptive"}, {"early_stopping": True}, {"solver": "adam"}])
@pytest.mark.parametrize("name", ["MLPClassifier", "MLPRegressor"])
def test_same_words(name, change, capsys):
    """``verbose`` prints the same lines: some people read them by machine."""
    X, y, _ = make_data("multiclass", "dense", "even")
    settings = {"hidden_layer_sizes": (5,), "solver": "sgd", "tol": 0.05, "random_state": 0, "n_iter_no_change": 2}
    printed = []
    for library in (fastmlp, neural_network):
        getattr(library, name)(**settings | change, verbose=True).fit(X, y // 10)
        printed.append(capsys.readouterr().out)
    assert printed[0] == printed[1]
    assert "Iteration 3, loss = " in printed[0]
    assert "Stopping." in printed[0]
