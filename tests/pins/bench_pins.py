"""Bench of the port agents: random TLPs of all classes cross the wires both ways, bit-exact, under pauses and few credits."""

import json
import os
import time
from pathlib import Path
from random import Random

import cocotb

from pagehop_tb.pins import BeatFormat, CreditConfig, Fabric, PortCredits, TlpPortAgent, TlpSink, TlpSource, bursts, sparse
from pagehop_tb.protocol import FlowClass, Kind, Tlp, answer, memory_read, memory_write

CONFIG = json.loads(Path(os.environ["PAGEHOP_CONFIG"]).read_text(encoding="utf-8"))
PARAMETERS = CONFIG["parameters"]
DATA_BYTES = CONFIG["hardware"].get("data_bytes", 64)


def few() -> PortCredits:
    return PortCredits(CreditConfig(3, 40, delay=(0, 30)), CreditConfig(2, 20, delay=(0, 50)), CreditConfig(3, 50, delay=(1, 9)))


def make(dut, seed, **changes):
    fabric = Fabric(dut.clk, dut.rst, seed=seed)
    beats = BeatFormat(DATA_BYTES)
    for index, name in enumerate(("device", "host_a", "host_b")):
        getattr(dut, f"config_{name}").value = index
    ports = [TlpPortAgent(dut, name, fabric, beats, seed=seed + index, **changes) for index, name in enumerate(("device", "host_a", "host_b"))]
    return fabric, ports


def random_tlp(random: Random, number: int) -> Tlp:
    pick = random.random()
    address = random.choice((random.getrandbits(31) << 1, random.getrandbits(50))) & ~3
    size = min(random.choice((1, 3, 4, 12, 64, 100, 128, 256)), 256, 4096 - address % 4096)
    if pick < 0.4:
        tlp = memory_write(0x100, address, random.randbytes(size), number & 0xFF, relaxed_ordering=random.random() < 0.2)
    elif pick < 0.6:
        tlp = memory_read(0x100, address, size, number & 0x3FF, id_ordering=random.random() < 0.5)
    elif pick < 0.7:
        tlp = Tlp(Kind.FETCH_ADD, 0x100, number & 0x3FF, address & ~7, 2, 0, 0, random.randbytes(8))
    elif pick < 0.75:
        tlp = Tlp(Kind.MSGD, 0x100, 0, random.getrandbits(64), 2, data=random.randbytes(8), code=0x7F, routing=0b010)
    else:
        tlp = answer(memory_read(0x200, 0x1000, 64, number & 0x3FF), 0x100, 0, random.randbytes(64), 64, 0)
    if random.random() < 0.1:
        tlp.prefix = 0x91000000 | number & 0xFFFFF
    tlp.poisoned = tlp.has_data and random.random() < 0.05
    tlp.key = number
    return tlp


async def run(dut, count, **changes):
    seed = CONFIG["seed"]
    fabric, ports = make(dut, seed, **changes)
    device, host, _ = ports
    received = {device: [], host: []}
    sent = {device: [], host: []}
    for port in (device, host):
        port.on_tlp = received[port].append
        port.on_sent = sent[port].append
    await fabric.start()
    random = Random(seed)
    for number in range(count):
        random.choice((device, host)).queue(random_tlp(random, number))
        if random.random() < 0.1:
            await fabric.wait(random.choice((1, 3, 10, 200)))
        if number == count // 2:
            host.starve(FlowClass.POSTED)
            fabric.after(300, lambda: host.feed(FlowClass.POSTED))
    while not all(port.idle for port in ports):
        await fabric.wait(20)
    for port in ports:
        assert not port.unreturned(), f"{port.name} misses credits: {port.unreturned()}"
    compared = 0
    for port, partner in ((device, host), (host, device)):
        assert received[partner] == sent[port], f"{port.name} to {partner.name} differs"
        compared += len(sent[port])
        order = {flow: [tlp.key for tlp in sent[port] if tlp.flow is flow] for flow in FlowClass}
        assert all(keys == sorted(keys) for keys in order.values())
        check_order(sent[port])
    assert compared == count
    return compared


