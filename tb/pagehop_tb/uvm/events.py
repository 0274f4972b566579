"""What the monitors publish, and where a move stands, as the bench can know it: from the event log and the links, never from inside the design."""

from collections import Counter
from dataclasses import dataclass

from cocotb.triggers import Event

from pagehop_tb.checker.log import EventLog
from pagehop_tb.checker.space import CheckConfig
from pagehop_tb.driver import interposer_registers as regs
from pagehop_tb.protocol import PAGE, Kind, Tlp

__all__ = ["AtHold", "Harvested", "LinkTlp", "Moved", "MoveWatch", "Refused", "Stopped"]


@dataclass(frozen=True, slots=True)
class LinkTlp:
    """A TLP on a link of the interposer. ``port``: 0 the device's, 1 and 2 those of Host A and B; ``sent`` by the link partner, else by the DUT."""

    port: int
    sent: bool
    cycle: int
    tlp: Tlp


@dataclass(frozen=True, slots=True)
class AtHold:
    """The hold of a page begins, while so many of the device's accesses to it are not over."""

    to_host: int
    posted: int
    reads: int
    atomics: int


@dataclass(frozen=True, slots=True)
class Stopped:
    """A hold ended without a commit; the error comes with :class:`Moved`."""

    to_host: int
    phase: str


@dataclass(frozen=True, slots=True)
class Moved:
    """A request for a move has ended."""

    to_host: int
    error: int
    stopped_in: str


@dataclass(frozen=True, slots=True)
class Refused:
    """A second start was refused."""

    to_host: int
    error: int


@dataclass(frozen=True, slots=True)
class Harvested:
    """Dirty bits were read; ``phase`` is that of the move at the time."""

    clear: bool
    bits: int
    phase: str


