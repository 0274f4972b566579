"""The two bitmaps over the guest window, and who uses them."""

from amaranth.hdl import Cat, Const, Module, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from pagehop.interposer.harvest import Harvest
from pagehop.interposer.layouts import FlushView
from pagehop.memory.bitmap import WORD_BITS, Bitmap, BitmapOp, BitmapOpKind
from pagehop.registers.bus import MemoryBus

__all__ = ["DirtyMap", "OwnerMap"]

_WORD_INDEX_BITS = 12


class OwnerMap(wiring.Component):
    """Which host owns each page: 0 is A, 1 is B.

    The slot's operations come first; software reads words in between. Look-ups are for the device's lanes (one cycle).

    Members
    -------
    index, enable, bit : look-ups. op, word, word_valid : of the slot. read : of the register file.
    """
    def __init__(self, window_pages, lookups=2):
        self.window_pages = window_pages
        page = range(window_pages)
        super().__init__({
            "index": In(page).array(lookups), "enable": In(1).array(lookups), "bit": Out(1).array(lookups),
            "op": In(stream.Signature(BitmapOp(window_pages))), "word": Out(WORD_BITS), "word_valid": Out(1),
            "read": In(MemoryBus(_WORD_INDEX_BITS)),
        })

    def elaborate(self, platform):
        m = Module()
        m.submodules.bitmap = bitmap = Bitmap(self.window_pages, len(self.bit))
        for index, enable, bit, port in zip(self.index, self.enable, self.bit, bitmap.lookup, strict=True):
            m.d.comb += [port.index.eq(index), port.enable.eq(enable), bit.eq(port.bit)]
        request, response = self.read.request, self.read.response
        software, outside = Signal(3), Signal(3)   # whose word the bitmap shows now, one and two cycles from now
        m.d.comb += [
            self.op.ready.eq(1), request.ready.eq(~self.op.valid),
            software[0].eq(request.valid & request.ready), outside[0].eq(request.payload.index >= self.window_pages // WORD_BITS),
            bitmap.op.valid.eq(self.op.valid | software[0]),
            self.word.eq(bitmap.word), self.word_valid.eq(bitmap.word_valid & ~software[2]),
            response.valid.eq(software[2]), response.payload.data.eq(bitmap.word), response.payload.error.eq(outside[2]),
        ]
        with m.If(self.op.valid):
            m.d.comb += bitmap.op.payload.eq(self.op.payload)
        with m.Else():
            m.d.comb += [
                bitmap.op.payload.kind.eq(BitmapOpKind.READ),
                bitmap.op.payload.index.eq(Cat(Const(0, 6), request.payload.index)),
            ]
        m.d.sync += [software[1:].eq(software), outside[1:].eq(outside)]
        return m


class DirtyMap(wiring.Component):
    """Which pages the device has written since software last took them.

    ``mark`` sets the bit of ``page`` in the cycle after a write was chosen, in which it is forwarded at the earliest (H46). While ``pause`` is 1 none
    may be chosen.

    Members
    -------
    take, peek : of the register file. The others are as in :class:`Harvest`.
    """
    def __init__(self, window_pages):
        self.window_pages = window_pages
        bus = MemoryBus(_WORD_INDEX_BITS)
        super().__init__({
            "mark": In(1), "page": In(range(window_pages)), "pause": Out(1), "take": In(bus), "peek": In(bus),
            "entered": In(4), "accepted": In(4), "flush": In(FlushView).array(2), "flush_request": Out(1).array(2),
            "advance": Out(1), "advance_ready": In(1), "atomics_settled": In(1),
        })

    def elaborate(self, platform):
        m = Module()
        m.submodules.bitmap = bitmap = Bitmap(self.window_pages)
        m.submodules.harvest = harvest = Harvest(self.window_pages, _WORD_INDEX_BITS)
        for bus, name in ((self.take, "take"), (self.peek, "peek")):
            wiring.connect(m, wiring.flipped(bus), getattr(harvest, name))
        m.d.comb += [
            harvest.word.eq(bitmap.word), harvest.word_valid.eq(bitmap.word_valid), harvest.op.ready.eq(1),
            harvest.entered.eq(self.entered), harvest.accepted.eq(self.accepted), self.pause.eq(harvest.pause),
            self.advance.eq(harvest.advance), harvest.advance_ready.eq(self.advance_ready), harvest.atomics_settled.eq(self.atomics_settled),
            bitmap.op.valid.eq(self.mark | harvest.op.valid),
        ]
        for host in range(2):
            m.d.comb += [harvest.flush[host].eq(self.flush[host]), self.flush_request[host].eq(harvest.flush_request[host])]
        with m.If(harvest.op.valid):
            m.d.comb += bitmap.op.payload.eq(harvest.op.payload)
        with m.Else():
            m.d.comb += [bitmap.op.payload.kind.eq(BitmapOpKind.SET), bitmap.op.payload.index.eq(self.page)]
        return m
