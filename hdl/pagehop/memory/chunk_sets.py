"""Which chunks of a page are where, while the page is copied."""

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import enum, stream, wiring
from amaranth.lib.wiring import In, Out

from pagehop.tlp.arbiter import lowest, select_one

__all__ = ["ChunkSets", "CopySet"]


class CopySet(enum.Enum, shape=2):
    """Chunks that a copy is to read: the whole page, none yet, or those whose bytes here are not those of the source."""
    ALL   = 0
    NONE  = 1
    STALE = 2


class ChunkSets(wiring.Component):
    """Keep, a bit a chunk, what has been read, what must be read again, and what must be written; choose what is written next.

    A chunk is *wanted* when it belongs to the reads that were prepared last, *covered* when it ever did since ``prepare`` with a set that is not
    STALE.
    It is written when it has come whole, and again whenever somebody wrote to it later. It is *stale*, to be read again, when an atomic went to the
    source, or when somebody wrote to it and it was not covered, so that the rest of it is not known here.

    ``o`` offers the lowest chunk that is to be written, two cycles after the cause, a chunk that has just come whole one cycle after it. A chunk that
    is offered counts as written: what is written to it from then on makes it due again.

    Members
    -------
    prepare, prepare_set : in; pulse, :class:`CopySet`
    whole, whole_chunk : in, this chunk has come
    wrote, wrote_chunks : in, bytes of each of these two chunks were changed by a write
    atomic, atomic_chunk : in, an atomic went to the source
    wanted : out. ``fetched``: all that is wanted has come. ``stale``: something must be read again
    o : stream of chunk numbers, out
    idle : out, nothing is due
    """
    def __init__(self, chunks):
        self.chunks = chunks
        chunk = range(chunks)
        super().__init__({
            "prepare": In(1), "prepare_set": In(CopySet), "whole": In(1), "whole_chunk": In(chunk),
            "wrote": In(2), "wrote_chunks": In(chunk).array(2), "atomic": In(1), "atomic_chunk": In(chunk),
            "wanted": Out(chunks, init=-1), "fetched": Out(1), "stale": Out(1), "o": Out(stream.Signature(chunk)), "idle": Out(1),
        })

    def elaborate(self, platform):
        m = Module()
        everything = (1 << self.chunks) - 1
        covered, resident, due, stale = (Signal(self.chunks, name=name) for name in ("covered", "resident", "due", "stale"))
        came, changed, lost, first = (Signal(self.chunks, name=name) for name in ("came", "changed", "lost", "first"))
        free = Signal()
        m.d.comb += [
            came.eq(self.whole << self.whole_chunk),
            changed.eq((self.wrote[0] << self.wrote_chunks[0]) | (self.wrote[1] << self.wrote_chunks[1])),
            lost.eq((changed & ~covered) | (self.atomic << self.atomic_chunk)),
            first.eq(lowest(due)), free.eq(~self.o.valid | self.o.ready),
            self.fetched.eq(~(self.wanted & ~resident).any()), self.stale.eq(stale.any()), self.idle.eq(~due.any() & ~self.o.valid),
        ]
        again = Mux(self.prepare_set == CopySet.STALE, stale | lost, Mux(self.prepare_set == CopySet.ALL, everything, 0))[:self.chunks]
        m.d.sync += stale.eq(stale | lost)
        with m.If(free):
            m.d.sync += [
                self.o.valid.eq(due.any() | self.whole),
                self.o.payload.eq(Mux(due.any(), select_one(first, range(self.chunks)), self.whole_chunk)),
            ]
        # What has come while something else is due waits for its turn; what has come while nothing is goes out at once.
        m.d.sync += due.eq((due & ~Mux(free, first, 0)) | Mux(free & ~due.any(), 0, came) | (changed & resident))
        m.d.sync += resident.eq(resident | came)
        with m.If(self.prepare):
            m.d.sync += [self.wanted.eq(again), resident.eq((resident | came) & ~again), stale.eq(0), covered.eq(covered | again)]
            with m.If(self.prepare_set != CopySet.STALE):
                m.d.sync += [covered.eq(again), resident.eq(0), due.eq(0), self.o.valid.eq(0)]
        return m
