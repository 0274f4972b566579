# amaranth: UnusedElaboratable=no
"""Litmus cases: what must never be seen is not, and is as soon as the rule that forbids it is left out. A case that cannot fail proves nothing."""


import pytest
from amaranth.hdl import Const

from pagehop.interposer import top
from pagehop.interposer.completion_lane import CompletionLane
from pagehop.interposer.device_ingress import DeviceIngress
from pagehop.interposer.earlier import Earlier
from pagehop.interposer.host_ingress import HostIngress
from pagehop.interposer.host_requests import HostRequests
from pagehop.tlp.egress import Egress
from pagehop_sim.planted import planted
from pagehop_tb.benches.litmus_cases import CASES, LEFT_OUT, NOT_RUN, variants

HARDWARE = {"data_bytes": 64, "window_pages": 128}   # as most tests, which share what is built
SLOW = {"write_delay": [0, 300], "read_delay": [0, 300], "hold_limit": 200_000, "completion_limit": 100_000}


def early(*_):
    """Nothing has to go before."""
    return Const(1)


def early_at_the_ingress():
    """O1 left out: requests and completions leave every ingress before earlier posted writes (H61, H18)."""
    device = planted(DeviceIngress, "", "", Earlier=planted(Earlier, "", "", may_go=early))
    host = planted(HostIngress, "", "", may_go=early, CompletionLane=planted(CompletionLane, "", "", may_go=early),
                   HostRequests=planted(HostRequests, "", "", may_go=early))
    return planted(top.Interposer, "", "", DeviceIngress=device, _Host=planted(top._Host, "", "", HostIngress=host))


def early_at_the_egress():
    """O3 left out: requests and completions leave every egress before posted writes that were accepted earlier. Copy and flush reads do not."""
    egress = planted(Egress, "(1, 1) if lane == POSTED else", "(1, 1) if lane != EgressLane.ENGINE else")
    return planted(top.Interposer, "", "", Egress=egress, _Host=planted(top._Host, "", "", Egress=egress))


def ido_kept_and_completions_not_held():
    """IDO goes through to the hosts (H62), and a completion does not wait for writes at the other host (H64): no case needs both."""
    ingress = planted(HostIngress, "", "", CompletionLane=planted(CompletionLane, "", "", reached=early))
    return planted(top.Interposer, "", "", _Host=planted(top._Host, "clear_ido=True", "clear_ido=False", HostIngress=ingress))


FAR_FLAG, FAR_DATA, ANY = ("XY=AB a", "XY=BA b"), ("XY=BA a", "XY=AB b"), ("X=A a", "X=A b", "X=B a", "X=B b")

#: Planted bug, how often egresses are full, the rounds, and what must show it: each case in one of these variants.
BUGS = [
    (early_at_the_ingress, 0.7, 20, {
        "atomic_flag": ("XY=AA a", "XY=BB b", *FAR_FLAG, *FAR_DATA), "status": ANY, "peer_told": ("X=A -", "X=B -")}),
    (early_at_the_egress, 0.7, 20, {"flag": FAR_FLAG + FAR_DATA, "doorbell": ("X=B a", "X=A b"), "status": ANY}),
    (ido_kept_and_completions_not_held, 0.1, 24, {
        "flush": FAR_FLAG, "doorbell_ido": ("X=B a", "X=A b"), "cpu_read_ido": FAR_DATA, "cpu_flag_device_ido": FAR_DATA}),
]


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
@pytest.mark.parametrize(("bug", "clogs", "rounds", "shows"), BUGS, ids=[bug[0].__name__ for bug in BUGS])
def test_planted_bug_is_seen(bench, bug, clogs, rounds, shows):
    design = bug()

    def broken(**hardware):
        return design(**hardware)

    broken.__qualname__ = f"litmus_{bug.__name__}"
    # Not all at once: egresses must fill more than once while rounds run.
    parameters = SLOW | {"workers": 48, "clogs": clogs, "mood_cycles": 2000, "rounds": rounds, "judged_rounds": 0, "left_out": "hardware",
                         "cases": list(shows)}
    outcome = bench("litmus", "icarus", parameters, HARDWARE, design=broken, check=False)
    demand(outcome, shows, bug.__doc__)


def test_every_case_has_a_rule_that_shows_it():
    shown_by = {name for left in LEFT_OUT.values() for name in left.shows}
    assert {name for name, case in CASES.items() if case.promised and case.fails is None} <= shown_by
    assert NOT_RUN
