# amaranth: UnusedElaboratable=no
"""The outstanding table against a dictionary."""

import pytest
from amaranth.hdl import Module
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from pagehop.tlp.outstanding import OutstandingTable, row_of
from pagehop_tb.simulate import run, seeded

ROWS = 16


class FlipsTwice(OutstandingTable):
    """Planted bug: a free and a give-up of one row in one cycle both act."""
    def _allocate(self, m, bits, entries, frees):
        return super()._allocate(m, bits, entries, [(flip & 0, row, entry) for flip, row, entry in frees])


class ForgetsAllocation(OutstandingTable):
    """Planted bug: an allocation shows in the memory only."""
    def _allocate(self, m, bits, entries, frees):
        result = super()._allocate(m, bits, entries, frees)
        m.d.comb += self.occupied.eq(self.count[0][-1])
        return result


class CountsGivenUp(OutstandingTable):
    """Planted bug: what was given up is still unanswered."""
    def _count(self, m, frees, gives_up):
        super()._count(m, frees, gives_up & 0)


class Row(wiring.Component):
    """``row_of`` behind ports."""
    requester_id: In(16)
    tag: In(10)
    row: Out(10)

    def elaborate(self, platform):
        m = Module()
        m.d.comb += self.row.eq(row_of(self.requester_id, self.tag))
        return m


class Model:
    """Rows by number. ``taken`` is the truth; ``at`` keeps it for some cycles, to say how late a port may be."""
    def __init__(self):
        self.taken = {}
        self.epoch = 0
        self.serial = 0

    def older(self, atomic_only=False):
        """Entries of epochs before the current one."""
        return [entry for entry in self.taken.values() if entry["age"] < self.epoch and (entry["atomic"] or not atomic_only)]


def settle_check(ctx, dut, model, quiet):
    """Never early at any time, exact once nothing has happened for a while."""
    for name, atomic_only in (("settled", False), ("atomics_settled", True)):
        value, older = ctx.get(getattr(dut, name)), model.older(atomic_only)
        assert not (value and older), name
        if quiet >= 6:
            assert value == (not older), name
    if quiet >= 6:
        for host in range(2):
            assert ctx.get(dut.count[host]) == sum(entry["host"] == host for entry in model.taken.values())


