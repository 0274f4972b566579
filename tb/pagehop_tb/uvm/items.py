"""Sequence items: one thing that a device function, a CPU or a hypervisor does."""

from typing import Any

from cocotb.triggers import Event
from pyuvm import uvm_sequence_item

from pagehop_tb.driver.api import MoveResult
from pagehop_tb.models.observer import Status
from pagehop_tb.protocol import Tlp

__all__ = ["CpuItem", "DmaItem", "HypervisorItem", "Item"]


class Item(uvm_sequence_item):
    """A thing to do. Its driver takes the next item when this one is on its way; :meth:`ended` waits for its end."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self._over = Event()

    def end(self) -> None:
        """Called by the driver when all is done."""
        self._over.set()

    async def ended(self) -> None:
        """Wait for the end."""
        await self._over.wait()


class DmaItem(Item):
    """A request by the device function ``agent``. The tag is the function's to choose. ``data`` and ``status`` are known at the end of a read."""

    def __init__(self, agent: str, tlp: Tlp) -> None:
        super().__init__("dma")
        self.agent, self.tlp = agent, tlp
        self.data, self.status = b"", Status.SUCCESS


class CpuItem(Item):
    """An access by the CPU of a host: ``load``, ``store``, ``mmio_read``, ``mmio_write``, ``config_read`` or ``config_write``.

    ``address`` is the CPU's own, or the function's ID and register (DW2) of a configuration request. ``status`` is known at the end.
    """

    def __init__(self, op: str, address: int, data: bytes = b"", size: int = 4) -> None:
        super().__init__(op)
        self.op, self.address, self.data, self.size = op, address, data, size
        self.status = int(Status.SUCCESS)


class HypervisorItem(Item):
    """A call of the driver's API, by name and with its arguments; ``result`` is what it returned."""

    def __init__(self, call: str, *arguments: Any, **named: Any) -> None:
        super().__init__(call)
        self.call, self.arguments, self.named = call, arguments, named
        self.result: Any = None

    @property
    def moved(self) -> MoveResult:
        """The result of a move."""
        assert isinstance(self.result, MoveResult), f"{self.call} returned {self.result!r}"
        return self.result
