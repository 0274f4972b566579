"""The page slot: the state machine of one move."""

from functools import partial

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import data, enum, stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import exact_log2

from pagehop.interposer.bitmaps import OwnerOp, OwnerOpKind
from pagehop.interposer.epoch_wait import EpochWait
from pagehop.interposer.layouts import HOST_B, EpochView, Guard, in_run, run_bits
from pagehop.interposer.move_check import MoveError, MoveMode, MoveRequest, Verdict
from pagehop.interposer.rewritten import Rewritten
from pagehop.memory.chunk_sets import CopySet
from pagehop.tlp.flush import FlushView
from pagehop.tlp.flush_wait import FlushWait
from pagehop.tlp.issue import Mark
from pagehop.tlp.pages import PAGE_BITS

__all__ = ["MovePhase", "MoveStatus", "PageSlot"]

#: Cycles after which a gate certainly sees a change of the guard, and a look-up one of the owner map.
SEEN_CYCLES = 6

#: Cycles after which a gate has certainly seen that the guard closed, or absorbs.
CLOSED_CYCLES = 3

#: Rounds of reading again what atomics have changed, until atomics wait for the last one. Of a large page: rounds until the gate closes.
ROUNDS = 4

#: A round that had to copy no more units of a large page is the last but that with the gate closed.
FEW_UNITS = 4

#: A move that lets accesses pass takes so many times the longest hold at most, of a large page for each unit that it copies.
PATIENCE = 16


class MovePhase(enum.Enum, shape=4):
    """What a move is doing. The values are those of ``move_phase`` in registers.rdl; a test compares them."""
    IDLE   = 0
    GATE   = 1
    COPY   = 2
    FLUSH  = 3
    COMMIT = 4
    DRAIN  = 5
    SETTLE = 6
    RETIRE = 7
    HOST   = 8


class MoveStatus(data.Struct):
    """Status of the slot, as the registers show it."""
    busy:    1
    done:    1
    failed:  1
    phase:   MovePhase
    error:   MoveError
    refused: MoveError
    ended:   32
    hold:    32
    total:   32


