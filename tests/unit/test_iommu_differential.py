"""The hardware's translation against the IOMMU in software: random machines, spoilt tables, changes under way, invalidations."""

import os
from dataclasses import replace
from functools import partial
from itertools import count

import pytest

from pagehop.iommu import layouts
from pagehop.iommu.iotlb import Iotlb
from pagehop.iommu.keyed_cache import KeyedCache
from pagehop.iommu.misses import Misses
from pagehop.iommu.page_walk import PageWalk
from pagehop.iommu.translator import Translator
from pagehop_sim.planted import edited
from pagehop_tb.models.iommu import (
    BUILT,
    EVERYTHING,
    NAPOT_SIZE,
    PAGE,
    Access,
    AccessFault,
    AddressSpace,
    Cause,
    Corruption,
    DeviceContext,
    Directory,
    DirectoryCommand,
    DirectoryMode,
    FaultRecord,
    History,
    Invalidation,
    Mode,
    Request,
    Status,
    TableMemory,
    Undecided,
    page_size,
    pages_from,
)
from pagehop_tb.models.memory import HostMemory
from pagehop_tb.simulate import run, seeded

SIZES = (PAGE, NAPOT_SIZE, page_size(1), page_size(2), page_size(3))
#: Cycles in which a request is answered whatever happens, and in which its record follows.
LONG, AFTER = 500, 8
STATUSES = (Status.TRANSLATED, Status.UNSUPPORTED_REQUEST, Status.COMPLETER_ABORT)
#: Within so many runs, each with other random choices, a planted bug must be found.
BUDGET = 6
#: Changes of tables after which everything is invalidated at the latest.
MOST_SPOILT = 2
#: The nightly run asks for more machines.
MACHINES, REQUESTS = int(os.environ.get("MACHINES", "40")), 6


class Machine:
    """A device with tables of random form, the places of its entries, and the history of both."""

    def __init__(self, rng):
        self.rng, memory = rng, TableMemory(HostMemory())
        allocate, first_mode, second_mode = pages_from(0x80_0000_0000), rng.choice(list(Mode)), rng.choice(list(Mode))
        self.directory = Directory(memory, allocate, rng.choice((DirectoryMode.ONE_LEVEL, DirectoryMode.TWO_LEVEL)))
        self.device = rng.randrange(1 << self.directory.mode.device_bits)
        self.context = DeviceContext(first_mode=first_mode, second_mode=second_mode, gscid=5, pscid=6, **{
            name: rng.random() < chance for name, chance in (("ats", 0.7), ("gade", 0.8), ("sade", 0.8), ("dtf", 0.2))})
        self.iova = rng.randrange(1 << 38)
        guest, target = (rng.randrange(1 << 38) & ~(PAGE - 1) for _ in range(2))
        places, second, under = [], None, {}
        if second_mode != Mode.BARE:
            second = AddressSpace(memory, allocate, second_mode, second=True)
            self.context = replace(self.context, second_ppn=second.ppn)
            under = {"under": second, "guest_allocate": pages_from(0x100_0000_0000)}
        if first_mode != Mode.BARE:
            first, size = AddressSpace(memory, allocate, first_mode, **under), self._size(first_mode)
            first.map(self.iova & ~(size - 1), guest & ~(size - 1), size, **self._flags())
            self.context = replace(self.context, first_ppn=first.ppn)
            places += self._places(first, first_mode, self.iova, size)
            guest = guest & ~(size - 1) | self.iova & size - 1
        else:
            guest = self.iova
        if second is not None:
            size = self._size(second_mode)
            second.map(guest & ~(size - 1), target & ~(size - 1), size, **self._flags())
            places += self._places(second, second_mode, guest, size)
            if first_mode != Mode.BARE:
                tables = self._places(second, second_mode, first.root, PAGE)
                second.write(tables[0], replace(second.read(tables[0]), **self._flags()))
                places += tables
        context = self.directory.device(self.device, self.context)
        self.places, self.context_places = places, range(context, context + DeviceContext.SIZE, 8)
        self.memory = memory
        self.history = History(memory, BUILT, self.directory.mode, self.directory.ppn)
        for _ in range(rng.choice((0, 0, 1, 1, 2, 3))):
            self.spoil(-1)
        if rng.random() < 0.1:
            rng.choice((memory.denied, memory.corrupt)).add(rng.choice([*places, context]) >> 12)

    def _size(self, mode):
        return self.rng.choice([size for size in SIZES if size < page_size(mode.levels)])

    def _flags(self):
        return {name: int(self.rng.random() < chance) for name, chance in (("accessed", 0.6), ("dirty", 0.4), ("writable", 0.9))}

    @staticmethod
    def _places(space, mode, address, size):
        lowest = max(0, next((level for level in range(mode.levels) if page_size(level) == size), 0))
        return [space.place(address, level) for level in range(lowest, mode.levels)]

    def spoil(self, time):
        """Change something: mostly A, D or the page of an entry, its other flags, at times any bit of anything."""
        rng = self.rng
        place = rng.choice([*self.places, *self.places, *self.places, *self.context_places])
        value = int.from_bytes(self.memory.store.read(place, 8), "little")
        flips = rng.choice((value & 0x40, value & 0x80, value & 0xC0, 1 << 38, 1 << 40, 1 << rng.randrange(10), 1 << rng.choice((10, 13, 19, 28, 63)),
                            1 << rng.randrange(64), value))
        self.history.write(time, place, (value ^ flips).to_bytes(8, "little"))

    def request(self):
        """Most are sensible ones for the page that is mapped."""
        rng, access = self.rng, self.rng.choice((Access.READ, Access.READ, Access.WRITE, Access.WRITE, Access.ATS_REQUEST, Access.TRANSLATED_WRITE))
        odd = rng.random()
        flips = 1 << rng.randrange(64) if odd < 0.05 else 1 << rng.randrange(12, rng.choice((21, 40))) if odd < 0.35 else rng.randrange(PAGE)
        if odd > 0.95:     # what no table has a place for: such a page may be known by its other bits
            flips = 1 << rng.randrange(38, 64)
        device = self.device ^ (1 << rng.randrange(24) if rng.random() < 0.03 else 0)
        return Request(device, self.iova ^ flips, access, access is Access.ATS_REQUEST and rng.random() < 0.5, 7 if rng.random() < 0.03 else None)


