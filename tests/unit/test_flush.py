# amaranth: UnusedElaboratable=no
"""Flush reads: what they prove, when they are sent, and what ends them."""

import pytest
from amaranth.hdl import Module
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from pagehop.tlp.flush import FlushTracker, reached
from pagehop_sim.planted import planted
from pagehop_tb.simulate import run, seeded


class CoversTooMuch(FlushTracker):
    """Planted bug: a write accepted in the cycle of the transfer counts as covered."""
    def _count(self, m):
        pending = super()._count(m)
        with m.If(self.sent):
            m.d.sync += self.dirty.eq(0)
        return pending


class LateAnswersProveLater(FlushTracker):
    """Planted bug: any answer proves all that was sent."""
    def _finish(self, m, busy, old, end):
        super()._finish(m, busy, old, end)
        with m.If(end.any()):
            m.d.sync += self.done.eq(self.issued)


class Reached(wiring.Component):
    """``reached`` behind ports."""
    done: In(6)
    target: In(6)
    newest: In(6)
    yes: Out(1)

    def elaborate(self, platform):
        m = Module()
        m.d.comb += self.yes.eq(reached(self.done, self.target, self.newest))
        return m


def completion(tag, status=0, first=1):
    """Cpl with this tag: DW0 first on the wire; Status in DW1 15:13, Tag in DW2 15:8."""
    dws = [0x4A000001, status << 13 | 4, 0x0100 << 16 | tag << 8, 0]
    return {"header": sum(dw << 32 * (3 - n) for n, dw in enumerate(dws)), "first": first, "last": 1, "dwords": 1}


def exercise(dut, name, cycles=3000, target_port=False):
    """Random traffic. Every dependent waits for a true proof: a flush transferred after the writes it depends on has been answered."""
    rng = seeded(name)
    writes, flushes, waiting, proven = 0, [], [], 0
    seen = {"proven": 0, "coincide": 0, "out of order": 0, "most": 0}

    async def bench(ctx):
        nonlocal writes, proven
        answers = []
        accepted_before = 0
        for cycle in range(cycles):
            quiet = cycle // 200 % 5 == 4
            posted, request = not quiet and rng.random() < 0.4, not quiet and rng.random() < 0.3
            ctx.set(dut.posted, posted)
            ctx.set(dut.request, request)
            ctx.set(dut.address, rng.choice([0x1234_5678, 0xFFFF_FFFF_0000_1000]))
            ctx.set(dut.requester_id, 0xBEE5)
            ctx.set(dut.limit, 100_000)
            ctx.set(dut.o.ready, quiet or rng.random() < 0.5)
            accepted_before, writes = writes, writes + posted
            if request:
                if target_port:
                    waiting.append((ctx.get(dut.target), writes))
                else:
                    waiting.append(((ctx.get(dut.issued) + ctx.get(dut.dirty)) % 64, accepted_before))
            elif rng.random() < 0.1 and not ctx.get(dut.dirty):
                waiting.append((ctx.get(dut.issued), accepted_before))
            answer = answers.pop(rng.randrange(min(len(answers), 4))) if answers and (quiet or rng.random() < 0.3) else None
            ctx.set(dut.completion.valid, answer is not None)
            if answer is not None:
                ctx.set(dut.completion.payload, completion(answer))
            if ctx.get(dut.o.valid) and ctx.get(dut.o.ready):
                tag = ctx.get(dut.o.payload.header) >> 72 & 0xFF
                assert tag not in answers and tag >> 6 == 2 + dut.host
                flushes.append([tag, accepted_before, False])
                answers.append(tag)
                seen["coincide"] += posted and request
                seen["most"] = max(seen["most"], len(answers))
            if answer is not None:
                flush = next(flush for flush in flushes if flush[0] == answer and not flush[2])
                flush[2] = True
                seen["out of order"] += any(not earlier[2] for earlier in flushes[:flushes.index(flush)])
                proven = max(proven, flush[1])
            await ctx.tick()
            done, newest = ctx.get(dut.done), ctx.get(dut.newest)
            for wait in list(waiting):
                target, needed = wait
                # Written from the definition: the numbers still waited for are those after done, up to newest.
                open_numbers = {(done + 1 + n) % 64 for n in range((newest - done) % 64)}
                if target not in open_numbers:
                    assert needed <= proven
                    waiting.remove(wait)
                    seen["proven"] += 1
            if ctx.get(dut.clean):
                assert proven == writes
        assert not waiting and not answers and ctx.get(dut.done) == ctx.get(dut.issued)

    run(dut, bench)
    assert seen["proven"] > 200 and seen["coincide"] > 20 and seen["out of order"] > 20 and seen["most"] > 2, seen


