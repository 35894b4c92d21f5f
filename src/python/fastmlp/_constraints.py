"""Which values the parameters of estimators may have: scikit-learn's constraints, looked at once for each value."""

from __future__ import annotations

from functools import cache, lru_cache
from inspect import signature
from numbers import Integral, Real
from typing import Any, ClassVar

import numpy as np
from sklearn.utils._param_validation import (
    HasMethods,
    Interval,
    Options,
    StrOptions,
    validate_parameter_constraints,
)

from fastmlp import _core
from fastmlp._cuda import PRECISIONS
from fastmlp._losses import OUTPUT_ACTIVATIONS
from fastmlp.callbacks import Callback
from fastmlp.optimizer_state import OPTIMIZERS
from fastmlp.schedules import NAMES

_NEVER_CHANGE = frozenset([bool, int, float, str, type(None)])


class Constraints:
    """The part of an estimator that knows the valid values of its parameters; subclasses add their own."""

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        "hidden_layer_sizes": ["array-like", str, Interval(Integral, 1, None, closed="left")],
        "activation": [StrOptions(set(_core.activations())), list, tuple],
        "solver": [StrOptions({"lbfgs", *OPTIMIZERS})],
        "alpha": [Interval(Real, 0, None, closed="left")],
        "batch_size": [StrOptions({"auto"}), Interval(Integral, 1, None, closed="left")],
        "learning_rate": [StrOptions({"constant", "invscaling", "adaptive", *NAMES}), callable],
        "learning_rate_init": [Interval(Real, 0, None, closed="neither")],
        "power_t": [Interval(Real, 0, None, closed="left")],
        "max_iter": [Interval(Integral, 1, None, closed="left")],
        "shuffle": ["boolean"],
        "random_state": ["random_state"],
        "tol": [Interval(Real, 0, None, closed="left")],
        "verbose": ["verbose"],
        "warm_start": ["boolean"],
        "momentum": [Interval(Real, 0, 1, closed="both")],
        "nesterovs_momentum": ["boolean"],
        "early_stopping": ["boolean"],
        "validation_fraction": [
            Interval(Real, 0, 1, closed="left"),
            HasMethods(["split", "get_n_splits"]),
            list,
            tuple,
        ],
        "beta_1": [Interval(Real, 0, 1, closed="left")],
        "beta_2": [Interval(Real, 0, 1, closed="left")],
        "epsilon": [Interval(Real, 0, None, closed="neither")],
        "n_iter_no_change": [Interval(Integral, 1, None, closed="left"), Options(Real, {np.inf})],
        "max_fun": [Interval(Integral, 1, None, closed="left")],
        "n_jobs": [None, Options(Integral, {-1}), Interval(Integral, 1, None, closed="left")],
        "dtype": [None, StrOptions({"float32", "float64"})],
        "loss_parameters": [dict, None],
        "normalization": [None, str, list, tuple],
        "dropout": [Interval(Real, 0, 1, closed="left"), list, tuple],
        "input_dropout": [Interval(Real, 0, 1, closed="left")],
        "residual": ["boolean"],
        "initialization": [str, callable, list, tuple],
        "weight_decay": [Interval(Real, 0, None, closed="left")],
        "rho": [Interval(Real, 0, 1, closed="left")],
        "clip_norm": [None, Interval(Real, 0, None, closed="neither")],
        "clip_value": [None, Interval(Real, 0, None, closed="neither")],
        "ema_decay": [None, Interval(Real, 0, 1, closed="neither")],
        "output_activation": [None, StrOptions({*OUTPUT_ACTIVATIONS.values(), *_core.output_activations()})],
        "eval_metric": [None, str, callable, list, tuple],
        "max_time": [None, Interval(Real, 0, None, closed="neither")],
        "on_divergence": [StrOptions({"raise", "back_off"})],
        "callbacks": [None, callable, Callback, list, tuple],
        "device": [str],
        "precision": [StrOptions({*PRECISIONS})],
    }

    def _validate_params(self) -> None:
        """Validate parameters as scikit-learn does, but for defaults: to look at all takes longer than a small fit.

        Values that cannot change are valid again if they were before.
        """
        kind: Any = type(self)
        known = defaults(kind)
        given = {name: value for name, default in known.items() if (value := getattr(self, name)) is not default}
        if all(map(_is_plain, given.values())):
            _validate_once(kind, tuple(given.items()), tuple(map(_types, given.values())))
        else:
            _validate(kind, given)


def _validate(estimator: Any, given: dict[str, Any]) -> None:
    validate_parameter_constraints(estimator._parameter_constraints, given, caller_name=estimator.__name__)


@lru_cache(maxsize=256)
def _validate_once(estimator: Any, given: tuple[tuple[str, Any], ...], types: tuple[Any, ...]) -> None:
    """Validate values of these types, which tell apart what is equal but not equally valid: 1 and True."""
    _validate(estimator, dict(given))


def _is_plain(value: Any) -> bool:
    return type(value) in _NEVER_CHANGE or (type(value) is tuple and all(map(_is_plain, value)))


def _types(value: Any) -> Any:
    return tuple(map(_types, value)) if type(value) is tuple else type(value)


@cache
def defaults(estimator: Any) -> dict[str, Any]:
    """Return the parameters of a class and their defaults."""
    return {name: parameter.default for name, parameter in signature(estimator).parameters.items()}
