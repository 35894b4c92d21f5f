"""The lessons, in their reduced form: each runs, prints and draws, and what it claims is so.

A lesson without a check here is still run. A check gets the names that the lesson leaves behind.
"""

import gzip
import json
import subprocess
import sys
from unittest import mock

import numpy as np
import pytest

pytest.importorskip("matplotlib", reason="lessons draw with matplotlib")
import matplotlib as mpl

from fastmlp import Network
from fastmlp.examples import __main__ as runner
from fastmlp.examples import blocks, data, quick
from fastmlp.examples.report import Lesson, html, prose

CHECKS = {}


def check(function):
    """Register the check of the lesson that has the function's name, after ``lesson_``."""
    CHECKS[function.__name__.removeprefix("lesson_")] = function
    return function


@pytest.fixture(autouse=True)
def reduced(monkeypatch):
    """Quick, no data but scikit-learn's own, no network."""
    monkeypatch.setenv("FASTMLP_QUICK", "1")
    monkeypatch.delenv("FASTMLP_DATA", raising=False)


@pytest.mark.parametrize("path", runner.paths(), ids=runner.name_of)
def test_lesson(path):
    names = {}
    with mpl.rc_context():
        ran = blocks.run(path, names)
    assert not any(block.error for block in ran), "".join(block.error for block in ran)
    assert any(block.pictures for block in ran)
    assert any(block.printed for block in ran)
    assert all(block.prose for block in ran)
    CHECKS.get(runner.name_of(path), lambda names: None)(names)


def test_every_check_has_its_lesson():
    assert set(CHECKS) <= {runner.name_of(path) for path in runner.paths()}


@pytest.mark.parametrize("path", runner.paths(), ids=runner.name_of)
def test_lessons_are_short(path):
    assert len(path.read_text().splitlines()) <= 140


@check
def lesson_1a_function_set(names):
    """The worked numbers, to the two digits with which they can be followed by hand."""
    layers = [np.round(layer, 2).tolist() for layer in names["layers"]]
    assert layers == [
        [[1, -1], [0, 0]],
        [[0.98, 0.12], [0.73, 0.5]],
        [[0.86, 0.11], [0.72, 0.12]],
        [[0.62, 0.83], [0.51, 0.85]],
    ]
    ours, theirs = names["solutions"].values()
    np.testing.assert_allclose(ours, theirs, rtol=1e-4)


@check
def lesson_1b_matrix_products(names):
    assert max(names["differences"].values()) < 1e-5
    assert names["medians"]["Python, neuron by neuron"] > names["medians"]["NumPy, matrix products"]


@check
def lesson_2_hidden_layers(names):
    before, after = names["straight"].values()
    assert before < 0.9
    assert after > 0.97
    means = names["errors"]["nearest mean"].mean(axis=0)
    assert means[1:].max() < means[0]


@check
def lesson_3a_semeion(names):
    assert set(names["accuracy"]) == set(names["seconds"]) == set(names["contestants"])
    assert names["accuracy"]["fastmlp"] == pytest.approx(names["accuracy"]["scikit-learn MLP"], abs=0.02)
    assert names["table"].sum() == names["read"].sum()
    assert names["y"][names["shown"]["surest 2 that is none"]] != 2


@check
def lesson_3b_usps(names):
    images = names["X_train"][:50]
    np.testing.assert_allclose(names["deform"](images, affine=0, elastic=0), images, atol=1e-5)
    moved = names["deform"](images)
    assert moved.shape == images.shape
    assert 0.02 < np.abs(moved - images).mean() < 0.3
    assert names["errors"]["their vote"] <= max(list(names["errors"].values())[3:6])


@check
def lesson_4a_cross_entropy(names):
    assert names["before"] == pytest.approx(np.log(10), abs=0.3)
    net, X, y = names["net"], names["X"], names["y"]
    assert names["total"] / len(y) == pytest.approx(net.loss(X, y))
    assert net.loss(X, y) < names["before"]


