"""Between an NTB and a host (figure 8): all kinds of TLPs pass both ways in the order in which they came, bit-exact but for the documented fields,
under random pauses and scarce credits.

Documented fields: addresses in the range of their direction, and the form of header that follows; with ``tags`` the requester IDs of the near side,
the tags of its requests, and both in their completions.
"""

from collections import deque
from dataclasses import replace
from functools import partial
from random import Random
from typing import Any

import cocotb

from pagehop_tb.benches.frame import BenchConfig
from pagehop_tb.benches.passthrough import is_last
from pagehop_tb.benches.random_tlps import RandomRequests, random_answer
from pagehop_tb.checker.verdict import VIOLATIONS
from pagehop_tb.pins import BeatFormat, CreditConfig, Fabric, PortCredits, TlpPortAgent, bursts, packed_aperture, sparse
from pagehop_tb.protocol import FlowClass, Kind, Tlp, answer, memory_read, memory_write

OURS = 0x0310
PAGE, FOUR_GB = 4096, 1 << 32
MEMORY = (Kind.MRD, Kind.MRDLK, Kind.MWR, Kind.FETCH_ADD, Kind.SWAP, Kind.CAS, Kind.DMWR)
#: Ranges astride 4 GB that are moved far above, and just below, so that headers change both ways: (base, pages, offset).
UP, DOWN = (FOUR_GB - 8 * PAGE, 16, 0x12_0000_0000), (FOUR_GB - 4 * PAGE, 8, -4 * PAGE)
#: Somebody else at the far side, whose completions come astray.
STRANGER = 0x0777
#: Cycles after which the number of a request that nobody answers is free, at least, and longer than any answer takes.
LIMIT, PATIENCE = 400, 20_000
#: Requests that nobody answers where all may go.
UNANSWERED = 16
#: Cycles in which what waits for nothing but the wire has come through.
SOON = 100
#: Cycles between a beat on the one link and on the other.
LATENCY = 3


def adjusted(tlp: Tlp, base: int, pages: int, offset: int) -> Tlp:
    """``tlp`` as it must come out."""
    if tlp.kind not in MEMORY or tlp.address_type or not base <= tlp.address < base + pages * PAGE or (tlp.prefix or 0) >> 24 == 0x92:
        return tlp
    return replace(tlp, address=(tlp.address + offset) % (1 << 64), four_dw=None)


class Direction:
    """One way through: what was sent, in one order, is what must come out."""

    def __init__(self, name: str) -> None:
        self.name, self.expected, self.compared, self.changed = name, deque[Tlp](), 0, 0

    def sent(self, tlp: Tlp, expected: Tlp) -> None:
        """``tlp`` went in and must come out as ``expected``."""
        self.expected.append(expected)
        self.changed += tlp != expected

    def received(self, tlp: Tlp) -> None:
        """This came out."""
        assert self.expected, f"{self.name}: {tlp} came out of nothing"
        expected = self.expected.popleft()
        assert tlp == expected, f"{self.name}: {tlp!r} came out instead of {expected!r}"
        self.compared += 1