def exercise(dut, name, cycles=3000):
    rng = seeded(name)
    seen = dict.fromkeys(("occupied", "free", "both frees", "given up", "race", "advance", "not settled", "valid", "stale"), 0)

    async def bench(ctx):
        model, quiet, looked = Model(), 0, None
        held = [None, None]
        last_allocated = {}
        for cycle in range(cycles):
            pause = cycle % 100 >= 90
            # A look-up, then, when the row shows free, an allocation: as an ingress does. At times both in one cycle for different heads.
            allocate = looked is not None and not ctx.get(dut.occupied) and not pause and rng.random() < 0.6
            give_up = not allocate and looked is not None and bool(ctx.get(dut.occupied)) and not pause and rng.random() < 0.15
            row = looked
            if looked is not None and not allocate and row not in model.taken and last_allocated.get(row, 0) < cycle - 3 and quiet > 3:
                assert not ctx.get(dut.occupied)
            if looked is not None and row in model.taken:
                assert ctx.get(dut.occupied)
                seen["occupied"] += 1
            entry = {"requester_id": rng.getrandbits(16), "tag": rng.getrandbits(10), "host": rng.randrange(2), "atomic": rng.randrange(2),
                     "lines": rng.randrange(66), "flush_target": rng.randrange(64)}
            ctx.set(dut.allocate, allocate)
            ctx.set(dut.allocate_row, row or 0)
            ctx.set(dut.allocate_entry, {**entry, "epoch": rng.randrange(4)})
            ctx.set(dut.give_up, give_up)
            freed_rows = []
            for host in range(2):
                free_row = None
                if held[host] is not None:
                    place, looked_at, found = held[host]
                    valid = bool(ctx.get(dut.completion_valid[host]))
                    if place in model.taken and model.taken[place] is found and looked_at > found["born"] + 1:
                        assert valid
                        shown = ctx.get(dut.completion_entry[host])
                        assert all(shown[key] == found[key] for key in entry) and shown.epoch == found["age"] % 4
                        seen["valid"] += 1
                        if found["host"] == host and not pause and rng.random() < 0.7:
                            free_row = place
                    elif found is not None and place not in model.taken and rng.random() < 0.3:
                        free_row = place
                        seen["stale"] += 1
                ctx.set(dut.free[host], free_row is not None)
                ctx.set(dut.free_row[host], free_row or 0)
                if free_row is not None:
                    ctx.set(dut.free_entry[host], ctx.get(dut.completion_entry[host]))
                    if free_row in model.taken and model.taken[free_row] is held[host][2]:
                        freed_rows.append(free_row)
            advance = not pause and rng.random() < 0.05 and bool(ctx.get(dut.advance_ready))
            ctx.set(dut.advance, advance)
            # Everything of this cycle, in the order that the contract gives: frees before a give-up.
            seen["race"] += give_up and row in freed_rows
            seen["both frees"] += len(freed_rows) == 2
            for freed in freed_rows:
                del model.taken[freed]
                seen["free"] += 1
            given_up = model.taken.pop(row, None) if give_up else None
            if allocate:
                assert row not in model.taken
                model.taken[row] = {**entry, "age": model.epoch, "born": cycle}
                last_allocated[row] = cycle
            model.epoch += advance
            seen["advance"] += advance
            quiet = 0 if allocate or give_up or freed_rows or advance else quiet + 1
            next_lookup = rng.random() < (0.7 if allocate else 0.2) and not pause
            ctx.set(dut.lookup_enable, next_lookup)
            if next_lookup:
                looked = rng.choice([rng.randrange(ROWS), row or 0])
                ctx.set(dut.lookup_row, looked)
            elif allocate:
                looked = None
            for host in range(2):
                candidates = list(model.taken)
                enable = bool(candidates) and rng.random() < 0.4
                ctx.set(dut.completion_enable[host], enable)
                if enable:
                    place = rng.choice([row, *candidates]) if row is not None else rng.choice(candidates)
                    held[host] = (place, cycle, model.taken.get(place))
                    ctx.set(dut.completion_row[host], place)
            await ctx.tick()
            assert ctx.get(dut.given_up) == (given_up is not None)
            if given_up is not None:
                shown = ctx.get(dut.given_up_entry)
                assert all(shown[key] == given_up[key] for key in entry)
                seen["given up"] += 1
            settle_check(ctx, dut, model, quiet)
            seen["not settled"] += bool(model.older())

    run(dut, bench)
    assert min(seen.values()) > 3, seen


@pytest.mark.hazard("H12", "H24b", "H58", "I13")
def test_table_agrees_with_model():
    exercise(OutstandingTable(ROWS), "outstanding")


@pytest.mark.parametrize("bug", [FlipsTwice, ForgetsAllocation, CountsGivenUp])
def test_planted_bug_is_found(bug):
    with pytest.raises(AssertionError):
        exercise(bug(ROWS), "outstanding/bug")


def test_rows_spread():
    """Tags of a function never share a row, and low tags of neighbouring functions do not either."""
    dut = Row()

    async def bench(ctx):
        def row(requester_id, tag):
            ctx.set(dut.requester_id, requester_id)
            ctx.set(dut.tag, tag)
            return ctx.get(dut.row)

        assert len({row(0x0300, tag) for tag in range(1024)}) == 1024
        assert len({row(0x0300 + function, tag) for function in range(8) for tag in range(64)}) == 8 * 64
        assert len({row(bus << 8, tag) for bus in range(16) for tag in range(4)}) >= 32

    run(dut, bench)


@pytest.mark.parametrize("rows", [1, 24, 2048])
def test_rows_are_a_power_of_two(rows):
    with pytest.raises(ValueError, match=rf"^Rows of the outstanding table must be a power of two from 2 to 1024, not {rows}$"):
        OutstandingTable(rows)
