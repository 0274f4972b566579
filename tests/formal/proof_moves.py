"""Claims about the page slot and the gates that it closes: nothing is in flight at a commit, every hold ends, nothing undoes a commit.

The slot stands in an environment that may do anything that the contracts of its neighbours allow: issue registers as they are, the outstanding table,
the copy engine and the flush tracker as their docstrings say.
"""


from amaranth.hdl import Assert, Assume, Cat, Cover, Elaboratable, Module, Mux, Signal
from amaranth.lib import data
from rules import any_constant, any_value, framed, held, past

from pagehop.interposer.epoch_wait import EpochWait
from pagehop.interposer.layouts import DeviceInfo
from pagehop.interposer.move_check import MoveError, MoveMode
from pagehop.interposer.posted_lane import PostedLane
from pagehop.interposer.request_lane import RequestLane
from pagehop.interposer.slot import SEEN_CYCLES, MovePhase, PageSlot
from pagehop.tlp.flush import FLUSH_SEQUENCE_BITS
from pagehop.tlp.issue import IssueRegister
from pagehop.tlp.ordering import Ahead, LaneBeat
from pagehop_sim.formal import Proof
from pagehop_sim.planted import edited, planted

PAGES = 64
STAMP_BITS = 4
PENDING = (MovePhase.GATE, MovePhase.COPY, MovePhase.FLUSH, MovePhase.COMMIT, MovePhase.HOST)
COMMITTED = (MovePhase.DRAIN, MovePhase.SETTLE, MovePhase.RETIRE)

#: Cycles that a page is held beyond the limit: one to notice, one to open.
BEYOND_LIMIT = 2

#: A TLP as far as an issue register looks at it, and whether it is the one that is watched.
GHOST = data.StructLayout({"beat": data.StructLayout({"first": 1, "last": 1}), "lane": 2, "watched": 1})


def slot_with(*change):
    """The slot with this change of its source."""
    return edited(PageSlot, change) if change else PageSlot


class AnyMoves(Elaboratable):
    """The slot with every input free; its neighbours come with the claims."""
    def __init__(self, slot=None):
        self.slot = slot_with() if slot is None else slot

    def elaborate(self, platform):
        m = Module()
        m.submodules.dut = dut = self.slot(PAGES, STAMP_BITS)
        for name in ("start", "answer", "copy_outstanding", "copy_owed", "posted_accepted", "posted_left", "room"):
            m.d.comb += getattr(dut, name).eq(any_value(m, len(getattr(dut, name)), name))
        m.d.comb += [
            dut.request.to_host.eq(any_value(m, 1, "to_host")), dut.owner_op.ready.eq(any_value(m, 1, "owner_ready")),
            dut.verdict.error.eq(any_constant(m, 4, "check_error")), dut.verdict.page.eq(any_constant(m, 6, "check_page")),
            dut.verdict.far.eq(any_constant(m, 1, "far")), dut.request.source.eq(any_constant(m, 1, "near") << 12),
            dut.request.mode.eq(self.mode(m)), dut.copied.eq(any_value(m, 1, "copied")),
        ]
        self.stops(m, dut)
        self.neighbours(m, dut)
        self.claim(m, dut)
        return m

    def mode(self, m):
        """Of the moves that are asked for."""
        return any_value(m, 2, "mode")

    def stops(self, m, dut):
        """All that ends a move before its commit, but for a lost flush."""
        m.d.comb += [
            dut.abort.eq(any_value(m, 1, "abort")), dut.copy_error.eq(any_value(m, 4, "copy_error")),
            dut.hold_limit.eq(any_constant(m, 32, "hold_limit")),
        ]
        for host in range(2):
            m.d.comb += [
                dut.cross_write[host].eq(any_value(m, 1, f"cross{host}")), dut.cross_address[host].eq(any_value(m, 1, f"cross_page{host}") << 12),
            ]

    def modes_differ(self, dut):
        """Before the commit a page is either held, or absorbs what is written and is held at the turn of its owner only. A large page is held on
        while the owner bits of its units flip."""
        pending, flips = is_one_of(dut.status.phase, PENDING), dut.guard.committed & (dut.status.phase == MovePhase.COMMIT)
        return (Assert(~dut.guard.absorbs | (pending & dut.guard.active)), Assert(~pending | dut.guard.closed | dut.guard.absorbs),
                Assert(~pending | ~dut.guard.committed | flips), Assert(~pending | dut.guard.active),
                Assert(~flips | dut.owner_op.valid), Assert((dut.status.phase != MovePhase.COMMIT) | dut.guard.closed),
                Assert(~dut.guard.closed | (dut.guard.active & (~dut.guard.committed | flips))),
                Assert(~(dut.guard.closed & dut.guard.absorbs) | (dut.status.phase == MovePhase.COMMIT)))

    def neighbours(self, m, dut):
        """Whatever the slot waits for, without any contract."""
        self.gate(m, dut)
        self.copy(m, dut)

    def gate(self, m, dut):
        """The device's issue register and the outstanding table."""
        for name in ("issue_entered", "issue_accepted"):
            m.d.comb += getattr(dut, name).eq(any_value(m, len(getattr(dut, name)), name))
        m.d.comb += dut.epochs.eq(any_value(m, dut.epochs.shape(), "epochs"))

    def destination(self, m, dut, local):
        """The counts of the destination's local source are those of ``local``, the other host's are any."""
        for host in range(2):
            here = dut.to_host == host
            m.d.comb += [
                dut.local_entered[host].eq(Mux(here, local.entered, any_value(m, 4, f"other_entered{host}"))),
                dut.local_accepted[host].eq(Mux(here, local.accepted, any_value(m, 4, f"other_accepted{host}"))),
            ]

    def copy(self, m, dut):
        """The copy engine, the destination's local source and the flush trackers."""
        for name in ("written", "fetched", "stale", "prepared", "absorbed"):
            m.d.comb += getattr(dut, f"copy_{name}").eq(any_value(m, 1, f"copy_{name}"))
        for name in ("local_entered", "local_accepted", "flush_lost"):
            m.d.comb += [port.eq(any_value(m, len(port), f"{name}{host}")) for host, port in enumerate(getattr(dut, name))]
        for host, view in enumerate(dut.flush):
            m.d.comb += view.eq(any_value(m, view.shape(), f"flush{host}"))


