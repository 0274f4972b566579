"""The models of hosts and devices, joined by wires, on both simulators."""

from pathlib import Path

import pytest
from wires import Wires

from pagehop_sim.build import build
from pagehop_sim.run import run
from pagehop_sim.toolchain import SIMULATORS
from pagehop_sim.verilog import convert


@pytest.mark.parametrize("simulator", SIMULATORS)
def test_models(simulator, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    made = build(convert(Wires(), "interposer"), "interposer", simulator)
    outcome = run(made, "bench_models", tmp_path, seed=7, config={"parameters": {"pages": 5}})
    outcome.check(min_tests=11, min_checked={"events": 5})
