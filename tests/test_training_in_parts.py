"""fit, partial_fit, set_params and saving in any order: a saved model goes on exactly like one that never was."""

import copy
import io
import pickle
import tempfile
from pathlib import Path

import joblib
import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from fastmlp import MLPClassifier, MLPRegressor

RANDOM = np.random.RandomState(0)
X = RANDOM.standard_normal((36, 3))
CLASSES = np.array(["a", "b", "c"])[np.arange(36) % 3]
LABELS = (RANDOM.uniform(size=(36, 2)) < 0.5).astype(int)
DATA = {
    "classes": (MLPClassifier, CLASSES),
    "two classes": (MLPClassifier, CLASSES != "a"),
    "labels": (MLPClassifier, LABELS),
    "numbers": (MLPRegressor, X @ [[1.0, 2.0], [0.0, 1.0], [-1.0, 0.5]]),
}
PARTS = {"all": slice(None), "some": slice(5, 23), "one class": slice(0, 36, 3)}


def by_file(model):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.safetensors"
        model.save(path, optimizer=True)
        return type(model).load(path)


def by_joblib(model):
    file = io.BytesIO()
    joblib.dump(model, file)
    file.seek(0)
    return joblib.load(file)


WAYS = {
    "pickle": lambda model: pickle.loads(pickle.dumps(model)),
    "joblib": by_joblib,
    "deepcopy": copy.deepcopy,
    "file": by_file,
}
CHANGES = {
    "warm_start": st.booleans(),
    "early_stopping": st.booleans(),
    "solver": st.sampled_from(["adam", "sgd", "lbfgs", "lion"]),
    "max_iter": st.integers(1, 4),
    "batch_size": st.sampled_from(["auto", 7]),
    "learning_rate": st.sampled_from(["constant", "invscaling", "adaptive", "cosine"]),
    "dropout": st.sampled_from([0.0, 0.5]),
    "ema_decay": st.sampled_from([None, 0.5]),
    "alpha": st.sampled_from([0.0, 0.1]),
    "tol": st.sampled_from([0.0, 10.0]),
}


class Training(RuleBasedStateMachine):
    """Two models that are told the same; the second is saved and loaded now and then."""

    @initialize(kind=st.sampled_from(sorted(DATA)), instance=st.booleans())
    def start(self, kind, instance):
        estimator, self.y = DATA[kind]
        self.kind = kind
        self.models = [
            estimator(
                hidden_layer_sizes=(4,),
                max_iter=3,
                n_iter_no_change=1,
                random_state=np.random.RandomState(5) if instance else 5,
            )
            for _ in range(2)
        ]

    @property
    def fitted(self):
        return hasattr(self.models[0], "coefs_")

    @rule(data=st.data(), name=st.sampled_from(sorted(CHANGES)))
    def set_params(self, data, name):
        value = data.draw(CHANGES[name])
        for model in self.models:
            model.set_params(**{name: value})

    @rule(way=st.sampled_from(sorted(WAYS)))
    def save_and_load(self, way):
        if self.fitted or way != "file":
            self.models[1] = WAYS[way](self.models[1])

    @rule()
    def fit(self):
        model = self.models[0]
        goes_on = self.fitted and model.warm_start
        if model.solver == "lbfgs" and model.dropout:
            return self.refused(lambda model: model.fit(X, self.y), ValueError, "dropout needs a solver")
        seen = model.t_ if goes_on else 0
        for model in self.models:
            model.fit(X, self.y)
        assert 0 <= model.n_iter_ <= model.max_iter
        if model.solver != "lbfgs":
            rows = 32 if model.early_stopping else 36
            assert model.t_ == seen + model.n_iter_ * rows
            assert len(model.loss_curve_) >= model.n_iter_ > 0
            assert len(model.validation_scores_ or []) >= model.n_iter_ * model.early_stopping
            if not goes_on:
                assert len(model.loss_curve_) == model.n_iter_
        return None

    @rule(part=st.sampled_from(sorted(PARTS)))
    def partial_fit(self, part):
        rows, model = PARTS[part], self.models[0]
        named = {} if self.fitted or self.kind == "numbers" else {"classes": np.unique(self.y)}
        if self.kind == "labels" and named:
            named = {"classes": [0, 1]}

        def train(model):
            return model.partial_fit(X[rows], self.y[rows], **named)

        if model.solver == "lbfgs":
            return self.refused(train, AttributeError, "partial_fit")
        if model.early_stopping:
            return self.refused(train, ValueError, "does not support early_stopping")
        before = self.weights(model) if self.fitted else None
        seen, epochs = getattr(model, "t_", 0), len(getattr(model, "loss_curve_", []))
        for model in self.models:
            train(model)
        assert model.n_iter_ == 1
        assert model.t_ == seen + len(X[rows])
        assert len(model.loss_curve_) in (epochs + 1, 1)  # records of early stopping are not gone on with
        assert self.weights(model) != before
        return None

    def refused(self, ask, error, match):
        fitted, before = self.fitted, self.weights(self.models[0]) if self.fitted else None
        for model in self.models:
            with pytest.raises(error, match=match):
                ask(model)
        assert self.fitted == fitted
        if fitted:
            assert self.weights(self.models[0]) == before

    @staticmethod
    def weights(model):
        return [array.tobytes() for array in model.coefs_ + model.intercepts_]

    @invariant()
    @precondition(lambda self: hasattr(self, "models") and self.fitted)
    def both_are_the_same(self):
        first, second = self.models
        assert self.weights(second) == self.weights(first)
        assert all(np.isfinite(array).all() for array in first.coefs_ + first.intercepts_)
        np.testing.assert_array_equal(second.predict(X), first.predict(X))
        assert second.get_params().keys() == first.get_params().keys()
        for name in ("n_iter_", "t_", "loss_", "loss_curve_", "best_loss_", "validation_scores_", "learning_rate_"):
            assert getattr(second, name, None) == getattr(first, name, None), name


@pytest.mark.filterwarnings("ignore:Got `batch_size` less than 1:UserWarning")
def test_any_order():
    run_state_machine_as_test(Training, settings=settings(max_examples=60, stateful_step_count=15, deadline=None))


def test_dropout_may_begin_in_partial_fit():
    weights = []
    for dropout in (0.0, 0.5):
        model = MLPClassifier((4,), max_iter=2, n_iter_no_change=2, random_state=0).fit(X, CLASSES)
        weights.append(model.set_params(dropout=dropout).partial_fit(X, CLASSES).coefs_[0].tobytes())
    assert weights[0] != weights[1]


def test_partial_fit_needs_no_row_of_every_class_with_warm_start():
    model = MLPClassifier((4,), max_iter=2, n_iter_no_change=2, warm_start=True, random_state=0).fit(X, CLASSES)
    some = slice(0, None, 3)
    assert model.partial_fit(X[some], CLASSES[some]).t_ == 2 * 36 + 12
    with pytest.raises(ValueError, match="y` has classes not in"):
        model.partial_fit(X[:1], ["d"])
    with pytest.raises(ValueError, match="warm_start can only be used"):
        model.fit(X[some], CLASSES[some])
