"""What a TLP is, decided once, as it arrives at the TLP side of the IOMMU."""

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from pagehop.iommu.front_layouts import LANES, Kind, Prefix, Wanted
from pagehop.tlp import headers
from pagehop.tlp.egress import EgressLane
from pagehop.tlp.headers import AddressType, TlpClass
from pagehop.tlp.ordering import QueueBeat
from pagehop.tlp.stream import TlpBeat

__all__ = ["INVALIDATE_COMPLETION", "PAGE_REQUEST", "FrontDecode"]

#: Codes of messages that a device sends to its IOMMU (10.3.2, 10.4.1).
INVALIDATE_COMPLETION, PAGE_REQUEST = 0x02, 0x04


class FrontDecode(wiring.Component):
    """Sort TLPs into lanes, say what is done with each, and take out completions of our own reads. One cycle, one beat a cycle.

    A memory request of an address type that there is not (11, or 01 of what is no read) is refused. ``info`` means something beside the first beat.

    Parameters
    ----------
    takes_ours : completions for ``own_id`` answer reads of ours; if not, they are passed on as any other.

    Members
    -------
    i, o : beats. own_id : requester ID of our reads. ours : their completions, always ready
    """
    def __init__(self, data_bytes, *, takes_ours):
        self.data_bytes, self.takes_ours = data_bytes, takes_ours
        super().__init__({
            "i": In(stream.Signature(TlpBeat(data_bytes))), "o": Out(stream.Signature(QueueBeat(data_bytes, Wanted, LANES))),
            "own_id": In(16), "ours": Out(stream.Signature(TlpBeat(data_bytes))),
        })

    def elaborate(self, platform):
        m = Module()
        valid, beat, lane, own, header = Signal(), Signal(TlpBeat(self.data_bytes)), Signal(2), Signal(), self.i.payload.header
        completion, kind = data.View(headers.CompletionHeader(), header), headers.tlp_class(header)
        m.d.comb += [
            self.i.ready.eq(~valid | own | self.o.ready), self.o.valid.eq(valid & ~own),
            self.o.payload.beat.eq(beat), self.o.payload.lane.eq(lane), self.ours.valid.eq(valid & own), self.ours.payload.eq(beat),
        ]
        with m.If(self.i.ready):
            m.d.sync += [valid.eq(self.i.valid), beat.eq(self.i.payload)]
            with m.If(self.i.valid & self.i.payload.first):
                m.d.sync += [
                    own.eq(headers.is_completion(header) & (completion.requester_id == self.own_id) & self.takes_ours),
                    lane.eq(Mux(kind == TlpClass.COMPLETION, EgressLane.COMPLETION,
                                Mux(kind == TlpClass.NON_POSTED, EgressLane.NON_POSTED, EgressLane.POSTED))),
                ]
        self._inform(m, beat, lane)
        return m

    def _inform(self, m, beat, lane):
        info, header, prefix = self.o.payload.info, data.View(headers.RequestHeader(), beat.header), Prefix(beat.prefix)
        message = data.View(headers.MessageHeader(), beat.header)
        reads = headers.is_memory(beat.header) & ~headers.has_data(beat.header)
        m.d.comb += [
            info.posted.eq(lane == EgressLane.POSTED), info.writes.eq(~reads), info.no_write.eq(Mux(header.fmt[0], header.dw3[0], header.dw2[0])),
            info.device_id.eq(header.requester_id), info.address.eq(headers.address_of(beat.header)[2:]),
            info.process_valid.eq(headers.has_prefix(beat, headers.PASID_PREFIX)),
        ]
        with m.If(info.process_valid):
            m.d.comb += [info.process.eq(prefix.process), info.privileged.eq(prefix.privileged)]
        with m.If(headers.is_memory(beat.header) | headers.is_atomic(beat.header)):
            m.d.comb += info.kind.eq(Kind.REFUSE)
            with m.If(header.address_type == AddressType.UNTRANSLATED):
                m.d.comb += info.kind.eq(Kind.UNTRANSLATED)
            with m.If(header.address_type == AddressType.TRANSLATED):
                m.d.comb += info.kind.eq(Kind.TRANSLATED)
            with m.If((header.address_type == AddressType.TRANSLATION_REQUEST) & reads):
                m.d.comb += info.kind.eq(Kind.ATS_REQUEST)
        to_us = Cat(message.code == code for code in (INVALIDATE_COMPLETION, PAGE_REQUEST)).any()
        with m.If(headers.is_message(beat.header) & ~headers.has_data(beat.header) & to_us):
            m.d.comb += info.kind.eq(Kind.MESSAGE)
