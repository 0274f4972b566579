# amaranth: UnusedElaboratable=no
"""What the walk cache saves, and what it must not keep."""

import pytest

from pagehop.iommu.entry_format import RiscvEntries, VtdEntries
from pagehop.iommu.page_walk import PageWalk
from pagehop.iommu.translator import Translator
from pagehop.iommu.walk_cache import WalkCache
from pagehop_sim.planted import edited
from pagehop_tb.models.iommu import PAGE, Access, AddressSpace, DeviceContext, Directory, DirectoryMode, Mode, TableMemory, VtdEntry, pages_from
from pagehop_tb.models.memory import HostMemory
from pagehop_tb.simulate import run

LATENCY, IOVA, TARGET = 7, 0x12_3440_0000, 0x1_0000_0000


class Bench:
    """A translator, and a memory that answers LATENCY cycles after it was asked."""

    def __init__(self, ctx, dut):
        self.ctx, self.dut, self.reads, self.answers = ctx, dut, 0, []
        self.memory, self.allocate = TableMemory(HostMemory()), pages_from(0x80_0000_0000)
        self.directory = Directory(self.memory, self.allocate, DirectoryMode.ONE_LEVEL)
        self.due = {"table": [], "directory": []}
        ctx.set(dut.directory, {"mode": int(self.directory.mode), "ppn": self.directory.ppn})
        ctx.set(dut.fault.ready, 1)

    def space(self, mode, **how):
        space = AddressSpace(self.memory, self.allocate, mode, **how)
        for number in range(8):
            space.map(IOVA + number * PAGE, TARGET + number * PAGE)
        return space

    async def tick(self):
        ctx, dut = self.ctx, self.dut
        for name, due in self.due.items():
            port = getattr(dut, f"{name}_memory")
            ctx.set(port.a.ready, not due)
            shown = due and due[0][0] <= 0
            ctx.set(port.d.valid, int(bool(shown)))
            if shown:
                ctx.set(port.d.payload, {"data": due[0][1]})
            if shown:
                due.pop(0)
            elif ctx.get(port.a.valid) and not due:
                address, size = ctx.get(port.a.payload.address), 1 << ctx.get(port.a.payload.size)
                self.reads += name == "table"
                data = self.memory.read(address, size)
                due += [[LATENCY, int.from_bytes(data[at:at + 8], "little")] for at in range(0, size, 8)]
            for one in due:
                one[0] -= 1
        if ctx.get(dut.response.valid):
            self.answers.append(ctx.get(dut.response.payload))
        await ctx.tick()

    async def forget(self, contexts=0, redo=0):
        names = ["redo"] if redo else ["invalidate_contexts"] if contexts else ["invalidate_pages"]
        for value in (1, 0):
            for name in names:
                self.ctx.set(getattr(self.dut, name), value)
            if value:
                await self.tick()

    async def ask(self, page=0, *, device=0, access=Access.READ):
        """Let a request be taken; ``answer`` waits for its answer."""
        self.ctx.set(self.dut.request.payload, {"device_id": device, "iova": IOVA + page * PAGE, "access": int(access)})
        self.ctx.set(self.dut.request.valid, 1)
        while not self.ctx.get(self.dut.request.ready):
            await self.tick()
        self.answers.clear()
        await self.tick()
        self.ctx.set(self.dut.request.valid, 0)

    async def answer(self):
        cycles = 0
        while not self.answers:
            await self.tick()
            cycles += 1
            assert cycles < 300
        return cycles, self.answers.pop()

    async def translate(self, page=0, **how):
        """Cycles, entries that were read, the page that was found."""
        reads = self.reads
        await self.ask(page, **how)
        cycles, answer = await self.answer()
        readable = answer.status.value == 0 and answer.translation.readable
        return cycles, self.reads - reads, int(answer.translation.ppn) - (TARGET >> 12) if readable else None


