"""Large pages move to and fro, each a run of units of 4 KB with one commit, while devices write, read and count in every unit of them.

Faults end some moves before their commit: then all units are where they were. A page that is misaligned, too large, not wholly at its source, or not
wholly in the window is refused, and so is what overlaps a page that moves in another slot.
"""

from collections import Counter
from typing import Any

import cocotb
from cocotb.triggers import TaskManager

from pagehop_tb.benches.aborts import FAULTS, Saboteur
from pagehop_tb.benches.frame import BenchConfig
from pagehop_tb.benches.guest import PAGE, Guest, judged
from pagehop_tb.driver import interposer_registers as regs
from pagehop_tb.driver.interposer import PAGE_BITS, units
from pagehop_tb.models.devices import AtomicCounter, HotPageWriter, RandomTraffic

WINDOW_BASE = 0x4000_0000
WINDOW_PAGES = 128
Error = regs.MoveError
#: Units of a region, all of whose pages have one size, and units of the first region under the heaviest traffic.
REGION, HOT, COUNTING = 16, 5, 6
#: Hosts that copy 64 KB before a device gives up, which the limit of holds allows.
QUICK_HOSTS = {"read_delay": [60, 200], "write_delay": [20, 200], "hold_limit": 12_000}


class LargePages:
    """The moves. Every region has pages of one of ``sizes``, base-2 logarithms of bytes."""

    def __init__(self, guest: Guest, config: BenchConfig, sizes: list[int]) -> None:
        self.guest, self.driver, self.sizes, self.covered_pages = guest, guest.driver, sizes, config.covered_pages
        self.share, self.faults = config.get("abort_share", 0.5), config.get("faults", list(FAULTS))
        self.random, self.saboteur = config.random("moves"), Saboteur(guest, config.random("faults"))
        self.owners = [0] * REGION * len(sizes)
        self.outcomes: Counter[str] = Counter()

    async def request(self, page: int, size: int, to_host: int, source: int = 0, destination: int = 0) -> Error:
        """Ask for a move that is to be refused, at these distances from where the page is."""
        driver = self.driver
        result = await driver.request(driver.place(page, 0) + source, driver.target(page, to_host) + source + destination, to_host, size)
        return Error(result.error)

    async def moves(self, page: int, to_host: int, page_size: int = PAGE_BITS) -> None:
        """Move a page, which must succeed."""
        moved = await self.driver.move(page, to_host, page_size=page_size)
        assert moved.moved, f"page {page} did not move: {moved.reason}"

    async def refused(self) -> None:
        """Every reason to refuse a large page, one unit of which would do."""
        largest = regs.PageSizes.LARGEST.get(await self.driver.registers.read(regs.PageSizes.offset))
        assert largest == min(21, PAGE_BITS + self.covered_pages.bit_length() - 1), f"the largest page is said to have 2^{largest} bytes"
        last = WINDOW_PAGES - 2
        for size, page, source, destination, expected in (
                (11, 0, 0, 0, Error.PAGE_SIZE), (largest + 1, 0, 0, 0, Error.PAGE_SIZE), (13, 1, 0, 0, Error.MISALIGNED),
                (13, 0, PAGE, 0, Error.MISALIGNED), (13, 0, 0, PAGE, Error.MISALIGNED), (13, 0, 0, 2 * PAGE, Error.DESTINATION),
                (16, WINDOW_PAGES, 0, 0, Error.NOT_IN_WINDOW)):
            error = await self.request(page, size, 1, source=source, destination=destination)
            assert error == expected, f"a page of 2^{size} bytes at unit {page} was refused as {error.name}, not {expected.name}"
        for unit in (last, last + 1):
            await self.moves(unit, 1)
            assert await self.request(last, 13, 1) == Error.ALREADY_THERE, f"half of page {last} was at its destination"
            assert unit != last or await self.request(last, 13, 0) == Error.ALREADY_THERE, f"half of page {last} was at its destination"
        await self.moves(last, 0, page_size=13)

    async def gather(self, run: range, size: int, host: int) -> None:
        """What a rival has moved goes back to ``host``: a page that is not wholly there cannot move as one."""
        for unit in run:
            if self.owners[unit] != host:
                assert await self.request(run[0], size, 1 - host) == Error.ALREADY_THERE
                await self.moves(unit, host)
                self.owners[unit] = host

    async def rival(self, run: range, to_host: int) -> None:
        """Another slot is asked for one unit of a page that moves, which is refused if that has not ended by then (H49)."""
        await self.guest.system.fabric.wait(self.random.randint(1, 200 * len(run)))
        unit = self.random.choice(run)
        result = await self.driver.move(unit, to_host, slot=1)
        self.outcomes[f"rival: {result.reason}"] += 1
        if result.moved:
            self.owners[unit] = to_host

    async def move(self, done: int) -> None:
        """Move a random page to its other host, perhaps with a fault and beside a rival."""
        random, region = self.random, self.random.randrange(len(self.sizes))
        size = self.sizes[region]
        run = units(random.randrange(region * REGION, (region + 1) * REGION, len(units(0, size))), size)
        to_host = 1 - self.owners[run[0]]
        await self.gather(run, size, 1 - to_host)
        fault = self.faults[done % len(self.faults)] if random.random() < self.share else ""
        other = cocotb.start_soon(self.rival(run, to_host)) if self.driver.slots > 1 else None
        result = await self.saboteur.move(run[0], to_host, fault, 0, size)
        if result.moved:
            self.owners[run.start:run.stop] = [to_host] * len(run)
            cocotb.log.info(f"page of 2^{size} bytes: held for {result.hold_cycles} of {result.total_cycles} cycles")
        self.outcomes[f"2^{size}: {result.reason}"] += 1
        if other is not None:
            await other

    async def queued(self) -> None:
        """The first page of each region moves by the queue."""
        ring, results, owners = self.guest.ring(), dict[int, str](), self.owners
        await ring.start()
        for region, size in enumerate(self.sizes):
            run = units(region * REGION, size)
            await self.gather(run, size, owners[run[0]])
            ring.put(run[0], 1 - owners[run[0]], self.guest.mode(), lambda page, result: results.update({page: result.reason}), size)
            owners[run.start:run.stop] = [1 - owners[run[0]]] * len(run)
        await ring.ring()
        while len(results) < len(self.sizes):
            await ring.wait()
        await ring.stop()
        assert set(results.values()) == {"none"}, f"pages did not move by the queue: {results}"


