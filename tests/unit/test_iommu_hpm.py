# amaranth: UnusedElaboratable=no
"""Performance counters: what they count against the IOMMU in software, filters, overflows, and events of moves."""

from types import SimpleNamespace

import pytest
from iommu_software import BOTH, FIRST, FIRST_ONLY, IOVA, OTHER, SECOND_ONLY, UNKNOWN, Devices
from modify_machine import MOVED, RECORDS, Command

from pagehop.iommu.core import IommuCore
from pagehop.iommu.event_counters import EventCounters
from pagehop.iommu.modify import ModifyEngine
from pagehop.iommu.page_walk import PageWalk
from pagehop.iommu.translator import Translator
from pagehop_sim.planted import edited, planted
from pagehop_tb.driver import iommu_registers as registers
from pagehop_tb.models.iommu import BUILT, PAGE, Access, CountingIommu, Event, EventCounter, Happened
from pagehop_tb.simulate import run, seeded

PMIP, OF = 1 << 2, 1 << 63
COUNTERS = 7
ACCESSES = (Access.READ, Access.WRITE, Access.WRITE, Access.TRANSLATED_READ, Access.TRANSLATED_WRITE, Access.ATS_REQUEST)
STANDARD = [event for event in Event if Event.NONE < event < Event.MOVED and event != Event.PROCESS_WALK]
MOVES = [event for event in Event if event >= Event.MOVED]


def selector(event, *, device=None, process=None, space=0, dmask=0):
    """``iohpmevt``, with filters when numbers are given."""
    return (event | dmask << 15 | (process or 0) << 16 | (device or 0) << 36 | (process is not None) << 60 | (device is not None) << 61 | space << 62)


def filters(rng, devices, domains, processes, events):
    """A selector at random, most with a filter."""
    space = rng.randrange(2)
    device = rng.choice(domains if space else devices) if rng.random() < 0.5 else None
    dmask = rng.random() < 0.4
    if device is not None and dmask and rng.random() < 0.8:
        device |= (1 << rng.randrange(8)) - 1
    return selector(rng.choice(events), device=device, process=rng.choice(processes) if rng.random() < 0.3 else None, space=space, dmask=dmask)


# The counters alone.

def alone(dut, rounds=60, cycles=60):
    """Everything happens at random, several things at once; who counts it, and what wraps."""
    rng, seen = seeded("hpm/alone"), SimpleNamespace(counted=0, interrupts=0, silent=0)
    devices, domains, processes = (0x120, 0x121, 0x127, 0x1A0, 0xFF0120), (5, 7, 4, 0x8005), (1, 2, 0xF_FFFF)

    async def write(ctx, port, value):
        ctx.set(port, {"strobe": 0xFF if len(port.data) == 64 else 0xF, "data": value})
        await ctx.tick()
        ctx.set(port.strobe, 0)

    async def bench(ctx):
        for _ in range(rounds):
            counters = []
            for number in range(dut.count):
                one = EventCounter(
                    filters(rng, devices, domains, processes, [*STANDARD, *MOVES]) | rng.choice((0, 0, OF)), -rng.randrange(4) % (1 << 64))
                counters.append(one)
                await write(ctx, dut.selector_writes[number], one.selector)
                await write(ctx, dut.counter_writes[number], one.value)
            inhibit = rng.getrandbits(dut.count + 1)
            await write(ctx, dut.inhibit_write, inhibit)
            await ctx.tick().repeat(4)
            interrupts, found = 0, 0
            for cycle in range(cycles + 6):
                requester, looked = ({"device_id": rng.choice(devices), "process_valid": valid, "process": rng.choice(processes) if valid else 0}
                                     for valid in (rng.randrange(2), rng.randrange(2)))
                space = {"first": rng.randrange(2), "second": rng.randrange(2), "gscid": rng.choice(domains), "pscid": rng.choice(processes)}
                happens = {event for event in (*STANDARD, *MOVES) if cycle < cycles and rng.random() < 0.3}
                ctx.set(dut.events, {
                    **{event.name.lower(): event in happens for event in STANDARD}, "request": requester, "miss": looked, "space": space})
                ctx.set(dut.moves, {event.name.lower(): event in happens for event in MOVES})
                for event in happens:
                    whose = requester if event <= Event.ATS_REQUEST else looked
                    one = Happened(event, whose["device_id"], whose["process"] if whose["process_valid"] else None,
                                   space["gscid"] if space["second"] else None, space["pscid"] if space["first"] else None)
                    for number, counter in enumerate(counters):
                        if not inhibit >> number + 1 & 1:
                            before = counter.value
                            interrupts += counter.count(one)
                            seen.counted += counter.value != before
                            seen.silent += counter.value == 0 and counter.value != before
                found += ctx.get(dut.overflow)
                await ctx.tick()
            for number, counter in enumerate(counters):
                assert ctx.get(dut.counters[number]) == counter.value, f"{counter.selector:#x} with {inhibit:#x}"
                assert ctx.get(dut.selectors[number]) == counter.selector and ctx.get(dut.overflows) >> number + 1 & 1 == counter.selector >> 63
            # Two that wrap in one cycle are one pulse.
            assert bool(found) == bool(interrupts) and found <= interrupts
            seen.interrupts += found
        assert seen.counted > 500 and seen.interrupts > 20 and seen.silent > seen.interrupts, seen
    run(dut, bench)


