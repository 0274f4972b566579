"""Byte enables by name: what a request covers, and how to make one (2.2.5)."""

from random import Random

from pagehop_tb.protocol import PAGE, Kind, Tlp, byte_range
from pagehop_tb.uvm.bins import SHAPES

__all__ = ["SHAPES", "make_range", "shape_of"]

_HOLES = (0b0101, 0b1010, 0b1001, 0b1011, 0b1101)
_RUNS = frozenset((0b0001, 0b0010, 0b0100, 0b1000, 0b0011, 0b0110, 0b1100, 0b0111, 0b1110))


def shape_of(tlp: Tlp) -> str:
    """Name of the byte enables of a memory read or write."""
    first, last = tlp.first_be, tlp.last_be
    if tlp.length == 1:
        if first == 0xF:
            return "dword"
        if not first:
            return "no byte"
        return "part of a dword" if first in _RUNS else "dword with a hole"
    if first not in (0xF, 0xE, 0xC, 0x8) or last not in (0xF, 0x7, 0x3, 0x1):
        return "quad word with holes"
    return {(True, True): "dwords", (False, True): "first cut", (True, False): "last cut", (False, False): "both cut"}[first == 0xF, last == 0xF]


def make_range(random: Random, shape: str, page: int, largest: int = 64) -> tuple[int, int, int, int]:
    """Address, Length and byte enables (first, last) of this shape in the page at address ``page``; at most ``largest`` dwords."""
    where = page + 4 * random.randrange(PAGE // 4)
    if shape == "dword":
        return where, 1, 0xF, 0
    if shape == "no byte":
        return where, 1, 0, 0
    if shape == "part of a dword":
        return where, 1, random.choice(sorted(_RUNS)), 0
    if shape == "dword with a hole":
        return where, 1, random.choice(_HOLES), 0
    if shape == "quad word with holes":
        return page + 8 * random.randrange(PAGE // 8), 2, random.choice(_HOLES), random.choice(_HOLES)
    head = random.randint(1, 3) if shape in ("first cut", "both cut") else 0
    tail = random.randint(1, 3) if shape in ("last cut", "both cut") else 0
    length = random.choice((2, 3, 16, 17, random.randint(2, largest)))
    # No request is longer than the largest payload allows, and none crosses the page.
    where = page + 4 * random.randrange(PAGE // 4 - length + 1)
    return byte_range(where + head, 4 * length - head - tail)


def tlp_of(kind: Kind, requester_id: int, place: tuple[int, int, int, int], data: bytes = b"", ro: bool = False, ido: bool = False) -> Tlp:
    """A memory read or write of ``place``, as :func:`make_range` gives it."""
    address, length, first, last = place
    return Tlp(kind, requester_id, 0, address, length, first, last, data, ro, ido)