class PageSlot(wiring.Component):
    """Move one page at a time: gate, copy, flush, commit, drain, settle, retire (docs/interposer.md, "A move").

    In hold mode nothing reaches the page from the gate to the commit. Otherwise accesses go on, writes into the differential of the copy engine too,
    until all that is left is to send the last chunks that were written to: then the page is held for the turn of its owner, a few cycles.

    A large page is a run of units of 4 KB with one commit. They are copied one after the other, each as a page in hold mode is, without a
    differential. When accesses go on, units that were written to meanwhile are copied again, in rounds, the last of them with the gate closed. In
    any mode the gate is closed over the whole run in the last round, the flush, and until all its owner bits have flipped, one a cycle.

    Parameters
    ----------
    window_pages : pages of the window.
    stamp_bits : width of the device ingress's posted counts.

    Members
    -------
    start, abort, request : from the registers. ``hold_limit`` in cycles. ``opaque`` ends a move. ``room``: a bit a host, its egress takes
        a posted TLP at once.
    guard : to the gates.
    checks, checked, answer, verdict : of the :class:`MoveCheck`; ``checked`` is the request, until ``answer``. ``moving``: the page is ours.
    owner_op : port of the owner map.
    issue_*, posted_*, local_* : counts of the device's issue register and queue, and of the destination's local source, to set marks on.
    advance, epochs : of the outstanding table.
    copied : pulse, the host says that its copy of the page is visible at the destination.
    copy_* : the copy engine. ``from_host``, ``to_host``: which hosts it works for.
    flush, flush_request, flush_lost : trackers of both hosts; a flush was given up or answered with an error.
    cross_write, cross_address : writes through each host's aperture; index 0 is from Host A, so to Host B.
    changed, changed_unit : pulse, a write or an atomic to a unit with these low bits of its number was accepted at its source, while the guard
        absorbs.
    committed : pulse, the owner of a page changes, of a large one a pulse a unit. ``number``: of that page in the window.
    ended : pulse, the move is over and ``status`` says how.
    """
    def __init__(self, window_pages, stamp_bits):
        self.window_pages, self.stamp_bits = window_pages, stamp_bits
        super().__init__({
            "start": In(1), "abort": In(1), "copied": In(1), "request": In(MoveRequest), "hold_limit": In(32), "opaque": In(1), "room": In(2),
            "status": Out(MoveStatus), "guard": Out(Guard(window_pages)), "committed": Out(1), "number": Out(32), "ended": Out(1),
            "checks": Out(1), "moving": Out(1), "checked": Out(MoveRequest), "answer": In(1), "verdict": In(Verdict(window_pages)),
            "owner_op": Out(stream.Signature(OwnerOp(window_pages))),
            "issue_entered": In(4), "issue_accepted": In(4), "local_entered": In(4).array(2), "local_accepted": In(4).array(2),
            "posted_accepted": In(stamp_bits), "posted_left": In(stamp_bits),
            "advance": Out(1), "epochs": In(EpochView),
            "copy_prepare": Out(1), "copy_set": Out(CopySet), "copy_prepared": In(1), "absorbing": Out(1), "copy_absorbed": In(1),
            "copy_stale": In(1), "copy_fetched": In(1),
            "copy_start": Out(1), "copy_stop": Out(1), "copy_over": Out(1), "copy_source": Out(64), "copy_destination": Out(64),
            "copy_written": In(1), "copy_outstanding": In(1), "copy_owed": In(1), "copy_error": In(4), "to_host": Out(1), "from_host": Out(1),
            "changed": In(1), "changed_unit": In(run_bits(window_pages)),
            "flush": In(FlushView).array(2), "flush_request": Out(1).array(2), "flush_lost": In(1).array(2),
            "cross_write": In(1).array(2), "cross_address": In(64).array(2),
        })

    def elaborate(self, platform):
        m = Module()
        m.submodules.issue_mark = issue_mark = Mark(4)
        m.submodules.local_mark = local_mark = Mark(4)
        m.submodules.posted_mark = posted_mark = Mark(self.stamp_bits)
        m.submodules.requests = requests = EpochWait()
        m.submodules.atomics = atomics = EpochWait()
        m.submodules.wait = wait = FlushWait()
        m.submodules.source_wait = source_wait = FlushWait()
        m.submodules.rewritten = rewritten = Rewritten(len(self.changed_unit))
        request, rounds, hosts_turn = Signal(MoveRequest), Signal(range(ROUNDS + 1)), Signal()   # the host has still to copy the page
        delay, reason = Signal(4), Signal(MoveError)
        near, far = request.source[PAGE_BITS:], request.destination[PAGE_BITS:]   # of the page at Host A and Host B, once it was checked
        unit, first, large = Signal(len(self.changed_unit)), Signal(32), Signal()   # of the run; the number of its first page
        # The host that copies the page writes to its destination.
        self._watch(m, near, far, reason, hosts_turn & (request.mode != MoveMode.HOLD), rewritten)
        m.d.sync += delay.eq(Mux(delay.any(), delay - 1, 0))
        m.d.comb += [
            self.checked.eq(request), self.moving.eq(self.status.busy & ~self.checks),
            self.to_host.eq(request.to_host), self.from_host.eq(~request.to_host),
            self.guard.to_host.eq(request.to_host),
            self.copy_source.eq((Mux(request.to_host == HOST_B, near, far) | unit) << PAGE_BITS),
            self.copy_destination.eq((Mux(request.to_host == HOST_B, far, near) | unit) << PAGE_BITS),
            issue_mark.target.eq(self.issue_entered), issue_mark.count.eq(self.issue_accepted),
            local_mark.target.eq(Mux(request.to_host, self.local_entered[1], self.local_entered[0])),
            local_mark.count.eq(Mux(request.to_host, self.local_accepted[1], self.local_accepted[0])),
            posted_mark.target.eq(self.posted_accepted), posted_mark.count.eq(self.posted_left),
            *(wait.epoch.eq(self.epochs.epoch) for wait in (requests, atomics)),
            requests.unanswered.eq(self.epochs.unanswered), atomics.unanswered.eq(self.epochs.atomics),
            wait.flush.eq(Mux(request.to_host, self.flush[1], self.flush[0])),
            source_wait.flush.eq(Mux(request.to_host, self.flush[0], self.flush[1])),
            self.flush_request[0].eq(Mux(request.to_host, source_wait.request, wait.request)),
            self.flush_request[1].eq(Mux(request.to_host, wait.request, source_wait.request)),
            large.eq(self.guard.mask.any()), self.absorbing.eq((request.mode != MoveMode.HOLD) & ~large),
            self.guard.atomics_closed.eq(rounds == ROUNDS),
            self.guard.strict.eq(self.absorbing & self.guard.active),
            self.owner_op.payload.index.eq(self.guard.page | unit), self.number.eq(first | unit),
            rewritten.changed.eq(self.changed), rewritten.changed_unit.eq(self.changed_unit & self.guard.mask), rewritten.unit.eq(unit),
        ]
        with m.If(~self.guard.active):
            m.d.sync += hosts_turn.eq(request.mode == MoveMode.HOST_COPY)
        with m.FSM():
            self._accept(m, request, delay, rounds, unit, first, large)
            state = partial(self._state, m, reason, delay)
            self._before_turn(m, state, delay, issue_mark, local_mark, atomics, wait, source_wait, rounds, hosts_turn, large, unit)
            self._units(m, state, delay, issue_mark, local_mark, rewritten, rounds, hosts_turn, unit)
            self._turn(m, state, request, delay, issue_mark, local_mark, rounds, unit)
            self._after_commit(m, delay, issue_mark, posted_mark, requests, wait, source_wait)
            self._end(m, delay, issue_mark)
        self._count(m)
        return m

    def _watch(self, m, near, far, reason, copies, rewritten):
        """Latch the first reason to abort; it counts only before the commit."""
        crossed, age = Signal(), Signal(32)
        m.d.sync += age.eq(Mux(self.guard.active & ~rewritten.take, age + 1, 0))
        lost = Mux(self.to_host, self.flush_lost[1], self.flush_lost[0])
        m.d.sync += crossed.eq(
            (self.cross_write[0] & in_run(self.cross_address[0][PAGE_BITS:], far, self.guard.mask) & ~(copies & self.to_host))
            | (self.cross_write[1] & in_run(self.cross_address[1][PAGE_BITS:], near, self.guard.mask) & ~(copies & ~self.to_host)))
        with m.If(~self.guard.active | self.guard.committed):
            m.d.sync += reason.eq(MoveError.NONE)
        with m.Elif(reason == MoveError.NONE):
            with m.If(self.copy_error.any() & (self.status.phase == MovePhase.COPY)):
                m.d.sync += reason.eq(self.copy_error)
            with m.Elif(lost & (self.status.phase == MovePhase.FLUSH)):
                m.d.sync += reason.eq(MoveError.COPY_TIMEOUT)
            with m.Elif(self.abort):
                m.d.sync += reason.eq(MoveError.ABORTED)
            with m.Elif(self.opaque):
                m.d.sync += reason.eq(MoveError.OPAQUE)
            with m.Elif(crossed):
                m.d.sync += reason.eq(MoveError.CROSS_ACCESS)
            with m.Elif((self.status.hold >= self.hold_limit) | (age[exact_log2(PATIENCE):] >= self.hold_limit)):
                m.d.sync += reason.eq(MoveError.HOLD_TIMEOUT)

    def _accept(self, m, request, delay, rounds, unit, first, large):
        status = self.status
        with m.State("Idle"):
            with m.If(self.start):
                m.d.sync += [
                    request.eq(self.request), status.busy.eq(1), status.done.eq(0), status.failed.eq(0), status.refused.eq(MoveError.NONE),
                    status.error.eq(MoveError.NONE), status.hold.eq(0), status.total.eq(0), rounds.eq(0), unit.eq(0),
                ]
                m.next = "Check"
        with m.State("Check"):
            m.d.comb += self.checks.eq(1)
            with m.If(self.abort):
                m.d.sync += status.error.eq(MoveError.ABORTED)
            with m.If(self.answer):
                m.d.sync += [
                    self.guard.page.eq(self.verdict.page), self.guard.mask.eq(self.verdict.mask), first.eq(self.verdict.number),
                    request.destination[PAGE_BITS:].eq(self.verdict.far),
                ]
                m.next = "Decide"
                with m.If(self.abort | (status.error != MoveError.NONE) | (self.verdict.error != MoveError.NONE)):
                    m.next = "Failed"
                with m.If(self.verdict.error != MoveError.NONE):
                    m.d.sync += status.error.eq(self.verdict.error)
        with m.State("Decide"):
            with m.If(self.abort):
                m.d.sync += status.error.eq(MoveError.ABORTED)
                m.next = "Failed"
            # A late answer to a move that gave up would be taken for one of this: nothing is held before it cannot come (H14).
            with m.Elif(~self.copy_owed):
                with m.If(self.absorbing):
                    # All of the page, or what is written while a host copies it.
                    m.d.comb += [self.copy_prepare.eq(1), self.copy_set.eq(Mux(request.mode == MoveMode.MERGE, CopySet.ALL, CopySet.NONE))]
                    m.next = "Prepare"
                with m.Else():
                    m.d.sync += [self.guard.active.eq(1), self.guard.closed.eq(1), self.guard.committed.eq(0), delay.eq(CLOSED_CYCLES)]
                    with m.If(large & (request.mode != MoveMode.HOLD)):
                        m.d.sync += [self.guard.closed.eq(0), self.guard.absorbs.eq(1)]
                    m.next = "Close"
        with m.State("Prepare"):
            with m.If(self.abort):
                m.d.sync += status.error.eq(MoveError.ABORTED)
                m.next = "Failed"
            with m.Elif(self.copy_prepared):
                m.d.sync += [self.guard.active.eq(1), self.guard.committed.eq(0), self.guard.absorbs.eq(1), delay.eq(CLOSED_CYCLES)]
                m.next = "Close"

    def _state(self, m, reason, delay, name, phase, follow):
        """A state before the commit: ``follow`` drives it unless there is a reason to stop."""
        with m.State(name):
            m.d.comb += self.status.phase.eq(phase)
            with m.If((reason != MoveError.NONE) & ~self.guard.committed):
                m.d.sync += [
                    self.guard.closed.eq(0), self.guard.active.eq(0), self.guard.absorbs.eq(0), self.status.error.eq(reason),
                    delay.eq(CLOSED_CYCLES),
                ]
                m.d.comb += self.copy_stop.eq(1)
                m.next = "Give Up"
            with m.Else():
                follow()

    def _read_again(self, m, rounds):
        """Read what atomics, or writes while a host copied, have changed at the source; accesses go on meanwhile."""
        m.d.comb += [self.copy_prepare.eq(1), self.copy_set.eq(CopySet.STALE)]
        m.d.sync += [self.guard.closed.eq(~self.guard.absorbs), rounds.eq(rounds + (rounds != ROUNDS))]
        m.next = "Read Again"

    def _closed(self, m, delay, issue_mark, following):
        """When the gate has certainly seen the guard, follow what had passed it."""
        with m.If(delay == 0):
            m.d.comb += issue_mark.set.eq(1)
            m.next = following

    def _before_turn(self, m, state, delay, issue_mark, local_mark, atomics, wait, source_wait, rounds, hosts_turn, large, unit):
        """From the gate to the proof that the copy is at the destination: all of it in hold mode, else what has come to be sent by then."""
        def close():
            self._closed(m, delay, issue_mark, "Clear")
            with m.If(large & (delay == 0)):
                m.next = "Unit"

        def clear():
            # All that passed the gate is in the outstanding table now; what comes later belongs to the next epoch.
            with m.If(issue_mark.passed & self.epochs.advance_ready):
                m.d.comb += [self.advance.eq(1), atomics.start.eq(1)]
                m.next = "Atomics"

        def settle_atomics():
            with m.If(atomics.done):
                with m.If(hosts_turn):
                    m.d.comb += source_wait.start.eq(1)
                    m.next = "Show Source"
                with m.Else():
                    m.d.comb += self.copy_start.eq(1)
                    m.d.sync += delay.eq(1)
                    m.next = "Copy"

        def show_source():
            # The host reads its memory: what is not in the differential must be there.
            with m.If(source_wait.done):
                m.next = "Host Copies"

        def host_copies():
            with m.If(self.copied):
                m.d.sync += hosts_turn.eq(0)
                with m.If(large):
                    m.next = "Unit"
                with m.Else():
                    self._read_again(m, rounds)

        def prepared():
            # What was absorbed before it was cleared has its place before the reads.
            with m.If(self.copy_prepared):
                m.d.comb += issue_mark.set.eq(1)
                m.next = "Clear"

        def copy():
            # While devices write there may always be something to send again.
            here = Mux(self.absorbing, self.copy_fetched, self.copy_written)
            with m.If((delay == 0) & here & ~self.copy_error.any()):
                with m.If(large):
                    self._next_unit(m, unit)
                with m.Elif(self.guard.absorbs & self.copy_stale):
                    self._read_again(m, rounds)
                with m.Else():
                    m.d.comb += local_mark.set.eq(1)
                    m.next = "Push"

        def push():
            with m.If(local_mark.passed):
                m.d.comb += wait.start.eq(1)
                m.next = "Prove"

        def prove():
            with m.If(wait.done & ~self.guard.absorbs):
                m.next = "Commit"
            # The page is closed for as long as the last chunks take, so they must not stand behind a queue that is full already.
            with m.Elif(wait.done & self.room.bit_select(self.to_host, 1)):
                m.d.sync += [self.guard.closed.eq(1), delay.eq(CLOSED_CYCLES)]
                m.next = "Turn"

        state("Close", MovePhase.GATE, close)
        state("Clear", MovePhase.GATE, clear)
        state("Atomics", MovePhase.GATE, settle_atomics)
        state("Show Source", MovePhase.GATE, show_source)
        state("Host Copies", MovePhase.HOST, host_copies)
        state("Read Again", MovePhase.COPY, prepared)
        state("Copy", MovePhase.COPY, copy)
        state("Push", MovePhase.FLUSH, push)
        state("Prove", MovePhase.FLUSH, prove)

    def _next_unit(self, m, unit):
        m.d.sync += unit.eq((unit + 1) & self.guard.mask)
        m.next = "Unit"
        with m.If(unit == self.guard.mask):
            m.next = "Round"

    def _units(self, m, state, delay, issue_mark, local_mark, rewritten, rounds, hosts_turn, unit):
        """A round through a large page: all its units at first, later those that were written to since they were copied. Each goes by "Clear"."""
        copied = Signal(range(FEW_UNITS + 2))

        def one():
            # What is noted from now on may come behind the reads of the copy; what was noted before has its place before them.
            m.d.comb += rewritten.take.eq(1)
            with m.If((rewritten.due | (rounds == 0)) & ~hosts_turn):
                m.d.comb += issue_mark.set.eq(1)
                m.d.sync += copied.eq(copied + (copied <= FEW_UNITS))
                m.next = "Clear"
            with m.Else():
                self._next_unit(m, unit)

        def over():
            m.d.sync += [copied.eq(0), rounds.eq(rounds + 1)]
            with m.If(hosts_turn):
                m.d.comb += issue_mark.set.eq(1)
                m.next = "Clear"
            with m.Elif(self.guard.closed):
                m.d.comb += local_mark.set.eq(1)
                m.next = "Push"
            with m.Elif((copied <= FEW_UNITS) | (rounds == ROUNDS - 1)):
                m.d.sync += [self.guard.closed.eq(1), self.guard.absorbs.eq(0), delay.eq(CLOSED_CYCLES)]
                m.next = "Shut"
            with m.Else():
                m.next = "Unit"

        def rest():
            # All that passed the gate is at the source, and noted.
            with m.If(issue_mark.passed):
                m.next = "Unit"

        state("Unit", MovePhase.GATE, one)
        state("Round", MovePhase.GATE, over)
        state("Shut", MovePhase.GATE, lambda: self._closed(m, delay, issue_mark, "Rest"))
        state("Rest", MovePhase.GATE, rest)

    def _turn(self, m, state, request, delay, issue_mark, local_mark, rounds, unit):
        """From the last closing of the gate, when devices could write until then, to the commit."""
        def gather():
            # All that passed the gate is at the source. What it wrote is in the differential, or on its way there.
            with m.If(issue_mark.passed & self.copy_absorbed):
                with m.If(self.copy_stale):
                    self._read_again(m, rounds)
                with m.Elif(self.copy_written):
                    m.d.comb += local_mark.set.eq(1)
                    m.next = "Place"

        def place():
            # The last of the copy has its place at the destination: what comes later stays behind it (O2, O3).
            with m.If(local_mark.passed):
                m.next = "Commit"

        def commit():
            m.d.comb += [
                self.owner_op.valid.eq(1),
                self.owner_op.payload.kind.eq(Mux(request.to_host == HOST_B, OwnerOpKind.SET, OwnerOpKind.CLEAR)),
            ]
            with m.If(self.owner_op.ready):
                m.d.comb += self.committed.eq(1)
                # With its first unit the whole page has moved: nothing stops the others.
                m.d.sync += [self.guard.committed.eq(1), unit.eq((unit + 1) & self.guard.mask)]
                with m.If(unit == self.guard.mask):
                    m.d.comb += self.copy_over.eq(1)
                    m.d.sync += [self.guard.closed.eq(0), self.guard.absorbs.eq(0), delay.eq(SEEN_CYCLES)]
                    m.next = "Open"

        state("Turn", MovePhase.COMMIT, lambda: self._closed(m, delay, issue_mark, "Gather"))
        state("Gather", MovePhase.COMMIT, gather)
        state("Place", MovePhase.COMMIT, place)
        state("Commit", MovePhase.COMMIT, commit)

    def _after_commit(self, m, delay, issue_mark, posted_mark, requests, wait, source_wait):
        status = self.status
        with m.State("Open"):
            m.d.comb += status.phase.eq(MovePhase.DRAIN)
            with m.If((delay == 0) & self.epochs.advance_ready):
                # What was accepted by now was looked up before the commit; what comes later sees the new owner.
                m.d.comb += [posted_mark.set.eq(1), self.advance.eq(1), requests.start.eq(1)]
                m.next = "Drain"
        with m.State("Drain"):
            m.d.comb += status.phase.eq(MovePhase.DRAIN)
            with m.If(posted_mark.passed):
                m.d.comb += issue_mark.set.eq(1)
                m.next = "Drained"
        with m.State("Drained"):
            m.d.comb += status.phase.eq(MovePhase.DRAIN)
            with m.If(issue_mark.passed):
                # Of what was absorbed the source may have the last writes on their way.
                m.d.comb += [wait.start.eq(1), source_wait.start.eq(self.absorbing)]
                m.next = "Settle"
        with m.State("Settle"):
            m.d.comb += status.phase.eq(MovePhase.SETTLE)
            with m.If(wait.done & source_wait.done):
                m.next = "Retire"
        with m.State("Retire"):
            m.d.comb += status.phase.eq(MovePhase.RETIRE)
            with m.If(requests.done):
                m.d.comb += self.ended.eq(1)
                m.d.sync += [
                    status.busy.eq(0), status.done.eq(1), status.ended.eq(status.ended + 1),
                    self.guard.active.eq(0), self.guard.committed.eq(0),
                ]
                m.next = "Idle"

    def _end(self, m, delay, issue_mark):
        status = self.status
        with m.State("Give Up"):
            # What has passed the gate as absorbed still comes to the copy engine, and must not come amid the next copy (H22).
            with m.If(delay == 0):
                m.d.comb += issue_mark.set.eq(1)
                m.next = "Quiet"
        with m.State("Quiet"):
            # The tags of unanswered reads are ours until they come or time out (D16).
            with m.If(issue_mark.passed & self.copy_absorbed & ~self.copy_outstanding):
                m.next = "Failed"
        with m.State("Failed"):
            m.d.comb += [self.ended.eq(1), self.copy_over.eq(1)]
            m.d.sync += [status.busy.eq(0), status.failed.eq(1), status.ended.eq(status.ended + 1)]
            m.next = "Idle"

    def _count(self, m):
        with m.If(self.status.busy):
            m.d.sync += self.status.total.eq(self.status.total + 1)
            with m.If(self.start):
                m.d.sync += self.status.refused.eq(MoveError.BUSY)
        with m.If(self.guard.closed):
            m.d.sync += self.status.hold.eq(self.status.hold + 1)
