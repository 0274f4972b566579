"""The digest of TLPs that come in: checked and taken off."""

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from pagehop.tlp import headers
from pagehop.tlp.ecrc import RIGHT, TlpCrc
from pagehop.tlp.fifo import LaneFifo
from pagehop.tlp.stream import TlpBeat, connect_streams

__all__ = ["DigestCheck", "digest_beats"]

#: Items that a queue in memory of look-up tables may have.
MOST_DIRECT = 64


def digest_beats(data_bytes, max_payload):
    """Depth of a queue that holds a TLP while its CRC is found, and what comes meanwhile."""
    return 1 << (2 * (max_payload // data_bytes + 1) + 16 - 1).bit_length()


class DigestCheck(wiring.Component):
    """Take the digest off each TLP with TD set (2.7.1): the double word behind its data, which no length counts.

    With ``renews`` the digest is checked, TD stays set, for the TLP gets a new digest when it leaves, and ``digest_wrong`` says that this must be
    wrong too: what was damaged on its way to us must not look sound behind us. Such a TLP waits here until it has come whole and is judged: its beats
    and :func:`crc_cycles` more; others wait for those before them, 2 cycles at least. Without ``renews`` TD is cleared, nothing is
    checked, and a beat takes one cycle.

    Beats leave as they came, one a cycle, none more than came; ``i`` never stalls when ``o`` does not.

    Parameters
    ----------
    data_bytes, max_payload : in bytes.
    renews : whether TLPs get a new digest.

    Members
    -------
    wrong : pulses for each digest that is wrong.
    """
    def __init__(self, data_bytes, max_payload, *, renews):
        self.data_bytes, self.max_payload, self.renews = data_bytes, max_payload, renews
        super().__init__({
            "i": In(stream.Signature(TlpBeat(data_bytes))), "o": Out(stream.Signature(TlpBeat(data_bytes))), "wrong": Out(1),
        })

    def elaborate(self, platform):
        m = Module()
        bare = stream.Signature(TlpBeat(self.data_bytes)).create(path=("bare",))
        self._strip(m, bare)
        if self.renews:
            self._judge(m, bare)
        else:
            connect_streams(m, bare, self.o)
        return m

    def _strip(self, m, out):
        """A register behind what makes beats without digest of beats with it."""
        beat, free = self.i.payload, Signal()
        header = data.View(headers.RequestHeader(), beat.header)
        left, told, kept = Signal(11), Signal(), Signal()
        # Double words of data from this beat on, and whether there is a digest behind them.
        ahead, has_digest = Signal(11), Signal()
        count = Mux(ahead < beat.dwords, ahead, beat.dwords)
        m.d.comb += [
            free.eq(~out.valid | out.ready), self.i.ready.eq(free),
            ahead.eq(Mux(beat.first, Mux(header.fmt[1], header.length, 0), left)), has_digest.eq(Mux(beat.first, header.digest, told)),
            kept.eq(beat.first | (ahead != 0) | ~has_digest),
        ]
        with m.If(self.i.valid & free):
            m.d.sync += [left.eq(ahead - count), told.eq(has_digest)]
        with m.If(free):
            m.d.sync += [out.valid.eq(self.i.valid & kept), out.payload.eq(beat), out.payload.digest_wrong.eq(0)]
            with m.If(has_digest):
                m.d.sync += [out.payload.dwords.eq(count), out.payload.last.eq(ahead <= beat.dwords)]
            if not self.renews:
                m.d.sync += data.View(headers.RequestHeader(), out.payload.header).digest.eq(Mux(beat.first, 0, header.digest))

    def _judge(self, m, bare):
        """Keep TLPs with a digest until the verdict is there."""
        depth = digest_beats(self.data_bytes, self.max_payload)
        m.submodules.crc = crc = TlpCrc(self.data_bytes)
        m.submodules.beats = beats = LaneFifo(TlpBeat(self.data_bytes), depth)
        m.submodules.verdicts = verdicts = LaneFifo(1, depth, direct=depth <= MOST_DIRECT)
        connect_streams(m, bare, beats.i)
        beat = beats.o.payload
        judged = beat.first & data.View(headers.RequestHeader(), beat.header).digest
        goes = beats.o.valid & (~judged | verdicts.o.valid)
        m.d.comb += [
            crc.valid.eq(self.i.valid & self.i.ready), crc.beat.eq(self.i.payload),
            verdicts.i.valid.eq(crc.done), verdicts.i.payload.eq(crc.crc != RIGHT), self.wrong.eq(crc.done & (crc.crc != RIGHT)),
            self.o.valid.eq(goes), self.o.payload.eq(beat), self.o.payload.digest_wrong.eq(judged & verdicts.o.payload),
            beats.o.ready.eq(self.o.ready & goes), verdicts.o.ready.eq(self.o.ready & goes & judged),
        ]
