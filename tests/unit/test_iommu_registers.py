# amaranth: UnusedElaboratable=no
"""What software sees of the IOMMU through its registers: values after reset, what cannot be written, and the queues and interrupts behind them."""

import pytest
from uncached_memory import UncachedMemory

from pagehop.iommu.control import IommuControl
from pagehop.iommu.layouts import Cause
from pagehop_sim.planted import planted
from pagehop_tb.simulate import run, seeded

CAPABILITIES, FCTL, DDTP, CQB, CQH, CQT, FQB, FQH, FQT = 0x00, 0x08, 0x10, 0x18, 0x20, 0x24, 0x28, 0x30, 0x34
CQCSR, FQCSR, IPSR, ICVEC, MSI = 0x48, 0x4C, 0x54, 0x2F8, 0x300
PQB, PQH, PQT, PQCSR, ATS_DEVICE, ATS_TIMEOUT, ATS_STATUS = 0x38, 0x40, 0x44, 0x50, 0x2B0, 0x2C0, 0x2C8
DRAIN_LIMIT = 0x2F0
EN, IE, ON, BUSY, WSI, IO_CIP, IO_FIP, IO_PIP = 1, 2, 1 << 16, 1 << 17, 2, 1, 2, 8
QUEUE, RECORDS, MESSAGE = 0x8000_0000, 0x9000_0000, 0xFEE0_0004


class Software:
    """Accesses of 4 and 8 bytes to the registers, with memories that go on meanwhile."""
    def __init__(self, ctx, dut, name):
        self.ctx, self.dut = ctx, dut
        rng = seeded(name)
        self.memories = {name: UncachedMemory(getattr(dut, f"{name}_memory"), rng)
                         for name in ("command", "fault", "message", "context", "page") if hasattr(dut, f"{name}_memory")}
        self.forgotten = []

    async def tick(self, count=1):
        for _ in range(count):
            for memory in self.memories.values():
                memory.before(self.ctx)
            for memory in self.memories.values():
                memory.after(self.ctx)
            if self.ctx.get(self.dut.invalidate_contexts):
                self.forgotten.append(self.ctx.get(self.dut.device_named))
            await self.ctx.tick()

    async def request(self, offset, size, write, value=0):
        ctx, bus = self.ctx, self.dut.bus
        shift = 8 * (offset % 8)
        ctx.set(bus.request.payload, {"address": offset - offset % 8, "write": write, "data": value << shift,
                                      "strobe": (1 << size) - 1 << offset % 8})
        ctx.set(bus.request.valid, 1)
        while not ctx.get(bus.request.ready):
            await self.tick()
        await self.tick()
        ctx.set(bus.request.valid, 0)

    async def write(self, offset, value, size=4):
        await self.request(offset, size, 1, value)

    async def read(self, offset, size=4):
        ctx, response = self.ctx, self.dut.bus.response
        await self.request(offset, size, 0)
        while not ctx.get(response.valid):
            await self.tick()
        assert not ctx.get(response.payload.error)
        value = ctx.get(response.payload.data) >> 8 * (offset % 8) & (1 << 8 * size) - 1
        ctx.set(response.ready, 1)
        await self.tick()
        ctx.set(response.ready, 0)
        return value

    async def until(self, offset, mask, value):
        for _ in range(60):
            if await self.read(offset) & mask == value:
                return
        raise AssertionError(f"register {offset:#x} does not become {value:#x}")


def with_software(dut, test, name="software"):
    async def bench(ctx):
        await test(Software(ctx, dut, name))

    run(dut, bench)


async def reset_values(software, messages, ats=False):
    # Version 1.0; Sv39, Sv48, Sv39x4, Sv48x4; A and D; ATS; both kinds of interrupts, or wires; 56 bits.
    expected = 0x10 | 3 << 9 | 3 << 17 | 1 << 24 | ats << 25 | (2 if messages else 1) << 28 | 56 << 32
    assert await software.read(CAPABILITIES, 8) == expected
    assert await software.read(FCTL) == (0 if messages else WSI)
    for offset in range(DDTP, 0x400, 8):
        limits = {DRAIN_LIMIT: 2_500_000, **({ATS_TIMEOUT: 90 * 250_000_000} if ats else {})}
        assert await software.read(offset, 8) == limits.get(offset, 0), f"{offset:#x}"
    assert await software.read(0xFF8, 8) == 0


