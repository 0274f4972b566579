"""The pages that the device wrote, marked in page tables in a host's memory."""

from amaranth.hdl import Array, Cat, Const, Module, Mux, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import exact_log2

from pagehop.interposer.dirty_walk import DirtyWalk, EntryRequest
from pagehop.interposer.log_settings import DirtyUnits, LogError, LogSettings
from pagehop.interposer.log_words import MOST_WORDS, WORD_BYTES, answer_of_log, request_of_log
from pagehop.iommu.entry_format import RiscvEntries
from pagehop.iommu.keyed_cache import KeyedCache
from pagehop.tlp import headers
from pagehop.tlp.pages import PAGE_BITS, PAGE_NUMBER_BITS
from pagehop.tlp.stream import TlpBeat

__all__ = ["LogTables"]


class LogTables(wiring.Component):
    """Set A and D of every page that comes in, in page tables in a host's memory, by walks of its own.

    A page is handed to one of the ``walks``, unless it was since ``forget``, as far as that is known of ``known`` pages: then its D is set, or will
    be, and it costs nothing more. Taking one takes 4 cycles and a turn of a walk that is idle; a walk of n levels asks for n words, or for the leaf
    alone when its table is known, each at the end of 3 cycles and the turns of others, and swaps the leaf once when it lacks A or D.

    What goes wrong is an ``error``, and then more may be dirty than is marked. Reset forgets everything and withdraws what is offered.

    Parameters
    ----------
    data_bytes : beat width. entries, walk_cache : of each :class:`DirtyWalk`. walks : 1, 2, 4 or 8. known : a power of two from 2 to 64.

    Members
    -------
    settings : which must not change but in reset; ranges have units of a page. requester_id, limit. ``generation``: of the tags.
    i : stream of :class:`DirtyUnits`. ``idle``: what was taken is marked in memory. ``forget``: while idle.
    o_request : stream of one-beat TLPs. ``completion``: stream, always ready; only what has a tag of ours counts.
    error : pulse, or NONE.
    """
    def __init__(self, data_bytes=64, entries=RiscvEntries, *, walks=8, walk_cache=4, known=32):
        if walks not in (1, 2, 4, MOST_WORDS):
            raise ValueError(f"Walks of the dirty log must be 1, 2, 4 or {MOST_WORDS} at a time, not {walks!r}")
        self.data_bytes, self.entries, self.walks, self.walk_cache, self.known = data_bytes, entries, walks, walk_cache, known
        beat = stream.Signature(TlpBeat(data_bytes))
        super().__init__({
            "settings": In(LogSettings), "requester_id": In(16), "limit": In(32), "generation": In(1),
            "i": In(stream.Signature(DirtyUnits)), "idle": Out(1), "forget": In(1),
            "o_request": Out(beat), "completion": In(beat), "error": Out(LogError),
        })

    def elaborate(self, platform):
        m = Module()
        walks = [DirtyWalk(number, self.entries, self.walk_cache) for number in range(self.walks)]
        coarse, timer, tick = Signal(), Signal(32), Signal()
        m.d.sync += [
            coarse.eq(Cat(one.pages.any() & (one.shift != PAGE_BITS) for one in self.settings.ranges).any()),
            # Twice in the longest wait for an answer.
            tick.eq(~tick & (timer >= self.limit[1:])), timer.eq(Mux(tick, 0, timer + 1)),
        ]
        for number, walk in enumerate(walks):
            m.submodules[f"walk_{number}"] = walk
            m.d.comb += [walk.root.eq(self.settings.root), walk.forget.eq(self.forget), walk.tick.eq(tick)]
        waits = self._give(m, walks)
        self._ask(m, walks)
        ours, number, good, value = answer_of_log(m, self.completion, self.settings.host, self.generation, self.walks)
        for walk in walks:
            m.d.comb += [walk.answered.eq(ours & (number == walk.number)), walk.answer.good.eq(good), walk.answer.value.eq(value)]
        m.d.comb += self.idle.eq(waits & Cat(walk.i.ready for walk in walks).all())
        for walk in walks:
            with m.If(walk.error != LogError.NONE):
                m.d.comb += self.error.eq(walk.error)
        with m.If(coarse):
            m.d.comb += self.error.eq(LogError.TABLES)
        return m

    def _give(self, m, walks):
        """Give each page to a walk that is idle, if it is none that was given before. Returns whether none waits."""
        m.submodules.given = given = KeyedCache("Known pages", PAGE_NUMBER_BITS, None, self.known, 64)
        base, unit, page, turn = Signal(PAGE_NUMBER_BITS), Signal(33), Signal(PAGE_NUMBER_BITS), Signal(range(self.walks))
        mark, free = self.i.payload, Cat(walk.i.ready for walk in walks)
        m.d.comb += [given.key.eq(page), given.filled_key.eq(page), given.invalidate.eq(self.forget), *(walk.i.payload.eq(page) for walk in walks)]
        with m.FSM() as steps:
            with m.State("Take"):
                m.d.comb += self.i.ready.eq(1)
                m.d.sync += [base.eq(self.settings.ranges[mark.place.range].base), unit.eq(Cat(mark.bit, mark.place.word))]
                with m.If(self.i.valid):
                    m.next = "Add"
            with m.State("Add"):
                m.d.sync += page.eq(base + unit)
                m.next = "Look"
            with m.State("Look"):
                m.next = "Give"
            with m.State("Give"):
                m.d.comb += [walk.i.valid.eq(~given.known & (turn == walk.number)) for walk in walks]
                m.d.sync += turn.eq(turn + 1)
                with m.If(given.known):
                    m.next = "Take"
                with m.Elif(free.bit_select(turn, 1)):
                    m.d.comb += given.fill.eq(1)
                    m.next = "Take"
        return steps.ongoing("Take")

    def _ask(self, m, walks):
        """One request after the other, of the walks in turns."""
        asked, turn, out = Signal(EntryRequest), Signal(range(self.walks)), self.o_request.payload
        plain = request_of_log(m, self.settings.host, self.generation, asked.number, self.requester_id, has_data=asked.swaps, swaps=asked.swaps)
        m.d.comb += [
            out.first.eq(1), out.last.eq(1), out.data.eq(Cat(asked.entry.expected, asked.entry.value)),
            out.dwords.eq(Mux(asked.swaps, 2 * WORD_BYTES // 4, 0)),
        ]
        with m.FSM():
            with m.State("Take"):
                # A turn costs a cycle, and the answer hundreds.
                m.d.sync += [turn.eq(turn + 1), asked.eq(Array(walk.o.payload for walk in walks)[turn])]
                m.d.comb += [walk.o.ready.eq(turn == walk.number) for walk in walks]
                with m.If(Cat(walk.o.valid for walk in walks).bit_select(turn, 1)):
                    m.next = "Header"
            with m.State("Header"):
                address = Signal(64)
                m.d.comb += address.eq(Cat(Const(0, exact_log2(WORD_BYTES)), asked.entry.address))
                m.d.sync += out.header.eq(headers.with_address(plain, address))
                m.next = "Offer"
            with m.State("Offer"):
                m.d.comb += self.o_request.valid.eq(1)
                with m.If(self.o_request.ready):
                    m.next = "Take"
