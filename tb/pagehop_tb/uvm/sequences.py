"""Sequences: random DMA, CPU traffic, and virtual sequences that are whole moves."""

from collections.abc import Awaitable, Callable
from dataclasses import replace
from random import Random
from typing import Any

import cocotb
from cocotb.task import Task
from pyuvm import uvm_sequence

from pagehop_tb.benches.guest import APERTURE_A, APERTURE_B, BARS, MSI_BASE, NOTIFY_DATA, PAGE
from pagehop_tb.driver import interposer_registers as regs
from pagehop_tb.models.atomics import KINDS
from pagehop_tb.models.observer import Status
from pagehop_tb.models.root_complex import Injection
from pagehop_tb.protocol import TRANSLATED, Kind, Tlp
from pagehop_tb.uvm.environment import Environment
from pagehop_tb.uvm.events import Refused
from pagehop_tb.uvm.items import CpuItem, DmaItem, HypervisorItem
from pagehop_tb.uvm.shapes import SHAPES, make_range, tlp_of

__all__ = ["BadAnswers", "Combination", "CpuTraffic", "Fault", "Harvests", "RandomDma", "call", "cpu"]

#: Memory outside the window, of whichever host is active: some with headers of 3 dwords and some of 4.
OUTSIDE = (0x0100_0000, 0x70_0000_0000)
Error = regs.MoveError


async def send(sequence: uvm_sequence, item: Any, sequencer: Any) -> None:
    """Let ``sequencer`` do one item."""
    sequence.sequencer = sequencer
    await sequence.start_item(item)
    await sequence.finish_item(item)


async def call(env: Environment, name: str, *arguments: Any, **named: Any) -> HypervisorItem:
    """One call of the driver's API, from its sequencer, to its end."""
    item = HypervisorItem(name, *arguments, **named)
    await send(uvm_sequence(name), item, env.hypervisor.sequencer)
    await item.ended()
    return item


async def cpu(env: Environment, host: int, op: str, address: int, data: bytes = b"", size: int = 4) -> CpuItem:
    """One access of a CPU, from its sequencer, to its end."""
    item = CpuItem(op, address, data, size)
    await send(uvm_sequence(op), item, env.hosts[host].sequencer)
    await item.ended()
    return item


class _Endless(uvm_sequence):
    """A sequence that goes on until :attr:`stop`."""

    def __init__(self, name: str, env: Environment, random: Random) -> None:
        super().__init__(name)
        self.env, self.random, self.stop, self.count = env, random, False, 0
        self._task: Task[None] | None = None

    def go(self, sequencer: Any = None) -> None:
        """Run beside what follows."""
        self.stop = False
        self._task = cocotb.start_soon(self.start(sequencer))

    async def end(self) -> None:
        """Stop, and wait for the last step."""
        self.stop = True
        if self._task is not None:
            await self._task

    async def body(self) -> None:
        while not self.stop:
            await self.step()
            self.count += 1

    async def step(self) -> None:
        """One step; must let time pass."""
        raise NotImplementedError


