# amaranth: UnusedElaboratable=no
"""The adapter to the UltraScale+ block, against a block that knows PG213's tables by bit positions of its own, and a core that counts credits."""

from collections import deque

import pytest
from amaranth.hdl import Value
from amaranth.sim import Simulator
from shell_core import BEATS, CLOCK, COMPLETIONS, CoreSide, generator, random_completion, random_request

from pagehop.shell.ultrascale import UltraScaleShell
from pagehop.shell.us_incoming import Incoming
from pagehop.shell.us_outgoing import Outgoing
from pagehop.shell.us_receive import Completions, Receive, Requests
from pagehop.shell.us_transmit import Returns, Transmit
from pagehop_sim.planted import planted
from pagehop_tb.protocol import FlowClass, Kind, Tlp

HIGH = 8   # double word at which the second TLP of a beat begins

#: Request Type of the descriptors (PG213).
REQUEST_TYPES = {Kind.MRD: 0, Kind.MWR: 1, Kind.IORD: 2, Kind.IOWR: 3, Kind.FETCH_ADD: 4, Kind.SWAP: 5, Kind.CAS: 6, Kind.MRDLK: 7}


def words(data):
    return [int.from_bytes(data[at:at + 4], "little") for at in range(0, len(data), 4)]


def completer_request(tlp, bar, aperture):
    """Double words of a request on CQ."""
    third = tlp.length | REQUEST_TYPES.get(tlp.kind, 12) << 11 | tlp.requester_id << 16
    fourth = tlp.tag | bar << 16 | aperture << 19 | tlp.traffic_class << 25 | tlp.no_snoop << 28 | tlp.relaxed_ordering << 29 | tlp.id_ordering << 30
    address = tlp.address | tlp.address_type
    return [address & 0xFFFF_FFFF, address >> 32, third, fourth, *words(tlp.data)]


def requester_completion(tlp, error):
    """Double words of a completion on RC."""
    first = tlp.lower_address | error << 12 | tlp.byte_count << 16 | (tlp.kind in (Kind.CPLLK, Kind.CPLDLK)) << 29
    second = tlp.length | tlp.status << 11 | tlp.poisoned << 14 | tlp.requester_id << 16
    third = tlp.tag | tlp.completer_id << 8 | tlp.traffic_class << 25 | tlp.no_snoop << 28 | tlp.relaxed_ordering << 29 | tlp.id_ordering << 30
    return [first, second, third, *words(tlp.data)]


def from_requester_request(frame, enables):
    """The request of double words on RQ."""
    first, second, third, fourth, *payload = frame
    kind = {number: kind for kind, number in REQUEST_TYPES.items()}[third >> 11 & 15]
    assert not fourth >> 24 & 1 and not fourth >> 31 and not fourth >> 8 & 0xFFFF
    return Tlp(kind, third >> 16, fourth & 0xFF, second << 32 | first & ~3, third & 0x7FF, enables & 15, enables >> 4,
               b"".join(word.to_bytes(4, "little") for word in payload), bool(fourth >> 29 & 1), bool(fourth >> 30 & 1), bool(fourth >> 28 & 1),
               fourth >> 25 & 7, first & 3, bool(third >> 15 & 1))


def from_completer_completion(frame):
    """The completion of double words on CC."""
    first, second, third, *payload = frame
    assert not third >> 24 & 1 and not third >> 31 and not first >> 8 & 3
    kind = COMPLETIONS[(first >> 29 & 1) * 2 + bool(payload)]
    return Tlp(kind, second >> 16, third & 0xFF, 0, second & 0x7FF, 0, 0, b"".join(word.to_bytes(4, "little") for word in payload),
               bool(third >> 29 & 1), bool(third >> 30 & 1), bool(third >> 28 & 1), third >> 25 & 7, poisoned=bool(second >> 14 & 1),
               completer_id=third >> 8 & 0xFFFF, status=second >> 11 & 7, byte_count=first >> 16 & 0x1FFF, lower_address=first & 0x7F)


