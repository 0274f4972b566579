"""Everything at once, at random: devices of all kinds, CPUs on both hosts, slow and starved paths, moves to and fro, faults in them, harvests.

What takes part, and how, is decided by the seed (:mod:`pagehop_tb.benches.storm_plan`) and told in the log. Each device and driver checks what it
reads by itself; the checker judges every access.
"""

from collections import Counter
from collections.abc import Awaitable, Callable
from functools import partial
from random import Random
from typing import Any

import cocotb
from cocotb.task import Task
from cocotb.triggers import TaskManager

from pagehop_tb.benches.aborts import FAULTS, STATUSES
from pagehop_tb.benches.frame import BenchConfig
from pagehop_tb.benches.guest import BARS, MSI_BASE, PAGE, Guest, judged
from pagehop_tb.benches.guest_memory import GuestMemory
from pagehop_tb.benches.storm_plan import Plan, draw
from pagehop_tb.driver import interposer_registers as regs
from pagehop_tb.driver.api import MoveResult
from pagehop_tb.models.device import DmaError
from pagehop_tb.models.devices import (
    AtomicCounter,
    GuestCpu,
    HotPageWriter,
    NicDriver,
    NicReceiver,
    NicRing,
    NvmeController,
    NvmeDriver,
    NvmeQueues,
    PeerPair,
    RandomTraffic,
    StatusRegister,
)
from pagehop_tb.models.observer import Status
from pagehop_tb.models.root_complex import Injection
from pagehop_tb.pins import Starvation
from pagehop_tb.protocol import Kind, Tlp

WINDOW_PAGES = 64
NVME_VECTOR, NIC_VECTOR = MSI_BASE + 0x10, MSI_BASE + 0x20
FLUSH_STATUSES = (Status.UNSUPPORTED_REQUEST, Status.COMPLETER_ABORT, Status.TIMEOUT)
#: The slower the hosts, the fewer moves fit into the same time.
LOOSE_SHARE = 4


class ErrorReader:
    """Reads lines of a page of its own, some of which a host answers with an error: each must reach the device as what it is (H14)."""

    def __init__(self, guest: Guest, address: int, random: Random) -> None:
        self.guest, self.address, self.random = guest, address, random
        self.function = guest.system.functions["third"]
        self.stop = False
        self.seen: Counter[str] = Counter()

    async def run(self) -> None:
        """Go on until :attr:`stop`."""
        while not self.stop:
            place = self.address + self.random.randrange(0, PAGE, 64)
            wanted = self.random.choice((Status.SUCCESS, Status.UNSUPPORTED_REQUEST, Status.COMPLETER_ABORT, Status.POISONED))
            planted = self._plant(place, wanted)
            try:
                await self.function.read(place, 64)
                found = Status.SUCCESS.name
            except DmaError as error:
                found = str(error).rpartition(" ")[2]
            for injection in planted:
                injection.done = True
            assert found == wanted.name, f"a read of {place:#x} that a host answered with {wanted.name} ended as {found}"
            self.seen[found] += 1
            await self.guest.system.fabric.wait(self.random.randint(1, 3000))

    def _plant(self, place: int, wanted: Status) -> list[Injection]:
        if wanted is Status.SUCCESS:
            return []
        injections = []
        for host in self.guest.system.hosts:
            # The read may reach either host, for the page may move meanwhile.
            there = self.guest.driver.place(0, host.number) + place - self.guest.base
            injections.append(Injection(partial(self._is_mine, there), wanted))
            host.root_complex.injections.append(injections[-1])
        return injections

    def _is_mine(self, there: int, tlp: Tlp) -> bool:
        return tlp.requester_id == self.function.config.requester_id and tlp.kind is Kind.MRD and tlp.address == there


