"""TLPs with more payload than a port takes, cut into pieces (H24c)."""

from amaranth.hdl import Cat, Const, Module, Mux, Signal
from amaranth.lib import data, enum, stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import exact_log2

from pagehop.tlp import headers
from pagehop.tlp.stream import TlpBeat, check_data_bytes

__all__ = ["LEAST_LIMIT", "LIMIT_BITS", "Cut", "CutBeat", "Cutter", "Cutting", "cutting_of"]

#: The smallest Max_Payload_Size, in bytes, and the largest Read Completion Boundary: whatever the limit, a piece can end at one.
LEAST_LIMIT = 128

#: Bits of a limit, coded as Max_Payload_Size in Device Control: 128 bytes << 0 to 5 (7.5.3.4).
LIMIT_BITS = 3


class Cut(enum.Enum, shape=2):
    """How a TLP is cut: not, or into pieces of 128 or 256 bytes."""
    NONE   = 0
    AT_128 = 1
    AT_256 = 2


class Cutting(data.Struct):
    """How a TLP is cut, at which double word it ends, counted from the last multiple of 128 bytes before it, and the data credits of what leaves
    first: the TLP, or its first piece."""
    cut:   Cut
    end:   8
    units: 6


class CutBeat(data.StructLayout):
    """A beat, and with the first one of a TLP its :class:`Cutting`."""
    def __init__(self, data_bytes):
        super().__init__({"beat": TlpBeat(data_bytes), "cutting": Cutting})


def cutting_of(header, limit):
    """Fields of the :class:`Cutting` of a TLP with this header, by name, where the coded ``limit`` holds. Its payload has 512 bytes at most.

    Memory writes and completions are cut. Requests with an operand are never so long, and messages cannot be.
    """
    fields = data.View(headers.RequestHeader(), header)
    may, size = headers.has_data(header) & (headers.is_memory(header) | headers.is_completion(header)), fields.length[:8]
    whole, place = Mux(headers.has_data(header), headers.credits_of_dwords(size), 0), _place(header)
    at_128, at_256 = may & (limit == 0) & (size > 32), may & (limit == 1) & (size > 64)
    cut = Mux(at_128, Cut.AT_128.value, Mux(at_256, Cut.AT_256.value, Cut.NONE.value))
    first = Mux(at_128, 8 - place[2:], Mux(at_256, 16 - place[2:], whole))
    return {"cut": cut, "end": (size + place)[:8], "units": first[:6]}


def _place(header):
    """Double words between the last multiple of 128 bytes and the beginning of the TLP: an address and a Lower Address stand at the same place."""
    return headers.address_of(header)[2:exact_log2(LEAST_LIMIT)]


