"""What looks at a training and steers it: functions, bars, time limits, checkpoints, scikit-learn's callbacks."""

import io
import os
import pickle
import signal
import time

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.datasets import load_diabetes, load_iris
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from fastmlp import MLPClassifier, MLPRegressor
from fastmlp.callbacks import Callback, Checkpoint, ProgressBar
from fastmlp.files import ModelFileError

X, y = load_iris(return_X_y=True)
SETTINGS = {"hidden_layer_sizes": (8,), "max_iter": 12, "random_state": 0, "tol": 0, "n_iter_no_change": np.inf}


def same(model, other):
    for array, expected in zip(model.coefs_ + model.intercepts_, other.coefs_ + other.intercepts_, strict=True):
        np.testing.assert_array_equal(array, expected)
    for name, curve in other.history_.items():
        np.testing.assert_array_equal(model.history_[name], curve)
    assert (model.n_iter_, model.t_, model.stopped_) == (other.n_iter_, other.t_, other.stopped_)


class Recorder(Callback):
    def __init__(self):
        self.record = []

    def on_train_begin(self, run):
        self.record.append(("begin", run.n_iter, run.max_iter))

    def on_epoch_end(self, run):
        self.record.append(("epoch", run.n_iter, run.history["loss"][-1], run.estimator.score(X, y)))

    def on_train_end(self, run):
        self.record.append(("end", run.n_iter))


# --- what a callback sees and does -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"solver": "sgd", "learning_rate": "adaptive", "learning_rate_init": 0.1, "tol": 0.01, "n_iter_no_change": 1},
        {"solver": "sgd", "learning_rate": "invscaling", "learning_rate_init": 0.1},
        {"learning_rate": "one_cycle", "solver": "adamw", "ema_decay": 0.9, "batch_size": 20},
        {"learning_rate": "reduce_on_plateau", "solver": "lion", "dropout": 0.2, "normalization": "batch_norm"},
        {"early_stopping": True, "n_iter_no_change": 2, "max_iter": 100, "learning_rate_init": 0.05},
        {"shuffle": False, "dtype": "float32"},
    ],
)
def test_to_look_changes_nothing(settings):
    """Epoch by epoch, training is the same bits as in one piece."""
    plain, recorder = MLPClassifier(**SETTINGS | settings).fit(X, y), Recorder()
    same(MLPClassifier(**SETTINGS | settings, callbacks=recorder).fit(X, y), plain)
    epochs = [entry for entry in recorder.record if entry[0] == "epoch"]
    assert [epoch[1] for epoch in epochs] == [*range(1, plain.n_iter_ + 1)]
    assert [epoch[2] for epoch in epochs] == plain.loss_curve_
    assert recorder.record[0][0] == "begin"
    assert recorder.record[-1] == ("end", plain.n_iter_)


def test_verbose_prints_the_same_lines(capsys):
    settings = SETTINGS | {"solver": "sgd", "learning_rate": "adaptive", "tol": 0.5, "n_iter_no_change": 1}
    MLPClassifier(**settings, verbose=True).fit(X, y)
    expected = capsys.readouterr().out
    MLPClassifier(**settings, verbose=True, callbacks=[lambda run: None]).fit(X, y)
    assert capsys.readouterr().out == expected
    assert "Setting learning rate" in expected


def test_a_callback_sees_the_model_of_its_epoch():
    recorder = Recorder()
    MLPClassifier(**SETTINGS, callbacks=[recorder]).fit(X, y)
    for n, (_, _, _, score) in enumerate(recorder.record[1:-1], 1):
        assert score == MLPClassifier(**{**SETTINGS, "max_iter": n}).fit(X, y).score(X, y)


def test_a_callback_stops():
    model = MLPClassifier(**SETTINGS, callbacks=[lambda run: run.n_iter == 5, lambda run: run.n_iter == 7]).fit(X, y)
    assert (model.n_iter_, model.stopped_) == (5, "callback")
    for array, expected in zip(
        model.coefs_, MLPClassifier(**{**SETTINGS, "max_iter": 5}).fit(X, y).coefs_, strict=True
    ):
        np.testing.assert_array_equal(array, expected)


def test_stopped_early_keeps_the_best():
    settings = {**SETTINGS, "early_stopping": True, "learning_rate_init": 0.05, "max_iter": 60}
    model = MLPClassifier(**settings, callbacks=lambda run: run.n_iter == 30).fit(X, y)
    best = MLPClassifier(**{**settings, "max_iter": model.best_iteration_}).fit(X, y)
    for array, expected in zip(model.coefs_, best.coefs_, strict=True):
        np.testing.assert_array_equal(array, expected)


