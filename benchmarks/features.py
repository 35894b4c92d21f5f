"""What it costs to switch everything on, and how that compares: ``python benchmarks/features.py``.

An epoch of W3 with layer normalisation, dropout, a residual skip, AdamW, a cosine rate and averaged weights, beside the
plain epoch and beside the same network in PyTorch and JAX; each in a process of its own, turn by turn. Random numbers
of dropout differ, so losses are only close: they are asserted to within a twentieth. Writes ``results/features.json``
(all single times) and ``results/features.md``. Libraries that are not installed are left out.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import json
import statistics
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import machine
from features_on import TRAININGS
from libraries import Training
from worker import Worker, time_fits
from workloads import WORKLOADS, Workload

HERE = Path(__file__).resolve().parent
AT_LEAST = 0.5  # seconds of a turn
CLOSE = 0.05


def main() -> None:
    """Measure with each number of threads, then write what was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    threads = sorted({1, len(machine.ALLOWED_CPUS)})
    parser.add_argument("--threads", nargs="+", type=int, default=threads, metavar="N", help="numbers of threads")
    parser.add_argument("--pairs", type=int, default=7, help="turns of each (%(default)s)")
    parser.add_argument("--output", type=Path, default=HERE / "results", help="folder of the results")
    parser.add_argument("--quick", action="store_true", help="two batches once: shows that it runs")
    options = parser.parse_args()
    names = [name for name, (module, _) in TRAININGS.items() if importlib.util.find_spec(module)]
    workload = WORKLOADS["W3"].shortened() if options.quick else WORKLOADS["W3"]
    result: dict[str, Any] = {"quick": options.quick, "threads": {}}
    for n_threads in options.threads:
        machine.confine_to(n_threads)
        result["machine"] = machine.describe(n_threads)
        result["threads"][n_threads] = compare(workload, names, 1 if options.quick else options.pairs, options.quick)
    options.output.mkdir(parents=True, exist_ok=True)
    (options.output / "features.json").write_text(json.dumps(result, indent=1) + "\n")
    table = markdown(result)
    (options.output / "features.md").write_text(table)
    print(table)


def compare(workload: Workload, names: list[str], n_rounds: int, quick: bool) -> dict[str, Any]:
    """Let all fit in turns, each round begun by another one."""
    seconds: dict[str, list[float]] = {name: [] for name in names}
    losses: dict[str, float] = {}
    with ExitStack() as stack:
        workers = {name: stack.enter_context(Worker(name, start, name, workload)) for name in names}
        versions = {name: worker.receive() for name, worker in workers.items()}
        for i in range(n_rounds):
            for name in (*names[i % len(names) :], *names[: i % len(names)]):
                taken, losses[name] = workers[name].ask(time_fits, AT_LEAST)
                seconds[name].append(taken)
    switched_on = [loss for name, loss in losses.items() if name != "plain"]
    if not quick and max(switched_on) > (1 + CLOSE) * min(switched_on):
        raise RuntimeError(f"the losses after a fit are too far apart: {losses}")
    return {"seconds": seconds, "losses": losses, "versions": versions}


def start(name: str, workload: Workload) -> tuple[Training, str]:
    """Train once, which also compiles; return the training and the library's version."""
    module, make = TRAININGS[name]
    training = make(workload)
    training.restart()
    training.fit()
    return training, str(importlib.import_module(module).__version__)


def ratios(found: dict[str, Any], name: str, of: str) -> str:
    """Return the median, lowest and highest ratio of the times of two, round by round."""
    pairs = zip(found["seconds"][name], found["seconds"][of], strict=True)
    values = [a / b for a, b in pairs]
    return f"{statistics.median(values):.2f} ({min(values):.2f}-{max(values):.2f})"


def markdown(result: dict[str, Any]) -> str:
    """Return a row for each number of threads."""
    first = next(iter(result["threads"].values()))
    others = [name for name in first["seconds"] if name not in ("plain", "fastmlp")]
    versions = ", ".join(f"{name} {first['versions'][name]}" for name in ("fastmlp", *others))
    lines = [
        f"{result['machine']['processor']}; {versions}. An epoch of 54-256-256-7, batches of 256, with everything on.",
        "",
        "| threads | ms | x the time of a plain epoch | " + " | ".join(f"x {name}" for name in others) + " |",
        "|---:|---:|---:|" + "---:|" * len(others),
    ]
    for n_threads, found in result["threads"].items():
        milliseconds = statistics.median(found["seconds"]["fastmlp"]) * 1e3
        cells = [ratios(found, name, "fastmlp") for name in others]
        plain = ratios(found, "fastmlp", "plain")
        lines.append(f"| {n_threads} | {milliseconds:.1f} | {plain} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
