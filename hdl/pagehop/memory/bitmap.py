"""One bit for each page of the guest window."""

from amaranth.hdl import Const, Module, Mux, Signal
from amaranth.lib import data, enum, memory, stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

__all__ = ["Bitmap", "BitmapLookup", "BitmapOp", "BitmapOpKind", "WORD_BITS"]

#: Bits of a word of the bitmap, which is read and taken as a whole.
WORD_BITS = 64


class BitmapOpKind(enum.Enum, shape=2):
    """What an operation does with the bit of its page, or with the word that the bit is in."""
    SET   = 0
    CLEAR = 1
    READ  = 2
    TAKE  = 3


class BitmapOp(data.StructLayout):
    """Operation on a bitmap of ``pages`` pages. For READ and TAKE, ``index`` is any page of the word."""
    def __init__(self, pages):
        super().__init__({"kind": BitmapOpKind, "index": ceil_log2(pages)})


class BitmapLookup(wiring.Signature):
    """Port that looks at single bits: ``index`` is sampled with ``enable``, ``bit`` is valid in the next cycle
    and stays until the next ``enable``.
    """
    def __init__(self, pages):
        super().__init__({"index": Out(ceil_log2(pages)), "enable": Out(1), "bit": In(1)})


class Bitmap(wiring.Component):
    """A bit a page, in words of 64, all 0 at power-up. A reset does not clear them.

    Takes an operation in every cycle: ``op.ready`` is always 1. Operations take effect in the order in which they are taken, those on the
    same word in following cycles included. The word of a READ or TAKE is on ``word`` two cycles after the cycle of the transfer, with
    ``word_valid`` for that one cycle; a TAKE clears it. A lookup sees an operation if it is sampled three or more cycles after the
    cycle of its transfer, and never before; a ``bit`` already shown does not change. Each has a memory of its own, one bit wide, that a TAKE does
    not clear: a bitmap with lookups is not taken from.

    Parameters
    ----------
    pages : int
        Number of bits, a multiple of 64.
    lookups : int
        Number of lookup ports.

    Members
    -------
    op : stream of :class:`BitmapOp`, in
    word, word_valid : out
    lookup : array of :class:`BitmapLookup`, in
    """
    def __init__(self, pages, lookups=0):
        if pages < WORD_BITS or pages % WORD_BITS:
            raise ValueError(f"A bitmap must have a multiple of {WORD_BITS} pages, not {pages!r}")
        if lookups < 0:
            raise ValueError(f"Number of lookup ports must not be negative, not {lookups!r}")
        self.pages = pages
        self.lookups = lookups
        super().__init__({
            "op": In(stream.Signature(BitmapOp(pages))),
            "word": Out(WORD_BITS), "word_valid": Out(1),
            "lookup": In(BitmapLookup(pages)).array(lookups),
        })

    def elaborate(self, platform):
        m = Module()
        m.submodules.words = words = memory.Memory(shape=WORD_BITS, depth=self.pages // WORD_BITS, init=[])
        write = words.write_port()
        self._operations(m, write, words.read_port(transparent_for=(write,)))
        for number, lookup in enumerate(self.lookup):
            m.submodules[f"bits_{number}"] = bits = memory.Memory(shape=1, depth=self.pages, init=[])
            self._lookup(m, lookup, bits)
        return m

    def _operations(self, m, write, read):
        """Read a word in the cycle of the transfer, register it in the next, change and write it in the third."""
        fetch, fetch_valid, fetch_again = Signal(BitmapOp(self.pages)), Signal(), Signal()
        self._change, self._changes = change, change_valid = Signal(BitmapOp(self.pages), name="change"), Signal(name="change_valid")
        changed = Signal(WORD_BITS)
        mask = Const(1, WORD_BITS) << change.index[:6]
        m.d.comb += [self.op.ready.eq(1), read.addr.eq(self.op.payload.index[6:])]
        m.d.sync += [
            fetch.eq(self.op.payload),
            fetch_valid.eq(self.op.valid),
            fetch_again.eq(fetch_valid & (fetch.index[6:] == self.op.payload.index[6:])),
            change.eq(fetch),
            change_valid.eq(fetch_valid),
            # What the operation just before this one makes of the same word is not in the memory yet.
            # What the one before that made is: the read port is transparent.
            self.word.eq(Mux(fetch_again, changed, read.data)),
        ]
        with m.Switch(change.kind):
            with m.Case(BitmapOpKind.SET):
                m.d.comb += changed.eq(self.word | mask)
            with m.Case(BitmapOpKind.CLEAR):
                m.d.comb += changed.eq(self.word & ~mask)
            with m.Case(BitmapOpKind.READ):
                m.d.comb += changed.eq(self.word)
        m.d.comb += [
            self.word_valid.eq(change_valid & ((change.kind == BitmapOpKind.READ) | (change.kind == BitmapOpKind.TAKE))),
            write.addr.eq(change.index[6:]),
            write.data.eq(changed),
            write.en.eq(change_valid & (change.kind != BitmapOpKind.READ)),
        ]

    def _lookup(self, m, lookup, bits):
        """Change the bit when its word is changed; to pick it from the word would take too long behind a memory."""
        write, read = bits.write_port(), bits.read_port()
        kind = self._change.kind
        m.d.comb += [
            write.addr.eq(self._change.index), write.data.eq(kind == BitmapOpKind.SET),
            write.en.eq(self._changes & ((kind == BitmapOpKind.SET) | (kind == BitmapOpKind.CLEAR))),
            read.addr.eq(lookup.index), read.en.eq(lookup.enable), lookup.bit.eq(read.data),
        ]
