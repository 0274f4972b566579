"""The dirty log against a host's memory: every write is reported in time, whatever software does to the words meanwhile (I12)."""

from functools import partial

import pytest

from pagehop.interposer.dirty_log import DirtyLog
from pagehop.interposer.log_decode import LogDecode
from pagehop.interposer.log_forms import LogForms
from pagehop.interposer.log_settings import LogError
from pagehop.interposer.log_tables import LogTables
from pagehop.interposer.log_words import LogWords
from pagehop.interposer.visible_wait import VisibleWait
from pagehop.iommu.entry_format import RiscvEntries
from pagehop_sim.planted import edited
from pagehop_tb.models.iommu import AddressSpace, Mode, pages_from
from pagehop_tb.protocol import answer, encode, memory_read
from pagehop_tb.simulate import run, seeded

OUR_ID, LIMIT = 0x0208, 600
#: Cycles from the choice of a write to the command of who has seen it, at least.
SEEN = 12
#: Cycles after which what must happen has not.
LONG = 6000
#: Base, pages, base-2 logarithm of the unit: the finest, one that is coarser than what is written, and one that lies in the first.
RANGES = ((0x1_0000_0000, 4096, 11), (0x40_0000_0000, 1 << 20, 21), (0x1_0000_0000, 64, 12), (0x80_0000_0000, 512, 13))
BITMAPS = ((0x1000, 0x9000), (0xF_0000_0000, 0xF_8000_0000), (0x2000, 0xA000), (0xFFFF_F000, 0x3000))
PAGE, WORD = 4096, 64
ALL = (1 << 64) - 1


