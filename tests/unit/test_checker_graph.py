"""The graph check on hand-written histories: for each kind of edge one that is wrong because of it, and one like it that is legal."""

import importlib.util
import sys
from pathlib import Path

import pytest

from pagehop_tb.checker.causality import known_writes
from pagehop_tb.checker.channels import Channels
from pagehop_tb.checker.joint import check_graph
from pagehop_tb.checker.replay import Replay
from pagehop_tb.checker.values import Values
from pagehop_tb.checker.verdict import Verdict

_SPEC = importlib.util.spec_from_file_location("tiny_history", Path(__file__).with_name("tiny_history.py"))
assert _SPEC is not None and _SPEC.loader is not None
tiny = importlib.util.module_from_spec(_SPEC)
sys.modules["tiny_history"] = tiny      # dataclasses look there for their module
_SPEC.loader.exec_module(tiny)

#: Places: what Host A owns, and what Host B owns. Cells: 0 to 2 in one line, 3 in the next.
X, Y = 0, 1
OLD = -1


def write(place, cells=(0,), agent="nvme", **attributes):
    return tiny.Op("write", agent, place, cells, **attributes)


def read(place, *seen, cells=(0,), agent="nvme", **attributes):
    return tiny.Op("read", agent, place, cells, seen=seen, **attributes)


def load(cpu, place, *seen, cells=(0,)):
    return tiny.Op("load", cpu, place, cells, seen=seen)


def store(cpu, place, cells=(0,)):
    return tiny.Op("store", cpu, place, cells)


def other(kind, agent, place=0, **attributes):
    return tiny.Op(kind, agent, place, **attributes)


def judge(ops, schedule=None, line_atomic=True, **config) -> Verdict:
    """The verdict of the graph alone; without a schedule each access ends before the next begins."""
    if schedule is None:
        schedule = [number for number, op in enumerate(ops) for _ in range(tiny.STEPS[op.kind])]
    teller = tiny.Teller(ops, schedule, **config)
    teller.config.line_atomic = line_atomic
    verdict = Verdict()
    replay = Replay(teller.log, teller.config, Verdict())
    replay.run()
    check_graph(replay, Values(replay), Channels(replay), verdict)
    legal = tiny.is_legal(teller) if line_atomic else verdict.ok
    assert verdict.ok == legal, f"the judge that tries every order says {legal}: {verdict.text()}"
    return verdict


