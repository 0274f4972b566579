"""Litmus cases: what must never be seen is not, and is as soon as the rule that forbids it is left out. A case that cannot fail proves nothing."""

import pytest
from tests.planted.litmus import LITMUS, SHOWN, SLOW

from pagehop_tb.benches.litmus_cases import CASES, LEFT_OUT, NOT_RUN, variants

HARDWARE = {"data_bytes": 64, "window_pages": 128}   # as most tests, which share what is built


def shown(outcome, case, label):
    """How often the forbidden outcome of a variant was seen."""
    assert outcome.result, f"the run ended before it counted anything: {outcome.failures}"
    return outcome.result["litmus"][case][label]["forbidden"]


def demand(outcome, shows, what):
    """Each case shows it, in one of its variants: which one of a mirrored pair is chance in a short run."""
    missing = [case for case, labels in shows.items() if not any(shown(outcome, case, label) for label in labels)]
    assert not missing, f"{what} is left out, and nothing shows it in {', '.join(missing)}"


@pytest.mark.hazard("H04", "H17", "H18", "H24e", "H61", "H62", "H63", "H64", "O1", "O3", "O9", "I5", "I6")
def test_cases_hold_and_fail_as_the_table_says(bench, simulator):
    parameters = SLOW | ({"rounds": 12, "judged_rounds": 1} if simulator == "verilator" else {"rounds": 1, "judged_rounds": 0})
    cases = bench("litmus", simulator, parameters, HARDWARE, check=simulator == "verilator").result["litmus"]
    assert set(cases) == set(CASES)
    for name, case in CASES.items():
        assert set(cases[name]) == {variant.label for variant in variants(case)}
        if case.promised:
            assert not any(found["forbidden"] for found in cases[name].values() if found["expected"] == "never"), name


@pytest.mark.hazard("H04")
def test_the_fence_policy_ends_what_other_paths_show(bench):
    names = [name for name, case in CASES.items() if case.fence]
    # Few at once: with a fence before everything that changes hosts many would wait for each other.
    parameters = SLOW | {"rounds": 20, "judged_rounds": 0, "fence": True, "cases": names, "workers": 8}
    outcome = bench("litmus", "verilator", parameters, HARDWARE, check=False)
    assert not outcome.failures
    cases = outcome.result["litmus"]
    assert all(found["forbidden"] == 0 and found["expected"] == "never" for name in names for found in cases[name].values())


@pytest.mark.hazard("H63", "O9")
@pytest.mark.parametrize("rule", LEFT_OUT)
def test_rule_left_out_is_seen(bench, rule):
    shows = LEFT_OUT[rule].shows
    # What only a crossing on the way down shows is rare, and what only a configuration request shows.
    rounds = {"down_in_order": 120, "requests_push": 75}.get(rule, 25)
    parameters = SLOW | {"rounds": rounds, "judged_rounds": 0, "left_out": rule, "cases": list(shows)}
    outcome = bench("litmus", "verilator", parameters, HARDWARE, check=False)
    demand(outcome, shows, rule)


@pytest.mark.hazard("H17", "H18", "H61", "H62", "H64", "O1", "O3")
@pytest.mark.parametrize("bug", LITMUS, ids=lambda bug: bug.name)
def test_planted_bug_is_seen(bench, broken, bug):
    built = broken(bug.name)
    outcome = bench("litmus", built.simulator, dict(bug.parameters), dict(bug.hardware), built=built, check=False)
    demand(outcome, SHOWN[bug.design.__name__], bug.design.__doc__)


def test_every_case_has_a_rule_that_shows_it():
    shown_by = {name for left in LEFT_OUT.values() for name in left.shows}
    assert {name for name, case in CASES.items() if case.promised and case.fails is None} <= shown_by
    assert NOT_RUN
