"""The walk of a device's page tables, one stage or two."""

from amaranth.hdl import Cat, Const, Module, Mux, Signal
from amaranth.lib import data, enum, stream, wiring
from amaranth.lib.wiring import In, Out

from pagehop.iommu.entry_format import RiscvEntries
from pagehop.iommu.iotlb import AddressSpace
from pagehop.iommu.keyed_cache import KeyedCache
from pagehop.iommu.layouts import (
    LEVEL_BITS,
    MAX_LEVEL,
    PPN_BITS,
    VPN_BITS,
    Context,
    EntryUpdateRequest,
    EntryUpdateStatus,
    PageSize,
    Translation,
    bits_of_level,
    translated,
)
from pagehop.iommu.tilelink import ADDRESS_BITS, SIZE_WORD, MemoryPort, OpA

__all__ = ["KnownTable", "PageWalk", "Region", "WalkFault", "WalkRequest", "WalkResult"]


class WalkFault(enum.Enum, shape=3):
    """Why a walk ended without a translation."""
    NONE      = 0
    PAGE      = 1    # of the first stage
    GUEST     = 2    # of the second
    ACCESS    = 3    # memory refused
    CORRUPTED = 4


class WalkRequest(data.Struct):
    """Translate ``page`` for a device with this ``context``, which has a stage at least.

    ``writes``: the access writes, or is an ATS request that asks to; ``lenient``: an ATS request, which gets what permissions there are.
    ``locates``: only the place of the leaf is asked for: nothing is refused for want of permissions, and nothing is marked.
    ``canonical``: ``page`` is an address of the first stage, when there is one. ``beyond``: the address has bits that ``page`` has no place for.
    """
    context:   Context
    page:      PPN_BITS
    writes:    1
    lenient:   1
    locates:   1
    canonical: 1
    beyond:    1


class WalkResult(data.Struct):
    """What a walk found: a ``translation`` when there is no ``fault``."""
    fault:       WalkFault
    translation: Translation


class Region(data.Struct):
    """2 MiB of the addresses of one stage: ``space`` has the number of that stage only."""
    space:  AddressSpace
    number: VPN_BITS - LEVEL_BITS


class KnownTable(data.Struct):
    """The table of 4 KiB leaves of a region, and what the pointers on the way to it have left of the permissions."""
    ppn:      PPN_BITS
    readable: 1
    writable: 1


_LEVEL = range(MAX_LEVEL + 1)


