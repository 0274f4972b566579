"""A root complex around the on-the-side device, one step a cycle: memory, devices whose requests come through windows, and a driver."""

from collections import defaultdict, deque
from dataclasses import replace

from front_machine import Link

from pagehop.ots.top import Ots
from pagehop_tb.models.atomics import NAMES, apply
from pagehop_tb.models.memory import HostMemory
from pagehop_tb.pins.beats import BeatFormat
from pagehop_tb.protocol import FlowClass, Kind, Tlp, answer, expand_byte_enables, memory_read, memory_write, read_completions, request_bytes

OWN, HOST, CPU = 0x0200, 0x0008, 0x0000
REGISTERS, WINDOWS, LEAVES = 0xF000_0000, 0x20_0000_0000, 0x30_0000_0000
TAKE, OPEN, HOLD, TRACK, COMMIT, CLOSE, COPY = range(1, 8)
TARGET, ORDER, STATUS, FLUSH, FLUSH_STATUS, LIMITS = 0x10, 0x18, 0x20, 0x28, 0x30, 0x38
WORDS, BYTES = 0x1000, 0x2000
PAGE = 4096


class OtsMachine:
    """Everything around ``dut``. Devices' requests are put in by :meth:`device`, registers are accessed by :meth:`read` and :meth:`write`."""

    def __init__(self, rng, ots=Ots, data_bytes=16, windows=4):
        self.rng, self.windows, self.dut = rng, windows, ots(data_bytes, windows=windows)
        self.link, self.memory, self.cycle, self.compared = Link(self.dut.port, rng, BeatFormat(data_bytes), self.take), HostMemory(), 0, 0
        self.places = {}                                     # of each address of a window: (page, plain) while it is open
        self.sent = {kind: deque() for kind in FlowClass}    # what shall come out, with the posted ones before it
        self.posted = self.came = 0
        self.due, self.delay = [], lambda: rng.randint(1, 40)
        self.asked, self.answers = {}, {}                    # requests of devices and of the CPU by requester and tag; answers of these
        self.flushes, self.forwarded = [], {}
        self.last = {}                                       # cycle in which the last TLP of each class came
        self.either, self.went = (), set()                   # pages of a window whose place is not known, and those it took since
        self.copying, self.image, self.fails = (), None, None    # pages of a copy of the device, what shall stand there, the read that fails

    # The link.

    def device(self, *tlps):
        """Requests of devices, to addresses in the window BAR."""
        self.link.send(*tlps)

    def take(self, tlp):
        self.last[tlp.flow] = self.cycle
        if tlp.is_completion:
            self.completed(tlp)
        elif tlp.kind is Kind.MRD and tlp.requester_id == OWN and tlp.tag >> 6 == 2:
            assert request_bytes(tlp)[1] == 0, "a flush that reads something"
            self.flushes.append((tlp.address, self.came))
            self.due.append((self.cycle + self.delay(), [answer(tlp, HOST, 0, bytes(4), 1, tlp.address & 0x7C)]))
        elif self.copying and tlp.kind is Kind.MRD and tlp.tag < 128:
            assert tlp.address >> 12 == self.copying[0] and tlp.requester_id == OWN
            status = 1 if self.fails is not None and self.fails == tlp.address & 0xFFF else 0
            self.due.append((self.cycle + self.delay(), [answer(tlp, HOST, 1)] if status else self.perform(tlp)))
        elif self.copying and tlp.kind is Kind.MWR and (tlp.length, tlp.tag) == (32, 0):
            assert tlp.address >> 12 == self.copying[1] and self.copying[1] not in self.went, "a part of the copy comes late"
            self.memory.write(tlp.address, tlp.data, expand_byte_enables(tlp))
        else:
            self.through(tlp)

    def through(self, tlp):
        """Something has come through a window."""
        self.compared += 1
        sent, before = self.sent[tlp.flow].popleft()
        assert before <= self.came, f"{tlp} passed {before - self.came} writes"
        page, plain = self.places[sent.address >> 12] or (tlp.address >> 12, 0)
        if self.copying:
            page = tlp.address >> 12
            assert page in self.copying, f"{tlp} went nowhere"
            assert page == self.copying[1] or tlp.flow is FlowClass.NON_POSTED or self.copying[1] not in self.went, "back to the source"
            self.went.add(page)
        elif not self.places[sent.address >> 12]:
            assert page in self.either, f"{tlp} went nowhere"
            if sent.is_atomic or sent.flow is FlowClass.POSTED:
                self.went.add(page)
        expected = replace(sent, requester_id=OWN, address=page << 12 | sent.address & 0xFFF, id_ordering=False, four_dw=None,
                           relaxed_ordering=sent.relaxed_ordering and not plain and not sent.has_data, no_snoop=sent.no_snoop and not plain)
        if tlp.flow is FlowClass.NON_POSTED:
            assert tlp.tag >> 6 == 3 and tlp.tag not in self.forwarded, f"{tlp} has a tag that is in use, or is none"
            expected = replace(expected, tag=tlp.tag)
        assert tlp == expected, f"{tlp} and not {expected}"
        if tlp.flow is FlowClass.POSTED:
            self.came += 1
            if self.copying:
                self.change(tlp.address & 0xFFF, tlp.data, expand_byte_enables(tlp))
            self.memory.write(tlp.address, tlp.data, expand_byte_enables(tlp))
            return
        self.forwarded[tlp.tag] = sent
        self.due.append((self.cycle + self.delay(), self.perform(tlp)))

    def perform(self, tlp):
        """Completions of a request."""
        if tlp.is_atomic:
            size = 2 * tlp.length if tlp.kind is Kind.CAS else 4 * tlp.length
            old = self.memory.read(tlp.address, size)
            new = apply(NAMES[tlp.kind], old, tlp.data)
            self.memory.write(tlp.address, new)
            if self.copying:
                self.change(tlp.address & 0xFFF, new, None)
            return [answer(tlp, HOST, 0, old, size, 0)]
        return read_completions(tlp, self.memory.read(tlp.address, 4 * tlp.length), HOST, 64, 256, self.rng.randrange)

    def change(self, offset, data, enables):
        """What shall stand in the page that is copied."""
        if self.image is None:
            self.image = self.memory.read(self.copying[0] << 12, PAGE)
        old = self.image[offset:offset + len(data)]
        new = bytes(data[i] if enables is None or enables >> i & 1 else old[i] for i in range(len(data)))
        self.image = self.image[:offset] + new + self.image[offset + len(data):]

    def completed(self, tlp):
        key = tlp.requester_id, tlp.tag
        assert key in self.asked, f"{tlp} answers nothing"
        self.answers[key].append(tlp)

    def done(self, key):
        """Whether the request with this requester and tag has been answered whole."""
        got = self.answers[key]
        return bool(got) and (got[-1].status != 0 or not got[-1].data or got[-1].byte_count <= len(got[-1].data) - (got[-1].lower_address & 3))

    async def step(self, ctx):
        """One cycle."""
        for part, value in (("own_id", OWN), ("register_bar", REGISTERS), ("window_bar", WINDOWS), ("leaf_bar", LEAVES)):
            ctx.set(getattr(self.dut, part), value)
        for one in [one for one in self.due if one[0] <= self.cycle]:
            self.due.remove(one)
            if one[1][0].tag >> 6 == 3:
                self.forwarded.pop(one[1][0].tag)
            self.link.send(*one[1])
        begun = self.link.before(ctx)
        if begun is not None and not begun.is_completion:
            self.began(begun)
        self.link.after(ctx)
        await ctx.tick()
        self.cycle += 1

    def began(self, tlp):
        if tlp.flow is FlowClass.NON_POSTED:
            self.asked[tlp.requester_id, tlp.tag] = tlp
            self.answers[tlp.requester_id, tlp.tag] = []
        if tlp.address >> 12 in self.places:
            self.sent[tlp.flow].append((tlp, self.posted))
            self.posted += tlp.flow is FlowClass.POSTED

    async def until(self, ctx, done, most=3000):
        """Steps until ``done``; returns how many."""
        start = self.cycle
        while not done():
            await self.step(ctx)
            assert self.cycle < start + most, "stands still"
        return self.cycle - start

    def quiet(self):
        """All that was sent has come through, and all requests have been answered."""
        return self.link.idle() and not any(self.sent.values()) and all(self.done(key) for key in self.asked)

    async def steps(self, ctx, count):
        for _ in range(count):
            await self.step(ctx)

    # Software.

    async def write(self, ctx, offset, value):
        self.link.send(memory_write(CPU, REGISTERS + offset, value.to_bytes(8, "little")))
        await self.until(ctx, lambda: not self.link.order and not self.link.sending)

    async def read(self, ctx, offset):
        key, request = (CPU, 0), memory_read(CPU, REGISTERS + offset, 8, 0)
        self.asked[key], self.answers[key] = request, []
        self.link.send(request)
        await self.until(ctx, lambda: self.done(key))
        got, = self.answers[key]
        assert got.status == 0, f"{got} for a register"
        return int.from_bytes(got.data, "little")

    async def order(self, ctx, window, op, page=None, plain=0):
        """Give an order, and return why it was refused, 0 if it was carried out."""
        if page is not None:
            await self.write(ctx, TARGET, page << 12)
        before = await self.read(ctx, STATUS)
        await self.write(ctx, ORDER, window | op << 8 | plain << 12)
        while True:
            status = await self.read(ctx, STATUS)
            if (status ^ before) >> 8 & 0xFF and not status & 1:
                return status >> 4 & 0xF

    async def word(self, ctx, window, word):
        return await self.read(ctx, WORDS + 64 * window + 8 * word)

    async def base(self, ctx, window):
        """Number of the page at which the window is in the address space."""
        return (WINDOWS + await self.word(ctx, window, 1)) >> 12

    async def take_window(self, ctx, window, page, plain=0):
        """Take a window, and expect from now on that its accesses go to ``page``."""
        assert await self.order(ctx, window, TAKE, page, plain) == 0
        base = await self.base(ctx, window)
        self.places[base] = page, plain
        return base << 12

    async def flush(self, ctx, window):
        before = await self.read(ctx, FLUSH_STATUS)
        await self.write(ctx, FLUSH, window)
        while True:
            status = await self.read(ctx, FLUSH_STATUS)
            if (status ^ before) >> 8 & 0xFF:
                assert not status & 2
                return

    def bytes_of(self, tlp):
        """Bytes of its page that a write or atomic touches."""
        start, size = tlp.address & 0xFFF, 2 * tlp.length if tlp.kind is Kind.CAS else 4 * tlp.length
        enables = expand_byte_enables(tlp) if tlp.kind is Kind.MWR else None
        return {start + index for index in range(size) if enables is None or enables >> index & 1}