def with_bench(test, change=None, entries=4, format_=RiscvEntries):
    component = edited(Translator, PageWalk=edited(PageWalk, change)) if change else Translator
    dut = component(2, entries=1, ways=1, walk_cache=entries, format_=format_)

    async def bench(ctx):
        await test(Bench(ctx, dut))

    run(dut, bench)


async def latency(bench, first=Mode.SV39, second=Mode.BARE):
    roots = {}
    if first:
        roots |= {"first_mode": first, "first_ppn": bench.space(first).ppn}
    if second:
        roots |= {"second_mode": second, "second_ppn": bench.space(second, second=True).ppn}
    bench.directory.device(0, DeviceContext(**roots))
    levels, more = 3 if Mode.SV39 in (first, second) else 4, 5 if second else 4 if bench.dut.walk_cache else 3
    await bench.translate()
    await bench.forget()
    assert await bench.translate(1) == (levels + more + levels * LATENCY, levels, 1)
    for page in (2, 3, 1):
        cycles, reads, found = await bench.translate(page)
        if bench.dut.walk_cache:
            assert cycles <= 6 + LATENCY and reads == 1 and found == page, f"{cycles} cycles, {reads} reads"
        else:
            assert reads == levels
    await bench.forget(contexts=1)
    assert (await bench.translate(4))[1:] == (levels, 4)
    await bench.forget(redo=1)
    assert (await bench.translate(5))[1:] == (levels, 5)


async def two_stages(bench):
    """The tables of the second stage are known, those of the first are walked."""
    second = AddressSpace(bench.memory, bench.allocate, Mode.SV39, second=True)
    first = AddressSpace(bench.memory, bench.allocate, Mode.SV39, under=second, guest_allocate=pages_from(0x10_0000_0000))
    for number in range(4):
        first.map(IOVA + number * PAGE, 0x20_0000_0000 + number * PAGE)
        second.map(0x20_0000_0000 + number * PAGE, TARGET + number * PAGE)
    bench.directory.device(0, DeviceContext(first_mode=Mode.SV39, first_ppn=first.ppn, second_mode=Mode.SV39, second_ppn=second.ppn))
    # The three tables of the first stage are in one region of the second.
    assert (await bench.translate(0))[1:] == (3 + 3 + 1 + 1 + 3 if bench.dut.walk_cache else 15, 0)
    assert (await bench.translate(1))[1:] == (7 if bench.dut.walk_cache else 15, 1)
    await bench.forget()
    assert (await bench.translate(2))[1:] == (11 if bench.dut.walk_cache else 15, 2)


async def spaces(bench):
    """Two devices with the same address: each with tables of its own, of either stage."""
    for number, (stage, tag) in enumerate((("first", "pscid"), ("first", "pscid"), ("second", "gscid"), ("second", "gscid"))):
        space = AddressSpace(bench.memory, bench.allocate, Mode.SV39, second=stage == "second")
        for page in range(2):
            space.map(IOVA + page * PAGE, TARGET + (16 * number + page) * PAGE)
        bench.directory.device(number, DeviceContext(**{f"{stage}_mode": Mode.SV39, f"{stage}_ppn": space.ppn, tag: number % 2 + 1}))
    for device in range(4):
        await bench.translate(0, device=device)
    for device in range(4):
        assert (await bench.translate(1, device=device))[1:] == (1, 16 * device + 1)


