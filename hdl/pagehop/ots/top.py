"""The on-the-side device as a whole: only parts and connections (docs/ots.md)."""

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from pagehop.memory.copy_engine import CopyEngine
from pagehop.ots.control import Control
from pagehop.ots.ingress import OtsIngress, default_depths
from pagehop.ots.layouts import check_windows, window_bits
from pagehop.ots.leaf_marks import HARVEST_BUSES
from pagehop.ots.leaf_table import LeafTable
from pagehop.ots.monitor import Monitor
from pagehop.ots.page_mover import PageMover
from pagehop.ots.window_flush import WindowFlush
from pagehop.ots.window_table import WindowTable
from pagehop.ots.window_words import WindowWords
from pagehop.tlp.arbiter import connect_in_turns
from pagehop.tlp.egress import Egress, EgressLane
from pagehop.tlp.flush import FlushTracker, FlushView
from pagehop.tlp.local import LocalSource
from pagehop.tlp.pages import PAGE_NUMBER_BITS
from pagehop.tlp.refusals import Refusals
from pagehop.tlp.stream import TlpPort, connect_streams

__all__ = ["Ots"]

#: What the device sends of itself, and the lane of each.
_OWN = {
    "flush": EgressLane.ENGINE, "registers": EgressLane.COMPLETION, "refusals": EgressLane.COMPLETION,
    "leaves": EgressLane.COMPLETION, "copy_read": EgressLane.ENGINE, "copy_write": EgressLane.POSTED,
}


