"""The port agents carry TLPs bit-exact, and notice every planted break of a rule of streams and credits."""

from pathlib import Path

import pytest
from wires import Wires

from pagehop_sim.build import build
from pagehop_sim.run import BenchFailure, run
from pagehop_sim.toolchain import SIMULATORS
from pagehop_sim.verilog import convert


@pytest.fixture(autouse=True)
def bench_on_path(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parent))


def wires(simulator, **parameters):
    return build(convert(Wires(**parameters), "interposer"), "interposer", simulator)


@pytest.mark.parametrize("simulator", SIMULATORS)
@pytest.mark.parametrize("data_bytes", [16, 64])
def test_wires_are_transparent(simulator, data_bytes, tmp_path):
    config = {"hardware": {"data_bytes": data_bytes}}
    outcome = run(wires(simulator, data_bytes=data_bytes), "bench_pins", tmp_path, config=config, seed=3, test_filter="full_rate|pauses|asleep|alone")
    outcome.check(min_tests=4, min_checked={"events": 600})


@pytest.mark.parametrize(("fault", "expected"), [
    ("payload", "payload changed before the beat was taken"),
    ("valid", "valid fell before the beat was taken"),
    ("dwords", "in the beats of|in the last beat"),
    ("header", "IllFormedTlp|MalformedTlp|BeatError|is not a TLP"),
    ("overrun", "exceeds its credits"),
    ("range", "at most half of the range"),
    ("leak", "device misses credits: .'POSTED 1/0'"),
])
def test_planted_faults_are_noticed(fault, expected, tmp_path):
    outcome = run(wires("icarus", fault=fault), "bench_pins", tmp_path, seed=3, test_filter="pauses")
    with pytest.raises(BenchFailure, match=expected):
        outcome.check()


@pytest.mark.parametrize("simulator", SIMULATORS)
def test_a_failed_test_leaves_nothing_for_the_next(simulator, tmp_path):
    outcome = run(wires(simulator), "bench_restart", tmp_path, seed=3)
    outcome.check(min_tests=2, min_checked={"events": 300})
