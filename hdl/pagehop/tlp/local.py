"""What the hardware itself sends to one partner: reads, copies, notifications, answers."""

from amaranth.hdl import Module
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from pagehop.tlp.arbiter import TlpArbiter
from pagehop.tlp.egress import EgressBeat
from pagehop.tlp.issue import IssueRegister
from pagehop.tlp.stream import TlpBeat, connect_streams

__all__ = ["LocalSource"]

#: Those whose addresses a flush may read afterwards: they are in the host's memory.
_TO_MEMORY = ("copy_write", "record", "log_write")
#: Those of which each slot has its own.
_OF_SLOTS = ("copy_read", "copy_write")


class LocalSource(wiring.Component):
    """Merge our own TLPs for one partner, in turns, each begun only when its egress lane has room.

    One cycle from an input to ``o``; first in first out from there. ``entered`` and ``accepted`` count TLPs as :class:`IssueRegister` does.
    ``copy_read`` and ``copy_write`` are one a slot.

    Parameters
    ----------
    data_bytes : beat width. lanes : the inputs, and the lane of each. slots : page slots
    """
    def __init__(self, data_bytes, lanes, slots=1):
        self.data_bytes, self.slots, self.lanes = data_bytes, slots, lanes
        beats = stream.Signature(TlpBeat(data_bytes))
        super().__init__({
            **{name: In(beats).array(slots) if name in _OF_SLOTS else In(beats) for name in lanes},
            "room": In(4), "o": Out(stream.Signature(EgressBeat(data_bytes))), "entered": Out(4), "accepted": Out(4),
        })

    def elaborate(self, platform):
        m = Module()
        sources = [(lane, name, source) for name, lane in self.lanes.items()
                   for source in (getattr(self, name) if name in _OF_SLOTS else [getattr(self, name)])]
        m.submodules.turns = turns = TlpArbiter(EgressBeat(self.data_bytes), len(sources))
        m.submodules.register = register = IssueRegister(EgressBeat(self.data_bytes))
        for sink, (lane, name, source) in zip(turns.i, sources, strict=True):
            m.d.comb += [
                sink.valid.eq(source.valid & (~source.payload.first | self.room[lane])),
                source.ready.eq(sink.ready & sink.valid),
                sink.payload.beat.eq(source.payload), sink.payload.lane.eq(lane), sink.payload.to_memory.eq(name in _TO_MEMORY),
            ]
        for source, sink in ((turns.o, register.i), (register.o, self.o)):
            connect_streams(m, source, sink)
        m.d.comb += [self.entered.eq(register.entered), self.accepted.eq(register.accepted)]
        return m
