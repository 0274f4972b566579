# amaranth: UnusedElaboratable=no
"""The outstanding table, and who waits for its epochs, against a dictionary."""

import pytest
from amaranth.hdl import Const, Elaboratable, Module, ResetInserter, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from pagehop.interposer.epoch_wait import EpochWait
from pagehop.tlp.outstanding import EPOCHS, OutstandingTable, row_of
from pagehop_sim.planted import planted
from pagehop_tb.simulate import run, seeded

ROWS = 16


class EndsTwice(OutstandingTable):
    """Planted bug: a free and a give-up of one row, or two frees, both count."""
    @staticmethod
    def _stands(phase, bit):
        return Const(1)


class ForgetsAllocation(OutstandingTable):
    """Planted bug: an allocation shows in the memory only."""
    def _allocate(self, m, entries, freed):
        result = super()._allocate(m, entries, freed)
        m.d.comb += self.occupied.eq(self.count[0][-1])
        return result


class CountsGivenUp(OutstandingTable):
    """Planted bug: what was given up is still unanswered."""
    def _count(self, m, ends):
        super()._count(m, [(ended & ~self.given_up, entry) for ended, entry in ends])


class Row(wiring.Component):
    """``row_of`` behind ports."""
    requester_id: In(16)
    tag: In(10)
    row: Out(10)

    def elaborate(self, platform):
        m = Module()
        m.d.comb += self.row.eq(row_of(self.requester_id, self.tag))
        return m


class Awaited(Elaboratable):
    """The table, and two that wait for what was in flight at an advance: for all requests, and for the atomics."""
    def __init__(self, table, wait=EpochWait):
        self.table = table
        self.waits = {False: wait(), True: wait()}

    def elaborate(self, platform):
        m = Module()
        m.submodules.table = self.table
        for atomic_only, wait in self.waits.items():
            m.submodules += wait
            m.d.comb += [wait.epoch.eq(self.table.epoch), wait.unanswered.eq(self.table.atomics if atomic_only else self.table.unanswered)]
        return m


class Model:
    """Rows by number, and what each of those that wait was told to wait for."""
    def __init__(self):
        self.taken = {}
        self.epoch = 0
        self.awaited = {False: [], True: []}

    def unanswered(self, atomic_only):
        """All requests in the table, or the atomics."""
        return [entry for entry in self.taken.values() if entry["atomic"] or not atomic_only]

    def late(self, atomic_only):
        """What is awaited still."""
        return [entry for entry in self.awaited[atomic_only] if any(entry is other for other in self.unanswered(atomic_only))]


def settle_check(ctx, design, model, cycle, quiet):
    """Never early at any time, exact once nothing has happened for a while."""
    dut = design.table
    for atomic_only, wait in design.waits.items():
        bits, done, late = ctx.get(dut.atomics if atomic_only else dut.unanswered), ctx.get(wait.done), model.late(atomic_only)
        known = {entry["age"] % EPOCHS for entry in model.unanswered(atomic_only) if entry["born"] < cycle - 1}
        assert all(bits >> epoch & 1 for epoch in known)
        assert not (done and late), "done too early"
        if quiet >= 8:
            assert bits == sum(1 << epoch for epoch in known)
            assert done == (not late)
    if quiet >= 8:
        for host in range(2):
            assert ctx.get(dut.count[host]) == sum(entry["host"] == host for entry in model.taken.values())


