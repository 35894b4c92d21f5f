"""Normalisation, dropout and skips in the engine: against NumPy, central differences and PyTorch."""

from typing import NamedTuple

import numpy as np
import pytest
import reference
from test_engine import TOLERANCE, assert_close_by_array
from test_losses import targets
from test_trainer import generator, new_slots, options

from fastmlp import MLPClassifier, Network, _core
from fastmlp._parameters import array_shapes, cut

EPSILON, SEED = 1e-5, 11
NORMALIZATIONS = sorted(_core.normalizations().keys() - {"none"})
# rows around the widths of panels; equal neighbours for plain skips, others for projections
SHAPES = [(1, (3, 4, 2)), (7, (3, 5, 5, 2)), (17, (4, 9, 9, 3, 2)), (40, (20, 33, 33, 17, 17, 4))]


class Deep(NamedTuple):
    """What a network is, but for the loss's hyper-parameters."""

    layer_sizes: tuple
    activations: tuple
    loss: str
    normalizations: tuple = ()
    dropout: tuple = ()
    residual: bool = False

    @property
    def network(self):
        return _core.Network(*self[:3], {}, *self[3:])


def arrays(net, flat):
    """Every array of parameters by kind, as views: one for each layer, or None."""
    return cut(flat, array_shapes(net.network))


def scatter(x):
    x = np.asarray(x, np.uint32)
    x = (x ^ (x >> np.uint32(16))) * np.uint32(0x7FEB352D)
    x = (x ^ (x >> np.uint32(15))) * np.uint32(0x846CA68B)
    return x ^ (x >> np.uint32(16))


def key_of(key, what):
    with np.errstate(over="ignore"):
        low, high = (np.uint32(part) for part in key)
        a = scatter(low ^ np.uint32(what & 0xFFFFFFFF))
        b = scatter(high + np.uint32(what >> 32) + a)
        c = scatter(a + b)
        return c, b + np.uint32(b == 0 and c == 0)


def dropout_mask(share, layer, n_rows, n_units, seed, step=1):
    """What stays, divided by how much stays: as the core draws it for a step of a training with this seed."""
    if share == 0 or seed == 0:
        return np.ones((n_rows, n_units))
    low, high = key_of(key_of((seed & 0xFFFFFFFF, seed >> 32), step), layer)
    with np.errstate(over="ignore"):
        rows = scatter(np.arange(n_rows, dtype=np.uint32) + low)[:, None]
        units = np.arange(n_units, dtype=np.uint32) * np.uint32(0x9E3779B9) + high
        drawn = scatter(rows ^ units)
    return (drawn >= np.uint32(int(share * 2**32))) / (1 - share)


def normalize(name, z, scale, offset, moments):
    """The normalised pre-activations; ``moments`` are means and variances of the units, for batch norm."""
    if name == "none":
        return z
    if name == "batch_norm":
        mean, variance = moments
    else:
        mean = z.mean(axis=1, keepdims=True) if name == "layer_norm" else 0.0
        variance = ((z - mean) ** 2).mean(axis=1, keepdims=True)
    standard = (z - mean) / np.sqrt(variance + EPSILON)
    return standard * scale + (0 if offset is None else offset)


def forward(net, flat, X, weights=None, seed=0, training=False):
    """All layers, input first, the last before the link."""
    parts = arrays(net, flat)
    n_hidden = len(net.layer_sizes) - 2
    names, shares = net.normalizations or ("none",) * n_hidden, net.dropout or (0.0,) * (n_hidden + 1)
    weights = np.ones(len(X)) if weights is None else weights
    layers, below = [X * dropout_mask(shares[0], 0, *X.shape, seed)], None
    for layer in range(n_hidden):
        z = layers[-1] @ parts["coefs"][layer] + parts["intercepts"][layer]
        if net.residual and layer > 0:
            projection = parts["projections"][layer]
            z = z + (below if projection is None else below @ projection)
        below = z
        moments = parts["running_means"][layer], parts["running_variances"][layer]
        if training:
            mean = np.average(z, axis=0, weights=weights)
            moments = mean, np.average((z - mean) ** 2, axis=0, weights=weights)
        u = normalize(names[layer], z, parts["scales"][layer], parts["offsets"][layer], moments)
        a = reference.ACTIVATIONS[net.activations[layer]](u)[0]
        layers.append(a * dropout_mask(shares[layer + 1], layer + 1, *a.shape, seed))
    layers.append(layers[-1] @ parts["coefs"][-1] + parts["intercepts"][-1])
    return layers


