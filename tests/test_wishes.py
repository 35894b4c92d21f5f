"""``docs/wishes.md`` keeps its word: the code of each row runs, and does what the row says.

Tests take their code from the page, under the number in their name; what they assert stands here.
"""

import os
import pickle
import re
import subprocess
import sys

import numpy as np
import pytest
from pages import ROOT, code_in
from sklearn.metrics import log_loss, recall_score

from fastmlp import MLPClassifier, MLPRegressor, cuda_status, load

mpl = pytest.importorskip("matplotlib", reason="row 4 draws a picture")
mpl.use("agg")
from matplotlib import pyplot  # noqa: E402

PAGE = (ROOT / "docs" / "wishes.md").read_text()
INTRODUCTION, *SECTIONS = re.split(r"^## (?=\d)", PAGE, flags=re.MULTILINE)


BEGIN = {}
exec(code_in(INTRODUCTION), BEGIN)


@pytest.fixture
def page(request, tmp_path, monkeypatch):
    """What the code of the row of this test's number has left behind."""
    monkeypatch.chdir(tmp_path)
    number = int(re.search(r"_(\d\d)_", request.node.name)[1])
    names = dict(BEGIN)
    exec(code_in(SECTIONS[number - 1]), names)
    return names


def bits(model):
    return [array.tobytes() for array in model.coefs_ + model.intercepts_]


def test_every_row_has_its_test():
    assert [int(section.split(".")[0]) for section in SECTIONS] == list(range(1, 26))
    for number, section in enumerate(SECTIONS, 1):
        named = re.findall(r"`(test_\d\d_\w+)`", section)
        assert named == [name for name in globals() if name.startswith(f"test_{number:02}_")]
        assert named
        assert code_in(section)
        assert "https://" in section


def test_01_class_weight(page):
    X, y, model = page["X_train"], page["y_train"], page["model"]
    counts = np.bincount(y)
    weights = len(y) / (len(counts) * counts)
    by_hand = MLPClassifier(random_state=0).fit(X, y, sample_weight=weights[y])
    assert bits(model) == bits(by_hand) != bits(MLPClassifier(random_state=0).fit(X, y))
    rare = y == 8
    rare[np.flatnonzero(rare)[::20]] = False
    X, y = X[~rare], y[~rare]
    plain, heard = (MLPClassifier(max_iter=8, class_weight=w, random_state=0).fit(X, y) for w in (None, "balanced"))
    recalls = [recall_score(page["y_val"], m.predict(page["X_val"]), average=None)[8] for m in (plain, heard)]
    assert recalls[1] > recalls[0] + 0.1


def test_02_sample_weight(page):
    X, y = page["X_train"], page["y_train"]
    plain = MLPClassifier(random_state=0).fit(X, y)
    assert bits(MLPClassifier(random_state=0).fit(X, y, sample_weight=np.ones(len(y)))) == bits(plain)
    assert bits(page["model"]) != bits(plain)
    repeats = np.repeat(np.arange(len(y)), page["weights"].astype(int))
    settings = {"solver": "lbfgs", "alpha": 0, "max_iter": 5, "random_state": 0}
    weighted = MLPClassifier(**settings).fit(X, y, sample_weight=page["weights"])
    repeated = MLPClassifier(**settings).fit(X[repeats], y[repeats])
    np.testing.assert_allclose(weighted.predict_proba(X), repeated.predict_proba(X), rtol=1e-6, atol=1e-9)


