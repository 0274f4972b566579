"""What devices write to a page while it is being copied."""

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import data, memory, stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import exact_log2

from pagehop.memory.page_buffer import PAGE_BYTES
from pagehop.tlp import headers
from pagehop.tlp.stream import TlpBeat, check_data_bytes

__all__ = ["Differential"]

#: A byte of data, and whether it is there.
BYTE_BITS = 9


class _Placed(data.StructLayout):
    """Payload of a beat on its way to its place: ``enables`` has a bit a byte, ``shift`` is the lane of its first double word in ``row``."""
    def __init__(self, data_bytes, rows):
        super().__init__({"data": 8 * data_bytes, "enables": data_bytes, "row": range(rows), "shift": range(data_bytes // 4)})


class Differential(wiring.Component):
    """The bytes of a page that devices wrote since they were cleared: for each byte of the page its last value, and whether there is one.

    A row is ``data_bytes`` of the page. Each double word of a row stands in a memory of its own, so that a payload that begins anywhere in a row is
    stored in one cycle, half in its row and half in the next; data and mark of a byte stand beside each other, 9 bits that are written as one.

    - **Writes** are always taken, one beat a cycle, TLPs of any length and alignment inside the page (H21). A beat can be read four cycles after it
      was taken; ``wrote`` says so in that cycle, ``wrote_row`` is its first row and with ``wrote_next`` some of it went to the next one.
    - **Clears** take the cycles in which no write ends: hold ``clear`` until ``cleared``.
    - **Reads**: data and marks of ``read_row`` are there in the cycle after ``read_enable`` and stay until the next.

    A memory is not cleared by a reset: clear all rows before they are of use.

    Parameters
    ----------
    data_bytes : int
        Beat width.

    Members
    -------
    write : stream of write TLPs, in, always ready
    busy : out, a beat is on its way
    wrote, wrote_row, wrote_next : out
    clear, clear_row : in. ``cleared`` : out, the row is cleared in this cycle
    read_enable, read_row : in
    read_data, read_there : out, a bit of ``read_there`` for each byte
    """
    def __init__(self, data_bytes=64):
        check_data_bytes(data_bytes)
        self.data_bytes, self.rows = data_bytes, PAGE_BYTES // data_bytes
        row = range(self.rows)
        super().__init__({
            "write": In(stream.Signature(TlpBeat(data_bytes))), "busy": Out(1), "wrote": Out(1), "wrote_row": Out(row), "wrote_next": Out(1),
            "clear": In(1), "clear_row": In(row), "cleared": Out(1),
            "read_enable": In(1), "read_row": In(row), "read_data": Out(8 * data_bytes), "read_there": Out(data_bytes),
        })

    def elaborate(self, platform):
        m = Module()
        came, came_valid = self._place(m)
        coarse, coarse_valid = self._rotate(m, "coarse", came, came_valid, 4)
        fine, fine_valid = self._rotate(m, "fine", coarse, coarse_valid, 1)
        self._banks(m, fine, fine_valid)
        lanes = [Mux(fine.shift > lane, fine.enables.word_select(lane, 4), 0).any() for lane in range(self.data_bytes // 4 - 1)]
        m.d.comb += [self.write.ready.eq(1), self.busy.eq(came_valid | coarse_valid | fine_valid | self.wrote)]
        m.d.sync += [self.wrote.eq(fine_valid), self.wrote_row.eq(fine.row), self.wrote_next.eq(Cat(lanes).any())]
        return m

    def _place(self, m):
        """First stage: where the payload of a beat belongs, and which of its bytes are enabled."""
        beat, header = self.write.payload, data.View(headers.RequestHeader(), self.write.payload.header)
        dword = headers.address_of(beat.header)[2:12]
        placed, placed_valid = Signal(_Placed(self.data_bytes, self.rows)), Signal()
        last_be = Signal(4)
        m.d.sync += [placed_valid.eq(self.write.valid), placed.data.eq(beat.data)]
        with m.If(self.write.valid):
            m.d.sync += placed.row.eq(placed.row + 1)
            with m.If(beat.first):
                lane_bits = exact_log2(self.data_bytes // 4)
                m.d.sync += [placed.row.eq(dword[lane_bits:]), placed.shift.eq(dword[:lane_bits]), last_be.eq(header.last_be)]
        ends = Mux(beat.first, header.last_be, last_be)
        for lane in range(self.data_bytes // 4):
            enables = Signal(4, name=f"enables_{lane}")
            m.d.comb += enables.eq(Mux(beat.dwords > lane, 0b1111, 0))
            with m.If(beat.last & (beat.dwords == lane + 1)):
                m.d.comb += enables.eq(ends)
            if lane == 0:
                with m.If(beat.first & beat.dwords.any()):
                    m.d.comb += enables.eq(header.first_be)
            m.d.sync += placed.enables.word_select(lane, 4).eq(enables)
        return placed, placed_valid

    def _rotate(self, m, name, source, source_valid, step):
        """A stage that turns the payload by a part of its shift: the multiples of four double words, or the rest."""
        turned, valid = Signal(source.shape(), name=name), Signal(name=f"{name}_valid")
        lanes = self.data_bytes // 4
        turns = range(0, lanes, 4) if step == 4 else range(4)
        chosen = source.shift[2:] if step == 4 else source.shift[:2]
        m.d.sync += [valid.eq(source_valid), turned.row.eq(source.row), turned.shift.eq(source.shift)]
        for field, bits in (("data", 32), ("enables", 4)):
            words = [source[field].word_select(lane, bits) for lane in range(lanes)]
            for lane in range(lanes):
                choices = [words[(lane - turn) % lanes] for turn in turns]
                value = choices[0] if len(choices) == 1 else Cat(choices).word_select(chosen, bits)
                m.d.sync += turned[field].word_select(lane, bits).eq(value)
        return turned, valid

    def _banks(self, m, placed, placed_valid):
        """A memory for each double word of a row, written at a row of its own."""
        following = Signal.like(placed.row)
        m.d.comb += [following.eq(placed.row + 1), self.cleared.eq(self.clear & ~placed_valid)]
        lanes = self.data_bytes // 4
        for lane in range(lanes):
            # The last lane is in the row of its payload whatever the shift.
            row = Mux(placed.shift > lane, following, placed.row) if lane < lanes - 1 else placed.row
            bank = memory.Memory(shape=4 * BYTE_BITS, depth=self.rows, init=[])
            m.submodules[f"bank_{lane}"] = bank
            write, read = bank.write_port(granularity=BYTE_BITS), bank.read_port()
            m.d.comb += [
                write.addr.eq(Mux(placed_valid, row, self.clear_row)),
                write.en.eq(Mux(placed_valid, placed.enables.word_select(lane, 4), self.clear.replicate(4))),
                read.en.eq(self.read_enable), read.addr.eq(self.read_row),
            ]
            for byte in range(4):
                place, stored = 4 * lane + byte, write.data.word_select(byte, BYTE_BITS)
                found = read.data.word_select(byte, BYTE_BITS)
                m.d.comb += [
                    stored.eq(Mux(placed_valid, Cat(placed.data.word_select(place, 8), 1), 0)),
                    self.read_data.word_select(place, 8).eq(found[:8]), self.read_there[place].eq(found[8]),
                ]
