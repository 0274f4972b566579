# amaranth: UnusedElaboratable=no
"""The adapter to the P-Tile against cocotbext-pcie's root complex and model of the block, on Verilator."""

import os
import sys
from pathlib import Path

import pytest

from pagehop.shell.ptile import PTileShell
from pagehop_sim.build import build
from pagehop_sim.run import run
from pagehop_sim.verilog import convert

#: Each change is tested with one seed; the nightly run gives others.
SEED = int(os.environ.get("SEED", "1"))

sys.path.insert(0, str(Path(__file__).parent))

from shell_endpoint import CoreOutside, OtsInside


@pytest.fixture
def bench(tmp_path, monkeypatch):
    """Return ``run_bench(component, module)``."""
    monkeypatch.syspath_prepend(str(Path(__file__).parent))

    def run_bench(component, module):
        made = build(convert(component, "shell_pt"), "shell_pt", "verilator", hasty=True)
        return run(made, module, tmp_path, seed=SEED, timeout_seconds=120)

    return run_bench


def test_a_port_behind_the_block(bench):
    bench(CoreOutside(PTileShell({0: 1 << 16, 2: 1 << 20})), "bench_shell_pt").check(min_tests=5, min_checked={"events": 1000})


def test_the_on_the_side_device_behind_the_block(bench):
    bench(OtsInside(PTileShell({0: 1 << 14, 2: 1 << 21, 4: 1 << 12})), "bench_shell_pt_ots").check(min_checked={"events": 80})
