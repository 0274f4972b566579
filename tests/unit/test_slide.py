# amaranth: UnusedElaboratable=no
"""The slide: requests against what the documentation says of each error, and what must have come before each of its steps."""

import pytest
from amaranth.hdl import ResetInserter, Signal

from pagehop.interposer.bitmaps import OwnerOpKind
from pagehop.interposer.slide import Slide, SlideError
from pagehop_sim.planted import planted
from pagehop_tb.simulate import run, seeded

PAGES, WORD, SLOTS, COUNT = 256, 64, 2, 6
BASE = 0x40_0000
#: Pages of the window that are not memory.
MSI, MMIO = (130, 3), (300, 40)
#: Cycles after which what a slide has changed is what addresses are compared with.
SEEN = 2


class Lane:
    """TLPs of one lane: all that have come into it and left it."""
    def __init__(self, rng):
        self.rng, self.accepted, self.left = rng, 0, 0

    def step(self, comes):
        """Some come, when any may, and some leave."""
        if comes and self.accepted - self.left < 20 and self.rng.random() < 0.3:
            self.accepted += 1
        if self.accepted > self.left and self.rng.random() < 0.2:
            self.left += 1


class Exercise:
    """The machine around the slide, and what is expected of it. ``slides`` counts those that were made, ``seen`` errors."""
    def __init__(self, dut, rng, rst=None):
        self.dut, self.rng, self.rst = dut, rng, rst
        self.lanes = {"posted": Lane(rng), "requests": Lane(rng)}
        self.owners = [0] * PAGES
        self.low, self.high, self.movable = 0, PAGES, PAGES
        self.answers = [(0, 0), (0, 0)]
        self.moving = {}                        # slot: page
        self.cleared, self.dropped = set(), set()
        self.follow = None                      # cycle of the last change of a bound; what must have left since is not known yet
        self.must = dict.fromkeys(self.lanes, 0)
        self.entered = self.issued = self.must_issue = 0
        self.epoch, self.atomics, self.proven = 0, 0, True
        self.flush = {"issued": 5, "done": 5, "newest": 5, "dirty": 0, "clean": 1}
        self.idle = 0
        self.cycle = 0
        self.stall = 0
        self.looked = 0
        self.slides, self.seen = 0, dict.fromkeys(SlideError, 0)

    # What stands around it

    def drive(self, ctx):
        dut, rng = self.dut, self.rng
        if rng.random() < 0.02:
            self.stall = rng.randrange(80)      # the lane of what was decoded is full
        self.stall = max(0, self.stall - 1)
        decoded = not self.stall and rng.random() < 0.5
        if self.follow is not None and self.cycle >= self.follow + SEEN and decoded:
            # The next cycle has all in its lane that was compared with the old bounds.
            self.must, self.follow = {name: lane.accepted + 1 for name, lane in self.lanes.items()}, None
            self.must_issue = self.entered
            for lane in self.lanes.values():
                lane.accepted += 1
        else:
            for lane in self.lanes.values():
                lane.step(decoded)
        ctx.set(dut.decoded, decoded)
        for name, lane in self.lanes.items():
            ctx.set(getattr(dut, f"{name}_accepted"), self.shown[name][0] % (1 << COUNT))
            ctx.set(getattr(dut, f"{name}_left"), self.shown[name][1] % (1 << COUNT))
            self.shown[name] = lane.accepted, lane.left
        if rng.random() < 0.3 and self.entered - self.issued < 3:
            self.entered += 1
        if rng.random() < 0.2 and self.entered > self.issued:
            self.issued += 1
        ctx.set(dut.issue_entered, self.entered % 16)
        ctx.set(dut.issue_accepted, self.issued % 16)
        if rng.random() < 0.1:
            self.atomics = 0
        ctx.set(dut.epochs, {"advance_ready": rng.random() < 0.3, "epoch": self.epoch, "unanswered": 0, "atomics": self.atomics})
        if self.flush["issued"] != self.flush["done"] and rng.random() < 0.1:
            self.flush["done"] = self.flush["issued"]
        ctx.set(dut.flush, self.flush)
        ready = rng.random() < 0.9
        ctx.set(dut.owner_op.ready, ready)
        ctx.set(dut.drop.ready, ctx.get(dut.drop.valid) and rng.random() < 0.2)
        self.idle = min(self.idle + 1, 3) if ctx.get(dut.check_pause) else 0
        ctx.set(dut.check_idle, self.idle > rng.randrange(4))
        valid, owner = self.answers.pop(0)
        ctx.set(dut.owner_valid, valid)
        ctx.set(dut.owner, owner)
        op, op_valid = ctx.get(dut.owner_op.payload), ctx.get(dut.owner_op.valid) and ready
        reads = op_valid and op.kind == OwnerOpKind.READ
        self.answers.append((reads, self.owners[op.index] if reads else rng.randrange(2)))
        self.looked += reads
        assert not reads or ctx.get(dut.check_pause), "an owner is looked up while a move may begin"
        if op_valid and not reads:
            self.clear(ctx, op)
        if ctx.get(dut.drop.ready):
            self.gone(ctx)
            self.dropped.add(ctx.get(dut.drop.payload))
        if ctx.get(dut.advance):
            self.gone(ctx)
            assert self.issued >= self.must_issue, "an epoch begins before what left the lanes is in the table"
            self.epoch, self.proven = (self.epoch + 1) % 4, True
            self.atomics = self.rng.choice((0, 1 << (self.epoch - 1) % 4))
            assert ctx.get(dut.flush_request) == self.flush["dirty"]
            self.flush["newest"] = (self.flush["issued"] + self.flush["dirty"]) % 64
            self.flush |= {"issued": self.flush["newest"], "dirty": 0}

    # What it does

    def gone(self, ctx):
        """What was decoded with the bounds of before has left its lane."""
        assert self.follow is None, "nothing has shown that all that was decoded is in its lane"
        for name, lane in self.lanes.items():
            assert lane.left >= self.must[name], f"of the lane of {name}, {self.must[name] - lane.left} TLPs are still there"

    def clear(self, ctx, op):
        self.gone(ctx)
        assert op.kind == OwnerOpKind.CLEAR and self.high % PAGES <= op.index < self.high % PAGES + WORD, f"entry {op.index} is cleared"
        self.owners[op.index] = 0
        self.cleared.add(op.index)

    def watch(self, ctx):
        """The bounds, as the registers show them."""
        dut, status = self.dut, ctx.get(self.dut.status)
        movable = ctx.get(dut.movable)
        if status.low != self.low:
            assert self.target is not None and status.low == self.target
            self.low, self.follow = status.low, self.cycle
            self.slides += 1
        if status.high != self.high:
            word = self.high % PAGES // WORD
            assert status.high == self.high + WORD <= self.low + PAGES
            assert self.cleared == set(range(word * WORD, (word + 1) * WORD)) and self.dropped == {word}, f"word {word} comes in with what it had"
            self.cleared, self.dropped = set(), set()
            self.high, self.proven = status.high, False
            if self.high == self.low + PAGES:
                self.follow = self.cycle
        if movable != self.movable:
            assert movable == self.high == self.low + PAGES and self.proven and not self.atomics & ~(1 << self.epoch)
            assert self.flush["done"] == self.flush["issued"], "a write from before is not proven visible"
            self.movable = movable

    async def step(self, ctx):
        self.drive(ctx)
        await ctx.tick()
        self.cycle += 1
        self.watch(ctx)

    def expected(self, target, pages):
        leaves = range(self.low, min(target, self.high))
        special = [*range(MSI[0], sum(MSI)), *range(MMIO[0], sum(MMIO))]
        if target % WORD:
            return SlideError.MISALIGNED
        if target <= self.low:
            return SlideError.NOT_FORWARD
        if target > pages:
            return SlideError.BEYOND
        if target > self.high:
            return SlideError.NOT_AT_B
        if any(page in leaves for page in self.moving.values()):
            return SlideError.MOVING
        return SlideError.NONE if all(page in special or self.owners[page % PAGES] for page in leaves) else SlideError.NOT_AT_B

    async def request(self, ctx):
        """One slide, with the pages it leaves all at B, or all but one."""
        dut, rng = self.dut, self.rng
        assert self.low < self.high, "the range has no page left"
        pages = self.low + rng.choice((WORD, 4 * WORD, 40 * WORD))
        self.target = max(0, self.low + rng.choice((WORD, WORD, 2 * WORD, PAGES, PAGES + WORD, 0, -WORD, 1, WORD + 8)))
        for page in range(self.low, self.high):
            self.owners[page % PAGES] = rng.random() < 0.5 if page >= self.target else page not in range(MSI[0], sum(MSI))
        if rng.random() < 0.2:
            self.owners[rng.randrange(PAGES)] = 0
        self.moving = {slot: rng.randrange(self.low, self.high) for slot in range(SLOTS) if rng.random() < 0.15}
        ctx.set(dut.busy, sum(1 << slot for slot in self.moving))
        for slot in range(SLOTS):
            ctx.set(dut.page[slot], self.moving.get(slot, rng.randrange(PAGES)) % PAGES)
        self.flush["dirty"] = rng.randrange(2)
        expected, before = self.expected(self.target, pages), (self.low, self.high, self.movable)
        ctx.set(dut.pages, pages)
        ctx.set(dut.target, self.target)
        ctx.set(dut.start, 1)
        await self.step(ctx)
        ctx.set(dut.target, rng.randrange(1 << 32))
        ctx.set(dut.start, asks_again := rng.random() < 0.3)
        await self.step(ctx)
        ctx.set(dut.start, 0)
        since = self.cycle
        while ctx.get(dut.status).busy:
            await self.step(ctx)
            assert self.cycle - since < 40 * PAGES, "the slide does not end"
            if self.rst is not None and rng.random() < 0.01:
                await self.reset(ctx)
        if expected == SlideError.NONE:
            assert (self.low, self.movable) == (self.target, self.target + PAGES) or self.rst is not None
        else:
            assert (self.low, self.high, self.movable) == before, f"a slide that must be refused with {expected} has changed something"
        if self.rst is None:
            assert ctx.get(dut.status).error == expected and ctx.get(dut.status).refused == asks_again
            self.seen[expected] += 1

    async def reset(self, ctx):
        """A reset empties the lanes; the bounds stay, and what was begun is made."""
        ctx.set(self.rst, 1)
        for lane in self.lanes.values():
            lane.left = lane.accepted
        await ctx.tick()
        self.watch(ctx)     # a bound that rises at this edge has risen
        ctx.set(self.rst, 0)
        self.cleared, self.answers, self.must, self.follow = set(), [(0, 0), (0, 0)], dict.fromkeys(self.lanes, 0), None
        self.shown = {name: (lane.accepted, lane.left) for name, lane in self.lanes.items()}
        self.resets += 1
        for _ in range(3):
            await self.step(ctx)

    async def bench(self, ctx):
        self.shown = dict.fromkeys(self.lanes, (0, 0))
        self.target, self.resets = None, 0
        ctx.set(self.dut.settings.window.base, BASE)
        for name, (first, count) in (("msi", MSI), ("mmio", MMIO)):
            ctx.set(self.dut.settings[name], {"base": BASE + first, "limit": BASE + first + count})
        for _ in range(70 if self.rst is None else 45):
            await self.request(ctx)
        since = self.cycle
        while self.rst is not None and self.movable != self.low + PAGES:
            await self.step(ctx)
            assert self.cycle - since < 40 * PAGES, "what a reset interrupted is not made"


