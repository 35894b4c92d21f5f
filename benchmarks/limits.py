"""How near a step comes to what the processor can do, and where the rest goes: ``python benchmarks/limits.py``.

Builds a program without Python (``limits.cpp``) and lets it measure the float32 workloads: the parts of a step as the
engine runs them, the same with all data in the first-level cache, Adam in registers, the peak of the multiply-adds, and
reading and copying memory; everything at one and at two threads, in short bursts turn by turn. Writes
``results/limits.json``; ``--page`` updates the tables of ``docs/limits.md`` too. Needs CMake and a compiler.

``FASTMLP_ISA=avx2 python benchmarks/limits.py --output benchmarks/results/limits_avx2.json`` measures the kernels of
narrower registers; the page shows such files beside the others.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import machine
from workloads import WORKLOADS, Workload

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
PAGE = ROOT / "docs" / "limits.md"
BEGIN, END = "<!-- limits: begin -->\n", "<!-- limits: end -->\n"
COMPARED = HERE / "results" / "threads_2.json"  # what compare.py has found


class Aim(NamedTuple):
    """What a workload should reach: % of the peak with one thread, and times as fast as others with two."""

    share: int
    frameworks: float
    scikit_learn: float


AIMS = {
    "W0": Aim(45, 3.0, 5),
    "W1": Aim(75, 2.5, 10),
    "W2": Aim(72, 2.2, 16),
    "W3": Aim(90, 1.8, 3.4),
    "W4": Aim(86, 1.5, 5),
    "W5": Aim(90, 1.0, 1.5),
    "W6": Aim(75, 1.4, 3.4),
    "W7": Aim(50, 3.5, 50),
}
PRODUCTS = ("forward", "backward", "gradient")
ROUNDS, SECONDS = 40, 10.0  # so many at least, and for so long: moments in which nobody else disturbs are few

Findings = Mapping[str, Any]


def main() -> None:
    """Measure, write the numbers, and the tables that they make."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--workloads", nargs="+", choices=AIMS, default=list(AIMS), metavar="W", help=" ".join(AIMS))
    add("--build", metavar="FOLDER", help="build there, and keep it")
    add("--output", type=Path, default=HERE / "results" / "limits.json", help="where the numbers go")
    add("--page", action="store_true", help="write the tables into docs/limits.md as well")
    add("--quick", action="store_true", help="one round of few rows: shows that it runs, the numbers mean nothing")
    add("--measured", action="store_true", help="measure nothing: take the numbers that are there")
    options = parser.parse_args()
    if not options.measured:
        measure_all(options)
    results = json.loads(options.output.read_text())
    if COMPARED.exists() and not options.quick:
        compared = json.loads(COMPARED.read_text())["workloads"]
        results["compared"] = {name: compared[name] for name in results["workloads"] if name in compared}
    text = tables(results)
    if not options.quick:
        for path in sorted(options.output.parent.glob("limits_*.json")):
            text += "\n" + other_kernels(json.loads(path.read_text()))
    print(f"\n{text}")
    if options.page:
        before, rest = PAGE.read_text().split(BEGIN)
        PAGE.write_text(f"{before}{BEGIN}{text}{END}{rest.split(END)[1]}")


def measure_all(options: argparse.Namespace) -> None:
    """Measure the workloads, and write the numbers."""
    with tempfile.TemporaryDirectory() as scratch:
        kernels = {name: machine.instruction_set(WORKLOADS[name].n_parameters) for name in options.workloads}
        programs = build(Path(options.build or scratch), sorted(set(kernels.values())))
        found = {}
        for name in options.workloads:
            workload = WORKLOADS[name].shortened() if options.quick else WORKLOADS[name]
            found[name] = measure(
                programs[kernels[name]], workload, *((1, 0.0) if options.quick else (ROUNDS, SECONDS))
            )
            print(f"{name} {workload.shape}: {shares(found[name])['step']:.1%} of the peak", flush=True)
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps({"processor": machine.processor(), "workloads": found}, indent=1) + "\n")


def build(folder: Path, kernels: Sequence[str]) -> dict[str, Path]:
    """Compile the program with each of these kernel sets; return their paths."""
    settings = ["-DFASTMLP_KERNEL_TESTS=ON", "-DSKBUILD_PROJECT_VERSION=0", f"-DFASTMLP_KERNELS={';'.join(kernels)}"]
    subprocess.run(["cmake", "-S", ROOT, "-B", folder, *settings], check=True, stdout=subprocess.DEVNULL)
    targets = [f"limits_{name}" for name in kernels]
    subprocess.run(["cmake", "--build", folder, "--target", *targets], check=True, stdout=subprocess.DEVNULL)
    return {name: folder / "tests" / "cpp" / target for name, target in zip(kernels, targets, strict=True)}


