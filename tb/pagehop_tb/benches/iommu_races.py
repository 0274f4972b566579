"""The IOMMU under everything at once: devices that translate and write, CPUs at the lines of its tables, software that gives pages other places,
moves of pages.

Judged: each translation, by what the tables may have said (``History``); each access, which must not reach a page that software has taken back;
each entry that software replaces, in which A and D must tell of every access by it; the neighbours of entries, which CPUs write; each move, at whose
commit both pages must be the same, and after which nothing reaches the old one; and what stands in the pages at the end of each round.
"""

from collections import deque
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import cocotb
from cocotb.triggers import Event

from pagehop_tb.driver import iommu_registers as registers
from pagehop_tb.models.home import Access as CpuAccess
from pagehop_tb.models.home import Home, Write
from pagehop_tb.models.iommu import (
    BUILT,
    PAGE,
    Access,
    AddressSpace,
    DeviceContext,
    Directory,
    DirectoryCommand,
    DirectoryMode,
    Fence,
    History,
    Invalidation,
    Mode,
    Move,
    MovePages,
    MoveStatus,
    Outcome,
    Request,
    RiscvEntry,
    Status,
    TableMemory,
    pages_from,
)
from pagehop_tb.models.iommu.tables import Command
from pagehop_tb.models.memory import HostMemory
from pagehop_tb.pins.access import bit_reader, text_reader, writer
from pagehop_tb.pins.fabric import Fabric
from pagehop_tb.pins.registers import RegisterAgent
from pagehop_tb.pins.tilelink import HomeAgent
from pagehop_tb.pins.words import WordLayout, WordSink, WordSource

from .frame import BenchConfig

#: Where things are: tables, the command queue (of 256), the word that fences store to, pages of devices.
TABLES, COMMANDS, COMMANDS_LOG2, FENCES, PAGES = 0x8000_0000, 0x7100_0000, 8, 0x7200_0000, 0x1_0000_0000
#: Where moves leave their records; the source of the line's owner in the core: after the clients of the memory, of which one is for moves.
RECORDS, OWNER = 0x7300_0000, 5
IOVA, GSCID = 0x4000_0000, 5
A, D = 1 << 6, 1 << 7
WORDS = PAGE // 8
#: Of eight entries of a line the last is no page's: CPUs write it.
USED = 7

REQUEST = WordLayout([("id", 3), ("device_id", 24), ("iova", 64), ("access", 6), ("no_write", 1), ("process_valid", 1), ("process", 20),
                      ("privileged", 1)])
RESPONSE = WordLayout([("id", 3), ("status", 2), ("ppn", 44), ("size", 3), ("readable", 1), ("writable", 1)])
STATUSES = (Status.TRANSLATED, Status.UNSUPPORTED_REQUEST, Status.COMPLETER_ABORT)
SIZES = {0: PAGE, 1: 16 * PAGE, 2: 512 * PAGE, 3: 512 * 512 * PAGE}
INVALIDATIONS: tuple[Command, ...] = (Invalidation(), Invalidation(func3=1), DirectoryCommand())


@dataclass(eq=False, repr=False)
class Page:
    """A page of a device. ``wrote``, ``read``: something was done by what the entry says now."""
    space: "Space"
    iova: int
    entry: int
    ppn: int
    wrote: bool = False
    read: bool = False
    valid: bool = True
    busy: bool = False      # software gives it another place
    goal: int | None = None     # of a move
    values: dict[int, int] = field(default_factory=dict)    # what was written last, by word
    open: set[int] = field(default_factory=set)             # words with a write that is not done

    def __repr__(self) -> str:
        return f"{self.iova:#x} of device {self.space.device:#x} at page {self.ppn:#x}"


@dataclass(eq=False)
class Space:
    """What a device sees."""
    device: int
    invalidation: Command
    pages: list[Page]
    scratch: dict[int, int]     # what CPUs wrote beside the entries


@dataclass(eq=False)
class Use:
    """A request of a device, and the access that follows it."""
    identity: int
    page: Page
    word: int
    writes: bool
    value: int
    start: int


