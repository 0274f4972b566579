"""Bench of a host with two ports: a device at one, what stands for an OTS at the other, and TLPs from port to port."""

import json
import os
from collections import deque
from dataclasses import replace
from pathlib import Path
from random import Random

import cocotb

from pagehop_tb.models.delay import Delay
from pagehop_tb.models.device import DeviceConfig
from pagehop_tb.models.home import A, D, Home, OpA
from pagehop_tb.models.observer import NullObserver, Status
from pagehop_tb.models.ots_system import OtsConfig, OtsMachine
from pagehop_tb.models.root_complex import RootComplex, RootComplexConfig
from pagehop_tb.models.system import SystemConfig
from pagehop_tb.pins import BeatFormat, CreditConfig, PortCredits, TlpPortAgent
from pagehop_tb.pins.access import number_reader, text_reader, writer
from pagehop_tb.pins.words import WordLayout
from pagehop_tb.protocol import FlowClass, Kind, Tlp, answer, memory_read, memory_write, read_completions

CONFIG = json.loads(Path(os.environ["PAGEHOP_CONFIG"]).read_text(encoding="utf-8"))
DEVICE_BAR, BAR, LEAVES, FAR = 0x9000_0000, 0xA000_0000, 0xA010_0000, 0x80_0000_0000
DEVICE, OTHER, OTS, CPU, WALKER = 0x0108, 0x0110, 0x0200, 0x0000, 0x0003
NEAR = RootComplexConfig(posted=Delay(10, 300), read=Delay(10, 300), peer=Delay(10, 300), far=(FAR, 1 << 30, Delay(100, 400)))


class Effects(NullObserver):
    """Addresses at which something has taken effect, in that order: at memory, or handed to the other port."""

    def __init__(self):
        self.places, self.writes, self.mmio = [], [], 0

    def performed_write(self, cycle, host, address, data, byte_enables, requester_id, source):
        self.places.append(address)
        self.writes.append((address, requester_id))

    def performed_read(self, cycle, host, address, length, requester_id, tag):
        self.places.append(address)

    def performed_atomic(self, cycle, host, address, op, old, new, requester_id, tag):
        self.places.append(address)


