"""C: a model as one file of C99 that needs nothing but a C compiler."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import fastmlp
from fastmlp._validation import name_among
from fastmlp.export._c_text import (
    C_KEYWORDS,
    activation_source,
    array_source,
    comment,
    label_declarations,
    label_source,
    part_source,
    row_source,
)
from fastmlp.export._model import Model, read_model
from fastmlp.export._quantised import Quantised, quantise

if TYPE_CHECKING:
    import os

    from numpy.typing import NDArray


def to_c(
    model: Any,
    path: str | os.PathLike[str] | None = None,
    *,
    name: str = "model",
    weights: str = "float32",
    calibration: Any = None,
    max_error: float | None = None,
) -> str:
    """Return a model as one self-contained file of C99.

    It computes in ``float``, allocates nothing, has no state (any number of threads may call it) and needs nothing
    beyond ``expf`` and ``tanhf``; "gelu" also ``erfcf``, "layer_norm" and "rms_norm" also ``sqrtf``. The first lines of
    the file say how to compile and call it. It defines ``NAME_predict``, which writes what ``predict_proba`` (of a
    classifier) or ``predict`` returns for one row, and for a classifier ``NAME_class``, which returns the number of the
    most probable class, and ``NAME_label``, which returns its label; with many labels ``NAME_labels``, which writes 0
    or 1 for each. Work space is on the stack: two floats for each unit of the widest hidden layer (four with residual
    skips), and one for each feature if there is a scaler.

    Parameters
    ----------
    model : MLPClassifier, MLPRegressor, Pipeline, Predictor or Network
        A fitted estimator, scikit-learn's own included; a pipeline of scalers (standard, robust, min-max, max-abs) and
        one of them; what ``compile`` or ``load`` returns; or a network.
    path : str or path-like, default=None
        File to write; None only returns the text.
    name : str, default="model"
        First part of all names in the file: an identifier of C.
    weights : {"float32", "int8"}, default="float32"
        How weights are stored. "int8" takes a quarter of the room: each neuron has a scale, and integers from -127 to
        127 for its weights; sums and activations stay ``float``.
    calibration : array-like of shape (n_samples, n_features), default=None
        Rows on which the error of "int8" is measured; needed there and used nowhere else.
    max_error : float, default=None
        Largest error that is let through; None means 0.05. Only for "int8".

    Returns
    -------
    source : str
        The text of the file. With "int8" its first comment states the measured error: the largest difference of an
        output, which for numbers (not probabilities) is divided by the range of that output on ``calibration``.

    Raises
    ------
    ValueError
        For a name that C does not allow, weights that a float cannot hold, a calibration set that is missing,
        superfluous or of the wrong shape, and an error above ``max_error``.

    Examples
    --------
    >>> from fastmlp import Network
    >>> from fastmlp.export import to_c
    >>> source = to_c(Network([4, 8, 2], activation="tanh", random_state=0), name="twins")
    >>> "void twins_predict(const float *x, float *out)" in source
    True
    """
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*", name) or name in C_KEYWORDS:
        raise ValueError(f"name must be an identifier of C (letters, digits, _; no keyword), got {name!r}")
    plan = read_model(model)
    quantised = None
    if name_among(weights, ["float32", "int8"], "weights") == "int8":
        quantised = quantise(plan, calibration, 0.05 if max_error is None else max_error)
    elif calibration is not None or max_error is not None:
        raise ValueError("calibration and max_error are only for weights='int8'")
    parts = [
        _header(plan, name, type(model).__name__, quantised),
        _declarations(plan, name),
        *_constants(plan, name, quantised),
        _layer_source(name, quantised is not None),
        *_function_sources(plan, name),
        _predict_source(plan, name, quantised is not None),
    ]
    if plan.classes is not None:
        parts.append(label_source(plan.classes, plan.multilabel, name))
    source = "\n\n".join(parts) + "\n"
    if path is not None:
        Path(path).write_text(source, encoding="ascii", newline="\n")
    return source


def _header(plan: Model, name: str, kind: str, quantised: Quantised | None) -> str:
    steps = [str(plan.sizes[0]), *(layer.steps for layer in plan.layers)]
    lines = [
        f"{kind}: {' -> '.join(steps)}. Written by fastmlp {fastmlp.__version__}; do not edit.",
        "",
        f"Compile: cc -std=c99 -O2 -c {name}.c, and link with -lm. Copy the declarations below into a header,",
        "or include this file in one of yours. All functions may be called from many threads at once.",
    ]
    if quantised:
        lines += ["", *quantised.report()]
    if plan.feature_names:
        lines += ["", "Features:", *(f"  x[{i}] {feature}" for i, feature in enumerate(plan.feature_names))]
    if plan.center is not None:
        lines += ["", "Features are taken as they are: the scaling is part of the model."]
    return comment(lines)


def _declarations(plan: Model, name: str) -> str:
    n_out = _width(plan)
    lines = [
        "#include <math.h>",
        "",
        f"enum {{ {name}_n_features = {plan.sizes[0]}, {name}_n_outputs = {n_out} }};",
        "",
    ]
    what = "values" if plan.classes is None else "probabilities of the labels" if plan.multilabel else "probabilities"
    lines += [
        f"/* x: {name}_n_features numbers; out: room for {name}_n_outputs {what}. */",
        f"void {name}_predict(const float *x, float *out);",
    ]
    if plan.classes is not None:
        lines += ["", label_declarations(plan.classes, plan.multilabel, name)]
    return "\n".join(lines)


def _constants(plan: Model, name: str, quantised: Quantised | None) -> list[str]:
    parts = []
    if plan.center is not None and plan.factor is not None:
        parts.append(array_source("float", f"{name}_center", _floats(plan.center)))
        parts.append(array_source("float", f"{name}_factor", _floats(plan.factor)))
    for i, layer in enumerate(plan.layers):
        if quantised:
            integers, scales = quantised.layers[i]
            parts.append(array_source("signed char", f"{name}_weights_{i}", integers))
            parts.append(array_source("float", f"{name}_scales_{i}", _floats(scales)))
        else:
            parts.append(array_source("float", f"{name}_weights_{i}", _floats(layer.matrix)))
        parts.append(array_source("float", f"{name}_biases_{i}", _floats(layer.intercept)))
        for kind, values in zip(("factors", "offsets"), layer.scale_and_offset, strict=True):
            if values is not None:
                parts.append(array_source("float", f"{name}_{kind}_{i}", _floats(values)))
    return parts


def _layer_source(name: str, quantised: bool) -> str:
    scales = " const float *scales," if quantised else ""
    kind = "signed char" if quantised else "float"
    start, last = ("0.0f", "\n  for (j = 0; j < n_out; ++j) out[j] = out[j] * scales[j] + biases[j];")
    if not quantised:
        start, last = "biases[j]", ""
    return f"""/* out = x W + b; weights are row by row (n_in, n_out), so that the inner loop runs over neighbours */