def test_03_validation_data(page):
    model, grouped = page["model"], page["grouped"]
    assert model.best_validation_score_ == model.score(page["X_val"], page["y_val"]) > 0.95
    rows, others = next(
        page["GroupShuffleSplit"](1, random_state=0).split(page["X_train"], groups=np.arange(1347) // 10)
    )
    X, y = page["X_train"], page["y_train"]
    by_hand = MLPClassifier(early_stopping=True, random_state=0).fit(X[rows], y[rows], X_val=X[others], y_val=y[others])
    np.testing.assert_allclose(grouped.history_["val_loss"], by_hand.history_["val_loss"], rtol=1e-6)


def test_04_validation_loss(page):
    model = page["model"]
    assert [len(model.history_[name]) for name in ("loss", "val_loss", "val_accuracy")] == [30] * 3
    by_hand = log_loss(page["y_val"], model.predict_proba(page["X_val"]))
    assert model.history_["val_loss"][-1] == pytest.approx(by_hand, rel=1e-9)
    assert model.history_["val_accuracy"][-1] == model.score(page["X_val"], page["y_val"])
    assert len(page["axes"]) == 2
    pyplot.close("all")


def test_05_metric_of_early_stopping(page):
    model = page["model"]
    scores = model.history_["val_balanced_accuracy"]
    assert model.best_validation_score_ == scores.max() == scores[model.best_iteration_ - 1]
    assert len(model.history_["val_loss"]) == len(scores)


def test_06_dropout(page):
    assert page["model"].score(page["X_val"], page["y_val"]) > 0.95
    whole = MLPClassifier((100, 50), random_state=0).fit(page["X_train"], page["y_train"])
    assert whole.loss_ < page["model"].loss_  # with all units at work the training data is learned by heart


def test_07_losses(page):
    X, y, median, quantiles = page["X_val"], page["y_val"], page["median"], page["quantiles"].predict(page["X_val"])
    squared = MLPRegressor(random_state=0).fit(page["X_train"], page["y_train"])
    assert np.abs(median.predict(X) - y).mean() < np.abs(squared.predict(X) - y).mean()
    assert (page["custom"].predict(X) > y).mean() + 0.1 < (squared.predict(X) > y).mean()
    assert (np.diff(quantiles, axis=1) >= 0).all()
    assert 0.05 < (y < quantiles[:, 0]).mean() < 0.25 < 0.75 < (y < quantiles[:, 2]).mean() < 0.95


def test_08_activations(page):
    model, X = page["model"], page["X_val"]
    first = model.transform(X, layer=1)
    assert first.min() < 0  # leaky
    z = first @ model.coefs_[1] + model.intercepts_[1]
    np.testing.assert_allclose(model.transform(X), z * np.tanh(np.logaddexp(0, z)), rtol=1e-9, atol=1e-12)
    z = page["positive"].transform(X) @ page["positive"].coefs_[1] + page["positive"].intercepts_[1]
    np.testing.assert_allclose(page["positive"].predict(X), np.logaddexp(0, z[:, 0]), rtol=1e-9)


def test_09_large_scale(page):
    X, y = page["X_train"], page["y_train"]
    alone = MLPClassifier((256, 256), dtype="float32", n_jobs=1, random_state=0)
    for part in np.array_split(np.arange(len(X)), 3):
        alone.partial_fit(X[part], y[part], classes=range(10))
    assert bits(page["model"]) == bits(alone)
    assert page["model"].coefs_[0].dtype == np.float32
    assert page["status"].state == cuda_status().state
    assert page["status"] or bits(page["anywhere"]) == bits(alone)  # without a GPU that is the CPU


def test_10_new_features(page):
    np.testing.assert_allclose(page["ours"].loss_curve_, page["theirs"].loss_curve_, rtol=1e-9)
    assert len(page["ours"].get_params()) > len(page["theirs"].get_params())


def test_11_threads(page):
    assert page["threads"] == 1
    free = MLPClassifier(max_iter=5, random_state=0).fit(page["X_train"], page["y_train"])
    assert bits(page["model"]) == bits(free)


def test_12_same_bits(page):
    assert page["same"]
    assert bits(page["one"]) == bits(page["three"])


def test_13_partial_fit(page):
    model, many = page["model"], page["many"]
    assert model.n_iter_ == 1
    assert model.score(page["X_train"], page["y_train"]) > 0.7
    other = pickle.loads(pickle.dumps(model))
    for one in (model, other):
        one.partial_fit(page["X_train"], page["y_train"])
    assert bits(model) == bits(other)
    assert many.predict(page["X_val"]).shape == (450, 2)
    assert many.loss_curve_[1] < many.loss_curve_[0]


def test_14_warm_start(page):
    curve = page["model"].loss_curve_
    assert len(curve) == 20
    assert curve[10] < curve[9] < curve[0]
    assert page["loaded"].loss_curve_[0] < curve[-1]


def test_15_divergence(page):
    assert re.search(r"non-finite at epoch 1, batch \d+: .* layer .*learning_rate_init", page["message"])
    assert page["model"].score(page["X_val"], page["y_val"]) > 0.8


def test_16_scaling(page):
    model = page["model"]
    assert model.score(page["X_val"] * 1e4, page["y_val"]) > 0.95
    numbers = [np.float32(n) for n in re.findall(r"(-?\d[\d.e+-]*)f\b", page["source"])]
    center = numbers.index(np.float32(model[0].mean_[1]))  # the first pixel is always 0
    np.testing.assert_allclose(numbers[center : center + 63], model[0].mean_[1:], rtol=1e-6)


def test_17_weight_decay(page):
    """Without a gradient a step takes the learning rate times the decay from each weight, for any number of rows."""
    settings = {"solver": "adamw", "alpha": 0, "learning_rate_init": 0.1, "max_iter": 1, "random_state": 0}
    X = np.zeros((40, 3))  # the first layer has no gradient
    for n in (20, 40):
        kept, decayed = (
            MLPRegressor(**settings, weight_decay=decay, batch_size=n).fit(X[:n], X[:n, 0]) for decay in (0, 0.5)
        )
        np.testing.assert_allclose(decayed.coefs_[0], kept.coefs_[0] * (1 - 0.1 * 0.5), rtol=1e-12)
    plain = MLPClassifier(alpha=0, max_iter=30, random_state=0).fit(page["X_train"], page["y_train"])
    assert np.square(page["model"].coefs_[0]).sum() < np.square(plain.coefs_[0]).sum()


def test_18_float32(page):
    assert page["model"].coefs_[0].dtype == page["probabilities"].dtype == np.float32
    single = MLPClassifier(random_state=0).fit(page["X_train"].astype(np.float32), page["y_train"])
    assert bits(single) == bits(page["model"])


def test_19_hidden_layers(page):
    coder, codes = page["coder"], page["codes"]
    assert codes.shape == (450, 8)
    z = np.maximum(codes @ coder.coefs_[2] + coder.intercepts_[2], 0) @ coder.coefs_[3] + coder.intercepts_[3]
    np.testing.assert_allclose(coder.predict(page["X_val"]), z, rtol=1e-9, atol=1e-12)


def test_20_single_rows(page):
    np.testing.assert_array_equal(page["probabilities"], page["model"].predict_proba(page["X_val"])[0])


def test_21_best_weights(page):
    model, losses = page["model"], page["model"].history_["val_loss"]
    assert model.best_iteration_ == losses.argmin() + 1 < len(losses)
    by_hand = log_loss(page["y_val"], model.predict_proba(page["X_val"]))
    assert by_hand == pytest.approx(losses.min(), rel=1e-9) == -model.best_validation_score_
    assert by_hand < losses[-1]


def test_22_early_stopping_in_a_search(page):
    best = page["search"].best_estimator_[1]
    assert page["search"].best_score_ > 0.85
    assert best.n_iter_ < best.max_iter


def test_23_labels_of_validation_data(page):
    model, names = page["model"], page["names"]
    assert model.best_validation_score_ == model.score(page["X_val"], names[page["y_val"]]) > 0.95
    with pytest.raises(ValueError, match="ten"):
        model.fit(page["X_train"], names[page["y_train"]], X_val=page["X_val"][:1], y_val=["ten"])


def test_24_layer_sizes(page):
    results = page["search"].cv_results_
    assert list(results["param_hidden_layer_sizes"]) == [16, "16x2", (16, 8)]
    assert (results["mean_test_score"] > 0.5).all()
    assert MLPClassifier("16x2", max_iter=1).fit(page["X_train"], page["y_train"]).coefs_[1].shape == (16, 16)


def test_25_dependencies(page):
    needed = re.search(r"^dependencies = \[(.*?)\]", (ROOT / "pyproject.toml").read_text(), re.MULTILINE | re.DOTALL)[1]
    assert set(re.findall(r'"([\w-]+)', needed)) == {"numpy", "scikit-learn", "safetensors"}
    np.testing.assert_array_equal(page["predictor"](page["X_val"]), page["model"].predict_proba(page["X_val"]))
    code = "import sys, fastmlp; fastmlp.load('digits.safetensors')([0.0] * 64); print('sklearn' in sys.modules)"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=os.environ)
    assert ran.stdout == "False\n"
    assert load("digits.safetensors").classes_.tolist() == list(range(10))
