"""The harvest of dirty bits, step by step: what must have come before the answer does."""

import pytest

from pagehop.interposer.harvest import Harvest
from pagehop.interposer.visible_wait import VisibleWait
from pagehop.memory.bitmap import BitmapOpKind
from pagehop.tlp.flush_wait import FlushWait
from pagehop.tlp.issue import Mark
from pagehop_sim.planted import edited
from pagehop_tb.simulate import run, seeded

PAGES, WORD_BITS = 128, 12
#: Cycles in which nothing may happen, and in which what may happen must; the bits of a word are put back in between.
QUIET, SOON = 12, 90


async def none(ctx, port, what):
    """Nothing is to come for a while."""
    for _ in range(QUIET):
        assert not ctx.get(port), what
        await ctx.tick()


async def comes(ctx, port, what):
    """Wait until it comes, which must be soon."""
    for _ in range(SOON):
        if ctx.get(port):
            return
        await ctx.tick()
    raise AssertionError(what)


async def put_back(ctx, dut, bus):
    """The bits that are set again before the answer is there, if it is soon."""
    back, paused = [], 0
    for _ in range(SOON):
        if ctx.get(dut.op.valid):
            op = ctx.get(dut.op.payload)
            assert paused and op.kind == BitmapOpKind.SET, "what the device writes meanwhile is not marked"
            back.append(op.index)
        if ctx.get(bus.response.valid):
            break
        paused = ctx.get(dut.pause)
        await ctx.tick()
    return back


