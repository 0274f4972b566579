"""Storage for one page on its way from one host to the other."""

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import memory, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

from pagehop.tlp.stream import check_data_bytes

__all__ = ["LINE_BYTES", "PAGE_BYTES", "PageBuffer"]

PAGE_BYTES = 4096
LINE_BYTES = 64


class PageBuffer(wiring.Component):
    """A page of memory with one port to write and one to read, each a beat a cycle.

    A write stores ``write_data`` from byte ``write_unit * unit_bytes`` of the page on: 64 bytes at most, or, with beats of 128 bytes and
    ``write_whole``, all 128, which may begin at an odd line. A read fetches beat ``read_beat`` of the page; ``read_data`` is valid in the cycle after
    ``read_enable`` and stays until the next. A write is seen by reads in later cycles.

    Parameters
    ----------
    data_bytes : int
        Beat width.

    Attributes
    ----------
    unit_bytes : int
        Alignment of writes: ``data_bytes``, or a line if that is less.

    Members
    -------
    write_enable, write_unit, write_data, write_whole : in
    read_enable, read_beat : in
    read_data : out
    """
    def __init__(self, data_bytes=64):
        check_data_bytes(data_bytes)
        self.data_bytes = data_bytes
        self.unit_bytes = min(data_bytes, LINE_BYTES)
        super().__init__({
            "write_enable": In(1), "write_unit": In(ceil_log2(PAGE_BYTES // self.unit_bytes)),
            "write_data": In(8 * data_bytes), "write_whole": In(1),
            "read_enable": In(1), "read_beat": In(ceil_log2(PAGE_BYTES // data_bytes)), "read_data": Out(8 * data_bytes),
        })

    def elaborate(self, platform):
        m = Module()
        if self.data_bytes == self.unit_bytes:
            m.d.comb += self.read_data.eq(self._bank(m, 0, self.write_enable, self.write_unit, self.write_data))
            return m
        # Lines of even and odd number in a bank each, so that a beat which begins at an odd line needs one write in each too.
        half = 8 * LINE_BYTES
        odd, pair = self.write_unit[0], self.write_unit[1:]
        low, high = self.write_data[:half], self.write_data[half:]
        next_pair = Signal.like(self.read_beat)
        m.d.comb += next_pair.eq(pair + 1)
        m.d.comb += self.read_data.eq(Cat(
            self._bank(m, 0, self.write_enable & (~odd | self.write_whole), Mux(odd, next_pair, pair), Mux(odd, high, low)),
            self._bank(m, 1, self.write_enable & (odd | self.write_whole), pair, Mux(odd, low, high)),
        ))
        return m

    def _bank(self, m, number, enable, row, value):
        """One memory; returns what it reads."""
        bank = memory.Memory(shape=8 * self.unit_bytes, depth=PAGE_BYTES // self.data_bytes, init=[])
        m.submodules[f"bank_{number}"] = bank
        write, read = bank.write_port(), bank.read_port()
        m.d.comb += [
            write.en.eq(enable), write.addr.eq(row), write.data.eq(value),
            read.en.eq(self.read_enable), read.addr.eq(self.read_beat),
        ]
        return read.data
