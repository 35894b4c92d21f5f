"""The part of an estimator that knows how far it can be trusted, from rows that were not trained on.

A temperature is folded into the weights of the last layer: whatever predicts, exports or saves them knows of it.
Sets and intervals keep one number for each calibration row, sorted: any coverage can be asked for later.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from sklearn.exceptions import NotFittedError
from sklearn.utils import check_array, check_consistent_length, column_or_1d
from sklearn.utils.multiclass import unique_labels
from sklearn.utils.validation import check_is_fitted

from fastmlp import _core
from fastmlp._calibration import conformal_quantile, fit_temperature, mass_above
from fastmlp._losses import OUTPUT_ACTIVATIONS, VARIANCE_LOSSES, central_values, standard_deviations
from fastmlp._parameters import array_shapes, float_dtype, views

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray
    from sklearn.preprocessing import LabelBinarizer
    from typing_extensions import Self

    from fastmlp._core import FloatArray
    from fastmlp._held_out import HeldOut


def forget_calibration(model: Any) -> None:
    """Take from an estimator what belongs to the weights it had."""
    for name in ("temperature_", "conformity_scores_"):
        vars(model).pop(name, None)


class _Calibration:
    if TYPE_CHECKING:
        conformity_scores_: NDArray[np.float64]

        def __getattr__(self, name: str) -> Any:
            """Parameters, attributes and methods of the estimator."""

    def _quantile(self, coverage: Any) -> Any:
        check_is_fitted(self)
        if not hasattr(self, "conformity_scores_"):
            raise NotFittedError(
                f"This {type(self).__name__} is not calibrated: call 'calibrate' with rows that it was not trained on"
            )
        return conformal_quantile(self.conformity_scores_, coverage)


class CalibratedClassifier(_Calibration):
    """The part of a classifier that learns how far its probabilities can be trusted."""

    if TYPE_CHECKING:
        classes_: NDArray[Any]
        _label_binarizer: LabelBinarizer

        def _encode(self, y: Any) -> NDArray[Any]: ...

    def calibrate(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Learn from rows that were not trained on how far probabilities can be trusted.

        One number, the temperature, divides the sums of the output layer before they become probabilities, so that
        their log loss on these rows is smallest. It is folded into the weights of the last layer: ``coefs_[-1]`` and
        ``intercepts_[-1]`` change, and with them ``predict_proba``, ``compile``, ``save`` and every export. The order
        of the classes does not change, and so no answer of ``predict``. The same rows prepare ``predict_set``.

        A later ``fit`` forgets all of it. With ``warm_start``, and in ``partial_fit``, training goes on from the folded
        weights (with ``ema_decay`` from the raw ones, which are not folded); calibrate again when it is done. As the
        last step of a pipeline: ``pipeline[-1].calibrate(pipeline[:-1].transform(X), y)``.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            Rows that were not trained on.
        y : array-like of shape (n_samples,) or (n_samples, n_classes)
            Their labels, known from training; not every class must be there.
        sample_weight : array-like of shape (n_samples,), default=None
            Weight of each row in the log loss; None means 1. Prediction sets do not use it.

        Returns
        -------
        self : object
            The estimator, with ``temperature_`` and, unless the targets are multilabel, ``conformity_scores_``.

        Raises
        ------
        NotFittedError
            If the estimator is not fitted.
        ValueError
            For data that ``fit`` would refuse, and for labels that were not there in training.

        Warns
        -----
        ConvergenceWarning
            If the log loss has no minimum, for example because no row is classified wrongly. The temperature is then 1.

        References
        ----------
        Guo, C., Pleiss, G., Sun, Y. and Weinberger, K. Q. (2017). On calibration of modern neural networks.
        arXiv:1706.04599.

        Examples
        --------
        >>> from fastmlp import MLPClassifier
        >>> from sklearn.datasets import make_classification
        >>> from sklearn.metrics import log_loss
        >>> X, y = make_classification(1200, flip_y=0.2, random_state=0)
        >>> model = MLPClassifier(learning_rate_init=0.01, max_iter=30, random_state=0).fit(X[:400], y[:400])
        >>> before = log_loss(y[800:], model.predict_proba(X[800:]))
        >>> model.calibrate(X[400:800], y[400:800]).temperature_ > 1  # it was too sure of itself
        True
        >>> log_loss(y[800:], model.predict_proba(X[800:])) < before
        True
        """
        check_is_fitted(self)
        y, sample_weight = self._on_host(y, "y"), self._on_host(sample_weight, "sample_weight")
        targets = self._calibration_targets(X, y)
        self.temperature_ = fit_temperature(self._logits(X, self._layer), targets, sample_weight)
        self._fold(self.temperature_)
        if not self._is_multilabel():
            mass = mass_above(self.predict_proba(X), self.temperature_)
            self.conformity_scores_ = np.sort(mass[np.arange(len(mass)), targets.ravel().astype(np.intp)])
        return self

    def _check_calibration(self, held_out: HeldOut | None, incremental: bool) -> None:
        if self.calibration is not None and (incremental or held_out is None):
            raise ValueError(
                f"calibration={self.calibration!r} needs rows that are not trained on: early_stopping=True, or X_val "
                "and y_val in fit, and a solver that takes them. After partial_fit or 'lbfgs', call 'calibrate'"
            )

    def _calibrate_held_out(self, held_out: HeldOut | None) -> None:
        if self.calibration is not None and held_out is not None:
            X, y, sample_weight = held_out.given()
            temperature = fit_temperature(self._logits(X, self._layer), self._encode(y), sample_weight)
            self._fold(temperature)
            self.temperature_ = temperature

    def predict_set(self, X: Any, coverage: float = 0.9) -> NDArray[np.bool_]:
        """Predict for each row a set of classes that holds the true one with a given probability.

        A set holds the most probable class, and all others above which there is no more probability than there was
        above the true class in a share ``coverage`` of the rows of ``calibrate``. It is small where the network is
        sure. Whatever the network and the data are: if those rows and a new one are drawn alike, the true class is in
        the set with a probability of at least ``coverage``. It is more where the first class alone is right more often,
        for no set is empty. To keep this exact, sets are made of the probabilities as they were before the temperature
        of the same ``calibrate``.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            Finite numbers.
        coverage : float, default=0.9
            How often the true class shall be in the set.

        Returns
        -------
        sets : ndarray of bool of shape (n_samples, n_classes)
            Whether a class is in the set of a row, in the order of ``classes_``.

        Raises
        ------
        NotFittedError
            If the estimator is not fitted, or not calibrated since.
        ValueError
            For multilabel targets, and for a coverage that is not between 0 and 1 or needs more calibration rows.

        References
        ----------
        Vovk, V., Gammerman, A. and Shafer, G. (2005). Algorithmic learning in a random world. Springer.

        Romano, Y., Sesia, M. and Candes, E. (2020). Classification with valid and adaptive coverage. arXiv:2006.02544;
        here without the random part.

        Examples
        --------
        >>> from fastmlp import MLPClassifier
        >>> from sklearn.datasets import load_digits
        >>> X, y = load_digits(return_X_y=True)
        >>> model = MLPClassifier(max_iter=30, random_state=0).fit(X[:900] / 16, y[:900])
        >>> sets = model.calibrate(X[900:1300] / 16, y[900:1300]).predict_set(X[1300:] / 16, coverage=0.99)
        >>> sets.shape, sets.sum(axis=1).min(), sets[range(497), y[1300:]].mean() > 0.97
        ((497, 10), np.int64(1), np.True_)
        """
        check_is_fitted(self)
        if self._is_multilabel():
            raise ValueError("predict_set needs targets with one label for each row, not multilabel ones")
        quantile = self._quantile(coverage)
        sets: NDArray[np.bool_] = mass_above(self.predict_proba(X), self.temperature_) <= quantile
        return sets

    def _is_multilabel(self) -> bool:
        return bool(self._label_binarizer.y_type_.startswith("multilabel"))

    def _calibration_targets(self, X: Any, y: Any) -> NDArray[Any]:
        """Return known labels as ``fit_temperature`` takes them."""
        check_consistent_length(X, y)
        if self._is_multilabel():
            return self._encode(check_array(y, accept_sparse=True, dtype=None, input_name="y"))
        y = column_or_1d(y, warn=True)
        if len(unknown := np.setdiff1d(unique_labels(y), self.classes_)):
            raise ValueError(f"y has the labels {unknown}, which are not in classes_: {self.classes_}")
        if len(self.classes_) < 2:
            raise ValueError(f"calibrate needs at least two classes, but training saw only {self.classes_}")
        return self._encode(y)

    def _logits(self, X: Any, layer_of: Callable[..., FloatArray]) -> FloatArray:
        """Return the sums of the output layer (n_samples, n_outputs)."""
        n = self._network(self._parameters()[1])
        bare = _core.Network(n.layer_sizes, n.activations, "squared_error", {}, n.normalizations, (), n.residual)
        return layer_of(X, len(n.layer_sizes) - 1, bare)

    def _fold(self, temperature: float) -> None:
        """Divide the sums of the output layer by ``temperature``, by changing its weights and biases."""
        flat, sizes = self._parameters()
        folded = flat.astype(float_dtype(flat.dtype))  # a copy: the arrays may be someone else's
        coefs, intercepts = views(folded, sizes)
        coefs[-1] *= 1 / temperature
        intercepts[-1] *= 1 / temperature
        self._set_parameters(folded, array_shapes(self._network(sizes)))


