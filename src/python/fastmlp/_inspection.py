"""Looking inside a trained network: how its answers change with the features, and its loss with the parameters."""

from __future__ import annotations

import operator
from typing import TYPE_CHECKING, Any

import numpy as np

from fastmlp import _core
from fastmlp._engine import make_engine, network_of
from fastmlp._links import Link, gradients_of_two_classes
from fastmlp._losses import VARIANCE_LOSSES
from fastmlp._validation import real_array, thread_count

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from fastmlp._core import FloatArray, Matrix
    from fastmlp._training import Data

RESPONSE_METHODS = ("predict_log_proba", "predict_proba", "decision_function")


def _without_link(
    network: _core.Network, flat: FloatArray, X: Matrix, n_jobs: int | None, output_activation: str | None = None
) -> tuple[_core.Engine, FloatArray]:
    """Return an engine for the network without its link, and what that makes of X.

    An activation that is no link stays, unless another is named.
    """
    extras = tuple(network.normalizations), tuple(network.dropout), network.residual
    last = output_activation or network.output_activation
    bare = network_of(tuple(network.layer_sizes), tuple(network.activations), "squared_error", (), *extras, last)
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


def _product(
    network: _core.Network, flat: NDArray[Any], data: tuple[Any, Any, Any, float], vector: Any, n_jobs: int | None
) -> NDArray[np.float64]:
    direction = real_array(vector, "vector", np.float64)
    if direction.shape != (network.n_parameters,):
        raise ValueError(f"vector must have shape ({network.n_parameters},), got {direction.shape}")
    return _core.hessian_vector_product(network, flat, *data, direction, thread_count(n_jobs))


class NetworkInspection:
    """The part of a Network that tells how it comes to its outputs."""

    if TYPE_CHECKING:
        n_jobs: int | None
        _parameters: NDArray[Any]

        @property
        def network(self) -> _core.Network: ...
        def _rows(self, X: Any) -> tuple[NDArray[Any], bool]: ...

        def _data(self, X: Any, y: Any, sample_weight: Any, alpha: float) -> tuple[Any, Any, Any, float]: ...

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
        engine, z = _without_link(network, self._parameters, rows, self.n_jobs, "identity" if before_link else None)
        link = Link(network, z)
        chosen = np.broadcast_to(numbers, (len(z), len(numbers)))
        vectors = link.one_hot(chosen) if before_link else link.gradients(chosen)
        gradient = engine.input_gradient(self._parameters, rows, vectors)
        if output is not None:
            gradient = gradient[:, 0]
        return gradient[0] if single else gradient

    def hessian_vector_product(
        self, X: Any, y: Any, vector: Any, sample_weight: Any = None, alpha: float = 0.0
    ) -> NDArray[np.float64]:
        """Return the Hessian of ``loss`` by ``parameters``, times a vector, without computing the Hessian.

        Exact, by forward differentiation of backpropagation [1]_, in float64 whatever the network's dtype. The
        arithmetic is that of three gradients; row by row, it takes some times as long.

        Parameters
        ----------
        X, y, sample_weight, alpha
            As for ``loss``.
        vector : array-like of shape (n_parameters,)
            A number for each of ``parameters``. Running statistics do not count.

        Returns
        -------
        product : ndarray of shape (n_parameters,)
            In the same order; float64.

        References
        ----------
        .. [1] Pearlmutter, B. A. (1994). Fast exact multiplication by the Hessian. Neural Computation 6(1), 147-160.

        Examples
        --------
        >>> from fastmlp import Network
        >>> net = Network([1, 1], loss="squared_error")
        >>> net.hessian_vector_product([[2.0], [4.0]], [1.0, 1.0], [1.0, 0.0])  # means of x^2 and of x
        array([10.,  3.])
        """
        rows, targets, weights, alpha = self._data(X, y, sample_weight, alpha)
        if weights is not None:
            weights = weights.astype(np.float64)
        if targets.dtype != np.int32:
            targets = targets.astype(np.float64)
        data = rows.astype(np.float64), targets, weights, alpha
        return _product(self.network, self._parameters.astype(np.float64), data, vector, self.n_jobs)


