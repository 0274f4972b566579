"""Claims about the slide: no entry of the maps gets another meaning under what was decoded for it, and no page moves unguarded."""

from amaranth.hdl import Assert, Cover, Elaboratable, Module, Mux, Signal
from rules import any_constant, any_value, past

from pagehop.interposer.bitmaps import OwnerOpKind
from pagehop.interposer.slide import Slide
from pagehop_sim.formal import Proof
from pagehop_sim.planted import planted

#: Pages of the maps, and of a word of them.
PAGES, WORD = 4, 2
COUNT = 3   # bits of the counts of a lane


class EntriesKeepTheirMeaning(Elaboratable):
    """A TLP to any page is watched from the comparison of its address until it leaves its lane. While it is there as one of the mapped range, the
    entry of its page is not cleared, nor the word that has its dirty bit; while it is there as one above the range, its page may not move."""
    def __init__(self, slide=Slide):
        self.slide = slide

    def elaborate(self, platform):
        m = Module()
        m.submodules.dut = dut = self.slide(PAGES, COUNT, COUNT, COUNT, word_pages=WORD)
        low, high = dut.status.low, dut.status.high
        reads = dut.owner_op.valid & dut.owner_op.ready & (dut.owner_op.payload.kind == OwnerOpKind.READ)
        m.d.comb += [
            # A slide is asked for in the first cycle; what is watched comes at any time.
            dut.start.eq(~past(m, 1, "began")), dut.target.eq(any_constant(m, 3, "target")), dut.pages.eq(-1),
            # All pages are at B, and nothing but the lanes makes it wait: the claim is about these.
            dut.check_idle.eq(1), dut.owner_op.ready.eq(1), dut.drop.ready.eq(dut.drop.valid), dut.epochs.advance_ready.eq(1),
            dut.owner_valid.eq(past(m, past(m, reads, "read"), "reads")), dut.owner.eq(1),
        ]
        page, posted = any_constant(m, 3, "page"), any_constant(m, 1, "posted")
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
        """A register in which addresses have been compared, and a lane behind it with some TLPs before the one that is watched, which may wait aside
        behind the lane when it is a request; the other lane is empty. Returns whether what is watched is on its way as one of the range, as one
        above it, and whether it came."""
        low, high = Signal(32), Signal(33, init=PAGES)   # as the decoder has them
        m.d.sync += [low.eq(dut.status.low), high.eq(dut.status.high)]
        held, waits, came, mapped, below = (Signal(name=name) for name in ("held", "waits", "came", "mapped", "below"))
        takes, leaves = any_value(m, 1, "takes"), any_value(m, 1, "leaves")
        arrives = any_value(m, 1, "arrives") & ~came
        aside, aside_entered, aside_left = Signal(), Signal(), Signal()
        goes_aside = any_value(m, 1, "goes_aside") & ~posted
        m.d.comb += [dut.aside_entered.eq(aside_entered), dut.aside_left.eq(aside_left)]
        accepted, before, left = any_constant(m, COUNT, "accepted"), any_constant(m, 2, "before"), Signal(COUNT)
        m.d.comb += dut.decoded.eq(~held | takes)
        with m.If(arrives):
            m.d.sync += [came.eq(1), held.eq(1), mapped.eq((page >= low) & (page < high)), below.eq(page < low)]
        with m.If(held & takes):
            m.d.sync += [held.eq(0), waits.eq(1)]
        # It leaves behind those that stood before it.
        last = left == before
        with m.If(leaves & (~last | waits)):
            m.d.sync += left.eq(left + 1)
            with m.If(last):
                m.d.sync += waits.eq(0)
                m.d.sync += [aside.eq(goes_aside), aside_entered.eq(goes_aside)]
        with m.If(aside & any_value(m, 1, "leaves_aside")):
            m.d.sync += [aside.eq(0), aside_left.eq(1)]
        entered = came & ~held
        for name, ours in (("posted", posted), ("requests", ~posted)):
            m.d.comb += [
                getattr(dut, f"{name}_accepted").eq(Mux(ours, accepted + entered, accepted)),
                getattr(dut, f"{name}_left").eq(Mux(ours, accepted - before + left, accepted)),
            ]
        underway = held | waits | aside
        return underway & mapped, underway & ~mapped & ~below, came


class Slides(EntriesKeepTheirMeaning):
    """The range slides by half of the maps, with a TLP that was decoded meanwhile."""
    def claim(self, m, dut, coming):
        m.d.comb += Cover((dut.movable == PAGES + WORD) & coming)


PROOFS = [
    Proof("slide_entries", EntriesKeepTheirMeaning.__doc__, EntriesKeepTheirMeaning, "bmc", 38, bugs={
        "posted writes are not awaited": lambda: EntriesKeepTheirMeaning(planted(Slide, "posted.passed & requests.passed", "requests.passed")),
        "requests are not awaited": lambda: EntriesKeepTheirMeaning(planted(Slide, "posted.passed & requests.passed", "posted.passed")),
        "requests that went aside are not awaited": lambda: EntriesKeepTheirMeaning(planted(Slide, "with m.If(aside.passed):", "with m.If(1):")),
        "what was just decoded is not awaited": lambda: EntriesKeepTheirMeaning(planted(Slide, "(delay == 0) & self.decoded", "delay == 0")),
        "pages above move at once": lambda: EntriesKeepTheirMeaning(planted(
            Slide, 'with m.If(high == end):\n                m.next = "Decode"', 'with m.If(high == end):\n                m.next = "Follow"')),
    }),
    Proof("slide_slides", Slides.__doc__, Slides, "cover", 49, bugs={
        "never looks": lambda: Slides(planted(Slide, "with m.If(self.check_idle):", "with m.If(0):")),
    }),
]
