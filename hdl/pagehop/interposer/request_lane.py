"""The lane of the device's non-posted TLPs, from the ordering queue to the gate."""

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from pagehop.interposer.layouts import HOST_B, Guard, Issued, Settings
from pagehop.interposer.stages import ADDRESS_WORDS, address_words, with_words
from pagehop.tlp import headers
from pagehop.tlp.egress import EgressLane
from pagehop.tlp.ordering import PostedState, may_go
from pagehop.tlp.outstanding import row_of
from pagehop.tlp.room import completion_lines

__all__ = ["RequestLane"]


class RequestLane(wiring.Component):
    """Look up the page and the tag of each request and offer it to the gate when nothing holds it.

    Two cycles from ``i`` to ``offer``, one request every three cycles. A request that cannot go is looked up again, so that it sees rows that
    became free and owners that
    changed. It waits for: earlier posted writes (O1), the page not moving, its row of the outstanding table, room for all its completions (D7),
    room in the egress, the fence. None
    of these holds a posted write or a completion (H24).

    Members
    -------
    posted : of the ordering queue.
    owner_index, owner_enable, owner_bit : port of the owner map.
    row, row_enable, occupied : port of the outstanding table. ``give_up``: the row was occupied for ``limit`` cycles.
    return_room : one amount a host, lines that its completion lane still has room for.
    clear : no request stands in the issue register.
    room, proven, waits, dirty, dirty_page : as in :class:`PostedLane`.
    """
    def __init__(self, data_bytes, lane_shape, window_pages, rows, return_lines):
        self.rows = rows
        super().__init__({
            "i": In(stream.Signature(lane_shape)), "offer": Out(stream.Signature(Issued(data_bytes))),
            "posted": In(PostedState(lane_shape["stamp"].width)),
            "settings": In(Settings), "guard": In(Guard(window_pages)), "limit": In(32),
            "owner_index": Out(range(window_pages)), "owner_enable": Out(1), "owner_bit": In(1),
            "row": Out(range(rows)), "row_enable": Out(1), "occupied": In(1), "give_up": Out(1),
            "return_room": In(range(return_lines + 1)).array(2), "clear": In(1),
            "room": In(2), "proven": In(2), "waits": Out(2), "dirty": Out(1), "dirty_page": Out(range(window_pages)),
        })

    def elaborate(self, platform):
        m = Module()
        head, header = self.i.payload, self.i.payload.beat.header
        fields = data.View(headers.RequestHeader(), header)
        found = Signal(data.StructLayout({
            "destination": 1, "far_address": 64, "far_words": ADDRESS_WORDS, "open": 1, "settled": 1, "occupied": 1,
            "lines": 7, "atomic": 1, "fits": 2,
        }))
        body = Signal()   # a later beat stands here
        m.d.comb += [
            self.owner_index.eq(head.info.page),
            self.row.eq(row_of(fields.requester_id, headers.whole_tag(fields), self.rows)),
            self.i.ready.eq(self.offer.valid & self.offer.ready),
        ]
        go = Signal()   # `found.open`, in the cycle in which it may be used
        m.d.sync += go.eq(0)
        free = self._offer(m, head, found, body)
        m.d.comb += self.offer.valid.eq((go & free) | (body & self.i.valid))
        with m.FSM():
            with m.State("Look Up"):
                m.d.comb += [self.owner_enable.eq(self.i.valid), self.row_enable.eq(self.i.valid)]
                m.d.sync += [
                    found.lines.eq(completion_lines(header)), found.atomic.eq(headers.is_atomic(header)),
                    found.far_address.eq(headers.address_of(header) + self.settings.host_b_offset),
                ]
                with m.If(self.i.valid):
                    m.next = "Read"
            with m.State("Read"):
                guarded = self.guard.active & head.info.in_window & (head.info.page == self.guard.page)
                opens = Signal()
                m.d.comb += opens.eq(self.clear & ~self.occupied & ~(guarded & self.guard.closed) & may_go(head.stamp, self.posted))
                m.d.sync += [
                    found.destination.eq(Mux(head.info.in_window, Mux(guarded & self.guard.committed, self.guard.to_host, self.owner_bit),
                                             self.settings.active_host)),
                    found.far_words.eq(address_words(header, found.far_address)),
                    # Only this lane takes rows: with none of its requests before it, what it sees now is true in the next cycle too.
                    found.settled.eq(self.clear),
                    found.open.eq(opens), go.eq(opens),
                    found.occupied.eq(self.occupied),
                    found.fits.eq(Cat((room >= found.lines) & free for room, free in zip(self.return_room, self.room, strict=True))),
                ]
                m.next = "Offer"
            with m.State("Offer"):
                # Taken or not, what was found is stale in the next cycle.
                m.next = "Look Up"
                with m.If(self.i.ready & ~head.beat.last):
                    m.d.sync += body.eq(1)
                    m.next = "Body"
                self._wait_for_row(m, found)
            with m.State("Body"):
                with m.If(self.i.ready & head.beat.last):
                    m.d.sync += body.eq(0)
                    m.next = "Look Up"
        return m

    def _offer(self, m, head, found, body):
        """Drive what is offered; return whether its host has room for the head and no fence stands before it."""
        free, proven = Signal(), Signal()
        destination, issued = found.destination, self.offer.payload
        m.d.comb += [
            proven.eq(self.proven.bit_select(destination, 1)),
            free.eq(found.open & found.fits.bit_select(destination, 1)),
            self.waits.eq(Mux(free & ~proven & ~body, 1 << destination, 0)),
            self.dirty.eq(head.beat.first & head.info.in_window & found.atomic & self.settings.track_dirty),
            self.dirty_page.eq(head.info.page),
            issued.beat.eq(head.beat), issued.lane.eq(EgressLane.NON_POSTED),
            issued.destination.eq(destination),
            issued.non_posted.eq(1), issued.atomic.eq(found.atomic), issued.lines.eq(found.lines),
        ]
        with m.If(~body & head.info.in_window & (destination == HOST_B)):
            m.d.comb += issued.beat.header.eq(with_words(head.beat.header, found.far_words))
        return found.fits.bit_select(destination, 1) & proven

    def _wait_for_row(self, m, found):
        """Give the row up when its answer does not come: its request is long dead, and this one must not wait for ever (H24b)."""
        waited = Signal(32)
        m.d.sync += waited.eq(Mux(found.occupied, waited + 3, 0))
        m.d.comb += self.give_up.eq(found.occupied & found.settled & (waited >= self.limit))
        with m.If(self.give_up):
            m.d.sync += waited.eq(0)
