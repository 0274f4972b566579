"""The issue register says that it holds a request whichever of its two places has it, and a mark when what it held has gone."""

import pytest
from amaranth.lib import data

from pagehop.tlp.egress import EgressLane
from pagehop.tlp.issue import IssueRegister, Mark
from pagehop_sim.planted import planted
from pagehop_tb.simulate import run, seeded

SHAPE = data.StructLayout({"beat": data.StructLayout({"first": 1, "last": 1}), "lane": 2})
LANES = (EgressLane.POSTED, EgressLane.COMPLETION, EgressLane.NON_POSTED, EgressLane.ENGINE)


def exercise(dut, name):
    rng, held, seen = seeded(name), [], {(place, full): 0 for place in range(2) for full in range(2)}

    async def bench(ctx):
        for _ in range(2000):
            lane, valid, ready = rng.choice(LANES), rng.random() < 0.6, rng.random() < 0.5
            ctx.set(dut.i.payload, {"beat": {"first": 1, "last": 1}, "lane": lane})
            ctx.set(dut.i.valid, valid)
            ctx.set(dut.o.ready, ready)
            requests = [lane in (EgressLane.NON_POSTED, EgressLane.ENGINE) for lane in held]
            assert ctx.get(dut.request_held) == any(requests), f"{held} are held"
            for place, one in enumerate(requests):
                seen[place, len(held) == 2 and sum(requests) == 2] += one
            assert ctx.get(dut.o.valid) == bool(held) and ctx.get(dut.i.ready) == (len(held) < 2)
            assert (ctx.get(dut.entered) - ctx.get(dut.accepted)) % 16 == len(held)
            takes = valid and len(held) < 2
            if held and ready:
                assert ctx.get(dut.o.payload.lane) == held.pop(0)
            held.extend([lane] * takes)
            await ctx.tick()

    run(dut, bench)
    assert min(seen.values()) > 20, seen


def test_a_request_is_held_in_either_place():
    exercise(IssueRegister(SHAPE), "issue")


@pytest.mark.parametrize("change", [
    ("(self.o.valid & self._is_request(self.o.payload)) |", "(self.o.valid & self._is_request(self.o.payload)) &"),
    ("(spare_valid & self._is_request(spare))", "0"), ("(self.o.valid & self._is_request(self.o.payload)) |", "")],
    ids=["in both", "in front", "in the spare place"])
def test_planted_bug_is_found(change):
    with pytest.raises(AssertionError):
        exercise(planted(IssueRegister, *change)(SHAPE), "issue/bug")


BITS = 4


def exercise_mark(dut, name):
    """The count is behind its target by less than half the range, and goes on."""
    rng = seeded(name)

    async def bench(ctx):
        count, target = 0, 0
        for _ in range(300):
            target = count + rng.randrange(1 << BITS - 1)
            ctx.set(dut.target, target % (1 << BITS))
            ctx.set(dut.count, count % (1 << BITS))
            ctx.set(dut.set, 1)
            await ctx.tick()
            ctx.set(dut.set, 0)
            ctx.set(dut.target, rng.randrange(1 << BITS))
            assert not ctx.get(dut.passed)
            while count < target:
                await ctx.tick()
                assert not ctx.get(dut.passed), f"{target - count} are to come"
                count += rng.randrange(2)
                ctx.set(dut.count, count % (1 << BITS))
            await ctx.tick()
            assert ctx.get(dut.passed)
            count += rng.randrange(3)

    run(dut, bench)


def test_a_mark_is_passed_when_the_count_is_there():
    exercise_mark(Mark(BITS), "mark")


@pytest.mark.parametrize("change", [("self.count - target", "self.count + target"), ("~distance[self.bits - 1]", "1"),
                                    ("~distance[self.bits - 1]", "distance == 1")], ids=["backwards", "at once", "one too late"])
def test_planted_bug_of_a_mark_is_found(change):
    with pytest.raises(AssertionError):
        exercise_mark(planted(Mark, *change)(BITS), "mark/bug")
