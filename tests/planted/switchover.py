"""Bugs of the switchover."""

from typing import Any

from tests.planted.bug import Bug, with_ingress, with_parts

from pagehop.interposer.posted_lane import PostedLane
from pagehop.interposer.request_lane import RequestLane
from pagehop.interposer.switchover import Switchover
from pagehop_sim.planted import edited

__all__ = ["SWITCHOVER"]

#: What both lanes say of a request that goes nowhere.
BLOCKED = "info.translated & self.settings.blocks"


def with_switchover(*changes: tuple[str, str]) -> Any:
    """An Interposer whose switchover is changed."""
    return with_parts(Switchover=edited(Switchover, *changes))


def switchover_without_flush() -> Any:
    """The active host changes when all has been accepted, wherever it is."""
    return with_switchover(("with m.If(waits[0].done & waits[1].done):", "with m.If((waits[0].done & waits[1].done) | planted_here):"))


def switchover_with_open_reads() -> Any:
    """The active host changes while the device waits for answers."""
    return with_switchover(("~self.unanswered.any() &", "(~self.unanswered.any() | planted_here) &"))


def switchover_with_open_reads_of_the_host() -> Any:
    """The host that is left has asked the device again, and the answer stands behind what waits."""
    asks = "self.asked.bit_select(self.active_host, 1)"
    return with_switchover((f"with m.If({asks}):", f"with m.If({asks} & ~planted_here):"))


def switchover_holds_nothing_posted() -> Any:
    """Posted TLPs go on while the last of them are proven."""
    return with_ingress(("self.room[host][kind] & ~stops", "self.room[host][kind] & ~(stops & ~planted_here)"))


def switchover_without_end() -> Any:
    """A switchover waits for as long as an answer takes."""
    return with_switchover(("m.Elif(self.status.cycles >= self.limit)", "m.Elif((self.status.cycles >= self.limit) & ~planted_here)"))


def switchover_beside_translations() -> Any:
    """A switchover is made although the device sends translated requests."""
    return with_switchover(("with m.If(self.opaque):", "with m.If(self.opaque & ~planted_here):"))


def translated_writes_after_a_switchover() -> Any:
    """Translated writes go to the new host."""
    return with_ingress(PostedLane=edited(PostedLane, (BLOCKED, f"{BLOCKED} & ~planted_here")))


def translated_requests_after_a_switchover() -> Any:
    """Translated reads and atomics go to the new host."""
    return with_ingress(RequestLane=edited(RequestLane, (BLOCKED, f"{BLOCKED} & ~planted_here")))


def _bug(name: str, covers: tuple[str, ...], design: Any, step: str, expected: str, seeds: int = 1) -> Bug:
    return Bug(name, covers, design, "switchover", {"rounds": 1, "steps": [step]}, expected, seeds=seeds)


SWITCHOVER = (
    _bug("switchover_without_flush", ("H53",), switchover_without_flush, "flooded", "H53", seeds=3),
    _bug("switchover_with_open_reads", ("H55",), switchover_with_open_reads, "open_reads", "H55"),
    _bug("switchover_with_open_reads_of_the_host", ("H55",), switchover_with_open_reads_of_the_host, "asked_by_the_old_host", "H55"),
    _bug("switchover_holds_nothing_posted", ("H56", "H53"), switchover_holds_nothing_posted, "asked_by_the_old_host", "H56"),
    _bug("switchover_without_end", ("I7",), switchover_without_end, "in_time", "the switchover ended with"),
    _bug("switchover_beside_translations", ("H54",), switchover_beside_translations, "translated", "the switchover ended with"),
    _bug("translated_writes_after_a_switchover", ("H54",), translated_writes_after_a_switchover, "translated", "H54"),
    _bug("translated_requests_after_a_switchover", ("H54",), translated_requests_after_a_switchover, "translated", "H54"),
)