@check
def lesson_4b_squared_error(names):
    assert names["slopes"]["cross-entropy"] > 20 * names["slopes"]["squared error"]
    z, derivatives = names["sums"], names["derivatives"]
    p = 1 / (1 + np.exp(-z))
    np.testing.assert_allclose(derivatives["cross-entropy"], 1 - p, atol=1e-12)
    np.testing.assert_allclose(derivatives["squared error"], (1 - p) * p * (1 - p), atol=1e-12)
    ends = {name: accuracy[-1] for name, (_, accuracy) in names["races"].items()}
    assert ends["cross-entropy"] > ends["squared error"]


@check
def lesson_5a_gradient_descent(names):
    creeps, arrives, jumps = names["ends"].values()
    assert names["surface"].min() * 0.99 < arrives < min(creeps, jumps)
    path = names["path"]
    start, end = (names["loss_at"](names["net"], place, names["X"], names["y"]) for place in (path[0], path[-1]))
    assert end < start


@check
def lesson_5b_backpropagation(names):
    assert names["differences"]["central_differences"] < 1e-8
    assert max(names["differences"].values()) < 1e-8


@check
def lesson_5c_optimizers(names):
    assert set(names["winners"]) == set(names["racers"])
    assert all(model.n_iter_ == names["epochs"] for model in names["winners"].values())


@check
def lesson_6a_folding(names):
    """Weights set by hand: n folds are 2^n pieces, exactly, with 6 n + 1 parameters."""
    x = names["x"]
    for times, y in names["folded"].items():
        for _ in range(times):
            x = 1 - np.abs(2 * x - 1)
        np.testing.assert_array_equal(y, x)
        assert names["pieces"][times] == 2**times
        assert names["folding"](times).n_parameters == 6 * times + 1
        x = names["x"]


@check
def lesson_6b_deeper_or_fatter(names):
    """One neuron more in each layer would exceed the price; trained in full, depth wins where functions are nested."""
    for task, budget in names["BUDGETS"].items():
        X = names["learn_and_test"][task][0]
        n_outputs = 1 if task == "made of functions" else 10
        for depth, price in names["STRUCTURES"]:
            width = names["widest"](task, depth, price)
            cheap, dear = (Network([X.shape[1], *[n] * depth, n_outputs]).n_parameters for n in (width, width + 1))
            assert cheap <= price * budget < dear
    with mock.patch.dict("os.environ", FASTMLP_QUICK="0"):
        flat, deep = (names["trial"]("made of functions", (depth, 1), 0.01, 0)[1] for depth in (1, 4))
    assert deep < 0.3 < 0.55 < flat


@check
def lesson_7_universality(names):
    """Slope -2 for what is smooth, -1 at the cusp; four times the waves need four times the neurons."""
    drawn = names["drawn"]
    for name, slope in (("one wave", -2), ("a cusp", -1)):
        assert abs(np.polyfit(np.log(names["WIDTHS"]), np.log(drawn[name]), 1)[0] - slope) < 0.05
    np.testing.assert_allclose(drawn["four waves"][2:], drawn["one wave"][:-2], rtol=0.01)
    for name, error in names["improved"].items():
        assert (error <= drawn[name] * (1 + 1e-12)).all()
    assert all(error.shape == drawn["a cusp"].shape for error in names["trained"].values())


@check
def lesson_8_152_layers(names):
    """Gradients vanish and explode, images grow alike; with residual and normalisation neither, and the loss falls."""
    first = {kind: gradient[0] for kind, gradient in names["gradients"].items()}
    last = {kind: difference[-1] for kind, difference in names["differences"].items()}
    assert first["logistic"] < 1e-100 < first["relu"] < 1e-20
    assert first["relu, residual"] > 1e9
    both = "relu, residual + normalised"
    assert 0.1 < names["gradients"][both].max() / names["gradients"][both].min() < 100
    assert last[both] > 0.2
    assert all(last[kind] < 0.02 for kind in ("logistic", "relu", "relu, He's weights", "relu, normalised"))
    losses = {kind: model.loss_ for kind, model in names["fits"].items()}
    assert losses.pop(both) < 0.9 * min(losses.values())
    assert names["fit"](both, 0.003, 30).score(names["X_test"], names["y_test"]) >= 0.95


