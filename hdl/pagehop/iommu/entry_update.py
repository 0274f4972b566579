"""Compare-and-set of one entry of a table."""

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from pagehop.iommu.layouts import EntryUpdateRequest, EntryUpdateStatus
from pagehop.iommu.line_owner import LineEnd, LinePort
from pagehop.tlp.compare import pieces_equal

__all__ = ["EntryUpdate"]


class EntryUpdate(wiring.Component):
    """Write an entry if it is still the expected one, whole; how hardware sets A and D (H34).

    The line of the entry is owned, compared, edited and given back in its first cycle here: nobody is kept waiting, and it is not lost before. When
    ``updated`` tells, what was written is what everybody sees, so an access that needs it may go. TileLink has no compare-and-swap.

    With the L and L' of :class:`LineOwner`, 19 + L + L' cycles from the first of ``update`` to that of ``updated``, both included, when the entry is
    WRITTEN, 12 + L + L' when it has CHANGED. One at a time: ``update`` is taken in the cycle before ``updated``, and kept nowhere until then.

    Members
    -------
    update, updated : requests, and what became of each.
    line : to a :class:`LineOwner`.
    """
    update: In(stream.Signature(EntryUpdateRequest))
    updated: Out(stream.Signature(EntryUpdateStatus))
    line: Out(LinePort())

    def elaborate(self, platform):
        m = Module()
        request, line = self.update.payload, self.line
        words = len(line.index)
        pieces, same = pieces_equal(line.entry, request.expected), Signal()
        equal = Signal(len(pieces))
        m.d.comb += [
            line.acquire.payload.eq(request.address[words:]), line.index.eq(request.address[:words]), line.value.eq(request.value),
            line.edit.eq(same), line.release.eq(1),
        ]
        # The line stands there a cycle before it is owned, which is in time to be compared.
        m.d.sync += equal.eq(pieces)
        m.d.comb += same.eq(equal.all())
        with m.FSM():
            with m.State("idle"):
                m.d.comb += line.acquire.valid.eq(self.update.valid)
                with m.If(self.update.valid & line.acquire.ready):
                    m.next = "acquired"
            with m.State("acquired"):
                with m.If(line.owned):
                    m.d.sync += self.updated.payload.eq(Mux(same, EntryUpdateStatus.WRITTEN, EntryUpdateStatus.CHANGED))
                with m.If(line.ended):
                    m.d.comb += self.update.ready.eq(1)
                    m.next = "updated"
                with m.If(line.ended & (line.end == LineEnd.FAILED)):
                    m.d.sync += self.updated.payload.eq(EntryUpdateStatus.ERROR)
            with m.State("updated"):
                m.d.comb += self.updated.valid.eq(1)
                with m.If(self.updated.ready):
                    m.next = "idle"
        return m
