# amaranth: UnusedElaboratable=no
"""Room for completions: the counter, and how much a request needs."""

import pytest
from amaranth.hdl import Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from pagehop.tlp.room import Room, completion_lines, lines_to_beats
from pagehop_tb.simulate import run, seeded


class OneRelease(Room):
    """Planted bug: of two releases in one cycle only one counts."""
    def elaborate(self, platform):
        m = Module()
        freed = Signal.like(self.amount_left)
        for release, amount in zip(self.release, self.release_amount, strict=True):
            with m.If(release):
                m.d.comb += freed.eq(amount)
        with m.If(self.reserve):
            m.d.sync += self.amount_left.eq(self.amount_left + freed - self.reserve_amount)
        with m.Else():
            m.d.sync += self.amount_left.eq(self.amount_left + freed)
        return m


class Lines(wiring.Component):
    """``completion_lines`` behind ports."""
    header: In(128)
    lines: Out(7)

    def elaborate(self, platform):
        m = Module()
        m.d.comb += self.lines.eq(completion_lines(self.header))
        return m


def exercise(dut, capacity):
    rng = seeded(f"room/{capacity}")
    seen = {"empty": 0, "both": 0}

    async def bench(ctx):
        left, held = capacity, []
        for _ in range(2000):
            assert ctx.get(dut.amount_left) == left
            amount = rng.choice([rng.randint(0, capacity), left])
            reserve = amount <= left and rng.random() < 0.7
            ctx.set(dut.reserve, reserve)
            ctx.set(dut.reserve_amount, amount)
            releases = [held.pop(rng.randrange(len(held))) if held and rng.random() < 0.5 else None for _ in dut.release]
            for n, released in enumerate(releases):
                ctx.set(dut.release[n], released is not None)
                ctx.set(dut.release_amount[n], released if released is not None else rng.randint(0, capacity))
            if reserve:
                left -= amount
                held.append(amount)
            left += sum(released or 0 for released in releases)
            seen["empty"] += left == 0
            seen["both"] += None not in releases
            await ctx.tick()

    run(dut, bench)
    assert all(seen.values()), seen


@pytest.mark.hazard("D7")
@pytest.mark.parametrize("capacity", [1, 2, 7, 1040])
def test_amount_left_is_what_was_not_reserved(capacity):
    exercise(Room(capacity), capacity)


def test_planted_bug_is_found():
    with pytest.raises(AssertionError):
        exercise(OneRelease(7), 7)


@pytest.mark.hazard("D7")
def test_lines_are_those_a_read_touches():
    rng = seeded("lines")
    dut = Lines()

    async def bench(ctx):
        for _ in range(500):
            start = 4 * rng.choice([0, 1, 15, 16, 17, rng.randrange(1024)])
            wide, length = rng.randrange(2), rng.choice([1, 2, 15, 16, 17, 1023, 1024, rng.randint(1, 1024)])
            # DW0: Fmt 31:29 (bit 29 is 4 DW), Length 9:0 where 0 is 1024. The address is in DW3 of a 4 DW header, else in DW2.
            dw0 = wide << 29 | length % 1024
            dws = [dw0, rng.getrandbits(32), 0x1234 if wide else start, start if wide else 0]
            ctx.set(dut.header, sum(dw << 32 * (3 - n) for n, dw in enumerate(dws)))
            assert ctx.get(dut.lines) == len({byte // 64 for byte in range(start, start + 4 * length)})
        for fmt_type in (0x02, 0x04, 0x42, 0x4C, 0x4D, 0x6E, 0x5B):
            ctx.set(dut.header, fmt_type << 120 | 1000 << 96)
            assert ctx.get(dut.lines) == 1

    run(dut, bench)


def test_a_line_takes_some_beats():
    assert [lines_to_beats(data_bytes) for data_bytes in (16, 32, 64, 128)] == [4, 2, 1, 1]


def test_parameters_are_checked():
    with pytest.raises(ValueError, match=r"^Capacity must be at least 1, not 0$"):
        Room(0)
    with pytest.raises(ValueError, match=r"^Number of release inputs must be at least 1, not 0$"):
        Room(4, releases=0)
