"""Leaf tables between software, walkers and a harvest, all at any time, and what must be true then by RISC-V's rules."""

from collections import deque
from dataclasses import dataclass, field

from pagehop.ots.leaf_table import LeafTable
from pagehop_tb.models.iommu.tables import Kind as EntryKind
from pagehop_tb.models.iommu.tables import RiscvEntry
from pagehop_tb.protocol import Kind, Tlp, answer, decode, encode, expand_byte_enables, read_completions, request_bytes

COMPLETER, HOST, WALKER = 0x4321, 0x0008, 0x0100
LINE, ENTRIES = 64, 512
ACCESSED, DIRTY = 0, 1
BUSES = {"peek_accessed": ACCESSED, "take_accessed": ACCESSED, "peek_dirty": DIRTY, "take_dirty": DIRTY}
A_AND_D = 0b1100_0000


def bits_of(entry):
    return int.from_bytes(entry.pack(), "little")


def grants(bits):
    """Whether a walker that finds these bits in a leaf table of any level may use them to read or execute, and to write."""
    entry = RiscvEntry.unpack(bits.to_bytes(8, "little"))
    leaves = [level for level in range(4) if entry.kind(level) is EntryKind.LEAF]
    return bool(leaves), any(entry.grants(level)[1] for level in leaves)


def may_mark(bits):
    """What may be marked at all, though nothing may be used: valid, and a leaf by its form."""
    return bool(bits & 1 and bits & 0b1010), bool(bits & 0b111 == 0b111)


def random_entry(rng):
    """Bits of an entry: a leaf, a pointer, nothing, or anything."""
    flags = {name: rng.randrange(2) for name in ("valid", "readable", "writable", "executable", "user", "accessed", "dirty")}
    kind = rng.randrange(8)
    if kind < 5:
        return bits_of(RiscvEntry.leaf(rng.getrandbits(20) << 9 * (kind == 4), 0, **flags | {"valid": kind != 0 or flags["valid"]}))
    return rng.getrandbits(64) if kind == 5 else bits_of(RiscvEntry.pointer(rng.getrandbits(44)))


def beats_of(tlp, data_bytes, poisoned_beat=None):
    """Beats of a TLP as the stream carries them."""
    chunks = [tlp.data[at:at + data_bytes] for at in range(0, len(tlp.data), data_bytes)] or [b""]
    for number, chunk in enumerate(chunks):
        yield {
            "data": int.from_bytes(chunk, "little"), "dwords": len(chunk) // 4, "header": 0 if number else encode(tlp), "prefix": 0,
            "prefix_valid": 0, "first": number == 0, "last": number == len(chunks) - 1, "poisoned": number == poisoned_beat, "digest_wrong": 0,
        }


def is_served(tlp):
    """A request that leaf tables serve."""
    whole = tlp.hints and tlp.kind is Kind.MRD
    legal = whole or (not tlp.last_be if tlp.length == 1 else tlp.first_be and tlp.last_be)
    return tlp.kind in (Kind.MRD, Kind.MWR) and not tlp.address_type and tlp.address % LINE + 4 * tlp.length <= LINE and bool(legal)


def refused(tlp):
    """The completion that refuses a request (2.2.9)."""
    count, lower = 4, 0
    if tlp.kind in (Kind.MRD, Kind.MRDLK) and tlp.address_type != 1:
        start, count = request_bytes(tlp)
        count, lower = count or 1, start & 0x7F
    elif tlp.is_atomic:
        count = 4 * tlp.length // (2 if tlp.kind is Kind.CAS else 1)
    return answer(tlp, COMPLETER, 1, b"", count, lower)


@dataclass
class Hold:
    """A line from the cycle in which it is held until that in which software releases it or it expires."""
    line: int
    begins: int
    ends: int | None = None


