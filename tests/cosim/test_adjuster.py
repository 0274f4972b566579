# amaranth: UnusedElaboratable=no
"""The address adjuster on both simulators, and what the bench finds when it is broken."""

import pytest

from pagehop.interposer.adjuster import AddressAdjuster, AdjusterLane
from pagehop_sim.build import build
from pagehop_sim.planted import edited
from pagehop_sim.run import run
from pagehop_sim.verilog import convert


@pytest.fixture
def adjuster(folder):
    """Return ``run_bench(simulator, hardware, design=AddressAdjuster, name="adjuster", **parameters)``."""
    def run_bench(simulator, hardware, design=AddressAdjuster, name="adjuster", **parameters):
        built = build(convert(design(**hardware), "adjuster"), "adjuster", simulator)
        return run(built, f"pagehop_tb.benches.{name}", folder, {"hardware": hardware, "parameters": parameters}, seed=1, timeout_seconds=200)

    return run_bench


@pytest.mark.hazard("H24c", "H24f", "O2", "O3", "D7", "D16")
@pytest.mark.parametrize(("simulator", "data_bytes", "tags"), [
    ("icarus", 64, 0), ("icarus", 64, 8), ("icarus", 16, 2), ("icarus", 128, 64), ("verilator", 64, 8), ("verilator", 16, 2)])
def test_all_passes_in_its_order(adjuster, simulator, data_bytes, tags):
    outcome = adjuster(simulator, {"data_bytes": data_bytes, "tags": tags}, requests=1500 if simulator == "verilator" else 400)
    outcome.check(min_tests=2, min_checked={"events": 800})


@pytest.mark.hazard("H04")
def test_a_second_path_needs_the_fence(adjuster):
    """Beside a short path the long one needs a fence for each change from it, whose cost is that of its round trip; without, data comes too late."""
    hardware = {"data_bytes": 64, "tags": 2}
    fenced = adjuster("icarus", hardware, name="second_path", rounds=60, fence=True)
    fenced.check(min_checked={"events": 60})
    assert fenced.result["fences"]["count"] == 60
    assert 300 < fenced.result["fences"]["cycles"] / 60 < 1500
    bare = adjuster("icarus", hardware, name="second_path", rounds=60)
    assert bare.result["violations"]["stale"] > 10 and bare.result["fences"] == {"count": 0, "cycles": 0}


#: What stands in the adjuster, what a bug makes of it, and what the bench says; in the lane of one direction, or in the whole.
LANE_BUGS = {
    "translated requests are changed": ("inside & plain & (", "inside & ("),
    "the last page is left out": ("self.aperture.range.holds_page(page)", "self.aperture.range.holds_page(page + 1)"),
    "the form of the header does not follow": ("*far.is_at(number)", "far.number.eq(number)"),
}
BUGS = {
    "answers are not found": ("down.found.eq(table.valid[0] & ours)", "down.found.eq(0)"),
    "answers for others are taken for ours": ("(coming.requester_id == self.requester_id) &", ""),
    "writes keep their ID": ("kind != TlpClass.COMPLETION", "kind == TlpClass.NON_POSTED"),
    "a tag is not given back": ("table.free[1].eq(down.ended)", "table.free[1].eq(0)"),
    "a tag is given back at the first completion": ("table.free[1].eq(down.ended)", "table.free[1].eq(down.found & down.looks)"),
    "requests are granted without a look at the tags": ("granted.infinite | (left > room), room, left", "granted.infinite, 64, left"),
    "the data of requests is not counted": ("units + Mux(headers.has_data(header), headers.credits_of_dwords(length), 0)", "units"),
}


@pytest.mark.hazard("H24c", "H24f", "D7", "D16")
@pytest.mark.parametrize("bug", [*LANE_BUGS, *BUGS])
def test_planted_bug_is_found(adjuster, bug):
    if bug in BUGS:
        design = edited(AddressAdjuster, BUGS[bug])
    else:
        design = edited(AddressAdjuster, AdjusterLane=edited(AdjusterLane, LANE_BUGS[bug]))
    outcome = adjuster("icarus", {"data_bytes": 64, "tags": 4}, design, requests=300)
    assert outcome.failures, f"the bench does not see that {bug}"


@pytest.mark.hazard("D7")
def test_requests_that_wait_for_answers_are_found_without_tags(adjuster):
    passed = "source.rx_limits.eq(sink.tx_limits)"
    design = edited(AddressAdjuster, (passed, f"[{passed}, source.rx_limits.non_posted.eq(8)]"))
    outcome = adjuster("icarus", {"data_bytes": 64, "tags": 0}, design, requests=0)
    assert any("requests went through" in message for message in outcome.failures.values()), outcome.failures
