"""One lane out of two, TLP by TLP: what comes, and what was put aside."""

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

__all__ = ["LaneTurns"]


class LaneTurns(wiring.Component):
    """Merge a lane and what was put aside from it, both with their TLPs shown ahead.

    Items take no cycle. Beats come from a register, so that what is done with them does not begin at the memories of the lanes: the first is there
    two cycles after the item was taken, and the next two cycles after the one before it was taken.

    While both have something, what is aside has every fourth turn: it has waited for a page, and should not keep what need not. The oldest that
    is aside is shown again and again, until its beats are taken: who cannot use it yet leaves its beats and takes another item.

    Members
    -------
    i, i_ahead : the lane, and what is aside. o, ahead : what has its turn; its item is taken before its beats.
    aside : the TLP whose item was taken last was aside.
    """
    def __init__(self, lane_shape, ahead_shape):
        self.ahead_shape = ahead_shape
        super().__init__({
            "i": In(stream.Signature(lane_shape)).array(2), "i_ahead": In(stream.Signature(ahead_shape)).array(2),
            "o": Out(stream.Signature(lane_shape)), "ahead": Out(stream.Signature(ahead_shape)), "aside": Out(1),
        })

    def elaborate(self, platform):
        m = Module()
        oldest, oldest_valid, turn, since, chosen, taken = Signal(self.ahead_shape), Signal(), Signal(), Signal(2), Signal(), Signal()
        lane, kept = self.i_ahead
        m.d.comb += [
            turn.eq(oldest_valid & (since.all() | ~lane.valid)),
            self.ahead.valid.eq(lane.valid | oldest_valid), self.ahead.payload.eq(Mux(turn, oldest, lane.payload)),
            lane.ready.eq(self.ahead.ready & ~turn), kept.ready.eq(~oldest_valid),
            chosen.eq(self.ahead.valid & self.ahead.ready), taken.eq(self.o.valid & self.o.ready),
        ]
        m.d.sync += [
            self.o.valid.eq(Mux(self.aside, self.i[1].valid, self.i[0].valid) & ~taken & ~chosen),
            self.o.payload.eq(Mux(self.aside, self.i[1].payload, self.i[0].payload)),
        ]
        for number in range(2):
            m.d.comb += self.i[number].ready.eq(taken & (self.aside == number))
        with m.If(chosen):
            m.d.sync += [self.aside.eq(turn), since.eq(Mux(turn, 0, since + ~since.all()))]
        with m.If(~oldest_valid):
            m.d.sync += [oldest.eq(kept.payload), oldest_valid.eq(kept.valid)]
        with m.Elif(self.aside & taken & self.o.payload.beat.last):
            m.d.sync += oldest_valid.eq(0)
        return m
