# amaranth: UnusedElaboratable=no
"""The egress against a link partner that counts credits and knows the order in which TLPs were accepted."""

import os
import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
from amaranth.lib import data
from amaranth.sim import Simulator

from pagehop.tlp.arbiter import TlpArbiter
from pagehop.tlp.credits import CreditGate
from pagehop.tlp.egress import Egress, EgressLane
from pagehop.tlp.ordering import OrderingQueue
from pagehop.tlp.stream import TlpBeat
from pagehop_sim.planted import planted

CLOCK = 4e-9
SOURCES = 2
DATA_BYTES = 16
DEPTHS = (32, 32, 32, 32)
LANES = range(4)
CLASS_OF_LANE = ("posted", "completion", "non_posted", "non_posted")
POSTED = EgressLane.POSTED

# DW0 of a memory write, a completion with data and a memory read, typed from the tables of the specification (2.2.1, 2.2.9).
DW0 = {"posted": 0x40000000, "completion": 0x4A000000, "non_posted": 0x00000000}
IDO = 1 << 18   # Attr[2]: byte 1, bit 2 of DW0


@dataclass
class Packet:
    """A TLP of the model: its lane, its header, the data of each beat; ``before``: posted TLPs accepted before it."""
    lane: int
    header: int
    beats: list[tuple[int, int]]
    credits: int
    before: int = 0


