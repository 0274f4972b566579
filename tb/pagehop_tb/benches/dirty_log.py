"""The dirty log in a host's memory: two ranges of different granularity, in bitmaps of both modes or in page tables, under devices that write below,
in and above what the bitmaps on the device cover, while pages move, and with software that takes words while their bits are being set.

What a report must have says the checker, by pages (I12). Which units of less and more than a page, the bench says itself: of pages that it alone
writes, once the writes are visible (H48).
"""

from random import Random
from typing import Any

import cocotb
from cocotb.task import Task
from cocotb.triggers import TaskManager

from pagehop_tb.benches.frame import BenchConfig
from pagehop_tb.benches.guest import PAGE, Guest, judged
from pagehop_tb.driver import interposer_registers as regs
from pagehop_tb.driver.dirty_log import DirtyLog, LoggedRange, LoggedTables
from pagehop_tb.driver.interposer import PAGE_BITS, units
from pagehop_tb.models.iommu import AddressSpace, Mode, pages_from
from pagehop_tb.models.observer import Status
from pagehop_tb.models.root_complex import Injection
from pagehop_tb.protocol import Kind, Tlp, memory_write

WINDOW_BASE = 0x1_0000_0000
#: Pages of 64 GiB, and of the first range: the bitmaps of the device cover less of it.
GUEST_PAGES, LOW_PAGES = 1 << 24, 600
#: Where the bitmaps of each range are, in memory that is no guest's; the second above 4 GB.
BITMAPS = ((0x3000_0000, 0x3100_0000), (0x61_0000_0000, 0x61_0100_0000))
#: Where page tables are, and room for them. D of an entry, and the bits that are software's own.
TABLES, TABLE_BYTES, DIRTY, FREE = 0x62_0000_0000, 0x1000_0000, 1 << 7, 0x300
#: Base-2 logarithms of the units of the first range, and of the second.
FINE, COARSE = 11, (12, 13, 16, 21)
#: Pages that devices access in each range, and those that the bench alone writes.
PLACES, OWN = 14, 6
#: Units that are written in a row, more than can wait and of more words than the log has at a time; of pages in tables, for each of which a read and
#: a swap are waited for, fewer, or what the device reads after them comes too late.
FLOOD, FLOOD_OF_PAGES = 200, 100
#: Pages that move.
MOVED = (5, 6)
#: Cycles from one report to the next.
LONGEST = 3000