def exercise(dut, name):
    exercised = Exercise(dut, seeded(name))
    run(dut, exercised.bench)
    assert exercised.slides > 10 and all(count > 0 for count in exercised.seen.values()), exercised.seen
    assert exercised.low > MMIO[0] + MMIO[1] + WORD


def slide(component=Slide):
    return component(PAGES, COUNT, COUNT, COUNT, SLOTS)


@pytest.mark.hazard("H46", "I1")
def test_slides_and_refusals_are_those_of_the_documentation():
    exercise(slide(), "slide")


def test_a_reset_amid_a_slide_loses_nothing():
    rst, dut = Signal(), slide()
    exercised = Exercise(dut, seeded("slide/reset"), rst)
    run(ResetInserter(rst)(dut), exercised.bench)
    assert exercised.resets > 5 and exercised.slides > 3


def test_maps_must_have_whole_words():
    with pytest.raises(ValueError, match=r"^The maps must have a multiple of 64 pages, not 96$"):
        Slide(96, COUNT, COUNT, COUNT)


@pytest.mark.parametrize("change", [
    ("answered & ~self.owner & ~special", "answered & ~self.owner & 0"), ("answered & ~self.owner & ~special", "answered & ~self.owner"),
    ("answered & moves", "0"), ("target <= low", "target < low"), ("target > self.pages", "target > self.pages + 64"),
    ("target > high", "0"), ("posted.passed & requests.passed", "posted.passed"), ("posted.passed & requests.passed", "requests.passed"),
    ("(delay == 0) & self.decoded", "delay == 0"), ("wait.done & atomics.done", "wait.done"), ("wait.done & atomics.done", "atomics.done"),
    ("Cat(entry, place)", "entry"), ("movable.eq(high)", "movable.eq(high + 1)"), ("left.eq(left - 1)", "left.eq(left - 2)"),
    ('with m.If(high == end):\n                m.next = "Decode"', 'with m.If(high == end):\n                m.next = "Follow"'),
], ids=["any owner", "special pages", "a page that moves", "to where it is", "beyond the window", "above the range", "requests stay", "writes stay",
        "decoded late", "atomics unanswered", "writes unproven", "another word", "movable too far", "half of the pages", "pages above move"])
def test_planted_bug_is_found(change):
    with pytest.raises(AssertionError):
        exercise(slide(planted(Slide, *change)), "slide/bug")


@pytest.mark.parametrize("change", [
    ("low = Signal(32, reset_less=True)", "low = Signal(32)"), ("with m.If(movable != end):", "with m.If(0):")], ids=["forgotten", "left undone"])
def test_bug_in_what_follows_a_reset_is_found(change):
    rst, dut = Signal(), slide(planted(Slide, *change))
    exercised = Exercise(dut, seeded("slide/reset"), rst)
    with pytest.raises(AssertionError):
        run(ResetInserter(rst)(dut), exercised.bench)
