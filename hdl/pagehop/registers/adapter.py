"""A register bus as a BAR."""

from amaranth.hdl import Cat, Const, Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from pagehop.registers.bus import RegisterBus
from pagehop.tlp import headers
from pagehop.tlp.headers import CompletionHeader, CompletionStatus, Fmt, RequestHeader, TlpType
from pagehop.tlp.stream import TlpBeat, check_data_bytes

__all__ = ["TlpRegisterAdapter"]

#: Address bits compared with the BAR in one piece; the pieces are joined a cycle later.
_COMPARED_BITS = 12


class _Arrived(data.StructLayout):
    """What is kept of the first beat of a TLP, until it has been served or handed to the answer."""
    def __init__(self):
        super().__init__({"header": RequestHeader(), "data": 64, "poisoned": 1, "non_posted": 1})


class _Decoded(data.StructLayout):
    """A TLP as it is understood. ``first_be`` and ``last_be`` are those of a memory request; ``operand`` is the size of a read, or of an
    atomic's operand, or 4.

    ``inside`` has a bit for each part of the address in which it agrees with the BAR, ``outer`` the number of bytes of a read before the first and
    after the last enabled one.
    """
    def __init__(self, address_bits):
        super().__init__({
            "write": 1, "read": 1, "memory_read": 1, "address": address_bits, "inside": -(-(64 - address_bits) // _COMPARED_BITS),
            "single": 1, "double": 1, "first_be": 4, "last_be": 4, "outer": 3, "operand": 12,
        })


class _Judged(data.StructLayout):
    """What is done with a TLP: ``write`` or ``read`` on the bus, a ``zero`` answer, or none of these: unsupported."""
    def __init__(self):
        super().__init__({
            "write": 1, "nothing": 1, "read": 1, "zero": 1, "strobe": 8, "byte_count": 12, "lower_address": 7,
        })


class _Answer(data.StructLayout):
    """What a completion says, and what it copies from its request (2.2.9). ``upper``: the read is of the upper half of a word."""
    def __init__(self):
        super().__init__({
            "requester_id": 16, "tag": 10, "traffic_class": 3, "no_snoop": 1, "relaxed_ordering": 1, "completer_id": 16,
            "locked": 1, "double": 1, "upper": 1, "byte_count": 12, "lower_address": 7,
        })


def _lowest(enables):
    """Number of the lowest enabled byte of a double word, 0 when there is none."""
    return Mux(enables[0], 0, Mux(enables[1], 1, Mux(enables[2], 2, Mux(enables[3], 3, 0))))


def _unused_above(enables):
    """Bytes above the highest enabled one, 0 when there is none."""
    return Mux(enables[3], 0, Mux(enables[2], 1, Mux(enables[1], 2, Mux(enables[0], 3, 0))))


class TlpRegisterAdapter(wiring.Component):
    """Serve a register bus as the BAR at ``base``: memory reads and writes of 4 bytes, and of 8 bytes that are 8-aligned, with any byte enables.

    Answered with UR: every other non-posted request (longer, elsewhere, locked, I/O, configuration, atomic, malformed, with AT not 0) and reads that
    the bus answers with an error. Dropped whole: every other posted request, and writes that are poisoned or came with a wrong
    digest. Each of these gives one pulse on ``unsupported``.
    A zero-length read is answered with one double word of zeros and a write without bytes is done, both without an access on the bus.

    Order between the two streams is the sender's: it hands over one TLP at a time, and a non-posted one only while ``idle_for_read`` is 1. Accesses
    reach the bus in that order, 3 cycles after the TLP was handed over. One TLP is looked at at a time, so a beat waits at most 3 cycles and the time
    the bus takes to accept a write; it never waits for an answer (H24). Beats after the first are taken and mean nothing here.

    A completion copies requester ID, 10-bit tag, TC, RO and NS; IDO, TD, EP, TH and AT are 0 (2.2.9).

    Parameters
    ----------
    data_bytes
        Beat width.
    address_bits
        Base-2 logarithm of the size of the BAR, that of the register bus.

    Members
    -------
    posted, non_posted : ``In(stream.Signature(TlpBeat(data_bytes)))``
    idle_for_read : ``Out(1)``
        The buffer for an answer is free. It falls in the cycle after the first beat of a non-posted TLP.
    completion : ``Out(stream.Signature(TlpBeat(data_bytes)))``
        One beat each.
    completer_id : ``In(16)``
    base : ``In(64)``
        Address of the BAR; bits below ``address_bits`` are ignored.
    bus : ``Out(RegisterBus(address_bits))``
    unsupported : ``Out(1)``
    """
    def __init__(self, data_bytes=64, address_bits=18):
        check_data_bytes(data_bytes)
        self.data_bytes = data_bytes
        self.address_bits = address_bits
        beats = stream.Signature(TlpBeat(data_bytes))
        super().__init__({
            "posted": In(beats), "non_posted": In(beats), "idle_for_read": Out(1),
            "completion": Out(beats), "completer_id": In(16), "base": In(64),
            "bus": Out(RegisterBus(address_bits)), "unsupported": Out(1),
        })

    def elaborate(self, platform):
        m = Module()
        # In which of its three cycles the TLP is. It stays where it arrived, and only what was found out moves on.
        arrived_valid, decoded_valid, judged_valid, busy = Signal(), Signal(), Signal(), Signal()
        arrived = self._accept(m, ~(arrived_valid | decoded_valid | judged_valid), arrived_valid, busy)
        decoded, judged = Signal(_Decoded(self.address_bits)), Signal(_Judged())
        self._decode(m, arrived, decoded)
        self._judge(m, decoded, judged)

        request, leaves = self.bus.request, Signal()
        m.d.comb += [
            request.valid.eq(judged_valid & (judged.write | judged.read)),
            request.payload.address.eq(Cat(Const(0, 3), decoded.address[3:])),
            request.payload.write.eq(judged.write),
            request.payload.strobe.eq(judged.strobe),
            request.payload.data.eq(self._word(decoded, arrived.data)),
            leaves.eq(judged_valid & (~request.valid | request.ready)),
        ]
        m.d.sync += [decoded_valid.eq(arrived_valid), judged_valid.eq(decoded_valid | (judged_valid & ~leaves))]
        self._answer(m, arrived, decoded, judged, leaves, busy)
        return m

    def _accept(self, m, free, valid, busy):
        """Take a beat of either stream and keep the first of each TLP."""
        arrived = Signal(_Arrived())
        # Set while the beats after the first of a non-posted TLP are still to come.
        tail = Signal()
        beat = Signal(TlpBeat(self.data_bytes))
        non_posted = ~self.posted.valid
        m.d.comb += [
            self.posted.ready.eq(free),
            self.idle_for_read.eq(~busy & ~tail),
            self.non_posted.ready.eq(free & non_posted & (~busy | tail)),
            beat.eq(Mux(non_posted, self.non_posted.payload, self.posted.payload)),
        ]
        taken = self.non_posted.valid & self.non_posted.ready
        with m.If(taken):
            m.d.sync += tail.eq(~beat.last)
        with m.If(taken & beat.first):
            m.d.sync += busy.eq(1)
        m.d.sync += valid.eq(free & (self.posted.valid | taken) & beat.first)
        with m.If(free):
            m.d.sync += [
                arrived.header.eq(beat.header), arrived.data.eq(beat.data), arrived.non_posted.eq(non_posted),
                arrived.poisoned.eq(headers.is_damaged(beat)),
            ]
        return arrived

    def _decode(self, m, arrived, decoded):
        """Take a header apart."""
        header = arrived.header
        single = header.length == 1
        untranslated = header.address_type == 0
        memory_read = headers.is_memory(header) & ~headers.has_data(header)
        # With TH the byte enables of a read carry the steering tag, and every byte counts as enabled (2.2.7.1).
        hinted = header.hints & memory_read
        atomic = headers.is_atomic(header) & (header.type != TlpType.DEFERRED_WRITE.value)
        address = headers.address_of(header)
        compared = [slice(low, min(low + _COMPARED_BITS, 64)) for low in range(self.address_bits, 64, _COMPARED_BITS)]
        operand = Mux(header.type == TlpType.COMPARE_AND_SWAP.value, header.length << 1, header.length << 2)
        sized = memory_read & (header.address_type != headers.AddressType.TRANSLATION_REQUEST.value)
        m.d.sync += [
            decoded.write.eq((header.type == TlpType.MEMORY.value) & headers.has_data(header) & untranslated & ~arrived.poisoned),
            decoded.read.eq((header.type == TlpType.MEMORY.value) & memory_read & untranslated),
            decoded.memory_read.eq(sized),
            decoded.address.eq(address), decoded.inside.eq(Cat(address[part] == self.base[part] for part in compared)),
            decoded.single.eq(single), decoded.double.eq(header.length == 2),
            decoded.first_be.eq(Mux(hinted, 0xF, header.first_be)),
            decoded.last_be.eq(Mux(hinted, Mux(single, 0, 0xF), header.last_be)),
            # From the first enabled byte to the last one; in a single double word both are in it (2.3.1.1).
            decoded.outer.eq(Mux(hinted | ~sized, 0, _lowest(header.first_be) + _unused_above(Mux(single, header.first_be, header.last_be)))),
            decoded.operand.eq(Mux(sized, header.length << 2, Mux(atomic, operand, 4))),
        ]

    def _judge(self, m, decoded, judged):
        """Decide what is served, and size the answer."""
        first, last, upper = decoded.first_be, decoded.last_be, decoded.address[2]
        single, double = decoded.single, decoded.double
        served = decoded.inside.all() & ((single & (last == 0)) | (double & (last != 0) & (first != 0) & ~upper))
        empty = first == 0
        m.d.sync += [
            judged.write.eq(decoded.write & served & ~empty), judged.nothing.eq(decoded.write & served & empty),
            judged.read.eq(decoded.read & served & ~empty), judged.zero.eq(decoded.read & served & empty),
            judged.strobe.eq(Mux(double, Cat(first, last), Mux(upper, Cat(Const(0, 4), first), first))),
            judged.byte_count.eq(Mux(decoded.memory_read & single & empty, 1, decoded.operand - decoded.outer)),
            judged.lower_address.eq(Mux(decoded.memory_read, Cat(_lowest(first)[:2], decoded.address[2:7]), 0)),
        ]

    @staticmethod
    def _word(decoded, value):
        """The data as they stand in the word; the strobes say which of it counts."""
        return Cat(value[:32], Mux(decoded.address[2], value[:32], value[32:]))

    def _answer(self, m, arrived, decoded, judged, leaves, busy):
        """Build the completion of the one non-posted request inside, and count what is not supported."""
        answer, header = Signal(_Answer()), arrived.header
        # The answer is known: of zeros, or a refusal. The bus has been asked, and its answer stays there until the completion leaves.
        ready, success, asked, refused, dropped = Signal(), Signal(), Signal(), Signal(), Signal()
        response = self.bus.response
        m.d.sync += dropped.eq(leaves & ~arrived.non_posted & ~judged.write & ~judged.nothing)
        with m.If(leaves & arrived.non_posted):
            m.d.sync += [
                answer.requester_id.eq(header.requester_id), answer.tag.eq(headers.tag_of(header)), answer.traffic_class.eq(header.traffic_class),
                answer.no_snoop.eq(header.no_snoop), answer.relaxed_ordering.eq(header.relaxed_ordering), answer.completer_id.eq(self.completer_id),
                answer.locked.eq(header.type == TlpType.MEMORY_LOCKED.value), answer.double.eq(decoded.double), answer.upper.eq(decoded.address[2]),
                answer.byte_count.eq(judged.byte_count), answer.lower_address.eq(judged.lower_address),
                asked.eq(judged.read), ready.eq(~judged.read), success.eq(judged.zero), refused.eq(~judged.read & ~judged.zero),
            ]
        with m.If(asked & response.valid):
            m.d.sync += [asked.eq(0), ready.eq(1), success.eq(~response.payload.error), refused.eq(response.payload.error)]

        # A refusal waits for a cycle without a dropped write, so that each has a pulse of its own.
        m.d.comb += self.unsupported.eq(dropped | refused)
        with m.If(refused & ~dropped):
            m.d.sync += refused.eq(0)
        leaves_answer = self.completion.valid & self.completion.ready
        # Only a read that was asked of the bus finds an answer there.
        m.d.comb += [
            self.completion.valid.eq(ready & ~refused), response.ready.eq(leaves_answer),
            self._completion(answer, success, Mux(response.valid, response.payload.data, 0)),
        ]
        with m.If(leaves_answer):
            m.d.sync += [ready.eq(0), busy.eq(0)]

    def _completion(self, answer, success, word):
        """Assignments of the one beat of a completion."""
        beat = self.completion.payload
        header = data.View(CompletionHeader(), beat.header)
        length = Mux(success, Mux(answer.double, 2, 1), 0)
        return [
            header.fmt.eq(Mux(success, Fmt.DW3_DATA.value, Fmt.DW3.value)),
            header.type.eq(Mux(answer.locked, TlpType.COMPLETION_LOCKED.value, TlpType.COMPLETION.value)),
            headers.whole_tag(header).eq(answer.tag),
            header.traffic_class.eq(answer.traffic_class), header.requester_id.eq(answer.requester_id),
            header.relaxed_ordering.eq(answer.relaxed_ordering), header.no_snoop.eq(answer.no_snoop),
            header.length.eq(length), header.completer_id.eq(answer.completer_id),
            header.byte_count.eq(answer.byte_count), header.lower_address.eq(answer.lower_address),
            header.status.eq(Mux(success, CompletionStatus.SUCCESS.value, CompletionStatus.UNSUPPORTED_REQUEST.value)),
            beat.first.eq(1), beat.last.eq(1), beat.dwords.eq(length),
            beat.data.eq(Cat(Mux(answer.upper, word[32:], word[:32]), Mux(answer.double, word[32:], 0)) & success.replicate(64)),
        ]
