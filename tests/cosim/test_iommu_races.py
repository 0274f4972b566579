# amaranth: UnusedElaboratable=no
"""The IOMMU's core on both simulators: translations, moves, CPUs and software at once, and what the bench finds when something is broken."""

import re

import pytest

from pagehop.iommu.core import IommuCore
from pagehop.iommu.iotlb import Iotlb
from pagehop.iommu.modify import ModifyEngine
from pagehop.iommu.page_copy import PageCopy
from pagehop.iommu.page_walk import PageWalk
from pagehop.iommu.translator import Translator
from pagehop_sim.build import build
from pagehop_sim.mutants import chosen
from pagehop_sim.planted import ACTIVE, SELECTOR, edited, selected
from pagehop_sim.run import run
from pagehop_sim.toolchain import build_root
from pagehop_sim.verilog import convert, written

HARDWARE = {"modify": True}


@pytest.fixture
def races(request):
    """Return ``run_bench(built, **parameters)``."""
    folder = build_root() / "test" / "cosim" / re.sub(r"[^\w.-]+", "_", request.node.name)

    def run_bench(built, **parameters):
        return run(built, "pagehop_tb.benches.iommu_races", folder, {"hardware": HARDWARE, "parameters": parameters}, timeout_seconds=600)

    return run_bench


def test_nothing_is_stale_or_lost(races, simulator):
    accesses, moves = (100_000, 1000) if simulator == "verilator" else (1250, 10)
    built = build(convert(IommuCore(**HARDWARE), "iommu_core"), "iommu_core", simulator)
    outcome = races(built, accesses=accesses, history=0.05)
    # Some are refused.
    outcome.check(min_checked={"events": 7 * accesses // 10})
    assert outcome.result["pages"]["moved"] >= moves


def core(*changes, **parts):
    return edited(IommuCore, *changes, **parts)


def translator(**parts):
    return core(Translator=edited(Translator, **parts))


BUGS = {
    "nothing is forgotten": translator(Iotlb=edited(Iotlb, ("with m.If(self.invalidate):", "with m.If(0):"))),
    "a clean page is written": translator(PageWalk=edited(PageWalk, ("writable & info.dirty)", "writable)"))),
    "moves drain nothing": core(
        ("drains | engine.drain", f"drains | (engine.drain & ~{ACTIVE})"),
        ("engine.drained.eq(self.drained)", f"engine.drained.eq(self.drained | {ACTIVE})")),
    "moves forget nothing": core(("control.invalidate_pages | engine.invalidate", f"control.invalidate_pages | (engine.invalidate & ~{ACTIVE})")),
    "a copy ends before it is visible": core(PageCopy=edited(PageCopy, ("(self._reading | self._writing).any()", "self._reading.any()"))),
    "a move loses D": core(ModifyEngine=edited(ModifyEngine, (
        "self.format.moved(line.entry, batch", f"Mux({ACTIVE}, ~(1 << 7), -1) & self.format.moved(line.entry, batch"))),
}


@pytest.fixture(scope="module")
def broken():
    """All bugs in one design, none of them active."""
    design = selected(IommuCore, dict(enumerate(BUGS.values(), 1)))
    text = convert(design(**HARDWARE), "iommu_core").read_text(encoding="utf-8") + SELECTOR
    return build(written(text, "iommu_core"), "iommu_core", "verilator")


def test_the_design_of_all_bugs_is_healthy_without_one(races, broken):
    """What is found of bugs counts only then."""
    races(broken, accesses=8000, history=0.1).check(min_checked={"events": 5600})


@pytest.mark.hazard("H01", "H02", "H03", "H31", "H34")
@pytest.mark.parametrize("bug", BUGS)
def test_planted_bug_is_found(races, broken, bug):
    outcome = races(chosen(broken, 1 + list(BUGS).index(bug)), accesses=8000, history=0.1)
    assert outcome.failures, f"the bench does not see that {bug}"
