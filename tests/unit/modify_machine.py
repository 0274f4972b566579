# amaranth: UnusedElaboratable=no
"""Everything around the engine of `modify` in Amaranth's simulator: translation, line and home; a device, its pages and their copy in Python."""

from dataclasses import dataclass, field

from amaranth.hdl import Module
from amaranth.lib import wiring
from home_driver import at_port

from pagehop.iommu.entry_update import EntryUpdate
from pagehop.iommu.line_owner import LineOwner
from pagehop.iommu.line_share import LineShare
from pagehop.iommu.memory_arbiter import MemoryArbiter
from pagehop.iommu.modify import ModifyEngine
from pagehop.iommu.translator import Translator
from pagehop_tb.models.home import Home
from pagehop_tb.models.iommu import (
    PAGE,
    AddressSpace,
    DeviceContext,
    Directory,
    DirectoryMode,
    Mode,
    Move,
    MovePages,
    MoveStatus,
    RiscvEntry,
    TableMemory,
    pages_from,
)
from pagehop_tb.simulate import run

RECORDS, DEVICE, WORDS = 0x7000_0000, 0x12, 8
MOVED, MISMATCH, NOT_FOUND, TOO_LARGE, MISPLACED, UNTOLD, NO_COPY, NO_LINE, EXPIRED, UNDRAINED, HALF = MoveStatus


class Harness(wiring.Component):
    """The engine, and what it works on."""
    def __init__(self, *, ats=False, engine=ModifyEngine, translator=Translator, share=LineShare, **options):
        self.ats, self.engine = ats, engine(ats=ats, drain_bits=10, **options)
        self.translator, self.owner = translator(ways=4, entries=16, ats=ats, **options), LineOwner(3, 2)
        self.share, self.arbiter = share(2), MemoryArbiter(3)
        super().__init__({})

    def elaborate(self, platform):
        m = Module()
        m.submodules.engine, m.submodules.translator, m.submodules.owner, m.submodules.share = self.engine, self.translator, self.owner, self.share
        m.submodules.update = update = EntryUpdate()
        m.submodules.arbiter = self.arbiter
        engine, translator = self.engine, self.translator
        for number, memory in enumerate((translator.table_memory, translator.directory_memory, engine.memory)):
            wiring.connect(m, memory, self.arbiter.clients[number])
        wiring.connect(m, self.arbiter.owner, self.owner.port)
        wiring.connect(m, self.share.owner, self.owner.user)
        wiring.connect(m, update.line, self.share.users[0])
        wiring.connect(m, engine.line, self.share.users[1])
        wiring.connect(m, translator.update, update.update)
        wiring.connect(m, translator.updated, update.updated)
        wiring.connect(m, engine.locate, translator.locate)
        m.d.comb += [
            engine.located.eq(translator.located), translator.redo.eq(engine.redo), translator.invalidate_pages.eq(engine.invalidate),
            translator.pages.eq(engine.pages), self.owner.limit.eq(engine.limit),
        ]
        return m


@dataclass
class Command:
    """A move as software wants it, and its two halves."""
    address: int
    old: int
    new: int
    record: int | None = None
    entry: bool = False
    tries: int = 0
    bare: bool = False
    more: bool = False
    tells: bool = False
    precaches: bool = False
    device: int = DEVICE
    gscid: int = 5

    @property
    def halves(self):
        first = Move(func3=int(self.entry), optimistic=int(bool(self.tries)), bare=int(self.bare), more=int(self.more), tells=int(self.tells),
                     tries=self.tries, precaches=int(self.precaches), gscid=self.gscid, device_id=self.device, address=self.address)
        return first.value, MovePages(recorded=int(self.record is not None), record=self.record or 0, old=self.old, new=self.new).value


