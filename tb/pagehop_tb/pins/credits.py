"""Credits of one direction of a link, as PCIe counts them (2.6.1.1): cumulative, modulo their width.

A class takes 21 bits of the packed limits: header 8, data 12, infinite 1; posted stands least significant, then non-posted, then completion.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random

from pagehop_tb.protocol import FlowClass, Tlp

from .fabric import Fabric

__all__ = ["CreditConfig", "CreditError", "Grants", "PortCredits", "Usage"]

HEADER_BITS, DATA_BITS, CLASS_BITS = 8, 12, 21
_HEADER_MASK, _DATA_MASK = (1 << HEADER_BITS) - 1, (1 << DATA_BITS) - 1
_INFINITE = 1 << HEADER_BITS + DATA_BITS


class CreditError(AssertionError):
    """A side of the link broke the rules of credits."""


@dataclass(slots=True)
class CreditConfig:
    """What a receiver grants to one class: credits outstanding at most, and the cycles from release to the new limit, picked between two bounds."""

    header: int = 64
    data: int = 1024
    infinite: bool = False
    delay: tuple[int, int] = (2, 6)

    def __post_init__(self) -> None:
        if not 1 <= self.header <= 1 << HEADER_BITS - 1:
            raise ValueError(f"Header credits must be 1 to {1 << HEADER_BITS - 1}, not {self.header}")
        if not 1 <= self.data <= 1 << DATA_BITS - 1:
            raise ValueError(f"Data credits must be 1 to {1 << DATA_BITS - 1}, not {self.data}")
        if not 0 <= self.delay[0] <= self.delay[1]:
            raise ValueError(f"Delay of credits must be a range of cycles, not {self.delay}")


@dataclass(slots=True)
class PortCredits:
    """Credits that a port grants, by class. Completions are infinite by default, as at endpoints and most root complexes."""

    posted: CreditConfig = field(default_factory=CreditConfig)
    non_posted: CreditConfig = field(default_factory=CreditConfig)
    completion: CreditConfig = field(default_factory=lambda: CreditConfig(infinite=True))


class Usage:
    """Sender's side: counts what was sent, and says what the partner's limits allow."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.header = [0, 0, 0]
        self.data = [0, 0, 0]
        self._limits = 0
        self._first: int | None = None

    def update(self, limits: int) -> None:
        """Take over new packed limits. They may only grow, and never to more than half of a range beyond what was consumed."""
        if self._first is None:
            self._first = limits
        if limits == self._limits:
            return
        for flow in range(3):
            word = limits >> CLASS_BITS * flow
            if word & _INFINITE:
                continue
            header, data = (word - self.header[flow]) & _HEADER_MASK, ((word >> HEADER_BITS) - self.data[flow]) & _DATA_MASK
            if header > 1 << HEADER_BITS - 1 or data > 1 << DATA_BITS - 1:
                raise CreditError(f"{self.name}: {FlowClass(flow).name} credits of {header}/{data} beyond what was consumed; "
                                  "at most half of the range may be outstanding")
        self._limits = limits

    def missing(self, limits: int) -> list[str]:
        """Classes in which the partner has not granted again all that was sent: what was free at first must be free again in the end."""
        found: list[str] = []
        if self._first is None:
            return found
        for flow in FlowClass:
            first, word = self._first >> CLASS_BITS * flow, limits >> CLASS_BITS * flow
            if word & _INFINITE:
                continue
            header = (first & _HEADER_MASK) - ((word - self.header[flow]) & _HEADER_MASK)
            data = (first >> HEADER_BITS & _DATA_MASK) - ((word >> HEADER_BITS) - self.data[flow] & _DATA_MASK)
            if header > 0 or data > 0:
                found.append(f"{flow.name} {header}/{data}")
        return found

    def allows(self, tlp: Tlp) -> bool:
        """Whether the last limits cover ``tlp``."""
        flow = tlp.flow
        word = self._limits >> CLASS_BITS * flow
        if word & _INFINITE:
            return True
        return bool((word - self.header[flow]) & _HEADER_MASK) and ((word >> HEADER_BITS) - self.data[flow]) & _DATA_MASK >= tlp.data_credits

    def consume(self, tlp: Tlp) -> None:
        """Count ``tlp`` as sent."""
        self.header[tlp.flow] += 1
        self.data[tlp.flow] += tlp.data_credits


