"""Answers to requests, cut as a completer must."""

from amaranth.hdl import Cat, Module, Mux, Signal, Value
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import exact_log2

from pagehop.tlp.headers import CompletionHeader, CompletionStatus, RequestHeader, TlpType, address_of, has_data, is_atomic, is_memory, whole_tag
from pagehop.tlp.stream import TlpBeat, check_data_bytes

__all__ = ["CompletionBuilder", "CompletionRequest"]


class CompletionRequest(data.Struct):
    """A non-posted request and how it is answered: with anything but SUCCESS there is no data."""
    header:       RequestHeader()
    completer_id: 16
    status:       CompletionStatus


class _Answer(data.Struct):
    """What is still to be sent of an answer.

    ``place`` is the double word at which the next completion begins, modulo a Read Completion Boundary of 128 bytes. If it is not the last,
    it has ``cut`` double words, of which ``cut_bytes`` count for Byte Count.
    """
    header:      CompletionHeader()
    place:       5
    dwords:      11
    cut:         11
    cut_bytes:   13
    byte_count:  13
    lower_bits:  2
    memory_read: 1
    with_data:   1


class _Piece(data.Struct):
    """One completion: its header, its payload, and whether it ends the answer."""
    header:    CompletionHeader()
    dwords:    11
    with_data: 1
    final:     1


