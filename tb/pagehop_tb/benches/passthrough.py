"""Everything passes: TLPs of all kinds in both directions, bit-exact but for the documented fields, under random pauses and scarce credits.

The guest window is closed, so one host gets all. Documented fields: IDO is cleared toward a host; requests of a host get the requester ID of the
device port and a tag of the interposer's, and their completions get the old ones back. When registers say so, what exceeds a limit of payload comes
in pieces, and hints are stripped toward a host. Where ports carry digests, most TLPs have one, some a wrong one: it is that of the TLP that comes
out, and wrong if it was, or it has been taken off.
"""

from collections import deque
from dataclasses import replace
from functools import partial
from random import Random
from typing import Any

import cocotb

from pagehop_tb.benches.frame import BenchConfig
from pagehop_tb.benches.random_tlps import MPS, RandomRequests, random_answer
from pagehop_tb.benches.three_ports import DEVICE_ID, REGISTER_BASES, identify
from pagehop_tb.driver import interposer_registers as regs
from pagehop_tb.driver.interposer import payload_limits, processing_hints
from pagehop_tb.pins import BeatFormat, CreditConfig, Fabric, PortCredits, TlpPortAgent, bursts, sparse
from pagehop_tb.protocol import FlowClass, Tlp, cut, memory_write, without_hints

COMPLETER = 0x0000
#: Data credits of the largest payload.
LARGEST_UNITS = MPS // 16


class Path:
    """One direction between two ports: what was sent, in order of each class, is what must come out, cut to the limit of payload at its end.

    ``strip``: without processing hints, ``bare``: without digests.
    """

    def __init__(self, name: str, to_host: bool, limit: int = MPS, strip: bool = False, bare: bool = False) -> None:
        self.name, self.to_host, self.limit, self.strip, self.bare = name, to_host, limit, strip, bare
        self.sent: tuple[deque[tuple[Tlp, int]], ...] = (deque(), deque(), deque())
        self.posted_sent = self.posted_received = self.compared = 0

    def on_sent(self, tlp: Tlp, expected: Tlp) -> None:
        """``tlp`` was put on the wire, ``expected`` must come out."""
        changed = replace(expected, id_ordering=False) if self.to_host else expected
        if self.bare:
            changed = replace(changed, digest=False, digest_wrong=False)
        for piece in cut(without_hints(changed) if self.strip else changed, self.limit):
            self.sent[tlp.flow].append((piece, self.posted_sent))
            self.posted_sent += tlp.flow is FlowClass.POSTED

    def on_received(self, tlp: Tlp) -> None:
        """Compare with the oldest of its class, and with what may not be passed."""
        queue = self.sent[tlp.flow]
        assert queue, f"{self.name}: {tlp} came out of nothing"
        expected, posted_before = queue.popleft()
        assert tlp == expected, f"{self.name}: {tlp!r} came out instead of {expected!r}"
        if not (tlp.is_completion and tlp.relaxed_ordering):
            assert self.posted_received >= posted_before, f"{self.name}: {tlp} passed a posted TLP"
        self.posted_received += tlp.flow is FlowClass.POSTED
        self.compared += 1

    def finish(self, at_least: int) -> None:
        """Fail when something never came out, or too little was compared."""
        for queue in self.sent:
            assert not queue, f"{self.name}: {len(queue)} TLPs never came out, first {queue[0][0]}"
        assert self.compared >= at_least, f"{self.name}: only {self.compared} comparisons"


def is_last(completion: Tlp) -> bool:
    """Whether a completion is the last of its request."""
    return bool(completion.status) or completion.lower_address % 4 + completion.byte_count <= 4 * completion.length or not completion.has_data


