"""scikit-learn: its fitted perceptrons become ours."""

from __future__ import annotations

from copy import deepcopy
from typing import TYPE_CHECKING, Any

from sklearn import neural_network
from sklearn.utils.validation import check_is_fitted

from fastmlp._parameters import array_shapes
from fastmlp.classifier import MLPClassifier
from fastmlp.regressor import MLPRegressor

if TYPE_CHECKING:
    from fastmlp import _core
    from fastmlp.estimators import BaseMLP

# what scikit-learn keeps beside the attributes that end in an underscore
_PRIVATE = ("_label_binarizer", "_no_improvement_count")


def from_sklearn(model: Any) -> BaseMLP:
    """Return scikit-learn's fitted perceptron as one of ours.

    It has the same parameters and attributes, predicts the same up to rounding, and goes on training
    (``partial_fit``, ``warm_start``) where the original would: the optimizer's state comes along.

    Parameters
    ----------
    model : sklearn.neural_network.MLPClassifier or sklearn.neural_network.MLPRegressor
        A fitted estimator.

    Returns
    -------
    estimator : MLPClassifier or MLPRegressor
        A fitted estimator of this package, with copies of all arrays.

    Raises
    ------
    TypeError
        If ``model`` is anything else.
    NotFittedError
        If it has not been fitted.

    Examples
    --------
    >>> import numpy as np
    >>> from fastmlp.export import from_sklearn
    >>> from sklearn.neural_network import MLPClassifier
    >>> X, y = [[0.0, 1.0], [1.0, 0.0], [1.0, 1.0]], ["a", "b", "b"]
    >>> theirs = MLPClassifier(solver="lbfgs", random_state=0).fit(X, y)
    >>> ours = from_sklearn(theirs)
    >>> bool(np.allclose(ours.predict_proba(X), theirs.predict_proba(X), rtol=1e-12))
    True
    """
    kinds: dict[type, type[BaseMLP]] = {
        neural_network.MLPClassifier: MLPClassifier,
        neural_network.MLPRegressor: MLPRegressor,
    }
    kind = next((ours for theirs, ours in kinds.items() if isinstance(model, theirs)), None)
    if kind is None:
        raise TypeError(f"model must be scikit-learn's MLPClassifier or MLPRegressor, got {type(model).__name__}")
    check_is_fitted(model, "coefs_")
    allowed = kind._get_param_names()
    estimator: BaseMLP = kind(**{name: value for name, value in model.get_params().items() if name in allowed})
    for name, value in vars(model).items():
        if name.endswith("_") or name in _PRIVATE:
            setattr(estimator, name, deepcopy(value))
    flat, sizes = estimator._parameters()
    network = estimator._network(sizes)
    estimator._set_parameters(flat, array_shapes(network))
    if hasattr(model, "_optimizer"):
        _take_over_optimizer(estimator, model._optimizer, network)
    return estimator


def _take_over_optimizer(estimator: BaseMLP, theirs: Any, network: _core.Network) -> None:
    ours = estimator._new_optimizer(network, estimator._parameters()[0].dtype)
    if ours.schedule != "constant":  # what scikit-learn keeps for "adam" has its bias correction in it
        ours.learning_rate = float(theirs.learning_rate)
    ours.t = int(getattr(theirs, "t", 0))
    for name in ("ms", "vs", "velocities"):
        for mine, given in zip(getattr(ours, name, []), getattr(theirs, name, []), strict=True):
            mine[...] = given
    estimator._optimizer = ours
