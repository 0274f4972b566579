"""Driver of the interposer, as the hypervisor of either host runs it."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol

from pagehop_tb.driver import interposer_registers as regs
from pagehop_tb.driver.api import BusError, Mappings, MoveResult, NoMappings, RegisterAccess
from pagehop_tb.driver.register_fields import Field

__all__ = [
    "PAGE_BITS", "PORTS", "DriverError", "InterposerDriver", "MoveObserver", "PortState", "Setup", "absorbs", "command", "payload_limits",
    "processing_hints", "result", "units",
]

#: Base-2 logarithm of the unit of the bitmaps. A larger page moves as a run of such units.
PAGE_BITS = 12
PAGE = 1 << PAGE_BITS
PAGES_A_WORD = 64
ADDRESSES = 1 << 64
#: Pages that a window may have.
MOST_PAGES = (1 << 32) - 1

#: The ports as the hardware numbers them.
PORTS = ("device", "host_a", "host_b")

#: Largest Max_Payload_Size that PCIe has, in bytes: a port with this limit cuts nothing.
NO_LIMIT = 4096

#: Cycles between two looks at whether the interrupt handler has run.
LOOK_CYCLES = 10
#: Times the limits that one move may take: that of holds where devices go on, and that of answers before, in and after it.
HOLDS_A_MOVE, ANSWERS_A_MOVE = 16, 32


def absorbs(mode: int, page_size: int = PAGE_BITS) -> bool:
    """Whether what devices write to a page that moves in ``mode`` goes into its copy. A large page is copied again where they wrote instead."""
    return mode in (regs.MoveMode.MERGE, regs.MoveMode.HOST_COPY) and page_size == PAGE_BITS


def units(page: int, page_size: int) -> range:
    """Window pages of 4 KB of which the page of 2 to the power of ``page_size`` bytes is made that begins with ``page``; of a page that is not known
    (below 0) that alone."""
    return range(page, page + (1 << max(0, page_size - PAGE_BITS) if page >= 0 else 1))


def command(to_host: int, mode: int, page_size: int = PAGE_BITS) -> int:
    """What move a request is, as ``move_command`` and descriptors say it."""
    fields = regs.MoveCommand
    return fields.TO_HOST.of(to_host) | fields.PAGE_SIZE.of(page_size) | fields.MODE.of(mode)


def payload_limits(device: int = NO_LIMIT, host_a: int = NO_LIMIT, host_b: int = NO_LIMIT) -> int:
    """The word of the register that has these limits, in bytes."""
    fields, limits, coded = regs.PayloadLimits, (device, host_a, host_b), tuple(128 << code for code in range(6))
    if not set(limits) <= set(coded):
        raise DriverError(f"A limit of payload must be one of {', '.join(map(str, coded))} bytes, not {limits}")
    return sum(field.of(coded.index(limit)) for field, limit in zip((fields.DEVICE, fields.HOST_A, fields.HOST_B), limits, strict=True))


def processing_hints(host_a: bool = False, host_b: bool = False) -> int:
    """The word of the register that says which hosts are spared the hints of requests."""
    return regs.ProcessingHints.STRIP_HOST_A.of(host_a) | regs.ProcessingHints.STRIP_HOST_B.of(host_b)


def result(status: int, cycles: int) -> MoveResult:
    """How a move ended, from the words of ``move_status`` and ``move_cycles``, or those of a record."""
    moved, failed = bool(regs.MoveStatus.DONE.get(status)), bool(regs.MoveStatus.FAILED.get(status))
    if moved == failed:
        raise DriverError(f"A move that has ended is either done or failed, but the status is {status:#018x}")
    error = regs.MoveError(regs.MoveStatus.ERROR.get(status))
    return MoveResult(moved, int(error), error.name.lower(), regs.MoveCycles.HOLD.get(cycles), regs.MoveCycles.TOTAL.get(cycles))


class DriverError(Exception):
    """The interposer did something that its documentation rules out, or was asked for something that it cannot do."""


class MoveObserver(Protocol):
    """Is told what the driver asked for and learnt."""

    def move_begin(self, cycle: int, page: int, host: int, absorbs: bool = False) -> None:
        """A move was requested; ``absorbs``: devices go on writing to the page meanwhile, at its source and into its copy."""

    def move_end(self, cycle: int, page: int, host: int, moved: bool, error: int, hold_cycles: int, total_cycles: int) -> None:
        """A move has ended."""

    def harvest(self, cycle: int, issued: int, first_page: int, bits: int, width: int, clear: bool) -> None:
        """Dirty bits were read."""


@dataclass(frozen=True)
class Setup:
    """What is programmed before DMA starts. Apertures are (base, pages, offset), ranges are (base, pages); None leaves one closed.

    ``behind_b`` is what is added to addresses of the guest between the port of Host B and that host, as by a second interposer in a row: all other
    addresses of Host B are its own, and the driver takes that away from what the hardware is told.

    ``independent`` are groups of requesters, (requester ID, mask), that need no order with any others. ``payload_limits`` in bytes of the device,
    Host A and Host B; ``strip_hints`` of requests to Host A and Host B.
    """

    window_base: int
    window_pages: int
    host_b_offset: int = 0
    behind_b: int = 0
    active_host: int = 0
    msi: tuple[int, int] | None = None
    mmio: tuple[int, int] | None = None
    aperture_a: tuple[int, int, int] | None = None
    aperture_b: tuple[int, int, int] | None = None
    fence: bool = False
    dirty: bool = False
    allow_translated: bool = False
    allow_classes: bool = False
    independent: tuple[tuple[int, int], ...] = ()
    notify: tuple[int, int, int] | None = None      # host, address, data
    hold_limit: int = 5000
    completion_limit: int = 2500
    device_limit: int = 0       # of the watchdogs; 0 is never
    hosts_limit: int = 0
    payload_limits: tuple[int, int, int] = (NO_LIMIT, NO_LIMIT, NO_LIMIT)
    strip_hints: tuple[bool, bool] = (False, False)


@dataclass(frozen=True)
class PortState:
    """What becomes of TLPs for a port: ``down``, they are discarded; ``expired``, the limit was a reason for that since the last resume."""

    down: bool
    expired: bool


class InterposerDriver:
    """Programs the interposer through ``registers``, moves pages and harvests dirty bits.

    ``pause(cycles)`` waits between two polls, ``now()`` is the cycle for the ``observer``. With a notification set up, who receives interrupts calls
    :meth:`notified`, and a move waits for that before it reads the status (but no longer than ``patience`` cycles, because an interrupt that never
    comes must not hang the driver). What the hardware must end in time it waits for no longer than :attr:`longest`. ``mappings`` keeps the contract
    with the CPUs: unmapped before a move, mapped after it. ``mode`` is that of moves that name none. ``copier(page, to_host)`` copies a page from the
    other host, and returns when the copy is visible.
    """

    def __init__(self, registers: RegisterAccess, pause: Callable[[int], Awaitable[None]], now: Callable[[], int], observer: MoveObserver,
                 mappings: Mappings | None = None, poll_cycles: int = 100,
                 patience: int = 20_000) -> None:
        self.registers, self.pause, self.now, self.observer = registers, pause, now, observer
        self.mappings: Mappings = mappings or NoMappings()
        self.poll_cycles, self.patience = poll_cycles, patience
        self.setup_done: Setup | None = None
        self.mode: int = regs.MoveMode.HOLD
        self.copier: Callable[[int, int], Awaitable[None]] | None = None
        self.slots = 1
        #: Pages of the window that the bitmaps cover.
        self.mapped = range(0)
        #: Slots for which a notification has come since their move began.
        self._notified: set[int] = set()
        self._requests = False
        #: Pages that the bitmaps cover at a time.
        self._covered = 0

    async def setup(self, setup: Setup) -> None:
        """Check what is asked of the interposer, identify it, and program it. No DMA may run meanwhile."""
        if not 0 <= setup.window_pages <= MOST_PAGES:
            raise DriverError(f"The window must have from 0 to {MOST_PAGES} pages, not {setup.window_pages}")
        groups = regs.Independent.array.words
        if len(setup.independent) > groups:
            raise DriverError(f"At most {groups} groups of requesters can be declared independent, not {len(setup.independent)}")
        await self.attach(setup)
        for offset, value in self._program(setup):
            await self.registers.write(offset, value)
        await self.registers.read(regs.WindowBase.offset)   # every write before it has taken effect when this returns

    async def attach(self, setup: Setup) -> None:
        """Identify the interposer, which is set up so, perhaps by the driver of the other host."""
        identification = await self.registers.read(regs.Identification.offset)
        if identification != regs.Identification.reset:
            raise DriverError(f"An interposer identifies itself with {regs.Identification.reset:#018x}, this block with {identification:#018x}")
        capabilities = await self.registers.read(regs.Capabilities.offset)
        self._covered, self.slots = regs.Capabilities.WINDOW_PAGES.get(capabilities), regs.Capabilities.SLOTS.get(capabilities)
        await self.read_mapped()
        self.setup_done = setup

    def _program(self, setup: Setup) -> list[tuple[int, int]]:
        msi, mmio = setup.msi or (0, 0), setup.mmio or (0, 0)
        aperture_a, aperture_b = setup.aperture_a or (0, 0, 0), setup.aperture_b or (0, 0, 0)
        notify_host, notify_address, notify_data = setup.notify or (0, 0, 0)
        control, group = regs.Control, regs.Independent
        groups = [group.REQUESTER_ID.of(requester) | group.MASK.of(mask) | group.ENABLE.of(1) for requester, mask in setup.independent]
        groups += [group.reset] * (group.array.words - len(groups))
        return [
            *((group.offset + 8 * number, value) for number, value in enumerate(groups)),
            (regs.WindowBase.offset, setup.window_base), (regs.WindowPages.offset, setup.window_pages),
            (regs.HostBOffset.offset, (setup.host_b_offset - setup.behind_b) % ADDRESSES),
            (regs.MsiBase.offset, msi[0]), (regs.MsiPages.offset, msi[1]), (regs.MmioBase.offset, mmio[0]), (regs.MmioPages.offset, mmio[1]),
            (regs.ApertureABase.offset, aperture_a[0]), (regs.ApertureAPages.offset, aperture_a[1]),
            (regs.ApertureAOffset.offset, (aperture_a[2] - setup.behind_b) % ADDRESSES),
            (regs.ApertureBBase.offset, aperture_b[0]), (regs.ApertureBPages.offset, aperture_b[1]),
            (regs.ApertureBOffset.offset, aperture_b[2] % ADDRESSES),
            (regs.MoveLimits.offset, regs.MoveLimits.HOLD.of(setup.hold_limit) | regs.MoveLimits.COMPLETION.of(setup.completion_limit)),
            (regs.PortLimits.offset, regs.PortLimits.DEVICE.of(setup.device_limit) | regs.PortLimits.HOSTS.of(setup.hosts_limit)),
            (regs.PayloadLimits.offset, payload_limits(*setup.payload_limits)),
            (regs.ProcessingHints.offset, processing_hints(*setup.strip_hints)),
            (regs.NotifyAddress.offset, notify_address), (regs.NotifyData.offset, notify_data),
            (regs.Control.offset, control.ACTIVE_HOST.of(setup.active_host) | control.FENCE.of(setup.fence) | control.DIRTY_ENABLE.of(setup.dirty)
                | control.ALLOW_TRANSLATED.of(setup.allow_translated) | control.ALLOW_CLASSES.of(setup.allow_classes)
                | control.NOTIFY_ENABLE.of(setup.notify is not None) | control.NOTIFY_HOST.of(notify_host)),
        ]

    def notified(self) -> None:
        """The notification of the end of a move, in whatever slot, has arrived."""
        self._notified.update(range(regs.MoveStatus.array.words))

    @property
    def longest(self) -> int:
        """Cycles after which a move, or the queue, that has not gone on will not, unless a host owes the device an answer: all else has a limit."""
        limits = self.setup_done or Setup(0, 0)
        return self.patience + HOLDS_A_MOVE * limits.hold_limit + ANSWERS_A_MOVE * limits.completion_limit

    def pauses(self, what: str, cycles: int, times: int = 1) -> Callable[[], Awaitable[None]]:
        """Return the pause, of so many ``cycles``, of a loop that waits for ``what``: it raises :class:`DriverError` when that is late.

        It is when it takes longer than so many ``times`` :attr:`longest`.
        """
        last = self.now() + times * self.longest

        async def pause() -> None:
            if self.now() > last:
                raise DriverError(f"Waited {times * self.longest} cycles for {what}, which has not come")
            await self.pause(cycles)

        return pause

    def place(self, page: int, host: int) -> int:
        """Address of the page at ``host``."""
        assert self.setup_done is not None, "set up the interposer first"
        address = self.setup_done.window_base + page * PAGE
        return (address + self.setup_done.host_b_offset) % ADDRESSES if host else address

    def target(self, page: int, host: int) -> int:
        """Address of the page at the port of ``host``, as the hardware is told it."""
        assert self.setup_done is not None, "set up the interposer first"
        return (self.place(page, host) - self.setup_done.behind_b) % ADDRESSES if host else self.place(page, host)

    async def move(self, page: int, to_host: int, mode: int | None = None, slot: int = 0, page_size: int = PAGE_BITS) -> MoveResult:
        """Move window page ``page`` to ``to_host`` in ``mode`` (a :class:`MoveMode`; :attr:`mode` without) and return how it ended.

        One move at a time in a slot. ``page_size`` is the base-2 logarithm of its bytes, as everywhere here and in the registers. In the mode
        ``HOST_COPY`` it is :attr:`copier` that copies, a large page unit by unit.
        """
        for unit in units(page, page_size):
            await self.mappings.unmap(unit)
        mode = self.mode if mode is None else mode
        ended = await self.request(self.place(page, 0), self.target(page, to_host), to_host, page_size, page, mode, slot)
        for unit in units(page, page_size):
            await self.mappings.map(unit, to_host if ended.moved else 1 - to_host)
        return ended

    async def request(self, source: int, destination: int, to_host: int, page_size: int = PAGE_BITS, page: int = -1, mode: int = 0,
                      slot: int = 0) -> MoveResult:
        """Make the request as it stands, without a check, and wait for its end: what tests of refused requests use."""
        self._notified.discard(slot)
        self.move_begins(page, to_host, mode, page_size)
        await self.start(source, destination, to_host, page_size, mode, slot)
        if mode == regs.MoveMode.HOST_COPY:
            await self._copy(page, to_host, slot, page_size)
        ended = await self._ended(slot, len(units(page, page_size)))
        self.move_ends(page, to_host, page_size, ended)
        return ended

    def move_begins(self, page: int, to_host: int, mode: int, page_size: int) -> None:
        """Tell the observer of a request, unit by unit."""
        for unit in units(page, page_size):
            self.observer.move_begin(self.now(), unit, to_host, absorbs(mode, page_size))

    def move_ends(self, page: int, to_host: int, page_size: int, ended: MoveResult) -> None:
        """Tell the observer how a move has ended, unit by unit."""
        for unit in units(page, page_size):
            self.observer.move_end(self.now(), unit, to_host, ended.moved, ended.error, ended.hold_cycles, ended.total_cycles)

    async def start(self, source: int, destination: int, to_host: int, page_size: int = PAGE_BITS, mode: int = 0, slot: int = 0) -> None:
        """Write a request into the registers, which all slots share."""
        pause = self.pauses("another request to be written", LOOK_CYCLES)
        while self._requests:
            await pause()
        self._requests = True
        await self.registers.write(regs.MoveSource.offset, source)
        await self.registers.write(regs.MoveDestination.offset, destination)
        fields = regs.MoveCommand
        await self.registers.write(fields.offset, fields.START.of(1) | command(to_host, mode, page_size) | fields.SLOT.of(slot))
        self._requests = False

    async def _copy(self, page: int, to_host: int, slot: int, page_size: int) -> None:
        """When the interposer watches the page, let the host copy it and say so."""
        fields, pause = regs.MoveStatus, self.pauses(f"the turn of the host in slot {slot}", LOOK_CYCLES)
        while fields.PHASE.get(status := await self.status(slot)) != regs.MovePhase.HOST:
            if not fields.BUSY.get(status):
                return
            await pause()
        if self.copier is None:
            raise DriverError("A move in which the host copies needs somebody who does")
        for unit in units(page, page_size):
            await self.copier(unit, to_host)
        await self.registers.write(regs.MoveCommand.offset, regs.MoveCommand.COPIED.of(1) | regs.MoveCommand.SLOT.of(slot))

    async def _ended(self, slot: int, times: int) -> MoveResult:
        fields = regs.MoveStatus
        if self.setup_done is not None and self.setup_done.notify is not None:
            waited = 0
            while slot not in self._notified and waited < self.patience:
                await self.pause(LOOK_CYCLES)
                waited += LOOK_CYCLES
        pause = self.pauses(f"the end of the move in slot {slot}", self.poll_cycles, times)
        while fields.BUSY.get(status := await self.status(slot)):
            await pause()
        return result(status, await self.registers.read(regs.MoveCycles.array.at(slot)))

    async def status(self, slot: int = 0) -> int:
        """The status register of a slot."""
        return await self.registers.read(regs.MoveStatus.array.at(slot))

    async def abort(self, slot: int = 0) -> None:
        """Abort the move running in ``slot`` if it has not committed; :meth:`move` then returns ``aborted``."""
        await self.registers.write(regs.MoveCommand.offset, regs.MoveCommand.ABORT.of(1) | regs.MoveCommand.SLOT.of(slot))

    async def owner(self, page: int) -> int:
        """Host that owns the page."""
        return await self._owners(page // PAGES_A_WORD) >> page % PAGES_A_WORD & 1

    async def _owners(self, word: int) -> int:
        """Owner bits of 64 pages, which the map has only of those that it covers."""
        page = word * PAGES_A_WORD
        if page not in self.mapped:
            return (1 << PAGES_A_WORD) - 1 if page < self.mapped.start else 0
        return await self.registers.read(regs.OWNER.at(self._entry(page)))

    def _entry(self, page: int) -> int:
        """Number of the bitmap word that has the page, which is mapped."""
        return page % self._covered // PAGES_A_WORD

    async def owners(self, pages: int) -> int:
        """Owner bits of the first ``pages`` pages, page 0 lowest."""
        result = 0
        for index in range(-(-pages // PAGES_A_WORD)):
            result |= await self._owners(index) << index * PAGES_A_WORD
        return result & (1 << pages) - 1

    async def harvest(self, first_page: int, pages: int, clear: bool = True) -> int:
        """Dirty bits of ``pages`` pages from ``first_page`` on, both multiples of 64, page ``first_page`` lowest. All of them must be mapped."""
        if first_page % PAGES_A_WORD or pages % PAGES_A_WORD:
            raise DriverError(f"Dirty bits are read in words of {PAGES_A_WORD} pages, not {pages} pages from {first_page} on")
        if first_page < self.mapped.start or first_page + pages > self.mapped.stop:
            raise DriverError(f"Dirty bits are of the pages {self.mapped.start} to {self.mapped.stop - 1}, not of {pages} pages from {first_page} on")
        memory, result = regs.DIRTY_TAKE if clear else regs.DIRTY_PEEK, 0
        for first in range(0, pages, PAGES_A_WORD):
            issued, bits = await self._dirty_word(memory.at(self._entry(first_page + first)))
            self.observer.harvest(self.now(), issued, first_page + first, bits, PAGES_A_WORD, clear)
            result |= bits << first
        return result

    async def _dirty_word(self, offset: int) -> tuple[int, int]:
        """A word of dirty bits, and when it was asked for. As long as a host answers no flush the read fails, and has cleared nothing."""
        pause = self.pauses("a host to answer a flush", self.poll_cycles)
        while True:
            issued = self.now()
            try:
                return issued, await self.registers.read(offset)
            except BusError:
                await pause()

    async def read_mapped(self) -> range:
        """Learn which pages of the window the bitmaps cover."""
        low = regs.Mapped.LOW.get(await self.registers.read(regs.Mapped.offset))
        self.mapped = range(low, low + self._covered)
        return self.mapped

    async def slide(self, low: int) -> regs.SlideError:
        """Let the bitmaps cover the pages from ``low`` on, a multiple of 64; return why not, or ``NONE``.

        All pages below must be at Host B. The pages that come in begin as written, for nobody knows which of them were: copy them all at first.
        """
        issued, fields = self.now(), regs.SlideStatus
        await self.registers.write(regs.Slide.offset, low)
        pause = self.pauses("the range to slide", self.poll_cycles)
        while fields.BUSY.get(status := await self.registers.read(fields.offset)):
            await pause()
        before, now = self.mapped, await self.read_mapped()
        for first in range(before.stop, now.stop, PAGES_A_WORD):
            self.observer.harvest(self.now(), issued, first, (1 << PAGES_A_WORD) - 1, PAGES_A_WORD, True)
        return regs.SlideError(fields.ERROR.get(status))

    async def opaque(self) -> set[str]:
        """What has passed since it was forgotten: "translated" and "encrypted", whose writes mark nothing dirty; "classed", whose writes do."""
        status, fields = await self.registers.read(regs.Opaque.offset), regs.Opaque
        kinds = {"translated": fields.TRANSLATED, "encrypted": fields.ENCRYPTED, "classed": fields.CLASSED}
        return {kind for kind, field in kinds.items() if field.get(status)}

    async def forget_opaque(self) -> None:
        """Allow moves again: the device sends no more of what :meth:`opaque` tells."""
        await self.registers.write(regs.OpaqueOver.offset, regs.OpaqueOver.FORGET.of(1))

    async def ports(self) -> dict[str, PortState]:
        """State of each of :data:`PORTS`."""
        status = await self.registers.read(regs.PortStatus.offset)
        down = (regs.PortStatus.DOWN_DEVICE, regs.PortStatus.DOWN_HOST_A, regs.PortStatus.DOWN_HOST_B)
        expired = (regs.PortStatus.EXPIRED_DEVICE, regs.PortStatus.EXPIRED_HOST_A, regs.PortStatus.EXPIRED_HOST_B)
        return {name: PortState(bool(down[number].get(status)), bool(expired[number].get(status))) for number, name in enumerate(PORTS)}

    async def stop(self, port: str) -> None:
        """Take the partner at ``port`` for down: discard what goes there, and answer requests with UR."""
        fields = regs.PortCommand
        await self._command_port(port, fields.STOP_DEVICE, fields.STOP_HOST_A, fields.STOP_HOST_B)

    async def resume(self, port: str) -> None:
        """Send to ``port`` again: its partner is back, and knows what it has lost. Returns when the port is up."""
        fields = regs.PortCommand
        await self._command_port(port, fields.RESUME_DEVICE, fields.RESUME_HOST_A, fields.RESUME_HOST_B)
        pause = self.pauses(f"{port} to be up", LOOK_CYCLES)
        while (await self.ports())[port].down:
            await pause()

    async def _command_port(self, port: str, *fields: Field) -> None:
        """Write 1 to that of the ``fields``, one a port, which is the port's."""
        await self.registers.write(regs.PortCommand.offset, dict(zip(PORTS, fields, strict=True))[port].of(1))

    async def switch_over(self, to_host: int) -> int:
        """Make ``to_host`` the active host when nothing of the device is on its way at the other, and return how it ended, a ``SwitchoverError``.

        Stop the vCPUs and read back their last access to the device before; :meth:`unblock` translated requests after.
        """
        fields = regs.SwitchoverCommand
        await self.registers.write(fields.offset, fields.START.of(1) | fields.TO_HOST.of(to_host))
        pause = self.pauses("the end of the switchover", LOOK_CYCLES)
        while regs.SwitchoverStatus.BUSY.get(status := await self.registers.read(regs.SwitchoverStatus.offset)):
            await pause()
        if regs.SwitchoverStatus.DONE.get(status):
            # The bit in control is what software wrote last: who writes control for something else must not undo the switchover.
            control = await self.registers.read(regs.Control.offset)
            await self.registers.write(regs.Control.offset, control & ~regs.Control.ACTIVE_HOST.mask | regs.Control.ACTIVE_HOST.of(to_host))
        return regs.SwitchoverStatus.ERROR.get(status)

    async def active_host(self) -> int:
        """The active host that is in force."""
        return regs.SwitchoverStatus.ACTIVE_HOST.get(await self.registers.read(regs.SwitchoverStatus.offset))

    async def unblock(self) -> None:
        """Let translated requests pass: the device has forgotten the translations of the host that was left."""
        await self.registers.write(regs.SwitchoverCommand.offset, regs.SwitchoverCommand.UNBLOCK.of(1))
        await self.registers.read(regs.SwitchoverStatus.offset)     # it has taken effect when this returns

    async def counter(self, offset: int) -> int:
        """Value of the counter at ``offset``, such as ``interposer_registers.Unexpected.offset``."""
        return await self.registers.read(offset)
