"""The guest of a recorded trace does its DMA in a loop through the IOMMU while all its pages move to other memory by commands of the IOMMU alone.

The device's addresses are the guest's; the second stage of the tables leads them to Host A's memory, and after the moves to Host B's, which stands
behind an aperture, or in the same host. Judged by the same checker as all mechanisms, as one host with two memories: a page belongs to the second
from the moment when its entry in memory says so.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from functools import partial
from random import Random
from typing import Any

import cocotb
from cocotb.task import Task
from cocotb.triggers import TaskManager, Trigger

from pagehop_tb.benches.frame import BenchConfig
from pagehop_tb.benches.guest import BARS, HOST_B_OFFSET, LARGEST_PAYLOAD, MSI_BASE, MSI_SIZE, PAGE, judged
from pagehop_tb.benches.trace import read_accesses, touched_pages
from pagehop_tb.checker.check import MemoryReader, check
from pagehop_tb.checker.log import EventLog, Kind
from pagehop_tb.checker.space import CheckConfig, Range
from pagehop_tb.checker.verdict import Verdict
from pagehop_tb.driver.iommu import BATCH, Domain, IommuDriver, IommuSetup, Waits
from pagehop_tb.models.delay import Delay
from pagehop_tb.models.device import DeviceConfig
from pagehop_tb.models.devices import TraceReplay
from pagehop_tb.models.home import Home
from pagehop_tb.models.iommu import AddressSpace, DeviceContext, Directory, Mode, RiscvEntry, TableMemory, pages_from
from pagehop_tb.models.root_complex import RootComplexConfig
from pagehop_tb.models.system import Machine, SystemConfig
from pagehop_tb.pins import Fabric
from pagehop_tb.pins.access import number_reader
from pagehop_tb.pins.registers import RegisterAgent
from pagehop_tb.pins.tilelink import HomeAgent

#: Where things are in Host A: tables, commands, the word that fences store (and the page of flush reads), records.
TABLES, COMMANDS, FENCES, RECORDS = 0x50_0000_0000, 0x51_0000_0000, 0x51_0001_0000, 0x51_0002_0000
GSCID, OWN_ID = 7, 0x0008
FUNCTIONS = {"nvme": 0x0108, "nic": 0x0110}
#: Cycles after which a device gives up a read: a move that holds may take long, and the shortest limits that PCIe allows are shorter.
ANSWER_LIMIT = 250_000
#: Sources of the core's port before that of the line's owner, and of the copies, as the design has them with 8 reads of a copy at a time.
OWNER, COPIES = 8, 16


class _Registers:
    """Registers of the IOMMU as a driver reaches them."""

    def __init__(self, agent: RegisterAgent) -> None:
        self._agent = agent

    async def read(self, offset: int, size: int = 8) -> int:
        return await self._agent.read(offset, size)

    async def write(self, offset: int, value: int, size: int = 8) -> None:
        self._agent.write(offset, value, size)


class _Interrupts:
    """Calls ``notified`` when a wire of the IOMMU rises."""

    def __init__(self, dut: Any, fabric: Fabric, notified: Callable[[], None]) -> None:
        self.active, self._wires, self._read, self._notified = False, dut.wires, number_reader(dut.wires), notified
        fabric.add(self, lambda: "1" if self._read() else "0")

    def edge(self) -> bool:
        """A wire is 1 at this edge, or was at the last one."""
        level = self._read() != 0
        if level and not self.active:
            self._notified()
        self.active = level
        return False

    def wakes(self) -> list[Trigger]:
        """A wire rises or falls."""
        return [self._wires.value_change]


class Guest:
    """The machine around the IOMMU ``dut``, with a guest whose ``touched`` pages are at Host A.

    Parameters: ``pauses``, ``write_delay``, ``read_delay`` as in every scenario; ``aperture_delay``, what is added on the way to the second memory;
    ``latency``, most cycles until the home of the tables answers; ``probes``, most cycles between two looks of a CPU at the tables (0: none);
    ``tries``, attempts of an optimistic move before it holds (0: it holds at once); ``waits``, how its end is learnt (:class:`Waits`).
    """

    def __init__(self, dut: Any, config: BenchConfig, touched: list[int]) -> None:
        self.config, self.log, self.random, self.touched = config, self._log(), config.random("software"), touched
        write_delay, read_delay = config.get("write_delay", [50, 800]), config.get("read_delay", [100, 600])
        far, pauses = config.get("aperture_delay", [200, 600]), config.get("pauses", 0.1)
        self.probes, latency = config.get("probes", 400), config.get("latency", 40)
        second = (HOST_B_OFFSET, config.covered_pages * PAGE)
        host = RootComplexConfig(posted=Delay(*write_delay), read=Delay(*read_delay), msi=(MSI_BASE, MSI_SIZE), far=(*second, Delay(*far)))
        self.machine = self._machine(dut, SystemConfig(
            seed=config.seed, data_bytes=config.data_bytes, hosts=(host,), pauses=pauses, shuffle=0.2 if pauses else 0.0,
            mps=(LARGEST_PAYLOAD,) * 3,
            functions=tuple(DeviceConfig(name, number, bar=BARS[name], timeout=ANSWER_LIMIT) for name, number in FUNCTIONS.items())))
        dut.own_id.value = OWN_ID
        machine, self.memory = self.machine, self.machine.hosts[0].memory
        self.home = self._home(config.random("home"), OWNER, 2, lambda random: int(random.random() * latency))
        copies = self._home(config.random("copies"), COPIES, 0, Delay(*far).draw)
        self.agent = self._serve(dut)
        HomeAgent(dut, "copy_port", machine.fabric, copies, coherent=False, after=partial(self._copied, copies))
        self._tables(touched)
        self.driver = IommuDriver(
            _Registers(RegisterAgent(dut, "bus", machine.fabric)), self.memory, machine.fabric.wait, lambda: machine.cycle, self.log, self._push,
            Domain(FUNCTIONS["nvme"], GSCID, lambda page, host: page + host * HOST_B_OFFSET // PAGE, self.entries.__getitem__))
        self.driver.optimistic, self.waits = config.get("tries", 0), Waits(config.get("waits", "fence"))
        _Interrupts(dut, machine.fabric, self.driver.notified)
        for page in touched:
            machine.preset(0, page * PAGE, machine.values.take(page * PAGE, PAGE))

    def _log(self) -> EventLog:
        return EventLog()

    def _machine(self, dut: Any, config: SystemConfig) -> Machine:
        return Machine(dut, config, self.log, ["host"])

    def _serve(self, dut: Any) -> HomeAgent:
        """What answers the IOMMU's coherent port."""
        return HomeAgent(dut, "port", self.machine.fabric, self.home, after=self._edited)

    def _home(self, random: Random, cacher: int, cpus: int, latency: Any) -> Home:
        home = Home(random, cacher=cacher, cpus=cpus, patience=None, latency=lambda: latency(random))
        home.memory = self.memory
        return home

    def _tables(self, touched: list[int]) -> None:
        """The second stage of all functions, with A and D by hardware; interrupts go where they went."""
        memory, allocate = TableMemory(self.memory), pages_from(TABLES)
        self.directory, space = Directory(memory, allocate), self._space(memory, allocate, touched)
        for page in touched:
            self._map(space, page)
        space.map(MSI_BASE, MSI_BASE)
        self.entries = {page: space.place(page * PAGE) for page in touched}
        self.pages = {entry: page for page, entry in self.entries.items()}
        context = DeviceContext(second_mode=Mode.SV39, second_ppn=space.ppn, gscid=GSCID, gade=1)
        for number in FUNCTIONS.values():
            self.directory.device(number, context)

    def _map(self, space: AddressSpace, page: int) -> None:
        space.map(page * PAGE, page * PAGE, accessed=0, dirty=0)

    def _space(self, memory: TableMemory, allocate: Callable[[int], int], touched: list[int]) -> AddressSpace:
        """The second stage, empty."""
        return AddressSpace(memory, allocate, Mode.SV39, second=True)

    # What is told to the checker beside what the machine tells.

    def _edited(self) -> None:
        """The IOMMU gave lines back: entries that lead elsewhere now are the commits."""
        writes, self.home.writes = self.home.writes, []
        for write in writes:
            page = self.pages.get(write.address) if write.who == "line" else None
            old, new = (RiscvEntry.unpack(word.to_bytes(8, "little")).ppn * PAGE for word in (write.old, write.new))
            if page is not None and old != new:
                assert new in (page * PAGE, page * PAGE + HOST_B_OFFSET), f"the entry of page {page} leads to {new:#x}"
                self.log.commit(self.machine.cycle, page, int(new != page * PAGE))

    def _copied(self, copies: Home) -> None:
        writes, copies.writes = copies.writes, []
        for write in writes:
            self.log.performed_write(self.machine.cycle, 0, write.address, write.new.to_bytes(8, "little"), None, OWN_ID, "link")

    # What software does.

    async def start(self) -> None:
        """Leave reset and program what there is."""
        await self.machine.start()
        await self.set_up()

    async def set_up(self) -> None:
        """Program the IOMMU."""
        await self.driver.setup(IommuSetup(int(self.directory.mode), self.directory.ppn, COMMANDS, FENCES, RECORDS, FENCES, waits=self.waits))

    async def watch(self) -> None:
        """A CPU looks at entries of the tables at random, for ever: each look takes the line from whoever has it."""
        while self.probes:
            await self.machine.fabric.wait(self.random.randint(1, self.probes))
            access = self.home.access(0, self.random.choice(list(self.pages)))
            self.agent.wake()
            while access.done is None:
                await self.machine.fabric.wait(5)

    async def _push(self) -> None:
        """Read a register of each function."""
        for base, _ in (BARS[name] for name in FUNCTIONS):
            status, _ = await self.machine.hosts[0].cpu.mmio_read(base, 4)
            assert not status, f"the register at {base:#x} was answered with status {status}"

    async def move(self, pages: list[int], to_host: int) -> None:
        """Move pages whose entries are in one line."""
        for page, result in zip(pages, await self.driver.move_line(pages, to_host), strict=True):
            assert result.moved, f"page {page} did not move: {result.reason}"
            assert await self.driver.owner(page) == to_host, f"page {page} was moved, and its entry does not say so"

    async def go_on(self, manager: TaskManager, agents: Sequence[Any], tasks: Sequence[Task[None]], passes: int) -> None:
        """Let agents come to rest when all pages have moved, and then go on for so many passes, without pauses."""
        for agent in agents:
            agent.stop = True
        for task in tasks:
            await task
        await self.machine.quiesce()
        for agent in agents:
            agent.stop, agent.gap = False, 0
        for task in [manager.start_soon(agent.run(passes)) for agent in agents]:
            await task

    # The end.

    async def finish(self) -> Verdict:
        """Let everything end and judge the run."""
        await self.machine.quiesce()
        verdict = self.verdict(lambda _, address, length: self.memory.read(address, length))
        self._check_marks(verdict)
        self.write(verdict)
        self.machine.check_clean()
        return verdict

    def _check_marks(self, verdict: Verdict) -> None:
        """A and D in the entries tell of all that devices did, also before a move (H34)."""
        used = {kind: {event[3] // PAGE for event in self.log.events if event[0] == kind} for kind in (Kind.DEVICE_READ, Kind.DEVICE_WRITE)}
        for page, place in self.entries.items():
            entry = RiscvEntry.unpack(self.memory.read(place, 8))
            if page in used[Kind.DEVICE_WRITE] and not entry.dirty:
                verdict.add("lost", f"at the end page {page} was written, and D of its entry is 0")
            elif page in used[Kind.DEVICE_READ] and not entry.accessed:
                verdict.add("lost", f"at the end page {page} was read, and A of its entry is 0")

    def verdict(self, memory: MemoryReader | None) -> Verdict:
        """What the checker says of the run so far."""
        return check(self.log, self._checks(), memory)

    def _checks(self) -> CheckConfig:
        return CheckConfig(
            window=Range(0, self.config.covered_pages * PAGE), host_b_offset=HOST_B_OFFSET, engine_ids=frozenset((OWN_ID,)),
            interrupts=(Range(MSI_BASE, MSI_SIZE),), global_order=True, hosts=1)

    def write(self, verdict: Verdict) -> None:
        """Write the result."""
        self.config.write(verdict.as_result() | self.machine.figures)
        cocotb.log.info(verdict.text())
        cocotb.log.info(f"checked {verdict.checked}, accesses {verdict.accesses}, home {self.home.counts}")


@cocotb.test(timeout_time=100, timeout_unit="ms")
async def iommu_migration(dut: Any) -> None:
    """Every page of the trace moves once, up to ``batch`` in one go; nothing is lost, stale or out of order."""
    config = BenchConfig("iommu_migration")
    assert config.trace is not None, "iommu_migration needs a trace"
    accesses = read_accesses(config.trace)
    most, passes_after, gap, batch = (config.get(name, value) for name, value in (("pages", 0), ("passes_after", 1), ("gap", 100), ("batch", BATCH)))
    touched = touched_pages(accesses, config.covered_pages)
    guest = Guest(dut, config, touched)
    config.refuse_unknown()
    machine = guest.machine
    replays = [TraceReplay(function, [access for access in accesses if access.device == name], machine.values, gap=gap)
               for name, function in machine.functions.items()]
    written = Counter(access.address // PAGE for access in accesses if access.op == "W")
    moving = sorted(sorted(touched, key=lambda page: -written[page])[:most or None])
    lines: dict[int, list[int]] = defaultdict(list)
    for page in moving:
        lines[page // BATCH].append(page)

    async def scenario(manager: TaskManager) -> None:
        await guest.start()
        watching = manager.start_soon(guest.watch())
        tasks: list[Task[None]] = [manager.start_soon(replay.run()) for replay in replays]
        done = 0
        for pages in lines.values():
            while pages:
                config.progress(done, len(moving) + 1, f"page {pages[0]}")
                some = [pages.pop(0) for _ in range(min(len(pages), guest.random.randint(1, batch)))]
                await guest.move(some, 1)
                done += len(some)
        watching.cancel()
        config.progress(len(moving), len(moving) + 1, "DMA at its new place")
        await guest.go_on(manager, replays, tasks, passes_after)
        config.progress(len(moving) + 1, len(moving) + 1, "checking")

    await judged(guest, scenario, {"read_bytes": 1, "final_bytes": len(touched) * PAGE})
