"""The graph check against a judge that tries every order: it must neither let a wrong history pass nor call a right one wrong."""

import importlib.util
import sys
from pathlib import Path
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pagehop_tb.checker.causality import known_writes
from pagehop_tb.checker.channels import Channels
from pagehop_tb.checker.graph import Edge, Graph
from pagehop_tb.checker.joint import check_graph
from pagehop_tb.checker.replay import Replay
from pagehop_tb.checker.values import Values
from pagehop_tb.checker.verdict import Verdict

_SPEC = importlib.util.spec_from_file_location("tiny_history", Path(__file__).with_name("tiny_history.py"))
assert _SPEC is not None and _SPEC.loader is not None
tiny = importlib.util.module_from_spec(_SPEC)
sys.modules["tiny_history"] = tiny      # dataclasses look there for their module
_SPEC.loader.exec_module(tiny)

KINDS = ("write", "write", "write", "write", "read", "read", "load", "load", "store", "swap", "msi", "msi",
         "doorbell", "register", "message", "fence")

#: Cells of each dword of a place.
DWORDS = ((0,), (1, 2), (3,))


def draw_op(random: Random, ranges):
    """Any access; ``ranges`` are the cells that memory accesses of this history touch."""
    kind = random.choice(KINDS)
    agent = random.randrange(2) if kind in ("load", "store", "doorbell", "message", "fence") else random.choice(("nvme", "nic"))
    op = tiny.Op(kind, agent, random.randrange(2))
    if op.writes or op.reads:
        op.cells = (1, 2) if kind == "swap" else random.choice(ranges)
    if op.device or kind == "register":
        op.ro, op.ido = random.random() < 0.15, random.random() < 0.15
    return op


def draw(seed: int, size: int, global_order: bool):
    """A history of ``size`` accesses. Half of its reads return what they would on one memory, the others what they like."""
    random = Random(seed)
    every = [tuple(range(first, end)) for first in range(tiny.CELLS) for end in range(first + 1, tiny.CELLS + 1)]
    ranges = random.sample(every, random.choice((1, 1, 2, 10)))
    ops = [draw_op(random, ranges) for _ in range(size)]
    schedule = [number for number, op in enumerate(ops) for _ in range(tiny.STEPS[op.kind])]
    random.shuffle(schedule)
    if random.random() < 0.6:       # mostly one after the other, so that order matters
        schedule.sort(key=lambda number: number + random.random() * 2.5)
    _choose_values(random, ops, schedule)
    return tiny.Teller(ops, schedule, global_order)


def _choose_values(random: Random, ops, schedule) -> None:
    """Choose what reads return. The two cells of one dword come from one moment: that hosts do not tear a dword is taken for granted."""
    states = {(place, dword): [dict.fromkeys(cells, -1)] for place in (0, 1) for dword, cells in enumerate(DWORDS)}
    step = dict.fromkeys(range(len(ops)), 0)
    for number in schedule:
        op = ops[number]
        step[number] += 1
        if op.writes and step[number] == 2:
            for dword, cells in enumerate(DWORDS):
                touched = {cell: number for cell in cells if cell in op.cells}
                if touched:
                    states[op.place, dword].append(states[op.place, dword][-1] | touched)
        if op.reads and step[number] == 2:
            op.seen = tuple(len(states[op.place, dword]) for dword in range(len(DWORDS)))   # how far memory was
    for op in ops:
        if op.reads:
            free, seen = random.random() < 0.5, {}
            for dword, now in enumerate(op.seen):
                history = states[op.place, dword]
                seen |= random.choice(history) if free else history[now - 1]
            op.seen = tuple(seen[cell] for cell in op.cells)


def found(teller) -> tuple[bool, bool]:
    """Whether the graph has a circle, and whether a read misses what its agent knew of."""
    replay = Replay(teller.log, teller.config, Verdict())
    replay.run()
    values, channels = Values(replay), Channels(replay)
    # Values of another time are called wrong by a check of their own, and would be left out here.
    values.first, values.last = values.matched_anywhere()
    graph, known = Verdict(), Verdict()
    check_graph(replay, values, channels, graph)
    values.check_known(known_writes(replay, values, channels), known)
    return not graph.ok, not known.ok


def compare(teller) -> bool:
    legal, (circle, forgotten) = tiny.is_legal(teller), found(teller)
    assert legal == (not circle and not forgotten), f"{'legal' if legal else 'illegal'}, graph {circle}, known {forgotten}: {teller.ops}"
    return legal


@settings(max_examples=250, deadline=None)
@given(seed=st.integers(0, 1 << 32), size=st.integers(2, 7), global_order=st.booleans())
def test_the_graph_agrees_with_all_orders(seed, size, global_order):
    compare(draw(seed, size, global_order))


@pytest.mark.parametrize(("seed", "size", "global_order"), [(206484, 6, False), (302398, 8, True), (306839, 9, False), (104095, 9, True)])
def test_histories_that_were_once_called_wrong(seed, size, global_order):
    """Lines of a CPU's store; bytes of a dword that others wrote; one line of a write seen."""
    assert compare(draw(seed, size, global_order))


@pytest.mark.parametrize("global_order", [False, True])
def test_the_histories_are_of_both_kinds(global_order):
    """A comparison of legal histories only, or of wrong ones only, would prove nothing."""
    legal = [compare(draw(seed, 6, global_order)) for seed in range(400)]
    assert 200 < sum(legal) < 350, sum(legal)


@pytest.fixture(scope="module")
def wrong_seeds():
    """Seeds of histories in which the graph has a circle."""
    return [seed for seed in range(1000) if found(draw(seed, 6, seed % 2 == 0))[0]]


@pytest.mark.parametrize("kind", Edge)
def test_every_kind_of_edge_is_needed(kind, wrong_seeds, monkeypatch):
    """Without one kind of edge some wrong histories pass: so the comparison above would see that it is gone."""
    add = Graph.add
    monkeypatch.setattr(Graph, "add", lambda graph, what, *ends: None if what is kind else add(graph, what, *ends))
    assert not all(found(draw(seed, 6, seed % 2 == 0))[0] for seed in wrong_seeds), f"without {kind.name} nothing is missed"
