"""The ``pagehop`` command. Status 0: done, and no violation; 1: a violation or a failed move; 2: a mistake in what was asked."""

import argparse
import itertools
import signal
import sys
import tomllib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn, track
from rich.table import Table

from pagehop_sim.files import read_json, write_json
from pagehop_sim.report import number, print_result, rows, title, write_page
from pagehop_sim.result import SHAPE, assemble, package_version, verdict
from pagehop_sim.scenarios import Outcome, Scenario, find_scenario, run_scenario, shipped, with_parameters
from pagehop_sim.toolchain import SIMULATORS, ToolError, build_root
from pagehop_sim.verilog import TOPS, deliver

__all__ = ["main"]

GOOD, BAD, MISTAKE = 0, 1, 2


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    given = parser().parse_args(arguments)
    # A request to end must take the way of an interrupt, which stops the simulator.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        status: int = given.function(given)
        return status
    except ToolError as error:
        print(f"pagehop: {error}", file=sys.stderr)
        return MISTAKE
    except KeyboardInterrupt:
        print("pagehop: stopped", file=sys.stderr)
        return BAD


def parser() -> argparse.ArgumentParser:
    """Return the parser of all commands."""
    top = argparse.ArgumentParser(prog="pagehop", description="Move a running guest's pages from one host to another under live DMA, in simulation.",
                                  epilog="Exit status: 0 done and no violation, 1 a violation or a failed move, 2 a mistake in what was asked.")
    top.add_argument("--version", action="version", version=f"pagehop {package_version() or '(from sources)'}")
    commands = top.add_subparsers(required=True, title="commands", metavar="command")
    _add_sim(commands)
    _add_scenarios(commands)
    _add_verilog(commands)
    _add_compare(commands)
    _add_sweep(commands)
    _add_report(commands)
    return top


def _command(commands: Any, name: str, function: Any, text: str, epilog: str = "") -> argparse.ArgumentParser:
    command: argparse.ArgumentParser = commands.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".", epilog=epilog)
    command.set_defaults(function=function)
    return command


def _add_run_options(command: argparse.ArgumentParser) -> None:
    command.add_argument("scenario", nargs="?", default="migrate", help="a name that `pagehop scenarios` lists, or a .toml file (default: migrate)")
    command.add_argument("--simulator", default="verilator", help=f"one of {', '.join(SIMULATORS)} (default: verilator)")
    command.add_argument("--trace", help="replay this trace: a .csv file, or the name of one of ours, instead of the scenario's own")
    command.add_argument("--set", action="append", default=[], metavar="NAME=VALUE",
                         help="set a parameter of the scenario, in TOML form; repeat at will")


def _add_sim(commands: Any) -> None:
    command = _command(commands, "sim", sim, "run a scenario, check every access, write result.json and report.html",
                       "The result stands in build/sim/<scenario>/.")
    _add_run_options(command)
    command.add_argument("--seed", type=_seed, default=1, help="seed of everything random (default: 1)")
    command.add_argument("--waves", action="store_true", help="write a wave dump beside the result (slow)")


def _add_scenarios(commands: Any) -> None:
    _command(commands, "scenarios", scenarios, "list the scenarios and their parameters")


def _add_verilog(commands: Any) -> None:
    names = {top: ", ".join(f"{name} (default {default})" for name, (_, default) in known.items()) for top, known in TOPS.items()}
    command = _command(commands, "verilog", verilog, "write the interposer's Verilog into build/verilog/", f"Parameters: {names['interposer']}. "
                       f"With top = \"adjuster\", the small configuration: {names['adjuster']}. "
                       f"With top = \"iommu\", the IOMMU: {names['iommu']}. With top = \"iommu_core\", what of it translates and moves: "
                       f"{names['iommu_core']}. With top = \"ots\", the on-the-side device: {names['ots']}; \"ots_beside_iommu\", it and an IOMMU: "
                       f"{names['ots_beside_iommu']}.")
    command.add_argument("--config", type=Path, help="a .toml file with parameters")


