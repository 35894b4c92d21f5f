"""The workloads that every benchmark measures: their data, their networks, their starting weights.

All are float32, relu, Adam at 1e-3, shuffled every epoch, without early stopping. Training starts from He-normal
weights, so that the 150 layers of W6 neither vanish nor explode, and both libraries start from the same bits.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import sklearn.neural_network

import fastmlp

LIBRARIES = {"fastmlp": fastmlp, "scikit-learn": sklearn.neural_network}


class Workload(NamedTuple):
    """One network with its training data and the length of one measured fit."""

    layer_sizes: tuple[int, ...]
    batch_size: int
    n_rows: int
    n_epochs: int
    regression: bool = False
    # How far two float32 trainings drift apart that differ only in rounding, relative to the loss.
    rtol: float = 2e-4

    @property
    def hidden_layer_sizes(self) -> tuple[int, ...]:
        return self.layer_sizes[1:-1]

    @property
    def n_flops(self) -> float:
        """Floating point operations of one fit: forward, weight gradients, and backward beyond the first layer."""
        products = [fan_in * fan_out for fan_in, fan_out in zip(self.layer_sizes, self.layer_sizes[1:], strict=False)]
        return 2.0 * (3 * sum(products) - products[0]) * self.n_rows * self.n_epochs

    @property
    def shape(self) -> str:
        """The layers in words: ``64-150x64-10`` has 150 hidden layers of 64."""
        hidden = self.hidden_layer_sizes
        if len(hidden) > 3 and len(set(hidden)) == 1:
            hidden = (f"{len(hidden)}x{hidden[0]}",)
        return "-".join(str(size) for size in (self.layer_sizes[0], *hidden, self.layer_sizes[-1]))

    def shortened(self) -> Workload:
        """The same network on two batches for one epoch: proves that it runs, measures nothing."""
        return self._replace(n_rows=min(self.n_rows, 2 * self.batch_size), n_epochs=1)


WORKLOADS = {
    "W0": Workload((784, 10), 128, 20_000, 5),
    "W1": Workload((64, 100, 10), 200, 1_797, 50),
    "W2": Workload((20, 64, 64, 1), 64, 10_000, 5, regression=True),
    "W3": Workload((54, 256, 256, 7), 256, 50_000, 1),
    "W4": Workload((784, 256, 128, 10), 128, 20_000, 1),
    "W5": Workload((1024, 1024, 1024, 1024, 10), 1024, 8_192, 1),
    "W6": Workload((64, *[64] * 150, 10), 128, 8_192, 1, rtol=3e-3),
    "W7": Workload((20, 32, 32, 1), 32, 10_000, 5),
}


def make_data(workload: Workload) -> tuple[np.ndarray, np.ndarray]:
    """Normal inputs and a linear teacher's targets; a fifth of the labels is noise, so that no loss reaches zero."""
    random = np.random.default_rng(0)
    n_outputs = workload.layer_sizes[-1]
    n_classes = max(n_outputs, 2)  # one logistic output stands for two classes
    X = random.standard_normal((workload.n_rows, workload.layer_sizes[0]), dtype=np.float32)
    if workload.regression:
        teacher = random.standard_normal(X.shape[1], dtype=np.float32)
        return X, X @ teacher / np.float32(np.sqrt(X.shape[1]))
    y = (X @ random.standard_normal((X.shape[1], n_classes), dtype=np.float32)).argmax(axis=1)
    noisy = random.random(len(y)) < 0.2
    y[noisy] = random.integers(0, n_classes, noisy.sum())
    y[:n_classes] = np.arange(n_classes)  # every class occurs, however few the rows
    return X, y


class Training:
    """One library's estimator on one workload: ``restart()``, then ``fit()``, as often as you like, always alike."""

    def __init__(self, library: str, workload: Workload) -> None:
        module = LIBRARIES[library]
        make: Any = module.MLPRegressor if workload.regression else module.MLPClassifier
        self.workload = workload
        self.X, self.y = make_data(workload)
        self.model = make(
            hidden_layer_sizes=workload.hidden_layer_sizes,
            batch_size=workload.batch_size,
            max_iter=1,
            tol=0.0,
            n_iter_no_change=np.inf,
            warm_start=True,
            random_state=0,
        ).fit(self.X, self.y)
        self.model.set_params(max_iter=workload.n_epochs)

    def restart(self) -> None:
        """Put the weights back to the start; warm_start makes the next fit begin there."""
        random = np.random.default_rng(1)
        n_layers = len(self.model.coefs_)
        for layer, (coef, intercept) in enumerate(zip(self.model.coefs_, self.model.intercepts_, strict=True), 1):
            gain = 1 if layer == n_layers else 2
            coef[...] = random.standard_normal(coef.shape) * np.sqrt(gain / coef.shape[0])
            intercept[...] = 0

    def fit(self) -> None:
        self.model.fit(self.X, self.y)

    @property
    def loss_curve(self) -> np.ndarray:
        """Losses of the last fit; with warm_start the estimator's own list goes on growing."""
        return np.array(self.model.loss_curve_[-self.workload.n_epochs :])