class CompletionBuilder(wiring.Component):
    """Answer requests in the order in which they come.

    A memory read is answered with as many completions as it takes: each as large as ``max_payload`` allows, all but the last ending at
    a multiple of the Read Completion Boundary (2.3.1.1). An AtomicOp, an I/O or configuration read, has one with data; every other
    request, and every answer with an error, one without. Requester ID, tag, TC, RO and NS are those of the request; IDO, TH, EP, AT and BCM are 0.
    Byte Count and Lower Address follow 2.2.9; with TH the request has no byte enables, and every byte counts.

    An answer with data takes its double words from ``i``: packed from byte 0 of the first beat on, ``ceil(dwords / beat)`` beats, a
    zero-length read's one too. Answers without data take none. Beats may come before their request.

    The first beat appears on ``o`` five cycles after its request, then one a cycle; after an answer that is longer than its completions
    fill beats, one cycle is lost.

    Parameters
    ----------
    data_bytes : int
        Beat width.
    read_completion_boundary : int
        64 or 128. Who answers in a host's place needs 128.

    Members
    -------
    request : stream of :class:`CompletionRequest`, in
    i : stream of data beats, in
    o : stream of TLPs, out
    max_payload : in, Max_Payload_Size as in Device Control: 128 bytes << 0 to 5. Must not change while an answer is under way
    """
    def __init__(self, data_bytes=64, read_completion_boundary=128):
        check_data_bytes(data_bytes)
        if read_completion_boundary not in (64, 128):
            raise ValueError(f"Read completion boundary must be 64 or 128 bytes, not {read_completion_boundary!r}")
        self.data_bytes = data_bytes
        self.read_completion_boundary = read_completion_boundary
        super().__init__({
            "request": In(stream.Signature(CompletionRequest)), "i": In(stream.Signature(8 * data_bytes)),
            "o": Out(stream.Signature(TlpBeat(data_bytes))), "max_payload": In(3),
        })

    def elaborate(self, platform):
        m = Module()
        answer, answer_valid, answer_taken = Signal(_Answer), Signal(), Signal()
        piece, piece_valid, piece_taken = Signal(_Piece), Signal(), Signal()
        decoded = self._answer(m)
        m.d.comb += self.request.ready.eq(~answer_valid | answer_taken)
        most = Signal(11)
        m.d.sync += most.eq(32 << self.max_payload)
        with m.If(self.request.ready):
            m.d.sync += [answer_valid.eq(self.request.valid), answer.eq(decoded)]
        self._cut(m, answer, answer_valid, answer_taken, piece, piece_valid, piece_taken, most)
        self._emit(m, piece, piece_valid, piece_taken)
        return m

    def _answer(self, m):
        """Decode a request."""
        request = self.request.payload
        fields = request.header
        answer, header = Signal(_Answer), Signal(CompletionHeader())
        reads_memory, atomic = is_memory(fields), is_atomic(fields) & (fields.type != TlpType.DEFERRED_WRITE.value)
        locked = fields.type == TlpType.MEMORY_LOCKED.value
        length = Cat(fields.length, fields.length == 0)
        with_data = (request.status == CompletionStatus.SUCCESS) & (~has_data(fields) | atomic)
        m.d.comb += [
            header.fmt.eq(Cat(0, with_data)),
            header.type.eq(Mux(locked, TlpType.COMPLETION_LOCKED.value, TlpType.COMPLETION.value)),
            header.traffic_class.eq(fields.traffic_class),
            header.relaxed_ordering.eq(fields.relaxed_ordering),
            header.no_snoop.eq(fields.no_snoop),
            whole_tag(header).eq(whole_tag(fields)),
            header.requester_id.eq(fields.requester_id),
            header.completer_id.eq(request.completer_id),
            header.status.eq(request.status),
            answer.header.eq(header),
            answer.memory_read.eq(reads_memory),
            answer.with_data.eq(with_data),
            answer.place.eq(address_of(fields)[2:7]),
        ]
        # A compare-and-swap carries two operands and returns one.
        operand = Mux(fields.type == TlpType.COMPARE_AND_SWAP.value, length >> 1, length)
        first_skipped, byte_count = self._bytes(fields, length)
        with m.If(reads_memory):
            m.d.comb += [answer.dwords.eq(length), answer.byte_count.eq(byte_count), answer.lower_bits.eq(first_skipped)]
        with m.Elif(atomic):
            m.d.comb += [answer.dwords.eq(operand), answer.byte_count.eq(operand << 2)]
        with m.Else():
            m.d.comb += [answer.dwords.eq(1), answer.byte_count.eq(4)]
        return answer

    @staticmethod
    def _bytes(fields, length):
        """Bytes before the first enabled one in its double word, and from the first to the last enabled one (table 2-37)."""
        single = length == 1
        first = Mux(fields.hints, 0xF, fields.first_be)
        last = Mux(single, first, Mux(fields.hints, 0xF, fields.last_be))
        before = Mux(first[0], 0, Mux(first[1], 1, Mux(first[2], 2, 3)))
        after = Mux(last[3], 0, Mux(last[2], 1, Mux(last[1], 2, 3)))
        nothing = single & (first == 0)
        return Mux(nothing, 0, before), Mux(nothing, 1, (length << 2) - before - after)[:13]

    def _cut(self, m, answer, answer_valid, answer_taken, piece, piece_valid, piece_taken, most):
        """Cut one completion off the answer a cycle."""
        boundary = self.read_completion_boundary // 4
        now, now_valid, ready = Signal(_Answer), Signal(), Signal()
        dwords, final, loaded = Signal(11), Signal(), Signal(_Answer)
        header, rest = Signal(CompletionHeader()), Signal(_Answer)
        m.d.comb += [
            ready.eq(~piece_valid | piece_taken),
            final.eq(~now.memory_read | ~now.with_data | (now.dwords <= most)),
            dwords.eq(Mux(final, now.dwords, now.cut)),
            answer_taken.eq(answer_valid & (~now_valid | ready & final)),
            header.eq(now.header),
            header.length.eq(Mux(now.with_data, dwords, 0)),
            header.byte_count.eq(now.byte_count),
            header.lower_address.eq(Mux(now.memory_read, Cat(now.lower_bits, now.place), 0)),
            # The first completion ends at a boundary, so all others begin at one and are as large as may be.
            loaded.eq(answer),
            loaded.cut.eq(most - answer.place % boundary),
            loaded.cut_bytes.eq(((most - answer.place % boundary) << 2) - answer.lower_bits),
            rest.eq(now),
            rest.place.eq(now.place + now.cut),
            rest.cut.eq(most),
            rest.cut_bytes.eq(most << 2),
            rest.dwords.eq(now.dwords - now.cut),
            rest.byte_count.eq(now.byte_count - now.cut_bytes),
            rest.lower_bits.eq(0),
        ]
        with m.If(ready):
            m.d.sync += [
                piece_valid.eq(now_valid),
                piece.header.eq(header), piece.dwords.eq(dwords), piece.with_data.eq(now.with_data), piece.final.eq(final),
                now.eq(rest),
            ]
        with m.If(answer_taken):
            m.d.sync += [now.eq(loaded), now_valid.eq(1)]
        with m.Elif(ready & final):
            m.d.sync += now_valid.eq(0)

    def _emit(self, m, piece, piece_valid, piece_taken):
        """Lay out a completion in beats. ``held`` is the beat of ``i`` in which the next double word is, ``skip`` how many in it are used up."""
        beat_dwords = self.data_bytes // 4
        now, now_valid, first = Signal(_Piece), Signal(), Signal(init=1)
        held, held_valid, skip = Signal(8 * self.data_bytes), Signal(), Signal(range(beat_dwords))
        free, last, more, emits = Signal(), Signal(), Signal(), Signal()
        count, used = Signal(range(beat_dwords + 1)), Signal(range(2 * beat_dwords + 1))
        ends, refill, crosses = Signal(), Signal(), Signal()
        out = self.o.payload
        m.d.comb += [
            free.eq(~self.o.valid | self.o.ready),
            used.eq(skip + count),
            more.eq(used > beat_dwords),
            emits.eq(now_valid & free & (~now.with_data | (held_valid & (~more | self.i.valid)))),
            # The last double word of an answer is taken: what follows it in its beat is nothing.
            ends.eq(now_valid & free & now.with_data & last & now.final),
            crosses.eq(now_valid & free & now.with_data & held_valid & more),
            refill.eq(~held_valid | (emits & now.with_data & ~more & ((used == beat_dwords) | ends))),
            self.i.ready.eq(refill | crosses),
            piece_taken.eq(piece_valid & (~now_valid | emits & last)),
        ]
        with m.If(free):
            m.d.sync += [
                self.o.valid.eq(emits),
                out.header.eq(Mux(first, Value.cast(now.header), 0)), out.first.eq(first), out.last.eq(last), out.dwords.eq(count),
                out.data.eq((Cat(held, self.i.payload) >> (skip << 5))[:len(held)]),
            ]
        with m.If(refill):
            m.d.sync += [held.eq(self.i.payload), held_valid.eq(self.i.valid)]
        with m.Elif(crosses & self.i.valid):
            m.d.sync += [held.eq(self.i.payload), held_valid.eq(~ends)]
        with m.If(emits & now.with_data):
            m.d.sync += skip.eq(Mux(ends, 0, used[:exact_log2(beat_dwords)]))
        with m.If(emits):
            m.d.sync += [first.eq(last), now.dwords.eq(now.dwords - beat_dwords)]
            m.d.sync += self._beat(now.dwords - beat_dwords, now.dwords <= 2 * beat_dwords, count, last)
        with m.If(piece_taken):
            m.d.sync += [now.eq(piece), now_valid.eq(1)]
            m.d.sync += self._beat(Mux(piece.with_data, piece.dwords, 0), ~piece.with_data | (piece.dwords <= beat_dwords), count, last)
        with m.Elif(emits & last):
            m.d.sync += now_valid.eq(0)

    def _beat(self, dwords, is_last, count, last):
        """Next beat: the last one of a completion, or a full one."""
        return [last.eq(is_last), count.eq(Mux(is_last, dwords[:len(count)], self.data_bytes // 4))]
