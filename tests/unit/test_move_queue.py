"""The move queue against a ring in memory: every descriptor is taken once, in order, and has one record; nothing of one run gets into the next."""

from dataclasses import dataclass, field

import pytest

from pagehop.interposer.descriptor_reader import DescriptorReader
from pagehop.interposer.move_queue import MoveQueue
from pagehop.interposer.record_writer import RecordWriter
from pagehop_sim.planted import edited
from pagehop_tb.simulate import run, seeded

SLOTS, LIMIT, OUR_ID = 4, 400, 0xA00A
DESCRIPTOR, RECORD = 32, 16
#: Cycles in which a machine must be done with what it has.
LONG = 4000


@dataclass
class Slot:
    """One slot: what it was given and when it ends."""
    index: int = -1
    ends: int = -1
    status: dict = field(default_factory=lambda: {"busy": 0, "done": 0, "failed": 0, "error": 0, "hold": 0, "total": 0})
    until: int = -1     # a move of software's own


class Machine:
    """Memory, slots and software around a queue, one call of :meth:`step` a cycle."""
    def __init__(self, dut, rng):
        self.dut, self.rng, self.cycle = dut, rng, 0
        self.slots = [Slot() for _ in range(SLOTS)]
        self.reads, self.beats = [], []         # (cycle, tag, address) to be answered; beats on their way
        self.silent = self.bad = False
        self.late = []                          # answers to reads that were given up: (cycle, tag, None)
        self.starts, self.records = 0, {}

    async def begin(self, ctx, order, base, own, host):
        """Enable the queue for a new ring."""
        self.order, self.base, self.own, self.host = order, base, own, host
        self.ring = [None] * (1 << order)
        self.tail = self.next = self.done = 0
        self.moves, self.records = [], {}
        await self.set(ctx, enable=1)

    async def set(self, ctx, **changes):
        settings = {"base": self.base, "records": self.base + 0x10_0000, "tail": self.tail % 65536, "slots": self.own, "order": self.order,
                    "host": self.host, "enable": 1, **changes}
        ctx.set(self.dut.settings, settings)

    def put(self):
        """Software puts a move into the ring."""
        size, rng = 1 << self.order, self.rng
        command = rng.choice([0, 1, 2]) << 4 | rng.randrange(2) << 8 | rng.getrandbits(8) << 16
        words = (rng.getrandbits(64), rng.getrandbits(64), command, rng.getrandbits(64))
        self.ring[self.tail % size] = words
        self.moves.append(words)
        self.tail += 1

    async def step(self, ctx):
        dut, rng = self.dut, self.rng
        self._answer(ctx)
        ctx.set(dut.o_read.ready, rng.random() < 0.6)
        ctx.set(dut.o_record.ready, rng.random() < 0.6)
        started = 0
        for number, slot in enumerate(self.slots):
            if not self.own >> number & 1 and not slot.status["busy"] and rng.random() < 0.05:
                started |= 1 << number
                slot.until = self.cycle + rng.randrange(5, 60)
        ctx.set(dut.started, started)
        ended = sum(1 << number for number, slot in enumerate(self.slots) if slot.ends == self.cycle or slot.until == self.cycle)
        ctx.set(dut.ended, ended)
        self._look(ctx)
        start, request = ctx.get(dut.start), ctx.get(dut.request)
        await ctx.tick()
        for number, slot in enumerate(self.slots):
            if ended >> number & 1:
                done = rng.randrange(2)
                slot.status = {"busy": 0, "done": done, "failed": 1 - done, "error": 0 if done else 13, "hold": rng.getrandbits(32),
                               "total": rng.getrandbits(32)}
            if started >> number & 1:
                slot.status = {**slot.status, "busy": 1}
        self._start(start, request)
        for number, slot in enumerate(self.slots):
            ctx.set(dut.status[number], slot.status)
        self.cycle += 1

    def _start(self, start, request):
        assert start & start - 1 == 0
        for number, slot in enumerate(self.slots):
            if start >> number & 1:
                assert self.own >> number & 1, "a slot that is software's was started"
                assert not slot.status["busy"] and slot.index not in self.open(), "a slot was started that was not free"
                assert self.next < len(self.moves), "a descriptor was taken that nobody put into the ring"
                source, destination, command, _ = self.moves[self.next]
                assert (request.source, request.destination) == (source, destination), f"descriptor {self.next} is another"
                assert (request.mode.value, request.to_host, request.page_size) == (command >> 4 & 3, command >> 8 & 1, command >> 16 & 0xFF)
                slot.index, slot.ends = self.next, self.cycle + self.rng.randrange(3, 80)
                slot.status = {**slot.status, "busy": 1}
                self.next += 1
                self.starts += 1

    def open(self):
        """Descriptors that were taken and have no record."""
        return set(range(self.next)) - set(self.records)

    def _look(self, ctx):
        """What goes to the host."""
        dut = self.dut
        if ctx.get(dut.o_read.valid) and ctx.get(dut.o_read.ready):
            head = ctx.get(dut.o_read.payload.header)
            address, tag = self._address(head), head >> 72 & 0xFF
            assert head >> 96 & 0x3FF == DESCRIPTOR // 4 and head >> 80 & 0xFFFF == OUR_ID and head >> 64 & 0xFF == 0xFF
            used = [read[1] for read in self.reads if read[2] is not None]
            assert tag & 0xF0 == (0x80 | self.host << 6 | 0x20) and tag not in used, f"tag {tag:#x}"
            place, rest = divmod(address - self.base, DESCRIPTOR)
            assert rest == 0 and 0 <= place < 1 << self.order
            (self.late if self.silent else self.reads).append((self.cycle + self.rng.randrange(5, 120), tag, place))
        if ctx.get(dut.o_record.valid) and ctx.get(dut.o_record.ready):
            payload = ctx.get(dut.o_record.payload)
            assert ctx.get(dut.recorded) and payload.dwords == RECORD // 4 and payload.first and payload.last
            self._record(self._address(payload.header), payload.data & (1 << 128) - 1)
        else:
            assert not ctx.get(dut.recorded)

    @staticmethod
    def _address(head):
        wide = head >> 125 & 1
        return (head >> 32 & 0xFFFF_FFFF) << 32 | head & 0xFFFF_FFFF if wide else head >> 32 & 0xFFFF_FFFF

    def _record(self, address, word):
        index, number = word >> 16 & 0xFFFF, word >> 32 & 7
        slot = self.slots[number]
        assert slot.index == index and index not in self.records, f"a record of descriptor {index} from slot {number}, which has {slot.index}"
        assert address == self.base + 0x10_0000 + RECORD * (index % (1 << self.order))
        assert word >> 15 & 1 == 1 - (index >> self.order & 1), "the turn"
        assert (word >> 1 & 1, word >> 2 & 1, word >> 8 & 0xF) == (slot.status["done"], slot.status["failed"], slot.status["error"])
        assert (word >> 64 & 0xFFFF_FFFF, word >> 96) == (slot.status["hold"], slot.status["total"])
        self.records[index] = word

    def _answer(self, ctx):
        dut, width = self.dut, self.dut.data_bytes
        due = [read for read in self.reads if read[0] <= self.cycle]
        if not self.beats and due:
            read = self.rng.choice(due)
            self.reads.remove(read)
            _, tag, place = read
            words = self.ring[place] if place is not None else None
            data = b"".join(word.to_bytes(8, "little") for word in words or (0,) * 4)
            bad = self.bad and self.rng.random() < 0.5
            # CplD (2.2.9) of eight double words, or Cpl with UR.
            dws = ((0x0A if bad else 0x4A) << 24 | (0 if bad else 8), 0x0100 << 16 | (1 << 13 if bad else 0) | 32, OUR_ID << 16 | tag << 8, 0)
            head = sum(dw << 32 * (3 - n) for n, dw in enumerate(dws))
            parts = [data[n:n + width] for n in range(0, DESCRIPTOR, width)] if not bad else [b""]
            self.beats = [{"data": int.from_bytes(part, "little"), "header": head if n == 0 else 0, "dwords": len(part) // 4, "first": n == 0,
                           "last": n == len(parts) - 1} for n, part in enumerate(parts)]
        beat = self.beats.pop(0) if self.beats and self.rng.random() < 0.8 else None
        ctx.set(dut.completion.valid, beat is not None)
        if beat:
            ctx.set(dut.completion.payload, beat)


