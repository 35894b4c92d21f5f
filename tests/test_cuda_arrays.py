"""Arrays that are on a GPU already: CuPy's and PyTorch's where there is a GPU, and stand-ins on the host in its place.

A stand-in says of a NumPy array what the other libraries say of theirs. What the host's library copied, and which
streams it waited for, it tells in a log.
"""

import copy
import ctypes
import gc
import logging
import pickle
import weakref

import numpy as np
import pandas as pd
import pytest
import scipy.sparse
import sklearn
from conftest import CUDA_HOST
from test_trainer import generator
from test_trainer import options as trainer_options

import fastmlp
from fastmlp import MLPClassifier, MLPRegressor, Network, _core, _cuda, _cuda_arrays
from fastmlp.callbacks import Checkpoint

random = np.random.RandomState(0)
X = random.randn(120, 6)
y = X @ random.randn(6) + 0.1 * random.randn(120)
classes = np.digitize(y, [-1, 1]) + 10
weights = random.randint(1, 4, 120).astype(float)
SETTINGS = {"hidden_layer_sizes": (10, 8), "max_iter": 6, "random_state": 3, "batch_size": 32, "tol": 0}


# --- stand-ins ------------------------------------------------------------------------------------------------------


class StandIn:
    """What all arrays have."""

    @property
    def shape(self):
        return self.array.shape

    def __len__(self):
        return len(self.array)


class Interface(StandIn):
    """An array that describes itself by ``__cuda_array_interface__``."""

    def __init__(self, array, **more):
        self.array, self.more = array, {"version": 3, "stream": None} | more

    def __getitem__(self, rows):
        return Interface(self.array[rows], **self.more)

    @property
    def __cuda_array_interface__(self):
        interface = dict(self.array.__array_interface__) | self.more
        return {key: value for key, value in interface.items() if value != "left out"}


class DLPack(StandIn):
    """An array that describes itself by DLPack; ``kind`` is the code of its numbers, if NumPy does not know them."""

    def __init__(self, array, device=0, kind=None):
        self.array, self.device, self.kind = array, device, kind
        self.streams = []

    def __getitem__(self, rows):
        return DLPack(self.array[rows], self.device)

    def __dlpack_device__(self):
        return 2, self.device

    def __dlpack__(self, stream=None):
        self.streams.append(stream)
        capsule = self.array.__dlpack__()
        pointer = ctypes.pythonapi.PyCapsule_GetPointer
        pointer.restype, pointer.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]
        tensor = pointer(capsule, b"dltensor")
        ctypes.c_int32.from_address(tensor + 8).value = 2  # CUDA
        ctypes.c_int32.from_address(tensor + 12).value = self.device
        if self.kind is not None:
            ctypes.c_uint8.from_address(tensor + 20).value = self.kind
        return capsule


def cupy_array(array):
    return pytest.importorskip("cupy").asarray(array)


def torch_tensor(array):
    return pytest.importorskip("torch").from_numpy(array).cuda()


@pytest.fixture(params=["interface", "dlpack", "cupy", "torch"])
def on_gpu(request, library):
    """Return a function that puts a NumPy array on the GPU that is tested."""
    real = library != CUDA_HOST
    if real == (request.param in ("interface", "dlpack")):
        pytest.skip("stand-ins are for the host, other libraries for a GPU")
    return {"interface": Interface, "dlpack": DLPack, "cupy": cupy_array, "torch": torch_tensor}[request.param]


class Log(ctypes.Structure):
    """What the host's library has done so far: bytes, and streams that were waited for."""

    _fields_ = (
        *((name, ctypes.c_uint64) for name in ("uploaded", "downloaded", "converted", "n_streams")),
        ("streams", ctypes.c_int64 * 16),
    )


class Calls:
    """What the host's library does while this is entered."""

    def __enter__(self):
        self.before = self.now()
        return self

    def __exit__(self, *error):
        after = self.now()
        for name in ("uploaded", "downloaded", "converted"):
            setattr(self, name, getattr(after, name) - getattr(self.before, name))
        self.streams = [after.streams[i % 16] for i in range(self.before.n_streams, after.n_streams)]

    @staticmethod
    def now():
        log = Log()
        ctypes.CDLL(CUDA_HOST).fastmlp_host_gpu_log(ctypes.byref(log))
        return log


def assert_close(ours, theirs, tolerance=1e-9):
    np.testing.assert_allclose(ours, theirs, rtol=tolerance, atol=tolerance)


def assert_same_model(ours, theirs, tolerance=1e-9):
    for a, b in zip([*ours.coefs_, *ours.intercepts_], [*theirs.coefs_, *theirs.intercepts_], strict=True):
        assert_close(a, b, tolerance)
    assert_close(ours.loss_curve_, theirs.loss_curve_, tolerance)
    assert ours.n_features_in_ == theirs.n_features_in_


