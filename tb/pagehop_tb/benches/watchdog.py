"""A port returns no more credits: the others go on, and what goes there is discarded and answered in its place (H65, D12).

A host falls silent while the device writes to it, reads it and makes AtomicOps there, the other host loads from it, a page moves to it, and it waits
for answers itself. Once its port is down every one of these ends, by UR or an abort, and the device goes on at the other host. Then the device is
silent, and the hosts go on. Without a limit nothing is lost, and all waits. In the end each port is up again, and is used.

What was lost is known exactly: what the device sent to the silent host and never arrived. It is taken out of the log, which then must be that of a
run in which nobody sent it: a TLP that comes all the same is invented.
"""

from collections import deque
from collections.abc import Awaitable
from dataclasses import replace
from typing import Any

import cocotb
from cocotb.task import Task
from cocotb.triggers import TaskManager

from pagehop_tb.benches.frame import BenchConfig
from pagehop_tb.benches.guest import APERTURE_A, APERTURE_B, BARS, HOST_B_OFFSET, PAGE, Guest, judged
from pagehop_tb.checker.log import EventLog, Kind
from pagehop_tb.driver import interposer_registers as regs
from pagehop_tb.driver.api import MoveResult
from pagehop_tb.driver.interposer import PORTS, InterposerDriver, PortState
from pagehop_tb.models.cpu import BusError
from pagehop_tb.models.device import DeviceFunction, DmaError
from pagehop_tb.models.devices import RandomTraffic
from pagehop_tb.models.observer import Status
from pagehop_tb.models.system import SystemConfig
from pagehop_tb.pins import CreditConfig
from pagehop_tb.protocol import FlowClass

WINDOW_BASE = 0x4000_0000
WINDOW_PAGES = 64
#: By host: a page with traffic that the checker sees nothing strange of, and the page that the other function uses while its host is silent.
KEPT, GONE = (1, 2), (3, 4)
MOVING = 5
FLOWS = (FlowClass.POSTED, FlowClass.NON_POSTED, FlowClass.COMPLETION)
REGISTERS, DOORBELLS = BARS["nvme"][0], BARS["nic"][0]
#: More writes than a host has credits for, and the answers to them, by far; requests behind these.
WRITES, READS, ATOMICS, ASKED = 120, 8, 2, 80
#: Cycles in which credits run out, and within which all that was sent to a port that is down has ended.
FILL, PATIENCE = 1500, 3000
#: Cycles after which a host gives up a request of its own.
HOST_TIMEOUT = 8000
ENDINGS = {regs.MoveError.ABORTED, regs.MoveError.COPY_TIMEOUT, regs.MoveError.HOLD_TIMEOUT, regs.MoveError.UNSUPPORTED}
#: Ways in which a host is lost: its watchdog expires, software says so, or (without a limit) it is only slow.
WAYS = ("limit", "command", "never")


