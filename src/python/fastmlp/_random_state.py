"""Random numbers: a RandomState of NumPy, as scikit-learn has them, and its stream for the core."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from numbers import Integral
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.random.bit_generator import ISeedSequence
from sklearn.utils import check_random_state

from fastmlp import _core

if TYPE_CHECKING:
    from numpy.typing import DTypeLike, NDArray


class RandomNumbers:
    """The random numbers of one training: NumPy's generator, and the same numbers as a stream for the core.

    To make a generator and to hand its state over takes longer than to train an epoch of a small network. So where the
    seed is a number, the generator is made and brought up to date only when something is drawn from it.

    Parameters
    ----------
    seed : None, int or RandomState
        As in scikit-learn: None is the generator of ``numpy.random``.
    """

    def __init__(self, seed: Any) -> None:
        self._seed = int(seed) if isinstance(seed, Integral) else seed
        self._generator: np.random.RandomState | None = None
        self._ahead: _core.MT19937 | None = None  # the stream, where the generator has not followed yet

    @property
    def is_own(self) -> bool:
        """Whether the seed is a number, so that nobody else draws from the generator."""
        return isinstance(self._seed, int)

    @property
    def random_state(self) -> np.random.RandomState:
        """The generator."""
        if self._generator is None:
            self._generator = random_state_of(self._seed)
        if self._ahead is not None:
            _advance(self._generator, self._generator.get_state(legacy=False), self._ahead)
            self._ahead = None
        return self._generator

    @contextmanager
    def stream(self) -> Iterator[_core.MT19937]:
        """Lend the numbers to the core; afterwards the generator stands where scikit-learn would have left it.

        A RandomState over another bit generator than MT19937 has no stream that the core can draw: it seeds one.
        """
        if self.is_own and self._generator is None:
            self._ahead = self._ahead or _core.MT19937(self._seed)
            yield self._ahead
            return
        generator = self.random_state
        state = generator.get_state(legacy=False)
        if state["bit_generator"] != "MT19937":
            seed = generator.randint(2**32, size=4, dtype=np.uint32)
            yield _twin(np.random.RandomState(seed).get_state(legacy=False))
            return
        stream = _twin(state)
        try:
            yield stream
        finally:
            if self.is_own:
                self._ahead = stream
            else:  # others may draw at any time
                _advance(generator, state, stream)


def random_state_of(seed: Any) -> np.random.RandomState:
    """Return scikit-learn's ``check_random_state(seed)``.

    NumPy takes longer to make the generator of a number than to train an epoch of a small network: it first fills its
    state by another algorithm, of which nothing is left when the generator is seeded.
    """
    random_state: np.random.RandomState
    if type(seed) is not int:
        random_state = check_random_state(seed)
    else:
        unseeded: Any = _Unseeded()  # NumPy's stubs know only one kind of seed sequence
        random_state = np.random.RandomState(np.random.MT19937(unseeded))
        random_state.seed(seed)
    return random_state


class _Unseeded(ISeedSequence):
    """Fills the state of a generator that will be seeded."""

    def generate_state(self, n_words: int, dtype: DTypeLike = np.uint32) -> NDArray[Any]:
        """Return so many words."""
        return np.zeros(n_words, dtype)


def _twin(state: dict[str, Any]) -> _core.MT19937:
    """Return a stream of the numbers that a generator in this state would draw."""
    return _core.MT19937(state["state"]["key"], state["state"]["pos"])


def _advance(generator: np.random.RandomState, state: dict[str, Any], stream: _core.MT19937) -> None:
    """Have a generator, in this state, stand where a stream does."""
    key, pos = stream.state
    generator.set_state({**state, "state": {"key": key, "pos": pos}})
