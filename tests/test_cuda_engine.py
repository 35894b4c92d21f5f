"""The GPU engine against the CPU engine: on a GPU where there is one, and on the host in its place."""

import pickle

import numpy as np
import pytest
import scipy.sparse
from test_trainer import generator
from test_trainer import options as trainer_options

import fastmlp
from fastmlp import MLPClassifier, MLPRegressor, _core

TOLERANCES = {"float32": 2e-5, "float64": 1e-11}


def problem(network, dtype, n_rows=70, weighted=False, seed=0):
    """Random parameters and data that suit a network."""
    random = np.random.RandomState(seed)
    parameters = random.uniform(-0.5, 0.5, network.n_parameters)
    for scale in network.offsets["scales"]:
        if scale >= 0:
            parameters[scale:] += 0.75  # of scales, which are not 0, and of variances, which are positive
    X = random.randn(n_rows, network.layer_sizes[0])
    n_targets = network.layer_sizes[-1] // _core.loss_outputs(network.loss, network.loss_parameters)[0]
    entry = _core.losses()[network.loss]
    if entry["class_numbers"]:
        y = random.randint(0, n_targets, n_rows).astype(np.int32)
    else:
        y = random.randint(0, 2, (n_rows, n_targets)).astype(dtype) + ("above" in entry["domain"])
    weights = random.randint(0, 3, n_rows).astype(dtype) if weighted else None
    return parameters.astype(dtype), X.astype(dtype), y, weights


def engines(network, dtype, library, precision="ieee"):
    return _core.Engine(network, dtype), _core.Engine(network, dtype, 0, None, (library, 0, precision))


def assert_close(ours, theirs, tolerance):
    ours, theirs = np.asarray(ours, float), np.asarray(theirs, float)
    np.testing.assert_allclose(ours, theirs, rtol=tolerance, atol=tolerance * max(1.0, np.abs(theirs).max(initial=0)))


def assert_gradients_agree(network, dtype, library, *, weighted=False, dropout_seed=0, n_rows=70):
    parameters, X, y, weights = problem(network, dtype, n_rows, weighted)
    on_cpu, on_gpu = engines(network, dtype, library)
    expected = on_cpu.loss_and_gradient(parameters, X, y, weights, 0.1, dropout_seed)
    found = on_gpu.loss_and_gradient(parameters, X, y, weights, 0.1, dropout_seed)
    for ours, theirs in zip(found, expected, strict=True):
        assert_close(ours, theirs, TOLERANCES[dtype])


# --- loss and gradient ----------------------------------------------------------------------------------------------


def test_every_activation(library, activation, dtype):
    network = _core.Network([5, 9, 4, 2], [activation] * 2, "squared_error")
    assert_gradients_agree(network, dtype, library)


def test_every_loss(library, loss, dtype):
    per_target = _core.loss_outputs(loss)[0]
    network = _core.Network([4, 7, 3 * per_target], ["tanh"], loss)
    assert_gradients_agree(network, dtype, library, weighted=True)


HIDDEN = {
    "batch_norm": {"normalizations": ["batch_norm"] * 3},
    "layer_norm": {"normalizations": ["layer_norm"] * 3},
    "rms_norm": {"normalizations": ["rms_norm"] * 3},
    "mixed": {"normalizations": ["batch_norm", "none", "layer_norm"]},
    "residual": {"residual": True},
    "residual batch_norm": {"residual": True, "normalizations": ["batch_norm"] * 3},
    "residual layer_norm": {"residual": True, "normalizations": ["layer_norm"] * 3},
    "dropout": {"dropout": [0.3, 0.5, 0.2, 0.5]},
    "all": {"residual": True, "normalizations": ["batch_norm"] * 3, "dropout": [0.1, 0.2, 0.3, 0.2]},
}


@pytest.mark.parametrize("kind", HIDDEN)
@pytest.mark.parametrize("widths", [[8, 8, 8], [9, 6, 6]], ids=str)
def test_hidden_layers(library, kind, widths, dtype):
    for activation in ("gelu", "relu", "tanh"):
        network = _core.Network([5, *widths, 3], [activation] * 3, "log_loss", **HIDDEN[kind])
        assert_gradients_agree(network, dtype, library, weighted=True, dropout_seed=7)


