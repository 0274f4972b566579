"""The definition itself: the accesses of a run fit into one order on one memory exactly when this graph has no circle."""

import numpy as np

from pagehop_tb.checker.cells import add_memory_edges
from pagehop_tb.checker.channels import Channels
from pagehop_tb.checker.cycles import shortest_circle
from pagehop_tb.checker.graph import Graph
from pagehop_tb.checker.nodes import Nodes
from pagehop_tb.checker.order import add_order_edges
from pagehop_tb.checker.replay import Replay
from pagehop_tb.checker.values import Values
from pagehop_tb.checker.verdict import Verdict

__all__ = ["check_graph"]

#: Knots that are looked into; of more only the number is told.
KNOTS = 20


def check_graph(replay: Replay, values: Values, channels: Channels, verdict: Verdict) -> None:
    """Look for circles in po, rt, rf, co, fr, irq and mmio, over all bytes together (correctness 3).

    A circle is a violation. It is counted when none of its accesses has been called wrong by a check before; its story is told in any case, because
    it says why. Time and memory grow linearly with the log, but for sorting.
    """
    graph = Graph()
    nodes = Nodes(graph, replay, values, channels)
    add_memory_edges(graph, nodes, values)
    add_order_edges(graph, nodes, replay, channels)
    verdict.checked["edges"] += graph.edge_count()
    knots = graph.knots()
    for knot in knots[:KNOTS]:
        circle = shortest_circle(graph, nodes, replay, knot)
        verdict.add_circle(circle.name, circle.hazard, circle.story, circle.window, counted=not circle.events & replay.blamed)
    blamed, times = np.array(sorted(replay.blamed), np.int64), graph.times()
    more = sum(not np.isin(times[knot], blamed).any() for knot in knots[KNOTS:])
    if more:
        verdict.add("reordered", f"{more} more circles of accesses", more)
