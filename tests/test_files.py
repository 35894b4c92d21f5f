"""Model files: all of a model comes back to the bit, and nothing but a model does."""

import json
import os
import re
import stat
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
from test_predictor import SIGNAL, TARGETS, X, fitted, same

import fastmlp
from fastmlp import MLPClassifier, MLPRegressor, _core, files

GOLDEN = Path(__file__).parent / "golden"
y = TARGETS["three classes"]
SETTINGS = {"hidden_layer_sizes": (7, 4), "batch_size": 16, "max_iter": 4}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "model.safetensors"


def weights(model):
    return [array.tobytes() for array in model.coefs_ + model.intercepts_]


def same_values(found, wanted):
    """Attributes of a model, whose optimizer, generator and label binarizer have attributes of their own."""
    assert type(found) is type(wanted)
    if isinstance(wanted, np.random.RandomState):
        same_values(found.get_state(), wanted.get_state())
    elif hasattr(wanted, "__dict__"):
        same_values(vars(found), vars(wanted))
    elif isinstance(wanted, dict):
        assert found.keys() == wanted.keys()
        for name in wanted:
            same_values(found[name], wanted[name])
    elif isinstance(wanted, list | tuple):
        assert len(found) == len(wanted)
        for pair in zip(found, wanted, strict=True):
            same_values(*pair)
    elif isinstance(wanted, np.ndarray):
        np.testing.assert_array_equal(found, wanted, strict=True)
    else:
        assert found == wanted


# --- what comes back -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", TARGETS)
def test_a_loaded_predictor_is_the_compiled_one(target, dtype, path):
    model = fitted(target, dtype)
    model.save(path)
    loaded, compiled = fastmlp.load(path, assume_finite=True, n_jobs=2), model.compile()
    same(loaded(X), compiled(X))
    same(loaded.predict(X), compiled.predict(X))
    assert repr(loaded) == repr(compiled)
    assert (loaded.assume_finite, loaded.n_jobs) == (True, 2)


def test_weights_and_answers_of_different_dtypes(path):
    model = fitted("numbers").set_params(dtype="float32")
    model.save(path)
    same(fastmlp.load(path)(X), model.compile()(X))
    assert fastmlp.load(path).dtype == np.float32
    assert weights(MLPRegressor.load(path)) == weights(model)


@pytest.mark.parametrize(
    "settings",
    [
        {"solver": "adam", "n_iter_no_change": np.inf, "activation": ["tanh", "mish"]},
        {"solver": "sgd", "learning_rate": "adaptive", "hidden_layer_sizes": [3], "random_state": None},
        {"solver": "lbfgs", "hidden_layer_sizes": (), "n_jobs": 2},
        {"early_stopping": True, "random_state": np.random.RandomState(5), "dtype": "float32"},
    ],
    ids=["adam", "sgd", "lbfgs", "early stopping"],
)
@pytest.mark.parametrize("target", TARGETS)
def test_every_attribute_comes_back(target, settings, path):
    if target == "one class" and settings.get("early_stopping"):
        settings = {**settings, "early_stopping": False}
    model = fitted(target, **{**SETTINGS, "activation": "relu", **settings})
    model.save(path, optimizer=True)
    loaded = type(model).load(path)
    ignored = {"_flat": 0}  # views of coefs_
    same_values({**vars(loaded), **ignored}, {**vars(model), **ignored})
    np.testing.assert_array_equal(loaded.predict(X), model.predict(X))


def test_feature_names(path):
    pd = pytest.importorskip("pandas")
    frame = pd.DataFrame(X, columns=["a", "Länge", "", "日本", '"\n'])
    model = MLPClassifier((3,), max_iter=3, random_state=0).fit(frame, y)
    model.save(path)
    same(fastmlp.load(path)(frame), model.predict_proba(frame))
    same(fastmlp.load(path).feature_names_in_, model.feature_names_in_)
    same(MLPClassifier.load(path).feature_names_in_, model.feature_names_in_)


