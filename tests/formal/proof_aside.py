"""Claims about posted TLPs that are aside: nothing passes one that it may not pass (table 2-40, O1, H24d). Every TLP has one beat."""

from dataclasses import dataclass

from amaranth.hdl import Assert, Assume, Cover, Elaboratable, Module, Signal, Value
from rules import any_constant, any_value, held, past

from pagehop.interposer.aside_order import AsideOrder
from pagehop.interposer.earlier import Earlier
from pagehop.interposer.layouts import DeviceInfo, Source
from pagehop.interposer.posted_lane import PostedLane
from pagehop.tlp.ordering import Ahead, LaneBeat
from pagehop_sim.formal import Proof
from pagehop_sim.planted import planted

STAMP_BITS, DEPTH, COUNT = 5, 8, 4   # the last: bits of ghost counters
PAGES = 2


def few_sources(m, name, any_of=any_value):
    """A source out of a few requesters and groups."""
    source = Signal(Source, name=name)
    m.d.comb += [
        source.requester_id.eq(any_of(m, 2, f"{name}_id")), source.traffic_class.eq(any_of(m, 1, f"{name}_class")),
        source.id_ordering.eq(any_of(m, 1, f"{name}_ido")), source.group.eq(any_of(m, 1, f"{name}_group")),
    ]
    return source


@dataclass
class Steps:
    """What becomes of posted TLPs in this cycle: one comes, one leaves its lane, and that goes aside; one that is aside goes through the gate."""
    comes: Value
    ends: Value
    enters: Value
    leaves: Value


class Ghost:
    """One posted TLP, of the ``source`` that the one has which comes. ``waits``: it has come and not gone through the gate. ``now``: it leaves its
    lane in this cycle."""
    def __init__(self, m, steps, source, name):
        self.source, self.waits, self.now, self.seen = (
            Signal(Source, name=f"{name}_source"), Signal(name=f"{name}_waits"), Signal(name=f"{name}_now"), Signal(name=f"{name}_seen"))
        lane, aside = Signal(name=f"{name}_lane"), Signal(name=f"{name}_aside")
        queued, inside, before = (Signal(COUNT, name=f"{name}_{what}") for what in ("queued", "inside", "before"))
        m.d.sync += [queued.eq(queued + steps.comes - steps.ends), inside.eq(inside + steps.enters - steps.leaves)]
        m.d.comb += [self.now.eq(lane & (before == 0) & steps.ends), self.waits.eq(lane | aside)]
        with m.If(steps.comes & ~self.seen & any_value(m, 1, f"{name}_is_it")):
            m.d.sync += [self.source.eq(source), self.seen.eq(1), lane.eq(1), before.eq(queued - steps.ends)]
        with m.If(lane & steps.ends):
            m.d.sync += before.eq(before - 1)
        with m.If(self.now):
            m.d.sync += [lane.eq(0), aside.eq(steps.enters), before.eq(inside - steps.leaves)]
        with m.Elif(aside & steps.leaves):
            m.d.sync += [before.eq(before - 1), aside.eq(before != 0)]


def leaving(m, enters):
    """One that is aside goes through the gate, no sooner than it can come out of its queue."""
    inside, settled = Signal(COUNT, name="ghost_inside"), Signal(COUNT, name="ghost_settled")
    leaves = any_value(m, 1, "leaves")
    m.d.sync += [inside.eq(inside + enters - leaves), settled.eq(inside - leaves)]
    m.d.comb += [Assume(~leaves | (settled != 0)), Assume(inside < DEPTH - 1)]
    return leaves


