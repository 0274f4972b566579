# amaranth: UnusedElaboratable=no
"""Completions of a completer, against a model written from the specification's text."""

import pytest

from pagehop.tlp.completion import CompletionBuilder
from pagehop_tb.simulate import run, seeded

READ, LOCKED, IO_READ, IO_WRITE, CONFIG_READ, CONFIG_WRITE = 0x00, 0x01, 0x02, 0x42, 0x04, 0x44
FETCH_ADD, SWAP, COMPARE_AND_SWAP, DEFERRED_WRITE = 0x4C, 0x4D, 0x4E, 0x5B


def make_request(rng, kind):
    """A legal request of one kind, as numbers by field."""
    if kind in (READ, LOCKED):
        length = rng.choice([1, 1, 2, 3, rng.randint(1, 64), rng.randint(1, 300), 1024])
        start = 0 if length == 1024 else rng.randrange(1024 - length + 1)
    else:
        length = {FETCH_ADD: rng.choice([1, 2]), SWAP: rng.choice([1, 2]), COMPARE_AND_SWAP: rng.choice([2, 4, 8])}.get(kind, 1)
        start = rng.randrange(16) * 8
    wide = kind not in (IO_READ, IO_WRITE, CONFIG_READ, CONFIG_WRITE) and rng.random() < 0.5
    first, last = rng.choice([0xF, 0x8, 0xC, 0xE, 0x1, 0x5, 0x6]), rng.choice([0xF, 0x1, 0x3, 0x7, 0x8])
    if length == 1:
        first, last = rng.choice([0, first, rng.randrange(16)]), 0
    return {"kind": kind, "wide": wide, "length": length, "address": rng.randrange(1 << 20) * 4096 + 4 * start + (wide << 40), "first_be": first,
            "last_be": last, "tag": rng.randrange(1024), "traffic_class": rng.randrange(8), "attributes": rng.randrange(8),
            "hints": kind == READ and rng.random() < 0.1, "requester_id": rng.getrandbits(16)}


def encode(request):
    """The request's header as 128 bits. DW0: T9 23, TC 22:20, T8 19, IDO 18, TH 16, RO 13, NS 12, Length 9:0."""
    attributes, tag = request["attributes"], request["tag"]
    dw0 = ((request["kind"] | request["wide"] << 5) << 24 | (tag >> 9) << 23 | request["traffic_class"] << 20 | (tag >> 8 & 1) << 19
           | (attributes >> 2) << 18 | request["hints"] << 16 | (attributes & 3) << 12 | request["length"] % 1024)
    dw1 = request["requester_id"] << 16 | (tag & 0xFF) << 8 | request["last_be"] << 4 | request["first_be"]
    address = request["address"]
    rest = (address >> 32, address & 0xFFFF_FFFF) if request["wide"] else (address & 0xFFFF_FFFF, 0)
    return dw0 << 96 | dw1 << 64 | rest[0] << 32 | rest[1]


def enabled_bytes(request):
    """Addresses of the bytes that a read asks for, holes left out (2.2.5)."""
    start, length = request["address"], request["length"]
    first, last = (0xF, 0xF) if request["hints"] else (request["first_be"], request["last_be"])
    found = []
    for dword in range(length):
        # "First DW BE" is for the first double word, also when it is the only one; "Last DW BE" for the last of several.
        enables = first if dword == 0 else last if dword == length - 1 else 0xF
        found += [start + 4 * dword + byte for byte in range(4) if enables >> byte & 1]
    return found


def expected(request, completer_id, status, content, boundary, max_payload):
    """Completions as (DW0, DW1, DW2, payload), from 2.2.9 and 2.3.1.1."""
    kind, attributes, tag = request["kind"], request["attributes"], request["tag"]
    common = (tag >> 9) << 23 | request["traffic_class"] << 20 | (tag >> 8 & 1) << 19 | (attributes & 3) << 12
    fmt_type = 0x0B if kind == LOCKED else 0x0A

    def one(byte_count, lower_address, payload):
        dw0 = (fmt_type | (0x40 if payload else 0)) << 24 | common | len(payload) // 4 % 1024
        dw1 = completer_id << 16 | status << 13 | byte_count % 4096
        return (dw0, dw1, request["requester_id"] << 16 | (tag & 0xFF) << 8 | lower_address, payload)

    if kind not in (READ, LOCKED):
        # "Operand size for an AtomicOp; 4 for every other completion." Lower Address 0 for what does not answer a memory read.
        atomic = kind in (FETCH_ADD, SWAP, COMPARE_AND_SWAP)
        size = 4 * request["length"] // (2 if kind == COMPARE_AND_SWAP else 1) if atomic else 4
        carries = status == 0 and kind not in (IO_WRITE, CONFIG_WRITE, DEFERRED_WRITE)
        return [one(size, 0, content[:size] if carries else b"")]
    enabled = enabled_bytes(request)
    start, end = request["address"], request["address"] + 4 * request["length"]
    if not enabled:
        # "1 for a zero-length read", whose Lower Address bits 1:0 are 00.
        return [one(1, start & 0x7F, b"" if status else content[:4])]
    if status:
        return [one(enabled[-1] - enabled[0] + 1, enabled[0] & 0x7F, b"")]
    answers, at = [], start
    while at < end:
        # Largest that Max_Payload_Size allows, ending on a boundary unless it is the last.
        stop = end if end - at <= max_payload else (at + max_payload) // boundary * boundary
        first_byte = max(at, enabled[0])
        answers.append(one(enabled[-1] - first_byte + 1, first_byte & 0x7F, content[at - start:stop - start]))
        at = stop
    return answers