def without_delay(dut):
    """A move begins as soon as it can, and its check takes a cycle."""
    return [Assume(dut.start & dut.answer & ~dut.copy_owed & (dut.verdict.error == MoveError.NONE))]


def nothing_to_flush(dut):
    """Trackers that have proven everything."""
    return [one for view in dut.flush for one in (view.issued.eq(1), view.done.eq(1), view.newest.eq(1), view.clean.eq(1))]


def is_one_of(phase, phases):
    return sum(phase == one for one in phases) != 0


class HoldEnds(AnyMoves):
    """Whatever the neighbours do, a page is held for no more than two cycles beyond the limit, and only between the gate and the commit, or the last
    flip of its owner bits."""
    def claim(self, m, dut):
        m.d.comb += [
            Assert(~dut.guard.closed | is_one_of(dut.status.phase, PENDING)), *self.modes_differ(dut),
        ]
        cycles, expired = Signal(32), past(m, dut.status.hold >= dut.hold_limit, "expired")
        m.d.comb += Assume(dut.hold_limit < 1 << 31)
        m.d.sync += cycles.eq(Mux(dut.guard.closed, cycles + 1, 0))
        with m.If(dut.guard.closed & ~dut.guard.committed):
            # Induction also begins with counts that were left by nothing; those end the hold at once.
            m.d.comb += [Assert((dut.status.hold >= cycles) | expired), Assert(cycles <= dut.hold_limit + BEYOND_LIMIT - 1)]


class CommitIsFinal(AnyMoves):
    """After a commit nothing stops the move, holds the page again or takes the page back, and the move ends well; without a commit it does not."""
    def claim(self, m, dut):
        moved = Signal()
        with m.If(dut.committed):
            m.d.sync += moved.eq(1)
        with m.Elif(dut.ended):
            m.d.sync += moved.eq(0)
        m.d.comb += [
            Assert(moved == dut.guard.committed), Assert((moved & ~dut.guard.closed) == is_one_of(dut.status.phase, COMMITTED)),
            Assert(~dut.committed | ~moved | dut.guard.closed), Assert(~dut.committed | (dut.owner_op.valid & dut.owner_op.ready)),
            Assert(~moved | (~dut.copy_stop & (dut.owner_op.valid == dut.guard.closed) & dut.guard.active)),
            Assert(~dut.guard.closed | is_one_of(dut.status.phase, PENDING)),
            Assert(dut.guard.active == (is_one_of(dut.status.phase, PENDING) | dut.guard.committed)), *self.modes_differ(dut),
            Assert(~dut.ended | (moved == (dut.status.phase == MovePhase.RETIRE))),
        ]
        ended_well, ended = past(m, dut.ended & moved, "ended_well"), past(m, dut.ended, "ended")
        with m.If(ended):
            m.d.comb += [Assert(dut.status.done | ~ended_well), Assert(dut.status.failed | ended_well), Assert(~dut.guard.active)]


