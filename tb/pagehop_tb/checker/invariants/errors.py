"""I9: an error ends as an error or an abort, never as good data."""

from typing import TYPE_CHECKING

from pagehop_tb.checker.records import STATUS_NAMES, SUCCESS, TIMEOUT
from pagehop_tb.checker.space import PAGE, Location

if TYPE_CHECKING:
    from pagehop_tb.checker.replay import Replay

__all__ = ["Errors"]


class Errors:
    """*Masked*: a host answered with an error and the requester had data, or a page was committed after its copy had met one.

    *Misdirected* or *invented*: a requester had an error that no host gave.
    """

    def __init__(self, replay: "Replay") -> None:
        self.replay = replay
        self._injected: list[tuple[int, Location, int, int]] = []      # event, location, length, status: not yet seen by a requester
        self._copy: dict[int, str] = {}                                # page: error given to a copy read of it

    def injected(self, event: int, location: Location, length: int, status: int, requester_id: int) -> None:
        """The bench made a host answer so."""
        if requester_id not in self.replay.config.engine_ids:
            self._injected.append((event, location, length, status))
        elif length and status != TIMEOUT:
            self._copy[location // PAGE] = STATUS_NAMES.get(status, str(status))

    def answered(self, cycle: int, what: str, agent: str, location: Location, length: int, issued: int, status: int) -> bool:
        """A requester was answered with ``status``; True when it has data."""
        hits = [error for error in self._injected
                if error[0] >= issued and error[1] < location + max(length, 1) and location < error[1] + max(error[2], 1)]
        if hits:
            self._injected.remove(hits[0])
        who = f"cycle {cycle}: the {what} of {agent} at "
        if status == SUCCESS:
            if hits and hits[0][3] != TIMEOUT:      # a late answer is still an answer
                given = STATUS_NAMES.get(hits[0][3], hits[0][3])
                self.replay.verdict.add("masked", f"{who}{self.replay.config.name(location)} succeeded although the host answered it with {given}")
            return True
        if not hits and status == TIMEOUT:
            self.replay.progress.timed_out(cycle, what, agent, location)
        elif not hits:
            name = "misdirected" if status in (1, 4) else "invented"
            ended = f"{self.replay.config.name(location)} ended with {STATUS_NAMES.get(status, status)}, which no host gave"
            self.replay.verdict.add(name, who + ended)
        return False

    def begun(self, page: int) -> None:
        """A new move of ``page``: what its copy met before does not count."""
        self._copy.pop(page, None)

    def committed(self, cycle: int, page: int) -> None:
        """``page`` was committed."""
        error = self._copy.pop(page, None)
        if error is not None:
            self.replay.verdict.add("masked", f"cycle {cycle}: page {page} was committed although a copy read of it ended with {error}")