def test_output_activations(library, dtype):
    for activation in _core.output_activations():
        network = _core.Network([3, 6, 2], ["tanh"], "squared_error", output_activation=activation)
        assert_gradients_agree(network, dtype, library)


@pytest.mark.parametrize("sizes", [[1, 1], [1, 1, 1], [3, 33, 1], [31, 130, 17], [65, 2]], ids=str)
@pytest.mark.parametrize("n_rows", [1, 2, 600])
def test_odd_sizes(library, sizes, n_rows):
    network = _core.Network(sizes, ["relu"] * (len(sizes) - 2), "squared_error")
    assert_gradients_agree(network, "float32", library, n_rows=n_rows)


# --- training -------------------------------------------------------------------------------------------------------

TRAINING = {
    "alpha": 0.01,
    "batch_size": 16,
    "n_iter_no_change": 10.0,
    "score": "loss",
    "early_stopping": False,
    "report_batch_losses": True,
}


def trained(engine, network, dtype, optimizer="adam", rows=None, weights=None, n_rows=70, spoilt=None, **options):
    entry = _core.optimizers()[optimizer]
    parameters, X, y, drawn = problem(network, dtype, n_rows, weights is True)
    if spoilt is not None:
        X[spoilt] = np.finfo(dtype).max  # sums of it are not finite
    weights = drawn if weights is True else weights
    n_slots = len(entry["slots"]) + (options.get("ema_decay", 0) > 0)
    slots = [np.zeros(network.n_parameters, dtype) for _ in range(n_slots)]
    if options.get("ema_decay", 0) > 0:
        slots[-1][: network.n_trainable] = in_slot_order(network, parameters)[: network.n_trainable]
    validation = np.arange(0, n_rows, 5, dtype=np.int64) if options.get("early_stopping") else None
    rows = None if rows is None else rows.copy()
    settings = trainer_options(optimizer, **(TRAINING | options))
    outcome = engine.train(parameters, slots, X, y, weights, rows, validation, generator(1), settings, None)
    return outcome, parameters, slots


def in_slot_order(network, parameters):
    """Weights of layers as slots have them: (fan_out, fan_in)."""
    ordered, sizes = parameters.copy(), network.layer_sizes
    for layer, start in enumerate(network.offsets["coefs"]):
        block = slice(start, start + sizes[layer] * sizes[layer + 1])
        ordered[block] = parameters[block].reshape(sizes[layer], sizes[layer + 1]).T.ravel()
    return ordered


def assert_trainings_agree(network, dtype, library, precision="ieee", factor=10, **how):
    on_cpu, on_gpu = engines(network, dtype, library, precision)
    expected, found = (trained(engine, network, dtype, **how) for engine in (on_cpu, on_gpu))
    tolerance = TOLERANCES[dtype] * factor
    for name in ("loss_curve", "batch_losses", "validation_losses", "validation_scores", "learning_rates"):
        assert_close(found[0][name], expected[0][name], tolerance)
    for name in ("n_iter", "t", "n_samples_seen", "stopped", "failed_epoch", "failed_batch", "no_improvement_count"):
        assert found[0][name] == expected[0][name], name
    assert_close(found[1], expected[1], tolerance)
    for ours, theirs in zip(found[2], expected[2], strict=True):
        assert_close(ours, theirs, tolerance)
    return found


PLAIN = _core.Network([5, 12, 3], ["tanh"], "log_loss")


def test_every_optimizer(library, optimizer, dtype):
    assert_trainings_agree(PLAIN, dtype, library, optimizer=optimizer)


@pytest.mark.parametrize(
    "options",
    [
        {"clip_norm": 0.05},
        {"clip_value": 0.01},
        {"clip_norm": 0.05, "clip_value": 0.01, "alpha": 1.0},
        {"ema_decay": 0.9},
        {"shuffle": False, "batch_size": 70},
        {"batch_size": 1, "max_iter": 1},
        {"batch_size": 1000},
        {"weights": True},
        {"schedule": "invscaling"},
        {"early_stopping": True},
        {"early_stopping": True, "ema_decay": 0.8, "optimizer": "sgd"},
        {"rows": np.arange(0, 70, 3, dtype=np.int64)},
    ],
    ids=lambda options: " ".join(f"{name}={value}" for name, value in options.items())[:40],
)
def test_options(library, options):
    assert_trainings_agree(PLAIN, "float64", library, **options)


