"""Claims about ``LaneFifo``: order, capacity, stream rules, throughput."""

from amaranth.hdl import Assert, Assume, Cover, Elaboratable, Module, Signal
from rules import any_value, drive, held, past

from pagehop.tlp.fifo import LaneFifo
from pagehop_sim.formal import Proof
from pagehop_sim.planted import planted

DEPTH = 4
BITS = 4   # numbers enough that no two items inside look alike


class InOrder(Elaboratable):
    """Items numbered as they enter leave with the same numbers in the same order: none is lost, doubled or changed."""
    def __init__(self, fifo=LaneFifo, direct=False):
        self.fifo, self.direct = fifo, direct

    def elaborate(self, platform):
        m = Module()
        m.submodules.dut = dut = self.fifo(BITS, DEPTH, direct=self.direct)
        drive(m, dut.i, "i")
        m.d.comb += dut.o.ready.eq(any_value(m, 1, "o_ready"))
        put, got = Signal(BITS), Signal(BITS)
        m.d.sync += [put.eq(put + (dut.i.valid & dut.i.ready)), got.eq(got + (dut.o.valid & dut.o.ready))]
        with m.If(dut.i.valid):
            m.d.comb += Assume(dut.i.payload == put)
        with m.If(dut.o.valid):
            m.d.comb += [Assert(dut.o.payload == got), Assert(put != got)]
        # With a register one item is not in the memory.
        m.d.comb += Assert((put - got)[:BITS] == dut.level + (0 if self.direct else dut.o.valid))
        self.more(m, dut, put, got)
        return m

    def more(self, m, dut, put, got):
        """What a claim built on this one adds."""


class KeepsStreamRules(Elaboratable):
    """``o`` keeps what it offers until it is taken."""
    def __init__(self, fifo=LaneFifo, direct=False):
        self.fifo, self.direct = fifo, direct

    def elaborate(self, platform):
        m = Module()
        m.submodules.dut = dut = self.fifo(BITS, DEPTH, direct=self.direct)
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
        # The queue may refuse one item too early, in the cycle after it was almost full.
        m.d.comb += [Assert(waits <= 2), Assert(dut.i.ready | (past(m, dut.level, "level") >= DEPTH - 1))]


class FillsAndEmpties(InOrder):
    """The queue can be filled to its last place, emptied, and its pointers go round."""
    def more(self, m, dut, put, got):
        was_full = Signal()
        with m.If(dut.level == DEPTH):
            m.d.sync += was_full.eq(1)
        m.d.comb += [Cover(was_full & (put == got)), Cover(dut.i.valid & dut.i.ready & dut.o.valid & dut.o.ready & (put == 6))]


BUGS = {
    "an item bypasses older ones": ("put.eq(self.i.valid & ~full & ~(refill & empty))", "put.eq(self.i.valid & ~full & ~refill)"),
    "a full queue accepts": ("full.eq(self.level >= self.depth - 1)", "full.eq(0)"),
    "the queue is full one item late": ("full.eq(self.level >= self.depth - 1)", "full.eq(self.level >= self.depth)"),
    "the memory is read in the cycle of the write": (
        "Mux(take, taken_next != written, taken != written)", "Mux(take, taken_next != written + put, taken != written + put)"),
    "the output register is loaded while it waits": ("refill.eq(~self.o.valid | self.o.ready)", "refill.eq(1)"),
    "the last item waits for the next": (
        "Mux(take, taken_next != written, taken != written)", "Mux(take, taken_next != written, taken_next != written)"),
    "half of the places are never used": ("full.eq(self.level >= self.depth - 1)", "full.eq(self.level >= self.depth // 2 - 1)"),
}


BUGS_DIRECT = {
    "a full queue accepts": ("put.eq(self.i.valid & self.i.ready)", "put.eq(self.i.valid)"),
    "an item is offered before it is there": ("self.o.valid.eq(put | ", "self.o.valid.eq(self.i.valid | "),
    "the last item stays": ("put | Mux(take, self.level[1:].any(), self.level.any())", "put | self.level[1:].any()"),
    "an item is withdrawn": ("Mux(take, self.level[1:].any(), self.level.any())", "self.level[1:].any()"),
}


def bugs(claim, *names):
    """The claim about queues with these bugs."""
    return {name: lambda name=name: claim(planted(LaneFifo, *BUGS[name])) for name in names}


def direct(claim, *names):
    """The claim about a queue that shows its memory; and about such queues with these bugs."""
    changed = {name: lambda name=name: claim(planted(LaneFifo, *BUGS_DIRECT[name]), direct=True) for name in names}
    return lambda: claim(direct=True), changed


PROOFS = [
    Proof("fifo_in_order", InOrder.__doc__, InOrder, "bmc", 11, fast=True, bugs=bugs(
        InOrder, "an item bypasses older ones", "a full queue accepts", "the queue is full one item late",
        "the memory is read in the cycle of the write")),
    Proof("fifo_stream_rules", KeepsStreamRules.__doc__, KeepsStreamRules, "prove", 4, fast=True, bugs=bugs(
        KeepsStreamRules, "the output register is loaded while it waits")),
    Proof("fifo_never_stuck", NeverStuck.__doc__, NeverStuck, "bmc", 11, bugs=bugs(
        NeverStuck, "the last item waits for the next", "half of the places are never used")),
    Proof("fifo_fills_and_empties", FillsAndEmpties.__doc__, FillsAndEmpties, "cover", 14, fast=True, bugs=bugs(
        FillsAndEmpties, "half of the places are never used")),
    *(Proof(f"fifo_direct_{name}", f"{claim.__doc__} With ``direct``.", direct(claim)[0], kind, depth, fast=True, bugs=direct(claim, *names)[1])
      for name, claim, kind, depth, names in (
        ("in_order", InOrder, "bmc", 11, ("a full queue accepts",)),
        ("stream_rules", KeepsStreamRules, "bmc", 11, ("an item is withdrawn",)),
        ("never_stuck", NeverStuck, "bmc", 11, ("the last item stays",)),
    )),
]
