"""What a stochastic optimizer remembers from step to step, so that training can go on later."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from fastmlp import _core
from fastmlp._parameters import cut, views
from fastmlp.schedules import learning_rates, plateau_of

if TYPE_CHECKING:
    from numpy.typing import DTypeLike, NDArray

    from fastmlp._parameters import Shapes
    from fastmlp.schedules import AnySchedule

OPTIMIZERS = _core.optimizers()  # the catalogue: each call makes a new dict

# scikit-learn's names for the lists of arrays that an optimizer keeps
_SCIKIT_LEARN_SLOTS = {"ms": "m", "vs": "v", "velocities": "velocity"}


class OptimizerState:
    """State and settings of one optimizer of the core's catalogue.

    Parameters
    ----------
    name : str
        A name of ``OPTIMIZERS``.
    hyperparameters : mapping of str to float
        Those of the optimizer; missing ones take the catalogue's defaults.
    learning_rate_init : float
        Learning rate of the first step.
    schedule : {"constant", "invscaling", "adaptive"}, Schedule or callable
        How the learning rate changes: scikit-learn's names after each epoch, schedules at every step.
    power_t : float
        Exponent of "invscaling".
    layer_sizes : sequence of int
        Those of the network whose parameters are updated, input first.
    dtype : dtype
        float32 or float64: that of the parameters.
    shapes : dict of str to list of tuple or None
        Those of all arrays of parameters, by kind: see ``_parameters.array_shapes``.
    ema_decay : float, default=0.0
        Decay rate of the moving average of the parameters; 0 for none.

    Attributes
    ----------
    learning_rate : float
        The current learning rate: that of the last step with a schedule, that of the next epoch otherwise.
    t : int
        Steps done so far.
    dropout_seed : int
        Seed of what each step leaves out; 0 for nothing.
    reduction : float
        Product of all reductions by ``ReduceOnPlateau``.
    slots : dict of str to ndarray of shape (n_parameters,)
        The numbers kept for each parameter, flat, by the catalogue's name, in the core's order: the weights of a layer
        are (fan_out, fan_in) here. Each is also an attribute that gives them as a list of arrays shaped like the
        parameters, weights first, then biases: ``m`` and ``v`` (or scikit-learn's ``ms`` and ``vs``) of "adam",
        ``velocity`` (``velocities``) of "sgd". With an average, ``raw`` holds the parameters that steps start from,
        while those of the model are the average.
    """

    def __init__(
        self,
        name: str,
        hyperparameters: Mapping[str, float],
        learning_rate_init: float,
        schedule: str | AnySchedule,
        power_t: float,
        layer_sizes: Sequence[int],
        dtype: DTypeLike,
        shapes: Shapes,
        ema_decay: float = 0.0,
    ) -> None:
        self.name = name
        self.hyperparameters = dict(hyperparameters)
        self.learning_rate_init = float(learning_rate_init)
        self.learning_rate = float(learning_rate_init)
        self.schedule = schedule
        self.power_t = float(power_t)
        self.t = 0
        self.reduction = 1.0
        self.ema_decay = float(ema_decay)
        self.layer_sizes = list(layer_sizes)
        self.dropout_seed = 0
        self.shapes = shapes
        n = sum(math.prod(shape) for of_layers in shapes.values() for shape in of_layers if shape is not None)
        names = [*OPTIMIZERS[name]["slots"], *(["raw"] if ema_decay else [])]
        self.slots = {slot: _zeros(n, np.dtype(dtype)) for slot in names}

    def __getattr__(self, name: str) -> list[NDArray[Any]]:
        slots = self.__dict__.get("slots", {})  # while it is unpickled, the object is empty
        slot = _SCIKIT_LEARN_SLOTS.get(name, name)
        if slot not in slots:
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        coefs, biases = views(slots[slot], self.layer_sizes)
        by_neuron = (coef.reshape(coef.shape[::-1]) for coef in coefs)
        return [*(coef.T for coef in by_neuron), *biases]

    def start_average(self, parameters: NDArray[Any]) -> None:
        """Have steps start from these flat ``parameters``."""
        if not self.ema_decay:
            return
        starts, raws = (cut(flat, self.shapes) for flat in (parameters, self.slots["raw"]))
        for kind in self.shapes:
            for start, raw in zip(starts[kind], raws[kind], strict=True):
                if start is not None:
                    raw.reshape(start.shape[::-1])[...] = start.T

    def writable_slots(self, dtype: DTypeLike) -> list[NDArray[Any]]:
        """Return the slots in the catalogue's order as ``dtype``, for the core to update in place."""
        self.slots = {name: np.require(slot, dtype, ["C", "A", "W"]) for name, slot in self.slots.items()}
        return list(self.slots.values())

    def options(self) -> dict[str, Any]:
        """Return the part of the core's training options that the optimizer decides."""
        return {
            "optimizer": self.name,
            "hyperparameters": self.hyperparameters,
            "learning_rate": self.learning_rate,
            "learning_rate_init": self.learning_rate_init,
            "schedule": self.schedule if isinstance(self.schedule, str) else "constant",
            "power_t": self.power_t,
            "t": self.t,
            "dropout_seed": getattr(self, "dropout_seed", 0),  # older pickles have none
            "ema_decay": self.ema_decay,
        }

    @property
    def asks_for_progress(self) -> bool:
        """Whether learning rates depend on losses, beyond what the core's own schedules do."""
        return not isinstance(self.schedule, str) and plateau_of(self.schedule) is not None

    def rates(self, n_steps: int) -> Callable[[int, int, int], NDArray[np.float64]] | None:
        """Return what the core asks for the learning rates of an epoch, in a training of ``n_steps`` steps."""
        schedule = self.schedule
        if isinstance(schedule, str):
            return None
        plateau = plateau_of(schedule)

        def rates(t: int, count: int, no_improvement_count: int) -> NDArray[np.float64]:
            if plateau is not None and t > 0:
                self.reduction = plateau.reduced(self.reduction, no_improvement_count)
            return learning_rates(schedule, self.learning_rate_init * self.reduction, t, count, n_steps)

        return rates


def _zeros(n: int, dtype: np.dtype[Any]) -> NDArray[Any]:
    """Return zeros that begin with a cache line: the core reads and writes 64 bytes at a time."""
    line = 64
    room = np.zeros(n * dtype.itemsize + line, np.uint8)
    start = -room.ctypes.data % line
    return room[start : start + n * dtype.itemsize].view(dtype)
