"""How quickly pages move, alone and beside a device: by the move queue, against hosts that answer after a round trip of 250 cycles."""

from random import Random
from typing import Any

import cocotb

from pagehop_tb.benches.frame import BenchConfig
from pagehop_tb.benches.performance import report
from pagehop_tb.benches.plain_host import PlainHost
from pagehop_tb.benches.three_ports import DEVICE, GUEST, PAGE, ThreePorts
from pagehop_tb.driver import interposer_registers as regs
from pagehop_tb.driver.api import MoveResult
from pagehop_tb.driver.interposer import PAGE_BITS, Setup, units
from pagehop_tb.driver.move_ring import DESCRIPTOR_BYTES, MoveRing, RingSetup
from pagehop_tb.protocol import Tlp, memory_write

PAGES, WINDOW_PAGES = 48, 64
ROUND_TRIP = 250
RING_BASE, RING_ORDER = 0x60_0000_0000, 6
#: A move waits for the reads of its page, for the proof that the copy is visible, and for the proof that what was held is (H60).
ROUND_TRIPS = 3
#: Share that must be reached of what the wire and the round trips of so many slots allow.
SHARE = 0.8
#: There and back again: the host to which all pages move, and in which mode.
TURNS = ((1, regs.MoveMode.HOLD), (0, regs.MoveMode.MERGE))
#: Bytes of a write of the device beside moves, how many are queued at once, and for how many cycles its rate is taken without moves.
WRITE, BURST, ALONE = 256, 16, 5000
#: Sizes of large pages, base-2 logarithms; units that a device writes to while one moves; and cycles for which a device waits for an answer.
LARGE, HOT_UNITS, DEVICE_TIMEOUT = (13, 16, 21), 2, 12_500
#: Share of its rate without moves that a device must keep while pages move elsewhere.
DEVICE_SHARE = 0.9


class _Memory:
    """Memory of a plain host, as its hypervisor sees it."""

    def __init__(self, host: PlainHost) -> None:
        self.host = host

    def read(self, address: int, length: int) -> bytes:
        return bytes(self.host.page(address)[address % PAGE:address % PAGE + length])

    def write(self, address: int, data: bytes) -> None:
        for start in range(0, len(data), 16):
            place = address + start
            self.host.page(place)[place % PAGE:place % PAGE + 16] = data[start:start + 16]


@cocotb.test(timeout_time=4, timeout_unit="ms")
async def copy_rate(dut: Any) -> None:
    """Pages move to Host B in hold mode and back in merge mode, as many at a time as there are slots. Each must be there at the end."""
    bench, config, random = await _opened(dut)
    beats, values = PAGE // config.data_bytes, dict[str, tuple[float, float | None, str, str]]()
    allowed = max(beats, (ROUND_TRIPS * ROUND_TRIP + beats) / config.slots)
    for to_host, mode in TURNS:
        cycles, name = await _move_all(bench, config, random, to_host, mode), _named(config, mode)
        # Before a move in merge mode the differential is cleared, which takes a cycle a beat of the page.
        values[f"copy_cycles_{name}"] = (cycles, allowed / SHARE if mode == regs.MoveMode.HOLD else None, "cycles/page", "lower")
        values[f"copy_share_of_the_wire_{name}"] = (beats / cycles, None, "share", "higher")
    report(config, values)
    config.write({"checked": {"events": 2 * PAGES, "final_bytes": 2 * PAGES * PAGE}, "violations": {}})


