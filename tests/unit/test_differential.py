# amaranth: UnusedElaboratable=no
"""What devices write to a page that is being copied: every alignment, length and byte enable, and clears beside writes."""

import pytest
from copy_driver import beats, header

from pagehop.memory.differential import Differential
from pagehop_sim.planted import planted
from pagehop_tb.simulate import run, seeded

PAGE = 4096
WIDTHS = [16, 32, 64, 128]


def write_beats(address, payload, first_be, last_be, data_bytes):
    """Beats of a memory write (2.2.7) of whole double words, with the 4 DW form of its header."""
    return beats(header(0x60000000 | len(payload) // 4, first_be | last_be << 4, 0x12, address), payload, data_bytes)


def enabled(length, first_be, last_be):
    """Which bytes of a payload count (2.2.5)."""
    enables = [True] * 4 * length
    for byte in range(4):
        if length > 1:
            enables[-4 + byte] = bool(last_be >> byte & 1)
        enables[byte] = bool(first_be >> byte & 1)
    return enables


class Model:
    """The page as it must be, and a driver of the component, one cycle at a time."""
    def __init__(self, dut, name):
        self.dut, self.rng, self.page = dut, seeded(name), [None] * PAGE

    def random_write(self):
        """A write of any form inside a page; returns its beats and takes it into the page."""
        rng = self.rng
        length = rng.choice((1, 1, 2, 3, rng.randint(1, 64), rng.randint(1, 128)))
        at = 4 * rng.randrange(0, PAGE // 4 - length + 1)
        first_be, last_be = rng.choice((15, rng.randrange(16))), rng.choice((15, rng.randrange(16))) if length > 1 else 0
        payload = rng.randbytes(4 * length)
        for offset, (byte, counts) in enumerate(zip(payload, enabled(length, first_be, last_be), strict=True)):
            if counts:
                self.page[at + offset] = byte
        return write_beats(0x3456_7000 + at, payload, first_be, last_be, self.dut.data_bytes)

    async def step(self, ctx, beat=None):
        """One cycle, with a beat or without."""
        ctx.set(self.dut.write.valid, beat is not None)
        if beat:
            ctx.set(self.dut.write.payload, beat)
        assert ctx.get(self.dut.write.ready)
        await ctx.tick()

    async def compare(self, ctx):
        """Read all rows."""
        dut = self.dut
        await self.step(ctx)
        while ctx.get(dut.busy):
            await self.step(ctx)
        ctx.set(dut.read_enable, 1)
        for row in range(dut.rows):
            ctx.set(dut.read_row, row)
            await ctx.tick()
            data, there = ctx.get(dut.read_data).to_bytes(dut.data_bytes, "little"), ctx.get(dut.read_there)
            for byte in range(dut.data_bytes):
                wanted = self.page[row * dut.data_bytes + byte]
                assert there >> byte & 1 == (wanted is not None), f"byte {byte} of row {row} is there or not"
                assert wanted is None or data[byte] == wanted, f"byte {byte} of row {row}"
        ctx.set(dut.read_enable, 0)

    async def clear(self, ctx, row, beats=()):
        """Clear a row while these beats come; returns how many cycles it took."""
        dut, cycles, beats = self.dut, 0, list(beats)
        ctx.set(dut.clear, 1)
        ctx.set(dut.clear_row, row)
        done = False
        while not done:
            done = bool(ctx.get(dut.cleared))
            await self.step(ctx, beats.pop(0) if beats else None)
            cycles += 1
        ctx.set(dut.clear, 0)
        for beat in beats:
            await self.step(ctx, beat)
        return cycles


def write_and_compare(dut, name, writes=120):
    model = Model(dut, name)

    async def bench(ctx):
        for number in range(writes):
            for beat in model.random_write():
                await model.step(ctx, beat)
                if model.rng.random() < 0.2:
                    await model.step(ctx)
            if number % 40 == 39:
                await model.compare(ctx)
        await model.compare(ctx)

    run(dut, bench)


@pytest.mark.hazard("H21")
@pytest.mark.parametrize("data_bytes", WIDTHS)
def test_every_form_of_write_is_kept(data_bytes):
    write_and_compare(Differential(data_bytes), f"differential/{data_bytes}")


BUGS = {
    "the last enables count for a single double word": ("m.d.comb += enables.eq(header.first_be)", "pass"),
    "the rest of a payload goes to its own row": ("Mux(placed.shift > lane, following, placed.row)", "placed.row"),
    "a later beat goes where the first went": ("placed.row.eq(placed.row + 1)", "placed.row.eq(placed.row)"),
    "enables stay where they were": ('(("data", 32), ("enables", 4))', '(("data", 32),)'),
}


@pytest.mark.parametrize("name", BUGS)
def test_planted_bugs_are_found(name):
    with pytest.raises(AssertionError):
        write_and_compare(planted(Differential, *BUGS[name])(64), "differential/planted")


@pytest.mark.parametrize("data_bytes", WIDTHS)
def test_a_row_is_cleared_beside_writes(data_bytes):
    """A clear takes the first cycle without a write at the banks; what is written to the row after it stays."""
    dut = Differential(data_bytes)
    model = Model(dut, f"clear/{data_bytes}")

    async def bench(ctx):
        for _ in range(30):
            for beat in model.random_write():
                await model.step(ctx, beat)
        while ctx.get(dut.busy):
            await model.step(ctx)
        assert await model.clear(ctx, 3) == 1
        model.page[3 * data_bytes:4 * data_bytes] = [None] * data_bytes
        await model.compare(ctx)
        # Writes without a gap keep the clear waiting, and are themselves cleared when they came before it.
        line = write_beats(5 * data_bytes, bytes(range(data_bytes)), 15, 15, data_bytes)
        for _ in range(3):
            await model.step(ctx, line[0])
        cycles = await model.clear(ctx, 5, line * 6)
        assert cycles == 10
        model.page[5 * data_bytes:6 * data_bytes] = [None] * data_bytes
        await model.compare(ctx)
        for beat in line:
            await model.step(ctx, beat)
        model.page[5 * data_bytes:6 * data_bytes] = list(range(data_bytes))
        await model.compare(ctx)

    run(dut, bench)


@pytest.mark.parametrize("data_bytes", WIDTHS)
def test_it_says_what_was_written_when_it_can_be_read(data_bytes):
    dut = Differential(data_bytes)
    model = Model(dut, f"wrote/{data_bytes}")

    async def bench(ctx):
        payload = bytes(range(data_bytes))
        for at, spills in ((2 * data_bytes, False), (2 * data_bytes + 4, True), (3 * data_bytes - 4, True)):
            beat = write_beats(at, payload, 15, 15, data_bytes)[0]
            await model.step(ctx, beat)
            for _ in range(3):
                assert ctx.get(dut.busy) and not ctx.get(dut.wrote)
                await model.step(ctx)
            assert ctx.get(dut.wrote) and ctx.get(dut.wrote_row) == 2 and bool(ctx.get(dut.wrote_next)) == spills
            ctx.set(dut.read_enable, 1)
            ctx.set(dut.read_row, 2)
            await model.step(ctx)
            assert ctx.get(dut.read_there) >> (at - 2 * data_bytes) & 1 and not ctx.get(dut.busy)
            assert ctx.get(dut.read_data) >> 8 * (at - 2 * data_bytes) & 0xFF == 0
            ctx.set(dut.read_enable, 0)

    run(dut, bench)


def test_widths_are_checked():
    with pytest.raises(ValueError, match="not 48"):
        Differential(48)
