# amaranth: UnusedElaboratable=no
"""Some of the planted bugs, one or more for each bench; ``make mutants`` runs all. A bench that a bug survives proves nothing about that rule."""

import pytest

from pagehop.tlp.egress import Egress
from pagehop_sim.planted import planted
from pagehop_sim.testplan import registry

BUGS = {bug.name: bug for bug in registry()[0]}

#: Those that are found soonest in each bench, and those whose absence would hurt most.
SOME = (
    "copy_not_flushed", "commit_before_the_copy", "atomics_not_awaited", "gate_not_closed", "done_before_the_drain_is_visible",
    "done_before_old_reads_are_answered", "aborted_writes_to_the_destination", "answer_before_the_other_flush", "reply_passes_writes",
    "id_ordering_kept",
)


@pytest.mark.parametrize("name", SOME)
def test_planted_bug_is_found(bench, name):
    bug = BUGS[name]
    design = bug.design()

    def broken(**hardware):
        return design(**hardware)

    broken.__qualname__ = name
    outcome = bench(bug.bench, bug.simulator, dict(bug.parameters), dict(bug.hardware), design=broken, check=False)
    assert outcome.failures, f"{bug.bench} does not find {name}, which is {', '.join(bug.covers)}"
    violations = {name: count for name, count in ((outcome.result or {}).get("violations") or {}).items() if count}
    assert bug.found(violations, outcome.failures), f"{name} was found as something else: {violations} {outcome.failures}"


def test_a_planted_bug_must_fit():
    with pytest.raises(ValueError, match="must contain"):
        planted(Egress, "no such line", "")
