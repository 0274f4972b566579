# amaranth: UnusedElaboratable=no
"""A few of the planted bugs; a bench that a bug survives proves nothing about that rule. ``make mutants`` runs all."""

import pytest
from tests.planted.regression import REGRESSION, SOME

from pagehop.tlp.egress import Egress
from pagehop_sim.mutants import Together, runs
from pagehop_sim.planted import planted

BUGS = {bug.name: bug for bug in REGRESSION}


@pytest.mark.parametrize("name", SOME)
def test_planted_bug_is_found(bench, broken, name):
    bug, built = BUGS[name], broken(name)
    outcome = bench(bug.bench, built.simulator, dict(bug.parameters), dict(bug.hardware), built=built, check=False)
    assert outcome.failures, f"{bug.bench} does not find {name}, which is {', '.join(bug.covers)}"
    violations = {name: count for name, count in ((outcome.result or {}).get("violations") or {}).items() if count}
    assert bug.found(violations, outcome.failures), f"{name} was found as something else: {violations} {outcome.failures}"


def test_nothing_is_found_without_a_bug():
    together = Together(REGRESSION)
    for same in runs(BUGS[name] for name in SOME):
        together.healthy(same)


def test_a_planted_bug_must_fit():
    with pytest.raises(ValueError, match="must contain"):
        planted(Egress, "no such line", "")
