"""Whole epochs in the core: the plain loop's own bits, the oracle's numbers, and every rule for stopping."""

import numpy as np
import pytest
import reference
from sklearn.metrics import accuracy_score, r2_score
from test_engine import TOLERANCE, double, engine_of, problem

from fastmlp import _core
from fastmlp._parameters import views


def training_problem(loss="log_loss", dtype="float64", n=53, given=None):
    net, *arrays = problem(n, (6, 9, 5, 3), "tanh", loss, dtype, given=given)
    return net._replace(activations=("tanh", "relu")), *arrays


def options(optimizer="adam", **changes):
    return {
        "optimizer": optimizer,
        "hyperparameters": _core.optimizers()[optimizer]["hyperparameters"],
        "learning_rate": 0.01,
        "learning_rate_init": 0.01,
        "schedule": "constant",
        "power_t": 0.5,
        "t": 0,
        "n_samples_seen": 0,
        "alpha": 0.1,
        "batch_size": 10,
        "max_iter": 3,
        "shuffle": True,
        "tol": 0.0,
        "n_iter_no_change": np.inf,
        "dropout_seed": 0,
        "no_improvement_count": 0,
        "best_loss": np.inf,
        "best_validation_score": -np.inf,
        "score": "accuracy",
        "clip_norm": np.inf,
        "clip_value": np.inf,
        "ema_decay": 0.0,
        "report_batch_losses": False,
        "early_stopping": True,
        "max_seconds": np.inf,
        **changes,
    }


def generator(seed=0):
    _, key, pos, *_ = np.random.RandomState(seed).get_state()
    return _core.MT19937(key, pos)


def new_slots(optimizer, flat):
    return [np.zeros_like(flat) for _ in _core.optimizers()[optimizer]["slots"]]


def in_order_of_slots(net, flat):
    coefs, biases = views(flat, net.layer_sizes)
    return np.concatenate([coef.T.ravel() for coef in coefs] + biases)


def fit(net, flat, X, y, weights=None, *, n_threads=1, rows=None, validation_rows=None, on_epoch=None, **changes):
    """Train a copy of the parameters; returns them, the report and the state of the optimizer."""
    flat, settings = flat.copy(), options(**changes)
    slots = new_slots(settings["optimizer"], flat)
    engine = engine_of(net, str(flat.dtype), n_threads)
    rows = None if rows is None else rows.copy()  # they are left in the order of the last epoch
    report = engine.train(flat, slots, X, y, weights, rows, validation_rows, generator(), settings, on_epoch)
    return flat, report, slots


# --- the steps ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch_size", [1, 10, 53])
def test_one_epoch_is_the_plain_loop_bit_for_bit(optimizer, dtype, instruction_set, batch_size):
    """``loss_and_gradient`` then ``apply``, batch after batch, is what clipping and data-parallel training build on."""
    net, flat, X, y, weights = training_problem(dtype=dtype)
    trained, report, slots = fit(
        net, flat, X, y, weights, optimizer=optimizer, batch_size=batch_size, max_iter=1, shuffle=False
    )
    engine, settings, plain_slots, total = engine_of(net, dtype), options(optimizer), new_slots(optimizer, flat), 0.0
    for t, start in enumerate(range(0, len(X), batch_size), 1):
        batch = slice(start, start + batch_size)
        value, penalty, gradient = engine.loss_and_gradient(flat, X[batch], y[batch], weights[batch], 0.1)
        engine.apply(flat, gradient, optimizer, settings["hyperparameters"], 0.01, t, plain_slots)
        total += (value + penalty) * len(X[batch])
    np.testing.assert_array_equal(trained, flat)
    for slot, plain in zip(slots, plain_slots, strict=True):
        np.testing.assert_array_equal(slot, plain)
    np.testing.assert_allclose(report["loss_curve"], [total / len(X)], rtol=1e-12 if dtype == "float64" else 1e-6)
    assert report["t"] == t