def problem(net, n, dtype="float64", seed=0):
    """Random parameters of plausible sizes, rows, valid targets and weights."""
    random = np.random.RandomState(seed)
    flat = random.uniform(-0.7, 0.7, net.network.n_parameters)
    for name, parts in arrays(net, flat).items():
        for part in parts:
            if part is not None and name in ("scales", "running_variances"):
                part[...] = random.uniform(0.5, 1.5, part.shape)
    X = random.randn(n, net.layer_sizes[0])
    n_targets = net.layer_sizes[-1] // reference.outputs_per_target(net.loss, {})
    y, weights = targets(net.loss, random, n, n_targets), random.rand(n) + 0.1
    return [array.astype(dtype) for array in (flat, X, y, weights)]


def deep(layer_sizes, activation="tanh", loss="log_loss", normalization="none", dropout=0.0, residual=False):
    n_hidden = len(layer_sizes) - 2
    return Deep(
        layer_sizes, (activation,) * n_hidden, loss, (normalization,) * n_hidden, (dropout,) * (n_hidden + 1), residual
    )


def variants(loss="log_loss", activation="tanh"):
    for n, layer_sizes in SHAPES:
        for normalization in ("none", *NORMALIZATIONS):
            if n == 1 and normalization == "batch_norm":
                continue  # a batch of one row has no variance
            for dropout in (0.0, 0.3):
                for residual in (False, True):
                    yield n, deep(layer_sizes, activation, loss, normalization, dropout, residual)


def trained(normalization, residual=False, dtype="float64", loss="squared_error"):
    """A ``Network`` with such layers, with a projection and without, and numbers as training leaves them."""
    names = {"activation": "tanh", "loss": loss, "normalization": normalization, "residual": residual}
    net = Network([5, 7, 7, 6, 3], dtype=dtype, random_state=4, **names)
    random = np.random.RandomState(5)
    for name, parts in arrays(net, net.parameters).items():
        for part in parts:
            if part is not None and name in ("scales", "running_variances"):
                part[...] = random.uniform(0.5, 1.5, part.shape)
            elif part is not None and name in ("offsets", "running_means"):
                part[...] = random.uniform(-0.5, 0.5, part.shape)
    return net


# normalisations and whether there are skips; each layer may have its own
KINDS = [(name, residual) for name in (None, *NORMALIZATIONS) for residual in (False, True)][1:]
KINDS.append((["rms_norm", None, "batch_norm"], True))


def engine_of(net, dtype="float64", n_threads=1):
    return _core.Engine(net.network, dtype, n_threads)


def test_plain_networks_say_so():
    assert deep((3, 4, 4, 2)).network.is_plain
    assert deep((3, 4, 2), residual=True).network.is_plain  # a skip needs two hidden layers
    assert not deep((3, 4, 4, 2), residual=True).network.is_plain
    assert not deep((3, 4, 2), dropout=0.1).network.is_plain
    assert not deep((3, 4, 2), normalization=NORMALIZATIONS[0]).network.is_plain


def test_layers_in_predictions(dtype, instruction_set):
    """Without dropout, with running statistics; alone or in a batch."""
    for n, net in variants():
        flat, X, *_ = problem(net, n, dtype)
        expected = forward(net, flat.astype(float), X.astype(float))
        expected[-1] = reference.LOSSES[net.loss](expected[-1], np.zeros_like(expected[-1]))[0]
        engine = engine_of(net, dtype)
        predictor = _core.Predictor(net.network, flat)
        for layer, values in enumerate(expected):
            found = engine.predict(flat, X, layer)
            np.testing.assert_allclose(found, values, rtol=0, atol=TOLERANCE[dtype] * np.abs(values).max(), err_msg=net)
            for few in range(1, min(n, 5) + 1):  # few rows go one by one, the others in panels
                np.testing.assert_array_equal(engine.predict(flat, X[:few], layer), found[:few], err_msg=net)
        np.testing.assert_array_equal(predictor(X), found)
        np.testing.assert_array_equal(predictor(X[0]), found[0])
        for few in range(1, min(n, 5) + 1):
            np.testing.assert_array_equal(predictor(X[n - few :]), found[n - few :])
            np.testing.assert_array_equal(_core.predict(net.network, flat, X[:few], 0), found[:few])


