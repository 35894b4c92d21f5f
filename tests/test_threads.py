"""Threads change how long training takes, never a bit of its result; and nothing hangs: fork, joblib, Ctrl-C."""

import json
import math
import multiprocessing
import os
import subprocess
import sys
import sysconfig
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from joblib import Parallel, delayed
from scipy import sparse
from sklearn.base import clone
from test_trainer import generator, new_slots, options

from fastmlp import MLPClassifier, MLPRegressor, _core

N_JOBS = [1, 2, 3, 5]
PATIENCE = 60  # seconds after which something hangs
LEVELS = {"quantile": [0.1, 0.5, 0.9]}
# model, features, hidden layers, batch, further settings, kind of rows. Sizes around those at which kernels change
# their ways: 1, a few more or fewer than a vector or a panel, and large enough that threads have something to share.
SHAPES = {
    "one of everything": (MLPRegressor, 1, (1,), 1, {"solver": "sgd"}, np.asarray),
    "no hidden layer": (MLPClassifier, 17, (), 64, {"solver": "sgd"}, np.asarray),
    "rows one by one": (MLPClassifier, 7, (17, 2), 1, {"solver": "adam"}, np.asarray),
    "odd sizes": (MLPClassifier, 65, (7, 65, 1, 17), 64, {"solver": "adam"}, np.asarray),
    "whole panels": (MLPRegressor, 64, (64, 64), 64, {"solver": "sgd", "activation": "tanh"}, np.asarray),
    "wide": (MLPClassifier, 200, (200, 200), 200, {"solver": "adam"}, np.asarray),
    "wide, odd batch": (MLPRegressor, 200, (65, 200), 7, {"solver": "sgd", "activation": "logistic"}, np.asarray),
    "poisson": (MLPRegressor, 17, (65,), 64, {"solver": "adam", "loss": "poisson"}, np.asarray),
    "quantiles": (MLPRegressor, 17, (65,), 64, {"loss": "quantile", "loss_parameters": LEVELS}, sparse.csr_array),
    "variance, three targets": (
        MLPRegressor,
        17,
        (65,),
        64,
        {"loss": "gaussian_nll", "early_stopping": True},
        np.asarray,
    ),
    "early stopping": (MLPClassifier, 17, (65,), 7, {"solver": "adam", "early_stopping": True}, np.asarray),
    "lbfgs": (MLPClassifier, 65, (17,), 200, {"solver": "lbfgs"}, np.asarray),
    "lbfgs, three targets": (MLPRegressor, 7, (200,), 200, {"solver": "lbfgs", "activation": "tanh"}, np.asarray),
    "sparse": (MLPClassifier, 200, (65,), 64, {"solver": "adam"}, sparse.csr_array),
    "sparse, one neuron": (MLPRegressor, 65, (1, 7), 200, {"solver": "sgd", "momentum": 0.5}, sparse.csr_array),
    "sparse, lbfgs": (MLPRegressor, 64, (17,), 200, {"solver": "lbfgs"}, sparse.csr_array),
}


@pytest.fixture(autouse=True)
def _as_many_threads_as_asked_for():
    """However busy the machine is: else these tests would compare one thread with one thread."""
    _core.set_steady_threads(True)
    yield
    _core.set_steady_threads(False)


def make_problem(shape, dtype):
    """A model of few epochs, rows of which 60 % are zeros, targets and weights."""
    model, n_features, hidden, batch, settings, rows = SHAPES[shape]
    rng = np.random.RandomState(len(shape))
    X = (rng.standard_normal((211, n_features)) * (rng.uniform(size=(211, n_features)) > 0.6)).astype(dtype)
    scores = X @ rng.standard_normal((n_features, 3)).astype(dtype)
    y = scores.argmax(axis=1) if model is MLPClassifier else np.abs(scores[:, : 1 + 2 * ("three" in shape)])
    settings = {"hidden_layer_sizes": hidden, "batch_size": batch, "max_iter": 3, "random_state": 5} | settings
    return model(**settings), rows(X), np.squeeze(y), rng.uniform(0.5, 2, size=211)


