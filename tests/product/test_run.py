"""The runner believes nothing: a bench that fails, hangs, says nothing or compares nothing is a failure, on both simulators."""

from pathlib import Path

import pytest
from echo import Echo

from pagehop_sim.build import build
from pagehop_sim.run import BenchFailure, run
from pagehop_sim.toolchain import SIMULATORS
from pagehop_sim.verilog import convert


@pytest.fixture(autouse=True)
def bench_on_path(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parent))


@pytest.fixture(params=SIMULATORS)
def echo(request):
    return build(convert(Echo(), "echo"), "echo", request.param)


def parameters(**values):
    return {"parameters": values}


def test_passing_bench(echo, tmp_path):
    lines = []
    outcome = run(echo, "bench_echo", tmp_path, seed=5, on_progress=lines.append)
    outcome.check(min_tests=2, min_checked={"events": 300})
    assert outcome.tests == {"bench_echo.echoes": None, "bench_echo.hangs_on_request": None}
    assert [line["done"] for line in lines] == [100, 200, 300]


def test_seed_decides_the_run(echo, tmp_path):
    seen = [run(echo, "bench_echo", tmp_path, seed=seed, config=parameters(count=3)).result["seen"] for seed in (1, 1, 2)]
    assert seen[0] == seen[1] != seen[2]


def test_planted_bug_fails(echo, tmp_path):
    planted = build(convert(Echo(planted=True), "echo"), "echo", echo.simulator)
    outcome = run(planted, "bench_echo", tmp_path, test_filter="echoes")
    with pytest.raises(BenchFailure, match="item 8 differs"):
        outcome.check()


@pytest.mark.parametrize(("values", "expected"), [
    ({"write_result": False}, "The bench wrote no result"),
    ({"count": 10}, "checked.events must be at least 300, and is 10"),
    ({"lost": 2}, "Violations: 2 lost"),
])
def test_weak_bench_fails(echo, tmp_path, values, expected):
    outcome = run(echo, "bench_echo", tmp_path, config=parameters(**values), test_filter="echoes")
    with pytest.raises(BenchFailure, match=expected):
        outcome.check(min_checked={"events": 300})


def test_too_few_tests_fail(echo, tmp_path):
    outcome = run(echo, "bench_echo", tmp_path, test_filter="echoes")
    with pytest.raises(BenchFailure, match="At least 2 tests must run, and 1 did"):
        outcome.check(min_tests=2)


def test_hanging_bench_is_stopped(echo, tmp_path):
    outcome = run(echo, "bench_echo", tmp_path, config=parameters(hang=True), timeout_seconds=3)
    assert outcome.timed_out
    with pytest.raises(BenchFailure, match="did not end in time"):
        outcome.check()


def test_missing_bench_module_fails(echo, tmp_path):
    with pytest.raises(BenchFailure, match="no_such_bench"):
        run(echo, "no_such_bench", tmp_path)


def test_waves_are_written_into_the_folder_of_the_run(echo, tmp_path):
    waves = build(convert(Echo(), "echo"), "echo", echo.simulator, waves=True)
    run(waves, "bench_echo", tmp_path, config=parameters(count=5)).check()
    assert (tmp_path / waves.wave_file).stat().st_size > 100
