"""I1: a page has one owner, and writes are performed there."""

from typing import TYPE_CHECKING

from pagehop_tb.checker.space import Location, host_name

if TYPE_CHECKING:
    from pagehop_tb.checker.replay import Replay

__all__ = ["OneOwner"]


class OneOwner:
    """*Misdirected*: a write or atomic at a host that does not own its page, or a commit to the host that owns it already."""

    def __init__(self, replay: "Replay") -> None:
        self.replay = replay

    def performed(self, cycle: int, what: str, requester_id: int, location: Location, host: int) -> None:
        """``what`` (a write, an atomic) was performed at ``host``."""
        if not self.replay.is_owner(location, host):
            place = f"{self.replay.config.name(location)} was performed at {host_name(host)}, which does not own it"
            self.replay.verdict.add("misdirected", f"cycle {cycle}: a {what} of requester {requester_id:#06x} to {place}")

    def committed(self, cycle: int, page: int, host: int) -> bool:
        """The hardware says that ``page`` belongs to ``host`` now; whether that can be."""
        if self.replay.owners.get(page, 0) != host:
            return True
        self.replay.verdict.add("misdirected", f"cycle {cycle}: page {page} was committed to {host_name(host)}, which owned it already")
        return False
