"""Where a TLP goes, at both edges of every range and one bit beside them: to which host, to which address, to the registers, to the device.

All pages are at Host A but one; Host B is the active host. So each of the device's TLPs shows by where it comes out how it was decoded. A host's
TLPs go to the registers, through its aperture, or to the device; what only the active host may send to the device is refused to the other.
"""

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from random import Random
from typing import Any

import cocotb

from pagehop_tb.benches.frame import BenchConfig
from pagehop_tb.benches.three_ports import DEVICE, DEVICE_PORT, HOST_IDS, PAGE, REGISTER_BASES, ThreePorts
from pagehop_tb.driver import interposer_registers as regs
from pagehop_tb.driver.interposer import Setup
from pagehop_tb.protocol import FlowClass, Kind, Tlp, memory_read, memory_write

HOST_A, HOST_B = 0, 1
CPU = 0x0000
ADDRESSES = 1 << 64
REGISTER_SPACE = 1 << 18
#: The tag of the driver's reads, and those of the others.
DRIVER_TAG, TAGS = 1, range(16, 256)
UNSUPPORTED = 1
#: The window below and above 4 GB, with what lies in and beside it. An interrupt range inside the window has priority (H48).
SETUPS = (
    Setup(window_base=0x4000_0000, window_pages=64, host_b_offset=0x12_0000_0000, active_host=HOST_B, msi=(0x4001_0000, 2), mmio=(0xFEE0_0000, 3),
          aperture_a=(0x5000_0000, 5, 0x70_0000_0000), aperture_b=(0x80_0000_0000, 7, -0x7F_0000_0000 % ADDRESSES)),
    Setup(window_base=0x15_0001_0000, window_pages=48, host_b_offset=-0x14_0000_0000 % ADDRESSES, active_host=HOST_B, msi=(0xFEE0_0000, 16),
          mmio=(0x15_0002_0000, 4), aperture_a=(0xFF_FFFF_0000, 16, -0xFF_0000_0000 % ADDRESSES), aperture_b=(0x6000_0000, 1, 0x4000_0000)),
)
#: The page that is brought to Host B.
MOVED = 9


