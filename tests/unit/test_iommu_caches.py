"""What was found before is found as it was filled, whatever comes and goes in the same cycle: against models, cycle by cycle."""

import pytest
from amaranth.sim import Simulator

from pagehop.iommu.iotlb import Iotlb
from pagehop.iommu.keyed_cache import KeyedCache
from pagehop_sim.planted import edited
from pagehop_tb.simulate import seeded

CYCLES = 3000
SIZES = (1, 16, 512)


def simulate(dut, drive):
    simulator = Simulator(dut)
    simulator.add_clock(1e-6)
    simulator.add_testbench(drive)
    simulator.run()


def assign(ctx, dut, **values):
    for name, value in values.items():
        ctx.set(getattr(dut, name), value)


def keyed(cache, rng):
    """Fill, forget and look up: what is known of a key is what was kept when it was asked."""
    dut, kept, places, found = cache("Cache", 4, 8, 4, 64, two=True), {}, [None] * 4, 0

    async def drive(ctx):
        nonlocal found
        turn, expected = 0, None
        for _ in range(CYCLES):
            told = ctx.get(dut.value) if ctx.get(dut.known) else None
            assert told == expected, f"{told} is known instead of {expected}"
            found += told is not None
            key, victim, value = rng.randrange(8), rng.randrange(16), rng.getrandbits(8)
            new = rng.choice([one for one in range(16) if one not in kept])
            fills, forgets, named = rng.random() < 0.3, rng.random() < 0.1, rng.random() < 0.7
            other = rng.random() < 0.3
            assign(ctx, dut, other=other, **{"other_key" if other else "key": key, "key" if other else "other_key": rng.randrange(8)})
            assign(ctx, dut, fill=fills, filled_key=new, filled=value, invalidate=forgets, named=named, invalid_key=victim)
            expected = kept.get(key)
            if forgets:
                for one in [one for one in kept if one == victim or not named]:
                    del kept[one]
                    places[places.index(one)] = None
            elif fills:
                kept.pop(places[turn], None)
                expected = None if places[turn] == key else expected
                places[turn], kept[new], turn = new, value, (turn + 1) % 4
            await ctx.tick()

    simulate(dut, drive)
    assert found > CYCLES // 10


def test_keyed_cache():
    keyed(KeyedCache, seeded("keyed cache"))


@pytest.mark.parametrize("cache", [
    edited(KeyedCache, ("self.fill & ~self.invalidate", "self.fill")),
    edited(KeyedCache, ("valid & ~Mux(fills, 1 << turn, 0)", "valid")),
    edited(KeyedCache, ("Mux(self.named, named, ~0)", "named")),
    edited(KeyedCache, ("(one & ~self.other)", "one")),
], ids=["a fill that is forgotten is kept", "another value in the same place", "nothing forgets all", "the key that is not looked up is known"])
def test_planted_bugs_of_keyed_caches(cache):
    with pytest.raises(AssertionError, match="is known instead of"):
        keyed(cache, seeded("keyed cache"))


def iotlb(cache, rng):
    """The same, of pages of several sizes in two spaces; what a look-up finds must allow what it is for."""
    ways, sets = 2, 4
    dut, kept, hits = cache(ways * sets, ways), [[None] * ways for _ in range(sets)], 0

    def covers(entry, page):
        return page // SIZES[entry["size"]] == entry["page"] // SIZES[entry["size"]]

    async def drive(ctx):
        nonlocal hits
        turn, looked, page, matches = 0, [None] * ways, 0, 0
        for _ in range(CYCLES):
            # The second half of the look-up that began in the cycle before.
            space, writes, reads = int(rng.random() < 0.2), rng.randrange(2), rng.randrange(2)
            assign(ctx, dut, space={"first": 1, "second": 0, "gscid": 0, "pscid": space}, writes=writes, reads=reads)
            same = [entry is not None and entry["space"] == space and covers(entry, page) for entry in looked]
            allowed = [one and (entry["writable"] or not writes) and (entry["readable"] or not reads)
                       for one, entry in zip(same, looked, strict=True)]
            matches = ctx.get(dut.matches)
            assert [matches >> way & 1 for way in range(ways)] == same, f"ways {matches:#b} match instead of {same}"
            assert ctx.get(dut.hits) == any(allowed), f"hits: {ctx.get(dut.hits)}, allowed are {allowed}"
            if any(allowed):
                entry, size = looked[allowed.index(True)], SIZES[looked[allowed.index(True)]["size"]]
                wanted, told = entry["ppn"] // size * size + page % size, ctx.get(dut.found.ppn)
                assert told == wanted, f"page {told:#x} is found instead of {wanted:#x}"
                hits += 1
            # The first half of another; a fill, perhaps of what was missed; something is forgotten.
            filled = {"space": space, "page": rng.choice([page, rng.randrange(24)]), "size": rng.choice([0, 0, 0, 1, 2]), "ppn": rng.getrandbits(30),
                      "readable": rng.randrange(2), "writable": rng.randrange(2)}
            fills, forgets, paged = rng.random() < 0.3, rng.random() < 0.05, rng.random() < 0.8
            victim, page, replaces = rng.randrange(24), rng.randrange(24), matches if filled["page"] == page else 0
            assign(ctx, dut, page=page, fill=fills, replaces=replaces, invalidate=forgets, invalidation={"page": victim, "paged": paged}, filled={
                "space": {"first": 1, "second": 0, "gscid": 0, "pscid": filled["space"]}, "page": filled["page"],
                "translation": {"ppn": filled["ppn"], "size": filled["size"], "readable": filled["readable"], "writable": filled["writable"]}})
            before = [list(one) for one in kept]
            if forgets:
                for number, one in enumerate(kept):
                    one[:] = [None if not paged or number == victim % sets or entry and entry["size"] else entry for entry in one]
                before = kept
            looked = list(before[page % sets])
            if fills and not forgets:
                way = (replaces & -replaces).bit_length() - 1 if replaces else turn
                kept[filled["page"] % sets][way], turn = filled, (turn + 1) % ways
            await ctx.tick()

    simulate(dut, drive)
    assert hits > CYCLES // 10


def test_iotlb():
    iotlb(Iotlb, seeded("iotlb"))


@pytest.mark.parametrize("cache", [
    edited(Iotlb, ("self.fill & ~self.invalidate", "self.fill")),
    edited(Iotlb, ("left.word_select(looked", "valid.word_select(looked")),
    edited(Iotlb, ("self.found.eq(select_one(chosen", "self.found.eq(select_one(same")),
    edited(Iotlb, ("Mux(is_large, before | ways, before & ~ways)", "before & ~ways")),
], ids=["a fill that is forgotten is kept", "what is forgotten now is found", "what does not allow it is found", "large pages stay"])
def test_planted_bugs_of_the_iotlb(cache):
    with pytest.raises(AssertionError, match=r"instead of|hits: "):
        iotlb(cache, seeded("iotlb"))
