"""What an estimator gives away: a Predictor for serving, and a file from which all of it comes back."""

from __future__ import annotations

import os
from dataclasses import dataclass
from numbers import Integral
from typing import TYPE_CHECKING, Any

import numpy as np
from sklearn.preprocessing import LabelBinarizer
from sklearn.utils.validation import check_is_fitted

from fastmlp import _core, files
from fastmlp._parameters import array_shapes, float_dtype
from fastmlp._validation import name_among
from fastmlp.optimizer_state import OPTIMIZERS, OptimizerState
from fastmlp.predictor import Predictor

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from typing_extensions import Self

    from fastmlp._losses import CustomLoss
    from fastmlp.files import Header, Tensors

_NUMBERS = ["n_iter_", "t_", "loss_", "best_loss_", "best_validation_score_", "_no_improvement_count", "temperature_"]
_ATTRIBUTES = [*_NUMBERS, "stopped_"]
_CURVES = ["loss_curve_", "validation_scores_"]
# and the default of each, for files that were written before it was known
_OPTIMIZER_NUMBERS = {
    "learning_rate_init": None,
    "learning_rate": None,
    "power_t": None,
    "t": None,
    "dropout_seed": 0,
    "reduction": 1.0,
    "ema_decay": 0.0,
}


class Saving:
    """The part of an estimator that compiles, saves and loads it."""

    def compile(self, *, dtype: str | None = None, assume_finite: bool = False) -> Predictor:
        """Return an immutable copy for predictions: thread-safe, picklable, without scikit-learn.

        Parameters
        ----------
        dtype : {"float32", "float64"} or None, default=None
            Numbers in which it computes and answers. None is the estimator's ``dtype``, else that of ``coefs_``.
        assume_finite : bool, default=False
            Skip the search for NaN and infinity in data.

        Returns
        -------
        predictor : Predictor
            Call it for ``predict_proba`` of a classifier or ``predict`` of a regressor.

        Raises
        ------
        NotFittedError
            If the estimator is not fitted.

        Examples
        --------
        >>> from fastmlp import MLPRegressor
        >>> X, y = [[0.0], [1.0], [2.0]], [1.0, 3.0, 5.0]
        >>> model = MLPRegressor(hidden_layer_sizes=(4,), max_iter=500, random_state=0).fit(X, y)
        >>> predictor = model.compile()
        >>> bool(predictor([1.0]) == model.predict([[1.0]])[0])
        True
        """
        check_is_fitted(self)
        if dtype is not None:
            name_among(dtype, ["float32", "float64"], "dtype")
        model: Any = self
        flat, sizes = model._parameters()
        network = model._network(sizes)
        decoder = getattr(model, "_label_binarizer", None)
        return Predictor(
            np.asarray(flat, dtype or model.dtype or float_dtype(flat.dtype)),
            tuple(sizes),
            tuple(network.activations),
            model._core_loss(),
            "continuous" if decoder is None else decoder.y_type_,
            getattr(model, "classes_", None),
            getattr(model, "feature_names_in_", None),
            assume_finite,
            model.n_jobs,
            model._core_loss_parameters(),
            tuple(network.normalizations),
            network.residual,
            network.output_activation,
        )

    def save(self, path: str | os.PathLike[str], *, optimizer: bool = False, date: str | None = None) -> None:
        """Write the model to a safetensors file. ``fastmlp.load`` reads it to predict, ``load`` of the class to go on.

        The same model gives the same bytes. A file that was there is replaced at once, or left as it was.

        Parameters
        ----------
        path : str or path-like
            The file, by custom ``*.safetensors``.
        optimizer : bool, default=False
            Also keep the optimizer's state and the loss curve, so that training goes on bit for bit; for "adam" this
            makes the file three times as large. Without it training goes on with a new optimizer.
        date : str or None, default=None
            A date to note in the file; None notes none.

        Raises
        ------
        NotFittedError
            If the estimator is not fitted.
        ValueError
            If a parameter, a class label or a weight is nothing that a file can hold. Of a custom loss only the name is
            noted: give the function to ``load``.
        OSError
            If the file cannot be written.

        Examples
        --------
        >>> import os, tempfile
        >>> from fastmlp import MLPClassifier
        >>> X, y = [[0.0], [1.0], [2.0]], ["low", "low", "high"]
        >>> model = MLPClassifier((4,), max_iter=500, random_state=0).fit(X, y)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = os.path.join(folder, "model.safetensors")
        ...     model.save(path, optimizer=True)
        ...     loaded = MLPClassifier.load(path)
        >>> loaded.partial_fit(X, y).loss_ == model.partial_fit(X, y).loss_
        True
        """
        if date is not None and not isinstance(date, str):
            raise ValueError(f"date must be a string or None, got {date!r}")
        model: Any = self
        predictor = self.compile()
        flat = model._parameters()[0]
        loss = getattr(model, "loss_", None)  # none if the first epoch was interrupted
        seed = int(model.random_state) if isinstance(model.random_state, Integral) else None
        provenance = {"n_iter": int(model.n_iter_), "loss": files.encode(loss, "loss_"), "random_state": seed}
        header, tensors = files.describe(
            predictor, flat.astype(float_dtype(flat.dtype), copy=False), {**provenance, "date": date}
        )
        header["estimator"] = _estimator_entry(model, tensors)
        header["optimizer"] = _optimizer_entry(model, tensors) if optimizer else None
        if hasattr(model, "conformity_scores_"):
            tensors["conformity_scores"] = model.conformity_scores_
        files.write(path, header, tensors)

    @classmethod
    def load(cls, path: str | os.PathLike[str], *, loss: CustomLoss | None = None) -> Self:
        """Read an estimator from a file that ``save`` wrote. Runs no code from the file.

        Parameters
        ----------
        path : str or path-like
            The file.
        loss : callable or None, default=None
            The custom loss of a model that has one, for its parameter ``loss``: a file notes only its name.

        Returns
        -------
        model : object
            The fitted estimator: parameters, weights, classes, and the optimizer's state if it was saved.

        Raises
        ------
        ModelFileError
            If the file is corrupt, truncated, newer than this version can read, no model file, or one of another
            class; if ``loss`` is missing, or there is none to replace. It is a ``ValueError`` of ``fastmlp.files``.
        OSError
            If the file cannot be read.
        """
        with files.errors_name(path):
            header, tensors = files.read(path)
            predictor = files.build_predictor(header, tensors, assume_finite=True, n_jobs=None)
            saved = files.entry(header, "estimator", dict)
            if files.entry(saved, "class", str) != cls.__name__:
                raise ValueError(f"it holds an estimator of class {saved['class']!r}, not {cls.__name__!r}")
            parameters = _parameters_of(cls, saved, tensors)
        _put_loss(parameters, loss, path)
        with files.errors_name(path):
            model: Any = cls(**parameters)
            model._validate_params()
            model._set_parameters(files.stored_parameters(header, tensors), array_shapes(predictor.network))
            _restore(model, predictor, saved)
            if "conformity_scores" in tensors:
                model.conformity_scores_ = _checked_scores(model, tensors["conformity_scores"])
            state = files.entry(header, "optimizer", dict, None)
            if state is not None:
                _restore_optimizer(model, state, tensors)
            return model  # type: ignore[no-any-return]


