"""One port takes nothing of one class, or is never without work: what must not depend on it goes on.

The device takes no requests: registers answer (D6), posted writes of the hosts go on (H24). The device takes no posted TLPs, so that no completion
reaches it either: a page is copied (D4, D7). The device has more reads on their way than a host has credits for: a page is copied (D8, D17).
"""

from collections import deque
from typing import Any

import cocotb
from cocotb.task import Task
from cocotb.triggers import TaskManager

from pagehop_tb.benches.frame import BenchConfig
from pagehop_tb.benches.guest import BARS, PAGE, Guest, judged
from pagehop_tb.driver.api import MoveResult
from pagehop_tb.driver.interposer import InterposerDriver
from pagehop_tb.models.device import DeviceFunction
from pagehop_tb.models.devices import HotPageWriter
from pagehop_tb.models.observer import Status
from pagehop_tb.pins import Starvation
from pagehop_tb.protocol import FlowClass

WINDOW_BASE = 0x4000_0000
PAGES = 64
HOT, STILL = 9, 20
REGISTERS, DOORBELLS = BARS["nvme"][0], BARS["nic"][0]
#: Reads of which some no longer leave the host's ingress, but leave it credits: the device's credits, and the places of its egress.
READS = 64 + 30
#: Doorbells that stand in the host's ingress: the device's credits, and all places of its egress.
DOORBELL_COUNT = 64 + 64 + 16
#: Reads of each function that are on their way at a time, and their size: more than a host's lane of completions holds, and than it has credits for.
TAGS, LARGE = 64, 512
#: Cycles within which what does not depend on the blocked port ends.
PATIENCE = 4000


