"""Claims about the queues of the IOMMU: what is published is executed once, as it was published, and head and tail never pass each other."""

from amaranth.hdl import Assert, Assume, Cover, Elaboratable, Module, Mux, Signal
from amaranth.lib import data
from rules import any_constant, any_value, past

from pagehop.iommu.command_queue import CommandQueue
from pagehop.iommu.commands import InvalidatePages, Opcode
from pagehop.iommu.layouts import FaultRecord
from pagehop.iommu.record_queue import RecordQueue
from pagehop_sim.formal import Proof
from pagehop_sim.planted import planted

CQEN = 1


class CommandsOnce(Elaboratable):
    """One command is watched, an invalidation in any place of a queue of 2 to 8. Memory has it from when it is published on, and anything before, and
    anything for the others, in any time. When ``head`` passes its place the cache has been told what it says, once, in the cycle before. ``head``
    goes by one, never beyond ``tail``, and no fence stores or drains while something is stale."""
    def __init__(self, queue=CommandQueue):
        self.queue = queue

    def elaborate(self, platform):
        m = Module()
        m.submodules.dut = dut = self.queue(fence_bits=4)
        began = past(m, 1, "began")
        mask = Signal(3)
        m.d.comb += [
            dut.base.log2sz.eq(any_constant(m, 2, "log2sz")), Assume(dut.base.log2sz < 3), mask.eq((2 << dut.base.log2sz) - 1),
            dut.csr_write.strobe.eq(Mux(began, 2, 1)), dut.csr_write.data.eq(Mux(began, any_value(m, 32, "cleared"), CQEN)),
            dut.stale.eq(any_value(m, 1, "stale")), dut.drained.eq(any_value(m, 1, "drained")),
            dut.drain_failed.eq(any_value(m, 1, "drain_failed")),
        ]
        head, tail, published = dut.head[:3], dut.tail[:3], Signal(3)
        # Software goes forward, as far as there is room.
        written, writes = any_value(m, 3, "written"), any_value(m, 1, "writes") & past(m, began, "settled") & dut.csr.cqon
        m.d.comb += [
            published.eq((tail - head) & mask), dut.tail_write.strobe.eq(writes), dut.tail_write.data.eq(written),
            Assume(~writes | ((((written - head) & mask) >= published) & (written <= mask))),
        ]
        place, command = any_constant(m, 3, "place"), any_constant(m, 128, "command")
        view = data.View(InvalidatePages, command)
        m.d.comb += [Assume(place <= mask), Assume(view.opcode == Opcode.IOTINVAL)]
        # The watched one comes in the first round of the queue, or in the second.
        rounds, which = Signal(2), any_constant(m, 1, "which")
        self._memory(m, dut, place, command, (((place - head) & mask) < published) & (rounds == which))
        executed, moved = dut.invalidate_pages | dut.invalidate_contexts, dut.head != past(m, dut.head, "head")
        was, past_tail, told = past(m, head, "was"), past(m, tail, "past_tail"), past(m, executed, "told")
        pages, told_pages = past(m, dut.pages, "pages"), past(m, dut.invalidate_pages, "told_pages")
        on, unsettled = past(m, dut.csr.cqon, "on"), self._unsettled(m, dut)
        with m.If(on & moved):
            m.d.comb += [Assert(was != past_tail), Assert(dut.head == ((was + 1) & mask))]
        with m.If(on & moved & (was == place)):
            m.d.sync += rounds.eq(rounds + ~rounds[1])
        with m.If(on & moved & (was == place) & (rounds == which)):
            m.d.comb += [Assert(told_pages), Assert(pages[0] == (view.av & ~view.function[0])), Assert(pages[1:] == view.page[:38])]
        with m.If(told):
            m.d.comb += Assert(moved)
        with m.If(dut.drain | (dut.memory.a.valid & (dut.memory.a.payload.size == 2))):
            m.d.comb += Assert(~unsettled)
        self.claim(m, rounds > which)
        return m

    def claim(self, m, done):
        """What else is claimed."""

    @staticmethod
    def _unsettled(m, dut):
        """Something has been stale ever since the last invalidation."""
        unsettled = Signal()
        with m.If(~dut.stale):
            m.d.sync += unsettled.eq(0)
        with m.Elif(dut.invalidate_pages | dut.invalidate_contexts):
            m.d.sync += unsettled.eq(1)
        return unsettled & dut.stale

    @staticmethod
    def _memory(m, dut, place, command, there):
        """A beat of an answer in any cycle; the watched command is in it if it was published when the line was asked for."""
        ask, answer = dut.memory.a, dut.memory.d
        busy, beat, has = Signal(), Signal(3), Signal()
        word = any_value(m, 64, "word")
        m.d.comb += [
            ask.ready.eq(any_value(m, 1, "ready") & ~busy), answer.valid.eq(any_value(m, 1, "answers") & busy),
            answer.payload.data.eq(Mux(has & (beat[1:] == place[:2]), Mux(beat[0], command[64:], command[:64]), word)),
        ]
        store = Signal()
        with m.If(ask.valid & ask.ready):
            m.d.sync += [busy.eq(1), beat.eq(0), store.eq(ask.payload.size == 2), has.eq(there & (ask.payload.address[6] == place[2]))]
        with m.If(answer.valid):
            m.d.sync += beat.eq(beat + 1)
            with m.If(store | beat.all()):
                m.d.sync += busy.eq(0)


