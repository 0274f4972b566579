"""Claims about invalidations of what devices keep: an ITag has one use at a time, everything ends in time."""

from amaranth.hdl import Assert, Assume, Cover, Elaboratable, Module, Mux, Signal
from rules import any_constant, any_value, drive, past

from pagehop.iommu.ats_invalidations import AtsInvalidations
from pagehop_sim.formal import Proof
from pagehop_sim.planted import planted

TAGS, DEVICES, TIMER_BITS, TIMEOUT = 2, 2, 3, 1


def drive_all(m, dut):
    """Commands, from the second cycle on, and completions of any form; anything is taken or not, and any ITag is released."""
    drive(m, dut.commands.command, "command")
    drive(m, dut.completions, "came")
    m.d.comb += [
        dut.timeout.eq(TIMEOUT), Assume(past(m, 1, "began") | ~dut.commands.command.valid), dut.release_tags.eq(any_value(m, TAGS, "release")),
        dut.invalidations.ready.eq(any_value(m, 1, "takes")), dut.responses.ready.eq(any_value(m, 1, "takes_response")),
    ]


class EndsInTime(Elaboratable):
    """Whatever commands and completions come, and whatever is taken or not, nothing is pending more than ``timeout + tags + 8`` cycles after the last
    command was taken."""
    def __init__(self, invalidations=AtsInvalidations):
        self.invalidations = invalidations

    def elaborate(self, platform):
        m = Module()
        m.submodules.dut = dut = self.invalidations(TAGS, DEVICES, timer_bits=TIMER_BITS)
        command, bound = dut.commands.command, TIMEOUT + TAGS + 8
        age = Signal(range(bound + 2))
        drive_all(m, dut)
        m.d.comb += Assert(~dut.commands.pending | (age <= bound))
        m.d.sync += age.eq(Mux(command.valid & command.ready, 0, age + (age <= bound)))
        return m


class OneUse(Elaboratable):
    """Commands, rounds and completions of any form in any cycle, two devices by name. One ITag of one device is watched, which answers only what it
    has got. Once it was sent, the ITag is sent to nobody before as many completions with its bit have come from the device as the greatest of their
    counts says, or software has released it because it was late; and till then its command or round is pending, unless it was given up (H32)."""
    def __init__(self, invalidations=AtsInvalidations):
        self.invalidations = invalidations

    def elaborate(self, platform):
        m = Module()
        m.submodules.dut = dut = self.invalidations(TAGS, DEVICES, timer_bits=TIMER_BITS)
        out, came = dut.invalidations, dut.completions
        tag, device = any_constant(m, range(TAGS), "tag"), any_constant(m, range(DEVICES), "device")
        self._drive(m, dut)
        #: `used` since it was shown, `sent` since it was taken; completions `heard`, and as many must come `before` the last.
        used, sent, heard, most, before, again = Signal(), Signal(), Signal(3), Signal(3), Signal(3), Signal()
        shown = out.valid & ~past(m, out.valid & ~out.ready, "stays") & (out.payload.itag == tag)
        mine = (out.payload.itag == tag) & (out.payload.requester_id == device)
        answers = came.payload.itags.bit_select(tag, 1) & (came.payload.requester_id == device)
        late, more = dut.late.bit_select(tag, 1), (came.payload.count - 1)[:3]
        m.d.comb += [
            Assume(~(came.valid & answers) | sent), before.eq(Mux(more > most, more, most)),
            Assert(~shown | ~used), Assert(~used | late | dut.commands.pending | dut.round.valid), Cover(shown & mine & again),
        ]
        with m.If(came.valid & came.ready & answers):
            m.d.sync += [heard.eq(heard + 1), most.eq(before)]
            with m.If(heard == before):
                m.d.sync += [used.eq(0), sent.eq(0), again.eq(1)]
        with m.If(late & dut.release_tags.bit_select(tag, 1)):
            m.d.sync += again.eq(0)
            with m.If(sent):
                m.d.sync += [used.eq(0), sent.eq(0)]
        with m.If(shown & mine):
            m.d.sync += [used.eq(1), heard.eq(0), most.eq(0)]
        with m.If(out.valid & out.ready & mine):
            m.d.sync += sent.eq(1)
        return m

    def _drive(self, m, dut):
        """Rounds too, and devices 0 and 1 of one domain: more of them make the solver slow and can do nothing else."""
        drive_all(m, dut)
        drive(m, dut.round, "round")
        m.d.comb += [
            Assume(dut.round.payload.gscid == 0), Assume(dut.commands.command.payload.requester_id < DEVICES),
            Assume(dut.completions.payload.requester_id < DEVICES), dut.release_devices.eq(any_value(m, DEVICES, "release_device")),
        ]
        for row, entry in enumerate(dut.devices):
            m.d.comb += [entry.valid.eq(any_constant(m, 1, f"valid_{row}")), entry.requester_id.eq(any_constant(m, range(DEVICES), f"id_{row}"))]


PROOFS = [
    Proof("ats_once", OneUse.__doc__, OneUse, "bmc", 20, bugs={
        "a late ITag is free": lambda: OneUse(planted(AtsInvalidations, "(self.late & ~self._released) | here)]", "self.late & ~self._released)]")),
        "the first completion ends it": lambda: OneUse(planted(AtsInvalidations, "asked & fits & (row.heard == before)", "asked & fits")),
        "of any device": lambda: OneUse(planted(AtsInvalidations, "& (row.requester_id == heard.requester_id)", "")),
    }),
    Proof("ats_again", "An ITag is used again after its completions.", OneUse, "cover", 20, bugs={
        "never free": lambda: OneUse(planted(AtsInvalidations, "with m.If(done):", "with m.If(0):")),
    }),
    Proof("ats_ends", EndsInTime.__doc__, EndsInTime, "bmc", 16, bugs={
        "waits for ever": lambda: EndsInTime(planted(AtsInvalidations, "self._waits & self._is_past(self._wanted.deadline)", "0")),
        "outstanding for ever": lambda: EndsInTime(planted(AtsInvalidations, "is_open & ~done & self._is_past(row.deadline)", "0")),
    }),
]