static void {name}_layer(const float *restrict x, int n_in, const {kind} *restrict weights,{scales}
                         const float *biases, int n_out, float *restrict out) {{
  int i, j;
  for (j = 0; j < n_out; ++j) out[j] = {start};
  for (i = 0; i < n_in; ++i, weights += n_out)
    for (j = 0; j < n_out; ++j) out[j] += x[i] * {"(float)" if quantised else ""}weights[j];{last}
}}"""


def _function_sources(plan: Model, name: str) -> list[str]:
    rows = {layer.normalization: layer.normalized.c_row for layer in plan.layers}
    used = {layer.function: entry for layer, entry in zip(plan.layers, plan.entries, strict=True)}
    needed = dict.fromkeys(part for entry in used.values() for part in entry.needs)
    return [
        *(row_source(name, kind, body) for kind, body in rows.items() if body),
        *(part_source(name, part) for part in needed),
        *(activation_source(name, *each) for each in used.items()),
    ]


def _predict_source(plan: Model, name: str, quantised: bool) -> str:
    lines = [f"void {name}_predict(const float *x, float *out) {{"]
    has_skips = any(layer.has_skip for layer in plan.layers)
    room = max(plan.sizes[1:-1], default=0) * (2 if has_skips else 1)  # skips: units, then their sums
    if room:
        lines.append(f"  float first[{room}]{f', second[{room}]' if len(plan.layers) > 2 else ''};")
    if plan.center is not None or has_skips or any(layer.scale is not None for layer in plan.layers):
        lines.append("  int i;")
    source = "x"
    if plan.center is not None:
        lines.insert(1, f"  float scaled[{plan.sizes[0]}];")
        lines.append(_loop(plan.sizes[0], f"scaled[i] = (x[i] - {name}_center[i]) * {name}_factor[i];"))
        source = "scaled"
    for i, (layer, entry) in enumerate(zip(plan.layers, plan.entries, strict=True)):
        target = "out" if i == len(plan.layers) - 1 else ("first", "second")[i % 2]
        scales = f"{name}_scales_{i}, " if quantised else ""
        numbers = f"{name}_weights_{i}, {scales}{name}_biases_{i}, {plan.sizes[i + 1]}"
        lines.append(f"  {name}_layer({source}, {len(layer.matrix)}, {numbers}, {target});")
        lines += _between(plan, name, i, source, target)
        if activation_source(name, layer.function, entry):
            lines.append(f"  {name}_{layer.function}({target}, {plan.sizes[i + 1]});")
        source = target
    if plan.two_columns:
        lines += ["  out[1] = out[0];", "  out[0] = 1.0f - out[1];"]
    return "\n".join([*lines, "}"])


def _between(plan: Model, name: str, number: int, source: str, target: str) -> list[str]:
    """Return what happens between the products of a layer and its activation."""
    layer, n = plan.layers[number], plan.sizes[number + 1]
    scale, offset = layer.scale_and_offset
    lines = []
    if layer.has_skip and layer.projection is None:
        lines.append(_loop(n, f"{target}[i] += {source}[{n} + i];"))
    if plan.passes_on(number):
        lines.append(_loop(n, f"{target}[{n} + i] = {target}[i];"))
    if layer.normalized.c_row:
        lines.append(f"  {name}_{layer.normalization}({target}, {n});")
    if scale is not None:
        added = "" if offset is None else f" + {name}_offsets_{number}[i]"
        lines.append(_loop(n, f"{target}[i] = {target}[i] * {name}_factors_{number}[i]{added};"))
    return lines


def _loop(n: int, body: str) -> str:
    return f"  for (i = 0; i < {n}; ++i) {body}"


def _width(plan: Model) -> int:
    return 2 if plan.two_columns else plan.sizes[-1]


def _floats(values: NDArray[Any]) -> NDArray[np.float32]:
    with np.errstate(over="ignore"):
        floats = np.asarray(values, np.float32)
    if not np.isfinite(floats).all():
        raise ValueError("a weight or bias of the model is not a finite float of 32 bits: C cannot hold it")
    return floats
