"""A NIC-like receive ring: descriptors, buffers, write-back, coalesced interrupts, and the driver that checks each packet."""

from dataclasses import dataclass, field
from random import Random

from pagehop_tb.models.device import DeviceFunction
from pagehop_tb.models.values import UniqueValues

from .guest_cpu import GuestCpu

__all__ = ["NicDriver", "NicReceiver", "NicRing"]

DESCRIPTOR = 16
#: Register: number of descriptors that were posted, since the start.
TAIL = 0x18
#: Bytes of a buffer.
BUFFER = 2048
DONE = 1 << 31


@dataclass
class NicRing:
    """Where the ring stands: offset into the guest of ``entries`` descriptors, and of two buffers a page of ``buffers``.

    Channels of the bench, by number since the start: ``posted``, descriptors as stored; ``packets``, what came in and its descriptor written back.
    """

    ring: int
    buffers: list[int]
    entries: int = 16
    posted: dict[int, bytes] = field(default_factory=dict)
    packets: dict[int, tuple[bytes, bytes]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not 1 <= self.entries <= 256 or not self.buffers:
            raise ValueError(f"A ring must have 1 to 256 descriptors and a buffer, not {self.entries} and {len(self.buffers)}")

    @property
    def slots(self) -> int:
        """Descriptors in use at most: never two for one buffer."""
        return min(self.entries, 2 * len(self.buffers))

    def buffer(self, number: int) -> int:
        """Offset of the buffer of descriptor ``number``."""
        pick = number % self.slots
        return self.buffers[pick // 2] + pick % 2 * BUFFER

    def place(self, number: int) -> int:
        """Offset of descriptor ``number``."""
        return self.ring + number % self.entries * DESCRIPTOR


class NicReceiver:
    """The device's side: fetches descriptors ahead, writes each packet into its buffer, the descriptor back, and interrupts now and then.

    An interrupt stands for up to ``coalesce`` packets, or comes ``patience`` cycles after the first that has none. Packets come up to ``gap`` cycles
    apart. Raises :class:`AssertionError` for a descriptor that is not what the driver stored.

    *Members*: ``received``, packets so far; ``stop`` ends the run after the present packet.
    """

    def __init__(self, function: DeviceFunction, ring: NicRing, base: int, values: UniqueValues, seed: int, interrupt: int | None, coalesce: int = 4,
                 patience: int = 2000, gap: int = 1500) -> None:
        self.function, self.ring, self.base, self.values, self.interrupt = function, ring, base, values, interrupt
        self.coalesce, self.patience, self.gap = coalesce, patience, gap
        self.random = Random(seed)
        self.stop = False
        self.received = 0
        self._posted = self._silent = self._first_silent = 0
        self._ahead: list[bytes] = []
        function.on_doorbell = self._doorbell

    def _doorbell(self, offset: int, data: bytes) -> None:
        if offset == TAIL:
            self._posted = int.from_bytes(data[:4], "little")

    async def run(self) -> None:
        """Receive until :attr:`stop`; the last packets are announced too."""
        while not self.stop:
            if not self._ahead:
                await self._fetch()
            if self._ahead:
                await self._receive(self._ahead.pop(0))
            await self.function.fabric.wait(self.random.randint(1, self.gap))
            if self._silent and (self._silent >= self.coalesce or self.function.fabric.cycle - self._first_silent > self.patience):
                await self._announce()
        if self._silent:
            await self._announce()

    async def _fetch(self) -> None:
        ring, first = self.ring, self.received
        count = min(self._posted - first, ring.entries - first % ring.entries, 4)
        if not count:
            return
        data = await self.function.read(self.base + ring.place(first), count * DESCRIPTOR)
        for number in range(count):
            descriptor = data[number * DESCRIPTOR:][:DESCRIPTOR]
            assert descriptor == ring.posted[first + number], (
                f"{self.function.name} fetched {descriptor.hex()}, which is not descriptor {first + number}")
            self._ahead.append(descriptor)

    async def _receive(self, descriptor: bytes) -> None:
        address = int.from_bytes(descriptor[:8], "little")
        place = self.base + self.ring.place(self.received)
        packet = self.values.take(address, self.random.choice((60, 64, 300, 590, 1514)))
        back = (DONE | len(packet)).to_bytes(4, "little") + self.values.take(place + 4, 8) + self.received.to_bytes(4, "little")
        self.ring.packets[self.received] = packet, back
        await self.function.write(address, packet, ro=self.random.random() < 0.5)
        await self.function.write(place, back)
        self.received += 1
        self._first_silent = self._first_silent if self._silent else self.function.fabric.cycle
        self._silent += 1

    async def _announce(self) -> None:
        self._silent = 0
        if self.interrupt is not None:
            await self.function.interrupt(self.interrupt, self.values.take(0, 4))


class NicDriver:
    """The CPU's side: posts descriptors, looks at the ring after an interrupt (or now and then), checks what was received, posts again.

    *Members*: ``received``, packets that were right; ``checked``, their bytes; ``stop`` ends the run.
    """

    def __init__(self, cpu: GuestCpu, ring: NicRing, base: int, values: UniqueValues) -> None:
        self.cpu, self.ring, self.base, self.values = cpu, ring, base, values
        self.stop = False
        self.received = self.checked = 0
        self._posted = 0

    async def run(self) -> None:
        """Receive until :attr:`stop`."""
        await self._post()
        while not self.stop:
            await self.cpu.fabric.wait(self.cpu.interval)
            seen = self.cpu.taken
            if self.cpu.vector is None or seen:
                while await self._take():
                    pass
                self.cpu.taken -= seen
            if self._posted - self.received <= self.ring.slots // 2:
                await self._post()

    async def _post(self) -> None:
        ring = self.ring
        while self._posted - self.received < ring.slots:
            number = self._posted
            address = self.base + ring.buffer(number)
            # The upper half is unique, and its top bit is not DONE's.
            ring.posted[number] = address.to_bytes(8, "little") + self.values.take(0, 8)
            await self.cpu.store(ring.place(number), ring.posted[number])
            self._posted += 1
        await self.cpu.ring(TAIL, self._posted)

    async def _take(self) -> bool:
        ring, number = self.ring, self.received
        if number >= self._posted:
            return False
        entry = await self.cpu.load(ring.place(number), DESCRIPTOR)
        if entry == ring.posted[number]:
            return False
        packet, back = ring.packets.get(number, (b"", b""))
        assert entry == back, f"descriptor {number} is {entry.hex()}, which neither side wrote"
        data = await self.cpu.load(ring.buffer(number), len(packet))
        assert data == packet, (
            f"packet {number} is announced in cycle {self.cpu.fabric.cycle}, and its buffer at {ring.buffer(number):#x} holds other data")
        del ring.posted[number], ring.packets[number]
        self.received += 1
        self.checked += len(packet)
        return True