class Machine:
    """The core and what is around it."""

    def __init__(self, dut: Any, config: BenchConfig) -> None:
        self.random = random = config.random("races")
        self.rate, self.delay = config.get("rate", 0.12), config.get("delay", 12)
        self.history_share, slow = config.get("history", 0.2), config.get("latency", 6)
        self.fabric = Fabric(dut.clk, dut.rst, seed=random.getrandbits(32))
        self.home = Home(random, cacher=OWNER + config.modify, cpus=3, latency=lambda: int(random.random() * slow), patience=None)
        self.memory, allocate = TableMemory(self.home.memory), pages_from(TABLES)
        self.directory = Directory(self.memory, allocate, DirectoryMode.ONE_LEVEL)
        self.next_ppn = PAGES // PAGE
        self.free: deque[int] = deque()
        self.retired: set[int] = set()
        self.spaces = [self._space(allocate, 0x12, False), self._space(allocate, 0x34, True)]
        self.pages = [page for space in self.spaces for page in space.pages]
        self.hot: list[Page] = []
        self.by_entry = {page.entry: page for page in self.pages}
        self.subset = replace(BUILT, ats=False)
        self.counts = dict.fromkeys(("moves", "unmoved", "accesses", "refused", "remaps", "cpu_accesses", "drains", "judged", "dirtied"), 0)
        self.budget, self.identities, self.open = 0, list(range(8)), set[int]()
        self.uses: dict[int, Use] = {}      # that have no answer, by their id
        self.fence_stored = Event()
        self.fenced, self.fence_number, self.tail, self.serial, self.still = 0, 0, 0, 0, Event()
        self.begin_round()
        self.agent = HomeAgent(dut, "port", self.fabric, self.home, after=self._stepped)
        if config.modify:
            copies = Home(random, cacher=16, cpus=0, patience=None,
                          latency=lambda: int(random.random() * (slow if random.random() < 0.95 else 50 * slow)))
            copies.memory = self.home.memory
            HomeAgent(dut, "copy_port", self.fabric, copies, coherent=False, after=copies.writes.clear)
        self.registers = RegisterAgent(dut, "bus", self.fabric)
        WordSink(dut, "response", self.fabric, self._answered)
        self.source = WordSource(dut, "request", self.fabric, self._pull)
        self.drains = Drains(dut, self)

    def _space(self, allocate: Any, device: int, second: bool) -> Space:
        space = AddressSpace(self.memory, allocate, Mode.SV39, second=second)
        names = {"second_mode": Mode.SV39, "second_ppn": space.ppn, "gscid": GSCID, "gade": 1} if second else {
            "first_mode": Mode.SV39, "first_ppn": space.ppn, "sade": 1}
        self.directory.device(device, DeviceContext(**names))
        made = Space(device, Invalidation(func3=1, gv=1, gscid=GSCID) if second else Invalidation(), [], {})
        for number in range(16):
            iova = IOVA + number * PAGE
            place = space.place(iova, 0)
            if number % 8 < USED:
                made.pages.append(Page(made, iova, place, self.fresh()))
                space.map(iova, made.pages[-1].ppn * PAGE, accessed=0, dirty=0)
            else:
                made.scratch[place] = 0
        return made

    def fresh(self) -> int:
        """A page that nobody uses. What was taken back longest ago comes again."""
        if len(self.free) > 64:
            ppn = self.free.popleft()
            self.retired.discard(ppn)
            return ppn
        self.next_ppn += 1
        return self.next_ppn

    # What is judged.

    def begin_round(self) -> None:
        """Nothing is under way, and nothing is kept of the tables: what they say now is all that they may say."""
        shadow = HostMemory()
        for number in self.home.memory.pages:
            if TABLES <= number * PAGE < PAGES:
                shadow.write(number * PAGE, self.home.memory.read(number * PAGE, PAGE))
        self.history = History(TableMemory(shadow), self.subset, self.directory.mode, self.directory.ppn)

    def _stepped(self) -> None:
        """What was written in this step, in its order."""
        home = self.home
        if not home.writes:
            return
        writes, home.writes = home.writes, []
        for write in writes:
            self._wrote(write)

    def _wrote(self, write: Write) -> None:
        if write.address == FENCES:
            self.fenced = write.new & 0xFFFF_FFFF
            self.fence_stored.set()
        elif TABLES <= write.address < PAGES:
            self.history.write(write.cycle, write.address, write.new.to_bytes(8, "little"))
            if write.who == "line":
                self._edited(write)

    def _edited(self, write: Write) -> None:
        """The IOMMU changed an entry: by A and D, or by a move, which is then done."""
        page = self.by_entry[write.address]
        if write.new ^ write.old in (A, D, A | D) and write.new & ~write.old:
            self.counts["dirtied"] += 1
            return
        old, goal = page.ppn, page.goal
        assert goal is not None and write.new == write.old + (goal - old << 10), f"{write} is no move from {old:#x} to {goal}"
        page.ppn = goal
        before, after = (self.home.memory.read(ppn * PAGE, PAGE) for ppn in (old, page.ppn))
        assert before == after, f"{page.iova:#x} of {page.space.device:#x} was moved, and its copy is another"
        self.retired.add(old)
        self.free.append(old)
        page.goal = None

    def _answered(self, word: int) -> None:
        now, answer = self.fabric.cycle, RESPONSE.unpack(word)
        use = self.uses.pop(answer["id"])
        page, done = use.page, STATUSES[answer["status"]] is Status.TRANSLATED
        if self.random.random() < self.history_share:
            self._judge(use, answer, now)
        if not done:
            self.counts["refused"] += 1
            page.open.discard(use.word)
            self._finish(use)
            return
        assert answer["writable" if use.writes else "readable"], f"{use} was answered {answer}"
        # Writes that a move must wait for are late enough to come after the copy of their line.
        late = self.random.random() < (0.2 if page in self.hot else 0.02)
        delay = self.random.randint(0, 50 * self.delay if late else self.delay)
        self.open.add(use.identity)
        if answer["ppn"] == page.ppn:
            page.read = True
            page.wrote |= use.writes
        self.fabric.after(delay, partial(self._apply, use, answer["ppn"]))

    def _judge(self, use: Use, answer: dict[str, int], now: int) -> None:
        request = Request(use.page.space.device, use.page.iova + 8 * use.word, Access.WRITE if use.writes else Access.READ)
        told = (STATUSES[answer["status"]], *((answer["ppn"], SIZES[answer["size"]], bool(answer["readable"]), bool(answer["writable"]))
                                              if answer["status"] == 0 else ()))
        since, until = use.start - 2, now + 2
        assert self.history.find(request, lambda outcome: _told(outcome) == told, since, until) is not None, (
            f"{request} from cycle {use.start} to {now} was answered {told}, not one of "
            f"{ {_told(outcome) for outcome in self.history.outcomes(request, since, until)} }")
        self.counts["judged"] += 1

    def _apply(self, use: Use, ppn: int) -> None:
        """The access that follows a translation: it becomes visible."""
        page, address = use.page, ppn * PAGE + 8 * use.word
        assert ppn not in self.retired, f"{use} reaches page {ppn:#x}, which software has taken back"
        self.counts["accesses"] += 1
        if use.writes:
            self.home.memory.write(address, use.value.to_bytes(8, "little"))
            page.open.discard(use.word)
            if ppn == page.ppn:
                page.values[use.word] = use.value
        self._finish(use)

    def _finish(self, use: Use) -> None:
        self.open.discard(use.identity)
        self.identities.append(use.identity)
        self.drains.finished(use.identity)
        if not self.budget and len(self.identities) == 8:
            self.still.set()

    def _pull(self) -> int | None:
        if not self.budget or not self.identities or self.random.random() >= self.rate:
            if self.budget:
                self.fabric.after(1, self.source.wake)
            return None
        # Half of all are to pages that are being moved.
        page = self.random.choice(self.hot if self.hot and self.random.random() < 0.5 else self.pages)
        writes, word = self.random.random() < 0.7, self.random.randrange(WORDS)
        if word in page.open:
            writes = False
        self.serial += 1
        use = Use(self.identities.pop(0), page, word, writes, self.serial, self.fabric.cycle)
        if writes:
            page.open.add(word)
        self.uses[use.identity] = use
        self.budget -= 1
        return REQUEST.pack(id=use.identity, device_id=page.space.device, iova=page.iova + 8 * word, access=3 if writes else 2)

    # What software does.

    async def start(self) -> None:
        """Reset, registers, queues."""
        await self.fabric.start()
        self.registers.write(registers.Cqb.offset, registers.Cqb.PPN.of(COMMANDS // PAGE) | registers.Cqb.LOG2SZ.of(COMMANDS_LOG2 - 1))
        self.registers.write(registers.Cqcsr.offset, registers.Cqcsr.CQEN.of(1), 4)
        self.registers.write(registers.Ddtp.offset, registers.Ddtp.MODE.of(self.directory.mode) | registers.Ddtp.PPN.of(self.directory.ppn))
        self.registers.write(registers.ModifyRecords.offset, registers.ModifyRecords.PPN.of(RECORDS // PAGE))
        self.registers.write(registers.ModifyLimits.offset, registers.ModifyLimits.HOLD.of(12_500) | registers.ModifyLimits.COPY.of(2000))
        while not registers.Cqcsr.CQON.get(await self.registers.read(registers.Cqcsr.offset, 4)):
            await self.fabric.wait(5)

    async def order(self, *commands: Command) -> None:
        """Queue commands and a fence behind them, and wait until that has stored."""
        self.fence_number += 1
        number, fence = self.fence_number, Fence(av=1, pr=1, pw=1, data=self.fence_number, dword=FENCES // 4)
        for command in (*commands, fence):
            self.home.memory.write(COMMANDS + 16 * self.tail, command.pack())
            self.tail = (self.tail + 1) % (1 << COMMANDS_LOG2)
        queued = self.fabric.cycle
        for command in commands:
            if not isinstance(command, (Move, MovePages)):
                self.history.command(queued, command)
        self.registers.write(registers.Cqt.offset, self.tail, 4)
        while self.fenced < number:
            self.fence_stored.clear()
            await self.fence_stored.wait()
        self.history.fence(queued, self.fabric.cycle)

    async def cpu(self, number: int, address: int, value: int | None = None) -> CpuAccess:
        """An access of a CPU, which is counted."""
        self.counts["cpu_accesses"] += 1
        return await self._access(number, address, value)

    async def _access(self, number: int, address: int, value: int | None = None) -> CpuAccess:
        access = self.home.access(number, address, value)
        self.agent.wake()
        while access.done is None:
            await self.fabric.wait(2)
        self._stepped()
        return access

    async def remap(self, pages: list[Page]) -> None:
        """Give pages other places: entries, invalidations, a fence; then nothing reaches the old places any more."""
        old = []
        pages = [page for page in pages if not page.busy]
        for page in pages:
            page.busy = True
        for page in pages:
            ppn = self.fresh()
            entry = RiscvEntry(ppn=ppn, valid=int(self.random.random() < 0.9), accessed=self.random.getrandbits(1), dirty=self.random.getrandbits(1))
            before = (await self._access(0, page.entry, entry.value)).result
            assert not page.read or before & A, f"{page.iova:#x} of {page.space.device:#x} was read, and A of its entry is 0"
            assert not page.wrote or before & D, f"{page.iova:#x} of {page.space.device:#x} was written, and D of its entry is 0"
            old.append(page.ppn)
            page.ppn, page.wrote, page.read, page.valid = ppn, False, False, bool(entry.valid)
            page.values.clear()
        invalidations = [page.space.invalidation if self.random.random() < 0.5 else self._one(page) for page in pages]
        await self.order(*dict.fromkeys(invalidations))
        self.retired.update(old)
        self.free.extend(old)
        for page in pages:
            page.busy = False
        self.counts["remaps"] += len(pages)

    async def move(self) -> None:
        """Move some pages whose entries are in one line, in one batch."""
        random, first = self.random, self.random.choice(self.pages)
        near = [page for page in first.space.pages if page.iova // (8 * PAGE) == first.iova // (8 * PAGE) and not page.busy]
        pages = random.sample(near, min(len(near), random.choice((1, 1, 2, 4))))
        by_entry, tries = random.random() < 0.3, random.choice((0, 0, 1, 3))
        halves: list[Command] = []
        for number, page in enumerate(pages):
            page.busy, page.goal = True, self.fresh()
            address = page.entry if by_entry else page.iova
            self.home.memory.write(RECORDS + 8 * number, bytes(8))
            halves += [Move(func3=int(by_entry), optimistic=int(bool(tries)), more=int(page is not pages[-1]), tries=tries, gscid=GSCID,
                            device_id=page.space.device, address=address),
                       MovePages(recorded=1, record=number, old=page.ppn, new=page.goal)]
        self.hot = pages
        await self.fabric.wait(random.randint(1, 60))
        await self.order(*halves)
        self.hot = []
        for number, page in enumerate(pages):
            status, page.busy = self.home.word(RECORDS + 8 * number) & 0xF, False
            assert (status == MoveStatus.MOVED) == (page.goal is None), f"a move was told to be {status}, and {page} says something else"
            # The line is found by the entry of the first one, for all.
            found = by_entry or pages[0].valid
            expected = MoveStatus.NOT_FOUND if not found else MoveStatus.MOVED if page.valid else MoveStatus.MISMATCH
            assert status == expected, f"the move of {page} ended with {status}, and not with {expected}"
            self.counts["moves" if status == MoveStatus.MOVED else "unmoved"] += 1
            if page.goal is not None:
                self.free.append(page.goal)
                self.retired.add(page.goal)
                page.goal = None

    def _one(self, page: Page) -> Command:
        """The invalidation that names a page, where there is one by address."""
        if page.space.invalidation == Invalidation():
            return Invalidation(av=1, page=page.iova // PAGE)
        return Invalidation(func3=1, gv=1, gscid=GSCID, av=1, page=page.iova // PAGE)

    async def other_cpu(self, number: int) -> None:
        """Reads of entries, reads and writes beside them, for ever."""
        while True:
            await self.fabric.wait(self.random.randint(1, 120))
            space = self.random.choice(self.spaces)
            if self.random.random() < 0.5:
                await self.cpu(number, self.random.choice(space.pages).entry)
                continue
            place = self.random.choice([place for index, place in enumerate(space.scratch) if index % 2 == number - 1])
            value = self.random.getrandbits(63) & ~1 if self.random.random() < 0.5 else None
            access = await self.cpu(number, place, value)
            assert access.result == space.scratch[place], f"a CPU finds {access.result:#x} beside entries, and not what it wrote"
            if value is not None:
                space.scratch[place] = value

    async def _moves(self, count: int) -> None:
        for _ in range(count):
            await self.fabric.wait(self.random.randint(1, 200))
            await self.move()

    async def round(self, accesses: int, remaps: int, moves: int) -> None:
        """Accesses, and some changes among them."""
        self.begin_round()
        self.still.clear()
        self.budget = accesses
        self.source.wake()
        moving = cocotb.start_soon(self._moves(moves))
        for _ in range(remaps):
            await self.fabric.wait(self.random.randint(1, 200))
            await self.remap(self.random.sample(self.pages, self.random.choice((1, 1, 2, 3))))
        await moving
        if self.budget or len(self.identities) < 8:
            await self.still.wait()
        await self.order(*INVALIDATIONS)
        self.check()

    def check(self) -> None:
        """What devices wrote stands where the entries lead to."""
        for page in self.pages:
            entry = RiscvEntry.unpack(self.home.memory.read(page.entry, 8))
            assert entry.ppn == page.ppn, f"the entry of {page.iova:#x} leads to {entry.ppn:#x}, and not to {page.ppn:#x}"
            for word, value in page.values.items():
                found = self.home.word(page.ppn * PAGE + 8 * word)
                assert found == value, f"{page.iova:#x}, word {word}: {found} stands there, and not {value}, which was written last"


class Drains:
    """Answers ``drain``: what was translated before is visible."""

    def __init__(self, dut: Any, machine: Machine) -> None:
        self.machine, self.active, self.before = machine, False, set[int]()
        self._signal, self._read, self._write = dut.drain, bit_reader(dut.drain), writer(dut.drained)
        self._write(1)
        writer(dut.drain_failed)(0)
        machine.fabric.add(self, text_reader(dut.drain))

    def edge(self) -> bool:
        """A pulse counts those that are open."""
        if self._read():
            self.before = set(self.machine.open)
            self.machine.counts["drains"] += 1
            self._write(int(not self.before))
        return True

    def finished(self, identity: int) -> None:
        """An access is visible."""
        if identity in self.before:
            self.before.discard(identity)
            if not self.before:
                self._write(1)

    def wakes(self) -> list[Any]:
        """The rise of drain."""
        return [self._signal.value_change]


def _told(outcome: Outcome) -> tuple[Any, ...]:
    if outcome.status is not Status.TRANSLATED:
        return (outcome.status,)
    return outcome.status, outcome.address // PAGE, outcome.size, outcome.readable, outcome.writable


@cocotb.test(timeout_time=400, timeout_unit="ms")
async def races(dut: Any) -> None:
    """Rounds of accesses with everything else around them."""
    config = BenchConfig("iommu_races")
    accesses, each, remaps = config.get("accesses", 4000), config.get("round", 250), config.get("remaps", 4)
    moves = config.get("moves", 2) if config.modify else 0
    machine = Machine(dut, config)
    config.refuse_unknown()
    await machine.start()
    for number in (1, 2):
        cocotb.start_soon(machine.other_cpu(number))
    for done in range(0, accesses, each):
        config.progress(done, accesses, "accesses")
        await machine.round(each, remaps, moves)
    counts, cycles = machine.counts, machine.fabric.cycle
    dut._log.info(f"{cycles} cycles: {counts}, {machine.home.counts}")
    assert counts["accesses"] + counts["refused"] >= accesses and counts["remaps"] >= remaps * accesses // each // 2, counts
    assert counts["moves"] >= moves * accesses // each // 2, counts
    assert min(counts["drains"], counts["dirtied"], counts["cpu_accesses"]) > accesses // 200, counts
    config.write({"checked": {"events": counts["accesses"]}, "violations": {"stale": 0, "lost": 0}, "cycles": cycles, "clock_ns": 4,
                  "pages": {"requested": counts["moves"] + counts["unmoved"], "moved": counts["moves"]}})
