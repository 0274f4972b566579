# amaranth: UnusedElaboratable=no
"""The register BAR, driven by TLPs of the bench's own codec; what must come back is told by the rules of PCIe, not by the adapter."""

import os
import random

import pytest
from amaranth.sim import Simulator

from pagehop.registers.adapter import TlpRegisterAdapter
from pagehop_tb.protocol import Kind, Tlp, answer, decode, encode, expand_byte_enables, read_completions, request_bytes

CLOCK = 4e-9
BASE, BITS = 0x12_3404_0000, 18
COMPLETER = 0x4321
# Words from here on are answered with an error by the bus of this bench.
ERROR_FROM = 0x30000


def generator(name):
    """Random numbers of one test, from SEED and its name."""
    seed = f"{os.environ.get('SEED', '1')}-{name}"
    print(f"seed {seed}")
    return random.Random(seed)


def word_of(offset):
    """What the bus of this bench has at an 8-aligned offset."""
    return (offset * 0x9E37_79B9_7F4A_7C15 + 0x1234_5678_9ABC_DEF0) & (1 << 64) - 1


def bytes_at(offset, size):
    low = offset & ~7
    return (word_of(low).to_bytes(8, "little") + word_of(low + 8).to_bytes(8, "little"))[offset - low:offset - low + size]


def expectation(tlp, base=BASE):
    """What must happen: bus access or None, completion or None, pulses on ``unsupported``."""
    inside = tlp.is_memory and tlp.address >> BITS == base >> BITS
    offset = tlp.address & (1 << BITS) - 1
    # A steering tag stands where the enables of a read would be (2.2.7.1); every byte then counts as enabled.
    first, last = (0xF, 0xF if tlp.length > 1 else 0) if tlp.hints and tlp.kind is Kind.MRD else (tlp.first_be, tlp.last_be)
    size_served = (tlp.length == 1 and last == 0) or (tlp.length == 2 and offset % 8 == 0 and first and last)
    served = inside and size_served and not tlp.address_type
    strobe = (first | last << 4) << offset % 8 & 0xFF
    if tlp.kind is Kind.MWR:
        if not served or tlp.poisoned or tlp.digest_wrong:
            return None, None, 1
        if not first:
            return None, None, 0
        payload = int.from_bytes(tlp.data, "little") << 8 * (offset % 8)
        enabled = expand_byte_enables(tlp)
        assert enabled is None or enabled << offset % 8 == strobe
        return ("write", offset & ~7, strobe, payload & sum(0xFF << 8 * lane for lane in range(8) if strobe >> lane & 1)), None, 0
    if tlp.flow == 0:
        return None, None, 1
    if tlp.kind is Kind.MRD and served:
        if not first:
            return None, read_completions(tlp, bytes(4), COMPLETER, 128, 128)[0], 0
        read = ("read", offset & ~7, strobe, None)
        if offset < ERROR_FROM:
            completion, = read_completions(tlp, bytes_at(offset, 4 * tlp.length), COMPLETER, 128, 128)
            return read, completion, 0
    else:
        read = None
    # 2.2.9: the Byte Count of a failed memory read is that of a whole answer, of an AtomicOp the size of its operand, of everything else 4.
    count, lower = 4, 0
    if tlp.kind in (Kind.MRD, Kind.MRDLK) and tlp.address_type != 1:
        start, count = request_bytes(tlp)
        count, lower = count or 1, start & 0x7F
    elif tlp.is_atomic:
        count = 4 * tlp.length // (2 if tlp.kind is Kind.CAS else 1)
    return read, answer(tlp, COMPLETER, 1, b"", count, lower), 1


#: Kinds of requests and how often each is drawn.
KINDS = {
    Kind.MWR: 12, Kind.MRD: 12, **dict.fromkeys((
        Kind.MRDLK, Kind.IORD, Kind.IOWR, Kind.CFGRD0, Kind.CFGWR1, Kind.FETCH_ADD, Kind.SWAP, Kind.CAS, Kind.DMWR, Kind.MSG, Kind.MSGD), 1),
}


