# amaranth: UnusedElaboratable=no
"""Dirty tracking at the IOMMU's core: no write of a device is missed, whatever is harvested and moved meanwhile (I12, H28, H34)."""

import asyncio
from collections import deque
from dataclasses import replace

import pytest
from iommu_software import FIRST, IOVA, Software
from modify_machine import DEVICE, MOVED, RECORDS, Command
from test_iommu_top import Guest

from pagehop.iommu.command_queue import CommandQueue
from pagehop.iommu.control import IommuControl
from pagehop.iommu.core import IommuCore
from pagehop.iommu.modify import ModifyEngine
from pagehop.iommu.page_walk import PageWalk
from pagehop.iommu.translator import Translator
from pagehop_sim.planted import edited
from pagehop_tb.driver import iommu_registers as registers
from pagehop_tb.driver.api import BusError
from pagehop_tb.driver.interposer import DriverError
from pagehop_tb.driver.iommu_dirty import IommuDirty, Tables
from pagehop_tb.models.iommu import PAGE, AddressSpace, AtsCommand, DeviceContext, Invalidation, Mode, RiscvEntry, TableMemory, decode, pages_from
from pagehop_tb.models.memory import HostMemory
from pagehop_tb.simulate import seeded

GSCID, WORDS, READ, WRITE, TRANSLATED_WRITE, ATS_REQUEST = 5, 4, 2, 3, 7, 8