class Blocked:
    """The rounds. ``guest`` runs DMA of its own meanwhile; page ``STILL`` stays at Host A."""

    def __init__(self, guest: Guest) -> None:
        self.guest, self.device, self.wait = guest, guest.system.ports["device"], guest.system.fabric.wait
        self.cpu = guest.system.hosts[0].cpu
        self.readers = [guest.system.functions[name] for name in ("nic", "third")]
        self.rung, self.stop = 0, False
        guest.system.functions["nic"].on_doorbell = self._doorbell

    def _doorbell(self, offset: int, data: bytes) -> None:
        self.rung += 1

    async def _done(self, task: Task[None] | Task[int], what: str) -> None:
        for _ in range(PATIENCE // 20):
            if task.done():
                return
            await self.wait(20)
        raise AssertionError(f"{what} waits for the port that takes nothing")

    async def no_requests(self) -> None:
        """The device grants no credits for requests while a CPU reads its registers again and again."""
        self.device.starve(FlowClass.NON_POSTED)
        reads = [cocotb.start_soon(self.cpu.mmio_read(REGISTERS + 8 * (number % 32), 4)) for number in range(READS)]
        await self.wait(1500)
        rung = self.rung
        await self.cpu.mmio_write(DOORBELLS, self.guest.system.values.take(0, 4))
        await self._done(cocotb.start_soon(self.guest.driver.status()), "a read of the status register (D6)")
        await self.wait(500)
        assert self.rung == rung + 1, "a doorbell waits for requests that the device does not take (H24)"
        assert not all(read.done() for read in reads), "the device took all requests, so nothing was shown"
        self.device.feed(FlowClass.NON_POSTED)
        for read in reads:
            status, _ = await read
            assert status == Status.SUCCESS, f"a register read ended with {Status(status).name}"

    async def no_posted(self, to_host: int) -> None:
        """The device grants no credits for posted TLPs while one host rings its doorbells, and a page is moved away from that host by the other."""
        self.rung = 0
        self.device.starve(FlowClass.POSTED)
        cpu = self.guest.system.hosts[1 - to_host].cpu
        for _ in range(DOORBELL_COUNT):
            await cpu.mmio_write(DOORBELLS, self.guest.system.values.take(0, 4))
        await self.wait(500)
        reads = [cocotb.start_soon(reader.read(self._still(number, LARGE), LARGE)) for number in range(TAGS) for reader in self.readers]
        await self.wait(1000)
        moving = cocotb.start_soon(self._move_by(to_host))
        # "Done" waits for reads that the device has not been answered; the hold must not.
        for level in (1, 0):
            await self._done(cocotb.start_soon(self._until_holding_is(level)), "the copy of a page (D4, D7)")
        assert self.rung < DOORBELL_COUNT, "the device took all doorbells, so nothing was shown"
        self.device.feed(FlowClass.POSTED)
        result = await moving
        assert result.moved, f"the copy of a page waited for a device that takes no posted TLPs (D4, D7): {result.reason}"
        for read in reads:
            await read

    async def _until_holding_is(self, level: int) -> None:
        while self.guest.dut.holding.value != level:
            await self.wait(5)

    async def _move_by(self, host: int) -> MoveResult:
        """Move the hot page to ``host`` by the registers that ``host`` has, which nothing stands before."""
        usual, system = self.guest.driver, self.guest.system
        driver = InterposerDriver(system.hosts[host].registers, self.wait, lambda: system.cycle, self.guest.log, patience=0)
        driver.setup_done = usual.setup_done
        return await driver.move(HOT, host)

    def _still(self, number: int, size: int) -> int:
        return WINDOW_BASE + STILL * PAGE + number * size % PAGE

    async def many_reads(self, to_host: int) -> None:
        """Two functions read from the source without a pause, each with all its tags, while a page moves."""
        self.stop = False
        reading = [cocotb.start_soon(self._read_on(reader)) for reader in self.readers]
        # Credits for a few requests now and then: fewer than stand in the egress, so that there is always one that could take the next.
        scarcity = Starvation(self.guest.system.ports[f"host_{'ba'[to_host]}"], self.guest.system.fabric, to_host, pause=(1, 4), length=(60, 120),
                              flows=(FlowClass.NON_POSTED,))
        scarcity.start()
        await self.wait(800)
        result = await self.guest.driver.move(HOT, to_host)
        self.stop = True
        scarcity.stop()
        for task in reading:
            await task
        assert result.moved, f"the copy of a page waited for the device's reads (D8, D17): {result.reason}"

    async def _read_on(self, reader: DeviceFunction) -> None:
        reads: deque[Any] = deque()
        number = 0
        while not self.stop:
            reads.append(await reader.start_read(self._still(number, 64), 64))
            number += 1
            while len(reads) >= TAGS - 1:
                await reader.finish(reads.popleft())
        while reads:
            await reader.finish(reads.popleft())


@cocotb.test(timeout_time=20, timeout_unit="ms")
async def blocked(dut: Any) -> None:
    """All rounds; in all but the last kind the device writes and reads one page without a pause."""
    config = BenchConfig("blocked")
    rounds = config.get("rounds", 2)
    guest = Guest(dut, config, WINDOW_BASE, PAGES, ("nvme", "nic", "third"))
    config.refuse_unknown()
    guest.fill(HOT)
    guest.fill(STILL)
    writer = HotPageWriter(guest.system.functions["nvme"], WINDOW_BASE + HOT * PAGE, guest.system.values, config.number("writer"))

    async def bring_back() -> None:
        result = await guest.move(HOT, 0)
        assert result.moved, f"the page did not move back: {result.reason}"

    async def scenario(manager: TaskManager) -> None:
        await guest.start()
        bench = Blocked(guest)
        running = manager.start_soon(writer.run())
        for number in range(rounds):
            config.progress(number, 2 * rounds)
            await bench.no_requests()
            await bench.no_posted(1)
            await bring_back()
        # Without a write that is held nothing stops the device's reads during a hold.
        writer.stop = True
        await running
        for number in range(rounds):
            config.progress(rounds + number, 2 * rounds)
            await bench.many_reads(1)
            await bring_back()
        config.progress(rounds, rounds, "checking")

    await judged(guest, scenario, {"read_bytes": 500, "final_bytes": PAGE})