@pytest.mark.hazard("H03", "H13", "H46", "H60", "H64", "I6")
@pytest.mark.parametrize("target_port", [False, True])
@pytest.mark.parametrize("tags", [4, 16])
def test_done_means_proven(tags, target_port):
    exercise(FlushTracker(1, tags, data_bytes=16), f"flush/{tags}/{target_port}", target_port=target_port)


@pytest.mark.parametrize("bug", [CoversTooMuch, LateAnswersProveLater])
def test_planted_bug_is_found(bug):
    with pytest.raises(AssertionError):
        exercise(bug(0, data_bytes=16), "flush/bug", target_port=True)


@pytest.mark.parametrize(("address", "dws"), [
    # Zero-length read (2.2.5): Length 1, both byte enables 0; below 4 GB with 3 DW (Fmt/Type 00), else with 4 DW (20).
    (0x0000_0000_1234_5677, [0x0000_0001, 0xBEE5_C000, 0x1234_5674, 0]),
    (0x0000_0012_8000_0FFC, [0x2000_0001, 0xBEE5_C000, 0x0000_0012, 0x8000_0FFC]),
])
def test_header_of_a_flush(address, dws):
    dut = FlushTracker(1)

    async def bench(ctx):
        ctx.set(dut.address, address)
        ctx.set(dut.requester_id, 0xBEE5)
        ctx.set(dut.posted, 1)
        ctx.set(dut.request, 1)
        await ctx.tick()
        ctx.set(dut.posted, 0)
        ctx.set(dut.request, 0)
        ctx.set(dut.address, 0)
        for _ in range(3):
            assert ctx.get(dut.o.valid)
            payload = ctx.get(dut.o.payload)
            assert [payload.header >> 32 * (3 - n) & 0xFFFF_FFFF for n in range(4)] == dws
            assert (payload.first, payload.last, payload.dwords, payload.prefix_valid, payload.poisoned) == (1, 1, 0, 0, 0)
            await ctx.tick()
        ctx.set(dut.o.ready, 1)
        assert ctx.get(dut.sent)
        await ctx.tick()
        assert not ctx.get(dut.o.valid) and ctx.get(dut.issued) == 1 and not ctx.get(dut.dirty) and not ctx.get(dut.clean)

    run(dut, bench)


def test_request_without_writes_is_dropped():
    dut = FlushTracker(0)

    async def bench(ctx):
        ctx.set(dut.request, 1)
        ctx.set(dut.o.ready, 1)
        for _ in range(5):
            await ctx.tick()
            assert not ctx.get(dut.o.valid) and ctx.get(dut.clean)

    run(dut, bench)


@pytest.mark.hazard("I7")
@pytest.mark.parametrize("limit", [20, 100])
def test_unanswered_flushes_are_given_up(limit):
    dut = FlushTracker(0, tags=4)

    async def bench(ctx):
        ctx.set(dut.limit, limit)
        ctx.set(dut.o.ready, 1)
        sent, given_up = [], []
        for cycle in range(4 * limit + 20):
            ctx.set(dut.posted, cycle < 9)
            ctx.set(dut.request, cycle < 9)
            if ctx.get(dut.sent):
                sent.append(cycle)
            await ctx.tick()
            if ctx.get(dut.timed_out):
                given_up.append(cycle + 1)
        assert len(sent) == len(given_up) == 5
        for start, end in zip(sent, given_up, strict=True):
            assert limit <= end - start <= 1.5 * limit + 4 + 4
        assert ctx.get(dut.clean)

    run(dut, bench)


@pytest.mark.hazard("H14")
def test_an_error_ends_a_flush_and_strangers_do_not():
    dut = FlushTracker(0, tags=4)

    async def bench(ctx):
        ctx.set(dut.limit, 1000)
        ctx.set(dut.o.ready, 1)
        ctx.set(dut.posted, 1)
        ctx.set(dut.request, 1)
        await ctx.tick()
        ctx.set(dut.posted, 0)
        ctx.set(dut.request, 0)
        await ctx.tick()
        ctx.set(dut.completion.valid, 1)
        for stranger in (completion(0x81), completion(0x84), completion(0x90), completion(0x80, first=0)):
            ctx.set(dut.completion.payload, stranger)
            for _ in range(4):
                await ctx.tick()
                assert not ctx.get(dut.done)
        ctx.set(dut.completion.payload, completion(0x80, status=1))
        await ctx.tick()
        ctx.set(dut.completion.valid, 0)
        await ctx.tick()
        assert ctx.get(dut.failed) and not ctx.get(dut.done)
        await ctx.tick()
        assert not ctx.get(dut.failed) and ctx.get(dut.done) == 1 and ctx.get(dut.clean)

    run(dut, bench)


