# amaranth: UnusedElaboratable=no
"""The bitmap against a list of words, cycle by cycle."""

import pytest

from pagehop.memory.bitmap import Bitmap, BitmapOpKind
from pagehop_tb.simulate import run, seeded

PAGES = 256


class NoForwarding(Bitmap):
    """Planted bug: the operation before is not seen by the next one on the same word."""
    def _operations(self, m, write, read):
        super()._operations(m, write, read)
        m.d.sync += self.word.eq(read.data)


class BlindRead(Bitmap):
    """Planted bug: the operation two before is not seen."""
    def _operations(self, m, write, _read):
        super()._operations(m, write, m.submodules.words.read_port())


def apply(words, kind, index):
    """Model of one operation."""
    place, mask = index // 64, 1 << index % 64
    if kind is BitmapOpKind.SET:
        words[place] |= mask
    elif kind is BitmapOpKind.TAKE:
        words[place] = 0


def exercise(dut, name, cycles=3000):
    rng = seeded(name)
    words = [0] * (PAGES // 64)
    words_seen = 0

    async def bench(ctx):
        nonlocal words_seen
        expected_words = [None, None]
        for _ in range(cycles):
            kind, index, valid = rng.choice(list(BitmapOpKind)), rng.choice([rng.randrange(PAGES), rng.randrange(8), 64]), rng.random() < 0.8
            ctx.set(dut.op.payload, {"kind": kind, "index": index})
            ctx.set(dut.op.valid, valid)
            expected = expected_words.pop(0)
            assert ctx.get(dut.word_valid) == (expected is not None)
            if expected is not None:
                assert ctx.get(dut.word) == expected
                words_seen += expected != 0
            expected_words.append(words[index // 64] if valid and kind in (BitmapOpKind.READ, BitmapOpKind.TAKE) else None)
            if valid:
                apply(words, kind, index)
            await ctx.tick()

    run(dut, bench)
    assert words_seen > 100


@pytest.mark.hazard("H47", "I12")
def test_operations_agree_with_model():
    exercise(Bitmap(PAGES), "bitmap")


def test_one_word_is_enough():
    dut = Bitmap(64)

    async def bench(ctx):
        ctx.set(dut.op.payload, {"kind": BitmapOpKind.SET, "index": 63})
        ctx.set(dut.op.valid, 1)
        await ctx.tick()
        ctx.set(dut.op.payload, {"kind": BitmapOpKind.TAKE, "index": 0})
        await ctx.tick()
        ctx.set(dut.op.valid, 0)
        await ctx.tick()
        assert ctx.get(dut.word_valid) and ctx.get(dut.word) == 1 << 63

    run(dut, bench)


@pytest.mark.parametrize("bug", [NoForwarding, BlindRead])
def test_planted_bug_is_found(bug):
    with pytest.raises(AssertionError):
        exercise(bug(PAGES), "bitmap/bug")


@pytest.mark.parametrize("pages", [0, 63, 100])
def test_pages_fill_words(pages):
    with pytest.raises(ValueError, match=rf"^A bitmap must have a multiple of 64 pages, not {pages}$"):
        Bitmap(pages)
