"""Where the fence is needed (figure 8): two hosts with a path between them that no ordering point sees.

    device ─▶ root complex of A ─┬─ short path ─▶ memory of A (flags)         CPU of A polls the flag, then tells the CPU of B by a way of its own
                                 └─ NTB ─▶ adjuster ─▶ Host B (data)          CPU of B loads the data

The device writes data to pages that are at B and then a flag that is at A. Both are posted; nothing orders the one path behind the other. With the
fence policy whoever chooses the path (a window of the NTB, an IOMMU) lets the first write to another host wait until a zero-length read by the long
path has been answered, which proves what went before (H04).
"""

from collections.abc import Callable
from typing import Any

import cocotb
from cocotb.triggers import Event

from pagehop_tb.benches.adjuster import OURS, PATIENCE, UP
from pagehop_tb.benches.frame import BenchConfig
from pagehop_tb.checker.verdict import VIOLATIONS
from pagehop_tb.models.delay import Delay
from pagehop_tb.models.memory import HostMemory
from pagehop_tb.models.observer import NullObserver
from pagehop_tb.models.root_complex import RootComplex, RootComplexConfig
from pagehop_tb.pins import BeatFormat, Fabric, TlpPortAgent, packed_aperture
from pagehop_tb.protocol import Tlp, memory_read, memory_write

DEVICE, LINE, LINES = 0x0108, 64, 64
#: Cycles between two looks of a CPU at the flag.
POLL = 20


class LongPath:
    """From the device through A's root complex and the NTB to the adjuster: in order, each TLP a random time after it was sent."""

    def __init__(self, agent: TlpPortAgent, fabric: Fabric, delay: Callable[[], int]) -> None:
        self.agent, self.fabric, self.delay = agent, fabric, delay
        self._last = 0
        self._answered = Event()
        agent.on_tlp = lambda tlp: fabric.after(delay(), self._answered.set)

    def send(self, tlp: Tlp) -> None:
        """Send a TLP."""
        self._last = max(self._last + 1, self.fabric.cycle + self.delay())
        self.fabric.at(self._last, lambda: self.agent.queue(tlp))

    async def flush(self, address: int) -> None:
        """Return when a zero-length read has been answered by this path."""
        self._answered.clear()
        self.send(memory_read(DEVICE, address, 0, 0))
        await self._answered.wait()


@cocotb.test(timeout_time=20, timeout_unit="ms")
async def second_path(dut: Any) -> None:
    """Rounds of data at B and a flag at A. What the CPU of B loads too early is counted; with ``fence`` it never is, and the fences are counted.

    ``ntb_delay``: of the long path, each way; ``short_delay``: until a flag is visible at A; ``message_delay``: from the CPU of A to that of B;
    ``write_delay`` and ``read_delay``: of Host B. ``burst``: most lines of data before a flag.
    """
    config = BenchConfig("second_path")
    rounds, fenced, burst = config.get("rounds", 400), config.get("fence", False), config.get("burst", 8)
    delays = {name: Delay(*config.get(name, default)) for name, default in (
        ("ntb_delay", [60, 150]), ("short_delay", [20, 80]), ("message_delay", [20, 100]), ("write_delay", [50, 300]), ("read_delay", [50, 200]))}
    config.refuse_unknown()
    random, fabric = config.random("rounds"), Fabric(dut.clk, dut.rst)
    dut.up.value, dut.down.value = packed_aperture(*UP), 0
    if config.tags:
        dut.requester_id.value, dut.limit.value = OURS, PATIENCE
    near, far = (TlpPortAgent(dut, side, fabric, BeatFormat(config.data_bytes)) for side in ("near", "far"))
    memory = HostMemory()
    RootComplex(1, far, memory, fabric, NullObserver(), RootComplexConfig(posted=delays["write_delay"], read=delays["read_delay"]),
                config.number("host"))
    path = LongPath(near, fabric, lambda: delays["ntb_delay"].draw(random))
    stale = fences = fence_cycles = 0

    async def after(name: str) -> None:
        await fabric.wait(delays[name].draw(random))

    async def fence(address: int) -> None:
        nonlocal fences, fence_cycles
        started = fabric.cycle
        await path.flush(address)
        fences, fence_cycles = fences + 1, fence_cycles + fabric.cycle - started

    await fabric.start()
    for number in range(rounds):
        config.progress(number, rounds)
        lines = random.sample(range(LINES), random.randint(1, burst))
        data = {UP[0] + line * LINE: random.randbytes(LINE) for line in lines}
        for address, content in data.items():
            path.send(memory_write(DEVICE, address, content, 0))
        if fenced:
            await fence(next(reversed(data)))
        await after("short_delay")                      # the flag is visible at A
        await fabric.wait(random.randint(1, POLL))      # its CPU looks
        await after("message_delay")
        stale += any(memory.read(address + UP[2], LINE) != content for address, content in data.items())
        await fabric.wait(random.choice((1, 100, 1500)))
    violations = dict.fromkeys(VIOLATIONS, 0) | {"stale": stale}
    config.write({
        "checked": {"events": rounds}, "violations": violations, "cycles": fabric.cycle, "clock_ns": 4, "pages": {"requested": 0, "moved": 0},
        "fences": {"count": fences, "cycles": fence_cycles},
    })
    dut._log.info(f"{stale} of {rounds} rounds stale, {fences} fences of {fence_cycles / max(1, fences):.0f} cycles")
    assert not stale, f"in {stale} of {rounds} rounds the CPU of B read old data after the CPU of A had seen the flag"
