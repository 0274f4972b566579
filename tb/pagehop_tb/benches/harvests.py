"""Dirty harvests that meet writes and atomics by construction, not by luck: marks in every cycle in which the bitmap is read, atomics that are slow.

While the bitmap is read again and again, the device writes one line to each page of a word, a beat in every cycle: each operation of a harvest stands
beside a mark (H47). No page is written twice between two takes, which would hide a mark that was lost. Atomics are marked long before the host makes
them, at every distance from a take (H46, H58). All that is taken in a round are the pages of the round, no more.
"""

from dataclasses import replace
from typing import Any

import cocotb
from cocotb.task import Task
from cocotb.triggers import TaskManager

from pagehop_tb.benches.frame import BenchConfig
from pagehop_tb.benches.guest import PAGE, Guest, judged
from pagehop_tb.models.delay import Delay
from pagehop_tb.models.observer import Status
from pagehop_tb.models.root_complex import Injection
from pagehop_tb.models.system import SystemConfig
from pagehop_tb.protocol import Kind

WINDOW_BASE = 0x4000_0000
WORD = 64
#: Register reads of one burst: as long as the writes last, one follows the other.
HARVESTS = 12
#: Atomics of one round: one after the other marks its page at another distance from the take.
ATOMICS = 6
#: Pages of a word that one burst writes.
WRITTEN = 40
#: Cycles that a take among atomics may need: the slowest atomic, and flushes.
SLOWEST = 2500
#: Cycles after which a late read is answered, and numbers of epochs that the hardware tells apart.
LATE, EPOCHS = 9000, 4
#: Cycles from the first atomic of a round to its take: the mark, and the way of a register read.
FARTHEST = 60


def slow_atomics(usual: SystemConfig) -> SystemConfig:
    """A device that never pauses; hosts that make writes late, atomics much later, and answer reads at once."""
    host = replace(usual.hosts[0], posted=Delay(100, 400), read=Delay(10, 20), atomic=Delay(500, 900))
    return replace(usual, hosts=(host, host), pauses=0.0, shuffle=0.0)


