"""The checker on random histories of an abstract machine: none of the legal ones is called wrong, and every planted bug is found."""

import importlib.util
from pathlib import Path

import pytest

from pagehop_tb.checker.check import check
from pagehop_tb.checker.log import Kind
from pagehop_tb.checker.speed import made_up_run, measure_checker

_SPEC = importlib.util.spec_from_file_location("abstract_machine", Path(__file__).with_name("abstract_machine.py"))
assert _SPEC is not None and _SPEC.loader is not None
machine = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(machine)


def verdict_of(seed: int, bug: str = ""):
    run = machine.Machine(seed, bug)
    return check(run.log, run.config, run.read_memory)


@pytest.mark.parametrize("seed", range(12))
def test_a_correct_machine_is_never_called_wrong(seed):
    verdict = verdict_of(seed)
    assert verdict.ok, verdict.text()
    assert verdict.checked["read_bytes"] > 1000
    assert verdict.measured["pages"]["moved"] > 2


@pytest.mark.parametrize("bug", machine.BUGS)
def test_a_planted_bug_is_found(bug):
    found = [seed for seed in range(10) if not verdict_of(seed, bug).ok]
    assert len(found) >= 3, f"{machine.BUGS[bug]} {bug}: found with seeds {found} of 10 only"


def test_the_made_up_run_is_legal_and_measured():
    values = measure_checker(20_000)
    assert {name for name, entry in values.items() if entry["limit"] is not None} == {"checker_seconds", "log_bytes_per_event"}
    assert values["log_bytes_per_event"]["value"] < values["log_bytes_per_event"]["limit"]


def test_a_long_circle_is_told_in_two_accesses():
    """One stale value at the end of a long run ties most of it into one knot; the story is short all the same."""
    log, config = made_up_run(20_000)
    reads = {entry[5]: entry for entry in log.events if entry[0] == Kind.DEVICE_READ}
    for at, done in reversed(list(enumerate(log.events))):
        if done[0] == Kind.DEVICE_READ_DONE and len(done[3]) == 8:
            address = reads[done[2]][3]
            older = [entry for entry in log.events[:at] if entry[0] == Kind.DEVICE_WRITE and entry[3] == address and not entry[6]]
            if len(older) > 1:
                break
    assert done[1] - older[0][1] > 1000, "the first write of the place is not long ago"
    log.events[at] = (*done[:3], older[0][4][:8], 0)
    verdict = check(log, config, None)
    assert verdict.violations["stale"] == 1 and verdict.hazards == ["H22"]
    assert "2 accesses in a circle" in verdict.text(), verdict.text()
    assert verdict.windows[0][1] == done[1]
