"""Each library training the same network, in the way in which it is fastest: ``restart()``, ``fit()``, ``outputs()``.

fastmlp and scikit-learn are measured through their estimators: a fit checks its data, draws its shuffles and keeps a
loss curve. The frameworks get their data as tensors and their shuffles ready-made, report no loss, and are compiled
before the clock starts: PyTorch runs eagerly with its fused Adam, JAX and TensorFlow run a whole epoch in one call.
A framework is imported only where it is used.
"""

from __future__ import annotations

import importlib
import importlib.util
from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import Any

import numpy as np
from workloads import Workload, make_data, mean_loss, shuffles, starting_weights

RATE, BETA_1, BETA_2, EPSILON = 1e-3, 0.9, 0.999, 1e-8
N_LOSS_ROWS = 2_000


class Training(ABC):
    """One library on one workload; ``fit`` after ``restart``, as often as you like, always with the same result."""

    def __init__(self, workload: Workload) -> None:
        self.workload = workload
        self.X, self.y = make_data(workload)
        self.layers = starting_weights(workload)

    @abstractmethod
    def restart(self) -> None:
        """Put weights and optimizer back to the start."""

    @abstractmethod
    def fit(self) -> None:
        """Train for the workload's epochs; return when it is done, not when it is under way."""

    @abstractmethod
    def outputs(self, X: np.ndarray) -> np.ndarray:
        """Predicted probabilities or values of the rows of X (n, n_features)."""

    def loss(self) -> float:
        """Loss of the first rows under the present weights: tells whether the right problem was learned."""
        return mean_loss(self.workload, self.outputs(self.X[:N_LOSS_ROWS]), self.y[:N_LOSS_ROWS])


class EstimatorTraining(Training):
    """fastmlp or scikit-learn: warm_start makes the next fit begin at the weights that ``restart`` has put there."""

    module: str

    def __init__(self, workload: Workload) -> None:
        super().__init__(workload)
        module = importlib.import_module(self.module)
        make: Any = module.MLPRegressor if workload.regression else module.MLPClassifier
        self.model = make(
            hidden_layer_sizes=workload.hidden_layer_sizes,
            activation=workload.activation,
            alpha=0,
            batch_size=workload.batch_size,
            max_iter=1,
            tol=0.0,
            n_iter_no_change=np.inf,
            warm_start=True,
            random_state=0,
        ).fit(self.X, self.y)
        self.model.set_params(max_iter=workload.n_epochs)

    def restart(self) -> None:
        for layer, (weights, bias) in enumerate(self.layers):
            self.model.coefs_[layer][...] = weights
            self.model.intercepts_[layer][...] = bias

    def fit(self) -> None:
        self.model.fit(self.X, self.y)

    def outputs(self, X: np.ndarray) -> np.ndarray:
        answer: np.ndarray = self.model.predict(X) if self.workload.regression else self.model.predict_proba(X)
        return answer


class FastmlpTraining(EstimatorTraining):
    """This package."""

    module = "fastmlp"


class ScikitLearnTraining(EstimatorTraining):
    """The package whose interface this one has."""

    module = "sklearn.neural_network"


class TorchTraining(Training):
    """PyTorch as it is used most: eager, with its fused Adam."""

    def __init__(self, workload: Workload) -> None:
        import torch

        super().__init__(workload)
        self.torch = torch
        dtype = getattr(torch, workload.dtype)
        activation = {"relu": torch.nn.ReLU, "tanh": torch.nn.Tanh}[workload.activation]
        modules: list[Any] = []
        for weights, _ in self.layers:
            modules += [torch.nn.Linear(*weights.shape, dtype=dtype), activation()]
        self.model = torch.nn.Sequential(*modules[:-1])
        self.optimizer = torch.optim.Adam(self.model.parameters(), RATE, (BETA_1, BETA_2), EPSILON, fused=True)
        functional = torch.nn.functional
        target_dtype = torch.int64
        if workload.regression:
            criterion, self.link, target_dtype = functional.mse_loss, torch.nn.Identity(), dtype
        elif workload.layer_sizes[-1] == 1:
            criterion, self.link = functional.binary_cross_entropy_with_logits, torch.nn.Sigmoid()
            target_dtype = dtype
        else:
            criterion, self.link = functional.cross_entropy, torch.nn.Softmax(dim=1)
        self.criterion: Any = criterion
        # The squared error of the estimators is half of this one: halving the seed of the gradient costs no operation.
        self.seed = torch.tensor(0.5 if workload.regression else 1.0, dtype=dtype)
        self.tensors = torch.from_numpy(self.X), torch.from_numpy(self.y).to(target_dtype)
        if workload.layer_sizes[-1] == 1:
            self.tensors = self.tensors[0], self.tensors[1][:, None]
        self.batches = [
            rows for epoch in torch.from_numpy(shuffles(workload)) for rows in epoch.split(workload.batch_size)
        ]

    def restart(self) -> None:
        with self.torch.no_grad():
            linear = [module for module in self.model if hasattr(module, "weight")]
            for module, (weights, bias) in zip(linear, self.layers, strict=True):
                module.weight.copy_(self.torch.from_numpy(weights.T))
                module.bias.copy_(self.torch.from_numpy(bias))
        for state in self.optimizer.state.values():
            for tensor in state.values():
                tensor.zero_()

    def fit(self) -> None:
        X, y = self.tensors
        for rows in self.batches:
            loss = self.criterion(self.model(X.index_select(0, rows)), y.index_select(0, rows))
            self.optimizer.zero_grad()
            loss.backward(self.seed)
            self.optimizer.step()

    def outputs(self, X: np.ndarray) -> np.ndarray:
        with self.torch.inference_mode():
            answer: np.ndarray = self.link(self.model(self.torch.from_numpy(X))).numpy()
        return answer