def harvest_waits(dut, name):
    """Reads of a word that is not empty, with and without clearing, each with other things missing before it may be answered.

    Where a flush is lost the answer is an error, and the word is as it was; the next read asks for another flush, also when nothing was written.
    """
    rng, lost_for = seeded(name), {0: 0, 1: 0}

    async def bench(ctx):
        epoch = entered = 0
        flush = [{"issued": 9, "done": 9, "newest": 9, "dirty": 0, "clean": 1, "lost": 0} for _ in range(2)]
        for _ in range(60):
            takes, page, word = rng.randrange(2), rng.randrange(PAGES), rng.getrandbits(64) & rng.getrandbits(64) | 1 << rng.randrange(64)
            bus = dut.take if takes else dut.peek
            behind, dirty, atomic = rng.randrange(4), [rng.randrange(2) for _ in range(2)], rng.randrange(2)
            entered = (entered + 5) % 16
            accepted = (entered - behind) % 16
            ctx.set(dut.entered, entered)
            ctx.set(dut.accepted, accepted)
            ctx.set(dut.epochs, {"advance_ready": 0, "epoch": epoch, "unanswered": 0, "atomics": atomic << epoch})
            for host in range(2):
                flush[host]["dirty"] = dirty[host]
                ctx.set(dut.flush[host], flush[host])
            ctx.set(bus.request.valid, 1)
            ctx.set(bus.request.payload, {"index": page // 64, "strobe": 0xFF})
            await ctx.tick()
            ctx.set(bus.request.valid, 0)
            await comes(ctx, dut.op.valid, "the bitmap is not read")
            op = ctx.get(dut.op.payload)
            assert (op.kind, op.index // 64) == (BitmapOpKind.TAKE if takes else BitmapOpKind.READ, page // 64)
            await ctx.tick()
            ctx.set(dut.word_valid, 1)
            ctx.set(dut.word, word)
            await ctx.tick()
            ctx.set(dut.word_valid, 0)
            await none(ctx, dut.advance, "an epoch began that was not ready")
            ctx.set(dut.epochs.advance_ready, 1)
            while behind:
                await none(ctx, dut.advance, f"{behind} TLPs stand in the issue register, and the harvest goes on")
                behind -= 1
                accepted = (accepted + 1) % 16
                ctx.set(dut.accepted, accepted)
            await comes(ctx, dut.advance, "the harvest stands still")
            needed = [dirty[host] | flush[host]["lost"] for host in range(2)]
            for host in range(2):
                assert ctx.get(dut.flush_request[host]) == needed[host]
            await ctx.tick()
            epoch = (epoch + 1) % 4
            ctx.set(dut.epochs.epoch, epoch)
            for host in range(2):
                flush[host]["newest"] = (flush[host]["issued"] + needed[host]) % 64
                ctx.set(dut.flush[host], flush[host])
            for host in rng.sample(range(2), 2):
                if needed[host]:
                    flush[host] |= {"issued": flush[host]["newest"], "dirty": 0}
                    ctx.set(dut.flush[host], flush[host])
                    await none(ctx, bus.response.valid, "a write was not proven visible, and the harvest is answered")
                    flush[host] |= {"done": flush[host]["issued"], "lost": rng.random() < 0.2}
                    ctx.set(dut.flush[host], flush[host])
            if atomic:
                await none(ctx, bus.response.valid, "an atomic was not answered, and the harvest is")
                ctx.set(dut.epochs.atomics, 0)
            lost, back = any(one["lost"] for one in flush), await put_back(ctx, dut, bus)
            answer = ctx.get(bus.response.payload)
            assert ctx.get(bus.response.valid) and answer.error == lost, f"with {int(lost)} for a lost flush the answer has the error {answer.error}"
            assert lost or answer.data == word
            expected = [page // 64 * 64 + bit for bit in range(64) if word >> bit & 1] if lost and takes else []
            assert back == expected, f"the bits {back} are put back, which were {expected}"
            lost_for[takes] += lost
            await ctx.tick()

    run(dut, bench)
    assert min(lost_for.values()) > 5, f"flushes were lost for {lost_for} reads"


@pytest.mark.hazard("H46", "H58")
def test_a_harvest_waits_for_all_that_it_reports():
    harvest_waits(Harvest(PAGES, WORD_BITS), "harvest")


def words_are_dropped(dut, name):
    """A word that is dropped is cleared at once, with the pause that a take needs, and no read of the register file is answered for it."""
    rng = seeded(name)

    async def bench(ctx):
        for _ in range(30):
            index, waits = rng.randrange(2), rng.randrange(3)
            ctx.set(dut.drop.valid, 1)
            ctx.set(dut.drop.payload, index)
            ctx.set(dut.take.request.valid, 1)
            paused = False
            for _ in range(SOON):
                assert not ctx.get(dut.take.request.ready), "a read goes before a word that is dropped"
                if ctx.get(dut.op.valid):
                    break
                paused = ctx.get(dut.pause)
                await ctx.tick()
            op = ctx.get(dut.op.payload)
            assert (paused, op.kind, op.index) == (1, BitmapOpKind.TAKE, 64 * index)
            for _ in range(waits):
                await ctx.tick()
                assert not ctx.get(dut.drop.ready)
            await ctx.tick()
            ctx.set(dut.word_valid, 1)
            ctx.set(dut.word, 1 << rng.randrange(64))
            assert ctx.get(dut.drop.ready)
            await ctx.tick()
            ctx.set(dut.word_valid, 0)
            ctx.set(dut.drop.valid, 0)
            ctx.set(dut.take.request.valid, 0)
            for _ in range(QUIET):
                assert not ctx.get(dut.take.response.valid) and not ctx.get(dut.advance), "a word that is dropped is answered"
                await ctx.tick()

    run(dut, bench)


def test_words_are_dropped():
    words_are_dropped(Harvest(PAGES, WORD_BITS), "harvest/drop")


@pytest.mark.parametrize("change", [
    ("index.eq(self.drop.payload), taking.eq(1)", "index.eq(self.drop.payload), taking.eq(0)"), ("index.eq(self.drop.payload)", "index.eq(0)"),
    ("with m.If(dropping):", "with m.If(0):"), ("self.take.request.ready.eq(~self.drop.valid)", "self.take.request.ready.eq(1)")],
    ids=["not cleared", "another word", "answered", "lost read"])
def test_bug_in_dropping_is_found(change):
    with pytest.raises(AssertionError):
        words_are_dropped(edited(Harvest, change)(PAGES, WORD_BITS), "harvest/drop")


@pytest.mark.parametrize("parts", [
    {"Mark": edited(Mark, ("self.passed.eq(0)", "self.passed.eq(1)"))},
    {"FlushWait": edited(FlushWait, ("[target.eq(self.flush.issued + needed)", "[target.eq(self.flush.issued - needed)"))},
    {"FlushWait": edited(FlushWait, ("self.flush.dirty | self.flush.lost", "self.flush.dirty"))},
], ids=["the issue register is not awaited", "an older flush is awaited", "a flush that was lost before is believed"])
def test_planted_bug_is_found(parts):
    with pytest.raises(AssertionError):
        harvest_waits(edited(Harvest, VisibleWait=edited(VisibleWait, **parts))(PAGES, WORD_BITS), "harvest/bug")


@pytest.mark.parametrize("change", [
    ("refused.eq(visible.lost)", "refused.eq(0)"), ("visible.lost & taking", "0"), ("visible.lost & taking", "visible.lost"),
    ("[self.pause.eq(1), self.op.valid.eq(word[0])", "[self.op.valid.eq(word[0])"), ("bit.eq(bit + 1)", "bit.eq(bit + 2)"),
], ids=["a lost flush is believed", "not put back", "put back twice", "marks are lost meanwhile", "every other bit"])
def test_bug_in_what_follows_a_lost_flush_is_found(change):
    with pytest.raises(AssertionError):
        harvest_waits(edited(Harvest, change)(PAGES, WORD_BITS), "harvest/lost")
