# amaranth: UnusedElaboratable=no
"""Many planted bugs in one design: each is there when its number is chosen, and none otherwise."""

import pytest
from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from amaranth.sim import Simulator

from pagehop_sim.planted import edited, mergeable, merged


class Step(wiring.Component):
    """The part: adds one."""
    i: In(8)
    o: Out(8)

    def elaborate(self, platform):
        m = Module()
        m.d.sync += self.o.eq(self.i + 1)
        return m


class Whole(wiring.Component):
    """The whole: flips a bit of what its part says."""
    i: In(8)
    o: Out(8)

    def elaborate(self, platform):
        m = Module()
        m.submodules.step = step = Step()
        m.d.comb += [step.i.eq(self.i), self.o.eq(step.o ^ 0x80)]
        return m


BUGS = {
    1: edited(Whole, Step=edited(Step, ("self.i + 1", "self.i + 2"))),
    2: edited(Whole, ("step.o ^ 0x80", "step.o ^ Mux(planted_here, 0, 0x80)"), Mux=Mux),
    3: edited(Whole, Step=edited(Step, ("self.i + 1", "self.i - 1"))),
}
#: What each makes of 5; of 0 and of numbers that nobody has, the healthy one.
EXPECTED = {0: 6 ^ 0x80, 1: 7 ^ 0x80, 2: 6, 3: 4 ^ 0x80, 4: 6 ^ 0x80}


def made_of_five(component, which, number):
    m = Module()
    m.submodules.dut = component
    result = []

    async def bench(ctx):
        if which is not None:
            ctx.set(which, number)
        ctx.set(component.i, 5)
        await ctx.tick().repeat(2)
        result.append(ctx.get(component.o))

    simulator = Simulator(m)
    simulator.add_clock(4e-9)
    simulator.add_testbench(bench)
    simulator.run()
    return result[0]


@pytest.mark.parametrize("number", EXPECTED)
def test_a_bug_is_there_when_its_number_is_chosen(number):
    which = Signal(4)
    assert made_of_five(merged(Whole, BUGS, which)(), which, number) == EXPECTED[number]


@pytest.mark.parametrize("number", BUGS)
def test_alone_a_bug_needs_no_number(number):
    assert made_of_five(BUGS[number](), None, 0) == EXPECTED[number]


def test_a_changed_top_cannot_stand_beside_itself():
    assert all(mergeable(bug) for bug in BUGS.values())
    assert not mergeable(edited(Whole, ("^ 0x80", "^ 0x40")))


def test_a_part_that_is_not_used_is_refused():
    with pytest.raises(ValueError, match=r"^Source of Whole must use .Other., or another there changes nothing$"):
        edited(Whole, Other=Step)
