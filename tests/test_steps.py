"""What lies between a gradient and the next weights beside the optimizer: clipping, averages, a rate for each step."""

import numpy as np
import pytest
import reference
from scipy.sparse import csr_array
from test_engine import double, engine_of
from test_trainer import fit, generator, in_order_of_slots, options, training_problem

from fastmlp import _core

EVERYTHING = {"optimizer": "adamw", "clip_norm": 0.1, "clip_value": 0.02, "ema_decay": 0.9}


def slots_for(settings, flat, net):
    """Zeros, and the weights from which the averaged ones start."""
    slots = [np.zeros_like(flat) for _ in _core.optimizers()[settings["optimizer"]]["slots"]]
    return [*slots, in_order_of_slots(net, flat)] if settings["ema_decay"] else slots


def train(net, flat, X, y, weights=None, *, n_threads=1, rates=None, validation_rows=None, on_epoch=None, **changes):
    """Train a copy of the parameters; returns them, the report and all slots."""
    flat, settings = flat.copy(), options(**changes)
    slots = slots_for(settings, flat, net)
    rows = None if validation_rows is None else np.setdiff1d(np.arange(len(y)), validation_rows)
    report = engine_of(net, str(flat.dtype), n_threads).train(
        flat, slots, X, y, weights, rows, validation_rows, generator(), settings, on_epoch, rates
    )
    return flat, report, slots


def clipped(gradient, clip_norm=np.inf, clip_value=np.inf):
    norm = np.sqrt((gradient**2).sum())
    return (gradient * min(1.0, clip_norm / norm)).clip(-clip_value, clip_value)


def expected(net, flat, X, y, weights, optimizer="adam", rate=lambda t: 0.01, batch_size=10, ema_decay=0.0, **limits):
    """The oracle's training: the parameters at the end, and their average."""
    flat, X, y, weights = double(flat, X, y, weights)
    slots = [np.zeros_like(flat) for _ in _core.optimizers()[optimizer]["slots"]]
    average, n_weights = flat.copy(), flat.size - sum(net.layer_sizes[1:])
    hyperparameters = reference.spare_biases(options(optimizer)["hyperparameters"], n_weights, flat.size)

    def step(t, w, gradient, slots):
        reference.OPTIMIZERS[optimizer](hyperparameters, rate(t), t, w, clipped(gradient, **limits), slots)
        decay = ema_decay if t > 1 else 0
        average[:] = decay * average + (1 - decay) * w

    random = np.random.RandomState(0)
    settings = {"sample_weight": weights, "alpha": 0.1, "batch_size": batch_size, "max_iter": 3, "random": random}
    reference.train(net, flat, slots, X, y, step, **settings)
    return flat, average


def assert_close(actual, wanted, dtype):
    tolerance = 1e-9 if dtype == "float64" else 1e-3
    np.testing.assert_allclose(actual, wanted, rtol=tolerance, atol=tolerance)


# --- clipping -------------------------------------------------------------------------------------------------------

LIMITS = [{"clip_norm": 0.3}, {"clip_value": 0.02}, {"clip_norm": 0.3, "clip_value": 0.02}]


@pytest.mark.parametrize("limits", LIMITS, ids=str)
@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
@pytest.mark.parametrize("form", ["dense", "sparse"])
def test_clipping_is_the_oracles(limits, optimizer, form, dtype, instruction_set):
    """First by the length of the whole gradient, then number by number."""
    net, flat, X, y, weights = training_problem(dtype=dtype)
    X[np.abs(X) < 0.5] = 0
    wanted, _ = expected(net, flat, X, y, weights, optimizer, **limits)
    assert np.abs(wanted - expected(net, flat, X, y, weights, optimizer)[0]).max() > 0.01
    if form == "sparse":
        csr = csr_array(X)
        X = csr.data, csr.indices.astype(np.int32), csr.indptr.astype(np.int64), X.shape[1]
    assert_close(train(net, flat, X, y, weights, optimizer=optimizer, **limits)[0], wanted, dtype)


@pytest.mark.parametrize("limits", [{"clip_norm": 1e30}, {"clip_value": 1e30}], ids=str)
def test_a_limit_that_is_not_reached_changes_nothing(limits, optimizer, dtype):
    """But for the last bit: the compiler fuses other products and sums."""
    net, flat, X, y, weights = training_problem(dtype=dtype)
    plain = train(net, flat, X, y, weights, optimizer=optimizer)
    limited = train(net, flat, X, y, weights, optimizer=optimizer, **limits)
    assert_close(limited[0], plain[0], dtype)
    np.testing.assert_allclose(
        limited[1]["loss_curve"], plain[1]["loss_curve"], rtol=1e-5 if dtype == "float32" else 1e-12
    )


