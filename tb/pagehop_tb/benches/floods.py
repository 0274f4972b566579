"""Nobody starves (D8, D17): sources that never pause share each way out, and a single read gets its answer beside them within a bound.

Two sources flood one output, each of which alone would fill it. Meanwhile every kind of read is made again and again, one at a time: of both hosts by
the device, of the device, the registers and the other host by each host. All links take what comes and hosts answer at once, so a late answer is the
hardware's doing. Last one host floods the device and the other answers its large reads, a line in every cycle, which share the way to it.
"""

from collections import Counter, defaultdict
from collections.abc import Callable
from functools import partial
from typing import Any

import cocotb
from cocotb.triggers import Event, TaskManager

from pagehop_tb.benches.frame import BenchConfig
from pagehop_tb.benches.three_ports import DEVICE, GUEST, PAGE, REGISTER_BASES, ThreePorts
from pagehop_tb.driver import interposer_registers as regs
from pagehop_tb.driver.interposer import Setup
from pagehop_tb.pins import TlpPortAgent
from pagehop_tb.protocol import FlowClass, Tlp, memory_read, memory_write, read_completions

CPU, LINE, LARGEST = 0x0000, 64, 256
PAGES = 64
HOST_B_OFFSET = 1 << 32
BARS = (0x8000_0000, 0x8100_0000)
APERTURES = (0x80_0000_0000, 0xA0_0000_0000)
#: Pages of the window: one the device writes at each host, one that each host writes through its aperture, one the device reads at each host.
AT_HOST, THROUGH_APERTURE, LINES = (0, 1), (2, 3), (4, 5)
#: Share of an output's TLPs that each of two floods must get.
LEAST_SHARE = 0.4
#: Cycles within which each read is answered, and reads of each kind in a flood. A read stands behind the writes before it, which is most of it.
LONGEST, FEWEST = 1300, 2
#: Tag and size of a read that is answered with a burst.
BURST_TAG, BURST_BYTES = 512, 512


class Reads:
    """Reads of one requester at ``agent``, a tag for each kind; ``latencies`` by kind."""

    def __init__(self, bench: ThreePorts, agent: TlpPortAgent, requester: int) -> None:
        self.bench, self.agent, self.requester = bench, agent, requester
        self.kinds: dict[str, tuple[int, int]] = {}
        self.latencies: dict[str, list[int]] = defaultdict(list)
        self.answered: dict[int, Event] = {}
        self.stop = False

    async def run(self, kind: str, tag: int, address: int, size: int) -> None:
        """Read again and again, with rests, until :attr:`stop`."""
        random = self.bench.config.random(f"{self.agent.name} {kind}")
        fabric = self.bench.fabric
        while not self.stop:
            self.answered[tag] = answered = Event()
            began = fabric.cycle
            self.agent.queue(memory_read(self.requester, address, size, tag))
            await answered.wait()
            self.latencies[kind].append(fabric.cycle - began)
            await fabric.wait(random.randint(1, 60))

    def completed(self, tlp: Tlp) -> None:
        """Take a completion: each read is answered by one."""
        assert not tlp.status, f"{self.agent.name}: {tlp}"
        self.answered.pop(tlp.tag).set()


