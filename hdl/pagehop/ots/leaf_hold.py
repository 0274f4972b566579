"""The hold of a line of leaves, which ends by itself (docs/ots.md)."""

from amaranth.hdl import Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

__all__ = ["LeafHold"]


class LeafHold(wiring.Component):
    """``active`` from the cycle after ``hold`` rises until the cycle after it falls, and for at most ``limit`` cycles, at least one.

    ``expired`` pulses in the last cycle when the time was up. After that ``hold`` must have been 0 before another hold begins. ``limit`` is that of
    the cycle before ``hold`` rose.
    """
    hold:    In(1)
    limit:   In(32)
    active:  Out(1)
    expired: Out(1)

    def elaborate(self, platform):
        m = Module()
        seen, ended, left = Signal(), Signal(), Signal(32)
        m.d.comb += [self.active.eq(seen & ~ended), self.expired.eq(self.active & self.hold & (left[1:] == 0))]
        m.d.sync += [seen.eq(self.hold), ended.eq(self.hold & (ended | self.expired))]
        with m.If(self.active):
            m.d.sync += left.eq(left - 1)
        with m.If(~self.hold):
            m.d.sync += left.eq(self.limit)
        return m
