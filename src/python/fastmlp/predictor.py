"""Predictor: a fitted network that answers, and nothing else. No scikit-learn here.

It holds what a prediction needs: parameters, shape and activations, and how outputs become labels. Training, files and
the estimators' parameters stand elsewhere.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any

import numpy as np

from fastmlp import _core
from fastmlp._display import layers_html, layers_text
from fastmlp._losses import loss_numbers, predicted_values
from fastmlp._parameters import float_dtype
from fastmlp._validation import (
    core_array,
    hidden_activations,
    hidden_normalizations,
    name_among,
    real_array,
    thread_count,
    unit_counts,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

# scikit-learn's names of targets ("continuous" also for several outputs)
TARGET_TYPES = ("binary", "multiclass", "multilabel-indicator", "continuous")


@dataclass(frozen=True, eq=False, repr=False)
class Predictor:
    """A fitted network for predictions: immutable, picklable, to be called from any number of threads.

    An estimator's ``compile()`` makes one, ``fastmlp.load(path)`` reads one from a file. Its answers are bitwise those
    of the estimator for data of the same dtype. Its arrays are read-only.

    Parameters
    ----------
    parameters : ndarray of shape (n_parameters,)
        All weight matrices, each (fan_in, fan_out) in C order, then all biases; finite. A copy is kept. float32 stays
        and is computed in float32, all else in float64.
    layer_sizes : sequence of int
        Units of each layer, input first, output last.
    activations : sequence of str
        Activation of each hidden layer.
    loss : str
        Name of the loss; it owns the output activation.
    target_type : {"binary", "multiclass", "multilabel-indicator", "continuous"}
        How outputs become answers.
    classes_ : array-like of shape (n_classes,) or None, default=None
        Class labels; None for "continuous".
    feature_names_in_ : array-like of str of shape (n_features,) or None, default=None
        Names of the features. A DataFrame must have these columns in this order.
    assume_finite : bool, default=False
        Skip the search for NaN and infinity in the data; what comes of them is then undefined, but never a crash.
    n_jobs : int or None, default=None
        Threads: None lets the core choose, -1 takes all that the process may use. Results do not depend on it.
    loss_parameters : dict or None, default=None
        Hyper-parameters of the loss by name; defaults where there is none.
    normalizations : sequence of str, default=()
        Normalisation of each hidden layer; none for an empty one. ``parameters`` then go on with what it has learned,
        in the order of ``_core.Network.offsets``.
    residual : bool, default=False
        Whether the sums of a hidden layer are added to those of the next one.
    output_activation : str, default="identity"
        Activation of the output layer, where the loss has none of its own.

    Attributes
    ----------
    n_features_in_ : int
        Number of features.
    n_outputs_ : int
        Number of outputs of the network: 1 for two classes.
    dtype : dtype
        float32 or float64: that of all computations and answers.
    out_activation_ : str
        Activation of the output layer.
    network : _core.Network
        The core's description of all that.

    Raises
    ------
    ValueError
        If the parts do not belong together, or if data has a wrong shape or is not finite real numbers.

    Examples
    --------
    >>> from fastmlp import MLPClassifier
    >>> X, y = [[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]], ["even", "odd", "odd", "even"]
    >>> classifier = MLPClassifier((8,), activation="tanh", solver="lbfgs", random_state=1).fit(X, y)
    >>> predictor = classifier.compile()
    >>> predictor
    Predictor(2 -> 8 tanh -> 1 logistic; target_type='binary', dtype='float64')
    >>> predictor([0.0, 1.0]).round(1)
    array([0., 1.])
    >>> predictor.predict(X)
    array(['even', 'odd', 'odd', 'even'], dtype='<U4')
    """

    parameters: NDArray[Any]
    layer_sizes: tuple[int, ...]
    activations: tuple[str, ...]
    loss: str
    target_type: str
    classes_: NDArray[Any] | None = None
    feature_names_in_: NDArray[Any] | None = None
    assume_finite: bool = False
    n_jobs: int | None = None
    loss_parameters: Mapping[str, Any] | None = None
    normalizations: tuple[str, ...] = ()
    residual: bool = False
    output_activation: str = "identity"
    network: _core.Network = field(init=False)
    _compiled: _core.Predictor = field(init=False)

    def __post_init__(self) -> None:
        sizes = unit_counts(self.layer_sizes, "layer_sizes")
        if len(sizes) < 2:
            raise ValueError(f"layer_sizes must name at least an input and an output layer, got {sizes}")
        activations = hidden_activations(self.activations, len(sizes) - 2)
        name_among(self.target_type, TARGET_TYPES, "target_type")
        loss = name_among(self.loss, _core.losses(), "loss")
        normalizations = hidden_normalizations(self.normalizations or None, len(sizes) - 2)
        numbers, residual = loss_numbers(loss, self.loss_parameters), bool(self.residual)
        activation = name_among(self.output_activation, _core.output_activations(), "output_activation")
        network = _core.Network(sizes, activations, loss, numbers, normalizations, (), residual, activation)
        parameters = real_array(self.parameters, "parameters", float_dtype(np.asarray(self.parameters).dtype))
        if parameters.shape != (network.n_parameters,):
            raise ValueError(
                f"parameters of layers of {sizes} units must have shape ({network.n_parameters},), "
                f"got {parameters.shape}"
            )
        for name, value in {
            "parameters": _frozen(parameters),
            "layer_sizes": tuple(sizes),
            "activations": tuple(activations),
            "loss_parameters": network.loss_parameters,
            "normalizations": tuple(normalizations),
            "residual": residual,
            "network": network,
            "classes_": None if self.classes_ is None else _frozen(self.classes_),
            "feature_names_in_": None if self.feature_names_in_ is None else _names(self.feature_names_in_, sizes[0]),
        }.items():
            object.__setattr__(self, name, value)  # the class is frozen
        self._check_classes()
        compiled = _core.Predictor(
            network,
            self.parameters,
            thread_count(self.n_jobs),
            two_columns=self.target_type == "binary",
            flat=self.target_type == "continuous" and self.n_outputs_ == 1,
            assume_finite=bool(self.assume_finite),
        )
        object.__setattr__(self, "_compiled", compiled)

    def _check_classes(self) -> None:
        n_outputs, shape = self.n_outputs_, getattr(self.classes_, "shape", None)
        if self.target_type == "continuous":
            fits, allowed = shape is None, "None"
        elif self.target_type == "binary":
            fits = n_outputs == 1 and shape in [(1,), (2,)]
            allowed = "an array of shape (1,) or (2,), with 1 output"
        else:
            fits, allowed = shape == (n_outputs,), f"an array of shape ({n_outputs},)"
        if not fits:
            raise ValueError(
                f"classes_ for target_type {self.target_type!r} must be {allowed}; "
                f"got {self.classes_!r} with {n_outputs} outputs"
            )

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), tuple(getattr(self, entry.name) for entry in fields(self) if entry.init)

    def __repr__(self) -> str:
        layers = layers_text(self.network, self.out_activation_)
        return f"Predictor({layers}; target_type={self.target_type!r}, dtype={self.dtype.name!r})"

    def _repr_html_(self) -> str:
        title = f"Predictor, {self.target_type}, {self.dtype.name}{', residual' * self.residual}"
        return layers_html(title, self.network, self.out_activation_)

    @property
    def n_features_in_(self) -> int:
        """Number of features."""
        return self.layer_sizes[0]

    @property
    def n_outputs_(self) -> int:
        """Number of outputs of the network."""
        return self.layer_sizes[-1]

    @property
    def dtype(self) -> np.dtype[Any]:
        """float32 or float64: that of all computations and answers."""
        return self.parameters.dtype

    @property
    def out_activation_(self) -> str:
        """Activation of the output layer."""
        name: str = _core.losses()[self.loss]["link"]
        return name if self.output_activation == "identity" else self.output_activation

    def __call__(self, X: Any, out: NDArray[Any] | None = None) -> Any:
        """Return probabilities (classification) or values (regression).

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features) or (n_features,)
            Rows of finite real numbers, or a single row; there may be no rows. Converted to ``dtype``: float64 data is
            rounded by a float32 predictor, and refused if it is too large for float32.
        out : ndarray, default=None
            Where to put the answer, instead of a new array: C-contiguous, writeable, with its shape and ``dtype``.
            After an error it may hold anything.

        Returns
        -------
        answer : ndarray of dtype ``dtype``
            As of the estimator's ``predict_proba``: (n_samples, n_classes), also for two classes; or of its
            ``predict``: (n_samples,) for one output, else (n_samples, n_outputs). For a single row without the first
            axis, so that a regression of one output gives a number. Several outputs for one target, such as mean and
            variance or quantiles, stand side by side.
        """
        answer = self._compiled(X, out)  # None if X or out needs a closer look
        if answer is not None:
            return answer
        rows = self._checked(X)
        answer = self._compiled(rows)
        if out is None:
            return answer
        _check_out(out, np.shape(answer), self.dtype)
        out[...] = answer
        return out

    def predict(self, X: Any) -> Any:
        """Return labels (classification) or values (regression).

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features) or (n_features,)
            As for a call.

        Returns
        -------
        y : ndarray of shape (n_samples,) or (n_samples, n_outputs)
            As of the estimator's ``predict``; but for multilabel targets always dense. For a single row without the
            first axis.
        """
        if self.classes_ is None:
            answer = self(X)
            return answer if self.n_outputs_ == 1 else predicted_values(answer, self.loss, self.loss_parameters or {})
        answer = self(X)
        if self.target_type == "multiclass":
            return self.classes_[answer.argmax(axis=-1)]
        if self.target_type == "binary":
            above = (answer[..., 1] > 0.5).astype(np.intp)
            return self.classes_[above * (len(self.classes_) - 1)]  # a single class is always the answer
        return (answer > 0.5).astype(int)

    def _checked(self, X: Any) -> NDArray[Any]:
        if self.feature_names_in_ is not None and hasattr(X, "columns"):
            _check_columns(list(X.columns), list(self.feature_names_in_))
        array = np.asarray(X)
        if array.ndim not in (1, 2) or array.shape[-1] != self.n_features_in_:
            n = self.n_features_in_
            raise ValueError(f"X must have shape (n_samples, {n}) or ({n},), got {array.shape}")
        if self.assume_finite and array.dtype.kind in "biuf":
            return core_array(array, self.dtype)
        return real_array(array, "X", self.dtype)


def _frozen(values: Any) -> NDArray[Any]:
    array = np.array(values)
    array.setflags(write=False)
    return array


def _names(values: Any, n_features: int) -> NDArray[Any]:
    names = _frozen(np.array(list(values), dtype=object))
    if names.shape != (n_features,) or not all(isinstance(name, str) for name in names):
        raise ValueError(f"feature_names_in_ must hold {n_features} strings, one for each feature, got {values!r}")
    return names


def _check_columns(given: list[Any], names: list[Any]) -> None:
    if given == names or not all(isinstance(name, str) for name in given):  # as scikit-learn: other names do not count
        return
    shorter = min(len(given), len(names))
    differing = next((i for i in range(shorter) if given[i] != names[i]), shorter)
    raise ValueError(
        f"X must have the columns of feature_names_in_ in their order ({len(names)}), got {len(given)} columns; "
        f"they differ from number {differing} on: "
        f"{given[differing : differing + 3]} in place of {names[differing : differing + 3]}"
    )


def _check_out(out: Any, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
    if not isinstance(out, np.ndarray):
        raise ValueError(f"out must be a NumPy array, got {type(out).__name__}")
    if out.shape != shape or out.dtype != dtype:
        raise ValueError(f"out must have shape {shape} and dtype {dtype}, got shape {out.shape} and dtype {out.dtype}")
    if not (out.flags.c_contiguous and out.flags.writeable and out.flags.aligned):
        raise ValueError("out must be C-contiguous, aligned and writeable")
