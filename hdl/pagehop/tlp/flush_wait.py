"""Wait until the writes that one host has been sent are visible there."""

from amaranth.hdl import Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from pagehop.tlp.flush import FLUSH_SEQUENCE_BITS, FlushView, reached

__all__ = ["FlushWait"]


class FlushWait(wiring.Component):
    """Wait until what one host's egress accepted before ``start`` is visible there.

    Pulse ``start``: a flush is asked for if one is needed, also if the last was lost and so has proven nothing. ``done`` is 0 from the next cycle
    until it has been answered or given up; ``flush.lost`` says then that it is not proven.

    Members
    -------
    flush, request : of the host's :class:`FlushTracker`, which insists.
    """
    start: In(1)
    done: Out(1, init=1)
    flush: In(FlushView)
    request: Out(1)

    def elaborate(self, platform):
        m = Module()
        target, needed = Signal(FLUSH_SEQUENCE_BITS), Signal()
        m.d.comb += [needed.eq(self.flush.dirty | self.flush.lost), self.request.eq(self.start & needed)]
        with m.If(self.start):
            m.d.sync += [target.eq(self.flush.issued + needed), self.done.eq(0)]
        with m.Elif(reached(self.flush.done, target, self.flush.newest)):
            m.d.sync += self.done.eq(1)
        return m
