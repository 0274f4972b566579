"""A first-in first-out queue for one lane of TLP beats."""

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

__all__ = ["LaneFifo"]


class LaneFifo(wiring.Component):
    """Queue with an output register that an empty queue is bypassed into.

    One item a cycle in and out. An item accepted by an empty queue is on ``o`` in the next cycle; one that went through the memory
    leaves it at the earliest two cycles after it was accepted, which costs no throughput. Holds ``depth`` items in memory, or one less, and one in
    the register.

    Parameters
    ----------
    shape : shape of an item.
    depth : items in memory, a power of two, at least 2.
    direct : read the memory without a register behind it. Smaller and shorter where the memory is one of look-up tables, up to 64 items.

    Members
    -------
    i, o : streams of items.
    level : items in memory (the register not counted).
    """
    def __init__(self, shape, depth, *, direct=False):
        if not isinstance(depth, int) or depth < 2 or depth & (depth - 1):
            raise ValueError(f"Lane depth must be a power of two of at least 2, not {depth!r}")
        self.shape = shape
        self.depth = depth
        self.direct = direct
        super().__init__({
            "i": In(stream.Signature(shape)), "o": Out(stream.Signature(shape)), "level": Out(range(depth + 1)),
        })

    def elaborate(self, platform):
        m = Module()
        # No item is read in the cycle in which it is written, so the memory need not say what such a read returns. Else tools make up for block
        # memories that do not say either, with two registers and a multiplexer a bit. They take it only of a read with its register outside.
        m.submodules.memory = memory = Memory(shape=self.shape, depth=self.depth, init=[], attrs={"no_rw_check": 1})
        write, read = memory.write_port(), memory.read_port(domain="comb")
        oldest = Signal(self.shape)
        # One bit more than an address: equal pointers mean empty. What decides about an item only enables counters; all else follows from these a
        # cycle
        # later, so the paths through `i.valid` and `o.ready` end here.
        written, taken, taken_next = (Signal(self.depth.bit_length(), init=start) for start in (0, 0, 1))
        head_valid, full = Signal(), Signal()   # `head_valid`: the read port shows the oldest item
        put, take, refill, empty = Signal(), Signal(), Signal(), Signal()

        m.d.comb += [
            refill.eq(~self.o.valid | self.o.ready),
            take.eq(refill & head_valid),
            empty.eq(written == taken),
            self.level.eq(written - taken),
            self.i.ready.eq(~full),
            # Bypass only when nothing older is in the memory.
            put.eq(self.i.valid & ~full & ~(refill & empty)),
            write.addr.eq(written[:-1]),
            write.data.eq(self.i.payload),
            # What goes by the memory is written too, and not counted.
            write.en.eq(self.i.valid & ~full),
        ]
        # One item may be put in the cycle in which this is found out.
        m.d.sync += full.eq(self.level >= self.depth - 1)
        if self.direct:
            m.d.comb += [read.addr.eq(taken[:-1]), oldest.eq(read.data), head_valid.eq(~empty)]
        else:
            m.d.comb += read.addr.eq(Mux(take, taken_next[:-1], taken[:-1]))
            m.d.sync += oldest.eq(read.data)
            # What is written in this cycle cannot be read in it.
            m.d.sync += head_valid.eq(Mux(take, taken_next != written, taken != written))
        with m.If(put):
            m.d.sync += written.eq(written + 1)
        with m.If(take):
            m.d.sync += [taken.eq(taken_next), taken_next.eq(taken_next + 1)]
        with m.If(refill):
            m.d.sync += [
                self.o.valid.eq(head_valid | (empty & self.i.valid & ~full)),
                self.o.payload.eq(Mux(head_valid, oldest, self.i.payload)),
            ]
        return m
