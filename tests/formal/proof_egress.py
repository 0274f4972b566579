"""Claims about the egress and its arbiter: what has credits leaves, TLPs stay whole, nobody is passed over."""

from amaranth.hdl import Array, Assert, Assume, Cat, Cover, Elaboratable, Module, Mux, Signal
from rules import any_constant, any_value, framed, held, past

from pagehop.tlp.arbiter import RoundRobin, TlpArbiter
from pagehop.tlp.egress import Egress, EgressBeat, EgressLane
from pagehop_sim.formal import Proof
from pagehop_sim.planted import planted

DEPTHS = (16, 16, 16)   # the least for one source
LANES = range(len(DEPTHS))
#: A memory write of one double word, a completion without data, a memory read (2.2.1): what tells the classes apart, the rest of the header is 0.
DW0 = {EgressLane.POSTED: 0x40000001, EgressLane.COMPLETION: 0x0A000000, EgressLane.NON_POSTED: 0x00000001}


class EgressUnderTest(Elaboratable):
    """TLPs of one or two beats without gaps on one source, a few in each lane; the partner takes what comes, and grants what the claim says."""
    def __init__(self, egress=Egress):
        self.egress = egress

    def elaborate(self, platform):
        m = Module()
        m.submodules.dut = dut = self.egress(16, 1, DEPTHS, max_payload=16)
        source, payload = dut.i[0], dut.i[0].payload
        m.d.comb += [
            source.valid.eq(any_value(m, 1, "valid")), payload.lane.eq(any_value(m, 2, "lane")), Assume(payload.lane < len(DEPTHS)),
            payload.beat.first.eq(any_value(m, 1, "first")), payload.beat.last.eq(any_value(m, 1, "last")),
            payload.beat.header.eq(Mux(payload.beat.first, Array(DW0[lane] for lane in LANES)[payload.lane], 0) << 96),
        ]
        held(m, source, Assume, "i")
        inside = framed(m, source, payload.beat, Assume, "i")
        lane = Signal(2)
        enters, leaves = source.valid & source.ready, dut.tx.valid & dut.tx.ready
        with m.If(enters):
            m.d.sync += lane.eq(payload.lane)
        with m.If(inside & source.valid):
            m.d.comb += [Assume(payload.lane == lane), Assume(payload.beat.last)]
        with m.If(inside):
            m.d.comb += Assume(source.valid)
        out = self._lane_of_tx(m, dut, leaves)
        counts = [Signal(4, name=f"count{index}") for index in LANES]
        for index, count in enumerate(counts):
            m.d.sync += count.eq(count + (enters & (payload.lane == index)) - (leaves & (out == index)))
        # Few beats show all there is to see.
        m.d.comb += Assume(~source.valid | (Array(counts)[payload.lane] < 6))
        self.claim(m, dut, counts, leaves, out)
        return m

    def _lane_of_tx(self, m, dut, leaves):
        """Lane of the TLP on ``tx``, from the header of its first beat."""
        now, before = Signal(2), Signal(2)
        header = dut.tx.payload.header
        with m.If(dut.tx.payload.first):
            m.d.comb += now.eq(Mux(header[96 + 30], EgressLane.POSTED, Mux(header[96 + 27], EgressLane.COMPLETION, EgressLane.NON_POSTED)))
        with m.Else():
            m.d.comb += now.eq(before)
        with m.If(leaves):
            m.d.sync += before.eq(now)
        return now

    def claim(self, m, dut, counts, leaves, out):
        raise NotImplementedError


def grant(m, dut, kind, granted):
    """Infinite credits of a class, or none ever."""
    m.d.comb += dut.limits[kind].infinite.eq(granted)


class Drains(EgressUnderTest):
    """With any set of non-posted and completion sinks blocked for ever, posted TLPs leave; with non-posted blocked, completions do too: one every
    few cycles while there are any."""
    def claim(self, m, dut, counts, leaves, out):
        completions = any_constant(m, 1, "completions_have_credits")
        grant(m, dut, "posted", 1)
        grant(m, dut, "completion", completions)
        grant(m, dut, "non_posted", 0)
        m.d.comb += dut.tx.ready.eq(1)
        waits = Signal(3)
        due = (counts[EgressLane.POSTED] != 0) | (completions & (counts[EgressLane.COMPLETION] != 0))
        m.d.sync += waits.eq(Mux(due & ~leaves, waits + 1, 0))
        m.d.comb += [Assert(waits < 6), Assert(~leaves | (out != EgressLane.NON_POSTED))]