async def what_cannot_be_written(software):
    for mode in range(16):
        before = await software.read(DDTP, 8) & 15
        await software.write(DDTP, (1 << 64) - 16 | mode, 8)
        assert await software.read(DDTP, 8) & ~(1 << 4) == ((1 << 44) - 1 << 10 | (mode if mode <= 3 else before))
    # 8 bytes may come as two halves, the higher one first.
    await software.write(DDTP + 4, 0x2A_BCDE)
    await software.write(DDTP, 0xF000_0000 | 2)
    assert await software.read(DDTP, 8) & ~16 == 0x2A_BCDE_F000_0002
    for base in (CQB, FQB):
        await software.write(base, 0x1F, 8)
        assert await software.read(base, 8) == 0xF
        await software.write(base, (1 << 64) - 1 & ~0x1F | 2, 8)
        assert await software.read(base, 8) == (1 << 44) - 1 << 10 | 2
    for offset, kept in ((CQT, 7), (FQH, 7), (CQH, 0), (FQT, 0), (0x0C, 0), (0x258, 0), (PQB, 0), (PQH, 0), (PQCSR, 0), (0x2B0, 0), (ATS_STATUS, 0)):
        await software.write(offset, 0xFFFF_FFFF)
        assert await software.read(offset) == kept, f"{offset:#x}"
    await software.write(FCTL, 0xFFFF_FFFF)
    assert await software.read(FCTL) == 0, "changed while the directory is not off"
    await software.write(DDTP, 0)
    await software.write(FCTL, 0xFFFF_FFFF)
    assert await software.read(FCTL) == WSI
    await software.write(ICVEC, (1 << 64) - 1, 8)
    assert await software.read(ICVEC, 8) == 0x11
    await software.write(MSI, (1 << 64) - 1, 8)
    await software.write(MSI + 8, (1 << 64) - 1, 8)
    assert await software.read(MSI, 8) == (1 << 56) - 4 and await software.read(MSI + 8, 8) == (1 << 33) - 1
    await software.write(CQCSR, EN)
    await software.until(CQCSR, ON | BUSY, ON)
    await software.write(FCTL, 0)
    assert await software.read(FCTL) == WSI, "changed while a queue is on"


async def directory_forgets(software):
    ctx = software.ctx
    ctx.set(software.dut.stale, 1)
    await software.write(DDTP, 0x123 << 10 | 3, 8)
    await software.tick(40)
    assert software.forgotten == [0] and await software.read(DDTP) & 16
    assert ctx.get(software.dut.directory.mode).value == 3 and ctx.get(software.dut.directory.ppn) == 0x123
    ctx.set(software.dut.stale, 0)
    assert await software.read(DDTP, 8) == 0x123 << 10 | 3


async def queues_on(software, *, wired):
    await software.write(FCTL, WSI * wired)
    await software.write(ICVEC, 0x01, 8)        # commands: vector 1; faults: vector 0
    for vector in range(2):
        await software.write(MSI + 16 * vector, MESSAGE + 8 * vector, 8)
        await software.write(MSI + 16 * vector + 8, 0xAA00 + vector, 8)
    for base, place, csr in ((CQB, QUEUE, CQCSR), (FQB, RECORDS, FQCSR)):
        await software.write(base, place >> 2 | 1, 8)
        await software.write(csr, EN | IE)
        await software.until(csr, ON | BUSY, ON)


