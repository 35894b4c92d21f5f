"""What a fit costs beside its arithmetic: ``python benchmarks/costs.py``.

Three questions. What does a fit on tiny data spend outside the training loop, and how much of it does scikit-learn's
validation of the input take? How much throughput do two processes lose that train at once, each with all cores? How
much memory does a fit take beyond its data (Linux only)?
"""

from __future__ import annotations

import argparse
import re
import statistics
import time
from contextlib import suppress
from itertools import pairwise
from pathlib import Path

import machine
from compare import start
from libraries import Training
from worker import Worker, time_fits
from workloads import WORKLOADS, Workload, make_data

STATUS, PEAK = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def main() -> None:
    """Answer the three questions, each in processes of their own."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="once each: shows that it runs, the numbers mean nothing")
    quick = parser.parse_args().quick
    print_tiny_fit(n_fits=3 if quick else 500)
    for name in ("W1", "W3"):
        workload = WORKLOADS[name].shortened() if quick else WORKLOADS[name]
        print_two_processes(name, workload, n_rounds=1 if quick else 7, seconds=0.01 if quick else 1.0)
    for name in ("W4", "W5"):
        print_memory(name, WORKLOADS[name])


def fastmlp_on(workload: Workload) -> Worker:
    """Return a process in which fastmlp has trained the workload once."""
    return Worker("fastmlp", start, "fastmlp", workload)


def print_tiny_fit(n_fits: int) -> None:
    """Print where the time of one epoch on iris goes."""
    with fastmlp_on(WORKLOADS["iris"]) as worker:
        worker.receive()
        outside, parameters, data = worker.ask(outside_the_loop, n_fits)
    print(
        f"iris, a fit of one epoch: {outside:.0f} us outside the training loop; scikit-learn's validation of the data "
        f"takes {data:.0f} us, of the parameters {parameters:.0f} us; beyond both {outside - data - parameters:.0f} us"
    )


def outside_the_loop(training: Training, n_fits: int) -> list[float]:
    """Return medians in microseconds: fit without ``Engine.train``; scikit-learn's checks of parameters and of data."""
    import sklearn.neural_network

    import fastmlp
    from fastmlp import _core

    in_loop = []
    train = _core.Engine.train

    def timed_train(*arguments: object) -> object:
        start = time.perf_counter()
        outcome = train(*arguments)
        in_loop.append(time.perf_counter() - start)
        return outcome

    _core.Engine.train = timed_train
    ours, theirs = (
        module.MLPClassifier(batch_size=150, max_iter=1, random_state=0) for module in (fastmlp, sklearn.neural_network)
    )
    rounds = []
    for _ in range(n_fits):
        times = [time.perf_counter()]
        ours.fit(training.X, training.y)
        times.append(time.perf_counter())
        theirs._validate_params()
        times.append(time.perf_counter())
        theirs._validate_input(training.X, training.y, incremental=False, reset=True)
        times.append(time.perf_counter())
        fit, parameters, data = (end - start for start, end in pairwise(times))
        rounds.append((fit - in_loop[-1], parameters, data))
    return [1e6 * statistics.median(column) for column in zip(*rounds, strict=True)]


def print_two_processes(name: str, workload: Workload, n_rounds: int, seconds: float) -> None:
    """Print what two trainings at once lose against one after the other; each uses all cores."""
    n_threads = len(machine.ALLOWED_CPUS)
    losses = []
    with fastmlp_on(workload) as first, fastmlp_on(workload) as second:
        workers = first, second
        for worker in workers:
            worker.receive()
            worker.ask(use_threads, n_threads)
        for _ in range(n_rounds):
            alone = [worker.ask(time_fits, seconds)[0] for worker in workers]
            for worker in workers:
                worker.send(time_fits, seconds)
            at_once = [worker.receive()[0] for worker in workers]
            fits_per_second = sum(1 / taken for taken in at_once)
            losses.append(1 - fits_per_second * statistics.mean(alone))
    print(
        f"{name}, two processes with {n_threads} threads each on {n_threads} cores: at once they lose "
        f"{statistics.median(losses):.0%} ({min(losses):.0%} to {max(losses):.0%}) against one after the other"
    )


def use_threads(training: Training, n_threads: int) -> None:
    """Fix the number of threads, which fastmlp would choose by the work of a step."""
    training.model.set_params(n_jobs=n_threads)


def print_memory(name: str, workload: Workload) -> None:
    """Print the peak of a fit beside what it may need: four numbers a parameter, and the buffers of a batch."""
    with fastmlp_on(WORKLOADS["iris"]) as worker:  # modules and threads are there before it is measured
        worker.receive()
        taken = worker.ask(peak_of_a_fit, workload)
    if taken is None:
        print("the peak of the memory is not measured: this needs Linux's /proc")
        return
    data, fit = taken
    parameters = 4 * 4 * workload.n_parameters / 1e6
    batch = 2 * 4 * workload.batch_size * sum(workload.layer_sizes) / 1e6
    print(
        f"{name}, memory: data {data:.1f} MB; a fit takes {fit:.1f} MB more; four times the parameters are "
        f"{parameters:.1f} MB, values and gradients of all units for one batch {batch:.1f} MB"
    )


def peak_of_a_fit(_: Training, workload: Workload) -> tuple[float, float] | None:
    """Return megabytes: the data, and by how much a fit raises the resident memory at its peak."""
    import fastmlp

    X, y = make_data(workload)
    model = fastmlp.MLPClassifier(
        hidden_layer_sizes=workload.hidden_layer_sizes, batch_size=workload.batch_size, max_iter=1
    )
    with suppress(OSError):
        PEAK.write_text("5")  # the peak starts anew
        before = _status("VmRSS")
        model.fit(X, y)
        return (X.nbytes + y.nbytes) / 1e6, _status("VmHWM") - before
    return None


def _status(field: str) -> float:
    """Return a field of this process's memory in megabytes."""
    found = re.search(rf"{field}:\s+(\d+) kB", STATUS.read_text())
    assert found
    return int(found[1]) * 1024 / 1e6


if __name__ == "__main__":
    main()
