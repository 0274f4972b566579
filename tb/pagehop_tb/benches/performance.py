"""What the hardware itself costs: rate and latency of the way through, and how long a page is held, against hosts that answer at once.

``values`` of the result are ``{name: {value, limit, unit, better}}``, as ``make bench`` prints them.
"""

import time
from collections import deque
from typing import Any

import cocotb

from pagehop_tb.benches.frame import BenchConfig
from pagehop_tb.benches.plain_host import PlainHost
from pagehop_tb.benches.three_ports import BAR, DEVICE, GUEST, PAGE, ThreePorts
from pagehop_tb.checker.log import EventLog
from pagehop_tb.driver import interposer_registers as regs
from pagehop_tb.driver.interposer import Setup
from pagehop_tb.models.delay import Delay
from pagehop_tb.models.device import DeviceConfig
from pagehop_tb.models.root_complex import RootComplexConfig
from pagehop_tb.models.system import System, SystemConfig
from pagehop_tb.protocol import FlowClass, Kind, Tlp, memory_read, memory_write, read_completions

COPY_LINES, MARGIN = 64, 40
SPACING, BAR_PAGES = 256, 16
#: Payloads of the writes whose rate is measured, and the share of all cycles in which one of the beats that they need must come.
SIZES, SHARE = (64, 256, 0, 4, 32, 68), 0.99


def report(config: BenchConfig, values: dict[str, tuple[float, float | None, str, str]]) -> None:
    """Write the values, and fail for those beyond their limits."""
    result = {name: {"value": value, "limit": limit, "unit": unit, "better": better} for name, (value, limit, unit, better) in values.items()}
    config.write_values(result)
    for name, (value, limit, unit, better) in values.items():
        cocotb.log.info(f"{name}: {value:.4g} {unit}, limit {limit}")
        bad = limit is not None and (value < limit if better == "higher" else value > limit)
        assert not bad, f"{name} is {value:.4g} {unit}, its limit is {limit}"


