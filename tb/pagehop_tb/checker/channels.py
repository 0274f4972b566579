"""Ways on which agents tell each other something beside memory: doorbells, answers to register reads, messages between CPUs."""

from pagehop_tb.checker.log import Kind
from pagehop_tb.checker.replay import Replay

__all__ = ["Channels"]


class Channels:
    """What arrived on a modelled channel, and from where: ``origin`` maps the event of an arrival to the event of its departure.

    Events are matched by what they carry. When several departures carry the same, the match takes the one that proves least: nothing when different
    CPUs rang with the same value, the oldest of several equal answers. So no order is demanded that was not promised.
    """

    def __init__(self, replay: Replay) -> None:
        self.events, self.steps = replay.log.events, replay.channel
        self.origin: dict[int, int] = {}
        self._rung: dict[tuple[int, bytes], list[int]] = {}
        self._answers: dict[tuple[int, bytes], list[int]] = {}
        self._messages: dict[int, int] = {}
        actions = {Kind.MMIO_WRITE: self._ring, Kind.DEVICE_MMIO_WRITE: self._arrive, Kind.DEVICE_MMIO_READ: self._answer,
                   Kind.MMIO_READ_DONE: self._answered, Kind.MESSAGE: self._send, Kind.MESSAGE_SEEN: self._seen}
        for event in self.steps:
            action = actions.get(self.events[event][0])
            if action is not None:
                action(event)

    def _ring(self, event: int) -> None:
        self._rung.setdefault(self.events[event][3:5], []).append(event)

    def _arrive(self, event: int) -> None:
        waiting = self._rung.get(self.events[event][3:5])
        if waiting:
            if len({self.events[rung][2] for rung in waiting}) == 1:
                self.origin[event] = waiting[0]
            waiting.pop(0)

    def _answer(self, event: int) -> None:
        self._answers.setdefault(self.events[event][3:5], []).append(event)

    def _answered(self, event: int) -> None:
        given = self._answers.get(self.events[event][3:5])
        if given:
            self.origin[event] = given[0]
            given.pop()

    def _send(self, event: int) -> None:
        self._messages[self.events[event][3]] = event

    def _seen(self, event: int) -> None:
        sent = self._messages.get(self.events[event][3])
        if sent is not None:
            self.origin[event] = sent

    def agent(self, event: int) -> str:
        """Who took part in a step."""
        who = self.events[event][2]
        return who if isinstance(who, str) else f"CPU {'AB'[who]}"
