"""A host with two ports: what goes from port to port, joined by wires, on both simulators."""

from pathlib import Path

import pytest
from wires import PeerWires

from pagehop_sim.build import build
from pagehop_sim.run import run
from pagehop_sim.toolchain import SIMULATORS
from pagehop_sim.verilog import convert


@pytest.mark.parametrize("simulator", SIMULATORS)
def test_peers(simulator, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    made = build(convert(PeerWires(), "peers"), "peers", simulator)
    outcome = run(made, "bench_peers", tmp_path, seed=7)
    outcome.check(min_tests=16, min_checked={"events": 1000})