class Machine(Software):
    """A device that reads and writes its pages, with an ATC when there is ATS, and software that harvests and moves them.

    What is judged: a copy of the pages, of which each page is taken anew when a report says so. A page that it does not say must be in the copy as it
    was when the report was called.
    """
    def __init__(self, name, core=IommuCore, driver=IommuDirty, *, ats=False, second=False, pages=10):
        core = core(modify=True, ats=ats, entries=4, ways=2)
        super().__init__(seeded(f"dirty/{name}"), core, core, pages=pages, **({"ats": 1} if ats else {}))
        if second:
            self.space = AddressSpace(self.memory, pages_from(0x9000_0000), Mode.SV39, second=True)
            for page in range(pages):
                self.space.map(IOVA + page * PAGE, (FIRST + page) * PAGE)
            self.directory.device(DEVICE, DeviceContext(second_mode=Mode.SV39, second_ppn=self.space.ppn, gscid=GSCID, gade=1, ats=int(ats)))
        self.tables = Tables(self.space.root, Mode.SV39, GSCID if second else None, (DEVICE,) if ats else ())
        self.pages, self.ats, self.second, self.driver_class = pages, ats, second, driver
        self.home.latency = lambda: self.rng.randrange(8)
        self.cycle, self.rate, self.until, self.hot, self.mute = 0, 0.0, 0, range(pages), False
        # The device: what it asks, by number; accesses that are not visible; what its ATC has, and what comes to it.
        self.asked, self.open, self.serial, self.cache = {}, {}, 0, {}
        self.down, self.told, self.completions = deque(), [], deque()
        self.moves, self.fails = False, 0   # whether pages are moved at any time; drains that fail
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
            if offered is None and free and self.cycle < self.until and self.rng.random() < self.rate:
                offered = (free.pop(), *self.draw(hold))
                ctx.set(dut.request.payload, {"id": offered[0], "device_id": DEVICE, "iova": offered[2] + 8 * offered[4], "access": offered[1]})
                ctx.set(dut.request.valid, 1)
            _, _, taken, answered, answer, drain, *rest = await ctx.tick().sample(*signals)
            self.cycle += 1
            if offered is not None and taken:
                self.asked[offered[0]] = list(offered[1:])
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
            late = 400 if self.rng.random() < 0.2 else 40
            self.open[self.serial] = self.cycle + self.rng.randrange(late), page, word, found.ppn

    def atc(self, ctx, offered, hold, tells, told, completed):
        """Translations and invalidations come in their order; an acknowledgement goes behind what was asked before. Returns ``ats_hold``."""
        dut, rng = self.dut, self.rng
        if tells:
            self.down.append((self.cycle + rng.randrange(40), None, told.itag, told.payload))
        while self.down and self.down[0][0] <= self.cycle:
            _, page, found, payload = self.down.popleft()
            if page is None:
                self.told.append([self.cycle + rng.randrange(250), found, payload, None])
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
            ctx.set(self.dut.drain_failed, self.fails > 0)
            self.fails -= 1
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
        """An access of a CPU, which is kept from it for a while sometimes; and meanwhile another has pages moved."""
        if self.rng.random() < 0.1:
            await ctx.tick().repeat(self.rng.randrange(1, 60))
        if self.moves and not self.moving and self.rng.random() < 0.03:
            await self.move(ctx)
        access = self.home.access(0, address, value, expected)
        while access.done is None:
            await ctx.tick()
        return access.result

    async def move(self, ctx, pages=()):
        """Moves of pages of a line are in the queue."""
        line = self.rng.choice(self.hot) // 8
        near = [page for page in range(self.pages) if page // 8 == line]
        pages = pages or self.rng.sample(near, self.rng.choice((1, 1, min(2, len(near)))))
        tries, precaches = self.rng.choice((0, 2)), self.rng.random() < 0.5
        for page in pages:
            self.fresh += 1
            self.moving[page] = self.fresh
        await self.publish(ctx, *(half for page in pages for half in Command(
            IOVA + page * PAGE, self.lies[page], self.moving[page], page, more=page != pages[-1], tells=self.ats, tries=tries,
            precaches=precaches, gscid=GSCID if self.second else 0).halves))

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

    async def of_eight(self):
        """What a report says of eight pages."""
        bitmap = bytearray(1)
        await self.driver.report(IOVA, 8 * PAGE, PAGE, bitmap)
        return bitmap[0]

    async def settle(self, ctx):
        self.until = 0
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


def races(name, ats, rounds=6, **broken):
    """Bursts of accesses, reports and moves: with an ATC by a first stage, without by a second."""
    machine = Machine(f"races/{name}", ats=ats, second=not ats, **broken)
    rng = machine.rng

    async def test(machine, ctx):
        machine.moves = True
        await machine.harvest()
        for _ in range(rounds):
            # A burst, which may end before, in or behind the report: what comes after a write that was lost would hide it.
            machine.rate, machine.hot = rng.choice((0.3, 1)), rng.sample(range(machine.pages), rng.randrange(1, 8))
            machine.until = machine.cycle + rng.randrange(20, 300)
            await ctx.tick().repeat(rng.randrange(1, 150))
            if rng.random() < 0.2:
                await machine.move(ctx)
                await ctx.tick().repeat(rng.randrange(1, 100))
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
@pytest.mark.parametrize("ats", [False, True], ids=["plain", "ats"])
def test_no_write_is_missed(ats):
    counts = races(f"{ats}/a", ats).counts
    assert min(counts[name] for name in ("writes", "moved", "clean", "dirty", *(("by_atc", "told") if ats else ()))) > 1, counts


async def a_move_before_the_swap(machine, ctx):
    """The entry changes between the look at it and the swap: it leads to where it was moved to, and has no D."""
    cpu, swaps = machine.driver.memory, []

    async def moved_first(address, expected, value):
        if not swaps:
            await machine.move(ctx, [3])
            await machine.moved(ctx)
        swaps.append(address)
        return await machine.access_word(ctx, address, value, expected)

    cpu.compare_and_swap = moved_first
    cpu.write = lambda address, value: moved_first(address, None, value)
    bitmap = bytearray(1)
    await machine.driver.report(IOVA + 3 * PAGE, PAGE, PAGE, bitmap)
    assert machine.home.word(machine.place(3)) & ~(1 << 6) == RiscvEntry(ppn=machine.lies[3], accessed=0, dirty=0).value
    assert bitmap[0] == 1 and len(swaps) == 2


@pytest.mark.hazard("H34")
def test_an_entry_that_moves_before_the_swap(driver=IommuDirty):
    Machine("swap", driver=driver).run(a_move_before_the_swap)


async def a_device_that_does_not_answer(machine, ctx):
    """The queue stops: everything is dirty, and once more after a reset, for the device may have written till then."""
    told = machine.of_eight
    await machine.access(ctx, registers.AtsTimeout.offset, 500)
    machine.mute = True
    assert await told() == 0xFF and await told() == 0xFF
    machine.mute = False
    await machine.access(ctx, registers.AtsStatus.offset, 1)
    await machine.access(ctx, registers.AtsStatus.offset + 4, 0xFFFF_FFFF, size=4)
    assert await told() == 0xFF and await told() == 0


def test_a_device_that_does_not_answer(driver=IommuDirty):
    Machine("mute", driver=driver, ats=True).run(a_device_that_does_not_answer)


async def a_drain_that_is_given_up(machine, _):
    """The queue stops at the fence: what was written may come later."""
    machine.fails = 1
    assert await machine.of_eight() == 0xFF and await machine.of_eight() == 0xFF and await machine.of_eight() == 0


@pytest.mark.hazard("H01", "H28")
def test_a_drain_that_is_given_up(core=IommuCore):
    Machine("unproven", core).run(a_drain_that_is_given_up)


class Plain:
    """Tables in a memory without an IOMMU, and a queue that does nothing."""
    def __init__(self, driver=IommuDirty, second=False, **tables):
        memory = TableMemory(HostMemory())
        self.space, self.memory = AddressSpace(memory, pages_from(0x9000_0000), Mode.SV39, second=second), memory
        for page in range(8):
            self.space.map(IOVA + page * PAGE, (FIRST + page) * PAGE, dirty=page == 1)
        self.driver = driver(self, self, Tables(self.space.root, Mode.SV39, GSCID if second else None, **tables))
        self.commands, self.passes, self.errors = [], True, set()

    async def read(self, address):
        if address in self.errors:
            raise BusError
        return int.from_bytes(self.memory.read(address, 8), "little")

    async def compare_and_swap(self, address, expected, value):
        found = await self.read(address)
        assert self.memory.compare_and_set(address, expected, value)
        return found

    async def execute(self, *commands):
        self.commands.append([decode(command) for command in commands])
        return self.passes

    def dirty(self, page, value=1):
        place = self.space.place(IOVA + page * PAGE, 0)
        self.space.write(place, replace(self.space.read(place), dirty=value))

    def told(self, base=IOVA, pages=8, unit=PAGE, clear=True):
        """What a report says, and the commands that it took."""
        self.commands = []
        bitmap = bytearray(-(-pages // 8))
        asyncio.run(self.driver.report(base, pages * PAGE, unit, bitmap, clear))
        return int.from_bytes(bitmap, "little")


def test_leaves_of_all_sizes(driver=IommuDirty):
    """Of a larger leaf all pages are dirty. D is taken only by a report of all of it; of 64 KiB, from all of its entries."""
    plain = Plain(driver)
    plain.space.map(2 << 20, 0x4000_0000, 2 << 20)
    plain.space.map(6 << 20, 0x5000_0000, 16 * PAGE, dirty=0)
    for base, pages in ((2 << 20, 512), (6 << 20, 16)):
        if pages == 16:
            plain.dirty((base - IOVA) // PAGE + 5)
        every, half = (1 << pages) - 1, pages // 2
        assert plain.told(base, half) == every >> half and not plain.commands
        assert plain.told(base, pages, clear=False) == every and not plain.commands
        assert plain.told(base, pages) == every and plain.commands
        assert plain.told(base, pages) == 0 and not plain.commands


def test_the_bits_of_a_report():
    """A bit a unit; none is cleared; nothing but what was asked for is looked at."""
    plain, bitmap = Plain(), bytearray(b"\x82")
    plain.dirty(6)
    asyncio.run(plain.driver.report(IOVA + 4 * PAGE, 4 * PAGE, 2 * PAGE, bitmap))
    assert bitmap == b"\x82"
    assert plain.told() == 0b10 and plain.told() == 0


@pytest.mark.parametrize(("second", "nested"), [(False, False), (True, False), (True, True)])
def test_commands(second, nested):
    """The IOMMU forgets what leads to the pages, then devices do; each is waited for."""
    plain = Plain(second=second, devices=(3, 9), nested=nested)
    plain.dirty(4)
    assert plain.told() == 0b10010
    payload = 0x7FFF_FFFF_FFFF_F800 if nested else IOVA | 0x3800     # eight pages
    assert plain.commands == [[Invalidation(func3=1, gv=1, gscid=GSCID) if second else Invalidation()],
                              [AtsCommand(requester=device, payload=payload) for device in (3, 9)]]
    plain.dirty(5)
    assert plain.told() == 1 << 5 and nested == (plain.commands[1][0].payload != IOVA + 5 * PAGE)


def test_what_cannot_be_read_is_dirty(driver=IommuDirty):
    plain = Plain(driver)
    plain.errors = {plain.space.place(IOVA + 3 * PAGE, 0)}
    assert plain.told() == 0b1010 and plain.commands
    plain.errors = {plain.space.place(IOVA, 1)}
    assert plain.told() == 0xFF and plain.commands
    plain.errors = set()
    assert plain.told() == 0


def test_what_is_not_proven_is_told_again(driver=IommuDirty):
    """While invalidations fail everything is dirty; once more in the first report for which they do not."""
    plain = Plain(driver, devices=(3,))
    plain.passes = False
    assert plain.told() == 0xFF and len(plain.commands) == 1
    assert plain.told(IOVA, 4) == 0xF
    plain.passes = True
    assert plain.told(IOVA, 4) == 0xF and plain.commands[1] == [AtsCommand(requester=3, payload=0x7FFF_FFFF_FFFF_F800)]
    assert plain.told(IOVA, 4) == 0
    assert plain.told() == 0xF0 and plain.told() == 0 and not plain.commands


@pytest.mark.parametrize(("arguments", "says"), [
    ((IOVA, PAGE, 2048), "A report has pages of a power of two of at least 4096 bytes, not of 2048"),
    ((IOVA + 1, PAGE, PAGE), "A report is of some pages of 4096 bytes, not of 0x1000 bytes from 0x400001"),
    (((1 << 38) - PAGE, 2 * PAGE, PAGE), "A report ends at 0x4000000000 at the latest, not at 0x4000001000"),
    ((IOVA, 9 * PAGE, PAGE), "The bitmap must have 9 bits, not 8"),
])
def test_arguments(arguments, says):
    with pytest.raises(DriverError, match=f"^{says}$"):
        asyncio.run(Plain().driver.report(*arguments, bytearray(1)))


def core(**parts):
    return edited(IommuCore, **parts)


def driver(*changes):
    return edited(IommuDirty, *changes)


def with_queue(old, new):
    return core(IommuControl=edited(IommuControl, CommandQueue=edited(CommandQueue, (old, new))))


#: Bugs that the races notice: whether they need ATS, and in what they are.
BUGS = {
    "invalidated_before": (False, {"driver": driver(
        ("        await self._table(report, self.tables.root, self.tables.mode.levels - 1, 0)\n",
         "        await self._forget(None)\n        await self._table(report, self.tables.root, self.tables.mode.levels - 1, 0)\n"),
        ("if not await self._forget(None if again else report.cleared):", "if False:"))}),
    "not_invalidated": (False, {"driver": driver(("invalidation.pack()", ""))}),
    "devices_not_told": (True, {"driver": driver(("return not tables.devices or", "return True or"))}),
    "not_waited_for": (False, {"driver": driver(("if not await self.commands.execute(", "if not await self.commands.publish("))}),
    "devices_not_waited_for": (True, {"driver": driver(("or await self.commands.execute(", "or await self.commands.publish("))}),
    "writable_without_d": (False, {"core": core(Translator=edited(Translator, PageWalk=edited(
        PageWalk, ("(info.writable & info.dirty)", "info.writable"))))}),
    "moved_without_d": (False, {"core": core(ModifyEngine=edited(
        ModifyEngine, ("self.format.moved(line.entry, batch", "~0x80 & self.format.moved(line.entry, batch")))}),
    "fence_without_a_drain": (False, {"core": with_queue("with m.If(self.drained):", "with m.If(1):")}),
}


@pytest.mark.hazard("H28")
@pytest.mark.parametrize("bug", BUGS)
def test_planted_bug_is_found(bug):
    ats, broken = BUGS[bug]
    with pytest.raises(AssertionError, match="in no report"):
        races(f"{ats}/b", ats, rounds=60, **broken)


def test_planted_bug_in_fences_is_found():
    with pytest.raises(AssertionError):
        test_a_drain_that_is_given_up(edited(IommuCore, (", control.drain_failed.eq(self.drain_failed)", "")))


#: Bugs of the driver that a test of its own notices.
DIRECTLY = {
    "read_then_written": (
        ("RiscvEntry.of(await self.memory.compare_and_swap(place, entry.value, replace(entry, dirty=0).value))",
         "entry\n            await self.memory.write(place, replace(entry, dirty=0).value)"), test_an_entry_that_moves_before_the_swap),
    "swap_believed": (("if found == entry:", "if True:"), test_an_entry_that_moves_before_the_swap),
    "stopped_queue_believed": (("if not await self._forget(None if again else report.cleared):",
                                "await self._forget(None if again else report.cleared)\n        if False:"), test_a_device_that_does_not_answer),
    "told_once": (("report.dirty.update(again - self.unproven)", "pass"), test_what_is_not_proven_is_told_again),
    "part_of_a_leaf": (("or not report.whole(start, start + size)", ""), test_leaves_of_all_sizes),
    "page_of_a_leaf": (("start = page - page % size", "start, size = page, 1"), test_leaves_of_all_sizes),
    "errors_are_clean": (("report.mark(start, start + span)", "pass"), test_what_cannot_be_read_is_dirty),
}


@pytest.mark.parametrize("bug", DIRECTLY)
def test_planted_bug_of_the_driver_is_found(bug):
    change, test = DIRECTLY[bug]
    with pytest.raises(AssertionError):
        test(driver(change))
