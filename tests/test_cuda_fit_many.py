"""Many fits at once: each estimator becomes what a fit on the CPU makes of it, by itself."""

import os
import warnings

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning
from test_cuda_arrays import Interface
from test_cuda_engine import TRAINING, assert_close
from test_trainer import generator
from test_trainer import options as trainer_options

from fastmlp import MLPClassifier, MLPRegressor, _core
from fastmlp._fit_many import fit_many
from fastmlp.schedules import ReduceOnPlateau

random = np.random.RandomState(0)
N = 120
X = random.randn(N, 6).astype(np.float32)
y = X @ random.randn(6) + 0.1 * random.randn(N)
classes = np.array(["a", "b", "c"])[np.digitize(y, [-1, 1])]
FOLDS = [np.setdiff1d(np.arange(N), np.arange(first, N, 3)) for first in range(3)]
SETTINGS = {"hidden_layer_sizes": (10, 8), "max_iter": 8, "batch_size": 32, "tol": 0, "device": "cuda"}
DIFFERENT = [
    {"random_state": 0},
    {"random_state": 1, "alpha": 0.05, "learning_rate_init": 0.01},
    {"random_state": 2, "batch_size": 50, "max_iter": 5, "beta_1": 0.8},
    {"random_state": 3, "shuffle": False, "batch_size": "auto"},
]
NOT_COMPARED = {"_flat", "device"}


def several(kind=MLPClassifier, differences=DIFFERENT, **settings):
    return [kind(**SETTINGS | settings | different) for different in differences]


def assert_same_fits(models, targets, rows=None, weights=None, tolerance=1e-4):
    """All that a fit leaves is there, and the numbers are close."""
    rows = rows or [np.arange(N)] * len(models)
    expected = [clone(model).set_params(device="cpu") for model in models]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        assert fit_many(models, X, targets, weights, row_indices=rows) == [None] * len(models)
        for model, own in zip(expected, rows, strict=True):
            model.fit(X[own], targets[own], None if weights is None else weights[own])
    for found, right in zip(models, expected, strict=True):
        assert_same_attributes(vars(found), vars(right), tolerance)
    return models


def assert_same_attributes(found, right, tolerance):
    assert found.keys() == right.keys()
    for name in found.keys() - NOT_COMPARED:
        assert_same(found[name], right[name], tolerance, name)


def assert_same(ours, theirs, tolerance, name):
    assert type(ours) is type(theirs), name
    if isinstance(ours, dict):
        assert_same_attributes(ours, theirs, tolerance)
    elif isinstance(ours, list) and ours and isinstance(ours[0], np.ndarray | list):
        for one, other in zip(ours, theirs, strict=True):
            assert_same(one, other, tolerance, name)
    elif isinstance(ours, np.ndarray) and ours.dtype.kind != "f":
        np.testing.assert_array_equal(ours, theirs, name)
    elif isinstance(ours, float | np.ndarray) or (isinstance(ours, list) and all(isinstance(x, float) for x in ours)):
        assert np.shape(ours) == np.shape(theirs), name
        assert_close(ours, theirs, tolerance)
    elif name == "_optimizer":
        assert_same_attributes(vars(ours), vars(theirs), tolerance)
    elif not name.startswith("_"):
        assert repr(ours) == repr(theirs), name


# --- what may differ ------------------------------------------------------------------------------------------------


def test_different_parameters_and_folds(library):
    models = assert_same_fits(several(), classes, [*FOLDS, np.arange(7, 100)])
    assert [model.n_iter_ for model in models] == [8, 8, 5, 8]


def test_all_rows_of_all(library):
    rows = [np.arange(N)] * 4
    given, none = several(), several()
    fit_many(given, X, classes, row_indices=rows)
    fit_many(none, X, classes)
    for one, other in zip(given, none, strict=True):
        np.testing.assert_array_equal(one.coefs_[0], other.coefs_[0])


def test_rows_as_a_mask_and_twice(library):
    """As numbers, as a mask, and drawn with repetition."""
    mask = np.arange(N) % 3 > 0
    drawn = random.randint(0, N, 90)
    models = several()[:2]
    fit_many(models, X, classes, row_indices=[mask, drawn])
    expected = assert_same_fits(several()[:2], classes, [np.flatnonzero(mask), drawn])
    for one, other in zip(models, expected, strict=True):
        np.testing.assert_array_equal(one.coefs_[0], other.coefs_[0])


