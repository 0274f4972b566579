"""Agent of a register bus: words of 64 bits, written at once, read one at a time."""

from collections import deque
from typing import Any

from cocotb.triggers import Event

from .fabric import Fabric
from .words import WordLayout, WordSink, WordSource

__all__ = ["RegisterAgent"]


class RegisterAgent:
    """Accesses to the bus ``name``, in the order in which they are asked for."""

    def __init__(self, entity: Any, name: str, fabric: Fabric) -> None:
        bits = len(getattr(entity, f"{name}__request__payload")) - 73
        self._layout = WordLayout([("address", bits), ("write", 1), ("data", 64), ("strobe", 8)])
        self._requests: deque[int] = deque()
        self._answers: deque[Event] = deque()
        self._answer = 0
        self._source = WordSource(entity, f"{name}__request", fabric, lambda: self._requests.popleft() if self._requests else None)
        WordSink(entity, f"{name}__response", fabric, self._answered)

    def write(self, offset: int, value: int, size: int = 8) -> None:
        """Write a register of 4 or 8 bytes; it happens some cycles later."""
        self._ask(offset, size, write=1, data=value << 8 * (offset % 8))

    async def read(self, offset: int, size: int = 8) -> int:
        """What a register says."""
        done = Event()
        self._answers.append(done)
        self._ask(offset, size)
        await done.wait()
        return self._answer >> 8 * (offset % 8) & (1 << 8 * size) - 1

    def _ask(self, offset: int, size: int, **values: int) -> None:
        self._requests.append(self._layout.pack(address=offset & ~7, strobe=((1 << size) - 1) << offset % 8, **values))
        self._source.wake()

    def _answered(self, word: int) -> None:
        self._answer, error = word & (1 << 64) - 1, word >> 64
        assert not error, "a register answered with an error"
        self._answers.popleft().set()
