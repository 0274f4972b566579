"""I4: nobody reads the copy before the commit, nor the old place after it."""

from typing import TYPE_CHECKING

from pagehop_tb.checker.space import PAGE, Location, host_name

if TYPE_CHECKING:
    from pagehop_tb.checker.replay import Replay

__all__ = ["UnseenCopy"]


class UnseenCopy:
    """*Misdirected*: a read was served where its page is not owned, and it was not on its way there since before the last commit (H12)."""

    def __init__(self, replay: "Replay") -> None:
        self.replay = replay

    def served(self, cycle: int, requester_id: int, location: Location, host: int) -> None:
        """A read of a device or CPU took its bytes at ``host``, which does not own them."""
        page = location // PAGE
        since = self.replay.committed_at.get(page, -1)
        if not any(opened.issued < since and opened.location // PAGE == page for opened in self.replay.open_reads.values()):
            story = f"cycle {cycle}: a read of requester {requester_id:#06x} was served at {host_name(host)}, which does not own"
            self.replay.verdict.add("misdirected", f"{story} {self.replay.config.name(location)}")