@cocotb.test(timeout_time=100, timeout_unit="ms")
async def large_pages(dut: Any) -> None:
    """Random pages, of one of the ``sizes`` (base-2 logarithms) in each region; ``abort_share`` of the moves meet one of the ``faults``."""
    config = BenchConfig("large_pages", QUICK_HOSTS)
    moves, sizes, gap = config.get("moves", 12), config.get("sizes", [16, 13, 12]), config.get("gap", 40)
    pages = REGION * len(sizes)
    guest = Guest(dut, config, WINDOW_BASE, WINDOW_PAGES, ("nvme", "nic", "third"))
    functions, values, driver = guest.system.functions, guest.system.values, guest.driver
    large = LargePages(guest, config, sizes)
    others = [page for page in range(pages) if page != COUNTING]
    for page in others:
        guest.fill(page)
    writer = HotPageWriter(functions["nvme"], WINDOW_BASE + HOT * PAGE, values, config.number("writer"), config.get("reads", 4), gap=gap)
    counter = AtomicCounter(functions["nic"], WINDOW_BASE + COUNTING * PAGE + 0x100)
    traffic = RandomTraffic(functions["third"], [WINDOW_BASE + page * PAGE for page in others], values, config.number("traffic"), gap=gap)
    config.refuse_unknown()
    agents = (writer, counter, traffic)

    async def scenario(manager: TaskManager) -> None:
        await guest.start()
        tasks = [manager.start_soon(agent.run()) for agent in agents]
        await large.refused()
        for done in range(moves):
            config.progress(done, moves, f"move {done}")
            await large.move(done)
        if driver.mode != regs.MoveMode.HOST_COPY:      # nobody copies for the queue
            await large.queued()
        await guest.end(agents, tasks)
        host = large.owners[COUNTING]
        final = int.from_bytes(guest.read_memory(host, driver.place(COUNTING, host) + 0x100, 8), "little")
        assert final == counter.count, f"{counter.count} adds were answered, and memory counts {final}"
        cocotb.log.info(f"outcomes: {dict(large.outcomes)}, {dict(large.saboteur.outcomes)}")
        assert driver.slots == 1 or large.outcomes["rival: busy"], f"no rival was refused: {dict(large.outcomes)}"
        config.progress(moves, moves, "checking")

    await judged(guest, scenario, {"read_bytes": 1000, "final_bytes": pages * PAGE})
