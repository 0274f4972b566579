"""The move of pages under devices that go on: the edit of their entries is the commit (figure 14)."""

from amaranth.hdl import Cat, Const, Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from pagehop.iommu.ats_invalidations import AtsRound
from pagehop.iommu.command_queue import Executor
from pagehop.iommu.commands import COMMAND_BITS
from pagehop.iommu.entry_format import RiscvEntries
from pagehop.iommu.event_counters import MoveEvents
from pagehop.iommu.iotlb import Invalidation
from pagehop.iommu.layouts import PAGE_BITS, PPN_BITS, Access, Located, PageSize, TranslationRequest
from pagehop.iommu.line_owner import LIMIT_BITS, LinePort
from pagehop.iommu.modify_batch import ModifyBatch, ModifyStatus
from pagehop.iommu.page_copy import CopyPages
from pagehop.iommu.tilelink import LINE_ADDRESS_BITS, LINE_BEATS, SIZE_WORD, MemoryPort, OpA
from pagehop.tlp.stream import connect_streams

__all__ = ["OPTIMISTIC_LIMIT", "ModifyEngine", "ModifyEvents"]

#: Cycles for which an optimistic move may keep a probe waiting: for its edits only, eight cycles.
OPTIMISTIC_LIMIT = 48

#: What devices that have kept anything of an address space are told to forget: all of it.
_ALL_PAGES = 0x7FFF_FFFF_FFFF_F800


class ModifyEvents(data.Struct):
    """Pulses: a batch of which something was moved; one of which nothing was; an attempt that was disturbed; the first one that holds after those."""
    moved:    1
    failed:   1
    retried:  1
    fell_back: 1


