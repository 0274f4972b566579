"""What the core sends, to the P-Tile."""

from amaranth.hdl import Cat, Const, Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from pagehop.shell.ptile_signals import SEGMENT_DWORDS, TxStream
from pagehop.tlp.fifo import LaneFifo
from pagehop.tlp.headers import RequestHeader
from pagehop.tlp.stream import TlpBeat

__all__ = ["Transmit"]

#: Beats that wait: some TLPs of 512 bytes.
_DEPTH = 32

#: Cycles from ``ready`` to the beat that it allows (683059, 4.4.5).
_READY_LATENCY = 3


class Transmit(wiring.Component):
    """Hand TLPs over in the order in which they come, each from segment 0 on, when it has come whole, so that it has no gaps but those of ``ready``.

    One order is enough: what the core sends has credits of the link partner, so nothing waits here for what may pass it. 2 cycles for a TLP of one
    beat and one for each further beat of it; one beat a cycle. A TLP found poisoned in a later beat leaves with EP set; TD is cleared, as there is
    no digest.

    Members
    -------
    tlps : from the core.
    tx : the stream.
    """
    def __init__(self):
        super().__init__({"tlps": In(stream.Signature(TlpBeat(64))), "tx": Out(TxStream())})

    def elaborate(self, platform):
        m = Module()
        m.submodules.beats = beats = LaneFifo(TlpBeat(64), _DEPTH, direct=True)
        # One item for each TLP that has come whole: whether it is poisoned.
        m.submodules.whole = whole = LaneFifo(1, _DEPTH, direct=True)
        self._put(m, beats, whole)
        allowed, inside, leaves = Signal(_READY_LATENCY - 1), Signal(), Signal()
        beat, tx = beats.o.payload, self.tx
        m.d.comb += [
            leaves.eq(allowed[-1] & beats.o.valid & (inside | whole.o.valid)), beats.o.ready.eq(leaves), whole.o.ready.eq(leaves & ~inside),
        ]
        with m.If(leaves):
            m.d.sync += inside.eq(~beat.last)
        second = beat.dwords > SEGMENT_DWORDS
        m.d.sync += [
            allowed.eq(Cat(tx.ready, allowed)), tx.valid.eq(Cat(leaves, leaves & second)), tx.sop.eq(beat.first),
            tx.eop.eq(Cat(beat.last & ~second, beat.last & second)), tx.hdr[0].eq(self._header(beat, whole.o.payload)),
            tx.tlp_prfx[0].eq(Mux(beat.prefix_valid, beat.prefix, 0)), tx.data.eq(beat.data),
        ]
        return m

    def _put(self, m, beats, whole):
        poisoned, damaged = Signal(), self.tlps.payload.poisoned
        takes = self.tlps.valid & self.tlps.ready
        m.d.comb += [
            beats.i.valid.eq(self.tlps.valid), beats.i.payload.eq(self.tlps.payload), self.tlps.ready.eq(beats.i.ready),
            whole.i.valid.eq(takes & self.tlps.payload.last), whole.i.payload.eq(poisoned | damaged),
        ]
        with m.If(takes):
            m.d.sync += poisoned.eq(~self.tlps.payload.last & (poisoned | damaged))

    @staticmethod
    def _header(beat, poisoned):
        layout = RequestHeader()
        marked = Cat(Const(0, layout["poisoned"].offset), beat.first & poisoned & data.View(layout, beat.header).fmt[1])
        return (beat.header | marked) & ~(1 << layout["digest"].offset)
