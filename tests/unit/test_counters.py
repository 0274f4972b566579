# amaranth: UnusedElaboratable=no
"""The event counters against a list of sums."""

import pytest
from amaranth.hdl import ResetInserter, Signal

from pagehop.tlp.counters import Counters
from pagehop_tb.simulate import run, seeded

NAMES = tuple("abcdefghijk")


class LosesWhatIsBeingAdded(Counters):
    """Planted bug: the events in the cycle of a counter's turn are lost."""
    def _gather(self, m, name, taken):
        recent = super()._gather(m, name, taken)
        with m.If(taken):
            m.d.sync += recent.eq(0)
        return recent


def exercise(counters, name, cycles=4000):
    rng = seeded(name)
    reset = Signal()
    dut = ResetInserter(reset)(counters)

    async def bench(ctx):
        sums, history = [0] * len(NAMES), [0] * len(NAMES)
        expected, was_read = [None, None], False
        for cycle in range(cycles):
            resets = cycle % 1500 == 1499
            ctx.set(reset, resets)
            if (count := expected.pop(0)) is not None:
                assert ctx.get(counters.count) == count
            # At most every other cycle on average, at times two in a row of one counter.
            reads = rng.random() < (0.6 if was_read else 0.3)
            index = ctx.get(counters.index) if was_read and rng.random() < 0.5 else rng.randrange(len(NAMES))
            was_read = reads
            ctx.set(counters.enable, reads)
            ctx.set(counters.index, index)
            expected.append(history[index] if reads else None)
            for number, event in enumerate(NAMES):
                count = rng.choice([0, 1, 7, rng.randrange(8)])
                ctx.set(getattr(counters, event), count)
                sums[number] += count
            history = list(sums)
            if resets:
                sums, history, expected = [0] * len(NAMES), [0] * len(NAMES), [None, None]
            await ctx.tick()

    run(dut, bench)


def test_counts_are_exact_at_every_read():
    exercise(Counters(NAMES), "counters")


def test_planted_bug_is_found():
    with pytest.raises(AssertionError):
        exercise(LosesWhatIsBeingAdded(NAMES), "counters/bug")


def test_number_is_limited():
    with pytest.raises(ValueError, match=r"^There must be 16 counters at most, not 17$"):
        Counters(tuple("abcdefghijklmnopq"))
