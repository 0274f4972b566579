"""Moves that software puts into a ring in its memory."""

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from pagehop.interposer.descriptor_reader import DescriptorReader
from pagehop.interposer.descriptors import INDEX_BITS, QueueSettings, QueueState
from pagehop.interposer.move_check import MoveRequest
from pagehop.interposer.record_writer import RecordWriter
from pagehop.interposer.slot import MoveStatus
from pagehop.tlp.arbiter import lowest
from pagehop.tlp.stream import TlpBeat, connect_streams

__all__ = ["MoveQueue"]


class MoveQueue(wiring.Component):
    """Give the descriptors of a ring, in their order, to the slots that are the queue's and free, and write a record for each when its move ended.

    Moves end in any order, and so do records. A descriptor that cannot be moved, because its page is there already or moves at the moment, has a
    record with that error: no page is moved twice at the same time (H49).

    ``start`` is a pulse for one slot, with ``request``; a slot that software starts in this cycle is not started. From then until its record has been
    written the slot is ``running``. The slots of the queue are its own: software starts nothing there.

    Parameters
    ----------
    data_bytes : beat width. ``slots`` : 1 to 8.

    Members
    -------
    settings, state : from and to the registers. ``state.error``: a descriptor could not be read; nothing is started until ``settings.enable`` was 0
        while ``state.idle``.
    requester_id, limit : of reads and writes.
    ended, status : of each slot; a pulse, and how it ended from the next cycle on. ``started``: software starts a move there.
    start, request : to the slots.
    o_read, completion, o_record : to and from the host. ``recorded``: pulse, a record was handed over.
    """
    def __init__(self, data_bytes=64, slots=1):
        self.data_bytes, self.slots = data_bytes, slots
        beat = stream.Signature(TlpBeat(data_bytes))
        super().__init__({
            "settings": In(QueueSettings), "state": Out(QueueState), "requester_id": In(16), "limit": In(32),
            "ended": In(slots), "status": In(MoveStatus).array(slots), "started": In(slots), "start": Out(slots), "request": Out(MoveRequest),
            "o_read": Out(beat), "completion": In(beat), "o_record": Out(beat), "recorded": Out(1), "running": Out(slots),
        })

    def elaborate(self, platform):
        m = Module()
        m.submodules.reader = reader = DescriptorReader(self.data_bytes)
        m.submodules.writer = writer = RecordWriter(self.data_bytes, self.slots)
        on, over, settings, state = Signal(), Signal(self.slots), self.settings, self.state
        connect_streams(m, reader.o_read, self.o_read)
        connect_streams(m, self.completion, reader.completion)
        connect_streams(m, writer.o, self.o_record)
        m.d.comb += [
            reader.enable.eq(on), writer.over.eq(over), self.recorded.eq(writer.written.any()),
            *(getattr(reader, name).eq(settings[name]) for name in ("base", "order", "tail", "host")),
            reader.requester_id.eq(self.requester_id), reader.limit.eq(self.limit),
            writer.base.eq(settings.records), writer.order.eq(settings.order), writer.requester_id.eq(self.requester_id),
            state.taken.eq(reader.index), state.error.eq(reader.error), state.running.eq(self.running),
            state.idle.eq(~self.running.any() & reader.idle),
        ]
        # Once enabled, the queue is off only when nothing of what it had is left.
        m.d.sync += on.eq(settings.enable & (on | state.idle))
        m.d.sync += [
            over.eq((over | (self.running & self.ended)) & ~writer.written), self.running.eq((self.running | self.start) & ~writer.written),
            state.done.eq(Mux(settings.enable & ~on & state.idle, 0, state.done + self.recorded)),
        ]
        self._dispatch(m, reader)
        for slot, (status, record) in enumerate(zip(self.status, writer.record, strict=True)):
            index = Signal(INDEX_BITS, name=f"index_{slot}")
            with m.If(self.start[slot]):
                m.d.sync += index.eq(reader.index)
            m.d.comb += [
                *(record[name].eq(status[name]) for name in ("done", "failed", "error", "hold", "total")),
                record.index.eq(index), record.slot.eq(slot), record.turn.eq(~index.bit_select(settings.order, 1)),
            ]
        return m

    def _dispatch(self, m, reader):
        """Start the first slot that is free; which are is found out a cycle ahead."""
        free, first = Signal(self.slots), Signal(self.slots)
        busy = Cat(status.busy for status in self.status)
        descriptor = reader.o.payload
        m.d.comb += [
            first.eq(lowest(free)), self.start.eq(Mux(reader.o.valid, first & ~self.started, 0)),
            reader.o.ready.eq(self.start.any()),
            *(self.request[name].eq(descriptor[name]) for name in ("source", "destination", "to_host", "page_size")),
            self.request.mode.eq(descriptor.mode),
        ]
        m.d.sync += free.eq(self.settings.slots & ~busy & ~self.running & ~self.started & ~self.start)
