"""Translations that were found before."""

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import data, memory, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import exact_log2

from pagehop.iommu.layouts import VPN_BITS, PageSize, Translation, is_same, translated
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
    """``entries`` translations in sets of ``ways``; what is found is there in the cycle that asks.

    A page has its set by its lowest bits, whatever the size of what is kept: a large page may be in several sets. ``found`` is combinational: the
    translation of ``page`` in ``space``, when any of ``matches`` is 1. Of entries of different sizes for one page the lowest way counts; each of them
    was true at some moment since the last invalidation.

    ``fill`` takes the ways of a set in turns, or the place of what was kept of the same page, which ``replaces`` names (``matches`` of the look-up
    whose walk it was: nothing else may be filled between). ``invalidate`` acts in one cycle: what it names is not found from the next cycle on.
    Without ``paged`` that is everything; with it the whole set of the page, and all entries larger than 4 KiB, which is more than was asked for, and
    costs walks only.

    Parameters
    ----------
    entries, ways : powers of two.

    Members
    -------
    space, page : in. found, matches : out
    fill, filled, replaces : in. A fill in the cycle of an invalidation is not kept
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
            "space": In(AddressSpace), "page": In(VPN_BITS), "found": Out(Translation), "matches": Out(ways),
            "fill": In(1), "filled": In(Cached), "replaces": In(ways), "invalidate": In(1), "invalidation": In(Invalidation),
        })

    def elaborate(self, platform):
        m = Module()
        valid, large, turn = Signal(self.entries), Signal(self.entries), Signal(self.ways, init=1)
        looked, filled, named = (page[:exact_log2(self.sets)] for page in (self.page, self.filled.page, self.invalidation.page))
        ways, found = Signal(self.ways), Signal(Translation)
        m.d.comb += ways.eq(Mux(self.replaces.any(), lowest(self.replaces), turn) & self.fill.replicate(self.ways))
        kept = [self._way(m, ways[number], looked, filled) for number in range(self.ways)]
        m.d.comb += [
            self.matches.eq(valid.word_select(looked, self.ways) & Cat(
                (entry.space == self.space) & is_same(entry.translation.size.as_value(), entry.page, self.page) for entry in kept)),
            found.eq(select_one(lowest(self.matches), [entry.translation for entry in kept])),
            self.found.eq(found), self.found.ppn.eq(translated(self.page, found.ppn, found.size.as_value())),
        ]
        with m.If(self.invalidate):
            forgotten = large | (((1 << self.ways) - 1) << (named * self.ways)) if self.sets > 1 else ~0
            m.d.sync += valid.eq(valid & ~Mux(self.invalidation.paged, forgotten, ~0))
        with m.Elif(self.fill):
            is_large = self.filled.translation.size != PageSize.SIZE_4K
            before = large.word_select(filled, self.ways)
            m.d.sync += [
                valid.word_select(filled, self.ways).eq(valid.word_select(filled, self.ways) | ways),
                before.eq(Mux(is_large, before | ways, before & ~ways)),
                turn.eq(turn.rotate_left(1)),
            ]
        return m

    def _way(self, m, writes, looked, filled):
        """The entry of one way in the set that is looked at."""
        memory_ = memory.Memory(shape=Cached, depth=self.sets, init=[])
        m.submodules += memory_
        write, read = memory_.write_port(), memory_.read_port(domain="comb")
        m.d.comb += [read.addr.eq(looked), write.addr.eq(filled), write.data.eq(self.filled), write.en.eq(writes)]
        return read.data
