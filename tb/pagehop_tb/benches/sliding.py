"""A guest that is much larger than what the bitmaps cover: the range of pages that can move slides on, while devices go on below, in and above it.

What the devices access lies at all edges of the range, and moves on with it: so at every slide there are accesses on their way to pages whose entries
get another meaning, some of them behind a write to a page that is held. Who owns a page says the history of the moves alone.
"""

from dataclasses import replace
from typing import Any

import cocotb
from cocotb.task import Task
from cocotb.triggers import TaskManager

from pagehop_tb.benches.frame import BenchConfig
from pagehop_tb.benches.guest import PAGE, Guest, judged
from pagehop_tb.driver import interposer_registers as regs
from pagehop_tb.driver.api import MoveResult
from pagehop_tb.models.delay import Delay
from pagehop_tb.models.system import SystemConfig

WINDOW_BASE = 0x1_0000_0000
#: Pages of 64 GiB.
GUEST_PAGES = 1 << 24
#: Pages that leave the range together, at least.
WORD = 64
#: Where other devices' registers lie in the guest, which no move can bring to Host B.
HOLE = 16
#: Pages of each kind that devices access at a time: below the range, in it, about to leave it, about to come into it, above it.
PLACES = 6
#: Pages near to the end of the range that are accessed.
NEAR = 200
#: Cycles after which a write is visible.
VISIBLE = 1000
#: So quick that software knows that the range has slid before atomics that were sent before are made.
QUICK_WRITES = {"write_delay": [20, 200]}
Error = regs.SlideError


def slow_atomics(usual: SystemConfig) -> SystemConfig:
    """Hosts that make atomics long after all else."""
    first, second = (replace(host, atomic=Delay(500, 900)) for host in usual.hosts)
    return replace(usual, hosts=(first, second))


