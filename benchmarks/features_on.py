"""Everything at once, in each library: layer normalisation, dropout, a residual skip, AdamW, cosine rate, average.

The network of W3, 54-256-256-7, where a hidden layer is ``dropout(relu(layer_norm(z)))`` and the second one's sums have
those of the first added. Weights decay, biases and norms do not. The frameworks are driven as in ``libraries.py``:
PyTorch eagerly with its fused AdamW and one fused call for the average, JAX with one compiled call an epoch.
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from libraries import BETA_1, BETA_2, EPSILON, RATE, JaxTraining, Training
from workloads import Workload, shuffles

DROPOUT, DECAY, EMA = 0.1, 0.01, 0.99
NORM_EPSILON = 1e-5


class FastmlpPlain(Training):
    """This package without any of it."""

    settings: ClassVar[dict[str, Any]] = {}

    def __init__(self, workload: Workload) -> None:
        from fastmlp import MLPClassifier

        super().__init__(workload)
        self.model = MLPClassifier(
            workload.hidden_layer_sizes,
            alpha=0,
            batch_size=workload.batch_size,
            max_iter=workload.n_epochs,
            tol=0.0,
            n_iter_no_change=np.inf,
            random_state=0,
            **self.settings,
        )

    def restart(self) -> None:
        """``fit`` begins anew."""

    def fit(self) -> None:
        self.model.fit(self.X, self.y)

    def outputs(self, X: np.ndarray) -> np.ndarray:
        answer: np.ndarray = self.model.predict_proba(X)
        return answer


class FastmlpFeatures(FastmlpPlain):
    """This package with all of it."""

    settings: ClassVar[dict[str, Any]] = {
        "normalization": "layer_norm",
        "dropout": DROPOUT,
        "residual": True,
        "initialization": "he_normal",
        "solver": "adamw",
        "weight_decay": DECAY,
        "learning_rate": "cosine",
        "ema_decay": EMA,
    }


class TorchFeatures(Training):
    """PyTorch, eager."""

    def __init__(self, workload: Workload) -> None:
        import torch

        super().__init__(workload)
        self.torch = torch
        hidden = workload.hidden_layer_sizes
        self.linear = [torch.nn.Linear(*weights.shape) for weights, _ in self.layers]
        self.norms = [torch.nn.LayerNorm(size, NORM_EPSILON) for size in hidden]
        self.modules = torch.nn.ModuleList([*self.linear, *self.norms])
        self.parameters = [*self.modules.parameters()]
        self.average = [parameter.detach().clone() for parameter in self.parameters]
        self.X_tensor, self.y_tensor = torch.from_numpy(self.X), torch.from_numpy(self.y)
        orders = torch.from_numpy(shuffles(workload))
        self.batches = [rows for epoch in orders for rows in epoch.split(workload.batch_size)]

    def restart(self) -> None:
        torch = self.torch
        with torch.no_grad():
            for module, (weights, bias) in zip(self.linear, self.layers, strict=True):
                module.weight.copy_(torch.from_numpy(weights.T))
                module.bias.copy_(torch.from_numpy(bias))
            for norm in self.norms:
                norm.reset_parameters()
            for average, parameter in zip(self.average, self.parameters, strict=True):
                average.copy_(parameter)
        decays = [parameter for parameter in self.parameters if parameter.ndim == 2]
        rest = [parameter for parameter in self.parameters if parameter.ndim == 1]
        groups = [{"params": decays, "weight_decay": DECAY}, {"params": rest, "weight_decay": 0.0}]
        self.optimizer = torch.optim.AdamW(groups, RATE, (BETA_1, BETA_2), EPSILON, fused=True)
        self.schedule = torch.optim.lr_scheduler.CosineAnnealingLR(self.optimizer, len(self.batches))
        self.modules.train()

    def _sums(self, X: Any, training: bool) -> Any:
        functional, (first, second, last) = self.torch.nn.functional, self.linear
        z = first(X)
        a = functional.dropout(self.norms[0](z).relu(), DROPOUT, training)
        z = second(a) + z
        return last(functional.dropout(self.norms[1](z).relu(), DROPOUT, training))

    def fit(self) -> None:
        torch = self.torch
        for rows in self.batches:
            z = self._sums(self.X_tensor.index_select(0, rows), True)
            loss = torch.nn.functional.cross_entropy(z, self.y_tensor.index_select(0, rows))
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            self.schedule.step()
            with torch.no_grad():
                torch._foreach_lerp_(self.average, self.parameters, 1 - EMA)

    def outputs(self, X: np.ndarray) -> np.ndarray:
        trained = [parameter.detach().clone() for parameter in self.parameters]
        with self.torch.no_grad():
            for parameter, average in zip(self.parameters, self.average, strict=True):
                parameter.copy_(average)
            answer: np.ndarray = self._sums(self.torch.from_numpy(X), False).softmax(dim=1).numpy()
            for parameter, kept in zip(self.parameters, trained, strict=True):
                parameter.copy_(kept)
        return answer


class JaxFeatures(JaxTraining):
    """JAX: one compiled call an epoch, as without it."""

    def __init__(self, workload: Workload) -> None:
        super().__init__(workload)
        self.n_steps = workload.n_epochs * -(-workload.n_rows // workload.batch_size)

    def restart(self) -> None:
        jax, jnp = self.jax, self.jax.numpy
        layers = [(jnp.array(weights), jnp.array(bias)) for weights, bias in self.layers]
        norms = [(jnp.ones(size), jnp.zeros(size)) for size in self.workload.hidden_layer_sizes]
        parameters = {"layers": layers, "norms": norms}
        zeros = [jax.tree.map(jnp.zeros_like, parameters) for _ in range(2)]
        average = jax.tree.map(jnp.copy, parameters)
        state = parameters, *zeros, average, jnp.zeros(()), jax.random.key(0)
        self.state = jax.block_until_ready(state)

    def outputs(self, X: np.ndarray) -> np.ndarray:
        return np.asarray(self.answer(self.state[3], X))

    def _answer(self, parameters: Any, X: Any) -> Any:
        return self.jax.nn.softmax(self._sums(parameters, X, None))

    def _hidden(self, z: Any, norm: Any, key: Any) -> Any:
        jnp = self.jax.numpy
        centred = z - z.mean(axis=1, keepdims=True)
        inverse = self.jax.lax.rsqrt((centred * centred).mean(axis=1, keepdims=True) + NORM_EPSILON)
        a = self.jax.nn.relu(centred * inverse * norm[0] + norm[1])
        if key is None:
            return a
        return jnp.where(self.jax.random.bernoulli(key, 1 - DROPOUT, a.shape), a / (1 - DROPOUT), 0)

    def _sums(self, parameters: Any, X: Any, key: Any) -> Any:
        first, second, last = parameters["layers"]
        keys = (None, None) if key is None else self.jax.random.split(key)
        z = X @ first[0] + first[1]
        a = self._hidden(z, parameters["norms"][0], keys[0])
        z = a @ second[0] + second[1] + z
        return self._hidden(z, parameters["norms"][1], keys[1]) @ last[0] + last[1]

    def _dropped_loss(self, parameters: Any, X: Any, y: Any, key: Any) -> Any:
        jnp, z = self.jax.numpy, self._sums(parameters, X, key)
        return jnp.mean(self.jax.nn.logsumexp(z, axis=1) - jnp.take_along_axis(z, y[:, None], axis=1)[:, 0])

    def _step(self, state: Any, X: Any, y: Any, rows: Any) -> Any:
        jnp, tree = self.jax.numpy, self.jax.tree
        parameters, means, squares, average, t, key = state
        key, own = self.jax.random.split(key)
        gradients = self.jax.grad(self._dropped_loss)(parameters, X[rows], y[rows], own)
        rate = RATE * (1 + jnp.cos(jnp.pi * t / self.n_steps)) / 2
        t = t + 1
        correction = jnp.sqrt(1 - BETA_2**t) / (1 - BETA_1**t)
        means = tree.map(lambda m, g: BETA_1 * m + (1 - BETA_1) * g, means, gradients)
        squares = tree.map(lambda v, g: BETA_2 * v + (1 - BETA_2) * g * g, squares, gradients)

        def update(p: Any, m: Any, v: Any) -> Any:
            decayed = p * (1 - rate * DECAY) if p.ndim == 2 else p
            return decayed - rate * correction * m / (v**0.5 + EPSILON)

        parameters = tree.map(update, parameters, means, squares)
        average = tree.map(lambda a, p: EMA * a + (1 - EMA) * p, average, parameters)
        return parameters, means, squares, average, t, key


TRAININGS: dict[str, tuple[str, type[Training]]] = {
    "plain": ("fastmlp", FastmlpPlain),
    "fastmlp": ("fastmlp", FastmlpFeatures),
    "PyTorch": ("torch", TorchFeatures),
    "JAX": ("jax", JaxFeatures),
}
