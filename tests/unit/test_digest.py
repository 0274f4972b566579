"""Digests: the CRC bit by bit as the specification has it, and what the hardware takes off, judges and makes."""

import random
from dataclasses import replace
from typing import Any

import pytest
from amaranth.hdl import Elaboratable, Module
from amaranth.lib import data
from amaranth.sim import Simulator

from pagehop.tlp import digest_check, digest_make, ecrc
from pagehop.tlp.digest_check import DigestCheck
from pagehop.tlp.digest_make import DigestMake
from pagehop.tlp.headers import RequestHeader
from pagehop.tlp.stream import connect_streams
from pagehop_sim.planted import edited
from pagehop_tb.pins import BeatError, BeatFormat
from pagehop_tb.protocol import Kind, Tlp, digest_of, encode
from pagehop_tb.simulate import seeded

CLOCK, MAX_PAYLOAD = 4e-9, 256
#: Requester ID that the TLPs of a test get on their way.
OTHER_ID = 0xA5C3


def of_2_7_1(wire: bytes) -> bytes:
    """The digest of these bytes by the shift register of figure 2-47, a bit at a time, each byte from bit 0 on, and the mapping of table 2-46."""
    register = 0xFFFFFFFF
    for byte in wire:
        for bit in range(8):
            feedback = register >> 31 ^ byte >> bit & 1
            register = register << 1 & 0xFFFFFFFF ^ (0x04C11DB7 if feedback else 0)
    result, field = register ^ 0xFFFFFFFF, 0
    for bit in range(32):
        field |= (result >> 31 - bit & 1) << 8 * (3 - bit // 8) + bit % 8
    return field.to_bytes(4, "big")


def some(rng: random.Random, count: int, digests: float = 0.7) -> list[Tlp]:
    """TLPs of all forms and lengths, most of them with a digest, a few with a wrong one."""
    found = []
    for _ in range(count):
        length = rng.choice((1, 2, 3, 4, 5, 15, 16, 17, 31, 32, rng.randint(1, MAX_PAYLOAD // 4)))
        address, payload = rng.choice((0x8000_0000, 0x12_0000_0000)) + 4 * rng.randrange(256), rng.randbytes(4 * length)
        sender, tag, last = rng.getrandbits(16), rng.getrandbits(10), 0xF if length > 1 else 0
        tlp = rng.choice((
            Tlp(Kind.MWR, sender, tag, address, length, 0xF, last, payload),
            Tlp(Kind.MRD, sender, tag, address, length, 0xF, last),
            Tlp(Kind.CPLD, sender, tag, 0, length, data=payload, completer_id=sender ^ 1, byte_count=4 * length),
            Tlp(Kind.CPL, sender, tag, status=1, byte_count=4),
            Tlp(Kind.MSGD, rng.getrandbits(16), 0, rng.getrandbits(64), length, data=payload, code=0x7F)))
        tlp.prefix = 0x91 << 24 | rng.getrandbits(20) if rng.random() < 0.3 else None
        tlp.poisoned, tlp.digest = tlp.has_data and rng.random() < 0.2, rng.random() < digests
        tlp.digest_wrong = tlp.digest and rng.random() < 0.2
        found.append(tlp)
    return found


class Between(Elaboratable):
    """Digests are checked and made anew, and between the two a header changes."""

    def __init__(self, data_bytes: int, renews: bool, check: Any = DigestCheck, make: Any = DigestMake) -> None:
        self.check, self.make = check(data_bytes, MAX_PAYLOAD, renews=renews), make(data_bytes)
        self.i, self.o = self.check.i, self.make.o

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        m.submodules.check, m.submodules.make = self.check, self.make
        connect_streams(m, self.check.o, self.make.i)
        with m.If(self.check.o.payload.first & (self.check.o.payload.header[121:128] == 0b0100000)):
            m.d.comb += data.View(RequestHeader(), self.make.i.payload.header).requester_id.eq(OTHER_ID)
        return m


def run_through(dut: Any, tlps: list[Tlp], beats: BeatFormat, rng: random.Random, gaps: float, stalls: float) -> tuple[list[Tlp], int, int]:
    """What comes out, the cycles that it took, and how many digests were called wrong."""
    sent = [beat for tlp in tlps for beat in beats.pack(tlp)]
    received: list[Tlp] = []
    wrong, cycles = 0, 0

    async def bench(ctx: Any) -> None:
        nonlocal wrong, cycles
        part: list[int] = []
        place = 0
        for cycles in range(20 * len(sent) + 500):
            offers = place < len(sent) and rng.random() >= gaps
            takes = rng.random() >= stalls
            ctx.set(dut.i.valid, offers)
            if offers:
                ctx.set(dut.i.payload.as_value(), sent[place])
            ctx.set(dut.o.ready, takes)
            if ctx.get(dut.o.valid) and takes:
                part.append(ctx.get(dut.o.payload.as_value()))
                if beats.is_last(part[-1]):
                    received.append(beats.unpack(part))
                    part.clear()
            place += bool(offers and ctx.get(dut.i.ready))
            wrong += ctx.get(dut.check.wrong)
            await ctx.tick()
            if len(received) == len(tlps):
                break
        assert not part

    simulator = Simulator(dut)
    simulator.add_clock(CLOCK)
    simulator.add_testbench(bench)
    simulator.run()
    return received, cycles, wrong


def expected_of(tlp: Tlp, renews: bool) -> Tlp:
    changed = replace(tlp, requester_id=OTHER_ID) if tlp.kind is Kind.MWR and not tlp.four_dw else tlp
    return changed if renews else replace(changed, digest=False, digest_wrong=False)


def exercise(data_bytes: int, renews: bool = True, count: int = 100, **parts: Any) -> None:
    rng = seeded(f"digests {data_bytes}")
    tlps = some(rng, count)
    received, _, wrong = run_through(Between(data_bytes, renews, **parts), tlps, BeatFormat(data_bytes, digests=True), rng, 0.1, 0.1)
    for number, (tlp, came) in enumerate(zip(tlps, received, strict=False)):
        assert came == expected_of(tlp, renews), f"TLP {number}: {came!r} came out instead of {expected_of(tlp, renews)!r}"
    assert len(received) == len(tlps), f"{len(received)} of {len(tlps)} TLPs came out"
    assert wrong == (sum(tlp.digest_wrong for tlp in tlps) if renews else 0)


def test_the_digest_is_that_of_the_specification() -> None:
    """The bench's CRC is the one of 2.7.1, bit for bit."""
    rng = seeded("specification")
    for tlp in some(rng, 60, digests=1.0):
        wire = bytearray(encode(tlp).to_bytes(16, "big")[:16 if tlp.four_dw else 12])
        wire[0] |= 1
        wire[2] |= 1 << 6
        prefix = b"" if tlp.prefix is None else tlp.prefix.to_bytes(4, "big")
        assert digest_of(replace(tlp, digest_wrong=False)) == of_2_7_1(prefix + bytes(wire) + tlp.data)
        assert digest_of(replace(tlp, digest_wrong=True)) == bytes(byte ^ 0xFF for byte in digest_of(replace(tlp, digest_wrong=False)))


def test_a_port_without_digests_takes_none() -> None:
    """TD where no digests are is an error of who sent it, and so is a digest that nobody can have made."""
    tlp = Tlp(Kind.MWR, 1, 2, 0x1000, 1, 0xF, 0, b"abcd", digest=True)
    with pytest.raises(BeatError, match="TD is set"):
        BeatFormat(64).unpack(BeatFormat(64).pack(tlp))
    beats = BeatFormat(64, digests=True).pack(tlp)
    assert BeatFormat(64, digests=True).unpack(beats) == tlp
    with pytest.raises(BeatError, match="neither right nor made wrong"):
        BeatFormat(64, digests=True).unpack([beats[0] ^ 1])


@pytest.mark.parametrize("data_bytes", [16, 64])
@pytest.mark.parametrize("renews", [True, False])
def test_digests_are_checked_and_made(data_bytes: int, renews: bool) -> None:
    """Each TLP leaves with a digest of what leaves, which is wrong exactly when it was; or with none."""
    exercise(data_bytes, renews)


@pytest.mark.parametrize("data_bytes", [16, 64])
def test_nothing_is_slowed_down(data_bytes: int) -> None:
    """Without pauses one beat goes each cycle, but for the beats that hold a digest alone, however TLPs with and without one follow each other."""
    rng, beats = seeded(f"pace {data_bytes}"), BeatFormat(data_bytes, digests=True)
    tlps = some(rng, 80)
    received, cycles, _ = run_through(Between(data_bytes, True), tlps, beats, rng, 0.0, 0.0)
    assert len(received) == len(tlps)
    longest = MAX_PAYLOAD // data_bytes + 1
    assert cycles <= sum(len(beats.pack(tlp)) for tlp in tlps) + longest + 2 * ecrc.crc_cycles(data_bytes) + 10


@pytest.mark.parametrize("data_bytes", [16, 64, 128])
def test_latency_is_as_documented(data_bytes: int) -> None:
    """Of a TLP of one beat, from the check to what is made: 4 cycles without a digest; with one the depth of both CRCs and 3."""
    beats = BeatFormat(data_bytes, digests=True)
    for digest, cycles in ((False, 4), (True, 2 * ecrc.crc_cycles(data_bytes) + 3)):
        tlp = Tlp(Kind.MRD, 1, 2, 0x1000, 1, 0xF, 0, digest=digest)
        received, took, _ = run_through(Between(data_bytes, True), [tlp], beats, seeded("latency"), 0.0, 0.0)
        assert (len(received), took) == (1, cycles)


BUGS: dict[str, Any] = {
    "poison_counts": lambda: _with_crc(("1 | 1 << 16 + 6", "1")),
    "type_counts": lambda: _with_crc(("1 | 1 << 16 + 6", "1 << 16 + 6")),
    "prefix_does_not_count": lambda: _with_crc(("Mux(beat.prefix_valid, ~on_the_wire(beat.prefix), 0)", "Const(0, 32)")),
    "zeros_count": lambda: _with_crc(("undone.eq(lanes - count_2)", "undone.eq(0)")),
    "register_begins_with_zeros": lambda: _with_crc(("Mux(beat.prefix_valid, first, ~first)", "first")),
    "last_tlp_counts": lambda: _with_crc(("Mux(first_2, head_2, register)", "register")),
    "wrong_is_made_right": lambda: {"make": edited(DigestMake, ("^ wrong.replicate(32)", "^ 0"))},
    "next_is_wrong_too": lambda: {"make": edited(DigestMake, ("Mux(beat.first, beat.digest_wrong, wrong_q)", "wrong_q | beat.digest_wrong"))},
    "full_beat_is_overwritten": lambda: {"make": edited(DigestMake, ("full.eq(beat.dwords == lanes)", "full.eq(0)"))},
    "judged_before_it_is_whole": lambda: {"check": edited(DigestCheck, ("(~judged | verdicts.o.valid)", "1"))},
    "digest_stays": lambda: {"check": edited(DigestCheck, ("out.payload.dwords.eq(count)", "out.payload.dwords.eq(beat.dwords)"))},
    "digest_makes_a_beat": lambda: {"check": edited(DigestCheck, ("beat.first | (ahead != 0) | ~has_digest", "1"))},
}


def _with_crc(*changes: tuple[str, str]) -> dict[str, Any]:
    """The check and the making both with a CRC that is wrong in the same way, so that only another can tell."""
    crc = edited(ecrc.TlpCrc, *changes)
    return {"check": edited(DigestCheck, TlpCrc=crc), "make": edited(DigestMake, TlpCrc=crc)}


@pytest.mark.parametrize("bug", BUGS)
def test_bugs_are_found(bug: str) -> None:
    """Each of these is seen at 16 bytes a beat."""
    with pytest.raises((AssertionError, BeatError)):
        exercise(16, count=40, **BUGS[bug]())


def test_td_left_set_is_found() -> None:
    """A digest that was taken off while TD stays says that there is one."""
    with pytest.raises((AssertionError, BeatError)):
        exercise(16, renews=False, count=40, check=edited(DigestCheck, ("digest.eq(Mux(beat.first, 0, header.digest))", "digest.eq(header.digest)")))


def test_queues_hold_what_comes_while_a_crc_is_found() -> None:
    """The deepest that a TLP and its verdict need fits with the largest payload, at each width."""
    for data_bytes in (16, 32, 64, 128):
        assert digest_check.digest_beats(data_bytes, 512) >= 512 // data_bytes + 1 + ecrc.crc_cycles(data_bytes) + 2
        assert ecrc.crc_cycles(data_bytes) + 4 < digest_make.DEPTH
