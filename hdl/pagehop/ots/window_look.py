"""The head of a lane to the windows, beside what the table says of its window."""

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from pagehop.ots.layouts import WindowEntry, window_bits

__all__ = ["WindowLook"]


class WindowLook(wiring.Component):
    """Take what is known of a TLP ahead of its beats, and look up its window.

    One cycle from ``ahead`` to ``known``, one TLP a cycle. The table is read in every cycle, so while a TLP stands its entry follows each change
    within two cycles.

    Members
    -------
    ahead : of the ordering queue. index, entry : read port of the table, data one cycle after the index
    known, known_valid : of the TLP at the head. opens : its window is open to it, and nothing holds. refused : it has no window
    leaves : in, its last beat leaves in this cycle
    """
    def __init__(self, ahead_shape, windows):
        self.windows = windows
        super().__init__({
            "ahead": In(stream.Signature(ahead_shape)), "index": Out(window_bits(windows)), "entry": In(WindowEntry),
            "known": Out(ahead_shape), "known_valid": Out(1), "opens": Out(1), "refused": Out(1), "leaves": In(1),
        })

    def elaborate(self, platform):
        m = Module()
        takes, info = Signal(), self.known.info
        reaches = Signal()   # the address is that of the window as it is now
        m.d.comb += [
            takes.eq(~self.known_valid | self.leaves), self.ahead.ready.eq(takes),
            self.index.eq(Mux(takes, self.ahead.payload.info.window, info.window)),
            reaches.eq(self.entry.open & (self.entry.generation == info.generation)),
            self.opens.eq(self.known_valid & reaches & ~self.entry.held), self.refused.eq(self.known_valid & ~reaches),
        ]
        with m.If(takes):
            m.d.sync += [self.known_valid.eq(self.ahead.valid), self.known.eq(self.ahead.payload)]
        return m
