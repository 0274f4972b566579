# amaranth: UnusedElaboratable=no
"""The lane FIFO against a queue of Python numbers."""

import os
import random
from collections import deque
from typing import Any

import pytest
from amaranth.sim import Simulator

from pagehop.tlp.fifo import LaneFifo
from pagehop_sim.planted import planted

CLOCK = 4e-9
DEPTH = 8


def run(fifo: type, name: str, *, cycles: int, gap: float, stall: float, direct: bool = False) -> dict[str, int]:
    """Offer numbers with gaps, take them with stalls, compare each; at the end empty the queue."""
    seed = f"{os.environ.get('SEED', '1')} {name}"
    print(f"seed {seed!r}")
    rng = random.Random(seed)
    dut = fifo(16, DEPTH, direct=direct)
    register = not direct   # one item is not in the memory
    expected: deque[int] = deque()
    counts = {"put": 0, "got": 0, "full": 0, "empty": 0, "most": 0, "shortest": cycles}
    accepted_at: deque[int] = deque()

    async def bench(ctx: Any) -> None:
        offered: int | None = None
        waited: int | None = None
        for cycle in range(cycles + 4 * DEPTH):
            ending = cycle >= cycles
            if offered is None and not ending and rng.random() >= gap:
                offered = rng.getrandbits(16)
                ctx.set(dut.i.payload, offered)
            ctx.set(dut.i.valid, offered is not None)
            takes = ending or rng.random() >= stall
            ctx.set(dut.o.ready, takes)
            assert ctx.get(dut.level) == max(0, len(expected) - (register and ctx.get(dut.o.valid))), "level is not the number of items in memory"
            counts["most"] = max(counts["most"], len(expected))
            puts = offered is not None and ctx.get(dut.i.ready)
            counts["full"] += not ctx.get(dut.i.ready)
            counts["empty"] += not expected
            if ctx.get(dut.o.valid):
                got = ctx.get(dut.o.payload)
                assert expected and got == expected[0], f"item {counts['got']} is {got:#x}, not {expected[0] if expected else None!r}"
                assert waited is None or got == waited, "an item changed while it waited"
                waited = None if takes else got
                if takes:
                    expected.popleft()
                    counts["got"] += 1
                    counts["shortest"] = min(counts["shortest"], cycle - accepted_at.popleft())
            else:
                assert waited is None, "an item was withdrawn"
            await ctx.tick()
            if puts:
                assert offered is not None
                expected.append(offered)
                accepted_at.append(cycle)
                offered = None
                counts["put"] += 1
        assert not expected, f"{len(expected)} items never came out"

    simulator = Simulator(dut)
    simulator.add_clock(CLOCK)
    simulator.add_testbench(bench)
    simulator.run()
    return counts


@pytest.mark.parametrize("direct", [False, True])
@pytest.mark.parametrize(("gap", "stall"), [(0.0, 0.0), (0.5, 0.0), (0.0, 0.5), (0.4, 0.4), (0.1, 0.2)])
def test_items_come_out_unchanged_and_in_order(gap: float, stall: float, direct: bool) -> None:
    counts = run(LaneFifo, f"fifo {gap} {stall}", cycles=2000, gap=gap, stall=stall, direct=direct)
    assert counts["got"] > 800
    if gap or not stall:
        assert counts["shortest"] == 1
    else:
        assert counts["shortest"] >= 2   # a queue that is never empty lets nothing past
    if stall > gap:
        assert counts["full"] > 100
        assert counts["most"] == DEPTH + (not direct)
    if gap > stall:
        assert counts["empty"] > 100


@pytest.mark.parametrize("direct", [False, True])
def test_one_item_a_cycle(direct: bool) -> None:
    counts = run(LaneFifo, "rate", cycles=1000, gap=0.0, stall=0.0, direct=direct)
    assert counts["put"] == 1000


BUGS = {
    "an item bypasses older ones": ("put.eq(self.i.valid & ~full & ~(refill & empty))", "put.eq(self.i.valid & ~full & ~refill)"),
    "a full queue accepts": ("full.eq(self.level >= self.depth - 1)", "full.eq(0)"),
    "the queue is full one item late": ("full.eq(self.level >= self.depth - 1)", "full.eq(self.level >= self.depth)"),
    "the memory is read in the cycle of the write": (
        "Mux(take, taken_next != written, taken != written)", "Mux(take, taken_next != written + put, taken != written + put)"),
    "the output changes while it waits": ("refill.eq(~self.o.valid | self.o.ready)", "refill.eq(1)"),
    "the last item stays": ("Mux(take, taken_next != written, taken != written)", "Mux(take, taken_next != written, taken_next != written)"),
    "a full queue says that it bypassed": ("(empty & self.i.valid & ~full)", "self.i.valid"),
}


BUGS_DIRECT = {
    "a full queue accepts": ("put.eq(self.i.valid & self.i.ready)", "put.eq(self.i.valid)"),
    "the last item stays": ("put | Mux(take, self.level[1:].any(), self.level.any())", "put | self.level[1:].any()"),
    "an item is offered twice": ("Mux(take, self.level[1:].any(), self.level.any())", "self.level.any()"),
    "the places are one too few": ("self.i.ready.eq(~self.level[-1])", "self.i.ready.eq(self.level < self.depth - 1)"),
}


@pytest.mark.parametrize(("bug", "direct"), [*((bug, False) for bug in BUGS), *((bug, True) for bug in BUGS_DIRECT)])
def test_planted_bug_is_caught(bug: str, direct: bool) -> None:
    with pytest.raises(AssertionError):
        changed = planted(LaneFifo, *(BUGS_DIRECT if direct else BUGS)[bug])
        counts = run(changed, "fifo 0.4 0.4", cycles=600, gap=0.4, stall=0.5, direct=direct)
        assert counts["most"] == DEPTH + (not direct)


@pytest.mark.parametrize("depth", [1, 3, 2.0])
def test_depth_must_be_a_power_of_two(depth: float) -> None:
    with pytest.raises(ValueError, match=rf"^Lane depth must be a power of two of at least 2, not {depth!r}$"):
        LaneFifo(8, depth)
