# amaranth: UnusedElaboratable=no
"""Interrupts: ``ipsr`` cycle by cycle, wires, and the messages that each rise must bring."""

import pytest
from uncached_memory import UncachedMemory

from pagehop.iommu.interrupts import Interrupts
from pagehop_sim.planted import planted
from pagehop_tb.simulate import run, seeded

CAUSES, BUILT, VECTORS = 4, 0b1011, 4
#: Cycles after which a change of a mask or of a bit has reached what is being sent.
LATE = 60


class Machine:
    def __init__(self, dut, rng):
        self.dut, self.rng = dut, rng
        self.memory = UncachedMemory(dut.memory, rng)
        self.cycle, self.ipsr, self.vectors, self.wires = 0, 0, [0] * CAUSES, 0
        self.table = [(0x1000 * (number + 1) + 4 * number, 0xABC0 + number) for number in range(VECTORS)]
        self.masked, self.level = [None] * VECTORS, 0      # since when
        self.rises, self.sent = [[] for _ in range(VECTORS)], [[] for _ in range(VECTORS)]
        self.refused, self.told = 0, 0

    def of_vectors(self, causes):
        return sum({1 << self.vectors[cause] for cause in range(CAUSES) if causes >> cause & 1})

    async def step(self, ctx, *, clear=0, event=0, vectors=None, table=None):
        """One cycle; ``table`` is (index, word)."""
        dut, rng = self.dut, self.rng
        ctx.set(dut.level, self.level)
        ctx.set(dut.event, event)
        ctx.set(dut.ipsr_write, {"strobe": 15 if clear else 14, "data": clear or 15})
        ctx.set(dut.icvec_write, {"strobe": 0xFF if vectors else 0, "data": sum(v << 4 * at for at, v in enumerate(vectors or ())) | 0xCCCC})
        ctx.set(dut.table_write, {"index": table[0] if table else 1, "strobe": 0xFF if table else 0, "data": table[1] if table else 0})
        ctx.set(dut.fault.ready, rng.random() < 0.3)
        self.memory.before(ctx)
        stores = len(self.memory.stores)
        wired, faulted = ctx.get(dut.wired), ctx.get(dut.fault.valid) and ctx.get(dut.fault.ready)
        if faulted:
            record = ctx.get(dut.fault.payload)
            assert record.cause.value == 273 and record.iotval in {address for address, _ in self.table}
            self.told += 1
        self.memory.after(ctx)
        for address, data, denied in self.memory.stores[stores:]:
            vector = next(at for at, (place, _) in enumerate(self.table) if place == address)
            assert int.from_bytes(data, "little") == self.table[vector][1] and not wired
            assert self.masked[vector] is None or self.cycle - self.masked[vector] < LATE, "a masked message is sent"
            self.sent[vector].append(self.cycle)
            self.refused += denied
        await ctx.tick()
        self.cycle += 1
        assert ctx.get(dut.wires) == (self.of_vectors(self.ipsr) if wired else 0)
        after = (self.ipsr & ~clear) | (self.level | event) & BUILT
        assert ctx.get(dut.ipsr) == after
        if not wired:
            for vector in range(VECTORS):
                if self.of_vectors(after & ~(self.ipsr & ~clear)) >> vector & 1:
                    self.rises[vector].append(self.cycle)
        self.ipsr = after
        if vectors:
            self.vectors = [vector % VECTORS if BUILT >> cause & 1 else 0 for cause, vector in enumerate(vectors)]
        for vector in range(VECTORS):
            assert len(self.sent[vector]) <= len(self.rises[vector]), "a message too many"

    async def mask(self, ctx, vector, masked):
        await self.step(ctx, table=(2 * vector + 1, self.table[vector][1] | masked << 32 | 0xF << 40))
        self.masked[vector] = (self.masked[vector] or self.cycle) if masked else None

    async def quiet(self, ctx):
        """All that was to be sent has been."""
        self.level = 0
        for vector in range(VECTORS):
            await self.mask(ctx, vector, 0)
        for _ in range(3 * LATE):
            await self.step(ctx)
        for rises, sent in zip(self.rises, self.sent, strict=True):
            assert not rises or (sent and sent[-1] > rises[-1]), "a message is missing"
        assert self.told == self.refused

    async def bench(self, ctx):
        rng = self.rng
        for vector, (address, _) in enumerate(self.table):
            await self.step(ctx, table=(2 * vector, address | 3 | 0xFF << 56))
            await self.mask(ctx, vector, 0)
        for turn in range(60):
            ctx.set(self.dut.wired, turn % 4 == 3)
            await self.step(ctx, vectors=[rng.randrange(16) for _ in range(CAUSES)])
            await self.step(ctx)
            for _ in range(rng.choice((20, 60, 200))):
                kind, event = rng.random(), 0
                if kind < 0.05:
                    self.level = rng.randrange(16)
                if kind > 0.9:
                    event = rng.randrange(16)
                if 0.5 < kind < 0.52:
                    await self.mask(ctx, rng.randrange(VECTORS), rng.randrange(2))
                if 0.6 < kind < 0.61:
                    self.memory.denied = {rng.choice(self.table)[0] // 64} if rng.randrange(2) else set()
                await self.step(ctx, clear=rng.choice((0, 0, 0, 1, 2, 3, 8, 9)) if kind < 0.4 else 0, event=event)
            await self.quiet(ctx)
            await self.step(ctx, clear=15)
            await self.step(ctx)


def exercise(dut, name):
    machine = Machine(dut, seeded(name))
    run(dut, machine.bench)
    return machine


def test_every_rise_is_sent_and_nothing_else():
    machine = exercise(Interrupts(VECTORS, causes=BUILT), "interrupts")
    sent, rises = (sum(len(one) for one in kind) for kind in (machine.sent, machine.rises))
    assert 100 < sent < rises and machine.refused > 5, (sent, rises, machine.refused)


@pytest.mark.parametrize("messages", [False, True])
def test_software_reads_the_table_as_it_is(messages):
    dut, rng = Interrupts(VECTORS, messages=messages), seeded("table")

    async def bench(ctx):
        model = [0] * 32
        for _ in range(300):
            index, word, strobe = rng.randrange(32), rng.getrandbits(64), rng.randrange(256)
            ctx.set(dut.table_write, {"index": index, "strobe": strobe, "data": word})
            mask = sum(0xFF << 8 * byte for byte in range(8) if strobe >> byte & 1) & ((1 << 33) - 1 if index % 2 else (1 << 56) - 4)
            if messages and index < 2 * VECTORS:
                model[index] = model[index] & ~mask | word & mask
            await ctx.tick()
            ctx.set(dut.table_write.strobe, 0)
            index = rng.randrange(32)
            ctx.set(dut.table.request.payload.index, index)
            ctx.set(dut.table.request.valid, 1)
            assert ctx.get(dut.table.request.ready)
            await ctx.tick()
            ctx.set(dut.table.request.valid, 0)
            assert ctx.get(dut.table.response.valid) and ctx.get(dut.table.response.payload.data) == model[index]

    run(dut, bench)


def test_there_are_a_power_of_two_of_vectors():
    with pytest.raises(ValueError, match=r"^Interrupts must have 1, 2, 4, 8 or 16 vectors, not 3$"):
        Interrupts(3)


@pytest.mark.parametrize("change", [
    ("lowest(pending & ~masked)", "lowest(pending)"), ("(pending & ~sends) | rises", "pending & ~sends"),
    ("Mux(self.wired, 0, self._of", "Mux(0, 0, self._of"),
    ("pending.eq(pending | rises)", "pending.eq(Mux(masked.any(), 0, rises) | pending)"), ("before.eq(self.ipsr & ~clear)", "before.eq(self.ipsr)"),
    ("(self.ipsr & ~clear) | ((self.level | self.event) & self.causes))", "(self.ipsr | ((self.level | self.event) & self.causes)) & ~clear)"),
    ("Mux(self.ipsr_write.strobe[0], self.ipsr_write.data[:CAUSES], 0)", "self.ipsr_write.data[:CAUSES]"),
    ('m.next = "refused"', 'm.next = "idle"'), ("Mux(address[2], 0xF0, 0x0F)", "0x0F"), ("(1 << ADDRESS_BITS) - 4", "-1"),
    ("odd.eq(0), looks", "looks"),
], ids=["mask", "rise amid a message", "wired", "forgets masked", "risen again", "level", "strobe", "refused", "other half", "address", "data"])
def test_planted_bug_is_found(change):
    with pytest.raises(AssertionError):
        exercise(planted(Interrupts, *change)(VECTORS, causes=BUILT), "interrupts")
