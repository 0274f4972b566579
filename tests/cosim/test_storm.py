"""Storms of a few seeds; ``make nightly`` runs many."""

import os

import pytest

#: Small enough to compile and elaborate quickly.
HARDWARE = {"data_bytes": 64, "window_pages": 128}
SEED = int(os.environ.get("SEED", "1"))
LEAST = {"events": 200, "read_bytes": 100, "final_bytes": 16384}


@pytest.mark.parametrize("number", range(5))
def test_storm(bench, number):
    bench("storm", "verilator", {"moves": 16, "cycles": 50_000}, HARDWARE, least=LEAST, seed=1000 * SEED + number)


def test_storm_on_icarus(bench):
    bench("storm", "icarus", {"moves": 2, "cycles": 3000}, HARDWARE, least={"events": 50})


def test_a_lost_host_leaves_the_other_and_comes_back(bench):
    bench("host_loss", "verilator", {"rounds": 3}, HARDWARE, least=LEAST)