def test_every_optimizer(library, optimizer):
    assert_same_fits(several(solver=optimizer, max_iter=3), classes, [*FOLDS, FOLDS[0]], tolerance=1e-3)


@pytest.mark.parametrize(
    "settings",
    [
        {"solver": "sgd", "learning_rate": "invscaling"},
        {"learning_rate": "cosine"},
        {"learning_rate": lambda t, n: 0.01 / (1 + t)},
        {"ema_decay": 0.9, "learning_rate_init": 0.01},
        {"clip_norm": 0.05, "clip_value": 0.01},
        {"dropout": [0.2, 0.3], "input_dropout": 0.1},
        {"activation": ["gelu", "logistic"], "initialization": "he_normal"},
        {"solver": "adamw", "weight_decay": 0.1},
        {"class_weight": "balanced"},
        {"hidden_layer_sizes": ()},
    ],
    ids=lambda settings: ", ".join(settings),
)
def test_settings(library, settings):
    assert_same_fits(several(**settings), classes, [*FOLDS, np.arange(N)])


def test_two_classes_and_labels(library):
    assert_same_fits(several(), classes == "a", [*FOLDS, FOLDS[0]])
    assert_same_fits(several(), np.stack([y > 0, y > 1], axis=1).astype(int), [*FOLDS, FOLDS[0]])


@pytest.mark.parametrize("loss", ["squared_error", "gamma", "quantile", "absolute_error"])
def test_regression(library, loss):
    targets = np.exp(y / 4) if loss == "gamma" else y
    assert_same_fits(several(MLPRegressor, loss=loss), targets, [*FOLDS, FOLDS[0]])
    if loss == "squared_error":
        both = np.stack([y, -y], axis=1)
        assert_same_fits(several(MLPRegressor), both, [*FOLDS, FOLDS[0]])