class Exercise:
    """Everything that the ports allow, at random, against the model; one call of a step a cycle, in the order that the contract gives."""
    def __init__(self, design, rng):
        self.design, self.dut, self.rng, self.model = design, design.table, rng, Model()
        self.seen = dict.fromkeys(("occupied", "free", "both frees", "given up", "race", "advance", "waited anew", "late", "valid", "stale"), 0)
        self.quiet, self.cycle, self.pause = 0, 0, False
        self.looked, self.held, self.last_allocated, self.last_entry = None, [None, None], {}, {}
        self.ending = ([], None)
        self.waiting, self.asked, self.busy = None, None, False   # what is to be given up, who asked in this cycle, one is just ending

    async def bench(self, ctx):
        for _ in range(ROWS):
            assert ctx.get(self.dut.occupied), "rows are freed after a reset"
            await ctx.tick()
        for self.cycle in range(3000):
            self.pause = self.cycle % 100 >= 90
            await self.step(ctx)

    async def step(self, ctx):
        model, row = self.model, self.looked
        allocate, give_up, entry = self.choose(ctx)
        freed_rows = [freed for host in range(2) if (freed := self.complete(ctx, host)) is not None]
        advance = not self.pause and self.rng.random() < 0.05 and bool(ctx.get(self.dut.advance_ready))
        ctx.set(self.dut.advance, advance)
        self.seen["race"] += give_up and row in freed_rows
        self.seen["both frees"] += len(freed_rows) == 2
        freed = [model.taken.pop(row) for row in freed_rows]
        self.seen["free"] += len(freed)
        ends, self.ending = self.ending, (freed, self.give_up(ctx, give_up))
        if allocate:
            assert row not in model.taken
            model.taken[row] = {**entry, "age": model.epoch, "born": self.cycle}
            self.last_allocated[row], self.last_entry[row] = self.cycle, model.taken[row]
        model.epoch += advance
        self.seen["advance"] += advance
        for atomic_only, wait in self.design.waits.items():
            start = advance and self.rng.random() < 0.5
            ctx.set(wait.start, start)
            if start:
                self.seen["waited anew"] += bool(model.late(atomic_only))
                model.awaited[atomic_only] = model.unanswered(atomic_only)
        self.quiet = 0 if allocate or give_up or freed_rows or advance else self.quiet + 1
        self.look_up(ctx, allocate)
        await ctx.tick()
        self.check_ends(ctx, *ends)
        settle_check(ctx, self.design, model, self.cycle, self.quiet)
        self.seen["late"] += bool(model.late(False))

    def check_ends(self, ctx, freed, given_up):
        """Every request ends once, with the lines that were reserved for it."""
        assert ctx.get(self.dut.given_up) == (given_up is not None)
        if given_up is not None:
            self.quiet = 0
            self.seen["given up"] += 1
        ended = [*freed, *([] if given_up is None else [given_up])]
        for host in range(2):
            lines = [entry["lines"] for entry in ended if entry["host"] == host]
            assert ctx.get(self.dut.ended[host]) == len(lines)
            assert not lines or ctx.get(self.dut.ended_lines[host]) == lines[0]

    def give_up(self, ctx, asked):
        """Give up what waits for it, in the first cycle in which its host frees nothing; return it if it was unanswered still."""
        ended = None
        waiting, busy, self.busy = self.waiting, self.busy, False
        if waiting is not None:
            row, entry = waiting
            if not ctx.get(self.dut.free[entry["host"]]):
                self.waiting, self.busy = None, True
                if self.model.taken.get(row) is entry:
                    ended = self.model.taken.pop(row)
        elif asked and not busy:
            self.waiting = (self.looked, self.asked)
        return ended

    @staticmethod
    def same(shown, expected):
        assert all(shown[key] == expected[key] for key in ("requester_id", "tag", "host", "atomic", "lines", "flush_target"))

    def choose(self, ctx):
        """A look-up, then, when the row shows free, an allocation: as an ingress does. At times both in one cycle for different heads."""
        dut, rng, row = self.dut, self.rng, self.looked
        occupied = bool(ctx.get(dut.occupied))
        allocate = row is not None and not occupied and not self.pause and rng.random() < 0.6
        self.asked = self.last_entry.get(row)
        give_up = (not allocate and self.asked is not None and occupied and not self.pause and rng.random() < 0.15
                   and self.last_allocated[row] < self.cycle - 2)
        if row is not None and not allocate and row not in self.model.taken and self.last_allocated.get(row, 0) < self.cycle - 3 and self.quiet > 3:
            assert not occupied
        if row is not None and row in self.model.taken:
            assert occupied
            self.seen["occupied"] += 1
        entry = {"requester_id": rng.getrandbits(16), "tag": rng.getrandbits(10), "host": rng.randrange(2), "atomic": rng.randrange(2),
                 "lines": rng.randrange(66), "flush_target": rng.randrange(64)}
        ctx.set(dut.allocate, allocate)
        ctx.set(dut.allocate_row, row or 0)
        ctx.set(dut.allocate_entry, {**entry, "epoch": rng.randrange(EPOCHS)})
        ctx.set(dut.give_up, give_up)
        return allocate, give_up, entry

    def complete(self, ctx, host):
        """Free what the completion of ``host`` stands for, or once more what is free already. Returns the row that this frees."""
        dut, free_row, frees = self.dut, None, None
        if self.held[host] is not None:
            place, looked_at, found = self.held[host]
            valid = bool(ctx.get(dut.completion_valid[host]))
            if place in self.model.taken and self.model.taken[place] is found and looked_at > found["born"] + 1:
                assert valid == (found["host"] == host)
                shown = ctx.get(dut.completion_entry[host])
                self.same(shown, found)
                assert shown.epoch == found["age"] % EPOCHS
                self.seen["valid"] += 1
                if found["host"] == host and not self.pause and self.rng.random() < 0.7:
                    free_row = place
            elif (self.last_entry.get(place) is found is not None and looked_at > found["born"] + 1 and place not in self.model.taken
                  and self.rng.random() < 0.3):
                free_row = place
                self.seen["stale"] += 1
        ctx.set(dut.free[host], free_row is not None)
        ctx.set(dut.free_row[host], free_row or 0)
        if free_row is not None:
            ctx.set(dut.free_entry[host], ctx.get(dut.completion_entry[host]))
            if free_row in self.model.taken and self.model.taken[free_row] is self.held[host][2]:
                frees = free_row
        return frees

    def look_up(self, ctx, allocate):
        """Look up rows for the next request and the next completions."""
        dut, rng, row = self.dut, self.rng, self.looked
        next_lookup = rng.random() < (0.7 if allocate else 0.2) and not self.pause
        ctx.set(dut.lookup_enable, next_lookup)
        if next_lookup:
            self.looked = rng.choice([rng.randrange(ROWS), row or 0])
            ctx.set(dut.lookup_row, self.looked)
        elif allocate:
            self.looked = None
        for host in range(2):
            candidates = list(self.model.taken)
            enable = bool(candidates) and rng.random() < 0.4
            ctx.set(dut.completion_enable[host], enable)
            if enable:
                place = rng.choice([row, *candidates]) if row is not None else rng.choice(candidates)
                self.held[host] = (place, self.cycle, self.model.taken.get(place))
                ctx.set(dut.completion_row[host], place)


