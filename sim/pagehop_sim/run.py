"""Run a cocotb bench on a build, and believe nothing but what it wrote.

The contract with a bench
-------------------------
The environment variable ``PAGEHOP_CONFIG`` names a JSON file::

    {"scenario": name, "simulator": "verilator" | "icarus", "seed": n, "trace": path or null,
     "hardware": {"data_bytes": 64, "window_pages": 262144, ...},     # parameters of the design
     "parameters": {...},                                             # what the scenario or test sets for the bench
     "result_file": path, "progress_file": path}

The bench writes ``result_file`` (JSON: its part of result.json; at least ``checked`` and ``violations``) before its tests end, and appends
lines of JSON to ``progress_file`` while it runs: ``{"done": n, "total": n, "text": "..."}``, flushed, a few a second at most. cocotb seeds
``random`` from ``seed``.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import cocotb_tools.config
import find_libpython

from pagehop_sim.build import Build
from pagehop_sim.files import read_json, write_json
from pagehop_sim.toolchain import ToolError, environment

__all__ = ["BenchFailure", "RunResult", "run"]


class BenchFailure(Exception):
    """A bench ran and failed, or ran and compared too little to mean anything."""


@dataclass
class RunResult:
    """What a run left: the outcome of each cocotb test and the bench's own result."""

    folder: Path
    tests: dict[str, str | None]             # name -> None when passed, else the failure's message
    result: dict[str, Any] | None            # what the bench wrote, None when it wrote nothing
    wall_seconds: float
    timed_out: bool = False
    log: Path = field(default=Path())

    @property
    def failures(self) -> dict[str, str]:
        """Tests that failed, with their messages."""
        return {name: message for name, message in self.tests.items() if message is not None}

    def check(self, min_tests: int = 1, min_checked: Mapping[str, int] | None = None) -> None:
        """Raise :class:`BenchFailure` unless ``min_tests`` tests ran, all passed, no violation was counted, and enough was compared."""
        if self.timed_out:
            raise BenchFailure(f"The simulation did not end in time ({self.wall_seconds:.0f} s) and was stopped; see {self.log}")
        if self.failures:
            raise BenchFailure("\n".join(f"{name} failed: {message}" for name, message in self.failures.items()) + f"\nsee {self.log}")
        if len(self.tests) < min_tests:
            raise BenchFailure(f"At least {min_tests} tests must run, and {len(self.tests)} did; see {self.log}")
        self._check_result(min_checked or {})

    def _check_result(self, min_checked: Mapping[str, int]) -> None:
        if self.result is None:
            if min_checked:
                raise BenchFailure(f"The bench wrote no result; see {self.log}")
            return
        found = {name: count for name, count in (self.result.get("violations") or {}).items() if count}
        if found:
            raise BenchFailure(f"Violations: {', '.join(f'{count} {name}' for name, count in found.items())}; see {self.folder}")
        checked = self.result.get("checked") or {}
        for name, least in min_checked.items():
            if (checked.get(name) or 0) < least:
                raise BenchFailure(f"checked.{name} must be at least {least}, and is {checked.get(name)}; see {self.folder}")


def run(build: Build, module: str, folder: Path, config: Mapping[str, Any] | None = None, seed: int = 1, timeout_seconds: float = 300,
        test_filter: str = "", on_progress: Callable[[dict[str, Any]], None] | None = None, most_failures: int = 0) -> RunResult:
    """Run the cocotb tests of ``module`` on ``build`` in ``folder``, which keeps the log, the results and, with waves, ``dump.fst``.

    ``config`` is handed to the bench as described above, completed with ``seed``, ``simulator`` and the two file names. ``timeout_seconds``
    is wall time: the simulator is stopped then. ``on_progress`` is called with each progress line. After ``most_failures`` tests have failed the
    others are not run; with 0 all are.
    """
    folder = folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    names = ("bench.json", "progress.jsonl", "results.xml", "run.log")
    result_file, progress_file, results_xml, log = (folder / name for name in names)
    for stale in (result_file, progress_file, results_xml, folder / build.wave_file):
        stale.unlink(missing_ok=True)
    given = {"scenario": module.rpartition(".")[2], "trace": None, "hardware": {}, "parameters": {}} | dict(config or {})
    write_json(folder / "config.json", given | {
        "simulator": build.simulator, "seed": seed, "result_file": str(result_file), "progress_file": str(progress_file)})
    env = _environment(build, module, seed, results_xml, test_filter) | {
        "PAGEHOP_CONFIG": str(folder / "config.json"), "COCOTB_MAX_FAILURES": str(most_failures)}
    started = time.monotonic()
    timed_out = _simulate(build, folder, env, log, timeout_seconds, _Follower(progress_file, on_progress))
    wall_seconds = time.monotonic() - started
    tests = _read_tests(results_xml, log, timed_out)
    return RunResult(folder, tests, read_json(result_file), wall_seconds, timed_out, log)


