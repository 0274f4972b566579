# amaranth: UnusedElaboratable=no
"""``make mutants``: broken hardware, which the benches must find.

``python -m pagehop_sim.mutants [--planted] [--automatic] [--count 200] [--seed 1] [--jobs 2] [--remember] [name ...]`` runs the planted bugs of
``tests/planted`` (a rule left out of the interposer or of the on-the-side device, each against the bench that guards it, which must say what was
expected) and mutations made automatically over the interposer's core (an operator, condition or update changed, each against a row of benches until
one fails). Both by default. It prints a table and writes ``build/mutants.json``.

Elaborating and compiling a design takes longer than most runs. So the planted bugs stand in one design for each hardware that they need, and
the mutations in another, and a plusarg chooses. Most benches do not see most mutations: the one that found a mutation last time looks first
(``tests/planted/found_by.toml``, written by ``--remember``), and only when it finds nothing do all.

Exit status 0 when every planted bug is caught and every surviving mutation stands in ``tests/planted/survivors.toml`` with the reason why no bench
can see it; 1 when not; 2 when a name selects nothing.
"""

import argparse
import dataclasses
import importlib
import re
import sys
import time
import tomllib
import warnings
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from amaranth.hdl import UnusedElaboratable
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from pagehop_sim.build import Build, build
from pagehop_sim.files import read_json, write_json, write_text
from pagehop_sim.mutation import Mutation, candidates, sample, with_mutations
from pagehop_sim.planted import SELECTOR, mergeable, selected
from pagehop_sim.run import BenchFailure, run
from pagehop_sim.toolchain import ToolError, build_root
from pagehop_sim.traces import find_trace
from pagehop_sim.verilog import TOPS, annotated, component_of, convert, written

__all__ = ["Caught", "main"]

ROOT = Path(__file__).resolve().parents[2]
#: What decides about a broken design besides the sources of the hardware.
PLANTED = (*sorted((ROOT / "tests" / "planted").glob("*.py")), Path(__file__).with_name("planted.py"))
#: Modules that mutations are made in, by their places in the hierarchy: parts of `tlp` and `memory` are there as parts of the interposer. The
#: registers have tests of their own, and the counters of events only count.
CORE = re.compile(r"^interposer\.(?!register_side|notifier|counters)")

#: Benches that look for a mutation, quickest first, with their parameters.
BATTERY: tuple[tuple[str, dict[str, Any]], ...] = (
    ("between", {"requests": 200}),
    ("edges", {}),
    ("opaque", {"rounds": 8}),
    ("passthrough", {"requests": 200}),
    ("floods", {"cycles": 1500}),
    ("read_back", {"rounds": 80}),
    ("performance", {"pages": 4}),
    ("harvests", {"rounds": 4}),
    ("aborts", {"moves": 8, "fence": True}),
    ("producer_consumer", {"rounds": 18}),
    ("blocked", {"rounds": 1}),
    ("registers", {"rounds": 1}),
    ("large_pages", {"moves": 3, "sizes": [16, 13]}),
    ("dirty_log", {"rounds": 1, "modes": ["turns"], "faults": False}),
    ("dirty_log", {"rounds": 1, "modes": ["swap"]}),
    ("sliding", {"words": [1]}),
    ("large_pages", {"moves": 3, "sizes": [16, 13], "mode": "merge"}),
    ("odd_copies", {}),
    ("passthrough", {"requests": 700}),
    ("between", {"requests": 600}),
    ("forgotten", {}),
    ("switchover", {"rounds": 1}),
    ("aborts", {"moves": 16, "faults": ["cross_store"], "abort_share": 0.5}),
    ("hot_page", {"moves": 4}),
    ("aborts", {"moves": 12}),
    ("hot_page", {"moves": 8, "mode": "merge", "reads": 0, "gap": 20, "astride": 0.5, "traffic_gap": 30, "line": 256, "write_delay": [20, 200],
                  "read_delay": [20, 100]}),
    ("hot_page", {"moves": 2, "mode": "host_copy"}),
    ("hot_page", {"moves": 1, "mps": [256, 256, 128], "line": 256, "gap": 100}),
    ("aborts", {"moves": 12, "mode": "mixed"}),
    ("queue", {"rounds": 1, "mode": "mixed"}),
    ("queue", {"rounds": 1, "pages": 3, "ring_host": 1}),
    ("watchdog", {"rounds": 1}),
    ("hot_page", {"moves": 6, "mode": "merge", "reads": 0, "gap": 20, "relaxed": 0.3, "write_delay": [20, 200], "read_delay": [20, 100]}),
    ("sliding", {}),
)
#: Names for the places of BATTERY: the bench, and which of its entries.
LABELS = tuple(f"{bench} {1 + [other for other, _ in BATTERY[:place]].count(bench)}" for place, (bench, _) in enumerate(BATTERY))
#: Which bench of BATTERY, by its name in LABELS, has found a mutation before: it looks first. Written by ``--remember``.
REMEMBERED = ROOT / "tests" / "planted" / "found_by.toml"
#: A mutant may take this much longer than the healthy design before it counts as stuck.
PATIENCE, LEAST_SECONDS = 4, 6
#: With fewer bugs than this, designs of their own are made sooner than one for all.
FEWEST_TOGETHER = 3
TOO_LONG, PLANTED_SECONDS = "no end in time", 240


