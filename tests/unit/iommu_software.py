"""A CPU that programs an IOMMU in Amaranth's simulator: registers, tables, commands."""

from home_driver import at_port
from modify_machine import DEVICE, RECORDS

from pagehop_tb.driver import iommu_registers as registers
from pagehop_tb.models.home import Home
from pagehop_tb.models.iommu import (
    NAPOT_SIZE,
    PAGE,
    AddressSpace,
    DeviceContext,
    Directory,
    DirectoryMode,
    Fence,
    Mode,
    Request,
    TableMemory,
    page_size,
    pages_from,
)
from pagehop_tb.simulate import run

#: Bits of ``cqcsr`` that stop the queue.
STOPPED = registers.Cqcsr.CQMF.mask | registers.Cqcsr.CMD_TO.mask | registers.Cqcsr.CMD_ILL.mask
QUEUE, FENCE, IOVA, FIRST, OTHER = 0x6000_0000, 0x7100_0000, 0x40_0000, 0x10_0000, 0x20_0000
#: Devices by their contexts: the first stage alone, the second, both, none, and one that has no context.
FIRST_ONLY, SECOND_ONLY, BOTH, PLAIN, UNKNOWN = range(0x20, 0x25)
#: Pages of the first of these that are larger, and one that is not to be written.
LARGE = {NAPOT_SIZE: 0x100_0000, page_size(1): 0x4000_0000, page_size(2): 0x10_0000_0000}
READ_ONLY = 0x200_0000


class Software:
    """Tables of one device in the home's memory, and a CPU that programs the IOMMU."""
    def __init__(self, rng, dut, core, pages=8, **context):
        self.rng, self.dut = rng, dut
        self.home, self.stop = Home(rng, cacher=len(core.arbiter.clients), patience=None), False
        self.memory, allocate = TableMemory(self.home.memory), pages_from(0x8000_0000)
        self.directory = Directory(self.memory, allocate, DirectoryMode.TWO_LEVEL)
        self.space = AddressSpace(self.memory, allocate, Mode.SV39)
        for page in range(pages):
            self.space.map(IOVA + page * PAGE, (FIRST + page) * PAGE)
        self.directory.device(DEVICE, DeviceContext(first_mode=Mode.SV39, first_ppn=self.space.ppn, gade=1, sade=1, **context))
        self.tail, self.fences = 0, 0
        self.copies = Home(rng, cacher=2 * core.copy.reads, cpus=0)
        self.copies.memory = self.home.memory

    async def access(self, ctx, offset, value=None, size=8):
        """Read or write a register."""
        bus = self.dut.bus
        ctx.set(bus.request.payload, {"address": offset & ~7, "write": value is not None, "data": (value or 0) << 8 * (offset & 4),
                                      "strobe": (1 << size) - 1 << (offset & 4)})
        ctx.set(bus.request.valid, 1)
        await ctx.tick().until(bus.request.ready)
        ctx.set(bus.request.valid, 0)
        if value is None:
            ctx.set(bus.response.ready, 1)
            word, = await ctx.tick().sample(bus.response.payload.data).until(bus.response.valid)
            ctx.set(bus.response.ready, 0)
            return word >> 8 * (offset & 4) & (1 << 8 * size) - 1
        return None

    async def start(self, ctx):
        """The directory, and a command queue of 64."""
        await self.access(ctx, registers.Ddtp.offset, self.directory.ppn << 10 | int(self.directory.mode))
        await self.access(ctx, registers.Cqb.offset, QUEUE >> 2 | 5)
        await self.access(ctx, registers.Cqcsr.offset, 1, size=4)
        await self.access(ctx, registers.ModifyRecords.offset, RECORDS >> 2)

    async def publish(self, ctx, *words):
        """Put commands into the queue."""
        for word in words:
            self.home.memory.write(QUEUE + 16 * self.tail, word.to_bytes(16, "little") if isinstance(word, int) else word)
            self.tail = (self.tail + 1) % 64
        await self.access(ctx, registers.Cqt.offset, self.tail, size=4)

    async def passes(self, ctx, *words, limit=6000):
        """Put commands into the queue and a fence behind them; wait until that has stored. Returns whether the queue never stopped; if it did, it is
        told to go on."""
        self.fences += 1
        await self.publish(ctx, *words, Fence(av=1, pr=1, pw=1, data=self.fences, dword=FENCE >> 2).pack())
        passes = True
        for cycle in range(limit):
            if self.home.word(FENCE) & 0xFFFF_FFFF == self.fences:
                return passes
            await ctx.tick()
            if cycle % 256 == 255 and (csr := await self.access(ctx, registers.Cqcsr.offset, size=4)) & STOPPED:
                passes = False
                await self.access(ctx, registers.Cqcsr.offset, csr & (STOPPED | 1), size=4)
        raise AssertionError(f"the fence never passed; cqcsr is {await self.access(ctx, registers.Cqcsr.offset, size=4):#x}")

    async def commands(self, ctx, *words, limit=6000):
        """As :meth:`passes`, which is expected."""
        assert await self.passes(ctx, *words, limit=limit), "the queue stopped"

    def run(self, test, *others):
        async def bench(ctx):
            await self.start(ctx)
            await test(self, ctx)
            self.stop = True

        ports = [at_port(home, port, lambda: self.stop) for home, port in ((self.home, self.dut.port), (self.copies, self.dut.copy_port))]
        run(self.dut, *ports, bench, *others)