class ModifyEngine(wiring.Component):
    """Copy the page that an entry leads to, and let the entry lead to the copy, so that no access of a device is lost or finds the other one.

    For a batch of entries in one line, in this order:

    ======================  ====================================================================================================================
    locate                  the entry, by a walk that marks nothing, or as the command says
    tell, when it ``tells``  holding: ATS requests are kept out (``ats_hold``), and no untranslated access is; then all devices of the domain forget
                            the page, and have said so (H30, H32). Optimistic: after the invalidation, with the line owned, so that a device that
                            asks again disturbs the move
    own                     the line; each entry must be a leaf of 4 KiB that leads to the expected page, or its move ends there (H33)
    invalidate              the IOTLB; walks under way begin again, and wait for the line (H02, H31)
    drain                   accesses that have been translated are visible (H01)
    copy                    page by page; all of the copy is visible (H03)
    edit                    the entries, with whatever A and D are there (H34), in one go: everybody sees all of them or none
    precache                if the first command says so: walks for the pages that were moved, so that who comes next finds them in the IOTLB
    ======================  ====================================================================================================================

    Holding, a probe for the line waits up to ``hold_limit`` cycles; if that is not enough nothing is moved (EXPIRED), or, if it ends between two
    edits, what was edited. Optimistic, nobody waits: who wants the line, or another line of the IOMMU's, gets it, and the move begins again, after
    ``tries`` times as one that holds. Only for the edits a probe waits, up to OPTIMISTIC_LIMIT and 13 cycles.

    With a home that grants after L cycles and acknowledges after L, a drain of D cycles and a copy of C, a batch of n moves takes
    52 + D + 2 L + n (C + 1) cycles from its last command to the verdict; one that is found by a walk of three levels 11 + 3 L more.

    Parameters
    ----------
    id_bits : of translation requests. ats : whether there are devices to tell. format_ : class of the :class:`EntryFormat`.
    drain_bits : base-2 logarithm of the cycles for which a drain is waited for. gather_bits : see :class:`ModifyBatch`.

    Members
    -------
    execute : the commands
    locate, located; redo : see :class:`Misses`. invalidate, pages : see :class:`Translator`. drain, drained, drain_failed :
        see :class:`CommandQueue`
    line, limit : to a :class:`LineOwner`
    copy : stream, ``ready`` for one cycle when the page is copied, or not (``copy_failed``). copy_abort : out, it need not be any more
    round : stream, ``ready`` for one cycle when all devices have answered, or one has not (``round_failed``). ats_hold, ats_quiet : no ATS request is
        to be let in; none is inside
    hold_limit, records : in, not changed while something is pending: cycles; the page where the records begin, aligned to what they take, 8
        bytes each: status (3:0), attempts (15:8), cycles from the last command to the verdict (63:32)
    memory : writes of records. events : out. meter : out, when it is ``counted``. optimistic : out, the move that is under way keeps nobody waiting
    """
    def __init__(self, id_bits=3, *, ats=False, format_=RiscvEntries, drain_bits=20, gather_bits=10, counted=False):
        if drain_bits not in range(4, 33):
            raise ValueError(f"A drain must be waited for 2 to the power of 4 to 32 cycles, not of {drain_bits!r}")
        self.ats, self.format, self.drain_bits, self.batch, self.counted = ats, format_, drain_bits, ModifyBatch(gather_bits), counted
        super().__init__({
            "execute": In(Executor(COMMAND_BITS)), "locate": Out(stream.Signature(TranslationRequest(id_bits))), "located": In(Located),
            "redo": Out(1), "invalidate": Out(1), "pages": Out(Invalidation), "drain": Out(1), "drained": In(1), "drain_failed": In(1),
            "line": Out(LinePort()), "limit": Out(LIMIT_BITS), "copy": Out(stream.Signature(CopyPages)), "copy_failed": In(1), "copy_abort": Out(1),
            "hold_limit": In(LIMIT_BITS), "records": In(PPN_BITS), "memory": Out(MemoryPort()), "events": Out(ModifyEvents), "optimistic": Out(1),
            **({"meter": Out(MoveEvents)} if counted else {}),
            **({"round": Out(stream.Signature(AtsRound)), "round_failed": In(1), "ats_hold": Out(1), "ats_quiet": In(1)} if ats else {}),
        })

    def elaborate(self, platform):
        m = Module()
        m.submodules.batch = batch = self.batch
        m.submodules.format = self._format = self.format()
        # Of the moves that are still to be made; of those that were.
        self._good, self._moved = Signal(LINE_BEATS), Signal(LINE_BEATS)
        self._index, self._line = Signal(range(LINE_BEATS)), Signal(LINE_ADDRESS_BITS)
        self._tries, self._attempts = Signal(4), Signal(8)
        self._nested, self._single = Signal(), Signal()
        self._has_line, self._lost, self._watches = Signal(), Signal(), Signal()    # the line is ours, or comes; was taken from us; may not be taken
        self._fails, self._failing, self._why = Signal(), Signal(LINE_BEATS), Signal(ModifyStatus)
        self._status = Signal(data.ArrayLayout(ModifyStatus, LINE_BEATS))
        # Each by itself: what nobody counts is not there.
        self._meter = {name: Signal(name=f"meter_{name}") for name in data.Layout.cast(MoveEvents).members}
        if self.counted:
            m.d.comb += [self.meter[name].eq(signal) for name, signal in self._meter.items()]
        self._timer, self._cycles, self._works = Signal(self.drain_bits), Signal(32), Signal()
        self._last = self._index.all()
        m.d.comb += self._works.eq(batch.complete)
        m.d.sync += self._cycles.eq(self._cycles + self._works)
        self._connect(m)
        with m.FSM():
            with m.State("idle"):
                self._idle(m)
            with m.State("locate"):
                self._locate(m)
            with m.State("begin"):
                m.d.sync += [self._moved.eq(0), self._attempts.eq(self._attempts + 1)]
                m.next = "own"
                if self.ats:
                    with m.If(batch.first.tells & ~self.optimistic):
                        m.d.sync += self.ats_hold.eq(1)
                        m.next = "quiet"
            if self.ats:
                self._tell(m)
            self._own(m)
            with m.State("check"):
                self._check(m)
            self._settle(m)
            with m.State("copy"):
                self._copy(m)
            with m.State("edit"):
                self._edit(m)
            with m.State("leave"):
                m.d.comb += self.line.release.eq(1)
                with m.If(~self._has_line):
                    m.next = "verdict"
            with m.State("verdict"):
                self._judge(m)
            self._record(m)
        self._note(m)
        return m

    def _connect(self, m):
        """What does not depend on the state."""
        batch, first, line = self.batch, self.batch.first, self.line
        connect_streams(m, self.execute.command, batch.command)
        wide = first.function[0] | self._nested     # whatever the devices know of
        m.d.comb += [
            self.execute.pending.eq(batch.pending), batch.index.eq(self._index), line.index.eq(self._index), line.acquire.payload.eq(self._line),
            line.hold.eq(~self.optimistic), line.value.eq(self.format.moved(line.entry, batch.move.new)),
            self.limit.eq(Mux(self.optimistic, OPTIMISTIC_LIMIT, self.hold_limit)),
            self.locate.payload.device_id.eq(first.device_id), self.locate.payload.iova.eq(first.address),
            self.copy.payload.source.eq(batch.move.old), self.copy.payload.destination.eq(batch.move.new), self.copy_abort.eq(self._lost),
            self.pages.page.eq(first.address[PAGE_BITS:]), self.pages.paged.eq(~wide & self._single),
            self.redo.eq(self.invalidate), self._meter["holds"].eq(line.owned & line.hold),
            self._meter["keeps_waiting"].eq(line.owned & line.hold & line.touched),
            self._meter["disturbed"].eq(self.events.retried), self._meter["fell_back"].eq(self.events.fell_back),
        ]
        if self.ats:
            eight = Cat(Const(0, PAGE_BITS - 1), Const(0b0111, 4), first.address[PAGE_BITS + 3:])     # 32 KiB
            one = Cat(Const(0, PAGE_BITS), first.address[PAGE_BITS:])
            m.d.comb += [
                self.round.payload.gscid.eq(first.gscid), self.round.payload.payload.eq(Mux(wide, _ALL_PAGES, Mux(self._single, one, eight))),
            ]

    def _note(self, m):
        """Registers that several states set."""
        line, disturbed = self.line, Signal()
        m.d.comb += disturbed.eq(self._watches & (~line.owned | (self.optimistic & line.touched)))
        with m.If(disturbed):
            # Give it back at once; when it has been taken this says nothing.
            m.d.comb += line.release.eq(1)
            m.d.sync += self._lost.eq(1)
        with m.If(line.ended):
            m.d.sync += self._has_line.eq(0)
        for number in range(LINE_BEATS):
            with m.If(self._fails & self._failing[number]):
                m.d.sync += [self._status[number].eq(self._why), self._good[number].eq(0)]

    def _fail(self, m, why, which=None):
        """Moves end without anything moved: those of ``which``, or all that are left."""
        m.d.comb += [self._fails.eq(1), self._failing.eq(self._good if which is None else which), self._why.eq(why)]

    def _idle(self, m):
        batch, first = self.batch, self.batch.first
        m.d.sync += [
            self._good.eq(batch.there), self.optimistic.eq(first.optimistic & first.tries.any()), self._tries.eq(first.tries),
            self._attempts.eq(0), self._cycles.eq(0), self._index.eq(0), self._line.eq(first.address[SIZE_WORD + 3:]), self._nested.eq(0),
            self._single.eq(~(batch.there & (batch.there - 1)).any()),
        ]
        with m.If(batch.complete):
            m.next = "locate"
            with m.If(first.function[0]):
                m.next = "begin"
        with m.Elif(batch.rejected.valid):
            m.next = "reject"

    def _locate(self, m):
        located = self.located
        m.d.comb += self.locate.valid.eq(1)
        m.d.sync += [self._line.eq(located.address[3:]), self._nested.eq(located.nested)]
        with m.If(self.locate.ready):
            m.next = "begin"
            with m.If(~located.found | (located.translation.size != PageSize.SIZE_4K)):
                self._fail(m, Mux(located.found, ModifyStatus.TOO_LARGE, ModifyStatus.NOT_FOUND))
                m.next = "verdict"

    def _precache(self, m):
        """By a walk as for a read, so what is kept is what it would find."""
        first, request = self.batch.first, self.locate.payload
        wanted = self._moved.bit_select(self._index, 1) & ~first.function[0]
        m.d.comb += [
            self.locate.valid.eq(wanted), request.access.eq(Access.PRECACHE),
            request.iova.eq(Cat(Const(0, PAGE_BITS), self._index, first.address[PAGE_BITS + len(self._index):])),
        ]
        with m.If(~wanted | self.locate.ready):
            m.d.sync += self._index.eq(self._index + 1)
            with m.If(self._last):
                m.d.comb += self.batch.done.eq(1)
                m.next = "done"

    def _tell(self, m):
        with m.State("quiet"), m.If(self.ats_quiet):
            m.next = "round"
        with m.State("round"):
            m.d.comb += [self.round.valid.eq(1), self._watches.eq(self.optimistic)]
            with m.If(self.round.ready):
                m.next = "own"
                with m.If(self.optimistic):
                    m.next = "drain"
                with m.If(self.round_failed):
                    self._fail(m, ModifyStatus.UNTOLD)
                    m.next = "leave"

    def _own(self, m):
        line = self.line
        with m.State("own"):
            m.d.comb += line.acquire.valid.eq(1)
            m.d.sync += [self._lost.eq(0), self._index.eq(0)]
            with m.If(line.acquire.ready):
                m.d.sync += self._has_line.eq(1)
                m.next = "wait"
        with m.State("wait"):
            with m.If(line.owned):
                m.d.comb += self._watches.eq(1)
                m.next = "check"
            with m.Elif(line.ended):
                self._fail(m, ModifyStatus.NO_LINE)
                m.next = "verdict"

    def _check(self, m):
        """Look at an entry a cycle, judge it in the next. Of those that were judged before another attempt only the good ones are left."""
        entry, place, old, judged, last = Signal(64), Signal(LINE_BEATS), Signal(PPN_BITS), Signal(), Signal()
        info = self._format.info
        m.d.comb += [self._watches.eq(1), self._format.entry.eq(entry)]
        m.d.sync += [
            self._index.eq(self._index + 1), entry.eq(self.line.entry), place.eq(1 << self._index), old.eq(self.batch.move.old),
            judged.eq(self.line.owned), last.eq(self._last),
        ]
        with m.If(judged & ~(info.leaf & (info.ppn == old))):
            self._fail(m, ModifyStatus.MISMATCH, place & self._good)
        with m.Elif(judged & info.napot):
            self._fail(m, ModifyStatus.TOO_LARGE, place & self._good)
        with m.If(last):
            m.d.sync += [judged.eq(0), last.eq(0), self._index.eq(0)]
            m.next = "invalidate"

    def _settle(self, m):
        """Forget the old translations, then wait until what had been translated is visible. A response is on its way for two cycles."""
        with m.State("invalidate"):
            m.d.comb += [self._watches.eq(1), self.invalidate.eq(1)]
            m.d.sync += self._timer.eq(0)
            m.next = "settle"
            with m.If(self._lost | ~self._good.any()):
                m.next = "leave"
        with m.State("settle"):
            m.d.comb += self._watches.eq(1)
            m.d.sync += self._timer.eq(1)
            with m.If(self._timer[0]):
                m.next = "drain"
                if self.ats:
                    with m.If(self.batch.first.tells & self.optimistic):
                        m.next = "round"
        with m.State("drain"):
            m.d.comb += [self._watches.eq(1), self.drain.eq(~self._lost)]
            m.next = "draining"
            with m.If(self._lost):
                m.next = "leave"
        with m.State("draining"):
            m.d.comb += [self._watches.eq(1), self._meter["drains"].eq(1)]
            m.d.sync += self._timer.eq(self._timer + 1)
            with m.If(self._lost):
                m.next = "leave"
            with m.Elif(self.drained & ~self.drain_failed):
                m.next = "copy"
            with m.Elif(self.drained | self._timer.all()):
                self._fail(m, ModifyStatus.UNDRAINED)
                m.next = "leave"

    def _copy(self, m):
        """One page after the other. One that has begun is waited for."""
        good = self._good.bit_select(self._index, 1)
        copies, done = good & ~self.batch.move.bare, Signal()
        m.d.comb += [self._watches.eq(1), self.copy.valid.eq(copies), done.eq(~copies | self.copy.ready)]
        with m.If(done):
            m.d.sync += self._index.eq(self._index + 1)
            with m.If(copies & self.copy_failed & ~self._lost):
                self._fail(m, ModifyStatus.NO_COPY, 1 << self._index)
            with m.If(self._lost):
                m.next = "leave"
            with m.Elif(self._last):
                m.next = "edit"

    def _edit(self, m):
        """An entry a cycle, and all are in the line before anybody sees it; from here on it is held in any case."""
        line, good = self.line, self._good.bit_select(self._index, 1)
        m.d.comb += [line.hold.eq(1), line.edit.eq(good), line.release.eq(self._last)]
        m.d.sync += self._index.eq(self._index + 1)
        with m.If(line.owned):
            m.d.sync += self._moved.bit_select(self._index, 1).eq(good)
        with m.If(~line.owned | self._last):
            m.next = "leave"

    def _judge(self, m):
        """What was edited is moved, whatever happened then. Nothing was: once more, when somebody was in the way."""
        left = self._good & ~self._moved
        m.d.comb += [self._fails.eq(1), self._failing.eq(self._good), self._why.eq(ModifyStatus.MOVED)]
        m.d.sync += self._index.eq(0)
        m.next = "record"
        with m.If(left.any()):
            m.d.comb += [self._failing.eq(left), self._why.eq(ModifyStatus.EXPIRED)]
            m.next = "verdict"
            with m.If(~self._moved.any() & self.optimistic):
                m.d.comb += [self._fails.eq(0), self.events.retried.eq(1), self.events.fell_back.eq(self._tries == 1)]
                m.d.sync += [self._tries.eq(self._tries - 1), self.optimistic.eq(self._tries != 1)]
                m.next = "begin"
        with m.Else():
            m.d.comb += [self.events.moved.eq(self._moved.any()), self.events.failed.eq(~self._moved.any())]
            if self.ats:
                m.d.sync += self.ats_hold.eq(0)

    def _record(self, m):
        """Tell software, move by move; and of those that were rejected."""
        batch, ask, rejected, place = self.batch, self.memory.a, self.batch.rejected, Signal(16)
        rejects, waits = Signal(), Signal()
        status = Mux(rejects, rejected.payload.status.as_value(), self._status[self._index].as_value())
        m.d.comb += [
            place.eq(Mux(rejects, rejected.payload.record, batch.move.record)), self.memory.d.ready.eq(1),
            ask.payload.opcode.eq(OpA.PUT_FULL), ask.payload.size.eq(SIZE_WORD), ask.payload.mask.eq(~0),
            ask.payload.data.eq(Cat(status, Const(0, 4), self._attempts, Const(0, 16), self._cycles)),
            ask.payload.address.eq(Cat(Const(0, PAGE_BITS), self.records) | Cat(Const(0, SIZE_WORD), place)),
        ]
        there, moved = batch.there.bit_select(self._index, 1), status == ModifyStatus.MOVED.value
        for name, recorded in (("record", batch.move.recorded & there), ("reject", rejected.payload.recorded)):
            with m.State(name):
                m.d.comb += [rejects.eq(name == "reject"), ask.valid.eq(recorded & ~waits), self._works.eq(0)]
                m.d.sync += waits.eq((waits | ask.ready) & recorded & ~(waits & self.memory.d.valid))
                with m.If(~recorded | (waits & self.memory.d.valid)):
                    m.d.comb += [self._meter["moved"].eq(there & moved & ~rejects), self._meter["failed"].eq(Mux(rejects, 1, there & ~moved))]
                    if name == "reject":
                        m.d.comb += rejected.ready.eq(1)
                        m.next = "idle"
                    else:
                        m.d.sync += self._index.eq(self._index + 1)
                        with m.If(self._last):
                            m.d.comb += batch.done.eq(~batch.first.precaches)
                            m.next = "done"
                            with m.If(batch.first.precaches):
                                m.next = "precache"
        with m.State("precache"):
            self._precache(m)
        with m.State("done"):
            m.next = "idle"
