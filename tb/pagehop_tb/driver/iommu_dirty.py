"""Dirty tracking by the D bits of an IOMMU's tables, with the semantics of a report of iommufd."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from pagehop_tb.driver.api import BusError, CoherentMemory, Commands
from pagehop_tb.driver.interposer import DriverError
from pagehop_tb.models.iommu.tables import LEVEL_BITS, PAGE, PAGE_BITS, AtsCommand, Invalidation, Kind, Mode, RiscvEntry

__all__ = ["IommuDirty", "Tables"]

#: How often D of an entry is asked for that somebody changes all the time. What is left of it is in the next report.
ATTEMPTS = 8
#: Payload of an invalidation of everything that a device keeps (PCIe, 10.2.3.2).
EVERYTHING = 0x7FFF_FFFF_FFFF_F800


@dataclass(frozen=True)
class Tables:
    """The tables of one stage, in which hardware sets D (SADE, or GADE): their ``root`` and ``mode``, and the ``gscid`` of a second stage.

    ``devices``: requester IDs of those with an ATC that translate by these tables. ``nested``: the second stage lies below a first one, so these
    devices know other addresses than those of a report.
    """

    root: int
    mode: Mode
    gscid: int | None = None
    devices: Sequence[int] = ()
    nested: bool = False


@dataclass
class _Report:
    """Pages from ``first`` to before ``end``; those that are ``dirty``, and those of leaves whose D was ``cleared``."""

    first: int
    end: int
    clear: bool
    dirty: set[int]
    cleared: set[int]

    def whole(self, start: int, end: int) -> bool:
        """All of these pages are of the report."""
        return self.first <= start and end <= self.end

    def mark(self, start: int, end: int) -> None:
        """These pages, as far as they are of the report, are dirty."""
        self.dirty.update(range(max(self.first, start), min(self.end, end)))


class IommuDirty:
    """Reports pages that devices wrote to by ``tables``, which stay where they are during a report; entries of pages may change at any time (H34).

    A report has all writes that were visible when it was called, and of what it takes away nothing that is not visible when it returns (I12): so
    copy pages after it (H28). What is not known for sure is dirty: that of tables that cannot be read, and of a report whose invalidations were not
    done, which is told again by the next one. One report at a time.
    """

    def __init__(self, memory: CoherentMemory, commands: Commands, tables: Tables) -> None:
        self.memory, self.commands, self.tables = memory, commands, tables
        #: Pages of reports after which devices may have written by translations that were to be forgotten.
        self.unproven: set[int] = set()

    async def report(self, base: int, length: int, page_bytes: int, bitmap: bytearray, clear: bool = True) -> None:
        """Set in ``bitmap`` the bits of the dirty pages of ``page_bytes`` from ``base`` on: bit *n* of little-endian words is page *n*, and no bit is
        cleared. Without ``clear`` all of them stay dirty (NO_CLEAR of iommufd: what is to be unmapped anyway). A leaf that lies only partly there
        is reported again."""
        self._check(base, length, page_bytes, bitmap)
        report = _Report(base // PAGE, (base + length) // PAGE, clear, set(), set())
        await self._table(report, self.tables.root, self.tables.mode.levels - 1, 0)
        if clear:
            await self._settle(report)
        for page in report.dirty:
            unit = (page - report.first) * PAGE // page_bytes
            bitmap[unit // 8] |= 1 << unit % 8

    def _check(self, base: int, length: int, page_bytes: int, bitmap: bytearray) -> None:
        if page_bytes < PAGE or page_bytes & page_bytes - 1:
            raise DriverError(f"A report has pages of a power of two of at least {PAGE} bytes, not of {page_bytes}")
        if length <= 0 or (base | length) % page_bytes:
            raise DriverError(f"A report is of some pages of {page_bytes} bytes, not of {length:#x} bytes from {base:#x}")
        end = 1 << self.tables.mode.bits + (RiscvEntry.ROOT_BITS if self._second else -1)
        if base + length > end:
            raise DriverError(f"A report ends at {end:#x} at the latest, not at {base + length:#x}")
        if len(bitmap) * 8 < length // page_bytes:
            raise DriverError(f"The bitmap must have {length // page_bytes} bits, not {len(bitmap) * 8}")

    @property
    def _second(self) -> bool:
        return self.tables.gscid is not None

    async def _table(self, report: _Report, table: int, level: int, base: int) -> None:
        """What a table says of the pages from ``base`` on."""
        span = 1 << LEVEL_BITS * level
        is_root = level == self.tables.mode.levels - 1
        entries = 1 << LEVEL_BITS + (RiscvEntry.ROOT_BITS if is_root and self._second else 0)
        for start in range(max(base, report.first // span * span), min(base + entries * span, report.end), span):
            place = table + 8 * ((start - base) // span)
            try:
                entry = RiscvEntry.of(await self.memory.read(place))
                if entry.kind(level) is Kind.POINTER:
                    await self._table(report, entry.ppn << PAGE_BITS, level - 1, start)
                else:
                    await self._leaf(report, place, level, start, entry)
            except BusError:
                # D may be gone.
                report.mark(start, start + span)
                report.cleared.update((start, start + span - 1))

    async def _leaf(self, report: _Report, place: int, level: int, page: int, entry: RiscvEntry) -> None:
        """Report a leaf that has D, and take D from it: of the entry as a whole, or not at all."""
        for _ in range(ATTEMPTS):
            if entry.kind(level) is not Kind.LEAF or not entry.dirty:
                return
            size = entry.size(level) // PAGE
            start = page - page % size
            report.mark(start, start + size)
            if not report.clear or not report.whole(start, start + size):
                return
            found = RiscvEntry.of(await self.memory.compare_and_swap(place, entry.value, replace(entry, dirty=0).value))
            if found == entry:
                report.cleared.update((start, start + size - 1))
                return
            entry = found

    async def _settle(self, report: _Report) -> None:
        """Until nobody can write by an entry that had D, and what was written so is visible."""
        if not report.cleared and not self.unproven:
            return
        self.unproven, again = {page for page in self.unproven if not report.whole(page, page + 1)}, self.unproven
        report.dirty.update(again - self.unproven)
        if not await self._forget(None if again else report.cleared):
            report.mark(report.first, report.end)
            self.unproven.update(range(report.first, report.end))

    async def _forget(self, pages: set[int] | None) -> bool:
        """Let the IOMMU, and then devices, forget what leads to these pages, or everything; they may ask again as soon as they have."""
        tables = self.tables
        invalidation = Invalidation(func3=1, gv=1, gscid=tables.gscid) if tables.gscid is not None else Invalidation()
        payload = EVERYTHING if pages is None or tables.nested else _payload(min(pages), max(pages))
        if not await self.commands.execute(invalidation.pack()):
            return False
        return not tables.devices or await self.commands.execute(
            *(AtsCommand(requester=device, payload=payload).pack() for device in tables.devices))


def _payload(first: int, last: int) -> int:
    """What an invalidation says to name these pages and all between: the least power of two of pages, by the lowest 0 from bit 12 on."""
    size = 1 << (first ^ last).bit_length()
    return (first & -size | size // 2 - 1) << PAGE_BITS | 1 << PAGE_BITS - 1 if size > 1 else first << PAGE_BITS