@dataclass(frozen=True)
class Design:
    """What is broken: ``top`` of :data:`pagehop_sim.verilog.TOPS`, with parameters other than its defaults, and the DMA ``trace`` of its benches."""

    top: str
    parameters: Mapping[str, Any]
    trace: str = ""

    def hardware(self, own: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """All parameters, some of them a bug's ``own``."""
        return {name: default for name, (_, default) in TOPS[self.top].items()} | dict(self.parameters) | dict(own or {})

    def config(self, hardware: Mapping[str, Any], parameters: Mapping[str, Any]) -> dict[str, Any]:
        """What a bench on this hardware is told."""
        return {"hardware": dict(hardware), "parameters": dict(parameters), "trace": str(find_trace(self.trace)) if self.trace else None}


#: What bugs are planted in, by the name that they give.
DESIGNS = {
    "interposer": Design("interposer", {"window_pages": 128}),
    "ots": Design("ots_beside_iommu", {"data_bytes": 16, "windows": 2, "leaves": 8192, "walk_cache": 8}, "small_nvme_nic"),
}


@dataclass(frozen=True)
class Caught:
    """What became of one mutant: ``by`` the bench that failed, empty when none did; ``how``, its first words; ``events`` judged until then."""

    name: str
    covers: str
    by: str
    how: str
    events: int | None
    seconds: float

    @property
    def escaped(self) -> bool:
        """Nothing failed."""
        return not self.by


@dataclass(frozen=True)
class Attempt:
    """How one run failed (``how`` is empty when it did not): violations, messages of failed tests, and the events that were judged."""

    how: str
    violations: Mapping[str, int]
    failures: Mapping[str, str]
    events: int | None


def _attempt(built: Build, bench: str, folder: Path, config: Mapping[str, Any], seed: int, seconds: float) -> Attempt:
    """Run one bench on one mutant."""
    try:
        outcome = run(built, f"pagehop_tb.benches.{bench}", folder, config, seed=seed, timeout_seconds=seconds, most_failures=1)
    except BenchFailure as failure:
        return Attempt("the simulation died", {}, {bench: str(failure)}, None)
    events = ((outcome.result or {}).get("checked") or {}).get("events")
    violations = {name: count for name, count in ((outcome.result or {}).get("violations") or {}).items() if count}
    if outcome.failures:
        how = ", ".join(violations) or next(iter(outcome.failures.values())).splitlines()[0]
        return Attempt(how, violations, outcome.failures, events)
    return Attempt(TOO_LONG if outcome.timed_out else "", violations, {}, events)


def _judge(bug: Any, built: Build) -> Caught:
    """Run a planted bug with as many seeds as its budget allows. What fails otherwise than expected has not found the bug."""
    started = time.monotonic()
    folder, by, how, config = build_root() / "mutants" / bug.name, "", "", _config(bug)
    for seed in range(bug.first, bug.first + bug.seeds):
        # A simulation that is only slow has no failures.
        tried = _attempt(built, bug.bench, folder, config, seed, PLANTED_SECONDS)
        how = tried.how
        if bug.found(tried.violations, tried.failures):
            # What the judge says of a run that was ended by the message that was expected says less than that.
            lines = [line for message in tried.failures.values() for line in message.splitlines() if bug.expected in line]
            by, how = bug.bench, how if bug.expected in tried.violations or not bug.expected else lines[0]
            break
    return Caught(bug.name, " ".join(bug.covers), by, how, tried.events, time.monotonic() - started)


def _hardware(bug: Any) -> dict[str, Any]:
    return DESIGNS[bug.of].hardware(bug.hardware)


def _config(bug: Any) -> dict[str, Any]:
    return DESIGNS[bug.of].config(_hardware(bug), bug.parameters)


def run_alone(bug: Any) -> Caught:
    """Run one planted bug in a design of its own."""
    started = time.monotonic()
    hardware, top = _hardware(bug), DESIGNS[bug.of].top
    built = build(convert(bug.design()(**hardware), top, PLANTED, f"{bug.name} {hardware}"), top, bug.simulator)
    return dataclasses.replace(_judge(bug, built), seconds=time.monotonic() - started)


def _run_named(name: str) -> Caught:
    return run_alone(next(bug for bug in planted_bugs((name,)) if bug.name == name))


class Together:
    """Planted bugs of the same hardware in one build, each chosen by its number, from 1."""

    def __init__(self, bugs: Sequence[Any]) -> None:
        self.bugs, hardware, top = bugs, _hardware(bugs[0]), DESIGNS[bugs[0].of].top
        design = selected(component_of(top), {number: bug.design() for number, bug in enumerate(bugs, 1)})
        verilog = convert(design(**hardware), top, PLANTED, f"{[bug.name for bug in bugs]} {hardware}")
        text = verilog.read_text(encoding="utf-8") + SELECTOR
        self.build = build(written(text, top), top, "verilator", hasty=True)

    @staticmethod
    def groups(bugs: Sequence[Any]) -> list[list[Any]]:
        """Those of the bugs that can stand in one design with others, by their hardware."""
        found: dict[str, list[Any]] = {}
        for bug in bugs:
            if mergeable(bug.design()):
                found.setdefault(f"{bug.of} {sorted(_hardware(bug).items())}", []).append(bug)
        return [group for group in found.values() if len(group) >= FEWEST_TOGETHER]

    def healthy(self, bugs: Sequence[Any]) -> None:
        """Make the run that these bugs begin with (:func:`runs`) with none of them chosen: what it finds then says nothing of a bug."""
        first = bugs[0]
        tried = _attempt(self.build, first.bench, build_root() / "mutants" / "none" / first.name, _config(first), first.first, PLANTED_SECONDS)
        found = [bug.name for bug in bugs if bug.found(tried.violations, tried.failures)]
        if found:
            raise BenchFailure(f"{first.bench} finds {', '.join(found)} in the design of all planted bugs when none of them is chosen: {tried.how}")

    def run(self, number: int) -> Caught:
        """Run bug ``number``."""
        return _judge(self.bugs[number - 1], chosen(self.build, number))


def runs(bugs: Iterable[Any]) -> list[list[Any]]:
    """These bugs, those together that begin with the same run of a bench."""
    found: dict[str, list[Any]] = {}
    for bug in bugs:
        found.setdefault(f"{bug.bench} {bug.first} {sorted(bug.parameters.items())}", []).append(bug)
    return list(found.values())


def chosen(built: Build, number: int) -> Build:
    """A build in which mutant ``number`` is active."""
    return dataclasses.replace(built, command=(*built.command, f"+mutant={number}"))


def planted_bugs(names: Sequence[str]) -> list[Any]:
    """Return the bugs of ``tests/planted`` whose names begin with one of ``names``; all when there is none."""
    sys.path.insert(0, str(ROOT))
    bugs = importlib.import_module("tests.planted.bugs").BUGS
    return [bug for bug in bugs if not names or any(bug.name.startswith(name) for name in names)]


class Automatic:
    """Mutations of the interposer's core, all in one build."""

    design = DESIGNS["interposer"]

    def __init__(self, count: int, seed: int) -> None:
        top = self.design.top
        self.verilog = annotated(component_of(top)(**self.design.hardware()), top)
        self.mutations = sample(candidates(self.verilog, CORE), count, seed)
        text = with_mutations(self.verilog, self.mutations, top)
        self.build = build(written(text, top), top, "verilator", hasty=True)
        self.seconds: list[float] = []   # limits, by the place in BATTERY

    def healthy(self, place: int) -> float:
        """Run the bench at a place in BATTERY with no mutation active: it must pass. Return the limit that its time gives to mutants."""
        started = time.monotonic()
        tried = self._attempt(self.build, place, build_root() / "mutants" / "none" / str(place), PLANTED_SECONDS)
        if tried.how:
            raise BenchFailure(f"The design without mutations fails {LABELS[place]}: {tried.how}")
        return max(LEAST_SECONDS, PATIENCE * (time.monotonic() - started))

    def run(self, number: int) -> Caught:
        """Run the benches on mutation ``number``, from 1, until one fails. One that is argued is not run: it would take the time of all benches."""
        mutation = self.mutations[number - 1]
        if argued(mutation):
            return Caught(described(mutation), mutation.source or mutation.module, "", "argued, not run", None, 0.0)
        started = time.monotonic()
        active = chosen(self.build, number)
        by = ""
        for place in places(remembered().get(mutation.identity, "")):
            tried = self._attempt(active, place, build_root() / "mutants" / f"{number:03}", self.seconds[place])
            if tried.how:
                by = LABELS[place]
                break
        return Caught(described(mutation), mutation.source or mutation.module, by, tried.how, tried.events, time.monotonic() - started)

    def _attempt(self, built: Build, place: int, folder: Path, seconds: float) -> Attempt:
        bench, parameters = BATTERY[place]
        return _attempt(built, bench, folder, self.design.config(self.design.hardware(), parameters), 1, seconds)


def described(mutation: Mutation) -> str:
    """A line that tells a mutation from the others."""
    return f"{mutation.module}: {mutation.kind}: {mutation.before[:100]}"


def places(first: str) -> list[int]:
    """The places of BATTERY, that with the label ``first`` before the others."""
    return sorted(range(len(BATTERY)), key=lambda place: LABELS[place] != first)


@cache
def remembered() -> dict[str, str]:
    """Which bench has found which mutation in an earlier run, by :attr:`Mutation.identity`."""
    return tomllib.loads(REMEMBERED.read_text(encoding="utf-8")) if REMEMBERED.exists() else {}


def remember(mutations: Sequence[Mutation], results: Sequence[Caught]) -> None:
    """Write down which bench has found which mutation."""
    lines = [f'{mutation.identity} = "{result.by}"  # {result.name}'
             for mutation, result in zip(mutations, results, strict=True) if not result.escaped]
    told = ("# Which bench found which automatic mutation last: it looks first, and when it finds nothing all do.\n"
            "# Generated by `python -m pagehop_sim.mutants --automatic --remember`.\n")
    write_text(REMEMBERED, told + "\n".join(lines) + "\n")


@cache
def _arguments() -> list[dict[str, str]]:
    path = ROOT / "tests" / "planted" / "survivors.toml"
    found: list[dict[str, str]] = tomllib.loads(path.read_text(encoding="utf-8"))["survivor"]
    return found


def argued(mutation: Mutation) -> str:
    """Why no bench can see this mutation, as ``survivors.toml`` says; empty when it does not.

    An entry says where the mutation is (``place``, a part of :attr:`Mutation.place` or of the module), and what it is (``mutation``, a pattern of
    :attr:`Mutation.variant`). Neither changes with an edit of another line.
    """
    return next((entry["reason"] for entry in _arguments()
                 if entry["place"] in f"{mutation.place} {mutation.module}" and re.search(entry["mutation"], mutation.variant)), "")


def _follow(title: str, futures: Sequence[Future[Caught]], console: Console) -> list[Caught]:
    """Show results as they come; return them in the order of ``futures``."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task(title, total=len(futures))
        for done, future in enumerate(as_completed(futures), 1):
            result = future.result()
            progress.advance(task)
            if not console.is_terminal:
                verdict = f"{result.by or 'ESCAPED'} ({result.how[:60]})"
                print(f"{title} {done}/{len(futures)}: {result.name}: {verdict}, {result.seconds:.1f} s", flush=True)
    return [future.result() for future in futures]


def _run_planted(bugs: Sequence[Any], jobs: int, console: Console) -> list[Caught]:
    """Run planted bugs: most of them in one design for each hardware, the others, which take longest, meanwhile."""
    groups = Together.groups(bugs)
    together = [bug for group in groups for bug in group]
    # Elaboration is work of Python, so each design gets a process; a bug holds functions, so its name goes there.
    with ProcessPoolExecutor(jobs) as processes, ThreadPoolExecutor(jobs) as threads:
        futures = {bug.name: processes.submit(_run_named, bug.name) for bug in bugs if bug not in together}
        for group in groups:
            shared = Together(group)
            sound = [threads.submit(shared.healthy, same) for same in runs(group)]
            futures |= {bug.name: threads.submit(shared.run, number) for number, bug in enumerate(group, 1)}
            for future in sound:
                future.result()
        return _follow("planted bugs", [futures[bug.name] for bug in bugs], console)


def table(results: Iterable[Caught]) -> Table:
    """The results as a table."""
    shown = Table("bug", "covers", "caught by", "how", "after events", "s")
    for result in results:
        events = "–" if result.events is None else f"{result.events:,}"
        shown.add_row(result.name, result.covers, result.by or "[red]ESCAPED", result.how[:60], events, f"{result.seconds:.0f}")
    return shown


def _survivors(automatic: Automatic, results: Sequence[Caught]) -> list[dict[str, str]]:
    """Each surviving mutation, with why it may; the reason of an escape is empty."""
    found = []
    for number, (mutation, result) in enumerate(zip(automatic.mutations, results, strict=True), 1):
        if result.escaped:
            found.append({"number": str(number), "place": mutation.place, "source": mutation.source, "mutation": mutation.variant,
                          "reason": argued(mutation)})
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what the command line selects; return the exit status."""
    # Beside a component that has a broken one next to it stands nothing but its ports: what it made for itself is not used.
    warnings.simplefilter("ignore", UnusedElaboratable)
    parser = argparse.ArgumentParser(prog="python -m pagehop_sim.mutants", description="Run broken hardware, which the benches must find.")
    parser.add_argument("names", nargs="*", help="planted bugs to run, by the start of their names (all)")
    parser.add_argument("--planted", action="store_true", help="only the planted bugs")
    parser.add_argument("--automatic", action="store_true", help="only the automatic mutations")
    parser.add_argument("--count", type=int, default=200, help="automatic mutations to sample (default: 200)")
    parser.add_argument("--seed", type=int, default=1, help="seed of the sample (default: 1)")
    parser.add_argument("--remember", action="store_true", help="write down which bench found which mutation, so that it looks first next time")
    parser.add_argument("--jobs", type=int, default=2, help="mutants at a time (default: 2)")
    given = parser.parse_args(arguments)
    if given.remember and (given.count, given.seed, given.planted) != (parser.get_default("count"), parser.get_default("seed"), False):
        parser.error("--remember writes down the usual sample, so it takes neither --count nor --seed nor --planted")
    console = Console()
    started = time.monotonic()
    try:
        escapes, record = _selected(given, console)
    except (ToolError, BenchFailure) as error:
        print(f"mutants: {error}", file=sys.stderr)
        return 2
    # A run of one kind keeps what the other has left.
    path = build_root() / "mutants.json"
    write_json(path, (read_json(path) or {}) | record | {"seconds": round(time.monotonic() - started, 1)})
    print(f"mutants: {escapes} escaped, {time.monotonic() - started:.0f} s")
    return 1 if escapes else 0


def _selected(given: argparse.Namespace, console: Console) -> tuple[int, dict[str, Any]]:
    escapes = 0
    record: dict[str, Any] = {}
    planted, automatically = given.planted or given.names or not given.automatic, not given.names and (given.automatic or not given.planted)
    with ProcessPoolExecutor(1) as side:
        # Most of making a design is work for one core, so the second design is made beside the first.
        making = side.submit(Automatic, given.count, given.seed) if automatically and (given.jobs > 1 or not planted) else None
        if planted:
            escapes, record = _planted(given, console)
        if automatically:
            more, found = _automatic(given, making.result() if making else Automatic(given.count, given.seed), console)
            escapes, record = escapes + more, record | found
    return escapes, record


def _planted(given: argparse.Namespace, console: Console) -> tuple[int, dict[str, Any]]:
    bugs = planted_bugs(given.names)
    if not bugs:
        raise ToolError(f"No planted bug's name starts with {' or '.join(map(repr, given.names))}")
    results = _run_planted(bugs, given.jobs, console)
    console.print(table(results))
    # A run of some says nothing of the others.
    record = {} if given.names else {"planted": [dataclasses.asdict(result) for result in results]}
    return sum(result.escaped for result in results), record


def _automatic(given: argparse.Namespace, automatic: Automatic, console: Console) -> tuple[int, dict[str, Any]]:
    with ThreadPoolExecutor(given.jobs) as pool:
        automatic.seconds = list(pool.map(automatic.healthy, range(len(BATTERY))))
        results = _follow("mutations", [pool.submit(automatic.run, number) for number in range(1, len(automatic.mutations) + 1)], console)
    if given.remember:
        remember(automatic.mutations, results)
    survivors = _survivors(automatic, results)
    console.print(table(result for result in results if result.escaped))
    for survivor in survivors:
        verdict = survivor["reason"] or "ESCAPED"
        console.print(f"{survivor['number']:>4} {survivor['mutation']}  {survivor['source']}: {verdict}", highlight=False, markup=False)
    caught = sum(not result.escaped for result in results)
    print(f"{caught} of {len(results)} mutations caught, {sum(bool(s['reason']) for s in survivors)} argued")
    record = {"automatic": [dataclasses.asdict(result) for result in results], "survivors": survivors, "seed": given.seed}
    return sum(not survivor["reason"] for survivor in survivors), record


if __name__ == "__main__":
    sys.exit(main())
