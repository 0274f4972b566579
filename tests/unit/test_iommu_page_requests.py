# amaranth: UnusedElaboratable=no
"""Page requests: each is queued, answered or dropped as the IOMMU in software says, with the same records of faults."""

import pytest
from amaranth.hdl import Module
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from uncached_memory import UncachedMemory

from pagehop.iommu.layouts import PageRecord
from pagehop.iommu.page_requests import PageRequests
from pagehop.iommu.record_queue import RecordQueue
from pagehop_sim.planted import planted
from pagehop_tb.models.iommu import BUILT, PAGE, DeviceContext, Directory, DirectoryMode, Iommu, TableMemory, pages_from
from pagehop_tb.models.iommu.ats import PageRequest, PageResponse, Queued, page_request
from pagehop_tb.simulate import run, seeded

QUEUE, ENTRIES, PATIENCE = 0x8000_0000, 4, 8
EN, MF, OF = 1, 1 << 8, 1 << 9


class Harness(wiring.Component):
    """What handles page requests, with its queue."""
    def __init__(self, requests=None):
        self.requests, self.queue = requests or PageRequests(patience_bits=PATIENCE), RecordQueue(PageRecord, "p")
        self.names = {"request", "response", "fault", "directory", "invalidate", "stale"}
        super().__init__({
            **{name: member for name, member in self.requests.signature.members.items() if name in self.names},
            "walk_memory": self.requests.signature.members["memory"], "queue_memory": self.queue.signature.members["memory"],
            **{name: In(member.shape) if member.flow is In else Out(member.shape) for name, member in self.queue.signature.members.items()
               if name in ("base", "head_write", "csr_write", "head", "tail", "csr")},
        })

    def elaborate(self, platform):
        m = Module()
        m.submodules.requests, m.submodules.queue = requests, queue = self.requests, self.queue
        wiring.connect(m, requests.record, queue.record)
        wiring.connect(m, wiring.flipped(self.walk_memory), requests.memory)
        wiring.connect(m, wiring.flipped(self.queue_memory), queue.memory)
        for name in ("request", "response", "fault"):
            wiring.connect(m, wiring.flipped(getattr(self, name)), getattr(requests, name))
        m.d.comb += [requests.fate.eq(queue.fate), requests.directory.eq(self.directory), requests.invalidate.eq(self.invalidate),
                     self.stale.eq(requests.stale)]
        m.d.comb += [getattr(queue, name).eq(getattr(self, name)) for name in ("base", "head_write", "csr_write")]
        m.d.comb += [getattr(self, name).eq(getattr(queue, name)) for name in ("head", "tail", "csr")]
        return m


