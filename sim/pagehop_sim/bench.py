"""``make bench``: measured performance, each value beside its limit.

A measurement is a bench whose ``result_file`` holds ``{"values": {"<name>": {"value": n, "limit": n or null, "unit": "cycles|share|...",
"better": "lower|higher"}}}``. ``build/bench.json`` gets them all. Values in wall seconds are those of this machine: run it on a quiet one.
"""

import argparse
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from rich.console import Console
from rich.table import Table

from pagehop_sim.build import build
from pagehop_sim.files import read_json, write_json
from pagehop_sim.report import number
from pagehop_sim.run import BenchFailure, run
from pagehop_sim.scenarios import find_scenario, run_scenario
from pagehop_sim.toolchain import ToolError, build_root
from pagehop_sim.traces import find_trace
from pagehop_sim.verilog import check_parameters, generate
from pagehop_tb.checker.speed import measure_checker

__all__ = ["MEASUREMENTS", "Measurement", "misses"]

#: Wall seconds that the default scenario may take after set-up and compilation, on two cores.
SIM_SECONDS = 60


@dataclass(frozen=True)
class Measurement:
    """One bench of ``pagehop_tb.benches`` that measures, and the design it measures. ``tests`` chooses of its tests (a pattern; all without).

    ``scenario`` gives the bench its parameters and trace, with ``parameters`` over them; without one it has its own defaults.
    ``label`` stands after the names of the values where another measurement has the same. ``top`` : what is measured.
    """

    bench: str
    hardware: dict[str, Any] = field(default_factory=dict)
    tests: str = ""
    label: str = ""
    scenario: str = ""
    parameters: dict[str, Any] = field(default_factory=dict)
    timeout_seconds: int = 900
    top: str = "interposer"


FOUR_SLOTS = {"slots": 4, "chunk_bytes": 256, "window_pages": 1024}
MEASUREMENTS = (
    Measurement("performance"), Measurement("performance", {"slots": 4}, "rate|idle_latency|hold", "_4_slots"), Measurement("latency"),
    Measurement("copy_rate", FOUR_SLOTS),
    Measurement("copy_rate", FOUR_SLOTS | {"data_bytes": 16}),
    # At 64 bytes a beat four slots wait for round trips most of the time: what eight do says whether it is that.
    Measurement("copy_rate", FOUR_SLOTS | {"slots": 8}, r"copy_rate\.copy_rate$"),
    *(Measurement("fio", FOUR_SLOTS | {"window_pages": 262_144, "data_bytes": data_bytes}, scenario="fio", parameters={"mode": mode, "gap": gap},
                  label=f"_{mode}_{data_bytes}_bytes_{pace}")
      for data_bytes in (16, 64) for mode, gap, pace in (
          ("hold", 1200, "slow_device"), ("hold", 600, "quick_device"), ("hold", 30, "busy_device"), ("merge", 30, "busy_device"))),
    Measurement("iommu_cost", {"data_bytes": 16, "walk_cache": 8, "reads": 8}, top="iommu"),
    *(Measurement("ots_cost", {"windows": windows}, label=f"_{windows}_windows", top="ots") for windows in (1, 16)),
    *(Measurement("ots_migration", find_scenario("ots-migration").hardware, scenario="ots-migration", top="ots_beside_iommu",
                  parameters={"pages": 16, "passes_after": 0, "itself": itself}, label=label)
      for itself, label in ((False, "_host_copies"), (True, "_device_copies"))),
)


def misses(values: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Return the names of values that miss their limit, or are not there."""
    missed = []
    for name, entry in values.items():
        value, limit = entry["value"], entry["limit"]
        if value is None or (limit is not None and (value > limit if entry["better"] == "lower" else value < limit)):
            missed.append(name)
    return missed


def measure(measurement: Measurement) -> dict[str, Any]:
    """Run one measuring bench on Verilator and return its values, also those that miss their limits and so fail the bench."""
    verilog = generate(measurement.hardware, measurement.bench, measurement.top)
    chosen = [*measurement.hardware.values(), *measurement.parameters.values()]
    folder = build_root() / "bench" / "-".join([measurement.bench, *map(str, chosen)])
    config: dict[str, Any] = {"hardware": check_parameters(measurement.hardware, measurement.bench, measurement.top)}
    if measurement.scenario:
        scenario = find_scenario(measurement.scenario)
        config |= {"parameters": scenario.parameters | measurement.parameters, "trace": scenario.trace and str(find_trace(scenario.trace))}
    outcome = run(build(verilog, measurement.top, "verilator"), f"pagehop_tb.benches.{measurement.bench}", folder, config,
                  timeout_seconds=measurement.timeout_seconds, test_filter=measurement.tests)
    values: dict[str, Any] = {name + measurement.label: value for name, value in ((outcome.result or {}).get("values") or {}).items()}
    if not misses(values):
        outcome.check()
    if not values:
        raise BenchFailure(f"Bench {measurement.bench} measured nothing; see {outcome.log}")
    return values


def measure_default_run() -> dict[str, Any]:
    """Run the default scenario as `make sim` does and return what it took."""
    outcome = run_scenario(find_scenario("migrate"), folder=build_root() / "bench" / "migrate")
    if outcome.reasons:
        raise BenchFailure("The default scenario is not good: " + "; ".join(outcome.reasons))
    result = outcome.result
    return {
        "default_sim_seconds": {"value": result["wall_seconds"], "limit": SIM_SECONDS, "unit": "s", "better": "lower"},
        "default_sim_speed": {"value": result["cycles_per_second"], "limit": None, "unit": "cycles/s", "better": "higher"},
    }


def table(values: Mapping[str, Mapping[str, Any]], missed: list[str]) -> Table:
    """Return the values as a table."""
    shown = Table("measurement", "value", "limit", "unit", "")
    for name, entry in values.items():
        bound = "–" if entry["limit"] is None else f"{'≤' if entry['better'] == 'lower' else '≥'} {number(entry['limit'])}"
        verdict = "[red]missed" if name in missed else "" if entry["limit"] is None else "[green]met"
        shown.add_row(name.replace("_", " "), number(entry["value"]), bound, entry["unit"], verdict)
    return shown


def main(arguments: list[str] | None = None) -> int:
    """Measure, write ``build/bench.json``, print the table; status 1 when a limit is missed or a bench fails."""
    parser = argparse.ArgumentParser(prog="python -m pagehop_sim.bench", description="Measure performance; write build/bench.json.")
    parser.add_argument("names", nargs="*", help="benches that measure, by the start of their names; what others measured stays (all)")
    names = tuple(parser.parse_args(arguments).names)
    steps: list[Callable[[], dict[str, Any]]] = [
        partial(measure, measurement) for measurement in MEASUREMENTS if not names or measurement.bench.startswith(names)]
    if not names:
        steps += [measure_default_run, measure_checker]
    elif not steps:
        print(f"No bench that measures starts with {' or '.join(names)}; there are {', '.join(sorted({one.bench for one in MEASUREMENTS}))}",
              file=sys.stderr)
        return 2
    values: dict[str, Any] = {}
    failed = []
    try:
        for step in steps:
            try:
                values |= step()
            except BenchFailure as failure:
                failed.append(str(failure))
    except ToolError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 2
    target = build_root() / "bench.json"
    write_json(target, (read_json(target) or {}) | values if names else values)
    missed = misses(values)
    Console().print(table(values, missed))
    for reason in failed:
        print(f"bench: {reason}", file=sys.stderr)
    return 1 if missed or failed else 0


if __name__ == "__main__":
    sys.exit(main())
