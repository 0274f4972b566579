"""What a move by the IOMMU costs: one to eight pages of a line of entries in one go, holding and optimistic, in a machine that does nothing else."""

from typing import Any

import cocotb

from pagehop_tb.benches.frame import BenchConfig
from pagehop_tb.benches.iommu_migration import Guest
from pagehop_tb.driver.iommu import BATCH

#: Cycles in which the channel on which copies are asked for is used for a page: 512 beats of data and 64 requests.
WIRE = 576
#: Near memory, and hosts that answer all alike.
DEFAULTS = {"pauses": 0.0, "probes": 0, "latency": 8, "aperture_delay": [8, 8], "write_delay": [100, 100], "read_delay": [200, 200]}


@cocotb.test(timeout_time=10, timeout_unit="ms")
async def cost(dut: Any) -> None:
    """Cycles from the last command of a batch to its verdict, as its record tells, for all of it and for each page."""
    config = BenchConfig("iommu_cost", DEFAULTS)
    pages = list(range(BATCH))
    guest = Guest(dut, config, pages)
    config.refuse_unknown()
    await guest.start()
    values: dict[str, dict[str, Any]] = {}
    to_host = 1
    for name, tries in (("hold", 0), ("optimistic", 3)):
        guest.driver.optimistic = tries
        for count in range(1, BATCH + 1):
            results = await guest.driver.move_line(pages[:count], to_host)
            assert all(result.moved for result in results), results
            await guest.driver.move_line(pages[:count], 1 - to_host)
            cycles = results[0].total_cycles
            for what, value in (("cycles", cycles), ("cycles_a_page", round(cycles / count, 1))):
                values[f"modify_{name}_{what}_{count}_pages"] = {"value": value, "limit": None, "unit": "cycles", "better": "lower"}
        values[f"modify_{name}_wire_share_{BATCH}_pages"] = {
            "value": round(WIRE * BATCH / cycles, 3), "limit": None, "unit": "share", "better": "higher"}
    verdict = await guest.finish()
    assert verdict.ok, verdict.text()
    config.write_values(values)
