"""A knot of the graph told to a reader: its shortest circle, the name of the failure, the hazard that looks like it."""

from dataclasses import dataclass

import numpy as np
from scipy.sparse import csr_array
from scipy.sparse.csgraph import dijkstra

from pagehop_tb.checker.graph import Edge, Graph, Ints
from pagehop_tb.checker.log import Kind
from pagehop_tb.checker.nodes import Nodes
from pagehop_tb.checker.records import DEVICE_STREAM
from pagehop_tb.checker.replay import Replay
from pagehop_tb.checker.space import host_name

__all__ = ["Circle", "shortest_circle"]

#: Edges that go back in time, from which the shortest circle of a knot is looked for.
STARTS = 32

#: Weight of a step along a chain: it counts for nothing beside an access.
CHAIN_STEP = 1e-9

SAYS = {
    Edge.PO: "comes before, because the next may not pass it,",
    Edge.RT: "was over before the start of",
    Edge.RF: "wrote what was read by",
    Edge.CO: "was overwritten by",
    Edge.FR: "did not see",
    Edge.IRQ: "is the interrupt that was taken as",
    Edge.MMIO: "comes before, because a completion may not pass it,",
}


@dataclass(frozen=True)
class Circle:
    """One violation of the order: its name, its story, the hazard it looks like, and the first and last clock cycle of what takes part."""

    name: str
    hazard: str
    story: str
    window: tuple[int, int]
    events: frozenset[int]


def shortest_circle(graph: Graph, nodes: Nodes, replay: Replay, knot: Ints) -> Circle:
    """The circle of fewest accesses in ``knot`` (a set of nodes that are mutually before each other)."""
    circle = [(int(node), kind) for node, kind in _find(graph, knot)]
    kinds = {kind for _, kind in circle}
    teller = _Teller(graph, nodes, replay)
    events = [event for node, _ in circle for event in teller.events(node)]
    cycles = [replay.cycle_of(event) for event in events]
    hazard = _hazard(circle, teller)
    lines = []
    for node, kind in circle:
        lines.append(f"  {teller.tell(node)}")
        lines.append(f"    {SAYS[kind]}")
    looks = f", as hazard {hazard}" if hazard else ""
    story = f"{len(circle)} accesses in a circle, cycles {min(cycles)} to {max(cycles)}{looks}:\n" + "\n".join([*lines, "  the first again"])
    blamed = frozenset(event for node, _ in circle for event in teller.events(node)[-1:])
    return Circle(_name(circle, kinds, teller), hazard, story, (min(cycles), max(cycles)), blamed)


def _find(graph: Graph, knot: Ints) -> list[tuple[int, Edge]]:
    """Nodes of the shortest circle, each with the kind of the edge to the next; auxiliary nodes are left out."""
    sources, targets, kinds = graph.edges()
    place = np.full(graph.count, -1, np.int64)
    place[knot] = np.arange(len(knot))
    inside = (place[sources] >= 0) & (place[targets] >= 0)
    source, target, kind = place[sources[inside]], place[targets[inside]], kinds[inside]
    auxiliary = np.array([not graph.group_of(int(node))[0] for node in knot])
    matrix = csr_array((np.ones(len(source)), (source, target)), shape=(len(knot), len(knot)))
    # Two edges of one pair have been added up: their weight is that of one.
    matrix.data[:] = np.where(auxiliary[matrix.indices], CHAIN_STEP, 1.0)
    times = graph.times()[knot]
    # Time cannot only grow around a circle, so each has an edge that goes back. The one that made the knot goes back far.
    back = np.flatnonzero(times[target] < times[source])
    back = back[np.argsort(times[target[back]] - times[source[back]], kind="stable")][:STARTS]
    best, path = np.inf, list[int]()
    starts = np.unique(target[back])
    distance, before = dijkstra(matrix, indices=starts, return_predecessors=True)
    for i in back.tolist():
        row = int(np.searchsorted(starts, target[i]))
        length = distance[row, source[i]] + (CHAIN_STEP if auxiliary[target[i]] else 1.0)
        if length < best:
            best, path, at = length, [], int(source[i])
            while at != target[i]:
                path.append(at)
                at = int(before[row, at])
            path = [*path, at][::-1]
    pairs = source * len(knot) + target
    order = np.argsort(pairs, kind="stable")
    ends = np.array(path) * len(knot) + np.array([*path[1:], path[0]])
    steps = list(zip(path, map(Edge, kind[order[np.searchsorted(pairs[order], ends)]].tolist()), strict=True))
    first = min((at for at in path if not auxiliary[at]), key=lambda at: int(times[at]))
    steps = steps[path.index(first):] + steps[:path.index(first)]
    return [(int(knot[at]), kind) for at, kind in steps if not auxiliary[at]]


