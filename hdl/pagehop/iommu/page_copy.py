"""Copying one page to another place in the memory of the same host."""

from amaranth.hdl import Cat, Const, Module, Mux, Signal
from amaranth.lib import data, memory, stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import exact_log2

from pagehop.iommu.layouts import PAGE_BITS, PPN_BITS
from pagehop.iommu.tilelink import DATA_BITS, LINE_BEATS, SIZE_LINE, MemoryPort, OpA
from pagehop.tlp.arbiter import lowest, number_of

__all__ = ["CopyPages", "PageCopy"]

#: Base-2 logarithm of the lines of a page.
LINES_BITS = PAGE_BITS - SIZE_LINE


class CopyPages(data.Struct):
    """A page to be copied, and where to."""
    source:      PPN_BITS
    destination: PPN_BITS


class PageCopy(wiring.Component):
    """Read a page of 4 KiB line by line, and write each line as soon as it has come whole, on an uncached port of its own (TL-UH).

    Gets come first on channel A: they are one beat, and keep the memory at work. A line takes 9 beats of A and 9 of D, a page 576 cycles. With a
    memory that answers L cycles after a request, in a beat a cycle, it is copied in up to 640 + L while L + 19 is at most 9 times ``reads``, with
    more in about (L + 19) 64 / ``reads`` + L, from the first cycle of ``start`` to that of its ``ready``. Answers are always taken, in any order
    between lines.

    When ``ready`` says that the page is copied, each write has been acknowledged, so all of it is visible (H03). A line of which a beat is corrupt or
    denied is not written (H14). After an error, and while ``abort``, no line is begun; what is under way is answered first.

    When nothing was answered for ``limit`` cycles the copy is given up, with what is ``owed``: late answers are swallowed, and nothing else begins
    before all of them have come, so no source stands for two operations; a ``start`` waits for that ``limit`` cycles at most, from the last answer
    on, and then fails too. What is owed may still be written to its destination.

    Parameters
    ----------
    reads : lines that are kept, and so Gets that are not answered: 2, 4, 8 or 16. Sources are the Gets, by the place of their line, then the Puts.

    Members
    -------
    start : stream of :class:`CopyPages`; ``ready`` is 1 for one cycle, when the page is copied, or will not be.
    failed : out, in that cycle, it is not.
    abort : in, a level: the page need not be copied.
    limit : in, at least 1.
    owed : out, something is offered, or to be answered.
    port : to memory.
    """
    def __init__(self, reads=4):
        if reads not in (2, 4, 8, 16):
            raise ValueError(f"A copy must have 2, 4, 8 or 16 reads under way, not {reads!r}")
        self.reads = reads
        super().__init__({
            "start": In(stream.Signature(CopyPages)), "failed": Out(1), "abort": In(1), "limit": In(32), "owed": Out(1),
            "port": Out(MemoryPort(exact_log2(reads) + 1)),
        })

    def elaborate(self, platform):
        m = Module()
        m.submodules.buffer = buffer = memory.Memory(shape=DATA_BITS, depth=self.reads * LINE_BEATS, init=[])
        # A bit a place: its line was asked for; has come and is not being written; is not acknowledged, and may be read over.
        self._reading, self._whole, self._writing = (Signal(self.reads, name=name) for name in ("reading", "whole", "writing"))
        self._beat, self._asked, self._goes = Signal(range(LINE_BEATS)), Signal(LINES_BITS + 1), Signal()
        timer, waits, expired = Signal(32), Signal(), Signal()
        m.d.comb += [
            self.owed.eq(self.port.a.valid | self._beat.any() | (self._reading | self._writing).any()), expired.eq(timer == 0),
        ]
        m.d.sync += timer.eq(Mux(waits & ~self.port.d.valid, timer - 1, self.limit))
        self._receive(m, buffer.write_port())
        self._send(m, buffer.read_port(domain="comb"))
        with m.FSM():
            with m.State("idle"):
                m.d.comb += waits.eq(self.start.valid & self.owed)
                m.d.sync += [self._asked.eq(0), self.failed.eq(waits & expired)]
                with m.If(self.start.valid & ~self.owed):
                    m.next = "copy"
                with m.Elif(waits & expired):
                    m.next = "done"
            with m.State("copy"):
                m.d.comb += [waits.eq(1), self._goes.eq(~self.failed & ~self.abort)]
                with m.If(self.abort | expired):
                    m.d.sync += self.failed.eq(1)
                with m.If(expired | (~self.owed & (~self._goes | (self._asked[-1] & ~self._whole.any())))):
                    m.next = "done"
            with m.State("done"):
                m.d.comb += self.start.ready.eq(1)
                m.next = "idle"
        return m

    def _receive(self, m, write):
        """Answers. What comes when no copy goes on is for nobody."""
        answer, count, tainted, last = self.port.d.payload, Signal(range(LINE_BEATS)), Signal(), Signal()
        place, put = answer.source[:-1], answer.source[-1]
        bad, came = answer.denied | (~put & (answer.corrupt | tainted)), Signal(self.reads)
        m.d.comb += [
            self.port.d.ready.eq(1), write.data.eq(answer.data), write.addr.eq(Cat(count, place)), write.en.eq(self.port.d.valid & ~put),
            last.eq(self.port.d.valid & (put | count.all())), came.eq(last << place),
        ]
        with m.If(write.en):
            m.d.sync += [count.eq(count + 1), tainted.eq(bad & ~last)]
        with m.If(last & bad):
            m.d.sync += self.failed.eq(1)
        self._came_reads, self._came_writes = Mux(put, 0, came), Mux(put, came, 0)

    def _send(self, m, read):
        """Channel A, from a register: what goes on of a burst, else a Get, else the first beat of a Put."""
        m.submodules.lines = lines = memory.Memory(shape=LINES_BITS, depth=self.reads, init=[])
        write, line = lines.write_port(), lines.read_port(domain="comb")
        ask, free, first, burst = self.port.a, Signal(), Signal(), Signal(range(self.reads))
        vacant, ready = lowest(~(self._reading | self._whole)), lowest(self._whole & ~self._writing)
        gets, puts = Signal(), Signal()
        m.d.comb += [
            free.eq(~ask.valid | ask.ready), first.eq(free & ~self._beat.any() & self._goes),
            gets.eq(first & ~self._asked[-1] & vacant.any()), puts.eq(first & ~gets & ready.any()),
            write.addr.eq(number_of(vacant)), write.data.eq(self._asked), write.en.eq(gets),
            line.addr.eq(number_of(ready)), read.addr.eq(Cat(self._beat, Mux(self._beat.any(), burst, number_of(ready)))),
        ]
        payload = ask.payload
        with m.If(free):
            m.d.sync += [ask.valid.eq(gets | puts | self._beat.any()), payload.data.eq(read.data)]
        with m.If(free & (puts | self._beat.any())):
            m.d.sync += self._beat.eq(self._beat + 1)
        with m.If(gets | puts):
            m.d.sync += [
                payload.opcode.eq(Mux(gets, OpA.GET, OpA.PUT_FULL)), payload.source.eq(Cat(number_of(Mux(gets, vacant, ready)), puts)),
                payload.address.eq(Cat(Const(0, SIZE_LINE), Mux(gets, Cat(self._asked[:-1], self.start.payload.source),
                                                                Cat(line.data, self.start.payload.destination)))),
                burst.eq(number_of(ready)), self._asked.eq(self._asked + gets),
            ]
        m.d.comb += [payload.size.eq(SIZE_LINE), payload.mask.eq(~0)]
        m.d.sync += [
            self._reading.eq((self._reading | Mux(gets, vacant, 0)) & ~self._came_reads),
            self._writing.eq((self._writing | Mux(puts, ready, 0)) & ~self._came_writes),
            self._whole.eq(Mux(self._goes, (self._whole | self._came_reads) & ~Mux(puts, ready, 0), 0)),
        ]
