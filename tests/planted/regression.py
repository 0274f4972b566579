"""The planted bugs that ``make test`` runs, in one design: elaborating and compiling it takes longer than all of their runs."""

from typing import Any

from tests.planted.bug import Bug, with_parts
from tests.planted.bugs import BUGS
from tests.planted.litmus import LITMUS

from pagehop.interposer.move_check import MoveCheck
from pagehop_sim.planted import edited

__all__ = ["REGRESSION", "SOME"]

#: Those that are found soonest, and whose absence would hurt most. ``make mutants`` runs all.
SOME = ("copy_not_flushed", "gate_not_closed", "aborted_writes_to_the_destination", "answer_before_the_other_flush", "reply_passes_writes")


def moves_to_where_it_is() -> Any:
    """The owner is not asked whether the page is there already: the place where it is not would be copied over it."""
    return with_parts(MoveCheck=edited(MoveCheck, ("with m.Elif(self.owner == request.to_host):", "with m.Elif(0):")))


REGRESSION: tuple[Bug, ...] = (
    *(bug for bug in BUGS if bug.name in SOME), *LITMUS, Bug("moves_to_where_it_is", ("I1",), moves_to_where_it_is, "uvm", {}, ""))
