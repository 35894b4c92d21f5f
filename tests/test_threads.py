"""Threads change how long training takes, never a bit of its result; and nothing hangs: fork, joblib, Ctrl-C."""

import json
import multiprocessing
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from joblib import Parallel, delayed
from scipy import sparse
from sklearn.base import clone

from fastmlp import MLPClassifier, MLPRegressor

N_JOBS = [1, 2, 3, 5]
PATIENCE = 60  # seconds after which something hangs
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
    "early stopping": (MLPClassifier, 17, (65,), 7, {"solver": "adam", "early_stopping": True}, np.asarray),
    "lbfgs": (MLPClassifier, 65, (17,), 200, {"solver": "lbfgs"}, np.asarray),
    "lbfgs, three targets": (MLPRegressor, 7, (200,), 200, {"solver": "lbfgs", "activation": "tanh"}, np.asarray),
    "sparse": (MLPClassifier, 200, (65,), 64, {"solver": "adam"}, sparse.csr_array),
    "sparse, one neuron": (MLPRegressor, 65, (1, 7), 200, {"solver": "sgd", "momentum": 0.5}, sparse.csr_array),
    "sparse, lbfgs": (MLPRegressor, 64, (17,), 200, {"solver": "lbfgs"}, sparse.csr_array),
}


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


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="this system cannot fork")
@pytest.mark.filterwarnings("ignore:.*use of fork.*:DeprecationWarning")
@pytest.mark.parametrize("shape", ["wide", "lbfgs"])
def test_fork_after_a_fit_with_threads(shape):
    """A forked child has none of its parent's threads: one that waits for them waits for ever."""
    model, X, y, w = make_problem(shape, "float64")
    model.set_params(n_jobs=3).fit(X, y, w)
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe()
    child = context.Process(target=fit_in_child, args=(theirs, shape), daemon=True)
    child.start()
    try:
        assert ours.poll(PATIENCE), "the child hangs"
        assert ours.recv() == result(model, X)
        child.join(PATIENCE)
        assert child.exitcode == 0
    finally:
        child.kill()
    assert result(clone(model).fit(X, y, w), X) == result(model, X)  # and the parent still trains


@pytest.mark.parametrize("backend", ["loky", "threading"])
def test_nested_in_joblib(backend):
    model, X, y, w = make_problem("odd sizes", "float64")
    expected = result(clone(model).fit(X, y, w), X)
    jobs = [delayed(clone(model).set_params(n_jobs=n_jobs).fit)(X, y, w) for n_jobs in N_JOBS]
    for fitted in Parallel(n_jobs=2, backend=backend, timeout=PATIENCE)(jobs):
        assert result(fitted, X) == expected


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