# --- fits and answers -----------------------------------------------------------------------------------------------


def stop_at_epoch_4(run):
    return run.n_iter == 4


CHANGES = {
    "defaults": {},
    "early stopping": {"early_stopping": True},
    "metric": {"early_stopping": True, "eval_metric": "neg_log_loss"},
    "splitter": {"early_stopping": True, "validation_fraction": sklearn.model_selection.KFold(4)},
    "callback": {"callbacks": stop_at_epoch_4},
    "schedule": {"learning_rate": "cosine", "ema_decay": 0.9},
    "balanced": {"class_weight": "balanced"},
    "calibration": {"early_stopping": True, "calibration": "temperature"},
    "normalization": {"normalization": "layer_norm", "dropout": 0.2, "input_dropout": 0.1},
}


@pytest.mark.parametrize("change", CHANGES)
def test_classifiers(on_gpu, change, dtype):
    """Fits, and all answers, as from the host; these are NumPy arrays."""
    tolerance = 1e-9 if dtype == "float64" else 2e-4
    rows = X.astype(dtype)
    plain = MLPClassifier(**SETTINGS | CHANGES[change]).fit(rows, classes, weights)
    model = MLPClassifier(**SETTINGS | CHANGES[change], device="cuda")
    model.fit(on_gpu(rows), on_gpu(classes), on_gpu(weights))
    assert_same_model(model, plain, tolerance)
    assert model.coefs_[0].dtype == dtype
    np.testing.assert_array_equal(model.classes_, plain.classes_)
    for ask in ("predict_proba", "predict_log_proba", "transform"):
        answer = getattr(model, ask)(on_gpu(rows))
        assert type(answer) is np.ndarray
        assert answer.dtype == dtype
        assert_close(answer, getattr(plain, ask)(rows), tolerance)
    np.testing.assert_array_equal(model.predict(on_gpu(rows)), plain.predict(rows))
    assert model.score(on_gpu(rows), on_gpu(classes), on_gpu(weights)) == plain.score(rows, classes, weights)


@pytest.mark.parametrize("targets", [y, np.stack([y, -y], axis=1)], ids=["one", "two"])
def test_regressors(on_gpu, targets):
    plain = MLPRegressor(**SETTINGS).fit(X, targets)
    model = MLPRegressor(**SETTINGS, device="cuda").fit(on_gpu(X), on_gpu(targets))
    assert_same_model(model, plain)
    assert_close(model.predict(on_gpu(X)), plain.predict(X))
    assert_close(model.score(on_gpu(X), on_gpu(targets)), plain.score(X, targets))
    if targets.ndim == 1:
        plain.calibrate(X, targets)
        assert_close(model.calibrate(on_gpu(X), on_gpu(targets)).conformity_scores_, plain.conformity_scores_)


def test_validation_data(on_gpu):
    curves = []
    for device, put in (("cpu", np.asarray), ("cuda", on_gpu)):
        model = MLPClassifier(**SETTINGS, device=device)
        model.fit(
            put(X[:90]), put(classes[:90]), X_val=put(X[90:]), y_val=put(classes[90:]),
            sample_weight_val=put(weights[90:]),
        )  # fmt: skip
        curves.append(model.history_)
    for name in ("loss", "val_loss", "val_accuracy"):
        assert_close(curves[1][name], curves[0][name])


def test_data_on_both_sides(on_gpu):
    """Each array may be on the host or on the GPU."""
    plain = MLPRegressor(**SETTINGS).fit(X, y, weights, X_val=X[:20], y_val=y[:20])
    for a, b, c, d in ((on_gpu, np.asarray, on_gpu, np.asarray), (np.asarray, on_gpu, np.asarray, on_gpu)):
        model = MLPRegressor(**SETTINGS, device="cuda").fit(a(X), b(y), c(weights), X_val=d(X[:20]), y_val=b(y[:20]))
        assert_same_model(model, plain)
        assert_close(model.history_["val_loss"], plain.history_["val_loss"])


def test_partial_fit(on_gpu):
    plain, model = MLPClassifier(**SETTINGS), MLPClassifier(**SETTINGS, device="cuda")
    known = np.unique(classes)
    for part in (slice(50), slice(50, None)):
        plain.partial_fit(X[part], classes[part], classes=known)
        model.partial_fit(on_gpu(X[part]), on_gpu(classes[part]), classes=on_gpu(known))
    assert_same_model(model, plain)


def test_more_rows_than_are_predicted_at_once(on_gpu):
    if on_gpu is Interface:
        pytest.skip("slow on the host: one of the stand-ins is enough")
    rows = np.random.RandomState(1).randn((1 << 16) + 9, 2).astype(np.float32)
    model = MLPRegressor(hidden_layer_sizes=3, max_iter=1, device="cuda").fit(X[:, :2].astype(np.float32), y)
    assert_close(model.predict(on_gpu(rows)), model.predict(rows), 1e-5)


