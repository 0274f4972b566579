"""Pages of an address space, and headers whose addresses lead to another page."""

from amaranth.hdl import Cat
from amaranth.lib import data

from pagehop.tlp import headers

__all__ = ["PAGE_BITS", "PAGE_NUMBER_BITS", "FarPage", "far_header"]

#: Base-2 logarithm of the size of a page.
PAGE_BITS = 12

#: Bits of the number of a page in an address space.
PAGE_NUMBER_BITS = 64 - PAGE_BITS


class FarPage(data.Struct):
    """Number of a page at the other host, and whether its address is above 4 GB, so that headers have four double words."""
    number: PAGE_NUMBER_BITS
    wide:   1

    def is_at(self, number):
        """Assignments that make it the page of this number."""
        return [self.number.eq(number), self.wide.eq(number[32 - PAGE_BITS:].any())]


def far_header(header, far):
    """``header`` of a memory or atomic request at the same place in another page, a :class:`FarPage`."""
    return headers.with_address(header, Cat(headers.address_of(header)[:PAGE_BITS], far.number), far.wide)
