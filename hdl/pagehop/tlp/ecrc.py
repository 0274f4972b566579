"""The end-to-end CRC of TLPs (PCI Express Base Specification 5.0, 2.7.1), computed beat by beat."""

from functools import cache

from amaranth.hdl import Cat, Const, Module, Mux, Signal
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from pagehop.tlp import headers
from pagehop.tlp.stream import TlpBeat

__all__ = ["RIGHT", "TlpCrc", "crc_cycles"]

#: The polynomial 0x04C11DB7 with its highest power last, as the CRC takes each byte from its bit 0 on; so the four bytes of a digest, in the order of
#: the wire, are the register's from its lowest on.
POLYNOMIAL = 0xEDB88320

#: The register after a TLP whose digest is right went in with that digest, complemented like every result.
RIGHT = 0x2144DF1C

DWORD_BITS = 32

#: The longest header: a prefix and four double words.
HEAD_DWORDS = 5


def _after(register, bits):
    """The register after so many bits of zero; before them, if there are fewer than none."""
    for _ in range(abs(bits)):
        if bits > 0:
            register = register >> 1 ^ (POLYNOMIAL if register & 1 else 0)
        else:
            register = ((register ^ POLYNOMIAL) << 1 | 1) if register >> 31 else register << 1
    return register


@cache
def _columns(bits, shift):
    """What each of ``bits`` bits, which end ``shift`` bits before the register is looked at, changes in it, the first bit first."""
    # A bit that comes in is that at the lowest place of the register, a step before.
    column = _after(1, shift + 1)
    columns = [column]
    for _ in range(bits - 1):
        columns.append(column := _after(column, 1))
    return tuple(reversed(columns))


def _taken(value, shift=0):
    """The bits of ``value`` in an empty register, ``shift`` bits of zero later."""
    columns = _columns(len(value), shift)
    return Cat(Cat(value[place] for place, column in enumerate(columns) if column >> bit & 1).xor() for bit in range(32))


def _moved(register, bits):
    """``register`` after ``bits`` bits of zero, or before them."""
    columns = [_after(1 << place, bits) for place in range(32)]
    return Cat(Cat(register[place] for place, column in enumerate(columns) if column >> bit & 1).xor() for bit in range(32))


class TlpCrc(wiring.Component):
    """The CRC of each TLP whose header has TD set, of beats that come in any cycle: ``done`` is 1, :func:`crc_cycles` cycles after its last beat,
    with ``crc``, as it stands in a digest. If the digest was among the beats, that is :data:`RIGHT` when it was right.

    What switches may change counts as 1: bit 0 of Type, and EP. A TLP begins with its prefix. Double words behind the last do not count.

    The CRC is linear. A beat goes in whole, zeros behind its last double word, and the zeros are undone: each power of two of them in a cycle of its
    own. The first double word goes in complemented, which stands for the register's first value, all ones; and zeros before it change nothing in an
    empty register, so that every header is one of five double words.
    """
    def __init__(self, data_bytes):
        self.data_bytes = data_bytes
        super().__init__({"valid": In(1), "beat": In(TlpBeat(data_bytes)), "done": Out(1), "crc": Out(32)})

    def elaborate(self, platform):
        m = Module()
        beat, lanes = self.beat, self.data_bytes // 4
        header = data.View(headers.RequestHeader(), beat.header)
        told = Signal()
        # Cycle 1: what counts.
        valid_1, first_1, last_1, count_1 = Signal(), Signal(), Signal(), Signal(range(lanes + 1))
        head_1, data_1 = Signal(32 * HEAD_DWORDS), Signal(8 * self.data_bytes)
        with m.If(self.valid & beat.first):
            m.d.sync += told.eq(header.digest)
        m.d.sync += [
            valid_1.eq(self.valid), first_1.eq(beat.first), last_1.eq(beat.last & Mux(beat.first, header.digest, told)), count_1.eq(beat.dwords),
            head_1.eq(self._head(beat)),
            data_1.eq(Cat(Mux(beat.dwords > lane, beat.data.word_select(lane, 32), 0) for lane in range(lanes))),
        ]
        # Cycle 2: what it would be in an empty register.
        valid_2, first_2, last_2, count_2 = (Signal.like(one) for one in (valid_1, first_1, last_1, count_1))
        head_2, data_2 = Signal(32), Signal(32)
        m.d.sync += [
            valid_2.eq(valid_1), first_2.eq(first_1), last_2.eq(last_1), count_2.eq(count_1), head_2.eq(_taken(head_1)), data_2.eq(_taken(data_1)),
        ]
        # Cycle 3: the register.
        register, ends, undone = Signal(32), Signal(), Signal(range(lanes))
        m.d.sync += ends.eq(valid_2 & last_2)
        with m.If(valid_2):
            m.d.sync += [register.eq(_moved(Mux(first_2, head_2, register), 8 * self.data_bytes) ^ data_2), undone.eq(lanes - count_2)]
            with m.If(count_2 == 0):
                m.d.sync += [register.eq(head_2), undone.eq(0)]
        # Then a cycle for each power of two of double words that are undone.
        for power in range(lanes.bit_length() - 2, -1, -1):
            before, register, ended, ends, undo, undone = register, Signal(32), ends, Signal(), undone, Signal(range(max(1 << power, 2)))
            m.d.sync += [
                register.eq(Mux(undo[power], _moved(before, -DWORD_BITS << power), before)), ends.eq(ended), undone.eq(undo),
            ]
        m.d.comb += [self.done.eq(ends), self.crc.eq(~register)]
        return m

    @staticmethod
    def _head(beat):
        """Prefix and header as they go in: five double words, the last at the end, and zeros before the first, which is complemented."""
        def on_the_wire(word):
            return Cat(word[byte:byte + 8] for byte in (24, 16, 8, 0))

        first, *others = (on_the_wire(beat.header[32 * (3 - number):][:32]) for number in range(4))
        # Type 0 and EP, in bytes 0 and 2.
        first |= 1 | 1 << 16 + 6
        long = data.View(headers.RequestHeader(), beat.header).fmt[0]
        prefix = Mux(beat.prefix_valid, ~on_the_wire(beat.prefix), 0)
        begin = Mux(beat.prefix_valid, first, ~first)
        return Cat(
            Mux(long, Cat(prefix, begin), Cat(Const(0, 32), prefix)),
            Mux(long, Cat(others), Cat(begin, others[:2])))


def crc_cycles(data_bytes):
    """Cycles from the last beat of a TLP to its CRC."""
    return 3 + (data_bytes // 4).bit_length() - 1
