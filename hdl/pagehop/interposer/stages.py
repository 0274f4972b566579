"""Pipeline stages between an ordering queue and its gate."""

from amaranth.hdl import Module, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

__all__ = ["Looked", "LookupStage"]


class Looked(data.StructLayout):
    """A lane's beat and the result of its look-up."""
    def __init__(self, shape, result):
        super().__init__({"head": shape, "result": result})


class LookupStage(wiring.Component):
    """Carry a lane past a memory: two registers, one before and one behind the read data.

    Two cycles of latency, one beat a cycle. The owner addresses the memory from ``i.payload`` and enables it with ``enable``; the memory shows its
    data in the next cycle
    and keeps it until the next enable. ``result`` is taken from that data and from ``middle``, the beat it belongs to.

    Members
    -------
    enable : read the memory in this cycle.
    middle : the beat whose data the memory shows.
    result : what to keep beside it.
    advance : ``middle`` moves to ``o`` in this cycle.
    """
    def __init__(self, shape, result):
        self.shape = shape
        super().__init__({
            "i": In(stream.Signature(shape)), "o": Out(stream.Signature(Looked(shape, result))),
            "enable": Out(1), "middle": Out(shape), "result": In(result), "advance": Out(1),
        })

    def elaborate(self, platform):
        m = Module()
        middle_valid, middle_moves = Signal(), Signal()
        m.d.comb += [
            self.advance.eq(~self.o.valid | self.o.ready),
            middle_moves.eq(~middle_valid | self.advance),
            self.i.ready.eq(middle_moves),
            self.enable.eq(self.i.valid & middle_moves),
        ]
        with m.If(middle_moves):
            m.d.sync += [middle_valid.eq(self.i.valid), self.middle.eq(self.i.payload)]
        with m.If(self.advance):
            m.d.sync += [
                self.o.valid.eq(middle_valid),
                self.o.payload.head.eq(self.middle),
                self.o.payload.result.eq(self.result),
            ]
        return m