class Bench:
    """Machines one after the other at one translator, and what it does with the requests of each."""

    def __init__(self, rng, component=Translator):
        self.rng, self.dut, self.machine, self.now, self.answers = rng, component(2), None, 0, 0
        self.seen, self.undecided = set(), 0

    def run(self):
        serve = [self._serve(port) for port in (self.dut.directory_memory, self.dut.table_memory)]
        run(self.dut, self._drive, *serve, self._update)
        return self

    def _serve(self, port):
        async def server(ctx):
            ctx.set(port.a.ready, 1)
            while self.now is not None:
                *_, valid, address, size = await ctx.tick().sample(port.a.valid, port.a.payload.address, port.a.payload.size)
                if not valid:
                    continue
                data, bad = bytes(1 << size), {}
                try:
                    data = self.machine.memory.read(address, 1 << size)
                except AccessFault:
                    bad = {"denied": 1, "corrupt": 1}
                except Corruption:
                    bad = {"corrupt": 1}
                ctx.set(port.a.ready, 0)
                for start in range(0, len(data), 8):
                    ctx.set(port.d.payload, {"data": int.from_bytes(data[start:start + 8], "little"), **bad})
                    ctx.set(port.d.valid, 1)
                    await ctx.tick().until(port.d.ready)
                ctx.set(port.d.valid, 0)
                ctx.set(port.a.ready, 1)
        return server

    async def _update(self, ctx):
        dut, ask = self.dut, self.dut.update.payload
        ctx.set(dut.update.ready, 1)
        while self.now is not None:
            *_, valid, address, expected, value = await ctx.tick().sample(dut.update.valid, ask.address, ask.expected, ask.value)
            if not valid:
                continue
            machine = self.machine
            if self.rng.random() < 0.1:
                machine.spoil(self.now)
            same = int.from_bytes(machine.memory.store.read(8 * address, 8), "little") == expected
            if same:
                machine.history.write(self.now, 8 * address, value.to_bytes(8, "little"))
            ctx.set(dut.update.ready, 0)
            ctx.set(dut.updated.payload, 0 if same else 1)
            ctx.set(dut.updated.valid, 1)
            await ctx.tick().until(dut.updated.ready)
            ctx.set(dut.updated.valid, 0)
            ctx.set(dut.update.ready, 1)

    async def _drive(self, ctx):
        ctx.set(self.dut.fault.ready, 1)
        times = count()
        for _ in range(MACHINES):
            self.machine = machine = Machine(self.rng)
            ctx.set(self.dut.directory, {"mode": int(machine.directory.mode), "ppn": machine.directory.ppn})
            await self._invalidate(ctx, times)
            spoilt = 0
            for _ in range(REQUESTS):
                start = self.now = next(times)
                request = machine.request()
                answer = await self._ask(ctx, request)
                try:
                    found = machine.history.find(request, lambda one, answer=answer: told(one) == answer, start, self.now)
                except Undecided:
                    self.undecided += 1
                else:
                    assert found is not None, (f"{request} with {machine.context} was answered {answer}, not one of "
                                               f"{ {told(one) for one in machine.history.outcomes(request, start, self.now)} }")
                    self.seen.add(found.cause)
                self.answers += 1
                if self.rng.random() < 0.3:
                    machine.spoil(next(times))
                    spoilt += 1
                # Who could see everything old and new has too many answers to choose from.
                if self.rng.random() < 0.3 or spoilt == MOST_SPOILT:
                    await self._invalidate(ctx, times)
                    spoilt = 0
        self.now = None

    async def _invalidate(self, ctx, times):
        """Everything, and a fence."""
        history, time = self.machine.history, next(times)
        for command in (Invalidation(), Invalidation(gv=1, gscid=5), Invalidation(func3=1), DirectoryCommand()):
            history.command(time, command)
        for value in (1, 0):
            ctx.set(self.dut.invalidate_pages, value)
            ctx.set(self.dut.invalidate_contexts, value)
            await ctx.tick()
        history.fence(next(times), next(times))

    async def _ask(self, ctx, request):
        dut = self.dut
        ctx.set(dut.request.payload, {
            "device_id": request.device_id, "iova": request.iova, "access": int(request.access), "no_write": request.no_write,
            "process_valid": request.process_id is not None, "process": request.process_id or 0,
        })
        ctx.set(dut.request.valid, 1)
        await ctx.tick().until(dut.request.ready)
        ctx.set(dut.request.valid, 0)
        answer, record, left = None, None, LONG
        while left:
            *_, answers, response, faults, fault = await ctx.tick().sample(
                dut.response.valid, dut.response.payload, dut.fault.valid, dut.fault.payload)
            left -= 1
            if answers:
                answer, left = response, AFTER
            if faults:
                record = FaultRecord.of(fault.as_bits())
        assert answer is not None, f"{request} with {self.machine.context} was not answered in {LONG} cycles"
        found = answer.translation
        page = None
        if found.readable or found.writable:
            size = EVERYTHING if found.size == layouts.PageSize.EVERYTHING else SIZES[found.size.value]
            page = (int(found.ppn), size, bool(found.readable), bool(found.writable))
        status = STATUSES[answer.status.value]
        return status, page if status is Status.TRANSLATED else None, record


