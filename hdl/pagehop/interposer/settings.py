"""From register fields to settings that the data path can compare with."""

from amaranth.hdl import Module
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from pagehop.interposer.layouts import GROUPS, Requesters, Settings
from pagehop.tlp.pages import PAGE_BITS

__all__ = ["SettingsStage"]

_RANGES = ("window", "msi", "mmio", "aperture_a", "aperture_b")


class SettingsStage(wiring.Component):
    """Turn base and number of pages into base and limit. All but the limits are the registers themselves; a limit follows a cycle later.

    Members
    -------
    <range>_base, <range>_pages : for the window, the MSI and MMIO ranges and both apertures.
    low, high : pages of the window between which the maps cover it. They are compared with a cycle later.
    """
    def __init__(self):
        super().__init__({
            **{f"{name}_base": In(64) for name in _RANGES}, **{f"{name}_pages": In(32) for name in _RANGES},
            "low": In(32), "high": In(33), "host_b_offset": In(64), "aperture_a_offset": In(64), "aperture_b_offset": In(64),
            "groups": In(data.ArrayLayout(Requesters, GROUPS)), "active_host": In(1), "blocks": In(1), "fence": In(1), "track_dirty": In(1),
            "settings": Out(Settings),
        })

    def elaborate(self, platform):
        m = Module()
        settings = self.settings
        targets = {
            "window": settings.window, "msi": settings.msi, "mmio": settings.mmio,
            "aperture_a": settings.aperture_a.range, "aperture_b": settings.aperture_b.range,
        }
        for name, target in targets.items():
            base = getattr(self, f"{name}_base")[PAGE_BITS:]
            m.d.comb += target.base.eq(base)
            m.d.sync += target.limit.eq(base + getattr(self, f"{name}_pages"))
        m.d.sync += [settings.mapped.base.eq(settings.window.base + self.low), settings.mapped.limit.eq(settings.window.base + self.high)]
        m.d.comb += [
            settings.host_b_offset.eq(self.host_b_offset),
            settings.aperture_a.offset.eq(self.aperture_a_offset), settings.aperture_b.offset.eq(self.aperture_b_offset),
            settings.groups.eq(self.groups), settings.active_host.eq(self.active_host), settings.blocks.eq(self.blocks),
            settings.fence.eq(self.fence), settings.track_dirty.eq(self.track_dirty),
        ]
        return m
