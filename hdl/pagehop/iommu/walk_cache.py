"""Last tables that walks have found before."""

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import data, memory, wiring
from amaranth.lib.wiring import In, Out

from pagehop.iommu.iotlb import AddressSpace
from pagehop.iommu.layouts import LEVEL_BITS, PPN_BITS, VPN_BITS
from pagehop.tlp.arbiter import number_of

__all__ = ["KnownTable", "Region", "WalkCache"]


class Region(data.Struct):
    """2 MiB of the addresses of one stage: ``space`` has the number of that stage only."""
    space:  AddressSpace
    number: VPN_BITS - LEVEL_BITS


class KnownTable(data.Struct):
    """The table of 4 KiB leaves of a region, and what the pointers on the way to it have left of the permissions."""
    ppn:      PPN_BITS
    readable: 1
    writable: 1


class WalkCache(wiring.Component):
    """The tables of the last ``entries`` regions.

    A look-up takes a cycle: ``known`` says whether the ``region`` of the cycle before has a ``table``. ``fill`` is for the ``region`` of its own
    cycle, which must not be known, and takes the entries in turns. ``invalidate`` acts in one cycle, on all; what was looked up in that cycle or
    before may be known still, and a fill in that cycle is not kept.

    Parameters
    ----------
    entries : power of two, at least 2.
    """
    def __init__(self, entries=4):
        if entries not in [1 << bits for bits in range(1, 7)]:
            raise ValueError(f"Walk cache must have a power of two of entries from 2 to 64, not {entries!r}")
        self.entries = entries
        super().__init__({
            "region": In(Region), "known": Out(1), "table": Out(KnownTable), "fill": In(1), "filled": In(KnownTable), "invalidate": In(1),
        })

    def elaborate(self, platform):
        m = Module()
        valid, turn, place = Signal(self.entries), Signal(range(self.entries)), Signal(range(self.entries))
        regions = [Signal(Region, name=f"region_{number}") for number in range(self.entries)]
        m.submodules.tables = tables = memory.Memory(shape=KnownTable, depth=self.entries, init=[])
        write, read = tables.write_port(), tables.read_port(domain="comb")
        matches = Cat(valid[number] & (region == self.region) for number, region in enumerate(regions))
        m.d.comb += [
            read.addr.eq(place), self.table.eq(read.data), write.addr.eq(turn), write.data.eq(self.filled), write.en.eq(self.fill),
        ]
        m.d.sync += [self.known.eq(matches.any()), place.eq(number_of(matches))]
        with m.If(self.fill):
            m.d.sync += turn.eq(turn + 1)
        for number, region in enumerate(regions):
            with m.If(self.fill & (turn == number)):
                m.d.sync += region.eq(self.region)
        m.d.sync += valid.eq(Mux(self.invalidate, 0, valid | (self.fill << turn)))
        return m