class Floods:
    """The three ports, their answers, and what arrived: ``arrived`` counts writes by where they arrived and what they were for."""

    def __init__(self, bench: ThreePorts) -> None:
        self.bench, self.fabric = bench, bench.fabric
        self.arrived: Counter[str] = Counter()
        self.due = b""          # what is still to come of a burst
        self.burst_count = 0
        self.hosts = [host.agent for host in bench.hosts]
        self.stop = False

    async def setup(self, fence: bool) -> None:
        """Program the interposer, and bring two pages to Host B."""
        await self.fabric.start()
        first, second = APERTURES
        await self.bench.driver.setup(Setup(
            window_base=GUEST, window_pages=PAGES, host_b_offset=HOST_B_OFFSET, fence=fence,
            aperture_a=(first, PAGES, GUEST + HOST_B_OFFSET - first), aperture_b=(second, PAGES, GUEST - second)))
        for page in (AT_HOST[1], LINES[1]):
            await self.bench.bring(page)
        self.readers = [Reads(self.bench, agent, requester)
                        for agent, requester in ((self.bench.device, DEVICE), *((agent, CPU) for agent in self.hosts))]
        for reader in self.readers:
            usual = reader.agent.on_tlp
            reader.agent.on_tlp = partial(self._arrived, reader, usual or self._at_device)

    def _arrived(self, reader: Reads, usual: Callable[[Tlp], None], tlp: Tlp) -> None:
        if tlp.is_completion:
            if tlp.tag == BURST_TAG:
                assert tlp.data and self.due.startswith(tlp.data), f"{tlp} should bring {self.due[:LINE].hex()}"
                self.due = self.due[len(tlp.data):]
            else:
                reader.completed(tlp)
            return
        if tlp.flow is FlowClass.POSTED:
            self.arrived[f"{reader.agent.name} {tlp.address & 0xFF_F000:#x}"] += 1
        usual(tlp)

    def _at_device(self, tlp: Tlp) -> None:
        if tlp.flow is FlowClass.NON_POSTED:
            for completion in read_completions(tlp, bytes(4 * tlp.length), DEVICE, LINE, LARGEST):
                self.bench.device.queue(completion)

    async def flood(self, agent: TlpPortAgent, requester: int, address: int) -> None:
        """Keep the link of ``agent`` full with writes to one page until :attr:`stop`."""
        data, number = bytes(LARGEST), 0
        while not self.stop:
            while agent.waiting(FlowClass.POSTED) < 8:
                agent.queue(memory_write(requester, address + number * LARGEST % PAGE, data))
                number += 1
            await self.fabric.wait(16)

    async def read_bursts(self, host: int) -> None:
        """Read much of a host at once, again and again, until :attr:`stop`; it answers with a completion a line, one in every cycle."""
        random, plain = self.bench.config.random(f"bursts of host {host}"), self.bench.hosts[host]
        address, page = GUEST + LINES[host] * PAGE, plain.page(self.bench.driver.place(LINES[host], host))
        page[:] = random.randbytes(PAGE)
        usual, plain.mps = plain.mps, LINE
        while not self.stop:
            at = random.randrange(0, PAGE - BURST_BYTES, LINE)
            self.due = bytes(page[at:at + BURST_BYTES])
            self.bench.device.queue(memory_read(DEVICE, address + at, BURST_BYTES, BURST_TAG))
            for _ in range(LONGEST):
                await self.fabric.wait(1)
                if not self.due:
                    break
            assert not self.due, f"of a burst of host {'ab'[host]} {len(self.due)} bytes did not come in {LONGEST} cycles"
            self.burst_count += 1
            await self.fabric.wait(random.randint(1, 12))
        plain.mps = usual

    def reads(self) -> list[tuple[Reads, str, int, int, int]]:
        """Reader, kind, tag, address and size of every kind of read."""
        device, *hosts = self.readers
        kinds = [(device, f"host {'ab'[host]}", 256 + host, GUEST + AT_HOST[host] * PAGE, LINE) for host in (0, 1)]
        for host, reader in enumerate(hosts):
            kinds += [
                (reader, "device", 1, BARS[host] + 0x100, LINE), (reader, "aperture", 2, APERTURES[host] + THROUGH_APERTURE[host] * PAGE, LINE),
                (reader, "registers", 3, REGISTER_BASES[host] + regs.Identification.offset, 8)]
        return kinds

    async def run(self, cycles: int, sources: list[tuple[TlpPortAgent, int, int]], bursts: int | None = None) -> None:
        """Let ``sources`` (agent, requester, address) flood and every reader read for ``cycles``, then wait for what is left.

        The device reads bursts of host ``bursts``.
        """
        self.stop = False
        self.arrived.clear()
        async with TaskManager() as tasks:
            for source in sources:
                tasks.start_soon(self.flood(*source))
            if bursts is not None:
                tasks.start_soon(self.read_bursts(bursts))
            for reader in self.readers:
                reader.stop = False
                reader.latencies.clear()
            for reader, kind, tag, address, size in self.reads():
                tasks.start_soon(reader.run(kind, tag, address, size))
            await self.fabric.wait(cycles)
            self.seen = Counter(self.arrived)
            overdue = [f"{reader.agent.name} {kind}" for reader, kind, *_ in self.reads() if len(reader.latencies[kind]) < FEWEST]
            assert not overdue, f"fewer than {FEWEST} reads were answered in {cycles} cycles: {', '.join(overdue)}"
            self.stop = True
            for reader in self.readers:
                reader.stop = True
        for reader in self.readers:
            for kind, latencies in reader.latencies.items():
                assert max(latencies) <= LONGEST, f"{reader.agent.name}: a read of {kind} took {max(latencies)} cycles, at most {LONGEST} are allowed"

    def share(self, port: str, addresses: tuple[int, int]) -> None:
        """Both floods to ``port`` get their share."""
        counts = [self.seen[f"{port} {address & 0xFF_F000:#x}"] for address in addresses]
        assert min(counts) >= LEAST_SHARE * sum(counts) > 0, f"{port}: of two floods one got {counts[0]} TLPs and the other {counts[1]}"

    @property
    def events(self) -> int:
        """TLPs seen."""
        return sum(agent.received for agent in (self.bench.device, *self.hosts))

    def longest(self) -> str:
        """The longest latency of each kind of read."""
        return ", ".join(f"{reader.agent.name} {kind} {max(seen)} of {len(seen)}"
                         for reader in self.readers for kind, seen in reader.latencies.items())