class Bench:
    """Device and one host, each with a random generator and a completer that answers late and in any order."""

    def __init__(self, dut: Any, config: BenchConfig, name: str, host: int, scarce_data: bool = False, limit: int = MPS, strip: bool = False) -> None:
        self.random, self.scarce_data, self.limit, self.strip = config.random(name), scarce_data, limit, strip
        self.fabric = Fabric(dut.clk, dut.rst, seed=self.random.getrandbits(32))
        identify(dut)
        self.digests = config.ecrc != "outside"
        beats, bare = BeatFormat(config.data_bytes, self.digests), config.ecrc == "strip"
        self.agents = {name: self._agent(dut, name, beats) for name in ("device", "host_a", "host_b")}
        self.device, self.host, self.host_number = self.agents["device"], self.agents[("host_a", "host_b")[host]], host
        self.up, self.down = Path("upstream", True, limit, strip, bare), Path("downstream", False, limit, bare=bare)
        self.device_tags: dict[int, int] = {}                    # tag: requester ID of a read of the device
        self.host_tags: set[int] = set()
        self.proxied: dict[int, tuple[int, int]] = {}            # tag of the interposer: requester ID and tag of the host's request
        self.proxy_order: deque[tuple[int, int]] = deque()
        self.device.on_sent, self.device.on_tlp = self._device_sent, self._at_device
        self.host.on_sent, self.host.on_tlp = self._host_sent, self._at_host

    def _agent(self, dut: Any, name: str, beats: BeatFormat) -> TlpPortAgent:
        random = self.random
        posted = CreditConfig(random.choice((2, 8, 64)), random.choice((16, 64, 1024)), delay=(1, random.choice((4, 60))))
        # Most receivers grant endless credits for completions; a switch need not.
        completion = CreditConfig(random.choice((1, 8, 64)), random.choice((16, 64)), random.random() < 0.3, delay=(1, 20))
        granted = PortCredits(posted, CreditConfig(random.choice((1, 8, 64)), random.choice((8, 64)), delay=(1, 20)), completion)
        if self.scarce_data:
            # Data for the largest TLP, and headers for many.
            granted = PortCredits(*(CreditConfig(64, units, delay=(1, 60)) for units in (LARGEST_UNITS, 2, LARGEST_UNITS)))
        pauses = [random.choice((None, sparse(random.getrandbits(32), 0.3), bursts(random.getrandbits(32), 20))) for _ in range(2)]
        return TlpPortAgent(dut, name, self.fabric, beats, granted, mps=self.limit, seed=random.getrandbits(32), shuffle=0.3,
                            source_pause=pauses[0], sink_pause=pauses[1])

    # Upstream: as the device sends, as the host gets

    def _device_sent(self, tlp: Tlp) -> None:
        expected = tlp
        if tlp.is_completion:
            requester, tag = self.proxied[tlp.tag]
            expected = replace(tlp, requester_id=requester, tag=tag)
            if is_last(tlp):
                del self.proxied[tlp.tag]    # the host sees the end of it and may ask again with the same tag
        self.up.on_sent(tlp, expected)

    def _at_host(self, tlp: Tlp) -> None:
        self.up.on_received(tlp)
        if tlp.flow is FlowClass.NON_POSTED:
            self._answer_later(self.host, tlp, COMPLETER)
        elif tlp.is_completion and is_last(tlp):
            self.host_tags.discard(tlp.tag)

    # Downstream: as the host sends, as the device gets

    def _host_sent(self, tlp: Tlp) -> None:
        if tlp.flow is FlowClass.NON_POSTED:
            self.proxy_order.append((tlp.requester_id, tlp.tag))
        self.down.on_sent(tlp, tlp)

    def _at_device(self, tlp: Tlp) -> None:
        if tlp.flow is not FlowClass.NON_POSTED:
            self.down.on_received(tlp)
            if tlp.is_completion and is_last(tlp):
                del self.device_tags[tlp.tag]
            return
        assert tlp.requester_id == DEVICE_ID and tlp.tag >> 6 == 2 | self.host_number, f"a host's request must be re-tagged, not {tlp}"
        assert tlp.tag not in self.proxied, f"tag {tlp.tag:#x} was used again before its completion"
        requester, tag = self.proxy_order.popleft()
        self.down.on_received(replace(tlp, requester_id=requester, tag=tag))
        self.proxied[tlp.tag] = requester, tag
        self._answer_later(self.device, tlp, DEVICE_ID | 1)

    def _answer_later(self, agent: TlpPortAgent, request: Tlp, completer: int) -> None:
        completions = [self._with_digest(completion) for completion in random_answer(self.random, request, completer)]
        at, gap = self.fabric.cycle, self.random.choice((0, 30))
        for completion in completions:
            at += self.random.choice((1, 5, 40, 300)) if completion is completions[0] else self.random.randint(0, gap)
            self.fabric.at(at, partial(agent.queue, completion))

    def _with_digest(self, tlp: Tlp) -> Tlp:
        if self.digests:
            tlp.digest = self.random.random() < 0.7
            tlp.digest_wrong = tlp.digest and self.random.random() < 0.1
        return tlp

    # The run

    async def start(self, active_host: int) -> None:
        """Start the clock, choose the host that gets everything, and what is changed on the way."""
        await self.fabric.start()
        written = {regs.Control.offset: regs.Control.ACTIVE_HOST.of(1)} if active_host else {}
        at_host = ("host_a", "host_b")[active_host]
        if self.limit < MPS:
            written[regs.PayloadLimits.offset] = payload_limits(device=self.limit, **{at_host: self.limit})
        if self.strip:
            written[regs.ProcessingHints.offset] = processing_hints(**{at_host: True})
        for offset, value in written.items():
            await self.agents["host_a"].send(memory_write(COMPLETER, REGISTER_BASES[0] + offset, value.to_bytes(8, "little")))
            await self.fabric.wait(50)

    async def traffic(self, agent: TlpPortAgent, requests: RandomRequests, count: int, random: Random, tags: list[int], taken: Any) -> None:
        """Send ``count`` random requests, now and then with a rest."""
        for _ in range(count):
            if random.random() < 0.6:
                await agent.send(self._with_digest(requests.posted()))
            else:
                free = [tag for tag in tags if tag not in taken]
                if free:
                    tlp = self._with_digest(requests.non_posted(random.choice(free)))
                    taken.update({tlp.tag: tlp.requester_id} if isinstance(taken, dict) else {tlp.tag})
                    await agent.send(tlp)
            # When data is scarce, lanes must run empty while credits are out, too.
            if random.random() < (0.5 if self.scarce_data else 0.02):
                await self.fabric.wait(random.randint(1, 200))

    async def drain(self, limit: int = 50_000) -> None:
        """Wait until all has come out and all credits are back."""
        for _ in range(limit // 50):
            await self.fabric.wait(50)
            if not self.device_tags and not self.host_tags and not self.proxied and all(agent.idle for agent in self.agents.values()) \
                    and not any(queue for path in (self.up, self.down) for queue in path.sent):
                return


async def mixed(dut: Any, host: int, variant: str = "", **changes: Any) -> None:
    """Random traffic between the device and ``host``, both ways at once. ``changes`` of the usual bench make it a ``variant``."""
    config = BenchConfig("passthrough")
    count = config.get("requests", 400)
    bench = Bench(dut, config, f"host {host}{variant and f', {variant}'}", host, **changes)
    await bench.start(host)
    random = bench.random

    def guest_address() -> int:
        return random.choice((0x1000_0000, 0x12_0000_0000)) + random.randrange(1 << 20) * 4

    def bar_address() -> int:
        return random.choice((0x8000_0000, 0x80_0000_0000)) + random.randrange(1 << 20) * 4

    hints = 0.3 if bench.strip else 0.0
    up = RandomRequests(random, True, [0x0001, 0x0002, 0x0108], guest_address, hints)
    down = RandomRequests(random, False, [0x0000, 0x0010], bar_address, hints)
    sending = [
        cocotb.start_soon(bench.traffic(bench.device, up, count, random, list(range(256, 512)), bench.device_tags)),
        cocotb.start_soon(bench.traffic(bench.host, down, count, random, list(range(40)), bench.host_tags)),
    ]
    for task in sending:
        await task
    await bench.drain()
    bench.up.finish(count)
    bench.down.finish(count)
    assert not bench.device_tags, f"{len(bench.device_tags)} reads of the device were never answered"
    assert not bench.host_tags, f"{len(bench.host_tags)} requests of the host were never answered"
    for name, agent in bench.agents.items():
        assert agent.idle, f"{name}: credits were not returned"
    compared = bench.up.compared + bench.down.compared
    dut._log.info(f"{compared} TLPs compared in {bench.fabric.cycle} cycles")
    config.write({"checked": {"events": compared}, "violations": {}})


@cocotb.test(timeout_time=1, timeout_unit="ms")
async def to_host_a(dut: Any) -> None:
    """All TLP kinds between the device and Host A."""
    await mixed(dut, 0)


@cocotb.test(timeout_time=1, timeout_unit="ms")
async def to_host_b(dut: Any) -> None:
    """The same with Host B as the active host."""
    await mixed(dut, 1)


@cocotb.test(timeout_time=1, timeout_unit="ms")
async def scarce_data(dut: Any) -> None:
    """Data credits run out, header credits never do."""
    await mixed(dut, 0, "scarce data", scarce_data=True)


@cocotb.test(timeout_time=1, timeout_unit="ms")
async def rewrites(dut: Any) -> None:
    """The device's link and Host B's have a smaller limit than the TLPs that come, and Host B gets no steering tags."""
    await mixed(dut, 1, "rewrites", limit=128, strip=True)
