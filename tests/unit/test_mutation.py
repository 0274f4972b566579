"""Mutations of Verilog text: what is changed, that one at a time is active, and that without the switch nothing is."""

import re
import shutil
import subprocess

import pytest

from pagehop_sim import mutants
from pagehop_sim.mutation import candidates, sample, with_mutations

DESIGN = """\
module \\top (a, b, s, clk, x, y, q);
  input [3:0] a, b;
  input s, clk;
  output [3:0] x, y;
  (* src = "hdl/pagehop/tlp/some.py:7" *)
  output reg [3:0] q;
  wire _0_;
  assign x = a & (* src = "elsewhere/hdl/pagehop/tlp/some.py:9" *) b;
  assign y = s ? (* src = "hdl/pagehop/tlp/some.py:10" *) a : { b[3:1], 1'h0 };
  assign _0_ = ~ \\b [0];
  (* src = "hdl/pagehop/tlp/some.py:12" *)
  always @(posedge clk)
    q <= a;
endmodule
"""
ALL = re.compile("^top")


def test_each_place_and_its_source_is_found():
    found = candidates(DESIGN, ALL)
    told = {(mutation.kind, mutation.after, mutation.source.rpartition("/")[2]) for mutation in found}
    assert told == {
        ("& for |", "x = a | b", "some.py:9"), ("left side of & only", "x = a", "some.py:9"), ("right side of & only", "x = b", "some.py:9"),
        ("arms swapped", "y = s ? { b[3:1], 1'h0 } : a", "some.py:10"), ("~ for nothing", "_0_ = \\b [0]", ""),
        ("update dropped", "q <= q", "some.py:12"),
    }
    assert not candidates(DESIGN, re.compile("^other"))


def test_a_sample_is_that_of_its_seed_and_takes_a_place_once():
    found = candidates(DESIGN, ALL)
    assert sample(found, 3, 5) == sample(found, 3, 5)
    assert len({tuple(sample(found, 2, seed)) for seed in range(20)}) > 3
    whole = sample(found, 100, 1)
    assert len({mutation.place for mutation in whole}) == len(whole) == 4


def test_an_edit_of_one_line_leaves_what_was_sampled_of_the_others():
    edited = DESIGN.replace("_0_", "_7_").replace("  wire _7_;\n", '  wire _7_, z;\n  assign z = a | (* src = "hdl/pagehop/tlp/some.py:3" *) b;\n')
    for seed in range(20):
        before, after = ({(m.place, m.variant) for m in sample(candidates(text, ALL), 3, seed)} for text in (DESIGN, edited))
        assert len(before & after) >= 2


@pytest.mark.skipif(shutil.which("iverilog") is None, reason="Icarus is missing; `make test` installs it")
def test_one_mutation_at_a_time_is_active(tmp_path):
    chosen = [next(m for m in candidates(DESIGN, ALL) if m.kind == kind) for kind in ("& for |", "arms swapped", "~ for nothing", "update dropped")]
    bench = """
module bench;
  reg [3:0] a = 4'b1100, b = 4'b1010; reg s = 1, clk = 0; wire [3:0] x, y, q;
  top top(.a(a), .b(b), .s(s), .clk(clk), .x(x), .y(y), .q(q));
  initial begin #1 clk = 1; #1 $display("%b %b %b %b", x, y, top._0_, q); end
endmodule
"""
    # In a bench of its own the design is not the root, so the switch is found one level down.
    (tmp_path / "design.v").write_text(with_mutations(DESIGN, chosen, "top").replace("top.mutant", "bench.top.mutant") + bench)
    subprocess.run(["iverilog", "-g2012", "-s", "bench", "-o", "design.vvp", "design.v"], cwd=tmp_path, check=True)

    def seen(number):
        command = ["vvp", "-n", "design.vvp", f"+mutant={number}"]
        return subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, text=True).stdout.split()

    healthy = ["1000", "1100", "1", "1100"]
    assert seen(0) == healthy
    for place, (number, broken) in enumerate(((1, "1110"), (2, "1010"), (3, "0"), (4, "xxxx"))):
        assert seen(number) == [*healthy[:place], broken, *healthy[place + 1:]]


def test_the_bench_that_found_a_mutation_looks_first_and_all_others_after_it():
    for label in ("hot_page 2", "", "none of them"):
        order = mutants.places(label)
        assert sorted(order) == list(range(len(mutants.BATTERY)))
        assert order[1 if label in mutants.LABELS else 0:] == [n for n in range(len(mutants.BATTERY)) if mutants.LABELS[n] != label]
    assert mutants.LABELS[mutants.places("hot_page 2")[0]] == "hot_page 2" and len(set(mutants.LABELS)) == len(mutants.BATTERY)


def test_what_is_remembered_names_benches_that_there_are():
    found = mutants.remembered()
    assert len(found) > 100 and set(found.values()) <= set(mutants.LABELS)


def test_what_is_written_down_is_read_again(tmp_path, monkeypatch):
    monkeypatch.setattr(mutants, "REMEMBERED", tmp_path / "found_by.toml")
    found = sample(candidates(DESIGN, ALL), 3, 1)
    results = [mutants.Caught(mutants.described(m), "", by, "", None, 0.0) for m, by in zip(found, ("edges 1", "", "aborts 2"), strict=True)]
    mutants.remember(found, results)
    mutants.remembered.cache_clear()
    try:
        assert mutants.remembered() == {found[0].identity: "edges 1", found[2].identity: "aborts 2"}
    finally:
        mutants.remembered.cache_clear()
