"""One port takes nothing of one class for long: what must not depend on it goes on.

The device takes no requests: registers answer (D6), posted writes of the hosts go on (H24). The device takes no posted TLPs: a page that is being
copied is copied to its end (D4), whatever stands before its completions.
"""

from typing import Any

import cocotb
from cocotb.task import Task
from cocotb.triggers import TaskManager

from pagehop_tb.benches.frame import BenchConfig
from pagehop_tb.benches.guest import BARS, PAGE, Guest, judged
from pagehop_tb.models.devices import HotPageWriter
from pagehop_tb.models.observer import Status
from pagehop_tb.protocol import FlowClass

WINDOW_BASE = 0x4000_0000
PAGES = 64
HOT = 9
REGISTERS, DOORBELLS = BARS["nvme"][0], BARS["nic"][0]
#: Reads that no longer leave the host's ingress, but leave it credits: the device's credits, and some places of its egress.
READS = 64 + 24
#: Doorbells that stand in the host's ingress: the device's credits, and all places of its egress.
DOORBELL_COUNT = 64 + 64 + 16
#: Cycles within which what does not depend on the blocked port ends.
PATIENCE = 4000


class Blocked:
    """The two rounds. ``guest`` runs DMA of its own meanwhile."""

    def __init__(self, guest: Guest) -> None:
        self.guest, self.device, self.wait = guest, guest.system.ports["device"], guest.system.fabric.wait
        self.cpu = guest.system.hosts[0].cpu
        self.rung = 0
        guest.system.functions["nic"].on_doorbell = self._doorbell

    def _doorbell(self, offset: int, data: bytes) -> None:
        self.rung += 1

    async def _done(self, task: Task[Any], what: str) -> Any:
        for _ in range(PATIENCE // 20):
            if task.done():
                return task.result()
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
        """The device grants no credits for posted TLPs while a page is copied from the host that rings its doorbells."""
        holding = self.guest.dut.holding
        moving = cocotb.start_soon(self.guest.driver.move(HOT, to_host))
        while not holding.value:
            await self.wait(5)
        self.device.starve(FlowClass.POSTED)
        cpu = self.guest.system.hosts[1 - to_host].cpu
        for _ in range(DOORBELL_COUNT):
            await cpu.mmio_write(DOORBELLS, self.guest.system.values.take(0, 4))
        for _ in range(self.guest.setup.hold_limit // 5):
            if not holding.value:
                break
            await self.wait(5)
        assert self.rung < DOORBELL_COUNT, "the device took all doorbells, so nothing was shown"
        self.device.feed(FlowClass.POSTED)
        result = await moving
        assert result.moved, f"the copy of a page waited for a device that takes no posted TLPs (D4): {result.reason}"


@cocotb.test(timeout_time=20, timeout_unit="ms")
async def blocked(dut: Any) -> None:
    """Both rounds, in turn, while the device writes and reads one page without a pause."""
    config = BenchConfig("blocked")
    rounds = config.get("rounds", 2)
    guest = Guest(dut, config, WINDOW_BASE, PAGES)
    config.refuse_unknown()
    guest.fill(HOT)
    writer = HotPageWriter(guest.system.functions["nvme"], WINDOW_BASE + HOT * PAGE, guest.system.values, config.number("writer"))

    async def scenario(manager: TaskManager) -> None:
        await guest.start()
        bench = Blocked(guest)
        running = manager.start_soon(writer.run())
        for number in range(rounds):
            config.progress(number, rounds)
            await bench.no_requests()
            bench.rung = 0
            await bench.no_posted(1 - number % 2)
            await guest.system.fabric.wait(500)
        writer.stop = True
        await running
        config.progress(rounds, rounds, "checking")

    await judged(guest, scenario, {"read_bytes": 500, "final_bytes": PAGE})
