"""Trained networks in other people's formats: ONNX, C, PyTorch, and from scikit-learn and PyTorch back to here.

Names are loaded on first use: each needs the package of its format and no other.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fastmlp.export.c_source import to_c
    from fastmlp.export.onnx_graph import register_skl2onnx, to_onnx
    from fastmlp.export.pytorch import from_torch, to_torch
    from fastmlp.export.scikit_learn import from_sklearn

__all__ = ["from_sklearn", "from_torch", "register_skl2onnx", "to_c", "to_onnx", "to_torch"]

_FILES = {
    "from_sklearn": "scikit_learn",
    "from_torch": "pytorch",
    "register_skl2onnx": "onnx_graph",
    "to_c": "c_source",
    "to_onnx": "onnx_graph",
    "to_torch": "pytorch",
}


def __getattr__(name: str) -> object:
    if name not in _FILES:
        raise AttributeError(f"module 'fastmlp.export' has no attribute {name!r}; it offers {', '.join(__all__)}")
    value: object = getattr(import_module(f"fastmlp.export.{_FILES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
