"""The guest of a recorded trace does its DMA while its pages move through the windows of the on-the-side device, one after the other.

As in :mod:`pagehop_tb.benches.iommu_migration`, whose machine this is with a second port at Host A (topology 11 or 12), the device's addresses are
the guest's and the second stage of the IOMMU leads them to one of two memories, the second behind an aperture. No command of the IOMMU moves a page:
software makes entries lead to a window and past it, and copies. Judged by the same checker: a page belongs to the second memory from the cycle in
which its window leads there.
"""

from collections import Counter, deque
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from itertools import product
from typing import Any

import cocotb
from cocotb.task import Task
from cocotb.triggers import TaskManager, Trigger

from pagehop_tb.benches.frame import BenchConfig
from pagehop_tb.benches.guest import HOST_B_OFFSET, PAGE, judged
from pagehop_tb.benches.iommu_migration import FUNCTIONS, GSCID, OWN_ID
from pagehop_tb.benches.iommu_migration import Guest as IommuGuest
from pagehop_tb.benches.trace import read_accesses, touched_pages
from pagehop_tb.checker.log import EventLog
from pagehop_tb.checker.space import CheckConfig
from pagehop_tb.checker.verdict import Verdict
from pagehop_tb.driver.api import MoveResult
from pagehop_tb.driver.ots import OtsDriver, OtsSetup
from pagehop_tb.driver.ots_leaves import LeafTables
from pagehop_tb.driver.ots_registers import WindowOp
from pagehop_tb.models.cpu import CpuRegisters
from pagehop_tb.models.delay import Delay
from pagehop_tb.models.devices import HotPageWriter, RandomTraffic, TraceReplay
from pagehop_tb.models.iommu import AddressSpace, RiscvEntry, TableMemory, pages_from
from pagehop_tb.models.observer import Status
from pagehop_tb.models.ots_system import OtsConfig, OtsMachine
from pagehop_tb.models.root_complex import RootComplexConfig
from pagehop_tb.models.system import SystemConfig
from pagehop_tb.pins import Fabric, TlpPortAgent
from pagehop_tb.pins.access import number_reader, text_reader
from pagehop_tb.pins.tilelink import HomeAgent
from pagehop_tb.protocol import Kind, Tlp

REGISTERS, WINDOWS, LEAVES = 0xF100_0000, 0x60_0000_0000, 0x61_0000_0000
#: Bytes of a large page, which one leaf maps.
LARGE = 512 * PAGE
OTS_ID = 0x0200


