"""From a stream of the UltraScale+ block to beats: descriptor beside payload, payload from byte 0."""

from amaranth.hdl import Cat, Module, Mux, Signal, Value
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from pagehop.shell.us_descriptors import DWORDS, AxiStream
from pagehop.tlp.fifo import LaneFifo

__all__ = ["Aligned", "Incoming"]

#: Double word at which the second TLP of a beat begins.
_MIDDLE = DWORDS // 2


class Aligned(data.StructLayout):
    """A beat of a TLP as :class:`TlpBeat` has it, with the descriptor, and with the byte enables of CQ, where the header will be."""
    def __init__(self):
        super().__init__({
            "data": 32 * DWORDS, "descriptor": 128, "first_be": 4, "last_be": 4, "dwords": 5, "first": 1, "last": 1, "poisoned": 1,
        })


class _Taken(data.StructLayout):
    """What is kept of a beat of the stream. ``high`` and ``high_ends`` are those of a TLP that begins in the middle."""
    def __init__(self):
        super().__init__({
            "data": 32 * DWORDS, "low": 1, "high": 1, "ends": 2, "ends_at": data.ArrayLayout(4, 2), "discontinue": 1,
            "first_be": data.ArrayLayout(4, 2), "last_be": data.ArrayLayout(4, 2),
        })


class _Piece(data.StructLayout):
    """What a beat of the stream has of one TLP, its double words turned so that the payload begins at the first.

    ``high``: the TLP began in the middle of a beat. ``ends_at``: double word of the stream's beat with which it ends, where it does.
    """
    def __init__(self):
        super().__init__({
            "data": 32 * DWORDS, "first": 1, "last": 1, "high": 1, "ends_at": 4, "discontinue": 1, "first_be": 4, "last_be": 4,
        })


class _Pair(data.StructLayout):
    """A piece, and with ``two`` the first one of the next TLP, which begins in the middle, as it stands there.

    Nothing is left then of the TLP before.
    """
    def __init__(self):
        super().__init__({"piece": _Piece(), "two": 1, "data": 16 * DWORDS, "last": 1, "ends_at": 4, "first_be": 4, "last_be": 4})


