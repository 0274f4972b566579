"""The machine around the hardware: a device link with its functions, one or two hosts, and the clock.

    function ── function          Host A: root complex ── memory, CPU
        └── device link ── DUT ──<
                                  Host B: root complex ── memory, CPU

With one host Host A has both memories, and the name of Host B is another one of it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any

from cocotb.triggers import Trigger

from pagehop_tb.pins import BeatFormat, CreditConfig, Fabric, PortCredits, TlpPortAgent, sparse
from pagehop_tb.pins.access import bit_reader, number_reader, text_reader

from .cpu import Aperture, Cpu, CpuRegisters
from .device import DeviceConfig, DeviceFunction, DeviceLink
from .link_watch import watch_link
from .memory import HostMemory
from .observer import Observer
from .root_complex import RootComplex, RootComplexConfig
from .values import UniqueValues

__all__ = ["Host", "Machine", "System", "SystemConfig"]

HOST_PORTS = ("host_a", "host_b")


def _host_credits() -> PortCredits:
    return PortCredits(CreditConfig(64, 1024), CreditConfig(64, 256))


@dataclass(frozen=True, slots=True)
class SystemConfig:
    """Everything that a bench chooses. ``seed`` decides all that is random.

    ``functions`` of the device; ``hosts``, the behaviour of each root complex, one or two; ``apertures``, the (base, size) of each host's
    aperture or ``None``;
    ``identities`` and ``register_bases`` of the interposer's ports: device, then hosts, as each link knows them. ``pauses`` is the share of
    cycles in which a stream stands still, ``shuffle`` the probability that a class overtakes where it may. ``device_credits`` and
    ``host_credits`` are granted to the DUT. ``mps`` of the links of the device, Host A and Host B: what the DUT may send there. ``read_back``: CPUs
    read back what they store through the aperture (O9).
    """

    seed: int = 0
    data_bytes: int = 64
    period_ns: int = 4
    functions: tuple[DeviceConfig, ...] = (DeviceConfig("nvme", 0x0108), DeviceConfig("nic", 0x0110))
    hosts: tuple[RootComplexConfig, ...] = field(default_factory=lambda: (RootComplexConfig(), RootComplexConfig()))
    apertures: tuple[tuple[int, int] | None, tuple[int, int] | None] = (None, None)
    identities: tuple[int, int, int] = (0x0100, 0x0208, 0x0310)
    register_bases: tuple[int, int] = (0xF000_0000, 0xE0_F000_0000)
    pauses: float = 0.0
    shuffle: float = 0.0
    device_credits: PortCredits = field(default_factory=PortCredits)
    host_credits: PortCredits = field(default_factory=_host_credits)
    mps: tuple[int, int, int] = (256, 256, 256)
    read_back: bool = True


class Host:
    """One host: ``memory``, ``root_complex``, ``cpu``, and ``registers``, the interposer's BAR as its CPU reaches it."""

    def __init__(self, number: int, port: TlpPortAgent, fabric: Fabric, observer: Observer, config: SystemConfig, seed: int) -> None:
        self.number = number
        self.port = port
        self.memory = HostMemory()
        self.root_complex = RootComplex(number, port, self.memory, fabric, observer, config.hosts[number], seed)
        given = config.apertures[number]
        aperture = Aperture(*given) if given is not None else None
        self.cpu = Cpu(number, self.root_complex, self.memory, fabric, observer, aperture, read_back=config.read_back)
        self.registers = CpuRegisters(self.cpu, config.register_bases[number])


class _Commits:
    """Reports the owner changes that the hardware announces: one in each cycle in which ``commit`` is high."""

    def __init__(self, dut: Any, fabric: Fabric, observer: Observer) -> None:
        self.fabric = fabric
        self.observer = observer
        self.active = False
        self._commit = dut.commit
        self._page, self._host = number_reader(dut.commit_page), bit_reader(dut.commit_host)
        fabric.add(self, text_reader(dut.commit))

    def edge(self) -> bool:
        """There is a commit at this edge, and there may be one at the next."""
        self.observer.commit(self.fabric.cycle, self._page(), int(self._host()))
        return True

    def wakes(self) -> list[Trigger]:
        """The announcement begins."""
        return [self._commit.value_change]


class _Holding:
    """Reports when the hardware starts and stops to hold accesses."""

    def __init__(self, dut: Any, fabric: Fabric, observer: Observer) -> None:
        self.fabric = fabric
        self.observer = observer
        self.active = False
        self._level = 0
        self._holding = dut.holding
        self._read = number_reader(dut.holding)
        # With one slot the text says it by itself, which is quicker.
        fabric.add(self, text_reader(dut.holding) if len(dut.holding) == 1 else lambda: "1" if self._read() else "0")

    def edge(self) -> bool:
        """Accesses are being held, or were at the last edge."""
        level = self._read()
        if level != self._level:
            self._level, self.active = level, level != 0
            self.observer.holding(self.fabric.cycle, level)
        return False

    def wakes(self) -> list[Trigger]:
        """It starts or stops."""
        return [self._holding.value_change]


