"""ONNX: ``to_onnx`` for one model, ``register_skl2onnx`` for pipelines."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import fastmlp
from fastmlp._validation import name_among
from fastmlp.export._model import Layer, Model, read_model

if TYPE_CHECKING:
    import os

    from onnx import ModelProto

DEFAULT_OPSET = 17  # of July 2022: onnxruntime 1.12 and later
OLDEST_OPSET = 13  # before it, Softmax and Squeeze mean something else


def to_onnx(
    model: Any, path: str | os.PathLike[str] | None = None, *, opset: int = DEFAULT_OPSET, dtype: str | None = None
) -> ModelProto:
    """Return a model as ONNX; neither PyTorch nor skl2onnx is needed.

    The input is ``X`` of shape (n_samples, n_features). Outputs are named as skl2onnx names tensors (its option
    ``zipmap=False``): ``label`` and ``probabilities`` of a classifier, ``variable`` of shape (n_samples, n_outputs) of
    a regressor or a ``Network``; several outputs of one target (mean and variance, or quantiles) stand side by side.
    Labels are 64-bit integers, strings, bools or floats like ``classes_``.

    Parameters
    ----------
    model : MLPClassifier, MLPRegressor, Pipeline, Predictor or Network
        A fitted estimator, scikit-learn's own included; a pipeline of scalers (standard, robust, min-max, max-abs) and
        one of them; what ``compile`` or ``load`` returns; or a network.
    path : str or path-like, default=None
        File to write; None only returns the model.
    opset : int, default=17
        Version of the ONNX operators: 13 or later.
    dtype : {"float32", "float64"} or None, default=None
        Numbers of the graph, its input and its probabilities. None takes the model's own.

    Returns
    -------
    onnx_model : onnx.ModelProto
        The model, checked by ``onnx.checker``.

    Raises
    ------
    ImportError
        If the package ``onnx`` is missing.
    ValueError
        For an opset or a dtype that is not as above, or parameters that are too large for ``dtype``.

    Notes
    -----
    In float64, onnxruntime lacks kernels for some operators, so that "elu", "selu", "softplus", "mish" and "gelu" are
    put together from others there; "gelu" by a quadrature that takes 40 exponentials for each neuron.

    Examples
    --------
    >>> from fastmlp import Network
    >>> from fastmlp.export import to_onnx
    >>> network = Network([4, 8, 2], activation="gelu", loss="squared_error", dtype="float32", random_state=0)
    >>> onnx_model = to_onnx(network)
    >>> [value.name for value in [*onnx_model.graph.input, *onnx_model.graph.output]]
    ['X', 'variable']
    """
    onnx = _onnx()
    newest = onnx.defs.onnx_opset_version()
    if not OLDEST_OPSET <= opset <= newest:
        raise ValueError(f"opset must be between {OLDEST_OPSET} and {newest} (the newest of this onnx), got {opset!r}")
    plan = read_model(model)
    graph = Graph(np.dtype(plan.dtype if dtype is None else name_among(dtype, ["float32", "float64"], "dtype")))
    shapes = add_outputs(graph, plan, "X", ["variable"] if plan.classes is None else ["label", "probabilities"])
    helper = onnx.helper
    real = helper.np_dtype_to_tensor_dtype(graph.dtype)
    types = [real] if plan.classes is None else [label_type(plan), real]
    onnx_model: ModelProto = helper.make_model(
        helper.make_graph(
            [helper.make_node(op, inputs, outputs, **given) for op, inputs, outputs, given in graph.nodes],
            type(model).__name__,
            [helper.make_tensor_value_info("X", real, ["n_samples", plan.sizes[0]])],
            [
                helper.make_tensor_value_info(name, kind, ["n_samples", *shape])
                for (name, shape), kind in zip(shapes.items(), types, strict=True)
            ],
            [onnx.numpy_helper.from_array(array, name) for name, array in graph.constants.items()],
        ),
        producer_name="fastmlp",
        producer_version=fastmlp.__version__,
        opset_imports=[helper.make_opsetid("", opset)],
    )
    onnx_model.ir_version = helper.find_min_ir_version_for(onnx_model.opset_import)
    if plan.feature_names:
        helper.set_model_props(onnx_model, {"feature_names": json.dumps(plan.feature_names)})
    onnx.checker.check_model(onnx_model, full_check=True)
    if path is not None:
        Path(path).write_bytes(onnx_model.SerializeToString())
    return onnx_model


class Graph:
    """An ONNX graph in the making: ``graph.Add(z, 1.0)`` adds a node and returns the name of its output.

    Inputs are names, or numbers and arrays, which become constants: floats in the graph's dtype.
    """

    def __init__(self, dtype: np.dtype[Any], new_name: Callable[[str], str] | None = None) -> None:
        self.dtype = dtype
        self.nodes: list[tuple[str, list[str], list[str], dict[str, Any]]] = []
        self.constants: dict[str, np.ndarray[Any, Any]] = {}
        self._new_name = new_name or (lambda stem: f"{stem}_{len(self.nodes) + len(self.constants)}")

    def __getattr__(self, op: str) -> Callable[..., str]:
        def add(*inputs: Any, output: str | None = None, spare_outputs: int = 0, **attributes: Any) -> str:
            names = [given if isinstance(given, str) else self._constant(given) for given in inputs]
            output = output or self._new_name(op.lower())
            spare = [self._new_name(f"{output}_{i}") for i in range(1, spare_outputs + 1)]
            self.nodes.append((op, names, [output, *spare], attributes))
            return output

        return add

    def _constant(self, values: Any) -> str:
        array = np.asarray(values)
        if array.dtype.kind == "f":
            with np.errstate(over="ignore"):
                array = array.astype(self.dtype)
            if not np.isfinite(array).all():
                raise ValueError(f"parameters of the model do not fit into {self.dtype}")
        return self.keep(array)

    def keep(self, array: np.ndarray[Any, Any]) -> str:
        """Add a constant as it is; return its name."""
        name = self._new_name("constant")
        self.constants[name] = array
        return name


def add_outputs(graph: Graph, plan: Model, x: str, names: list[str]) -> dict[str, list[int]]:
    """Add a model to the graph; return the shape of a row of each of its outputs, which get these names."""
    if plan.center is not None:
        x = graph.Mul(graph.Sub(x, plan.center), plan.factor)
    below = ""
    for layer, entry in zip(plan.layers, plan.entries, strict=True):
        z, below = _add_sums(graph, layer, x, below)
        x = entry.onnx(graph, z)
    if plan.classes is None:
        graph.Identity(x, output=names[0])
        return {names[0]: [plan.sizes[-1]]}
    if plan.two_columns:
        x = graph.Concat(graph.Sub(1.0, x), x, axis=1)
    probabilities = graph.Identity(x, output=names[1])
    width = 2 if plan.two_columns else plan.sizes[-1]
    if plan.multilabel:
        graph.Cast(graph.Greater(probabilities, 0.5), to=_onnx().TensorProto.INT64, output=names[0])
        return {names[0]: [width], names[1]: [width]}
    # a single class has two columns as well, and both mean it
    table = graph.keep(np.resize(label_table(plan.classes), width))
    graph.Gather(table, graph.ArgMax(probabilities, axis=1, keepdims=0), output=names[0])
    return {names[0]: [], names[1]: [width]}


def _add_sums(graph: Graph, layer: Layer, x: str, below: str) -> tuple[str, str]:
    """Add the sums of a layer; ``below`` are those of the one below. Return them normalised, and as they are."""
    sums = graph.Gemm(x, layer.coef, layer.intercept)
    if layer.has_skip:
        sums = graph.Add(sums, below if layer.projection is None else graph.MatMul(below, layer.projection))
    z = layer.normalized.onnx(graph, sums, len(layer.intercept))
    scale, offset = layer.scale_and_offset
    z = z if scale is None else graph.Mul(z, scale)
    return (z if offset is None else graph.Add(z, offset)), sums


def label_table(classes: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Return class labels in a type that ONNX knows: 64-bit integers, float64, bool, or str objects.

    Raises
    ------
    TypeError
        For other labels.
    """
    if all(isinstance(label, str) for label in classes):
        return classes.astype(object)
    for kinds, dtype in (("iu", np.int64), ("f", np.float64), ("b", np.bool_)):
        if classes.dtype.kind in kinds:
            return classes.astype(dtype)
    raise TypeError(f"class labels must be integers, floats, bools or strings, got {classes.dtype}: {classes}")


