"""Page-table entries: what their bits mean. The only place that knows it; the walker, the updates and `modify` see :class:`EntryInfo`."""

from amaranth.hdl import Cat, Module, Mux
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from pagehop.iommu.layouts import MAX_LEVEL, PPN_BITS, EntryInfo, bits_of_level

__all__ = ["EntryFormat", "RiscvEntries", "VtdEntries", "is_misaligned"]


def is_misaligned(ppn, level):
    """1 when a leaf of this ``level`` does not begin at a multiple of its size."""
    # Groups of bits below the level, each looked at apart: a shift by the level would be deeper.
    groups = [ppn[bits_of_level(number):bits_of_level(number + 1)].any() & (level > number) for number in range(MAX_LEVEL)]
    return Cat(groups).any()


class EntryFormat(wiring.Component):
    """Decode an entry, combinational: ``info`` of the ``entry`` at a ``level``; ``marked``, the entry with A set, and D when ``writes``.
    :meth:`moved` is an entry as it is but for its page.

    A pointer's permissions are ANDed with those of what it leads to; a format in which pointers take nothing away says 1 there.

    ``ENTRY``: the fields of an entry. ``ROOT_BITS``: base-2 logarithm of the tables that the root of a second stage has, in a row, aligned to all.
    """
    ROOT_BITS = 0
    entry:  In(64)
    level:  In(range(MAX_LEVEL + 1))
    writes: In(1)
    info:   Out(EntryInfo)
    marked: Out(64)

    @classmethod
    def moved(cls, entry, page):
        """The ``entry`` with another ``page``."""
        place, bits = cls.ENTRY.as_shape()["ppn"].offset, cls.ENTRY.as_shape()["ppn"].width
        return Cat(entry[:place], page[:bits], entry[place + bits:])


class _RiscvEntry(data.Struct):
    valid:      1
    readable:   1
    writable:   1
    executable: 1
    user:       1
    global_:    1
    accessed:   1
    dirty:      1
    software:   2
    ppn:        PPN_BITS
    reserved:   7
    pbmt:       2     # Svpbmt is not there
    napot:      1


class RiscvEntries(EntryFormat):
    """Sv39, Sv48 and their x4 forms, with Svnapot (Privileged Architecture, 10.3 to 10.5, 21.5)."""
    ENTRY, ROOT_BITS = _RiscvEntry, 2

    def elaborate(self, platform):
        m = Module()
        entry, info = data.View(_RiscvEntry, self.entry), self.info
        leaf = entry.readable | entry.executable
        reserved = entry.reserved.any() | entry.pbmt.any() | (entry.writable & ~entry.readable)
        pointer_wrong = (self.level == 0) | entry.accessed | entry.dirty | entry.user | entry.napot
        leaf_wrong = is_misaligned(entry.ppn, self.level) | (entry.napot & ((self.level != 0) | (entry.ppn[:4] != 0b1000)))
        fault = ~entry.valid | reserved | Mux(leaf, leaf_wrong, pointer_wrong)
        m.d.comb += [
            info.fault.eq(fault), info.pointer.eq(~fault & ~leaf), info.leaf.eq(~fault & leaf),
            info.readable.eq(entry.readable | ~leaf), info.writable.eq(entry.writable | ~leaf), info.user.eq(entry.user | ~leaf),
            info.accessed.eq(entry.accessed), info.dirty.eq(entry.dirty), info.napot.eq(entry.napot),
            info.ppn.eq(entry.ppn),
        ]
        marked = data.View(_RiscvEntry, self.marked)
        m.d.comb += [self.marked.eq(self.entry), marked.accessed.eq(1), marked.dirty.eq(entry.dirty | self.writes)]
        return m


class _VtdEntry(data.Struct):
    readable: 1
    writable: 1
    ignored:  5
    large:    1
    accessed: 1
    dirty:    1
    more:     2
    ppn:      40
    upper:    12


class VtdEntries(EntryFormat):
    """Second-stage entries of Intel VT-d, 4-level and 3-level (Architecture Specification, 9.8): no user bit, no global bit, nothing of 64 KiB,
    leaves of 4 KiB, 2 MiB and 1 GiB, permissions taken away at every level."""
    ENTRY = _VtdEntry

    def elaborate(self, platform):
        m = Module()
        entry, info = data.View(_VtdEntry, self.entry), self.info
        leaf = entry.large | (self.level == 0)
        fault = ~(entry.readable | entry.writable) | (leaf & ((self.level == MAX_LEVEL) | is_misaligned(entry.ppn, self.level)))
        m.d.comb += [
            info.fault.eq(fault), info.pointer.eq(~fault & ~leaf), info.leaf.eq(~fault & leaf),
            info.readable.eq(entry.readable), info.writable.eq(entry.writable), info.user.eq(1),
            info.accessed.eq(entry.accessed), info.dirty.eq(entry.dirty), info.ppn.eq(entry.ppn),
        ]
        marked = data.View(_VtdEntry, self.marked)
        m.d.comb += [self.marked.eq(self.entry), marked.accessed.eq(1), marked.dirty.eq(entry.dirty | self.writes)]
        return m