class _Inspection:
    """What the estimators share."""

    if TYPE_CHECKING:
        n_jobs: int | None

        def _checked(self, X: Any) -> tuple[_core.Network, FloatArray, Matrix]: ...

        def _checked_targets(self, X: Any, y: Any, sample_weight: Any) -> tuple[_core.Network, NDArray[Any], Data]: ...

        alpha: float
        loss: Any

    def hessian_vector_product(self, X: Any, y: Any, vector: Any, sample_weight: Any = None) -> NDArray[np.float64]:
        """Return the Hessian of the training loss by all parameters, times a vector, without computing the Hessian.

        The loss is that which ``fit`` minimises, taken of all these rows at once: with sample and class weights and
        the L2 penalty, batch normalisation by the statistics of these rows, and no dropout. Exact, by forward
        differentiation of backpropagation [1]_, in float64. The arithmetic is that of three gradients; row by row, it
        takes some times as long.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            Finite numbers.
        y : array-like of shape (n_samples,) or (n_samples, n_outputs)
            Targets as for ``fit``.
        vector : array-like of shape (n_parameters,)
            A number for each parameter: all of ``coefs_``, each row by row, then all of ``intercepts_``; then, where
            there are any, those of ``scales_``, ``offsets_``, ``projections_``, ``running_means_`` and
            ``running_variances_``, of which the last two do not count.
        sample_weight : array-like of shape (n_samples,), default=None
            Weight of each sample; None means 1.

        Returns
        -------
        product : ndarray of shape (n_parameters,)
            In the same order; float64.

        Raises
        ------
        ValueError
            For data that ``partial_fit`` would not take, for a vector of another length, and for a loss of one's own.

        References
        ----------
        .. [1] Pearlmutter, B. A. (1994). Fast exact multiplication by the Hessian. Neural Computation 6(1), 147-160.

        Examples
        --------
        How sharp a minimum is: the largest eigenvalue of the Hessian.

        >>> import numpy as np
        >>> from fastmlp import MLPRegressor
        >>> from scipy.sparse.linalg import LinearOperator, eigsh
        >>> X = np.random.RandomState(0).normal(size=(50, 2))
        >>> y = np.sin(X[:, 0]) * X[:, 1]
        >>> model = MLPRegressor(hidden_layer_sizes=(8,), solver="lbfgs", tol=0.01, random_state=0).fit(X, y)
        >>> n = sum(array.size for array in model.coefs_ + model.intercepts_)
        >>> hessian = LinearOperator((n, n), lambda vector: model.hessian_vector_product(X, y, vector), dtype=float)
        >>> bool(eigsh(hessian, k=1, return_eigenvectors=False)[0] > 1)
        True
        """
        if callable(self.loss):
            raise ValueError(f"a function as the loss has no Hessian that could be found, got loss={self.loss!r}")
        network, flat, data = self._checked_targets(X, y, sample_weight)
        parts = data.X, data.y, data.sample_weight, float(self.alpha)
        return _product(network, flat, parts, vector, self.n_jobs)


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
        >>> settings = {"activation": "tanh", "solver": "lbfgs", "tol": 1e-3, "random_state": 0}
        >>> regressor = MLPRegressor(hidden_layer_sizes=(10,), **settings)
        >>> gradient = regressor.fit(X, y).input_gradient(X)
        >>> abs(gradient).mean(axis=0).argsort()  # the second moves it most
        array([2, 0, 1])

        How much the features matter to the score, by scikit-learn's function, which takes the estimator as it is:

        >>> from sklearn.inspection import permutation_importance
        >>> permutation_importance(regressor, X, y, random_state=0).importances_mean.argsort()
        array([2, 0, 1])
        """
        network, flat, rows = self._checked(X)
        engine, z = _without_link(network, flat, rows, self.n_jobs)
        link = Link(network, z)
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
        >>> classifier = MLPClassifier((8,), "tanh", solver="lbfgs", alpha=1.0, tol=0.01, random_state=0).fit(X, y)
        >>> gradient = classifier.input_gradient(X, classifier.predict(X))
        >>> gradient.shape, load_iris().feature_names[abs(gradient).mean(axis=0).argmax()]
        ((150, 4), 'petal width (cm)')
        """
        if response_method not in RESPONSE_METHODS:
            valid = ", ".join(map(repr, RESPONSE_METHODS))
            raise ValueError(f"response_method must be one of {valid}, got {response_method!r}")
        network, flat, rows = self._checked(X)
        engine, z = _without_link(network, flat, rows, self.n_jobs)
        link = Link(network, z)
        chosen = self._columns(target, len(z), max(2, z.shape[1]))
        if z.shape[1] == 1 and not self._label_binarizer.y_type_.startswith("multilabel"):
            vectors = gradients_of_two_classes(z, chosen, response_method)
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
