"""The lane of completions that answer the device, from a host's ordering queue to the gate."""

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from pagehop.interposer.layouts import Destination
from pagehop.interposer.stages import LookupStage
from pagehop.tlp.egress import EgressLane
from pagehop.tlp.flush import FLUSH_SEQUENCE_BITS, reached
from pagehop.tlp.issue import Issued
from pagehop.tlp.ordering import PostedState, may_go
from pagehop.tlp.outstanding import OutstandingEntry, row_of
from pagehop.tlp.stream import connect_streams

__all__ = ["CompletionLane"]


class CompletionLane(wiring.Component):
    """Offer a completion to the device when the writes that its request came behind are visible at the other host (H64).

    Two cycles from ``ahead`` to ``offer``, one beat a cycle. A completion that answers no outstanding request is dropped whole (``unexpected``). The
    row is freed with the last completion of its request.

    Members
    -------
    i, ahead, posted : of the ordering queue.
    row, enable, entry, used : port of the outstanding table (data one cycle after the enable).
    flushed, flush_newest : flushes of the other host that are done, and the newest that anybody waits for.
    room : the device's egress has room for a completion.
    free, free_row, free_entry : a request got its last completion in the cycle before.
    waits : the head waits for a flush.
    """
    def __init__(self, data_bytes, lane_shape, ahead_shape, rows):
        self.ahead_shape, self.rows = ahead_shape, rows
        super().__init__({
            "i": In(stream.Signature(lane_shape)), "ahead": In(stream.Signature(ahead_shape)), "offer": Out(stream.Signature(Issued(data_bytes))),
            "posted": In(PostedState(ahead_shape["stamp"].width)), "room": In(1),
            "row": Out(range(rows)), "enable": Out(1), "entry": In(OutstandingEntry), "used": In(1),
            "flushed": In(FLUSH_SEQUENCE_BITS), "flush_newest": In(FLUSH_SEQUENCE_BITS),
            "free": Out(1), "free_row": Out(range(rows)), "free_entry": Out(OutstandingEntry),
            "waits": Out(1), "unexpected": Out(1),
        })

    def elaborate(self, platform):
        m = Module()
        result = data.StructLayout({"entry": OutstandingEntry, "expected": 1})
        m.submodules.lookup = lookup = LookupStage(self.ahead_shape, result)
        connect_streams(m, self.ahead, lookup.i)
        m.d.comb += [
            self.row.eq(self._row(lookup.head)), self.enable.eq(lookup.enable),
            lookup.result.entry.eq(self.entry),
            # `used` says too that this host has the request.
            lookup.result.expected.eq(self.used & (self._key(lookup.middle) == Cat(self.entry.requester_id, self.entry.tag))),
        ]
        beat, head, found = self.i.payload.beat, lookup.o.payload.head, lookup.o.payload.result
        begins, drops, dropping, taken = Signal(), Signal(), Signal(), Signal()
        go, visible = self._decide(m, lookup, head, found)
        issued = self.offer.payload
        m.d.comb += [
            begins.eq(lookup.o.valid & self.i.valid & beat.first),
            self.waits.eq(begins & found.expected & ~visible),
            self.unexpected.eq(begins & ~found.expected),
            drops.eq(Mux(beat.first, begins & ~found.expected, self.i.valid & dropping)),
            self.offer.valid.eq(self.i.valid & Mux(beat.first, go, ~dropping)),
            taken.eq(self.offer.ready), self.i.ready.eq(taken | drops), lookup.o.ready.eq((taken | drops) & beat.last),
            issued.beat.eq(beat), issued.lane.eq(EgressLane.COMPLETION), issued.destination.eq(Destination.DEVICE),
        ]
        m.d.sync += [
            self.free.eq(taken & beat.first & head.info.last_completion),
            self.free_row.eq(self._row(head)), self.free_entry.eq(found.entry),
        ]
        with m.If(begins):
            m.d.sync += dropping.eq(~found.expected)
        return m

    def _decide(self, m, lookup, head, found):
        """Registers: the completion that stands at the end may go, and no flush stands before it.

        Decided a cycle ahead, for the one that will stand there: what is proven, or has left, stays so.
        """
        go, visible, passed = Signal(), Signal(), Signal()
        m.d.sync += passed.eq(~lookup.advance & may_go(head.stamp, self.posted))
        for moves, expected, entry, earlier in (
                (1, lookup.middle_valid & lookup.result.expected, self.entry, 0), (0, found.expected, found.entry, passed)):
            proven = reached(self.flushed, entry.flush_target, self.flush_newest)
            with m.If(lookup.advance == moves):
                m.d.sync += [visible.eq(proven), go.eq(expected & proven & (self.posted.none | earlier) & self.room)]
        return go, visible

    @staticmethod
    def _key(payload):
        """Requester ID and tag, which together name a request."""
        return Cat(payload.info.requester_id, payload.info.tag)

    def _row(self, payload):
        return row_of(payload.info.requester_id, payload.info.tag, self.rows)
