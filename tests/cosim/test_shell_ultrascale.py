"""The adapter to the UltraScale+ block against cocotbext-pcie's root complex and model of the block, on Verilator."""

import sys
from pathlib import Path

from pagehop.shell.ultrascale import UltraScaleShell
from pagehop_sim.build import build
from pagehop_sim.run import run
from pagehop_sim.verilog import convert

sys.path.insert(0, str(Path(__file__).parent))

from shell_endpoint import CoreOutside


def test_root_complex_and_device(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    made = build(convert(CoreOutside(UltraScaleShell(rc_straddle=True)), "shell_us"), "shell_us", "verilator", hasty=True)
    outcome = run(made, "bench_shell_us", tmp_path, seed=1, timeout_seconds=120)
    outcome.check(min_tests=5, min_checked={"events": 1000})
