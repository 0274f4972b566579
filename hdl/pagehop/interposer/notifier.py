"""The message that tells a host that a move has ended."""

from amaranth.hdl import Module, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from pagehop.interposer.layouts import PortConfig
from pagehop.tlp import headers
from pagehop.tlp.stream import TlpBeat

__all__ = ["Notifier"]


class Notifier(wiring.Component):
    """Write ``value`` to ``address`` at one host, as an MSI does: MWr, one double word, RO and NS 0 (6.1.4).

    One message an event; a second event while a message waits is covered by it, since software reads the status after the message.

    Members
    -------
    event : pulse. ``enable``, ``host``, ``address``, ``value``: from the registers.
    config : of both hosts' ports.
    o : the message, for each host.
    """
    def __init__(self, data_bytes):
        self.data_bytes = data_bytes
        super().__init__({
            "event": In(1), "enable": In(1), "host": In(1), "address": In(64), "value": In(32),
            "config": In(PortConfig).array(2), "o": Out(stream.Signature(TlpBeat(data_bytes))).array(2),
        })

    def elaborate(self, platform):
        m = Module()
        pending, host = Signal(), Signal()
        with m.If(self.event & self.enable):
            m.d.sync += [pending.eq(1), host.eq(self.host)]
        for number, (sink, config) in enumerate(zip(self.o, self.config, strict=True)):
            plain = headers.plain_request(m, True, 1, config.requester_id, f"header_{number}")
            m.d.comb += [
                sink.valid.eq(pending & (host == number)),
                sink.payload.header.eq(headers.with_address(plain, self.address)),
                sink.payload.data.eq(self.value), sink.payload.dwords.eq(1), sink.payload.first.eq(1), sink.payload.last.eq(1),
            ]
            with m.If(sink.valid & sink.ready & ~(self.event & self.enable)):
                m.d.sync += pending.eq(0)
        return m
