"""Copying one page between hosts."""

from amaranth.hdl import Cat, Const, Module, Mux, Signal
from amaranth.lib import data, enum, stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import exact_log2

from pagehop.memory.chunk_sets import ChunkSets, CopySet
from pagehop.memory.copy_tags import CopyTag
from pagehop.memory.differential import Differential
from pagehop.memory.page_buffer import LINE_BYTES, PAGE_BYTES, PageBuffer
from pagehop.tlp import headers
from pagehop.tlp.headers import CompletionHeader, CompletionStatus, Fmt, RequestHeader, TlpType
from pagehop.tlp.stream import TlpBeat, check_data_bytes

__all__ = ["CHUNK_BYTES", "CopyEngine", "CopyError", "CopySet"]

#: Sizes that a copy may be cut into. Also the payload of its writes, so no more than the hosts' Max_Payload_Size.
CHUNK_BYTES = (64, 128, 256, 512)


class CopyError(enum.Enum, shape=4):
    """Why a copy failed: those values of ``move_error`` (registers.rdl) that a copy can have."""
    NONE            = 0
    UNSUPPORTED     = 8
    COMPLETER_ABORT = 9
    POISONED        = 10
    TIMEOUT         = 11


class _Piece(data.StructLayout):
    """A beat of a completion, decoded. All but ``data``, ``first``, ``last``, ``whole`` and ``poisoned`` hold with ``first`` only."""
    def __init__(self, data_bytes, chunks, units):
        super().__init__({
            "data": 8 * data_bytes, "first": 1, "whole": 1, "poisoned": 1,
            "ours": 1, "copy": 1, "final": 1, "chunk": range(chunks), "unit": range(units), "error": CopyError,
        })


