"""A guest on two hosts: the machine, the driver, the log and the verdict at the end, as the scenarios use them."""

from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any, Protocol

import cocotb
from cocotb.task import Task
from cocotb.triggers import TaskManager

from pagehop_tb.benches.frame import BenchConfig
from pagehop_tb.checker.check import MemoryReader, check
from pagehop_tb.checker.log import EventLog
from pagehop_tb.checker.space import CheckConfig, Range, answers_of
from pagehop_tb.checker.verdict import Verdict
from pagehop_tb.driver import interposer_registers as regs
from pagehop_tb.driver.api import Mappings, MoveResult
from pagehop_tb.driver.interposer import PAGE_BITS, InterposerDriver, Setup
from pagehop_tb.driver.move_ring import DESCRIPTOR_BYTES, MoveRing, RingSetup
from pagehop_tb.models.delay import Delay
from pagehop_tb.models.device import DeviceConfig
from pagehop_tb.models.devices import RandomTraffic
from pagehop_tb.models.root_complex import RootComplexConfig
from pagehop_tb.models.system import System, SystemConfig
from pagehop_tb.pins import CreditConfig, PortCredits, packed_aperture
from pagehop_tb.protocol import PIECE_BOUNDARY, Kind, Tlp

__all__ = ["NOTIFY_ADDRESS", "PAGE", "RING_BASE", "Guest", "judged"]

PAGE = 4096
MSI_BASE, MSI_SIZE = 0xFEE0_0000, 0x10_0000
NOTIFY_ADDRESS, NOTIFY_DATA = 0xFEE0_1000, 0x4D
#: Host B keeps the guest above 4 GB, so that headers change their form.
HOST_B_OFFSET = 0x12_0000_0000
#: What a second interposer in a row adds of it.
BEHIND_B = 0x11_0000_0000
APERTURE_A, APERTURE_B = 0x80_0000_0000, 0xA0_0000_0000
BARS = {"nvme": (0x8000_0000, 0x4000), "nic": (0x8001_0000, 0x4000), "third": (0x8002_0000, 0x4000)}
#: Where a hypervisor keeps the ring of the move queue, and how long the ring is: short, so that it is gone through often.
RING_BASE, RING_ORDER = 0x60_0000_0000, 3
#: Largest payload that a device or host sends.
LARGEST_PAYLOAD = 256
#: Bytes that a hypervisor copies at a time.
COPY_BYTES = 64
#: Tries after which a page that does not move is given up.
TRIES = 8


class Agent(Protocol):
    """What runs until it is told to stop."""

    stop: bool


