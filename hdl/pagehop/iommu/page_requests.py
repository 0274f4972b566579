"""Page requests of devices: to the queue in memory, or answered at once."""

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from pagehop.iommu.ats_messages import PageRequest, PageResponse, ResponseCode
from pagehop.iommu.directory_walk import Directory, DirectoryWalk
from pagehop.iommu.layouts import Access, Cause, DirectoryMode, FaultRecord, PageRecord
from pagehop.iommu.record_queue import Fate
from pagehop.iommu.tilelink import MemoryPort

__all__ = ["PageRequests"]

#: Code of the message, which a record of its fault has as ``iotval``.
MESSAGE_CODE = 0x04


class PageRequests(wiring.Component):
    """Put page requests and stop markers into the page request queue; answer what cannot be (sections 3.11, 4.3).

    One request at a time. The context of its device is read from memory for each; with a memory that answers after L cycles, and nothing in the way,
    the next is taken 11 + 2 L cycles after it with one level of directory, 12 + 3 L with two. Where there is no context, or it does not allow page
    requests, that is a fault. A request that is not queued is answered when it is the last of its group and no stop marker; otherwise it is dropped,
    as the specification says:

    ======================================================  ==================  ==========================
    why                                                     response            with the PASID
    ======================================================  ==================  ==========================
    directory off, no context (256 to 259, 268)             failure             if the request had it
    queue off, or memory refused a record                   failure             if the request had it
    directory bare, device too wide, not enabled (260)      invalid             if also PRPR of the context
    queue full, or was full                                 success: ask again  if also PRPR of the context
    ======================================================  ==================  ==========================

    A response is dropped, as the specification allows, when the one before has not left after ``2 ** patience_bits`` cycles: what a device sends must
    not wait for ever for what it does not take.

    While a request is looked into whose context may have been forgotten since, ``stale`` is 1: a fence must wait for it.

    Parameters
    ----------
    updates : see :class:`DirectoryWalk`. patience_bits : see above.

    Members
    -------
    request : stream. response : stream
    record, fate : to and from the :class:`RecordQueue`. fault : stream of records for the fault queue
    directory, invalidate : in. stale : out. memory : reads, see :class:`DirectoryWalk`
    """
    def __init__(self, *, updates=True, patience_bits=16):
        if patience_bits not in range(1, 33):
            raise ValueError(f"Responses to page requests must wait 2 to the power of 1 to 32 cycles, not of {patience_bits!r}")
        self.updates, self.patience_bits = updates, patience_bits
        super().__init__({
            "request": In(stream.Signature(PageRequest)), "response": Out(stream.Signature(PageResponse)),
            "record": Out(stream.Signature(PageRecord)), "fate": In(Fate), "fault": Out(stream.Signature(FaultRecord)),
            "directory": In(Directory), "invalidate": In(1), "stale": Out(1), "memory": Out(MemoryPort()),
        })

    def elaborate(self, platform):
        m = Module()
        m.submodules.walk = walk = DirectoryWalk(updates=self.updates)
        wiring.connect(m, wiring.flipped(self.memory), walk.memory)
        request, self._cause, self._code = Signal(PageRequest), Signal(Cause), Signal(ResponseCode)
        self._request, self._known, mode = request, Signal(), self.directory.mode
        m.d.comb += [walk.directory.eq(self.directory), walk.device_id.payload.eq(request.requester_id)]
        self._connect(m)
        with m.If(self.invalidate):
            m.d.sync += self.stale.eq(1)
        with m.If(self.response.ready):
            m.d.sync += self.response.valid.eq(0)
        with m.FSM():
            with m.State("idle"):
                m.d.comb += self.request.ready.eq(1)
                # What is taken now is looked up after everything that is forgotten now.
                m.d.sync += [request.eq(self.request.payload), self._known.eq(0), self._cause.eq(Cause.NONE), self.stale.eq(0)]
                with m.If(self.request.valid):
                    m.next = "look"
            with m.State("look"):
                m.next = "fault"
                with m.If(mode == DirectoryMode.OFF):
                    m.d.sync += self._cause.eq(Cause.ALL_DISALLOWED)
                with m.Elif(mode == DirectoryMode.BARE):
                    m.d.sync += self._cause.eq(Cause.TYPE_DISALLOWED)
                with m.Else():
                    m.next = "walk"
            with m.State("walk"):
                m.d.comb += walk.device_id.valid.eq(1)
                with m.If(walk.device_id.ready):
                    known = walk.cause == Cause.NONE
                    m.d.sync += [self._known.eq(known), self._cause.eq(Mux(known, Cause.TYPE_DISALLOWED, walk.cause))]
                    m.next = "fault"
                    with m.If(known & walk.context.pri):
                        m.next = "record"
            with m.State("fault"):
                m.d.comb += self.fault.valid.eq(~(self._known & walk.context.dtf))
                m.d.sync += self._code.eq(Mux(self._cause == Cause.TYPE_DISALLOWED, ResponseCode.INVALID, ResponseCode.FAILURE))
                with m.If(self.fault.ready | ~self.fault.valid):
                    m.next = "answer"
            self._store(m)
            self._answer(m, self._known & walk.context.prpr)
        return m

    def _connect(self, m):
        """What stands in both records."""
        request, record, fault = self._request, self.record.payload, self.fault.payload
        for one in (record, fault):
            m.d.comb += [one.device_id.eq(request.requester_id), one.process_valid.eq(request.process_valid)]
        with m.If(request.process_valid):
            for one in (record, fault):
                m.d.comb += [one.process.eq(request.process), one.privileged.eq(request.privileged)]
            m.d.comb += record.execute.eq(request.execute)
        m.d.comb += [
            record.payload.eq(request.payload), fault.cause.eq(self._cause), fault.access.eq(Access.MESSAGE), fault.iotval.eq(MESSAGE_CODE),
        ]

    def _store(self, m):
        with m.State("record"):
            m.d.comb += self.record.valid.eq(1)
            with m.If(self.record.ready):
                m.next = "stored"
            self._ends(m)
        with m.State("stored"):
            self._ends(m)

    def _ends(self, m):
        """The fate of the record is known when it leaves, or later."""
        m.d.sync += self._code.eq(Mux(self.fate == Fate.OVERFLOW, ResponseCode.SUCCESS, ResponseCode.FAILURE))
        with m.If(self.fate == Fate.STORED):
            m.next = "idle"
        with m.Elif(self.fate != Fate.NONE):
            m.next = "answer"

    def _answer(self, m, asks_process):
        request, out, waited = self._request, self.response, Signal(self.patience_bits)
        payload, last = out.payload, request.payload[2] & request.payload[:2].any()
        with m.State("answer"):
            m.d.sync += waited.eq(waited + 1)
            with m.If(~last | ~out.valid | waited.all()):
                m.d.sync += waited.eq(0)
                m.next = "idle"
            with m.If(last & ~out.valid):
                with_process = request.process_valid & (asks_process | (self._code == ResponseCode.FAILURE))
                m.d.sync += [
                    out.valid.eq(1), payload.requester_id.eq(request.requester_id), payload.group.eq(request.payload[3:12]),
                    payload.code.eq(self._code), payload.process_valid.eq(with_process),
                    payload.process.eq(Mux(with_process, request.process, 0)),
                ]