def _estimator_entry(model: Any, tensors: Tensors) -> Header:
    parameters = model.get_params(deep=False) | {"callbacks": None}  # they belong to a session
    random = parameters["random_state"]
    if isinstance(random, np.random.RandomState):
        state: Any = random.get_state(legacy=False)
        if state["bit_generator"] != "MT19937":
            raise ValueError(f"random_state={random!r} cannot be saved; allowed are integers, None and MT19937")
        tensors["random_state.key"] = state["state"]["key"]
        names = {"pos": int(state["state"]["pos"]), "has_gauss": state["has_gauss"], "gauss": state["gauss"]}
        parameters["random_state"] = None
    encoded = {name: files.encode(value, name) for name, value in sorted(parameters.items()) if name != "loss"}
    decoder = getattr(model, "_label_binarizer", None)
    return {
        "class": type(model).__name__,
        "parameters": {**encoded, "loss": _encoded_loss(parameters["loss"])},
        "random_state": names if isinstance(random, np.random.RandomState) else None,
        "sparse_targets": None if decoder is None else bool(decoder.sparse_input_),
        "attributes": {name: files.encode(getattr(model, name), name) for name in _ATTRIBUTES if hasattr(model, name)},
    }


def _optimizer_entry(model: Any, tensors: Tensors) -> Header:
    curves = []
    for name in _CURVES:
        if getattr(model, name, None) is not None:
            tensors[f"training.{name}"] = np.array(getattr(model, name), np.float64)
            curves.append(name)
    history = getattr(model, "_history", {})
    tensors.update({f"history.{name}": np.array(values, np.float64) for name, values in history.items()})
    state: OptimizerState | None = getattr(model, "_optimizer", None)
    if state is None:  # "lbfgs" keeps nothing
        return {"curves": curves, "history": [*history], "state": None}
    tensors.update({f"optimizer.{name}": slot for name, slot in state.slots.items()})
    numbers = {name: files.encode(getattr(state, name), name) for name in _OPTIMIZER_NUMBERS}
    hyperparameters = {name: files.encode(value, name) for name, value in state.hyperparameters.items()}
    schedule = files.encode(state.schedule, "learning_rate")
    names = {"name": state.name, "schedule": schedule, "hyperparameters": hyperparameters}
    return {"curves": curves, "history": [*history], "state": {**names, **numbers}}


