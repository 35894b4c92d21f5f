"""Training leaves the same bits whatever the number of threads: on the benchmarks' networks and for every entry."""

from itertools import product

import numpy as np
import pytest
import reference
from scipy.sparse import csr_array
from test_engine import engine_of
from test_losses import GIVEN, targets
from test_trainer import generator, new_slots, options

from fastmlp import MLPClassifier, MLPRegressor, _core

N_THREADS = (1, 2, 3, 4, 7)
# layer sizes and rows in a batch of the benchmarks' workloads
NETWORKS = {
    "W0": ((784, 10), 128),
    "W1": ((64, 100, 10), 200),
    "W2": ((20, 64, 64, 1), 64),
    "W3": ((54, 256, 256, 7), 256),
    "W4": ((784, 256, 128, 10), 128),
    "W5": ((1024, 1024, 1024, 1024, 10), 1024),
    "W6": ((64, *[64] * 150, 10), 128),
    "W7": ((20, 32, 32, 1), 32),
}


@pytest.fixture(autouse=True)
def all_threads():
    """As many threads as asked for, however busy the machine is."""
    before = _core.set_steady_threads(True)
    yield
    _core.set_steady_threads(before)


def assert_same_bits(net, batch_size, dtype, optimizer="adam", forms=(np.asarray,), **changes):
    """Train on a full batch and a short one with each number of threads; compare parameters, slots and losses.

    ``forms`` make of X what is trained on: all must give the same, too.
    """
    random = np.random.RandomState(1)
    n_rows = batch_size + batch_size // 3
    flat = (reference.glorot(net, random) * 1.5).astype(dtype)
    X = random.standard_normal((n_rows, net.layer_sizes[0])).astype(dtype)
    n_targets = net.layer_sizes[-1] // reference.outputs_per_target(net.loss, net.loss_parameters)
    y = targets(net.loss, random, n_rows, n_targets).astype(dtype)
    if net.loss == "log_loss":
        y = y.argmax(axis=1).astype(np.int32)
    first = None
    for n_threads, form in product(N_THREADS, forms):
        trained, slots = flat.copy(), new_slots(optimizer, flat)
        settings = options(optimizer, batch_size=batch_size, max_iter=2, **changes)
        engine = engine_of(net, dtype, n_threads)
        report = engine.train(trained, slots, form(X), y, None, None, None, generator(), settings, None)
        found = [trained.tobytes(), *(slot.tobytes() for slot in slots), report["loss_curve"]]
        assert np.isfinite(trained).all()
        assert not np.array_equal(trained, flat)
        first = first or found
        assert found == first, f"{n_threads} threads leave other bits than one"


def as_sparse(X):
    rows = csr_array(X)
    return rows.data, rows.indices.astype(np.int32), rows.indptr.astype(np.int64), X.shape[1]


def shifted(X, n_bytes):
    """X at so many bytes behind the start of a line of the cache: copied on the way where registers lie across."""
    memory = np.empty(X.nbytes + 128, np.uint8)
    start = -memory.ctypes.data % 64 + n_bytes
    moved = memory[start : start + X.nbytes].view(X.dtype).reshape(X.shape)
    moved[...] = X
    return moved


@pytest.mark.parametrize("name", NETWORKS)
def test_of_the_benchmarks_networks(name, dtype):
    layer_sizes, batch_size = NETWORKS[name]
    loss = "log_loss" if layer_sizes[-1] > 1 else "squared_error"
    assert_same_bits(reference.Net(layer_sizes, ("relu",) * (len(layer_sizes) - 2), loss), batch_size, dtype)


@pytest.mark.parametrize("clip_norm", [np.inf, 0.1])
def test_of_halved_batches(clip_norm, dtype, instruction_set):
    """Rows enough for the gradient to be a sum of two halves: dense and sparse, also where it is shortened."""
    net = reference.Net((64, 40, 5), ("relu",), "log_loss")
    assert_same_bits(net, 600, dtype, forms=(np.asarray, as_sparse), clip_norm=clip_norm)


@pytest.mark.parametrize("layer_sizes", [(4, 100, 3), (40, 2), (1, 33, 1), (20, 70, 4, 70, 2)])
@pytest.mark.parametrize("batch_size", [5, 90, 1000])  # the longest is halved
def test_of_narrow_layers(layer_sizes, batch_size, dtype, instruction_set):
    """Few inputs or few neurons: their weight gradient goes along the rows, for sparse rows too."""
    net = reference.Net(layer_sizes, ("leaky_relu",) * (len(layer_sizes) - 2), "squared_error")
    assert_same_bits(net, batch_size, dtype, forms=(np.asarray, as_sparse))


@pytest.mark.parametrize("layer_sizes", [(128, 1), (150, 10), (331, 12, 20, 3)])
@pytest.mark.parametrize("batch_size", [5, 90, 500])  # the longest is halved
def test_of_rows_in_place(layer_sizes, batch_size, dtype, instruction_set):
    """A first layer of few neurons and many inputs, which reads the rows of X where they lie."""
    net = reference.Net(layer_sizes, ("relu",) * (len(layer_sizes) - 2), "squared_error")
    whole, across = (lambda X, shift=shift: shifted(X, shift) for shift in (0, 16))
    assert_same_bits(net, batch_size, dtype, forms=(whole, across))