def told(outcome):
    """What hardware tells of an outcome."""
    page = (outcome.address >> 12, outcome.size, outcome.readable, outcome.writable) if outcome.readable or outcome.writable else None
    return outcome.status, page, outcome.record


@pytest.mark.parametrize("walk_cache", [0, 2])
def test_translation(walk_cache):
    bench = Bench(seeded(f"iommu/{walk_cache}"), partial(Translator, walk_cache=walk_cache)).run()
    assert bench.answers == MACHINES * REQUESTS and bench.undecided <= bench.answers // 1000, f"{bench.undecided} of {bench.answers} are undecided"
    assert bench.seen >= {Cause.NONE, Cause.READ_PAGE_FAULT, Cause.WRITE_PAGE_FAULT, Cause.TYPE_DISALLOWED}


@pytest.mark.parametrize("component", [
    edited(Translator, Iotlb=edited(Iotlb, ("with m.If(self.invalidate):", "with m.If(0):"))),
    edited(Translator, Iotlb=edited(Iotlb, ("same_parts(read.data.translation.size.as_value(), read", "same_parts(2, read"))),
    edited(Translator, KeyedCache=edited(KeyedCache, ("with m.If(self.invalidate):", "with m.If(0):"))),
    partial(edited(Translator, PageWalk=edited(PageWalk, ("cache.invalidate.eq(self.invalidate)", "cache.invalidate.eq(0)"))), walk_cache=2),
    edited(Translator, PageWalk=edited(PageWalk, ("self._dirties.eq(writes & writable)", "self._dirties.eq(0)"))),
    edited(Translator, PageWalk=edited(PageWalk, ("writable & info.dirty)", "writable)"))),
    edited(Translator, Misses=edited(Misses, ("Const(1, 1), context.sade", "Const(1, 1), Const(0, 1)"))),
    edited(Translator, ("hits = iotlb.hits & canonical", "hits = iotlb.matches.any() & canonical")),
    edited(Translator, ("~looked.no_guest)", "~looked.beyond)")),
], ids=["forgets no page", "all pages are large", "forgets no context", "forgets no table", "never dirty", "clean is writable", "iotval2",
        "hits for everything", "more bits"])
def test_planted_bugs_are_found(component):
    with pytest.raises(AssertionError, match=r"was (answered|not answered)"):
        for attempt in range(BUDGET):
            Bench(seeded(f"iommu/planted/{attempt}"), component).run()