class Grants:
    """Receiver's side: drives the limits, takes them back from what arrives, and grants again what is released.

    ``drive`` is called with the packed limits whenever they change. A class that is starved keeps what is released until :meth:`feed`.
    """

    def __init__(self, name: str, config: PortCredits, fabric: Fabric, random: Random, drive: Callable[[int], None]) -> None:
        self.name = name
        self.fabric = fabric
        self.random = random
        self.drive = drive
        self.config = (config.posted, config.non_posted, config.completion)
        self._header = [one.header for one in self.config]
        self._data = [one.data for one in self.config]
        self._used_header = [0, 0, 0]
        self._used_data = [0, 0, 0]
        self._outstanding = [0, 0, 0]
        self._starved = [False, False, False]
        self._kept: list[list[tuple[int, int]]] = [[], [], []]
        self._due: dict[int, list[tuple[int, int, int]]] = {}
        self._send()

    @property
    def settled(self) -> bool:
        """All that was received has been granted again."""
        return not any(self._outstanding)

    def arrived(self, tlp: Tlp) -> None:
        """Check that ``tlp`` was within its credits."""
        flow, data = tlp.flow, tlp.data_credits
        self._outstanding[flow] += 1
        if self.config[flow].infinite:
            return
        self._used_header[flow] += 1
        self._used_data[flow] += data
        if self._used_header[flow] > self._header[flow] or self._used_data[flow] > self._data[flow]:
            raise CreditError(f"{self.name}: {tlp} exceeds its credits: {self._used_header[flow]}/{self._used_data[flow]} used, "
                              f"{self._header[flow]}/{self._data[flow]} granted")

    def release(self, tlp: Tlp) -> None:
        """The room of ``tlp`` is free: grant it again after the delay of its class."""
        flow, data = tlp.flow, tlp.data_credits
        if self.config[flow].infinite:
            self._outstanding[flow] -= 1
        elif self._starved[flow]:
            self._kept[flow].append((1, data))
        else:
            self._schedule(flow, 1, data)

    def starve(self, flow: FlowClass) -> None:
        """Grant nothing to this class until :meth:`feed`."""
        self._starved[flow] = True

    def feed(self, flow: FlowClass) -> None:
        """End the starvation of this class."""
        self._starved[flow] = False
        kept, self._kept[flow] = self._kept[flow], []
        for header, data in kept:
            self._schedule(flow, header, data)

    def _schedule(self, flow: int, header: int, data: int) -> None:
        low, high = self.config[flow].delay
        cycle = self.fabric.cycle + (self.random.randint(low, high) if high > low else low)
        due = self._due.get(cycle)
        if due is None:
            # One timer and one write of the limits serve all that becomes free in the same cycle.
            self._due[cycle] = [(flow, header, data)]
            self.fabric.at(cycle, lambda: self._grant(cycle))
        else:
            due.append((flow, header, data))

    def _grant(self, cycle: int) -> None:
        for flow, header, data in self._due.pop(cycle):
            self._header[flow] += header
            self._data[flow] += data
            self._outstanding[flow] -= 1
        self._send()

    def _send(self) -> None:
        limits = 0
        for flow in (2, 1, 0):
            one = _INFINITE if self.config[flow].infinite else (self._data[flow] & _DATA_MASK) << HEADER_BITS | self._header[flow] & _HEADER_MASK
            limits = limits << CLASS_BITS | one
        self.drive(limits)
