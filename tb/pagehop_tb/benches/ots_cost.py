"""What the on-the-side device itself costs: latency of what goes through its windows, their rate, and latency of the leaves that it has, against a
host that answers at once. ``windows`` of the hardware are used in turns; all are open.
"""

from typing import Any

import cocotb

from pagehop_tb.benches.frame import BenchConfig
from pagehop_tb.benches.ots_migration import LEAVES, OTS_ID, REGISTERS, WINDOWS
from pagehop_tb.benches.performance import report
from pagehop_tb.benches.plain_host import PlainHost
from pagehop_tb.driver import ots_registers as regs
from pagehop_tb.driver.ots import PLACE
from pagehop_tb.pins import BeatFormat, CreditConfig, Fabric, PortCredits, TlpPortAgent
from pagehop_tb.protocol import FlowClass, Tlp, memory_read, memory_write, read_completions

DEVICE, WALKER, PAGE, TARGET = 0x0108, 0x0003, 4096, 0x1000_0000
#: Cycles that a window may add to an access, and that a read of leaves may take: the same.
MOST = 12.0
TURNS, SPACING = 40, 256


class _Bench:
    """The device ``dut`` at a port without pauses and with unlimited credits."""

    def __init__(self, dut: Any, config: BenchConfig) -> None:
        self.config, self.fabric = config, Fabric(dut.clk, dut.rst)
        for name, value in (("own_id", OTS_ID), ("register_bar", REGISTERS), ("window_bar", WINDOWS), ("leaf_bar", LEAVES)):
            getattr(dut, name).value = value
        free = PortCredits(CreditConfig(infinite=True), CreditConfig(infinite=True))
        self.agent = TlpPortAgent(dut, "port", self.fabric, BeatFormat(config.data_bytes), free)
        self.host = PlainHost(self.agent, self.fabric, REGISTERS, 20)
        self.places: list[int] = []

    async def start(self) -> None:
        """Open all windows."""
        await self.fabric.start()
        for window in range(self.config.windows):
            await self.host.write(regs.WindowTarget.offset, TARGET + PAGE * window)
            for op in (regs.WindowOp.TAKE, regs.WindowOp.OPEN):
                await self.host.write(regs.WindowOrder.offset, regs.WindowOrder.WINDOW.of(window) | regs.WindowOrder.OP.of(op))
                await self.fabric.wait(40)
            status = await self.host.read(regs.WindowStatus.offset)
            assert not regs.WindowStatus.REFUSAL.get(status), f"window {window} was not opened: {status:#x}"
            self.places.append(WINDOWS + await self.host.read(regs.WINDOWS.offset + 8 * (8 * window + PLACE)))

    def place(self, number: int) -> int:
        """Address in a window, another one for each number."""
        return self.places[number % len(self.places)] + number // len(self.places) * SPACING % PAGE


@cocotb.test(timeout_time=1, timeout_unit="ms")
async def latency(dut: Any) -> None:
    """One access at a time. What a read costs is what the device adds to its request and to its completion."""
    config = BenchConfig("ots_cost")
    bench = _Bench(dut, config)
    await bench.start()
    agent, fabric, size = bench.agent, bench.fabric, min(64, config.data_bytes)
    sent: dict[FlowClass, int] = {}
    taken: list[int] = []

    def on_sent(tlp: Tlp) -> None:
        sent[tlp.flow] = fabric.cycle

    def on_tlp(tlp: Tlp) -> None:
        # Sent at an edge is on rx in the cycle after it; seen at an edge was on tx in the cycle before it.
        of_leaf = tlp.is_completion and not taken
        taken.append(fabric.cycle - sent[FlowClass.NON_POSTED if of_leaf else tlp.flow] - 1)
        if tlp.flow is FlowClass.NON_POSTED:
            fabric.after(20, lambda: agent.queue(read_completions(tlp, bytes(4 * tlp.length), 0, 64, 256)[0]))

    agent.on_sent, agent.on_tlp = on_sent, on_tlp
    worst: dict[str, int] = {}
    for turn in range(TURNS):
        for name, tlp, count in (
                ("write", memory_write(DEVICE, bench.place(turn), bytes(size)), 1), ("read", memory_read(DEVICE, bench.place(turn), size, turn), 2),
                ("leaf_read", memory_read(WALKER, LEAVES + 64 * turn, size, turn), 1)):
            taken.clear()
            agent.queue(tlp)
            await fabric.wait(100 + turn)
            assert len(taken) == count, f"{tlp} was answered by {len(taken)} TLPs"
            worst[name] = max(worst.get(name, 0), sum(taken))
    report(config, {f"ots_{name}_cycles": (float(cycles), MOST, "cycles", "lower") for name, cycles in worst.items()})
    config.write({"checked": {"events": 3 * TURNS}, "violations": {}})


@cocotb.test(timeout_time=1, timeout_unit="ms")
async def rate(dut: Any) -> None:
    """Writes without a pause: beats that leave in a cycle."""
    config = BenchConfig("ots_cost")
    bench = _Bench(dut, config)
    await bench.start()
    values: dict[str, tuple[float, float | None, str, str]] = {}
    for size, count in ((64, 1600), (256, 400)):
        arrivals: list[int] = []
        bench.host.on_write = lambda tlp, arrivals=arrivals: arrivals.append(bench.fabric.cycle)
        for number in range(count):
            bench.agent.queue(memory_write(DEVICE, bench.place(number), bytes(size)))
        await bench.fabric.wait(3 * count * size // config.data_bytes + 100)
        assert len(arrivals) == count, f"{len(arrivals)} of {count} writes came through"
        beats = max(1, size // config.data_bytes)
        # The TLP of the first arrival ended in its cycle: from there on every cycle should bring a beat.
        values[f"ots_write_{size}_beats_a_cycle"] = ((count - 1) * beats / (arrivals[-1] - arrivals[0]), 1.0, "beats/cycle", "higher")
    report(config, values)
    config.write({"checked": {"events": 2000}, "violations": {}})
