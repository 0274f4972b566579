"""Claims about the dirty log: every mark becomes a bit."""

from amaranth.hdl import Assert, Assume, Cover, Elaboratable, Module, Signal
from amaranth.lib import data
from rules import any_constant, any_value, drive

from pagehop.interposer import log_words
from pagehop.interposer.log_settings import LogError
from pagehop.interposer.log_words import LogWords
from pagehop_sim.formal import Proof
from pagehop_sim.planted import edited

#: Words at a time, bits of the numbers of all that there are, and bits of a word, which the solver need not have 64 of.
WORDS, NUMBER_BITS, WORD_BITS = 2, 2, 2


class _Row(data.Struct):
    known:  WORD_BITS
    wanted: WORD_BITS
    asked:  WORD_BITS


class _Request(data.Struct):
    kind:  log_words._Kind
    known: WORD_BITS
    new:   WORD_BITS


def narrow(*changes):
    """The component with short words, and with these changes."""
    return edited(LogWords, *changes, WORD_BITS=WORD_BITS, _Row=_Row, _Request=_Request)


class BitsAreSet(Elaboratable):
    """When the log is idle without an error, each unit that was ever taken has its bit in memory, whatever software does to the other bits and
    whenever the host answers; and no bit is ever cleared."""
    def __init__(self, *changes):
        self.words = narrow(*changes)

    def elaborate(self, platform):
        m = Module()
        m.submodules.dut = dut = self.words(16, WORDS)
        drive(m, dut.i, "marks")
        word, bit = any_constant(m, NUMBER_BITS, "word"), any_constant(m, 1, "bit")
        place, started = dut.i.payload.place, Signal()
        m.d.sync += started.eq(1)
        m.d.comb += [
            dut.enable.eq(started), dut.settings.ping_pong.eq(any_constant(m, 1, "ping_pong")), dut.limit.eq(-1),
            Assume((place.range == 0) & (place.word < 1 << NUMBER_BITS) & (dut.i.payload.bit < WORD_BITS)),
            Assume(~dut.i.payload.pair | ~dut.i.payload.bit[0]),
            dut.o_request.ready.eq(any_value(m, 1, "request_ready")), dut.o_write.ready.eq(any_value(m, 1, "write_ready")),
        ]
        touched = (place.word == word) & ((dut.i.payload.bit == bit) | (dut.i.payload.pair & (dut.i.payload.bit + 1 == bit)))
        # What the memory has in place of the bit that is watched, and whether a mark wants it.
        there, owed = Signal(), Signal()
        with m.If(dut.i.valid & dut.i.ready & started & touched):
            m.d.sync += owed.eq(1)
        with m.Elif(there):
            m.d.sync += owed.eq(0)
        self._host(m, dut, word, bit, there)
        self.claim(m, dut, owed & ~there, touched)
        return m

    def _host(self, m, dut, word, bit, there):
        """Performs requests to one word at a time when it answers them, and writes at once."""
        write, request, beat = dut.o_write, dut.o_request, dut.completion.payload
        asked, ours, swaps, compare, swap, tag = Signal(), Signal(), Signal(), Signal(WORD_BITS), Signal(WORD_BITS), Signal(8)
        value, answers = any_value(m, WORD_BITS, "value"), any_value(m, 1, "answers") & asked
        m.d.comb += Assume(~asked | ~request.ready)
        with m.If(request.valid & request.ready):
            header = request.payload.header
            m.d.sync += [
                asked.eq(1), ours.eq(header[35:35 + NUMBER_BITS] == word), swaps.eq(header[120:125] == 0b01110), tag.eq(header[72:80]),
                compare.eq(request.payload.data), swap.eq(request.payload.data[WORD_BITS:]),
            ]
        m.d.comb += [
            dut.completion.valid.eq(answers), beat.first.eq(1), beat.last.eq(1), beat.data.eq(value),
            # CplD of two double words (2.2.9).
            beat.header.eq(tag << 40 | 0x4A00_0002 << 96),
        ]
        with m.If(answers):
            m.d.sync += asked.eq(0)
            with m.If(ours):
                m.d.comb += Assume(value.bit_select(bit, 1) == there)
                with m.If(swaps & (value == compare)):
                    m.d.sync += there.eq(swap.bit_select(bit, 1))
                    m.d.comb += Assert(swap.bit_select(bit, 1) | ~there)
        with m.If(write.valid & write.ready & (write.payload.header[35:35 + NUMBER_BITS] == word)):
            m.d.sync += there.eq(write.payload.data.bit_select(bit, 1))
            m.d.comb += Assert(write.payload.data.bit_select(bit, 1) | ~there)

    def claim(self, m, dut, missing, touched):
        m.d.comb += [Assert(~(dut.idle & missing)), Assert(dut.error == LogError.NONE)]


class BitsAreSetAtLast(BitsAreSet):
    """Bits of two words, or two times, are asked for and set."""
    def claim(self, m, dut, missing, touched):
        others, ours, requests = Signal(), Signal(), Signal(3)
        with m.If(dut.i.valid & dut.i.ready & dut.enable):
            m.d.sync += [others.eq(others | ~touched), ours.eq(ours | touched)]
        m.d.sync += requests.eq(requests + (dut.o_request.valid & dut.o_request.ready))
        m.d.comb += Cover(dut.idle & ours & others & (requests == 2) & ~dut.settings.ping_pong)


PROOFS = [
    Proof("log_bits_are_set", BitsAreSet.__doc__, BitsAreSet, "bmc", 26, bugs={
        "not asked again": lambda: BitsAreSet(("Mux(swapped, row.asked, value)", "row.asked")),
        "bits that came meanwhile": lambda: BitsAreSet(("row.wanted & ~Mux(swapped, row.asked, value)", "Mux(swapped, 0, row.wanted & ~value)")),
        "idle too early": lambda: BitsAreSet(("~(busy | checks | answered).any()", "~(busy | answered).any()")),
    }),
    Proof("log_bits_are_set_at_last", BitsAreSetAtLast.__doc__, BitsAreSetAtLast, "cover", 46, bugs={
        "nothing is sent": lambda: BitsAreSetAtLast(("with m.If(row.wanted.any()):", "with m.If(0):")),
    }),
]
