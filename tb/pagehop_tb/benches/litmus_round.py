"""One round of a litmus case: its lines of memory, what its agents may do, and what they saw.

Agents are ``D`` and ``E``, two functions behind the device's port, and ``a`` and ``b``, the CPUs of the hosts. Locations are ``X``, ``Y`` and ``Z``,
one line each. The values of a location are numbered: 0 is what was there before the round, 1 and up are written in it.
"""

from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from random import Random
from typing import Any

import cocotb
from cocotb.triggers import Event

from pagehop_tb.benches.guest import APERTURE_A, APERTURE_B, BARS, MSI_BASE, PAGE, Guest
from pagehop_tb.checker.log import EventLog
from pagehop_tb.models.cpu import Cpu
from pagehop_tb.models.device import DeviceFunction
from pagehop_tb.models.observer import Status

__all__ = ["BANDS", "Behaviour", "Machine", "Round", "WatchedLog"]

LINE, WORD = 64, 4
#: Bounds of delays in cycles. One is drawn, then a delay within it: nearly at once, as usual, and far behind.
BANDS = (20, 300, 3000)
FUNCTIONS = {"D": "nvme", "E": "nic"}
CPUS = "ab"
STATUS_REGISTERS, DOORBELLS = 0x1000, 0x2000


class WatchedLog(EventLog):
    """An event log that wakes who waits until a value is on its way (``issued``), or visible. All values of a run differ."""

    def __init__(self) -> None:
        super().__init__()
        self.issued: dict[bytes, Event] = {}
        self.visible: dict[bytes, Event] = {}

    def drop(self) -> None:
        """Forget what was logged: a run that only its outcomes judge may be of any length."""
        EventLog.__init__(self)

    def forget(self, value: bytes) -> None:
        """Nobody waits for ``value`` any more."""
        del self.issued[value], self.visible[value]

    def device_write(self, cycle: int, agent: str, address: int, data: bytes, byte_enables: int | None, ro: bool, ido: bool, key: int) -> None:
        super().device_write(cycle, agent, address, data, byte_enables, ro, ido, key)
        _wake(self.issued, data)

    def performed_write(self, cycle: int, host: int, address: int, data: bytes, byte_enables: int | None, requester_id: int, source: str) -> None:
        super().performed_write(cycle, host, address, data, byte_enables, requester_id, source)
        _wake(self.visible, data)

    def performed_atomic(self, cycle: int, host: int, address: int, op: str, old: bytes, new: bytes, requester_id: int, tag: int) -> None:
        super().performed_atomic(cycle, host, address, op, old, new, requester_id, tag)
        _wake(self.visible, new)


def _wake(events: dict[bytes, Event], data: bytes) -> None:
    event = events.get(data)
    if event is not None:
        event.set()


@dataclass(frozen=True)
class Behaviour:
    """How agents behave. ``read_back``: stores through an aperture are read back (O9), always; else every second round goes without, where the case
    allows it. ``never_read_back`` leaves the rule out. ``answered``: a device waits for the answer to its read before it goes on. ``in_order``: the
    stores that a CPU makes, of all rounds together, are made one after another, as one CPU makes them; else each round is a CPU of its own. Not
    ``uncached``: a CPU keeps lines of the other host that it read before the round, and only who polls asks the memory again (O8)."""

    read_back: bool = False
    never_read_back: bool = False
    answered: bool = True
    uncached: bool = True
    in_order: bool = False


class _Turns:
    """Accesses of one CPU: loads beside each other, what others may see of it one at a time."""

    def __init__(self) -> None:
        self._loads, self._storing, self._changed = 0, False, Event()

    @asynccontextmanager
    async def loading(self) -> AsyncIterator[None]:
        """Room for a load."""
        while self._storing:
            await self._change()
        self._loads += 1
        try:
            yield
        finally:
            self._loads -= 1
            self._changed.set()

    @asynccontextmanager
    async def storing(self) -> AsyncIterator[None]:
        """Room for a store, and nothing beside it."""
        while self._storing:
            await self._change()
        self._storing = True
        try:
            while self._loads:
                await self._change()
            yield
        finally:
            self._storing = False
            self._changed.set()

    async def _change(self) -> None:
        self._changed.clear()
        await self._changed.wait()


