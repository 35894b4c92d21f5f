"""Network: the bare set of functions, its loss and its gradient, for learners and scientists. No scikit-learn here."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, SupportsIndex

import numpy as np

from fastmlp import _core
from fastmlp._cuda import gpu_place
from fastmlp._cuda_arrays import features_on_gpu, is_cuda_array, on_host, place_of
from fastmlp._display import layers_html, layers_text
from fastmlp._engine import make_engine
from fastmlp._initialization import DEFAULT, Rule, initial_parameters
from fastmlp._inspection import NetworkInspection
from fastmlp._losses import CLASS_LOSSES, OPEN_LOSSES, LossParameters, loss_numbers, number_output
from fastmlp._parameters import views
from fastmlp._validation import hidden_activations, hidden_normalizations, name_among, real_array, unit_counts

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from fastmlp._cuda import Place


class Network(NetworkInspection):
    """A fully connected feedforward network: a set of functions, one for each choice of its parameters.

    The three steps of deep learning are: define a set of functions (this class), measure how good one of them is
    (``loss``), pick the best one (by descending along ``gradient``).

    Parameters
    ----------
    layer_sizes : sequence of int
        Units of each layer, input first, output last.
    activation : str or sequence of str, default="logistic"
        Activation of the hidden layers: one name, or one for each. An unknown name is answered by all
        valid ones.
    loss : str, default="binary_log_loss"
        The loss; it owns the output activation. ``binary_log_loss`` has logistic outputs, ``log_loss`` softmax,
        ``squared_error`` the identity, ``poisson`` the exponential function. An unknown name is answered by all valid
        ones.
    dtype : {"float64", "float32"}, default="float64"
        Numbers in which everything is stored and computed.
    random_state : int, RandomState, Generator or None, default=None
        Source of the initial parameters: those that the estimators would draw. None takes new ones each time.
    n_jobs : int or None, default=None
        Threads: None lets the core choose, -1 takes all. The numbers do not depend on it.
    loss_parameters : dict or None, default=None
        Hyper-parameters of the loss by name; defaults where there is none. An unknown name is answered by all valid
        ones.
    normalization : str, list of str or None, default=None
        Normalisation of the hidden layers before their activation, "batch_norm", "layer_norm" or "rms_norm": one name,
        or one for each. ``forward`` takes the running statistics of "batch_norm", ``loss`` and ``gradient`` those of
        the rows.
    residual : bool, default=False
        Add to the sums of each hidden layer but the first those of the layer below.
    initialization : str, callable, or list of them, default="glorot_uniform"
        How weights start, as in the estimators.
    output_activation : str or None, default=None
        Activation of the output layer, if the loss has none of its own; None is the identity then.
    device : str, default="cpu"
        Where ``forward``, ``hidden``, ``loss``, ``gradient`` and ``loss_and_gradient`` are computed: "cpu"; "cuda" or
        "cuda:1", an NVIDIA GPU (see ``fastmlp.cuda_status``); or "auto", the GPU on which X is, and the CPU for all
        else. ``input_gradient`` and ``hessian_vector_product`` are computed on the CPU, from data on the host. Answers
        are NumPy arrays. May be assigned.
    precision : {"ieee", "tf32", "bf16"}, default="ieee"
        How a GPU multiplies matrices of float32, as in the estimators.

    Attributes
    ----------
    layer_sizes : tuple of int
        Units of each layer.
    activations : tuple of str
        Activation of each hidden layer.
    output_activation : str
        Activation of the output layer.
    parameters : ndarray of shape (n_parameters,)
        All numbers of the network: weight matrices, each (fan_in, fan_out) in C order, then biases, then what hidden
        layers have besides. May be assigned.
    n_parameters : int
        How many there are.
    n_targets : int
        Targets of a row: outputs, divided by those that the loss has for each target.
    weights : list of ndarray of shape (fan_out, fan_in)
        For each layer, views of ``parameters``: row i holds the weights of neuron i. The list and its items may be
        assigned.
    biases : list of ndarray of shape (fan_out,)
        Likewise.

    Raises
    ------
    ValueError
        For unknown names, sizes that are not positive, data that is not finite real numbers, and wrong shapes.
    RuntimeError
        If ``device`` names a GPU that cannot be used.

    References
    ----------
    Rumelhart, D. E., Hinton, G. E. and Williams, R. J. (1986). Learning representations by back-propagating errors.
    Nature 323, 533-536.

    Examples
    --------
    >>> from fastmlp import Network
    >>> net = Network([2, 2, 2, 2], activation="logistic")
    >>> net.weights = [[[1, -2], [-1, 1]], [[2, -1], [-2, -1]], [[3, -1], [-1, 4]]]
    >>> net.biases = [[1, 0], [0, 0], [-2, 2]]
    >>> net([1, -1]).round(2)
    array([0.62, 0.83])
    >>> net.hidden([1, -1], layer=1).round(2), net.hidden([1, -1], layer=2).round(2)
    (array([0.98, 0.12]), array([0.86, 0.11]))

    One step of gradient descent makes the loss smaller:

    >>> X, y = [[1, -1], [0, 0]], [[1, 0], [0, 1]]
    >>> before = net.loss(X, y)
    >>> weight_gradients, bias_gradients = net.gradient(X, y)
    >>> for w, g in zip(net.weights + net.biases, weight_gradients + bias_gradients):
    ...     w -= 0.5 * g
    >>> net.loss(X, y) < before
    True
    """

    _kept: tuple[Place, _core.Engine] | None = None  # an engine, and the GPU that it is for

    def __init__(
        self,
        layer_sizes: Sequence[int],
        activation: str | Sequence[str] = "logistic",
        loss: str = "binary_log_loss",
        dtype: str = "float64",
        random_state: int | np.random.RandomState | np.random.Generator | None = None,
        n_jobs: int | None = None,
        loss_parameters: LossParameters | None = None,
        normalization: str | Sequence[str | None] | None = None,
        residual: bool = False,
        initialization: Rule | Sequence[Rule] = DEFAULT,
        output_activation: str | None = None,
        device: str = "cpu",
        precision: str = "ieee",
    ) -> None:
        self.layer_sizes = tuple(unit_counts(layer_sizes, "layer_sizes"))
        if len(self.layer_sizes) < 2:
            raise ValueError(f"layer_sizes must name at least an input and an output layer, got {layer_sizes!r}")
        self.activations = tuple(hidden_activations(activation, len(self.layer_sizes) - 2))
        self.loss_name = name_among(loss, _core.losses(), "loss")
        self.output_activation = number_output(loss, output_activation)
        self.loss_parameters = loss_numbers(loss, loss_parameters)
        per_target = _core.loss_outputs(loss, self.loss_parameters)[0]
        self.n_targets, rest = divmod(self.layer_sizes[-1], per_target)
        if rest:
            raise ValueError(
                f"loss {loss!r} needs {per_target} outputs for each target: the last of layer_sizes must be a multiple "
                f"of it, got {self.layer_sizes[-1]}"
            )
        self.dtype = np.dtype(name_among(dtype, ["float32", "float64"], "dtype"))
        self.n_jobs = n_jobs
        self.device, self.precision = device, precision
        gpu_place(device, precision)
        random = random_state if hasattr(random_state, "uniform") else np.random.RandomState(random_state)
        self.normalizations = tuple(hidden_normalizations(normalization, len(self.layer_sizes) - 2))
        self.residual = bool(residual)
        self._parameters = initial_parameters(self.network, activation, initialization, random, self.dtype)

    def __repr__(self) -> str:
        layers = layers_text(self.network, self.output_activation)
        return f"Network({layers}; loss={self.loss_name!r}, dtype={self.dtype.name!r})"

    def _repr_html_(self) -> str:
        title = f"Network, loss {self.loss_name}, {self.dtype.name}{', residual' * self.residual}"
        return layers_html(title, self.network, self.output_activation)

    @property
    def network(self) -> _core.Network:
        """The core's description of the network."""
        activation = self.output_activation if self.loss_name in OPEN_LOSSES else "identity"
        extras = self.normalizations, (), self.residual, activation
        return _core.Network(self.layer_sizes, self.activations, self.loss_name, self.loss_parameters, *extras)

    # --- parameters ---------------------------------------------------------------------------------------------------

    @property
    def n_parameters(self) -> int:
        """Number of weights and biases."""
        return self.network.n_parameters

    @property
    def parameters(self) -> NDArray[Any]:
        """All weights and biases as one array: changes are changes of the network."""
        return self._parameters

    @parameters.setter
    def parameters(self, values: Any) -> None:
        self._parameters[...] = _fitting(values, "parameters", self._parameters)

    @property
    def weights(self) -> Views:
        """Weights (fan_out, fan_in) of each layer: changes are changes of the network."""
        return Views("weights", [coef.T for coef in views(self._parameters, self.layer_sizes)[0]])

    @weights.setter
    def weights(self, values: Iterable[Any]) -> None:
        self.weights[:] = values

    @property
    def biases(self) -> Views:
        """Biases (fan_out,) of each layer: changes are changes of the network."""
        return Views("biases", views(self._parameters, self.layer_sizes)[1])

    @biases.setter
    def biases(self, values: Iterable[Any]) -> None:
        self.biases[:] = values

    # --- the function -------------------------------------------------------------------------------------------------

    def forward(self, X: Any) -> NDArray[Any]:
        """Return what the network makes of X.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features) or (n_features,)
            Rows of finite numbers, or a single row.

        Returns
        -------
        outputs : ndarray of shape (n_samples, n_outputs) or (n_outputs,)
            The output layer, in the network's dtype.
        """
        return self._layer(X, len(self.layer_sizes) - 1)

    __call__ = forward

    def hidden(self, X: Any, layer: int) -> NDArray[Any]:
        """Return what a hidden layer makes of X.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features) or (n_features,)
            Rows of finite numbers, or a single row.
        layer : int
            Number of the layer: 1 is the first hidden layer, 0 the input itself.

        Returns
        -------
        activations : ndarray of shape (n_samples, layer_sizes[layer]) or (layer_sizes[layer],)
            The layer after its activation.
        """
        last = len(self.layer_sizes) - 2
        if layer not in range(last + 1):
            raise ValueError(f"layer must be an integer between 0 (the input) and {last}, got {layer!r}")
        return self._layer(X, layer)

    # --- how good it is -----------------------------------------------------------------------------------------------

    def loss(self, X: Any, y: Any, sample_weight: Any = None, alpha: float = 0.0) -> float:
        """Return how far the network is from the targets.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features) or (n_features,)
            Rows of finite numbers, or a single row.
        y : array-like of shape (n_samples, n_targets)
            Targets. Also (n_samples,) if there is one, or for losses with softmax outputs class numbers from 0 to
            n_outputs - 1.
            With a single row of X, a single row of targets, or a number in place of (n_samples,).
        sample_weight : array-like of shape (n_samples,), default=None
            Weight of each row; None means 1.
        alpha : float, default=0.0
            Strength of the L2 penalty.

        Returns
        -------
        loss : float
            The weighted mean over rows of the loss summed over outputs, plus
            ``alpha / 2 * (sum of squared weights) / (sum of sample weights)``.
        """
        return self._evaluate(X, y, sample_weight, alpha)[0]

    def gradient(
        self, X: Any, y: Any, sample_weight: Any = None, alpha: float = 0.0
    ) -> tuple[list[NDArray[Any]], list[NDArray[Any]]]:
        """Return the gradient of the loss, found by backpropagation.

        Parameters
        ----------
        X, y, sample_weight, alpha
            As for ``loss``.

        Returns
        -------
        weight_gradients : list of ndarray of shape (fan_out, fan_in)
            Derivatives with respect to ``weights``.
        bias_gradients : list of ndarray of shape (fan_out,)
            Derivatives with respect to ``biases``.
        """
        coefs, biases = views(self._evaluate(X, y, sample_weight, alpha)[1], self.layer_sizes)
        return [coef.T for coef in coefs], biases

    def loss_and_gradient(
        self, X: Any, y: Any, sample_weight: Any = None, alpha: float = 0.0
    ) -> tuple[float, NDArray[Any]]:
        """Return the loss and its gradient as one flat array in the order of ``parameters``, for optimizers.

        Parameters
        ----------
        X, y, sample_weight, alpha
            As for ``loss``.

        Returns
        -------
        loss : float
            As of ``loss``.
        gradient : ndarray of shape (n_parameters,)
            Derivatives with respect to ``parameters``.
        """
        return self._evaluate(X, y, sample_weight, alpha)

    def _layer(self, X: Any, layer: int) -> NDArray[Any]:
        rows, single = self._rows(X)
        out = self._engine(rows).predict(self._parameters, rows, layer)
        return out[0] if single else out

    def _evaluate(self, X: Any, y: Any, sample_weight: Any, alpha: float) -> tuple[float, NDArray[Any]]:
        data = self._data(X, y, sample_weight, alpha)
        loss, penalty, gradient = self._engine(data[0]).loss_and_gradient(self._parameters, *data)
        return loss + penalty, gradient

    def _data(self, X: Any, y: Any, sample_weight: Any, alpha: float) -> tuple[Any, NDArray[Any], Any, float]:
        """Return what a loss is taken of, as the core takes it: rows, targets, weights, strength of the penalty."""
        rows, single = self._rows(X)
        n_rows = len(rows)
        if n_rows == 0:
            raise ValueError(f"X must hold at least one row, got shape {rows.shape}")
        if not 0 <= alpha < math.inf:
            raise ValueError(f"alpha must be a finite number of 0 or more, got {alpha!r}")
        targets = self._targets(on_host(y, "y", self.device), n_rows, single)
        if sample_weight is not None:
            sample_weight = on_host(sample_weight, "sample_weight", self.device)
            sample_weight = real_array(sample_weight, "sample_weight", self.dtype)
            if sample_weight.shape != (n_rows,):
                raise ValueError(f"sample_weight must have shape ({n_rows},), got {sample_weight.shape}")
        return rows, targets, sample_weight, float(alpha)

    def _engine(self, rows: Any) -> _core.Engine:
        """Return an engine that is where the rows are, or else where ``device`` says.

        That of a GPU is kept: to start one takes longer than a small network.
        """
        gpu = place_of(rows, self.precision) or gpu_place(self.device, self.precision)
        if gpu is None:
            return make_engine(self.network, self.dtype, self.n_jobs)
        if self._kept is None or self._kept[0] != gpu:
            self._kept = gpu, make_engine(self.network, self.dtype, self.n_jobs, gpu=gpu)
        return self._kept[1]

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "_kept"}

    def _rows(self, X: Any) -> tuple[Any, bool]:
        """Return X as rows, and whether it was a single one."""
        if is_cuda_array(X):
            rows = features_on_gpu(X, "X", self.device, self.dtype, assume_finite=False)
        else:
            rows = real_array(X, "X", self.dtype)
        n_features = self.layer_sizes[0]
        if len(rows.shape) not in (1, 2) or rows.shape[-1] != n_features:
            raise ValueError(f"X must have shape (n_samples, {n_features}) or ({n_features},), got {rows.shape}")
        single = len(rows.shape) == 1
        return np.atleast_2d(rows) if single else rows, single

    def _targets(self, y: Any, n_rows: int, single: bool) -> NDArray[Any]:
        """Return y as the core takes it: class numbers (n_rows,) as int32, else (n_rows, n_targets)."""
        n_targets = self.n_targets
        given = np.asarray(y)
        shape = (n_rows, *given.shape) if single else given.shape
        if self.loss_name in CLASS_LOSSES and shape == (n_rows,):
            if given.dtype.kind not in "iu" or given.min() < 0 or given.max() >= n_targets:
                raise ValueError(f"class numbers in y must be integers between 0 and {n_targets - 1}, got {y!r}")
            return given.reshape(n_rows).astype(np.int32)
        if shape != (n_rows, n_targets) and (n_targets > 1 or shape != (n_rows,)):
            needed = f"({n_targets},)" if single else f"({n_rows}, {n_targets})"
            raise ValueError(
                f"y must have shape {needed} for this X and {self.layer_sizes[-1]} outputs, got {given.shape}"
            )
        return real_array(given.reshape(n_rows, n_targets), "y", self.dtype)


