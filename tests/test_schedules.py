"""Learning rate schedules: their values by step, and what estimators make of them from call to call."""

import copy
import math
import pickle

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.datasets import load_iris
from sklearn.exceptions import ConvergenceWarning
from sklearn.preprocessing import scale

from fastmlp import MLPClassifier, MLPRegressor, _core, schedules
from fastmlp.schedules import (
    Cosine,
    CosLog,
    Exponential,
    FlatCosine,
    OneCycle,
    Product,
    ReduceOnPlateau,
    Schedule,
    StepDecay,
    WarmUp,
    factors,
    learning_rates,
)

X, y = load_iris(return_X_y=True)
X = scale(X)
N_STEPS = 5  # batches of 32 rows in an epoch
SETTINGS = {"hidden_layer_sizes": (8,), "batch_size": 32, "max_iter": 4, "random_state": 0, "learning_rate_init": 0.02}
EXAMPLES = [
    StepDecay(),
    StepDecay(7, 0.5),
    Exponential(0.2),
    Cosine(0.1),
    OneCycle(0.4, 10, 100),
    FlatCosine(0.3),
    CosLog(3),
    ReduceOnPlateau(0.5, 1, 0.1),
    WarmUp(),
    WarmUp(3, then=Cosine()),
    WarmUp(0.25) * StepDecay(0.5) * ReduceOnPlateau(),
]


def inverse(step, n_steps):
    return 1 / (1 + step)


def weights(model):
    return [array.tobytes() for array in model.coefs_ + model.intercepts_]


# --- values ---------------------------------------------------------------------------------------------------------

# schedule, step of 100 -> factor
POINTS = [
    (StepDecay(0.25), {0: 1, 24: 1, 25: 0.1, 50: 0.01, 99: 0.001}),
    (StepDecay(10, gamma=0.5), {9: 1, 10: 0.5, 25: 0.25, 99: 0.5**9}),
    (Exponential(), {0: 1, 50: 0.1, 100: 0.01}),
    (Exponential(1e6), {0: 1, 50: 1e3, 100: 1e6}),
    (Cosine(), {0: 1, 50: 0.5, 75: (1 - math.sqrt(0.5)) / 2, 100: 0}),
    (Cosine(0.2), {0: 1, 50: 0.6, 100: 0.2}),
    (OneCycle(), {0: 1 / 25, 15: (1 + 1 / 25) / 2, 30: 1, 65: (1 + 4e-6) / 2, 100: 4e-6}),
    (FlatCosine(), {0: 1, 49: 1, 50: 1, 75: 0.5, 100: 0}),
    (FlatCosine(0.2), {20: 1, 60: 0.5}),
    (CosLog(), {0: 0, 100: 0, 100 / 15: 0, 100 / 5: 0, 100 * (math.sqrt(2) - 1) / 15: 1, 100 * (2**3.5 - 1) / 15: 1}),
    (WarmUp(), {0: 0.1, 4: 0.5, 9: 1, 10: 1, 99: 1}),
    (WarmUp(50), {0: 0.02, 49: 1, 99: 1}),
    (WarmUp(20, then=Cosine()), {0: 0.05, 19: 1, 20: 1, 60: 0.5}),
    (WarmUp(1.0, then=Cosine()), {0: 0.01, 99: 1}),
    (WarmUp(500), {0: 0.01, 99: 1}),
    (ReduceOnPlateau(), {0: 1, 99: 1}),
    (WarmUp(10) * Cosine(), {0: 0.1, 50: 0.5}),
    (Cosine() * inverse, {0: 1, 50: 0.5 / 51}),
    (WarmUp(10, then=inverse), {9: 1, 10: 1, 11: 0.5}),
]


@pytest.mark.parametrize(("schedule", "points"), POINTS)
def test_values(schedule, points):
    for step, factor in points.items():
        assert schedule(step, 100) == pytest.approx(factor, rel=1e-12, abs=1e-15), step
    steps = np.arange(100)
    one_by_one = [schedule(step, 100) for step in range(100)]
    np.testing.assert_allclose(schedule(steps, 100), one_by_one, rtol=1e-15, atol=0)  # NumPy has other code for arrays


