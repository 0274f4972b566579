"""Adapters to hard blocks with a core: a port agent of the bench, or the on-the-side device."""

from amaranth.hdl import Module
from amaranth.lib import wiring
from amaranth.lib.wiring import Out

from pagehop.ots.top import Ots
from pagehop.tlp.stream import TlpPort, connect_streams

__all__ = ["CoreOutside", "OtsInside"]


def _connect_others(m, outside, shell):
    """All members of ``shell`` but ``port`` are those of ``outside``."""
    for name, member in shell.signature.members.items():
        if name == "port":
            continue
        inner, outer = getattr(shell, name), getattr(outside, name)
        if not member.is_port:
            wiring.connect(m, inner, wiring.flipped(outer))
        else:
            m.d.comb += outer.eq(inner) if member.flow is Out else inner.eq(outer)


def _others(shell):
    return {name: member for name, member in shell.signature.members.items() if name != "port"}


class CoreOutside(wiring.Component):
    """All members of ``shell`` but ``port``, and ``core``, at which stands what stands at the port of any core."""
    def __init__(self, shell):
        self.shell = shell
        super().__init__({"core": Out(TlpPort(64)), **_others(shell)})

    def elaborate(self, platform):
        m = Module()
        m.submodules.shell = shell = self.shell
        connect_streams(m, self.core.rx, shell.port.tx)
        connect_streams(m, shell.port.rx, self.core.tx)
        m.d.comb += [self.core.rx_limits.eq(shell.port.tx_limits), shell.port.rx_limits.eq(self.core.tx_limits)]
        _connect_others(m, self, shell)
        return m


class OtsInside(wiring.Component):
    """The on-the-side device behind ``shell``, its registers in BAR 0, its windows in BAR 2, its leaves in BAR 4."""
    def __init__(self, shell, windows=2):
        self.shell, self.windows = shell, windows
        super().__init__(_others(shell))

    def elaborate(self, platform):
        m = Module()
        m.submodules.shell = shell = self.shell
        m.submodules.ots = ots = Ots(64, windows=self.windows)
        wiring.connect(m, ots.port, shell.port)
        m.d.comb += [ots.own_id.eq(shell.own_id), ots.register_bar.eq(0), ots.window_bar.eq(2 << 60), ots.leaf_bar.eq(4 << 60)]
        _connect_others(m, self, shell)
        return m
