"""Agents: sequencer, driver and monitor of one place. Pins and models are those of every bench; here they only get a UVM face."""

from collections.abc import Callable
from typing import Any

import cocotb
from pyuvm import uvm_agent, uvm_analysis_port, uvm_component, uvm_driver, uvm_monitor, uvm_sequencer

from pagehop_tb.driver.interposer import InterposerDriver
from pagehop_tb.models.cpu import Cpu
from pagehop_tb.models.device import DeviceFunction, DmaError
from pagehop_tb.models.observer import Status
from pagehop_tb.pins import TlpPortAgent
from pagehop_tb.protocol import FlowClass, Tlp
from pagehop_tb.uvm.events import LinkTlp
from pagehop_tb.uvm.items import CpuItem, DmaItem, HypervisorItem, Item

__all__ = ["Agent", "CpuDriver", "DeviceDriver", "HypervisorDriver", "LinkMonitor"]


class LinkMonitor(uvm_monitor):
    """Publishes every TLP of a port, before its receiver sees it: taken from the port agent's own callbacks."""

    def build_phase(self) -> None:
        """Make the port that others connect to."""
        self.published = uvm_analysis_port("published", self)
        self.count = 0

    def watch(self, number: int, port: TlpPortAgent) -> None:
        """Listen to ``port`` from now on; ``number`` is its name in the events."""
        for name in ("on_tlp", "on_sent"):
            self._listen(number, port, name)

    def _listen(self, number: int, port: TlpPortAgent, name: str) -> None:
        receiver: Callable[[Tlp], None] | None = getattr(port, name)
        sent = name == "on_sent"

        def heard(tlp: Tlp) -> None:
            self.count += 1
            # First the models: a device's log entry of a TLP stands before what the TLP is seen to cause.
            if receiver is not None and sent:
                receiver(tlp)
            self.published.write(LinkTlp(number, sent, port.fabric.cycle, tlp))
            if receiver is not None and not sent:
                receiver(tlp)

        setattr(port, name, heard)


class _Driver(uvm_driver):
    """Takes an item when the one before it is on its way; the rest of an item goes on beside the next ones."""

    async def run_phase(self) -> None:
        """Drive for as long as the test lasts."""
        while True:
            item = await self.seq_item_port.get_next_item()
            await self.issue(item)
            self.seq_item_port.item_done()

    async def issue(self, item: Any) -> None:
        """Do what must be done before the next item may begin."""
        cocotb.start_soon(self._complete(item))

    async def _complete(self, item: Item) -> None:
        await self.perform(item)
        item.end()

    async def perform(self, item: Any) -> None:
        """Do the rest."""


class DeviceDriver(_Driver):
    """Lets the functions of the device issue requests. ``tolerate()`` says whether a request may end with an error now."""

    functions: dict[str, DeviceFunction]
    tolerate: Callable[[], bool]

    async def issue(self, item: DmaItem) -> None:
        """Put the request into the queue of the link: posted ones end there."""
        function, tlp = self.functions[item.agent], item.tlp
        if tlp.flow is FlowClass.NON_POSTED:
            pending = await function.start(tlp)
            cocotb.start_soon(self._answer(function, item, pending))
            return
        tlp.key = -1 if tlp.is_message else function.link.key()
        await function.link.room(FlowClass.POSTED, function.config.queue)
        function.link.port.queue(tlp)
        item.end()

    async def _answer(self, function: DeviceFunction, item: DmaItem, pending: Any) -> None:
        try:
            item.data = await function.finish([pending])
        except DmaError:
            item.status = Status(pending.status)
            if not self.tolerate() or item.status in (Status.MALFORMED, Status.TIMEOUT):
                raise
        item.end()


class CpuDriver(_Driver):
    """Lets a CPU access memory, registers and configuration space."""

    cpu: Cpu

    async def perform(self, item: CpuItem) -> None:
        """One access."""
        cpu, op, address = self.cpu, item.op, item.address
        if op == "load":
            item.data = await cpu.load(address, item.size)
        elif op == "store":
            await cpu.store(address, item.data)
        elif op == "mmio_read":
            item.status, item.data = await cpu.mmio_read(address, item.size)
        elif op == "mmio_write":
            await cpu.mmio_write(address, item.data)
        elif op == "config_read":
            item.status, item.data = await cpu.root_complex.config_read(address >> 16, address & 0xFFF)
        elif op == "config_write":
            item.status = await cpu.root_complex.config_write(address >> 16, address & 0xFFF, item.data)
        else:
            raise ValueError(f"A CPU knows no access {op!r}")


class HypervisorDriver(_Driver):
    """Calls the driver's API."""

    driver: InterposerDriver

    async def perform(self, item: HypervisorItem) -> None:
        """One call."""
        item.result = await getattr(self.driver, item.call)(*item.arguments, **item.named)


class Agent(uvm_agent):
    """A sequencer, its driver of the given kind and, where there is a link, its monitor."""

    def __init__(self, name: str, parent: uvm_component, driver: type[_Driver], link: bool = True) -> None:
        super().__init__(name, parent)
        self._driver, self._link = driver, link

    def build_phase(self) -> None:
        """Make the parts."""
        super().build_phase()
        self.sequencer = uvm_sequencer("sequencer", self)
        self.driver: Any = self._driver("driver", self)
        if self._link:
            self.monitor = LinkMonitor("monitor", self)

    def connect_phase(self) -> None:
        """Join driver and sequencer."""
        self.driver.seq_item_port.connect(self.sequencer.seq_item_export)