def test_the_schedule_of_realmlp():
    """As in table A.1 of arXiv:2407.04491, over all steps."""
    t = np.arange(1000) / 1000
    np.testing.assert_allclose(CosLog()(np.arange(1000), 1000), 0.5 * (1 - np.cos(2 * np.pi * np.log2(1 + 15 * t))))
    flat_cosine = (np.cos(np.pi * (np.maximum(1, 2 * t) - 1)) + 1) / 2
    np.testing.assert_allclose(FlatCosine()(np.arange(1000), 1000), flat_cosine)


@pytest.mark.parametrize(
    ("schedule", "name", "arguments"),
    [
        (Cosine(), "CosineAnnealingLR", {"T_max": 40}),
        (Cosine(0.25), "CosineAnnealingLR", {"T_max": 40, "eta_min": 0.005}),
        (StepDecay(7, 0.3), "StepLR", {"step_size": 7, "gamma": 0.3}),
        (Exponential(0.9**40), "ExponentialLR", {"gamma": 0.9}),
    ],
)
def test_rates_are_pytorchs(schedule, name, arguments):
    torch = pytest.importorskip("torch", reason="torch is not installed")
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.02)
    peer, rates = getattr(torch.optim.lr_scheduler, name)(optimizer, **arguments), []
    for _ in range(40):
        rates += peer.get_last_lr()
        optimizer.step()
        peer.step()
    np.testing.assert_allclose(learning_rates(schedule, 0.02, 0, 40, 40), rates, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("schedule", EXAMPLES, ids=str)
def test_a_schedule_is_a_value(schedule):
    for other in (copy.deepcopy(schedule), pickle.loads(pickle.dumps(schedule)), clone(schedule, safe=False)):
        assert other == schedule
        assert hash(other) == hash(schedule)
    assert eval(repr(schedule)) == schedule
    with pytest.raises(AttributeError):
        schedule.name = 1


@pytest.mark.parametrize("n_steps", [1, 2, 3, 10])
@pytest.mark.parametrize("schedule", EXAMPLES, ids=str)
def test_short_trainings_have_finite_rates(schedule, n_steps):
    rates = learning_rates(schedule, 0.1, 0, n_steps, n_steps)
    assert rates.shape == (n_steps,)
    assert np.isfinite(rates).all()
    assert (rates >= 0).all()


def test_after_the_last_step_its_rate_stays():
    rates = learning_rates(Cosine(), 0.1, 7, 6, 10)
    np.testing.assert_array_equal(rates[:3], 0.1 * Cosine()(np.arange(7, 10), 10))
    np.testing.assert_array_equal(rates[3:], rates[2])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: StepDecay(0), "step_size must be a positive number of steps, or a share of them .*got 0"),
        (lambda: StepDecay(1.5), "step_size must be a finite number between 0 and 1, got 1.5"),
        (lambda: StepDecay(True), "step_size .* got True"),
        (lambda: StepDecay(gamma=-1), "gamma must be a finite number of at least 0, got -1"),
        (lambda: Exponential(0), "end must not be 0"),
        (lambda: Exponential(np.inf), "end must be a finite number of at least 0, got inf"),
        (lambda: Cosine(np.nan), "end must be a finite number of at least 0, got nan"),
        (lambda: Cosine("0"), "end .* got '0'"),
        (lambda: OneCycle(pct_start=1), "pct_start must be above 0 and below 1, got 1"),
        (lambda: OneCycle(div_factor=0.5), "div_factor must be a finite number of at least 1, got 0.5"),
        (lambda: OneCycle(final_div_factor=0), "final_div_factor .* got 0"),
        (lambda: FlatCosine(0), "flat must be above 0 and below 1, got 0"),
        (lambda: CosLog(0), "n_cycles must be an integer from 1 to 50, got 0"),
        (lambda: CosLog(2.0), "n_cycles must be an integer from 1 to 50, got 2.0"),
        (lambda: ReduceOnPlateau(factor=1), "factor must be above 0 and below 1, got 1"),
        (lambda: ReduceOnPlateau(patience=-1), "patience must be an integer of 0 or more, got -1"),
        (lambda: ReduceOnPlateau(lowest=2), "lowest must be a finite number between 0 and 1, got 2"),
        (lambda: WarmUp(-3), "length must be a positive number of steps, or a share"),
        (lambda: WarmUp(then="cosine"), "then must be a schedule or a function of step and n_steps, got 'cosine'"),
        (lambda: Cosine() * 2, "second must be a schedule or a function of step and n_steps, got 2"),
        (lambda: Product(None, Cosine()), "first must be a schedule"),
    ],
)
def test_bad_values_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_every_schedule_is_listed():
    """Else it could not be read from a file, or these tests would not see it."""
    kinds = {cls for cls in vars(schedules).values() if isinstance(cls, type) and issubclass(cls, Schedule)} - {
        Schedule
    }
    assert kinds == set(schedules.KINDS) == {type(schedule) for schedule in EXAMPLES}


