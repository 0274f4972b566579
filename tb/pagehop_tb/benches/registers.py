"""What a hypervisor can ask for wrongly, and what it must be told; dirty harvests that are true when they return.

Refused requests leave the page where it is, with traffic going on; the status tells why.
"""

from collections.abc import Awaitable, Callable
from typing import Any

import cocotb
from cocotb.task import Task
from cocotb.triggers import TaskManager

from pagehop_tb.benches.frame import BenchConfig
from pagehop_tb.benches.guest import PAGE, Guest, judged
from pagehop_tb.driver import interposer_registers as regs
from pagehop_tb.driver.api import MoveResult
from pagehop_tb.driver.interposer import PAGE_BITS
from pagehop_tb.models.devices import RandomTraffic
from pagehop_tb.models.observer import Status

WINDOW_BASE = 0x4000_0000
#: A page that no device uses.
UNUSED = 5
WINDOW_PAGES = 128
Error = regs.MoveError


class Requests:
    """Bad requests, one method each. Page 3 is at Host A when each begins."""

    def __init__(self, guest: Guest, config: BenchConfig) -> None:
        self.guest, self.driver = guest, guest.driver
        self.random = config.random("requests")
        self.page = 3
        self.source = WINDOW_BASE + self.page * PAGE
        self.destination = self.source + guest.setup.host_b_offset

    async def _refused(self, expected: Error, source: int, destination: int, to_host: int = 1, page_size: int = PAGE_BITS,
                       mode: int = 0) -> None:
        page = self.page if page_size <= PAGE_BITS else -1      # a page of that size there is not
        result = await self.driver.request(source, destination, to_host, page_size, page, mode)
        assert not result.moved and result.error == expected, f"the request should end with {expected.name}, and ended with {result}"
        assert await self.driver.owner(self.page) == 0, "a refused request must not move the page"

    async def outside(self) -> None:
        """Sources before, just behind, and far from the window."""
        window = self.guest.setup.window_pages * PAGE
        for source in (WINDOW_BASE - PAGE, WINDOW_BASE + window, 0, WINDOW_BASE + (1 << 40)):
            await self._refused(Error.NOT_IN_WINDOW, source, source + self.guest.setup.host_b_offset)

    async def registers_of_others(self) -> None:
        """A page of the window that the MMIO range covers; no device uses it."""
        source = WINDOW_BASE + UNUSED * PAGE
        for pages in (1, 0):
            await self.driver.registers.write(regs.MmioBase.offset, source)
            await self.driver.registers.write(regs.MmioPages.offset, pages)
            if pages:
                await self._refused(Error.NOT_IN_WINDOW, source, source + self.guest.setup.host_b_offset)

    async def mode(self) -> None:
        """A mode that there is not."""
        await self._refused(Error.MODE, self.source, self.destination, mode=3)

    async def page_size(self) -> None:
        """Sizes that no page has; what large pages are refused for is asked by their own bench."""
        for size in (0, 11, 22, 255):
            await self._refused(Error.PAGE_SIZE, self.source, self.destination, page_size=size)

    async def misaligned(self) -> None:
        """Source or destination inside a page."""
        await self._refused(Error.MISALIGNED, self.source + 8, self.destination + 8)
        await self._refused(Error.MISALIGNED, self.source, self.destination + 0x800)

    async def already_there(self) -> None:
        """The page is at Host A."""
        await self._refused(Error.ALREADY_THERE, self.source, self.source, to_host=0)

    async def destination_elsewhere(self) -> None:
        """A destination that the offset does not lead to."""
        await self._refused(Error.DESTINATION, self.source, self.destination + PAGE)

    async def busy(self) -> None:
        """A second request while one runs is refused, and the first is not disturbed."""
        running = cocotb.start_soon(self.driver.move(self.page, 1))
        await self.guest.system.fabric.wait(300)
        await self.driver.start(self.driver.place(4, 0), self.driver.place(4, 1), 1)
        status = await self.driver.status()
        result: MoveResult = await running
        refused, busy = regs.MoveStatus.REFUSED.get(status), regs.MoveStatus.BUSY.get(status)
        assert refused == Error.BUSY or not busy, f"the status {status:#x} tells of no refusal"
        assert result.moved, f"the running move was disturbed: {result}"
        assert await self.driver.owner(4) == 0, "the refused page moved"
        assert (await self.driver.move(self.page, 0)).moved

    async def same_page_twice(self) -> None:
        """The page that is moving is asked for again."""
        running = cocotb.start_soon(self.driver.move(self.page, 1))
        await self.guest.system.fabric.wait(self.random.randint(100, 1500))
        await self.driver.start(self.source, self.destination, 1)
        result: MoveResult = await running
        assert result.moved, f"the running move was disturbed: {result}"
        assert (await self.driver.move(self.page, 0)).moved

    async def abort_idle(self) -> None:
        """An abort without a move does nothing."""
        await self.driver.abort()
        assert not regs.MoveStatus.BUSY.get(await self.driver.status())

    async def bad_accesses(self) -> None:
        """Register accesses of a size or at a place that does not exist are answered with UR, never silently."""
        host = self.guest.system.hosts[0]
        base = self.guest.system.config.register_bases[0]
        for offset, size in ((0, 16), (0, 2), (4, 8), (0x7F8, 8), (0x3FFF8, 8)):
            status, _ = await host.cpu.mmio_read(base + offset, size)
            allowed = {Status.SUCCESS, Status.UNSUPPORTED_REQUEST} if size == 2 else {Status.UNSUPPORTED_REQUEST}
            assert status in allowed, f"a read of {size} bytes at {offset:#x} ended with {Status(status).name}"
        # The last word of each bitmap and the first that covers no page. What is taken here is lost to the checker.
        words = self.guest.config.covered_pages // 64
        for memory, index in ((regs.OWNER, words - 1), (regs.DIRTY_PEEK, words - 1), (regs.DIRTY_TAKE, words), (regs.OWNER, words),
                              (regs.DIRTY_PEEK, words)):
            if index < memory.words:
                status, _ = await host.cpu.mmio_read(base + memory.at(index), 8)
                assert (status == Status.SUCCESS) == (index < words), f"word {index} of {words} was read with {Status(status).name}"
        low, high = [await self.driver.registers.read(regs.Identification.offset + offset, 4) for offset in (0, 4)]
        assert low | high << 32 == regs.Identification.reset, f"halves of the identification: {low:#x}, {high:#x}"