class Bench:
    """Both partners; each answers what it is asked, late and in any order."""

    def __init__(self, dut: Any, config: BenchConfig, name: str, answers: bool = True) -> None:
        self.random, self.tags, self.answers = config.random(name), config.tags, answers
        self.fabric = Fabric(dut.clk, dut.rst, seed=self.random.getrandbits(32))
        dut.up.value, dut.down.value = packed_aperture(*UP), packed_aperture(*DOWN)
        if self.tags:
            dut.requester_id.value, dut.limit.value = OURS, PATIENCE if answers else LIMIT
        self.near, self.far = (self._agent(dut, side, BeatFormat(config.data_bytes)) for side in ("near", "far"))
        self.up, self.down = Direction("up"), Direction("down")
        self.near.on_sent, self.near.on_tlp = self._near_sent, self._at_near
        self.far.on_sent, self.far.on_tlp = self._far_sent, self.at_far
        self.open: tuple[set[int], set[int]] = (set(), set())       # tags of requests of the near and of the far side
        self.asked: deque[Tlp] = deque()                            # requests of the near side on their way through
        self.whose: dict[int, Tlp] = {}                             # by tag of ours
        self.most = 0

    def _agent(self, dut: Any, name: str, beats: BeatFormat) -> TlpPortAgent:
        random = self.random
        if not self.answers:
            return TlpPortAgent(dut, name, self.fabric, beats, PortCredits(CreditConfig(64, 1024), CreditConfig(infinite=True)))
        posted = CreditConfig(random.choice((2, 8, 64)), random.choice((16, 64, 1024)), delay=(1, random.choice((4, 60))))
        completion = CreditConfig(random.choice((1, 8, 64)), random.choice((16, 64)), random.random() < 0.3, delay=(1, 20))
        non_posted = CreditConfig(random.choice((1, 8, 64)), random.choice((8, 64)), random.random() < 0.3, delay=(1, 20))
        stills = [random.choice((None, sparse(random.getrandbits(32), 0.3), bursts(random.getrandbits(32), 20))) for _ in range(2)]
        return TlpPortAgent(dut, name, self.fabric, beats, PortCredits(posted, non_posted, completion), seed=random.getrandbits(32), shuffle=0.3,
                            source_pause=stills[0], sink_pause=stills[1])

    def _near_sent(self, tlp: Tlp) -> None:
        expected = adjusted(tlp, *UP)
        if self.tags and not tlp.is_completion:
            expected = replace(expected, requester_id=OURS)
        if tlp.flow is FlowClass.NON_POSTED:
            self.asked.append(tlp)
        self.up.sent(tlp, expected)

    def at_far(self, tlp: Tlp) -> None:
        """The far side gets this."""
        if tlp.flow is FlowClass.NON_POSTED:
            request = self.asked.popleft()
            if self.tags:
                assert tlp.tag < self.tags and tlp.tag not in self.whose, f"tag {tlp.tag:#x} is none of ours, or used again before its completion"
            self.whose[tlp.tag] = request
            self.most = max(self.most, len(self.whose))
            self.up.received(replace(tlp, tag=request.tag))
            self._answer_later(self.far, tlp)
            return
        self.up.received(tlp)
        if tlp.is_completion and is_last(tlp):
            self.open[1].discard(tlp.tag)

    def _far_sent(self, tlp: Tlp) -> None:
        expected = adjusted(tlp, *DOWN)
        if tlp.requester_id == STRANGER:
            expected = tlp
        elif self.tags and tlp.is_completion:
            request = self.whose[tlp.tag]
            expected = replace(tlp, requester_id=request.requester_id, tag=request.tag)
        if tlp.is_completion and is_last(tlp) and tlp.requester_id != STRANGER:
            del self.whose[tlp.tag]
        self.down.sent(tlp, expected)

    def _at_near(self, tlp: Tlp) -> None:
        self.down.received(tlp)
        if tlp.flow is FlowClass.NON_POSTED:
            self._answer_later(self.near, tlp)
        elif tlp.is_completion and is_last(tlp) and tlp.requester_id != STRANGER:
            self.open[0].discard(tlp.tag)

    def _answer_later(self, agent: TlpPortAgent, request: Tlp) -> None:
        if not self.answers:
            return
        completions = random_answer(self.random, request, 0)
        at, gap = self.fabric.cycle, self.random.choice((0, 30))
        for completion in completions:
            at += self.random.choice((1, 5, 40, 200)) if completion is completions[0] else self.random.randint(0, gap)
            self.fabric.at(at, partial(agent.queue, completion))

    async def traffic(self, side: int, requests: RandomRequests, count: int, random: Random) -> None:
        """Send random requests from one side, now and then with a rest."""
        agent, taken = (self.near, self.far)[side], self.open[side]
        for _ in range(count):
            free = [tag for tag in range(300) if tag not in taken]
            if random.random() < 0.5 or not free:
                tlp = requests.posted()
            else:
                tlp = requests.non_posted(random.choice(free))
                taken.add(tlp.tag)
            if tlp.kind in MEMORY and random.random() < 0.1:
                tlp.address_type = 2
            elif tlp.kind is Kind.MWR and random.random() < 0.05:
                tlp.prefix = 0x92 << 24 | random.randrange(1 << 20)
            await agent.send(tlp)
            if side and random.random() < 0.05:
                agent.queue(answer(memory_read(STRANGER, 0, 64, random.randrange(8)), 0, 0, bytes(64), 64, 0))
            if random.random() < 0.02:
                await self.fabric.wait(random.randint(1, 200))

    def clean(self) -> bool:
        """Nothing is under way."""
        return not any(self.open) and not self.up.expected and not self.down.expected and self.near.idle and self.far.idle


