# amaranth: UnusedElaboratable=no
"""The line that the IOMMU can own: probes in every cycle, lines that cannot be had, holds that end."""

import pytest
from home_driver import at_port

from pagehop.iommu.line_owner import LineEnd, LineOwner
from pagehop_sim.planted import planted
from pagehop_tb.models.home import LINE, Cap, Home
from pagehop_tb.simulate import run, seeded

RELEASED, LOST, FAILED = LineEnd
#: The line that is owned, and one that is not.
OWN, OTHER = 0x123, 0x124
#: Cycles from a probe that was taken to the last beat of its answer, where nothing is held and the home takes what is sent; and with slow homes,
#: whose acknowledgement of a release may have to come first.
AT_ONCE, SOON = 13 + 8, 64


async def tick(ctx, dut):
    """One cycle; what the user saw in it."""
    user = dut.user
    _, _, taken, owned, entry, touched, ended, end = await ctx.tick().sample(
        user.acquire.ready, user.owned, user.entry, user.touched, user.ended, user.end)
    return {"taken": taken, "owned": owned, "entry": entry, "touched": touched, "end": end if ended else None}


async def acquire(ctx, dut, line=OWN):
    """Own a line. Returns False when it cannot be had; else the user has seen the first cycle of it."""
    ctx.set(dut.user.acquire.payload, line)
    ctx.set(dut.user.acquire.valid, 1)
    for _ in range(5000):
        saw = await tick(ctx, dut)
        if saw["taken"]:
            ctx.set(dut.user.acquire.valid, 0)
        if saw["owned"]:
            return True
        if saw["end"] is not None:
            assert saw["end"] == FAILED, f"a line that was never owned ended with {saw['end']}"
            return False
    raise AssertionError("a line was never granted")


async def own(ctx, dut, cycles, edits=(), hold=1):
    """Having the line, edit a word in each cycle and give it back with the last, or after ``cycles``. Returns how it ended, and the edits that
    counted."""
    edits, counted = list(edits), {}
    cycles = max(cycles, len(edits) - 1)
    ctx.set(dut.user.hold, hold)
    for cycle in range(cycles + 1000):
        ctx.set(dut.user.release, cycle >= cycles)
        ctx.set(dut.user.edit, bool(edits))
        edit = edits.pop(0) if edits else None
        if edit:
            ctx.set(dut.user.index, edit[0])
            ctx.set(dut.user.value, edit[1])
        saw = await tick(ctx, dut)
        if edit and saw["owned"]:
            counted[edit[0]] = edit[1]
        if saw["end"] is not None:
            ctx.set(dut.user.release, 0)
            ctx.set(dut.user.edit, 0)
            return saw["end"], counted
    raise AssertionError("a line was never given back")


def with_home(dut, home, bench, limit=1000):
    """Run a user's bench with a home, to the end of both."""
    ended = []

    async def user(ctx):
        ctx.set(dut.limit, limit)
        await ctx.tick()
        await bench(ctx)
        ended.append(True)

    run(dut, at_port(home, dut.port, lambda: ended and home.idle), user)
    assert home.holds(OWN) == "N"


