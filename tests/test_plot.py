"""The pictures: each line, name and number in them is the network's or the training's."""

import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from sklearn.datasets import load_iris
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LinearRegression

from fastmlp import MLPClassifier, MLPRegressor, Network, plot

mpl = pytest.importorskip("matplotlib", reason="pictures need matplotlib")
mpl.use("agg")
from matplotlib import pyplot  # noqa: E402
from matplotlib.collections import LineCollection, PathCollection  # noqa: E402
from matplotlib.colors import to_rgb  # noqa: E402

IRIS = load_iris(as_frame=True)
QUICK = {"max_iter": 5, "random_state": 0}


@pytest.fixture(autouse=True)
def no_figure_stays_open():
    yield
    pyplot.close("all")


def texts(ax):
    return [text.get_text() for text in ax.texts]


def lines_of(ax):
    """For each pair of layers: ends (n, 2, 2), widths and colours of the lines."""
    found = [part for part in ax.collections if isinstance(part, LineCollection)]
    return [(np.array(part.get_segments()), part.get_linewidths(), part.get_colors()) for part in found]


def units_of(ax):
    """Positions of the neurons, which are white, by column."""
    white = [part for part in ax.collections if isinstance(part, PathCollection) and part.get_facecolor().min() == 1]
    return [part.get_offsets().data for part in white]


def dots_of(ax):
    return [part for part in ax.collections if isinstance(part, PathCollection) and part.get_facecolor().min() < 1]


def test_every_weight_is_a_line():
    net = Network([3, 4, 2], random_state=0)
    ax = plot.network(net)
    units = units_of(ax)
    assert [len(column) for column in units] == [3, 4, 2]
    assert not dots_of(ax)
    for layer, (ends, widths, colors) in enumerate(lines_of(ax)):
        weights = net.weights[layer].T  # (fan_in, fan_out)
        assert len(ends) == weights.size
        for (start, end), width, color in zip(ends, widths, colors, strict=True):
            i = np.flatnonzero((units[layer] == start).all(axis=1))[0]
            j = np.flatnonzero((units[layer + 1] == end).all(axis=1))[0]
            share = abs(weights[i, j]) / np.abs(weights).max()
            assert width == pytest.approx(0.2 + 2.4 * share)
            assert color[3] == pytest.approx(0.85 * share)
            assert tuple(color[:3]) == to_rgb(plot.POSITIVE if weights[i, j] > 0 else plot.NEGATIVE)


def test_first_unit_on_top_and_columns_are_centred():
    for column in units_of(plot.network(Network([3, 7, 1]))):
        assert (np.diff(column[:, 1]) == -1).all()
        assert column[:, 1].mean() == 0


