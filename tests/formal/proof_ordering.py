"""Claims about the ordering queue: what may not pass does not, what must pass can, nothing stops another lane."""

from amaranth.hdl import Assert, Assume, Cat, Cover, Elaboratable, Module, Mux, Signal
from amaranth.lib import data
from rules import any_constant, any_value, framed, held, past

from pagehop.tlp.fifo import LaneFifo
from pagehop.tlp.ordering import POSTED, OrderingQueue, may_go
from pagehop_sim.formal import Proof
from pagehop_sim.planted import planted

DEPTHS = (4, 2, 2)
LANES = range(len(DEPTHS))
INFO = data.StructLayout({"serial": 1})
COUNT = 4   # bits of ghost counters; more than the queue can hold


def head_may_go(m, queue, lane):
    """As an owner decides a cycle ahead: any head when none stands before it, this one while it stays."""
    head, go = queue.o[lane], Signal(name=f"may_go{lane}")
    m.d.sync += go.eq(queue.none_older | (head.valid & ~head.ready & may_go(head.payload.stamp, queue.posted)))
    return go


def queue_under_test(m, queue):
    """The queue with TLPs of any length on ``i`` and any owner behind it that keeps the rules.

    The owner takes what it likes of the posted lane and what may go of the others, and reports posted TLPs as left at some time after it took
    their last beat.
    Headers and data carry no rule of this component, so they are 0 and ``info`` tells the beats apart.
    """
    m.submodules.dut = dut = queue(16, INFO, DEPTHS)
    payload = dut.i.payload
    m.d.comb += [
        dut.i.valid.eq(any_value(m, 1, "i_valid")), payload.info.serial.eq(any_value(m, 1, "serial")),
        payload.lane.eq(any_value(m, 2, "lane")), payload.beat.first.eq(any_value(m, 1, "first")), payload.beat.last.eq(any_value(m, 1, "last")),
        Assume(payload.lane < len(DEPTHS)),
    ]
    held(m, dut.i, Assume, "i")
    inside = framed(m, dut.i, payload.beat, Assume, "i")
    lane = Signal(len(payload.lane))
    with m.If(dut.i.valid & dut.i.ready):
        m.d.sync += lane.eq(payload.lane)
    with m.If(inside & dut.i.valid):
        m.d.comb += Assume(payload.lane == lane)
    wants = any_value(m, len(DEPTHS), "wants")
    allowed = [1 if index == POSTED else head_may_go(m, dut, index) for index in LANES]
    for index, head in enumerate(dut.o):
        # A TLP that has begun to leave goes on leaving.
        begun = Signal(name=f"begun{index}")
        with m.If(head.valid & head.ready):
            m.d.sync += begun.eq(~head.payload.beat.last)
        m.d.comb += head.ready.eq(wants[index] & (allowed[index] | begun))
    taken = dut.o[POSTED].valid & dut.o[POSTED].ready & dut.o[POSTED].payload.beat.last
    pending = Signal(COUNT)
    m.d.sync += pending.eq(pending + taken - dut.posted_left)
    m.d.comb += [dut.posted_left.eq(any_value(m, 1, "left")), Assume(~dut.posted_left | (pending != 0))]
    return dut, allowed


class Watched(Elaboratable):
    """Any one TLP that is not posted is watched from its acceptance: the posted TLPs before it are counted, and the beats of its lane before it."""
    def __init__(self, queue=OrderingQueue):
        self.queue = queue

    def elaborate(self, platform):
        m = Module()
        dut, allowed = queue_under_test(m, self.queue)
        lane = any_constant(m, 2, "watched_lane")
        m.d.comb += [Assume(lane != POSTED), Assume(lane < len(DEPTHS))]
        accepted = dut.i.valid & dut.i.ready
        enters = [accepted & (dut.i.payload.lane == index) for index in LANES]
        leaves = [head.valid & head.ready for head in dut.o]
        inside = Signal(COUNT)    # beats in the watched lane
        posted = Signal(COUNT)    # posted TLPs accepted and not left
        m.d.sync += [
            inside.eq(inside + Cat(enters).bit_select(lane, 1) - Cat(leaves).bit_select(lane, 1)),
            posted.eq(posted + (enters[POSTED] & dut.i.payload.beat.first) - dut.posted_left),
        ]
        watching, place, before = Signal(), Signal(COUNT), Signal(COUNT)
        left_lane = Cat(leaves).bit_select(lane, 1)
        with m.If(~watching & Cat(enters).bit_select(lane, 1) & dut.i.payload.beat.first & any_value(m, 1, "watch")):
            m.d.sync += [watching.eq(1), place.eq(inside - left_lane), before.eq(posted - dut.posted_left)]
        with m.Elif(watching):
            m.d.sync += before.eq(before - (dut.posted_left & (before != 0)))
            with m.If(left_lane):
                m.d.sync += [place.eq(place - 1), watching.eq(place != 0)]
        at_head = Signal()
        m.d.comb += at_head.eq(watching & (place == 0) & Cat(head.valid for head in dut.o).bit_select(lane, 1))
        self.claim(m, at_head, before, Cat(allowed).bit_select(lane, 1), dut, left_lane)
        return m


class NothingPassesPosted(Watched):
    """A head may go only when every posted TLP accepted before it has left (table 2-40, O1, O3)."""
    def claim(self, m, at_head, before, allowed, dut, left):
        with m.If(at_head):
            m.d.comb += Assert(~allowed | (before == 0))