class Harvester:
    """Reads dirty bits again and again while devices write, and compares what only it can know: a plain read leaves the bits."""

    def __init__(self, guest: Guest) -> None:
        self.guest, self.stop, self.count = guest, False, 0

    async def run(self) -> None:
        """Plain reads and takes in turn; the checker compares each with the writes."""
        random = self.guest.config.random("harvest")
        while not self.stop:
            await self.guest.driver.harvest(64 * random.randrange(2), 64, clear=random.random() < 0.6)
            self.count += 1
            await self.guest.system.fabric.wait(random.choice((1, 50, 700)))


@cocotb.test(timeout_time=50, timeout_unit="ms")
async def registers(dut: Any) -> None:
    """All bad requests in random order, twice, while two functions do DMA and the dirty bitmap is harvested."""
    config = BenchConfig("registers")
    rounds = config.get("rounds", 2)
    guest = Guest(dut, config, WINDOW_BASE, WINDOW_PAGES, dirty=True)
    config.refuse_unknown()
    # Many, so that a page is rarely written again between two harvests: that would hide a missing mark.
    pages = [3, 4, 127, *range(6, 126, 4)]
    for page in pages:
        guest.fill(page)
    traffic = [RandomTraffic(function, [WINDOW_BASE + page * PAGE for page in pages], guest.system.values, config.number(name), gap=120)
               for name, function in guest.system.functions.items()]
    requests, harvester = Requests(guest, config), Harvester(guest)
    agents: list[RandomTraffic | Harvester] = [*traffic, harvester]
    cases: list[Callable[[], Awaitable[None]]] = [
        requests.outside, requests.registers_of_others, requests.mode,
        requests.page_size, requests.misaligned, requests.already_there, requests.destination_elsewhere, requests.busy,
        requests.same_page_twice, requests.abort_idle, requests.bad_accesses]

    async def scenario(manager: TaskManager) -> None:
        await guest.start()
        tasks: list[Task[None]] = [manager.start_soon(agent.run()) for agent in agents]
        total = rounds * len(cases)
        for number in range(rounds):
            requests.random.shuffle(cases)
            for done, case in enumerate(cases):
                config.progress(number * len(cases) + done, total, getattr(case, "__name__", ""))
                await case()
        await guest.end(agents, tasks)
        # All is visible: one take reports the rest, and then nothing is left.
        await guest.driver.harvest(0, WINDOW_PAGES)
        left = await guest.driver.harvest(0, WINDOW_PAGES)
        assert left == 0, f"dirty bits are left after a take: {left:#x}"
        assert harvester.count >= 10, f"only {harvester.count} harvests"
        config.progress(total, total, "checking")

    await judged(guest, scenario, {"read_bytes": 1000, "final_bytes": PAGE})
