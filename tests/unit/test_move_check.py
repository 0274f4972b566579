"""The check of moves: requests of several slots against what the documentation says of each error."""

import pytest

from pagehop.interposer.bitmaps import OwnerOpKind
from pagehop.interposer.move_check import MoveCheck, MoveError, MoveRequest
from pagehop_sim.planted import planted
from pagehop_tb.driver.interposer import units
from pagehop_tb.simulate import run, seeded

PAGES, SLOTS, PAGE = 64, 4, 4096
#: Window and offset of two guests: of each, one of the two is a multiple of 16 KB only.
GUESTS = (0x40_4000, 0x7F_0000_0000), (0x40_0000, 0x7F_0000_4000)
MSI, MMIO = 5, 9      # pages of the window that are not memory
LOW = 1               # pages from here on are in the maps, as many as these have
#: Cycles from a request until the answer, when no other slot asks, and for each further unit of a large page.
WHOLE, WRONG, UNIT = 8, 5, 7
#: Cycles after which a slot has had its turn: few requests are of more than four units, and those fail.
WAITS = 40 + 2 * SLOTS * (WHOLE + 10 + 3 * UNIT)
#: Base-2 logarithm of the largest page: that of the maps.
LARGEST = 18
#: Cycles between a commit and the end of its move, at least; cycles before its answer in which a request is compared.
SETTLES, COMPARES = 8, 4


def word(request):
    """A request as bits: a mode that there is not has no name."""
    fields = MoveRequest.as_shape()
    return sum(value % (1 << fields[name].width) << fields[name].offset for name, value in request.items())


