"""What the queues in memory have in common (section 4)."""

from amaranth.hdl import Cat
from amaranth.lib import data

from pagehop.iommu.layouts import PPN_BITS

__all__ = ["INDEX_BITS", "QueueBase", "index_mask"]

#: Bits of the number of an entry: a queue has at most 2 ** INDEX_BITS.
INDEX_BITS = 16


class QueueBase(data.Struct):
    """``cqb`` or ``fqb``: the queue begins at page ``ppn`` and has ``2 ** (log2sz + 1)`` entries. Larger than a page it is aligned to its size."""
    log2sz: 4
    ppn:    PPN_BITS


def index_mask(base):
    """Bits that the number of an entry has."""
    return Cat(base.log2sz >= bit for bit in range(INDEX_BITS))
