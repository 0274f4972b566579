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
from pagehop_tb.models.system import SystemConfig

WINDOW_BASE = 0x4000_0000
WORD = 64
#: Register reads of one burst: as long as the writes last, one follows the other.
HARVESTS = 12
#: Atomics of one round: one after the other marks its page at another distance from the take.
ATOMICS = 6
#: Pages of a word that one burst writes.
WRITTEN = 40
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
        """Atomics on pages that nothing else writes, a take ``distance`` cycles after the first, and another when all are answered."""
        pages = self.random.sample(range(word, word + WORD), ATOMICS)
        running = [cocotb.start_soon(self.counter.atomic("swap", WINDOW_BASE + page * PAGE, self.values.take(WINDOW_BASE + page * PAGE, 8)))
                   for page in pages]
        await self.wait(distance)
        first = await self.driver.harvest(word, WORD)
        for task in running:
            await task
        self._check(pages, word, first, await self.driver.harvest(word, WORD))

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
            word, other = (0, WORD) if number % 2 else (WORD, 0)
            await bench.burst(word, word if number // 2 % 2 else other, clear=bool(number // 4 % 2))
            await bench.atomics(word, 1 + FARTHEST * number // rounds)
        left = await guest.driver.harvest(0, 2 * WORD)
        assert left == 0, f"dirty bits are left after a take: {left:#x}"
        config.progress(rounds, rounds, "checking")

    await judged(guest, scenario, {"final_bytes": len(away) * PAGE})