def exercise(dut, name):
    machine = Machine(dut, seeded(name))
    rng = machine.rng

    async def until(ctx, condition, what):
        for _ in range(LONG):
            if condition():
                return
            await machine.step(ctx)
        raise AssertionError(what)

    async def ring(ctx, count):
        """Put moves into the ring as it has room, until ``count`` have their records."""
        for _ in range(LONG * 4):
            if len(machine.records) == count:
                return
            while machine.tail < count and machine.tail - (1 << machine.order) not in machine.open() | set(range(machine.next, machine.tail)) \
                    and rng.random() < 0.3:
                machine.put()
            await machine.set(ctx)
            await machine.step(ctx)
        raise AssertionError("records are missing")

    async def stop(ctx, again=False):
        await machine.set(ctx, enable=0)
        await machine.step(ctx)
        await machine.step(ctx)
        if again:   # on again while something is on its way: it begins anew when that has ended
            await machine.set(ctx, tail=0)
        await until(ctx, lambda: ctx.get(dut.state.idle), "the queue is never idle")
        assert not machine.open(), "idle with a move that has no record"
        await machine.step(ctx)
        await machine.step(ctx)

    async def bench(ctx):
        ctx.set(dut.requester_id, OUR_ID)
        ctx.set(dut.limit, LIMIT)
        for turn in range(6):
            order, base = rng.choice([0, 1, 3, 5]), rng.choice([0x12_0000, 0x7_0000_0000, 0xFFFF_FFE0])
            await machine.begin(ctx, order, base, rng.choice([0b1111, 0b0110, 0b1000]), rng.randrange(2))
            await ring(ctx, 40)
            assert ctx.get(dut.state.taken) == ctx.get(dut.state.done) == 40 and not ctx.get(dut.state.running) and not ctx.get(dut.state.error)
            # Off in the middle: what was taken gets its record, and the next ring begins with its first descriptor.
            for _ in range(min(3, 1 << order)):
                machine.put()
            await machine.set(ctx)
            for _ in range(rng.randrange(120)):
                await machine.step(ctx)
            await stop(ctx, again=turn % 2 == 0)
            # A descriptor that cannot be read stops the queue, not what runs.
            await machine.begin(ctx, 3, base, 0b0011, rng.randrange(2))
            machine.silent, machine.bad = turn % 2 == 0, turn % 2 == 1
            for _ in range(8):
                machine.put()
            await machine.set(ctx)
            await until(ctx, lambda: ctx.get(dut.state.error), "nothing is said of a descriptor that cannot be read")
            machine.silent = machine.bad = False
            taken = machine.next
            for _ in range(100):
                await machine.step(ctx)
            assert machine.next == taken and ctx.get(dut.state.error)
            machine.reads.clear()
            await stop(ctx)
            # What was given up is answered in the next run, with something else.
            machine.reads = [(machine.cycle + rng.randrange(20, 60), tag, None) for _, tag, _ in machine.late]
            machine.late.clear()
            assert not ctx.get(dut.state.error)

    run(dut, bench)
    assert machine.starts > 240


