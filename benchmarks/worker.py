"""A process that holds one library and does nothing until it is asked.

Thread pools that spin while they wait, allocators and imports of one library must not disturb another: so each has a
process of its own, which sleeps on its pipe while the others are measured.
"""

from __future__ import annotations

import multiprocessing
import time
import warnings
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Any

from libraries import Training

# Seconds after which the threads of every library have stopped spinning and sleep. OpenBLAS's, which NumPy and SciPy
# bring along, look for work for 2**28 ticks of the processor's clock, a tenth of a second.
PAUSE = 0.15


class Worker:
    """The near end of such a process, which begins with ``subject, greeting = make(*arguments)``.

    The first ``receive()`` gives the greeting: it is ready.
    """

    def __init__(self, library: str, make: Callable[..., tuple[Any, Any]], *arguments: Any) -> None:
        context = multiprocessing.get_context("spawn")
        self.library = library
        self.connection, far_end = context.Pipe()
        self.process = context.Process(target=work, args=(far_end, make, arguments), daemon=True)
        self.process.start()
        far_end.close()  # so that the end of the process is the end of the pipe

    def __enter__(self) -> Worker:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.connection.close()
        self.process.join()

    def send(self, function: Callable[..., Any], *arguments: Any) -> None:
        """Have ``function(subject, *arguments)`` called over there."""
        self.connection.send((function, arguments))

    def receive(self) -> Any:
        """Wait for what it returned."""
        try:
            return self.connection.recv()
        except EOFError:
            raise RuntimeError(f"the process of {self.library} ended; its error stands above") from None

    def ask(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Have a function called, wait for its answer, and until the threads that worked on it sleep."""
        self.send(function, *arguments)
        answer = self.receive()
        time.sleep(PAUSE)
        return answer


def work(connection: Connection, make: Callable[..., tuple[Any, Any]], arguments: tuple[Any, ...]) -> None:
    """Make the subject, send the greeting, then answer until the other end closes."""
    warnings.simplefilter("ignore")
    subject, greeting = make(*arguments)
    with suppress(EOFError, ConnectionError):  # the other end has closed
        connection.send(greeting)
        while True:
            function, arguments = connection.recv()
            connection.send(function(subject, *arguments))


def time_fits(training: Training, at_least: float) -> tuple[float, float]:
    """Return the mean seconds of a fit, over as many as last ``at_least`` seconds, and the loss after the last one."""
    n_fits, seconds = 0, 0.0
    while n_fits == 0 or seconds < at_least:
        training.restart()
        start = time.perf_counter()
        training.fit()
        seconds += time.perf_counter() - start
        n_fits += 1
    return seconds / n_fits, training.loss()


def fma_peak(subject: Any, n_threads: int) -> float:
    """Return the multiply-adds of the processor, in operations per second: runs in the process of fastmlp."""
    from fastmlp import _core

    return float(_core.fma_peak(subject.workload.dtype, n_threads))
