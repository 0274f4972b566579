"""Claims about the flush tracker: nothing is called proven that is not (H03, H46, H64)."""

from amaranth.hdl import Array, Assert, Assume, Cover, Elaboratable, Module, Mux, Signal
from amaranth.lib import data
from rules import any_value, held

from pagehop.tlp.flush import FLUSH_SEQUENCE_BITS, FlushTracker, reached
from pagehop.tlp.headers import CompletionHeader, RequestHeader
from pagehop_sim.formal import Proof
from pagehop_sim.planted import planted

TAGS = 2


def tracker_under_test(m, tracker):
    """The tracker with a host that answers flushes that it has, in any order, well or with an error, and posted writes and requests, insistent or
    not, at any time. Limits are far away."""
    m.submodules.dut = dut = tracker(0, TAGS, 16)
    answer = data.View(CompletionHeader(), dut.completion.payload.header)
    waiting = [Signal(name=f"waiting{tag}") for tag in range(TAGS)]
    tag = any_value(m, 1, "tag")
    m.d.comb += [
        dut.posted.eq(any_value(m, 1, "posted")), dut.request.eq(any_value(m, 1, "request")),
        dut.insist.eq(any_value(m, 1, "insist")), answer.status.eq(any_value(m, 1, "error")), dut.o.ready.eq(any_value(m, 1, "o_ready")),
        dut.limit.eq(-1), dut.completion.valid.eq(any_value(m, 1, "answers")), dut.completion.payload.first.eq(1), dut.completion.payload.last.eq(1),
        answer.tag.eq(0x80 | tag), Assume(~dut.completion.valid | Array(waiting)[tag]),
    ]
    sent = dut.o.valid & dut.o.ready
    request_tag = data.View(RequestHeader(), dut.o.payload.header).tag[0]
    for index in range(TAGS):
        with m.If(sent & (request_tag == index)):
            m.d.sync += waiting[index].eq(1)
        with m.Elif(dut.completion.valid & (tag == index)):
            m.d.sync += waiting[index].eq(0)
    return dut, sent, request_tag, tag


class NeverProvenEarly(Elaboratable):
    """A posted TLP is watched from the cycle of its acceptance. Whoever takes ``target`` in that cycle, or ``issued`` + ``dirty`` in any later
    one, is told that the number is reached only after a flush that was transferred later than the acceptance has been answered. If it insists,
    and takes ``issued`` + 1 also when the last flush was lost, it is told that this one was lost too, or it has been answered well."""
    def __init__(self, tracker=FlushTracker):
        self.tracker = tracker

    def elaborate(self, platform):
        m = Module()
        dut, sent, sent_tag, tag = tracker_under_test(m, self.tracker)
        watching, proven, well, insists = Signal(), Signal(), Signal(), Signal()
        covers = [Signal(name=f"covers{index}") for index in range(TAGS)]
        starts = ~watching & dut.posted & any_value(m, 1, "watch")
        with m.If(starts):
            m.d.sync += watching.eq(1)
        for index, cover in enumerate(covers):
            with m.If(sent & (sent_tag == index)):
                # A flush transferred in the very cycle of the acceptance may stand before it.
                m.d.sync += cover.eq(watching)
        with m.If(dut.completion.valid & Array(covers)[tag]):
            m.d.sync += [proven.eq(1), well.eq(well | (data.View(CompletionHeader(), dut.completion.payload.header).status == 0))]
        taken, number = Signal(), Signal(FLUSH_SEQUENCE_BITS)
        with m.If(~taken & any_value(m, 1, "takes") & (watching | starts)):
            m.d.comb += Assume(dut.request)
            m.d.sync += [
                taken.eq(1), number.eq(Mux(watching, dut.issued + (dut.dirty | (dut.insist & dut.lost)), dut.target)),
                insists.eq(watching & dut.insist),
            ]
        self.claim(m, dut, taken, number, proven, watching)
        self.told(m, dut, taken & insists & reached(dut.done, number, dut.newest), well)
        return m

    def claim(self, m, dut, taken, number, proven, watching):
        with m.If(taken & reached(dut.done, number, dut.newest)):
            m.d.comb += Assert(proven)
        with m.If(watching & dut.clean & ~dut.posted):
            m.d.comb += Assert(proven)

    def told(self, m, dut, ends, well):
        with m.If(ends):
            m.d.comb += Assert(dut.lost | well)


class ProvenAtLast(NeverProvenEarly):
    """A number that was asked for is reached, with two flushes on their way."""
    def claim(self, m, dut, taken, number, proven, watching):
        m.d.comb += Cover(taken & proven & reached(dut.done, number, dut.newest) & (number == 2))


class KeepsStreamRules(Elaboratable):
    """A flush read stays as it is until it is taken, whatever becomes of the address."""
    def __init__(self, tracker=FlushTracker):
        self.tracker = tracker

    def elaborate(self, platform):
        m = Module()
        dut, _, _, _ = tracker_under_test(m, self.tracker)
        m.d.comb += [dut.address.eq(any_value(m, 64, "address")), dut.requester_id.eq(any_value(m, 16, "requester_id"))]
        held(m, dut.o, Assert, "o")
        return m


BUGS = {
    "what is accepted in the cycle of a transfer is covered": (
        "dirty_next.eq(self.posted | (self.dirty & ~self.sent))", "dirty_next.eq((self.posted | self.dirty) & ~self.sent)"),
    "any answer proves all": ("self.done.eq(self.issued - since)", "self.done.eq(self.issued)"),
    "a lost flush is believed": ("self.lost.eq(self.failed | self.timed_out)", "self.lost.eq(0)"),
    "nobody can insist": ("dirty_next | (self.insist & self.lost)", "dirty_next"),
    "what was asked for is forgotten": ("| (pending & ~self.sent))", "| (pending & ~self.sent & self.dirty))"),
    "target forgets this cycle": ("(self.dirty | self.posted) + (self.posted & self.sent)", "self.dirty"),
}


def bugs(claim, *names):
    """The claim about trackers with these bugs."""
    return {name: lambda name=name: claim(planted(FlushTracker, *BUGS[name])) for name in names}


PROOFS = [
    Proof("flush_never_proven_early", NeverProvenEarly.__doc__, NeverProvenEarly, "bmc", 12, fast=True, bugs=bugs(NeverProvenEarly, *BUGS)),
    Proof("flush_proven_at_last", ProvenAtLast.__doc__, ProvenAtLast, "cover", 14, bugs={
        "a number never moves": lambda: ProvenAtLast(planted(FlushTracker, "self.done.eq(self.issued - since)", "self.done.eq(self.done)")),
    }),
    Proof("flush_stream_rules", KeepsStreamRules.__doc__, KeepsStreamRules, "prove", 4, bugs={
        "the address changes while the read waits": lambda: KeepsStreamRules(planted(
            FlushTracker, "with m.If(~self.o.valid | self.o.ready):", "with m.If(1):")),
    }),
]