class JaxTraining(Training):
    """JAX: one compiled call an epoch, a scan over its batches; the last, shorter batch follows in the same call."""

    def __init__(self, workload: Workload) -> None:
        import jax

        super().__init__(workload)
        jax.config.update("jax_enable_x64", workload.dtype == "float64")
        self.jax = jax
        self.activation = jax.numpy.tanh if workload.activation == "tanh" else jax.nn.relu
        n_full = workload.n_rows // workload.batch_size * workload.batch_size
        orders = shuffles(workload).astype(np.int32)
        self.epochs = [
            (jax.numpy.asarray(order[:n_full].reshape(-1, workload.batch_size)), jax.numpy.asarray(order[n_full:]))
            for order in orders
        ]
        y = self.y if workload.regression else self.y.astype(np.int32)
        self.arrays = jax.numpy.asarray(self.X), jax.numpy.asarray(y)
        self.epoch = jax.jit(self._epoch, donate_argnums=0)
        self.answer = jax.jit(self._answer)

    def restart(self) -> None:
        jnp = self.jax.numpy
        parameters = [(jnp.array(weights), jnp.array(bias)) for weights, bias in self.layers]
        zeros = [self.jax.tree.map(jnp.zeros_like, parameters) for _ in range(2)]
        self.state = self.jax.block_until_ready((parameters, *zeros, jnp.zeros((), self.workload.dtype)))

    def fit(self) -> None:
        for batches, rest in self.epochs:
            self.state = self.epoch(self.state, *self.arrays, batches, rest)
        self.jax.block_until_ready(self.state)

    def outputs(self, X: np.ndarray) -> np.ndarray:
        return np.asarray(self.answer(self.state[0], X))

    def _logits(self, parameters: Any, X: Any) -> Any:
        for weights, bias in parameters[:-1]:
            X = self.activation(X @ weights + bias)
        weights, bias = parameters[-1]
        return X @ weights + bias

    def _answer(self, parameters: Any, X: Any) -> Any:
        z = self._logits(parameters, X)
        if self.workload.regression:
            return z
        return self.jax.nn.sigmoid(z) if z.shape[1] == 1 else self.jax.nn.softmax(z)

    def _loss(self, parameters: Any, X: Any, y: Any) -> Any:
        jnp = self.jax.numpy
        z = self._logits(parameters, X)
        if self.workload.regression:
            return jnp.mean((z[:, 0] - y) ** 2) / 2
        if z.shape[1] == 1:
            return jnp.mean(self.jax.nn.softplus(z[:, 0]) - y * z[:, 0])
        of_label = jnp.take_along_axis(z, y[:, None], axis=1)[:, 0]
        return jnp.mean(self.jax.nn.logsumexp(z, axis=1) - of_label)

    def _step(self, state: Any, X: Any, y: Any, rows: Any) -> Any:
        parameters, means, squares, t = state
        gradients = self.jax.grad(self._loss)(parameters, X[rows], y[rows])
        t = t + 1
        rate = RATE * self.jax.numpy.sqrt(1 - BETA_2**t) / (1 - BETA_1**t)
        tree = self.jax.tree
        means = tree.map(lambda m, g: BETA_1 * m + (1 - BETA_1) * g, means, gradients)
        squares = tree.map(lambda v, g: BETA_2 * v + (1 - BETA_2) * g * g, squares, gradients)
        parameters = tree.map(lambda p, m, v: p - rate * m / (v**0.5 + EPSILON), parameters, means, squares)
        return parameters, means, squares, t

    def _epoch(self, state: Any, X: Any, y: Any, batches: Any, rest: Any) -> Any:
        state, _ = self.jax.lax.scan(lambda state, rows: (self._step(state, X, y, rows), None), state, batches)
        return self._step(state, X, y, rest) if rest.size else state


