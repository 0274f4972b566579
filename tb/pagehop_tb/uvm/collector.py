"""Coverage: samples what the monitors publish into the groups of :mod:`pagehop_tb.uvm.bins`, counted by cocotb-coverage."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from cocotb_coverage.coverage import CoverCross, CoverPoint, coverage_db
from pyuvm import uvm_subscriber

from pagehop_tb.checker.space import CheckConfig
from pagehop_tb.driver import interposer_registers as regs
from pagehop_tb.protocol import Kind, Tlp
from pagehop_tb.uvm.bins import DIRECTION, GROUPS, HOSTS, REFUSALS, STOPS
from pagehop_tb.uvm.events import AtHold, Harvested, LinkTlp, Moved, MoveWatch, Refused, error_name
from pagehop_tb.uvm.shapes import shape_of

__all__ = ["Collector", "Layout"]

FOUR_GB = 1 << 32
_NAMES = {Kind.MWR: "MWr", Kind.MRD: "MRd", Kind.FETCH_ADD: "FetchAdd", Kind.SWAP: "Swap", Kind.CAS: "CAS", Kind.MSG: "Msg", Kind.MSGD: "Msg"}
_CONFIG = {Kind.CFGRD0: "config read", Kind.CFGWR0: "config write"}
_STATUS = {0: "SC", 1: "UR", 4: "CA"}


def _sampler(group: str) -> Callable[..., None]:
    """Return a function that counts one sample of a group: the names of the bins of its points, in their order."""
    points = GROUPS[group][1]

    def counted(*values: str) -> None:
        """The library counts before this is called."""

    wrapped: Any = CoverCross(f"pagehop.{group}.cross", items=[f"pagehop.{group}.{name}" for name in points])
    # The cross is made after its points, and called after them: so it is the innermost of the decorators.
    return wrapped(counted)


class _Samplers:
    """One function a group."""

    def __init__(self) -> None:
        self._groups = {group: self._make(group) for group in GROUPS}

    @staticmethod
    def _make(group: str) -> Callable[..., Any]:
        points = GROUPS[group][1]
        decorators = [CoverPoint(f"pagehop.{group}.{name}", xf=lambda *values, _at=at: values[_at], bins=list(bins))
                      for at, (name, bins) in enumerate(points.items())]
        function: Any = _sampler(group)
        for decorator in decorators:
            function = decorator(function)
        return function

    def __call__(self, group: str, *values: str) -> None:
        for value, (name, bins) in zip(values, GROUPS[group][1].items(), strict=True):
            if value not in bins:
                raise ValueError(f"{name} of {group} must be one of {', '.join(bins)}, not {value!r}")
        self._groups[group](*values)


class Layout:
    """Where things stand, for who reads addresses: ``devices`` by requester ID, ``bars`` of the device's functions, ``registers`` of each host."""

    def __init__(self, space: CheckConfig, devices: dict[int, str], bars: list[tuple[int, int]], registers: tuple[int, int]) -> None:
        self.space, self.devices, self.bars, self.registers = space, devices, bars, registers


