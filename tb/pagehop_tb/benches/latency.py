"""What a move in merge mode costs the device's accesses, those to the page that moves too, against hosts that answer after a fixed time.

The same random accesses three times: to pages that are all at Host A, to pages of both hosts, and to these while one of them moves to and fro.
``values`` of the result are as :mod:`pagehop_tb.benches.performance` writes them.
"""

from collections import defaultdict
from random import Random
from typing import Any

import cocotb
import numpy as np

from pagehop_tb.benches.frame import BenchConfig
from pagehop_tb.benches.performance import report
from pagehop_tb.benches.three_ports import DEVICE, GUEST, PAGE, ThreePorts
from pagehop_tb.driver import interposer_registers as regs
from pagehop_tb.driver.api import MoveResult
from pagehop_tb.driver.interposer import Setup
from pagehop_tb.protocol import Kind, Tlp, memory_read, memory_write

PAGES, MOVING = 8, 0
#: Round trip of a host, cycles between two accesses at most, cycles of each of the three runs.
DELAY, GAP = 250, 12
#: Share of the accesses that goes to the page that moves.
SHARE = 0.3
FIRST_TAG, TAGS = 16, 200
#: What a move may add to the 99th percentile.
RATIO, CYCLES = 1.05, 4


class Device:
    """Random reads and writes of a line, and how long each took: a write until it is on the wire to its host, a read until its data are back."""

    def __init__(self, bench: ThreePorts, random: Random) -> None:
        self.bench, self.random = bench, random
        self.sent: dict[tuple, tuple[int, int]] = {}
        self.took: dict[tuple[str, bool], list[int]] = defaultdict(list)
        self.tag, self.number = 0, 0
        bench.device.on_sent, bench.device.on_tlp = self._sent, self._answered
        for host in bench.hosts:
            host.on_write = self._written

    def _sent(self, tlp: Tlp) -> None:
        self.sent[(tlp.tag,) if tlp.kind is Kind.MRD else (tlp.data,)] = self.bench.fabric.cycle, (tlp.address - GUEST) // PAGE

    def _written(self, tlp: Tlp) -> None:
        if tlp.requester_id == DEVICE:
            self._done("write", (tlp.data,))

    def _answered(self, tlp: Tlp) -> None:
        assert tlp.is_completion and tlp.status == 0
        self._done("read", (tlp.tag,))

    def _done(self, what: str, key: tuple) -> None:
        cycle, page = self.sent.pop(key)
        self.took[what, page == MOVING].append(self.bench.fabric.cycle - cycle)

    async def run(self, cycles: int) -> dict[tuple[str, bool], int]:
        """Go on for so many cycles; 99th percentiles of reads and writes, of the moving page and of all."""
        self.took.clear()
        end = self.bench.fabric.cycle + cycles
        while self.bench.fabric.cycle < end:
            page = MOVING if self.random.random() < SHARE else self.random.randrange(PAGES)
            address = GUEST + page * PAGE + self.random.randrange(0, PAGE, 64)
            if self.random.random() < 0.5:
                self.number += 1
                self.bench.device.queue(memory_write(DEVICE, address, self.number.to_bytes(64, "little")))
            else:
                self.tag = (self.tag + 1) % TAGS
                self.bench.device.queue(memory_read(DEVICE, address, 64, FIRST_TAG + self.tag))
            await self.bench.fabric.wait(1 + self.random.randrange(GAP))
        await self.bench.fabric.wait(8 * DELAY)
        assert not self.sent, f"{len(self.sent)} accesses never ended"
        found = {}
        for what in ("read", "write"):
            here, elsewhere = self.took[what, True], self.took[what, False]
            for name, values in ((True, here), (False, here + elsewhere)):
                found[what, name] = int(np.percentile(values, 99, method="nearest"))
        return found


@cocotb.test(timeout_time=10, timeout_unit="ms")
async def while_a_page_moves(dut: Any) -> None:
    """The 99th percentile of reads and writes, to any page and to the one that moves, hardly differs from that without a move."""
    config = BenchConfig("latency")
    cycles = config.get("cycles", 40_000)
    config.refuse_unknown()
    bench = ThreePorts(dut, config, delay=DELAY)
    await bench.start_settled()
    await bench.driver.setup(Setup(window_base=GUEST, window_pages=64, host_b_offset=1 << 32))
    for page in range(PAGES):
        await bench.bring(page, 0)
    device = Device(bench, config.random("accesses"))
    at_one = await device.run(cycles)
    for page in range(1, PAGES, 2):
        await bench.bring(page)
    await bench.bring(MOVING)
    still = await device.run(cycles // 2)       # the page that is to move is half of the time at each host
    events = sum(map(len, device.took.values()))
    await bench.bring(MOVING, 0)
    other = await device.run(cycles // 2)
    still = {name: max(value, other[name]) for name, value in still.items()}
    running = cocotb.start_soon(device.run(cycles))
    results: list[MoveResult] = []
    while not running.done():
        results.append(await bench.driver.move(MOVING, 1 - len(results) % 2, regs.MoveMode.MERGE))
        assert results[-1].moved, f"the page did not move: {results[-1].reason}"
    moving = running.result()
    events += sum(map(len, device.took.values()))
    values: dict[str, tuple[float, float | None, str, str]] = {}
    for what in ("read", "write"):
        values[f"{what}_p99_split"] = (float(still[what, False]), None, "cycles", "lower")
        values[f"{what}_p99_one_host"] = (float(at_one[what, False]), None, "cycles", "lower")
        for name, place in (("any", False), ("moving", True)):
            values[f"merge_{what}_p99_{name}"] = (float(moving[what, place]), RATIO * still[what, place] + CYCLES, "cycles", "lower")
    values["merge_turn_cycles"] = (float(max(result.hold_cycles for result in results)), None, "cycles", "lower")
    values["merge_move_cycles"] = (float(max(result.total_cycles for result in results)), None, "cycles", "lower")
    report(config, values)
    config.write({"checked": {"events": events}, "violations": {}})
