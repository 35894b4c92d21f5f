"""Fast multilayer perceptrons: a C++ core behind scikit-learn's interface.

``MLPClassifier`` and ``MLPRegressor`` are scikit-learn's, many times faster; ``Network`` is the bare set of functions;
``load`` reads a saved model as a ``Predictor``, which answers without scikit-learn.
Names are loaded on first use, so that ``import fastmlp`` is quick and does not import scikit-learn.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fastmlp import export, plot, schedules
    from fastmlp._config import show_config
    from fastmlp._cuda import cuda_status
    from fastmlp._lr_find import lr_find
    from fastmlp.classifier import MLPClassifier
    from fastmlp.files import load
    from fastmlp.network import Network
    from fastmlp.predictor import Predictor
    from fastmlp.regressor import MLPRegressor

__version__ = "0.1.0"
__all__ = [
    "MLPClassifier",
    "MLPRegressor",
    "Network",
    "Predictor",
    "cuda_status",
    "export",
    "load",
    "lr_find",
    "plot",
    "schedules",
    "show_config",
]

_MODULES = ("export", "plot", "schedules")

_ROOMS = {
    "MLPClassifier": "classifier",
    "MLPRegressor": "regressor",
    "Network": "network",
    "Predictor": "predictor",
    "cuda_status": "_cuda",
    "load": "files",
    "lr_find": "_lr_find",
    "show_config": "_config",
}


def __getattr__(name: str) -> object:
    if name in _MODULES:
        return import_module(f"fastmlp.{name}")
    if name not in _ROOMS:
        raise AttributeError(f"module 'fastmlp' has no attribute {name!r}; it offers {', '.join(__all__)}")
    value: object = getattr(import_module(f"fastmlp.{_ROOMS[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
