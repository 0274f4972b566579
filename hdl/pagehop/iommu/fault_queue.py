"""The fault queue."""

from amaranth.hdl import Array, Cat, Const, Module, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from pagehop.iommu.layouts import FaultRecord
from pagehop.iommu.queues import INDEX_BITS, QueueBase, index_mask, keep_status
from pagehop.iommu.tilelink import DATA_BITS, MemoryPort, OpA
from pagehop.registers.bus import RegisterWrite, overwritten

__all__ = ["FaultQueue", "FaultStatus"]

#: Base-2 logarithm of the bytes of a record.
SIZE_RECORD = 5


class FaultStatus(data.Struct):
    """``fqcsr``, without the gaps."""
    fqen: 1
    fie:  1
    fqmf: 1
    fqof: 1
    fqon: 1
    busy: 1


class FaultQueue(wiring.Component):
    """Write records of faults to the queue in memory, each by one burst of four beats (section 4.2).

    With a memory that takes a beat a cycle and answers L cycles after the last, a record leaves the stream 5 cycles after it came, and the next can
    5 + L cycles after it; ``tail`` moves when the write is acknowledged. A record that comes while the queue is off, full, or stopped by an error is
    dropped: it leaves in at most 2 cycles. A full queue sets ``fqof``, a refused write ``fqmf``; until software has cleared both, all are dropped.

    Members
    -------
    base : in, not changed while the queue is on. head_write, csr_write : in, what software writes. head, tail, csr : out
    record : stream
    interrupt : out, a level; recorded : out, a pulse for each record, when the interrupt is enabled
    memory : writes of 32 bytes, one at a time
    """
    def __init__(self):
        super().__init__({
            "base": In(QueueBase), "head_write": In(RegisterWrite(4)), "csr_write": In(RegisterWrite(4)),
            "head": Out(INDEX_BITS), "tail": Out(INDEX_BITS), "csr": Out(FaultStatus),
            "record": In(stream.Signature(FaultRecord)), "interrupt": Out(1), "recorded": Out(1), "memory": Out(MemoryPort()),
        })

    def elaborate(self, platform):
        m = Module()
        csr, ask, beat, following = self.csr, self.memory.a, Signal(2), Signal(INDEX_BITS)
        mask = self._registers(m)
        words = Array(self.record.payload.as_value().word_select(number, DATA_BITS) for number in range(4))
        m.d.comb += [
            following.eq((self.tail + 1) & mask), self.memory.d.ready.eq(1),
            ask.payload.opcode.eq(OpA.PUT_FULL), ask.payload.size.eq(SIZE_RECORD), ask.payload.mask.eq(~0), ask.payload.data.eq(words[beat]),
            ask.payload.address.eq(Cat(Const(0, SIZE_RECORD), self.tail) | Cat(Const(0, 12), self.base.ppn)),
        ]
        with m.FSM():
            with m.State("off"):
                m.d.comb += self.record.ready.eq(1)
                with m.If(csr.fqen):
                    m.d.sync += [self.tail.eq(0), csr.fqon.eq(1), csr.fqmf.eq(0), csr.fqof.eq(0)]
                    m.next = "idle"
            with m.State("idle"):
                with m.If(~csr.fqen):
                    m.d.sync += csr.fqon.eq(0)
                    m.next = "off"
                with m.Elif(self.record.valid):
                    with m.If(csr.fqmf | csr.fqof):
                        m.d.comb += self.record.ready.eq(1)
                    with m.Elif(following == self.head):
                        m.d.comb += self.record.ready.eq(1)
                        m.d.sync += csr.fqof.eq(1)
                    with m.Else():
                        m.next = "write"
            with m.State("write"):
                m.d.comb += [ask.valid.eq(1), self.record.ready.eq(ask.ready & beat.all())]
                with m.If(ask.ready):
                    m.d.sync += beat.eq(beat + 1)
                    with m.If(beat.all()):
                        m.next = "written"
            with m.State("written"), m.If(self.memory.d.valid):
                m.next = "idle"
                with m.If(self.memory.d.payload.denied):
                    m.d.sync += csr.fqmf.eq(1)
                with m.Else():
                    m.d.sync += self.tail.eq(following)
                    m.d.comb += self.recorded.eq(csr.fie)
        return m

    def _registers(self, m):
        """What software writes; what the queue sets in the same cycle counts more. Returns the bits that the number of a record has."""
        csr, mask = self.csr, Signal(INDEX_BITS)
        m.d.sync += [
            mask.eq(index_mask(self.base)), self.head.eq(overwritten(self.head, self.head_write) & mask),
        ]
        # Not later than `csr`: software may clear `ipsr` in the cycle after it has cleared why it was set.
        m.d.comb += self.interrupt.eq(csr.fie & (csr.fqmf | csr.fqof))
        keep_status(m, csr, self.csr_write, "f", ("fqmf", "fqof"))
        return mask
