"""Claims about the engine that moves pages, beside any home, copier, data path and devices: what comes before an edit, and whom it keeps waiting."""

from amaranth.hdl import Assert, Assume, Cover, Elaboratable, Module, Mux, Signal, Value
from rules import any_constant, any_value, drive, past

from pagehop.iommu.misses import Misses
from pagehop.iommu.modify import ModifyEngine
from pagehop.iommu.modify_batch import ModifyBatch
from pagehop_sim.formal import Proof
from pagehop_sim.planted import edited, planted

#: Entries of the small line that is claimed about.
BEATS = 2


def small(*changes):
    """The engine with a line of two entries, and these changes."""
    batch = edited(ModifyBatch, LINE_BEATS=BEATS, _INDEX=range(BEATS))
    return edited(ModifyEngine, *changes, LINE_BEATS=BEATS, ModifyBatch=batch)


class EngineUnderTest(Elaboratable):
    """An engine and everything around it, which answers when it likes. A line that was asked for is owned, or refused; it stays while it is held, but
    may be lost in any cycle, whether it is or not; it ends once."""
    def __init__(self, engine=None):
        self.engine = engine or small()

    def elaborate(self, platform):
        m = Module()
        m.submodules.dut = dut = self.dut = self.engine(1, ats=True, drain_bits=4, gather_bits=4)
        drive(m, dut.execute.command, "command")
        line = dut.line
        asked, owned, going = Signal(), Signal(), Signal()
        self.held_back = any_value(m, 1, "touched")
        takes, comes, fails, taken, gone = (any_value(m, 1, name) for name in ("takes", "comes", "fails", "taken", "gone"))
        m.d.comb += [
            line.acquire.ready.eq(takes & ~asked), line.owned.eq(owned), line.touched.eq(owned & self.held_back),
            line.entry.eq(any_value(m, 64, "entry")), line.ended.eq((asked & ~owned & ~going & fails) | (going & gone)),
            dut.hold_limit.eq(any_constant(m, 16, "hold_limit")),
            *(Value.cast(signal).eq(any_value(m, len(Value.cast(signal)), name)) for name, signal in (
                ("located", dut.located), ("drained", dut.drained), ("drain_failed", dut.drain_failed),
                ("copy_failed", dut.copy_failed), ("round_failed", dut.round_failed),
                ("ats_quiet", dut.ats_quiet))),
            *(stream.ready.eq(any_value(m, 1, f"{name}_ready") & stream.valid) for name, stream in (
                ("locate", dut.locate), ("copy", dut.copy), ("round", dut.round))),
            dut.memory.a.ready.eq(any_value(m, 1, "a_ready")), dut.memory.d.valid.eq(any_value(m, 1, "d_valid")),
        ]
        with m.If(line.acquire.valid & line.acquire.ready):
            m.d.sync += asked.eq(1)
        with m.Elif(line.ended):
            m.d.sync += [asked.eq(0), going.eq(0)]
        with m.If(asked & ~owned & ~going & ~line.ended & comes):
            m.d.sync += owned.eq(1)
        with m.If(owned & (line.release | taken)):
            m.d.sync += [owned.eq(0), going.eq(1)]
        self.claim(m)
        return m


