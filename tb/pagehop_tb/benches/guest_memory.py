"""Guest memory as the CPUs of both hosts reach it: local where the page is, else through the aperture, and not at all while it moves."""

from collections.abc import Callable

from cocotb.triggers import Event

from pagehop_tb.benches.guest import APERTURE_A, APERTURE_B, PAGE, Guest

__all__ = ["GuestMemory"]


class GuestMemory:
    """Mappings of a guest's pages (:class:`pagehop_tb.driver.api.Mappings`) and the accesses of its CPUs through them.

    Offsets count from the base of the window. An access to a page that moves waits until the page is mapped again; a move waits until no access to
    the page is under way, and the last store through an aperture was read back (H05, H59).
    """

    def __init__(self, guest: Guest) -> None:
        self.guest = guest
        self.hosts = [0] * guest.pages
        self._users = [0] * guest.pages
        self._unmapped: set[int] = set()
        self._changed = Event()

    async def unmap(self, page: int) -> None:
        """Let nobody in, and wait until all are out."""
        self._unmapped.add(page)
        while self._users[page]:
            await self._change()

    async def map(self, page: int, host: int) -> None:
        """The page is at ``host``."""
        self.hosts[page] = host
        self._unmapped.discard(page)
        self._changed.set()

    async def _change(self) -> None:
        self._changed.clear()
        await self._changed.wait()

    async def _enter(self, page: int) -> None:
        while page in self._unmapped:
            await self._change()
        self._users[page] += 1

    def _leave(self, page: int) -> None:
        self._users[page] -= 1
        self._changed.set()

    def _address(self, host: int, offset: int) -> int:
        place = self.hosts[offset // PAGE]
        if place != host and self.guest.config.hosts == 2:
            return (APERTURE_B if host else APERTURE_A) + offset
        return self.guest.driver.place(0, place) + offset

    async def load(self, host: int, offset: int, size: int = 4) -> bytes:
        """Load by the CPU of ``host``."""
        await self._enter(offset // PAGE)
        try:
            return await self.guest.system.hosts[host].cpu.load(self._address(host, offset), size)
        finally:
            self._leave(offset // PAGE)

    async def store(self, host: int, offset: int, data: bytes) -> None:
        """Store by the CPU of ``host``; through an aperture it has been read back when this returns (O9)."""
        await self._enter(offset // PAGE)
        try:
            await self.guest.system.hosts[host].cpu.store(self._address(host, offset), data)
        finally:
            self._leave(offset // PAGE)

    async def poll(self, host: int, offset: int, wanted: Callable[[bytes], bool], size: int = 4, limit: int = 200_000) -> bytes:
        """Load until the data is ``wanted``."""
        fabric = self.guest.system.fabric
        started = fabric.cycle
        while not wanted(data := await self.load(host, offset, size)):
            if fabric.cycle - started > limit:
                raise TimeoutError(f"Host {'AB'[host]}: memory at {offset:#x} of the guest did not change as expected in {limit} cycles")
            await fabric.wait(40)
        return data