class Packer:
    """The block's source: TLPs to beats, straddled or not. ``sop`` and ``discontinue`` are the bits of ``tuser`` where framing and errors stand.

    Without straddling it now and then discontinues a TLP with data (``damaged``), which it says in the last beat.
    """

    def __init__(self, axis, rng, straddle, *, places, sop, discontinue):
        self.axis, self.rng, self.straddle, self.places, self.sop, self.discontinue = axis, rng, straddle, places, sop, discontinue
        self.current, self.shown, self.began, self.ended, self.shared, self.damaged = None, None, [], [], 0, []
        self.data, self.user = Value.cast(axis.tdata), Value.cast(axis.tuser)

    def drive(self, ctx, choose):
        """Show a beat. ``choose()`` returns (item, double words, byte enables) of the next TLP, or None."""
        if self.shown is None and self.rng.random() < 0.8:
            self.shown = self._beat(choose)
        ctx.set(self.axis.tvalid, self.shown is not None)
        if self.shown is not None:
            ctx.set(self.data, self.shown[0])
            ctx.set(self.user, self.shown[1])

    def taken(self, ctx):
        """After the edge's sampling: TLPs of which the first, and of which the last beat was taken."""
        if self.shown is None or not ctx.get(self.axis.tready):
            return [], []
        self.shown, began, ended, self.began, self.ended = None, self.began, self.ended, [], []
        return began, ended

    def _beat(self, choose):
        data, user = 0, 0
        eop = self.sop + 3 * self.places
        for start in (0, HIGH) if self.straddle else (0,):
            if self.current is None:
                if start and (data == 0 and not user or self.rng.random() < 0.3) or (found := choose()) is None:
                    break
                item, frame, enables = found
                self.current = [item, deque(frame)]
                starts = len(self.began)
                self.began.append(item)
                user |= 1 << self.sop + starts | start // 4 << self.sop + self.places + 2 * starts
                if enables is not None:
                    user |= (enables & 15) << 4 * starts | (enables >> 4) << 8 + 4 * starts
                self.shared += start > 0
            elif start:
                break
            item, frame = self.current
            for lane in range(start, 16):
                data |= frame.popleft() << 32 * lane
                if not frame:
                    break
            if frame:
                break
            user |= 1 << eop + len(self.ended) | lane << eop + self.places + 4 * len(self.ended)
            self.ended.append(item)
            if not self.straddle and lane > 4 and self.rng.random() < 0.05:
                user |= 1 << self.discontinue
                self.damaged.append(item)
            self.current = None
            if lane >= HIGH:
                break
        return (data, user) if user or data or self.current else None


