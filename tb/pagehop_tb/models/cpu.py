"""CPU of one host, as far as the guest's memory and the devices see it."""

from collections.abc import Callable

from cocotb.triggers import Event

from pagehop_tb.driver.api import BusError
from pagehop_tb.pins import Fabric

from .memory import HostMemory
from .observer import Observer, Status
from .root_complex import RootComplex

__all__ = ["Aperture", "BusError", "Cpu", "CpuRegisters"]


class Aperture:
    """A range of this host's addresses that is the other host's memory: uncached, one access at a time (O8)."""

    def __init__(self, base: int, size: int) -> None:
        self.base = base
        self.end = base + size

    def __contains__(self, address: int) -> bool:
        return self.base <= address < self.end


class Cpu:
    """One CPU: local memory, registers, the aperture, interrupts. Its accesses take effect in program order.

    A local access takes ``local_cycles``. A store through the aperture is read back before anything else happens (O9), unless ``read_back`` is off.
    Registers at another port of the host are reached through that one.
    """

    def __init__(self, host: int, root_complex: RootComplex, memory: HostMemory, fabric: Fabric, observer: Observer, aperture: Aperture | None = None,
                 local_cycles: int = 2, read_back: bool = True) -> None:
        self.host = host
        self.root_complex = root_complex
        self.memory = memory
        self.fabric = fabric
        self.observer = observer
        self.aperture = aperture
        self.local_cycles = local_cycles
        self.read_back = read_back
        self.interrupts: list[tuple[int, int, bytes]] = []
        self.on_interrupt: list[Callable[[int, bytes], None]] = []
        self._interrupted = Event()
        root_complex.on_msi = self.interrupt

    # Memory

    async def load(self, address: int, size: int, *, ro: bool = False, ido: bool = False) -> bytes:
        """Load from memory: local, or through the aperture with these attributes. Raises :class:`BusError` when the link answers with an error."""
        issued = self.fabric.cycle
        if self.aperture is not None and address in self.aperture:
            status, data = await self.root_complex.read(address, size, ro=ro, ido=ido)
            if status != Status.SUCCESS:
                raise BusError(f"Host {'AB'[self.host]}: load of {size} bytes at {address:#x} ended with status {Status(status).name}")
        else:
            await self.fabric.wait(self.local_cycles)
            data = self.memory.read(address, size)
        self.observer.cpu_load(self.fabric.cycle, self.host, address, data, issued)
        return data

    async def store(self, address: int, data: bytes, read_back: bool | None = None) -> None:
        """Store to memory. A local store is visible at once; one through the aperture when its read-back has returned.

        ``read_back`` takes the place of the CPU's own habit for this store.
        """
        if self.aperture is None or address not in self.aperture:
            await self.fabric.wait(self.local_cycles)
            cycle = self.fabric.cycle
            self.observer.cpu_store(cycle, self.host, address, data)
            self.memory.write(address, data)
            start = address & ~3
            end = address + len(data) + 3 & ~3
            enables = None if (start, end) == (address, address + len(data)) else (1 << len(data)) - 1 << address - start
            self.observer.performed_write(cycle, self.host, start, self.memory.read(start, end - start), enables, 0, "cpu")
            return
        self.observer.cpu_store(self.fabric.cycle, self.host, address, data)
        self.root_complex.post(address, data)
        if self.read_back if read_back is None else read_back:
            await self.flush(address)

    async def flush(self, address: int) -> None:
        """Zero-length read through the aperture: what was stored there before is visible when this returns."""
        status, _ = await self.root_complex.read(address, 0)
        if status != Status.SUCCESS:
            raise BusError(f"Host {'AB'[self.host]}: flush of {address:#x} ended with status {Status(status).name}")
        self.observer.cpu_fence(self.fabric.cycle, self.host)

    async def poll(self, address: int, size: int, wanted: Callable[[bytes], bool], interval: int = 40, limit: int = 100_000) -> bytes:
        """Load until the data is ``wanted``. Raises :class:`TimeoutError` after ``limit`` cycles."""
        started = self.fabric.cycle
        while True:
            data = await self.load(address, size)
            if wanted(data):
                return data
            if self.fabric.cycle - started > limit:
                raise TimeoutError(f"Host {'AB'[self.host]}: memory at {address:#x} did not change as expected in {limit} cycles")
            await self.fabric.wait(interval)

    # Registers

    async def mmio_write(self, address: int, data: bytes) -> None:
        """Posted write to a register; returns when it has left the CPU."""
        self.observer.mmio_write(self.fabric.cycle, self.host, address, data)
        self.root_complex.route(address).post(address, data)

    async def mmio_read(self, address: int, size: int, *, ro: bool = False) -> tuple[int, bytes]:
        """Register read: status, and data when that is SUCCESS."""
        issued = self.fabric.cycle
        status, data = await self.root_complex.route(address).read(address, size, ro=ro)
        self.observer.mmio_read_done(self.fabric.cycle, self.host, address, data, status, issued)
        return status, data

    # Interrupts

    def interrupt(self, address: int, data: bytes) -> None:
        """An MSI has been delivered."""
        self.interrupts.append((self.fabric.cycle, address, data))
        for function in self.on_interrupt:
            function(address, data)
        self._interrupted.set()

    async def wait_interrupts(self, count: int) -> None:
        """Wait until ``count`` interrupts have been taken since the start."""
        while len(self.interrupts) < count:
            self._interrupted.clear()
            await self._interrupted.wait()


class CpuRegisters:
    """Register accesses of a CPU to one BAR, as the drivers want them: offsets and little-endian numbers."""

    def __init__(self, cpu: Cpu, base: int) -> None:
        self.cpu = cpu
        self.base = base

    async def read(self, offset: int, size: int = 8) -> int:
        """Read ``size`` bytes. Raises :class:`BusError` when the read did not succeed."""
        status, data = await self.cpu.mmio_read(self.base + offset, size)
        if status != Status.SUCCESS:
            raise BusError(f"Host {'AB'[self.cpu.host]}: read of register {offset:#x} ended with status {Status(status).name}")
        return int.from_bytes(data, "little")

    async def write(self, offset: int, value: int, size: int = 8) -> None:
        """Write ``size`` bytes."""
        await self.cpu.mmio_write(self.base + offset, value.to_bytes(size, "little"))
