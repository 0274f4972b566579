"""What a user types, and what comes back when it is wrong: status 2, and a message that names the cause."""

import inspect
import json
import re
import shutil
import subprocess
import sys
from importlib.resources import files
from pathlib import Path

import pytest

from pagehop.interposer.top import Interposer
from pagehop_sim import cli, toolchain
from pagehop_sim.result import assemble
from pagehop_sim.scenarios import find_scenario, shipped, with_parameters
from pagehop_sim.traces import find_trace, read_trace
from pagehop_sim.verilog import PARAMETERS

GOOD_LINE = "nvme,W,0x15a00,512,data\n"
HEADER = "device,op,address,length,kind\n"


@pytest.fixture
def pagehop(capsys, monkeypatch, tmp_path):
    """Return a function that runs the command and gives back its status, output and error output."""
    monkeypatch.setenv("PAGEHOP_BUILD", str(tmp_path / "build"))
    monkeypatch.setenv("COLUMNS", "200")

    def call(*arguments):
        try:
            status = cli.main(list(map(str, arguments)))
        except SystemExit as end:
            status = end.code
        output = capsys.readouterr()
        return status, output.out, output.err

    return call


@pytest.mark.parametrize("command", ["sim", "scenarios", "verilog", "compare", "sweep", "report"])
def test_help_says_enough_to_use_it(pagehop, command):
    status, output, _ = pagehop(command, "--help")
    assert status == 0
    assert output.startswith(f"usage: pagehop {command}")
    assert command in pagehop("--help")[1]


def test_version(pagehop):
    status, output, _ = pagehop("--version")
    assert status == 0
    assert re.fullmatch(r"pagehop (\d+\.\d+\.\d+|\(from sources\))\n", output)


def test_the_module_is_the_command():
    made = subprocess.run([sys.executable, "-m", "pagehop_sim", "sim", "no-such"], capture_output=True, text=True, check=False,
                          env={"PYTHONPATH": ":".join(filter(None, sys.path))})
    assert made.returncode == 2
    assert made.stderr == f"pagehop: Scenario must be a .toml file, or one of {', '.join(shipped())}, not 'no-such'\n"


def test_scenarios_are_listed(pagehop):
    status, output, _ = pagehop("scenarios")
    assert status == 0
    for name in ("migrate", "hot-page", "aborts", "producer-consumer"):
        assert re.search(rf"^{name} ", output, re.MULTILINE)


@pytest.mark.parametrize(("arguments", "expected"), [
    (["--simulator", "vcs"], "Simulator must be one of verilator, icarus, not 'vcs'"),
    (["--trace", "nowhere.csv"], "Trace must be a file, or one of fio_nvme_nic, small_nvme_nic, not 'nowhere.csv'"),
    (["--set", "pages"], "--set must be NAME=VALUE, not 'pages'"),
    (["--set", "pages=many"], "--set pages: the value must be in TOML form (numbers plain, texts in quotes, lists in brackets), not 'many'"),
    (["--set", "pages=1.5"], "--set: parameter pages must be int, not 1.5"),
    (["--set", "sheets=1"], "--set: parameter of bench migrate must be one of "),
])
def test_bad_option(pagehop, arguments, expected):
    status, _, error = pagehop("sim", "migrate", *arguments)
    assert status == 2
    assert error.startswith(f"pagehop: {expected}")


def test_bad_seed(pagehop):
    assert pagehop("sim", "--seed", "x")[0] == 2
    assert "seeds must be FIRST-LAST with FIRST not above LAST, not '5-2'" in pagehop("sweep", "--seeds", "5-2")[2]


def test_missing_simulator_is_named_with_a_remedy(pagehop, monkeypatch):
    monkeypatch.setattr(toolchain.shutil, "which", lambda tool, path=None: None if tool == "iverilog" else "/bin/true")
    status, _, error = pagehop("sim", "migrate", "--simulator", "icarus")
    assert status == 2
    assert error == ("pagehop: Simulator icarus cannot run: iverilog not found on PATH; install Icarus Verilog "
                     "(Debian, Ubuntu: apt-get install iverilog), or use the other simulator, verilator\n")


def test_a_trace_is_not_for_every_scenario(pagehop):
    status, _, error = pagehop("sim", "hot-page", "--trace", "small_nvme_nic")
    assert (status, error) == (2, "pagehop: Scenario hot-page replays no trace, so none can be given: 'small_nvme_nic'\n")


