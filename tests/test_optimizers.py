"""Every optimizer of the catalogue: the steps it takes, the state it keeps, the settings it refuses."""

import numpy as np
import pytest
import reference

from fastmlp import _core

# settings that differ from the defaults, for the optimizers whose formula reference.py has
SETTINGS = {
    "sgd": [{"momentum": 0.0, "nesterov": 0}, {"momentum": 0.8, "nesterov": 0}, {"momentum": 0.8, "nesterov": 1}],
    "adam": [{"beta_1": 0.8, "beta_2": 0.9, "epsilon": 1e-3}, {"beta_1": 0.0, "beta_2": 0.0, "epsilon": 1e-8}],
    "adamw": [{"beta_1": 0.8, "beta_2": 0.9, "epsilon": 1e-3, "weight_decay": 0.5}],
    "nadam": [{"beta_1": 0.8, "beta_2": 0.9, "epsilon": 1e-3}, {"beta_1": 0.0, "beta_2": 0.5, "epsilon": 1e-8}],
    "rmsprop": [{"rho": 0.5, "epsilon": 1e-3}],
    "lion": [{"beta_1": 0.5, "rho": 0.8, "weight_decay": 0.5}],
}
# the same in PyTorch: class and arguments
IN_TORCH = {
    "adamw": ("AdamW", lambda h: {"betas": (h["beta_1"], h["beta_2"]), "weight_decay": h["weight_decay"]}),
    "nadam": ("NAdam", lambda h: {"betas": (h["beta_1"], h["beta_2"])}),
    "rmsprop": ("RMSprop", lambda h: {"alpha": h["rho"]}),
}


def defaults(optimizer):
    return _core.optimizers()[optimizer]["hyperparameters"]


def new_slots(optimizer, w):
    return [np.zeros_like(w) for _ in _core.optimizers()[optimizer]["slots"]]


def run(optimizer, hyperparameters, w, gradient, learning_rate=0.1, n_steps=1):
    """Steps along ``gradient(w)``; returns where they end and the state then."""
    w, slots = w.copy(), new_slots(optimizer, w)
    for t in range(1, n_steps + 1):
        _core.apply_optimizer(optimizer, hyperparameters, learning_rate, t, w, gradient(w), slots)
    return w, slots


def noise(n, n_steps):
    """Gradients that keep changing their direction."""
    return np.random.RandomState(0).randn(n_steps, n)


def test_has_a_formula(optimizer, has_formula):
    has_formula(optimizer)
    assert optimizer in reference.OPTIMIZERS


@pytest.mark.parametrize("n", [0, 1, 3, 8, 15, 16, 17, 33, 100])
def test_steps_against_the_oracle(optimizer, dtype, instruction_set, n):
    random = np.random.RandomState(n)
    for hyperparameters in [defaults(optimizer), *SETTINGS.get(optimizer, [])]:
        w = random.randn(n).astype(dtype)
        slots, expected = new_slots(optimizer, w), w.astype(np.float64)
        expected_slots = new_slots(optimizer, expected)
        for t in range(1, 8):
            g = random.randn(n).astype(dtype)
            assert _core.apply_optimizer(optimizer, hyperparameters, 0.05, t, w, g, slots) is None
            reference.OPTIMIZERS[optimizer](hyperparameters, 0.05, t, expected, g.astype(np.float64), expected_slots)
        eps = np.finfo(dtype).eps
        np.testing.assert_allclose(w, expected, rtol=50 * eps, atol=50 * eps)
        for slot, expected_slot in zip(slots, expected_slots, strict=True):
            np.testing.assert_allclose(slot, expected_slot, rtol=50 * eps, atol=50 * eps)


