"""Looking inside a trained network: how its answers change with the features."""

from __future__ import annotations

import operator
from typing import TYPE_CHECKING, Any

import numpy as np

from fastmlp import _core
from fastmlp._engine import make_engine, network_of
from fastmlp._losses import VARIANCE_LOSSES

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from fastmlp._core import FloatArray, Matrix

RESPONSE_METHODS = ("predict_log_proba", "predict_proba", "decision_function")


class _Link:
    """What a loss makes of the sums z (n, m) of the last layer, and its derivatives."""

    def __init__(self, network: _core.Network, z: NDArray[Any]) -> None:
        self.z = z
        self.per_target = _core.loss_outputs(network.loss, network.loss_parameters)[0]
        targets = np.ones((len(z), z.shape[1] // self.per_target), z.dtype)
        self.outputs = _core.apply_loss(network.loss, z, targets, network.loss_parameters)[0]
        self.name: str = _core.losses()[network.loss]["link"]

    def one_hot(self, chosen: NDArray[Any]) -> NDArray[Any]:
        """Return the gradients (n, q, m) of chosen sums (n, q) by all of them."""
        hot: NDArray[Any] = np.eye(self.z.shape[1], dtype=self.z.dtype)[chosen]
        return hot

    def gradients(self, chosen: NDArray[Any]) -> NDArray[Any]:
        """Return the gradients (n, q, m) of chosen outputs (n, q) by the sums.

        Raises
        ------
        NotImplementedError
            For a link that is not known here.
        """
        if self.name == "sort":
            return self.one_hot(self._before_sorting(chosen))
        hot = self.one_hot(chosen)
        if self.name in ("softmax", "logistic", "exp"):
            values = np.take_along_axis(self.outputs, chosen, axis=1)
            hot = values[:, :, np.newaxis] * self.gradients_of_logarithms(chosen)
        elif self.name == "mean_variance":  # by turns; the variance is an exponential, and a constant
            hot = np.where(chosen[:, :, np.newaxis] % 2 == 0, hot, hot * np.exp(self.z[:, np.newaxis]))
        elif self.name != "identity":
            raise NotImplementedError(f"the derivative of the output activation {self.name!r} is not known")
        return hot

    def gradients_of_logarithms(self, chosen: NDArray[Any]) -> NDArray[Any]:
        """Return the same for the logarithms of outputs that are above 0: without cancellation where one is near 1."""
        hot = self.one_hot(chosen)
        if self.name == "logistic":
            hot *= _logistic(-self.z)[:, np.newaxis]
        elif self.name == "softmax":
            others = self.outputs[:, np.newaxis] * (1 - hot)
            hot = hot * others.sum(axis=2, keepdims=True) - others
        return hot

    def _before_sorting(self, chosen: NDArray[Any]) -> NDArray[Any]:
        """Return which sums the chosen outputs were before each target's were sorted."""
        order = np.argsort(self.z.reshape(len(self.z), -1, self.per_target), axis=2, kind="stable")
        order += np.arange(0, self.z.shape[1], self.per_target)[:, np.newaxis]
        before: NDArray[Any] = np.take_along_axis(order.reshape(self.z.shape), chosen, axis=1)
        return before


def _logistic(z: NDArray[Any]) -> NDArray[Any]:
    return _core.apply_activation("logistic", np.ascontiguousarray(z).ravel())[0].reshape(z.shape)


def _of_two_classes(z: NDArray[Any], chosen: NDArray[Any], method: str) -> NDArray[Any]:
    """Return the gradients (n, q, 1) of what one logistic output says of the first class (0) or the second (1)."""
    sign = (2 * chosen - 1).astype(z.dtype)
    if method != "decision_function":
        score = sign * z
        sign *= _logistic(-score)
        if method == "predict_proba":
            sign *= _logistic(score)
    return sign[:, :, np.newaxis]


def _sums(network: _core.Network, flat: FloatArray, X: Matrix, n_jobs: int | None) -> tuple[_core.Engine, FloatArray]:
    """Return an engine for the network without its link, and what that makes of X: the sums of the last layer."""
    extras = tuple(network.normalizations), tuple(network.dropout), network.residual
    bare = network_of(tuple(network.layer_sizes), tuple(network.activations), "squared_error", (), *extras)
    engine = make_engine(bare, flat.dtype, n_jobs)
    return engine, engine.predict(flat, X)


def _number(given: Any, n: int, name: str) -> int:
    """Return the number of one of n things, counted from 0."""
    try:
        number = operator.index(given)
    except TypeError:
        number = -1
    if not 0 <= number < n:
        raise ValueError(f"{name} must be an integer between 0 and {n - 1}, or None for all; got {given!r}")
    return number


class NetworkInspection:
    """The part of a Network that tells how it comes to its outputs."""

    if TYPE_CHECKING:
        n_jobs: int | None
        _parameters: NDArray[Any]

        @property
        def network(self) -> _core.Network: ...
        def _rows(self, X: Any) -> tuple[NDArray[Any], bool]: ...

    def input_gradient(self, X: Any, output: int | None = None, *, before_link: bool = False) -> NDArray[Any]:
        """Return the gradient of the outputs by the inputs: the Jacobian of ``forward``, row by row.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features) or (n_features,)
            Rows of finite numbers, or a single row.
        output : int, default=None
            Number of the output, counted from 0; None takes all.
        before_link : bool, default=False
            Take the outputs as they are before the output activation.

        Returns
        -------
        gradient : ndarray of shape (n_samples, n_outputs, n_features)
            Without the first axis for a single row, and without the second if an output is named.

        Examples
        --------
        >>> from fastmlp import Network
        >>> net = Network([2, 1])
        >>> net.weights[0], net.biases[0] = [[4.0, -2.0]], [0.0]
        >>> net.input_gradient([0.0, 0.0])  # the slope of the logistic function at 0 is 1/4
        array([[ 1. , -0.5]])
        """
        rows, single = self._rows(X)
        network = self.network
        n_outputs = network.layer_sizes[-1]
        numbers = [*range(n_outputs)] if output is None else [_number(output, n_outputs, "output")]
        engine, z = _sums(network, self._parameters, rows, self.n_jobs)
        link = _Link(network, z)
        chosen = np.broadcast_to(numbers, (len(z), len(numbers)))
        vectors = link.one_hot(chosen) if before_link else link.gradients(chosen)
        gradient = engine.input_gradient(self._parameters, rows, vectors)
        if output is not None:
            gradient = gradient[:, 0]
        return gradient[0] if single else gradient


class _Inspection:
    """What the estimators share."""

    if TYPE_CHECKING:
        n_jobs: int | None

        def _checked(self, X: Any) -> tuple[_core.Network, FloatArray, Matrix]: ...


class RegressorInspection(_Inspection):
    """The part of a regressor that tells how it comes to its answers."""

    def input_gradient(self, X: Any, target: int | None = None) -> NDArray[Any]:
        """Return the gradient of each prediction by the features: how much each feature moves it, row by row.

        Also known as saliency. Exact, by backpropagation down to the features.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            Finite numbers.
        target : int, default=None
            Number of the target, counted from 0; None takes all.

        Returns
        -------
        gradient : ndarray of shape (n_samples, n_features) or (n_samples, n_targets, n_features)
            The shape of ``predict(X)``, without the axis of targets if one is named, and an axis for the features.

        Raises
        ------
        ValueError
            If there is no such target.

        See Also
        --------
        sklearn.inspection.permutation_importance : How much each feature matters to the score, over all rows.

        References
        ----------
        Simonyan, K., Vedaldi, A. and Zisserman, A. (2013). Deep inside convolutional networks. arXiv:1312.6034.

        Examples
        --------
        >>> import numpy as np
        >>> from fastmlp import MLPRegressor
        >>> X = np.random.RandomState(0).normal(size=(300, 3))
        >>> y = np.sin(X[:, 0]) + 2 * X[:, 1]  # the third feature says nothing
        >>> regressor = MLPRegressor(hidden_layer_sizes=(20,), activation="tanh", solver="lbfgs", random_state=0)
        >>> regressor.fit(X, y).input_gradient([[0.0, 0.0, 0.0]]).round(1) + 0.0
        array([[1., 2., 0.]])

        scikit-learn's functions take the estimator as it is:

        >>> from sklearn.inspection import permutation_importance
        >>> found = permutation_importance(regressor, X, y, n_repeats=5, random_state=0)
        >>> found.importances_mean.argsort().tolist()
        [2, 0, 1]
        """
        network, flat, rows = self._checked(X)
        engine, z = _sums(network, flat, rows, self.n_jobs)
        link = _Link(network, z)
        central = _core.loss_outputs(network.loss, network.loss_parameters)[1]
        outputs = np.arange(z.shape[1]).reshape(-1, link.per_target)
        if network.loss in VARIANCE_LOSSES:
            outputs = outputs[:, [central]]
        shape = [length for length in outputs.shape if length > 1]
        if target is not None:
            outputs = outputs[[_number(target, len(outputs), "target")]]
            shape = [outputs.size] if outputs.size > 1 else []
        chosen = np.broadcast_to(outputs.ravel(), (len(z), outputs.size))
        gradient = engine.input_gradient(flat, rows, link.gradients(chosen))
        return gradient.reshape(len(z), *shape, -1)


class ClassifierInspection(_Inspection):
    """The part of a classifier that tells how it comes to its answers."""

    if TYPE_CHECKING:
        classes_: NDArray[Any]
        _label_binarizer: Any

    def input_gradient(self, X: Any, target: Any = None, *, response_method: str = "predict_log_proba") -> NDArray[Any]:
        """Return the gradient of each class's response by the features: how much each feature moves it, row by row.

        Also known as saliency. Exact, by backpropagation down to the features.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            Finite numbers.
        target : label or array-like of shape (n_samples,), default=None
            A class (of multilabel targets: a label), or one for each row; None takes all of ``classes_``.
        response_method : {"predict_log_proba", "predict_proba", "decision_function"}, default="predict_log_proba"
            What to differentiate: logarithms of probabilities, probabilities, or the scores before softmax or logistic
            (of two classes that of the second, and for the first its negative). Where the network is certain of a
            class, the first two hardly change; scores do.

        Returns
        -------
        gradient : ndarray of shape (n_samples, n_features) or (n_samples, n_classes, n_features)
            An axis for the classes if ``target`` is None.

        Raises
        ------
        ValueError
            If ``target`` is no class, or ``response_method`` none of the above.

        See Also
        --------
        sklearn.inspection.permutation_importance : How much each feature matters to the score, over all rows.

        References
        ----------
        Simonyan, K., Vedaldi, A. and Zisserman, A. (2013). Deep inside convolutional networks. arXiv:1312.6034.

        Examples
        --------
        Which measure speaks most for the class that is predicted:

        >>> from fastmlp import MLPClassifier
        >>> from sklearn.datasets import load_iris
        >>> X, y = load_iris(return_X_y=True)
        >>> classifier = MLPClassifier((8,), "tanh", solver="lbfgs", alpha=1.0, random_state=0).fit(X, y)
        >>> gradient = classifier.input_gradient(X, classifier.predict(X))
        >>> gradient.shape, load_iris().feature_names[abs(gradient).mean(axis=0).argmax()]
        ((150, 4), 'petal width (cm)')
        """
        if response_method not in RESPONSE_METHODS:
            valid = ", ".join(map(repr, RESPONSE_METHODS))
            raise ValueError(f"response_method must be one of {valid}, got {response_method!r}")
        network, flat, rows = self._checked(X)
        engine, z = _sums(network, flat, rows, self.n_jobs)
        link = _Link(network, z)
        chosen = self._columns(target, len(z), max(2, z.shape[1]))
        if z.shape[1] == 1 and not self._label_binarizer.y_type_.startswith("multilabel"):
            vectors = _of_two_classes(z, chosen, response_method)
        elif response_method == "decision_function":
            vectors = link.one_hot(chosen)
        elif response_method == "predict_proba":
            vectors = link.gradients(chosen)
        else:
            vectors = link.gradients_of_logarithms(chosen)
        gradient = engine.input_gradient(flat, rows, vectors)
        return gradient if target is None else gradient[:, 0]

    def _columns(self, target: Any, n_rows: int, n_columns: int) -> NDArray[np.intp]:
        """Return the columns of ``predict_proba`` that a target names, (n_rows, q)."""
        if target is None:
            return np.broadcast_to(np.arange(n_columns), (n_rows, n_columns))
        labels = np.asarray(target)
        if labels.ndim > 1 or (labels.ndim == 1 and len(labels) != n_rows):
            raise ValueError(f"target must be a class or have shape ({n_rows},), got shape {labels.shape}")
        known = {label: column for column, label in enumerate(self.classes_.tolist())}
        try:
            columns = [known[label] for label in labels.ravel().tolist()]
        except (KeyError, TypeError):
            raise ValueError(f"target must be one of the classes {self.classes_}, got {target!r}") from None
        numbers: NDArray[np.intp] = np.full((1, n_rows), columns, dtype=np.intp).T
        return numbers
