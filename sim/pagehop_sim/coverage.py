"""Functional coverage of several runs as one.

`python -m pagehop_sim.coverage` makes the runs that close it; with folders as arguments it only merges what they hold.

Every run of the pyuvm environment leaves ``coverage.yml`` in its folder. The bins and the reasons for those that nothing can reach stand in
``pagehop_tb.uvm.bins``. The report, ``coverage.html`` and ``coverage.json``, is good (status 0) when every other bin was hit, and none of those.
"""

import argparse
import ast
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from cocotb_coverage.coverage import merge_coverage
from jinja2 import Environment, PackageLoader, StrictUndefined

from pagehop_sim.build import build
from pagehop_sim.files import write_json, write_text
from pagehop_sim.run import run
from pagehop_sim.toolchain import build_root
from pagehop_sim.verilog import PARAMETERS, generate
from pagehop_tb.uvm.bins import GROUPS, excluded, rows

__all__ = ["HARDWARE", "RUNS", "Bin", "Report", "Run", "merge", "simulate"]

HARDWARE = {"data_bytes": 64, "window_pages": 128}
FILE = "coverage.yml"


@dataclass(frozen=True)
class Run:
    """One simulation: a test of ``pagehop_tb.uvm.tests``, its seed and its parameters."""

    test: str
    seed: int
    parameters: dict[str, Any]

    @property
    def name(self) -> str:
        """Folder of the run."""
        return "-".join([self.test, str(self.seed), *(f"{name}={value}" for name, value in self.parameters.items())])


#: The runs that close the coverage.
RUNS = (
    Run("ThereAndBack", 1, {"rounds": 2}),
    Run("ThereAndBack", 2, {"rounds": 1, "window": "wrapped", "active_host": 1}),
    Run("Faults", 1, {}),
    Run("Answers", 1, {}),
    Run("Refusals", 1, {}),
)


@dataclass(frozen=True)
class Bin:
    """One bin: its group, the names of its points' bins, how often it was hit, and why nothing can hit it (empty where something can)."""

    group: str
    names: tuple[str, ...]
    hits: int
    reason: str

    @property
    def verdict(self) -> str:
        """``hit``, ``missing``, ``unreachable``, or ``refuted`` for a hit in a bin that nothing was to reach."""
        if self.reason:
            return "refuted" if self.hits else "unreachable"
        return "hit" if self.hits else "missing"


@dataclass(frozen=True)
class Report:
    """The coverage of ``runs``."""

    runs: tuple[str, ...]
    bins: tuple[Bin, ...]

    def count(self, verdict: str, group: str | None = None) -> int:
        """Bins with this verdict."""
        return sum(one.verdict == verdict for one in self.bins if group in (None, one.group))

    @property
    def good(self) -> bool:
        """Everything reachable was reached, and nothing else."""
        return not self.count("missing") and not self.count("refuted")

    def as_json(self) -> dict[str, Any]:
        """The report for programs."""
        verdicts = ("hit", "missing", "unreachable", "refuted")
        return {
            "runs": list(self.runs), "bins": len(self.bins), **{verdict: self.count(verdict) for verdict in verdicts},
            "groups": {group: {verdict: self.count(verdict, group) for verdict in verdicts} for group in GROUPS},
            "open": [{"group": one.group, "bin": list(one.names), "verdict": one.verdict} for one in self.bins
                     if one.verdict in ("missing", "refuted")],
        }


def simulate(runs: Iterable[Run], folder: Path, timeout_seconds: float = 300) -> list[Path]:
    """Make ``runs`` one after the other, each in its own folder below ``folder``; a run that fails raises. Returns their coverage files."""
    hardware = {name: HARDWARE.get(name, default) for name, (_, default) in PARAMETERS.items()}
    built = build(generate(hardware), "interposer", "verilator")
    files = []
    for one in runs:
        started = time.monotonic()
        config = {"scenario": "uvm", "hardware": hardware, "parameters": one.parameters}
        own = folder / one.name
        (own / FILE).unlink(missing_ok=True)
        outcome = run(built, "pagehop_tb.uvm.tests", own, config, seed=one.seed, timeout_seconds=timeout_seconds, test_filter=rf"\.{one.test}$")
        outcome.check(min_checked={"events": 1000, "read_bytes": 1000})
        print(f"{one.name}: {time.monotonic() - started:.1f} s")
        files.append(own / FILE)
    return files


def merge(files: Sequence[Path], target: Path) -> Report:
    """Merge coverage files into ``target`` and return what they say together."""
    if not files:
        raise ValueError("There must be at least one coverage file to merge")
    target.parent.mkdir(parents=True, exist_ok=True)
    merge_coverage(lambda _: None, str(target), *(str(path) for path in files))
    merged = yaml.safe_load(target.read_text(encoding="utf-8"))
    bins = []
    for group in GROUPS:
        hits = {ast.literal_eval(name): count for name, count in merged[f"pagehop.{group}.cross"]["bins:_hits"].items()}
        bins += [Bin(group, row, hits[row], excluded(group, row)) for row in rows(group)]
    return Report(tuple(path.parent.name for path in files), tuple(bins))


def write_page(path: Path, report: Report) -> None:
    """Write the report as one HTML file."""
    environment = Environment(loader=PackageLoader("pagehop_sim"), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    groups = [(group, about, list(points), [one for one in report.bins if one.group == group]) for group, (about, points) in GROUPS.items()]
    write_text(path, environment.get_template("coverage.html").render(report=report, groups=groups))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run or merge, and report. Returns the status of the command."""
    parser = argparse.ArgumentParser(prog="python -m pagehop_sim.coverage", description="Functional coverage of the pyuvm environment.")
    parser.add_argument("folders", nargs="*", type=Path, help="folders of runs to merge; none: make the runs that close the coverage")
    given = parser.parse_args(arguments)
    target = build_root() / "coverage"
    if given.folders:
        files = sorted({path for folder in given.folders for path in folder.rglob(FILE) if path.parent != target})
        if not files:
            print(f"There is no {FILE} in {', '.join(map(str, given.folders))}", file=sys.stderr)
            return 2
    else:
        files = simulate(RUNS, target)
    report = merge(files, target / FILE)
    write_json(target / "coverage.json", report.as_json())
    write_page(target / "coverage.html", report)
    for one in report.bins:
        if one.verdict in ("missing", "refuted"):
            print(f"{one.verdict}: {one.group}: {', '.join(one.names)}")
    print(f"{report.count('hit')} of {len(report.bins)} bins hit by {len(report.runs)} runs, {report.count('unreachable')} unreachable, "
          f"{report.count('missing')} missing, {report.count('refuted')} refuted")
    print(target / "coverage.html")
    return 0 if report.good else 1


if __name__ == "__main__":
    sys.exit(main())
