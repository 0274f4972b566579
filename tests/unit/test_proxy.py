# amaranth: UnusedElaboratable=no
"""The proxy table against a dictionary."""

import pytest

from pagehop.tlp.proxy import ProxyTable
from pagehop_sim.planted import edited
from pagehop_tb.simulate import run, seeded


class HandsOutTaken(ProxyTable):
    """Planted bug: the next number is offered without a look at whether it is free."""
    def _next_index(self, m, taken):
        super()._next_index(m, taken & 0)


class NeverStirs(ProxyTable):
    """Planted bug: a look-up does not make an entry young again."""
    def _touches(self, m, visited):
        touches, stirred = super()._touches(m, visited)
        return touches & 0, stirred & 0


#: Planted bug: an entry is only spared when both ports have looked at it.
StirsForBoth = edited(ProxyTable, ("before[0] | before[1]", "before[0] & before[1]"))


#: Planted bug: the entry is not looked at any more when the look-up is over.
ForgetsWhereItLooked = edited(ProxyTable, ("held.eq(index),", "held.eq(0),"))


class StandsAgain(ProxyTable):
    """Planted bug: a look-up of long ago speaks for the next request of the same number."""
    def _lookup(self, m, read, taken, port):
        super()._lookup(m, read, taken, port)
        m.d.sync += self.valid[port].eq(taken.bit_select(self.lookup_index[port], 1))


def exercise(dut, name, limit, cycles=3000):
    rng = seeded(name)
    entries = dut.entries
    seen = dict.fromkeys(("allocated", "freed", "full", "timed out", "fell"), 0)

    async def bench(ctx):
        taken, held = {}, [None, None]
        ctx.set(dut.limit, limit)
        for cycle in range(cycles):
            quiet = cycle % 1000 > 800
            index, free_index = ctx.get(dut.index), [None, None]
            allocate = bool(ctx.get(dut.index_valid)) and not quiet and rng.random() < 0.6
            if ctx.get(dut.index_valid):
                assert index not in taken
            seen["full"] += len(taken) == entries
            entry = {"requester_id": rng.getrandbits(16), "tag": rng.getrandbits(10), "lines": rng.randrange(66), "to_device": rng.randrange(2)}
            ctx.set(dut.allocate, allocate)
            ctx.set(dut.allocate_entry, entry)
            for port in range(2):
                if held[port] is not None:
                    place, found, since = held[port]
                    alive = taken.get(place) is found
                    if alive:
                        assert ctx.get(dut.valid[port])
                        shown = ctx.get(dut.entry[port])
                        assert all(shown[key] == found[key] for key in entry)
                        if place not in free_index and rng.random() < (0.02 if cycle % 1000 < 250 else 0.3) and not quiet:
                            free_index[port] = place
                    elif found["end"] < cycle - 1 and since < found["end"]:
                        assert not ctx.get(dut.valid[port])
                        seen["fell"] += 1
                ctx.set(dut.free[port], free_index[port] is not None)
                ctx.set(dut.free_index[port], free_index[port] or 0)
            choices = list(taken)
            for place in free_index:
                if place is not None:
                    taken.pop(place)["end"] = cycle
                    seen["freed"] += 1
            for port in range(2):
                enable = bool(choices) and free_index[port] is None and rng.random() < 0.3 and not quiet
                ctx.set(dut.lookup_enable[port], enable)
                if enable:
                    # Some entries are never looked up: they time out.
                    place = rng.choice([choice for choice in choices if choice % 8 != 3] or [choices[0]])
                    ctx.set(dut.lookup_index[port], place)
                    if place in taken:
                        held[port] = (place, taken[place], cycle)
                        taken[place]["stirred"] = cycle
                    else:
                        held[port] = None
            before = dict(taken)
            if allocate:
                taken[index] = {**entry, "stirred": cycle, "end": None}
                seen["allocated"] += 1
            await ctx.tick()
            if ctx.get(dut.timed_out):
                shown = ctx.get(dut.timed_out_entry)
                place = next(place for place, found in before.items() if all(shown[key] == found[key] for key in entry))
                assert cycle - taken[place]["stirred"] >= limit
                taken.pop(place)["end"] = cycle
                seen["timed out"] += 1
            assert all(cycle - found["stirred"] <= 2 * limit + 8 * entries for found in taken.values())

    run(dut, bench)
    assert min(seen.values()) > 5, seen


@pytest.mark.hazard("H24b", "D16")
@pytest.mark.parametrize(("entries", "limit"), [(8, 90), (64, 150)])
def test_table_agrees_with_model(entries, limit):
    exercise(ProxyTable(entries), f"proxy/{entries}", limit)


@pytest.mark.parametrize("bug", [HandsOutTaken, NeverStirs, StirsForBoth, ForgetsWhereItLooked, StandsAgain])
def test_planted_bug_is_found(bug):
    with pytest.raises(AssertionError):
        exercise(bug(8), "proxy/bug", 90)


def test_one_allocation_a_cycle():
    dut = ProxyTable(16)

    async def bench(ctx):
        ctx.set(dut.limit, 1000)
        await ctx.tick()
        ctx.set(dut.allocate, 1)
        for index in range(16):
            assert ctx.get(dut.index_valid) and ctx.get(dut.index) == index
            await ctx.tick()
        for _ in range(20):
            assert not ctx.get(dut.index_valid)
            await ctx.tick()

    run(dut, bench)


@pytest.mark.parametrize("entries", [1, 48, 128])
def test_entries_are_a_power_of_two(entries):
    with pytest.raises(ValueError, match=rf"^Entries of the proxy table must be a power of two from 2 to 64, not {entries}$"):
        ProxyTable(entries)
