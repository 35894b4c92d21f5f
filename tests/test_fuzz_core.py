"""The binding layer under fire: whatever is passed, a call returns or raises one of four exceptions; it never crashes.

Small enough to be run under AddressSanitizer and UndefinedBehaviorSanitizer. Each example starts from a valid call and
spoils one or two of its arguments, so that the checks behind the first one are reached too.
"""

import contextlib

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fastmlp import _core

REFUSALS = (TypeError, ValueError, MemoryError, IndexError)
HUGE = [2**31 - 1, 2**31, 2**32, 2**62, 2**63 - 1, 2**63, 2**64, 10**30]
ADAM = {"beta_1": 0.9, "beta_2": 0.999, "epsilon": 1e-8}
OPTIONS = {
    "optimizer": "adam",
    "hyperparameters": ADAM,
    "learning_rate": 0.01,
    "learning_rate_init": 0.01,
    "schedule": "constant",
    "power_t": 0.5,
    "t": 0,
    "n_samples_seen": 0,
    "alpha": 0.1,
    "batch_size": 2,
    "max_iter": 2,
    "shuffle": True,
    "tol": 0.0,
    "n_iter_no_change": 10.0,
    "dropout_seed": 0,
    "no_improvement_count": 0,
    "best_loss": np.inf,
    "best_validation_score": -np.inf,
    "score": "accuracy",
    "clip_norm": np.inf,
    "clip_value": np.inf,
    "ema_decay": 0.0,
    "report_batch_losses": False,
    "early_stopping": True,
    "max_seconds": np.inf,
}


def valid_calls(dtype):
    """Name -> (callable, arguments that it accepts), made afresh for every example."""
    random = np.random.RandomState(0)
    network = _core.Network([3, 4, 2], ["tanh"], "log_loss")
    engine = _core.Engine(network, dtype, 2)
    generator = _core.MT19937(np.arange(624, dtype=np.uint32), 624)
    flat, gradient, *slots = (random.rand(network.n_parameters).astype(dtype) for _ in range(4))
    X, y, weights = random.randn(5, 3).astype(dtype), np.eye(2, dtype=dtype)[[0, 1, 1, 0, 1]], np.ones(5, dtype)
    sparse = np.array([1, 2, 3], dtype), np.array([0, 2, 1], np.int32), np.array([0, 1, 1, 3, 3, 3]), 3
    labels, rows, held_out = np.array([0, 1, 1, 0, 1], np.int32), np.array([0, 2, 3]), np.array([1, 4])

    def rates(t, n_steps, no_improvement_count):
        return np.full(n_steps, 0.01)

    return {
        "apply_activation": (_core.apply_activation, ["tanh", X[0].copy()]),
        "apply_loss": (_core.apply_loss, ["log_loss", X[:, :2].copy(), y]),
        "apply_loss quantile": (
            _core.apply_loss,
            ["quantile", X.copy(), weights[:, None], {"quantile": [0.1, 0.5, 0.9]}],
        ),
        "loss_outputs": (_core.loss_outputs, ["quantile", {"quantile": [0.1, 0.5, 0.9]}]),
        "apply_optimizer": (_core.apply_optimizer, ["adam", ADAM, 0.1, 1, flat, gradient, slots]),
        "set_blas": (_core.set_blas, ["nope", None, None]),
        "set_instruction_set": (_core.set_instruction_set, [_core.config()["instruction_set"]]),
        "MT19937": (_core.MT19937, [np.arange(624, dtype=np.uint32), 624]),
        "shuffle": (generator.shuffle, [np.arange(5)]),
        "Network": (_core.Network, [[3, 4, 2], ["tanh"], "log_loss"]),
        "Network with loss_parameters": (_core.Network, [[3, 4, 2], ["tanh"], "quantile", {"quantile": [0.1, 0.9]}]),
        "Engine": (_core.Engine, [network, dtype, 2]),
        "predict without engine": (_core.predict, [network, flat, X, 2, False]),
        "input_gradient": (engine.input_gradient, [flat, X, slots[0][:20].reshape(5, 2, 2)]),
        "hessian_vector_product": (
            _core.hessian_vector_product,
            [network, *(each.astype("float64") for each in (flat, X, y, weights)), 0.1, gradient.astype("float64"), 2],
        ),
        "predict": (engine.predict, [flat, X, 1]),
        "predict sparse": (engine.predict, [flat, sparse, 2]),
        "loss_and_gradient": (engine.loss_and_gradient, [flat, X, y, weights, 0.1]),
        "loss_and_gradient sparse": (engine.loss_and_gradient, [flat, sparse, labels, None, 0.1]),
        "apply": (engine.apply, [flat, gradient, "adam", ADAM, 0.1, 1, slots]),
        "train": (engine.train, [flat, slots, X, y, weights, rows, held_out, generator, dict(OPTIONS), None]),
        "train sparse": (
            engine.train,
            [flat, slots, sparse, labels, None, None, None, generator, dict(OPTIONS), None, rates],
        ),
    }