@pytest.mark.parametrize("seed", [SEED, 1])
def test_loss_in_training(dtype, instruction_set, seed):
    """Dropout also where the number of the step is the seed, which bit by bit would come to the key 0."""
    for n, net in variants():
        flat, X, y, weights = problem(net, n, dtype)
        loss, *_ = engine_of(net, dtype).loss_and_gradient(flat, X, y, weights, 0.0, seed)
        wide = [array.astype(float) for array in (flat, X, weights)]
        outputs = forward(net, *wide, seed, training=True)[-1]
        expected = np.average(reference.LOSSES[net.loss](outputs, y.astype(float))[1], weights=wide[2])
        np.testing.assert_allclose(loss, expected, rtol=3 * TOLERANCE[dtype], err_msg=str(net))


def central_difference(engine, flat, *data, h=1e-5):
    difference = np.empty_like(flat)
    for i in range(flat.size):
        up, down = flat.copy(), flat.copy()
        up[i] += h
        down[i] -= h
        above, below = (sum(engine.loss_and_gradient(w, *data)[:2]) for w in (up, down))
        difference[i] = (above - below) / (2 * h)
    return difference


@pytest.mark.parametrize(("dropout", "residual"), [(0.0, False), (0.4, True)], ids=["", "dropout-residual"])
@pytest.mark.parametrize("normalization", ["none", *NORMALIZATIONS])
def test_gradient_is_the_central_difference(activation, loss, normalization, dropout, residual):
    net = deep((3, 4, 4, 3, 2), activation, loss, normalization, dropout, residual)
    flat, X, y, weights = problem(net, 6)
    engine, data = engine_of(net), (X, y, weights, 0.5, SEED)
    gradient = engine.loss_and_gradient(flat, *data)[2]
    expected = central_difference(engine, flat, *data)
    n = net.network.n_trainable
    np.testing.assert_array_equal(gradient[n:], 0)
    assert_close_by_array(arrays(net, gradient), arrays(net, expected), 2e-6)


def test_gradients_of_all_kernels_agree(instruction_set, dtype):
    """With those of float64, which central differences hold."""
    for n, net in variants():
        flat, X, y, weights = problem(net, n)
        expected = engine_of(net).loss_and_gradient(flat, X, y, weights, 0.1, SEED)[2]
        data = [array.astype(dtype) for array in (flat, X, y, weights)]
        for n_threads in (1, 3):
            found = engine_of(net, dtype, n_threads).loss_and_gradient(*data, 0.1, SEED)[2]
            assert_close_by_array(arrays(net, found), arrays(net, expected), 10 * TOLERANCE[dtype])


class InPyTorch:
    """The same network in PyTorch, in float64."""

    def __init__(self, torch, net, flat):
        self.torch, self.residual = torch, net.residual
        kind = {"batch_norm": torch.nn.BatchNorm1d, "layer_norm": torch.nn.LayerNorm}[net.normalizations[0]]
        self.tensors = {
            name: [None if part is None else torch.tensor(part, requires_grad=True) for part in parts]
            for name, parts in arrays(net, flat).items()
        }
        self.norms = [kind(n).double() for n in net.layer_sizes[1:-1]]
        for i, norm in enumerate(self.norms):
            norm.weight, norm.bias = (torch.nn.Parameter(self.tensors[name][i]) for name in ("scales", "offsets"))
            if net.normalizations[0] == "batch_norm":
                norm.running_mean = self.tensors["running_means"][i].detach()
                norm.running_var = self.tensors["running_variances"][i].detach()

    def __call__(self, X):
        a, below = self.torch.tensor(X), None
        for i, norm in enumerate(self.norms):
            z = a @ self.tensors["coefs"][i] + self.tensors["intercepts"][i]
            if i > 0:
                projection = self.tensors["projections"][i]
                z = z + (below if projection is None else below @ projection)
            below, a = z, self.torch.nn.functional.gelu(norm(z))
        return a @ self.tensors["coefs"][-1] + self.tensors["intercepts"][-1]

    def gradients(self):
        parts = {name: self.tensors[name] for name in ("coefs", "intercepts", "projections")}
        parts |= {"scales": [n.weight for n in self.norms], "offsets": [n.bias for n in self.norms]}
        return {name: [None if p is None else p.grad.numpy() for p in group] for name, group in parts.items()}


