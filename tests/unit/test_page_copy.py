# amaranth: UnusedElaboratable=no
"""The copy of a page within a host: every line in its place, nothing bad written, nothing visible late, and every source used once at a time."""

import pytest
from home_driver import at_port

from pagehop.iommu.page_copy import PageCopy
from pagehop_sim.planted import planted
from pagehop_tb.models.home import Home, OpA
from pagehop_tb.simulate import run, seeded

PAGE, LINE, LIMIT = 4096, 64, 400


class Machine:
    """Pages, the copy, and a memory at its port."""
    def __init__(self, rng, dut, **options):
        self.rng, self.dut, self.stop = rng, dut, False
        self.home = Home(rng, cacher=2 * dut.reads, cpus=0, fault=self.fault, **options)
        self.bad = {}           # (opcode, line): "denied" or "corrupt"
        self.seen = []          # (opcode, line) of each operation that was done, or tried

    def fault(self, request):
        self.seen.append((request.opcode, request.address // LINE))
        return self.bad.get((request.opcode, request.address // LINE), "")

    def page(self, number):
        return self.home.memory.read(number * PAGE, PAGE)

    def fill(self, number):
        """Another content for a page."""
        self.home.memory.write(number * PAGE, self.rng.randbytes(PAGE))
        return self.page(number)

    async def copy(self, ctx, source, destination, abort_after=None, limit=LIMIT):
        """Returns whether it failed, and in how many cycles."""
        dut = self.dut
        ctx.set(dut.limit, limit)
        ctx.set(dut.start.payload, {"source": source, "destination": destination})
        ctx.set(dut.start.valid, 1)
        cycles = 1
        while True:
            ctx.set(dut.abort, abort_after is not None and cycles > abort_after)
            _, _, ready, failed, owed = await ctx.tick().sample(dut.start.ready, dut.failed, dut.owed)
            if ready:
                break
            cycles += 1
            assert cycles < 5000, "a copy never ends"
        ctx.set(dut.start.valid, 0)
        ctx.set(dut.abort, 0)
        if not failed:
            assert not owed and self.home.idle, "a page is copied, and something of it is still under way"
            assert self.page(source) == self.page(destination), "a page is copied, and its copy is another"
        return failed, cycles

    def run(self, test):
        async def bench(ctx):
            try:
                await test(self, ctx)
            finally:
                self.stop = True

        run(self.dut, at_port(self.home, self.dut.port, lambda: self.stop), bench)


def written(before, after, source):
    """Lines of ``after`` that are of the source; all others must be as they were."""
    lines = [slice(place, place + LINE) for place in range(0, PAGE, LINE)]
    assert all(after[line] in (before[line], source[line]) for line in lines), "a line is neither what it was nor its copy"
    return [number for number, line in enumerate(lines) if after[line] == source[line]]


async def random_copies(machine, ctx, count=8):
    """Good pages, bad lines, aborts."""
    rng, ends = machine.rng, {False: 0, True: 0}
    for turn in range(count):
        source, destination = rng.sample(range(0x100, 0x110), 2)
        content, before = machine.fill(source), machine.fill(destination)
        machine.bad, machine.seen, abort_after, bad = {}, [], None, None
        if turn % 4 == 1:
            opcode, how = rng.choice(((OpA.GET, "denied"), (OpA.GET, "corrupt"), (OpA.GET, "corrupt"), (OpA.PUT_FULL, "denied")))
            bad = rng.randrange(64)
            machine.bad = {(opcode, (destination if opcode == OpA.PUT_FULL else source) * 64 + bad): how}
        elif turn % 4 == 3:
            abort_after = rng.randrange(500)
        failed, _ = await machine.copy(ctx, source, destination, abort_after)
        assert machine.home.idle, "what is under way was not waited for"
        assert failed == (bad is not None or abort_after is not None), "an error, an abort, or success was told as something else"
        assert content == machine.page(source)
        copied = written(before, machine.page(destination), content)
        if bad is not None:
            assert bad not in copied, "a bad line was written"
        if not failed:
            assert len(machine.seen) == len(set(machine.seen)) == 128, "a line was read or written twice"
        ends[failed] += 1
        await ctx.tick().repeat(rng.randrange(1, 4))
    assert min(ends.values()) >= count // 2


SLOW = {"ready": 0.6, "pause": 0.2}


def exercise(dut, name, turns=8, **options):
    rng = seeded(name)
    Machine(rng, dut, latency=lambda: rng.choice((0, 1, 3, 8, 20)), **options).run(lambda machine, ctx: random_copies(machine, ctx, turns))


@pytest.mark.parametrize(("reads", "options"), [(2, SLOW), (4, {}), (8, SLOW)])
def test_pages_are_copied_whole_or_said_to_be_not(reads, options):
    exercise(PageCopy(reads), f"copy/{reads}/{bool(options)}", **options)


async def never_answered(machine, ctx):
    """Memory falls silent in the middle of a page: the copy is given up, so is the next; when memory speaks again no answer is taken for another."""
    rng, home = machine.rng, machine.home
    for _ in range(4):
        first, second, destination, other = rng.sample(range(0x100, 0x110), 4)
        for page in (first, second, destination, other):
            machine.fill(page)
        silent = home.cycle + rng.randrange(5, 500)
        home.latency = lambda silent=silent: rng.randrange(12) if home.cycle < silent else 1 << 30
        failed, cycles = await machine.copy(ctx, first, destination)
        assert failed and cycles >= LIMIT
        failed, cycles = await machine.copy(ctx, second, other)
        assert failed and cycles in range(LIMIT, LIMIT + 4), "a copy began, or waited for longer than the limit"
        home.latency = lambda: rng.randrange(12)
        for queue in home._queues.values():
            for operation in queue:
                operation.due = min(operation.due, home.cycle + rng.randrange(60))
        home._answers = [(min(due, home.cycle + 5), *rest) for due, *rest in home._answers]
        machine.seen = []
        failed, _ = await machine.copy(ctx, second, other)
        ours = [(opcode, line) for opcode, line in machine.seen if line // 64 in (second, other)]
        assert not failed and len(ours) == len(set(ours)) == 128, "an answer was taken for one of the next copy"


@pytest.mark.parametrize("reads", [2, 4])
def test_silent_memory_ends_a_copy_and_spoils_no_other(reads):
    rng = seeded(f"copy/silent/{reads}")
    Machine(rng, PageCopy(reads), latency=lambda: rng.randrange(12), **SLOW).run(never_answered)


@pytest.mark.parametrize(("reads", "latency"), [(4, 8), (4, 16), (4, 40), (8, 52)])
def test_cycles_of_a_page(reads, latency):
    """As its docstring says; the home answers a cycle later than what its latency is."""
    async def one(machine, ctx):
        machine.fill(0x100)
        failed, cycles = await machine.copy(ctx, 0x100, 0x101)
        least = max(576, (latency + 19) * 64 // reads) + latency
        assert not failed and least - 4 < cycles < least + 64

    Machine(seeded("copy/cycles"), PageCopy(reads), latency=lambda: latency - 1).run(one)


BUGS = {
    "errors are not told": ("with m.If(last & bad):", "with m.If(last & bad & put):"),
    "only the last beat is looked at": ("tainted.eq(bad & ~last)", "tainted.eq(0)"),
    "refused writes are not told": ("bad, came = answer.denied |", "bad, came = (~put & answer.denied) |"),
    "copied before it is visible": ("(self._reading | self._writing).any()", "self._reading.any()"),
    "a line is read over one that waits": ("lowest(~(self._reading | self._whole))", "lowest(~self._reading)"),
    "a source stands for two writes": ("lowest(self._whole & ~self._writing)", "lowest(self._whole)"),
    "a burst goes on with another line": ("Mux(self._beat.any(), burst, number_of(ready))", "number_of(ready)"),
    "lines are written in the order of reads": ("Cat(line.data, ", "Cat(write.data, "),
    "an abort is success": ("with m.If(self.abort | expired):", "with m.If(expired):"),
}


@pytest.mark.parametrize("bug", BUGS)
def test_planted_bug_is_found(bug):
    with pytest.raises(AssertionError):
        exercise(planted(PageCopy, *BUGS[bug])(), "copy/bug", 16, **SLOW)


LATE_BUGS = {
    "late answers are of the next page": ("with m.If(self.start.valid & ~self.owed):", "with m.If(self.start.valid):"),
    "nothing bounds the wait for late answers": ("waits.eq(self.start.valid & self.owed)", "waits.eq(0)"),
}


@pytest.mark.parametrize("bug", LATE_BUGS)
def test_planted_bug_of_late_answers_is_found(bug):
    rng = seeded("copy/late")
    with pytest.raises(AssertionError):
        Machine(rng, planted(PageCopy, *LATE_BUGS[bug])(), latency=lambda: rng.randrange(12), **SLOW).run(never_answered)


def test_number_of_reads_is_checked():
    with pytest.raises(ValueError, match=r"^A copy must have 2, 4, 8 or 16 reads under way, not 3$"):
        PageCopy(3)
