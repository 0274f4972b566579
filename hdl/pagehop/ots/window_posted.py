"""The lane of writes to the windows, from the ordering queue to the gate."""

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from pagehop.ots.layouts import Access, WindowEntry, window_bits
from pagehop.ots.window_look import WindowLook
from pagehop.tlp import headers
from pagehop.tlp.egress import EgressLane
from pagehop.tlp.issue import Issued
from pagehop.tlp.pages import PAGE_BITS, far_header
from pagehop.tlp.stream import connect_streams

__all__ = ["WindowPosted", "accessed", "send_through"]


def send_through(m, issued, entry, own_id):
    """Let the first beat that is ``issued`` leave through the window of this entry: to its page, as a request of ours, plain where that says so."""
    request = data.View(headers.RequestHeader(), issued.beat.header)
    m.d.comb += [
        # IDO says of whom a request is independent, and all that leaves here has one ID.
        request.requester_id.eq(own_id), request.id_ordering.eq(0),
    ]
    with m.If(entry.plain | headers.has_data(issued.beat.header)):
        # What changes the page must not pass the last of a copy of it.
        m.d.comb += request.relaxed_ordering.eq(0)
    with m.If(entry.plain):
        m.d.comb += request.no_snoop.eq(0)


def accessed(access, beat, info, writes):
    """Assignments that make ``access`` that of a beat. What an atomic writes is in its first: as much as one operand."""
    fields = data.View(headers.RequestHeader(), beat.header)
    operand = Mux(beat.first, Mux(fields.type == headers.TlpType.COMPARE_AND_SWAP, fields.length[1:], fields.length)[:3], 0)
    return [
        access.window.eq(info.window), access.writes.eq(writes), access.atomic.eq(info.atomic), access.first.eq(beat.first),
        access.last.eq(beat.last), access.first_dword.eq(headers.address_of(beat.header)[2:PAGE_BITS]),
        access.dwords.eq(Mux(info.atomic, operand, beat.dwords)),
        access.first_be.eq(fields.first_be), access.last_be.eq(fields.last_be),
    ]


class WindowPosted(wiring.Component):
    """Offer each write to the page of its window, in order.

    One cycle from ``ahead`` to ``offer``, one beat a cycle. A write to a window that holds waits, and all writes to windows behind it. One to an
    address that is no window's, or not any more, is dropped whole: nobody is to be told of it (H27).

    Members
    -------
    i, ahead : of the ordering queue. index, entry : read port of the table
    own_id : requester ID of what leaves. room : the egress takes a posted TLP. pauses : none begins
    offer : out. left : a posted TLP has left, or was dropped, in the cycle before
    access, accesses : of the beat that leaves in this cycle. dropped : pulses
    holds : the head waits for its window
    """
    def __init__(self, data_bytes, lane_shape, ahead_shape, windows):
        self.ahead_shape, self.windows = ahead_shape, windows
        super().__init__({
            "i": In(stream.Signature(lane_shape)), "ahead": In(stream.Signature(ahead_shape)), "index": Out(window_bits(windows)),
            "entry": In(WindowEntry), "own_id": In(16), "room": In(1), "pauses": In(1), "offer": Out(stream.Signature(Issued(data_bytes))),
            "left": Out(1), "access": Out(Access(windows)), "accesses": Out(1), "dropped": Out(1), "holds": Out(1),
        })

    def elaborate(self, platform):
        m = Module()
        m.submodules.look = look = WindowLook(self.ahead_shape, self.windows)
        connect_streams(m, self.ahead, look.ahead)
        beat, issued, begun, dropping, drops, leaves = self.i.payload.beat, self.offer.payload, Signal(), Signal(), Signal(), Signal()
        m.d.comb += [
            self.index.eq(look.index), look.entry.eq(self.entry), look.leaves.eq(leaves & beat.last),
            drops.eq(self.i.valid & ((~begun & look.refused & ~self.pauses) | dropping)),
            self.offer.valid.eq(self.i.valid & ((~begun & look.opens & self.room & ~self.pauses) | (begun & ~dropping))),
            issued.beat.eq(beat), issued.lane.eq(EgressLane.POSTED), issued.to_memory.eq(1),
            self.accesses.eq(self.offer.valid & self.offer.ready), leaves.eq(self.accesses | drops), self.i.ready.eq(leaves),
            *accessed(self.access, beat, look.known.info, 1),
            self.holds.eq(look.known_valid & self.entry.open & self.entry.held), self.dropped.eq(drops & beat.first),
        ]
        with m.If(beat.first):
            m.d.comb += issued.beat.header.eq(far_header(beat.header, self.entry.target))
            send_through(m, issued, self.entry, self.own_id)
        with m.If(leaves):
            m.d.sync += [begun.eq(~beat.last), dropping.eq(drops & ~beat.last)]
        m.d.sync += self.left.eq(leaves & beat.last)
        return m
