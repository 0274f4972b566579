"""A host's requests, from the lanes of the ordering queue to the gate."""

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from pagehop.interposer.layouts import Destination
from pagehop.tlp import headers
from pagehop.tlp.arbiter import RoundRobin, select_one
from pagehop.tlp.egress import EgressLane
from pagehop.tlp.issue import Issued
from pagehop.tlp.ordering import PostedState, may_go
from pagehop.tlp.pages import far_header

__all__ = ["HostRequests"]

#: Where the requests of each lane go.
DESTINATIONS = (Destination.LOCAL, Destination.DEVICE, Destination.OTHER)


class HostRequests(wiring.Component):
    """Choose among a host's requests to the registers, to the device and to the other host, by turns; translate, re-tag and offer one.

    One cycle from ``i`` to ``offer``, one request at a time. Each lane waits for its own needs, and no lane for another's (D6): nothing posted before
    it (O1), ``room`` where it goes and, but for the registers, a tag of ours (D16) and room for its completions (D7). A request to the device or to
    the other host leaves under our ID and that tag; one to the registers is untouched.

    Parameters
    ----------
    device_lines, other_lines : lines that the lanes of their completions can hold.

    Members
    -------
    i : a lane for each of ``DESTINATIONS``, and ``posted``, of the ordering queue.
    room : one bit a lane. ``clear``: no request stands in the issue register, or is not counted yet.
    device_id, other_id, tag, tag_valid : what a request leaves under.
    device_room, other_room : lines left in the lanes of their completions.
    begins : one bit a lane, its head was taken in this cycle. ``origin_id``, ``origin_tag``: under what it came. ``offer`` has its lines.
    """
    def __init__(self, data_bytes, lane_shape, device_lines, other_lines):
        super().__init__({
            "i": In(stream.Signature(lane_shape)).array(len(DESTINATIONS)), "offer": Out(stream.Signature(Issued(data_bytes))),
            "posted": In(PostedState(lane_shape["stamp"].width)), "room": In(len(DESTINATIONS)), "clear": In(1),
            "device_id": In(16), "other_id": In(16), "tag": In(8), "tag_valid": In(1),
            "device_room": In(range(device_lines + 1)), "other_room": In(range(other_lines + 1)),
            "begins": Out(len(DESTINATIONS)), "origin_id": Out(16), "origin_tag": Out(10),
        })

    def elaborate(self, platform):
        m = Module()
        m.submodules.turns = turns = RoundRobin(len(DESTINATIONS))
        # The lane whose request is offered, chosen a cycle ahead; whether its first beat has gone.
        chosen, inside = Signal(len(DESTINATIONS)), Signal()
        taken, beat = Signal(), self.offer.payload.beat
        for lane, head in enumerate(self.i):
            m.d.comb += [turns.requests[lane].eq(head.valid & self._may_go(m, lane, head)), head.ready.eq(taken & chosen[lane])]
        # What was found of a head stays so until the next request is chosen, and then it is not `clear`.
        with m.If(~inside):
            m.d.sync += chosen.eq(turns.grant)
        with m.If(taken):
            m.d.sync += [inside.eq(~beat.last), chosen.eq(chosen)]
        m.d.comb += [
            self.offer.valid.eq(Mux(inside, (chosen & Cat(head.valid for head in self.i)).any(), chosen.any() & self.clear)),
            taken.eq(self.offer.ready), self.begins.eq(Mux(taken & ~inside, chosen, 0)), turns.served.eq(self.begins), turns.last.eq(1),
        ]
        self._present(m, chosen, inside)
        return m

    def _may_go(self, m, lane, head):
        """1 when there is room for the request and for its answer and nothing is to go before it. Whether posted TLPs have gone takes a cycle for
        each new head while there are any."""
        passed = Signal(name=f"passed_{lane}")
        m.d.sync += passed.eq(head.valid & ~head.ready & may_go(head.payload.stamp, self.posted))
        free = (passed | self.posted.none) & self.room[lane]
        if DESTINATIONS[lane] == Destination.LOCAL:
            return free
        return free & self.tag_valid & ((self.device_room, self.other_room)[lane - 1] >= head.payload.info.lines)

    def _present(self, m, chosen, inside):
        """The request as it leaves: its ID, its tag and its address are in the first beat."""
        device, other = DESTINATIONS.index(Destination.DEVICE), DESTINATIONS.index(Destination.OTHER)
        head, issued = Signal(self.i[0].payload.shape()), self.offer.payload
        request, origin = data.View(headers.RequestHeader(), issued.beat.header), data.View(headers.RequestHeader(), head.beat.header)
        m.d.comb += [
            head.eq(select_one(chosen, [lane.payload for lane in self.i])), issued.beat.eq(head.beat),
            issued.lane.eq(EgressLane.NON_POSTED), issued.destination.eq(select_one(chosen, DESTINATIONS)), issued.non_posted.eq(1),
            issued.lines.eq(head.info.lines), self.origin_id.eq(origin.requester_id), self.origin_tag.eq(headers.whole_tag(origin)),
        ]
        with m.If(~inside & chosen[other]):
            m.d.comb += issued.beat.header.eq(far_header(head.beat.header, head.info.far))
        for lane, requester_id in ((device, self.device_id), (other, self.other_id)):
            with m.If(~inside & chosen[lane]):
                m.d.comb += [request.requester_id.eq(requester_id), headers.whole_tag(request).eq(self.tag)]
