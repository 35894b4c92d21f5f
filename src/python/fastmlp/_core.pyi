"""The C++ core: numpy arrays in, numpy arrays out.

Shapes below: ``n`` rows, ``k`` input features, ``m`` outputs, ``L`` layers of weights.
Every array of floats has the dtype of the engine it is given to (float32 or float64); nothing is converted
silently, a mismatch raises ``TypeError`` and a wrong shape ``ValueError``.

The flat parameter buffer holds the weight matrices first, each ``(fan_in, fan_out)`` in C order, then the biases,
each ``(fan_out,)``: the order in which scikit-learn packs them. Optimizer state uses the same order, one buffer a slot.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

FloatArray: TypeAlias = NDArray[np.float32] | NDArray[np.float64]
# dense (n, k), rows contiguous; or a CSR matrix as (data, indices int32, indptr int64, n_columns)
Matrix: TypeAlias = FloatArray | tuple[FloatArray, NDArray[np.int32], NDArray[np.int64], int]
# (n, m) floats; or (n,) int32 class numbers, which stand for one-hot rows
Targets: TypeAlias = FloatArray | NDArray[np.int32]

__version__: str

# --- catalogues: what the C++ lists hold, in their order ------------------------------------------------------------

def activations() -> dict[str, dict[str, Any]]:
    """Name -> {"formula": str}."""

def losses() -> dict[str, dict[str, Any]]:
    """Name -> {"formula": str, "link": output activation, "domain": valid targets, "mean_over_outputs": bool}.

    With ``mean_over_outputs`` the loss that `Engine.train` reports is divided by the number of outputs, as in
    scikit-learn; gradients and `Engine.loss_and_gradient` are always those of the sum.
    """

def optimizers() -> dict[str, dict[str, Any]]:
    """Name -> {"formula": str, "hyperparameters": {name: default}, "slots": [state names]}."""

def config() -> dict[str, Any]:
    """How the core was built and what it chose on this machine."""

def set_blas(mode: str, sgemm: object, dgemm: object) -> None:
    """Say when engines use a BLAS ("off", "auto", "on") and hand over capsules of Fortran ``sgemm`` and ``dgemm``."""

def set_instruction_set(name: str) -> None:
    """Choose the kernels used by engines made from now on: a name of ``config()["instruction_sets"]``."""

def set_steady_threads(on: bool) -> bool:
    """Have as many threads as asked for even while other programs need the processors, which slows down all of them."""

def processor_quota(root: str = "") -> float:
    """Processors' worth of time that Linux control groups grant; ``root`` is put before ``/proc`` and mounted paths."""

def fma_peak(dtype: str, n_threads: int = 1, seconds: float = 0.05) -> float:
    """Floating-point operations per second of independent multiply-adds: the rate that no product can pass."""

# --- the catalogues applied by the kernels of the chosen instruction set: what the tests compare --------------------