@dataclass
class Read:
    """A request on its way; the contents that its line has had since it was handed over."""
    tlp: Tlp
    came: int
    versions: list[bytes]
    hold: "Hold | None" = None

    @property
    def entries(self):
        """Numbers of the entries that it reads of."""
        if not is_served(self.tlp) or (self.tlp.length == 1 and not self.tlp.first_be and not self.tlp.hints):
            return range(0)
        start = self.tlp.address % (8 * ENTRIES)
        return range(start // 8, (start + 4 * self.tlp.length - 1) // 8 + 1)

    def bits(self, version, entry):
        return int.from_bytes(version[entry % 8 * 8:entry % 8 * 8 + 8], "little")


@dataclass
class Mark:
    """A mark that must be found by the first harvest that is asked for after ``since``, unless one that began after ``came`` had it."""
    entry: int
    kind: int
    came: int
    since: int


@dataclass
class Lane:
    """TLPs for one input, and the beats of the one that is being handed over."""
    todo: deque = field(default_factory=deque)
    beats: deque = field(default_factory=deque)
    tlp: Tlp | None = None
    offers: bool = False


class LeafMachine:
    """Drive a table; every completion and every harvest is judged."""
    def __init__(self, rng, data_bytes=64, pace=0.7, table=LeafTable, in_entries=0):
        self.dut, self.rng, self.data_bytes, self.pace, self.in_entries = table(data_bytes, ENTRIES), rng, data_bytes, pace, in_entries
        self.lanes = {name: Lane() for name in ("posted", "walks", "reads")}
        self.waiting = {"walks": deque(), "reads": deque()}
        self.stored = [bytes(LINE) for _ in range(ENTRIES // 8)]
        self.due, self.possible, self.taken_at = [], {}, {}
        self.cycle, self.began, self.completion, self.received, self.inside = 0, None, 0, bytearray(), False
        self.harvest, self.asked, self.word = None, deque(), None
        self.hold, self.limit = None, 0
        self.counts, self.compared, self.latencies, self.marked = {"walked": 0, "unsupported": 0, "dropped": 0, "expired": 0}, 0, [], 0
        self.wanted = {"walked": 0, "unsupported": 0, "dropped": 0}

    def send(self, lane, *tlps):
        self.lanes[lane].todo.extend(tlps)

    def walk(self, address, size=8, tag=None):
        """A read by the walker."""
        self.send("walks", Tlp(Kind.MRD, WALKER, self.rng.getrandbits(10) if tag is None else tag, address, size // 4, 15, 15 if size > 4 else 0))

    def read(self, address, size=8):
        """A read by software."""
        self.send("reads", Tlp(Kind.MRD, HOST, self.rng.getrandbits(10), address, size // 4, 15, 15 if size > 4 else 0))

    def write(self, entry, *values):
        """A write by software."""
        payload = b"".join(value.to_bytes(8, "little") for value in values)
        self.send("posted", Tlp(Kind.MWR, HOST, 0, 8 * entry, len(payload) // 4, 15, 15, payload))

    def begin_hold(self, ctx, line):
        """From this cycle on. The limit must have been set before."""
        assert self.hold is None
        ctx.set(self.dut.hold_line, line)
        ctx.set(self.dut.hold, 1)
        self.hold = Hold(line, self.cycle)

    def end_hold(self, ctx):
        ctx.set(self.dut.hold, 0)
        self.hold.ends, self.hold = self.hold.ends or self.cycle, None

    def set_limit(self, ctx, limit):
        self.limit = limit
        ctx.set(self.dut.hold_limit, limit)

    @property
    def quiet(self):
        lanes = self.lanes.values()
        return not (any(lane.todo or lane.beats for lane in lanes) or any(self.waiting.values()) or self.asked or self.harvest)

    async def until_quiet(self, ctx, limit=2000):
        for _ in range(limit):
            if self.quiet:
                break
            await self.step(ctx)
        assert self.quiet, "something does not come through"
        for _ in range(8):
            await self.step(ctx)

    async def take(self, ctx, name, word):
        """Read a word of a bitmap; returns it."""
        self.word = None
        self.asked.append((name, word, 0xFF))
        await self.until(ctx, lambda: self.word is not None)
        return self.word

    async def until(self, ctx, condition, limit=500):
        for _ in range(limit):
            if condition():
                return
            await self.step(ctx)
        raise AssertionError("It does not come")

    async def step(self, ctx):
        """One cycle."""
        dut = self.dut
        ctx.set(dut.completer_id, COMPLETER)
        ctx.set(dut.in_entries, self.in_entries)
        for name, lane in self.lanes.items():
            self._offer(ctx, getattr(dut, name), lane)
        ctx.set(dut.completion.ready, self.rng.random() < self.pace)
        if self.harvest is None and self.asked and self.rng.random() < self.pace:
            name, word, strobe = self.asked.popleft()
            self.harvest = [name, word, strobe, None]
            ctx.set(getattr(dut, name).request.payload, {"index": word, "strobe": strobe})
            ctx.set(getattr(dut, name).request.valid, 1)
        self._complete(ctx)
        for name, lane in self.lanes.items():
            self._hand_over(ctx, name, lane)
        self._harvest(ctx)
        for name in self.counts:
            self.counts[name] += ctx.get(getattr(dut, name))
        hold = self.hold
        if ctx.get(dut.expired):
            assert hold and hold.ends is None and self.cycle == hold.begins + max(1, self.limit), "the hold ends at another time"
            hold.ends = self.cycle
        assert hold is None or hold.ends or self.cycle < hold.begins + max(1, self.limit), "the hold does not end"
        await ctx.tick()
        self.cycle += 1
        if self.harvest and self.harvest[3] is not None:
            ctx.set(getattr(dut, self.harvest[0]).request.valid, 0)

    def _offer(self, ctx, port, lane):
        if not lane.beats and lane.todo:
            lane.tlp, poisoned_beat = lane.todo.popleft(), None
            if lane.tlp.poisoned:
                poisoned_beat = self.rng.randrange(-(-len(lane.tlp.data) // self.data_bytes))
                lane.tlp.poisoned = False
                lane.beats.extend(beats_of(lane.tlp, self.data_bytes, poisoned_beat))
                lane.tlp.poisoned = True
            else:
                lane.beats.extend(beats_of(lane.tlp, self.data_bytes))
        lane.offers = bool(lane.beats) and (lane.offers or self.rng.random() < self.pace)
        ctx.set(port.valid, lane.offers)
        if lane.offers:
            ctx.set(port.payload, lane.beats[0])

    def _hand_over(self, ctx, name, lane):
        if not (lane.offers and ctx.get(getattr(self.dut, name).ready)):
            return
        beat, lane.offers = lane.beats.popleft(), False
        if name == "posted":
            if beat["last"]:
                self._write(lane.tlp)
        elif beat["first"]:
            line = lane.tlp.address // LINE % len(self.stored)
            hold = self.hold if name == "walks" and self.hold and self.hold.line == line and self.hold.ends is None else None
            self.waiting[name].append(Read(lane.tlp, self.cycle, [self.stored[line]], hold))
            self.wanted["unsupported"] += not is_served(lane.tlp)
            self.wanted["walked"] += name == "walks" and is_served(lane.tlp)

    def _write(self, tlp):
        if not is_served(tlp) or tlp.poisoned or tlp.kind is not Kind.MWR:
            self.wanted["dropped"] += 1
            return
        line, start = tlp.address // LINE % len(self.stored), tlp.address % LINE
        content, enabled = bytearray(self.stored[line]), expand_byte_enables(tlp)
        for number, byte in enumerate(tlp.data):
            if enabled is None or enabled >> number & 1:
                content[start + number] = byte
        self.stored[line] = bytes(content)
        for read in (*self.waiting["walks"], *self.waiting["reads"]):
            if read.tlp.address // LINE % len(self.stored) == line:
                read.versions.append(bytes(content))

    def _complete(self, ctx):
        port = self.dut.completion
        if not ctx.get(port.valid):
            assert self.began is None, "a completion has a gap, or was withdrawn"
            return
        beat = ctx.get(port.payload)
        if self.began is None:
            self.began, self.completion, self.received = self.cycle, beat.header, bytearray()
        assert beat.first == (not self.inside)
        if not ctx.get(port.ready):
            return
        self.inside = not beat.last
        data = beat.data.to_bytes(self.data_bytes, "little")
        assert not any(data[4 * beat.dwords:]) and (beat.last or 4 * beat.dwords == self.data_bytes)
        self.received += data[:4 * beat.dwords]
        if beat.last:
            self._judge(decode(self.completion, bytes(self.received)))
            self.began = None

    def _judge(self, found):
        name = "walks" if found.requester_id == WALKER else "reads"
        read = self.waiting[name].popleft()
        self.latencies.append(self.began - read.came)
        assert read.hold is None or (read.hold.ends is not None and self.began > read.hold.ends), "a held line was answered"
        self.compared += 1
        if not is_served(read.tlp):
            right = refused(read.tlp)
            legal = read.tlp.length == 1 or (read.tlp.first_be and read.tlp.last_be)
            assert found == right or not legal, f"{read.tlp} was answered with {found}, not {right}"
            return
        fits = [version for version in read.versions if self._fits(read, version, found, walks=name == "walks")]
        assert fits, f"{read.tlp} was answered with {found.data.hex()}, of {[version.hex() for version in read.versions]}"
        if name == "walks":
            for entry in read.entries:
                used = [grants(read.bits(version, entry)) for version in fits]
                allowed = [may_mark(read.bits(version, entry)) for version in read.versions]
                for kind in (ACCESSED, DIRTY):
                    if all(one[kind] for one in used):
                        self.due.append(Mark(entry, kind, read.came, self.began))
                    if any(one[kind] for one in allowed):
                        self.possible[entry, kind] = self.cycle
            self._forgive()

    def _fits(self, read, version, found, walks):
        """Whether this is the completion of a read that sees this version of its line."""
        start, content, mask = read.tlp.address % LINE, bytearray(version), bytearray(LINE)
        for number in range(8):
            if may_mark(read.bits(version, number))[0]:
                if walks:
                    content[8 * number] |= A_AND_D
                elif self.in_entries:
                    mask[8 * number] = A_AND_D
        dwords = slice(start, start + 4 * read.tlp.length)
        given = bytes(4) if not read.entries else bytes(content[dwords])
        right, = read_completions(read.tlp, given, COMPLETER, LINE, LINE)
        if self.in_entries and not walks and read.entries:
            found.data, right.data = (bytes(byte & ~skip for byte, skip in zip(data, mask[dwords], strict=True)) for data in (found.data, right.data))
        return found == right

    def _forgive(self):
        """Marks that a harvest found while their completion was on its way."""
        self.due = [mark for mark in self.due if self.taken_at.get((mark.entry, mark.kind), -1) <= mark.came]

    def _harvest(self, ctx):
        if self.harvest is None:
            return
        name, index, strobe, asked = self.harvest
        bus, kind, takes = getattr(self.dut, name), BUSES[name], name.startswith("take")
        if asked is None and ctx.get(bus.request.ready):
            self.harvest[3] = asked = self.cycle
        if not ctx.get(bus.response.valid):
            return
        answered, self.harvest = ctx.get(bus.response.payload), None
        assert asked is not None and not answered.error
        word, asked_for = answered.data, [64 * index + bit for bit in range(64) if strobe >> bit // 8 & 1]
        for entry in asked_for:
            is_set = word >> entry % 64 & 1
            for mark in self.due:
                assert is_set or (mark.entry, mark.kind) != (entry, kind) or mark.since > asked, f"a mark of entry {entry} is missing"
            allowed = (entry, kind) in self.possible or any(
                entry in read.entries and may_mark(read.bits(version, entry))[kind] for read in self.waiting["walks"] for version in read.versions)
            assert allowed or not is_set, f"entry {entry} is marked, and no walker may have used it"
            if takes and is_set:
                self.marked += 1
                self.due = [mark for mark in self.due if (mark.entry, mark.kind) != (entry, kind) or mark.since > asked]
                self.taken_at[entry, kind] = self.cycle
            if takes and self.possible.get((entry, kind), self.cycle) < asked:
                del self.possible[entry, kind]
        self._forgive()
        self.word = word