def test_filters_inhibits_and_overflows():
    alone(EventCounters(COUNTERS, modify=True))


def test_parameters_are_checked():
    for counters in (0, 32, "7"):
        with pytest.raises(ValueError, match=rf"^Performance counters must be 1 to 31, not {counters!r}$"):
            EventCounters(counters)


# In the IOMMU.

class Counted(Devices):
    """Devices that ask one after the other, and the IOMMU in software."""
    def __init__(self, name, core=IommuCore):
        super().__init__(seeded(f"hpm/{name}"), core(
            modify=True, ats=True, counters=COUNTERS, entries=16, ways=16, contexts=8, messages=False, tags=2))
        self.model = CountingIommu(self.memory, BUILT, self.directory.mode, self.directory.ppn)

    async def ask(self, ctx, request):
        """Ask, and wait for the answer."""
        self.offer(ctx, request)
        await ctx.tick().until(self.dut.request.ready)
        ctx.set(self.dut.request.valid, 0)
        await ctx.tick().until(self.dut.response.valid)

    async def counter(self, ctx, number, value=None):
        return await self.access(ctx, registers.Iohpmctr.offset + 8 * number, value)

    async def select(self, ctx, number, value=None):
        return await self.access(ctx, registers.Iohpmevt.offset + 8 * number, value)


def counted(name, core=IommuCore, rounds=9):
    """Requests of all sorts; each counter has what the IOMMU in software says."""
    software = Counted(name, core)
    rng, model, seen = software.rng, software.model, set()

    async def test(software, ctx):
        for turn in range(rounds):
            counters = []
            for number in range(COUNTERS):
                one = EventCounter(
                    selector(STANDARD[number]) if turn % 2 else filters(rng, (FIRST_ONLY, SECOND_ONLY, BOTH, UNKNOWN), (5, 7), (1, 6), STANDARD),
                    rng.choice((0, (1 << 64) - 3)))
                counters.append(one)
                await software.select(ctx, number, one.selector)
                await software.counter(ctx, number, one.value)
            await software.access(ctx, registers.Ipsr.offset, PMIP, size=4)
            interrupts = 0
            for _ in range(12):
                request = software.request(*ACCESSES)
                await software.ask(ctx, request)
                model.translate(request)
                seen.update(happened.event for happened in model.happened)
                interrupts += sum(counter.count(happened) for happened in model.happened for counter in counters)
            for number, counter in enumerate(counters):
                found = await software.counter(ctx, number)
                assert found == counter.value, f"counter of {counter.selector:#x} is {found:#x}, not {counter.value:#x}"
                assert await software.select(ctx, number) == counter.selector
            assert await software.access(ctx, registers.Iocountovf.offset, size=4) == sum(
                (counter.selector >> 63) << number + 1 for number, counter in enumerate(counters))
            assert await software.access(ctx, registers.Ipsr.offset, size=4) == (PMIP if interrupts else 0)
            if turn % 3 == 2:
                await software.commands(ctx, 1, 3)     # IOTINVAL.VMA, IODIR.INVAL_DDT
                model.forget()
    software.run(test, software.data_path)
    assert seen == set(STANDARD), seen


