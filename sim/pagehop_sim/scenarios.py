"""Scenarios: TOML files that name a bench and set its parameters, and their runs."""

import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pagehop_sim.build import build
from pagehop_sim.files import write_json
from pagehop_sim.report import write_page
from pagehop_sim.result import SHAPE, assemble, package_version, verdict
from pagehop_sim.run import BenchFailure, RunResult, run
from pagehop_sim.toolchain import ToolError, build_root, check_simulator
from pagehop_sim.traces import find_trace, read_trace
from pagehop_sim.verilog import PARAMETERS, check_parameters, generate

__all__ = ["Outcome", "Scenario", "find_scenario", "run_scenario", "shipped"]

FOLDER = Path(__file__).parent / "scenarios"

#: Topologies whose hardware is another than the interposer.
TOP_OF = {"8": "adjuster", "11": "ots_beside_iommu", "12": "ots_beside_iommu", "14": "iommu"}

#: How many times longer than Verilator Icarus may take; it is event-driven and has taken 6 to 12 times as long.
ICARUS_FACTOR = 15

#: What a scenario file may hold at its top, and the type of each.
KEYS: dict[str, type] = {
    "description": str, "bench": str, "mechanism": str, "topology": str, "mode": str, "trace": str, "timeout_seconds": int,
    "hardware": dict, "parameters": dict, "least": dict,
}


@dataclass(frozen=True)
class Scenario:
    """One scenario: ``bench`` is a module of ``pagehop_tb.benches``; ``least`` are counts of ``checked`` below which a run proves nothing."""

    name: str
    description: str
    bench: str
    mechanism: str = "interposer"
    topology: str = "7a"
    mode: str = "hold"
    trace: str | None = None
    timeout_seconds: int = 900
    hardware: dict[str, Any] = field(default_factory=dict)
    parameters: dict[str, Any] = field(default_factory=dict)
    least: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Outcome:
    """A run of a scenario: the result as it was written, why it is not good (empty when it is), and where it stands."""

    result: dict[str, Any]
    reasons: list[str]
    folder: Path


def shipped() -> dict[str, Path]:
    """Return the scenarios that come with the package, by name."""
    return {path.stem: path for path in sorted(FOLDER.glob("*.toml"))}


def find_scenario(name: str) -> Scenario:
    """Return the scenario of this name, or of the .toml file of this path."""
    path = Path(name)
    if path.suffix == ".toml" and path.is_file():
        return read_scenario(path)
    if name in shipped():
        return read_scenario(shipped()[name])
    raise ToolError(f"Scenario must be a .toml file, or one of {', '.join(shipped())}, not {name!r}")


def read_scenario(path: Path) -> Scenario:
    """Return the scenario in a file, checked: only known keys, and only parameters that a shipped scenario of the same bench has."""
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ToolError(f"{path}: a scenario is a TOML file, and this is not: {error}") from error
    for key, value in content.items():
        if key not in KEYS:
            raise ToolError(f"{path}: key must be one of {', '.join(KEYS)}, not {key!r}")
        if type(value) is not KEYS[key]:
            raise ToolError(f"{path}: {key} must be {KEYS[key].__name__}, not {value!r}")
    for key in ("description", "bench"):
        if key not in content:
            raise ToolError(f"{path}: a scenario must have the key {key!r}")
    for name, count in content.get("least", {}).items():
        if name not in SHAPE["checked"] or type(count) is not int:
            raise ToolError(f"{path}: least must be numbers of {', '.join(SHAPE['checked'])}, not {name} = {count!r}")
    content["hardware"] = check_parameters(content.get("hardware", {}), str(path), TOP_OF.get(content.get("topology", ""), "interposer"))
    return with_parameters(replace(Scenario(name=path.stem, **content), parameters={}), content.get("parameters", {}), str(path))


def bench_parameters(bench: str) -> dict[str, Any]:
    """Return the parameters of a bench with their defaults: those of the shipped scenario that is called after it."""
    path = FOLDER / f"{bench.replace('_', '-')}.toml"
    if not path.is_file():
        named = {name.replace("-", "_"): tomllib.loads(place.read_text(encoding="utf-8"))["bench"] for name, place in shipped().items()}
        benches = ", ".join(name for name, own in named.items() if name == own)
        raise ToolError(f"bench must be one of {benches}, not {bench!r}")
    parameters: dict[str, Any] = tomllib.loads(path.read_text(encoding="utf-8")).get("parameters", {})
    return parameters


