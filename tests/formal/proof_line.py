"""Claims about the line's owner, between any user and any home that keeps TileLink's rules: what it says to the home, and when."""

from types import SimpleNamespace

from amaranth.hdl import Assert, Assume, Cat, Cover, Elaboratable, Module, Mux, Signal
from amaranth.lib import data
from rules import any_constant, any_value, held, past

from pagehop.iommu.line_owner import LineEnd, LineOwner
from pagehop.iommu.tilelink import SIZE_LINE, Grow, OpA, OpB, OpD, Shrink
from pagehop_sim.formal import Proof
from pagehop_sim.planted import edited

#: A line of two beats of one bit, so that a whole exchange fits into few cycles, and two lines.
BEATS, BITS = 2, 1
#: Most cycles for which a hold counts.
LIMIT = 3
#: Most cycles from a probe that is shown to its answer, those apart for which it is held: behind one probe before it, one message of the line with
#: all its beats, and on its own way.
SOON = 5 + BEATS


class SmallProbe(data.Struct):
    """Of a probe for one of two lines."""
    address:      1
    without_data: 1


def small(*changes):
    """The owner of a small line, with these changes."""
    return edited(LineOwner, *changes, LINE_BEATS=BEATS, DATA_BITS=BITS, LINE_ADDRESS_BITS=1, LIMIT_BITS=2, _Probe=SmallProbe)


class OwnerUnderTest(Elaboratable):
    """An owner, a user, and a home: it grants what was asked for, in one beat or all, or refuses; it probes two lines, each once at a time, and the
    one that is asked for not while it is granted; it acknowledges releases. Both do so whenever they like."""
    def __init__(self, owner=None):
        self.owner = owner or small()

    def elaborate(self, platform):
        m = Module()
        m.submodules.dut = self.dut = self.owner(1, 1, 2)
        self.port, self.user = self.dut.port, self.dut.user
        m.d.comb += self.dut.limit.eq(any_constant(m, range(LIMIT + 1), "limit"))
        # What is open: an acquire, its grant that has not been acknowledged, a release; what the owner has; of each line, a probe that was taken,
        # and whether it wants data. `mine`: which line it is about.
        self.granting, self.unacknowledged, self.releasing = Signal(), Signal(), Signal()
        self.holds, self.mine, self.amid_grant = Signal(), Signal(), Signal()
        self.probed, self.without_data = Signal(2), Signal(2)
        self.sink = Signal(2)
        self._use(m)
        self._grant(m)
        self._probe(m)
        self._listen(m)
        self.claim(m)
        return m

    def _use(self, m):
        user, port = self.user, self.port
        second = any_value(m, 1, "second")
        m.d.comb += [
            user.acquire.valid.eq(any_value(m, 1, "acquire")), user.acquire.payload.eq(second),
            *(getattr(user, name).eq(any_value(m, len(getattr(user, name)), name)) for name in ("index", "edit", "value", "hold", "release")),
            port.c.ready.eq(any_value(m, 1, "c_ready")), port.e.ready.eq(any_value(m, 1, "e_ready")),
        ]
        self.channel_a(m)
        held(m, user.acquire, Assume, "acquire")
        with m.If(port.a.valid & port.a.ready):
            m.d.sync += [self.granting.eq(1), self.mine.eq(port.a.payload.address[SIZE_LINE])]

    def channel_a(self, m):
        m.d.comb += self.port.a.ready.eq(any_value(m, 1, "a_ready"))

    def _grant(self, m):
        port, answer = self.port, self.port.d.payload
        kind, kept = any_value(m, 4, "kind"), Signal(4)
        now = Mux(self.amid_grant, kept, kind)     # denied, alone, sink
        shown = port.b.valid & (port.b.payload.address[SIZE_LINE] == self.mine)
        may = self.amid_grant | ~(shown | self.probed.bit_select(self.mine, 1))
        last = now[1] | self.amid_grant
        m.d.comb += [
            port.d.valid.eq(any_value(m, 1, "d_valid") & ((self.granting & may) | self.releasing)),
            answer.opcode.as_value().eq(Mux(self.granting, Mux(now[1], OpD.GRANT.value, OpD.GRANT_DATA.value), OpD.RELEASE_ACK.value)),
            answer.denied.eq(self.granting & now[0]), answer.sink.eq(now[2:]), answer.data.eq(any_value(m, BITS, "data")),
            answer.corrupt.eq(self.granting & any_value(m, 1, "corrupt")), answer.source.eq(1), answer.size.eq(SIZE_LINE),
        ]
        self.granted = self.granting & port.d.valid & last
        with m.If(port.e.valid & port.e.ready):
            m.d.sync += self.unacknowledged.eq(0)
        with m.If(port.d.valid & self.granting):
            m.d.sync += [self.amid_grant.eq(~last), kept.eq(now), self.sink.eq(now[2:]), self.granting.eq(~last), self.unacknowledged.eq(last),
                         self.holds.eq(~now[0])]
        with m.Elif(port.d.valid):
            m.d.sync += self.releasing.eq(0)

    def _probe(self, m):
        probe, second = self.port.b.payload, any_value(m, 1, "probe_second")
        m.d.comb += [
            self.port.b.valid.eq(any_value(m, 1, "probe")), probe.address[SIZE_LINE].eq(second),
            probe.opcode.as_value().eq(Mux(any_value(m, 1, "perm"), OpB.PROBE_PERM.value, OpB.PROBE_BLOCK.value)),
            probe.param.as_value().eq(any_value(m, 2, "cap")), probe.size.eq(SIZE_LINE), probe.source.eq(1),
        ]
        held(m, self.port.b, Assume, "b")
        with m.If(self.port.b.valid):
            m.d.comb += [
                Assume(~self.probed.bit_select(second, 1)),
                Assume(~((second == self.mine) & (self.amid_grant | self.unacknowledged))),
            ]
        with m.If(self.port.b.valid & self.port.b.ready):
            m.d.sync += [self.probed.bit_select(second, 1).eq(1), self.without_data.bit_select(second, 1).eq(probe.opcode == OpB.PROBE_PERM)]

    def _listen(self, m):
        """What goes by on channel C: for which line, whether it is a release, has data, is the last beat, and gives up what the owner has."""
        c, said, self.beat = self.port.c, self.port.c.payload, Signal(range(BEATS))
        opcode = said.opcode.as_value()
        self.about, self.releases, self.has_data = said.address[SIZE_LINE], opcode[1], opcode[0]
        self.last, self.gives = ~self.has_data | (self.beat == BEATS - 1), self.holds & (self.about == self.mine)
        with m.If(c.valid & c.ready):
            m.d.sync += self.beat.eq(self.beat + self.has_data)
            with m.If(self.last):
                with m.If(self.gives):
                    m.d.sync += self.holds.eq(0)
                with m.If(self.releases):
                    m.d.sync += self.releasing.eq(1)
                with m.Else():
                    m.d.sync += self.probed.bit_select(self.about, 1).eq(0)


