"""Completions of reads of leaves, in beats."""

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from pagehop.ots.leaf_writes import LINE_BYTES
from pagehop.tlp.headers import CompletionHeader
from pagehop.tlp.stream import TlpBeat

__all__ = ["Answered", "LeafAnswer"]


class Answered(data.Struct):
    """A completion with up to 64 bytes from the lowest on; what is above its ``dwords`` is 0. ``dwords`` 0: it has none."""
    header: CompletionHeader()
    data:   8 * LINE_BYTES
    dwords: 5


class LeafAnswer(wiring.Component):
    """Send one completion after the other; the first beat in the cycle after ``i`` was taken, then one in each. ``i.ready`` is a register."""
    def __init__(self, data_bytes):
        self.data_bytes = data_bytes
        super().__init__({"i": In(stream.Signature(Answered)), "o": Out(stream.Signature(TlpBeat(data_bytes)))})

    def elaborate(self, platform):
        m = Module()
        answer, valid, first, lanes = Signal(Answered), Signal(), Signal(), self.data_bytes // 4
        beat = self.o.payload
        m.d.comb += [
            self.i.ready.eq(~valid), self.o.valid.eq(valid), beat.first.eq(first), beat.last.eq(answer.dwords <= lanes),
            beat.header.eq(answer.header), beat.data.eq(answer.data), beat.dwords.eq(Mux(beat.last, answer.dwords, lanes)),
        ]
        with m.If(~valid):
            m.d.sync += [valid.eq(self.i.valid), answer.eq(self.i.payload), first.eq(1)]
        with m.Elif(self.o.ready):
            m.d.sync += [
                valid.eq(~beat.last), first.eq(0), answer.header.eq(0), answer.dwords.eq(answer.dwords - lanes),
                answer.data.eq(answer.data >> 8 * self.data_bytes),
            ]
        return m
