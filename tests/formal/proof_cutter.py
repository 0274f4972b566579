"""Claims about the cutter: every double word comes out once, in order, in pieces that a port may send."""

from amaranth.hdl import Assert, Assume, Cover, Elaboratable, Module, Mux, Signal
from rules import any_constant, any_value, held

from pagehop.tlp.cutter import Cutter, cutting_of
from pagehop.tlp.headers import CompletionHeader, Fmt, RequestHeader, TlpType
from pagehop_sim.formal import Proof
from pagehop_sim.planted import edited

WIDTH, PLACE_BITS = 32, 5          # double words of a beat
BOUNDARY, MOST = 32, 64            # of a payload


class Pieces(Elaboratable):
    """Writes, or completions, of any size at any place, with any pauses on both sides. One double word of each is marked: the mark comes out at its
    place and nowhere else. Each piece is as long as its header says and within the limit, begins where the one before it ended, and ends at a
    multiple of 128 bytes or with the whole. The byte enables of a write stand at its ends, and no piece crosses 4 KB; a completion counts what is
    still to come."""
    def __init__(self, cutter=Cutter, completions=False):
        self.cutter, self.completions = cutter, completions

    def elaborate(self, platform):
        m = Module()
        m.submodules.dut = dut = self.cutter(4 * WIDTH, completions=self.completions)
        large = any_constant(m, 1, "large")
        m.d.comb += [
            *(dut.i.payload.cutting[name].eq(value) for name, value in cutting_of(dut.i.payload.beat.header, large).items()),
            dut.o.ready.eq(any_value(m, 1, "ready")), dut.i.valid.eq(any_value(m, 1, "valid")),
        ]
        held(m, dut.i, Assume, "i")
        # All TLPs are of one size and place, and have one double word marked.
        size, marked, place = any_constant(m, range(MOST + 1), "size"), any_constant(m, range(MOST), "marked"), any_constant(m, 10, "place")
        m.d.comb += Assume((size != 0) & (marked < size))
        header = self._completion(m, size, place) if self.completions else self._write(m, size, place)
        self._send(m, dut, header, size, marked)
        self._receive(m, dut, header, Mux(large, MOST, BOUNDARY), size, marked, place)
        return m

    def _write(self, m, size, place):
        header, wide = Signal(RequestHeader()), any_constant(m, 1, "wide")
        enables = any_constant(m, 8, "enables")
        m.d.comb += [
            header.fmt.eq(Mux(wide, Fmt.DW4_DATA.value, Fmt.DW3_DATA.value)), header.type.eq(TlpType.MEMORY), header.length.eq(size),
            header.first_be.eq(enables[:4]), header.last_be.eq(enables[4:]), Assume((enables[4:] == 0) == (size == 1)),
            header.dw2.eq(Mux(wide, 1, place << 2)), header.dw3.eq(Mux(wide, place << 2, 0)), Assume(place + size <= 1024),
        ]
        return header

    def _completion(self, m, size, place):
        header = Signal(CompletionHeader())
        m.d.comb += [
            header.fmt.eq(Fmt.DW3_DATA), header.type.eq(TlpType.COMPLETION), header.length.eq(size),
            header.byte_count.eq(any_constant(m, 12, "count")), header.lower_address.eq(place),
        ]
        return header

    def _send(self, m, dut, header, size, marked):
        beat, sent = dut.i.payload.beat, Signal(range(MOST + 1))
        m.d.comb += [
            beat.first.eq(sent == 0), beat.last.eq(size - sent <= WIDTH), beat.dwords.eq(Mux(beat.last, size - sent, WIDTH)),
            beat.data.eq(Mux(marked[PLACE_BITS:] == sent[PLACE_BITS:], 1 << (marked[:PLACE_BITS] << 5), 0)),
            beat.header.eq(Mux(beat.first, header.as_value(), 0)),
        ]
        with m.If(dut.i.valid & dut.i.ready):
            m.d.sync += sent.eq(Mux(beat.last, 0, sent + WIDTH))

    def _receive(self, m, dut, header, limit, size, marked, place):
        out, got, left = dut.o.payload, Signal(range(MOST + WIDTH + 1)), Signal(range(MOST + 1))   # of the whole; of the piece, after this beat
        fields = RequestHeader()(out.header)
        now, after, inside, cuts = Signal.like(got), Signal.like(got), Signal(), Signal()
        with m.If(dut.o.valid):
            m.d.comb += [
                now.eq(Mux(out.first, fields.length, left)), after.eq(got + out.dwords), cuts.eq(size > limit),
                Assert(out.first == ~inside), Assert(out.dwords == Mux(now < WIDTH, now, WIDTH)), Assert(out.last == (now <= WIDTH)),
                *(Assert((number >= out.dwords) | (out.data.word_select(number, 32) == (got + number == marked))) for number in range(WIDTH)),
            ]
            with m.If(out.first):
                m.d.comb += [Assert((fields.length != 0) & (fields.length <= limit)), Assert(got + fields.length <= size)]
                self._header(m, out.header, header, got, size, place)
            with m.If(out.last & (after != size)):
                ends = ((header.lower_address if self.completions else place << 2)[2:7] + after)[:5]
                m.d.comb += [Assert(cuts), Assert(ends == 0)]
        with m.If(dut.o.valid & dut.o.ready):
            m.d.sync += [inside.eq(~out.last), left.eq(now - WIDTH), got.eq(Mux(after == size, 0, after))]
        self.claim(m, dut, got, size, limit)

    def _header(self, m, shown, header, got, size, place):
        """What the header of a piece says that begins with the double word ``got`` of the whole."""
        if self.completions:
            piece = CompletionHeader()(shown)
            before = Mux(got == 0, 0, (got << 2) - header.lower_address[:2])
            m.d.comb += [
                Assert(piece.byte_count == (header.byte_count - before)[:12]),
                Assert(piece.lower_address == Mux(got == 0, header.lower_address, 0)),
            ]
        else:
            piece = RequestHeader()(shown)
            address = Mux(header.fmt[0], piece.dw3, piece.dw2)
            begins, ends, single = got == 0, got + piece.length == size, piece.length == 1
            last_be = Mux(ends, header.last_be, 0xF)
            m.d.comb += [
                Assert(address == (place + got) << 2), Assert(place + got + piece.length <= 1024),
                Assert(piece.first_be == Mux(begins, header.first_be, Mux(single, last_be, 0xF))),
                Assert(piece.last_be == Mux(single, 0, last_be)),
            ]

    def claim(self, m, dut, got, size, limit):
        """What else is claimed."""


