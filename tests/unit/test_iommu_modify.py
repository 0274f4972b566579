# amaranth: UnusedElaboratable=no
"""Moves of pages by the IOMMU's own command, under a device that goes on, CPUs that want the line, and everything that can go wrong."""

from types import SimpleNamespace

import pytest
from modify_machine import (
    DEVICE,
    EXPIRED,
    HALF,
    MISMATCH,
    MISPLACED,
    MOVED,
    NO_COPY,
    NO_LINE,
    NOT_FOUND,
    TOO_LARGE,
    UNDRAINED,
    UNTOLD,
    WORDS,
    Command,
    Harness,
    Machine,
)

from pagehop.iommu.entry_format import VtdEntries
from pagehop.iommu.misses import Misses
from pagehop.iommu.modify import ModifyEngine
from pagehop.iommu.modify_batch import ModifyBatch
from pagehop.iommu.translator import Translator
from pagehop_sim.planted import planted
from pagehop_tb.models.iommu import NAPOT_SIZE, PAGE, VtdEntry, page_size
from pagehop_tb.simulate import run, seeded

#: What a probe may wait for a line that is moved without holding: the limit of its edits, and what an answer takes.
OPTIMISTIC_WAIT = 48 + 13


#: Parts that a test with a planted bug exchanges.
PARTS = {}


def machine(name, *, harness=None, **options):
    return Machine(seeded(f"modify/{name}"), Harness(**PARTS, **(harness or {})), **options)


def touches(mc, rate):
    """CPUs read words of the lines of entries at random."""
    async def bench(ctx):
        while not mc.stop:
            await ctx.tick()
            if mc.rng.random() < rate:
                cpu, address = mc.rng.randrange(2), mc.entry(mc.rng.choice(mc.hot)) & ~63 | 8 * mc.rng.randrange(8)
                if cpu not in mc.home._busy:
                    mc.home.access(cpu, address)
    mc.extra.append(bench)


