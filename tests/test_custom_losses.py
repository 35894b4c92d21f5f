"""Losses that are written in Python: the built-in ones written again must teach the same, and every mistake is told."""

import pickle
from functools import partial

import numpy as np
import pytest
import reference
from scipy.sparse import random_array
from scipy.special import expit, softmax
from sklearn.base import clone
from test_engine import TOLERANCE, assert_gradients_match, problem
from test_trainer import generator, new_slots, options

import fastmlp
from fastmlp import MLPClassifier, MLPRegressor, _core, lr_find

RANDOM = np.random.RandomState(0)
X = RANDOM.randn(150, 5)
WEIGHTS = RANDOM.rand(150) + 0.1
NUMBERS = X @ RANDOM.randn(5, 2) + np.sin(3 * X[:, :2])
LABELS = (NUMBERS > 0).astype(int)
CLASSES = np.array(["a", "b", "c"])[LABELS.sum(axis=1)]
FAST = {"hidden_layer_sizes": (8, 6), "max_iter": 6, "batch_size": 32, "learning_rate_init": 0.01, "random_state": 0}


def shares(y, sample_weight):
    weights = np.ones(len(y), y.dtype) if sample_weight is None else sample_weight
    return weights / weights.sum()


def mean_of(name, y, outputs, sample_weight):
    """A loss of the oracle, as a function of the outputs before the link: its weighted mean, and the gradient."""
    _, losses, gradient = reference.LOSSES[name](outputs, y)
    share = shares(y, sample_weight)
    return share @ losses, share[:, None] * gradient


def squared(y, outputs, sample_weight):
    return mean_of("squared_error", y, outputs, sample_weight)


def spread(y, outputs, sample_weight):
    """The variance of the errors: no sum over rows, so that the gradient of a row depends on all of them."""
    share = shares(y, sample_weight)[:, None]
    d = outputs - y
    d -= (share * d).sum(axis=0)
    return 0.5 * (share * d * d).sum(), share * d


def flat(model):
    return np.concatenate([array.ravel() for array in model.coefs_ + model.intercepts_])


# --- the same as a loss of the core ----------------------------------------------------------------------------------

