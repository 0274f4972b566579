"""Claims about leaf tables: a hold keeps what it must and ends, and no mark is lost between a completion and the next harvest (H28)."""

from amaranth.asserts import AnySeq
from amaranth.hdl import Assert, Assume, Elaboratable, Module, Mux, Signal
from amaranth.lib import data
from rules import any_constant, any_value, held, past

from pagehop.ots.leaf_hold import LeafHold
from pagehop.ots.leaf_marks import HARVEST_BUSES, LeafMarks
from pagehop.ots.leaf_table import LeafTable
from pagehop.tlp.headers import CompletionHeader, Fmt, RequestHeader
from pagehop_sim.formal import Proof
from pagehop_sim.planted import edited, planted

#: Entries of the table of the claims: two words of each bitmap. Only entries of the first are read.
ENTRIES, ENTRY_BITS = 128, 6
#: Most cycles for which a hold counts.
LIMIT = 2
#: Most cycles from the end of a hold to the completion: two reads before it, three cycles each, and its own way.
SOON = 2 * 3 + 6
#: Tag of the read that is watched.
TAG = 5


def table(*changes, **parts):
    """A small table whose entries are any in each cycle."""
    return edited(LeafTable, ("range(9, 17)", "range(7, 17)"), ("read.data)", "any_line)"), *changes, any_line=AnySeq(512), **parts)


def request(m, stream, name, walks):
    """Any 8-byte reads of entries, by the walker or by software."""
    header = data.View(RequestHeader(), stream.payload.header)
    tag, entry = any_value(m, 3, f"{name}_tag"), any_value(m, ENTRY_BITS, f"{name}_entry")
    m.d.comb += [
        stream.valid.eq(any_value(m, 1, f"{name}_valid")), stream.payload.first.eq(1), stream.payload.last.eq(1), header.fmt.eq(Fmt.DW3),
        header.length.eq(2), header.first_be.eq(0xF), header.last_be.eq(0xF), header.requester_id.eq(walks), header.tag.eq(tag),
        header.dw2.eq(entry << 3),
    ]
    held(m, stream, Assume, name)
    return header


class Table(Elaboratable):
    """A table with a walker and software that read at any time."""
    limit = LIMIT

    def __init__(self, made=None):
        self.made = made or table()

    def elaborate(self, platform):
        m = Module()
        m.submodules.dut = dut = self.made(64, ENTRIES)
        walk = request(m, dut.walks, "walks", 1)
        request(m, dut.reads, "reads", 0)
        line = any_constant(m, 1, "hold_line")
        m.d.comb += [
            dut.hold.eq(any_value(m, 1, "hold")), dut.hold_limit.eq(self.limit), dut.hold_line.eq(line),
            dut.completion.ready.eq(any_value(m, 1, "completion_ready")),
        ]
        comes = dut.walks.valid & dut.walks.ready
        answer = data.View(CompletionHeader(), dut.completion.payload.header)
        self.claim(m, dut, walk, comes, answer, dut.completion.valid & answer.requester_id[0])
        return m


def holds(m, dut):
    """A hold is in force: asked for, and not ended by itself. From the cycle in which it is asked for."""
    ended = Signal()
    m.d.sync += ended.eq(dut.hold & (ended | dut.expired))
    return dut.hold & ~ended & ~dut.expired


class HeldIsNotAnswered(Table):
    """No completion leaves for a read of the held line that the walker hands over while it is held, before the hold is released or has expired."""
    limit = 8

    def claim(self, m, dut, walk, comes, answer, answers):
        active = holds(m, dut)
        # The one that waits is the last that came.
        waits, inside = Signal(), Signal(4)
        leaves = answers & dut.completion.ready
        m.d.sync += [inside.eq(inside + comes - leaves), waits.eq(active & (waits | (comes & (walk.dw2[6:10] == dut.hold_line))))]
        with m.If(waits & active & answers):
            m.d.comb += Assert(inside > 1)


