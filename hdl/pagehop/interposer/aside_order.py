"""What the posted TLPs that were put aside mean for those behind them."""

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from pagehop.interposer.layouts import Source, Standing
from pagehop.tlp.fifo import LaneFifo
from pagehop.tlp.ordering import DIRECT, PostedState

__all__ = ["AsideOrder", "passes_all"]


def passes_all(source, standing):
    """1 when a TLP of this source may pass every posted TLP that is aside."""
    return ~standing.everybody & Cat(~used | source.may_pass(other) for used, other in zip(standing.used, standing.sources, strict=True)).all()


class AsideOrder(wiring.Component):
    """Remember of whom posted TLPs are aside, and which of all posted TLPs is the oldest that has not left (O1, H16).

    The sources of four requesters are told apart. When there are more, nothing passes until none is aside.

    Parameters
    ----------
    stamp_bits : of the numbers of posted TLPs.
    depth : TLPs that can be aside, a power of two.

    Members
    -------
    ended : a posted TLP leaves its lane in this cycle, to the gate or aside, with its last beat.
    enters, source : one goes aside, with its first beat. ``leaves``: the oldest that was put aside has gone through the gate.
    accepted, left : posted TLPs that came, and of these that left their lane, as the ordering queue counts them.
    standing : of whom posted TLPs are aside, from the cycle after ``enters`` on.
    posted : as the queue's, but a TLP that is aside has not left, nor has one behind it. A cycle behind.
    """
    def __init__(self, stamp_bits, depth):
        self.stamp_bits, self.depth = stamp_bits, depth
        super().__init__({
            "ended": In(1), "enters": In(1), "source": In(Source), "leaves": In(1),
            "accepted": In(stamp_bits), "left": In(stamp_bits),
            "standing": Out(Standing), "posted": Out(PostedState(stamp_bits), init={"none": 1}),
        })

    def elaborate(self, platform):
        m = Module()
        entry, number = Signal(range(len(self.standing.used) + 1)), Signal(self.stamp_bits)
        shape = data.StructLayout({"number": self.stamp_bits, "entry": entry.shape()})
        m.submodules.oldest = oldest = LaneFifo(shape, self.depth, direct=self.depth <= DIRECT)
        inside = Signal(range(self.depth + 2))
        m.d.sync += [number.eq(number + self.ended), inside.eq(inside + self.enters - self.leaves)]
        m.d.comb += [
            # There is room, for the TLP itself has found a place.
            oldest.i.valid.eq(self.enters), oldest.i.payload.number.eq(number), oldest.i.payload.entry.eq(entry),
            oldest.o.ready.eq(self.leaves),
        ]
        self._remember(m, entry, oldest.o.payload.entry, inside)
        self._count(m, oldest.o, inside)
        return m

    def _remember(self, m, entry, leaving, inside):
        """An entry a source, with the TLPs that are aside of it."""
        standing, known, free = self.standing, Signal(len(self.standing.used)), Signal(range(len(self.standing.used) + 1))
        counts = [Signal.like(inside, name=f"count_{place}") for place in range(len(known))]
        m.d.comb += [known.eq(Cat(used & other.is_like(self.source) for used, other in zip(standing.used, standing.sources, strict=True))),
                     free.eq(len(known)), entry.eq(free)]
        for place in reversed(range(len(known))):
            with m.If(~standing.used[place]):
                m.d.comb += free.eq(place)
        for place, count in enumerate(counts):
            with m.If(known[place]):
                m.d.comb += entry.eq(place)
            comes, goes = self.enters & (entry == place), self.leaves & (leaving == place)
            m.d.sync += [count.eq(count + comes - goes), standing.used[place].eq(comes | (count != goes))]
            with m.If(comes):
                m.d.sync += standing.sources[place].eq(self.source)
        with m.If(self.enters & (entry == len(known))):
            m.d.sync += standing.everybody.eq(1)
        with m.Elif(inside == 0):
            m.d.sync += standing.everybody.eq(0)

    def _count(self, m, oldest, inside):
        left = Signal(self.stamp_bits)
        # The next number may come a cycle after one has left; what has left grows later then.
        m.d.comb += left.eq(Mux(inside == 0, self.left, Mux(oldest.valid, oldest.payload.number, self.posted.left)))
        m.d.sync += [self.posted.left.eq(left), self.posted.waiting.eq(self.accepted - left), self.posted.none.eq(self.accepted == left)]
