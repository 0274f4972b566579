# amaranth: UnusedElaboratable=no
"""The queues of faults and of page requests: random records against what sections 4.2 and 4.3 say becomes of each."""

import pytest
from amaranth.lib import data
from uncached_memory import UncachedMemory

from pagehop.iommu.layouts import FaultRecord, PageRecord
from pagehop.iommu.record_queue import RecordQueue
from pagehop_sim.planted import planted
from pagehop_tb.simulate import run, seeded

BASE = 0x7F_0123_4560 << 12 & ~0xFFFFFF
QEN, IE, QMF, QOF = 1 << 0, 1 << 1, 1 << 8, 1 << 9
QUEUES = {"f": FaultRecord, "p": PageRecord}


class Csr:
    """``fqcsr`` or ``pqcsr`` as it is now, its names without the letter."""
    def __init__(self, ctx, dut):
        for name in ("qen", "qmf", "qof", "qon", "ie"):
            setattr(self, name, ctx.get(dut.csr[dut.letter + name]))
        self.busy = ctx.get(dut.csr.busy)


def queue(letter, kind=RecordQueue):
    return kind(QUEUES[letter], letter)


class Machine:
    """Records, software and memory around a queue; counts what became of the records."""
    def __init__(self, dut, rng, latency=None):
        self.dut, self.rng, self.bytes = dut, rng, len(dut.record.payload.as_value()) // 8
        self.memory = UncachedMemory(dut.memory, rng, latency)
        self.record, self.waited, self.cycle = None, 0, 0
        self.log2, self.head, self.tail, self.unacknowledged, self.interrupts = 1, 0, 0, None, True
        self.seen = dict.fromkeys(("stored", "refused", "overflow", "off", "stopped", "wrapped"), 0)

    @property
    def size(self):
        return 1 << self.log2

    async def step(self, ctx, write=None, offers=0.2):
        dut, rng = self.dut, self.rng
        for name in ("head", "csr"):
            port, hit = getattr(dut, f"{name}_write"), write is not None and write[0] == name
            ctx.set(port.strobe, 0xF if hit else 0)
            ctx.set(port.data, write[1] if hit else rng.getrandbits(32))
        if self.record is None and rng.random() < offers:
            self.record, self.waited = rng.getrandbits(8 * self.bytes), 0
            ctx.set(dut.record.payload.as_value(), self.record)
        ctx.set(dut.record.valid, self.record is not None)
        self.memory.before(ctx)
        before, stores = Csr(ctx, dut), len(self.memory.stores)
        answered = self.memory.valid
        recorded = ctx.get(dut.recorded)
        fate = ctx.get(dut.fate).name
        self.memory.after(ctx)
        taken = self.record is not None and ctx.get(dut.record.ready)
        stored = self.memory.stores[stores:]
        assert not stored or taken, "a record is written that is still offered"
        await ctx.tick()
        self.cycle += 1
        after = Csr(ctx, dut)
        if taken:
            self.taken(before, after, stored, fate)
            self.record = None
        else:
            assert fate == ("NONE" if not answered else "LOST" if self.unacknowledged else "STORED")
            self.waited += 1
            assert self.record is None or self.waited < 120, "a record waits longer than for one write"
        self.registers(ctx, before, after, answered, recorded)
        if write is not None and write[0] == "head":
            self.head = write[1] % self.size
        assert ctx.get(dut.head) == self.head

    def taken(self, before, after, stored, fate):
        full = (self.tail + 1) % self.size == self.head
        if stored:
            assert before.qon and not before.qmf and not before.qof and not full and self.unacknowledged is None
            address, data, denied = stored[0]
            assert address == BASE + self.bytes * self.tail and int.from_bytes(data, "little") == self.record
            self.unacknowledged = denied
            assert fate == "NONE"
        elif not before.qon:
            self.seen["off"] += 1
            assert fate == "LOST"
        elif before.qmf or before.qof:
            self.seen["stopped"] += 1
            assert fate == ("LOST" if before.qmf else "OVERFLOW")
        else:
            assert full and after.qof and fate == "OVERFLOW", "a record is lost"
            self.seen["overflow"] += 1

    def registers(self, ctx, before, after, answered, recorded):
        tail = ctx.get(self.dut.tail)
        if after.qon and not before.qon:
            assert tail == 0 and not after.qmf and not after.qof
        elif answered:
            denied, self.unacknowledged = self.unacknowledged, None
            assert tail == (self.tail if denied else (self.tail + 1) % self.size)
            assert (after.qmf if denied else not after.qmf) and recorded == (not denied and before.ie)
            self.seen["refused" if denied else "stored"] += 1
            self.seen["wrapped"] += tail < self.tail
        else:
            assert tail == self.tail and not recorded and (not after.qmf or before.qmf), "the tail moves by itself"
        if before.qon and not after.qon:
            assert not before.qen and self.unacknowledged is None
        self.tail, self.csr = tail, after

    async def enable(self, ctx, log2):
        await self.step(ctx, ("head", 0))
        self.log2 = log2
        ctx.set(self.dut.base, {"log2sz": log2 - 1, "ppn": BASE >> 12})
        for _ in range(3):
            await self.step(ctx)
        await self.step(ctx, ("head", self.rng.getrandbits(32) << log2 & 0xFFFF_FFFF))
        await self.step(ctx, ("csr", QEN | IE))
        for _ in range(3):
            await self.step(ctx)
        assert self.csr.qon and not self.csr.busy


