"""Writes of software to leaves."""

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from pagehop.tlp import headers
from pagehop.tlp.headers import RequestHeader, TlpType
from pagehop.tlp.stream import TlpBeat

__all__ = ["LINE_BYTES", "LeafWrites", "in_one_line", "turned"]

#: Bytes, and double words, of a line.
LINE_BYTES, _DWORDS = 64, 16


def in_one_line(header):
    """1 when a memory request is untranslated, of one line of 64 bytes, and has the byte enables that its length asks for (2.2.5)."""
    single, place = header.length == 1, headers.address_of(header)[2:6]
    legal = Mux(single, header.last_be == 0, (header.first_be != 0) & (header.last_be != 0))
    short = (header.length != 0) & (header.length[5:] == 0) & (place + header.length[:5] <= _DWORDS)
    return (header.type == TlpType.MEMORY.value) & (header.address_type == 0) & short & legal


def turned(value, steps, unit):
    """``value`` rotated left by ``steps`` units of so many bits."""
    for bit in reversed(range(len(steps))):
        value = Mux(steps[bit], value.rotate_left(unit << bit), value)
    return value


class LeafWrites(wiring.Component):
    """Gather each write and put it into its line as a whole, in the cycle after its last beat came. A beat in each cycle.

    Dropped, with a pulse on ``dropped``: what is no memory write, crosses a line, is translated, poisoned in any beat or came with a wrong digest.

    Members
    -------
    posted : beats, always taken. writes, line, data, enables : out, a bit of ``enables`` a byte. dropped : out
    """
    def __init__(self, data_bytes, line_bits):
        self.data_bytes = data_bytes
        super().__init__({
            "posted": In(stream.Signature(TlpBeat(data_bytes))), "writes": Out(1), "line": Out(line_bits), "data": Out(8 * LINE_BYTES),
            "enables": Out(LINE_BYTES), "dropped": Out(1),
        })

    def elaborate(self, platform):
        m = Module()
        beat, comes, chunks = self.posted.payload, self.posted.valid, LINE_BYTES // self.data_bytes
        header = data.View(RequestHeader(), beat.header)
        payload, enables, place = Signal(8 * LINE_BYTES), Signal(LINE_BYTES), Signal(4)
        whole, served, damaged, following = Signal(), Signal(), Signal(), Signal(range(chunks + 1))
        number = Mux(beat.first, 0, following)
        m.d.comb += self.posted.ready.eq(1)
        m.d.sync += whole.eq(comes & beat.last)
        with m.If(comes):
            m.d.sync += [following.eq(Mux(number == chunks, chunks, number + 1)), damaged.eq(headers.is_damaged(beat) | (damaged & ~beat.first))]
            for chunk in range(chunks):
                with m.If(number == chunk):
                    m.d.sync += payload.word_select(chunk, 8 * self.data_bytes).eq(beat.data)
        with m.If(comes & beat.first):
            m.d.sync += [
                Cat(place, self.line).eq(headers.address_of(header)[2:]), served.eq(in_one_line(header) & headers.has_data(header)),
                enables.eq(Cat(self._enables(header, dword) for dword in range(_DWORDS))),
            ]
        m.d.comb += [
            self.writes.eq(whole & served & ~damaged), self.dropped.eq(whole & ~self.writes),
            self.data.eq(turned(payload, place, 32)), self.enables.eq(turned(enables, place, 4)),
        ]
        return m

    @staticmethod
    def _enables(header, dword):
        """Bytes of a double word of the payload that are written."""
        if dword == 0:
            return header.first_be
        length = header.length[:5]
        return Mux(length == dword + 1, header.last_be, (length > dword).replicate(4))