# --- in estimators --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", schedules.NAMES)
@pytest.mark.parametrize("estimator", [MLPClassifier, MLPRegressor])
def test_a_name_stands_for_a_schedule(estimator, name):
    named = estimator(**SETTINGS, learning_rate=name).fit(X, y)
    given = estimator(**SETTINGS, learning_rate=schedules.NAMES[name]()).fit(X, y)
    assert weights(named) == weights(given)
    constant = estimator(**SETTINGS).fit(X, y)
    assert (weights(named) != weights(constant)) == (name != "reduce_on_plateau")  # there is no plateau so soon


def test_the_names_of_schedules_are_told():
    with pytest.raises(ValueError, match=r"learning_rate.*MLPClassifier") as error:
        MLPClassifier(learning_rate="nope").fit(X, y)
    assert all(f"'{name}'" in str(error.value) for name in ["constant", "invscaling", "adaptive", *schedules.NAMES])


@pytest.mark.parametrize("solver", _core.optimizers())
def test_every_solver_follows_a_schedule(solver):
    assert weights(MLPClassifier(**SETTINGS, solver=solver, learning_rate=inverse).fit(X, y)) != weights(
        MLPClassifier(**SETTINGS, solver=solver).fit(X, y)
    )


@pytest.mark.parametrize("solver", [name for name in _core.optimizers() if name != "adam"])
@pytest.mark.parametrize("name", ["invscaling", "adaptive"])
def test_scikit_learns_names_are_for_all_but_adam(solver, name):
    stalling = SETTINGS | {"tol": 10, "n_iter_no_change": 1, "learning_rate": name}
    model = MLPClassifier(**stalling, solver=solver).fit(X, y)
    assert model.learning_rate_ == pytest.approx(0.02 / ((model.t_ + 1) ** 0.5 if name == "invscaling" else 5))
    assert MLPClassifier(**stalling).fit(X, y).learning_rate_ == 0.02


def test_a_function_is_called_for_every_step():
    calls = []

    def schedule(step, n_steps):
        calls.append((step, n_steps))
        return 0.5

    model = MLPClassifier(**SETTINGS, learning_rate=schedule).fit(X, y)
    assert calls == [(step, 4 * N_STEPS) for step in range(4 * N_STEPS)]
    assert weights(model) == weights(MLPClassifier(**SETTINGS | {"learning_rate_init": 0.01}).fit(X, y))


def test_steps_are_counted_without_the_validation_rows():
    totals = set()
    model = MLPClassifier(**SETTINGS, early_stopping=True, validation_fraction=0.5)
    model.set_params(learning_rate=lambda step, n_steps: totals.add(n_steps) or 1.0).fit(X, y)
    assert totals == {4 * 3}


def test_a_schedule_goes_on_in_partial_fit_and_starts_again_in_fit():
    seen = []
    model = MLPClassifier(**SETTINGS, warm_start=True, learning_rate=lambda step, n_steps: seen.append(step) or 1.0)
    for _ in range(5):
        model.partial_fit(X, y, classes=[0, 1, 2])
    last = 4 * N_STEPS - 1
    assert seen == [*range(last + 1), *[last] * N_STEPS]
    seen.clear()
    model.fit(X, y)
    model.fit(X, y)
    assert seen == [*range(last + 1)] * 2


