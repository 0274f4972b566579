# amaranth: UnusedElaboratable=no
"""Completions that say Unsupported Request, against a model written from the specification's text."""

import pytest

from pagehop.tlp.refusals import Refusals
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


def expected(request, completer_id):
    """The answer as 128 bits, from 2.2.9."""
    kind, attributes, tag = request["kind"], request["attributes"], request["tag"]

    def says(byte_count, lower_address):
        dw0 = ((0x0B if kind == LOCKED else 0x0A) << 24 | (tag >> 9) << 23 | request["traffic_class"] << 20 | (tag >> 8 & 1) << 19
               | (attributes & 3) << 12)
        dw1 = completer_id << 16 | 1 << 13 | byte_count % 4096
        return dw0 << 96 | dw1 << 64 | (request["requester_id"] << 16 | (tag & 0xFF) << 8 | lower_address) << 32

    if kind not in (READ, LOCKED):
        # "Operand size for an AtomicOp; 4 for every other completion." Lower Address 0 for what does not answer a memory read.
        atomic = kind in (FETCH_ADD, SWAP, COMPARE_AND_SWAP)
        return says(4 * request["length"] // (2 if kind == COMPARE_AND_SWAP else 1) if atomic else 4, 0)
    enabled = enabled_bytes(request)
    if not enabled:
        # "1 for a zero-length read", whose Lower Address bits 1:0 are 00.
        return says(1, request["address"] & 0x7F)
    return says(enabled[-1] - enabled[0] + 1, enabled[0] & 0x7F)


class HolesLeftOut(Refusals):
    """Planted bug: Byte Count ignores the enables of the last double word."""
    @staticmethod
    def _bytes(fields, length):
        before, _ = Refusals._bytes(fields, length)
        return before, (length << 2) - before


class BeginsAtItsDword(Refusals):
    """Planted bug: Lower Address is that of the first double word, not of the first enabled byte."""
    @staticmethod
    def _bytes(fields, length):
        before, count = Refusals._bytes(fields, length)
        return before & 0, count


KINDS = [READ] * 8 + [LOCKED, IO_READ, IO_WRITE, CONFIG_READ, CONFIG_WRITE, FETCH_ADD, SWAP, COMPARE_AND_SWAP, DEFERRED_WRITE]


def exercise(dut, name, pace=0.7, count=300):
    """Refuse requests of all kinds. Returns the cycles in which the answers were taken."""
    rng = seeded(name)
    completer_id = rng.getrandbits(16)
    work = [make_request(rng, rng.choice(KINDS)) for _ in range(count)]
    wanted, seen = [expected(request, completer_id) for request in work], []

    async def requests(ctx):
        ctx.set(dut.completer_id, completer_id)
        for request in work:
            while rng.random() > pace or not ctx.get(dut.room):
                await ctx.tick()
            ctx.set(dut.i.payload, dut.i.payload.shape().from_bits(encode(request)))
            ctx.set(dut.i.valid, 1)
            await ctx.tick()
            ctx.set(dut.i.valid, 0)

    async def answers(ctx):
        cycle, offered = 0, None
        while len(seen) < count:
            assert cycle < 20 * count, "nothing comes out"
            ctx.set(dut.o.ready, rng.random() < pace)
            valid, header = ctx.get(dut.o.valid), int(ctx.get(dut.o.payload.as_value()))
            if offered is not None:
                assert valid and header == offered, "an answer was withdrawn"
            offered = header if valid and not ctx.get(dut.o.ready) else None
            if valid and ctx.get(dut.o.ready):
                assert header == wanted[len(seen)], f"request {len(seen)}: {header:032x}"
                seen.append(cycle)
            await ctx.tick()
            cycle += 1

    run(dut, requests, answers)
    return seen


@pytest.mark.parametrize("pace", [0.6, 1])
def test_answers_are_what_the_specification_says(pace):
    exercise(Refusals(), f"refusals/{pace}", pace)


@pytest.mark.parametrize("bug", [HolesLeftOut, BeginsAtItsDword])
def test_planted_bug_is_found(bug):
    with pytest.raises(AssertionError, match=r"^request "):
        exercise(bug(), "refusals/bug")


def test_an_answer_every_second_cycle():
    seen = exercise(Refusals(), "refusals/fast", 1)
    assert seen == list(range(seen[0], seen[0] + 2 * len(seen), 2))
