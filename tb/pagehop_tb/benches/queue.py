"""Moves by the ring of the move queue, under traffic that never stops: to and fro, stopped in the middle, with descriptors that cannot be read or
ask for what cannot be done.
"""

from random import Random
from typing import Any

import cocotb
from cocotb.triggers import TaskManager

from pagehop_tb.benches.frame import BenchConfig
from pagehop_tb.benches.guest import NOTIFY_ADDRESS, PAGE, RING_BASE, Guest, judged
from pagehop_tb.driver import interposer_registers as regs
from pagehop_tb.driver.api import MoveResult
from pagehop_tb.models.observer import Status
from pagehop_tb.models.root_complex import Injection

WINDOW_BASE = 0x1_0000_0000
WINDOW_PAGES = 64
Error = regs.MoveError


class Queue:
    """Rounds of moves of ``pages`` pages, which all start on Host A."""

    def __init__(self, guest: Guest, pages: int, random: Random) -> None:
        self.guest, self.pages, self.random = guest, pages, random
        self.owners = [0] * pages

    async def owners_are_told(self) -> None:
        """The owner map says what the records have said."""
        found = await self.guest.driver.owners(self.pages)
        assert found == sum(owner << page for page, owner in enumerate(self.owners)), f"the owners are {found:#b}, and the records said {self.owners}"

    def _ended(self, page: int, result: MoveResult) -> None:
        assert result.moved or result.error in (Error.HOLD_TIMEOUT, Error.ABORTED), f"page {page} did not move: {result.reason}"
        self.owners[page] ^= result.moved

    async def everything(self) -> None:
        """Each page goes to the other host; the ring is gone through several times."""
        order = list(range(self.pages))
        self.random.shuffle(order)
        await self.guest.move_all([(page, 1 - self.owners[page]) for page in order], lambda done, total, what: None)
        self.owners = [1 - owner for owner in self.owners]
        await self.owners_are_told()

    async def stopped(self) -> None:
        """The queue is stopped at some time: what a slot had taken ends and has a record, the rest is where it was."""
        ring = self.guest.ring()
        await ring.start()
        for page in range(min(8, self.pages)):
            ring.put(page, 1 - self.owners[page], self.guest.mode(), self._ended)
        await ring.ring()
        await self.guest.system.fabric.wait(self.random.randint(1, 6000))
        await ring.stop()
        await self.owners_are_told()

    async def unreadable(self) -> None:
        """A read of a descriptor is answered with UR or not at all: the queue stands still, and can be started anew."""
        status = self.random.choice((Status.UNSUPPORTED_REQUEST, Status.TIMEOUT))
        bad = Injection(self.guest.reads_of_engine(self.guest.ring_host, RING_BASE), status, nth=self.random.randrange(3))
        self.guest.system.hosts[self.guest.ring_host].root_complex.injections.append(bad)
        ring = self.guest.ring()
        await ring.start()
        for page in range(min(4, self.pages)):
            ring.put(page, 1 - self.owners[page], self.guest.mode(), self._ended)
        await ring.ring()
        for _ in range(200):
            if await ring.failed():
                break
            await self.guest.system.fabric.wait(100)
        assert bad.done and await ring.failed(), "nothing is said of a descriptor that could not be read"
        await ring.stop()
        await self.owners_are_told()

    async def impossible(self) -> None:
        """A descriptor asks for a page that is there already, one for a mode that there is not, and the next is done all the same."""
        ring, results = self.guest.ring(), dict[int, MoveResult]()
        await ring.start()
        ring.put(0, self.owners[0], regs.MoveMode.HOLD, results.__setitem__)
        ring.put(1, 1 - self.owners[1], 3, results.__setitem__)
        ring.put(2, 1 - self.owners[2], regs.MoveMode.HOLD, results.__setitem__)
        await ring.ring()
        while len(results) < 3:
            await ring.wait()
        assert [results[page].error for page in range(2)] == [Error.ALREADY_THERE, Error.MODE], f"the records say {results}"
        self._ended(2, results[2])
        await ring.stop()
        await self.owners_are_told()


@cocotb.test(timeout_time=100, timeout_unit="ms")
async def queue(dut: Any) -> None:
    """``rounds`` of everything."""
    config = BenchConfig("queue")
    rounds, pages = config.get("rounds", 2), config.get("pages", 12)
    guest = Guest(dut, config, WINDOW_BASE, WINDOW_PAGES)
    config.refuse_unknown()
    agents = guest.traffic(range(pages))

    async def scenario(manager: TaskManager) -> None:
        await guest.start()
        tasks = [manager.start_soon(agent.run()) for agent in agents]
        moves = Queue(guest, pages, config.random("queue"))
        for done in range(rounds):
            for step in (moves.everything, moves.stopped, moves.unreadable, moves.impossible):
                config.progress(done, rounds, step.__name__)
                await step()
        await guest.end(agents, tasks)
        told = sum(address == NOTIFY_ADDRESS for _, address, _ in guest.system.hosts[guest.ring_host].cpu.interrupts)
        assert told >= rounds, f"the host that has the ring was told {told} times of moves that have ended"
        config.progress(rounds, rounds, "checking")

    await judged(guest, scenario, {"read_bytes": 100 * rounds, "final_bytes": pages * PAGE})