LABELS = [
    np.array([False, True]),
    np.array([-(2**63), 2**63 - 1]),
    np.array([0, 2**64 - 1], np.uint64),
    np.array([-128, 127], np.int8),
    np.array([0.1, 1e300]),
    np.array([0.1, 3], np.float32),
    np.array([0.1, 3], np.float16),
    np.array([1, 2], ">i4"),
    np.array(["", "é", "a" * 50, "\ud800"]),
    np.array(["a"], "<U9"),
    np.array([1, "b", 2.5, True], dtype=object),
]


@pytest.mark.parametrize("labels", LABELS, ids=lambda labels: f"{labels.dtype}")
def test_labels_keep_their_dtype(labels):
    decoded = files.decode_labels(json.loads(json.dumps(files.encode_labels(labels))))
    assert decoded.dtype == labels.dtype
    np.testing.assert_array_equal(decoded, labels)
    assert list(map(type, decoded.tolist())) == list(map(type, labels.tolist()))


@pytest.mark.parametrize(
    "labels",
    [np.array([b"a"]), np.array([1j]), np.array(["2020-01-01"], "M8[D]"), np.array([None, "a"]), np.zeros(2, "g")],
    ids=lambda labels: f"{labels.dtype}",
)
def test_labels_that_no_file_can_hold(labels):
    with pytest.raises(ValueError, match="cannot be saved; allowed are bools, integers"):
        files.encode_labels(labels)
    with pytest.raises(ValueError, match="must take at most 67108864 bytes"):
        files.encode_labels(np.zeros(1, "<U20000000"))


# --- going on ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", [0, "instance"])
@pytest.mark.parametrize(
    "settings",
    [
        {"solver": "adam"},
        {"solver": "sgd", "learning_rate": "invscaling", "momentum": 0.5},
        {"solver": "sgd", "learning_rate": "adaptive", "tol": 0.1, "n_iter_no_change": 1, "nesterovs_momentum": False},
    ],
    ids=str,
)
@pytest.mark.parametrize("begin", ["fit", "partial_fit"])
def test_training_goes_on_as_if_never_saved(begin, settings, seed, dtype, path):
    def saved_and_loaded(model):
        model.save(path, optimizer=True)
        return MLPClassifier.load(path)

    def train(between):
        random = np.random.RandomState(0) if seed == "instance" else seed
        model, rows = MLPClassifier(**SETTINGS, random_state=random, **settings), X.astype(dtype)
        model = model.fit(rows, y) if begin == "fit" else model.partial_fit(rows, y, classes=sorted(set(y)))
        for part in (slice(0, 30), slice(30, 60), slice(10, 50)):
            model = between(model).partial_fit(rows[part], y[part])
        return model

    uninterrupted, resumed = train(lambda model: model), train(saved_and_loaded)
    assert weights(resumed) == weights(uninterrupted)
    assert resumed.loss_curve_ == uninterrupted.loss_curve_
    assert (resumed.t_, resumed._no_improvement_count) == (uninterrupted.t_, uninterrupted._no_improvement_count)


@pytest.mark.parametrize("early_stopping", [False, True])
@pytest.mark.parametrize("solver", ["sgd", "adam", "lbfgs"])
def test_warm_start_goes_on(solver, early_stopping, path):
    model = fitted("numbers", solver=solver, early_stopping=early_stopping, warm_start=True)
    model.save(path, optimizer=True)
    resumed = MLPRegressor.load(path).fit(X, SIGNAL)
    assert weights(resumed) == weights(model.fit(X, SIGNAL))


def test_without_the_optimizer_training_goes_on_with_a_new_one(path):
    model = fitted("three classes")
    model.save(path)
    loaded = MLPClassifier.load(path)
    assert weights(loaded) == weights(model)
    assert not hasattr(loaded, "_optimizer")
    assert not hasattr(loaded, "loss_curve_")
    del model._optimizer, model.loss_curve_
    assert weights(loaded.partial_fit(X, y)) == weights(model.partial_fit(X, y))