@pytest.mark.parametrize("kind", HIDDEN)
def test_hidden_layers_in_training(library, kind):
    network = _core.Network([5, 8, 6, 6, 3], ["relu"] * 3, "log_loss", **HIDDEN[kind])
    assert_trainings_agree(network, "float64", library, dropout_seed=5, ema_decay=0.5, weights=True, factor=1000)


def test_batches_without_weight_are_passed_over(library):
    weights = np.ones(70)
    weights[16:32] = 0
    network = _core.Network([5, 6, 3], ["tanh"], "log_loss")
    outcome, _, _ = assert_trainings_agree(network, "float64", library, weights=weights, shuffle=False)
    assert outcome["t"] == 3 * 4  # of 5 batches
    assert outcome["batch_losses"][1] == 0


@pytest.mark.parametrize("batch_size", [7, 16])
def test_a_loss_that_is_not_a_number_takes_no_step(library, batch_size):
    """And nothing moves after it: what led there can be looked at."""
    network = _core.Network([5, 6, 3], ["relu"], "log_loss", normalizations=["batch_norm"])
    results = []
    for engine in engines(network, "float64", library):
        outcome, parameters, slots = trained(
            engine, network, "float64", batch_size=batch_size, spoilt=40, shuffle=False, max_iter=2
        )
        assert outcome["stopped"] == "not_finite"
        assert (outcome["failed_epoch"], outcome["failed_batch"], outcome["t"]) == (
            1,
            40 // batch_size + 1,
            40 // batch_size,
        )
        results.append([array[: network.n_trainable] for array in (parameters, *slots)])
    for ours, theirs in zip(*reversed(results), strict=True):
        assert_close(ours, theirs, 1e-9)


@pytest.mark.parametrize("precision", ["ieee", "tf32", "bf16"])
def test_one_kernel_or_many(library, host, monkeypatch, precision):
    """A narrow network takes its steps in one kernel, others in many: the numbers are close, and not the same bits.

    But for bf16: so few products of so short numbers are added up exactly in any order.
    """
    network = _core.Network([5, 12, 9, 3], ["tanh", "gelu"], "log_loss", dropout=[0.1, 0.2, 0.3])
    losses = []
    for shared in ("0", str(227 * 1024)):
        monkeypatch.setenv("FASTMLP_HOST_GPU_SHARED", shared)
        _, engine = engines(network, "float32", library, precision)
        losses.append(
            trained(engine, network, "float32", dropout_seed=3, clip_norm=0.5, weights=True)[0]["batch_losses"]
        )
    assert losses[0] != losses[1] or precision == "bf16"
    assert_close(losses[1], losses[0], 1e-5 if precision == "ieee" else 2e-2)


COOPERATIVE = {
    "plain": {"weights": True},
    "averaged": {"ema_decay": 0.9, "clip_value": 0.01, "optimizer": "sgd"},
    "dropout": {"dropout_seed": 3},
}


@pytest.mark.parametrize("how", COOPERATIVE)
def test_cooperative_steps(library, monkeypatch, how):
    """Steps of a wider network in one kernel, whose blocks wait for one another: those of the CPU."""
    monkeypatch.setenv("FASTMLP_CUDA_STEP", "cooperative")
    dropout = [0.1, 0.2, 0.3] if how == "dropout" else [0] * 3
    network = _core.Network([17, 130, 36, 5], ["gelu", "tanh"], "log_loss", dropout=dropout)
    assert_trainings_agree(network, "float32", library, max_iter=2, batch_size=33, factor=50, **COOPERATIVE[how])
    distance = _core.Network([3, 40, 2], ["relu"], "huber", output_activation="tanh")
    assert_trainings_agree(distance, "float32", library, max_iter=2, factor=50, **COOPERATIVE[how])


@pytest.mark.parametrize("precision", ["tf32", "bf16"])
def test_precision_of_cooperative_steps(library, monkeypatch, precision):
    network = _core.Network([17, 130, 36, 5], ["gelu", "relu"], "log_loss")
    losses = {}
    for how in ("ieee", precision):
        monkeypatch.setenv("FASTMLP_CUDA_STEP", "cooperative")
        _, engine = engines(network, "float32", library, how)
        losses[how] = trained(engine, network, "float32", batch_size=33)[0]["batch_losses"]
    assert losses["ieee"] != losses[precision]
    assert_close(losses[precision], losses["ieee"], 2e-2)