class MoveWatch(EventLog):
    """An event log that also knows the state of the move, for sequences that act in a phase and for coverage.

    *Members*: ``page`` that moves or -1, ``to_host``, ``phase``: ``idle``, ``asked`` (no hold), ``gate`` (held), ``copy`` (since the first copy read
    on a link), ``flush`` (the whole page was written at the destination), ``drain`` (from the commit until the driver has learnt of the end).
    ``stopped_in``: phase in which the last move that gave up did so.
    ``owners``: hosts of pages that have moved. ``publish(event)`` is called with what this module names.
    """

    def __init__(self, space: CheckConfig | None = None) -> None:
        super().__init__()
        self.space = space
        self.page, self.to_host, self.phase = -1, 0, "idle"
        self.owners: dict[int, int] = {}
        self.publish = lambda event: None
        self._changed = Event()
        self._copied = 0
        self.stopped_in = ""
        self._posted: Counter[int] = Counter()
        self._asked: dict[int, tuple[int, str, int, int]] = {}

    # What a sequence asks

    def owner(self, page: int) -> int:
        """Host that owns the page."""
        return self.owners.get(page, 0)

    def page_of(self, address: int) -> int | None:
        """Page of the window that a device means by ``address``; none for other places and for interrupts."""
        assert self.space is not None
        if any(address in interrupts for interrupts in self.space.interrupts) or address not in self.space.window:
            return None
        return (address - self.space.window.base) // PAGE

    def guest_address(self, host: int, address: int) -> int:
        """What a device calls ``address`` of a host, if that is in the window."""
        assert self.space is not None
        return (address - self.space.host_b_offset) % (1 << 64) if host else address

    def page_at(self, host: int, address: int) -> int | None:
        """Page of the window that stands at ``address`` of a host."""
        return self.page_of(self.guest_address(host, address))

    def alone(self, address: int, length: int) -> bool:
        """At most one unanswered request of the device touches these bytes or their neighbours."""
        around = [asked for asked in self._asked.values() if asked[2] < address + length + 16 and address < asked[2] + asked[3] + 16]
        return len(around) < 2

    async def reach(self, *phases: str) -> bool:
        """Wait until the move is in one of these phases. Returns false when it ended before."""
        while self.phase == "idle":
            await self._next()
        while self.phase not in (*phases, "idle"):
            await self._next()
        return self.phase != "idle"

    async def _next(self) -> None:
        self._changed.clear()
        await self._changed.wait()

    def _enter(self, phase: str) -> None:
        self.phase = phase
        self._changed.set()

    def quiet(self, page: int) -> bool:
        """No access of the device to the page is under way."""
        return not self._posted[page] and all(asked[0] != page for asked in self._asked.values())

    # What the links tell

    def seen(self, event: LinkTlp) -> None:
        """A TLP of the copy engine moves the phase on."""
        tlp, host = event.tlp, event.port - 1
        assert self.space is not None
        if host < 0 or event.sent or tlp.is_completion or tlp.requester_id not in self.space.engine_ids:
            return
        if self.page < 0 or self.page_at(host, tlp.address) != self.page:
            return
        if self.phase == "gate" and tlp.kind is Kind.MRD and host != self.to_host and tlp.first_be:
            self._copied = 0
            self._enter("copy")
        elif self.phase == "copy" and tlp.kind is Kind.MWR and host == self.to_host:
            self._copied += 4 * tlp.length
            if self._copied == PAGE:
                self._enter("flush")

    # What the log is told

    def move_begin(self, cycle: int, page: int, host: int, absorbs: bool = False) -> None:
        super().move_begin(cycle, page, host, absorbs)
        self.page, self.to_host, self.stopped_in = page, host, "asked"
        self._enter("asked")

    def holding(self, cycle: int, level: int) -> None:
        super().holding(cycle, level)
        if level:
            kinds = Counter(kind for page, kind, *_ in self._asked.values() if page == self.page)
            self.publish(AtHold(self.to_host, self._posted[self.page], kinds["read"], kinds["atomic"]))
            self._enter("gate")
        elif self.phase in ("gate", "copy", "flush"):
            self.stopped_in = self.phase
            self.publish(Stopped(self.to_host, self.phase))
            self._enter("asked")

    def commit(self, cycle: int, page: int, host: int) -> None:
        super().commit(cycle, page, host)
        self.owners[page] = host
        self._enter("drain")

    def move_end(self, cycle: int, page: int, host: int, moved: bool, error: int, hold_cycles: int, total_cycles: int) -> None:
        super().move_end(cycle, page, host, moved, error, hold_cycles, total_cycles)
        self.publish(Moved(host, error, self.stopped_in))
        self.page = -1
        self._enter("idle")

    def harvest(self, cycle: int, issued: int, first_page: int, bits: int, width: int, clear: bool) -> None:
        super().harvest(cycle, issued, first_page, bits, width, clear)
        self.publish(Harvested(clear, bits, self.phase))

    def device_write(self, cycle: int, agent: str, address: int, data: bytes, byte_enables: int | None, ro: bool, ido: bool, key: int) -> None:
        super().device_write(cycle, agent, address, data, byte_enables, ro, ido, key)
        page = self.page_of(address)
        if page is not None:
            self._posted[page] += 1

    def performed_write(self, cycle: int, host: int, address: int, data: bytes, byte_enables: int | None, requester_id: int, source: str) -> None:
        super().performed_write(cycle, host, address, data, byte_enables, requester_id, source)
        page = self.page_at(host, address)
        if page is not None and source == "link" and requester_id not in self.engine_and_hosts:
            self._posted[page] -= 1

    @property
    def engine_and_hosts(self) -> frozenset[int]:
        """Requester IDs of writes that are not the device's: everything of the hosts goes under the interposer's own."""
        assert self.space is not None
        return self.space.engine_ids

    def device_read(self, cycle: int, agent: str, address: int, length: int, key: int, ido: bool = False) -> None:
        super().device_read(cycle, agent, address, length, key, ido)
        self._ask(address, key, "read", length)

    def device_read_done(self, cycle: int, key: int, data: bytes, status: int) -> None:
        super().device_read_done(cycle, key, data, status)
        self._asked.pop(key, None)

    def device_atomic(self, cycle: int, agent: str, address: int, op: str, operand: bytes, key: int, ro: bool = False, ido: bool = False) -> None:
        super().device_atomic(cycle, agent, address, op, operand, key, ro, ido)
        self._ask(address, key, "atomic", 16)

    def device_atomic_done(self, cycle: int, key: int, old: bytes, status: int) -> None:
        super().device_atomic_done(cycle, key, old, status)
        self._asked.pop(key, None)

    def _ask(self, address: int, key: int, kind: str, length: int) -> None:
        page = self.page_of(address)
        if page is not None:
            self._asked[key] = page, kind, address, length


def error_name(error: int) -> str:
    """Name of a move's error, as the bins call it."""
    return regs.MoveError(error).name.lower()
