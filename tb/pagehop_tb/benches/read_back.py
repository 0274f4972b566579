"""Read back: a host's reads, of registers and of the device, never pass the posted writes before them, whatever these wait for (O1, H18, I5).

The device takes posted writes only now and then, so that doorbells fill the way to it and stop what the host posts behind them. A register written
there must be read with its new value, and a read reaches the device behind all doorbells before it.
"""

from collections import deque
from functools import partial
from typing import Any

import cocotb

from pagehop_tb.benches.frame import BenchConfig
from pagehop_tb.benches.three_ports import BAR, DEVICE_ID, REGISTER_BASES, identify
from pagehop_tb.driver import interposer_registers as regs
from pagehop_tb.pins import BeatFormat, CreditConfig, Fabric, PortCredits, Starvation, TlpPortAgent
from pagehop_tb.protocol import FlowClass, Tlp, memory_read, memory_write, read_completions

CPU = 0x0000
#: Cycles in which the device takes nothing posted, and in which it does.
HUNGER, MEALS = (200, 900), (10, 120)
#: Doorbells in a row at most.
DOORBELLS = 24
#: First tag of the reads of the device.
LOOK_TAG = 512
#: Register reads whose answers wait: more than a lane of completions holds.
READS = 160


class Side:
    """One host and its register, which nothing else writes."""

    def __init__(self, number: int, agent: TlpPortAgent, register: int) -> None:
        self.number, self.agent, self.register = number, agent, REGISTER_BASES[number] + register
        self.value = self.rung = self.compared = 0
        self.asked: dict[int, int] = {}   # by tag: the value written before the read
        self.looks: deque[int] = deque()  # doorbells before each read of the device


class ReadBack:
    """Both hosts at once."""

    def __init__(self, dut: Any, config: BenchConfig) -> None:
        random = config.random("read back")
        self.fabric = Fabric(dut.clk, dut.rst, seed=random.getrandbits(32))
        identify(dut)
        beats = BeatFormat(config.data_bytes)
        scarce = PortCredits(CreditConfig(8, 32, delay=(1, 10)), CreditConfig(8, 8))
        self.device = TlpPortAgent(dut, "device", self.fabric, beats, scarce)
        self.device.on_tlp = self._at_device
        self.hunger = Starvation(self.device, self.fabric, config.number("hunger"), pause=MEALS, length=HUNGER, flows=(FlowClass.POSTED,))
        hosts = PortCredits(completion=CreditConfig(4, 16))
        agents = [TlpPortAgent(dut, name, self.fabric, beats, hosts) for name in ("host_a", "host_b")]
        registers = (regs.MsiBase.offset, regs.MmioBase.offset)
        self.sides = [Side(number, agent, register) for number, (agent, register) in enumerate(zip(agents, registers, strict=True))]
        for side in self.sides:
            side.agent.on_tlp = partial(self._answered, side)
        self.taken = [0, 0]

    def _at_device(self, tlp: Tlp) -> None:
        side = self.sides[tlp.address >> 12 & 1]
        if tlp.flow is FlowClass.POSTED:
            self.taken[side.number] += 1
            return
        before = side.looks.popleft()
        assert self.taken[side.number] >= before, f"{side.agent.name}: a read reached the device before {before - self.taken[side.number]} doorbells"
        for completion in read_completions(tlp, bytes(4), DEVICE_ID, 64, 256):
            self.device.queue(completion)

    def _answered(self, side: Side, tlp: Tlp) -> None:
        if tlp.tag >= LOOK_TAG:
            side.compared += 1
            return
        value = side.asked.pop(tlp.tag)
        found = int.from_bytes(tlp.data, "little")
        # Values only grow, and a later write may pass the read (D1).
        assert value <= found <= side.value, f"{side.agent.name}: {value:#x} was written to a register and {found:#x} read behind it"
        side.compared += 1

    async def run(self, side: Side, rounds: int, random: Any) -> None:
        """Doorbells, writes and reads in random order."""
        agent, tag = side.agent, 0
        for _ in range(rounds):
            for _ in range(random.choice((0, 1, DOORBELLS))):
                side.rung += 1
                agent.queue(memory_write(CPU, BAR + 0x1000 * side.number, bytes(4)))
            if random.random() < 0.7:
                side.value += random.randint(1, 1 << 40) << 12
                agent.queue(memory_write(CPU, side.register, side.value.to_bytes(8, "little")))
            if random.random() < 0.5:
                side.looks.append(side.rung)
                agent.queue(memory_read(CPU, BAR + 0x1000 * side.number, 4, LOOK_TAG + tag))
            for _ in range(random.choice((1, 1, 2, 4))):
                tag = (tag + 1) % 256
                side.asked[tag] = side.value
                await agent.send(memory_read(CPU, side.register, 8, tag))
                await self.fabric.wait(random.choice((1, 1, 3, 9, 60)))

    async def finish(self, config: BenchConfig) -> None:
        """All has been answered and taken; write how much."""
        await self.fabric.wait(4000)
        for side in self.sides:
            assert not side.asked, f"{side.agent.name}: {len(side.asked)} reads of a register were never answered"
            assert not side.looks, f"{side.agent.name}: {len(side.looks)} reads never reached the device"
            assert self.taken[side.number] == side.rung, f"{side.agent.name}: {self.taken[side.number]} of {side.rung} doorbells reached the device"
        config.write({"checked": {"events": sum(side.compared for side in self.sides)}, "violations": {}})


@cocotb.test(timeout_time=1, timeout_unit="ms")
async def read_back(dut: Any) -> None:
    """Both hosts ring, write and read."""
    config = BenchConfig("read_back")
    rounds = config.get("rounds", 200)
    config.refuse_unknown()
    bench = ReadBack(dut, config)
    await bench.fabric.start()
    for side in bench.sides:
        await side.agent.send(memory_write(CPU, side.register, bytes(8)))
    bench.hunger.start()
    for task in [cocotb.start_soon(bench.run(side, rounds, config.random(side.agent.name))) for side in bench.sides]:
        await task
    bench.hunger.stop()
    await bench.finish(config)


@cocotb.test(timeout_time=1, timeout_unit="ms")
async def answers_wait(dut: Any) -> None:
    """Hosts take no completions for long: more answers of registers than the way to a host holds wait, and none is lost."""
    config = BenchConfig("read_back")
    bench = ReadBack(dut, config)
    await bench.fabric.start()
    for side in bench.sides:
        side.agent.starve(FlowClass.COMPLETION)
        for tag in range(READS):
            side.asked[tag] = 0
            side.agent.queue(memory_read(CPU, side.register, 8, tag))
    await bench.fabric.wait(20 * READS)
    for side in bench.sides:
        assert side.compared < READS // 8, f"{side.agent.name} took {side.compared} answers, so nothing was shown"
        side.agent.feed(FlowClass.COMPLETION)
    await bench.finish(config)
