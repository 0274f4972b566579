"""I3: every accepted write is performed exactly once, and so is every atomic."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

from pagehop_tb.checker.records import Write
from pagehop_tb.checker.space import Location

if TYPE_CHECKING:
    from pagehop_tb.checker.replay import Replay

__all__ = ["ExactlyOnce"]


class ExactlyOnce:
    """*Duplicated*: performed once more. *Invented*: performed or answered as nobody asked. *Lost*: answered or accepted, and never performed.

    A write that a later one overwrote before it was visible would be superseded, not lost; the interposer does not do that.
    """

    def __init__(self, replay: "Replay") -> None:
        self.replay = replay

    def unasked_write(self, cycle: int, requester_id: int, location: Location, again: bool) -> None:
        """A write was performed that nobody waits for; ``again``: one like it was performed before."""
        story = f"cycle {cycle}: a write of requester {requester_id:#06x} to {self.replay.config.name(location)}"
        self.replay.verdict.add(*(("duplicated", f"{story} was performed once more") if again else ("invented", f"{story} that no device made")))

    def unasked_atomic(self, cycle: int, op: str, requester_id: int, location: Location, new: bytes, others: bool) -> None:
        """An atomic was performed that nobody waits for; ``others``: atomics at this place are open, but none that does this."""
        story = f"cycle {cycle}: a {op} of requester {requester_id:#06x} to {self.replay.config.name(location)}"
        self.replay.verdict.add("invented" if others else "duplicated", f"{story} left {new.hex()} and no open atomic does that")

    def wrong_answer(self, cycle: int, write: Write, old: bytes, performed: bool) -> None:
        """An atomic was answered with what memory did not give; ``performed``: one like it was performed and is not answered yet."""
        assert write.atomic is not None, "only an atomic is answered with a value"
        story = f"cycle {cycle}: the {write.atomic[0]} of {write.agent} at {self.replay.config.name(write.location)}"
        if performed:
            self.replay.verdict.add("invented", f"{story} brought {old.hex()}, which memory never gave to one like it")
        else:
            self.replay.verdict.add("lost", f"{story} was answered and never performed")

    def at_end(self, waiting: Iterable[int]) -> None:
        """The run is over; ``waiting`` are the writes that were never performed."""
        for index in waiting:
            self.replay.verdict.add("lost", f"{self.replay.told(index)} was never performed")