class Words:
    """Words of 8 bytes as a store for tables."""
    def __init__(self, words):
        self.words = words

    def read(self, address, size):
        return b"".join(self.words.get(word, 0).to_bytes(8, "little") for word in range(address // 8, (address + size) // 8))

    def write(self, address, data):
        for at in range(0, len(data), 8):
            self.words[(address + at) // 8] = int.from_bytes(data[at:at + 8], "little")


class Machine:
    def __init__(self, dut, rng, latency=None):
        self.dut, self.rng, self.latency, self.cycle = dut, rng, latency, 0
        self.walks, self.records = UncachedMemory(dut.walk_memory, rng, latency), UncachedMemory(dut.queue_memory, rng, latency)
        self.faults, self.responses, self.takes, self.compared = [], [], True, {}
        self.strict = True

    def tables(self):
        """A directory with some devices, whose contexts are as they may be."""
        rng = self.rng
        self.walks.words.clear()
        memory = TableMemory(Words(self.walks.words))
        mode = rng.choice((DirectoryMode.ONE_LEVEL, DirectoryMode.TWO_LEVEL, DirectoryMode.TWO_LEVEL))
        directory = Directory(memory, pages_from(0x40_0000), mode)
        self.ids = rng.sample(range(1 << min(16, mode.device_bits)), 5)
        for requester_id in self.ids[1:]:
            ats = rng.random() < 0.95
            pri = rng.random() < 0.85
            prpr, dtf = rng.randrange(2) and pri, rng.randrange(2)
            directory.device(requester_id, DeviceContext(ats=ats, pri=pri, prpr=prpr, dtf=dtf, sxl=rng.random() < 0.05))
        directory.place(self.ids[0])
        memory.denied, memory.corrupt = ({directory.place(rng.choice(self.ids)) // PAGE} if rng.random() < 0.15 else set() for _ in range(2))
        self.walks.denied = {PAGE // 64 * page + line for page in memory.denied for line in range(PAGE // 64)}
        self.walks.corrupt = {PAGE // 8 * page + word for page in memory.corrupt for word in range(PAGE // 8)}
        if rng.random() < 0.2:
            mode = rng.choice((DirectoryMode.OFF, DirectoryMode.BARE))
        self.iommu = Iommu(memory, BUILT, mode, directory.ppn)

    async def step(self, ctx, *, head=None, csr=None):
        dut = self.dut
        for port, value in ((dut.head_write, head), (dut.csr_write, csr)):
            ctx.set(port, {"strobe": 15 if value is not None else 0, "data": value or 0})
        ctx.set(dut.response.ready, self.takes and (self.latency is not None or self.rng.random() < 0.5))
        ctx.set(dut.fault.ready, self.latency is not None or self.rng.random() < 0.5)
        for memory in (self.walks, self.records):
            memory.before(ctx)
        if ctx.get(dut.response.valid) and ctx.get(dut.response.ready):
            one = ctx.get(dut.response.payload)
            self.responses.append(PageResponse(one.requester_id, one.process if one.process_valid else None, one.group, one.code))
        if ctx.get(dut.fault.valid) and ctx.get(dut.fault.ready):
            self.faults.append(ctx.get(dut.fault.payload.as_value()))
        for memory in (self.walks, self.records):
            memory.after(ctx)
        await ctx.tick()
        self.cycle += 1

    def random_request(self):
        rng = self.rng
        return PageRequest(rng.choice([*self.ids, rng.randrange(1 << 16)]), rng.getrandbits(64) | rng.choice((4, 0)),
                           rng.choice((None, rng.getrandbits(20))), rng.randrange(2), rng.randrange(2))

    async def until(self, ctx, done):
        since = self.cycle
        while not done():
            await self.step(ctx)
            assert self.cycle - since < 400, "a page request waits for ever"

    async def offer(self, ctx, request):
        """Offer a request until it is taken. Returns after how many cycles."""
        dut, since = self.dut, self.cycle
        ctx.set(dut.request.payload, {
            "requester_id": request.requester_id, "payload": request.payload, "process": request.process or 0, "execute": request.execute,
            "process_valid": request.process is not None, "privileged": request.privileged})
        ctx.set(dut.request.valid, 1)
        await self.until(ctx, lambda: ctx.get(dut.request.ready))
        await self.step(ctx)
        ctx.set(dut.request.valid, 0)
        return self.cycle - since

    def expected(self, ctx, request):
        """What must come of a request now, and what becomes of its record."""
        csr, tail, head = ctx.get(self.dut.csr), ctx.get(self.dut.tail), ctx.get(self.dut.head)
        queued = Queued.STORED
        if not csr.pqon or csr.pqmf or (self.records.denied and not csr.pqof and (tail + 1) % ENTRIES != head):
            queued = Queued.LOST
        elif csr.pqof or (tail + 1) % ENTRIES == head:
            queued = Queued.OVERFLOW
        outcome = page_request(self.iommu, request, queued)
        return outcome, queued if outcome.record else None, csr, QUEUE + 16 * tail

    async def request(self, ctx):
        request = self.random_request()
        outcome, queued, before, place = self.expected(ctx, request)
        self.faults.clear()
        self.responses.clear()
        stores = len(self.records.stores)
        await self.offer(ctx, request)
        await self.until(ctx, lambda: ctx.get(self.dut.request.ready) and not ctx.get(self.dut.response.valid))
        assert self.faults == ([outcome.fault.value] if outcome.fault else []), (request, outcome)
        assert self.responses == ([outcome.response] if outcome.response else []), (request, outcome)
        written = [(address, data) for address, data, denied in self.records.stores[stores:] if not denied]
        assert written == ([(place, outcome.record.pack())] if queued is Queued.STORED else []), (request, outcome)
        after = ctx.get(self.dut.csr)
        assert queued is not Queued.OVERFLOW or after.pqof
        assert not (queued is Queued.LOST and before.pqon) or after.pqmf
        kind = (queued, outcome.fault.cause if outcome.fault else 0, outcome.response.code if outcome.response else None)
        self.compared[kind] = self.compared.get(kind, 0) + 1

    async def software(self, ctx):
        """Software reads records, clears errors, switches the queue."""
        kind, rng = rng_choice(self.rng), self.rng
        if kind == "read":
            await self.step(ctx, head=ctx.get(self.dut.tail))
        elif kind == "clear":
            self.records.denied.clear()
            await self.step(ctx, csr=EN | MF | OF)
        elif kind == "deny":
            self.records.denied = {QUEUE // 64}
        elif kind == "switch":
            await self.step(ctx, csr=rng.choice((EN, EN, 0)))
        for _ in range(4):
            await self.step(ctx)

    async def setup(self, ctx):
        ctx.set(self.dut.base, {"log2sz": 1, "ppn": QUEUE >> 12})
        ctx.set(self.dut.directory, {"mode": int(self.iommu.mode), "ppn": self.iommu.ppn})
        await self.step(ctx, csr=EN)
        for _ in range(4):
            await self.step(ctx)


def rng_choice(rng):
    return rng.choice(("read", "read", "read", "clear", "clear", "deny", "switch", "nothing", "nothing", "nothing", "nothing"))


def exercise(dut, name, machines=25):
    machine = Machine(dut, seeded(name))

    async def bench(ctx):
        for _ in range(machines):
            machine.tables()
            await machine.setup(ctx)
            for _ in range(25):
                await machine.request(ctx)
                await machine.software(ctx)

    run(dut, bench)
    return machine.compared


def test_every_page_request_is_queued_or_answered():
    compared = exercise(Harness(), "page requests")
    causes, codes, fates = ({kind[at] for kind in compared} for at in (1, 2, 0))
    assert causes >= {0, 256, 257, 258, 259, 260, 268} and codes == {None, 0, 1, 15} and fates == {None, *Queued}, compared


@pytest.mark.parametrize(("mode", "latency"), [(DirectoryMode.ONE_LEVEL, 1), (DirectoryMode.TWO_LEVEL, 1), (DirectoryMode.TWO_LEVEL, 10)])
def test_page_requests_take_the_cycles_of_the_documentation(mode, latency):
    dut = Harness()
    machine, counts = Machine(dut, seeded("page cycles"), latency), []

    async def bench(ctx):
        directory = Directory(TableMemory(Words(machine.walks.words)), pages_from(0x40_0000), mode)
        directory.device(3, DeviceContext(ats=1, pri=1))
        machine.iommu = Iommu(directory.memory, BUILT, mode, directory.ppn)
        await machine.setup(ctx)
        for _ in range(3):
            counts.append(await machine.offer(ctx, PageRequest(3, 0x1007)))

    run(dut, bench)
    print(counts)
    assert counts[1:] == [(11 + 2 * latency if mode == DirectoryMode.ONE_LEVEL else 12 + 3 * latency)] * 2


async def with_device(machine, ctx):
    directory = Directory(TableMemory(Words(machine.walks.words)), pages_from(0x40_0000))
    directory.device(3, DeviceContext(ats=1, pri=0))
    machine.iommu = Iommu(directory.memory, BUILT, directory.mode, directory.ppn)
    await machine.setup(ctx)


async def stale(machine, ctx):
    """A fence waits for a request whose context is forgotten while it is used, and for no other."""
    dut = machine.dut
    await with_device(machine, ctx)
    for cycle in range(30):
        await machine.offer(ctx, PageRequest(3, 0x1003))
        for _ in range(cycle):
            await machine.step(ctx)
        busy = not ctx.get(dut.request.ready)
        ctx.set(dut.invalidate, 1)
        await machine.step(ctx)
        ctx.set(dut.invalidate, 0)
        assert ctx.get(dut.stale) == (busy and not ctx.get(dut.request.ready)) or ctx.get(dut.request.ready)
        while not ctx.get(dut.request.ready):
            assert ctx.get(dut.stale)
            await machine.step(ctx)
        await machine.step(ctx)
        assert not ctx.get(dut.stale)


async def blocked(machine, ctx):
    """No response leaves: requests are taken all the same, the first response stays, and the others are dropped."""
    await with_device(machine, ctx)
    machine.takes = False
    for number in range(4):
        await machine.offer(ctx, PageRequest(3, 0x1007 | number << 3))
    for _ in range(300):
        await machine.step(ctx)
    for _ in range(2):      # neither the last of its group nor a stop marker waits for what it does not need
        await machine.offer(ctx, PageRequest(3, 0x1003))
        assert await machine.offer(ctx, PageRequest(3, 0x1004)) < 150
    for _ in range(300):
        await machine.step(ctx)
    machine.takes = True
    for _ in range(20):
        await machine.step(ctx)
    await machine.offer(ctx, PageRequest(3, 0x100F | 9 << 3))
    for _ in range(100):
        await machine.step(ctx)
    assert [one.group for one in machine.responses] == [0, 9 | 1] and len(machine.faults) == 9


def directed(dut, test):
    machine = Machine(dut, seeded("directed"))

    async def bench(ctx):
        await test(machine, ctx)

    run(dut, bench)


@pytest.mark.parametrize("test", [stale, blocked])
def test_case(test):
    directed(Harness(), test)


def test_patience_is_bounded():
    with pytest.raises(ValueError, match=r"^Responses to page requests must wait 2 to the power of 1 to 32 cycles, not of 0$"):
        PageRequests(patience_bits=0)


@pytest.mark.parametrize(("change", "test"), [
    (("request.payload[2] & request.payload[:2].any()", "request.payload[2]"), None),
    (("~last | ~out.valid", "~out.valid"), blocked),
    (("(self._code == ResponseCode.FAILURE)", "0"), None),
    (("(asks_process |", "(1 |"), None),
    (("request.payload[3:12]", "request.payload[4:13]"), None),
    (("self.fate == Fate.OVERFLOW", "0"), None),
    (("~(self._known & walk.context.dtf)", "1"), None),
    (("self._known & walk.context.prpr", "walk.context.prpr"), None),
    (("known & walk.context.pri", "known"), None),
    (("m.d.comb += record.execute", "m.d.comb += record.privileged"), None),
    (("self._cause == Cause.TYPE_DISALLOWED, R", "0, R"), None),
    (("self._cause.eq(Cause.ALL_DISALLOWED)", "self._cause.eq(Cause.TYPE_DISALLOWED)"), None),
    (("self.fate != Fate.NONE", "self.fate == Fate.LOST"), None),
    (("| waited.all()", ""), blocked),
    (("self.stale.eq(1)", "self.stale.eq(0)"), stale),
    (("self._cause.eq(Cause.NONE), self.stale.eq(0)", "self._cause.eq(Cause.NONE)"), stale),
    (("with m.If(last & ~out.valid):", "with m.If(last):"), blocked),
], ids=["stop marker", "waits for nothing", "failure without PASID", "always with PASID", "group", "full", "DTF", "PRPR of another", "not enabled",
        "execute", "invalid", "off", "overflow forgotten", "waits for ever", "not stale", "stale for ever", "overwritten"])
def test_planted_bug_is_found(change, test):
    requests = planted(PageRequests, *change)(patience_bits=PATIENCE)
    with pytest.raises(AssertionError):
        if test:
            directed(Harness(requests), test)
        else:
            exercise(Harness(requests), "page requests")