class ReceiveBench:
    """The block sends requests and completions at random; the core compares."""

    def __init__(self, dut, rng, straddle, *, count=220, starve=False, rich=False):
        self.dut, self.rng, self.count = dut, rng, count
        self.cq = Packer(dut.cq, rng, straddle, places=2, sop=80, discontinue=96)
        self.rc = Packer(dut.rc, rng, straddle, places=4, sop=64, discontinue=96)
        self.core = CoreSide(rng, (64, 16, 64), (500, 50, 500)) if rich else CoreSide(rng, (4, 1 if starve else 2, 3), (20, 5, 20))
        if starve:
            self.core.starved.add(FlowClass.NON_POSTED)
        self.starve, self.np_credit, self.np_sent = starve, 0, 0
        self.posted, self.non_posted, self.expected, self.completions = deque(), deque(), deque(), deque()
        self.done = {"posted": 0, "non_posted": 0, "completion": 0}
        self.serial, self.dropped, self.messages, self.poisoned = 0, 0, 0, 0

    def next_request(self):
        """PG213: a non-posted request is delivered while there is a credit for it; posted ones pass it."""
        kinds = (*[Kind.MWR] * 8, Kind.MRD, Kind.MRD, Kind.MRDLK, Kind.IORD, Kind.IOWR, Kind.FETCH_ADD, Kind.SWAP, Kind.CAS,
                 Kind.MSGD, Kind.MSGD, Kind.MSG, Kind.MSG)
        if self.serial < self.count and not self.posted:
            self.serial += 1
            tlp = random_request(self.rng, kinds)
            (self.non_posted if tlp.flow is FlowClass.NON_POSTED else self.posted).append(tlp)
        if self.non_posted and self.np_credit:
            self.np_credit -= 1
            self.np_sent += 1
            return self._request(self.non_posted.popleft())
        return self._request(self.posted.popleft()) if self.posted else None

    def _request(self, tlp):
        bar, aperture = self.rng.randrange(6), self.rng.randrange(7, 59)
        frame = completer_request(tlp, bar, aperture)
        io = tlp.kind in (Kind.IORD, Kind.IOWR)
        inside = tlp.address & (1 << aperture) - 1
        expected = None
        if tlp.is_message:
            self.messages += 1
        else:
            expected = Tlp(**{**{name: getattr(tlp, name) for name in Tlp.__dataclass_fields__},
                              "address": inside if io else inside | bar << 60, "four_dw": None})
        if expected is not None:
            self.expected.append(expected)
        return (expected,), frame, tlp.first_be | tlp.last_be << 4

    def next_completion(self):
        if self.done["completion"] + len(self.completions) >= self.count:
            return None
        tlp = random_completion(self.rng)
        error = self.rng.choice((0,) * 9 + (8, 9))
        if error:
            tlp.kind, tlp.length, tlp.data, tlp.poisoned = (Kind.CPLLK if tlp.kind in (Kind.CPLLK, Kind.CPLDLK) else Kind.CPL), 0, b"", False
        frame = requester_completion(tlp, error)
        if error:
            tlp.status = 4
        self.completions.append(tlp)
        return tlp, frame, None

    async def run(self, ctx):
        dut, beats = self.dut, []
        waits_for = {}   # requests delivered on CQ before a completion began on RC
        payload, limits = Value.cast(dut.tlps.payload), Value.cast(dut.limits)
        sent_requests, got_requests = [], 0
        for cycle in range(9000):
            self.cq.drive(ctx, self.next_request)
            self.rc.drive(ctx, self.next_completion)
            ctx.set(dut.tlps.ready, self.rng.random() < 0.9)
            ctx.set(limits, self.core.limits(cycle))
            if ctx.get(dut.tlps.valid) and ctx.get(dut.tlps.ready):
                beats.append(ctx.get(payload))
                if beats[-1] >> BEATS.bits - 4 & 1:
                    damaged = beats[-1] >> BEATS.bits - 2 & 1
                    tlp, beats = BEATS.unpack(beats), []
                    self.core.arrived(tlp, cycle)
                    expected = (self.completions if tlp.is_completion else self.expected)[0]
                    known = any(item is expected for item in self.rc.damaged) or any(item[0] is expected for item in self.cq.damaged)
                    assert damaged == known, f"{tlp} is {'' if damaged else 'not '}poisoned"
                    tlp.poisoned = expected.poisoned if damaged else tlp.poisoned
                    self.poisoned += damaged
                    if tlp.is_completion:
                        assert tlp == self.completions[0], f"{tlp} came in place of {self.completions[0]}"
                        need = waits_for.pop(id(self.completions.popleft()))
                        assert got_requests >= need, f"{tlp} passed a request that was delivered before it"
                        self.done["completion"] += 1
                    else:
                        assert tlp == self.expected[0], f"{tlp} came in place of {self.expected[0]}"
                        self.expected.popleft()
                        got_requests += 1
                        self.done["posted" if tlp.flow is FlowClass.POSTED else "non_posted"] += 1
            self.np_credit = min(32, self.np_credit + ctx.get(dut.np_req))
            began, _ = self.rc.taken(ctx)
            for tlp in began:
                waits_for[id(tlp)] = len(sent_requests)
            _, ended = self.cq.taken(ctx)
            sent_requests += [item for item, in ended if item is not None]
            self.dropped += ctx.get(dut.dropped)
            if self.finished():
                break
            await ctx.tick()
        else:
            raise AssertionError(f"not all came: {self.done}, {len(self.expected)} requests and {len(self.completions)} completions are due")
        await ctx.tick().repeat(20)

    def finished(self):
        if self.serial < self.count or self.posted or self.expected or self.cq.current or self.completions or self.done["completion"] < self.count:
            return False
        return self.starve or not self.non_posted