def test_cooperative_steps_pass_over_what_has_no_weight(library, monkeypatch):
    monkeypatch.setenv("FASTMLP_CUDA_STEP", "cooperative")
    network = _core.Network([5, 6, 3], ["relu"], "log_loss")
    weights = np.ones(70, np.float32)
    weights[16:32] = 0
    outcome, _, _ = assert_trainings_agree(
        network, "float32", library, weights=weights, shuffle=False, batch_size=16, max_iter=2
    )
    assert outcome["t"] == 2 * 4  # of 5 batches


def test_cooperative_steps_end_with_a_loss_that_is_not_a_number(library, monkeypatch):
    monkeypatch.setenv("FASTMLP_CUDA_STEP", "cooperative")
    network = _core.Network([5, 6, 3], ["relu"], "log_loss")
    results = []
    for engine in engines(network, "float32", library):
        how = trained(engine, network, "float32", batch_size=7, spoilt=40, shuffle=False, max_iter=2)
        assert how[0]["stopped"] == "not_finite"
        assert (how[0]["failed_epoch"], how[0]["failed_batch"], how[0]["t"]) == (1, 6, 5)
        results.append(how[1])
    assert_close(results[1], results[0], 1e-4)


def test_an_unknown_kind_of_step(library, monkeypatch):
    monkeypatch.setenv("FASTMLP_CUDA_STEP", "fast")
    with pytest.raises(ValueError, match="'fused', 'cooperative' or 'products', got 'fast'"):
        engines(PLAIN, "float32", library)


@pytest.mark.parametrize("by", ["kernels", "epilogues"])
@pytest.mark.parametrize("precision", ["ieee", "bf16"])
@pytest.mark.parametrize("residual", [False, True])
def test_products_by_kernels(library, host, monkeypatch, by, precision, residual):
    """What cuBLASLt may know no way for: products, or what follows them, such as rectified linear units."""
    network = _core.Network([5, 12, 9, 17, 3], ["relu", "gelu", "relu"], "log_loss", residual=residual)
    monkeypatch.setenv("FASTMLP_CUDA_STEP", "products")
    results = []
    for how in ("loops", by):
        monkeypatch.setenv("FASTMLP_HOST_GPU_PRODUCTS", how)
        _, engine = engines(network, "float32", library, precision)
        results.append(trained(engine, network, "float32", batch_size=600, n_rows=601, max_iter=2))
    (expected, parameters, _), (found, found_parameters, _) = results
    tolerance = 1e-5 if precision == "ieee" else 2e-2
    assert_close(found["batch_losses"], expected["batch_losses"], tolerance)
    assert_close(found_parameters, parameters, tolerance)


def test_many_steps_are_one_program(library):
    """More batches than a program has steps, and a short one at the end."""
    network = _core.Network([2, 3, 1], ["tanh"], "squared_error")
    assert_trainings_agree(network, "float64", library, batch_size=2, n_rows=401, max_iter=2)


# --- the same bits --------------------------------------------------------------------------------------------------


def test_the_same_bits_again(library):
    network = _core.Network([5, 9, 6, 3], ["gelu"] * 2, "log_loss", dropout=[0, 0.2, 0.2])
    _, engine = engines(network, "float32", library)
    first = trained(engine, network, "float32", dropout_seed=3)
    _, engine = engines(network, "float32", library)
    again = trained(engine, network, "float32", dropout_seed=3)
    assert first[0]["loss_curve"] == again[0]["loss_curve"]
    np.testing.assert_array_equal(first[1], again[1])


@pytest.mark.parametrize("kind", ["plain", "relu", "cooperative", *HIDDEN])
def test_the_same_bits_in_any_order(library, host, monkeypatch, kind):
    """That operations run as soon as what they say they need is done changes nothing."""
    activation = "gelu"
    if kind == "relu":  # of which products take care, if there is more than one kernel
        activation = kind
        monkeypatch.setenv("FASTMLP_CUDA_STEP", "products")
    if kind == "cooperative":
        monkeypatch.setenv("FASTMLP_CUDA_STEP", kind)
    network = _core.Network([5, 8, 6, 6, 3], [activation] * 3, "log_loss", **HIDDEN.get(kind, {}))
    results = []
    for seed in (0, 1, 2, 3):
        monkeypatch.setenv("FASTMLP_HOST_GPU_ORDER", str(seed))
        _, engine = engines(network, "float32", library)
        clip_norm = np.inf if kind == "cooperative" else 0.5
        results.append(
            trained(engine, network, "float32", dropout_seed=3, clip_norm=clip_norm, ema_decay=0.9, max_iter=1)
        )
    for outcome, parameters, _ in results[1:]:
        assert outcome["batch_losses"] == results[0][0]["batch_losses"]
        np.testing.assert_array_equal(parameters, results[0][1])


