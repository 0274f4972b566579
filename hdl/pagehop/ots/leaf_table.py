"""Page-table leaves of the on-the-side device: a BAR that a walker reads, which tells what it uses (docs/ots.md, H28, H29)."""

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import data, memory, stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import exact_log2

from pagehop.ots.leaf_answer import LeafAnswer
from pagehop.ots.leaf_hold import LeafHold
from pagehop.ots.leaf_marks import HARVEST_BUSES, LINE_ENTRIES, LeafMarks
from pagehop.ots.leaf_writes import LINE_BYTES, LeafWrites, in_one_line, turned
from pagehop.registers.bus import MemoryBus
from pagehop.tlp import headers
from pagehop.tlp.headers import AddressType, CompletionHeader, CompletionStatus, Fmt, RequestHeader
from pagehop.tlp.refusals import refusal
from pagehop.tlp.stream import TlpBeat, connect_streams

__all__ = ["LeafTable"]

_ENTRY_BITS, _DWORDS = 64, LINE_BYTES // 4
#: Bits of an entry (Privileged Architecture, 10.3).
_VALID, _READABLE, _WRITABLE, _EXECUTABLE, _ACCESSED, _DIRTY = 0, 1, 2, 3, 6, 7


class _Found(data.StructLayout):
    """A read whose line has been read: the entries as they stand in it, those that it touches, and the header of its completion."""
    def __init__(self):
        super().__init__({
            "walks": 1, "served": 1, "line": 8 * LINE_BYTES, "touched": LINE_ENTRIES, "place": 4, "mask": _DWORDS, "header": CompletionHeader(),
        })