@pytest.mark.parametrize("error", [ZeroDivisionError, KeyboardInterrupt])
def test_an_error_in_a_callback_loses_nothing(error):
    recorder = Recorder()

    def fail(run):
        if run.n_iter == 3:
            raise error

    model = MLPClassifier(**SETTINGS, callbacks=[recorder, fail])
    if error is KeyboardInterrupt:
        with pytest.warns(UserWarning, match="interrupted by user"):
            model.fit(X, y)
        assert model.stopped_ == "interrupted"
    else:
        with pytest.raises(error):
            model.fit(X, y)
    assert recorder.record[-1] == ("end", 3)
    for array, expected in zip(
        model.coefs_, MLPClassifier(**{**SETTINGS, "max_iter": 3}).fit(X, y).coefs_, strict=True
    ):
        np.testing.assert_array_equal(array, expected)


@pytest.mark.parametrize("callbacks", [3, [3], [Recorder], "loss", [None]])
def test_what_is_no_callback(callbacks):
    with pytest.raises((TypeError, ValueError), match="callbacks"):
        MLPClassifier(**SETTINGS, callbacks=callbacks).fit(X, y)


def test_inside_a_search():
    model = pickle.loads(pickle.dumps(MLPRegressor(**SETTINGS, callbacks=[ProgressBar(file=io.StringIO())])))
    search = GridSearchCV(model, {"alpha": [0.1, 1]}, cv=2).fit(X, y)
    assert search.best_estimator_.n_iter_ == 12
    assert clone(MLPClassifier(callbacks=[Checkpoint("a")])).callbacks[0].path == "a"


def test_progress_bar():
    text = io.StringIO()
    MLPClassifier(**SETTINGS, callbacks=ProgressBar(file=text)).fit(X, y, X_val=X, y_val=y)
    assert "12/12" in text.getvalue()
    assert "val_loss=" in text.getvalue()


# --- time ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("callbacks", [None, [lambda run: None]], ids=["", "epoch by epoch"])
@pytest.mark.parametrize("max_time", [1e-9, 0.2])
def test_max_time(max_time, callbacks):
    settings = {**SETTINGS, "max_iter": 10**9, "max_time": max_time, "callbacks": callbacks}
    with pytest.warns(ConvergenceWarning, match="max_time reached after"):
        model = MLPClassifier(**settings).fit(X, y)
    assert model.stopped_ == "max_time"
    assert len(model.loss_curve_) == model.n_iter_
    assert model.n_iter_ <= 1 if max_time < 0.1 else model.n_iter_ > 1
    assert np.isfinite(model.predict_proba(X)).all()


# --- checkpoints -----------------------------------------------------------------------------------------------------

RESUMED = {
    "adam": {},
    "early stopping": {"early_stopping": True, "eval_metric": "f1_macro", "learning_rate_init": 0.05},
    "schedule and average": {"solver": "adamw", "learning_rate": "cosine", "ema_decay": 0.9, "batch_size": 20},
    "deep": {
        "hidden_layer_sizes": (8, 8),
        "normalization": "batch_norm",
        "dropout": 0.2,
        "residual": True,
        "solver": "lion",
        "learning_rate": "reduce_on_plateau",
    },
    "adaptive": {"solver": "sgd", "learning_rate": "adaptive", "tol": 0.1, "n_iter_no_change": 1, "max_iter": 60},
    "chance": {"random_state": None, "dtype": "float32"},
}


@pytest.mark.parametrize("name", RESUMED)
@pytest.mark.parametrize("stop", [1, 7])
def test_resumed_training_is_uninterrupted_training(tmp_path, name, stop):
    settings, path = SETTINGS | RESUMED[name], tmp_path / "checkpoint"
    np.random.seed(0)
    whole = MLPClassifier(**settings).fit(X, y)
    np.random.seed(0)
    if settings["random_state"] is None:  # the checkpoint keeps the stream, too
        MLPClassifier(**settings, callbacks=[Checkpoint(path, interval=0), lambda run: run.n_iter == stop]).fit(X, y)
        np.random.seed(1)
    else:
        MLPClassifier(**settings, callbacks=[Checkpoint(path), lambda run: run.n_iter == stop]).fit(X, y)
    same(MLPClassifier(**settings, callbacks=[Checkpoint(path)], n_jobs=2).fit(X, y), whole)


def test_a_training_that_had_ended_is_not_repeated(tmp_path):
    recorder, settings = Recorder(), SETTINGS | {"early_stopping": True, "n_iter_no_change": 1, "max_iter": 500}
    callbacks = [Checkpoint(tmp_path / "checkpoint"), recorder]
    first = MLPClassifier(**settings, callbacks=callbacks).fit(X, y)
    n = len(recorder.record)
    same(MLPClassifier(**settings, callbacks=callbacks).fit(X, y), first)
    assert first.stopped_ == "no_improvement"
    assert [kind for kind, *_ in recorder.record[n:]] == ["begin", "end"]


