"""TLPs with more payload than a port takes, cut into pieces (H24c)."""

from amaranth.hdl import Array, Cat, Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import exact_log2

from pagehop.tlp import headers
from pagehop.tlp.stream import TlpBeat, check_data_bytes

__all__ = ["LEAST_LIMIT", "LIMIT_BITS", "Cutter"]

#: The smallest Max_Payload_Size, in bytes, and the largest Read Completion Boundary: whatever the limit, a piece can end at one.
LEAST_LIMIT = 128

#: Bits of a limit, coded as Max_Payload_Size in Device Control: 128 bytes << 0 to 5 (7.5.3.4).
LIMIT_BITS = 3


class Cutter(wiring.Component):
    """Cut memory writes, or completions, whose payload exceeds a limit. It stands at the head of an egress lane, so each piece is a TLP of its own
    for whatever comes behind: it has its own place in the turns and takes its own credits. All other TLPs go through unchanged.

    Latency 0, one beat a cycle; pieces in increasing order of addresses. Each but the last ends at a multiple of 128 bytes, as late as the limit
    allows. Completions must end so (2.3.1.1); of a write no line of 64 bytes is torn, which drivers take for granted. The first piece may
    so end amid a beat; then all that follows is shifted, and ``i`` stands still for one cycle when that makes it a beat longer.

    Every field of the header is that of the whole but Length and: of a write, the address and the byte enables, since only the first piece has
    the first and only the last piece the last; of a completion, Byte Count and Lower Address. Each piece has the prefix, and is poisoned when
    its first beat or any before is.

    Parameters
    ----------
    data_bytes : beat width in bytes.
    max_payload : largest payload on ``i``, 256 or 512 bytes.
    completions : the lane has completions. Else it has posted TLPs, of which only memory writes are cut.

    Members
    -------
    i : a TLP stays until the last beat of its last piece is taken from ``o``.
    limit : see :data:`LIMIT_BITS`. A TLP that waits on ``i`` keeps that with which it came.
    """
    def __init__(self, data_bytes, max_payload, *, completions):
        check_data_bytes(data_bytes)
        if max_payload not in (2 * LEAST_LIMIT, 4 * LEAST_LIMIT):
            raise ValueError(f"Payloads that are cut must have 256 or 512 bytes at most, not {max_payload!r}")
        self.data_bytes, self.max_payload, self.completions = data_bytes, max_payload, completions
        beats = stream.Signature(TlpBeat(data_bytes))
        super().__init__({"i": In(beats), "o": Out(beats), "limit": In(LIMIT_BITS)})

    def elaborate(self, platform):
        m = Module()
        beat, out, width = self.i.payload, self.o.payload, self.data_bytes // 4
        size = range(self.max_payload // 4 + 1)
        # Double words of this piece from this beat on, and of those behind it; the same of the next beat when amid a TLP that is cut.
        left, rest, left_q, rest_q = (Signal(size, name=name) for name in ("left", "rest", "left_q", "rest_q"))
        most = Signal(size, init=self.max_payload // 4)
        cutting, begins, poisoned = Signal(), Signal(), Signal()
        taken, fresh, cuts, ends, final = Signal(), Signal(), Signal(), Signal(), Signal()
        header, following = self._headers(m, left, rest, most, taken & out.first, begins)
        fields = data.View(headers.RequestHeader(), beat.header)
        length = fields.length[:len(left)]
        m.d.comb += [
            taken.eq(self.o.valid & self.o.ready), fresh.eq(beat.first),
            cuts.eq(cutting | (fresh & self._may_be_cut(beat.header) & (length > most))),
            left.eq(Mux(fresh, most - self._place(beat.header), left_q)), rest.eq(Mux(fresh, length - left, rest_q)),
            ends.eq(left <= width), final.eq(ends & (rest == 0)),
            # The last beat stays while it has double words for another piece.
            self.o.valid.eq(self.i.valid), self.i.ready.eq(self.o.ready & ~(cuts & beat.last & ~final)),
            out.eq(beat),
        ]
        payload, prefix = self._shifted(m, taken & cuts, ends, final, left), self._prefix(m, begins)
        with m.If(cuts):
            m.d.comb += [
                out.data.eq(payload), out.dwords.eq(Mux(ends, left, width)), out.first.eq(fresh | begins), out.last.eq(ends),
                out.poisoned.eq(beat.poisoned | poisoned), out.header.eq(header), *prefix,
            ]
        with m.If(taken & cuts):
            m.d.sync += [
                cutting.eq(~final), begins.eq(ends & ~final), poisoned.eq(out.poisoned & ~final),
                left_q.eq(Mux(ends, following, left - width)), rest_q.eq(Mux(ends, rest - following, rest)),
            ]
        # A limit that changed under a TLP that waits would change its size, after somebody has looked for credits.
        with m.If(~self.i.valid | taken):
            m.d.sync += most.eq(Array(min(LEAST_LIMIT << n, self.max_payload) // 4 for n in range(1 << LIMIT_BITS))[self.limit])
        return m

    def _may_be_cut(self, header):
        return headers.has_data(header) & (1 if self.completions else headers.is_memory(header))

    def _place(self, header):
        """Double words between the last boundary and the beginning of the TLP."""
        address = data.View(headers.CompletionHeader(), header).lower_address if self.completions else headers.address_of(header)
        return address[2:exact_log2(LEAST_LIMIT)]

    def _headers(self, m, left, rest, most, begun, begins):
        """Header of the beat on ``o`` when its TLP is cut, and double words of the next piece, known from the first beat of each piece on."""
        kind = headers.CompletionHeader() if self.completions else headers.RequestHeader()
        whole, now, then = data.View(kind, self.i.payload.header), Signal(kind, name="now"), Signal(kind, name="then")
        fresh, size, following = self.i.payload.first, Signal.like(left), Signal.like(left)
        last_be, last_be_q = Signal(4), Signal(4)
        m.d.comb += [
            now.eq(Mux(fresh, whole, Mux(begins, then, 0))), size.eq(Mux(rest > most, most, rest)),
            following.eq(Mux(fresh | begins, size, then.length)),
        ]
        with m.If(fresh):
            m.d.comb += now.length.eq(left)
            if not self.completions:
                m.d.comb += now.last_be.eq(Mux(left == 1, 0, 0xF))
        with m.If(begun):
            m.d.sync += [then.eq(now), then.length.eq(size)]
            if self.completions:
                m.d.sync += [then.byte_count.eq(now.byte_count - (left << 2) + now.lower_address[:2]), then.lower_address.eq(0)]
            else:
                m.d.comb += last_be.eq(Mux(fresh, whole.last_be, last_be_q))
                # In a piece of one double word the last byte enables are the first ones.
                m.d.sync += [
                    last_be_q.eq(last_be),
                    then.first_be.eq(Mux(rest == 1, last_be, 0xF)), then.last_be.eq(Mux(rest == 1, 0, Mux(rest > most, 0xF, last_be))),
                ]
                # No request crosses a boundary of 4 KB.
                with m.If(now.fmt[0]):
                    m.d.sync += then.dw3[2:12].eq(now.dw3[2:12] + left)
                with m.Else():
                    m.d.sync += then.dw2[2:12].eq(now.dw2[2:12] + left)
        return now, following

    def _prefix(self, m, begins):
        """A prefix goes before each piece."""
        beat, out, prefix, prefix_valid = self.i.payload, self.o.payload, Signal(32), Signal()
        with m.If(self.i.valid & beat.first):
            m.d.sync += [prefix.eq(beat.prefix), prefix_valid.eq(beat.prefix_valid)]
        return [
            out.prefix.eq(Mux(beat.first, beat.prefix, Mux(begins, prefix, 0))),
            out.prefix_valid.eq(Mux(beat.first, beat.prefix_valid, begins & prefix_valid)),
        ]

    def _shifted(self, m, taken, ends, final, left):
        """Payload of the beat on ``o``: from the double word on at which the first piece has ended amid a beat, part of two beats."""
        beat, width = self.i.payload, self.data_bytes // 4
        before, skip = Signal.like(beat.data), Signal(exact_log2(width))
        with m.If(taken):
            m.d.sync += before.eq(beat.data)
            with m.If(final):
                m.d.sync += skip.eq(0)
            with m.Elif(ends):
                # A later piece that is not the last is a number of whole beats.
                m.d.sync += skip.eq(skip | left[:len(skip)])
        return Mux(skip.any(), (Cat(before, beat.data) >> (skip << 5))[:len(beat.data)], beat.data)
