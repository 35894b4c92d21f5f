"""Random numbers: a RandomState of NumPy, as scikit-learn has them, and its stream for the core."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.random.bit_generator import ISeedSequence
from sklearn.utils import check_random_state

from fastmlp import _core

if TYPE_CHECKING:
    from numpy.typing import DTypeLike, NDArray


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


@contextmanager
def shuffles_of(random_state: np.random.RandomState) -> Iterator[_core.MT19937]:
    """Lend the stream of ``random_state`` to the core; afterwards it stands where scikit-learn would have left it.

    A RandomState over another bit generator than MT19937 has no stream that the core can draw: it seeds one.
    """
    state: dict[str, Any] = random_state.get_state(legacy=False)
    own = state["bit_generator"] == "MT19937"
    if not own:
        seed = random_state.randint(2**32, size=4, dtype=np.uint32)
        state = np.random.RandomState(seed).get_state(legacy=False)
    stream = _core.MT19937(state["state"]["key"], state["state"]["pos"])
    try:
        yield stream
    finally:
        if own:
            key, pos = stream.state
            random_state.set_state({**state, "state": {"key": key, "pos": pos}})
