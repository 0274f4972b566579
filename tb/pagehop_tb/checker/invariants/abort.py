"""I8: an abort before the commit leaves everything as it was, and after the commit there is none."""

from typing import TYPE_CHECKING

from pagehop_tb.checker.space import host_name

if TYPE_CHECKING:
    from pagehop_tb.checker.replay import Replay

__all__ = ["Abort"]


class Abort:
    """*Misdirected*: a move that had been committed was reported as failed. *Masked*: one was reported as done and had not been committed.

    That nothing is lost or changed by an abort is seen elsewhere: held writes go to the owner once (I1, I3), nothing of the copy reaches it (I2),
    and its memory is compared at the end.
    """

    def __init__(self, replay: "Replay") -> None:
        self.replay = replay
        self._begun: dict[int, int] = {}        # page: event of the request of its last move

    def begun(self, event: int, page: int) -> None:
        """The driver has asked for a move of ``page``."""
        self._begun[page] = event

    def ended(self, cycle: int, page: int, host: int, moved: bool) -> None:
        """The driver has learnt how the move of ``page`` to ``host`` ended."""
        committed = self.replay.committed_at.get(page)
        if moved and committed is None:
            self.replay.verdict.add("masked", f"cycle {cycle}: the move of page {page} was reported as done and never committed")
        elif not moved and committed is not None and committed > self._begun.get(page, committed):
            story = f"cycle {cycle}: the move of page {page} to {host_name(host)} was reported as failed after its commit"
            self.replay.verdict.add("misdirected", story)