def exercise(dut, name):
    machine = Machine(dut, seeded(name))
    rng = machine.rng

    async def bench(ctx):
        ctx.set(dut.csr_write.strobe, 0)
        machine.csr = Csr(ctx, dut)
        for turn in range(8):
            await machine.enable(ctx, (1, 2, 3, 6)[turn % 4])
            for _ in range(700):
                kind, write = rng.random(), None
                if kind < 0.03:
                    used = (machine.tail - machine.head) % machine.size
                    write = "head", (machine.head + rng.randrange(used + 1)) % machine.size | rng.getrandbits(32) << machine.log2 & 0xFFFF_FFFF
                elif kind < 0.05:
                    write = "csr", QEN | IE * rng.randrange(2) | rng.choice((0, QMF, QOF, QMF | QOF))
                    machine.memory.denied.clear()
                elif kind < 0.06:
                    machine.memory.denied.add((BASE + machine.bytes * machine.tail) // 64)
                await machine.step(ctx, write, rng.choice((0.05, 0.8)))
            machine.memory.denied.clear()
            await machine.step(ctx, ("csr", 0))
            for _ in range(150):
                await machine.step(ctx)
            assert not machine.csr.qon and not machine.csr.busy

    run(dut, bench)
    return machine.seen


@pytest.mark.parametrize("letter", QUEUES)
def test_every_record_is_written_or_rightly_dropped(letter):
    seen = exercise(queue(letter), f"records/{letter}")
    assert all(count > 5 for count in seen.values()), seen


@pytest.mark.parametrize(("letter", "latency", "beats"), [("f", 1, 4), ("f", 10, 4), ("p", 1, 2), ("p", 10, 2)])
def test_a_record_takes_the_cycles_of_the_documentation(letter, latency, beats):
    dut = queue(letter)
    machine, left = Machine(dut, seeded("record cycles"), latency), []

    async def bench(ctx):
        machine.csr = Csr(ctx, dut)
        await machine.step(ctx, offers=0)
        machine.log2 = 6
        ctx.set(dut.base, {"log2sz": 5, "ppn": BASE >> 12})
        await machine.step(ctx, ("csr", QEN | IE), offers=0)
        for _ in range(4):
            await machine.step(ctx, offers=0)
        since = machine.cycle
        while len(left) < 2:
            await machine.step(ctx, offers=1)
            if machine.record is None:
                left.append(machine.cycle - since)

    run(dut, bench)
    assert left == [beats + 1, 2 * (beats + 1) + latency]


def test_errors_raise_the_interrupt_when_it_is_enabled():
    dut = queue("f")

    async def bench(ctx):
        ctx.set(dut.base.log2sz, 0)
        for enabled in (0, 1):
            ctx.set(dut.csr_write, {"strobe": 15, "data": QEN | IE * enabled | QOF})
            await ctx.tick()
            ctx.set(dut.csr_write.strobe, 0)
            ctx.set(dut.record.valid, 1)
            ctx.set(dut.memory.a.ready, 1)
            ctx.set(dut.memory.d.valid, 1)
            for _ in range(24):
                await ctx.tick()
            assert ctx.get(dut.csr.fqof) and ctx.get(dut.interrupt) == enabled
            ctx.set(dut.record.valid, 0)

    run(dut, bench)


@pytest.mark.parametrize("change", [
    ("with m.Elif(following == self.head):", "with m.Elif(0):"), ("with m.Elif(overflow):", "with m.Elif(0):"),
    ("with m.Elif(refused):", "with m.Elif(0):"), ("with m.If(self.memory.d.payload.denied):", "with m.If(0):"),
    ("following.eq((self.tail + 1) & mask)", "following.eq(self.tail + 1)"), ("m.d.sync += overflow.eq(1)", "pass"),
    ("self.recorded.eq(interrupts)", "self.recorded.eq(1)"), ("self.tail.eq(0), on", "on"),
    ("self.record.ready.eq(ask.ready & beat.all())", "self.record.ready.eq(ask.ready & beat[0])"),
    ("overwritten(self.head, self.head_write) & mask", "overwritten(self.head, self.head_write)"),
    ("refused.eq(0), overflow.eq(0)", "overflow.eq(0)"), ("self.fate.eq(Fate.LOST)", "self.fate.eq(Fate.STORED)"),
], ids=["never full", "written after an overflow", "written after an error", "refused", "no wrap", "silent overflow", "recorded", "tail stays",
        "left too early", "head too far", "error stays", "fate of a refused one"])
def test_planted_bug_is_found(change):
    with pytest.raises(AssertionError):
        exercise(queue("f", planted(RecordQueue, *change)), "records/bug")


def test_records_have_16_or_32_bytes():
    with pytest.raises(ValueError, match=r"^Records of a queue must have 16 or 32 bytes, not 64 bits$"):
        RecordQueue(data.StructLayout({"word": 64}), "f")
