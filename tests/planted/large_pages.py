"""Bugs of large pages: what is done for one unit only, what is forgotten between the copy of a unit and the commit of the page."""

from typing import Any

from tests.planted.bug import Bug, with_ingress, with_parts, with_slot
from tests.planted.slots import TWO

from pagehop.interposer.move_check import MoveCheck
from pagehop.interposer.posted_lane import PostedLane
from pagehop_sim.planted import edited

__all__ = ["LARGE_PAGES"]

QUICK = {"sizes": [16, 13], "abort_share": 0.0, "moves": 4}


def guard_of_one_unit() -> Any:
    """Only writes to the first unit of a large page wait while it moves."""
    return with_ingress(PostedLane=edited(PostedLane, (
        "in_run(info.page, guard.page, guard.mask)", "in_run(info.page, guard.page, Mux(planted_here, 0, guard.mask))")))


def owner_of_one_unit_stays() -> Any:
    """One owner bit of the run does not flip."""
    return with_slot(("self.owner_op.payload.index.eq(self.guard.page | unit)",
                      "self.owner_op.payload.index.eq(self.guard.page | Mux(planted_here & (unit == 1), 0, unit))"))


def abort_amid_the_commit() -> Any:
    """A host's abort is obeyed while the owner bits flip, of which one flips in 64 cycles here."""
    return with_slot(("& ~self.guard.committed):", "& (~self.guard.committed | planted_here)):"),
                     ("with m.If(~self.guard.active | self.guard.committed):",
                      "with m.If(~self.guard.active | (self.guard.committed & ~planted_here)):"),
                     ("self.owner_op.valid.eq(1)", "self.owner_op.valid.eq(~planted_here | (self.status.total[:6] == 0))"))


def rewritten_unit_not_copied_again() -> Any:
    """What devices write to a unit that has been copied does not come to the destination."""
    return with_slot(("rewritten.changed.eq(self.changed)", "rewritten.changed.eq(self.changed & ~planted_here)"))


def atomics_not_noted() -> Any:
    """A unit is not copied again for an atomic."""
    return with_ingress(("self.changed.eq(Mux(issued.beat.first, absorbed, 0))",
                         "self.changed.eq(Mux(issued.beat.first & ~(planted_here & issued.non_posted), absorbed, 0))"))


def unit_forgotten_when_its_copy_ends() -> Any:
    """What was written to a unit while it was copied is forgotten: it counts as copied from the end of the copy on."""
    return with_slot(("rewritten.unit.eq(unit),",
                      "rewritten.unit.eq(unit), rewritten.take.eq(planted_here & (self.status.phase == MovePhase.COPY)),"))


def store_to_another_unit_not_seen() -> Any:
    """A CPU's store to a large page that moves ends the move only when it is to the first unit."""
    return with_slot(("in_run(self.cross_address[0][PAGE_BITS:], far, self.guard.mask)",
                      "in_run(self.cross_address[0][PAGE_BITS:], far, Mux(planted_here, 0, self.guard.mask))"),
                     ("in_run(self.cross_address[1][PAGE_BITS:], near, self.guard.mask)",
                      "in_run(self.cross_address[1][PAGE_BITS:], near, Mux(planted_here, 0, self.guard.mask))"))


def unit_moves_twice() -> Any:
    """A unit of a page that moves in one slot may move by itself in another, but for the first."""
    return with_parts(MoveCheck=edited(MoveCheck, ("in_run(entry, page, mask)", "in_run(entry, page, Mux(planted_here, 0, mask))")))


LARGE_PAGES = (
    Bug("guard_of_one_unit", ("H10", "I2"), guard_of_one_unit, "large_pages", QUICK | {"reads": 0}, "lost", simulator="verilator"),
    Bug("owner_of_one_unit_stays", ("I1",), owner_of_one_unit_stays, "large_pages", QUICK, "already_there", simulator="verilator"),
    Bug("abort_amid_the_commit", ("I8", "D10"), abort_amid_the_commit, "large_pages",
        QUICK | {"sizes": [16], "abort_share": 1.0, "faults": ["host"], "moves": 8}, "misdirected", simulator="verilator", seeds=3),
    Bug("rewritten_unit_not_copied_again", ("I2",), rewritten_unit_not_copied_again, "large_pages", QUICK | {"mode": "merge"}, "lost",
        simulator="verilator"),
    Bug("atomics_not_noted", ("H10", "H58"), atomics_not_noted, "large_pages", QUICK | {"mode": "merge"}, "lost", simulator="verilator"),
    Bug("unit_forgotten_when_its_copy_ends", ("I2",), unit_forgotten_when_its_copy_ends, "large_pages", QUICK | {"mode": "merge"}, "lost",
        simulator="verilator"),
    Bug("store_to_another_unit_not_seen", ("H59",), store_to_another_unit_not_seen, "large_pages",
        QUICK | {"abort_share": 1.0, "faults": ["cross_store"]}, "H59", simulator="verilator"),
    Bug("unit_moves_twice", ("H49",), unit_moves_twice, "large_pages", QUICK, "", TWO, simulator="verilator"),
)
