# amaranth: UnusedElaboratable=no
"""What the cosim tests share: fixtures that build the design, run a bench on it and demand that it proved something."""

import os
import re
import sys
from pathlib import Path

import pytest

from pagehop_sim.build import build
from pagehop_sim.mutants import Together, chosen
from pagehop_sim.run import run
from pagehop_sim.toolchain import SIMULATORS, build_root
from pagehop_sim.verilog import PARAMETERS, convert, generate

HERE = Path(__file__).parent
# The planted bugs are a package beside the tests; the benches of adapters to hard blocks, and their endpoint, are modules here.
sys.path[:0] = [str(HERE.parents[1]), str(HERE)]

from tests.planted.regression import REGRESSION

#: Each change is tested with one seed; the nightly run gives others.
SEED = int(os.environ.get("SEED", "1"))


@pytest.fixture(params=SIMULATORS)
def simulator(request):
    """Each simulator in turn."""
    return request.param


@pytest.fixture
def broken():
    """Return ``broken(name)``: a build on Verilator in which that bug of ``REGRESSION`` is active."""
    names = [bug.name for bug in REGRESSION]
    return lambda name: chosen(Together(REGRESSION).build, 1 + names.index(name))


@pytest.fixture
def folder(request):
    """Where runs of this test write: no other test writes there, for two may run at once."""
    return build_root() / "test" / "cosim" / request.path.stem / re.sub(r"[^\w.-]+", "_", request.node.name)


@pytest.fixture
def bench(folder):
    """Return ``run_bench(module, simulator, parameters, hardware, built, least, seed, timeout_seconds, check, trace)``.

    It runs ``pagehop_tb.benches.<module>`` on the interposer with the parameters ``hardware``, or on ``built`` that was made of it already. ``least``
    are counts of ``checked`` that the run must reach. With ``check=False`` the RunResult is returned as it is, for tests that expect a failure. Logs
    stand in build/test/cosim/<file>/<test>/.
    """
    def run_bench(module, simulator, parameters=None, hardware=None, built=None, least=None, seed=SEED, timeout_seconds=300, check=True, trace=None):
        whole = {name: (hardware or {}).get(name, default) for name, (_, default) in PARAMETERS.items()}
        config = {"scenario": module, "hardware": whole, "parameters": parameters or {}, "trace": trace and str(trace)}
        made = built or build(generate(whole), "interposer", simulator)
        outcome = run(made, f"pagehop_tb.benches.{module}", folder, config, seed=seed, timeout_seconds=timeout_seconds)
        if check:
            outcome.check(min_checked=least or {"events": 1})
        return outcome

    return run_bench


@pytest.fixture
def behind_block(tmp_path, monkeypatch):
    """Return ``run_bench(component, module)``: it runs a bench of this folder, with the model of a hard block, on a component, on Verilator."""
    monkeypatch.syspath_prepend(str(HERE))

    def run_bench(component, module):
        made = build(convert(component, "shell"), "shell", "verilator", hasty=True)
        return run(made, module, tmp_path, seed=SEED, timeout_seconds=120)

    return run_bench
