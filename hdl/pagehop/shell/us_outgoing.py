"""From beats to a stream of the UltraScale+ block: the descriptor in front of the payload."""

from amaranth.hdl import Cat, Module, Mux, Signal, Value
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from pagehop.shell.us_descriptors import DWORDS, AxiStream

__all__ = ["Departing", "Outgoing"]


class Departing(data.StructLayout):
    """A beat with its payload from byte 0, and beside the first of a TLP its descriptor; byte enables and sequence number for RQ."""
    def __init__(self):
        super().__init__({
            "data": 32 * DWORDS, "descriptor": 128, "dwords": 5, "first": 1, "last": 1, "poisoned": 1,
            "first_be": 4, "last_be": 4, "sequence": 6,
        })


class Outgoing(wiring.Component):
    """Put the descriptor in front of the payload, which so moves up by 3 or 4 double words (PG213, dword-aligned mode), without straddling.

    One beat a cycle, one more for a TLP whose last double words no longer fit; 1 cycle. ``tvalid`` stays during a TLP, as the block asks, when the
    beats of a TLP come without gaps.

    Parameters
    ----------
    user : layout of ``tuser``.
    descriptor : double words of the descriptor: 4 on RQ, 3 on CC.

    Members
    -------
    i : beats.
    axis : the stream. A TLP found damaged after its first beat is discontinued.
    """
    def __init__(self, user, descriptor):
        if descriptor not in (3, 4):
            raise ValueError(f"A descriptor must have 3 or 4 double words, not {descriptor!r}")
        self.user, self.descriptor = user, descriptor
        super().__init__({"i": In(stream.Signature(Departing())), "axis": Out(AxiStream(user))})

    def elaborate(self, platform):
        m = Module()
        beat, axis, size = self.i.payload, self.axis, self.descriptor
        carry, rest = Signal(32 * size), Signal(3)       # double words that had no place in the beat, and how many of them there are
        more, said, late = Signal(), Signal(), Signal()  # only they are to come; the descriptor says that the TLP is poisoned; it is found out late
        overflow, ends, end = Signal(), Signal(), Signal(4)
        free = ~axis.tvalid | axis.tready
        moved = Cat(Mux(beat.first & ~more, beat.descriptor[:32 * size], carry), Value.cast(beat.data)[:32 * (DWORDS - size)])
        m.d.comb += [
            overflow.eq(beat.dwords > DWORDS - size), ends.eq(more | (beat.last & ~overflow)),
            end.eq(Mux(more, rest - 1, beat.dwords + size - 1)), self.i.ready.eq(free & ~more),
            late.eq(beat.poisoned & ~beat.first & ~said),
        ]
        with m.If(free):
            user = axis.tuser
            m.d.sync += [
                axis.tvalid.eq(self.i.valid | more), axis.tdata.eq(moved), axis.tlast.eq(ends),
                axis.tkeep.eq(Cat((end >= place) | ~ends for place in range(DWORDS))),
                user.sop.eq(beat.first & ~more), user.eop.eq(ends), user.eop_at[0].eq(Mux(ends, end, 0)),
                user.discontinue.eq(Mux(more, user.discontinue, late)), more.eq(self.i.valid & ~more & beat.last & overflow),
            ]
            with m.If(~more):
                m.d.sync += [
                    carry.eq(Value.cast(beat.data)[32 * (DWORDS - size):]), rest.eq(beat.dwords - (DWORDS - size)),
                ]
                with m.If(self.i.valid & beat.first):
                    m.d.sync += said.eq(beat.poisoned)
            if "sequence" in self.user.members:
                m.d.sync += [user.first_be[0].eq(beat.first_be), user.last_be[0].eq(beat.last_be), user.sequence[0].eq(beat.sequence)]
        return m
