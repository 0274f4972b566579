"""TLPs that wait beside their lane, so that those behind them which may pass them do."""

from amaranth.hdl import Module
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from pagehop.tlp.fifo import LaneFifo
from pagehop.tlp.ordering import DIRECT
from pagehop.tlp.stream import connect_streams

__all__ = ["AsideBeat", "SetAside"]


class AsideBeat(data.StructLayout):
    """A beat on its way aside, and with the first what is known of its TLP."""
    def __init__(self, lane_shape, ahead_shape):
        super().__init__({"lane": lane_shape, "ahead": ahead_shape})


class SetAside(wiring.Component):
    """Queue of TLPs that were put aside, with what is known of each shown ahead of its beats, as an :class:`OrderingQueue` does.

    One beat a cycle in and out, two cycles through. The item of a TLP is shown no earlier than its first beat is.

    Parameters
    ----------
    lane_shape, ahead_shape : of the lane that the TLPs come from.
    depth : beats, a power of two.

    Members
    -------
    i : what is put aside. o, ahead : beats in order, and an item for each TLP.
    """
    def __init__(self, lane_shape, ahead_shape, depth):
        self.lane_shape, self.ahead_shape, self.depth = lane_shape, ahead_shape, depth
        super().__init__({
            "i": In(stream.Signature(AsideBeat(lane_shape, ahead_shape))),
            "o": Out(stream.Signature(lane_shape)), "ahead": Out(stream.Signature(ahead_shape)),
        })

    def elaborate(self, platform):
        m = Module()
        direct = self.depth <= DIRECT
        m.submodules.beats = beats = LaneFifo(self.lane_shape, self.depth, direct=direct)
        m.submodules.items = items = LaneFifo(self.ahead_shape, self.depth, direct=direct)
        first = self.i.payload.lane.beat.first
        m.d.comb += [
            # As many items as beats at most: the beats are full first.
            self.i.ready.eq(beats.i.ready), beats.i.valid.eq(self.i.valid), beats.i.payload.eq(self.i.payload.lane),
            items.i.valid.eq(self.i.valid & beats.i.ready & first), items.i.payload.eq(self.i.payload.ahead),
        ]
        connect_streams(m, beats.o, self.o)
        connect_streams(m, items.o, self.ahead)
        return m
