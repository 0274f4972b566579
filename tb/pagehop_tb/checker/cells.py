"""The edges that memory makes, byte by byte: who wrote after whom (co), who read whose bytes (rf), and which writes a read did not see (fr)."""

import numpy as np

from pagehop_tb.checker.graph import Edge, Graph, Ints
from pagehop_tb.checker.nodes import Bools, Nodes
from pagehop_tb.checker.values import Values

__all__ = ["add_memory_edges"]


def add_memory_edges(graph: Graph, nodes: Nodes, values: Values) -> None:
    """Add co, rf and fr.

    The versions of a dword are in the order of its performed writes at its owner, as the log has it. Bytes of a dword that was ever written in part
    are looked at one by one; other dwords whole, because their bytes share all writers. A read that may stem from several equal versions is after
    the first of them and before what follows the last.
    """
    known = (values.writer >= 0) | (values.event == 0)
    parts = values.in_parts[values.rank]
    seen = nodes.piece_first >= 0
    _add_cells(graph, nodes, values, known & ~parts, seen & (nodes.piece_byte < 0))
    for byte in range(4):
        written = (values.enables >> byte & 1).astype(bool) | (values.event == 0)
        _add_cells(graph, nodes, values, known & parts & written, seen & (nodes.piece_byte == byte))


def _add_cells(graph: Graph, nodes: Nodes, values: Values, versions: Bools, pieces: Bools) -> None:
    """Edges of cells of one kind: ``versions`` says which versions wrote them, ``pieces`` which pieces were read from them."""
    chosen, read_pieces = np.flatnonzero(versions), np.flatnonzero(pieces)
    if not len(chosen):
        return
    node, rank = nodes.version_node[chosen], values.rank[chosen]
    same = (rank[1:] == rank[:-1]) & (node[:-1] >= 0)
    _add_distinct(graph, Edge.CO, node[:-1][same], node[1:][same])
    read = nodes.piece_node[read_pieces]
    source = np.searchsorted(chosen, nodes.piece_first[read_pieces], "right") - 1
    other = (node[source] >= 0) & ~nodes.own_store(values.writer[chosen[source]], nodes.piece_read[read_pieces])
    _add_distinct(graph, Edge.RF, node[source][other], read[other])
    after = np.searchsorted(chosen, nodes.piece_last[read_pieces], "right")
    inside = np.minimum(after, len(chosen) - 1)
    missed = (after < len(chosen)) & (rank[inside] == nodes.piece_rank[read_pieces])
    _add_distinct(graph, Edge.FR, read[missed], node[inside][missed])


def _add_distinct(graph: Graph, kind: Edge, sources: Ints, targets: Ints) -> None:
    """The bytes of two accesses give the same edge often: once is enough."""
    pairs = np.unique((sources << 32 | targets)[sources != targets])
    graph.add(kind, pairs >> 32, pairs & 0xFFFF_FFFF)
