"""Each library answering with the same network, in the way in which it is fastest: NumPy rows in, NumPy answers out.

scikit-learn and the estimators of fastmlp check their data; PyTorch gets a view of the rows, and runs its modules as
they are or traced and frozen, whichever is quicker; onnxruntime runs the graph that ``fastmlp.export`` writes, and only
its probabilities. A library is imported only where it is used.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import time
from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from libraries import make_training
from workloads import Workload

Answer: TypeAlias = Callable[[np.ndarray], np.ndarray]


class Serving(NamedTuple):
    """A network that answers, and the rows that it is asked about."""

    workload: Workload
    answer: Answer
    X: np.ndarray


def start(way: str, workload: Workload, n_rows: int) -> tuple[Serving, str]:
    """Prepare one way of serving for so many rows at once; return it and the library's version."""
    module, make = WAYS[way]
    X = np.random.default_rng(3).standard_normal((n_rows, workload.layer_sizes[0]), dtype=workload.dtype)
    answer = make(workload.shortened(), X)
    answer(X)
    return Serving(workload, answer, X), str(importlib.import_module(module).__version__)


def is_installed(way: str) -> bool:
    """Tell whether a library can be imported, without doing so."""
    return importlib.util.find_spec(WAYS[way][0]) is not None


def answers(serving: Serving) -> np.ndarray:
    """Return the answers for some of the rows."""
    return serving.answer(serving.X)[:100]


def time_calls(serving: Serving, n_bursts: int, at_least: float) -> list[float]:
    """Return the mean seconds of a call in each burst of as many as last about ``at_least`` seconds."""
    answer, X, n_calls, bursts = serving.answer, serving.X, 1, []
    while len(bursts) < n_bursts:
        start = time.perf_counter()
        for _ in range(n_calls):
            answer(X)
        seconds = time.perf_counter() - start
        if seconds < at_least / 2:
            n_calls *= 2  # the first bursts only find out how many it takes
        else:
            bursts.append(seconds / n_calls)
    return bursts


# --- ways of serving ------------------------------------------------------------------------------------------------


def estimator_of(library: str, workload: Workload) -> Any:
    """Return an estimator with the workload's starting weights."""
    training: Any = make_training(library, workload)
    training.restart()
    return training.model


def predictor(workload: Workload, X: np.ndarray) -> Answer:
    answer: Answer = estimator_of("fastmlp", workload).compile()
    return answer


def estimator(workload: Workload, X: np.ndarray) -> Answer:
    answer: Answer = estimator_of("fastmlp", workload).predict_proba
    return answer


def estimator_of_finite_rows(workload: Workload, X: np.ndarray) -> Answer:
    import sklearn

    answer = estimator(workload, X)
    sklearn.set_config(assume_finite=True)
    return answer


def scikit_learn(workload: Workload, X: np.ndarray) -> Answer:
    answer: Answer = estimator_of("scikit-learn", workload).predict_proba
    return answer


def pytorch(workload: Workload, X: np.ndarray) -> Answer:
    import torch

    training: Any = make_training("PyTorch", workload)
    training.restart()
    eager = torch.nn.Sequential(*training.model, training.link).eval()
    with torch.inference_mode():
        frozen = torch.jit.freeze(torch.jit.trace(eager, torch.from_numpy(X)))

    def answering(module: Any) -> Answer:
        def answer(X: np.ndarray) -> np.ndarray:
            with torch.inference_mode():
                outputs: np.ndarray = module(torch.from_numpy(X)).numpy()
            return outputs

        return answer

    def seconds(answer: Answer) -> float:
        return min(time_calls(Serving(workload, answer, X), 3, 0.02))

    return min(answering(eager), answering(frozen), key=seconds)


def onnxruntime(workload: Workload, X: np.ndarray) -> Answer:
    from onnxruntime import InferenceSession, SessionOptions

    from fastmlp.export import to_onnx

    options = SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = int(os.environ["OMP_NUM_THREADS"]), 1
    graph = to_onnx(estimator_of("fastmlp", workload)).SerializeToString()
    session = InferenceSession(graph, options, providers=["CPUExecutionProvider"])

    def answer(X: np.ndarray) -> np.ndarray:
        outputs: np.ndarray = session.run(["probabilities"], {"X": X})[0]
        return outputs

    return answer


# name -> (module whose version is told, what makes the function that answers)
WAYS: dict[str, tuple[str, Callable[[Workload, np.ndarray], Answer]]] = {
    "Predictor": ("fastmlp", predictor),
    "estimator": ("fastmlp", estimator),
    "estimator, assume_finite": ("fastmlp", estimator_of_finite_rows),
    "scikit-learn": ("sklearn", scikit_learn),
    "PyTorch": ("torch", pytorch),
    "onnxruntime": ("onnxruntime", onnxruntime),
}
OTHERS = [way for way, (module, _) in WAYS.items() if module != "fastmlp"]
