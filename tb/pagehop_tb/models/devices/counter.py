"""A device function that counts in memory with FetchAdd."""

from pagehop_tb.models.device import DeviceFunction

__all__ = ["AtomicCounter"]


class AtomicCounter:
    """Adds 1 to the 8 bytes at ``address``, one AtomicOp after the other.

    Nothing else may write there. Each answer must be the count so far: an add that was lost or done twice is an error at once.

    *Members*: ``stop`` ends the run; ``count``, the value that memory must have.
    """

    def __init__(self, function: DeviceFunction, address: int, gap: int = 0) -> None:
        if address % 8:
            raise ValueError(f"A counter must be aligned to its 8 bytes, not at {address:#x}")
        self.function = function
        self.address = address
        self.gap = gap
        self.stop = False
        self.count = 0

    async def run(self, count: int | None = None) -> None:
        """Add ``count`` times, or until :attr:`stop`. Raises :class:`AssertionError` for a wrong answer."""
        one = (1).to_bytes(8, "little")
        while not self.stop and (count is None or self.count < count):
            old = int.from_bytes(await self.function.atomic("fetch_add", self.address, one), "little")
            if old != self.count:
                raise AssertionError(f"{self.function.name}: the counter at {self.address:#x} was {old} after {self.count} adds")
            self.count += 1
            if self.gap:
                await self.function.fabric.wait(self.gap)
