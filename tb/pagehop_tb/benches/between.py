"""What the hosts send each other through their apertures: bit-exact but for the documented fields, both ways at once, with long pauses.

Documented fields: the address is moved by the aperture's offset, and the header has the form for it; IDO is cleared; a request gets the requester ID
of the other host's port and a tag of the interposer's, and its completions get the old ones back. What exceeds ``limit_b`` bytes, a parameter, comes
to Host B in pieces. Now and then a host takes nothing for hundreds of
cycles, so that the lanes to it fill.
"""

from collections import deque
from dataclasses import dataclass, field, replace
from functools import partial
from random import Random
from typing import Any

import cocotb

from pagehop_tb.benches.frame import BenchConfig
from pagehop_tb.benches.passthrough import COMPLETER, Path, is_last
from pagehop_tb.benches.random_tlps import MPS, RandomRequests, random_answer
from pagehop_tb.benches.three_ports import HOST_IDS, REGISTER_BASES, identify
from pagehop_tb.driver import interposer_registers as regs
from pagehop_tb.driver.interposer import payload_limits
from pagehop_tb.pins import BeatFormat, CreditConfig, Fabric, PortCredits, TlpPortAgent, bursts, sparse
from pagehop_tb.protocol import FlowClass, Tlp, memory_write

PAGES = 1 << 12
#: Addresses of each host's aperture, and of what it leads to: from below 4 GB to above and back.
APERTURES, FAR = (0x4000_0000, 0xA0_0000_0000), (0x12_0000_0000, 0x2000_0000)
PAGE, TAGS = 4096, 40


@dataclass
class Side:
    """One host: ``path``, what it sent to the other; ``tags`` of its requests; ``asked``, by the interposer's tags, who asked what it must answer."""

    number: int
    agent: TlpPortAgent
    path: Path
    random: Random
    tags: set[int] = field(default_factory=set)
    order: deque[tuple[int, int]] = field(default_factory=deque)
    asked: dict[int, tuple[int, int]] = field(default_factory=dict)


