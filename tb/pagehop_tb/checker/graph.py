"""A directed graph in arrays: nodes are numbers, edges are kept by kind, chains stand for "everything so far" with few edges."""

from enum import IntEnum

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components

__all__ = ["Edge", "Graph", "Ints"]

Ints = NDArray[np.int64]


class Edge(IntEnum):
    """Why one access comes before another."""

    PO = 0
    RT = 1
    RF = 2
    CO = 3
    FR = 4
    IRQ = 5
    MMIO = 6


class Graph:
    """Nodes with a time each (a position in the log), and edges.

    Nodes are added in groups. A group without a name is auxiliary: its nodes stand for "everything so far" and are left out of stories.
    """

    def __init__(self) -> None:
        self.count = 0
        self.groups: list[tuple[str, int]] = []         # name, first node
        self._times: list[Ints] = []
        self._edges: list[tuple[Edge, Ints, Ints]] = []

    def add_nodes(self, name: str, times: Ints) -> int:
        """Add a node for each of ``times``; returns the number of the first."""
        first = self.count
        self.groups.append((name, first))
        self._times.append(times)
        self.count += len(times)
        return first

    def add(self, kind: Edge, sources: Ints, targets: Ints) -> None:
        """Edges of ``kind`` from each of ``sources`` to the one of ``targets`` at the same place."""
        if len(sources):
            self._edges.append((kind, sources.astype(np.int32), targets.astype(np.int32)))

    def add_after(self, kind: Edge, joined_at: Ints, joined: Ints, asked_at: Ints, asked: Ints) -> None:
        """Every node of ``joined`` comes before every node of ``asked`` whose time is later: linearly many edges, over a chain."""
        if not len(joined) or not len(asked):
            return
        moments = np.unique(joined_at)
        chain = self.add_nodes("", moments) + np.arange(len(moments))
        self.add(kind, joined, chain[np.searchsorted(moments, joined_at)])
        self.add(kind, chain[:-1], chain[1:])
        latest = np.searchsorted(moments, asked_at, "left") - 1
        found = latest >= 0
        self.add(kind, chain[latest[found]], asked[found])

    def edges(self) -> tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.uint8]]:
        """Sources, targets and kinds of all edges."""
        if not self._edges:
            return np.zeros(0, np.int32), np.zeros(0, np.int32), np.zeros(0, np.uint8)
        kinds = np.repeat(np.array([kind for kind, _, _ in self._edges], np.uint8), [len(sources) for _, sources, _ in self._edges])
        return np.concatenate([sources for _, sources, _ in self._edges]), np.concatenate([targets for _, _, targets in self._edges]), kinds

    def edge_count(self) -> int:
        """Number of edges."""
        return sum(len(sources) for _, sources, _ in self._edges)

    def times(self) -> Ints:
        """Time of each node."""
        return np.concatenate(self._times) if self._times else np.zeros(0, np.int64)

    def group_of(self, node: int) -> tuple[str, int]:
        """Name of the group of ``node``, and its number in the group."""
        name, first = next((name, first) for name, first in reversed(self.groups) if first <= node)
        return name, node - first

    def knots(self) -> list[Ints]:
        """Sets of nodes that come before each other in a circle (strongly connected components of two nodes or more), earliest first."""
        sources, targets, _ = self.edges()
        matrix = csr_array((np.ones(len(sources), np.int8), (sources, targets)), shape=(self.count, self.count))
        found, label = connected_components(matrix, directed=True, connection="strong")
        if found == self.count:
            return []
        sizes = np.bincount(label, minlength=found)
        inside = np.flatnonzero(sizes[label] > 1)
        order = inside[np.argsort(label[inside], kind="stable")]
        parts = np.split(order, np.flatnonzero(np.diff(label[order])) + 1)
        times = self.times()
        return sorted(parts, key=lambda part: int(times[part].min()))