def insists(dut, name, limit=40):
    """Flushes are answered, refused or forgotten. Who insists is told the truth: what counts as proven is, unless ``lost`` says that it is not."""
    rng = seeded(name)
    seen = {"proven": 0, "lost": 0, "again": 0}

    async def bench(ctx):
        ctx.set(dut.limit, limit)
        writes = proven = sends = 0
        waiting, answers = [], []       # (number, writes it is about), and (cycle, tag, status, writes that it proves)
        for cycle in range(6000):
            posted, request, needed = rng.random() < 0.02, rng.random() < 0.05, 0
            ctx.set(dut.posted, posted)
            ctx.set(dut.request, request)
            ctx.set(dut.insist, request)
            ready = rng.random() < 0.5
            ctx.set(dut.o.ready, ready)
            if request:
                needed = ctx.get(dut.dirty) | ctx.get(dut.lost)
                waiting.append(((ctx.get(dut.issued) + needed) % 64, writes))
                seen["again"] += needed and not ctx.get(dut.dirty)
            if ctx.get(dut.o.valid) and ready:
                sends += 1
                if rng.random() < 0.8:
                    answers.append((cycle + rng.randrange(3, limit - 4), ctx.get(dut.o.payload.header) >> 72 & 0xFF, int(rng.random() < 0.2), writes))
            answer = next((one for one in answers if one[0] <= cycle), None)
            ctx.set(dut.completion.valid, answer is not None)
            if answer is not None:
                answers.remove(answer)
                ctx.set(dut.completion.payload, completion(answer[1], status=answer[2]))
                if answer[2] == 0:
                    proven = max(proven, answer[3])
            writes += posted
            await ctx.tick()
            done, newest, lost = ctx.get(dut.done), ctx.get(dut.newest), ctx.get(dut.lost)
            open_numbers = {(done + 1 + n) % 64 for n in range((newest - done) % 64)}
            assert not (request and needed) or waiting[-1][0] in open_numbers, "no flush is to come"
            for wait in [one for one in waiting if one[0] not in open_numbers]:
                waiting.remove(wait)
                assert lost or wait[1] <= proven, f"{wait[1]} writes count as proven, and {proven} are"
                seen["lost" if lost else "proven"] += 1
        assert len(waiting) < 8 and sends < 1200

    run(dut, bench)
    assert min(seen.values()) > 20, seen


@pytest.mark.hazard("H14", "H46")
def test_a_flush_that_was_lost_is_made_again_for_who_insists():
    insists(FlushTracker(0, tags=4), "flush/insists")


@pytest.mark.parametrize("change", [
    ("self.failed | self.timed_out)", "self.failed)"), ("self.failed | self.timed_out)", "self.timed_out)"),
    ("dirty_next | (self.insist & self.lost)", "dirty_next"),
], ids=["a flush that was given up is a proof", "an error is a proof", "not made again"])
def test_bug_in_what_is_lost_is_found(change):
    with pytest.raises(AssertionError):
        insists(planted(FlushTracker, *change)(0, tags=4), "flush/insists/bug")


def test_reached_is_the_complement_of_what_is_open():
    dut = Reached()
    rng = seeded("reached")

    async def bench(ctx):
        for _ in range(2000):
            done, ahead, target = rng.randrange(64), rng.randrange(34), rng.randrange(64)
            ctx.set(dut.done, done)
            ctx.set(dut.newest, (done + ahead) % 64)
            ctx.set(dut.target, target)
            assert ctx.get(dut.yes) == (target not in {(done + 1 + n) % 64 for n in range(ahead)})

    run(dut, bench)


def test_parameters_are_checked():
    with pytest.raises(ValueError, match=r"^Host must be 0 or 1, not 2$"):
        FlushTracker(2)
    with pytest.raises(ValueError, match=r"^Number of flush tags must be a power of two from 2 to 32, not 12$"):
        FlushTracker(0, tags=12)
    with pytest.raises(ValueError, match=r"^Beat width must be one of 16, 32, 64, 128 bytes, not 8$"):
        FlushTracker(0, data_bytes=8)
