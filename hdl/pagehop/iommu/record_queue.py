"""The queues in memory that the IOMMU writes: of faults, and of page requests."""

from amaranth.hdl import Array, Cat, Const, Module, Signal
from amaranth.lib import data, enum, stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import exact_log2

from pagehop.iommu.queues import INDEX_BITS, QueueBase, index_mask, keep_status
from pagehop.iommu.tilelink import DATA_BITS, MemoryPort, OpA
from pagehop.registers.bus import RegisterWrite, overwritten

__all__ = ["Fate", "RecordQueue", "RecordStatus"]


class Fate(enum.Enum, shape=2):
    """What became of a record."""
    NONE     = 0
    STORED   = 1
    LOST     = 2     # the queue is off, or memory refused this one or one before
    OVERFLOW = 3     # there is no room, or was none for one before


class RecordStatus(data.StructLayout):
    """``fqcsr`` or ``pqcsr``, by its ``letter``, without the gaps."""
    def __init__(self, letter):
        super().__init__({**dict.fromkeys((f"{letter}{name}" for name in ("qen", "ie", "qmf", "qof", "qon")), 1), "busy": 1})


class RecordQueue(wiring.Component):
    """Write records to a queue in memory, each by one burst (sections 4.2, 4.3). The fault queue and the page request queue differ in their records
    and in the names of their registers only.

    With a memory that takes a beat a cycle and answers L cycles after the last, a record of n beats leaves the stream n + 1 cycles after it came, and
    the next can n + 1 + L cycles after it; ``tail`` moves when the write is acknowledged. A record that comes while the queue is off, full, or
    stopped by an error is dropped: it leaves in at most 2 cycles. A full queue sets ``fqof``, a refused write ``fqmf``; until software has cleared
    both, all are dropped.

    Parameters
    ----------
    record : shape of a record, 16 or 32 bytes. letter : of the names in its ``csr``, ``f`` or ``p``.

    Members
    -------
    base : in, not changed while the queue is on. head_write, csr_write : in, what software writes. head, tail, csr : out
    record : stream. fate : out, of each record once, in the cycle in which it leaves or later, before the next is looked at
    interrupt : out, a level; recorded : out, a pulse for each record, when the interrupt is enabled
    memory : writes of a record, one at a time
    """
    def __init__(self, record, letter):
        bits = data.Layout.cast(record).size
        if bits not in (128, 256):
            raise ValueError(f"Records of a queue must have 16 or 32 bytes, not {bits} bits")
        self.size_record, self.letter = exact_log2(bits // 8), letter
        super().__init__({
            "base": In(QueueBase), "head_write": In(RegisterWrite(4)), "csr_write": In(RegisterWrite(4)),
            "head": Out(INDEX_BITS), "tail": Out(INDEX_BITS), "csr": Out(RecordStatus(letter)),
            "record": In(stream.Signature(record)), "fate": Out(Fate), "interrupt": Out(1), "recorded": Out(1), "memory": Out(MemoryPort()),
        })

    def elaborate(self, platform):
        m = Module()
        enabled, interrupts, refused, overflow, on = (self.csr[f"{self.letter}{name}"] for name in ("qen", "ie", "qmf", "qof", "qon"))
        bits, ask, following = self.record.payload.as_value(), self.memory.a, Signal(INDEX_BITS)
        beat, size, dropped = Signal(exact_log2(len(bits) // DATA_BITS)), self.size_record, Signal(Fate)
        mask = self._registers(m)
        words = Array(bits.word_select(number, DATA_BITS) for number in range(len(bits) // DATA_BITS))
        m.d.comb += [
            following.eq((self.tail + 1) & mask), self.memory.d.ready.eq(1),
            ask.payload.opcode.eq(OpA.PUT_FULL), ask.payload.size.eq(size), ask.payload.mask.eq(~0), ask.payload.data.eq(words[beat]),
            ask.payload.address.eq(Cat(Const(0, size), self.tail) | Cat(Const(0, 12), self.base.ppn)),
        ]
        with m.If(self.record.valid & (dropped != Fate.NONE)):
            m.d.comb += [self.record.ready.eq(1), self.fate.eq(dropped)]
        with m.FSM():
            with m.State("off"):
                m.d.comb += dropped.eq(Fate.LOST)
                with m.If(enabled):
                    m.d.sync += [self.tail.eq(0), on.eq(1), refused.eq(0), overflow.eq(0)]
                    m.next = "idle"
            with m.State("idle"):
                with m.If(~enabled):
                    m.d.sync += on.eq(0)
                    m.next = "off"
                with m.Elif(refused):
                    m.d.comb += dropped.eq(Fate.LOST)
                with m.Elif(overflow):
                    m.d.comb += dropped.eq(Fate.OVERFLOW)
                with m.Elif(following == self.head):
                    m.d.comb += dropped.eq(Fate.OVERFLOW)
                    with m.If(self.record.valid):
                        m.d.sync += overflow.eq(1)
                with m.Elif(self.record.valid):
                    m.next = "write"
            with m.State("write"):
                m.d.comb += [ask.valid.eq(1), self.record.ready.eq(ask.ready & beat.all())]
                with m.If(ask.ready):
                    m.d.sync += beat.eq(beat + 1)
                    with m.If(beat.all()):
                        m.next = "written"
            with m.State("written"), m.If(self.memory.d.valid):
                m.next = "idle"
                m.d.comb += self.fate.eq(Fate.STORED)
                with m.If(self.memory.d.payload.denied):
                    m.d.sync += refused.eq(1)
                    m.d.comb += self.fate.eq(Fate.LOST)
                with m.Else():
                    m.d.sync += self.tail.eq(following)
                    m.d.comb += self.recorded.eq(interrupts)
        return m

    def _registers(self, m):
        """What software writes; what the queue sets in the same cycle counts more. Returns the bits that the number of a record has."""
        letter, mask = self.letter, Signal(INDEX_BITS)
        flags = [f"{letter}qmf", f"{letter}qof"]
        m.d.sync += [
            mask.eq(index_mask(self.base)), self.head.eq(overwritten(self.head, self.head_write) & mask),
        ]
        # Not later than `csr`: software may clear `ipsr` in the cycle after it has cleared why it was set.
        m.d.comb += self.interrupt.eq(self.csr[f"{letter}ie"] & Cat(self.csr[name] for name in flags).any())
        keep_status(m, self.csr, self.csr_write, letter, flags)
        return mask
