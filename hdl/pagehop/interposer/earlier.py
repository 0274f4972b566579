"""Whether a request or completion still has to wait for posted TLPs that came before it."""

from amaranth.hdl import Cat, Module, Signal
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from pagehop.interposer.layouts import Standing
from pagehop.tlp.compare import pieces_equal
from pagehop.tlp.ordering import PostedState, may_go

__all__ = ["Earlier"]

class Earlier(wiring.Component):
    """Tell of the TLP that is looked up whether all posted TLPs before it have gone through the gate, or are aside and may be passed (O1, H24d).

    Members
    -------
    looked : what is known of the TLP: its stamp and source. ``gone``: the answer, in the next cycle. ``stands``: it waits for one that is aside.
    posted : which posted TLPs have left their lane. ``through``: which of them have gone through the gate. ``standing``: of whom TLPs are aside.
    """
    def __init__(self, ahead_shape):
        stamp_bits = ahead_shape["stamp"].width
        super().__init__({
            "looked": In(ahead_shape), "gone": Out(1), "stands": Out(1),
            "posted": In(PostedState(stamp_bits)), "through": In(PostedState(stamp_bits)), "standing": In(Standing),
        })

    def elaborate(self, platform):
        m = Module()
        source, stamp = self.looked.info.source, Signal.like(self.looked.stamp)
        passes = [self._passes(m, source, other, used) for other, used in zip(self.standing.sources, self.standing.used, strict=True)]
        m.d.sync += stamp.eq(self.looked.stamp)
        # What went aside in this cycle counts neither among those aside nor among those that have left: the lane is told two cycles later.
        through, left, free = Signal(), Signal(), Signal()
        m.d.comb += [
            through.eq(may_go(stamp, self.through)), left.eq(may_go(stamp, self.posted)), free.eq(~self.standing.everybody & Cat(passes).all()),
            self.gone.eq(through | (left & free)), self.stands.eq(~through & left & ~free),
        ]
        return m

    def _passes(self, m, source, other, used):
        """``source.may_pass(other)``, cut in two by a register, for what is looked up may come straight out of a memory."""
        ids = pieces_equal(source.requester_id, other.requester_id)
        same = Signal(data.StructLayout({"id": len(ids), "others": 1}))
        ordered = Signal()
        m.d.sync += [
            same.id.eq(ids), ordered.eq(~source.id_ordering),
            same.others.eq((source.traffic_class == other.traffic_class) & (source.group == other.group)),
        ]
        return ~used | ~same.others | ~(ordered | same.id.all())
