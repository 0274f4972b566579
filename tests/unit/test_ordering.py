# amaranth: UnusedElaboratable=no
"""The ordering queue against a model that knows, for every TLP, which posted ones stand before it."""

import os
import random
from collections import deque
from collections.abc import Callable
from typing import Any

import pytest
from amaranth.hdl import Elaboratable, Module, Signal
from amaranth.lib import data
from amaranth.sim import Simulator

from pagehop.tlp.ordering import POSTED, OrderingQueue, may_go
from pagehop_sim.planted import planted

CLOCK = 4e-9
INFO = data.StructLayout({"serial": 16})
LANES = 3


def seeded(name: str) -> random.Random:
    """Random numbers of this test, the same for the same SEED."""
    seed = f"{os.environ.get('SEED', '1')} {name}"
    print(f"seed {seed!r}")
    return random.Random(seed)


def head_may_go(m: Module, queue: Any, lane: int) -> Signal:
    """As an owner decides a cycle ahead: any head when none stands before it, this one while it stays."""
    head, go = queue.o[lane], Signal(name=f"may_go{lane}")
    m.d.sync += go.eq(queue.none_older | (head.valid & ~head.ready & may_go(head.payload.stamp, queue.posted)))
    return go


class Bench(Elaboratable):
    """The queue with ``may_go`` of each lane brought out."""

    def __init__(self, queue: type, depths: tuple[int, ...]) -> None:
        self.dut = queue(16, INFO, depths)
        self.go = [Signal(name=f"go{lane}") for lane in range(len(depths))]

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.dut = self.dut
        for lane, go in enumerate(self.go):
            m.d.comb += go.eq(1 if lane == POSTED else head_may_go(m, self.dut, lane))
        return m


class Model:
    """Lanes of (serial, TLPs that must have left before it). ``left`` holds the posted TLPs that left."""

    def __init__(self) -> None:
        self.lanes: list[deque[tuple[int, int]]] = [deque() for _ in range(LANES)]
        self.posted_in = self.posted_out = 0

    def accept(self, lane: int, serial: int, first: bool) -> None:
        self.lanes[lane].append((serial, self.posted_in))
        if lane == POSTED and first:
            self.posted_in += 1

    def waits_for(self, lane: int) -> int:
        """Posted TLPs that stand before the head of a lane."""
        return 0 if lane == POSTED else max(0, self.lanes[lane][0][1] - self.posted_out)


