"""Training speed of fastmlp beside scikit-learn, PyTorch, JAX and TensorFlow: ``python benchmarks/compare.py``.

Each library has a process of its own for each workload. All fit the same data from the same weights with the same
shuffles, compiled and warm, turn by turn: a slow moment of the machine hits them all. Each turn must end with the same
loss. Writes ``results/threads_N.json`` (all single times), ``results/table.md`` and ``results/speed.svg``; ``--readme``
updates the README too. Libraries that are not installed are left out.
"""

from __future__ import annotations

import argparse
import json
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import machine
import report
from libraries import LIBRARIES, Training, is_installed, libraries_for, make_training, version
from worker import PAUSE, Worker, fma_peak, time_fits
from workloads import WORKLOADS, Workload

HERE = Path(__file__).resolve().parent
AT_LEAST = 0.15  # seconds of a turn: one fit, or several short ones


def main() -> None:
    """Measure with each number of threads, then write the table and the chart of all."""
    options = parse()
    for library in options.libraries:
        if not is_installed(library):
            print(f"{library} is not installed: left out")
    options.output.mkdir(parents=True, exist_ok=True)
    start = time.perf_counter()
    results = [measure(options, n_threads) for n_threads in options.threads]
    table = report.markdown(results)
    (options.output / "table.md").write_text(table)
    report.draw(results[-1], options.output / "speed.svg")
    print(f"\n{table}\nAfter {(time.perf_counter() - start) / 60:.0f} minutes. Written to {options.output}")
    if options.readme:
        report.update_readme("speed", report.with_chart(table, options.output / "speed.svg"))


def parse() -> argparse.Namespace:
    """Read the command line."""
    n_cpus = len(machine.ALLOWED_CPUS)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--workloads", nargs="+", choices=WORKLOADS, default=list(WORKLOADS), metavar="W", help=" ".join(WORKLOADS))
    add("--threads", nargs="+", type=int, default=sorted({1, n_cpus}), metavar="N", help="numbers of threads (1, all)")
    add("--libraries", nargs="+", choices=LIBRARIES, default=list(LIBRARIES), metavar="L", help=", ".join(LIBRARIES))
    add("--pairs", type=int, default=7, help="turns of each library (%(default)s)")
    add("--output", type=Path, default=HERE / "results", help="folder of the results")
    add("--quick", action="store_true", help="two batches once: shows that it runs, the times mean nothing")
    add("--readme", action="store_true", help="write table and chart into README.md as well")
    options = parser.parse_args()
    options.libraries = ["fastmlp", *(library for library in options.libraries if library != "fastmlp")]
    return options


def measure(options: argparse.Namespace, n_threads: int) -> dict[str, Any]:
    """Measure the workloads with this number of threads, and write what was found."""
    machine.confine_to(n_threads)
    workloads, versions = {}, {}
    for name in options.workloads:
        workload = WORKLOADS[name].shortened() if options.quick else WORKLOADS[name]
        libraries = libraries_for(workload, options.libraries)
        workloads[name], of_these = compare(workload, libraries, n_threads, 1 if options.quick else options.pairs)
        versions |= of_these
        print(f"{name} {workload.shape}, threads: {n_threads}: {report.summary(workloads[name])}", flush=True)
    result = {
        "machine": machine.describe(n_threads),
        "libraries": versions,
        "quick": options.quick,
        "workloads": workloads,
    }
    (options.output / f"threads_{n_threads}.json").write_text(json.dumps(result, indent=1) + "\n")
    return result


def compare(
    workload: Workload, libraries: list[str], n_threads: int, n_rounds: int
) -> tuple[dict[str, Any], dict[str, str]]:
    """Let the libraries fit in turns, each round begun by another one; return the findings and the versions."""
    seconds: dict[str, list[float]] = {library: [] for library in libraries}
    losses: dict[str, float] = {}
    peaks = []
    with ExitStack() as stack:
        workers = {library: stack.enter_context(Worker(library, start, library, workload)) for library in libraries}
        versions = {library: worker.receive() for library, worker in workers.items()}
        time.sleep(PAUSE)
        for i in range(n_rounds):
            peaks.append(workers["fastmlp"].ask(fma_peak, n_threads))
            first = i % len(libraries)
            for library in (*libraries[first:], *libraries[:first]):
                taken, losses[library] = workers[library].ask(time_fits, AT_LEAST)
                seconds[library].append(taken)
                if abs(losses[library] / losses["fastmlp"] - 1) > workload.rtol:
                    raise RuntimeError(f"the losses after a fit of {workload.shape} are too far apart: {losses}")
    facts = {
        "shape": workload.shape,
        "what": workload.what,
        "batch_size": workload.batch_size,
        "n_rows": workload.n_rows,
        "n_epochs": workload.n_epochs,
        "flops": workload.n_flops,
        "losses": losses,
        "seconds": seconds,
        "fma_peak": peaks,
    }
    return facts, versions


def start(library: str, workload: Workload) -> tuple[Training, str]:
    """Train once, which also compiles; return the training and the library's version."""
    training = make_training(library, workload)
    training.restart()
    training.fit()
    return training, version(library)


if __name__ == "__main__":
    main()