class Guest:
    """The machine around ``dut`` with ``pages`` pages of guest from ``base`` on, all at Host A; ``functions`` name the device's functions.

    With one host there are no apertures. Its second memory stands ``host_b_offset`` above the first and is called that of Host B; all is one path, so
    order must hold over both without a fence.

    ``machine`` changes the configuration of hosts, links and functions; Host B keeps the guest ``host_b_offset`` above its addresses.

    Parameters of every scenario: ``pauses`` (share of cycles in which a stream stands still), ``write_delay`` and ``read_delay`` (bounds of the
    hosts' delays, then perhaps the probability and the bound of rare long ones; ``write_delay_b`` where Host B's differ), ``posted_credits`` (posted
    TLPs that a host takes before the first is visible), ``hold_limit``, ``completion_limit``, ``fence`` (the policy), ``out_of_band`` (an observer
    sees both hosts by a path of its own), ``mode`` of the moves (``hold``, ``merge``, ``host_copy``, or ``mixed``: hold and merge by chance),
    ``ring_host`` (whose memory has the ring of the move queue, and who gets the notifications), ``independent`` (names of functions that
    are declared independent of each other and of the rest), ``traffic_class`` of the devices and ``classes_apart`` (the hosts have a virtual
    channel for each class, so pages must not move while devices use another than 0), ``mps`` of the links of the device, Host A and Host B: what
    is larger comes there in pieces.
    """

    def __init__(self, dut: Any, config: BenchConfig, base: int, pages: int, functions: tuple[str, ...] = ("nvme", "nic"),
                 mappings: Mappings | None = None, dirty: bool = False, log: EventLog | None = None, host_b_offset: int = HOST_B_OFFSET,
                 machine: Callable[[SystemConfig], SystemConfig] = lambda usual: usual) -> None:
        self.dut, self.config, self.base, self.pages = dut, config, base, pages
        self.log = EventLog() if log is None else log
        self.ring_host = config.get("ring_host", 0)
        made = machine(self._system(functions))
        #: Requester IDs of the functions that are declared independent, by name.
        self.independent = {one.name: one.requester_id for one in made.functions if one.name in config.get("independent", [])}
        self.setup = Setup(
            window_base=base, window_pages=pages, host_b_offset=host_b_offset, behind_b=BEHIND_B if config.in_row else 0,
            msi=(MSI_BASE, MSI_SIZE // PAGE),
            aperture_a=(APERTURE_A, pages, base + host_b_offset - APERTURE_A), aperture_b=(APERTURE_B, pages, base - APERTURE_B),
            notify=(self.ring_host, NOTIFY_ADDRESS, NOTIFY_DATA), fence=config.get("fence", False), dirty=dirty,
            independent=tuple((requester, 0xFFFF) for requester in self.independent.values()),
            allow_classes=not any(host.classes_apart for host in made.hosts),
            hold_limit=config.get("hold_limit", 5000), completion_limit=config.get("completion_limit", 2500), payload_limits=made.mps)
        if config.in_row:
            dut.adjust.value = packed_aperture(base + host_b_offset - BEHIND_B, pages, BEHIND_B)
        self.out_of_band = config.get("out_of_band", self.setup.fence or config.hosts == 1)
        self.system = System(dut, made, self.log)
        self.driver = InterposerDriver(self.system.hosts[0].registers, self.system.fabric.wait, lambda: self.system.cycle, self.log, mappings)
        mode, self._random_mode = config.get("mode", "hold"), config.random("modes")
        self._modes = (regs.MoveMode.HOLD, regs.MoveMode.MERGE) if mode == "mixed" else (regs.MoveMode[mode.upper()],)
        self.driver.mode = self._modes[0]
        self.driver.copier = self._copy
        for host in self.system.hosts:
            host.cpu.on_interrupt.append(self._interrupt)
        #: The fence policy was in force at some time.
        self.fenced = self.setup.fence
        self.retries = 0
        self._judgements: list[tuple[str, str]] = []

    def judge(self, violation: str, story: str) -> None:
        """Count a violation that the bench found by itself."""
        self._judgements.append((violation, story))

    def _system(self, functions: tuple[str, ...]) -> SystemConfig:
        config = self.config
        write_delay, read_delay = config.get("write_delay", [50, 800]), config.get("read_delay", [100, 600])
        mps = config.get("mps", [LARGEST_PAYLOAD] * 3)
        hosts = [RootComplexConfig(posted=Delay(*delay), read=Delay(*read_delay), msi=(MSI_BASE, MSI_SIZE),
                                   classes_apart=config.get("classes_apart", False), mps=host_mps)
                 for delay, host_mps in zip((write_delay, config.get("write_delay_b", write_delay)), mps[1:], strict=True)]
        pauses = config.get("pauses", 0.1)
        size, posted, traffic_class = self.pages * PAGE, config.get("posted_credits", 64), config.get("traffic_class", 0)
        return SystemConfig(
            seed=config.seed, data_bytes=config.data_bytes, hosts=tuple(hosts[:config.hosts]), pauses=pauses, shuffle=0.2 if pauses else 0.0,
            mps=(mps[0], mps[1], mps[2]),
            functions=tuple(DeviceConfig(name, 0x0108 + 8 * number, bar=BARS[name], traffic_class=traffic_class)
                            for number, name in enumerate(functions)),
            apertures=((APERTURE_A, size), (APERTURE_B, size)) if config.hosts == 2 else (None, None),
            host_credits=PortCredits(CreditConfig(posted, 16 * posted), CreditConfig(64, 256)))

    async def _copy(self, page: int, to_host: int) -> None:
        """Host A's hypervisor copies a page: one of its two places is local, the other behind the aperture. The last bytes are read back (O9)."""
        cpu, far = self.system.hosts[0].cpu, APERTURE_A + page * PAGE if self.config.hosts == 2 else self.driver.place(page, 1)
        source, destination = (self.driver.place(page, 0), far) if to_host else (far, self.driver.place(page, 0))
        for offset in range(0, PAGE, COPY_BYTES):
            await cpu.store(destination + offset, await cpu.load(source + offset, COPY_BYTES), read_back=False)
        await cpu.load(destination + PAGE - COPY_BYTES, COPY_BYTES)

    def _interrupt(self, address: int, data: bytes) -> None:
        if address == NOTIFY_ADDRESS:
            self.driver.notified()

    @property
    def check_config(self) -> CheckConfig:
        """What the checker must know."""
        size = self.pages * PAGE
        assert self.setup.aperture_a is not None and self.setup.aperture_b is not None
        return CheckConfig(
            window=Range(self.base, size), groups=self._groups(), host_b_offset=self.setup.host_b_offset,
            engine_ids=frozenset(self.system.config.identities[1:]),
            interrupts=(Range(MSI_BASE, MSI_SIZE),), notify=frozenset((NOTIFY_ADDRESS,)), hold_limit=self.setup.hold_limit,
            global_order=self.out_of_band, hosts=self.config.hosts, pieces=PIECE_BOUNDARY if min(self.setup.payload_limits) < LARGEST_PAYLOAD else 0,
            apertures={0: Range(APERTURE_A, size, self.setup.aperture_a[2]), 1: Range(APERTURE_B, size, self.setup.aperture_b[2])}
            if self.config.hosts == 2 else {})

    def _groups(self) -> dict[str | int, int]:
        """Which functions keep order among themselves: those of one declared group and one traffic class."""
        declared = {name: number for number, name in enumerate(self.independent, 1)}
        numbers, groups = {(0, 0): 0}, dict[str | int, int]()
        for one in self.system.config.functions:
            group = declared.get(one.name, 0)
            own, answers = (numbers.setdefault((group, one_class), len(numbers)) for one_class in (one.traffic_class, 0))
            groups |= {one.name: own, one.requester_id: own, answers_of(one.name): answers}
        return groups

    async def start(self) -> None:
        """Leave reset and program the interposer."""
        await self.system.start()
        await self.driver.setup(self.setup)

    def fill(self, page: int) -> None:
        """Give a page contents of its own before anything runs."""
        address = self.base + page * PAGE
        self.system.preset(0, address, self.system.values.take(address, PAGE))

    def mode(self) -> regs.MoveMode:
        """Mode of the next move."""
        return self._random_mode.choice(self._modes)

    async def move(self, page: int, to_host: int, slot: int = 0, page_size: int = PAGE_BITS) -> MoveResult:
        """Move a page, again when the hold timer ended a try."""
        mode = self.mode()
        for _ in range(TRIES):
            result = await self.driver.move(page, to_host, mode, slot, page_size)
            if result.moved or result.error != regs.MoveError.HOLD_TIMEOUT:
                break
            self.retries += 1
        return result

    def ring(self) -> MoveRing:
        """A ring for the move queue, which gets all slots."""
        setup = RingSetup(RING_BASE, RING_BASE + (DESCRIPTOR_BYTES << RING_ORDER), RING_ORDER, self.ring_host, range(self.driver.slots))
        return MoveRing(self.driver, self.system.hosts[self.ring_host].memory, setup)

    async def move_all(self, moves: list[tuple[int, int]], progress: Callable[[int, int, str], None]) -> MoveRing:
        """Move pages by the move queue; a move that the hold timer ended is tried again. Returns the ring, which is idle."""
        ring = self.ring()
        waiting, hosts, tries, done = list(reversed(moves)), dict(moves), Counter[int](), 0

        def ended(page: int, result: MoveResult) -> None:
            nonlocal done
            tries[page] += 1
            if not result.moved and result.error == regs.MoveError.HOLD_TIMEOUT and tries[page] < TRIES:
                self.retries += 1
                waiting.append((page, hosts[page]))
            else:
                assert result.moved, f"page {page} did not move: {result.reason}"
                done += 1

        await ring.start()
        while done < len(moves):
            progress(done, len(moves) + 1, f"{len(waiting)} pages wait")
            while waiting and ring.can_put:
                ring.put(*waiting.pop(), self.mode(), ended)
            await ring.ring()
            await ring.wait()
        await ring.stop()
        return ring

    def traffic(self, pages: Iterable[int]) -> list[RandomTraffic]:
        """Fill these pages, and return for each function an agent that accesses them at random."""
        addresses = []
        for page in pages:
            self.fill(page)
            addresses.append(self.base + page * PAGE)
        return [RandomTraffic(function, addresses, self.system.values, self.config.number(name), gap=40)
                for name, function in self.system.functions.items()]

    async def end(self, agents: Sequence[Agent], tasks: Sequence["Task[None]"]) -> None:
        """Stop agents, and wait until nothing is on its way."""
        for agent in agents:
            agent.stop = True
        for task in tasks:
            await task
        await self.system.quiesce()

    def reads_of_engine(self, host: int, address: int) -> Callable[[Tlp], bool]:
        """Whether a TLP is a read of the page at ``address`` of ``host`` by the interposer itself, and no flush."""
        return lambda tlp: self.is_read_of_engine(host, tlp) and tlp.first_be != 0 and address <= tlp.address < address + PAGE

    def is_read_of_engine(self, host: int, tlp: Tlp) -> bool:
        """Whether a TLP at ``host`` is a read by the interposer itself, which is a flush when it touches no byte.

        What the other host's CPU loads through its aperture has our requester ID there too, and tags of its own.
        """
        port = self.system.hosts[host].number
        return tlp.kind is Kind.MRD and tlp.requester_id == self.system.config.identities[1 + port] and (tlp.tag & 0xFF) >> 6 != 2 | 1 - port

    def read_memory(self, host: int, address: int, length: int) -> bytes:
        """Memory of a host, as the checker reads it at the end."""
        return self.system.hosts[host].memory.read(address, length)

    async def finish(self) -> Verdict:
        """Let everything end, read what the interposer says of itself, and judge the run."""
        await self.system.quiesce()
        counters = {name: await self.driver.counter(offset) for name, offset in COUNTERS.items()}
        owners = await self.driver.owners(self.pages) if self.pages <= MOST_OWNERS_READ else None
        verdict = self.verdict(self.read_memory)
        self._check_registers(verdict, counters, owners)
        self.write(verdict, counters)
        self.system.check_clean()
        return verdict

    def verdict(self, memory: MemoryReader | None) -> Verdict:
        """What the checker and the bench say of the run so far."""
        verdict = check(self.log, self.check_config, memory)
        for violation, story in self._judgements:
            verdict.add(violation, story)
        return verdict

    def _check_registers(self, verdict: Verdict, counters: dict[str, int], owners: int | None) -> None:
        expected = 0
        for _, page, host in verdict.commits:
            expected = expected & ~(1 << page) | host << page
        if owners is not None and owners != expected:
            verdict.add("misdirected", f"the owner map says {owners:#x}, the commits {expected:#x}")
        sent = self.system.ports["device"].sent
        if (not self.fenced or self.config.hosts == 1) and counters["fence_cycles"]:
            verdict.add("invented", f"{counters['fence_cycles']} cycles of fences are counted without the fence policy, or where all is one path")
        if counters["fences"] > min(sent, counters["fence_cycles"]):
            verdict.add("invented", f"{counters['fences']} fences in {counters['fence_cycles']} cycles are counted, and the device sent {sent} TLPs")
        for name in ("unexpected", "flush_timeouts", "outstanding_timeouts"):
            if counters[name] and not self.system_has_injections:
                verdict.add("stuck" if "timeouts" in name else "invented", f"the counter {name} is {counters[name]}", counters[name])

    @property
    def system_has_injections(self) -> bool:
        """Whether a host was told to answer wrong or late: then late answers are nothing strange."""
        return any(host.root_complex.injections for host in self.system.hosts)

    def write(self, verdict: Verdict, counters: dict[str, int] | None = None) -> None:
        """Write the result."""
        result = verdict.as_result()
        if "pages" in result:
            pages = result["pages"]
            pages.update(retries=self.retries, requested=pages["requested"] - self.retries, aborted=pages["aborted"] - self.retries)
        fences = {"count": counters["fences"], "cycles": counters["fence_cycles"]} if counters else {}
        self.config.write(result | self.system.figures | {"fences": fences})
        cocotb.log.info(verdict.text())
        cocotb.log.info(f"checked {verdict.checked}, accesses {verdict.accesses}, counters {counters}")


COUNTERS = {name: register.offset for name, register in (
    ("moves_done", regs.MovesDone), ("moves_failed", regs.MovesFailed), ("fences", regs.Fences), ("fence_cycles", regs.FenceCycles),
    ("unsupported", regs.Unsupported), ("unexpected", regs.Unexpected), ("flush_timeouts", regs.FlushTimeouts),
    ("outstanding_timeouts", regs.OutstandingTimeouts), ("flushes_a", regs.FlushesA), ("flushes_b", regs.FlushesB),
    ("completion_waits", regs.CompletionWaits))}

#: Reading the owner map of a larger window takes longer than it tells.
MOST_OWNERS_READ = 4096


class Judged(Protocol):
    """What has a log that can be judged."""

    async def finish(self) -> Verdict:
        """Let everything end, judge the run, and write its result."""

    def verdict(self, memory: MemoryReader | None) -> Verdict:
        """What the checker and the bench say of the run so far."""

    def write(self, verdict: Verdict) -> None:
        """Write the result."""


async def judged(guest: Judged, scenario: Callable[[TaskManager], Awaitable[None]], least: dict[str, int]) -> None:
    """Run a scenario and judge it: also when it fails, because then the verdict says more than the exception.

    What the scenario lets run beside itself it starts with the task manager that it gets, so that a failure there ends it.
    """
    try:
        async with TaskManager() as tasks:
            await scenario(tasks)
        verdict = await guest.finish()
    except BaseException as failure:   # also when cocotb ends the test because a model or agent failed
        guest.write(guest.verdict(None))
        if isinstance(failure, BaseExceptionGroup) and len(failure.exceptions) == 1:
            raise failure.exceptions[0] from None   # what went wrong, not that something did
        raise
    assert verdict.ok, verdict.text()
    for name, count in least.items():
        assert verdict.checked[name] >= count, f"{name} must be at least {count}, and is {verdict.checked[name]}"
