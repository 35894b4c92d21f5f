"""Activations and normalisations in other languages: the only file that spells out the core's catalogues again.

To export a new one, add its line to a table at the bottom; tests compare every entry with the core.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

LEAK = 0.01
SELU_ALPHA = 1.6732632423543772848170429916717
SELU_SCALE = 1.0507009873554804934193349852946
EPSILON = 1e-5  # added to variances


@dataclass(frozen=True)
class Function:
    """One function: how to add it to an ONNX graph, its C99 source for one float z, and PyTorch's module.

    ``c`` may use ``expm1_of`` and ``log1p_exp`` below through ``needs``. An empty ``c`` leaves z as it is. ``c_row`` is
    for a function of all n outputs z[0] ... z[n - 1] of a row. A module that PyTorch lacks stands in ``pytorch.py``.
    """

    onnx: Callable[[Any, str], str]
    c: str
    torch: str
    settings: Mapping[str, Any] = field(default_factory=dict)  # of PyTorch's module, as it must be for this function
    needs: tuple[str, ...] = ()
    c_row: str = ""


@dataclass(frozen=True)
class Normalization:
    """What is taken off the n sums z of a row, and by what they are divided, without scale and offset.

    Where statistics are those of training, this is folded into scale and offset, and nothing is left to do.
    """

    onnx: Callable[[Any, str, int], str]
    c_row: str
    torch: str


# --- ONNX: onnxruntime has no float64 kernels for Elu, Selu, Softplus and Erf, so these are put together there --------


def _onnx_leaky_relu(graph: Any, z: str) -> str:
    if graph.dtype == np.float32:
        return str(graph.LeakyRelu(z, alpha=LEAK))
    return str(graph.Max(z, graph.Mul(z, LEAK)))  # attributes of ONNX are 32-bit floats


def _onnx_expm1_below_0(graph: Any, z: str) -> str:
    """exp(z) - 1 where z < 0, else 0."""
    return str(graph.Sub(graph.Exp(graph.Min(z, 0.0)), 1.0))


def _onnx_elu(graph: Any, z: str) -> str:
    if graph.dtype == np.float32:
        return str(graph.Elu(z))
    return str(graph.Add(graph.Relu(z), _onnx_expm1_below_0(graph, z)))


def _onnx_selu(graph: Any, z: str) -> str:
    if graph.dtype == np.float32:
        return str(graph.Selu(z))
    below = graph.Mul(_onnx_expm1_below_0(graph, z), SELU_SCALE * SELU_ALPHA)
    return str(graph.Add(graph.Mul(graph.Relu(z), SELU_SCALE), below))


def _onnx_softplus(graph: Any, z: str) -> str:
    if graph.dtype == np.float32:
        return str(graph.Softplus(z))
    return str(graph.Add(graph.Relu(z), graph.Log(graph.Add(graph.Exp(graph.Neg(graph.Abs(z))), 1.0))))


def _onnx_erf(graph: Any, x: str) -> str:
    """erf(x) = 2 x / sqrt(pi) * (integral of exp(-(x t)^2) for t from 0 to 1).

    In float64 by Gauss-Legendre quadrature: the integrand is smooth, and erf(6) is 1 to the last bit.
    """
    if graph.dtype == np.float32:
        return str(graph.Erf(x))
    nodes, shares = np.polynomial.legendre.leggauss(40)
    x = graph.Max(graph.Min(x, 6.0), -6.0)
    squares = graph.Unsqueeze(graph.Mul(x, x), np.array([2]))
    heights = graph.Exp(graph.Mul(squares, -(((nodes + 1) / 2) ** 2)))
    integral = graph.Squeeze(graph.MatMul(heights, (shares / np.sqrt(np.pi))[:, None]), np.array([2]))
    return str(graph.Mul(x, integral))


def _onnx_gelu(graph: Any, z: str) -> str:
    return str(graph.Mul(graph.Mul(z, 0.5), graph.Add(_onnx_erf(graph, graph.Mul(z, np.sqrt(0.5))), 1.0)))


def _onnx_mean(graph: Any, z: str, n: int) -> str:
    """Of each row. ReduceMean and LayerNormalization are not the same in all opsets."""
    return str(graph.Div(graph.ReduceSum(z, np.array([1]), keepdims=1), float(n)))


def _onnx_rms_norm(graph: Any, z: str, n: int) -> str:
    variance = _onnx_mean(graph, graph.Mul(z, z), n)
    return str(graph.Div(z, graph.Sqrt(graph.Add(variance, EPSILON))))


def _onnx_layer_norm(graph: Any, z: str, n: int) -> str:
    return _onnx_rms_norm(graph, graph.Sub(z, _onnx_mean(graph, z, n)), n)


# --- C ----------------------------------------------------------------------------------------------------------------

C_PARTS = {
    # without cancellation near 0: with t = tanh(z / 2), exp(z) = (1 + t) / (1 - t)
    "expm1_of": "const float t = tanhf(0.5f * z);\n  return 2.0f * t / (1.0f - t);",
    # log(1 + e) = 2 artanh(s) with s = e / (2 + e) <= 1/3: seven terms of the series are enough for a float
    "log1p_exp": """const float e = expf(-fabsf(z)), s = e / (2.0f + e), q = s * s;
  const float series = 1.0f + q * (1.0f / 3 + q * (1.0f / 5 + q * (1.0f / 7 + q * (1.0f / 9 + q * (1.0f / 11
      + q * (1.0f / 13))))));
  return (z > 0.0f ? z : 0.0f) + 2.0f * s * series;""",
}

C_SOFTMAX = """float top = z[0], sum = 0.0f;
  int k;
  for (k = 1; k < n; ++k) top = z[k] > top ? z[k] : top; /* so that no exponential overflows */
  for (k = 0; k < n; ++k) sum += z[k] = expf(z[k] - top);
  for (k = 0; k < n; ++k) z[k] /= sum;"""

C_SORT = """float moved;
  int k, i, j;
  for (k = 0; k < n; k += {n})
    for (i = k + 1; i < k + {n}; ++i)
      for (j = i; j > k && z[j] < z[j - 1]; --j) moved = z[j], z[j] = z[j - 1], z[j - 1] = moved;"""

C_RMS_NORM = f"""float root = 0.0f;
  int k;
  for (k = 0; k < n; ++k) root += z[k] * z[k];
  root = sqrtf(root / (float)n + {EPSILON}f);
  for (k = 0; k < n; ++k) z[k] /= root;"""

C_LAYER_NORM = f"""float mean = 0.0f, root = 0.0f;
  int k;
  for (k = 0; k < n; ++k) mean += z[k];
  mean /= (float)n;
  for (k = 0; k < n; ++k) z[k] -= mean, root += z[k] * z[k];
  root = sqrtf(root / (float)n + {EPSILON}f);
  for (k = 0; k < n; ++k) z[k] /= root;"""

# --- the tables -------------------------------------------------------------------------------------------------------

FUNCTIONS = {
    "identity": Function(lambda graph, z: z, "", "Identity"),
    "logistic": Function(
        lambda graph, z: graph.Sigmoid(z),
        "const float e = expf(-fabsf(z));\n  return (z < 0.0f ? e : 1.0f) / (1.0f + e);",
        "Sigmoid",
    ),
    "tanh": Function(lambda graph, z: graph.Tanh(z), "return tanhf(z);", "Tanh"),
    "relu": Function(lambda graph, z: graph.Relu(z), "return z < 0.0f ? 0.0f : z;", "ReLU"),
    "leaky_relu": Function(
        _onnx_leaky_relu,
        f"return z > 0.0f ? z : {LEAK}f * z;",
        "LeakyReLU",
        {"negative_slope": LEAK},
    ),
    "elu": Function(_onnx_elu, "return z > 0.0f ? z : {expm1_of}(z);", "ELU", {"alpha": 1.0}, ("expm1_of",)),
    "selu": Function(
        _onnx_selu,
        f"return z > 0.0f ? {SELU_SCALE:.9g}f * z : {SELU_SCALE * SELU_ALPHA:.9g}f * {{expm1_of}}(z);",
        "SELU",
        needs=("expm1_of",),
    ),
    "softplus": Function(
        _onnx_softplus,
        "return {log1p_exp}(z);",
        "Softplus",
        {"beta": 1.0, "threshold": 20.0},
        ("log1p_exp",),
    ),
    "gelu": Function(
        _onnx_gelu, f"return 0.5f * z * erfcf({-np.sqrt(0.5):.9g}f * z);", "GELU", {"approximate": "none"}
    ),
    "silu": Function(
        lambda graph, z: graph.Mul(z, graph.Sigmoid(z)),
        "const float e = expf(-fabsf(z));\n  return z * (z < 0.0f ? e : 1.0f) / (1.0f + e);",
        "SiLU",
    ),
    "mish": Function(
        lambda graph, z: graph.Mul(z, graph.Tanh(_onnx_softplus(graph, z))),
        # tanh(log(1 + e)) = n / (n + 2) with n = e (e + 2), which is 1 to the last bit above 20
        "const float e = expf(z < 20.0f ? z : 20.0f), n = e * (e + 2.0f);\n  return z * (n / (n + 2.0f));",
        "Mish",
    ),
    "exp": Function(lambda graph, z: graph.Exp(z), "return expf(z);", "Exp"),
    "softmax": Function(lambda graph, z: graph.Softmax(z, axis=1), "", "Softmax", {"dim": -1}, c_row=C_SOFTMAX),
}

NORMALIZATIONS = {
    "none": Normalization(lambda graph, z, n: z, "", "Identity"),
    "batch_norm": Normalization(lambda graph, z, n: z, "", "BatchNorm1d"),
    "layer_norm": Normalization(_onnx_layer_norm, C_LAYER_NORM, "LayerNorm"),
    "rms_norm": Normalization(_onnx_rms_norm, C_RMS_NORM, "RMSNorm"),
}


def _sort(parameters: Mapping[str, Any], n_outputs: int) -> Function:
    """The quantiles of each target in increasing order."""
    n = int(np.size(parameters["quantile"]))
    if n == 1:
        return FUNCTIONS["identity"]

    def onnx(graph: Any, z: str) -> str:
        targets = graph.Reshape(z, np.array([-1, n_outputs // n, n]))
        ordered = graph.TopK(targets, np.array([n]), axis=-1, largest=0, spare_outputs=1)
        return str(graph.Reshape(ordered, np.array([-1, n_outputs])))

    return Function(onnx, "", "Sort", parameters, c_row=C_SORT.format(n=n))


def _mean_variance(parameters: Mapping[str, Any], n_outputs: int) -> Function:
    """Mean and variance of each target from the mean and the logarithm of the variance."""
    eps = parameters["eps"]

    def onnx(graph: Any, z: str) -> str:
        is_variance = np.arange(n_outputs)[np.newaxis] % 2 == 1
        return str(graph.Where(is_variance, graph.Add(graph.Exp(z), eps), z))

    body = f"int k;\n  for (k = 1; k < n; k += 2) z[k] = expf(z[k]) + (float){float(eps)!r};"
    return Function(onnx, "", "MeanVariance", parameters, c_row=body)


# output activations that depend on the hyper-parameters of their loss
LINKS = {"sort": _sort, "mean_variance": _mean_variance}


def function(name: str, parameters: Mapping[str, Any] | None = None, n_outputs: int = 1) -> Function:
    """Return the entry of an activation or output activation, there with the loss's hyper-parameters.

    Raises
    ------
    NotImplementedError
        If the core knows it but this table does not.
    """
    if name in LINKS and parameters:
        return LINKS[name](parameters, n_outputs)
    if name not in FUNCTIONS:
        valid = ", ".join([*FUNCTIONS, *LINKS])
        raise NotImplementedError(f"{name!r} cannot be exported yet; activations that can: {valid}")
    return FUNCTIONS[name]


def normalization(name: str) -> Normalization:
    """Return the entry of a normalisation.

    Raises
    ------
    NotImplementedError
        If the core knows it but this table does not.
    """
    if name not in NORMALIZATIONS:
        valid = ", ".join(NORMALIZATIONS)
        raise NotImplementedError(f"{name!r} cannot be exported yet; normalizations that can: {valid}")
    return NORMALIZATIONS[name]
