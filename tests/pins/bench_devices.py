"""Bench of the devices with queues and rings, on wires to one host. A device that breaks the order must be noticed by its own driver."""

import json
import os
from pathlib import Path

import cocotb
from cocotb.triggers import TaskManager

from pagehop_tb.models.delay import Delay
from pagehop_tb.models.device import DeviceConfig
from pagehop_tb.models.devices import (
    GuestCpu,
    NicDriver,
    NicReceiver,
    NicRing,
    NvmeController,
    NvmeDriver,
    NvmeQueues,
    PeerPair,
    StatusRegister,
)
from pagehop_tb.models.observer import NullObserver
from pagehop_tb.models.root_complex import RootComplexConfig
from pagehop_tb.models.system import System, SystemConfig

CONFIG = json.loads(Path(os.environ["PAGEHOP_CONFIG"]).read_text(encoding="utf-8"))
BASE, BARS = 0x1_0000_0000, {"nvme": (0x8000_0000, 0x4000), "nic": (0x8001_0000, 0x4000)}
VECTORS = {"nvme": 0xFEE0_0010, "nic": 0xFEE0_0020}
PAGE = 4096


class Memory:
    """The guest's memory when all of it is local."""

    def __init__(self, cpu):
        self.cpu = cpu

    async def load(self, host, offset, size=4):
        return await self.cpu.load(BASE + offset, size)

    async def store(self, host, offset, data):
        await self.cpu.store(BASE + offset, data)


class Machine:
    """All devices with their drivers."""

    def __init__(self, dut, polls=False, **hosts):
        slow = RootComplexConfig(**({"posted": Delay(10, 300, 0.05, 3000), "read": Delay(10, 300), "cut": 0.5} | hosts))
        functions = tuple(DeviceConfig(name, 0x0108 + 8 * number, bar=bar, tags=4) for number, (name, bar) in enumerate(BARS.items()))
        config = SystemConfig(seed=CONFIG["seed"], data_bytes=CONFIG["hardware"].get("data_bytes", 64), functions=functions, hosts=(slow, slow))
        self.system = system = System(dut, config, NullObserver())
        self.nvme, self.nic = system.functions.values()
        self.vectors = dict.fromkeys(VECTORS) if polls else VECTORS
        self.queues = NvmeQueues(0, PAGE, [PAGE * number for number in (2, 3, 4)], entries=5)
        self.ring = NicRing(PAGE * 6, [PAGE * 7, PAGE * 8], entries=6)
        memory = Memory(system.hosts[0].cpu)
        cpus = {name: GuestCpu(system.hosts[0].cpu, memory, BARS[name][0], vector) for name, vector in self.vectors.items()}
        self.nvme_driver = NvmeDriver(cpus["nvme"], self.queues, BASE, system.values, 1)
        self.nic_driver = NicDriver(cpus["nic"], self.ring, BASE, system.values)
        self.status = StatusRegister(self.nvme, cpus["nvme"], PAGE * 10, BASE, system.values)
        self.peers = PeerPair(self.nvme, self.nic, [BASE + PAGE * 11], system.values, 4)

    async def run(self, controller=NvmeController, receiver=NicReceiver, commands=40):
        """Let all work until the NVMe driver has completed its commands."""
        values, vectors = self.system.values, self.vectors
        controller = controller(self.nvme, self.queues, BASE, values, 2, vectors["nvme"])
        receiver = receiver(self.nic, self.ring, BASE, values, 3, vectors["nic"], gap=200)
        await self.system.start()
        async with TaskManager() as manager:
            last = [manager.start_soon(agent.run()) for agent in (controller, receiver, self.nic_driver, self.status, self.peers)]
            await self.nvme_driver.run(commands)
            for agent in (controller, receiver, self.nic_driver, self.status, self.peers):
                agent.stop = True
            for task in last:
                await task
        await self.system.quiesce()
        self.system.check_clean()
        assert self.nvme_driver.completed == controller.done >= commands
        return self.nvme_driver.checked + self.nic_driver.checked + self.status.rounds + self.peers.rounds


