"""What the interposer itself sends to one host: reads, copies, notifications, answers."""

from amaranth.hdl import Module
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from pagehop.interposer.issue import IssueRegister
from pagehop.tlp.arbiter import TlpArbiter
from pagehop.tlp.egress import EgressBeat, EgressLane
from pagehop.tlp.stream import TlpBeat, connect_streams

__all__ = ["LocalSource"]

_SOURCES = {
    "flush": EgressLane.ENGINE, "copy_read": EgressLane.ENGINE, "copy_write": EgressLane.POSTED,
    "notification": EgressLane.POSTED, "answer": EgressLane.COMPLETION,
}


class LocalSource(wiring.Component):
    """Merge the interposer's own TLPs for one host, in turns, each begun only when its egress lane has room.

    One cycle from an input to ``o``; first in first out from there. ``entered`` and ``accepted`` count TLPs as :class:`IssueRegister` does.
    """
    def __init__(self, data_bytes):
        self.data_bytes = data_bytes
        beats = stream.Signature(TlpBeat(data_bytes))
        super().__init__({
            **{name: In(beats) for name in _SOURCES},
            "room": In(4), "o": Out(stream.Signature(EgressBeat(data_bytes))), "entered": Out(4), "accepted": Out(4),
        })

    def elaborate(self, platform):
        m = Module()
        m.submodules.turns = turns = TlpArbiter(EgressBeat(self.data_bytes), len(_SOURCES))
        m.submodules.register = register = IssueRegister(EgressBeat(self.data_bytes))
        for sink, (name, lane) in zip(turns.i, _SOURCES.items(), strict=True):
            source = getattr(self, name)
            m.d.comb += [
                sink.valid.eq(source.valid & (~source.payload.first | self.room[lane])),
                source.ready.eq(sink.ready & sink.valid),
                sink.payload.beat.eq(source.payload), sink.payload.lane.eq(lane), sink.payload.to_memory.eq(name == "copy_write"),
            ]
        for source, sink in ((turns.o, register.i), (register.o, self.o)):
            connect_streams(m, source, sink)
        m.d.comb += [self.entered.eq(register.entered), self.accepted.eq(register.accepted)]
        return m