def bits(arrays):
    return [(array.dtype.str, array.shape, array.tobytes()) for array in map(np.asarray, arrays)]


def result(model, X):
    """All that training leaves, down to the last bit."""
    curves = [getattr(model, name, None) or [] for name in ("loss_curve_", "validation_scores_")]
    predictions = [model.predict(X)] + ([model.predict_proba(X)] if hasattr(model, "predict_proba") else [])
    return bits([*model.coefs_, *model.intercepts_, *curves, model.loss_, *predictions])


# --- the same bits -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("shape", SHAPES)
def test_same_bits_for_any_number_of_threads(shape, dtype):
    model, X, y, w = make_problem(shape, dtype)
    alone, *others = [clone(model).set_params(n_jobs=n_jobs).fit(X, y, w) for n_jobs in [*N_JOBS, -1, None]]
    assert alone.coefs_[0].dtype == dtype
    for other in others:
        assert result(other, X) == result(alone, X)


@pytest.mark.parametrize("shape", ["odd sizes", "sparse", "wide, odd batch"])
def test_same_bits_for_partial_fit(shape):
    """The number of threads may even change between two calls."""
    model, X, y, w = make_problem(shape, "float64")
    classes = {"classes": np.unique(y)} if isinstance(model, MLPClassifier) else {}
    steady, changing = clone(model).set_params(n_jobs=1), clone(model)
    for n_jobs in N_JOBS:
        steady.partial_fit(X, y, w, **classes)
        changing.set_params(n_jobs=n_jobs).partial_fit(X, y, w, **classes)
    assert result(changing, X) == result(steady, X)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("shape", SHAPES)
def test_prediction_of_a_row_does_not_depend_on_its_batch(shape, dtype):
    model, X, y, _ = make_problem(shape, dtype)
    model.set_params(max_iter=1).fit(X, y)
    predict = getattr(model, "predict_proba", model.predict)
    whole, order = predict(X), np.random.RandomState(0).permutation(211)
    assert bits([predict(X[order])]) == bits([whole[order]])
    for size in [1, 2, 3, 7, 16, 64, 65]:
        some = range(0, 211, size)[:20]
        assert bits([np.concatenate([predict(X[i : i + size]) for i in some])]) == bits([whole[: some[-1] + size]])
    for n_jobs in N_JOBS:
        assert bits([getattr(model.set_params(n_jobs=n_jobs), predict.__name__)(X)]) == bits([whole])


# --- side by side --------------------------------------------------------------------------------------------------


def test_fits_in_two_python_threads_at_once():
    problems = [make_problem(shape, "float64") for shape in ("wide", "odd sizes", "sparse", "lbfgs")]
    alone = [result(clone(model).fit(X, y, w), X) for model, X, y, w in problems]
    with ThreadPoolExecutor(len(problems)) as pool:
        fitted = list(pool.map(lambda problem: clone(problem[0]).set_params(n_jobs=2).fit(*problem[1:]), problems))
    assert [result(model, X) for model, (_, X, _, _) in zip(fitted, problems, strict=True)] == alone


def test_one_model_predicts_in_many_python_threads_at_once():
    model, X, y, w = make_problem("wide", "float64")
    expected = bits([model.fit(X, y, w).predict_proba(X)])
    with ThreadPoolExecutor(4) as pool:
        assert all(bits([proba]) == expected for proba in pool.map(model.predict_proba, [X] * 20))


def fit_in_child(connection, shape):
    model, X, y, w = make_problem(shape, "float64")
    connection.send(result(model.set_params(n_jobs=3).fit(X, y, w), X))


def result_in_child(shape):
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe()
    child = context.Process(target=fit_in_child, args=(theirs, shape), daemon=True)
    child.start()
    try:
        assert ours.poll(PATIENCE), "the child hangs"
        received = ours.recv()
        child.join(PATIENCE)
        assert child.exitcode == 0
    finally:
        child.kill()
    return received


