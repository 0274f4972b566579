"""What the models tell about a run: one call an event, in the order in which the events happen.

The order of the calls is the order of the events, also within one cycle; ``cycle`` counts rising edges of the fabric clock.
Addresses are those at the place of the event: a device's are bus addresses (guest window), a host's are that host's own.
"""

from enum import IntEnum
from typing import Protocol

__all__ = ["NullObserver", "Observer", "Status"]


class Status(IntEnum):
    """How a request ended: the completion status of the wire, or what its requester makes of it."""

    SUCCESS = 0
    UNSUPPORTED_REQUEST = 1
    CONFIGURATION_RETRY = 2
    COMPLETER_ABORT = 4
    #: A completion of the request was poisoned; its data must not be believed.
    POISONED = 8
    #: The completion timeout of the requester expired. What comes later is dropped.
    TIMEOUT = 9
    #: Completions came that do not fit the request (byte count, lower address, length, order). Always an error.
    MALFORMED = 10


class Observer(Protocol):
    """Receiver of all events of a run.

    ``key`` is a number that no other TLP of the run has; ``agent`` names a device function (``nvme``), ``host`` is 0 for A and 1 for B.
    Data of writes are whole dwords from a dword-aligned address; bit *i* of ``byte_enables`` is byte *i* of ``data``, ``None`` means all.
    """

    def device_write(self, cycle: int, agent: str, address: int, data: bytes, byte_enables: int | None, ro: bool, ido: bool, key: int) -> None:
        """A posted write has been put on the device's link, MSIs included. The order of these calls is the order on the link."""

    def device_read(self, cycle: int, agent: str, address: int, length: int, key: int, ido: bool = False) -> None:
        """A read has been put on the device's link. ``address`` is its first enabled byte, ``length`` reaches to its last one.

        A zero-length read (flush) has length 0.
        """

    def device_read_done(self, cycle: int, key: int, data: bytes, status: int) -> None:
        """The last completion of the read has arrived, or it has timed out. ``data`` is as long as the read, or empty unless SUCCESS."""

    def device_atomic(self, cycle: int, agent: str, address: int, op: str, operand: bytes, key: int, ro: bool = False,
                      ido: bool = False) -> None:
        """An AtomicOp has been put on the device's link. ``op`` is ``fetch_add``, ``swap`` or ``cas``; a CAS operand is compare, then swap.

        With ``ro`` it may pass posted writes.
        """

    def device_atomic_done(self, cycle: int, key: int, old: bytes, status: int) -> None:
        """The AtomicOp has been answered; ``old`` is empty unless SUCCESS."""

    def performed_write(self, cycle: int, host: int, address: int, data: bytes, byte_enables: int | None, requester_id: int, source: str) -> None:
        """A write has become visible in the memory of ``host``, all of it at once.

        ``source`` is ``link`` for what came through the port (``requester_id`` is that of the TLP), ``cpu`` for a local store (``requester_id`` 0).
        MSIs are not memory: they are reported by :meth:`msi` alone.
        """

    def performed_read(self, cycle: int, host: int, address: int, length: int, requester_id: int, tag: int) -> None:
        """A read of the link has taken these bytes of the memory of ``host``. A long read may take its bytes in several parts, one call each.

        A zero-length read is one call of length 0.
        """

    def performed_atomic(self, cycle: int, host: int, address: int, op: str, old: bytes, new: bytes, requester_id: int, tag: int) -> None:
        """An AtomicOp of the link has read ``old`` and left ``new`` in the memory of ``host``."""

    def msi(self, cycle: int, host: int, address: int, data: bytes) -> None:
        """A write to the interrupt range of ``host`` has been delivered to its CPU; all writes that it may not pass are visible."""

    def cpu_load(self, cycle: int, host: int, address: int, data: bytes, issued: int) -> None:
        """A load of the CPU of ``host`` that was issued in cycle ``issued`` has returned: local memory, or the aperture."""

    def cpu_store(self, cycle: int, host: int, address: int, data: bytes) -> None:
        """The CPU of ``host`` has made a store, to local memory (visible at once, :meth:`performed_write` follows) or to the aperture."""

    def mmio_write(self, cycle: int, host: int, address: int, data: bytes) -> None:
        """The CPU of ``host`` has made a posted write to a register: of the interposer, or of a device."""

    def mmio_read_done(self, cycle: int, host: int, address: int, data: bytes, status: int, issued: int) -> None:
        """A register read of the CPU of ``host`` that was issued in cycle ``issued`` has returned. ``data`` is empty unless SUCCESS."""

    def device_mmio_write(self, cycle: int, agent: str, address: int, data: bytes, byte_enables: int | None) -> None:
        """A write of a host has arrived at the register range of a device (a doorbell)."""

    def device_mmio_read(self, cycle: int, agent: str, address: int, data: bytes, ro: bool = False, ido: bool = False) -> None:
        """A read of a host has taken these bytes of the register range of a device."""

    def cpu_fence(self, cycle: int, host: int) -> None:
        """The CPU of ``host`` goes on only now that its stores through the aperture are visible (O9)."""

    def link(self, cycle: int, port: int, upstream: bool, kind: str, address: int, data: bytes, requester_id: int, traffic_class: int,
             ro: bool, ido: bool, no_snoop: bool, poisoned: bool) -> None:
        """A posted TLP was on a link of the interposer: ``port`` 0 is the device's, 1 and 2 are those of Host A and Host B."""

    def preset(self, host: int, address: int, data: bytes) -> None:
        """Memory of ``host`` contained ``data`` before anything ran; what was not preset is zero."""

    def commit(self, cycle: int, page: int, host: int) -> None:
        """The hardware says that page ``page`` of the window belongs to ``host`` from here on."""

    def holding(self, cycle: int, level: int) -> None:
        """The hardware started (1) or stopped (0) holding accesses; ``level`` has a bit a slot."""

    def injected(self, cycle: int, host: int, address: int, length: int, status: int, requester_id: int) -> None:
        """An injected error: ``host`` answers a read or AtomicOp of these bytes with ``status`` (TIMEOUT: not at all, or too late)."""


