"""The check of moves: requests of several slots against what the documentation says of each error."""

import pytest

from pagehop.interposer.bitmaps import OwnerOpKind
from pagehop.interposer.move_check import MoveCheck, MoveError, MoveRequest
from pagehop_sim.planted import planted
from pagehop_tb.simulate import run, seeded

PAGES, SLOTS, PAGE = 64, 4, 4096
BASE, OFFSET = 0x40_0000, 0x7F_0000_0000
MSI, MMIO = 5, 9      # pages of the window that are not memory
LOW = 2               # pages from here on are in the maps, as many as these have
#: Cycles from a request until the answer, when no other slot asks.
WHOLE, WRONG = 8, 5
#: Cycles between a commit and the end of its move, at least; cycles before its answer in which a request is compared.
SETTLES, COMPARES = 8, 4


def word(request):
    """A request as bits: a mode that there is not has no name."""
    fields = MoveRequest.as_shape()
    return sum(value % (1 << fields[name].width) << fields[name].offset for name, value in request.items())


class Exercise:
    """Slots that ask at random; each keeps its page for a while when it got one."""
    def __init__(self, dut, rng):
        self.dut, self.rng = dut, rng
        self.owners = [rng.randrange(2) for _ in range(PAGES)]
        self.asked = [None] * SLOTS             # request and cycle
        self.pages = [None] * SLOTS             # page that moves in the slot, until when, and whereto
        self.left = [(None, 0)] * SLOTS         # page that moved before, and since when it does no more
        self.seen = dict.fromkeys(MoveError, 0)
        self.late = [(0, 0), (0, 0)]            # answers of the owner map on their way
        self.waits = []
        self.paused = 0

    def settings(self):
        def pages(first, count):
            return {"base": BASE // PAGE + first, "limit": BASE // PAGE + first + count}
        return {"window": pages(0, PAGES + 3), "msi": pages(MSI, 1), "mmio": pages(MMIO, 1), "host_b_offset": OFFSET}

    def request(self):
        rng = self.rng
        page, to_host = rng.randrange(-1, PAGES + 3 if rng.random() < 0.2 else 12), rng.randrange(2)
        source = BASE + page * PAGE + rng.choice([0] * 9 + [64])
        destination = (source + OFFSET if to_host else source) + rng.choice([0] * 9 + [PAGE])
        return {"source": source, "destination": destination, "to_host": to_host, "mode": rng.choice([0, 1, 2] * 4 + [3]),
                "page_size": rng.choice([12] * 9 + [21])}

    def expected(self, request, slot):
        """The first error that applies, in the order of the documentation."""
        page = request["source"] // PAGE - BASE // PAGE
        if request["mode"] == 3:
            return MoveError.MODE
        if request["page_size"] != 12:
            return MoveError.PAGE_SIZE
        if request["source"] % PAGE or request["destination"] % PAGE:
            return MoveError.MISALIGNED
        if not LOW <= page < LOW + PAGES or page in (MSI, MMIO):
            return MoveError.NOT_IN_WINDOW
        if request["destination"] != request["source"] + (OFFSET if request["to_host"] else 0):
            return MoveError.DESTINATION
        if page % PAGES in [moving[0] for other, moving in enumerate(self.pages) if moving and other != slot]:
            return MoveError.BUSY
        return MoveError.ALREADY_THERE if self.owners[page % PAGES] == request["to_host"] else MoveError.NONE

    def answer(self, ctx, cycle):
        dut, bits = self.dut, ctx.get(self.dut.answer)
        assert bits & bits - 1 == 0
        for slot in range(SLOTS):
            if bits >> slot & 1:
                request, since = self.asked[slot]
                verdict, error = ctx.get(dut.verdict), self.expected(request, slot)
                if verdict.error == MoveError.BUSY and any(page == verdict.page and cycle - end <= COMPARES for page, end in self.left):
                    error = MoveError.BUSY
                assert verdict.error == error, f"{request} was answered {verdict.error}, not {error}"
                self.seen[error] += 1
                self.asked[slot] = None
                self.waits.append(cycle - since)
                if error == MoveError.NONE:
                    assert verdict.number == request["source"] // PAGE - BASE // PAGE and verdict.page == verdict.number % PAGES
                    assert verdict.far == (request["source"] + OFFSET) // PAGE
                    self.pages[slot] = (verdict.page, cycle + self.rng.randrange(2 * SETTLES, 120), request["to_host"])

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
                    self.owners[moving[0]] = moving[2]
                if moving and cycle > moving[1]:
                    self.pages[slot], self.left[slot] = None, (moving[0], cycle)
                if self.asked[slot] is None and self.pages[slot] is None and rng.random() < (1 if cycle % 4000 < 500 else 0.03):
                    self.asked[slot] = (self.request(), cycle)
                    ctx.set(dut.request[slot].as_value(), word(self.asked[slot][0]))
                ctx.set(dut.asks[slot], self.asked[slot] is not None)
                ctx.set(dut.busy[slot], self.pages[slot] is not None)
                ctx.set(dut.page[slot], self.pages[slot][0] if self.pages[slot] else rng.randrange(PAGES))
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
            assert all(asked is None or cycle - asked[1] < 40 + 2 * SLOTS * (WHOLE + 10) for asked in self.asked), "a slot waits for ever"


def exercise(dut, name):
    exercised = Exercise(dut, seeded(name))
    run(dut, exercised.bench)
    made = {MoveError.NONE, MoveError.MODE, MoveError.PAGE_SIZE, MoveError.MISALIGNED, MoveError.NOT_IN_WINDOW, MoveError.DESTINATION, MoveError.BUSY,
            MoveError.ALREADY_THERE}
    assert all(exercised.seen[error] > 10 for error in made), exercised.seen
    assert min(exercised.waits) == WRONG and exercised.paused > 300


@pytest.mark.hazard("H49")
def test_verdicts_are_those_of_the_documentation():
    exercise(MoveCheck(PAGES, SLOTS), "check")


@pytest.mark.parametrize("change", [
    ("with m.If(moves.any()):", "with m.If(0):"), ("turns.served.eq(turns.grant)", "turns.served.eq(0)"), ("inside & ~special", "inside"),
    ("asked.eq(turns.grant), delay.eq(2)", "asked.eq(turns.grant), delay.eq(1)"),
    ("place >= self.low", "place >= 0"), ("place < self.movable", "place < self.movable + 1"), ("Mux(self.pause, 0, self.asks)", "self.asks")],
    ids=["a page twice", "no turns", "special pages", "too early", "below", "above", "no pause"])
def test_planted_bug_is_found(change):
    with pytest.raises(AssertionError):
        exercise(planted(MoveCheck, *change)(PAGES, SLOTS), "check/bug")
