"""An adapter to a hard block with the port of its core turned round, so that a port agent can be the core."""

from amaranth.hdl import Module
from amaranth.lib import wiring
from amaranth.lib.wiring import Out

from pagehop.tlp.stream import TlpPort, connect_streams

__all__ = ["CoreOutside"]


class CoreOutside(wiring.Component):
    """All members of ``shell`` but ``port``, and ``core``, at which stands what stands at the port of any core."""
    def __init__(self, shell):
        self.shell = shell
        others = {name: member for name, member in shell.signature.members.items() if name != "port"}
        super().__init__({"core": Out(TlpPort(64)), **others})

    def elaborate(self, platform):
        m = Module()
        m.submodules.shell = shell = self.shell
        connect_streams(m, self.core.rx, shell.port.tx)
        connect_streams(m, shell.port.rx, self.core.tx)
        m.d.comb += [self.core.rx_limits.eq(shell.port.tx_limits), shell.port.rx_limits.eq(self.core.tx_limits)]
        for name, member in shell.signature.members.items():
            if name == "port":
                continue
            inner, outer = getattr(shell, name), getattr(self, name)
            if not member.is_port:
                wiring.connect(m, inner, wiring.flipped(outer))
            else:
                m.d.comb += outer.eq(inner) if member.flow is Out else inner.eq(outer)
        return m