@pytest.mark.parametrize("where", [slice(0, 6), slice(2, 8)], ids=str)
def test_rows_may_be_apart(on_gpu, where):
    wide = np.zeros((120, 11))
    wide[:, where] = X
    rows = on_gpu(wide)[:, where]
    plain = MLPRegressor(**SETTINGS).fit(X, y)
    model = MLPRegressor(**SETTINGS, device="cuda").fit(rows, on_gpu(np.stack([y, y], axis=1))[:, 0])
    assert_same_model(model, plain)
    assert_close(model.predict(rows), plain.predict(X))


@pytest.mark.parametrize("device", ["cuda", "cuda:0", "auto"])
def test_names_of_the_device(on_gpu, device, monkeypatch):
    monkeypatch.setattr(_cuda, "_GPU_RATE", 1e-9)  # so slow that "auto" would take the CPU
    model = MLPRegressor(**SETTINGS, device=device).fit(on_gpu(X), y)
    assert_same_model(model, MLPRegressor(**SETTINGS).fit(X, y))
    assert_close(model.predict(on_gpu(X)), model.predict(X))


def test_around_an_estimator(on_gpu):
    """Where rows are chosen by scikit-learn, which leaves that to the array, and in the learning rate range test."""
    plain, model = MLPRegressor(**SETTINGS), MLPRegressor(**SETTINGS, device="cuda")
    scores = [sklearn.model_selection.cross_val_score(*given, y, cv=3) for given in ((plain, X), (model, on_gpu(X)))]
    assert_close(scores[1], scores[0])
    losses = [fastmlp.lr_find(model, *data).losses for data in ((X, y), (on_gpu(X), on_gpu(y)))]
    assert_close(losses[1], losses[0])


# --- dtypes ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("given", "wanted"), [("float64", "float32"), ("float32", "float64")])
def test_another_dtype_is_converted(on_gpu, given, wanted):
    """On the GPU, when the parameter ``dtype`` or the parameters of the network ask for it."""
    rows = X.astype(given)
    plain = MLPRegressor(**SETTINGS, dtype=wanted).fit(rows, y)
    model = MLPRegressor(**SETTINGS, dtype=wanted, device="cuda").fit(on_gpu(rows), y)
    assert model.coefs_[0].dtype == wanted
    assert_same_model(model, plain, 1e-4)
    assert model.predict(on_gpu(rows)).dtype == wanted
    follows = MLPRegressor(**SETTINGS, device="cuda").fit(on_gpu(X.astype(wanted)), y)
    answer, expected = follows.predict(on_gpu(rows)), follows.predict(rows)
    assert answer.dtype == expected.dtype == np.float64  # the wider of both
    assert_close(answer, expected, 1e-5)


@pytest.mark.parametrize("kind", [np.float16, np.int64, np.bool_])
def test_other_dtypes_are_refused(on_gpu, kind):
    message = rf"X on a GPU must have dtype float32 or float64, got {np.dtype(kind)}: convert it there, with X\.astype"
    with pytest.raises(TypeError, match=message):
        MLPRegressor(device="cuda").fit(on_gpu((X > 0).astype(kind)), y)


def test_numbers_that_numpy_does_not_know(library, host):
    with pytest.raises(TypeError, match="X has numbers that NumPy does not know, such as bfloat16"):
        MLPRegressor(device="cuda").fit(DLPack(X.astype(np.float16), kind=4), y)


# --- what is refused ------------------------------------------------------------------------------------------------


def spoilt(value, dtype="float64"):
    rows = X.astype(dtype)
    rows[70, 4] = value
    rows[100, 1] = np.nan
    return rows


@pytest.mark.parametrize(
    ("value", "what"),
    [
        (np.nan, "NaN"),
        (np.inf, r"infinity or a value too large for dtype\('float32'\)"),
        (-np.inf, "infinity"),
        (1e300, "infinity"),
    ],
)
def test_numbers_that_are_not_finite(on_gpu, value, what):
    """Are looked for on the GPU, where X is in the dtype in which it is computed."""
    model = MLPRegressor(**SETTINGS, device="cuda", dtype="float32").fit(on_gpu(X), y)
    before = dict(vars(model))
    for call in (model.predict, lambda rows: model.fit(rows, y), lambda rows: model.fit(X, y, X_val=rows, y_val=y)):
        with pytest.raises(ValueError, match=rf"Input X(_val)? contains {what}.*, in row 70, column 4"):
            call(on_gpu(spoilt(value)))
    assert before.keys() == vars(model).keys()
    with sklearn.config_context(assume_finite=True), np.errstate(all="ignore"):
        assert not np.isfinite(model.predict(on_gpu(spoilt(np.nan)))[70])