class HoldsAreBounded(Table):
    """The walker's next read is answered soon, whatever is held once and whatever software reads meanwhile, if completions are taken."""
    def claim(self, m, dut, walk, comes, answer, answers):
        released, inside, since = Signal(), Signal(4), Signal(range(32))
        m.d.comb += [Assume(dut.completion.ready), Assume(~released | ~dut.hold)]
        with m.If(past(m, dut.hold, "hold") & ~dut.hold):
            m.d.sync += released.eq(1)
        m.d.sync += [inside.eq(inside + comes - answers), since.eq(Mux((inside == 0) | answers, 0, since + 1))]
        m.d.comb += Assert(since < LIMIT + SOON)


class NoMarkIsLost(Table):
    """A walker that is told of a leaf has marked it: a harvest that is asked for from then on finds it, unless an earlier one has."""
    def claim(self, m, dut, walk, comes, answer, answers):
        watched, told, reported, asked = Signal(), Signal(), Signal(), Signal()
        entry, dirty = any_constant(m, ENTRY_BITS, "entry"), any_constant(m, 1, "dirty")
        ours = walk.dw2[3:3 + ENTRY_BITS] == entry
        m.d.comb += [Assume(~dut.hold), Assume(ours == (walk.tag == TAG)), Assume(~(watched & dut.walks.valid & ours))]
        leaf = dut.completion.payload.data
        begins = answers & (answer.tag == TAG) & leaf[0] & leaf[1] & (leaf[2] | ~dirty)
        m.d.sync += [watched.eq(watched | (comes & ours)), told.eq(told | begins)]
        for name, (half, clears) in HARVEST_BUSES.items():
            bus, strobe = getattr(dut, name), Signal(8, name=f"{name}_asks")
            m.d.comb += [
                bus.request.valid.eq(any_value(m, 1, f"{name}_valid")), bus.request.payload.strobe.eq(any_value(m, 8, f"{name}_strobe")),
            ]
            held(m, bus.request, Assume, name)
            with m.If(bus.request.valid & bus.request.ready):
                m.d.sync += [strobe.eq(bus.request.payload.strobe), asked.eq(told | begins)]
            found = bus.response.payload.data.bit_select(entry, 1)
            covers = bus.response.valid & strobe.bit_select(entry[3:], 1) & (dirty == half)
            with m.If(covers & asked & ~reported):
                m.d.comb += Assert(found)
            if clears:
                with m.If(covers & found):
                    m.d.sync += reported.eq(1)


def bugs(claim, *changes):
    """The claim about tables with these bugs."""
    return {name: lambda change=change: claim(change()) for name, change in changes}


PROOFS = [
    Proof("leaves_held_is_not_answered", HeldIsNotAnswered.__doc__, HeldIsNotAnswered, "bmc", 12, bugs=bugs(
        HeldIsNotAnswered,
        ("the hold lets one through", lambda: table(("matches & holds), valid[1])", "matches & holds & ~valid[1]), valid[1])"))),
        ("the hold looks late", lambda: table(("Mux(valid[0], self._line(heads[0]), self._line(comes))", "self._line(heads[0])"))),
    )),
    Proof("leaves_holds_are_bounded", HoldsAreBounded.__doc__, HoldsAreBounded, "bmc", LIMIT + SOON + 4, bugs=bugs(
        HoldsAreBounded,
        ("a hold does not end", lambda: table(LeafHold=planted(LeafHold, "(ended | self.expired)", "ended"))),
        ("software's reads go first", lambda: table(("goes[0], turn)", "1, turn)"))),
    )),
    Proof("leaves_no_mark_is_lost", NoMarkIsLost.__doc__, NoMarkIsLost, "bmc", 13, bugs=bugs(
        NoMarkIsLost,
        ("a clear loses a mark of the cycle before", lambda: table(LeafMarks=planted(LeafMarks, "transparent_for=(write,)", ""))),
        ("a clear takes what was not asked for", lambda: table(LeafMarks=planted(
            LeafMarks, "request.strobe), request.strobe), 0)", "~(request.strobe & 0)), 0xFF), 0)"))),
        ("only entries in the first half of a line count", lambda: table(("(last[1:] >= entry)", "(last[1:] >= entry) & (entry < 4)"))),
    )),
]
