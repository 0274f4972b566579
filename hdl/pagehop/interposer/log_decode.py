"""From what the device writes to the bits that stand for it."""

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from pagehop.interposer.layouts import Written
from pagehop.interposer.log_settings import RANGES, UNIT_BITS, DirtyUnits, LogRange
from pagehop.tlp.arbiter import lowest, select_one
from pagehop.tlp.compare import pieces_equal

__all__ = ["DECODE_CYCLES", "LogDecode"]

#: Cycles from ``writes`` to ``o``.
DECODE_CYCLES = 5

#: Units that are remembered, so that as many streams of writes cost a mark a unit.
RECENT = 4


class LogDecode(wiring.Component):
    """Say which units each write touches (H48): those of the first range that has its page. One write a cycle, always taken.

    Units that were among the last four to leave are not told again, until ``forget``: what is chosen to be forgotten in a cycle counts from the next.
    No TLP crosses 4 KiB, so only units of 2 KiB are touched two at a time; these have their bits in one word.

    Members
    -------
    enable, ranges : of the log.
    writes, written : of the device. ``forget``.
    o : stream of :class:`DirtyUnits`, whose taker sees to it that it always takes.
    """
    def __init__(self):
        super().__init__({
            "enable": In(1), "ranges": In(data.ArrayLayout(LogRange, RANGES)), "writes": In(1), "written": In(Written), "forget": In(1),
            "o": Out(stream.Signature(DirtyUnits)),
        })

    def elaborate(self, platform):
        m = Module()
        page, halves, found = Signal(52), Signal(2), Signal(RANGES)
        chosen, place, valid = Signal(LogRange), Signal(range(RANGES)), Signal()
        page_q, halves_q = Signal(32), Signal(2)
        offset, offset_halves, offset_range, shift, offset_valid = Signal(32), Signal(2), Signal(range(RANGES)), Signal(4), Signal()
        units, units_valid, unit = Signal(DirtyUnits), Signal(), Signal(33)
        first, end = self.written.first, self.written.first + Cat(self.written.dwords, self.written.dwords == 0)
        half = 1 << UNIT_BITS - 2
        limits = [Signal(53, name=f"limit_{number}") for number in range(RANGES)]
        m.d.sync += [
            *(limit.eq(one.base + one.pages) for limit, one in zip(limits, self.ranges, strict=True)),
            # In which ranges.
            page.eq(self.written.page), halves.eq(Cat(first < half, end > half)),
            found.eq(Cat(self.writes & self.enable & (self.written.page >= one.base) & (self.written.page < limit)
                         for one, limit in zip(self.ranges, limits, strict=True))),
            # The first of them.
            chosen.eq(select_one(lowest(found), self.ranges)), valid.eq(found.any()), page_q.eq(page), halves_q.eq(halves),
            place.eq(Mux(found[0], 0, Mux(found[1], 1, Mux(found[2], 2, 3)))),
            # How far in it.
            offset.eq(page_q - chosen.base[:32]), offset_halves.eq(halves_q), offset_range.eq(place), shift.eq(chosen.shift - UNIT_BITS),
            offset_valid.eq(valid),
        ]
        fine = shift == 0
        m.d.comb += unit.eq(Cat(~offset_halves[0], offset) >> shift)
        m.d.sync += [
            units_valid.eq(offset_valid), units.place.range.eq(offset_range), units.place.word.eq(unit[6:]),
            units.bit.eq(unit), units.pair.eq(fine & offset_halves.all()),
        ]
        self._filter(m, units, units_valid)
        return m

    def _filter(self, m, units, valid):
        """Leave out what has just been told."""
        recent = [Signal(DirtyUnits, name=f"recent_{number}") for number in range(RECENT)]
        known, turn, seen = Signal(RECENT), Signal(range(RECENT)), Signal()
        m.d.comb += seen.eq(Cat(there & pieces_equal(units.as_value(), one.as_value()).all() for there, one in zip(known, recent, strict=True)).any())
        m.d.sync += [self.o.valid.eq(valid & ~seen), self.o.payload.eq(units)]
        with m.If(valid & ~seen):
            m.d.sync += turn.eq(turn + 1)
            for number, one in enumerate(recent):
                with m.If(turn == number):
                    m.d.sync += [one.eq(units), known[number].eq(1)]
        with m.If(self.forget | ~self.enable):
            m.d.sync += known.eq(0)