class RandomDma(_Endless):
    """Random requests of both functions: every kind, shape and attribute; half of them to the page that moves.

    *Members*: ``focus``, a page that gets more than its share, ``spare``, a page that gets nothing; ``gap``, the longest pause in cycles;
    ``patient``: the next request waits for the answer to this one.
    """

    def __init__(self, env: Environment, random: Random, pages: list[int], gap: int = 40) -> None:
        super().__init__("dma", env, random)
        self.pages, self.gap = pages, gap
        self.focus: int | None = None
        self.spare: int | None = None
        self.patient = False

    async def step(self) -> None:
        """One request."""
        random, env = self.random, self.env
        agent = random.choice(("nvme", "nic"))
        await self._send(DmaItem(agent, self._request(env.guest.system.functions[agent].config.requester_id)))
        await env.guest.system.fabric.wait(random.randint(1, self.gap))

    async def _send(self, item: DmaItem) -> None:
        await self.start_item(item)
        await self.finish_item(item)
        if self.patient:
            await item.ended()

    def _page(self) -> int:
        """Address of the page or place of the next request."""
        random, base = self.random, self.env.guest.base
        if random.random() < 0.06:
            return random.choice(OUTSIDE)
        if self.focus is not None and self.focus != self.spare and random.random() < 0.6:
            return base + self.focus * PAGE
        return base + random.choice([page for page in self.pages if page != self.spare]) * PAGE

    def _request(self, requester: int) -> Tlp:
        kind = self.random.choices(("write", "read", "flush", "atomic", "msi", "message"), (36, 36, 4, 20, 2, 2))[0]
        return self.request(requester, kind, self._page())

    def request(self, requester: int, kind: str, page: int) -> Tlp:
        """A request of this kind to the page at address ``page``."""
        random, values = self.random, self.env.guest.system.values
        ro, ido = random.random() < 0.3, random.random() < 0.3
        if kind == "msi":
            return Tlp(Kind.MWR, requester, 0, MSI_BASE, 1, 0xF, 0, values.take(0, 4))
        if kind == "message":
            return Tlp(Kind.MSG, requester, code=0x7F, routing=0)
        if kind == "atomic":
            op, size = random.choice(("fetch_add", "swap", "cas")), random.choice((4, 8))
            operand = values.take(0, 2 * size if op == "cas" else size)
            return Tlp(KINDS[op], requester, 0, page + random.randrange(0, PAGE, size), len(operand) // 4, 0, 0, operand, ro, ido)
        if kind == "flush":
            return tlp_of(Kind.MRD, requester, make_range(random, "no byte", page), ro=ro, ido=ido)
        shape = random.choice(SHAPES)
        if kind == "read":
            return tlp_of(Kind.MRD, requester, make_range(random, shape, page, 128), ro=ro, ido=ido)
        place = make_range(random, shape, page)
        return tlp_of(Kind.MWR, requester, place, values.take(0, 4 * place[1]), ro, ido)


class CpuTraffic(_Endless):
    """Both CPUs use apertures, the device's registers and configuration space, and the interposer's registers.

    Memory that they use are the pages ``own`` alone, one at each host, which do not move and which the device leaves alone.
    """

    def __init__(self, env: Environment, random: Random, pages: list[int], own: tuple[int, int]) -> None:
        super().__init__("cpu", env, random)
        self.pages, self.own = pages, own

    async def step(self) -> None:
        """One access."""
        env, random = self.env, self.random
        host = random.randrange(2)
        await random.choice((self._aperture, self._bar, self._config, self._register))(host)
        await env.guest.system.fabric.wait(random.randint(1, 200))

    async def _aperture(self, host: int) -> None:
        """The other host's memory: loads of what stands there, stores to a page of its own."""
        random, env = self.random, self.env
        aperture = (APERTURE_A, APERTURE_B)[host]
        offset = self.own[1 - host] * PAGE + random.randrange(0, PAGE, 64)
        if random.random() < 0.5:
            await cpu(env, host, "store", aperture + offset, env.guest.system.values.take(0, 8))
        else:
            await cpu(env, host, "load", aperture + offset, size=random.choice((4, 8, 64)))

    async def _bar(self, host: int) -> None:
        base, size = BARS[self.random.choice(("nvme", "nic"))]
        address = base + self.random.randrange(0, size, 4)
        if self.random.random() < 0.5:
            await cpu(self.env, host, "mmio_write", address, self.env.guest.system.values.take(0, 4))
        else:
            await cpu(self.env, host, "mmio_read", address)

    async def _config(self, host: int) -> None:
        function = self.random.choice(list(self.env.guest.system.functions.values()))
        target = function.config.requester_id << 16 | self.random.randrange(0, 0x100, 4)
        if self.random.random() < 0.5:
            item = await cpu(self.env, host, "config_read", target)
        else:
            item = await cpu(self.env, host, "config_write", target, bytes(4))
        expected = Status.SUCCESS if host == self.env.active_host else Status.UNSUPPORTED_REQUEST
        assert item.status == expected, f"{item.op} of Host {'AB'[host]} ended with {Status(item.status).name} instead of {expected.name}"

    async def _register(self, host: int) -> None:
        """Registers that nobody else uses while the scenario runs."""
        address = self.env.guest.system.config.register_bases[host] + regs.NotifyData.offset
        if self.random.random() < 0.5:
            await cpu(self.env, host, "mmio_write", address, NOTIFY_DATA.to_bytes(8, "little"))
        else:
            item = await cpu(self.env, host, "mmio_read", address, size=8)
            assert int.from_bytes(item.data, "little") == NOTIFY_DATA, f"the register reads as {item.data.hex()}"


class Harvests(_Endless):
    """Takes and looks at dirty bits, twice in a row now and then so that there is nothing left to find."""

    async def step(self) -> None:
        """One or two harvests of the whole window."""
        clear = self.random.random() < 0.6
        for _ in range(self.random.randint(1, 2)):
            await call(self.env, "harvest", 0, 64, clear=clear)
        await self.env.guest.system.fabric.wait(self.random.randint(1, 400))


class BadAnswers(_Endless):
    """The hosts answer some of the device's requests with UR, CA or poison.

    Only a request that no other one overlaps: the checker finds by its address whom an error was for.
    """

    async def step(self) -> None:
        """One bad answer to come, at either host."""
        env, random = self.env, self.random
        devices = {function.config.requester_id for function in env.guest.system.functions.values()}
        atomics, status = random.random() < 0.5, random.choice((Status.UNSUPPORTED_REQUEST, Status.COMPLETER_ABORT, Status.POISONED))
        host = random.randrange(2)

        def matches(tlp: Tlp) -> bool:
            if tlp.requester_id not in devices or env.watch.page_at(host, tlp.address) is None:
                return False
            wanted = tlp.is_atomic if atomics else tlp.kind is Kind.MRD and tlp.first_be != 0
            return wanted and env.watch.alone(env.watch.guest_address(host, tlp.address), 4 * tlp.length)

        injections = env.guest.system.hosts[host].root_complex.injections
        if sum(not injection.done for injection in injections) < 3:
            injections.append(Injection(matches, status, nth=random.randrange(3)))
        await env.guest.system.fabric.wait(60)


class Combination(uvm_sequence):
    """Move a page while just these kinds of accesses to it are under way when its hold begins. Nothing else may use the page."""

    def __init__(self, env: Environment, dma: RandomDma, page: int, kinds: tuple[str, ...]) -> None:
        super().__init__("combination")
        self.env, self.dma, self.page, self.kinds = env, dma, page, kinds

    async def body(self) -> None:
        """Wait for the page to be quiet, then start both."""
        env, dma, watch = self.env, self.dma, self.env.watch
        dma.spare = self.page
        while not watch.quiet(self.page):
            await env.guest.system.fabric.wait(20)
        host = watch.owner(self.page)
        move = cocotb.start_soon(call(env, "move", self.page, 1 - host))
        requester = env.guest.system.functions["nic"].config.requester_id
        while self.kinds and watch.phase in ("idle", "asked"):
            for kind in self.kinds:
                item = DmaItem("nic", dma.request(requester, kind, env.guest.base + self.page * PAGE))
                await send(self, item, env.device.sequencer)
            await env.guest.system.fabric.wait(15)
        result = (await move).moved
        assert result.moved, f"page {self.page} did not move: {result.reason}"
        dma.spare = None


#: Phases in which a command comes so many cycles later at most: it takes as long to arrive as the one that began the move.
LATER = {"asked": 12, "copy": 60}


class Fault(uvm_sequence):
    """A move that something ends in a chosen phase: ``stop`` and ``phase`` are bins of the group ``stops``. ``result`` tells how it ended."""

    def __init__(self, env: Environment, dma: RandomDma, page: int, stop: str, phase: str, random: Random) -> None:
        super().__init__(f"{stop} in {phase}")
        self.env, self.dma, self.page, self.stop, self.phase, self.random = env, dma, page, stop, phase, random
        self.source = env.watch.owner(page)
        self.result: Any = None

    async def body(self) -> None:
        """Prepare the fault, move, and put things right again."""
        env = self.env
        self.dma.focus = self.page
        # Behind writes that are held a translated request would not come before the commit.
        self.dma.spare = self.page if self.stop == "opaque" else None
        if self.phase == "gate":
            await self._lengthen_gate()
        actions: dict[str, Callable[[], Awaitable[None]]] = {"aborted": self._abort, "cross_access": self._store, "opaque": self._translated}
        if (self.stop, self.phase) == ("opaque", "asked"):
            await self._translated()
            del actions["opaque"]
        injection = self._bad_answer()
        if self.stop == "hold_timeout":
            await self._limit({"gate": 200, "copy": 1500, "flush": 2400}[self.phase])
        beside = cocotb.start_soon(self._in_phase(actions[self.stop])) if self.stop in actions else None
        self.result = (await call(env, "move", self.page, 1 - self.source)).moved
        if beside is not None:
            await beside
        if injection is not None:
            injection.done = True
        if self.stop == "hold_timeout":
            await self._limit(env.guest.setup.hold_limit)
        if self.stop == "opaque":
            self.dma.spare = None
            await call(env, "forget_opaque")
        if not self.result.moved:
            assert self.result.reason in (self.stop, "hold_timeout"), f"{self.get_name()} was reported as {self.result.reason}"

    async def _in_phase(self, action: Callable[[], Awaitable[None]]) -> None:
        if await self.env.watch.reach(self.phase):
            if self.phase in LATER:
                await self.env.guest.system.fabric.wait(self.random.randint(1, LATER[self.phase]))
            await action()

    async def _abort(self) -> None:
        await call(self.env, "abort")

    async def _store(self) -> None:
        """The CPU that is to get the page was not stopped (H59): it stores to the page where it still is."""
        target = 1 - self.source
        address = (APERTURE_A, APERTURE_B)[target] + self.page * PAGE + self.random.randrange(0, PAGE, 64)
        await cpu(self.env, target, "store", address, self.env.guest.system.values.take(0, 8))

    async def _translated(self) -> None:
        """The device reads with a translated address (H24f), and has been answered when this returns."""
        tlp = self.dma.request(self.env.guest.system.functions["nic"].config.requester_id, "read", self.random.choice(OUTSIDE))
        item = DmaItem("nic", replace(tlp, address_type=TRANSLATED))
        await send(self, item, self.env.device.sequencer)
        await item.ended()

    async def _lengthen_gate(self) -> None:
        """An AtomicOp to the page is answered late, and the gate waits for it (H58)."""
        env = self.env
        page = self.page
        late = Injection(lambda tlp: tlp.is_atomic and env.watch.page_at(self.source, tlp.address) == page, Status.TIMEOUT, late=1800)
        env.guest.system.hosts[self.source].root_complex.injections.append(late)
        requester = env.guest.system.functions["nic"].config.requester_id
        await send(self, DmaItem("nic", self.dma.request(requester, "atomic", env.guest.base + page * PAGE)), env.device.sequencer)
        while not late.done:
            await env.guest.system.fabric.wait(20)

    def _bad_answer(self) -> Injection | None:
        """What the copy engine is to be answered with."""
        statuses = {"unsupported": Status.UNSUPPORTED_REQUEST, "completer_abort": Status.COMPLETER_ABORT, "poisoned": Status.POISONED,
                    "copy_timeout": Status.TIMEOUT, "hold_timeout": Status.TIMEOUT}
        if self.stop not in statuses or self.phase == "gate":
            return None
        env, watch = self.env, self.env.watch
        in_flush = self.phase == "flush"
        host = 1 - self.source if in_flush else self.source

        def matches(tlp: Tlp) -> bool:
            if not env.guest.is_read_of_engine(host, tlp):
                return False
            if in_flush:
                return watch.phase == "flush" and not tlp.first_be
            return bool(tlp.first_be) and watch.page_at(host, tlp.address) == self.page

        injection = Injection(matches, statuses[self.stop], nth=0 if in_flush else self.random.randrange(16))
        env.guest.system.hosts[host].root_complex.injections.append(injection)
        return injection

    async def _limit(self, cycles: int) -> None:
        limits, registers = regs.MoveLimits, self.env.guest.driver.registers
        await registers.write(limits.offset, limits.HOLD.of(cycles) | limits.COMPLETION.of(self.env.guest.setup.completion_limit))


async def second_start(env: Environment, other: int) -> None:
    """Ask for another move while one runs: it is refused, and the first goes on."""
    driver, watch = env.guest.driver, env.watch
    to_host = 1 - watch.owner(other)
    await call(env, "start", driver.place(other, 0), driver.place(other, to_host), to_host)
    status = (await call(env, "status")).result
    if regs.MoveStatus.BUSY.get(status):
        assert regs.MoveStatus.REFUSED.get(status) == Error.BUSY, f"the status {status:#x} tells of no refusal"
        watch.publish(Refused(to_host, Error.BUSY))
