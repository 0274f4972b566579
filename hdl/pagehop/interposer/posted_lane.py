"""The lane of the device's posted TLPs, from the ordering queue to the gate."""

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from pagehop.interposer.aside_order import passes_all
from pagehop.interposer.layouts import HOST_B, Guard, Settings, Standing, Written, in_run
from pagehop.interposer.set_aside import AsideBeat
from pagehop.interposer.stages import LookupStage, guarded, strict_header, unmapped_place
from pagehop.tlp.egress import EgressLane
from pagehop.tlp.issue import Issued
from pagehop.tlp.pages import far_header
from pagehop.tlp.stream import connect_streams

__all__ = ["PostedLane"]


class PostedLane(wiring.Component):
    """Look up the owner of each write's page and offer the write to the gate when nothing holds it.

    Two cycles from ``ahead`` to ``offer``, one beat a cycle. An offer may be withdrawn: a page can begin to move while the write waits. A write to
    the page that is moving is not offered while the guard is closed, and goes aside, so that what may pass it does (H24d). A write that may not pass
    one that is aside goes there too; when there is no place it waits, and everything behind it. While the guard absorbs, it is
    marked for the copy engine; while the guard is strict, it loses RO. While translated requests are blocked, such a write is dropped whole (H54).

    Members
    -------
    i, ahead : of the ordering queue.
    owner_index, owner_enable, owner_bit : port of the owner map (data one cycle after the enable).
    room : one bit a host, its egress has room for a posted TLP.
    standing : of whom writes are aside. ``aside``: what goes there. A lane without such a place takes nothing from it.
    proven : one bit a host, no fence stands before it.
    waits : one bit a host, the head waits for that host's fence.
    dirty : the write offered marks ``dirty_page`` when it is taken. ``writes``: it is one to the window, and touches ``written``.
    drops : the last beat of a write that is dropped leaves in this cycle.
    """
    def __init__(self, data_bytes, lane_shape, ahead_shape, window_pages, slots=1):
        self.data_bytes, self.ahead_shape, self.window_pages, self.slots = data_bytes, ahead_shape, window_pages, slots
        super().__init__({
            "i": In(stream.Signature(lane_shape)), "ahead": In(stream.Signature(ahead_shape)),
            "offer": Out(stream.Signature(Issued(data_bytes, slots))),
            "standing": In(Standing), "aside": Out(stream.Signature(AsideBeat(lane_shape, ahead_shape))),
            "settings": In(Settings), "guard": In(Guard(window_pages)).array(slots),
            "owner_index": Out(range(window_pages)), "owner_enable": Out(1), "owner_bit": In(1),
            "room": In(2), "proven": In(2), "waits": Out(2), "dirty": Out(1), "dirty_page": Out(range(window_pages)), "drops": Out(1),
            "writes": Out(1), "written": Out(Written),
        })

    def elaborate(self, platform):
        m = Module()
        m.submodules.lookup = lookup = LookupStage(self.ahead_shape, data.StructLayout({}))
        connect_streams(m, self.ahead, lookup.i)
        m.d.comb += [self.owner_index.eq(lookup.head.info.page), self.owner_enable.eq(lookup.enable)]
        self._offer(m, lookup.o, self.i.payload, lookup.o.payload.head.info, *self._decide(m, lookup))
        return m

    def _decide(self, m, lookup):
        """Registers: where the head goes, and whether it may. Decided anew in every cycle, for a move may begin or commit while the head waits.

        Both follow the guard by one cycle, so they never mix what it says before the commit with what it says after.
        """
        destination, go, stays, absorbed, strict, owner, refused = (
            Signal(), Signal(), Signal(), Signal(self.slots), Signal(), Signal(), Signal())
        m.d.comb += owner.eq(Mux(lookup.advance, self.owner_bit, destination))
        for moves, valid, info in ((1, lookup.middle_valid, lookup.middle.info), (0, 1, lookup.o.payload.head.info)):
            page = guarded(m, self.guard, [info.mapped & in_run(info.page, guard.page, guard.mask) for guard in self.guard], name=f"guarded_{moves}")
            place, passes = Signal(name=f"place_{moves}"), Signal(name=f"passes_{moves}")
            m.d.comb += passes.eq(passes_all(info.source, self.standing))
            m.d.comb += place.eq(Mux(info.mapped, Mux(page.committed, page.to_host, owner), unmapped_place(info, self.settings)))
            no_way = info.translated & self.settings.blocks
            with m.If(lookup.advance == moves):
                m.d.sync += [
                    destination.eq(place), absorbed.eq(page.absorbs), strict.eq(page.strict),
                    go.eq(valid & ~page.closed & passes & ~no_way & self.room.bit_select(place, 1)),
                    stays.eq(valid & ~no_way & (page.closed | ~passes)), refused.eq(valid & no_way),
                ]
        return destination, go, stays, absorbed, strict, refused

    def _offer(self, m, source, head, info, destination, go, stays, absorbed, strict, refused):
        """Offer the beat of a TLP about which it was decided, to the gate or aside. Its item stays until its last beat leaves."""
        first, destination_q, absorbed_q, proven, taken = head.beat.first, Signal(), Signal.like(absorbed), Signal(), Signal()
        goes_aside, settles = Signal(), Signal()   # the TLP whose later beats come; what the one before has changed is not known yet
        dropping, drop = Signal(), Signal()   # of what has begun to leave, and of the beat that stands here
        issued, header = self.offer.payload, strict_header(head.beat.header, strict)
        m.d.comb += [
            proven.eq(~info.needs_proof | self.proven.bit_select(destination, 1)),
            drop.eq(self.i.valid & Mux(first, refused, dropping)), self.drops.eq(drop & head.beat.last),
            self.offer.valid.eq(self.i.valid & Mux(first, go & proven & ~settles, ~goes_aside & ~dropping)),
            self.waits.eq(Mux(self.i.valid & first & go & ~proven & ~settles, 1 << destination, 0)),
            self.aside.valid.eq(self.i.valid & Mux(first, stays, goes_aside)),
            self.aside.payload.lane.eq(head), self.aside.payload.ahead.eq(source.payload.head),
            taken.eq(self.offer.ready | (self.aside.valid & self.aside.ready)), self.i.ready.eq(taken | drop),
            source.ready.eq((taken | drop) & head.beat.last),
            issued.beat.eq(head.beat),
            issued.lane.eq(EgressLane.POSTED), issued.to_memory.eq(info.in_window),
            issued.destination.eq(Mux(first, destination, destination_q)), issued.absorbed.eq(Mux(first, absorbed, absorbed_q)),
            self.dirty.eq(first & info.mapped & self.settings.track_dirty),
            self.dirty_page.eq(info.page), issued.beat.header.eq(header),
            self.writes.eq(first & info.in_window), self.written.eq(Written.by(head.beat.header)),
        ]
        with m.If(first & info.in_window & (destination == HOST_B)):
            m.d.comb += issued.beat.header.eq(far_header(header, head.info.far))
        with m.If(self.i.valid & first):
            m.d.sync += dropping.eq(refused)
        with m.If(taken & first):
            m.d.sync += [destination_q.eq(destination), absorbed_q.eq(absorbed), goes_aside.eq(self.aside.valid)]
        # The decision about the next TLP is a cycle older than what goes aside now.
        m.d.sync += settles.eq(self.aside.valid & self.aside.ready & head.beat.last)