class TensorFlowTraining(Training):
    """TensorFlow: one graph an epoch with the loop over its batches inside; Adam is the library's fused kernel."""

    def __init__(self, workload: Workload) -> None:
        import tensorflow as tf

        super().__init__(workload)
        self.tf = tf
        self.activation = {"relu": tf.nn.relu, "tanh": tf.nn.tanh}[workload.activation]
        self.variables = [tf.Variable(array) for layer in self.layers for array in layer]
        self.means, self.squares = ([tf.Variable(tf.zeros_like(v)) for v in self.variables] for _ in range(2))
        self.t = tf.Variable(tf.zeros((), workload.dtype))
        self.orders = [tf.constant(order.astype(np.int32)) for order in shuffles(workload)]
        y = self.y.astype(np.int32) if workload.layer_sizes[-1] > 1 else self.y.astype(workload.dtype)[:, None]
        self.arrays = tf.constant(self.X), tf.constant(y)
        self.epoch = tf.function(self._epoch)
        self.answer = tf.function(self._answer, reduce_retracing=True)

    def restart(self) -> None:
        starts = [array for layer in self.layers for array in layer]
        for variable, start in zip(self.variables, starts, strict=True):
            variable.assign(start)
        for variable in (*self.means, *self.squares, self.t):
            variable.assign(self.tf.zeros_like(variable))

    def fit(self) -> None:
        for order in self.orders:
            self.epoch(order)
        self.t.numpy()  # waits

    def outputs(self, X: np.ndarray) -> np.ndarray:
        answer: np.ndarray = self.answer(self.tf.constant(X)).numpy()
        return answer

    def _logits(self, X: Any) -> Any:
        tf = self.tf
        *hidden, last = zip(self.variables[::2], self.variables[1::2], strict=True)
        for weights, bias in hidden:
            X = self.activation(tf.nn.bias_add(tf.matmul(X, weights), bias))
        return tf.nn.bias_add(tf.matmul(X, last[0]), last[1])

    def _answer(self, X: Any) -> Any:
        z = self._logits(X)
        if self.workload.regression:
            return z
        return self.tf.sigmoid(z) if z.shape[1] == 1 else self.tf.nn.softmax(z)

    def _loss(self, X: Any, y: Any) -> Any:
        tf = self.tf
        z = self._logits(X)
        if self.workload.regression:
            return tf.reduce_mean(tf.square(z - y)) / 2
        if z.shape[1] == 1:
            return tf.reduce_mean(tf.nn.sigmoid_cross_entropy_with_logits(labels=y, logits=z))
        return tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(labels=y, logits=z))

    def _step(self, rows: Any) -> None:
        tf = self.tf
        X, y = (tf.gather(array, rows) for array in self.arrays)
        with tf.GradientTape() as tape:
            loss = self._loss(X, y)
        gradients = tape.gradient(loss, self.variables)
        t = self.t.assign_add(1)
        beta_1, beta_2 = (tf.constant(beta, t.dtype) for beta in (BETA_1, BETA_2))
        powers = {"beta1_power": tf.pow(beta_1, t), "beta2_power": tf.pow(beta_2, t)}
        constants = {"lr": RATE, "beta1": BETA_1, "beta2": BETA_2, "epsilon": EPSILON}
        updates = zip(self.variables, self.means, self.squares, gradients, strict=True)
        for variable, mean, square, gradient in updates:
            tf.raw_ops.ResourceApplyAdam(
                var=variable.handle, m=mean.handle, v=square.handle, grad=gradient, **powers, **constants
            )

    def _epoch(self, order: Any) -> None:
        tf, batch_size = self.tf, self.workload.batch_size
        n_full = self.workload.n_rows // batch_size * batch_size
        for start in tf.range(0, n_full, batch_size):
            self._step(tf.ensure_shape(order[start : start + batch_size], [batch_size]))
        if n_full < self.workload.n_rows:
            self._step(order[n_full:])


LIBRARIES: dict[str, tuple[str, type[Training]]] = {
    "fastmlp": ("fastmlp", FastmlpTraining),
    "scikit-learn": ("sklearn", ScikitLearnTraining),
    "PyTorch": ("torch", TorchTraining),
    "JAX": ("jax", JaxTraining),
    "TensorFlow": ("tensorflow", TensorFlowTraining),
}


def make_training(library: str, workload: Workload) -> Training:
    """Return the library's training of the workload; imports the library."""
    return LIBRARIES[library][1](workload)


def version(library: str) -> str:
    """Return the version of a library, which it imports."""
    return str(importlib.import_module(LIBRARIES[library][0]).__version__)


def is_installed(library: str) -> bool:
    """Tell whether a library can be imported, without doing so."""
    return importlib.util.find_spec(LIBRARIES[library][0]) is not None


def libraries_for(workload: Workload, wanted: Iterable[str] = tuple(LIBRARIES)) -> list[str]:
    """Return those of the wanted libraries that are installed and take part in the workload."""
    return [
        library
        for library in wanted
        if is_installed(library) and not (workload.tiny and not issubclass(LIBRARIES[library][1], EstimatorTraining))
    ]