class _Log(EventLog):
    """A log that calls the windows by the pages that they stand for, on the link between IOMMU and host. No window has an address twice in a run."""

    def __init__(self) -> None:
        super().__init__()
        self._pages: dict[int, int] = {}

    def led(self, page: int, target: int) -> None:
        """The entry of ``page`` leads to this address."""
        self._pages[target // PAGE] = page

    def link(self, cycle: int, port: int, upstream: bool, kind: str, address: int, *more: Any) -> None:
        """As of any log."""
        if upstream and address >= WINDOWS:
            address = self._pages.get(address // PAGE, address // PAGE) * PAGE + address % PAGE
        super().link(cycle, port, upstream, kind, address, *more)


class _Commits:
    """Tells of each window that gets another target."""

    def __init__(self, dut: Any, fabric: Fabric, told: Callable[[int], None]) -> None:
        self.active, self._wire, self._page, self._told = False, dut.committed, number_reader(dut.committed_page), told
        fabric.add(self, text_reader(dut.committed))

    def edge(self) -> bool:
        """A window has got a target."""
        self._told(self._page())
        return True

    def wakes(self) -> list[Trigger]:
        """It is told of."""
        return [self._wire.value_change]


class _Own:
    """Gives what the device writes of itself another requester ID on its way to memory: all else that it writes came from a device to a window, in
    order."""

    def __init__(self, port: TlpPortAgent) -> None:
        self._came: deque[tuple[int, bytes]] = deque()
        self._sent, self._taken, port.on_sent, port.on_tlp = port.on_sent, port.on_tlp, self._on_sent, self._on_tlp

    def _on_sent(self, tlp: Tlp) -> None:
        if tlp.kind is Kind.MWR and WINDOWS <= tlp.address < LEAVES and tlp.requester_id in FUNCTIONS.values():
            self._came.append((tlp.address % PAGE, tlp.data))
        if self._sent is not None:
            self._sent(tlp)

    def _on_tlp(self, tlp: Tlp) -> None:
        if tlp.kind is Kind.MWR:
            if self._came and self._came[0] == (tlp.address % PAGE, tlp.data):
                self._came.popleft()
            else:
                tlp.requester_id = OWN_ID
        if self._taken is not None:
            self._taken(tlp)


class _Copier:
    """A CPU that copies lines from one memory to the other, several at a time."""

    def __init__(self, guest: "Guest", delay: Delay) -> None:
        self.guest, self.delay, self.random = guest, delay, guest.config.random("copier")

    async def copy(self, page: int, to_host: int, lines: int) -> None:
        """Read each line at some time, and write it at a later one."""
        guest, fabric = self.guest, self.guest.machine.fabric
        memory, source, target, last = guest.memory, guest.place(page, 1 - to_host), guest.place(page, to_host), fabric.cycle
        for line in range(PAGE // 64):
            if lines >> line & 1:
                await fabric.wait(self.random.randint(1, 6))
                data = memory.read(source + 64 * line, 64)
                last = max(last + 1, fabric.cycle + self.delay.draw(self.random))
                fabric.at(last, partial(self._write, target + 64 * line, data))
        await fabric.wait(max(last - fabric.cycle, 0) + 2)

    def _write(self, address: int, data: bytes) -> None:
        self.guest.memory.write(address, data)
        self.guest.log.performed_write(self.guest.machine.cycle, 0, address, data, None, OWN_ID, "link")


class _Late:
    """Somebody who keeps addresses of windows that were closed, and uses them at any time (H27): reads get UR, and of writes nothing comes.
    ``most`` cycles between two accesses; with 0 there are none."""

    def __init__(self, guest: "Guest", most: int) -> None:
        self.guest, self.most, self.random, self.stop = guest, most, guest.config.random("late"), False
        self._closed: list[int] = []

    async def closed(self) -> None:
        """The window that entries led to last is closed: it has no page, not at its next address either."""
        if self.most:
            self._closed.append(self.guest.leaves.window)
            await self._use(self.guest.leaves.window + (PAGE << ((self.guest.config.windows - 1).bit_length() or 1)))

    async def run(self) -> None:
        """Go on until ``stop``."""
        while self.most and not self.stop:
            await self.guest.machine.fabric.wait(self.random.randint(1, self.most))
            if self._closed:
                await self._use(self.random.choice(self._closed))

    async def _use(self, window: int) -> None:
        cpu, address = self.guest.machine.hosts[0].cpu, window + self.random.randrange(0, PAGE, 8)
        await cpu.mmio_write(address, self.random.randbytes(8))
        status, _ = await cpu.mmio_read(address, 8)
        assert status == Status.UNSUPPORTED_REQUEST, f"{address:#x} is no window's address any more, and a read ended with {Status(status).name}"


class _Leaves(LeafTables):
    """Tells the log where entries lead. ``window``: the window that one led to last."""

    window = 0

    def __init__(self, guest: "Guest", *, holds: bool) -> None:
        leaves = CpuRegisters(guest.machine.hosts[0].cpu, LEAVES)
        super().__init__(guest.registers, leaves, guest.iommu, GSCID, lambda page: (guest.entries[page] - LEAVES) // 8, holds=holds)
        self._log = guest.log

    async def write(self, page: int, target: int) -> None:
        """As of any."""
        self._log.led(page, target)
        if target >= WINDOWS:
            self.window = target
        await super().write(page, target)


class _Spent:
    """Cycles that software waits for each kind of thing that it waits for; what it does meanwhile counts for that too."""

    def __init__(self, now: Callable[[], int]) -> None:
        self.cycles, self._now, self._waits = Counter[str](), now, False

    def watch(self, owner: Any, method: str, kind: str) -> None:
        """From now on ``method`` of ``owner`` is waited for."""
        awaited = getattr(owner, method)

        async def timed(*arguments: Any, **named: Any) -> Any:
            if self._waits:
                return await awaited(*arguments, **named)
            self._waits, begun = True, self._now()
            try:
                return await awaited(*arguments, **named)
            finally:
                self._waits = False
                self.cycles[kind] += self._now() - begun

        setattr(owner, method, timed)


class _Driver(OtsDriver):
    """What keeps order as a page is led to its window: walks wait at its ``leaf``, what comes waits at the ``window``, or "nothing" does."""

    def __init__(self, waits: str, leaves: _Leaves, *more: Any) -> None:
        self._waits, self._leaves, registers = waits, leaves, leaves.registers
        super().__init__(registers, leaves, *more)

    async def _enter(self, window: int, page: int, old: int) -> int:
        holds, self._leaves.holds = self._leaves.holds, self._waits == "leaf"
        try:
            return await super()._enter(window, page, old)
        finally:
            self._leaves.holds = holds

    async def _must(self, window: int, op: WindowOp, target: int | None = None) -> None:
        await super()._must(window, op, target)
        if op is WindowOp.TAKE and self._waits == "nothing":
            await super()._must(window, WindowOp.OPEN)


class Guest(IommuGuest):
    """The machine around IOMMU and on-the-side device ``dut``. Parameters beside those of the other: ``topology``; ``aside_delay``, cycles until
    a write that comes from the device is visible (``write_delay``); ``ahead``, share of what goes from port to port of the host that does not
    wait until what came to the host before is visible; ``entry``, where devices wait while a page is led to its window: at its "leaf", at the
    "window", or at "nothing"; ``walk_bytes`` of each read of the walker; ``holds``, whether walks wait while a page leaves its window;
    ``windows``, ``rounds``, ``snapshot``, ``itself``, ``hold_limit`` (see :class:`OtsSetup`); ``copy_delay`` of each line."""

    log: _Log

    def __init__(self, dut: Any, config: BenchConfig, touched: list[int], large: frozenset[int] = frozenset()) -> None:
        self.large = large
        super().__init__(dut, config, touched)
        self.iommu, machine = self.driver, self.machine
        for name, value in (("ots_id", OTS_ID), ("register_bar", REGISTERS), ("window_bar", WINDOWS), ("leaf_bar", LEAVES)):
            getattr(dut, name).value = value
        _Commits(dut, machine.fabric, self._committed)
        _Own(machine.ports["ots"])
        self.place = lambda page, host: page * PAGE + host * HOST_B_OFFSET
        copier = _Copier(self, Delay(*config.get("copy_delay", [20, 300])))
        self.registers = CpuRegisters(machine.hosts[0].cpu, REGISTERS)
        self.leaves = _Leaves(self, holds=config.get("holds", True))
        get = config.get
        self.ots = _Driver(
            get("entry", "leaf"), self.leaves, copier, machine.fabric.wait, lambda: machine.cycle, self.log, self.place, self._push)
        self.ots_setup = OtsSetup(
            WINDOWS, get("windows", 1), get("rounds", 4), get("snapshot", True), get("itself", False), get("hold_limit", 12_500))
        self.spent = _Spent(lambda: machine.cycle)
        for owner, method, kind in (
                (copier, "copy", "copies"), (self.ots, "_copy_itself", "copies"), (self.leaves, "forget", "drains"), (self.ots, "flush", "flushes"),
                (self.ots, "push", "pushes"), (self.registers, "read", "registers"), (self.leaves, "write", "registers")):
            self.spent.watch(owner, method, kind)

    def _machine(self, dut: Any, config: SystemConfig) -> OtsMachine:
        write_delay, read_delay = self.config.get("write_delay", [50, 800]), self.config.get("read_delay", [100, 600])
        host, write_delay = config.hosts[0], self.config.get("aside_delay", write_delay)
        ahead = self.config.get("ahead", 0.5)
        port = RootComplexConfig(posted=Delay(*write_delay), read=Delay(*read_delay), msi=host.msi, far=host.far, peer_ahead=ahead)
        config = replace(config, hosts=(replace(host, peer_ahead=ahead),))
        windows = (self.config.windows - 1).bit_length() or 1
        bars = ((REGISTERS, 1 << 16), (WINDOWS, 1 << 20 + windows), (LEAVES, 8 * self.config.leaves))
        place = OtsConfig(bars, self.config.get("topology", 11), OTS_ID, port, walk_bytes=self.config.get("walk_bytes", 64))
        return OtsMachine(dut, config, place, self.log)

    def _serve(self, dut: Any) -> HomeAgent:
        assert isinstance(self.machine, OtsMachine)
        return self.machine.serve_leaves("port", self.home, LEAVES, 8 * self.config.leaves, after=self._edited)

    def _tables(self, touched: list[int]) -> None:
        """As of the other, with the last level in the device, and the one above when there are large pages: its image stands in memory at the same
        addresses until the start."""
        self._leaf_pages = pages_from(LEAVES)
        super()._tables(touched)

    def is_large(self, page: int) -> bool:
        """It is in a large page."""
        return page * PAGE // LARGE in self.large

    def _map(self, space: AddressSpace, page: int) -> None:
        if self.is_large(page):
            base = page * PAGE // LARGE * LARGE
            space.map(base, base, LARGE, accessed=0, dirty=0)
        else:
            super()._map(space, page)

    def _space(self, memory: TableMemory, allocate: Callable[[int], int], touched: list[int]) -> AddressSpace:
        space = super()._space(memory, allocate, touched)
        for page, level in product(touched, (2, 1) if self.large else (1,)):
            place = space.place(page * PAGE, level)
            if not space.read(place).valid and not (level == 1 and self.is_large(page)):
                table = self._leaf_pages(1)
                assert table + PAGE <= LEAVES + 8 * self.config.leaves, f"the device has {self.config.leaves} leaves, and the guest needs more"
                self.memory.write(table, bytes(PAGE))
                space.write(place, RiscvEntry.pointer(table // PAGE))
        return space

    def _check_marks(self, verdict: Verdict) -> None:
        """Entries in the device have no A and D of their own."""

    def _log(self) -> _Log:
        return _Log()

    def _checks(self) -> CheckConfig:
        return replace(super()._checks(), global_order=False, detours=frozenset((OTS_ID,)))

    def _edited(self) -> None:
        """Entries that change say nothing of where a page is."""
        self.home.writes.clear()

    def _committed(self, page: int) -> None:
        """A window leads to a page at the other place than before."""
        host = int(page * PAGE >= HOST_B_OFFSET)
        self.log.commit(self.machine.cycle, page - host * HOST_B_OFFSET // PAGE, host)

    def write_costs(self, moves: list[MoveResult]) -> None:
        """What a move took, what it waited for, and the longest time for which devices that asked for a page were kept waiting, whose limit is that
        of holds."""
        total = {"move": sum(move.total_cycles for move in moves)} | {f"move_waits_for_{kind}": cycles for kind, cycles in self.spent.cycles.items()}
        found: dict[str, tuple[float, int | None]] = {"hold": (max(move.hold_cycles for move in moves), self.ots_setup.hold)}
        found |= {name: (round(cycles / len(moves), 1), None) for name, cycles in total.items()}
        self.config.write_values({
            f"ots_{name}_cycles": {"value": value, "limit": limit, "unit": "cycles", "better": "lower"} for name, (value, limit) in found.items()})

    async def start(self) -> None:
        """Leave reset and program IOMMU and device."""
        await self.machine.start()
        for place in range(LEAVES, self._leaf_pages(1), 8):
            if any(entry := self.memory.read(place, 8)):
                await self.machine.hosts[0].cpu.mmio_write(place, entry)
        await self.set_up()
        await self.ots.setup(self.ots_setup)


@cocotb.test(timeout_time=100, timeout_unit="ms")
async def ots_migration(dut: Any) -> None:
    """Every page of the trace moves once; nothing is lost, stale or out of order. ``storm``: devices do not replay it: one accesses the pages
    that move at random (``mix`` and ``relaxed`` of :class:`RandomTraffic`), one writes to the first without end. ``late``: see :class:`_Late`."""
    config = BenchConfig("ots_migration")
    assert config.trace is not None, "ots_migration needs a trace"
    accesses = read_accesses(config.trace)
    most, passes_after, gap, storm, mix, relaxed = (config.get(name, value) for name, value in (
        ("pages", 0), ("passes_after", 1), ("gap", 100), ("storm", False), ("mix", [60, 34, 2, 4]), ("relaxed", 0.1)))
    touched = touched_pages(accesses, config.covered_pages)
    guest = Guest(dut, config, touched)
    late = _Late(guest, config.get("late", 0))
    config.refuse_unknown()
    machine = guest.machine
    replays: list[TraceReplay | RandomTraffic | HotPageWriter] = [
        TraceReplay(function, [access for access in accesses if access.device == name], machine.values, gap=gap)
        for name, function in machine.functions.items()]
    written = Counter(access.address // PAGE for access in accesses if access.op == "W")
    moving = sorted(touched, key=lambda page: -written[page])[:most or None]
    if storm:
        places = [page * PAGE for page in moving]
        # IDO is the IOMMU's to pass on, and the checker is of those that clear it.
        replays = [RandomTraffic(machine.functions["nvme"], places, machine.values, config.number("nvme"), tuple(mix), relaxed, 0.0, gap),
                   HotPageWriter(machine.functions["nic"], places[0], machine.values, config.number("nic"), 0, 256, gap)]

    async def scenario(manager: TaskManager) -> None:
        await guest.start()
        guest.spent.cycles.clear()
        moves: list[MoveResult] = []
        tasks: list[Task[None]] = [manager.start_soon(replay.run()) for replay in replays]
        watching = manager.start_soon(late.run())
        for done, page in enumerate(moving):
            config.progress(done, len(moving) + 1, f"page {page}")
            result = await guest.ots.move(page, 1)
            assert result.moved, f"page {page} did not move: {result.reason}"
            moves.append(result)
            await late.closed()
        late.stop = True
        await watching
        guest.write_costs(moves)
        config.progress(len(moving), len(moving) + 1, "DMA at its new place")
        await guest.go_on(manager, replays, tasks, passes_after)
        config.progress(len(moving) + 1, len(moving) + 1, "checking")

    await judged(guest, scenario, {"read_bytes": 1, "final_bytes": len(touched) * PAGE})
