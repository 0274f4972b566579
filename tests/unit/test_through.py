# amaranth: UnusedElaboratable=no
"""The queue that items go through, against a list of Python numbers."""

import os
import random
from collections import deque
from typing import Any

import pytest
from amaranth.sim import Simulator

from pagehop.tlp.through import ThroughFifo
from pagehop_sim.planted import planted

DEPTH = 4


def run(queue: type, name: str, *, gap: float, stall: float, direct: bool, cycles: int = 1500) -> dict[str, int]:
    """Offer numbers with gaps, never more than fit, take them with stalls, compare each."""
    seed = f"{os.environ.get('SEED', '1')} {name}"
    print(f"seed {seed!r}")
    rng = random.Random(seed)
    dut = queue(16, DEPTH, direct=direct)
    most = DEPTH if direct else DEPTH - 1   # while a block memory is read, one place is not known to be free
    inside: deque[int] = deque()
    counts = {"got": 0, "through": 0, "most": 0}

    async def bench(ctx: Any) -> None:
        shown: int | None = None
        for _ in range(cycles):
            offered = rng.getrandbits(16) if len(inside) < most and rng.random() >= gap else None
            takes = rng.random() >= stall
            ctx.set(dut.i.valid, offered is not None)
            ctx.set(dut.i.payload, offered or 0)
            ctx.set(dut.o.ready, takes)
            assert offered is None or ctx.get(dut.i.ready), "a queue that is not full refuses an item"
            if offered is not None:
                inside.append(offered)
            if ctx.get(dut.o.valid):
                got = ctx.get(dut.o.payload)
                assert inside and got == inside[0], f"{got:#x} is shown, not {inside[0] if inside else None}"
                assert shown is None or shown == got, "an item changed while it waited"
                shown = None if takes else got
                if takes:
                    counts["through"] += len(inside) == 1 and offered is not None
                    counts["got"] += 1
                    inside.popleft()
            else:
                assert shown is None, "an item was withdrawn"
            counts["most"] = max(counts["most"], len(inside))
            await ctx.tick()
        ctx.set(dut.i.valid, 0)
        ctx.set(dut.o.ready, 1)
        for _ in range(3 * DEPTH):
            if ctx.get(dut.o.valid):
                assert ctx.get(dut.o.payload) == inside.popleft()
            await ctx.tick()
        assert not inside, f"{len(inside)} items never came out"

    simulator = Simulator(dut)
    simulator.add_clock(4e-9)
    simulator.add_testbench(bench)
    simulator.run()
    return counts


@pytest.mark.parametrize("direct", [False, True])
@pytest.mark.parametrize(("gap", "stall"), [(0.0, 0.0), (0.6, 0.0), (0.0, 0.6), (0.4, 0.4), (0.7, 0.2)])
def test_items_come_out_in_order_and_at_once_when_the_queue_is_empty(gap: float, stall: float, direct: bool) -> None:
    counts = run(ThroughFifo, f"through {gap} {stall}", gap=gap, stall=stall, direct=direct)
    assert counts["got"] > 400
    assert stall > gap or counts["through"] > 30
    assert stall <= gap or counts["most"] >= DEPTH - 1


BUGS = {
    "an item that went through stays": ("self.i.valid & ~(vacant & self.o.ready)", "self.i.valid"),
    "an item passes those inside": ("vacant.eq(~queue.i.valid & ~queue.o.valid & (queue.level == 0))", "vacant.eq(~queue.o.valid)"),
    "nothing goes through": ("vacant & self.i.valid", "0"),
}


@pytest.mark.parametrize("bug", BUGS)
def test_planted_bug_is_caught(bug: str) -> None:
    with pytest.raises(AssertionError):
        counts = run(planted(ThroughFifo, *BUGS[bug]), "through 0.4 0.4", gap=0.4, stall=0.4, direct=False)
        assert counts["through"] > 10