@pytest.mark.parametrize(("line", "expected"), [
    ("nvme,W,0x15a00,512", "a line must have 5 fields (device,op,address,length,kind), not 4: 'nvme,W,0x15a00,512'"),
    ("NVME,W,0x15a00,512,data", "device must be a name of small letters, digits and _, not 'NVME'"),
    ("nvme,X,0x15a00,512,data", "op must be W (the device writes memory) or R (it reads), not 'X'"),
    ("nvme,W,15a00,512,data", "address must be hexadecimal with 0x and at most 16 digits, not '15a00'"),
    ("nvme,W,0x15a00,0,data", "length must be 1 to 4096 bytes, not '0'"),
    ("nvme,W,0x15a00,5000,data", "length must be 1 to 4096 bytes, not '5000'"),
    ("nvme,W,0x15a00,512,stuff", "kind must be one of sqe, cqe, prp-list, data, msi, tx-desc, rx-desc, tx-data, rx-data, not 'stuff'"),
    ("nvme,W,0x15f00,512,data", "an access must not cross a 4096-byte page, and 512 bytes at 0x15f00 do"),
    ("nvme,R,0xfee00000,4,msi", "an msi must be an aligned write of 4 bytes, not 'nvme,R,0xfee00000,4,msi'"),
    ("nvme,R,0x50000000,4,sqe", "address must lie in the page window, below 0x40000000, not 0x50000000"),
])
def test_malformed_trace_line(pagehop, tmp_path, line, expected):
    trace = tmp_path / "mine.csv"
    trace.write_text(HEADER + GOOD_LINE + line + "\n", encoding="utf-8")
    status, _, error = pagehop("sim", "migrate", "--trace", trace)
    assert status == 2
    assert error == f"pagehop: {trace}:3: {expected}\n"
    assert not (tmp_path / "build").exists()


@pytest.mark.parametrize(("text", "expected"), [
    ("", ":1: the first line must be 'device,op,address,length,kind', not ''"),
    (GOOD_LINE, ":1: the first line must be 'device,op,address,length,kind', not 'nvme,W,0x15a00,512,data'"),
    (HEADER, ": a trace must have at least one access, and this has none"),
])
def test_trace_without_accesses(pagehop, tmp_path, text, expected):
    trace = tmp_path / "mine.csv"
    trace.write_text(text, encoding="utf-8")
    assert pagehop("sim", "migrate", "--trace", trace)[2] == f"pagehop: {trace}{expected}\n"


@pytest.mark.parametrize(("name", "accesses", "pages"), [("small_nvme_nic", 2478, 86), ("fio_nvme_nic", 6611, 206)])
def test_shipped_traces_are_what_their_readme_says(name, accesses, pages):
    trace = read_trace(find_trace(name), window_bytes=1 << 30)
    assert len(trace) == accesses
    assert len({access.address >> 12 for access in trace}) == pages  # the page of the MSIs is one of them


@pytest.mark.parametrize(("text", "expected"), [
    ("bench = 'migrate'", "a scenario must have the key 'description'"),
    ("description = 1", "description must be str, not 1"),
    ("colour = 1", "key must be one of description, bench, mechanism, topology, mode, trace, timeout_seconds, hardware, parameters, least, not "),
    ("description = 'x'\nbench = 'walk'", f"bench must be one of {', '.join(sorted({find_scenario(name).bench for name in shipped()}))}, not 'walk'"),
    ("description = 'x'\nbench = 'migrate'\n[hardware]\nlanes = 4", "parameter must be one of data_bytes, window_pages, max_payload, chunk_bytes, "),
    ("description = 'x'\nbench = 'migrate'\n[least]\nluck = 4", "least must be numbers of events, edges, read_bytes, final_bytes, not luck = 4"),
    ("description = ", "a scenario is a TOML file, and this is not: "),
])
def test_bad_scenario_file(pagehop, tmp_path, text, expected):
    path = tmp_path / "mine.toml"
    path.write_text(text, encoding="utf-8")
    status, _, error = pagehop("sim", path)
    assert status == 2
    assert expected in error
    assert str(path) in error or "bench must" in error


