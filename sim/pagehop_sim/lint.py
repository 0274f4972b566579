"""``python -m pagehop_sim.lint``: both simulators read the generated Verilog; Verilator finds nothing that `lint.vlt` gives no reason for."""

import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from pagehop_sim.toolchain import ToolError, check_simulator, environment
from pagehop_sim.verilog import generate

__all__ = ["lint"]

WAIVERS = Path(__file__).parent / "lint.vlt"

#: What is linted: the interposer by default, and twice the smallest, where widths meet their lower ends: with slots in a row, and with one host that
#: checks and makes digests and marks page tables; the adjuster with the parts that it has for tags; and the IOMMU's core with all that it may have
#: beside.
_SMALL = {"data_bytes": 16, "window_pages": 16384}
CONFIGURATIONS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("interposer", {}), ("interposer", _SMALL | {"slots": 4, "in_row": True}),
    ("interposer", _SMALL | {"hosts": 1, "ecrc": "recompute", "log_tables": "vtd"}), ("adjuster", {"tags": 8}),
    ("adjuster", {"data_bytes": 16, "tags": 2}), ("iommu_core", {"modify": True, "counters": 2, "debug": True}),
    ("ots", {"data_bytes": 16, "windows": 2}))
#: Elaboration, most of the time, is work for one core.
JOBS = 2


def lint(verilog: Path, toplevel: str) -> list[str]:
    """Return what both simulators have to say about a file, nothing when it is clean."""
    commands = (
        ["verilator", "--lint-only", "-Wall", "--top-module", toplevel, str(WAIVERS), str(verilog)],
        ["iverilog", "-g2012", "-Wall", "-t", "null", "-s", toplevel, str(verilog)],
    )
    findings = []
    for command in commands:
        check_simulator(command[0].replace("iverilog", "icarus"))
        made = subprocess.run(command, env=environment(), capture_output=True, text=True, check=False)
        if made.returncode or made.stderr.strip():
            findings.append(f"{command[0]} (status {made.returncode}): {made.stderr.strip()}")
    return findings


def _generated(configuration: tuple[str, dict[str, Any]]) -> Path:
    top, parameters = configuration
    return generate(parameters, "lint", top)


def main() -> int:
    """Lint each of :data:`CONFIGURATIONS` and return the exit status."""
    try:
        findings = []
        with ProcessPoolExecutor(JOBS) as processes:
            files = processes.map(_generated, CONFIGURATIONS)
            for (top, parameters), verilog in zip(CONFIGURATIONS, files, strict=True):
                print(f"lint of the {top} with {parameters or 'default parameters'}: {verilog}", flush=True)
                findings += lint(verilog, top)
    except ToolError as error:
        print(f"lint: {error}", file=sys.stderr)
        return 2
    print("\n".join(findings) or "clean: both simulators, Verilator's -Wall with the waivers of lint.vlt")
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())
