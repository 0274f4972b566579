"""The guest's side of a device: its CPU, wherever it runs, with memory, doorbells and interrupts."""

from typing import Protocol

from cocotb.triggers import Event

from pagehop_tb.models.cpu import Cpu

__all__ = ["GuestAccess", "GuestCpu"]

#: Bytes that a CPU moves with one access.
WIDEST = 256


class GuestAccess(Protocol):
    """The guest's memory as the CPU of ``host`` reaches it. Offsets count from the base of the guest window."""

    async def load(self, host: int, offset: int, size: int = 4) -> bytes:
        """Load ``size`` bytes."""

    async def store(self, host: int, offset: int, data: bytes) -> None:
        """Store ``data``; visible to all when this returns."""


class GuestCpu:
    """The CPU ``cpu`` as the driver of one device uses it: its memory accesses, the device's registers at ``bar``, interrupts at ``vector``.

    *Members*: ``taken``, interrupts of this vector so far. Without a ``vector`` (None) the driver polls every ``interval`` cycles.
    """

    def __init__(self, cpu: Cpu, memory: GuestAccess, bar: int, vector: int | None = None, interval: int = 200) -> None:
        self.cpu, self.memory, self.bar, self.vector, self.interval = cpu, memory, bar, vector, interval
        self.fabric = cpu.fabric
        self.taken = 0
        self._interrupted = Event()
        cpu.on_interrupt.append(self._interrupt)

    async def load(self, offset: int, size: int) -> bytes:
        """Load any number of bytes of one page."""
        parts = [await self.memory.load(self.cpu.host, offset + start, min(WIDEST, size - start)) for start in range(0, size, WIDEST)]
        return b"".join(parts)

    async def store(self, offset: int, data: bytes) -> None:
        """Store any number of bytes of one page."""
        for start in range(0, len(data), WIDEST):
            await self.memory.store(self.cpu.host, offset + start, data[start:start + WIDEST])

    async def ring(self, register: int, value: int) -> None:
        """Write 4 bytes to a register of the device."""
        await self.cpu.mmio_write(self.bar + register, value.to_bytes(4, "little"))

    async def wait(self, seen: int, limit: int = 400_000) -> None:
        """Wait until more than ``seen`` interrupts have been taken; a CPU that polls waits its interval. Raises :class:`TimeoutError`."""
        if self.vector is None:
            await self.fabric.wait(self.interval)
            return
        started = self.fabric.cycle
        while self.taken <= seen:
            if self.fabric.cycle - started > limit:
                raise TimeoutError(f"Host {'AB'[self.cpu.host]}: no interrupt at {self.vector:#x} within {limit} cycles after the first {seen}")
            await self.fabric.wait(50)

    def _interrupt(self, address: int, data: bytes) -> None:
        if address == self.vector:
            self.taken += 1