fork = pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="this system cannot fork")
may_fork = pytest.mark.filterwarnings("ignore:.*use of fork.*:DeprecationWarning")


@fork
@may_fork
@pytest.mark.parametrize("shape", ["wide", "lbfgs"])
def test_fork_after_a_fit_with_threads(shape):
    """A forked child has none of its parent's threads: one that waits for them waits for ever."""
    model, X, y, w = make_problem(shape, "float64")
    model.set_params(n_jobs=3).fit(X, y, w)
    assert result_in_child(shape) == result(model, X)
    assert result(clone(model).fit(X, y, w), X) == result(model, X)  # and the parent still trains


@fork
@may_fork
def test_fork_while_another_thread_trains():
    model, X, y, w = make_problem("wide", "float64")
    model.set_params(n_jobs=2, max_iter=300, tol=0, n_iter_no_change=300)
    with ThreadPoolExecutor(1) as pool:
        training = pool.submit(model.fit, X, y, w)
        children = [result_in_child("wide") for _ in range(3)]
        assert not training.done(), "train for longer: nothing ran beside the children"
    alone, _, _, _ = make_problem("wide", "float64")
    assert children == [result(alone.fit(X, y, w), X)] * 3
    assert result(clone(model).set_params(n_jobs=1).fit(X, y, w), X) == result(training.result(), X)


@pytest.mark.parametrize("backend", ["loky", "threading"])
def test_nested_in_joblib(backend):
    model, X, y, w = make_problem("odd sizes", "float64")
    expected = result(clone(model).fit(X, y, w), X)
    jobs = [delayed(clone(model).set_params(n_jobs=n_jobs).fit)(X, y, w) for n_jobs in N_JOBS]
    for fitted in Parallel(n_jobs=2, backend=backend, timeout=PATIENCE)(jobs):
        assert result(fitted, X) == expected


@pytest.mark.skipif(not sysconfig.get_config_var("Py_GIL_DISABLED"), reason="this Python has its global lock")
def test_importing_does_not_bring_the_global_lock_back():
    assert not sys._is_gil_enabled()


# --- how many ------------------------------------------------------------------------------------------------------

# Prints how many threads compute: of a fit with hardly any work, and of one with much.
COUNT_THREADS = """
import os, sys
from contextlib import nullcontext
import fastmlp._core  # threadpoolctl limits the libraries that it finds loaded
from joblib import Parallel, delayed, parallel_config
from threadpoolctl import threadpool_limits

def count():
    import os
    import numpy as np
    from fastmlp import MLPRegressor
    X = np.random.RandomState(0).standard_normal((300, 256)).astype("float32")
    counts = []
    for n in (1, 1, 256):
        before = len(os.listdir("/proc/self/task"))
        MLPRegressor(hidden_layer_sizes=(n, n), batch_size=n + 1, solver="sgd", max_iter=1).fit(X[:, :n], X[:, 0])
        counts.append(1 + len(os.listdir("/proc/self/task")) - before)
    print(*counts[1:], flush=True)

limit = sys.argv[1:]
if limit[:1] == ["affinity"]:
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
if limit[:1] == ["loky"]:
    with parallel_config("loky", inner_max_num_threads=int(limit[1])):
        Parallel(n_jobs=2)(delayed(count)() for _ in range(1))
else:
    with threadpool_limits(1) if limit[:1] == ["threadpoolctl"] else nullcontext():
        count()
"""
N_PROCESSORS = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1
several_processors = pytest.mark.skipif(N_PROCESSORS < 2, reason="one processor leaves nothing to choose")


def count_threads(*limit, **environment):
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("OMP_")}
    command = [sys.executable, "-W", "ignore", "-c", COUNT_THREADS, *limit]
    child = subprocess.run(
        command, capture_output=True, text=True, timeout=PATIENCE, check=True, env=inherited | environment
    )
    return [int(n) for n in child.stdout.split()]


