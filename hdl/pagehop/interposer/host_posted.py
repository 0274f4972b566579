"""The lane of a host's posted TLPs, from the ordering queue to the gate."""

from amaranth.hdl import Module, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from pagehop.interposer.layouts import Destination
from pagehop.tlp.egress import EgressLane
from pagehop.tlp.issue import Issued
from pagehop.tlp.pages import far_header

__all__ = ["HostPostedLane"]


class HostPostedLane(wiring.Component):
    """Translate a host's posted TLPs and offer them to the gate.

    Offered in the cycle in which it stands at the head, one beat a cycle. Never held by a move (D5): the aperture leads to one place. What has no
    destination is dropped whole (``unsupported`` pulses).

    Members
    -------
    i : of the ordering queue.
    room : one bit a :class:`Destination` but the last, it takes a posted TLP.
    """
    def __init__(self, data_bytes, lane_shape):
        super().__init__({
            "i": In(stream.Signature(lane_shape)), "offer": Out(stream.Signature(Issued(data_bytes))), "room": In(3), "unsupported": Out(1),
        })

    def elaborate(self, platform):
        m = Module()
        head, issued = self.i.payload, self.offer.payload
        beat, info, drop = head.beat, head.info, Signal()
        m.d.comb += [
            drop.eq(info.destination == Destination.DROP),
            self.offer.valid.eq(self.i.valid & ~drop & (~beat.first | self.room.bit_select(info.destination, 1))),
            self.i.ready.eq(self.offer.ready | drop),
            self.unsupported.eq(self.i.valid & beat.first & drop),
            issued.beat.eq(beat), issued.lane.eq(EgressLane.POSTED), issued.destination.eq(info.destination),
            issued.to_memory.eq(info.destination == Destination.OTHER),
        ]
        with m.If(beat.first & (info.destination == Destination.OTHER)):
            m.d.comb += issued.beat.header.eq(far_header(beat.header, info.far))
        return m