class RunIsWhole(AnyMoves):
    """The owner bits of a large page, here the first of the window, flip one after the other, each once, all of them with the gate closed, and it
    opens when all have."""
    def claim(self, m, dut):
        mask, verdict, flips, unit = dut.guard.mask, dut.verdict, Signal(7), dut.owner_op.payload.index
        is_mask, ends = ((verdict.mask + 1) & verdict.mask) == 0, is_one_of(dut.status.phase, (MovePhase.FLUSH, MovePhase.COMMIT))
        m.d.comb += [
            verdict.mask.eq(any_constant(m, 6, "mask")), Assume(is_mask & (verdict.page == 0)),
            Assert(dut.guard.page == 0), Assert(((mask + 1) & mask) == 0), Assert((unit & ~mask) == 0),
            Assert(~dut.checks | (unit == 0)), Assert(~ends | dut.guard.committed | (unit == 0)), *self.modes_differ(dut),
            Assert(dut.guard.committed | (flips == 0)), Assert(~is_one_of(dut.status.phase, COMMITTED) | (flips == mask + 1)),
            Assert(~(dut.guard.committed & dut.guard.closed) | ((flips == unit) & (unit != 0))),
            Assert(~dut.guard.committed | is_one_of(dut.status.phase, (*COMMITTED, MovePhase.COMMIT))),
            Assert(dut.guard.active | ~dut.guard.committed), Assert(~dut.guard.closed | is_one_of(dut.status.phase, PENDING)),
        ]
        m.d.sync += flips.eq(Mux(dut.ended, 0, flips + dut.committed))


class PairIsWhole(RunIsWhole):
    """The same of pages of two units in hold mode, from reset, when nothing takes longer than it must but the owner map."""
    def mode(self, m):
        return MoveMode.HOLD.value

    def claim(self, m, dut):
        super().claim(m, dut)
        m.d.comb += [Assume(dut.verdict.mask == 1), *without_delay(dut), Assert(~dut.committed | dut.guard.closed)]

    def gate(self, m, dut):
        m.d.comb += dut.epochs.advance_ready.eq(1)

    def copy(self, m, dut):
        m.d.comb += [dut.copy_written.eq(1), *nothing_to_flush(dut)]


class Unhindered(AnyMoves):
    """Moves in hold mode that nothing stops but a lost flush: what stops them comes before a commit and is looked at by itself."""
    def mode(self, m):
        return MoveMode.HOLD.value

    def stops(self, m, dut):
        m.d.comb += dut.hold_limit.eq(-1)


class NothingInFlight(Unhindered):
    """At a commit the page has been held since before the copy began, and whatever had passed the gate had been accepted by the source's egress
    then, or answered if it was an atomic."""
    def gate(self, m, dut):
        """The device's issue register with any TLPs; one of them, a write or an atomic to the page that moves, is watched."""
        m.submodules.issue = issue = IssueRegister(GHOST)
        taken = issue.i.valid & issue.i.ready
        watching, atomic = Signal(), any_constant(m, 1, "atomic")
        may_pass = ~(dut.guard.closed & past(m, dut.guard.closed, "closed"))   # what the claim GateHolds says of the lanes
        m.d.comb += [
            issue.i.valid.eq(any_value(m, 1, "issue_valid")), issue.o.ready.eq(any_value(m, 1, "issue_ready")),
            issue.i.payload.beat.first.eq(any_value(m, 1, "issue_first")), issue.i.payload.beat.last.eq(any_value(m, 1, "issue_last")),
            issue.i.payload.watched.eq(issue.i.payload.beat.first & ~watching & may_pass & any_value(m, 1, "watch")),
            dut.issue_entered.eq(issue.entered), dut.issue_accepted.eq(issue.accepted),
        ]
        framed(m, issue.i, issue.i.payload.beat, Assume, "issue")
        ends, accepted, answered = Signal(), Signal(), Signal()
        m.d.comb += ends.eq(issue.o.valid & issue.o.ready & issue.o.payload.beat.last)
        reaches = Signal()   # the watched TLP is leaving the register
        with m.If(taken & issue.i.payload.watched):
            m.d.sync += watching.eq(1)
        inside = Signal()
        with m.If(issue.o.valid & issue.o.ready):
            m.d.sync += inside.eq((inside | issue.o.payload.watched) & ~issue.o.payload.beat.last)
        m.d.comb += reaches.eq(ends & (inside | issue.o.payload.watched))
        allocated = Signal()
        m.d.sync += [accepted.eq(accepted | reaches), allocated.eq(allocated | (issue.o.valid & issue.o.ready & issue.o.payload.watched))]
        self._table(m, dut, atomic & (allocated | (issue.o.valid & issue.o.ready & issue.o.payload.watched)), answered)
        self.done = Signal()
        self.watching = watching
        m.d.comb += self.done.eq(accepted & (~atomic | answered))

    def _table(self, m, dut, asked, answered):
        """Epochs of the outstanding table: the atomic shows in the bit of its own from the third cycle after its allocation until it is answered."""
        advance, epochs, epoch, own, known = Signal(), dut.epochs, Signal(2), Signal(2), Signal(3)
        was_asked = past(m, asked, "asked")
        unanswered = known[0] & ~answered
        m.d.comb += [
            epochs.epoch.eq(epoch), advance.eq((dut.advance | any_value(m, 1, "other_advance")) & epochs.advance_ready),
            epochs.advance_ready.eq(any_value(m, 1, "advance_ready") & ~(unanswered & ((epoch + 1)[:2] == own))),
            epochs.atomics.eq(any_value(m, 4, "atomics") | Mux(unanswered & known[2], 1 << own, 0)),
        ]
        with m.If(~known[0]):
            m.d.sync += own.eq(epoch)   # that of the cycle of the allocation, the one after `asked`
        m.d.sync += [epoch.eq(epoch + advance), known.eq(Cat(was_asked, known)), answered.eq(answered | (was_asked & any_value(m, 1, "answers")))]

    def claim(self, m, dut):
        before_copy, held_since = Signal(), Signal()
        with m.If(dut.copy_start):
            m.d.sync += [before_copy.eq(~self.watching | self.done), held_since.eq(1)]
        with m.Elif(~dut.guard.closed):
            m.d.sync += held_since.eq(0)
        with m.If(dut.committed):
            m.d.comb += [Assert(dut.guard.closed & held_since & before_copy), Assert(~self.watching | self.done)]


