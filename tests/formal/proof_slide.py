"""Claims about the slide: no entry of the maps gets another meaning under what was decoded for it, and no page moves unguarded."""

from amaranth.hdl import Assert, Assume, Cover, Elaboratable, Module, Mux, Signal
from rules import any_constant, any_value, past

from pagehop.interposer.bitmaps import OwnerOpKind
from pagehop.interposer.slide import Slide
from pagehop_sim.formal import Proof
from pagehop_sim.planted import planted

#: Pages of the maps, and of a word of them.
PAGES, WORD = 4, 2
COUNT = 4   # bits of the counts of a lane


class EntriesKeepTheirMeaning(Elaboratable):
    """A TLP to any page is watched from the comparison of its address until it leaves its lane. While it is there as one of the mapped range, the
    entry of its page is not cleared, nor the word that has its dirty bit; while it is there as one above the range, its page may not move."""
    def __init__(self, slide=Slide):
        self.slide = slide

    def elaborate(self, platform):
        m = Module()
        m.submodules.dut = dut = self.slide(PAGES, COUNT, COUNT, word_pages=WORD)
        low, high = dut.status.low, dut.status.high
        reads = dut.owner_op.valid & dut.owner_op.ready & (dut.owner_op.payload.kind == OwnerOpKind.READ)
        m.d.comb += [
            dut.start.eq(any_value(m, 1, "start")), dut.target.eq(any_value(m, 4, "target")), dut.pages.eq(-1),
            # All pages are at B, and nothing but the lanes makes it wait: the claim is about these.
            dut.check_idle.eq(1), dut.owner_op.ready.eq(1), dut.drop.ready.eq(dut.drop.valid), dut.epochs.advance_ready.eq(1),
            dut.owner_valid.eq(past(m, past(m, reads, "read"), "reads")), dut.owner.eq(1),
        ]
        page, posted = any_constant(m, 4, "page"), any_constant(m, 1, "posted")
        mapped, above, coming = self._watched(m, dut, page, posted)
        clears = dut.owner_op.valid & dut.owner_op.ready & (dut.owner_op.payload.kind == OwnerOpKind.CLEAR)
        m.d.comb += [
            Assert(~(mapped & clears & (dut.owner_op.payload.index == page[:2]))),
            Assert(~(mapped & dut.drop.valid & (dut.drop.payload == page[1]))),
            Assert(~(above & (page < dut.movable))),
            Assert((dut.movable <= high) & (high <= low + PAGES)),
        ]
        self.claim(m, dut, coming)
        return m

    def claim(self, m, dut, coming):
        """What else is claimed."""

    def _watched(self, m, dut, page, posted):
        """Two lanes behind a register in which addresses have been compared, and in one of these lanes the TLP that is watched. Returns whether it
        is on its way as one of the range, as one above it, and whether it was seen."""
        low, high = Signal(32), Signal(33, init=PAGES)   # as the decoder has them
        m.d.sync += [low.eq(dut.status.low), high.eq(dut.status.high)]
        # What stands in the register: anything, to any lane, or what is watched.
        valid, is_posted, watched, seen = Signal(), Signal(), Signal(), Signal()
        mapped, below, number, waits = Signal(), Signal(), Signal(COUNT), Signal()
        takes = any_value(m, 1, "takes")
        advance = ~valid | takes
        m.d.comb += dut.decoded.eq(advance)
        arrives = any_value(m, 1, "arrives")
        is_watched = any_value(m, 1, "is_watched") & ~seen & arrives
        with m.If(advance):
            m.d.sync += [valid.eq(arrives), is_posted.eq(Mux(is_watched, posted, any_value(m, 1, "kind"))), watched.eq(is_watched)]
            with m.If(is_watched):
                m.d.sync += [seen.eq(1), mapped.eq((page >= low) & (page < high)), below.eq(page < low)]
        for name, here in (("posted", is_posted), ("requests", ~is_posted)):
            accepted, left = Signal(COUNT, name=f"{name}_accepted_now"), Signal(COUNT, name=f"{name}_left_now")
            enters, leaves = valid & takes & here, any_value(m, 1, f"{name}_leaves")
            m.d.sync += [accepted.eq(accepted + enters), left.eq(left + leaves)]
            m.d.comb += [
                getattr(dut, f"{name}_accepted").eq(accepted), getattr(dut, f"{name}_left").eq(left),
                Assume(~leaves | (accepted != left)), Assume(~enters | ((accepted - left)[:COUNT] < 6)),
            ]
            ours = posted == (name == "posted")
            with m.If(enters & watched):
                m.d.sync += [waits.eq(1), number.eq(accepted)]
            with m.Elif(ours & waits & leaves & (left == number)):
                m.d.sync += waits.eq(0)
        on_its_way = (valid & watched) | waits
        return on_its_way & mapped, on_its_way & ~mapped & ~below, seen


class Slides(EntriesKeepTheirMeaning):
    """The range slides by half of the maps, with a TLP that was decoded meanwhile."""
    def claim(self, m, dut, coming):
        m.d.comb += Cover((dut.movable == PAGES + WORD) & coming)


PROOFS = [
    Proof("slide_entries", EntriesKeepTheirMeaning.__doc__, EntriesKeepTheirMeaning, "bmc", 34, fast=True, bugs={
        "posted writes are not awaited": lambda: EntriesKeepTheirMeaning(planted(Slide, "posted.passed & requests.passed", "requests.passed")),
        "requests are not awaited": lambda: EntriesKeepTheirMeaning(planted(Slide, "posted.passed & requests.passed", "posted.passed")),
        "what was just decoded is not awaited": lambda: EntriesKeepTheirMeaning(planted(Slide, "(delay == 0) & self.decoded", "delay == 0")),
        "pages above move at once": lambda: EntriesKeepTheirMeaning(planted(
            Slide, 'with m.If(high == end):\n                m.next = "Decode"', 'with m.If(high == end):\n                m.next = "Follow"')),
    }),
    Proof("slide_slides", Slides.__doc__, Slides, "cover", 45, bugs={
        "never looks": lambda: Slides(planted(Slide, "with m.If(self.check_idle):", "with m.If(0):")),
    }),
]
