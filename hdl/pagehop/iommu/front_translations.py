"""The translations of one lane: asked for ahead, in order again when they are used."""

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from pagehop.iommu.front_layouts import Decision, Kind, Route, Wanted
from pagehop.iommu.layouts import PAGE_BITS, Access, Status, TranslationRequest, TranslationResponse, translated

__all__ = ["Translations"]


class Translations(wiring.Component):
    """Ask for the translations of a lane's TLPs, up to ``2 ** slot_bits`` ahead, and decide about each in the order of the lane.

    A request a cycle; two cycles from an answer to its decision, one decision every two cycles. Answers may come in any order.

    ``discard``: what has been answered, in this cycle too, and not used is forgotten and asked for again: what is used later was answered later. It
    forgets no refusal, whose record has been written.

    Members
    -------
    ahead : in, of the ordering queue. request, response, responds : to and from the translator, the id is that of the slot
    o : decisions; the one that is shown may be withdrawn by ``discard``
    ats_hold : in, no ATS request is asked for from this cycle on. ats_inside : out, one is or was, and has not been used
    """
    def __init__(self, ahead_shape, slot_bits):
        if slot_bits not in range(1, 7):
            raise ValueError(f"Slots of translations must have numbers of 1 to 6 bits, not {slot_bits!r}")
        self.slot_bits = slot_bits
        super().__init__({
            "ahead": In(stream.Signature(ahead_shape)), "request": Out(stream.Signature(TranslationRequest(slot_bits))),
            "response": In(TranslationResponse(slot_bits)), "responds": In(1), "o": Out(stream.Signature(Decision)),
            "discard": In(1), "ats_hold": In(1), "ats_inside": Out(1),
        })

    def elaborate(self, platform):
        m = Module()
        count = 1 << self.slot_bits
        m.submodules.wanted = self._wanted = Memory(shape=Wanted, depth=count, init=[])
        m.submodules.results = self._results = Memory(shape=TranslationResponse(self.slot_bits), depth=count, init=[])
        # Of slots in a ring: the next that is taken, asked about, and used.
        taken, asked, used = (Signal(self.slot_bits + 1, name=name) for name in ("taken", "asked", "used"))
        # Bits of slots: what is answered, and of this what no discard changes; what is being asked for; ATS requests.
        there, final, waits, ats = (Signal(count, name=name) for name in ("there", "final", "waits", "ats"))
        put, store = self._wanted.write_port(), self._results.write_port()
        taking, pops, again = Signal(), Signal(count), Signal()
        m.d.comb += [
            self.ahead.ready.eq(~(taken - used)[self.slot_bits]), taking.eq(self.ahead.valid & self.ahead.ready),
            put.addr.eq(taken[:-1]), put.data.eq(self.ahead.payload.info), put.en.eq(taking),
            store.addr.eq(self.response.id), store.data.eq(self.response), store.en.eq(self.responds),
            pops.eq(Mux(self.o.valid & self.o.ready, 1 << used[:-1], 0)),
        ]
        step, asks, skips = self._ask(m, taken, asked, there, waits)
        comes, refused = Signal(count), self.response.status != Status.TRANSLATED
        there_next, final_next = Signal(count), Signal(count)
        m.d.comb += [
            comes.eq(Mux(self.responds, 1 << self.response.id, 0)),
            there_next.eq((there | skips | comes) & ~pops), final_next.eq((final | skips | Mux(refused, comes, 0)) & ~pops),
            self.ats_inside.eq((ats & (waits | there)).any()),
        ]
        m.d.sync += [
            taken.eq(taken + taking), used.eq(used + pops.any()), asked.eq(asked + step),
            there.eq(there_next), final.eq(final_next), waits.eq((waits | asks) & ~comes),
        ]
        with m.If(taking):
            m.d.sync += ats.bit_select(taken[:-1], 1).eq(self.ahead.payload.info.kind == Kind.ATS_REQUEST)
        with m.If(self.discard):
            m.d.sync += [there.eq(there_next & final_next), again.eq(1)]
        with m.If(again):
            # A cycle later, in which nothing is used.
            m.d.sync += [asked.eq(used), again.eq(self.discard)]
        self._decide(m, used, there)
        return m

    def _ask(self, m, taken, asked, there, waits):
        """Ask about the next, or go past it when there is nothing to ask. Returns whether that is done, and as bits of slots of whom was asked, and
        who has no question.
        """
        read, request = self._wanted.read_port(domain="comb"), self.request.payload
        wanted, slot, asking, passing = read.data, asked[:-1], Signal(), Signal()
        ats, as_translated = wanted.kind == Kind.ATS_REQUEST, wanted.kind == Kind.TRANSLATED
        mute = ~(ats | as_translated | (wanted.kind == Kind.UNTRANSLATED))
        m.d.comb += [
            read.addr.eq(slot), passing.eq((asked != taken) & (mute | (there | waits).bit_select(slot, 1))),
            self.request.valid.eq((asked != taken) & ~passing & ~(ats & self.ats_hold)), asking.eq(self.request.valid & self.request.ready),
            request.id.eq(slot), request.device_id.eq(wanted.device_id), request.iova.eq(wanted.address << 2), request.no_write.eq(wanted.no_write),
            request.process_valid.eq(wanted.process_valid), request.process.eq(wanted.process), request.privileged.eq(wanted.privileged),
            request.access.eq(Mux(ats, Access.ATS_REQUEST, Mux(
                as_translated, Mux(wanted.writes, Access.TRANSLATED_WRITE, Access.TRANSLATED_READ), Mux(wanted.writes, Access.WRITE, Access.READ)))),
        ]
        return asking | passing, Mux(asking, 1 << slot, 0), Mux(passing & mute, 1 << slot, 0)

    def _decide(self, m, used, there):
        wanted, result, decision = self._wanted.read_port(domain="comb"), self._results.read_port(domain="comb"), self.o.payload
        translation, page = result.data.translation, Signal.like(decision.translation.ppn)
        kind = wanted.data.kind
        permitted = Mux(wanted.data.writes, translation.writable, translation.readable)
        m.d.comb += [
            wanted.addr.eq(used[:-1]), result.addr.eq(used[:-1]),
            page.eq(translated(Cat(wanted.data.address[PAGE_BITS - 2:]), translation.ppn, translation.size.as_value())),
        ]
        m.d.sync += self.o.valid.eq(Mux(self.o.valid, ~self.o.ready, there.bit_select(used[:-1], 1)) & ~self.discard)
        with m.If(~self.o.valid):
            m.d.sync += [
                decision.translation.eq(translation), decision.translation.ppn.eq(page), decision.wide.eq(page[32 - PAGE_BITS:].any()),
                decision.rewrites.eq(kind == Kind.UNTRANSLATED), decision.aborts.eq(0), decision.route.eq(Route.ONWARD),
            ]
            with m.If(kind == Kind.MESSAGE):
                m.d.sync += decision.route.eq(Route.MESSAGE)
            with m.Elif((kind == Kind.ATS_REQUEST) & (result.data.status == Status.TRANSLATED)):
                m.d.sync += decision.route.eq(Route.ENTRY)
            with m.Elif((kind != Kind.PASS) & ((kind == Kind.REFUSE) | (result.data.status != Status.TRANSLATED) | ~permitted)):
                m.d.sync += [
                    decision.route.eq(Mux(wanted.data.posted, Route.DROPPED, Route.REFUSED)),
                    decision.aborts.eq((kind != Kind.REFUSE) & (result.data.status == Status.COMPLETER_ABORT)),
                ]
