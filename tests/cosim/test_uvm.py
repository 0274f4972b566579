# amaranth: UnusedElaboratable=no
"""The pyuvm environment: its tests pass, cover what they are there for, and see a fault; coverage of several runs is one."""

import os
from pathlib import Path

import pytest
import yaml

from pagehop_sim.build import build
from pagehop_sim.coverage import HARDWARE, Bin, Report, Run, merge, simulate, write_page
from pagehop_sim.run import run
from pagehop_sim.toolchain import build_root
from pagehop_sim.verilog import PARAMETERS, generate
from pagehop_tb.uvm.bins import GROUPS, UNREACHABLE, excluded, rows

#: Short runs. All reachable bins take longer: `python -m pagehop_sim.coverage`.
RUNS = (Run("Faults", 1, {}), Run("Refusals", 1, {}))
#: Groups that these runs close by themselves: what they do there is not left to chance.
CLOSED = ("moves", "stops", "too late", "hosts", "bytes", "attributes")


def folder(name):
    return build_root() / "test" / "cosim" / name


@pytest.fixture(scope="module")
def report():
    """The short runs, made once by each process of the tests that has any of these: two must not write to one folder."""
    target = folder(f"uvm-{os.environ.get('PYTEST_XDIST_WORKER', 'alone')}")
    return merge(simulate(RUNS, target), target / "coverage.yml")


def test_short_runs_close_groups_and_reach_nothing_unreachable(report):
    missing = [(one.group, one.names) for one in report.bins if one.group in CLOSED and one.verdict == "missing"]
    assert not missing, f"not reached: {missing}"
    refuted = [(one.group, one.names) for one in report.bins if one.verdict == "refuted"]
    assert not refuted, f"hit although there is a reason why it cannot be: {refuted}"


def test_a_lost_write_fails_the_run(monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parent)      # for the simulator: the planted test stands beside this one
    hardware = {name: HARDWARE.get(name, default) for name, (_, default) in PARAMETERS.items()}
    built = build(generate(hardware), "interposer", "verilator")
    config = {"scenario": "uvm", "hardware": hardware, "parameters": {"pages": 2}}
    outcome = run(built, "uvm_planted", folder("uvm_planted"), config, test_filter=r"\.LostWrite$")
    assert list(outcome.failures) == ["uvm_planted.LostWrite"], f"only the fault must be seen: {outcome.tests}"
    assert "lost" in outcome.failures["uvm_planted.LostWrite"] and outcome.result["violations"]["lost"] > 0


def test_every_exclusion_names_bins():
    for group, pattern, reason in UNREACHABLE:
        points = GROUPS[group][1]
        assert reason.endswith("."), f"a reason is a sentence: {reason}"
        for point, names in pattern.items():
            assert set(names) <= set(points[point]), f"{group} has no {point} of {set(names) - set(points[point])}"


def test_some_bins_of_every_group_can_be_reached():
    for group in GROUPS:
        assert any(not excluded(group, row) for row in rows(group))


def bins_file(path, hits):
    """A coverage file as the library writes it, with these hits of these bins."""
    content = {"pagehop": {"coverage": 0, "size": sum(len(list(rows(group))) for group in GROUPS), "cover_percentage": 0.0}}
    for group in GROUPS:
        names = [str(row) for row in rows(group)]
        counted = {name: hits.get((group, name), 0) for name in names}
        content[f"pagehop.{group}"] = {"coverage": 0, "size": len(names), "cover_percentage": 0.0}
        content[f"pagehop.{group}.cross"] = {
            "weight": 1, "at_least": 1, "coverage": sum(map(bool, counted.values())), "size": len(names), "cover_percentage": 0.0,
            "bins:_hits": counted}
    path.parent.mkdir()
    path.write_text(yaml.dump(content), encoding="utf-8")
    return path


def test_runs_are_merged(tmp_path):
    one, other = ("too late", str(("abort", "to A"))), ("too late", str(("start", "to B")))
    files = [bins_file(tmp_path / "a" / "coverage.yml", {one: 2}), bins_file(tmp_path / "b" / "coverage.yml", {one: 3, other: 1})]
    merged = merge(files, tmp_path / "all" / "coverage.yml")
    hits = {single.names: single.hits for single in merged.bins if single.group == "too late"}
    assert hits == {("abort", "to B"): 0, ("abort", "to A"): 5, ("start", "to B"): 1, ("start", "to A"): 0}
    assert merged.runs == ("a", "b") and not merged.good and merged.count("hit") == 2


def test_merging_nothing_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="There must be at least one coverage file to merge"):
        merge([], tmp_path / "coverage.yml")


def test_report_tells_each_verdict(tmp_path):
    bins = (Bin("stops", ("unsupported", "gate", "to A"), 0, "A reason."), Bin("stops", ("unsupported", "flush", "to A"), 7, "A reason."),
            Bin("moves", ("none", "to A"), 3, ""), Bin("moves", ("busy", "to A"), 0, ""))
    report = Report(("a run",), bins)
    assert [one.verdict for one in bins] == ["unreachable", "refuted", "hit", "missing"]
    assert not report.good and not Report(("a run",), bins[1:3]).good and Report(("a run",), (bins[0], bins[2])).good
    assert [entry["verdict"] for entry in report.as_json()["open"]] == ["refuted", "missing"]
    write_page(tmp_path / "page.html", report)
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "A reason." in page and "1 hit although" in page.replace("\n", " ")
