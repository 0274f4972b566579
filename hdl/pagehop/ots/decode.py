"""What a TLP is that arrives at the on-the-side device, decided once."""

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import exact_log2

from pagehop.ots.layouts import GENERATION_BITS, OtsInfo, OtsLane, check_windows, window_bits
from pagehop.tlp import headers
from pagehop.tlp.headers import AddressType, TlpClass, TlpType
from pagehop.tlp.ordering import QueueBeat
from pagehop.tlp.pages import PAGE_BITS
from pagehop.tlp.room import completion_lines
from pagehop.tlp.stream import TlpBeat

__all__ = ["OtsDecode"]


class OtsDecode(wiring.Component):
    """Sort TLPs into the lanes of :class:`OtsLane`, and take out what answers the device's own reads. One cycle, one beat a cycle.

    Memory and atomic requests that are not translated go where their address says; what has no place goes to the registers, whose adapter knows how
    to refuse. A locked read is refused there too, as an endpoint must (6.5).

    Parameters
    ----------
    windows : 1 to 16. entries : leaves

    Members
    -------
    i, o : beats. own_id, window_bar, leaf_bar : see :class:`pagehop.ots.top.Ots`. host_id : requester ID of software, all others walk tables
    flush, copy : completions of our flush and copy reads, always ready
    """
    def __init__(self, data_bytes, windows, entries):
        check_windows(windows)
        self.data_bytes, self.windows = data_bytes, windows
        self.window_space, self.leaf_space = window_bits(windows) + GENERATION_BITS + PAGE_BITS, exact_log2(entries) + 3
        beat = stream.Signature(TlpBeat(data_bytes))
        super().__init__({
            "i": In(beat), "o": Out(stream.Signature(QueueBeat(data_bytes, OtsInfo(windows), len(OtsLane)))),
            "flush": Out(beat), "copy": Out(beat), "own_id": In(16), "window_bar": In(64), "leaf_bar": In(64), "host_id": In(16),
        })

    def elaborate(self, platform):
        m = Module()
        valid, beat, lane, leaf, ours = Signal(), Signal(TlpBeat(self.data_bytes)), Signal(OtsLane), Signal(), Signal()
        flushes = data.View(headers.CompletionHeader(), beat.header).tag[7]
        kind = Signal()   # of our read that is answered; kept for the later beats
        m.d.comb += [
            self.i.ready.eq(~valid | ours | self.o.ready), self.o.valid.eq(valid & ~ours), self.o.payload.beat.eq(beat), self.o.payload.lane.eq(lane),
            self.flush.valid.eq(valid & ours & Mux(beat.first, flushes, kind)), self.flush.payload.eq(beat),
            self.copy.valid.eq(valid & ours & ~Mux(beat.first, flushes, kind)), self.copy.payload.eq(beat),
        ]
        with m.If(valid & beat.first):
            m.d.sync += kind.eq(flushes)
        with m.If(self.i.ready):
            m.d.sync += [valid.eq(self.i.valid), beat.eq(self.i.payload)]
            with m.If(self.i.valid & self.i.payload.first):
                self._sort(m, self.i.payload.header, lane, leaf, ours)
        self._inform(m, beat.header, leaf)
        return m

    def _sort(self, m, header, lane, leaf, ours):
        request, completion = data.View(headers.RequestHeader(), header), data.View(headers.CompletionHeader(), header)
        address = headers.address_of(header)
        kind, to_window, to_leaf = headers.tlp_class(header), Signal(), Signal()
        walk = Mux(request.requester_id == self.host_id, OtsLane.LEAF_READ, OtsLane.LEAF_WALK)
        plain = (headers.is_atomic(header) | (request.type == TlpType.MEMORY)) & (request.address_type == AddressType.UNTRANSLATED)
        m.d.comb += [
            to_window.eq(plain & (address[self.window_space:] == self.window_bar[self.window_space:])),
            to_leaf.eq(plain & (address[self.leaf_space:] == self.leaf_bar[self.leaf_space:])),
        ]
        m.d.sync += [
            # Tags of ours: 0xxxxxxx of copies, 10xxxxxx of flushes, 11xxxxxx of what is forwarded.
            ours.eq((kind == TlpClass.COMPLETION) & (completion.requester_id == self.own_id) & ~(completion.tag[6:] == 3)),
            leaf.eq(to_leaf),
            lane.eq(Mux(kind == TlpClass.COMPLETION, OtsLane.COMPLETION,
                        Mux(kind == TlpClass.POSTED, Mux(to_window, OtsLane.POSTED, OtsLane.LOCAL_POSTED),
                            Mux(to_window, OtsLane.WINDOW_REQUEST, Mux(to_leaf, walk, OtsLane.REGISTER_REQUEST))))),
        ]

    def _inform(self, m, header, leaf):
        info, completion, address = self.o.payload.info, data.View(headers.CompletionHeader(), header), headers.address_of(header)
        place = PAGE_BITS + window_bits(self.windows)
        m.d.comb += [
            info.window.eq(address[PAGE_BITS:]), info.generation.eq(address[place:]), info.leaf.eq(leaf),
            info.atomic.eq(headers.is_atomic(header)), info.lines.eq(completion_lines(header)),
            info.tag.eq(headers.whole_tag(completion)), info.last_completion.eq(headers.ends_request(header)),
        ]
