"""The IOMMU as a whole: only parts and connections (docs/iommu.md)."""

from amaranth.hdl import Module
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from pagehop.iommu.core import ATS_STREAMS, IommuCore
from pagehop.iommu.front import TlpFront
from pagehop.tlp.stream import TlpPort

__all__ = ["Iommu"]


class Iommu(wiring.Component):
    """Between a device and its host: what the device sends goes where its tables say, and pages move beneath it.

    Parameters
    ----------
    data_bytes, slot_bits, max_payload, depths : see :class:`TlpFront`. Others : see :class:`IommuCore`. There are ATS and moves.

    Members
    -------
    device, host : the two links. own_id : requester ID of the IOMMU
    bus, wires, port, copy_port : see :class:`IommuCore`
    """
    def __init__(self, data_bytes=64, *, slot_bits=3, max_payload=256, depths=(128, 128, 16), **core):
        self.front = TlpFront(data_bytes, slot_bits=slot_bits, max_payload=max_payload, depths=depths)
        self.core = IommuCore(slot_bits + 1, ats=True, modify=True, **core)
        super().__init__({
            "device": Out(TlpPort(data_bytes)), "host": Out(TlpPort(data_bytes)), "own_id": In(16),
            **{name: self.core.signature.members[name] for name in ("bus", "wires", "port", "copy_port")},
        })

    def elaborate(self, platform):
        m = Module()
        m.submodules.front, m.submodules.core = front, core = self.front, self.core
        for name in ("device", "host"):
            wiring.connect(m, wiring.flipped(getattr(self, name)), getattr(front, name))
        for name in ("bus", "port", "copy_port"):
            wiring.connect(m, wiring.flipped(getattr(self, name)), getattr(core, name))
        for name in ATS_STREAMS:
            wiring.connect(m, getattr(front, name), getattr(core, name))
        wiring.connect(m, front.translate, core.request)
        wiring.connect(m, core.response, front.translated)
        m.d.comb += [
            self.wires.eq(core.wires), front.own_id.eq(self.own_id), front.ats_hold.eq(core.ats_hold), core.ats_quiet.eq(front.ats_quiet),
            front.drain.eq(core.drain), core.drained.eq(front.drained), front.flush_address.eq(core.drain_address), front.limit.eq(core.drain_limit),
        ]
        return m