def test_folds_with_classes_of_their_own(library):
    """They are other networks, or other numbers for the same classes."""
    without = [np.flatnonzero(classes != name) for name in "abc"]
    models = assert_same_fits(several(), classes, [*without, np.arange(N)])
    assert [list(model.classes_) for model in models] == [["b", "c"], ["a", "c"], ["a", "b"], ["a", "b", "c"]]
    three = np.repeat(["a", "b", "c", "d"], N // 4)
    rows = [np.flatnonzero(three != name) for name in "ad"]
    assert_same_fits(several()[:2], three, rows)


def test_architectures_and_solvers_of_their_own(library):
    differences = [{"hidden_layer_sizes": (4,)}, {"solver": "sgd"}, {"activation": "tanh"}, {"ema_decay": 0.5}]
    assert_same_fits(several(differences=[{"random_state": 1} | d for d in differences]), classes)


def test_weights(library):
    weights = random.randint(1, 4, N).astype(float)
    assert_same_fits(several(), classes, [*FOLDS, FOLDS[1]], weights)


def test_batches_without_weight_are_passed_over(library):
    """Then the numbers of steps depend on the order of rows, and learning rates on those."""
    weights = np.zeros(N)
    weights[:20] = 1
    settings = {"solver": "sgd", "learning_rate": "invscaling", "power_t": 0.3, "learning_rate_init": 0.1}
    differences = [{"random_state": i, "batch_size": 4} for i in range(3)]
    models = assert_same_fits(several(differences=differences, **settings), classes, None, weights)
    assert all(model._optimizer.t < 8 * N // 4 for model in models)


# --- when they end --------------------------------------------------------------------------------------------------


def test_some_end_early(library):
    differences = [
        {"random_state": 0, "tol": 1.0, "n_iter_no_change": 2},
        {"random_state": 1, "tol": 0.005, "n_iter_no_change": 2, "learning_rate_init": 0.02},
        {"random_state": 2},
        {"random_state": 3, "max_iter": 1},
    ]
    models = assert_same_fits(several(differences=differences, max_iter=60), classes, [*FOLDS, FOLDS[0]])
    assert [model.stopped_ for model in models] == ["no_improvement", "no_improvement", "max_iter", "max_iter"]
    assert models[0].n_iter_ == 4
    assert 4 < models[1].n_iter_ < 60


def test_rates_that_fall_when_nothing_improves(library):
    differences = [{"random_state": i, "tol": tol, "n_iter_no_change": 2} for i, tol in enumerate([1.0, 0.02, 0.0])]
    adaptive = several(differences=differences, max_iter=45, solver="sgd", learning_rate="adaptive")
    models = assert_same_fits(adaptive, classes, FOLDS)
    assert models[0].stopped_ == "learning_rate"
    assert len(set(models[1].history_["learning_rate"])) > 1
    plateau = ReduceOnPlateau(patience=1, factor=0.5)
    models = assert_same_fits(several(differences=differences, max_iter=12, learning_rate=plateau), classes, FOLDS)
    assert len(set(models[0].history_["learning_rate"])) > 1


def test_a_stream_of_random_numbers_is_left_where_a_fit_leaves_it(library):
    """Though orders were drawn ahead."""
    streams = [np.random.RandomState(5), np.random.RandomState(5)]
    ends = {"tol": 1.0, "n_iter_no_change": 2, "max_iter": 50}
    (model,) = several(differences=[ends | {"random_state": streams[0]}])
    assert fit_many([model], X, classes) == [None]
    MLPClassifier(**SETTINGS | ends | {"random_state": streams[1], "device": "cpu"}).fit(X, classes)
    assert streams[0].randint(2**31) == streams[1].randint(2**31)


def test_streams_are_not_shared(library):
    """NumPy's own, or one that was given to several estimators, seeds one for each."""
    stream = np.random.RandomState(3)
    for given in (None, stream):
        models = several(differences=[{"random_state": given}] * 3, max_iter=1)
        fit_many(models, X, classes)
        firsts = {float(model.coefs_[0][0, 0]) for model in models}
        assert len(firsts) == 3


def test_one_that_diverges_is_told_of(library):
    """And the others go on."""
    differences = [{"random_state": 0}, {"random_state": 1, "learning_rate_init": 1e30}, {"random_state": 2}]
    models = several(MLPRegressor, differences, solver="sgd", momentum=0.0)
    errors = fit_many(models, X, y)
    assert [error is None for error in errors] == [True, False, True]
    assert "The loss became non-finite at epoch 1, batch " in str(errors[1])
    assert models[1].stopped_ == "not_finite"
    assert_same_fits(several(MLPRegressor, differences[::2], solver="sgd", momentum=0.0), y)


def test_one_with_a_wrong_parameter_is_told_of(library):
    models = several()
    models[1].alpha = -1.0
    errors = fit_many(models, X, classes)
    assert [error is None for error in errors] == [True, False, True, True]
    assert "The 'alpha' parameter of MLPClassifier must be" in str(errors[1])
    assert not hasattr(models[1], "coefs_")


def test_training_goes_on(library):
    """With warm_start, from what was learned before."""
    models = several(warm_start=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        expected = [clone(model).set_params(device="cpu").fit(X, classes).fit(X, classes) for model in models]
        for _ in range(2):
            assert fit_many(models, X, classes) == [None] * 4
    for found, right in zip(models, expected, strict=True):
        assert_same_attributes(vars(found), vars(right), 1e-4)


def test_an_error_of_a_schedule_is_raised(library):
    def broken(t, n):
        raise KeyError("no rate today")

    models = several(learning_rate=broken)
    with pytest.raises(KeyError, match="no rate today"):
        fit_many(models, X, classes)
    assert not any(hasattr(model, "coefs_") for model in models)
    models = several(warm_start=True)
    fit_many(models, X, classes)
    before = [(model.predict_proba(X), list(model.loss_curve_), model.t_) for model in models]
    for model in models[::2]:
        model.set_params(solver="sgd", learning_rate=broken)  # the others have trained by then
    with pytest.raises(KeyError, match="no rate today"):
        fit_many(models[::-1], X, classes)
    for model, (probabilities, losses, t) in zip(models, before, strict=True):
        np.testing.assert_array_equal(model.predict_proba(X), probabilities)
        assert (model.loss_curve_, model.t_) == (losses, t)


def test_ctrl_c_leaves_what_was_learned(library):
    """All of them, with the epochs of the launches until then."""

    def rate(t, n):
        if np.max(t) > 150:
            raise KeyboardInterrupt
        return np.full(np.shape(t), 0.001)

    models = several(
        differences=[{"random_state": 0}, {"random_state": 1, "max_iter": 5}], learning_rate=rate, max_iter=90
    )
    with pytest.warns(UserWarning, match="Training interrupted by user"):
        assert fit_many(models, X, classes) == [None, None]
    assert [model.stopped_ for model in models] == ["interrupted", "max_iter"]
    assert 5 < models[0].n_iter_ < 90
    assert len(models[0].loss_curve_) == models[0].n_iter_
    assert models[0]._optimizer.t == 4 * models[0].n_iter_


# --- the same bits, and other precisions ----------------------------------------------------------------------------


def test_the_same_bits_again(library):
    first, again = several(dropout=0.2), several(dropout=0.2)
    fit_many(first, X, classes, row_indices=[*FOLDS, FOLDS[0]])
    fit_many(again[::-1], X, classes, row_indices=[*FOLDS, FOLDS[0]][::-1])  # nor does the order count
    for one, other in zip(first, again, strict=True):
        assert one.loss_curve_ == other.loss_curve_
        np.testing.assert_array_equal(one.coefs_[0], other.coefs_[0])


def test_the_same_bits_in_any_order_of_threads(library, host, monkeypatch):
    first = several(max_iter=2)
    fit_many(first, X, classes)
    monkeypatch.setenv("FASTMLP_HOST_GPU_ORDER", "7")
    again = several(max_iter=2)
    fit_many(again, X, classes)
    for one, other in zip(first, again, strict=True):
        assert one.loss_curve_ == other.loss_curve_


def test_more_models_than_multiprocessors(library):
    """Of a GPU; the host is slower."""
    n = 8 if library == os.environ.get("FASTMLP_TEST_CUDA_HOST") else 400
    settings = {"max_iter": 3, "dropout": 0.1}
    rows = [random.permutation(N)[: random.randint(40, N)] for _ in range(n)]
    differences = [{"random_state": i, "batch_size": 10 + i % 30, "alpha": 0.001 * i} for i in range(n)]
    models = assert_same_fits(several(differences=differences, **settings), classes, rows)
    again = several(differences=differences, **settings)
    fit_many(again, X, classes, row_indices=rows)
    for one, other in zip(models, again, strict=True):
        np.testing.assert_array_equal(one.coefs_[0], other.coefs_[0])


def test_where_the_state_of_a_model_has_no_room_in_shared_memory(library, host, monkeypatch):
    monkeypatch.setenv("FASTMLP_HOST_GPU_SHARED", str(24 * 1024))
    assert_same_fits(several(), classes, [*FOLDS, FOLDS[0]])


def test_tensor_cores(library):
    models = several(precision="tf32")
    fit_many(models, X, classes)
    assert_same_fits(exact := several(), classes)
    for model, right in zip(models, exact, strict=True):
        assert model.loss_curve_ != right.loss_curve_
        assert_close(model.loss_curve_, right.loss_curve_, 3e-3)


# --- what it refuses ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "what"),
    [
        ({"early_stopping": True}, "early_stopping"),
        ({"callbacks": [print]}, "callbacks"),
        ({"max_time": 1.0}, "max_time"),
        ({"on_divergence": "back_off"}, "on_divergence='back_off'"),
        ({"verbose": True}, "verbose"),
        ({"precision": "bf16"}, "precision 'bf16'"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_missing_for_many(library, settings, what):
    models = several()
    models[2].set_params(**settings)
    before = [dict(vars(model)) for model in models]
    with pytest.raises(ValueError, match=f"many fits at once on device='cuda' have no {what}: fit one after another"):
        fit_many(models, X, classes)
    assert [vars(model) for model in models] == before


@pytest.mark.parametrize(
    ("settings", "what"),
    [
        ({"normalization": "batch_norm"}, "got normalization batch_norm"),
        ({"residual": True}, "got residual=True"),
        ({"hidden_layer_sizes": (129,)}, "got layers of 6, 129, 3 units"),
        ({"hidden_layer_sizes": (2,) * 8}, "got layers of 6, 2, 2, 2, 2, 2, 2, 2, 2, 3 units"),
        ({"hidden_layer_sizes": (128, 128)}, "got layers of 6, 128, 128, 3 units"),
    ],
    ids=str,
)
def test_networks_that_no_block_trains(library, settings, what):
    models = several()[:2] + several(**settings)[:2]
    with pytest.raises(ValueError, match=f"up to 8 layers of weights, 128 units a layer and 56 tiles .*{what}"):
        fit_many(models, X, classes)
    assert not any(hasattr(model, "coefs_") for model in models)


def test_float64_is_refused(library):
    with pytest.raises(ValueError, match=r"compute in float32: pass X of that dtype.*got float64"):
        fit_many(several(), X.astype(float), classes)
    assert fit_many(several(dtype="float32", max_iter=1), X.astype(float), classes) == [None] * 4


def test_wrong_calls(library):
    models = several()
    with pytest.raises(ValueError, match="estimators must be different objects"):
        fit_many([models[0]] * 2, X, classes)
    with pytest.raises(ValueError, match="row_indices must be one array for each of 4 estimators, got 1"):
        fit_many(models, X, classes, row_indices=[np.arange(5)])
    with pytest.raises(ValueError, match="row_indices must hold row numbers from 0 to 119"):
        fit_many(models, X, classes, row_indices=[[0, N]] * 4)
    with pytest.raises(ValueError, match="inconsistent numbers of samples"):
        fit_many(models, X, classes[1:])
    with pytest.raises(ValueError, match="many fits at once take X from the host, got an array on a GPU"):
        fit_many(models, Interface(X), classes)
    assert fit_many([], X, classes) == []


def test_a_gpu_without_room(library, host, monkeypatch):
    """An error that says how much is missing, and the models of before are still there."""
    models = several(max_iter=2)
    fit_many(models, X, classes)
    before = [dict(vars(model)) for model in models]
    monkeypatch.setenv("FASTMLP_HOST_GPU_BYTES", "30000")
    said = (
        r"many fits at once, 4 with 120 rows and 165 parameters, need 0\.00 GiB of the device's memory, of which 0\.00"
    )
    with pytest.raises(MemoryError, match=said):
        fit_many(models, X[:, :4], classes)
    assert [vars(model) for model in models] == before


def test_without_a_gpu(monkeypatch, tmp_path):
    monkeypatch.setenv("FASTMLP_CUDA_LIBRARY", str(tmp_path / "nothing.so"))
    models = several()
    with pytest.raises(RuntimeError, match="built without its GPU engine"):
        fit_many(models, X, classes)
    assert not any(hasattr(model, "coefs_") for model in models)


def test_on_the_cpu_one_after_another():
    """Where an estimator asks for it; with everything that a single fit can do."""
    models = several(device="cpu", early_stopping=True)
    models[1].alpha = -1.0
    errors = fit_many(models, X, classes, row_indices=[*FOLDS, None])
    assert [error is None for error in errors] == [True, False, True, True]
    expected = several(device="cpu", early_stopping=True)
    np.testing.assert_array_equal(models[0].coefs_[0], expected[0].fit(X[FOLDS[0]], classes[FOLDS[0]]).coefs_[0])
    np.testing.assert_array_equal(models[3].coefs_[0], expected[3].fit(X, classes).coefs_[0])


# --- the core -------------------------------------------------------------------------------------------------------


def core_fit(network, **changes):
    arrays = [np.zeros(network.n_parameters, np.float32) for _ in range(3)]
    given = {"data": 0, "rows": None, "parameters": arrays[0], "slots": arrays[1:], "random": generator(1)}
    settings = TRAINING | {"report_batch_losses": False} | changes.pop("options", {})
    given |= {"options": trainer_options(changes.pop("optimizer", "adam"), **settings), "rates": None}
    return tuple((given | {"one_by_one": False} | changes).values())


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"data": 1}, "the number of a fit's data must be between 0 and 0, got 1"),
        ({"data": -1}, "the number of a fit's data must be between 0 and 0, got -1"),
        ({"rows": np.array([N])}, "rows must be between 0 and 119"),
        ({"rows": np.array([], np.int64)}, r"must have between 1 and 2\*\*30 rows, got 0"),
        ({"parameters": np.zeros(3, np.float32)}, "parameters must have shape"),
        ({"slots": []}, "'adam' needs 2 slots, got 0"),
        ({"options": {"early_stopping": True}}, "have no early_stopping"),
        ({"options": {"report_batch_losses": True}}, "do not report_batch_losses"),
        ({"options": {"max_seconds": 1.0}}, "have no max_seconds"),
        ({"optimizer": "sgd", "slots": [np.zeros(60, np.float32)]}, "need one optimizer"),
    ],
    ids=str,
)
def test_what_the_core_refuses(library, changes, said):
    network = _core.Network([6, 5, 4], ["tanh"], "log_loss")
    if changes.get("slots"):
        changes = changes | {"slots": [np.zeros(network.n_parameters, np.float32)]}
    labels = np.zeros(N, np.int32)
    fits = [core_fit(network), core_fit(network, **changes)]
    with pytest.raises(ValueError, match=said):
        _core.fit_many(network, (library, 0, "ieee"), X, [(labels, None)], fits)