class Sliding:
    """The guest, the pages that its devices access (``places``, addresses), and where its pages are."""

    def __init__(self, guest: Guest, config: BenchConfig, hole: int) -> None:
        self.guest, self.driver, self.random = guest, guest.driver, config.random("sliding")
        self.hole = range(HOLE, HOLE + hole)
        self.at_b: set[int] = set()
        self.places: list[int] = []
        self.harvested = 0
        self.writer = guest.system.functions["third"]

    def aim(self, leaving: int) -> None:
        """Let devices access other pages, ``leaving`` at the low end of the range among them, and all edges."""
        low, high = self.driver.mapped.start, self.driver.mapped.stop
        edges = [low - 1, low, low + leaving - 1, low + leaving, high - 1, high, high + leaving - 1, GUEST_PAGES - 1]
        kinds = (range(low), range(low, low + leaving), range(low + leaving, high), range(high, high + leaving, 2), range(high, high + NEAR, 2),
                 range(GUEST_PAGES - WORD, GUEST_PAGES))
        chosen = edges + [self.random.choice(pages) for pages in kinds if pages for _ in range(PLACES)]
        self.places[:] = [WINDOW_BASE + page * PAGE for page in chosen if page >= 0 and page not in self.hole]

    async def move(self, page: int) -> None:
        """Bring a page to Host B."""
        result = await self.guest.move(page, 1)
        assert result.moved, f"page {page} did not move: {result.reason}"
        self.at_b.add(page)

    async def refused(self, target: int, expected: Error) -> None:
        """A slide to ``target`` is refused for that reason and changes nothing."""
        mapped = self.driver.mapped
        error = await self.driver.slide(target)
        assert error == expected, f"a slide from page {mapped.start} to page {target} ended with {error.name}, not {expected.name}"
        assert self.driver.mapped == mapped, f"a slide that was refused made {self.driver.mapped} of {mapped}"

    async def bad_slides(self, target: int) -> None:
        """Not aligned, not forward, beyond the guest, and further than pages are at B."""
        low, high = self.driver.mapped.start, self.driver.mapped.stop
        for bad, error in ((target + 1, Error.MISALIGNED), (low, Error.NOT_FORWARD), (max(low - WORD, 0), Error.NOT_FORWARD),
                           (GUEST_PAGES + WORD, Error.BEYOND), (high + WORD, Error.NOT_AT_B), (target, Error.NOT_AT_B)):
            await self.refused(bad, error)

    async def no_moves_outside(self) -> None:
        """Pages below and above do not move."""
        for page in (self.driver.mapped.start - 1, self.driver.mapped.stop, GUEST_PAGES - 1):
            if page >= 0:
                to_host = int(page > self.driver.mapped.start)
                result = await self.driver.request(self.driver.place(page, 0), self.driver.place(page, to_host), to_host, page=page)
                assert result.error == regs.MoveError.NOT_IN_WINDOW, f"a move of page {page} outside the range ended with {result.reason}"

    async def harvest(self) -> None:
        """Take the dirty bits of the range; the checker says whether some are missing."""
        self.harvested += (await self.driver.harvest(self.driver.mapped.start, len(self.driver.mapped))).bit_count()

    async def write_once(self, pages: list[int]) -> None:
        """One line to each of these pages, or an atomic, which no answer to a host's read pushes before it; the first is a line."""
        atomics = []
        for number, page in enumerate(pages):
            address, take = WINDOW_BASE + page * PAGE + self.random.randrange(0, PAGE, 64), self.guest.system.values.take
            if number == 0 or self.random.random() < 0.5:
                await self.writer.write(address, take(address, 64))
            else:
                atomics.append(cocotb.start_soon(self.writer.atomic("swap", address, take(address, 8))))
            await self.guest.system.fabric.wait(self.random.randint(1, 30))
        for atomic in atomics:
            await atomic

    async def begun(self, page: int) -> "Task[MoveResult]":
        """A move of the page, which holds it or will soon."""
        task = cocotb.start_soon(self.driver.move(page, 1, regs.MoveMode.HOLD))
        while regs.MoveStatus.PHASE.get(await self.driver.status()) == regs.MovePhase.IDLE and not task.done():
            await self.guest.system.fabric.wait(10)
        return task

    async def ended(self, page: int, task: "Task[MoveResult]") -> None:
        """The move that was begun ends, and is made again when it was aborted by its timer."""
        result = await task
        if result.moved:
            self.at_b.add(page)
        else:
            assert result.error == regs.MoveError.HOLD_TIMEOUT, f"page {page} did not move: {result.reason}"

    async def step(self, words: int) -> None:
        """Move all of the next pages, with refusals in between, and slide beyond them."""
        low, high = self.driver.mapped.start, self.driver.mapped.stop
        target = low + WORD * words
        self.aim(target - low)
        leaving = [page for page in range(low, target) if page not in self.hole and page not in self.at_b]
        self.random.shuffle(leaving)
        for page in leaving[:-1]:
            await self.move(page)
            if self.random.random() < 0.2:
                self.aim(target - low)
        await self.bad_slides(target)
        task = await self.begun(leaving[-1])
        await self.refused(target, Error.MOVING)
        await self.ended(leaving[-1], task)
        if leaving[-1] not in self.at_b:
            await self.move(leaving[-1])
        await self.harvest()
        self.aim(target - low)
        # While a page is held that stays, all that stands behind a write to it waits, and the slide for that: accesses to pages that are left, which
        # go by their entries, and to pages that come in. These nobody else writes: they must not count as clean while that is on its way.
        staying = [page for page in range(target, high) if page not in self.hole and page not in self.at_b]
        held, behind = self.random.choice(staying) if staying else None, list[int]()
        if held is not None:
            self.places.extend(PLACES * [WINDOW_BASE + held * PAGE])
            task = await self.begun(held)
            behind = [held, *self.random.sample([page for page in range(low, target) if page not in self.hole], PLACES)]
        coming = list(range(high + 1, high + target - low - 1, 2))
        self.random.shuffle(coming)
        writes = cocotb.start_soon(self.write_once(behind + coming))
        error = await self.driver.slide(target)
        assert error == Error.NONE, f"the range did not slide from page {low} to page {target}: {error.name}"
        assert self.driver.mapped.start == target, f"the range begins with page {self.driver.mapped.start}, and slid to page {target}"
        if held is not None:
            await self.ended(held, task)
        await writes
        await self.guest.system.fabric.wait(VISIBLE)
        await self.harvest()
        await self.owners_are_told()
        self.aim(WORD)
        await self.no_moves_outside()
        await self.harvest()

    async def owners_are_told(self) -> None:
        """The owner map, with what lies below and above, says what the moves have said."""
        pages = self.driver.mapped.stop + WORD
        found, low = await self.driver.owners(pages), self.driver.mapped.start
        expected = sum(1 << page for page in range(pages) if page in self.at_b or page < low)
        assert found == expected, f"the owners are {found:#x}, and the moves said {expected:#x}"


@cocotb.test(timeout_time=100, timeout_unit="ms")
async def sliding(dut: Any) -> None:
    """A slide over each number of ``words``, of 64 pages; ``hole`` pages of the first are the registers of other devices."""
    config = BenchConfig("sliding", QUICK_WRITES)
    words, hole, gap = config.get("words", [1, 1, 2]), config.get("hole", 96), config.get("gap", 12)
    guest = Guest(dut, config, WINDOW_BASE, GUEST_PAGES, ("nvme", "nic", "third"), dirty=True, machine=slow_atomics)
    guest.setup = replace(guest.setup, mmio=(WINDOW_BASE + HOLE * PAGE, hole))
    config.refuse_unknown()
    run = Sliding(guest, config, hole)
    agents = guest.traffic(())[:-1]     # the third function has other work
    for agent in agents:
        agent.pages, agent.gap = run.places, gap

    async def scenario(manager: TaskManager) -> None:
        await guest.start()
        run.aim(WORD)
        tasks = [manager.start_soon(agent.run()) for agent in agents]
        for done, count in enumerate(words):
            config.progress(done, len(words), f"{len(run.at_b)} pages are at Host B")
            await run.step(count)
        # What was above at first can go, too.
        last = run.driver.mapped.stop - 1
        await run.move(last)
        run.places.append(WINDOW_BASE + last * PAGE)
        await guest.system.fabric.wait(500)
        await run.harvest()
        await guest.end(agents, tasks)
        await run.owners_are_told()
        assert run.harvested > 0, "no dirty page was reported"
        config.progress(len(words), len(words), "checking")

    await judged(guest, scenario, {"read_bytes": 1000 * len(words), "final_bytes": 40 * PAGE})
