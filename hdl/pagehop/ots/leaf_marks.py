"""Which leaves were read by the walker since software last took the bits, and which of them may have been written through."""

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import memory, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import exact_log2

from pagehop.registers.bus import MemoryBus

__all__ = ["HARVEST_BUSES", "LINE_ENTRIES", "LeafMarks"]

#: Entries of a line of 64 bytes.
LINE_ENTRIES = 8

_WORD_BITS = 64

#: Buses by which software reads the bitmaps, ``take`` clears what it reads; the bitmap, and whether it clears.
HARVEST_BUSES = {"peek_accessed": (0, 0), "take_accessed": (0, 1), "peek_dirty": (1, 0), "take_dirty": (1, 1)}


class LeafMarks(wiring.Component):
    """Two bits for each entry, all 0 at power-up.

    A line in each cycle: ``line`` comes with ``look``, and in the next cycle the marks of its eight entries are shown and those of ``accessed`` and
    ``dirty`` are set. Software's reads take turns in cycles without ``look``, which must come again and again, and are answered three cycles after
    that; they see every mark that was set in the cycle before or earlier, and a mark that is set later stays for the next (H28). A read that clears
    does so for those bytes of its word that it asks for.

    Parameters
    ----------
    entries : a power of two, at least 512

    Members
    -------
    look, line, accessed, dirty : in. was_accessed, was_dirty : out
    peek_accessed, take_accessed, peek_dirty, take_dirty : of the register file, a bit an entry, in words of 64
    """
    def __init__(self, entries):
        self.entries = entries
        bus = MemoryBus(exact_log2(entries // _WORD_BITS))
        super().__init__({
            "look": In(1), "line": In(range(entries // LINE_ENTRIES)), "accessed": In(LINE_ENTRIES), "dirty": In(LINE_ENTRIES),
            "was_accessed": Out(LINE_ENTRIES), "was_dirty": Out(LINE_ENTRIES), **{name: In(bus) for name in HARVEST_BUSES},
        })

    def elaborate(self, platform):
        m = Module()
        m.submodules.words = words = memory.Memory(shape=2 * _WORD_BITS, depth=self.entries // _WORD_BITS, init=[])
        write = words.write_port(granularity=8)
        read = words.read_port(transparent_for=(write,))
        index, clears = self._harvest(m, read.data)
        looked, byte = Signal(), Signal(3)
        m.d.comb += read.addr.eq(Mux(self.look, self.line[3:], index))
        m.d.sync += [looked.eq(self.look), byte.eq(self.line[:3]), write.addr.eq(read.addr)]
        enables, values = [], []
        for half, (marks, was) in enumerate(((self.accessed, self.was_accessed), (self.dirty, self.was_dirty))):
            m.d.comb += was.eq(read.data.word_select(half, _WORD_BITS).word_select(byte, 8))
            enables.append(Mux(looked, Mux(marks.any(), 1 << byte, 0), clears.word_select(half, 8))[:8])
            values.append(((was | marks) & looked.replicate(8)).replicate(8))
        m.d.comb += [write.en.eq(Cat(enables)), write.data.eq(Cat(values))]
        return m

    def _harvest(self, m, words):
        """Serve software, one read at a time. Returns the word that it asks for, and which bytes of what is shown are cleared."""
        buses = [(getattr(self, name), half, takes) for name, (half, takes) in HARVEST_BUSES.items()]
        request, half, takes = Signal(buses[0][0].request.payload.shape()), Signal(), Signal()
        word, clears = Signal(_WORD_BITS), Signal(16)
        with m.FSM():
            with m.State("Idle"):
                earlier = 0
                for bus, half_of, takes_of in buses:
                    m.d.comb += bus.request.ready.eq(~Cat(earlier).any())
                    with m.If(bus.request.valid & bus.request.ready):
                        m.d.sync += [request.eq(bus.request.payload), half.eq(half_of), takes.eq(takes_of)]
                        m.next = "Read"
                    earlier = Cat(earlier, bus.request.valid)
            with m.State("Read"):
                with m.If(~self.look):
                    m.next = "Word"
            with m.State("Word"):
                m.d.comb += clears.eq(Mux(takes, Mux(half, Cat(request.strobe & 0, request.strobe), request.strobe), 0))
                m.d.sync += word.eq(Mux(half, words[_WORD_BITS:], words[:_WORD_BITS]))
                m.next = "Answer"
            with m.State("Answer"):
                for bus, half_of, takes_of in buses:
                    m.d.comb += [bus.response.valid.eq((half == half_of) & (takes == takes_of)), bus.response.payload.data.eq(word)]
                m.next = "Idle"
        return request.index, clears