class Traffic:
    """Random requests of devices to addresses of windows."""

    def __init__(self, rng, bases, atomics=0.1):
        self.rng, self.bases, self.tags, self.atomics = rng, bases, defaultdict(int), atomics

    def one(self, base=None):
        rng = self.rng
        base = rng.choice(self.bases) if base is None else base
        requester = rng.choice((0x0100, 0x0101, 0x0310))
        self.tags[requester] = tag = self.tags[requester] % 255 + 1
        flags = {"relaxed_ordering": rng.random() < 0.2, "id_ordering": rng.random() < 0.2}
        kind = rng.random()
        offset = rng.randrange(PAGE)
        if kind < 0.5:
            size = min(rng.choice((0, 1, 3, 4, 8, 16, 64, 64, 100, 128, 256)), PAGE - offset, 252 if offset & 3 else 256)
            return replace(memory_write(requester, base + offset, rng.randbytes(size), tag, **flags), no_snoop=rng.random() < 0.2)
        if kind < 1 - self.atomics:
            return memory_read(requester, base + offset, min(rng.choice((0, 1, 4, 8, 64, 200, 512)), PAGE - offset), tag, **flags)
        return self.atomic(base)

    def atomic(self, base):
        rng = self.rng
        kind, size = rng.choice(((Kind.FETCH_ADD, 4), (Kind.SWAP, 8), (Kind.CAS, 4), (Kind.CAS, 16)))
        operands = 2 * size if kind is Kind.CAS else size
        self.tags[0x311] = tag = self.tags[0x311] % 255 + 1
        return Tlp(kind, 0x311, tag, base + (rng.randrange(PAGE) & -size), operands // 4, 0, 0, rng.randbytes(operands))
