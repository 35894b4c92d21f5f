"""MLPRegressor: numbers in, numbers out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from sklearn.base import RegressorMixin, _fit_context
from sklearn.metrics import r2_score
from sklearn.utils import column_or_1d
from sklearn.utils._param_validation import StrOptions
from sklearn.utils.metaestimators import available_if

from fastmlp import _core
from fastmlp._calibrated import CalibratedRegressor
from fastmlp._initialization import DEFAULT, Rule
from fastmlp._inspection import RegressorInspection
from fastmlp._losses import (
    NUMBER_LOSSES,
    OPEN_LOSSES,
    VARIANCE_LOSSES,
    CustomLoss,
    LossParameters,
    central_values,
    loss_numbers,
    number_output,
    predicted_values,
    standard_deviations,
)
from fastmlp.estimators import BaseMLP

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from typing_extensions import Self

    from fastmlp.schedules import AnySchedule


class MLPRegressor(CalibratedRegressor, RegressorMixin, RegressorInspection, BaseMLP):  # type: ignore[misc]
    """Multilayer perceptron for regression: scikit-learn's class with a C++ core.

    With the same parameters, data and ``random_state`` it takes scikit-learn's path, up to rounding.

    Parameters
    ----------
    loss : str or callable, default="squared_error"
        Distances, with the outputs as they are; ``loss_`` reports their mean over targets:

        - ``squared_error``: half of it; it learns the mean.
        - ``absolute_error``: it learns the median.
        - ``huber``: squared up to ``delta`` (default 1), absolute beyond.
        - ``log_cosh``: much the same, smooth everywhere.
        - ``quantile``: the pinball loss of the level ``quantile`` (default 0.5), or of a list of increasing levels.
          Predicted quantiles do not cross.

        Negative log-likelihoods; ``loss_`` reports their sum over targets. Means above 0 are exponentials:

        - ``poisson``: half the deviance of counts, for targets of 0 or more.
        - ``gamma``: half the deviance of skewed amounts, for targets above 0.
        - ``tweedie``: half the deviance between these two, for amounts that may be 0; ``power`` (default 1.5) from 1,
          which is ``poisson``, over 2, which is ``gamma``, to 3 (inverse Gaussian).
        - ``gaussian_nll``: of a normal distribution whose mean and variance are both learned; ``eps`` (default 1e-6) is
          the least variance.

        Or a function ``(y, output, sample_weight) -> (loss, gradient)``, asked once for each batch, and after an epoch
        for rows to validate on. From targets and predictions of shape (n, n_targets), and weights of shape (n,) or
        None, it computes the mean loss, which ``loss_`` reports, and its derivatives with respect to the predictions.
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
        Set ``validation_fraction`` of the rows aside, stop when the score on them (R2) does not improve, and keep
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
    output_activation : str or None, default=None
        Activation of the outputs before the loss, such as "softplus" or "exp" (above 0), "logistic" (between 0 and 1),
        or any of the hidden layers'; for "squared_error", "absolute_error", "huber", "log_cosh" and functions. None is
        "identity" for these; the other losses have their own.
    eval_metric : str, callable, list of them, or None, default=None
        What validation measures after each epoch besides the loss: None for the default (R2), "loss" for the loss
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

    Attributes
    ----------
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
        Number of outputs: one for each target, or two (mean and variance), or as many as there are quantiles.
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
        With early stopping: R2 on the rows set aside, after each epoch.
    best_validation_score_ : float or None
        The best of them.
    history_ : dict of str to ndarray of shape (n_epochs,)
        Of each epoch "loss", "learning_rate" and, where rows are validated, "val_loss" and the metrics, as
        "val_r2". Not there with "lbfgs".
    stopped_ : str
        Why training stopped: "max_iter", "no_improvement", "learning_rate" (too small), "max_time", "callback" or
        "interrupted". Not there with "lbfgs".
    best_iteration_ : int or None
        With early stopping: the epoch, from 1, whose parameters are kept.
    conformity_scores_ : ndarray of shape (n_calibration_samples,) or (n_calibration_samples, n_targets)
        Sorted: how far each target of ``calibrate`` was from the prediction, as ``predict_interval`` measures it.

    See Also
    --------
    MLPClassifier : The same for classes.
    Network : The bare network.

    References
    ----------
    Kingma, D. P. and Ba, J. (2014), for "adam". arXiv:1412.6980.

    Koenker, R. and Bassett, G. (1978), for "quantile". Regression quantiles. Econometrica 46. Chernozhukov, V.,
    Fernandez-Val, I. and Galichon, A. (2010), for sorting them. Econometrica 78.

    Nix, D. A. and Weigend, A. S. (1994), for "gaussian_nll". Estimating the mean and variance of the target probability
    distribution. ICNN.

    Sutskever, I., Martens, J., Dahl, G. and Hinton, G. (2013), for "sgd". On the importance of initialization and
    momentum in deep learning. ICML.

    Examples
    --------
    >>> import numpy as np
    >>> from fastmlp import MLPRegressor
    >>> from sklearn.datasets import make_regression
    >>> X, y = make_regression(n_samples=200, n_features=20, random_state=1)
    >>> regressor = MLPRegressor(random_state=1, max_iter=2000, tol=0.1).fit(X, y)
    >>> regressor.predict(X[:2]).shape
    (2,)
    >>> regressor.score(X, y) > 0.99
    True

    An interval that holds nine of ten targets, and the median:

    >>> levels = {"quantile": [0.05, 0.5, 0.95]}
    >>> regressor = MLPRegressor("quantile", loss_parameters=levels, random_state=1, max_iter=50, tol=1.0).fit(X, y)
    >>> regressor.predict(X[:2]).shape
    (2, 3)

    A loss of your own, for which too much is three times as bad as too little:

    >>> def lopsided(y, output, sample_weight):
    ...     excess = output - y
    ...     gradient = np.where(excess > 0, 3, 1) * excess / len(y)
    ...     return (gradient * excess).sum() / 2, gradient
    >>> regressor = MLPRegressor(lopsided, solver="lbfgs", tol=1.0, random_state=1).fit(X, y)
    >>> regressor.score(X, y) > 0.99
    True
    """

    _score_name = "r2"
    _default_loss = OPEN_LOSSES[0]
    _parameter_constraints: ClassVar = {
        **BaseMLP._parameter_constraints,
        "loss": [StrOptions(set(NUMBER_LOSSES)), callable],
    }

    def __init__(
        self,
        loss: str | CustomLoss = "squared_error",
        hidden_layer_sizes: int | str | Sequence[int] = (100,),
        activation: str | Sequence[str] = "relu",
        *,
        solver: str = "adam",
        alpha: float = 0.0001,
        batch_size: int | str = "auto",
        learning_rate: str | AnySchedule = "constant",
        learning_rate_init: float = 0.001,
        power_t: float = 0.5,
        max_iter: int = 200,
        shuffle: bool = True,
        random_state: int | np.random.RandomState | None = None,
        tol: float = 1e-4,
        verbose: bool = False,
        warm_start: bool = False,
        momentum: float = 0.9,
        nesterovs_momentum: bool = True,
        early_stopping: bool = False,
        validation_fraction: Any = 0.1,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-8,
        n_iter_no_change: float = 10,
        max_fun: int = 15000,
        n_jobs: int | None = None,
        dtype: str | None = None,
        loss_parameters: LossParameters | None = None,
        normalization: str | Sequence[str | None] | None = None,
        dropout: float | Sequence[float] = 0.0,
        input_dropout: float = 0.0,
        residual: bool = False,
        initialization: Rule | Sequence[Rule] = DEFAULT,
        weight_decay: float = 0.01,
        rho: float = 0.99,
        clip_norm: float | None = None,
        clip_value: float | None = None,
        ema_decay: float | None = None,
        output_activation: str | None = None,
        eval_metric: Any = None,
        max_time: float | None = None,
        on_divergence: str = "raise",
        callbacks: Any = None,
        device: str = "cpu",
        precision: str = "ieee",
    ) -> None:
        super().__init__(**{name: value for name, value in locals().items() if name not in ("self", "__class__")})

    @available_if(lambda estimator: estimator._check_solver())  # type: ignore[untyped-decorator]
    @_fit_context(prefer_skip_nested_validation=True)  # type: ignore[untyped-decorator]
    def partial_fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Train for one epoch, going on from what was learned before.

        The solver with its settings, the learning rate and ``ema_decay`` stay those with which training began; all
        other parameters may be changed between calls.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            Finite numbers.
        y : array-like of shape (n_samples,) or (n_samples, n_outputs)
            Finite numbers.
        sample_weight : array-like of shape (n_samples,), default=None
            Weight of each sample in the loss; None means 1.

        Returns
        -------
        self : object
            The trained estimator.
        """
        return self._fit(X, y, sample_weight, incremental=True)

    def predict(self, X: Any, return_std: bool = False) -> Any:
        """Predict target values.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            Finite numbers.
        return_std : bool, default=False
            Also return the standard deviations, which a loss with a variance predicts.

        Returns
        -------
        y : ndarray of shape (n_samples,) or (n_samples, n_targets)
            The predicted values. With several quantiles one more axis holds them, in increasing order:
            (n_samples, n_quantiles) or (n_samples, n_targets, n_quantiles).
        y_std : ndarray of shape (n_samples,) or (n_samples, n_targets)
            Standard deviations; only with ``return_std``.

        Raises
        ------
        ValueError
            For ``return_std`` with a loss that predicts no variance.
        """
        outputs = self._outputs(X)
        if outputs.shape[1] == 1:
            values = outputs.ravel()
        else:
            values = predicted_values(outputs, self._core_loss(), self._core_loss_parameters())
        if not return_std:
            return values
        if self.loss not in VARIANCE_LOSSES:
            able = ", ".join(map(repr, VARIANCE_LOSSES))
            raise ValueError(f"return_std=True needs a loss that predicts a variance ({able}), got loss={self.loss!r}")
        return values, standard_deviations(outputs).reshape(values.shape)

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """Return the coefficient of determination (R2) of the predictions.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            Finite numbers.
        y : array-like of shape (n_samples,) or (n_samples, n_targets)
            True values.
        sample_weight : array-like of shape (n_samples,), default=None
            Weight of each sample; None means 1.

        Returns
        -------
        score : float
            R2, averaged over targets: of the mean where a variance is predicted as well, and of the quantile nearest
            to the median where several are.
        """
        central = central_values(self._outputs(X), self._core_loss(), self._core_loss_parameters())
        sample_weight = self._on_host(sample_weight, "sample_weight")
        return float(r2_score(self._on_host(y, "y"), central, sample_weight=sample_weight))

    def _validate_data(self, X: Any, y: Any, reset: bool, name: str = "X") -> tuple[Any, NDArray[Any]]:
        X, y = self._checked_data(X, y, reset, name, y_numeric=True)
        if hasattr(y, "toarray"):
            y = y.toarray()
        if y.dtype.kind not in "biuf":
            raise ValueError(f"y must hold real numbers, got an array of dtype {y.dtype}")
        if y.ndim == 2 and y.shape[1] == 1:
            y = column_or_1d(y, warn=True)
        return X, y

    def _learn_targets(self, y: NDArray[Any], incremental: bool) -> None:
        self.n_outputs_ = 1 if y.ndim == 1 else y.shape[1]
        if isinstance(self.loss, str):
            self.n_outputs_ *= _core.loss_outputs(self.loss, loss_numbers(self.loss, self.loss_parameters))[0]

    def _encode(self, y: NDArray[Any]) -> NDArray[Any]:
        return y.reshape(-1, 1) if y.ndim == 1 else y

    def _first_output_activation(self) -> str:
        return number_output(self.loss, self.output_activation)
