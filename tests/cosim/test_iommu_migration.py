# amaranth: UnusedElaboratable=no
"""A guest migrates by moves of the IOMMU alone, on both simulators, and what the checker finds when something is broken."""

import pytest

from pagehop.iommu.core import IommuCore
from pagehop.iommu.modify import ModifyEngine
from pagehop.iommu.page_copy import PageCopy
from pagehop.iommu.top import Iommu
from pagehop_sim.build import build
from pagehop_sim.mutants import chosen
from pagehop_sim.planted import ACTIVE, SELECTOR, edited, selected
from pagehop_sim.run import run
from pagehop_sim.traces import find_trace
from pagehop_sim.verilog import convert, generate, written

HARDWARE = {"data_bytes": 16, "walk_cache": 8, "reads": 8}
#: Short: a few pages, near memory, no DMA after the last move. Some writes of devices are visible only when a copy could long be done.
SHORT = {"pages": 8, "batch": 2, "gap": 10, "passes_after": 0, "probes": 200, "aperture_delay": [0, 60], "latency": 10,
         "write_delay": [20, 200, 0.05, 2500], "read_delay": [50, 300]}


@pytest.fixture
def migration(folder):
    """Return ``migrate(built, **parameters)``."""
    def migrate(built, **parameters):
        config = {"hardware": HARDWARE, "parameters": SHORT | parameters, "trace": str(find_trace("small_nvme_nic"))}
        return run(built, "pagehop_tb.benches.iommu_migration", folder, config, seed=1, timeout_seconds=300)

    return migrate


@pytest.mark.hazard("H01", "H02", "H03", "H31", "H34", "H60", "I1", "I2", "I3", "I4", "I5", "I13")
def test_a_guest_moves_while_its_devices_go_on(migration, simulator):
    """Ends are learnt by fence, interrupt and record; moves hold, or do so after some attempts."""
    built = build(generate(HARDWARE, top="iommu"), "iommu", simulator)
    cases = [("interrupt", 2)] if simulator == "icarus" else [("fence", 0), ("interrupt", 2), ("record", 3)]
    for waits, tries in cases:
        outcome = migration(built, waits=waits, tries=tries)
        outcome.check(min_checked={"events": 3000, "read_bytes": 50_000, "final_bytes": 300_000})
        assert outcome.result["pages"]["moved"] == SHORT["pages"]


def core(*changes, **parts):
    return edited(Iommu, IommuCore=edited(IommuCore, *changes, **parts))


#: What is broken, and the violations by which the checker may tell.
BUGS = {
    "the drain is not awaited": (core(("engine.drained.eq(self.drained)", f"engine.drained.eq(self.drained | {ACTIVE})")), {"lost", "misdirected"}),
    "nothing is forgotten": (core((
        "control.invalidate_pages | engine.invalidate", f"control.invalidate_pages | (engine.invalidate & ~{ACTIVE})")), {"lost", "misdirected"}),
    "the copy is not awaited": (core(PageCopy=edited(PageCopy, (
        "(self._reading | self._writing).any()", f"(self._reading.any() | (self._writing.any() & ~{ACTIVE}))"))), {"lost", "duplicated"}),
    "an entry is edited before its page is copied": (core(ModifyEngine=edited(ModifyEngine, (
        "done.eq(~copies | self.copy.ready)", f"done.eq(~copies | self.copy.ready | {ACTIVE})"))), {"lost"}),
}


@pytest.fixture(scope="module")
def broken():
    """All bugs in one design, none of them active."""
    design = selected(Iommu, {number: bug for number, (bug, _) in enumerate(BUGS.values(), 1)})
    text = convert(design(**HARDWARE), "iommu").read_text(encoding="utf-8") + SELECTOR
    return build(written(text, "iommu"), "iommu", "icarus")


def test_the_design_of_all_bugs_is_healthy_without_one(migration, broken):
    """What is found of bugs counts only then."""
    migration(broken).check(min_checked={"events": 3000, "read_bytes": 50_000, "final_bytes": 300_000})


@pytest.mark.hazard("H01", "H02", "H03", "H31")
@pytest.mark.parametrize("bug", BUGS)
def test_planted_bug_is_found(migration, broken, bug):
    # More pages, and quicker: what is kept of an old place must be asked for again before it goes by itself.
    parameters = {"pages": 14, "aperture_delay": [0, 0]} if bug == "nothing is forgotten" else {}
    outcome = migration(chosen(broken, 1 + list(BUGS).index(bug)), **parameters)
    assert outcome.failures, f"the bench does not see that {bug}"
    found = {name for name, count in outcome.result["violations"].items() if count}
    assert found & BUGS[bug][1], f"{bug}: found {found}, {outcome.failures}"