@pytest.mark.parametrize("batch_size", [7, 53])
@pytest.mark.parametrize("weighted", [False, True], ids=["", "weighted"])
def test_epochs_are_the_oracles(optimizer, loss, dtype, weighted, batch_size):
    net, flat, X, y, weights = training_problem(loss, dtype)
    weights = weights if weighted else None
    trained, report, slots = fit(net, flat, X, y, weights, optimizer=optimizer, batch_size=batch_size)

    n_weights = flat.size - sum(net.layer_sizes[1:])
    hyperparameters = reference.spare_biases(options(optimizer)["hyperparameters"], n_weights, flat.size)

    def step(t, *state):
        reference.OPTIMIZERS[optimizer](hyperparameters, 0.01, t, *state)

    (expected, X, y), weights = double(flat, X, y), None if weights is None else weights.astype(np.float64)
    expected_slots, random = new_slots(optimizer, expected), np.random.RandomState(0)
    settings = {"sample_weight": weights, "alpha": 0.1, "batch_size": batch_size, "max_iter": 3, "random": random}
    curve = reference.train(net, expected, expected_slots, X, y, step, **settings)
    tolerance = 1e-9 if dtype == "float64" else 1e-3
    np.testing.assert_allclose(report["loss_curve"], curve, rtol=tolerance)
    np.testing.assert_allclose(trained, expected, rtol=tolerance, atol=tolerance)
    for slot, expected_slot in zip(slots, expected_slots, strict=True):
        expected_slot = in_order_of_slots(net, expected_slot)
        np.testing.assert_allclose(slot, expected_slot, rtol=tolerance, atol=tolerance * np.abs(expected_slot).max())


def test_the_generator_moves_on_like_numpys():
    net, flat, X, y, _ = training_problem()
    numpys, ours = np.random.RandomState(0), generator()
    engine_of(net).train(flat, new_slots("adam", flat), X, y, None, None, None, ours, options(), None)
    for _ in range(3):
        numpys.shuffle(np.arange(len(X)))
    np.testing.assert_array_equal(ours.state[0], numpys.get_state()[1])
    assert ours.state[1] == numpys.get_state()[2]


@pytest.mark.parametrize("batch_size", [50, 333])
def test_same_bits_for_any_number_of_threads(optimizer, loss, dtype, batch_size):
    net, flat, X, y, weights = training_problem(loss, dtype, n=333)
    runs = [
        fit(net, flat, X, y, weights, optimizer=optimizer, n_threads=n_threads, batch_size=batch_size, max_iter=20)
        for n_threads in (1, 2, 3, 5)
    ]
    for trained, report, _ in runs[1:]:
        np.testing.assert_array_equal(trained, runs[0][0])
        assert report["loss_curve"] == runs[0][1]["loss_curve"]


def resume(net, flat, X, y, optimizer, lengths, shuffle):
    """Several calls that hand their state to the next."""
    flat, slots, random, curve = flat.copy(), new_slots(optimizer, flat), generator(), []
    settings = options(optimizer, shuffle=shuffle)
    for max_iter in lengths:
        settings["max_iter"] = max_iter
        report = engine_of(net, str(flat.dtype)).train(flat, slots, X, y, None, None, None, random, settings, None)
        curve += report["loss_curve"]
        settings.update({key: report[key] for key in settings.keys() & report.keys()})
    return flat, curve


def test_resumed_training_is_uninterrupted_training(optimizer, dtype):
    net, flat, X, y, _ = training_problem(dtype=dtype)
    whole, curve = resume(net, flat, X, y, optimizer, [5], shuffle=False)
    for lengths in ([2, 3], [1] * 5):
        part, part_curve = resume(net, flat, X, y, optimizer, lengths, shuffle=False)
        np.testing.assert_array_equal(part, whole)
        assert part_curve == curve


def test_each_call_shuffles_from_the_order_of_the_rows():
    """As scikit-learn's ``partial_fit``: within a call an epoch shuffles the order of the one before."""
    net, flat, X, y, _ = training_problem()
    actual, curve = resume(net, flat, X, y, "sgd", [1, 1], shuffle=True)
    numpys, expected, slots = np.random.RandomState(0), flat.copy(), new_slots("sgd", flat)
    settings, hyperparameters = {"alpha": 0.1, "batch_size": 10, "random": numpys}, options("sgd")["hyperparameters"]
    expected_curve = []
    for _ in range(2):
        expected_curve += reference.train(
            net, expected, slots, X, y, lambda t, *s: reference.sgd(hyperparameters, 0.01, t, *s), **settings
        )
    np.testing.assert_allclose(curve, expected_curve, rtol=1e-9)
    np.testing.assert_allclose(actual, expected, rtol=1e-9, atol=1e-12)


def test_some_rows_only(dtype):
    """Rows that are left out have no influence, whatever they hold."""
    net, flat, X, y, weights = training_problem(dtype=dtype)
    rows = np.random.RandomState(1).permutation(53)[:30]
    expected, report, _ = fit(net, flat, X[rows], y[rows], weights[rows])
    spoiled = np.where(np.isin(np.arange(53), rows)[:, None], X, np.nan).astype(dtype)
    trained, ours, _ = fit(net, flat, spoiled, y, weights, rows=rows)
    np.testing.assert_array_equal(trained, expected)
    assert ours["loss_curve"] == report["loss_curve"]


