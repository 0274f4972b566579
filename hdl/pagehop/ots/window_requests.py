"""The lane of requests to the windows, from the ordering queue to the gate."""

from amaranth.hdl import Cat, Module, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from pagehop.ots.layouts import Access, WindowEntry, window_bits
from pagehop.ots.window_look import WindowLook
from pagehop.ots.window_posted import accessed, send_through
from pagehop.tlp import headers
from pagehop.tlp.egress import EgressLane
from pagehop.tlp.issue import Issued
from pagehop.tlp.ordering import PostedState, may_go
from pagehop.tlp.pages import far_header
from pagehop.tlp.proxy import ProxyEntry
from pagehop.tlp.stream import connect_streams

__all__ = ["WindowRequests"]

#: Cycles from a request to the next: tag, room for its answer and room in the egress have been counted then.
_COOLING = 3


class WindowRequests(wiring.Component):
    """Offer each request to the page of its window under a tag of ours, in order, when what was posted before it has left.

    One cycle from ``ahead`` to ``offer`` when nothing posted is inside, one request every four cycles. A request to a window that holds waits, and
    all requests to windows behind it. One to an address that is no window's, or not any more, is refused with UR (H27).

    Members
    -------
    i, ahead, posted : of the ordering queue. index, entry : read port of the table
    own_id : requester ID of what leaves. tag, tag_valid : what it leaves under. lines_left : room for its answer. room : the egress takes a request
    pauses : none begins
    offer : out. begins : a request left with its first beat in the cycle before; ``origin`` is what its answer needs
    refused : header of a request that is refused. refused_room : in
    access, accesses : of the beat that leaves in this cycle
    holds : the head waits for its window
    """
    def __init__(self, data_bytes, lane_shape, ahead_shape, windows, lines):
        self.ahead_shape, self.windows = ahead_shape, windows
        super().__init__({
            "i": In(stream.Signature(lane_shape)), "ahead": In(stream.Signature(ahead_shape)), "posted": In(PostedState(lane_shape["stamp"].width)),
            "index": Out(window_bits(windows)), "entry": In(WindowEntry), "own_id": In(16), "tag": In(10), "tag_valid": In(1),
            "lines_left": In(range(lines + 1)), "room": In(1), "pauses": In(1), "offer": Out(stream.Signature(Issued(data_bytes))),
            "begins": Out(1), "origin": Out(ProxyEntry), "window": Out(window_bits(windows)),
            "refused": Out(stream.Signature(headers.RequestHeader())), "refused_room": In(1),
            "access": Out(Access(windows)), "accesses": Out(1), "holds": Out(1),
        })

    def elaborate(self, platform):
        m = Module()
        m.submodules.look = look = WindowLook(self.ahead_shape, self.windows)
        connect_streams(m, self.ahead, look.ahead)
        beat, issued, info = self.i.payload.beat, self.offer.payload, look.known.info
        begun, dropping, drops, leaves, cooling = Signal(), Signal(), Signal(), Signal(), Signal(_COOLING)
        # Whether what was posted before it has left takes a cycle for each new head while there is any.
        passed, fits, begins = Signal(), Signal(), Signal()
        m.d.sync += [
            passed.eq(look.known_valid & ~(leaves & beat.last) & may_go(look.known.stamp, self.posted)),
            cooling.eq(Cat(self.accesses & beat.first, cooling)),
        ]
        m.d.comb += [
            fits.eq(self.lines_left >= info.lines),
            self.index.eq(look.index), look.entry.eq(self.entry), look.leaves.eq(leaves & beat.last),
            begins.eq(self.i.valid & ~begun & (passed | self.posted.none) & ~self.pauses & ~cooling.any()),
            drops.eq(self.i.valid & ((begins & look.refused & self.refused_room) | dropping)),
            self.offer.valid.eq(self.i.valid & ((begins & look.opens & self.room & self.tag_valid & fits) | (begun & ~dropping))),
            issued.beat.eq(beat), issued.lane.eq(EgressLane.NON_POSTED), issued.non_posted.eq(1),
            self.accesses.eq(self.offer.valid & self.offer.ready), leaves.eq(self.accesses | drops), self.i.ready.eq(leaves),
            *accessed(self.access, beat, info, info.atomic), self.holds.eq(look.known_valid & self.entry.open & self.entry.held),
        ]
        with m.If(beat.first):
            m.d.comb += issued.beat.header.eq(far_header(beat.header, self.entry.target))
            send_through(m, issued, self.entry, self.own_id)
            m.d.comb += headers.whole_tag(data.View(headers.RequestHeader(), issued.beat.header)).eq(self.tag)
        with m.If(leaves):
            m.d.sync += [begun.eq(~beat.last), dropping.eq(drops & ~beat.last)]
        self._note(m, beat, info, drops)
        return m

    def _note(self, m, beat, info, drops):
        """Registers: what became of the request that leaves."""
        origin = data.View(headers.RequestHeader(), beat.header)
        m.d.sync += [
            self.begins.eq(self.accesses & beat.first), self.origin.requester_id.eq(origin.requester_id),
            self.origin.tag.eq(headers.whole_tag(origin)),
            self.origin.lines.eq(info.lines), self.origin.to_device.eq(info.atomic), self.window.eq(info.window),
            self.refused.valid.eq(drops & beat.first), self.refused.payload.eq(beat.header),
        ]