class RequestsWait(Elaboratable):
    """A request or completion is told to wait while a posted TLP that came before it, and that it may not pass, is in its lane or aside; and no
    posted TLP counts as gone before it has."""
    def __init__(self, order=AsideOrder, earlier=Earlier, passes=False):
        self.order, self.earlier, self.passes = order, earlier, passes

    def elaborate(self, platform):
        m = Module()
        m.submodules.order = order = self.order(STAMP_BITS, DEPTH)
        m.submodules.earlier = earlier = self.earlier(Ahead(DeviceInfo(PAGES, 2), STAMP_BITS))
        comes, ends, aside = any_value(m, 1, "comes"), any_value(m, 1, "ends"), any_value(m, 1, "aside")
        queued, pulse = Signal(COUNT), Signal()
        steps = Steps(comes, ends, ends & aside, leaving(m, ends & aside))
        source = few_sources(m, "source")
        # The lane is in order; the ordering queue counts a TLP that leaves it as the ingress does, two cycles later.
        came = Signal(Source, name="came")
        m.submodules.sources = memory = _Sources(steps)
        m.d.comb += [memory.comes.eq(comes), memory.ends.eq(ends), memory.source.eq(source), came.eq(memory.oldest)]
        m.d.sync += [
            queued.eq(queued + comes - ends), pulse.eq(ends),
            earlier.posted.left.eq(earlier.posted.left + pulse), earlier.posted.waiting.eq(earlier.posted.waiting + comes - pulse),
            order.accepted.eq(order.accepted + comes),
        ]
        m.d.comb += [
            Assume(~ends | (queued != 0)), Assume(queued < DEPTH - 1),
            order.ended.eq(ends), order.enters.eq(steps.enters), order.source.eq(came), order.leaves.eq(steps.leaves),
            order.left.eq(earlier.posted.left), earlier.through.eq(order.posted), earlier.standing.eq(order.standing),
        ]
        ghost = Ghost(m, steps, source, "watched")
        # A request comes when the watched TLP has; it is looked up again and again.
        request, stamp, after = few_sources(m, "request", any_constant), Signal(STAMP_BITS), Signal()
        with m.If(ghost.seen & ~after & any_value(m, 1, "request_comes")):
            m.d.sync += [after.eq(1), stamp.eq(order.accepted)]
        m.d.comb += [earlier.looked.info.source.eq(request), earlier.looked.stamp.eq(stamp)]
        number, gone = Signal(STAMP_BITS), Signal(STAMP_BITS)   # TLPs before the watched one, and how many more count as gone
        with m.If(~ghost.seen):
            m.d.sync += number.eq(order.accepted)
        m.d.comb += gone.eq(order.posted.left - number)
        with m.If(ghost.waits):
            m.d.comb += Assert((gone == 0) | gone[-1])
        looked, waited = past(m, after, "looked"), past(m, ghost.waits, "waited")
        if self.passes:
            m.d.comb += Cover(looked & earlier.gone & ghost.waits & waited)
        else:
            with m.If(looked & ghost.waits & ~request.may_pass(ghost.source)):
                m.d.comb += Assert(~earlier.gone)
        return m


class _Sources(Elaboratable):
    """Sources of the posted TLPs that are in the lane, in order."""
    def __init__(self, steps):
        self.comes, self.ends, self.source, self.oldest = Signal(), Signal(), Signal(Source, name="newest"), Signal(Source, name="oldest")

    def elaborate(self, platform):
        m = Module()
        places, count = [Signal(Source, name=f"place_{n}") for n in range(DEPTH)], Signal(COUNT)
        m.d.comb += self.oldest.eq(places[0])
        m.d.sync += count.eq(count + self.comes - self.ends)
        for number, place in enumerate(places):
            with m.If(self.comes & (count - self.ends == number)):
                m.d.sync += place.eq(self.source)
            with m.Elif(self.ends):
                m.d.sync += place.eq(places[number + 1] if number + 1 < DEPTH else place)
        return m


