"""A device that tells by a register that data stands in memory, and a CPU that reads both."""

from pagehop_tb.models.device import DeviceFunction
from pagehop_tb.models.observer import Status
from pagehop_tb.models.values import UniqueValues

from .guest_cpu import GuestCpu

__all__ = ["StatusRegister"]

_LINE = 64


class StatusRegister:
    """Writes a line of the page at ``offset``, then its register at ``register``; the CPU reads the register until it is new, then the line (H18).

    Raises :class:`AssertionError` when the line is old. *Members*: ``rounds`` that were right; ``stop`` ends the run.
    """

    def __init__(self, function: DeviceFunction, cpu: GuestCpu, offset: int, base: int, values: UniqueValues, register: int = 0x100) -> None:
        self.function, self.cpu, self.offset, self.base, self.values, self.register = function, cpu, offset, base, values, register
        self.stop = False
        self.rounds = 0

    async def run(self) -> None:
        """Go on until :attr:`stop`."""
        place = self.cpu.bar + self.register
        while not self.stop:
            offset = self.offset + self.rounds * _LINE % 4096
            data, status = self.values.take(offset, _LINE), self.values.take(0, 4)
            await self.function.write(self.base + offset, data)
            self.function.registers.write(place, status)
            while True:
                result, found = await self.cpu.cpu.mmio_read(place, 4)
                assert result == Status.SUCCESS, f"the status register of {self.function.name} could not be read: {Status(result).name}"
                if found == status:
                    break
            assert await self.cpu.load(offset, _LINE) == data, f"the status of {self.function.name} is new, and the data at {offset:#x} is old"
            self.rounds += 1
            await self.cpu.fabric.wait(self.cpu.interval)