class NothingIsEditedTooEarly(EngineUnderTest):
    """An entry is edited only in a line that is owned, and only after, in this order and since it is owned: it was seen to lead to the expected page
    (H33); the IOTLB and walks were told to forget (H02, H31), once; what had been translated was drained (H01); and its page was copied (H03)."""
    def claim(self, m):
        dut, line = self.dut, self.dut.line
        place = any_constant(m, 1, "place")
        batch = dut.batch
        seen, forgot, drains, drained, copied = (Signal(name=name) for name in ("seen", "forgot", "drains", "was_drained", "copied"))
        move = Signal(Value.cast(batch.move).shape())
        with m.If(~line.owned):
            m.d.sync += [seen.eq(0), forgot.eq(0), drains.eq(0), drained.eq(0), copied.eq(0)]
        with m.Elif(line.index == place):
            m.d.sync += move.eq(batch.move)
        leads = (line.entry[10:54] == batch.move.old) & (line.entry[0] & (line.entry[1] | line.entry[3]))
        with m.If(line.owned & (line.index == place) & ~forgot & leads):
            m.d.sync += seen.eq(1)
        with m.If(line.owned & dut.invalidate):
            m.d.comb += Assert(dut.redo)
            m.d.sync += forgot.eq(1)
        with m.If(line.owned & dut.drain):
            m.d.comb += Assert(forgot)
            m.d.sync += [drains.eq(1), drained.eq(0)]
        with m.If(line.owned & drains & dut.drained & ~dut.drain_failed):
            m.d.sync += drained.eq(1)
        with m.If(line.owned & dut.copy.valid):
            m.d.comb += Assert(drained)
        with m.If(line.owned & dut.copy.valid & dut.copy.ready & (line.index == place)):
            m.d.sync += copied.eq(~dut.copy_failed)
        with m.If(line.owned & line.edit & (line.index == place)):
            m.d.comb += [
                Assert(seen & forgot & drained & (copied | batch.move.bare)), Assert(batch.there.bit_select(place, 1)),
                Assert((line.value ^ line.entry) & ~(((1 << 44) - 1) << 10) == 0), Assert(line.value[10:54] == batch.move.new),
            ]


class NobodyWaitsForAnOptimisticMove(EngineUnderTest):
    """While a move is optimistic, who wants the line waits for 8 cycles of a line of eight entries at most: those of the edits. With the 13 of an
    answer, which are the owner's claim, that is less than 64; the owner's own limit, 48 then, does not come into it."""
    def claim(self, m):
        dut, line, waits = self.dut, self.dut.line, Signal(5)
        m.d.sync += waits.eq(Mux(line.owned & line.touched & dut.optimistic, waits + 1, 0))
        m.d.comb += Assert(waits <= BEATS)
        with m.If(dut.optimistic):
            m.d.comb += Assert(dut.limit <= 64 - 13)


class DevicesAreHeardWithoutTheLine(EngineUnderTest):
    """While devices are waited for nobody is kept from the line: a move that holds has not asked for it (H30), and one that does not gives it back to
    who wants it. Between a round of a move that holds and its end no device may ask again (H31)."""
    def claim(self, m):
        dut, line, heard = self.dut, self.dut.line, Signal()
        with m.If(dut.round.valid):
            m.d.comb += Assert(~line.acquire.valid)
            with m.If(~dut.optimistic):
                m.d.comb += [Assert(~line.owned), Assert(dut.ats_hold)]
            with m.Elif(line.owned & line.touched):
                m.d.comb += Assert(line.release)
        with m.If(dut.round.valid & dut.round.ready):
            m.d.sync += heard.eq(~dut.round_failed)
        with m.If(line.acquire.valid & line.acquire.ready & dut.optimistic):
            m.d.sync += heard.eq(0)
        with m.If(line.edit & line.owned & dut.batch.first.tells):
            m.d.comb += [Assert(heard), Assert(dut.optimistic | dut.ats_hold)]


class MovesEnd(EngineUnderTest):
    """Both entries are moved at once, optimistically after somebody was in the way, and holding after that."""
    def claim(self, m):
        dut, retried = self.dut, Signal()
        with m.If(dut.events.retried | dut.batch.done):
            m.d.sync += retried.eq(~dut.batch.done)
        both = dut.events.moved & dut.batch.there.all()
        m.d.comb += [Cover(both & retried & dut.optimistic), Cover(both & retried & ~dut.optimistic)]


