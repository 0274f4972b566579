"""What each agent knows: which earlier writes a read must see because of what its agent has observed before."""

import numpy as np
from numpy.typing import NDArray

from pagehop_tb.checker.channels import Channels
from pagehop_tb.checker.log import Kind
from pagehop_tb.checker.records import DEVICE_STREAM
from pagehop_tb.checker.replay import Replay
from pagehop_tb.checker.space import LINE
from pagehop_tb.checker.values import Values

__all__ = ["known_writes"]


class Knowledge(tuple[int, ...]):
    """Latest position in the log up to which the writes of each stream must be visible to an agent; -1 for nothing."""

    __slots__ = ()

    def joined(self, other: "Knowledge") -> "Knowledge":
        """What either knows."""
        return Knowledge(map(max, self, other))

    def with_stream(self, stream: int, event: int) -> "Knowledge":
        """The same, and the writes of ``stream`` up to ``event``."""
        return self if self[stream] >= event else Knowledge(event if i == stream else known for i, known in enumerate(self))


def known_writes(replay: Replay, values: Values, channels: Channels) -> NDArray[np.int64]:
    """For each read of ``values`` and each stream the position up to which it must see the stream's writes.

    An agent that read (or was interrupted by) a strongly ordered write knows all that was sent before it on the same stream, and what the writer
    knew when it sent it (program order, reads-from, doorbells, answers to register reads). A device knows its own port's earlier writes, as far as
    they are of its group; a CPU its own earlier stores. Writes with RO or IDO teach nothing but themselves.
    """
    return _Walk(replay, values, channels).result


class _Walk:
    """One pass over the log in order, carrying what each agent knows."""

    def __init__(self, replay: Replay, values: Values, channels: Channels) -> None:
        self.replay, self.values, self.channels = replay, values, channels
        self.sources = values.sources()
        self.nothing = Knowledge([-1] * replay.streams)
        self.known: dict[str, Knowledge] = {}
        self.told: list[Knowledge] = [self.nothing] * len(replay.writes)   # what its writer knew at each write
        self.departed: dict[int, Knowledge] = {}                      # what its sender knew at each departure on a channel
        self.result = np.full((len(values.reads), replay.streams), -1, np.int64)
        self._walk()

    def _walk(self) -> None:
        steps: list[tuple[int, int, int]] = []
        steps += ((write.event, 0, i) for i, write in enumerate(self.replay.writes))
        steps += ((read.knows, 4, i) for i, read in enumerate(self.values.reads))
        steps += ((read.done, 1, i) for i, read in enumerate(self.values.reads))
        steps += ((event, 2, i) for i, (event, host, write) in enumerate(self.replay.interrupts))
        steps += ((event, 3, event) for event in self.channels.steps)
        actions = (self._write, self._done, self._interrupt, self._channel, self._issue)
        for event, what, index in sorted(steps):
            actions[what](event, index)

    def _own(self, agent: str) -> int:
        return self.replay.device_stream(self.replay.config.group_of(agent))

    def _of(self, agent: str) -> Knowledge:
        return self.known.get(agent, self.nothing)

    def _learn(self, agent: str, write: int) -> None:
        written = self.replay.writes[write]
        known = self._of(agent).joined(self.told[write])
        # Who saw one line of a write need not see the next: then it counts only what was sent before. The graph looks at each line.
        one_line = written.location // LINE == (written.location + written.length - 1) // LINE
        self.known[agent] = (
            known.with_stream(self.replay.stream_of(written), written.event if one_line else written.event - 1) if written.strong else known)

    def _write(self, event: int, index: int) -> None:
        write = self.replay.writes[index]
        self.told[index] = self._of(write.agent)
        if write.stream != DEVICE_STREAM:
            self.known[write.agent] = self._of(write.agent).with_stream(write.stream, event)

    def _issue(self, event: int, index: int) -> None:
        read = self.values.reads[index]
        known = self._of(read.agent)
        self.result[index] = known if not read.pushes or read.agent.startswith("CPU ") else known.with_stream(self._own(read.agent), event)

    def _done(self, event: int, index: int) -> None:
        for write in self.sources.get(index, ()):
            self._learn(self.values.reads[index].agent, write)

    def _interrupt(self, event: int, index: int) -> None:
        _, host, write = self.replay.interrupts[index]
        self._learn(f"CPU {'AB'[host]}", write)

    def _channel(self, event: int, _: int) -> None:
        agent, origin = self.channels.agent(event), self.channels.origin.get(event)
        if origin is not None:
            self.known[agent] = self._of(agent).joined(self.departed.get(origin, self.nothing))
        elif self.replay.log.events[event][0] == Kind.DEVICE_MMIO_READ and not any(self.replay.log.events[event][5:7]):
            own = self.replay.device_stream(self.replay.config.group_of_answers(agent))
            self.departed[event] = self._of(agent).with_stream(own, event)
        else:
            self.departed[event] = self._of(agent)
