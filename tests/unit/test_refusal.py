# amaranth: UnusedElaboratable=no
"""The completion with UR of any request that can be refused."""

from dataclasses import replace

import pytest
from amaranth.hdl import Module
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from pagehop.tlp import refusal
from pagehop.tlp.refusal import refuse
from pagehop_sim.planted import planted
from pagehop_tb.protocol import Kind, Tlp, answer, encode, memory_read, request_bytes
from pagehop_tb.simulate import run, seeded

OURS = 0x0208


class Refusal(wiring.Component):
    """``refuse`` behind ports."""
    header: In(128)
    answer: Out(128)

    def __init__(self, refuse=refuse):
        self.refuse = refuse
        super().__init__()

    def elaborate(self, platform):
        m = Module()
        m.d.comb += self.refuse(self.answer, self.header, OURS)
        return m


def requests(rng):
    """Reads of all sizes and byte enables, at both kinds of addresses, locked and with hints too; atomics."""
    for number in range(1500):
        base, tag, size = rng.choice((0x1000_0000, 0x12_0000_0000)), rng.randrange(1024), rng.choice((0, 1, 2, 3, 4, 5, 8, 70, 128, 4096))
        address = base if size == 4096 else base + rng.randrange(4096 - size)
        fields = {"traffic_class": rng.randrange(8), "relaxed_ordering": rng.random() < 0.5, "no_snoop": rng.random() < 0.5}
        read = memory_read(rng.randrange(1 << 16), address, size, tag)
        yield replace(read, **fields, kind=Kind.MRDLK if number % 5 == 0 else Kind.MRD)
        yield replace(read, **fields, hints=True, first_be=rng.randrange(16), last_be=rng.randrange(16))
        operand = rng.choice((4, 8))
        kind = rng.choice((Kind.FETCH_ADD, Kind.SWAP, Kind.CAS))
        length = operand // 4 * (2 if kind is Kind.CAS else 1)
        yield Tlp(kind, read.requester_id, tag, base + 64, length, 0, 0, bytes(4 * length), **fields)


def wanted(tlp):
    """The completion, by the model."""
    if tlp.is_atomic:
        return answer(tlp, OURS, 1, byte_count=2 * tlp.length if tlp.kind is Kind.CAS else 4 * tlp.length)
    start, size = request_bytes(tlp)
    return answer(tlp, OURS, 1, byte_count=size or 1, lower_address=start & 0x7F)


def exercise(dut):
    async def bench(ctx):
        for tlp in requests(seeded("refusal")):
            ctx.set(dut.header, encode(tlp))
            found, expected = ctx.get(dut.answer), encode(wanted(tlp))
            assert found == expected, f"{tlp} is answered with {found:#034x}, not {expected:#034x}"

    run(dut, bench)


def test_every_field_is_that_of_the_request():
    exercise(Refusal())


BUGS = {
    "hints count as byte enables": ("outer = Mux(request.hints, 0, ", "outer = Mux(0, 0, "),
    "operand of one swap": ("request.length << 1, request.length << 2)", "request.length << 2, request.length << 2)"),
    "locked as others": ("TlpType.COMPLETION_LOCKED, ", "TlpType.COMPLETION, "),
    "nothing asked for": ("Mux(empty, 1, ", "Mux(empty, 0, "),
}


@pytest.mark.parametrize("bug", BUGS)
def test_planted_bugs_are_caught(bug):
    with pytest.raises(AssertionError, match="is answered with"):
        exercise(Refusal(planted(refusal.refuse, *BUGS[bug])))
