"""Lanes of a host's own requests, posted and not, from the ordering queue to the gate."""

from amaranth.hdl import Module, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from pagehop.interposer.layouts import Destination, Issued
from pagehop.interposer.stages import far_header
from pagehop.tlp import headers
from pagehop.tlp.egress import EgressLane
from pagehop.tlp.ordering import PostedState, may_go

__all__ = ["HostPostedLane", "HostRequestLane"]


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
            self.i.ready.eq((self.offer.valid & self.offer.ready) | drop),
            self.unsupported.eq(self.i.valid & beat.first & drop),
            issued.beat.eq(beat), issued.lane.eq(EgressLane.POSTED), issued.destination.eq(info.destination),
            issued.to_memory.eq(info.destination == Destination.OTHER),
        ]
        with m.If(beat.first & (info.destination == Destination.OTHER)):
            m.d.comb += issued.beat.header.eq(far_header(beat.header, info.far))
        return m


class HostRequestLane(wiring.Component):
    """Translate and re-tag a host's requests to one destination and offer them to the gate.

    One cycle from ``i`` to ``offer``. A request to the device or to the other host leaves under our ID and a tag of ours (D16), for which it waits, as
    for room for its completions (D7); one to the registers is untouched.

    Parameters
    ----------
    destination : :class:`Destination` of the lane.
    return_lines : lines that the lane of its completions can hold.

    Members
    -------
    i, posted : of the ordering queue.
    requester_id, tag, tag_valid : what it leaves under.
    return_room : lines left in the lane of its completions.
    clear : no request stands in the issue register, or is not counted yet.
    """
    def __init__(self, data_bytes, lane_shape, destination, return_lines=1):
        self.destination = destination
        super().__init__({
            "i": In(stream.Signature(lane_shape)), "offer": Out(stream.Signature(Issued(data_bytes))),
            "posted": In(PostedState(lane_shape["stamp"].width)), "room": In(1), "clear": In(1),
            "requester_id": In(16), "tag": In(8), "tag_valid": In(1), "return_room": In(range(return_lines + 1)),
        })

    def elaborate(self, platform):
        m = Module()
        head, offer = self.i.payload, self.offer
        go = Signal()   # this head may go, but for `clear`
        # It stays so until the next request is chosen, and then it is not `clear`.
        m.d.sync += go.eq(self.i.valid & ~self.i.ready & head.beat.first & self._may_go(head))
        m.d.comb += [
            self.i.ready.eq(offer.valid & offer.ready), offer.valid.eq((go & self.clear) | (self.i.valid & ~head.beat.first)),
            offer.payload.lane.eq(EgressLane.NON_POSTED), offer.payload.destination.eq(self.destination), offer.payload.non_posted.eq(1),
            offer.payload.lines.eq(head.info.lines),
        ]
        self._present(m, head)
        return m

    def _may_go(self, head):
        """1 when there is room for the request and for its answer and nothing is to go before it."""
        free = may_go(head.stamp, self.posted) & self.room
        return free if self.destination == Destination.LOCAL else free & self.tag_valid & (self.return_room >= head.info.lines)

    def _present(self, m, head):
        """The request as it leaves: its ID, its tag and its address are in the first beat."""
        request = data.View(headers.RequestHeader(), self.offer.payload.beat.header)
        m.d.comb += self.offer.payload.beat.eq(head.beat)
        with m.If(head.beat.first):
            if self.destination == Destination.OTHER:
                m.d.comb += self.offer.payload.beat.header.eq(far_header(head.beat.header, head.info.far))
            if self.destination != Destination.LOCAL:
                m.d.comb += [request.requester_id.eq(self.requester_id), headers.whole_tag(request).eq(self.tag)]