@pytest.mark.parametrize("max_units", [2, 5, 6])
def test_wide_layers_show_their_ends_and_dots(max_units):
    net = Network([30, max_units, 2], random_state=0)
    ax = plot.network(net, max_units=max_units)
    (wide, whole, _), dots = units_of(ax), dots_of(ax)
    assert len(wide) == len(whole) == max_units
    steps = -np.diff(wide[:, 1])
    assert sorted(steps) == [*[1] * (max_units - 2), 2]
    assert len(dots) == 1
    top = (max_units + 1) // 2
    assert np.sort(lines_of(ax)[0][1]) == pytest.approx(
        np.sort(0.2 + 2.4 * np.abs(net.weights[0].T[[*range(top), *range(30 - max_units // 2, 30)]]).ravel()
                / np.abs(net.weights[0]).max())
    )  # fmt: skip
    assert wide[top - 1, 1] > dots[0].get_offsets()[:, 1].max() > dots[0].get_offsets()[:, 1].min() > wide[top, 1]


def test_names_and_captions():
    names = IRIS.target_names[IRIS.target]
    model = MLPClassifier((8, 30), ["tanh", "gelu"], normalization=[None, "layer_norm"], **QUICK).fit(IRIS.data, names)
    for drawn in (model, model.compile()):
        shown = texts(plot.network(drawn))
        assert {*IRIS.data.columns, *IRIS.target_names} <= set(shown)
        assert [text for text in shown if text.isdecimal()] == ["4", "8", "30", "3"]
        captions = [text for text in shown if text in ("input", "tanh", "layer_norm", "gelu", "softmax")]
        assert captions == ["input", "tanh", "layer_norm", "gelu", "softmax"]
    two = MLPClassifier((2,), **QUICK).fit(IRIS.data.to_numpy(), np.where(IRIS.target == 1, "yes", "no"))
    assert {"yes", "logistic"} <= set(texts(plot.network(two)))
    assert "no" not in texts(plot.network(two))  # the output is the probability of "yes"


def test_hidden_names_are_left_out():
    X = np.random.RandomState(0).randn(20, 30)
    model = MLPRegressor(hidden_layer_sizes=(3,), **QUICK).fit(X, X[:, 0])
    model.feature_names_in_ = np.array([f"x{i}" for i in range(30)], dtype=object)
    shown = [text for text in texts(plot.network(model, max_units=4)) if text.startswith("x")]
    assert shown == ["x0", "x1", "x28", "x29"]


def test_deep_networks_show_their_ends():
    ax = plot.network(Network([2] * 30))
    assert len(units_of(ax)) == 8
    assert len(lines_of(ax)) == 6  # none across the gap
    assert {"+ 22", "layers"} <= set(texts(ax))


def test_weights_of_zero():
    net = Network([2, 1])
    net.parameters = np.zeros(3)
    assert set(lines_of(plot.network(net))[0][1]) == {0.2}


def trained(best=None, **history):
    """What ``plot.history`` looks at."""
    curves = {name: np.asarray(values, np.float64) for name, values in history.items()}
    return SimpleNamespace(history_=curves, best_iteration_=best)


@pytest.mark.parametrize(("draw", "model"), [(plot.network, Network([2, 1])), (plot.history, trained(loss=[2, 1]))])
def test_where_it_draws(draw, model):
    ax = pyplot.subplots()[1]
    assert draw(model, ax) is ax
    assert draw(model, ax=ax) is ax
    assert draw(model).figure is not ax.figure


def test_losses_alone():
    ax = plot.history(trained(loss=[3, 2, 1], learning_rate=[1, 1, 1]))
    (line,) = ax.get_lines()
    np.testing.assert_array_equal(line.get_data(), [[1, 2, 3], [3, 2, 1]])
    assert (ax.get_xlabel(), ax.get_ylabel(), ax.get_yscale()) == ("epoch", "training loss", "linear")
    assert ax.get_legend() is None
    assert plot.history(trained(loss=[30, 2, 1])).get_yscale() == "log"
    assert plot.history(trained(loss=[30, 2, -1])).get_yscale() == "linear"


def test_losses_and_metrics():
    model = trained(loss=[3, 2], learning_rate=[1, 1], val_loss=[4, 3], val_accuracy=[0.5, 0.7])
    above, below = plot.history(model)
    assert [line.get_label() for line in above.get_lines()] == ["training", "validation"]
    np.testing.assert_array_equal([line.get_ydata() for line in above.get_lines()], [[3, 2], [4, 3]])
    assert above.get_ylabel() == "loss"
    assert below.get_ylabel() == "validation accuracy"
    np.testing.assert_array_equal(below.get_lines()[0].get_ydata(), [0.5, 0.7])
    below = plot.history(trained(loss=[3, 2], val_roc_auc=[0.5, 0.6], val_accuracy=[0.1, 0.2]))[1]
    assert [text.get_text() for text in below.get_legend().get_texts()] == ["validation roc auc", "validation accuracy"]
    axes = pyplot.subplots(2)[1]
    assert plot.history(model, axes) is axes
    with pytest.raises(ValueError, match="ax must be 2 Axes for loss, learning_rate, val_loss, val_accuracy; got 1"):
        plot.history(model, axes[0])


@pytest.mark.parametrize("best", [1, 3])
def test_the_epoch_that_was_kept(best):
    for panel in plot.history(trained(best, loss=[3, 2, 1], val_accuracy=[0.5, 0.6, 0.7])):
        assert panel.get_lines()[-1].get_xdata()[0] == best
        assert texts(panel) == ([f"best: {best}"] if panel.get_ylabel() == "training loss" else [])


def test_what_cannot_be_drawn():
    with pytest.raises(TypeError, match=r"MLPClassifier, MLPRegressor, Network or Predictor, got LinearRegression\(\)"):
        plot.network(LinearRegression())
    with pytest.raises(NotFittedError):
        plot.network(MLPClassifier())
    for wrong in (1, 0, "many"):
        with pytest.raises(ValueError, match="max_units"):
            plot.network(Network([2, 1]), max_units=wrong)
    model = MLPRegressor(solver="lbfgs", **QUICK).fit(IRIS.data, IRIS.target)
    with pytest.raises(ValueError, match="no history_ to draw: fit by another solver than 'lbfgs'"):
        plot.history(model)


def test_the_package_offers_its_modules_without_matplotlib():
    code = (
        "import sys, fastmlp as f; print(f.plot.history.__name__, f.export.to_c.__name__, 'matplotlib' in sys.modules)"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.endswith("False\n")
