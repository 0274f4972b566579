"""The dirty log: a bitmap or page tables in a host's memory, kept by the interposer."""

from amaranth.hdl import Cat, Const, Module, Mux, ResetInserter, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import exact_log2

from pagehop.interposer.layouts import EpochView, Written
from pagehop.interposer.log_decode import DECODE_CYCLES, LogDecode
from pagehop.interposer.log_forms import LogForms
from pagehop.interposer.log_settings import DirtyUnits, LogError, LogSettings, LogStatus
from pagehop.interposer.log_words import LogWords
from pagehop.interposer.visible_wait import VisibleWait
from pagehop.tlp.fifo import LaneFifo
from pagehop.tlp.flush import FlushView
from pagehop.tlp.issue import Mark
from pagehop.tlp.stream import TlpBeat, connect_streams

__all__ = ["DirtyLog"]

#: Marks that can wait, and from how many on the device's writes do. Between the two is room for what was chosen before they know.
WAITING, PLENTY = 64, 64 - 2 * (DECODE_CYCLES + 3)

#: A sync takes so many times the longest wait for an answer at most.
PATIENCE = 16


class DirtyLog(wiring.Component):
    """Set the bit of every unit that the device writes, in a bitmap in the memory of one host, or A and D of its entry in page tables there, and tell
    when a report is true (H34, H46, H47, H48, I12).

    Each write of the device leaves a mark here when it is chosen; marks wait in a queue, and when that is nearly full, ``pause`` is 1 and no write
    is chosen. The queue moves on by requests of ours to one host and by their answers, which wait for nothing that the device sends, and by an error
    when these do not come in ``limit`` cycles. So no mark is lost but by an error, which says that everything is dirty.

    A *sync* takes the marks that are in the queue when it begins, those of all that a host can have seen before its command came here, and sets
    their bits. Only then it forgets which bits are known to be set and, with ``ping_pong``, changes the bitmap; then all that was marked until then,
    written or not yet, is proven visible at both hosts, and so are the bits. Other marks wait in the queue from the moment when those are taken until
    the bitmap changes: for the answers to two or three requests a word. An error ends it, and lasting for 16 times ``limit`` is one.

    Parameters
    ----------
    data_bytes : beat width. entries : class of the :class:`EntryFormat` of page tables that may be marked instead of bitmaps; None when none may.

    Members
    -------
    settings, sync, status : from and to the registers. ``changed``: pulse, a range, bitmap or root was written. ``opaque``: there may be writes that
        have no mark, or no order with us. ``down``: of the host that has the bitmaps.
    writes, written : of the device ingress. ``pause``: to it.
    requester_id, limit : of requests.
    o_request, o_write, completion : as in :class:`LogWords`. ``local_entered``, ``local_accepted``: TLPs on their way into that host's egress.
    entered, accepted : TLPs of the device's issue register.
    advance, epochs : of the outstanding table. flush, flush_request : both hosts' trackers. ``flush_lost``: a flush of one proved nothing.
    """
    def __init__(self, data_bytes=64, entries=None):
        self.data_bytes, self.entries = data_bytes, entries
        beat = stream.Signature(TlpBeat(data_bytes))
        super().__init__({
            "settings": In(LogSettings), "sync": In(1), "status": Out(LogStatus), "changed": In(1), "opaque": In(1), "down": In(1),
            "writes": In(1), "written": In(Written), "pause": Out(1), "requester_id": In(16), "limit": In(32),
            "o_request": Out(beat), "o_write": Out(beat), "completion": In(beat), "local_entered": In(4), "local_accepted": In(4),
            "entered": In(4), "accepted": In(4), "advance": Out(1), "epochs": In(EpochView),
            "flush": In(FlushView).array(2), "flush_request": Out(1).array(2), "flush_lost": In(2),
        })

    def elaborate(self, platform):
        m = Module()
        m.submodules.decode = decode = LogDecode()
        m.submodules.queue = queue = LaneFifo(DirtyUnits, WAITING, direct=True)
        m.submodules.words = words = LogForms(self.data_bytes, self.entries) if self.entries else LogWords(self.data_bytes)
        works, stops, turn = Signal(), Signal(), Signal()
        mode, on = Cat(self.settings.host, self.settings.ping_pong, self.settings.tables), Signal()
        mode_before, turned, taken = Signal.like(mode), Signal(), Signal()
        for source, sink in ((decode.o, queue.i), (words.o_request, self.o_request), (words.o_write, self.o_write),
                             (self.completion, words.completion)):
            connect_streams(m, source, sink)
        m.d.comb += [
            turned.eq(on & (mode != mode_before)),
            works.eq(self.settings.enable & (self.status.error == LogError.NONE) & ~turned),
            decode.enable.eq(works), decode.ranges.eq(self.settings.ranges), decode.writes.eq(self.writes), decode.written.eq(self.written),
            words.enable.eq(works), words.settings.eq(self.settings), words.active.eq(self.status.active),
            words.requester_id.eq(self.requester_id), words.limit.eq(self.limit),
            words.i.valid.eq(queue.o.valid & ~stops), words.i.payload.eq(queue.o.payload), queue.o.ready.eq(words.i.ready & ~stops),
            decode.forget.eq(turn), words.forget.eq(turn),
        ]
        m.d.sync += [
            mode_before.eq(mode), on.eq(self.settings.enable),
            self.pause.eq(works & (queue.level >= PLENTY)),
            self.status.waits.eq(self.status.waits + self.pause),
            # What is taken is known late in a cycle, so it is counted in the next.
            taken.eq((self.o_request.valid & self.o_request.ready) | (self.o_write.valid & self.o_write.ready)),
            self.status.requests.eq(self.status.requests + taken),
        ]
        self._sync(m, queue, words, works, stops, turn)
        self._fail(m, words, turned)
        m.d.comb += self.status.tables.eq(bool(self.entries))
        with m.If(~self.settings.enable):
            m.d.sync += self.status.active.eq(0)
        return m

    def _fail(self, m, words, turned):
        """The first error stays until the log is off."""
        error, age, late = Signal(LogError), Signal(36), Signal()   # of a sync
        m.d.sync += [age.eq(Mux(self.status.busy, age + 1, 0)), late.eq(age[exact_log2(PATIENCE):] >= self.limit)]
        with m.If(self.changed | turned):
            m.d.comb += error.eq(LogError.CHANGED)
        with m.Elif(self.opaque):
            m.d.comb += error.eq(LogError.OPAQUE)
        with m.Elif(self.down):
            m.d.comb += error.eq(LogError.DOWN)
        with m.Elif(self.flush_lost.any()):
            # Also of one that somebody else asked for: what it should have proven counts as proven.
            m.d.comb += error.eq(LogError.FLUSH)
        with m.Elif(self.status.busy & late):
            m.d.comb += error.eq(LogError.TIMEOUT)
        with m.Elif(self.settings.tables & Const(not self.entries, 1)):
            m.d.comb += error.eq(LogError.TABLES)
        with m.Else():
            m.d.comb += error.eq(words.error)
        with m.If(~self.settings.enable):
            m.d.sync += self.status.error.eq(LogError.NONE)
        with m.Elif(self.status.error == LogError.NONE):
            m.d.sync += self.status.error.eq(error)

    def _sync(self, m, queue, words, works, stops, turn):
        """Bits, turn, proof."""
        m.submodules.cut = cut = Mark(queue.level.shape().width + 1)
        m.submodules.local = local = Mark(4)
        visible = VisibleWait()
        m.submodules.visible = ResetInserter(~works)(visible)
        put, taken = Signal(cut.bits), Signal(cut.bits)
        m.d.sync += [put.eq(put + (queue.i.valid & queue.i.ready)), taken.eq(taken + (queue.o.valid & queue.o.ready))]
        m.d.comb += [
            cut.target.eq(put), cut.count.eq(taken),
            local.target.eq(self.local_entered), local.count.eq(self.local_accepted), local.set.eq(turn),
            visible.start.eq(turn), visible.ready.eq(local.passed),
        ]
        visible.within(m, self)
        with m.FSM() as steps:
            with m.State("Idle"):
                with m.If(self.sync):
                    m.d.comb += cut.set.eq(1)
                    m.next = "Take"
            with m.State("Take"):
                with m.If(cut.passed | ~works):
                    m.next = "Set"
            with m.State("Set"):
                m.d.comb += stops.eq(works)
                with m.If(words.idle | ~works):
                    m.next = "Turn"
            with m.State("Turn"):
                # What was handed over in the cycle before is counted now.
                m.d.comb += [stops.eq(works), turn.eq(1)]
                m.d.sync += self.status.active.eq(Mux(self.settings.ping_pong, ~self.status.active, 0))
                m.next = "Prove"
            with m.State("Prove"):
                with m.If(visible.done | ~works):
                    m.next = "Idle"
        m.d.comb += self.status.busy.eq(~steps.ongoing("Idle"))
