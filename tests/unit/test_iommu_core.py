"""The parts of the IOMMU together: registers, queues, walks and moves by one coherent port, copies by another."""

from home_driver import at_port
from modify_machine import DEVICE, MOVED, RECORDS, Command

from pagehop.iommu.core import IommuCore
from pagehop_tb.driver import iommu_registers as registers
from pagehop_tb.models.home import Home
from pagehop_tb.models.iommu import PAGE, AddressSpace, DeviceContext, Directory, DirectoryMode, Fence, Invalidation, Mode, TableMemory, pages_from
from pagehop_tb.simulate import run, seeded

QUEUE, FENCE, IOVA, FIRST, OTHER = 0x6000_0000, 0x7100_0000, 0x40_0000, 0x10_0000, 0x20_0000


class Software:
    """Tables of one device in the home's memory, and a CPU that programs the IOMMU."""
    def __init__(self, name, pages=8):
        rng = seeded(f"core/{name}")
        self.dut = IommuCore(modify=True)
        clients = len(self.dut.arbiter.clients)
        self.home, self.stop = Home(rng, cacher=clients, patience=None), False
        self.memory, allocate = TableMemory(self.home.memory), pages_from(0x8000_0000)
        self.directory = Directory(self.memory, allocate, DirectoryMode.TWO_LEVEL)
        self.space = AddressSpace(self.memory, allocate, Mode.SV39)
        for page in range(pages):
            self.space.map(IOVA + page * PAGE, (FIRST + page) * PAGE)
        self.directory.device(DEVICE, DeviceContext(first_mode=Mode.SV39, first_ppn=self.space.ppn, gade=1, sade=1))
        self.tail, self.fences = 0, 0
        self.copies = Home(rng, cacher=2 * self.dut.copy.reads, cpus=0)
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

    async def translate(self, ctx, page, access=3):
        """Where a page of the device is."""
        request, response = self.dut.request, self.dut.response
        ctx.set(request.payload, {"id": 2, "device_id": DEVICE, "iova": IOVA + page * PAGE, "access": access})
        ctx.set(request.valid, 1)
        await ctx.tick().until(request.ready)
        ctx.set(request.valid, 0)
        answer, = await ctx.tick().sample(response.payload).until(response.valid)
        assert answer.status.value == 0
        return answer.translation.ppn

    async def data_path(self, ctx):
        """Nothing is under way: whatever is to be drained is."""
        while not self.stop:
            _, _, drain = await ctx.tick().sample(self.dut.drain)
            ctx.set(self.dut.drained, drain)

    def run(self, test):
        async def bench(ctx):
            await self.start(ctx)
            await test(self, ctx)
            self.stop = True

        ports = [at_port(home, port, lambda: self.stop) for home, port in ((self.home, self.dut.port), (self.copies, self.dut.copy_port))]
        run(self.dut, *ports, bench, self.data_path)


def test_moves_by_the_command_queue():
    """Pages lie where they were moved to, with what was in them, also for who had translated them; records, counts and the fence say so."""
    software = Software("moves")

    async def test(software, ctx):
        contents = {page: software.home.random.randbytes(PAGE) for page in range(3)}
        for page, content in contents.items():
            software.home.memory.write((FIRST + page) * PAGE, content)
            assert await software.translate(ctx, page) == FIRST + page
        halves = [half for page in contents for half in Command(
            IOVA + page * PAGE, FIRST + page, OTHER + page, page, more=page < 1, tries=2 * (page == 2)).halves]
        await software.commands(ctx, *halves)
        for page, content in contents.items():
            assert software.home.word(RECORDS + 8 * page) & 0xFF0F == MOVED | 1 << 8
            assert await software.translate(ctx, page) == OTHER + page
            assert software.home.memory.read((OTHER + page) * PAGE, PAGE) == content
        assert await software.translate(ctx, 3) == FIRST + 3
        assert await software.access(ctx, registers.ModifyCounts.offset) == 2
        assert await software.access(ctx, registers.Capabilities.offset) >> 56 & 1
        # What the queue invalidates is still forgotten.
        place = software.space.place(IOVA + 3 * PAGE, 0)
        software.home.memory.write(place, (software.home.word(place) & 0x3FF | OTHER + 3 << 10).to_bytes(8, "little"))
        await software.commands(ctx, Invalidation(av=1, page=(IOVA >> 12) + 3).pack())
        assert await software.translate(ctx, 3) == OTHER + 3
        # What is refused is said, and changes nothing.
        await software.commands(ctx, *Command(IOVA, FIRST, 0x999, 5).halves)
        assert software.home.word(RECORDS + 8 * 5) & 15 == 2 and await software.translate(ctx, 0) == OTHER
        assert await software.access(ctx, registers.ModifyCounts.offset) == 2 | 1 << 16
    software.run(test)
