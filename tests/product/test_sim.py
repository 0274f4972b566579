"""`pagehop sim` from end to end, with a scenario and a trace of the user's own."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pagehop_sim import cli
from pagehop_sim.result import SHAPE
from pagehop_sim.toolchain import build_root

SCENARIO = """
description = "Two pages of a guest of mine."
bench = "migrate"
trace = "{trace}"
timeout_seconds = {seconds}
[hardware]
window_pages = 128
[parameters]
pages = 2
pauses = 0.0
write_delay = [10, 50]
read_delay = [10, 50]
[least]
read_bytes = 500
final_bytes = 8192
"""


@pytest.fixture
def scenario(tmp_path):
    """Return a function that writes a scenario with a time limit."""
    trace = tmp_path / "mine.csv"
    lines = [f"nic,W,{0x1000 + 64 * n:#x},64,rx-data\nnvme,R,{0x1000 + 64 * n:#x},64,sqe\nnvme,W,{0x2000 + 16 * n:#x},16,cqe\n" for n in range(12)]
    trace.write_text("device,op,address,length,kind\n" + "".join(lines) + "nvme,W,0xfee00000,4,msi\n", encoding="utf-8")

    def write(name, seconds=300):
        path = tmp_path / f"{name}.toml"
        path.write_text(SCENARIO.format(trace=trace, seconds=seconds), encoding="utf-8")
        return path

    return write


def result(name):
    return json.loads((build_root() / "sim" / name / "result.json").read_text(encoding="utf-8"))


def test_a_scenario_of_ones_own(scenario, capsys):
    assert cli.main(["sim", str(scenario("mine")), "--simulator", "icarus", "--seed", "4"]) == 0
    found = result("mine")
    assert list(found) == list(SHAPE)
    assert found["pages"] == {"requested": 2, "moved": 2, "aborted": 0, "retries": found["pages"]["retries"]}
    assert (found["scenario"], found["simulator"], found["seed"], found["trace"], found["clock_ns"]) == ("mine", "icarus", 4, "mine", 4)
    assert found["config"]["window_pages"] == 128
    assert set(found["violations"].values()) == {0}
    assert found["cycles"] > 1000
    assert "good: 2 pages moved" in capsys.readouterr().out
    assert (build_root() / "sim" / "mine" / "report.html").is_file()


def test_a_run_that_is_cut_short_says_so_and_leaves_a_result_of_unknowns(scenario, capsys):
    assert cli.main(["sim", str(scenario("cut", seconds=0)), "--simulator", "icarus"]) == 1
    found = result("cut")
    assert found["pages"]["moved"] is None
    assert set(found["violations"].values()) == {None}
    assert "the simulation did not end within 0 s and was stopped" in " ".join(capsys.readouterr().out.split())


def test_who_ends_the_command_ends_the_simulator(scenario):
    command = subprocess.Popen([sys.executable, "-m", "pagehop_sim", "sim", str(scenario("ended")), "--simulator", "icarus"],
                               env=os.environ | {"PYTHONPATH": ":".join(filter(None, sys.path))},
                               stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    log = build_root() / "sim" / "ended" / "run.log"
    log.unlink(missing_ok=True)
    deadline = time.monotonic() + 300
    while not (log.is_file() and log.stat().st_size) and command.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    children = Path(f"/proc/{command.pid}/task/{command.pid}/children").read_text(encoding="ascii").split()
    assert len(children) == 1, "the simulator runs"
    command.terminate()
    assert command.communicate(timeout=60)[1] == "pagehop: stopped\n"
    assert command.returncode == 1
    assert not Path(f"/proc/{children[0]}").exists()
