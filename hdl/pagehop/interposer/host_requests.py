"""Lanes of a host's own requests, posted and not, from the ordering queue to the gate."""

from amaranth.hdl import Module, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from pagehop.interposer.layouts import Destination, Issued
from pagehop.interposer.stages import ADDRESS_WORDS, LookupStage, address_words, with_words
from pagehop.tlp import headers
from pagehop.tlp.egress import EgressLane
from pagehop.tlp.ordering import PostedState, may_go
from pagehop.tlp.room import completion_lines

__all__ = ["HostPostedLane", "HostRequestLane"]


class HostPostedLane(wiring.Component):
    """Translate a host's posted TLPs and offer them to the gate.

    Two cycles from ``i`` to ``offer``, one beat a cycle. Never held by a move (D5): ``offset`` leads to one place. What has no destination is
    dropped whole
    (``unsupported`` pulses).

    Members
    -------
    offset : added to addresses that go through the aperture.
    room : one bit a :class:`Destination` but the last, it takes a posted TLP.
    """
    def __init__(self, data_bytes, lane_shape):
        self.lane_shape = lane_shape
        super().__init__({
            "i": In(stream.Signature(lane_shape)), "offer": Out(stream.Signature(Issued(data_bytes))),
            "offset": In(64), "room": In(3), "unsupported": Out(1),
        })

    def elaborate(self, platform):
        m = Module()
        # The sum in the first stage, in the second the form of the header that it needs.
        m.submodules.stages = stages = LookupStage(self.lane_shape, data.StructLayout({"far_words": ADDRESS_WORDS}))
        valid, head, far_address = stages.o.valid, stages.o.payload.head, Signal(64)
        go, drop, leaves = Signal(), Signal(), Signal()
        issued = self.offer.payload
        with m.If(stages.enable):
            m.d.sync += far_address.eq(headers.address_of(stages.head.beat.header) + self.offset)
        m.d.comb += [
            stages.i.valid.eq(self.i.valid), stages.i.payload.eq(self.i.payload), self.i.ready.eq(stages.i.ready), stages.o.ready.eq(leaves),
            stages.result.far_words.eq(address_words(stages.middle.beat.header, far_address)),
            self.offer.valid.eq(valid & go), leaves.eq((self.offer.valid & self.offer.ready) | drop),
            self.unsupported.eq(valid & head.beat.first & drop),
            issued.beat.eq(head.beat), issued.lane.eq(EgressLane.POSTED), issued.destination.eq(head.info.destination),
            issued.to_memory.eq(head.info.destination == Destination.OTHER),
        ]
        # Decided a cycle ahead, for the beat that will stand here.
        for moves, beat in ((1, stages.middle), (0, head)):
            dropped = beat.info.destination == Destination.DROP
            with m.If(stages.advance == moves):
                m.d.sync += [
                    drop.eq(dropped), go.eq(~dropped & (~beat.beat.first | self.room.bit_select(beat.info.destination, 1))),
                ]
        with m.If(head.beat.first & (head.info.destination == Destination.OTHER)):
            m.d.comb += issued.beat.header.eq(with_words(head.beat.header, stages.o.payload.result.far_words))
        return m


class HostRequestLane(wiring.Component):
    """Translate and re-tag a host's requests to one destination and offer them to the gate.

    Two cycles from ``i`` to ``offer``, one request every three cycles. A request to the device or to the other host leaves under our ID and a tag of
    ours (D16), for which
    it waits, as for room for its completions (D7); one to the registers is untouched.

    Parameters
    ----------
    destination : :class:`Destination` of the lane.
    return_lines : lines that the lane of its completions can hold.

    Members
    -------
    requester_id, tag, tag_valid : what it leaves under.
    return_room : lines left in the lane of its completions.
    clear : no request stands in the issue register.
    """
    def __init__(self, data_bytes, lane_shape, destination, return_lines=1):
        self.data_bytes, self.destination = data_bytes, destination
        super().__init__({
            "i": In(stream.Signature(lane_shape)), "offer": Out(stream.Signature(Issued(data_bytes))),
            "posted": In(PostedState(lane_shape["stamp"].width)), "offset": In(64), "room": In(1), "clear": In(1),
            "requester_id": In(16), "tag": In(8), "tag_valid": In(1), "return_room": In(range(return_lines + 1)),
        })

    def elaborate(self, platform):
        m = Module()
        head = self.i.payload
        far_address, lines = Signal(64), Signal(7)
        go, body = Signal(), Signal()   # the head may go, but for `clear`; a later beat stands here
        far_words = Signal(ADDRESS_WORDS)
        header = with_words(head.beat.header, far_words) if self.destination == Destination.OTHER else head.beat.header
        m.d.comb += [self.i.ready.eq(self.offer.valid & self.offer.ready), self.offer.valid.eq((go & self.clear) | (body & self.i.valid))]
        self._present(m, header, body)
        m.d.sync += go.eq(0)
        with m.FSM():
            with m.State("Prepare"):
                m.d.sync += [far_address.eq(headers.address_of(head.beat.header) + self.offset), lines.eq(completion_lines(head.beat.header))]
                with m.If(self.i.valid):
                    m.next = "Translate"
            with m.State("Translate"):
                m.d.sync += [far_words.eq(address_words(head.beat.header, far_address)), go.eq(self._may_go(head, lines))]
                m.next = "Offer"
            with m.State("Offer"):
                m.d.sync += go.eq(self._may_go(head, lines))
                with m.If(self.i.ready):
                    m.d.sync += [go.eq(0), body.eq(~head.beat.last)]
                    m.next = "Prepare"
                    with m.If(~head.beat.last):
                        m.next = "Body"
            with m.State("Body"):
                with m.If(self.i.ready & head.beat.last):
                    m.d.sync += body.eq(0)
                    m.next = "Prepare"
        m.d.comb += [self.offer.payload.lane.eq(EgressLane.NON_POSTED), self.offer.payload.destination.eq(self.destination),
                     self.offer.payload.non_posted.eq(1), self.offer.payload.lines.eq(lines)]
        return m

    def _may_go(self, head, lines):
        """1 when there is room for the request and for its answer and nothing is to go before it. It stays so until the next request is chosen."""
        free = may_go(head.stamp, self.posted) & self.room
        return free if self.destination == Destination.LOCAL else free & self.tag_valid & (self.return_room >= lines)

    def _present(self, m, header, body):
        request = data.View(headers.RequestHeader(), self.offer.payload.beat.header)
        m.d.comb += self.offer.payload.beat.eq(self.i.payload.beat)
        with m.If(~body):
            m.d.comb += self.offer.payload.beat.header.eq(header)
            if self.destination != Destination.LOCAL:
                m.d.comb += [
                    request.requester_id.eq(self.requester_id),
                    headers.whole_tag(request).eq(self.tag),
                ]