def simulate(bench):
    simulator = Simulator(bench.dut)
    simulator.add_clock(CLOCK)
    simulator.add_testbench(bench.run)
    simulator.run()
    return bench


def receive(name, dut=Receive, *, straddle=True, **changes):
    return simulate(ReceiveBench(dut(256, cq_straddle=straddle, rc_straddle=straddle), generator(name), straddle, **changes))


@pytest.mark.parametrize("rich", [False, True])
@pytest.mark.parametrize("straddle", [False, True])
def test_what_the_block_received_reaches_the_core(straddle, rich):
    """A core with few credits, and one with plenty."""
    bench = receive(f"receive {straddle} {rich}", straddle=straddle, rich=rich)
    assert min(bench.done.values()) > 40 and bench.messages > 5
    assert (bench.cq.shared > 20 and bench.rc.shared > 20) == straddle and (bench.poisoned > 2) != straddle and bench.dropped == bench.messages


@pytest.mark.hazard("H24")
def test_non_posted_requests_never_stand_before_posted_ones():
    """A core that gives no more credits for them gets all posted ones."""
    bench = receive("starve", starve=True)
    assert bench.done["non_posted"] <= 1 and bench.done["posted"] > 50 and bench.non_posted


class TransmitBench:
    """The core sends at random; the block takes with pauses, shows the credits of its link partner late, and gives numbers back late."""

    def __init__(self, dut, rng, *, count=300, lose=0.0):
        self.dut, self.rng, self.count, self.lose = dut, rng, count, lose
        self.used, self.posted_sent, self.beats, self.serial = [[0, 0] for _ in range(3)], 0, deque(), 0
        self.expected = {flow: deque() for flow in FlowClass}
        self.before, self.handed, self.returned = {}, 0, 0
        self.numbers, self.underway = deque(), deque()
        self.free = rng.choice(([3, 6], [14, 28]))
        self.shown = deque([tuple(self.free)] * 3)
        self.next, self.moved = None, 0
        self.frames, self.amid = {"rq": [], "cc": []}, {"rq": False, "cc": False}
        self.done, self.dropped, self.wrong, self.lost, self.late_poison, self.found_late = dict.fromkeys(FlowClass, 0), 0, 0, 0, 0, 0

    def random_tlp(self):
        rng = self.rng
        if rng.random() < 0.3:
            tlp = random_completion(rng)
        else:
            tlp = random_request(rng, (*[Kind.MWR] * 8, Kind.MRD, Kind.MRD, Kind.FETCH_ADD, Kind.SWAP, Kind.CAS, Kind.MRDLK, Kind.IORD, Kind.MSGD))
            tlp.poisoned = tlp.kind is Kind.MWR and rng.random() < 0.1
        if rng.random() < 0.04:
            tlp.tag |= 0x100
        elif rng.random() < 0.04:
            tlp.prefix = 0x91000001
        return tlp

    def begin(self, limits):
        """Begin a TLP within the credits of the adapter, if the next fits."""
        if not self.beats and self.serial < self.count and self.rng.random() < 0.7:
            self.next = self.next or self.random_tlp()
            tlp = self.next
            given = limits >> 21 * tlp.flow
            if (given - self.used[tlp.flow][0] & 0xFF) and (given >> 8) - self.used[tlp.flow][1] & 0xFFF >= tlp.data_credits:
                self.next = None
                self.serial += 1
                self.used[tlp.flow][0] += 1
                self.used[tlp.flow][1] += tlp.data_credits
                self.beats.extend(BEATS.pack(tlp))
                if len(self.beats) > 1 and not tlp.poisoned and self.carried(tlp) and self.rng.random() < 0.1:
                    self.beats[-1] |= 1 << BEATS.bits - 2
                    self.found_late += 1
                self.note(tlp)

    @staticmethod
    def carried(tlp):
        return not (tlp.is_message or tlp.tag > 255 or tlp.prefix is not None)

    def note(self, tlp):
        if not self.carried(tlp):
            self.wrong += 1
            return
        self.expected[tlp.flow].append(tlp)
        self.before[id(tlp)] = self.posted_sent
        self.posted_sent += tlp.flow is FlowClass.POSTED

    def take(self, ctx, name, discontinue):
        """Beats of a stream to the block, whole TLPs without gaps."""
        axis = getattr(self.dut, name)
        # Stretches in which the block takes little, so that much waits, and stretches in which what comes slowly may be begun at once.
        ready = self.rng.random() < (0.3 if self.cycle // 128 & 1 else 0.95)
        ctx.set(axis.tready, ready)
        valid = ctx.get(axis.tvalid)
        assert valid or not self.amid[name], f"{name}: tvalid fell during a TLP"
        if not (valid and ready):
            return None
        user, keep, last, data = ctx.get(Value.cast(axis.tuser)), ctx.get(axis.tkeep), ctx.get(axis.tlast), ctx.get(axis.tdata)
        sop, eop = (20, 26) if name == "rq" else (0, 6)
        count = keep.bit_length()
        assert keep == (1 << count) - 1 and (count == 16 or last)
        assert user >> sop & 0x3F == (not self.amid[name]) and user >> eop & 0x3FF == (1 | count - 1 << 2 if last else 0)
        if not self.amid[name]:
            self.user = user
            if name == "rq":
                self.first_user = user
        self.late_poison += last and user >> discontinue & 1
        self.frames[name] += [data >> 32 * lane & 0xFFFF_FFFF for lane in range(count)]
        self.amid[name] = not last
        begins = user >> sop & 1
        if not last:
            return begins, None
        frame, self.frames[name] = self.frames[name], []
        return begins, frame

    def came(self, tlp, cycle):
        expected, self.moved = self.expected[tlp.flow].popleft(), cycle
        assert tlp == expected, f"{tlp} came in place of {expected}"
        before = self.before.pop(id(expected))
        if tlp.flow is FlowClass.NON_POSTED:
            assert self.handed >= before, f"{tlp} passed a posted request"
        self.handed += tlp.flow is FlowClass.POSTED
        self.done[tlp.flow] += 1
        if tlp.is_completion:
            assert self.returned >= before or self.lose, f"{tlp} goes before the numbers of {before - self.returned} posted requests are back"

    def requests(self, ctx, cycle):
        taken = self.take(ctx, "rq", 36)
        if taken is None:
            return
        begins, frame = taken
        if begins:
            number, kind = self.first_user >> 61 & 63, (ctx.get(self.dut.rq.tdata) >> 64 + 11) & 15
            units = {3: 1, 4: 1, 5: 1, 6: 2}.get(kind, 0)
            if kind != 1:
                # The last double word of the descriptor has been transferred: from here on the block holds what it has no credits for.
                self.free[0] -= 1
                self.free[1] -= units
                assert min(self.free) >= 0, "a non-posted request stands in the way of posted ones"
                self.underway.append((cycle + self.rng.randrange(60), units))
            if self.rng.random() >= self.lose:
                self.numbers.append((cycle + self.rng.randrange(3, 40), number, kind == 1))
            else:
                self.returned += kind == 1
        if frame is not None:
            self.came(from_requester_request(frame, self.first_user & 15 | self.first_user >> 4 & 0xF0), cycle)

    def block(self, ctx, cycle):
        """Credits that the link partner gives back, shown two cycles late; numbers in order, two a cycle at most."""
        while self.underway and self.underway[0][0] <= cycle:
            _, units = self.underway.popleft()
            self.free[0] += 1
            self.free[1] += units
        self.shown.append(tuple(self.free))
        header, units = self.shown.popleft()
        ctx.set(self.dut.headers_free, min(15, header))
        ctx.set(self.dut.data_free, min(15, units))
        for place in range(2):
            back = self.numbers and self.numbers[0][0] <= cycle and self.rng.random() < 0.6
            ctx.set(self.dut.sequence_valid[place], bool(back))
            if back:
                _, number, posted = self.numbers.popleft()
                ctx.set(self.dut.sequence[place], number)
                self.returned += posted

    async def run(self, ctx):
        dut = self.dut
        payload, limits = Value.cast(dut.tlps.payload), Value.cast(dut.limits)
        for cycle in range(12000):
            self.cycle = cycle
            assert cycle < self.moved + 1500, f"not all came: {self.done} of {self.count}"
            self.begin(ctx.get(limits))
            valid = bool(self.beats) and self.rng.random() < 0.7
            ctx.set(dut.tlps.valid, valid)
            if valid:
                ctx.set(payload, self.beats.popleft())
                assert ctx.get(dut.tlps.ready)
            self.requests(ctx, cycle)
            taken = self.take(ctx, "cc", 16)
            if taken is not None and taken[1] is not None:
                self.came(from_completer_completion(taken[1]), cycle)
            self.block(ctx, cycle)
            self.dropped += ctx.get(dut.dropped)
            self.lost += ctx.get(dut.lost)
            if self.serial == self.count and not self.beats and not any(self.expected.values()):
                break
            await ctx.tick()
        await ctx.tick().repeat(50)
        given = ctx.get(limits)
        for flow, (headers, units) in enumerate(self.used):
            start = dut.credits[flow]
            assert (given >> 21 * flow & 0xFF, given >> 21 * flow + 8 & 0xFFF) == ((start[0] + headers) & 0xFF, (start[1] + units) & 0xFFF)


def transmit(name, dut=Transmit, **changes):
    timeout = {"timeout": 128} if changes.get("lose") else {}
    return simulate(TransmitBench(dut(256, **timeout), generator(name), **changes))


def test_what_the_core_sends_reaches_the_block():
    bench = transmit("transmit")
    assert min(bench.done.values()) > 30 and bench.wrong > 10 and bench.dropped == bench.wrong and not bench.lost
    assert bench.late_poison == bench.found_late > 2


def test_numbers_that_do_not_come_back_hold_completions_for_a_while():
    bench = transmit("lost", lose=0.3)
    assert bench.lost > 0


@pytest.mark.parametrize(("make", "message"), [
    (lambda: Incoming(None, 5), "must have 3 or 4 double words, not 5"), (lambda: Outgoing(None, 2), "must have 3 or 4 double words, not 2"),
    (lambda: Transmit(timeout=8), "at least 64 cycles, not 8"), (lambda: UltraScaleShell(100), "128, 256, 512 or 1024 bytes, not 100"),
])
def test_parameters_are_checked(make, message):
    with pytest.raises(ValueError, match=message):
        make()


#: Parts with one bug each, and what the bench says of it.
RECEIVE_BUGS = {
    "payload turned by a double word too many": (
        lambda: planted(Receive, "", "", Requests=planted(Requests, "", "", Incoming=planted(
            Incoming, "return Cat(value[32 * dwords:], value[:32 * dwords])", "return Cat(value[32 * dwords + 32:], value[:32 * dwords + 32])"))),
        "in place of|BeatError|double words|bytes"),
    "tail not given": (
        lambda: planted(Receive, "", "", Completions=planted(Completions, "", "", Incoming=planted(
            Incoming, "emits.eq(coming.first | ~fits)", "emits.eq(coming.first | ~newer.last)"))), "in a later beat"),
    "the second TLP of a beat forgets that it began in the middle": (
        lambda: planted(Receive, "", "", Completions=planted(Completions, "", "", Incoming=planted(
            Incoming, "amid_high.eq(high | two)", "amid_high.eq(0)"))), "in place of|bytes|dwords"),
    "both TLPs of a beat at once, although more is left of the first": (
        lambda: planted(Receive, "", "", Completions=planted(Completions, "", "", Incoming=planted(
            Incoming, "(amid_high | (taken.ends_at[0] < self.descriptor))", "1"))), "in place of|bytes|dwords|in a later beat"),
    "non-posted credits ignored": (lambda: planted(Receive, "limit.infinite | (", "1 | limit.infinite | ("), "exceeds its credits"),
    "a promise counted late": (lambda: planted(Receive, "ask.eq(~ask & ", "ask.eq("), "exceeds its credits"),
    "completions pass": (
        lambda: planted(Receive, "state.none.eq(waiting == 0)", "state.none.eq(1)"), "passed a request"),
    "posted credits taken for granted": (
        lambda: planted(Receive, "(~posted | gate.fits(posted_class, requests.payload.units))", "1"), "exceeds its credits"),
}
TRANSMIT_BUGS = {
    "payload moved by a double word too many": (
        lambda: planted(Transmit, "", "", Outgoing=planted(
            Outgoing, "Value.cast(beat.data)[:32 * (DWORDS - size)])", "Value.cast(beat.data)[32:32 * (DWORDS - size) + 32])")), "in place of"),
    "what has no place in the beat is lost": (
        lambda: planted(Transmit, "", "", Outgoing=planted(Outgoing, "carry.eq(Value.cast(beat.data)[32 * (DWORDS - size):])", "carry.eq(0)")),
        "in place of"),
    "completions do not wait for numbers": (
        lambda: planted(Transmit, "may_go(head.payload.stamp, returns.state)", "may_go(head.payload.stamp, queue.posted)"),
        "goes before the numbers"),
    "numbers of non-posted requests counted": (
        lambda: planted(Transmit, "", "", Returns=planted(Returns, "valid & ~sequence[5] for", "valid for")), "goes before the numbers"),
    "credits of the link ignored": (lambda: planted(Transmit, "queue.posted) & enough)", "queue.posted))"), "stands in the way"),
    "credits not yet counted used again": (
        lambda: planted(Transmit, "passes = rq.axis.tvalid", "passes = rq.axis.tvalid & rq.axis.tready & 0"), "not all came"),
    "begun before it is whole": (
        lambda: planted(Transmit, "& (whole[lane] != 0) for", "for"), "tvalid fell"),
    "a read passes writes": (
        lambda: planted(Transmit, "may_go(heads[1].payload.stamp, queue.posted)", "1"), "passed a posted request"),
    "numbers awaited for ever": (
        lambda: planted(Transmit, "", "", Returns=planted(Returns, "self.lost.eq(old)", "self.lost.eq(0)")), "not all came"),
}


@pytest.mark.parametrize("bug", RECEIVE_BUGS)
def test_planted_bug_in_what_is_received(bug):
    broken, message = RECEIVE_BUGS[bug]
    with pytest.raises(Exception, match=message):
        for attempt in range(4):
            receive(f"bug {bug} {attempt}", broken(), rich="pass" in bug)


@pytest.mark.parametrize("bug", TRANSMIT_BUGS)
def test_planted_bug_in_what_is_sent(bug):
    broken, message = TRANSMIT_BUGS[bug]
    with pytest.raises(Exception, match=message):
        for attempt in range(4):
            transmit(f"bug {bug} {attempt}", broken(), lose=0.3 if "ever" in bug else 0.0)
