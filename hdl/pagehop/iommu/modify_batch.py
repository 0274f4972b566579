"""Moves of pages as software writes them, gathered by cachelines of their entries."""

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import data, enum, memory, stream, wiring
from amaranth.lib.wiring import In, Out

from pagehop.iommu.commands import COMMAND_BITS, Modify, ModifyPages, Opcode
from pagehop.iommu.layouts import PAGE_BITS, PPN_BITS
from pagehop.iommu.tilelink import LINE_BEATS, SIZE_LINE, SIZE_WORD

__all__ = ["Move", "ModifyBatch", "ModifyStatus", "Rejected"]

_INDEX = range(LINE_BEATS)


class ModifyStatus(enum.Enum, shape=4):
    """What became of a move. But for MOVED the entry is as it was, and so is the page that it leads to."""
    NONE      = 0
    MOVED     = 1     # the entry leads to the new page, whose content is the old one's
    MISMATCH  = 2     # the entry is no leaf, or leads to another page than the one that was expected
    NOT_FOUND = 3     # there is no way to an entry
    TOO_LARGE = 4     # the entry is that of more than 4 KiB
    MISPLACED = 5     # not in the same line as the first one of its batch, or there twice
    UNTOLD    = 6     # a device did not say in time that it has forgotten the page
    NO_COPY   = 7     # the page could not be copied
    NO_LINE   = 8     # memory refused the line of the entry
    EXPIRED   = 9     # the line could not be held long enough
    UNDRAINED = 10    # accesses by the old translation did not end in time
    HALF      = 11    # the second half of a move without the first


class Move(data.Struct):
    """What is kept of a move: its pages, and where its record is to be."""
    old:      PPN_BITS
    new:      PPN_BITS
    bare:     1
    recorded: 1
    record:   16


class Rejected(data.Struct):
    """A move that no batch takes."""
    status:   ModifyStatus
    recorded: 1
    record:   16


class ModifyBatch(wiring.Component):
    """Gather moves of entries in one line, up to eight, in the places of their entries.

    A batch is ``complete`` when a move does not say ``more``, or when 2 to the power of ``gather_bits`` cycles have gone by without another one: a
    fence that stands behind waits for no longer. What holds for all of it is taken from the first. A move of another line, or of an entry that is
    there already, is rejected alone (H35), and so is a second half without a first; a first half without a second is forgotten. Nothing else is
    taken until ``done``.

    Members
    -------
    command : stream of commands, MODIFY and MODIFY_PAGES. pending : 1 while there is a move
    complete, done : a batch is there; it is finished with
    first, there : first half of the first move; which entries of the line are moved
    index, move : combinational
    rejected : stream
    """
    def __init__(self, gather_bits=10):
        if gather_bits not in range(4, 33):
            raise ValueError(f"Moves must be waited for 2 to the power of 4 to 32 cycles, not of {gather_bits!r}")
        self.gather_bits = gather_bits
        super().__init__({
            "command": In(stream.Signature(COMMAND_BITS)), "pending": Out(1), "complete": Out(1), "done": In(1),
            "first": Out(Modify), "there": Out(LINE_BEATS), "index": In(_INDEX), "move": Out(Move), "rejected": Out(stream.Signature(Rejected)),
        })

    def elaborate(self, platform):
        m = Module()
        command, move, second, half = self.command, Signal(Modify), Signal(ModifyPages), Signal()
        taken, ends, timer, status = data.View(Modify, command.payload), Signal(), Signal(self.gather_bits), Signal(ModifyStatus)
        place = Mux(move.function[0], move.address[SIZE_WORD:], move.address[PAGE_BITS:])[:len(self.index)]
        m.submodules.moves = moves = memory.Memory(shape=Move, depth=LINE_BEATS, init=[])
        write, read = moves.write_port(), moves.read_port(domain="comb")
        m.d.comb += [
            read.addr.eq(self.index), self.move.eq(read.data), write.addr.eq(place),
            write.data.old.eq(second.old), write.data.new.eq(second.new), write.data.bare.eq(move.bare),
            write.data.recorded.eq(second.recorded), write.data.record.eq(second.record),
            self.rejected.payload.status.eq(status), self.rejected.payload.recorded.eq(second.recorded),
            self.rejected.payload.record.eq(second.record),
        ]
        with m.FSM() as fsm:
            with m.State("gather"):
                m.d.comb += command.ready.eq(1)
                m.d.sync += timer.eq(Mux(self.there.any(), timer + 1, 0))
                with m.If(command.valid & (taken.opcode == Opcode.MODIFY)):
                    m.d.sync += [move.eq(taken), half.eq(1)]
                with m.Elif(command.valid):
                    m.d.sync += second.eq(taken)
                    m.next = "place"
                with m.Elif(timer.all()):
                    m.next = "complete"
            with m.State("place"):
                m.d.sync += [half.eq(0), ends.eq(half & ~move.more), timer.eq(0), status.eq(Mux(half, ModifyStatus.MISPLACED, ModifyStatus.HALF))]
                with m.If(half & (~self.there.any() | (self._is_near(move) & ~self.there.bit_select(place, 1)))):
                    m.d.comb += write.en.eq(1)
                    m.d.sync += self.there.bit_select(place, 1).eq(1)
                    with m.If(~self.there.any()):
                        m.d.sync += self.first.eq(move)
                    m.next = "placed"
                with m.Else():
                    m.next = "reject"
            with m.State("reject"):
                m.d.comb += self.rejected.valid.eq(1)
                with m.If(self.rejected.ready):
                    m.next = "placed"
            with m.State("placed"):
                m.next = "gather"
                with m.If(self.there.any() & (ends | self.there.all())):
                    m.next = "complete"
            with m.State("complete"):
                m.d.comb += self.complete.eq(1)
                with m.If(self.done):
                    m.d.sync += self.there.eq(0)
                    m.next = "gather"
        m.d.comb += self.pending.eq(self.there.any() | ~fsm.ongoing("gather"))
        return m

    def _is_near(self, move):
        """1 when the entry of ``move`` is in the line of the first: entries of eight pages in a row are."""
        first = self.first
        by_entry = first.address[SIZE_LINE:] == move.address[SIZE_LINE:]
        by_page = (first.device_id == move.device_id) & (first.address[PAGE_BITS + 3:] == move.address[PAGE_BITS + 3:])
        return (first.function[0] == move.function[0]) & Mux(move.function[0], by_entry, by_page)