def exercise(design, name):
    exercised = Exercise(design, seeded(name))
    run(design, exercised.bench)
    assert min(exercised.seen.values()) > 3, exercised.seen


class KeepsRows(OutstandingTable):
    """Planted bug: a reset leaves the rows as they are."""
    def _write(self, write, row, value, enable):
        return [write.addr.eq(row), write.data.eq(value), write.en.eq(enable & ~self._sweeping)]


def reset_in_flight(table):
    """Requests are in flight when the reset comes: afterwards their rows are free, nothing is counted, and their completions meet nothing."""
    reset = Signal()
    dut = ResetInserter(reset)(table)

    async def bench(ctx):
        await ctx.tick().repeat(ROWS + 1)
        for row in range(0, ROWS, 3):
            ctx.set(table.allocate, 1)
            ctx.set(table.allocate_row, row)
            ctx.set(table.allocate_entry, {"atomic": 1})
            await ctx.tick()
        ctx.set(table.allocate, 0)
        ctx.set(table.advance, 1)
        await ctx.tick()
        ctx.set(table.advance, 0)
        await ctx.tick().repeat(6)
        assert ctx.get(table.count[0]) and ctx.get(table.unanswered) == ctx.get(table.atomics) == 1
        ctx.set(reset, 1)
        await ctx.tick()
        ctx.set(reset, 0)
        await ctx.tick().repeat(ROWS + 6)
        for row in range(ROWS):
            for enable, place in ((table.lookup_enable, table.lookup_row), (table.completion_enable[0], table.completion_row[0])):
                ctx.set(enable, 1)
                ctx.set(place, row)
            await ctx.tick()
            assert not ctx.get(table.occupied) and not ctx.get(table.completion_valid[0]), f"row {row} is still taken"
        assert not ctx.get(table.unanswered) and not ctx.get(table.atomics) and not ctx.get(table.count[0])

    run(dut, bench)


def test_a_reset_frees_all_rows():
    reset_in_flight(OutstandingTable(ROWS))
    with pytest.raises(AssertionError, match="is still taken"):
        reset_in_flight(KeepsRows(ROWS))


@pytest.mark.hazard("H12", "H24b", "H58", "I13")
def test_table_agrees_with_model():
    exercise(Awaited(OutstandingTable(ROWS)), "outstanding")


@pytest.mark.parametrize("bug", [EndsTwice, ForgetsAllocation, CountsGivenUp])
def test_planted_bug_is_found(bug):
    with pytest.raises(AssertionError):
        exercise(Awaited(bug(ROWS)), "outstanding/bug")


@pytest.mark.parametrize("change", [
    ("delay.eq(SHOWN_CYCLES)", "delay.eq(0)"), ("awaited & self.unanswered", "self.unanswered & ~(1 << self.epoch)"),
    ("awaited.eq(~(1 << (self.epoch + 1)[:len(self.epoch)]))", "awaited.eq(1 << self.epoch)")], ids=["at once", "not only those", "of one epoch"])
def test_planted_bug_of_a_wait_is_found(change):
    with pytest.raises(AssertionError):
        exercise(Awaited(OutstandingTable(ROWS), planted(EpochWait, *change)), "outstanding/wait")


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