#: Edge: the wrong history, its schedule, the name and the hazard; then the legal one and its schedule.
LATE_FIRST = [0, 1, 1, 2, 2, 3, 3, 0]       # the first write becomes visible last
CASES = {
    "po: a write behind a write": (
        [write(X), write(Y), load(1, Y, 1), load(1, X, OLD)], LATE_FIRST, "stale", "H04",
        [write(X), write(Y, ro=True), load(1, Y, 1), load(1, X, OLD)], LATE_FIRST),
    "po: a read behind a write": (
        [write(X), read(X, OLD, agent="nic")], [0, 1, 1, 0], "stale", "H22",
        [write(X), read(X, OLD, agent="nic", ido=True)], [0, 1, 1, 0]),
    "po: an atomic behind a write": (
        [write(X), tiny.Op("swap", "nic", Y, (1, 2)), load(1, Y, 1, 1, cells=(1, 2)), load(1, X, OLD)], [0, 1, 1, 1, 2, 2, 3, 3, 0], "stale", "H61",
        [write(X), tiny.Op("swap", "nic", Y, (1, 2), ro=True), load(1, Y, 1, 1, cells=(1, 2)), load(1, X, OLD)], [0, 1, 1, 1, 2, 2, 3, 3, 0]),
    "po: IDO lets pass what others sent": (
        [write(X), write(Y, ido=True), load(1, Y, 1), load(1, X, OLD)], LATE_FIRST, "stale", "H04",
        [write(X), write(Y, agent="nic", ido=True), load(1, Y, 1), load(1, X, OLD)], LATE_FIRST),
    "po: lower lines of a write first": (
        [write(X, cells=(2, 3)), load(0, X, 0, cells=(3,)), load(0, X, OLD, cells=(2,))], [0, 1, 1, 2, 2, 0], "stale", "H16",
        [write(X, cells=(2, 3), ro=True), load(0, X, 0, cells=(3,)), load(0, X, OLD, cells=(2,))], [0, 1, 1, 2, 2, 0]),
    "po: lines of a device's write, not of a CPU's store": (
        [write(X, cells=(2, 3)), load(0, X, 0, cells=(3,)), load(0, X, OLD, cells=(2,))], [0, 1, 1, 2, 2, 0], "stale", "H16",
        [store(1, X, cells=(2, 3)), load(0, X, 0, cells=(3,)), load(0, X, OLD, cells=(2,))], [0, 1, 1, 2, 2, 0]),
    "po: stores of a CPU": (
        [store(0, Y), store(0, X), read(X, 1), read(Y, OLD)], LATE_FIRST, "stale", "H59",
        [store(0, Y), store(1, X), read(X, 1), read(Y, OLD)], LATE_FIRST),
    "po: a CPU load behind its store through the aperture": (
        [store(0, Y), load(0, Y, OLD, cells=(3,)), write(Y, cells=(3,)), read(Y, OLD)], [0, 1, 1, 2, 2, 3, 3, 0], "stale", "H63",
        [store(0, Y), load(0, X, OLD, cells=(3,)), write(X, cells=(3,)), read(Y, OLD)], [0, 1, 1, 2, 2, 3, 3, 0]),
    "rt: one agent reads twice": (
        [write(X), load(0, X, 0), load(0, X, OLD)], [0, 1, 1, 2, 2, 0], "stale", "H16",
        [write(X), load(0, X, 0), load(1, X, OLD)], [0, 1, 1, 2, 2, 0]),
    "rt: a doorbell": (
        [store(0, Y), other("doorbell", 0), read(Y, OLD)], [0, 1, 1, 2, 2, 0], "stale", "H59",
        [store(0, Y), other("doorbell", 1), read(Y, OLD)], [0, 1, 1, 2, 2, 0]),
    "rt: a message between CPUs": (
        [store(0, Y), other("message", 0), load(1, Y, OLD)], [0, 1, 1, 2, 2, 0], "stale", "H59",
        [store(0, Y), other("message", 1), load(1, Y, OLD)], [0, 1, 1, 2, 2, 0]),
    "rf: a value from the future": (
        [read(Y, 3), write(X), load(0, X, 1), store(0, Y)], None, "reordered", "",
        [read(Y, 3), write(X), load(0, X, 1), store(1, Y)], [0, 1, 1, 2, 2, 3, 3, 0]),
    "co: one place written in another order": (
        [write(X), write(X)], [0, 1, 1, 0], "reordered", "H23",
        [write(X), write(X, ro=True)], [0, 1, 1, 0]),
    "fr: both sides read the old": (
        [write(X), read(Y, OLD), store(1, Y), other("fence", 1), load(1, X, OLD)], [0, 1, 1, 2, 3, 4, 4, 2, 0], "stale", "H63",
        [write(X), read(Y, OLD), store(1, Y), load(1, X, OLD)], [0, 1, 1, 2, 3, 3, 2, 0]),
    "irq: an interrupt in front of its data": (
        [write(X), other("msi", "nvme", 0), load(0, X, OLD)], [0, 1, 1, 2, 2, 0], "stale", "H17",
        [write(X), other("msi", "nvme", 0, ro=True), load(0, X, OLD)], [0, 1, 1, 2, 2, 0]),
    "mmio: an answer in front of its data": (
        [write(X), other("register", "nvme", 0), load(0, X, OLD)], [0, 1, 1, 2, 2, 0], "stale", "H18",
        [write(X), other("register", "nvme", 0, ro=True), load(0, X, OLD)], [0, 1, 1, 2, 2, 0]),
    "one line is one moment": (
        [write(X, cells=(0, 1, 2)), load(0, X, OLD, 0, 0, cells=(0, 1, 2))], [0, 1, 1, 0], "torn", "H15",
        [write(X, cells=(2, 3)), load(0, X, OLD, 0, cells=(2, 3))], [0, 1, 1, 0]),
}


