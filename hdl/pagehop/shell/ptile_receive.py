"""What the P-Tile has received: segments to beats, addresses to offsets in a BAR, and to the core under its credits."""

from amaranth.hdl import Cat, Const, Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from pagehop.shell.ptile_signals import SEGMENT_DWORDS, SEGMENTS, RxStream
from pagehop.tlp import headers
from pagehop.tlp.arbiter import select_one
from pagehop.tlp.cutter import LEAST_LIMIT
from pagehop.tlp.egress import LANE_CLASS, Egress, EgressBeat
from pagehop.tlp.fifo import LaneFifo
from pagehop.tlp.headers import RequestHeader, TlpClass
from pagehop.tlp.stream import CreditLimits, TlpBeat, connect_streams

__all__ = ["Segment", "Arrived", "Unpack", "Locate", "BufferLimits", "Receive"]

#: Segments that each of two banks holds, and from how many on ``ready`` is 0. The block then sends for 27 cycles more (683059, 4.4.3), and what it
#: sent before is a few cycles on its way to the level.
_DEPTH, _STOPS = 64, 32

#: Beats of the lanes to the core: posted, completion, non-posted.
_DEPTHS = (256, 256, 64)


class Segment(data.StructLayout):
    """A valid segment."""
    def __init__(self):
        super().__init__({
            "data": 32 * SEGMENT_DWORDS, "header": 128, "prefix": 32, "bar": 3, "empty": 3, "first": 1, "last": 1,
        })


class Arrived(data.StructLayout):
    """A beat for the core, and beside the first of a TLP the number of the BAR."""
    def __init__(self):
        super().__init__({"beat": TlpBeat(64), "bar": 3})


class Unpack(wiring.Component):
    """Make beats of segments, wherever in a beat of the block a TLP began.

    Valid segments go to two banks by turns, so that two that follow each other can be read together: one that ends a TLP is a beat, else it and the
    next. One beat a cycle; two short TLPs in each beat of the block take twice as long, and ``ready`` falls. 2 cycles from a segment to its beat.

    Members
    -------
    rx : the stream.
    o : beats.
    """
    def __init__(self):
        super().__init__({"rx": In(RxStream()), "o": Out(stream.Signature(Arrived()))})

    def elaborate(self, platform):
        m = Module()
        banks = [LaneFifo(Segment(), _DEPTH, direct=True) for _ in range(SEGMENTS)]
        for number, bank in enumerate(banks):
            m.submodules[f"bank_{number}"] = bank
        m.d.sync += self.rx.ready.eq(Cat(bank.level < _STOPS for bank in banks).all())
        self._put(m, banks)
        self._take(m, banks)
        return m

    def _put(self, m, banks):
        valid, came, turn = Signal(SEGMENTS), [Signal(Segment(), name=f"came_{place}") for place in range(SEGMENTS)], Signal()
        rx = self.rx
        m.d.sync += [valid.eq(rx.valid), turn.eq(turn ^ valid.xor())]
        for place, segment in enumerate(came):
            m.d.sync += [
                segment.data.eq(rx.data[place]), segment.header.eq(rx.hdr[place]), segment.prefix.eq(rx.tlp_prfx[place]),
                segment.bar.eq(rx.bar_range[place]), segment.empty.eq(rx.empty[place]), segment.first.eq(rx.sop[place]),
                segment.last.eq(rx.eop[place]),
            ]
        for number, bank in enumerate(banks):
            takes = [valid[0] & (turn == number), valid[1] & ((turn ^ valid[0]) == number)]
            m.d.comb += [bank.i.valid.eq(takes[0] | takes[1]), bank.i.payload.eq(Mux(takes[0], came[0], came[1]))]

    def _take(self, m, banks):
        turn, takes, free = Signal(), Signal(), Signal()
        heads = [Signal(Segment(), name=name) for name in ("head", "after")]
        valid = Cat(bank.o.valid for bank in banks)
        for place, head in enumerate(heads):
            m.d.comb += head.eq(Mux(turn ^ place, banks[1].o.payload, banks[0].o.payload))
        head, after = heads
        pair = Signal()
        m.d.comb += [
            pair.eq(~head.last), free.eq(~self.o.valid | self.o.ready), takes.eq(free & Mux(pair, valid.all(), valid.bit_select(turn, 1))),
            *(bank.o.ready.eq(takes & (pair | (turn == number))) for number, bank in enumerate(banks)),
        ]
        with m.If(takes & ~pair):
            m.d.sync += turn.eq(~turn)
        empty = Mux(pair, after.empty & after.last.replicate(3), head.empty | SEGMENT_DWORDS)
        bare = head.first & ~headers.has_data(head.header)
        beat = self.o.payload.beat
        with m.If(free):
            m.d.sync += [
                self.o.valid.eq(takes), self.o.payload.bar.eq(head.bar), beat.data.eq(Cat(head.data, after.data)),
                beat.header.eq(Mux(head.first, head.header, 0)), beat.prefix.eq(Mux(head.first, head.prefix, 0)),
                beat.prefix_valid.eq(head.first & head.prefix[-1]), beat.dwords.eq(Mux(bare, 0, SEGMENTS * SEGMENT_DWORDS - empty)),
                beat.first.eq(head.first), beat.last.eq(head.last | after.last),
            ]