def _add_compare(commands: Any) -> None:
    command = _command(commands, "compare", compare, "print results side by side")
    command.add_argument("results", nargs="+", help="scenarios that have run, or result.json files")


def _add_sweep(commands: Any) -> None:
    epilog = "Several values stand apart by commas: --set pauses=0.0,0.1 runs two for each seed. Results stand in build/sweep/<scenario>/."
    command = _command(commands, "sweep", sweep, "run a scenario for many seeds and values", epilog)
    _add_run_options(command)
    command.add_argument("--seeds", type=_seeds, default=range(1, 6), metavar="FIRST-LAST", help="seeds to run (default: 1-5)")
    command.add_argument("--jobs", type=int, default=1, help="runs at a time (default: 1)")


def _add_report(commands: Any) -> None:
    command = _command(commands, "report", report, "print a result again, and write its HTML page anew")
    command.add_argument("result", nargs="?", default="migrate", help="a scenario that has run, or a result.json file (default: migrate)")


def _seed(text: str) -> int:
    if not text.isdecimal() or int(text) >= 2**32:
        raise argparse.ArgumentTypeError(f"a seed must be a number from 0 to {2**32 - 1}, not {text!r}")
    return int(text)


def _seeds(text: str) -> range:
    first, dash, last = text.partition("-")
    numbers = range(_seed(first), _seed(last if dash else first) + 1)
    if not numbers:
        raise argparse.ArgumentTypeError(f"seeds must be FIRST-LAST with FIRST not above LAST, not {text!r}")
    return numbers


