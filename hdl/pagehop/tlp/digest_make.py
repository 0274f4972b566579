"""The digest of TLPs that leave."""

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from pagehop.tlp import headers
from pagehop.tlp.ecrc import TlpCrc
from pagehop.tlp.fifo import LaneFifo
from pagehop.tlp.stream import TlpBeat

__all__ = ["DigestMake"]

#: Beats and digests that wait: more than what comes while a CRC is found.
DEPTH = 32


class DigestMake(wiring.Component):
    """Put its digest behind each TLP with TD set: the CRC of the TLP as it leaves here, inverted when ``digest_wrong`` is set, which ends here.

    The digest takes the next double word of the last beat, or a beat of its own when that is full; otherwise one beat a cycle. The last beat of such
    a TLP leaves when its CRC is there, :func:`crc_cycles` and 2 cycles after it came; other beats take 2 cycles.

    Parameters
    ----------
    data_bytes : beat width.
    """
    def __init__(self, data_bytes):
        self.data_bytes = data_bytes
        super().__init__({"i": In(stream.Signature(TlpBeat(data_bytes))), "o": Out(stream.Signature(TlpBeat(data_bytes)))})

    def elaborate(self, platform):
        m = Module()
        lanes = self.data_bytes // 4
        m.submodules.crc = crc = TlpCrc(self.data_bytes)
        m.submodules.beats = beats = LaneFifo(TlpBeat(self.data_bytes), DEPTH)
        m.submodules.digests = digests = LaneFifo(32, DEPTH, direct=True)
        beat, out = beats.o.payload, Signal(TlpBeat(self.data_bytes))
        told_q, wrong_q, alone = Signal(), Signal(), Signal()   # `alone`: a beat with nothing but the digest is next
        told = Mux(beat.first, data.View(headers.RequestHeader(), beat.header).digest, told_q)
        wrong = Mux(beat.first, beat.digest_wrong, wrong_q)
        ends, full, free, goes = Signal(), Signal(), Signal(), Signal()
        digest = digests.o.payload ^ wrong.replicate(32)
        m.d.comb += [
            beats.i.valid.eq(self.i.valid), beats.i.payload.eq(self.i.payload), self.i.ready.eq(beats.i.ready),
            crc.valid.eq(self.i.valid & self.i.ready), crc.beat.eq(self.i.payload),
            digests.i.valid.eq(crc.done), digests.i.payload.eq(crc.crc),
            ends.eq(beat.last & told), full.eq(beat.dwords == lanes), free.eq(~self.o.valid | self.o.ready),
            goes.eq(free & beats.o.valid & (~ends | digests.o.valid)),
            beats.o.ready.eq(goes & (~(ends & full) | alone)), digests.o.ready.eq(goes & ends & (~full | alone)),
            out.eq(beat), out.digest_wrong.eq(0), out.last.eq(beat.last & ~(ends & full)),
        ]
        with m.If(ends & ~full):
            m.d.comb += [
                out.data.eq(Cat(Mux(beat.dwords == lane, digest, beat.data.word_select(lane, 32)) for lane in range(lanes))),
                out.dwords.eq(beat.dwords + 1),
            ]
        with m.If(alone):
            m.d.comb += [
                out.data.eq(digest), out.dwords.eq(1), out.last.eq(1), out.first.eq(0), out.header.eq(0), out.prefix.eq(0), out.prefix_valid.eq(0),
            ]
        with m.If(goes):
            m.d.sync += [told_q.eq(told), wrong_q.eq(wrong), alone.eq(ends & full & ~alone)]
        with m.If(free):
            m.d.sync += [self.o.valid.eq(goes), self.o.payload.eq(out)]
        return m
