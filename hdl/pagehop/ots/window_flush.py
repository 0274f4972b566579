"""Proof that what came to the windows is visible where they lead."""

from amaranth.hdl import Cat, Const, Module
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from pagehop.ots.layouts import WindowEntry, window_bits
from pagehop.tlp.flush import FlushView
from pagehop.tlp.flush_wait import FlushWait
from pagehop.tlp.issue import Mark
from pagehop.tlp.pages import PAGE_BITS

__all__ = ["WindowFlush"]


class WindowFlush(wiring.Component):
    """Wait until all that came before has its place at the egress, and then until a read of the page of one window has shown it visible (H03, H20).

    It waits as long as a window holds, which its limit bounds, unless it is told to wait for nothing; and for one flush.

    Members
    -------
    start, window, passed : in; ignored while ``busy``. ``passed``: of what is issued already only. ``waits``: the tracker is used by
        somebody else. index, entry : read port of the table
    accepted, left : posted TLPs that came, and that have been issued. entered, issued : TLPs that came to the issue register, and that left it
    flush, request, address : of the flush tracker. insist : a flush is needed whatever it says; in the cycle before ``request``
    busy, failed, flushes : out
    """
    def __init__(self, windows, stamp_bits):
        self.stamp_bits = stamp_bits
        window = window_bits(windows)
        super().__init__({
            "start": In(1), "passed": In(1), "waits": In(1), "window": In(window), "index": Out(window), "entry": In(WindowEntry),
            "accepted": In(stamp_bits), "left": In(stamp_bits),
            "entered": In(4), "issued": In(4), "flush": In(FlushView), "request": Out(1), "insist": Out(1), "address": Out(64),
            "busy": Out(1), "failed": Out(1), "flushes": Out(8),
        })

    def elaborate(self, platform):
        m = Module()
        m.submodules.came = came = Mark(self.stamp_bits)
        m.submodules.sent = sent = Mark(4)
        m.submodules.wait = wait = FlushWait()
        m.d.comb += [
            came.target.eq(self.accepted), came.count.eq(self.left), sent.target.eq(self.entered), sent.count.eq(self.issued),
            wait.flush.eq(self.flush), self.request.eq(wait.request),
        ]
        with m.FSM() as fsm:
            with m.State("Idle"):
                with m.If(self.start):
                    m.d.comb += came.set.eq(1)
                    m.d.sync += self.index.eq(self.window)
                    m.next = "Come"
                    with m.If(self.passed):
                        m.d.comb += sent.set.eq(1)
                        m.next = "Leave"
            with m.State("Come"):
                with m.If(came.passed):
                    m.d.comb += sent.set.eq(1)
                    m.next = "Leave"
            with m.State("Leave"):
                m.d.sync += self.address.eq(Cat(Const(0, PAGE_BITS), self.entry.target.number))
                with m.If(sent.passed):
                    m.next = "Address"
            with m.State("Address"):
                # A flush of another page proves nothing for this one, which may be behind a bridge.
                with m.If(~self.waits):
                    m.d.comb += self.insist.eq(1)
                    m.next = "Flush"
            with m.State("Flush"):
                m.d.comb += wait.start.eq(1)
                m.next = "Wait"
            with m.State("Wait"):
                with m.If(wait.done):
                    m.d.sync += [self.failed.eq(self.flush.lost), self.flushes.eq(self.flushes + 1)]
                    m.next = "Idle"
            m.d.comb += self.busy.eq(~fsm.ongoing("Idle"))
        return m
