# amaranth: UnusedElaboratable=no
"""Page tables that the dirty log marks: every page ends with its D, whatever software does to the entries meanwhile, and nothing else changes."""

import pytest

from pagehop.interposer.dirty_walk import DirtyWalk
from pagehop.interposer.log_settings import LogError
from pagehop.interposer.log_tables import LogTables
from pagehop.iommu.entry_format import RiscvEntries, VtdEntries
from pagehop_sim.planted import edited
from pagehop_tb.models.iommu import PAGE, AddressSpace, Mode, RiscvEntry, VtdEntry, pages_from
from pagehop_tb.models.memory import HostMemory
from pagehop_tb.protocol import Kind, answer, decode, encode
from pagehop_tb.simulate import run, seeded

OUR_ID, HOST, LIMIT, SHORT, LONG = 0x0208, 1, 400, 120, 4000
#: Base and pages of each range, as the device addresses them, and how large the pages are by which they are translated.
RANGES = ((0x1_001F_0000, 32, PAGE), (0x40_0000_0000, 1024, 1 << 21), (0x41_0000_0000, 32, 1 << 16), (0x7F_FFFF_0000, 16, PAGE))
TARGET = 0x8_0000_0000
MIB2 = 1 << 21


class Host:
    """A host with the tables in its memory: it performs requests late and answers them late, out of step. Software changes entries in any cycle."""

    def __init__(self, ctx, dut, rng, deep, software=0.2):
        self.ctx, self.dut, self.rng, self.software = ctx, dut, rng, software
        self.vtd = dut.entries is VtdEntries
        entries = VtdEntry if self.vtd else RiscvEntry
        self.marks = {"accessed": 1 << (8 if self.vtd else 6), "dirty": 1 << (9 if self.vtd else 7)}
        self.free = 0x7C if self.vtd else 0x300     # bits of software's own: of VT-d's, those that are ignored
        low, high = pages_from(0x2000_0000), pages_from(0x80_0000_0000)
        self.memory = HostMemory()
        self.space = AddressSpace(self.memory, lambda pages: rng.choice((low, high))(pages), Mode.SV48 if deep else Mode.SV39, second=True,
                                  entries=entries)
        self.deep, self.cycle = deep, 0
        self.places, self.words = {}, {}    # of the leaf of each page; what software means each leaf to be, but for A and D
        self.asked, self.done, self.swaps, self.reads, self.lost = [], [], 0, 0, 0
        self.marked, self.taken, self.wild = set(), set(), None
        self.quick, self.deaf = 0.05, False
        for number, (base, pages, size) in enumerate(RANGES):
            self.map(base, base + pages * PAGE, PAGE if self.vtd and size == 1 << 16 else size, number)
        ctx.set(dut.settings, {
            "ranges": [{"base": base >> 12, "pages": pages, "shift": 12} for base, pages, _ in RANGES], "enable": 1, "host": HOST, "tables": 1,
            "root": {"ppn": self.space.ppn, "deep": deep}})
        ctx.set(dut.requester_id, OUR_ID)
        ctx.set(dut.limit, LIMIT)

    def map(self, first, end, size, number=0):
        for address in range(first, end, size):
            target = TARGET * (number + 1) + address % (1 << 30)
            self.space.map(address, target, size, dirty=self.rng.random() < 0.1, accessed=self.rng.random() < 0.5)
        for address in range(first, end, PAGE):
            self.found(address)

    def found(self, address):
        place = self.space.place(address)
        self.places[address] = place
        self.words[place] = self.word(place) & ~sum(self.marks.values())

    def word(self, place):
        return int.from_bytes(self.memory.read(place, 8), "little")

    def write(self, place, word):
        self.memory.write(place, word.to_bytes(8, "little"))

    # Software.

    def _software(self):
        """One atomic step: D is taken, the page is another one, or software's own bits are."""
        rng = self.rng
        place = self.places[rng.choice(self.hot) if rng.random() < 0.9 else rng.choice(list(self.places))]
        word, choice = self.word(place), rng.randrange(4)
        if choice < 2:
            if word & self.marks["dirty"]:
                self.taken.add(place)
            word &= ~self.marks["dirty"]
        elif choice == 2:
            word ^= self.free & rng.randrange(self.free + 1)
        else:
            word ^= 1 << 45     # of the page
        self.words[place] = word & ~sum(self.marks.values())
        self.write(place, word)

    def rebuild(self):
        """Other tables, while nothing is on its way: the last tables have been copied elsewhere, and the old ones are full of something else."""
        for first in {address // MIB2 * MIB2 for address in self.places}:
            pointer = self.space.place(first, 1)
            entry = self.space.read(pointer)
            leaf = entry.large if self.vtd else entry.readable
            if not leaf:
                table = entry.ppn * PAGE
                copy = self.space.allocate(1)
                self.memory.write(copy, self.memory.read(table, PAGE))
                self.space.write(pointer, type(entry).pointer(copy // PAGE))
                for place in range(table, table + PAGE, 8):
                    self.write(place, 0)
                    self.words.pop(place, None)
            elif self.rng.random() < 0.5:
                self.write(pointer, 0)
                self.words.pop(pointer)
                self.map(first, first + MIB2, PAGE, 1)
        for address in self.places:
            self.found(address)

    # Hardware.

    def _take(self):
        ctx, dut, rng = self.ctx, self.dut, self.rng
        ctx.set(dut.o_request.ready, not self.deaf and rng.random() < 0.5)
        if ctx.get(dut.o_request.valid) and ctx.get(dut.o_request.ready):
            beat = ctx.get(dut.o_request.payload)
            assert beat.first and beat.last
            tlp = decode(beat.header, (beat.data & (1 << 128) - 1).to_bytes(16, "little")[:4 * beat.dwords])
            assert tlp.requester_id == OUR_ID and tlp.address % 8 == 0 and tlp.tag & 0xF0 == 0xB0 | HOST << 6
            assert (tlp.kind, tlp.length, beat.dwords) in {(Kind.MRD, 2, 0), (Kind.CAS, 4, 4)}
            assert all(tlp.tag != other.tag for _, other in self.asked + [(0, one[1]) for one in self.done]), "a tag is used twice"
            self.asked.append((self.cycle + rng.randrange(1, 20), tlp))

    def _perform(self):
        for one in [one for one in self.asked if one[0] <= self.cycle and self.rng.random() < self.quick]:
            self.asked.remove(one)
            tlp = one[1]
            word = self.word(tlp.address)
            self.reads += tlp.kind is Kind.MRD
            if tlp.kind is Kind.CAS:
                known, new = (int.from_bytes(tlp.data[at:at + 8], "little") for at in (0, 8))
                assert known | self.marks["accessed"] | self.marks["dirty"] == new, f"{known:#x} shall be {new:#x}"
                assert tlp.address in self.words, f"what is at {tlp.address:#x} is no leaf"
                self.swaps += 1
                if word == known:
                    self.write(tlp.address, new)
            self.done.append((self.cycle + self.rng.randrange(1, 20), tlp, word))

    def _answer(self):
        ctx, dut = self.ctx, self.dut
        due = [one for one in self.done if one[0] <= self.cycle]
        ctx.set(dut.completion.valid, bool(due))
        if due:
            self.done.remove(one := self.rng.choice(due))
            _, tlp, word = one
            reply, poisoned = answer(tlp, 0x0100, 0, word.to_bytes(8, "little"), 8), 0
            if self.wild is not None:
                how, self.wild = self.wild, None
                if how in ("UR", "CA"):
                    reply = answer(tlp, 0x0100, 1 if how == "UR" else 4)
                elif how == "short":
                    reply = answer(tlp, 0x0100, 0, bytes(4), 4)
                elif how == "silence":
                    ctx.set(dut.completion.valid, 0)
                    self.lost += 1
                    return
                poisoned = how == "poison"
            ctx.set(dut.completion.payload, {
                "header": encode(reply) | poisoned << 110, "data": int.from_bytes(reply.data, "little"), "dwords": len(reply.data) // 4,
                "first": 1, "last": 1, "poisoned": poisoned})

    async def step(self):
        """One cycle. Returns the error that is told."""
        if self.rng.random() < self.software:
            self._software()
        self._perform()
        self._answer()
        self._take()
        error = LogError(self.ctx.get(self.dut.error))
        await self.ctx.tick()
        self.cycle += 1
        return error

    async def mark(self, address):
        """Hand a page over. Returns the error that is told meanwhile."""
        ctx, dut = self.ctx, self.dut
        number, unit = next((number, (address - base) // PAGE) for number, (base, pages, _) in enumerate(RANGES)
                            if base <= address < base + pages * PAGE)
        ctx.set(dut.i.payload, {"place": {"range": number, "word": unit // 64}, "bit": unit % 64})
        ctx.set(dut.i.valid, 1)
        for _ in range(LONG):
            taken, error = ctx.get(dut.i.ready), await self.step()
            assert error == LogError.NONE, f"{error} is told, and nothing is wrong"
            if taken:
                break
        else:
            raise AssertionError("a mark is not taken")
        ctx.set(dut.i.valid, 0)
        self.marked.add(address)

    async def ends(self):
        """Wait until all is marked. Returns the error."""
        for _ in range(LONG):
            error = await self.step()
            if error != LogError.NONE:
                return error
            if self.ctx.get(self.dut.idle):
                return LogError.NONE
        raise AssertionError("the log is not idle")

    async def forget(self):
        self.ctx.set(self.dut.forget, 1)
        await self.step()
        self.ctx.set(self.dut.forget, 0)
        self.marked.clear()
        self.taken.clear()

    def judge(self):
        """Each page that came since all was forgotten has its D, or software has taken it since; all else is as software left it."""
        for address in self.marked:
            place = self.places[address]
            assert place in self.taken or self.word(place) & self.marks["dirty"], f"{address:#x} is not marked"
            assert self.word(place) & self.marks["accessed"]
        for place, word in self.words.items():
            assert self.word(place) & ~sum(self.marks.values()) == word, f"the entry at {place:#x} has changed"


def exercise(dut, name, deep=0, rounds=6, software=0.2):
    counts = {}

    async def bench(ctx):
        host = Host(ctx, dut, rng := seeded(name), deep, software)
        pages = list(host.places)
        for number in range(rounds):
            host.hot = [rng.choice(pages) for _ in range(rng.choice((1, 3, 30)))] + [rng.choice([base, base + (size - 1) * PAGE])
                                                                                    for base, size, _ in RANGES]
            host.quick = rng.choice((0.1, 0.9))
            for _ in range(rng.randrange(5, 50)):
                await host.mark(rng.choice(host.hot) if rng.random() < 0.8 else rng.choice(pages))
                for _ in range(rng.choice((0, 0, 30))):
                    assert await host.step() == LogError.NONE
            assert await host.ends() == LogError.NONE
            assert not host.asked and not host.done, "idle amid a request"
            host.judge()
            if number % 2:
                host.rebuild()
            await host.forget()
        counts.update(reads=host.reads, swaps=host.swaps)

    run(dut, bench)
    return counts


@pytest.mark.hazard("H34", "H46", "H47", "I12")
@pytest.mark.parametrize("walks", [1, 8])
@pytest.mark.parametrize("entries", [RiscvEntries, VtdEntries])
def test_every_page_is_marked(entries, walks):
    dut = LogTables(16, entries, walks=1, known=4) if walks == 1 else LogTables(64, entries, walks=walks)
    counts = exercise(dut, f"tables/{entries.__name__}/{walks}", deep=walks == 8, rounds=4 if walks == 1 else 8)
    assert min(counts.values()) > 40, counts


WRONG = {
    "UR": LogError.ANSWER, "CA": LogError.ANSWER, "short": LogError.ANSWER, "poison": LogError.ANSWER, "silence": LogError.TIMEOUT,
    "unmapped": LogError.TABLES, "read-only": LogError.TABLES, "misaligned": LogError.TABLES, "beyond": LogError.TABLES, "outside": LogError.TABLES,
    "units": LogError.TABLES, "not taken": LogError.TIMEOUT, "endless": LogError.TIMEOUT,
}


def goes_wrong(dut, how, request):
    """What goes wrong with the read of the leaf (0) or its swap (1) is told."""
    async def bench(ctx):
        host = Host(ctx, dut, rng := seeded(f"tables/{how}/{request}"), 0, software=0)
        ctx.set(dut.limit, SHORT)
        host.quick = 0.5
        address, other = (base + rng.randrange(pages) * PAGE for base, pages, _ in (RANGES[0], RANGES[3]))
        place = host.places[address]
        host.write(place, host.word(place) & ~sum(host.marks.values()))
        await host.mark(other)
        assert await host.ends() == LogError.NONE
        swaps = host.swaps
        if how == "unmapped":
            host.write(place, 0)
        elif how == "read-only":
            host.write(place, host.word(place) & ~(2 if host.vtd else 4))
        elif how == "misaligned":
            pointer = host.space.place(address, 1)
            host.write(pointer, host.word(place) | 1 << 12 | (1 << 7 if host.vtd else 1 << 10))
        elif how in ("beyond", "outside"):
            ctx.set(dut.settings.ranges[0].base, 1 << (44 if how == "beyond" else 29) | RANGES[0][0] >> 12)
        elif how == "units":
            ctx.set(dut.settings.ranges[2].shift, 13)
        await host.mark(address)
        began, host.deaf = host.cycle, how == "not taken"
        for _ in range(20 * SHORT):
            if how in ("UR", "CA", "short", "poison", "silence") and host.reads > 0:
                is_swap = [one[1].kind is Kind.CAS for one in host.done]
                host.wild = how if is_swap == [bool(request)] else None
            if how == "endless" and any(tlp.data[:8] == host.memory.read(place, 8) for _, tlp in host.asked):
                host.write(place, host.word(place) ^ host.free)
            error = await host.step()
            if error != LogError.NONE:
                break
        assert error == WRONG[how], f"told is {error}"
        if how in ("silence", "not taken"):
            assert SHORT <= host.cycle - began < 2 * SHORT + 60
        assert host.swaps == swaps or request or how in ("endless", "units")

    run(dut, bench)


CASES = [(how, request) for how in ("UR", "CA", "short", "poison", "silence") for request in (0, 1)] + [(how, 0) for how in list(WRONG)[5:]]


@pytest.mark.hazard("I12")
@pytest.mark.parametrize(("how", "request_"), CASES)
def test_what_goes_wrong_is_told(how, request_):
    goes_wrong(LogTables(64, walks=2, known=4), how, request_)


def costs(dut, levels):
    """A page whose table is known costs one read, and a swap when it lacks its D; one that came since all was forgotten nothing."""
    async def bench(ctx):
        host = Host(ctx, dut, seeded("tables/costs"), levels == 4, software=0)
        base, pages, _ = RANGES[0]
        addresses = [base + PAGE * page for page in range(min(pages, 16))]     # of one table
        for address in addresses:
            host.write(host.places[address], host.word(host.places[address]) & ~sum(host.marks.values()))
        for known in range(2):
            for count, address in enumerate(addresses):
                reads, swaps = host.reads, host.swaps
                await host.mark(address)
                assert await host.ends() == LogError.NONE
                assert (host.reads - reads, host.swaps - swaps) == (1 if count >= dut.walks else levels, 1 - known)
            requests = host.reads + host.swaps
            for address in addresses:
                await host.mark(address)
                assert await host.ends() == LogError.NONE
            assert host.reads + host.swaps == requests
            await host.forget()

    run(dut, bench)


@pytest.mark.parametrize("levels", [3, 4])
def test_what_a_page_costs(levels):
    costs(LogTables(64, walks=1), levels)


def test_walks():
    with pytest.raises(ValueError, match="1, 2, 4 or 8"):
        LogTables(walks=3)


#: Within so many runs, each with other random choices, a bug must be found.
BUDGET = 3
BUGS = {
    "swapped once": (DirtyWalk, ("with m.Elif(~same):", "with m.Elif(0):")),
    "swaps are compared with their entry": (DirtyWalk, ("with m.Elif(~same):", "with m.Elif(same):")),
    "pages are remembered": (LogTables, ("given.invalidate.eq(self.forget)", "given.invalidate.eq(0)")),
    "pages are given to nobody": (LogTables, ("with m.Elif(free.bit_select(turn, 1)):", "with m.Else():")),
    "tables are remembered": (DirtyWalk, ("walk.invalidate.eq(self.forget)", "walk.invalidate.eq(0)")),
    "answers for all": (LogTables, ("ours & (number == walk.number)", "ours")),
    "the range is left out": (LogTables, ("page.eq(base + unit)", "page.eq(unit)")),
    "idle amid a walk": (LogTables, ("waits & Cat(walk.i.ready for walk in walks).all()", "waits")),
    "a read is a swap": (DirtyWalk, ("request.swaps.eq(walk.update.valid)", "request.swaps.eq(1)")),
    "without its D": (DirtyWalk, ("request.writes.eq(1)", "request.writes.eq(0)")),
}


@pytest.mark.parametrize("bug", BUGS)
def test_planted_bug_is_found(bug):
    component, change = BUGS[bug]
    broken = edited(component, change)
    design = broken if component is LogTables else edited(LogTables, DirtyWalk=broken)
    with pytest.raises(AssertionError):
        for attempt in range(BUDGET):
            exercise(design(64, walks=2, known=16), f"tables/bug/{attempt}")


SILENT_BUGS = {
    ("UR", 0): ("denied.eq(~self.answer.good)", "denied.eq(0)"), ("poison", 1): ("with m.If(~self.answer.good):", "with m.If(0):"),
    ("beyond", 0): ("request.beyond.eq(page[PPN_BITS:].any())", "request.beyond.eq(0)"),
    ("unmapped", 0): ("ended & (fault != WalkFault.NONE)", "0"), ("silence", 1): ("(silence == SILENT_TICKS) | ", ""),
    ("endless", 0): (" | (age == LONG_TICKS)", ""), ("units", 0): None,
}


@pytest.mark.parametrize("case", SILENT_BUGS)
def test_bugs_that_tell_nothing_are_found(case):
    change = SILENT_BUGS[case]
    design = edited(LogTables, DirtyWalk=edited(DirtyWalk, change)) if change else edited(LogTables, ("with m.If(coarse):", "with m.If(0):"))
    with pytest.raises(AssertionError):
        goes_wrong(design(64, walks=2, known=4), *case)
