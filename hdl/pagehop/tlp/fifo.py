"""A first-in first-out queue for one lane of TLP beats."""

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

__all__ = ["LaneFifo"]


class LaneFifo(wiring.Component):
    """Queue of one lane. One item a cycle in and out; an item accepted by an empty queue is on ``o`` in the next cycle.

    There are two forms, by the kind of memory. In one of block memory an output register is loaded past the memory while the queue is empty; an item
    that went through the memory leaves it at the earliest two cycles after it was accepted, which costs no throughput. It holds ``depth`` items in
    memory, or one less, and one in the register. With ``direct`` the memory is one of look-up tables and ``o`` shows it as it stands there: no
    register, no way past it. That holds ``depth`` items.

    Parameters
    ----------
    shape : shape of an item.
    depth : items in memory, a power of two, at least 2.
    direct : for a memory of look-up tables, up to 64 items.

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
        # A narrow memory of many items would be made of look-up tables, whose address has a long way in the registered form.
        attributes = {"no_rw_check": 1} | ({} if self.direct else {"ram_style": "block"})
        m.submodules.memory = memory = Memory(shape=self.shape, depth=self.depth, init=[], attrs=attributes)
        write, read = memory.write_port(), memory.read_port(domain="comb")
        # What decides about an item only enables counters; all else follows from these a cycle later, so the paths through `i.valid` and `o.ready`
        # end here.
        written, taken = (Signal(self.depth.bit_length(), name=name) for name in ("written", "taken"))
        m.d.comb += [write.addr.eq(written[:-1]), write.data.eq(self.i.payload)]
        if self.direct:
            self._direct(m, write, read, written, taken)
        else:
            self._registered(m, write, read, written, taken)
        return m

    def _direct(self, m, write, read, written, taken):
        put, take = Signal(), Signal()
        m.d.comb += [
            self.i.ready.eq(~self.level[-1]), put.eq(self.i.valid & self.i.ready), take.eq(self.o.valid & self.o.ready),
            write.en.eq(put), read.addr.eq(taken[:-1]), self.o.payload.eq(read.data),
        ]
        m.d.sync += [
            written.eq(written + put), taken.eq(taken + take), self.level.eq(self.level + put - take),
            self.o.valid.eq(put | Mux(take, self.level[1:].any(), self.level.any())),
        ]

    def _registered(self, m, write, read, written, taken):
        oldest = Signal(self.shape)
        # One bit more than an address: equal pointers mean empty.
        taken_next = Signal(self.depth.bit_length(), init=1)
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
            # What goes by the memory is written too, and not counted.
            write.en.eq(self.i.valid & ~full),
            read.addr.eq(Mux(take, taken_next[:-1], taken[:-1])),
        ]
        m.d.sync += [
            oldest.eq(read.data),
            # One item may be put in the cycle in which this is found out.
            full.eq(self.level >= self.depth - 1),
            # What is written in this cycle cannot be read in it.
            head_valid.eq(Mux(take, taken_next != written, taken != written)),
        ]
        with m.If(put):
            m.d.sync += written.eq(written + 1)
        with m.If(take):
            m.d.sync += [taken.eq(taken_next), taken_next.eq(taken_next + 1)]
        with m.If(refill):
            m.d.sync += [
                self.o.valid.eq(head_valid | (empty & self.i.valid & ~full)),
                self.o.payload.eq(Mux(head_valid, oldest, self.i.payload)),
            ]
