"""The event log: everything that a run tells, append-only, in the order in which it happened."""

from enum import IntEnum

__all__ = ["EventLog", "Kind"]


class Kind(IntEnum):
    """First element of a log entry; the second is the cycle, the others are the arguments of the call of the same name."""

    DEVICE_WRITE = 0
    DEVICE_READ = 1
    DEVICE_READ_DONE = 2
    DEVICE_ATOMIC = 3
    DEVICE_ATOMIC_DONE = 4
    PERFORMED_WRITE = 5
    PERFORMED_READ = 6
    PERFORMED_ATOMIC = 7
    MSI = 8
    CPU_LOAD = 9
    CPU_STORE = 10
    MMIO_WRITE = 11
    MMIO_READ_DONE = 12
    DEVICE_MMIO_WRITE = 13
    DEVICE_MMIO_READ = 14
    PRESET = 15
    COMMIT = 16
    HOLDING = 17
    INJECTED = 18
    HARVEST = 19
    MOVE_BEGIN = 20
    MOVE_END = 21
    CPU_FENCE = 22
    MESSAGE = 23
    MESSAGE_SEEN = 24
    LINK = 25
    VCPU = 26


class EventLog:
    """Observer of a run (:class:`pagehop_tb.models.observer.Observer`) that keeps every event as one tuple.

    The position of an event in ``events`` is its time: the order of calls is the order of events. Nothing is judged here; appending a tuple is
    all that the simulation pays for. Beside the calls of the models there are those of the bench: presets, commits, holds, injected errors,
    harvests and moves.
    """

    def __init__(self) -> None:
        self.events: list[tuple] = []

    def device_write(self, cycle: int, agent: str, address: int, data: bytes, byte_enables: int | None, ro: bool, ido: bool, key: int) -> None:
        self.events.append((0, cycle, agent, address, data, byte_enables, ro, ido, key))

    def device_read(self, cycle: int, agent: str, address: int, length: int, key: int, ido: bool = False) -> None:
        self.events.append((1, cycle, agent, address, length, key, ido))

    def device_read_done(self, cycle: int, key: int, data: bytes, status: int) -> None:
        self.events.append((2, cycle, key, data, status))

    def device_atomic(self, cycle: int, agent: str, address: int, op: str, operand: bytes, key: int, ro: bool = False, ido: bool = False) -> None:
        self.events.append((3, cycle, agent, address, op, operand, key, ro, ido))

    def device_atomic_done(self, cycle: int, key: int, old: bytes, status: int) -> None:
        self.events.append((4, cycle, key, old, status))

    def performed_write(self, cycle: int, host: int, address: int, data: bytes, byte_enables: int | None, requester_id: int, source: str) -> None:
        self.events.append((5, cycle, host, address, data, byte_enables, requester_id, source))

    def performed_read(self, cycle: int, host: int, address: int, length: int, requester_id: int, tag: int) -> None:
        self.events.append((6, cycle, host, address, length, requester_id, tag))

    def performed_atomic(self, cycle: int, host: int, address: int, op: str, old: bytes, new: bytes, requester_id: int, tag: int) -> None:
        self.events.append((7, cycle, host, address, op, old, new, requester_id, tag))

    def msi(self, cycle: int, host: int, address: int, data: bytes) -> None:
        self.events.append((8, cycle, host, address, data))

    def cpu_load(self, cycle: int, host: int, address: int, data: bytes, issued: int) -> None:
        self.events.append((9, cycle, host, address, data, issued))

    def cpu_store(self, cycle: int, host: int, address: int, data: bytes) -> None:
        self.events.append((10, cycle, host, address, data))

    def mmio_write(self, cycle: int, host: int, address: int, data: bytes) -> None:
        self.events.append((11, cycle, host, address, data))

    def mmio_read_done(self, cycle: int, host: int, address: int, data: bytes, status: int, issued: int) -> None:
        self.events.append((12, cycle, host, address, data, status, issued))

    def device_mmio_write(self, cycle: int, agent: str, address: int, data: bytes, byte_enables: int | None) -> None:
        self.events.append((13, cycle, agent, address, data, byte_enables))

    def device_mmio_read(self, cycle: int, agent: str, address: int, data: bytes, ro: bool = False, ido: bool = False) -> None:
        self.events.append((14, cycle, agent, address, data, ro, ido))

    def preset(self, host: int, address: int, data: bytes) -> None:
        """Memory of ``host`` contained ``data`` before anything ran; what was not preset is zero."""
        self.events.append((15, 0, host, address, data))

    def commit(self, cycle: int, page: int, host: int) -> None:
        """Page ``page`` of the window belongs to ``host`` from here on."""
        self.events.append((16, cycle, page, host))

    def holding(self, cycle: int, level: int) -> None:
        """The interposer started (1) or stopped (0) holding accesses; ``level`` has a bit a slot."""
        self.events.append((17, cycle, level))

    def injected(self, cycle: int, host: int, address: int, length: int, status: int, requester_id: int) -> None:
        """The bench made ``host`` answer a read or atomic of these bytes with an error (or not at all: TIMEOUT)."""
        self.events.append((18, cycle, host, address, length, status, requester_id))

    def harvest(self, cycle: int, issued: int, first_page: int, bits: int, width: int, clear: bool) -> None:
        """A read of ``width`` dirty bits from page ``first_page`` on, issued in cycle ``issued``, has returned."""
        self.events.append((19, cycle, issued, first_page, bits, width, clear))

    def move_begin(self, cycle: int, page: int, host: int, absorbs: bool = False) -> None:
        """The driver has asked for a move of window page ``page`` to ``host``.

        With ``absorbs`` devices write to the page while it is copied, at its source and into its copy.
        """
        self.events.append((20, cycle, page, host, absorbs))

    def move_end(self, cycle: int, page: int, host: int, moved: bool, error: int, hold_cycles: int, total_cycles: int) -> None:
        """The driver has learnt how the move ended."""
        self.events.append((21, cycle, page, host, moved, error, hold_cycles, total_cycles))

    def cpu_fence(self, cycle: int, host: int) -> None:
        """The CPU of ``host`` goes on only now that all its stores so far are visible (a read-back, O9, or a fence for local ones)."""
        self.events.append((22, cycle, host))

    def message(self, cycle: int, host: int, number: int) -> None:
        """The CPU of ``host`` has sent message ``number`` to another CPU by a way of its own (O10). No two messages have one number."""
        self.events.append((23, cycle, host, number))

    def message_seen(self, cycle: int, host: int, number: int) -> None:
        """The CPU of ``host`` has received message ``number``."""
        self.events.append((24, cycle, host, number))

    def link(self, cycle: int, port: int, upstream: bool, kind: str, address: int, data: bytes, requester_id: int,
             traffic_class: int = 0, ro: bool = False, ido: bool = False, no_snoop: bool = False, poisoned: bool = False) -> None:
        """A posted TLP was on a link of the interposer: ``port`` 0 is the device's, 1 and 2 are those of Host A and Host B."""
        self.events.append((25, cycle, port, upstream, kind, address, data, requester_id, traffic_class, ro, ido, no_snoop, poisoned))

    def vcpu(self, cycle: int, host: int) -> None:
        """The guest's CPU runs at ``host`` from here on."""
        self.events.append((26, cycle, host))
