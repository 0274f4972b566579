"""Leaf tables of the on-the-side device: entries that walks can be kept waiting for, and dirty tracking by what the IOMMU reads."""

from collections import defaultdict
from collections.abc import Callable, Iterable

from pagehop_tb.driver import ots_registers as regs
from pagehop_tb.driver.api import RegisterAccess
from pagehop_tb.driver.iommu import IommuDriver
from pagehop_tb.driver.ots import OtsError
from pagehop_tb.models.iommu import PAGE, Invalidation, RiscvEntry

__all__ = ["LeafTables"]

#: Leaves of a line, and of a word of a bitmap; bytes of a leaf.
LINE, WORD, LEAF = 8, 64, 8
#: Times that an entry is invalidated again because somebody has got it meanwhile, and commands that are queued at a time.
ATTEMPTS, COMMANDS = 16, 16


class LeafTables:
    """Entries of the pages of a domain, in the device, as :class:`~pagehop_tb.driver.ots.Entries`; and which of the pages devices write.

    Parameters
    ----------
    registers, leaves : the two BARs. iommu : takes invalidations of the domain ``gscid``. leaf : number of the leaf of a page
    holds : walks are kept waiting. Without that a page that leaves its window may be overtaken, as with tables in memory
    """

    def __init__(self, registers: RegisterAccess, leaves: RegisterAccess, iommu: IommuDriver, gscid: int, leaf: Callable[[int], int], *,
                 holds: bool = True) -> None:
        self.registers, self.leaves, self.iommu, self.gscid, self.leaf, self.holds = registers, leaves, iommu, gscid, leaf, holds
        self._line = self._expired = 0

    # Entries.

    async def write(self, page: int, target: int) -> None:
        """Replace the entry, and read it back: then walks see it."""
        offset = LEAF * self.leaf(page)
        await self.leaves.write(offset, RiscvEntry.leaf(target // PAGE, 0).value)
        if RiscvEntry.of(await self.leaves.read(offset)).ppn != target // PAGE:
            raise OtsError(f"The leaf of page {page} does not keep what was written")

    async def forget(self, page: int) -> None:
        """Invalidate and drain. The fence waits for a walk that has begun before, and that may wait at the hold: then it is let through. Of one that
        waited already before the invalidation nothing is kept. What another has got may be: then once more."""
        for _ in range(ATTEMPTS):
            before, passed = await self._waits(), 0

            async def stuck() -> None:
                nonlocal passed
                if await self._waits():
                    passed += 1
                    await self._hold(0)
                    await self._hold(1)

            await self.iommu.order(self._invalidation(page), stuck=stuck)
            if passed <= before:
                return
        raise OtsError(f"The entry of page {page} was asked for again by each of {ATTEMPTS} walks that were let through")

    async def hold(self, page: int) -> bool:
        """Let walks wait for the line of the entry."""
        self._line = self.leaf(page) // LINE
        if self.holds:
            await self._hold(1)
            self._expired = regs.LeafStatus.EXPIRED.get(await self.registers.read(regs.LeafStatus.offset))
        return self.holds

    async def release(self) -> None:
        """Let them go on. Raises :class:`OtsError` when some have by themselves: then the order of what they did is not known."""
        expired = regs.LeafStatus.EXPIRED.get(await self.registers.read(regs.LeafStatus.offset))
        await self._hold(0)
        if expired != self._expired:
            raise OtsError("A walk went on by itself, before what came through the window was visible: the limit of holds is too short")

    async def _hold(self, hold: int) -> None:
        await self.registers.write(regs.LeafHold.offset, regs.LeafHold.LINE.of(self._line) | regs.LeafHold.HOLD.of(hold))

    async def _waits(self) -> int:
        return regs.LeafStatus.WAITING.get(await self.registers.read(regs.LeafStatus.offset))

    def _invalidation(self, page: int) -> Invalidation:
        return Invalidation(func3=1, gv=1, gscid=self.gscid, av=1, page=page)

    # Dirty pages.

    async def harvest(self, pages: Iterable[int], *, forgets: bool = True) -> set[int]:
        """Those of ``pages`` that may have been written since they were harvested last; all that one leaf maps, or none. When it returns, what was
        written to them is visible, and who writes to them again has the entry read again (H28). Leaves in one word are all taken, so pages must be
        harvested together with those. Without ``forgets``, only for what is copied once more after devices have stopped.
        """
        by_leaf: dict[int, list[int]] = defaultdict(list)
        for page in pages:
            by_leaf[self.leaf(page)].append(page)
        dirty: list[list[int]] = []
        for word in sorted({leaf // WORD for leaf in by_leaf}):
            bits = await self.registers.read(regs.TAKE_DIRTY.offset + WORD // 8 * word)
            dirty += [by_leaf[leaf] for leaf in range(WORD * word, WORD * word + WORD) if bits >> leaf % WORD & 1 and leaf in by_leaf]
        if forgets:
            for start in range(0, len(dirty), COMMANDS):
                await self.iommu.order(*(self._invalidation(mapped[0]) for mapped in dirty[start:start + COMMANDS]))
        return {page for mapped in dirty for page in mapped}
