"""A CPU that programs an IOMMU in Amaranth's simulator: registers, tables, commands."""

from home_driver import at_port
from modify_machine import DEVICE, RECORDS

from pagehop_tb.driver import iommu_registers as registers
from pagehop_tb.models.home import Home
from pagehop_tb.models.iommu import PAGE, AddressSpace, DeviceContext, Directory, DirectoryMode, Fence, Mode, TableMemory, pages_from
from pagehop_tb.simulate import run

QUEUE, FENCE, IOVA, FIRST, OTHER = 0x6000_0000, 0x7100_0000, 0x40_0000, 0x10_0000, 0x20_0000


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

    async def commands(self, ctx, *words, limit=6000):
        """Put commands into the queue and a fence behind them; wait until that has stored."""
        self.fences += 1
        fence = Fence(av=1, pr=1, pw=1, data=self.fences, dword=FENCE >> 2).pack()
        for command in [*(word.to_bytes(16, "little") if isinstance(word, int) else word for word in words), fence]:
            self.home.memory.write(QUEUE + 16 * self.tail, command)
            self.tail = (self.tail + 1) % 64
        await self.access(ctx, registers.Cqt.offset, self.tail, size=4)
        for _ in range(limit):
            if self.home.word(FENCE) & 0xFFFF_FFFF == self.fences:
                return
            await ctx.tick()
        raise AssertionError(f"the fence never passed; cqcsr is {await self.access(ctx, registers.Cqcsr.offset, size=4):#x}")

    def run(self, test, *others):
        async def bench(ctx):
            await self.start(ctx)
            await test(self, ctx)
            self.stop = True

        ports = [at_port(home, port, lambda: self.stop) for home, port in ((self.home, self.dut.port), (self.copies, self.dut.copy_port))]
        run(self.dut, *ports, bench, *others)
