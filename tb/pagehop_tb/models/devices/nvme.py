"""An NVMe-like queue pair: doorbell, command, data, completion entry, interrupt, and the driver that checks each of them."""

from dataclasses import dataclass, field
from random import Random

import cocotb
from cocotb.task import Task
from cocotb.triggers import Lock

from pagehop_tb.models.device import DeviceFunction
from pagehop_tb.models.values import UniqueValues

from .guest_cpu import GuestCpu

__all__ = ["NvmeController", "NvmeDriver", "NvmeQueues"]

COMMAND, COMPLETION = 64, 16
WRITE, READ = 1, 2
#: Registers: the tail of the submission queue, the head of the completion queue.
TAIL, HEAD = 0x1000, 0x1004
SIZES = (64, 200, 512, 1024, 4096)


@dataclass
class _Command:
    """What both sides know of a command by the way of the bench: the bytes in memory must agree with it."""

    opcode: int
    offset: int
    size: int
    entry: bytes
    data: bytes
    completion: bytes = b""


@dataclass
class NvmeQueues:
    """Where the pair stands: offsets into the guest of both queues (each within a page) and of a page a command for its data.

    ``commands`` is the channel of the bench: by command identifier, which is the number of its data page.
    """

    submission: int
    completion: int
    buffers: list[int]
    entries: int = 16
    commands: dict[int, _Command] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not len(self.buffers) < self.entries <= 64:
            raise ValueError(f"A queue must have more entries than the {len(self.buffers)} buffers, and at most 64, not {self.entries}")


class NvmeController:
    """The device's side: fetches commands when its doorbell is rung, moves their data, writes completion entries in order, interrupts.

    ``base`` is where the device sees the guest. ``interrupt`` is the address of its interrupts, or None. Data is written with RO in a share
    ``relaxed`` of the commands; the entry behind it is not. Raises :class:`AssertionError` for a command or data that is not what the driver stored.

    *Members*: ``done``, commands completed; ``stop`` ends the run once nothing is open.
    """

    def __init__(self, function: DeviceFunction, queues: NvmeQueues, base: int, values: UniqueValues, seed: int, interrupt: int | None,
                 relaxed: float = 0.3) -> None:
        self.function, self.queues, self.base, self.values, self.interrupt, self.relaxed = function, queues, base, values, interrupt, relaxed
        self.random = Random(seed)
        self.stop = False
        self.done = 0
        self._tail = self._head = 0
        self._completing = Lock()
        self._open: list[Task[None]] = []
        function.on_doorbell = self._doorbell

    def _doorbell(self, offset: int, data: bytes) -> None:
        if offset == TAIL:
            self._tail = int.from_bytes(data[:4], "little")

    async def run(self) -> None:
        """Serve commands until :attr:`stop`."""
        queues = self.queues
        while not self.stop or self._head != self._tail:
            if self._head == self._tail:
                await self.function.fabric.wait(20)
                continue
            last = self._tail if self._tail > self._head else queues.entries
            count = min(last - self._head, 4)
            fetched = await self.function.read(self.base + queues.submission + self._head * COMMAND, count * COMMAND)
            self._head = (self._head + count) % queues.entries
            for start in range(0, len(fetched), COMMAND):
                self._open.append(cocotb.start_soon(self._execute(fetched[start:start + COMMAND])))
            self._open = [task for task in self._open if not task.done()]
        for task in self._open:
            await task

    async def _execute(self, entry: bytes) -> None:
        number = entry[2] | entry[3] << 8
        command = self.queues.commands.get(number)
        assert command is not None and command.entry == entry, f"{self.function.name} fetched {entry.hex()}, which is no command of now"
        address, size = int.from_bytes(entry[24:32], "little"), int.from_bytes(entry[48:52], "little")
        if entry[0] == WRITE:
            data = await self.function.read(address, size)
            assert data == command.data, f"{self.function.name}: the data of command {number} at {address:#x} is not what the driver stored"
        else:
            command.data = self.values.take(address, size)
            await self.function.write(address, command.data, ro=self.random.random() < self.relaxed)
        async with self._completing:
            await self._complete(number, command)

    async def _complete(self, number: int, command: _Command) -> None:
        queues = self.queues
        slot, turn = self.done % queues.entries, self.done // queues.entries
        place = self.base + queues.completion + slot * COMPLETION
        tail = (number | (~turn & 1) << 16).to_bytes(4, "little")
        command.completion = self.values.take(place, COMPLETION - 4) + tail
        self.done += 1
        await self.function.write(place, command.completion)
        if self.interrupt is not None:
            await self.function.interrupt(self.interrupt, self.values.take(0, 4))


