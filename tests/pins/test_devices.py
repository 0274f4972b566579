"""Devices with queues and rings, joined with a host by wires, on both simulators: they work, and their drivers notice what is broken."""

from pathlib import Path

import pytest
from wires import Wires

from pagehop_sim.build import build
from pagehop_sim.run import run
from pagehop_sim.toolchain import SIMULATORS
from pagehop_sim.verilog import convert


@pytest.mark.parametrize("simulator", SIMULATORS)
def test_devices(simulator, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    outcome = run(build(convert(Wires(), "interposer"), "interposer", simulator), "bench_devices", tmp_path, seed=5)
    outcome.check(min_tests=7, min_checked={"events": 1000})