@cocotb.test(timeout_time=1, timeout_unit="ms")
async def shares(dut: Any) -> None:
    """The device and the other host flood each host in turn; then both hosts flood the device."""
    config = BenchConfig("floods")
    cycles, long = config.get("cycles", 2500), config.get("burst_cycles", 3)  # times as many for bursts
    floods = Floods(ThreePorts(dut, config, delay=20))
    await floods.setup(fence=False)
    device = floods.bench.device
    for host, name in enumerate(("host_a", "host_b")):
        direct, crossing = GUEST + AT_HOST[host] * PAGE, APERTURES[1 - host] + THROUGH_APERTURE[1 - host] * PAGE
        await floods.run(cycles, [(device, DEVICE, direct), (floods.hosts[1 - host], CPU, crossing)])
        floods.share(name, (direct, GUEST + THROUGH_APERTURE[1 - host] * PAGE))
        dut._log.info(f"{name}: {floods.longest()}")
    await floods.run(cycles, [(agent, CPU, bar) for agent, bar in zip(floods.hosts, BARS, strict=True)])
    floods.share("device", BARS)
    dut._log.info(f"device: {floods.longest()}")
    for host in (0, 1):
        await floods.run(long * cycles, [(floods.hosts[1 - host], CPU, BARS[1 - host])], bursts=host)
    assert floods.burst_count >= 4 * long, f"only {floods.burst_count} bursts were read"
    config.write({"checked": {"events": floods.events}, "violations": {}})


@cocotb.test(timeout_time=1, timeout_unit="ms")
async def fenced(dut: Any) -> None:
    """With the fence policy the device floods one host, and its reads of the other are answered all the same."""
    config = BenchConfig("floods")
    cycles = config.get("cycles", 2500)
    floods = Floods(ThreePorts(dut, config, delay=20))
    await floods.setup(fence=True)
    for host in (0, 1):
        await floods.run(cycles, [(floods.bench.device, DEVICE, GUEST + AT_HOST[host] * PAGE)])
        dut._log.info(f"to host {'ab'[host]}: {floods.longest()}")
    config.write({"checked": {"events": floods.events}, "violations": {}})
