"""Predictions of fastmlp beside scikit-learn, PyTorch and onnxruntime: ``python benchmarks/serve.py``.

Each has a process of its own with the same network; they answer turn by turn, and all answers must be equal. Measured
are one row at a time (many short bursts of calls, one thread), 10,000 rows at once, and what a new process needs until
it holds a saved model. Writes ``results/serve.json`` (all single times) and ``results/serve.md``; ``--readme`` updates
the README too. Libraries that are not installed are left out.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path
from typing import Any

import machine
import numpy as np
import report
from serving import OTHERS, WAYS, answers, estimator_of, is_installed, start, time_calls
from worker import Worker, fma_peak
from workloads import WORKLOADS, Workload

HERE = Path(__file__).resolve().parent
NETWORKS = ["W1", "W3", "W4", "W5"]
MANY = 10_000
LOAD = {
    "fastmlp": "import sys, fastmlp; fastmlp.load(sys.argv[1]); assert 'sklearn' not in sys.modules",
    "numpy and safetensors": "import numpy, safetensors.numpy",
}
CLOCK = "import time; start = time.perf_counter(); {}; print(time.perf_counter() - start)"


def main() -> None:
    """Measure, then write what was found and the tables."""
    options = parse()
    ways = [way for way in WAYS if is_installed(way)]
    for way in WAYS:
        if way not in ways:
            print(f"{way} is not installed: left out")
    machine.confine_to(1)
    result: dict[str, Any] = {"machine": machine.describe(1), "libraries": {}, "quick": options.quick, "threads": {}}
    result["load"] = compare_loading(2 if options.quick else 25)
    result["one row"] = compare_on(options, ways, 1, 1, result["libraries"])
    for n_threads in options.threads:
        machine.confine_to(n_threads)
        result["threads"][n_threads] = compare_on(options, ways, MANY, n_threads, result["libraries"])
    options.output.mkdir(parents=True, exist_ok=True)
    (options.output / "serve.json").write_text(json.dumps(result, indent=1) + "\n")
    table = markdown(result)
    (options.output / "serve.md").write_text(table)
    print(f"\n{table}\nWritten to {options.output}")
    if options.readme:
        report.update_readme("serve", table)


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--workloads", nargs="+", choices=NETWORKS, default=NETWORKS, metavar="W", help=" ".join(NETWORKS))
    threads = sorted({1, len(machine.ALLOWED_CPUS)})
    add("--threads", nargs="+", type=int, default=threads, metavar="N", help="numbers of threads (1, all)")
    add("--rounds", type=int, default=7, help="turns of each library (%(default)s)")
    add("--output", type=Path, default=HERE / "results", help="folder of the results")
    add("--quick", action="store_true", help="a short turn each: shows that it runs, the times mean nothing")
    add("--readme", action="store_true", help="write the tables into README.md as well")
    return parser.parse_args()


# --- measuring ------------------------------------------------------------------------------------------------------


def compare_on(
    options: argparse.Namespace, ways: list[str], n_rows: int, n_threads: int, versions: dict[str, str]
) -> dict[str, Any]:
    """Let all answer about so many rows on every network; take note of the versions."""
    found = {}
    for name in options.workloads:
        found[name] = compare(
            WORKLOADS[name], ways, n_rows, n_threads, 1 if options.quick else options.rounds, versions
        )
        times = ", ".join(f"{way} {median(found[name], way) * 1e6:.1f} us" for way in ways)
        print(f"{name} {WORKLOADS[name].shape}, {n_rows} rows, threads: {n_threads}: {times}", flush=True)
    return found


def compare(
    workload: Workload, ways: list[str], n_rows: int, n_threads: int, n_rounds: int, versions: dict[str, str]
) -> dict[str, Any]:
    """Let all answer in turns, each round begun by another one; return the times of all bursts."""
    seconds: dict[str, list[list[float]]] = {way: [] for way in ways}
    peaks = []
    bursts = (20, 0.002) if n_rows == 1 else (2, 0.02)
    with ExitStack() as stack:
        workers = {way: stack.enter_context(Worker(way, start, way, workload, n_rows)) for way in ways}
        for way, worker in workers.items():
            versions["fastmlp" if WAYS[way][0] == "fastmlp" else way] = worker.receive()
        for i in range(n_rounds):
            peaks.append(workers["Predictor"].ask(fma_peak, n_threads))
            first = i % len(ways)
            for way in (*ways[first:], *ways[:first]):
                seconds[way].append(workers[way].ask(time_calls, *bursts))
        wanted = workers["Predictor"].ask(answers)
        for way, worker in workers.items():
            np.testing.assert_allclose(worker.ask(answers), wanted, rtol=1e-3, atol=1e-5, err_msg=way)
    flops = 2.0 * n_rows * sum(fan_in * fan_out for fan_in, fan_out in pairwise(workload.layer_sizes))
    return {"shape": workload.shape, "flops": flops, "seconds": seconds, "fma_peak": peaks}


def compare_loading(n_rounds: int) -> dict[str, list[float]]:
    """Return the seconds that new processes took, turn by turn, to import and load; the first turns only warm up."""
    seconds: dict[str, list[float]] = {name: [] for name in LOAD}
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "model.safetensors")
        estimator_of("fastmlp", WORKLOADS["W1"].shortened()).save(path)
        for i in range(n_rounds + 2):
            for name, code in LOAD.items():
                command = [sys.executable, "-c", CLOCK.format(code), path]
                ran = subprocess.run(command, capture_output=True, text=True, check=True)
                if i >= 2:
                    seconds[name].append(float(ran.stdout))
    return seconds


# --- telling --------------------------------------------------------------------------------------------------------


def median(found: dict[str, Any], way: str) -> float:
    """Return the median seconds of a call over all bursts."""
    return statistics.median(burst for turn in found["seconds"][way] for burst in turn)


def best(found: dict[str, Any], way: str) -> float:
    """Return the seconds of a call in the best burst."""
    return min(burst for turn in found["seconds"][way] for burst in turn)


def ratio(found: dict[str, Any], way: str) -> float:
    """Return how many times as fast the Predictor was, the median over the rounds."""
    pairs = zip(found["seconds"]["Predictor"], found["seconds"][way], strict=True)
    return statistics.median(statistics.median(theirs) / statistics.median(ours) for ours, theirs in pairs)


def share_of_peak(found: dict[str, Any]) -> float:
    """Return which part of the processor's multiply-adds the Predictor used, as measured in the same rounds."""
    pairs = zip(found["seconds"]["Predictor"], found["fma_peak"], strict=True)
    return statistics.median(found["flops"] / statistics.median(turn) / peak for turn, peak in pairs)