class Edges:
    """One setup. ``expected`` are the TLPs that must come out at each port, in order, each class for itself."""

    def __init__(self, bench: ThreePorts, setup: Setup, random: Random) -> None:
        self.bench, self.setup, self.random = bench, setup, random
        self.ports = bench.ports
        self.expected: list[dict[FlowClass, deque[tuple[int, bytes]]]] = [{flow: deque() for flow in FlowClass} for _ in self.ports]
        self.completions: dict[int, int] = {}   # status by tag, of what the registers answered
        self.compared, self.next_tag = 0, 0
        for number, agent in enumerate(self.ports):
            agent.on_tlp = partial(self._arrived, number, agent.on_tlp)

    def _arrived(self, port: int, usual: Callable[[Tlp], None] | None, tlp: Tlp) -> None:
        if usual is not None and (tlp.tag == DRIVER_TAG if tlp.is_completion else tlp.kind is Kind.MRD and not tlp.first_be):
            usual(tlp)    # the driver's, or a flush read
            return
        if tlp.is_completion:
            self.completions[tlp.tag] = tlp.status
            return
        queue = self.expected[port][tlp.flow]
        assert queue, f"{self.ports[port].name}: {tlp} should have gone elsewhere"
        address, data = queue.popleft()
        found = tlp.address | tlp.processing_hint
        assert (found, tlp.data) == (address, data), f"{self.ports[port].name}: {tlp} came out, {address:#x} {data.hex()} was to come"
        assert tlp.is_message or tlp.four_dw == (address >= 1 << 32), f"{self.ports[port].name}: the header of {tlp} has the wrong size"
        self.compared += 1

    def _tag(self) -> int:
        self.next_tag = (self.next_tag + 1) % len(TAGS)
        return TAGS[self.next_tag]

    @staticmethod
    def _around(base: int, pages: int) -> Iterator[int]:
        """Addresses of double words: at both edges of a range, inside and outside, and all that one bit sets apart from its first and last."""
        end = base + pages * PAGE
        yield from (base - 4, base, end - 4, end)
        for bit in range(2, 64):
            yield from (base ^ 1 << bit, end - 4 ^ 1 << bit)

    # The device

    def of_device(self) -> None:
        """Writes and reads around the window, the interrupt range and the register range of the hosts."""
        setup = self.setup
        for base, pages in ((setup.window_base, setup.window_pages), setup.msi or (0, 0), setup.mmio or (0, 0)):
            for address in self._around(base, pages):
                self._to(address)
        # What goes to Host B gets a header of another form; what stands in the low bits of its address must not get lost.
        for _ in range(24):
            self._to(setup.window_base + MOVED * PAGE + 4 * self.random.randrange(PAGE // 4))

    def _to(self, address: int) -> None:
        host, place = self._place(address)
        self._send(DEVICE_PORT, DEVICE, address, host, place)

    def _place(self, address: int) -> tuple[int, int]:
        setup = self.setup
        inside = self._in(address, (setup.window_base, setup.window_pages)) and not any(
            self._in(address, special) for special in (setup.msi, setup.mmio) if special)
        if not inside:
            return setup.active_host, address
        if (address - setup.window_base) // PAGE == MOVED:
            return HOST_B, (address + setup.host_b_offset) % ADDRESSES
        return HOST_A, address

    @staticmethod
    def _in(address: int, pages: tuple[int, int]) -> bool:
        return 0 <= address - pages[0] < pages[1] * PAGE

    def _send(self, port: int, requester: int, address: int, to: int, place: int) -> None:
        """A write or a read, with a processing hint or without; a read is not answered, which nothing waits for."""
        hint = self.random.randrange(4)     # it stands in the low bits of the address, and stays there when the header changes its form
        if self.random.random() < 0.8:
            data = self.random.randbytes(4)
            self.ports[port].queue(replace(memory_write(requester, address, data), hints=hint > 0, processing_hint=hint))
            self.expected[to][FlowClass.POSTED].append((place | hint, data))
        else:
            self.ports[port].queue(replace(memory_read(requester, address, 4, self._tag()), hints=hint > 0, processing_hint=hint))
            self.expected[to][FlowClass.NON_POSTED].append((place | hint, b""))

    # A host

    def of_host(self, host: int) -> None:
        """Writes around the aperture and the registers, and where the address of a request has what the ID and the tag of our answers are."""
        base, pages, offset = (self.setup.aperture_a if host == HOST_A else self.setup.aperture_b) or (0, 0, 0)
        registers = REGISTER_BASES[host]
        answers = [HOST_IDS[host] << 16 | tag << 8 for tag in (0x00, 0x20, 0x80, 0xA0, 0xC0, 0xE0)]
        for address in (*answers, *self._around(base, pages), *self._around(registers, REGISTER_SPACE // PAGE)):
            if address >> 18 == registers >> 18:
                continue    # a write to the registers shows nowhere
            if self._in(address, (base, pages)):
                self._send(host, CPU, address, 1 - host, (address + offset) % ADDRESSES)
            else:
                self._send(host, CPU, address, DEVICE_PORT, address)

    async def to_registers(self, host: int) -> None:
        """Reads of the first and the last register of the space, which is not implemented, are answered here."""
        for offset, status in ((regs.Identification.offset, 0), (REGISTER_SPACE - 8, UNSUPPORTED)):
            await self._answered(host, memory_read(CPU, REGISTER_BASES[host] + offset, 8, TAGS[0]), status)

    async def _answered(self, host: int, tlp: Tlp, status: int) -> None:
        self.completions.clear()
        self.ports[host].queue(tlp)
        await self.bench.fabric.wait(100)
        assert self.completions == {tlp.tag: status}, f"host {'ab'[host]}: {tlp} was answered with {self.completions}, not with status {status}"
        self.compared += 1

    async def unexpected(self, host: int) -> None:
        """Answers to requests that nobody made, some of them with our ID and a tag that is none of ours, are counted."""
        count = self.bench.driver.counter
        before = await count(regs.Unexpected.offset)
        for requester, tag in ((HOST_IDS[host], 0x105), (HOST_IDS[host], 0x285), (DEVICE, 0x3FF)):
            self.ports[host].queue(Tlp(Kind.CPL, requester, tag, completer_id=CPU, status=UNSUPPORTED, byte_count=4))
        await self.bench.fabric.wait(100)
        found = await count(regs.Unexpected.offset) - before
        assert found == 3, f"{found} completions were counted as unexpected, and there were 3"

    async def of_the_active_host(self, active: int) -> None:
        """Configuration requests and messages: those of the active host reach the device, the others are refused, and counted when posted.

        What is neither, such as an I/O request, reaches it from both.
        """
        message = Tlp(Kind.MSGD, CPU, 0, 0, 1, 0, 0, b"\1\2\3\4", code=0x7E, routing=0b011)
        request, other_kind = Tlp(Kind.CFGRD0, CPU, TAGS[0], 0x0100_0000, 1, 0xF, 0), Tlp(Kind.IORD, CPU, TAGS[1], 0x3F0, 1, 0xF, 0)
        before = await self.bench.driver.counter(regs.Unsupported.offset)
        self.expected[DEVICE_PORT][FlowClass.POSTED].append((message.address, message.data))
        self.expected[DEVICE_PORT][FlowClass.NON_POSTED] += [(tlp.address, b"") for tlp in (request, other_kind, other_kind)]
        for tlp in (message, request, other_kind):
            self.ports[active].queue(tlp)
        await self.bench.fabric.wait(100)
        for tlp in (message, other_kind):
            self.ports[1 - active].queue(tlp)
        await self._answered(1 - active, request, UNSUPPORTED)
        found = await self.bench.driver.counter(regs.Unsupported.offset) - before
        assert found == 2, f"{found} TLPs were counted as unsupported, and there were 2"

    async def arrive(self, what: str) -> None:
        """Everything that was sent comes out."""
        for _ in range(200):
            await self.bench.fabric.wait(20)
            if not any(queue for queues in self.expected for queue in queues.values()):
                return
        missing = [f"{agent.name} {place:#x}" for agent, queues in zip(self.ports, self.expected, strict=True)
                   for queue in queues.values() for place, _ in queue]
        raise AssertionError(f"{what}: {len(missing)} TLPs did not come out, the first at {missing[0]}")


async def _run(dut: Any, number: int) -> None:
    config = BenchConfig("edges")
    config.refuse_unknown()
    bench, setup = ThreePorts(dut, config, delay=10), SETUPS[number]
    await bench.start_settled()
    await bench.driver.setup(setup)
    for page in range(setup.window_pages):
        await bench.bring(page, int(page == MOVED))
    window = range(setup.window_base, setup.window_base + setup.window_pages * PAGE)
    special = next(start for start, _ in filter(None, (setup.msi, setup.mmio)) if start in window)
    refused = await bench.driver.request(special, (special + setup.host_b_offset) % ADDRESSES, 1)
    assert refused.error == regs.MoveError.NOT_IN_WINDOW, f"a page that is no memory was answered with {refused.reason}"
    edges = Edges(bench, setup, config.random(f"edges {number}"))
    edges.of_device()
    await edges.arrive("of the device")
    for host in (HOST_A, HOST_B):
        edges.of_host(host)
        await edges.arrive(f"of host {'ab'[host]}")
        await edges.to_registers(host)
        await edges.unexpected(host)
    for active in (HOST_B, HOST_A):
        await bench.driver.setup(replace(setup, active_host=active))
        await edges.of_the_active_host(active)
        await edges.arrive(f"with host {'ab'[active]} active")
    assert edges.compared > 500, f"only {edges.compared} comparisons"
    config.write({"checked": {"events": edges.compared}, "violations": {}})


@cocotb.test(timeout_time=500, timeout_unit="us")
async def below_4_gb(dut: Any) -> None:
    """The window lies below 4 GB at Host A and above it at Host B."""
    await _run(dut, 0)


@cocotb.test(timeout_time=500, timeout_unit="us")
async def above_4_gb(dut: Any) -> None:
    """The other way round."""
    await _run(dut, 1)
