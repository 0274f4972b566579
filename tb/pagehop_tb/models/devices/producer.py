"""A device function that produces for a CPU: data first, then a flag."""

from collections.abc import Callable

from pagehop_tb.models.device import DeviceFunction
from pagehop_tb.models.values import UniqueValues

__all__ = ["Producer"]


class Producer:
    """Writes ``size`` bytes of data at ``data_address``, then raises the flag: the number of the round, 4 bytes at ``flag_address``.

    ``flag`` is how it is raised: ``write``, ``atomic`` (a Swap), or ``msi`` (``flag_address`` is in the interrupt range). The consumer acknowledges
    by writing the number of the round to the doorbell at offset 0 of the function's BAR.

    *Members*: ``round``, the present round, from 1; ``data``, what it wrote.
    """

    def __init__(self, function: DeviceFunction, data_address: int, flag_address: int, values: UniqueValues, size: int = 64,
                 flag: str = "write") -> None:
        if flag not in ("write", "atomic", "msi"):
            raise ValueError(f"Flag must be raised by write, atomic or msi, not {flag!r}")
        self.function = function
        self.data_address = data_address
        self.flag_address = flag_address
        self.values = values
        self.size = size
        self.flag = flag
        self.round = 0
        self.data = b""
        self._acknowledged = 0
        function.on_doorbell = self._doorbell

    async def produce(self) -> None:
        """One round, without waiting for the consumer."""
        self.round += 1
        number = self.round.to_bytes(4, "little")
        self.data = self.values.take(self.data_address, self.size)
        await self.function.write(self.data_address, self.data)
        if self.flag == "atomic":
            await self.function.atomic("swap", self.flag_address, number)
        else:
            await self.function.write(self.flag_address, number)

    async def run(self, rounds: int, limit: int = 200_000) -> None:
        """``rounds`` rounds, each after the last was acknowledged. Raises :class:`TimeoutError` when that takes more than ``limit`` cycles."""
        for _ in range(rounds):
            await self.produce()
            await self.wait_acknowledged(limit)

    async def wait_acknowledged(self, limit: int, look: Callable[[], bool] | None = None) -> None:
        """Wait for the doorbell of this round, or for ``look`` to say that it is no longer needed."""
        started = self.function.fabric.cycle
        while self._acknowledged != self.round and not (look is not None and look()):
            if self.function.fabric.cycle - started > limit:
                raise TimeoutError(f"{self.function.name}: round {self.round} was not acknowledged within {limit} cycles")
            await self.function.fabric.wait(20)

    def _doorbell(self, offset: int, data: bytes) -> None:
        if offset == 0:
            self._acknowledged = int.from_bytes(data[:4], "little")