def random_tlps(rng, count):
    """One request of each kind, then ``count`` of random kinds."""
    return [random_tlp(rng, kind) for kind in (*KINDS, *rng.choices(tuple(KINDS), tuple(KINDS.values()), k=count))]


def random_tlp(rng, kind):
    """A request; most are such that a register BAR serves them."""
    common = {
        "requester_id": rng.getrandbits(16), "tag": rng.getrandbits(10), "traffic_class": rng.choice((0, 0, rng.randrange(8))),
        "relaxed_ordering": rng.random() < 0.3, "no_snoop": rng.random() < 0.3, "id_ordering": rng.random() < 0.3, "lightweight": rng.random() < 0.1,
    }
    offset = rng.randrange(0, 1 << BITS, 4)
    address = BASE + offset if rng.random() < 0.85 else rng.choice((
        BASE + (1 << BITS) + offset, BASE - 4, BASE ^ 1 << rng.randrange(BITS, 64), offset, BASE & 0xFFFF_FFFF | offset))
    if kind in (Kind.MWR, Kind.MRD, Kind.MRDLK, Kind.DMWR):
        length = rng.choices((1, 2, rng.randrange(3, 40), 0 if kind is Kind.MWR else 1024), (10, 10, 2, 1))[0] or 3
        if length == 2 and rng.random() < 0.7:
            address &= ~7
        first, last = rng.choice(((15, 15), (rng.randrange(16), rng.randrange(1, 16)), (rng.randrange(1, 16), rng.randrange(1, 16))))
        last = 0 if length == 1 else last
        first = first or (length > 1)
        hints = rng.random() < 0.1
        if hints and kind is not Kind.MWR:
            first, last = rng.randrange(16), rng.randrange(16)
        common |= {
            "address": address, "length": length, "first_be": first, "last_be": last, "hints": hints, "processing_hint": rng.randrange(4) * hints,
            "address_type": rng.choices((0, 1, 2), (20, 1, 1))[0],
        }
    elif kind in (Kind.FETCH_ADD, Kind.SWAP, Kind.CAS):
        common |= {"address": address & ~15, "length": rng.choice((2, 4, 8) if kind is Kind.CAS else (1, 2)), "first_be": 15, "last_be": 15}
    elif kind in (Kind.MSG, Kind.MSGD):
        common |= {"address": rng.getrandbits(64) & ~3, "code": 0x7F, "routing": rng.choice((0, 3, 4)), "length": 2 if kind is Kind.MSGD else 0}
    else:
        common |= {"address": rng.getrandbits(16) & ~3, "length": 1, "first_be": 15}
    tlp = Tlp(kind, **common)
    if tlp.has_data:
        tlp.data = rng.randbytes(4 * tlp.length)
        tlp.poisoned = rng.random() < 0.08
    return tlp


def byte_enable_tlps(rng):
    """Reads and writes of both sizes with every set of byte enables."""
    tlps = []
    for kind in (Kind.MRD, Kind.MWR):
        for upper in (0, 4):
            tlps += [Tlp(kind, 7, 0x3FF, BASE + 0x100 + upper, 1, first, 0, rng.randbytes(4 * (kind is Kind.MWR))) for first in range(16)]
        tlps += [Tlp(kind, 7, 0x200, BASE + 0x40, 2, rng.randrange(1, 16), last, rng.randbytes(8 * (kind is Kind.MWR))) for last in range(1, 16)]
    return tlps


def address_tlps():
    """Reads that miss the BAR by one bit of the address, then reads at each power of two below the error zone and inside the BAR."""
    missing = [Tlp(Kind.MRD, 7, bit, BASE ^ 1 << bit, 1, 15) for bit in range(BITS, 64)]
    return missing + [Tlp(Kind.MRD, 7, bit, BASE + (1 << bit), 1, 15) for bit in range(2, BITS)]