def finish(events):
    Path(CONFIG["result_file"]).write_text(json.dumps({"checked": {"events": events}, "violations": {}}), encoding="utf-8")


@cocotb.test(timeout_time=5, timeout_unit="ms")
async def devices_work(dut):
    """With interrupts."""
    machine = Machine(dut)
    checked = await machine.run()
    assert machine.nic_driver.received > 20 and machine.status.rounds > 5 and machine.peers.rounds > 20
    finish(checked)


@cocotb.test(timeout_time=5, timeout_unit="ms")
async def devices_work_when_polled(dut):
    machine = Machine(dut, polls=True)
    await machine.run()
    assert machine.nic_driver.received > 20 and not machine.system.hosts[0].cpu.interrupts


class EarlyInterrupt(NvmeController):
    """Interrupts before it has written the entry."""

    async def _complete(self, number, command):
        vector, self.interrupt = self.interrupt, None
        await self.function.interrupt(vector, self.values.take(0, 4))
        await self.function.fabric.wait(3000)
        await super()._complete(number, command)
        self.interrupt = vector


class EarlyEntry(NvmeController):
    """Writes the data after the entry."""

    async def _execute(self, entry):
        late, write = [], self.function.write

        async def later(address, data, **_):
            late.append((address, data))

        if entry[0] == 2:
            self.function.write = later
        try:
            number = entry[2] | entry[3] << 8
            command = self.queues.commands[number]
            address, size = int.from_bytes(entry[24:32], "little"), int.from_bytes(entry[48:52], "little")
            if entry[0] == 2:
                command.data = self.values.take(address, size)
                await self.function.write(address, command.data)
        finally:
            self.function.write = write
        async with self._completing:
            await self._complete(number, command)
        await self.function.fabric.wait(5000)
        for address, data in late:
            await self.function.write(address, data)


class EarlyDescriptor(NicReceiver):
    """Writes the descriptor back with RO: it may pass the packet."""

    async def _receive(self, descriptor):
        write = self.function.write

        async def relaxed(address, data, **_):
            await write(address, data, ro=True)

        self.function.write = relaxed
        try:
            await super()._receive(descriptor)
        finally:
            self.function.write = write


async def caught(machine, **parts):
    """What a driver says of a broken device."""
    try:
        await machine.run(**parts)
    except BaseExceptionGroup as group:
        return str(group.exceptions)
    except AssertionError as error:
        return str(error)
    raise RuntimeError("nobody noticed the broken device")


@cocotb.test(timeout_time=5, timeout_unit="ms")
async def early_interrupt_is_noticed(dut):
    assert "interrupts of the NVMe device" in await caught(Machine(dut), controller=EarlyInterrupt)


@cocotb.test(timeout_time=5, timeout_unit="ms")
async def early_entry_is_noticed(dut):
    assert "and its data at" in await caught(Machine(dut), controller=EarlyEntry)


@cocotb.test(timeout_time=5, timeout_unit="ms")
async def early_descriptor_is_noticed(dut):
    assert "holds other data" in await caught(Machine(dut), receiver=EarlyDescriptor, commands=400)


@cocotb.test(timeout_time=5, timeout_unit="ms")
async def reads_that_do_not_push_are_noticed(dut):
    """A host whose requests pass posted writes: the peers read old data, or the controller old commands."""
    found = await caught(Machine(dut, requests_push=False), commands=400)
    assert "read something else" in found


@cocotb.test(timeout_time=5, timeout_unit="ms")
async def answers_that_do_not_push_are_noticed(dut):
    """A host whose register reads return before earlier writes are visible (O5 iii)."""
    found = await caught(Machine(dut, completions_push=False), commands=400)
    assert "is new, and the data" in found
