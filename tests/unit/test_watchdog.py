# amaranth: UnusedElaboratable=no
"""The watchdog, an egress whose partner falls silent and comes back, and the answers given in its place."""

import os
import random
from collections import Counter, deque
from collections.abc import Callable
from typing import Any

import pytest
from amaranth.sim import Simulator
from test_egress import CLASS_OF_LANE, CLOCK, DATA_BYTES, DEPTHS, LANES, SOURCES, Packet, Partner, make_packet

from pagehop.interposer.answer_turn import AnswerTurn
from pagehop.tlp.egress import Egress, EgressLane
from pagehop.tlp.refusals import Refusals
from pagehop.tlp.watchdog import Watchdog
from pagehop_sim.planted import planted

#: Bits of `discarded` (2.6.1: the classes of flow control, in the order in which credits are counted).
CLASSES = ("posted", "non_posted", "completion")
#: Cycles: the partner falls silent, sources pause, software says that it is back, sources go on, pause for the end, and all is over.
SILENT, QUIET, RESUME, UP, END, OVER = 300, 850, 1000, 1010, 1700, 2000
LIMIT, STALL = 60, 0.2


def simulate(dut: Any, bench: Callable[[Any], Any]) -> None:
    simulator = Simulator(dut)
    simulator.add_clock(CLOCK)
    simulator.add_testbench(bench)
    simulator.run()


def seeded(name: str) -> random.Random:
    seed = f"{os.environ.get('SEED', '1')} {name}"
    print(f"seed {seed!r}")
    return random.Random(seed)


# The timer


def expiry(watchdog: type, limit: int, waits: Callable[[int], int], cycles: int) -> int | None:
    """Cycle in which a watchdog expires whose lanes wait as ``waits`` says, if it does."""
    dut = watchdog(3)
    found: list[int] = []

    async def bench(ctx: Any) -> None:
        ctx.set(dut.watch.limit, limit)
        for cycle in range(cycles):
            ctx.set(dut.waits, waits(cycle))
            if ctx.get(dut.state.expired) and not found:
                found.append(cycle)
            await ctx.tick()

    simulate(dut, bench)
    return found[0] if found else None


@pytest.mark.parametrize("lane", range(3))
@pytest.mark.parametrize("since", [1, 20, 39, 40, 57])
def test_a_head_is_given_its_limit_and_no_more_than_twice_that(lane: int, since: int) -> None:
    expired = expiry(Watchdog, 40, lambda cycle: (cycle >= since) << lane, 300)
    assert expired is not None and since + 40 <= expired <= since + 2 * 40 + 5


