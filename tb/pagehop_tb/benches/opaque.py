"""What has no page that could be told or changed: translated requests, and encrypted TLPs (H24f, H48); and requests of other traffic classes (O7).

The first two pass untouched to the active host, whatever page their address would mean, and mark nothing dirty; the last go where their page is. From
the first one on no page moves, and a move that runs ends without its page, until software says that the device sends no more of them.
"""

from collections import Counter
from dataclasses import replace
from random import Random
from typing import Any

import cocotb

from pagehop_tb.benches.frame import BenchConfig
from pagehop_tb.benches.three_ports import DEVICE, GUEST, PAGE, ThreePorts
from pagehop_tb.driver import interposer_registers as regs
from pagehop_tb.driver.interposer import Setup
from pagehop_tb.protocol import TRANSLATED, TRANSLATION_REQUEST, Kind, Tlp, answer, memory_read, memory_write

HOST_A, HOST_B = 0, 1
CPU = 0x0000
OFFSET, PAGES = 0x20_0000_0000, 64
#: Prefixes, as they stand in front of a header: of an encrypted TLP, and of a process, which is nothing special.
IDE, PASID = 0x92 << 24 | 0x00_1234, 0x91 << 24 | 0x4_5678
#: The page at Host A that moves to and fro, and the one that stays at Host B. Host B is the active host.
MOVING, AT_B = 3, 5
#: Most cycles from a request for a move to the TLP that is to stop it: some come after the commit.
LATEST, EARLY = 1200, 200
#: Long enough for everything to arrive.
ARRIVAL = 300
OPAQUE = regs.MoveError.OPAQUE


