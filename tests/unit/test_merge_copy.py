# amaranth: UnusedElaboratable=no
"""Copying a page that devices go on changing: whatever comes when, in the end the destination has what the source has."""

import pytest
from copy_driver import Driver, header, request

from pagehop.memory.chunk_sets import ChunkSets, CopySet
from pagehop.memory.copy_engine import CopyEngine, CopyError
from pagehop_sim.planted import edited, planted
from pagehop_tb.simulate import run

WIDTHS = [(16, 128), (64, 64), (64, 128), (64, 256), (128, 128)]
PAGE = 4096


class MergeDriver(Driver):
    """A driver whose source changes while it is copied. Reads are answered with what the source has when their last piece leaves."""

    def new_page(self):
        super().new_page()
        self.page = bytearray(self.page)
        self.host.page = self.page
        self.beats, self.changes = [], 0

    def take_read(self, payload):
        """Any chunk may be read, again and again."""
        self.reads += 1
        self.host.ask(payload.header)

    def take_write(self, payload):
        """What is written may be old; it is compared at the end."""
        if payload.first:
            address = payload.header & 0xFFFF_FFFF
            self.current = [address % PAGE, b""]
            assert address & ~0xFFF == 0x4567_8000
        self.current[1] += payload.data.to_bytes(self.dut.data_bytes, "little")
        if payload.last:
            at, content = self.current
            assert len(content) == self.dut.chunk_bytes
            self.destination[at:at + len(content)] = content
            self.writes.append(at)
            self.current = None

    def change(self, ctx, atomics):
        """Let a device write, now and at once visible at the source, or do an atomic."""
        rng, dut = self.rng, self.dut
        ctx.set(dut.atomic, 0)
        if not self.beats and rng.random() < atomics:
            at = rng.randrange(0, PAGE, 8)
            self.page[at:at + 8] = rng.randbytes(8)
            ctx.set(dut.atomic, 1)
            ctx.set(dut.atomic_offset, at)
        elif not self.beats:
            length = rng.choice((1, 2, rng.randint(1, 64)))
            at = 4 * rng.randrange(0, PAGE // 4 - length + 1)
            payload, first_be = rng.randbytes(4 * length), rng.choice((15, 6)) if length > 1 else rng.randrange(16)
            for offset, byte in enumerate(payload):
                if offset >= 4 or first_be >> offset & 1:
                    self.page[at + offset] = byte
            dw1 = first_be | (15 if length > 1 else 0) << 4
            head = header(0x40 << 24 | length, dw1, 0x7654_3000 + at)
            self.beats = self.host.beats(head, payload)
            self.changes += 1

    async def turn(self, ctx, writes, atomics, **options):
        """One cycle with perhaps a part of a write."""
        dut = self.dut
        if self.rng.random() < writes:
            self.change(ctx, atomics)
        else:
            ctx.set(dut.atomic, 0)
        ctx.set(dut.absorb.valid, bool(self.beats))
        if self.beats:
            ctx.set(dut.absorb.payload, self.beats.pop(0))
        await self.step(ctx, **options)

    async def prepare(self, ctx, which, writes, atomics):
        """Prepare reads, and wait until all that was absorbed before has reached the source, which here is at once."""
        dut = self.dut
        ctx.set(dut.prepare, 1)
        ctx.set(dut.prepare_set, which)
        await self.turn(ctx, writes, atomics, answer=False)
        ctx.set(dut.prepare, 0)
        waited = 0
        while not ctx.get(dut.prepared):
            # The interposer's gate stops while the differential asks for it; some beats are on their way.
            pausing = ctx.get(dut.pause)
            await self.turn(ctx, 0 if pausing else writes, atomics)
            waited += 1
            assert waited < 12 * PAGE // dut.data_bytes
        ctx.set(dut.absorb.valid, 0)
        ctx.set(dut.atomic, 0)
        await self.start(ctx)


def copy_changing_page(dut, name, *, writes, atomics=0.0, first=CopySet.ALL, cycles=400, pages=1):
    driver = MergeDriver(dut, name, read=0.7, write=0.7, answer=0.8)

    async def copy(ctx):
        driver.changes = 0
        if first is CopySet.NONE:
            driver.destination[:] = driver.page     # a host copied the page as it was when it began
            ctx.set(dut.prepare, 1)
            ctx.set(dut.prepare_set, first)
            await driver.step(ctx, answer=False)
            ctx.set(dut.prepare, 0)
            for _ in range(100):
                await driver.turn(ctx, writes / 4, atomics)
            await driver.prepare(ctx, CopySet.STALE, writes, atomics)
        else:
            await driver.prepare(ctx, first, 0, 0)
        for cycle in range(40 * cycles):
            rate = writes if cycle < cycles else 0
            if ctx.get(dut.fetched) and ctx.get(dut.stale):
                await driver.prepare(ctx, CopySet.STALE, rate, atomics)
            if not rate and not driver.beats and ctx.get(dut.absorbed) and ctx.get(dut.written) and not ctx.get(dut.stale):
                break
            await driver.turn(ctx, rate, atomics)
        else:
            raise AssertionError("never written")
        assert driver.changes > 20
        assert bytes(driver.destination) == bytes(driver.page), "the copy differs"
        assert not ctx.get(dut.outstanding)

    async def bench(ctx):
        ctx.set(dut.absorbing, 1)
        for number in range(pages):
            if number:
                ctx.set(dut.over, 1)
                await ctx.tick()
                ctx.set(dut.over, 0)
                # The next copy comes before all rows are cleared, or after.
                await ctx.tick().repeat(driver.rng.randint(1, 2 * PAGE // dut.data_bytes))
                driver.new_page()
            await copy(ctx)

    run(dut, bench)


@pytest.mark.hazard("H22", "I2")
@pytest.mark.parametrize(("data_bytes", "chunk_bytes"), WIDTHS)
@pytest.mark.parametrize("first", [CopySet.ALL, CopySet.NONE])
def test_nothing_is_left_for_the_next_copy(data_bytes, chunk_bytes, first):
    copy_changing_page(CopyEngine(data_bytes, chunk_bytes), f"next/{data_bytes}/{chunk_bytes}/{first}", writes=0.3, first=first, cycles=150, pages=4)


@pytest.mark.parametrize("data_bytes", [16, 64])
def test_what_is_clean_is_not_cleared_again(data_bytes):
    """The first copy waits for a cycle a row, the next only for what is left since the end of the one before."""
    dut = CopyEngine(data_bytes, 128)
    rows = PAGE // data_bytes

    async def prepared(ctx):
        ctx.set(dut.prepare, 1)
        await ctx.tick()
        ctx.set(dut.prepare, 0)
        waited = 0
        while not ctx.get(dut.prepared):
            waited += 1
            await ctx.tick()
        return waited

    async def write(ctx):
        ctx.set(dut.absorb.valid, 1)
        ctx.set(dut.absorb.payload, {"header": request(0x40, 0x7654_3000, 1, 0, 0), "dwords": 1, "first": 1, "last": 1})
        await ctx.tick()
        ctx.set(dut.absorb.valid, 0)
        while not ctx.get(dut.absorbed):
            await ctx.tick()

    async def bench(ctx):
        ctx.set(dut.absorbing, 1)
        assert await prepared(ctx) == rows
        for passed, left in ((rows // 2, rows // 2), (2 * rows, 0)):
            await write(ctx)
            ctx.set(dut.over, 1)
            await ctx.tick()
            ctx.set(dut.over, 0)
            await ctx.tick().repeat(passed)
            assert abs(await prepared(ctx) - left) <= 2, f"{passed} cycles after the end of a copy"

    run(dut, bench)


@pytest.mark.hazard("H03", "H22", "I2")
@pytest.mark.parametrize(("data_bytes", "chunk_bytes"), WIDTHS)
def test_writes_are_merged(data_bytes, chunk_bytes):
    copy_changing_page(CopyEngine(data_bytes, chunk_bytes), f"merge/{data_bytes}/{chunk_bytes}", writes=0.5)


@pytest.mark.hazard("H10", "H58")
@pytest.mark.parametrize(("data_bytes", "chunk_bytes"), WIDTHS)
def test_chunks_of_atomics_are_read_again(data_bytes, chunk_bytes):
    copy_changing_page(CopyEngine(data_bytes, chunk_bytes), f"atomics/{data_bytes}/{chunk_bytes}", writes=0.1, atomics=0.1)


@pytest.mark.parametrize(("data_bytes", "chunk_bytes"), WIDTHS)
def test_what_was_written_while_a_host_copied_is_read(data_bytes, chunk_bytes):
    copy_changing_page(CopyEngine(data_bytes, chunk_bytes), f"host/{data_bytes}/{chunk_bytes}", writes=0.2, atomics=0.05, first=CopySet.NONE)


def test_nothing_is_absorbed_in_a_hold():
    """Without ``absorbing`` what the differential holds does not touch the copy, and ``start`` alone is enough."""
    dut = CopyEngine(64, 128)
    driver = Driver(dut, "hold")

    async def bench(ctx):
        dirt = request(0x40, 0x7654_3000, 16, 0, 0)
        ctx.set(dut.absorbing, 1)
        ctx.set(dut.absorb.valid, 1)
        ctx.set(dut.absorb.payload, {"data": -1, "header": dirt, "dwords": 16, "first": 1, "last": 1})
        await ctx.tick()
        ctx.set(dut.absorbing, 0)
        await driver.start(ctx)
        ctx.set(dut.absorb.valid, 0)
        await driver.finish(ctx)

    run(dut, bench)


def damaged_write(engine, damage, before_start):
    """Absorb a write with this damage while its page is copied, or before; then copy a page without one."""
    dut = engine(64, 128)
    driver = MergeDriver(dut, f"damage/{damage}")

    async def bench(ctx):
        ctx.set(dut.absorbing, 1)
        for page, wrong in enumerate((True, False)):
            driver.new_page()
            await driver.prepare(ctx, CopySet.ALL, 0, 0)
            if before_start:
                await absorb(ctx, wrong)
            await driver.start(ctx)
            for _ in range(20):
                await driver.turn(ctx, 0, 0)
            if not before_start:
                await absorb(ctx, wrong)
            for _ in range(2000):
                await driver.turn(ctx, 0, 0)
                if ctx.get(dut.written) or ctx.get(dut.error) != CopyError.NONE:
                    break
            assert (ctx.get(dut.error) == CopyError.POISONED) == wrong, f"page {page}: {ctx.get(dut.error)}"
            for _ in range(400):
                await driver.turn(ctx, 0, 0)
            ctx.set(dut.over, 1)
            await driver.turn(ctx, 0, 0)
            ctx.set(dut.over, 0)

    async def absorb(ctx, wrong):
        head = request(0x40, 0x7654_3000, 16, 0xF, 0xF) | (wrong and damage == "header") << 96 + 14
        flags = {damage: 1} if wrong and damage != "header" else {}
        ctx.set(dut.absorb.valid, 1)
        ctx.set(dut.absorb.payload, {"data": 0, "header": head, "dwords": 16, "first": 1, "last": 1, **flags})
        await driver.step(ctx)
        ctx.set(dut.absorb.valid, 0)

    run(dut, bench)


@pytest.mark.hazard("H14", "I9")
@pytest.mark.parametrize("damage", ["header", "poisoned", "digest_wrong"])
@pytest.mark.parametrize("before_start", [True, False])
def test_a_damaged_write_that_is_absorbed_ends_the_copy(damage, before_start):
    """What is merged would leave as data of ours, without its mark."""
    damaged_write(CopyEngine, damage, before_start)


@pytest.mark.parametrize("change", [
    ("with m.Elif(tainted):", "with m.Elif(0):"), ("with m.If(self.over | ~self.absorbing):", "with m.If(~self.absorbing):"),
    ("headers.is_damaged(self.absorb.payload)", "self.absorb.payload.poisoned"),
], ids=["is merged", "ends the next copy", "only by the flag of the beat"])
def test_it_ends_its_copy_and_no_other(change):
    with pytest.raises(AssertionError):
        damaged_write(engine_with(change), "header", False)


def engine_with(*changes, **parts):
    return edited(CopyEngine, *changes, **parts)


BUGS = {
    "a chunk that changed leaves once": lambda: engine_with(ChunkSets=planted(ChunkSets, "| (changed & resident))", ")")),
    "a write that goes on in the next chunk is told of its first": lambda: engine_with(
        ("differential.wrote & differential.wrote_next", "0")),
    "the differential is not cleared for what is read again": lambda: engine_with(("self.absorbing & (self.prepare_set == CopySet.STALE)", "0")),
    "the differential is clean for ever": lambda: engine_with(("m.d.sync += clean.eq(0)", "pass")),
    "the next copy does not wait for the clearing": lambda: engine_with((
        "self.prepared.eq(~sweeping)", "self.prepared.eq(~sweeping | everything)")),
    "atomics are forgotten": lambda: engine_with(("sets.atomic.eq(self.atomic)", "sets.atomic.eq(0)")),
    "marks do not count": lambda: engine_with(("self.absorbing & differential.read_there[byte]", "0")),
    "chunks that nobody read count as known": lambda: engine_with(ChunkSets=planted(ChunkSets, "(changed & ~covered) | ", "")),
    "what comes while it is chosen is forgotten": lambda: engine_with(
        ChunkSets=planted(ChunkSets, "due.eq((due & ~Mux(free, first, 0)) |", "due.eq((due & ~Mux(free, due, 0)) |")),
}


@pytest.mark.parametrize("name", BUGS)
def test_planted_bugs_are_found(name):
    with pytest.raises(AssertionError):
        broken = BUGS[name]()
        copy_changing_page(broken(64, 128), "planted/merge", writes=0.5)
        copy_changing_page(broken(64, 128), "planted/atomics", writes=0.1, atomics=0.1)
        copy_changing_page(broken(64, 128), "planted/next", writes=0.3, pages=4)
        copy_changing_page(broken(64, 128), "planted/host", writes=0.2, first=CopySet.NONE)