def test_heads_that_move_now_and_then_do_not_expire() -> None:
    assert expiry(Watchdog, 40, lambda cycle: 7 & ~(1 << cycle // 13 % 3), 600) is None


def test_without_a_limit_nothing_expires() -> None:
    assert expiry(Watchdog, 0, lambda cycle: 7, 600) is None


@pytest.mark.parametrize(("old", "new"), [
    ("expires.eq(tick & ", "expires.eq(0 & "), ("(still & self.waits).any()", "self.waits.any()"),
    ("(still & self.waits).any()", "(still & self.waits)[1:].any()"),
], ids=["never expires", "expires at once", "forgets a lane"])
def test_planted_bug_of_the_timer_is_caught(old: str, new: str) -> None:
    broken = planted(Watchdog, old, new)
    with pytest.raises(AssertionError):
        for since in (1, 20, 39, 40, 57):
            expired = expiry(broken, 40, lambda cycle, since=since: cycle >= since, 300)
            assert expired is not None and since + 40 <= expired <= since + 2 * 40 + 5


# The egress


class Silence:
    """Random TLPs through an egress. From ``SILENT`` on the partner grants nothing, and with ``stuck`` takes no last beat either, until ``RESUME``.

    With ``live`` the partner is never silent, and software stops and resumes the port again and again until ``RESUME``, amid the TLPs.
    """

    def __init__(self, egress: type, name: str, stuck: bool, by_command: bool, live: bool) -> None:
        self.rng, self.stuck, self.by_command, self.live = seeded(name), stuck, by_command, live
        self.dut = egress(DATA_BYTES, SOURCES, DEPTHS, max_payload=64)
        self.partner = Partner(self.rng, dict.fromkeys(CLASSES, True))
        self.sending: list[list[Any] | None] = [None] * SOURCES
        self.refused: deque[int] = deque()
        self.discarded: Counter[str] = Counter()
        self.lost: Counter[str] = Counter()
        self.serial = self.arrived_before = self.unrefused = 0
        self._rooms: deque[int] = deque([1, 1], maxlen=2)
        self._arriving: tuple[int, list[tuple[int, int]]] | None = None
        self._waited: Any = None

    async def bench(self, ctx: Any) -> None:
        dut, partner = self.dut, self.partner
        ctx.set(dut.watch.limit, 0 if self.by_command else LIMIT)
        for cycle in range(OVER):
            silent = SILENT <= cycle < RESUME and not self.live
            partner.grants = dict.fromkeys(CLASSES, not silent)
            ctx.set(dut.limits, partner.limits())
            toggles = self.live and cycle < RESUME and self.rng.random() < 0.05
            ctx.set(dut.watch.stop, toggles if self.live else self.by_command and cycle == SILENT + LIMIT)
            ctx.set(dut.watch.resume, cycle == RESUME or (self.live and cycle < RESUME and self.rng.random() < 0.05))
            ctx.set(dut.refused_room, self.rng.random() < 0.7)
            taken = self._offer(ctx, (QUIET <= cycle < UP and not self.live) or cycle >= END)
            self._look(ctx, silent and self.stuck)
            if cycle == RESUME - 1 and not self.live:
                self._judge_silence(ctx)
            await ctx.tick()
            self._accepted(taken)
        if self.live:
            assert not self.unrefused and not self.refused, f"{self.unrefused} requests were not refused, {len(self.refused)} were and arrived"
            assert self.discarded == self.lost, f"{dict(self.lost)} were lost, and {dict(self.discarded)} are counted"
        missing = [len(lane) for lane in partner.lanes]
        assert not any(missing), f"TLPs of the lanes {missing} never left after the partner was back"
        assert not ctx.get(dut.state.as_value()), "the port is not up in the end"

    def _offer(self, ctx: Any, quiet: bool) -> list[int]:
        room = ctx.get(self.dut.room)
        for index, source in enumerate(self.dut.i):
            if self.sending[index] is None and not quiet and self.rng.random() < 0.6:
                lane = self.rng.randrange(4)
                if room >> lane & 1:
                    self.sending[index] = [make_packet(self.rng, lane, self.serial), 0]
                    self.serial += 1
            now = self.sending[index]
            ctx.set(source.valid, now is not None)
            if now is not None:
                packet, beat = now
                dwords, word = packet.beats[beat]
                ctx.set(source.payload, {"lane": packet.lane, "to_memory": 1, "beat": {
                    "data": word, "header": 0 if beat else packet.header, "dwords": dwords, "first": beat == 0,
                    "last": beat == len(packet.beats) - 1}})
        return [self.sending[index] is not None and ctx.get(source.ready) for index, source in enumerate(self.dut.i)]

    def _accepted(self, taken: list[int]) -> None:
        for index, took in enumerate(taken):
            now = self.sending[index]
            if took and now is not None:
                packet, beat = now
                self.sending[index] = [packet, beat + 1] if beat + 1 < len(packet.beats) else None
                if self.sending[index] is None:
                    self.partner.accept(packet)

    def _look(self, ctx: Any, stuck: bool) -> None:
        dut = self.dut
        valid, beat = ctx.get(dut.tx.valid), ctx.get(dut.tx.payload)
        ready = not (stuck and beat.last) and self.rng.random() >= STALL
        ctx.set(dut.tx.ready, ready)
        assert self._waited is None or (valid and beat == self._waited), "tx withdrew or changed a beat"
        self._waited = beat if valid and not ready else None
        if valid and ready:
            self._arrive(beat)
        if ctx.get(dut.refused.valid):
            assert self._rooms[0], "a request was discarded without room for its answer"
            self.refused.append(int(ctx.get(dut.refused.payload.as_value())))
        self._rooms.append(ctx.get(dut.refused_room))
        for kind, name in enumerate(CLASSES):
            self.discarded[name] += ctx.get(dut.discarded) >> kind & 1

    def _arrive(self, beat: Any) -> None:
        assert beat.first == (self._arriving is None), "first does not begin a TLP, or a TLP was cut"
        header, beats = (beat.header, []) if self._arriving is None else self._arriving
        beats.append((beat.dwords, beat.data))
        self._arriving = None if beat.last else (header, beats)
        if beat.last:
            if self.live:
                self._skip(header)
            self.partner.receive(header, beats, False)

    def _skip(self, header: int) -> None:
        """What stood before this TLP in its lane was discarded, and so were the posted ones that it must not pass."""
        partner = self.partner
        lane = next((lane for lane in LANES if any(packet.header == header for packet in partner.lanes[lane])), None)
        assert lane is not None, "a TLP arrived that was discarded, or twice"
        while partner.lanes[lane][0].header != header:
            self._drop(lane)
        while lane != EgressLane.POSTED and partner.posted_out < partner.lanes[lane][0].before:
            self._drop(EgressLane.POSTED)

    def _drop(self, lane: int) -> None:
        packet = self.partner.lanes[lane].popleft()
        self.lost[CLASS_OF_LANE[lane]] += 1
        self.partner.posted_out += lane == EgressLane.POSTED
        if lane in (EgressLane.NON_POSTED, EgressLane.ENGINE):
            self.unrefused += packet.header not in self.refused
            if packet.header in self.refused:
                self.refused.remove(packet.header)

    def _judge_silence(self, ctx: Any) -> None:
        """What was accepted and has not arrived was discarded, each request refused once, in order; what has begun on tx has its end there."""
        partner, left = self.partner, []
        assert ctx.get(self.dut.state.down), "the port is not down"
        assert ctx.get(self.dut.state.expired) == (not self.by_command)
        for lane in LANES:
            queue: deque[Packet] = partner.lanes[lane]
            if self._waited is not None and queue and queue[0].header == (self._arriving or (self._waited.header,))[0]:
                left.append(queue.popleft())        # it waits on tx
            self.lost[CLASS_OF_LANE[lane]] += len(queue)
            if lane in (EgressLane.NON_POSTED, EgressLane.ENGINE):
                for packet in queue:
                    assert packet.header in self.refused, "a request was discarded and not refused"
                    self.refused.remove(packet.header)
        assert not self.refused, f"{len(self.refused)} refusals of nothing, or of one request twice"
        assert self.discarded == self.lost, f"{dict(self.lost)} were lost, and {dict(self.discarded)} are counted"
        self.arrived_before = sum(partner.arrived.values())
        for lane in LANES:
            partner.lanes[lane].clear()
        for packet in left:
            partner.lanes[packet.lane].append(packet)
        partner.posted_out = partner.posted_in - sum(packet.lane == EgressLane.POSTED for packet in left)


def silence(egress: type, name: str, stuck: bool = False, by_command: bool = False, live: bool = False) -> Silence:
    test = Silence(egress, name, stuck, by_command, live)
    simulate(test.dut, test.bench)
    return test


@pytest.mark.hazard("H65", "D12")
@pytest.mark.parametrize("by_command", [False, True], ids=["limit", "command"])
@pytest.mark.parametrize("stuck", [False, True], ids=["no credits", "stuck"])
def test_what_goes_to_a_silent_partner_is_discarded_and_credits_fit_when_it_is_back(stuck: bool, by_command: bool) -> None:
    test = silence(Egress, f"silence {stuck} {by_command}", stuck, by_command)
    assert min(test.lost.values()) > 20 and sum(test.partner.arrived.values()) - test.arrived_before > 150


@pytest.mark.hazard("H65", "D12")
def test_a_port_changes_over_between_tlps_and_spends_no_credits_too_many() -> None:
    test = silence(Egress, "live", by_command=True, live=True)
    assert min(test.lost.values()) > 20 and min(test.partner.arrived.values()) > 50


def with_watchdog(old: str, new: str) -> type:
    return planted(Egress, "", "", Watchdog=planted(Watchdog, old, new))


BUGS: dict[str, Callable[[], type]] = {
    "what is discarded spends credits": lambda: planted(Egress, "for lane in drawing).any() & ~discards)", "for lane in drawing).any())"),
    "a request of the engine is not refused": lambda: planted(
        Egress, "self.refused.valid.eq(Cat(begins[lane] for lane in requests).any())", "self.refused.valid.eq(begins[EgressLane.NON_POSTED])"),
    "a request is refused at each of its beats": lambda: planted(
        Egress, "begins = [loads & chosen[lane] & ~inside[lane] for", "begins = [loads & chosen[lane] for"),
    "a TLP that has begun is cut": lambda: with_watchdog("settled & ~self.begun", "settled"),
    "it changes over while TLPs begin": lambda: with_watchdog("changes & settled & ~self.begun", "changes & ~self.begun"),
    "what was decided while down leaves without credits": lambda: planted(Egress, "closed = watchdog.closed | ", "closed = 0 | "),
    "room for answers is ignored": lambda: planted(Egress, "discards & ~self.refused_room", "0 & ~self.refused_room"),
    "nothing is discarded while tx waits": lambda: planted(Egress, "loads.eq(free | discards)", "loads.eq(free)"),
    "tx is loaded with what is discarded": lambda: planted(Egress, "self.tx.valid.eq(chosen.any() & ~discards)", "self.tx.valid.eq(chosen.any())"),
    "a lane waits for credits while down": lambda: planted(Egress, "plenty = gate.plenty[kind.value] | discards", "plenty = gate.plenty[kind.value]"),
    "it never comes back": lambda: with_watchdog("down.eq(0), ", ""),
}


@pytest.mark.parametrize("bug", BUGS)
def test_planted_bug_of_the_egress_is_caught(bug: str) -> None:
    broken = BUGS[bug]()
    with pytest.raises(AssertionError):
        silence(broken, "live", by_command=True, live=True)
        silence(broken, "silence True False", stuck=True)


def pieces(egress: type, name: str) -> list[int]:
    """Addresses of what leaves for a partner that takes 128 bytes, and is stopped and resumed again and again, of writes of 256 bytes in a row."""
    rng, dut, left = seeded(name), egress(DATA_BYTES, 1, DEPTHS, max_payload=256), list[int]()
    beats = 256 // DATA_BYTES

    async def bench(ctx: Any) -> None:
        for kind in CLASSES:
            ctx.set(dut.limits[kind].infinite, 1)
        ctx.set(dut.tx.ready, 1)
        ctx.set(dut.refused_room, 1)
        ctx.set(dut.payload_limit, 0)
        address = beat = 0
        for _ in range(4000):
            ctx.set(dut.watch.stop, rng.random() < 0.1)
            ctx.set(dut.watch.resume, rng.random() < 0.2)
            # Memory write (2.2.7.1) of 64 double words.
            header = (0x40000040 << 96 | 0xFF << 64 | address << 32) * (beat == 0)
            offers = beat > 0 or ctx.get(dut.room[EgressLane.POSTED])
            ctx.set(dut.i[0].valid, offers)
            ctx.set(dut.i[0].payload.lane, EgressLane.POSTED)
            ctx.set(dut.i[0].payload.beat, {"header": header, "dwords": DATA_BYTES // 4, "first": beat == 0, "last": beat == beats - 1})
            if ctx.get(dut.tx.valid) and ctx.get(dut.tx.payload.first):
                left.append(ctx.get(dut.tx.payload.header) >> 32 & 0xFFFF_FFFF)
            if offers and ctx.get(dut.i[0].ready):
                beat = (beat + 1) % beats
                address += 256 * (beat == 0)
            await ctx.tick()

    simulate(dut, bench)
    return left


def end_without_beginning(left: list[int]) -> bool:
    """Whether a second piece came and not its first: a partner may lose the end of a TLP, but gets no end of one that was discarded."""
    return any(address % 256 != 0 and before != address - 128 for before, address in zip([-1, *left], left, strict=False))


def test_what_is_cut_is_not_sent_from_its_middle_on() -> None:
    left = pieces(Egress, "cut")
    assert not end_without_beginning(left) and len(left) > 50 and len({address // 256 for address in left}) < left[-1] // 256


def test_planted_bug_that_takes_a_piece_for_a_whole_is_caught() -> None:
    assert end_without_beginning(pieces(planted(Egress, " | (discards & Cat(amid).any())", ""), "cut"))


# The answers

READ, WRITE_ATOMIC = 0x00000000, 0x4E000000   # DW0 of a memory read and a compare-and-swap of 3 DW (table 2-3)


def refusals(answers: type, name: str) -> int:
    """Refuse as fast as ``room`` lets, with an ingress that takes an answer now and then. Returns how many came."""
    dut, rng = answers(), seeded(name)
    sent: deque[tuple[int, int]] = deque()
    count = 0

    async def bench(ctx: Any) -> None:
        nonlocal count
        ctx.set(dut.completer_id, 0xC0DE)
        chosen, room, pace = None, 0, 0.0
        for cycle in range(1500):
            if cycle % 100 == 0:
                pace = rng.choice((0.05, 0.5, 1.0))
            ctx.set(dut.i.valid, chosen is not None)
            if chosen is not None:
                requester, tag, dw0 = chosen
                header = (dw0 | 1) << 96 | requester << 80 | tag << 72 | 0xF << 64 | rng.getrandbits(30) << 34
                ctx.set(dut.i.payload, dut.i.payload.shape().from_bits(header))
                assert ctx.get(dut.i.ready), "an answer has no place"
                sent.append((requester, tag))
            chosen = (rng.getrandbits(16), rng.getrandbits(8), rng.choice((READ, WRITE_ATOMIC))) if room and cycle < 1300 else None
            room = ctx.get(dut.room)
            ready = rng.random() < (pace if cycle < 1300 else 1)
            ctx.set(dut.o.ready, ready)
            if ctx.get(dut.o.valid) and ready:
                header = int(ctx.get(dut.o.payload.as_value()))
                # Table 2-3 and figure 2-51: Cpl without data, completer ID, status 001b; requester ID, tag.
                assert header >> 120 == 0x0A and header >> 80 & 0xFFFF == 0xC0DE and header >> 77 & 7 == 1, f"{header:032x} says no UR"
                assert (header >> 48 & 0xFFFF, header >> 40 & 0xFF) == sent.popleft(), "an answer to another request"
                count += 1
            await ctx.tick()
        assert not sent, f"{len(sent)} requests were not answered"

    simulate(dut, bench)
    return count


def test_each_request_is_answered_once_in_order() -> None:
    assert refusals(Refusals, "refusals") > 300


def test_answers_without_a_place_are_noticed() -> None:
    with pytest.raises(AssertionError, match="has no place"):
        refusals(planted(Refusals, "_PLACES - _UNDERWAY)", "_PLACES - _UNDERWAY + 1)"), "refusals")


# Turns


def turns(component: type, link: float, waits: float, advance: float) -> Counter[str]:
    """TLPs of one to four beats from the link and answers, into a register that takes something now and then."""
    dut, rng, seen = component(), seeded(f"turns {link} {waits} {advance}"), Counter[str]()

    async def bench(ctx: Any) -> None:
        beats, answers, refused, waited = 0, False, 0, 0
        inside = False
        for _ in range(1500):
            beats = beats or (rng.randint(1, 4) if rng.random() < link else 0)
            answers = answers or rng.random() < waits
            takes = rng.random() < advance
            for port, value in ((dut.valid, beats > 0), (dut.last, beats == 1), (dut.answers, answers), (dut.advance, takes)):
                ctx.set(port, value)
            turn = ctx.get(dut.turn)
            assert not turn or answers, "a turn for an answer that is not there"
            assert not (turn and inside), "an answer amid a TLP"
            if takes and turn:
                answers, waited = False, 0
                refused += beats > 0
                seen["answers"] += 1
            elif takes and beats:
                waited += answers and not inside
                beats, inside, refused = beats - 1, beats > 1, 0
                seen["beats"] += 1
            assert refused <= 1 and waited <= 2, "one waits for more than a TLP of the other"
            await ctx.tick()

    simulate(dut, bench)
    return seen


@pytest.mark.parametrize(("link", "waits", "advance"), [(1.0, 1.0, 1.0), (0.5, 0.5, 0.5), (1.0, 0.1, 0.8), (0.1, 1.0, 0.8)])
def test_answers_and_the_link_take_turns(link: float, waits: float, advance: float) -> None:
    seen = turns(AnswerTurn, link, waits, advance)
    assert seen["answers"] > 50 and seen["beats"] > 50


@pytest.mark.parametrize(("old", "new"), [
    ("self.answers & ~inside_next", "self.answers"), ("Mux(self.turn, ~self.advance, ", "Mux(0, 0, "), (" & (self.advance | ~self.valid)", ""),
], ids=["amid a TLP", "again and again", "before a TLP that waits"])
def test_planted_bug_of_turns_is_caught(old: str, new: str) -> None:
    with pytest.raises(AssertionError):
        turns(planted(AnswerTurn, old, new), 0.5, 0.5, 0.5)