def test_inputs_are_only_read(dtype):
    net, flat, X, y, weights = training_problem(dtype=dtype)
    rows = np.arange(53)
    for array in (X, y, weights, rows):
        array.flags.writeable = False
    fit(net, flat, X, y, weights, rows=rows)
    flat.flags.writeable = False
    with pytest.raises(ValueError, match="writ"):
        engine_of(net, dtype).train(
            flat, new_slots("adam", flat), X, y, weights, rows, None, generator(), options(), None
        )


# --- the learning rate ----------------------------------------------------------------------------------------------


def test_inverse_scaling():
    """After each epoch the rate is ``learning_rate_init / (rows seen + 1) ** power_t``, as in scikit-learn."""
    net, flat, X, y, _ = training_problem()
    _, report, _ = fit(net, flat, X, y, optimizer="sgd", schedule="invscaling", power_t=0.3, n_samples_seen=100)
    assert report["n_samples_seen"] == 100 + 3 * 53
    assert report["learning_rate"] == pytest.approx(0.01 / (100 + 3 * 53 + 1) ** 0.3, rel=1e-15)


def test_adaptive_rate_drops_until_it_is_too_small():
    net, flat, X, y, _ = training_problem()
    changes = {"schedule": "adaptive", "tol": 1e9, "n_iter_no_change": 1, "max_iter": 200}
    rates = []
    _, report, _ = fit(net, flat, X, y, optimizer="sgd", **changes, on_epoch=lambda *news: rates.append(news[3]))
    # the first epoch improves on infinity, the next two exceed a patience of one, and so on; the last lowers nothing
    expected = [0.01 / 5 ** (n // 2) for n in range(len(rates) - 1)]
    np.testing.assert_allclose(rates, [*expected, expected[-1]], rtol=1e-12)
    assert report["stopped"] == "learning_rate"
    assert report["learning_rate"] == rates[-1] <= 1e-6 < rates[-4]


# --- when to stop ---------------------------------------------------------------------------------------------------


def test_report_of_a_fit_that_ran_to_its_end():
    net, flat, X, y, _ = training_problem()
    _, report, _ = fit(net, flat, X, y)
    assert (report["stopped"], report["n_iter"], report["t"], report["n_samples_seen"]) == ("max_iter", 3, 18, 159)
    assert (report["failed_epoch"], report["failed_batch"]) == (0, 0)
    assert (len(report["loss_curve"]), report["validation_scores"], report["best_parameters"]) == (3, [], None)
    assert report["best_loss"] == min(report["loss_curve"])


@pytest.mark.parametrize("n_iter_no_change", [1, 4])
def test_no_improvement(n_iter_no_change):
    """The first epoch always improves on infinity; then the count must exceed the limit."""
    net, flat, X, y, _ = training_problem()
    _, report, _ = fit(net, flat, X, y, tol=1e9, n_iter_no_change=n_iter_no_change, max_iter=50)
    assert (report["stopped"], report["n_iter"]) == ("no_improvement", n_iter_no_change + 2)
    assert report["no_improvement_count"] == n_iter_no_change + 1


def test_patience_is_taken_up_where_it_was_left():
    net, flat, X, y, _ = training_problem()
    changes = {"tol": 1e9, "n_iter_no_change": 4, "max_iter": 50, "no_improvement_count": 3, "best_loss": 0.0}
    assert fit(net, flat, X, y, **changes)[1]["n_iter"] == 2


SCORED = [
    ("log_loss", {}, "accuracy", slice(None)),
    ("focal", {"gamma": 1.0}, "accuracy", slice(None)),
    ("squared_error", {}, "r2", slice(None)),
    ("gaussian_nll", {}, "r2", slice(0, None, 2)),  # the means
    ("quantile", {"quantile": [0.1, 0.45, 0.9]}, "r2", slice(1, None, 3)),  # next to the median
]


@pytest.mark.parametrize(("loss", "given", "score", "central"), SCORED)
@pytest.mark.parametrize("weighted", [False, True], ids=["", "weighted"])
def test_validation_scores_are_scikit_learns(loss, given, score, central, dtype, weighted):
    net, flat, X, y, weights = training_problem(loss, dtype, given=given)
    rows, validation_rows = np.arange(40), np.arange(40, 53)
    seen = []
    weights = weights if weighted else None
    arguments = {"rows": rows, "validation_rows": validation_rows, "score": score, "optimizer": "sgd"}
    changes = {"max_iter": 6, "learning_rate": 0.3, "learning_rate_init": 0.3}
    _, report, _ = fit(net, flat, X, y, weights, **arguments, **changes, on_epoch=lambda *news: seen.append(news))
    assert [score for _, _, score, _ in seen] == report["validation_scores"]
    for n, actual in enumerate(report["validation_scores"], 1):
        trained, _, _ = fit(net, flat, X, y, weights, **arguments, **{**changes, "max_iter": n})
        p, held_out = reference.predict(net, *double(trained, X[validation_rows]))[:, central], y[validation_rows]
        sample_weight = None if weights is None else weights[validation_rows]
        if score == "r2":
            expected = r2_score(held_out, p, sample_weight=sample_weight)
        else:
            expected = accuracy_score(held_out.argmax(axis=1), p.argmax(axis=1), sample_weight=sample_weight)
        assert actual == pytest.approx(expected, rel=TOLERANCE[dtype] * 10)
    best = int(np.argmax(report["validation_scores"])) + 1
    assert report["best_validation_score"] == max(report["validation_scores"])
    expected, _, _ = fit(net, flat, X, y, weights, **arguments, **{**changes, "max_iter": best})
    np.testing.assert_array_equal(report["best_parameters"], expected)


def test_a_diverging_fit_says_where(dtype, optimizer):
    net, flat, X, y, _ = training_problem("squared_error", dtype)
    X[23] = np.nan
    _, report, _ = fit(net, flat, X, y, optimizer=optimizer, shuffle=False, max_iter=4)
    assert (report["stopped"], report["failed_epoch"], report["failed_batch"]) == ("not_finite", 1, 3)


def test_news_of_every_epoch():
    net, flat, X, y, _ = training_problem()
    seen = []
    _, report, _ = fit(net, flat, X, y, on_epoch=lambda *news: seen.append(news))
    n_iters, losses, scores, learning_rates = zip(*seen, strict=True)
    assert n_iters == (1, 2, 3)
    assert list(losses) == report["loss_curve"]
    assert np.isnan(scores).all()
    assert learning_rates == (0.01,) * 3


def test_an_exception_of_the_callback_reaches_the_caller():
    net, flat, X, y, _ = training_problem()

    def give_up(n_iter, *_):
        if n_iter == 2:
            raise RuntimeError("enough")

    with pytest.raises(RuntimeError, match="enough"):
        fit(net, flat, X, y, on_epoch=give_up)


def test_ctrl_c_keeps_what_was_learned():
    net, flat, X, y, _ = training_problem()

    def press_ctrl_c(n_iter, *_):
        if n_iter == 2:
            raise KeyboardInterrupt

    trained, report, _ = fit(net, flat, X, y, max_iter=9, on_epoch=press_ctrl_c)
    assert (report["stopped"], report["n_iter"]) == ("interrupted", 2)
    np.testing.assert_array_equal(trained, fit(net, flat, X, y, max_iter=2)[0])


# --- options that are refused ---------------------------------------------------------------------------------------


def test_missing_option_is_named():
    net, flat, X, y, _ = training_problem()
    settings = options()
    del settings["batch_size"]
    with pytest.raises(ValueError, match="batch_size"):
        engine_of(net).train(flat, new_slots("adam", flat), X, y, None, None, None, generator(), settings, None)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("optimizer", "nope"),
        ("schedule", "nope"),
        ("score", "nope"),
        ("batch_size", 0),
        ("batch_size", -3),
        ("max_iter", -1),
        ("alpha", -1.0),
        ("alpha", np.nan),
        ("learning_rate", np.nan),
        ("learning_rate", -1.0),
        ("t", -1),
        ("learning_rate_init", np.nan),
        ("power_t", np.nan),
        ("tol", np.nan),
        ("n_iter_no_change", np.nan),
    ],
)
def test_bad_option_is_named(name, value):
    net, flat, X, y, _ = training_problem()
    before = flat.copy()
    with pytest.raises(ValueError, match=name if name != "optimizer" else "adam"):
        engine_of(net).train(
            flat, new_slots("adam", flat), X, y, None, None, None, generator(), {**options(), name: value}, None
        )
    np.testing.assert_array_equal(flat, before)


@pytest.mark.parametrize("rows", [np.array([0, 53]), np.array([-1, 2]), np.array([], np.int64)])
def test_row_numbers_out_of_range(rows):
    net, flat, X, y, _ = training_problem()
    with pytest.raises(ValueError, match="rows"):
        fit(net, flat, X, y, rows=rows)
    if rows.size:
        with pytest.raises(ValueError, match="validation_rows"):
            fit(net, flat, X, y, validation_rows=rows)