@pytest.mark.parametrize("value", [-1.0, math.nan, math.inf])
def test_bad_factors_are_refused_with_their_step(value):
    with pytest.raises(ValueError, match=r"the learning rate of step 8 must be finite and not negative, got"):
        MLPClassifier(**SETTINGS, learning_rate=lambda step, n_steps: value if step == 7 else 1.0).fit(X, y)


def test_an_error_of_the_function_reaches_the_caller():
    with pytest.raises(ZeroDivisionError):
        MLPClassifier(**SETTINGS, learning_rate=lambda step, n_steps: 1 / (7 - step)).fit(X, y)


# --- the plateau ----------------------------------------------------------------------------------------------------

STALLING = SETTINGS | {"tol": 100.0, "n_iter_no_change": 100, "solver": "sgd"}  # only the first epoch is an improvement


def rate_after(n_epochs, schedule):
    return MLPClassifier(**STALLING | {"max_iter": n_epochs}, learning_rate=schedule).fit(X, y).learning_rate_


def test_reductions_on_a_plateau():
    """After an epoch that improves and ``patience + 1`` that do not, the next has a lower rate, and so on."""
    rates = [rate_after(n, ReduceOnPlateau(factor=0.5, patience=1, lowest=0.2)) for n in range(1, 10)]
    np.testing.assert_allclose(rates, [0.02, 0.02, 0.02, 0.01, 0.01, 0.005, 0.005, 0.004, 0.004])


def test_a_plateau_within_a_schedule():
    combined = WarmUp(0.5) * ReduceOnPlateau(0.5, 0)
    # epochs 3 and 4 of 4 begin on a plateau; from the middle on the rise is over
    assert rate_after(4, combined) == pytest.approx(0.02 * 0.25)
    assert rate_after(4, WarmUp(0.5, then=ReduceOnPlateau(0.5, 0))) == rate_after(4, combined)
    with pytest.raises(ValueError, match="one ReduceOnPlateau"):
        rate_after(4, ReduceOnPlateau() * ReduceOnPlateau())


def test_reductions_go_on_in_partial_fit_and_start_again_in_fit():
    model = MLPClassifier(**STALLING, learning_rate=ReduceOnPlateau(0.5, 0), warm_start=True)
    rates = [model.partial_fit(X, y, classes=[0, 1, 2]).learning_rate_ for _ in range(5)]
    np.testing.assert_allclose(rates, [0.02, 0.02, 0.01, 0.005, 0.0025])
    model.set_params(max_iter=1).fit(X, y)
    assert model.learning_rate_ == 0.02


# --- training that goes on ------------------------------------------------------------------------------------------

EVERYTHING = {
    "clip_norm": 0.5,
    "clip_value": 0.1,
    "ema_decay": 0.9,
    "learning_rate": WarmUp(0.3) * ReduceOnPlateau(0.5),
}


def goes_on(model, steps, X=X, y=y):
    for _ in range(steps):
        model.partial_fit(X, y)
    return weights(model), model.loss_curve_, model.learning_rate_


@pytest.mark.parametrize("solver", _core.optimizers())
def test_partial_fit_is_fit_in_parts(solver, dtype):
    """With everything switched on, bit for bit."""
    settings = {**SETTINGS, **EVERYTHING, "solver": solver, "shuffle": False, "dtype": dtype}
    model = MLPClassifier(**settings).fit(X, y)
    parts = MLPClassifier(**settings).partial_fit(X, y, classes=[0, 1, 2])
    assert goes_on(parts, 3) == (weights(model), model.loss_curve_, model.learning_rate_)


@pytest.mark.parametrize("schedule", [*EXAMPLES, "cosine", "invscaling"], ids=str)
@pytest.mark.parametrize("way", ["file", "pickle"])
def test_it_goes_on_after_loading(schedule, way, tmp_path):
    model = MLPClassifier(**{**STALLING, **EVERYTHING, "learning_rate": schedule, "solver": "adamw"}).fit(X, y)
    if way == "file":
        model.save(tmp_path / "model.safetensors", optimizer=True)
        loaded = MLPClassifier.load(tmp_path / "model.safetensors")
    else:
        loaded = pickle.loads(pickle.dumps(model))
    assert loaded.get_params() == model.get_params()
    assert goes_on(loaded, 6) == goes_on(model, 6)