async def races(mc, ctx, *, rounds, rate=0.3, tries=(0, 3), fails=()):
    """Batches of random pages in random ways; what each must have become."""
    seen = set()
    for _ in range(rounds):
        mc.rate = rate * mc.rng.random()
        block = mc.rng.randrange(mc.pages // 8)
        pages = [8 * block + page for page in mc.rng.sample(range(8), mc.rng.randrange(1, 9))]
        for status, attempts in await mc.move(ctx, *pages, tries=mc.rng.choice(tries), by_entry=mc.rng.random() < 0.4):
            assert status == MOVED or status in fails, status
            seen.add((status, min(attempts, 2)))
        mc.check()
        await ctx.tick().repeat(mc.rng.randrange(1, 200))
    return seen


KINDS = {"one": {}, "second": {"second": True}, "both": {"both": True}}


@pytest.mark.hazard("H01", "H02", "H03", "H08", "H31", "H34")
@pytest.mark.parametrize(("kind", "tries"), [("one", 0), ("one", 3), ("second", 3), ("both", 0)])
def test_races(kind, tries):
    """All that a device writes is where its page is, whatever the table and by whichever address, and A and D of entries are never lost."""
    for flags in ({}, {"accessed": 0, "dirty": 0}):
        mc = machine(f"races/{kind}/{tries}/{len(flags)}", **KINDS[kind], flags=flags, latency=None, copy_cycles=1, pages=8 if kind == "one" else 16)
        mc.visible_after = 150
        mc.home.latency = lambda rng=mc.rng: rng.randrange(1, 12)

        async def test(mc, ctx, flags=flags):
            await races(mc, ctx, rounds=40 if kind == "both" else 12, tries=(tries,))     # its walks are the longest
            await mc.settle(ctx)
            dirty = {page for page, _ in mc.written}
            for page in dirty if flags else ():
                assert mc.home.word(mc.entry(page)) & 0xC0 == 0xC0, f"D of page {page}, which was written, is lost"

        mc.run(test)
        assert mc.accesses > 50


def test_entries_of_vtd_are_moved_alike():
    """Second-stage tables of x86, with A and D."""
    mc = machine("vtd", harness={"format_": VtdEntries}, second=True, entries=VtdEntry, flags={"accessed": 0, "dirty": 0}, copy_cycles=1)

    async def test(mc, ctx):
        await races(mc, ctx, rounds=4, tries=(0, 3))
        await mc.settle(ctx)
        for page, _ in mc.written:
            assert mc.entries.of(mc.home.word(mc.entry(page))).dirty
    mc.run(test)
    assert mc.accesses > 20


@pytest.mark.hazard("H11")
def test_cpus_that_want_the_line_get_it_and_the_move_ends():
    """With everybody at the line an optimistic move falls back to one that holds; in both no probe waits for longer than it may."""
    mc = machine("touched")
    touches(mc, 0.05)

    async def test(mc, ctx):
        seen = await races(mc, ctx, rounds=6, rate=0.05, tries=(3,))
        assert (MOVED, 2) in seen
    mc.run(test, hot=list(range(8)))


@pytest.mark.hazard("H11")
def test_an_optimistic_move_keeps_nobody_waiting():
    """Only moves that end while they are optimistic are looked at: their probes wait for the edits at most."""
    mc, found = machine("patience", copy_cycles=1), []
    touches(mc, 0.012)

    async def test(mc, ctx):
        for _ in range(30):
            mc.home.longest_probe = 0
            (status, attempts), = await mc.move(ctx, mc.rng.randrange(8), tries=8)
            assert status == MOVED
            if attempts <= 8:
                found.append((mc.home.longest_probe, attempts))
    mc.run(test, hot=list(range(8)))
    assert max(found)[0] <= OPTIMISTIC_WAIT and sum(attempts > 1 for _, attempts in found) >= 5, found


@pytest.mark.parametrize("latency", [4, 9])
def test_cycles_are_those_of_the_contract(latency):
    """From the last command to the verdict: the line and its home, a drain of one cycle, the copies; and the walk."""
    mc = machine("cycles", latency=lambda: latency)

    async def test(mc, ctx):
        await mc.move(ctx, 8)     # the device is known from here on
        for count in (1, 2, 8):
            await mc.move(ctx, *range(count), by_entry=True)
            by_entry = 52 + 1 + 2 * latency + count * (WORDS * mc.copy_cycles + 1)
            assert mc.record(0)[2] == by_entry
            await mc.move(ctx, *range(count))
            assert mc.record(0)[2] == by_entry + 11 + 3 * latency
    mc.run(test)


def test_an_optimistic_move_lets_other_lines_be_updated():
    """Hardware sets D in another line while a copy takes long: it has the owner of lines at once. Afterwards the move holds."""
    mc = machine("others", copy_cycles=100, flags={"accessed": 0, "dirty": 0})

    async def test(mc, ctx):
        mc.rate = 0.01
        (status, attempts), = await mc.move(ctx, 0, tries=6)
        assert status == MOVED and attempts > 1 and mc.accesses >= 4
    mc.run(test, hot=list(range(8, 16)))


@pytest.mark.hazard("H31")
@pytest.mark.parametrize("latency", [3, 30])
def test_what_a_walk_has_read_is_not_answered_after_a_redo(latency):
    """Memory answers with what stood there when it was asked. In each cycle of a walk its leaf is changed, and the walk told to begin again."""
    dut, changed = PARTS.get("translator", Translator)(), 0
    mc = Machine(seeded("modify/redo"), SimpleNamespace(ats=False))     # for its tables
    place, before, after = mc.entry(3), 5, 6

    async def bench(ctx):
        nonlocal changed
        ctx.set(dut.directory, {"mode": 2, "ppn": mc.directory.ppn})
        for moment in range(1, 5 * latency + 30):
            cycle, answers, redone = 0, {"table": [], "directory": []}, None
            mc.home.memory.write(place, (before << 10 | 0xD7).to_bytes(8, "little"))
            ctx.set(dut.pages, {"paged": 0})
            ctx.set(dut.invalidate_pages, 1)
            await ctx.tick()
            ctx.set(dut.invalidate_pages, 0)
            ctx.set(dut.request.payload, {"id": 1, "device_id": DEVICE, "iova": mc.base + 3 * PAGE, "access": 3})
            ctx.set(dut.request.valid, 1)
            while True:
                cycle += 1
                ctx.set(dut.redo, cycle == moment)
                ctx.set(dut.invalidate_pages, cycle == moment)
                if cycle == moment:
                    mc.home.memory.write(place, (after << 10 | 0xD7).to_bytes(8, "little"))
                    redone = cycle
                for name, queue in answers.items():
                    port = getattr(dut, f"{name}_memory")
                    ctx.set(port.a.ready, 1)
                    there = bool(queue) and queue[0][0] <= cycle
                    ctx.set(port.d.valid, there)
                    if there:
                        ctx.set(port.d.payload, {"opcode": 1, "data": queue.pop(0)[1]})
                accepted = ctx.get(dut.request.ready & dut.request.valid)
                for name, queue in answers.items():
                    ask = getattr(dut, f"{name}_memory").a
                    if ctx.get(ask.valid):
                        address, size = ctx.get(ask.payload.address), ctx.get(ask.payload.size)
                        queue += [(cycle + latency + beat, mc.home.word(address + 8 * beat)) for beat in range(1 << size - 3)]
                if ctx.get(dut.response.valid):
                    found = ctx.get(dut.response.payload.translation.ppn)
                    assert found == before if redone is None else found == after or cycle <= redone + 1, (moment, cycle, found)
                    changed += found == after
                    break
                await ctx.tick()
                if accepted:
                    ctx.set(dut.request.valid, 0)
            ctx.set(dut.redo, 0)
            await ctx.tick().repeat(3)

    run(dut, bench)
    assert changed > 2 * latency


@pytest.mark.hazard("H33")
def test_an_entry_that_is_another_is_left_alone():
    """Whatever stands there: the wrong page, nothing valid, a pointer."""
    mc = machine("mismatch")
    entry = mc.home.word(mc.entry(2))

    async def test(mc, ctx):
        for value in (entry ^ 1 << 10, entry ^ 1 << 53, entry & ~1, entry & ~0xE, entry | 1 << 60):
            mc.home.memory.write(mc.entry(2), value.to_bytes(8, "little"))
            assert await mc.move(ctx, 2, tries=mc.rng.randrange(2), by_entry=True) == [(MISMATCH, 1)]
            assert mc.home.word(mc.entry(2)) == value and not mc.copies
        mc.home.memory.write(mc.entry(2), entry.to_bytes(8, "little"))
    mc.run(test)


@pytest.mark.hazard("H33")
def test_an_entry_that_software_takes_away_meanwhile_stays_away():
    """A CPU unmaps a page at some moment of its move. Then it is unmapped, whatever the move says: it was before, or comes after."""
    mc, seen, wanted = machine("unmap", copy_cycles=2, pages=32), set(), []

    async def unmap(ctx):
        while not mc.stop:
            await ctx.tick()
            if wanted and mc.cycle >= wanted[0][0]:
                mc.home.access(0, *wanted.pop()[1:])
    mc.extra.append(unmap)

    async def test(mc, ctx):
        for page in range(mc.pages):
            entry = mc.home.word(mc.entry(page))
            wanted.append((mc.cycle + 5 * page, mc.entry(page), entry & ~1))
            (status, _), = await mc.move(ctx, page, tries=2 * (page & 1), by_entry=True)
            seen.add(status)
            while wanted or not mc.home.idle:
                await ctx.tick()
            assert not mc.home.word(mc.entry(page)) & 1
            mc.lies[page] = mc.ppn(page)
    mc.run(test)
    assert seen == {MOVED, MISMATCH}


@pytest.mark.hazard("H36")
def test_what_is_no_page_of_4_kib():
    for size, by_entry, expected in ((page_size(1), False, TOO_LARGE), (NAPOT_SIZE, False, TOO_LARGE), (NAPOT_SIZE, True, TOO_LARGE)):
        mc = machine("large")
        mc.space.map(0x8000_0000, 0x20_0000_0000, size)
        mc.space.map(0x8000_0000 + 8 * page_size(1), 0x30_0000_0000, PAGE)
        place = mc.space.place(0x8000_0000, 1 if size == page_size(1) else 0)
        old = mc.home.word(place)

        async def test(mc, ctx, place=place, old=old, by_entry=by_entry, expected=expected):
            ppn = old >> 10 & (1 << 44) - 1
            await mc.order(ctx, *Command(place if by_entry else 0x8000_0000, ppn, 0x5000, 0, by_entry).halves)
            await mc.finished(ctx)
            assert mc.record(0)[0] == expected and mc.home.word(place) == old
            await mc.order(ctx, *Command(0x7000_0000, 1, 2, 1).halves)
            await mc.finished(ctx)
            assert mc.record(1)[0] == NOT_FOUND
        mc.run(test)


@pytest.mark.hazard("H35")
@pytest.mark.parametrize("why", ["copy", "mismatch"])
def test_one_of_a_batch_fails_alone(why):
    """Each place in turn: the others are moved."""
    mc = machine(f"part/{why}", copy_cycles=1)

    async def test(mc, ctx):
        for bad in range(8):
            right = mc.lies[bad]
            mc.copy_fault = lambda source, right=right: why == "copy" and source == right
            mc.lies[bad] += 0x100 * (why == "mismatch")
            records = await mc.move(ctx, *range(8), tries=bad & 1)
            mc.lies[bad] = right
            assert records == [(NO_COPY if why == "copy" else MISMATCH, 1) if page == bad else (MOVED, 1) for page in range(8)]
    mc.run(test)


@pytest.mark.hazard("H35")
def test_moves_that_no_batch_takes():
    """Of another line, of another device, twice, and halves alone; the batch goes on without them."""
    mc = machine("misplaced")

    async def test(mc, ctx):
        def command(page, record, more=True, **options):
            return Command(mc.base + page * PAGE, mc.lies.get(page, 0), 0x4000 + record, record, more=more, **options).halves
        halves = [*command(1, 0), *command(9, 1), *command(1, 2), *command(2, 3, device=DEVICE + 1), command(5, 4)[1], command(7, 5)[0],
                  *command(3, 6, more=False)]
        await mc.order(ctx, *halves)
        await mc.finished(ctx)
        assert [mc.record(number)[0] for number in range(7)] == [MOVED, MISPLACED, MISPLACED, MISPLACED, HALF, 0, MOVED]
        mc.lies |= {1: 0x4000, 3: 0x4006}
        # The last that is rejected ends its batch, and so does time.
        await mc.order(ctx, *command(2, 8), *command(9, 9, more=False))
        await mc.finished(ctx)
        await mc.order(ctx, *command(4, 10))
        await mc.finished(ctx)
        assert [mc.record(number)[0] for number in (8, 9, 10)] == [MOVED, MISPLACED, MOVED]
        mc.lies |= {2: 0x4008, 4: 0x400A}
    mc.run(test)


def test_nothing_is_copied_when_the_command_says_so():
    mc = machine("bare")

    async def test(mc, ctx):
        assert await mc.move(ctx, 3, 4, bare=True) == [(MOVED, 1)] * 2
        assert not mc.copies
    mc.run(test)


def test_a_line_that_cannot_be_had():
    for fault in ("denied", "corrupt"):
        mc = machine(f"line/{fault}")
        mc.home.fault = lambda request, fault=fault: fault if request.opcode == 6 else ""

        async def test(mc, ctx):
            assert await mc.move(ctx, 3, by_entry=True) == [(NO_LINE, 1)]
            mc.home.fault = lambda _: ""
            assert await mc.move(ctx, 3, by_entry=True) == [(MOVED, 1)]
        mc.run(test)


@pytest.mark.hazard("H19", "H30")
def test_a_hold_ends_whatever_happens():
    """A copy that takes too long while a CPU waits for the line, and a drain that never ends: nothing is moved, and nobody waits for ever."""
    mc = machine("hold", copy_cycles=400)
    touches(mc, 0.05)

    async def expires(mc, ctx):
        assert await mc.move(ctx, 3, hold_limit=200) == [(EXPIRED, 1)]
        assert mc.home.longest_probe <= 200 + 13
    mc.run(expires, hot=list(range(8)))
    mc = machine("drain")

    async def undrained(mc, ctx):
        mc.drain_never = True
        assert await mc.move(ctx, 3) == [(UNDRAINED, 1)]
        mc.drain_never = False
        # One that the data path gives up is no drain either.
        ctx.set(mc.dut.engine.drain_failed, 1)
        assert await mc.move(ctx, 3) == [(UNDRAINED, 1)] and not mc.copies
        ctx.set(mc.dut.engine.drain_failed, 0)
        assert await mc.move(ctx, 3) == [(MOVED, 1)]
    mc.run(undrained)


@pytest.mark.hazard("H08", "H30", "H32")
@pytest.mark.parametrize("tries", [0, 2])
@pytest.mark.parametrize("both", [False, True])
def test_devices_are_told_and_heard_before_the_copy(tries, both):
    """Holding, the line is asked for only after they have all answered; and without an answer nothing is moved.

    Where an entry of the second stage moves they are told to forget everything: any number of their addresses may lead there.
    """
    mc = machine(f"ats/{tries}", harness={"ats": True}, both=both)

    async def test(mc, ctx):
        everything = 0x7FFF_FFFF_FFFF_F800
        for pages, fails in (((3,), False), ((3, 5), False), ((3,), True)):
            mc.rounds.clear()
            mc.round_fails, copies = fails, len(mc.copies)
            records = await mc.move(ctx, *pages, tries=tries, tells=True)
            assert records == [(UNTOLD if fails else MOVED, 1)] * len(pages)
            payload = mc.base + 3 * PAGE if len(pages) == 1 else mc.base | 0x3800
            assert [(one["payload"], one["gscid"]) for one in mc.rounds] == [(everything if both else payload, 5)]
            assert mc.rounds[0]["held"] == (not tries) and mc.rounds[0]["owned"] == bool(tries) and mc.rounds[0]["copies"] == copies
            assert len(mc.copies) == copies + (0 if fails else len(pages))
            assert not ctx.get(mc.dut.engine.ats_hold)
    mc.run(test)


#: Bugs: where, what is changed, and the tests that must notice.
BUGS = {
    "iotlb_kept": (ModifyEngine, ("self._watches.eq(1), self.invalidate.eq(1)", "self._watches.eq(1)"), test_races, ("one", 0)),
    "walk_with_the_old_entry": (Misses, ("redo, sound = self._redo | self.redo,", "redo, sound = Const(0),"),
                                test_what_a_walk_has_read_is_not_answered_after_a_redo, (30,)),
    "redo_forgotten": (Misses, ("self._redo.eq(redo)", "self._redo.eq(0)"), test_what_a_walk_has_read_is_not_answered_after_a_redo, (30,)),
    "requests_first": (Misses, ("self.locate.valid & turn", "0"), test_races, ("both", 0)),
    "not_drained": (ModifyEngine, ("with m.Elif(self.drained & ~self.drain_failed):", "with m.Elif(1):"), test_races, ("one", 0)),
    "dirty_bit_lost": (ModifyEngine, ("self.format.moved(line.entry, batch", "~0x80 & self.format.moved(line.entry, batch"), test_races, ("one", 3)),
    "expected_page_ignored": (ModifyEngine, ("~(info.leaf & (info.ppn == old))", "~info.leaf"), test_an_entry_that_is_another_is_left_alone, ()),
    "pointer_moved": (ModifyEngine, ("~(info.leaf & (info.ppn == old))", "~(info.ppn == old)"), test_an_entry_that_is_another_is_left_alone, ()),
    "never_holds": (ModifyEngine, ("self.optimistic.eq(self._tries != 1)", "self.optimistic.eq(1)"),
                    test_cpus_that_want_the_line_get_it_and_the_move_ends, ()),
    "keeps_the_owner": (ModifyEngine, ("(self.optimistic & line.touched)", "0"), test_an_optimistic_move_lets_other_lines_be_updated, ()),
    "batch_fails_whole": (ModifyEngine, ("self._fail(m, ModifyStatus.NO_COPY, 1 << self._index)", "self._fail(m, ModifyStatus.NO_COPY)"),
                          test_one_of_a_batch_fails_alone, ("copy",)),
    "napot_moved": (ModifyEngine, ("with m.Elif(judged & info.napot)", "with m.Elif(0)"), test_what_is_no_page_of_4_kib, ()),
    "superpage_moved": (ModifyEngine, ("~located.found | (located.translation.size != PageSize.SIZE_4K)", "~located.found"),
                        test_what_is_no_page_of_4_kib, ()),
    "twice_in_a_batch": (ModifyBatch, ("self._is_near(move) & ~self.there.bit_select(place, 1)", "self._is_near(move)"),
                         test_moves_that_no_batch_takes, ()),
    "of_another_line": (ModifyBatch, ("self._is_near(move) & ~self", "~self"), test_moves_that_no_batch_takes, ()),
    "no_timer_of_the_drain": (ModifyEngine, ("self.drained | self._timer.all()", "self.drained"), test_a_hold_ends_whatever_happens, ()),
    "drain_believed": (ModifyEngine, ("self.drained & ~self.drain_failed", "self.drained"), test_a_hold_ends_whatever_happens, ()),
    "told_but_not_heard": (ModifyEngine, ("with m.If(self.round_failed):", "with m.If(0):"), test_devices_are_told_and_heard_before_the_copy,
                           (0, False)),
    "device_may_ask_again": (ModifyEngine, ("self.ats_hold.eq(1)", "self.ats_hold.eq(0)"), test_devices_are_told_and_heard_before_the_copy,
                             (0, False)),
    "one_address_of_many": (ModifyEngine, ("wide = first.function[0] | self._nested", "wide = first.function[0]"),
                            test_devices_are_told_and_heard_before_the_copy, (0, True)),
}


@pytest.mark.hazard("H01", "H02", "H08", "H30", "H31", "H32", "H33", "H34", "H35", "H36")
@pytest.mark.parametrize("bug", BUGS)
def test_planted_bug_is_found(bug, monkeypatch):
    part, change, test, arguments = BUGS[bug]
    broken = planted(part, *change)
    name, top = ("translator", Translator) if part is Misses else ("engine", ModifyEngine)
    monkeypatch.setitem(PARTS, name, broken if part is top else planted(top, "", "", **{part.__name__: broken}))
    with pytest.raises(AssertionError):
        test(*arguments)
