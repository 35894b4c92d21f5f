"""Training speed of fastmlp beside scikit-learn: ``python benchmarks/compare.py``.

Both libraries fit the same data from the same weights with the same shuffles, turn by turn in one process, so that a
slow moment of the machine hits both; each pair must end with the same loss curve. Each number of threads gets a
process of its own. Writes ``results/threads_N.json`` and ``results/table.md``; ``--readme`` updates the README too.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import machine
import numpy as np
from sklearn.exceptions import ConvergenceWarning
from workloads import LIBRARIES, WORKLOADS, Training, Workload

HERE = Path(__file__).resolve().parent
README = HERE.parent / "README.md"
TABLE_BEGIN, TABLE_END = "<!-- speed table: begin -->\n", "<!-- speed table: end -->\n"


def main() -> None:
    """Measure each number of threads in a process of its own, then write the table of all."""
    options = parse()
    if options.measure:
        measure(options)
        return
    options.output.mkdir(parents=True, exist_ok=True)
    for n_threads in options.threads:
        machine.confine_to(n_threads)
        subprocess.run([sys.executable, __file__, *sys.argv[1:], "--measure", str(n_threads)], check=True)
    results = [json.loads(result_path(options, n_threads).read_text()) for n_threads in options.threads]
    table = markdown(results)
    (options.output / "table.md").write_text(table)
    print(f"\n{table}")
    if options.readme:
        update_readme(table)


def parse() -> argparse.Namespace:
    """Read the command line."""
    n_cpus = len(machine.ALLOWED_CPUS)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--workloads", nargs="+", choices=WORKLOADS, default=list(WORKLOADS), metavar="W", help="W0 ... W7 (all)")
    add("--threads", nargs="+", type=int, default=sorted({1, n_cpus}), metavar="N", help="numbers of threads (1, all)")
    add("--pairs", type=int, default=7, help="fits of each library (%(default)s)")
    add("--output", type=Path, default=HERE / "results", help="folder of the results")
    add("--quick", action="store_true", help="two batches once: shows that it runs, the times mean nothing")
    add("--readme", action="store_true", help="write the table into README.md as well")
    add("--measure", type=int, metavar="N", help=argparse.SUPPRESS)
    return parser.parse_args()


def result_path(options: argparse.Namespace, n_threads: int) -> Path:
    """Return the file of the results with this number of threads."""
    path: Path = options.output / f"threads_{n_threads}.json"
    return path


def measure(options: argparse.Namespace) -> None:
    """Measure the workloads in this process, whose threads are limited already, and write the results."""
    warnings.simplefilter("ignore", ConvergenceWarning)
    n_threads = options.measure
    facts = machine.describe(n_threads)
    n_pairs = 1 if options.quick else options.pairs
    results = {}
    for name in options.workloads:
        workload = WORKLOADS[name].shortened() if options.quick else WORKLOADS[name]
        results[name] = compare(workload, n_pairs, facts["peak_gflops"])
        ours, theirs, ratio = speed_cells(results[name])[:3]
        print(f"{name} {workload.shape}, threads: {n_threads}: {ours} ms, {theirs} ms, ratio {ratio}", flush=True)
    contents = {"machine": facts, "quick": options.quick, "workloads": results}
    result_path(options, n_threads).write_text(json.dumps(contents, indent=1) + "\n")


def compare(workload: Workload, n_pairs: int, peak_gflops: float) -> dict[str, Any]:
    """Fit both libraries in turns; raise if their losses differ by more than rounding explains."""
    trainings = {library: Training(library, workload) for library in LIBRARIES}
    seconds: dict[str, list[float]] = {library: [] for library in LIBRARIES}
    for pair in range(-1, n_pairs):  # the first pair only warms up
        for library, training in trainings.items():
            training.restart()
            start = time.perf_counter()
            training.fit()
            if pair >= 0:
                seconds[library].append(time.perf_counter() - start)
        ours, theirs = (training.loss_curve for training in trainings.values())
        np.testing.assert_allclose(ours, theirs, rtol=workload.rtol)
    medians = {library: statistics.median(times) for library, times in seconds.items()}
    gflops = workload.n_flops / medians["fastmlp"] / 1e9
    return {
        "shape": workload.shape,
        "batch_size": workload.batch_size,
        "n_rows": workload.n_rows,
        "n_epochs": workload.n_epochs,
        "seconds": seconds,
        "median_seconds": medians,
        "ratio": medians["scikit-learn"] / medians["fastmlp"],
        "ratios": [theirs / ours for ours, theirs in zip(*seconds.values(), strict=True)],
        "gflops": gflops,
        "share_of_peak": gflops / peak_gflops,
        "loss": float(ours[-1]),
        "largest_loss_difference": float(np.max(np.abs(ours / theirs - 1))),
    }


def markdown(results: Sequence[dict[str, Any]]) -> str:
    """Return the table, a row a workload and four columns a number of threads, under the machine it holds for."""
    facts = results[0]["machine"]
    config = facts["config"]
    versions = [f"{name} {number}" for name, number in config["versions"].items()]
    chosen = f"fastmlp {config['fastmlp']['version']} ({config['fastmlp']['instruction_set']}, float32)"
    heads = ["", "network", "batch", "epochs"]
    for result in results:
        heads += [f"fastmlp, threads: {result['machine']['n_threads']}", "scikit-learn", "times as fast", "of peak"]
    lines = [
        f"{facts['processor']}, {facts['n_cpus']} cores; {chosen}; {', '.join(versions)}.",
        "Milliseconds of one fit with Adam: medians of alternating pairs, in brackets the lowest and the highest ratio",
        "of a pair. The last column of each number of threads is fastmlp's share of the measured FMA peak.",
        "",
        f"| {' | '.join(heads)} |",
        "|---|---|" + "---:|" * (len(heads) - 2),
    ]
    for name, first in results[0]["workloads"].items():
        cells = [name, first["shape"], str(first["batch_size"]), str(first["n_epochs"])]
        for result in results:
            cells += speed_cells(result["workloads"][name])
        lines.append(f"| {' | '.join(cells)} |")
    if results[0]["quick"]:
        lines.insert(0, "**A quick run: it shows that the comparison works; its times mean nothing.**\n")
    return "\n".join(lines) + "\n"


def speed_cells(result: dict[str, Any]) -> list[str]:
    """Return one comparison's cells of the table: our milliseconds, theirs, the ratio, our share of the peak."""
    milliseconds = [f"{result['median_seconds'][library] * 1e3:.1f}" for library in LIBRARIES]
    low, high = min(result["ratios"]), max(result["ratios"])
    return [*milliseconds, f"**{result['ratio']:.1f}** ({low:.1f}-{high:.1f})", f"{result['share_of_peak']:.0%}"]


def update_readme(table: str) -> None:
    """Put the table between its two marks in README.md."""
    before, rest = README.read_text().split(TABLE_BEGIN)
    after = rest.split(TABLE_END)[1]
    README.write_text(before + TABLE_BEGIN + table + TABLE_END + after)


if __name__ == "__main__":
    main()
