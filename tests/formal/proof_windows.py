"""Claims about windows of the on-the-side device: accesses go where the last order says and nowhere else (H25, H26, H27), and a hold ends."""

from amaranth.asserts import AnySeq
from amaranth.hdl import Array, Assert, Assume, Elaboratable, Module, Mux, Signal
from amaranth.lib import data
from rules import any_value, drive, held

from pagehop.ots.layouts import OtsInfo, WindowEntry, WindowOp
from pagehop.ots.window_look import WindowLook
from pagehop.ots.window_posted import WindowPosted
from pagehop.ots.window_table import WindowTable
from pagehop.tlp import headers
from pagehop.tlp.headers import Fmt
from pagehop.tlp.ordering import Ahead, LaneBeat
from pagehop.tlp.pages import PAGE_BITS
from pagehop_sim.formal import Proof
from pagehop_sim.planted import edited, planted

WINDOWS, STAMP = 2, 4
#: Cycles after which a window that holds opens by itself, and most cycles that this may take more: a round of the windows, and an order.
LIMIT, MORE = 3, 16


def table(*changes):
    """A table that waits less long before it acts: what it waits for is there sooner, too."""
    return edited(WindowTable, ("since + (since != MONITOR_CYCLES)", "since + (since != 2)"), ("(since == MONITOR_CYCLES)", "(since == 2)"), *changes)


class Windows(Elaboratable):
    """Two windows, any orders, and any writes of one beat. ``kept`` is what the orders that were carried out say of each window."""

    def __init__(self, made=None, lane=WindowPosted):
        self.made, self.lane = made or table(), lane

    def elaborate(self, platform):
        m = Module()
        info = OtsInfo(WINDOWS)
        self.shown = Signal(info)
        m.submodules.table = dut = self.made(WINDOWS)
        m.submodules.lane = lane = self.lane(16, LaneBeat(16, info, STAMP), Ahead(info, STAMP), WINDOWS)
        self._orders(m, dut)
        self._writes(m, lane)
        written, kept = Signal(WINDOWS), Array(Signal(WindowEntry, name=f"kept_{number}") for number in range(WINDOWS))
        m.d.comb += [
            dut.index[0].eq(lane.index), lane.entry.eq(dut.entry[0]), lane.pauses.eq(dut.pauses), lane.room.eq(any_value(m, 1, "room")),
            lane.offer.ready.eq(lane.offer.valid & any_value(m, 1, "ready")), dut.was_written.eq(written), dut.limit.eq(LIMIT), dut.gave_up.eq(1),
        ]
        forgets, now = Mux(dut.clear, 1 << dut.window, 0), Mux(lane.accesses, 1 << lane.access.window, 0)
        m.d.sync += written.eq((written & ~forgets) | now)
        self._keep(m, dut, kept)
        self.claim(m, dut, lane, kept)
        return m

    def _orders(self, m, dut):
        drive(m, dut.order, "order")
        order = dut.order.payload
        m.d.comb += Assume(order.target.wide == order.target.number[32 - PAGE_BITS:].any())

    def _writes(self, m, lane):
        """A write has come when it was shown ahead."""
        drive(m, lane.ahead, "ahead")
        there, beat = Signal(), lane.i.payload.beat
        header = data.View(headers.RequestHeader(), beat.header)
        m.d.comb += [
            lane.i.valid.eq(there & any_value(m, 1, "comes")), beat.first.eq(1), beat.last.eq(1), header.fmt.eq(Fmt.DW3_DATA),
            header.dw2.eq(AnySeq(32)),
        ]
        held(m, lane.i, Assume, "writes")
        with m.If(lane.ahead.valid & lane.ahead.ready):
            m.d.sync += self.shown.eq(lane.ahead.payload.info)
        m.d.sync += there.eq((lane.ahead.valid & lane.ahead.ready) | (there & ~(lane.i.valid & lane.i.ready)))

    def _keep(self, m, dut, kept):
        order = Signal.like(dut.order.payload)
        with m.If(dut.order.valid & dut.order.ready):
            m.d.sync += order.eq(dut.order.payload)
        one = kept[dut.window]
        with m.If(dut.overdue):
            m.d.sync += one.held.eq(0)
        with m.If(dut.carried):
            with m.Switch(order.op):
                with m.Case(WindowOp.TAKE):
                    m.d.sync += [one.open.eq(1), one.held.eq(1), one.target.eq(order.target)]
                with m.Case(WindowOp.OPEN, WindowOp.HOLD):
                    m.d.sync += one.held.eq(order.op == WindowOp.HOLD)
                with m.Case(WindowOp.COMMIT):
                    m.d.sync += one.target.eq(order.target)
                with m.Case(WindowOp.CLOSE):
                    m.d.sync += [one.open.eq(0), one.held.eq(0), one.generation.eq(one.generation + 1)]


class WhereOrdersSay(Windows):
    """A write leaves only through a window that is open, does not hold, and has the generation of its address; and to the page that it was led to
    last."""
    def claim(self, m, dut, lane, kept):
        now = kept[lane.access.window]
        with m.If(lane.accesses):
            m.d.comb += [
                Assert(now.open & ~now.held), Assert(headers.address_of(lane.offer.payload.beat.header)[PAGE_BITS:] == now.target.number),
                Assert(self.shown.generation == now.generation),
            ]


class NothingWasWritten(Windows):
    """A window is led to a copy only when no write has left through it since tracking began."""
    def claim(self, m, dut, lane, kept):
        dirty = Signal(WINDOWS)
        m.d.sync += dirty.eq((dirty & ~Mux(dut.clear, 1 << dut.window, 0)) | Mux(lane.accesses, 1 << lane.access.window, 0))
        with m.If(dut.committed):
            m.d.comb += Assert(~dirty.bit_select(dut.window, 1) & ~(lane.accesses & (lane.access.window == dut.window)))


class HoldsEnd(Windows):
    """A window that holds, and of which nothing is ordered any more, opens soon after its limit."""
    def claim(self, m, dut, lane, kept):
        since = Signal(range(64))
        order = dut.order.valid & dut.order.ready
        m.d.sync += since.eq(Mux(order | ~kept[0].held, 0, since + 1))
        m.d.comb += Assert(since < LIMIT + MORE)


def looking(*change):
    """The lane with a bug in its look at the table."""
    return planted(WindowPosted, "", "", WindowLook=planted(WindowLook, *change))


PROOFS = [
    Proof("windows_lead_where_orders_say", WhereOrdersSay.__doc__, WhereOrdersSay, "bmc", 24, bugs={
        "a window is open when it is taken": lambda: WhereOrdersSay(table(("after.held.eq(1), after.plain", "after.held.eq(0), after.plain"))),
        "what holds lets through": lambda: WhereOrdersSay(lane=looking("reaches & ~self.entry.held", "reaches")),
        "generations are not looked at": lambda: WhereOrdersSay(lane=looking("& (self.entry.generation == info.generation)", "")),
    }),
    Proof("windows_commit_what_was_not_written", NothingWasWritten.__doc__, NothingWasWritten, "bmc", 26, bugs={
        "written is not looked at": lambda: NothingWasWritten(table(("~self.copied, written)", "~self.copied, 0)"))),
        "nothing pauses": lambda: NothingWasWritten(table(("self.pauses.eq(1)", "self.pauses.eq(0)"))),
    }),
    Proof("windows_holds_end", HoldsEnd.__doc__, HoldsEnd, "bmc", 28, bugs={
        "no timer": lambda: HoldsEnd(table(("holds.eq(before & (age >= self.limit))", "holds.eq(0)"))),
    }),
]
