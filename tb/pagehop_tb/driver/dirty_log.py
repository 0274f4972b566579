"""Driver of the dirty log in a host's memory, with the semantics of a report of VFIO."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from pagehop_tb.driver import interposer_registers as regs
from pagehop_tb.driver.api import MemoryAccess
from pagehop_tb.driver.interposer import LOOK_CYCLES, PAGE, PAGE_BITS, DriverError, InterposerDriver

__all__ = ["DirtyLog", "LoggedRange", "LoggedTables"]

WORD_BYTES = 8


@dataclass(frozen=True)
class LoggedRange:
    """``pages`` pages of 4 KiB from the address ``base`` of the device on, with a bit for each 2 to the power of ``shift`` bytes at ``bitmap``, and
    where turns are taken at ``second`` too."""

    base: int
    pages: int
    shift: int
    bitmap: int = 0
    second: int = 0

    @property
    def units(self) -> int:
        """Units that have a bit."""
        return -(-self.pages * PAGE >> self.shift)


@dataclass(frozen=True)
class LoggedTables:
    """Page tables of the device's addresses: number of the root's page, whether they have four levels, where the leaf of an address is, its D."""

    ppn: int
    deep: bool
    place: Callable[[int], int]
    dirty: int


class DirtyLog:
    """Logs what the device writes to ``ranges``, in bitmaps in the ``memory`` of ``host``: with ``ping_pong`` in turns, without by atomics; or in
    ``tables`` there.

    No access of another comes between two calls of ``memory`` without an await; ``between`` is awaited between two words that software takes. What
    was written before :meth:`start` is visible when that returns, so copy everything then. An error makes everything dirty, and the log starts anew.
    """

    def __init__(self, driver: InterposerDriver, memory: MemoryAccess, host: int, ranges: Sequence[LoggedRange], ping_pong: bool = False,
                 between: Callable[[], Awaitable[None]] | None = None, tables: LoggedTables | None = None) -> None:
        most = regs.LogBase.array.words
        if len(ranges) > most:
            raise DriverError(f"The log has {most} ranges, not {len(ranges)}")
        self.driver, self.memory, self.host, self.ranges, self.ping_pong, self.between = driver, memory, host, tuple(ranges), ping_pong, between
        self.tables = tables
        #: Bits that were taken and not reported, of each range.
        self.taken = [0] * len(ranges)
        #: Why everything was dirty, every time.
        self.errors: list[regs.LogError] = []

    async def start(self) -> None:
        """Clear the bitmaps or entries, switch the log on, and wait until all that was written before is visible."""
        for one in self.ranges:
            for address in range(one.base, one.base + one.pages * PAGE, PAGE) if self.tables else ():
                self._take_entry(address)
            for bitmap in () if self.tables else (one.bitmap, one.second) if self.ping_pong else (one.bitmap,):
                self.memory.write(bitmap, bytes(self._bytes(one)))
        for number in range(regs.LogBase.array.words):
            one = self.ranges[number] if number < len(self.ranges) else LoggedRange(0, 0, PAGE_BITS, 0)
            for array, value in ((regs.LogBase.array, one.base), (regs.LogBitmap.array, one.bitmap), (regs.LogSecond.array, one.second),
                                 (regs.LogSize.array, regs.LogSize.PAGES.of(one.pages) | regs.LogSize.SHIFT.of(one.shift))):
                await self.driver.registers.write(array.at(number), value)
        control, mode = regs.LogControl, regs.LogControl.PING_PONG.of(self.ping_pong)
        if self.tables:
            await self.driver.registers.write(regs.LogRoot.offset, regs.LogRoot.PPN.of(self.tables.ppn) | regs.LogRoot.DEEP.of(self.tables.deep))
            mode = control.TABLES.of(1)
        await self.driver.registers.write(control.offset, control.ENABLE.of(1) | control.HOST.of(self.host) | mode)
        await self._sync()
        self._tell_all(self.driver.now())

    async def stop(self) -> None:
        """Switch the log off. What was not taken is forgotten."""
        await self.driver.registers.write(regs.LogControl.offset, 0)

    async def take(self) -> None:
        """Take the bits of all ranges: of all that is visible when this is called, and of nothing that is not visible when it returns."""
        issued = self.driver.now()
        status = await self._sync()
        found = [await self._take(one, 1 - regs.LogStatus.ACTIVE.get(status) if self.ping_pong else 0) for one in self.ranges]
        if not self.ping_pong:
            status = await self._sync()
        error = regs.LogError(regs.LogStatus.ERROR.get(status))
        if bool(error) != bool(regs.LogStatus.EVERYTHING_DIRTY.get(status)):
            raise DriverError(f"The log must name an error when everything is dirty, and none otherwise, but its status is {status:#x}")
        if error:
            self.errors.append(error)
            await self.stop()
            await self.driver.registers.read(regs.LogStatus.offset)
            await self.start()
            found = [(1 << one.units) - 1 for one in self.ranges]
        for number, (one, bits) in enumerate(zip(self.ranges, found, strict=True)):
            self.taken[number] |= bits
            self._tell(one, issued, self._pages(one, bits))

    async def report(self, base: int, length: int, page_bytes: int, bitmap: bytearray) -> None:
        """Take what is dirty, and set in ``bitmap`` the bits of the dirty pages of ``page_bytes`` from ``base`` on, as VFIO and iommufd do: bit
        *n* of little-endian words is page *n*, and no bit is cleared. A unit that lies only partly there is reported again."""
        await self.take()
        for number, one in enumerate(self.ranges):
            unit = 1 << one.shift
            for place in (bit for bit in range(one.units) if self.taken[number] >> bit & 1):
                # The last unit of a range may end behind it.
                start, stop = one.base + place * unit, min(one.base + (place + 1) * unit, one.base + one.pages * PAGE)
                first, end = max(base, start), min(base + length, stop)
                if first >= end:
                    continue
                for page in range((first - base) // page_bytes, -(-(end - base) // page_bytes)):
                    bitmap[page // 8] |= 1 << page % 8
                if (first, end) == (start, stop):
                    self.taken[number] &= ~(1 << place)

    @staticmethod
    def _bytes(one: LoggedRange) -> int:
        return -(-one.units // (8 * WORD_BYTES)) * WORD_BYTES

    async def _sync(self) -> int:
        """Sync, and return the status at its end."""
        await self.driver.registers.write(regs.LogCommand.offset, regs.LogCommand.SYNC.of(1))
        pause = self.driver.pauses("the log to be true", LOOK_CYCLES)
        while regs.LogStatus.BUSY.get(status := await self.driver.registers.read(regs.LogStatus.offset)):
            await pause()
        return status

    async def _take(self, one: LoggedRange, side: int) -> int:
        """Read and clear the words of a bitmap, or the D of entries: each in one atomic step, or when nobody else writes there."""
        found, bitmap = 0, one.second if side else one.bitmap
        if self.tables:
            for unit in range(one.units):
                if self._take_entry(one.base + unit * PAGE):
                    found |= 1 << unit
                    if self.between is not None:
                        await self.between()
            return found
        for offset in range(0, self._bytes(one), WORD_BYTES):
            word = self.memory.read(bitmap + offset, WORD_BYTES)
            self.memory.write(bitmap + offset, bytes(WORD_BYTES))
            found |= int.from_bytes(word, "little") << 8 * offset
            if self.between is not None:
                await self.between()
        return found

    def _take_entry(self, address: int) -> bool:
        """Clear D of the entry of a page, in one step. Returns whether it was set."""
        assert self.tables is not None
        place = self.tables.place(address)
        entry = int.from_bytes(self.memory.read(place, WORD_BYTES), "little")
        if dirty := bool(entry & self.tables.dirty):
            self.memory.write(place, (entry & ~self.tables.dirty).to_bytes(WORD_BYTES, "little"))
        return dirty

    @staticmethod
    def _pages(one: LoggedRange, bits: int) -> int:
        """Bits of pages of 4 KiB."""
        if one.shift == PAGE_BITS:
            return bits
        result = 0
        for page in range(one.pages):
            first, end = (page * PAGE) >> one.shift, ((page + 1) * PAGE - 1) >> one.shift
            result |= int(any(bits >> unit & 1 for unit in (first, end))) << page
        return result

    def _tell_all(self, issued: int) -> None:
        for one in self.ranges:
            self._tell(one, issued, (1 << one.pages) - 1)

    def _tell(self, one: LoggedRange, issued: int, pages: int) -> None:
        assert self.driver.setup_done is not None, "set up the interposer first"
        first = (one.base - self.driver.setup_done.window_base) // PAGE
        self.driver.observer.harvest(self.driver.now(), issued, first, pages, one.pages, True)
