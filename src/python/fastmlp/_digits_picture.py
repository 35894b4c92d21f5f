"""The picture that ``python -m fastmlp`` saves: loss curves, and test digits with their ten confidences.

The only room that draws; it needs matplotlib and works without a display.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

# matplotlib is optional, and its own annotations differ from version to version.
Axes: TypeAlias = Any
SubFigure: TypeAlias = Any

INK, MUTED, OTHER, PALE = "#22303c", "#6f7d89", "#aab5bf", "#d9dfe4"
OURS, THEIRS, WRONG, TRUTH = "#1f6feb", "#f2a65a", "#d1344b", "#2e9e6b"
COLUMNS, HARD_ROWS = 5, 3


class Run(NamedTuple):
    """One library's training: its name, loss of each epoch, seconds, share of the test digits read correctly."""

    name: str
    loss_curve: Sequence[float]
    seconds: float
    accuracy: float


def draw(
    path: Path,
    runs: Sequence[Run],
    images: NDArray[Any],
    labels: NDArray[Any],
    confidences: NDArray[Any],
    subtitle: str,
) -> None:
    """Draw the runs (ours first) and 25 of the test digits into ``path``.

    Parameters
    ----------
    path : Path
        The picture's file; its suffix chooses the format.
    runs : sequence of Run
        fastmlp's run, then scikit-learn's if there was one.
    images : ndarray of shape (n, 64)
        The test digits, row by row.
    labels : ndarray of shape (n,)
        The true classes, 0 to 9.
    confidences : ndarray of shape (n, 10)
        The predicted probabilities.
    subtitle : str
        The network and its training in one line.
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    style: Any = {
        "font.size": 9,
        "text.color": INK,
        "axes.edgecolor": MUTED,
        "axes.labelcolor": INK,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "xtick.color": INK,
        "ytick.color": INK,
    }
    with rc_context(style):
        figure: Any = Figure(figsize=(14.5, 8.2), facecolor="white")
        figure.text(0.03, 0.945, "fastmlp reads handwritten digits", fontsize=20, weight="bold")
        figure.text(0.03, 0.912, subtitle, fontsize=10.5, color=MUTED)
        left, right = figure.subfigures(1, 2, width_ratios=[1, 1.75])
        for half in (left, right):
            half.set_facecolor("none")
        _draw_runs(left, runs)
        _draw_digits(right, images, labels, confidences)
        figure.savefig(path, dpi=130)


def _draw_runs(figure: SubFigure, runs: Sequence[Run]) -> None:
    grid = figure.add_gridspec(2, 1, height_ratios=[2.6, 1], left=0.14, right=0.93, top=0.825, bottom=0.06, hspace=0.38)
    curves, bars = (figure.add_subplot(cell) for cell in grid)
    # The peer's curve is a wide band beneath ours: where the two agree, both stay visible.
    looks: list[dict[str, Any]] = [
        {"color": OURS, "lw": 1.8, "zorder": 3},
        {"color": THEIRS, "lw": 6, "alpha": 0.75, "solid_capstyle": "round"},
    ]
    for run, look in zip(runs, looks, strict=False):
        curves.plot(np.arange(1, len(run.loss_curve) + 1), run.loss_curve, label=run.name, **look)
    curves.set_yscale("log")
    curves.set_xlabel("epoch")
    curves.locator_params(axis="x", integer=True)
    curves.set_title("Training loss", loc="left", fontsize=12, weight="bold", pad=10)
    curves.grid(axis="y", color=PALE, lw=0.8)
    curves.tick_params(which="both", length=0)
    curves.legend(frameon=False, fontsize=10)
    _draw_seconds(bars, runs)


def _draw_seconds(axes: Axes, runs: Sequence[Run]) -> None:
    seconds = [run.seconds for run in runs]
    axes.barh(np.arange(len(runs)), seconds, height=0.36, color=[OURS, THEIRS][: len(runs)])
    for row, run in enumerate(runs):
        axes.text(0, row - 0.27, run.name, va="bottom", fontsize=10)
        axes.text(run.seconds, row, f"  {run.seconds:.3f} s", va="center", fontsize=10, weight="bold")
        axes.text(
            1,
            row - 0.27,
            f"{run.accuracy:.1%} of the test digits right",
            va="bottom",
            ha="right",
            fontsize=10,
            color=MUTED,
            transform=axes.get_yaxis_transform(),
        )
    title = "Seconds to train"
    if len(runs) > 1:
        title += f": {seconds[1] / seconds[0]:.1f} times as fast"
    axes.set_title(title, loc="left", fontsize=12, weight="bold")
    axes.set(xlim=(0, max(seconds) * 1.25), ylim=(len(runs) - 0.7, -0.8), xticks=[], yticks=[])
    axes.spines[["bottom", "left"]].set_visible(False)


def _draw_digits(figure: SubFigure, images: NDArray[Any], labels: NDArray[Any], confidences: NDArray[Any]) -> None:
    from matplotlib.patches import Patch

    in_truth = confidences[np.arange(len(labels)), labels]
    hardest = np.argsort(in_truth, kind="stable")[: COLUMNS * HARD_ROWS].tolist()
    first = [int(np.flatnonzero(labels == digit)[0]) for digit in range(10)]
    n_wrong = int((confidences.argmax(axis=1) != labels).sum())
    blocks: list[tuple[str, Sequence[int], float, float]] = [
        ("The first test digit of each class", first, 0.815, 0.56),
        (f"The {len(hardest)} hardest of the {len(labels)} test digits ({n_wrong} are misread)", hardest, 0.45, 0.06),
    ]
    for title, chosen, top, bottom in blocks:
        figure.text(0.02, top + 0.04, title, fontsize=12, weight="bold")
        n_rows = len(chosen) // COLUMNS
        grid = figure.add_gridspec(
            n_rows, COLUMNS, left=0.02, right=0.985, top=top, bottom=bottom, hspace=0.5, wspace=0.18
        )
        for cell, row in zip(grid, chosen, strict=True):
            image, bars = cell.subgridspec(1, 2, width_ratios=[1, 1.15], wspace=0.06).subplots()
            _draw_digit(image, bars, images[row], int(labels[row]), confidences[row])
    key = {"read correctly": OURS, "misread": WRONG, "the true class": TRUTH, "other confidences": OTHER}
    patches = [Patch(color=color, label=text) for text, color in key.items()]
    figure.legend(
        handles=patches, loc="upper right", bbox_to_anchor=(0.99, 0.955), ncols=4, frameon=False, handlelength=0.8
    )


def _draw_digit(image: Axes, bars: Axes, pixels: NDArray[Any], label: int, confidence: NDArray[Any]) -> None:
    read = int(confidence.argmax())
    wrong = read != label
    image.imshow(pixels.reshape(8, 8), cmap="gray_r", interpolation="nearest")
    image.set(xticks=[], yticks=[], anchor="SW")
    for spine in image.spines.values():
        spine.set(visible=True, color=WRONG if wrong else PALE, linewidth=2.4 if wrong else 0.8)

    colors = [OTHER] * 10
    colors[label] = TRUTH
    colors[read] = WRONG if wrong else OURS
    bars.bar(np.arange(10), confidence, color=colors, width=0.8)
    bars.set(ylim=(0, 1), yticks=[], xlim=(-0.6, 9.6))
    bars.set_xticks(np.arange(10), [str(digit) for digit in range(10)], fontsize=6)
    bars.tick_params(length=0, pad=1.5)
    bars.spines["left"].set_visible(False)
    for digit in {label, read}:
        bars.get_xticklabels()[digit].set(color=colors[digit], weight="bold")
    text = f"{label} read as {read}" if wrong else f"{read}, {confidence[read]:.0%} sure"
    bars.set_title(text, fontsize=8.5, pad=4, color=WRONG if wrong else MUTED, weight="bold" if wrong else "normal")