class CopyIsVisible(Unhindered):
    """At a commit the copy is whole, and a flush that was answered, not given up, has proven its writes visible at the destination."""
    def copy(self, m, dut):
        """The copy engine: one write of each copy is watched through the destination's local source and flush tracker."""
        m.submodules.local = local = IssueRegister(GHOST)
        watched, entered, accepted, copying = Signal(), Signal(), Signal(), Signal()
        payload = local.i.payload
        m.d.comb += [
            local.i.valid.eq(any_value(m, 1, "local_valid")), local.o.ready.eq(any_value(m, 1, "local_ready")),
            payload.beat.first.eq(any_value(m, 1, "local_first")), payload.beat.last.eq(any_value(m, 1, "local_last")),
            payload.watched.eq(copying & ~entered & payload.beat.first & payload.beat.last & any_value(m, 1, "watch_copy")),
            watched.eq(local.i.valid & local.i.ready & payload.watched),
        ]
        framed(m, local.i, payload.beat, Assume, "local")
        leaves = local.o.valid & local.o.ready
        m.d.sync += [
            copying.eq(dut.copy_start | copying), entered.eq(~dut.copy_start & (entered | watched)),
            accepted.eq(~dut.copy_start & (accepted | (leaves & local.o.payload.watched))),
        ]
        m.d.comb += dut.copy_written.eq(any_value(m, 1, "may_be_written") & entered)
        self.destination(m, dut, local)
        self.proven = self._flushes(m, dut, leaves & local.o.payload.beat.last, accepted)

    def _flushes(self, m, dut, posted, accepted):
        """The destination's tracker: flushes sent, answered or given up at any time. Returns whether the watched write has been proven visible."""
        bits = FLUSH_SEQUENCE_BITS
        issued, done, dirty, pending, proven = Signal(bits), Signal(bits), Signal(), Signal(), Signal()
        sent, posted_too, cover, covered = Signal(), any_value(m, 1, "posted_by_others"), Signal(bits), Signal()
        request = Mux(dut.to_host, dut.flush_request[1], dut.flush_request[0]) | any_value(m, 1, "requested_by_others")
        dirty_next = posted | posted_too | (dirty & ~sent)
        m.d.comb += sent.eq(pending & any_value(m, 1, "flush_sent"))
        m.d.sync += [
            dirty.eq(dirty_next), issued.eq(issued + sent), pending.eq(dirty_next & (request | (pending & ~sent))),
        ]
        # Flush `cover` is the first transferred after the watched write was accepted. No flush ends in the three cycles after its transfer.
        with m.If(dut.copy_start):
            m.d.sync += covered.eq(0)
        with m.Elif(accepted & sent & ~covered):
            m.d.sync += [covered.eq(1), cover.eq(issued + 1)]
        settled = past(m, past(m, past(m, issued, "issued1"), "issued2"), "issued3")
        ends, lost = any_value(m, 1, "flush_ends") & (done != settled), any_value(m, 1, "flush_lost")
        number = Signal(bits)
        m.d.comb += number.eq(done + 1)
        with m.If(ends):
            m.d.sync += done.eq(number)
        with m.If(dut.copy_start):
            m.d.sync += proven.eq(0)
        with m.Elif(ends & ~lost & covered & ((number - cover)[:bits] < 32)):
            m.d.sync += proven.eq(1)
        for host in range(2):
            here = dut.to_host == host
            m.d.comb += [
                dut.flush[host].issued.eq(issued), dut.flush[host].done.eq(done), dut.flush[host].newest.eq(issued + pending),
                dut.flush[host].dirty.eq(dirty), dut.flush[host].clean.eq(~dirty & (done == issued)),
                dut.flush_lost[host].eq(Mux(here, ends & lost, any_value(m, 1, f"other_lost{host}"))),
            ]
        return proven

    def claim(self, m, dut):
        with m.If(dut.committed):
            m.d.comb += Assert(self.proven)


