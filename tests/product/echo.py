"""A small design to try the runner on: a stream with one register, and a memory."""

from amaranth.hdl import Module
from amaranth.lib import stream, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out


class Echo(wiring.Component):
    """Give back what comes in, one cycle later, with its last byte looked up in a table; one item a cycle."""

    def __init__(self, planted=False):
        self.planted = planted
        super().__init__({"i": In(stream.Signature(512)), "o": Out(stream.Signature(512))})

    def elaborate(self, platform):
        m = Module()
        m.submodules.table = table = Memory(shape=8, depth=256, init=[value ^ (self.planted and value == 7) for value in range(256)])
        read = table.read_port(domain="comb")
        upper = self.i.payload[8:]
        m.d.comb += [read.addr.eq(self.i.payload[:8]), self.i.ready.eq(~self.o.valid | self.o.ready)]
        with m.If(self.i.ready):
            m.d.sync += [self.o.valid.eq(self.i.valid), self.o.payload[:8].eq(read.data), self.o.payload[8:].eq(upper)]
        return m
