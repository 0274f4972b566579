"""Wait until the requests of the device that were in flight at some moment have been answered."""

from amaranth.hdl import Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from pagehop.tlp.outstanding import EPOCHS

__all__ = ["EpochWait"]

#: Cycles after an advance in which what was allocated before it may not show yet.
SHOWN_CYCLES = 2


class EpochWait(wiring.Component):
    """Wait until every request that was allocated up to the cycle of an advance has been answered, whatever is allocated, or advanced, later.

    Pulse ``start`` in that cycle: ``done`` is 0 from the next cycle until the requests have been answered, three cycles at least.

    Members
    -------
    epoch : of the :class:`OutstandingTable`. ``unanswered``: its bit an epoch, of all requests or of the atomics.
    """
    start: In(1)
    done: Out(1)
    epoch: In(range(EPOCHS))
    unanswered: In(EPOCHS)

    def elaborate(self, platform):
        m = Module()
        awaited, delay = Signal(EPOCHS), Signal(range(SHOWN_CYCLES + 1))
        m.d.comb += self.done.eq(~awaited.any())
        with m.If(self.start):
            # The epoch that begins has had no request since it was last awaited, and those that it gets are not waited for.
            m.d.sync += [awaited.eq(~(1 << (self.epoch + 1)[:len(self.epoch)])), delay.eq(SHOWN_CYCLES)]
        with m.Elif(delay.any()):
            m.d.sync += delay.eq(delay - 1)
        with m.Else():
            m.d.sync += awaited.eq(awaited & self.unanswered)
        return m
