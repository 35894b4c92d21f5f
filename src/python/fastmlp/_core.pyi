"""The C++ core: numpy arrays in, numpy arrays out.

Shapes below: ``n`` rows, ``k`` input features, ``m`` outputs, ``L`` layers of weights.
Every array of floats has the dtype of the engine it is given to (float32 or float64); nothing is converted
silently, a mismatch raises ``TypeError`` and a wrong shape ``ValueError``.

The flat parameter buffer holds the weight matrices first, each ``(fan_in, fan_out)`` in C order, then the biases,
each ``(fan_out,)``: the order in which scikit-learn packs them. Optimizer state uses the same order, one buffer a slot.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias, overload

import numpy as np
from numpy.typing import NDArray

FloatArray: TypeAlias = NDArray[np.float32] | NDArray[np.float64]
# dense (n, k), rows contiguous; or a CSR matrix as (data, indices int32, indptr int64, n_columns)
# or, for an engine on the same GPU, a CudaArray
Matrix: TypeAlias = FloatArray | tuple[FloatArray, NDArray[np.int32], NDArray[np.int64], int] | CudaArray
# (n, n_targets) floats; or (n,) int32 class numbers, which stand for one-hot rows
Targets: TypeAlias = FloatArray | NDArray[np.int32]
# hyper-parameters by name; defaults where there is none
LossNumbers: TypeAlias = Mapping[str, float | Sequence[float]]
# y (n, n_targets), outputs (n, n_outputs), sample_weight (n,) or None -> mean loss, its gradient by the outputs
BatchLoss: TypeAlias = Callable[[Any, Any, Any], tuple[float, FloatArray]]

__version__: str

# --- catalogues: what the C++ lists hold, in their order ------------------------------------------------------------

def activations() -> dict[str, dict[str, Any]]:
    """Name -> {"formula": str}."""

def output_activations() -> dict[str, dict[str, Any]]:
    """Likewise: those of hidden layers, and those that only suit the output layer."""

def normalizations() -> dict[str, dict[str, Any]]:
    """Name -> {"formula": str, "has_scale": bool, "has_offset": bool, "averages": bool: over the steps of training}."""

def losses() -> dict[str, dict[str, Any]]:
    """Name -> {"formula": str, "link": output activation, "domain": valid targets, ...} and

    "mean_over_outputs" (bool), "hyperparameters" {name: default}, "outputs" [what is predicted for each target],
    "class_numbers" (bool: whether class numbers may stand for rows of targets).

    With ``mean_over_outputs`` the loss that `Engine.train` reports is divided by the number of outputs, as in
    scikit-learn; gradients and `Engine.loss_and_gradient` are always those of the sum.
    """

def loss_outputs(name: str, loss_parameters: LossNumbers = ...) -> tuple[int, int]:
    """How many outputs each target has, and the number of the one that scores compare with the target."""

def optimizers() -> dict[str, dict[str, Any]]:
    """Name -> {"formula": str, "hyperparameters": {name: default}, "slots": [state names]}."""

def config() -> dict[str, Any]:
    """How the core was built and what it chose on this machine."""

def set_blas(mode: str, sgemm: object, dgemm: object) -> None:
    """Say when engines use a BLAS ("off", "auto", "on") and hand over capsules of Fortran ``sgemm`` and ``dgemm``."""

def set_instruction_set(name: str) -> None:
    """Choose the kernels of engines made from now on: a name of ``config()["instruction_sets"]``, or "auto"."""

def set_steady_threads(on: bool) -> bool:
    """Have as many threads as asked for even while other programs need the processors, which slows down all of them."""

def processor_quota(root: str = "") -> float:
    """Processors' worth of time that Linux control groups grant; ``root`` is put before ``/proc`` and mounted paths."""

def fma_peak(dtype: str, n_threads: int = 1, seconds: float = 0.05) -> float:
    """Floating-point operations per second of independent multiply-adds: the rate that no product can pass."""

# --- the catalogues applied by the kernels of the chosen instruction set: what the tests compare --------------------