class TlpsAreWhole(EgressUnderTest):
    """On ``tx`` each TLP is framed and no other TLP's beat stands inside it, whatever ``tx.ready`` does; ``tx`` keeps the stream rules."""
    def claim(self, m, dut, counts, leaves, out):
        for kind in ("posted", "completion", "non_posted"):
            grant(m, dut, kind, 1)
        m.d.comb += dut.tx.ready.eq(any_value(m, 1, "tx_ready"))
        framed(m, dut.tx, dut.tx.payload, Assert, "tx")
        held(m, dut.tx, Assert, "tx")
        for count in counts:
            m.d.comb += Assert(count < 8)   # less than 0 would be as much as 15


class AllLeave(EgressUnderTest):
    """TLPs of all three lanes can leave one after the other, without a gap."""
    def claim(self, m, dut, counts, leaves, out):
        for kind in ("posted", "completion", "non_posted"):
            grant(m, dut, kind, 1)
        m.d.comb += dut.tx.ready.eq(any_value(m, 1, "tx_ready"))
        first = past(m, Cat(leaves & (out == EgressLane.POSTED)), "first")
        second = past(m, Cat(first & leaves & (out == EgressLane.COMPLETION)), "second")
        m.d.comb += Cover(second & leaves & (out == EgressLane.NON_POSTED))


class NobodyIsPassedOver(Elaboratable):
    """A source of the arbiter that has a TLP waits for no more than one TLP of each other source, and TLPs are not mixed."""
    SOURCES = 3

    def __init__(self, arbiter=TlpArbiter):
        self.arbiter = arbiter

    def elaborate(self, platform):
        m = Module()
        m.submodules.dut = dut = self.arbiter(EgressBeat(16), self.SOURCES)
        m.d.comb += dut.o.ready.eq(any_value(m, 1, "o_ready"))
        for index, source in enumerate(dut.i):
            beat = source.payload.beat
            m.d.comb += [
                source.valid.eq(any_value(m, 1, f"valid{index}")), beat.first.eq(any_value(m, 1, f"first{index}")),
                beat.last.eq(any_value(m, 1, f"last{index}")),
                beat.data.eq(index),
            ]
            held(m, source, Assume, f"i{index}")
            framed(m, source, beat, Assume, f"i{index}")
        moves = dut.o.valid & dut.o.ready
        inside, owner = framed(m, dut.o, dut.o.payload.beat, Assert, "o"), Signal(2)
        with m.If(moves):
            m.d.sync += owner.eq(dut.o.payload.beat.data)
        with m.If(inside & dut.o.valid):
            m.d.comb += Assert(dut.o.payload.beat.data == owner)
        watched = any_constant(m, 2, "watched")
        m.d.comb += Assume(watched < self.SOURCES)
        waits, passed = Cat(source.valid for source in dut.i).bit_select(watched, 1) & ~(inside & (owner == watched)), Signal(2)
        with m.If(~waits | (moves & (dut.o.payload.beat.data == watched))):
            m.d.sync += passed.eq(0)
        with m.Elif(moves & dut.o.payload.beat.first):
            m.d.sync += passed.eq(passed + 1)
        m.d.comb += Assert(passed < self.SOURCES)
        return m


def with_bug(claim, old, new, **parts):
    """The claim about an egress with a bug."""
    return lambda: claim(planted(Egress, old, new, **parts))


PROOFS = [
    Proof("egress_drains", Drains.__doc__, Drains, "bmc", 11, bugs={
        "a request without credits holds its turn": with_bug(
            Drains, "plenty = gate.plenty[kind.value]", "plenty = 1"),
        "posted TLPs wait for requests": with_bug(
            Drains, "(1, 1) if lane == POSTED else", "(~heads[2].valid, ~heads[2].valid) if lane == POSTED else"),
    }),
    Proof("egress_tlps_are_whole", TlpsAreWhole.__doc__, TlpsAreWhole, "bmc", 8, bugs={
        "TLPs are mixed": with_bug(
            TlpsAreWhole, "turns.last.eq(ends)", "turns.last.eq(1)"),
        "tx is loaded while it waits": with_bug(TlpsAreWhole, "free.eq(~self.tx.valid | self.tx.ready)", "free.eq(1)"),
    }),
    Proof("egress_all_leave", AllLeave.__doc__, AllLeave, "cover", 12, bugs={
        "requests have no turn": with_bug(
            AllLeave, "head.valid & (inside", "head.valid & (lane != 2) & (inside"),
    }),
    Proof("arbiter_nobody_is_passed_over", NobodyIsPassedOver.__doc__, NobodyIsPassedOver, "bmc", 9, fast=True, bugs={
        "TLPs are mixed": lambda: NobodyIsPassedOver(planted(TlpArbiter, "turns.last.eq(self.o.payload.beat.last)", "turns.last.eq(1)")),
        "turns are not counted": lambda: NobodyIsPassedOver(planted(
            TlpArbiter, "", "", RoundRobin=planted(RoundRobin, "(before | self.served[number].replicate(self.count)) & ~self.served", "before"))),
    }),
]
