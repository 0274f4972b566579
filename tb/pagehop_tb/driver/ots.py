"""Host-side driver of the on-the-side device: moves pages by leading them through a window (FIG. 13, method 1300, without its races)."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol

from pagehop_tb.driver import ots_registers as regs
from pagehop_tb.driver.api import Mappings, MoveResult, NoMappings, RegisterAccess
from pagehop_tb.driver.interposer import MoveObserver

__all__ = ["Copier", "Entries", "OtsDriver", "OtsError", "OtsSetup"]

#: Words of a window.
STATE, PLACE, LINES, FIRST, LAST, COUNTS, TAKEN = range(7)
OPEN, HELD, EXPIRED, ATOMIC = 1, 2, 8, 64     # bits of the first
EVERY_LINE = (1 << 64) - 1
#: Words a window, and bytes of a word.
_WORDS, _WORD = 8, 8


class OtsError(Exception):
    """The device did not do what it was told, or was told what it cannot do."""


class Entries(Protocol):
    """The entries of the IOMMU that lead to the pages."""

    async def write(self, page: int, target: int) -> None:
        """Let the entry of ``page`` lead to the page at this address. Returns when walks see that."""

    async def forget(self, page: int) -> None:
        """Return when nobody keeps what the entry of ``page`` said, and what devices did by it is done: invalidated and drained (H01, H02, H26).
        While the entry is held nobody has got it again either."""

    async def hold(self, page: int) -> bool:
        """From now on who asks for the entry of ``page`` waits, until :meth:`release`. False where that is not possible."""

    async def release(self) -> None:
        """End it."""


class Copier(Protocol):
    """Copies pages between the hosts."""

    async def copy(self, page: int, to_host: int, lines: int) -> None:
        """Copy the lines of 64 bytes whose bits are set. Returns when they are visible (H03)."""


@dataclass(frozen=True)
class OtsSetup:
    """``window_bar``: address of the window BAR. ``windows``: how many are used. ``tries``: rounds of copying before the device copies, or, where it
    cannot, the window holds what comes: what waits there may stop the CPU's accesses too, until the limit of the hold.
    ``snapshot``: after the first, only lines that were written are copied. ``itself``: the device copies. Limits in cycles: ``hold`` of a hold,
    ``completion`` of an answer, ``limit`` of anything that the driver waits for."""

    window_bar: int
    windows: int = 1
    tries: int = 4
    snapshot: bool = True
    itself: bool = False
    hold: int = 12_500
    completion: int = 50_000
    limit: int = 1_000_000


class OtsDriver:
    """Moves pages of a guest through windows, as :class:`~pagehop_tb.driver.api.PageMover`. One caller at a time.

    Each move is: take a window that leads to the page where it is; let the entry lead to the window, while devices that ask for it are kept waiting
    until what went the short way is done; open. Copy while devices go on, again
    what they write, until nothing was written; then, in one step, the window leads to the new place. At last the entry leads there itself, while
    devices that ask for it are kept waiting until what came through the window is visible. Where devices cannot be kept waiting the window holds what
    comes to it at first, which is enough while there is room for it, and at the end what comes the short way may pass what came through the window.

    Parameters
    ----------
    registers : of the CPU that runs this. entries, copier : see there. wait : for so many cycles. now : the cycle
    place : address of the page that a host (0: A, 1: B) has for a page. push : makes visible what the devices have sent (see :class:`IommuDriver`)
    """

    def __init__(self, registers: RegisterAccess, entries: Entries, copier: Copier, wait: Callable[[int], Awaitable[None]], now: Callable[[], int],
                 observer: MoveObserver, place: Callable[[int, int], int], push: Callable[[], Awaitable[None]],
                 mappings: Mappings | None = None) -> None:
        self.registers, self.entries, self.copier, self.wait, self.now, self.observer = registers, entries, copier, wait, now, observer
        self.place, self.push, self.mappings = place, push, mappings or NoMappings()
        self._setup: OtsSetup | None = None
        self._next, self._copies, self._owners = 0, False, dict[int, int]()
        #: Rounds of copying, and lines that were copied, of all moves.
        self.rounds = self.lines = 0

    async def setup(self, setup: OtsSetup) -> None:
        """Program the device. Raises :class:`OtsError` when it is another, or has fewer windows."""
        found = await self.registers.read(regs.Identification.offset)
        if found != regs.Identification.reset:
            raise OtsError(f"The device must be an on-the-side device of version 1, {regs.Identification.reset:#x}, and says {found:#x}")
        capabilities = await self.registers.read(regs.Capabilities.offset)
        have, self._copies = regs.Capabilities.WINDOWS.get(capabilities), bool(regs.Capabilities.COPIES.get(capabilities))
        if not 1 <= setup.windows <= have:
            raise OtsError(f"The device has {have} windows, so 1 to {have} can be used, not {setup.windows}")
        await self.registers.write(regs.Limits.offset, regs.Limits.HOLD.of(setup.hold) | regs.Limits.COMPLETION.of(setup.completion))
        self._setup = setup

    def _known(self) -> OtsSetup:
        if self._setup is None:
            raise OtsError("setup must be called before a page is moved")
        return self._setup

    # What a window is told, and tells.

    async def order(self, window: int, op: regs.WindowOp, target: int | None = None) -> regs.WindowRefusal:
        """Give an order, wait until it is carried out or refused, and return why."""
        if target is not None:
            await self.registers.write(regs.WindowTarget.offset, target)
        before = await self.registers.read(regs.WindowStatus.offset)
        await self.registers.write(regs.WindowOrder.offset, regs.WindowOrder.WINDOW.of(window) | regs.WindowOrder.OP.of(op))
        orders = regs.WindowStatus.ORDERS

        def over(status: int) -> bool:
            return orders.get(status) != orders.get(before)

        status = await self._until(regs.WindowStatus.offset, over, f"order {op.name} of window {window}")
        return regs.WindowRefusal(regs.WindowStatus.REFUSAL.get(status))

    async def _must(self, window: int, op: regs.WindowOp, target: int | None = None) -> None:
        refusal = await self.order(window, op, target)
        if refusal:
            raise OtsError(f"Order {op.name} of window {window} was refused: {refusal.name.lower()}")

    async def word(self, window: int, word: int) -> int:
        """A word of a window."""
        return await self.registers.read(regs.WINDOWS.offset + _WORD * (_WORDS * window + word))

    async def flush(self, window: int, *, passed: bool = False) -> None:
        """Return when what came to windows before, or with ``passed`` what they have let through, is visible at the page of this one."""
        before = await self.registers.read(regs.FlushStatus.offset)
        await self.registers.write(regs.Flush.offset, regs.Flush.WINDOW.of(window) | regs.Flush.PASSED.of(passed))
        flushes = regs.FlushStatus.FLUSHES
        status = await self._until(regs.FlushStatus.offset, lambda now: flushes.get(now) != flushes.get(before), f"flush of window {window}")
        if regs.FlushStatus.FAILED.get(status):
            raise OtsError(f"The flush of window {window} was not answered: its page is out of reach")

    async def _until(self, offset: int, done: Callable[[int], bool], what: str) -> int:
        begun = self.now()
        while not done(value := await self.registers.read(offset)):
            if self.now() - begun > self._known().limit:
                raise OtsError(f"The {what} did not end within {self._known().limit} cycles")
        return value

    # Pages.

    async def move(self, page: int, to_host: int) -> MoveResult:
        """Move one page and return when it may be used at its new place, or stays at the old one."""
        setup, begun, held = self._known(), self.now(), 0
        window, self._next = self._next, (self._next + 1) % setup.windows
        old, new = self.place(page, 1 - to_host), self.place(page, to_host)
        await self.mappings.unmap(page)
        self.observer.move_begin(begun, page, to_host, self._copies)
        held += await self._enter(window, page, old)
        moved, frozen = await (self._copy_itself if setup.itself else self._copy)(window, page, to_host, new)
        held += frozen + await self._leave(window, page, new if moved else old)
        await self.push()
        if moved:
            self._owners[page] = to_host
        error = 0 if moved else int(regs.WindowRefusal.WRITTEN)
        self.observer.move_end(self.now(), page, to_host, moved, error, held, self.now() - begun)
        await self.mappings.map(page, to_host if moved else 1 - to_host)
        return MoveResult(moved, error, "moved" if moved else "written", held, self.now() - begun)

    async def _enter(self, window: int, page: int, old: int) -> int:
        """Lead devices through the window, which lets nothing through before what they sent the short way is done (H26)."""
        await self._must(window, regs.WindowOp.TAKE, old)
        begun = self.now()
        held = await self._lead(page, self._known().window_bar + await self.word(window, PLACE))
        if await self.word(window, STATE) & EXPIRED:
            raise OtsError(f"Window {window} was opened by its limit, before what devices sent the short way was done: the order is not known")
        await self._must(window, regs.WindowOp.OPEN)
        if held:
            await self.entries.release()
        return self.now() - begun

    async def _lead(self, page: int, target: int) -> bool:
        """Let the entry lead elsewhere, and return when all is done that went where it led before. Those that ask for it wait, until it is released.
        Where that is not possible, false, they go there meanwhile."""
        held = await self.entries.hold(page)
        if held:
            await self.entries.forget(page)
        await self.entries.write(page, target)
        if not held:
            await self.entries.forget(page)
        return held

    async def _copy(self, window: int, page: int, to_host: int, new: int) -> tuple[bool, int]:
        """Copy until nothing was written, then let the window lead to the copy (H25). Returns whether it does, and cycles for which it held."""
        setup, lines = self._known(), EVERY_LINE
        await self._must(window, regs.WindowOp.TRACK)
        for _ in range(setup.tries):
            # What was let through before is in the memory that is copied.
            await self.flush(window)
            if not await self._answered(window):
                break
            await self._copy_lines(page, to_host, lines)
            if not await self.order(window, regs.WindowOp.COMMIT, new):
                return True, 0
            await self._must(window, regs.WindowOp.TRACK)
            lines = await self.word(window, TAKEN) if setup.snapshot else EVERY_LINE
        if self._copies:
            return await self._copy_itself(window, page, to_host, new)
        begun = self.now()
        await self._must(window, regs.WindowOp.HOLD)
        await self.flush(window, passed=True)
        await self._must(window, regs.WindowOp.TRACK)
        # When the hold has ended by its limit before that, what was let through then may not be in the memory that is copied.
        kept = await self._answered(window) and await self.word(window, STATE) & (HELD | EXPIRED) == HELD
        await self._copy_lines(page, to_host, lines | await self.word(window, TAKEN))
        # What was let through since lets the order be refused.
        moved = kept and not await self.order(window, regs.WindowOp.COMMIT, new)
        await self._must(window, regs.WindowOp.OPEN)
        return moved, self.now() - begun

    async def _answered(self, window: int) -> bool:
        """Wait for atomics that have left through the window: one that left before it was tracked changes the page unmarked, when what is copied may
        have been read already (H58). False when others have always followed until the longest of them must have been answered."""
        begun = self.now()
        while await self.word(window, STATE) & ATOMIC:
            if self.now() - begun > self._known().completion:
                return False
        return True

    async def _copy_lines(self, page: int, to_host: int, lines: int) -> None:
        self.rounds, self.lines = self.rounds + 1, self.lines + lines.bit_count()
        await self.copier.copy(page, to_host, lines)

    async def _copy_itself(self, window: int, page: int, to_host: int, new: int) -> tuple[bool, int]:
        """Let the device copy, again while atomics are in the way."""
        for _ in range(self._known().tries or 1):
            if not await self.order(window, regs.WindowOp.COPY, new):
                return True, 0
        return False, 0

    async def _leave(self, window: int, page: int, place: int) -> int:
        """Lead devices past the window: those that ask wait until what came through it is visible. Then nothing comes there any more (H27)."""
        begun, held = self.now(), await self._lead(page, place)
        await self.flush(window)
        await self._must(window, regs.WindowOp.CLOSE)
        if held:
            await self.entries.release()
        return self.now() - begun

    async def owner(self, page: int) -> int:
        """Host to which the page has been moved last."""
        return self._owners.get(page, 0)

    async def abort(self) -> None:
        """There is no order for it: a move ends by its limits."""
        raise OtsError("A move of the on-the-side device cannot be aborted; it ends by its limits")

    async def harvest(self, first_page: int, pages: int, clear: bool = True) -> int:
        """Not of this driver: the leaf tables tell which pages were used."""
        raise OtsError("Dirty pages stand in the leaf tables of the device, not in its windows: LeafTables reports them")