class Locate(wiring.Component):
    """Put the number of the BAR and the offset in it where the address of a memory or atomic request stands, and choose the lane. 2 cycles.

    Parameters
    ----------
    bars : logarithms of the sizes of the BARs in bytes, by number.

    Members
    -------
    i : beats as they came.
    o : beats for the core. A TLP begins while ``room`` of its lane is 1.
    """
    def __init__(self, bars):
        self.bars = bars
        super().__init__({"i": In(stream.Signature(Arrived())), "room": In(3), "o": Out(stream.Signature(EgressBeat(64)))})

    def elaborate(self, platform):
        m = Module()
        moves, valid = Signal(), Signal(2)
        came, found, kept = Signal(TlpBeat(64)), Signal(EgressBeat(64)), self.i.payload
        address, lane, bar, wanted = Signal(60), Signal(2), Signal(3), Signal()
        begins = Signal()
        m.d.comb += [
            begins.eq(~found.beat.first | self.room.bit_select(found.lane, 1)), self.o.valid.eq(valid[1] & begins), self.o.payload.eq(found),
            moves.eq(~valid[1] | (self.o.ready & begins)), self.i.ready.eq(moves),
        ]
        header = self._tidy(kept.beat.header)
        request = (headers.is_memory(header) | headers.is_atomic(header)) & kept.beat.first
        kind = headers.tlp_class(header)
        with m.If(moves):
            m.d.sync += [
                valid.eq(Cat(self.i.valid, valid)), came.eq(kept.beat), came.header.eq(header), wanted.eq(request), bar.eq(kept.bar),
                address.eq(headers.address_of(header)[:60] & self._inside(kept.bar)), found.beat.eq(came), found.lane.eq(lane),
            ]
            with m.If(self.i.valid & kept.beat.first):
                m.d.sync += lane.eq(select_one([kind == of.value for of in LANE_CLASS[:3]], [Const(number, 2) for number in range(3)]))
            with m.If(wanted):
                m.d.sync += found.beat.header.eq(headers.with_address(came.header, Cat(address, bar, Const(0, 1))))
        return m

    @staticmethod
    def _tidy(header):
        """The header without TD, as its digest is not here, and with DW3 only where there are four."""
        fields = data.View(RequestHeader(), header)
        place = RequestHeader()["digest"].offset
        return Cat(Mux(fields.fmt[0], header[:32], 0)[:32], header[32:place], Const(0, 1), header[place + 1:])

    def _inside(self, bar):
        """Bits of an address that are the offset in this BAR."""
        return Cat(Cat(bar == number for number, size in self.bars.items() if size > place).any() for place in range(60))