@check
def lesson_9_how_many(names):
    """Both libraries make the same networks of the same trials."""
    assert len(names["models"]) == len(names["DEPTHS"]) * len(names["WIDTHS"]) * len(names["SEEDS"])
    scores = names["scores"]
    for depth, width in names["PART"]:
        assert abs(scores[depth, width, "fastmlp"] - scores[depth, width, "scikit-learn"]) < 0.02
    assert names["means"].min() == names["means"][names["i"], names["j"]]


def write(folder, text):
    path = folder / "plot_0_try.py"
    path.write_text(text)
    return path


def test_blocks_keep_what_a_lesson_prints_and_draws(tmp_path):
    path = write(
        tmp_path,
        '"""\nTitle\n=====\n\nText.\n"""\n\nimport matplotlib.pyplot as plt\n\n# %%\n# Part\n# ----\n# More.\n'
        "print(6 * 7)\nplt.figure()\nplt.figure()\n"
        "# %%\n# The error:\nprint('before')\n1 / 0\n# %%\n# Never.\nprint('after')\n",
    )
    from matplotlib import pyplot

    of_others = pyplot.figure()
    first, part, wrong, last = blocks.run(path)
    assert pyplot.fignum_exists(of_others.number)
    pyplot.close(of_others)
    assert first.prose == "Title\n=====\n\nText."
    assert (part.prose, part.printed, len(part.pictures)) == ("Part\n----\nMore.", "42\n", 2)
    assert (wrong.printed, wrong.error[-34:]) == ("before\n", "ZeroDivisionError: division by zero\n"[-34:])
    assert f'"{path}", line 20' in wrong.error
    assert (last.prose, last.printed) == ("Never.", "")
    page = html([Lesson("0_try", [first, part, wrong, last], 1.0)], quick=True)
    assert page.count('<img alt="" width="614"') == 2  # 6.4 inches
    assert all(text in page for text in ("<h2>Title</h2>", "<h3>Part</h3>", "42", "division by zero", "reduced form"))
    with pytest.raises(ValueError, match="must begin with a docstring"):
        blocks.split("x = 1")


def test_prose():
    assert prose("A ``b < c`` of *all* `that <https://x.org>`_, :class:`~fastmlp.Network`::\n\n    x * y * z") == (
        '<p>A <code>b &lt; c</code> of <em>all</em> <a href="https://x.org">that</a>, <code>Network</code>:</p>'
        "<pre>x * y * z</pre>"
    )
    assert prose("*i* is *not j*, x*y*z **so**") == "<p><em>i</em> is <em>not j</em>, x*y*z <strong>so</strong></p>"
    assert prose("- one\n- two\n  more") == "<ul><li>one\n</li><li>two\n  more</li></ul>"


def test_the_runner(tmp_path):
    command = [
        sys.executable,
        "-m",
        "fastmlp.examples",
        "1b",
        "--quick",
        "--verbose",
        "--output",
        str(tmp_path / "new"),
    ]
    ran = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "1b_matrix_products" in ran.stdout
    assert "neuron by neuron" in ran.stdout
    assert "<img " in (tmp_path / "new" / "report.html").read_text()


def test_a_lesson_that_fails(tmp_path, monkeypatch, capsys):
    lesson = write(tmp_path, '"""Title"""\nimport os\nos._exit(3)\n')
    monkeypatch.setattr(runner, "FOLDER", tmp_path)
    assert runner.main(["--output", str(tmp_path)]) == 1
    assert "FAILED" in capsys.readouterr().out
    assert "ended with 3" in (tmp_path / "report.html").read_text()
    lesson.write_text('"""Title"""\nraise ValueError("wrong")\n')
    assert runner.main(["--output", str(tmp_path)]) == 1
    assert "ValueError: wrong" in capsys.readouterr().out