def test_counts_are_those_of_the_model():
    counted("model")


def registers_and_cycles(core=IommuCore):
    """What can be written, the counter of cycles, and that it asks for an interrupt once."""
    software, cycle = Counted("registers", core), 0

    async def clock(ctx):
        nonlocal cycle
        while not software.stop:
            await ctx.tick()
            cycle += 1

    async def test(software, ctx):
        async def cycles(value=None):
            return await software.access(ctx, registers.Iohpmcycles.offset, value)

        assert await software.access(ctx, registers.Capabilities.offset) >> 30 & 1
        for event in (*Event, 9, 15, 16, 17, 0x2001, 0x3FFF, 16391, 16400, 0x7FFF):
            await software.select(ctx, 3, (1 << 64) - 1 & ~0x7FFF | event)
            known = event in (*STANDARD, *MOVES)
            assert await software.select(ctx, 3) == (1 << 64) - 1 & ~0x7FFF | (event if known else 0), event
        await software.select(ctx, 3, 0)
        await software.access(ctx, registers.Iocountinh.offset, 0xFFFF_FFFF, size=4)
        assert await software.access(ctx, registers.Iocountinh.offset, size=4) == (2 << COUNTERS) - 1
        assert await software.access(ctx, registers.Iohpmctr.offset + 8 * COUNTERS, 5) is None
        assert await software.counter(ctx, COUNTERS) == 0 and await software.select(ctx, COUNTERS) == 0
        assert await cycles() == await cycles()
        await software.access(ctx, registers.Icvec.offset, 0x100)
        assert await software.access(ctx, registers.Icvec.offset) == 0x100
        await software.access(ctx, registers.Iocountinh.offset, 0, size=4)
        for pause in (1, 40):
            before, first = await cycles(), cycle
            await ctx.tick().repeat(pause)
            assert await cycles() - before == cycle - first
        # OF as it wraps, once an interrupt; it goes on.
        await software.access(ctx, registers.Ipsr.offset, PMIP, size=4)
        for of, pending in ((0, PMIP), (OF, 0)):
            await cycles(OF - 20 | of)
            await ctx.tick().repeat(20)
            assert OF < await cycles() < OF + 100
            assert await software.access(ctx, registers.Iocountovf.offset, size=4) == 1
            assert await software.access(ctx, registers.Ipsr.offset, size=4) == pending
            await software.access(ctx, registers.Ipsr.offset, PMIP, size=4)
            assert await software.access(ctx, registers.Ipsr.offset, size=4) == 0
    software.run(test, software.data_path, clock)


def test_registers_and_cycles():
    registers_and_cycles()