@pytest.mark.parametrize("optimizer", ["adam", "adamw"])
@pytest.mark.parametrize("t", [100, 200, 250, 300, 379, 381, 1000, 20_000, 30_000, 37_999, 38_001, 10**6])
def test_late_steps_against_the_oracle(optimizer, t):
    # from some step on nothing is left of beta^t beside 1, and the power is not taken: no step may show where
    w, g = np.array([0.0, 0.0]), np.array([0.3, -2.0])
    expected, slots, expected_slots = w.copy(), new_slots(optimizer, w), new_slots(optimizer, w)
    reference.OPTIMIZERS[optimizer](defaults(optimizer), 0.05, t, expected, g, expected_slots)
    _core.apply_optimizer(optimizer, defaults(optimizer), 0.05, t, w, g, slots)
    np.testing.assert_allclose(w, expected, rtol=50 * np.finfo(w.dtype).eps)


@pytest.fixture
def torch():
    torch = pytest.importorskip("torch", reason="torch is not installed")
    torch.set_default_dtype(torch.float64)  # else NAdam keeps the product of its momenta in float32
    yield torch
    torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("optimizer", IN_TORCH)
def test_steps_are_pytorchs(optimizer, torch):
    for h in [defaults(optimizer), *SETTINGS[optimizer]]:
        w = np.random.RandomState(0).randn(20)
        theirs = torch.tensor(w, requires_grad=True)
        name, arguments = IN_TORCH[optimizer]
        peer = getattr(torch.optim, name)([theirs], lr=0.05, eps=h["epsilon"], **arguments(h))
        slots = new_slots(optimizer, w)
        for t, g in enumerate(noise(20, 300), 1):
            _core.apply_optimizer(optimizer, h, 0.05, t, w, g, slots)
            theirs.grad = torch.tensor(g)
            peer.step()
        np.testing.assert_allclose(w, theirs.detach().numpy(), rtol=1e-10, atol=1e-12)


def test_nadam_needs_no_memory_of_its_momenta():
    """The product of all momenta up to now is a formula: right after few steps and after many."""
    for t in [1, 2, 10, 1000, 100_000]:
        for beta_1 in [0.5, 0.9, 0.9999]:
            h, w, g = {**defaults("nadam"), "beta_1": beta_1}, np.ones(3), np.array([1.0, -2.0, 3.0])
            ours, slots = w.copy(), [g / 2, g * g]
            _core.apply_optimizer("nadam", h, 0.01, t, ours, g, slots)
            reference.nadam(h, 0.01, t, w, g, [g / 2, g * g])
            np.testing.assert_allclose(ours, w, rtol=1e-11)


def test_minimises_a_parabola(optimizer, dtype, instruction_set):
    target = np.linspace(-1, 1, 9).astype(dtype)
    w, _ = run(optimizer, defaults(optimizer), np.zeros(9, dtype), lambda w: w - target, 0.005, 2000)
    np.testing.assert_allclose(w, target, atol=1e-2)


def test_zero_learning_rate_stands_still(optimizer, dtype):
    w = np.linspace(-1, 1, 9).astype(dtype)
    moved, _ = run(optimizer, defaults(optimizer), w, np.ones_like, learning_rate=0.0, n_steps=3)
    np.testing.assert_array_equal(moved, w)


def test_state_is_kept_in_place(optimizer, dtype):
    """Steps change every slot where it lies, only read the gradient, and depend on the steps before."""
    w, slots = np.ones(5, dtype), new_slots(optimizer, np.ones(5, dtype))
    forgetful = w.copy()
    for t, g in enumerate(noise(5, 20).astype(dtype), 1):
        g.flags.writeable = False
        _core.apply_optimizer(optimizer, defaults(optimizer), 0.1, t, w, g, slots)
        _core.apply_optimizer(optimizer, defaults(optimizer), 0.1, t, forgetful, g, new_slots(optimizer, w))
    assert all((slot != 0).all() for slot in slots)
    assert bool(slots) == (w != forgetful).any()


