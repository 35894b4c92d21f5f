"""The workloads that every benchmark measures: data, networks, starting weights, shuffles, and the loss at the end.

All train with Adam at 1e-3 without L2 penalty or early stopping. Every library starts from the same He-normal weights,
so that the 150 layers of W6 neither vanish nor explode, and takes the rows in the same order, so that all must end at
the same loss. Needs NumPy only: each library is to be measured in a process that holds no other.
"""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

import numpy as np


class Workload(NamedTuple):
    """One network with its training data and the length of one fit."""

    layer_sizes: tuple[int, ...]
    batch_size: int
    n_rows: int
    n_epochs: int
    regression: bool = False
    activation: str = "relu"
    dtype: str = "float32"
    tiny: bool = False  # Fisher's iris instead of random data, and no framework beside
    # How far the losses of two libraries may be apart: they round differently, and PyTorch adds Adam's epsilon at
    # another place. A learning rate that is off by a tenth moves every loss by more.
    rtol: float = 1e-3

    @property
    def hidden_layer_sizes(self) -> tuple[int, ...]:
        return self.layer_sizes[1:-1]

    @property
    def n_parameters(self) -> int:
        return sum((fan_in + 1) * fan_out for fan_in, fan_out in pairwise(self.layer_sizes))

    @property
    def n_flops(self) -> float:
        """Floating point operations of one fit: forward, weight gradients, and backward beyond the first layer."""
        products = [fan_in * fan_out for fan_in, fan_out in pairwise(self.layer_sizes)]
        return 2.0 * (3 * sum(products) - products[0]) * self.n_rows * self.n_epochs

    @property
    def shape(self) -> str:
        """The layers in words: ``64-150x64-10`` has 150 hidden layers of 64."""
        hidden = self.hidden_layer_sizes
        if len(hidden) > 2 and len(set(hidden)) == 1:
            hidden = (f"{len(hidden)}x{hidden[0]}",)
        return "-".join(str(size) for size in (self.layer_sizes[0], *hidden, self.layer_sizes[-1]))

    @property
    def what(self) -> str:
        """What sets it apart: task, activation and numbers, where they are not the usual ones."""
        words = ("regression" if self.regression else "", self.activation, self.dtype)
        return ", ".join(word for word in words if word not in ("", "relu", "float32"))

    def shortened(self) -> Workload:
        """The same network on two batches for one epoch: proves that it runs, measures nothing."""
        return self._replace(n_rows=min(self.n_rows, 2 * self.batch_size), n_epochs=1)


WORKLOADS = {
    "W0": Workload((784, 10), 128, 20_000, 8),
    "W1": Workload((64, 100, 10), 200, 1_797, 100, rtol=2e-3),
    "W2": Workload((20, 64, 64, 1), 64, 10_000, 10, regression=True, rtol=5e-3),
    "W3": Workload((54, 256, 256, 7), 256, 50_000, 1),
    "W4": Workload((784, 256, 128, 10), 128, 20_000, 1),
    "W5": Workload((1024, 1024, 1024, 1024, 10), 1024, 8_192, 1),
    "W6": Workload((64, *[64] * 150, 10), 128, 8_192, 1),
    "W7": Workload((20, 32, 32, 1), 32, 10_000, 6),
    "float64": Workload((64, 100, 10), 200, 1_797, 60, dtype="float64"),
    "tanh": Workload((54, 256, 256, 7), 256, 50_000, 1, activation="tanh", rtol=3e-4),
    "wide": Workload((8, 512, 512, 512, 1), 256, 10_000, 1, regression=True, rtol=1e-2),
    "iris": Workload((4, 100, 3), 150, 150, 200, tiny=True),
}


def make_data(workload: Workload) -> tuple[np.ndarray, np.ndarray]:
    """Normal inputs and a linear teacher's targets; a fifth of the labels is noise, so that no loss reaches zero."""
    if workload.tiny:
        from sklearn.datasets import load_iris

        X, y = load_iris(return_X_y=True)
        return X.astype(workload.dtype), y
    random = np.random.default_rng(0)
    n_outputs = workload.layer_sizes[-1]
    n_classes = max(n_outputs, 2)  # one logistic output stands for two classes
    X = random.standard_normal((workload.n_rows, workload.layer_sizes[0]), dtype=workload.dtype)
    if workload.regression:
        teacher = random.standard_normal(X.shape[1], dtype=X.dtype)
        return X, X @ teacher / np.sqrt(X.shape[1], dtype=X.dtype)
    y = (X @ random.standard_normal((X.shape[1], n_classes), dtype=X.dtype)).argmax(axis=1)
    noisy = random.random(len(y)) < 0.2
    y[noisy] = random.integers(0, n_classes, noisy.sum())
    y[:n_classes] = np.arange(n_classes)  # every class occurs, however few the rows
    return X, y


def starting_weights(workload: Workload) -> list[tuple[np.ndarray, np.ndarray]]:
    """Weights (fan_in, fan_out) and zero biases (fan_out,) of each layer, from which every fit starts."""
    random = np.random.default_rng(1)
    sizes = workload.layer_sizes
    layers = []
    for layer, (fan_in, fan_out) in enumerate(pairwise(sizes), 1):
        gain = 2 if workload.activation == "relu" and layer < len(sizes) - 1 else 1
        weights = random.standard_normal((fan_in, fan_out)) * np.sqrt(gain / fan_in)
        layers.append((weights.astype(workload.dtype), np.zeros(fan_out, workload.dtype)))
    return layers


def shuffles(workload: Workload) -> np.ndarray:
    """The order of the rows in each epoch (n_epochs, n_rows): what scikit-learn draws with ``random_state=0``."""
    random = np.random.RandomState(0)
    order = np.arange(workload.n_rows)
    epochs = []
    for _ in range(workload.n_epochs):
        drawn = np.arange(workload.n_rows)
        random.shuffle(drawn)
        order = order[drawn]
        epochs.append(order)
    return np.array(epochs)


def mean_loss(workload: Workload, outputs: np.ndarray, y: np.ndarray) -> float:
    """Mean loss of predicted probabilities or values; two classes may come as one column or two."""
    outputs = np.asarray(outputs, np.float64)
    if workload.regression:
        return float(np.mean((outputs.reshape(y.shape) - y) ** 2) / 2)
    if workload.layer_sizes[-1] == 1:
        outputs = np.column_stack([1 - outputs[:, -1], outputs[:, -1]])
    return float(-np.mean(np.log(outputs[np.arange(len(y)), y])))