def with_parameters(scenario: Scenario, changes: Mapping[str, Any], origin: str) -> Scenario:
    """Return ``scenario`` with parameters of its bench changed, checked by name and type."""
    known = bench_parameters(scenario.bench)
    for name, value in changes.items():
        if name not in known:
            raise ToolError(f"{origin}: parameter of bench {scenario.bench} must be one of {', '.join(known)}, not {name!r}")
        if type(value) is not type(known[name]):
            raise ToolError(f"{origin}: parameter {name} must be {type(known[name]).__name__}, not {value!r}")
    parameters = known | scenario.parameters | dict(changes)
    # The counts of a scenario are those of its own parameters and trace: of others only something must have been compared.
    least = scenario.least if parameters == scenario.parameters or not scenario.parameters else dict.fromkeys(scenario.least, 1)
    return replace(scenario, parameters=parameters, least=least)


def run_scenario(scenario: Scenario, simulator: str = "verilator", seed: int = 1, trace: str | None = None, waves: bool = False,
                 folder: Path | None = None, on_stage: Callable[[str], None] | None = None,
                 on_progress: Callable[[dict[str, Any]], None] | None = None) -> Outcome:
    """Run ``scenario`` and write ``result.json``, ``verdict.json`` and ``report.html`` into ``folder``, also when it fails.

    ``trace`` takes the place of the scenario's own. ``on_stage`` is told what is being done, ``on_progress`` gets the progress of the bench.
    """
    check_simulator(simulator)
    stage = on_stage or (lambda text: None)
    folder = folder or build_root() / "sim" / scenario.name
    trace_file = _trace_file(scenario, trace)
    if trace is not None:
        scenario = replace(scenario, least=dict.fromkeys(scenario.least, 1))
    stage("Verilog")
    top = TOP_OF.get(scenario.topology, "interposer")
    verilog = generate(scenario.hardware, f"scenario {scenario.name}", top)
    stage(f"compiling for {simulator}, once for each design")
    built = build(verilog, top, simulator, waves=waves)
    stage("simulation")
    config = {"scenario": scenario.name, "trace": trace_file and str(trace_file), "hardware": scenario.hardware, "parameters": scenario.parameters}
    # A result of an earlier run must not pass for this one's if this one is stopped.
    for stale in ("result.json", "verdict.json", "report.html"):
        (folder / stale).unlink(missing_ok=True)
    known = {
        "scenario": scenario.name, "mechanism": scenario.mechanism, "topology": scenario.topology,
        "mode": scenario.parameters.get("mode", scenario.mode), "simulator": simulator, "seed": seed,
        "trace": trace_file and trace_file.stem, "config": scenario.hardware | scenario.parameters, "version": package_version(),
    }
    module = f"pagehop_tb.benches.{scenario.bench}"
    limit = scenario.timeout_seconds * (ICARUS_FACTOR if simulator == "icarus" else 1)
    try:
        done = run(built, module, folder, config, seed=seed, timeout_seconds=limit, on_progress=on_progress)
    except BenchFailure as failure:
        return _finish(folder, assemble(known), [str(failure)])
    return _finish(folder, assemble(known, {"wall_seconds": round(done.wall_seconds, 3)}, done.result or {}), None, done, scenario.least)


def _trace_file(scenario: Scenario, trace: str | None) -> Path | None:
    if trace is not None and scenario.trace is None:
        raise ToolError(f"Scenario {scenario.name} replays no trace, so none can be given: {trace!r}")
    name = trace or scenario.trace
    if name is None:
        return None
    path = find_trace(name)
    # Where the hardware has no window the guest is as large as the usual one.
    read_trace(path, scenario.hardware.get("window_pages", PARAMETERS["window_pages"][1]) * 4096)
    return path


def _finish(folder: Path, result: dict[str, Any], reasons: list[str] | None, done: RunResult | None = None,
            least: Mapping[str, int] | None = None) -> Outcome:
    if done is not None:
        reasons = _reasons(result, done, least or {})
    write_json(folder / "result.json", result)
    write_json(folder / "verdict.json", {"good": not reasons, "reasons": reasons or []})
    write_page(folder / "report.html", result, reasons or [])
    return Outcome(result, reasons or [], folder)


def _reasons(result: Mapping[str, Any], done: RunResult, least: Mapping[str, int]) -> list[str]:
    if done.timed_out:
        return [f"the simulation did not end within {done.wall_seconds:.0f} s and was stopped; see {done.log}"]
    reasons = verdict(result, done.failures)
    if reasons:
        return [*reasons, f"see {done.log}"]
    if not done.tests:
        reasons.append(f"no test ran to its end; see {done.log}")
    for name, count in least.items():
        if (result["checked"][name] or 0) < count:
            reasons.append(f"checked.{name} must be at least {count} for the run to prove anything, and is {result['checked'][name]}")
    return reasons