async def commands_and_faults(software, wired):
    ctx, dut, memory = software.ctx, software.dut, software.memories
    await queues_on(software, wired=wired)
    commands = [(3, 0), (2 | 1 << 10 | (1 << 11 if wired else 0) | 0x55AA << 32, 0x4000 >> 2), (7, 0)]
    for index, halves in enumerate(commands):
        for half in range(2):
            memory["command"].words[QUEUE // 8 + 2 * index + half] = halves[half]
    await software.write(CQT, 2)
    await software.until(CQH, ~0, 2)
    assert memory["command"].stores == [(0x4000, 0x55AA.to_bytes(4, "little"), False)] and software.forgotten == [0]
    assert await software.read(CQCSR) == EN | IE | ON | wired << 11
    assert await software.read(IPSR) == wired
    await software.write(CQT, 3)
    await software.until(CQCSR, 1 << 10, 1 << 10)
    assert await software.read(CQH) == 2 and await software.read(IPSR) == IO_CIP
    await software.write(IPSR, IO_CIP)
    assert await software.read(IPSR) == IO_CIP, "the condition is still there"
    await software.write(CQT, 2)
    await software.write(CQCSR, EN | IE | 0xF00)
    await software.write(IPSR, IO_CIP)
    assert await software.read(IPSR) == 0 and await software.read(CQCSR) == EN | IE | ON
    ctx.set(dut.fault.payload, {"cause": Cause.READ_PAGE_FAULT, "device_id": 0x77, "iotval": 0x1234_5000})
    ctx.set(dut.fault.valid, 1)
    while not ctx.get(dut.fault.ready):
        await software.tick()
    await software.tick()
    ctx.set(dut.fault.valid, 0)
    await software.until(FQT, ~0, 1)
    assert await software.read(IPSR) == IO_FIP and memory["fault"].stores[0][0] == RECORDS
    assert memory["fault"].stores[0][1][:8] == (13 | 0x77 << 40).to_bytes(8, "little")
    await software.tick(60)
    assert ctx.get(dut.wires) == wired
    sent = [(address, int.from_bytes(data, "little")) for address, data, _ in memory["message"].stores]
    # The command queue's bit rose, and once more when it was cleared under its condition.
    assert sent == ([] if wired else [(MESSAGE + 8, 0xAA01)] * 2 + [(MESSAGE, 0xAA00)])


async def refused_message(software):
    await queues_on(software, wired=0)
    software.memories["message"].denied.add(MESSAGE // 64)
    software.memories["command"].words[QUEUE // 8] = 0
    await software.write(CQT, 1)
    await software.until(FQT, ~0, 1)
    record = int.from_bytes(software.memories["fault"].stores[0][1], "little")
    assert record == 273 | MESSAGE + 8 << 128


async def stream_offers(software, port, payload):
    """Offer on a stream until it is taken."""
    ctx = software.ctx
    ctx.set(port.payload, payload)
    ctx.set(port.valid, 1)
    for _ in range(600):
        if ctx.get(port.ready):
            break
        await software.tick()
    else:
        raise AssertionError("what is offered is never taken")
    await software.tick()
    ctx.set(port.valid, 0)


async def stream_brings(software, port):
    """What comes next on a stream."""
    ctx = software.ctx
    ctx.set(port.ready, 1)
    for _ in range(600):
        if ctx.get(port.valid):
            break
        await software.tick()
    else:
        raise AssertionError("nothing comes")
    payload = ctx.get(port.payload)
    await software.tick()
    ctx.set(port.ready, 0)
    return payload


async def ats_commands(software):
    """ATS.INVAL, ATS.PRGR and a fence that waits for their ends; then an ATS.INVAL that nobody answers."""
    dut, memory = software.dut, software.memories["command"]
    await queues_on(software, wired=1)
    await software.write(CQB, QUEUE >> 2 | 3, 8)
    commands = [(4 | 0x123 << 12 | 1 << 32 | 0x77 << 40, 0x5000 | 1), (4 | 1 << 7 | 0x78 << 40, 0x1AB << 32 | 15 << 44),
                (2 | 1 << 10, 0x4000 >> 2), (4 | 0x77 << 40, 0x6000), (2, 0)]
    for index, halves in enumerate(commands):
        memory.words |= {QUEUE // 8 + 2 * index + half: halves[half] for half in range(2)}
    await software.write(CQT, 3)
    request = await stream_brings(software, dut.invalidations)
    assert (request.requester_id, request.payload, request.process_valid, request.process) == (0x77, 0x5001, 1, 0x123)
    response = await stream_brings(software, dut.responses)
    assert (response.requester_id, response.group, response.code, response.process_valid) == (0x78, 0x1AB, 15, 0)
    await software.tick(100)
    assert await software.read(CQH) == 2, "the fence does not wait"
    await stream_offers(software, dut.completions, {"requester_id": 0x78, "itags": 1 << request.itag, "count": 1})
    await stream_offers(software, dut.completions, {"requester_id": 0x77, "itags": 1 << request.itag, "count": 1})
    await software.until(CQH, ~0, 3)
    assert await software.read(ATS_STATUS, 8) == 1 << 16
    await software.write(ATS_TIMEOUT, 100, 8)
    assert await software.read(ATS_TIMEOUT, 8) == 100
    await software.write(CQT, 5)
    request = await stream_brings(software, dut.invalidations)
    await software.until(CQCSR, 1 << 9, 1 << 9)
    assert await software.read(CQH) == 4 and await software.read(ATS_STATUS, 8) == 1 << 16 | 1 << 32 + request.itag
    await software.write(ATS_STATUS + 4, 0xFF ^ 1 << request.itag)
    await software.write(ATS_STATUS, 0xFF << 32)
    assert await software.read(ATS_STATUS + 4) == 1 << request.itag
    await software.write(ATS_STATUS + 4, 1 << request.itag)
    assert await software.read(ATS_STATUS + 4) == 0


async def ats_round(software):
    """The table of devices: who is asked in a round, and who is quarantined when it does not answer."""
    ctx, dut = software.ctx, software.dut
    for number, (requester_id, gscid) in enumerate([(0x10, 5), (0x20, 6), (0x30, 5), (0x40, 5)]):
        await software.write(ATS_DEVICE + 4 * number, requester_id | gscid << 16)
    await software.write(ATS_STATUS, 0b0111)
    await software.write(ATS_TIMEOUT, 200, 8)
    await software.tick(8)
    ctx.set(dut.round.payload, {"gscid": 5, "payload": 0x7000})
    ctx.set(dut.round.valid, 1)
    asked = [await stream_brings(software, dut.invalidations) for _ in range(2)]
    assert [one.requester_id for one in asked] == [0x10, 0x30]
    await stream_offers(software, dut.completions, {"requester_id": 0x10, "itags": 1 << asked[0].itag, "count": 1})
    while not ctx.get(dut.round.ready):
        await software.tick()
    assert ctx.get(dut.round_failed)
    await software.tick()
    ctx.set(dut.round.valid, 0)
    assert await software.read(ATS_STATUS) == 0b0100_0111
    await software.write(ATS_STATUS, 0b1011_0111)
    assert await software.read(ATS_STATUS) == 0b0100_0111
    await software.write(ATS_STATUS, 0b0100_1011)
    assert await software.read(ATS_STATUS) == 0b0000_1011


async def page_requests(software):
    """A page request is queued and tells software; when the queue is full it is answered; without a context it is a fault as well."""
    dut, memory = software.dut, software.memories
    await queues_on(software, wired=1)
    await software.write(ICVEC, 0x1000, 8)
    assert await software.read(ICVEC, 8) == 0x1000
    await software.write(PQB, 0xA000_0000 >> 2, 8)
    await software.write(PQCSR, EN | IE)
    await software.until(PQCSR, ON | BUSY, ON)
    memory["context"].words |= {0x20_0000 // 8 + at: 0 for at in range(512)}
    memory["context"].words[(0x20_0000 + 32 * 7) // 8] = 0b111
    await software.write(DDTP, 0x200 << 10 | 2, 8)
    await software.tick(8)
    await stream_offers(software, dut.page_requests, {"requester_id": 7, "payload": 0x1234_5007})
    await software.until(PQT, ~0, 1)
    assert memory["page"].stores == [(0xA000_0000, (7 << 40 | 0x1234_5007 << 64).to_bytes(16, "little"), False)]
    await software.tick(10)
    assert await software.read(IPSR) == IO_PIP and software.ctx.get(dut.wires) == 2
    await stream_offers(software, dut.page_requests, {"requester_id": 7, "payload": 0x1234_500F})
    response = await stream_brings(software, dut.responses)
    assert (response.requester_id, response.group, response.code) == (7, 1, 0)
    await software.until(PQCSR, 1 << 9, 1 << 9)
    await stream_offers(software, dut.page_requests, {"requester_id": 8, "payload": 0x1234_501F})
    response = await stream_brings(software, dut.responses)
    assert (response.requester_id, response.group, response.code) == (8, 3, 15)
    await software.until(FQT, ~0, 1)
    assert memory["fault"].stores[0][1][:8] == (258 | 9 << 34 | 8 << 40).to_bytes(8, "little")


async def page_request_stale(software):
    """A change of the directory is over when no page request uses the old one."""
    await software.write(DDTP, 0x200 << 10 | 2, 8)
    software.memories["context"].latency = 200
    await software.tick(8)
    await stream_offers(software, software.dut.page_requests, {"requester_id": 7, "payload": 0x1234_5007})
    await software.write(DDTP, 0x200 << 10 | 2, 8)
    await software.tick(60)
    assert await software.read(DDTP) & 16, "the old directory is still in use"
    await software.until(DDTP, 16, 0)


@pytest.mark.parametrize("test", [ats_commands, ats_round, page_requests, page_request_stale])
def test_software_uses_ats(test):
    with_software(IommuControl(ats=True), test)


def test_values_after_reset():
    with_software(IommuControl(ats=True), lambda software: reset_values(software, True, True))
    with_software(IommuControl(), lambda software: reset_values(software, True))
    with_software(IommuControl(messages=False), lambda software: reset_values(software, False))


def test_reserved_bits_and_unsupported_values_are_not_kept():
    with_software(IommuControl(), what_cannot_be_written)


def test_what_the_old_directory_said_is_forgotten():
    with_software(IommuControl(), directory_forgets)


@pytest.mark.parametrize("wired", [0, 1], ids=["messages", "wires"])
def test_software_gives_commands_and_gets_faults_and_interrupts(wired):
    with_software(IommuControl(), lambda software: commands_and_faults(software, wired))


def test_a_refused_message_is_a_fault():
    with_software(IommuControl(), refused_message)


@pytest.mark.parametrize(("change", "test"), [
    (("mode <= DirectoryMode.TWO_LEVEL.value", "1"), what_cannot_be_written), (("& ~self.commands.csr.cqon", ""), what_cannot_be_written),
    (("(self.directory.mode == DirectoryMode.OFF) &", ""), what_cannot_be_written), (("commands.device_named & ~changed", "1"), directory_forgets),
    (("changed | (busy & self._stale)", "changed"), directory_forgets),
    (("commands.invalidate_contexts | changed", "commands.invalidate_contexts"), directory_forgets),
    (("interrupts.event.eq(Cat(0, faults.recorded,", "interrupts.event.eq(Cat(0, 0,"), lambda software: commands_and_faults(software, 1)),
    (("other.valid & ~own", "0"), refused_message),
], ids=["mode", "settings of a queue", "settings of a directory", "named", "busy", "kept", "record", "turn"])
def test_planted_bug_is_found(change, test):
    with pytest.raises(AssertionError):
        with_software(planted(IommuControl, *change)(), test)


@pytest.mark.parametrize(("change", "test"), [
    (("Mux(low, write.data[4:], 0)", "write.data[4:]"), ats_round), (("write.data[32:] & high", "write.data[32:]"), ats_commands),
    (("self._stale.eq(self.stale | self.requests.stale)", "self._stale.eq(self.stale)"), page_request_stale),
    (("device.valid.eq(valid[number])", "device.valid.eq(1)"), ats_round), (("pages.recorded if pages else 0", "0"), page_requests),
    (("source.ready.eq(served)", "source.ready.eq(0)"), page_requests),
    (("requests.fate.eq(self.page_queue.fate)", "requests.fate.eq(0)"), page_requests),
    (("[self.requests.fault] if self.ats_built", "[] if self.ats_built"), page_requests),
], ids=["devices released", "tags released", "stale", "valid", "interrupt", "responses", "fate", "faults"])
def test_planted_bug_of_ats_is_found(change, test):
    with pytest.raises(AssertionError):
        with_software(planted(IommuControl, *change)(ats=True), test)