@pytest.mark.parametrize("data_bytes", [16, 64])
def test_every_descriptor_is_taken_once_and_has_one_record(data_bytes):
    exercise(MoveQueue(data_bytes, SLOTS), f"queue/{data_bytes}")


BUGS = {
    "a slot is started twice": lambda: edited(MoveQueue, (" & ~self.running & ~self.started & ~self.start)", ")")),
    "software's slots are taken": lambda: edited(MoveQueue, ("free.eq(self.settings.slots & ", "free.eq(")),
    "off at once": lambda: edited(MoveQueue, ("settings.enable & (on | state.idle)", "settings.enable")),
    "a descriptor is offered twice": lambda: edited(MoveQueue, DescriptorReader=edited(
        DescriptorReader, ("shown.eq(there.bit_select(head, 1) & ~taken.any())", "shown.eq(there.bit_select(head, 1))"))),
    "an error is data": lambda: edited(MoveQueue, DescriptorReader=edited(
        DescriptorReader, ("shown.eq((header.status == CompletionStatus.SUCCESS.value) & ", "shown.eq(1 | "))),
    "silence is waited for": lambda: edited(MoveQueue, DescriptorReader=edited(DescriptorReader, ("(timer >= self.limit)", "0"))),
    "late answers are taken": lambda: edited(MoveQueue, DescriptorReader=edited(
        DescriptorReader, ("generation.eq(~generation)", "generation.eq(0)"))),
    "the turn": lambda: edited(MoveQueue, ("~index.bit_select(settings.order, 1)", "1")),
    "a record twice": lambda: edited(MoveQueue, RecordWriter=edited(RecordWriter, ("self.written.eq(chosen)", "self.written.eq(chosen & 1)"))),
}


@pytest.mark.parametrize("bug", BUGS)
def test_planted_bug_is_found(bug):
    with pytest.raises(AssertionError):
        exercise(BUGS[bug]()(64, SLOTS), "queue/bug")
