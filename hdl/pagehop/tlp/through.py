"""A queue that an item goes through in no time while it is empty."""

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from pagehop.tlp.fifo import LaneFifo

__all__ = ["ThroughFifo"]


class ThroughFifo(wiring.Component):
    """A :class:`LaneFifo` with a way past it: while it is empty, ``o`` shows what stands on ``i``. One item a cycle.

    The way opens in the second cycle after the last item has left. ``i.ready`` and ``o`` are otherwise those of the queue.

    Parameters
    ----------
    shape, depth, direct : of the queue.
    """
    def __init__(self, shape, depth, *, direct=False):
        self.shape, self.depth, self.direct = shape, depth, direct
        super().__init__({"i": In(stream.Signature(shape)), "o": Out(stream.Signature(shape))})

    def elaborate(self, platform):
        m = Module()
        m.submodules.queue = queue = LaneFifo(self.shape, self.depth, direct=self.direct)
        vacant = Signal(init=1)   # nothing is inside
        m.d.comb += [
            queue.i.valid.eq(self.i.valid & ~(vacant & self.o.ready)), queue.i.payload.eq(self.i.payload), self.i.ready.eq(queue.i.ready),
            self.o.valid.eq(queue.o.valid | (vacant & self.i.valid)), self.o.payload.eq(Mux(vacant, self.i.payload, queue.o.payload)),
            queue.o.ready.eq(self.o.ready),
        ]
        m.d.sync += vacant.eq(~queue.i.valid & ~queue.o.valid & (queue.level == 0))
        return m