class LossLog(EventLog):
    """The log of a run in which TLPs to silent hosts are lost, and known to be.

    *Members*: ``refusing``, hosts for which the interposer may answer; ``refused``, its answers so far.
    """

    def __init__(self) -> None:
        super().__init__()
        self.refusing: set[int] = set()
        self.refused = 0
        self._writes: tuple[deque[tuple[int, int, bytes]], deque[tuple[int, int, bytes]]] = (deque(), deque())
        self._requests: dict[int, tuple[int, int, int]] = {}
        self._lost: set[int] = set()

    def _host(self, address: int) -> int | None:
        page = (address - WINDOW_BASE) // PAGE
        return GONE.index(page) if page in GONE else None

    def device_write(self, cycle: int, agent: str, address: int, data: bytes, byte_enables: int | None, ro: bool, ido: bool, key: int) -> None:
        super().device_write(cycle, agent, address, data, byte_enables, ro, ido, key)
        host = self._host(address)
        if host is not None:
            self._writes[host].append((key, address, data))

    def performed_write(self, cycle: int, host: int, address: int, data: bytes, byte_enables: int | None, requester_id: int, source: str) -> None:
        super().performed_write(cycle, host, address, data, byte_enables, requester_id, source)
        bus = address - (HOST_B_OFFSET if host else 0)
        if self._host(bus) == host and source == "link" and any(bus == sent[1] and data == sent[2] for sent in self._writes[host]):
            while self._writes[host]:
                key, *sent = self._writes[host].popleft()
                if sent == [bus, data]:
                    break
                self._lost.add(key)

    def device_read(self, cycle: int, agent: str, address: int, length: int, key: int, ido: bool = False) -> None:
        super().device_read(cycle, agent, address, length, key, ido)
        self._request(address, length, key)

    def device_atomic(self, cycle: int, agent: str, address: int, op: str, operand: bytes, key: int, ro: bool = False, ido: bool = False) -> None:
        super().device_atomic(cycle, agent, address, op, operand, key, ro, ido)
        self._request(address, 8, key)

    def _request(self, address: int, length: int, key: int) -> None:
        host = self._host(address)
        if host is not None:
            self._requests[key] = host, address + (HOST_B_OFFSET if host else 0), length

    def _refuse(self, cycle: int, key: int, status: int) -> None:
        host, address, length = self._requests.pop(key, (-1, 0, 0))
        if status == Status.UNSUPPORTED_REQUEST and host in self.refusing:
            self.refused += 1
            self.injected(cycle, host, address, length, status, 0)

    def device_read_done(self, cycle: int, key: int, data: bytes, status: int) -> None:
        self._refuse(cycle, key, status)
        super().device_read_done(cycle, key, data, status)

    def device_atomic_done(self, cycle: int, key: int, old: bytes, status: int) -> None:
        self._refuse(cycle, key, status)
        super().device_atomic_done(cycle, key, old, status)

    def take_lost(self, host: int) -> int:
        """Take the writes out of the log that were made before now and never performed at ``host``, and return how many they are."""
        lost = self._lost | {key for key, *_ in self._writes[host]}
        names = {(event[3], event[4]) for event in self.events if event[0] == Kind.DEVICE_WRITE and event[8] in lost}
        self._writes[host].clear()
        self._lost.clear()
        self.events = [event for event in self.events
                       if not (event[0] == Kind.DEVICE_WRITE and event[8] in lost or event[0] == Kind.LINK and event[5:7] in names)]
        return len(lost)