class Incoming(wiring.Component):
    """Take TLPs off CQ or RC and turn each so that its payload begins at byte 0 and its descriptor stands beside it.

    One beat of the stream a cycle, or two cycles for one of which two beats come out. Four cycles from ``tvalid``
    to ``o``, counted from the last beat of the stream that it shows something of. ``o`` cannot wait: while ``room`` is 0 none is begun, and at most
    :attr:`Incoming.BEATS` still come.
    A TLP that the block discontinues is poisoned from the beat on in which that is known.

    Parameters
    ----------
    user : layout of ``tuser``.
    descriptor : double words of the descriptor: 4 on CQ, 3 on RC.
    straddle : the block may let a second TLP begin in the middle of a beat.

    Members
    -------
    axis : the stream. ``tkeep`` and ``tlast`` are not looked at: the side band says where TLPs begin and end, straddled or not.
    room : in.
    o_valid, o : beats.
    began : TLPs that have begun on the stream, modulo 128.
    """
    #: Beats that may still come out after ``room`` has become 0.
    BEATS = 3

    def __init__(self, user, descriptor, *, straddle=False):
        if descriptor not in (3, 4):
            raise ValueError(f"A descriptor must have 3 or 4 double words, not {descriptor!r}")
        self.user, self.descriptor, self.straddle = user, descriptor, straddle
        super().__init__({
            "axis": In(AxiStream(user)), "room": In(1), "o_valid": Out(1), "o": Out(Aligned()), "began": Out(7),
        })

    def elaborate(self, platform):
        m = Module()
        taken, valid, leaves = self._take(m)
        newer, newer_valid = self._split(m, taken, valid, leaves)
        self._join(m, newer, newer_valid)
        return m

    def _take(self, m):
        """A few beats of the stream, so that ``tready`` waits for nothing behind."""
        m.submodules.taken = fifo = LaneFifo(_Taken(), 4, direct=True)
        axis, item = self.axis, fifo.i.payload
        user = axis.tuser
        high = Cat(user.sop[place] & user.sop_at[place][1] for place in range(2)) if self.straddle else Cat(0, 0)
        began = Signal(2)
        m.d.comb += [
            fifo.i.valid.eq(axis.tvalid), axis.tready.eq(fifo.i.ready),
            item.data.eq(axis.tdata), item.low.eq(user.sop[0] & ~high[0]), item.high.eq(high.any()), item.discontinue.eq(user.discontinue),
            item.ends.eq(user.eop), *(item.ends_at[place].eq(user.eop_at[place]) for place in range(2)),
        ]
        if "first_be" in self.user.members:
            # Those of the TLP in the middle are the second ones, unless it is the only one that begins here.
            for name in ("first_be", "last_be"):
                m.d.comb += [item[name][0].eq(user[name][0]), item[name][1].eq(Mux(high[0], user[name][0], user[name][1]))]
        with m.If(axis.tvalid & axis.tready):
            m.d.comb += began.eq(user.sop[0] + (user.sop[1] if self.straddle else 0))
        m.d.sync += self.began.eq(self.began + began)
        leaves = Signal()
        m.d.comb += fifo.o.ready.eq(leaves)
        return fifo.o.payload, fifo.o.valid, leaves

    def _split(self, m, taken, valid, leaves):
        """One piece a cycle: of the TLP that goes on or begins at the first double word, then of the one that begins in the middle. Both at the same
        time when all that is left of the first belongs to a beat that has begun before."""
        pair, pair_valid = Signal(_Pair()), Signal()
        piece = pair.piece
        amid, amid_high, second = Signal(), Signal(), Signal()   # in the middle of a TLP, which began in the middle; its turn has come
        low, begins_high, last, two, waits = Signal(), Signal(), Signal(), Signal(), Signal()
        go = valid & self.room
        high = begins_high | (low & amid & amid_high)
        m.d.comb += [
            low.eq((taken.low | amid) & ~second), begins_high.eq(taken.high & ~low),
            # The first that ends here is the one that is there first.
            last.eq(Mux(low | ~second, taken.ends[0], taken.ends[1])),
            two.eq(taken.high & amid & (amid_high | (taken.ends_at[0] < self.descriptor))),
            waits.eq(low & taken.high & ~two), leaves.eq(go & ~waits),
        ]
        turns = [self._turned(taken.data, self.descriptor + offset) for offset in (0, _MIDDLE)]
        m.d.sync += pair_valid.eq(go & (low | taken.high))
        with m.If(go):
            m.d.sync += [second.eq(waits), amid.eq(~Mux(two, taken.ends[1], last)), amid_high.eq(high | two)]
        m.d.sync += [
            piece.data.eq(Mux(high, turns[1], turns[0]) if self.straddle else turns[0]),
            piece.first.eq(~(low & amid)), piece.last.eq(last), piece.high.eq(high), piece.ends_at.eq(taken.ends_at[second]),
            piece.discontinue.eq(taken.discontinue),
            piece.first_be.eq(taken.first_be[begins_high]), piece.last_be.eq(taken.last_be[begins_high]),
            pair.two.eq(two), pair.data.eq(taken.data[32 * _MIDDLE:]), pair.last.eq(taken.ends[1]), pair.ends_at.eq(taken.ends_at[1]),
            pair.first_be.eq(taken.first_be[1]), pair.last_be.eq(taken.last_be[1]),
        ]
        return pair, pair_valid

    @staticmethod
    def _turned(value, dwords):
        """The double words of a beat, turned down by so many."""
        return Cat(value[32 * dwords:], value[:32 * dwords])

    def _next(self, pair):
        """What is joined next: the one piece, or the second one."""
        kept, where = pair.piece, self.descriptor + _MIDDLE
        second = Cat(pair.data[32 * self.descriptor:], kept.data[32 * (DWORDS - where):32 * (DWORDS - self.descriptor)],
                     pair.data[:32 * self.descriptor])
        chosen = {
            "data": second, "first": 1, "last": pair.last, "high": 1, "ends_at": pair.ends_at, "first_be": pair.first_be, "last_be": pair.last_be,
        }
        return {name: Mux(pair.two, chosen.get(name, value), value) for name, value in ((name, kept[name]) for name, _ in _Piece())}

    def _join(self, m, pair, newer_valid):
        """A beat is what a piece has from its payload on, and what the next piece of the same TLP has before that place."""
        newer, older, older_valid = pair.piece, Signal(_Piece()), Signal()
        coming = Signal(_Piece())
        m.d.comb += [coming[name].eq(value) for name, value in self._next(pair).items()]
        # Double words from where the payload begins in a beat up to the end of the TLP; and whether the piece before takes in all that is left.
        rest, fits = Signal(5), Signal()
        base, coming_base = (self.descriptor + Mux(piece.high, _MIDDLE, 0) for piece in (newer, coming))
        m.d.comb += fits.eq(newer.last & (newer.ends_at < base))
        joins = ~older.last
        emits, whole = Signal(), Signal(5)   # the older piece has a beat of its own to give
        goes = older_valid & (older.last | newer_valid)
        m.d.comb += whole.eq(Mux(older.last, rest, Mux(fits, newer.ends_at + 1 + DWORDS - base, DWORDS)))
        with m.If(goes | ~older_valid):
            m.d.sync += [
                older.eq(coming), older_valid.eq(newer_valid), rest.eq(coming.ends_at + 1 - coming_base), emits.eq(coming.first | ~fits),
            ]
        kept = DWORDS - self.descriptor - Mux(older.high, _MIDDLE, 0)
        m.d.sync += [
            self.o_valid.eq(goes & emits),
            *(self.o.data[32 * place:32 * place + 32].eq(
                Mux(joins & (place >= kept), newer.data[32 * place:32 * place + 32], older.data[32 * place:32 * place + 32]))
              for place in range(DWORDS)),
            self.o.descriptor.eq(Value.cast(older.data)[32 * (DWORDS - self.descriptor):]),
            self.o.first_be.eq(older.first_be), self.o.last_be.eq(older.last_be),
            self.o.dwords.eq(whole), self.o.first.eq(older.first), self.o.last.eq(older.last | fits),
            self.o.poisoned.eq(older.discontinue | (newer.discontinue & joins)),
        ]
