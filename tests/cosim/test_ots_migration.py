# amaranth: UnusedElaboratable=no
"""A guest migrates through windows of the on-the-side device, or is watched by it, and what is found when something is left out or broken."""

import pytest

from pagehop_sim.build import build
from pagehop_sim.lint import CONFIGURATIONS
from pagehop_sim.run import run
from pagehop_sim.traces import find_trace
from pagehop_sim.verilog import generate

TOP, HARDWARE = CONFIGURATIONS["on the side"]
NEAR = {"probes": 0, "aperture_delay": [0, 60], "latency": 10, "write_delay": [20, 200, 0.05, 2500], "read_delay": [50, 300]}
#: Short: a few pages, near memory, no DMA after the last move.
SHORT = NEAR | {"pages": 4, "gap": 10, "passes_after": 0, "windows": 2}
#: Two pages that devices do not leave alone; what comes through a window is late, or what goes straight to its page.
STORM = SHORT | {"pages": 2, "gap": 20, "storm": True, "rounds": 1, "write_delay": [20, 300], "aside_delay": [700, 1000], "read_delay": [20, 60]}
LATE = STORM | {"write_delay": [700, 1000], "aside_delay": [20, 60], "ahead": 1.0}
#: Devices access a guest at random that has pages of 2 MiB, and is harvested often.
LARGE = {"storm": True, "every": 1000, "gap": 10}


@pytest.fixture
def bench(folder):
    """Return ``run_bench(built, bench, seed, **parameters)``."""
    def run_bench(built, name, seed=1, **parameters):
        config = {"hardware": HARDWARE, "parameters": parameters, "trace": str(find_trace("small_nvme_nic"))}
        return run(built, f"pagehop_tb.benches.{name}", folder, config, seed=seed, timeout_seconds=300)

    return run_bench


def made(simulator):
    return build(generate(HARDWARE, top=TOP), TOP, simulator)


@pytest.fixture(scope="module")
def built():
    """The design, on Verilator."""
    return made("verilator")


@pytest.mark.hazard("H02", "H03", "H25", "H26", "H27", "I1", "I2", "I3", "I4", "I5", "I13")
@pytest.mark.parametrize("case", [{"snapshot": False}, {"topology": 12, "itself": True, "walk_bytes": 8}])
def test_a_guest_moves_through_windows(bench, built, case):
    outcome = bench(built, "ots_migration", **SHORT | {"late": 300} | case)
    outcome.check(min_checked={"events": 3000, "read_bytes": 50_000, "final_bytes": 300_000})
    assert outcome.result["pages"]["moved"] == SHORT["pages"]


def test_a_page_moves_on_icarus(bench):
    outcome = bench(made("icarus"), "ots_migration", **SHORT | {"pages": 1})
    outcome.check(min_checked={"events": 500, "final_bytes": 300_000})


@pytest.mark.hazard("H10", "H20", "H23", "H25", "H26", "H58")
@pytest.mark.parametrize("case", [STORM, LATE], ids=["the window is late", "memory is late"])
def test_pages_move_in_a_storm(bench, built, case):
    """Writes, reads and atomics at random, and one page that is written without end."""
    bench(built, "ots_migration", 2, **case).check(min_checked={"events": 2000, "read_bytes": 5_000, "final_bytes": 300_000})


@pytest.mark.hazard("H58")
def test_atomics_that_are_late_are_in_the_copy(bench, built):
    """One that left before its page was tracked, and is performed behind the copy of its line: nothing says any more that it was there."""
    late = {"pages": 5, "rounds": 6, "gap": 1, "mix": [0, 5, 0, 95], "aside_delay": [20, 60], "read_delay": [20, 60, 0.5, 3000]}
    bench(built, "ots_migration", **STORM | late).check(min_checked={"events": 2000, "final_bytes": 300_000})


@pytest.mark.hazard("H26")
@pytest.mark.parametrize("case", [STORM | {"holds": False}, LATE | {"entry": "nothing"}], ids=["leaves", "enters"])
def test_a_page_for_which_nothing_waits_is_overtaken(bench, built, case):
    """What the storm is good for: a write that goes straight to the page as it leaves its window passes one that is on its way through it, or one
    that goes through the window as the page is led there passes one that went straight."""
    outcome = bench(built, "ots_migration", 2, **case)
    assert outcome.failures and outcome.result["violations"]["reordered"], "nothing was overtaken"


@pytest.mark.hazard("H19", "H26")
def test_a_window_that_could_not_wait_says_so(bench, built):
    """It has not the room for all that comes until what went straight is done, and that cannot be done before it has."""
    outcome = bench(built, "ots_migration", 2, **LATE | {"entry": "window"})
    assert any("the order is not known" in failure for failure in outcome.failures.values()), outcome.failures


@pytest.mark.hazard("H28", "H29")
@pytest.mark.parametrize("case", [{}, {"storm": True}, LARGE | {"large": 0.5}], ids=["trace", "storm", "large pages"])
def test_no_page_that_is_written_is_missed(bench, built, case):
    """Also where half of the regions of 2 MiB are one page each, whose leaf stands in a line with pointers."""
    outcome = bench(built, "ots_watch", **NEAR | case)
    outcome.check(min_checked={"final_bytes": 300_000})
    values = outcome.result.get("values", {})
    assert ("large" in case) == bool(values)
    assert not values or (values["large_pages_missed"]["value"] == 0 and values["large_pages_written"]["value"] > 20), values


@pytest.mark.hazard("H28")
@pytest.mark.parametrize("case", [{}, LARGE | {"large": 1.0}], ids=["pages", "large pages"])
def test_pages_are_missed_when_nothing_is_forgotten(bench, built, case):
    outcome = bench(built, "ots_watch", **NEAR | case | {"forgets": False})
    assert any("never reported" in failure for failure in outcome.failures.values())