class CpuTraffic:
    """Random loads and stores of one CPU in pages that the devices use too."""

    def __init__(self, guest: Guest, memory: GuestMemory, host: int, pages: list[int], random: Random) -> None:
        self.guest, self.memory, self.host, self.pages, self.random = guest, memory, host, pages, random
        self.stop = False
        self.count = 0

    async def run(self) -> None:
        """Go on until :attr:`stop`."""
        while not self.stop:
            size = self.random.choice((4, 8, 8, 64))
            offset = self.random.choice(self.pages) * PAGE + self.random.randrange(0, PAGE, size)
            if self.random.random() < 0.5:
                await self.memory.store(self.host, offset, self.guest.system.values.take(offset, size))
            else:
                await self.memory.load(self.host, offset, size)
            self.count += 1
            await self.guest.system.fabric.wait(self.random.choice((1, 50, 600)))


class Harvester:
    """Takes or looks at dirty bits now and then; the checker knows which must be set."""

    def __init__(self, guest: Guest, random: Random) -> None:
        self.guest, self.random = guest, random
        self.stop = False
        self.count = 0

    async def run(self) -> None:
        """Go on until :attr:`stop`."""
        while not self.stop:
            await self.guest.driver.harvest(0, WINDOW_PAGES, clear=self.random.random() < 0.8)
            self.count += 1
            await self.guest.system.fabric.wait(self.random.randint(1, 6000))