class Cutter(wiring.Component):
    """Cut memory writes, or completions. It stands at the head of an egress lane, so each piece is a TLP of its own for whatever comes behind: it has
    its own place in the turns and takes its own credits. What is not to be cut goes through unchanged.

    Latency 0, one beat a cycle; pieces in increasing order of addresses. Each but the last ends at a multiple of 128 bytes, as late as the limit
    allows. Completions must end so (2.3.1.1); of a write no line of 64 bytes is torn, which drivers take for granted. The first piece may
    so end amid a beat; then all that follows is shifted, and ``i`` stands still for one cycle when that makes it a beat longer. It also does for
    a cycle after a first piece of one beat.

    Every field of the header is that of the whole but Length and: of a write, the address and the byte enables, since only the first piece has
    the first and only the last piece the last; of a completion, Byte Count and Lower Address. Each piece has the prefix, and is poisoned when
    its first beat or any before is.

    Parameters
    ----------
    data_bytes : beat width in bytes.
    completions : the lane has completions, else writes.

    Members
    -------
    i : a TLP stays until the last beat of its last piece is taken from ``o``. What is to be cut has more payload than its pieces.
    units : data credits of the TLP that begins on ``o``. ``amid``: a piece has begun to leave and the last one has not left.
    """
    def __init__(self, data_bytes, *, completions):
        check_data_bytes(data_bytes)
        self.data_bytes, self.completions = data_bytes, completions
        super().__init__({
            "i": In(stream.Signature(CutBeat(data_bytes))), "o": Out(stream.Signature(TlpBeat(data_bytes))), "units": Out(6), "amid": Out(1),
        })

    def elaborate(self, platform):
        m = Module()
        beat, out, width, known = self.i.payload.beat, self.o.payload, self.data_bytes // 4, self.i.payload.cutting
        fresh, cutting, cuts, taken = Signal(), Signal(), Signal(), Signal()
        # Of the beat on `o`: double words of its piece from it on, whether it ends the piece, and the whole.
        left, ends, final = Signal(7), Signal(), Signal()
        left_q, ends_q, begins, is_last = Signal(7), Signal(), Signal(), Signal()
        # Where the whole ends, counted from the boundary before the piece; the piece that comes next is counted out: from registers alone.
        end, most, loads, pending = Signal(8), Signal(7), Signal(), Signal()
        place, poisoned = _place(beat.header), Signal()
        at_256 = known.cut == Cut.AT_256
        last_follows, behind = end <= 2 * most, Signal(8)
        m.d.comb += [
            taken.eq(self.o.valid & self.o.ready), fresh.eq(beat.first), cuts.eq(cutting | (fresh & (known.cut != Cut.NONE))),
            # The first piece ends at a boundary, and is never the last.
            left.eq(Mux(fresh, Mux(at_256, 64, 32) - place, left_q)), ends.eq(Mux(fresh, ~at_256 & (place >= 32 - width), ends_q)),
            final.eq(~fresh & ends_q & is_last), loads.eq(pending | (taken & cutting & ends_q & ~is_last)), behind.eq(end - most),
            self.o.valid.eq(self.i.valid & ~pending), out.eq(beat),
            # The last beat stays while it has double words for another piece.
            self.i.ready.eq(self.o.ready & ~pending & ~(cuts & beat.last & ~final)),
        ]
        header, prefix = self._header(m, taken & fresh, loads, left, most, begins, is_last), self._prefix(m, begins)
        payload = self._shifted(m, taken & cuts, ends, final, left)
        with m.If(cuts):
            m.d.comb += [
                out.data.eq(payload), out.dwords.eq(Mux(ends, left, width)), out.first.eq(fresh | begins), out.last.eq(ends),
                out.poisoned.eq(beat.poisoned | poisoned), out.header.eq(header), *prefix,
            ]
        units_q = Signal.like(self.units)
        m.d.comb += [self.amid.eq(cutting), self.units.eq(Mux(cutting, units_q, known.units))]
        m.d.sync += pending.eq(0)
        with m.If(taken & cuts):
            m.d.sync += [
                cutting.eq(~final), begins.eq(0), poisoned.eq(out.poisoned & ~final), is_last.eq(is_last & ~final),
                left_q.eq(left - width), ends_q.eq(left <= 2 * width),
            ]
            with m.If(fresh):
                m.d.sync += [end.eq(known.end), most.eq(Mux(at_256, 64, 32)), pending.eq(ends)]
        with m.If(loads):
            m.d.sync += [
                begins.eq(1), is_last.eq(last_follows), left_q.eq(Mux(last_follows, behind, most)), end.eq(behind),
                ends_q.eq(Mux(last_follows, behind, most) <= width), units_q.eq(Mux(last_follows, headers.credits_of_dwords(behind), most >> 2)),
            ]
        return m

    def _header(self, m, taken, loads, left, most, begins, is_last):
        """Header of the beat on ``o`` when its TLP is cut. That of the whole is kept as it is ``taken``, and turned into that of the next piece."""
        kind = headers.CompletionHeader() if self.completions else headers.RequestHeader()
        whole, now, kept = data.View(kind, self.i.payload.beat.header), Signal(kind, name="now"), Signal(kind, name="kept")
        fresh, single = self.i.payload.beat.first, left == 1
        m.d.comb += now.eq(Mux(fresh, whole, Mux(begins, kept, 0)))
        with m.If(fresh | begins):
            m.d.comb += now.length.eq(left)
        with m.If(taken):
            m.d.sync += kept.eq(whole)
        if self.completions:
            with m.If(loads):
                m.d.sync += [kept.byte_count.eq(kept.byte_count + kept.lower_address - (most << 2)), kept.lower_address.eq(0)]
            return now
        with m.If(fresh):
            m.d.comb += now.last_be.eq(Mux(single, 0, 0xF))
        with m.Elif(begins):
            # In a piece of one double word the last byte enables are the first ones.
            m.d.comb += [now.first_be.eq(Mux(single, kept.last_be, 0xF)), now.last_be.eq(Mux(single, 0, Mux(is_last, kept.last_be, 0xF)))]
        with m.If(loads):
            # No request crosses a boundary of 4 KB.
            for wide, name in enumerate(("dw2", "dw3")):
                with m.If(kept.fmt[0] == wide):
                    m.d.sync += kept[name][2:12].eq(Cat(Const(0, 5), kept[name][7:12] + most[5:]))
        return now

    def _prefix(self, m, begins):
        """A prefix goes before each piece, and the digest of each is wrong when that of the whole was."""
        beat, out, prefix, prefix_valid, wrong = self.i.payload.beat, self.o.payload, Signal(32), Signal(), Signal()
        with m.If(self.i.valid & beat.first):
            m.d.sync += [prefix.eq(beat.prefix), prefix_valid.eq(beat.prefix_valid), wrong.eq(beat.digest_wrong)]
        return [
            out.prefix.eq(Mux(beat.first, beat.prefix, Mux(begins, prefix, 0))),
            out.prefix_valid.eq(Mux(beat.first, beat.prefix_valid, begins & prefix_valid)),
            out.digest_wrong.eq(Mux(beat.first, beat.digest_wrong, begins & wrong)),
        ]

    def _shifted(self, m, taken, ends, final, left):
        """Payload of the beat on ``o``: from the double word on at which the first piece has ended amid a beat, part of two beats."""
        beat = self.i.payload.beat
        before, skip = Signal.like(beat.data), Signal(exact_log2(self.data_bytes // 4))
        with m.If(taken):
            m.d.sync += before.eq(beat.data)
            with m.If(final):
                m.d.sync += skip.eq(0)
            with m.Elif(ends):
                # A later piece that is not the last is a number of whole beats.
                m.d.sync += skip.eq(skip | left[:len(skip)])
        return Mux(skip.any(), (Cat(before, beat.data) >> (skip << 5))[:len(beat.data)], beat.data)
