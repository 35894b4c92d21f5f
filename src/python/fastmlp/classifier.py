"""MLPClassifier: labels in, labels and probabilities out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from sklearn.base import ClassifierMixin, _fit_context
from sklearn.preprocessing import LabelBinarizer
from sklearn.utils import column_or_1d, compute_class_weight, compute_sample_weight
from sklearn.utils._param_validation import StrOptions
from sklearn.utils.metaestimators import available_if
from sklearn.utils.multiclass import _check_partial_fit_first_call, type_of_target

from fastmlp._calibrated import CalibratedClassifier
from fastmlp._inspection import ClassifierInspection
from fastmlp._labels import class_numbers, distinct_labels, label_binarizer
from fastmlp._losses import CLASS_LOSSES, OUTPUT_ACTIVATIONS, loss_and_activation
from fastmlp.estimators import BaseMLP

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from typing_extensions import Self


class MLPClassifier(CalibratedClassifier, ClassifierMixin, ClassifierInspection, BaseMLP):  # type: ignore[misc]
    """Multilayer perceptron for classification: scikit-learn's class with a C++ core.

    It minimises the log loss, unless told otherwise. The outputs are softmax for three or more classes, else logistic.
    With the same parameters, data and ``random_state`` it takes scikit-learn's path, up to rounding.

    Parameters
    ----------
    hidden_layer_sizes : int, array-like of int or str, default=(100,)
        Units of each hidden layer; ``()`` for none, "256x3" for three of 256.
    activation : str or list of str, default="relu"
        Activation of the hidden layers: one name, or one for each. scikit-learn's ``identity``, ``logistic``, ``tanh``
        and ``relu``, and more, such as ``gelu``: an unknown name is answered by all valid ones.
    solver : {"lbfgs", "sgd", "adam", "adamw", "nadam", "rmsprop", "lion"}, default="adam"
        "lbfgs" (quasi-Newton) uses all rows at once, the others descend batch by batch.
    alpha : float, default=0.0001
        Strength of the L2 penalty, which is divided by the number of rows (the sum of their weights) of a batch.
    batch_size : int or "auto", default="auto"
        Rows of a batch; "auto" is ``min(200, n_samples)``. Memory is bounded for any size: what is elsewhere done by
        accumulating the gradients of k batches is a batch k times as large. Not used by "lbfgs".
    learning_rate : str, Schedule or callable, default="constant"
        scikit-learn's names, which "adam" ignores: "constant"; "invscaling", ``learning_rate_init / (t_ + 1) **
        power_t``, changed after each epoch; "adaptive", constant until more than ``n_iter_no_change`` epochs bring no
        improvement, then a fifth of it. For all solvers but "lbfgs", a schedule that changes the rate at every step:
        "step", "exponential", "cosine", "one_cycle", "flat_cosine", "coslog4", "warmup" or "reduce_on_plateau", a value
        of ``fastmlp.schedules``, or a function ``f(step, n_steps)`` by whose result ``learning_rate_init`` is
        multiplied, with steps counted from 0 and ``n_steps`` those of ``max_iter`` epochs. ``fit`` runs a schedule from
        its start; ``partial_fit`` goes on in it, and after ``n_steps`` keeps the last rate.
    learning_rate_init : float, default=0.001
        First learning rate. Not used by "lbfgs".
    power_t : float, default=0.5
        Exponent of "invscaling".
    max_iter : int, default=200
        Most epochs, or iterations of "lbfgs".
    shuffle : bool, default=True
        Shuffle the rows before each epoch. Not used by "lbfgs".
    random_state : int, RandomState instance or None, default=None
        Source of initial parameters, validation split and shuffles: scikit-learn's numbers.
    tol : float, default=1e-4
        Training loss (or validation score) must improve by this much to count as an improvement; for "lbfgs" the
        largest element of the gradient at which to stop.
    verbose : bool, default=False
        Print a line for each epoch or iteration.
    warm_start : bool, default=False
        ``fit`` goes on from the parameters that are there.
    momentum : float, default=0.9
        Momentum of "sgd".
    nesterovs_momentum : bool, default=True
        Use Nesterov's momentum in "sgd".
    early_stopping : bool, default=False
        Set ``validation_fraction`` of the rows aside, stop when the score on them (accuracy) does not improve, and keep
        the parameters with the best score. Not used by "lbfgs".
    validation_fraction : float, splitter or list of pairs, default=0.1
        What early stopping sets aside: a share of the rows; or the first split of one of scikit-learn's splitters, such
        as ``GroupShuffleSplit()`` (with ``groups`` in ``fit``) or ``TimeSeriesSplit()``, or of pairs of row numbers.
    beta_1 : float, default=0.9
        Decay rate of the first moment of "adam", "adamw" and "nadam"; in "lion" the share of the mean in a step.
    beta_2 : float, default=0.999
        Decay rate of the second moment of "adam", "adamw" and "nadam".
    epsilon : float, default=1e-8
        Keeps the steps of "adam", "adamw", "nadam" and "rmsprop" finite.
    n_iter_no_change : int, default=10
        Training stops when more epochs than this in a row bring no improvement; ``np.inf`` for never.
    max_fun : int, default=15000
        Most evaluations of the loss by "lbfgs".
    n_jobs : int or None, default=None
        Threads: None lets the core choose, -1 takes all that the process may use. Results do not depend on it.
    dtype : {"float32", "float64"} or None, default=None
        Numbers in which to compute. None follows the data as scikit-learn does: float32 stays, all else is float64.
    loss : {"log_loss", "focal"} or callable, default="log_loss"
        ``log_loss``: with ``label_smoothing`` (default 0) so much of each label's certainty is spread over all classes
        evenly. ``focal``: log loss times ``(1 - p) ** gamma`` (default 2), where p is the probability of the true
        class: what is learned well already counts less. Or a function ``(y, output, sample_weight) -> (loss,
        gradient)`` as in ``MLPRegressor``: y is 0 or 1, one column for each class (a single one if there are two) or
        label; outputs are scores before the softmax or logistic function; ``class_weight`` is in ``sample_weight``.
    loss_parameters : dict or None, default=None
        Hyper-parameters of the loss by name, as above; defaults where there is none. An unknown name is answered by all
        valid ones.
    normalization : {"batch_norm", "layer_norm", "rms_norm"}, list of them, or None, default=None
        Normalisation of hidden layers before their activation: one name, or one (or None) for each. Their scales and
        offsets are learned.
    dropout : float or list of float, default=0.0
        Share of the units of hidden layers that each step leaves out at random: one number, or one for each layer.
    input_dropout : float, default=0.0
        The same for the features; needs dense X.
    residual : bool, default=False
        Add to the sums of each hidden layer but the first those of the layer below, as they are before normalisation
        and activation; where the numbers of units differ, through a learned projection. Very deep networks need it.
    initialization : str, callable, or list of them, default="glorot_uniform"
        How weights start: "glorot_uniform" (as in scikit-learn), "glorot_normal", "he_uniform", "he_normal",
        "lecun_uniform", "lecun_normal", "orthogonal", "zeros"; or a callable ``(fan_in, fan_out, random_state)`` that
        returns an array of shape (fan_in, fan_out). One for all layers of weights, or one for each.
    weight_decay : float, default=0.01
        Decoupled weight decay of "adamw" and "lion": each step takes the learning rate times this from each weight, as
        a share of it. Biases do not decay.
    rho : float, default=0.99
        Decay rate of the mean of squared gradients in "rmsprop", and of the mean of gradients in "lion".
    clip_norm : float or None, default=None
        A gradient of all parameters that is longer than this is shortened to it. Not used by "lbfgs".
    clip_value : float or None, default=None
        Then each number of the gradient is brought into [-clip_value, clip_value]. Not used by "lbfgs".
    ema_decay : float or None, default=None
        Decay rate of an exponential moving average of the parameters after each step. The average is what predicts, and
        what early stopping validates, ``coefs_`` and ``intercepts_``; training goes on from the parameters themselves.
        Not used by "lbfgs".
    output_activation : {"softmax", "logistic"} or None, default=None
        None or that of the targets: "softmax" for three or more classes, else "logistic".
    eval_metric : str, callable, list of them, or None, default=None
        What validation measures after each epoch besides the loss: None for the default (accuracy), "loss" for the loss
        itself, a name of ``sklearn.metrics.get_scorer_names()``, or a scorer ``(estimator, X, y) -> float``, where
        greater is better. Of several the first decides when ``early_stopping`` stops, and which parameters are kept.
    max_time : float or None, default=None
        Seconds after which training stops, at the next step. Not used by "lbfgs".
    on_divergence : {"raise", "back_off"}, default="raise"
        What to do when the loss is not finite: raise an error that names epoch, batch, layer and likely cause, or warn
        of it, go back to the parameters after the epoch with the smallest loss (or to the first ones, if that leads to
        nothing), and on with a tenth of the learning rate, up to 10 times. Not used by "lbfgs".
    callbacks : callable, Callback or list of them, default=None
        What is called after each epoch of ``fit``, and may stop it: functions of the running training, or
        ``fastmlp.callbacks``: ``Checkpoint``, ``ProgressBar``. scikit-learn's own are set by ``set_callbacks``. Not
        used by "lbfgs".
    device : str, default="cpu"
        Where ``fit`` trains: "cpu"; "cuda" or "cuda:1", an NVIDIA GPU, for which fastmlp must have been built (see
        ``fastmlp.cuda_status``); or "auto", whichever may be faster, which is told once to the logger "fastmlp". A GPU
        takes dense X and all but "lbfgs" and custom losses. Random numbers and order of rows are the same, sums are
        not: results agree to rounding. Data may be on that GPU already, as CuPy arrays, PyTorch tensors or others that
        speak DLPack or ``__cuda_array_interface__``. Predictions are made where X is, and are NumPy arrays. Whatever
        was trained on a GPU predicts on the CPU, and can be stored and loaded anywhere.
    precision : {"ieee", "tf32", "bf16"}, default="ieee"
        How a GPU multiplies matrices of float32: in float32; or with factors rounded to 11 or 8 significant bits, which
        is faster. Sums, parameters and all else stay in float32.
    class_weight : dict, list of dict, "balanced" or None, default=None
        Weight of each class, which multiplies ``sample_weight``: a dict from labels to weights (1 for classes that are
        not in it); a list of such dicts, one for each label, for multilabel targets; or "balanced" for
        ``n_samples / (n_classes * n_samples_of_the_class)``. Counts in the loss and in the validation score.
    calibration : {"temperature"} or None, default=None
        "temperature" ends ``fit`` with the temperature of ``calibrate``, from the rows that early stopping sets aside,
        or from ``X_val``. For ``predict_set``, call ``calibrate`` with others: these have chosen the best epoch.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
        Class labels.
    coefs_ : list of ndarray of shape (fan_in, fan_out)
        Weights of each layer: views of one buffer. May be assigned: the next prediction or training uses them.
    intercepts_ : list of ndarray of shape (fan_out,)
        Biases of each layer, likewise.
    scales_, offsets_, projections_, running_means_, running_variances_ : list of ndarray or None
        With ``normalization`` or ``residual``: what hidden layers learn besides, one entry for each layer, likewise.
    n_features_in_ : int
        Number of features.
    feature_names_in_ : ndarray of shape (n_features,)
        Names of the features, if X had names that are all strings.
    n_layers_ : int
        Number of layers, input and output included.
    n_outputs_ : int
        Number of outputs.
    out_activation_ : str
        Activation of the output layer.
    loss_ : float
        Loss of the last epoch or iteration.
    n_iter_ : int
        Epochs or iterations of the last call.
    t_ : int
        Rows seen in all calls. Not counted by "lbfgs".
    learning_rate_ : float
        Learning rate of the last step with a schedule, of the next epoch otherwise. Not there with "lbfgs".
    loss_curve_ : list of float
        Loss of each epoch. Not there with "lbfgs".
    best_loss_ : float or None
        Smallest loss; None with early stopping.
    validation_scores_ : list of float or None
        With early stopping: accuracy on the rows set aside, after each epoch.
    best_validation_score_ : float or None
        The best of them.
    history_ : dict of str to ndarray of shape (n_epochs,)
        Of each epoch "loss", "learning_rate" and, where rows are validated, "val_loss" and the metrics, as
        "val_accuracy". Not there with "lbfgs".
    stopped_ : str
        Why training stopped: "max_iter", "no_improvement", "learning_rate" (too small), "max_time", "callback" or
        "interrupted". Not there with "lbfgs".
    best_iteration_ : int or None
        With early stopping: the epoch, from 1, whose parameters are kept.
    temperature_ : float
        By what the last ``calibrate`` divided the sums of the output layer.
    conformity_scores_ : ndarray of shape (n_calibration_samples,)
        Sorted: for each row of ``calibrate`` the probability of all classes more probable than the true one. Not there
        for multilabel targets.

    See Also
    --------
    MLPRegressor : The same for numbers.
    Network : The bare network.

    References
    ----------
    Kingma, D. P. and Ba, J. (2014), for "adam". arXiv:1412.6980.

    Lin, T.-Y., Goyal, P., Girshick, R., He, K. and Dollar, P. (2017), for "focal". arXiv:1708.02002.

    Szegedy, C., Vanhoucke, V., Ioffe, S., Shlens, J. and Wojna, Z. (2016), for label smoothing. arXiv:1512.00567.

    Sutskever, I., Martens, J., Dahl, G. and Hinton, G. (2013), for "sgd". On the importance of initialization and
    momentum in deep learning. ICML.

    Examples
    --------
    >>> from fastmlp import MLPClassifier
    >>> from sklearn.datasets import load_digits
    >>> from sklearn.model_selection import train_test_split
    >>> X, y = load_digits(return_X_y=True)
    >>> X_train, X_test, y_train, y_test = train_test_split(X / 16, y, random_state=0)
    >>> classifier = MLPClassifier(random_state=0, max_iter=300).fit(X_train, y_train)
    >>> classifier.predict(X_test[:5])
    array([2, 8, 2, 6, 6])
    >>> classifier.score(X_test, y_test) > 0.97
    True
    """

    _score_name = "accuracy"
    _default_loss = CLASS_LOSSES[0]
    _parameter_constraints: ClassVar = {
        **BaseMLP._parameter_constraints,
        "loss": [StrOptions(set(CLASS_LOSSES)), callable],
        "class_weight": [StrOptions({"balanced"}), dict, list, None],
        "calibration": [None, StrOptions({"temperature"})],
    }

    @available_if(lambda estimator: estimator._check_solver())  # type: ignore[untyped-decorator]
    @_fit_context(prefer_skip_nested_validation=True)  # type: ignore[untyped-decorator]
    def partial_fit(self, X: Any, y: Any, sample_weight: Any = None, classes: Any = None) -> Self:
        """Train for one epoch, going on from what was learned before.

        The solver with its settings, the learning rate and ``ema_decay`` stay those with which training began; all
        other parameters may be changed between calls.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            Finite numbers.
        y : array-like of shape (n_samples,) or (n_samples, n_classes)
            Class labels; need not hold every class.
        sample_weight : array-like of shape (n_samples,), default=None
            Weight of each sample in the loss; None means 1.
        classes : array-like of shape (n_classes,), default=None
            All classes of all calls. Needed in the first call, may be left out in later ones.

        Returns
        -------
        self : object
            The trained estimator.

        Raises
        ------
        ValueError
            If the first call does not name the classes, a later one names others, or y holds an unknown class.
        """
        y, classes = self._on_host(y, "y"), self._on_host(classes, "classes")
        if _check_partial_fit_first_call(self, classes):
            multilabel = type_of_target(y).startswith("multilabel")
            self._label_binarizer = LabelBinarizer().fit(y if multilabel else classes)
        return self._fit(X, y, sample_weight, incremental=True)

    def predict(self, X: Any) -> NDArray[Any]:
        """Predict class labels.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            Finite numbers.

        Returns
        -------
        y : ndarray of shape (n_samples,) or (n_samples, n_classes)
            The most probable class; for multilabel targets, 1 for each label more probable than 0.5.
        """
        outputs = self._outputs(X)
        if self._label_binarizer.y_type_ == "multiclass":
            labels: NDArray[Any] = self.classes_[outputs.argmax(axis=1)]
        elif self.n_outputs_ == 1 and len(self.classes_) == 2:
            labels = self.classes_[(outputs[:, 0] > 0.5).astype(np.intp)]
        else:  # multilabel, or a single class
            labels = self._label_binarizer.inverse_transform(outputs)
        return labels

    def predict_proba(self, X: Any) -> NDArray[Any]:
        """Predict probabilities.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            Finite numbers.

        Returns
        -------
        y_prob : ndarray of shape (n_samples, n_classes)
            Probability of each class, in the order of ``classes_``. Rows sum to 1, except for multilabel targets.
        """
        outputs = self._outputs(X)
        return np.hstack([1 - outputs, outputs]) if outputs.shape[1] == 1 else outputs

    def predict_log_proba(self, X: Any) -> NDArray[Any]:
        """Predict logarithms of probabilities.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            Finite numbers.

        Returns
        -------
        log_y_prob : ndarray of shape (n_samples, n_classes)
            ``log(predict_proba(X))``; -inf where a probability is 0.
        """
        y_prob = self.predict_proba(X)
        np.log(y_prob, out=y_prob)
        return y_prob

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """Return the accuracy of the predictions.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            Finite numbers.
        y : array-like of shape (n_samples,) or (n_samples, n_classes)
            True labels.
        sample_weight : array-like of shape (n_samples,), default=None
            Weight of each sample; None means 1.

        Returns
        -------
        score : float
            Share of the rows whose labels are all predicted right.
        """
        sample_weight = self._on_host(sample_weight, "sample_weight")
        return float(super().score(X, self._on_host(y, "y"), sample_weight))

    def _validate_data(self, X: Any, y: Any, reset: bool, name: str = "X") -> tuple[Any, NDArray[Any]]:
        X, y = self._checked_data(X, y, reset, name)
        if y.ndim == 2 and y.shape[1] == 1:
            y = column_or_1d(y, warn=True)
        return X, y

    def _learn_targets(self, y: NDArray[Any], incremental: bool) -> None:
        if not hasattr(self, "classes_") or (not self.warm_start and not incremental):
            self._label_binarizer = label_binarizer(y)
            self.classes_ = self._label_binarizer.classes_
        else:
            self._check_classes(distinct_labels(y), incremental)
        several = self._label_binarizer.y_type_ in ("multiclass", "multilabel-indicator")
        self.n_outputs_ = len(self.classes_) if several else 1

    def _check_known(self, y: NDArray[Any], name: str) -> None:
        if y.ndim == 1 and len(unknown := np.setdiff1d(y, self.classes_)):
            raise ValueError(f"{name} has classes that fit has not seen: {unknown}, not among {self.classes_}")

    def _encode(self, y: NDArray[Any]) -> NDArray[Any]:
        kind, n_classes = self._label_binarizer.y_type_, len(self.classes_)
        if kind == "multiclass" and y.ndim == 1:
            return class_numbers(self.classes_, y)
        if kind == "binary" and y.ndim == 1 and n_classes == 2:
            return np.asarray((y == self.classes_[1])[:, np.newaxis])
        encoded: NDArray[Any] = self._label_binarizer.transform(y)
        return encoded

    def _weights_by_class(self, y: NDArray[Any], sample_weight: Any, incremental: bool) -> NDArray[Any] | None:
        if self.class_weight is None:
            return None
        if incremental and self.class_weight == "balanced":
            raise ValueError(
                "class_weight='balanced' needs all samples at once and is not available in partial_fit; pass a dict, "
                "for example from sklearn.utils.class_weight.compute_class_weight"
            )
        multilabel = self._label_binarizer.y_type_.startswith("multilabel")
        if isinstance(self.class_weight, list if not multilabel else dict):
            raise ValueError(
                "class_weight must be a dict or 'balanced' for one label a sample, a list of dicts or 'balanced' for "
                f"multilabel targets, got {self.class_weight!r}"
            )
        if multilabel:
            weights: NDArray[Any] = compute_sample_weight(self.class_weight, y)
            return weights
        numbers = y.ravel().astype(np.intp)
        if self.class_weight == "balanced":  # a weight counts like repeats, also here
            counts = np.bincount(numbers, sample_weight, len(self.classes_))
            by_class = counts.sum() / (len(counts) * np.where(counts > 0, counts, np.inf))
        else:
            by_class = compute_class_weight(self.class_weight, classes=self.classes_, y=self.classes_[numbers])
        return np.asarray(by_class[numbers])

    def _check_classes(self, classes: NDArray[Any], incremental: bool) -> None:
        if self.warm_start and not incremental:
            if set(classes) != set(self.classes_):
                raise ValueError(
                    "warm_start can only be used where `y` has the same classes as in the previous call to fit. "
                    f"Previously got {self.classes_}, `y` has {classes}"
                )
        elif len(np.setdiff1d(classes, self.classes_, assume_unique=True)):
            raise ValueError(
                f"`y` has classes not in `self.classes_`. `self.classes_` has {self.classes_}. 'y' has {classes}."
            )

    def _first_output_activation(self) -> str:
        kind = self._label_binarizer.y_type_
        loss = self.loss if isinstance(self.loss, str) else self._default_loss
        link = OUTPUT_ACTIVATIONS[loss if kind == "multiclass" else loss_and_activation(loss, "logistic")[0]]
        if self.output_activation not in (None, link):
            raise ValueError(
                f"the outputs of a classifier are probabilities: for {kind} targets output_activation must be None or "
                f"{link!r}, got {self.output_activation!r}"
            )
        return link

    def _stratify(self, y: NDArray[Any]) -> NDArray[Any] | None:
        return y.astype(bool) if self.n_outputs_ == 1 else None

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_label = True
        return tags