class TurnIsComplete(Unhindered):
    """At a commit in merge mode every write that passed the gate has its place at the source, and, if the copy had begun, in the differential too,
    and the chunk that took it from there has its place at the destination. What comes before the turn takes as little time as it can."""
    def mode(self, m):
        return MoveMode.MERGE.value

    def gate(self, m, dut):
        """The device's issue register; one write to the page is watched."""
        m.submodules.issue = issue = IssueRegister(GHOST)
        m.d.comb += dut.epochs.advance_ready.eq(1)
        seen, told = Signal(), Signal()
        absorbed, may_pass = past(m, dut.guard.absorbs, "absorbs"), ~(dut.guard.closed & past(m, dut.guard.closed, "closed"))
        payload = issue.i.payload
        m.d.comb += [
            issue.i.valid.eq(any_value(m, 1, "issue_valid")), issue.o.ready.eq(any_value(m, 1, "issue_ready")),
            payload.beat.first.eq(1), payload.beat.last.eq(1), payload.watched.eq(~seen & may_pass & any_value(m, 1, "watch")),
            dut.issue_entered.eq(issue.entered), dut.issue_accepted.eq(issue.accepted),
        ]
        with m.If(issue.i.valid & issue.i.ready & payload.watched):
            m.d.sync += [seen.eq(1), told.eq(absorbed)]
        accepts, accepted = Signal(), Signal()
        m.d.comb += accepts.eq(issue.o.valid & issue.o.ready & issue.o.payload.watched)
        m.d.sync += accepted.eq(accepted | accepts)
        self.seen, self.told, self.accepts, self.accepted = seen, told, accepts, accepted
        self.alone = ~issue.i.valid | payload.watched     # nothing else is issued

    def copy(self, m, dut):
        """The copy engine: the write is four cycles on its way to the differential, then its chunk is due until it enters the local source."""
        m.submodules.local = local = IssueRegister(GHOST)
        way, due, sends, sent, placed = Signal(4), Signal(), Signal(), Signal(), Signal()
        payload = local.i.payload
        m.d.sync += way.eq(Cat(self.accepts & self.told, way))
        m.d.comb += [
            local.i.valid.eq(any_value(m, 1, "local_valid")), local.o.ready.eq(any_value(m, 1, "local_ready")),
            payload.beat.first.eq(1), payload.beat.last.eq(1), payload.watched.eq(due & any_value(m, 1, "send")),
            sends.eq(local.i.valid & local.i.ready & payload.watched), dut.copy_absorbed.eq(~way.any()),
            dut.copy_written.eq(any_value(m, 1, "may_be_written") & ~due),
        ]
        m.d.sync += [
            due.eq((due | way[3]) & ~sends), sent.eq(sent | sends),
            placed.eq(placed | (local.o.valid & local.o.ready & local.o.payload.watched)),
        ]
        m.d.comb += [dut.copy_prepared.eq(1), dut.copy_fetched.eq(1)]
        self.destination(m, dut, local)
        self.placed = placed

    def claim(self, m, dut):
        before_copy = Signal()
        with m.If(dut.copy_start):
            m.d.sync += before_copy.eq(self.accepted | self.accepts)
        with m.If(dut.committed):
            m.d.comb += Assert(~self.seen | before_copy | (self.accepted & self.told & self.placed))


class UnitIsCopiedAgain(TurnIsComplete):
    """A large page that moves while devices write is not committed before the unit to which a write went has been copied again, once the source's
    egress had accepted that. What comes between takes as little time as it can, there are two units, and nothing but that write is issued."""
    def copy(self, m, dut):
        unit = any_constant(m, 1, "unit")
        m.d.comb += [
            dut.verdict.mask.eq(1), Assume(~dut.verdict.page[0]), Assume(~dut.request.source[12] & ~dut.verdict.far[0]),
            dut.changed.eq(past(m, self.accepts & self.told, "accepts")), dut.changed_unit.eq(unit), dut.copy_written.eq(1), dut.copy_absorbed.eq(1),
            *without_delay(dut), *nothing_to_flush(dut), Assume(self.alone),
        ]
        self.unit = unit

    def claim(self, m, dut):
        copied = Signal()
        with m.If(dut.copy_start & (dut.copy_source[12] == self.unit)):
            m.d.sync += copied.eq(self.accepted)
        with m.If(dut.committed):
            m.d.comb += Assert(~self.seen | copied)