CHANGES = {
    "adam": {},
    "sgd": {"solver": "sgd"},
    "lbfgs": {"solver": "lbfgs"},
    "early stopping": {"early_stopping": True},
    "rest": {"normalization": ["layer_norm", None], "residual": True, "dropout": 0.2, "input_dropout": 0.1},
    "batch norm": {"normalization": "batch_norm", "solver": "sgd", "clip_norm": 0.5, "ema_decay": 0.9},
    "one batch": {"batch_size": 150, "learning_rate": "cosine", "activation": "gelu"},
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
@pytest.mark.parametrize("weights", [None, WEIGHTS], ids=["", "weighted"])
def test_a_loss_of_the_core_written_in_python_teaches_the_same(change, weights, dtype):
    cases = [(MLPRegressor, "squared_error", "squared_error", NUMBERS), (MLPRegressor, "huber", "huber", NUMBERS)]
    cases += [(MLPClassifier, "log_loss", "log_loss", CLASSES), (MLPClassifier, "log_loss", "binary_log_loss", LABELS)]
    cases += [(MLPClassifier, "focal", "binary_focal", CLASSES == "a")]
    for estimator, name, formula, y in cases:
        settings = FAST | {"dtype": dtype} | change
        theirs = estimator(loss=name, **settings).fit(X, y, weights)
        ours = estimator(loss=partial(mean_of, formula), **settings).fit(X, y, weights)
        close = 1e-9 if dtype == "float64" else 1e-4
        np.testing.assert_allclose(flat(ours), flat(theirs), rtol=close, atol=close)
        assert ours.out_activation_ == theirs.out_activation_
        n_outputs = ours.n_outputs_ if formula in reference.MEAN_OVER_OUTPUTS else 1
        if change.get("solver") != "lbfgs" and n_outputs == 1:
            np.testing.assert_allclose(ours.loss_curve_, theirs.loss_curve_, rtol=close)
        if change.get("early_stopping"):
            np.testing.assert_allclose(ours.validation_scores_, theirs.validation_scores_, rtol=close, atol=close)


def test_partial_fit_and_warm_start_go_on():
    for fit in ("partial_fit", "fit"):
        ours, theirs = (MLPRegressor(loss, **FAST, warm_start=True) for loss in (squared, "squared_error"))
        for _ in range(3):
            getattr(ours, fit)(X, NUMBERS)
            getattr(theirs, fit)(X, NUMBERS)
        np.testing.assert_allclose(flat(ours), flat(theirs), rtol=1e-9, atol=1e-12)


def test_another_loss_may_take_over():
    model = MLPRegressor(**FAST, warm_start=True).fit(X, NUMBERS)
    model.set_params(loss=spread, max_iter=100).fit(X, NUMBERS)
    assert np.var(model.predict(X) - NUMBERS, axis=0).max() < 0.5


# --- gradients -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("loss", [squared, spread])
@pytest.mark.parametrize("n", [1, 16, 37])
def test_gradient_is_the_central_difference(loss, n, instruction_set):
    net, parameters, rows, y, weights = problem(n, (3, 4, 2), "tanh", "squared_error")
    engine, h = _core.Engine(_core.Network(*net), "float64", 1, loss=loss), 1e-5
    value, _, gradient = engine.loss_and_gradient(parameters, rows, y, weights, 0.5)
    outputs = _core.Engine(_core.Network(*net), "float64").predict(parameters, rows)
    assert value == pytest.approx(float(loss(y, outputs, weights)[0]), rel=1e-12)
    difference = np.empty_like(parameters)
    for i in range(parameters.size):
        steps = [parameters + way * h * (np.arange(parameters.size) == i) for way in (1, -1)]
        above, below = (sum(engine.loss_and_gradient(each, rows, y, weights, 0.5)[:2]) for each in steps)
        difference[i] = (above - below) / (2 * h)
    assert_gradients_match(net, gradient, difference, 1e-6)


@pytest.mark.parametrize(("dtype", "dropout"), [("float64", 0.0), ("float32", 0.3)])
def test_batches_that_do_not_fit_the_workspace_are_asked_once(dtype, dropout):
    """Inputs so wide that the engine takes the rows in parts."""
    n, n_columns = 300, 35_000
    rows = random_array((n, n_columns), density=1e-4, format="csr", random_state=0, dtype=dtype)
    given = rows.data, rows.indices.astype(np.int32), rows.indptr.astype(np.int64), n_columns
    y, weights = (RANDOM.rand(n, 2).astype(dtype), RANDOM.rand(n).astype(dtype))
    network = _core.Network([n_columns, 3, 2], ["tanh"], "squared_error", {}, (), (0.0, dropout))
    parameters = np.random.RandomState(1).uniform(-0.5, 0.5, network.n_parameters).astype(dtype)
    asked = []

    def recorded(*batch):
        asked.append(len(batch[0]))
        return squared(*batch)

    arguments = given, y, weights
    theirs = _core.Engine(network, dtype, 2).loss_and_gradient(parameters, *arguments, 0.1, 5)
    engine = _core.Engine(network, dtype, 2, loss=batch_loss_of(recorded))
    ours = engine.loss_and_gradient(parameters, *arguments, 0.1, 5)
    assert asked == [n]
    tolerance = TOLERANCE[dtype]
    np.testing.assert_allclose(ours[:2], theirs[:2], rtol=tolerance)
    np.testing.assert_allclose(ours[2], theirs[2], rtol=tolerance, atol=tolerance * np.abs(theirs[2]).max())
    trained, settings = parameters.copy(), options("adam", batch_size=n, max_iter=4, shuffle=False, dropout_seed=7)
    engine = _core.Engine(network, dtype, 2, loss=batch_loss_of(Failing(LookupError("at the third step"))))
    with pytest.raises(LookupError, match="at the third step"):
        engine.train(trained, new_slots("adam", trained), *arguments, None, None, generator(), settings, None)
    by_core = parameters.copy()
    slots, settings = new_slots("adam", by_core), settings | {"max_iter": 2}
    _core.Engine(network, dtype, 2).train(by_core, slots, *arguments, None, None, generator(), settings, None)
    np.testing.assert_allclose(trained, by_core, rtol=1e-3, atol=1e-5)
    assert not np.allclose(trained, parameters)


def batch_loss_of(loss):
    """A loss as the core wants it: a float, and an array of the dtype of the outputs."""

    def strict(y, outputs, sample_weight):
        value, gradient = loss(y, outputs, sample_weight)
        return float(value), np.ascontiguousarray(gradient, outputs.dtype)

    return strict


# --- what it is asked ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize("n_jobs", [1, 3])
def test_once_a_batch_with_its_rows(shuffle, n_jobs, dtype):
    """Targets and weights tell which rows they belong to, and so which outputs should stand beside them."""
    numbers = np.arange(150.0)
    calls = []

    def recorded(y, outputs, sample_weight):
        calls.append((y, outputs, sample_weight))
        return 0.0, np.zeros_like(outputs)  # so that the network stays as it is

    settings = FAST | {"solver": "sgd", "alpha": 0, "shuffle": shuffle, "n_jobs": n_jobs, "dtype": dtype, "max_iter": 2}
    model = MLPRegressor(recorded, **settings).fit(X, np.stack([numbers, -numbers], axis=1), numbers + 1)
    predictions = model.predict(X)
    assert [len(y) for y, *_ in calls] == [32, 32, 32, 32, 22] * 2
    for epoch in (calls[:5], calls[5:]):
        seen = np.concatenate([y[:, 0] for y, *_ in epoch])
        assert np.array_equal(seen, numbers) is not shuffle
        np.testing.assert_array_equal(np.sort(seen), numbers)
    for y, outputs, sample_weight in calls:
        assert y.dtype == outputs.dtype == sample_weight.dtype == dtype
        np.testing.assert_array_equal(y[:, 1], -y[:, 0])
        np.testing.assert_array_equal(sample_weight, y[:, 0] + 1)
        np.testing.assert_array_equal(outputs, predictions[y[:, 0].astype(int)])


@pytest.mark.parametrize(
    ("targets", "indicators", "link"),
    [
        (CLASSES, (CLASSES[:, None] == ["a", "b", "c"]), lambda z: softmax(z, axis=1)),
        (CLASSES == "a", (CLASSES == "a")[:, None], lambda z: np.hstack([expit(-z), expit(z)])),
        (LABELS, LABELS, expit),
    ],
    ids=["classes", "two classes", "labels"],
)
def test_classifiers_give_indicators_and_scores_before_the_link(targets, indicators, link):
    calls = []

    def recorded(y, outputs, sample_weight):
        calls.append((y, outputs, sample_weight))
        return 0.0, np.zeros_like(outputs)

    settings = FAST | {"solver": "sgd", "alpha": 0, "shuffle": False, "batch_size": 150, "max_iter": 1}
    model = MLPClassifier(loss=recorded, **settings).fit(X, targets)
    ((y, outputs, sample_weight),) = calls
    assert sample_weight is None
    np.testing.assert_array_equal(y, indicators)
    np.testing.assert_allclose(link(outputs), model.predict_proba(X), rtol=1e-12)


def test_class_weights_reach_it():
    calls = []

    def recorded(y, outputs, sample_weight):
        calls.append(sample_weight[y[:, 0] == 1])
        return mean_of("log_loss", y, outputs, sample_weight)

    MLPClassifier(loss=recorded, **FAST, class_weight={"a": 3.0}).fit(X, CLASSES, np.full(150, 0.5))
    assert set(np.concatenate(calls)) == {1.5}


def test_a_batch_without_weight_is_passed_over():
    weights = np.ones(150)
    weights[32:64] = 0
    sums = []

    def recorded(y, outputs, sample_weight):
        sums.append(sample_weight.sum())
        return squared(y, outputs, sample_weight)

    MLPRegressor(recorded, **FAST | {"shuffle": False, "max_iter": 1}).fit(X, NUMBERS, weights)
    assert sums == [32, 32, 32, 22]


def test_its_arrays_are_its_own():
    """It may change them and keep them."""
    kept = []

    def greedy(y, outputs, sample_weight):
        value, gradient = squared(y, outputs, sample_weight)
        kept.append((y, outputs, y.copy()))
        outputs[...] = gradient
        return value, outputs

    greedily, politely = (MLPRegressor(loss, **FAST).fit(X, NUMBERS) for loss in (greedy, squared))
    np.testing.assert_array_equal(flat(greedily), flat(politely))
    assert all(np.array_equal(y, copy) for y, _, copy in kept)


def test_it_computes_with_the_smallest_numbers():
    """The core takes them for 0 while it computes; Python must not."""
    products = []

    def loss(y, outputs, sample_weight):
        products.append(np.full(8, 1e-310) * np.ones(8))
        return squared(y, outputs, sample_weight)

    MLPRegressor(loss, **FAST).fit(X, NUMBERS)
    assert np.all(products)


def test_it_may_use_other_networks():
    teacher = MLPRegressor(**FAST, n_jobs=2).fit(X, NUMBERS)

    def distilled(y, outputs, sample_weight):
        MLPRegressor(hidden_layer_sizes=(4,), max_iter=1, n_jobs=2).fit(X, NUMBERS)
        assert teacher.predict(X).shape == NUMBERS.shape
        return squared(y, outputs, sample_weight)

    model = MLPRegressor(distilled, **FAST | {"max_iter": 2}, n_jobs=2).fit(X, NUMBERS)
    np.testing.assert_array_equal(flat(model), flat(MLPRegressor(squared, **FAST | {"max_iter": 2}).fit(X, NUMBERS)))


@pytest.mark.parametrize("change", [{}, {"normalization": "batch_norm"}, {"solver": "lbfgs"}], ids=str)
def test_the_same_bits_for_any_number_of_threads(change, dtype):
    before = _core.set_steady_threads(True)
    try:
        settings = FAST | {"dtype": dtype} | change
        fits = [MLPRegressor(spread, **settings, n_jobs=n).fit(X, NUMBERS, WEIGHTS) for n in (1, 2, 3, 5)]
    finally:
        _core.set_steady_threads(before)
    assert len({(flat(model).tobytes(), str(model.loss_)) for model in fits}) == 1


# --- mistakes --------------------------------------------------------------------------------------------------------

WRONG = [
    (lambda y, z: 0.5, ValueError, r"must return two values, the loss and its gradient, got 0.5"),
    (lambda y, z: (0.5, z, z), ValueError, "must return two values"),
    (lambda y, z: None, ValueError, "must return two values, the loss and its gradient, got None"),
    (lambda y, z: (z - y, z - y), ValueError, "must be a real number, got array"),
    (lambda y, z: ("0.5", z - y), ValueError, "must be a real number, got '0.5'"),
    (lambda y, z: (1j, z - y), ValueError, "must be a real number, got 1j"),
    (lambda y, z: (0.5, (z - y) * 1j), ValueError, "must hold real numbers, got complex128"),
    (lambda y, z: (0.5, None), ValueError, "must hold real numbers, got object"),
    (lambda y, z: (0.5, (z - y)[:, 0]), ValueError, r"must have shape \(32, 2\), got \(32,\)"),
    (lambda y, z: (0.5, (z - y).T), ValueError, r"must have shape \(32, 2\), got \(2, 32\)"),
    (lambda y, z: (0.5, 1.0), ValueError, r"must have shape \(32, 2\), got \(1?,?\)"),
    (lambda y, z: (np.nan, z - y), ValueError, "The loss became non-finite at epoch 1, batch 1"),
    (lambda y, z: (-np.inf, z - y), ValueError, "The loss became non-finite at epoch 1, batch 1"),
    (lambda y, z: (0.5, np.where(z == z[7], np.nan, z - y)), ValueError, "non-finite at epoch 1, batch 1"),
    (lambda y, z: (0.5, np.full_like(z, np.inf)), ValueError, "non-finite at epoch 1, batch 1"),
    (lambda y, z: 1 / 0, ZeroDivisionError, "division by zero"),
]


@pytest.mark.parametrize(("wrong", "kind", "message"), WRONG)
@pytest.mark.parametrize("n_jobs", [1, 3])
def test_wrong_answers(wrong, kind, message, n_jobs):
    with pytest.raises(kind, match=message):
        MLPRegressor(lambda y, z, _: wrong(y, z), **FAST, n_jobs=n_jobs).fit(X, NUMBERS)
    message = message.replace("32", "150") if "finite" not in message else "is not finite where L-BFGS ended"
    with pytest.raises(kind, match=message):
        MLPRegressor(lambda y, z, _: wrong(y, z), **FAST | {"solver": "lbfgs"}, n_jobs=n_jobs).fit(X, NUMBERS)


CORE_WRONG = [
    (lambda z: [0.5, z], TypeError, r"a tuple \(loss, gradient\)"),
    (lambda z: (1, z), TypeError, "must be a float, got 1"),
    (lambda z: (0.5, z.tolist()), TypeError, "the gradient of the loss must be an array"),
    (lambda z: (0.5, z.astype(np.float32)), TypeError, "must have dtype float64, got float32"),
    (lambda z: (0.5, z[:-1]), ValueError, r"must have shape \(7, 2\), got \(6, 2\)"),
    (lambda z: (0.5, np.asfortranarray(z)), ValueError, "C-contiguous"),
]


@pytest.mark.parametrize(("wrong", "kind", "message"), CORE_WRONG)
def test_the_core_takes_only_what_it_says(wrong, kind, message):
    net, parameters, rows, y, _ = problem(7, (3, 4, 2), "tanh", "squared_error")
    engine = _core.Engine(_core.Network(*net), "float64", 1, loss=lambda y, z, w: wrong(z))
    with pytest.raises(kind, match=message):
        engine.loss_and_gradient(parameters, rows, y, None, 0.0)
    with pytest.raises(TypeError, match="loss must be callable or None, got 'squared_error'"):
        _core.Engine(_core.Network(*net), "float64", 1, loss="squared_error")


class Failing:
    """A loss that raises at its third batch."""

    def __init__(self, error):
        self.error, self.n_calls = error, 0

    def __call__(self, y, outputs, sample_weight):
        self.n_calls += 1
        if self.n_calls == 3:
            raise self.error
        return squared(y, outputs, sample_weight)


@pytest.mark.parametrize("n_threads", [1, 3])
def test_what_was_learned_before_an_error_is_kept(n_threads):
    """The engine serves on, with the parameters after the last batch that went well."""
    net, parameters, rows, y, _ = problem(50, (3, 4, 2), "tanh", "squared_error")
    found = []
    for error, n_batches in ((LookupError("where?"), None), (None, 2)):
        trained, slots = parameters.copy(), new_slots("adam", parameters)
        loss = Failing(error) if error else batch_loss_of(squared)
        engine = _core.Engine(_core.Network(*net), "float64", n_threads, loss=batch_loss_of(loss))
        which = None if n_batches is None else np.arange(10 * n_batches)
        arguments = rows, y, None, which, None, generator(), options("adam", shuffle=False, max_iter=1), None
        if error:
            with pytest.raises(LookupError, match="where") as raised:
                engine.train(trained, slots, *arguments)
            assert raised.value is error
        else:
            engine.train(trained, slots, *arguments)
        found.append([trained.tobytes(), *(slot.tobytes() for slot in slots)])
    assert found[0] == found[1]


def test_ctrl_c_ends_training_quietly():
    for change in ({}, {"solver": "lbfgs"}):
        with pytest.warns(UserWarning, match="Training interrupted by user"):
            model = MLPRegressor(Failing(KeyboardInterrupt()), **FAST | change).fit(X, NUMBERS)
        assert model.predict(X).shape == NUMBERS.shape


def test_divergence_is_told_as_of_other_losses():
    settings = FAST | {"learning_rate_init": 1e200, "solver": "sgd"}
    with pytest.raises(ValueError, match="The loss became non-finite at epoch"):
        MLPRegressor(squared, **settings).fit(X, NUMBERS)
    with pytest.warns(UserWarning, match="The parameters with the best validation score are kept"):
        model = MLPRegressor(squared, **settings, early_stopping=True).fit(X, NUMBERS)
    assert np.isfinite(model.predict(X)).all()
    assert 1e-4 < lr_find(MLPRegressor(squared, (8,), random_state=0), X, NUMBERS).suggestion < 1


def test_blas_refuses_it_by_name(monkeypatch):
    monkeypatch.setenv("FASTMLP_BLAS", "on")
    with pytest.raises(ValueError, match="FASTMLP_BLAS=on knows no custom loss; use 'auto' or 'off'"):
        MLPRegressor(squared, **FAST).fit(X, NUMBERS)
    with pytest.raises(ValueError, match="no output activation but the loss's own"):
        MLPRegressor(**FAST, output_activation="tanh").fit(X, NUMBERS)


def test_hyperparameters_are_its_own():
    with pytest.raises(ValueError, match=r"loss_parameters are those of losses by name.*functools\.partial"):
        MLPRegressor(squared, loss_parameters={"delta": 1.0}).fit(X, NUMBERS)
    with pytest.raises(ValueError, match="'loss' parameter of MLPClassifier must be"):
        MLPClassifier(loss=3).fit(X, CLASSES)


# --- copies and files ------------------------------------------------------------------------------------------------


def test_clone_pickle_and_compile():
    model = MLPRegressor(spread, **FAST).fit(X, NUMBERS)
    copy = pickle.loads(pickle.dumps(model))
    assert copy.loss is clone(model).loss is spread
    np.testing.assert_array_equal(copy.predict(X), model.predict(X))
    np.testing.assert_array_equal(model.compile()(X), model.predict(X))
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(model.compile()))(X), model.predict(X))
    np.testing.assert_array_equal(flat(copy.partial_fit(X, NUMBERS)), flat(model.partial_fit(X, NUMBERS)))