class CalibratedRegressor(_Calibration):
    """The part of a regressor that learns how far its predictions can be trusted."""

    def calibrate(self, X: Any, y: Any) -> Self:
        """Learn from rows that were not trained on how far predictions can be trusted, for ``predict_interval``.

        Predictions do not change. A later ``fit`` or ``partial_fit`` forgets what was learned. As the last step of a
        pipeline: ``pipeline[-1].calibrate(pipeline[:-1].transform(X), y)``.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            Rows that were not trained on.
        y : array-like of shape (n_samples,) or (n_samples, n_targets)
            Their true values.

        Returns
        -------
        self : object
            The estimator, with ``conformity_scores_``.

        Raises
        ------
        NotFittedError
            If the estimator is not fitted.
        ValueError
            For data that ``fit`` would refuse, and for another number of targets.
        """
        check_is_fitted(self)
        y = self._on_host(y, "y")
        check_consistent_length(X, y)
        low, high, scale = self._band(X)
        targets = check_array(y, ensure_2d=False, dtype=np.float64, input_name="y").reshape(len(low), -1)
        if targets.shape != low.shape:
            raise ValueError(f"y must have {low.shape[1]} targets for each row, got an array of shape {np.shape(y)}")
        scores = np.sort(np.maximum(low - targets, targets - high) / scale, axis=0)
        self.conformity_scores_ = scores[:, 0] if scores.shape[1] == 1 else scores
        return self

    def predict_interval(self, X: Any, coverage: float = 0.9) -> NDArray[np.float64]:
        """Predict for each row an interval that holds the true value with a given probability.

        Whatever the network and the data are: if the rows of ``calibrate`` and a new one are drawn alike, the true
        value is in the interval with a probability of at least ``coverage``, and, if no two residuals are equal, of at
        most ``coverage + 1 / (n_calibration_rows + 1)``; for each target by itself. The width follows the loss:

        - with several quantiles, the lowest and the highest are moved outwards, or inwards, by one distance;
        - with a variance, a multiple of the standard deviation to both sides of the mean;
        - else one distance to both sides of the prediction, the same for all rows. Where predictions are exponentials,
          targets are 0 or more, and so are intervals.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            Finite numbers.
        coverage : float, default=0.9
            How often the true value shall be in the interval; with quantiles, too, any.

        Returns
        -------
        intervals : ndarray of shape (n_samples, 2) or (n_samples, n_targets, 2)
            Lower and upper ends.

        Raises
        ------
        NotFittedError
            If the estimator is not fitted, or not calibrated since.
        ValueError
            For a coverage that is not between 0 and 1, or needs more calibration rows.

        References
        ----------
        Vovk, V., Gammerman, A. and Shafer, G. (2005). Algorithmic learning in a random world. Springer.

        Lei, J., G'Sell, M., Rinaldo, A., Tibshirani, R. J. and Wasserman, L. (2018). Distribution-free predictive
        inference for regression. JASA 113. arXiv:1604.04173.

        Romano, Y., Patterson, E. and Candes, E. (2019), for quantiles. Conformalized quantile regression.
        arXiv:1905.03222.

        Examples
        --------
        >>> from fastmlp import MLPRegressor
        >>> from sklearn.datasets import make_regression
        >>> X, y = make_regression(1500, n_features=5, noise=20, random_state=0)
        >>> model = MLPRegressor(solver="lbfgs", max_iter=50, tol=1.0, random_state=0).fit(X[:500], y[:500])
        >>> intervals = model.calibrate(X[500:1000], y[500:1000]).predict_interval(X[1000:], coverage=0.9)
        >>> low, high = intervals.T
        >>> intervals.shape, 0.85 < ((low <= y[1000:]) & (y[1000:] <= high)).mean() < 0.95
        ((500, 2), np.True_)
        """
        quantile = self._quantile(coverage)
        low, high, scale = self._band(X)
        low, high = low - quantile * scale, high + quantile * scale
        middle = (low + high) / 2  # an interval moved inwards until nothing is left is a point
        low, high = np.minimum(low, middle), np.maximum(high, middle)
        if OUTPUT_ACTIVATIONS.get(self._core_loss()) == "exp":
            low = np.maximum(low, 0)
        intervals = np.stack([low, high], axis=2)
        return intervals[:, 0] if intervals.shape[1] == 1 else intervals

    def _band(self, X: Any) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
        """Return what an interval starts from, lower and upper ends, and the unit by which it grows: (n, n_targets)."""
        outputs = self._outputs(X).astype(np.float64)
        loss, numbers = self._core_loss(), self._core_loss_parameters()
        n_values = _core.loss_outputs(loss, numbers)[0]
        if loss in VARIANCE_LOSSES or n_values == 1:
            low = high = central_values(outputs, loss, numbers)
        else:
            low, high = outputs[:, ::n_values], outputs[:, n_values - 1 :: n_values]
        return low, high, standard_deviations(outputs) if loss in VARIANCE_LOSSES else np.ones_like(low)