class KeepsTheRules(OwnerUnderTest):
    """A grant is acknowledged once, with its sink. No acquire while a line is here, granted or released; no release before the acknowledgement of the
    grant; no answer to a probe of a line whose release is open. Each probe is answered once, from the state in which the line is. What is
    offered stays, and beats stay together."""
    def claim(self, m):
        a, c, e = self.port.a, self.port.c, self.port.e
        said = c.payload
        held(m, a, Assert, "a")
        held(m, e, Assert, "e")
        fields = Cat(said.opcode.as_value(), said.param.as_value(), said.size, said.source, said.address, said.corrupt)
        held(m, SimpleNamespace(valid=c.valid, ready=c.ready, payload=Cat(fields, Mux(self.has_data, said.data, 0))), Assert, "c")
        before = past(m, fields, "fields")
        with m.If(a.valid):
            m.d.comb += [
                Assert(~self.granting & ~self.unacknowledged & ~self.holds & ~self.releasing), Assert(a.payload.opcode == OpA.ACQUIRE_BLOCK),
                Assert(a.payload.param == Grow.N_TO_T.value), Assert(a.payload.address == self.user.acquire.payload << SIZE_LINE),
                Assert(a.payload.size == SIZE_LINE), Assert(a.payload.source == 1),
            ]
        m.d.comb += Assert(e.valid == self.unacknowledged)
        with m.If(e.valid):
            m.d.comb += Assert(e.payload.sink == self.sink)
        with m.If(self.beat != 0):
            m.d.comb += [Assert(c.valid), Assert(fields == before)]
        with m.If(c.valid):
            m.d.comb += [
                Assert(said.address == self.about << SIZE_LINE),
                Assert((said.size == SIZE_LINE) & (said.source == 1) & ~said.corrupt & said.opcode.as_value()[2]),
                Assert(said.param.as_value() == Mux(self.gives, Shrink.T_TO_N.value, Shrink.N_TO_N.value)),
                Assert(~(self.releasing & (self.about == self.mine))), Assert(self.gives | ~self.has_data),
                Assert(Mux(self.releases, self.gives, self.probed.bit_select(self.about, 1))),
                Assert(~(self.gives & (self.amid_grant | self.unacknowledged))),
            ]