def line_writes(home, line=OWN):
    """Words that the line's owner brought, by their place in the line."""
    return {write.address // 8 % 8: write.new for write in home.writes if write.who == "line" and write.address // LINE == line}


def test_cycles_are_those_of_the_contract():
    home, dut = Home(seeded("line/cycles"), latency=lambda: 7), LineOwner()
    first, acknowledged = 7 + 1, 7

    async def bench(ctx):
        for edits, message in (([(3, 1)], 8), ([], 1)):
            start = home.cycle
            assert await acquire(ctx, dut)
            assert home.cycle - start == 9 + first + 1      # the cycle in which it is owned is over
            start = home.cycle
            await own(ctx, dut, 0, edits)
            assert home.cycle - start == message + acknowledged + 1

    with_home(dut, home, bench)
    assert line_writes(home) == {3: 1} and home.counts["data"] == home.counts["clean"] == 1


def meet(offset, *, write, hold, limit=1000, cycles=6, owner=LineOwner, latency=0, spurious=None):
    """A CPU reads or writes the line, or the home probes it for no reason, in the cycle ``offset`` after the acquire. Returns how it ended, and the
    value that the CPU saw."""
    home, dut = Home(seeded("line/meet"), latency=lambda: latency, patience=AT_ONCE + (limit if hold else 0)), owner()
    home.memory.write(OWN * LINE + 16, (5).to_bytes(8, "little"))
    result = {}

    async def bench(ctx):
        assert await acquire(ctx, dut)
        result["end"], result["edits"] = await own(ctx, dut, cycles, [(2, 6), (0, 1)], hold)

    async def cpu(ctx):
        for _ in range(offset):
            await ctx.tick()
        if spurious is None:
            result["access"] = home.access(0, OWN * LINE + 16, 7 if write else None)
        elif home.idle:
            home.probe(OWN, spurious)

    ended = []

    async def user(ctx):
        ctx.set(dut.limit, limit)
        await bench(ctx)
        for _ in range(30):
            await ctx.tick()
        ended.append(True)

    run(dut, at_port(home, dut.port, lambda: ended and home.idle), user, cpu)
    assert home.holds(OWN) == "N"
    assert line_writes(home) == result["edits"], "what the line brought back is not what was edited"
    if spurious is None:
        history = [5] + [write.new for write in home.writes if write.address == OWN * LINE + 16]
        assert home.word(OWN * LINE + 16) == history[-1] and set(history) == {5, *([7] if write else []), *([6] if 2 in result["edits"] else [])}
        assert result["access"].result in history
    return result, home


@pytest.mark.hazard("H34")
@pytest.mark.parametrize("hold", [0, 1])
def test_a_probe_in_every_cycle(hold):
    ends, crossed, seen = [], 0, set()
    for offset in range(56):
        result, home = meet(offset, write=offset % 2, hold=hold, latency=offset % 3)
        ends.append(result["end"])
        crossed += home.counts["crossed"]
        seen.add(result["access"].result)
        assert result["end"] == RELEASED or not hold
        if hold:
            assert result["edits"] == {2: 6, 0: 1}
    assert crossed > 2 and {5, 6} <= seen, (crossed, seen)
    assert hold or 4 < ends.count(LOST) < 40, ends


@pytest.mark.parametrize("hold", [0, 1])
def test_a_probe_for_no_reason(hold):
    """Whatever it lets us keep, in every cycle in which the line may be there."""
    for offset in range(15, 45):
        meet(offset, write=0, hold=hold, spurious=Cap(offset % 3))


@pytest.mark.parametrize("limit", [0, 1, 2, 17, 300])
def test_a_hold_ends_with_its_limit(limit):
    """As the line is then: edits before count, later ones do not."""
    home, dut = Home(seeded("line/limit"), latency=lambda: 0, patience=limit + 12), LineOwner()
    home.memory.write(OWN * LINE, (5).to_bytes(8, "little"))
    result = {}

    async def bench(ctx):
        assert await acquire(ctx, dut)
        result["access"] = home.access(0, OWN * LINE)
        start = home.cycle
        result["end"], edits = await own(ctx, dut, 5000, [(0, value) for value in range(100, 4000)])
        result["last"], result["cycles"] = edits[0], home.cycle - start

    with_home(dut, home, bench, limit)
    assert result["end"] == LOST and result["access"].result == result["last"] == home.word(OWN * LINE)
    assert limit + 12 <= result["cycles"] <= limit + 18


def test_other_lines_are_answered_while_one_is_held():
    home, dut = Home(seeded("line/others"), latency=lambda: 0, broadcast=True, patience=400), LineOwner()
    waits = []

    async def bench(ctx):
        assert await acquire(ctx, dut)
        mine = home.access(0, OWN * LINE)
        ctx.set(dut.user.hold, 1)
        for number in range(20):
            other, start = home.access(1, (OTHER + number) * LINE, number), home.cycle
            while other.done is None:
                saw = await tick(ctx, dut)
            waits.append(other.done - start)
            assert saw["owned"] and mine.done is None
        assert saw["touched"]
        assert await own(ctx, dut, 0, [(0, 9)]) == (RELEASED, {0: 9})
        while mine.done is None:
            await ctx.tick()
        assert mine.result == 9

    with_home(dut, home, bench)
    assert max(waits) <= 8, waits


def test_no_answer_waits_for_channel_a():
    """The acquire is never taken: probes for its line and for others are answered. A line that is owned goes while the next acquire waits."""
    home, dut = Home(seeded("line/a"), latency=lambda: 0, broadcast=True), LineOwner()

    async def bench(ctx):
        for attempt in range(2):
            home.stalled = "a"
            ctx.set(dut.user.acquire.payload, OWN)
            ctx.set(dut.user.acquire.valid, 1)
            for number in range(10):
                access = home.access(0, (OWN if number % 2 else OTHER) * LINE, number + 1)
                for _ in range(12):
                    await ctx.tick()
                assert access.done is not None, "a probe waits for channel A"
            home.stalled = ""
            if not attempt:
                assert await acquire(ctx, dut)
                home.stalled = "a"
                ctx.set(dut.user.acquire.valid, 1)
                ctx.set(dut.user.hold, 0)
                access = home.access(0, OWN * LINE)
                for _ in range(30):
                    await ctx.tick()
                assert access.done is not None and access.result == 10, "a probe waits for channel A"
                home.stalled = ""
        assert await acquire(ctx, dut)
        await own(ctx, dut, 0)

    with_home(dut, home, bench)


@pytest.mark.parametrize("fault", ["denied", "corrupt"])
def test_a_line_that_cannot_be_had_fails_and_is_not_changed(fault):
    for seed in range(16):
        rng = seeded(f"line/{fault}/{seed}")
        faults = [fault, fault, ""]
        home, dut = Home(rng, fault=lambda _, faults=faults: faults.pop(0), broadcast=True), LineOwner()
        home.memory.write(OWN * LINE, (5).to_bytes(8, "little"))

        async def bench(ctx, home=home, dut=dut):
            ctx.set(dut.user.edit, 1)
            ctx.set(dut.user.value, 6)
            assert not await acquire(ctx, dut)
            access = home.access(0, OWN * LINE)
            assert not await acquire(ctx, dut)
            while access.done is None:
                await ctx.tick()
            assert access.result == 5
            ctx.set(dut.user.edit, 0)
            assert await acquire(ctx, dut)
            await own(ctx, dut, 2, [(1, 7)])

        with_home(dut, home, bench)
        assert line_writes(home) == {1: 7} and home.word(OWN * LINE) == 5


def hammered(dut, name, *, rounds=60, rate=0.1, limit=60, **options):
    """A user that owns one of three lines, reads all of it, edits some, holds or not, while CPUs want the same words. What it reads is what the home
    has; what it brings is what it edited; what CPUs do meanwhile is all there."""
    rng = seeded(name)
    home = Home(rng, fault=lambda _: rng.choice(["denied", "corrupt"]) if rng.random() < 0.2 else "", patience=SOON + limit, **options)
    ends = dict.fromkeys(LineEnd, 0)

    async def bench(ctx):
        home.hammer([line * LINE + 8 * place for line in (OWN, OTHER, OWN << 20) for place in range(8)], rate)
        for number in range(rounds):
            line = rng.choice((OWN, OTHER, OWN << 20))
            ctx.set(dut.user.hold, 1)       # from before the line is there, or it can be lost before it is seen
            before = len(home.writes)
            if not await acquire(ctx, dut, line):
                ends[FAILED] += 1
                assert all(write.who != "line" for write in home.writes[before:])
                continue
            for place in range(rng.choice((0, 8))):
                ctx.set(dut.user.index, place)
                there = home.word(line * LINE + 8 * place)
                saw = await tick(ctx, dut)
                assert not saw["owned"] or saw["entry"] == there, f"word {place} is read as {saw['entry']:#x}, not {there:#x}"
            edits = [(rng.randrange(8), 0xED17 << 48 | number << 8 | edit) for edit in range(rng.choice((0, 1, 5)))]
            end, counted = await own(ctx, dut, rng.choice((0, 3, 20, 200)), edits, rng.random() < 0.5)
            ends[end] += 1
            brought = [write for write in home.writes[before:] if write.who == "line"]
            assert {write.address - line * LINE: write.new for write in brought} == {8 * place: value for place, value in counted.items()}
            assert len(brought) == len(counted)
            assert end == LOST or counted == dict(edits)
            ctx.set(dut.user.hold, 0)
        home.hammer([], 0)

    with_home(dut, home, bench, limit)
    return ends, home


@pytest.mark.parametrize(("latency", "broadcast", "ready", "pause"), [((0, 0), True, 1.0, 0.0), ((0, 6), False, 0.5, 0.3), ((0, 40), True, 0.8, 0.1)])
def test_random_users_beside_cpus(latency, broadcast, ready, pause):
    name = f"line/random/{latency}"
    rng = seeded(name)
    ends, home = hammered(LineOwner(), name, latency=lambda: rng.randint(*latency), broadcast=broadcast, ready=ready, pause=pause)
    assert min(ends.values()) > 2 and ends[RELEASED] > 20 and home.counts["crossed"] > 2 and home.counts["kept"] > 5, (ends, home.counts)


BUGS = {
    "a probe for the line is answered as for others": ("ours.eq(self._begun & (probe.address == self._line))", "ours.eq(0)"),
    "any probe is for the line": ("ours.eq(self._begun & (probe.address == self._line))", "ours.eq(self._begun)"),
    "a probe before the grant waits": ("self._begun & (probe.address", "(probe.address"),
    "an answer comes between the beats of another": ("self._other.eq(~self._giving)", "self._other.eq(1)"),
    "a probe that met the release is forgotten": (
        "with m.If(self._waiting):\n            m.next = \"give\"", "with m.If(0):\n            m.next = \"give\""),
    "what was edited stays here": ("self._dirty.eq(1)", "self._dirty.eq(0)"),
    "what was edited leaves twice": ("[self._has.eq(0), self._dirty.eq(0)]", "[self._has.eq(0)]"),
    "a hold has no end": ("~(user.hold & left.any())", "~user.hold"),
    "a hold holds nothing": ("~(user.hold & left.any())", "1"),
    "an answer is sent unasked": ("self._voluntary.eq(~self._waiting)", "self._voluntary.eq(0)"),
    "a corrupt line is used": ("answer.denied | answer.corrupt | alone", "answer.denied | alone"),
    "a grant that was refused is owned": ("self._has.eq(~answer.denied)", "self._has.eq(1)"),
    "the release is not awaited": ("m.next = \"released\"\n", "m.next = \"idle\"\n"),
    "what a probe takes is called released": ("self._released.eq(user.release)", "self._released.eq(1)"),
}


@pytest.mark.parametrize("bug", BUGS)
def test_planted_bug_is_found(bug):
    rng = seeded("line/bug")
    with pytest.raises(AssertionError):
        hammered(planted(LineOwner, *BUGS[bug])(), "line/bug", latency=lambda: rng.randint(0, 6), broadcast=True)


@pytest.mark.parametrize("source", [-1, 2])
def test_source_must_fit(source):
    with pytest.raises(ValueError, match=rf"^Source of the line owner must have 1 bits, not {source}$"):
        LineOwner(source)
