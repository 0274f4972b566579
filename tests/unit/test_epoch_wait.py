"""The wait for requests in flight: those that show late are awaited as well."""

import pytest

from pagehop.interposer.epoch_wait import EpochWait
from pagehop_sim.planted import planted
from pagehop_tb.simulate import run

EPOCHS = 4


def exercise(dut):
    async def bench(ctx):
        for epoch in range(EPOCHS):
            for shows in range(3):              # cycles from the start until the request shows
                for lasts in range(1, 6):
                    later = (epoch + 1) % EPOCHS
                    assert ctx.get(dut.done)
                    ctx.set(dut.epoch, epoch)
                    ctx.set(dut.start, 1)
                    await ctx.tick()
                    ctx.set(dut.start, 0)
                    ctx.set(dut.epoch, later)
                    for cycle in range(shows + lasts):
                        # Requests of the epoch that begins are not awaited.
                        ctx.set(dut.unanswered, (cycle >= shows) << epoch | 1 << later)
                        assert not ctx.get(dut.done), f"over in cycle {cycle}, and a request shows in cycle {shows}"
                        await ctx.tick()
                    ctx.set(dut.unanswered, 1 << later)
                    await ctx.tick().repeat(4)
    run(dut, bench)


@pytest.mark.hazard("H58")
def test_what_shows_two_cycles_after_the_advance_is_awaited():
    exercise(EpochWait())


@pytest.mark.parametrize("change", [
    ("delay.eq(SHOWN_CYCLES)", "delay.eq(0)"), ("delay.any()", "delay.all()"), ("awaited & self.unanswered", "awaited"),
    ("(self.epoch + 1)", "(self.epoch)")], ids=["no delay", "half a delay", "no end", "the wrong epoch"])
def test_planted_bug_is_found(change):
    with pytest.raises(AssertionError):
        exercise(planted(EpochWait, *change)())
