"""What has come through each window since software last asked to track it."""

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import data, memory, wiring
from amaranth.lib.wiring import In, Out

from pagehop.ots.byte_map import ByteMap
from pagehop.ots.layouts import LINES, Access, window_bits

__all__ = ["MONITOR_CYCLES", "Monitor"]

#: Cycles after which all marks of an access have been set.
MONITOR_CYCLES = 6

_TIME_BITS, _COUNT_BITS = 48, 32


class _Seen(data.Struct):
    """Of one window: cycles of the first and the last access, and how many reads and writes there were."""
    first:  _TIME_BITS
    last:   _TIME_BITS
    reads:  _COUNT_BITS
    writes: _COUNT_BITS


class Monitor(wiring.Component):
    """Note of each access that leaves through a window that it reads or writes, when, and which bytes it writes.

    An access in each cycle. ``was_read`` and ``was_written`` follow in the next cycle; the rest within :data:`MONITOR_CYCLES`. A clear forgets all of
    one window; no access may have left in the :data:`MONITOR_CYCLES` before, nor leave in that cycle.

    Parameters
    ----------
    data_bytes : beat width, at most 64. windows : 1 to 16

    Members
    -------
    access, accesses : a beat that leaves. clear, window : in
    was_read, was_written : out, a bit a window
    now : in, counts cycles. word : in, which is read: 0 lines that were written, 1 first, 2 last, 3 reads and writes, 4 lines that the
        last clear has forgotten, 5 the bytes of ``read_line``
    read_window, read_line, read_enable : in. read_data : out, three cycles after the enable
    """
    def __init__(self, data_bytes, windows):
        self.data_bytes, self.windows = data_bytes, windows
        window = window_bits(windows)
        super().__init__({
            "access": In(Access(windows)), "accesses": In(1), "clear": In(1), "window": In(window), "now": In(_TIME_BITS),
            "was_read": Out(windows), "was_written": Out(windows), "word": In(3),
            "read_window": In(window), "read_line": In(range(LINES)), "read_enable": In(1), "read_data": Out(64),
        })

    def elaborate(self, platform):
        m = Module()
        m.submodules.bytes = bytes_ = ByteMap(self.data_bytes, self.windows)
        begins, one = self.accesses & self.access.first, 1 << self.access.window
        forgotten = Mux(self.clear, 1 << self.window, 0)
        m.d.comb += [
            bytes_.access.eq(self.access), bytes_.accesses.eq(self.accesses), bytes_.clear.eq(self.clear), bytes_.window.eq(self.window),
            bytes_.read_window.eq(self.read_window), bytes_.read_line.eq(self.read_line), bytes_.read_enable.eq(self.read_enable),
        ]
        m.d.sync += [
            self.was_written.eq((self.was_written & ~forgotten) | Mux(begins & self.access.writes, one, 0)),
            # An atomic does both.
            self.was_read.eq((self.was_read & ~forgotten) | Mux(begins & (~self.access.writes | self.access.atomic), one, 0)),
        ]
        seen = self._count(m, begins)
        chosen = Signal(3)
        with m.If(self.read_enable):
            m.d.sync += chosen.eq(self.word)
        words = [bytes_.read_lines, seen.first, seen.last, Cat(seen.reads, seen.writes), bytes_.read_taken, bytes_.read_bytes]
        with m.Switch(chosen):
            for number, word in enumerate(words):
                with m.Case(number):
                    m.d.sync += self.read_data.eq(word)
        return m

    def _count(self, m, begins):
        """Add what came in the cycle before. Returns what was asked for, in the second cycle after the enable."""
        m.submodules.seen = kept = memory.Memory(shape=_Seen, depth=1 << len(self.window), init=[])
        write, known, shown = kept.write_port(), kept.read_port(domain="comb"), kept.read_port(domain="comb")
        access, valid, fresh, asked, answer = Signal(self.access.shape()), Signal(), Signal(self.windows, init=-1), Signal(_Seen), Signal(_Seen)
        is_first = fresh.bit_select(access.window, 1)
        m.d.sync += [
            valid.eq(begins), access.eq(self.access),
            fresh.eq((fresh & ~Mux(valid, 1 << access.window, 0)) | Mux(self.clear, 1 << self.window, 0)),
        ]
        before = Signal(_Seen)
        m.d.comb += [
            before.eq(Mux(is_first, 0, known.data)), known.addr.eq(access.window), write.addr.eq(access.window), write.en.eq(valid),
            write.data.first.eq(Mux(is_first, self.now, before.first)), write.data.last.eq(self.now),
            write.data.reads.eq(before.reads + (~access.writes | access.atomic)), write.data.writes.eq(before.writes + access.writes),
            shown.addr.eq(self.read_window),
        ]
        with m.If(self.read_enable):
            m.d.sync += asked.eq(Mux(fresh.bit_select(self.read_window, 1), 0, shown.data))
        m.d.sync += answer.eq(asked)
        return answer
