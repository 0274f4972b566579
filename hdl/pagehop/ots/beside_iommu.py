"""The on-the-side device and the IOMMU whose entries lead to its windows: two ports of one host (FIG. 11)."""

from amaranth.hdl import Module
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from pagehop.iommu.top import Iommu
from pagehop.ots.top import Ots

__all__ = ["OtsBesideIommu"]

#: Members of the IOMMU that are those of the whole.
_IOMMU = ("device", "host", "bus", "wires", "port", "copy_port")
_OTS = ("register_bar", "window_bar", "leaf_bar", "committed", "committed_window", "committed_page")


class OtsBesideIommu(wiring.Component):
    """Both, not connected: they meet in the host, as they would in a machine. For simulations.

    Parameters
    ----------
    data_bytes : beat width of all links. windows, leaves : see :class:`Ots`. Others : see :class:`Iommu`

    Members
    -------
    ots : the link of the device, ots_id its requester ID. Others : see :class:`Iommu` and :class:`Ots`
    """
    def __init__(self, data_bytes=64, *, windows=4, leaves=512, **iommu):
        self.iommu, self.device_ = Iommu(data_bytes, **iommu), Ots(data_bytes, windows=windows, leaves=leaves)
        super().__init__({
            **{name: self.iommu.signature.members[name] for name in _IOMMU}, "own_id": In(16),
            "ots": Out(self.device_.port.signature), "ots_id": In(16), **{name: self.device_.signature.members[name] for name in _OTS},
        })

    def elaborate(self, platform):
        m = Module()
        m.submodules.iommu, m.submodules.ots = iommu, ots = self.iommu, self.device_
        for name in _IOMMU:
            if name != "wires":
                wiring.connect(m, wiring.flipped(getattr(self, name)), getattr(iommu, name))
        wiring.connect(m, wiring.flipped(self.ots), ots.port)
        m.d.comb += [self.wires.eq(iommu.wires), iommu.own_id.eq(self.own_id), ots.own_id.eq(self.ots_id)]
        for name in _OTS:
            ours, theirs = getattr(self, name), getattr(ots, name)
            m.d.comb += theirs.eq(ours) if name.endswith("_bar") else ours.eq(theirs)
        return m