class Cuts(Pieces):
    """Two TLPs that are cut come out, all of each piece."""
    def claim(self, m, dut, got, size, limit):
        amid, count = Signal(), Signal(3)
        m.d.comb += amid.eq(dut.o.valid & dut.o.ready & dut.o.payload.last & (got + dut.o.payload.dwords != size))
        m.d.sync += count.eq(count + amid)
        m.d.comb += Cover((count == 2) & (got == 0) & (size > limit))


def broken(*changes, completions=False):
    """A claim about a cutter with one of its rules left out."""
    return lambda: Pieces(edited(Cutter, *changes), completions)


PROOFS = [
    Proof("cutter_writes", Pieces.__doc__, Pieces, "bmc", 6, seconds=600, bugs={
        "the first piece has the last byte enables": broken(("now.last_be.eq(Mux(single, 0, 0xF))", "now.last_be.eq(whole.last_be)")),
        "all pieces have one address": broken(("kept[name][7:12] + most[5:]", "kept[name][7:12]")),
        "the last beat is taken with the first of its pieces": broken(("~(cuts & beat.last & ~final)", "1")),
    }),
    Proof("cutter_completions", Pieces.__doc__, lambda: Pieces(completions=True), "bmc", 6, seconds=600, bugs={
        "pieces end anywhere": broken(("_place(beat.header)", "Const(0, 5)"), completions=True),
        "the byte count counts what comes before the first byte": broken(
            ("kept.lower_address - (most", "(kept.lower_address & 0x7C) - (most"), completions=True),
        "what follows is not shifted": broken(("Mux(skip.any(), (Cat(", "Mux(0, (Cat("), completions=True),
    }),
    Proof("cutter_cuts", Cuts.__doc__, Cuts, "cover", 16, bugs={
        "never cuts": lambda: Cuts(edited(Cutter, ("known.cut != Cut.NONE", "0"))),
    }),
]