def label_type(plan: Model) -> int:
    """Return ONNX's number for the type of the labels of a classifier."""
    classes = np.zeros(1, np.int64) if plan.multilabel or plan.classes is None else label_table(plan.classes)
    if classes.dtype == object:
        return int(_onnx().TensorProto.STRING)
    return int(_onnx().helper.np_dtype_to_tensor_dtype(classes.dtype))


def register_skl2onnx() -> None:
    """Teach skl2onnx to convert ``MLPClassifier`` and ``MLPRegressor``, so that whole pipelines become ONNX.

    Options are those that skl2onnx has for classifiers, such as ``zipmap``.

    Raises
    ------
    ImportError
        If the package ``skl2onnx`` is missing.

    Examples
    --------
    >>> import numpy as np
    >>> from fastmlp import MLPClassifier
    >>> from fastmlp.export import register_skl2onnx
    >>> from sklearn.pipeline import make_pipeline
    >>> from sklearn.preprocessing import StandardScaler
    >>> from skl2onnx import to_onnx  # doctest: +SKIP
    >>> register_skl2onnx()  # doctest: +SKIP
    >>> X, y = np.array([[0.0, 1.0], [1.0, 0.0], [1.0, 1.0]]), [0, 1, 1]
    >>> pipeline = make_pipeline(StandardScaler(), MLPClassifier(solver="lbfgs", random_state=0)).fit(X, y)
    >>> onnx_model = to_onnx(pipeline, X, options={"zipmap": False})  # doctest: +SKIP
    """
    try:
        from skl2onnx import update_registered_converter
    except ImportError as error:
        raise ImportError("register_skl2onnx needs the package skl2onnx: pip install skl2onnx") from error
    from fastmlp import MLPClassifier, MLPRegressor

    options = {"zipmap": [True, False, "columns"], "nocl": [True, False], "output_class_labels": [False, True]}
    for estimator, given in ((MLPClassifier, options), (MLPRegressor, None)):
        alias = f"Fastmlp{estimator.__name__}"
        update_registered_converter(estimator, alias, _declare_outputs, _convert, options=given)