class Logging:
    """The log of one ``mode``, in the memory of ``host``."""

    def __init__(self, guest: Guest, random: Random, mode: str, host: int) -> None:
        self.guest, self.random, self.driver = guest, random, guest.driver
        far = GUEST_PAGES // 2 + random.randrange(1 << 20)
        places = ((random.randrange(3), LOW_PAGES, FINE), (far, random.choice((64, 700, 1536)), random.choice(COARSE)))
        self.ranges = [LoggedRange(WINDOW_BASE + PAGE * first, pages, shift, *bitmaps)
                       for (first, pages, shift), bitmaps in zip(places, BITMAPS, strict=True)]
        self.host, self.memory, self.on = host, guest.system.hosts[host].memory, True
        self.tables = self._tables() if mode == "tables" else None
        self.log = DirtyLog(self.driver, self.memory, host, self.ranges, mode == "turns", self._between, self.tables)
        self.writer = guest.system.functions["third"]
        #: Addresses of pages: for devices, beside the ranges and in them; and for the bench, at both ends of each range first.
        self.places = [WINDOW_BASE + PAGE * page for page in MOVED]
        self.own: list[int] = []
        for one in self.ranges:
            pages = random.sample(range(2, one.pages - 2), PLACES + OWN)
            self.places += [one.base + PAGE * page for page in (*pages[:PLACES], one.pages, one.pages + 1)]
            self.own += [one.base + PAGE * page for page in (0, one.pages - 1, *pages[PLACES:])]

    def _tables(self) -> LoggedTables:
        """Page tables of all pages of the ranges, which have units of a page then."""
        self.ranges = [LoggedRange(one.base, one.pages, PAGE_BITS) for one in self.ranges]
        mode = self.random.choice((Mode.SV39, Mode.SV48))
        space = AddressSpace(self.memory, pages_from(TABLES), mode, second=True)
        places = dict[int, int]()
        for one in self.ranges:
            for page in range(one.base, one.base + PAGE * one.pages, PAGE):
                space.map(page, page, accessed=self.random.randrange(2))
                places[page] = space.place(page)
        return LoggedTables(space.ppn, mode is Mode.SV48, places.__getitem__, DIRTY)

    async def _between(self) -> None:
        if self.random.random() < 0.2:
            await self.guest.system.fabric.wait(self.random.randrange(60))

    async def change(self, tables: LoggedTables) -> None:
        """Software changes entries until the log is off, also between the log's look at one and its swap."""
        logged = [page for page in (*self.places, *self.own) if self.units(page, 1)]
        while self.on:
            place = tables.place(self.random.choice(logged))
            word = int.from_bytes(self.memory.read(place, 8), "little") ^ (FREE & self.random.randrange(FREE + 1))
            self.memory.write(place, word.to_bytes(8, "little"))
            await self.guest.system.fabric.wait(self.random.randrange(1, 40))

    def units(self, address: int, size: int) -> set[tuple[int, int]]:
        """Range and number of each unit that an access touches."""
        return {(number, unit) for number, one in enumerate(self.ranges) if one.base <= address < one.base + PAGE * one.pages
                for unit in range((address - one.base) >> one.shift, (address + size - 1 - one.base >> one.shift) + 1)}

    async def exactly(self) -> None:
        """Writes of all kinds to pages of the bench: all their units are reported, and no others where nobody else writes."""
        await self.log.take()
        self.log.taken = [0] * len(self.ranges)
        take, link = self.guest.system.values.take, self.guest.system.link
        # One TLP to both units of the first page; others are cut there.
        address, size = self.own[0] + 2048 - 64, 128
        tlp = memory_write(self.writer.config.requester_id, address, take(address, size))
        tlp.key = link.key()
        link.port.queue(tlp)
        written = self.units(address, size)
        for page in self.random.sample(self.own, len(self.own) // 2):
            if self.random.random() < 0.3:
                address, size = page + self.random.choice((0, 2040, 2048, 4088)), 8
                await self.writer.atomic("swap", address, take(address, size))
            else:
                size = self.random.choice((4, 64, 200, 256))
                address = page + self.random.choice((0, 2048 - size, 2048, PAGE - size))
                await self.writer.write(address, take(address, size))
            written |= self.units(address, size)
        # The answer comes when all are visible, at both hosts (H64).
        await self.writer.read(self.own[0], 4)
        await self.log.take()
        own = set[tuple[int, int]]().union(*(self.units(page, PAGE) for page in self.own))
        others = set[tuple[int, int]]().union(*(self.units(page, PAGE) for page in self.places))
        found = {(number, unit) for number, unit in own if self.log.taken[number] >> unit & 1}
        assert found - others == written - others and written <= found, f"written were {sorted(written)}, reported are {sorted(found)}"

    async def again(self) -> None:
        """While nobody else writes, a unit is reported as often as it is written and taken."""
        for address in self.random.sample(self.own, 2):
            for _ in range(2):
                self.log.taken = [0] * len(self.ranges)
                await self.writer.write(address, self.guest.system.values.take(address, 64))
                await self.writer.read(address, 4)
                await self.log.take()
                assert all(self.log.taken[number] >> unit & 1 for number, unit in self.units(address, 64)), f"{address:#x} is not reported again"

    async def flood(self) -> None:
        """Writes to units of the first range, a beat a cycle: the device waits for the log, and no mark is lost."""
        one, size, count = self.ranges[0], 64, FLOOD_OF_PAGES if self.tables else FLOOD
        self.log.taken[0] = 0
        units = self.random.sample(range(one.units), count)
        for unit in units:
            address = one.base + (unit << one.shift)
            await self.writer.write(address, self.guest.system.values.take(address, size))
        await self.writer.read(one.base, 4)
        await self.log.take()
        missing = sum(~self.log.taken[0] >> unit & 1 for unit in units)
        assert not missing, f"{count} units were written, and {missing} are not reported"

    async def folded(self) -> None:
        """A report for pages of any size sets bits and clears none."""
        one, size = self.random.choice(self.ranges), 1 << self.random.choice((12, 14))
        before = bytes(self.random.choices((0, 0, 0, 0x10, 0xFF), k=one.pages * PAGE // size // 8 + 1))
        bitmap = bytearray(before)
        address = self.random.choice([place for place in self.own if self.units(place, 4) & self.units(one.base, one.pages * PAGE)])
        await self.writer.write(address, self.guest.system.values.take(address, 4))
        await self.writer.read(address, 4)
        await self.log.report(one.base, one.pages * PAGE, size, bitmap)
        page = (address - one.base) // size
        assert bitmap[page // 8] >> page % 8 & 1, f"a write to {address:#x} is not reported in pages of {size} bytes"
        assert not any(old & ~new for old, new in zip(before, bitmap, strict=True)), "a report has cleared a bit"

    async def faulty(self, status: Status, error: regs.LogError) -> None:
        """A request of the log fails: everything is dirty, nothing stops, and the log goes on."""
        seen = len(self.log.errors)
        places = [(bitmap, 0x1000) for one in self.ranges for bitmap in (one.bitmap, one.second)] if self.tables is None else [(TABLES, TABLE_BYTES)]

        def is_of_log(tlp: Tlp) -> bool:
            return tlp.kind in (Kind.MRD, Kind.CAS) and any(first <= tlp.address < first + size for first, size in places)

        self.guest.system.hosts[self.host].root_complex.injections.append(injection := Injection(is_of_log, status))
        await self.writer.write(self.own[0], self.guest.system.values.take(self.own[0], 64))
        while not injection.done:
            await self.guest.system.fabric.wait(100)
        await self.log.take()
        assert self.log.errors[seen:] == [error], f"a request of the log was answered with {status.name}, and the errors are {self.log.errors[seen:]}"

    async def race(self) -> None:
        """Reports, one after the other or with pauses."""
        for _ in range(3):
            await self.guest.system.fabric.wait(self.random.choice((0, 0, self.random.randrange(LONGEST))))
            await self.log.take()


@cocotb.test(timeout_time=100, timeout_unit="ms")
async def dirty_log(dut: Any) -> None:
    """``rounds`` in each of ``modes``: swap, turns or tables; the pages that move have 2^``page_size`` bytes."""
    config = BenchConfig("dirty_log")
    rounds, modes, faults, gap = config.get("rounds", 2), config.get("modes", ["swap", "turns"]), config.get("faults", True), config.get("gap", 30)
    page_size = config.get("page_size", PAGE_BITS)
    guest = Guest(dut, config, WINDOW_BASE, GUEST_PAGES, ("nvme", "nic", "third"))
    config.refuse_unknown()
    random = config.random("dirty_log")
    agents = guest.traffic(())[:-1]     # the third function has other work
    for agent in agents:
        agent.gap = gap

    async def scenario(manager: TaskManager) -> None:
        await guest.start()
        tasks = list[Task[None]]()
        for done, mode in enumerate(modes):
            host = random.randrange(config.hosts)
            run = Logging(guest, random, mode, host)
            for agent in agents:
                agent.pages = run.places
            tasks = tasks or [manager.start_soon(agent.run()) for agent in agents]
            await run.log.start()
            if run.tables is not None:
                manager.start_soon(run.change(run.tables))
            for number in range(rounds):
                config.progress(done * rounds + number, len(modes) * rounds, f"{mode} in the memory of Host {'AB'[host]}")
                await run.race()
                await run.exactly()
                await run.folded()
                await run.flood()
                page = MOVED[number % 2] & -len(units(0, page_size))
                result = await guest.move(page, 1 - await guest.driver.owner(page), page_size=page_size)
                assert result.moved, f"page {page} did not move: {result.reason}"
                await run.race()
                assert not run.log.errors, f"everything is dirty because of {run.log.errors[0].name}, and nothing has failed"
            if faults:
                await run.faulty(Status.UNSUPPORTED_REQUEST, regs.LogError.ANSWER)
                await run.faulty(Status.POISONED, regs.LogError.ANSWER)
                await run.faulty(Status.TIMEOUT, regs.LogError.TIMEOUT)
                await run.race()
            await run.log.take()
            if mode is modes[-1]:
                await guest.end(agents, tasks)
                await run.log.take()
                await run.again()
            run.on = False
            await run.log.stop()
        traffic = await guest.driver.registers.read(regs.LogTraffic.offset)
        assert regs.LogTraffic.WAITS.get(traffic), "the device never waited for the log"
        config.write({"log": {"requests": regs.LogTraffic.REQUESTS.get(traffic), "waits": regs.LogTraffic.WAITS.get(traffic)}})
        config.progress(len(modes), len(modes), "checking")

    await judged(guest, scenario, {"events": 1000 * rounds})