class CommandsPass(CommandsOnce):
    """The watched command is passed."""
    def claim(self, m, done):
        m.d.comb += Cover(done)


class RecordsKeepTheirPlace(Elaboratable):
    """``tail`` goes by one, never onto ``head``, and only when a write of four beats to its place has been acknowledged; a record that leaves without
    one meets an error, a full queue, or one that is off."""
    def __init__(self, queue=RecordQueue):
        self.queue = queue

    def elaborate(self, platform):
        m = Module()
        m.submodules.dut = dut = self.queue(FaultRecord, "f")
        began, mask = past(m, 1, "began"), Signal(3)
        head, tail = dut.head[:3], dut.tail[:3]
        read, reads = any_value(m, 3, "read"), any_value(m, 1, "reads") & dut.csr.fqon
        ask, answer = dut.memory.a, dut.memory.d
        busy, beats = Signal(), Signal(3)
        m.d.comb += [
            dut.base.log2sz.eq(any_constant(m, 2, "log2sz")), Assume(dut.base.log2sz < 3), mask.eq((2 << dut.base.log2sz) - 1),
            dut.csr_write.strobe.eq(Mux(began, 2, 1)), dut.csr_write.data.eq(Mux(began, any_value(m, 32, "cleared"), 1)),
            # Software reads what has been written, and no more.
            dut.head_write.strobe.eq(reads), dut.head_write.data.eq(read),
            Assume(~reads | ((((tail - read) & mask) <= ((tail - head) & mask)) & (read <= mask))),
            dut.record.valid.eq(any_value(m, 1, "valid")), ask.ready.eq(any_value(m, 1, "ready") & ~busy),
            answer.valid.eq(any_value(m, 1, "answers") & busy), answer.payload.denied.eq(any_value(m, 1, "denied")),
        ]
        with m.If(ask.valid & ask.ready):
            m.d.comb += [Assert(ask.payload.address[5:8] == tail), Assert(dut.record.ready == (beats == 3))]
            m.d.sync += [beats.eq(beats + 1), busy.eq(beats == 3)]
        with m.If(answer.valid):
            m.d.sync += [busy.eq(0), beats.eq(0)]
        waited = past(m, dut.record.valid & ~dut.record.ready, "waited")
        with m.If(waited):
            m.d.comb += Assume(dut.record.valid)
        on = past(m, dut.csr.fqon, "on")
        was, acknowledged, past_head = past(m, tail, "was"), past(m, answer.valid & ~answer.payload.denied, "acknowledged"), past(m, head, "head")
        with m.If(on & (dut.tail != was)):
            m.d.comb += [Assert(dut.tail == ((was + 1) & mask)), Assert(dut.tail != past_head), Assert(acknowledged)]
        with m.If(dut.record.valid & dut.record.ready & ~ask.valid):
            full = ((tail + 1) & mask) == head
            m.d.comb += Assert(~dut.csr.fqon | dut.csr.fqmf | dut.csr.fqof | full)
        return m


PROOFS = [
    Proof("queues_commands", CommandsOnce.__doc__, CommandsOnce, "bmc", 26, seconds=600, bugs={
        "executed before it is there": lambda: CommandsOnce(planted(CommandQueue, "with m.If(beat[0]):", "with m.If(1):")),
        "passed twice": lambda: CommandsOnce(planted(CommandQueue, "(self.head + 1) & self._mask", "self.head + 1")),
        "executed before it was published": lambda: CommandsOnce(planted(CommandQueue, "& ~Mux(upto, every << self.tail[:2], 0)", "")),
        "runs over the tail": lambda: CommandsOnce(planted(CommandQueue, "~stopped & ahead", "~stopped")),
        "a fence does not wait": lambda: CommandsOnce(planted(CommandQueue, "with m.If(~self.stale):", "with m.If(1):")),
    }),
    Proof("queues_pass", CommandsPass.__doc__, CommandsPass, "cover", 20, bugs={
        "never asks": lambda: CommandsPass(planted(CommandQueue, 'm.next = "ask"', 'm.next = "idle"')),
    }),
    Proof("queues_records", RecordsKeepTheirPlace.__doc__, RecordsKeepTheirPlace, "bmc", 30, bugs={
        "never full": lambda: RecordsKeepTheirPlace(planted(RecordQueue, "with m.Elif(following == self.head):", "with m.Elif(0):")),
        "left too early": lambda: RecordsKeepTheirPlace(planted(
            RecordQueue, "self.record.ready.eq(ask.ready & beat.all())", "self.record.ready.eq(ask.ready & beat[1])")),
        "a refused one counts": lambda: RecordsKeepTheirPlace(planted(RecordQueue, "with m.If(self.memory.d.payload.denied):", "with m.If(0):")),
    }),
]