CALLS = list(valid_calls("float64"))


def survives(function, *arguments):
    """Whether the call was accepted; any exception but a clean refusal fails the test."""
    try:
        function(*arguments)
    except REFUSALS:
        return False
    return True


def misaligned(array):
    return np.frombuffer(bytearray(array.nbytes + 1), np.uint8)[1:].view(array.dtype).reshape(array.shape)


# the same numbers, more or less, in a way that the core may not expect
VIEWS = [
    lambda a: a[::-1],
    lambda a: a[::2],
    lambda a: a[:0],
    lambda a: a.T,
    lambda a: a[None],
    lambda a: a[..., None],
    lambda a: a.ravel()[0],
    np.ravel,
    np.asfortranarray,
    np.ma.masked_array,
    np.ndarray.tolist,
    misaligned,
    lambda a: memoryview(a.copy()),
    lambda a: np.repeat(a, 2, axis=-1)[..., ::2],
    lambda a: np.broadcast_to(a.ravel()[:1], a.shape),
    lambda a: a.astype(a.dtype.newbyteorder()),
    *(
        lambda a, t=t: a.astype(t)
        for t in (bool, np.int8, np.int32, np.int64, np.uint64, np.float16, np.float32, float)
    ),
    *(lambda a, t=t: a.astype(t) for t in (np.longdouble, complex, object, str, "m8[s]")),
]


NUMBERS = st.one_of(st.integers(-3, 9), st.sampled_from(HUGE + [-n for n in HUGE]), st.floats(width=64))
ARRAYS = hnp.arrays(
    st.one_of(hnp.scalar_dtypes(), st.sampled_from([np.float32, np.float64, np.int32, np.int64])),
    hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=6),
)
ANYTHING = st.recursive(
    st.one_of(st.none(), st.booleans(), NUMBERS, st.text(max_size=5), st.binary(max_size=5), ARRAYS),
    lambda inner: st.lists(inner, max_size=4) | st.tuples(inner, inner) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=4,
)


@st.composite
def spoiled(draw, value):
    """Something else in place of a valid argument: part of it changed, or anything at all."""
    if draw(st.integers(0, 3)) == 0:
        return draw(ANYTHING)
    if isinstance(value, np.ndarray):
        if draw(st.booleans()) and value.size:
            return draw(st.sampled_from(VIEWS))(value)
        return draw(hnp.arrays(value.dtype, hnp.array_shapes(min_side=0, max_side=6)))
    if isinstance(value, list | tuple) and value:
        parts = list(value)
        place = draw(st.integers(0, len(parts) - 1))
        parts[place : place + draw(st.integers(0, 1))] = draw(st.lists(spoiled(parts[place]), max_size=2))
        return type(value)(parts)
    if isinstance(value, dict) and value:
        name = draw(st.sampled_from(list(value)))
        return {**value, name: draw(spoiled(value[name]) | NUMBERS)}
    return draw(NUMBERS if isinstance(value, int | float) else ANYTHING)


def would_run_for_ages(arguments):
    """A huge ``max_iter`` is a valid wish, not one for a test."""
    return any(isinstance(a, dict) and isinstance(n := a.get("max_iter"), int | float) and n > 9 for a in arguments)


@pytest.mark.parametrize("name", CALLS)
def test_valid_calls_are_accepted(name, dtype):
    """Else the tests below would only knock at the first door."""
    function, arguments = valid_calls(dtype)[name]
    if name != "set_blas":
        function(*arguments)


@pytest.mark.parametrize("name", CALLS)
@settings(max_examples=150)
@given(data=st.data())
def test_spoiled_arguments(name, data):
    function, arguments = valid_calls(data.draw(st.sampled_from(["float32", "float64"])))[name]
    for place in data.draw(st.sets(st.integers(0, len(arguments) - 1), min_size=1, max_size=2)):
        arguments[place] = data.draw(spoiled(arguments[place]))
    if not would_run_for_ages(arguments):
        survives(function, *arguments)


@pytest.mark.parametrize("name", CALLS)
@settings(max_examples=20)
@given(arguments=st.lists(ANYTHING, max_size=11))
def test_any_arguments(name, arguments):
    survives(valid_calls("float64")[name][0], *arguments)