@pytest.mark.parametrize("normalization", ["batch_norm", "layer_norm"])
def test_against_pytorch(normalization):
    """Gradients, running statistics and predictions of a residual network."""
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    net = deep((5, 6, 6, 4, 3), "gelu", "log_loss", normalization, residual=True)
    flat, X, y, _ = problem(net, 30)
    theirs = InPyTorch(torch, net, flat)
    torch.nn.functional.cross_entropy(theirs(X), torch.tensor(y)).backward()
    gradient = engine_of(net).loss_and_gradient(flat, X, y, None, 0.0)[2]
    assert_close_by_array(arrays(net, gradient), theirs.gradients(), 1e-9)
    settings = options("sgd", learning_rate=0.0, batch_size=30, max_iter=1, shuffle=False)
    trained = flat.copy()
    engine_of(net).train(trained, new_slots("sgd", flat), X, y, None, None, None, generator(), settings, None)
    if normalization == "batch_norm":
        statistics = {
            "running_means": [norm.running_mean.numpy() for norm in theirs.norms],
            "running_variances": [norm.running_var.numpy() for norm in theirs.norms],
        }
        assert_close_by_array(arrays(net, trained), statistics, 1e-9)
    with torch.no_grad():
        for norm in theirs.norms:
            norm.eval()
        expected = torch.softmax(theirs(X), dim=1).numpy()
    np.testing.assert_allclose(engine_of(net).predict(trained, X), expected, rtol=1e-9)


def train(net, dtype, n_threads, n_rows, batch_size, weights=None, **changes):
    flat, X, y, _ = problem(net, n_rows, dtype)
    trained, slots = flat.copy(), new_slots("adam", flat)
    settings = options(batch_size=batch_size, dropout_seed=SEED, **changes)
    report = engine_of(net, dtype, n_threads).train(
        trained, slots, X, y, weights, None, None, generator(), settings, None
    )
    assert np.isfinite(trained).all()
    assert not np.array_equal(trained, flat)
    return [trained, *slots, np.array(report["loss_curve"])]


@pytest.mark.parametrize("normalization", ["none", *NORMALIZATIONS])
def test_same_bits_for_any_number_of_threads(normalization, dtype):
    steady = _core.set_steady_threads(True)
    try:
        for layer_sizes in [(20, 40, 40, 24, 3), (300, 200, 200, 4)]:  # with padded slots, and without
            net = deep(layer_sizes, "gelu", "log_loss", normalization, 0.2, True)
            results = [train(net, dtype, n_threads, 150, 70) for n_threads in (1, 2, 3, 7)]
            for other in results[1:]:
                for ours, theirs in zip(results[0], other, strict=True):
                    np.testing.assert_array_equal(ours, theirs)
    finally:
        _core.set_steady_threads(steady)


@pytest.mark.parametrize("normalization", ["none", *NORMALIZATIONS])
def test_an_epoch_is_the_plain_loop_bit_for_bit(normalization, dtype):
    """Without running statistics, which the plain loop of the test cannot carry from batch to batch."""
    net = deep((6, 9, 9, 5, 3), "tanh", "log_loss", normalization, 0.0, True)
    flat, X, y, weights = problem(net, 53, dtype)
    trained, slots = flat.copy(), new_slots("adam", flat)
    settings = options(batch_size=10, max_iter=1, shuffle=False)
    engine = engine_of(net, dtype)
    engine.train(trained, slots, X, y, weights, None, None, generator(), settings, None)
    plain, plain_slots = flat.copy(), new_slots("adam", flat)
    for t, start in enumerate(range(0, 53, 10), 1):
        batch = slice(start, start + 10)
        gradient = engine.loss_and_gradient(plain, X[batch], y[batch], weights[batch], 0.1)[2]
        engine.apply(plain, gradient, "adam", settings["hyperparameters"], 0.01, t, plain_slots)
    n = net.network.n_trainable
    for ours, theirs in zip([trained, *slots], [plain, *plain_slots], strict=True):
        np.testing.assert_array_equal(ours[:n], theirs[:n])


def test_a_batch_without_weight_changes_nothing(dtype):
    """Not even what the running statistics of batch norm remember."""
    net = deep((4, 6, 6, 3), "tanh", "log_loss", "batch_norm")
    flat, X, y, _ = problem(net, 20, dtype)
    fits = []
    for n, weights in [(10, None), (20, np.repeat([1, 0], 10).astype(dtype))]:
        trained = flat.copy()
        settings = options(batch_size=10, max_iter=1, shuffle=False)
        data = X[:n], y[:n], weights
        engine_of(net, dtype).train(trained, new_slots("adam", flat), *data, None, None, generator(), settings, None)
        fits.append(trained)
    np.testing.assert_array_equal(*fits)


