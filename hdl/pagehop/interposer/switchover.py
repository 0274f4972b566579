"""The last step of a migration: the host that gets everything without a page changes, while the device goes on."""

from functools import partial

from amaranth.hdl import Const, Module, Mux, Signal
from amaranth.lib import data, enum, wiring
from amaranth.lib.wiring import In, Out

from pagehop.interposer.layouts import Holds
from pagehop.interposer.slot import CLOSED_CYCLES
from pagehop.tlp.flush import FlushView
from pagehop.tlp.flush_wait import FlushWait
from pagehop.tlp.issue import Mark

__all__ = ["Switchover", "SwitchoverError", "SwitchoverStatus"]

#: Cycles after which a request that left the issue register is certainly counted in the outstanding table.
COUNTED_CYCLES = 6


class SwitchoverError(enum.Enum, shape=4):
    """Why a switchover failed. The values are those of ``switchover_error`` in registers.rdl; a test compares them."""
    NONE          = 0
    ALREADY_THERE = 1
    OPAQUE        = 2
    TIMEOUT       = 3
    FLUSH         = 4


class SwitchoverStatus(data.Struct):
    """Status of the switchover, as the register shows it."""
    busy:        1
    done:        1
    failed:      1
    error:       SwitchoverError
    active_host: 1
    blocks:      1
    cycles:      32


