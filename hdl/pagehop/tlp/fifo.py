"""A first-in first-out queue for one lane of TLP beats."""

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

__all__ = ["LaneFifo"]


class LaneFifo(wiring.Component):
    """Queue with an output register that an empty queue is bypassed into.

    One item a cycle in and out. An item accepted by an empty queue is on ``o`` in the next cycle; one that went through the memory
    leaves it at the earliest two cycles after it was accepted, which costs no throughput. Holds ``depth`` items in memory and one in the register.

    Parameters
    ----------
    shape : shape of an item.
    depth : items in memory, a power of two, at least 2.

    Members
    -------
    i, o : streams of items.
    level : items in memory (the register not counted).
    """
    def __init__(self, shape, depth):
        if not isinstance(depth, int) or depth < 2 or depth & (depth - 1):
            raise ValueError(f"Lane depth must be a power of two of at least 2, not {depth!r}")
        self.shape = shape
        self.depth = depth
        super().__init__({
            "i": In(stream.Signature(shape)), "o": Out(stream.Signature(shape)), "level": Out(range(depth + 1)),
        })

    def elaborate(self, platform):
        m = Module()
        shape = self.shape
        m.submodules.memory = memory = Memory(shape=shape, depth=self.depth, init=[])
        write, read = memory.write_port(), memory.read_port()
        pointer_bits = self.depth.bit_length() - 1
        write_pointer, read_pointer = Signal(pointer_bits), Signal(pointer_bits)
        head_valid, empty, full = Signal(), Signal(init=1), Signal()   # `head_valid`: the read port shows the oldest item
        put, take, refill = Signal(), Signal(), Signal()
        level_next = Signal.like(self.level)

        m.d.comb += [
            refill.eq(~self.o.valid | self.o.ready),
            take.eq(refill & head_valid),
            self.i.ready.eq(~full),
            # Bypass only when nothing older is in the memory.
            put.eq(self.i.valid & ~full & ~(refill & empty)),
            level_next.eq(self.level + put - take),
            write.addr.eq(write_pointer),
            write.data.eq(self.i.payload),
            write.en.eq(put),
            read.en.eq(1),
            read.addr.eq(read_pointer + take),
        ]
        m.d.sync += [
            write_pointer.eq(write_pointer + put),
            read_pointer.eq(read_pointer + take),
            self.level.eq(level_next),
            empty.eq(level_next == 0),
            full.eq(level_next == self.depth),
            # What is written in this cycle cannot be read in it.
            head_valid.eq((self.level - take) != 0),
        ]
        with m.If(refill):
            m.d.sync += [
                self.o.valid.eq(head_valid | (empty & self.i.valid)),
                self.o.payload.eq(Mux(head_valid, read.data, self.i.payload)),
            ]
        return m