class Collector(uvm_subscriber):
    """Samples every event that it is written. ``layout``, ``watch`` and ``fence()`` are set by the environment before the first."""

    layout: Layout
    watch: MoveWatch
    fence: Callable[[], bool]

    def build_phase(self) -> None:
        """Make the bins."""
        self.sample = _Samplers()
        self.events = 0
        self._posted_to: int | None = None
        self._parts: dict[tuple[int, int], list[Any]] = {}
        self._from: dict[tuple[int, int], int] = {}
        self._configs: dict[tuple[int, int], str] = {}

    def write(self, tt: Any) -> None:
        """Sample one event."""
        self.events += 1
        if isinstance(tt, LinkTlp):
            self.watch.seen(tt)
            if tt.port == 0:
                (self._from_device if tt.sent else self._to_device)(tt.tlp)
            else:
                (self._from_host if tt.sent else self._to_host)(tt.port - 1, tt.tlp)
        elif isinstance(tt, Moved):
            name, direction = error_name(tt.error), _direction(tt.to_host)
            self.sample("moves", name, direction)
            if name in STOPS:
                self.sample("stops", name, tt.stopped_in, direction)
        elif isinstance(tt, Refused):
            assert error_name(tt.error) in REFUSALS
            self.sample("moves", error_name(tt.error), _direction(tt.to_host))
        elif isinstance(tt, AtHold):
            self.sample("in flight", _yes(tt.posted), _yes(tt.reads), _yes(tt.atomics), _direction(tt.to_host))
        elif isinstance(tt, Harvested):
            phase = {"gate": "held", "copy": "held", "flush": "held", "drain": "drains"}.get(tt.phase, "no move")
            self.sample("harvests", "take" if tt.clear else "peek", phase, "pages" if tt.bits else "nothing")

    def export(self, path: Path) -> None:
        """Write the counts where the merger finds them."""
        coverage_db.export_to_yaml(str(path))

    # The device's link

    def _state(self, page: int | None, directed: bool) -> str:
        """Where a page stands: with the direction of its move, or without."""
        watch = self.watch
        if page is None:
            return "outside"
        if page == watch.page and watch.phase in ("gate", "copy", "flush", "drain"):
            name = "drains" if watch.phase == "drain" else "held"
            return f"{name} {_direction(watch.to_host)}" if directed else name
        return f"at {'AB'[watch.owner(page)]}"

    def _from_device(self, tlp: Tlp) -> None:
        if tlp.is_completion:
            self._change("C", tlp.tag >> 6 & 1)     # docs/interposer.md: at the device port a tag of ours is 1 h iiiiii
            return
        kind, page = self._kind(tlp), None if tlp.is_message else self.watch.page_of(tlp.address)
        self.sample("requests", kind, self._state(page, True))
        posted = tlp.kind in (Kind.MWR, Kind.MSG, Kind.MSGD)
        if not posted:
            self._parts[tlp.requester_id, tlp.tag] = [tlp, page, 0, False]
        if tlp.is_memory and kind != "MSI":
            self.sample("attributes", kind, "RO" if tlp.relaxed_ordering else "-", "IDO" if tlp.id_ordering else "-",
                        self.layout.devices[tlp.requester_id])
        if page is None:
            self._change("P" if posted else "NP", self.layout.space.active_host)
            return
        if kind in ("MWr", "MRd", "flush"):
            self.sample("bytes", "MWr" if posted else "MRd", shape_of(tlp), self._state(page, False))
        # Who gets what touches a page that moves is not known here.
        self._change("P" if posted else "NP", None if page == self.watch.page else self.watch.owner(page))

    def _change(self, flow: str, host: int | None) -> None:
        last = self._posted_to
        if last is not None and host is not None:
            change = "none" if last == host else f"{'AB'[last]} to {'AB'[host]}"
            self.sample("destination", flow, change, "on" if self.fence() else "off")
        if flow == "P":
            self._posted_to = host

    def _kind(self, tlp: Tlp) -> str:
        if tlp.kind is Kind.MWR and any(tlp.address in interrupts for interrupts in self.layout.space.interrupts):
            return "MSI"
        return "flush" if tlp.kind is Kind.MRD and shape_of(tlp) == "no byte" else _NAMES[tlp.kind]

    def _to_device(self, tlp: Tlp) -> None:
        if not tlp.is_completion:
            return
        parts = self._parts[tlp.requester_id, tlp.tag]
        parts[2] += 1
        parts[3] |= tlp.poisoned
        request, page, count, poisoned = parts
        left = tlp.byte_count - (len(tlp.data) - (tlp.lower_address & 3)) if tlp.has_data else 0
        if not tlp.status and left > 0:
            return
        del self._parts[tlp.requester_id, tlp.tag]
        kind = "atomic" if request.is_atomic else "flush" if shape_of(request) == "no byte" else "read"
        status = "poisoned" if poisoned else _STATUS[tlp.status]
        if status == "SC":
            number = "1" if count == 1 else "2 to 3" if count < 4 else "4 and more"
            self.sample("parts", kind, number, HOSTS[self._from[tlp.requester_id, tlp.tag]])
        if page is not None and kind != "flush":
            self.sample("answers", kind, status, self._state(page, False))

    # The hosts' links

    def _to_host(self, host: int, tlp: Tlp) -> None:
        space = self.layout.space
        if tlp.is_completion:
            kind = self._configs.pop((host, tlp.tag), None)
            if kind is not None:
                self.sample("configuration", kind, HOSTS[host], _STATUS[tlp.status])
            return
        if tlp.requester_id not in self.layout.devices:
            return
        if tlp.is_message:
            self.sample("active host", "Msg", HOSTS[host])
            return
        kind, page = self._kind(tlp), self.watch.page_at(host, tlp.address)
        if kind == "MSI" or page is None:
            if kind != "flush":
                self.sample("active host", "atomic" if tlp.is_atomic else kind, HOSTS[host])
            before = tlp.address
        else:
            before = (tlp.address - space.host_b_offset) % (1 << 64) if host else tlp.address
        if kind != "MSI":
            self.sample("header", kind, f"{4 if before >= FOUR_GB else 3} to {4 if tlp.four_dw else 3}")

    def _from_host(self, host: int, tlp: Tlp) -> None:
        if tlp.is_completion:
            if tlp.requester_id in self.layout.devices:
                self._from[tlp.requester_id, tlp.tag] = host
            return
        if tlp.is_config:
            self._configs[host, tlp.tag] = _CONFIG[tlp.kind].removeprefix("config ")
            self.sample("hosts", _CONFIG[tlp.kind], HOSTS[host])
            return
        writes, base = tlp.kind is Kind.MWR, self.layout.registers[host]
        if tlp.address in self.layout.space.apertures[host]:
            name = "aperture store" if writes else "aperture load" if tlp.first_be else "aperture flush"
        elif base <= tlp.address < base + regs.SIZE:
            name = "register write" if writes else "register read"
            if writes and tlp.address - base == regs.MoveCommand.offset and self.watch.phase == "drain":
                command = int.from_bytes(tlp.data, "little")
                self.sample("too late", "abort" if regs.MoveCommand.ABORT.get(command) else "start", _direction(self.watch.to_host))
        elif any(start <= tlp.address < start + size for start, size in self.layout.bars):
            name = "doorbell" if writes else "device register"
        else:
            return
        self.sample("hosts", name, HOSTS[host])


def _direction(to_host: int) -> str:
    return DIRECTION[0] if to_host else DIRECTION[1]


def _yes(count: int) -> str:
    return "yes" if count else "no"