def run(queue: type, name: str, *, cycles: int, gap: float, stall: float, stalled_lane: int | None = None) -> dict[str, int]:
    """Feed random TLPs of one to three beats and take heads that may go; compare each with the model.

    ``stalled_lane`` gets four beats at most at a time and is not taken from in the first three quarters of the run.
    """
    rng = seeded(name)
    bench = Bench(queue, (8, 4, 4))
    dut, model = bench.dut, Model()
    counts = {"taken": 0, "waited": 0, "went_past_stall": 0, "taken_late": 0}

    async def stimulus(ctx: Any) -> None:
        serial, beats_left, lane, offered, leaving = 0, 0, 0, False, 0
        late = [0] * LANES
        for cycle in range(cycles):
            if not offered and rng.random() >= gap:
                first = beats_left == 0
                if first:
                    lane, beats_left = rng.choices(range(LANES), (4, 2, 2))[0], rng.randint(1, 3)
                    if lane == stalled_lane and (cycle > cycles // 4 or len(model.lanes[lane]) > 1):
                        lane = POSTED
                beats_left -= 1
                beat = {"first": first, "last": beats_left == 0, "data": serial}
                ctx.set(dut.i.payload, {"beat": beat, "info": {"serial": serial & 0xFFFF}, "lane": lane})
                offered = True
            ctx.set(dut.i.valid, offered)
            ctx.set(dut.posted_left, leaving > 0)
            takes = []
            for number in range(LANES):
                may_take = rng.random() >= stall and not (number == stalled_lane and cycle < cycles * 3 // 4)
                if ctx.get(dut.o[number].valid):
                    head = ctx.get(dut.o[number].payload)
                    go = ctx.get(bench.go[number])
                    assert model.lanes[number], f"lane {number} offers a TLP that was never accepted"
                    assert head.info.serial == model.lanes[number][0][0] & 0xFFFF, f"lane {number} is out of order"
                    assert head.beat.data == model.lanes[number][0][0], f"lane {number} changed its data"
                    waits, since = model.waits_for(number), model.posted_out - model.lanes[number][0][1]
                    assert not go or waits == 0, f"lane {number} may go before {waits} posted TLPs that stand before it"
                    # A head that waited for long may have to wait for posted TLPs that came later; never when there are none.
                    due = waits == 0 and (since < 8 or model.posted_in == model.posted_out)
                    late[number] = late[number] + 1 if due and not go else 0
                    assert late[number] <= 2, f"lane {number} may not go although nothing stands before it; {since} posted TLPs left since"
                    counts["waited"] += not go
                    may_take = may_take and bool(go)
                else:
                    may_take = False
                ctx.set(dut.o[number].ready, may_take)
                if may_take:
                    takes.append((number, head.beat.last))
            accepted = offered and ctx.get(dut.i.ready)
            if leaving:
                leaving -= 1
                model.posted_out += 1
            await ctx.tick()
            if accepted:
                model.accept(lane, serial, first)
                serial += 1
                offered = False
            for number, last in takes:
                model.lanes[number].popleft()
                counts["taken"] += 1
                leaving += number == POSTED and last
                if stalled_lane is not None:
                    counts["taken_late" if number == stalled_lane else "went_past_stall"] += 1

    simulator = Simulator(bench)
    simulator.add_clock(CLOCK)
    simulator.add_testbench(stimulus)
    simulator.run()
    return counts


@pytest.mark.hazard("H61", "O1", "O3", "I5")
@pytest.mark.parametrize(("gap", "stall"), [(0.0, 0.0), (0.5, 0.0), (0.0, 0.5), (0.3, 0.3), (0.0, 0.9)])
def test_heads_go_in_order_and_as_soon_as_no_posted_stands_before_them(gap: float, stall: float) -> None:
    counts = run(OrderingQueue, f"order {gap} {stall}", cycles=3000, gap=gap, stall=stall)
    assert counts["taken"] > 250
    assert stall == 0 or counts["waited"] > 100


@pytest.mark.hazard("H24", "D1", "I7")
@pytest.mark.parametrize("lane", [1, 2])
def test_a_stalled_lane_stops_no_other_and_goes_when_it_can_however_long_it_waited(lane: int) -> None:
    counts = run(OrderingQueue, f"stalled {lane}", cycles=1200, gap=0.2, stall=0.1, stalled_lane=lane)
    assert counts["went_past_stall"] > 400
    assert counts["taken_late"] > 1


BUGS: dict[str, Callable[[], type]] = {
    "the stamp is taken one TLP early": lambda: planted(OrderingQueue, "self._lane(m, lane, depth, 0 if lane == POSTED else stamp)",
                                                        "self._lane(m, lane, depth, 0 if lane == POSTED else stamp - 1)"),
    "every beat of a posted TLP is counted": lambda: planted(
        OrderingQueue, "self.free[POSTED] & self.i.payload.beat.first & (", "self.free[POSTED] & ("),
    "posted TLPs leave uncounted": lambda: planted(
        OrderingQueue, "self.posted.left.eq(self.posted.left + self.posted_left)", "self.posted.left.eq(self.posted.left)"),
    "a lane takes every beat": lambda: planted(OrderingQueue, "self.i.valid & (self.i.payload.lane == lane)", "self.i.valid"),
}


@pytest.mark.parametrize("bug", BUGS)
def test_planted_bug_is_caught(bug: str) -> None:
    with pytest.raises(AssertionError):
        run(BUGS[bug](), "order 0.3 0.3", cycles=1500, gap=0.3, stall=0.3)


def test_one_lane_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^An ordering queue needs a posted lane and at least one other, not 1 lanes$"):
        OrderingQueue(16, INFO, (8,))


def test_posted_lane_as_lane_of_completions_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^The posted lane gets no completions, so lanes of completions must be others, not \(0, 1\)$"):
        OrderingQueue(16, {"info": 1}, (2, 2), completions=(0, 1))
