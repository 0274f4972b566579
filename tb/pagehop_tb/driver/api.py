"""The request that every mechanism answers, and what its driver needs of the machine it runs on."""

from dataclasses import dataclass
from typing import Protocol

__all__ = ["BusError", "CoherentMemory", "Commands", "Mappings", "MemoryAccess", "MoveResult", "NoMappings", "PageMover", "RegisterAccess"]


@dataclass(frozen=True)
class MoveResult:
    """How a move ended. ``error`` is a code of the mechanism (0 when moved) and ``reason`` its name; durations are cycles of the fabric clock."""

    moved: bool
    error: int
    reason: str
    hold_cycles: int
    total_cycles: int


class BusError(Exception):
    """A load through the link did not succeed. A real CPU would read all ones or take a machine check."""


class RegisterAccess(Protocol):
    """Register accesses of one CPU, in the order in which they are made. Offsets count from the block's BAR, values are little-endian."""

    async def read(self, offset: int, size: int = 8) -> int:
        """Read ``size`` bytes (4 or 8). Raises :class:`BusError` when the read did not succeed."""

    async def write(self, offset: int, value: int, size: int = 8) -> None:
        """Write ``size`` bytes (4 or 8); returns when the write is on its way."""


class MemoryAccess(Protocol):
    """Memory of one host as its hypervisor sees it, for what the interposer reads and writes there itself: rings, records, bitmaps."""

    def read(self, address: int, length: int) -> bytes:
        """Bytes at ``address``."""

    def write(self, address: int, data: bytes) -> None:
        """Let ``data`` stand at ``address``."""


class CoherentMemory(Protocol):
    """Words of 8 bytes as one CPU of the host sees them, in one order with the IOMMU's own accesses. Raises :class:`BusError` when one did not
    succeed; a swap may have been made then."""

    async def read(self, address: int) -> int:
        """The word at ``address``."""

    async def compare_and_swap(self, address: int, expected: int, value: int) -> int:
        """Let ``value`` stand at ``address`` if all of the word there is ``expected``, in one step. Returns what stood there before."""


class Commands(Protocol):
    """The command queue of an IOMMU."""

    async def execute(self, *commands: bytes) -> bool:
        """Queue commands of 16 bytes, and an IOFENCE.C with PR and PW behind them. Returns whether the fence has passed: when it has not, because the
        queue has stopped, it can be used again, and nothing is known of what these commands did."""


class Mappings(Protocol):
    """What the CPUs of both hosts have mapped: a page is in nobody's page tables while it moves (H05, H59)."""

    async def unmap(self, page: int) -> None:
        """Take the page from all CPUs: shoot down translations, then read back the last store that went through an aperture."""

    async def map(self, page: int, host: int) -> None:
        """The page may be used by the CPUs of ``host`` again."""


class NoMappings:
    """Mappings of a guest whose CPUs touch no page that moves."""

    async def unmap(self, page: int) -> None:
        """Nothing is mapped."""

    async def map(self, page: int, host: int) -> None:
        """Nothing is to be mapped."""


class PageMover(Protocol):
    """A mechanism that moves pages of the guest between two hosts. Pages are numbered in the guest window, host 0 is A and 1 is B."""

    async def move(self, page: int, to_host: int) -> MoveResult:
        """Move one page and return when it may be used at its new place (or stays for good at the old one)."""

    async def abort(self) -> None:
        """End the running move without moving the page, if it has not committed."""

    async def owner(self, page: int) -> int:
        """Host that owns the page."""

    async def harvest(self, first_page: int, pages: int, clear: bool = True) -> int:
        """Dirty bits of ``pages`` pages, that of ``first_page`` lowest. With ``clear`` they are taken, so that each is reported once."""