@pytest.mark.parametrize(("text", "expected"), [
    ("lanes = 4", "parameter must be one of data_bytes, window_pages, max_payload, chunk_bytes, slots, hosts, in_row, ecrc, log_tables, not 'lanes'"),
    ('top = "adjuster"\nslots = 2', "parameter must be one of data_bytes, tags, not 'slots'"),
    ('top = "row"', "top must be one of interposer, adjuster, iommu_core, iommu, ots, ots_beside_iommu, not 'row'"),
    ("data_bytes = '64'", "parameter data_bytes must be int, not '64'"),
    ("data_bytes = 48", "Beat width must be one of 16, 32, 64, 128 bytes, not 48"),
    ("data_bytes", "a configuration is a TOML file, and this is not: "),
])
def test_verilog_with_a_bad_parameter(pagehop, tmp_path, text, expected):
    config = tmp_path / "config.toml"
    config.write_text(text, encoding="utf-8")
    status, _, error = pagehop("verilog", "--config", config)
    assert status == 2
    assert error.startswith(f"pagehop: {config}: {expected}")
    assert not (tmp_path / "build" / "verilog").exists()


def test_parameters_are_those_of_the_component():
    members = inspect.signature(Interposer).parameters.values()
    assert {name: default for name, (_, default) in PARAMETERS.items()} == {one.name: one.default for one in members if one.name != "sizes"}


def test_report_of_a_scenario_that_has_not_run(pagehop, tmp_path):
    status, _, error = pagehop("report", "migrate")
    path = tmp_path / "build" / "sim" / "migrate" / "result.json"
    assert (status, error) == (2, f"pagehop: There is no result {path}; run `pagehop sim migrate` first\n")


def _result(folder, **parts):
    folder.mkdir(parents=True, exist_ok=True)
    names = ("lost", "duplicated", "stale", "reordered", "torn", "misdirected", "invented", "stuck", "masked")
    good = {"scenario": "migrate", "seed": 1, "pages": {"requested": 8, "moved": 8}, "violations": dict.fromkeys(names, 0)}
    (folder / "result.json").write_text(json.dumps(assemble(good, parts)), encoding="utf-8")
    return folder / "result.json"


def test_report_and_compare_of_results(pagehop, tmp_path):
    good, bad = _result(tmp_path / "good"), _result(tmp_path / "bad", violations={"lost": 2}, pages={"moved": 7})
    assert pagehop("report", good)[0] == 0
    status, output, _ = pagehop("report", bad)
    assert status == 1
    assert "2 accesses lost" in output
    assert "1 of 8 pages did not move" in output
    page = (tmp_path / "bad" / "report.html").read_text(encoding="utf-8")
    assert "2 accesses lost" in page
    assert not re.search(r"(src|href)=", page)
    assert pagehop("compare", good, bad)[0] == 0


def test_unknown_is_null_and_no_verdict():
    result = assemble({"scenario": "x"})
    assert result["violations"]["lost"] is None
    assert result["move_cycles"] == {"p50": None, "p99": None, "max": None}
    with pytest.raises(ValueError, match=r"^A result has no key 'luck'; it has scenario, "):
        assemble({"luck": 1})
    with pytest.raises(ValueError, match=r"^A result's pages has requested, moved, aborted, retries, not lost$"):
        assemble({"pages": {"lost": 1}})


def test_each_section_of_a_result_is_its_own():
    """Sections of one shape were one object once, and the cycles of moves were those of holds."""
    result = assemble({"move_cycles": {"p50": 600, "p99": 700, "max": 800}}, {"hold_cycles": {"p50": 9}})
    assert result["move_cycles"] == {"p50": 600, "p99": 700, "max": 800} and result["hold_cycles"] == {"p50": 9, "p99": None, "max": None}
    sections = [id(section) for section in result.values() if isinstance(section, dict)]
    assert len(set(sections)) == len(sections)


def test_package_data_is_whole():
    assert (files("pagehop") / "interposer" / "registers.rdl").is_file()
    for part in ("scenarios/migrate.toml", "traces/small_nvme_nic.csv", "traces/README.md", "templates/report.html"):
        assert (files("pagehop_sim") / part).is_file()


def test_make_without_a_target_lists_them():
    if shutil.which("make") is None:
        pytest.fail("make is needed by everything here")
    made = subprocess.run(["make"], cwd=Path(__file__).parents[2], capture_output=True, text=True, check=True)
    for target in ("sim", "test", "verilog", "lint", "formal", "synth", "bench", "docs", "nightly"):
        assert f"make {target}" in made.stdout


def test_counts_of_a_scenario_are_those_of_its_own_parameters():
    plain = find_scenario("migrate")
    assert plain.least["final_bytes"] == 100000
    assert with_parameters(plain, {"pages": plain.parameters["pages"]}, "--set").least == plain.least
    assert with_parameters(plain, {"pages": 1}, "--set").least == {"read_bytes": 1, "final_bytes": 1}