# --- predictions ----------------------------------------------------------------------------------------------------


def test_predictions_of_every_layer(library, dtype):
    network = _core.Network([5, 8, 4, 3], ["gelu", "relu"], "log_loss", normalizations=["batch_norm", "layer_norm"])
    parameters, X, _, _ = problem(network, dtype)
    on_cpu, on_gpu = engines(network, dtype, library)
    for layer in (0, 1, 2, 3, -1):
        expected = on_cpu.predict(parameters, X, layer)
        assert_close(on_gpu.predict(parameters, X, layer), expected, TOLERANCES[dtype])
    apart = np.repeat(X, 2, axis=1)[:, ::2].copy()  # and with rows that lie apart
    wide = np.zeros((len(X), 9), dtype)
    wide[:, :5] = apart
    assert_close(on_gpu.predict(parameters, wide[:, :5]), on_cpu.predict(parameters, X), TOLERANCES[dtype])


# --- precisions -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("precision", "tolerance"), [("tf32", 3e-3), ("bf16", 4e-2)])
@pytest.mark.parametrize("kind", ["plain", "all", "layer_norm", "residual"])
def test_lower_precisions(library, precision, tolerance, kind):
    network = _core.Network([20, 16, 12, 12, 4], ["tanh"] * 3, "log_loss", **HIDDEN.get(kind, {}))
    parameters, X, y, weights = problem(network, "float32", weighted=True)
    on_cpu, on_gpu = engines(network, "float32", library, precision)
    expected = on_cpu.loss_and_gradient(parameters, X, y, weights, 0.1, 7)
    found = on_gpu.loss_and_gradient(parameters, X, y, weights, 0.1, 7)
    assert found[0] != expected[0]  # it is another precision
    for ours, theirs in zip(found, expected, strict=True):
        assert_close(ours, theirs, tolerance)
    losses = [
        trained(engine, network, "float32", dropout_seed=7, max_iter=5, ema_decay=0.5)[0]["loss_curve"]
        for engine in (on_cpu, on_gpu)
    ]
    assert_close(losses[1], losses[0], tolerance)


def test_lower_precisions_are_for_float32(library):
    with pytest.raises(ValueError, match="'tf32' and 'bf16' are for float32 data"):
        _core.Engine(PLAIN, "float64", 0, None, (library, 0, "tf32"))


# --- what it refuses ------------------------------------------------------------------------------------------------


def test_what_it_refuses(library):
    parameters, X, y, _ = problem(PLAIN, "float64")
    _, engine = engines(PLAIN, "float64", library)
    csr = scipy.sparse.csr_matrix(X)
    sparse = csr.data, csr.indices.astype(np.int32), csr.indptr.astype(np.int64), 5
    with pytest.raises(ValueError, match="needs a dense X, got a sparse matrix"):
        engine.loss_and_gradient(parameters, sparse, y, None, 0.0)
    with pytest.raises(ValueError, match="needs a dense X"):
        engine.predict(parameters, sparse)
    with pytest.raises(ValueError, match="gradients by the inputs are computed on the CPU"):
        engine.input_gradient(parameters, X, np.ones((70, 1, 3)))
    own = _core.Engine(PLAIN, "float64", 0, lambda *batch: (0.0, batch[1]), (library, 0, "ieee"))
    with pytest.raises(ValueError, match="a custom loss is computed on the CPU"):
        own.loss_and_gradient(parameters, X, y, None, 0.0)
    for wrong in (("a", 0), [library, 0, "ieee"]):
        with pytest.raises(TypeError, match="cuda must be None or a tuple of a library, a device and a precision"):
            _core.Engine(PLAIN, "float64", 0, None, wrong)
    with pytest.raises(ValueError, match="unknown precision 'fp8'; valid names: 'ieee' 'tf32' 'bf16'"):
        _core.Engine(PLAIN, "float64", 0, None, (library, 0, "fp8"))


