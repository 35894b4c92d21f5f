"""The part of an estimator that asks the core: features in, the numbers of a layer out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from sklearn import get_config
from sklearn.utils.validation import check_is_fitted, check_X_y, validate_data

from fastmlp import _core
from fastmlp._cuda_arrays import features_on_gpu, is_cuda_array, on_host, place_of
from fastmlp._engine import make_engine, predict_plain
from fastmlp._parameters import FlatParameters, float_dtype
from fastmlp._validation import core_array, core_matrix, thread_count

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from fastmlp._core import FloatArray, Matrix

SPARSE_FORMATS = ["csr", "csc"]
_FLOATS = [np.dtype(np.float64), np.dtype(np.float32)]


class Answers(FlatParameters):
    """The part of an estimator that computes layers."""

    if TYPE_CHECKING:
        n_jobs: int | None
        dtype: str | None
        device: str

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
        """Return a layer (n_samples, n_units) of a fitted network; 0 is the input. As ``_outputs``, for any X.

        It is computed where X is: on a GPU in full precision, so that the answers of both are the same up to rounding.
        """
        own, flat, rows = self._checked(X)
        engine = make_engine(network or own, flat.dtype, self.n_jobs, gpu=place_of(rows))
        return engine.predict(flat, rows, layer)

    def _checked(self, X: Any) -> tuple[_core.Network, FloatArray, Matrix]:
        """Return a fitted network, its parameters and features X, both in the dtype that they have together."""
        if "coefs_" not in vars(self):
            check_is_fitted(self)
        flat, sizes = self._parameters()
        if is_cuda_array(X):
            X = self._features_on_gpu(X, reset=False)
        else:
            X = validate_data(self, X, accept_sparse=SPARSE_FORMATS, dtype=self.dtype or "numeric", reset=False)
        if sizes[0] != X.shape[1]:
            raise ValueError(f"coefs_[0] must have shape ({X.shape[1]}, n), got {np.shape(self.coefs_[0])}")
        dtype = float_dtype(self.dtype or np.result_type(X.dtype, flat.dtype))
        return self._network(sizes), core_array(flat, dtype), core_matrix(X, dtype)

    def _features_on_gpu(self, X: Any, reset: bool, name: str = "X") -> _core.CudaArray:
        """Check features that are on a GPU, as ``validate_data`` checks those on the host."""
        rows = features_on_gpu(X, name, self.device, self.dtype, assume_finite=get_config()["assume_finite"])
        checked: _core.CudaArray = validate_data(self, rows, skip_check_array=True, reset=reset)
        return checked

    def _checked_data(self, X: Any, y: Any, reset: bool, name: str, **how: Any) -> tuple[Any, NDArray[Any]]:
        """Check features and targets of a training by scikit-learn's rules, which ``how`` adds to."""
        how |= {"multi_output": True, "dtype": self.dtype or (np.float64, np.float32)}
        if is_cuda_array(X):
            X = self._features_on_gpu(X, reset, name)
            _, y = check_X_y(np.broadcast_to(0.0, (len(X), 1)), y, estimator=self, **how)
        elif self._are_plain(X, y):
            self._note_features(X, y, reset)
        else:
            X, y = validate_data(self, X, y, accept_sparse=SPARSE_FORMATS, reset=reset, **how)
        return X, y

    def _are_plain(self, X: Any, y: Any) -> bool:
        """Whether they are arrays in which scikit-learn's rules would find nothing to say or to convert.

        Those take longer than many epochs of a small network.
        """
        dtypes = [np.dtype(self.dtype)] if self.dtype else _FLOATS
        if not (type(X) is type(y) is np.ndarray and X.ndim == 2 and y.ndim == 1 and len(X) == len(y) and X.size > 0):
            return False
        if X.dtype not in dtypes or not (y.dtype.kind in "biu" or y.dtype in _FLOATS):
            return False
        config = get_config()
        if config["array_api_dispatch"]:
            return False
        if config["assume_finite"]:
            return True
        floats = [array for array in (X, y) if array.dtype.kind == "f"]
        if not all(array.flags.c_contiguous and array.flags.aligned for array in floats):
            return False
        n_threads = thread_count(self.n_jobs)
        return all(_core.all_finite(array, n_threads) for array in floats)

    def _note_features(self, X: NDArray[Any], y: NDArray[Any], reset: bool) -> None:
        """Note how many features plain data has, or compare with what was noted.

        Arrays have no names of features: scikit-learn looks for them longer than it takes to train an epoch of a small
        network.
        """
        n_known = X.shape[1] if reset else getattr(self, "n_features_in_", None)
        if hasattr(self, "feature_names_in_") or X.shape[1] != n_known:
            validate_data(self, X, y, reset=reset, skip_check_array=True)
        self.n_features_in_ = X.shape[1]

    def _on_host(self, array: Any, name: str) -> Any:
        """Return targets or weights, from a GPU as a NumPy array."""
        return on_host(array, name, self.device)
