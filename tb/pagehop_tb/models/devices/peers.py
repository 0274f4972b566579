"""Two functions that tell each other by a way of their own what they have written."""

from random import Random

from pagehop_tb.models.device import DeviceFunction
from pagehop_tb.models.values import UniqueValues

__all__ = ["PeerPair"]

_LINE = 64


class PeerPair:
    """``first`` writes, tells ``second`` below the port, and ``second`` reads it; then the other way round (H22, H24d).

    What is told has been queued on the common link before, and without IDO nothing of either may pass it. ``places`` are addresses of pages.
    Raises :class:`AssertionError` when the reader sees something else.

    *Members*: ``rounds`` that were right; ``stop`` ends the run.
    """

    def __init__(self, first: DeviceFunction, second: DeviceFunction, places: list[int], values: UniqueValues, seed: int, gap: int = 300) -> None:
        if first.config.traffic_class != second.config.traffic_class:
            raise ValueError("Peers must have one traffic class: between two there is no order")
        self.functions = (first, second)
        self.places, self.values, self.gap = places, values, gap
        self.random = Random(seed)
        self.stop = False
        self.rounds = 0

    async def run(self, count: int | None = None) -> None:
        """Go on for ``count`` rounds, or until :attr:`stop`."""
        while not self.stop and (count is None or self.rounds < count):
            writer, reader = self.functions if self.rounds % 2 else self.functions[::-1]
            lines = self.random.choice((1, 1, 2, 4))
            address = self.random.choice(self.places) + self.random.randrange(0, 4096 - lines * _LINE + 1, _LINE)
            data = self.values.take(address, lines * _LINE)
            await writer.write(address, data, ro=self.random.random() < 0.2)
            found = await reader.read(address, len(data))
            assert found == data, f"{reader.name} was told of a write by {writer.name} to {address:#x} and read something else"
            self.rounds += 1
            await writer.fabric.wait(self.random.randint(1, self.gap))