@pytest.mark.parametrize("place", [(0, 0), (119, 5), (31, 0), (32, 5)], ids=str)
def test_every_number_is_looked_at(on_gpu, place):
    rows = X.copy()
    rows[place] = np.nan
    array = _core.CudaArray(on_gpu(rows), _cuda.library_path())
    assert array.find_not_finite() == place
    assert _core.CudaArray(on_gpu(X), _cuda.library_path()).find_not_finite() is None


def test_wide_and_long_arrays_are_looked_through(on_gpu):
    for shape, place in (((20000, 3), (19998, 2)), ((40000, 3), (3, 0)), ((3, 4097), (1, 4096)), ((2, 90), (1, 5))):
        rows = np.zeros(shape, np.float32)
        rows[place] = -np.inf
        rows[-1, place[1] :] = np.nan
        assert _core.CudaArray(on_gpu(rows), _cuda.library_path()).find_not_finite() == place


def test_shapes(on_gpu):
    model = MLPRegressor(**SETTINGS, device="cuda")
    with pytest.raises(ValueError, match=r"Expected 2D array, got 1D array instead: X has shape \(120,\)"):
        model.fit(on_gpu(y), y)
    with pytest.raises(ValueError, match=r"inconsistent numbers of samples: \[120, 119\]"):
        model.fit(on_gpu(X), on_gpu(y[1:]))
    with pytest.raises(ValueError, match="X is empty: its shape is"):
        model.fit(on_gpu(X[:0]), y[:0])
    model.fit(on_gpu(X), y)
    for call in (model.predict, lambda rows: model.partial_fit(rows, y)):
        with pytest.raises(ValueError, match="X has 5 features, but MLPRegressor is expecting 6 features as input"):
            call(on_gpu(X[:, :5].copy()))


def test_names_of_features(on_gpu):
    frame = pd.DataFrame(X, columns=list("abcdef"))
    model = MLPRegressor(**SETTINGS, device="cuda").fit(frame, y)
    with pytest.warns(UserWarning, match="X does not have valid feature names, but MLPRegressor was fitted with"):
        answer = model.predict(on_gpu(X))
    assert_close(answer, model.predict(frame))
    assert not hasattr(model.fit(on_gpu(X), y), "feature_names_in_")


@pytest.mark.parametrize("rows", [np.asfortranarray(X), np.repeat(X, 2, axis=1)[:, ::2]], ids=["columns", "gaps"])
def test_orders_that_are_refused(library, host, rows):
    model = MLPRegressor(**SETTINGS, device="cuda")
    for put in (Interface, DLPack):
        with pytest.raises(ValueError, match=r"X must be C-contiguous.*cupy\.ascontiguousarray\(X\) or X\.contiguous"):
            model.fit(put(rows), y)
        with pytest.raises(ValueError, match=r"y must be C-contiguous"):
            model.fit(put(X), put(rows))
        with pytest.raises(ValueError, match=r"X must be C-contiguous"):
            model.fit(put(X[::-1]), y)


def test_the_cpu_takes_no_array_of_a_gpu(on_gpu):
    model = MLPClassifier(**SETTINGS).fit(X, classes)
    message = r"{0} is on a GPU, and device='cpu': use device='cuda', or copy {0} to the host, with {0}\.get\(\)"
    for name, call in (
        ("X", lambda: MLPClassifier().fit(on_gpu(X), classes)),
        ("X", lambda: model.predict(on_gpu(X))),
        ("y", lambda: model.fit(X, on_gpu(classes))),
        ("y", lambda: model.score(X, on_gpu(classes))),
        ("sample_weight", lambda: model.fit(X, classes, on_gpu(weights))),
        ("X_val", lambda: model.fit(X, classes, X_val=on_gpu(X), y_val=classes)),
        ("y_val", lambda: model.fit(X, classes, X_val=X, y_val=on_gpu(classes))),
        ("X", lambda: Network([6, 1])(on_gpu(X))),
        ("y", lambda: Network([6, 1]).loss(X, on_gpu(classes))),
    ):
        with pytest.raises(ValueError, match=message.format(name)):
            call()


def test_what_the_gpu_engine_lacks(on_gpu):
    csr = scipy.sparse.csr_matrix(X)
    for device in ("cuda", "auto"):
        with pytest.raises(ValueError, match="X is on a GPU, where there is no solver 'lbfgs': copy it to the host"):
            MLPRegressor(solver="lbfgs", device=device).fit(on_gpu(X), y)
        with pytest.raises(ValueError, match="X is on a GPU, where there is no custom losses: copy it to the host"):
            MLPRegressor(lambda y, z, w: (0.0, z), device=device).fit(on_gpu(X), y)
        with pytest.raises(ValueError, match="X_val is on a GPU, where there is no sparse X"):
            MLPRegressor(device=device).fit(csr, y, X_val=on_gpu(X), y_val=y)
    model = MLPRegressor(**SETTINGS, device="cuda").fit(X, y)
    for call in (model.input_gradient, lambda rows: model.hessian_vector_product(rows, y, np.zeros(167))):
        with pytest.raises(ValueError, match="X is on a GPU, and this is computed on the CPU: copy it to the host"):
            call(on_gpu(X))


