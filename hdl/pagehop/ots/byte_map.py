"""Which bytes of its page were written through each window."""

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import data, memory, wiring
from amaranth.lib.wiring import In, Out

from pagehop.ots.layouts import LINES, Access, window_bits

__all__ = ["ByteMap"]

#: Bytes, and double words, of a line.
_LINE, _DWORDS = 64, 16


class _Placed(data.StructLayout):
    """Bytes that a beat writes: a bit a byte of the line in which it begins and of the next one, ``shift`` double words further on."""
    def __init__(self, windows, bytes_):
        super().__init__({"window": window_bits(windows), "line": range(LINES), "shift": range(_DWORDS), "enables": bytes_})


class ByteMap(wiring.Component):
    """A bit for each byte of the page of each window, set when it is written, and a bit for each line of 64 bytes of which one is set.

    A beat in each cycle. ``lines`` follows it in the fourth cycle, what is read of the bytes in the fifth. A line whose bit is 0 has no
    bytes, whatever its memory holds, so that to clear takes one cycle; not in the four cycles after a beat.

    Parameters
    ----------
    data_bytes : beat width, at most 64. windows : 1 to 16

    Members
    -------
    access, accesses : a beat that writes. Only those are told
    clear, window : in, forget all of this window
    read_window, read_line, read_enable : in. read_bytes, read_lines : out, in the second cycle after the enable, until the next. read_taken : the
        lines that the last clear has forgotten
    """
    def __init__(self, data_bytes, windows):
        if data_bytes > _LINE:
            raise ValueError(f"The byte map takes beats of at most {_LINE} bytes, not {data_bytes!r}")
        self.data_bytes, self.windows = data_bytes, windows
        window = window_bits(windows)
        super().__init__({
            "access": In(Access(windows)), "accesses": In(1), "clear": In(1), "window": In(window),
            "read_window": In(window), "read_line": In(range(LINES)), "read_enable": In(1), "read_bytes": Out(_LINE), "read_lines": Out(LINES),
            "read_taken": Out(LINES),
        })

    def elaborate(self, platform):
        m = Module()
        placed, placed_valid = self._place(m)
        turned, turned_valid = Signal(placed.shape(), name="turned"), Signal()
        wide, wide_valid = Signal(data.StructLayout({"window": len(self.window), "line": range(LINES), "enables": 2 * _LINE})), Signal()
        # A shift in two steps, of four double words and of one.
        coarse = Signal(_LINE + self.data_bytes)
        m.d.sync += [
            turned_valid.eq(placed_valid), turned.eq(placed), coarse.eq(placed.enables << (placed.shift[2:] << 4)),
            wide_valid.eq(turned_valid), wide.window.eq(turned.window), wide.line.eq(turned.line),
            wide.enables.eq(coarse << (turned.shift[:2] << 2)),
        ]
        self._keep(m, Cat(turned.line, turned.window), wide, wide_valid)
        return m

    def _place(self, m):
        """First register: where the payload of a beat begins, and which of its bytes are written."""
        access, placed, valid, lanes = self.access, Signal(_Placed(self.windows, self.data_bytes)), Signal(), self.data_bytes // 4
        following, last_be, atomic = Signal(range(LINES * _DWORDS)), Signal(4), Signal()
        dword = Mux(access.first, access.first_dword, following)
        m.d.sync += valid.eq(self.accesses & access.writes)
        with m.If(self.accesses):
            m.d.sync += [placed.window.eq(access.window), Cat(placed.shift, placed.line).eq(dword), following.eq(dword + lanes)]
            with m.If(access.first):
                m.d.sync += [last_be.eq(access.last_be), atomic.eq(access.atomic)]
        ends, whole = Mux(access.first, access.last_be, last_be), Mux(access.first, access.atomic, atomic)
        for lane in range(lanes):
            enables = Signal(4, name=f"enables_{lane}")
            m.d.comb += enables.eq(Mux(access.dwords > lane, 0b1111, 0))
            with m.If(access.last & (access.dwords == lane + 1) & ~whole):
                m.d.comb += enables.eq(ends)
            if lane == 0:
                with m.If(access.first & access.dwords.any() & ~whole):
                    m.d.comb += enables.eq(access.first_be)
            m.d.sync += placed.enables.word_select(lane, 4).eq(enables)
        return placed, valid

    def _keep(self, m, place, wide, valid):
        """Lines with even numbers in one memory, odd ones in another: a beat touches one of each. ``place``: of the beat that comes next."""
        m.submodules.lines = lines = memory.Memory(shape=LINES, depth=1 << len(self.window), init=[])
        m.submodules.taken = taken = memory.Memory(shape=LINES, depth=1 << len(self.window), init=[])
        keep, clears, kept = taken.write_port(), lines.read_port(domain="comb"), taken.read_port(domain="comb")
        m.d.comb += [
            clears.addr.eq(self.window), keep.addr.eq(self.window), keep.data.eq(clears.data), keep.en.eq(self.clear), kept.addr.eq(self.read_window),
        ]
        write, known, shown = lines.write_port(), lines.read_port(domain="comb"), lines.read_port(domain="comb")
        low, high = wide.enables[:_LINE], wide.enables[_LINE:]
        line, following, odd = wide.line, (wide.line + 1)[:len(wide.line)], wide.line[0]
        touched = [low.any() << line, high.any() << following]
        m.d.comb += [
            known.addr.eq(wide.window), shown.addr.eq(self.read_window),
            write.addr.eq(Mux(self.clear, self.window, wide.window)), write.en.eq(valid | self.clear),
            write.data.eq(Mux(self.clear, 0, known.data | touched[0] | touched[1])),
        ]
        found, chosen = [], Signal()
        for bank in range(2):
            m.submodules[f"bytes_{bank}"] = bytes_ = memory.Memory(shape=_LINE, depth=(1 << len(self.window)) * LINES // 2, init=[])
            put = bytes_.write_port()
            get, show = bytes_.read_port(transparent_for=(put,)), bytes_.read_port()
            # Of a beat that begins in an odd line the next one is even, in the row after.
            first = odd == bank
            row, ours = Mux(first, line, following), Mux(first, low, high)
            before = place[:len(line)]
            m.d.comb += [
                get.addr.eq(Cat(Mux(before[0] == bank, before[1:], (before + 1)[1:len(line)]), place[len(line):])),
                put.addr.eq(Cat(row[1:], wide.window)), put.en.eq(valid & ours.any()),
                put.data.eq(Mux(known.data.bit_select(row, 1), get.data, 0) | ours),
                show.addr.eq(Cat(self.read_line[1:], self.read_window)), show.en.eq(self.read_enable),
            ]
            found.append(show.data)
        m.d.sync += chosen.eq(Mux(self.read_enable, self.read_line[0], chosen))
        seen, there, before = Signal(LINES), Signal(), Signal(LINES)
        with m.If(self.read_enable):
            m.d.sync += [seen.eq(shown.data), before.eq(kept.data), there.eq(shown.data.bit_select(self.read_line, 1))]
        m.d.sync += [self.read_lines.eq(seen), self.read_taken.eq(before), self.read_bytes.eq(Mux(there, Mux(chosen, found[1], found[0]), 0))]
