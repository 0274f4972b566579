# amaranth: UnusedElaboratable=no
"""A guest migrates through windows of the on-the-side device, and what the checker finds when something is broken."""

import re

import pytest

from pagehop.ots.beside_iommu import OtsBesideIommu
from pagehop_sim.build import build
from pagehop_sim.run import run
from pagehop_sim.toolchain import build_root
from pagehop_sim.traces import find_trace
from pagehop_sim.verilog import convert

HARDWARE = {"data_bytes": 16, "windows": 2, "leaves": 8192, "walk_cache": 8, "reads": 4}
#: Short: a few pages, near memory, no DMA after the last move.
SHORT = {"pages": 4, "gap": 10, "passes_after": 0, "probes": 0, "aperture_delay": [0, 60], "latency": 10,
         "write_delay": [20, 200, 0.05, 2500], "read_delay": [50, 300], "windows": 2}


@pytest.fixture
def migration(request):
    """Return ``migrate(built, **parameters)``."""
    folder = build_root() / "test" / "cosim" / re.sub(r"[^\w.-]+", "_", request.node.name)

    def migrate(built, **parameters):
        config = {"hardware": HARDWARE, "parameters": SHORT | parameters, "trace": str(find_trace("small_nvme_nic"))}
        return run(built, "pagehop_tb.benches.ots_migration", folder, config, seed=1, timeout_seconds=300)

    return migrate


@pytest.mark.hazard("H02", "H03", "H25", "H26", "H27", "I1", "I2", "I3", "I4", "I5", "I13")
def test_a_guest_moves_through_windows(migration, simulator):
    built = build(convert(OtsBesideIommu(**HARDWARE), "ots_beside_iommu"), "ots_beside_iommu", simulator)
    cases = [{}] if simulator == "icarus" else [{"snapshot": False}, {"topology": 12, "itself": True, "walk_bytes": 8}]
    for case in cases:
        outcome = migration(built, **case)
        outcome.check(min_checked={"events": 3000, "read_bytes": 50_000, "final_bytes": 300_000})
        assert outcome.result["pages"]["moved"] == SHORT["pages"]
