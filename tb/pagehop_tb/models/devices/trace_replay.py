"""A device function that repeats the DMA of a recorded one."""

from collections import deque
from collections.abc import Iterable
from typing import Protocol

from pagehop_tb.models.device import DeviceFunction
from pagehop_tb.models.values import UniqueValues

__all__ = ["Access", "TraceReplay"]


class Access(Protocol):
    """One line of a trace."""

    @property
    def op(self) -> str:
        """``W``: the device writes memory; ``R``: it reads."""

    @property
    def address(self) -> int:
        """First byte, guest-physical."""

    @property
    def length(self) -> int:
        """Bytes, within one page."""

    @property
    def kind(self) -> str:
        """What it was: ``msi`` is an interrupt."""


class TraceReplay:
    """Issues the accesses of one device in their order, as fast as the link takes them, with at most ``depth`` of its reads unanswered.

    Every written dword is unique. ``offset`` is added to the addresses of memory, not to those of interrupts. ``gap`` cycles stand between accesses.

    *Members*: ``issued``, accesses so far; ``written`` and ``read``, their bytes; ``passes``, completed runs through the trace; ``interrupts``
    sent; ``stop`` ends the run after the present access.
    """

    def __init__(self, function: DeviceFunction, accesses: Iterable[Access], values: UniqueValues, depth: int = 8, offset: int = 0,
                 gap: int = 0) -> None:
        self.function = function
        self.accesses = list(accesses)
        self.values = values
        self.depth = depth
        self.offset = offset
        self.gap = gap
        self.stop = False
        self.issued = self.written = self.read = self.passes = self.interrupts = 0

    async def run(self, passes: int | None = None) -> None:
        """Go through the trace ``passes`` times, or until :attr:`stop`. Returns when all reads are answered."""
        reads: deque = deque()
        done = 0
        while not self.stop and (passes is None or done < passes):
            if await self._pass(reads):
                done += 1
                self.passes += 1
        while reads:
            await self.function.finish(reads.popleft())

    async def _pass(self, reads: deque) -> bool:
        """Go through the trace once. Returns whether it came to the end."""
        for access in self.accesses:
            if self.stop:
                return False
            await self._issue(access, reads)
            if self.gap:
                await self.function.fabric.wait(self.gap)
        return True

    async def _issue(self, access: Access, reads: deque) -> None:
        size = access.length
        self.issued += 1
        if access.kind == "msi":
            self.interrupts += 1
            await self.function.interrupt(access.address, self.values.take(access.address, size))
        elif access.op == "W":
            address = access.address + self.offset
            self.written += size
            await self.function.write(address, self.values.take(address, size))
        else:
            if len(reads) >= self.depth:
                await self.function.finish(reads.popleft())
            self.read += size
            reads.append(await self.function.start_read(access.address + self.offset, size))
