"""The checker on random histories of an abstract machine: none of the legal ones is called wrong, and every planted bug is found."""

import importlib.util
from pathlib import Path

import pytest

from pagehop_tb.checker.check import check

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
