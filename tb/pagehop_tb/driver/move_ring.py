"""The driver's side of the move queue: a ring of descriptors in the hypervisor's memory, and a record for each move that has ended."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from pagehop_tb.driver import interposer_registers as regs
from pagehop_tb.driver.api import MemoryAccess, MoveResult
from pagehop_tb.driver.interposer import PAGE_BITS, DriverError, InterposerDriver, command, result

__all__ = ["DESCRIPTOR_BYTES", "MoveRing", "RingSetup"]

DESCRIPTOR_BYTES, RECORD_BYTES = 32, 16
COUNTS = 1 << 16
#: Cycles between two looks at the next records.
LOOK_CYCLES = 20


@dataclass(frozen=True)
class RingSetup:
    """A ring of 2 to the power of ``order`` descriptors at ``base``, with its ``records``, in the memory of ``host``; ``slots`` make the moves."""

    base: int
    records: int
    order: int
    host: int = 0
    slots: Sequence[int] = (0,)


@dataclass
class _Queued:
    page: int
    to_host: int
    page_size: int
    ended: Callable[[int, MoveResult], None]


class MoveRing:
    """Puts moves into the ring and tells how each ended. The slots of the ring are its own: start no moves there by :meth:`InterposerDriver.move`."""

    def __init__(self, driver: InterposerDriver, memory: MemoryAccess, setup: RingSetup) -> None:
        self.driver, self.memory, self.setup = driver, memory, setup
        self.tail = self.done = 0
        self._queued: dict[int, _Queued] = {}       # by place in the ring

    async def start(self) -> None:
        """Clear the records and enable the queue. It must be idle."""
        setup, control, write = self.setup, regs.QueueControl, self.driver.registers.write
        self.memory.write(setup.records, bytes(RECORD_BYTES << setup.order))
        await write(regs.QueueBase.offset, setup.base)
        await write(regs.QueueRecords.offset, setup.records)
        await write(regs.QueueTail.offset, 0)
        await write(control.offset, control.ENABLE.of(1) | control.HOST.of(setup.host) | control.ORDER.of(setup.order)
                    | control.SLOTS.of(sum(1 << slot for slot in setup.slots)))
        self.tail = self.done = 0

    async def stop(self) -> None:
        """Disable the queue and wait until nothing of it is on its way. What no slot has taken ends as aborted."""
        control, status = regs.QueueControl, regs.QueueStatus
        value = await self.driver.registers.read(control.offset)
        await self.driver.registers.write(control.offset, value & ~control.ENABLE.mask)
        pause = self.driver.pauses("the move queue to be idle", LOOK_CYCLES)
        while not status.IDLE.get(word := await self.driver.registers.read(status.offset)):
            await pause()
        # The last records may be on their way still, when they go to another host than the one that asks.
        self.look()
        pause = self.driver.pauses(f"record {status.DONE.get(word)} of the move queue", LOOK_CYCLES)
        while self.done != status.DONE.get(word):
            await pause()
            self.look()
        error = regs.MoveError.ABORTED
        for place in list(self._queued):
            self._end(place, MoveResult(False, int(error), error.name.lower(), 0, 0))

    async def failed(self) -> bool:
        """Whether the interposer could not read a descriptor, and the queue stands still until it is stopped."""
        return bool(regs.QueueStatus.ERROR.get(await self.driver.registers.read(regs.QueueStatus.offset)))

    @property
    def can_put(self) -> bool:
        """The next place of the ring is free: moves end in any order, so places become free in any order too."""
        return self.tail & (1 << self.setup.order) - 1 not in self._queued

    def put(self, page: int, to_host: int, mode: int, ended: Callable[[int, MoveResult], None], page_size: int = PAGE_BITS) -> None:
        """Write the descriptor of a move of 2 to the power of ``page_size`` bytes. It begins after :meth:`ring`; ``ended`` is called with the page
        and the result. Unmap the page before."""
        place, driver = self.tail & (1 << self.setup.order) - 1, self.driver
        if not self.can_put:
            raise DriverError(f"The move in place {place} of the ring, the next, has not ended")
        words = (driver.place(page, 0), driver.target(page, to_host), command(to_host, mode, page_size), self.tail)
        self.memory.write(self.setup.base + DESCRIPTOR_BYTES * place, b"".join(word.to_bytes(8, "little") for word in words))
        driver.move_begins(page, to_host, mode, page_size)
        self._queued[place] = _Queued(page, to_host, page_size, ended)
        self.tail = (self.tail + 1) % COUNTS

    async def ring(self) -> None:
        """Tell the interposer of what was put into the ring."""
        await self.driver.registers.write(regs.QueueTail.offset, self.tail)

    async def wait(self) -> int:
        """Wait until a record comes and take what has come, as :meth:`look` does. Raises :class:`DriverError` when none comes."""
        pause = self.driver.pauses("a record of the move queue", LOOK_CYCLES)
        while not (found := self.look()):
            await pause()
        return found

    def look(self) -> int:
        """Take the records that have come, tell of the moves, and return how many."""
        found = 0
        for place in list(self._queued):
            raw = self.memory.read(self.setup.records + RECORD_BYTES * place, RECORD_BYTES)
            word, counts = int.from_bytes(raw[:8], "little"), int.from_bytes(raw[8:], "little")
            index = word >> 16 & COUNTS - 1
            begun = self._begun(place)
            if (word >> 15 & 1) == (begun >> self.setup.order & 1):
                continue    # what stands there is of the turn before
            if index != begun or regs.MoveStatus.DONE.get(word) == regs.MoveStatus.FAILED.get(word):
                raise DriverError(f"The record in place {place} is {word:#018x}, which is none of descriptor {begun}")
            self._end(place, result(word, counts))
            found += 1
        self.done = (self.done + found) % COUNTS
        return found

    def _end(self, place: int, result: MoveResult) -> None:
        queued = self._queued.pop(place)
        self.driver.move_ends(queued.page, queued.to_host, queued.page_size, result)
        queued.ended(queued.page, result)

    def _begun(self, place: int) -> int:
        """Number of the descriptor that stands at ``place``: the last one there before the tail."""
        size = 1 << self.setup.order
        return (self.tail - 1 - (self.tail - 1 - place) % size) % COUNTS
