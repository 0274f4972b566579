"""Event counters."""

from functools import reduce
from operator import or_

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import memory, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

__all__ = ["Counters"]

#: Bits that count the events of one counter between two of its turns: up to 7 a cycle for 36 cycles.
_RECENT_BITS = 8


class Counters(wiring.Component):
    """One 64-bit counter for each name, up to 16: input ``<name>`` is the number of events in a cycle (0 to 7).

    The counters stand in a memory, and take turns to add what is new. A counter that is read has its turn then, so the word is exact: ``count`` is
    two cycles after ``enable`` the sum since reset of the counter number ``index``, with the events up to the cycle before ``enable``. Reads in at
    most every other cycle on average.

    Members
    -------
    index, enable : in
    count : out
    """
    def __init__(self, names):
        self.names = tuple(names)
        if len(self.names) > 16:
            raise ValueError(f"There must be 16 counters at most, not {len(self.names)}")
        super().__init__({
            **{name: In(3) for name in self.names}, "index": In(ceil_log2(len(self.names))), "enable": In(1), "count": Out(64),
        })

    def elaborate(self, platform):
        m = Module()
        m.submodules.counts = counts = memory.Memory(shape=64, depth=1 << len(self.index), init=[])
        read, write = counts.read_port(domain="comb"), counts.write_port()
        turn, chosen, last = Signal.like(self.index), Signal.like(self.index), Signal.like(self.index)
        base, new = Signal(64), Signal(_RECENT_BITS + 2)
        taken = Signal(len(self.names))     # `chosen`, a bit a counter
        recent = [self._gather(m, name, taken[number]) for number, name in enumerate(self.names)]
        # A memory has no reset: what it holds of a counter is of before until its first turn.
        started, begun = Signal(len(self.names)), Signal()
        again = Signal()
        following = Mux(self.enable, self.index, turn)
        m.d.comb += [read.addr.eq(chosen), self.count.eq(base + new), write.addr.eq(last), write.data.eq(self.count), write.en.eq(begun)]
        m.d.sync += [
            chosen.eq(following), taken.eq(Cat(following == number for number in range(len(self.names)))),
            last.eq(chosen), begun.eq(taken.any()), started.eq(started | taken),
            # What it has just been given is not in the memory yet; the old word still stands here.
            again.eq(taken.any() & (following == chosen)),
            new.eq(Mux(again, new, 0) + reduce(or_, (Mux(chosen, events, 0) for chosen, events in zip(taken, recent, strict=True)))),
        ]
        with m.If(~again):
            m.d.sync += base.eq(Mux((started & taken).any(), read.data, 0))
        with m.If(~self.enable):
            m.d.sync += turn.eq(Mux(turn == len(self.names) - 1, 0, turn + 1))
        return m

    def _gather(self, m, name, taken):
        """Events since the last turn of one counter."""
        events, recent = Signal(3, name=f"{name}_q"), Signal(_RECENT_BITS, name=f"{name}_recent")
        m.d.sync += [events.eq(getattr(self, name)), recent.eq(Mux(taken, 0, recent) + events)]
        return recent
