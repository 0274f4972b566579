"""Comparison of wide numbers, cut where a register can stand."""

from amaranth.hdl import Cat

__all__ = ["pieces_equal"]

#: Bits of two numbers that one look-up table of six inputs compares.
COMPARED = 3


def pieces_equal(one, other):
    """Whether two numbers are equal, a bit for each piece that one look-up table compares: what stands behind a register to be put together."""
    differs = one ^ other
    return Cat(~differs[n:n + COMPARED].any() for n in range(0, len(differs), COMPARED))
