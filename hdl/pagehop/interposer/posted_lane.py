"""The lane of the device's posted TLPs, from the ordering queue to the gate."""

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from pagehop.interposer.layouts import HOST_B, Guard, Issued, Settings
from pagehop.interposer.stages import ADDRESS_WORDS, LookupStage, address_words, with_words
from pagehop.tlp import headers
from pagehop.tlp.egress import EgressLane

__all__ = ["PostedLane"]


class PostedLane(wiring.Component):
    """Look up the owner of each write's page and offer the write to the gate when nothing holds it.

    Two cycles from ``i`` to ``offer``, one beat a cycle. An offer may be withdrawn: a page can begin to move while the write waits. A write to the
    page that is moving is
    not offered while the guard is closed, and everything stamped behind it waits too (H16).

    Members
    -------
    owner_index, owner_enable, owner_bit : port of the owner map (data one cycle after the enable).
    room : one bit a host, its egress has room for a posted TLP.
    proven : one bit a host, no fence stands before it.
    waits : one bit a host, the head waits for that host's fence.
    dirty : the write offered marks ``dirty_page`` when it is taken.
    """
    def __init__(self, data_bytes, lane_shape, window_pages):
        self.data_bytes, self.lane_shape, self.window_pages = data_bytes, lane_shape, window_pages
        super().__init__({
            "i": In(stream.Signature(lane_shape)), "offer": Out(stream.Signature(Issued(data_bytes))),
            "settings": In(Settings), "guard": In(Guard(window_pages)),
            "owner_index": Out(range(window_pages)), "owner_enable": Out(1), "owner_bit": In(1),
            "room": In(2), "proven": In(2), "waits": Out(2), "dirty": Out(1), "dirty_page": Out(range(window_pages)),
        })

    def elaborate(self, platform):
        m = Module()
        found, far_address = data.StructLayout({"far_words": ADDRESS_WORDS}), Signal(64)
        m.submodules.lookup = lookup = LookupStage(self.lane_shape, found)
        m.d.comb += [
            lookup.i.valid.eq(self.i.valid), lookup.i.payload.eq(self.i.payload), self.i.ready.eq(lookup.i.ready),
            self.owner_index.eq(lookup.head.info.page), self.owner_enable.eq(lookup.enable),
            lookup.result.far_words.eq(address_words(lookup.middle.beat.header, far_address)),
        ]
        with m.If(lookup.enable):
            m.d.sync += far_address.eq(headers.address_of(lookup.head.beat.header) + self.settings.host_b_offset)
        self._offer(m, lookup.o, lookup.o.payload.head, *self._decide(m, lookup))
        return m

    def _decide(self, m, lookup):
        """Registers: where the head goes, and whether it is held. Decided anew in every cycle, for a move may begin or commit while the head waits.

        Both follow the guard by one cycle, so they never mix what it says before the commit with what it says after.
        """
        destination, held, owner = Signal(), Signal(), Signal()
        m.d.comb += owner.eq(Mux(lookup.advance, self.owner_bit, destination))
        for moves, info in ((1, lookup.middle.info), (0, lookup.o.payload.head.info)):
            guarded = self.guard.active & info.in_window & (info.page == self.guard.page)
            with m.If(lookup.advance == moves):
                m.d.sync += [
                    held.eq(guarded & self.guard.closed),
                    destination.eq(Mux(info.in_window, Mux(guarded & self.guard.committed, self.guard.to_host, owner), self.settings.active_host)),
                ]
        return destination, held

    def _offer(self, m, source, head, destination, held):
        destination_q = Signal()
        free, proven = Signal(), Signal()
        issued = self.offer.payload
        m.d.comb += [
            proven.eq(~head.info.needs_proof | self.proven.bit_select(destination, 1)),
            free.eq(~held & self.room.bit_select(destination, 1)),
            self.offer.valid.eq(source.valid & (~head.beat.first | (free & proven))),
            self.waits.eq(Mux(source.valid & head.beat.first & free & ~proven, 1 << destination, 0)),
            source.ready.eq(self.offer.ready & self.offer.valid),
            issued.beat.eq(head.beat),
            issued.lane.eq(EgressLane.POSTED), issued.to_memory.eq(head.info.in_window),
            issued.destination.eq(Mux(head.beat.first, destination, destination_q)),
            self.dirty.eq(head.beat.first & head.info.in_window & self.settings.track_dirty),
            self.dirty_page.eq(head.info.page),
        ]
        with m.If(head.beat.first & head.info.in_window & (destination == HOST_B)):
            m.d.comb += issued.beat.header.eq(with_words(head.beat.header, source.payload.result.far_words))
        with m.If(self.offer.valid & self.offer.ready & head.beat.first):
            m.d.sync += destination_q.eq(destination)
