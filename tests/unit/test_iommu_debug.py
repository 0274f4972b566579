# amaranth: UnusedElaboratable=no
"""The debug interface: what software asks for is answered as the IOMMU in software says, beside devices that translate."""

from collections import deque

import pytest
from iommu_software import BOTH, FIRST_ONLY, IOVA, LARGE, PLAIN, READ_ONLY, SECOND_ONLY, UNKNOWN, Devices

from pagehop.iommu.core import IommuCore
from pagehop.iommu.debug_translation import DebugTranslation
from pagehop_sim.planted import edited, planted
from pagehop_tb.driver import iommu_registers as registers
from pagehop_tb.models.iommu import BUILT, EVERYTHING, PAGE, Access, Event, Iommu, Request, Status, page_size
from pagehop_tb.simulate import seeded

RECORDS, RECORD_BYTES, QUEUE_LOG = 0x7300_0000, 32, 8
BUSY = 1
#: Cycles in which an answer is there whatever devices do: a walk of two stages, and what stands before it.
SOON = 2_500


def answer(outcome):
    """``tr_response``; None of what means nothing."""
    if outcome.status is not Status.TRANSLATED:
        return 1, None
    size = min(outcome.size, page_size(1)) if outcome.size == EVERYTHING else outcome.size
    # "the first bit with a value of 0 at position X, then the superpage size is 2^(X+1) * 4 KiB".
    page = outcome.address >> 12 & ~(size // PAGE - 1) | size // PAGE // 2 - (size > PAGE)
    return 0, page << 10 | (size > PAGE) << 9


class Debugger(Devices):
    """Software that asks what devices would get, and devices that go on."""
    def __init__(self, name, core=IommuCore, rate=0.0):
        super().__init__(seeded(f"debug/{name}"), core(modify=True, ats=True, counters=1, debug=True, messages=False, tags=2))
        self.model = Iommu(self.memory, BUILT, self.directory.mode, self.directory.ppn)
        self.rate, self.open, self.answered, self.asked = rate, {}, 0, 0
        self.records, self.wrong = 0, []

    async def devices(self, ctx):
        """Requests of eight numbers, and what comes back."""
        dut, waits, free = self.dut, None, deque(range(8))
        while not self.stop:
            if waits is None and free and self.rng.random() < self.rate:
                number = free.popleft()
                waits = number, self.request(Access.READ, Access.WRITE)
                self.offer(ctx, waits[1], number)
            *_, taken, comes, response = await ctx.tick().sample(dut.request.ready & dut.request.valid, dut.response.valid, dut.response.payload)
            if taken:
                self.open[waits[0]] = waits[1]
                ctx.set(dut.request.valid, 0)
                waits = None
                self.asked += 1
            if comes and int(response.id) not in self.open:
                self.wrong.append("a device gets an answer to nothing")
            elif comes:
                free.append(int(response.id))
                request = self.open.pop(int(response.id))
                outcome = self.model.translate(request)
                found = (response.status.value == 0, response.translation.ppn if response.status.value == 0 else 0)
                if found != (outcome.status is Status.TRANSLATED, outcome.address >> 12):
                    self.wrong.append(f"{request} is answered {found}")
                self.answered += 1

    async def queue_on(self, ctx):
        await self.access(ctx, registers.Fqb.offset, RECORDS >> 2 | QUEUE_LOG - 1)
        await self.access(ctx, registers.Fqcsr.offset, 1, size=4)

    async def order(self, ctx, request, go=BUSY, halves=False):
        """Write the registers."""
        control = go | (request.access is Access.READ) << 3 | request.device_id << 40
        if request.process_id is not None:
            control |= request.process_id << 12 | 1 << 32 | request.privileged << 1
        await self.access(ctx, registers.TrReqIova.offset, request.iova)
        if halves:
            await self.access(ctx, registers.TrReqCtl.offset + 4, control >> 32, size=4)
            await self.access(ctx, registers.TrReqCtl.offset, control & 0xFFFF_FFFF, size=4)
        else:
            await self.access(ctx, registers.TrReqCtl.offset, control)
        return control

    async def finished(self, ctx, control):
        """Wait until it is not busy; return ``tr_response``, as far as it means anything."""
        for _ in range(SOON // 12):
            now = await self.access(ctx, registers.TrReqCtl.offset)
            assert now & ~BUSY == control & ~BUSY and not self.wrong, self.wrong
            if not now & BUSY:
                break
        else:
            raise AssertionError("it stays busy")
        response = await self.access(ctx, registers.TrResponse.offset)
        return response & 1, None if response & 1 else response

    async def record(self, ctx):
        """The next fault record."""
        for _ in range(40):
            if await self.access(ctx, registers.Fqt.offset, size=4) != self.records % (1 << QUEUE_LOG):
                break
        else:
            raise AssertionError("there is no record")
        place = RECORDS + RECORD_BYTES * (self.records % (1 << QUEUE_LOG))
        self.records += 1
        return self.home.memory.read(place, RECORD_BYTES)

    def question(self):
        """Of a page of any size, of none, of nobody; a few with a number of a process."""
        rng = self.rng
        device = rng.choice((FIRST_ONLY, FIRST_ONLY, SECOND_ONLY, BOTH, PLAIN, UNKNOWN, 0x12_0020))
        iova = rng.choice((IOVA + rng.randrange(5) * PAGE, READ_ONLY, *(base + rng.randrange(size) for size, base in LARGE.items())))
        iova |= 1 << rng.choice((39, 50, 60)) if rng.random() < 0.1 else 0
        process = {"process_id": rng.randrange(1, 1 << 20), "privileged": rng.random() < 0.5} if rng.random() < 0.1 else {}
        return Request(device, iova & ~(PAGE - 1), rng.choice((Access.READ, Access.WRITE)), **process)


def questions(name, core=IommuCore, count=60):
    """The same answers and records as those of the IOMMU in software."""
    software, seen = Debugger(name, core), set()

    async def test(software, ctx):
        assert await software.access(ctx, registers.Capabilities.offset) >> 31 & 1
        await software.queue_on(ctx)
        await software.access(ctx, registers.Iohpmevt.offset, Event.UNTRANSLATED)
        for turn in range(count):
            request = software.question()
            outcome = software.model.translate(request)
            control = await software.order(ctx, request, halves=turn % 4 == 3)
            found = await software.finished(ctx, control)
            assert found == answer(outcome), f"{request} is answered {found}, not {answer(outcome)}"
            if outcome.record:
                assert await software.record(ctx) == outcome.record.pack(), f"{request}: another record than {outcome.record}"
            seen.add((outcome.cause, min(outcome.size, EVERYTHING) if not outcome.record else 0))
        assert await software.access(ctx, registers.Fqt.offset, size=4) == software.records, "a fault without a record"
        assert await software.access(ctx, registers.Iohpmctr.offset) == count
    software.run(test, software.data_path, software.devices)
    assert len(seen) >= 9, seen


def test_answers_are_those_of_the_model():
    questions("questions")


def beside(name, core=IommuCore, count=25):
    """Devices that ask all the time get their own answers, and software gets its own, soon."""
    software = Debugger(name, core, rate=1.0)

    async def test(software, ctx):
        for _ in range(count):
            request = software.question()
            found = await software.finished(ctx, await software.order(ctx, request))
            assert found == answer(software.model.translate(request)), request
    software.run(test, software.data_path, software.devices)
    assert software.answered > 200 and not software.wrong, software.wrong


def test_devices_go_on_meanwhile():
    beside("beside")


def while_busy(core=IommuCore):
    """What is written while it is busy changes nothing; without Go nothing is asked; Go cannot be taken back."""
    software = Debugger("busy", core)

    async def test(software, ctx):
        one, other = Request(FIRST_ONLY, IOVA, Access.READ), Request(BOTH, IOVA, Access.WRITE)
        for first, second in ((one, other), (other, one)):
            control = await software.order(ctx, first)
            await software.access(ctx, registers.TrReqCtl.offset, second.device_id << 40 | BUSY)
            assert await software.access(ctx, registers.TrReqCtl.offset) == control, "it is not busy, or has changed"
            await software.access(ctx, registers.TrReqCtl.offset, 0)
            assert await software.finished(ctx, control) == answer(software.model.translate(first))
            await software.commands(ctx, 1, 3)     # so that the next one takes as long
        before = await software.access(ctx, registers.TrResponse.offset)
        control = await software.order(ctx, Request(SECOND_ONLY, IOVA + PAGE, Access.READ), go=0)
        assert await software.access(ctx, registers.TrReqCtl.offset) == control
        await ctx.tick().repeat(200)
        assert await software.access(ctx, registers.TrResponse.offset) == before
        # Bits that there are not.
        await software.access(ctx, registers.TrReqCtl.offset, (1 << 64) - 2)
        assert await software.access(ctx, registers.TrReqCtl.offset) == (1 << 64) - 1 & ~(1 | 4 | 0xFF << 4 | 0x7F << 33)
        await software.access(ctx, registers.TrReqIova.offset, (1 << 64) - 1)
        assert await software.access(ctx, registers.TrReqIova.offset) == (1 << 64) - PAGE
    software.run(test, software.data_path)


def test_while_busy():
    while_busy()


@pytest.mark.parametrize(("change", "test"), [
    (("self.translated.valid & translated.id[-1]", "self.translated.valid"), lambda core: beside("planted", core)),
    (("self.translated.valid & ~translated.id[-1]", "self.translated.valid"), lambda core: questions("planted", core)),
    (("self.request.ready.eq(self.translate.ready & ~asks)", "self.request.ready.eq(self.translate.ready)"),
     lambda core: beside("planted", core)),
    (("m.d.sync += asks.eq(~self.translate.ready)", "m.d.sync += asks.eq(0)"), lambda core: beside("planted", core)),
    (("with m.If(~control.go_busy):", "with m.If(~control.go_busy | write.strobe.any()):"), while_busy),
    (("Mux(control.nw, Access.READ, Access.WRITE)", "Access.READ"), lambda core: questions("planted", core)),
    (("ours.process_valid.eq(control.pv)", "ours.process_valid.eq(0)"), lambda core: questions("planted", core)),
    (("sized(answer.translation)", "answer.translation.ppn"), lambda core: questions("planted", core)),
    (("response.fault.eq(answer.status != Status.TRANSLATED)", "response.fault.eq(0)"), lambda core: questions("planted", core)),
], ids=["takes others' answers", "gives away its own", "takes a turn", "asked once", "changed while busy", "nw", "pv", "size", "fault"])
def test_planted_bug_is_found(change, test):
    with pytest.raises(AssertionError):
        test(edited(IommuCore, DebugTranslation=planted(DebugTranslation, *change)))
