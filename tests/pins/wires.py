"""A design with the ports of the interposer and nothing inside, to try the bench on."""

from amaranth.hdl import Const, Module, Signal
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from pagehop.iommu.tilelink import MemoryPort
from pagehop.tlp.stream import CreditLimits, TlpPort, connect_streams

#: Bugs that can be planted, each against one rule of a stream or of the credits.
FAULTS = ("none", "payload", "valid", "dwords", "header", "overrun", "range", "leak")


class Wires(wiring.Component):
    """Joins the device with Host A through one register each way; what Host B sends vanishes.

    The device's limits are those of Host A and the other way round, so the credits hold end to end.
    """

    def __init__(self, data_bytes=64, fault="none"):
        if fault not in FAULTS:
            raise ValueError(f"Fault must be one of {', '.join(FAULTS)}, not {fault!r}")
        self.data_bytes = data_bytes
        self.fault = fault
        port = TlpPort(data_bytes)
        super().__init__({
            "device": Out(port), "host_a": Out(port), "host_b": Out(port),
            "config_device": In(80), "config_host_a": In(80), "config_host_b": In(80),
            "commit": Out(1), "commit_page": Out(32), "commit_host": Out(1), "holding": Out(1),
        })

    def elaborate(self, platform):
        m = Module()
        for source, sink, fault in ((self.device, self.host_a, self.fault), (self.host_a, self.device, "none")):
            self._register(m, source.rx, sink.tx, fault)
        m.d.comb += [
            self.device.rx_limits.eq(self.host_a.tx_limits), self.host_a.rx_limits.eq(self.device.tx_limits),
            self.host_b.rx_limits.eq(Const(0x7FFFFFFFFFFFFFFF, 63)), self.host_b.rx.ready.eq(1),
        ]
        limits = data.View(CreditLimits, self.device.rx_limits.as_value())
        if self.fault == "overrun":
            m.d.comb += [limits.posted.infinite.eq(1)]
        if self.fault == "leak":
            # The partner's first header credit that comes back is kept.
            leaked = Signal()
            granted = Signal(8)
            m.d.sync += granted.eq(self.host_a.tx_limits.posted.header)
            with m.If((granted != 0) & (granted != self.host_a.tx_limits.posted.header)):
                m.d.sync += leaked.eq(1)
            m.d.comb += limits.posted.header.eq(self.host_a.tx_limits.posted.header - leaked)
        if self.fault == "range":
            m.d.comb += limits.posted.header.eq(self.host_a.tx_limits.posted.header + 126)
        return m

    def _register(self, m, i, o, fault):
        payload = Signal(i.p.shape(), name="register")
        valid = Signal()
        m.d.comb += [o.valid.eq(valid), o.payload.eq(payload), i.ready.eq(~valid | o.ready)]
        with m.If(i.ready):
            m.d.sync += [valid.eq(i.valid), payload.eq(i.payload)]
        with m.Elif(fault == "payload"):
            m.d.sync += payload.data.eq(payload.data + 1)
        with m.Elif(fault == "valid"):
            m.d.sync += valid.eq(0)
        if fault == "dwords":
            m.d.comb += o.payload.dwords.eq(payload.dwords ^ (payload.last & ~payload.first))
        if fault == "header":
            m.d.comb += o.payload.header.eq(payload.header ^ (payload.first << 125))


class PeerWires(Wires):
    """Joins the device with port 0 of a host, and what stands for an OTS with port 1; and the reads of a walker with their home."""

    def __init__(self, data_bytes=64):
        port, memory = TlpPort(data_bytes), MemoryPort(source_bits=3)
        wiring.Component.__init__(self, {
            "device": Out(port), "host": Out(port), "endpoint": Out(port), "ots": Out(port), "walker": In(memory), "port": Out(memory),
        })

    def elaborate(self, platform):
        m = Module()
        for one, other in ((self.device, self.host), (self.endpoint, self.ots)):
            for source, sink in ((one, other), (other, one)):
                self._register(m, source.rx, sink.tx, "none")
                m.d.comb += source.rx_limits.eq(sink.tx_limits)
        connect_streams(m, self.walker.a, self.port.a)
        connect_streams(m, self.port.d, self.walker.d)
        return m
