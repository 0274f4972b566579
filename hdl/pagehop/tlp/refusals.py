"""Answers in place of a partner that takes no requests (D12)."""

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from pagehop.tlp.fifo import LaneFifo
from pagehop.tlp.headers import CompletionHeader, CompletionStatus, RequestHeader, TlpType, address_of, is_atomic, is_memory, whole_tag

__all__ = ["Refusals", "refusal"]

#: Requests that wait for their answer.
_PLACES = 16

#: Requests that may be discarded before ``room`` tells it: three whose way to the level takes as long as that of ``room`` back, and the next.
_UNDERWAY = 4


def refusal(m, request, completer_id, sizes=None):
    """Header of the answer to this request that says Unsupported Request (2.2.9). ``sizes``: see ``Refusals._bytes``."""
    answer, length = Signal(CompletionHeader()), Cat(request.length, request.length == 0)
    m.d.comb += [
        answer.type.eq(Mux(request.type == TlpType.MEMORY_LOCKED, TlpType.COMPLETION_LOCKED, TlpType.COMPLETION)),
        answer.traffic_class.eq(request.traffic_class), answer.relaxed_ordering.eq(request.relaxed_ordering),
        answer.no_snoop.eq(request.no_snoop), answer.requester_id.eq(request.requester_id), whole_tag(answer).eq(whole_tag(request)),
        answer.completer_id.eq(completer_id), answer.status.eq(CompletionStatus.UNSUPPORTED_REQUEST), answer.byte_count.eq(4),
    ]
    with m.If(is_memory(request)):
        skipped, count = (sizes or Refusals._bytes)(request, length)
        m.d.comb += [answer.byte_count.eq(count), answer.lower_address.eq(Cat(skipped, address_of(request)[2:7]))]
    with m.Elif(is_atomic(request) & (request.type != TlpType.DEFERRED_WRITE)):
        # A compare-and-swap carries two operands and would return one.
        m.d.comb += answer.byte_count.eq(Mux(request.type == TlpType.COMPARE_AND_SWAP, length << 1, length << 2))
    return answer


class Refusals(wiring.Component):
    """Answer each request with one completion that says Unsupported Request, or Completer Abort, in order (2.3.1), as if the partner had.

    The answer needs no credits of the partner, and room for it was reserved before the request was forwarded (D7), so it always comes through. Two
    cycles from ``i`` to ``o``, an answer in two cycles. Requester ID, tag, TC, RO and NS are those of the request; IDO, TH, EP, AT and BCM are 0.
    Byte Count and Lower Address follow 2.2.9; with TH the request has no byte enables, and every byte counts.

    Members
    -------
    i : headers of requests, always ready for who keeps to ``room``: it chooses none in the cycle after ``room`` was 0, and hands each over in the
        cycle after it chose it. aborts : in, with it: the answer says Completer Abort.
    completer_id : of the answers.
    o : completions, which have no data.
    """
    def __init__(self):
        super().__init__({
            "i": In(stream.Signature(RequestHeader())), "aborts": In(1), "room": Out(1), "completer_id": In(16),
            "o": Out(stream.Signature(CompletionHeader())),
        })

    def elaborate(self, platform):
        m = Module()
        m.submodules.fifo = fifo = LaneFifo(data.StructLayout({"request": RequestHeader(), "aborts": 1}), _PLACES, direct=True)
        answer = refusal(m, fifo.o.payload.request, self.completer_id, self._bytes)
        m.d.comb += [
            fifo.i.valid.eq(self.i.valid), self.i.ready.eq(fifo.i.ready), fifo.i.payload.request.eq(self.i.payload),
            fifo.i.payload.aborts.eq(self.aborts),
            # Who takes an answer is known late, and ends at its register.
            fifo.o.ready.eq(~self.o.valid),
        ]
        with m.If(fifo.o.payload.aborts):
            m.d.comb += answer.status.eq(CompletionStatus.COMPLETER_ABORT)
        m.d.sync += self.o.valid.eq(Mux(self.o.valid, ~self.o.ready, fifo.o.valid))
        with m.If(~self.o.valid):
            m.d.sync += self.o.payload.eq(answer)
        m.d.sync += self.room.eq(fifo.level <= _PLACES - _UNDERWAY)
        return m

    @staticmethod
    def _bytes(fields, length):
        """Bytes before the first enabled one in its double word, and from the first to the last enabled one (table 2-37)."""
        single = length == 1
        first = Mux(fields.hints, 0xF, fields.first_be)
        last = Mux(single, first, Mux(fields.hints, 0xF, fields.last_be))
        before = Mux(first[0], 0, Mux(first[1], 1, Mux(first[2], 2, 3)))
        after = Mux(last[3], 0, Mux(last[2], 1, Mux(last[1], 2, 3)))
        nothing = single & (first == 0)
        return Mux(nothing, 0, before), Mux(nothing, 1, (length << 2) - before - after)
