"""The device copies a page itself, while others write to it through its window."""

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from pagehop.memory.copy_engine import CopyError, CopySet
from pagehop.ots.layouts import Refusal, WindowCommand, WindowEntry, WindowOp, window_bits
from pagehop.tlp.flush import FlushView
from pagehop.tlp.flush_wait import FlushWait
from pagehop.tlp.issue import Mark
from pagehop.tlp.pages import PAGE_BITS, FarPage

__all__ = ["PageMover"]

#: Cycles after which what both lanes are told has effect, and what left before has come to the issue register.
_EFFECT_CYCLES = 6

#: Times that the page is read again, in part, because atomics have changed it.
_ROUNDS = 8

#: ``copy_status.error`` when the hold of the last part took too long.
_TOO_LONG = 12


class PageMover(wiring.Component):
    """Copy the page of an open window and then lead the window to the copy (:class:`pagehop.memory.copy_engine.CopyEngine`, absorbing).

    Writes go on to the source, and into the copy as well; atomics to the source, and what they change is read again. When all is copied the mover
    gives the table the order COPY: nothing comes any more then until the last of the copy has its place at the egress, before whatever comes later
    (O2), or until ``limit`` cycles have passed. All but that last part has been proven visible by then (H03), and that by the flush that software
    asks for before the window is closed.

    Members
    -------
    start, window, target : in; of an open window that does not hold, else refused. index, entry : read port of the table
    order : to the table. carried, refused : of the table, pulses. gave_up, copied : see :class:`WindowTable`
    done, failure : pulses, the copy has ended without the table: ``failure`` says why. busy, failed, error : out, for ``copy_status``
    absorbing, absorb_window : out, writes and atomics of this window are told to the engine
    atomics : in, a bit a window. entered, issued : counts of the issue register of what comes through windows, own_… of what the engine sends
    limit : in, cycles. copy_… : of the engine
    flush, request, insist, proving : of the flush tracker, whose address is that of the copy while ``proving``. flush_busy : somebody else uses it
    """
    def __init__(self, windows):
        window = window_bits(windows)
        super().__init__({
            "start": In(1), "window": In(window), "target": In(FarPage), "index": Out(window), "entry": In(WindowEntry),
            "order": Out(stream.Signature(WindowCommand(windows))), "carried": In(1), "refused": In(1), "gave_up": Out(1), "copied": Out(1),
            "done": Out(1), "failure": Out(Refusal), "busy": Out(1), "failed": Out(1), "error": Out(4),
            "absorbing": Out(1), "absorb_window": Out(window), "atomics": In(windows), "limit": In(32),
            "flush": In(FlushView), "request": Out(1), "insist": Out(1), "proving": Out(1), "flush_busy": In(1),
            "entered": In(4), "issued": In(4), "own_entered": In(4), "own_issued": In(4),
            "copy_prepare": Out(1), "copy_set": Out(CopySet), "copy_prepared": In(1), "copy_start": Out(1), "copy_stop": Out(1), "copy_over": Out(1),
            "copy_source": Out(64), "copy_destination": Out(64), "copy_absorbed": In(1), "copy_stale": In(1), "copy_fetched": In(1),
            "copy_written": In(1), "copy_outstanding": In(1), "copy_owed": In(1), "copy_error": In(CopyError),
        })

    def elaborate(self, platform):
        m = Module()
        m.submodules.sent = sent = Mark(4)
        m.submodules.own_sent = own_sent = Mark(4)
        m.submodules.wait = wait = FlushWait()
        delay, rounds, target = Signal(range(_EFFECT_CYCLES + 1)), Signal(range(_ROUNDS + 1)), Signal(FarPage)
        order = self.order.payload
        m.d.comb += [
            sent.target.eq(self.entered), sent.count.eq(self.issued), own_sent.target.eq(self.own_entered), own_sent.count.eq(self.own_issued),
            wait.flush.eq(self.flush), self.request.eq(wait.request), order.window.eq(self.index), order.known.eq(1), order.op.eq(WindowOp.COPY),
            order.target.eq(target), self.absorb_window.eq(self.index),
            self.copy_source.eq(self.entry.target.number << PAGE_BITS), self.copy_destination.eq(target.number << PAGE_BITS),
        ]
        with m.If(delay != 0):
            m.d.sync += delay.eq(delay - 1)
        with m.FSM() as fsm:
            m.d.comb += self.busy.eq(~fsm.ongoing("Idle"))
            self._begin(m, delay, rounds, target)
            self._copy(m, delay, rounds, sent, own_sent)
            self._prove(m, own_sent, wait)
            self._turn(m, delay, rounds, sent, own_sent)
            self._end(m, delay, sent)
        return m

    def _begin(self, m, delay, rounds, target):
        with m.State("Idle"):
            with m.If(self.start):
                m.d.sync += [self.index.eq(self.window), target.eq(self.target), self.failed.eq(0), self.error.eq(0), rounds.eq(0), delay.eq(2)]
                m.next = "Look"
        with m.State("Look"):
            with m.If((delay == 0) & ~self.copy_owed):
                m.next = "Prepare"
                m.d.comb += [self.copy_prepare.eq(1), self.copy_set.eq(CopySet.ALL)]
                with m.If(~self.entry.open | self.entry.held):
                    m.d.comb += [self.copy_prepare.eq(0), self.done.eq(1), self.failure.eq(Refusal.STATE)]
                    m.next = "Idle"
        with m.State("Prepare"):
            with m.If(self.copy_prepared):
                m.d.sync += [self.absorbing.eq(1), delay.eq(_EFFECT_CYCLES)]
                m.next = "Absorb"

    def _copy(self, m, delay, rounds, sent, own_sent):
        """Read the page, or what atomics have changed of it, behind all that had left by then, and when those atomics have been answered (H58)."""
        with m.State("Absorb"):
            with m.If(delay == 0):
                m.d.comb += sent.set.eq(1)
                m.next = "Behind"
        with m.State("Behind"):
            with m.If(sent.passed & ~self.atomics.bit_select(self.index, 1)):
                m.d.comb += self.copy_start.eq(1)
                m.d.sync += delay.eq(2)
                m.next = "Copy"
        with m.State("Copy"):
            with m.If((self.copy_error != CopyError.NONE) & (delay == 0)):
                m.d.sync += self.error.eq(self.copy_error)
                m.next = "Fail"
            with m.Elif((delay == 0) & self.copy_fetched):
                m.d.comb += own_sent.set.eq(1)
                m.next = "Push"
                with m.If(self.copy_stale):
                    self._again(m, rounds)
        with m.State("Again"):
            with m.If(self.copy_prepared):
                m.d.sync += delay.eq(_EFFECT_CYCLES)
                m.next = "Absorb"

    def _prove(self, m, own_sent, wait):
        """What has been copied until now is at the egress, and then at its place."""
        with m.State("Push"):
            with m.If(own_sent.passed & ~self.flush_busy):
                m.d.sync += self.proving.eq(1)
                m.next = "Address"
        with m.State("Address"):
            m.d.comb += self.insist.eq(1)
            m.next = "Flush"
        with m.State("Flush"):
            m.d.comb += wait.start.eq(1)
            m.next = "Prove"
        with m.State("Prove"):
            with m.If(wait.done):
                m.d.sync += self.proving.eq(0)
                m.next = "Order"
                with m.If(self.flush.lost):
                    m.d.sync += self.error.eq(CopyError.TIMEOUT)
                    m.next = "Fail"

    def _again(self, m, rounds):
        m.d.comb += [self.copy_prepare.eq(1), self.copy_set.eq(CopySet.STALE)]
        m.d.sync += rounds.eq(rounds + 1)
        m.next = "Again"
        with m.If(rounds == _ROUNDS):
            m.d.comb += self.copy_prepare.eq(0)
            m.d.sync += self.error.eq(_TOO_LONG)
            m.next = "Fail"

    def _turn(self, m, delay, rounds, sent, own_sent):
        """The lanes pause: gather what has left, and send the last of the copy."""
        held = Signal(32)
        over = Signal()
        m.d.sync += over.eq(held >= self.limit)
        with m.State("Order"):
            m.d.comb += self.order.valid.eq(1)
            m.d.sync += held.eq(0)
            with m.If(self.order.ready):
                m.d.sync += delay.eq(_EFFECT_CYCLES)
                m.next = "Pause"
        with m.State("Pause"):
            with m.If(delay == 0):
                m.d.comb += sent.set.eq(1)
                m.next = "Gather"
        with m.State("Gather"):
            m.d.sync += held.eq(held + 1)
            with m.If((self.copy_error != CopyError.NONE) | over):
                m.d.sync += self.error.eq(Mux(over, _TOO_LONG, self.copy_error))
                m.next = "Refuse"
            with m.Elif(sent.passed & self.copy_absorbed):
                with m.If(self.copy_stale | self.atomics.bit_select(self.index, 1)):
                    m.next = "Refuse"
                with m.Elif(self.copy_written):
                    m.d.comb += own_sent.set.eq(1)
                    m.next = "Place"
        with m.State("Place"):
            m.d.sync += held.eq(held + 1)
            with m.If(own_sent.passed):
                m.next = "Commit"
            with m.Elif(over):
                m.d.sync += self.error.eq(_TOO_LONG)
                m.next = "Refuse"
        with m.State("Commit"):
            m.d.comb += self.copied.eq(1)
            with m.If(self.carried):
                m.d.comb += self.copy_over.eq(1)
                m.d.sync += self.absorbing.eq(0)
                m.next = "Idle"
            with m.If(self.refused):
                m.next = "Fail"
        with m.State("Refuse"):
            m.d.comb += self.gave_up.eq(1)
            with m.If(self.refused):
                m.next = "Fail"
                with m.If(self.error == 0):
                    with m.If(self.copy_stale):
                        self._again(m, rounds)
                    with m.Else():
                        m.next = "Order"

    def _end(self, m, delay, sent):
        with m.State("Fail"):
            m.d.comb += self.copy_stop.eq(1)
            m.d.sync += [self.absorbing.eq(0), self.failed.eq(1), delay.eq(_EFFECT_CYCLES)]
            m.next = "Stop"
        with m.State("Stop"):
            with m.If(delay == 0):
                m.d.comb += sent.set.eq(1)
                m.next = "Quiet"
        with m.State("Quiet"):
            # What left as absorbed still comes to the engine, and its reads are answered or given up (D16).
            with m.If(sent.passed & self.copy_absorbed & ~self.copy_outstanding):
                m.d.comb += [self.copy_over.eq(1), self.done.eq(1), self.failure.eq(Refusal.COPY)]
                m.next = "Idle"
