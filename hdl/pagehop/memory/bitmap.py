"""One bit for each page of the guest window."""

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import data, enum, memory, stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

__all__ = ["Bitmap", "BitmapOp", "BitmapOpKind", "WORD_BITS"]

#: Bits of a word of the bitmap, which is read and taken as a whole.
WORD_BITS = 64


class BitmapOpKind(enum.Enum, shape=2):
    """What an operation does with the bit of its page, or with the word that the bit is in."""
    SET  = 0
    READ = 2
    TAKE = 3


class BitmapOp(data.StructLayout):
    """Operation on a bitmap of ``pages`` pages. For READ and TAKE, ``index`` is any page of the word."""
    def __init__(self, pages):
        super().__init__({"kind": BitmapOpKind, "index": ceil_log2(pages)})


class Bitmap(wiring.Component):
    """A bit a page, in words of 64, all 0 at power-up. A reset does not clear them.

    Takes an operation in every cycle: ``op.ready`` is always 1. Operations take effect in the order in which they are taken, those on the
    same word in following cycles included. The word of a READ or TAKE is on ``word`` two cycles after the cycle of the transfer, with
    ``word_valid`` for that one cycle; a TAKE clears it.

    Parameters
    ----------
    pages : int
        Number of bits, a multiple of 64.

    Members
    -------
    op : stream of :class:`BitmapOp`, in
    word, word_valid : out
    """
    def __init__(self, pages):
        if pages < WORD_BITS or pages % WORD_BITS:
            raise ValueError(f"A bitmap must have a multiple of {WORD_BITS} pages, not {pages!r}")
        self.pages = pages
        super().__init__({"op": In(stream.Signature(BitmapOp(pages))), "word": Out(WORD_BITS), "word_valid": Out(1)})

    def elaborate(self, platform):
        m = Module()
        m.submodules.words = words = memory.Memory(shape=WORD_BITS, depth=self.pages // WORD_BITS, init=[])
        write = words.write_port()
        self._operations(m, write, words.read_port(transparent_for=(write,)))
        return m

    def _operations(self, m, write, read):
        """Read a word in the cycle of the transfer, register it in the next, change and write it in the third."""
        fetch, fetch_valid, fetch_again = Signal(BitmapOp(self.pages)), Signal(), Signal()
        place = Signal.like(fetch.index[6:])
        # Of the operation in its third cycle: the page's bit is where its row and its column cross, and each is decoded a cycle ahead.
        rows, columns, takes, writes = Signal(8), Signal(8), Signal(), Signal()
        changed = Signal(WORD_BITS)
        is_set, is_take = (fetch.kind == kind for kind in (BitmapOpKind.SET, BitmapOpKind.TAKE))
        m.d.comb += [self.op.ready.eq(1), read.addr.eq(self.op.payload.index[6:])]
        m.d.sync += [
            fetch.eq(self.op.payload),
            fetch_valid.eq(self.op.valid),
            fetch_again.eq(fetch_valid & (fetch.index[6:] == self.op.payload.index[6:])),
            place.eq(fetch.index[6:]),
            columns.eq(Cat(fetch.index[:3] == number for number in range(8))),
            rows.eq(Cat(is_set & (fetch.index[3:6] == number) for number in range(8))),
            takes.eq(is_take), writes.eq(fetch_valid & (is_set | is_take)),
            self.word_valid.eq(fetch_valid & ~is_set),
            # What the operation just before this one makes of the same word is not in the memory yet.
            # What the one before that made is: the read port is transparent.
            self.word.eq(Mux(fetch_again, changed, read.data)),
        ]
        m.d.comb += [
            changed.eq(Cat((self.word[bit] | (rows[bit // 8] & columns[bit % 8])) & ~takes for bit in range(WORD_BITS))),
            write.addr.eq(place),
            write.data.eq(changed),
            write.en.eq(writes),
        ]