class NullObserver:
    """An observer that keeps nothing, for benches that compare by themselves."""

    def device_write(self, cycle: int, agent: str, address: int, data: bytes, byte_enables: int | None, ro: bool, ido: bool, key: int) -> None:
        """Drop the event."""

    def device_read(self, cycle: int, agent: str, address: int, length: int, key: int, ido: bool = False) -> None:
        """Drop the event."""

    def device_read_done(self, cycle: int, key: int, data: bytes, status: int) -> None:
        """Drop the event."""

    def device_atomic(self, cycle: int, agent: str, address: int, op: str, operand: bytes, key: int, ro: bool = False,
                      ido: bool = False) -> None:
        """Drop the event."""

    def device_atomic_done(self, cycle: int, key: int, old: bytes, status: int) -> None:
        """Drop the event."""

    def performed_write(self, cycle: int, host: int, address: int, data: bytes, byte_enables: int | None, requester_id: int, source: str) -> None:
        """Drop the event."""

    def performed_read(self, cycle: int, host: int, address: int, length: int, requester_id: int, tag: int) -> None:
        """Drop the event."""

    def performed_atomic(self, cycle: int, host: int, address: int, op: str, old: bytes, new: bytes, requester_id: int, tag: int) -> None:
        """Drop the event."""

    def msi(self, cycle: int, host: int, address: int, data: bytes) -> None:
        """Drop the event."""

    def cpu_load(self, cycle: int, host: int, address: int, data: bytes, issued: int) -> None:
        """Drop the event."""

    def cpu_store(self, cycle: int, host: int, address: int, data: bytes) -> None:
        """Drop the event."""

    def mmio_write(self, cycle: int, host: int, address: int, data: bytes) -> None:
        """Drop the event."""

    def mmio_read_done(self, cycle: int, host: int, address: int, data: bytes, status: int, issued: int) -> None:
        """Drop the event."""

    def device_mmio_write(self, cycle: int, agent: str, address: int, data: bytes, byte_enables: int | None) -> None:
        """Drop the event."""

    def device_mmio_read(self, cycle: int, agent: str, address: int, data: bytes, ro: bool = False, ido: bool = False) -> None:
        """Drop the event."""

    def cpu_fence(self, cycle: int, host: int) -> None:
        """Drop the event."""

    def link(self, cycle: int, port: int, upstream: bool, kind: str, address: int, data: bytes, requester_id: int, traffic_class: int,
             ro: bool, ido: bool, no_snoop: bool, poisoned: bool) -> None:
        """Drop the event."""

    def preset(self, host: int, address: int, data: bytes) -> None:
        """Drop the event."""

    def commit(self, cycle: int, page: int, host: int) -> None:
        """Drop the event."""

    def holding(self, cycle: int, level: int) -> None:
        """Drop the event."""

    def injected(self, cycle: int, host: int, address: int, length: int, status: int, requester_id: int) -> None:
        """Drop the event."""
