# amaranth: UnusedElaboratable=no
"""What a fence waits for: nothing when nothing is looked into, else the end of what was found by what has been invalidated."""

import pytest

from pagehop.iommu.layouts import DirectoryMode
from pagehop.iommu.misses import Misses
from pagehop.iommu.translator import Translator
from pagehop_sim.planted import planted
from pagehop_tb.simulate import run


def waits(dut, lead):
    """Cycles in which something is stale, after all has been invalidated ``lead`` cycles after a request; its walk ends after 20."""
    stale = []

    async def bench(ctx):
        ctx.set(dut.directory.mode, DirectoryMode.ONE_LEVEL)
        ctx.set(dut.directory_memory.a.ready, 1)
        ctx.set(dut.fault.ready, 1)
        for cycle in range(40):
            ctx.set(dut.request.valid, cycle == 5)
            ctx.set(dut.invalidate_contexts, cycle == 5 + lead)
            ctx.set(dut.directory_memory.d.valid, 21 <= cycle < 25)
            if ctx.get(dut.stale):
                stale.append(cycle - 5)
            await ctx.tick()

    run(dut, bench)
    return stale


def exercise(translator):
    assert waits(translator(), -5) == [-4] and waits(translator(), 33) == [34], "nothing was looked into"
    for lead in range(1, 15):
        stale = waits(translator(), lead)
        assert stale and stale == list(range(lead + 1, stale[-1] + 1)) and 20 <= stale[-1] <= 26, f"{stale} after {lead} cycles"
    assert len(waits(translator(), 0)) > 10, "what was looked up in the cycle in which it was invalidated"


def test_stale_is_what_was_found_by_what_is_invalidated():
    exercise(Translator)


@pytest.mark.parametrize("change", [
    ("m.d.sync += self.stale.eq(self.invalidate)\n", "pass\n"), ("with m.If(self.invalidate):\n            m.d.sync += self.stale.eq(1)", ""),
    ("self.invalidate | self._invalidated", "self.invalidate"),
], ids=["for ever", "never", "of the cycle before"])
def test_planted_bug_is_found(change):
    with pytest.raises(AssertionError):
        exercise(planted(Translator, "", "", Misses=planted(Misses, *change)))
