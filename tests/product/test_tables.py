"""docs/results.md comes from files alone, and bench.json tells a missed limit from a met one."""

from pagehop_sim.bench import misses
from pagehop_sim.tables import render

BENCH = {
    "idle_latency": {"value": 6, "limit": 6, "unit": "cycles", "better": "lower"},
    "pass_through": {"value": 0.95, "limit": 0.99, "unit": "share", "better": "higher"},
    "speed": {"value": 1234567, "limit": None, "unit": "cycles/s", "better": "higher"},
    "hold": {"value": None, "limit": None, "unit": "cycles", "better": "lower"},
}


def test_limits_are_inclusive_and_a_missing_value_is_missed():
    assert misses(BENCH) == ["pass_through", "hold"]


def test_page_shows_each_value_beside_its_limit():
    page = render("", {"bench": BENCH})
    assert "| idle latency | 6 | ≤ 6 | cycles | met |" in page
    assert "| pass through | 0.950 | ≥ 0.990 | share | **missed** |" in page
    assert "| speed | 1,234,567 | – | cycles/s | – |" in page
    assert "Not measured yet: `make synth`." in page


def test_a_part_that_was_not_run_stays():
    before = render("", {"bench": BENCH, "formal": {"p": {"mode": "bmc", "depth": 9, "status": "pass", "seconds": 1}}})
    after = render(before, {"synth": {"egress": {"lut": 10, "ff": 20, "bram": 0, "fmax_mhz": None, "family": "xcup"}}})
    assert "| idle latency | 6 | ≤ 6 | cycles | met |" in after
    assert "| `p` |  | bmc | 9 | pass | 0 of 0 |" in after
    assert "| `egress` | xcup | 10 | 20 | 0 | – |" in after
    assert render(after, {}) == after


def test_broken_hardware_that_escaped_is_told():
    bug = {"name": "no_flush", "covers": "H01", "by": "hot_page", "how": "lost", "events": 1200, "seconds": 3}
    values = {"planted": [bug, bug | {"name": "no_drain", "by": "", "how": ""}], "seed": 1,
              "automatic": [{"by": "hot_page"}, {"by": "hot_page"}, {"by": ""}],
              "survivors": [{"place": "hdl/pagehop/a.py: a = b", "mutation": "+ for -: x", "reason": ""}]}
    page = render("", {"mutants": values})
    assert "| `no_flush` | H01 | `hot_page` | lost | 1,200 |" in page
    assert "| `no_drain` | H01 | **escaped** |" in page
    assert "Of 3 automatic mutations (seed 1) 2 were caught: 2 by `hot_page`." in page
    assert "| `hdl/pagehop/a.py: a = b` | `+ for -: x` | **escaped** |" in page
