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
        self._held_since: dict[int, int] = {}   # slot: cycle

    def holding(self, cycle: int, level: int) -> None:
        """The hardware holds accesses to the pages of these slots, a bit each, from now on."""
        config = self.replay.config
        for slot in range(level.bit_length()):
            if level >> slot & 1:
                self._held_since.setdefault(slot, cycle)
        for slot in [slot for slot in self._held_since if not level >> slot & 1]:
            held = cycle - self._held_since.pop(slot)
            if config.hold_limit is not None and held > config.hold_limit + config.slack:
                self.replay.verdict.add("stuck", f"cycle {cycle}: a page was held for {held} cycles, limit {config.hold_limit}")

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
        for cycle in self._held_since.values():
            replay.verdict.add("stuck", f"a page is held since cycle {cycle}")
