# amaranth: UnusedElaboratable=no
"""The owner map against a list of bits, cycle by cycle."""

import pytest

from pagehop.interposer.bitmaps import OwnerMap, OwnerOpKind
from pagehop_tb.simulate import run, seeded

PAGES = 256
LOOKUP_DELAY = 2


class GathersWhileTheSlotReads(OwnerMap):
    """Planted bug: a bit of a word is taken for read in the cycle in which the slot reads another."""
    def _gather(self, m, port, op, reads):
        super()._gather(m, port, op, reads & 0)
        with m.If(reads):
            m.d.comb += port.addr.eq(op.index)


def exercise(dut, name, cycles=6000):
    rng = seeded(name)
    bits = [0] * PAGES
    history = [list(bits)] * LOOKUP_DELAY
    seen = {"answer": 0, "bit": 0, "word": 0, "outside": 0}

    def check_word(ctx, asked):
        """A word holds each bit as it was at some time since it was asked for."""
        word, error = ctx.get(dut.read.response.payload.data), ctx.get(dut.read.response.payload.error)
        place, since = asked
        assert error == (place >= PAGES // 64)
        if error:
            seen["outside"] += 1
            return
        for bit in range(64):
            assert word >> bit & 1 in since[64 * place + bit]
        seen["word"] += word not in (0, (1 << 64) - 1)

    async def bench(ctx):
        answers, shown, asked = [None, None], [None, None], None
        for cycle in range(cycles):
            # At times nothing changes for so long that a word is exact.
            kinds = list(OwnerOpKind) if cycle % 1000 < 600 else [OwnerOpKind.READ]
            kind, index, valid = rng.choice(kinds), rng.choice([rng.randrange(PAGES), rng.randrange(8)]), rng.random() < 0.5
            ctx.set(dut.op[0].payload, {"kind": kind, "index": index})
            ctx.set(dut.op[0].valid, valid)
            expected = answers.pop(0)
            assert ctx.get(dut.answer_valid) == (expected is not None)
            if expected is not None:
                assert ctx.get(dut.answer) == expected
                seen["answer"] += expected
            answers.append(bits[index] if valid and kind is OwnerOpKind.READ else None)
            for port in range(2):
                if shown[port] is not None:
                    assert ctx.get(dut.bit[port]) == shown[port]
                    seen["bit"] += shown[port]
                page, enable = rng.choice([rng.randrange(PAGES), rng.randrange(8)]), rng.random() < 0.5
                ctx.set(dut.index[port], page)
                ctx.set(dut.enable[port], enable)
                if enable:
                    shown[port] = history[0][page]
            if ctx.get(dut.read.response.valid):
                check_word(ctx, asked)
                asked = None
            request = dut.read.request
            ctx.set(request.valid, asked is None and rng.random() < 0.3)
            ctx.set(request.payload.index, place := rng.randrange(PAGES // 64 + 1))
            if ctx.get(request.valid) and ctx.get(request.ready):
                asked = (place, [{value} for value in history[0]])
            if valid and kind is not OwnerOpKind.READ:
                bits[index] = int(kind is OwnerOpKind.SET)
            if asked is not None:
                for page, value in enumerate(bits):
                    asked[1][page].add(value)
            history.append(list(bits))
            del history[0]
            await ctx.tick()

    run(dut, bench)
    assert min(seen.values()) > 3, seen


@pytest.mark.hazard("I1")
def test_operations_lookups_and_words_agree_with_model():
    exercise(OwnerMap(PAGES), "owner map")


def test_planted_bug_is_found():
    with pytest.raises(AssertionError):
        exercise(GathersWhileTheSlotReads(PAGES), "owner map/bug")
