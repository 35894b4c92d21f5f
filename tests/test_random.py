"""Random numbers are NumPy's: generators of numbers, and in the core the same shuffles and the same state after."""

import copy
import pickle

import numpy as np
import pytest

from fastmlp import MLPClassifier
from fastmlp._core import MT19937
from fastmlp._random_state import RandomNumbers, random_state_of


def twins(random):
    """The core's generator in the state of NumPy's."""
    _, key, pos, *_ = random.get_state()
    return MT19937(key, pos)


def assert_same_state(ours, numpys):
    key, pos = ours.state
    assert key.dtype == np.uint32
    np.testing.assert_array_equal(key, numpys.get_state()[1])
    assert pos == numpys.get_state()[2]


@pytest.mark.parametrize("seed", [0, 1, 42, 2**31, 2**32 - 1])
def test_generator_of_a_number_is_numpys(seed):
    ours, numpys = random_state_of(seed), np.random.RandomState(seed)
    for random in (ours, pickle.loads(pickle.dumps(ours)), copy.deepcopy(ours)):
        expected = copy.deepcopy(numpys)
        np.testing.assert_array_equal(random.get_state()[1], expected.get_state()[1])
        np.testing.assert_array_equal(random.normal(size=3), expected.normal(size=3))
        np.testing.assert_array_equal(random.randint(10**9, size=700), expected.randint(10**9, size=700))


@pytest.mark.parametrize("seed", [-1, 2**32])
def test_numbers_that_numpy_refuses(seed):
    with pytest.raises(ValueError, match="Seed must be between 0 and 2"):
        random_state_of(seed)


def test_other_seeds_are_scikit_learns():
    random = np.random.RandomState(3)
    assert random_state_of(random) is random
    assert random_state_of(None) is np.random.mtrand._rand
    assert random_state_of(np.int64(3)).randint(10**9) == np.random.RandomState(3).randint(10**9)
    with pytest.raises(ValueError, match="cannot be used to seed"):
        random_state_of("3")


def order_drawn_from(stream, n=50):
    order = np.arange(n)
    stream.shuffle(order)
    return order


@pytest.mark.parametrize("seed", [0, 7, np.int64(2**32 - 1)])
@pytest.mark.parametrize("first", ["generator", "stream"])
def test_generator_and_stream_of_a_number_take_turns(seed, first):
    ours, numpys = RandomNumbers(seed), np.random.RandomState(seed)
    if first == "generator":
        assert ours.random_state.normal() == numpys.normal()  # it keeps another one ready
    for _ in range(3):
        with ours.stream() as stream:
            np.testing.assert_array_equal(order_drawn_from(stream), numpys.permutation(50))
    assert ours.random_state.normal() == numpys.normal()
    assert ours.random_state.uniform() == numpys.uniform()


def test_a_generator_of_the_user_has_moved_on():
    """Also after an error, and before anyone asks."""
    user, numpys = np.random.RandomState(5), np.random.RandomState(5)
    numbers = RandomNumbers(user)
    assert not numbers.is_own
    assert numbers.random_state is user

    def fail():
        with numbers.stream() as stream:
            np.testing.assert_array_equal(order_drawn_from(stream), numpys.permutation(50))
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert user.uniform() == numpys.uniform()


def test_another_bit_generator_seeds_a_stream():
    user, numpys = (np.random.RandomState(np.random.PCG64(3)) for _ in range(2))
    seeded = np.random.RandomState(numpys.randint(2**32, size=4, dtype=np.uint32))
    with RandomNumbers(user).stream() as stream:
        np.testing.assert_array_equal(order_drawn_from(stream), seeded.permutation(50))
    assert user.uniform() == numpys.uniform()


@pytest.mark.parametrize("seed", [0, 1, 42, 2**31, 2**32 - 1])
def test_stream_of_a_number_is_numpys(seed):
    assert_same_state(MT19937(seed), np.random.RandomState(seed))


@pytest.mark.parametrize("seed", [-1, 2**32])
def test_numbers_that_the_stream_refuses(seed):
    with pytest.raises(ValueError, match="Seed must be between 0 and 2"):
        MT19937(seed)


def test_a_pickled_model_goes_on_alike():
    X, y = np.random.RandomState(0).normal(size=(40, 3)), np.arange(40) % 2
    model = MLPClassifier((4,), batch_size=7, random_state=0, max_iter=1)
    other = pickle.loads(pickle.dumps(model.fit(X, y)))
    for a, b in zip(model.partial_fit(X, y).coefs_, other.partial_fit(X, y).coefs_, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("n", [0, 1, 2, 3, 10, 623, 624, 625, 626, 1000, 100_000])
@pytest.mark.parametrize("seed", [0, 42, 2**32 - 1])
def test_shuffle_is_numpys(seed, n):
    numpys = np.random.RandomState(seed)
    ours = twins(numpys)
    for _ in range(3):
        expected, actual = np.arange(n), np.arange(n)
        numpys.shuffle(expected)
        assert ours.shuffle(actual) is None
        np.testing.assert_array_equal(actual, expected)
        assert_same_state(ours, numpys)


@pytest.mark.parametrize("n_drawn", [1, 311, 622, 623, 624])
def test_from_the_middle_of_a_block(n_drawn):
    numpys = np.random.RandomState(7)
    numpys.randint(2**32, size=n_drawn, dtype=np.uint32)
    ours, expected, actual = twins(numpys), np.arange(50), np.arange(50)
    numpys.shuffle(expected)
    ours.shuffle(actual)
    np.testing.assert_array_equal(actual, expected)
    assert_same_state(ours, numpys)


def test_shuffles_compose():
    """Shuffling numbers in place is what scikit-learn does by indexing with a shuffled range, epoch after epoch."""
    numpys = np.random.RandomState(3)
    ours, rows, expected = twins(numpys), np.arange(100), np.arange(100)
    for _ in range(3):
        ours.shuffle(rows)
        expected = expected[numpys.permutation(100)]
    np.testing.assert_array_equal(rows, expected)


def test_state_is_a_copy():
    numpys = np.random.RandomState(5)
    _, key, pos, *_ = numpys.get_state()
    ours = MT19937(key, pos)
    key[:] = 0
    ours.state[0][:] = 0
    assert_same_state(ours, numpys)


@pytest.mark.parametrize(
    ("key", "pos", "error"),
    [
        (np.zeros(623, np.uint32), 0, ValueError),
        (np.zeros((624, 1), np.uint32), 0, ValueError),
        (np.zeros(624, np.uint32), -1, ValueError),
        (np.zeros(624, np.uint32), 625, ValueError),
        (np.zeros(624, np.int64), 0, TypeError),
        ([0] * 624, 0, TypeError),
    ],
)
def test_bad_state_is_refused(key, pos, error):
    with pytest.raises(error):
        MT19937(key, pos)


@pytest.mark.parametrize(
    ("rows", "error"),
    [
        (np.arange(4, dtype=np.int32), TypeError),
        (np.arange(4.0), TypeError),
        ([0, 1, 2], TypeError),
        (np.zeros((2, 2), np.int64), ValueError),
    ],
)
def test_only_row_numbers_are_shuffled(rows, error):
    with pytest.raises(error):
        twins(np.random.RandomState(0)).shuffle(rows)


def test_read_only_rows_are_refused():
    rows = np.arange(10)
    rows.flags.writeable = False
    with pytest.raises(ValueError, match="writ"):
        twins(np.random.RandomState(0)).shuffle(rows)
    np.testing.assert_array_equal(rows, np.arange(10))
