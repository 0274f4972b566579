"""A lane of the TLP side of the IOMMU, from the ordering queue to the gate."""

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from pagehop.iommu.front_layouts import Decision, FrontBeat, Route
from pagehop.iommu.layouts import PAGE_BITS
from pagehop.tlp import headers
from pagehop.tlp.egress import EgressLane
from pagehop.tlp.ordering import PostedState, may_go

__all__ = ["FrontLane"]


class FrontLane(wiring.Component):
    """Offer the TLPs of a lane to the gate, in order, when it has been decided about them and posted TLPs before them have left.

    One beat a cycle; a TLP a cycle of posted TLPs, one every two cycles of others. What is dropped leaves at one beat a cycle.

    Members
    -------
    i, posted : of the ordering queue. decision : taken with the first beat
    room : in, a bit a :class:`Route` onward, to the refusals, to the translation completions: it takes a TLP
    offer : out. ends : out, a TLP leaves with its last beat
    """
    def __init__(self, data_bytes, lane_shape, lane):
        self.data_bytes, self.lane = data_bytes, lane
        super().__init__({
            "i": In(stream.Signature(lane_shape)), "posted": In(PostedState(lane_shape["stamp"].width)), "decision": In(stream.Signature(Decision)),
            "room": In(3), "offer": Out(stream.Signature(FrontBeat(data_bytes))), "ends": Out(1),
        })

    def elaborate(self, platform):
        m = Module()
        beat, decision, offered = self.i.payload.beat, self.decision.payload, self.offer.payload
        begun, passes, begins, first = Signal(Decision), Signal(), Signal(), beat.first
        now, dropping = Signal(Decision), Signal()
        m.d.comb += [
            now.eq(Mux(first, decision, begun)), dropping.eq(now.route == Route.DROPPED),
            begins.eq(self.decision.valid & (passes | (self.lane == EgressLane.POSTED)) & Cat(self.room, 1, 1).bit_select(decision.route, 1)),
            self.offer.valid.eq(self.i.valid & (~first | begins) & ~dropping),
            self.i.ready.eq(Mux(dropping, ~first | begins, self.offer.ready)),
            self.decision.ready.eq(self.i.valid & self.i.ready & first), self.ends.eq(self.i.valid & self.i.ready & beat.last),
            offered.beat.eq(beat), offered.lane.eq(self.lane), offered.route.eq(now.route), offered.aborts.eq(now.aborts),
            offered.translation.eq(now.translation),
        ]
        with m.If(first & decision.rewrites & (decision.route == Route.ONWARD)):
            address = Signal(64)
            m.d.comb += [
                address.eq(Cat(headers.address_of(beat.header)[:PAGE_BITS], decision.translation.ppn)),
                offered.beat.header.eq(headers.with_address(beat.header, address, decision.wide)),
            ]
        with m.If(self.decision.ready):
            m.d.sync += begun.eq(decision)
        # Of a head that stays: the stamps of the next are not seen yet.
        m.d.sync += passes.eq(self.i.valid & first & ~self.i.ready & may_go(self.i.payload.stamp, self.posted))
        return m