class LeafTable(wiring.Component):
    """Serve reads of page-table entries, and note what a walker may have used (H29).

    A walker that reads an entry may use it: a valid leaf (R or X) counts as accessed, one with R and W as dirty too; each entry of which a double
    word is read counts, all eight of a 64-byte line. Everything else sets nothing, a pointer neither. A leaf of a higher level, of 2 MiB say, is an
    entry like any other: a table may be one of any level. Marks stand two cycles before the completion leaves, or earlier (H28).

    The walker reads A and D of each leaf as 1, whatever is stored, so that it never sets them. Software reads what it has written, with
    ``in_entries`` and the marks in A and D of leaves: to clear the marks it takes them, a write of A or D does not.

    Served are reads and writes inside one line of 64 bytes, with any byte enables, zero-length reads too, which read 0 and touch nothing. Every
    other request is answered with UR, or dropped. Five cycles from the transfer of a read to the first beat of its completion; a read in three
    cycles, or in one more than its completion has beats. A write takes effect as a whole; a read that is handed over later than the last beat of
    a write sees it.

    While ``hold`` is 1, no read of the line ``hold_line`` that the walker hands over is answered: it waits, and what comes behind it in ``walks``.
    Nothing else waits (H24). When ``hold`` falls, or after ``hold_limit`` cycles, it is answered with what stands there then.

    Parameters
    ----------
    data_bytes : 16, 32 or 64. entries : a power of two, 512 to 65536

    Members
    -------
    posted : software's writes. walks, reads : requests of walkers and of software, kept apart by requester ID; heads of TLPs are looked at
    completion : one TLP after the other. completer_id : in
    in_entries, hold, hold_line, hold_limit : in, of registers. ``hold_line`` stays while ``hold`` is 1, and is set with it
    expired : pulses when a hold ends by itself; the next one begins after ``hold`` has been 0. waiting : the walker waits for a hold
    peek_accessed, take_accessed, peek_dirty, take_dirty : see :class:`LeafMarks`
    walked, unsupported, dropped : pulses, for a walker's read that is served, a request answered with UR, a write that is dropped
    """
    def __init__(self, data_bytes=64, entries=512):
        if data_bytes not in (16, 32, 64):
            raise ValueError(f"Beats of leaf tables must have 16, 32 or 64 bytes, not {data_bytes!r}")
        if entries not in (1 << bits for bits in range(9, 17)):
            raise ValueError(f"Entries of leaf tables must be a power of two from 512 to 65536, not {entries!r}")
        self.data_bytes, self.entries = data_bytes, entries
        self.line_bits = exact_log2(entries // LINE_ENTRIES)
        beats, bus = stream.Signature(TlpBeat(data_bytes)), MemoryBus(self.line_bits - 3)
        super().__init__({
            "posted": In(beats), "walks": In(beats), "reads": In(beats), "completion": Out(beats), "completer_id": In(16),
            "in_entries": In(1), "hold": In(1), "hold_line": In(self.line_bits), "hold_limit": In(32), "expired": Out(1), "waiting": Out(1),
            **{name: In(bus) for name in HARVEST_BUSES}, "walked": Out(1), "unsupported": Out(1), "dropped": Out(1),
        })

    def elaborate(self, platform):
        m = Module()
        m.submodules.writes = writes = LeafWrites(self.data_bytes, self.line_bits)
        m.submodules.marks = marks = LeafMarks(self.entries)
        m.submodules.hold = hold = LeafHold()
        m.submodules.answer = answer = LeafAnswer(self.data_bytes)
        m.submodules.lines = lines = memory.Memory(shape=8 * LINE_BYTES, depth=1 << self.line_bits, init=[])
        write, read = lines.write_port(granularity=8), lines.read_port()
        for source, sink in ((self.posted, writes.posted), (answer.o, self.completion)):
            connect_streams(m, source, sink)
        for name in HARVEST_BUSES:
            wiring.connect(m, wiring.flipped(getattr(self, name)), getattr(marks, name))
        m.d.comb += [
            write.addr.eq(writes.line), write.data.eq(writes.data), write.en.eq(Mux(writes.writes, writes.enables, 0)),
            hold.hold.eq(self.hold), hold.limit.eq(self.hold_limit), self.expired.eq(hold.expired), self.dropped.eq(writes.dropped),
        ]
        # A read stands in ``looked`` while its line comes out of the memory, then in ``found``, then in ``ready``: only there it waits.
        looked, walks, looked_valid, found_valid, ready_valid = Signal(RequestHeader()), Signal(), Signal(), Signal(), Signal()
        chosen, chosen_walks, goes = self._choose(m, hold.active, ~(looked_valid | found_valid | (ready_valid & ~answer.i.ready)))
        m.d.comb += [read.addr.eq(self._line(chosen)), marks.look.eq(looked_valid), marks.line.eq(self._line(looked))]
        m.d.sync += [
            looked.eq(chosen), walks.eq(chosen_walks), looked_valid.eq(goes), found_valid.eq(looked_valid),
            ready_valid.eq(found_valid | (ready_valid & ~answer.i.ready)),
        ]
        found = self._find(m, looked, walks, read.data)
        entries = self._mark(m, found, found_valid, marks)
        self._place(m, found, found_valid, entries, answer)
        m.d.comb += answer.i.valid.eq(ready_valid)
        return m

    def _line(self, header):
        return headers.address_of(header)[6:6 + self.line_bits]

    def _choose(self, m, holds, free):
        """Keep the first beat of a request from each side, and let one go: in turns, if it is not held."""
        heads = [Signal(RequestHeader(), name=name) for name in ("walk", "read")]
        valid, turn, matches = Signal(2), Signal(), Signal()
        may, goes = Signal(2), Signal(2)
        m.d.comb += [
            self.waiting.eq(valid[0] & matches & holds), may.eq(Cat(valid[0] & ~(matches & holds), valid[1])),
            goes.eq(Mux(free, Cat(may[0] & ~(may[1] & turn), may[1] & ~(may[0] & ~turn)), 0)),
        ]
        m.d.sync += turn.eq(Mux(goes.any(), goes[0], turn))
        for number, (side, head) in enumerate(zip((self.walks, self.reads), heads, strict=True)):
            beat = side.payload
            m.d.comb += side.ready.eq(~valid[number])
            m.d.sync += valid[number].eq(Mux(valid[number], ~goes[number], side.valid & beat.first))
            with m.If(~valid[number]):
                m.d.sync += head.eq(beat.header)
        # The line is compared ahead: what is known a cycle later holds from the cycle in which ``hold`` is seen, which is also one later.
        comes = data.View(RequestHeader(), self.walks.payload.header)
        m.d.sync += matches.eq(Mux(valid[0], self._line(heads[0]), self._line(comes)) == self.hold_line)
        chosen = Signal(RequestHeader())
        m.d.comb += chosen.eq(Mux(goes[1], heads[1], heads[0]))
        return chosen, goes[0], goes.any()

    def _find(self, m, request, walks, line):
        """Register what was read, and understand the request."""
        found, place, length = Signal(_Found()), headers.address_of(request)[2:6], request.length[:5]
        plain = data.View(RequestHeader(), headers.without_hints(request))
        served, empty = Signal(), (length == 1) & (plain.first_be == 0)
        header = refusal(m, request, self.completer_id)
        m.d.comb += served.eq(in_one_line(plain) & ~headers.has_data(request))
        with m.If(request.address_type == AddressType.TRANSLATION_REQUEST):
            m.d.comb += [header.byte_count.eq(4), header.lower_address.eq(0)]
        with m.If(served):
            m.d.comb += [header.fmt.eq(Fmt.DW3_DATA), header.status.eq(CompletionStatus.SUCCESS), header.length.eq(length)]
        last = (place + length - 1)[:4]
        m.d.sync += [
            found.walks.eq(walks), found.served.eq(served), found.line.eq(line), found.place.eq(place), found.header.eq(header),
            found.mask.eq(Cat((length > dword) & ~empty for dword in range(_DWORDS))),
            found.touched.eq(Cat(
                ((place[1:] <= entry) | (entry == LINE_ENTRIES - 1)) & (last[1:] >= entry) & ~empty for entry in range(LINE_ENTRIES))),
        ]
        return found

    def _mark(self, m, found, valid, marks):
        """Set the marks of what the walker may use. Returns the line as it is shown."""
        counts, shown = found.touched & (found.walks & found.served & valid).replicate(LINE_ENTRIES), []
        for number in range(LINE_ENTRIES):
            entry = Signal(_ENTRY_BITS, name=f"entry_{number}")
            m.d.comb += entry.eq(found.line.word_select(number, _ENTRY_BITS))
            leaf = entry[_VALID] & (entry[_READABLE] | entry[_EXECUTABLE])
            m.d.comb += [
                marks.accessed[number].eq(counts[number] & leaf),
                marks.dirty[number].eq(counts[number] & entry[_VALID] & entry[_READABLE] & entry[_WRITABLE]),
            ]
            # One that is no leaf has never a mark that it would show: its A and D are what software wrote.
            accessed, dirty = (leaf & (found.walks | (self.in_entries & was[number])) for was in (marks.was_accessed, marks.was_dirty))
            shown.append(Cat(entry[:_ACCESSED], entry[_ACCESSED] | accessed, entry[_DIRTY] | dirty, entry[_DIRTY + 1:]))
        m.d.comb += [self.walked.eq(valid & found.walks & found.served), self.unsupported.eq(valid & ~found.served)]
        return Cat(shown)

    @staticmethod
    def _place(m, found, valid, line, answer):
        """Bring the first double word that is read to the front, in two steps, and hand the completion over."""
        data_, place, mask, header = Signal(8 * LINE_BYTES), Signal(2), Signal(_DWORDS), Signal(CompletionHeader())
        back = -found.place
        with m.If(valid):
            m.d.sync += [
                data_.eq(turned(line, back[2:4], 4 * 32)), place.eq(back[:2]), mask.eq(Mux(found.served, found.mask, 0)), header.eq(found.header),
            ]
        m.d.comb += [
            answer.i.payload.header.eq(header), answer.i.payload.dwords.eq(header.length),
            answer.i.payload.data.eq(turned(data_, place, 32) & Cat(keep.replicate(32) for keep in mask)),
        ]