class EditsLeaveOnce(OwnerUnderTest):
    """What was edited, and nothing else, leaves with the line, once, whether it is released or taken; an unchanged line leaves without data. The user
    reads what is there, and is told the end of each line once, when it has gone: how it went, and what its grant was."""
    def claim(self, m):
        user, c, d = self.user, self.port.c, self.port.d
        word = any_constant(m, 1, "word")
        dirty, shadow, open_, failed, released = Signal(), Signal(BITS), Signal(), Signal(), Signal()
        with m.If(self.granting & d.valid):
            m.d.sync += failed.eq(failed | d.payload.denied | d.payload.corrupt | (d.payload.opcode == OpD.GRANT))
            with m.If(self.amid_grant == word):
                m.d.sync += shadow.eq(d.payload.data)
        with m.If(self.port.a.valid & self.port.a.ready):
            m.d.sync += [open_.eq(1), failed.eq(0), dirty.eq(0)]
        with m.If(user.owned):
            m.d.comb += Assert(self.holds & ~self.unacknowledged & ~failed & open_)
            m.d.sync += released.eq(user.release)
            with m.If(user.index[0] == word):
                m.d.comb += Assert(user.entry[:BITS] == shadow)
            with m.If(user.edit):
                m.d.sync += dirty.eq(1)
                with m.If(user.index[0] == word):
                    m.d.sync += shadow.eq(user.value)
        with m.If(c.valid & self.gives):
            m.d.comb += [Assert(~user.owned), Assert(self.has_data == (dirty & (self.releases | ~self.without_data.bit_select(self.mine, 1))))]
            with m.If(self.has_data & (self.beat == word)):
                m.d.comb += Assert(c.payload.data == shadow)
        with m.If(user.ended):
            m.d.comb += [
                Assert(open_), Assert(~self.holds | (c.valid & c.ready & self.gives & self.last)), Assert(~self.releasing | d.valid),
                Assert(user.end.as_value() == Mux(failed, LineEnd.FAILED, Mux(released, LineEnd.RELEASED, LineEnd.LOST))),
            ]
            m.d.sync += open_.eq(0)


class AnswersInTime(OwnerUnderTest):
    """A probe is answered within a bound from when it is shown on, and ``limit`` cycles more when it is held, whatever happens to acquires. Cycles do
    not count in which the home does not take an answer, or has not acknowledged the release of that line."""
    def claim(self, m):
        b, c, waits = self.port.b, self.port.c, Signal(range(32))
        mine, shown = self.mine == 0, b.valid & ~b.payload.address[SIZE_LINE]
        answered = c.valid & ~self.releases & ~self.about & (self.beat == 0)
        with m.If(~(shown | self.probed[0]) | answered):
            m.d.sync += waits.eq(0)
        with m.Elif(~(c.valid & ~c.ready) & ~(self.releasing & mine)):
            m.d.sync += waits.eq(waits + 1)
        m.d.comb += Assert(waits <= SOON + self.dut.limit)


class WithoutChannelA(AnswersInTime):
    """After the first acquire no other is taken, for ever, and one always waits: probes are answered as soon."""
    def channel_a(self, m):
        had = Signal()
        m.d.comb += [self.port.a.ready.eq(any_value(m, 1, "a_ready") & ~had), Assume(self.user.acquire.valid)]
        with m.If(self.port.a.valid & self.port.a.ready):
            m.d.sync += had.eq(1)


class AllEnds(OwnerUnderTest):
    """A line ends in each way; a probe meets the release of its line, waits as long as it may, and takes what was edited."""
    def claim(self, m):
        user, c = self.user, self.port.c
        held_for, edited_ = Signal(4), Signal()
        with m.If(user.owned):
            m.d.sync += [held_for.eq(held_for + user.touched), edited_.eq(edited_ | user.edit)]
        m.d.comb += [
            *(Cover(user.ended & (user.end == end) & (edited_ | (end == LineEnd.FAILED))) for end in LineEnd),
            Cover(self.releasing & self.probed.bit_select(self.mine, 1)),
            Cover((held_for == LIMIT + 1) & c.valid & self.gives & self.has_data & ~self.releases),
        ]