class NoCommitAfterStop(AnyMoves):
    """Once an abort, an error of the copy, a write of the other host to the page or the hold limit was seen, the page is released in the next
    cycle but one and not committed."""
    def host_copies(self, dut):
        """A host that copies the page writes to its destination."""
        return dut.absorbing

    def claim(self, m, dut):
        far = Mux(dut.to_host, dut.copy_destination, dut.copy_source)[12]
        near = Mux(dut.to_host, dut.copy_source, dut.copy_destination)[12]
        copies = self.host_copies(dut)
        to_far, to_near = dut.cross_write[0] & ~(copies & dut.to_host), dut.cross_write[1] & ~(copies & ~dut.to_host)
        crossed = (to_far & (dut.cross_address[0][12] == far)) | (to_near & (dut.cross_address[1][12] == near))
        stop, stopped = Signal(), Signal()
        m.d.comb += stop.eq(dut.abort | past(m, crossed, "crossed") | (dut.status.hold >= dut.hold_limit)
                            | (dut.copy_error.any() & (dut.status.phase == MovePhase.COPY)))
        pending = dut.guard.active & ~dut.guard.committed
        m.d.sync += stopped.eq(pending & (stopped | stop))
        m.d.comb += [
            Assert(pending == (is_one_of(dut.status.phase, PENDING) & ~dut.guard.committed)),
            Assert(~dut.committed | ~stopped | dut.guard.committed), *self.modes_differ(dut),
            Assert(~dut.guard.committed | is_one_of(dut.status.phase, COMMITTED) | dut.guard.closed),
            Assert(~(stopped & past(m, stopped, "stopped") & pending)),
            # A page of one unit, the first of the window.
            Assume(dut.verdict.page == 0), Assert((dut.guard.mask == 0) & (dut.guard.page == 0) & (dut.owner_op.payload.index == 0)),
        ]


class StoreEndsMerge(NoCommitAfterStop):
    """While devices write to a page that no host copies, a write through either aperture to the page or its destination ends the move."""
    def mode(self, m):
        return MoveMode.MERGE

    def host_copies(self, dut):
        return 0


class AbortIsKept(AnyMoves):
    """An abort in any cycle from the start of a move to its commit is the end of this move, and a move that is done names no error."""
    def claim(self, m, dut):
        told, status = Signal(), dut.status
        m.d.sync += told.eq(status.busy & ~dut.guard.committed & (told | dut.abort))
        m.d.comb += [Assert(~dut.committed | ~told), Assert(~status.done | (status.error == MoveError.NONE))]


class DrainWaits(AnyMoves):
    """After a commit the lanes have :data:`SEEN_CYCLES` to see it before what they have taken so far is counted."""
    def claim(self, m, dut):
        since = Signal(4)
        m.d.sync += since.eq(Mux(dut.committed, 0, since + ~since.all()))
        m.d.comb += Assert(~(dut.advance & dut.guard.committed) | (since >= SEEN_CYCLES - 1))


class IsMade(NothingInFlight):
    """A page is committed after an access to it passed the gate."""
    def claim(self, m, dut):
        m.d.comb += Cover(dut.committed & self.watching)


