"""I2: at the commit the copy equals the page, and no copy write comes later."""

from typing import TYPE_CHECKING

from pagehop_tb.checker.space import PAGE, Location, host_name

if TYPE_CHECKING:
    from pagehop_tb.checker.replay import Replay

__all__ = ["EqualCopy"]


class EqualCopy:
    """*Lost*: bytes of the copy differ at the commit. *Duplicated*: the interposer wrote to a page where it is owned."""

    def __init__(self, replay: "Replay") -> None:
        self.replay = replay

    def late(self, cycle: int, location: Location, host: int) -> None:
        """A copy write reached the owner of its page: it stands over what the owner may have taken since (H03)."""
        place = f"{self.replay.config.name(location)} at {host_name(host)}"
        self.replay.verdict.add("duplicated", f"cycle {cycle}: the interposer wrote {place}, which owns it (late copy)")

    def committed(self, cycle: int, page: int, host: int) -> None:
        """``page`` belongs to ``host`` from here on. What is held is not visible yet, at neither host, so the two places must be equal."""
        empty = bytes(PAGE)
        page_there, copy = self.replay.image.get(page, empty), self.replay.shadow.get(page, empty)
        if page_there != copy:
            different = [i for i in range(PAGE) if page_there[i] != copy[i]]
            story = f"cycle {cycle}: at the commit of page {page} to {host_name(host)}"
            self.replay.verdict.add("lost", f"{story} {len(different)} bytes of the copy differ, first {different[0]:#05x}")
