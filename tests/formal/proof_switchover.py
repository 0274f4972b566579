"""Claims about the switchover."""

from amaranth.hdl import Assert, Assume, Cat, Cover, Elaboratable, Module, Signal, Value
from rules import any_constant, any_value, past

from pagehop.interposer.slot import CLOSED_CYCLES
from pagehop.interposer.switchover import Switchover
from pagehop_sim.formal import Proof
from pagehop_sim.planted import planted


def under_test(m, switchover):
    """A switchover with any inputs. Returns it, and whether its active host changes without software's writing it."""
    m.submodules.dut = dut = switchover()
    written, host = Signal(name="written_before"), past(m, dut.active_host, "active_host")
    m.d.sync += written.eq(dut.written)
    for name in ("start", "to_host", "unblock", "written", "chosen", "opaque", "unanswered", "asked", "issue_entered", "issue_accepted"):
        m.d.comb += getattr(dut, name).eq(any_value(m, len(getattr(dut, name)), name))
    for side in range(2):
        m.d.comb += [
            Value.cast(dut.flush[side]).eq(any_value(m, len(Value.cast(dut.flush[side])), f"flush{side}")),
            dut.flush_lost[side].eq(any_value(m, 1, f"lost{side}")),
        ]
    return dut, (dut.active_host != host) & ~written


class FlipsQuietly(Elaboratable):
    """The active host changes, other than by software, only while both lanes of the device are held and have been for long enough to be seen, with no
    request of it unanswered and none of the host that is left; and translated requests are blocked with it."""
    def __init__(self, switchover=Switchover):
        self.switchover = switchover

    def elaborate(self, platform):
        m = Module()
        dut, flips = under_test(m, self.switchover)
        m.d.comb += dut.limit.eq(any_constant(m, 32, "limit"))
        held = [Signal(3, name=f"{name}_held") for name in ("posted", "requests")]
        for count, holds in zip(held, (dut.holds.posted, dut.holds.requests), strict=True):
            m.d.sync += count.eq((count + ~count.all()) * holds)
        # What is held asks nothing more.
        unanswered = past(m, dut.unanswered, "unanswered")
        with m.If(held[1].all()):
            m.d.comb += Assume((dut.unanswered & ~unanswered) == 0)
        asked, long = past(m, dut.asked.bit_select(dut.active_host, 1), "asked"), past(m, Cat(count > CLOSED_CYCLES for count in held).all(), "long")
        self.claim(m, dut, flips, (unanswered == 0) & ~asked & long)
        return m

    def claim(self, m, dut, flips, quiet):
        with m.If(flips):
            m.d.comb += [Assert(quiet), Assert(dut.blocks)]


class FlipsAtLast(FlipsQuietly):
    """The active host does change."""
    def claim(self, m, dut, flips, quiet):
        m.d.comb += Cover(flips)


#: What the bugs below change.
ASKED, PROVEN = "with m.If(self.asked.bit_select(self.active_host, 1)):", 'm.next = "Prove"'


class EndsInTime(Elaboratable):
    """A switchover is over within its limit and three cycles, whatever is not answered, and nothing is held beside one."""
    def __init__(self, switchover=Switchover):
        self.switchover = switchover

    def elaborate(self, platform):
        m = Module()
        dut, _ = under_test(m, self.switchover)
        limit, busy = any_constant(m, 4, "limit"), Signal(5)
        m.d.comb += dut.limit.eq(limit)
        m.d.sync += busy.eq((busy + ~busy.all()) * dut.status.busy)
        m.d.comb += [Assert(busy <= limit + 3), Assert(dut.status.busy | ~(dut.holds.posted | dut.holds.requests))]
        return m


PROOFS = [
    Proof("switchover_flips_quietly", FlipsQuietly.__doc__, FlipsQuietly, "bmc", 34, bugs={
        "open reads of the device": lambda: FlipsQuietly(planted(Switchover, "~self.unanswered.any() &", "1 &")),
        "open reads of the host": lambda: FlipsQuietly(planted(Switchover, ASKED, "with m.If(0):")),
        "posted TLPs are not held": lambda: FlipsQuietly(planted(Switchover, "[self.holds.posted.eq(1), ", "[")),
    }),
    Proof("switchover_flips_at_last", FlipsAtLast.__doc__, FlipsAtLast, "cover", 34, bugs={
        "posted TLPs never pass": lambda: FlipsAtLast(planted(Switchover, PROVEN, 'm.next = "Idle"')),
    }),
    Proof("switchover_ends_in_time", EndsInTime.__doc__, EndsInTime, "bmc", 30, bugs={
        "no limit": lambda: EndsInTime(planted(Switchover, "m.Elif(self.status.cycles >= self.limit)", "m.Elif(0)")),
    }),
]
