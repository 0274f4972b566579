"""The windows as software reads them."""

from amaranth.hdl import Cat, Const, Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from pagehop.ots.layouts import LINES, WindowEntry, window_bits
from pagehop.registers.bus import MemoryBus
from pagehop.tlp.pages import PAGE_BITS

__all__ = ["WindowWords"]

#: Bits of the index of a word of a window, and of a word of its bytes.
_WORD_BITS, _LINE_BITS = 3, 6
_WINDOW_BITS = 4


class WindowWords(wiring.Component):
    """Serve the memories ``windows`` and ``bytes`` of registers.rdl, one read at a time, seven cycles each. A window that there is not reads 0.

    Members
    -------
    windows, bytes : buses
    index, entry : read port of the table. was_read, was_written, expired, atomics : a bit a window
    read_window, read_line, read_enable, word, read_data : of the monitor
    """
    def __init__(self, windows):
        self.count = windows
        window = window_bits(windows)
        super().__init__({
            "windows": In(MemoryBus(_WINDOW_BITS + _WORD_BITS)), "bytes": In(MemoryBus(_WINDOW_BITS + _LINE_BITS)),
            "index": Out(window), "entry": In(WindowEntry),
            **{name: In(windows) for name in ("was_read", "was_written", "expired", "atomics")},
            "read_window": Out(window), "read_line": Out(range(LINES)), "read_enable": Out(1), "word": Out(3), "read_data": In(64),
        })

    def elaborate(self, platform):
        m = Module()
        number, word, of_bytes, answer, steps = Signal(_WINDOW_BITS), Signal(_WORD_BITS), Signal(), Signal(64), Signal(range(6))
        m.d.comb += [self.index.eq(number), self.read_window.eq(number), self.word.eq(Mux(of_bytes, 5, word - 2))]
        with m.FSM():
            with m.State("Idle"):
                m.d.comb += [self.windows.request.ready.eq(1), self.bytes.request.ready.eq(~self.windows.request.valid)]
                m.d.sync += steps.eq(0)
                with m.If(self.windows.request.valid):
                    m.d.sync += [Cat(word, number).eq(self.windows.request.payload.index), of_bytes.eq(0)]
                    m.next = "Ask"
                with m.Elif(self.bytes.request.valid):
                    m.d.sync += [Cat(self.read_line, number).eq(self.bytes.request.payload.index), of_bytes.eq(1)]
                    m.next = "Ask"
            with m.State("Ask"):
                m.d.comb += self.read_enable.eq(1)
                m.next = "Wait"
            with m.State("Wait"):
                found = Mux(of_bytes | (word >= 2), self.read_data, self._own(number, word))
                m.d.sync += [steps.eq(steps + 1), answer.eq(Mux(number < self.count, found, 0))]
                with m.If(steps == 4):
                    m.next = "Answer"
            with m.State("Answer"):
                for bus, which in ((self.windows, 0), (self.bytes, 1)):
                    m.d.comb += [bus.response.valid.eq(of_bytes == which), bus.response.payload.data.eq(answer)]
                m.next = "Idle"
        return m

    def _own(self, number, word):
        """The first two words: of the table."""
        entry, bits = self.entry, [names.bit_select(number[:len(self.index)], 1) for names in (
            self.expired, self.was_read, self.was_written, self.atomics)]
        place = Cat(Const(0, PAGE_BITS), number[:len(self.index)], entry.generation)
        target = Cat(entry.open, entry.held, entry.plain, *bits, Const(0, PAGE_BITS - 7), entry.target.number)
        return Mux(word[0], place, target)
