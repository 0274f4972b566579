"""What a TLP of a host is, decided once, as it arrives."""

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import data, enum, stream, wiring
from amaranth.lib.wiring import In, Out

from pagehop.interposer.device_decode import ends_request
from pagehop.interposer.layouts import Destination, HostInfo, PortConfig, Range
from pagehop.tlp import headers
from pagehop.tlp.headers import TlpClass
from pagehop.tlp.ordering import POSTED, QueueBeat
from pagehop.tlp.stream import TlpBeat

__all__ = ["REGISTER_SPACE_BITS", "HostLane", "HostDecode"]

#: Base-2 logarithm of the size of the register BAR.
REGISTER_SPACE_BITS = 18


class HostLane(enum.IntEnum):
    """Lanes of a host's ingress. Requests and completions have one lane a destination, so that none waits for another's (D6)."""
    POSTED           = POSTED
    TO_DEVICE        = 1     # completions of the device's requests
    TO_OTHER         = 2     # completions of the other host's requests
    REQUEST_LOCAL    = 3
    REQUEST_DEVICE   = 4
    REQUEST_OTHER    = 5


class HostDecode(wiring.Component):
    """Sort a host's TLPs into lanes and take out what answers the interposer itself (D4). Combinational towards the queue.

    Completions of copy and flush reads leave on ``copy`` and ``flush`` one cycle later; both are always ready. Requests go to the registers,
    through the
    aperture to the other host, or to the device; configuration requests and messages only come through from the active host.

    Parameters
    ----------
    host : 0 or 1, the host this is the port of.
    """
    def __init__(self, data_bytes, host):
        self.host = host
        beat = TlpBeat(data_bytes)
        super().__init__({
            "i": In(stream.Signature(beat)), "o": Out(stream.Signature(QueueBeat(data_bytes, HostInfo, len(HostLane)))),
            "copy": Out(stream.Signature(beat)), "flush": Out(stream.Signature(beat)),
            "config": In(PortConfig), "aperture": In(Range), "active": In(1),
        })

    def elaborate(self, platform):
        m = Module()
        header = self.i.payload.header
        completion = data.View(headers.CompletionHeader(), header)
        first = self.i.payload.first
        ours, copy, flush = Signal(), Signal(), Signal()
        answers_copy, answers_flush = Signal(), Signal()   # of the TLP whose beat is on `i`
        held_copy, held_flush = Signal(), Signal()
        lane, lane_q = Signal(HostLane), Signal(HostLane)
        m.d.comb += [
            ours.eq(headers.is_completion(header) & (completion.requester_id == self.config.requester_id)
                    & ~completion.tag8 & ~completion.tag9),
            copy.eq(ours & ~completion.tag[7]),
            flush.eq(ours & completion.tag[7] & (completion.tag[6] == self.host)),
            answers_copy.eq(Mux(first, copy, held_copy)), answers_flush.eq(Mux(first, flush, held_flush)),
            self.o.valid.eq(self.i.valid & ~answers_copy & ~answers_flush),
            self.o.payload.beat.eq(self.i.payload),
            self.o.payload.lane.eq(Mux(first, lane, lane_q)),
            self.o.payload.info.last_completion.eq(ends_request(header)),
            self.i.ready.eq(answers_copy | answers_flush | self.o.ready),
        ]
        # Also while the beat waits: it stays what it is.
        with m.If(self.i.valid & first):
            m.d.sync += [held_copy.eq(copy), held_flush.eq(flush), lane_q.eq(lane)]
        for sink, answers in ((self.copy, answers_copy), (self.flush, answers_flush)):
            m.d.sync += [sink.valid.eq(self.i.valid & answers), sink.payload.eq(self.i.payload)]
        self._route(m, header, ours, lane)
        return m

    def _route(self, m, header, ours, lane):
        kind, fields = Signal(TlpClass), data.View(headers.RequestHeader(), header)
        destination, destination_q = Signal(2), Signal(2)
        base = self.config.register_base
        # Both forms of the header are compared before it is known which it is.
        narrow, wide = fields.dw2[REGISTER_SPACE_BITS:], Cat(fields.dw3[REGISTER_SPACE_BITS:], fields.dw2)
        to_registers = Mux(fields.fmt[0], wide == base[REGISTER_SPACE_BITS:], narrow == base[REGISTER_SPACE_BITS:])
        m.d.comb += [kind.eq(headers.tlp_class(header)), self.o.payload.info.destination.eq(Mux(self.i.payload.first, destination, destination_q))]
        with m.If(self.i.valid & self.i.payload.first):
            m.d.sync += destination_q.eq(destination)
        with m.If(headers.is_memory(header) | headers.is_atomic(header)):
            with m.If(to_registers):
                m.d.comb += destination.eq(Destination.LOCAL)
            with m.Elif(self.aperture.holds_address_of(header)):
                m.d.comb += destination.eq(Destination.OTHER)
        with m.Elif(~self.active & (headers.is_config(header) | headers.is_message(header))):
            # The device belongs to one host at a time: the other may not configure it.
            m.d.comb += destination.eq(Mux(kind == TlpClass.POSTED, Destination.DROP, Destination.LOCAL))
        with m.If(kind == TlpClass.COMPLETION):
            m.d.comb += lane.eq(Mux(ours, HostLane.TO_OTHER, HostLane.TO_DEVICE))
        with m.Elif(kind == TlpClass.NON_POSTED):
            m.d.comb += lane.eq(Mux(destination == Destination.LOCAL, HostLane.REQUEST_LOCAL,
                                    Mux(destination == Destination.OTHER, HostLane.REQUEST_OTHER, HostLane.REQUEST_DEVICE)))
