"""I2: at the commit the copy equals the page, and no copy write comes later."""

from typing import TYPE_CHECKING

from pagehop_tb.checker.space import PAGE, Location, host_name

if TYPE_CHECKING:
    from pagehop_tb.checker.replay import Replay

__all__ = ["EqualCopy"]


class EqualCopy:
    """*Lost*: bytes of the copy differ at the commit. *Duplicated*: the interposer wrote to a page where it is owned.

    When devices write to the page while it moves, the last of the copy may still be on its way at the commit, in front of all that the new owner is
    sent: then the copy must be equal when the first write of anybody else lands there, or when the move ends, and nothing of it comes later.
    """

    def __init__(self, replay: "Replay") -> None:
        self.replay = replay
        self.landing: dict[int, tuple[bytearray, int]] = {}    # page: what stands at its new place, and since which cycle it is owned there

    def lands(self, location: Location, data: bytes) -> bool:
        """A copy write reached the owner of its page; whether it was still to come."""
        landing = self.landing.get(location // PAGE)
        if landing is None:
            return False
        landing[0][location % PAGE:location % PAGE + len(data)] = data
        return True

    def ended(self, cycle: int, page: int) -> None:
        """Nothing of the copy may come any more: somebody else's write lands at the owner, or the move is over."""
        landing = self.landing.pop(page, None)
        if landing is not None:
            self._compare(cycle, page, landing[0], f"committed in cycle {landing[1]}")

    def late(self, cycle: int, location: Location, host: int) -> None:
        """A copy write reached the owner of its page: it stands over what the owner may have taken since (H03)."""
        place = f"{self.replay.config.name(location)} at {host_name(host)}"
        self.replay.verdict.add("duplicated", f"cycle {cycle}: the interposer wrote {place}, which owns it (late copy)")

    def committed(self, cycle: int, page: int, host: int, absorbs: bool) -> None:
        """``page`` belongs to ``host`` from here on. What is held is not visible yet, at neither host, so the two places must be equal.

        With ``absorbs`` what was written to the page stands in the reference, and the last of the copy may be on its way.
        """
        self.landing.pop(page, None)
        copy = self.replay.shadow.get(page, bytearray(PAGE))
        if absorbs:
            self.landing[page] = bytearray(copy), cycle
        else:
            self._compare(cycle, page, copy, f"committed to {host_name(host)}")

    def _compare(self, cycle: int, page: int, copy: bytes | bytearray, what: str) -> None:
        there = self.replay.image.get(page, bytes(PAGE))
        if there != copy:
            different = [i for i in range(PAGE) if there[i] != copy[i]]
            story = f"cycle {cycle}: {len(different)} bytes of the copy of page {page}, {what}, differ, first {different[0]:#05x}"
            self.replay.verdict.add("lost", story)