class Watchdogs:
    """The rounds."""

    def __init__(self, guest: Guest, log: LossLog, config: BenchConfig, limit: int) -> None:
        self.guest, self.log, self.limit, self.random = guest, log, limit, config.random("watchdog")
        self.system, self.wait = guest.system, guest.system.fabric.wait
        self.writer = self.system.functions["nic"]
        self.rung = 0
        self.writer.on_doorbell = self._doorbell
        self.drivers = [InterposerDriver(host.registers, self.wait, lambda: guest.system.cycle, log) for host in self.system.hosts]
        self.told: list[str] = []

    def _doorbell(self, offset: int, data: bytes) -> None:
        self.rung += 1

    async def place(self, driver: InterposerDriver, page: int, host: int) -> None:
        """Bring a page to a host."""
        if await driver.owner(page) != host:
            result = await driver.move(page, host)
            assert result.moved, f"page {page} did not move to Host {'AB'[host]}: {result.reason}"

    async def ends(self, tasks: list[Task[Any]], what: str, patience: int = PATIENCE) -> list[Any]:
        """Wait for tasks, which must end in time, and return what they return."""
        last = self.system.cycle + patience
        while not all(task.done() for task in tasks):
            assert self.system.cycle < last, f"{what} waits for the port that takes nothing"
            await self.wait(20)
        return [await task for task in tasks]

    async def counts(self, driver: InterposerDriver) -> tuple[int, int, int]:
        """Posted TLPs, requests and completions that were discarded so far."""
        registers = (regs.DiscardedPosted, regs.DiscardedRequests, regs.DiscardedCompletions)
        posted, requests, completions = [await driver.counter(register.offset) for register in registers]
        return posted, requests, completions

    async def set_limits(self, driver: InterposerDriver, limit: int) -> None:
        """Program both watchdogs."""
        await driver.registers.write(regs.PortLimits.offset, regs.PortLimits.DEVICE.of(limit) | regs.PortLimits.HOSTS.of(limit))

    async def becomes_down(self, driver: InterposerDriver, port: str, way: str) -> None:
        """Wait until the port is down, by its limit or by a command."""
        if way == "command":
            await driver.stop(port)
        last = self.system.cycle + 2 * self.limit + FILL
        while not (state := (await driver.ports())[port]).down:
            assert self.system.cycle < last, f"{port} is not down {2 * self.limit} cycles after it stopped to return credits"
            await self.wait(20)
        if way == "limit":
            assert state.expired, f"{port} is down, but not by its limit"
        others = {name: other for name, other in (await driver.ports()).items() if name != port}
        assert not any(other.down for other in others.values()), f"{port} is silent, and others are down: {others}"

    # A host is silent

    async def host(self, manager: TaskManager, silent: int, way: str, moves: bool) -> None:
        """Host ``silent`` returns no credits for a while; ``moves``: a page is on its way there at that time."""
        keeper, port = 1 - silent, PORTS[1 + silent]
        driver, agent_port = self.drivers[keeper], self.system.ports[port]
        await self.set_limits(driver, 0 if way == "never" else self.limit)
        await self.place(driver, MOVING, keeper)
        await self.use(silent)
        before, owners = await self.counts(driver), await driver.owners(WINDOW_PAGES)
        kept = self._traffic(keeper)
        running = manager.start_soon(kept.run())
        await self.wait(self.random.randint(1, 1000))
        agent_port.starve(*FLOWS)
        self.log.refusing.add(silent)
        asks = [cocotb.start_soon(self._ask(silent)) for _ in range(ASKED)]
        move = cocotb.start_soon(driver.move(MOVING, silent)) if moves else None
        writes = cocotb.start_soon(self._write(silent))
        await self.wait(FILL)
        requests = [cocotb.start_soon(self._request(silent, number)) for number in range(READS + ATOMICS)]
        if way == "never":
            await self._nothing_is_lost(driver, kept, [writes, *requests], agent_port, before)
        else:
            await self.becomes_down(driver, port, way)
            await self._others_go_on(driver, silent, kept, [writes, *requests])
            assert await driver.owners(WINDOW_PAGES) == owners, "the owner map has changed"
        failed = await self.ends([move], "a move", 20_000) if move is not None else []
        self._judge_move(failed, way)
        kept.stop = True
        await running
        answers = await self.ends(asks, "a request of the silent host", HOST_TIMEOUT + PATIENCE)
        await self._back(driver, silent, way, before, answers.count(Status.TIMEOUT), exact=not moves)

    def _traffic(self, host: int) -> RandomTraffic:
        function, page = self.system.functions["nvme"], WINDOW_BASE + KEPT[host] * PAGE
        return RandomTraffic(function, [page], self.system.values, self.random.getrandbits(32), gap=60)

    async def _ask(self, host: int) -> int:
        status, _ = await self.system.hosts[host].cpu.mmio_read(REGISTERS + 8 * self.random.randrange(32), 4)
        return status

    async def _write(self, host: int) -> None:
        for _ in range(WRITES):
            size = self.random.choice((4, 64, 64, 256))
            address = WINDOW_BASE + GONE[host] * PAGE + self.random.randrange(0, PAGE, 256)
            await self.writer.write(address, self.system.values.take(address, size))

    async def _request(self, host: int, number: int) -> bool:
        """A read or AtomicOp of the silent host's page. Returns whether it succeeded."""
        function: DeviceFunction = self.writer
        address = WINDOW_BASE + GONE[host] * PAGE + self.random.randrange(0, PAGE, 64)
        try:
            if number < READS:
                await function.read(address, self.random.choice((0, 4, 64)))
            else:
                await function.atomic("swap", address, self.system.values.take(0, 8))
        except DmaError:
            return False
        return True

    async def _nothing_is_lost(self, driver: InterposerDriver, kept: RandomTraffic, tasks: list[Task[Any]], port: Any, before: Any) -> None:
        """Without a limit all waits for the silent host, and goes on when it does."""
        count = kept.count
        await self.wait(3 * self.limit)
        assert kept.count - count <= kept.depth, "the device went on, so nothing was shown"
        assert not any(state.down for state in (await driver.ports()).values()), "a port is down without a limit"
        port.feed(*FLOWS)
        _, *succeeded = await self.ends(tasks, "the device", PATIENCE)
        assert all(succeeded), "a request failed although its host was only slow"
        assert await self.counts(driver) == before, "something was discarded without a limit"

    async def _others_go_on(self, driver: InterposerDriver, silent: int, kept: RandomTraffic, tasks: list[Task[Any]]) -> None:
        """What goes to the silent host ends, and the device, the other host and what they send each other go on."""
        keeper, count = 1 - silent, kept.count
        _, *succeeded = await self.ends(tasks, "the device")
        assert not any(succeeded), "a request to the silent host succeeded"
        cpu, rung = self.system.hosts[keeper].cpu, self.rung
        await cpu.mmio_write(DOORBELLS, self.system.values.take(0, 4))
        status, _ = await cpu.mmio_read(REGISTERS, 4)
        assert status == Status.SUCCESS and self.rung == rung + 1, "a host does not reach the device while the other is silent"
        try:
            await cpu.load((APERTURE_B, APERTURE_A)[silent] + MOVING * PAGE, 8)
        except BusError as error:
            assert Status.UNSUPPORTED_REQUEST.name in str(error), f"a load from the silent host was not answered with UR: {error}"
        else:
            raise AssertionError("a load from the silent host succeeded")
        result = await driver.move(MOVING, silent)
        assert result.error == regs.MoveError.ABORTED, f"a move to a host that is down ended as {result.reason}"
        last = self.system.cycle + 2 * PATIENCE
        while kept.count <= count + 20 and self.system.cycle < last:
            await self.wait(100)
        assert kept.count > count + 20, "the device does not go on at the host that is left"

    def _judge_move(self, results: list[MoveResult], way: str) -> None:
        for result in results:
            if way == "never":
                assert result.moved or result.error in ENDINGS, f"a move to a slow host ended as {result.reason}"
            else:
                assert not result.moved and result.error in ENDINGS, f"a move to a silent host ended as {result.reason}"

    async def _back(self, driver: InterposerDriver, silent: int, way: str, before: tuple[int, int, int], unanswered: int, exact: bool) -> None:
        """The host returns credits again, and its port is used again, with none too many and none missing."""
        port = PORTS[1 + silent]
        self.system.ports[port].feed(*FLOWS)
        await self.wait(200)
        assert (await driver.ports())[port].down == (way != "never"), "a port is up again by itself"
        posted, requests, completions = (now - then for now, then in zip(await self.counts(driver), before, strict=True))
        lost, refused = self.log.take_lost(silent), self.log.refused
        if way != "never":
            assert 0 < lost <= posted and (posted == lost or not exact), f"{lost} writes of the device were lost, and {posted} are counted"
            assert READS + ATOMICS <= refused < requests, f"{refused} requests of the device were refused, and {requests} are counted"
            assert completions == unanswered > 0, f"{unanswered} answers to the silent host were lost, and {completions} are counted"
            await driver.resume(port)
        assert lost == 0 or way != "never", f"{lost} writes were lost without a limit"
        self.log.refusing.clear()
        self.log.refused = 0
        assert (await driver.ports())[port] == PortState(False, False)
        await self.use(silent)
        await self.place(driver, MOVING, silent)
        await self.system.quiesce()
        self.told.append(f"Host {'AB'[silent]} by {way}: {posted} posted, {requests} requests, {completions} completions discarded")

    async def use(self, host: int) -> None:
        """Writes, reads and an AtomicOp at this host, all of which succeed."""
        await self._write(host)
        tasks: list[Task[bool]] = [cocotb.start_soon(self._request(host, number)) for number in range(READS + ATOMICS)]
        assert all(await self.ends(tasks, "the device, although there are credits,", 8000)), f"Host {'AB'[host]} did not serve the device"
        await self.system.quiesce()

    # The device is silent

    async def device(self, way: str) -> None:
        """The device returns no credits for a while: what the hosts send there ends, and what they send each other goes on."""
        driver, port = self.drivers[self.random.randrange(2)], self.system.ports["device"]
        await self.set_limits(driver, self.limit)
        before, self.rung, sent = await self.counts(driver), 0, 0
        port.starve(*FLOWS)
        for _ in range(WRITES // 2):
            for host in self.system.hosts:
                await host.cpu.mmio_write(DOORBELLS, self.system.values.take(0, 4))
                sent += 1
        reads = [cocotb.start_soon(self._ask(host)) for host in (0, 1) for _ in range(READS)]
        loads = [cocotb.start_soon(self._load(host)) for host in (0, 1)]
        await self.wait(FILL)
        await self.becomes_down(driver, "device", way)
        answers = await self.ends(reads, "a read of the device's registers")
        assert all(status == Status.UNSUPPORTED_REQUEST for status in answers), f"registers of a silent device answered: {answers}"
        await self.ends(loads, "what the hosts send each other")
        posted, requests, completions = (now - then for now, then in zip(await self.counts(driver), before, strict=True))
        assert (posted, requests, completions) == (sent - self.rung, len(reads), 0), \
            f"{posted} posted TLPs, {requests} requests and {completions} completions were discarded; {sent - self.rung} doorbells were lost"
        port.feed(*FLOWS)
        await self.wait(200)
        await driver.resume("device")
        self.rung = 0
        for host in self.system.hosts:
            await host.cpu.mmio_write(DOORBELLS, self.system.values.take(0, 4))
            assert await self._ask(host.number) == Status.SUCCESS, "the device does not answer after it is up again"
        assert self.rung == len(self.system.hosts), "a doorbell was lost after the device was up again"
        for number in (0, 1):
            await self.use(number)
        self.told.append(f"device by {way}: {posted} posted and {requests} requests discarded")

    async def _load(self, host: int) -> None:
        await self.system.hosts[host].cpu.load((APERTURE_A, APERTURE_B)[host] + KEPT[1 - host] * PAGE, 8)


def finite_completions(usual: SystemConfig) -> SystemConfig:
    """Nobody grants endless credits for completions, and hosts do not wait long for answers."""
    finite = CreditConfig(64, 1024)
    hosts = [replace(host, timeout=HOST_TIMEOUT) for host in usual.hosts]
    return replace(usual, hosts=(hosts[0], hosts[1]), device_credits=replace(usual.device_credits, completion=finite),
                   host_credits=replace(usual.host_credits, completion=finite))


@cocotb.test(timeout_time=20, timeout_unit="ms")
async def watchdog(dut: Any) -> None:
    """Each round silences each port once, in the ways that are asked for."""
    config = BenchConfig("watchdog")
    rounds, limit, ways, log = config.get("rounds", 2), config.get("limit", 700), config.get("ways", list(WAYS)), LossLog()
    guest = Guest(dut, config, WINDOW_BASE, WINDOW_PAGES, log=log, machine=finite_completions)
    # A flush of a host that is only slow must not be given up, for order would be lost with it (H64).
    guest.setup = replace(guest.setup, notify=None, completion_limit=FILL + 4 * limit)
    config.refuse_unknown()
    for page in (*KEPT, *GONE, MOVING):
        guest.fill(page)
    bench = Watchdogs(guest, log, config, limit)

    async def scenario(manager: TaskManager) -> None:
        await guest.start()
        for driver in bench.drivers:
            await driver.attach(guest.setup)
        for page in (KEPT[1], GONE[1]):
            await bench.place(bench.drivers[0], page, 1)
        steps: list[Awaitable[None]] = []
        for number in range(rounds):
            for way in ways:
                order = bench.random.sample((0, 1), 2)
                steps += [bench.host(manager, silent, way, moves=bool((number + silent) % 2)) for silent in order]
                steps += [bench.device(way)] if way != "never" else []
        for number, step in enumerate(steps):
            config.progress(number, len(steps), f"step {number}")
            await step
        cocotb.log.info("; ".join(bench.told))
        config.progress(len(steps), len(steps), "checking")

    await judged(guest, scenario, {"read_bytes": 500 * rounds, "final_bytes": 5 * PAGE})