@pytest.mark.parametrize("limits", [{}, *LIMITS], ids=str)
def test_a_batch_of_any_size(limits):
    """Too large for the engine's buffers, it is taken in parts: what others call accumulating gradients."""
    net, flat, *arrays = training_problem()
    X, y, weights = (np.resize(a, (70_000, *a.shape[1:])) for a in arrays)
    wanted, _ = expected(net, flat, X, y, weights, batch_size=70_000, **limits)
    assert_close(train(net, flat, X, y, weights, batch_size=70_000, **limits)[0], wanted, "float64")


@pytest.mark.parametrize("limits", LIMITS, ids=str)
def test_clipping_hides_no_nan(limits):
    """And no step is taken with it."""
    net, flat, X, y, _ = training_problem("squared_error")
    X[23] = np.nan
    trained, report, _ = train(net, flat, X, y, shuffle=False, **limits)
    assert (report["stopped"], report["failed_batch"]) == ("not_finite", 3)
    before, _, _ = train(net, flat, X[:20], y[:20], shuffle=False, max_iter=1, **limits)
    np.testing.assert_array_equal(trained, before)


# --- averaged weights -----------------------------------------------------------------------------------------------


def test_averages_are_the_oracles(optimizer, dtype, instruction_set):
    net, flat, X, y, weights = training_problem(dtype=dtype)
    trained, _, slots = train(net, flat, X, y, weights, optimizer=optimizer, ema_decay=0.8)
    raw, average = expected(net, flat, X, y, weights, optimizer, ema_decay=0.8)
    assert_close(trained, average, dtype)
    assert_close(slots[-1], in_order_of_slots(net, raw), dtype)


def test_the_average_of_one_step_is_its_weights(dtype):
    net, flat, X, y, _ = training_problem(dtype=dtype)
    once = {"batch_size": len(X), "max_iter": 1}
    averaged = train(net, flat, X, y, ema_decay=0.999, **once)[0]
    np.testing.assert_array_equal(averaged, train(net, flat, X, y, **once)[0])


@pytest.mark.parametrize("sizes", [(6, 9, 5, 3), (60, 300, 70, 3)], ids=["few parameters", "many"])
def test_averaging_leaves_training_alone(sizes, optimizer, dtype):
    """Losses and the weights beside the averages are those of a training without, but for the last bit."""
    net, flat, X, y, weights = training_problem(dtype=dtype)
    net = net._replace(layer_sizes=sizes)
    flat = reference.glorot(net, np.random.RandomState(0)).astype(dtype)
    X = np.resize(X, (len(X), sizes[0]))
    trained, report, slots = train(net, flat, X, y, weights, optimizer=optimizer)
    averaged, same_report, averaged_slots = train(net, flat, X, y, weights, optimizer=optimizer, ema_decay=0.9)
    assert (averaged != trained).any()
    assert_close(averaged_slots[-1], in_order_of_slots(net, trained), dtype)
    for slot, wanted in zip(averaged_slots[:-1], slots, strict=True):
        assert_close(slot, wanted, dtype)
    rtol = 1e-5 if dtype == "float32" else 1e-12
    np.testing.assert_allclose(same_report["loss_curve"], report["loss_curve"], rtol=rtol)


def test_averages_are_validated_and_kept(dtype):
    """Scores, and the parameters with the best of them, are those that a training that ends there would return."""
    net, flat, X, y, _ = training_problem(dtype=dtype)
    settings = {"validation_rows": np.arange(40, 53), "ema_decay": 0.9, "learning_rate": 0.05}
    _, report, _ = train(net, flat, X, y, **settings, max_iter=6)
    scores = report["validation_scores"]
    assert len(set(scores)) > 1
    for n in range(1, 7):
        average, shorter, _ = train(net, flat, X, y, **settings, max_iter=n)
        p = reference.predict(net, *double(average, X[40:]))
        assert scores[n - 1] == pytest.approx((p.argmax(axis=1) == y[40:].argmax(axis=1)).mean())
        if n == np.argmax(scores) + 1:
            np.testing.assert_array_equal(report["best_parameters"], average)
            assert shorter["best_validation_score"] == max(scores)


# --- a rate for each step -------------------------------------------------------------------------------------------


def falling(t, n_steps, no_improvement_count):
    return 0.02 / np.arange(t + 1, t + n_steps + 1)


def test_rates_by_step_are_the_oracles(optimizer, dtype):
    net, flat, X, y, weights = training_problem(dtype=dtype)
    trained, report, _ = train(net, flat, X, y, weights, optimizer=optimizer, rates=falling)
    wanted, _ = expected(net, flat, X, y, weights, optimizer, rate=lambda t: 0.02 / t)
    assert_close(trained, wanted, dtype)
    assert report["learning_rate"] == 0.02 / 18


def test_rates_are_asked_for_before_each_epoch():
    net, flat, X, y, _ = training_problem()
    asked, told = [], []

    def rates(*question):
        asked.append(question)
        return falling(*question)

    train(net, flat, X, y, t=100, tol=1e9, rates=rates, on_epoch=lambda *news: told.append(news[3]))
    assert asked == [(100, 6, 0), (106, 6, 0), (112, 6, 1)]
    assert told == [0.02 / 106, 0.02 / 112, 0.02 / 118]