def apply_activation(name: str, z: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Value and slope of an activation at each element of ``z`` (any length, 1-D)."""

def apply_loss(name: str, z: FloatArray, y: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Predictions ``(n, m)``, losses ``(n,)`` and gradient with respect to ``z`` ``(n, m)``."""

def apply_optimizer(
    name: str,
    hyperparameters: Mapping[str, float],
    learning_rate: float,
    t: int,
    parameters: FloatArray,
    gradient: FloatArray,
    slots: Sequence[FloatArray],
) -> None:
    """One update in place of ``parameters`` and ``slots`` (1-D, equal lengths); ``t`` counts from 1."""

# --- random numbers -------------------------------------------------------------------------------------------------

class MT19937:
    """NumPy's legacy generator: the same shuffles as ``numpy.random.RandomState``."""

    def __init__(self, key: NDArray[np.uint32], pos: int) -> None: ...
    def shuffle(self, x: NDArray[np.int64]) -> None: ...
    @property
    def state(self) -> tuple[NDArray[np.uint32], int]: ...

# --- the network: plain data ----------------------------------------------------------------------------------------

class Network:
    """What a network is: layer sizes, hidden activations, loss (which owns the output activation)."""

    def __init__(self, layer_sizes: Sequence[int], activations: Sequence[str], loss: str) -> None: ...
    @property
    def layer_sizes(self) -> list[int]: ...
    @property
    def activations(self) -> list[str]: ...
    @property
    def loss(self) -> str: ...
    @property
    def n_parameters(self) -> int: ...
    @property
    def coef_offsets(self) -> list[int]: ...
    @property
    def intercept_offsets(self) -> list[int]: ...

# --- the engine: what a device can do for a network -----------------------------------------------------------------

class Predictor:
    """Predictions of one network whose parameters never change, for any number of threads at once."""

    def __init__(
        self,
        network: Network,
        parameters: FloatArray,
        n_threads: int = 0,
        two_columns: bool = False,
        flat: bool = False,
        assume_finite: bool = False,
    ) -> None:
        """``two_columns``: probabilities of both classes for the one output; ``flat``: no axis for the one output."""

    def __call__(self, X: Any, out: Any = None) -> Any:
        """Return the answer for rows or one row, in ``out`` if given; None if it cannot use them as they are.

        It can use C-contiguous arrays of the parameters' dtype, finite unless ``assume_finite``; an ``out`` of the
        right shape that shares no memory with ``X``.
        """

class Engine:
    """Buffers, threads and kernels for one network in one dtype. Reusable; one call at a time.

    ``n_threads=0`` lets the engine choose: as many as the process may use, fewer when the work is small.
    """

    def __init__(self, network: Network, dtype: str, n_threads: int = 0) -> None: ...
    def predict(self, parameters: FloatArray, X: Matrix, layer: int = -1) -> FloatArray:
        """Output of ``layer`` (0 is the input, ``L`` or -1 the predictions), shape ``(n, layer_sizes[layer])``."""

    def loss_and_gradient(
        self, parameters: FloatArray, X: Matrix, y: Targets, sample_weight: FloatArray | None, alpha: float
    ) -> tuple[float, float, FloatArray]:
        """Weighted mean loss of the rows (summed over outputs), L2 penalty, and the gradient of their sum (flat)."""

    def apply(
        self,
        parameters: FloatArray,
        gradient: FloatArray,
        optimizer: str,
        hyperparameters: Mapping[str, float],
        learning_rate: float,
        t: int,
        slots: Sequence[FloatArray],
    ) -> None:
        """The plain path's second half: one optimizer step in place of ``parameters`` and ``slots``."""

    def train(
        self,
        parameters: FloatArray,
        slots: Sequence[FloatArray],
        X: Matrix,
        y: Targets,
        sample_weight: FloatArray | None,
        rows: NDArray[np.int64] | None,
        validation_rows: NDArray[np.int64] | None,
        random: MT19937,
        options: Mapping[str, Any],
        on_epoch: Callable[[int, float, float, float], None] | None,
        rates: Callable[[int, int, int], NDArray[np.float64]] | None = None,
    ) -> dict[str, Any]:
        """Whole epochs: shuffles, batches, steps, stopping rules. ``parameters`` and ``slots`` are updated in place.

        In a slot the weights of a layer are ``(fan_out, fan_in)``; its order is that of the parameters otherwise.

        ``rows``/``validation_rows`` are the row numbers of ``X`` used for training and for the validation score
        (None: all rows; no validation). ``options``, all required unless a default is shown:

        optimizer (name), hyperparameters (dict), learning_rate (float), learning_rate_init (float),
        schedule ("constant" | "invscaling" | "adaptive"), power_t, t (steps done), n_samples_seen (the ``t_`` of
        scikit-learn), alpha, batch_size, max_iter, shuffle (bool), tol, n_iter_no_change (float, may be inf),
        no_improvement_count, best_loss, best_validation_score, score ("accuracy" | "r2"), clip_norm and clip_value
        (inf: none), ema_decay (0: none), report_batch_losses (bool).

        With ``ema_decay`` there is one slot more, the last. Before and after, it holds the weights that steps start
        from, and ``parameters`` their exponential moving average, which validation uses too.

        ``on_epoch(n_iter, loss, validation_score or NaN, learning_rate)`` is called after each epoch with the GIL held;
        the learning rate is that of the next epoch, or with ``rates`` that of the last step. Before each epoch
        ``rates(t, n_steps, no_improvement_count)`` gives the learning rates of the steps t + 1 ... t + n_steps.

        Returns
        -------
        dict
            loss_curve, validation_scores and batch_losses (lists of float), n_iter, t, n_samples_seen, learning_rate,
            no_improvement_count, best_loss, best_validation_score, best_parameters (array or None),
            stopped ("max_iter" | "no_improvement" | "learning_rate" | "interrupted" | "not_finite"),
            failed_epoch, failed_batch (1-based, 0 when finite).
        """