class Opaque:
    """The bench. ``arrived`` are the device's requests and messages at each host."""

    def __init__(self, bench: ThreePorts, setup: Setup, random: Random) -> None:
        self.bench, self.setup, self.random = bench, setup, random
        self.arrived: list[list[Tlp]] = [[], []]
        self.compared, self.next_tag = 0, 0
        for host, agent in enumerate(bench.ports[:2]):
            usual = agent.on_tlp
            assert usual is not None
            agent.on_tlp = lambda tlp, host=host, usual=usual: self._arrives(host, usual, tlp)

    def _arrives(self, host: int, usual: Any, tlp: Tlp) -> None:
        if tlp.requester_id == DEVICE and not tlp.is_completion:
            self.arrived[host].append(tlp)
        if tlp.is_atomic:
            # A move ends when what was asked before it has been answered.
            self.bench.ports[host].queue(answer(tlp, CPU, data=bytes(8), byte_count=8))
        elif not tlp.is_message:
            usual(tlp)

    def _request(self, kind: Kind, page: int) -> Tlp:
        address = GUEST + page * PAGE + self.random.randrange(0, PAGE, 64)
        self.next_tag += 1
        if kind is Kind.MWR:
            return memory_write(DEVICE, address, self.random.randbytes(64))
        if kind is Kind.MRD:
            return memory_read(DEVICE, address, 64, self.next_tag % 256)
        return Tlp(kind, DEVICE, self.next_tag % 256, address, 2, 0, 0, self.random.randbytes(8))

    async def _send(self, tlp: Tlp, host: int, address: int) -> None:
        """It must come out at ``host`` with this address, and in all else as it went in."""
        for arrived in self.arrived:
            arrived.clear()
        self.bench.device.queue(tlp)
        await self.bench.fabric.wait(ARRIVAL)
        wanted = replace(tlp, address=address, four_dw=tlp.four_dw or address >= 1 << 32)
        assert self.arrived[1 - host] == [] and self.arrived[host] == [wanted], f"{tlp} must be {wanted} at host {'ab'[host]}, not {self.arrived}"
        self.compared += 1

    async def _shown(self, *kinds: str) -> None:
        found = await self.bench.driver.opaque()
        assert found == set(kinds), f"the register says {sorted(found)} of what is opaque, not {list(kinds)}"

    async def _pass(self, **marks: Any) -> None:
        """Requests of all kinds with these fields, to a page at each host, come out at the active host as they went in."""
        for kind in (Kind.MWR, Kind.MRD, Kind.FETCH_ADD):
            for page in (MOVING, AT_B):
                tlp = replace(self._request(kind, page), **marks)
                await self._send(tlp, HOST_B, tlp.address)

    async def _plain(self, **marks: Any) -> None:
        """Ordinary requests go where their page is."""
        for page, host in ((MOVING, HOST_A), (AT_B, HOST_B)):
            tlp = replace(self._request(Kind.MWR, page), **marks)
            await self._send(tlp, host, tlp.address + host * OFFSET)

    async def _moves(self, allowed: bool) -> None:
        """A page moves there and back, or its request is refused."""
        for host in (HOST_B, HOST_A) if allowed else (HOST_B,):
            result = await self.bench.driver.move(MOVING, host)
            assert result.moved == allowed and (allowed or result.error == OPAQUE), f"a move ended with {result.reason}"
            self.compared += 1

    async def untouched(self) -> None:
        """Each kind passes, is shown, refuses moves, and is forgotten."""
        driver = self.bench.driver
        await driver.harvest(0, PAGES)
        for marks in ({"address_type": TRANSLATED}, {"prefix": IDE}, {"prefix": IDE, "address_type": TRANSLATED}):
            await self._shown()
            await self._pass(**marks)
            await self._shown(*(kind for kind, name in (("encrypted", "prefix"), ("translated", "address_type")) if name in marks))
            assert not await driver.harvest(0, PAGES), "what has no page made one dirty"
            await self._plain()
            assert await driver.harvest(0, PAGES) == 1 << MOVING | 1 << AT_B, "an ordinary write is not dirty beside what is opaque"
            await self._moves(False)
            await driver.forget_opaque()
            await self._moves(True)

    async def harmless(self) -> None:
        """A request for a translation has no page either, and promises nothing; a process, and AT bits that mean nothing, change nothing."""
        await self._send(tlp := replace(self._request(Kind.MRD, AT_B), address_type=TRANSLATION_REQUEST), HOST_B, tlp.address)
        await self._send(tlp := replace(self._request(Kind.MRD, MOVING), address_type=TRANSLATION_REQUEST), HOST_B, tlp.address)
        await self._plain(prefix=PASID)
        message = Tlp(Kind.MSGD, DEVICE, 0, 0, 1, 0, 0, b"\1\2\3\4", code=0x7E, routing=0b000, address_type=TRANSLATED)
        await self._send(message, HOST_B, message.address)
        outside = memory_write(DEVICE, GUEST + PAGES * PAGE, bytes(64))
        await self._send(replace(outside, traffic_class=1), HOST_B, outside.address)
        await self._shown()
        await self._moves(True)

    async def allowed(self) -> None:
        """Software may know that translated requests mean no page. Of encrypted TLPs nobody can say so."""
        driver = self.bench.driver
        await driver.setup(replace(self.setup, allow_translated=True))
        await self._pass(address_type=TRANSLATED)
        await self._shown("translated")
        await self._moves(True)
        await self._pass(prefix=IDE)
        await self._moves(False)
        await driver.forget_opaque()
        await driver.setup(self.setup)

    async def classed(self) -> None:
        """Requests of another traffic class go where their page is, and mark it; pages move when software knows that all classes share a channel."""
        driver = self.bench.driver
        for kind in (Kind.MWR, Kind.MRD, Kind.FETCH_ADD):
            for page, host in ((MOVING, HOST_A), (AT_B, HOST_B)):
                await driver.harvest(0, PAGES)
                tlp = replace(self._request(kind, page), traffic_class=self.random.randint(1, 7))
                await self._send(tlp, host, tlp.address + host * OFFSET)
                await self._shown("classed")
                assert await driver.harvest(0, PAGES) == (kind is not Kind.MRD) << page, "a request of another traffic class marks other pages"
                await self._moves(False)
                await driver.forget_opaque()
                await self._moves(True)
        await driver.setup(replace(self.setup, allow_classes=True))
        await self._plain(traffic_class=1)
        await self._shown("classed")
        await self._moves(True)
        await self._pass(address_type=TRANSLATED, traffic_class=1)
        await self._moves(False)
        await driver.forget_opaque()
        await driver.setup(self.setup)

    async def amid_a_move(self, rounds: int) -> None:
        """One TLP at any time of a move ends it without its page, unless the page has its new owner already. What was held goes to the old one."""
        driver, ended = self.bench.driver, Counter[tuple[str, bool]]()
        kinds: tuple[dict[str, Any], ...] = ({"address_type": TRANSLATED}, {"prefix": IDE}, {"traffic_class": 1})
        for number in range(rounds):
            mode = (regs.MoveMode.HOLD, regs.MoveMode.MERGE)[number % 2]
            move = cocotb.start_soon(driver.move(MOVING, HOST_B, mode))
            # Each kind comes once before any move could have committed.
            await self.bench.fabric.wait(self.random.randrange(EARLY if number in range(0, 2 * len(kinds), 2) else LATEST))
            for arrived in self.arrived:
                arrived.clear()
            held = self._request(Kind.MWR, MOVING)
            self.bench.device.queue(held)
            marks = kinds[number // 2 % len(kinds)]
            marked = replace(self._request(Kind.MWR, MOVING), **marks)
            self.bench.device.queue(marked)
            result = await move
            assert result.error in (OPAQUE, regs.MoveError.NONE), f"the move ended with {result.reason}"
            await self.bench.fabric.wait(ARRIVAL)
            place = held.address + OFFSET * result.moved
            assert any(tlp.address == place and tlp.data == held.data for tlp in self.arrived[result.moved]), f"{held} is not where its page is"
            assert await driver.owner(MOVING) == result.moved, "the owner map does not tell where the page is"
            where = [tlp.address for tlp in (*self.arrived[HOST_A], *self.arrived[HOST_B]) if tlp.data == marked.data]
            places = (marked.address, marked.address + OFFSET) if "traffic_class" in marks else (marked.address,)
            assert len(where) == 1 and where[0] in places, f"{marked} came out at {where}"
            ended[next(iter(marks)), result.moved] += 1
            await driver.forget_opaque()
            if result.moved:
                await self.bench.bring(MOVING, HOST_A)
        stopped = {kind for kind, moved in ended if not moved}
        assert len(stopped) >= min(len(kinds), rounds // 2) and any(moved for _, moved in ended), f"of each kind some must stop a move: {ended}"
        self.compared += rounds


@cocotb.test(timeout_time=2, timeout_unit="ms")
async def opaque(dut: Any) -> None:
    """Translated requests, encrypted TLPs and other traffic classes, before moves and amid them."""
    config = BenchConfig("opaque")
    rounds = config.get("rounds", 40)
    config.refuse_unknown()
    bench = ThreePorts(dut, config, delay=100)
    setup = Setup(window_base=GUEST, window_pages=PAGES, host_b_offset=OFFSET, active_host=HOST_B, dirty=True)
    await bench.start_settled()
    await bench.driver.setup(setup)
    await bench.bring(AT_B)
    await bench.bring(MOVING, HOST_A)
    run = Opaque(bench, setup, config.random("opaque"))
    await run.untouched()
    await run.harmless()
    await run.allowed()
    await run.classed()
    await run.amid_a_move(rounds)
    config.write({"checked": {"events": run.compared}, "violations": {}})
