"""Translation of device addresses."""

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from pagehop.iommu.directory_walk import Directory, DirectoryWalk
from pagehop.iommu.entry_format import RiscvEntries
from pagehop.iommu.event_counters import TranslationEvents
from pagehop.iommu.iotlb import Invalidation, Iotlb
from pagehop.iommu.keyed_cache import KeyedCache
from pagehop.iommu.layouts import (
    DEVICE_BITS,
    PAGE_BITS,
    PPN_BITS,
    VPN_BITS,
    Access,
    Cause,
    Context,
    DirectoryMode,
    EntryUpdateRequest,
    EntryUpdateStatus,
    FaultRecord,
    Located,
    PageSize,
    TranslationRequest,
    TranslationResponse,
)
from pagehop.iommu.misses import Looked, Misses, Verdict, address_space
from pagehop.iommu.page_walk import PageWalk
from pagehop.iommu.tilelink import MemoryPort

__all__ = ["Translator"]


def _is_of_move(request):
    """Whether a request came by ``locate``."""
    return (request.access == Access.NONE) | (request.access == Access.PRECACHE)


class Translator(wiring.Component):
    """Answer translation requests, from what was found before or by walks of the tables in memory (sections 2.3 to 2.5).

    One request a cycle is taken while ``request.ready``, which is 0 for a cycle at a time only. What is known is answered two cycles after it was
    taken; a page of one stage with n levels, whose device is known and which finds nothing before it, n + 3 + n L cycles after, with a memory that
    answers in L cycles. A request that is not known stops no other: answers come as they are found, with the ``id`` of their requests, of which at
    most ``2 ** id_bits`` are unanswered. Who asks keeps the order of what it must not reorder.

    Parameters
    ----------
    id_bits : of requests, at least 1.
    entries, ways : of the :class:`Iotlb`. contexts : how many are kept, a power of two up to 256.
    walk_cache : see :class:`PageWalk`. Invalidations, whatever they name, and ``redo`` clear it. With it a page of the first
        stage alone takes n + 4 + n L cycles, and 6 + L when the table is known.
    ats, updates : see :class:`DirectoryWalk`. format_ : class of the :class:`EntryFormat`.

    Members
    -------
    request, response : streams; ``response`` is taken at once, its ``ready`` is not looked at
    fault : stream of records for the fault queue
    directory : in, what ``ddtp`` says
    invalidate_pages, pages; invalidate_contexts, device_named, device_id : in, see the caches. ``stale`` : out, see :class:`Misses`
    locate, located; redo : see :class:`Misses`. Requests of ``locate`` have the ``access`` NONE or PRECACHE, those of ``request`` another
    directory_memory, table_memory : ports for the walks
    update, updated : see :class:`PageWalk`
    events : out, when it is ``counted``: what happens, see :class:`EventCounters`; nothing of ``locate``
    """
    def __init__(self, id_bits=3, *, entries=16, ways=4, contexts=4, walk_cache=0, ats=True, updates=True, format_=RiscvEntries,
                 counted=False):
        if id_bits not in range(1, 9):
            raise ValueError(f"Translation requests must have ids of 1 to 8 bits, not {id_bits!r}")
        self.id_bits, self.entries, self.ways, self.contexts = id_bits, entries, ways, contexts
        self.walk_cache, self.ats, self.updates, self.format, self.counted = walk_cache, ats, updates, format_, counted
        super().__init__({
            "request": In(stream.Signature(TranslationRequest(id_bits))), "response": Out(stream.Signature(TranslationResponse(id_bits))),
            "fault": Out(stream.Signature(FaultRecord)), "directory": In(Directory),
            "invalidate_pages": In(1), "pages": In(Invalidation),
            "invalidate_contexts": In(1), "device_named": In(1), "device_id": In(DEVICE_BITS), "stale": Out(1),
            "locate": In(stream.Signature(TranslationRequest(id_bits))), "located": Out(Located), "redo": In(1),
            "directory_memory": Out(MemoryPort()), "table_memory": Out(MemoryPort()),
            "update": Out(stream.Signature(EntryUpdateRequest)), "updated": In(stream.Signature(EntryUpdateStatus)),
            **({"events": Out(TranslationEvents)} if counted else {}),
        })

    def elaborate(self, platform):
        m = Module()
        m.submodules.iotlb = iotlb = Iotlb(self.entries, self.ways)
        m.submodules.contexts = contexts = KeyedCache("Directory cache", DEVICE_BITS, Context, self.contexts, 256, two=True)
        m.submodules.misses = misses = Misses(self.id_bits, self.ways)
        m.submodules.page_walk = page_walk = PageWalk(self.format, self.walk_cache)
        m.submodules.directory_walk = directory_walk = DirectoryWalk(ats=self.ats, updates=self.updates, root_bits=self.format.ROOT_BITS)
        self._connect_walks(m, misses, page_walk, directory_walk)
        self._connect_caches(m, misses, iotlb, contexts, directory_walk, page_walk)
        looked, busy = Signal(Looked(self.id_bits)), Signal()
        taken = Mux(misses.again.valid, misses.again.payload.as_value(), self.request.payload.as_value())
        request = data.View(TranslationRequest(self.id_bits), taken)
        high = request.iova[38:]
        m.d.comb += [
            self.request.ready.eq(~misses.blocks), misses.again.ready.eq(1),
            contexts.key.eq(self.request.payload.device_id), contexts.other.eq(misses.again.valid),
            contexts.other_key.eq(misses.again.payload.device_id), iotlb.page.eq(request.iova[PAGE_BITS:]),
        ]
        m.d.sync += [
            busy.eq(misses.again.valid | (self.request.valid & ~misses.blocks)), looked.request.eq(request),
            looked.sign_39.eq(high.all() | ~high.any()), looked.sign_48.eq(high[9:].all() | ~high[9:].any()),
            looked.beyond.eq(request.iova[PAGE_BITS + PPN_BITS:].any()), looked.no_guest.eq(request.iova[PAGE_BITS + VPN_BITS:].any()),
        ]
        self._judge(m, looked, busy, misses, iotlb, contexts)
        if self.counted:
            self._tell(m, looked.request, busy & ~misses.looks, misses, page_walk, directory_walk)
        return m

    def _judge(self, m, looked, busy, misses, iotlb, contexts):
        """In the cycle after a request was taken: answer it, or offer it to the misses."""
        request, context, offer = looked.request, contexts.value, misses.offer
        off, bare = self.directory.mode == DirectoryMode.OFF, self.directory.mode == DirectoryMode.BARE
        ats, locates = request.access == Access.ATS_REQUEST, _is_of_move(request)
        translated = (request.access == Access.TRANSLATED_READ) | (request.access == Access.TRANSLATED_WRITE)
        writes = (request.access == Access.WRITE) | (request.access == Access.TRANSLATED_WRITE)
        # What is kept has no more bits of a page than these leave.
        canonical = Mux(context.first, Mux(context.first_deep, looked.sign_48, looked.sign_39), ~looked.no_guest)
        hits = iotlb.hits & canonical & ~locates
        as_it_is = bare | translated | ~(context.first | context.second)
        disallowed = (bare & (ats | translated)) | (~bare & (request.process_valid | ((ats | translated) & ~context.ats)))
        # Whether it hits is known late: what else there is to say does not wait for that.
        refused = off | ((bare | contexts.known) & (disallowed | (as_it_is & (looked.beyond | locates))))
        answers = ~refused & (bare | contexts.known) & (as_it_is | hits)
        with m.If(refused):
            m.d.comb += [
                offer.verdict.eq(Verdict.REFUSE),
                offer.cause.eq(Mux(off, Cause.ALL_DISALLOWED, Mux(disallowed, Cause.TYPE_DISALLOWED, Mux(
                    writes, Cause.WRITE_ACCESS_FAULT, Cause.READ_ACCESS_FAULT)))),
            ]
        with m.Elif(~bare & ~contexts.known):
            m.d.comb += offer.verdict.eq(Verdict.DIRECTORY)
        with m.Else():
            m.d.comb += offer.verdict.eq(Verdict.TABLES)
        answer = Signal(TranslationResponse(self.id_bits))
        m.d.comb += [
            iotlb.space.eq(address_space(context)), iotlb.writes.eq(writes | (ats & ~request.no_write)), iotlb.reads.eq(~iotlb.writes),
            answer.id.eq(request.id), answer.translation.eq(iotlb.found),
            offer.looked.eq(looked), offer.known.eq(contexts.known & ~off & ~bare), offer.context.eq(context),
            offer.replaces.eq(iotlb.matches), misses.offered.eq(busy & ~answers),
            # Not only when it has an answer, which is known late.
            misses.answer.ready.eq(~busy),
        ]
        with m.If(as_it_is):
            m.d.comb += [
                answer.translation.ppn.eq(request.iova[PAGE_BITS:]), answer.translation.size.eq(PageSize.EVERYTHING),
                answer.translation.readable.eq(1), answer.translation.writable.eq(1),
            ]
        m.d.sync += [
            self.response.valid.eq(Mux(busy, answers, misses.answer.valid)),
            self.response.payload.eq(Mux(busy, answer, misses.answer.payload)),
        ]

    def _tell(self, m, request, came, misses, page_walk, directory_walk):
        """What can be counted: of the request that came in the cycle before, and of the one that is looked into."""
        events, looked = self.events, misses.again.payload
        counts = ~_is_of_move(looked)
        kinds = {"untranslated": (Access.READ, Access.WRITE), "translated": (Access.TRANSLATED_READ, Access.TRANSLATED_WRITE),
                 "ats_request": (Access.ATS_REQUEST,)}
        pulses = {"tlb_miss": page_walk.begun, "directory_walk": directory_walk.begun, "first_walk": page_walk.first_begun,
                  "second_walk": page_walk.second_begun}
        m.d.comb += [
            *(events[name].eq(came & Cat(request.access == access for access in kind).any()) for name, kind in kinds.items()),
            *(events[name].eq(pulse & counts) for name, pulse in pulses.items()),
            *(events[whose][name].eq(one[name]) for whose, one in (("request", request), ("miss", looked))
              for name in ("device_id", "process_valid", "process")),
            events.space.eq(address_space(misses.walk.payload.context)),
        ]

    def _connect_walks(self, m, misses, page_walk, directory_walk):
        for ours, walk in ((self.table_memory, page_walk), (self.directory_memory, directory_walk)):
            wiring.connect(m, wiring.flipped(ours), walk.memory)
        wiring.connect(m, misses.walk, page_walk.request)
        wiring.connect(m, misses.directory, directory_walk.device_id)
        wiring.connect(m, wiring.flipped(self.update), page_walk.update)
        wiring.connect(m, wiring.flipped(self.updated), page_walk.updated)
        wiring.connect(m, wiring.flipped(self.fault), misses.fault)
        wiring.connect(m, wiring.flipped(self.locate), misses.locate)
        m.d.comb += [
            misses.walked.eq(page_walk.result), misses.guest_page.eq(page_walk.guest_page), misses.implicit.eq(page_walk.implicit),
            misses.entry_address.eq(page_walk.entry_address), misses.index.eq(page_walk.index),
            misses.cause.eq(directory_walk.cause), directory_walk.directory.eq(self.directory),
        ]

    def _connect_caches(self, m, misses, iotlb, contexts, directory_walk, page_walk):
        m.d.comb += [
            iotlb.fill.eq(misses.fill), iotlb.filled.eq(misses.filled), iotlb.replaces.eq(misses.replaces),
            iotlb.invalidate.eq(self.invalidate_pages), iotlb.invalidation.eq(self.pages),
            contexts.fill.eq(misses.fill_context), contexts.filled_key.eq(misses.directory.payload), contexts.filled.eq(directory_walk.context),
            contexts.invalidate.eq(self.invalidate_contexts), contexts.named.eq(self.device_named), contexts.invalid_key.eq(self.device_id),
            misses.invalidate.eq(self.invalidate_pages | self.invalidate_contexts), self.stale.eq(misses.stale),
            misses.redo.eq(self.redo), self.located.eq(misses.located),
        ]
        if self.walk_cache:
            m.d.comb += [page_walk.invalidate.eq(misses.invalidate | self.redo), page_walk.keeps.eq(misses.keeps)]