class Between:
    """Both hosts, each with random requests to the other and a completer that answers late and in any order."""

    def __init__(self, dut: Any, config: BenchConfig) -> None:
        self.random, self.limit_b = config.random("between"), config.get("limit_b", MPS)
        self.fabric = Fabric(dut.clk, dut.rst, seed=self.random.getrandbits(32))
        identify(dut)
        beats = BeatFormat(config.data_bytes)
        TlpPortAgent(dut, "device", self.fabric, beats)
        self.sides = [
            Side(number, self._agent(dut, name, beats), Path(f"{name} to the other", True, self.limit_b if number == 0 else MPS), config.random(name))
            for number, name in enumerate(("host_a", "host_b"))]
        self.sides[1].agent.mps = self.limit_b
        for side in self.sides:
            side.agent.on_sent, side.agent.on_tlp = partial(self._sent, side), partial(self._arrived, side)

    def _agent(self, dut: Any, name: str, beats: BeatFormat) -> TlpPortAgent:
        random = self.random
        posted, non_posted, completion = (CreditConfig(random.choice((2, 8, 64)), random.choice((16, 64)), delay=(1, 40)) for _ in range(3))
        pauses = [random.choice((None, sparse(random.getrandbits(32), 0.3))), bursts(random.getrandbits(32), 400)]
        return TlpPortAgent(dut, name, self.fabric, beats, PortCredits(posted, non_posted, completion), seed=random.getrandbits(32), shuffle=0.3,
                            source_pause=pauses[0], sink_pause=pauses[1])

    def _sent(self, side: Side, tlp: Tlp) -> None:
        if tlp.is_completion:
            requester, tag = side.asked[tlp.tag]
            if is_last(tlp):
                del side.asked[tlp.tag]
            side.path.on_sent(tlp, replace(tlp, requester_id=requester, tag=tag))
            return
        if tlp.address - APERTURES[side.number] not in range(PAGES * PAGE):
            return    # to the registers
        if tlp.flow is FlowClass.NON_POSTED:
            side.order.append((tlp.requester_id, tlp.tag))
        address = tlp.address - APERTURES[side.number] + FAR[side.number]
        side.path.on_sent(tlp, replace(tlp, address=address, four_dw=address >> 32 != 0))

    def _arrived(self, side: Side, tlp: Tlp) -> None:
        other = self.sides[1 - side.number]
        if tlp.flow is not FlowClass.NON_POSTED:
            other.path.on_received(tlp)
            if tlp.is_completion and is_last(tlp):
                side.tags.discard(tlp.tag)
            return
        assert tlp.requester_id == HOST_IDS[side.number] and tlp.tag >> 6 == 2 | other.number, f"a request of the other host must be re-tagged: {tlp}"
        assert tlp.tag not in side.asked, f"tag {tlp.tag:#x} was used again before its completion"
        side.asked[tlp.tag] = requester, tag = other.order.popleft()
        other.path.on_received(replace(tlp, requester_id=requester, tag=tag))
        at = self.fabric.cycle
        gaps = side.random.choice(((0,), (1, 5, 40, 300)))
        for completion in random_answer(side.random, tlp, COMPLETER):
            at += side.random.choice(gaps) + (at == self.fabric.cycle)
            self.fabric.at(at, partial(side.agent.queue, completion))

    async def start(self) -> None:
        """Start the clock and open both apertures."""
        await self.fabric.start()
        values = (
            (regs.ApertureABase, APERTURES[0]), (regs.ApertureAPages, PAGES), (regs.ApertureAOffset, FAR[0] - APERTURES[0]),
            (regs.ApertureBBase, APERTURES[1]), (regs.ApertureBPages, PAGES), (regs.ApertureBOffset, FAR[1] - APERTURES[1]),
            *(((regs.PayloadLimits, payload_limits(host_b=self.limit_b)),) if self.limit_b < MPS else ()))
        for register, value in values:
            data = (value % (1 << 64)).to_bytes(8, "little")
            await self.sides[0].agent.send(memory_write(COMPLETER, REGISTER_BASES[0] + register.offset, data))
        await self.fabric.wait(100)

    async def traffic(self, side: Side, count: int) -> None:
        """Send ``count`` random requests, now and then with a rest."""
        random = side.random
        requests = RandomRequests(random, True, [0x0000, 0x0010],
                                  lambda: APERTURES[side.number] + random.randrange(PAGES) * PAGE + random.randrange(1 << 10) * 4)
        for _ in range(count):
            free = [tag for tag in range(TAGS) if tag not in side.tags]
            if random.random() < 0.4 or not free:
                tlp = requests.posted()
                while tlp.is_message:
                    tlp = requests.posted()
            else:
                tlp = requests.non_posted(random.choice(free))
                side.tags.add(tlp.tag)
            await side.agent.send(tlp)
            if random.random() < 0.02:
                await self.fabric.wait(random.randint(1, 200))

    async def drain(self, limit: int = 50_000) -> None:
        """Wait until all has come out and all credits are back."""
        for _ in range(limit // 50):
            await self.fabric.wait(50)
            if not any(side.tags or side.asked or not side.agent.idle or any(side.path.sent) for side in self.sides):
                return


@cocotb.test(timeout_time=300, timeout_unit="us")
async def between(dut: Any) -> None:
    """Writes, reads and atomics of both hosts through their apertures."""
    config = BenchConfig("between")
    count = config.get("requests", 400)
    bench = Between(dut, config)
    config.refuse_unknown()
    await bench.start()
    for task in [cocotb.start_soon(bench.traffic(side, count)) for side in bench.sides]:
        await task
    await bench.drain()
    for side in bench.sides:
        side.path.finish(count)
        assert not side.tags, f"{len(side.tags)} requests of Host {'AB'[side.number]} were never answered"
        assert side.agent.idle, f"{side.agent.name}: credits were not returned"
    config.write({"checked": {"events": sum(side.path.compared for side in bench.sides)}, "violations": {}})
