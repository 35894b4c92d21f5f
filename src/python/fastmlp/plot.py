"""Pictures of networks and of trainings. They need matplotlib, which comes with ``pip install fastmlp[plot]``."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import cycle, pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from fastmlp._parameters import views
from fastmlp._validation import unit_counts
from fastmlp.network import Network
from fastmlp.predictor import Predictor

if TYPE_CHECKING:
    from numpy.typing import NDArray

# Okabe and Ito's blue and vermilion, which all eyes tell apart, and two greys
POSITIVE, NEGATIVE, INK, MUTED = "#0072B2", "#D55E00", "#22303c", "#6f7d89"
_APART = 3.0  # columns; units of a column are 1 apart
_MOST_LAYERS = 8


class _Drawing(NamedTuple):
    """What is drawn of a network; names are empty where none are known."""

    sizes: Sequence[int]
    coefs: Sequence[NDArray[Any]]
    captions: Sequence[str]
    inputs: Sequence[str]
    outputs: Sequence[str]


class _Column(NamedTuple):
    """Where the units of a layer are: which of them are shown, and how high."""

    x: float
    units: NDArray[np.intp]
    heights: NDArray[np.float64]


def network(model: Any, ax: Any = None, max_units: int = 12) -> Any:
    """Draw a network: layers as columns of neurons, weights as lines between them.

    A line is blue for a positive weight and orange for a negative one, the wider and darker the larger the weight is
    beside the largest of its layer. Of wide layers the first and the last units are shown, of deep networks the first
    and the last layers; dots stand for the rest. Biases, normalisation and skips are not drawn.

    Parameters
    ----------
    model : MLPClassifier, MLPRegressor, Network or Predictor
        What to draw; an estimator must be fitted.
    ax : matplotlib Axes, default=None
        Where to draw; None is a new figure.
    max_units : int, default=12
        Most units of a layer to show, at least 2.

    Returns
    -------
    ax : matplotlib Axes
        What was drawn on.

    Raises
    ------
    ImportError
        Without matplotlib.
    NotFittedError
        If an estimator is not fitted.
    TypeError
        If ``model`` is something else.
    ValueError
        If ``max_units`` is below 2.

    Examples
    --------
    >>> from fastmlp import MLPClassifier, plot
    >>> from sklearn.datasets import load_iris
    >>> iris = load_iris(as_frame=True)
    >>> model = MLPClassifier((8, 4), solver="lbfgs", tol=0.01, random_state=0).fit(iris.data, iris.target)
    >>> ax = plot.network(model)
    """
    if unit_counts(max_units, "max_units")[0] < 2:
        raise ValueError(f"max_units must be at least 2, got {max_units!r}")
    drawing = _drawing(model)
    columns = _columns(drawing.sizes, int(max_units))
    most = 2 * max(column.heights[0] for column in columns.values()) + 1
    if ax is None:
        from matplotlib import pyplot

        longest = max(map(len, [*drawing.inputs, ""])) + max(map(len, [*drawing.outputs, ""]))
        size = (1.6 * len(columns) + 0.08 * longest, 1.5 + 0.34 * max(most, 4))
        ax = pyplot.subplots(figsize=size, layout="constrained")[1]
    for left, right in pairwise(columns):
        if right == left + 1:
            _draw_weights(ax, drawing.coefs[left], columns[left], columns[right])
        else:
            middle = (columns[left].x + columns[right].x) / 2
            _draw_dots(ax, middle + 0.3 * np.arange(-1, 2), [0, 0, 0])
            _caption(ax, middle, most, f"+ {right - left - 1}", "layers")
    for layer, column in columns.items():
        _draw_units(ax, column, drawing.sizes[layer])
        _caption(ax, column.x, most, str(drawing.sizes[layer]), drawing.captions[layer])
    _draw_names(ax, columns[0], drawing.inputs, -0.3)
    _draw_names(ax, columns[len(drawing.sizes) - 1], drawing.outputs, 0.3)
    for color, sign in ((POSITIVE, "positive"), (NEGATIVE, "negative")):
        ax.plot([], [], color=color, linewidth=2, label=f"{sign} weight")
    ax.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=2, frameon=False, labelcolor=MUTED)
    ax.axis("off")
    ax.set(xlim=(-0.5, columns[len(drawing.sizes) - 1].x + 0.5), ylim=(-most / 2, most / 2))
    return ax


def history(model: Any, ax: Any = None) -> Any:
    """Draw what ``history_`` tells of a training: the loss of each epoch, and what validation data said.

    Losses share a panel; metrics of validation data, which have other units, stand in a second one below. Losses are
    on a logarithmic scale if the largest is more than twenty times the smallest. A dashed line is at the epoch whose
    parameters early stopping has kept.

    Parameters
    ----------
    model : MLPClassifier or MLPRegressor
        Fitted, by another solver than "lbfgs".
    ax : matplotlib Axes, or array of two, default=None
        Where to draw: two, if there are metrics of validation data. None is a new figure.

    Returns
    -------
    ax : matplotlib Axes, or ndarray of two
        What was drawn on.

    Raises
    ------
    ImportError
        Without matplotlib.
    ValueError
        If there is no history, or if ``ax`` does not hold as many Axes as there are panels.

    Examples
    --------
    >>> from fastmlp import MLPClassifier, plot
    >>> from sklearn.datasets import load_iris
    >>> X, y = load_iris(return_X_y=True)
    >>> model = MLPClassifier(max_iter=20, early_stopping=True, random_state=0).fit(X, y)
    >>> above, below = plot.history(model)
    """
    records: dict[str, NDArray[Any]] | None = getattr(model, "history_", None)
    if not records:
        raise ValueError(f"there is no history_ to draw: fit by another solver than 'lbfgs'; got {model!r}")
    metrics = {name: values for name, values in records.items() if name not in ("loss", "val_loss", "learning_rate")}
    n_panels = 2 if metrics else 1
    if ax is None:
        from matplotlib import pyplot

        size = (6.4, 2.1 + 1.9 * n_panels)
        ax = pyplot.subplots(n_panels, sharex=True, figsize=size, layout="constrained")[1]
    panels = np.ravel(ax)
    if len(panels) != n_panels:
        raise ValueError(f"ax must be {n_panels} Axes for {', '.join(records)}; got {len(panels)}")
    for name, color, label in (("loss", POSITIVE, "training"), ("val_loss", NEGATIVE, "validation")):
        if name in records:
            panels[0].plot(_epochs(records[name]), records[name], color=color, label=label)
    positive = np.concatenate([records[name] for name in ("loss", "val_loss") if name in records])
    if positive.min() > 0 and positive.max() > 20 * positive.min():
        panels[0].set_yscale("log")
    for (name, values), color in zip(metrics.items(), cycle([NEGATIVE, "#009E73", "#CC79A7", "#56B4E9"]), strict=False):
        panels[1].plot(
            _epochs(values), values, color=color, label=name.replace("val_", "validation ").replace("_", " ")
        )
    for panel, what in zip(panels, ("loss", "validation"), strict=False):
        lines = panel.get_lines()
        panel.set_ylabel(what if len(lines) > 1 else "training loss" if what == "loss" else lines[0].get_label())
        if len(lines) > 1:
            panel.legend(frameon=False)
        panel.spines[["top", "right"]].set_visible(False)
        panel.grid(axis="y", color="0.92")
        panel.xaxis.get_major_locator().set_params(integer=True)
    if (best := getattr(model, "best_iteration_", None)) is not None:
        for panel in panels:
            panel.axvline(best, color=MUTED, linewidth=0.8, linestyle=(0, (4, 3)), zorder=0)
        aside, align = (3, "left") if best < 0.7 * len(records["loss"]) else (-3, "right")
        panels[0].annotate(
            f"best: {best}", (best, 1), (aside, -3), xycoords=("data", "axes fraction"), textcoords="offset points",
            ha=align, va="top", color=MUTED, fontsize=9,
        )  # fmt: skip
    panels[-1].set_xlabel("epoch")
    return ax


def _epochs(values: NDArray[Any]) -> NDArray[np.intp]:
    return np.arange(1, len(values) + 1)


def _drawing(model: Any) -> _Drawing:
    if not isinstance(model, Network | Predictor):
        if not hasattr(model, "compile") or not hasattr(model, "hidden_layer_sizes"):
            raise TypeError(f"model must be an MLPClassifier, MLPRegressor, Network or Predictor, got {model!r}")
        model = model.compile()
    sizes = model.layer_sizes
    output = model.output_activation if isinstance(model, Network) else model.out_activation_
    norms = [
        f"{name}\n" if name != "none" else "" for name in model.normalizations or ("none",) * len(model.activations)
    ]
    captions = ["input", *(norm + name for norm, name in zip(norms, model.activations, strict=True)), output]
    inputs, classes = getattr(model, "feature_names_in_", None), getattr(model, "classes_", None)
    outputs = [] if classes is None else [str(name) for name in classes[-sizes[-1] :]]  # of two classes the second
    return _Drawing(sizes, views(model.parameters, sizes)[0], captions, [] if inputs is None else list(inputs), outputs)


def _columns(sizes: Sequence[int], max_units: int) -> dict[int, _Column]:
    """Return where the layers that are shown are, by their numbers."""
    layers, columns, x = list(range(len(sizes))), {}, 0.0
    if len(sizes) > _MOST_LAYERS:
        layers = layers[: _MOST_LAYERS // 2] + layers[-_MOST_LAYERS // 2 :]
    for i, layer in enumerate(layers):
        x += _APART * (i > 0) * (1 if layer == layers[i - 1] + 1 else 1.5)
        n = sizes[layer]
        units = np.arange(n) if n <= max_units else np.r_[: (max_units + 1) // 2, n - max_units // 2 : n]
        slots = units if n <= max_units else np.where(units < n // 2, units, units - n + max_units + 1)  # one for dots
        columns[layer] = _Column(x, units, slots[-1] / 2 - slots)
    return columns


def _draw_weights(ax: Any, coef: NDArray[Any], left: _Column, right: _Column) -> None:
    from matplotlib.collections import LineCollection
    from matplotlib.colors import to_rgb

    shown = coef[np.ix_(left.units, right.units)].astype(np.float64).ravel()
    sizes = np.abs(shown) / (np.abs(coef).max() or 1)
    order = np.argsort(sizes)  # the largest on top
    start, end = np.divmod(order, len(right.units))
    colors = np.where(shown[order, np.newaxis] > 0, [to_rgb(POSITIVE)], [to_rgb(NEGATIVE)])
    sizes = sizes[order]
    ends = [[(left.x, left.heights[i]), (right.x, right.heights[j])] for i, j in zip(start, end, strict=True)]
    ax.add_collection(LineCollection(ends, linewidths=0.2 + 2.4 * sizes, colors=np.c_[colors, 0.85 * sizes], zorder=1))


def _draw_units(ax: Any, column: _Column, size: int) -> None:
    ax.scatter([column.x] * len(column.units), column.heights, 110, "white", edgecolors=INK, linewidths=1.2, zorder=2)
    if len(column.units) < size:
        gap = int(np.argmin(np.diff(column.heights)))
        middle = column.heights[gap : gap + 2].mean()
        _draw_dots(ax, [column.x] * 3, middle + 0.28 * np.arange(-1, 2))


def _draw_dots(ax: Any, x: Any, y: Any) -> None:
    ax.scatter(x, y, 7, INK, linewidths=0, zorder=2)


def _draw_names(ax: Any, column: _Column, names: Sequence[str], aside: float) -> None:
    if names:
        for unit, height in zip(column.units, column.heights, strict=True):
            align = "right" if aside < 0 else "left"
            ax.text(column.x + aside, height, names[unit], ha=align, va="center_baseline", color=INK, fontsize=9)


def _caption(ax: Any, x: float, most: float, size: str, what: str) -> None:
    lines = [(-26, size, {"color": INK, "fontsize": 11, "weight": "bold"})]
    lines += [(-42 - 12 * i, text, {"color": MUTED, "fontsize": 9}) for i, text in enumerate(what.split("\n"))]
    for down, text, style in lines:  # points below the lowest unit
        ax.annotate(text, (x, 0.5 - most / 2), (0, down), textcoords="offset points", ha="center", **style)