class NothingWaitsForNothing(Watched):
    """A head may go at the latest two cycles after the last posted TLP that was accepted before it has left."""
    def claim(self, m, at_head, before, allowed, dut, left):
        waits = Signal(2)
        m.d.sync += waits.eq(Mux(at_head & ~allowed & (before == 0), waits + 1, 0))
        m.d.comb += Assert(waits <= 2)


class WaitsAndGoes(Watched):
    """A watched TLP waits for two posted ones, then leaves."""
    def claim(self, m, at_head, before, allowed, dut, left):
        waited = Signal()
        with m.If(at_head & (before == 2)):
            m.d.sync += waited.eq(1)
        m.d.comb += Cover(waited & at_head & left & (before == 0))


class OthersProgress(Elaboratable):
    """With one lane never served, whatever comes into another lane with room is offered within three cycles, and is accepted."""
    def __init__(self, queue=OrderingQueue):
        self.queue = queue

    def elaborate(self, platform):
        m = Module()
        dut, _ = queue_under_test(m, self.queue)
        stuck = any_constant(m, 2, "stuck")
        m.d.comb += [Assume(stuck != POSTED), Assume(stuck < len(DEPTHS))]
        for index, head in enumerate(dut.o):
            with m.If(stuck == index):
                m.d.comb += Assume(~(head.valid & head.ready))
            inside = Signal(COUNT, name=f"inside{index}")
            m.d.sync += inside.eq(inside + (dut.i.valid & dut.i.ready & (dut.i.payload.lane == index)) - (head.valid & head.ready))
            waits = Signal(3, name=f"waits{index}")
            m.d.sync += waits.eq(Mux((inside != 0) & ~head.valid, waits + 1, 0))
            m.d.comb += Assert(waits <= 2)
            with m.If(dut.i.valid & (dut.i.payload.lane == index) & (past(m, inside, f"inside{index}") < DEPTHS[index] - 1)):
                m.d.comb += Assert(dut.i.ready)
        return m


class KeepsStreamRules(Elaboratable):
    """Each lane keeps what it offers until it is taken."""
    def __init__(self, queue=OrderingQueue):
        self.queue = queue

    def elaborate(self, platform):
        m = Module()
        dut, _ = queue_under_test(m, self.queue)
        for index, head in enumerate(dut.o):
            held(m, head, Assert, f"o{index}")
        return m


BUGS = {
    "the stamp is taken one TLP early": (
        "self._lane(m, lane, depth, 0 if lane == POSTED else stamp)", "self._lane(m, lane, depth, 0 if lane == POSTED else stamp - 1)"),
    "the stamp is taken one TLP late": (
        "self._lane(m, lane, depth, 0 if lane == POSTED else stamp)", "self._lane(m, lane, depth, 0 if lane == POSTED else stamp + 1)"),
    "posted TLPs leave uncounted": ("self.posted.left.eq(self.posted.left + self.posted_left)", "self.posted.left.eq(self.posted.left)"),
    "every beat of a posted TLP is counted": ("self.free[POSTED] & self.i.payload.beat.first & (", "self.free[POSTED] & ("),
    "a posted TLP that enters as another leaves is not counted": ("enters != self.posted_left", "enters | self.posted_left"),
    "only posted TLPs are offered": ("self.o[lane].valid.eq(fifo.o.valid)", "self.o[lane].valid.eq(fifo.o.valid & (lane == POSTED))"),
    "one full lane stops all": ("self.i.ready.eq(self.free.bit_select(self.i.payload.lane, 1))", "self.i.ready.eq(self.free.all())"),
}


def bugs(claim, *names):
    """The claim about queues with these bugs."""
    return {name: lambda name=name: claim(planted(OrderingQueue, *BUGS[name])) for name in names}


def restless():
    """A queue whose lanes show the next item though this one was not taken."""
    return planted(OrderingQueue, "", "", LaneFifo=planted(LaneFifo, "take.eq(self.o.valid & self.o.ready)", "take.eq(self.o.valid)"))


PROOFS = [
    Proof("ordering_nothing_passes_posted", NothingPassesPosted.__doc__, NothingPassesPosted, "bmc", 9, fast=True, bugs=bugs(
        NothingPassesPosted, "the stamp is taken one TLP early", "a posted TLP that enters as another leaves is not counted")),
    Proof("ordering_nothing_waits_for_nothing", NothingWaitsForNothing.__doc__, NothingWaitsForNothing, "bmc", 9, bugs=bugs(
        NothingWaitsForNothing, "the stamp is taken one TLP late", "posted TLPs leave uncounted", "every beat of a posted TLP is counted")),
    Proof("ordering_others_progress", OthersProgress.__doc__, OthersProgress, "bmc", 9, fast=True, bugs=bugs(
        OthersProgress, "one full lane stops all")),
    Proof("ordering_stream_rules", KeepsStreamRules.__doc__, KeepsStreamRules, "bmc", 9, bugs={
        "a lane goes on while it waits": lambda: KeepsStreamRules(restless()),
    }),
    Proof("ordering_waits_and_goes", WaitsAndGoes.__doc__, WaitsAndGoes, "cover", 10, bugs=bugs(WaitsAndGoes, "only posted TLPs are offered")),
]