def check_order(tlps):
    """Nothing that may not has passed an older posted TLP."""
    waiting = sorted(tlp.key for tlp in tlps if tlp.flow is FlowClass.POSTED)
    for tlp in tlps:
        if tlp.flow is FlowClass.POSTED:
            waiting.remove(tlp.key)
        elif not (tlp.flow is FlowClass.COMPLETION and tlp.relaxed_ordering):
            assert not waiting or waiting[0] > tlp.key, f"{tlp} passed a posted TLP"


def finish(compared, **more):
    Path(CONFIG["result_file"]).write_text(json.dumps({"checked": {"events": compared}, "violations": {}, **more}), encoding="utf-8")


@cocotb.test(timeout_time=10, timeout_unit="ms")
async def full_rate(dut):
    await run(dut, 400)


@cocotb.test(timeout_time=10, timeout_unit="ms")
async def pauses_and_few_credits(dut):
    compared = await run(dut, 600, granted=few(), shuffle=0.3, source_pause=sparse(1, 0.3), sink_pause=bursts(2, 7))
    finish(compared)


@cocotb.test(timeout_time=10, timeout_unit="ms")
async def streams_alone(dut):
    """A source and a sink work without a port, through the calls of cocotb-bus."""
    fabric, beats = Fabric(dut.clk, dut.rst), BeatFormat(DATA_BYTES)
    source, sink = TlpSource(dut, "device__rx", fabric, beats, sparse(4, 0.2)), TlpSink(dut, "host_a__tx", fabric, beats)
    await fabric.start()
    tlps = [memory_write(1, 0x1000 * index, bytes([index]) * 200) for index in range(6)]
    for tlp in tlps[:4]:
        source.append(tlp)
    await source.send(tlps[4])
    waiting = cocotb.start_soon(sink.wait_for_recv())
    while len(sink) < 5:
        await fabric.wait(5)
    await waiting
    source.append(tlps[5])
    await fabric.wait(100)
    assert len(sink) == 6 and sorted((sink[index] for index in range(6)), key=lambda tlp: tlp.address) == tlps


@cocotb.test(timeout_time=10, timeout_unit="ms")
async def asleep_and_awake(dut):
    """Time counts right across sleeps, and nothing is missed on waking."""
    fabric, (device, host, _) = make(dut, 3)
    seen = []
    host.on_tlp = lambda tlp: seen.append((fabric.cycle, tlp))
    await fabric.start()
    begin = fabric.cycle
    delays = (1, 1000, 2, 50, 5000, 23, 24, 25)
    for delay in delays:
        before = fabric.cycle
        await fabric.wait(delay)
        assert fabric.cycle == before + delay
        device.queue(memory_write(1, 0x1000, bytes(4)))
        queued = fabric.cycle
        await fabric.wait(9)
        assert seen[-1][0] in (queued + 3, queued + 2), (queued, seen[-1])
    # A timer for now, set by a task before the fabric goes to sleep, is due at the next edge.
    for delay in (30, 0, 60, 0, 0):
        before = fabric.cycle
        await fabric.wait(delay)
        assert fabric.cycle == before + max(delay, 1), delay
        begin += max(delay, 1)
    assert len(seen) == 8 and fabric.cycle == begin + sum(delays) + 9 * len(delays)


@cocotb.test(timeout_time=10, timeout_unit="ms")
async def speed(dut):
    """4 KB pages a second of processor time, written and read back, through the wires."""
    fabric, (device, host, _) = make(dut, 5, granted=PortCredits(CreditConfig(128, 2048, delay=(2, 2)), CreditConfig(128, 2048, delay=(2, 2))))
    await fabric.start()
    pages = PARAMETERS.get("pages", 100)
    data = bytes(range(256))
    started, begin = time.process_time(), fabric.cycle
    for page in range(pages):
        for offset in range(0, 4096, 256):
            device.queue(memory_write(0x100, page << 12 | offset, data))
    while not all(port.idle for port in (device, host)):
        await fabric.wait(20)
    seconds, cycles = time.process_time() - started, fabric.cycle - begin
    assert host.received == 16 * pages
    finish(host.received, pages_per_second=pages / seconds, cycles_per_page=cycles / pages)
