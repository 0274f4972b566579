"""Of whom posted TLPs are aside, against a list; and whether a request may pass them, against what the documentation says of sources."""

from itertools import product

import pytest

from pagehop.interposer.aside_order import AsideOrder
from pagehop.interposer.earlier import Earlier
from pagehop.interposer.layouts import DeviceInfo
from pagehop.tlp.ordering import Ahead
from pagehop_sim.planted import planted
from pagehop_tb.simulate import run, seeded

STAMP_BITS, DEPTH, TOLD = 8, 16, 4


def source(requester, **fields):
    return {"requester_id": requester, "traffic_class": 0, "id_ordering": 0, "group": 0, **fields}


def exercise_order(dut, name):
    """More sources than are told apart: from the fifth on nobody passes until none is aside."""
    rng, crowds = seeded(name), 0

    async def bench(ctx):
        nonlocal crowds
        aside, everybody = [], False
        for _ in range(200):
            filling = rng.randrange(1, DEPTH - 2)
            requesters = rng.sample(range(1 << 16), rng.randrange(1, 8))
            for enters in [1] * filling + [0] * filling:
                one = rng.choice(requesters)
                ctx.set(dut.source, source(one))
                ctx.set(dut.enters, enters)
                ctx.set(dut.ended, enters)
                ctx.set(dut.leaves, not enters)
                if enters:
                    everybody |= one not in aside and len(set(aside)) >= TOLD
                    aside.append(one)
                else:
                    aside.pop(0)
                await ctx.tick()
                ctx.set(dut.enters, 0)
                ctx.set(dut.leaves, 0)
                await ctx.tick().repeat(3)      # through the queue of those aside
                everybody &= bool(aside)
                standing = ctx.get(dut.standing)
                told = {standing.sources[place].requester_id for place in range(TOLD) if standing.used >> place & 1}
                assert standing.everybody == everybody, f"{aside} are aside"
                assert everybody or told == set(aside)
                crowds += everybody
    run(dut, bench)
    assert crowds > 100


def exercise_earlier(dut):
    """Every posted TLP has left its lane, and one is aside: ``other``."""
    async def bench(ctx):
        ctx.set(dut.posted, {"left": 1, "waiting": 0, "none": 1})
        ctx.set(dut.through, {"left": 0, "waiting": 1, "none": 0})
        ctx.set(dut.looked.stamp, 1)
        other = source(0x1234, group=1)
        ctx.set(dut.standing.sources[2], other)
        for requester, traffic_class, ido, group, used in product((0x1234, 0x1235, 0x9234), (0, 1), (0, 1), (1, 2), (0, 1)):
            one = source(requester, traffic_class=traffic_class, id_ordering=ido, group=group)
            ctx.set(dut.looked.info.source, one)
            ctx.set(dut.standing.used, used << 2)
            await ctx.tick()
            passes = not used or traffic_class != 0 or group != 1 or (ido and requester != 0x1234)
            assert (ctx.get(dut.gone), ctx.get(dut.stands)) == (passes, not passes), f"{one} {'may' if passes else 'may not'} pass {other}"
    run(dut, bench)


@pytest.mark.hazard("H24d", "O1")
def test_more_sources_than_are_told_apart():
    exercise_order(AsideOrder(STAMP_BITS, DEPTH), "aside order")


@pytest.mark.hazard("H24d", "O1")
def test_who_may_pass_what_is_aside():
    exercise_earlier(Earlier(Ahead(DeviceInfo(64, 16), STAMP_BITS)))


@pytest.mark.parametrize("change", [
    ("m.Elif(inside == 0)", "m.Elif(inside != 0)"), ("m.Elif(inside == 0)", "m.Elif(0)"),
    ("self.enters & (entry == len(known))", "0"), ("(count != goes)", "0")],
    ids=["the fifth is forgotten at once", "nothing passes ever again", "the fifth is not seen", "one a source"])
def test_planted_bug_of_the_order_is_found(change):
    with pytest.raises(AssertionError):
        exercise_order(planted(AsideOrder, *change)(STAMP_BITS, DEPTH), "aside order/bug")


@pytest.mark.parametrize("change", [
    ("(ordered | same.id.all())", "same.id.all()"), ("(ordered | same.id.all())", "ordered"), ("~used |", ""), ("~same.others |", "")],
    ids=["as if all had IDO", "IDO passes its own", "nobody is aside", "class and group"])
def test_planted_bug_of_the_look_is_found(change):
    with pytest.raises(AssertionError):
        exercise_earlier(planted(Earlier, *change)(Ahead(DeviceInfo(64, 16), STAMP_BITS)))