class Machine:
    """What stands around any ``dut`` with a link to a device and links to hosts, of the names of its ports. Every event goes to ``observer``.

    *Members*: ``fabric``, ``ports`` by name, ``hosts`` (A, B), ``link`` and ``functions`` by name, ``values``, the source of unique data.
    """

    def __init__(self, dut: Any, config: SystemConfig, observer: Observer, names: Sequence[str]) -> None:
        self.dut = dut
        self.config = config
        self.observer = observer
        self.random = Random(f"{config.seed}/system")
        self.values = UniqueValues()
        self.fabric = Fabric(dut.clk, dut.rst, config.period_ns, self._seed())
        self.ports = {name: self._port(name, mps) for name, mps in zip(("device", *names), config.mps, strict=False)}
        hosts = [Host(number, self.ports[name], self.fabric, observer, config, self._seed()) for number, name in enumerate(names)]
        self.hosts = (hosts[0], hosts[-1])
        self.link = DeviceLink(self.ports["device"], self.fabric, observer)
        self.functions = {one.name: DeviceFunction(self.link, one, self._seed()) for one in config.functions}
        for number, port in enumerate(self.ports.values()):
            watch_link(port, number, self.fabric, observer, self.link.functions)

    def _seed(self) -> int:
        return self.random.getrandbits(32)

    def _port(self, name: str, mps: int, granted: PortCredits | None = None) -> TlpPortAgent:
        config = self.config
        pauses = [sparse(self._seed(), config.pauses) if config.pauses else None for _ in range(2)]
        if granted is None:
            granted = config.device_credits if name == "device" else config.host_credits
        return TlpPortAgent(self.dut, name, self.fabric, BeatFormat(config.data_bytes), granted, mps=mps, seed=self._seed(),
                            shuffle=config.shuffle, source_pause=pauses[0], sink_pause=pauses[1])

    @property
    def cycle(self) -> int:
        """Rising edges of the fabric clock since the start."""
        return self.fabric.cycle

    @property
    def figures(self) -> dict[str, Any]:
        """Part of a result: cycles, and the share of those of the whole run, its idle times too, in which the device's wires carry a beat."""
        port, cycles = self.ports["device"], max(1, self.cycle)
        share = {"upstream": round(port.sent_beats / cycles, 4), "downstream": round(port.received_beats / cycles, 4)}
        return {"cycles": self.cycle, "clock_ns": self.config.period_ns, "wire_share": share}

    async def start(self) -> None:
        """Start the clock, and leave reset."""
        await self.fabric.start()

    def preset(self, host: int, address: int, data: bytes) -> None:
        """Put ``data`` into a host's memory before anything runs."""
        self.hosts[host].memory.write(address, data)
        self.observer.preset(host, address, data)

    async def quiesce(self, limit: int = 200_000) -> None:
        """Wait until nothing is on its way anywhere. Raises :class:`TimeoutError` with what is left after ``limit`` cycles."""
        started, seen = self.cycle, -1
        while True:
            # What is inside the DUT is seen by nobody; it comes out within these cycles, because all credits are back.
            await self.fabric.wait(200)
            received = sum(port.received for port in self.ports.values())
            left = self.busy()
            if not left and received == seen:
                return
            seen = received
            if self.cycle - started > limit:
                raise TimeoutError(f"After {limit} cycles there is still something on its way: {'; '.join(left) or 'TLPs keep coming'}")

    def busy(self) -> list[str]:
        """What is still on its way, as far as the models know."""
        found = [f"{name} has {function.outstanding} requests unanswered" for name, function in self.functions.items() if function.outstanding]
        found += [f"{name} has not sent or received all" for name, port in self.ports.items() if not port.idle]
        found += [f"the root complex of Host {'AB'[host.number]} is busy" for host in self.hosts if not host.root_complex.idle]
        found += [f"{name} has not got back credits: {', '.join(port.unreturned())}" for name, port in self.ports.items() if port.unreturned()]
        return found if found or self.link.idle else ["the device owes answers to a host"]

    def check_clean(self) -> None:
        """Fail when a TLP arrived that belonged to nothing."""
        places = [("the device", self.link.unexpected), *((f"Host {'AB'[host.number]}", host.root_complex.unexpected) for host in self.hosts)]
        for where, tlps in places:
            assert not tlps, f"{where} received {len(tlps)} TLPs that it did not expect, first {tlps[0]}"


class System(Machine):
    """The machine around the interposer ``dut``, which announces commits and holds."""

    def __init__(self, dut: Any, config: SystemConfig, observer: Observer) -> None:
        names = HOST_PORTS[:len(config.hosts)]
        super().__init__(dut, config, observer, names)
        dut.config_device.value = config.identities[0]
        for name, identity, base in zip(names, config.identities[1:], config.register_bases, strict=False):
            getattr(dut, f"config_{name}").value = identity | base << 16
        _Commits(dut, self.fabric, observer)
        _Holding(dut, self.fabric, observer)
