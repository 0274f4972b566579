"""Driver of the IOMMU: its tables and queues, and moves of pages by its command (docs/iommu.md, "To move a page")."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from pagehop_tb.driver import iommu_registers as regs
from pagehop_tb.driver.api import MemoryAccess, MoveResult, RegisterAccess
from pagehop_tb.driver.interposer import MoveObserver
from pagehop_tb.models.iommu import PAGE, Fence, Move, MovePages, MoveStatus
from pagehop_tb.models.iommu.tables import Command

__all__ = ["BATCH", "IommuDriver", "IommuError", "IommuSetup", "PageMove"]

COMMAND_BYTES = 16
#: Pages whose entries share a cacheline, which move in one go.
BATCH = 8
#: Cycles between two looks at whether a fence has stored.
LOOK_CYCLES = 20


class IommuError(Exception):
    """The IOMMU did not do what it was told, or was told what it cannot do."""


@dataclass(frozen=True)
class IommuSetup:
    """What is programmed before DMA starts: the directory (mode and page), where the command queue (of 2 to the power of ``order``), the word that
    fences store and the records of moves are, a page that flush reads may touch, and limits in cycles: for a probe while a move holds, for a copy
    without progress, for a drain."""

    directory_mode: int
    directory_ppn: int
    commands: int
    fences: int
    records: int
    drain: int
    order: int = 6
    hold_limit: int = 50_000
    copy_limit: int = 50_000
    drain_limit: int = 50_000


@dataclass(frozen=True)
class PageMove:
    """The page at a device's ``address`` moves from ``old`` to ``new``, numbers of physical pages. ``page``: what observers call it."""

    page: int
    address: int
    old: int
    new: int


class IommuDriver:
    """Moves pages of a domain (``gscid``) that ``device_id`` is in, by commands and their records.

    One caller at a time. ``to_host`` is what observers are told; it has no meaning here.

    Parameters
    ----------
    registers, memory : of the CPU that runs this. wait : for so many cycles. now : the cycle.
    push : makes visible what the devices have sent: reads a register of each, whose answer comes behind it (PCIe table 2-40). What waited while a
        page moved is then at its new place, before CPUs use it (H60).
    """

    def __init__(self, registers: RegisterAccess, memory: MemoryAccess, wait: Callable[[int], Awaitable[None]], now: Callable[[], int],
                 observer: MoveObserver, push: Callable[[], Awaitable[None]], *, device_id: int, gscid: int) -> None:
        self.registers, self.memory, self.wait, self.now, self.observer, self.push = registers, memory, wait, now, observer, push
        self.device_id, self.gscid = device_id, gscid
        self.tells = False      # whether devices of the domain keep translations
        self.optimistic = 0     # attempts before a move holds
        self._setup: IommuSetup | None = None
        self._tail = self._fences = 0

    async def setup(self, setup: IommuSetup) -> None:
        """Program the IOMMU. Raises :class:`IommuError` when the command queue does not come on."""
        self._setup, write = setup, self.registers.write
        await write(regs.Cqb.offset, regs.Cqb.PPN.of(setup.commands // PAGE) | regs.Cqb.LOG2SZ.of(setup.order - 1))
        await write(regs.Cqcsr.offset, regs.Cqcsr.CQEN.of(1), 4)
        await write(regs.ModifyRecords.offset, regs.ModifyRecords.PPN.of(setup.records // PAGE))
        await write(regs.ModifyLimits.offset, regs.ModifyLimits.HOLD.of(setup.hold_limit) | regs.ModifyLimits.COPY.of(setup.copy_limit))
        await write(regs.DrainAddress.offset, setup.drain)
        await write(regs.DrainLimit.offset, setup.drain_limit, 4)
        await write(regs.Ddtp.offset, regs.Ddtp.MODE.of(setup.directory_mode) | regs.Ddtp.PPN.of(setup.directory_ppn))
        if not regs.Cqcsr.CQON.get(await self.registers.read(regs.Cqcsr.offset, 4)):
            raise IommuError("The command queue of the IOMMU is not on after it was enabled")

    async def order(self, *commands: Command, limit: int = 1_000_000) -> None:
        """Queue commands and a fence, and return when all before it is done. Raises :class:`IommuError` when the queue stops or after ``limit``."""
        setup = self._setup
        if setup is None:
            raise IommuError("setup must be called before commands are given")
        if len(commands) >= 1 << setup.order:
            raise IommuError(f"At most {(1 << setup.order) - 1} commands can be given at a time, not {len(commands)}")
        self._fences += 1
        for command in (*commands, Fence(av=1, pr=1, pw=1, data=self._fences, dword=setup.fences // 4)):
            self.memory.write(setup.commands + COMMAND_BYTES * self._tail, command.pack())
            self._tail = (self._tail + 1) % (1 << setup.order)
        await self.registers.write(regs.Cqt.offset, self._tail, 4)
        begun = self.now()
        while int.from_bytes(self.memory.read(setup.fences, 4), "little") != self._fences:
            await self.wait(LOOK_CYCLES)
            if self.now() - begun > limit:
                state = await self.registers.read(regs.Cqcsr.offset, 4)
                raise IommuError(f"The fence did not store within {limit} cycles; cqcsr is {state:#x}")

    async def move(self, moves: Sequence[PageMove], to_host: int) -> list[MoveResult]:
        """Move pages whose entries are in one cacheline, in one go, and return how each ended; one that did not move is as it was."""
        setup = self._setup
        if setup is None:
            raise IommuError("setup must be called before pages are moved")
        if not 0 < len(moves) <= BATCH or len({move.address // (BATCH * PAGE) for move in moves}) > 1:
            raise IommuError(f"Pages that move in one go must be of one cacheline of entries, 1 to {BATCH}, not {list(moves)}")
        halves: list[Command] = []
        for record, move in enumerate(moves):
            self.memory.write(setup.records + 8 * record, bytes(8))
            halves += [Move(optimistic=int(bool(self.optimistic)), tries=self.optimistic, more=int(move is not moves[-1]), tells=int(self.tells),
                            gscid=self.gscid, device_id=self.device_id, address=move.address),
                       MovePages(recorded=1, record=record, old=move.old, new=move.new)]
            self.observer.move_begin(self.now(), move.page, to_host)
        await self.order(*halves)
        await self.push()
        return [self._ended(move, int.from_bytes(self.memory.read(setup.records + 8 * record, 8), "little"), to_host)
                for record, move in enumerate(moves)]

    def _ended(self, move: PageMove, record: int, to_host: int) -> MoveResult:
        status, attempts, cycles = record & 0xF, record >> 8 & 0xFF, record >> 32
        reason = MoveStatus(status).name if status in list(MoveStatus) else f"status {status}"
        moved = status == MoveStatus.MOVED
        # Who holds does so for most of the time that the record counts; an optimistic move keeps nobody waiting.
        held = cycles if attempts > self.optimistic else 0
        self.observer.move_end(self.now(), move.page, to_host, moved, 0 if moved else status, held, cycles)
        return MoveResult(moved, 0 if moved else status, reason, held, cycles)
