"""Names of the bytes of a run: one name for a byte of the guest, wherever it lives."""

from collections.abc import Mapping
from dataclasses import dataclass, field

__all__ = ["LINE", "PAGE", "CheckConfig", "Location", "Range", "answers_of", "host_name"]

PAGE, LINE = 4096, 64

#: Byte names are integers: offset into the guest window, or this bit block for what stays at a host, or for interrupts.
HOST_SPACE = (1 << 60, 2 << 60)
INTERRUPT_SPACE = 3 << 60

Location = int


def host_name(host: int) -> str:
    """What a reader calls ``host``."""
    return f"Host {'AB'[host]}"


def answers_of(agent: str) -> str:
    """What names the completions of a device."""
    return f"answers of {agent}"


@dataclass(frozen=True)
class Range:
    """``size`` bytes of addresses from ``base`` on; ``offset`` is added on the way to the other host (apertures only)."""

    base: int
    size: int
    offset: int = 0

    def __contains__(self, address: int) -> bool:
        return self.base <= address < self.base + self.size


@dataclass
class CheckConfig:
    """What a checker must know of a run beside its log.

    ``window`` is the guest window as the device uses it, ``host_b_offset`` what Host B adds; with ``hosts`` 1 "Host B" is the
    memory of Host A that is so far away (:meth:`place`). ``engine_ids`` are the interposer's own requester IDs.
    ``owned_by_b`` are the pages of the window that belong to Host B at the start; ``active_host`` gets what lies outside the window.
    ``interrupts`` are the ranges whose writes are interrupts, ``notify`` the interrupt addresses that the interposer writes by itself.
    ``global_order`` demands the order of the device's writes over both hosts, as an observer with a path of its own sees it (fence policy).
    ``detours``: requester IDs under which what devices send to pages arrives on a way of its own, through the on-the-side device. Between that way
    and the straight one order is demanded of each byte, and where agents could see it, not else: nobody else sees a page while it is led aside.
    ``line_atomic`` demands that an access inside one 64-byte line sees one moment: stronger than PCIe, and what drivers assume.
    ``groups`` names, by agent and by requester ID, devices that keep order within their group alone, for they were declared independent or use
    another traffic class (H24d); by :func:`answers_of` an agent, the group of its completions, which have the class of their request.
    ``pieces``: large writes may come in pieces that end at multiples of so many bytes, for a port has a limit of payload (H24c); 0, they do not.
    ``hold_limit`` bounds every stretch of holding in cycles, ``slack`` is what may come on top.
    """

    window: Range
    host_b_offset: int = 0
    engine_ids: frozenset[int] = frozenset()
    owned_by_b: frozenset[int] = frozenset()
    active_host: int = 0
    interrupts: tuple[Range, ...] = ()
    notify: frozenset[int] = frozenset()
    apertures: dict[int, Range] = field(default_factory=dict)
    global_order: bool = False
    detours: frozenset[int] = frozenset()
    line_atomic: bool = True
    groups: Mapping[str | int, int] = field(default_factory=dict)
    pieces: int = 0
    hold_limit: int | None = None
    hosts: int = 2
    slack: int = 200

    def group_of(self, who: str | int) -> int:
        """Group in which the agent or requester ID keeps order; 0 is that of all that were not declared independent."""
        return self.groups.get(who, 0)

    def group_of_answers(self, agent: str) -> int:
        """Group of the completions of a device."""
        return self.groups.get(answers_of(agent), self.group_of(agent))

    def of_device(self, address: int) -> Location:
        """Name of the byte that a device calls ``address``."""
        for interrupts in self.interrupts:
            if address in interrupts:
                return INTERRUPT_SPACE | address
        if address in self.window:
            return address - self.window.base
        return HOST_SPACE[self.active_host] | address

    def of_host(self, host: int, address: int) -> Location:
        """Name of the byte that stands at ``address`` of the memory of ``host``."""
        offset = ((address - self.host_b_offset) % (1 << 64) if host else address) - self.window.base
        if 0 <= offset < self.window.size:
            return offset
        return HOST_SPACE[host] | address

    def of_cpu(self, host: int, address: int) -> tuple[int, Location]:
        """Host whose memory the CPU of ``host`` reaches at ``address``, and the name of the byte there."""
        if self.is_remote(host, address):
            return 1 - host, self.of_host(1 - host, (address + self.apertures[host].offset) % (1 << 64))
        place = self.place(host, address)
        return place, self.of_host(place, address)

    def is_remote(self, host: int, address: int) -> bool:
        """Whether the CPU of ``host`` reaches ``address`` through its aperture."""
        return host in self.apertures and address in self.apertures[host]

    def place(self, host: int, address: int) -> int:
        """Host that stands for the memory of ``host`` in which ``address`` is."""
        return int((address - self.window.base - self.host_b_offset) % (1 << 64) < self.window.size) if self.hosts == 1 else host

    def name(self, location: Location) -> str:
        """The byte ``location`` for a reader."""
        if location < HOST_SPACE[0]:
            return f"page {location // PAGE} offset {location % PAGE:#05x}"
        if location >= INTERRUPT_SPACE:
            return f"interrupt {location & ~INTERRUPT_SPACE:#x}"
        return f"address {location & (1 << 60) - 1:#x} of {host_name((location >> 60) - 1)}"
