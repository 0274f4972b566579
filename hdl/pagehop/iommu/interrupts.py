"""Interrupts of the IOMMU: which are pending, and how they are sent."""

from amaranth.hdl import Cat, Const, Module, Mux, Signal
from amaranth.lib import memory, stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import exact_log2

from pagehop.iommu.layouts import Cause, FaultRecord
from pagehop.iommu.tilelink import ADDRESS_BITS, MemoryPort, OpA
from pagehop.registers.bus import MemoryBus, MemoryWrite, RegisterWrite, overwritten
from pagehop.tlp.arbiter import lowest, number_of

__all__ = ["CAUSES", "Interrupts"]

#: Causes, by their bits in ``ipsr`` and their fields in ``icvec``: the command queue, the fault queue, counters, the page request queue.
CAUSES = 4
VECTOR_BITS, SIZE_MESSAGE, TABLE_BITS = 4, 2, 5


class Interrupts(wiring.Component):
    """Keep ``ipsr`` and ``icvec``, and send what is pending by wires, or as messages (sections 5.18, 5.25, 5.26).

    A bit of ``ipsr`` is set by its level, or by its event; software clears it by writing 1, and when the level is still there it is set again in the
    next cycle. With ``wired`` the wire of its vector is 1 two cycles after it was set. Without, its rising sends the message of its vector: a write
    of 4 bytes, which is kept while the vector is masked, and is sent once however often the bit rose meanwhile. Messages are sent one at a time, the
    lowest vector first. One that is refused is reported to the fault queue (cause 273).

    Parameters
    ----------
    vectors : a power of two up to 16. Bits of ``icvec`` above are 0. messages : whether they can be sent; if not, ``msi_cfg_tbl`` reads 0.
    causes : bits of those that there are. The others are never pending, and have no vector.

    Members
    -------
    level, event : in, a bit a cause. wired : in. wires : out, a bit a vector
    ipsr : out. ipsr_write, icvec_write : in. icvec : out
    table, table_write : in, ``msi_cfg_tbl`` as software reads and writes it
    memory, fault : with ``messages``; writes of 4 bytes, and a stream of records
    """
    def __init__(self, vectors=2, *, messages=True, causes=0b0011):
        if vectors not in (1, 2, 4, 8, 16):
            raise ValueError(f"Interrupts must have 1, 2, 4, 8 or 16 vectors, not {vectors!r}")
        self.vectors, self.messages, self.causes = vectors, messages, causes
        super().__init__({
            "level": In(CAUSES), "event": In(CAUSES), "wired": In(1), "wires": Out(vectors), "ipsr": Out(CAUSES),
            "ipsr_write": In(RegisterWrite(4)), "icvec": Out(CAUSES * VECTOR_BITS), "icvec_write": In(RegisterWrite(8)),
            "table": In(MemoryBus(TABLE_BITS)), "table_write": In(MemoryWrite(TABLE_BITS)),
            **({"memory": Out(MemoryPort()), "fault": Out(stream.Signature(FaultRecord))} if messages else {}),
        })

    def elaborate(self, platform):
        m = Module()
        clear, before = Mux(self.ipsr_write.strobe[0], self.ipsr_write.data[:CAUSES], 0), Signal(CAUSES)
        bits = exact_log2(self.vectors)
        kept = sum((1 << bits) - 1 << cause * VECTOR_BITS for cause in range(CAUSES) if self.causes >> cause & 1)
        of = [Signal(self.vectors, name=f"vector_{cause}") for cause in range(CAUSES)]
        rises = self.ipsr & ~before
        m.d.comb += [of[cause].eq(1 << self.icvec.word_select(cause, VECTOR_BITS)[:bits]) for cause in range(CAUSES)]
        m.d.sync += [
            self.ipsr.eq((self.ipsr & ~clear) | ((self.level | self.event) & self.causes)), before.eq(self.ipsr & ~clear),
            self.icvec.eq(overwritten(self.icvec, self.icvec_write) & kept),
            self.wires.eq(Mux(self.wired, self._of_vectors(self.ipsr, of), 0)),
        ]
        if self.messages:
            self._messages(m, Mux(self.wired, 0, self._of_vectors(rises, of)))
        else:
            self._answer(m, Const(0, 64))
        return m

    @staticmethod
    def _of_vectors(causes, of):
        """Vectors of the causes that are named."""
        vectors = 0
        for cause, vector in enumerate(of):
            vectors = vectors | (vector & causes[cause].replicate(len(vector)))
        return vectors

    def _answer(self, m, word):
        """Answer a read of the table in the cycle after it was asked."""
        m.d.comb += self.table.request.ready.eq(1)
        m.d.sync += [self.table.response.valid.eq(self.table.request.valid), self.table.response.payload.data.eq(word)]

    def _messages(self, m, rises):
        """The table, the messages that are to be sent, and the one that is being sent."""
        pending, masked, sends = (Signal(self.vectors, name=name) for name in ("pending", "masked", "sends"))
        vector, odd, looks = Signal(VECTOR_BITS), Signal(), Signal()
        word = self._table(m, Cat(odd, vector), looks, masked)
        ask, address = self.memory.a, Signal(ADDRESS_BITS)
        m.d.comb += [
            sends.eq(lowest(pending & ~masked)), self.memory.d.ready.eq(1), odd.eq(1), self.fault.payload.cause.eq(Cause.MESSAGE_ACCESS_FAULT),
            self.fault.payload.iotval.eq(address), ask.payload.opcode.eq(OpA.PUT_FULL), ask.payload.size.eq(SIZE_MESSAGE),
            ask.payload.address.eq(address), ask.payload.mask.eq(Mux(address[2], 0xF0, 0x0F)), ask.payload.data.eq(word[:32].replicate(2)),
        ]
        m.d.sync += pending.eq(pending | rises)
        with m.FSM():
            with m.State("idle"), m.If(sends.any()):
                m.d.sync += [vector.eq(number_of(sends)), pending.eq((pending & ~sends) | rises)]
                m.next = "address"
            with m.State("address"):
                m.d.comb += [odd.eq(0), looks.eq(1)]
                m.d.sync += address.eq(word)
                m.next = "send"
            with m.State("send"):
                m.d.comb += [ask.valid.eq(1), looks.eq(1)]
                with m.If(ask.ready):
                    m.next = "sent"
            with m.State("sent"), m.If(self.memory.d.valid):
                m.next = "idle"
                with m.If(self.memory.d.payload.denied):
                    m.next = "refused"
            with m.State("refused"):
                m.d.comb += self.fault.valid.eq(1)
                with m.If(self.fault.ready):
                    m.next = "idle"

    def _table(self, m, place, looks, masked):
        """Keep the table: the word at ``place`` when the sender looks, else what software reads. Masks are kept aside, for all vectors count."""
        m.submodules.table = table = memory.Memory(shape=64, depth=2 * self.vectors, init=[])
        write, read, told, asked = table.write_port(granularity=8), table.read_port(domain="comb"), self.table_write, self.table.request
        inside = exact_log2(2 * self.vectors)
        there = ~told.index[inside:].any()
        # Bits that a word does not have are never written, and so are 0.
        bits = Mux(told.index[0], (1 << 32) - 1, (1 << ADDRESS_BITS) - 4)
        m.d.comb += [
            write.addr.eq(told.index), write.data.eq(told.data & bits), write.en.eq(Mux(there, told.strobe, 0)),
            read.addr.eq(Mux(looks, place, asked.payload.index)),
        ]
        with m.If(told.strobe[4] & told.index[0] & there):
            m.d.sync += masked.bit_select(told.index[1:], 1).eq(told.data[32])
        is_masked = masked.bit_select(asked.payload.index[1:inside], 1) if self.vectors > 1 else masked
        shown = Mux(asked.payload.index[inside:].any(), 0, read.data | Cat(Const(0, 32), asked.payload.index[0] & is_masked))
        # Software asks while the sender looks only for a cycle or the time of a request: it waits.
        m.d.comb += asked.ready.eq(~looks)
        m.d.sync += [self.table.response.valid.eq(asked.valid & ~looks), self.table.response.payload.data.eq(shown)]
        return read.data
