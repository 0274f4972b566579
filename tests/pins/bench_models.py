"""Bench of the models: a device and one host, joined by wires. A shadow of the memory predicts what every access must give."""

import json
import os
import time
from pathlib import Path
from random import Random

import cocotb

from pagehop_tb.models.delay import Delay
from pagehop_tb.models.device import DeviceConfig, DmaError
from pagehop_tb.models.devices import AtomicCounter, HotPageWriter, Producer
from pagehop_tb.models.observer import NullObserver, Status
from pagehop_tb.models.root_complex import Injection, RootComplexConfig
from pagehop_tb.models.system import System, SystemConfig
from pagehop_tb.pins import CreditConfig, PortCredits, Starvation
from pagehop_tb.protocol import Kind

CONFIG = json.loads(Path(os.environ["PAGEHOP_CONFIG"]).read_text(encoding="utf-8"))
PARAMETERS = CONFIG["parameters"]
BAR = 0x9000_0000
SLOW = RootComplexConfig(posted=Delay(10, 300, 0.05, 3000), read=Delay(10, 300, 0.05, 2000), gap=Delay(0, 40), cut=0.7, torn=0.3)


class Order(NullObserver):
    """Keeps what the tests ask for: the order in which writes became visible, and the keys that were answered."""

    def __init__(self):
        self.sent, self.performed, self.read_keys, self.answered, self.interrupts = [], [], [], [], []

    def device_write(self, cycle, agent, address, data, byte_enables, ro, ido, key):
        self.sent.append((address, data, ro))

    def performed_write(self, cycle, host, address, data, byte_enables, requester_id, source):
        self.performed.append((address, data))

    def device_read(self, cycle, agent, address, length, key, ido=False):
        self.read_keys.append(key)

    def device_read_done(self, cycle, key, data, status):
        self.answered.append(key)

    def msi(self, cycle, host, address, data):
        self.interrupts.append((len(self.performed), data))


def make(dut, **changes):
    observer = Order()
    functions = (DeviceConfig("nvme", 0x0108, bar=(BAR, 0x1000)), DeviceConfig("nic", 0x0110, tags=4, ten_bit=False, bar=(BAR + 0x1000, 0x1000)))
    config = SystemConfig(seed=CONFIG["seed"], data_bytes=CONFIG["hardware"].get("data_bytes", 64), functions=functions, **changes)
    return System(dut, config, observer), observer


def finish(events, **more):
    Path(CONFIG["result_file"]).write_text(json.dumps({"checked": {"events": events}, "violations": {}, **more}), encoding="utf-8")


@cocotb.test(timeout_time=20, timeout_unit="ms")
async def reads_see_earlier_writes(dut):
    """A read behind a write of its own device returns it, whatever the delays; so does an AtomicOp. All completions are assembled right."""
    system, observer = make(dut, hosts=(SLOW, SLOW), pauses=0.2, shuffle=0.2)
    await system.start()
    random, shadow, compared = Random(CONFIG["seed"]), bytearray(0x10000), 0
    for _ in range(300):
        function = system.functions[random.choice(("nvme", "nic"))]
        size = random.choice((1, 3, 4, 7, 64, 100, 256, 700, 1500))
        address = random.randrange(0x10000 - size)
        kind = random.random()
        if kind < 0.5:
            data = system.values.take(address, size)
            shadow[address:address + size] = data
            await function.write(address, data)
        elif kind < 0.9:
            assert await function.read(address, size) == shadow[address:address + size]
            compared += size
        else:
            address &= ~7
            number = int.from_bytes(shadow[address:address + 8], "little")
            assert await function.atomic("fetch_add", address, (5).to_bytes(8, "little")) == shadow[address:address + 8]
            shadow[address:address + 8] = ((number + 5) % 2**64).to_bytes(8, "little")
    await system.quiesce()
    system.check_clean()
    assert system.hosts[0].memory.read(0, 0x10000) == shadow
    assert [one[:2] for one in observer.sent] == observer.performed
    assert sorted(observer.read_keys) == sorted(observer.answered) and len(observer.read_keys) > 100
    finish(compared)


@cocotb.test(timeout_time=20, timeout_unit="ms")
async def relaxed_writes_really_pass(dut):
    """RO writes overtake, and nothing else does; an interrupt comes after all that it may not pass."""
    system, observer = make(dut, hosts=(SLOW, SLOW))
    await system.start()
    function = system.functions["nvme"]
    for index in range(200):
        await function.write(index * 64, system.values.take(index * 64, 64), ro=index % 4 == 3)
        if index % 50 == 49:
            await function.interrupt(0xFEE00000, index.to_bytes(4, "little"))
    await system.quiesce()
    sent = [one for one in observer.sent if one[0] < 0xFEE00000]
    place = {address: position for position, (address, _) in enumerate(observer.performed)}
    strong = [place[address] for address, _, ro in sent if not ro]
    assert strong == sorted(strong)
    overtaken = 0
    for index, (address, _, ro) in enumerate(sent):
        passed = [place[earlier] > place[address] for earlier, _, _ in sent[:index]]
        assert ro or not any(passed)
        overtaken += any(passed)
    assert overtaken > 10
    assert [(count, int.from_bytes(data, "little")) for count, data in observer.interrupts] and len(system.hosts[0].cpu.interrupts) == 4
    for _, data in observer.interrupts:
        number = int.from_bytes(data, "little")
        assert all(place[address] < count for count, one in observer.interrupts if one == data for address, _, _ in sent[:number + 1])