@pytest.mark.parametrize("targets", [CLASSES, CLASSES == "a", LABELS], ids=["classes", "two classes", "labels"])
def test_files_of_classifiers(targets, tmp_path):
    path = tmp_path / "model.safetensors"
    name = "log_loss" if targets is CLASSES else "binary_log_loss"
    model = MLPClassifier(loss=partial(mean_of, name), **FAST).fit(X, targets)
    model.save(path)
    np.testing.assert_array_equal(fastmlp.load(path)(X), model.predict_proba(X))
    np.testing.assert_array_equal(MLPClassifier.load(path, loss=squared).predict_proba(X), model.predict_proba(X))


def test_files_hold_all_but_the_loss(tmp_path):
    path, plain = tmp_path / "model.safetensors", tmp_path / "plain.safetensors"
    model = MLPRegressor(spread, **FAST).fit(X, NUMBERS)
    model.save(path, optimizer=True)
    np.testing.assert_array_equal(fastmlp.load(path)(X), model.predict(X))
    with pytest.raises(fastmlp.files.ModelFileError, match=r"custom loss test_custom_losses\.spread.*pass it as load"):
        MLPRegressor.load(path)
    loaded = MLPRegressor.load(path, loss=spread)
    assert loaded.get_params() == model.get_params()
    np.testing.assert_array_equal(flat(loaded.partial_fit(X, NUMBERS)), flat(model.partial_fit(X, NUMBERS)))
    MLPRegressor(**FAST).fit(X, NUMBERS).save(plain)
    with pytest.raises(fastmlp.files.ModelFileError, match="loss='squared_error': there loss must be None"):
        MLPRegressor.load(plain, loss=spread)