class Endpoint:
    """What stands for the OTS: it keeps what comes, and answers reads with their addresses, but for those that it holds."""

    def __init__(self, machine, dut, granted):
        self.machine, self.random = machine, Random(CONFIG["seed"])
        self.port = machine.ports["endpoint"] = TlpPortAgent(dut, "endpoint", machine.fabric, BeatFormat(64), granted)
        self.port.on_tlp = self._arrived
        self.arrived, self.held = [], []
        self.holds = lambda tlp: False

    def _arrived(self, tlp):
        self.arrived.append(tlp)
        if tlp.flow is FlowClass.NON_POSTED:
            if self.holds(tlp):
                self.held.append(tlp)
            else:
                self.machine.fabric.after(self.random.randint(1, 100), lambda: self.answer(tlp))

    def answer(self, tlp):
        if tlp.is_atomic:
            self.port.queue(answer(tlp, OTS, 0, bytes(len(tlp.data)), len(tlp.data)))
            return
        data = b"".join((tlp.address + 8 * index).to_bytes(8, "little") for index in range(tlp.length // 2 + 1))[:4 * tlp.length]
        for completion in read_completions(tlp, data, OTS, 64, 256):
            self.port.queue(completion)

    def came(self, flow):
        return [tlp for tlp in self.arrived if tlp.flow is flow]


class Bench:
    def __init__(self, dut, topology=11, walk_bytes=8, near=NEAR, port=NEAR, granted=None, pauses=0.1):
        self.effects = Effects()
        functions = (DeviceConfig("nvme", DEVICE, bar=(DEVICE_BAR, 0x1000)), DeviceConfig("nic", OTHER))
        system = SystemConfig(seed=CONFIG["seed"], functions=functions, hosts=(near,), pauses=pauses, shuffle=0.2)
        ots = OtsConfig(((BAR, 0x20_0000),), topology, OTS, port, WALKER, walk_bytes)
        self.machine = OtsMachine(dut, system, ots, self.effects)
        self.endpoint = Endpoint(self.machine, dut, granted or PortCredits())
        self.device, self.fabric, self.cpu = self.machine.ports["device"], self.machine.fabric, self.machine.hosts[0].cpu
        self.handed = []
        machine, forward = self.machine, self.machine.ots.forward

        def watched(tlp, origin):
            taken = forward(tlp, origin)
            if taken:
                self.handed.append(tlp)
                self.effects.places.append(tlp.address)
            return taken

        machine.ots.forward = watched

    async def end(self):
        await self.machine.quiesce()
        self.machine.check_clean()


def may_pass(later, earlier, ahead=False):
    """Table 2-40, rows of requests; what is no posted TLP is passed by all. ``ahead``: posted ones to the OTS do not wait for those to memory."""
    if ahead and later.flow is FlowClass.POSTED and BAR <= later.address < FAR and not BAR <= earlier.address < FAR:
        return True
    apart = later.id_ordering and later.requester_id != earlier.requester_id
    return earlier.flow is not FlowClass.POSTED or apart or (later.relaxed_ordering and later.has_data)


def finish(events):
    Path(CONFIG["result_file"]).write_text(json.dumps({"checked": {"events": events}, "violations": {}}), encoding="utf-8")


async def mixed(dut, count=500, ahead=0.0):
    """Traffic of two functions to memory and to the OTS, which starves; how many TLPs passed others, how many only because the way to the OTS is
    ``ahead``, and how many were judged."""
    granted = PortCredits(CreditConfig(4, 64), CreditConfig(2, 16))
    bench = Bench(dut, near=replace(NEAR, peer_ahead=ahead), port=replace(NEAR, peer_depth=2), granted=granted)
    random, sent, machine = Random(CONFIG["seed"]), [], bench.machine
    bench.device.on_sent, bench.device.on_tlp = sent.append, lambda _: None
    await machine.start()
    for number in range(count):
        address = random.choice((0, BAR, FAR)) + 0x100 * number
        who, flags = random.choice((DEVICE, OTHER)), {"relaxed_ordering": random.random() < 0.2, "id_ordering": random.random() < 0.2}
        kind = random.random()
        if kind < 0.6:
            tlp = memory_write(who, address, bytes(random.choice((4, 64, 256))), **flags)
        elif kind < 0.9:
            tlp = memory_read(who, address, 64, number, **flags)
        else:
            tlp = Tlp(Kind.FETCH_ADD, who, number, address, 1, 0xF, 0, bytes(4), **flags)
        bench.device.queue(tlp)
        if number % 50 == 25:
            bench.endpoint.port.starve(*FlowClass)
        if number % 50 == 45:
            bench.endpoint.port.feed(*FlowClass)
        await bench.fabric.wait(random.randrange(30))
    bench.endpoint.port.feed(*FlowClass)
    await bench.fabric.wait(5000)
    # By the place of each in the order of effects: no pair may be the wrong way round.
    place = {address: index for index, address in enumerate(bench.effects.places)}
    assert len(sent) == len(place) == len(bench.effects.places) == count, (len(sent), len(place), len(bench.effects.places))
    passed = first = 0
    for index, tlp in enumerate(sent):
        overtaken = [one for one in sent[:index] if place[one.address] > place[tlp.address]]
        wrong = [one for one in overtaken if not may_pass(tlp, one, ahead)]
        assert not wrong, f"{tlp} has passed {wrong[0]}"
        passed += bool(overtaken)
        first += any(not may_pass(tlp, one) for one in overtaken)
    # From one port to the other, the order is that of the hand-over, class by class, and no request passes a posted one that it may not.
    for flow in (FlowClass.POSTED, FlowClass.NON_POSTED):
        expected = [tlp for tlp in bench.handed if tlp.flow is flow]
        assert bench.endpoint.came(flow) == expected, f"the OTS got {flow.name} TLPs otherwise than they were handed over"
    order = {tlp.address: index for index, tlp in enumerate(bench.endpoint.arrived)}
    for index, tlp in enumerate(bench.handed):
        if tlp.flow is not FlowClass.POSTED:
            assert all(order[one.address] < order[tlp.address] or may_pass(tlp, one) for one in bench.handed[:index] if one.flow is FlowClass.POSTED)
    written = {address for address, _ in bench.effects.writes}
    assert not any(BAR <= address < BAR + 0x20_0000 for address in written)
    await machine.quiesce()
    return passed, first, len(sent)


@cocotb.test(timeout_time=20, timeout_unit="ms")
async def table_2_40_holds(dut):
    """No TLP takes effect before one that it may not pass, also while the other port has no room, and many pass that may."""
    passed, _, count = await mixed(dut)
    assert passed > 50, passed
    finish(2 * count)


@cocotb.test(timeout_time=20, timeout_unit="ms")
async def writes_to_the_ots_may_be_ahead_of_those_to_memory(dut):
    """And nothing else is: neither among themselves, nor what goes to memory behind them."""
    _, first, _ = await mixed(dut, ahead=1.0)
    assert first > 20, first


@cocotb.test(timeout_time=20, timeout_unit="ms")
async def a_host_whose_memory_is_ahead_of_the_ots_is_noticed(dut):
    assert "has passed" in await caught(mixed(dut, ahead=1.0), "_channels", lambda self, tlp, right=RootComplex._channels: right(self, tlp)[-1:])


async def caught(run, name, bug, kind=RootComplex):
    """The message of the failure that ``run`` ends with, while a method of ``kind`` is replaced by ``bug``."""
    kept = getattr(kind, name)
    setattr(kind, name, bug)
    try:
        await run
    except AssertionError as error:
        return str(error)
    finally:
        setattr(kind, name, kept)
    raise AssertionError(f"{name} was wrong, and nothing was noticed")


@cocotb.test(timeout_time=20, timeout_unit="ms")
async def a_host_that_lets_tlps_pass_what_is_stuck_is_noticed(dut):
    assert "has passed" in await caught(mixed(dut), "_may_pass", lambda self, tlp, earlier: True)


@cocotb.test(timeout_time=20, timeout_unit="ms")
async def a_host_whose_requests_pass_is_noticed(dut):
    def barrier(self, tlp, agent, relaxed, right=RootComplex._barrier):
        return 0 if tlp.flow is FlowClass.NON_POSTED else right(self, tlp, agent, relaxed)

    assert "has passed" in await caught(mixed(dut), "_barrier", barrier)


async def stuck(dut):
    """An OTS that takes no posted TLPs stops those of the device in the end, and what may not pass them; nothing else, at either port."""
    bench = Bench(dut, granted=PortCredits(CreditConfig(4, 64)), pauses=0)
    machine, endpoint, effects = bench.machine, bench.endpoint, bench.effects
    bench.device.on_tlp = (answers := []).append
    await machine.start()
    endpoint.port.starve(FlowClass.POSTED)
    endpoint.holds = lambda tlp: tlp.requester_id == DEVICE
    bench.device.queue(memory_read(DEVICE, BAR + 0x8000, 8, 1))
    await bench.fabric.wait(1000)
    for number in range(100):
        bench.device.queue(memory_write(DEVICE, BAR + 64 * number, bytes(64)))
    await bench.fabric.wait(5000)
    depth = machine.ots.config.peer_depth
    # Four have arrived, and all others keep the credits of port 0 that they took.
    assert bench.device.waiting(FlowClass.POSTED) == 100 - 4 - machine.config.host_credits.posted.header
    assert len(endpoint.came(FlowClass.POSTED)) == 4 and len(bench.handed) == 1 + 4 + depth
    # Another requester's read may pass with IDO, and its write may with RO, if there were credits; without, a read may not.
    bench.device.queue(memory_read(OTHER, 0x2000, 8, 2, id_ordering=True))
    bench.device.queue(memory_read(OTHER, 0x3000, 8, 3))
    # The pins keep order at the device's link: what is behind a posted TLP there does not leave before it.
    assert endpoint.held and not answers
    endpoint.answer(endpoint.held.pop())
    # Port 1's own: writes, reads, and the completions of reads, which go down behind the posted TLPs unless they are relaxed.
    endpoint.port.queue(memory_write(OTS, 0x4000, bytes(64)))
    endpoint.port.queue(memory_read(OTS, 0x6000, 64, 5, relaxed_ordering=True))
    await bench.fabric.wait(2000)
    endpoint.port.queue(memory_read(OTS, 0x5000, 64, 4))
    await bench.fabric.wait(2000)
    assert [tlp.tag for tlp in answers] == [1]
    assert {0x4000, 0x5000, 0x6000} <= set(effects.places) and not {0x2000, 0x3000} & set(effects.places)
    assert [tlp.tag for tlp in endpoint.came(FlowClass.COMPLETION)] == [5]
    endpoint.port.feed(FlowClass.POSTED)
    await bench.fabric.wait(8000)
    assert [tlp.address for tlp in endpoint.came(FlowClass.POSTED)] == [BAR + 64 * number for number in range(100)]
    assert [tlp.tag for tlp in endpoint.came(FlowClass.COMPLETION)] == [5, 4] and sorted(tlp.tag for tlp in answers) == [1, 2, 3]
    await machine.quiesce()


@cocotb.test(timeout_time=20, timeout_unit="ms")
async def what_a_stuck_ots_stops(dut):
    await stuck(dut)


@cocotb.test(timeout_time=20, timeout_unit="ms")
async def credits_that_come_back_too_early_are_noticed(dut):
    def forward(self, tlp, origin, right=RootComplex.forward):
        taken = right(self, tlp, origin)
        if taken:
            self._handed.pop(id(tlp))
            origin.port.release(tlp)
        return taken

    assert "waiting" in await caught(stuck(dut), "forward", forward)


@cocotb.test(timeout_time=20, timeout_unit="ms")
async def what_passes_a_stuck_write(dut):
    """Behind a write that waits for the other port, RO and IDO go on to memory, and nothing else does. So it is at the OTS's port."""
    bench = Bench(dut, port=replace(NEAR, completion_ido=True), granted=PortCredits(CreditConfig(1, 64)), pauses=0)
    bench.device.on_tlp = (answers := []).append
    await bench.machine.start()
    bench.endpoint.port.starve(FlowClass.POSTED)
    for number in range(20):
        bench.device.queue(memory_write(DEVICE, BAR + 64 * number, bytes(64)))
    # Address: whether it may pass.
    tlps = {
        0x1000: (memory_write(DEVICE, 0x1000, bytes(4)), False), 0x2000: (memory_write(DEVICE, 0x2000, bytes(4), relaxed_ordering=True), True),
        0x3000: (memory_write(OTHER, 0x3000, bytes(4)), False), 0x4000: (memory_write(OTHER, 0x4000, bytes(4), id_ordering=True), False),
        0x5000: (memory_write(0x0118, 0x5000, bytes(4), id_ordering=True), True), 0x6000: (memory_read(DEVICE, 0x6000, 4, 1), False),
        0x7000: (memory_read(DEVICE, 0x7000, 4, 2, relaxed_ordering=True), False),
        0x8000: (memory_read(0x0118, 0x8000, 4, 3, id_ordering=True), True),    # what it may not pass has passed itself
        0x9000: (memory_read(0x0120, 0x9000, 4, 4, id_ordering=True), True),
        0xA000: (Tlp(Kind.FETCH_ADD, DEVICE, 5, 0xA000, 1, 0xF, 0, bytes(4), relaxed_ordering=True), True),
        0xB000: (memory_write(OTHER, BAR + 0xB000, bytes(4), relaxed_ordering=True), False),
    }
    for tlp, _ in tlps.values():
        bench.device.queue(tlp)
    # The CPU's ID is that of completions: its posted write keeps those back that are made after it.
    bench.endpoint.port.queue(memory_read(OTS, 0x10000, 4, 1))
    await bench.fabric.wait(1000)
    bench.machine.ots.post(BAR, bytes(8))
    await bench.fabric.wait(100)
    bench.endpoint.port.queue(memory_read(OTS, 0x11000, 4, 2))
    await bench.fabric.wait(4000)
    assert [tlp.tag for tlp in bench.endpoint.came(FlowClass.COMPLETION)] == [1]
    assert {address for address in tlps if address in bench.effects.places} == {address for address, (_, passes) in tlps.items() if passes}
    bench.endpoint.port.feed(FlowClass.POSTED)
    await bench.fabric.wait(5000)
    assert len(bench.effects.places) == 33 and len(answers) == 5 and len(bench.endpoint.came(FlowClass.COMPLETION)) == 2
    await bench.machine.quiesce()


async def one_queue(dut):
    """Posted writes of the CPU and of the device to the OTS, and reads of the CPU behind its writes."""
    bench = Bench(dut, port=RootComplexConfig(down=Delay(5, 200)))
    function, given, post = bench.machine.functions["nvme"], [], bench.machine.ots.post

    def watched(address, data):
        given.append(address)
        post(address, data)

    bench.machine.ots.post = watched
    await bench.machine.start()
    machine, forward = bench.machine, bench.machine.ots.forward

    def handed(tlp, origin):
        taken = forward(tlp, origin)
        if taken:
            given.append(tlp.address)
        return taken

    machine.ots.forward = handed

    async def dma():
        for number in range(100):
            await function.write(BAR + 64 * number, bytes(64))
            await bench.fabric.wait(20)

    writing = cocotb.start_soon(dma())
    for number in range(100):
        address = BAR + 0x8000 + 8 * number
        await bench.cpu.mmio_write(address, bytes(8))
        if number % 10 == 9:
            status, data = await bench.cpu.mmio_read(address, 8)
            assert (status, data) == (Status.SUCCESS, address.to_bytes(8, "little"))
            come = [tlp.address for tlp in bench.endpoint.came(FlowClass.POSTED)]
            assert address in come, f"the read of {address:#x} came before the write"
        await bench.fabric.wait(5)
    await writing
    await bench.end()
    assert [tlp.address for tlp in bench.endpoint.came(FlowClass.POSTED)] == given, "posted TLPs have changed places on the way to the OTS"
    assert len(given) == 200 and given != sorted(given)


@cocotb.test(timeout_time=20, timeout_unit="ms")
async def the_cpu_and_the_device_share_one_queue_to_the_ots(dut):
    await one_queue(dut)


@cocotb.test(timeout_time=20, timeout_unit="ms")
async def a_device_whose_writes_pass_those_of_the_cpu_is_noticed(dut):
    def forward(self, tlp, origin, right=RootComplex.forward):
        self._down_until, until = 0, self._down_until
        taken = right(self, tlp, origin)
        self._down_until = max(until, self._down_until)
        return taken

    assert "changed places" in await caught(one_queue(dut), "forward", forward)


@cocotb.test(timeout_time=20, timeout_unit="ms")
async def completions_find_their_requester(dut):
    """Reads in all directions: the device, the CPU and the walker of the OTS; the OTS of memory, of the device, and of memory behind the aperture."""
    bench = Bench(dut)
    function, endpoint, machine = bench.machine.functions["nvme"], bench.endpoint, bench.machine
    await machine.start()
    machine.preset(0, 0x1000, b"near" * 16)
    machine.preset(0, FAR, b"afar" * 16)

    async def device():
        for number in range(40):
            data = await function.read(BAR + 512 * number, 512)
            assert data == b"".join((BAR + 512 * number + 8 * word).to_bytes(8, "little") for word in range(64))

    async def walker():
        for number in range(40):
            assert await machine.read_leaf(LEAVES + 8 * number, 8) == (LEAVES + 8 * number).to_bytes(8, "little")

    tasks = [cocotb.start_soon(one) for one in (device(), walker())]
    for number in range(40):
        assert await bench.cpu.mmio_read(BAR + 8 * number, 8) == (0, (BAR + 8 * number).to_bytes(8, "little"))
        for tag, address in enumerate((0x1000, FAR, DEVICE_BAR)):
            endpoint.port.queue(memory_read(OTS, address, 64 if tag < 2 else 8, tag + 8 * (number % 4)))
    for task in tasks:
        await task
    await bench.end()
    found = endpoint.came(FlowClass.COMPLETION)
    assert all(tlp.requester_id == OTS and not tlp.status for tlp in found)
    assert [sum(len(tlp.data) for tlp in found if tlp.tag % 8 == tag) for tag in range(3)] == [40 * 64, 40 * 64, 40 * 8]
    assert {tlp.data[:4] for tlp in found if tlp.tag % 8 < 2} == {b"near", b"afar"}
    assert {tlp.requester_id for tlp in endpoint.came(FlowClass.NON_POSTED)} == {DEVICE, CPU, WALKER}
    assert not await read_denied(bench)


async def read_denied(bench):
    """A leaf that the OTS answers with UR."""
    bench.endpoint.holds = lambda tlp: True
    reading = cocotb.start_soon(bench.machine.read_leaf(LEAVES, 8))
    while not bench.endpoint.held:
        await bench.fabric.wait(10)
    bench.endpoint.port.queue(answer(bench.endpoint.held.pop(), OTS, Status.UNSUPPORTED_REQUEST))
    return await reading


@cocotb.test(timeout_time=20, timeout_unit="ms")
async def a_lost_host_holds_nothing(dut):
    """TLPs for the OTS that are on their way in a lost host are gone, their credits are back."""
    bench = Bench(dut, granted=PortCredits(CreditConfig(1, 64)))
    await bench.machine.start()
    bench.endpoint.port.starve(FlowClass.POSTED)
    for number in range(40):
        await bench.machine.functions["nvme"].write(BAR + 64 * number, bytes(64))
    await bench.fabric.wait(2000)
    for port in (bench.machine.hosts[0].root_complex, bench.machine.ots):
        port.lose()
    bench.endpoint.port.feed(FlowClass.POSTED)
    await bench.end()
    assert 1 <= len(bench.endpoint.arrived) <= 10


async def overtakes(dut, topology):
    """How many writes of the OTS to the far memory and reads of it pass writes to the near one; those among the far ones never do."""
    far = (FAR, 1 << 30, Delay(1, 20))
    bench = Bench(dut, topology, port=RootComplexConfig(posted=Delay(200, 400), read=Delay(5, 10), far=far))
    await bench.machine.start()
    for number in range(100):
        bench.endpoint.port.queue(memory_write(OTS, 0x1000 * number, bytes(64)))
        bench.endpoint.port.queue(memory_write(OTS, FAR + 0x1000 * number, bytes(64)))
        bench.endpoint.port.queue(memory_read(OTS, FAR + 0x1000 * number + 0x800, 4, number))
        await bench.fabric.wait(10)
    await bench.end()
    place = {address: index for index, address in enumerate(bench.effects.places)}
    far_writes, far_reads = ([place[FAR + 0x1000 * number + offset] for number in range(100)] for offset in (0, 0x800))
    assert far_writes == sorted(far_writes) and all(write < read for write, read in zip(far_writes, far_reads, strict=True))
    return sum(place[0x1000 * number] > place[FAR + 0x1000 * number] for number in range(100))


@cocotb.test(timeout_time=20, timeout_unit="ms")
async def behind_the_root_complex_far_and_near_have_one_order(dut):
    assert not await overtakes(dut, 11)


@cocotb.test(timeout_time=20, timeout_unit="ms")
async def behind_a_switch_far_and_near_have_none(dut):
    assert await overtakes(dut, 12) > 50


class Walker:
    """Drives Gets, one at a time of each source, and takes the answers."""

    WIDTHS = {"opcode": 3, "param": 3, "size": 4, "source": 3, "sink": 1, "address": 56, "mask": 8, "denied": 1, "data": 64, "corrupt": 1}

    def __init__(self, dut, fabric):
        self.a, self.d = (WordLayout([(name, self.WIDTHS[name]) for name in kind._fields]) for kind in (A, D))
        self.valid, self.payload = writer(dut.walker__a__valid), writer(dut.walker__a__payload)
        self.ready, self.shows, self.reads = (text_reader(dut.walker__a__ready), text_reader(dut.walker__d__valid),
                                              number_reader(dut.walker__d__payload))
        self.asks, self.answers, self.active, self.driving = deque(), {}, True, False
        self.valid(0)
        writer(dut.walker__d__ready)(1)
        fabric.add(self)

    def edge(self):
        if self.shows() == "1":
            beat = self.a_beat()
            self.answers.setdefault(beat["source"], []).append(beat)
        if self.driving and self.ready() == "1":
            self.asks.popleft()
            self.driving = False
            self.valid(0)
        elif self.asks and not self.driving:
            source, address, size = self.asks[0]
            self.payload(self.a.pack(opcode=int(OpA.GET), size=size, source=source, address=address,
                                     mask=0xFF if size >= 3 else ((1 << (1 << size)) - 1) << address % 8))
            self.valid(1)
            self.driving = True
        return True

    def a_beat(self):
        return self.d.unpack(self.reads())

    def wakes(self):
        return []


async def held_leaf(dut):
    """Gets of leaves become reads of the OTS, of a line each; while one is not answered, others and those of memory are."""
    bench = Bench(dut, walk_bytes=64)
    machine, endpoint, walker = bench.machine, bench.endpoint, Walker(dut, bench.fabric)
    home = Home(Random(1), cacher=7, cpus=0)
    home.memory = machine.hosts[0].memory
    agent = machine.serve_leaves("port", home, LEAVES, 0x1000, coherent=False)
    await machine.start()
    machine.preset(0, 0x1000, bytes(range(64)))
    endpoint.holds = lambda tlp: tlp.address == LEAVES + 0x40
    walker.asks.extend([(1, LEAVES + 0x48, 3), (2, LEAVES + 0x88, 3), (3, 0x1008, 3), (4, LEAVES + 0xC0, 6), (5, LEAVES + 0x104, 2), (6, 0x1000, 6)])
    await bench.fabric.wait(2000)
    data = {source: [beat["data"] for beat in beats] for source, beats in walker.answers.items()}
    assert data == {
        2: [LEAVES + 0x88], 3: [int.from_bytes(bytes(range(8, 16)), "little")], 4: [LEAVES + 0xC0 + 8 * word for word in range(8)],
        5: [LEAVES + 0x100], 6: [int.from_bytes(bytes(range(8 * word, 8 * word + 8)), "little") for word in range(8)]}
    assert {(tlp.address % 64, tlp.length, tlp.requester_id) for tlp in endpoint.came(FlowClass.NON_POSTED)} == {(0, 16, WALKER)}
    endpoint.answer(endpoint.held.pop())
    await bench.fabric.wait(1000)
    assert [beat["data"] for beat in walker.answers[1]] == [LEAVES + 0x48] and home.idle and agent.home is home
    endpoint.holds = lambda tlp: True
    walker.asks.append((1, LEAVES, 3))
    await bench.fabric.wait(500)
    endpoint.port.queue(answer(endpoint.held.pop(), OTS, Status.COMPLETER_ABORT))
    await bench.fabric.wait(1000)
    assert [beat["denied"] for beat in walker.answers[1]] == [0, 1]


@cocotb.test(timeout_time=20, timeout_unit="ms")
async def a_leaf_that_is_held_stops_no_other_read(dut):
    await held_leaf(dut)


@cocotb.test(timeout_time=20, timeout_unit="ms")
async def a_home_that_reads_one_leaf_after_the_other_is_noticed(dut):
    def fetch(self, operation, request, right=Home._fetch):
        if not any(queue[0].state == "fetching" for queue in self._queues.values()):
            right(self, operation, request)

    assert "assert" in await caught(held_leaf(dut), "_fetch", fetch, Home)
