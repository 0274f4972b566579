"""The lane of the device's non-posted TLPs, from the ordering queue to the gate."""

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from pagehop.interposer.layouts import HOST_B, Guard, Settings, Written
from pagehop.interposer.set_aside import AsideBeat
from pagehop.interposer.stages import guarded, strict_header, unmapped_place
from pagehop.tlp.compare import pieces_equal
from pagehop.tlp.egress import EgressLane
from pagehop.tlp.headers import RequestHeader
from pagehop.tlp.issue import Issued
from pagehop.tlp.pages import far_header

__all__ = ["RequestLane"]

class RequestLane(wiring.Component):
    """Look up the page and the tag of each request and offer it to the gate when nothing holds it.

    Two cycles from ``ahead`` to ``offer``, one request every three cycles. A request that cannot go is looked up again, so that it sees rows that
    became free and owners that changed. It waits for: earlier posted writes (O1), the page not moving, its row of the outstanding table, room for
    all its completions (D7), room in the egress, the fence. None of these holds a posted write or a completion (H24). A request that a page
    holds, or a posted write that is aside, goes aside too while there is a place: nothing need stay behind a request (table 2-40, H24d).

    Hosts owe answers that may never come. When the row, or room, is missing for ``limit`` cycles, what has it is given up: nothing was issued
    meanwhile, so every request in the table is at least as old. For want of a row that one is, for want of room all are, in 4 cycles a row (H24b).

    While translated requests are blocked, such a request goes nowhere and is answered with UR (H54).

    Members
    -------
    i, ahead : of the ordering queue. ``looked``: what is looked up; ``gone``: in the next cycle, nothing posted stands before it;
    ``stands``: or something does that is aside.
    aside : what is to be offered again later. ``again``: what was taken from ``ahead`` is so offered, and its beats stay when it must wait.
    owner_index, owner_enable, owner_bit : port of the owner map.
    row, row_enable, occupied : port of the outstanding table. ``give_up``: the request in this row is given up.
    return_room : one amount a host, lines that its completion lane still has room for.
    refused : headers of the requests that are blocked.
    clear : no request stands in the issue register or is being noted in the table.
    room, proven, waits, dirty, dirty_page, writes, written : as in :class:`PostedLane`.
    """
    def __init__(self, data_bytes, lane_shape, ahead_shape, window_pages, rows, return_lines, slots=1):
        self.slots = slots
        super().__init__({
            "i": In(stream.Signature(lane_shape)), "ahead": In(stream.Signature(ahead_shape)),
            "offer": Out(stream.Signature(Issued(data_bytes, slots))),
            "looked": Out(ahead_shape), "gone": In(1), "stands": In(1), "again": In(1),
            "aside": Out(stream.Signature(AsideBeat(lane_shape, ahead_shape))),
            "settings": In(Settings), "guard": In(Guard(window_pages)).array(slots), "limit": In(32),
            "owner_index": Out(range(window_pages)), "owner_enable": Out(1), "owner_bit": In(1),
            "row": Out(range(rows)), "row_enable": Out(1), "occupied": In(1), "give_up": Out(1),
            "return_room": In(range(return_lines + 1)).array(2), "clear": In(1),
            "refused": Out(stream.Signature(RequestHeader())),
            "room": In(2), "proven": In(2), "waits": Out(2), "dirty": Out(1), "dirty_page": Out(range(window_pages)),
            "writes": Out(1), "written": Out(Written),
        })

    def elaborate(self, platform):
        m = Module()
        head, known = self.i.payload, Signal(self.ahead.payload.shape())   # `known`: of the request that stands at the head
        info, looked = known.info, self.looked
        found = Signal(data.StructLayout({
            "destination": 1, "absorbed": self.slots, "strict": 1, "settled": 1, "held": 1, "occupied": 1, "full": 1, "blocked": 1}))
        taken, looks, unmapped = Signal(), Signal(), Signal()
        go, body = Signal(), Signal()   # the head may go, but for the fence; a later beat stands here
        m.d.comb += [
            self.owner_index.eq(looked.info.page), self.row.eq(looked.info.row), self.owner_enable.eq(looks), self.row_enable.eq(looks),
            taken.eq(self.offer.ready), self.i.ready.eq(taken | (self.aside.valid & self.aside.ready)), looked.eq(known),
            self.aside.payload.lane.eq(head), self.aside.payload.ahead.eq(known),
        ]
        # Where unmapped pages are is decided with the comparison of pages, so that it makes the way to `go` no longer.
        m.d.sync += [go.eq(0), unmapped.eq(unmapped_place(looked.info, self.settings))]
        m.d.comb += self.refused.payload.eq(head.beat.header)
        matches = self._matches(m, looked, known)
        self._offer(m, head, info, found, go, body)
        with m.FSM():
            with m.State("Take"):
                m.d.comb += [self.ahead.ready.eq(1), looked.eq(self.ahead.payload), looks.eq(self.ahead.valid)]
                m.d.sync += known.eq(self.ahead.payload)
                with m.If(self.ahead.valid):
                    m.next = "Read"
            with m.State("Look Up"):
                m.d.comb += looks.eq(1)
                m.next = "Read"
            with m.State("Read"):
                page, place, blocked = guarded(m, self.guard, matches, info.atomic), Signal(), Signal()
                holds = [room >= info.lines for room in self.return_room]
                fits = [held & free for held, free in zip(holds, self.room, strict=True)]
                m.d.comb += [
                    place.eq(Mux(info.mapped, Mux(page.committed, page.to_host, self.owner_bit), unmapped)),
                    blocked.eq(info.translated & self.settings.blocks),
                ]
                m.d.sync += [
                    # Only this lane takes rows and room: with none of its requests before it, what it sees now is true in the next cycle too.
                    found.destination.eq(place), found.absorbed.eq(Mux(info.atomic, page.absorbs, 0)),
                    found.strict.eq(page.strict & info.atomic),
                    found.settled.eq(self.clear), found.held.eq(page.closed | self.stands), found.occupied.eq(self.occupied),
                    found.full.eq(~Mux(place, holds[1], holds[0])), found.blocked.eq(blocked),
                    go.eq(self.clear & ~self.occupied & ~page.closed & ~blocked & self.gone & Mux(place, fits[1], fits[0])),
                ]
                m.next = "Offer"
            with m.State("Offer"):
                # Taken or not, what was found is stale in the next cycle.
                m.next = "Look Up"
                with m.If(taken):
                    m.d.sync += body.eq(~head.beat.last)
                    m.next = "Take"
                    with m.If(~head.beat.last):
                        m.next = "Body"
                with m.Elif(found.held & self.again):
                    m.next = "Take"
                with m.Elif(found.held & self.aside.ready):
                    m.next = "Aside"
                self._wait(m, found)
                with m.If(found.blocked):
                    m.next = "Refuse"
            with m.State("Aside"):
                m.d.comb += self.aside.valid.eq(self.i.valid)
                with m.If(self.aside.valid & self.aside.ready & head.beat.last):
                    m.next = "Take"
            with m.State("Refuse"):
                m.d.comb += self.refused.valid.eq(1)
                with m.If(self.refused.ready):
                    m.next = "Drop"
            with m.State("Drop"):
                m.d.comb += self.i.ready.eq(1)
                with m.If(self.i.valid & head.beat.last):
                    m.next = "Take"
            with m.State("Sweep"):
                self._sweep(m, known, looks, found)
            with m.State("Body"):
                with m.If(taken & head.beat.last):
                    m.d.sync += body.eq(0)
                    m.next = "Take"
        return m

    def _matches(self, m, looked, known):
        """For which guards ``known`` is of their run, which changes only while the slot moves none.

        The comparison is cut in two by a register, for the item that is ``looked`` up may come straight out of a memory.
        """
        found = [pieces_equal(looked.info.page | guard.mask, guard.page | guard.mask) for guard in self.guard]
        same = Signal(data.ArrayLayout(len(found[0]), self.slots))
        m.d.sync += [slot.eq(pieces) for slot, pieces in zip(same, found, strict=True)]
        return [slot.all() & known.info.mapped for slot in same]

    def _offer(self, m, head, info, found, go, body):
        """Drive what is offered, when no fence stands before it."""
        proven, issued, destination = Signal(), self.offer.payload, found.destination
        header = strict_header(head.beat.header, found.strict & ~body)
        m.d.comb += [
            proven.eq(self.proven.bit_select(destination, 1)),
            self.offer.valid.eq((go & proven) | (body & self.i.valid)),
            self.waits.eq(Mux(go & ~proven, 1 << destination, 0)),
            self.dirty.eq(head.beat.first & info.mapped & info.atomic & self.settings.track_dirty),
            self.dirty_page.eq(info.page),
            self.writes.eq(head.beat.first & info.in_window & info.atomic), self.written.eq(Written.by(head.beat.header)),
            issued.beat.eq(head.beat), issued.lane.eq(EgressLane.NON_POSTED),
            issued.beat.header.eq(header), issued.destination.eq(destination), issued.absorbed.eq(found.absorbed),
            issued.non_posted.eq(1), issued.atomic.eq(info.atomic), issued.lines.eq(info.lines),
        ]
        with m.If(~body & info.in_window & (destination == HOST_B)):
            m.d.comb += issued.beat.header.eq(far_header(header, head.info.far))

    def _wait(self, m, found):
        """Count for how long only the row, or room, is missing. What has it is long dead then, and this request must not wait for ever (H24b)."""
        waited, over = Signal(32), Signal()
        m.d.comb += over.eq(found.settled & ~found.held & (waited >= self.limit))
        m.d.sync += waited.eq(Mux(~found.held & (found.occupied | found.full), waited + 3, 0))
        with m.If(over & found.occupied):
            m.d.comb += self.give_up.eq(1)
            m.d.sync += waited.eq(0)
        with m.Elif(over & found.full):
            m.d.sync += waited.eq(0)
            m.next = "Sweep"

    def _sweep(self, m, known, looks, found):
        """Give up every request in the table. The row of the head counts through all rows, and is its own again at the end.

        The table takes one in four cycles.
        """
        row, step, swept = known.info.row, Signal(2), Signal.like(self.row)
        m.d.comb += [looks.eq(step == 0), self.give_up.eq((step == 2) & found.occupied)]
        m.d.sync += step.eq(step + 1)
        with m.If(step == 1):
            m.d.sync += found.occupied.eq(self.occupied)
        with m.If(step == 3):
            m.d.sync += [row.eq(row + 1), swept.eq(swept + 1)]
            with m.If(swept.all()):
                m.next = "Look Up"