def beats_of(tlp, data_bytes, rng):
    """Beats of a TLP as the stream carries them."""
    chunks = [tlp.data[at:at + data_bytes] for at in range(0, len(tlp.data), data_bytes)] or [b""]
    header = encode(tlp)
    if tlp.poisoned and rng.random() < 0.5:
        header &= ~(1 << 96 + 14)
    for number, chunk in enumerate(chunks):
        yield {
            "data": int.from_bytes(chunk, "little"), "dwords": len(chunk) // 4, "header": 0 if number else header, "prefix": 0, "prefix_valid": 0,
            "first": number == 0, "last": number == len(chunks) - 1, "poisoned": int(tlp.poisoned),
            "digest_wrong": int(tlp.digest_wrong and not number),
        }


class Bench:
    """The adapter between a sender, a bus and a receiver of completions, each with pauses of its own."""
    def __init__(self, tlps, data_bytes, rng, *, pause=0.3, adapter=TlpRegisterAdapter):
        self.dut = adapter(data_bytes)
        self.tlps, self.data_bytes, self.rng, self.pause = tlps, data_bytes, rng, pause
        self.accesses, self.completions, self.unsupported = [], [], 0
        self.finished, self.answered = False, False

    async def rest(self, ctx):
        while self.rng.random() < self.pause:
            await ctx.tick()

    async def send(self, ctx):
        ctx.set(self.dut.base, BASE)
        ctx.set(self.dut.completer_id, COMPLETER)
        for tlp in self.tlps:
            port = self.dut.posted if tlp.flow == 0 else self.dut.non_posted
            while tlp.flow and not ctx.get(self.dut.idle_for_read):
                await ctx.tick()
            waited = 0
            for beat in beats_of(tlp, self.data_bytes, self.rng):
                await self.rest(ctx)
                ctx.set(port.payload, beat)
                ctx.set(port.valid, 1)
                _, _, ready = await ctx.tick().sample(port.ready)
                while not ready:
                    waited += 1
                    assert waited < 100, f"{tlp} is not taken"
                    _, _, ready = await ctx.tick().sample(port.ready)
                ctx.set(port.valid, 0)
        for _ in range(200):
            await ctx.tick()
        self.finished = True

    async def serve(self, ctx):
        bus, rng = self.dut.bus, self.rng
        while True:
            await self.rest(ctx)
            ctx.set(bus.request.ready, 1)
            _, _, valid, payload = await ctx.tick().sample(bus.request.valid, bus.request.payload)
            ctx.set(bus.request.ready, 0)
            if not valid:
                continue
            offset, strobe = payload.address, payload.strobe
            mask = sum(0xFF << 8 * lane for lane in range(8) if strobe >> lane & 1)
            self.accesses.append(("write" if payload.write else "read", offset, strobe, payload.data & mask if payload.write else None))
            if not payload.write:
                for _ in range(rng.randrange(6)):
                    await ctx.tick()
                ctx.set(bus.response.payload, {"data": word_of(offset), "error": offset >= ERROR_FROM})
                ctx.set(bus.response.valid, 1)
                # The answer waits there for the completion; what is posted goes on.
                self.answered = True

    async def take_back(self, ctx):
        """The answer on the bus ends when it is taken."""
        bus = self.dut.bus
        while True:
            _, _, valid, ready = await ctx.tick().sample(bus.response.valid, bus.response.ready)
            assert valid or not ready or not self.answered
            if valid and ready:
                self.answered = False
                ctx.set(bus.response.valid, 0)

    async def receive(self, ctx):
        port = self.dut.completion
        while True:
            await self.rest(ctx)
            ctx.set(port.ready, 1)
            _, _, valid, payload = await ctx.tick().sample(port.valid, port.payload)
            ctx.set(port.ready, 0)
            if valid:
                assert (payload.first, payload.last, payload.prefix_valid, payload.poisoned) == (1, 1, 0, 0)
                data = payload.data.to_bytes(self.data_bytes, "little")
                assert not any(data[4 * payload.dwords:])
                self.completions.append(decode(payload.header, data[:4 * payload.dwords]))

    async def count(self, ctx):
        held = None
        port = self.dut.completion
        samples = ctx.tick().sample(self.dut.unsupported, port.valid, port.ready, port.payload.as_value())
        async for _, _, unsupported, valid, ready, payload in samples:
            self.unsupported += unsupported
            assert held is None or (valid and payload == held), "A completion changed while it waited"
            held = payload if valid and not ready else None

    def run(self):
        simulator = Simulator(self.dut)
        simulator.add_clock(CLOCK)
        simulator.add_testbench(self.send)
        for bench in (self.serve, self.take_back, self.receive, self.count):
            simulator.add_testbench(bench, background=True)
        simulator.run()
        assert self.finished
        return self

    def check(self):
        wanted = [expectation(tlp) for tlp in self.tlps]
        assert self.accesses == [access for access, _, _ in wanted if access]
        completions = [completion for _, completion, _ in wanted if completion]
        assert len(self.completions) == len(completions)
        for found, right in zip(self.completions, completions, strict=True):
            assert found == right
        assert self.unsupported == sum(pulses for _, _, pulses in wanted)
        return wanted