def test_gradient_of_a_halved_batch_is_the_mean_of_its_parts(dtype, instruction_set):
    net = reference.Net((64, 40, 5), ("relu",), "log_loss")
    random = np.random.RandomState(2)
    flat = reference.glorot(net, random).astype(dtype)
    X = random.standard_normal((600, 64)).astype(dtype)
    y = random.randint(5, size=600).astype(np.int32)
    engine = engine_of(net, dtype)
    whole = engine.loss_and_gradient(flat, X, y, None, 0.0)[2]
    parts = [engine.loss_and_gradient(flat, X[i : i + 20], y[i : i + 20], None, 0.0)[2] for i in range(0, 600, 20)]
    np.testing.assert_allclose(whole, np.mean(parts, axis=0), rtol=0, atol=50 * np.finfo(dtype).eps)


def test_of_every_activation(activation, dtype, instruction_set):
    assert_same_bits(reference.Net((50, 70, 33, 4), (activation,) * 2, "log_loss"), 90, dtype)


def test_of_every_loss(loss, dtype):
    n_outputs = 4 * reference.outputs_per_target(loss, {})
    assert_same_bits(reference.Net((50, 70, 33, n_outputs), ("relu", "tanh"), loss), 90, dtype)


@pytest.mark.parametrize(("name", "given"), [each for each in GIVEN if each[1].get("power", 0) < 2])
def test_of_every_hyperparameter(name, given, dtype):
    n_outputs = 4 * reference.outputs_per_target(name, given)
    assert_same_bits(reference.Net((50, 70, 33, n_outputs), ("relu", "tanh"), name, given), 90, dtype)


def test_of_every_optimizer(optimizer, dtype):
    assert_same_bits(reference.Net((50, 70, 33, 4), ("relu", "tanh"), "log_loss"), 90, dtype, optimizer)


@pytest.mark.parametrize("last", [0, 40, 200])  # rows of the last batch: none, too few to be halved, enough
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"dropout": 0.3},
        {"normalization": "layer_norm"},
        {"normalization": "batch_norm"},
        {"sample_weight": True},
        {"alpha": 0.1},
        {"ema_decay": 0.9},
        {"ema_decay": 0.9, "early_stopping": True},  # the average is looked at after each epoch
        {"clip_value": 1e-3},
        {"loss": "gaussian_nll"},
    ],
    ids=str,
)
def test_of_two_threads_apart(changes, last, instruction_set):
    """Two threads with parameters of their own on halved batches, by themselves and by turns with one."""
    random = np.random.default_rng(4)
    X = random.normal(size=(600 + last, 30)).astype(np.float32)
    y = (X[:, :2] @ [1, 2] + random.normal(size=len(X))).astype(np.float32)
    changes = dict(changes)
    weights = None
    if changes.pop("sample_weight", False):
        weights = random.integers(0, 3, len(X))
        weights[300:600] = 0  # a whole batch
        changes["shuffle"] = False
    found = []
    for counts in ([1], [2], [3], [1, 2, 1, 2], [2, 1, 2, 3]):
        model = MLPRegressor(hidden_layer_sizes=(40, 20), batch_size=300, max_iter=2, random_state=0, **changes)
        model.set_params(warm_start=True, n_iter_no_change=10)
        for n_jobs in (counts * 4)[:4]:
            model.set_params(n_jobs=n_jobs).fit(X, y, sample_weight=weights)
        found.append([*model.coefs_, *model.intercepts_, model.loss_curve_, model.predict(X)])
    for others in found[1:]:
        for a, b in zip(found[0], others, strict=True):
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_of_two_threads_apart_and_one_by_turns(dtype):
    """While it is measured how many threads pay, one engine goes from two replicas to one thread and back."""
    random = np.random.default_rng(5)
    X, y = random.normal(size=(600, 64)).astype(dtype), random.integers(0, 10, 600)
    settings = {"hidden_layer_sizes": (100,), "batch_size": 200, "max_iter": 400, "n_iter_no_change": 400}
    alone = MLPClassifier(**settings, n_jobs=1, random_state=0).fit(X, y)
    _core.set_steady_threads(False)
    for _ in range(3):
        measured = MLPClassifier(**settings, n_jobs=None, random_state=0).fit(X, y)
        for a, b in zip(alone.coefs_, measured.coefs_, strict=True):
            np.testing.assert_array_equal(a, b)
        assert measured.loss_curve_ == alone.loss_curve_


@pytest.mark.parametrize("row", [0, 150, 191])
@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("batch_size", [192, 200])  # with and without rows missing in the last panel
def test_two_threads_apart_see_a_loss_that_is_not_finite(batch_size, batch, row, instruction_set):
    X, y = np.ones((2 * batch_size, 30), np.float32), np.ones(2 * batch_size, np.float32)
    y[batch_size * (batch - 1) + row] = 1e30
    for n_jobs in (1, 2):
        model = MLPRegressor(
            hidden_layer_sizes=(40,), batch_size=batch_size, shuffle=False, n_jobs=n_jobs, random_state=0
        )
        with np.errstate(all="ignore"), pytest.raises(ValueError, match=f"non-finite at epoch 1, batch {batch}:"):
            model.fit(X, y)


def test_rows_that_are_missing_have_no_loss(instruction_set):
    """The last panel of 200 rows is half empty. What would be there has outputs of 0, too far from these targets."""
    X, y = np.zeros((200, 3), np.float32), np.full(200, 3e19, np.float32)
    model = MLPRegressor(hidden_layer_sizes=(), alpha=0, batch_size=200, max_iter=1, warm_start=True).fit(
        X, np.zeros(200)
    )
    model.intercepts_[0][...] = 3e19
    model.fit(X, y)
    assert model.loss_ == 0