def test_weights_count_like_repeats():
    """Also for the statistics of batch norm."""
    for normalization in NORMALIZATIONS:
        net = deep((4, 6, 6, 3), "tanh", "log_loss", normalization, 0.0, True)
        flat, X, y, _ = problem(net, 20)
        counts = np.random.RandomState(3).randint(0, 4, 20)
        weighted = engine_of(net).loss_and_gradient(flat, X, y, counts.astype(float), 0.1)
        repeated = engine_of(net).loss_and_gradient(flat, X.repeat(counts, 0), y.repeat(counts, 0), None, 0.1)
        for ours, theirs in zip(weighted, repeated, strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-10, atol=1e-13)


def test_dropout_leaves_out_its_share_anew_for_each_row_unit_layer_and_step():
    masks = np.array([[dropout_mask(0.3, layer, 500, 40, 7, step) == 0 for layer in (1, 2)] for step in (1, 2, 3)])
    assert abs(masks.mean() - 0.3) < 0.005
    assert (abs(masks.mean(axis=2) - 0.3) < 0.12).all()  # of each unit over rows
    assert (abs(masks.mean(axis=3) - 0.3) < 0.35).all()  # of each row over units
    flat = masks.reshape(6, -1)
    assert (abs(np.corrcoef(flat) - np.eye(6)) < 0.03).all()
    rows = np.corrcoef(masks[0, 0])
    assert abs(rows - np.eye(500)).mean() < 0.15  # of 40 independent units: 0.127


def test_dropout_of_the_inputs_needs_dense_rows():
    from scipy.sparse import csr_array

    net = deep((4, 6, 3), dropout=0.2)
    flat, X, y, weights = problem(net, 9)
    csr = csr_array(X)
    rows = csr.data, csr.indices.astype(np.int32), csr.indptr.astype(np.int64), 4
    with pytest.raises(ValueError, match="dropout of the inputs needs a dense X"):
        engine_of(net).loss_and_gradient(flat, rows, y, weights, 0.0, SEED)


def test_sparse_rows_give_the_bits_of_dense_ones(dtype):
    from scipy.sparse import csr_array

    for normalization in NORMALIZATIONS:
        net = deep((20, 24, 24, 3), "relu", "log_loss", normalization, 0.0, True)._replace(dropout=(0.0, 0.2, 0.2))
        flat, X, y, weights = problem(net, 40, dtype)
        X[np.random.RandomState(0).rand(*X.shape) < 0.7] = 0
        csr = csr_array(X)
        rows = csr.data, csr.indices.astype(np.int32), csr.indptr.astype(np.int64), 20
        engine = engine_of(net, dtype)
        dense, sparse = (engine.loss_and_gradient(flat, x, y, weights, 0.1, SEED) for x in (X, rows))
        assert dense[:2] == sparse[:2]
        np.testing.assert_array_equal(dense[2], sparse[2])
        np.testing.assert_array_equal(engine.predict(flat, X), engine.predict(flat, rows))


@pytest.mark.parametrize(
    ("extras", "message"),
    [
        (((), (0.1,), False), r"one dropout per layer of inputs or hidden units is needed: 2, got 1"),
        ((("layer_norm",) * 2, (), False), r"one normalization per hidden layer is needed: 1, got 2"),
        (
            (("no",), (), False),
            "unknown normalization 'no'; valid names: 'none', 'batch_norm', 'layer_norm', 'rms_norm'",
        ),
        (((), (0.0, 1.0), False), "dropout must be at least 0 and below 1, got 1"),
        (((), (-0.1, 0.0), False), "dropout must be at least 0 and below 1, got -0.1"),
        (((), (np.nan, 0.0), False), "dropout must be at least 0 and below 1, got nan"),
    ],
)
def test_bad_descriptions(extras, message):
    with pytest.raises(ValueError, match=message):
        _core.Network((3, 4, 2), ("relu",), "log_loss", {}, *extras)


def test_averages_of_weights_cover_every_array():
    """An average that forgets at once is no average: of scales, offsets and projections too."""
    X = np.random.RandomState(0).randn(60, 5)
    y = X[:, 0] > X[:, 1]
    settings = {"hidden_layer_sizes": (6, 6, 4), "normalization": "layer_norm", "residual": True, "dropout": 0.1}
    plain, averaged = (
        MLPClassifier(**settings, max_iter=5, random_state=0, ema_decay=decay).fit(X, y) for decay in (None, 1e-300)
    )
    for kind in ("coefs_", "intercepts_", "scales_", "offsets_", "projections_"):
        for ours, theirs in zip(getattr(averaged, kind), getattr(plain, kind), strict=True):
            if theirs is not None:
                np.testing.assert_array_equal(ours, theirs)
