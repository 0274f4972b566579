"""Devices that keep translations, as far as their messages go (PCIe base specification, chapter 10): invalidations and how they are answered."""

import random
from dataclasses import dataclass, field

__all__ = ["AtsDevice", "Completion", "Manner", "Received"]

#: ITags of a device, and completions that one invalidation may take: a count of 0 says 8.
ITAGS, MOST_COMPLETIONS = 32, 8


@dataclass(frozen=True)
class Completion:
    """An Invalidate Completion as it is sent."""
    requester_id: int
    itags: int
    count: int


@dataclass(frozen=True)
class Manner:
    """How a device answers an invalidation.

    ``count``: completions, one a traffic class. ``delays``: cycles to each, least and most. ``missing``: so many of them never come.
    ``strays``: so many times another device answers with the same ITag before.
    """
    count: int = 1
    delays: tuple[int, int] = (1, 40)
    missing: int = 0
    strays: int = 0

    def __post_init__(self) -> None:
        if not 1 <= self.count <= MOST_COMPLETIONS or not 0 <= self.missing <= self.count:
            raise ValueError(f"An invalidation takes 1 to 8 completions, of which not more can be missing, not {self.count} and {self.missing}")


@dataclass
class Received:
    """An invalidation at a device. ``due``: cycles in which completions are to be sent; ``left``: how many are still to be heard by the IOMMU."""
    itag: int
    payload: int
    process: int | None
    cycle: int
    manner: Manner
    due: list[int] = field(default_factory=list)
    left: int = 0


class AtsDevice:
    """One device. It may use what it was told to forget until it has sent the last completion (H32); so the IOMMU may not use an ITag again before
    it has heard that. :meth:`invalidate` raises when it does."""

    def __init__(self, requester_id: int, rng: random.Random) -> None:
        self.requester_id, self.rng = requester_id, rng
        self.outstanding: dict[int, Received] = {}

    def invalidate(self, cycle: int, itag: int, payload: int, process: int | None, manner: Manner) -> Received:
        """An Invalidate Request comes."""
        if not 0 <= itag < ITAGS or payload >> 1 & 0x3FF:
            raise ValueError(f"An invalidation with ITag {itag} and payload {payload:#x} is malformed")
        if itag in self.outstanding:
            raise AssertionError(f"ITag {itag} is used again by {self.requester_id:#x} while {self.outstanding[itag]} is outstanding")
        due = sorted(cycle + self.rng.randint(*manner.delays) for _ in range(manner.count))
        one = Received(itag, payload, process, cycle, manner, due[:manner.count - manner.missing], manner.count)
        self.outstanding[itag] = one
        return one

    def reset(self) -> None:
        """A reset of the device: it forgets all, and answers nothing more."""
        self.outstanding.clear()

    def completion(self, cycle: int) -> Completion | None:
        """What the device sends now, if anything is due. Those that say the same count may go in one message."""
        ready = [one for one in self.outstanding.values() if one.due and one.due[0] <= cycle]
        if not ready:
            return None
        first = self.rng.choice(ready)
        together = [one for one in ready if one is first or (one.manner.count == first.manner.count and self.rng.random() < 0.7)]
        for one in together:
            one.due.pop(0)
        return Completion(self.requester_id, sum(1 << one.itag for one in together), first.manner.count % MOST_COMPLETIONS)

    def heard(self, itags: int) -> list[Received]:
        """The IOMMU has taken a completion with these ITags. Returns what it ended."""
        ended = []
        for itag in range(ITAGS):
            if itags >> itag & 1:
                one = self.outstanding[itag]
                one.left -= 1
                if not one.left:
                    ended.append(self.outstanding.pop(itag))
        return ended