@cocotb.test(timeout_time=20, timeout_unit="ms")
async def completions_stay_in_order_behind_posted(dut):
    """The completions of a read stay in order while the CPU posts writes, however long they wait behind these."""
    slow = RootComplexConfig(down=Delay(1, 12), read=Delay(5, 20), gap=Delay(0, 3), cut=1.0)
    system, _ = make(dut, hosts=(slow, slow))
    await system.start()
    cpu, function, fill = system.hosts[0].cpu, system.functions["nvme"], system.values.take(0, 4096)
    system.preset(0, 0x3000, fill)

    async def post():
        for index in range(300):
            await cpu.mmio_write(BAR + index % 64 * 8, index.to_bytes(8, "little"))
            await system.fabric.wait(9)

    posting = cocotb.start_soon(post())
    while not posting.done():
        assert await function.read(0x3000, 4096) == fill
    await system.quiesce()
    system.check_clean()


@cocotb.test(timeout_time=20, timeout_unit="ms")
async def registers_and_configuration(dut):
    """CPU accesses to the device: doorbells in order, reads behind them, UR where nothing is, and configuration."""
    system, _ = make(dut, hosts=(SLOW, SLOW))
    await system.start()
    cpu, rung = system.hosts[0].cpu, []
    system.functions["nvme"].on_doorbell = lambda offset, data: rung.append((offset, data))
    for index in range(20):
        await cpu.mmio_write(BAR + 8 * index, index.to_bytes(8, "little"))
    assert await cpu.mmio_read(BAR + 8 * 19, 8) == (0, (19).to_bytes(8, "little"))
    assert [offset for offset, _ in rung] == [8 * index for index in range(20)]
    assert await cpu.mmio_read(BAR + 0x5000, 4) == (Status.UNSUPPORTED_REQUEST, b"")
    assert await cpu.mmio_read(BAR + 0x1000, 4) == (0, bytes(4))
    assert await cpu.root_complex.config_read(0x0110, 0) == (0, b"\x10\x01\x86\x80")
    assert await cpu.root_complex.config_write(0x0110, 4, bytes(4)) == Status.SUCCESS
    assert (await cpu.root_complex.config_read(0x0118, 0))[0] == Status.UNSUPPORTED_REQUEST


@cocotb.test(timeout_time=20, timeout_unit="ms")
async def injected_errors_arrive(dut):
    """Each injected error reaches the device as what it is, and a late answer is noticed as unexpected."""
    system, _ = make(dut)
    await system.start()
    complex_, function = system.hosts[0].root_complex, system.functions["nvme"]
    for status in (Status.UNSUPPORTED_REQUEST, Status.COMPLETER_ABORT, Status.POISONED):
        complex_.injections.append(Injection(lambda tlp: tlp.kind is Kind.MRD, status, nth=1))
        await function.read(0x1000, 256)
        try:
            await function.read(0x1000, 256)
        except DmaError as error:
            assert status.name in str(error)
        else:
            raise AssertionError(f"{status.name} did not arrive")
    complex_.injections.append(Injection(lambda tlp: tlp.address == 0x2000, Status.TIMEOUT, late=15_000))
    try:
        await function.read(0x2000, 4)
    except DmaError as error:
        assert "TIMEOUT" in str(error)
    await system.quiesce()
    await system.fabric.wait(10_000)
    assert len(system.link.unexpected) == 1


@cocotb.test(timeout_time=20, timeout_unit="ms")
async def starved_ports_delay_and_lose_nothing(dut):
    """Episodes without credits in each class: everything still arrives, later than without them."""
    system, _ = make(dut, host_credits=PortCredits(CreditConfig(2, 16), CreditConfig(1, 16)))
    await system.start()
    hunger = Starvation(system.ports["host_a"], system.fabric, CONFIG["seed"], pause=(50, 200), length=(300, 600))
    took, function = [], system.functions["nvme"]
    for starved in (False, True):
        if starved:
            hunger.start()
        begin = system.cycle
        for number in range(100):
            await function.write(0x1000 + 64 * number, number.to_bytes(64, "little"))
            assert await function.read(0x1000 + 64 * number, 64) == number.to_bytes(64, "little")
        took.append(system.cycle - begin)
    hunger.stop()
    await system.quiesce()
    assert hunger.episodes > 20
    assert took[1] > 1.1 * took[0], took