class Harvests:
    """What one round of each kind does. ``word`` is the first page of a word of the bitmap."""

    def __init__(self, guest: Guest, config: BenchConfig) -> None:
        self.guest, self.driver, self.random = guest, guest.driver, config.random("harvests")
        self.writer, self.counter = guest.system.functions.values()
        self.stop = False
        self.values, self.wait = guest.system.values, guest.system.fabric.wait

    async def burst(self, word: int, read_word: int, clear: bool) -> None:
        """A line to each of some pages of ``word`` while ``read_word`` is read or taken; then a take that must have what no other had."""
        reads: list[Task[int]] = [cocotb.start_soon(self.driver.harvest(read_word, WORD, clear)) for _ in range(HARVESTS)]
        await self.wait(self.random.randint(1, 30))
        pages = self.random.sample(range(word, word + WORD), WRITTEN)
        for page in pages:
            address = WINDOW_BASE + page * PAGE + self.random.randrange(0, PAGE, 64)
            await self.writer.write(address, self.values.take(address, 64))
        found = 0
        for read in reads:
            found |= await read
        await self.guest.system.quiesce()
        self._check(pages, word, found if read_word == word else 0, await self.driver.harvest(word, WORD))
        assert read_word == word or not found, f"pages {found:#x} of the other word were reported, and none was written"

    async def atomics(self, word: int, distance: int) -> None:
        """Atomics on pages that nothing else writes, a take ``distance`` cycles after the first, and another when all are answered.

        A page that is read meanwhile is not reported.
        """
        pages = self.random.sample(range(word, word + WORD), ATOMICS)
        read = next(page for page in range(word, word + WORD) if page not in pages)
        running: list[Task[Any]] = [cocotb.start_soon(self.counter.read(WINDOW_BASE + read * PAGE, 64))]
        running += [cocotb.start_soon(self.counter.atomic("swap", WINDOW_BASE + page * PAGE, self.values.take(WINDOW_BASE + page * PAGE, 8)))
                   for page in pages]
        await self.wait(distance)
        first = await self.driver.harvest(word, WORD)
        for task in running:
            await task
        self._check(pages, word, first, await self.driver.harvest(word, WORD))

    async def among_atomics(self, word: int) -> None:
        """Takes are answered although there is always an atomic on its way: they wait for those before them only (I7)."""
        self.stop = False
        running = [cocotb.start_soon(self._atomics_on(word + page)) for page in range(3)]
        await self.wait(FARTHEST)
        for _ in range(4):
            began = self.guest.system.fabric.cycle
            await self.driver.harvest(word, WORD)
            took = self.guest.system.fabric.cycle - began
            assert took <= SLOWEST, f"a take took {took} cycles among atomics, at most {SLOWEST} are allowed"
        self.stop = True
        for task in running:
            await task
        await self.driver.harvest(word, WORD)

    async def _atomics_on(self, page: int) -> None:
        address = WINDOW_BASE + page * PAGE
        while not self.stop:
            await self.counter.atomic("swap", address, self.values.take(address, 8))

    async def old_read(self, page: int) -> None:
        """A move ends after a read of the page that was on its way before it, also one that is older than many takes (H12)."""
        address, host = WINDOW_BASE + page * PAGE, self.guest.system.hosts[0]
        late = Injection(lambda tlp: tlp.kind is Kind.MRD and tlp.first_be != 0 and tlp.address == address, Status.TIMEOUT, late=LATE)
        host.root_complex.injections.append(late)
        reading = cocotb.start_soon(self.counter.read(address, 64))
        # A move begins two epochs: the second has the number of that of the read again.
        for number in range(EPOCHS - 2):
            other = WINDOW_BASE + (page + 1 + number) * PAGE
            await self.writer.write(other, self.values.take(other, 64))
            await self.guest.system.fabric.wait(FARTHEST)
            assert await self.driver.harvest(0, WORD), "nothing was taken, so nothing was shown"
        assert not reading.done(), "the read was too quick to show anything"
        result = await self.guest.move(page, 1)
        assert result.moved and reading.done(), f"the move of page {page} ended with {result.reason} before a read of the page that came earlier"

    @staticmethod
    def _check(pages: list[int], word: int, *reports: int) -> None:
        written, reported = 0, 0
        for page in pages:
            written |= 1 << page - word
        for bits in reports:
            reported |= bits
        assert reported == written, f"pages {written:#018x} from {word} on were written, {reported:#018x} reported"


@cocotb.test(timeout_time=20, timeout_unit="ms")
async def harvests(dut: Any) -> None:
    """Bursts and atomics in turn: every pair of words and both kinds of reads, and distances from 1 on."""
    config = BenchConfig("harvests")
    rounds = config.get("rounds", 8)
    guest = Guest(dut, config, WINDOW_BASE, 2 * WORD, dirty=True, machine=slow_atomics)
    config.refuse_unknown()
    #: Some of each word are written at Host B.
    away = (7, 40, WORD + 3, WORD + 60)
    for page in away:
        guest.fill(page)

    async def scenario(_: TaskManager) -> None:
        await guest.start()
        for page in away:
            result = await guest.move(page, 1)
            assert result.moved, f"page {page} did not move: {result.reason}"
        bench = Harvests(guest, config)
        for number in range(rounds):
            config.progress(number, rounds, f"round {number}")
            # An answer to the host that has the writes pushes them, one to the other host does not: there a flush alone proves them visible.
            guest.driver.registers = guest.system.hosts[number % 2].registers
            word, other = (0, WORD) if number % 2 else (WORD, 0)
            await bench.burst(word, word if number // 2 % 2 else other, clear=not number // 4 % 2)
            await bench.atomics(word, 1 + FARTHEST * number // rounds)
        guest.driver.registers = guest.system.hosts[0].registers
        await bench.among_atomics(WORD)
        await bench.old_read(3)
        await guest.system.quiesce()
        await guest.driver.harvest(0, 2 * WORD)
        left = await guest.driver.harvest(0, 2 * WORD)
        assert left == 0, f"dirty bits are left after a take: {left:#x}"
        config.progress(rounds, rounds, "checking")

    await judged(guest, scenario, {"final_bytes": len(away) * PAGE})
