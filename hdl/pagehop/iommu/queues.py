"""What the queues in memory have in common (section 4)."""

from amaranth.hdl import Cat
from amaranth.lib import data

from pagehop.iommu.layouts import PPN_BITS

__all__ = ["INDEX_BITS", "QueueBase", "index_mask", "keep_status"]

#: Bits of the number of an entry: a queue has at most 2 ** INDEX_BITS.
INDEX_BITS = 16


class QueueBase(data.Struct):
    """``cqb``, ``fqb`` or ``pqb``: the queue begins at page ``ppn`` and has ``2 ** (log2sz + 1)`` entries. Larger than a page it is
    aligned to its size."""
    log2sz: 4
    ppn:    PPN_BITS


def keep_status(m, csr, write, letter, flags):
    """Keep ``cqcsr``, ``fqcsr`` or ``pqcsr``, by its ``letter``: what software enables, and the ``flags`` that it clears. What the queue
    sets counts more."""
    enabled, on, busy = (csr[name] for name in (f"{letter}qen", f"{letter}qon", "busy"))
    m.d.sync += busy.eq(enabled != on)
    with m.If(write.strobe[0]):
        m.d.sync += [enabled.eq(write.data[0]), csr[f"{letter}ie"].eq(write.data[1])]
    for bit, name in enumerate(flags, start=8):
        with m.If(write.strobe[1] & write.data[bit]):
            m.d.sync += csr[name].eq(0)


def index_mask(base):
    """Bits that the number of an entry has."""
    return Cat(base.log2sz >= bit for bit in range(INDEX_BITS))