async def _until(bench: ThreePorts, ready: Any, limit: int, what: str) -> None:
    for _ in range(limit // 10):
        if ready():
            return
        await bench.fabric.wait(10)
    raise AssertionError(f"{what} did not end within {limit} cycles")


@cocotb.test(timeout_time=2, timeout_unit="ms")
async def rate(dut: Any) -> None:
    """Writes of one size in both directions at once keep every cycle of both outputs busy: of the beats that they need, one comes in each."""
    config = BenchConfig("performance")
    bench = ThreePorts(dut, config, delay=20)
    await bench.fabric.start()
    values: dict[str, tuple[float, float | None, str, str]] = {}
    events = 0
    for size in SIZES:
        count = 2000 * 64 // max(size, 64)
        for name, share in (await _both_ways(bench, size, count)).items():
            values[f"{name}_share_{size}"] = (share, SHARE, "share", "higher")
            events += count
    report(config, values)
    config.write({"checked": {"events": events}, "violations": {}})


async def _both_ways(bench: ThreePorts, size: int, count: int) -> dict[str, float]:
    arrivals: dict[str, list[int]] = {"upstream": [], "downstream": []}
    data = bench.config.random("data").randbytes(size)
    bench.hosts[0].on_write = lambda tlp: arrivals["upstream"].append(bench.fabric.cycle)
    bench.device.on_tlp = lambda tlp: arrivals["downstream"].append(bench.fabric.cycle)
    for i in range(count):
        offset = i % (BAR_PAGES * PAGE // SPACING) * SPACING    # none crosses a page
        bench.device.queue(memory_write(DEVICE, GUEST + offset, data))
        bench.hosts[0].agent.queue(memory_write(0, BAR + offset, data))
    await _until(bench, lambda: all(len(seen) == count for seen in arrivals.values()), 20_000, f"{count} writes of {size} bytes both ways")
    beats = max(1, -(-size // bench.config.data_bytes))
    # The TLP of the first arrival ended in its cycle: from there on every cycle should bring a beat.
    return {name: (count - 1) * beats / (seen[-1] - seen[0]) for name, seen in arrivals.items()}


@cocotb.test(timeout_time=1, timeout_unit="ms")
async def idle_latency(dut: Any) -> None:
    """One TLP of each class through an idle interposer, from rx to tx, with each host."""
    config = BenchConfig("performance")
    bench = ThreePorts(dut, config, delay=20)
    await bench.start_settled()
    worst: dict[str, int] = {}
    events = await _latencies(bench, 0, worst)
    waited = await bench.driver.counter(regs.CompletionWaits.offset)
    assert waited == 0, f"answers waited for {waited} cycles for writes at Host B, and there were none"
    events += await _latencies(bench, 1, worst)
    report(config, {f"{name}_idle_latency": (float(cycles), 6.0, "cycles", "lower") for name, cycles in worst.items()})
    config.write({"checked": {"events": events}, "violations": {}})


async def _latencies(bench: ThreePorts, number: int, worst: dict[str, int]) -> int:
    """Note the worst latencies to and from a host by direction and class; return how many were seen."""
    await bench.driver.setup(Setup(window_base=GUEST, window_pages=0, active_host=number))
    sent: dict[FlowClass, int] = {}
    count, turn, host = 0, 0, bench.hosts[number]
    driver_tlp = host.agent.on_tlp

    def on_sent(tlp: Tlp) -> None:
        sent[tlp.flow] = bench.fabric.cycle

    def arrived(direction: str, tlp: Tlp) -> None:
        nonlocal count
        name = direction if tlp.flow is FlowClass.POSTED else f"{direction}_{'completion' if tlp.is_completion else 'request'}"
        # The first read proves what the device has written at the other host, which takes a flush (H64).
        if turn:
            # Sent at an edge is on rx in the cycle after it; seen at an edge was on tx in the cycle before it.
            worst[name] = max(worst.get(name, 0), bench.fabric.cycle - sent[tlp.flow] - 1)
        count += 1
        if tlp.flow is FlowClass.NON_POSTED:
            agent = host.agent if direction == "upstream" else bench.device
            bench.fabric.after(20, lambda: agent.queue(read_completions(tlp, bytes(4 * tlp.length), 0, 64, 256)[0]))

    host.agent.on_tlp, bench.device.on_tlp = (lambda tlp: arrived("upstream", tlp)), (lambda tlp: arrived("downstream", tlp))
    host.agent.on_sent = bench.device.on_sent = on_sent
    for turn in range(21):
        for agent, address in ((bench.device, GUEST), (host.agent, BAR)):
            for tlp, comes in ((memory_write(DEVICE, address + 64 * turn, bytes(64)), 1),
                               (memory_read(DEVICE, address + 64 * turn, 64, 16 + turn), 2)):
                before = count
                agent.queue(tlp)
                await _until(bench, lambda before=before, comes=comes: count == before + comes, 200, str(tlp))
                await bench.fabric.wait(20 + turn)
    host.agent.on_tlp, host.agent.on_sent, bench.device.on_tlp = driver_tlp, None, None
    return count


@cocotb.test(timeout_time=4, timeout_unit="ms")
async def hold(dut: Any) -> None:
    """Moves of pages under a device that writes elsewhere: held for two round trips, 64 lines and a margin at most."""
    config = BenchConfig("performance")
    bench = ThreePorts(dut, config, delay=250)
    await bench.fabric.start()
    await bench.driver.setup(Setup(window_base=GUEST, window_pages=64, host_b_offset=1 << 32))
    random = config.random("pages")
    trips: tuple[list[int], list[int]] = ([], [])
    for host, seen in zip(bench.hosts, trips, strict=True):
        _time_flushes(bench, host, seen)
    results = []
    held = [0]
    watching = cocotb.start_soon(_count_held(dut, bench, held))
    for page in range(8):
        bench.hosts[0].page(GUEST + page * PAGE)[:] = random.randbytes(PAGE)
        began, held[0] = bench.fabric.cycle, 0
        results.append(await bench.driver.move(page, 1))
        hold, total = results[-1].hold_cycles, results[-1].total_cycles
        assert abs(hold - held[0]) <= 2, f"a page was held for {held[0]} cycles, the register says {hold}"
        took = bench.fabric.cycle - began
        assert hold < total <= took, f"a move took {took} cycles, the registers say {hold} held of {total}"
        source, copy = (bench.hosts[host].page(bench.driver.place(page, host)) for host in (0, 1))
        assert results[-1].moved, f"page {page} did not move: {results[-1].reason}"
        assert source == copy, f"the copy of page {page} differs"
    watching.cancel()
    # The round trip of Host A is that of a read there, from tx to rx; both hosts answer after the same delay.
    limit = max(trips[0] or trips[1]) + max(trips[1]) + COPY_LINES * max(1, 64 // config.data_bytes) + MARGIN
    report(config, {
        "hold_cycles": (float(max(result.hold_cycles for result in results)), float(limit), "cycles", "lower"),
        "move_cycles": (float(max(result.total_cycles for result in results)), None, "cycles", "lower"),
    })
    config.write({"checked": {"events": 8, "final_bytes": 8 * PAGE}, "violations": {}})


async def _count_held(dut: Any, bench: ThreePorts, held: list[int]) -> None:
    while True:
        await bench.fabric.wait(1)
        held[0] += dut.holding.value != 0


@cocotb.test(timeout_time=20, timeout_unit="ms")
async def simulation_speed(dut: Any) -> None:
    """Pages that a device writes and reads per second of wall time, through the hardware, with the models and the event log of every scenario."""
    config = BenchConfig("performance")
    pages = config.get("pages", 200)
    log = EventLog()
    quick = RootComplexConfig(posted=Delay(10, 10), read=Delay(20, 20), gap=Delay(0, 0), cut=0.0)
    device = DeviceConfig("nvme", DEVICE, mrrs=512)
    system = System(dut, SystemConfig(seed=config.seed, data_bytes=config.data_bytes, functions=(device,), hosts=(quick, quick)), log)
    await system.start()
    function, data = system.functions["nvme"], config.random("pages").randbytes(PAGE)
    started = time.perf_counter()
    for page in range(pages):
        await function.write(GUEST + page * PAGE, data)
    await function.flush(GUEST)
    written = time.perf_counter()
    reads: deque[Any] = deque()
    for page in range(pages):
        reads.append(await function.start_read(GUEST + page * PAGE, PAGE))
        if len(reads) > 4:
            assert await function.finish(reads.popleft()) == data, "a page that was written is read otherwise"
    while reads:
        assert await function.finish(reads.popleft()) == data, "a page that was written is read otherwise"
    read = time.perf_counter()
    values = {"pages_written_per_second": (pages / (written - started), 360.0), "pages_read_per_second": (pages / (read - written), 285.0)}
    # The limits are for a quiet machine, so they are printed and not enforced here.
    config.write_values({name: {"value": value, "limit": limit, "unit": "pages/s", "better": "higher"} for name, (value, limit) in values.items()})
    cocotb.log.info(f"{values}")
    config.write({"checked": {"events": len(log.events), "read_bytes": pages * PAGE}, "violations": {}})


def _time_flushes(bench: ThreePorts, host: PlainHost, trips: list[int]) -> None:
    """Note for every zero-length read the cycles from its arrival at the host to the first beat of its answer on the wire."""
    arrived: dict[tuple[int, int], int] = {}

    def on_read(tlp: Tlp) -> None:
        if tlp.kind is Kind.MRD and not tlp.first_be:
            arrived[tlp.requester_id, tlp.tag] = bench.fabric.cycle

    def on_sent(tlp: Tlp) -> None:
        at = arrived.pop((tlp.requester_id, tlp.tag), None)
        if at is not None:
            trips.append(bench.fabric.cycle + 1 - at)

    host.on_read, host.agent.on_sent = on_read, on_sent
