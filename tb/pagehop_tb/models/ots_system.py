"""The machine around an IOMMU and an endpoint on the side (OTS): a host with two ports, in the topologies of figures 11 and 12.

    function ── function                              ┌── memory, CPU
        └── device link ── IOMMU ── port 0 ── Host A ─┤
                                                      └── port 1 ── OTS

What a device sends to the OTS's address ranges goes from port to port inside the root complex, and so do the answers. Host B's memory is a range of
Host A's addresses (``far`` of the root complexes). In figure 11 all of it is reached through the root complex. In figure 12 a switch at port 1 has
the OTS and the way to Host B: what the OTS sends there does not pass the root complex.
"""

from dataclasses import dataclass, field, replace
from typing import Any

from pagehop_tb.pins import PortCredits
from pagehop_tb.pins.tilelink import HomeAgent

from .home import Home
from .observer import Observer, Status
from .root_complex import Peer, RootComplex, RootComplexConfig
from .system import Machine, SystemConfig

__all__ = ["OtsConfig", "OtsMachine"]


@dataclass(frozen=True, slots=True)
class OtsConfig:
    """The OTS's place. ``topology``: 11 or 12. ``bars``: base and size of its address ranges; ``identity``: its requester ID. ``port``: behaviour of
    the root complex at its port, in topology 12 with the delay of the way through the switch in ``far``. Completions
    of memory wait there for what goes from port to port before them, unless RO, or IDO (``completion_ido`` of ``port``), lets them pass.

    ``walker``: requester ID of the reads that the IOMMU makes of leaves in the OTS, of ``walk_bytes`` each, 8 or 64, whatever it asked for.
    """

    bars: tuple[tuple[int, int], ...]
    topology: int = 11
    identity: int = 0x0200
    port: RootComplexConfig = field(default_factory=RootComplexConfig)
    walker: int = 0x0003
    walk_bytes: int = 8
    credits: PortCredits = field(default_factory=PortCredits)
    mps: int = 256

    def __post_init__(self) -> None:
        if self.topology not in (11, 12):
            raise ValueError(f"A topology of the OTS is 11 or 12, not {self.topology}")
        if self.walk_bytes not in (8, 64):
            raise ValueError(f"A walker reads 8 or 64 bytes, not {self.walk_bytes}")


class OtsMachine(Machine):
    """What stands around a ``dut`` with the ports ``device`` and ``host`` of an IOMMU and ``ots`` of an OTS.

    *Members*, beside those of :class:`Machine`: ``ots``, the root complex at the OTS's port. Configuration requests to the OTS are made there; the
    CPU's register accesses find it by their address.
    """

    def __init__(self, dut: Any, config: SystemConfig, ots: OtsConfig, observer: Observer) -> None:
        super().__init__(dut, config, observer, ["host"])
        self.ots_config = ots
        host, first = self.hosts[0], self.hosts[0].root_complex
        self.ports["ots"] = self._port("ots", ots.mps, ots.credits)
        self.ports["ots"].id_ordering = ots.port.relax
        behaviour = replace(ots.port, far_apart=ots.topology == 12)
        self.ots = RootComplex(0, self.ports["ots"], host.memory, self.fabric, observer, behaviour, self._seed())
        self.ots.on_msi = host.cpu.interrupt
        bars = tuple(one.bar for one in config.functions if one.bar is not None)
        first.connect(Peer(self.ots, ots.bars, (ots.identity,)))
        self.ots.connect(Peer(first, bars, self.link.functions))

    def serve_leaves(self, name: str, home: Home, base: int, size: int, **more: Any) -> HomeAgent:
        """Agent of the IOMMU's coherent port ``name``, whose reads of this range are made of the OTS."""
        return HomeAgent(self.dut, name, self.fabric, home, remote=(base, size, self.read_leaf), **more)

    async def read_leaf(self, address: int, size: int) -> bytes:
        """A read of the walker: reads of ``walk_bytes``, or of more when it asks for more. Nothing when one fails."""
        unit = max(size, self.ots_config.walk_bytes)
        start = address // unit * unit
        status, data = await self.ots.read(start, unit, requester=self.ots_config.walker)
        return data[address - start:][:size] if status == Status.SUCCESS else b""

    def busy(self) -> list[str]:
        """What is still on its way, as far as the models know."""
        return super().busy() + ([] if self.ots.idle else ["the root complex at the port of the OTS is busy"])

    def check_clean(self) -> None:
        """Fail when a TLP arrived that belonged to nothing."""
        super().check_clean()
        assert not self.ots.unexpected, f"the port of the OTS received {len(self.ots.unexpected)} unexpected TLPs, first {self.ots.unexpected[0]}"
