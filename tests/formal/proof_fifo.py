"""Claims about ``LaneFifo``: order, capacity, stream rules, throughput."""

from amaranth.hdl import Assert, Assume, Cover, Elaboratable, Module, Signal
from pagehop.tlp.fifo import LaneFifo
from pagehop_sim.formal import Proof
from pagehop_sim.planted import planted
from rules import any_value, drive, held

DEPTH = 2
BITS = 3   # numbers enough that no two items inside look alike


class InOrder(Elaboratable):
    """Items numbered as they enter leave with the same numbers in the same order: none is lost, doubled or changed."""
    def __init__(self, fifo=LaneFifo):
        self.fifo = fifo

    def elaborate(self, platform):
        m = Module()
        m.submodules.dut = dut = self.fifo(BITS, DEPTH)
        drive(m, dut.i, "i")
        m.d.comb += dut.o.ready.eq(any_value(m, 1, "o_ready"))
        put, got = Signal(BITS), Signal(BITS)
        m.d.sync += [put.eq(put + (dut.i.valid & dut.i.ready)), got.eq(got + (dut.o.valid & dut.o.ready))]
        with m.If(dut.i.valid):
            m.d.comb += Assume(dut.i.payload == put)
        with m.If(dut.o.valid):
            m.d.comb += [Assert(dut.o.payload == got), Assert(put != got)]
        m.d.comb += Assert((put - got)[:BITS] == dut.level + dut.o.valid)
        self.more(m, dut, put, got)
        return m

    def more(self, m, dut, put, got):
        """What a claim built on this one adds."""


class KeepsStreamRules(Elaboratable):
    """``o`` keeps what it offers until it is taken."""
    def __init__(self, fifo=LaneFifo):
        self.fifo = fifo

    def elaborate(self, platform):
        m = Module()
        m.submodules.dut = dut = self.fifo(BITS, DEPTH)
        drive(m, dut.i, "i")
        m.d.comb += dut.o.ready.eq(any_value(m, 1, "o_ready"))
        held(m, dut.o, Assert, "o")
        return m


class NeverStuck(InOrder):
    """An item that is inside is offered within two cycles, and an accepted item needs no successor to come out."""
    def more(self, m, dut, put, got):
        waits = Signal(3)
        with m.If((put != got) & ~dut.o.valid):
            m.d.sync += waits.eq(waits + 1)
        with m.Else():
            m.d.sync += waits.eq(0)
        m.d.comb += [Assert(waits <= 2), Assert(dut.i.ready | (dut.level == DEPTH))]


class FillsAndEmpties(InOrder):
    """The queue can be filled to its last place, emptied, and its pointers go round."""
    def more(self, m, dut, put, got):
        was_full = Signal()
        with m.If(dut.o.valid & ~dut.i.ready):
            m.d.sync += was_full.eq(1)
        m.d.comb += [Cover(was_full & (put == got)), Cover(dut.i.valid & dut.i.ready & dut.o.valid & dut.o.ready & (put == 6))]


overtakes = planted(LaneFifo, "put.eq(self.i.valid & ~full & ~(refill & empty))", "put.eq(self.i.valid & ~full & ~refill)")
overflows = planted(LaneFifo, "full.eq(level_next == self.depth)", "full.eq(0)")
reads_early = planted(LaneFifo, "head_valid.eq((self.level - take) != 0)", "head_valid.eq(level_next != 0)")
changes_mind = planted(LaneFifo, "refill.eq(~self.o.valid | self.o.ready)", "refill.eq(1)")
sleeps = planted(LaneFifo, "head_valid.eq((self.level - take) != 0)", "head_valid.eq((self.level - take) > 1)")
never_full = planted(LaneFifo, "full.eq(level_next == self.depth)", "full.eq(level_next >= self.depth - 1)")

PROOFS = [
    Proof("fifo_in_order", InOrder.__doc__, InOrder, "bmc", 12, fast=True, bugs={
        "an item bypasses older ones": lambda: InOrder(overtakes),
        "a full queue accepts": lambda: InOrder(overflows),
        "the memory is read in the cycle of the write": lambda: InOrder(reads_early),
    }),
    Proof("fifo_stream_rules", KeepsStreamRules.__doc__, KeepsStreamRules, "prove", 4, fast=True, bugs={
        "the output register is loaded while it waits": lambda: KeepsStreamRules(changes_mind),
    }),
    Proof("fifo_never_stuck", NeverStuck.__doc__, NeverStuck, "bmc", 12, bugs={
        "the last item waits for the next": lambda: NeverStuck(sleeps),
        "the last place is never used": lambda: NeverStuck(never_full),
    }),
    Proof("fifo_fills_and_empties", FillsAndEmpties.__doc__, FillsAndEmpties, "cover", 14, fast=True, bugs={
        "the last item waits for the next": lambda: FillsAndEmpties(sleeps),
    }),
]
