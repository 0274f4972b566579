"""A device function that never leaves one page alone."""

from random import Random

from pagehop_tb.models.device import DeviceFunction
from pagehop_tb.models.values import UniqueValues

__all__ = ["HotPageWriter"]

_PAGE = 4096


class HotPageWriter:
    """Writes the page at ``address`` line by line in random order; each ``reads``-th access reads a line instead.

    Waits up to ``gap`` cycles after each. A share of the writes is ``relaxed``, with RO; a share of the accesses is ``astride``, in two lines.

    *Members*: ``stop`` ends the run; ``count``, accesses so far.
    """

    def __init__(self, function: DeviceFunction, address: int, values: UniqueValues, seed: int, reads: int = 4, line: int = 64,
                 gap: int = 0, relaxed: float = 0.0, astride: float = 0.0) -> None:
        if line not in (16, 32, 64, 128, 256):
            raise ValueError(f"Line must be 16, 32, 64, 128 or 256 bytes, not {line}")
        self.function = function
        self.address = address
        self.values = values
        self.random = Random(seed)
        self.reads = reads
        self.line = line
        self.gap = gap
        self.relaxed = relaxed
        self.astride = astride
        self.stop = False
        self.count = 0

    async def run(self, count: int | None = None) -> None:
        """Make ``count`` accesses, or go on until :attr:`stop`."""
        while not self.stop and (count is None or self.count < count):
            offset = self.random.randrange(0, _PAGE, self.line)
            if self.astride and self.random.random() < self.astride and offset + self.line < _PAGE:
                offset += self.line // 2
            address = self.address + offset
            self.count += 1
            if self.reads and self.count % self.reads == 0:
                await self.function.read(address, self.line)
            else:
                await self.function.write(address, self.values.take(address, self.line), ro=self.random.random() < self.relaxed)
            if self.gap:
                await self.function.link.fabric.wait(1 + self.random.randrange(self.gap))