def _name(circle: list[tuple[int, Edge]], kinds: set[Edge], teller: "_Teller") -> str:
    """Failure names of the correctness document: torn, stale, else reordered."""
    reads = [node for node, _ in circle if teller.group(node) == "read"]
    if kinds <= {Edge.RF, Edge.FR, Edge.CO} and len(reads) <= 1:
        return "torn"
    return "stale" if Edge.FR in kinds else "reordered"


def _hazard(circle: list[tuple[int, Edge]], teller: "_Teller") -> str:
    """Number of the hazard that leaves such a circle; empty when none is known."""
    kinds = [kind for _, kind in circle]
    hosts = {teller.host(node) for node, _ in circle} - {-1}
    writers = {teller.by_device(node) for node, kind in circle if teller.group(node) == "write"}
    if set(kinds) <= {Edge.RF, Edge.FR, Edge.CO}:
        return "H15"
    if Edge.IRQ in kinds:
        return "H17" if len(hosts) < 2 else "H50"
    if Edge.MMIO in kinds:
        return "H18"
    if kinds.count(Edge.FR) == 2 and writers == {True, False}:
        return "H63"
    if any(teller.is_atomic(node) and kind is Edge.RF for node, kind in circle):
        return "H61"
    if writers == {False}:
        return "H59"
    if Edge.FR not in kinds and Edge.CO not in kinds:
        return ""
    if Edge.RF in kinds:
        return "H16" if len(hosts) < 2 else "H04"
    if Edge.FR in kinds:
        return "H22"
    return "H23" if len(hosts) < 2 else "H53"


class _Teller:
    """Words for nodes."""

    def __init__(self, graph: Graph, nodes: Nodes, replay: Replay) -> None:
        self.graph, self.nodes, self.replay = graph, nodes, replay

    def group(self, node: int) -> str:
        """What kind of node it is."""
        return self.graph.group_of(node)[0]

    def _write(self, node: int) -> int:
        name, number = self.graph.group_of(node)
        return int(self.nodes.write_of[number]) if name == "write" else -1

    def host(self, node: int) -> int:
        """Host at which a write became visible or an interrupt was taken, -1 for others."""
        name, number = self.graph.group_of(node)
        if name == "interrupt":
            return self.replay.interrupts[number][1]
        return self.replay.writes[self._write(node)].host if name == "write" else -1

    def by_device(self, node: int) -> bool:
        """Whether a write is one of a device."""
        return self.replay.writes[self._write(node)].stream == DEVICE_STREAM

    def is_atomic(self, node: int) -> bool:
        """Whether it is an atomic."""
        return self._write(node) >= 0 and self.replay.writes[self._write(node)].atomic is not None

    def events(self, node: int) -> list[int]:
        """Positions in the log that belong to it; the last is the one by which other checks call it."""
        name, number = self.graph.group_of(node)
        if name == "write":
            write = self.replay.writes[self._write(node)]
            return [event for event in (write.performed, write.answered, write.event) if event >= 0]
        if name == "read":
            read = self.nodes.values.reads[int(self.nodes.read_of[number])]
            return [read.issued, read.done]
        return [self.replay.interrupts[number][0] if name == "interrupt" else int(self.nodes.step_at[number])]

    def tell(self, node: int) -> str:
        """The access in words: who, what, when, where."""
        name, number = self.graph.group_of(node)
        if name == "write":
            write = self.replay.writes[self._write(node)]
            visible = f", visible at {host_name(write.host)} in cycle {self.replay.cycle_of(write.performed)}" if write.performed >= 0 else ""
            return self.replay.told(self._write(node)) + visible
        if name == "read":
            return self.nodes.values.told(int(self.nodes.read_of[number]), with_data=True)
        if name == "interrupt":
            event, host, raised = self.replay.interrupts[number]
            address = self.replay.config.name(self.replay.writes[raised].location)
            return f"{address} taken by the CPU of {host_name(host)} in cycle {self.replay.cycle_of(event)}"
        return self._step(int(self.nodes.step_at[number]))

    def _step(self, event: int) -> str:
        kind, cycle, who, *rest = self.replay.log.events[event][:5]
        agent = who if isinstance(who, str) else f"CPU {'AB'[who]}"
        if kind in (Kind.MESSAGE, Kind.MESSAGE_SEEN):
            return f"message {rest[0]} {'sent' if kind == Kind.MESSAGE else 'received'} by {agent} in cycle {cycle}"
        if kind == Kind.CPU_FENCE:
            return f"the fence of {agent} in cycle {cycle}"
        what = {Kind.MMIO_WRITE: "the register write of", Kind.DEVICE_MMIO_WRITE: "the arrival of a register write at",
                Kind.DEVICE_MMIO_READ: "the answer to a register read by", Kind.MMIO_READ_DONE: "the register read of"}[Kind(kind)]
        return f"{what} {agent} at {rest[0]:#x} with {rest[1].hex()} in cycle {cycle}"
