"""Claims about invalidations of what devices keep: everything ends in time."""

from amaranth.hdl import Assert, Assume, Elaboratable, Module, Mux, Signal
from rules import any_value, drive, past

from pagehop.iommu.ats_invalidations import AtsInvalidations
from pagehop_sim.formal import Proof
from pagehop_sim.planted import planted

TAGS, DEVICES, TIMER_BITS, TIMEOUT = 2, 2, 3, 1


class EndsInTime(Elaboratable):
    """Whatever commands and completions come, and whatever is taken or not, nothing is pending more than ``timeout + tags + 8`` cycles after the last
    command was taken."""
    def __init__(self, invalidations=AtsInvalidations):
        self.invalidations = invalidations

    def elaborate(self, platform):
        m = Module()
        m.submodules.dut = dut = self.invalidations(TAGS, DEVICES, timer_bits=TIMER_BITS)
        began, command, bound = past(m, 1, "began"), dut.commands.command, TIMEOUT + TAGS + 8
        age = Signal(range(bound + 2))
        drive(m, command, "command")
        drive(m, dut.completions, "came")
        m.d.comb += [
            dut.timeout.eq(TIMEOUT), Assume(began | ~command.valid), dut.release_tags.eq(any_value(m, TAGS, "release")),
            dut.invalidations.ready.eq(any_value(m, 1, "takes")), dut.responses.ready.eq(any_value(m, 1, "takes_response")),
            Assert(~dut.commands.pending | (age <= bound)),
        ]
        m.d.sync += age.eq(Mux(command.valid & command.ready, 0, age + (age <= bound)))
        return m


PROOFS = [
    Proof("ats_ends", EndsInTime.__doc__, EndsInTime, "bmc", 16, bugs={
        "waits for ever": lambda: EndsInTime(planted(AtsInvalidations, "self._waits & self._is_past(self._wanted.deadline)", "0")),
        "outstanding for ever": lambda: EndsInTime(planted(AtsInvalidations, "is_open & ~done & self._is_past(row.deadline)", "0")),
    }),
]