class PageWalk(wiring.Component):
    """Read the tables from the root to the leaf, check each entry, set A and D where hardware does it.

    The algorithm is that of the Privileged Architecture (10.3.2 and 18.5): the walk of the first stage translates the address of each of its entries
    by the second stage, which is an access of its own, a write when the first stage's A and D are set by hardware. The leaf alone gives permissions,
    unless the format lets pointers take some away. A and D are set by compare-and-set of the whole entry; one that has changed is read again.

    ``request`` is kept valid and stable until ``ready``, which is 1 for one cycle, with the ``result`` of the walk. With a memory that answers after
    L cycles, one stage of n levels takes n + 1 + n L cycles from the first in which ``request`` is valid to that one, both included: the next entry
    is asked for in the cycle after one came. The second stage takes two cycles more each time that it begins, and one when it was for a table.

    With a ``walk_cache`` a walk of the second stage, or of the first alone, reads the leaf only when the table of its 2 MiB is known. The first
    stage takes one cycle more then: 3 + L in all when the table is known.

    Parameters
    ----------
    entries : class of the :class:`EntryFormat`. walk_cache : how many tables of 4 KiB leaves are kept by their regions, a power of two up to 64,
        or 0.

    Members
    -------
    request, result
    memory : reads of 8 bytes, one at a time
    update, updated : requests to set A and D, each answered by ``updated`` once
    entry_address : in the cycle of a ``result`` without a fault: of the leaf, in double words
    guest_page, implicit, index : of the last GUEST fault: the page of the guest, whether it was looked for as that of a table of the first stage, and
        the place in that table
    begun, first_begun, second_begun : out, pulses: a request is begun; a walk of the first stage, of the second one. Of the second there is one more
        for each table of the first
    invalidate, keeps : with a cache: in, forget all tables; what is found now may be kept. Walks that locate neither use it nor fill it
    """
    def __init__(self, entries=RiscvEntries, walk_cache=0):
        self.entries, self.walk_cache = entries, walk_cache
        super().__init__({
            "request": In(stream.Signature(WalkRequest)), "result": Out(WalkResult), "memory": Out(MemoryPort()),
            "update": Out(stream.Signature(EntryUpdateRequest)), "updated": In(stream.Signature(EntryUpdateStatus)),
            "entry_address": Out(ADDRESS_BITS - 3), "guest_page": Out(PPN_BITS), "implicit": Out(1), "index": Out(LEVEL_BITS),
            "begun": Out(1), "first_begun": Out(1), "second_begun": Out(1),
            **({"invalidate": In(1), "keeps": In(1)} if walk_cache else {}),
        })

    def elaborate(self, platform):
        m = Module()
        self._request, self._context = self.request.payload, self.request.payload.context
        m.submodules.format = self._format = self.entries()
        # The table that is read and its level, 0 for that of the smallest pages; whether it is the second stage's, and then the page that is looked
        # for, and whether that is of a table of the first stage. What ends in _now is what the register of this name takes over.
        self._table, self._table_now = Signal(PPN_BITS), Signal(PPN_BITS)
        self._level, self._level_now = Signal(_LEVEL), Signal(_LEVEL)
        self._second, self._second_now = Signal(), Signal()
        self._guest_page, self._implicit = Signal(PPN_BITS), Signal()
        self._first_level = Signal(_LEVEL)     # the level of the first stage while the second is read
        self._found = Signal(Translation)      # by the first stage
        self._readable, self._writable = Signal(), Signal()    # what no pointer of the stage has taken away
        self._dirties = Signal()    # the entry that is marked gets D, too
        self._asks = Signal()
        self._goes_on = Signal()    # by the pointer that was read
        if self.walk_cache:
            self._cache = KeyedCache("Walk cache", Region, KnownTable, self.walk_cache, 64)
            self._fresh = Signal()    # something was looked up in the cycle before
        for register in ("table", "level", "second"):
            now = getattr(self, f"_{register}_now")
            m.d.comb += now.eq(getattr(self, f"_{register}"))
            m.d.sync += getattr(self, f"_{register}").eq(now)
        self._memory(m)
        self._translate(m)
        m.d.comb += [self.guest_page.eq(self._guest_page), self.implicit.eq(self._implicit),
                     self.index.eq(self._index(self._request.page, self._first_level))]
        entry, denied, corrupt = Signal(64), Signal(), Signal()
        m.d.comb += [self._format.entry.eq(entry), self._format.level.eq(self._level)]
        with m.FSM() as states:
            with m.State("idle"), m.If(self.request.valid):
                self._begin(m)
            with m.State("root"):
                self._root(m)
            with m.State("read"):
                self._ask(m)
                if self.walk_cache:
                    self._skip(m)
            with m.State("wait"), m.If(self.memory.d.valid):
                answer = self.memory.d.payload
                m.d.sync += [entry.eq(answer.data), denied.eq(answer.denied), corrupt.eq(answer.corrupt)]
                m.next = "check"
            with m.State("check"):
                with m.If(denied | corrupt):
                    self._end(m, Mux(denied, WalkFault.ACCESS, WalkFault.CORRUPTED))
                with m.Else():
                    self._check(m)
            with m.State("mark"):
                m.d.comb += self.update.valid.eq(1)
                with m.If(self.update.ready):
                    m.next = "marking"
            with m.State("marking"), m.If(self.updated.valid):
                m.d.sync += [entry.eq(self._format.marked), denied.eq(self.updated.payload == EntryUpdateStatus.ERROR)]
                m.next = "check"
                with m.If(self.updated.payload == EntryUpdateStatus.CHANGED):
                    m.next = "read"
        if self.walk_cache:
            self._remember(m, states)
        return m

    def _remember(self, m, states):
        """The tables of regions: looked up before the first read of a stage, filled by pointers to them."""
        m.submodules.cache = cache = self._cache
        request, context, info = self._request, self._context, self._format.info
        begins, second = Signal(), Signal()
        m.d.comb += [
            begins.eq(states.ongoing("idle")), second.eq(self._second & ~begins),
            cache.key.number.eq(Mux(second, self._guest_page, request.page)[LEVEL_BITS:VPN_BITS]),
            cache.key.space.first.eq(~second), cache.key.space.second.eq(second),
            cache.key.space.gscid.eq(Mux(second, context.gscid, 0)), cache.key.space.pscid.eq(Mux(second, 0, context.pscid)),
            cache.filled.ppn.eq(info.ppn), cache.filled.readable.eq(info.readable & self._readable),
            cache.filled.writable.eq(info.writable & self._writable), cache.invalidate.eq(self.invalidate),
            cache.fill.eq(states.ongoing("check") & self._goes_on & (self._level == 1) & (second | ~context.second) & self.keeps & ~request.locates),
            cache.filled_key.eq(cache.key),
        ]
        m.d.sync += self._fresh.eq((begins | states.ongoing("root")) & ~request.locates)

    def _skip(self, m):
        """In the cycle after a look-up: read the leaf at once."""
        table = self._cache.value
        with m.If(self._fresh & self._cache.known):
            m.d.comb += [self._table_now.eq(table.ppn), self._level_now.eq(0)]
            m.d.sync += [self._readable.eq(table.readable), self._writable.eq(table.writable)]

    def _memory(self, m):
        """Read the entry of the page at ``_now``, and ask for updates of the one that was read last."""
        ask, place, last = self.memory.a.payload, Signal(ADDRESS_BITS - 3), Signal(ADDRESS_BITS - 3)
        with m.If(self._asks):
            m.d.sync += last.eq(place)
        m.d.comb += [
            place.eq(Cat(self._index(Mux(self._second_now, self._guest_page, self._request.page), self._level_now), self._table_now)),
            self._format.writes.eq(self._dirties), self.memory.a.valid.eq(self._asks), self.memory.d.ready.eq(1), self.updated.ready.eq(1),
            ask.opcode.eq(OpA.GET), ask.size.eq(SIZE_WORD), ask.mask.eq(~0), ask.address.eq(Cat(Const(0, 3), place)),
            self.entry_address.eq(last), self.update.payload.address.eq(last), self.update.payload.expected.eq(self._format.entry),
            self.update.payload.value.eq(self._format.marked),
        ]

    @staticmethod
    def _index(page, level):
        """Place of ``page`` in the tables of a level. What the root of the second stage has more is part of its table's number."""
        return page.word_select(level, LEVEL_BITS)

    def _ask(self, m, **place):
        """Read the entry at the ``table``, ``level`` and stage (``second``) that ``_now`` gets here."""
        m.d.comb += [self._asks.eq(1), *(getattr(self, f"_{name}_now").eq(value) for name, value in place.items())]
        m.next = "read"
        with m.If(self.memory.a.ready):
            m.next = "wait"

    def _translate_table(self, m, page, level):
        """Find, by the second stage, the table of the first stage that is at the guest's ``page``."""
        m.d.sync += [self._guest_page.eq(page), self._first_level.eq(level), self._implicit.eq(1)]
        m.d.comb += self._second_now.eq(1)
        m.next = "root"

    def _end(self, m, fault):
        m.d.comb += [self.request.ready.eq(1), self.result.fault.eq(fault)]
        m.next = "idle"

    def _begin(self, m):
        request, context = self._request, self._context
        root, level = context.first_root, 2 + context.first_deep
        m.d.comb += [self.begun.eq(1), self.first_begun.eq(context.first & request.canonical)]
        m.d.sync += [
            self._found.readable.eq(1), self._found.writable.eq(1), self._found.size.eq(PageSize.EVERYTHING),
            self._readable.eq(1), self._writable.eq(1),
        ]
        with m.If(~context.first):
            m.d.sync += [self._guest_page.eq(request.page), self._implicit.eq(0)]
            m.d.comb += self._second_now.eq(1)
            m.next = "root"
        with m.Elif(~request.canonical):
            self._end(m, WalkFault.PAGE)
        with m.Elif(context.second):
            self._translate_table(m, root, level)
        with m.Else():
            if self.walk_cache:     # which says in the next cycle whether the table is known
                m.d.comb += [self._table_now.eq(root), self._level_now.eq(level), self._second_now.eq(0)]
                m.next = "read"
            else:
                self._ask(m, table=root, level=level, second=0)

    def _root(self, m):
        """Begin the second stage: its root may be several tables in a row; what they have no place for is no address of a guest."""
        request, context, page = self._request, self._context, self._guest_page
        deep, root, more = context.second_deep, context.second_root, self.entries.ROOT_BITS
        high = Mux(deep, page[bits_of_level(4):], page[bits_of_level(3):])
        outside = high[more:].any() | (request.beyond & ~context.first)
        m.d.comb += [
            self._table_now.eq(Cat(high[:more], root[more:])),
            self._level_now.eq(2 + deep), self.second_begun.eq(~outside),
        ]
        m.d.sync += [self._readable.eq(1), self._writable.eq(1)]
        m.next = "read"
        with m.If(outside):
            self._end(m, WalkFault.GUEST)

    def _check(self, m):
        """Act on the entry that was read, whether it is as it came or marked."""
        request, context, info = self._request, self._context, self._format.info
        table = self._second & self._implicit     # a table of the first stage is looked for
        writes = Mux(table, context.sade, request.writes)
        readable, writable = info.readable & self._readable, info.writable & self._writable
        # Of an ATS request all permissions are told, and none is missed; of a table they all count.
        refused = (table | ~request.lenient) & ((writes & ~writable) | ((table | ~writes) & ~readable)) | ~info.user
        marks = ~request.locates & (~info.accessed | (writes & writable & ~info.dirty))
        m.d.sync += self._dirties.eq(writes & writable)
        with m.If(info.fault | (info.leaf & ((refused & ~request.locates) | (marks & ~Mux(self._second, context.gade, context.sade))))):
            self._end(m, Mux(self._second, WalkFault.GUEST, WalkFault.PAGE))
        with m.Elif(info.pointer):
            m.d.comb += self._goes_on.eq(1)
            below = (self._level - 1)[:len(self._level)]
            m.d.sync += [self._readable.eq(readable), self._writable.eq(writable)]
            with m.If(context.second & ~self._second):
                self._translate_table(m, info.ppn, below)
            with m.Else():
                self._ask(m, table=info.ppn, level=below)
        with m.Elif(marks):
            m.next = "mark"
        with m.Else():
            self._leaf(m)

    def _leaf(self, m):
        found, translation = self._found, self.result.translation
        with m.If(self._second & self._implicit):
            m.d.comb += [self._table_now.eq(translation.ppn), self._level_now.eq(self._first_level), self._second_now.eq(0)]
            m.d.sync += [self._readable.eq(1), self._writable.eq(1)]
            m.next = "read"
        with m.Elif(self._context.second & ~self._second):
            m.d.sync += [found.eq(translation), self._guest_page.eq(translation.ppn), self._implicit.eq(0)]
            m.d.comb += self._second_now.eq(1)
            m.next = "root"
        with m.Else():
            self._end(m, WalkFault.NONE)

    def _translate(self, m):
        """What the entry says if it is a leaf, which is known late."""
        info, level, found, translation = self._format.info, self._level, self._found, self.result.translation
        page = Mux(self._second, self._guest_page, self._request.page)
        size = Mux(level == 0, info.napot, level + 1)
        m.d.comb += [
            translation.ppn.eq(translated(page, info.ppn, size)),
            translation.size.eq(Mux(found.size.as_value() < size, found.size.as_value(), size)),
            translation.readable.eq(info.readable & self._readable & found.readable),
            translation.writable.eq(self._writable & found.writable & (info.writable & info.dirty)),
        ]