def measure(program: Path, workload: Workload, rounds: int, at_least: float) -> dict[str, Any]:
    """Return seconds a step, the best and the median of the rounds, and what they are to be compared with."""
    classes = "log_loss" if workload.layer_sizes[-1] > 1 else "binary_log_loss"
    loss = "squared_error" if workload.regression else classes
    arguments = [rounds, at_least, workload.batch_size, workload.n_rows, loss, *workload.layer_sizes]
    ran = subprocess.run([program, *map(str, arguments)], check=True, capture_output=True, text=True)
    found = json.loads(ran.stdout)
    n_rounds = len(found["one thread"]["step"])
    for group, numbers in found.items():
        if isinstance(numbers, dict):
            best = max if group == "machine" else min  # rates there, seconds elsewhere
            found[group] = {
                name: {"best": best(of_rounds), "median": statistics.median(of_rounds)}
                for name, of_rounds in numbers.items()
            }
    return {
        "shape": workload.shape,
        "batch_size": workload.batch_size,
        "rounds": n_rounds,
        "flops": workload.n_flops / workload.n_rows / workload.n_epochs * workload.batch_size,
        "lanes": lanes_used(workload, found["panel_rows"]),
        "row_bytes": 4 * workload.layer_sizes[0] * workload.batch_size,
        **found,
    }


def lanes_used(workload: Workload, panel_rows: int) -> float:
    """Return which part of the multiply-adds is of use: registers of the last rows and columns may be partly empty."""
    register = panel_rows // 2
    rows = math.ceil(workload.batch_size / register) * register
    useful = done = 0
    for layer, (n_in, n_out) in enumerate(pairwise(workload.layer_sizes)):
        n_products = 1 + (layer > 0)
        useful += (n_products + 1) * workload.batch_size * n_in * n_out
        rest = n_in % panel_rows
        columns = n_in - rest + (0 if not rest else register if rest <= register else panel_rows)
        done += n_products * rows * n_in * n_out + workload.batch_size * columns * n_out
    return useful / done


# --- what the numbers say


def seconds(group: Mapping[str, Mapping[str, float]], *kinds: str) -> float:
    """Return the best times of all parts of these kinds."""
    return sum(times["best"] for name, times in group.items() if name.split()[0] in kinds)


def shares(found: Findings) -> dict[str, float]:
    """Return the share of the peak, were there only what is named and what stands before it."""
    one, ideal, rates = found["one thread"], found["in cache"], found["machine"]
    limit = [
        ("in cache", seconds(ideal, *PRODUCTS)),
        ("adam", seconds(ideal, "adam")),
        ("bound", found["row_bytes"] / rates["read"]["best"]),
    ]
    parts = [
        ("products", seconds(one, *PRODUCTS)),
        ("update", seconds(one, "update")),
        ("gather", seconds(one, "gather")),
        ("others", seconds(one, "columns", "loss", "bias")),
    ]
    least = found["flops"] / rates["multiply_adds 1"]["best"]
    result = {"step": least / seconds(one, "step")}
    for stages in (limit, parts):
        taken = 0.0
        for name, time in stages:
            taken += time
            result[name] = least / taken
    return result


def spent(found: Findings) -> dict[str, float]:
    """Return on what a step at one thread spends its time, in parts of it."""
    one, ideal = found["one thread"], found["in cache"]
    step, least = seconds(one, "step"), found["flops"] / found["machine"]["multiply_adds 1"]["best"]
    adam, products = seconds(ideal, "adam"), seconds(ideal, *PRODUCTS)
    taken = {
        "multiply-adds of use": least,
        "empty lanes": least / found["lanes"] - least,
        "starts and ends of tiles": products - least / found["lanes"],
        "products: memory": seconds(one, *PRODUCTS) - products,
        "update: arithmetic": adam,
        "update: memory": seconds(one, "update") - adam,
        "rows": seconds(one, "gather"),
        "transposes": seconds(one, "columns"),
        "loss, targets": seconds(one, "loss"),
        "biases": seconds(one, "bias"),
    }
    taken["between the parts"] = step - sum(taken.values())
    return {what: time / step for what, time in taken.items()}


def scaling(found: Findings) -> dict[str, float]:
    """Return how many times as fast two threads are, in parts; and how fast they could be."""
    one, two, rates = found["one thread"], found["two threads"], found["machine"]
    panels = math.ceil(found["batch_size"] / found["panel_rows"])
    balance = panels / 2 / math.ceil(panels / 2)
    of_machine = {what: rates[f"{what} 2"]["best"] / rates[f"{what} 1"]["best"] for what in ("multiply_adds", "copy")}
    by_rows = seconds(one, "forward", "backward", "loss", "columns", "gather")
    step = seconds(one, "step")
    computing = by_rows / balance + (step - by_rows)
    factors = {what: seconds(one, *kinds) / max(seconds(two, *kinds), 1e-12) for what, kinds in _KINDS.items()}
    return {
        **of_machine,
        "balance": 2 * balance,
        **factors,
        "waiting": seconds(two, "wait") / seconds(two, "step"),
        "possible": step / (computing / of_machine["multiply_adds"]),
        "step": step / seconds(two, "step"),
    }


_KINDS = {"products": PRODUCTS, "update": ("update",), "gather": ("gather",), "transposes": ("columns",)}


