# amaranth: UnusedElaboratable=no
"""The IOMMU's core on both simulators: translations, moves, CPUs and software at once, and what the bench finds when something is broken."""

import pytest

from pagehop.iommu.core import IommuCore
from pagehop.iommu.iotlb import Iotlb
from pagehop.iommu.modify import ModifyEngine
from pagehop.iommu.page_copy import PageCopy
from pagehop.iommu.page_walk import PageWalk
from pagehop.iommu.translator import Translator
from pagehop_sim.build import build
from pagehop_sim.planted import edited
from pagehop_sim.run import run
from pagehop_sim.verilog import convert, generate

HARDWARE = {"modify": True}


@pytest.fixture
def races(folder):
    """Return ``run_bench(simulator, design=None, **parameters)``: a design, or what is not broken."""
    def run_bench(simulator, design=None, **parameters):
        verilog = convert(design(**HARDWARE), "iommu_core") if design else generate(HARDWARE, top="iommu_core")
        built = build(verilog, "iommu_core", simulator)
        return run(built, "pagehop_tb.benches.iommu_races", folder, {"hardware": HARDWARE, "parameters": parameters}, timeout_seconds=600)

    return run_bench


def test_nothing_is_stale_or_lost(races, simulator):
    accesses, moves = (100_000, 1000) if simulator == "verilator" else (1250, 10)
    outcome = races(simulator, accesses=accesses, history=0.05)
    # Some are refused.
    outcome.check(min_checked={"events": 7 * accesses // 10})
    assert outcome.result["pages"]["moved"] >= moves


def translator(**parts):
    return edited(IommuCore, Translator=edited(Translator, **parts))


BUGS = {
    "nothing is forgotten": translator(Iotlb=edited(Iotlb, ("with m.If(self.invalidate):", "with m.If(0):"))),
    "a clean page is written": translator(PageWalk=edited(PageWalk, ("writable & info.dirty)", "writable)"))),
    "moves drain nothing": edited(IommuCore, ("drains | engine.drain", "drains"), ("engine.drained.eq(self.drained)", "engine.drained.eq(1)")),
    "moves forget nothing": edited(IommuCore, ("control.invalidate_pages | engine.invalidate", "control.invalidate_pages")),
    "a copy ends before it is visible": edited(IommuCore, PageCopy=edited(PageCopy, (
        "(self._reading | self._writing).any()", "self._reading.any()"))),
    "a move loses D": edited(IommuCore, ModifyEngine=edited(ModifyEngine, (
        "self.format.moved(line.entry, batch", "~(1 << 7) & self.format.moved(line.entry, batch"))),
}


@pytest.mark.hazard("H01", "H02", "H03", "H31", "H34")
@pytest.mark.parametrize("bug", BUGS)
def test_planted_bug_is_found(races, bug):
    outcome = races("icarus", BUGS[bug], accesses=8000, history=0.1)
    assert outcome.failures, f"the bench does not see that {bug}"