class HolesLeftOut(CompletionBuilder):
    """Planted bug: Byte Count ignores the enables of the last double word."""
    @staticmethod
    def _bytes(fields, length):
        before, _ = CompletionBuilder._bytes(fields, length)
        return before, ((length << 2) - before)[:13]


class BeginsAtItsDword(CompletionBuilder):
    """Planted bug: Lower Address is that of the first double word, not of the first enabled byte."""
    @staticmethod
    def _bytes(fields, length):
        before, count = CompletionBuilder._bytes(fields, length)
        return before & 0, count


def exercise(dut, name, count=80, pace=0.7):
    rng = seeded(name)
    max_payload = rng.choice([128, 256, 512, 4096])
    work, wanted = [], []
    for n in range(count):
        kind = rng.choice([READ] * 8 + [LOCKED, IO_READ, IO_WRITE, CONFIG_READ, CONFIG_WRITE, FETCH_ADD, SWAP, COMPARE_AND_SWAP, DEFERRED_WRITE])
        request, completer_id, status = make_request(rng, kind), rng.getrandbits(16), rng.choice([0, 0, 0, 0, 0, 1, 4, 2 if kind & 0x3F == 4 else 1])
        content = rng.randbytes(4 * request["length"])
        answers = expected(request, completer_id, status, content, dut.read_completion_boundary, max_payload)
        payload = b"".join(answer[3] for answer in answers)
        work.append((encode(request), completer_id, status, [payload[at:at + dut.data_bytes] for at in range(0, len(payload), dut.data_bytes)]))
        wanted += [(n, answer) for answer in answers]
    seen = {"beats": 0, "split": len(wanted) - count}

    async def requests(ctx):
        ctx.set(dut.max_payload, (max_payload // 128).bit_length() - 1)
        for header, completer_id, status, _ in work:
            fields = dut.request.payload.header.shape().from_bits(header)
            await put(ctx, dut.request, {"header": fields, "completer_id": completer_id, "status": status})

    async def contents(ctx):
        for part in [part for *_, parts in work for part in parts]:
            await put(ctx, dut.i, int.from_bytes(part, "little") | rng.getrandbits(8) << 8 * len(part) if len(part) < dut.data_bytes
                      else int.from_bytes(part, "little"))

    async def put(ctx, port, payload):
        while rng.random() > pace:
            await ctx.tick()
        ctx.set(port.payload, payload)
        ctx.set(port.valid, 1)
        ready = False
        while not ready:
            *_, ready = await ctx.tick().sample(port.ready)
        ctx.set(port.valid, 0)

    async def answers(ctx):
        payload, offered = b"", None
        idle = 0
        while wanted:
            ctx.set(dut.o.ready, rng.random() < pace)
            valid, beat = ctx.get(dut.o.valid), ctx.get(dut.o.payload)
            if offered is not None:
                assert valid and beat.as_bits() == offered
            offered = beat.as_bits() if valid and not ctx.get(dut.o.ready) else None
            idle = 0 if valid else idle + 1
            assert idle < 200, "nothing comes out"
            if valid and ctx.get(dut.o.ready):
                n, (dw0, dw1, dw2, content) = wanted[0]
                assert beat.first == (payload == b"")
                assert beat.header == (dw0 << 96 | dw1 << 64 | dw2 << 32 if beat.first else 0), f"request {n}: {beat.header:032x}"
                payload += beat.data.to_bytes(dut.data_bytes, "little")[:4 * beat.dwords]
                assert beat.last == (len(payload) >= len(content))
                assert beat.dwords == dut.data_bytes // 4 or beat.last
                seen["beats"] += 1
                if beat.last:
                    assert payload == content, f"request {n}"
                    payload = b""
                    del wanted[0]
            await ctx.tick()

    run(dut, requests, contents, answers)
    assert seen["beats"] > count and (seen["split"] > 10 or max_payload == 4096), seen


@pytest.mark.parametrize("boundary", [64, 128])
@pytest.mark.parametrize("data_bytes", [16, 32, 64, 128])
@pytest.mark.parametrize("pace", [0.6, 1])
def test_completions_are_what_the_specification_says(data_bytes, boundary, pace):
    exercise(CompletionBuilder(data_bytes, boundary), f"completion/{data_bytes}/{boundary}/{pace}", pace=pace)


@pytest.mark.parametrize("bug", [HolesLeftOut, BeginsAtItsDword])
def test_planted_bug_is_found(bug):
    with pytest.raises(AssertionError):
        exercise(bug(64), "completion/bug")


def test_a_beat_a_cycle():
    """Aligned reads of 4 KB: after the first beat, no gap until the end of the last answer."""
    dut = CompletionBuilder(64)
    header = dut.request.payload.header.shape().from_bits(0x2000_0000_0000_00FF_0000_0001_0000_0000)

    async def bench(ctx):
        ctx.set(dut.max_payload, 1)
        ctx.set(dut.request.payload, {"header": header, "status": 0})
        ctx.set(dut.request.valid, 1)
        ctx.set(dut.i.valid, 1)
        ctx.set(dut.o.ready, 1)
        valid = []
        for _ in range(4 * 64 + 5):
            valid.append(ctx.get(dut.o.valid))
            await ctx.tick()
        assert valid.index(1) == 5 and all(valid[5:])

    run(dut, bench)


def test_parameters_are_checked():
    with pytest.raises(ValueError, match=r"^Read completion boundary must be 64 or 128 bytes, not 256$"):
        CompletionBuilder(64, 256)
    with pytest.raises(ValueError, match=r"^Beat width must be one of 16, 32, 64, 128 bytes, not 4$"):
        CompletionBuilder(4)
