"""The three ports of an interposer without a machine behind them, as the benches have them that send TLP by TLP."""

from typing import Any

from pagehop_tb.benches.frame import BenchConfig
from pagehop_tb.benches.plain_host import PlainHost
from pagehop_tb.checker.log import EventLog
from pagehop_tb.driver.interposer import InterposerDriver
from pagehop_tb.pins import BeatFormat, CreditConfig, Fabric, PortCredits, TlpPortAgent

__all__ = ["BAR", "DEVICE", "DEVICE_ID", "DEVICE_PORT", "GUEST", "HOST_IDS", "PAGE", "REGISTER_BASES", "ROWS", "ThreePorts", "identify"]

DEVICE_ID, HOST_IDS = 0x0100, (0x0208, 0x0310)
REGISTER_BASES = (0xF000_0000, 0xE0_F000_0000)
#: Requester ID of a function of the device.
DEVICE = 0x0108
GUEST, BAR = 0x1000_0000, 0x8000_0000
PAGE = 4096
#: Place of the device among the ports, behind the hosts.
DEVICE_PORT = 2
#: Rows of the outstanding table, each of which takes a cycle after a reset.
ROWS = 1024


def identify(dut: Any) -> None:
    """Tell each port of ``dut`` its requester ID, and those of the hosts where the registers are."""
    dut.config_device.value = DEVICE_ID
    dut.config_host_a.value = HOST_IDS[0] | REGISTER_BASES[0] << 16
    dut.config_host_b.value = HOST_IDS[1] | REGISTER_BASES[1] << 16


class ThreePorts:
    """Agents with unlimited credits and no pauses, a plain host at two of them, and a driver at Host A. ``ports``: both hosts', then the device's."""

    def __init__(self, dut: Any, config: BenchConfig, delay: int) -> None:
        self.config = config
        self.fabric = Fabric(dut.clk, dut.rst)
        identify(dut)
        self.device, host_a, host_b = (self._agent(dut, name) for name in ("device", "host_a", "host_b"))
        self.ports = [host_a, host_b, self.device]
        self.hosts = [PlainHost(agent, self.fabric, base, delay) for agent, base in zip((host_a, host_b), REGISTER_BASES, strict=True)]
        self.driver = InterposerDriver(self.hosts[0], self.fabric.wait, lambda: self.fabric.cycle, EventLog())

    def _agent(self, dut: Any, name: str) -> TlpPortAgent:
        free = PortCredits(CreditConfig(infinite=True), CreditConfig(infinite=True))
        return TlpPortAgent(dut, name, self.fabric, BeatFormat(self.config.data_bytes), free)

    async def start_settled(self) -> None:
        """Start the clock, and wait until all rows of the outstanding table are free: no read of the device goes before that."""
        await self.fabric.start()
        await self.fabric.wait(ROWS)

    async def bring(self, page: int, to_host: int = 1) -> None:
        """Have a page of the window at ``to_host``. The owner map outlives a reset, so an earlier test may have brought it."""
        if await self.driver.owner(page) != to_host:
            result = await self.driver.move(page, to_host)
            assert result.moved, f"page {page} did not move to host {'ab'[to_host]}: {result.reason}"
