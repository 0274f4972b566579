"""How an access of a byte range becomes requests, and how a request is answered (2.2.5, 2.2.7, 2.3.1)."""

from collections.abc import Callable, Iterator
from dataclasses import replace

from .tlp import Kind, Tlp

__all__ = [
    "PAGE", "PIECE_BOUNDARY", "answer", "byte_range", "byte_mask", "completion_cuts", "cut", "expand_byte_enables", "memory_read", "memory_write",
    "pieces", "read_completions", "request_bytes", "without_hints",
]

#: No memory request crosses a boundary of this many bytes (2.2.7).
PAGE = 4096

#: Who cuts a TLP in the middle of its way cuts at multiples of this: the largest Read Completion Boundary (2.3.1.1).
PIECE_BOUNDARY = 128

#: First byte of the prefix with more of a steering tag (2.2.10.4).
_HINT_PREFIX = 0x90

#: Bytes that four byte enables select.
_BYTES_OF = [tuple(lane for lane in range(4) if enables >> lane & 1) for enables in range(16)]


def byte_range(address: int, size: int) -> tuple[int, int, int, int]:
    """Dword address, Length and byte enables (first, last) of the request that covers ``size`` bytes at ``address``.

    Size 0 makes the zero-length request: one dword with no byte enabled (2.2.5).
    """
    if size == 0:
        return address & ~3, 1, 0, 0
    start, end = address & ~3, address + size
    length = (end - start + 3) >> 2
    first = 0xF << (address & 3) & 0xF
    last = 0xF >> (-end & 3)
    return (start, 1, first & last, 0) if length == 1 else (start, length, first, last)


def request_bytes(tlp: Tlp) -> tuple[int, int]:
    """First enabled byte address of a memory request, and bytes from it to the last enabled one, holes counted: the Byte Count of 2.3.1.1.

    0 bytes for a zero-length request. With TH=1 a read has no byte enables and every byte counts.
    """
    if tlp.is_atomic or (tlp.hints and tlp.kind in (Kind.MRD, Kind.MRDLK)):
        return tlp.address, 4 * tlp.length
    first = _BYTES_OF[tlp.first_be]
    if tlp.length == 1:
        return (tlp.address + first[0], first[-1] - first[0] + 1) if first else (tlp.address, 0)
    last = _BYTES_OF[tlp.last_be]
    if not first or not last:
        raise ValueError(f"Byte enables of a request of several dwords must not be 0: {tlp}")
    return tlp.address + first[0], 4 * tlp.length - first[0] - (3 - last[-1])


def expand_byte_enables(tlp: Tlp) -> int | None:
    """Byte enables of a write as one bit a payload byte, or ``None`` when all are set."""
    if tlp.length == 1:
        return None if tlp.first_be == 0xF else tlp.first_be
    if tlp.first_be == 0xF and tlp.last_be == 0xF:
        return None
    size = 4 * tlp.length
    middle = (1 << size - 8) - 1
    return tlp.first_be | middle << 4 | tlp.last_be << size - 4


def byte_mask(enables: int | None, size: int) -> bytes:
    """One byte for each of ``size`` payload bytes: 1 when enabled."""
    if enables is None:
        return b"\1" * size
    return bytes(enables >> index & 1 for index in range(size))