class Storm:
    """The agents of a plan and their pages. ``first`` stop first; ``last`` serve these until they are done."""

    def __init__(self, guest: Guest, config: BenchConfig, plan: Plan, pages: int) -> None:
        self.guest, self.config, self.plan = guest, config, plan
        self.random = config.random("storm")
        self.values, self.functions = guest.system.values, guest.system.functions
        self.memory = GuestMemory(guest)
        guest.driver.mappings = self.memory
        self.free = self.random.sample(range(WINDOW_PAGES), pages)
        self.used: list[int] = []
        self.first: list[Any] = []
        self.last: list[Any] = []
        self.outcomes: Counter[str] = Counter()
        self.asked = 0
        self._flush_lost_until = 0
        self.modes = config.random("modes")
        self.hunger = [Starvation(guest.system.ports[name], guest.system.fabric, config.number(f"starve {name}"), pause, length)
                       for name, (pause, length) in plan.starvation.items()]
        makers: dict[str, Callable[[], None]] = {
            "traffic": self._traffic, "nvme": self._nvme, "nic": self._nic, "counter": self._counter, "peers": self._peers, "status": self._status,
            "cpus": self._cpus, "errors": self._errors, "harvest": self._harvest, "hot": self._hot,
        }
        self.shared = self._pages(4)
        for name, maker in makers.items():
            if name in plan.agents:
                maker()

    def _pages(self, count: int) -> list[int]:
        """Pages that were not given away yet, with contents."""
        found, self.free = self.free[:count], self.free[count:]
        for page in found:
            self.guest.fill(page)
        self.used += found
        return found

    def _addresses(self, pages: list[int]) -> list[int]:
        return [self.plan.base + page * PAGE for page in pages]

    def _cpu(self, host: int, bar: str, vector: int | None) -> GuestCpu:
        return GuestCpu(self.guest.system.hosts[host].cpu, self.memory, BARS[bar][0], vector)

    def _traffic(self) -> None:
        pages = self._addresses(self.shared)
        for name in self.random.sample(sorted(self.functions), self.random.randint(1, 3)):
            relaxed, ordered = self.random.choice((0.0, 0.1, 0.5)), self.random.choice((0.0, 0.1, 0.5))
            self.first.append(RandomTraffic(self.functions[name], pages, self.values, self.config.number(f"traffic {name}"), relaxed=relaxed,
                                            id_ordered=ordered, gap=self.random.choice((60, 300, 1500)), depth=self.random.choice((1, 4, 8))))

    def _nvme(self) -> None:
        submission, completion, *buffers = (page * PAGE for page in self._pages(6))
        queues, seed = NvmeQueues(submission, completion, buffers, entries=self.random.choice((5, 16, 64))), self.config.number("nvme")
        self.guest.system.preset(0, self.plan.base + completion, bytes(PAGE))
        vector = None if self.plan.polls else NVME_VECTOR
        cpu = self._cpu(self.plan.cpu_hosts[0] if self.plan.polls else 0, "nvme", vector)
        self.first.append(NvmeDriver(cpu, queues, self.plan.base, self.values, seed))
        self.last.append(NvmeController(self.functions["nvme"], queues, self.plan.base, self.values, seed + 1, vector))

    def _nic(self) -> None:
        ring, *buffers = (page * PAGE for page in self._pages(4))
        rings = NicRing(ring, buffers, entries=self.random.choice((6, 16, 256)))
        vector = None if self.plan.polls else NIC_VECTOR
        cpu = self._cpu(self.plan.cpu_hosts[1] if self.plan.polls else 0, "nic", vector)
        self.first.append(NicReceiver(self.functions["nic"], rings, self.plan.base, self.values, self.config.number("nic"), vector,
                                      coalesce=self.random.choice((1, 4)), gap=self.random.choice((100, 1500))))
        self.last.append(NicDriver(cpu, rings, self.plan.base, self.values))

    def _counter(self) -> None:
        address, = self._addresses(self._pages(1))
        function = self.functions[self.random.choice(sorted(self.functions))]
        self.first.append(AtomicCounter(function, address + 0x100, gap=self.random.choice((0, 200))))
        self.guest.system.preset(0, address + 0x100, bytes(8))

    def _peers(self) -> None:
        pairs = [(one, other) for one in self.functions.values() for other in self.functions.values()
                 if one is not other and one.config.traffic_class == other.config.traffic_class]
        if pairs:
            pair = self.random.choice(pairs)
            self.first.append(PeerPair(*pair, self._addresses(self._pages(2)), self.values, self.config.number("peers")))

    def _status(self) -> None:
        offset = self._pages(1)[0] * PAGE
        cpu = self._cpu(self.random.randrange(2), "third", None)
        self.first.append(StatusRegister(self.functions["third"], cpu, offset, self.plan.base, self.values))

    def _cpus(self) -> None:
        self.first += [CpuTraffic(self.guest, self.memory, host, self.shared, self.config.random(f"cpu {host}")) for host in (0, 1)]

    def _errors(self) -> None:
        self.first.append(ErrorReader(self.guest, self._addresses(self._pages(1))[0], self.config.random("errors")))

    def _harvest(self) -> None:
        self.first.append(Harvester(self.guest, self.config.random("harvest")))

    def _hot(self) -> None:
        function = self.functions[self.random.choice(sorted(self.functions))]
        self.first.append(HotPageWriter(function, self._addresses(self._pages(1))[0], self.values, self.config.number("hot")))

    # Moves

    async def moves(self, count: int, cycles: int) -> None:
        """Move pages to and fro, until ``count`` moves were asked for or ``cycles`` have passed."""
        begin = self.guest.system.cycle
        for done in range(count):
            if self.guest.system.cycle - begin > cycles:
                break
            self.config.progress(done, count, f"move {done}")
            page = self.random.choice(self.used)
            fault = self.random.choice((*FAULTS, "flush")) if self.random.random() < self.plan.fault_share else ""
            result = await self._move(page, 1 - self.memory.hosts[page], fault)
            self.outcomes[f"{fault or 'none'}: {result.reason}"] += 1
            await self.guest.system.fabric.wait(self.random.choice((1, 1, 300, 3000)))

    async def _move(self, page: int, to_host: int, fault: str) -> MoveResult:
        driver, began = self.guest.driver, self.guest.system.cycle
        injection = self._inject(fault, page, to_host)
        if fault == "hold_timer":
            await self._limit(self.random.randint(1, 900))
        if fault == "host":
            self._abort_after(self.random.randint(1, 2500))
        result = await driver.move(page, to_host, self.modes.choice((regs.MoveMode.HOLD, regs.MoveMode.MERGE)))
        self.asked += 1
        if fault == "hold_timer":
            await self._limit(self.plan.hold_limit)
        met = injection is not None and injection.done
        if injection is not None:
            injection.done = True
        if met and fault not in ("late", "flush"):
            assert not result.moved, f"the move of page {page} succeeded in spite of the fault {fault}"
        allowed = FAULTS.get(fault, set()) | {regs.MoveError.HOLD_TIMEOUT}
        if fault == "flush" and met:
            # The tracker gives the flush up only when its time is over, and that may be in a later move.
            self._flush_lost_until = self.guest.system.cycle + 2 * self.plan.completion_limit
        if not self.plan.tight or began < self._flush_lost_until:
            allowed |= {regs.MoveError.COPY_TIMEOUT}
        assert result.moved or result.error in allowed, f"fault {fault or 'none'} was reported as {result.reason}"
        return result

    def _abort_after(self, cycles: int) -> None:
        """Abort this move, unless it has ended by then."""
        mine = self.asked

        def abort() -> None:
            if self.asked == mine:
                cocotb.start_soon(self.guest.driver.abort())

        self.guest.system.fabric.after(cycles, abort)

    def _inject(self, fault: str, page: int, to_host: int) -> Injection | None:
        if fault not in STATUSES and fault != "flush":
            return None
        guest, random = self.guest, self.random
        host = random.randrange(2) if fault == "flush" else 1 - to_host
        if fault == "flush":
            injection = Injection(lambda tlp: guest.is_read_of_engine(host, tlp) and not tlp.first_be,
                                  random.choice(FLUSH_STATUSES), nth=random.randrange(4))
        else:
            late = random.randint(2000, 8000) if fault == "late" else None
            is_copy_read = guest.reads_of_engine(host, guest.driver.place(page, host))
            injection = Injection(is_copy_read, STATUSES[fault], nth=random.randrange(16), late=late)
        guest.system.hosts[host].root_complex.injections.append(injection)
        return injection

    async def _limit(self, cycles: int) -> None:
        limits = regs.MoveLimits
        value = limits.HOLD.of(cycles) | limits.COMPLETION.of(self.plan.completion_limit)
        await self.guest.driver.registers.write(limits.offset, value)

    # The run

    async def run(self, manager: TaskManager, moves: int, cycles: int) -> None:
        """Start, move, and let everything end by itself."""
        await self.guest.start()
        for hunger in self.hunger:
            hunger.start()
        tasks: list[list[Task[Any]]] = [[manager.start_soon(_run(agent.run)) for agent in agents] for agents in (self.first, self.last)]
        await self.moves(moves, cycles)
        for agents, running in zip((self.first, self.last), tasks, strict=True):
            for agent in agents:
                agent.stop = True
            for task in running:
                await task
        for hunger in self.hunger:
            hunger.stop()
        await self.guest.system.quiesce()
        cocotb.log.info(f"outcomes: {dict(self.outcomes)}; {self.done()}; starved {sum(hunger.episodes for hunger in self.hunger)} times")

    def done(self) -> str:
        """What each agent did."""
        counts = []
        for agent in (*self.first, *self.last):
            names = [name for name in ("count", "rounds", "completed", "received", "done", "seen") if hasattr(agent, name)]
            counts.append(f"{type(agent).__name__} {getattr(agent, names[0])}")
        return ", ".join(counts)


async def _run(function: Callable[[], Awaitable[None]]) -> None:
    await function()


@cocotb.test(timeout_time=20, timeout_unit="ms")
async def storm(dut: Any) -> None:
    """One seed, one storm."""
    config = BenchConfig("storm")
    moves, cycles, pages = config.get("moves", 40), config.get("cycles", 150_000), config.get("pages", 32)
    plan = draw(config.random("plan"))
    cocotb.log.info(f"plan: {plan.told()}")
    config.parameters |= {"fence": plan.fence, "hold_limit": plan.hold_limit, "completion_limit": plan.completion_limit, "pauses": plan.pauses}
    guest = Guest(dut, config, plan.base, WINDOW_PAGES, ("nvme", "nic", "third"), dirty="harvest" in plan.agents,
                  host_b_offset=plan.host_b_offset, machine=plan.machine)
    scenario = Storm(guest, config, plan, pages)
    config.refuse_unknown()

    async def run(manager: TaskManager) -> None:
        await scenario.run(manager, moves if plan.tight else max(2, moves // LOOSE_SHARE), cycles)
        config.progress(moves, moves, "checking")

    await judged(guest, run, {"final_bytes": 4 * PAGE})