class Exercise:
    """Slots that ask at random; each keeps its page for a while when it got one."""
    def __init__(self, dut, rng, base, offset):
        self.dut, self.rng, self.base, self.offset = dut, rng, base, offset
        self.owners = [rng.randrange(2) for _ in range(PAGES)]
        self.asked = [None] * SLOTS             # request and cycle
        self.pages = [None] * SLOTS             # entries that move in the slot, until when, and whereto
        self.left = [(range(0), 0)] * SLOTS     # entries that moved before, and since when they do no more
        self.seen = dict.fromkeys(MoveError, 0)
        self.late = [(0, 0), (0, 0)]            # answers of the owner map on their way
        self.waits, self.large = [], 0
        self.paused = 0

    def settings(self):
        def pages(first, count):
            return {"base": self.base // PAGE + first, "limit": self.base // PAGE + first + count}
        return {"window": pages(0, PAGES + 3), "msi": pages(MSI, 1), "mmio": pages(MMIO, 1), "host_b_offset": self.offset}

    def request(self):
        rng = self.rng
        first, end = rng.choice([(-1, 12)] * 7 + [(-1, PAGES + 3)] * 2 + [(PAGES - 2, PAGES + 3)])
        page, to_host = rng.randrange(first, end), rng.randrange(2)
        size = rng.choice([12] * 8 + [13] * 4 + [14] * 4 + [15, LARGEST, LARGEST + 1, 11, 21])
        source = self.base + page * PAGE + rng.choice([0] * 9 + [64])
        if size > 12 and rng.random() < 0.8:
            source &= -1 << size
        destination = (source + self.offset if to_host else source) + rng.choice([0] * 9 + [PAGE])
        return {"source": source, "destination": destination, "to_host": to_host, "mode": rng.choice([0, 1, 2] * 4 + [3]), "page_size": size}

    def expected(self, request, slot):
        """The first error that applies, in the order of the documentation."""
        source, size = request["source"], request["page_size"]
        if request["mode"] == 3:
            return MoveError.MODE
        if not 12 <= size <= LARGEST:
            return MoveError.PAGE_SIZE
        # Also the place at Host B, and that in the maps.
        if any(address % (1 << size) for address in (source, request["destination"], source - self.base)) or (source + self.offset) % (1 << size):
            return MoveError.MISALIGNED
        for page in units(source // PAGE - self.base // PAGE, size):
            if not LOW <= page < LOW + PAGES or page in (MSI, MMIO):
                return MoveError.NOT_IN_WINDOW
            if request["destination"] != source + (self.offset if request["to_host"] else 0):
                return MoveError.DESTINATION
            if any(moving and page % PAGES in moving[0] for other, moving in enumerate(self.pages) if other != slot):
                return MoveError.BUSY
            if self.owners[page % PAGES] == request["to_host"]:
                return MoveError.ALREADY_THERE
        return MoveError.NONE

    def answer(self, ctx, cycle):
        dut, bits = self.dut, ctx.get(self.dut.answer)
        assert bits & bits - 1 == 0
        for slot in range(SLOTS):
            if bits >> slot & 1:
                request, since = self.asked[slot]
                verdict, error = ctx.get(dut.verdict), self.expected(request, slot)
                entries = units(request["source"] // PAGE - self.base // PAGE, request["page_size"])
                entries = range(entries.start % PAGES, entries.start % PAGES + len(entries))
                compared = cycle - COMPARES - UNIT * (len(entries) - 1)
                if verdict.error == MoveError.BUSY and any(set(before) & set(entries) and end >= compared for before, end in self.left):
                    error = MoveError.BUSY
                assert verdict.error == error, f"{request} was answered {verdict.error}, not {error}"
                self.seen[error] += 1
                self.asked[slot] = None
                self.waits.append(cycle - since)
                if error == MoveError.NONE:
                    assert verdict.number == (request["source"] - self.base) // PAGE and verdict.page == verdict.number % PAGES
                    assert verdict.far == (request["source"] + self.offset) // PAGE and verdict.mask == len(entries) - 1
                    self.pages[slot] = (entries, cycle + self.rng.randrange(2 * SETTLES, 120), request["to_host"])
                    self.large += len(entries) > 1

    async def bench(self, ctx):
        dut, rng = self.dut, self.rng
        ctx.set(dut.settings, self.settings())
        ctx.set(dut.low, LOW)
        ctx.set(dut.movable, LOW + PAGES)
        await ctx.tick().repeat(3)
        paused = False      # no request is being checked, and none may be
        for cycle in range(12_000):
            pause = cycle % 400 < 40
            ctx.set(dut.pause, pause)
            idle = ctx.get(dut.idle)
            assert idle or not paused, "a request is checked in a pause"
            paused = pause and idle
            self.paused += paused
            for slot in range(SLOTS):
                moving = self.pages[slot]
                if moving and cycle > moving[1] - SETTLES:
                    for entry in moving[0]:
                        self.owners[entry] = moving[2]
                if moving and cycle > moving[1]:
                    self.pages[slot], self.left[slot] = None, (moving[0], cycle)
                if self.asked[slot] is None and self.pages[slot] is None and rng.random() < (1 if cycle % 4000 < 1000 else 0.03):
                    self.asked[slot] = (self.request(), cycle)
                    ctx.set(dut.request[slot].as_value(), word(self.asked[slot][0]))
                ctx.set(dut.asks[slot], self.asked[slot] is not None)
                ctx.set(dut.busy[slot], self.pages[slot] is not None)
                entries = self.pages[slot][0] if self.pages[slot] else range(rng.randrange(PAGES))
                ctx.set(dut.page[slot], entries.start)
                ctx.set(dut.mask[slot], max(0, len(entries) - 1))
            ready = rng.random() < 0.8
            ctx.set(dut.owner_op.ready, ready)
            op = ctx.get(dut.owner_op.payload)
            reads = ctx.get(dut.owner_op.valid) and ready
            assert not reads or op.kind == OwnerOpKind.READ
            valid, owner = self.late.pop(0)
            self.late.append((reads, self.owners[op.index] if reads else rng.randrange(2)))
            ctx.set(dut.owner_valid, valid)
            ctx.set(dut.owner, owner)
            self.answer(ctx, cycle)
            await ctx.tick()
            assert all(asked is None or cycle - asked[1] < WAITS for asked in self.asked), "a slot waits for ever"


def exercise(check, name):
    for base, offset in GUESTS:
        dut = check()
        exercised = Exercise(dut, seeded(name), base, offset)
        run(dut, exercised.bench)
        made = {MoveError.NONE, MoveError.MODE, MoveError.PAGE_SIZE, MoveError.MISALIGNED, MoveError.NOT_IN_WINDOW, MoveError.DESTINATION,
                MoveError.BUSY, MoveError.ALREADY_THERE}
        assert all(exercised.seen[error] > 10 for error in made), exercised.seen
        assert min(exercised.waits) == WRONG and exercised.paused > 300 and exercised.large > 10


@pytest.mark.hazard("H49")
def test_verdicts_are_those_of_the_documentation():
    exercise(lambda: MoveCheck(PAGES, SLOTS), "check")


@pytest.mark.parametrize("change", [
    ("with m.If(moves.any()):", "with m.If(0):"), ("turns.served.eq(turns.grant)", "turns.served.eq(0)"), ("inside & ~special", "inside"),
    ("asked.eq(turns.grant), delay.eq(2)", "asked.eq(turns.grant), delay.eq(1)"),
    ("in_run(entry, page, mask)", "(entry == page)"), ("with m.Elif(unit != verdict.mask):", "with m.Elif(0):"),
    ("request.destination[PAGE_BITS:] | far[PAGE_BITS:] | offset", "request.destination[PAGE_BITS:] | far[PAGE_BITS:]"),
    ("request.destination[PAGE_BITS:] | far[PAGE_BITS:] | offset", "request.destination[PAGE_BITS:] | offset"),
    ("place >= self.low", "place >= 0"), ("place < self.movable", "place < self.movable + 1"),
    ("| unit, offset | unit", "| unit, offset"), ("Mux(self.pause, 0, self.asks)", "self.asks")],
    ids=["a page twice", "no turns", "special pages", "too early", "first unit moves", "first unit only", "astride", "astride at B",
         "below", "above", "a run that ends above", "no pause"])
def test_planted_bug_is_found(change):
    with pytest.raises(AssertionError):
        exercise(lambda: planted(MoveCheck, *change)(PAGES, SLOTS), "check/bug")