@pytest.mark.hazard("H21", "I10")
@pytest.mark.parametrize("pause", [0.0, 0.5])
@pytest.mark.parametrize("data_bytes", [16, 32, 64, 128])
def test_every_request_is_served_or_refused_as_pcie_says(data_bytes, pause):
    rng = generator(f"requests {data_bytes} {pause}")
    tlps = random_tlps(rng, 200)
    wanted = Bench(tlps, data_bytes, rng, pause=pause).run().check()
    kinds = [access[0] for access, _, _ in wanted if access]
    assert kinds.count("write") > 20 and kinds.count("read") > 20
    assert sum(bool(completion and completion.status) for _, completion, _ in wanted) > 20


@pytest.mark.hazard("H21")
def test_all_byte_enables_of_both_sizes():
    rng = generator("byte enables")
    wanted = Bench(byte_enable_tlps(rng), 64, rng).run().check()
    assert all(pulses == 0 for _, _, pulses in wanted)


def test_a_write_with_a_wrong_digest_is_dropped():
    wanted = Bench([Tlp(Kind.MWR, 7, 0, BASE, 1, 15, data=b"1234", digest_wrong=True)], 64, generator("digest")).run().check()
    assert wanted == [(None, None, 1)]


def test_every_bit_of_the_address_counts():
    rng = generator("address bits")
    wanted = Bench(address_tlps(), 64, rng).run().check()
    assert [bool(completion.status) for _, completion, _ in wanted] == [True] * (64 - BITS) + [False] * (BITS - 2)


def test_malformed_reads_get_an_answer_and_writes_are_counted():
    """Byte enables that Length forbids: the answer's Byte Count means nothing, but it must come, with the request's ID and tag."""
    rng = generator("malformed")
    wrong = ((1, 15, 1), (2, 15, 0), (2, 0, 15), (1, 0, 8))
    tlps = [Tlp(Kind.MRD, 7, tag, BASE + 8, length, first, last) for tag, (length, first, last) in enumerate(wrong)]
    tlps += [Tlp(Kind.MWR, 7, 0, BASE + 8, length, first, last, bytes(4 * length)) for length, first, last in wrong]
    bench = Bench(tlps, 32, rng).run()
    assert [(tlp.kind, tlp.status, tlp.requester_id, tlp.tag) for tlp in bench.completions] == [(Kind.CPL, 1, 7, tag) for tag in range(4)]
    assert not bench.accesses and bench.unsupported == 8