@pytest.mark.parametrize("target", ["three classes", "numbers"])
def test_skops_holds_an_estimator(target):
    skops_io = pytest.importorskip("skops.io")
    model = fitted(target)
    content = skops_io.dumps(model)
    trusted = [f"{type(model).__module__}.{type(model).__name__}", "fastmlp.optimizer_state.OptimizerState"]
    assert set(skops_io.get_untrusted_types(data=content)) == set(trusted)
    loaded = skops_io.loads(content, trusted=trusted)
    assert weights(loaded.partial_fit(X, TARGETS[target])) == weights(model.partial_fit(X, TARGETS[target]))


# --- the file ------------------------------------------------------------------------------------------------------


def test_the_same_model_gives_the_same_bytes(tmp_path):
    contents = set()
    for i in range(5):
        fitted("three classes", early_stopping=True).save(tmp_path / f"{i}", optimizer=True)
        contents.add((tmp_path / f"{i}").read_bytes())
    assert len(contents) == 1
    fitted("three classes", early_stopping=True).save(tmp_path / "dated", optimizer=True, date="2026-01-01")
    assert (tmp_path / "dated").read_bytes() not in contents


def test_the_header_says_where_a_model_comes_from(path):
    model = fitted("three classes")
    model.save(path, date="2026-01-01")
    wanted = {"fastmlp": fastmlp.__version__, "n_iter": 5, "loss": model.loss_, "random_state": 0, "date": "2026-01-01"}
    header = files.read(path)[0]
    assert header["provenance"] == wanted
    assert header["preprocessing"] is None


@pytest.mark.parametrize("random_state", [0, np.random.RandomState(0)], ids=["int", "instance"])
@pytest.mark.parametrize("optimizer", [False, True])
def test_size_is_the_weights_and_little_more(optimizer, random_state, dtype, path):
    model = fitted("three classes", dtype, max_iter=50, hidden_layer_sizes=(30,) * 10, activation="relu")
    model.random_state = random_state
    model.save(path, optimizer=optimizer)
    copies = 1 + optimizer * len(_core.optimizers()["adam"]["slots"])
    assert path.stat().st_size <= copies * sum(map(len, weights(model))) + 8192


def test_other_programs_read_the_weights(path):
    model = fitted("numbers", "float32")
    model.save(path)
    tensors = safetensors.numpy.load_file(path)
    for i, (coef, intercept) in enumerate(zip(model.coefs_, model.intercepts_, strict=True)):
        np.testing.assert_array_equal(tensors[f"coefs.{i}"], coef, strict=True)
        np.testing.assert_array_equal(tensors[f"intercepts.{i}"], intercept, strict=True)


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_failure_leaves_the_old_file_and_nothing_else(step, path, monkeypatch):
    fitted("numbers").save(path)
    before = path.read_bytes()

    def fail(*arguments):
        raise OSError("no space left")

    monkeypatch.setattr(os, step, fail)
    with pytest.raises(OSError, match="no space left"):
        fitted("three classes").save(path)
    assert path.read_bytes() == before
    assert [file.name for file in path.parent.iterdir()] == [path.name]


@pytest.mark.skipif(os.name == "nt", reason="modes and links of POSIX")
def test_mode_and_link_of_a_file_that_is_replaced(path):
    model, link = fitted("numbers"), path.with_name("link")
    path.write_bytes(b"")
    path.chmod(0o640)
    link.symlink_to(path)
    model.save(link)
    assert link.is_symlink()
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    same(fastmlp.load(path)(X), model.predict(X))


