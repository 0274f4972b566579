"""Wait until all that the device has written so far is visible."""

from amaranth.hdl import Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from pagehop.interposer.epoch_wait import EpochWait
from pagehop.interposer.layouts import EpochView
from pagehop.tlp.flush import FlushView
from pagehop.tlp.flush_wait import FlushWait
from pagehop.tlp.issue import Mark

__all__ = ["VisibleWait"]


class VisibleWait(wiring.Component):
    """Wait until what the gate had chosen up to ``start`` is visible at both hosts, atomics included, which no flush pushes (H46, H58).

    Pulse ``start``, also before the end, to begin anew: ``done`` is 0 from the next cycle until what stood in the issue register has been accepted,
    the flushes that this needs have ended and atomics have been answered. ``lost`` says then that a flush has proven nothing.

    Members
    -------
    entered, accepted : TLPs of the device's issue register. ``ready``: what else must be accepted before the flushes has been.
    advance, epochs : of the outstanding table.
    flush, flush_request : of both hosts' flush trackers.
    """
    start: In(1)
    done: Out(1)
    lost: Out(1)
    entered: In(4)
    accepted: In(4)
    ready: In(1)
    advance: Out(1)
    epochs: In(EpochView)
    flush: In(FlushView).array(2)
    flush_request: Out(1).array(2)

    def within(self, m, part):
        """Connect to the ports of ``part``, which this is in, that have the same names."""
        m.d.comb += [self.entered.eq(part.entered), self.accepted.eq(part.accepted), part.advance.eq(self.advance), self.epochs.eq(part.epochs)]
        for host in range(2):
            m.d.comb += [self.flush[host].eq(part.flush[host]), part.flush_request[host].eq(self.flush_request[host])]

    def elaborate(self, platform):
        m = Module()
        m.submodules.mark = mark = Mark(4)
        m.submodules.atomics = atomics = EpochWait()
        m.submodules.wait_a, m.submodules.wait_b = waits = FlushWait(), FlushWait()
        passing = Signal()
        m.d.comb += [
            self.advance.eq(passing & mark.passed & self.ready & self.epochs.advance_ready),
            self.done.eq(~passing & waits[0].done & waits[1].done & atomics.done), self.lost.eq(self.flush[0].lost | self.flush[1].lost),
            mark.set.eq(self.start), mark.target.eq(self.entered), mark.count.eq(self.accepted),
            atomics.epoch.eq(self.epochs.epoch), atomics.unanswered.eq(self.epochs.atomics), atomics.start.eq(self.advance),
        ]
        for wait, flush, request in zip(waits, self.flush, self.flush_request, strict=True):
            m.d.comb += [wait.flush.eq(flush), wait.start.eq(self.advance), request.eq(wait.request)]
        with m.If(self.start):
            m.d.sync += passing.eq(1)
        with m.Elif(self.advance):
            m.d.sync += passing.eq(0)
        return m
