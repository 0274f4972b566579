"""Random TLPs of every kind that may pass a port, well-formed by the rules of the specification."""

from collections.abc import Callable
from random import Random

from pagehop_tb.protocol import Kind, Tlp, answer, byte_range, read_completions

__all__ = ["MPS", "RandomRequests", "random_answer"]

MPS = 256
PASID, HINT = 0x91 << 24, 0x90 << 24


class RandomRequests:
    """Makes requests of one side of a link. ``address()`` picks a dword-aligned place, ``ids`` are the requester IDs of that side.

    ``upstream`` requests are those of a device (memory, atomics, messages to the root), others those of a host (memory, I/O, configuration).
    ``hints``: a share of all requests to memory has a processing hint, and some of these a prefix with more of its steering tag.
    """

    def __init__(self, random: Random, upstream: bool, ids: list[int], address: Callable[[], int], hints: float = 0.0) -> None:
        self.random, self.upstream, self.ids, self.address, self.hints = random, upstream, ids, address, hints

    def posted(self) -> Tlp:
        """A memory write or a message."""
        random = self.random
        if random.random() < 0.1:
            return self._message()
        start, length, first, last = self._range(MPS)
        if length == 1 and random.random() < 0.2:
            first = random.randrange(16)    # holes, and writes of nothing
        tlp = Tlp(Kind.MWR, random.choice(self.ids), random.randrange(256), start, length, first, last, random.randbytes(4 * length))
        self._attributes(tlp)
        if random.random() < 0.05:
            tlp.hints, tlp.processing_hint = True, random.randrange(4)
        tlp.poisoned = random.random() < 0.03
        return tlp

    def non_posted(self, tag: int) -> Tlp:
        """A read, an atomic, or what else a host may ask for."""
        random, requester = self.random, self.random.choice(self.ids)
        kind = random.random()
        if kind < 0.15 and self.upstream:
            tlp = self._atomic(requester, tag)
        elif kind < 0.25 and not self.upstream:
            return self._config_or_io(requester, tag)
        else:
            start, length, first, last = self._range(1024)
            if length == 1 and random.random() < 0.3:
                first = random.randrange(16)
            tlp = Tlp(Kind.MRD, requester, tag, start, length, first, last)
        self._attributes(tlp)
        return tlp

    def _range(self, most: int) -> tuple[int, int, int, int]:
        random, address = self.random, self.address()
        size = random.choice((4, 8, 64, 64, 128, most, random.randint(1, most)))
        address += random.randrange(4) if random.random() < 0.3 else 0
        return byte_range(address, min(size, most - address % 4, 4096 - address % 4096))

    def _attributes(self, tlp: Tlp) -> None:
        random = self.random
        tlp.relaxed_ordering, tlp.no_snoop = random.random() < 0.2, random.random() < 0.1
        if self.upstream:
            tlp.id_ordering = random.random() < 0.2
            if random.random() < 0.1:
                tlp.prefix = PASID | random.randrange(1 << 20)
        if self.hints and random.random() < self.hints:
            tlp.hints, tlp.processing_hint = True, random.randrange(4)
            if tlp.kind is not Kind.MWR:
                # The steering tag stands there.
                tlp.first_be, tlp.last_be = random.randrange(16), random.randrange(16)
            if random.random() < 0.5:
                tlp.prefix = HINT | random.randrange(1 << 24)

    def _message(self) -> Tlp:
        random = self.random
        data = random.randbytes(4 * random.choice((0, 1, 16)))
        routing = 0b000 if self.upstream else 0b011
        kind = Kind.MSGD if data else Kind.MSG
        where, code = random.getrandbits(64), random.randrange(256)
        return Tlp(kind, random.choice(self.ids), random.randrange(256), where, len(data) // 4, 0, 0, data, code=code, routing=routing)

    def _atomic(self, requester: int, tag: int) -> Tlp:
        random = self.random
        kind, sizes = random.choice(((Kind.FETCH_ADD, (1, 2)), (Kind.SWAP, (1, 2)), (Kind.CAS, (2, 4, 8))))
        length = random.choice(sizes)
        operand = 4 * length // (2 if kind is Kind.CAS else 1)
        last = 0xF if length > 1 else 0
        return Tlp(kind, requester, tag, self.address() // operand * operand, length, 0xF, last, random.randbytes(4 * length))

    def _config_or_io(self, requester: int, tag: int) -> Tlp:
        random = self.random
        kind = random.choice((Kind.CFGRD0, Kind.CFGWR0, Kind.CFGRD1, Kind.CFGWR1, Kind.IORD, Kind.IOWR))
        is_io = kind in (Kind.IORD, Kind.IOWR)
        address = random.randrange(1 << 30) * 4 if is_io else random.randrange(1 << 16) << 16 | random.randrange(1 << 10) * 4
        data = random.randbytes(4) if kind in (Kind.CFGWR0, Kind.CFGWR1, Kind.IOWR) else b""
        return Tlp(kind, requester, tag, address, 1, random.randint(1, 15), 0, data)


def random_answer(random: Random, request: Tlp, completer: int, rcb: int = 64) -> list[Tlp]:
    """Completions of ``request`` with random data, cut anywhere that the rules allow, or an error."""
    if random.random() < 0.05:
        return [answer(request, completer, random.choice((1, 4)))]
    if request.kind is Kind.MRD:
        return read_completions(request, random.randbytes(4 * request.length), completer, rcb, MPS, random.randrange)
    if request.is_atomic:
        size = 4 * request.length // (2 if request.kind is Kind.CAS else 1)
        return [answer(request, completer, 0, random.randbytes(size), size)]
    return [answer(request, completer, 0, random.randbytes(4) if request.kind in (Kind.CFGRD0, Kind.CFGRD1, Kind.IORD) else b"")]