class Machine:
    """The device that writes, its way to both hosts, a host's memory, and software that takes reports. ``busy``: how often the device writes."""

    ranges = RANGES

    def __init__(self, dut, rng, ping_pong, host):
        self.dut, self.rng, self.ping_pong, self.host = dut, rng, ping_pong, host
        self.cycle, self.paused = 0, [0, 0]
        self.memory = {}
        self.egress = ([], [])          # of each host: (kind, argument), in order
        self.issue, self.local = [], []
        self.counts = {"entered": 0, "accepted": 0, "local_entered": 0, "local_accepted": 0}
        self.flushes = [{"issued": 0, "done": 0, "newest": 0} for _ in range(2)]
        self.answers, self.late = [], []
        self.writes = []                # [units, cycle in which it was visible]
        self.requests, self.rate, self.silent, self.bad = 0, 0.3, False, False
        self.atomics, self.epoch = [], 0
        self.paces()
        self.hot = [self._place() for _ in range(12)]

    def paces(self):
        """Choose how quick everything is for some time, and how many pages are written how often."""
        rng = self.rng
        self.pace = [rng.choice((0.1 if number == self.host else 0.03, 0.6)) for number in range(2)]
        self.issues, self.locals = rng.choice((0.02, 0.9)), rng.choice((0.03, 0.5))
        self.span, self.heat = rng.choice((1, 12)), rng.choice((0.5, 1))

    def _place(self):
        number = self.rng.randrange(4)
        base, pages, _ = self.ranges[number]
        return base + PAGE * self.rng.choice([-1, 0, pages - 1, pages, *(self.rng.randrange(pages) for _ in range(12))])

    def units(self, address, dwords):
        """Range and units that a write touches."""
        for number, (base, pages, shift) in enumerate(self.ranges):
            if base <= address < base + PAGE * pages:
                return {(number, unit) for unit in range((address - base) >> shift, ((address + 4 * dwords - 1 - base) >> shift) + 1)}
        return set()

    # The device.

    def _write(self, ctx):
        """Perhaps a write is chosen. It is told in the next cycle, and stands in the issue register then."""
        dut, rng = self.dut, self.rng
        full = len(self.issue) > 3 or max(map(len, self.egress)) > 30
        writes = not full and not self.paused[0] and rng.random() < self.rate
        self.paused = [self.paused[1], ctx.get(dut.pause)]
        ctx.set(dut.writes, writes)
        if not writes:
            return
        page = rng.choice(self.hot[:self.span]) if rng.random() < self.heat else self._place()
        dwords = rng.choice([1, 8, 64, 256])
        first = rng.choice([0, 512 - dwords, max(0, 512 - dwords // 2), 512, 1024 - dwords])
        ctx.set(dut.written, {"page": page >> 12, "first": first, "dwords": dwords % 1024})
        self.counts["entered"] = (self.counts["entered"] + 1) % 16
        write = [self.units(page + 4 * first, dwords), None]
        self.writes.append(write)
        self.issue.append((write, rng.random() < 0.2))

    def _move_on(self):
        rng = self.rng
        if self.issue and rng.random() < self.issues:
            write, atomic = self.issue.pop(0)
            self.counts["accepted"] = (self.counts["accepted"] + 1) % 16
            if atomic:
                self.atomics.append((self.cycle + rng.randrange(100, 1500), write, self.epoch))
            else:
                self.egress[rng.randrange(2)].append(("data", (write, self.cycle + SEEN)))
        if self.local and rng.random() < self.locals:
            self.counts["local_accepted"] = (self.counts["local_accepted"] + 1) % 16
            self.egress[self.host].append(self.local.pop(0))
        for atomic in [one for one in self.atomics if one[0] <= self.cycle]:
            atomic[1][1] = self.cycle
            self.atomics.remove(atomic)
        for number, one in enumerate(self.flushes):
            if one["newest"] != one["issued"] and rng.random() < 0.1:
                one["issued"] = one["newest"]
                self.egress[number].append(("flush", one["issued"]))
            egress = self.egress[number]
            if egress and rng.random() < self.pace[number] and (egress[0][0] != "data" or egress[0][1][1] <= self.cycle):
                self._perform(*egress.pop(0), number)

    def _perform(self, kind, argument, host):
        rng, word = self.rng, None
        if kind == "data":
            argument[0][1] = self.cycle
        elif kind == "flush":
            self.flushes[host]["done"] = argument
        elif kind == "write":
            self.memory[argument[0]] = argument[1]
        else:
            tag, address, known, new = argument
            word = self.memory.get(address, 0)
            if kind == "swap" and word == known:
                self.memory[address] = new
            (self.late if self.silent else self.answers).append((self.cycle + rng.randrange(3, 120), tag, word))

    # The log's own TLPs.

    def _take(self, ctx):
        dut = self.dut
        for name in ("o_request", "o_write"):
            stream = getattr(dut, name)
            if ctx.get(stream.valid) and ctx.get(stream.ready):
                beat, self.requests = ctx.get(stream.payload), self.requests + 1
                head = beat.header
                wide, kind, tag = head >> 125 & 1, head >> 120 & 0x5F, head >> 72 & 0xFF
                address = (head >> 32 & 0xFFFF_FFFF) << 32 | head & 0xFFFF_FFFF if wide else head >> 32 & 0xFFFF_FFFF
                assert wide == (address >> 32 != 0) and address % 8 == 0 and head >> 80 & 0xFFFF == OUR_ID and beat.first and beat.last
                first, second, length = beat.data & ALL, beat.data >> 64 & ALL, head >> 96 & 0x3FF
                assert (kind, length, beat.dwords) in {(0x00, 2, 0), (0x40, 2, 2), (0x4E, 4, 4)}, f"{kind:#x} of {length}"
                assert kind == 0x4E or head >> 64 & 0xFF == 0xFF
                if kind == 0x40:
                    assert name == "o_write" and self.ping_pong
                    assert not self.memory.get(address, 0) & ~first, "a bit is cleared"
                    item = ("write", (address, first))
                else:
                    assert name == "o_request" and self.may(kind == 0) and tag & 0xF0 == 0xB0 | self.host << 6
                    assert kind == 0 or not first & ~second, "a bit is cleared"
                    item = ("read" if kind == 0 else "swap", (tag, address, first, second))
                self.local.append(item)
                self.counts["local_entered"] = (self.counts["local_entered"] + 1) % 16

    def _answer(self, ctx):
        dut, due = self.dut, [one for one in self.answers if one[0] <= self.cycle]
        ctx.set(dut.completion.valid, bool(due))
        if due:
            answer = self.rng.choice(due)
            self.answers.remove(answer)
            bad = self.bad and self.rng.random() < 0.2
            # CplD (2.2.9) of two double words, or Cpl with UR.
            dws = ((0x0A if bad else 0x4A) << 24 | (0 if bad else 2), 0x0100 << 16 | (1 << 13 if bad else 0) | 8, OUR_ID << 16 | answer[1] << 8, 0)
            head = sum(dw << 32 * (3 - n) for n, dw in enumerate(dws))
            ctx.set(dut.completion.payload, {"data": 0 if bad else answer[2], "header": head, "dwords": 0 if bad else 2, "first": 1, "last": 1})

    async def step(self, ctx):
        """One cycle."""
        dut = self.dut
        self._move_on()
        self._write(ctx)
        self._answer(ctx)
        for stream in (dut.o_request, dut.o_write):
            ctx.set(stream.ready, self.rng.random() < 0.5 and len(self.local) < 3)
        for name, count in self.counts.items():
            ctx.set(getattr(dut, name), count)
        for number, one in enumerate(self.flushes):
            ctx.set(dut.flush[number], {**one, "dirty": 1, "clean": 0})
        ctx.set(dut.epochs.advance_ready, self.rng.random() < 0.5)
        ctx.set(dut.epochs.epoch, self.epoch)
        ctx.set(dut.epochs.atomics, sum(1 << epoch for epoch in {epoch for _, _, epoch in self.atomics}))
        self._take(ctx)
        self.epoch = (self.epoch + ctx.get(dut.advance)) % 4
        for number, one in enumerate(self.flushes):
            if ctx.get(dut.flush_request[number]) and one["newest"] == one["issued"]:
                one["newest"] = (one["issued"] + 1) % 64
        await ctx.tick()
        self.cycle += 1

    def may(self, reads):
        """Whether the log may read, or swap, in this mode."""
        return reads == self.ping_pong

    # Software.

    def clear(self):
        """What is written stands nowhere."""
        self.memory.clear()

    def _settings(self, enable):
        ranges = [{"base": base >> 12, "pages": pages, "shift": shift, "bitmap": list(bitmap)}
                  for (base, pages, shift), bitmap in zip(self.ranges, BITMAPS, strict=True)]
        return {"ranges": ranges, "enable": enable, "host": self.host, "ping_pong": self.ping_pong}

    async def start(self, ctx):
        """The log is switched on, with empty bitmaps; what was written before counts as reported when it is visible."""
        ctx.set(self.dut.settings, self._settings(0))
        for _ in range(10):
            await self.step(ctx)
        self.clear()
        ctx.set(self.dut.settings, self._settings(1))
        await self.step(ctx)
        await self.sync(ctx)
        return self.cycle

    async def sync(self, ctx):
        """Returns the error, if there is one."""
        ctx.set(self.dut.sync, 1)
        await self.step(ctx)
        ctx.set(self.dut.sync, 0)
        for _ in range(LONG):
            await self.step(ctx)
            if not ctx.get(self.dut.status.busy):
                return ctx.get(self.dut.status.error)
        raise AssertionError("a sync does not end")

    async def report(self, ctx):
        """Bits by range and unit, and when the report was asked for and was there; None for everything."""
        asked, found = self.cycle, set()
        error = await self.sync(ctx)
        side = 1 - ctx.get(self.dut.status.active) if self.ping_pong else 0
        for number, bitmaps in enumerate(BITMAPS):
            _, pages, shift = RANGES[number]
            places = [address for address in self.memory if 0 <= address - bitmaps[side] < (pages << 12 >> shift) // 8 + 8]
            for address in places:
                word = self.memory.pop(address)
                found |= {(number, (address - bitmaps[side]) * 8 + bit) for bit in range(WORD) if word >> bit & 1}
                if not self.ping_pong and self.rng.random() < 0.2:
                    await self.step(ctx)
        if not self.ping_pong:
            error = error if error != LogError.NONE else await self.sync(ctx)
        return asked, self.cycle, found if error == LogError.NONE else None

    def judge(self, reports):
        """Each write is in a report that came after it was visible, at the latest in the first that was asked for then (I12)."""
        touched = set()
        for units, visible in self.writes:
            touched |= units
            if visible is None:
                continue
            for unit in units:
                for asked, returned, found in reports:
                    if returned >= visible and (found is None or unit in found):
                        break
                    assert asked < visible, f"unit {unit}, visible in cycle {visible}, is not in the report of cycles {asked} to {returned}"
        for _, _, found in reports:
            assert found is None or found <= touched, f"{found - touched} were never written"


class TableMachine(Machine):
    """The same with page tables in place of bitmaps, whose entries software changes meanwhile, but for what they lead to."""

    ranges = ((0x1_0000_0000, 40, 12), (0x40_0000_0000, 500, 12), (0x1_0000_0000, 64, 12), (0x80_0000_0000, 16, 12))
    DIRTY, FREE = 1 << 7, 0x300

    def __init__(self, dut, rng, ping_pong, host):
        super().__init__(dut, rng, 0, host)
        self.space = AddressSpace(self, pages_from(0x60_0000_0000), Mode.SV48, second=True)
        self.places = {}
        for base, pages, _ in self.ranges:
            for page in range(pages):
                address = base + PAGE * page
                self.space.map(address, 0x10_0000_0000 + address, accessed=rng.random() < 0.5)
                self.places[min(self.units(address, 1))] = self.space.place(address)

    def read(self, address, size):
        return b"".join(self.memory.get(at, 0).to_bytes(8, "little") for at in range(address, address + size, 8))

    def write(self, address, data):
        self.memory |= {address + at: int.from_bytes(data[at:at + 8], "little") for at in range(0, len(data), 8)}

    def paces(self):
        """A walk asks three times or more, and the device waits for all of them."""
        super().paces()
        self.locals, self.pace[self.host] = max(self.locals, 0.3), max(self.pace[self.host], 0.3)

    def may(self, reads):
        return True

    def clear(self):
        for place in self.places.values():
            self.memory[place] &= ~self.DIRTY

    def _settings(self, enable):
        return super()._settings(enable) | {"tables": 1, "root": {"ppn": self.space.ppn, "deep": 1}}

    async def step(self, ctx):
        if self.rng.random() < 0.2:
            number, unit = self.rng.choice([(number, unit) for page in self.hot for number, unit in self.units(page, 1)] or list(self.places))
            self.memory[self.places[number, unit]] ^= self.FREE & self.rng.randrange(self.FREE + 1)
        await super().step(ctx)

    async def report(self, ctx):
        asked, found = self.cycle, set()
        error = await self.sync(ctx)
        for unit, place in self.places.items():
            if self.memory[place] & self.DIRTY:
                found.add(unit)
                self.memory[place] &= ~self.DIRTY
                if self.rng.random() < 0.2:
                    await self.step(ctx)
        error = error if error != LogError.NONE else await self.sync(ctx)
        return asked, self.cycle, found if error == LogError.NONE else None


def with_tables(*changes, **parts):
    """A log that marks page tables, small enough to be simulated quickly, with these changes of what switches between the two forms."""
    return edited(DirtyLog, LogForms=edited(LogForms, *changes, LogTables=partial(LogTables, walks=4, known=4), **parts))(16, RiscvEntries)


def exercise(dut, name, ping_pong, host=1, rounds=6, made=Machine):
    machine = made(dut, seeded(name), ping_pong, host)
    rng, waits = machine.rng, 0

    async def bench(ctx):
        nonlocal waits
        ctx.set(dut.requester_id, OUR_ID)
        ctx.set(dut.limit, LIMIT)
        for turn in range(2):
            began = machine.cycle
            reports = [(began, await machine.start(ctx), None)]
            for _ in range(rounds):
                machine.rate = rng.choice([0.01, 0.2, 0.9])
                for _ in range(rng.randrange(300)):
                    await machine.step(ctx)
                machine.paces()
                if rng.random() < 0.3:
                    machine.hot = [machine._place() for _ in range(12)]
                reports.append(await machine.report(ctx))
                assert reports[-1][2] is not None, "an error is told, and there was none"
            # The last report comes when nothing is on its way.
            machine.rate = 0
            for _ in range(400):
                await machine.step(ctx)
            reports.append(await machine.report(ctx))
            machine.judge(reports)
            assert sum(len(found) for _, _, found in reports if found) > rounds
            quiet = machine.requests
            for _ in range(100):
                await machine.step(ctx)
            assert machine.requests == quiet, "something is asked for although nothing is written"
            assert ctx.get(dut.status.requests) == quiet, "what was asked for is counted wrongly"
            # An error says that everything is dirty; writes go on, and nothing is asked for until the log is started again.
            machine.rate, machine.silent, machine.bad = 0.5, turn % 2 == 0, turn % 2 == 1
            machine.span, machine.heat, machine.locals = 12, 0.5, 0.5
            for _ in range(LONG):
                if ctx.get(dut.status.error) != LogError.NONE:
                    break
                await machine.step(ctx)
            assert ctx.get(dut.status.error) == (LogError.TIMEOUT if machine.silent else LogError.ANSWER)
            machine.silent = machine.bad = False
            before = list(machine.writes)
            for _ in range(LIMIT):
                await machine.step(ctx)
            assert (await machine.report(ctx))[2] is None and not ctx.get(dut.pause)
            quiet, waits = machine.requests, ctx.get(dut.status.waits)
            for _ in range(200):
                await machine.step(ctx)
            assert machine.requests == quiet
            for _ in range(LONG):
                if all(visible is not None for _, visible in before):
                    break
                await machine.step(ctx)
            assert all(visible is not None for _, visible in before), "a write waits for the log, which is in error"
            machine.writes.clear()
            # What was given up is answered in the next run, with something else.
            machine.answers = [(machine.cycle + rng.randrange(200, 2000), tag, ALL) for _, tag, _ in 4 * machine.late]
            machine.late.clear()

    run(dut, bench)
    assert waits, "the device never waited for the log"


@pytest.mark.hazard("H46", "H47", "I12")
@pytest.mark.parametrize("ping_pong", [0, 1], ids=["compare-and-swap", "ping-pong"])
def test_every_write_is_reported(ping_pong):
    exercise(DirtyLog(16 if ping_pong else 64), f"log/{ping_pong}", ping_pong, host=ping_pong)


@pytest.mark.hazard("H34", "H46", "H47", "I12")
def test_every_write_is_reported_by_page_tables():
    exercise(with_tables(), "log/tables", 0, rounds=2, made=TableMachine)


@pytest.mark.parametrize("cause", ["changed", "opaque", "down", "flush_lost", "ping_pong", "tables"])
def test_what_makes_everything_dirty(cause):
    dut, expected = DirtyLog(64), {"changed": "CHANGED", "opaque": "OPAQUE", "down": "DOWN", "flush_lost": "FLUSH"}
    machine = Machine(dut, seeded(f"log/{cause}"), 0, 0)

    async def bench(ctx):
        async def make(value):
            if cause in ("ping_pong", "tables"):
                ctx.set(getattr(dut.settings, cause), value)
            else:
                ctx.set(getattr(dut, cause), value)

        ctx.set(dut.limit, LIMIT)
        ctx.set(dut.requester_id, OUR_ID)
        await make(1)
        await machine.step(ctx)
        assert ctx.get(dut.status.error) == LogError.NONE, "an error of a log that is off"
        await make(0)
        await machine.start(ctx)
        assert ctx.get(dut.status.error) == LogError.NONE
        await make(1)
        for _ in range(3):
            await machine.step(ctx)
        # Also a flush that somebody else asked for: what it should have proven counts as proven from now on.
        assert ctx.get(dut.status.error) == LogError[expected.get(cause, "CHANGED")]
        await make(0)
        assert (await machine.report(ctx))[2] is None and ctx.get(dut.status.error) == LogError[expected.get(cause, "CHANGED")]
        assert not ctx.get(dut.pause)

    run(dut, bench)


@pytest.mark.parametrize(("entries", "shift"), [(None, 12), (RiscvEntries, 11), (RiscvEntries, 13)])
def test_tables_that_cannot_be_marked(entries, shift):
    """There is nothing that could, or a unit is no page: all is dirty from the beginning, and nothing is asked for."""
    dut = DirtyLog(64, entries)

    async def bench(ctx):
        for number, size in enumerate((12, shift)):
            ctx.set(dut.settings.ranges[number], {"base": 512 * number, "pages": 2, "shift": size})
        ctx.set(dut.limit, LIMIT)
        ctx.set(dut.settings.tables, 1)
        ctx.set(dut.writes, 1)
        await ctx.tick().repeat(3)
        ctx.set(dut.settings.enable, 1)
        for cycle in range(50):
            assert not ctx.get(dut.o_request.valid)
            assert ctx.get(dut.status.error) == LogError.TABLES or cycle < 4
            await ctx.tick()
        assert ctx.get(dut.status.tables) == (entries is not None)

    run(dut, bench)


async def first_request(dut, ctx):
    """Switch the log of one range on, and let the device write to it until a request is offered."""
    ctx.set(dut.settings.tables, dut.entries is not None)
    ctx.set(dut.settings.ranges[0].pages, 64)
    ctx.set(dut.settings.ranges[0].shift, 12)
    ctx.set(dut.limit, LIMIT)
    ctx.set(dut.settings.enable, 1)
    await ctx.tick()
    ctx.set(dut.writes, 1)
    await ctx.tick()
    ctx.set(dut.writes, 0)
    for _ in range(60):
        if ctx.get(dut.o_request.valid):
            return
        await ctx.tick()
    raise AssertionError("a write led to no request")


def offer_is_withdrawn(dut, how, ready):
    """Nobody takes a request before the log is off or fails. It is not offered then, nor when the log is on again."""
    async def bench(ctx):
        await first_request(dut, ctx)
        if how == "off":
            ctx.set(dut.settings.enable, 0)
        ctx.set(dut.settings.host, 1)
        ctx.set(dut.o_request.ready, ready)
        for cycle in range(80):
            assert not ctx.get(dut.o_request.valid)
            await ctx.tick()
            ctx.set(dut.settings.enable, cycle > 40)

    run(dut, bench)


@pytest.mark.parametrize("ready", [0, 1])
@pytest.mark.parametrize("how", ["off", "mode"])
@pytest.mark.parametrize("entries", [None, RiscvEntries], ids=["words", "tables"])
def test_what_is_offered_is_withdrawn_with_the_log(entries, how, ready):
    """Later its place may be somebody else's, or at the other host."""
    offer_is_withdrawn(DirtyLog(64, entries), how, ready)


def nothing_is_taken(dut):
    """A host that takes no request is an error when its time is up."""
    async def bench(ctx):
        await first_request(dut, ctx)
        for cycle in range(2 * LIMIT):
            await ctx.tick()
            if ctx.get(dut.status.error) != LogError.NONE:
                break
        assert LIMIT - 20 < cycle < LIMIT + 20 and ctx.get(dut.status.error) == LogError.TIMEOUT

    run(dut, bench)


def test_a_host_that_takes_nothing_is_an_error():
    nothing_is_taken(DirtyLog(64))


def nobody_asked(dut):
    """An answer with a tag of the log for which no word waits is none, whatever it says."""
    async def bench(ctx):
        await first_request(dut, ctx)
        asked = ctx.get(dut.o_request.payload.header) >> 72 & 0xFF
        for tag in (asked ^ number for number in range(1, 8)):
            header = encode(answer(memory_read(OUR_ID, 0, 8, tag), 0, 1))
            ctx.set(dut.completion.payload, {"header": header, "first": 1, "last": 1})
            ctx.set(dut.completion.valid, 1)
            await ctx.tick()
            ctx.set(dut.completion.valid, 0)
            for _ in range(4):
                await ctx.tick()
                assert ctx.get(dut.status.error) == LogError.NONE, f"an answer with tag {tag:#x} counts, and {asked:#x} is asked"

    run(dut, bench)


def test_an_answer_that_nobody_asked_for_is_none():
    nobody_asked(DirtyLog(64))


def test_bugs_in_what_is_offered_are_found():
    stays = edited(LogWords, ("with m.If(~self.enable | Mux(request.kind", "with m.If(Mux(request.kind"))
    counts = edited(LogWords, ("taken.eq((self.o_request.valid & self.o_request.ready)", "taken.eq((self.o_request.valid | self.o_request.ready)"))
    forms = edited(LogForms, ("(tables.o_request.valid & self.enable)", "tables.o_request.valid"))
    for dut in (edited(DirtyLog, LogWords=stays)(64), edited(DirtyLog, LogForms=forms)(64, RiscvEntries)):
        with pytest.raises(AssertionError):
            offer_is_withdrawn(dut, "off", 0)
    with pytest.raises(AssertionError):
        nothing_is_taken(edited(DirtyLog, LogWords=counts)(64))
    with pytest.raises(AssertionError):
        nobody_asked(edited(DirtyLog, LogWords=edited(LogWords, ("busy & ~answered, arrived", "busy | ~answered, arrived")))(64))


@pytest.mark.parametrize("waits_for", ["epoch", "atomics"])
def test_a_sync_ends(waits_for):
    dut = DirtyLog(64)

    async def bench(ctx):
        await first_request(dut, ctx)
        ctx.set(dut.settings.enable, 0)
        await ctx.tick()
        ctx.set(dut.settings.enable, 1)
        ctx.set(dut.epochs.advance_ready, waits_for == "atomics")
        ctx.set(dut.epochs.atomics, -1)
        ctx.set(dut.sync, 1)
        await ctx.tick()
        ctx.set(dut.sync, 0)
        for cycle in range(17 * LIMIT):
            await ctx.tick()
            if not ctx.get(dut.status.busy) and cycle:
                break
        assert 15 * LIMIT < cycle < 17 * LIMIT - 1 and ctx.get(dut.status.error) == LogError.TIMEOUT

    run(dut, bench)


#: Within so many runs, each with other random choices, a bug must be found; and the first of them, for those that the runs before do not find.
BUDGET = 5
FIRST = {"bits are unproven": 2, "writes are left": 2, "writes are unproven at one host": 2, "writes are unproven at the other": 8}
BUGS = {
    "asked again without the rest": (LogWords, ("row.wanted & ~Mux(swapped, row.asked, value)", "row.wanted & ~row.asked"), 0),
    "what came meanwhile is forgotten": (LogWords, ("row.wanted & ~Mux(swapped, row.asked, value)", "Mux(swapped, 0, row.wanted & ~value)"), 0),
    "words are remembered": (LogWords, ("~self.enable | self.forget", "~self.enable"), 0),
    "words are remembered at the turn": (LogWords, ("~self.enable | self.forget", "~self.enable"), 1),
    "a word is written unread": (LogWords, ("Mux(self.settings.ping_pong, unread | this, unread & ~this)", "unread & ~this"), 1),
    "late answers are taken": (LogWords, ("generation.eq(~generation)", "generation.eq(0)"), 0),
    "silence is waited for": (LogWords, ("(timer >= self.limit)", "0"), 0),
    "units are remembered": (LogDecode, ("self.forget | ~self.enable", "~self.enable"), 0),
    "the first unit": (LogDecode, ("Cat(~offset_halves[0], offset)", "Cat(offset_halves[1], offset)"), 1),
    "the last range": (LogDecode, ("Mux(found[2], 2, 3)", "2"), 1),
    "the first range": (LogDecode, ("lowest(found)", "found"), 1),
    "marks before a sync are left": (DirtyLog, ("with m.If(cut.passed | ~works):", "with m.If(1):"), 1),
    "turn before the bits are set": (DirtyLog, ("with m.If(words.idle | ~works):", "with m.If(1):"), 1),
    "bits are unproven": (DirtyLog, ("visible.ready.eq(local.passed)", "visible.ready.eq(1)"), 1),
    "writes are left": (VisibleWait, ("mark.passed & self.ready", "self.ready"), 1),
    # Seen where the bitmaps are at the other one: what the log itself asks of a host proves little about it.
    "writes are unproven at one host": (VisibleWait, ("waits[0].done & waits[1].done", "waits[0].done"), 1, 0),
    "writes are unproven at the other": (VisibleWait, ("waits[0].done & waits[1].done", "waits[1].done"), 1),
    "atomics are unanswered": (VisibleWait, (" & atomics.done", ""), 0),
    "what is offered counts": (DirtyLog, ("(self.o_write.valid & self.o_write.ready)", "(self.o_write.valid | self.o_write.ready)"), 1),
}


@pytest.mark.parametrize("bug", BUGS)
def test_planted_bug_is_found(bug):
    component, change, ping_pong, *host = BUGS[bug]
    broken = edited(component, change)
    design = broken if component is DirtyLog else edited(DirtyLog, **{component.__name__: broken})
    first = FIRST.get(bug, 0)
    with pytest.raises(AssertionError):
        for attempt in range(first, first + BUDGET):
            exercise(design(64), f"log/bug/{attempt}", ping_pong, *host, rounds=4)


#: Of the log by page tables: words, tables, and what switches between them.
TABLE_BUGS = {
    "late answers are taken": (LogWords, ("generation.eq(~generation)", "generation.eq(0)")),
    "swaps in the words": (LogForms, ("words.i.valid.eq(self.i.valid & ~chosen)", "words.i.valid.eq(self.i.valid)")),
    "turn amid walks": (LogForms, ("words.idle & tables.idle", "words.idle")),
    "walks go on when the log is off": (LogForms, ("ResetInserter(~self.enable)(self.tables)", "self.tables")),
    "errors of words": (LogForms, ("Mux(chosen, tables.error, words.error)", "words.error")),
}


@pytest.mark.parametrize("bug", TABLE_BUGS)
def test_planted_bug_is_found_by_page_tables(bug):
    component, change = TABLE_BUGS[bug]
    with pytest.raises(AssertionError):
        for attempt in range(BUDGET):
            dut = with_tables(change) if component is LogForms else with_tables(**{component.__name__: edited(component, change)})
            exercise(dut, f"log/tables/{attempt + 2}", 0, rounds=2, made=TableMachine)