class CopyEngine(wiring.Component):
    """Read a page from one host in chunks, all reads in flight at once, and write each chunk to the other as soon as it is whole.

    - **Reads**: from the cycle after ``start``, one a cycle while ``o_read.ready``, with the :class:`CopyTag` of the chunk and a generation that
      flips with every ``start``. TC 0, no RO, IDO or NS.
    - **Completions**: always taken. In any order between chunks, in pieces that begin and end at multiples of 64 bytes; other TLPs may stand
      between those of a chunk. What has another generation, or belongs to a chunk that waits for nothing, is dropped (D16); that a chunk has come
      shows to the completions from the third cycle after its last on, so a host that answers twice in a row with other data spoils the page. One
      bit tells a late answer from those of the next copy, not of the one after it: start none while ``owed``.
    - **Writes** are store-and-forward (D14): the first beat of a chunk appears on ``o_write`` five cycles after its last completion beat was
      transferred, if nothing is before it, and the rest follows without a gap, one beat a cycle. Of those that are whole the lowest leaves first.
    - **Absorbing**: while ``absorbing``, what devices write to the page at its source comes in on ``absorb`` as well. It is kept in a
      :class:`Differential` whose bytes stand over those of the source in every chunk that leaves, and a chunk that was written to after it had left
      leaves again. An atomic leaves its result at the source alone, so its chunk becomes ``stale`` and must be read again. Pulse ``prepare`` with the
      :class:`CopySet` that is to be read: its rows of the differential are cleared, which takes a cycle a row, more while writes come; when
      ``prepared``, let what was absorbed so far reach the source, then ``start``. Without ``absorbing``, ``start`` alone reads the whole page. Pulse
      ``over`` when nothing of this copy is absorbed or written any more: all rows are cleared then, a cycle a row, and the next ``prepare`` waits
      only for what is left of that.
    - **Errors**: a completion with UR, CA or another bad status, a piece of another shape (``UNSUPPORTED``), poison (EP or ``poisoned``), a
      wrong digest (``POISONED`` too, and also of a write that was absorbed since the last ``over``), or ``limit`` cycles without an answer to
      any of the reads outstanding. The first is kept in ``error`` until ``start``. After an error, as after ``stop``, no further read and no
      further write starts; a read that is offered, and a write whose first beat appears in one of the next two cycles, are finished.

    The page is copied when ``written``; that the writes are visible, a flush must prove (H03). After ``error`` or ``stop`` wait until
    ``outstanding`` has fallen before the next ``start``: reads are answered or, ``limit`` cycles after the last answer, given up. What was given up
    is ``owed`` until its last answer comes, or for 16 times ``limit`` cycles (H14, D16).

    Parameters
    ----------
    data_bytes : int
        Beat width.
    chunk_bytes : int
        64, 128, 256 or 512, at least ``data_bytes``.
    slot, slots : int
        Which of how many engines this is: each has tags of its own.

    Members
    -------
    start, stop, over : in, pulses
    prepare, prepare_set, prepared : in, in, out. The first of a copy is not STALE, and begins with nothing written
    absorbing : in; stays during a copy. ``absorb``: stream of write TLPs, in, always ready. ``atomic``, ``atomic_offset``: in, an atomic went to the
        source, to this byte of the page. ``absorbed``: out, nothing of ``absorb`` is on its way to the differential
    stale : out, a chunk must be read again. ``pause``: out, ask for cycles without ``absorb``
    source_address, destination_address : in, page aligned; sampled with ``start``
    source_id, destination_id : in, requester IDs of the reads and writes; sampled with ``start``
    limit : in
    o_read : stream of one-beat reads, out
    o_write : stream of writes, out
    completion : stream, in, always ready; the completions with copy tags
    reads_sent : out, all reads have been transferred. ``fetched``: all chunks that were to be read are here
    written : out, ``fetched``, and all that there is to write has been transferred
    outstanding : out, a read is offered, or unanswered and not given up, or ``writing``: something of this copy is still to come
    owed : out, a read that was given up may still be answered
    writing : out, a write is offered or about to be
    error : out, :class:`CopyError`
    """
    def __init__(self, data_bytes=64, chunk_bytes=128, slot=0, slots=1):
        check_data_bytes(data_bytes)
        if chunk_bytes not in CHUNK_BYTES or chunk_bytes < data_bytes:
            allowed = ", ".join(str(size) for size in CHUNK_BYTES if size >= data_bytes)
            raise ValueError(f"Chunks of a copy must have one of {allowed} bytes with beats of {data_bytes}, not {chunk_bytes!r}")
        self.data_bytes = data_bytes
        self.chunk_bytes = chunk_bytes
        self.chunks = PAGE_BYTES // chunk_bytes
        self.tag = CopyTag(self.chunks, slot, slots)
        beat = stream.Signature(TlpBeat(data_bytes))
        super().__init__({
            "start": In(1), "stop": In(1), "over": In(1), "source_address": In(64), "destination_address": In(64),
            "source_id": In(16), "destination_id": In(16), "limit": In(32),
            "prepare": In(1), "prepare_set": In(CopySet), "prepared": Out(1), "absorbing": In(1), "absorb": In(beat), "absorbed": Out(1),
            "atomic": In(1), "atomic_offset": In(exact_log2(PAGE_BYTES)), "stale": Out(1), "pause": Out(1),
            "o_read": Out(beat), "o_write": Out(beat), "completion": In(beat),
            "reads_sent": Out(1), "fetched": Out(1),
            "written": Out(1), "outstanding": Out(1), "owed": Out(1), "writing": Out(1), "error": Out(CopyError),
        })

    def elaborate(self, platform):
        m = Module()
        m.submodules.buffer = buffer = PageBuffer(self.data_bytes)
        m.submodules.differential = differential = Differential(self.data_bytes)
        m.submodules.sets = sets = ChunkSets(self.chunks)
        generation, halted = Signal(), Signal()
        unanswered, asked, answered = Signal(self.chunks), Signal(self.chunks), Signal(self.chunks)
        given_up, heard = Signal(), Signal()
        m.d.comb += [self.completion.ready.eq(1), self.outstanding.eq(unanswered.any() | self.o_read.valid | self.writing)]
        m.d.sync += unanswered.eq(Mux(given_up | self.start, 0, unanswered & ~answered) | asked)
        stopped = Signal()
        m.d.comb += halted.eq(stopped | (self.error != CopyError.NONE))
        with m.If(self.start):
            m.d.sync += [stopped.eq(0), generation.eq(~generation)]
        with m.Elif(self.stop):
            m.d.sync += stopped.eq(1)
        self._read(m, generation, halted, asked, sets.wanted)
        piece, piece_valid = self._decode(m, generation, unanswered)
        whole, whole_chunk, error = self._collect(m, buffer, piece, piece_valid, unanswered, answered, heard)
        self._time(m, unanswered, asked, heard, given_up)
        self._owe(m, unanswered & ~answered, given_up, piece, piece_valid)
        self._latch_error(m, error, given_up & ~stopped, self._tainted(m))
        m.d.comb += [
            sets.whole.eq(whole), sets.whole_chunk.eq(whole_chunk),
            self.fetched.eq(self.reads_sent & sets.fetched), self.stale.eq(sets.stale),
        ]
        self._absorb(m, differential, sets)
        self._write(m, buffer, differential, sets, halted)
        return m

    def _absorb(self, m, differential, sets):
        """Keep what devices write, and say of which chunks; clear what is to be read."""
        rows_per_chunk = self.chunk_bytes // self.data_bytes
        chunk_bits = exact_log2(rows_per_chunk)
        row, sweeping, ours, following = Signal.like(differential.clear_row), Signal(), Signal(), Signal.like(differential.wrote_row)
        everything, clean = Signal(), Signal()   # every row is being swept; all rows were, and nothing has been absorbed since
        m.d.comb += [
            differential.write.valid.eq(self.absorb.valid & self.absorbing), differential.write.payload.eq(self.absorb.payload),
            self.absorb.ready.eq(1), self.absorbed.eq(~differential.busy), following.eq(differential.wrote_row + 1),
            sets.wrote.eq(Cat(differential.wrote, differential.wrote & differential.wrote_next)),
            sets.wrote_chunks[0].eq(differential.wrote_row[chunk_bits:]), sets.wrote_chunks[1].eq(following[chunk_bits:]),
            sets.atomic.eq(self.atomic), sets.atomic_chunk.eq(self.atomic_offset[exact_log2(self.chunk_bytes):]),
            sets.prepare.eq(self.prepare | (self.start & ~self.absorbing)), sets.prepare_set.eq(Mux(self.prepare, self.prepare_set, CopySet.ALL)),
            ours.eq(everything | sets.wanted.bit_select(row[chunk_bits:], 1)),
            differential.clear.eq(sweeping & ours), differential.clear_row.eq(row), self.prepared.eq(~sweeping),
            self.pause.eq(sweeping & ours & ~differential.cleared),
        ]
        whole = self.prepare_set == CopySet.ALL
        with m.If(self.over | (self.prepare & ~(whole & everything))):
            m.d.sync += [
                row.eq(0), everything.eq((self.over | whole) & ~clean),
                sweeping.eq(Mux(self.over | whole, ~clean, self.absorbing & (self.prepare_set == CopySet.STALE))),
            ]
        with m.Elif(~ours | differential.cleared):
            m.d.sync += row.eq(row + 1)
            with m.If(row == differential.rows - 1):
                m.d.sync += [sweeping.eq(0), everything.eq(0), clean.eq(clean | everything)]
        with m.If(differential.write.valid):
            m.d.sync += clean.eq(0)

    def _request(self, m, name, has_data, address, requester_id):
        """Header of a read or write of one chunk in the page at ``address``, sampled at ``start``. Returns it, and the offset in the page to set."""
        header = Signal(RequestHeader(), name=name)
        page, wide = Signal(52, name=f"{name}_page"), Signal(name=f"{name}_wide")
        offset = Signal(12, name=f"{name}_offset")
        low = Cat(offset, page[:20])
        with m.If(self.start):
            m.d.sync += [page.eq(address[12:]), wide.eq(address[32:].any()), header.requester_id.eq(requester_id)]
        m.d.comb += [
            header.fmt.eq(Cat(wide, Const(has_data, 2))),
            header.type.eq(TlpType.MEMORY),
            header.length.eq(self.chunk_bytes // 4),
            header.first_be.eq(0xF),
            header.last_be.eq(0xF),
            header.dw2.eq(Mux(wide, page[20:], low)),
            header.dw3.eq(Mux(wide, low, 0)),
        ]
        return header, offset

    def _read(self, m, generation, halted, asked, wanted):
        header, offset = self._request(m, "read_header", 0, self.source_address, self.source_id)
        reading, chunk, following = Signal(), Signal(range(self.chunks)), Signal(range(self.chunks))
        asks, done = Signal(), Signal()   # this chunk is wanted; nothing more stands before the next
        m.d.comb += [
            headers.whole_tag(header).eq(self.tag.encode(chunk, generation)),
            offset.eq(chunk << exact_log2(self.chunk_bytes)),
            self.o_read.valid.eq(reading & asks), done.eq(reading & (~asks | self.o_read.ready)), following.eq(chunk + 1),
            self.o_read.payload.header.eq(header),
            self.o_read.payload.first.eq(1),
            self.o_read.payload.last.eq(1),
            asked.eq((self.o_read.valid & self.o_read.ready) << chunk),
        ]
        with m.If(self.start):
            m.d.sync += [reading.eq(1), chunk.eq(0), asks.eq(wanted[0] | ~self.absorbing), self.reads_sent.eq(0)]
        with m.Elif(done):
            m.d.sync += [
                chunk.eq(following), asks.eq(wanted.bit_select(following, 1)),
                reading.eq((chunk != self.chunks - 1) & ~halted & ~self.stop),
                self.reads_sent.eq(chunk == self.chunks - 1),
            ]

    def _decode(self, m, generation, unanswered):
        """First stage: what a beat is. Register between."""
        beat = self.completion.payload
        header = data.View(CompletionHeader(), beat.header)
        units = PAGE_BYTES // LINE_BYTES if self.data_bytes > LINE_BYTES else PAGE_BYTES // self.data_bytes
        unit_bytes = PAGE_BYTES // units
        piece, piece_valid = Signal(_Piece(self.data_bytes, self.chunks, units)), Signal()
        chunk, of_generation, of_slot = self.tag.decode(headers.whole_tag(header))
        # Byte Count is what is left of the chunk, so it says where in the chunk the piece begins.
        offset = (self.chunk_bytes - header.byte_count)[:exact_log2(self.chunk_bytes)]
        shape_right = (
            (header.fmt == Fmt.DW3_DATA.value) & (header.byte_count != 0) & (header.byte_count <= self.chunk_bytes)
            & (header.byte_count[:6] == 0) & (header.length[:4] == 0) & (header.length != 0) & (header.length <= header.byte_count[2:])
        )
        with m.If(header.status == CompletionStatus.COMPLETER_ABORT.value):
            m.d.sync += piece.error.eq(CopyError.COMPLETER_ABORT)
        with m.Elif((header.status != CompletionStatus.SUCCESS.value) | ~shape_right):
            m.d.sync += piece.error.eq(CopyError.UNSUPPORTED)
        with m.Else():
            m.d.sync += piece.error.eq(CopyError.NONE)
        m.d.sync += [
            piece_valid.eq(self.completion.valid & ~self.start),
            piece.data.eq(beat.data),
            piece.first.eq(beat.first),
            piece.whole.eq(beat.dwords[5]),
            piece.poisoned.eq(headers.is_damaged(beat)),
            piece.copy.eq(of_slot),
            piece.final.eq((header.status != CompletionStatus.SUCCESS.value) | (header.byte_count[2:] == header.length)),
            piece.ours.eq(of_slot & (of_generation == generation) & unanswered.bit_select(chunk, 1)),
            piece.chunk.eq(chunk),
            piece.unit.eq(Cat(offset[exact_log2(unit_bytes):], chunk)),
        ]
        return piece, piece_valid

    def _collect(self, m, buffer, piece, piece_valid, unanswered, answered, heard):
        """Second stage: store the beat, and note which lines of the page are there. Third: is the chunk whole?

        Returns whether, which chunk, and an error.
        """
        lines_per_chunk = self.chunk_bytes // LINE_BYTES
        units_per_line = LINE_BYTES // buffer.unit_bytes
        lines = Signal(PAGE_BYTES // LINE_BYTES)
        active, held_chunk, held_unit = Signal(), Signal.like(piece.chunk), Signal.like(piece.unit)
        taken, chunk, unit, stored = Signal(), Signal.like(piece.chunk), Signal.like(piece.unit), Signal()
        m.d.comb += [
            chunk.eq(Mux(piece.first, piece.chunk, held_chunk)),
            unit.eq(Mux(piece.first, piece.unit, held_unit)),
            taken.eq(piece_valid & Mux(piece.first, piece.ours, active)),
            stored.eq(taken & ~(piece.first & (piece.error != CopyError.NONE))),
            heard.eq(taken),
            buffer.write_enable.eq(stored),
            buffer.write_unit.eq(unit),
            buffer.write_data.eq(piece.data),
            buffer.write_whole.eq(piece.whole),
        ]
        line, line_end = unit[exact_log2(units_per_line):], unit[:exact_log2(units_per_line)].all()
        two_lines = piece.whole if self.data_bytes > LINE_BYTES else 0
        arrived = Mux(stored & line_end, Mux(two_lines, 0b11, 0b01) << line, 0)[:len(lines)]
        whole, stored_before, failed_before, chunk_before = Signal(), Signal(), Signal(), Signal.like(chunk)
        complete = Cat(lines.word_select(n, lines_per_chunk).all() for n in range(self.chunks))
        m.d.comb += [
            # Once only: after the first time the chunk waits for nothing.
            whole.eq(stored_before & (complete & unanswered).bit_select(chunk_before, 1)),
            answered.eq(((stored_before << chunk_before) & complete) | (failed_before << chunk_before)),
        ]
        m.d.sync += [
            lines.eq(Mux(self.start, 0, lines | arrived)),
            stored_before.eq(stored),
            failed_before.eq(taken & ~stored),
            chunk_before.eq(chunk),
        ]
        with m.If(piece_valid):
            m.d.sync += [
                active.eq(stored),
                held_chunk.eq(chunk),
                held_unit.eq(unit + Mux(two_lines, 2, 1)),
            ]
        with m.If(self.start):
            m.d.sync += active.eq(0)
        error = Signal(CopyError)
        with m.If(taken & ~stored):
            m.d.comb += error.eq(piece.error)
        with m.Elif(taken & piece.poisoned):
            m.d.comb += error.eq(CopyError.POISONED)
        return whole, chunk_before, error

    def _time(self, m, unanswered, asked, heard, given_up):
        """Give up all that is unanswered when nothing was heard for ``limit`` cycles."""
        timer = Signal(32)
        m.d.sync += [
            timer.eq(timer + 1),
            given_up.eq(unanswered.any() & (timer >= self.limit)),
        ]
        with m.If(~unanswered.any() | asked.any() | heard | given_up | self.start):
            m.d.sync += [timer.eq(0), given_up.eq(0)]

    def _owe(self, m, unanswered, given_up, piece, piece_valid):
        """Keep in mind what was given up: the tag of a read is its own until the answer comes or nobody waits for it any more."""
        owed, timer, over = Signal(self.chunks), Signal(36), Signal()
        late = Mux(piece_valid & piece.first & piece.copy & piece.final, 1 << piece.chunk, 0)[:self.chunks]
        m.d.sync += [
            owed.eq(Mux(over, 0, owed & ~late) | Mux(given_up, unanswered, 0)),
            timer.eq(Mux(given_up, 0, timer + owed.any())), over.eq(~given_up & (timer[4:] >= self.limit)),
            self.owed.eq(owed.any() | given_up),
        ]

    def _tainted(self, m):
        """1 from a damaged write that is absorbed to the end of its copy, for what is merged would look sound (I9)."""
        tainted = Signal()
        with m.If(self.over | ~self.absorbing):
            m.d.sync += tainted.eq(0)
        with m.Elif(self.absorb.valid & headers.is_damaged(self.absorb.payload)):
            m.d.sync += tainted.eq(1)
        return tainted

    def _latch_error(self, m, error, timeout, tainted):
        with m.If(self.start):
            m.d.sync += self.error.eq(CopyError.NONE)
        with m.Elif(self.error == CopyError.NONE):
            with m.If(error != CopyError.NONE):
                m.d.sync += self.error.eq(error)
            with m.Elif(tainted):
                m.d.sync += self.error.eq(CopyError.POISONED)
            with m.Elif(timeout):
                m.d.sync += self.error.eq(CopyError.TIMEOUT)

    def _write(self, m, buffer, differential, sets, halted):
        """Three stages behind the choice of a chunk: address, memory, output register. They move together, so a chunk has no gaps."""
        pops, chunk = Signal(), sets.o.payload
        beats = self.chunk_bytes // self.data_bytes
        beat, beat_valid, last = Signal(exact_log2(beats)), Signal(), Signal()
        fetch_valid, fetch_first, fetch_last, fetch_chunk = Signal(), Signal(), Signal(), Signal(range(self.chunks))
        free_fetch, free_out = Signal(), Signal()
        header, offset = self._request(m, "write_header", 1, self.destination_address, self.destination_id)
        m.d.comb += [
            free_out.eq(~self.o_write.valid | self.o_write.ready),
            free_fetch.eq(~fetch_valid | free_out),
            beat_valid.eq(sets.o.valid & (~halted | (beat != 0))),
            last.eq(beat == beats - 1), pops.eq(free_fetch & beat_valid & last), sets.o.ready.eq(pops),
            buffer.read_enable.eq(free_fetch), buffer.read_beat.eq(Cat(beat, chunk)),
            differential.read_enable.eq(free_fetch), differential.read_row.eq(buffer.read_beat),
            offset.eq(fetch_chunk << exact_log2(self.chunk_bytes)),
            self.writing.eq(self.o_write.valid | fetch_valid | beat_valid),
            self.written.eq(self.fetched & sets.idle & ~fetch_valid & ~self.o_write.valid),
        ]
        with m.If(free_fetch):
            m.d.sync += [
                fetch_valid.eq(beat_valid), fetch_first.eq(beat == 0), fetch_last.eq(last), fetch_chunk.eq(chunk),
                beat.eq(beat + beat_valid),
            ]
        out = self.o_write.payload
        merged = Cat(Mux(self.absorbing & differential.read_there[byte], differential.read_data.word_select(byte, 8),
                         buffer.read_data.word_select(byte, 8)) for byte in range(self.data_bytes))
        with m.If(free_out):
            m.d.sync += [
                self.o_write.valid.eq(fetch_valid),
                out.data.eq(merged), out.header.eq(Mux(fetch_first, header, 0)),
                out.dwords.eq(self.data_bytes // 4), out.first.eq(fetch_first), out.last.eq(fetch_last),
            ]
