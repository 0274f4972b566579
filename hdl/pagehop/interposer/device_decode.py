"""What a TLP of the device is, decided once, as it arrives."""

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from pagehop.interposer.layouts import PAGE_BITS, DeviceInfo, Settings
from pagehop.tlp import headers
from pagehop.tlp.egress import EgressLane
from pagehop.tlp.headers import TlpClass
from pagehop.tlp.ordering import QueueBeat
from pagehop.tlp.stream import TlpBeat

__all__ = ["CLASS_LANE", "DeviceDecode", "ends_request"]

#: Lane of each class, the same at an ingress of the device and at every egress.
CLASS_LANE = {TlpClass.POSTED: EgressLane.POSTED, TlpClass.COMPLETION: EgressLane.COMPLETION, TlpClass.NON_POSTED: EgressLane.NON_POSTED}


def ends_request(header):
    """1 when a completion is the last of its request: it has no data, or as many bytes as were still due (2.2.9)."""
    completion = data.View(headers.CompletionHeader(), header)
    payload = (completion.length << 2)[:13] - completion.lower_address[:2]
    due = Mux(completion.byte_count == 0, 4096, completion.byte_count)
    return ~headers.has_data(header) | (Mux(completion.length == 0, 4096, payload) >= due)


class DeviceDecode(wiring.Component):
    """Sort the device's TLPs into lanes and compare their addresses with the window. Combinational; the ordering queue registers the result.

    MSI and MMIO ranges have priority over the guest window (H48): what lies in them, or outside the window, belongs to no page and follows the
    active host.
    """
    def __init__(self, data_bytes, window_pages):
        self.window_pages = window_pages
        super().__init__({
            "i": In(stream.Signature(TlpBeat(data_bytes))),
            "o": Out(stream.Signature(QueueBeat(data_bytes, DeviceInfo(window_pages), 3))),
            "settings": In(Settings),
        })

    def elaborate(self, platform):
        m = Module()
        header = self.i.payload.header
        fields = data.View(headers.RequestHeader(), header)
        info = self.o.payload.info
        address, kind = Signal(64), Signal(TlpClass)
        lane, lane_q = Signal(2), Signal(2)
        m.d.comb += [
            self.o.valid.eq(self.i.valid), self.i.ready.eq(self.o.ready), self.o.payload.beat.eq(self.i.payload),
            address.eq(headers.address_of(header)), kind.eq(headers.tlp_class(header)),
            lane.eq(Mux(kind == TlpClass.POSTED, EgressLane.POSTED,
                        Mux(kind == TlpClass.COMPLETION, EgressLane.COMPLETION, EgressLane.NON_POSTED))),
            self.o.payload.lane.eq(Mux(self.i.payload.first, lane, lane_q)),
            info.page.eq(address[PAGE_BITS:] - self.settings.window.base),
            info.in_window.eq(
                (headers.is_memory(header) | headers.is_atomic(header)) & self.settings.window.holds_address_of(header)
                & ~self.settings.msi.holds_address_of(header) & ~self.settings.mmio.holds_address_of(header)),
            info.changes_memory.eq((kind == TlpClass.POSTED) | headers.is_atomic(header)),
            info.last_completion.eq(ends_request(header)),
            info.needs_proof.eq((kind != TlpClass.POSTED) | ~fields.relaxed_ordering),
        ]
        with m.If(self.i.valid & self.i.payload.first):
            m.d.sync += lane_q.eq(lane)
        return m
