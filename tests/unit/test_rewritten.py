"""Which units of a run were written to since they were last taken, against a set."""

import pytest

from pagehop.interposer.rewritten import Rewritten
from pagehop_sim.planted import planted
from pagehop_tb.simulate import run, seeded

UNIT_BITS = 3


def exercise(dut, name):
    rng, due, noted, collisions = seeded(name), set(), 0, 0

    async def bench(ctx):
        nonlocal noted, collisions
        for unit in range(1 << UNIT_BITS):      # what stands there at first says nothing
            ctx.set(dut.unit, unit)
            ctx.set(dut.take, 1)
            await ctx.tick()
        for _ in range(3000):
            changed, changed_unit, unit, take = rng.random() < 0.3, rng.randrange(1 << UNIT_BITS), rng.randrange(1 << UNIT_BITS), rng.random() < 0.3
            for port, value in ((dut.changed, changed), (dut.changed_unit, changed_unit), (dut.unit, unit), (dut.take, take)):
                ctx.set(port, value)
            assert ctx.get(dut.due) == (unit in due), f"unit {unit} is {'not ' * (unit in due)}due"
            if take:
                due.discard(unit)
            if changed:
                due.add(changed_unit)
            noted, collisions = noted + changed, collisions + (take and changed and unit == changed_unit)
            await ctx.tick()

    run(dut, bench)
    assert noted > 500 and collisions > 10


def test_units_are_due_from_a_note_until_they_are_taken():
    exercise(Rewritten(UNIT_BITS), "rewritten")


@pytest.mark.parametrize("change", [
    ("take.en.eq(self.take & ~again)", "take.en.eq(self.take)"), ("note.data.eq(~taken_there.data)", "note.data.eq(1)"),
    ("take.data.eq(noted_here.data)", "take.data.eq(0)"), ("note.en.eq(self.changed)", "note.en.eq(self.changed & ~self.take)")],
    ids=["a note beside a take is lost", "notes do not differ", "takes do not equal", "one at a time"])
def test_planted_bug_is_found(change):
    with pytest.raises(AssertionError):
        exercise(planted(Rewritten, *change)(UNIT_BITS), "rewritten/bug")