@settings(max_examples=300)
@given(
    values=hnp.arrays(np.float64, st.integers(0, 6), elements=st.floats(-2, 2)),
    indices=st.lists(st.integers(-2, 4) | st.sampled_from([2**31 - 1, -(2**31)]), max_size=6),
    indptr=st.lists(st.integers(-1, 7) | st.sampled_from([2**62, 2**63 - 1, -(2**63)]), max_size=7),
    n_columns=st.sampled_from([3, 3, 3, 0, -1, 2, 4, 2**31, 2**62]),
)
@example(np.ones(2), [0, 3], [0, 1, 2], 3)  # column out of range
@example(np.ones(2), [0, -1], [0, 1, 2], 3)
@example(np.ones(2), [0, 1], [0, 2, 1, 2], 3)  # decreasing
@example(np.ones(2), [0, 1], [0, 1, 3], 3)  # too long
@example(np.ones(2), [0, 1], [1, 2, 2], 3)
@example(np.ones(2), [0, 1], [], 3)
@example(np.ones(2), [0], [0, 1, 2], 3)
def test_inconsistent_sparse_rows(values, indices, indptr, n_columns):
    """Accepted if and only if they are what a matrix of three columns looks like."""
    calls = valid_calls("float64")
    predict, (flat, _, _) = calls["predict"]
    indices, indptr = np.array(indices, np.int32), np.array(indptr, np.int64)
    accepted = survives(predict, flat, (values, indices, indptr, n_columns), -1)
    assert accepted == (
        n_columns == 3
        and len(indptr) > 0
        and indptr[0] == 0
        and bool((indptr[1:] >= indptr[:-1]).all())
        and indptr[-1] <= len(values) == len(indices)
        and bool(((indices >= 0) & (indices < 3)).all())
    )


@given(labels=hnp.arrays(np.int32, 5, elements=st.integers(-1, 2) | st.sampled_from([2**31 - 1, -(2**31)])))
@example(labels=np.array([0, 1, 2, 0, 1], np.int32))
def test_class_numbers_out_of_range(labels):
    function, (flat, X, _, weights, alpha) = valid_calls("float64")["loss_and_gradient"]
    assert survives(function, flat, X, labels, weights, alpha) == bool(((labels >= 0) & (labels < 2)).all())


@given(rows=hnp.arrays(np.int64, st.integers(0, 7), elements=st.integers(-1, 5) | st.sampled_from([2**62, -(2**63)])))
@example(rows=np.array([0, 5]))
@example(rows=np.array([-1, 0]))
@pytest.mark.parametrize("place", [5, 6], ids=["rows", "validation_rows"])
def test_row_numbers_out_of_range(place, rows):
    function, arguments = valid_calls("float64")["train"]
    arguments[place] = rows
    accepted = survives(function, *arguments)
    nothing_to_train_on = place == 5 and rows.size == 0
    assert accepted == (bool(((rows >= 0) & (rows < 5)).all()) and not nothing_to_train_on)


@pytest.mark.parametrize("option", OPTIONS)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, -1, 0, 0.5, None, "", "nope", [], *HUGE])
def test_every_option_with_a_strange_value(option, value):
    function, arguments = valid_calls("float64")["train"]
    arguments[8][option] = value
    if not would_run_for_ages(arguments):
        survives(function, *arguments)


OUTPUTS = [
    ("apply_optimizer", 4, None),
    ("apply_optimizer", 6, 0),
    ("apply_optimizer", 6, 1),
    ("apply", 0, None),
    ("apply", 6, 0),
    ("apply", 6, 1),
    ("train", 0, None),
    ("train", 1, 0),
    ("train", 1, 1),
    ("shuffle", 0, None),
]


@pytest.mark.parametrize(("name", "place", "slot"), OUTPUTS)
def test_what_is_written_to_must_be_writable_where_it_lies(name, place, slot):
    """Read-only memory, and anything the core would have to copy: results written to a copy would be lost silently."""
    for spoil in (
        lambda a: np.broadcast_to(a, a.shape),
        lambda a: np.repeat(a, 2)[::2],
        lambda a: a[::-1],
        lambda a: a.astype(a.dtype.newbyteorder()),
        lambda a: a.astype(np.float32),
        lambda a: a.tolist(),
    ):
        function, arguments = valid_calls("float64")[name]
        if slot is None:
            arguments[place] = spoil(arguments[place])
        else:
            arguments[place][slot] = spoil(arguments[place][slot])
        with pytest.raises((TypeError, ValueError)):
            function(*arguments)


@pytest.mark.parametrize("name", ["predict", "loss_and_gradient", "apply_loss", "apply_activation"])
@given(data=st.data())
def test_inputs_are_never_written_to(name, data):
    function, arguments = valid_calls("float64")[name]
    place = data.draw(st.integers(0, len(arguments) - 1))
    arguments[place] = data.draw(spoiled(arguments[place]))
    arrays = [a for a in arguments if isinstance(a, np.ndarray)]
    before = [a.copy() for a in arrays]
    survives(function, *arguments)
    for array, was in zip(arrays, before, strict=True):
        np.testing.assert_array_equal(array, was)


def test_an_engine_is_not_entered_twice():
    """A callback that uses the engine it is called from gets an answer or an error, not a hang or a crash."""
    engine = _core.Engine(_core.Network([3, 4, 2], ["tanh"], "log_loss"), "float64", 2)
    _, (flat, slots, X, y, weights, rows, held_out, generator, options, _) = valid_calls("float64")["train"]

    def on_epoch(*_):
        engine.predict(flat, X)

    with contextlib.suppress(RuntimeError):
        engine.train(flat, slots, X, y, weights, rows, held_out, generator, options, on_epoch)
