"""Translations that were found before."""

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import data, memory, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import exact_log2

from pagehop.iommu.layouts import COMMON, VPN_BITS, PageSize, Translation, same_parts, translated
from pagehop.tlp.arbiter import lowest, select_one

__all__ = ["AddressSpace", "Cached", "Invalidation", "Iotlb"]


class AddressSpace(data.Struct):
    """Whose addresses: of which stages, and the numbers that software gave to their tables; a number is 0 without its stage."""
    first:  1
    second: 1
    gscid:  16
    pscid:  20


class Cached(data.Struct):
    """What is kept of a translation: ``page`` of the device in its ``space``, and what it led to."""
    space:       AddressSpace
    page:        VPN_BITS
    translation: Translation


class Invalidation(data.Struct):
    """What is to be forgotten: all, or with ``paged`` what was kept of ``page``."""
    paged: 1
    page:  VPN_BITS



class Iotlb(wiring.Component):
    """``entries`` translations in sets of ``ways``; a look-up takes a cycle.

    A page has its set by its lowest bits, whatever the size of what is kept: a large page may be in several sets. The set is read in the cycle of the
    ``page``; in the next, with the ``space`` and the ``access`` (what must be allowed), ``found`` is the translation of that page when ``hits``: the
    lowest of those that allow it; each of them was true at some moment since the last invalidation. ``matches`` are those of the page that do or not.

    ``fill`` takes the ways of a set in turns, or the place of what was kept of the same page, which ``replaces`` names (``matches`` of the look-up
    whose walk it was: nothing else may be filled between). It is seen by the look-ups of the next cycle. ``invalidate`` acts in one cycle: what it
    names is not found by look-ups of this cycle or later. Without ``paged`` that is everything; with it the whole set of the page, and all entries
    larger than 4 KiB, which is more than was asked for, and costs walks only. A fill in that cycle is not kept.

    Parameters
    ----------
    entries, ways : powers of two.

    Members
    -------
    page; in the next cycle space, writes, reads : in, and found, hits, matches : out
    fill, filled, replaces : in
    invalidate, invalidation : in
    """
    def __init__(self, entries=16, ways=4):
        for name, value in (("entries", entries), ("ways", ways)):
            if value not in [1 << bits for bits in range(11)]:
                raise ValueError(f"IOTLB {name} must be a power of two up to 1024, not {value!r}")
        if ways > entries:
            raise ValueError(f"IOTLB must have no more ways than its {entries} entries, not {ways}")
        self.entries, self.ways, self.sets = entries, ways, entries // ways
        super().__init__({
            "page": In(VPN_BITS), "space": In(AddressSpace), "writes": In(1), "reads": In(1),
            "found": Out(Translation), "hits": Out(1), "matches": Out(ways),
            "fill": In(1), "filled": In(Cached), "replaces": In(ways), "invalidate": In(1), "invalidation": In(Invalidation),
        })

    def elaborate(self, platform):
        m = Module()
        valid, large, turn = Signal(self.entries), Signal(self.entries), Signal(self.ways, init=1)
        looked, filled, named = (page[:exact_log2(self.sets)] for page in (self.page, self.filled.page, self.invalidation.page))
        ways, page, left, fills = Signal(self.ways), Signal(VPN_BITS), Signal(self.entries), Signal()
        m.d.comb += [
            fills.eq(self.fill & ~self.invalidate),
            ways.eq(Mux(self.replaces.any(), lowest(self.replaces), turn) & fills.replicate(self.ways)), left.eq(valid),
        ]
        m.d.sync += page.eq(self.page)
        kept = [self._way(m, ways[number], looked, filled, left.word_select(looked, self.ways)[number]) for number in range(self.ways)]
        same = [known & (entry.space == self.space) for known, entry in kept]
        allowed = [one & (entry.translation.writable | ~self.writes) & (entry.translation.readable | ~self.reads)
                   for one, (_, entry) in zip(same, kept, strict=True)]
        # Each is made ready to be taken beside the comparison, which is long.
        chosen = [one & ~Cat(allowed[:number]).any() for number, one in enumerate(allowed)]
        m.d.comb += [
            self.matches.eq(Cat(same)), self.hits.eq(Cat(allowed).any()),
            self.found.eq(select_one(chosen, [self._translated(m, page, entry.translation) for _, entry in kept])),
        ]
        with m.If(self.invalidate):
            forgotten = large | (((1 << self.ways) - 1) << (named * self.ways)) if self.sets > 1 else ~0
            m.d.comb += left.eq(valid & ~Mux(self.invalidation.paged, forgotten, ~0))
            m.d.sync += valid.eq(left)
        with m.Elif(self.fill):
            is_large = self.filled.translation.size != PageSize.SIZE_4K
            before = large.word_select(filled, self.ways)
            m.d.sync += [
                valid.word_select(filled, self.ways).eq(valid.word_select(filled, self.ways) | ways),
                before.eq(Mux(is_large, before | ways, before & ~ways)),
                turn.eq(turn.rotate_left(1)),
            ]
        return m

    def _way(self, m, writes, looked, filled, left):
        """Of the set that was looked at in the cycle before: whether the entry of this way is of the page, and the entry."""
        memory_, entry, known = memory.Memory(shape=Cached, depth=self.sets, init=[]), Signal(Cached), Signal(len(COMMON) + 1)
        m.submodules += memory_
        write, read = memory_.write_port(), memory_.read_port(domain="comb")
        m.d.comb += [read.addr.eq(looked), write.addr.eq(filled), write.data.eq(self.filled), write.en.eq(writes)]
        m.d.sync += [entry.eq(read.data), known.eq(Cat(left, same_parts(read.data.translation.size.as_value(), read.data.page, self.page)))]
        return known.all(), entry

    @staticmethod
    def _translated(m, page, translation):
        result = Signal.like(translation)
        m.d.comb += [result.eq(translation), result.ppn.eq(translated(page, translation.ppn, translation.size.as_value()))]
        return result
