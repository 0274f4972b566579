"""Claims about an egress that is stopped and resumed at any time: TLPs stay whole, each request has its answer, credits are those of the partner."""

from amaranth.hdl import Assert, Assume, Mux, Signal
from proof_egress import EgressUnderTest, grant
from rules import any_value, framed, held

from pagehop.tlp.egress import Egress, EgressLane
from pagehop.tlp.watchdog import Watchdog
from pagehop_sim.formal import Proof
from pagehop_sim.planted import planted

COUNT = 4   # bits of ghost counters
#: Cycles in which a request that nothing keeps has left: the change of the port, a TLP that has begun, its turn among the few that stand there.
SOON = 8


def commands(m, dut):
    """Software stops and resumes the port when it likes."""
    stop, resume = any_value(m, 1, "stop"), any_value(m, 1, "resume")
    m.d.comb += [dut.watch.stop.eq(stop), dut.watch.resume.eq(resume), dut.refused_room.eq(any_value(m, 1, "refused_room"))]
    return stop | resume


class WholeAcrossChanges(EgressUnderTest):
    """While a port goes down and comes up again, each TLP on ``tx`` is framed, and ``tx`` keeps the stream rules, whatever ``tx.ready`` does."""
    def claim(self, m, dut, counts, leaves, out):
        for kind in ("posted", "completion", "non_posted"):
            grant(m, dut, kind, 1)
        commands(m, dut)
        m.d.comb += dut.tx.ready.eq(any_value(m, 1, "tx_ready"))
        framed(m, dut.tx, dut.tx.payload, Assert, "tx")
        held(m, dut.tx, Assert, "tx")


class EachRequestOnce(EgressUnderTest):
    """Each request that is accepted is either sent or refused, once, whenever the port goes down or comes up."""
    def claim(self, m, dut, counts, leaves, out):
        for kind in ("posted", "completion", "non_posted"):
            grant(m, dut, kind, 1)
        changes, ready = commands(m, dut), any_value(m, 1, "tx_ready")
        source, beat = dut.i[0], dut.tx.payload
        enters = source.valid & source.ready
        sent = leaves & beat.last & (out == EgressLane.NON_POSTED)
        waiting, quiet = Signal(COUNT), Signal(COUNT)
        m.d.comb += dut.tx.ready.eq(ready)
        m.d.sync += [
            waiting.eq(waiting + (enters & source.payload.beat.last & (source.payload.lane == EgressLane.NON_POSTED)) - sent - dut.refused.valid),
            quiet.eq(Mux(enters | changes | ~ready | ~dut.refused_room, 0, quiet + (quiet != SOON))),
        ]
        # Less than none would be as much as 15.
        m.d.comb += [Assert(waiting < 12), Assert((quiet != SOON) | (waiting == 0))]


class CreditsAreKept(EgressUnderTest):
    """No TLP begins on ``tx`` without a credit of the partner, before, while and after the port is down."""
    def claim(self, m, dut, counts, leaves, out):
        commands(m, dut)
        m.d.comb += dut.tx.ready.eq(any_value(m, 1, "tx_ready"))
        names = {EgressLane.POSTED: "posted", EgressLane.COMPLETION: "completion", EgressLane.NON_POSTED: "non_posted"}
        for lane, name in names.items():
            granted, spent = Signal(COUNT, name=f"granted_{name}"), Signal(COUNT, name=f"spent_{name}")
            more = any_value(m, 1, f"more_{name}")
            begins = dut.tx.valid & dut.tx.payload.first & (out == lane)
            m.d.sync += [granted.eq(granted + more), spent.eq(spent + (begins & leaves))]
            m.d.comb += [
                dut.limits[name].header.eq(granted), dut.limits[name].data.eq(64), Assume(granted < 12),
                Assert(spent + begins <= granted),
            ]


def with_watchdog(claim, old, new):
    """The claim about an egress whose watchdog has a bug."""
    return lambda: claim(planted(Egress, "", "", Watchdog=planted(Watchdog, old, new)))


def with_bug(claim, old, new):
    """The claim about an egress with a bug."""
    return lambda: claim(planted(Egress, old, new))


PROOFS = [
    Proof("watchdog_tlps_are_whole", WholeAcrossChanges.__doc__, WholeAcrossChanges, "bmc", 10, bugs={
        "a TLP that has begun is cut": with_watchdog(WholeAcrossChanges, "settled & ~self.begun", "settled"),
        "tx is loaded while it waits": with_bug(WholeAcrossChanges, "with m.If(free):", "with m.If(loads):"),
    }),
    Proof("watchdog_each_request_once", EachRequestOnce.__doc__, EachRequestOnce, "bmc", 12, seconds=600, bugs={
        "a request is not refused": with_bug(
            EachRequestOnce, "self.refused.valid.eq(Cat(begins[lane] for lane in requests).any())", "self.refused.valid.eq(0)"),
        "a request that is sent is refused": with_bug(EachRequestOnce, "[begin & discards for begin in begins]", "begins"),
    }),
    Proof("watchdog_credits_are_kept", CreditsAreKept.__doc__, CreditsAreKept, "bmc", 11, bugs={
        "what was decided while down leaves without credits": with_bug(CreditsAreKept, "closed = watchdog.closed | ", "closed = 0 | "),
        "what is discarded spends credits": with_bug(CreditsAreKept, "for lane in drawing).any() & ~discards)", "for lane in drawing).any())"),
    }),
]