def moves(core=IommuCore):
    """Moves of which some fail, of a line that a CPU wants at times."""
    software = Counted("moves", core)
    line, sums, touching = software.dut.engine.line, dict.fromkeys((Event.HOLDS, Event.KEEPS_WAITING), 0), [False]

    async def watch(ctx):
        while not software.stop:
            *_, owned, hold, touched = await ctx.tick().sample(line.owned, line.hold, line.touched)
            sums[Event.HOLDS] += owned & hold
            sums[Event.KEEPS_WAITING] += owned & hold & touched

    async def touch(ctx):
        place = software.space.place(IOVA, 0)
        while not software.stop:
            await ctx.tick()
            if touching[0] and software.rng.random() < 0.02 and 0 not in software.home._busy:
                software.home.access(0, place & ~63)

    async def test(software, ctx):
        # A move is no request of a device.
        await software.select(ctx, 0, Event.DIRECTORY_WALK)
        await software.commands(ctx, *Command(IOVA, FIRST + 1, OTHER, 0, bare=True).halves)
        assert await software.counter(ctx, 0) == 0
        for number, event in enumerate(MOVES):
            await software.select(ctx, number, event)
        sums.update(dict.fromkeys(sums, 0))
        lies, statuses = {page: FIRST + page for page in range(8)}, []
        for turn in range(8):
            touching[0] = turn > 1
            pages = software.rng.sample(range(8), software.rng.randrange(1, 5))
            halves = [half for place, page in enumerate(pages) for half in Command(
                IOVA + page * PAGE, lies[page] + 99 * (place == 1), OTHER + 16 * turn + page, page, more=page != pages[-1], tries=turn % 3,
                bare=True).halves]
            # Of another line, which no batch takes.
            halves[-2:-2] = Command(IOVA + 9 * PAGE, 1, 2, 20, more=True).halves if turn == 1 else ()
            await software.commands(ctx, *halves, limit=20_000)
            statuses += [software.home.word(RECORDS + 8 * record) & 15 for record in [*pages, *[20] * (turn == 1)]]
            lies |= {page: OTHER + 16 * turn + page for page in pages if software.home.word(RECORDS + 8 * page) & 15 == MOVED}
            found = {event: await software.counter(ctx, number) for number, event in enumerate(MOVES)}
            assert found[Event.MOVED] == statuses.count(MOVED) and found[Event.FAILED] == len(statuses) - statuses.count(MOVED)
        counts = await software.access(ctx, registers.ModifyCounts.offset)
        assert found[Event.MOVED] > 5 and found[Event.FAILED] > 1
        assert found[Event.DISTURBED] == counts >> 32 & 0xFFFF > 0 and found[Event.FELL_BACK] == counts >> 48 > 0
        assert {event: found[event] for event in sums} == sums and min(sums.values()) > 10
        assert found[Event.DRAINS] > 20
        # Nor is the walk for a page that a move leaves in the IOTLB a request.
        await software.select(ctx, COUNTERS - 1, Event.TLB_MISS)
        before = await software.counter(ctx, COUNTERS - 1)
        await software.commands(ctx, *Command(IOVA, lies[0], FIRST, 0, bare=True, precaches=True).halves)
        assert software.home.word(RECORDS) & 15 == MOVED and await software.counter(ctx, COUNTERS - 1) == before
    software.run(test, software.data_path, watch, touch)


def test_events_of_moves():
    moves()


@pytest.mark.parametrize("change", [
    ("selector.device ^ (selector.device + 1)", "selector.device & (selector.device + 1)"), ("(of_space | ~selector.by_space)", "1"),
    ("(space.second | ~selector.by_space) &", ""), ("Mux(selector.by_space, space.first, transaction.process_valid) &", ""),
    ("custom & ~filters", "custom"), ("~self.inhibit[number + 1]", "~self.inhibit[number]"), ("total[-1] & ~selector.overflow", "total[-1]"),
    ("Mux(of_request, events.request", "Mux(0, events.request"),
    ("selector.overflow.eq(wanted.overflow | total[-1])", "selector.overflow.eq(wanted.overflow)"),
], ids=["dmask", "idt", "no domain", "no process", "filtered moves", "inhibit", "interrupts while OF", "whose request", "of"])
def test_planted_bug_of_the_counters_is_found(change):
    with pytest.raises(AssertionError):
        alone(planted(EventCounters, *change)(COUNTERS, modify=True))


@pytest.mark.parametrize(("part", "change", "test"), [
    (Translator, ("busy & ~misses.looks, misses", "busy, misses"), lambda core: counted("planted", core)),
    (Translator, ("counts = ~_is_of_move(looked)", "counts = 1"), moves),
    (PageWalk, ("self.second_begun.eq(~outside)", "self.second_begun.eq(~outside & ~self._implicit)"), lambda core: counted("planted", core)),
    (PageWalk, ("context.first & request.canonical)", "context.first)"), lambda core: counted("planted", core)),
    (ModifyEngine, ("eq(there & moved & ~rejects)", "eq(moved)"), moves),
    (ModifyEngine, ("Mux(rejects, 1, there & ~moved)", "there & ~moved & ~rejects"), moves),
], ids=["counted again", "of moves", "tables", "not canonical", "moved", "rejected"])
def test_planted_bug_is_found(part, change, test):
    with pytest.raises(AssertionError):
        test(edited(IommuCore, **{"Translator": edited(Translator, PageWalk=planted(part, *change))} if part is PageWalk
                    else {part.__name__: planted(part, *change)}))
