# amaranth: UnusedElaboratable=no
"""What an ordering queue shows of its TLPs ahead of their beats."""

import os
import random
from collections import deque
from typing import Any

import pytest
from amaranth.lib import data
from amaranth.sim import Simulator

from pagehop.tlp.ordering import POSTED, OrderingQueue
from pagehop_sim.planted import planted

INFO = data.StructLayout({"serial": 8, "kept": 8})
DEPTHS = (128, 4, 4)   # one lane of block memory
LANES = range(len(DEPTHS))


def run(queue: type, name: str, cycles: int = 2500) -> dict[str, int]:
    """Random TLPs of one to three beats. Items are taken at random, each before or with the last beat of its TLP; both must be in order."""
    seed = f"{os.environ.get('SEED', '1')} {name}"
    print(f"seed {seed!r}")
    rng = random.Random(seed)
    dut = queue(16, INFO, DEPTHS, keeps=(("kept",), ("kept", "stamp"), ("kept",)), ahead=dict.fromkeys(LANES, ("serial",)))
    ahead: list[deque[tuple[int, int]]] = [deque() for _ in LANES]    # serial, stamp
    beats: list[deque[tuple[int, bool]]] = [deque() for _ in LANES]   # serial, last
    counts = {"shown": 0, "at_once": 0}

    async def bench(ctx: Any) -> None:
        sending: list[int] | None = None   # lane, serial, beats left
        serial = posted = 0
        seen = [0] * len(DEPTHS)           # items taken, less TLPs gone
        first = True
        for _ in range(cycles):
            if sending is None and rng.random() < 0.7:
                serial, first = (serial + 1) % 256, True
                sending = [rng.choice(LANES), serial, rng.randint(1, 3)]
            ctx.set(dut.i.valid, sending is not None)
            if sending:
                lane, number, left = sending
                ctx.set(dut.i.payload, {"lane": lane, "info": {"serial": number, "kept": number ^ 255}, "beat": {"first": first, "last": left == 1}})
                accepted = ctx.get(dut.i.ready)
                if accepted and first:
                    ahead[lane].append((number, 0 if lane == POSTED else posted))
            else:
                accepted = 0
            for lane in LANES:
                takes = rng.random() < 0.4
                ctx.set(dut.ahead[lane].ready, takes)
                if ctx.get(dut.ahead[lane].valid):
                    item = ctx.get(dut.ahead[lane].payload)
                    assert ahead[lane] and (item.info.serial, item.stamp) == ahead[lane][0], f"lane {lane} shows {item}, not {ahead[lane]}"
                    counts["shown"] += takes
                    counts["at_once"] += takes and bool(sending) and accepted and first and ahead[lane][-1][0] == sending[1] and len(ahead[lane]) == 1
                    if takes:
                        ahead[lane].popleft()
                        seen[lane] += 1
                head = dut.o[lane]
                # A beat leaves only when its TLP was seen.
                ready = seen[lane] > 0 and rng.random() < 0.6
                ctx.set(head.ready, ready)
                if ctx.get(head.valid) and ready:
                    beat = ctx.get(head.payload)
                    number, last = beats[lane].popleft()
                    assert (beat.info.kept, beat.beat.last) == (number ^ 255, last), f"lane {lane} brings {beat}, not {number}"
                    seen[lane] -= last
            if accepted and sending:
                lane, number, left = sending
                beats[lane].append((number, left == 1))
                posted = (posted + (lane == POSTED and first)) % (1 << dut.stamp_bits)
                sending, first = ([lane, number, left - 1] if left > 1 else None), False
            ctx.set(dut.posted_left, 0)
            await ctx.tick()

    simulator = Simulator(dut)
    simulator.add_clock(4e-9)
    simulator.add_testbench(bench)
    simulator.run()
    return counts


def test_tlps_are_shown_in_order_ahead_of_their_beats() -> None:
    counts = run(OrderingQueue, "ahead")
    assert counts["shown"] > 300 and counts["at_once"] > 30


BUGS = {
    "every beat is shown": ("self.i.payload.beat.first & (self.i.payload.lane == lane) & self.free[lane]",
                            "(self.i.payload.lane == lane) & self.free[lane]"),
    "what waits is shown again and again": ("(self.i.payload.lane == lane) & self.free[lane]", "(self.i.payload.lane == lane)"),
    "another lane's are shown": ("self.i.payload.beat.first & (self.i.payload.lane == lane)", "self.i.payload.beat.first"),
    "what is kept is mixed up": ("stored[name].eq(self.i.payload.info[name])", "stored[name].eq(self.i.payload.info.serial)"),
}


@pytest.mark.parametrize("bug", BUGS)
def test_planted_bug_is_caught(bug: str) -> None:
    with pytest.raises(AssertionError):
        run(planted(OrderingQueue, *BUGS[bug]), "ahead")
