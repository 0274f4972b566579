"""Running one block in Amaranth's simulator: what the unit tests share."""

import os
import random
from collections.abc import Awaitable, Callable
from typing import Any

from amaranth.sim import Simulator

PERIOD = 4e-9


def seeded(name: str) -> random.Random:
    """Random source of one test: the same for the same ``SEED`` and name. Prints the seed."""
    seed = f"{os.environ.get('SEED', '1')}/{name}"
    print(f"seed {seed}")
    return random.Random(seed)


def run(dut: Any, *benches: Callable[[Any], Awaitable[None]]) -> None:
    """Run the benches on ``dut`` until all have ended. A bench is an ``async`` function of the simulator's context."""
    simulator = Simulator(dut)
    simulator.add_clock(PERIOD, if_exists=True)
    for bench in benches:
        simulator.add_testbench(bench)
    simulator.run()
