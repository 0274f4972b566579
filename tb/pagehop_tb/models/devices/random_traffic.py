"""A device function that accesses a set of pages at random."""

from collections import deque
from random import Random

from pagehop_tb.models.device import DeviceFunction
from pagehop_tb.models.values import UniqueValues

__all__ = ["RandomTraffic"]

_PAGE = 4096


class RandomTraffic:
    """Writes, reads, zero-length reads and AtomicOps of random size and alignment in the ``pages`` (their addresses), a share of them with RO or IDO.

    ``mix`` are the weights of write, read, flush and atomic. ``gap`` is the longest pause between two accesses, in cycles. AtomicOps use whole unique
    values, so FetchAdd stands for "add a number that nothing else adds".

    *Members*: ``stop`` ends the run; ``count``, accesses so far.
    """

    def __init__(self, function: DeviceFunction, pages: list[int], values: UniqueValues, seed: int, mix: tuple[int, int, int, int] = (50, 35, 3, 12),
                 relaxed: float = 0.1, id_ordered: float = 0.1, gap: int = 0, depth: int = 8, largest: int = 512) -> None:
        self.function = function
        self.pages = pages
        self.values = values
        self.random = Random(seed)
        self.mix = mix
        self.relaxed = relaxed
        self.id_ordered = id_ordered
        self.gap = gap
        self.depth = depth
        self.largest = largest
        self.stop = False
        self.count = 0

    async def run(self, count: int | None = None) -> None:
        """Make ``count`` accesses, or go on until :attr:`stop`. Returns when all are answered."""
        reads: deque = deque()
        while not self.stop and (count is None or self.count < count):
            await self._access(reads)
            self.count += 1
            while len(reads) > self.depth:
                await self.function.finish(reads.popleft())
            if self.gap:
                await self.function.fabric.wait(self.random.randint(1, self.gap))
        while reads:
            await self.function.finish(reads.popleft())

    async def _access(self, reads: deque) -> None:
        random = self.random
        kind = random.choices(("write", "read", "flush", "atomic"), self.mix)[0]
        page = random.choice(self.pages)
        ro, ido = random.random() < self.relaxed, random.random() < self.id_ordered
        if kind == "atomic":
            size = random.choice((4, 8))
            op = random.choice(("fetch_add", "swap", "cas"))
            address = page + random.randrange(0, _PAGE, size)
            await self.function.atomic(op, address, self.values.take(0, 2 * size if op == "cas" else size))
            return
        size = min(random.choice((1, 4, 8, 13, 16, 64, 64, 100, 128, 256, 512)), self.largest)
        offset = random.randrange(_PAGE - size + 1)
        if random.random() < 0.5:
            offset &= ~63
        if kind == "write":
            await self.function.write(page + offset, self.values.take(page + offset, size), ro=ro, ido=ido)
        else:
            reads.append(await self.function.start_read(page + offset, size if kind == "read" else 0, ro=ro, ido=ido))