class Machine:
    """The guest as the rounds use it: ``pages[h]`` are the pages at Host *h*. A line belongs to one round at a time."""

    def __init__(self, guest: Guest, log: WatchedLog, base: int, pages: tuple[list[int], list[int]], behaviour: Behaviour, random: Random,
                 slots: int) -> None:
        self.guest, self.log, self.base, self.behaviour, self.random = guest, log, base, behaviour, random
        self.fabric, self.values = guest.system.fabric, guest.system.values
        self.devices: dict[str, DeviceFunction] = {name: guest.system.functions[function] for name, function in FUNCTIONS.items()}
        self.cpus: dict[str, Cpu] = {name: host.cpu for name, host in zip(CPUS, guest.system.hosts, strict=True)}
        self.turns = {name: _Turns() for name in CPUS}
        self.slots = list(range(slots))
        self.running: dict[Round, str] = {}
        self.rung: dict[bytes, Event] = {}
        self.interrupted: dict[tuple[str, bytes], Event] = {}
        self._lines = [[page * PAGE + line for page in held for line in range(0, PAGE, LINE)] for held in pages]
        for lines in self._lines:
            random.shuffle(lines)
        self.devices["D"].on_doorbell = lambda _, data: _wake(self.rung, data)
        for name, cpu in self.cpus.items():
            cpu.on_interrupt.append(self._taker(name))

    def _taker(self, name: str) -> Callable[[int, bytes], None]:
        def take(_: int, data: bytes) -> None:
            event = self.interrupted.get((name, data))
            if event is not None:
                event.set()
        return take

    def take_line(self, host: int) -> int:
        """A word of a line of Host ``host`` that no round uses, as its offset into the guest."""
        lines = self._lines[host]
        # Not the last one given back, and not always the oldest.
        return lines.pop(self.random.randrange(max(1, len(lines) // 2))) + WORD * self.random.randrange(LINE // WORD)

    def give_line(self, host: int, offset: int) -> None:
        """The line is free again."""
        self._lines[host].append(offset - offset % LINE)

    def address(self, cpu: str, host: int, offset: int) -> int:
        """Where a CPU finds a byte of the guest that is at ``host``."""
        mine = CPUS.index(cpu)
        if host != mine:
            return (APERTURE_B if mine else APERTURE_A) + offset
        return self.guest.driver.place(0, mine) + offset


class Round:
    """One round. ``c`` is the CPU that takes part, ``o`` the other one; ``seen`` what was read: agent and location to the number of the value."""

    def __init__(self, machine: Machine, locations: str, placement: str, cpu: str, posted: bool) -> None:
        self.machine, self.random = machine, machine.random
        self.c, self.o = cpu, "ba"[CPUS.index(cpu)]
        self.host = {name: "AB".index(at) for name, at in zip(locations, placement, strict=True)}
        self.at = {name: machine.take_line(host) for name, host in self.host.items()}
        self.slot = machine.slots.pop()
        self.seen: dict[str, int] = {}
        self._numbers: dict[str, dict[bytes, int]] = {name: {self._memory(name): 0} for name in locations}
        self._values: dict[tuple[str, int], bytes] = {}
        self._signals: dict[str, bytes] = {}
        self._told: dict[str, Event] = {}
        behaviour = machine.behaviour
        skips = posted and not behaviour.read_back and self.random.random() < 0.5
        self.read_back = not (behaviour.never_read_back or skips)

    def _memory(self, name: str) -> bytes:
        host = self.host[name]
        return self.machine.guest.read_memory(host, self.machine.guest.driver.place(0, host) + self.at[name], WORD)

    def _value(self, name: str, number: int) -> bytes:
        """The bytes of value ``number`` of a location; the first who asks makes them known to the log."""
        data = self._values.get((name, number))
        if data is None:
            data = self._values[name, number] = self.machine.values.take(0, WORD)
            self._numbers.setdefault(name, {})[data] = number
            self.machine.log.issued[data], self.machine.log.visible[data] = Event(), Event()
        return data

    def _number(self, name: str, data: bytes) -> int:
        number = self._numbers[name].get(data)
        if number is None:
            raise AssertionError(f"a read of {name} at {self.at[name]:#x} of the guest gave {data.hex()}, which nobody wrote there")
        return number

    async def run(self, actors: Mapping[str, Callable[["Round", str], Coroutine[Any, Any, None]]]) -> None:
        """Run the actors, by name of their agent (``c`` and ``o`` stand for CPUs), and wait until all that they wrote is visible."""
        band = self.random.choice(BANDS)
        tasks = [cocotb.start_soon(self._start(actor, {"c": self.c, "o": self.o}.get(who, who), self.random.randrange(band)))
                 for who, actor in actors.items()]
        for task in tasks:
            await task
        for data in self._values.values():
            await self.machine.log.visible[data].wait()
            self.machine.log.forget(data)
        for name, host in self.host.items():
            self.seen[name] = self._number(name, self._memory(name))
            self.machine.give_line(host, self.at[name])
        for data in self._signals.values():
            self.machine.rung.pop(data, None)
            for cpu in CPUS:
                self.machine.interrupted.pop((cpu, data), None)
        self.machine.slots.append(self.slot)

    async def _start(self, actor: Callable[["Round", str], Coroutine[Any, Any, None]], who: str, delay: int) -> None:
        await self.machine.fabric.wait(1 + delay)
        await actor(self, who)

    @staticmethod
    async def beside(*parts: Coroutine[Any, Any, Any]) -> None:
        """Begin all of these in their order, and wait for all."""
        for task in [cocotb.start_soon(part) for part in parts]:
            await task

    # Memory

    async def write(self, who: str, name: str, number: int = 1, *, ro: bool = False, ido: bool = False) -> None:
        """Write a value: a device posts it, a CPU stores it."""
        data, machine = self._value(name, number), self.machine
        if who in machine.devices:
            await machine.devices[who].write(machine.base + self.at[name], data, ro=ro, ido=ido)
            return
        cpu, address = machine.cpus[who], machine.address(who, self.host[name], self.at[name])
        machine.log.issued[data].set()
        if machine.behaviour.in_order:
            async with machine.turns[who].storing():
                await cpu.store(address, data)
        else:
            await cpu.store(address, data, read_back=self.read_back)

    async def swap(self, who: str, name: str, *, ro: bool = False) -> None:
        """Write a value by an AtomicOp of a device, and wait for its answer."""
        data, machine = self._value(name, 1), self.machine
        machine.log.issued[data].set()
        self._number(name, await machine.devices[who].atomic("swap", machine.base + self.at[name], data, ro=ro))

    async def read(self, who: str, name: str, *, ro: bool = False, ido: bool = False, fresh: bool = False) -> int:
        """Read, and remember what was seen. ``fresh``: not from a line that was kept."""
        machine = self.machine
        if not (fresh or machine.behaviour.uncached or self.host[name] == CPUS.find(who) or who in machine.devices):
            self.seen[self._reader(who) + name] = 0
            return 0
        if who in machine.devices:
            data = await machine.devices[who].read(machine.base + self.at[name], WORD, ro=ro, ido=ido)
        else:
            cpu, address = machine.cpus[who], machine.address(who, self.host[name], self.at[name])
            if machine.behaviour.in_order:
                async with machine.turns[who].loading():
                    data = await cpu.load(address, WORD, ro=ro, ido=ido)
            else:
                data = await cpu.load(address, WORD, ro=ro, ido=ido)
        self.seen[self._reader(who) + name] = number = self._number(name, data)
        return number

    def _reader(self, who: str) -> str:
        return {self.c: "c", self.o: "o"}.get(who, who)

    async def poll(self, who: str, name: str, number: int = 1, *, ro: bool = False, ido: bool = False) -> None:
        """Read until value ``number`` is there. A CPU sees its own memory as soon as it changes; what is far is asked for early and often."""
        machine, data = self.machine, self._value(name, number)
        if self.host[name] == CPUS.find(who):
            await machine.log.visible[data].wait()
        elif who not in machine.devices and self.random.random() < 0.5:
            await machine.log.issued[data].wait()
        while await self.read(who, name, ro=ro, ido=ido, fresh=True) != number:
            await machine.log.issued[data].wait()
            await machine.fabric.wait(1 + self.random.randrange(self.random.choice((20, 300))))

    async def sent(self, name: str) -> None:
        """Wait until value 1 of a location is on the device's link."""
        await self.machine.log.issued[self._value(name, 1)].wait()

    # Registers, interrupts, and ways around the interposer

    async def interrupt(self, who: str) -> None:
        """A device sends an interrupt to the active host."""
        for cpu in CPUS:
            self.machine.interrupted.setdefault((cpu, self._signal("interrupt")), Event())
        await self.machine.devices[who].interrupt(MSI_BASE, self._signal("interrupt"))

    async def take_interrupt(self, cpu: str) -> None:
        """A CPU waits for it."""
        await self.machine.interrupted.setdefault((cpu, self._signal("interrupt")), Event()).wait()

    async def set_status(self, who: str) -> None:
        """A device changes its status register."""
        register = BARS[FUNCTIONS[who]][0] + STATUS_REGISTERS + WORD * self.slot
        self.machine.devices[who].registers.write(register, self._signal("status"))

    async def poll_status(self, cpu: str, who: str = "D") -> None:
        """A CPU reads that register until it has changed."""
        register, wanted = BARS[FUNCTIONS[who]][0] + STATUS_REGISTERS + WORD * self.slot, self._signal("status")
        while True:
            status, found = await self.machine.cpus[cpu].mmio_read(register, WORD)
            assert status == Status.SUCCESS, f"the register of {who} could not be read by Host {cpu.upper()}: {Status(status).name}"
            if found == wanted:
                return
            await self.machine.fabric.wait(1 + self.random.randrange(300))

    async def ring(self, cpu: str) -> None:
        """A CPU writes a doorbell of D."""
        data = self._signal("doorbell")
        self.machine.rung.setdefault(data, Event())
        register, machine = BARS["nvme"][0] + DOORBELLS + WORD * self.slot, self.machine
        if machine.behaviour.in_order:
            async with machine.turns[cpu].storing():
                await machine.cpus[cpu].mmio_write(register, data)
        else:
            await machine.cpus[cpu].mmio_write(register, data)

    async def rung(self) -> None:
        """D waits for it."""
        await self.machine.rung.setdefault(self._signal("doorbell"), Event()).wait()

    def look_rung(self, who: str) -> None:
        """Remember whether the doorbell has arrived."""
        event = self.machine.rung.get(self._signal("doorbell"))
        self.seen[f"{who}bell"] = int(event is not None and event.is_set())

    async def configure(self, cpu: str) -> None:
        """A CPU writes a configuration register of D and waits for the completion."""
        complex_, target = self.machine.cpus[cpu].root_complex, self.machine.devices["D"].config.requester_id
        status = await complex_.config_write(target, 0x40, bytes(WORD))
        assert status in (Status.SUCCESS, Status.UNSUPPORTED_REQUEST), f"the configuration write of Host {cpu.upper()}: {Status(status).name}"

    def tell(self, name: str = "word") -> None:
        """Say something by a way that the interposer does not see."""
        self._told.setdefault(name, Event()).set()

    async def told(self, name: str = "word") -> None:
        """Wait for it."""
        await self._told.setdefault(name, Event()).wait()

    def _signal(self, name: str) -> bytes:
        """The value of something that is no memory."""
        data = self._signals.get(name)
        if data is None:
            data = self._signals[name] = self.machine.values.take(0, WORD)
        return data