@several_processors
@pytest.mark.parametrize(
    ("limit", "environment", "n_threads"),
    [
        ((), {}, N_PROCESSORS),
        ((), {"OMP_NUM_THREADS": "1"}, 1),
        ((), {"OMP_NUM_THREADS": "100"}, N_PROCESSORS),
        ((), {"OMP_THREAD_LIMIT": "1"}, 1),
        (("affinity",), {}, 1),
        (("threadpoolctl",), {}, 1),
        (("loky", "1"), {}, 1),
        (("loky", "2"), {}, 2),
    ],
    ids=str,
)
def test_automatic_choice_of_threads(limit, environment, n_threads):
    quota = _core.processor_quota()
    n_threads = min(n_threads, math.ceil(quota)) if math.isfinite(quota) else n_threads
    assert count_threads(*limit, **environment) == [1, n_threads]


def control_groups(root, mounts, own, files):
    """Write what Linux tells of its control groups below ``root``."""
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/mountinfo").write_text("".join(f"{line}\n" for line in mounts))
    (root / "proc/self/cgroup").write_text("".join(f"{line}\n" for line in own))
    for name, text in files.items():
        path = root / "sys/fs/cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{text}\n")


DISK = "22 1 254:1 / / rw,relatime shared:1 - ext4 /dev/vda1 rw"
UNIFIED = "30 22 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate"
HYBRID = "41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw"
FIRST = "32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct"
CONTAINER = "32 31 0:29 /docker/af01 /sys/fs/cgroup/cpu,cpuacct ro master:11 - cgroup cgroup rw,cpu,cpuacct"
CPUSET = "33 31 0:31 / /sys/fs/cgroup/cpuset rw - cgroup cgroup rw,cpuset"
JOB = "7:cpu,cpuacct:/batch/job"


@pytest.mark.parametrize(
    ("mounts", "own", "files", "quota"),
    [
        ([DISK, UNIFIED], ["0::/a/b"], {"cpu.weight": "100"}, math.inf),
        ([DISK, UNIFIED], ["0::/"], {"cpu.max": "150000 100000"}, 1.5),
        ([DISK, UNIFIED], ["0::/a/b"], {"a/b/cpu.max": "max 100000", "a/cpu.max": "max 100000"}, math.inf),
        ([DISK, UNIFIED], ["0::/a/b"], {"a/b/cpu.max": "25000 50000", "a/cpu.max": "100000 100000"}, 0.5),
        ([DISK, UNIFIED], ["0::/a/b"], {"a/b/cpu.max": "max 100000", "a/cpu.max": "300000 100000"}, 3),
        ([DISK, UNIFIED], ["0::/host/af01"], {"cpu.max": "200000 100000"}, 2),
        ([FIRST], [JOB], {"cpu,cpuacct/batch/job/cpu.cfs_quota_us": "-1"}, math.inf),
        ([FIRST], [JOB], {"cpu,cpuacct/batch/cpu.cfs_quota_us": "70000"}, 0.7),
        ([FIRST, CPUSET], ["9:cpuset:/x", JOB], {"cpu,cpuacct/batch/job/cpu.cfs_quota_us": "400000"}, 4),
        ([FIRST, HYBRID], [JOB, "0::/x"], {"cpu,cpuacct/batch/job/cpu.cfs_quota_us": "250000"}, 2.5),
        ([CONTAINER], ["7:cpu,cpuacct:/docker/af01"], {"cpu,cpuacct/cpu.cfs_quota_us": "120000"}, 1.2),
        ([CONTAINER], ["7:cpu,cpuacct:/docker/af01/x"], {"cpu,cpuacct/x/cpu.cfs_quota_us": "130000"}, 1.3),
        ([DISK], [], {}, math.inf),
    ],
)
def test_quota_of_control_groups(tmp_path, mounts, own, files, quota):
    periods = {name.replace("quota", "period"): "100000" for name in files if "quota" in name}
    control_groups(tmp_path, mounts, own, files | periods)
    assert _core.processor_quota(str(tmp_path)) == pytest.approx(quota)