class Views(list[Any]):
    """A list of views of a network's parameters: assigning to an item writes to the network.

    >>> from fastmlp import Network
    >>> net = Network([1, 1])
    >>> net.weights[0] = [[2.5]]
    >>> net.parameters[0]
    np.float64(2.5)
    """

    def __init__(self, name: str, arrays: list[NDArray[Any]]) -> None:
        super().__init__(arrays)
        self._name = name

    def __setitem__(self, index: SupportsIndex | slice, value: Any) -> None:
        layers = range(len(self))[index]
        if isinstance(layers, int):
            layers, value = range(layers, layers + 1), [value]
        values = list(value)
        if len(values) != len(layers):
            raise ValueError(f"{self._name} must hold {len(layers)} arrays, one for each layer, got {len(values)}")
        targets = [self[layer] for layer in layers]
        arrays = [_fitting(*item) for item in zip(values, [f"{self._name}[{i}]" for i in layers], targets, strict=True)]
        for target, array in zip(targets, arrays, strict=True):
            target[...] = array


def _fitting(values: Any, name: str, target: NDArray[Any]) -> NDArray[Any]:
    array = real_array(values, name, target.dtype)
    if array.shape != target.shape:
        raise ValueError(f"{name} must have shape {target.shape}, got {array.shape}")
    return array
