"""``make nightly``: what takes too long for every change. Each step runs whatever became of those before it."""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial

from pagehop_sim import cli
from pagehop_sim.toolchain import SIMULATORS

__all__ = ["STEPS"]

SEEDS = "1-20"


def _pagehop(*arguments: str) -> int:
    return cli.main(arguments)


def _module(*arguments: str) -> int:
    return subprocess.run([sys.executable, "-m", *arguments], check=False).returncode


def _random_tests() -> int:
    """Run the tests with a seed of the day: the same all night, another each night, printed so that it can be given again."""
    seed = os.environ.get("SEED") or time.strftime("%Y%m%d", time.gmtime())
    print(f"SEED={seed}", flush=True)
    command = [sys.executable, "-m", "pytest", "-q", "tests/unit", "tests/cosim"]
    return subprocess.run(command, env=os.environ | {"SEED": seed}, check=False).returncode


STEPS: dict[str, Callable[[], int]] = {
    **{f"{scenario} on {simulator}, seeds {SEEDS}": partial(_pagehop, "sweep", scenario, "--simulator", simulator, "--seeds", SEEDS)
       for simulator in SIMULATORS for scenario in ("migrate", "hot-page", "aborts", "producer-consumer")},
    **{f"fio_nvme_nic on {simulator}": partial(
        _pagehop, "sweep", "migrate", "--simulator", simulator, "--seeds", "1", "--trace", "fio_nvme_nic")
       for simulator in SIMULATORS},
    "tests with the seed of the day": _random_tests,
    "all proofs": partial(_module, "pagehop_sim.formal"),
    "area and Fmax, long runs too": partial(_module, "pagehop_sim.synth", "--nightly"),
    "docs/results.md": partial(_module, "pagehop_sim.tables"),
}


def main() -> int:
    """Run all steps; status 1 when one of them was not good."""
    bad = []
    for name, step in STEPS.items():
        print(f"== {name}", flush=True)
        if step():
            bad.append(name)
    print(f"nightly: {len(STEPS) - len(bad)} of {len(STEPS)} steps good" + "".join(f"\n  not good: {name}" for name in bad))
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
