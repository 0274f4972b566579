"""Device contexts that were found before."""

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import memory, wiring
from amaranth.lib.wiring import In, Out

from pagehop.iommu.layouts import DEVICE_BITS, Context
from pagehop.tlp.arbiter import number_of

__all__ = ["DirectoryCache"]


class DirectoryCache(wiring.Component):
    """The contexts of the last ``entries`` devices.

    A look-up takes a cycle: ``there`` says whether the ``device_id`` of the cycle before has a ``context``. ``fill`` takes the entries in turns.
    ``invalidate`` acts in one cycle, on all, or with ``named`` on the entry of ``invalid_id``; what was looked up in that cycle or before may be
    there still.

    Parameters
    ----------
    entries : power of two, at least 2.
    """
    def __init__(self, entries=8):
        if entries not in [1 << bits for bits in range(1, 9)]:
            raise ValueError(f"Directory cache must have a power of two of entries from 2 to 256, not {entries!r}")
        self.entries = entries
        super().__init__({
            "device_id": In(DEVICE_BITS), "there": Out(1), "context": Out(Context),
            "fill": In(1), "filled_id": In(DEVICE_BITS), "filled": In(Context),
            "invalidate": In(1), "named": In(1), "invalid_id": In(DEVICE_BITS),
        })

    def elaborate(self, platform):
        m = Module()
        valid, turn, place = Signal(self.entries), Signal(range(self.entries)), Signal(range(self.entries))
        devices = [Signal(DEVICE_BITS, name=f"device_{number}") for number in range(self.entries)]
        m.submodules.contexts = contexts = memory.Memory(shape=Context, depth=self.entries, init=[])
        write, read = contexts.write_port(), contexts.read_port(domain="comb")
        m.d.comb += [
            read.addr.eq(place), self.context.eq(read.data),
            write.addr.eq(turn), write.data.eq(self.filled), write.en.eq(self.fill),
        ]
        matches = [valid[number] & (device == self.device_id) for number, device in enumerate(devices)]
        m.d.sync += [self.there.eq(Cat(matches).any()), place.eq(number_of(Cat(matches)))]
        with m.If(self.fill):
            m.d.sync += [valid.bit_select(turn, 1).eq(1), turn.eq(turn + 1)]
            with m.Switch(turn):
                for number, device in enumerate(devices):
                    with m.Case(number):
                        m.d.sync += device.eq(self.filled_id)
        with m.If(self.invalidate):
            named = Cat(device == self.invalid_id for device in devices)
            m.d.sync += valid.eq(valid & ~Mux(self.named, named, ~0))
        return m
