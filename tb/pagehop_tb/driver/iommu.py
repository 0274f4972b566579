"""Driver of the IOMMU: its queue, and moves of pages by its command (docs/iommu.md, "To move a page")."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from enum import Enum

from pagehop_tb.driver import iommu_registers as regs
from pagehop_tb.driver.api import MemoryAccess, MoveResult, RegisterAccess
from pagehop_tb.driver.interposer import MoveObserver
from pagehop_tb.models.iommu import PAGE, Fence, Move, MovePages, MoveStatus, RiscvEntry
from pagehop_tb.models.iommu.tables import Command

__all__ = ["BATCH", "Domain", "IommuDriver", "IommuError", "IommuSetup", "Waits"]

COMMAND_BYTES, RECORD_BYTES = 16, 8
#: Pages whose entries share a cacheline, which move in one go.
BATCH = 8
#: Cycles between two looks at what is waited for, and looks after which that is asked whether the queue has stopped.
LOOK_CYCLES, LOOKS_A_STATE = 20, 16
#: What stops the command queue, by the names of the specification.
STOPS = {"cqmf": regs.Cqcsr.CQMF, "cmd_to": regs.Cqcsr.CMD_TO, "cmd_ill": regs.Cqcsr.CMD_ILL}


class IommuError(Exception):
    """The IOMMU did not do what it was told, or was told what it cannot do."""


class Waits(Enum):
    """How the end of a move is learnt: from the word that a fence behind it stores, from the interrupt of that fence, or from the records alone."""

    FENCE = "fence"
    INTERRUPT = "interrupt"
    RECORD = "record"


@dataclass(frozen=True)
class IommuSetup:
    """What is programmed before DMA starts: the directory (mode and page), where the command queue (of 2 to the power of ``order``), the word that
    fences store and the records of moves are, a page that flush reads may touch, how ends are waited for, and limits in cycles: for a probe while a
    move holds, for a copy without progress, for a drain, and for what the driver waits for."""

    directory_mode: int
    directory_ppn: int
    commands: int
    fences: int
    records: int
    drain: int
    order: int = 6
    waits: Waits = Waits.FENCE
    hold_limit: int = 50_000
    copy_limit: int = 50_000
    drain_limit: int = 50_000
    limit: int = 1_000_000


@dataclass(frozen=True)
class Domain:
    """Who uses the pages, and where they are. Pages are numbered from the devices' address ``base`` on.

    ``device_id`` is one of the devices, ``gscid`` the domain of all, ``tells``: some of them keep translations (ATS). ``place`` is the number of the
    physical page that a host (0: A, 1: B) has for a page, ``entry`` the address of the entry of a page, in tables that stay where they are.
    """

    device_id: int
    gscid: int
    place: Callable[[int, int], int]
    entry: Callable[[int], int]
    base: int = 0
    tells: bool = False


class IommuDriver:
    """Moves pages of a domain by commands of the IOMMU, as :class:`~pagehop_tb.driver.api.PageMover`. One caller at a time.

    Parameters
    ----------
    registers, memory : of the CPU that runs this. wait : for so many cycles. now : the cycle.
    push : makes visible what the devices have sent: reads a register of each, whose answer comes behind it (PCIe table 2-40). What waited while a
        page moved is then at its new place, before CPUs use it (H60).
    """

    def __init__(self, registers: RegisterAccess, memory: MemoryAccess, wait: Callable[[int], Awaitable[None]], now: Callable[[], int],
                 observer: MoveObserver, push: Callable[[], Awaitable[None]], domain: Domain) -> None:
        self.registers, self.memory, self.wait, self.now, self.observer, self.push = registers, memory, wait, now, observer, push
        self.domain = domain
        self.optimistic = 0     # attempts before a move holds
        self._setup: IommuSetup | None = None
        self._tail = self._fences = 0
        self._notified = False

    # Set-up

    async def setup(self, setup: IommuSetup) -> None:
        """Program the IOMMU. Raises :class:`IommuError` when the command queue does not come on."""
        self._setup, write = setup, self.registers.write
        await write(regs.Fctl.offset, regs.Fctl.WSI.of(1), 4)
        await write(regs.Cqb.offset, regs.Cqb.PPN.of(setup.commands // PAGE) | regs.Cqb.LOG2SZ.of(setup.order - 1))
        await write(regs.ModifyRecords.offset, regs.ModifyRecords.PPN.of(setup.records // PAGE))
        await write(regs.ModifyLimits.offset, regs.ModifyLimits.HOLD.of(setup.hold_limit) | regs.ModifyLimits.COPY.of(setup.copy_limit))
        await write(regs.DrainAddress.offset, setup.drain)
        await write(regs.DrainLimit.offset, setup.drain_limit, 4)
        await write(regs.Cqcsr.offset, self._enabled, 4)
        await write(regs.Ddtp.offset, regs.Ddtp.MODE.of(setup.directory_mode) | regs.Ddtp.PPN.of(setup.directory_ppn))
        if not regs.Cqcsr.CQON.get(await self.registers.read(regs.Cqcsr.offset, 4)):
            raise IommuError("The command queue of the IOMMU is not on after it was enabled")

    @property
    def _enabled(self) -> int:
        return regs.Cqcsr.CQEN.of(1) | regs.Cqcsr.CIE.of(self._known().waits is Waits.INTERRUPT)

    def _known(self) -> IommuSetup:
        if self._setup is None:
            raise IommuError("setup must be called before commands are given")
        return self._setup

    # Commands

    async def order(self, *commands: Command, stuck: Callable[[], Awaitable[None]] | None = None, patience: int = 2_000) -> None:
        """Queue commands and a fence, and return when all before it is done. Raises :class:`IommuError` when the queue stops, or after the limit.
        ``stuck`` is called every ``patience`` cycles: a walk that its caller lets wait may be in the way."""
        setup = self._known()
        self._fences = (self._fences + 1) % (1 << 32)
        number = self._fences
        await self._queue(*commands, Fence(av=1, wsi=int(setup.waits is Waits.INTERRUPT), pr=1, pw=1, data=number, dword=setup.fences // 4))
        await self._until(lambda: int.from_bytes(self.memory.read(setup.fences, 4), "little") == number, "The fence did not store", stuck, patience)

    def notified(self) -> None:
        """The interrupt of the command queue has come: to be called by its handler."""
        self._notified = True

    async def _queue(self, *commands: Command) -> None:
        setup = self._known()
        if len(commands) >= 1 << setup.order:
            raise IommuError(f"The queue takes at most {(1 << setup.order) - 1} commands at a time, not {len(commands)}")
        for command in commands:
            self.memory.write(setup.commands + COMMAND_BYTES * self._tail, command.pack())
            self._tail = (self._tail + 1) % (1 << setup.order)
        await self.registers.write(regs.Cqt.offset, self._tail, 4)

    async def _until(self, done: Callable[[], bool], what: str, stuck: Callable[[], Awaitable[None]] | None = None, patience: int = 0) -> None:
        setup, begun, looks, patient = self._known(), self.now(), 0, self.now()
        waits = setup.waits is Waits.INTERRUPT
        while not ((self._notified or not waits) and done()):
            await self.wait(LOOK_CYCLES)
            looks += 1
            if self._notified or not looks % LOOKS_A_STATE:
                await self._ask()
            if stuck is not None and self.now() - patient > patience:
                await stuck()
                patient = self.now()
            if self.now() - begun > setup.limit:
                raise IommuError(f"{what} within {setup.limit} cycles")
        self._notified = False

    async def _ask(self) -> None:
        """Whether the queue has stopped, and why; an interrupt is taken back."""
        state = await self.registers.read(regs.Cqcsr.offset, 4)
        if self._notified:
            await self.registers.write(regs.Cqcsr.offset, self._enabled | regs.Cqcsr.FENCE_W_IP.of(1), 4)
            await self.registers.write(regs.Ipsr.offset, regs.Ipsr.CIP.of(1), 4)
        stops = [name for name, field in STOPS.items() if field.get(state)]
        if stops:
            index = regs.Cqh.INDEX.get(await self.registers.read(regs.Cqh.offset, 4))
            raise IommuError(f"The command queue stopped at command {index}: {', '.join(stops)}")

    # Pages

    async def move(self, page: int, to_host: int) -> MoveResult:
        """Move one page and return when it may be used at its new place, or stays at the old one."""
        return (await self.move_line([page], to_host))[0]

    async def move_line(self, pages: Sequence[int], to_host: int) -> list[MoveResult]:
        """Move pages whose entries are in one cacheline, in one go, and return how each ended; one that did not move is as it was."""
        setup, domain = self._known(), self.domain
        addresses = [domain.base + page * PAGE for page in pages]
        if not 0 < len(set(pages)) == len(pages) or len({address // (BATCH * PAGE) for address in addresses}) > 1:
            raise IommuError(f"Pages that move in one go must be different ones of one cacheline of entries, not {list(pages)}")
        places = [setup.records + RECORD_BYTES * record for record in range(len(pages))]
        halves: list[Command] = []
        for record, (page, address) in enumerate(zip(pages, addresses, strict=True)):
            self.memory.write(places[record], bytes(RECORD_BYTES))
            halves += [Move(optimistic=int(bool(self.optimistic)), tries=self.optimistic, more=int(page != pages[-1]), tells=int(domain.tells),
                            gscid=domain.gscid, device_id=domain.device_id, address=address),
                       MovePages(recorded=1, record=record, old=domain.place(page, 1 - to_host), new=domain.place(page, to_host))]
            self.observer.move_begin(self.now(), page, to_host)
        if setup.waits is Waits.RECORD:
            await self._queue(*halves)
            await self._until(lambda: all(self._record(place) for place in places), "The records were not written")
        else:
            await self.order(*halves)
        await self.push()
        return [self._ended(page, self._record(place), to_host) for page, place in zip(pages, places, strict=True)]

    def _record(self, place: int) -> int:
        return int.from_bytes(self.memory.read(place, RECORD_BYTES), "little")

    def _ended(self, page: int, record: int, to_host: int) -> MoveResult:
        status, attempts, cycles = record & 0xF, record >> 8 & 0xFF, record >> 32
        reason = MoveStatus(status).name.lower() if status in list(MoveStatus) else f"status {status}"
        moved = status == MoveStatus.MOVED
        error = 0 if moved else status
        # Who holds does so for most of the time that the record counts; an optimistic move keeps nobody waiting.
        held = cycles if attempts > self.optimistic else 0
        self.observer.move_end(self.now(), page, to_host, moved, error, held, cycles)
        return MoveResult(moved, error, reason, held, cycles)

    async def owner(self, page: int) -> int:
        """Host to whose memory the entry of the page leads."""
        ppn = RiscvEntry.unpack(self.memory.read(self.domain.entry(page), 8)).ppn
        for host in (0, 1):
            if ppn == self.domain.place(page, host):
                return host
        raise IommuError(f"The entry of page {page} leads to page {ppn:#x}, which neither host has for it")

    async def abort(self) -> None:
        """There is no command for it: a move ends by its limits."""
        raise IommuError("A move of the IOMMU cannot be aborted; it ends by its limits")

    async def harvest(self, first_page: int, pages: int, clear: bool = True) -> int:
        """Not of this driver: :class:`~pagehop_tb.driver.iommu_dirty.IommuDirty` tells of them."""
        raise IommuError("Dirty pages of an IOMMU stand in D of the entries: IommuDirty reports them")
