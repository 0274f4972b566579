"""The IOMMU without the way that TLPs take: only parts and connections (docs/iommu.md)."""

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import bits_for

from pagehop.iommu.control import IommuControl
from pagehop.iommu.debug_translation import DebugTranslation
from pagehop.iommu.entry_format import RiscvEntries
from pagehop.iommu.entry_update import EntryUpdate
from pagehop.iommu.iotlb import Invalidation
from pagehop.iommu.layouts import TranslationRequest, TranslationResponse
from pagehop.iommu.line_owner import LineOwner
from pagehop.iommu.line_share import LineShare
from pagehop.iommu.memory_arbiter import MemoryArbiter
from pagehop.iommu.modify import ModifyEngine
from pagehop.iommu.page_copy import PageCopy
from pagehop.iommu.tilelink import CoherentPort
from pagehop.iommu.translator import Translator
from pagehop.registers.bus import RegisterBus

__all__ = ["IommuCore"]

#: Messages of ATS, which pass through.
ATS_STREAMS = ("invalidations", "completions", "page_requests", "responses")


class IommuCore(wiring.Component):
    """Translations on request, commands and faults by queues in memory, moves of pages; all memory by one coherent port, but for copies.

    Latency and throughput are those of the parts: :class:`Translator`, :class:`CommandQueue`, :class:`RecordQueue`, :class:`EntryUpdate`. Each client
    of the memory has a source of its own, the line's owner the last, to which probes must come.

    Parameters
    ----------
    id_bits, entries, ways, contexts, walk_cache, format_ : see :class:`Translator`. updates : whether hardware sets A and D.
    vectors, messages, fence_bits, counters, debug : see :class:`IommuControl`. sink_bits : of the port.
    ats, tags : whether there is ATS, and see :class:`IommuControl`. modify : whether pages can be moved. reads : see :class:`PageCopy`.

    Members
    -------
    bus : registers, 4 KiB. wires : interrupts
    request, response : of translations, see :class:`Translator`
    drain, drained, drain_failed, drain_address, drain_limit : see :class:`IommuControl`
    port : to the home
    copy_port : with modify, where pages are copied
    invalidations, completions, page_requests, responses : with ATS, messages to and from devices
    ats_hold, ats_quiet : with ATS, no request for a translation of a device is to be let in; and none is inside
    """
    def __init__(self, id_bits=3, *, entries=16, ways=4, contexts=4, walk_cache=0, format_=RiscvEntries, updates=True,
                 vectors=2, messages=True, fence_bits=24, sink_bits=1, modify=False, reads=4, ats=False, tags=8, counters=0, debug=False):
        self.debug = DebugTranslation(id_bits) if debug else None
        inner = id_bits + debug      # of the translator's requests
        self.translator = Translator(
            inner, entries=entries, ways=ways, contexts=contexts, walk_cache=walk_cache, ats=ats, updates=updates, format_=format_,
            counted=bool(counters))
        self.control = IommuControl(
            ats=ats, tags=tags, modify=modify, updates=updates, vectors=vectors, messages=messages, fence_bits=fence_bits, counters=counters,
            debug=debug)
        self.ats, self.counters = ats, counters
        self.engine, self.copy = (ModifyEngine(inner, ats=ats, format_=format_, counted=bool(counters)), PageCopy(reads)) if modify else (None, None)
        self._clients = [
            *((self.translator, name) for name in ("directory_memory", "table_memory")),
            *((self.control, name) for name in ("command_memory", "fault_memory", *(["message_memory"] if messages else []),
                                               *(["context_memory", "page_memory"] if ats else []))),
            *([(self.engine, "memory")] if modify else []),
        ]
        source_bits = bits_for(len(self._clients))
        self.arbiter = MemoryArbiter(len(self._clients), sink_bits)
        self.owner = LineOwner(len(self._clients), source_bits, sink_bits)
        super().__init__({
            "bus": In(RegisterBus(self.control.file.address_bits)), "wires": Out(vectors),
            "request": In(stream.Signature(TranslationRequest(id_bits))), "response": Out(stream.Signature(TranslationResponse(id_bits))),
            "drain": Out(1), "drained": In(1), "drain_failed": In(1), "drain_address": Out(64), "drain_limit": Out(32),
            "port": Out(CoherentPort(source_bits, sink_bits)),
            **({name: member for name, member in self.control.signature.members.items() if name in ATS_STREAMS} if ats else {}),
            **({"ats_hold": Out(1), "ats_quiet": In(1)} if ats else {}),
            **({"copy_port": Out(self.copy.port.signature)} if modify else {}),
        })

    def elaborate(self, platform):
        m = Module()
        m.submodules.translator, m.submodules.control = self.translator, self.control
        m.submodules.arbiter, m.submodules.owner = self.arbiter, self.owner
        m.submodules.update = update = EntryUpdate()
        translator, control = self.translator, self.control
        asks = translator
        if self.debug is not None:
            m.submodules.debug = asks = debug = self.debug
            wiring.connect(m, debug.translate, translator.request)
            wiring.connect(m, translator.response, debug.translated)
            wiring.connect(m, control.debug, debug.registers)
        for ours, part in ((self.bus, control.bus), (self.request, asks.request), (self.response, asks.response), (self.port, self.arbiter.port)):
            wiring.connect(m, wiring.flipped(ours), part)
        for number, (part, name) in enumerate(self._clients):
            wiring.connect(m, getattr(part, name), self.arbiter.clients[number])
        wiring.connect(m, self.arbiter.owner, self.owner.port)
        wiring.connect(m, translator.update, update.update)
        wiring.connect(m, translator.updated, update.updated)
        wiring.connect(m, translator.fault, control.fault)
        m.d.comb += [
            translator.directory.eq(control.directory), control.stale.eq(translator.stale),
            *(getattr(translator, name).eq(getattr(control, name)) for name in ("invalidate_contexts", "device_named", "device_id")),
            control.drained.eq(self.drained), control.drain_failed.eq(self.drain_failed),
            self.drain_address.eq(control.drain_address), self.drain_limit.eq(control.drain_limit), self.wires.eq(control.wires),
        ]
        if self.counters:
            m.d.comb += control.counted.eq(translator.events)
        for name in ATS_STREAMS if self.ats else ():
            wiring.connect(m, wiring.flipped(getattr(self, name)), getattr(control, name))
        self._connect_moves(m, update)
        return m

    def _connect_moves(self, m, update):
        """A fence waits for moves, so never do both drain in one cycle; a command may invalidate in that in which a move does."""
        translator, control, engine, copy = self.translator, self.control, self.engine, self.copy
        forgets, pages, drains = control.invalidate_pages, control.pages, control.drain
        if engine is None:
            wiring.connect(m, update.line, self.owner.user)
        else:
            m.submodules.engine, m.submodules.copy = engine, copy
            m.submodules.share = share = LineShare(2)
            for user, line in zip(share.users, (update.line, engine.line), strict=True):
                wiring.connect(m, line, user)
            for one, other in ((share.owner, self.owner.user), (engine.locate, translator.locate), (engine.copy, copy.start),
                               (control.modify, engine.execute), (copy.port, wiring.flipped(self.copy_port))):
                wiring.connect(m, one, other)
            m.d.comb += [
                self.owner.limit.eq(engine.limit), engine.located.eq(translator.located), translator.redo.eq(engine.redo),
                engine.copy_failed.eq(copy.failed), copy.abort.eq(engine.copy_abort), copy.limit.eq(control.copy_limit),
                engine.records.eq(control.records), engine.hold_limit.eq(control.hold_limit), control.events.eq(engine.events),
                engine.drained.eq(self.drained), engine.drain_failed.eq(self.drain_failed),
            ]
            if self.counters:
                m.d.comb += control.meter.eq(engine.meter)
            if self.ats:
                wiring.connect(m, engine.round, control.round)
                m.d.comb += [engine.round_failed.eq(control.round_failed), self.ats_hold.eq(engine.ats_hold), engine.ats_quiet.eq(self.ats_quiet)]
            forgets, pages = Signal(), Signal(Invalidation)
            m.d.comb += [
                forgets.eq(control.invalidate_pages | engine.invalidate),
                pages.page.eq(Mux(engine.invalidate, engine.pages.page, control.pages.page)),
                # Two at a time name no page, so all are forgotten.
                pages.paged.eq(Mux(engine.invalidate, engine.pages.paged & ~control.invalidate_pages, control.pages.paged)),
            ]
            drains = drains | engine.drain
        m.d.comb += [translator.invalidate_pages.eq(forgets), translator.pages.eq(pages), self.drain.eq(drains)]
