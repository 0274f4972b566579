# amaranth: UnusedElaboratable=no
"""What the cosim tests share: one fixture that builds the design, runs a bench on it and demands that it proved something."""

import os
import re
from pathlib import Path

import pytest

from pagehop_sim.build import build
from pagehop_sim.run import run
from pagehop_sim.toolchain import SIMULATORS, build_root
from pagehop_sim.verilog import PARAMETERS, convert, interposer

#: Bugs are planted by what stands here, so it decides about a broken design as the test's own file does.
PLANTED = sorted((Path(__file__).parents[1] / "planted").glob("*.py"))
#: Each change is tested with one seed; the nightly run gives others.
SEED = int(os.environ.get("SEED", "1"))


@pytest.fixture(params=SIMULATORS)
def simulator(request):
    """Each simulator in turn."""
    return request.param


@pytest.fixture
def bench(request):
    """Return ``run_bench(module, simulator, parameters, hardware, design, least, seed, timeout_seconds, check, trace)``.

    It runs ``pagehop_tb.benches.<module>`` on the interposer with the parameters ``hardware``. ``design`` is another component to run it on: a
    function of the hardware's parameters, in the file of the test (planted bugs). ``least`` are counts of ``checked`` that the run must reach. With
    ``check=False`` the RunResult is returned as it is, for tests that expect a failure. Logs stand in build/test/cosim/<test>/.
    """
    folder = build_root() / "test" / "cosim" / re.sub(r"[^\w.-]+", "_", request.node.name)

    def run_bench(module, simulator, parameters=None, hardware=None, design=None, least=None, seed=SEED, timeout_seconds=300, check=True, trace=None):
        chosen = {name: (hardware or {}).get(name, default) for name, (_, default) in PARAMETERS.items()}
        if design is None:
            verilog = interposer(chosen)
        else:
            verilog = convert(design(**chosen), "interposer", sources=[Path(request.node.path), *PLANTED], about=f"{design.__qualname__} {chosen}")
        config = {"scenario": module, "hardware": chosen, "parameters": parameters or {}, "trace": trace and str(trace)}
        built = build(verilog, "interposer", simulator)
        outcome = run(built, f"pagehop_tb.benches.{module}", folder, config, seed=seed, timeout_seconds=timeout_seconds)
        if check:
            outcome.check(min_checked=least or {"events": 1})
        return outcome

    return run_bench
