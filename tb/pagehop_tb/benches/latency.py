"""What a move costs the device's accesses, against hosts that answer after a fixed time.

In merge mode all of them, those to the page that moves too: the same random accesses three times, to pages that are all at Host A, to pages of both
hosts, and to these while one of them moves to and fro. In hold mode those of another function than the one whose page is held.
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
#: Tags of each of two functions, low as everybody's are, so that no two requests have a row of the outstanding table in common.
LOW_TAGS = 32
#: Requester ID of a function beside the one that is called ``DEVICE``.
OTHER = 0x0110
#: How the functions are ordered while a page is held: what the other one's accesses have for IDO, and whether it is declared independent.
ORDERS = {"independent": (False, True), "ido": (True, False), "ordered": (False, False)}
#: What a move may add to the 99th percentile.
RATIO, CYCLES = 1.05, 4


class Device:
    """Random reads and writes of a line, and how long each took: a write until it is on the wire to its host, a read until its data are back.

    Half of the accesses are of the function ``OTHER``, with ``ido``, when it is to be ``apart``: then it leaves the moving page alone, and its
    accesses are told from the others, as else those to the moving page are.
    """

    def __init__(self, bench: ThreePorts, random: Random, apart: bool = False) -> None:
        self.bench, self.random, self.apart, self.ido = bench, random, apart, False
        self.sent: dict[tuple, tuple[int, bool]] = {}
        self.took: dict[tuple[str, bool], list[int]] = defaultdict(list)
        self.tag, self.number = 0, 0
        self.open: set[tuple] = set()       # requesters and tags of reads that are not answered
        bench.device.on_sent, bench.device.on_tlp = self._sent, self._answered
        for host in bench.hosts:
            host.on_write = self._written

    def _sent(self, tlp: Tlp) -> None:
        special = tlp.requester_id == OTHER if self.apart else (tlp.address - GUEST) // PAGE == MOVING
        self.sent[(tlp.requester_id, tlp.tag) if tlp.kind is Kind.MRD else (tlp.data,)] = self.bench.fabric.cycle, special

    def _written(self, tlp: Tlp) -> None:
        if tlp.requester_id in (DEVICE, OTHER):
            self._done("write", (tlp.data,))

    def _answered(self, tlp: Tlp) -> None:
        assert tlp.is_completion and tlp.status == 0
        self.open.remove((tlp.requester_id, tlp.tag))
        self._done("read", (tlp.requester_id, tlp.tag))

    def _done(self, what: str, key: tuple) -> None:
        cycle, special = self.sent.pop(key)
        self.took[what, special].append(self.bench.fabric.cycle - cycle)

    async def run(self, cycles: int) -> dict[tuple[str, bool], int]:
        """Go on for so many cycles; 99th percentiles of reads and writes, of those told apart and of all."""
        self.took.clear()
        end = self.bench.fabric.cycle + cycles
        while self.bench.fabric.cycle < end:
            requester = OTHER if self.apart and self.random.random() < 0.5 else DEVICE
            page = MOVING if requester == DEVICE and self.random.random() < SHARE else self.random.randrange(1 if self.apart else 0, PAGES)
            address = GUEST + page * PAGE + self.random.randrange(0, PAGE, 64)
            if self.random.random() < 0.5:
                self.number += 1
                self.bench.device.queue(memory_write(
                    requester, address, self.number.to_bytes(64, "little"), id_ordering=self.ido and requester == OTHER))
            else:
                self.tag = (self.tag + 1) % TAGS
                tags = range(LOW_TAGS) if self.apart else [FIRST_TAG + self.tag]
                free = next((tag for tag in tags if (requester, tag) not in self.open), None)
                if free is not None:     # else it waits for an answer, as a device with so many tags would
                    self.open.add((requester, free))
                    self.bench.device.queue(memory_read(requester, address, 64, free, id_ordering=self.ido and requester == OTHER))
            await self.bench.fabric.wait(1 + self.random.randrange(GAP))
        await self.bench.fabric.wait(8 * DELAY)
        assert not self.sent, f"{len(self.sent)} accesses never ended"
        found = {}
        for what in ("read", "write"):
            here, elsewhere = self.took[what, True], self.took[what, False]
            for name, values in ((True, here), (False, here + elsewhere)):
                found[what, name] = int(np.percentile(values, 99, method="nearest"))
        return found


async def started(dut: Any) -> tuple[BenchConfig, int, ThreePorts]:
    """The configuration of a test, the cycles of each of its runs, and the machine."""
    config = BenchConfig("latency")
    cycles = config.get("cycles", 40_000)
    config.refuse_unknown()
    bench = ThreePorts(dut, config, delay=DELAY)
    await bench.start_settled()
    return config, cycles, bench


async def move_beside(bench: ThreePorts, device: Device, cycles: int, mode: regs.MoveMode) -> tuple[dict[tuple[str, bool], int], list[MoveResult]]:
    """Move the page to and fro, from Host A on, while the device goes on for so many cycles: its 99th percentiles, and the moves."""
    running, results = cocotb.start_soon(device.run(cycles)), list[MoveResult]()
    while not running.done():
        results.append(await bench.driver.move(MOVING, 1 - len(results) % 2, mode))
        assert results[-1].moved, f"the page did not move: {results[-1].reason}"
    return running.result(), results


@cocotb.test(timeout_time=10, timeout_unit="ms")
async def while_a_page_moves(dut: Any) -> None:
    """The 99th percentile of reads and writes, to any page and to the one that moves, hardly differs from that without a move."""
    config, cycles, bench = await started(dut)
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
    moving, results = await move_beside(bench, device, cycles, regs.MoveMode.MERGE)
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


@cocotb.test(timeout_time=10, timeout_unit="ms")
async def beside_a_page_that_is_held(dut: Any) -> None:
    """While a page is held, the accesses of another function wait for nothing when it is independent, or sends with IDO (H24d)."""
    config, cycles, bench = await started(dut)
    values: dict[str, tuple[float, float | None, str, str]] = {}
    events = 0
    for order, (ido, independent) in ORDERS.items():
        setup = Setup(window_base=GUEST, window_pages=64, host_b_offset=1 << 32, independent=((OTHER, 0xFFFF),) if independent else ())
        await bench.driver.setup(setup)
        for page in range(PAGES):
            await bench.bring(page, page % 2)
        device = Device(bench, config.random(order), apart=True)
        device.ido = ido
        still = await device.run(cycles // 2)
        moving, results = await move_beside(bench, device, cycles, regs.MoveMode.HOLD)
        events += sum(map(len, device.took.values()))
        for what in ("read", "write"):
            limit = None if order == "ordered" else RATIO * still[what, True] + CYCLES
            values[f"hold_{what}_p99_{order}"] = (float(moving[what, True]), limit, "cycles", "lower")
            values[f"hold_{what}_p99_{order}_at_rest"] = (float(still[what, True]), None, "cycles", "lower")
        values[f"hold_moves_{order}"] = (float(len(results)), None, "moves", "higher")
    report(config, values)
    config.write({"checked": {"events": events}, "violations": {}})