# --- more than one GPU ----------------------------------------------------------------------------------------------


def test_another_gpu(library, host, monkeypatch):
    monkeypatch.setenv("FASTMLP_HOST_GPU_DEVICES", "2")
    arrays = {"X": X, "y": y, "X_val": X, "y_val": y}
    for name in arrays:
        given = arrays | {name: DLPack(arrays[name], device=1)}
        with pytest.raises(ValueError, match=f"{name} is on GPU 1, and device='cuda' is GPU 0: use device='cuda:1'"):
            MLPRegressor(**SETTINGS, device="cuda").fit(**given)
    model = MLPRegressor(**SETTINGS, device="cuda:1").fit(DLPack(X, device=1), Interface(y))
    assert_same_model(model, MLPRegressor(**SETTINGS).fit(X, y))
    with pytest.raises(ValueError, match="X is on GPU 0, and device='cuda:1' is GPU 1: use device='cuda:0'"):
        model.predict(DLPack(X))


def test_auto_takes_the_gpu_on_which_the_data_are(library, host, monkeypatch, capsys):
    monkeypatch.setenv("FASTMLP_HOST_GPU_DEVICES", "2")
    for given in ({"X": DLPack(X, device=1)}, {"X": X, "X_val": DLPack(X, device=1), "y_val": y}):
        model = MLPRegressor(**SETTINGS, device="auto", verbose=True).fit(y=y, **given)
        assert capsys.readouterr().out.startswith("device='auto': GPU 1, where the data are\n")
    assert_close(model.predict(DLPack(X, device=1)), model.predict(X))


def test_a_gpu_that_cannot_be_used(library, host, monkeypatch):
    with pytest.raises(RuntimeError, match=r"X is on a GPU, and GPU 1 cannot be used: there is no such GPU"):
        MLPRegressor(device="auto").fit(DLPack(X, device=1), y)
    model = MLPRegressor(**SETTINGS, device="cuda").fit(DLPack(X), y)
    expected = model.predict(X)
    monkeypatch.setenv("FASTMLP_CUDA_LIBRARY", "/nowhere/libfastmlp_cuda.so")
    elsewhere = pickle.loads(pickle.dumps(model))  # as on a machine without a GPU
    np.testing.assert_array_equal(elsewhere.predict(X), expected)
    for device in ("cuda", "auto"):
        with pytest.raises(RuntimeError, match="X is on a GPU, and GPU 0 cannot be used: fastmlp was built without"):
            elsewhere.set_params(device=device).predict(DLPack(X))
    np.testing.assert_array_equal(elsewhere.set_params(device="cpu").predict(X), expected)


# --- nothing is copied that need not be -----------------------------------------------------------------------------


def test_features_stay_on_the_gpu(library, host):
    rows = random.randn(1000, 60)
    model = MLPRegressor(hidden_layer_sizes=4, max_iter=2, batch_size=500, device="cuda")
    for put in (Interface, DLPack):
        with Calls() as calls:
            model.fit(put(rows), put(rows[:, 0].copy()), X_val=put(rows), y_val=rows[:, 0])
        assert calls.uploaded < rows.nbytes / 2
        assert calls.downloaded == rows[:, 0].nbytes
        assert calls.converted == 0
        with Calls() as calls:
            model.predict(put(rows))
        assert calls.uploaded < rows.nbytes / 10
        assert calls.downloaded == 0
    with Calls() as calls:
        model.fit(rows, rows[:, 0])
    assert calls.uploaded > rows.nbytes


@pytest.mark.parametrize("early_stopping", [False, True])
@pytest.mark.parametrize(
    "change",
    [{"callbacks": lambda run: None}, {"on_divergence": "back_off"}, {"learning_rate": "cosine"}, {}],
    ids=lambda change: "".join(change) or "defaults",
)
def test_data_go_to_the_gpu_once(library, host, change, early_stopping):
    """Whatever is asked between epochs."""
    rows, uploaded = random.randn(2000, 40), []
    for max_iter in (1, 11):
        model = MLPRegressor(
            hidden_layer_sizes=2, max_iter=max_iter, early_stopping=early_stopping, tol=0, device="cuda", **change
        )
        with Calls() as calls:
            model.fit(rows, rows[:, 0])
        assert model.n_iter_ == max_iter
        uploaded.append(calls.uploaded)
    assert uploaded[0] > rows.nbytes
    assert uploaded[1] - uploaded[0] < rows.nbytes / 2  # order of rows, numbers of steps


