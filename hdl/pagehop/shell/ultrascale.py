"""A port of a core at the integrated block for PCI Express of AMD's UltraScale+ (PG213), 512 bits wide."""

from amaranth.hdl import Cat, Const, Module
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from pagehop.shell.us_descriptors import AxiStream, CcUser, CqUser, RcUser, RqUser
from pagehop.shell.us_receive import Receive
from pagehop.shell.us_transmit import Transmit
from pagehop.tlp.stream import TlpPort, connect_streams

__all__ = ["UltraScaleShell"]


class UltraScaleShell(wiring.Component):
    """Stand between a core's port of 64 bytes and the block: CQ, CC, RQ and RC in dword-aligned mode, all at the block's user clock.

    Addresses: a request on CQ reaches the core at ``bar << 60 | offset``, ``bar`` being the number that the block found and ``offset`` the address
    inside it. So the BARs that a core is told are constants, whatever the host assigned. Addresses that the core sends are the host's.

    Carried both ways: memory and I/O requests with any byte enables, also of no bytes; locked reads; AtomicOps; completions of every status, split or
    not; TC, RO, IDO, NS, AT, requester and completer IDs, and poison. In from RC, a request that the block ended by itself, after its timeout or a
    reset of the function, is answered with a completer abort. Not carried: tags above 255, prefixes, digests (the block checks and makes them),
    processing hints, messages, the mark of a modified Byte Count; a poisoned request to the device, which the block drops by itself. The block puts
    its own bus number into the IDs; a core that compares IDs is given ``own_id``.

    Order and credits: see :class:`Receive` and :class:`Transmit`.

    Parameters
    ----------
    max_payload : largest payload in bytes, either way.
    cq_straddle, rc_straddle : options of the block: a second TLP may begin in the middle of a beat. RC with four TLPs in a beat, and straddling on RQ
        and CC, are not supported.
    timeout : cycles, see :class:`Returns`.

    Members
    -------
    port : to the core, which has the other side of it.
    cq, cc, rq, rc : ``m_axis_cq``, ``s_axis_cc``, ``s_axis_rq``, ``m_axis_rc``.
    pcie_*, cfg_bus_number : as the block calls them.
    own_id : the core's ID.
    dropped : pulses, a TLP that cannot be carried was dropped, one bit for each direction, out least significant. ``lost``: see :class:`Returns`.
    """
    def __init__(self, max_payload=512, *, cq_straddle=False, rc_straddle=False, timeout=1 << 16):
        if max_payload not in (128, 256, 512, 1024):
            raise ValueError(f"The largest payload of the block must be 128, 256, 512 or 1024 bytes, not {max_payload!r}")
        self.max_payload, self.cq_straddle, self.rc_straddle, self.timeout = max_payload, cq_straddle, rc_straddle, timeout
        super().__init__({
            "port": In(TlpPort(64)),
            "cq": In(AxiStream(CqUser())), "cc": Out(AxiStream(CcUser())), "rq": Out(AxiStream(RqUser())), "rc": In(AxiStream(RcUser())),
            "pcie_cq_np_req": Out(2), "pcie_tfc_nph_av": In(4), "pcie_tfc_npd_av": In(4),
            "pcie_rq_seq_num0": In(6), "pcie_rq_seq_num_vld0": In(1), "pcie_rq_seq_num1": In(6), "pcie_rq_seq_num_vld1": In(1),
            "cfg_bus_number": In(8), "own_id": Out(16), "dropped": Out(2), "lost": Out(1),
        })

    def elaborate(self, platform):
        m = Module()
        m.submodules.receive = receive = Receive(self.max_payload, cq_straddle=self.cq_straddle, rc_straddle=self.rc_straddle)
        m.submodules.transmit = transmit = Transmit(self.max_payload, timeout=self.timeout)
        wiring.connect(m, wiring.flipped(self.cq), receive.cq)
        wiring.connect(m, wiring.flipped(self.rc), receive.rc)
        wiring.connect(m, transmit.rq, wiring.flipped(self.rq))
        wiring.connect(m, transmit.cc, wiring.flipped(self.cc))
        connect_streams(m, receive.tlps, self.port.rx)
        connect_streams(m, self.port.tx, transmit.tlps)
        m.d.comb += [
            receive.limits.eq(self.port.rx_limits), self.port.tx_limits.eq(transmit.limits),
            self.pcie_cq_np_req.eq(receive.np_req), transmit.headers_free.eq(self.pcie_tfc_nph_av), transmit.data_free.eq(self.pcie_tfc_npd_av),
            transmit.sequence[0].eq(self.pcie_rq_seq_num0), transmit.sequence_valid[0].eq(self.pcie_rq_seq_num_vld0),
            transmit.sequence[1].eq(self.pcie_rq_seq_num1), transmit.sequence_valid[1].eq(self.pcie_rq_seq_num_vld1),
            self.own_id.eq(Cat(Const(0, 8), self.cfg_bus_number)),
            self.dropped.eq(Cat(transmit.dropped, receive.dropped)), self.lost.eq(transmit.lost),
        ]
        return m
