"""Patterns of pauses for the streams: each is asked once a beat and says whether this cycle is lost."""

from collections.abc import Callable
from random import Random

__all__ = ["bursts", "sparse"]


def sparse(seed: int, share: float) -> Callable[[], bool]:
    """Pause a random share of the cycles, each on its own."""
    if not 0 <= share < 1:
        raise ValueError(f"Share of paused cycles must be at least 0 and below 1, not {share}")
    random = Random(seed).random
    return lambda: random() < share


def bursts(seed: int, longest: int) -> Callable[[], bool]:
    """Run and pause for stretches of random length, up to ``longest`` cycles each."""
    if longest < 1:
        raise ValueError(f"Longest stretch must be at least 1 cycle, not {longest}")
    random = Random(seed)
    state = [False, 0]

    def paused() -> bool:
        if state[1] == 0:
            state[:] = [not state[0], random.randint(1, longest)]
        state[1] -= 1
        return bool(state[0])

    return paused