class GateHolds(Elaboratable):
    """From the second cycle of a hold on, no TLP to the page that is held is offered to the gate; one that has begun goes on."""
    def __init__(self, lane, request):
        self.lane, self.request = lane, request

    def elaborate(self, platform):
        m = Module()
        info = DeviceInfo(PAGES, 2)
        shapes = (LaneBeat(16, info, 4), Ahead(info, 4))
        m.submodules.dut = dut = self.lane(16, *shapes, PAGES, 2, 1) if self.request else self.lane(16, *shapes, PAGES)
        head, ahead, guard = dut.i.payload, dut.ahead.payload, dut.guard[0]
        m.d.comb += [
            dut.i.valid.eq(any_value(m, 1, "i_valid")), dut.ahead.valid.eq(any_value(m, 1, "ahead_valid")),
            ahead.info.page.eq(any_value(m, 6, "page")), ahead.info.in_window.eq(any_value(m, 1, "in_window")),
            ahead.info.mapped.eq(ahead.info.in_window & any_value(m, 1, "mapped")), ahead.info.below.eq(any_value(m, 1, "below")),
            # One double word, so that its completion fits; what marks its page says which page it is of.
            ahead.info.lines.eq(1), ahead.info.atomic.eq(1), dut.settings.track_dirty.eq(1),
            head.beat.first.eq(any_value(m, 1, "first")), head.beat.last.eq(any_value(m, 1, "last")),
            dut.offer.ready.eq(any_value(m, 1, "offer_ready") & dut.offer.valid), dut.aside.ready.eq(any_value(m, 1, "aside_ready")),
            dut.owner_bit.eq(any_value(m, 1, "owner")), dut.room.eq(any_value(m, 2, "room")), dut.proven.eq(any_value(m, 2, "proven")),
            guard.page.eq(any_constant(m, 6, "guard_page")), guard.to_host.eq(any_value(m, 1, "to_host")),
            *(guard[name].eq(any_value(m, 1, name)) for name in ("active", "closed", "committed")),
            Assume(guard.active | ~guard.closed),
        ]
        held(m, dut.i, Assume, "i")
        held(m, dut.ahead, Assume, "ahead")
        framed(m, dut.i, head.beat, Assume, "i")
        if self.request:
            # What is shown ahead has its first beat at the head when it is offered.
            m.d.comb += Assume(dut.i.valid | ~dut.offer.valid)
            m.d.comb += [dut.gone.eq(1), dut.return_room[0].eq(1), dut.return_room[1].eq(1), dut.clear.eq(any_value(m, 1, "clear")),
                         dut.occupied.eq(any_value(m, 1, "occupied"))]
        closed = guard.closed & past(m, guard.closed, "closed")
        with m.If(closed & dut.offer.valid & dut.offer.payload.beat.first):
            m.d.comb += Assert(~dut.dirty | (dut.dirty_page != guard.page))
        return m


def posted_gate(lane=PostedLane):
    return GateHolds(lane, 0)


def request_gate(lane=RequestLane):
    return GateHolds(lane, 1)


SLOT_BUGS = {
    "the gate is not given time to close": (
        "self.guard.committed.eq(0), delay.eq(CLOSED_CYCLES)", "self.guard.committed.eq(0), delay.eq(0)"),
    "the issue register is not awaited": ("issue_mark.passed & self.epochs.advance_ready", "self.epochs.advance_ready"),
    "atomics are not awaited": ("with m.If(atomics.done):", "with m.If(1):"),
    "copy writes are not followed to the egress": (
        "with m.If(local_mark.passed):\n                m.d.comb += wait.start.eq(1)", "with m.If(1):\n                m.d.comb += wait.start.eq(1)"),
    "the turn does not wait for what passed the gate": ("with m.If(issue_mark.passed & self.copy_absorbed):", "with m.If(self.copy_absorbed):"),
    "the turn does not wait for the differential": ("with m.If(issue_mark.passed & self.copy_absorbed):", "with m.If(issue_mark.passed):"),
    "the last chunks are not followed to the egress": (
        'with m.If(local_mark.passed):\n                m.next = "Commit"', 'with m.If(1):\n                m.next = "Commit"'),
    "the turn does not close the gate": ("[self.guard.closed.eq(1), delay.eq(CLOSED_CYCLES)]", "[delay.eq(CLOSED_CYCLES)]"),
    "the flush is not awaited": ("with m.If(wait.done & ~self.guard.absorbs):", "with m.If(~self.guard.absorbs):"),
    "a lost flush is taken for a proof": ("lost & (self.status.phase == MovePhase.FLUSH)", "0"),
    "an abort is forgotten": ("with m.Elif(self.abort):", "with m.Elif(self.abort & (self.status.phase != MovePhase.GATE)):"),
    "an abort beside the answer of the check is told and forgotten": ("self.abort | (status.error", "(status.error"),
    "an abort before the hold is lost": (
        'with m.State("Decide"):\n            with m.If(self.abort):',
        'with m.State("Decide"):\n            with m.If(self.abort & self.copy_owed):'),
    "the lanes have no time to see the commit": ("with m.If((delay == 0) & self.epochs.advance_ready):", "with m.If(self.epochs.advance_ready):"),
    "the gate opens when the copy begins": (
        "m.d.comb += self.copy_start.eq(1)", "m.d.comb += self.copy_start.eq(1)\n                    m.d.sync += self.guard.closed.eq(0)"),
    "a commit is not told": ("m.d.comb += self.committed.eq(1)", "m.d.comb += self.committed.eq(0)"),
    "the hold timer is not looked at": ("self.status.hold >= self.hold_limit", "0"),
    "the guard says committed from the start": (
        "self.guard.committed.eq(0), delay.eq(CLOSED_CYCLES)", "self.guard.committed.eq(1), delay.eq(CLOSED_CYCLES)"),
    "a failed move is done": ("status.failed.eq(1)", "status.done.eq(1)"),
    "a commit is stopped amid the run": ("(reason != MoveError.NONE) & ~self.guard.committed", "reason != MoveError.NONE"),
    "the gate opens at the first flip": ("[self.guard.committed.eq(1), unit", "[self.guard.committed.eq(1), self.guard.closed.eq(0), unit"),
    "a unit does not flip": (
        "with m.If(unit == self.guard.mask):\n                    m.d.comb", "with m.If(unit + 1 == self.guard.mask):\n                    m.d.comb"),
    "the last round does not wait for what passed the gate": (
        'with m.If(issue_mark.passed):\n                m.next = "Unit"', 'with m.If(1):\n                m.next = "Unit"'),
    "a unit is taken when it has been copied": (
        "rewritten.unit.eq(unit),", "rewritten.unit.eq(unit), rewritten.take.eq(self.status.phase == MovePhase.COPY),"),
}


