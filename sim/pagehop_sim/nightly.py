"""``make nightly SEEDS=20``: what takes too long for every change. Each step runs whatever became of those before it.

``SEEDS`` is the number of seeds for each scenario on Verilator; of what makes thousands of rounds in one run, a twentieth. Icarus takes twenty times
as long for a run and gets 20 at most.
"""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial

from pagehop_sim import cli
from pagehop_sim.build import build
from pagehop_sim.run import BenchFailure, run
from pagehop_sim.scenarios import shipped
from pagehop_sim.toolchain import SIMULATORS, ToolError, build_root
from pagehop_sim.verilog import generate

__all__ = ["STEPS"]

MOST_ON_ICARUS = 20
#: One in so many seeds of these, whose one run is thousands of rounds.
LONG = {"litmus": 20}

#: Requests of the races of the IOMMU, and the seconds that they may take.
ACCESSES, RACES_SECONDS = int(os.environ.get("ACCESSES", "1000000")), 10_800

#: Random accesses to pages whose leaves are watched.
WATCHED = 100_000
#: Machines with spoilt tables, each asked six things, once with a cache of tables and once without: 10^5 translations.
MACHINES = os.environ.get("MACHINES", "8400")
#: Lists of operations of the driver, and the seconds that one test may take with so many of them.
EXAMPLES, TEST_SECONDS = "24", "3600"

JOBS = os.environ.get("JOBS", "2")
SCENARIOS = tuple(shipped())


def _pagehop(*arguments: str) -> int:
    return cli.main(arguments)


def _module(*arguments: str) -> int:
    return subprocess.run([sys.executable, "-m", *arguments], check=False).returncode


def _random_tests() -> int:
    """Run the tests with a seed of the day: the same all night, another each night, printed so that it can be given again."""
    seed = os.environ.get("SEED") or time.strftime("%Y%m%d", time.gmtime())
    print(f"SEED={seed}", flush=True)
    return _tests("--timeout", TEST_SECONDS, "tests/unit", "tests/cosim", SEED=seed, API_EXAMPLES=EXAMPLES)


def _spoilt_tables() -> int:
    """Translations through tables of random form and with random faults, against the software model."""
    return _tests("--timeout", "0", "-k", "test_translation", "tests/unit/test_iommu_differential.py", MACHINES=MACHINES)


def _tests(*arguments: str, **environment: str) -> int:
    return subprocess.run([sys.executable, "-m", "pytest", "-q", *arguments], env=os.environ | environment, check=False).returncode


def _races() -> int:
    """A million accesses of devices through the IOMMU, and ten thousand pages that move meanwhile; every translation is judged."""
    hardware = {"modify": True}
    built = build(generate(hardware, "races of the IOMMU", "iommu_core"), "iommu_core", "verilator")
    parameters = {"accesses": ACCESSES, "history": 1.0}
    outcome = run(built, "pagehop_tb.benches.iommu_races", build_root() / "nightly" / "iommu_races", {"hardware": hardware, "parameters": parameters},
                  seed=int(os.environ.get("SEED", "1")), timeout_seconds=RACES_SECONDS)
    try:
        outcome.check(min_checked={"events": 7 * ACCESSES // 10})
    except BenchFailure as failure:
        print(failure, file=sys.stderr)
        return 1
    pages = (outcome.result or {})["pages"]["moved"]
    print(f"{ACCESSES} requests and {pages} pages moved in {outcome.wall_seconds:.0f} s: none lost, none stale")
    return int(pages < ACCESSES // 100)


def _sweep(scenario: str, simulator: str) -> int:
    wanted = os.environ.get("SEEDS", "20")
    if not wanted.isdecimal() or not int(wanted):
        raise ToolError(f"SEEDS must be the number of seeds of each scenario, not {wanted!r}")
    seeds = -(-min(int(wanted), MOST_ON_ICARUS if simulator == "icarus" else int(wanted)) // LONG.get(scenario, 1))
    return _pagehop("sweep", scenario, "--simulator", simulator, "--seeds", f"1-{seeds}", "--jobs", JOBS)


STEPS: dict[str, Callable[[], int]] = {
    **{f"{scenario} on {simulator}": partial(_sweep, scenario, simulator) for simulator in SIMULATORS for scenario in SCENARIOS},
    **{f"fio_nvme_nic on {simulator}": partial(
        _pagehop, "sweep", "migrate", "--simulator", simulator, "--seeds", "1", "--trace", "fio_nvme_nic")
       for simulator in SIMULATORS},
    "lint of what no test simulates": partial(_module, "pagehop_sim.lint", "--nightly"),
    "races of the IOMMU": _races,
    "translations through spoilt tables": _spoilt_tables,
    "leaves that are watched under random accesses": partial(
        _pagehop, "sim", "ots-watch", "--set", "storm=true", "--set", f"accesses={WATCHED}", "--set", "gap=30", "--set", "every=4000"),
    "tests with the seed of the day": _random_tests,
    "functional coverage": partial(_module, "pagehop_sim.coverage"),
    "broken hardware": partial(_module, "pagehop_sim.mutants", "--jobs", JOBS),
    "all proofs": partial(_module, "pagehop_sim.formal"),
    "area and Fmax, long runs too": partial(_module, "pagehop_sim.synth", "--nightly"),
    "docs/results.md": partial(_module, "pagehop_sim.tables"),
}


def main() -> int:
    """Run all steps; status 1 when one of them was not good, 2 for a mistake in what was asked."""
    bad = []
    for name, step in STEPS.items():
        print(f"== {name}", flush=True)
        try:
            good = not step()
        except ToolError as error:
            print(f"nightly: {error}", file=sys.stderr)
            return 2
        if not good:
            bad.append(name)
    print(f"nightly: {len(STEPS) - len(bad)} of {len(STEPS)} steps good" + "".join(f"\n  not good: {name}" for name in bad))
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
