"""What a comparison found, for readers: a line, a table, a bar chart, and both in the README."""

from __future__ import annotations

import os
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

README = Path(__file__).resolve().parents[1] / "README.md"

COLORS = {"scikit-learn": "#d97706", "PyTorch": "#dc4c3f", "JAX": "#8b5cf6", "TensorFlow": "#0d9488"}
GREY = "#7a7f87"  # as far from white as from GitHub's dark background


def ratios(workload: dict[str, Any], library: str) -> list[float]:
    """Return how many times as fast fastmlp was, round by round."""
    seconds = workload["seconds"]
    return [theirs / ours for ours, theirs in zip(seconds["fastmlp"], seconds[library], strict=True)]


def milliseconds(workload: dict[str, Any]) -> float:
    """Return the median time of a fit by fastmlp."""
    return statistics.median(workload["seconds"]["fastmlp"]) * 1e3


def share_of_peak(workload: dict[str, Any]) -> float:
    """Return which part of the processor's multiply-adds fastmlp used, as measured in the same rounds."""
    pairs = zip(workload["seconds"]["fastmlp"], workload["fma_peak"], strict=True)
    return statistics.median(workload["flops"] / seconds / peak for seconds, peak in pairs)


def ratio_cells(workload: dict[str, Any], libraries: Sequence[str]) -> list[str]:
    """Return a cell for each library: median, lowest and highest ratio; the fastest framework's is bold."""
    of_all = {library: ratios(workload, library) for library in libraries if library in workload["seconds"]}
    frameworks = [library for library in of_all if library != "scikit-learn"]
    fastest = min(frameworks, key=lambda library: statistics.median(of_all[library]), default=None)
    cells = []
    for library in libraries:
        if library not in of_all:
            cells.append("")
            continue
        median, mark = f"{statistics.median(of_all[library]):.2f}", "**" if library == fastest else ""
        cells.append(f"{mark}{median}{mark} ({min(of_all[library]):.2f}-{max(of_all[library]):.2f})")
    return cells


def summary(workload: dict[str, Any]) -> str:
    """Return one line about one workload."""
    others = [library for library in workload["seconds"] if library != "fastmlp"]
    compared = [f"{library} {cell}" for library, cell in zip(others, ratio_cells(workload, others), strict=True)]
    ours = f"{milliseconds(workload):.1f} ms, {share_of_peak(workload):.0%} of peak"
    return f"{ours}; times as fast as {', '.join(compared)}"


def markdown(results: Sequence[dict[str, Any]]) -> str:
    """Return a table for each number of threads, under the machine and the versions that they hold for."""
    lines = heading(results[0])
    for result in results:
        lines += ["", *_table(result, results[0])]
    return "\n".join(lines) + "\n"


def heading(result: dict[str, Any]) -> list[str]:
    """Return the machine and the versions that a result holds for."""
    facts, libraries = result["machine"], result["libraries"]
    core, versions = facts["config"]["fastmlp"], facts["config"]["versions"]
    named = [f"{name} {number}" for name, number in {**libraries, "numpy": versions["numpy"]}.items()]
    lines = [f"{facts['processor']}, {facts['n_cpus']} cores, {core['instruction_set']}; {', '.join(named)}."]
    if result["quick"]:
        lines = ["**A quick run: it shows that the comparison works; its times mean nothing.**", "", *lines]
    return lines


