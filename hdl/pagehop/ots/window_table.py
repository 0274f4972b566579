"""Where each window leads, and what software orders of it."""

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import memory, stream, wiring
from amaranth.lib.wiring import In, Out

from pagehop.ots.layouts import Refusal, WindowCommand, WindowEntry, WindowOp, check_windows, window_bits
from pagehop.ots.monitor import MONITOR_CYCLES
from pagehop.tlp.pages import PAGE_NUMBER_BITS

__all__ = ["WindowTable"]

#: Readers of the table: the posted lane, the lane of requests, software, the flush, the mover.
_READERS = 5

#: Cycles until both lanes see what has changed in the table.
_SEEN_CYCLES = 2


class WindowTable(wiring.Component):
    """Keep the entry of each window, and change it between two accesses.

    **Orders.** For each order both lanes pause: nothing begins to leave, and what has left has set its marks. Then the order is carried out in one
    cycle, or refused, and the lanes go on when they see it: about ten cycles. So "nothing was written" and the new target are one (H25):

    - TAKE: a closed window gets a target, and holds what comes (H26). OPEN: it lets through what it held. HOLD: it holds.
    - TRACK: forget what was accessed. COMMIT: if nothing was written since, and no atomic waits for its answer (H58), get another target.
    - CLOSE: no window any more; its address has another generation when it is taken again (H27).
    - COPY: of a window whose page the mover copies: the lanes pause until all that came is in the copy, then the window gets the other target.

    **Holds end by themselves** after ``limit`` to ``limit`` + 2 x 16 cycles: the window opens to the target that it has, and says so (``expired``)
    until it is taken, held or opened again (H19).

    Members
    -------
    order : stream in, taken while nothing is carried out. refusal, refused, carried : out; pulses, and why
    pauses : out, to both lanes. copied, gave_up : in, what a COPY waits for, within a limit of theirs
    was_written, atomics : in, a bit a window. clear, window : to the monitor
    index, entry : read ports, data one cycle after the index. expired : out, a bit a window
    limit : in, cycles. overdue : out, pulses when a hold ends by it. committed : out, pulses when ``window`` gets another ``target``
    """
    def __init__(self, windows):
        check_windows(windows)
        self.windows = windows
        window = window_bits(windows)
        super().__init__({
            "order": In(stream.Signature(WindowCommand(windows))), "refused": Out(1), "refusal": Out(Refusal), "carried": Out(1), "pauses": Out(1),
            "was_written": In(windows), "atomics": In(windows), "clear": Out(1), "window": Out(window),
            "index": In(window).array(_READERS), "entry": Out(WindowEntry).array(_READERS), "expired": Out(windows), "limit": In(32),
            "copied": In(1), "gave_up": In(1), "committed": Out(1), "target": Out(PAGE_NUMBER_BITS), "overdue": Out(1),
        })

    def elaborate(self, platform):
        m = Module()
        m.submodules.entries = entries = memory.Memory(shape=WindowEntry, depth=1 << len(self.window), init=[])
        write = entries.write_port()
        for index, entry in zip(self.index, self.entry, strict=True):
            read = entries.read_port(transparent_for=(write,))
            m.d.comb += [read.addr.eq(index), entry.eq(read.data)]
        ours = entries.read_port()
        order, now, held, since = Signal(self.order.payload.shape()), Signal(WindowEntry), Signal(self.windows), Signal(range(MONITOR_CYCLES + 1))
        overdue, which = self._watch(m, held)
        after, allowed, why, by_limit = Signal(WindowEntry), Signal(), Signal(Refusal), Signal()
        m.d.comb += [
            ours.addr.eq(order.window), now.eq(ours.data), write.addr.eq(order.window), write.data.eq(after), self.window.eq(order.window),
            self.refusal.eq(why), self.target.eq(order.target.number),
        ]
        self._decide(m, order, now, after, allowed, why)
        with m.FSM():
            with m.State("Idle"):
                m.d.comb += self.order.ready.eq(~overdue)
                m.d.sync += [order.eq(self.order.payload), since.eq(0)]
                m.d.sync += by_limit.eq(overdue)
                with m.If(overdue):
                    m.d.sync += [order.op.eq(WindowOp.OPEN), order.window.eq(which), order.known.eq(1)]
                with m.If(overdue | self.order.valid):
                    m.d.sync += self.pauses.eq(1)
                    m.next = "Pause"
            with m.State("Pause"):
                m.d.sync += since.eq(since + (since != MONITOR_CYCLES))
                with m.If((since == MONITOR_CYCLES) & ((order.op != WindowOp.COPY) | self.copied | self.gave_up)):
                    m.next = "Act"
            with m.State("Act"):
                m.d.comb += [
                    write.en.eq(allowed & (order.op != WindowOp.TRACK)), self.clear.eq(allowed & (order.op == WindowOp.TRACK)),
                    self.overdue.eq(by_limit), self.carried.eq(allowed & ~by_limit), self.refused.eq(~allowed & ~by_limit),
                    self.committed.eq(allowed & ((order.op == WindowOp.COMMIT) | (order.op == WindowOp.COPY))),
                ]
                one = 1 << order.window
                with m.If(write.en):
                    m.d.sync += [
                        held.eq((held & ~one) | Mux(after.open & after.held, one, 0)),
                        self.expired.eq((self.expired & ~one) | Mux(by_limit, one, 0)),
                    ]
                m.d.sync += since.eq(0)
                m.next = "Seen"
            with m.State("Seen"):
                m.d.sync += since.eq(since + 1)
                with m.If(since == _SEEN_CYCLES):
                    m.d.sync += self.pauses.eq(0)
                    m.next = "Idle"
        return m

    def _decide(self, m, order, now, after, allowed, why):
        """What the order makes of the entry, if it may."""
        atomics, written = self.atomics.bit_select(order.window, 1), self.was_written.bit_select(order.window, 1)
        m.d.comb += [after.eq(now), allowed.eq(order.known & (why == Refusal.NONE))]
        with m.If(~order.known):
            m.d.comb += why.eq(Refusal.UNKNOWN)
        with m.Switch(order.op):
            with m.Case(WindowOp.TAKE):
                m.d.comb += [after.target.eq(order.target), after.open.eq(1), after.held.eq(1), after.plain.eq(order.plain)]
                with m.If(order.known & now.open):
                    m.d.comb += why.eq(Refusal.STATE)
            with m.Default():
                with m.If(order.known & ~now.open):
                    m.d.comb += why.eq(Refusal.STATE)
        with m.Switch(order.op):
            with m.Case(WindowOp.NONE):
                m.d.comb += why.eq(Refusal.STATE)
            with m.Case(WindowOp.OPEN, WindowOp.HOLD):
                m.d.comb += after.held.eq(order.op == WindowOp.HOLD)
            with m.Case(WindowOp.COMMIT, WindowOp.COPY):
                m.d.comb += after.target.eq(order.target)
                with m.If(order.known & now.open & (atomics | Mux(order.op == WindowOp.COPY, ~self.copied, written))):
                    m.d.comb += why.eq(Refusal.WRITTEN)
            with m.Case(WindowOp.CLOSE):
                m.d.comb += [after.open.eq(0), after.held.eq(0), after.generation.eq(now.generation + 1)]

    def _watch(self, m, held):
        """Look at the windows in turn, and name one that has held for too long: both are registers."""
        m.submodules.begun = begun = memory.Memory(shape=32, depth=1 << len(self.window), init=[])
        write, read = begun.write_port(), begun.read_port(domain="comb")
        cycles, turn, looked, then, was_held, before = Signal(32), Signal.like(self.window), Signal.like(self.window), Signal(32), Signal(), Signal()
        overdue, which, age = Signal(), Signal.like(self.window), Signal(32)
        looked_next, holds = Signal.like(self.window), Signal()
        m.d.comb += [read.addr.eq(turn), write.addr.eq(turn), write.data.eq(cycles)]
        known = Signal(self.windows)   # whose beginning has been noted
        begins = held.bit_select(turn, 1) & ~known.bit_select(turn, 1)
        m.d.comb += write.en.eq(begins)
        one = Mux(held.bit_select(turn, 1), 1 << turn, 0)
        m.d.sync += [
            cycles.eq(cycles + 1), turn.eq(Mux(turn == self.windows - 1, 0, turn + 1)), known.eq((known & held) | one),
            # Three steps: what was noted, how long ago that is, whether that is too long.
            then.eq(read.data), was_held.eq(held.bit_select(turn, 1) & ~begins), looked.eq(turn),
            age.eq(cycles - then), before.eq(was_held), looked_next.eq(looked),
            holds.eq(before & (age >= self.limit)), which.eq(looked_next),
        ]
        m.d.comb += overdue.eq(holds & held.bit_select(which, 1))
        return overdue, which