def test_any_length(optimizer, dtype, instruction_set):
    """A weight's update depends neither on the number of weights nor on its place among them."""
    w, g = np.linspace(-1, 1, 70).astype(dtype), np.linspace(1, -2, 70).astype(dtype)
    whole, _ = run(optimizer, defaults(optimizer), w, lambda _: g, n_steps=3)
    for n in range(70):
        part, _ = run(optimizer, defaults(optimizer), w[:n], lambda _, n=n: g[:n].copy(), n_steps=3)
        np.testing.assert_array_equal(part, whole[:n])
        part, _ = run(optimizer, defaults(optimizer), w[n:], lambda _, n=n: g[n:].copy(), n_steps=3)
        np.testing.assert_array_equal(part, whole[n:])


def test_every_hyperparameter_has_an_effect(optimizer):
    """A setting that changes nothing is a bug. Any valid other value will do to show the effect."""

    def end(hyperparameters):
        gradients = iter(noise(9, 20))
        return run(optimizer, hyperparameters, np.linspace(-1, 1, 9), lambda _: next(gradients), n_steps=20)[0]

    for name, value in defaults(optimizer).items():
        other = {**defaults(optimizer), name: 1 - value if value in (0, 1) else 0.5}
        assert (end(other) != end(defaults(optimizer))).any(), name


def test_missing_hyperparameters_take_their_default(optimizer):
    w = np.linspace(-1, 1, 9)
    np.testing.assert_array_equal(run(optimizer, {}, w, np.sin)[0], run(optimizer, defaults(optimizer), w, np.sin)[0])


def test_nan_gradient_is_never_hidden(optimizer, dtype):
    g = np.array([1, np.nan, 2], dtype)
    w, _ = run(optimizer, defaults(optimizer), np.zeros(3, dtype), lambda _: g)
    np.testing.assert_array_equal(np.isnan(w), [False, True, False])


def test_unknown_optimizer_lists_the_valid_ones():
    with pytest.raises(ValueError, match="nope") as error:
        _core.apply_optimizer("nope", {}, 0.1, 1, np.zeros(3), np.zeros(3), [])
    assert all(valid in str(error.value) for valid in _core.optimizers())


def test_unknown_hyperparameter_lists_the_valid_ones(optimizer):
    with pytest.raises(ValueError, match="nope") as error:
        run(optimizer, {"nope": 1.0}, np.zeros(3), np.ones_like)
    assert all(valid in str(error.value) for valid in defaults(optimizer))


@pytest.mark.parametrize("value", [np.nan, np.inf, -1.0])
def test_bad_hyperparameter_is_refused(optimizer, value):
    for name in defaults(optimizer):
        with pytest.raises(ValueError, match=name):
            run(optimizer, {name: value}, np.zeros(3), np.ones_like)


@pytest.mark.parametrize("value", [np.nan, np.inf, -0.1])
def test_bad_learning_rate_is_refused(optimizer, value):
    with pytest.raises(ValueError, match="learning_rate"):
        run(optimizer, {}, np.zeros(3), np.ones_like, learning_rate=value)


def test_steps_count_from_one(optimizer):
    for t in (0, -1):
        with pytest.raises(ValueError, match=r"\bt\b"):
            _core.apply_optimizer(optimizer, {}, 0.1, t, np.zeros(3), np.ones(3), new_slots(optimizer, np.zeros(3)))


def test_wrong_state_is_refused(optimizer):
    w, slots = np.zeros(3), new_slots(optimizer, np.zeros(3))
    with pytest.raises(ValueError, match="slot"):
        _core.apply_optimizer(optimizer, {}, 0.1, 1, w, np.ones(3), [*slots, np.zeros(3)])
    for bad, error in ((np.zeros(4), ValueError), (np.zeros(3, np.float32), TypeError)):
        for position in range(len(slots)):
            wrong = [bad if i == position else slot for i, slot in enumerate(slots)]
            with pytest.raises(error):
                _core.apply_optimizer(optimizer, {}, 0.1, 1, w, np.ones(3), wrong)
    np.testing.assert_array_equal(w, 0)


def test_catalogue_tells_formulas():
    assert _core.optimizers().keys() >= {"sgd", "adam"}
    assert all(entry["formula"].strip() for entry in _core.optimizers().values())