def test_paths_that_are_no_files(tmp_path):
    model = fitted("numbers")
    for load in (fastmlp.load, MLPRegressor.load):
        with pytest.raises(FileNotFoundError, match="nowhere"):
            load(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match="nowhere"):
        model.save(tmp_path / "nowhere" / "model")
    with pytest.raises(OSError, match=re.escape(tmp_path.name)):
        model.save(tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("class_weight", ["balanced", {0: 2.0, np.int64(1): 1, True: 3}, {"a": 1.0, 2: 0.5}, {}])
def test_class_weights_come_back(class_weight, path):
    model = fastmlp.MLPClassifier((2,), max_iter=1000).fit([[0.0], [1.0]], [0, 1])
    model.set_params(class_weight=class_weight).save(path)
    assert fastmlp.MLPClassifier.load(path).class_weight == class_weight


@pytest.mark.parametrize("items", [[[0]], [[[], 1]], [0], 0, [[0, {"set": []}]]])
def test_broken_items_of_a_dict(items):
    with pytest.raises(ValueError, match="objects in parameters must be"):
        files.decode({"items": items})


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"hidden_layer_sizes": range(1, 3)}, r"hidden_layer_sizes=range\(1, 3\) cannot be saved; allowed are None"),
        ({"hidden_layer_sizes": {(1, 2): 3}}, r"hidden_layer_sizes=\{\(1, 2\): 3\} cannot be saved; .*dicts of them"),
        ({"random_state": np.random.RandomState(np.random.PCG64(0))}, "allowed are integers, None and MT19937"),
    ],
)
def test_parameters_that_no_file_can_hold(changed, message, path):
    with pytest.raises(ValueError, match=message):
        fitted("numbers").set_params(**changed).save(path)
    assert not path.exists()


def test_weights_that_are_not_finite_and_dates_that_are_no_text(path):
    model = fitted("numbers")
    with pytest.raises(ValueError, match="date must be a string or None, got 2026"):
        model.save(path, date=2026)
    model.coefs_[0][0, 0] = np.nan
    with pytest.raises(ValueError, match="parameters contains nan"):
        model.save(path)
    assert not path.exists()


def test_without_scikit_learn(path):
    model = fitted("three classes")
    model.save(path, optimizer=True)
    code = (
        "import sys, fastmlp\n"
        "print(*fastmlp.load(sys.argv[1]).predict([[0.0] * 5, [1.0] * 5]))\n"
        "names = 'sklearn', 'scipy', 'pandas', 'pickle', 'fastmlp.schedules'\n"
        "print([name for name in names if name in sys.modules])"
    )
    ran = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True, check=True)
    answers, modules = ran.stdout.splitlines()
    assert answers == " ".join(model.predict([[0.0] * 5, [1.0] * 5]))
    assert "sklearn" not in modules
    assert "schedules" not in modules  # they take longer to import than all else that a model without them needs


# --- files of every version ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", range(1, files.FORMAT_VERSION + 1))
def test_golden_files(version):
    """Kept for ever; see ``golden/make_files.py``. Other machines round otherwise."""
    answers = safetensors.numpy.load_file(GOLDEN / f"version_{version}_answers.safetensors")
    X = answers.pop("X")
    labels = {name.split()[0]: answers.pop(name) for name in list(answers) if name.endswith(" labels")}
    assert len(answers) >= 4
    for name, wanted in answers.items():
        path = GOLDEN / f"version_{version}_{name}.safetensors"
        predictor = fastmlp.load(path)
        np.testing.assert_allclose(predictor(X), wanted, rtol=1e-5 if wanted.dtype == np.float32 else 1e-12)
        estimator = getattr(fastmlp, files.read(path)[0]["estimator"]["class"]).load(path)
        same(estimator.compile()(X), predictor(X))
        if name in labels:
            np.testing.assert_array_equal(predictor.classes_.searchsorted(predictor.predict(X)), labels[name])
        n_losses = len(getattr(estimator, "loss_curve_", []))
        assert n_losses == (0 if estimator.solver == "lbfgs" else estimator.n_iter_)
