"""A host is gone in the middle of a move: its link takes what comes and drops it, and answers nothing. The other host and the device go on.

What is promised (docs/interposer.md): before the commit the move ends by a limit, the page stays where it was, the owner map can be read from the
other host, and traffic with that host goes on. A host that is lost as the destination comes back rebooted, with empty memory; as the source its link
comes back with its memory. Then the same page moves.
"""

from collections.abc import Callable
from dataclasses import replace
from random import Random
from typing import Any

import cocotb
from cocotb.triggers import TaskManager

from pagehop_tb.benches.frame import BenchConfig
from pagehop_tb.benches.guest import PAGE, Guest, judged
from pagehop_tb.driver import interposer_registers as regs
from pagehop_tb.driver.interposer import InterposerDriver
from pagehop_tb.models.devices import RandomTraffic
from pagehop_tb.models.observer import Status
from pagehop_tb.models.root_complex import Injection
from pagehop_tb.protocol import Kind, Tlp

WINDOW_BASE = 0x4000_0000
WINDOW_PAGES = 64
#: The page that moves, and those with traffic.
MOVING, BUSY = 7, (1, 2, 3, 4)
#: Copy reads and writes of a page are at least this many.
LINES = 16
ENDINGS = {regs.MoveError.COPY_TIMEOUT, regs.MoveError.HOLD_TIMEOUT}


class Losses:
    """Rounds of losing one host while the other keeps the traffic."""

    def __init__(self, guest: Guest, random: Random) -> None:
        self.guest, self.random = guest, random
        self.told: list[str] = []
        self._unwatched: Callable[[Tlp], None] | None = None
        fabric = guest.system.fabric
        # Either host can drive the interposer; who is left does.
        self.drivers = [InterposerDriver(host.registers, fabric.wait, lambda: fabric.cycle, guest.log) for host in guest.system.hosts]
        for host in guest.system.hosts:
            # The flushes of a lost host are given up and counted: nothing strange here.
            host.root_complex.injections.append(Injection(lambda _: False, Status.TIMEOUT))

    async def round(self, manager: TaskManager, number: int) -> None:
        """Lose one host, as the source or destination of the move, at a random line of the copy."""
        loser, as_source, line = self.random.randrange(2), self.random.random() < 0.5, self.random.randrange(LINES)
        keeper = 1 - loser
        driver, rest = self.drivers[keeper], self.guest.system.fabric.wait
        for page, host in ((MOVING, loser if as_source else keeper), *((page, keeper) for page in BUSY)):
            if await driver.owner(page) != host:
                assert (await driver.move(page, host)).moved, f"page {page} did not move to Host {'AB'[host]} before the loss"
        await self.guest.system.quiesce()
        agents = [RandomTraffic(function, [WINDOW_BASE + page * PAGE for page in BUSY], self.guest.system.values, self.random.getrandbits(32), gap=60)
                  for function in self.guest.system.functions.values()]
        tasks = [manager.start_soon(agent.run()) for agent in agents]
        await rest(self.random.randint(1, 2000))
        self._lose_at(loser, as_source, line)
        before = [agent.count for agent in agents]
        result = await driver.move(MOVING, keeper if as_source else loser)
        lost = self.guest.system.hosts[loser].root_complex.lost
        assert lost, f"Host {'AB'[loser]} was not lost at line {line}"
        assert not result.moved and result.error in ENDINGS, f"a move with a lost host ended as {result.reason}"
        assert await driver.owner(MOVING) == (loser if as_source else keeper), "the page of the failed move changed its owner"
        await rest(8000)
        assert all(agent.count > count + 10 for agent, count in zip(agents, before, strict=True)), "the device did not go on at the host that is left"
        await self._restore(loser, rebooted=not as_source)
        assert (await driver.move(MOVING, keeper if as_source else loser)).moved, "the page did not move after the host was back"
        for agent, task in zip(agents, tasks, strict=True):
            agent.stop = True
            await task
        self.told.append(f"round {number}: Host {'AB'[loser]} as the {'source' if as_source else 'destination'} at line {line}: {result.reason}")

    def _lose_at(self, host: int, as_source: bool, line: int) -> None:
        """Lose ``host`` before it takes the copy read or write number ``line``."""
        lost, seen = self.guest.system.hosts[host], [0]
        engine, arrived, kind = self.guest.system.config.identities[1 + host], lost.port.on_tlp, Kind.MRD if as_source else Kind.MWR
        assert arrived is not None
        self._unwatched = arrived

        def watch(tlp: Tlp) -> None:
            if tlp.requester_id == engine and tlp.kind is kind:
                if seen[0] == line:
                    lost.root_complex.lose()
                seen[0] += 1
            arrived(tlp)

        lost.port.on_tlp = watch

    async def _restore(self, host: int, rebooted: bool) -> None:
        lost = self.guest.system.hosts[host]
        lost.port.on_tlp = self._unwatched
        if rebooted:
            lost.memory.clear()
        lost.root_complex.restore()


@cocotb.test(timeout_time=20, timeout_unit="ms")
async def host_loss(dut: Any) -> None:
    """Each round loses a host; the guest's data survives all of them."""
    config = BenchConfig("host_loss")
    rounds = config.get("rounds", 12)
    guest = Guest(dut, config, WINDOW_BASE, WINDOW_PAGES)
    config.refuse_unknown()
    for page in (MOVING, *BUSY):
        guest.fill(page)
    losses = Losses(guest, config.random("losses"))

    async def scenario(manager: TaskManager) -> None:
        await guest.start()
        for driver in losses.drivers:
            await driver.attach(replace(guest.setup, notify=None))
        for number in range(rounds):
            config.progress(number, rounds, f"round {number}")
            await losses.round(manager, number)
        cocotb.log.info("; ".join(losses.told))
        config.progress(rounds, rounds, "checking")

    await judged(guest, scenario, {"read_bytes": 1000 * rounds, "final_bytes": 5 * PAGE})