def _toml(name: str, text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError as error:
        raise ToolError(f"--set {name}: the value must be in TOML form (numbers plain, texts in quotes, lists in brackets), not {text!r}") from error


def _settings(given: Sequence[str]) -> dict[str, str]:
    for setting in given:
        if "=" not in setting:
            raise ToolError(f"--set must be NAME=VALUE, not {setting!r}")
    return {name: value for name, _, value in (setting.partition("=") for setting in given)}


def sim(given: argparse.Namespace) -> int:
    """``pagehop sim``."""
    changes = {name: _toml(name, text) for name, text in _settings(given.set).items()}
    scenario = with_parameters(find_scenario(given.scenario), changes, "--set")
    console = Console()
    outcome = _run_shown(console, scenario, given.simulator, given.seed, given.trace, given.waves)
    print_result(console, outcome.result, outcome.reasons, outcome.folder)
    return BAD if outcome.reasons else GOOD


def _run_shown(console: Console, scenario: Scenario, simulator: str, seed: int, trace: str | None, waves: bool = False,
               folder: Path | None = None) -> Outcome:
    """Run a scenario with a progress bar; where the output is no terminal, with a line for each stage."""
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(scenario.name, total=None)

        def on_stage(text: str) -> None:
            bar.update(task, description=f"{scenario.name}: {text}")
            if not console.is_terminal:
                console.print(f"{scenario.name}, seed {seed}: {text}", highlight=False, soft_wrap=True)

        def on_progress(line: dict[str, Any]) -> None:
            bar.update(task, completed=line["done"], total=line["total"], description=f"{scenario.name}: {line.get('text', '')}")

        return run_scenario(scenario, simulator, seed, trace, waves, folder, on_stage, on_progress)


def scenarios(_given: argparse.Namespace) -> int:
    """``pagehop scenarios``."""
    console = Console()
    for name in shipped():
        scenario = find_scenario(name)
        console.print(f"[bold]{name}[/]  {scenario.description}", highlight=False, soft_wrap=True)
        settings = [f"{key}={value}" for key, value in scenario.parameters.items()]
        console.print("    " + "  ".join(settings), style="dim", highlight=False, markup=False, soft_wrap=True)
    return GOOD


def verilog(given: argparse.Namespace) -> int:
    """``pagehop verilog``."""
    parameters: dict[str, Any] = {}
    if given.config is not None:
        try:
            parameters = tomllib.loads(given.config.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
            raise ToolError(f"{given.config}: a configuration is a TOML file, and this is not: {error}") from error
    print(deliver(parameters, str(given.config or "parameters")))
    return GOOD


def _read_result(name: str) -> tuple[Path, dict[str, Any]]:
    path = Path(name) if name.endswith(".json") else build_root() / "sim" / name / "result.json"
    try:
        result = read_json(path)
    except (OSError, ValueError) as error:
        raise ToolError(f"{path}: a result is a JSON file, and this is not: {error}") from error
    if result is None:
        raise ToolError(f"There is no result {path}; run `pagehop sim {name}` first" if not name.endswith(".json") else f"There is no file {path}")
    if not isinstance(result, dict) or set(result) != set(SHAPE):
        raise ToolError(f"{path}: a result must have the keys {', '.join(SHAPE)}")
    return path, assemble(result)


def compare(given: argparse.Namespace) -> int:
    """``pagehop compare``."""
    results = [_read_result(name)[1] for name in given.results]
    lines = [dict(rows(result)) for result in results]
    table = Table("", *(title(result) for result in results))
    for what in dict.fromkeys(itertools.chain(*lines)):
        table.add_row(what, *(line.get(what, "–") for line in lines))
    Console().print(table)
    return GOOD


def report(given: argparse.Namespace) -> int:
    """``pagehop report``."""
    path, result = _read_result(given.result)
    kept = read_json(path.parent / "verdict.json")
    reasons = verdict(result, {}) if kept is None else kept["reasons"]
    write_page(path.parent / "report.html", result, reasons)
    print_result(Console(), result, reasons, path.parent)
    return BAD if reasons else GOOD


def sweep(given: argparse.Namespace) -> int:
    """``pagehop sweep``."""
    axes = {name: _toml(name, f"[{text}]") for name, text in _settings(given.set).items()}
    plain = find_scenario(given.scenario)
    points = [dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values())]
    planned = [(with_parameters(plain, point, "--set"), point, seed) for point in points for seed in given.seeds]
    console = Console()
    table = Table(*axes, "seed", "moved", "cycles", "hold p99", "cycles/s", "verdict", title=f"{plain.name} on {given.simulator}")
    home = build_root() / "sweep" / plain.name
    summary: list[dict[str, Any]] = []
    bad = 0

    def one(job: tuple[int, tuple[Scenario, dict[str, Any], int]]) -> Outcome:
        count, (scenario, _, seed) = job
        folder = home / f"{given.simulator}-{count}"
        if given.jobs > 1:
            return run_scenario(scenario, given.simulator, seed, given.trace, folder=folder)
        return _run_shown(console, scenario, given.simulator, seed, given.trace, folder=folder)

    with ThreadPoolExecutor(given.jobs) as pool:
        outcomes = list(track(pool.map(one, enumerate(planned)), plain.name, len(planned), console=console, disable=given.jobs == 1))
    for (_, point, seed), outcome in zip(planned, outcomes, strict=True):
        bad += bool(outcome.reasons)
        summary.append({"point": point, "seed": seed, "reasons": outcome.reasons, "result": str(outcome.folder / "result.json")})
        found = outcome.result
        numbers = (found["pages"]["moved"], found["cycles"], found["hold_cycles"]["p99"], found["cycles_per_second"])
        table.add_row(*map(str, point.values()), str(seed), *map(number, numbers), outcome.reasons[0] if outcome.reasons else "good")
    write_json(home / f"{given.simulator}.json", summary)
    console.print(table)
    console.print(f"{len(planned) - bad} of {len(planned)} runs good; {home}", highlight=False, soft_wrap=True)
    return BAD if bad else GOOD


if __name__ == "__main__":
    sys.exit(main())