def test_more_epochs_than_before(tmp_path):
    callbacks = [Checkpoint(tmp_path / "checkpoint")]
    MLPClassifier(**{**SETTINGS, "max_iter": 5}, callbacks=callbacks).fit(X, y)
    same(MLPClassifier(**SETTINGS, callbacks=callbacks).fit(X, y), MLPClassifier(**SETTINGS).fit(X, y))


def test_a_checkpoint_of_something_else(tmp_path):
    path = tmp_path / "checkpoint"
    callbacks = [Checkpoint(path, interval=0)]
    model = MLPClassifier(**SETTINGS, callbacks=callbacks).fit(X, y)
    others = [
        lambda: MLPClassifier(**{**SETTINGS, "alpha": 1}, callbacks=callbacks).fit(X, y),
        lambda: MLPClassifier(**SETTINGS, callbacks=callbacks).fit(X + 1e-9, y),
        lambda: MLPClassifier(**SETTINGS, callbacks=callbacks).fit(X, y, sample_weight=np.ones(150)),
        lambda: MLPClassifier(**SETTINGS, callbacks=callbacks).fit(X, y, X_val=X, y_val=y),
        lambda: MLPRegressor(**SETTINGS, callbacks=callbacks).fit(X, y),
    ]
    content = path.read_bytes()
    for other in others:
        with pytest.raises(ModelFileError, match="other data or other parameters"):
            other()
    assert path.read_bytes() == content
    path.write_bytes(content[:-1])
    with pytest.raises(ModelFileError, match="is not a checkpoint"):
        model.fit(X, y)
    model.save(path)
    with pytest.raises(ModelFileError, match="metadata needs 'fastmlp checkpoint'"):
        model.fit(X, y)
    with pytest.raises(ValueError, match="interval"):
        Checkpoint(path, interval=-1)


def test_killed_at_random_moments(tmp_path):
    """A process that is killed, again and again, and begun anew, ends with the bits of one that was left alone."""
    numbers_X, numbers_y = load_diabetes(return_X_y=True)
    settings = {
        "hidden_layer_sizes": (32, 32), "max_iter": 60, "random_state": 0, "early_stopping": True, "dropout": 0.1,
        "normalization": "layer_norm", "solver": "adamw", "learning_rate": "cosine", "n_iter_no_change": np.inf,
        "batch_size": 32,
    }  # fmt: skip
    whole = MLPRegressor(**settings).fit(numbers_X, numbers_y)
    path, random, n_kills = tmp_path / "checkpoint", np.random.RandomState(0), 0
    model = MLPRegressor(**settings, callbacks=[Checkpoint(path, interval=0)])
    while n_kills < 20:
        child = os.fork()
        if child == 0:
            try:
                model.fit(numbers_X, numbers_y)
            finally:
                os._exit(0)
        time.sleep(random.uniform(0, 0.05))
        os.kill(child, signal.SIGKILL)
        n_kills += os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
        if random.uniform() < 0.1:
            path.unlink(missing_ok=True)  # else it would be done before the kills are
    same(model.fit(numbers_X, numbers_y), whole)


# --- scikit-learn's own ----------------------------------------------------------------------------------------------


def test_scikit_learn_callbacks():
    pytest.importorskip("sklearn.callback")
    from sklearn.callback import ScoringMonitor

    monitor = ScoringMonitor(scoring="accuracy")
    model = MLPClassifier(**SETTINGS).set_callbacks(monitor)
    plain = MLPClassifier(**SETTINGS).fit(X, y)
    same(model.fit(X, y), plain)
    log = monitor.get_logs().data_as_pandas
    scores = [MLPClassifier(**{**SETTINGS, "max_iter": n}).fit(X, y).score(X, y) for n in range(1, 13)]
    np.testing.assert_array_equal(log[log.task_name == "epoch"].accuracy, scores)
    same(make_pipeline(model.set_callbacks(monitor)).fit(X, y)[-1], plain)
    assert not hasattr(model, "_callback_fit_ctx")


def test_scikit_learn_callbacks_stop_and_nest():
    pytest.importorskip("sklearn.callback")

    class Stop:
        max_propagation_depth = None

        def __init__(self):
            self.record = []

        def setup(self, estimator, context):
            self.record.append("setup")

        def teardown(self, estimator, context):
            self.record.append("teardown")

        def on_fit_task_begin(self, estimator, context):
            pass

        def on_fit_task_end(self, estimator, context, *, fitted_estimator=None):
            self.record.append((context.task_name, context.task_id))
            return context.task_name == "epoch" and context.task_id == 2

    stop = Stop()
    model = MLPClassifier(**SETTINGS)
    make_pipeline(StandardScaler(), model).set_callbacks(stop).fit(X, y)
    assert (model.n_iter_, model.stopped_) == (3, "callback")
    assert [entry for entry in stop.record if entry[0] == "epoch"] == [("epoch", 0), ("epoch", 1), ("epoch", 2)]
    assert (stop.record[0], stop.record[-1]) == ("setup", "teardown")