def test_a_batch_without_weight_takes_no_rate():
    net, flat, X, y, weights = training_problem()
    weights[10:20] = 0
    _, report, _ = train(net, flat, X, y, weights, shuffle=False, max_iter=1, rates=falling)
    assert (report["t"], report["learning_rate"]) == (5, 0.02 / 5)


def exhausted(*_):
    raise RuntimeError("enough")


@pytest.mark.parametrize(
    ("rates", "error", "message"),
    [
        (lambda t, n, _: np.full(n - 1, 0.1), ValueError, "shape"),
        (lambda t, n, _: np.full(n, 0.1, np.float32), TypeError, "float64"),
        (lambda t, n, _: [0.1] * n, TypeError, "rates"),
        (lambda t, n, _: np.where(np.arange(n) == 2, np.nan, 0.1), ValueError, "step 3 .*nan"),
        (lambda t, n, _: np.full(n, -0.5), ValueError, "step 1 .*-0.5"),
        (lambda t, n, _: np.full(n, np.inf), ValueError, "step 1 .*inf"),
        (exhausted, RuntimeError, "enough"),
    ],
)
def test_bad_rates_end_the_training(rates, error, message):
    net, flat, X, y, _ = training_problem()
    with pytest.raises(error, match=message):
        train(net, flat, X, y, rates=rates)


def test_losses_of_all_batches():
    net, flat, X, y, _ = training_problem("squared_error")
    _, report, _ = train(net, flat, X, y, report_batch_losses=True)
    losses = np.reshape(report["batch_losses"], (3, 6))
    np.testing.assert_allclose(losses @ [10, 10, 10, 10, 10, 3] / 53, report["loss_curve"], rtol=1e-14)
    assert train(net, flat, X, y)[1]["batch_losses"] == []


# --- all of it ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sizes", [(6, 9, 5, 3), (54, 256, 256, 7)], ids=["few parameters", "many"])
@pytest.mark.parametrize("form", ["dense", "sparse"])
def test_same_bits_for_any_number_of_threads(sizes, form, dtype):
    before = _core.set_steady_threads(True)
    random = np.random.RandomState(0)
    net = reference.Net(sizes, ("relu", "tanh"), "log_loss")
    flat, X = reference.glorot(net, random).astype(dtype), random.randn(400, sizes[0]).astype(dtype)
    if form == "sparse":
        csr = csr_array(np.where(X > 0.5, X, 0))
        X = csr.data, csr.indices.astype(np.int32), csr.indptr.astype(np.int64), sizes[0]
    y = random.randint(sizes[-1], size=400).astype(np.int32)
    settings = {**EVERYTHING, "rates": falling, "validation_rows": np.arange(300, 400), "batch_size": 120}
    runs = [train(net, flat, X, y, n_threads=n_threads, **settings) for n_threads in (1, 2, 3, 7)]
    for trained, report, slots in runs[1:]:
        np.testing.assert_array_equal(trained, runs[0][0])
        np.testing.assert_array_equal(slots, runs[0][2])
        assert report["loss_curve"] == runs[0][1]["loss_curve"]
        np.testing.assert_array_equal(report["best_parameters"], runs[0][1]["best_parameters"])
    _core.set_steady_threads(before)


def test_resumed_training_is_uninterrupted_training(dtype):
    net, flat, X, y, _ = training_problem(dtype=dtype)
    whole, _, slots = train(net, flat, X, y, **EVERYTHING, shuffle=False, max_iter=5, rates=falling)
    settings, part = options(**EVERYTHING, shuffle=False), flat.copy()
    part_slots = slots_for(settings, part, net)
    for max_iter in (2, 1, 2):
        settings["max_iter"] = max_iter
        report = engine_of(net, dtype).train(
            part, part_slots, X, y, None, None, None, generator(), settings, None, falling
        )
        settings.update({key: report[key] for key in settings.keys() & report.keys()})
    np.testing.assert_array_equal(part, whole)
    np.testing.assert_array_equal(part_slots, slots)


@pytest.mark.parametrize(
    ("name", "values"),
    [("clip_norm", [0.0, -1.0, np.nan]), ("clip_value", [0.0, -1.0, np.nan]), ("ema_decay", [1.0, -0.1, np.nan])],
)
def test_bad_options_are_named(name, values):
    net, flat, X, y, _ = training_problem()
    for value in values:
        with pytest.raises(ValueError, match=name):
            fit(net, flat, X, y, **{name: value})


def test_an_average_needs_a_slot():
    net, flat, X, y, _ = training_problem()
    with pytest.raises(ValueError, match="'adam' and an average need 3 slots, got 2"):
        fit(net, flat, X, y, ema_decay=0.9)
