# amaranth: UnusedElaboratable=no
"""Leaf tables: what a walker reads is noted before it knows, software loses no mark, and a hold ends (H28, H29)."""

import pytest
from amaranth.hdl import Module, Signal
from amaranth.lib import wiring
from hypothesis import given, settings
from hypothesis import strategies as st
from leaf_machine import ACCESSED, BUSES, ENTRIES, HOST, LINE, WALKER, LeafMachine, bits_of, grants, may_mark, random_entry

from pagehop.ots.leaf_hold import LeafHold
from pagehop.ots.leaf_marks import HARVEST_BUSES, LeafMarks
from pagehop.ots.leaf_table import LeafTable
from pagehop.ots.leaf_writes import LeafWrites
from pagehop_sim.planted import planted
from pagehop_tb.models.iommu.tables import RiscvEntry
from pagehop_tb.protocol import Kind, Tlp
from pagehop_tb.simulate import run, seeded

LEAF, READ_ONLY, POINTER = map(bits_of, (RiscvEntry.leaf(0x123, 0), RiscvEntry.leaf(0x123, 0, writable=0), RiscvEntry.pointer(0x123)))
#: Lines that random traffic meets at, and where the table is, as far as its address bits go.
LINES, BASE = (0, 1, 7, 8, 63), 0x12_3456_7000


def drive(name, bench, **parts):
    machine = LeafMachine(seeded(name), **parts)

    async def whole(ctx):
        machine.set_limit(ctx, 60)
        await bench(ctx, machine)
        await machine.until_quiet(ctx)

    run(machine.dut, whole)
    for counter, count in machine.wanted.items():
        assert machine.counts[counter] == count, f"{machine.counts[counter]} pulses on {counter}, not {count}"
    return machine