def _declare_outputs(operator: Any) -> None:
    """Tell skl2onnx the types and shapes of the outputs."""
    from skl2onnx.common import data_types

    plan, x = read_model(operator.raw_operator), operator.inputs[0]
    rows = x.get_first_dimension()
    width = max(plan.sizes[-1], 2) if plan.classes is not None else plan.sizes[-1]
    operator.outputs[-1].set_type(data_types.guess_tensor_type(x.type).__class__([rows, width]))
    if plan.classes is not None:
        kinds = {"i": "Int64TensorType", "f": "DoubleTensorType", "b": "BooleanTensorType", "O": "StringTensorType"}
        kind = "i" if plan.multilabel else label_table(plan.classes).dtype.kind
        operator.outputs[0].set_type(getattr(data_types, kinds[kind])([rows, width] if plan.multilabel else [rows]))


def _convert(scope: Any, operator: Any, container: Any) -> None:
    """Put a model's nodes into skl2onnx's graph."""
    from skl2onnx.common.data_types import DoubleTensorType

    onnx, x = _onnx(), operator.inputs[0]
    dtype = np.dtype(np.float64 if isinstance(x.type, DoubleTensorType) else np.float32)
    graph = Graph(dtype, scope.get_unique_variable_name)
    cast = graph.Cast(x.full_name, to=onnx.helper.np_dtype_to_tensor_dtype(dtype))
    add_outputs(graph, read_model(operator.raw_operator), cast, [output.full_name for output in operator.outputs])
    for name, array in graph.constants.items():
        kind = onnx.numpy_helper.from_array(array).data_type
        values = [value.encode() for value in array] if array.dtype == object else array.ravel()
        container.add_initializer(name, kind, array.shape, values)
    for op, inputs, outputs, attributes in graph.nodes:
        container.add_node(op, inputs, outputs, name=scope.get_unique_operator_name(op), **attributes)


def _onnx() -> Any:
    try:
        import onnx
    except ImportError as error:
        raise ImportError("ONNX export needs the package onnx: pip install 'fastmlp[onnx]'") from error
    return onnx
