"""Reading the descriptors of a ring in a host's memory."""

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import data, memory, stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import exact_log2

from pagehop.interposer.descriptors import DESCRIPTOR_BYTES, INDEX_BITS, MoveDescriptor, ring_address
from pagehop.tlp import headers
from pagehop.tlp.flush import flush_tag
from pagehop.tlp.headers import CompletionHeader, CompletionStatus, Fmt
from pagehop.tlp.stream import TlpBeat

__all__ = ["DescriptorReader"]

#: Descriptors that are on their way, or wait to be used. The answer to one comes in one piece, for it does not cross 64 bytes.
DEPTH = 4

#: Bits of a descriptor that are kept, in words that are written by themselves.
KEPT_BITS, WORD_BITS = 192, 64

#: Flush reads use 16 of the 64 tags that their kind of tag has (docs/interposer.md, "Tags of ours").
FIRST_TAG = 32


class DescriptorReader(wiring.Component):
    """Read descriptors 0, 1, 2 … of the ring, up to the one before ``tail``, and offer them in this order.

    Up to four are read ahead, each with a read of 32 bytes, one read every third cycle. A descriptor is offered three cycles after the last beat
    of its answer, if none is before it. A read that is answered with anything but its 32 bytes, or not for ``limit`` cycles, is an error: nothing is
    read or offered after it.

    While ``enable`` is 0 nothing is read or offered. Once it was 0 while ``idle``, the next 1 begins with descriptor 0 again, and with another
    generation of tags, so that a late answer to a read that was given up is not taken for a descriptor.

    Parameters
    ----------
    data_bytes : beat width.

    Members
    -------
    enable, base, order, tail : from the registers; the ring has 2 to the power of ``order`` descriptors and stands on a multiple of 32 bytes.
    host, requester_id, limit : of the reads.
    o_read : stream of one-beat reads, out. ``completion`` : stream, in, always ready; only what has a tag of ours counts.
    o : descriptors, out; ``index``: the number of the one that is offered.
    idle : out, no read is unanswered or about to be offered. ``error``: out.
    """
    def __init__(self, data_bytes=64):
        self.data_bytes = data_bytes
        beat = stream.Signature(TlpBeat(data_bytes))
        super().__init__({
            "enable": In(1), "base": In(64), "order": In(4), "tail": In(INDEX_BITS), "host": In(1), "requester_id": In(16), "limit": In(32),
            "o_read": Out(beat), "completion": In(beat), "o": Out(stream.Signature(MoveDescriptor)), "index": Out(INDEX_BITS),
            "idle": Out(1), "error": Out(1),
        })

    def elaborate(self, platform):
        m = Module()
        m.submodules.kept = kept = memory.Memory(shape=KEPT_BITS, depth=DEPTH, init=[])
        waits, there, generation = Signal(DEPTH), Signal(DEPTH), Signal()
        asked, answered, bad, late = Signal(DEPTH), Signal(DEPTH), Signal(), Signal()
        taken, works, begun, begins = Signal(DEPTH), Signal(), Signal(), Signal()
        m.d.comb += [works.eq(self.enable & begun & ~self.error), begins.eq(self.enable & ~begun), self.completion.ready.eq(1)]
        m.d.sync += [
            waits.eq(Mux(late, 0, waits & ~answered) | asked),
            there.eq(Mux(works, (there & ~taken) | answered, 0)),
            self.error.eq(self.enable & (self.error | bad | late)),
        ]
        with m.If(~self.enable & self.idle):
            m.d.sync += begun.eq(0)
        with m.If(begins):
            m.d.sync += [begun.eq(1), generation.eq(~generation), self.index.eq(0)]
        m.d.comb += self.idle.eq(~waits.any() & self._read(m, works, begins, waits | there, asked, generation))
        self._answer(m, kept, waits, generation, answered, bad)
        self._time(m, waits, asked, answered, late)
        self._offer(m, kept.read_port(), works, there, taken)
        return m

    def _tag(self, generation, place):
        return flush_tag(self.host, FIRST_TAG) | generation << exact_log2(DEPTH) | place

    def _read(self, m, works, begins, used, asked, generation):
        """Address, header, offer: three cycles a read. Returns whether none is being made."""
        index, address, place = Signal(INDEX_BITS), Signal(64), Signal(exact_log2(DEPTH))
        plain = headers.plain_request(m, False, DESCRIPTOR_BYTES // 4, self.requester_id)
        m.d.comb += [
            place.eq(index), plain.tag.eq(self._tag(generation, place)),
            self.o_read.payload.first.eq(1), self.o_read.payload.last.eq(1),
        ]
        with m.FSM() as steps:
            with m.State("Address"):
                m.d.sync += address.eq(ring_address(self.base, index, self.order, DESCRIPTOR_BYTES))
                with m.If(works & (index != self.tail) & ~used.bit_select(place, 1)):
                    m.next = "Header"
            with m.State("Header"):
                m.d.sync += self.o_read.payload.header.eq(headers.with_address(plain, address))
                m.next = "Offer"
            with m.State("Offer"):
                m.d.comb += self.o_read.valid.eq(1)
                with m.If(self.o_read.ready):
                    m.d.comb += asked.eq(1 << place)
                    m.d.sync += index.eq(index + 1)
                    m.next = "Address"
        with m.If(begins):
            m.d.sync += index.eq(0)
        return steps.ongoing("Address")

    def _answer(self, m, kept, waits, generation, answered, bad):
        """Keep what a completion brings; the first of two beats has less than a whole descriptor when beats have 16 bytes."""
        beat, header = self.completion.payload, data.View(CompletionHeader(), self.completion.payload.header)
        place, ours, good, shown = Signal(exact_log2(DEPTH)), Signal(), Signal(), Signal()
        inside, place_q, good_q = Signal(), Signal.like(place), Signal()
        number = header.tag[:exact_log2(DEPTH)]
        m.d.comb += [
            ours.eq(beat.first & (header.tag == self._tag(generation, number)) & waits.bit_select(number, 1)),
            shown.eq((header.status == CompletionStatus.SUCCESS.value) & (header.fmt == Fmt.DW3_DATA.value)
                     & (header.length == DESCRIPTOR_BYTES // 4)),
            place.eq(Mux(beat.first, header.tag, place_q)), good.eq(Mux(beat.first, shown, good_q) & ~headers.is_damaged(beat)),
        ]
        counts = self.completion.valid & (ours | inside)
        m.d.comb += [bad.eq(counts & beat.last & ~good), answered.eq(Mux(counts & beat.last, 1 << place, 0))]
        with m.If(self.completion.valid):
            m.d.sync += [inside.eq((ours | inside) & ~beat.last), place_q.eq(place), good_q.eq(good)]
        write = kept.write_port(granularity=WORD_BITS)
        command = beat.data[128:192] if self.data_bytes > 16 else beat.data[:64]
        m.d.comb += [
            write.addr.eq(place), write.data.eq(Cat(beat.data[:128], command)),
            write.en.eq(Mux(counts, 0b111 if self.data_bytes > 16 else Mux(beat.first, 0b011, 0b100), 0)),
        ]

    def _time(self, m, waits, asked, answered, late):
        """Give up when none of the reads is answered for ``limit`` cycles."""
        timer = Signal(32)
        m.d.sync += [timer.eq(timer + 1), late.eq(waits.any() & (timer >= self.limit))]
        with m.If(~waits.any() | asked.any() | answered.any() | late):
            m.d.sync += [timer.eq(0), late.eq(0)]

    def _offer(self, m, read, works, there, taken):
        """Show the next descriptor; its memory is read in the cycle before it is offered."""
        head = self.index[:exact_log2(DEPTH)]
        shown = Signal()
        m.d.comb += [
            read.addr.eq(head), self.o.payload.eq(read.data), self.o.valid.eq(shown & works),
            taken.eq(Mux(self.o.valid & self.o.ready, 1 << head, 0)),
        ]
        m.d.sync += shown.eq(there.bit_select(head, 1) & ~taken.any())
        with m.If(taken.any()):
            m.d.sync += self.index.eq(self.index + 1)
