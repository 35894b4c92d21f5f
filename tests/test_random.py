"""The Mersenne Twister of the core is NumPy's: the same shuffles, and the same state afterwards."""

import numpy as np
import pytest

from fastmlp._core import MT19937


def twins(random):
    """The core's generator in the state of NumPy's."""
    _, key, pos, *_ = random.get_state()
    return MT19937(key, pos)


def assert_same_state(ours, numpys):
    key, pos = ours.state
    assert key.dtype == np.uint32
    np.testing.assert_array_equal(key, numpys.get_state()[1])
    assert pos == numpys.get_state()[2]


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