@pytest.mark.hazard("H24", "D1")
def test_posted_requests_are_taken_while_no_completion_leaves_and_no_read_is_answered():
    rng = generator("posted")
    dut = TlpRegisterAdapter(16)
    taken = []

    async def bench(ctx):
        ctx.set(dut.base, BASE)
        ctx.set(dut.bus.request.ready, 1)
        ctx.set(dut.non_posted.payload, next(beats_of(Tlp(Kind.MRD, 1, 2, BASE, 1, 15), 16, rng)))
        ctx.set(dut.non_posted.valid, 1)
        await ctx.tick()
        ctx.set(dut.non_posted.valid, 0)
        assert not ctx.get(dut.idle_for_read)
        for number in range(100):
            if number == 50:
                ctx.set(dut.bus.response.valid, 1)
            length = rng.choice((1, 2, 20))
            for beat in beats_of(Tlp(Kind.MWR, 1, 0, BASE, length, 15, 15 if length > 1 else 0, bytes(4 * length)), 16, rng):
                ctx.set(dut.posted.payload, beat)
                ctx.set(dut.posted.valid, 1)
                waited = 0
                _, _, ready = await ctx.tick().sample(dut.posted.ready)
                while not ready:
                    waited += 1
                    _, _, ready = await ctx.tick().sample(dut.posted.ready)
                assert waited <= 3
            taken.append(length)
        ctx.set(dut.posted.valid, 0)
        for _ in range(5):
            await ctx.tick()
        assert ctx.get(dut.completion.valid) and not ctx.get(dut.idle_for_read)

    async def watch(ctx):
        cycle = 0
        async for _, _, valid, write in ctx.tick().sample(dut.bus.request.valid, dut.bus.request.payload.write):
            if valid:
                taken_on_bus.append((cycle, write))
            cycle += 1

    taken_on_bus = []
    simulator = Simulator(dut)
    simulator.add_clock(CLOCK)
    simulator.add_testbench(bench)
    simulator.add_testbench(watch, background=True)
    simulator.run()
    # Handed over in cycle 0, on the bus 3 cycles later; then a write for each short TLP.
    assert taken_on_bus[0] == (3, 0)
    assert sum(write for _, write in taken_on_bus) == sum(length < 3 for length in taken)


@pytest.mark.parametrize("data_bytes", [8, 48])
def test_wrong_beat_widths_are_refused(data_bytes):
    with pytest.raises(ValueError, match=rf"^Beat width must be one of 16, 32, 64, 128 bytes, not {data_bytes}$"):
        TlpRegisterAdapter(data_bytes)


class _TagOfEightBits(TlpRegisterAdapter):
    def _completion(self, answer, success, word):
        return [*super()._completion(answer, success, word), self.completion.payload.header[96 + 23].eq(0)]


class _PoisonedWritesAreDone(TlpRegisterAdapter):
    def _decode(self, m, arrived, decoded):
        super()._decode(m, arrived, decoded)
        m.d.sync += decoded.write.eq((arrived.header.fmt[1]) & (arrived.header.type == 0) & (arrived.header.address_type == 0))


class _UpperHalfForgotten(TlpRegisterAdapter):
    @staticmethod
    def _word(decoded, value):
        return value


class _LowerAddressOfTheDoubleWord(TlpRegisterAdapter):
    def _judge(self, m, decoded, judged):
        super()._judge(m, decoded, judged)
        m.d.sync += judged.lower_address[:2].eq(0)


class _ZeroLengthReadReachesTheBus(TlpRegisterAdapter):
    def _judge(self, m, decoded, judged):
        super()._judge(m, decoded, judged)
        with m.If(decoded.inside.all() & decoded.single & (decoded.first_be == 0) & decoded.read):
            m.d.sync += [judged.read.eq(1), judged.zero.eq(0)]


class _IgnoresAPartOfTheAddress(TlpRegisterAdapter):
    def _decode(self, m, arrived, decoded):
        super()._decode(m, arrived, decoded)
        m.d.sync += decoded.inside[-1].eq(1)


@pytest.mark.parametrize("mutant", [
    _TagOfEightBits, _PoisonedWritesAreDone, _UpperHalfForgotten, _LowerAddressOfTheDoubleWord, _ZeroLengthReadReachesTheBus,
    _IgnoresAPartOfTheAddress,
])
def test_a_planted_bug_is_caught(mutant):
    rng = generator("planted")
    tlps = byte_enable_tlps(rng) + address_tlps() + [Tlp(Kind.MWR, 7, 0, BASE, 1, 15, data=b"1234", poisoned=True)]
    bench = Bench(tlps, 64, rng, pause=0.0, adapter=mutant).run()
    with pytest.raises(AssertionError):
        bench.check()