class OldEntriesAreNotAnswered(Elaboratable):
    """After ``redo`` no request is answered by a walk that began before it, nor is what that found kept (H31)."""
    def __init__(self, misses=Misses):
        self.misses = misses

    def elaborate(self, platform):
        m = Module()
        m.submodules.dut = dut = self.misses(1, 1)
        m.d.comb += [
            dut.offer.looked.request.eq(any_value(m, Value.cast(dut.offer.looked.request).shape(), "request")),
            dut.offer.verdict.as_value().eq(any_value(m, 2, "verdict")),
            *(Value.cast(signal).eq(any_value(m, len(Value.cast(signal)), name)) for name, signal in (
                ("offered", dut.offered), ("again", dut.again.ready), ("directory", dut.directory.ready), ("cause", dut.cause),
                ("walked", dut.walked), ("answer", dut.answer.ready), ("fault", dut.fault.ready), ("redo", dut.redo),
                ("locate", dut.locate.valid))),
            dut.walk.ready.eq(any_value(m, 1, "walk_ready") & dut.walk.valid),
            # Who redoes has forgotten what is kept in the same cycle; requests come when they may.
            dut.invalidate.eq(dut.redo | any_value(m, 1, "invalidate")), Assume(~dut.offered | ~past(m, dut.blocks, "blocked")),
        ]
        began, old = past(m, dut.walk.valid & ~dut.walk.ready, "walks"), Signal()
        # Of the walk that is under way, or whose result is waiting to be taken.
        with m.If(dut.redo):
            m.d.sync += old.eq(1)
        with m.Elif(dut.walk.valid & ~began):
            m.d.sync += old.eq(0)
        late = (old & (began | ~dut.walk.valid)) | dut.redo
        with m.If(dut.walk.valid & dut.walk.ready & late):
            m.d.comb += Assert(~dut.answer.valid)
        # What is kept is so in the cycle after the walk.
        with m.If(past(m, dut.walk.valid & dut.walk.ready & late, "found_late") | dut.redo):
            m.d.comb += Assert(~dut.fill)
        with m.If(~dut.walk.valid & dut.answer.valid & (dut.answer.payload.status.as_value() == 0) & ~self._refuses(dut)):
            m.d.comb += Assert(~late)
        return m

    @staticmethod
    def _refuses(dut):
        """What is refused is no translation."""
        return ~dut.answer.payload.translation.readable & ~dut.answer.payload.translation.writable


def bugs(claim, **changes):
    """The claim about engines with these bugs."""
    return {name: lambda change=change: claim(small(change)) for name, change in changes.items()}


PROOFS = [
    Proof("modify_order", NothingIsEditedTooEarly.__doc__, NothingIsEditedTooEarly, "bmc", 32, seconds=900, bugs=bugs(
        NothingIsEditedTooEarly,
        page_not_compared=("~(info.leaf & (info.ppn == old))", "~info.leaf"),
        not_drained=("with m.Elif(self.drained & ~self.drain_failed):", "with m.Elif(1):"),
        drain_believed=("self.drained & ~self.drain_failed", "self.drained"),
        not_forgotten=("self._watches.eq(1), self.invalidate.eq(1)", "self._watches.eq(1)"),
        failed_copy=("self._fail(m, ModifyStatus.NO_COPY, 1 << self._index)", "pass"))),
    Proof("modify_optimistic_wait", NobodyWaitsForAnOptimisticMove.__doc__, NobodyWaitsForAnOptimisticMove, "bmc", 30, seconds=600, bugs=bugs(
        NobodyWaitsForAnOptimisticMove, keeps_the_line=("(self.optimistic & line.touched)", "0"))),
    Proof("modify_devices_are_heard", DevicesAreHeardWithoutTheLine.__doc__, DevicesAreHeardWithoutTheLine, "bmc", 30, seconds=600, bugs=bugs(
        DevicesAreHeardWithoutTheLine,
        owns_while_it_waits=("with m.If(batch.first.tells & ~self.optimistic):", "with m.If(0):"),
        device_may_ask_again=("self.ats_hold.eq(1)", "self.ats_hold.eq(0)"))),
    Proof("modify_ends", MovesEnd.__doc__, MovesEnd, "cover", 60, seconds=600, bugs=bugs(
        MovesEnd, never_again=("self.optimistic.eq(self._tries != 1)", "self.optimistic.eq(1)"))),
    Proof("modify_old_entries", OldEntriesAreNotAnswered.__doc__, OldEntriesAreNotAnswered, "bmc", 16, seconds=600, fast=True, bugs={
        "redo_forgotten": lambda: OldEntriesAreNotAnswered(planted(Misses, "self._redo.eq(redo)", "self._redo.eq(0)")),
        "answer_kept": lambda: OldEntriesAreNotAnswered(planted(Misses, "with m.If(self.redo):", "with m.If(0):"))}),
]