class WritesWait(Elaboratable):
    """A posted TLP is not offered to the gate while one that came before it, and that it may not pass, is aside."""
    def __init__(self, lane=PostedLane, order=AsideOrder, passes=False):
        self.lane, self.order, self.passes = lane, order, passes

    def elaborate(self, platform):
        m = Module()
        info = DeviceInfo(PAGES, 2)
        m.submodules.dut = dut = self.lane(16, LaneBeat(16, info, STAMP_BITS), Ahead(info, STAMP_BITS), PAGES)
        m.submodules.order = order = self.order(STAMP_BITS, DEPTH)
        head, ahead, guard = dut.i.payload, dut.ahead.payload, dut.guard[0]
        source = few_sources(m, "source")
        comes, put = dut.ahead.valid & dut.ahead.ready, dut.aside.valid & dut.aside.ready
        beats = Signal(COUNT)
        m.d.comb += [
            dut.ahead.valid.eq(any_value(m, 1, "ahead_valid")), ahead.info.page.eq(any_value(m, 1, "page")),
            ahead.info.mapped.eq(any_value(m, 1, "mapped")), ahead.info.source.eq(source),
            head.beat.first.eq(1), head.beat.last.eq(1), dut.i.valid.eq(beats != 0),
            dut.offer.ready.eq(any_value(m, 1, "offer_ready") & dut.offer.valid), dut.aside.ready.eq(any_value(m, 1, "aside_ready")),
            dut.owner_bit.eq(any_value(m, 1, "owner")), dut.room.eq(any_value(m, 2, "room")), dut.proven.eq(any_value(m, 2, "proven")),
            guard.active.eq(1), guard.closed.eq(any_value(m, 1, "closed")), dut.standing.eq(order.standing),
            order.ended.eq(dut.i.valid & dut.i.ready), order.enters.eq(put), order.source.eq(dut.aside.payload.ahead.info.source),
            order.leaves.eq(leaving(m, put)),
        ]
        held(m, dut.ahead, Assume, "ahead")
        steps = Steps(comes, order.ended, put, order.leaves)
        m.d.sync += beats.eq(beats + comes - order.ended)
        first, second = Ghost(m, steps, source, "first"), Ghost(m, steps, source, "second")
        late = Signal()   # the second came after the first
        with m.If(first.seen & ~second.seen):
            m.d.sync += late.eq(1)
        passed = late & second.now & ~put & first.waits
        if self.passes:
            m.d.comb += Cover(passed)
        else:
            m.d.comb += Assert(~passed | second.source.may_pass(first.source))
        return m




PROOFS = [
    Proof("aside_requests_wait", RequestsWait.__doc__, RequestsWait, "bmc", 11, seconds=600, bugs={
        "what has left its lane has gone": lambda: RequestsWait(earlier=planted(
            Earlier, "may_go(stamp, self.through)", "may_go(stamp, self.posted)")),
        "a source is forgotten too early": lambda: RequestsWait(order=planted(AsideOrder, "(count != goes)", "((count != goes) & (count != 1))")),
        "IDO passes its own": lambda: RequestsWait(earlier=planted(Earlier, "~(ordered | same.id.all())", "~ordered")),
        "what is aside counts as gone": lambda: RequestsWait(order=planted(
            AsideOrder, "oldest.payload.number, self.posted.left)", "self.left, self.left)")),
    }),
    Proof("aside_requests_pass", "A request is told to go while a posted TLP that it may pass is aside.",
          lambda: RequestsWait(passes=True), "cover", 10, bugs={
              "nothing passes": lambda: RequestsWait(earlier=planted(Earlier, "(left & free)", "0"), passes=True)}),
    Proof("aside_writes_wait", WritesWait.__doc__, WritesWait, "bmc", 10, seconds=600, bugs={
        "what went aside last is not seen": lambda: WritesWait(planted(
            PostedLane, "go & proven & ~settles, ~goes_aside", "go & proven, ~goes_aside")),
        "a source is forgotten too early": lambda: WritesWait(order=planted(AsideOrder, "(count != goes)", "((count != goes) & (count != 1))")),
    }),
    Proof("aside_writes_pass", "A posted TLP leaves while one that it may pass is aside.", lambda: WritesWait(passes=True), "cover", 9, bugs={
        "nothing passes": lambda: WritesWait(planted(PostedLane, "~page.closed & passes &", "~page.closed & 0 &"), passes=True),
    }),
]