def bugs(claim, *names):
    """The claim about slots with these bugs."""
    return {name: lambda name=name: claim(slot_with(*SLOT_BUGS[name])) for name in names}


PROOFS = [
    Proof("move_nothing_in_flight", NothingInFlight.__doc__, NothingInFlight, "bmc", 22, seconds=600, bugs=bugs(
        NothingInFlight, "the gate is not given time to close", "the issue register is not awaited", "atomics are not awaited",
        "the gate opens when the copy begins") | {
            "atomics that do not show yet are not awaited": lambda: NothingInFlight(edited(PageSlot, EpochWait=planted(
                EpochWait, "delay.eq(SHOWN_CYCLES)", "delay.eq(0)"))),
        }),
    Proof("move_copy_is_visible", CopyIsVisible.__doc__, CopyIsVisible, "bmc", 24, seconds=600, bugs=bugs(
        CopyIsVisible, "copy writes are not followed to the egress", "the flush is not awaited", "a lost flush is taken for a proof")),
    Proof("move_turn_is_complete", TurnIsComplete.__doc__, TurnIsComplete, "bmc", 30, seconds=600, bugs=bugs(
        TurnIsComplete, "the turn does not wait for what passed the gate", "the turn does not wait for the differential",
        "the last chunks are not followed to the egress", "the turn does not close the gate")),
    Proof("move_run_is_whole", RunIsWhole.__doc__, RunIsWhole, "prove", 4, fast=True, bugs=bugs(
        RunIsWhole, "the guard says committed from the start")),
    Proof("move_pair_is_whole", PairIsWhole.__doc__, PairIsWhole, "bmc", 36, seconds=600, bugs=bugs(
        PairIsWhole, "a commit is stopped amid the run", "the gate opens at the first flip", "a unit does not flip")),
    Proof("move_unit_is_copied_again", UnitIsCopiedAgain.__doc__, UnitIsCopiedAgain, "bmc", 46, seconds=600, bugs=bugs(
        UnitIsCopiedAgain, "the last round does not wait for what passed the gate", "a unit is taken when it has been copied")),
    Proof("move_no_commit_after_stop", NoCommitAfterStop.__doc__, NoCommitAfterStop, "prove", 4, fast=True, bugs=bugs(
        NoCommitAfterStop, "an abort is forgotten")),
    Proof("move_store_ends_merge", StoreEndsMerge.__doc__, StoreEndsMerge, "bmc", 14, fast=True, bugs={
        "the host may always write": lambda: StoreEndsMerge(planted(PageSlot, "hosts_turn & (request.mode", "hosts_turn | (request.mode"))}),
    Proof("move_keeps_an_abort", AbortIsKept.__doc__, AbortIsKept, "bmc", 22, bugs=bugs(
        AbortIsKept, "an abort beside the answer of the check is told and forgotten", "an abort before the hold is lost")),
    Proof("move_drain_waits", DrainWaits.__doc__, DrainWaits, "bmc", 22, bugs=bugs(DrainWaits, "the lanes have no time to see the commit")),
    Proof("move_is_made", IsMade.__doc__, IsMade, "cover", 24, bugs=bugs(IsMade, "a commit is not told")),
    Proof("move_hold_ends", HoldEnds.__doc__, HoldEnds, "prove", 5, fast=True, bugs=bugs(HoldEnds, "the hold timer is not looked at")),
    Proof("move_commit_is_final", CommitIsFinal.__doc__, CommitIsFinal, "prove", 4, fast=True, bugs=bugs(
        CommitIsFinal, "the guard says committed from the start", "a failed move is done")),
    Proof("gate_holds_posted", GateHolds.__doc__, posted_gate, "prove", 4, fast=True, bugs={
        "a head that waits is not compared anew": lambda: posted_gate(planted(
            PostedLane, "with m.If(lookup.advance == moves):", "with m.If(lookup.advance & (moves == 1)):")),
    }),
    Proof("gate_holds_requests", GateHolds.__doc__, request_gate, "bmc", 9, fast=True, bugs={
        "an offer does not look at the guard": lambda: request_gate(planted(RequestLane, " & ~page.closed", "")),
    }),
]