BUGS = {
    "the grant is acknowledged twice": ("m.next = \"owned\"", "m.next = \"acknowledge\""),
    "the sink is forgotten": ("self.port.e.payload.sink.eq(answer.sink)", "self.port.e.payload.sink.eq(0)"),
    "the release is not awaited": ("m.next = \"released\"\n", "m.next = \"idle\"\n"),
    "an answer comes between the beats of another": ("self._other.eq(~self._giving)", "self._other.eq(1)"),
    "a probe for the line is answered from nothing": ("ours.eq(self._begun & (probe.address == self._line))", "ours.eq(0)"),
    "a probe that met the release is answered at once": ("ours.eq(self._begun & ", "ours.eq(self.user.owned & "),
    "a probe in the last cycle of a release is lost": ("with m.Elif(~self._waiting & ~self._gone):", "with m.Elif(~self._waiting):"),
    "what was edited leaves twice": ("[self._has.eq(0), self._dirty.eq(0)]", "[self._has.eq(0)]"),
    "what was edited stays here": ("self._dirty.eq(1)", "self._dirty.eq(0)"),
    "what is edited with the release is lost": ("with m.If(user.owned & user.edit):", "with m.If(user.owned & user.edit & ~user.release):"),
    "a line is edited when it has gone": ("user.owned, user.edit, self.port", "user.owned | self._giving, user.edit, self.port"),
    "a corrupt line is owned": ("answer.denied | answer.corrupt | alone", "answer.denied | alone"),
    "what a probe takes is called released": ("self._released.eq(user.release)", "self._released.eq(1)"),
    "a hold has no end": ("~(user.hold & left.any())", "~user.hold"),
    "the timer does not run": ("left.eq(left - 1)", "left.eq(left)"),
    "a probe that met the release is forgotten": (
        "with m.If(self._waiting):\n            m.next = \"give\"", "with m.If(0):\n            m.next = \"give\""),
    "probes wait while an acquire does": ("b.ready.eq(~valid)", "b.ready.eq(~valid & ~self.port.a.valid)"),
    "answers wait while an acquire does": ("c.valid.eq(self._other | self._giving)", "c.valid.eq((self._other & ~self.port.a.valid) | self._giving)"),
    "a probe before the grant waits for it": ("self._begun & (probe.address == self._line)", "(probe.address == self._line)"),
    "nothing is ever lost": ("self._released.eq(user.release)", "self._released.eq(1)"),
}


def bugs(claim, *names):
    """The claim about owners with these bugs."""
    return {name: lambda name=name: claim(small(BUGS[name])) for name in names}


PROOFS = [
    Proof("line_rules", KeepsTheRules.__doc__, KeepsTheRules, "bmc", 17, seconds=600, bugs=bugs(
        KeepsTheRules, "the grant is acknowledged twice", "the sink is forgotten", "the release is not awaited",
        "an answer comes between the beats of another",
        "a probe for the line is answered from nothing", "a probe that met the release is answered at once")),
    Proof("line_edits_leave_once", EditsLeaveOnce.__doc__, EditsLeaveOnce, "bmc", 17, seconds=600, bugs=bugs(
        EditsLeaveOnce, "what was edited leaves twice", "what was edited stays here", "what is edited with the release is lost",
        "a line is edited when it has gone", "a corrupt line is owned", "what a probe takes is called released")),
    Proof("line_answers_in_time", AnswersInTime.__doc__, AnswersInTime, "bmc", 20, seconds=600, bugs=bugs(
        AnswersInTime, "a hold has no end", "the timer does not run", "a probe that met the release is forgotten")),
    Proof("line_without_channel_a", WithoutChannelA.__doc__, WithoutChannelA, "bmc", 20, seconds=600, bugs=bugs(
        WithoutChannelA, "probes wait while an acquire does", "answers wait while an acquire does", "a probe before the grant waits for it")),
    Proof("line_all_ends", AllEnds.__doc__, AllEnds, "cover", 20, fast=True, bugs=bugs(AllEnds, "nothing is ever lost")),
]