class Ots(wiring.Component):
    """An endpoint with windows that pages are redirected through (FIG. 11 to 13).

    A request through a window takes five cycles from ``rx`` to ``tx``, its completion six back; writes come at one beat a cycle, however many windows
    there are.

    Parameters
    ----------
    data_bytes : 16, 32 or 64. windows : 1 to 16. leaves : entries of page tables, a power of two. max_payload : largest payload in bytes
    copies : it copies pages itself, in pieces of ``chunk_bytes``
    depths : beats of each :class:`OtsLane`; as much as two pages, and the answer to the longest read

    Members
    -------
    port : the link. own_id : requester ID of the device. register_bar, window_bar, leaf_bar : addresses of its BARs, each aligned to its size
    committed : pulses when ``committed_window`` gets another target; accesses from then on go there
    """
    def __init__(self, data_bytes=64, *, windows=4, leaves=512, copies=True, chunk_bytes=128, max_payload=256, depths=None):
        check_windows(windows)
        if data_bytes not in (16, 32, 64):
            raise ValueError(f"Beats of the on-the-side device must have 16, 32 or 64 bytes, not {data_bytes!r}")
        if leaves < 512 or leaves & leaves - 1:
            raise ValueError(f"Leaves must be a power of two of at least 512, not {leaves!r}")
        self.data_bytes, self.windows, self.leaves, self.max_payload = data_bytes, windows, leaves, max_payload
        self.depths = depths or default_depths(data_bytes)
        self.copies, self.chunk_bytes = copies, chunk_bytes
        self.control = Control(data_bytes, windows, leaves, copies=copies)
        super().__init__({
            "port": Out(TlpPort(data_bytes)), "own_id": In(16), "register_bar": In(64), "window_bar": In(64), "leaf_bar": In(64),
            "committed": Out(1), "committed_window": Out(window_bits(windows)), "committed_page": Out(PAGE_NUMBER_BITS),
        })

    def elaborate(self, platform):
        m = Module()
        size = self.data_bytes
        m.submodules.control = control = self.control
        m.submodules.ingress = ingress = OtsIngress(
            size, self.windows, self.leaves, depths=self.depths, max_payload=self.max_payload)
        m.submodules.leaves = leaves = LeafTable(size, self.leaves)
        m.submodules.table = table = WindowTable(self.windows)
        m.submodules.monitor = monitor = Monitor(size, self.windows)
        m.submodules.words = words = WindowWords(self.windows)
        m.submodules.flush = flush = WindowFlush(self.windows, ingress.queue.stamp_bits)
        m.submodules.tracker = tracker = FlushTracker(0, data_bytes=size)
        m.submodules.refusals = refusals = Refusals()
        m.submodules.own = own = LocalSource(size, _OWN)
        # What the mover asks of the flush tracker; nothing where there is none.
        self.proof = Signal(data.StructLayout({"request": 1, "insist": 1, "proving": 1, "address": 64}), name="proof")
        m.submodules.egress = egress = Egress(size, 2, (128, 128, 16, 16), max_payload=self.max_payload, writers=(1 + self.copies, 2, 1, 1))
        self._link(m, ingress, egress, own, tracker, refusals, control)
        self._leaves(m, ingress, leaves, own, control)
        self._windows(m, ingress, table, monitor, words, control)
        self._flush(m, ingress, egress, table, flush, tracker, control)
        if self.copies:
            self._copies(m, ingress, table, own, control, flush, tracker)
        else:
            connect_streams(m, control.order, table.order)
            m.d.comb += [ingress.pauses.eq(table.pauses), ingress.copy.ready.eq(1)]
        m.d.comb += [
            control.base.eq(self.register_bar), control.dropped.eq(ingress.dropped), control.unexpected.eq(ingress.unexpected),
            control.timeouts.eq(ingress.timed_out), control.held.eq(ingress.holds), control.refused.eq(ingress.refused.valid),
            control.flush_timeouts.eq(tracker.timed_out), control.expired.eq(table.overdue),
        ]
        return m

    def _link(self, m, ingress, egress, own, tracker, refusals, control):
        """What comes in, and all that goes out."""
        port = self.port
        for source, sink in ((port.rx, ingress.rx), (egress.tx, port.tx), (ingress.o, egress.i[0]), (own.o, egress.i[1]), (tracker.o, own.flush),
                             (control.answer, own.registers), (ingress.flush, tracker.completion), (ingress.register_requests, control.requests)):
            connect_streams(m, source, sink)
        wiring.connect(m, ingress.refused, refusals.i)
        m.d.comb += [
            port.rx_limits.eq(ingress.rx_limits), egress.limits.eq(port.tx_limits), egress.payload_limit.eq(-1), ingress.room.eq(egress.room),
            own.room.eq(egress.room), own.refusals.valid.eq(refusals.o.valid), refusals.o.ready.eq(own.refusals.ready),
            own.refusals.payload.first.eq(1), own.refusals.payload.last.eq(1), own.refusals.payload.header.eq(refusals.o.payload),
            ingress.refused_room.eq(refusals.room),
            *(part.eq(self.own_id) for part in (ingress.own_id, control.own_id, tracker.requester_id, refusals.completer_id)),
            ingress.window_bar.eq(self.window_bar), ingress.leaf_bar.eq(self.leaf_bar),
        ]

    def _leaves(self, m, ingress, leaves, own, control):
        for source, sink in ((ingress.leaf_walks, leaves.walks), (ingress.leaf_reads, leaves.reads), (leaves.completion, own.leaves)):
            connect_streams(m, source, sink)
        for name in HARVEST_BUSES:
            bus, theirs = getattr(control, name), getattr(leaves, name)
            request, asked = bus.request.payload, theirs.request.payload
            m.d.comb += [
                theirs.request.valid.eq(bus.request.valid), bus.request.ready.eq(theirs.request.ready), asked.strobe.eq(request.strobe),
                asked.index.eq(request.index), bus.response.valid.eq(theirs.response.valid), bus.response.payload.eq(theirs.response.payload),
                theirs.response.ready.eq(1),
            ]
        posted = ingress.local_posted
        m.d.comb += [
            control.posted.valid.eq(posted.valid & ~ingress.local_leaf), leaves.posted.valid.eq(posted.valid & ingress.local_leaf),
            control.posted.payload.eq(posted.payload), leaves.posted.payload.eq(posted.payload),
            posted.ready.eq(Mux(ingress.local_leaf, leaves.posted.ready, control.posted.ready)),
            leaves.completer_id.eq(self.own_id), leaves.in_entries.eq(control.in_entries), leaves.hold.eq(control.leaf_hold),
            leaves.hold_line.eq(control.leaf_line), leaves.hold_limit.eq(control.hold_limit), ingress.host_id.eq(control.host_id),
            control.leaf_waiting.eq(leaves.waiting), control.leaf_expired.eq(leaves.expired), control.walked.eq(leaves.walked),
            control.unsupported.eq(leaves.unsupported + leaves.dropped),
        ]

    def _windows(self, m, ingress, table, monitor, words, control):
        for number in range(2):
            m.d.comb += [table.index[number].eq(ingress.index[number]), ingress.entry[number].eq(table.entry[number])]
        for bus in ("windows", "bytes"):
            wiring.connect(m, getattr(control, bus), getattr(words, bus))
        m.d.comb += [
            table.index[2].eq(words.index), words.entry.eq(table.entry[2]),
            table.limit.eq(control.hold_limit), table.was_written.eq(monitor.was_written), table.atomics.eq(ingress.atomics),
            control.carried.eq(table.carried), control.refused_order.eq(table.refused), control.refusal.eq(table.refusal),
            monitor.access.eq(ingress.access), monitor.accesses.eq(ingress.accesses), monitor.clear.eq(table.clear), monitor.window.eq(table.window),
            monitor.now.eq(control.now),
            *(getattr(monitor, name).eq(getattr(words, name)) for name in ("read_window", "read_line", "read_enable", "word")),
            words.read_data.eq(monitor.read_data), words.was_read.eq(monitor.was_read), words.was_written.eq(monitor.was_written),
            words.expired.eq(table.expired), words.atomics.eq(ingress.atomics),
            self.committed.eq(table.committed), self.committed_window.eq(table.window), self.committed_page.eq(table.target),
        ]

    def _copies(self, m, ingress, table, own, control, flush, tracker):
        m.submodules.mover = mover = PageMover(self.windows)
        m.submodules.engine = engine = CopyEngine(self.data_bytes, self.chunk_bytes)
        for source, sink in ((engine.o_read, own.copy_read[0]), (engine.o_write, own.copy_write[0]), (ingress.copy, engine.completion),
                             (ingress.absorb, engine.absorb)):
            connect_streams(m, source, sink)
        connect_in_turns(m, "orders", (control.order, mover.order), table.order)
        m.d.comb += [
            *(self.proof[name].eq(getattr(mover, name)) for name in ("request", "insist", "proving")), self.proof.address.eq(mover.copy_destination),
            *(mover.flush[name].eq(getattr(tracker, name)) for name, _ in FlushView.as_shape()), mover.flush_busy.eq(flush.busy),
            ingress.pauses.eq(table.pauses | engine.pause), mover.start.eq(control.copy), mover.window.eq(control.order.payload.window),
            mover.target.eq(control.order.payload.target), table.index[4].eq(mover.index), mover.entry.eq(table.entry[4]),
            mover.carried.eq(table.carried), mover.refused.eq(table.refused), table.copied.eq(mover.copied), table.gave_up.eq(mover.gave_up),
            control.copy_done.eq(mover.done), control.copy_failure.eq(mover.failure), control.copy_busy.eq(mover.busy),
            control.copy_failed.eq(mover.failed), control.copy_error.eq(mover.error),
            ingress.absorbing.eq(mover.absorbing), ingress.absorb_window.eq(mover.absorb_window), mover.atomics.eq(ingress.atomics),
            mover.limit.eq(control.hold_limit), mover.entered.eq(ingress.entered), mover.issued.eq(ingress.issued),
            mover.own_entered.eq(own.entered), mover.own_issued.eq(own.accepted),
            engine.atomic.eq(ingress.atomic), engine.atomic_offset.eq(ingress.atomic_offset), engine.absorbing.eq(mover.busy),
            engine.source_address.eq(mover.copy_source), engine.destination_address.eq(mover.copy_destination),
            engine.source_id.eq(self.own_id), engine.destination_id.eq(self.own_id), engine.limit.eq(control.completion_limit),
            *(getattr(engine, theirs).eq(getattr(mover, f"copy_{ours}")) for ours, theirs in (
                ("prepare", "prepare"), ("set", "prepare_set"), ("start", "start"), ("stop", "stop"), ("over", "over"))),
            *(getattr(mover, f"copy_{name}").eq(getattr(engine, name)) for name in (
                "prepared", "absorbed", "stale", "fetched", "written", "outstanding", "owed", "error")),
        ]

    def _flush(self, m, ingress, egress, table, flush, tracker, control):
        m.d.comb += [
            flush.start.eq(control.flush), flush.window.eq(control.flush_window), flush.passed.eq(control.flush_passed),
            table.index[3].eq(flush.index), flush.entry.eq(table.entry[3]),
            flush.accepted.eq(ingress.accepted), flush.left.eq(ingress.left), flush.entered.eq(ingress.entered), flush.issued.eq(ingress.issued),
            *(flush.flush[name].eq(getattr(tracker, name)) for name, _ in FlushView.as_shape()),
            tracker.posted.eq(egress.posted | flush.insist | self.proof.insist), tracker.request.eq(flush.request | self.proof.request),
            tracker.insist.eq(tracker.request), tracker.address.eq(Mux(self.proof.proving, self.proof.address, flush.address)),
            flush.waits.eq(self.proof.proving), tracker.limit.eq(control.completion_limit), ingress.limit.eq(control.completion_limit),
            control.flush_busy.eq(flush.busy), control.flush_failed.eq(flush.failed), control.flushes.eq(flush.flushes),
        ]
