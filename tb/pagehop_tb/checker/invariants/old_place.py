"""I13: when a move is reported as done, nothing uses the old place any more, and all that was held is visible at the new one."""

from typing import TYPE_CHECKING

from pagehop_tb.checker.space import PAGE, Location, host_name

if TYPE_CHECKING:
    from pagehop_tb.checker.replay import Replay

__all__ = ["OldPlace"]


class OldPlace:
    """*Misdirected*: a read took bytes of the old place after the end of the move (H12). *Stale*: a write sent before the commit was not visible
    yet at the end of the move, so a CPU that maps the page then would miss it (H60)."""

    def __init__(self, replay: "Replay") -> None:
        self.replay = replay
        self._left: set[int] = set()                    # pages whose last move was reported as done

    def begun(self, page: int) -> None:
        """A new move of ``page`` was asked for."""
        self._left.discard(page)

    def served(self, cycle: int, requester_id: int, location: Location, host: int) -> bool:
        """A read took its bytes at ``host``, which does not own them; True when the place had been given up."""
        if location // PAGE not in self._left:
            return False
        story = f"cycle {cycle}: a read of requester {requester_id:#06x} was served from the old place of {self.replay.config.name(location)}"
        self.replay.verdict.add("misdirected", f"{story} at {host_name(host)} after its move was reported as done")
        return True

    def ended(self, cycle: int, page: int, moved: bool) -> None:
        """The driver has learnt the end of the move of ``page``."""
        if not moved:
            return
        self._left.add(page)
        committed = self.replay.committed_at.get(page, -1)
        for index in self.replay.unperformed.get(page, ()):
            if self.replay.writes[index].event < committed:
                story = f"cycle {cycle}: the move of page {page} was reported as done before {self.replay.told(index)} was visible"
                self.replay.verdict.add("stale", story)
