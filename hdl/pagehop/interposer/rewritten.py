"""Which pages of a run were written to since they were copied."""

from amaranth.hdl import Module, Signal
from amaranth.lib import memory, wiring
from amaranth.lib.wiring import In, Out

__all__ = ["Rewritten"]


class Rewritten(wiring.Component):
    """A bit for each unit of a run: something in it has changed since it was last taken.

    Notes and takes come in any cycle, both in the same too, so there are two memories with one writer each, and a unit is ``due`` when they differ. A
    note shows in the next cycle; of a note and a take of one unit in one cycle the note lasts. At first, and after a reset, units may be due or not.

    Members
    -------
    changed, changed_unit : in, note this unit.
    unit, due : in, out; valid in the same cycle. take : in, ``unit`` is not due any more.
    """
    def __init__(self, unit_bits):
        self.unit_bits = unit_bits
        super().__init__({
            "changed": In(1), "changed_unit": In(unit_bits), "unit": In(unit_bits), "due": Out(1), "take": In(1),
        })

    def elaborate(self, platform):
        m = Module()
        noted, taken = (memory.Memory(shape=1, depth=1 << self.unit_bits, init=[]) for _ in range(2))
        m.submodules.noted, m.submodules.taken = noted, taken
        note, take = noted.write_port(), taken.write_port()
        noted_here, taken_here, taken_there = (bits.read_port(domain="comb") for bits in (noted, taken, taken))
        again = Signal()    # what is taken is noted
        m.d.comb += [
            noted_here.addr.eq(self.unit), taken_here.addr.eq(self.unit), taken_there.addr.eq(self.changed_unit),
            self.due.eq(noted_here.data != taken_here.data), again.eq(self.changed & (self.changed_unit == self.unit)),
            note.addr.eq(self.changed_unit), note.data.eq(~taken_there.data), note.en.eq(self.changed),
            take.addr.eq(self.unit), take.data.eq(noted_here.data), take.en.eq(self.take & ~again),
        ]
        return m
