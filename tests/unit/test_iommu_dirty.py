# amaranth: UnusedElaboratable=no
"""Dirty tracking at the IOMMU's core: no write of a device is missed, whatever is harvested and moved meanwhile (I12, H28, H34)."""

from collections import deque

import pytest
from iommu_software import FIRST, IOVA, Software
from modify_machine import DEVICE, MOVED, RECORDS, Command
from test_iommu_top import Guest

from pagehop.iommu.command_queue import CommandQueue
from pagehop.iommu.control import IommuControl
from pagehop.iommu.core import IommuCore
from pagehop.iommu.entry_update import EntryUpdate
from pagehop.iommu.misses import Misses
from pagehop.iommu.modify import ModifyEngine
from pagehop.iommu.page_walk import PageWalk
from pagehop.iommu.translator import Translator
from pagehop_sim.planted import edited
from pagehop_tb.driver import iommu_registers as registers
from pagehop_tb.driver.iommu_dirty import IommuDirty, Tables
from pagehop_tb.models.iommu import PAGE, AddressSpace, DeviceContext, Mode, pages_from
from pagehop_tb.simulate import seeded

GSCID, WORDS, READ, WRITE, TRANSLATED_WRITE, ATS_REQUEST = 5, 4, 2, 3, 7, 8


class Machine(Software):
    """A device that reads and writes its pages, with an ATC when there is ATS, and software that harvests and moves them.

    What is judged: a copy of the pages, of which each page is taken anew when a report says so. A page that it does not say must be in the copy as it
    was when the report was called.
    """
    def __init__(self, name, core=IommuCore, driver=IommuDirty, *, ats=False, second=False, pages=16):
        core = core(modify=True, ats=ats, entries=32)
        super().__init__(seeded(f"dirty/{name}"), core, core, pages=pages, **({"ats": 1} if ats else {}))
        if second:
            self.space = AddressSpace(self.memory, pages_from(0x9000_0000), Mode.SV39, second=True)
            for page in range(pages):
                self.space.map(IOVA + page * PAGE, (FIRST + page) * PAGE)
            self.directory.device(DEVICE, DeviceContext(second_mode=Mode.SV39, second_ppn=self.space.ppn, gscid=GSCID, gade=1, ats=int(ats)))
        self.tables = Tables(self.space.root, Mode.SV39, GSCID if second else None, (DEVICE,) if ats else ())
        self.pages, self.ats, self.second, self.driver_class = pages, ats, second, driver
        self.cycle, self.rate, self.hot, self.mute = 0, 0.0, range(pages), False
        # The device: what it asks, by number; accesses that are not visible; what its ATC has, and what comes to it.
        self.asked, self.open, self.serial, self.cache = {}, {}, 0, {}
        self.down, self.told, self.completions = deque(), [], deque()
        self.drains = None      # accesses that a drain waits for
        self.copy, self.lies, self.moving, self.fresh = {}, {page: FIRST + page for page in range(pages)}, {}, FIRST + 0x1000
        self.counts = dict.fromkeys(("writes", "by_atc", "told", "moved", "clean", "dirty", "commands", "reports"), 0)

    # The device.
    def draw(self, hold):
        """What it asks next: kind, page, and what is to be done then."""
        rng, page = self.rng, self.rng.choice(self.hot)
        word, self.serial = rng.randrange(WORDS), self.serial + 1
        if page in self.cache and rng.random() < 0.7:
            self.counts["by_atc"] += 1
            return TRANSLATED_WRITE, self.cache[page] << 12, page, word
        if self.ats and not hold and rng.random() < 0.4:
            return ATS_REQUEST, IOVA + page * PAGE, page, word
        return rng.choice((READ, WRITE)), IOVA + page * PAGE, page, word

    async def device(self, ctx):
        """A cycle after the other: requests, answers, accesses, and what the ATC is told."""
        dut, offered, free, hold = self.dut, None, list(range(8)), 0
        ctx.set(dut.drained, 1)
        signals = [dut.request.ready, dut.response.valid, dut.response.payload, dut.drain]
        if self.ats:
            ctx.set(dut.invalidations.ready, 1)
            signals += [dut.ats_hold, dut.invalidations.valid, dut.invalidations.payload, dut.completions.ready]
        while not self.stop:
            if offered is None and free and self.rng.random() < self.rate:
                offered = (free.pop(), *self.draw(hold))
                ctx.set(dut.request.payload, {"id": offered[0], "device_id": DEVICE, "iova": offered[2] + 8 * offered[4], "access": offered[1]})
                ctx.set(dut.request.valid, 1)
            _, _, taken, answered, answer, drain, *rest = await ctx.tick().sample(*signals)
            self.cycle += 1
            if offered is not None and taken:
                identity, *self.asked[offered[0]] = offered
                offered = None
                ctx.set(dut.request.valid, 0)
            if answered:
                free.append(answer.id)
                self.answered(answer)
            if self.ats:
                hold = self.atc(ctx, offered, *rest)
            self.perform(ctx, drain)

    def answered(self, answer):
        kind, _, page, word = self.asked.pop(answer.id)
        assert answer.status.value == 0, answer
        found = answer.translation
        if kind == ATS_REQUEST:
            self.down.append((self.cycle + self.rng.randrange(40), page, found.ppn if found.writable else None, None))
        elif kind != READ:
            assert found.writable
            self.serial += 1
            self.counts["writes"] += 1
            late = 200 if self.rng.random() < 0.1 else 40
            self.open[self.serial] = self.cycle + self.rng.randrange(late), page, word, found.ppn

    def atc(self, ctx, offered, hold, tells, told, completed):
        """Translations and invalidations come in their order; an acknowledgement goes behind what was asked before. Returns ``ats_hold``."""
        dut, rng = self.dut, self.rng
        if tells:
            self.down.append((self.cycle + rng.randrange(40), None, told.itag, told.payload))
        while self.down and self.down[0][0] <= self.cycle:
            _, page, found, payload = self.down.popleft()
            if page is None:
                self.told.append([self.cycle + rng.randrange(100), found, payload, None])
            elif found is not None and not any(Guest.names(one[2], page) for one in self.told):
                self.cache[page] = found
        for one in list(self.told):
            if one[0] <= self.cycle and one[3] is None:
                for page in [page for page in self.cache if Guest.names(one[2], page)]:
                    del self.cache[page]
                one[3] = [*self.asked.values(), offered and list(offered[1:])]
            if one[3] is not None and not any(ask in one[3] for ask in (*self.asked.values(), offered and list(offered[1:])) if ask):
                self.told.remove(one)
                self.counts["told"] += 1
                if not self.mute:
                    self.completions.append(one[1])
        if self.completions and completed and ctx.get(dut.completions.valid):
            self.completions.popleft()
        ctx.set(dut.completions.valid, bool(self.completions))
        if self.completions:
            ctx.set(dut.completions.payload, {"requester_id": DEVICE, "itags": 1 << self.completions[0], "count": 1})
        asks = any(ask[0] == ATS_REQUEST for ask in self.asked.values()) or (offered is not None and offered[1] == ATS_REQUEST)
        ctx.set(dut.ats_quiet, hold and not asks)
        return hold

    def perform(self, ctx, drain):
        """What was answered up to a drain is what it waits for."""
        if drain:
            self.drains = set(self.open)
        for serial, (when, _, word, ppn) in list(self.open.items()):
            if when <= self.cycle:
                del self.open[serial]
                self.home.memory.write((ppn << 12) + 8 * word, serial.to_bytes(8, "little"))
        if self.drains is not None:
            self.drains &= set(self.open)
            ctx.set(self.dut.drained, not self.drains and not drain)

    # Software.
    def place(self, page):
        return self.space.place(IOVA + page * PAGE, 0)

    def content(self, page):
        """What the device has in a page."""
        return self.home.memory.read(self.home.word(self.place(page)) >> 10 << 12, 8 * WORDS)

    async def access_word(self, ctx, address, value=None, expected=None):
        access = self.home.access(0, address, value, expected)
        while access.done is None:
            await ctx.tick()
        return access.result

    async def move(self, ctx):
        """Moves of some pages of a line are in the queue."""
        line = self.rng.randrange(0, self.pages, 8)
        pages = self.rng.sample(range(line, line + 8), self.rng.choice((1, 1, 2)))
        tries = self.rng.choice((0, 2))
        for page in pages:
            self.fresh += 1
            self.moving[page] = self.fresh
        await self.publish(ctx, *(half for page in pages for half in Command(
            IOVA + page * PAGE, self.lies[page], self.moving[page], page, more=page != pages[-1], tells=self.ats, tries=tries,
            gscid=GSCID if self.second else 0).halves))

    async def moved(self, ctx):
        """All moves have ended."""
        await self.commands(ctx, limit=20_000)
        for page, ppn in self.moving.items():
            assert self.home.word(RECORDS + 8 * page) & 15 == MOVED, f"page {page}: {self.home.word(RECORDS + 8 * page):#x}"
            self.lies[page] = ppn
        self.counts["moved"] += len(self.moving)
        self.moving = {}

    async def harvest(self, clear=True, bitmap=None):
        """A report of all pages, and what it says against the copy."""
        before = {page: self.content(page) for page in range(self.pages)}
        bitmap = bytearray(-(-self.pages // 8))
        await self.driver.report(IOVA, self.pages * PAGE, PAGE, bitmap, clear)
        self.counts["reports"] += 1
        for page in range(self.pages):
            dirty = bitmap[page // 8] >> page % 8 & 1
            self.counts["dirty" if dirty else "clean"] += 1
            assert dirty or self.copy.get(page) == before[page], f"page {page} was written before, and is in no report"
            if dirty and clear:
                self.copy[page] = self.content(page)

    async def settle(self, ctx):
        self.rate = 0
        while self.asked or self.open or self.told or self.down:
            await ctx.tick()
        await ctx.tick().repeat(100)

    def run(self, test):
        async def prepared(software, ctx):
            self.driver = self.driver_class(_Cpu(self, ctx), _Queue(self, ctx), self.tables)
            if self.ats:
                await self.access(ctx, registers.AtsDevice0.offset, DEVICE | (GSCID if self.second else 0) << 16, size=4)
                await self.access(ctx, registers.AtsStatus.offset, 1)
            await test(software, ctx)
        super().run(prepared, self.device)


class _Cpu:
    """CPU 0, whose accesses are in one order with those of the IOMMU's line."""
    def __init__(self, machine, ctx):
        self.machine, self.ctx = machine, ctx

    async def read(self, address):
        return await self.machine.access_word(self.ctx, address)

    async def write(self, address, value):
        return await self.machine.access_word(self.ctx, address, value)

    async def compare_and_swap(self, address, expected, value):
        return await self.machine.access_word(self.ctx, address, value, expected)


class _Queue:
    def __init__(self, machine, ctx):
        self.machine, self.ctx = machine, ctx

    async def publish(self, *commands):
        await self.machine.publish(self.ctx, *commands)
        return True

    async def execute(self, *commands):
        self.machine.counts["commands"] += len(commands) + 1
        return await self.machine.passes(self.ctx, *commands, limit=20_000)


def races(name, ats, second, rounds=6, **broken):
    machine = Machine(f"races/{name}", ats=ats, second=second, **broken)
    rng = machine.rng

    async def test(machine, ctx):
        await machine.harvest()
        for _ in range(rounds):
            machine.rate, machine.hot = rng.choice((0.05, 0.3, 0.8)), rng.sample(range(machine.pages), rng.randrange(1, 9))
            await ctx.tick().repeat(rng.randrange(1, 300))
            if rng.random() < 0.7:
                await machine.move(ctx)
                await ctx.tick().repeat(rng.choice((1, rng.randrange(1, 60), rng.randrange(1, 1500))))
            await machine.harvest(clear=rng.random() < 0.85)
            if machine.moving:
                await machine.moved(ctx)
        await machine.settle(ctx)
        await machine.harvest()
        now = {page: machine.content(page) for page in range(machine.pages)}
        assert machine.copy == now, f"pages {[page for page in now if machine.copy[page] != now[page]]} are in no report after they were written"
    machine.run(test)
    return machine


@pytest.mark.hazard("H28", "H34", "I12")
@pytest.mark.parametrize("ats, second", [(False, False), (False, True), (True, False), (True, True)], ids=["plain", "second", "ats", "ats-second"])
def test_no_write_is_missed(ats, second):
    machine = races(f"{ats}/{second}", ats, second)
    print(machine.counts, machine.cycle)


def core(**parts):
    return edited(IommuCore, **parts)


def driver(*changes):
    return edited(IommuDirty, *changes)


WAIT = "await self.commands.execute("
#: Bugs: in what they are, and whether they need ATS.
BUGS = {
    # Of the driver.
    "invalidated_before": (False, {"driver": driver(
        ("        await self._table(report, self.tables.root, self.tables.mode.levels - 1, 0)\n",
         "        await self._forget(None)\n        await self._table(report, self.tables.root, self.tables.mode.levels - 1, 0)\n"),
        ("if not await self._forget(None if again else report.cleared):", "if False:"))}),
    "not_invalidated": (False, {"driver": driver(("invalidation.pack()", ""))}),
    "devices_not_told": (True, {"driver": driver(("return not tables.devices or", "return True or"))}),
    "read_then_written": (False, {"driver": driver(
        ("RiscvEntry.of(await self.memory.compare_and_swap(place, entry.value, replace(entry, dirty=0).value))",
         "entry\n            await self.memory.write(place, replace(entry, dirty=0).value)"))}),
    "not_waited_for": (False, {"driver": driver(("if not await self.commands.execute(", "if not await self.commands.publish("))}),
    "devices_not_waited_for": (True, {"driver": driver(("or await self.commands.execute(", "or await self.commands.publish("))}),
    # Of the hardware.
    "writable_without_d": (False, {"core": core(Translator=edited(Translator, PageWalk=edited(
        PageWalk, ("self._leaf(m, readable, writable & info.dirty)", "self._leaf(m, readable, writable)"))))}),
    "update_without_a_look": (False, {"core": core(EntryUpdate=edited(EntryUpdate, ("same.eq(line.entry == request.expected)", "same.eq(1)")))}),
    "moved_without_d": (False, {"core": core(ModifyEngine=edited(
        ModifyEngine, ("line.value.eq(format_.moved)", "line.value.eq(format_.moved & ~0x80)")))}),
    "fence_without_a_drain": (False, {"core": core(IommuControl=edited(IommuControl, CommandQueue=edited(
        CommandQueue, ("with m.If(self.drained):", "with m.If(1):"))))}),
    "fence_before_what_is_stale": (False, {"core": core(IommuControl=edited(IommuControl, CommandQueue=edited(
        CommandQueue, ("with m.If(~self.stale):", "with m.If(1):"))))}),
    "stale_is_kept": (False, {"core": core(Translator=edited(Translator, Misses=edited(
        Misses, ("", ""))))}),
}


@pytest.mark.parametrize("bug", BUGS)
def test_planted_bug_is_found(bug):
    ats, broken = BUGS[bug]
    with pytest.raises(AssertionError):
        races(f"{ats}/False", ats, False, rounds=30, **broken)
