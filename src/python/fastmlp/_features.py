"""The part of an estimator that makes features: what a hidden layer has learned to see, under scikit-learn's names."""

from __future__ import annotations

import operator
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from sklearn.utils._set_output import _wrap_data_with_container
from sklearn.utils.validation import _generate_get_feature_names_out, check_is_fitted

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from fastmlp._core import FloatArray


class HiddenFeatures:
    """The part of an estimator that transforms. To be inherited beside ``TransformerMixin``, which adds the rest.

    It is no ``TransformerMixin`` itself: that would name the columns of every layer after those of the last.
    """

    if TYPE_CHECKING:
        coefs_: list[FloatArray]
        _sklearn_auto_wrap_output_keys: set[str]

        def _layer(self, X: Any, layer: int, network: Any = None) -> FloatArray: ...

    def transform(self, X: Any, layer: int = -1) -> Any:
        """Return what a hidden layer makes of X: features that the network has learned.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            Finite numbers.
        layer : int, default=-1
            Number of the hidden layer: 1 is the first, -1 the last.

        Returns
        -------
        activations : ndarray of shape (n_samples, n_units)
            The layer after its activation; a DataFrame if ``set_output`` says so.

        Raises
        ------
        ValueError
            If there is no such hidden layer.

        Examples
        --------
        The first layer of a network, as features of a linear model:

        >>> from fastmlp import MLPClassifier
        >>> from sklearn.datasets import load_iris
        >>> from sklearn.linear_model import LogisticRegression
        >>> from sklearn.pipeline import make_pipeline
        >>> X, y = load_iris(return_X_y=True)
        >>> network = MLPClassifier((8, 3), "tanh", solver="lbfgs", tol=0.01, random_state=0).fit(X, y)
        >>> network.transform(X, layer=1).shape, network.transform(X).shape
        ((150, 8), (150, 3))
        >>> make_pipeline(network, LogisticRegression()).fit(X, y).score(X, y) > 0.9
        True
        """
        check_is_fitted(self)
        number = self._hidden_number(layer)
        names = SimpleNamespace(  # this layer's, for the container that `set_output` asks for
            get_feature_names_out=lambda: self.get_feature_names_out(layer=layer),
            _sklearn_auto_wrap_output_keys=self._sklearn_auto_wrap_output_keys,
            **{name: value for name, value in vars(self).items() if name == "_sklearn_output_config"},
        )
        return _wrap_data_with_container("transform", self._layer(X, number), X, names)

    def get_feature_names_out(self, input_features: Any = None, layer: int = -1) -> NDArray[Any]:
        """Return names for the features that ``transform`` makes: the class in lower case, and the unit's number.

        Parameters
        ----------
        input_features : array-like of str or None, default=None
            Only compared with ``feature_names_in_``.
        layer : int, default=-1
            Number of the hidden layer, as in ``transform``.

        Returns
        -------
        names : ndarray of str objects of shape (n_units,)
            "mlpclassifier0", "mlpclassifier1", ...
        """
        check_is_fitted(self)
        n_units = self.coefs_[self._hidden_number(layer)].shape[0]
        names: NDArray[Any] = _generate_get_feature_names_out(self, n_units, input_features=input_features)
        return names

    def _hidden_number(self, layer: Any) -> int:
        """Return the number of a hidden layer, counted from the input, which is 0."""
        n_hidden = len(self.coefs_) - 1
        if n_hidden == 0:
            raise ValueError("this network has no hidden layer to transform with: hidden_layer_sizes is empty")
        try:
            number = operator.index(layer)
        except TypeError:
            number = 0
        if not 1 <= abs(number) <= n_hidden:
            raise ValueError(
                f"layer must be an integer between 1 (the first hidden layer) and {n_hidden}, "
                f"or between -1 (the last) and {-n_hidden}; got {layer!r}"
            )
        return number if number > 0 else n_hidden + 1 + number