def apply_activation(name: str, z: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Value and slope of an activation at each element of ``z`` (any length, 1-D)."""

def apply_loss(
    name: str, z: FloatArray, y: FloatArray, loss_parameters: LossNumbers = ...
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Predictions ``(n, m)``, losses ``(n,)`` and gradient by ``z`` ``(n, m)`` for targets ``y`` ``(n, n_targets)``."""

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

    @overload
    def __init__(self, seed: int) -> None: ...
    @overload
    def __init__(self, key: NDArray[np.uint32], pos: int) -> None: ...
    def shuffle(self, x: NDArray[np.int64]) -> None: ...
    def set_state(self, key: NDArray[np.uint32], pos: int) -> None: ...
    @property
    def state(self) -> tuple[NDArray[np.uint32], int]: ...

# --- the network: plain data ----------------------------------------------------------------------------------------

class Network:
    """What a network is: layer sizes, what each hidden layer does, loss (which owns the output activation).

    ``normalizations`` names one for each hidden layer, ``dropout`` gives the share of the inputs and of the units of
    each hidden layer that training leaves out; ``residual`` adds to the sums of each hidden layer but the first those
    of the layer below, through a projection where widths differ. ``output_activation`` is applied to the sums of the
    output layer before the loss, which must have the link "identity".
    """

    def __init__(
        self,
        layer_sizes: Sequence[int],
        activations: Sequence[str],
        loss: str,
        loss_parameters: LossNumbers = ...,
        normalizations: Sequence[str] = (),
        dropout: Sequence[float] = (),
        residual: bool = False,
        output_activation: str = "identity",
    ) -> None: ...
    @property
    def layer_sizes(self) -> list[int]: ...
    @property
    def activations(self) -> list[str]: ...
    @property
    def output_activation(self) -> str: ...
    @property
    def loss(self) -> str: ...
    @property
    def loss_parameters(self) -> dict[str, Any]: ...
    @property
    def n_parameters(self) -> int: ...
    @property
    def normalizations(self) -> list[str]: ...
    @property
    def dropout(self) -> list[float]: ...
    @property
    def residual(self) -> bool: ...
    @property
    def is_plain(self) -> bool:
        """Whether every hidden layer is an activation of weighted sums, and nothing else."""

    @property
    def n_trainable(self) -> int:
        """Numbers that an optimizer changes: all but running means and variances, which are the last ones."""

    @property
    def offsets(self) -> dict[str, list[int]]:
        """Kind -> where each array starts in the flat buffer, or -1; in its order: coefs, intercepts, scales, offsets,

        projections, running_means, running_variances. One for each layer of weights, or for each hidden layer.
        """

# --- predictions ----------------------------------------------------------------------------------------------------

def predict(
    network: Network, parameters: FloatArray, X: Any, n_threads: int = 0, assume_finite: bool = False
) -> FloatArray | None:
    """Return the output layer for rows X with the parameters as they are now; None if X cannot be used as it is.

    It must be a C-contiguous (n, n_features) array, n > 0, of the parameters' dtype, finite unless ``assume_finite``,
    and of no subclass. Any number of threads may call this at once; few rows cost no more than their arithmetic.
    """

def all_finite(array: FloatArray, n_threads: int = 0) -> bool:
    """Whether a C-contiguous array holds neither NaN nor infinity."""

def hessian_vector_product(
    network: Network,
    parameters: NDArray[np.float64],
    X: Matrix,
    y: Targets,
    sample_weight: NDArray[np.float64] | None,
    alpha: float,
    vector: NDArray[np.float64],
    n_threads: int = 0,
) -> NDArray[np.float64]:
    """Times ``vector`` (flat) the Hessian of loss and penalty as in `Engine.loss_and_gradient`, without dropout."""

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

# --- the GPU engine, a library that is opened when it is asked for ---------------------------------------------------

def cuda_status(library: str, device: int, cublas: Sequence[str]) -> dict[str, Any]:
    """What can be said of a GPU: "state" and more, after looking for cuBLASLt under these names, in their order.

    Raises ``RuntimeError`` if the library cannot be opened, or is of another build than this module.
    """

class CudaArray:
    """An array of another library that is on a GPU, where it is; ready to be read once this is made.

    Described by DLPack, for which its producer has CUDA's default stream wait for its own work, or by
    ``__cuda_array_interface__``, whose stream is waited for here. ``name`` is what errors call it. What is no such
    array raises ``ValueError`` or ``TypeError``, and what CUDA reports ``RuntimeError``.
    """

    def __init__(self, array: object, library: str, name: str = "X") -> None: ...
    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def dtype(self) -> np.dtype[Any]: ...
    @property
    def device(self) -> int:
        """Number of its GPU."""

    def __len__(self) -> int: ...
    def to_host(self, first: int = 0, n: int | None = None) -> NDArray[Any]:
        """Return a copy of n rows, the last ones if it is None; there may be gaps between rows, but not in them."""

    def find_not_finite(self) -> tuple[int, int] | None:
        """Return row and column of the first NaN or infinity of features (n, k) in float32 or float64."""

    def converted(self) -> CudaArray:
        """Return a copy of features on the same GPU in the other one of float32 and float64."""

def fit_many(
    network: Network,
    cuda: tuple[str, int, str],
    X: NDArray[np.float32],
    data: Sequence[tuple[Targets, NDArray[np.float32] | None]],
    fits: Sequence[tuple[Any, ...]],
    n_threads: int = 0,
) -> list[dict[str, Any]]:
    """Train many networks of one shape on a GPU at once, in float32; return of each what `Engine.train` does.

    ``data`` holds pairs of targets and weights of all rows of ``X``. Of each fit a tuple says the number of its data;
    rows, parameters, slots, random, options and rates, which are those of `Engine.train`; and whether the learning
    rates of an epoch, or the number of its steps, depend on the epoch before. All have one optimizer, averages or none.
    ``n_threads`` threads shuffle rows.

    Raises ``ValueError`` if the network is too large, and for options that only a single training has.
    """

# --- the engine: what a device can do for a network -----------------------------------------------------------------

class Engine:
    """Buffers, threads and kernels for one network in one dtype. Reusable; one call at a time.

    ``n_threads=0`` lets the engine choose: as many as the process may use, fewer when the work is small.

    ``loss`` is what training descends in place of the network's: called once a batch, and once an epoch for the rows to
    validate on, with their targets (class numbers one-hot), outputs (behind ``Network.output_activation``, before the
    link) and weights or None, arrays of the engine's dtype that it may keep. It returns the mean loss as a float and
    its gradient with respect to the outputs. What it raises ends training and is raised; a loss or gradient that is not
    finite is a loss of NaN.
    """

    def __init__(
        self,
        network: Network,
        dtype: str,
        n_threads: int = 0,
        loss: BatchLoss | None = None,
        cuda: tuple[str, int, str] | None = None,
    ) -> None:
        """``cuda``: library, number of a GPU whose `cuda_status` is "ok", and precision "ieee", "tf32" or "bf16"."""

    def predict(self, parameters: FloatArray, X: Matrix, layer: int = -1) -> FloatArray:
        """Output of ``layer`` (0 is the input, ``L`` or -1 the predictions), shape ``(n, layer_sizes[layer])``."""

    def input_gradient(self, parameters: FloatArray, X: Matrix, vectors: FloatArray) -> FloatArray:
        """Each row's ``vectors`` (n, q, m) times the derivatives of the outputs before the link by X (n, q, k).

        One-hot vectors pick single outputs. With running statistics, as ``predict``.
        """

    def loss_and_gradient(
        self,
        parameters: FloatArray,
        X: Matrix,
        y: Targets,
        sample_weight: FloatArray | None,
        alpha: float,
        dropout_seed: int = 0,
    ) -> tuple[float, float, FloatArray]:
        """Weighted mean loss of the rows (summed over outputs), L2 penalty, and the gradient of their sum (flat).

        As in a step of training: with the statistics of these rows, and dropout unless its seed is 0.
        """

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

    def hold(
        self,
        X: Matrix,
        y: Targets,
        sample_weight: FloatArray | None,
        validation: tuple[Matrix, Targets, FloatArray | None] | None = None,
    ) -> None:
        """Keep data with which `train` will be called again and again, on a GPU copies of them, until `release`.

        They must stay as they are.
        """

    def release(self) -> None: ...
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
        validation: tuple[Matrix, Targets, FloatArray | None] | None = None,
        score: Callable[[float], float] | None = None,
    ) -> dict[str, Any]:
        """Whole epochs: shuffles, batches, steps, stopping rules. ``parameters`` and ``slots`` are updated in place.

        In a slot the weights of a layer are ``(fan_out, fan_in)``; its order is that of the parameters otherwise.

        ``rows``/``validation_rows`` are the row numbers of ``X`` used for training and for the validation score
        (None: all rows; no validation). ``rows``, if writable, is left in the order of the last epoch: with it, several
        calls are one training. ``validation`` is data of its own to validate on. ``options``, all of them required:

        optimizer (name), hyperparameters (dict), learning_rate (float), learning_rate_init (float),
        schedule ("constant" | "invscaling" | "adaptive"), power_t, t (steps done), n_samples_seen (the ``t_`` of
        scikit-learn), alpha, batch_size, max_iter, shuffle (bool), tol, n_iter_no_change (float, may be inf),
        dropout_seed (0: none), no_improvement_count, best_loss, best_validation_score, score ("accuracy" | "r2" |
        "loss": the negative validation loss | "given": by ``score(validation_loss)``), early_stopping (by the score, of
        which the best parameters are reported; else by the training loss), max_seconds (may be inf), clip_norm and
        clip_value (inf: none), ema_decay (0: none), report_batch_losses (bool).

        With ``ema_decay`` there is one slot more, the last. Before and after, it holds the weights that steps start
        from, and ``parameters`` their exponential moving average, which validation uses too.

        ``on_epoch(n_iter, loss, validation_score or NaN, learning_rate)`` is called after each epoch with the GIL held;
        the learning rate is that of the next epoch, or with ``rates`` that of the last step. Before each epoch
        ``rates(t, n_steps, no_improvement_count)`` gives the learning rates of the steps t + 1 ... t + n_steps.

        Returns
        -------
        dict
            loss_curve, learning_rates, validation_losses, validation_scores and batch_losses (lists of float), n_iter,
            t, n_samples_seen, learning_rate, no_improvement_count, best_loss, best_validation_score, best_parameters
            (array or None), stopped ("max_iter" | "no_improvement" | "learning_rate" | "interrupted" | "not_finite" |
            "max_time"),
            failed_epoch, failed_batch (1-based, 0 when finite).
        """