@dataclass
class Machine:
    """A device with ``pages`` pages of first- or second-stage tables; the content of physical pages is a list of words."""
    rng: object
    dut: Harness
    mode: Mode = Mode.SV39
    second: bool = False
    both: bool = False
    entries: type = RiscvEntry
    pages: int = 16
    latency: object = lambda: 4
    flags: dict = field(default_factory=dict)
    copy_cycles: int = 3        # a word
    home_options: dict = field(default_factory=dict)

    def __post_init__(self):
        self.home = Home(self.rng, latency=self.latency, cacher=3, **{"patience": None, **self.home_options})
        self.memory, allocate = TableMemory(self.home.memory), pages_from(0x8000_0000)
        directory = Directory(self.memory, allocate, DirectoryMode.ONE_LEVEL)
        self.base, self.physical = 0x40_0000, 0x10_0000     # the device's address, number of the first physical page
        under = {}
        names = {"ats": int(self.dut.ats), "gade": 1, "sade": 1, "gscid": 5}
        if self.second or self.both:
            self.space = AddressSpace(self.memory, allocate, self.mode, second=True, entries=self.entries)
            names |= {"second_mode": self.mode, "second_ppn": self.space.ppn}
            under = {"under": self.space, "guest_allocate": pages_from(0x100_0000)}
        for page in range(self.pages):
            if self.second or self.both:
                self.space.map(self.base + page * PAGE, (self.physical + page) * PAGE, **self.flags)
        if not self.second:
            first = AddressSpace(self.memory, allocate, Mode.SV39, **under)
            for page in range(self.pages):
                target = self.base + page * PAGE if self.both else (self.physical + page) * PAGE
                for alias in range(self.aliases):
                    first.map(self.base + (page + alias * self.pages) * PAGE, target, **self.flags)
            names |= {"first_mode": Mode.SV39, "first_ppn": first.ppn}
            self.space = self.space if self.both else first
        directory.device(DEVICE, DeviceContext(**names))
        self.directory = directory
        self.ram = {}
        self.lies = {page: self.physical + page for page in range(self.pages)}     # where a page is
        self.fresh = self.physical + 0x1000
        self.written = {}           # (page, word): what the device wrote last
        self.open = {}              # translated, and not visible yet: count by number
        self.waiting, self.serial, self.stale, self.accesses = {}, 0, [], 0
        self.draining, self.drain_wait, self.drain_never = None, 0, False
        self.visible_after = 50
        self.stop, self.cycle, self.copies, self.copy_fault, self.rate = False, 0, [], lambda _: False, 0.0
        self.extra, self.rounds, self.round_fails = [], [], False

    @property
    def aliases(self):
        """How many addresses of the device lead to a page; with both stages they do so by the one entry of the second."""
        return 2 if self.both else 1

    def entry(self, page):
        return self.space.place(self.base + page * PAGE, 0)

    def ppn(self, page):
        return self.entries.of(self.home.word(self.entry(page))).ppn

    def content(self, ppn):
        return self.ram.setdefault(ppn, [0] * WORDS)

    # What goes on beside the test.

    async def device(self, ctx):
        """Requests for random pages at random times; a write takes effect some cycles after its translation."""
        rng, translator = self.rng, self.dut.translator
        request, response = translator.request, translator.response
        ctx.set(translator.directory, {"mode": 2, "ppn": self.directory.ppn})
        ctx.set(self.dut.engine.records, RECORDS // PAGE)
        free, offered = list(range(8)), None
        while not self.stop:
            if offered is None and free and rng.random() < self.rate:
                identity, page = free.pop(), rng.choice(self.hot)
                word, self.serial = rng.randrange(WORDS), self.serial + 1
                offered = identity, page, word, self.serial
                place = page + self.pages * rng.randrange(self.aliases) if self.both else page
                ctx.set(request.payload, {"id": identity, "device_id": DEVICE, "iova": self.base + place * PAGE + 8 * word, "access": 3})
                ctx.set(request.valid, 1)
            _, _, taken, answered, answer = await ctx.tick().sample(request.ready, response.valid, response.payload)
            self.cycle += 1
            if offered is not None and taken:
                self.waiting[offered[0]] = offered[1:]
                offered = None
                ctx.set(request.valid, 0)
            if answered:
                page, word, value = self.waiting.pop(answer.id)
                assert answer.status.value == 0 and answer.translation.writable, answer
                free.append(answer.id)
                self.accesses += 1
                self.open[value] = self.cycle + rng.randrange(self.visible_after), page, word, answer.translation.ppn
            for value, (when, page, word, ppn) in sorted(self.open.items()):
                if when <= self.cycle:
                    del self.open[value]
                    self.content(ppn)[word] = value
                    self.written[page, word] = value

    async def drains(self, ctx):
        """What was translated when a drain began is waited for."""
        engine, before = self.dut.engine, None
        while not self.stop:
            _, _, drain = await ctx.tick().sample(engine.drain)
            if drain:
                before = set(self.open)
            ctx.set(engine.drained, before is not None and not before & set(self.open) and not self.drain_never)
            if drain:
                ctx.set(engine.drained, 0)

    async def copier(self, ctx):
        """A word in ``copy_cycles``."""
        engine = self.dut.engine
        while not self.stop:
            _, _, valid, pages = await ctx.tick().sample(engine.copy.valid, engine.copy.payload)
            if not valid:
                continue
            failed = self.copy_fault(pages.source)
            self.copies.append((pages.source, pages.destination))
            for word in range(WORDS):
                await ctx.tick().repeat(self.copy_cycles)
                self.content(pages.destination)[word] = self.content(pages.source)[word]
            ctx.set(engine.copy_failed, failed)
            ctx.set(engine.copy.ready, 1)
            await ctx.tick()
            ctx.set(engine.copy.ready, 0)

    async def devices(self, ctx):
        """All ATS devices of the domain: a round takes 20 cycles."""
        engine = self.dut.engine
        while not self.stop:
            _, _, hold, valid, told, owned = await ctx.tick().sample(
                engine.ats_hold, engine.round.valid, engine.round.payload, self.dut.owner.user.owned)
            ctx.set(engine.ats_quiet, hold)
            if valid:
                assert not hold or ctx.get(engine.ats_quiet), "devices are told while one of them may still ask"
                self.rounds.append({"payload": told.payload, "gscid": told.gscid, "held": hold, "owned": owned, "copies": len(self.copies)})
                await ctx.tick().repeat(20)
                ctx.set(engine.round_failed, self.round_fails)
                ctx.set(engine.round.ready, 1)
                await ctx.tick()
                ctx.set(engine.round.ready, 0)

    # What a test does.

    async def order(self, ctx, *words):
        """Give commands to the engine."""
        command = self.dut.engine.execute.command
        for word in words:
            ctx.set(command.payload, word)
            ctx.set(command.valid, 1)
            await ctx.tick().until(command.ready)
            ctx.set(command.valid, 0)
            await ctx.tick().repeat(4)

    async def finished(self, ctx, limit=8000):
        for _ in range(limit):
            _, _, pending = await ctx.tick().sample(self.dut.engine.execute.pending)
            if not pending:
                return
        raise AssertionError("a move never ended")

    def record(self, number):
        word = self.home.word(RECORDS + 8 * number)
        return word & 0xF, word >> 8 & 0xFF, word >> 32

    async def move(self, ctx, *pages, tries=0, by_entry=False, hold_limit=60_000, **options):
        """Move pages of one line to fresh places in one batch. Returns their records, without the cycles."""
        ctx.set(self.dut.engine.hold_limit, hold_limit)
        for number, page in enumerate(pages):
            self.fresh += 1
            address = self.entry(page) if by_entry else self.base + page * PAGE
            await self.order(ctx, *Command(address, self.lies[page], self.fresh, number, by_entry, tries, more=page != pages[-1], **options).halves)
            self.home.memory.write(RECORDS + 8 * number, bytes(8))
        fresh = self.fresh
        await self.finished(ctx)
        records = [self.record(number)[:2] for number in range(len(pages))]
        for number, page in enumerate(pages):
            if records[number][0] == MOVED:
                self.lies[page] = fresh - len(pages) + 1 + number
        return records

    async def settle(self, ctx):
        """The device stops, and everything it began ends."""
        self.rate = 0
        for _ in range(20_000):
            await ctx.tick()
            if not self.waiting and not self.open and self.home.idle:
                return
        raise AssertionError("a translation was never answered")

    def check(self):
        """While none is moved: each page is where it was moved to, and has what the device wrote last."""
        for page in range(self.pages):
            assert self.ppn(page) == self.lies[page], f"page {page} is at {self.ppn(page):#x}, not at {self.lies[page]:#x}"
        for (page, word), value in self.written.items():
            found = self.content(self.lies[page])[word]
            assert found == value, f"page {page}, word {word}: {found}, not {value}, which was written last"

    def run(self, test, hot=None):
        self.hot = list(range(self.pages)) if hot is None else hot

        async def bench(ctx):
            await ctx.tick().repeat(3)
            await test(self, ctx)
            await self.settle(ctx)
            self.check()
            self.stop = True

        benches = [self.device, self.drains, self.copier, *([self.devices] if self.dut.ats else []), *self.extra]
        run(self.dut, at_port(self.home, self.dut.arbiter.port, lambda: self.stop), bench, *benches)
