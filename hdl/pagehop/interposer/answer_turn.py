"""When an ingress takes an answer of the interposer's own in place of what its link brings."""

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

__all__ = ["AnswerTurn", "answer_beat"]


def answer_beat(beat, header):
    """Assignments that make ``beat`` a TLP of which ``header`` is all there is. What nobody looks at then stays as it is: data and prefix."""
    return [
        beat.header.eq(header), beat.dwords.eq(0), beat.first.eq(1), beat.last.eq(1), beat.prefix_valid.eq(0), beat.poisoned.eq(0),
        beat.digest_wrong.eq(0),
    ]


class AnswerTurn(wiring.Component):
    """Give the register of a decoder to answers of one beat, by turns with the TLPs of the link: neither waits for more than one of the other's.

    Decided a cycle ahead, so that nothing stands in front of what the decoder compares, and the link loses no cycle while there is no answer.

    Members
    -------
    answers : an answer waits; it stays until its turn.
    valid, last : of the beat on the link. ``advance``: the register takes what comes in this cycle.
    turn : a register, it takes the answer; the link waits.
    """
    answers: In(1)
    valid:   In(1)
    last:    In(1)
    advance: In(1)
    turn:    Out(1)

    def elaborate(self, platform):
        m = Module()
        inside, inside_next = Signal(), Signal()   # a TLP of the link has begun and not ended
        m.d.comb += inside_next.eq(Mux(self.valid & self.advance & ~self.turn, ~self.last, inside))
        m.d.sync += [
            inside.eq(inside_next),
            # A TLP that the register could not take yet keeps its turn.
            self.turn.eq(Mux(self.turn, ~self.advance, self.answers & ~inside_next & (self.advance | ~self.valid))),
        ]
        return m
