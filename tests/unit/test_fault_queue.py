# amaranth: UnusedElaboratable=no
"""The fault queue: random records against what section 4.2 says becomes of each."""

import pytest
from uncached_memory import UncachedMemory

from pagehop.iommu.fault_queue import FaultQueue
from pagehop_sim.planted import planted
from pagehop_tb.simulate import run, seeded

BASE = 0x7F_0123_4560 << 12 & ~0xFFFFFF
FQEN, FIE, FQMF, FQOF = 1 << 0, 1 << 1, 1 << 8, 1 << 9


class Machine:
    """Records, software and memory around a queue; counts what became of the records."""
    def __init__(self, dut, rng, latency=None):
        self.dut, self.rng = dut, rng
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
            self.record, self.waited = rng.getrandbits(256), 0
            ctx.set(dut.record.payload.as_value(), self.record)
        ctx.set(dut.record.valid, self.record is not None)
        self.memory.before(ctx)
        before, stores = ctx.get(dut.csr), len(self.memory.stores)
        answered = self.memory.valid
        recorded = ctx.get(dut.recorded)
        self.memory.after(ctx)
        taken = self.record is not None and ctx.get(dut.record.ready)
        stored = self.memory.stores[stores:]
        assert not stored or taken, "a record is written that is still offered"
        await ctx.tick()
        self.cycle += 1
        after = ctx.get(dut.csr)
        if taken:
            self.taken(before, after, stored)
            self.record = None
        elif self.record is not None:
            self.waited += 1
            assert self.waited < 120, "a record waits longer than for one write"
        self.registers(ctx, before, after, answered, recorded)
        if write is not None and write[0] == "head":
            self.head = write[1] % self.size
        assert ctx.get(dut.head) == self.head

    def taken(self, before, after, stored):
        full = (self.tail + 1) % self.size == self.head
        if stored:
            assert before.fqon and not before.fqmf and not before.fqof and not full and self.unacknowledged is None
            address, data, denied = stored[0]
            assert address == BASE + 32 * self.tail and int.from_bytes(data, "little") == self.record
            self.unacknowledged = denied
        elif not before.fqon:
            self.seen["off"] += 1
        elif before.fqmf or before.fqof:
            self.seen["stopped"] += 1
        else:
            assert full and after.fqof, "a record is lost"
            self.seen["overflow"] += 1

    def registers(self, ctx, before, after, answered, recorded):
        tail = ctx.get(self.dut.tail)
        if after.fqon and not before.fqon:
            assert tail == 0 and not after.fqmf and not after.fqof
        elif answered:
            denied, self.unacknowledged = self.unacknowledged, None
            assert tail == (self.tail if denied else (self.tail + 1) % self.size)
            assert (after.fqmf if denied else not after.fqmf) and recorded == (not denied and before.fie)
            self.seen["refused" if denied else "stored"] += 1
            self.seen["wrapped"] += tail < self.tail
        else:
            assert tail == self.tail and not recorded and (not after.fqmf or before.fqmf), "the tail moves by itself"
        if before.fqon and not after.fqon:
            assert not before.fqen and self.unacknowledged is None
        self.tail, self.csr = tail, after

    async def enable(self, ctx, log2):
        await self.step(ctx, ("head", 0))
        self.log2 = log2
        ctx.set(self.dut.base, {"log2sz": log2 - 1, "ppn": BASE >> 12})
        for _ in range(3):
            await self.step(ctx)
        await self.step(ctx, ("head", self.rng.getrandbits(32) << log2 & 0xFFFF_FFFF))
        await self.step(ctx, ("csr", FQEN | FIE))
        for _ in range(3):
            await self.step(ctx)
        assert self.csr.fqon and not self.csr.busy


def exercise(dut, name):
    machine = Machine(dut, seeded(name))
    rng = machine.rng

    async def bench(ctx):
        ctx.set(dut.csr_write.strobe, 0)
        machine.csr = ctx.get(dut.csr)
        for turn in range(8):
            await machine.enable(ctx, (1, 2, 3, 6)[turn % 4])
            for _ in range(700):
                kind, write = rng.random(), None
                if kind < 0.03:
                    used = (machine.tail - machine.head) % machine.size
                    write = "head", (machine.head + rng.randrange(used + 1)) % machine.size | rng.getrandbits(32) << machine.log2 & 0xFFFF_FFFF
                elif kind < 0.05:
                    write = "csr", FQEN | FIE * rng.randrange(2) | rng.choice((0, FQMF, FQOF, FQMF | FQOF))
                    machine.memory.denied.clear()
                elif kind < 0.06:
                    machine.memory.denied.add((BASE + 32 * machine.tail) // 64)
                await machine.step(ctx, write, rng.choice((0.05, 0.8)))
            machine.memory.denied.clear()
            await machine.step(ctx, ("csr", 0))
            for _ in range(150):
                await machine.step(ctx)
            assert not machine.csr.fqon and not machine.csr.busy

    run(dut, bench)
    return machine.seen


def test_every_record_is_written_or_rightly_dropped():
    seen = exercise(FaultQueue(), "faults")
    assert all(count > 5 for count in seen.values()), seen


@pytest.mark.parametrize("latency", [1, 10])
def test_a_record_takes_the_cycles_of_the_documentation(latency):
    dut = FaultQueue()
    machine, left = Machine(dut, seeded("fault cycles"), latency), []

    async def bench(ctx):
        machine.csr = ctx.get(dut.csr)
        await machine.step(ctx, offers=0)
        machine.log2 = 6
        ctx.set(dut.base, {"log2sz": 5, "ppn": BASE >> 12})
        await machine.step(ctx, ("csr", FQEN | FIE), offers=0)
        for _ in range(4):
            await machine.step(ctx, offers=0)
        since = machine.cycle
        while len(left) < 2:
            await machine.step(ctx, offers=1)
            if machine.record is None:
                left.append(machine.cycle - since)

    run(dut, bench)
    assert left == [5, 5 + 5 + latency]


def test_errors_raise_the_interrupt_when_it_is_enabled():
    dut = FaultQueue()

    async def bench(ctx):
        ctx.set(dut.base.log2sz, 0)
        for enabled in (0, 1):
            ctx.set(dut.csr_write, {"strobe": 15, "data": FQEN | FIE * enabled | FQOF})
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
    ("with m.Elif(following == self.head):", "with m.Elif(0):"), ("with m.If(csr.fqmf | csr.fqof):", "with m.If(csr.fqmf):"),
    ("with m.If(csr.fqmf | csr.fqof):", "with m.If(csr.fqof):"), ("with m.If(self.memory.d.payload.denied):", "with m.If(0):"),
    ("following.eq((self.tail + 1) & mask)", "following.eq(self.tail + 1)"), ("m.d.sync += csr.fqof.eq(1)", ""),
    ("self.recorded.eq(csr.fie)", "self.recorded.eq(1)"), ("self.tail.eq(0), csr.fqon", "csr.fqon"),
    ("self.record.ready.eq(ask.ready & beat.all())", "self.record.ready.eq(ask.ready & beat[1])"),
    ("overwritten(self.head, self.head_write) & mask", "overwritten(self.head, self.head_write)"),
    ("csr.fqmf.eq(0), csr.fqof.eq(0)", "csr.fqof.eq(0)"),
], ids=["never full", "written after an overflow", "written after an error", "refused", "no wrap", "silent overflow", "recorded", "tail stays",
        "left too early", "head too far", "error stays"])
def test_planted_bug_is_found(change):
    with pytest.raises(AssertionError):
        exercise(planted(FaultQueue, *change)(), "faults/bug")