def wanted(compared: Findings, found: Findings, aim: Aim) -> dict[str, float]:
    """Return, for two threads, how fast others were and which share of the peak the aims beside them would need.

    Medians, as the comparison shows them.
    """
    taken = {library: statistics.median(times) for library, times in compared["seconds"].items()}
    theirs = {"frameworks": min(taken[library] for library in taken if library not in ("fastmlp", "scikit-learn"))}
    theirs["scikit_learn"] = taken["scikit-learn"]
    peak = statistics.median(compared["fma_peak"])
    result = {}
    for name in theirs:
        times = getattr(aim, name)
        result |= {f"{name} aim": times, name: theirs[name] / taken["fastmlp"]}
        result[f"{name} need"] = compared["flops"] * times / theirs[name] / peak
    step = found["flops"] / seconds(found["two threads"], "step") / found["machine"]["multiply_adds 2"]["best"]
    return {**result, "fit": compared["flops"] / taken["fastmlp"] / peak, "step": step, "bound": shares(found)["bound"]}


# --- tables


def table(heads: list[str], rows: list[list[str]]) -> str:
    """Return a table in Markdown; all columns but the first two hold numbers."""
    rule = "|---|---|" + "---:|" * (len(heads) - 2)
    return "\n".join([f"| {' | '.join(heads)} |", rule, *(f"| {' | '.join(row)} |" for row in rows)])


def tables(results: Mapping[str, Any]) -> str:
    """Return the tables; the last one if these networks were compared with others, too."""
    found = results["workloads"]
    first = next(iter(found.values()))
    peak = max(workload["machine"]["multiply_adds 1"]["best"] for workload in found.values())
    kernels: dict[str, list[str]] = {}
    for name, w in found.items():
        kernels.setdefault(w["instruction_set"], []).append(name)
    used = "; ".join(f"{kind} in {', '.join(names)}" for kind, names in kernels.items())
    lines = [
        f"{results['processor']}, float32; {used}; peak {peak / 1e9:.1f} GFLOP/s a core; the fastest of at least "
        f"{first['rounds']} rounds.",
        "",
        "**Share of the peak at one thread, were there only ...**",
        "",
    ]
    stages = ("in cache", "adam", "bound", "products", "update", "gather", "others", "step")
    heads = ["", "network", "products in L1", "+ Adam in registers", "+ rows read in order", "products as they run"]
    heads += ["+ update", "+ gather", "+ loss, transposes, biases", "the step", "aim"]
    rows = [
        [
            name,
            f"{w['shape']}, {w['batch_size']}",
            *(f"{shares(w)[stage]:.1%}" for stage in stages),
            f"{AIMS[name].share}%",
        ]
        for name, w in found.items()
    ]
    lines += [table(heads, rows), "", "**What the step spends its time on, in %**", ""]
    rows = [[name, w["shape"], *(f"{100 * part:.1f}" for part in spent(w).values())] for name, w in found.items()]
    lines += [table(["", "network", *spent(first)], rows), "", "**Times as fast with two threads**", ""]
    heads = ["", "network", "multiply-adds", "copying memory", "panels", "products", "update", "gather", "transposes"]
    heads += ["waiting", "possible", "the step"]
    rows = [
        [
            name,
            w["shape"],
            *(f"{n:.0%}" if kind == "waiting" else f"{n:.2f}" if n else "" for kind, n in scaling(w).items()),
        ]
        for name, w in found.items()
    ]
    lines += [table(heads, rows)]
    if results.get("compared"):
        lines += ["", "**What the aims beside others would need of the peak, two threads**", ""]
        heads = ["", "network", "x fastest framework", "aim", "it needs", "x scikit-learn", "aim", "it needs"]
        heads += ["the fit", "the step alone", "were there only products in L1, Adam, rows in order"]
        rows = []
        for name, compared in results["compared"].items():
            w = wanted(compared, found[name], AIMS[name])
            beside = [
                cell
                for others in ("frameworks", "scikit_learn")
                for cell in (f"{w[others]:.2f}", f"{w[others + ' aim']:g}", f"{w[others + ' need']:.0%}")
            ]
            rows.append(
                [name, compared["shape"], *beside, *(f"{w[of_peak]:.0%}" for of_peak in ("fit", "step", "bound"))]
            )
        lines += [table(heads, rows)]
    return "\n".join(lines) + "\n"


def other_kernels(results: Mapping[str, Any]) -> str:
    """Return a table of what the step reaches with the kernels of another instruction set, of the peak of that set."""
    found = results["workloads"]
    peak = max(w["machine"]["multiply_adds 1"]["best"] for w in found.values())
    kinds = ", ".join(sorted({w["instruction_set"] for w in found.values()}))
    heads = ["", "network", "products in L1, Adam, rows in order", "the step", "aim", "times as fast with two threads"]
    rows = [
        [
            name,
            w["shape"],
            f"{shares(w)['bound']:.1%}",
            f"{shares(w)['step']:.1%}",
            f"{AIMS[name].share}%",
            f"{scaling(w)['step']:.2f}",
        ]
        for name, w in found.items()
    ]
    title = f"**The step with the kernels of {kinds}; peak {peak / 1e9:.1f} GFLOP/s a core**"
    return "\n".join([title, "", table(heads, rows)]) + "\n"


if __name__ == "__main__":
    main()
