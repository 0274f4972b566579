"""What slots share and what they do not: moves at the same time, one page asked for twice, an abort of one of several moves, a copy whose source is
silent beside copies that go on. Devices write to and read from all the pages meanwhile.
"""

from random import Random
from typing import Any

import cocotb
from cocotb.task import Task
from cocotb.triggers import TaskManager

from pagehop_tb.benches.frame import BenchConfig
from pagehop_tb.benches.guest import PAGE, Guest, judged
from pagehop_tb.driver import interposer_registers as regs
from pagehop_tb.driver.api import MoveResult
from pagehop_tb.models.observer import Status
from pagehop_tb.models.root_complex import Injection

WINDOW_BASE = 0x1_0000_0000
WINDOW_PAGES = 64
Error = regs.MoveError


class Moves:
    """Rounds of moves, a page a slot; slot *n* has page *n*, all of them on the same host."""

    def __init__(self, guest: Guest, random: Random) -> None:
        self.guest, self.driver, self.random = guest, guest.driver, random
        self.host = 0

    def _begin(self, slot: int) -> "Task[MoveResult]":
        return cocotb.start_soon(self.guest.driver.move(slot, 1 - self.host, self.guest.mode(), slot))

    async def _all(self, tasks: list["Task[MoveResult]"], fail: dict[int, set[Error]]) -> None:
        """Wait for one move a slot; those of ``fail`` must end so, the others well. What failed is moved after the others."""
        results = [await task for task in tasks]
        for slot, result in enumerate(results):
            if slot in fail:
                assert not result.moved and result.error in fail[slot], f"the move in slot {slot} ended with {result.reason}"
                assert (await self._begin(slot)).moved, f"slot {slot} moves nothing after a move that failed"
            else:
                assert result.moved, f"the move in slot {slot} ended with {result.reason}"
        self.host = 1 - self.host
        for page in range(len(tasks)):
            assert await self.driver.owner(page) == self.host, f"page {page} is not where it was moved to"

    async def together(self) -> None:
        """Every slot moves its page."""
        await self._all([self._begin(slot) for slot in range(self.driver.slots)], {})

    async def one_page_twice(self) -> None:
        """A page that moves in one slot is asked for in the next, which refuses it and then moves its own (H49)."""
        first = self._begin(0)
        while not regs.MoveStatus.BUSY.get(await self.driver.status(0)):
            await self.guest.system.fabric.wait(10)
        await self.driver.start(self.driver.place(0, 0), self.driver.place(0, 1 - self.host), 1 - self.host, mode=self.guest.mode(), slot=1)
        while regs.MoveStatus.BUSY.get(status := await self.driver.status(1)):
            await self.guest.system.fabric.wait(10)
        assert regs.MoveStatus.FAILED.get(status) and regs.MoveStatus.ERROR.get(status) == Error.BUSY, f"the status of the second slot is {status:#x}"
        await self._all([first, *(self._begin(slot) for slot in range(1, self.driver.slots))], {})

    async def abort_one(self) -> None:
        """One of the moves is aborted; the others take no notice."""
        tasks = [self._begin(slot) for slot in range(self.driver.slots)]
        chosen = self.random.randrange(self.driver.slots)
        while regs.MoveStatus.PHASE.get(await self.driver.status(chosen)) == regs.MovePhase.IDLE:
            await self.guest.system.fabric.wait(10)
        await self.driver.abort(chosen)
        await self._all(tasks, {chosen: {Error.ABORTED}})

    async def silence(self) -> None:
        """A copy read of one slot is not answered: its move ends by a timer, those of the others as ever."""
        chosen = self.random.randrange(self.driver.slots)
        is_copy_read = self.guest.reads_of_engine(self.host, self.driver.place(chosen, self.host))
        silent = Injection(is_copy_read, Status.TIMEOUT, nth=self.random.randrange(8))
        self.guest.system.hosts[self.host].root_complex.injections.append(silent)
        await self._all([self._begin(slot) for slot in range(self.driver.slots)], {chosen: {Error.COPY_TIMEOUT, Error.HOLD_TIMEOUT}})
        assert silent.done, "no copy read met the silence"


@cocotb.test(timeout_time=100, timeout_unit="ms")
async def slots(dut: Any) -> None:
    """``rounds`` of everything, under traffic that never stops."""
    config = BenchConfig("slots")
    rounds = config.get("rounds", 3)
    guest = Guest(dut, config, WINDOW_BASE, WINDOW_PAGES)
    config.refuse_unknown()
    agents = guest.traffic(range(config.slots))

    async def watch(held: list[int]) -> None:
        while True:
            await guest.system.fabric.wait(5)
            held[0] = max(held[0], int(dut.holding.value).bit_count())

    async def scenario(manager: TaskManager) -> None:
        await guest.start()
        assert guest.driver.slots == config.slots > 1, f"the hardware says that it has {guest.driver.slots} slots"
        tasks = [manager.start_soon(agent.run()) for agent in agents]
        held = [0]
        watching = manager.start_soon(watch(held))
        moves = Moves(guest, config.random("slots"))
        for done in range(rounds):
            for step in (moves.together, moves.one_page_twice, moves.abort_one, moves.silence):
                config.progress(done, rounds, step.__name__)
                await step()
        watching.cancel()
        await guest.end(agents, tasks)
        assert config.get("mode", "hold") != "hold" or held[0] > 1, "no two pages were held at the same time"
        config.progress(rounds, rounds, "checking")

    await judged(guest, scenario, {"read_bytes": 100 * rounds, "final_bytes": config.slots * PAGE})