def test_quota_without_control_groups(tmp_path):
    assert _core.processor_quota(str(tmp_path)) == math.inf


@several_processors
@pytest.mark.parametrize(("microseconds", "n_threads"), [(50_000, 1), (150_000, 2)])
def test_a_quota_of_this_machine_limits_the_threads(microseconds, n_threads):
    """Rounded up: one and a half processors are more than one, see docs/design/0008."""
    group = Path("/sys/fs/cgroup/cpu/fastmlp_test")
    try:
        group.mkdir()
    except OSError:
        pytest.skip("control groups of version 1 cannot be made here")
    try:
        (group / "cpu.cfs_period_us").write_text("100000")
        (group / "cpu.cfs_quota_us").write_text(str(microseconds))
        enter = f"open('{group}/cgroup.procs', 'w').write('0')"
        code = f"{enter}; from fastmlp import _core; print(_core.processor_quota(), _core.config()['threads'])"
        child = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    finally:
        group.rmdir()
    assert child.stdout.split() == [str(microseconds / 100_000), str(n_threads)]


# --- the floating-point mode ---------------------------------------------------------------------------------------


def keeps_denormals():
    return np.float32(1e-40) * np.float32(0.5) != 0


def test_numpy_keeps_its_denormals():
    """Training flushes them to 0; whoever called it must not notice, whichever way it ends."""
    assert keeps_denormals()
    network = _core.Network([3, 40, 1], ["relu"], "squared_error")
    seen = []

    def interrupt(*_):
        seen.append(keeps_denormals())
        raise ZeroDivisionError

    X, y = np.ones((64, 3), np.float32), np.ones((64, 1), np.float32)
    for n_threads in (1, 2):
        flat = np.full(network.n_parameters, 0.1, np.float32)
        engine, slots = _core.Engine(network, "float32", n_threads), new_slots("adam", flat)
        with pytest.raises(ZeroDivisionError):
            engine.train(flat, slots, X, y, None, None, None, generator(), options(score="r2"), interrupt)
        seen.append(keeps_denormals())
    assert seen == [True] * 4


# --- Ctrl-C --------------------------------------------------------------------------------------------------------

INTERRUPTED_FIT = """
import json, os, signal, sys, threading, warnings
import numpy as np
from fastmlp import MLPRegressor

X = np.random.RandomState(0).standard_normal((400, 20))
model = MLPRegressor(**json.loads(sys.argv[1]), hidden_layer_sizes=(50,), random_state=0, max_iter=10**8)
threading.Timer(1, os.kill, (os.getpid(), signal.SIGINT)).start()
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    model.fit(X, X[:, 0])
epochs = [model.n_iter_, len(model.loss_curve_)]
score = model.score(X, X[:, 0])
if not model.early_stopping:
    epochs.append(len(model.partial_fit(X, X[:, 0]).loss_curve_) - 1)
print(json.dumps({"said": [str(w.message) for w in caught], "epochs": epochs, "score": score}))
"""


@pytest.mark.skipif(os.name == "nt", reason="signals work differently on Windows")
@pytest.mark.parametrize("settings", [{}, {"verbose": True}, {"early_stopping": True}], ids=str)
def test_ctrl_c_keeps_the_model(settings):
    """The alarm is another Python thread: it rings only if training lets go of the interpreter."""
    settings = {"tol": 0, "n_iter_no_change": 10**9, "n_jobs": 2} | settings
    command = [sys.executable, "-c", INTERRUPTED_FIT, json.dumps(settings)]
    child = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert child.returncode == 0, child.stderr
    left = json.loads(child.stdout.splitlines()[-1])
    assert left["said"] == ["Training interrupted by user."]
    assert left["epochs"][0] >= 1
    assert len(set(left["epochs"])) == 1
    assert left["score"] > 0.9
