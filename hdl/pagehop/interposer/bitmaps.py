"""The two bitmaps over the guest window, and who uses them."""

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import data, enum, memory, stream, wiring
from amaranth.lib.wiring import In, Out

from pagehop.interposer.harvest import Harvest
from pagehop.interposer.layouts import EpochView
from pagehop.memory.bitmap import WORD_BITS, Bitmap, BitmapOpKind
from pagehop.registers.bus import MemoryBus
from pagehop.tlp.flush import FlushView
from pagehop.tlp.stream import connect_streams

__all__ = ["WORD_INDEX_BITS", "DirtyMap", "OwnerMap", "OwnerOp", "OwnerOpKind"]

#: Base-2 logarithm of the words that a bitmap has in the register space.
WORD_INDEX_BITS = 12


class OwnerOpKind(enum.Enum, shape=2):
    """What an operation does with the bit of its page."""
    SET   = 0
    CLEAR = 1
    READ  = 2


class OwnerOp(data.StructLayout):
    """Operation on the owner of one page."""
    def __init__(self, pages):
        super().__init__({"kind": OwnerOpKind, "index": range(pages)})


class OwnerMap(wiring.Component):
    """Which host owns each page: 0 is A, 1 is B. All 0 at power-up; a reset does not clear them.

    Look-ups are for the device's lanes: ``index`` is sampled with ``enable``, ``bit`` is valid in the next cycle and stays until the next ``enable``.
    Each has a memory of its own, one bit wide, so that no multiplexer stands behind it. A look-up sees an operation if it is sampled two or more
    cycles after the cycle of its transfer, and never before; a ``bit`` already shown does not change.

    Operations are taken at once, the first of ``op`` that has one, one a cycle; the bit of a READ is on ``answer`` two cycles after its transfer,
    with ``answer_valid``.
    Software's words are gathered bit by bit in between, in 66 cycles or a few more.

    Members
    -------
    index, enable, bit : look-ups. op, answer, answer_valid : of the ``users``, the slots and their check. read : of the register file.
    """
    def __init__(self, window_pages, lookups=2, users=1):
        self.window_pages = window_pages
        page = range(window_pages)
        super().__init__({
            "index": In(page).array(lookups), "enable": In(1).array(lookups), "bit": Out(1).array(lookups),
            "op": In(stream.Signature(OwnerOp(window_pages))).array(users), "answer": Out(1), "answer_valid": Out(1),
            "read": In(MemoryBus(WORD_INDEX_BITS)),
        })

    def elaborate(self, platform):
        m = Module()
        op, op_valid, reads = Signal(OwnerOp(self.window_pages)), Signal(), Signal()
        m.d.comb += reads.eq(op_valid & (op.kind == OwnerOpKind.READ))
        m.d.sync += [op_valid.eq(Cat(user.valid for user in self.op).any()), self.answer_valid.eq(reads)]
        for number, user in reversed(list(enumerate(self.op))):
            m.d.comb += user.ready.eq(~Cat(other.valid for other in self.op[:number]).any())
            with m.If(user.valid):
                m.d.sync += op.eq(user.payload)   # the first has the last word
        ports = []
        for number in range(len(self.bit) + 1):
            m.submodules[f"bits_{number}"] = bits = memory.Memory(shape=1, depth=self.window_pages, init=[])
            write = bits.write_port()
            m.d.comb += [write.addr.eq(op.index), write.data.eq(op.kind == OwnerOpKind.SET), write.en.eq(op_valid & ~reads)]
            ports.append(bits.read_port())
        for index, enable, bit, port in zip(self.index, self.enable, self.bit, ports, strict=False):
            m.d.comb += [port.addr.eq(index), port.en.eq(enable), bit.eq(port.data)]
        m.d.comb += self.answer.eq(ports[-1].data)
        self._gather(m, ports[-1], op, reads)
        return m

    def _gather(self, m, port, op, reads):
        """Read the bits of a word one after the other, in the cycles in which the slot reads none."""
        request, response = self.read.request, self.read.response
        place, count = Signal.like(request.payload.index), Signal(range(WORD_BITS + 1))
        word, outside, arrives = Signal(WORD_BITS), Signal(), Signal()
        steps = ~count[-1] & ~reads
        m.d.comb += [port.addr.eq(Mux(reads, op.index, Cat(count[:-1], place))), response.payload.data.eq(word), response.payload.error.eq(outside)]
        m.d.sync += [arrives.eq(0), response.valid.eq(0)]
        with m.If(arrives):
            m.d.sync += word.eq(Cat(word[1:], port.data))
        with m.FSM():
            with m.State("Idle"):
                m.d.comb += request.ready.eq(1)
                m.d.sync += [place.eq(request.payload.index), outside.eq(request.payload.index >= self.window_pages // WORD_BITS), count.eq(0)]
                with m.If(request.valid):
                    m.next = "Gather"
            with m.State("Gather"):
                m.d.sync += [arrives.eq(steps), count.eq(count + steps)]
                with m.If(count[-1] & ~arrives):
                    m.d.sync += response.valid.eq(1)
                    m.next = "Idle"


class DirtyMap(wiring.Component):
    """Which pages the device has written since software last took them.

    ``mark`` sets the bit of ``page`` in the cycle after a write was chosen, in which it is forwarded at the earliest (H46). While ``pause`` is 1 none
    may be chosen.

    Members
    -------
    take, peek : of the register file. ``drop`` and the others are as in :class:`Harvest`.
    """
    def __init__(self, window_pages):
        self.window_pages = window_pages
        bus = MemoryBus(WORD_INDEX_BITS)
        super().__init__({
            "mark": In(1), "page": In(range(window_pages)), "pause": Out(1), "take": In(bus), "peek": In(bus),
            "drop": In(stream.Signature(WORD_INDEX_BITS)),
            "entered": In(4), "accepted": In(4), "flush": In(FlushView).array(2), "flush_request": Out(1).array(2),
            "advance": Out(1), "epochs": In(EpochView),
        })

    def elaborate(self, platform):
        m = Module()
        m.submodules.bitmap = bitmap = Bitmap(self.window_pages)
        m.submodules.harvest = harvest = Harvest(self.window_pages, WORD_INDEX_BITS)
        for bus, name in ((self.take, "take"), (self.peek, "peek")):
            wiring.connect(m, wiring.flipped(bus), getattr(harvest, name))
        connect_streams(m, self.drop, harvest.drop)
        m.d.comb += [
            harvest.word.eq(bitmap.word), harvest.word_valid.eq(bitmap.word_valid), harvest.op.ready.eq(1),
            harvest.entered.eq(self.entered), harvest.accepted.eq(self.accepted), self.pause.eq(harvest.pause),
            self.advance.eq(harvest.advance), harvest.epochs.eq(self.epochs),
            bitmap.op.valid.eq(self.mark | harvest.op.valid),
        ]
        for host in range(2):
            m.d.comb += [harvest.flush[host].eq(self.flush[host]), self.flush_request[host].eq(harvest.flush_request[host])]
        with m.If(harvest.op.valid):
            m.d.comb += bitmap.op.payload.eq(harvest.op.payload)
        with m.Else():
            m.d.comb += [bitmap.op.payload.kind.eq(BitmapOpKind.SET), bitmap.op.payload.index.eq(self.page)]
        return m