@pytest.mark.parametrize("case", CASES)
def test_a_history_that_breaks_one_kind_of_edge(case):
    ops, schedule, name, hazard, *_ = CASES[case]
    verdict = judge(ops, schedule)
    assert {n: c for n, c in verdict.violations.items() if c} == {name: 1}, verdict.text()
    assert verdict.hazards == [hazard] * bool(hazard), verdict.text()


@pytest.mark.parametrize("case", CASES)
def test_a_history_like_it_that_is_legal(case):
    *_, ops, schedule = CASES[case]
    assert judge(ops, schedule).ok


def test_between_any_two_agents_only_where_the_fence_policy_promises_it():
    ops = [write(X), write(Y), load(1, Y, 1), load(0, X, OLD)]
    assert judge(ops, LATE_FIRST).ok
    verdict = judge([write(X), write(Y), load(1, Y, 1), load(0, X, OLD)], LATE_FIRST, global_order=True)
    assert verdict.violations["stale"] == 1 and verdict.hazards == ["H04"]


def test_what_per_byte_linearizability_misses():
    """Data and flag each have a good history of their own. Together they have none."""
    data, flag = [write(X), load(1, X, OLD)], [write(Y), load(1, Y, 0)]
    assert judge(data, [0, 1, 1, 0]).ok
    assert judge(flag, [0, 0, 1, 1]).ok
    assert judge([write(X), write(Y), load(1, Y, 1), load(1, X, OLD)], LATE_FIRST).violations["stale"] == 1


def test_lines_that_are_not_one_moment_may_be_mixed():
    ops = [write(X, cells=(0, 1, 2)), load(0, X, OLD, 0, 0, cells=(0, 1, 2))]
    assert judge(ops, [0, 1, 1, 0], line_atomic=False).ok


def test_a_circle_is_told():
    verdict = judge([write(X), write(Y), load(1, Y, 1), load(1, X, OLD)], LATE_FIRST)
    verdict.seed, verdict.command = 7, "pagehop sim hot-page --seed 7"
    assert verdict.windows == [(0, 7)]
    assert verdict.text().splitlines()[1:] == [
        "stale: 4 accesses in a circle, cycles 0 to 7, as hazard H04:",
        "  the write of nvme to page 0 offset 0x038 in cycle 0, visible at Host A in cycle 7",
        "    comes before, because the next may not pass it,",
        "  the write of nvme to page 1 offset 0x038 in cycle 1, visible at Host B in cycle 2",
        "    wrote what was read by",
        "  the read of CPU B from cycle 4 to 4 of page 1 offset 0x03a, which brought 0500",
        "    was over before the start of",
        "  the read of CPU B from cycle 4 to 6 of page 0 offset 0x03a, which brought 0000",
        "    did not see",
        "  the first again",
        "cycles to look at: 0 to 7",
        "seed 7",
        "to see it again: pagehop sim hot-page --seed 7",
    ]


def test_many_circles_are_counted_and_a_few_are_told():
    rounds = 30
    ops, schedule = [], []
    for number in range(rounds):     # a load of the new value, then one of an older: RO, so that no round binds another
        first = len(ops)
        ops += [write(X, ro=True), load(0, X, first), load(0, X, first - 3 if number else OLD)]
        schedule += [first, first + 1, first + 1, first + 2, first + 2, first]
    verdict = judge(ops, schedule)
    assert verdict.violations["stale"] == 20 and verdict.violations["reordered"] == 10
    assert sum("accesses in a circle" in story for story in verdict.stories) == 5


@pytest.mark.parametrize("seen", [OLD, 0])
def test_who_saw_one_line_of_a_write_need_not_see_the_next(seen):
    """Neither for the graph, nor for the check of what an agent knows."""
    ops = [write(X, cells=(2, 3)), load(1, X, 0, cells=(2,)), load(1, X, seen, cells=(3,))]
    schedule = [0, 1, 1, 2, 2, 0]
    assert judge(ops, schedule).ok
    teller = tiny.Teller([tiny.Op(op.kind, op.agent, op.place, op.cells, seen=op.seen) for op in ops], schedule)
    replay = Replay(teller.log, teller.config, Verdict())
    replay.run()
    values, channels, verdict = Values(replay), Channels(replay), Verdict()
    values.first, values.last = values.matched_anywhere()
    values.check_known(known_writes(replay, values, channels), verdict)
    assert verdict.ok, verdict.text()
