"""The nodes of the graph: accesses, cut where their bytes differ in writer or in 64-byte line."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pagehop_tb.checker.channels import Channels
from pagehop_tb.checker.graph import Graph, Ints
from pagehop_tb.checker.records import DEVICE_STREAM
from pagehop_tb.checker.replay import Replay
from pagehop_tb.checker.space import LINE
from pagehop_tb.checker.values import Values, spread

__all__ = ["Bools", "Nodes", "column"]

Bools = NDArray[np.bool_]


def column(items: Sequence[Any], name: str) -> Ints:
    """One attribute of all ``items``, as numbers."""
    return np.array([getattr(item, name) for item in items], np.int64)


class Nodes:
    """Numbers of the nodes of a run, and whose they are.

    A write or atomic has one node for each line it touches. A read inside one line has one node (its bytes are of one moment, unless
    ``line_atomic`` of the configuration is off); any other read has one wherever line or writer change. Interrupts that a CPU took and steps on
    channels have one each. A *piece* is a dword that was read, or a byte of it where the dword was ever written in part.
    """

    def __init__(self, graph: Graph, replay: Replay, values: Values, channels: Channels) -> None:
        self.replay, self.values = replay, values
        self.agents: dict[str, int] = {}
        self._add_writes(graph)
        self._find_pieces()
        self._add_reads(graph)
        interrupts = np.array([event for event, _, _ in replay.interrupts], np.int64)
        self.interrupt = graph.add_nodes("interrupt", interrupts) + np.arange(len(interrupts))
        self.step_at = np.array(channels.steps, np.int64)
        self.step = graph.add_nodes("step", self.step_at) + np.arange(len(self.step_at))
        self.step_agent = np.array([self.agent(channels.agent(event)) for event in channels.steps], np.int64)

    def agent(self, name: str) -> int:
        """Number of an agent."""
        return self.agents.setdefault(name, len(self.agents))

    def _add_writes(self, graph: Graph) -> None:
        writes, values = self.replay.writes, self.values
        location = column(writes, "location")
        first_line = location // LINE
        lines = (location + np.maximum(column(writes, "length"), 1) - 1) // LINE - first_line + 1
        _, self.write_of = spread(first_line, lines)
        self.write_at = column(writes, "event")
        base = graph.add_nodes("write", self.write_at[self.write_of])
        self.write = base + np.arange(len(self.write_of))
        self.write_agent = np.array([self.agent(write.agent) for write in writes], np.int64)
        self.from_cpu = column(writes, "stream") != DEVICE_STREAM
        self.version_node = np.full(len(values.writer), -1, np.int64)
        known = np.flatnonzero(values.writer >= 0)
        writer, line = values.writer[known], values.places[values.rank[known]] * 4 // LINE
        self.version_node[known] = (base + np.cumsum(lines) - lines)[writer] + line - first_line[writer]

    def _find_pieces(self) -> None:
        """Cut the dwords that were read where their bytes have different histories."""
        values = self.values
        first, last = values.matched_anywhere()
        parts = values.in_parts[values.read_rank]
        index, byte = [np.flatnonzero(~parts)], [np.full(np.count_nonzero(~parts), -1)]
        for number in range(4):
            chosen = np.flatnonzero(parts & ((values.mask >> 8 * number & 0xFF) != 0))
            index.append(chosen)
            byte.append(np.full(len(chosen), number))
        found = np.concatenate(index)
        order = np.argsort(found, kind="stable")
        found, self.piece_byte = found[order], np.concatenate(byte)[order]
        self.piece_read, self.piece_rank = values.read_of[found], values.read_rank[found]
        self.piece_first, self.piece_last = first[found], last[found]

    def _add_reads(self, graph: Graph) -> None:
        values, reads = self.values, self.values.reads
        atomic = self.replay.config.line_atomic
        single = np.array([atomic and read.location // LINE == (read.location + read.length - 1) // LINE for read in reads], bool)
        line = values.places[self.piece_rank] * 4 // LINE
        starts = np.ones(len(line), bool)
        starts[1:] = self.piece_read[1:] != self.piece_read[:-1]
        cut = (line[1:] != line[:-1]) | (self._piece_writer()[1:] != self._piece_writer()[:-1]) | (self.piece_byte[1:] >= 0)
        starts[1:] |= cut & ~single[self.piece_read[1:]]
        empty = np.setdiff1d(np.arange(len(reads)), self.piece_read)
        self.read_of = np.concatenate([self.piece_read[starts], empty])
        self.read_at, self.read_knows = column(reads, "done"), column(reads, "knows")
        first = graph.add_nodes("read", self.read_at[self.read_of])
        self.read = first + np.arange(len(self.read_of))
        self.piece_node = first + np.cumsum(starts) - 1
        self.read_agent = np.array([self.agent(read.agent) for read in reads], np.int64)
        self.by_cpu = np.array([read.agent.startswith("CPU ") for read in reads], bool)

    def _piece_writer(self) -> Ints:
        return np.where(self.piece_first >= 0, self.values.writer[self.piece_first], -1)

    def own_store(self, writer: Ints, read: Ints) -> Bools:
        """Whether a CPU read its own earlier store, which it may see before others do."""
        if not len(self.write_agent):
            return np.zeros(len(writer), bool)
        written = np.maximum(writer, 0)
        return self.by_cpu[read] & (self.write_agent[written] == self.read_agent[read]) & (self.write_at[written] <= self.read_knows[read])
