"""The environment and the base of its tests.

    uvm_test_top ── env ┬─ device      sequencer ▶ driver ▶ DeviceFunction ▶ pins      monitor ─┐
                        ├─ host_a      sequencer ▶ driver ▶ Cpu ▶ RootComplex ▶ pins   monitor ─┼─▶ coverage
                        ├─ host_b      the same                                        monitor ─┤
                        ├─ hypervisor  sequencer ▶ driver ▶ InterposerDriver      MoveWatch ────┘
                        └─ scoreboard  MoveWatch (the event log) ▶ the checker of all benches
"""

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import cocotb
from pyuvm import uvm_analysis_port, uvm_component, uvm_env, uvm_scoreboard, uvm_test

from pagehop_tb.benches.frame import BenchConfig
from pagehop_tb.benches.guest import BARS, HOST_B_OFFSET, Guest
from pagehop_tb.checker.space import CheckConfig
from pagehop_tb.driver import interposer_registers as regs
from pagehop_tb.uvm.agents import Agent, CpuDriver, DeviceDriver, HypervisorDriver
from pagehop_tb.uvm.collector import Collector, Layout
from pagehop_tb.uvm.events import MoveWatch

__all__ = ["BaseTest", "Environment", "Scoreboard", "UvmGuest"]

PAGES = 64
#: Places of the guest window: by whether the device's headers and those at Host B have 3 or 4 dwords.
WINDOWS = {"low": 0x4000_0000, "wrapped": (1 << 64) - HOST_B_OFFSET + 0x4000_0000}


class UvmGuest(Guest):
    """A guest whose active host is chosen at the start."""

    active_host = 0

    @property
    def check_config(self) -> CheckConfig:
        """As every guest's, with the host that gets what has no page."""
        return replace(super().check_config, active_host=self.active_host)


class Scoreboard(uvm_scoreboard):
    """The checker of all benches, over the event log of the run. ``least`` is what must at least have been checked."""

    guest: UvmGuest
    least: dict[str, int]

    def build_phase(self) -> None:
        """Nothing is judged yet."""
        self.verdict: Any = None

    async def judge(self) -> None:
        """Let everything end and judge it. The registers of the interposer are read, so this cannot wait for the check phase."""
        self.verdict = await self.guest.finish()

    def check_phase(self) -> None:
        """Fail on a violation, and when too little was compared to mean anything."""
        assert self.verdict is not None, "the run was not judged"
        assert self.verdict.ok, self.verdict.text()
        for name, count in self.least.items():
            assert self.verdict.checked[name] >= count, f"{name} must be at least {count}, and is {self.verdict.checked[name]}"


class Environment(uvm_env):
    """All agents around one interposer. ``config`` is set by the test before it builds its children."""

    config: BenchConfig

    def build_phase(self) -> None:
        """Make the machine, then its agents."""
        config = self.config
        self.watch = MoveWatch()
        self.active_host = config.get("active_host", 0)
        self.guest = UvmGuest(cocotb.top, config, WINDOWS[config.get("window", "low")], PAGES, dirty=True, log=self.watch)
        self.guest.active_host = self.active_host
        self.guest.setup = replace(self.guest.setup, active_host=self.active_host)
        self.watch.space = self.guest.check_config
        self.device = Agent("device", self, DeviceDriver)
        self.hosts = [Agent(name, self, CpuDriver) for name in ("host_a", "host_b")]
        self.hypervisor = Agent("hypervisor", self, HypervisorDriver, link=False)
        self.scoreboard = Scoreboard("scoreboard", self)
        self.coverage = Collector("coverage", self)
        self.moves = uvm_analysis_port("moves", self)
        self.fence = self.guest.setup.fence

    def connect_phase(self) -> None:
        """Give each agent its part of the machine, and the coverage all monitors."""
        guest, system = self.guest, self.guest.system
        self.device.driver.functions, self.device.driver.tolerate = system.functions, lambda: guest.system_has_injections
        for agent, host in zip(self.hosts, system.hosts, strict=True):
            agent.driver.cpu = host.cpu
        self.hypervisor.driver.driver = guest.driver
        self.scoreboard.guest, self.scoreboard.least = guest, {"events": 1}
        devices = {function.config.requester_id: name for name, function in system.functions.items()}
        self.coverage.layout = Layout(guest.check_config, devices, list(BARS.values()), system.config.register_bases)
        self.coverage.watch, self.coverage.fence = self.watch, lambda: self.fence
        for number, (agent, port) in enumerate(zip((self.device, *self.hosts), system.ports.values(), strict=True)):
            agent.monitor.watch(number, port)
            agent.monitor.published.connect(self.coverage.analysis_export)
        self.moves.connect(self.coverage.analysis_export)
        self.watch.publish = self.moves.write

    async def set_fence(self, fence: bool) -> None:
        """Switch the fence policy. The device must be idle: what is under way was sent under the old one."""
        await self.set_control(regs.Control.FENCE.mask, regs.Control.FENCE.of(fence))
        self.fence = fence
        self.guest.fenced |= fence

    async def set_control(self, mask: int, value: int) -> None:
        """Change bits of the control register, and return when that has taken effect."""
        registers = self.guest.driver.registers
        control = await registers.read(regs.Control.offset)
        await registers.write(regs.Control.offset, control & ~mask | value)
        await registers.read(regs.Control.offset)


class BaseTest(uvm_test):
    """Starts the machine, runs :meth:`scenario`, and judges. A simulation runs one test: the owner map of the hardware outlives it."""

    #: What the checker must at least have compared.
    least = {"events": 1000, "read_bytes": 1000, "final_bytes": 4096}

    def __init__(self, name: str, parent: uvm_component) -> None:
        super().__init__(name, parent)
        self.config = BenchConfig("uvm")

    def build_phase(self) -> None:
        """Make the environment."""
        self.env = Environment("env", self)
        self.env.config = self.config

    def end_of_elaboration_phase(self) -> None:
        """All parameters have been asked for, or mean nothing."""
        self.prepare()
        self.config.refuse_unknown()
        self.env.scoreboard.least = self.least

    def prepare(self) -> None:
        """Read the parameters of the test, and fill pages."""

    async def scenario(self) -> None:
        """What the test does."""
        raise NotImplementedError

    async def run_phase(self) -> None:
        """Run and judge, also when the run fails: then the verdict says more than the exception."""
        self.raise_objection()
        guest = self.env.guest
        try:
            await guest.start()
            await self.scenario()
            await self.env.scoreboard.judge()
        except (Exception, asyncio.CancelledError):
            guest.write(guest.verdict(None))
            raise
        self.drop_objection()

    def report_phase(self) -> None:
        """Leave the coverage in the folder of the run."""
        assert self.env.coverage.events > 0, "nothing was published"
        self.env.coverage.export(Path("coverage.yml"))