@cocotb.test(timeout_time=2, timeout_unit="ms")
async def transparent(dut: Any) -> None:
    """Random TLPs of all kinds both ways."""
    config = BenchConfig("adjuster")
    count = config.get("requests", 1500)
    bench = Bench(dut, config, "transparent")
    await bench.fabric.start()
    random = bench.random

    def address() -> int:
        return random.choice((0, FOUR_GB - 12 * PAGE, FOUR_GB - 12 * PAGE, 0x12_0000_0000)) + random.randrange(24 * PAGE // 4) * 4

    sending = [cocotb.start_soon(bench.traffic(side, RandomRequests(random, not side, ids, address), count, random))
               for side, ids in enumerate(([0x0001, 0x0002, OURS], [0x0000, 0x0108]))]
    for task in sending:
        await task
    for _ in range(1000):
        await bench.fabric.wait(50)
        if bench.clean():
            break
    await bench.fabric.wait(10)     # the last credits are on their way
    compared = bench.up.compared + bench.down.compared
    left = [len(way.expected) for way in (bench.up, bench.down)]
    assert bench.clean(), f"{left} TLPs never came out, {[len(tags) for tags in bench.open]} requests were not answered"
    for agent in (bench.near, bench.far):
        assert not agent.unreturned(), f"{agent.name} misses credits: {agent.unreturned()}"
    changed = [way.changed for way in (bench.up, bench.down)]
    assert min(changed) > count // 20, f"only {changed} TLPs were changed"
    dut._log.info(f"{compared} TLPs compared in {bench.fabric.cycle} cycles, {changed} changed, {bench.most} requests open at most")
    config.write({"checked": {"events": compared}, "violations": dict.fromkeys(VIOLATIONS, 0), "cycles": bench.fabric.cycle, "clock_ns": 4,
                  "pages": {"requested": 0, "moved": 0}})


@cocotb.test(timeout_time=1, timeout_unit="ms")
async def nothing_waits_for_answers(dut: Any) -> None:
    """Requests are not answered. Posted TLPs go on; with tags of ours so do no more requests than these, until the time of the first is up, and
    without all requests, under their own."""
    config = BenchConfig("adjuster")
    config.get("requests", 0)
    bench = Bench(dut, config, "unanswered", answers=False)
    await bench.fabric.start()
    fabric, asked = bench.fabric, 2 * bench.tags or UNANSWERED
    through = bench.tags or asked
    for tag in range(asked):
        bench.near.queue(Tlp(Kind.SWAP, 1, tag, tag * PAGE, 2, 15, 15, bytes(8)) if tag % 2 else memory_read(1, tag * PAGE, 64, tag))
    await fabric.wait(SOON)
    assert len(bench.whose) == through, f"{len(bench.whose)} of {asked} requests went through, with {bench.tags} tags"
    arrived: list[int] = []

    def at_far(tlp: Tlp) -> None:
        if tlp.flow is FlowClass.POSTED:
            arrived.append(fabric.cycle)
        elif len(bench.whose) == bench.tags:
            bench.whose.clear()     # all have been given up
        bench.at_far(tlp)

    bench.far.on_tlp = at_far
    for number in range(1, 11):
        queued = fabric.cycle
        await bench.near.send(memory_write(1, UP[0], bytes(4), 0))
        sent = fabric.cycle
        await fabric.wait(SOON)
        assert len(arrived) == number and arrived[-1] - queued < SOON, f"what was posted in cycle {queued} did not come through in {SOON} cycles"
    assert arrived[-1] - sent == LATENCY, f"the way through takes {arrived[-1] - sent} cycles"
    await fabric.wait(3 * LIMIT + 8 * bench.tags)
    assert not bench.near.queued, f"{bench.near.queued} requests still wait for a tag"
