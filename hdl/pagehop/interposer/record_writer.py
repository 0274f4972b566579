"""Writing how the moves of a queue ended into a host's memory."""

from amaranth.hdl import Module, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from pagehop.interposer.descriptors import RECORD_BYTES, MoveRecord, ring_address
from pagehop.tlp import headers
from pagehop.tlp.arbiter import RoundRobin, select_one
from pagehop.tlp.stream import TlpBeat

__all__ = ["RecordWriter"]


class RecordWriter(wiring.Component):
    """Write the record of one slot after the other, in turns, as each says that its move is ``over``.

    A record is a write of 16 bytes, with neither RO nor IDO; it appears on ``o`` three cycles after its turn came, and ``written`` has the slot's bit
    in the cycle of its transfer.

    Members
    -------
    over : in, a bit a slot, stays until ``written``. ``record``: in, of each slot.
    base, order : in, of the records: as many as the ring has descriptors. ``requester_id``: in.
    o : stream of writes, out. ``written``: out, a bit a slot.
    """
    def __init__(self, data_bytes=64, slots=1):
        self.data_bytes, self.slots = data_bytes, slots
        super().__init__({
            "over": In(slots), "record": In(MoveRecord).array(slots), "base": In(64), "order": In(4), "requester_id": In(16),
            "o": Out(stream.Signature(TlpBeat(data_bytes))), "written": Out(slots),
        })

    def elaborate(self, platform):
        m = Module()
        m.submodules.turns = turns = RoundRobin(self.slots)
        record, chosen, address = Signal(MoveRecord), Signal(self.slots), Signal(64)
        plain = headers.plain_request(m, True, RECORD_BYTES // 4, self.requester_id)
        m.d.comb += [
            turns.requests.eq(self.over), turns.last.eq(1),
            self.o.payload.first.eq(1), self.o.payload.last.eq(1), self.o.payload.dwords.eq(RECORD_BYTES // 4), self.o.payload.data.eq(record),
        ]
        with m.FSM():
            with m.State("Choose"):
                m.d.comb += turns.served.eq(turns.grant)
                m.d.sync += [chosen.eq(turns.grant), record.eq(select_one(turns.grant, self.record))]
                with m.If(turns.grant.any()):
                    m.next = "Address"
            with m.State("Address"):
                m.d.sync += address.eq(ring_address(self.base, record.index, self.order, RECORD_BYTES))
                m.next = "Header"
            with m.State("Header"):
                m.d.sync += self.o.payload.header.eq(headers.with_address(plain, address))
                m.next = "Offer"
            with m.State("Offer"):
                m.d.comb += self.o.valid.eq(1)
                with m.If(self.o.ready):
                    m.d.comb += self.written.eq(chosen)
                    m.next = "Choose"
        return m
