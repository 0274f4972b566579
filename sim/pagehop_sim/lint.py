"""``python -m pagehop_sim.lint [--nightly]``: both simulators read the generated Verilog.

Verilator finds nothing that `lint.vlt` gives no reason for.
"""

import argparse
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from pagehop_sim.toolchain import ToolError, check_simulator, environment
from pagehop_sim.verilog import generate

__all__ = ["lint"]

WAIVERS = Path(__file__).parent / "lint.vlt"

_SMALL = {"data_bytes": 64, "window_pages": 128}
#: What is linted, by a name: designs that the tests simulate, for elaboration takes most of the time, and is done once for both. The interposer by
#: default, with each thing that it may have, and where widths meet their lower ends; the adjuster with the parts that it has for tags; the IOMMU's
#: core with all that it may have beside; and the on-the-side device beside an IOMMU.
CONFIGURATIONS: dict[str, tuple[str, dict[str, Any]]] = {
    "default": ("interposer", {}),
    "in a row": ("interposer", _SMALL | {"in_row": True}),
    "one host": ("interposer", _SMALL | {"hosts": 1}),
    "slots": ("interposer", _SMALL | {"slots": 2, "chunk_bytes": 64, "log_tables": "riscv"}),
    "narrow": ("interposer", {"data_bytes": 16, "window_pages": 64, "ecrc": "outside"}),
    "digests": ("interposer", {"data_bytes": 32, "window_pages": 64, "ecrc": "recompute", "log_tables": "vtd"}),
    "wide": ("interposer", {"data_bytes": 128, "window_pages": 64, "ecrc": "strip"}),
    "adjuster": ("adjuster", {"data_bytes": 64, "tags": 8}),
    "narrow adjuster": ("adjuster", {"data_bytes": 16, "tags": 2}),
    "iommu": ("iommu_core", {"modify": True, "counters": 2, "debug": True}),
    "on the side": ("ots_beside_iommu", {"data_bytes": 16, "windows": 2, "leaves": 8192, "walk_cache": 8, "reads": 4}),
}
#: What no test simulates, linted with ``--nightly`` only: all slots and tables at the lowest ends of their widths.
NIGHTLY: dict[str, tuple[str, dict[str, Any]]] = {
    "many slots": ("interposer", {"data_bytes": 16, "window_pages": 16384, "slots": 4, "in_row": True}),
    "one host with all": ("interposer", {"data_bytes": 16, "window_pages": 16384, "hosts": 1, "ecrc": "recompute", "log_tables": "vtd"}),
    "one window": ("ots", {"data_bytes": 16, "windows": 1}),
}
#: Each is work for one core.
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


def _linted(configuration: tuple[str, dict[str, Any]]) -> tuple[Path, list[str]]:
    top, parameters = configuration
    verilog = generate(parameters, "lint", top)
    return verilog, lint(verilog, top)


def main(arguments: list[str] | None = None) -> int:
    """Lint all of :data:`CONFIGURATIONS` and return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m pagehop_sim.lint", description="Lint the generated Verilog.")
    parser.add_argument("--nightly", action="store_true", help="lint what no test simulates, too")
    chosen = [*CONFIGURATIONS.values(), *(NIGHTLY.values() if parser.parse_args(arguments).nightly else ())]
    try:
        findings = []
        with ProcessPoolExecutor(JOBS) as processes:
            made = processes.map(_linted, chosen)
            for (top, parameters), (verilog, found) in zip(chosen, made, strict=True):
                print(f"lint of the {top} with {parameters or 'default parameters'}: {verilog}", flush=True)
                findings += found
    except ToolError as error:
        print(f"lint: {error}", file=sys.stderr)
        return 2
    print("\n".join(findings) or "clean: both simulators, Verilator's -Wall with the waivers of lint.vlt")
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())
