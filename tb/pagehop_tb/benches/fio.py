"""How quickly a whole guest moves while its devices do their DMA, and what the move costs them: a recorded trace, the move queue, all slots.

``values`` of the result say it, as ``make bench`` prints them. The wire limit of the copy path: a page takes PAGE / ``data_bytes`` beats, in TLPs of
MPS bytes, on the wire from Host A and as many on that to Host B. What the devices do goes over the same wires and leaves that much less.
"""

from dataclasses import replace
from typing import Any

import cocotb
from cocotb.triggers import TaskManager

from pagehop_tb.benches.copy_rate import DEVICE_SHARE, ROUND_TRIP, ROUND_TRIPS, SHARE
from pagehop_tb.benches.frame import BenchConfig
from pagehop_tb.benches.guest import PAGE, Guest, judged
from pagehop_tb.benches.performance import report
from pagehop_tb.benches.trace import TraceAccess, read_accesses, touched_pages
from pagehop_tb.checker.log import Kind
from pagehop_tb.models.delay import Delay
from pagehop_tb.models.devices import TraceReplay
from pagehop_tb.models.system import SystemConfig
from pagehop_tb.pins import CreditConfig, PortCredits

WINDOW_BASE = 0
#: Devices that use no more of any wire leave it to the copy.
LEFT_ALONE = 0.05

Accesses = list[TraceAccess]


class Run:
    """A piece of the replay: how long it took, and how many beats the wires of the hosts carried meanwhile, from each host and to each."""

    def __init__(self, guest: Guest, manager: TaskManager, accesses: dict[str, Accesses], gap: int, passes: int | None = None) -> None:
        self.system = guest.system
        self.began, self._before = self.system.cycle, self._beats()
        self.replays = {name: TraceReplay(self.system.functions[name], of_one, self.system.values, gap=gap)
                        for name, of_one in accesses.items() if of_one}
        self._tasks = [manager.start_soon(replay.run(passes)) for replay in self.replays.values()]
        self.cycles, self.busiest = 0, 0.0

    def _beats(self) -> list[int]:
        ports = [self.system.ports[name] for name in ("host_a", "host_b")]
        return [count for port in ports for count in (port.sent_beats, port.received_beats)]

    async def end(self) -> None:
        """Wait until the replays have ended and their reads are answered."""
        for task in self._tasks:
            await task
        self.cycles = self.system.cycle - self.began
        self.busiest = max(now - before for now, before in zip(self._beats(), self._before, strict=True)) / self.cycles

    def rate(self) -> float:
        """Bytes a cycle that the devices have read and written."""
        return sum(replay.read + replay.written for replay in self.replays.values()) / self.cycles


def _machine(usual: SystemConfig) -> SystemConfig:
    """Hosts that answer each read after the same time, in completions of MPS, and whose credits never limit."""
    hosts = tuple(replace(host, gap=Delay(0, 0), cut=0.0) for host in usual.hosts)
    return replace(usual, hosts=(hosts[0], hosts[1]), host_credits=PortCredits(CreditConfig(infinite=True), CreditConfig(infinite=True)))


@cocotb.test(timeout_time=100, timeout_unit="ms")
async def fio(dut: Any) -> None:
    """All pages of the trace move from Host A to Host B by the move queue. What the devices did meanwhile they then do once more without moves."""
    config = BenchConfig("fio")
    assert config.trace is not None, "fio needs a trace"
    accesses = read_accesses(config.trace)
    gap = config.get("gap", 1200)
    guest = Guest(dut, config, WINDOW_BASE, config.covered_pages, machine=_machine)
    config.refuse_unknown()
    pages = touched_pages(accesses, config.covered_pages)
    for page in pages:
        guest.fill(page)
    of_function = {name: [access for access in accesses if access.device == name] for name in guest.system.functions}
    values: dict[str, tuple[float, float | None, str, str]] = {}

    async def scenario(manager: TaskManager) -> None:
        await guest.start()
        moving = Run(guest, manager, of_function, gap)
        await guest.move_all([(page, 1) for page in pages], config.progress)
        for replay in moving.replays.values():
            replay.stop = True
        await moving.end()
        await guest.system.quiesce()
        again = Run(guest, manager, {name: _cyclic(of_function[name], replay.issued) for name, replay in moving.replays.items()}, gap, 1)
        await again.end()
        values.update(_values(config, guest, moving, again))
        config.progress(len(pages) + 1, len(pages) + 1, "checking")

    await judged(guest, scenario, {"read_bytes": 1, "final_bytes": len(pages) * PAGE})
    report(config, values)


def _cyclic(accesses: Accesses, count: int) -> Accesses:
    """The first ``count`` accesses of a trace that is repeated."""
    return (accesses * -(-count // len(accesses)))[:count]


def _values(config: BenchConfig, guest: Guest, moving: Run, again: Run) -> dict[str, tuple[float, float | None, str, str]]:
    """What is reported: pages from the first descriptor to the last record, and the devices' accesses beside it and once more without it.

    The copy has a limit in mode hold where the wire is what limits it, and not round trips, and the devices leave it that wire. The devices have one
    where they do, and in mode merge where they and the copy together ask for no more of a wire than the copy alone can fill. In mode hold what a
    quick device loses is mostly its waits for pages that are held, with all that stands behind such an access, and not the wire.
    """
    began = next(event[1] for event in guest.log.events if event[0] == Kind.MOVE_BEGIN)
    moved = [event[1] for event in guest.log.events if event[0] == Kind.MOVE_END and event[4]]
    beats, cycles, clock = PAGE // config.data_bytes, (max(moved) - began) / len(moved), guest.system.config.period_ns
    share, own, holds = beats / cycles, again.busiest, config.get("mode", "hold") == "hold"
    wire_limits = holds and own <= LEFT_ALONE and beats >= (ROUND_TRIPS * ROUND_TRIP + beats) / config.slots
    room_left = own <= LEFT_ALONE or (not holds and own + share <= SHARE)
    return {
        "fio_pages_per_second": (1e9 / clock / cycles, None, "pages/s", "higher"),
        "fio_cycles_a_page": (cycles, None, "cycles/page", "lower"),
        "fio_share_of_the_wire": (share, SHARE if wire_limits else None, "share", "higher"),
        "fio_busiest_wire": (moving.busiest, None, "share", "higher"),
        "fio_device_rate": (again.rate() * 1e3 / clock, None, "MB/s", "higher"),
        "fio_device_wire": (own, None, "share", "higher"),
        "fio_device_keeps": (moving.rate() / again.rate(), DEVICE_SHARE if room_left else None, "share", "higher"),
    }
