"""The dirty bitmap as software reads it: true when it returns."""

from amaranth.hdl import Cat, Const, Module, Mux, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from pagehop.interposer.epoch_wait import EpochWait
from pagehop.interposer.flush_wait import FlushWait
from pagehop.interposer.issue import Mark
from pagehop.interposer.layouts import EpochView, FlushView
from pagehop.memory.bitmap import WORD_BITS, BitmapOp, BitmapOpKind
from pagehop.registers.bus import MemoryBus

__all__ = ["Harvest"]


class Harvest(wiring.Component):
    """Serve reads of the dirty bitmap, with and without clearing, one at a time.

    The bits are taken first; then the writes they stand for are followed to the egress and proven visible at both hosts, and the atomics that no
    flush pushes have been answered; then the read is answered (H46, H58). A word of zeros is answered at once. A word beyond the window is an error.
    A word that is dropped is cleared and nothing more.

    Members
    -------
    take, peek : memory buses of the register file. ``drop``: indices of words to clear, taken when it is done, before reads.
    op, word, word_valid : port of the bitmap. ``pause`` is 1 in the cycle before each operation: what the ingress
        chooses then would be marked in the cycle of the operation.
    entered, accepted : TLPs of the device's issue register.
    advance, epochs : of the outstanding table.
    flush, flush_request : both hosts' flush trackers.
    """
    def __init__(self, window_pages, words_bits):
        self.words = window_pages // WORD_BITS
        super().__init__({
            "take": In(MemoryBus(words_bits)), "peek": In(MemoryBus(words_bits)), "drop": In(stream.Signature(words_bits)),
            "op": Out(stream.Signature(BitmapOp(window_pages))), "word": In(WORD_BITS), "word_valid": In(1), "pause": Out(1),
            "entered": In(4), "accepted": In(4),
            "advance": Out(1), "epochs": In(EpochView),
            "flush": In(FlushView).array(2), "flush_request": Out(1).array(2),
        })

    def elaborate(self, platform):
        m = Module()
        m.submodules.mark = mark = Mark(4)
        m.submodules.atomics = atomics = EpochWait()
        m.d.comb += [atomics.epoch.eq(self.epochs.epoch), atomics.unanswered.eq(self.epochs.atomics), atomics.start.eq(self.advance)]
        waits = []
        for host in range(2):
            m.submodules[f"wait_{'ab'[host]}"] = wait = FlushWait()
            m.d.comb += [
                wait.flush.eq(self.flush[host]), self.flush_request[host].eq(wait.request),
            ]
            waits.append(wait)
        word, taking, outside, dropping = Signal(WORD_BITS), Signal(), Signal(), Signal()
        index = Signal.like(self.take.request.payload.index)
        m.d.comb += [mark.target.eq(self.entered), mark.count.eq(self.accepted)]
        with m.FSM():
            with m.State("Idle"):
                for bus, takes in ((self.peek, 0), (self.take, 1)):
                    with m.If(bus.request.valid):
                        m.d.sync += [index.eq(bus.request.payload.index), taking.eq(takes), outside.eq(bus.request.payload.index >= self.words)]
                        m.next = "Pause"
                m.d.comb += [self.take.request.ready.eq(~self.drop.valid), self.peek.request.ready.eq(~self.drop.valid & ~self.take.request.valid)]
                m.d.sync += dropping.eq(self.drop.valid)
                with m.If(self.drop.valid):
                    m.d.sync += [index.eq(self.drop.payload), taking.eq(1), outside.eq(0)]
                    m.next = "Pause"
            with m.State("Pause"):
                m.d.comb += self.pause.eq(1)
                m.next = "Operate"
            with m.State("Operate"):
                m.d.comb += [
                    self.op.valid.eq(~outside),
                    self.op.payload.kind.eq(Mux(taking, BitmapOpKind.TAKE, BitmapOpKind.READ)),
                    self.op.payload.index.eq(Cat(Const(0, 6), index)),
                ]
                m.d.sync += word.eq(0)
                with m.If(outside):
                    m.next = "Answer"
                with m.Else():
                    m.next = "Read"
            with m.State("Read"):
                with m.If(self.word_valid):
                    m.d.sync += word.eq(self.word)
                    m.d.comb += [mark.set.eq(1), self.drop.ready.eq(dropping)]
                    m.next = "Pass"
                    with m.If(dropping):
                        m.next = "Idle"
            with m.State("Pass"):
                with m.If(word == 0):
                    m.next = "Answer"
                with m.Elif(mark.passed & self.epochs.advance_ready):
                    m.d.comb += [self.advance.eq(1), *(wait.start.eq(1) for wait in waits)]
                    m.next = "Prove"
            with m.State("Prove"):
                with m.If(waits[0].done & waits[1].done & atomics.done):
                    m.next = "Answer"
            with m.State("Answer"):
                for bus, takes in ((self.peek, 0), (self.take, 1)):
                    m.d.comb += [
                        bus.response.valid.eq(taking == takes), bus.response.payload.data.eq(word), bus.response.payload.error.eq(outside),
                    ]
                m.next = "Idle"
        return m
