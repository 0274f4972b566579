"""Random delays of a path, from a seeded source."""

from dataclasses import dataclass
from random import Random

__all__ = ["Delay"]


@dataclass(frozen=True, slots=True)
class Delay:
    """Cycles from ``low`` to ``high``; with probability ``rare`` from ``high`` to ``longest`` instead, so that something is always far behind."""

    low: int = 20
    high: int = 200
    rare: float = 0.0
    longest: int = 2000

    def __post_init__(self) -> None:
        if not 0 <= self.low <= self.high or not 0 <= self.rare <= 1 or (self.rare and self.longest < self.high):
            raise ValueError(f"Delay must have 0 <= low <= high <= longest cycles and a probability, not {self}")

    def draw(self, random: Random) -> int:
        """One delay."""
        if self.rare and random.random() < self.rare:
            return self.high + int(random.random() * (self.longest - self.high + 1))
        return self.low + int(random.random() * (self.high - self.low + 1))