def _encoded_loss(loss: str | CustomLoss) -> Any:
    """Return the name of a loss; of a custom one, which no file can hold, where it comes from, for the reader."""
    if isinstance(loss, str):
        return loss
    named = loss if hasattr(loss, "__qualname__") else type(loss)
    return {"function": f"{named.__module__}.{named.__qualname__}"}


def _put_loss(parameters: dict[str, Any], given: CustomLoss | None, path: str | os.PathLike[str]) -> None:
    """Put the loss that is given in the place of a custom one."""
    saved = parameters.get("loss")
    if isinstance(saved, _Function):
        if given is None:
            raise files.ModelFileError(
                f"{os.fspath(path)!r} holds a model with the custom loss {saved.name}, which no file can hold: pass it "
                "as load(path, loss=...), or read the model by fastmlp.load(path) to predict"
            )
        parameters["loss"] = given
    elif given is not None:
        raise files.ModelFileError(
            f"{os.fspath(path)!r} holds a model with loss={saved!r}: there loss must be None, got {given!r}"
        )


@dataclass(frozen=True)
class _Function:
    """What a file knows of a function."""

    name: str


def _parameters_of(cls: Any, saved: Header, tensors: Tensors) -> dict[str, Any]:
    encoded = files.entry(saved, "parameters", dict)
    loss = encoded.get("loss")
    if isinstance(loss, dict) and loss.keys() == {"function"}:
        loss = _Function(files.entry(loss, "function", str))
    parameters = {name: loss if name == "loss" else files.decode(value) for name, value in encoded.items()}
    allowed = cls._get_param_names()
    if unknown := sorted(parameters.keys() - set(allowed)):
        raise ValueError(f"unknown parameters {unknown} of {cls.__name__}; valid names: {', '.join(allowed)}")
    state = files.entry(saved, "random_state", dict, None)
    if state is not None:
        random = np.random.RandomState()
        key = _tensor(tensors, "random_state.key", (624,), ["uint32"])
        random.set_state(
            {
                "bit_generator": "MT19937",
                "state": {"key": key, "pos": files.entry(state, "pos", int)},
                "has_gauss": files.entry(state, "has_gauss", int),
                "gauss": files.entry(state, "gauss", float),
            }
        )
        parameters["random_state"] = random
    return parameters


def _restore(model: Any, predictor: Predictor, saved: Header) -> None:
    model.n_features_in_, model.n_outputs_ = predictor.n_features_in_, predictor.n_outputs_
    model.n_layers_, model.out_activation_ = len(predictor.layer_sizes), predictor.out_activation_
    if predictor.feature_names_in_ is not None:
        model.feature_names_in_ = predictor.feature_names_in_.copy()
    sparse_targets = files.entry(saved, "sparse_targets", bool, None)
    if (predictor.classes_ is None) != (sparse_targets is None):
        raise ValueError(f"'sparse_targets' must be null exactly if there are no classes, found {sparse_targets!r}")
    if predictor.classes_ is not None:
        model.classes_ = predictor.classes_.copy()
        model._label_binarizer = decoder = LabelBinarizer()
        decoder.classes_, decoder.y_type_ = model.classes_, predictor.target_type
        decoder.sparse_input_ = sparse_targets
    attributes = files.entry(saved, "attributes", dict)
    for name in attributes.keys() & set(_NUMBERS):
        number = files.decode(attributes[name])
        if type(number) not in (int, float, type(None)):
            raise ValueError(f"the attribute {name!r} must be a number or null, found {number!r}")
        setattr(model, name, number)
    if "stopped_" in attributes:
        model.stopped_ = files.entry(attributes, "stopped_", str)


