"""The walk of the device directory."""

from amaranth.hdl import Cat, Const, Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from pagehop.iommu.layouts import DEVICE_BITS, PPN_BITS, Cause, Context, DeviceContext, DirectoryMode, TableMode
from pagehop.iommu.tilelink import SIZE_WORD, MemoryPort, OpA

__all__ = ["Directory", "DirectoryWalk", "is_too_wide"]

#: Bits of a device's number that find its context in a table, and base-2 logarithm of the bytes of a context.
LEAF_BITS, SIZE_CONTEXT = 7, 5


def is_too_wide(device_id, mode):
    """1 when a directory of this mode has no place for the device."""
    return Mux(mode == DirectoryMode.TWO_LEVEL, device_id[16:].any(), (mode == DirectoryMode.ONE_LEVEL) & device_id[LEAF_BITS:].any())


class Directory(data.Struct):
    """``ddtp``: where the directory is, and how deep."""
    mode: DirectoryMode
    ppn:  PPN_BITS


class _Entry(data.Struct):
    """An entry of the directory that leads to a table of contexts."""
    valid:    1
    low:      9
    ppn:      PPN_BITS
    high:     10


class DirectoryWalk(wiring.Component):
    """Read the context of a device from a directory of one or two levels, and check it (sections 3.1.3, 3.1.4).

    ``device_id`` is kept valid and stable until ``ready``, which is 1 for one cycle, with the ``context`` or the ``cause`` why there is none. With
    a memory that answers after L cycles, a burst in a beat a cycle, a walk of one level takes L + 6 cycles and one of two 2 L + 7, the first and the
    last included.

    Parameters
    ----------
    ats, updates : whether contexts may enable ATS, and hardware setting of A and D. root_bits : of the second stage, see :class:`EntryFormat`.

    Members
    -------
    directory : in. device_id : stream, in. context, cause : out. begun : out, a pulse: the directory is read
    memory : reads of 8 and 32 bytes, one at a time
    """
    def __init__(self, *, ats=True, updates=True, root_bits=2):
        self.ats, self.updates, self.root_bits = ats, updates, root_bits
        super().__init__({
            "directory": In(Directory), "device_id": In(stream.Signature(DEVICE_BITS)), "context": Out(Context), "cause": Out(Cause),
            "begun": Out(1), "memory": Out(MemoryPort()),
        })

    def elaborate(self, platform):
        m = Module()
        device, ask, answer = self.device_id.payload, self.memory.a.payload, self.memory.d.payload
        table, beat, cause, entry = Signal(PPN_BITS), Signal(2), Signal(Cause), data.View(_Entry, answer.data)
        self._kept, asks_table, wide = Signal(Context), Signal(), is_too_wide(device, self.directory.mode)
        m.d.comb += [
            self.memory.d.ready.eq(1), ask.opcode.eq(OpA.GET), ask.mask.eq(~0),
            ask.size.eq(Mux(asks_table, SIZE_WORD, SIZE_CONTEXT)),
            ask.address.eq(Cat(Mux(asks_table, Cat(Const(0, 3), device[LEAF_BITS:16]), Cat(Const(0, SIZE_CONTEXT), device[:LEAF_BITS])), table)),
            self.cause.eq(cause), self.context.eq(self._kept),
        ]
        with m.FSM():
            with m.State("idle"), m.If(self.device_id.valid):
                m.d.sync += [table.eq(self.directory.ppn), cause.eq(Cause.NONE), beat.eq(0)]
                m.next = "context"
                with m.If(self.directory.mode == DirectoryMode.TWO_LEVEL):
                    m.next = "table"
                m.d.comb += self.begun.eq(~wide)
                with m.If(wide):
                    m.d.sync += cause.eq(Cause.TYPE_DISALLOWED)
                    m.next = "done"
            with m.State("table"):
                m.d.comb += [asks_table.eq(1), self.memory.a.valid.eq(1)]
                with m.If(self.memory.a.ready):
                    m.next = "entry"
            with m.State("entry"), m.If(self.memory.d.valid):
                m.d.sync += table.eq(entry.ppn)
                m.next = "context"
                failure = self._failure(answer, ~entry.valid, entry.low.any() | entry.high.any())
                with m.If(failure != Cause.NONE):
                    m.d.sync += cause.eq(failure)
                    m.next = "done"
            with m.State("context"):
                m.d.comb += self.memory.a.valid.eq(1)
                with m.If(self.memory.a.ready):
                    m.next = "words"
            with m.State("words"), m.If(self.memory.d.valid):
                m.d.sync += beat.eq(beat + 1)
                self._word(m, beat, answer, cause)
                with m.If(beat == 3):
                    m.next = "done"
            with m.State("done"):
                m.d.comb += self.device_id.ready.eq(1)
                m.next = "idle"
        return m

    @staticmethod
    def _failure(answer, invalid, wrong):
        return Mux(answer.denied, Cause.DIRECTORY_ACCESS_FAULT, Mux(answer.corrupt, Cause.DIRECTORY_CORRUPTED, Mux(
            invalid, Cause.DIRECTORY_NOT_VALID, Mux(wrong, Cause.DIRECTORY_MISCONFIGURED, Cause.NONE))))

    def _word(self, m, beat, answer, cause):
        """Take a word of the context. The first thing that is wrong counts, but a context that is not valid may hold anything."""
        word, kept = data.View(DeviceContext, answer.data.replicate(4)), self._kept
        pdtv, wrong = Signal(), Signal()
        with m.Switch(beat):
            with m.Case(0):
                tc = word.tc
                m.d.sync += [pdtv.eq(tc.pdtv), *(kept[name].eq(tc[name]) for name in ("ats", "pri", "prpr", "dtf", "gade", "sade"))]
                m.d.comb += wrong.eq(
                    tc.t2gpa | tc.sbe | tc.sxl | tc.reserved.any() | (tc.pri & ~tc.ats) | (tc.prpr & ~tc.pri) | (tc.dpe & ~tc.pdtv)
                    | (tc.ats if not self.ats else 0) | (tc.gade | tc.sade if not self.updates else 0))
            with m.Case(1):
                root, stage, bad = word.iohgatp, *self._mode(word.iohgatp.mode)
                m.d.sync += [kept.second.eq(stage), kept.second_deep.eq(stage & root.mode[0]), kept.second_root.eq(root.ppn),
                             kept.gscid.eq(Mux(stage, root.id, 0))]
                m.d.comb += wrong.eq(bad | (stage & root.ppn[:self.root_bits].any()))
            with m.Case(2):
                m.d.sync += kept.pscid.eq(word.ta.pscid)
                m.d.comb += wrong.eq(word.ta.low.any() | word.ta.high.any())
            with m.Case(3):
                root, stage, bad = word.fsc, *self._mode(word.fsc.mode)
                m.d.sync += [kept.first.eq(stage), kept.first_deep.eq(stage & root.mode[0]), kept.first_root.eq(root.ppn),
                             kept.pscid.eq(Mux(stage, kept.pscid, 0))]
                # There are no process contexts, so a directory of them can only be absent.
                m.d.comb += wrong.eq(bad | root.id.any() | (pdtv & stage))
        with m.If(cause == Cause.NONE):
            m.d.sync += cause.eq(self._failure(answer, (beat == 0) & ~word.tc.valid, wrong))

    @staticmethod
    def _mode(mode):
        """Whether a root's mode says that there is a stage, and whether it is one that is not supported."""
        mode = mode.as_value() if hasattr(mode, "as_value") else mode
        stage = mode != TableMode.BARE.value
        return stage, stage & (mode != TableMode.SV39.value) & (mode != TableMode.SV48.value)