@pytest.mark.parametrize("solver", _core.optimizers())
def test_the_state_of_every_solver_is_saved(solver, tmp_path):
    model = MLPRegressor(**SETTINGS, solver=solver, ema_decay=0.5).fit(X, y)
    model.save(tmp_path / "model.safetensors", optimizer=True)
    loaded = MLPRegressor.load(tmp_path / "model.safetensors")
    assert goes_on(loaded, 2) == goes_on(model, 2)


def test_a_function_cannot_be_saved(tmp_path):
    model = MLPClassifier(**SETTINGS, learning_rate=inverse).fit(X, y)
    with pytest.raises(ValueError, match=r"learning_rate=<function inverse .* cannot be saved; .*schedules of fastmlp"):
        model.save(tmp_path / "model.safetensors")


def test_any_callable_will_do():
    class Listed(list):
        """It cannot be hashed."""

        def __call__(self, step, n_steps):
            return self[step]

    halves = Listed([1.0, 0.5] * 10)
    assert MLPClassifier(**SETTINGS, learning_rate=halves).fit(X, y).learning_rate_ == 0.01


def test_a_schedule_of_ones_own():
    class Half(Schedule):
        def __call__(self, step, n_steps):
            return 0.5 + 0 * step

    np.testing.assert_array_equal(factors(Half() * Cosine(), np.arange(4), 4), 0.5 * Cosine()(np.arange(4), 4))
    assert MLPClassifier(**SETTINGS, learning_rate=Half()).fit(X, y).learning_rate_ == 0.01


# --- averaged weights in estimators ---------------------------------------------------------------------------------


@pytest.mark.parametrize("estimator", [MLPClassifier, MLPRegressor])
def test_the_average_predicts_and_the_weights_go_on(estimator):
    plain = estimator(**SETTINGS).fit(X, y)
    averaged = estimator(**SETTINGS, ema_decay=0.9).fit(X, y)
    assert averaged.loss_curve_ == plain.loss_curve_
    assert weights(averaged) != weights(plain)
    for raw, wanted in zip(averaged._optimizer.raw, plain.coefs_ + plain.intercepts_, strict=True):
        np.testing.assert_array_equal(raw, wanted)
    assert averaged.partial_fit(X, y).loss_ == plain.partial_fit(X, y).loss_


def test_after_early_stopping_training_goes_on_from_the_best_average():
    model = MLPClassifier(**SETTINGS, ema_decay=0.9, early_stopping=True).fit(X, y)
    for raw, best in zip(model._optimizer.raw, model.coefs_ + model.intercepts_, strict=True):
        np.testing.assert_array_equal(raw, best)


def test_biases_do_not_decay():
    """Rows of zeros move biases only: what else moves the weights is the decay."""
    settings = {"hidden_layer_sizes": (4,), "max_iter": 1, "random_state": 0, "alpha": 0, "activation": "identity"}
    settings |= {"learning_rate_init": 0.01, "batch_size": 30}
    decayed, kept = (
        MLPRegressor(**settings, solver="adamw", weight_decay=decay).fit(np.zeros((30, 3)), np.zeros(30))
        for decay in (0.5, 0.0)
    )
    np.testing.assert_allclose(decayed.coefs_[0], kept.coefs_[0] * (1 - 0.01 * 0.5), rtol=1e-12)
    np.testing.assert_array_equal(decayed.intercepts_[0], kept.intercepts_[0])


@pytest.mark.filterwarnings("error::sklearn.exceptions.ConvergenceWarning")
def test_a_schedule_that_runs_to_its_end_is_no_failure():
    """It is made for ``max_iter`` epochs; a constant rate says that training could have gone on."""
    settings = {"hidden_layer_sizes": (4,), "max_iter": 3, "random_state": 0}
    MLPClassifier(learning_rate="cosine", **settings).fit(X, y)
    with pytest.raises(ConvergenceWarning, match=r"Maximum iterations \(3\) reached"):
        MLPClassifier(**settings).fit(X, y)
