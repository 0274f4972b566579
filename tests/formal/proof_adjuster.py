"""Claims about one direction of the ``AddressAdjuster``: what leaves is what came, in its order, at its new address."""

from amaranth.hdl import Assert, Assume, Elaboratable, Module, Mux, Signal, Value
from amaranth.lib import data
from rules import any_constant, any_value, drive, framed, held

from pagehop.interposer.adjuster import AdjusterLane
from pagehop.tlp import headers
from pagehop.tlp.headers import AddressType
from pagehop.tlp.pages import PAGE_BITS
from pagehop_sim.formal import Proof
from pagehop_sim.planted import planted

DATA_BYTES = 16
NUMBER_BITS = 3   # beats inside are fewer than this counts
#: A range astride 4 GB, moved so that some of its headers get longer and none shorter.
BASE, PAGES, OFFSET = 0xFFFF_0000, 32, 0x8000


class SameBeats(Elaboratable):
    """The beat of any number that enters leaves with that number: none is lost, doubled, changed or overtaken. Only a memory or atomic request to
    the range, untranslated and not encrypted, has another address, the offset further on and in the form that it asks for."""
    def __init__(self, lane=AdjusterLane):
        self.lane = lane

    def elaborate(self, platform):
        m = Module()
        m.submodules.dut = dut = self.lane(DATA_BYTES)
        drive(m, dut.i, "i")
        framed(m, dut.i, dut.i.payload, Assume, "i")
        held(m, dut.o, Assert, "o")
        aperture = dut.aperture
        m.d.comb += [
            dut.o.ready.eq(any_value(m, 1, "o_ready")), dut.found.eq(0),
            # One range and one offset: what is added is arithmetic, which solvers are slow at; that it is added to the right beats is the claim.
            aperture.range.base.eq(BASE >> PAGE_BITS), aperture.range.limit.eq((BASE >> PAGE_BITS) + PAGES), aperture.offset.eq(OFFSET),
        ]
        entered, left, number = Signal(NUMBER_BITS), Signal(NUMBER_BITS), any_constant(m, NUMBER_BITS, "number")
        watched, inside = Signal.like(dut.i.payload), Signal()
        enters, leaves = dut.i.valid & dut.i.ready, dut.o.valid & dut.o.ready
        m.d.sync += [entered.eq(entered + enters), left.eq(left + leaves)]
        with m.If(enters & (entered == number) & ~inside):
            m.d.sync += [watched.eq(dut.i.payload), inside.eq(1)]
        with m.If(leaves & (left == number)):
            m.d.sync += inside.eq(0)
        m.d.comb += [Assert(~dut.o.valid | (entered != left))]
        with m.If(dut.o.valid & (left == number)):
            m.d.comb += Assert(inside)
            self._same(m, aperture, watched, dut.o.payload)
        return m

    def _same(self, m, aperture, came, goes):
        header = data.View(headers.RequestHeader(), came.header)
        address, page = headers.address_of(came.header), headers.address_of(came.header)[PAGE_BITS:]
        moves, moved = Signal(), Signal(64)
        m.d.comb += [
            moves.eq(came.first & (headers.is_memory(came.header) | headers.is_atomic(came.header)) & aperture.range.holds_page(page)
                     & (header.address_type == AddressType.UNTRANSLATED) & ~(came.prefix_valid & (came.prefix[24:] == headers.IDE_PREFIX))),
            moved.eq(Mux(moves, address + (aperture.offset >> PAGE_BITS << PAGE_BITS), address)),
        ]
        for field in ("data", "prefix", "dwords", "first", "last", "prefix_valid", "poisoned"):
            m.d.comb += Assert(Value.cast(goes[field]) == Value.cast(came[field]))
        with m.If(moves):
            # All but the address and the bit of Fmt that says how long it is.
            m.d.comb += [
                Assert(headers.address_of(goes.header) == moved), Assert(headers.is_4dw(goes.header) == moved[32:].any()),
                Assert(goes.header[64:125] == came.header[64:125]), Assert(goes.header[126:] == came.header[126:]),
            ]
        with m.Else():
            m.d.comb += Assert(goes.header == came.header)


BUGS = {
    "translated requests are changed": ("inside & plain & (", "inside & ("),
    "what comes later has the address": ("with m.If(stage.enable):", "with m.If(self.i.valid):"),
    "later beats are changed": ("with m.If(beat.first & inside", "with m.If(inside"),
}

PROOFS = [
    Proof("adjuster_same_beats", SameBeats.__doc__, SameBeats, "bmc", 6, bugs={
        name: lambda change=change: SameBeats(planted(AdjusterLane, *change)) for name, change in BUGS.items()}),
]
