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
    """What is kept of the first beat of a TLP."""
    def __init__(self):
        super().__init__({"header": RequestHeader(), "data": 64, "poisoned": 1, "non_posted": 1})


class _Origin(data.StructLayout):
    """What a completion copies from its request (2.2.9)."""
    def __init__(self):
        super().__init__({"requester_id": 16, "tag": 10, "traffic_class": 3, "no_snoop": 1, "relaxed_ordering": 1})


class _Decoded(data.StructLayout):
    """A TLP as it is understood. ``first_be`` and ``last_be`` are those of a memory request; ``operand`` is the size of an atomic's operand, or 4.

    ``inside`` has a bit for each part of the address in which it agrees with the BAR, ``outer`` the number of bytes before the first and after the
    last enabled one.
    """
    def __init__(self, address_bits):
        super().__init__({
            "origin": _Origin(), "non_posted": 1, "write": 1, "read": 1, "memory_read": 1, "locked": 1,
            "address": address_bits, "inside": -(-(64 - address_bits) // _COMPARED_BITS), "length": 10, "data": 64,
            "first_be": 4, "last_be": 4, "outer": 3, "operand": 12,
        })


class _Judged(data.StructLayout):
    """What is done with a TLP: ``write`` or ``read`` on the bus, a ``zero`` answer, or none of these: unsupported."""
    def __init__(self, address_bits):
        super().__init__({
            "origin": _Origin(), "non_posted": 1, "write": 1, "nothing": 1, "read": 1, "zero": 1, "locked": 1,
            "address": address_bits, "double": 1, "strobe": 8, "data": 64, "byte_count": 12, "lower_address": 7,
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
    the bus answers with an error. Dropped whole: every other posted request, and poisoned writes. Each of these gives one pulse on ``unsupported``.
    A zero-length read is answered with one double word of zeros and a write without bytes is done, both without an access on the bus.

    Order between the two streams is the sender's: it hands over one TLP at a time, and a non-posted one only while ``idle_for_read`` is 1. Accesses
    reach the bus in that order, 3 cycles after the TLP was handed over. A posted beat is taken within the time the bus takes to accept a
    write, and never waits for an answer (H24). Beats after the first are taken and mean nothing here.

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
        advance, busy = Signal(), Signal()
        arrived, arrived_valid = self._accept(m, advance, busy)

        decoded, decoded_valid = Signal(_Decoded(self.address_bits)), Signal()
        judged, judged_valid = Signal(_Judged(self.address_bits)), Signal()
        with m.If(advance):
            m.d.sync += [decoded_valid.eq(arrived_valid), judged_valid.eq(decoded_valid)]
            self._decode(m, arrived, decoded)
            self._judge(m, decoded, judged)

        request = self.bus.request
        m.d.comb += [
            request.valid.eq(judged_valid & (judged.write | judged.read)),
            request.payload.address.eq(Cat(Const(0, 3), judged.address[3:])),
            request.payload.write.eq(judged.write),
            request.payload.strobe.eq(judged.strobe),
            request.payload.data.eq(judged.data),
            advance.eq(~request.valid | request.ready),
        ]
        self._answer(m, judged, judged_valid & advance, busy)
        return m

    def _accept(self, m, advance, busy):
        """Take a beat of either stream and keep the first of each TLP."""
        arrived, valid = Signal(_Arrived()), Signal()
        # Set while the beats after the first of a non-posted TLP are still to come.
        tail = Signal()
        beat = Signal(TlpBeat(self.data_bytes))
        non_posted = ~self.posted.valid
        m.d.comb += [
            self.posted.ready.eq(advance),
            self.idle_for_read.eq(~busy & ~tail),
            self.non_posted.ready.eq(advance & non_posted & (~busy | tail)),
            beat.eq(Mux(non_posted, self.non_posted.payload, self.posted.payload)),
        ]
        taken = self.non_posted.valid & self.non_posted.ready
        with m.If(taken):
            m.d.sync += tail.eq(~beat.last)
        with m.If(taken & beat.first):
            m.d.sync += busy.eq(1)
        with m.If(advance):
            m.d.sync += [
                valid.eq((self.posted.valid | taken) & beat.first),
                arrived.header.eq(beat.header), arrived.data.eq(beat.data), arrived.non_posted.eq(non_posted),
                arrived.poisoned.eq(beat.poisoned | data.View(RequestHeader(), beat.header).poisoned),
            ]
        return arrived, valid

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
        m.d.sync += [
            decoded.origin.requester_id.eq(header.requester_id), decoded.origin.tag.eq(headers.tag_of(header)),
            decoded.origin.traffic_class.eq(header.traffic_class),
            decoded.origin.no_snoop.eq(header.no_snoop), decoded.origin.relaxed_ordering.eq(header.relaxed_ordering),
            decoded.non_posted.eq(arrived.non_posted),
            decoded.write.eq((header.type == TlpType.MEMORY.value) & headers.has_data(header) & untranslated & ~arrived.poisoned),
            decoded.read.eq((header.type == TlpType.MEMORY.value) & memory_read & untranslated),
            decoded.memory_read.eq(memory_read & (header.address_type != headers.AddressType.TRANSLATION_REQUEST.value)),
            decoded.locked.eq(header.type == TlpType.MEMORY_LOCKED.value),
            decoded.address.eq(address), decoded.inside.eq(Cat(address[part] == self.base[part] for part in compared)),
            decoded.length.eq(header.length), decoded.data.eq(arrived.data),
            decoded.first_be.eq(Mux(hinted, 0xF, header.first_be)),
            decoded.last_be.eq(Mux(hinted, Mux(single, 0, 0xF), header.last_be)),
            # From the first enabled byte to the last one; in a single double word both are in it (2.3.1.1).
            decoded.outer.eq(Mux(hinted, 0, _lowest(header.first_be) + _unused_above(Mux(single, header.first_be, header.last_be)))),
            decoded.operand.eq(Mux(atomic, operand, 4)),
        ]

    def _judge(self, m, decoded, judged):
        """Decide what is served, and size the answer."""
        first, last, upper = decoded.first_be, decoded.last_be, decoded.address[2]
        single, double = decoded.length == 1, decoded.length == 2
        served = decoded.inside.all() & ((single & (last == 0)) | (double & (last != 0) & (first != 0) & ~upper))
        empty = first == 0
        span = (decoded.length << 2) - decoded.outer
        m.d.sync += [
            judged.origin.eq(decoded.origin), judged.non_posted.eq(decoded.non_posted), judged.locked.eq(decoded.locked),
            judged.write.eq(decoded.write & served & ~empty), judged.nothing.eq(decoded.write & served & empty),
            judged.read.eq(decoded.read & served & ~empty), judged.zero.eq(decoded.read & served & empty),
            judged.address.eq(decoded.address), judged.double.eq(double),
            judged.strobe.eq(Mux(double, Cat(first, last), Mux(upper, Cat(Const(0, 4), first), first))),
            judged.data.eq(Mux(upper, Cat(Const(0, 32), decoded.data[:32]), decoded.data)),
            judged.byte_count.eq(Mux(decoded.memory_read, Mux(single & empty, 1, span), decoded.operand)),
            judged.lower_address.eq(Mux(decoded.memory_read, Cat(_lowest(first)[:2], decoded.address[2:7]), 0)),
        ]

    def _answer(self, m, judged, leaves, busy):
        """Build the completion of the one non-posted request inside, and count what is not supported."""
        answer = Signal(_Judged(self.address_bits))
        ready, success, refused = Signal(), Signal(), Signal()
        word, completer_id = Signal(64), Signal(16)
        dropped = Signal()
        m.d.sync += dropped.eq(leaves & ~judged.non_posted & ~judged.write & ~judged.nothing)
        with m.If(leaves & judged.non_posted):
            m.d.sync += [answer.eq(judged), completer_id.eq(self.completer_id)]
            with m.If(~judged.read):
                m.d.sync += [ready.eq(1), success.eq(judged.zero), refused.eq(~judged.zero), word.eq(0)]
        m.d.comb += self.bus.response.ready.eq(busy & ~ready)
        with m.If(self.bus.response.valid & self.bus.response.ready):
            error, whole = self.bus.response.payload.error, self.bus.response.payload.data
            m.d.sync += [ready.eq(1), success.eq(~error), refused.eq(error), word.eq(Mux(answer.address[2], whole[32:], whole))]

        # A refusal waits for a cycle without a dropped write, so that each has a pulse of its own.
        m.d.comb += self.unsupported.eq(dropped | refused)
        with m.If(refused & ~dropped):
            m.d.sync += refused.eq(0)
        m.d.comb += [self.completion.valid.eq(ready & ~refused), self._completion(answer, completer_id, success, word)]
        with m.If(self.completion.valid & self.completion.ready):
            m.d.sync += [ready.eq(0), busy.eq(0)]

    def _completion(self, answer, completer_id, success, word):
        """Assignments of the one beat of a completion."""
        beat = self.completion.payload
        header = data.View(CompletionHeader(), beat.header)
        length = Mux(success, Mux(answer.double, 2, 1), 0)
        return [
            header.fmt.eq(Mux(success, Fmt.DW3_DATA.value, Fmt.DW3.value)),
            header.type.eq(Mux(answer.locked, TlpType.COMPLETION_LOCKED.value, TlpType.COMPLETION.value)),
            headers.whole_tag(header).eq(answer.origin.tag),
            header.traffic_class.eq(answer.origin.traffic_class), header.requester_id.eq(answer.origin.requester_id),
            header.relaxed_ordering.eq(answer.origin.relaxed_ordering), header.no_snoop.eq(answer.origin.no_snoop),
            header.length.eq(length), header.completer_id.eq(completer_id),
            header.byte_count.eq(answer.byte_count), header.lower_address.eq(answer.lower_address),
            header.status.eq(Mux(success, CompletionStatus.SUCCESS.value, CompletionStatus.UNSUPPORTED_REQUEST.value)),
            beat.first.eq(1), beat.last.eq(1), beat.dwords.eq(length),
            beat.data.eq(Mux(success, Mux(answer.double, word, word[:32]), 0)),
        ]
