# amaranth: UnusedElaboratable=no
"""The bitmap against a list of words, cycle by cycle."""

import pytest

from pagehop.memory.bitmap import Bitmap, BitmapOpKind
from pagehop_tb.simulate import run, seeded

PAGES = 256
LOOKUP_DELAY = 3


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
    elif kind is BitmapOpKind.CLEAR:
        words[place] &= ~mask
    elif kind is BitmapOpKind.TAKE:
        words[place] = 0


def exercise(dut, name, cycles=3000):
    rng = seeded(name)
    words = [0] * (PAGES // 64)
    history = [list(words)] * LOOKUP_DELAY
    seen = {"word": 0, "bit": 0}
    # Lookups do not see a TAKE.
    kinds = [kind for kind in BitmapOpKind if kind is not BitmapOpKind.TAKE or not dut.lookups]

    async def bench(ctx):
        expected_words = [None, None]
        expected_bits = [None] * dut.lookups
        for _ in range(cycles):
            kind, index, valid = rng.choice(kinds), rng.choice([rng.randrange(PAGES), rng.randrange(8), 64]), rng.random() < 0.8
            ctx.set(dut.op.payload, {"kind": kind, "index": index})
            ctx.set(dut.op.valid, valid)
            expected = expected_words.pop(0)
            assert ctx.get(dut.word_valid) == (expected is not None)
            if expected is not None:
                assert ctx.get(dut.word) == expected
                seen["word"] += expected != 0
            expected_words.append(words[index // 64] if valid and kind in (BitmapOpKind.READ, BitmapOpKind.TAKE) else None)
            for n, lookup in enumerate(dut.lookup):
                if expected_bits[n] is not None:
                    assert ctx.get(lookup.bit) == expected_bits[n]
                    seen["bit"] += expected_bits[n]
                page = rng.choice([rng.randrange(PAGES), rng.randrange(8)])
                enable = rng.random() < 0.5
                ctx.set(lookup.index, page)
                ctx.set(lookup.enable, enable)
                if enable:
                    # `history[0]` holds what was taken three or more cycles ago.
                    expected_bits[n] = history[0][page // 64] >> page % 64 & 1
            if valid:
                apply(words, kind, index)
            history.append(list(words))
            del history[0]
            await ctx.tick()

    run(dut, bench)
    assert seen["word"] > 100 and (not dut.lookups or seen["bit"] > 100), seen


@pytest.mark.hazard("H47", "I1", "I12")
@pytest.mark.parametrize("lookups", [0, 2])
def test_operations_and_lookups_agree_with_model(lookups):
    exercise(Bitmap(PAGES, lookups), f"bitmap/{lookups}")


def test_one_word_is_enough():
    dut = Bitmap(64, 1)

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


def test_lookups_are_counted():
    with pytest.raises(ValueError, match=r"^Number of lookup ports must not be negative, not -1$"):
        Bitmap(64, -1)