def _checked_scores(model: Any, scores: NDArray[Any]) -> NDArray[Any]:
    """Return what prediction sets and intervals are made with: sorted numbers, for several targets in columns."""
    n_targets = 1
    if hasattr(model, "classes_"):
        if not 0 < getattr(model, "temperature_", 0) < np.inf:
            raise ValueError("conformity_scores of a classifier need the attribute 'temperature_', a number above 0")
    else:
        n_targets = model.n_outputs_ // _core.loss_outputs(model._core_loss(), model._core_loss_parameters())[0]
    shape = (len(scores),) if n_targets == 1 else (len(scores), n_targets)
    fits = scores.dtype == np.float64 and scores.size > 0 and scores.shape == shape
    if not fits or not (np.isfinite(scores).all() and (np.diff(scores, axis=0) >= 0).all()):
        raise ValueError(
            "the tensor 'conformity_scores' must hold sorted finite numbers of dtype float64 in the shape "
            f"{'(n,)' if n_targets == 1 else f'(n, {n_targets})'}, found {scores.shape} and {scores.dtype}"
        )
    return scores


def _restore_optimizer(model: Any, saved: Header, tensors: Tensors) -> None:
    curves = files.entry(saved, "curves", list)
    for name in curves:
        if name not in _CURVES:
            raise ValueError(f"unknown curve {name!r}; valid names: {', '.join(_CURVES)}")
        setattr(model, name, _tensor(tensors, f"training.{name}", None, ["float64"]).tolist())
    if "loss_curve_" in curves and "validation_scores_" not in curves:
        model.validation_scores_ = None
    if "loss_curve_" in curves:
        names = files.entry(saved, "history", list) if "history" in saved else []
        model._history = {
            name: _tensor(tensors, f"history.{name}", (len(model.loss_curve_),), ["float64"], finite=False).tolist()
            for name in names
        }
    state = files.entry(saved, "state", dict, None)
    if state is None:
        return
    flat, sizes = model._parameters()
    numbers = {name: files.decode(state.get(name, default)) for name, default in _OPTIMIZER_NUMBERS.items()}
    if any(type(number) not in (int, float) for number in numbers.values()):
        raise ValueError(f"{', '.join(_OPTIMIZER_NUMBERS)} of the optimizer must be numbers, found {numbers}")
    hyperparameters = files.entry(state, "hyperparameters", dict)
    model._optimizer = optimizer = OptimizerState(
        name_among(state.get("name"), OPTIMIZERS, "optimizer"),
        {name: float(files.decode(value)) for name, value in hyperparameters.items()},
        numbers["learning_rate_init"],
        files.decode(files.entry(state, "schedule", str, dict)),
        numbers["power_t"],
        sizes,
        flat.dtype,
        array_shapes(model._network(sizes)),
        numbers["ema_decay"],
    )
    optimizer.learning_rate, optimizer.t = float(numbers["learning_rate"]), int(numbers["t"])
    model.learning_rate_ = optimizer.learning_rate
    optimizer.dropout_seed, optimizer.reduction = int(numbers["dropout_seed"]), float(numbers["reduction"])
    for name, slot in optimizer.slots.items():
        slot[...] = _tensor(tensors, f"optimizer.{name}", flat.shape, ["float32", "float64"])


def _tensor(
    tensors: Tensors, name: str, shape: tuple[int, ...] | None, dtypes: list[str], finite: bool = True
) -> NDArray[Any]:
    if name not in tensors:
        raise ValueError(f"the tensor {name!r} is missing, found {', '.join(tensors)}")
    array = tensors[name]
    if array.dtype.name not in dtypes or (shape or (array.size,)) != array.shape:
        raise ValueError(
            f"the tensor {name!r} must have shape {shape or '(n,)'} and dtype {' or '.join(dtypes)}, "
            f"found {array.shape} and {array.dtype}"
        )
    if finite and np.isnan(array).any():
        raise ValueError(f"the tensor {name!r} contains NaN")
    return array