class Devices(Software):
    """Devices of all sorts beside it, each with a few pages; all may be read and written but for one."""
    def __init__(self, rng, core):
        super().__init__(rng, core, core)
        memory, allocate = self.memory, pages_from(0x9000_0000)
        second = AddressSpace(memory, allocate, Mode.SV39, second=True)
        both = AddressSpace(memory, allocate, Mode.SV48, second=True)
        inner = AddressSpace(memory, allocate, Mode.SV39, under=both, guest_allocate=pages_from(0x1_0000_0000))
        for page in range(4):
            second.map(IOVA + page * PAGE, (OTHER + page) * PAGE)
            inner.map(IOVA + page * PAGE, 0x1_8000_0000 + page * PAGE)
            both.map(0x1_8000_0000 + page * PAGE, (OTHER + page) * PAGE)
        for size, iova in LARGE.items():
            self.space.map(iova, 0x80_0000_0000 + iova, size)
        self.space.map(READ_ONLY, 0x5000_0000, writable=0)
        for device, context in ((FIRST_ONLY, {"first_mode": Mode.SV39, "first_ppn": self.space.ppn, "pscid": 6}),
                                (SECOND_ONLY, {"second_mode": Mode.SV39, "second_ppn": second.ppn, "gscid": 5}),
                                (BOTH, {"first_mode": Mode.SV39, "first_ppn": inner.ppn, "pscid": 6, "second_mode": Mode.SV48,
                                        "second_ppn": both.ppn, "gscid": 7}), (PLAIN, {})):
            self.directory.device(device, DeviceContext(ats=1, **context))

    def request(self, *accesses):
        """One at random, of a page of 4 KiB, or of none."""
        rng = self.rng
        iova = IOVA + rng.randrange(5) * PAGE | (1 << rng.choice((39, 45, 60)) if rng.random() < 0.25 else 0)
        return Request(rng.choice((FIRST_ONLY, SECOND_ONLY, BOTH, PLAIN, UNKNOWN)), iova, rng.choice(accesses),
                       process_id=1 if rng.random() < 0.1 else None)

    def offer(self, ctx, request, number=0):
        """A request of a device, whose turn has yet to come."""
        ctx.set(self.dut.request.payload, {
            "id": number, "device_id": request.device_id, "iova": request.iova, "access": int(request.access),
            "process_valid": request.process_id is not None, "process": request.process_id or 0})
        ctx.set(self.dut.request.valid, 1)

    async def data_path(self, ctx):
        """A drain takes a while."""
        left = 0
        while not self.stop:
            *_, drain = await ctx.tick().sample(self.dut.drain)
            left = self.rng.randrange(1, 30) if drain else max(left - 1, 0)
            ctx.set(self.dut.drained, not left)
