"""I7: everything ends in time, and is answered once."""

from typing import TYPE_CHECKING

from pagehop_tb.checker.space import Location

if TYPE_CHECKING:
    from pagehop_tb.checker.replay import Replay

__all__ = ["Progress"]


class Progress:
    """*Stuck*: a hold beyond its limit, a request that timed out or was never answered. *Duplicated*: a second answer to one request."""

    def __init__(self, replay: "Replay") -> None:
        self.replay = replay
        self._held_since: int | None = None

    def holding(self, cycle: int, level: int) -> None:
        """The hardware began (1) or ended (0) to hold accesses."""
        if level:
            self._held_since = cycle
        elif self._held_since is not None:
            held, config = cycle - self._held_since, self.replay.config
            if config.hold_limit is not None and held > config.hold_limit + config.slack:
                self.replay.verdict.add("stuck", f"cycle {cycle}: a page was held for {held} cycles, limit {config.hold_limit}")
            self._held_since = None

    def answered_again(self, cycle: int, what: str, key: int) -> None:
        """An answer came to a request that is not open."""
        self.replay.verdict.add("duplicated", f"cycle {cycle}: {what} was answered that was not open (key {key})")

    def timed_out(self, cycle: int, what: str, agent: str, location: Location) -> None:
        """A requester gave up, and the bench had not told a host to keep silent."""
        self.replay.verdict.add("stuck", f"cycle {cycle}: the {what} of {agent} at {self.replay.config.name(location)} was never answered")

    def at_end(self) -> None:
        """The run is over."""
        replay = self.replay
        for opened in replay.open_reads.values():
            asked = f"the read of {opened.length} bytes by {opened.agent} at {replay.config.name(opened.location)}"
            replay.verdict.add("stuck", f"{asked} in cycle {replay.cycle_of(opened.issued)} was never answered")
        for index in replay.open_atomics.values():
            replay.verdict.add("stuck", f"{replay.told(index)} was never answered")
        if self._held_since is not None:
            replay.verdict.add("stuck", f"a page is held since cycle {self._held_since}")
