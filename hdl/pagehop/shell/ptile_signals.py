"""What stands on the Avalon streams of Intel's P-Tile for PCI Express, 512 bits wide: two segments of 256 bits, each with a header beside it.

Names and meanings follow the P-Tile Avalon Streaming IP user guide (683059), chapter 4.4. Headers and prefixes stand there as in the TLP layer: their
first byte on the wire on top. Data has its first byte at the bottom.
"""

from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

__all__ = ["SEGMENTS", "SEGMENT_DWORDS", "RxStream", "TxStream", "CreditIndex"]

#: Segments of a beat, and double words of a segment.
SEGMENTS, SEGMENT_DWORDS = 2, 8

# A segment of either stream: where a TLP begins, its header and prefix, which are 0 where none begins.
_SEGMENTS = {
    "data": data.ArrayLayout(32 * SEGMENT_DWORDS, SEGMENTS), "hdr": data.ArrayLayout(128, SEGMENTS), "tlp_prfx": data.ArrayLayout(32, SEGMENTS),
    "sop": SEGMENTS, "eop": SEGMENTS, "valid": SEGMENTS,
}


class RxStream(wiring.Signature):
    """``rx_st_*``, seen from the block. ``empty``: double words of a segment without data, where a TLP ends."""
    def __init__(self):
        super().__init__({
            **{name: Out(shape) for name, shape in _SEGMENTS.items()},
            "empty": Out(data.ArrayLayout(3, SEGMENTS)), "bar_range": Out(data.ArrayLayout(3, SEGMENTS)), "tlp_abort": Out(SEGMENTS),
            "ready": In(1),
        })


class TxStream(wiring.Signature):
    """``tx_st_*``, seen from the application."""
    def __init__(self):
        super().__init__({**{name: Out(shape) for name, shape in _SEGMENTS.items()}, "err": Out(SEGMENTS), "ready": In(1)})


class CreditIndex:
    """Values of ``tx_cdts_limit_tdm_idx``: header credits of the classes, numbered as :class:`~pagehop.tlp.headers.TlpClass`, and ``DATA`` more for
    their data credits. Those of ``rx_buffer_limit_tdm_idx`` are the classes."""
    DATA = 4
