# amaranth: UnusedElaboratable=no
"""The adapter to the P-Tile, against a block that knows its user guide, its flow control too, and a core that counts credits."""

from collections import deque

import pytest
from amaranth.hdl import Value
from amaranth.sim import Simulator
from shell_core import BEATS, CLOCK, CoreSide, generator, random_completion, random_request

from pagehop.shell.ptile import PTileShell
from pagehop.shell.ptile_credits import Granted, LinkCredits
from pagehop.shell.ptile_receive import BufferLimits, Locate, Receive, Unpack
from pagehop.shell.ptile_transmit import Transmit
from pagehop_sim.planted import planted
from pagehop_tb.protocol import FlowClass, Kind, Tlp, decode, encode

#: Sizes of BARs; the address of a request to another one has no bits inside it.
BARS = {0: 1 << 16, 2: 1 << 20, 4: 1 << 36}
KINDS = (*[Kind.MWR] * 8, Kind.MRD, Kind.MRD, Kind.MRDLK, Kind.IORD, Kind.IOWR, Kind.FETCH_ADD, Kind.SWAP, Kind.CAS, Kind.MSGD, Kind.MSG)
_BY_BAR = (Kind.MWR, Kind.MRD, Kind.MRDLK, Kind.FETCH_ADD, Kind.SWAP, Kind.CAS)

#: Cycles between ``ready`` and the beat that it allows.
RX_LATENCY, TX_LATENCY = 27, 3


def random_tlp(rng, kinds=KINDS):
    tlp = random_completion(rng) if kinds is KINDS and rng.random() < 0.3 else random_request(rng, kinds)
    tlp.tag |= rng.choice((0, 0, 0x100, 0x200))
    tlp.poisoned = tlp.has_data and rng.random() < 0.1
    if rng.random() < 0.1:
        tlp.prefix = 0x91 << 24 | rng.getrandbits(20)
    if tlp.kind in _BY_BAR and rng.random() < 0.2:
        tlp.hints, tlp.processing_hint = True, rng.randrange(4)
    return tlp


def changed(tlp, **values):
    return Tlp(**{**{name: getattr(tlp, name) for name in Tlp.__dataclass_fields__}, **values})