@cocotb.test(timeout_time=4, timeout_unit="ms")
async def beside_the_device(dut: Any) -> None:
    """A device writes to pages that stay at Host A as quickly as they are taken, while others move to Host B in hold mode and back in merge mode."""
    bench, config, random = await _opened(dut)
    stay, arrived = GUEST + PAGES * PAGE, list[int]()

    def on_write(tlp: Tlp) -> None:
        if tlp.requester_id == DEVICE and tlp.address >= stay:
            arrived.append(bench.fabric.cycle)

    async def device() -> None:
        count, beats = 0, WRITE // config.data_bytes
        while True:
            for _ in range(BURST):
                offset = count % ((WINDOW_PAGES - PAGES) * PAGE // WRITE) * WRITE
                bench.device.queue(memory_write(DEVICE, stay + offset, bytes(WRITE)))
                count += 1
            await bench.fabric.wait(BURST * beats)

    def rate(first: int, last: int) -> float:
        return sum(first <= cycle < last for cycle in arrived) / (last - first)

    bench.hosts[0].on_write = on_write
    writes = cocotb.start_soon(device())
    await bench.fabric.wait(ALONE // 5)
    began = bench.fabric.cycle
    await bench.fabric.wait(ALONE)
    alone, values = rate(began, bench.fabric.cycle), dict[str, tuple[float, float | None, str, str]]()
    for to_host, mode in TURNS:
        began = bench.fabric.cycle
        cycles, name = await _move_all(bench, config, random, to_host, mode), _named(config, mode)
        # To Host A the copy's writes share the wire with the device's.
        values[f"device_share_{name}"] = (rate(began, bench.fabric.cycle) / alone, DEVICE_SHARE if to_host else None, "share", "higher")
        values[f"copy_cycles_beside_{name}"] = (cycles, None, "cycles/page", "lower")
    writes.cancel()
    report(config, values)
    config.write({"checked": {"events": len(arrived), "final_bytes": 2 * PAGES * PAGE}, "violations": {}})


@cocotb.test(timeout_time=8, timeout_unit="ms")
async def large_pages(dut: Any) -> None:
    """A page of each size moves to Host B in hold mode, and back in merge mode while a device writes to a few of its units without a pause."""
    bench, config, random = await _opened(dut, window_pages=1 << LARGE[-1] - PAGE_BITS, hold_limit=1 << 20)
    values = dict[str, tuple[float, float | None, str, str]]()

    async def device() -> None:
        while True:
            for unit in range(HOT_UNITS):
                bench.device.queue(memory_write(DEVICE, GUEST + unit * PAGE + random.randrange(PAGE // WRITE) * WRITE, random.randbytes(WRITE)))
            await bench.fabric.wait(HOT_UNITS * WRITE // config.data_bytes * 4)

    for size in LARGE:
        for to_host, mode in TURNS:
            for unit in units(0, size):
                bench.hosts[1 - to_host].page(bench.driver.place(unit, 1 - to_host))[:] = random.randbytes(PAGE)
            writes = None if to_host else cocotb.start_soon(device())
            moved = await bench.driver.move(0, to_host, mode, page_size=size)
            if writes is not None:
                writes.cancel()
            assert moved.moved, f"the page of 2^{size} bytes did not move: {moved.reason}"
            for unit in range(0 if to_host else HOT_UNITS, len(units(0, size))):
                source, copy = (bench.hosts[host].page(bench.driver.place(unit, host)) for host in (0, 1))
                assert source == copy, f"the copy of unit {unit} differs"
            name = f"2_{size}_{_named(config, mode)}"
            limit = None if to_host and size == LARGE[-1] else DEVICE_TIMEOUT
            values |= {f"large_hold_cycles_{name}": (moved.hold_cycles, limit, "cycles", "lower"),
                       f"large_move_cycles_{name}": (moved.total_cycles, None, "cycles", "lower")}
    report(config, values)
    config.write({"checked": {"events": len(values), "final_bytes": 2 << LARGE[-1]}, "violations": {}})


async def _opened(dut: Any, window_pages: int = WINDOW_PAGES, hold_limit: int = 5000) -> tuple[ThreePorts, BenchConfig, Random]:
    """The bench with the window open, its configuration, and a source of data for pages."""
    config = BenchConfig("copy_rate")
    config.refuse_unknown()
    bench = ThreePorts(dut, config, delay=ROUND_TRIP)
    await bench.start_settled()
    await bench.driver.setup(Setup(window_base=GUEST, window_pages=window_pages, host_b_offset=1 << 32, hold_limit=hold_limit))
    return bench, config, config.random("pages")


def _named(config: BenchConfig, mode: regs.MoveMode) -> str:
    """What a value is of."""
    return f"{mode.name.lower()}_{config.slots}_slots_{config.data_bytes}_bytes"


async def _move_all(bench: ThreePorts, config: BenchConfig, random: Random, to_host: int, mode: int) -> float:
    """Fill all pages, put them into the ring, move and compare them; return the cycles that a page takes, beginning with the end of the first."""
    ends: list[int] = []
    for page in range(PAGES):
        bench.hosts[1 - to_host].page(bench.driver.place(page, 1 - to_host))[:] = random.randbytes(PAGE)

    def ended(page: int, result: MoveResult) -> None:
        assert result.moved, f"page {page} did not move: {result.reason}"
        ends.append(bench.fabric.cycle)

    records = RING_BASE + (DESCRIPTOR_BYTES << RING_ORDER)
    ring = MoveRing(bench.driver, _Memory(bench.hosts[0]), RingSetup(RING_BASE, records, RING_ORDER, 0, range(config.slots)))
    await ring.start()
    for page in range(PAGES):
        ring.put(page, to_host, mode, ended)
    await ring.ring()
    for _ in range(PAGES * 200):
        if len(ends) == PAGES:
            break
        ring.look()
        await bench.fabric.wait(10)
    assert len(ends) == PAGES, f"{len(ends)} of {PAGES} pages moved in time"
    await ring.stop()
    for page in range(PAGES):
        source, copy = (bench.hosts[host].page(bench.driver.place(page, host)) for host in (0, 1))
        assert source == copy, f"the copy of page {page} differs"
    return (ends[-1] - ends[0]) / (PAGES - 1)