async def two_classes(dut, apart):
    """Numbers of writes in the order in which they became visible; even ones were sent in class 0, odd ones in class 3."""
    host = RootComplexConfig(posted=Delay(10, 400), classes_apart=apart)
    observer = Order()
    functions = (DeviceConfig("nvme", 0x0108), DeviceConfig("nic", 0x0110, traffic_class=3))
    data_bytes = CONFIG["hardware"].get("data_bytes", 64)
    system = System(dut, SystemConfig(seed=CONFIG["seed"], functions=functions, hosts=(host, host), data_bytes=data_bytes), observer)
    await system.start()
    for number in range(100):
        await system.functions["nic" if number % 2 else "nvme"].write(64 * number, bytes(64))
        await system.fabric.wait(20)
    assert await system.functions["nic"].read(0, 4) == bytes(4)
    await system.quiesce()
    return [address // 64 for address, _ in observer.performed]


@cocotb.test(timeout_time=20, timeout_unit="ms")
async def one_channel_keeps_traffic_classes_in_order(dut):
    order = await two_classes(dut, False)
    assert order == list(range(100))


@cocotb.test(timeout_time=20, timeout_unit="ms")
async def a_channel_each_lets_traffic_classes_pass(dut):
    """One class passes the other, and each keeps its own order."""
    order = await two_classes(dut, True)
    assert order != sorted(order)
    assert all(mine == sorted(mine) for mine in ([number for number in order if number % 2 == parity] for parity in (0, 1)))


@cocotb.test(timeout_time=20, timeout_unit="ms")
async def a_host_is_lost_and_back(dut):
    """A lost host answers nothing and keeps nothing that comes; back again it works."""
    system, _ = make(dut)
    await system.start()
    host, function = system.hosts[0], system.functions["nvme"]
    await function.write(0x1000, b"kept")
    assert await function.read(0x1000, 4) == b"kept"
    host.root_complex.lose()
    await function.write(0x1000, b"gone")
    try:
        await function.read(0x1000, 4)
    except DmaError as error:
        assert "TIMEOUT" in str(error)
    else:
        raise AssertionError("a lost host has answered")
    host.root_complex.restore()
    assert await function.read(0x1000, 4) == b"kept"
    host.memory.clear()
    assert await function.read(0x1000, 4) == bytes(4)
    await system.quiesce()


@cocotb.test(timeout_time=20, timeout_unit="ms")
async def devices_do_their_work(dut):
    """A counter, a hot page and a producer at once, with a CPU that consumes."""
    system, _ = make(dut, hosts=(SLOW, SLOW), pauses=0.1)
    await system.start()
    nvme, nic, cpu = system.functions["nvme"], system.functions["nic"], system.hosts[0].cpu
    counter, hot = AtomicCounter(nic, 0x8000), HotPageWriter(nic, 0x4000, system.values, 1)
    producer = Producer(nvme, 0x10000, 0x11000, system.values)
    tasks = [cocotb.start_soon(counter.run(40)), cocotb.start_soon(hot.run(200)), cocotb.start_soon(producer.run(10))]
    for number in range(1, 11):
        await cpu.poll(0x11000, 4, lambda data, number=number: int.from_bytes(data, "little") == number)
        assert await cpu.load(0x10000, 64) == producer.data
        await cpu.mmio_write(BAR, number.to_bytes(4, "little"))
    for task in tasks:
        await task
    await system.quiesce()
    assert system.hosts[0].memory.read(0x8000, 8) == (40).to_bytes(8, "little")
    await cpu.store(0x20003, b"abcde")
    assert await cpu.load(0x20000, 12) == b"\0\0\0abcde\0\0\0\0"


@cocotb.test(timeout_time=200, timeout_unit="ms")
async def speed(dut):
    """4 KB pages a second of processor time, written and read by the device, with all models."""
    fast = RootComplexConfig(posted=Delay(20, 20), read=Delay(50, 50), gap=Delay(0, 0), cut=0.0)
    granted = PortCredits(CreditConfig(128, 2048), CreditConfig(128, 2048))
    system, _ = make(dut, hosts=(fast, fast), host_credits=granted, device_credits=granted)
    await system.start()
    function, pages, found = system.functions["nvme"], PARAMETERS.get("pages", 100), {}
    for name in ("write", "read"):
        started, begin = time.process_time(), system.cycle
        reads = []
        for page in range(pages):
            if name == "write":
                await function.write(page << 12, system.values.take(0, 4096))
            else:
                reads.append(await function.start_read(page << 12, 4096))
                if len(reads) > 4:
                    await function.finish(reads.pop(0))
        await system.quiesce()
        found[f"{name}_pages_per_second"] = pages / (time.process_time() - started)
        found[f"{name}_cycles_per_page"] = (system.cycle - begin) / pages
    finish(pages, **found)
