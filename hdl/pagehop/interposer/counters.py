"""Event counters."""

from amaranth.hdl import Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

__all__ = ["Counters"]


class Counters(wiring.Component):
    """One 64-bit counter for each name: input ``<name>`` is the number of events in a cycle (0 to 7), output ``<name>_count`` their sum since
    reset, two cycles later."""
    def __init__(self, names):
        self.names = tuple(names)
        super().__init__({
            **{name: In(3) for name in self.names}, **{f"{name}_count": Out(64) for name in self.names},
        })

    def elaborate(self, platform):
        m = Module()
        for name in self.names:
            events, count = Signal(3, name=f"{name}_q"), getattr(self, f"{name}_count")
            m.d.sync += [events.eq(getattr(self, name)), count.eq(count + events)]
        return m
