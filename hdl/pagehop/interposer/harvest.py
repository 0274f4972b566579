"""The dirty bitmap as software reads it: true when it returns."""

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from pagehop.interposer.layouts import EpochView
from pagehop.interposer.visible_wait import VisibleWait
from pagehop.memory.bitmap import WORD_BITS, BitmapOp, BitmapOpKind
from pagehop.registers.bus import MemoryBus
from pagehop.tlp.flush import FlushView

__all__ = ["Harvest"]


class Harvest(wiring.Component):
    """Serve reads of the dirty bitmap, with and without clearing, one at a time.

    The bits are taken first; then the writes they stand for are followed to the egress and proven visible at both hosts, and the atomics that no
    flush pushes have been answered; then the read is answered (H46, H58). A word of zeros is answered at once. A word beyond the window is an error.
    So is one whose writes are not proven, for a flush was lost: its bits are put back, in 66 cycles in which the ingress pauses, and the next read
    asks for a proof anew. A word that is dropped is cleared and nothing more.

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
        m.submodules.visible = visible = VisibleWait()
        visible.within(m, self)
        word, taking, refused, dropping = Signal(WORD_BITS), Signal(), Signal(), Signal()
        index, bit = Signal.like(self.take.request.payload.index), Signal(range(WORD_BITS))
        m.d.comb += [visible.ready.eq(1), self.op.payload.index.eq(Cat(bit, index))]
        with m.FSM():
            with m.State("Idle"):
                for bus, takes in ((self.peek, 0), (self.take, 1)):
                    with m.If(bus.request.valid):
                        m.d.sync += [index.eq(bus.request.payload.index), taking.eq(takes), refused.eq(bus.request.payload.index >= self.words)]
                        m.next = "Pause"
                m.d.comb += [self.take.request.ready.eq(~self.drop.valid), self.peek.request.ready.eq(~self.drop.valid & ~self.take.request.valid)]
                m.d.sync += dropping.eq(self.drop.valid)
                with m.If(self.drop.valid):
                    m.d.sync += [index.eq(self.drop.payload), taking.eq(1), refused.eq(0)]
                    m.next = "Pause"
            with m.State("Pause"):
                m.d.comb += self.pause.eq(1)
                m.next = "Operate"
            with m.State("Operate"):
                m.d.comb += [self.op.valid.eq(~refused), self.op.payload.kind.eq(Mux(taking, BitmapOpKind.TAKE, BitmapOpKind.READ))]
                m.d.sync += word.eq(0)
                with m.If(refused):
                    m.next = "Answer"
                with m.Else():
                    m.next = "Read"
            with m.State("Read"):
                with m.If(self.word_valid):
                    m.d.sync += word.eq(self.word)
                    m.d.comb += self.drop.ready.eq(dropping)
                    m.next = "Look"
                    with m.If(dropping):
                        m.next = "Idle"
            with m.State("Look"):
                with m.If(word == 0):
                    m.next = "Answer"
                with m.Else():
                    m.d.comb += visible.start.eq(1)
                    m.next = "Prove"
            with m.State("Prove"):
                with m.If(visible.done):
                    m.d.sync += refused.eq(visible.lost)
                    m.next = "Answer"
                    with m.If(visible.lost & taking):
                        m.next = "Stop"
            with m.State("Stop"):
                m.d.comb += self.pause.eq(1)
                m.next = "Put Back"
            with m.State("Put Back"):
                m.d.comb += [self.pause.eq(1), self.op.valid.eq(word[0]), self.op.payload.kind.eq(BitmapOpKind.SET)]
                m.d.sync += [word.eq(word[1:]), bit.eq(bit + 1)]
                with m.If(bit.all()):
                    m.next = "Answer"
            with m.State("Answer"):
                for bus, takes in ((self.peek, 0), (self.take, 1)):
                    m.d.comb += [
                        bus.response.valid.eq(taking == takes), bus.response.payload.data.eq(word), bus.response.payload.error.eq(refused),
                    ]
                m.next = "Idle"
        return m