def test_validation_data_go_to_the_gpu_once(library, host):
    rows, uploaded = random.randn(2000, 40), []
    for max_iter in (1, 11):
        model = MLPRegressor(hidden_layer_sizes=2, max_iter=max_iter, callbacks=lambda run: None, device="cuda")
        with Calls() as calls:
            model.fit(rows[:4], rows[:4, 0], X_val=rows, y_val=rows[:, 0])
        uploaded.append(calls.uploaded)
    assert uploaded[0] > rows.nbytes
    assert uploaded[1] - uploaded[0] < rows.nbytes / 2


def test_data_that_are_held_and_released(library):
    """What is held is taken for what it was, and released it is looked at again."""
    network = _core.Network([6, 1], [], "squared_error")
    engine = _core.Engine(network, "float64", 0, None, (library, 0, "ieee"))

    def loss_of(rows):
        parameters = np.ones(network.n_parameters)
        slots = [np.zeros(network.n_parameters)] * 2
        settings = trainer_options("adam", max_iter=1, batch_size=120)
        return engine.train(parameters, slots, rows, y[:, None], None, None, None, generator(0), settings, None)[
            "loss_curve"
        ][0]

    rows, targets = X.copy(), y[:, None]
    expected = loss_of(rows)
    other = loss_of(rows * 2)
    held = targets.copy()
    engine.hold(rows, held, None)
    engine.release()
    rows *= 2
    assert loss_of(rows) == other != expected


def test_what_is_held_lives_on(library, host):
    network = _core.Network([6, 1], [], "squared_error")
    engine = _core.Engine(network, "float64", 0, None, (library, 0, "ieee"))
    rows = X.copy()
    alive = weakref.ref(rows)
    engine.hold(_core.CudaArray(Interface(rows), library), y[:, None], None)
    del rows
    gc.collect()
    assert alive() is not None
    engine.release()
    gc.collect()
    assert alive() is None


def test_an_array_lives_as_long_as_it_is_read(library, host):
    rows = X.copy()
    alive = weakref.ref(rows)
    array = _core.CudaArray(DLPack(rows), library)
    del rows
    gc.collect()
    assert alive() is not None
    np.testing.assert_array_equal(array.to_host(), X)
    wide = array.converted().converted()
    del array
    gc.collect()
    assert alive() is None
    np.testing.assert_array_equal(wide.to_host(100, 3), X[100:103].astype(np.float32))


@pytest.mark.parametrize("put", [Interface, DLPack])
def test_nothing_lives_longer(library, host, put):
    rows = X.copy()
    alive = weakref.ref(rows)
    model = MLPRegressor(**SETTINGS, device="cuda", callbacks=lambda run: None).fit(put(rows), y)
    model.predict(put(rows))
    network = Network([6, 1], device="cuda")
    network.loss(put(rows), (y > 0).astype(float))
    network(put(rows))
    del rows
    gc.collect()
    assert alive() is None


# --- streams --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("stream", "expected"),
    [(None, []), (1, [1]), (2, [2]), (0x7F00DEADBEE0, [0x7F00DEADBEE0]), ("left out", [-1])],
    ids=str,
)
def test_the_stream_of_the_interface(library, host, stream, expected):
    with Calls() as calls:
        _core.CudaArray(Interface(X, stream=stream), library)
    assert calls.streams == expected
    with Calls() as calls:
        MLPRegressor(**SETTINGS, device="cuda").fit(Interface(X, stream=stream), Interface(y, stream=stream))
    assert calls.streams == 2 * expected


class OfAnotherDevice(Interface):
    """As PyTorch has it: a tensor that is not on the current device is not exported by DLPack."""

    def __dlpack_device__(self):
        return 2, 0

    def __dlpack__(self, stream=None):
        raise BufferError("Can't export tensors on a different CUDA device index.")


def test_what_dlpack_does_not_export(library, host):
    """Its interface is asked; without one, it is an error."""
    with Calls() as calls:
        model = MLPRegressor(**SETTINGS, device="cuda").fit(OfAnotherDevice(X, stream="left out"), y)
    assert calls.streams == [-1]
    assert_same_model(model, MLPRegressor(**SETTINGS).fit(X, y))

    class Without(DLPack):
        __dlpack__ = OfAnotherDevice.__dlpack__

    with pytest.raises(BufferError, match="on a different CUDA device index"):
        model.fit(Without(X), y)


def test_the_stream_of_dlpack(library, host):
    """The producer has the default stream wait, and that one is waited for."""
    rows = DLPack(X)
    with Calls() as calls:
        MLPRegressor(**SETTINGS, device="cuda").fit(rows, y)
    assert rows.streams == calls.streams == [1]


# --- what describes itself badly ------------------------------------------------------------------------------------


class NoCapsule:
    shape = (2, 2)

    def __dlpack_device__(self):
        return 2, 0

    def __dlpack__(self, stream=None):
        return None


