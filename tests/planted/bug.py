"""What a planted bug is, and how one is made."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from pagehop.interposer import top
from pagehop.interposer.slot import PageSlot
from pagehop.tlp.egress import Egress
from pagehop_sim.planted import edited
from pagehop_tb.checker.verdict import VIOLATIONS

__all__ = [
    "HARDWARE", "Bug", "with_egress", "with_host", "with_host_ingress", "with_ido", "with_ingress", "with_mover", "with_parts", "with_slot",
]

#: Small enough to elaborate and compile quickly, large enough for every bench.
HARDWARE = {"data_bytes": 64, "window_pages": 128}


@dataclass(frozen=True)
class Bug:
    """One rule left out of the hardware, and the bench that must find it.

    ``covers``: hazards, rules and invariants whose loss this is. ``design`` returns the broken component's class, which takes ``hardware``; it is one
    ``of`` :data:`pagehop_sim.mutants.DESIGNS`.
    ``expected`` is a part of what the bench says: the name of a violation or words of a message. ``seeds`` is the budget: the bug is found
    within so many, from the seed ``first`` on.
    """

    name: str
    covers: tuple[str, ...]
    design: Callable[[], Any]
    bench: str
    parameters: Mapping[str, Any]
    expected: str
    hardware: Mapping[str, Any] = field(default_factory=lambda: dict(HARDWARE))
    seeds: int = 1
    first: int = 1
    simulator: str = "icarus"
    of: str = "interposer"

    def found(self, violations: Mapping[str, int], failures: Mapping[str, str]) -> bool:
        """Whether a run with these violations and failed tests has found this bug, and not something else."""
        if self.expected in VIOLATIONS:
            return violations.get(self.expected, 0) > 0
        return bool(failures) and any(self.expected in message for message in failures.values())


def with_ido(value: str) -> Any:
    """An Interposer whose egresses to the hosts set IDO to ``value`` instead of 0."""
    usual = "m.d.comb += cleared.id_ordering.eq(0)\n"
    return with_host(Egress=edited(Egress, (
        usual, f"{usual}            with m.If(planted_here):\n                m.d.comb += cleared.id_ordering.eq({value})\n")))


def with_parts(*changes: tuple[str, str], **parts: object) -> Any:
    """An Interposer with these changes of its own source, made of these parts."""
    return edited(top.Interposer, *changes, **parts)


def with_ingress(*changes: tuple[str, str], **parts: object) -> Any:
    """An Interposer whose device ingress is changed, or made of other parts."""
    return with_parts(DeviceIngress=edited(top.DeviceIngress, *changes, **parts))


def with_host(*changes: tuple[str, str], **parts: object) -> Any:
    """An Interposer both of whose host sides are changed, or made of other parts."""
    return with_parts(_Host=edited(top._Host, *changes, **parts))


def with_egress(*changes: tuple[str, str], **parts: object) -> Any:
    """An Interposer all of whose ways out are changed, or made of other parts."""
    broken = edited(Egress, *changes, **parts)
    return with_parts(Egress=broken, _Host=edited(top._Host, Egress=broken))


def with_mover(**parts: object) -> Any:
    """An Interposer whose slots or copy engines are changed."""
    return with_parts(_Mover=edited(top._Mover, **parts))


def with_slot(*changes: tuple[str, str]) -> Any:
    """An Interposer whose page slot is changed."""
    return with_mover(PageSlot=edited(PageSlot, *changes))


def with_host_ingress(*changes: tuple[str, str], **parts: object) -> Any:
    """An Interposer whose host ingresses are changed, or made of other parts."""
    return with_host(HostIngress=edited(top.HostIngress, *changes, **parts))