def pieces(address: int, size: int, limit: int) -> Iterator[tuple[int, int]]:
    """Cut a byte range into requests: none crosses a 4 KB boundary, and a cut lies on a multiple of ``limit``, so none is longer."""
    end = address + size
    if size == 0:
        yield address, 0
    while address < end:
        stop = min(end, (address // limit + 1) * limit, (address // PAGE + 1) * PAGE)
        yield address, stop - address
        address = stop


def memory_write(requester_id: int, address: int, data: bytes, tag: int = 0, *, relaxed_ordering: bool = False, id_ordering: bool = False) -> Tlp:
    """Write of ``data`` at a byte address. The range must not cross a 4 KB boundary."""
    if len(data) & 3 == 0 and address & 3 == 0 and data:
        length = len(data) >> 2
        return Tlp(Kind.MWR, requester_id, tag, address, length, 0xF, 0 if length == 1 else 0xF, data, relaxed_ordering, id_ordering)
    start, length, first, last = byte_range(address, len(data))
    padded = bytes(address - start) + data
    return Tlp(Kind.MWR, requester_id, tag, start, length, first, last, padded + bytes(4 * length - len(padded)), relaxed_ordering, id_ordering)


def memory_read(requester_id: int, address: int, size: int, tag: int, *, relaxed_ordering: bool = False, id_ordering: bool = False) -> Tlp:
    """Read of ``size`` bytes at a byte address. The range must not cross a 4 KB boundary; size 0 is the flush."""
    start, length, first, last = byte_range(address, size)
    return Tlp(Kind.MRD, requester_id, tag, start, length, first, last, b"", relaxed_ordering, id_ordering)


def answer(request: Tlp, completer_id: int, status: int = 0, data: bytes = b"", byte_count: int = 4, lower_address: int = 0) -> Tlp:
    """Completion of ``request``: TC, RO and NS are copied, IDO is left clear (2.2.9, 2.2.6.4)."""
    locked = request.kind is Kind.MRDLK
    kind = (Kind.CPLDLK if locked else Kind.CPLD) if data else (Kind.CPLLK if locked else Kind.CPL)
    return Tlp(
        kind, request.requester_id, request.tag, 0, len(data) >> 2, 0, 0, data,
        request.relaxed_ordering, False, request.no_snoop, request.traffic_class,
        completer_id=completer_id, status=status, byte_count=byte_count, lower_address=lower_address,
    )


def completion_cuts(address: int, size: int, rcb: int, mps: int, choose: Callable[[int], int] | None = None) -> list[int]:
    """Byte counts of the completions of a read of ``size`` bytes at ``address``.

    All but the last end on a multiple of ``rcb`` (2.3.1.1) and none carries more than ``mps``. ``choose(n)`` picks how many of the ``n`` possible
    boundaries the next completion goes on to, as 0 to n-1; without it the longest are made.
    """
    cuts = []
    end = address + size
    while True:
        limit = (address & ~3) + mps
        if choose is None or end <= limit:
            stop = end if end <= limit else limit // rcb * rcb
        else:
            stop = limit // rcb * rcb
        if choose is not None:
            first = (address // rcb + 1) * rcb
            options = max(0, (stop - first + rcb - 1) // rcb) + 1
            pick = choose(options) if options > 1 else 0
            stop = min(stop, first + pick * rcb)
        cuts.append(stop - address)
        if stop >= end:
            return cuts
        address = stop


def read_completions(request: Tlp, data: bytes, completer_id: int, rcb: int, mps: int, choose: Callable[[int], int] | None = None) -> list[Tlp]:
    """Completions of a memory read, in address order. ``data`` are the whole dwords that the request covers.

    A zero-length read is answered with one dword and byte count 1, lower address 4-byte aligned.
    """
    start, size = request_bytes(request)
    if size == 0:
        return [answer(request, completer_id, 0, data[:4], 1, start & 0x7C)]
    tlps, remaining, base = [], size, request.address
    for count in completion_cuts(start, size, rcb, mps, choose):
        first, last = start & ~3, start + count + 3 & ~3
        tlps.append(answer(request, completer_id, 0, data[first - base:last - base], remaining, start & 0x7F))
        start += count
        remaining -= count
    return tlps


def cut(tlp: Tlp, limit: int) -> list[Tlp]:
    """``tlp`` as it arrives behind a port through which ``limit`` bytes of payload go: writes and completions that are larger come in pieces, each
    but the last of which ends at the last multiple of :data:`PIECE_BOUNDARY` that it can."""
    size = len(tlp.data)
    if tlp.kind not in (Kind.MWR, Kind.CPLD, Kind.CPLDLK) or size <= limit:
        return [tlp]
    base = tlp.lower_address & ~3 if tlp.is_completion else tlp.address
    mask = byte_mask(expand_byte_enables(tlp), size) if tlp.kind is Kind.MWR else b""
    found, start, counted = list[Tlp](), 0, tlp.byte_count
    while start < size:
        stop = size if size - start <= limit else (base + start + limit) // PIECE_BOUNDARY * PIECE_BOUNDARY - base
        piece = replace(tlp, data=tlp.data[start:stop], length=(stop - start) // 4)
        if tlp.is_completion:
            piece.byte_count = counted
            piece.lower_address = (base + start) % 128 if start else tlp.lower_address
            counted -= stop - start - piece.lower_address % 4
        else:
            first, last = (sum(mask[place + bit] << bit for bit in range(4)) for place in (start, stop - 4))
            piece.address, piece.first_be, piece.last_be = tlp.address + start, first, last if piece.length > 1 else 0
        found.append(piece)
        start = stop
    return found


def without_hints(tlp: Tlp) -> Tlp:
    """``tlp`` with neither TH nor what that brings along (2.2.7.1): a steering tag takes the place of the tag of a write, which means nothing, or of
    the byte enables of a read or AtomicOp, which then are all set."""
    prefix = None if tlp.prefix is not None and tlp.prefix >> 24 == _HINT_PREFIX else tlp.prefix
    if not tlp.hints:
        return replace(tlp, prefix=prefix)
    plain = replace(tlp, prefix=prefix, hints=False, processing_hint=0)
    if tlp.kind is Kind.MWR:
        return replace(plain, tag=tlp.tag & ~0xFF)
    return replace(plain, first_be=0xF, last_be=0xF if tlp.length > 1 else 0)
