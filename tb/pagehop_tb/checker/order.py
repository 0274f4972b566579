"""The edges that agents and PCIe make: program order (po), answered before invoked (rt), interrupts (irq) and register reads (mmio)."""

import numpy as np

from pagehop_tb.checker.channels import Channels
from pagehop_tb.checker.graph import Edge, Graph
from pagehop_tb.checker.log import Kind
from pagehop_tb.checker.nodes import Bools, Nodes, column
from pagehop_tb.checker.replay import Replay

__all__ = ["add_order_edges"]

#: Steps that wait for what their agent has learnt, and steps that teach their agent something.
DEPARTURES = (Kind.MMIO_WRITE, Kind.DEVICE_MMIO_READ, Kind.MESSAGE, Kind.CPU_FENCE)
ARRIVALS = (Kind.DEVICE_MMIO_WRITE, Kind.MMIO_READ_DONE, Kind.MESSAGE_SEEN, Kind.CPU_FENCE)


def add_order_edges(graph: Graph, nodes: Nodes, replay: Replay, channels: Channels) -> None:
    """Add po, rt, irq and mmio."""
    _Order(graph, nodes, replay, channels).add()


class _Order:
    def __init__(self, graph: Graph, nodes: Nodes, replay: Replay, channels: Channels) -> None:
        self.graph, self.nodes, self.replay, self.channels = graph, nodes, replay, channels
        self.reads = nodes.values.reads
        events = replay.log.events
        self.step_kind = np.array([events[event][0] for event in channels.steps], np.int64)
        self.atomic = np.array([write.atomic is not None for write in replay.writes], bool)
        self.ro, self.ido = column(replay.writes, "ro").astype(bool), column(replay.writes, "ido").astype(bool)

    def add(self) -> None:
        self._lines()
        self._port()
        for host in (0, 1):
            if f"CPU {'AB'[host]}" in self.nodes.agents:
                self._cpu(self.nodes.agents[f"CPU {'AB'[host]}"])
        self._channels()
        self._answered()

    def _steps(self, *kinds: Kind) -> Bools:
        return np.isin(self.step_kind, kinds)

    def _lines(self) -> None:
        """A device's write without RO becomes visible in the order of its addresses. A CPU cuts a store that crosses a line as it likes."""
        of = self.nodes.write_of
        low = np.flatnonzero((of[1:] == of[:-1]) & ~(self.ro | self.nodes.from_cpu)[of[:-1]]) if len(of) else np.zeros(0, np.int64)
        self.graph.add(Edge.PO, self.nodes.write[low], self.nodes.write[low + 1])

    def _port(self) -> None:
        """Table 2-40: what may not pass the posted writes before it, of all requesters of its group, or with IDO of its own.

        RO lets writes and atomics pass, but not reads. Nothing has to stay behind reads and atomics.
        """
        nodes, events = self.nodes, self.replay.log.events
        of = nodes.write_of
        posted = ~(self.atomic | nodes.from_cpu)[of] if len(of) else np.zeros(0, bool)
        bound = ~(nodes.from_cpu | self.ro)[of] if len(of) else np.zeros(0, bool)
        device_read = ~nodes.by_cpu[nodes.read_of] if len(nodes.read_of) else np.zeros(0, bool)
        read_ido = np.array([not read.pushes for read in self.reads], bool)
        issued = column(self.reads, "issued")
        answers = np.flatnonzero(self._steps(Kind.DEVICE_MMIO_READ))
        answer_ro = np.array([events[self.channels.steps[i]][5] for i in answers], bool)
        answer_ido = np.array([events[self.channels.steps[i]][6] for i in answers], bool)
        writes = (nodes.write_at[of], nodes.write, nodes.write_agent[of], self.ido[of], bound)
        reads = (issued[nodes.read_of], nodes.read, nodes.read_agent[nodes.read_of], read_ido[nodes.read_of], device_read)
        replies = (nodes.step_at[answers], nodes.step[answers], nodes.step_agent[answers], answer_ido, ~answer_ro)
        config = self.replay.config
        group = np.array([config.group_of(name) for name in nodes.agents], np.int64)
        of_answers = np.array([config.group_of_answers(name) for name in nodes.agents], np.int64)
        for kind, groups, (at, node, agent, ido, chosen) in ((Edge.PO, group, writes), (Edge.PO, group, reads), (Edge.MMIO, of_answers, replies)):
            for one in np.unique(group):
                own, strict = posted & (group[writes[2]] == one), chosen & ~ido & (groups[agent] == one)
                self.graph.add_after(kind, writes[0][own], writes[1][own], at[strict], node[strict])
            for one in np.unique(agent[chosen & ido & (groups[agent] == group[agent])]):
                own, asked = posted & (writes[2] == one), chosen & ido & (agent == one)
                self.graph.add_after(kind, writes[0][own], writes[1][own], at[asked], node[asked])

    def _cpu(self, agent: int) -> None:
        """TSO, as far as it does not follow from rt: stores in their order, and loads after stores through the same aperture or before a fence."""
        nodes = self.nodes
        mine = (nodes.write_agent == agent)[nodes.write_of] if len(nodes.write_of) else np.zeros(0, bool)
        posts = self._steps(Kind.MMIO_WRITE, Kind.MESSAGE) & (nodes.step_agent == agent)
        fences = self._steps(Kind.CPU_FENCE) & (nodes.step_agent == agent)
        at = np.concatenate([nodes.write_at[nodes.write_of][mine], nodes.step_at[posts]])
        node = np.concatenate([nodes.write[mine], nodes.step[posts]])
        self.graph.add_after(Edge.PO, at, node, np.concatenate([at, nodes.step_at[fences]]), np.concatenate([node, nodes.step[fences]]))
        remote_write = mine & column(self.replay.writes, "remote").astype(bool)[nodes.write_of]
        reads = self.reads
        remote_read = (column(reads, "remote").astype(bool) & (nodes.read_agent == agent))[nodes.read_of]
        # A load knows what its agent did up to the end of the cycle of its issue: one more, because that moment is included.
        knows = column(reads, "knows")[nodes.read_of] + 1
        self.graph.add_after(Edge.PO, nodes.write_at[nodes.write_of][remote_write], nodes.write[remote_write], knows[remote_read],
                             nodes.read[remote_read])

    def _channels(self) -> None:
        """From each departure to its arrival, and from the write that is an interrupt to the CPU that took it."""
        place = {event: i for i, event in enumerate(self.channels.steps)}
        pairs = np.array([(place[origin], place[event]) for event, origin in self.channels.origin.items()], np.int64).reshape(-1, 2)
        self.graph.add(Edge.RT, self.nodes.step[pairs[:, 0]], self.nodes.step[pairs[:, 1]])
        first = np.searchsorted(self.nodes.write_of, np.array([write for _, _, write in self.replay.interrupts], np.int64))
        self.graph.add(Edge.IRQ, self.nodes.write[first], self.nodes.interrupt)

    def _answered(self) -> None:
        """An access that was answered comes before what is invoked later: by its agent, or by anyone where the fence policy promises that."""
        nodes, replay, reads = self.nodes, self.replay, self.reads
        of, of_read = nodes.write_of, nodes.read_of
        arrivals, departures = self._steps(*ARRIVALS), self._steps(*DEPARTURES)
        answered = np.flatnonzero(column(replay.writes, "answered")[of] >= 0)
        hosts = np.array([self.nodes.agent(f"CPU {'AB'[host]}") for _, host, _ in replay.interrupts], np.int64)
        interrupts = np.array([event for event, _, _ in replay.interrupts], np.int64)
        joined = [(nodes.read_at[of_read], nodes.read, nodes.read_agent[of_read]),
                  (column(replay.writes, "answered")[of][answered], nodes.write[answered], nodes.write_agent[of][answered]),
                  (interrupts, nodes.interrupt, hosts), (nodes.step_at[arrivals], nodes.step[arrivals], nodes.step_agent[arrivals])]
        asked = [(column(reads, "knows")[of_read] + nodes.by_cpu[of_read], nodes.read, nodes.read_agent[of_read]),
                 (nodes.write_at[of], nodes.write, nodes.write_agent[of]),
                 (nodes.step_at[departures], nodes.step[departures], nodes.step_agent[departures])]
        at, node, agent = (np.concatenate(parts) for parts in zip(*joined, strict=True))
        asked_at, asking, asker = (np.concatenate(parts) for parts in zip(*asked, strict=True))
        for one in range(len(nodes.agents)):
            self.graph.add_after(Edge.RT, at[agent == one], node[agent == one], asked_at[asker == one], asking[asker == one])
        if replay.config.global_order:
            # A load through an aperture was issued after the position that its record names.
            asked_at[:len(of_read)] = (column(reads, "issued") + column(reads, "remote"))[of_read]
            self.graph.add_after(Edge.RT, at, node, asked_at, asking)