def _environment(build: Build, module: str, seed: int, results_xml: Path, test_filter: str) -> dict[str, str]:
    """Return the environment that cocotb 2.1 documents for flows of one's own."""
    libpython = find_libpython.find_libpython()
    if libpython is None:
        raise ToolError(f"This Python ({sys.executable}) has no shared libpython, which cocotb loads into the simulator")
    env = environment()
    # The simulator is no child of pytest as far as cocotb is concerned, and it dumps waves only where `build` was told to.
    for name in ("PYTEST_CURRENT_TEST", "WAVES", "GUI", "COCOTB_TEST_FILTER", "COCOTB_TESTCASE"):
        env.pop(name, None)
    env |= {
        "PATH": env["PATH"] + os.pathsep + str(cocotb_tools.config.libs_dir),
        "PYTHONPATH": os.pathsep.join(entry or str(Path.cwd()) for entry in sys.path),
        "PYGPI_PYTHON_BIN": sys.executable,
        "GPI_USERS": f"{libpython};{cocotb_tools.config.pygpi_entry_point()}",
        "COCOTB_TOPLEVEL": build.toplevel, "TOPLEVEL_LANG": "verilog",
        "COCOTB_TEST_MODULES": module,
        "COCOTB_RANDOM_SEED": str(seed),
        "COCOTB_RESULTS_FILE": str(results_xml),
        "COCOTB_RESULTS_ATTACHMENTS": "",
    }
    if test_filter:
        env["COCOTB_TEST_FILTER"] = test_filter
    if build.simulator == "verilator":
        env["COCOTB_TRUST_INERTIAL_WRITES"] = "1"
    return env


class _Follower:
    """Hands the lines that a bench appends to a file to a function, whole lines only."""

    def __init__(self, path: Path, on_progress: Callable[[dict[str, Any]], None] | None) -> None:
        self.path, self.on_progress, self.offset = path, on_progress, 0

    def poll(self) -> None:
        if self.on_progress is None or not self.path.is_file():
            return
        with self.path.open("rb") as handle:
            handle.seek(self.offset)
            data = handle.read()
        whole = data[:data.rfind(b"\n") + 1]
        self.offset += len(whole)
        for line in whole.splitlines():
            self.on_progress(json.loads(line))


def _simulate(build: Build, folder: Path, env: dict[str, str], log: Path, timeout_seconds: float, follower: _Follower) -> bool:
    """Run the simulator to its end or to the time limit; return whether the limit stopped it."""
    with log.open("wb") as output:
        # It stays in our process group, so that whoever stops the group stops the simulator too.
        process = subprocess.Popen(build.command, cwd=folder, env=env, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT)
        deadline = time.monotonic() + timeout_seconds
        try:
            while time.monotonic() < deadline:
                try:
                    process.wait(timeout=0.1)
                    return False
                except subprocess.TimeoutExpired:
                    follower.poll()
            return True
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
            follower.poll()


def _read_tests(results_xml: Path, log: Path, timed_out: bool) -> dict[str, str | None]:
    """Return the outcome of each test. A run that left no results has failed: cocotb writes none when it finds no test or cannot import the bench."""
    if not results_xml.is_file():
        if timed_out:
            return {}
        tail = "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-25:])
        raise BenchFailure(f"The simulation left no results; the end of {log}:\n{tail}")
    tests: dict[str, str | None] = {}
    for case in ElementTree.parse(results_xml).getroot().iter("testcase"):
        name = f"{case.get('classname')}.{case.get('name')}"
        if case.find("skipped") is not None:
            continue
        bad = next((element for element in case if element.tag in ("failure", "error")), None)
        # Type and message say what went wrong; the traceback is in the log.
        tests[name] = None if bad is None else f"{bad.get('type')}: {bad.get('message')}"
    return tests