class Delivery:
    """The block's way in: TLPs in segments, as ``ready`` and the limits of the application's buffers allow."""

    def __init__(self, rng, rx, pressing, limited):
        self.rng, self.rx, self.pressing, self.limited = rng, rx, pressing, limited
        self.waiting = {flow: deque() for flow in FlowClass}
        self.limits, self.delivered = [0] * 3, [0] * 3
        self.ready, self.current, self.second = deque([0] * RX_LATENCY), None, 0
        self.stopped = 0
        self.data, self.header, self.prefix = (Value.cast(port) for port in (rx.data, rx.hdr, rx.tlp_prfx))
        self.bar, self.empty = Value.cast(rx.bar_range), Value.cast(rx.empty)

    def choose(self):
        """The oldest TLP that may go: what wants an answer and completions not before an older posted one."""
        oldest = self.waiting[FlowClass.POSTED][0][0] if self.waiting[FlowClass.POSTED] else 1 << 30
        may = [queue for flow, queue in self.waiting.items()
               if queue and queue[0][0] <= oldest and (not self.limited or 0 < (self.limits[flow] - self.delivered[flow] & 0xFFF) < 0x800)]
        if not may:
            return None
        _, tlp, bar = min(may, key=lambda queue: queue[0][0]).popleft()
        self.delivered[tlp.flow] += 1
        return [tlp, bar, 0]

    def step(self, ctx, limit, index):
        """Show a beat, or none."""
        self.limits[index] = limit
        self.ready.append(ctx.get(self.rx.ready))
        self.stopped += not self.ready[-1]
        fields = dict.fromkeys(("valid", "sop", "eop", "data", "header", "prefix", "bar", "empty"), 0)
        if self.ready.popleft() and (self.pressing or self.rng.random() < 0.6):
            for place in range(2):
                self._segment(fields, place)
        for name in ("valid", "sop", "eop"):
            ctx.set(getattr(self.rx, name), fields[name])
        # What stands beside no TLP means nothing.
        ctx.set(self.data, fields["data"] if fields["valid"] else self.rng.getrandbits(512))
        ctx.set(self.header, fields["header"] if fields["valid"] else self.rng.getrandbits(256))
        ctx.set(self.prefix, fields["prefix"])
        ctx.set(self.bar, fields["bar"])
        ctx.set(self.empty, fields["empty"])

    def _segment(self, fields, place):
        if self.current is None:
            if not self.pressing and self.rng.random() < 0.3 or (found := self.choose()) is None:
                return
            self.current = found
            tlp, bar, _ = found
            header = encode(tlp)
            if not tlp.four_dw and not header >> 125 & 1:
                header |= self.rng.getrandbits(32)   # of three double words: the fourth means nothing
            fields["sop"] |= 1 << place
            fields["header"] |= header << 128 * place
            fields["prefix"] |= (tlp.prefix or 0) << 32 * place
            fields["bar"] |= bar << 3 * place
            self.second += place
        tlp, _, start = self.current
        piece = tlp.data[start:start + 32]
        fields["valid"] |= 1 << place
        fields["data"] |= int.from_bytes(piece, "little") << 256 * place
        self.current[2] += 32
        if start + 32 >= len(tlp.data):
            fields["eop"] |= 1 << place
            fields["empty"] |= (8 - len(piece) // 4) % 8 << 3 * place
            self.current = None


class Partner:
    """The block's way out and the link partner: credits, of which the block's own TLPs take some and do not tell."""

    def __init__(self, rng, tx, first):
        self.rng, self.tx, self.first = rng, tx, first      # credits at first: six, as they are shown
        self.limits, self.used = list(first), [0] * 6
        self.back, self.ready, self.frame, self.arrived, self.turn = [], deque([0] * TX_LATENCY), None, [], 0
        self.own = True

    def show(self, ctx, dut, cycle):
        """Credits by turns, and those of the block's own TLPs."""
        for entry in [entry for entry in self.back if entry[0] <= cycle]:
            self.back.remove(entry)
            for place in range(6):
                self.limits[place] += entry[1][place]
        if self.own and self.rng.random() < 0.05:
            own = [self.rng.randint(0, max(0, self.first[place] - (self.used[place] - (self.limits[place] - self.first[place]))))
                   if self.first[place] else 0 for place in range(6)]
            self.spend(own, cycle)
        place = self.turn = (self.turn + 1) % 6
        ctx.set(dut.tx_cdts_limit, self.limits[place] & (0xFFF if place < 3 else 0xFFFF))
        ctx.set(dut.tx_cdts_limit_tdm_idx, place + (place > 2))

    def spend(self, amounts, cycle):
        for place in range(6):
            self.used[place] += amounts[place]
        self.back.append((cycle + self.rng.randint(5, 60), [amount if self.first[place] else 0 for place, amount in enumerate(amounts)]))

    def take(self, ctx, cycle):
        """Beats of TLPs without gaps but those of ``ready``."""
        tx, valid = self.tx, ctx.get(self.tx.valid)
        allowed = self.ready.popleft()
        ready = self.rng.random() < (0.3 if cycle // 128 & 1 else 0.95)
        ctx.set(tx.ready, ready)
        self.ready.append(ready)
        assert not valid or allowed, "valid without ready"
        assert valid or not allowed or self.frame is None, "valid fell during a TLP"
        if not valid:
            return
        sop, eop = ctx.get(tx.sop), ctx.get(tx.eop)
        assert sop == (self.frame is None) and valid in (1, 3) and eop & valid == eop and eop in (0, valid & ~1 or 1), "wrong framing"
        if sop:
            self.frame = [ctx.get(Value.cast(tx.hdr)) & (1 << 128) - 1, ctx.get(Value.cast(tx.tlp_prfx)) & 0xFFFF_FFFF, b""]
        self.frame[2] += ctx.get(Value.cast(tx.data)).to_bytes(64, "little")[:64 if valid & 2 else 32]
        if not eop:
            return
        header, prefix, data = self.frame
        self.frame = None
        size = 4 * ((header >> 96 & 0x3FF) or 1024) if header >> 126 & 1 else 0
        assert len(data) - 32 < max(size, 1) <= len(data), f"{len(data)} bytes in place of {size}"
        tlp = decode(header, data[:size], prefix or None)
        amounts = [0] * 6
        amounts[tlp.flow], amounts[3 + tlp.flow] = 1, tlp.data_credits
        self.spend(amounts, cycle)
        self.arrived.append(tlp)


class Bench:
    """TLPs both ways at random, with all that may be compared."""

    def __init__(self, dut, rng, *, count=150, pressing=False, limited=True, starved=None, kinds=KINDS, first=(8, 4, 6, 40, 8, 50),
                 core=((4, 2, 3), (20, 5, 20))):
        self.dut, self.rng, self.count, self.first = dut, rng, count, first
        self.delivery = Delivery(rng, dut.rx_st, pressing, limited)
        self.core, self.partner = CoreSide(rng, *core), Partner(rng, dut.tx_st, first)
        self.starved, self.kinds = starved, kinds
        if starved is not None:
            self.core.starved.add(starved)
        self.expected, self.before, self.posted = {flow: deque() for flow in FlowClass}, {}, [0, 0]
        self.sent, self.sent_before, self.sent_posted = {flow: deque() for flow in FlowClass}, {}, [0, 0]
        self.given, self.came, self.left, self.late = 0, 0, 0, 0
        self.used, self.beats, self.next = [[0, 0] for _ in range(3)], deque(), None
        self.received = []

    def give(self):
        """The next TLP for the block to deliver."""
        waiting = sum(len(queue) for flow, queue in self.delivery.waiting.items() if flow is not self.starved)
        if self.given < self.count and waiting < 12:
            tlp, bar = random_tlp(self.rng, self.kinds), self.rng.choice(tuple(BARS))
            where = changed(tlp, address=tlp.address & BARS[bar] - 1 | bar << 60, four_dw=None) if tlp.kind in _BY_BAR else tlp
            self.delivery.waiting[tlp.flow].append((self.given, tlp, bar))
            self.expected[tlp.flow].append(where)
            self.before[id(where)] = self.posted[0]
            self.posted[0] += tlp.flow is FlowClass.POSTED
            self.given += 1

    def receive(self, tlp, cycle):
        self.core.arrived(tlp, cycle)
        expected = self.expected[tlp.flow].popleft()
        assert tlp == expected, f"{tlp} came in place of {expected}"
        assert tlp.flow is FlowClass.POSTED or self.posted[1] >= self.before[id(expected)], f"{tlp} has passed a posted request"
        self.posted[1] += tlp.flow is FlowClass.POSTED
        self.came += 1

    def send(self, limits, cycle):
        """Begin a TLP of the core within the credits that it is given."""
        for flow in FlowClass:
            for part, (at, mask, most) in enumerate(((0, 0xFF, 64), (8, 0xFFF, 1024))):
                first = self.first[flow + 3 * part]
                left = (limits >> 21 * flow + at) - self.used[flow][part] & mask
                assert not first or left <= min(first, most), f"{left} credits of {first} are left"
        if self.beats or self.left == self.count or self.rng.random() < 0.3:
            return
        tlp = self.next = self.next or random_tlp(self.rng)
        given = limits >> 21 * tlp.flow
        left = given - self.used[tlp.flow][0] & 0xFF, (given >> 8) - self.used[tlp.flow][1] & 0xFFF
        if given >> 20 & 1 or (left[0] and left[1] >= tlp.data_credits):
            self.next = None
            self.used[tlp.flow][0] += 1
            self.used[tlp.flow][1] += tlp.data_credits
            self.beats.extend(BEATS.pack(tlp))
            if len(self.beats) > 1 and not tlp.poisoned and self.rng.random() < 0.1:
                self.beats[-1] |= 1 << BEATS.bits - 2
                tlp.poisoned = True
                self.late += 1
            self.sent[tlp.flow].append(tlp)
            self.sent_before[id(tlp)] = self.sent_posted[0]
            self.sent_posted[0] += tlp.flow is FlowClass.POSTED
            self.left += 1

    def compare_sent(self):
        while self.partner.arrived:
            tlp = self.partner.arrived.pop(0)
            expected = self.sent[tlp.flow].popleft()
            assert tlp == expected, f"{tlp} left in place of {expected}"
            assert tlp.flow is FlowClass.POSTED or self.sent_posted[1] >= self.sent_before[id(expected)], f"{tlp} has passed a posted request"
            self.sent_posted[1] += tlp.flow is FlowClass.POSTED

    def finished(self):
        due = sum(len(queue) for flow, queue in self.expected.items() if flow is not self.starved)
        return self.given == self.count and not due and self.left == self.count and not any(self.sent.values())

    async def run(self, ctx):
        dut = self.dut
        rx, tx, limits, granted = (Value.cast(value) for value in (dut.port.rx.payload, dut.port.tx.payload, dut.port.rx_limits, dut.port.tx_limits))
        shown, driven = False, False
        ctx.set(dut.dl_up, 1)
        for cycle in range(4000):
            for _ in range(3):
                self.give()
            self.delivery.step(ctx, ctx.get(dut.rx_buffer_limit), ctx.get(dut.rx_buffer_limit_tdm_idx))
            ctx.set(limits, self.core.limits(cycle))
            ctx.set(dut.port.rx.ready, self.rng.random() < 0.9)
            if ctx.get(dut.port.rx.valid) and ctx.get(dut.port.rx.ready):
                self.received.append(ctx.get(rx))
                assert not self.received[0] >> 512 & 0xFFFF_FFFF or self.received[0] >> 637 & 1, "four double words of a header of three"
                if BEATS.is_last(self.received[-1]):
                    self.receive(BEATS.unpack(self.received), cycle)
                    self.received = []
            self.partner.take(ctx, cycle)
            self.partner.show(ctx, dut, cycle)
            self.compare_sent()
            if driven:
                self.beats.popleft()
            self.send(ctx.get(granted), cycle)
            shown = bool(self.beats) and (shown and not driven or self.rng.random() < 0.8)
            ctx.set(dut.port.tx.valid, shown)
            if shown:
                ctx.set(tx, self.beats[0])
            driven = shown and ctx.get(dut.port.tx.ready)
            if self.finished() and cycle > 300:
                break
            await ctx.tick()
        else:
            raise AssertionError(f"not all came: {self.came} of {self.given} in, {self.left} of {self.count} out")
        await self.rest(ctx, granted, cycle)

    async def rest(self, ctx, granted, cycle):
        """All credits come back: as many as there were at first, and no more."""
        self.partner.own = False
        ctx.set(self.dut.port.tx.valid, 0)
        for later in range(cycle + 1, cycle + 150):
            await ctx.tick()
            self.partner.take(ctx, later)
            self.partner.show(ctx, self.dut, later)
        limits = ctx.get(granted)
        for flow, (headers, units) in enumerate(self.used):
            if self.first[flow]:
                left = (limits >> 21 * flow) - headers & 0xFF, (limits >> 21 * flow + 8) - units & 0xFFF
                assert left == (min(64, self.first[flow]), min(1024, self.first[flow + 3])), f"credits {left} are left at rest"


def simulate(name, parts=None, **changes):
    bench = Bench(planted(PTileShell, "", "", **(parts or {}))(BARS, 256), generator(name), **changes)
    simulator = Simulator(bench.dut)
    simulator.add_clock(CLOCK)
    simulator.add_testbench(bench.run)
    simulator.run()
    return bench


#: Fast and slow blocks and cores; credits of the link few, many (scaled flow control), or infinite for completions.
RICH = ((64, 16, 64), (500, 50, 500))
CASES = {
    "few credits": {},
    "two TLPs in each beat": {"pressing": True, "core": RICH},
    "many and infinite credits": {"first": (900, 130, 0, 9000, 2000, 0), "core": RICH},
}
#: Short ones only, of a block that does not look at the limits, so that more come than leave; and more of those without credits than the lane holds.
SHORT = {"pressing": True, "limited": False, "core": ((4, 4, 3), (20, 5, 20)), "count": 400, "kinds": (Kind.MSG, Kind.MRD)}
STARVED = {"starved": FlowClass.NON_POSTED, "count": 120, "kinds": (Kind.MRD, Kind.MRD, Kind.MRD, Kind.MWR)}


@pytest.mark.parametrize("case", CASES)
def test_tlps_both_ways(case):
    bench = simulate(case, **CASES[case])
    assert bench.came == bench.left == 150 and bench.delivery.second > 20 and bench.late


def test_more_come_than_leave():
    bench = simulate("short", **SHORT)
    assert bench.delivery.stopped > 10


@pytest.mark.hazard("H24")
@pytest.mark.parametrize("changes", [STARVED, {"starved": FlowClass.COMPLETION}])
def test_a_class_without_credits_holds_no_other(changes):
    bench = simulate("starved", **changes)
    assert len(bench.expected[bench.starved]) > 20
    assert bench.delivery.waiting[bench.starved] or bench.starved is FlowClass.COMPLETION


@pytest.mark.parametrize(("arguments", "message"), [
    (({0: 4096}, 100), r"^The largest payload must be 128, 256 or 512 bytes, not 100$"),
    (({0: 5000},), r"^A BAR must have a number from 0 to 6 and a power of two from 16 bytes to 1 EB, not 0 and 5000$"),
    (({7: 4096},), r"^A BAR must have a number from 0 to 6 and a power of two from 16 bytes to 1 EB, not 7 and 4096$"),
])
def test_wrong_parameters(arguments, message):
    with pytest.raises(ValueError, match=message):
        PTileShell(*arguments)


def received(**parts):
    """Parts of the adapter with these in its way in."""
    return {"Receive": planted(Receive, "", "", **parts)}


def credited(granted):
    return {"LinkCredits": planted(LinkCredits, "", "", Granted=granted)}


#: Parts with one bug each, and what the bench says of it.
BUGS = {
    "a TLP that begins in the second segment is lost": (
        lambda: received(Unpack=planted(Unpack, "valid[1] & ((turn", "valid[1] & ~came[1].first & ((turn")), {}, "in place of|later beat|say first"),
    "the banks change places for a beat of two segments": (
        lambda: received(Unpack=planted(Unpack, "valid.xor()", "valid.any()")), {}, "in place of|later beat|say first|not all came|bytes"),
    "ready falls late": (
        lambda: received(Unpack=planted(Unpack, "bank.level < _STOPS", "bank.level < _STOPS + 28")), SHORT, "in place of|say first|not all came"),
    "the lane is taken from what is not there": (
        lambda: received(Locate=planted(Locate, "self.i.valid & kept.beat.first", "kept.beat.first")), {}, "in place of|later|say first|exceeds"),
    "double words of the header from the other end": (
        lambda: received(Unpack=planted(
            Unpack, "segment.header.eq(rx.hdr[place])", "segment.header.eq(Cat(rx.hdr[place].word_select(3 - n, 32) for n in range(4)))")),
        {}, "."),   # such a header may be anything
    "the address of the host stays": (
        lambda: received(Locate=planted(Locate, " & self._inside(kept.bar)", "")), {}, "in place of"),
    "the fourth double word of three stays": (
        lambda: received(Locate=planted(Locate, "Mux(fields.fmt[0], header[:32], 0)[:32]", "header[:32]")), {}, "four double words"),
    "more TLPs are asked for than the lanes hold": (
        lambda: {"Receive": planted(Receive, "(_DEPTHS[lane] - egress.margins[lane]) // beats[kind]", "200")}, STARVED, "not all came"),
    "all buffers are shown as one": (
        lambda: received(BufferLimits=planted(BufferLimits, "self.left[kind])", "self.left.any())")), STARVED, "not all came"),
    "the core's credits do not count": (
        lambda: {"Receive": planted(Receive, "egress.limits.eq(self.limits)", "egress.limits.eq(-1)")}, {}, "exceeds its credits"),
    "ready is a cycle late": (
        lambda: {"Transmit": planted(Transmit, "Signal(_READY_LATENCY - 1)", "Signal(_READY_LATENCY)")}, {}, "valid without ready|valid fell"),
    "a TLP begins before it is whole": (
        lambda: {"Transmit": planted(Transmit, "inside | whole.o.valid", "1")}, {}, "valid fell|in place of"),
    "poison found late is lost": (
        lambda: {"Transmit": planted(Transmit, "whole.i.payload.eq(poisoned | damaged)", "whole.i.payload.eq(0)")}, {}, "in place of"),
    "the second segment is not said to be there": (
        lambda: {"Transmit": planted(Transmit, "leaves & second))", "0))")}, {}, "wrong framing|bytes in place of|valid fell"),
    "credits of the block's own TLPs become the core's": (
        lambda: credited(planted(Granted, "Mux(excess[-1], 0, excess[:-1])", "0")), {}, "credits of"),
    "a credit too many": (
        lambda: credited(planted(Granted, "left[self.bits - 2:].any(), of_spent", "left[self.bits - 2:].any(), of_spent + 1")),
        CASES["many and infinite credits"], "credits of"),
    "data credits of the last beat are not spent": (
        lambda: {"LinkCredits": planted(LinkCredits, "dwords.eq(self.beat.dwords)", "dwords.eq(Mux(self.beat.last, 0, self.beat.dwords))")},
        {}, "credits|not all came"),
    "infinite credits are not seen": (
        lambda: {"LinkCredits": planted(LinkCredits, "(timer == _SETTLES) & granted.unknown", "0")},
        CASES["many and infinite credits"], "not all came"),
}


@pytest.mark.parametrize("bug", BUGS)
def test_planted_bug(bug):
    parts, case, message = BUGS[bug]
    with pytest.raises(Exception, match=message):
        for attempt in range(4):
            simulate(f"bug {bug} {attempt}", parts(), **case)