def markdown(result: dict[str, Any]) -> str:
    """Return all tables, under the machine and the versions that they hold for."""
    lines = report.heading(result)
    ways = list(next(iter(result["one row"].values()))["seconds"])
    heads = ["", "network", *ways]
    lines += ["", "**One row, microseconds** (one thread)", "", f"| {' | '.join(heads)} |"]
    lines.append("|---|---|" + "---:|" * len(ways))
    for name, found in result["one row"].items():
        times = [f"{1e6 * median(found, way):.3g} ({1e6 * best(found, way):.3g})" for way in ways]
        lines.append(f"| {' | '.join([name, found['shape'], *times])} |")
    others = [way for way in ways if way in OTHERS]
    for n_threads, networks in result["threads"].items():
        heads = ["", "network", "Predictor, ms", "of peak", *(f"x {way}" for way in others)]
        lines += ["", f"**{MANY:,} rows at once, threads: {n_threads}**", "", f"| {' | '.join(heads)} |"]
        lines.append("|---|---|" + "---:|" * (len(heads) - 2))
        for name, found in networks.items():
            cells = [name, found["shape"], f"{1e3 * median(found, 'Predictor'):.3g}", f"{share_of_peak(found):.0%}"]
            lines.append(f"| {' | '.join([*cells, *(f'{ratio(found, way):.2f}' for way in others)])} |")
    ours, theirs = (statistics.median(result["load"][name]) for name in LOAD)
    lines += [
        "",
        f"In a new process, `import fastmlp; fastmlp.load(...)` took {1e3 * ours:.0f} ms; `import numpy, "
        f"safetensors.numpy` alone {1e3 * theirs:.0f} ms.",
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