def random_request(rng, kind, requester, tag):
    """A request, of which most are served."""
    address = BASE + LINE * rng.choice(LINES) + rng.randrange(0, LINE, 4)
    length = rng.choice((1, 2, 2, 16 - address % LINE // 4, rng.randrange(1, 17), rng.randrange(1, 17)))
    if rng.random() < 0.5 and length == 2:
        address &= ~7
    first, last = rng.choice(((15, 15), (15, 15), (rng.randrange(16), rng.randrange(1, 16))))
    if length == 1:
        last = 0 if rng.random() < 0.95 else 3
    else:
        first = first or 8
    common = {"address": address, "length": length, "first_be": first, "last_be": last, "traffic_class": rng.randrange(8),
              "relaxed_ordering": rng.random() < 0.3, "no_snoop": rng.random() < 0.3, "address_type": rng.choices((0, 1, 2), (30, 1, 1))[0]}
    if kind is Kind.MWR:
        # A payload of whole entries, one of which stands where they begin.
        entries = b"".join(random_entry(rng).to_bytes(8, "little") for _ in range(9))
        common |= {"data": entries[address % 8:address % 8 + 4 * length], "poisoned": rng.random() < 0.05}
    elif kind is Kind.MRD and rng.random() < 0.1:
        common |= {"hints": True, "first_be": rng.randrange(16), "last_be": rng.randrange(16)}
    elif kind in (Kind.FETCH_ADD, Kind.CAS):
        length = 8 if kind is Kind.CAS else 2
        common |= {"address": address & ~31, "length": length, "data": bytes(4 * length), "first_be": 15, "last_be": 15, "address_type": 0}
    return Tlp(kind, requester, tag, **common)


def traffic(machine, count):
    """Requests and harvests of all kinds, on few lines."""
    rng, kinds = machine.rng, (Kind.MRD,) * 20 + (Kind.MRDLK, Kind.FETCH_ADD, Kind.CAS)
    for number in range(count):
        machine.send("posted", random_request(rng, Kind.MWR, HOST, 0))
        machine.send("walks", random_request(rng, rng.choice(kinds), WALKER, number % 1024))
        if number % 3 == 0:
            machine.send("reads", random_request(rng, rng.choice(kinds), HOST, number % 1024))
            machine.asked.append((rng.choice(list(BUSES)), rng.choice((0, 0, 1, 7)), rng.choice((0xFF, 0xFF, rng.randrange(1, 256)))))


def any_interleaving(name, *, count=150, **parts):
    async def bench(ctx, machine):
        rng = machine.rng
        traffic(machine, count)
        while not machine.quiet:
            await machine.step(ctx)
            if machine.hold is None:
                if rng.random() < 0.02:
                    machine.begin_hold(ctx, rng.choice(LINES))
            elif rng.random() < 0.02:
                machine.end_hold(ctx)
                machine.set_limit(ctx, rng.choice((0, 1, 5, 60, 200)))
            assert machine.cycle < 50 * count, "nothing comes through"
        if machine.hold is not None:
            machine.end_hold(ctx)
        for bus in ("take_accessed", "take_dirty"):
            for word in range(ENTRIES // 64):
                await machine.take(ctx, bus, word)
        assert not machine.due

    machine = drive(name, bench, **parts)
    assert machine.compared > count and machine.marked > count // 8 and machine.counts["unsupported"] > count // 20


@pytest.mark.hazard("H28", "H29")
@pytest.mark.parametrize(("data_bytes", "pace", "in_entries"), [(16, 0.9, 0), (32, 0.5, 1), (64, 0.6, 0), (64, 0.95, 1)])
def test_no_mark_is_missed_in_any_interleaving(data_bytes, pace, in_entries):
    any_interleaving(f"leaves/{data_bytes}/{pace}/{in_entries}", data_bytes=data_bytes, pace=pace, in_entries=in_entries)


ANY_ENTRY = st.one_of(st.integers(0, 255), st.integers(0, (1 << 64) - 1))


@pytest.mark.hazard("H29")
@settings(max_examples=3, deadline=None, derandomize=True)
@given(st.lists(st.tuples(st.lists(ANY_ENTRY, min_size=8, max_size=8), st.integers(0, 15), st.integers(1, 16)), min_size=8, max_size=12))
def test_each_entry_that_is_touched_counts_as_its_bits_say(cases):
    async def bench(ctx, machine):
        for entries, start, length in cases:
            length = min(length, 16 - start)
            machine.write(8, *entries)
            await machine.until_quiet(ctx)
            machine.walk(64 + 4 * start, 4 * length)
            await machine.until_quiet(ctx)
            touched = range(start // 2, (start + length - 1) // 2 + 1)
            for kind, name in enumerate(("take_accessed", "take_dirty")):
                found = await machine.take(ctx, name, 0)
                must = sum(1 << 8 + number for number in touched if grants(entries[number])[kind])
                may = sum(1 << 8 + number for number in touched if may_mark(entries[number])[kind])
                assert found & must == must and found & ~may == 0
                assert await machine.take(ctx, name, 0) == 0

    drive("leaves/entries", bench, pace=1)


@pytest.mark.hazard("H29")
def test_a_pointer_sets_nothing_and_a_line_is_eight_entries():
    async def bench(ctx, machine):
        machine.write(8, *[LEAF] * 8)
        machine.write(16, POINTER, READ_ONLY, 0, LEAF & ~1, bits_of(RiscvEntry.leaf(0x200, 1)), *[POINTER] * 3)
        await machine.until_quiet(ctx)
        for line in (1, 2):
            machine.walk(LINE * line, LINE)
        await machine.until_quiet(ctx)
        assert await machine.take(ctx, "peek_dirty", 0) == 0xFF << 8 | 1 << 20
        assert await machine.take(ctx, "take_dirty", 0) == 0xFF << 8 | 1 << 20
        assert await machine.take(ctx, "take_accessed", 0) == 0xFF << 8 | 1 << 20 | 1 << 17
        assert await machine.take(ctx, "peek_accessed", 0) == 0

    drive("leaves/pointer", bench)


@pytest.mark.hazard("H28", "H29")
@pytest.mark.parametrize("in_entries", [0, 1])
def test_what_software_reads_of_the_marks(in_entries):
    """The walker sees A and D; software what it wrote, and the marks if it likes, until it takes them. Its own reads mark nothing."""
    seen = []

    async def one(ctx, machine, entry):
        machine.read(8 * entry)
        while not (machine.began is None and machine.quiet):
            await machine.step(ctx)
            if machine.received:
                seen.append(int.from_bytes(machine.received, "little"))
        return seen[-1] & 0xC0

    async def bench(ctx, machine):
        both, accessed = (0xC0, 0x40) if in_entries else (0, 0)
        machine.write(0, LEAF & ~0xC0, READ_ONLY & ~0xC0)
        await machine.until_quiet(ctx)
        assert await one(ctx, machine, 0) == 0
        assert await machine.take(ctx, "peek_accessed", 0) == 0
        machine.walk(0, 16)
        await machine.until_quiet(ctx)
        assert (await one(ctx, machine, 0), await one(ctx, machine, 1)) == (both, accessed)
        assert await machine.take(ctx, "take_dirty", 0) == 1
        assert await one(ctx, machine, 0) == accessed
        assert await machine.take(ctx, "take_accessed", 0) == 3
        assert await one(ctx, machine, 0) == 0

    drive("leaves/software", bench, in_entries=in_entries, data_bytes=16, pace=1)


def test_five_cycles_and_a_read_in_three():
    async def bench(ctx, machine):
        for number in range(40):
            machine.walk(8 * number)
        await machine.until_quiet(ctx)
        assert machine.latencies[0] == 5 and machine.cycle < 3 * 40 + 20

    drive("leaves/fast", bench, pace=1)


def test_a_read_sees_the_write_handed_over_a_cycle_before():
    """The model allows only contents of the cycle in which the read is handed over, and later ones."""
    async def bench(ctx, machine):
        for number in range(1, 20):
            machine.write(0, *[number] * 8)
            while machine.lanes["posted"].todo or machine.lanes["posted"].beats:
                await machine.step(ctx)
            machine.read(0, LINE)
            await machine.until_quiet(ctx)

    for data_bytes in (16, 64):
        assert drive("leaves/after", bench, pace=1, data_bytes=data_bytes).compared == 19


@pytest.mark.hazard("H28", "H24")
def test_a_hold_keeps_the_walker_and_nobody_else():
    async def bench(ctx, machine):
        machine.write(0, READ_ONLY)
        await machine.until_quiet(ctx)
        machine.begin_hold(ctx, 0)
        machine.walk(0)
        machine.walk(LINE)
        for _ in range(30):
            machine.read(0)
            await machine.step(ctx)
        assert ctx.get(machine.dut.waiting) and len(machine.waiting["walks"]) == 1 and machine.compared > 5
        assert max(machine.latencies) < 12
        machine.write(0, LEAF)
        for _ in range(5):
            await machine.step(ctx)
        machine.end_hold(ctx)
        await machine.until_quiet(ctx)
        # It got the new entry: it may write.
        assert await machine.take(ctx, "take_dirty", 0) == 1 and machine.counts["expired"] == 0

    drive("leaves/hold", bench, pace=1)


@pytest.mark.hazard("H28")
def test_a_hold_ends_by_itself_and_must_be_asked_for_anew():
    async def bench(ctx, machine):
        await machine.step(ctx)
        machine.begin_hold(ctx, 0)
        machine.walk(0)
        await machine.until_quiet(ctx)
        assert machine.counts["expired"] == 1 and machine.cycle < 100
        machine.walk(0)
        await machine.until_quiet(ctx)
        assert machine.cycle < 140
        machine.end_hold(ctx)
        await machine.step(ctx)
        machine.begin_hold(ctx, 0)
        machine.walk(0)
        for _ in range(50):
            await machine.step(ctx)
        assert ctx.get(machine.dut.waiting)
        machine.end_hold(ctx)

    drive("leaves/expired", bench, pace=1)


class LateMarks(LeafMarks):
    """Planted bug: marks stand some cycles after the completion has left."""
    def elaborate(self, platform):
        m = Module()
        m.submodules.inner = inner = LeafMarks(self.entries)
        for name in HARVEST_BUSES:
            wiring.connect(m, wiring.flipped(getattr(self, name)), getattr(inner, name))
        for name in ("look", "line", "accessed", "dirty"):
            value = getattr(self, name)
            for _ in range(12):
                late = Signal.like(value)
                m.d.sync += late.eq(value)
                value = late
            m.d.comb += getattr(inner, name).eq(value)
        return m


def every_moment(name, **parts):
    """Harvests and holds in each cycle around a read."""
    async def bench(ctx, machine):
        machine.write(0, LEAF)
        for moment in range(13):
            machine.walk(LINE)
            await machine.until_quiet(ctx)
            machine.walk(0)
            for cycle in range(13):
                if cycle == moment:
                    machine.asked.append(("take_accessed", 0, 0xFF))
                await machine.step(ctx)
            await machine.until_quiet(ctx)
            await machine.take(ctx, "take_accessed", 0)
            assert not [mark for mark in machine.due if mark.kind == ACCESSED]
        for moment in range(10):
            machine.walk(LINE)
            for cycle in range(10):
                if cycle == 5:
                    machine.walk(0)
                if cycle == moment:
                    machine.begin_hold(ctx, 0)
                await machine.step(ctx)
            machine.end_hold(ctx)
            await machine.until_quiet(ctx)

        machine.set_limit(ctx, 5)
        await machine.step(ctx)
        machine.begin_hold(ctx, 0)
        for _ in range(10):
            await machine.step(ctx)

    drive(name, bench, pace=1, **parts)


@pytest.mark.hazard("H28")
def test_harvests_and_holds_in_each_cycle():
    every_moment("leaves/moments")


BUGS = {
    "marks after the completion": planted(LeafTable, "", "", LeafMarks=LateMarks),
    "only the first of eight is marked": planted(LeafTable, "(last[1:] >= entry)", "(place[1:] == entry)"),
    "a clear loses a mark of the cycle before": planted(LeafTable, "", "", LeafMarks=planted(LeafMarks, "transparent_for=(write,)", "")),
    "a clear takes what was not asked for": planted(
        LeafTable, "", "", LeafMarks=planted(LeafMarks, "request.strobe), request.strobe), 0)", "~(request.strobe & 0)), 0xFF), 0)")),
    "read-only counts as dirty": planted(LeafTable, "entry[_READABLE] & entry[_WRITABLE]", "entry[_READABLE]"),
    "a pointer counts": planted(LeafTable, "entry[_VALID] & (entry[_READABLE] | entry[_EXECUTABLE])", "entry[_VALID]"),
    "software's reads count": planted(LeafTable, "(found.walks & found.served & valid).r", "(found.served & valid).r"),
    "the hold lets one through": planted(
        LeafTable, "Cat(valid[0] & ~(matches & holds), valid[1])", "Cat(valid[0] & ~(matches & holds & ~valid[1]), valid[1])"),
    "the hold looks late": planted(LeafTable, "Mux(valid[0], self._line(heads[0]), self._line(comes))", "self._line(heads[0])"),
    "a hold does not end": planted(LeafTable, "", "", LeafHold=planted(LeafHold, "(ended | self.expired)", "ended")),
    "the walker sees A and D as stored": planted(LeafTable, "leaf & (found.walks | (self.in_entries", "leaf & ((self.in_entries"),
    "a poisoned write is done": planted(LeafTable, "", "", LeafWrites=planted(LeafWrites, "whole & served & ~damaged", "whole & served")),
}


#: Bugs that show in single cycles.
OF_MOMENTS = ("marks after the completion", "a clear loses a mark of the cycle before", "the hold looks late", "a hold does not end")


@pytest.mark.hazard("H28", "H29")
@pytest.mark.parametrize("bug", BUGS)
def test_planted_bug_is_found(bug):
    with pytest.raises(AssertionError):
        if bug in OF_MOMENTS:
            every_moment("leaves/bug", table=BUGS[bug])
        else:
            any_interleaving("leaves/bug", count=150, pace=0.9, table=BUGS[bug])


@pytest.mark.parametrize("entries", [256, 1000, 131_072])
def test_entries_are_a_power_of_two(entries):
    with pytest.raises(ValueError, match=rf"^Entries of leaf tables must be a power of two from 512 to 65536, not {entries}$"):
        LeafTable(64, entries)


def test_beats_have_a_width_that_it_is_built_for():
    with pytest.raises(ValueError, match=r"^Beats of leaf tables must have 16, 32 or 64 bytes, not 128$"):
        LeafTable(128)