def make_packet(rng: random.Random, lane: int, serial: int) -> Packet:
    """A TLP with a number of its own in the address and in each beat."""
    kind = CLASS_OF_LANE[lane]
    dwords = 0 if kind == "non_posted" else rng.choice([1, 3, 4, 5, 8, 13, 16])
    dw0 = DW0[kind] | (dwords or 1) | (IDO if rng.random() < 0.5 else 0)
    header = dw0 << 96 | rng.getrandbits(32) << 64 | (serial << 7 & 0xFFFFFFFC) << 32
    beats = [(min(4, dwords - start), rng.getrandbits(32 * min(4, dwords - start))) for start in range(0, dwords, 4)] or [(0, 0)]
    return Packet(lane, header, beats, -(-dwords // 4))


class Partner:
    """Credits granted and spent by class, and the TLPs that must arrive."""

    def __init__(self, rng: random.Random, grants: dict[str, bool]) -> None:
        self.rng, self.grants = rng, grants
        self.header = dict.fromkeys(grants, 2)
        self.units = dict.fromkeys(grants, 4)
        self.spent_header = dict.fromkeys(grants, 0)
        self.spent_units = dict.fromkeys(grants, 0)
        self.lanes: list[deque[Packet]] = [deque() for _ in LANES]
        self.posted_in = self.posted_out = 0
        self.arrived = dict.fromkeys(grants, 0)
        self.out_of_credit = 0

    def limits(self) -> dict[str, dict[str, int]]:
        """Grow the limits at random, by turns few headers and few data units, and return them as PCIe counts them."""
        headers, units = (2, 16) if sum(self.arrived.values()) // 16 % 2 else (8, 6)
        for kind, granted in self.grants.items():
            if granted and self.rng.random() < 0.3:
                self.header[kind] += self.header[kind] - self.spent_header[kind] < headers
                self.units[kind] += self.rng.randint(0, 2) if self.units[kind] - self.spent_units[kind] < units else 0
        return {kind: {"header": self.header[kind] % 256, "data": self.units[kind] % 4096, "infinite": 0} for kind in self.grants}

    def accept(self, packet: Packet) -> None:
        """The last beat of a TLP was accepted: from now on it has its place."""
        packet.before = self.posted_in
        self.posted_in += packet.lane == POSTED
        self.lanes[packet.lane].append(packet)

    def receive(self, header: int, beats: list[tuple[int, int]], clear_ido: bool) -> None:
        """A whole TLP arrived: it must be the head of a lane, nothing that it may not pass before it, within the credits."""
        def looks(packet: Packet) -> int:
            return packet.header & ~(IDO << 96) if clear_ido else packet.header
        lane = next((lane for lane in LANES if self.lanes[lane] and looks(self.lanes[lane][0]) == header), None)
        assert lane is not None, f"header {header:032x} is no head of a lane"
        packet = self.lanes[lane].popleft()
        assert beats == packet.beats, f"data {beats} arrived instead of {packet.beats}"
        assert lane == POSTED or packet.before <= self.posted_out, f"a TLP of lane {lane} passed {packet.before - self.posted_out} posted ones"
        self.posted_out += lane == POSTED
        kind = CLASS_OF_LANE[lane]
        self.spent_header[kind] += 1
        self.spent_units[kind] += packet.credits
        assert self.spent_header[kind] <= self.header[kind], f"{kind} header credits overspent"
        assert self.spent_units[kind] <= self.units[kind], f"{kind} data credits overspent"
        self.arrived[kind] += 1


def run(egress: type, name: str, *, cycles: int = 1500, gap: float = 0.3, stall: float = 0.2, clear_ido: bool = False,
        starved: tuple[str, ...] = ()) -> Partner:
    """Random TLPs from two sources; classes in ``starved`` get no further credits until the last third."""
    seed = f"{os.environ.get('SEED', '1')} {name}"
    print(f"seed {seed!r}")
    rng = random.Random(seed)
    dut = egress(DATA_BYTES, SOURCES, DEPTHS, max_payload=64, clear_ido=clear_ido)
    partner = Partner(rng, {kind: kind not in starved for kind in ("posted", "non_posted", "completion")})
    shape = TlpBeat(DATA_BYTES)

    async def bench(ctx: Any) -> None:
        sending: list[list[Packet | int] | None] = [None] * SOURCES
        arriving: tuple[int, list[tuple[int, int]]] | None = None
        waited: data.Const | None = None
        serial = 0
        for cycle in range(cycles):
            if cycle == cycles * 2 // 3:
                partner.grants = dict.fromkeys(partner.grants, True)
            ctx.set(dut.limits, partner.limits())
            room = ctx.get(dut.room)
            for index in range(SOURCES):
                now = sending[index]
                if now is None and cycle < cycles * 3 // 4 and rng.random() >= gap:
                    lane = rng.randrange(4)
                    if room >> lane & 1:
                        now = sending[index] = [make_packet(rng, lane, serial), 0]
                        serial += 1
                ctx.set(dut.i[index].valid, now is not None)
                if now is not None:
                    packet, beat = now
                    assert isinstance(packet, Packet) and isinstance(beat, int)
                    dwords, word = packet.beats[beat]
                    last = beat == len(packet.beats) - 1
                    ctx.set(dut.i[index].payload, {"lane": packet.lane, "to_memory": 1, "beat": {
                        "data": word, "header": 0 if beat else packet.header, "dwords": dwords, "first": beat == 0, "last": last}})
            ready = rng.random() >= stall
            ctx.set(dut.tx.ready, ready)
            taken = [sending[index] is not None and ctx.get(dut.i[index].ready) for index in range(SOURCES)]
            if ctx.get(dut.tx.valid):
                beat = ctx.get(dut.tx.payload)
                assert waited is None or beat == waited, "tx changed while it waited"
                waited = None if ready else beat
                if ready:
                    arriving = receive(beat, arriving)
            else:
                assert waited is None, "tx withdrew a beat"
            await ctx.tick()
            for index, took in enumerate(taken):
                now = sending[index]
                if took and now is not None:
                    packet, beat = now
                    assert isinstance(packet, Packet) and isinstance(beat, int)
                    sending[index] = [packet, beat + 1] if beat + 1 < len(packet.beats) else None
                    if sending[index] is None:
                        partner.accept(packet)
        missing = [len(lane) for lane in partner.lanes]
        assert not any(missing), f"TLPs of the lanes {missing} never left"

    def receive(beat: Any, arriving: tuple[int, list[tuple[int, int]]] | None) -> tuple[int, list[tuple[int, int]]] | None:
        assert beat.first == (arriving is None), "first does not begin a TLP, or two TLPs are mixed"
        header, beats = (beat.header, []) if arriving is None else arriving
        beats.append((beat.dwords, beat.data))
        if not beat.last:
            return header, beats
        partner.receive(header, beats, clear_ido)
        return None

    assert shape.size == len(dut.tx.payload.as_value())
    simulator = Simulator(dut)
    simulator.add_clock(CLOCK)
    simulator.add_testbench(bench)
    simulator.run()
    return partner


@pytest.mark.parametrize(("gap", "stall"), [(0.0, 0.0), (0.6, 0.0), (0.0, 0.6), (0.3, 0.3)])
def test_tlps_leave_whole_in_order_and_within_credits(gap: float, stall: float) -> None:
    partner = run(Egress, f"egress {gap} {stall}", gap=gap, stall=stall)
    assert min(partner.arrived.values()) > 50


def test_ido_is_cleared_when_asked_for() -> None:
    partner = run(Egress, "ido", cycles=800, clear_ido=True)
    assert min(partner.arrived.values()) > 20


@pytest.mark.parametrize("starved", [("non_posted",), ("completion",), ("non_posted", "completion")])
def test_posted_tlps_leave_while_other_classes_have_no_credits(starved: tuple[str, ...]) -> None:
    partner = run(Egress, f"starved {starved}", starved=starved)
    assert partner.arrived["posted"] > 60


def in_queue(old: str, new: str) -> type:
    return planted(Egress, "", "", OrderingQueue=planted(OrderingQueue, old, new))


def in_gate(old: str, new: str) -> type:
    return planted(Egress, "", "", CreditGate=planted(CreditGate, old, new))


BUGS: dict[str, Callable[[], type]] = {
    "requests pass posted TLPs": lambda: planted(Egress, "(1, 1) if lane == POSTED else", "(1, 1) if lane in (0, 2) else"),
    "completions pass posted TLPs": lambda: planted(Egress, "(1, 1) if lane == POSTED else", "(1, 1) if lane in (0, 1) else"),
    "every beat of a posted TLP counts as one that left": lambda: planted(
        Egress, "whole.ready & whole.payload.beat.last", "whole.ready"),
    "credits are never spent": lambda: in_gate("with m.If(self.spend[kind.value]):", "with m.If(0):"),
    "data credits are ignored": lambda: in_gate(" & enough", ""),
    "header credits are ignored": lambda: in_gate(" & (left.header != 0)", ""),
    "one header credit is plenty": lambda: in_gate("left.header >= 2", "left.header >= 1"),
    "what another lane of the class spends is not seen": lambda: in_gate("~self.spend[kind.value] & ", ""),
    "TLPs are mixed on the way out": lambda: planted(
        Egress, "turns.last.eq(ends)", "turns.last.eq(1)"),
    "TLPs are mixed on the way in": lambda: planted(
        Egress, "", "", TlpArbiter=planted(TlpArbiter, "turns.last.eq(self.o.payload.beat.last)", "turns.last.eq(1)")),
    "tx is loaded while it waits": lambda: planted(Egress, "free.eq(~self.tx.valid | self.tx.ready)", "free.eq(1)"),
    "stamps are not counted": lambda: in_queue("self.accepted.eq(self.accepted + enters)", "self.accepted.eq(self.accepted)"),
}


@pytest.mark.parametrize("bug", BUGS)
def test_planted_bug_is_caught(bug: str) -> None:
    with pytest.raises(AssertionError):
        run(BUGS[bug](), "egress 0.3 0.3", cycles=800)


def test_lanes_too_small_for_the_largest_payload_are_refused() -> None:
    with pytest.raises(ValueError, match=r"^Egress lane 0 must hold more than 20 beats for 2 sources and 64 byte payloads, not 8$"):
        Egress(16, 2, (8, 32, 32, 32), max_payload=64)
