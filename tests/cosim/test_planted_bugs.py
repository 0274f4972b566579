# amaranth: UnusedElaboratable=no
"""A few of the planted bugs; a bench that a bug survives proves nothing about that rule. ``make mutants`` runs all, in one design on Verilator; here
each is a design of its own, on Icarus, as the benches run for a change."""

import pytest

from pagehop.tlp.egress import Egress
from pagehop_sim.planted import planted
from pagehop_sim.testplan import registry

BUGS = {bug.name: bug for bug in registry()[0]}

#: Those that are found soonest, and whose absence would hurt most. Each takes half a minute to elaborate.
SOME = ("copy_not_flushed", "gate_not_closed", "aborted_writes_to_the_destination", "answer_before_the_other_flush", "reply_passes_writes")


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
