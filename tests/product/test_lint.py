"""The lint of the generated Verilog finds what is wrong, and lets pass only what has a reason."""

from pathlib import Path

import pytest
from echo import Echo

from pagehop_sim.lint import WAIVERS, lint
from pagehop_sim.verilog import convert


def test_generated_verilog_is_clean():
    assert lint(convert(Echo(), "echo"), "echo") == []


@pytest.mark.parametrize(("body", "rule"), [
    ("always @* if (a) b = a;", "LATCH"),
    ("wire c = ~b; always @* b = c;", "UNOPTFLAT"),
    ("always @(posedge a) b <= 1; always @(negedge a) b <= 0;", "MULTIDRIVEN"),
])
def test_doubts_about_a_design_are_not_waived(tmp_path, body, rule):
    source = tmp_path / "bad.v"
    source.write_text(f"module bad(input wire a, output reg b);\n{body}\nendmodule\n", encoding="utf-8")
    assert rule in "".join(lint(source, "bad"))


def test_every_waiver_has_its_reason():
    lines = Path(WAIVERS).read_text(encoding="utf-8").splitlines()
    reason = False
    for line in lines[1:]:
        if line.startswith("lint_off"):
            assert reason, line
        else:
            reason = line.startswith("//")
