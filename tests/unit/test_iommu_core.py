# amaranth: UnusedElaboratable=no
"""The parts of the IOMMU together: registers, queues, walks and moves by one coherent port, copies by another."""

import pytest
from iommu_software import FIRST, IOVA, OTHER, Software
from modify_machine import DEVICE, MOVED, RECORDS, Command

from pagehop.iommu.core import IommuCore
from pagehop.iommu.misses import Misses
from pagehop.iommu.translator import Translator
from pagehop_sim.planted import edited
from pagehop_tb.driver import iommu_registers as registers
from pagehop_tb.models.iommu import PAGE, AddressSpace, DeviceContext, Invalidation, Mode, pages_from
from pagehop_tb.simulate import seeded


class Core(Software):
    """Software, and a device without accesses of its own."""
    def __init__(self, name, core=IommuCore):
        core = core(modify=True)
        super().__init__(seeded(f"core/{name}"), core, core)

    async def translate(self, ctx, page, access=3):
        """Where a page of the device is."""
        request, response = self.dut.request, self.dut.response
        ctx.set(request.payload, {"id": 2, "device_id": DEVICE, "iova": IOVA + page * PAGE, "access": access})
        ctx.set(request.valid, 1)
        await ctx.tick().until(request.ready)
        ctx.set(request.valid, 0)
        self.cycles, valid = 0, 0
        while not valid:
            _, _, valid, answer = await ctx.tick().sample(response.valid, response.payload)
            self.cycles += 1
        assert answer.status.value == 0
        return answer.translation.ppn

    async def data_path(self, ctx):
        """Nothing is under way: whatever is to be drained is."""
        while not self.stop:
            _, _, drain = await ctx.tick().sample(self.dut.drain)
            ctx.set(self.dut.drained, drain)


def test_moves_by_the_command_queue():
    """Pages lie where they were moved to, with what was in them, also for who had translated them; records, counts and the fence say so."""
    software = Core("moves")

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
    software.run(test, software.data_path)


@pytest.mark.hazard("H02")
def test_a_command_and_a_move_invalidate_at_the_same_time(core=IommuCore):
    """What the command names is forgotten, too, in every cycle around that in which the move forgets its page."""
    software, together, page = Core("together", core), [], 6

    async def watch(ctx):
        while not software.stop:
            _, _, one, other = await ctx.tick().sample(software.dut.engine.invalidate, software.dut.control.invalidate_pages)
            if one and other:
                together.append(1)

    async def test(software, ctx):
        place, lies = software.space.place(IOVA + page * PAGE, 0), FIRST
        for wait in range(44, 56):
            await software.translate(ctx, page)
            software.home.memory.write(place, (software.home.word(place) & 0x3FF | OTHER + wait << 10).to_bytes(8, "little"))
            await software.publish(ctx, *Command(IOVA, lies, OTHER + 0x100 + wait, 0, bare=True).halves)
            await ctx.tick().repeat(wait)
            await software.commands(ctx, Invalidation().pack())
            lies = OTHER + 0x100 + wait
            assert await software.translate(ctx, page) == OTHER + wait
    software.run(test, software.data_path, watch)
    assert together


@pytest.mark.parametrize("stages", [1, 2])
def test_what_was_moved_is_at_hand(stages, core=IommuCore):
    """With `precaches` who comes next hits, with what a walk finds, where there is one stage: of an entry without D no write does."""
    software = Core("precaches", core)
    if stages == 2:
        second = AddressSpace(software.memory, pages_from(0x9000_0000), Mode.SV39, second=True)
        space = AddressSpace(software.memory, pages_from(0xA000_0000), Mode.SV39, under=second, guest_allocate=pages_from(0x100_0000))
        for page in range(8):
            space.map(IOVA + page * PAGE, IOVA + (page + 8) * PAGE)     # another page of the guest than the number says
            second.map(IOVA + page * PAGE, (FIRST + page) * PAGE)
            second.map(IOVA + (page + 8) * PAGE, (FIRST + page + 8) * PAGE)
        software.space = second
        software.directory.device(DEVICE, DeviceContext(
            first_mode=Mode.SV39, first_ppn=space.ppn, second_mode=Mode.SV39, second_ppn=second.ppn, gscid=5, gade=1, sade=1))

    async def test(software, ctx):
        # D of page 6 is clear, and A of page 5.
        clean, unused = (software.space.place(IOVA + page * PAGE, 0) for page in (6, 5))
        for place, bit in ((clean, 7), (unused, 6)):
            software.home.memory.write(place, (software.home.word(place) & ~(1 << bit)).to_bytes(8, "little"))
        for precaches in (False, True):
            pages = range(4 * precaches, 4 * precaches + 3)
            await software.commands(ctx, *(half for page in pages for half in Command(
                IOVA + page * PAGE, FIRST + page, OTHER + page, page, bare=True, more=page != pages[-1], precaches=precaches).halves))
            assert stages == 2 or software.home.word(unused) >> 6 & 1 == precaches, "a page is kept, and its entry has no A"
            for page in pages:
                assert software.home.word(RECORDS + 8 * page) & 15 == MOVED
                expected = (FIRST + 8 if stages == 2 else OTHER) + page
                assert await software.translate(ctx, page, access=2) == expected
                assert (software.cycles == 2) == (precaches and stages == 1), software.cycles
        for page, hits in ((4, True), (6, False)) if stages == 1 else ():
            assert await software.translate(ctx, page) == OTHER + page and (software.cycles == 2) == hits
        assert stages == 2 or software.home.word(clean) >> 7 & 1, "a page is written, and its entry has no D"
    software.run(test, software.data_path)


@pytest.mark.parametrize(("stages", "change"), [
    (1, ("walk.locates.eq(self._locates & ~self._precaches)", "walk.locates.eq(self._locates)")),
    (2, ("self._precaches & ~(self._context.first & self._context.second)", "self._precaches")),
], ids=["without A", "of two stages"])
def test_planted_bug_in_what_is_at_hand_is_found(stages, change):
    with pytest.raises(AssertionError):
        test_what_was_moved_is_at_hand(stages, edited(IommuCore, Translator=edited(Translator, Misses=edited(Misses, change))))


def test_planted_bug_is_found():
    with pytest.raises(AssertionError):
        test_a_command_and_a_move_invalidate_at_the_same_time(
            edited(IommuCore, ("engine.pages.paged & ~control.invalidate_pages", "engine.pages.paged")))
