"""A port of a core at Intel's P-Tile for PCI Express, Avalon streaming interface, 512 bits wide."""

from amaranth.hdl import Cat, Const, Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import exact_log2

from pagehop.shell.ptile_credits import LinkCredits
from pagehop.shell.ptile_receive import Receive
from pagehop.shell.ptile_signals import RxStream, TxStream
from pagehop.shell.ptile_transmit import Transmit
from pagehop.tlp.stream import TlpPort, connect_streams

__all__ = ["PTileShell"]


class PTileShell(wiring.Component):
    """Stand between a core's port of 64 bytes and the block, at ``coreclkout_hip``, in reset while ``reset_status_n`` is 0.

    Addresses: a memory or atomic request reaches the core at ``bar << 60 | offset``, ``bar`` being the number that the block found and ``offset`` the
    address inside it; one above 4 GB, as in every BAR but the first, with four double words (2.2.4.1). So the BARs that a core is told are constants,
    whatever the host assigned. All other addresses stay, and those that the core sends are the host's.

    Carried both ways, unchanged: all TLPs with all fields of their headers, tags of ten bits and messages too, one prefix, and poison. Not carried:
    digests, which the block checks and makes (TD is 0 on both sides), a second prefix, parity of the streams, the number of a function, which must
    be one. ``tlp_abort``, of the bypass mode, is ignored. The core fills in requester and completer IDs: ``own_id``.

    Order and credits: see :class:`Receive`, :class:`Transmit` and :class:`LinkCredits`. The RX flow control interface of the block must be on:
    without it non-posted requests that the core has no credits for stand before posted ones when there are more than the lane holds.

    Parameters
    ----------
    bars : sizes in bytes, powers of two, by the number of the BAR (0 to 5; of 64 bits, that of its lower half; 6, the expansion ROM).
    max_payload : largest payload in bytes that comes.

    Members
    -------
    port : to the core, which has the other side of it.
    rx_st, tx_st, rx_buffer_limit, rx_buffer_limit_tdm_idx, tx_cdts_limit, tx_cdts_limit_tdm_idx, tl_cfg_* : as the block calls them.
    dl_up : the link is up.
    own_id : the ID of function 0.
    """
    def __init__(self, bars, max_payload=512):
        if max_payload not in (128, 256, 512):
            raise ValueError(f"The largest payload must be 128, 256 or 512 bytes, not {max_payload!r}")
        for number, size in bars.items():
            if number not in range(7) or not 16 <= size <= 1 << 60 or size & (size - 1):
                raise ValueError(f"A BAR must have a number from 0 to 6 and a power of two from 16 bytes to 1 EB, not {number!r} and {size!r}")
        self.bars, self.max_payload = {number: exact_log2(size) for number, size in bars.items()}, max_payload
        super().__init__({
            "port": In(TlpPort(64)), "rx_st": In(RxStream()), "tx_st": Out(TxStream()),
            "rx_buffer_limit": Out(12), "rx_buffer_limit_tdm_idx": Out(2), "tx_cdts_limit": In(16), "tx_cdts_limit_tdm_idx": In(3),
            "tl_cfg_func": In(3), "tl_cfg_add": In(5), "tl_cfg_ctl": In(16), "dl_up": In(1), "own_id": Out(16),
        })

    def elaborate(self, platform):
        m = Module()
        m.submodules.receive = receive = Receive(self.bars, self.max_payload)
        m.submodules.transmit = transmit = Transmit()
        m.submodules.credits = link = LinkCredits()
        wiring.connect(m, wiring.flipped(self.rx_st), receive.rx)
        wiring.connect(m, transmit.tx, wiring.flipped(self.tx_st))
        connect_streams(m, receive.tlps, self.port.rx)
        connect_streams(m, self.port.tx, transmit.tlps)
        m.d.comb += [
            receive.limits.eq(self.port.rx_limits), self.rx_buffer_limit.eq(receive.buffer_limit),
            self.rx_buffer_limit_tdm_idx.eq(receive.buffer_index),
            link.shown.eq(self.tx_cdts_limit), link.index.eq(self.tx_cdts_limit_tdm_idx), link.up.eq(self.dl_up),
            link.taken.eq(self.port.tx.valid & self.port.tx.ready), link.beat.eq(self.port.tx.payload), self.port.tx_limits.eq(link.limits),
        ]
        self._identify(m)
        return m

    def _identify(self, m):
        """Bus and device number are at address 1 of the configuration output interface."""
        found = Signal()
        m.d.sync += found.eq((self.tl_cfg_add == 1) & (self.tl_cfg_func == 0))
        control = Signal(16)
        m.d.sync += control.eq(self.tl_cfg_ctl)
        with m.If(found):
            m.d.sync += self.own_id.eq(Cat(Const(0, 3), control[8:13], control[:8]))
