"""Wait until what has been translated is in memory."""

from amaranth.hdl import Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from pagehop.tlp.flush import FlushView
from pagehop.tlp.flush_wait import FlushWait
from pagehop.tlp.issue import Mark

__all__ = ["FrontDrain"]


class FrontDrain(wiring.Component):
    """Wait until all that the gate has chosen up to ``start`` is visible: posted writes by a flush read behind them, other requests by their answers.

    Pulse ``start``, also before the end, to begin anew: ``done`` is 0 from the next cycle until that is so, or ``2 * limit`` cycles have passed.
    ``failed`` says beside ``done`` that it is not proven. Meanwhile requests wait (``holds``), so that all that are unanswered are older; what is
    answered ends their wait whatever else happens, and posted TLPs and completions go by them.

    Members
    -------
    entered, accepted : of the :class:`IssueRegister`. unanswered : requests at the host, as of the cycle before
    flush, flush_request : of the host's flush tracker. limit : in
    """
    start: In(1)
    done: Out(1, init=1)
    failed: Out(1)
    holds: Out(1)
    entered: In(4)
    accepted: In(4)
    unanswered: In(1)
    flush: In(FlushView)
    flush_request: Out(1)
    limit: In(32)

    def elaborate(self, platform):
        m = Module()
        m.submodules.mark, m.submodules.wait = mark, wait = Mark(4), FlushWait()
        passing, timer, begins, expired = Signal(), Signal(33), Signal(), Signal()
        m.d.comb += [
            mark.set.eq(self.start), mark.target.eq(self.entered), mark.count.eq(self.accepted),
            begins.eq(passing & mark.passed), wait.start.eq(begins), wait.flush.eq(self.flush), self.flush_request.eq(wait.request),
            self.holds.eq(~self.done),
        ]
        m.d.sync += [timer.eq(timer + 1), expired.eq(timer[1:] >= self.limit)]
        with m.If(self.start):
            m.d.sync += [self.done.eq(0), self.failed.eq(0), passing.eq(1), timer.eq(0), expired.eq(0)]
        with m.Else():
            with m.If(begins):
                m.d.sync += passing.eq(0)
            with m.If(~self.done & (expired | (~passing & wait.done & ~self.unanswered))):
                m.d.sync += [self.done.eq(1), self.failed.eq(expired | self.flush.lost)]
        return m
