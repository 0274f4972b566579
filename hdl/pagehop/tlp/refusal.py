"""The answer to a request that is not supported."""

from amaranth.hdl import Cat, Mux
from amaranth.lib import data

from pagehop.tlp import headers
from pagehop.tlp.headers import CompletionHeader, CompletionStatus, Fmt, RequestHeader, TlpType

__all__ = ["lowest", "refuse", "unused_above"]


def lowest(enables):
    """Number of the lowest enabled byte of a double word, 0 when there is none."""
    return Mux(enables[0], 0, Mux(enables[1], 1, Mux(enables[2], 2, Mux(enables[3], 3, 0))))


def unused_above(enables):
    """Bytes above the highest enabled one, 0 when there is none."""
    return Mux(enables[3], 0, Mux(enables[2], 1, Mux(enables[1], 2, Mux(enables[0], 3, 0))))


def refuse(answer, header, completer_id):
    """Assignments that make ``answer`` the header of the completion with UR of a memory or atomic request (2.2.9).

    TC, RO and NS are the request's. Byte count and lower address are those of the bytes that a read enables, 4 and 0 for an atomic without.
    """
    request, answer = data.View(RequestHeader(), header), data.View(CompletionHeader(), answer)
    reads = headers.is_memory(header)
    single, address = request.length == 1, headers.address_of(header)
    # With TH the byte enables of a read carry the steering tag, and every byte counts as enabled (2.2.7.1).
    outer = Mux(request.hints, 0, lowest(request.first_be) + unused_above(Mux(single, request.first_be, request.last_be)))
    empty = single & ~request.first_be.any() & ~request.hints
    operand = Mux(request.type == TlpType.COMPARE_AND_SWAP.value, request.length << 1, request.length << 2)
    atomic = Mux(request.type == TlpType.DEFERRED_WRITE.value, 4, operand)
    return [
        answer.fmt.eq(Fmt.DW3), answer.type.eq(Mux(request.type == TlpType.MEMORY_LOCKED.value, TlpType.COMPLETION_LOCKED, TlpType.COMPLETION)),
        headers.whole_tag(answer).eq(headers.whole_tag(request)), answer.requester_id.eq(request.requester_id),
        answer.traffic_class.eq(request.traffic_class), answer.relaxed_ordering.eq(request.relaxed_ordering), answer.no_snoop.eq(request.no_snoop),
        answer.completer_id.eq(completer_id), answer.status.eq(CompletionStatus.UNSUPPORTED_REQUEST),
        answer.byte_count.eq(Mux(reads, Mux(empty, 1, (request.length << 2) - outer), atomic)),
        answer.lower_address.eq(Mux(reads, Cat(Mux(request.hints, 0, lowest(request.first_be))[:2], address[2:7]), 0)),
    ]
