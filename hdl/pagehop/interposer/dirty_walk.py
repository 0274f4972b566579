"""The walk to the page-table entry of a page that the device wrote."""

from amaranth.hdl import Module, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from pagehop.interposer.log_settings import WORD_BITS, LogError, LogRoot
from pagehop.interposer.log_words import MOST_WORDS
from pagehop.iommu.entry_format import RiscvEntries
from pagehop.iommu.layouts import PPN_BITS, EntryUpdateRequest, EntryUpdateStatus
from pagehop.iommu.page_walk import PageWalk, WalkFault
from pagehop.tlp.pages import PAGE_NUMBER_BITS

__all__ = ["DirtyWalk", "EntryAnswer", "EntryRequest"]

#: Ticks after which no answer is an error, and after which no end of a walk is.
SILENT_TICKS, LONG_TICKS = 3, 32


class EntryRequest(data.Struct):
    """A request of walk ``number``: to read the entry at ``entry.address``, or with ``swaps`` to compare and swap it."""
    number: range(MOST_WORDS)
    swaps:  1
    entry:  EntryUpdateRequest


class EntryAnswer(data.Struct):
    """What stood there before, if it is ``good``."""
    good:  1
    value: WORD_BITS


class DirtyWalk(wiring.Component):
    """Set A and D in the leaf entry of one page after the other, as hardware does it for a write of the device in the second stage of a translation.

    The entry that was read is swapped whole for itself with the two bits; when it was something else meanwhile it is read again (H34). One that has
    both costs no swap. A leaf of a large page gets its D for all of it.

    Parameters
    ----------
    number : of this walk. entries : class of the :class:`EntryFormat`. walk_cache : tables of 4 KiB leaves that are kept, as in :class:`PageWalk`.

    Members
    -------
    root : of the tables, which must not change but in reset. ``forget``: what is kept of the tables, while idle.
    i : stream of numbers of pages; ``ready`` is 1 while idle.
    o : stream of requests, of which one is on its way at a time. ``answered``, ``answer``: what came for it.
    tick : pulses. ``error``: of a walk in its last cycle, or for good; ANSWER for a request that was not answered with a word, TIMEOUT when none is
        answered or taken for three ticks, or the walk takes 32, TABLES when there is no entry, or none that lets the device write.
    """
    def __init__(self, number=0, entries=RiscvEntries, walk_cache=4):
        self.number, self.entries, self.walk_cache = number, entries, walk_cache
        super().__init__({
            "root": In(LogRoot), "forget": In(1), "i": In(stream.Signature(PAGE_NUMBER_BITS)), "o": Out(stream.Signature(EntryRequest)),
            "answered": In(1), "answer": In(EntryAnswer), "tick": In(1), "error": Out(LogError),
        })

    def elaborate(self, platform):
        m = Module()
        m.submodules.walk = walk = PageWalk(self.entries, self.walk_cache)
        page, busy, ended, fault = Signal(PAGE_NUMBER_BITS), Signal(), Signal(), Signal(WalkFault)
        request, context = walk.request.payload, walk.request.payload.context
        m.d.comb += [
            self.i.ready.eq(~busy), walk.request.valid.eq(busy & ~ended),
            request.page.eq(page), request.beyond.eq(page[PPN_BITS:].any()), request.writes.eq(1),
            context.second.eq(1), context.second_root.eq(self.root.ppn), context.second_deep.eq(self.root.deep), context.gade.eq(1),
        ]
        if self.walk_cache:
            m.d.comb += [walk.keeps.eq(1), walk.invalidate.eq(self.forget)]
        m.d.sync += [ended.eq(walk.request.ready), fault.eq(walk.result.fault)]
        with m.If(~busy):
            m.d.sync += [page.eq(self.i.payload), busy.eq(self.i.valid)]
        with m.Elif(ended):
            m.d.sync += busy.eq(0)
        asks = self._ask(m, walk)
        late = self._time(m, busy, asks)
        with m.If(late):
            m.d.comb += self.error.eq(LogError.TIMEOUT)
        with m.Elif(ended & (fault != WalkFault.NONE)):
            m.d.comb += self.error.eq(LogError.TABLES)
            with m.If((fault == WalkFault.ACCESS) | (fault == WalkFault.CORRUPTED)):
                m.d.comb += self.error.eq(LogError.ANSWER)
        return m

    def _ask(self, m, walk):
        """One request at a time. Returns whether there is one."""
        same, request = Signal(), self.o.payload
        m.d.comb += [
            # The address is that of what the walk read last, or reads.
            request.number.eq(self.number), request.entry.eq(walk.update.payload),
            same.eq(self.answer.value == walk.update.payload.expected),
            walk.memory.d.payload.data.eq(self.answer.value), walk.memory.d.payload.denied.eq(~self.answer.good),
        ]
        with m.If(~self.answer.good):
            m.d.comb += walk.updated.payload.eq(EntryUpdateStatus.ERROR)
        with m.Elif(~same):
            m.d.comb += walk.updated.payload.eq(EntryUpdateStatus.CHANGED)
        with m.FSM() as steps:
            with m.State("Idle"):
                m.d.comb += [walk.memory.a.ready.eq(1), walk.update.ready.eq(1)]
                m.d.sync += request.swaps.eq(walk.update.valid)
                with m.If(walk.memory.a.valid | walk.update.valid):
                    m.next = "Offer"
            with m.State("Offer"):
                m.d.comb += self.o.valid.eq(1)
                with m.If(self.o.ready):
                    m.next = "Wait"
            with m.State("Wait"):
                m.d.comb += [walk.memory.d.valid.eq(self.answered & ~request.swaps), walk.updated.valid.eq(self.answered & request.swaps)]
                with m.If(self.answered):
                    m.next = "Idle"
        return ~steps.ongoing("Idle")

    def _time(self, m, busy, asks):
        """Give up when no request is answered, or the walk does not end."""
        silence, age = Signal(range(SILENT_TICKS + 1)), Signal(range(LONG_TICKS + 1))
        for count, on, most in ((silence, asks, SILENT_TICKS), (age, busy, LONG_TICKS)):
            with m.If(~on):
                m.d.sync += count.eq(0)
            with m.Elif(self.tick & (count != most)):
                m.d.sync += count.eq(count + 1)
        return (silence == SILENT_TICKS) | (age == LONG_TICKS)
