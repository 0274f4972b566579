"""Requests that nobody answers, and answers that come too late: what they held comes back, and no answer is taken for another's (H14, H24b, D7, D16).

One way after the other, the four between ports that carry re-tagged requests and the two of the device's reads: as many requests as there is
room for, none of them answered. Those behind them go on when the first are given up, as many at a time as before, so no room is lost. What is
answered after that reaches nobody and is counted. Requests that are answered slowly, in pieces, each in time, are answered to the end. Neither other
traffic nor strange answers keep a request from being given up.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any

import cocotb

from pagehop_tb.benches.floods import APERTURES, AT_HOST, BARS, HOST_B_OFFSET, PAGES, THROUGH_APERTURE
from pagehop_tb.benches.frame import BenchConfig
from pagehop_tb.benches.three_ports import DEVICE, DEVICE_ID, DEVICE_PORT, GUEST, HOST_IDS, PAGE, ROWS, ThreePorts
from pagehop_tb.driver import interposer_registers as regs
from pagehop_tb.driver.interposer import Setup
from pagehop_tb.pins import TlpPortAgent
from pagehop_tb.protocol import FlowClass, Kind, Tlp, memory_read, memory_write, read_completions

CPU, LINE = 0x0000, 64
#: The completion limit in the registers, and the cycles after which requests are given up.
LIMIT = 40
GIVEN_UP = 16 * LIMIT
#: The bit of a tag that says that it is one of the interposer's.
OURS = 0x80
#: Entries of a table of tags.
ENTRIES = 64
#: Cycles within which a tag is given up, and within which all rows are.
TAGS_WITHIN, ROWS_WITHIN = 2 * GIVEN_UP + 8 * ENTRIES + 100, GIVEN_UP + 4 * ROWS + 100
#: The completion limit for flushes, and the cycles within which one is given up, with the way of the read.
FLUSH_LIMIT = 400
FLUSH_WITHIN = 3 * FLUSH_LIMIT // 2 + 2 * 16 + 40
#: First of the tags that are not the driver's; requests beyond what there is room for; requests that fit at least; rows that are used again.
FIRST_TAG, BEYOND, FEWEST, AGAIN = 16, 8, 4, 4
#: Rows and columns into which the table of tags is decoded.
EIGHT = 8


@dataclass(frozen=True)
class Way:
    """Reads of ``requester`` from port ``asks`` to ``address``, which ``answers`` gets. ``tags``: under tags of the interposer."""

    name: str
    asks: int
    answers: int
    requester: int
    address: int
    tags: bool = True


WAYS = (
    *(Way(f"host {'ab'[host]} to the device", host, DEVICE_PORT, CPU, BARS[host]) for host in (0, 1)),
    *(Way(f"host {'ab'[host]} to the other", host, 1 - host, CPU, APERTURES[host] + THROUGH_APERTURE[host] * PAGE) for host in (0, 1)),
    *(Way(f"the device to host {'ab'[host]}", DEVICE_PORT, host, DEVICE, GUEST + AT_HOST[host] * PAGE, False) for host in (0, 1)),
)


class Forgotten:
    """The three ports. ``seen`` are the requests that came out of the way that is looked at, ``got`` the completions by port and tag."""

    def __init__(self, dut: Any, config: BenchConfig) -> None:
        self.bench = ThreePorts(dut, config, delay=10)
        self.fabric, self.driver, self.ports = self.bench.fabric, self.bench.driver, self.bench.ports
        self.got: dict[tuple[int, int], list[Tlp]] = defaultdict(list)
        self.seen: list[tuple[int, Tlp]] = []
        self.way: Way | None = None
        self.mute: int | None = None    # the host that answers no flush
        self.flushed: tuple[int, int] | None = None    # the last flush: host and address
        self.next_tag, self.events = FIRST_TAG, 0

    async def start(self) -> None:
        """Wait until all rows are free after the reset, program the interposer, bring a page to Host B, then lower the limit."""
        await self.bench.start_settled()
        first, second = APERTURES
        await self.driver.setup(Setup(
            window_base=GUEST, window_pages=PAGES, host_b_offset=HOST_B_OFFSET,
            aperture_a=(first, PAGES, GUEST + HOST_B_OFFSET - first), aperture_b=(second, PAGES, GUEST - second)))
        await self.bench.bring(AT_HOST[1])
        await self.limit(LIMIT)
        for number, agent in enumerate(self.ports):
            agent.on_tlp = partial(self._arrived, number, agent.on_tlp)

    async def limit(self, cycles: int) -> None:
        """Set the completion limit."""
        limits = regs.MoveLimits
        await self.driver.registers.write(limits.offset, limits.HOLD.of(5000) | limits.COMPLETION.of(cycles))

    def _arrived(self, port: int, usual: Callable[[Tlp], None] | None, tlp: Tlp) -> None:
        self.events += 1
        way = self.way
        if tlp.is_completion and tlp.tag >= FIRST_TAG:
            self.got[port, tlp.tag].append(tlp)
        elif way is not None and port == way.answers and tlp.flow is FlowClass.NON_POSTED:
            self.seen.append((self.fabric.cycle, tlp))
        elif tlp.kind is Kind.MRD and not tlp.first_be:
            self.flushed = port, tlp.address
            if usual is not None and port != self.mute:
                usual(tlp)
        elif usual is not None:
            usual(tlp)

    def ask(self, way: Way, size: int, count: int, tags: list[int] | None = None) -> list[int]:
        """Queue reads, of one line each or of so many; return their tags."""
        if tags is None:
            tags = [FIRST_TAG + (self.next_tag + number - FIRST_TAG) % (ROWS - FIRST_TAG) for number in range(count)]
            self.next_tag = tags[-1] + 1
        for number, tag in enumerate(tags):
            self.got.pop((way.asks, tag), None)
            self.ports[way.asks].queue(memory_read(way.requester, way.address + number * LINE % (PAGE - size + LINE), size, tag))
        return tags

    def answer(self, way: Way, requests: Iterable[Tlp]) -> int:
        """Queue the completions of requests; return how many they are."""
        completer = DEVICE if way.answers == DEVICE_PORT else CPU
        answers = [tlp for request in requests for tlp in read_completions(request, bytes(4 * request.length), completer, LINE, 256)]
        for tlp in answers:
            self.ports[way.answers].queue(tlp)
        return len(answers)

    async def settle(self) -> int:
        """Wait until no more requests come out; return how many have."""
        count = -1
        while count != len(self.seen):
            count = len(self.seen)
            await self.fabric.wait(40)
        return count

    async def arrive(self, count: int, within: int, what: str) -> None:
        """Wait until ``count`` requests have come out."""
        for _ in range(within // 20):
            if len(self.seen) >= count:
                return
            await self.fabric.wait(20)
        raise AssertionError(f"{what}: after {within} cycles {len(self.seen)} of {count} requests have come out")

    async def counter(self, register: Any) -> int:
        """A counter of the interposer."""
        return await self.driver.counter(register.offset)

    async def unanswered(self, way: Way, size: int) -> None:
        """Fill a way, wait until what stands behind is let through, answer too late."""
        self.way, what = way, f"{way.name}, {size} bytes"
        self.seen.clear()
        timeouts = await self.counter(regs.OutstandingTimeouts)
        count = len(self.ask(way, size, (ENTRIES if way.tags else 8 * PAGE // size) + BEYOND))
        room = await self.settle()
        assert FEWEST <= room < count, f"{what}: {room} of {count} requests came out, so there was room for all or for few"
        assert not way.tags or size > LINE or room == ENTRIES, f"{what}: {room} of {ENTRIES} tags were there"
        await self.arrive(count, (-(-count // room)) * (TAGS_WITHIN if way.tags else ROWS_WITHIN), what)
        self._reuse(way, what)
        gone = self.seen[:count] if way.tags else self.seen[:count - (count - 1) % room - 1]
        if way.tags:
            await self.fabric.wait(TAGS_WITHIN)
        else:
            found = await self.counter(regs.OutstandingTimeouts) - timeouts
            assert found == len(gone), f"{what}: {found} requests were given up, {len(gone)} had to be"
            await self._rows_again(way, size, what)
        await self._too_late(way, [tlp for _, tlp in gone], what)
        await self._all_is_back(way, size, room, what)

    def _reuse(self, way: Way, what: str) -> None:
        """A tag of ours is used again only after its request was given up."""
        last: dict[int, int] = {}
        for cycle, tlp in self.seen:
            if way.tags:
                gap = cycle - last.get(tlp.tag, cycle - GIVEN_UP)
                assert gap >= GIVEN_UP, f"{what}: tag {tlp.tag:#x} was used again after {gap} cycles, its request not being answered"
            last[tlp.tag] = cycle

    async def _rows_again(self, way: Way, size: int, what: str) -> None:
        """The device asks again with tags whose first requests hold their rows."""
        timeouts, before = await self.counter(regs.OutstandingTimeouts), len(self.seen)
        tags = [tlp.tag for _, tlp in self.seen[-AGAIN:]]
        began = self.fabric.cycle
        self.ask(way, LINE, AGAIN, tags)
        await self.arrive(before + AGAIN, AGAIN * (GIVEN_UP + 100), f"{what}, tags used again")
        assert self.seen[before][0] - began >= GIVEN_UP, f"{what}: a row was given up after {self.seen[before][0] - began} cycles"
        found = await self.counter(regs.OutstandingTimeouts) - timeouts
        assert found == AGAIN, f"{what}: {found} requests were given up, {AGAIN} had to be"

    async def _too_late(self, way: Way, requests: list[Tlp], what: str) -> None:
        """Answers to what was given up are dropped, each counted."""
        before, pieces = await self.counter(regs.Unexpected), self.answer(way, requests[:ENTRIES])
        await self.fabric.wait(20 * pieces + 100)
        found = await self.counter(regs.Unexpected) - before
        assert found == pieces, f"{what}: {pieces} answers came too late, {found} were counted"
        late = [tag for (port, tag), tlps in self.got.items() if port == way.asks and tlps]
        assert not late, f"{what}: tags {late[:4]} got answers too late"

    async def _all_is_back(self, way: Way, size: int, room: int, what: str) -> None:
        """What still waits is answered, then as many requests find room as at first, and get their answers."""
        # Under tags of the interposer all were given up before.
        pieces = 0 if way.tags else self.answer(way, (tlp for _, tlp in self.seen))
        await self.fabric.wait(20 * pieces + 100)
        self.seen.clear()
        tags = self.ask(way, size, room + BEYOND)
        found = await self.settle()
        assert found == room, f"{what}: at first there was room for {room} requests, then for {found}"
        answered = 0
        while answered < len(tags):
            new = self.seen[answered:]
            answered += len(new)
            self.answer(way, (tlp for _, tlp in new))
            await self.fabric.wait(100)
        await self.fabric.wait(20 * room * size // LINE)
        wrong = [tag for tag in tags if sum(len(tlp.data) for tlp in self.got[way.asks, tag]) != size]
        assert not wrong, f"{what}: tags {wrong[:4]} were not answered in full"
        self.got.clear()

    async def beside_others(self, way: Way, shift: int) -> None:
        """Most requests are not answered, and all given up in time although the others, one in each row and column, are asked and answered on."""
        self.way, began, asked, done = way, self.fabric.cycle, 0, 0
        self.seen.clear()
        dead: dict[int, Tlp] = {}
        while self.fabric.cycle - began < TAGS_WITHIN or done < asked:
            if self.fabric.cycle - began < TAGS_WITHIN and asked - done < EIGHT:
                asked += len(self.ask(way, LINE, EIGHT))
            await self.fabric.wait(40)
            for _, tlp in self.seen[done:]:
                done += 1
                number = tlp.tag % ENTRIES
                if number not in dead and number // EIGHT != (number + shift) % EIGHT:
                    dead[number], began = tlp, self.fabric.cycle
                else:
                    self.answer(way, (tlp,))
        assert len(dead) == ENTRIES - EIGHT, f"{way.name}: only {len(dead)} tags were used"
        await self.fabric.wait(60)
        self.got.clear()
        await self._too_late(way, list(dead.values()), f"{way.name}, beside others")
        self.got.clear()

    async def beside_younger(self, way: Way) -> None:
        """Half of the tags are given up while the other half, asked later, waits on: that half is answered, whichever it is."""
        self.way = way
        for number in range(2 * FEWEST):
            if number % 2:
                await self._half(way, answered=True)    # so that the other half is asked first
            await self._half(way, answered=False)
            await self.fabric.wait(GIVEN_UP * 19 // 20)
            self.seen.clear()
            tags = self.ask(way, LINE, ENTRIES // 2)
            await self.fabric.wait(GIVEN_UP * 9 // 10)
            self.answer(way, (tlp for _, tlp in self.seen))
            await self.fabric.wait(TAGS_WITHIN)
            wrong = [tag for tag in tags if len(self.got[way.asks, tag]) != 1]
            assert not wrong, f"{way.name}, beside younger ones: tags {wrong[:4]} were given up with others that were asked before them"
            self.got.clear()

    async def _half(self, way: Way, answered: bool) -> None:
        """Ask with half of the tags, the next in turn."""
        self.seen.clear()
        self.ask(way, LINE, ENTRIES // 2)
        await self.settle()
        if answered:
            self.answer(way, [tlp for _, tlp in self.seen])

    async def after_strangers(self, host: int) -> None:
        """All tags come back whatever answer was looked at last: one to each, in turn, that was never asked for."""
        self.way = way = WAYS[host]
        for number in range(0, ENTRIES, 9):
            tag = OURS | host << 6 | number
            for port, requester in ((way.answers, DEVICE_ID), (1 - host, HOST_IDS[1 - host])):
                self.ports[port].queue(Tlp(Kind.CPL, requester, tag, completer_id=CPU, status=1, byte_count=4))
            await self.fabric.wait(40)
            self.seen.clear()
            self.ask(way, LINE, ENTRIES)
            found = await self.settle()
            assert found == ENTRIES, f"{way.name}, after a stranger with tag {tag:#x}: {found} of {ENTRIES} tags were there"
            await self.fabric.wait(TAGS_WITHIN)

    async def slowly(self, way: Way) -> None:
        """Answers in pieces, each in time, the last of them long after the request."""
        self.way = way
        self.seen.clear()
        tags = self.ask(way, 4 * LINE, EIGHT)
        await self.arrive(EIGHT, GIVEN_UP, way.name)
        pieces = [read_completions(tlp, bytes(4 * tlp.length), CPU, LINE, LINE) for _, tlp in self.seen]
        for answers in zip(*pieces, strict=True):
            await self.fabric.wait(GIVEN_UP * 9 // 10)
            for completion in answers:
                self.ports[way.answers].queue(completion)
        await self.fabric.wait(100)
        wrong = [tag for tag in tags if len(self.got[way.asks, tag]) != 4]
        assert not wrong, f"{way.name}: tags {wrong} got only a part of an answer that came slowly"
        self.got.clear()

    async def flushes(self, host: int) -> None:
        """Reads of ``host`` wait until what the device wrote at the other is proven there, and no longer than for a flush that is given up (H64).

        A flush reads where the last write went, because it must be memory.
        """
        self.way, device, page = None, self.ports[DEVICE_PORT], GUEST + AT_HOST[1 - host] * PAGE
        await self.limit(FLUSH_LIMIT)
        for number in range(3 * FEWEST):
            self.mute = 1 - host if number % 3 == 1 else None
            before, tag = await self.counter(regs.FlushTimeouts), FIRST_TAG + number
            device.queue(memory_write(DEVICE, page + number * LINE, bytes(LINE)))
            device.queue(memory_read(DEVICE, GUEST + AT_HOST[host] * PAGE, LINE, tag))
            began = self.fabric.cycle
            while not self.got[DEVICE_PORT, tag]:
                await self.fabric.wait(1)
                assert self.fabric.cycle - began < 10 * FLUSH_LIMIT, f"a read of host {'ab'[host]} waits for ever for a flush that is not answered"
            took, lost = self.fabric.cycle - began, await self.counter(regs.FlushTimeouts) - before
            place = self.driver.place(AT_HOST[1 - host], 1 - host) + number * LINE
            assert self.flushed == (1 - host, place), f"the flush went to {self.flushed}, the write to host {'ab'[1 - host]}, {place:#x}"
            least, most = (0, FLUSH_LIMIT // 4) if self.mute is None else (FLUSH_LIMIT, FLUSH_WITHIN)
            assert least <= took <= most and lost == (self.mute is not None), (
                f"a read of host {'ab'[host]} took {took} cycles, from {least} to {most} are allowed; {lost} flushes were given up")
            self.got.clear()
            await self.fabric.wait(number * 7)
        self.mute = None
        await self.limit(LIMIT)

    def owed(self) -> list[TlpPortAgent]:
        """Ports that were not given back all credits."""
        return [agent for agent in self.ports if not agent.idle or agent.unreturned()]


@cocotb.test(timeout_time=10, timeout_unit="ms")
async def forgotten(dut: Any) -> None:
    """Ways one after the other, with small and large requests."""
    config = BenchConfig("forgotten")
    sizes, ways = config.get("sizes", [64, 1024]), [WAYS[number] for number in config.get("ways", list(range(len(WAYS))))]
    config.refuse_unknown()
    bench = Forgotten(dut, config)
    await bench.start()
    for number, way in enumerate(ways):
        config.progress(number, len(ways), way.name)
        for size in sizes:
            await bench.unanswered(way, size)
        await bench.slowly(way)
        if way.tags:
            for shift in (0, 1):
                await bench.beside_others(way, shift)
            await bench.beside_younger(way)
    if ways == list(WAYS):
        for host in (0, 1):
            await bench.flushes(host)
            await bench.after_strangers(host)
    assert not bench.owed(), f"{bench.owed()[0].name}: credits were not returned: {bench.owed()[0].unreturned()}"
    config.write({"checked": {"events": bench.events}, "violations": {}})