def _table(result: dict[str, Any], first: dict[str, Any]) -> list[str]:
    n_threads = result["machine"]["n_threads"]
    libraries = [library for library in result["libraries"] if library != "fastmlp"]
    heads = ["", "network", "batch", "epochs", "fastmlp, ms", "of peak", *(f"x {library}" for library in libraries)]
    if result is not first:
        heads.append(f"x threads: {first['machine']['n_threads']}")
    lines = [f"**Threads: {n_threads}**", "", f"| {' | '.join(heads)} |", "|---|---|" + "---:|" * (len(heads) - 2)]
    for name, workload in result["workloads"].items():
        network = f"{workload['shape']} {workload['what']}".strip()
        cells = [name, network, str(workload["batch_size"]), str(workload["n_epochs"])]
        cells += [f"{milliseconds(workload):.1f}", f"{share_of_peak(workload):.0%}"]
        cells += ratio_cells(workload, libraries)
        if result is not first:
            alone = first["workloads"].get(name)
            cells.append(f"{milliseconds(alone) / milliseconds(workload):.2f}" if alone else "")
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def draw(result: dict[str, Any], path: Path) -> None:
    """Draw the ratios of one number of threads as bars from 1, where both are equally fast, on white or on black."""
    import matplotlib as mpl
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    mpl.rcParams["svg.hashsalt"] = "fastmlp"  # the same picture has the same bytes
    groups = _bars(result["workloads"])
    bars = [bar for group in groups.values() for bar in group]
    figure = Figure(figsize=(8.4, 0.8 + 0.17 * (bars[-1][0] + 1)), layout="constrained")
    FigureCanvasSVG(figure)
    axes = figure.add_subplot()
    for position, library, ratio in bars:
        axes.barh(position, ratio - 1, left=1, height=0.86, color=COLORS[library])
        text = f"{ratio:.1f}  {library}"
        place = {"xytext": (4, 0), "textcoords": "offset points", "va": "center", "size": 7.5}
        axes.annotate(text, (max(ratio, 1), position), color=COLORS[library], **place)
    middles = [statistics.mean(position for position, *_ in group) for group in groups.values()]
    axes.set_yticks(middles, list(groups), size=8.5)
    axes.margins(y=0.01)
    axes.invert_yaxis()
    lowest, highest = (function(ratio for *_, ratio in bars) for function in (min, max))
    axes.set_xscale("log")
    axes.set_xlim(min(0.95, 0.9 * lowest), 1.8 * highest)
    ticks = [tick for tick in (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100) if min(1, lowest) <= tick < 1.5 * highest]
    axes.set_xticks(ticks, [f"{tick:g} x" for tick in ticks], size=8.5)
    axes.minorticks_off()
    axes.axvline(1, color=GREY, linewidth=1)
    title = f"How many times as fast as others fastmlp trains (threads: {result['machine']['n_threads']}, log scale)"
    axes.set_title(title, size=10, color=GREY, loc="left")
    axes.spines[:].set_visible(False)
    axes.tick_params(colors=GREY, length=0)
    axes.grid(axis="x", color=GREY, alpha=0.3, linewidth=0.6)
    axes.set_axisbelow(True)
    figure.savefig(path, transparent=True, metadata={"Date": None})


def _bars(workloads: dict[str, Any]) -> dict[str, list[tuple[float, str, float]]]:
    """Return (position, library, ratio) of each workload's bars, under its label; a gap between workloads."""
    groups, position = {}, 0.0
    for name, workload in workloads.items():
        libraries = [library for library in workload["seconds"] if library != "fastmlp"]
        medians = [statistics.median(ratios(workload, library)) for library in libraries]
        label = f"{name}\n{workload['shape']}" if len(libraries) > 1 else f"{name}  {workload['shape']}"
        groups[label] = [(position + i, *bar) for i, bar in enumerate(zip(libraries, medians, strict=True))]
        position += len(libraries) + 0.9
    return groups


def with_chart(table: str, chart: Path) -> str:
    """Return what the README shows of both."""
    picture = Path(os.path.relpath(chart, README.parent)).as_posix()
    return f"![How many times as fast fastmlp trains]({picture})\n\n{table}"


def update_readme(section: str, text: str) -> None:
    """Put text between the two marks of a section in README.md."""
    begin, end = (f"<!-- {section}: {mark} -->\n" for mark in ("begin", "end"))
    before, rest = README.read_text().split(begin)
    after = rest.split(end)[1]
    README.write_text(f"{before}{begin}{text}{end}{after}")