class Switchover(wiring.Component):
    """Keep the active host, and change it on request when nothing of the device is on its way any more (H53, H55, H56).

    In this order: requests of the device wait at the gate; those that it has made are answered, and those of the host that is left to the device; its
    posted TLPs wait too; what was accepted is proven visible at both hosts; the active host changes; all that waited goes to its new place, in order.
    Completions are never held by themselves: while answers are awaited the posted TLPs that they stand behind still leave. When the old host asks
    the device again meanwhile, posted TLPs leave again until that is answered.

    All this takes ``limit`` cycles at most. Then, or on a reason that comes up before the change, everything goes on at the host where it was.

    From the change on ``blocks`` is 1, until ``unblock``: translated requests hold addresses of the host that was left (H54).

    Members
    -------
    start, to_host, unblock : from the registers; ``start`` while one runs is ignored. ``limit`` in cycles.
    written, chosen : pulse, software writes the active host itself; in force in the next cycle, whatever runs.
    opaque : the device sends what has no place at another host, or no order with a flush.
    unanswered : a bit a host, it owes the device answers; ``asked``: a bit a host, the device owes it answers. Registers, two cycles late at most.
    issue_entered, issue_accepted : of the device's issue register.
    flush, flush_request, flush_lost : trackers of both hosts; a flush was given up or answered with an error.
    holds : lanes of the device that wait. ``active_host``, ``blocks``: what the lanes go by.
    status. ``ended`` : pulse, the switchover is over and the status says how.
    """
    def __init__(self):
        super().__init__({
            "start": In(1), "to_host": In(1), "unblock": In(1), "limit": In(32), "written": In(1), "chosen": In(1), "opaque": In(1),
            "unanswered": In(2), "asked": In(2), "issue_entered": In(4), "issue_accepted": In(4),
            "flush": In(FlushView).array(2), "flush_request": Out(1).array(2), "flush_lost": In(1).array(2),
            "holds": Out(Holds), "active_host": Out(1), "blocks": Out(1), "status": Out(SwitchoverStatus), "ended": Out(1),
        })

    def elaborate(self, platform):
        m = Module()
        m.submodules.mark = mark = Mark(4)
        waits, to_host, delay, proving = [FlushWait(), FlushWait()], Signal(), Signal(range(COUNTED_CYCLES + 1)), Signal()
        m.d.comb += [
            mark.target.eq(self.issue_entered), mark.count.eq(self.issue_accepted),
            self.status.active_host.eq(self.active_host), self.status.blocks.eq(self.blocks),
        ]
        for host, wait in enumerate(waits):
            m.submodules[f"wait_{'ab'[host]}"] = wait
            m.d.comb += [wait.flush.eq(self.flush[host]), self.flush_request[host].eq(wait.request)]
        m.d.sync += delay.eq(Mux(delay.any(), delay - 1, 0))
        with m.If(self.written):
            m.d.sync += self.active_host.eq(self.chosen)
        with m.If(self.unblock):
            m.d.sync += self.blocks.eq(0)
        reason = self._watch(m, proving)
        with m.FSM():
            with m.State("Idle"):
                with m.If(self.start):
                    m.d.sync += [
                        to_host.eq(self.to_host), self.status.busy.eq(1), self.status.done.eq(0), self.status.failed.eq(0),
                        self.status.error.eq(SwitchoverError.NONE), self.status.cycles.eq(0),
                    ]
                    m.next = "Check"
            state = partial(self._state, m, reason)
            self._close_requests(m, state, to_host, delay, mark)
            self._close_posted(m, state, to_host, delay, mark, waits, proving)
        return m

    def _watch(self, m, proving):
        """The first reason to stop; it counts until the change."""
        reason = Signal(SwitchoverError)
        with m.If(~self.status.busy):
            m.d.sync += reason.eq(SwitchoverError.NONE)
        with m.Else():
            m.d.sync += self.status.cycles.eq(self.status.cycles + 1)
            with m.If(reason == SwitchoverError.NONE):
                with m.If(self.opaque):
                    m.d.sync += reason.eq(SwitchoverError.OPAQUE)
                with m.Elif(proving & (self.flush_lost[0] | self.flush_lost[1])):
                    m.d.sync += reason.eq(SwitchoverError.FLUSH)
                with m.Elif(self.status.cycles >= self.limit):
                    m.d.sync += reason.eq(SwitchoverError.TIMEOUT)
        return reason

    def _state(self, m, reason, name, follow):
        """A state before the change: ``follow`` drives it unless there is a reason to stop."""
        with m.State(name):
            with m.If(reason != SwitchoverError.NONE):
                self._end(m, reason)
            with m.Else():
                follow()

    def _end(self, m, error):
        """Let everything go."""
        good = error == SwitchoverError.NONE
        m.d.comb += self.ended.eq(1)
        m.d.sync += [
            self.holds.posted.eq(0), self.holds.requests.eq(0), self.status.error.eq(error),
            self.status.busy.eq(0), self.status.done.eq(good), self.status.failed.eq(~good),
        ]
        m.next = "Idle"

    def _close_requests(self, m, state, to_host, delay, mark):
        """Requests wait, and what has been asked is answered."""
        def check():
            m.d.sync += [self.holds.requests.eq(1), delay.eq(CLOSED_CYCLES)]
            m.next = "Close Requests"
            with m.If(to_host == self.active_host):
                self._end(m, Const(SwitchoverError.ALREADY_THERE, SwitchoverError))

        def close():
            with m.If(delay == 0):
                m.d.comb += mark.set.eq(1)
                m.next = "Requests Pass"

        def passed():
            with m.If(mark.passed):
                m.d.sync += delay.eq(COUNTED_CYCLES)
                m.next = "Answers"

        def answers():
            with m.If((delay == 0) & ~self.unanswered.any() & ~self.asked.bit_select(self.active_host, 1)):
                m.d.sync += [self.holds.posted.eq(1), delay.eq(CLOSED_CYCLES)]
                m.next = "Close Posted"

        for name, follow in (("Check", check), ("Close Requests", close), ("Requests Pass", passed), ("Answers", answers)):
            state(name, follow)

    def _close_posted(self, m, state, to_host, delay, mark, waits, proving):
        """Posted TLPs wait, what was sent is proven visible, and the host changes."""
        def close():
            with m.If(delay == 0):
                m.d.comb += mark.set.eq(1)
                m.next = "Posted Pass"

        def passed():
            with m.If(mark.passed):
                m.d.comb += [wait.start.eq(1) for wait in waits]
                m.next = "Prove"

        def prove():
            m.d.comb += proving.eq(1)
            with m.If(waits[0].done & waits[1].done):
                # An answer may stand behind the posted TLPs that wait: they go on until it has left.
                with m.If(self.asked.bit_select(self.active_host, 1)):
                    m.d.sync += self.holds.posted.eq(0)
                    m.next = "Answers"
                with m.Else():
                    m.d.sync += [self.active_host.eq(to_host), self.blocks.eq(1)]
                    self._end(m, Const(SwitchoverError.NONE, SwitchoverError))

        for name, follow in (("Close Posted", close), ("Posted Pass", passed), ("Prove", prove)):
            state(name, follow)