class BufferLimits(wiring.Component):
    """Say to the block how many TLPs of each class it may have delivered since reset, modulo (683059, RX flow control): as many as have left, and
    as the lanes can hold.

    Members
    -------
    left : for each class, a TLP has left its lane.
    limit, index : ``rx_buffer_limit``, ``rx_buffer_limit_tdm_idx``.
    """
    def __init__(self, tlps):
        self.tlps = tlps
        super().__init__({"left": In(len(tlps)), "limit": Out(12), "index": Out(2)})

    def elaborate(self, platform):
        m = Module()
        limits = [Signal(12, init=most, name=f"limit_{kind}") for kind, most in enumerate(self.tlps)]
        place = Signal(range(len(limits)))
        m.d.sync += [place.eq(Mux(place == len(limits) - 1, 0, place + 1)), self.index.eq(place)]
        with m.Switch(place):
            for kind, limit in enumerate(limits):
                m.d.sync += limit.eq(limit + self.left[kind])
                with m.Case(kind):
                    m.d.sync += self.limit.eq(limit)
        return m


class Receive(wiring.Component):
    """Hand to the core what the block has received, one beat a cycle, under the core's credits, in three lanes that do not block each other.

    The lanes hold as many TLPs of each class as the block may deliver, so none waits in front of them for one of another class. Behind them only
    a posted TLP makes later ones wait that may not pass it (:class:`Egress`), relaxed ordering or not. 7 cycles from the stream to the core, 8 where
    the first beat takes two beats of the block. ``ready`` falls only for a block that keeps to no limits, or sends two TLPs in each beat for long.

    Parameters
    ----------
    bars : logarithms of the sizes of the BARs in bytes, by number.
    max_payload : largest payload in bytes that comes.

    Members
    -------
    rx : the stream. ``buffer_limit``, ``buffer_index``: limits for the block.
    tlps, limits : to the core.
    """
    def __init__(self, bars, max_payload=512):
        self.bars, self.max_payload = bars, max_payload
        super().__init__({
            "rx": In(RxStream()), "buffer_limit": Out(12), "buffer_index": Out(2),
            "tlps": Out(stream.Signature(TlpBeat(64))), "limits": In(CreditLimits),
        })

    def elaborate(self, platform):
        m = Module()
        m.submodules.unpack = unpack = Unpack()
        m.submodules.locate = locate = Locate(self.bars)
        m.submodules.egress = egress = Egress(64, 1, _DEPTHS, max_payload=self.max_payload)
        beats = {TlpClass.POSTED.value: self.max_payload // 64, TlpClass.COMPLETION.value: self.max_payload // 64, TlpClass.NON_POSTED.value: 1}
        lanes = [LANE_CLASS.index(kind) for kind in TlpClass]
        m.submodules.buffers = buffers = BufferLimits(
            [(_DEPTHS[lane] - egress.margins[lane]) // beats[kind] for kind, lane in enumerate(lanes)])
        wiring.connect(m, wiring.flipped(self.rx), unpack.rx)
        connect_streams(m, unpack.o, locate.i)
        connect_streams(m, locate.o, egress.i[0])
        connect_streams(m, egress.tx, wiring.flipped(self.tlps))
        m.d.comb += [
            locate.room.eq(egress.room), egress.limits.eq(self.limits),
            # Larger than all that comes, so nothing is cut.
            egress.payload_limit.eq((self.max_payload // LEAST_LIMIT).bit_length() - 1),
            self.buffer_limit.eq(buffers.limit), self.buffer_index.eq(buffers.index),
        ]
        kind = headers.tlp_class(self.tlps.payload.header)
        m.d.sync += buffers.left.eq(Cat(
            self.tlps.valid & self.tlps.ready & self.tlps.payload.first & (kind == of.value) for of in TlpClass))
        return m