class OnTheHost(NoCapsule):
    def __dlpack__(self, stream=None):
        return X.__dlpack__()


@pytest.mark.parametrize(
    ("array", "error", "message"),
    [
        (Interface(X, stream=0), ValueError, "the stream of X must not be 0"),
        (Interface(X, mask=Interface(X > 0)), ValueError, "X must have no mask"),
        (Interface(X, strides=(48, 3)), ValueError, "X must be aligned in memory"),
        (Interface(X, strides=(48,)), ValueError, "X must have a stride for each axis"),
        (Interface(X, data=(X.ctypes.data + 1, False)), ValueError, "X must be aligned in memory"),
        (Interface(X, strides=(8, 8)), ValueError, "X must be C-contiguous"),
        (Interface(X, typestr="<c16"), TypeError, "X on a GPU must have dtype float32 or float64, got complex128"),
        (NoCapsule(), TypeError, r"X\.__dlpack__\(\) must return a capsule named 'dltensor', got None"),
        (OnTheHost(), ValueError, r"X\.__dlpack__\(\) must return a tensor on a GPU"),
    ],
)
def test_bad_descriptions(library, host, array, error, message):
    with pytest.raises(error, match=message):
        MLPRegressor(device="cuda").fit(array, y)


def test_bad_calls_of_the_core(library, host):
    array = _core.CudaArray(Interface(X), library)
    for first, n in ((-1, 2), (0, 121), (121, 0), (2, -1), (2**62, 2**62)):
        with pytest.raises(IndexError, match="X does not have these rows"):
            array.to_host(first, n)
    network = _core.Network([6, 1], [], "squared_error")
    parameters = np.zeros(7)
    engine = _core.Engine(network, "float64", 0, None, (library, 0, "ieee"))
    np.testing.assert_array_equal(engine.predict(parameters, array, 0), X)
    for bad in (array.converted(), _core.CudaArray(Interface(X[:, :5]), library)):
        with pytest.raises(ValueError, match="X must have 6 columns and the dtype of the engine"):
            engine.predict(parameters, bad)
    with pytest.raises(ValueError, match="X is on GPU 3, and the engine on GPU 0"):
        engine.predict(parameters, _core.CudaArray(DLPack(X, device=3), library))
    with pytest.raises(ValueError, match="X is on a GPU, and this is computed on the CPU"):
        _core.Engine(network, "float64").predict(parameters, array)
    with pytest.raises(TypeError, match="X must have dtype float32 or float64, got int64"):
        _core.CudaArray(Interface(X.astype(np.int64)), library).find_not_finite()
    with pytest.raises(ValueError, match=r"X must have two axes, got shape \(120,\)"):
        _core.CudaArray(Interface(y), library).converted()


def test_what_is_on_the_host():
    for given in (X, X.tolist(), pd.DataFrame(X), scipy.sparse.csr_matrix(X), None, "text", memoryview(X)):
        assert not _cuda_arrays.is_cuda_array(given)


# --- a training that is looked at -----------------------------------------------------------------------------------


def test_the_layer_that_overflows_is_named(on_gpu):
    rows = X.copy()
    rows[110, 4] = 1e307
    said = []
    for device, put in (("cpu", np.asarray), ("cuda", on_gpu)):
        model = MLPRegressor(**SETTINGS, device=device).fit(X, y)
        model.coefs_[0][...] = 100
        with pytest.raises(ValueError, match="layer 1 of 3 overflows: feature 4 reaches 1e\\+307") as error:
            model.partial_fit(put(rows), y)
        said.append(str(error.value))
    assert said[0] == said[1]


def test_a_checkpoint_of_the_same_data(on_gpu, tmp_path):
    """Goes on wherever the data are."""
    path = tmp_path / "checkpoint.safetensors"
    settings = SETTINGS | {"callbacks": [Checkpoint(path)]}
    MLPRegressor(**settings | {"max_iter": 3}, device="cuda").fit(on_gpu(X), y)
    model = MLPRegressor(**settings | {"max_iter": 6}, device="cuda").fit(X, y)
    assert len(model.loss_curve_) == 6
    assert_same_model(model, MLPRegressor(**SETTINGS).fit(X, y))
    with pytest.raises(ValueError, match="other data"):
        MLPRegressor(**settings | {"max_iter": 8}, device="cuda").fit(on_gpu(X + 1), y)


# --- what "auto" says -----------------------------------------------------------------------------------------------


def test_auto_says_once_what_it_chose(library, host, monkeypatch, caplog):
    """To the logger, also if it shall not print: once for each place."""
    monkeypatch.setattr(_cuda, "_told", set())
    caplog.set_level(logging.INFO, "fastmlp")
    for _ in range(3):
        MLPRegressor(**SETTINGS, device="auto").fit(X, y)
        MLPRegressor(**SETTINGS, device="auto").fit(Interface(X), y)
    said = [record.getMessage() for record in caplog.records if record.name == "fastmlp"]
    assert len(said) == 2
    assert said[0].startswith("device='auto': the CPU, which may take")
    assert said[1] == "device='auto': GPU 0, where the data are"