class NvmeDriver:
    """The CPU's side: stores data and commands, rings, takes interrupts (or polls), checks completion entries and what was read.

    Raises :class:`AssertionError` when an interrupt came before its entry, or an entry or data is not what the device wrote.

    *Members*: ``submitted`` and ``completed`` count commands, ``checked`` bytes; ``stop`` ends the run once all are completed.
    """

    def __init__(self, cpu: GuestCpu, queues: NvmeQueues, base: int, values: UniqueValues, seed: int, gap: int = 500) -> None:
        self.cpu, self.queues, self.base, self.values, self.gap = cpu, queues, base, values, gap
        self.random = Random(seed)
        self.stop = False
        self.submitted = self.completed = self.checked = 0
        self._free = list(range(len(queues.buffers)))

    async def run(self, count: int | None = None) -> None:
        """Keep commands open until ``count`` were submitted, or until :attr:`stop`."""
        while self._goes_on(count) or self.submitted > self.completed:
            if self._free and self._goes_on(count):
                for _ in range(self.random.randint(1, len(self._free))):
                    await self._submit()
                await self.cpu.ring(TAIL, self.submitted % self.queues.entries)
                await self.cpu.fabric.wait(self.random.randint(1, self.gap))
            if self.submitted > self.completed:
                await self.cpu.wait(self.completed)
                await self._reap()

    def _goes_on(self, count: int | None) -> bool:
        return not self.stop and (count is None or self.submitted < count)

    async def _submit(self) -> None:
        random, queues = self.random, self.queues
        number = self._free.pop(random.randrange(len(self._free)))
        size = random.choice(SIZES)
        offset = queues.buffers[number] + (random.randrange(0, 4096 - size + 1, 64) if size < 4096 else 0)
        opcode = random.choice((WRITE, READ))
        data = self.values.take(offset, size) if opcode == WRITE else b""
        if data:
            await self.cpu.store(offset, data)
        place = queues.submission + self.submitted % queues.entries * COMMAND
        entry = bytearray(self.values.take(place, COMMAND))
        entry[0:4] = (opcode | number << 16).to_bytes(4, "little")
        entry[24:32] = (self.base + offset).to_bytes(8, "little")
        entry[48:52] = size.to_bytes(4, "little")
        queues.commands[number] = _Command(opcode, offset, size, bytes(entry), data)
        await self.cpu.store(place, bytes(entry))
        self.submitted += 1

    async def _reap(self) -> None:
        """Take all new completion entries: at least one for each interrupt."""
        owed = self.cpu.taken - self.completed if self.cpu.vector is not None else 0
        found = 0
        while await self._take():
            found += 1
        assert found >= owed, f"{owed} interrupts of the NVMe device were taken, and {found} completion entries stand in memory"
        if found:
            await self.cpu.ring(HEAD, self.completed % self.queues.entries)

    async def _take(self) -> bool:
        queues = self.queues
        entry = await self.cpu.load(queues.completion + self.completed % queues.entries * COMPLETION, COMPLETION)
        if bool(entry[14] & 1) == bool(self.completed // queues.entries & 1):
            return False
        number = entry[12] | entry[13] << 8
        command = queues.commands.get(number)
        assert command is not None and command.completion == entry, (
            f"completion entry {self.completed} is {entry.hex()}, which the device did not write")
        if command.opcode == READ:
            data = await self.cpu.load(command.offset, command.size)
            assert data == command.data, (
                f"command {number} is complete in cycle {self.cpu.fabric.cycle}, and its data at {command.offset:#x} is old")
            self.checked += len(data)
        del queues.commands[number]
        self._free.append(number)
        self.completed += 1
        return True
