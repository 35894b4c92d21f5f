"""The part of an estimator that asks the core: features in, the numbers of a layer out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from sklearn import get_config
from sklearn.utils.validation import check_is_fitted, validate_data

from fastmlp._engine import make_engine, predict_plain
from fastmlp._parameters import FlatParameters, float_dtype
from fastmlp._validation import core_array, core_matrix

if TYPE_CHECKING:
    from fastmlp import _core
    from fastmlp._core import FloatArray, Matrix

SPARSE_FORMATS = ["csr", "csc"]


class Answers(FlatParameters):
    """The part of an estimator that computes layers."""

    if TYPE_CHECKING:
        n_jobs: int | None
        dtype: str | None

        def _network(self, sizes: list[int]) -> _core.Network: ...

    def _outputs(self, X: Any) -> FloatArray:
        """Return the output layer (n_samples, n_outputs), computed in the dtype of X and the weights together."""
        if "coefs_" not in vars(self):  # the check takes longer than a row of a small network
            check_is_fitted(self)
        flat, sizes = self._parameters()
        network = self._network(sizes)
        if (
            sizes[0] == getattr(self, "n_features_in_", None)
            and (self.dtype is None or self.dtype == flat.dtype)
            and not hasattr(self, "feature_names_in_")
        ):
            outputs = predict_plain(network, flat, X, self.n_jobs, assume_finite=get_config()["assume_finite"])
            if outputs is not None:  # X is what the validation would return unchanged
                return outputs
        return self._layer(X, len(sizes) - 1)

    def _layer(self, X: Any, layer: int, network: _core.Network | None = None) -> FloatArray:
        """Return a layer (n_samples, n_units) of a fitted network; 0 is the input. As ``_outputs``, for any X."""
        own, flat, rows = self._checked(X)
        return make_engine(network or own, flat.dtype, self.n_jobs).predict(flat, rows, layer)

    def _checked(self, X: Any) -> tuple[_core.Network, FloatArray, Matrix]:
        """Return a fitted network, its parameters and features X, both in the dtype that they have together."""
        if "coefs_" not in vars(self):
            check_is_fitted(self)
        flat, sizes = self._parameters()
        X = validate_data(self, X, accept_sparse=SPARSE_FORMATS, dtype=self.dtype or "numeric", reset=False)
        if sizes[0] != X.shape[1]:
            raise ValueError(f"coefs_[0] must have shape ({X.shape[1]}, n), got {np.shape(self.coefs_[0])}")
        dtype = float_dtype(self.dtype or np.result_type(X.dtype, flat.dtype))
        return self._network(sizes), core_array(flat, dtype), core_matrix(X, dtype)
