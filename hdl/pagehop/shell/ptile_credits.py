"""Credits of the link partner, as the P-Tile shows them, for the core."""

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from pagehop.shell.ptile_signals import CreditIndex
from pagehop.tlp import headers
from pagehop.tlp.headers import TlpClass
from pagehop.tlp.stream import CreditLimits, TlpBeat

__all__ = ["Granted", "LinkCredits"]

#: Cycles for which the link must be up until a class of which no credits were shown is taken as infinite.
_SETTLES = 128


class Granted(wiring.Component):
    """One credit limit for the core, of the limit that the block shows.

    The block sends TLPs of its own, which draw on the same credits and are not told (683059, 4.4.7). What the partner gives back for these must not
    become credits of the core, of which it would have more and more: it has never more left than the partner gave at first. While such TLPs are
    outside, the core may have as many credits too many, and then the block's ``ready`` is what holds it.

    The core is told of a quarter of the range of its counters at most, however much more there is (scaled flow control).

    Parameters
    ----------
    shown_bits, bits : widths of what the block shows and of what the core is given.

    Members
    -------
    update, shown : a limit is shown. Not again within 5 cycles.
    spent : credits spent in this cycle.
    limit : for the core; 4 cycles after it was shown it begins to count, in 2 more it is here.
    unknown : no credits were shown yet.
    """
    def __init__(self, shown_bits, bits):
        self.shown_bits, self.bits = shown_bits, bits
        super().__init__({
            "update": In(1), "shown": In(shown_bits), "spent": In(3), "limit": Out(bits), "unknown": Out(1, init=1),
        })

    def elaborate(self, platform):
        m = Module()
        shown, gain, total, spent, total_next, left = (
            Signal(self.shown_bits, name=name) for name in ("last", "gain", "total", "spent_total", "total_next", "left"))
        most, excess, steps = Signal(self.shown_bits), Signal(self.shown_bits + 1), Signal(4)
        m.d.sync += [steps.eq((steps << 1) | self.update), spent.eq(spent + self.spent), self.unknown.eq(most == 0)]
        with m.If(self.update):
            m.d.sync += [shown.eq(self.shown), gain.eq(self.shown - shown)]
            with m.If(most == 0):
                m.d.sync += most.eq(self.shown)
        # What is too much stays so while more is spent, so it may be found out in steps.
        m.d.sync += [total_next.eq(total + gain), left.eq(total_next - spent), excess.eq(left - most)]
        with m.If(steps[3]):
            m.d.sync += total.eq(total_next - Mux(excess[-1], 0, excess[:-1]))
        self._give(m, total, spent)
        return m

    def _give(self, m, total, spent):
        """The limit as it stands, or a quarter of the range more than is spent."""
        quarter = 1 << self.bits - 2
        left, of_total, of_spent = Signal(self.shown_bits), Signal(self.bits), Signal(self.bits)
        m.d.sync += [
            left.eq(total - spent), of_total.eq(total), of_spent.eq(spent + quarter),
            self.limit.eq(Mux(left[self.bits - 2:].any(), of_spent, of_total)),
        ]


class LinkCredits(wiring.Component):
    """Limits for the core from ``tx_cdts_limit``, and what it spends.

    Members
    -------
    shown, index : ``tx_cdts_limit``, ``tx_cdts_limit_tdm_idx``: 12 bits of a header limit, 16 of a data limit, by turns.
    up : the link is up; a class of which nothing is shown while it is has infinite credits.
    taken, beat : a beat that the core sends.
    limits : for the core.
    """
    def __init__(self):
        super().__init__({
            "shown": In(16), "index": In(3), "up": In(1), "taken": In(1), "beat": In(TlpBeat(64)), "limits": Out(CreditLimits),
        })

    def elaborate(self, platform):
        m = Module()
        kind, taken, first, dwords, timer = Signal(2), Signal(), Signal(), Signal(6), Signal(range(_SETTLES + 1))
        m.d.sync += [taken.eq(self.taken), first.eq(self.beat.first), dwords.eq(self.beat.dwords)]
        with m.If(self.taken & self.beat.first):
            m.d.sync += kind.eq(headers.tlp_class(self.beat.header))
        with m.If(~self.up):
            m.d.sync += timer.eq(0)
        with m.Elif(timer != _SETTLES):
            m.d.sync += timer.eq(timer + 1)
        for of in TlpClass:
            limit = self.limits[of.name.lower()]
            for part, offset, bits in (("header", 0, 12), ("data", CreditIndex.DATA, 16)):
                m.submodules[f"{of.name.lower()}_{part}"] = granted = Granted(bits, len(limit[part]))
                spends = taken & (kind == of.value)
                units = first if part == "header" else headers.credits_of_dwords(dwords)
                m.d.sync += [
                    granted.update.eq(self.index == of.value + offset), granted.shown.eq(self.shown), granted.spent.eq(Mux(spends, units, 0)),
                ]
                m.d.comb += limit[part].eq(granted.limit)
                if part == "header":
                    m.d.sync += limit.infinite.eq((timer == _SETTLES) & granted.unknown)
        return m