# --- Network --------------------------------------------------------------------------------------------------------


def networks(dtype="float64", **more):
    plain = Network([6, 9, 4, 2], "tanh", dtype=dtype, random_state=0)
    return plain, Network([6, 9, 4, 2], "tanh", dtype=dtype, random_state=0, device="cuda", **more)


def test_networks(on_gpu, dtype):
    plain, network = networks(dtype)
    targets = (np.stack([y, -y], axis=1) > 0).astype(dtype)
    tolerance = 1e-12 if dtype == "float64" else 1e-5
    for put in (np.asarray, on_gpu):
        rows = put(X.astype(dtype))
        assert_close(network(rows), plain(X), tolerance)
        for layer in (0, 1, 2):
            assert_close(network.hidden(rows, layer), plain.hidden(X, layer), tolerance)
        given, expected = (rows, put(targets), put(weights), 0.1), (X, targets, weights, 0.1)
        assert_close(network.loss(*given), plain.loss(*expected), tolerance)
        for ours, theirs in zip(network.gradient(*given), plain.gradient(*expected), strict=True):
            for a, b in zip(ours, theirs, strict=True):
                assert_close(a, b, tolerance)
        assert_close(network.loss_and_gradient(*given)[1], plain.loss_and_gradient(*expected)[1], tolerance)
    assert_close(network(X[0]), plain(X[0]), tolerance)
    assert_close(network.input_gradient(X), plain.input_gradient(X), tolerance)  # on the CPU
    with pytest.raises(ValueError, match="X is on a GPU, and this is computed on the CPU"):
        network.input_gradient(on_gpu(X.astype(dtype)))
    other = on_gpu(X.astype("float32" if dtype == "float64" else "float64"))
    assert_close(network(other), plain(X), 1e-5)


def test_networks_refuse(on_gpu):
    _, network = networks()
    with pytest.raises(ValueError, match=r"X must have shape \(n_samples, 6\) or \(6,\), got \(120, 5\)"):
        network(on_gpu(X[:, :5].copy()))
    with pytest.raises(ValueError, match=r"Input X contains NaN, in row 70, column 4"):
        network(on_gpu(spoilt(np.nan)))
    with pytest.raises(ValueError, match="y must have shape"):
        network.loss(on_gpu(X), on_gpu(y))


def test_the_device_of_a_network(library, monkeypatch):
    with pytest.raises(ValueError, match="device must be 'cpu', 'cuda'"):
        Network([2, 1], device="gpu")
    with pytest.raises(ValueError, match="unknown precision 'fp16'"):
        Network([2, 1], device="cuda", precision="fp16")
    with pytest.raises(ValueError, match="precision='tf32' is for a GPU"):
        Network([2, 1], precision="tf32")
    plain, network = networks("float32", precision="bf16")
    assert 0 < np.abs(network(X) - plain(X)).max() < 0.05
    network.device, network.precision = "cpu", "ieee"
    np.testing.assert_array_equal(network(X), plain(X))
    monkeypatch.setenv("FASTMLP_CUDA_LIBRARY", "/nowhere/libfastmlp_cuda.so")
    with pytest.raises(RuntimeError, match="device='cuda' cannot be used: fastmlp was built without"):
        Network([2, 1], device="cuda")


def test_a_network_follows_its_data(library, host):
    plain, network = networks()
    network.device = "auto"
    np.testing.assert_array_equal(network(X), plain(X))
    with Calls() as calls:
        assert_close(network(DLPack(X)), plain(X), 1e-12)
    assert calls.streams == [1]


def test_an_engine_of_a_gpu_is_kept(library, monkeypatch):
    """While parameters change; copies and pickles make their own."""
    plain, network = networks()
    made = []
    make = fastmlp.network.make_engine
    monkeypatch.setattr(fastmlp.network, "make_engine", lambda *how, **more: made.append(1) or make(*how, **more))
    for _ in range(3):
        network.weights[0] += 0.5
        plain.weights[0] += 0.5
        assert_close(network(X), plain(X), 1e-12)
    rows = X.copy()
    network.loss(rows, np.zeros((120, 2)))
    rows *= 2  # in place: it is looked at anew
    assert_close(network.loss(rows, np.zeros((120, 2))), plain.loss(2 * X, np.zeros((120, 2))), 1e-12)
    assert sum(made) == 3 + 1 + 1  # of the plain one each time
    for other in (copy.deepcopy(network), pickle.loads(pickle.dumps(network))):
        assert other._kept is None
        other.weights[0] += 1
        assert not np.array_equal(other(X), network(X))