async def regions(bench):
    """More of them than there are entries, and each its own table."""
    space = AddressSpace(bench.memory, bench.allocate, Mode.SV48)
    numbers = [1 << bit for bit in range(9, 36 - 1)]
    for number in (0, *numbers):
        space.map(IOVA ^ number * PAGE if number else IOVA, TARGET + number * PAGE)
    bench.directory.device(0, DeviceContext(first_mode=Mode.SV48, first_ppn=space.ppn))
    for number in numbers:
        assert (await bench.translate(0))[2] == 0
        address = IOVA ^ number * PAGE
        assert (await bench.translate((address - IOVA) // PAGE))[2] == number


async def changes(bench, lead):
    """Another last table is put in, and all is forgotten, ``lead`` cycles after a request."""
    space = bench.space(Mode.SV39)
    bench.directory.device(0, DeviceContext(first_mode=Mode.SV39, first_ppn=space.ppn))
    await bench.translate()
    await bench.forget()
    other = AddressSpace(bench.memory, bench.allocate, Mode.SV39)
    for number in range(4):
        other.map(IOVA + number * PAGE, TARGET + (64 + number) * PAGE)
    await bench.ask(0)
    for _ in range(lead):
        await bench.tick()
    space.write(space.place(IOVA, 1), other.read(other.place(IOVA, 1)))
    await bench.forget()
    if not bench.answers:
        await bench.answer()
    assert (await bench.translate(1))[2] == 65, f"an old table after {lead} cycles"


async def every_change(bench):
    for lead in range(0, 45):
        await changes(bench, lead)
        await bench.forget(contexts=1)


async def permissions(bench):
    """A pointer that lets nobody write: neither by the walk that reads it nor by those that do not."""
    space = AddressSpace(bench.memory, pages_from(0x90_0000_0000), Mode.SV39, entries=VtdEntry)
    for number in range(4):
        space.map(IOVA + number * PAGE, TARGET + number * PAGE)
    pointer = space.place(IOVA, 1)
    for keep in (1, 2):
        space.write(pointer, VtdEntry.of(int.from_bytes(space.read(pointer).pack(), "little") & ~3 | keep))
        bench.directory.device(0, DeviceContext(second_mode=Mode.SV39, second_ppn=space.ppn))
        await bench.forget()
        for page in range(4):
            access = (Access.READ, Access.WRITE)[page % 2]
            await bench.ask(page, access=access)
            _, answer = await bench.answer()
            assert (answer.status.value == 0) == (page % 2 == keep - 1), f"page {page} of a region with {keep}"


EXERCISES = {
    "Sv39": latency, "Sv48": lambda bench: latency(bench, Mode.SV48), "Sv39x4": lambda bench: latency(bench, Mode.BARE, Mode.SV39),
    "Sv48x4": lambda bench: latency(bench, Mode.BARE, Mode.SV48), "two stages": two_stages, "spaces": spaces, "regions": regions,
    "changes": every_change,
}


@pytest.mark.parametrize("name", EXERCISES)
def test_walk_cache(name):
    with_bench(EXERCISES[name])


@pytest.mark.parametrize("name", ["Sv39", "Sv39x4", "two stages"])
def test_without(name):
    with_bench(EXERCISES[name], entries=0)


def test_pointers_take_permissions_away():
    with_bench(permissions, format_=VtdEntries)


@pytest.mark.parametrize(("change", "test", "format_"), [
    (("cache.invalidate.eq(self.invalidate)", "cache.invalidate.eq(0)"), every_change, RiscvEntries),
    (("& self.keeps &", "&"), every_change, RiscvEntries),
    (("Mux(second, 0, context.pscid)", "0"), spaces, RiscvEntries), (("Mux(second, context.gscid, 0)", "0"), spaces, RiscvEntries),
    (("cache.filled.writable.eq(info.writable & self._writable)", "cache.filled.writable.eq(1)"), permissions, VtdEntries),
    (("self._readable.eq(table.readable)", "self._readable.eq(1)"), permissions, VtdEntries),
    (("(self._level == 1)", "(self._level == 2)"), EXERCISES["Sv48"], RiscvEntries),
    (("[LEVEL_BITS:VPN_BITS]", "[LEVEL_BITS:VPN_BITS - 4]"), regions, RiscvEntries),
], ids=["not forgotten", "stale", "first stage", "second stage", "may write", "may read", "level", "region"])
def test_planted_bug_is_found(change, test, format_):
    with pytest.raises(AssertionError):
        with_bench(test, change, format_=format_)


def test_sizes():
    with pytest.raises(ValueError, match="power of two"):
        WalkCache(3)