# --- estimators -----------------------------------------------------------------------------------------------------

random = np.random.RandomState(0)
X = random.randn(120, 6)
y = X @ random.randn(6) + 0.1 * random.randn(120)
classes = np.array(["a", "b", "c"])[np.digitize(y, [-1, 1])]
SETTINGS = {"hidden_layer_sizes": (10, 8), "max_iter": 8, "random_state": 3, "batch_size": 32, "tol": 0}


def stop_at_epoch_5(run):
    return run.n_iter == 5


def assert_fits_agree(model, rows, targets, tolerance=1e-9):
    on_cpu = model.fit(rows, targets)
    expected = [*on_cpu.coefs_, *on_cpu.intercepts_, np.array(on_cpu.loss_curve_)]
    on_gpu = type(model)(**model.get_params() | {"device": "cuda"}).fit(rows, targets)
    found = [*on_gpu.coefs_, *on_gpu.intercepts_, np.array(on_gpu.loss_curve_)]
    for ours, theirs in zip(found, expected, strict=True):
        assert_close(ours, theirs, tolerance)
    return on_gpu


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"early_stopping": True, "n_iter_no_change": 2},
        {"solver": "sgd", "learning_rate": "adaptive"},
        {"learning_rate": "cosine", "ema_decay": 0.9},
        {"dropout": 0.2, "normalization": "layer_norm", "residual": True},
        {"eval_metric": "neg_log_loss", "early_stopping": True},
        {"callbacks": [stop_at_epoch_5]},
        {"class_weight": "balanced"},
        {"on_divergence": "back_off"},
    ],
    ids=lambda change: ", ".join(change) or "defaults",
)
def test_classifiers(library, change):
    model = assert_fits_agree(MLPClassifier(**SETTINGS | change), X, classes)
    assert model.score(X, classes) == pickle.loads(pickle.dumps(model)).score(X, classes)


@pytest.mark.parametrize(
    "change", [{}, {"loss": "quantile"}, {"early_stopping": True}, {"loss": "poisson", "solver": "rmsprop"}], ids=str
)
def test_regressors(library, change):
    targets = np.abs(y) if "poisson" in change.values() else y
    assert_fits_agree(MLPRegressor(**SETTINGS | change), X, targets)


def test_labels_and_parts(library):
    assert_fits_agree(MLPClassifier(**SETTINGS), X, np.stack([y > 0, y > 1], axis=1))
    parts = [MLPRegressor(**SETTINGS, device=device) for device in ("cpu", "cuda")]
    for model in parts:
        for rows in (slice(60), slice(60, None)):
            model.partial_fit(X[rows], y[rows])
    assert_close(parts[1].coefs_[0], parts[0].coefs_[0], 1e-9)


def test_validation_data_of_its_own(library):
    curves = []
    for device in ("cpu", "cuda"):
        model = MLPRegressor(**SETTINGS, device=device).fit(X[:90], y[:90], X_val=X[90:], y_val=y[90:])
        curves.append(model.history_["val_loss"])
    assert_close(curves[1], curves[0], 1e-9)


def test_a_gpu_without_room(library, host, monkeypatch):
    """An error that says how much is missing, and the model of before is still there."""
    model = MLPRegressor(**SETTINGS, device="cuda").fit(X, y)
    before, predictions = dict(vars(model)), model.predict(X)
    monkeypatch.setenv("FASTMLP_HOST_GPU_BYTES", "100000")
    with pytest.raises(
        MemoryError, match=r"batches of \d+ rows need 0\.\d\d GiB of the device's memory, of which 0\.00"
    ):
        model.fit(X[:, :4], y)
    assert vars(model) == before
    np.testing.assert_array_equal(model.predict(X), predictions)


def test_a_gpu_that_is_not_there(library, host):
    with pytest.raises(RuntimeError, match=r"device='cuda:7' cannot be used: there is no such GPU \(device 7 of 1\)"):
        MLPRegressor(device="cuda:7").fit(X, y)


def test_auto_takes_a_gpu_for_large_work(library, host, monkeypatch, capsys):
    monkeypatch.setattr(fastmlp._cuda, "_CPU_RATE", 1.0)
    MLPRegressor(**SETTINGS, device="auto", verbose=True).fit(X, y)
    assert "device='auto': host" in capsys.readouterr().out