def test_names_of_lessons(capsys):
    assert [runner.name_of(path) for path in runner.parse(["4", "1a"]).lessons] == [
        "1a_function_set",
        "4a_cross_entropy",
        "4b_squared_error",
    ]
    assert runner.parse([]).lessons == runner.paths()
    with pytest.raises(SystemExit):
        runner.parse(["nothing"])
    assert "no lesson begins with 'nothing'; there are 1a_function_set, " in capsys.readouterr().err


def test_quick(monkeypatch):
    for value, expected in (("1", True), ("0", False), ("", False)):
        monkeypatch.setenv("FASTMLP_QUICK", value)
        assert quick() is expected
    monkeypatch.delenv("FASTMLP_QUICK")
    assert not quick()


def test_stand_ins_say_so(capsys):
    X, y = data.semeion()
    assert "Semeion is not at hand" in capsys.readouterr().out
    assert (X.shape, X.dtype, set(np.unique(X))) == ((1797, 256), np.float32, {0, 1})
    assert np.bincount(y).min() > 170
    split = data.usps()
    assert "USPS is not at hand" in capsys.readouterr().out
    assert split.X_train.shape[1] == split.X_test.shape[1] == 256
    assert (split.X_train.min(), split.X_train.max()) == (0, 1)


def write_sets(folder, shift=0):
    """Random pixels and the right numbers of each digit, from ``shift`` on."""
    rng = np.random.RandomState(0)
    labels = np.repeat(np.roll(np.arange(10), shift), data.SEMEION_COUNTS)
    X = rng.randint(2, size=(len(labels), 256))
    header = ",".join([*(f"px{i}" for i in range(256)), "digit"])
    lines = [header, *(",".join(map(str, row)) for row in np.c_[X, labels].tolist())]
    (folder / "semeion.csv.gz").write_bytes(gzip.compress("\n".join(lines).encode(), 1))
    train = np.repeat(np.roll(np.arange(10), shift), data.USPS_TRAIN_COUNTS).astype(np.uint8)
    images = rng.randint(2001, size=(len(train) + 5, 16, 16)).astype(np.uint16)
    n = len(train)
    np.savez(folder / "usps.npz", X_train=images[:n], y_train=train, X_test=images[n:], y_test=train[:5])
    return X, labels, images


def test_data_from_a_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("FASTMLP_DATA", str(tmp_path))
    for load, name in ((data.semeion, "semeion.csv.gz"), (data.usps, "usps.npz")):
        with pytest.raises(FileNotFoundError, match=f"FASTMLP_DATA names the folder '.*', which has no file {name}"):
            load()
    X, labels, images = write_sets(tmp_path)
    read, y = data.semeion()
    np.testing.assert_array_equal(read, X)
    np.testing.assert_array_equal(y, labels)
    split = data.usps()
    np.testing.assert_allclose(np.concatenate([split.X_train, split.X_test]), images.reshape(-1, 256) / 2000, rtol=1e-6)
    assert len(split.y_test) == 5
    write_sets(tmp_path, shift=1)
    for load, name in ((data.semeion, "Semeion"), (data.usps, "USPS")):
        with pytest.raises(ValueError, match=f"{name} must have"):
            load()


def test_data_from_openml(monkeypatch):
    """The network is there: the same checks, labels from 0, ink from 0 to 1."""
    from types import SimpleNamespace

    from sklearn import datasets

    labels = np.repeat(np.arange(1, 11), data.SEMEION_COUNTS)
    found = SimpleNamespace(
        data=np.where(np.arange(256) < 100, -1.0, 1.0) * np.ones((1593, 1)), target=labels.astype(str)
    )
    monkeypatch.setattr(datasets, "fetch_openml", lambda **options: found)
    monkeypatch.setenv("FASTMLP_QUICK", "0")
    X, y = data.semeion()
    assert (X.min(), X.max(), X.dtype) == (0, 1, np.float32)
    np.testing.assert_array_equal(y, labels - 1)


def test_results_are_json(tmp_path):
    lesson, result = write(tmp_path, '"""Title"""\nprint(1)\n'), tmp_path / "result.json"
    subprocess.run([sys.executable, "-m", "fastmlp.examples.blocks", lesson, result], check=True)
    assert json.loads(result.read_text())[0]["printed"] == "1\n"
