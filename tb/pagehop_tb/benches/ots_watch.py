"""Dirty tracking by leaf reads: the on-the-side device has the leaves of a guest, and what the IOMMU reads of them tells which pages devices use.

Software harvests again and again, as a migration does before its last round: it takes the dirty bits, lets the IOMMU forget the pages that they
name, waits for what was written by then, and copies these pages. At the end it does so once more. The copy must be what devices have written: a
page that was missed once is old there (H28). What has become visible between two harvests was written by translations that were read after the
first: the second must name its page. Pages that were copied without need are counted. A large page, of 2 MiB, has one leaf, a level above the
others, and is marked and copied as a whole; these are counted apart.
"""

from collections import Counter
from collections.abc import Iterable
from typing import Any

import cocotb
from cocotb.task import Task
from cocotb.triggers import TaskManager

from pagehop_tb.benches.frame import BenchConfig
from pagehop_tb.benches.guest import PAGE, judged
from pagehop_tb.benches.ots_migration import LARGE, Guest
from pagehop_tb.benches.trace import read_accesses, touched_pages
from pagehop_tb.checker.log import Kind
from pagehop_tb.driver import ots_registers as regs
from pagehop_tb.driver.ots_leaves import WORD
from pagehop_tb.models.devices import RandomTraffic, TraceReplay


class Watcher:
    """Harvests the leaf tables of ``guest``, and keeps a copy of the guest's pages. Without ``forgets`` the IOMMU is not told to forget what was
    taken.

    *Members*: ``harvests``; ``small`` and ``large``, by the size of the pages, have of all harvests: ``reported``, dirty leaves, ``written``, leaves
    whose pages were written since the one before, and ``needless``, those that were reported and not written.
    """

    def __init__(self, guest: Guest, *, forgets: bool = True) -> None:
        self.guest, self.forgets = guest, forgets
        self.small, self.large = Counter[str](), Counter[str]()
        self.harvests = self._seen = 0
        self._copy = {page: self._read(page) for page in guest.entries}

    def _read(self, page: int) -> bytes:
        return self.guest.memory.read(page * PAGE, PAGE)

    async def harvest(self) -> None:
        """Take the dirty bits and copy what they name."""
        visible = {event[3] // PAGE for event in self.guest.log.events[self._seen:] if event[0] in (Kind.PERFORMED_WRITE, Kind.PERFORMED_ATOMIC)}
        pages = await self.guest.leaves.harvest(self._copy, forgets=self.forgets)
        written = self._written()
        for page in pages:
            self._copy[page] = self._read(page)
        unnamed = visible & self._copy.keys() - pages
        assert not unnamed, f"page {min(unnamed)} was written since the last harvest, and was never reported"
        self.harvests += 1
        for counts, large in ((self.small, False), (self.large, True)):
            reported, used = self.leaves(pages, large), self.leaves(written, large)
            counts.update(reported=len(reported), written=len(used), needless=len(reported - used))

    def leaves(self, pages: Iterable[int], large: bool) -> set[int]:
        """Leaves of those of these pages that are large, or are not."""
        return {self.guest.leaves.leaf(page) for page in pages if self.guest.is_large(page) == large}

    def _written(self) -> set[int]:
        """Pages that devices have written since the last call, also those of which that is not visible yet."""
        events = self.guest.log.events[self._seen:]
        self._seen += len(events)
        # No request crosses a boundary of a page.
        written = {event[3] // PAGE for event in events if event[0] in (Kind.DEVICE_WRITE, Kind.DEVICE_ATOMIC)}
        return written & self._copy.keys()    # interrupts go elsewhere

    async def strays(self) -> list[int]:
        """Leaves that are marked as used, and lead nowhere (H29)."""
        leaves = {self.guest.leaves.leaf(page) for page in self.guest.entries}
        marked = []
        for word in sorted({leaf // WORD for leaf in leaves}):
            bits = await self.guest.registers.read(regs.PEEK_ACCESSED.offset + WORD // 8 * word)
            marked += [WORD * word + bit for bit in range(WORD) if bits >> bit & 1]
        assert marked, "nothing was used"
        return [leaf for leaf in marked if leaf not in leaves]

    def missed(self) -> list[int]:
        """Pages whose copy is not what stands in memory."""
        return [page for page, copy in self._copy.items() if copy != self._read(page)]


@cocotb.test(timeout_time=100, timeout_unit="ms")
async def ots_watch(dut: Any) -> None:
    """No page that is written is missed. ``storm``: devices access pages at random, ``accesses`` times; else they replay the trace ``passes``
    times. ``large``: share of the regions of 2 MiB that are one page each."""
    config = BenchConfig("ots_watch")
    assert config.trace is not None, "ots_watch needs a trace"
    accesses = read_accesses(config.trace)
    gap, storm, count, passes, every, forgets, share = (config.get(name, value) for name, value in (
        ("gap", 30), ("storm", False), ("accesses", 1000), ("passes", 1), ("every", 4_000), ("forgets", True), ("large", 0.0)))
    touched = touched_pages(accesses, config.covered_pages)
    regions = sorted({page * PAGE // LARGE for page in touched})
    guest = Guest(dut, config, touched, frozenset(config.random("large").sample(regions, round(share * len(regions)))))
    config.refuse_unknown()
    machine = guest.machine
    pages = [page * PAGE for page in touched]
    agents: list[tuple[TraceReplay | RandomTraffic, int]] = [
        (RandomTraffic(function, pages, machine.values, config.number(name), (30, 66, 2, 2), 0.1, 0.0, gap), count // 2) if storm else
        (TraceReplay(function, [access for access in accesses if access.device == name], machine.values, gap=gap), passes)
        for name, function in machine.functions.items()]
    watcher = Watcher(guest, forgets=forgets)

    async def scenario(manager: TaskManager) -> None:
        await guest.start()
        tasks: list[Task[None]] = [manager.start_soon(agent.run(most)) for agent, most in agents]
        while not all(task.done() for task in tasks):
            await machine.fabric.wait(every)
            await watcher.harvest()
            config.progress(watcher.harvests, watcher.harvests + 1, f"{watcher.small['reported']} pages were dirty")
        for task in tasks:
            await task
        await machine.quiesce()
        await watcher.harvest()
        missed = watcher.missed()
        assert not missed, f"{len(missed)} pages were written and never reported, the first is page {missed[0]}"
        assert watcher.harvests > 1, "there was one harvest only"
        strays = await watcher.strays()
        assert not strays, f"{len(strays)} entries that are no leaf are marked as used, the first is {strays[0]}"
        for name, counts in (("pages", watcher.small), ("large pages", watcher.large)):
            cocotb.log.info(f"{watcher.harvests} harvests, {counts['reported']} dirty {name}, {counts['needless']} without a write since the last")

    await judged(guest, scenario, {"read_bytes": 1, "final_bytes": len(touched) * PAGE})
    missed = watcher.missed()
    config.write({"dirty": {
        "pages_written": watcher.small["written"], "pages_reported": watcher.small["reported"], "missed": len(watcher.leaves(missed, False)),
        "false_positive": watcher.small["needless"]}})
    if guest.large:
        found = watcher.large | Counter(missed=len(watcher.leaves(missed, True)))
        config.write_values({
            f"large_pages_{name}": {"value": found[name], "limit": limit, "unit": "pages", "better": "lower"}
            for name, limit in (("written", None), ("reported", None), ("missed", 0), ("needless", None))})
