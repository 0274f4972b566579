"""Registers of the block ``interposer``. Generated from its ``registers.rdl`` by ``make docs``; change that file, not this one.

Each register is a class: ``offset`` in bytes, ``reset`` as a word, and in capitals its fields.
"""

from enum import IntEnum

from pagehop_tb.driver.register_fields import Field, Memory

#: Bytes of the map.
SIZE = 0x28000

#: Dirty bitmap, read and clear.
DIRTY_TAKE = Memory(0x10000, 4096)

#: Dirty bitmap.
DIRTY_PEEK = Memory(0x18000, 4096)

#: Owner map.
OWNER = Memory(0x20000, 4096)


class LogError(IntEnum):
    """Values of fields that the register map calls ``log_error``."""
    #: All that was written is in the bitmaps, or in the page tables.
    NONE = 0
    #: A request to a word of a bitmap or to an entry was answered with UR, CA or poison, or with something else than was asked for.
    ANSWER = 1
    #: A request to a word of a bitmap or to an entry was not answered, or not taken, for move_limits.completion cycles, or a sync or a walk took 16
    #: times as long.
    TIMEOUT = 2
    #: The device sends what keeps pages from moving (opaque): it may have written what has no mark.
    OPAQUE = 3
    #: The host that has the bitmaps or tables is down.
    DOWN = 4
    #: A range, a bitmap, the root, the host or the mode was written while the log was on.
    CHANGED = 5
    #: A flush read was not answered in time, or with an error: what a sync takes for proven may not be.
    FLUSH = 6
    #: A page that was written has no entry in the page tables, or none that lets the device write; or the unit of a range is not 4 KiB; or
    #: log_control.tables is set and log_status.tables is 0.
    TABLES = 7


class MoveError(IntEnum):
    """Values of fields that the register map calls ``move_error``."""
    #: The page moved.
    NONE = 0
    #: The page, or a part of it, is outside the guest window.
    NOT_IN_WINDOW = 1
    #: The page size is not supported.
    PAGE_SIZE = 2
    #: Source or destination is not page aligned; for a larger page than 4 KB, the window or the place at Host B.
    MISALIGNED = 3
    #: The page, or a part of it, already belongs to the destination host.
    ALREADY_THERE = 4
    #: The destination is not source plus host B offset (to B) or source (to A).
    DESTINATION = 5
    #: A move is running in this slot, and this request was ignored; or the page is moving in another.
    BUSY = 6
    #: The device sends what cannot be told by its page or changed, translated requests or encrypted TLPs, or what may have no order with a copy:
    #: requests of another traffic class than 0.
    OPAQUE = 7
    #: A copy read was answered with UR.
    UNSUPPORTED = 8
    #: A copy read was answered with CA.
    COMPLETER_ABORT = 9
    #: A copy read brought poisoned data, or a device wrote such to the page while it was merged.
    POISONED = 10
    #: A copy or flush read was not answered in time.
    COPY_TIMEOUT = 11
    #: The hold reached its limit.
    HOLD_TIMEOUT = 12
    #: The host aborted the move, or one of the hosts was down (port_status).
    ABORTED = 13
    #: A host wrote to the page through the aperture during the move.
    CROSS_ACCESS = 14
    #: There is no such mode.
    MODE = 15


class MoveMode(IntEnum):
    """Values of fields that the register map calls ``move_mode``."""
    #: They wait.
    HOLD = 0
    #: They go on, and what they write is merged into the copy. No CPU may write to the page.
    MERGE = 1
    #: The same, and a host copies the page. No CPU may write to the page.
    HOST_COPY = 2


class MovePhase(IntEnum):
    """Values of fields that the register map calls ``move_phase``."""
    IDLE = 0
    GATE = 1
    COPY = 2
    FLUSH = 3
    COMMIT = 4
    DRAIN = 5
    SETTLE = 6
    RETIRE = 7
    HOST = 8


class SlideError(IntEnum):
    """Values of fields that the register map calls ``slide_error``."""
    #: The range begins where it was asked to.
    NONE = 0
    #: The page is not a multiple of 64.
    MISALIGNED = 1
    #: The range begins there or further on already.
    NOT_FORWARD = 2
    #: The page is beyond the end of the window.
    BEYOND = 3
    #: A page that would be left belongs to Host A.
    NOT_AT_B = 4
    #: A page that would be left is moving, or its move has not ended.
    MOVING = 5


class SwitchoverError(IntEnum):
    """Values of fields that the register map calls ``switchover_error``."""
    #: The active host has changed.
    NONE = 0
    #: It is the active host.
    ALREADY_THERE = 1
    #: The device sends translated requests or encrypted TLPs, or requests of other traffic classes that control does not allow.
    OPAQUE = 2
    #: It took longer than move_limits.hold: a request was not answered, or a host took no posted TLPs.
    TIMEOUT = 3
    #: A flush read was not answered in time, or with an error.
    FLUSH = 4


class Identification:
    """identification (read only)"""
    offset = 0x0
    reset = 0x2000170686770
    #: ASCII 'pghp'.
    MAGIC = Field(0, 32)
    #: Version of this register map.
    VERSION = Field(32, 16)
    #: Mechanism: 2 is the interposer.
    MECHANISM = Field(48, 16)


class Capabilities:
    """capabilities (read only)"""
    offset = 0x8
    reset = 0x0
    #: Pages that the owner map and the dirty bitmap cover.
    WINDOW_PAGES = Field(0, 32)
    #: Page slots: moves that can run at the same time.
    SLOTS = Field(32, 8)
    #: Base-2 logarithm of the unit of the bitmaps, the smallest page that moves.
    PAGE_SIZE = Field(40, 8)
    #: Payload bytes of one beat.
    DATA_BYTES = Field(48, 16)


class Control:
    """control (read and write)"""
    offset = 0x10
    reset = 0x0
    #: Host that receives what has no page: MSI, MMIO, addresses outside the window (0 is A, 1 is B). What is written is in force at once, for a
    #: device that is quiet; a switchover changes what is in force, not this bit.
    ACTIVE_HOST = Field(0, 1)
    #: Fence policy: 1 proves writes at the other host visible before anything that depends on them leaves. For hosts with a path between them that
    #: avoids the interposer.
    FENCE = Field(1, 1)
    #: Send the notification message when a move ends.
    NOTIFY_ENABLE = Field(2, 1)
    #: Host that receives the notification (0 is A, 1 is B).
    NOTIFY_HOST = Field(3, 1)
    #: Track written pages in the dirty bitmap.
    DIRTY_ENABLE = Field(4, 1)
    #: 1 lets pages move although the device sends translated requests: software knows that none of them means a page of the window.
    ALLOW_TRANSLATED = Field(5, 1)
    #: 1 lets pages move although the device writes to the window or reads it in another traffic class than 0: software knows that all classes share
    #: one virtual channel at the ports of both hosts, and so keep their order.
    ALLOW_CLASSES = Field(6, 1)


class WindowBase:
    """window_base (read and write)"""
    offset = 0x18
    reset = 0x0
    #: First address of the guest window as the device uses it; bits 11:0 are 0.
    ADDRESS = Field(0, 64)


class WindowPages:
    """window_pages (read and write)"""
    offset = 0x20
    reset = 0x0
    #: Pages in the window; 0 closes it, and everything goes to the active host.
    COUNT = Field(0, 32)


class HostBOffset:
    """host_b_offset (read and write)"""
    offset = 0x28
    reset = 0x0
    #: Added to the address of every access to the window that goes to Host B, modulo 2^64; bits 11:0 are 0.
    OFFSET = Field(0, 64)


class MsiBase:
    """msi_base (read and write)"""
    offset = 0x30
    reset = 0x0
    #: First address; bits 11:0 are 0.
    ADDRESS = Field(0, 64)


class MsiPages:
    """msi_pages (read and write)"""
    offset = 0x38
    reset = 0x0
    #: Pages of 4 KiB; 0 closes the range.
    COUNT = Field(0, 32)


class MmioBase:
    """mmio_base (read and write)"""
    offset = 0x40
    reset = 0x0
    #: First address; bits 11:0 are 0.
    ADDRESS = Field(0, 64)


class MmioPages:
    """mmio_pages (read and write)"""
    offset = 0x48
    reset = 0x0
    #: Pages of 4 KiB; 0 closes the range.
    COUNT = Field(0, 32)


class ApertureABase:
    """aperture_a_base (read and write)"""
    offset = 0x50
    reset = 0x0
    #: First address; bits 11:0 are 0.
    ADDRESS = Field(0, 64)


class ApertureAPages:
    """aperture_a_pages (read and write)"""
    offset = 0x58
    reset = 0x0
    #: Pages of 4 KiB; 0 closes the range.
    COUNT = Field(0, 32)


class ApertureAOffset:
    """aperture_a_offset (read and write)"""
    offset = 0x60
    reset = 0x0
    #: Added to the address on the way to the other host, modulo 2^64; bits 11:0 are 0.
    OFFSET = Field(0, 64)


class ApertureBBase:
    """aperture_b_base (read and write)"""
    offset = 0x68
    reset = 0x0
    #: First address; bits 11:0 are 0.
    ADDRESS = Field(0, 64)


class ApertureBPages:
    """aperture_b_pages (read and write)"""
    offset = 0x70
    reset = 0x0
    #: Pages of 4 KiB; 0 closes the range.
    COUNT = Field(0, 32)


class ApertureBOffset:
    """aperture_b_offset (read and write)"""
    offset = 0x78
    reset = 0x0
    #: Added to the address on the way to the other host, modulo 2^64; bits 11:0 are 0.
    OFFSET = Field(0, 64)


class MoveSource:
    """move_source (read and write)"""
    offset = 0x80
    reset = 0x0
    #: Address of the page as the device uses it.
    ADDRESS = Field(0, 64)


class MoveDestination:
    """move_destination (read and write)"""
    offset = 0x88
    reset = 0x0
    #: Address of the page at the host it moves to.
    ADDRESS = Field(0, 64)


class MoveCommand:
    """move_command (read and write)"""
    offset = 0x90
    reset = 0xc0100
    #: Write 1 to start the move.
    START = Field(0, 1)
    #: Write 1 to abort the running move, if it has not committed.
    ABORT = Field(1, 1)
    #: Write 1 when the host has copied the page and its copy is visible at the destination (host_copy).
    COPIED = Field(2, 1)
    #: What becomes of accesses to the page while it is copied. Encoded as :class:`MoveMode`.
    MODE = Field(4, 2)
    #: Host the page moves to (0 is A, 1 is B).
    TO_HOST = Field(8, 1)
    #: Base-2 logarithm of the page size: from capabilities.page_size to page_sizes.largest. A larger page than 4 KB moves as a run of such units with
    #: one commit.
    PAGE_SIZE = Field(16, 8)
    #: Slot that makes the move, or whose move is meant. Each makes one at a time.
    SLOT = Field(24, 3)


class MoveLimits:
    """move_limits (read and write)"""
    offset = 0xa8
    reset = 0x9c400001388
    #: Most cycles that a page is held before the move is aborted; in merge and host_copy the move may take sixteen times as long until its commit.
    HOLD = Field(0, 32)
    #: Most cycles to wait for a copy or flush read, and for late completions after an abort. Sixteen times as long for the requests of devices and
    #: hosts.
    COMPLETION = Field(32, 32)


class NotifyAddress:
    """notify_address (read and write)"""
    offset = 0xb0
    reset = 0x0
    #: Where the end of a move is written, as an MSI.
    ADDRESS = Field(0, 64)


class NotifyData:
    """notify_data (read and write)"""
    offset = 0xb8
    reset = 0x0
    #: The double word written there.
    DATA = Field(0, 32)


class MovesDone:
    """moves_done (read only)"""
    offset = 0xc0
    reset = 0x0
    #: Count since reset, modulo 2^64.
    VALUE = Field(0, 64)


class MovesFailed:
    """moves_failed (read only)"""
    offset = 0xc8
    reset = 0x0
    #: Count since reset, modulo 2^64.
    VALUE = Field(0, 64)


class Fences:
    """fences (read only)"""
    offset = 0xd0
    reset = 0x0
    #: Count since reset, modulo 2^64.
    VALUE = Field(0, 64)


class FenceCycles:
    """fence_cycles (read only)"""
    offset = 0xd8
    reset = 0x0
    #: Count since reset, modulo 2^64.
    VALUE = Field(0, 64)


class FlushesA:
    """flushes_a (read only)"""
    offset = 0xe0
    reset = 0x0
    #: Count since reset, modulo 2^64.
    VALUE = Field(0, 64)


class FlushesB:
    """flushes_b (read only)"""
    offset = 0xe8
    reset = 0x0
    #: Count since reset, modulo 2^64.
    VALUE = Field(0, 64)


class CompletionWaits:
    """completion_waits (read only)"""
    offset = 0xf0
    reset = 0x0
    #: Count since reset, modulo 2^64.
    VALUE = Field(0, 64)


class Unsupported:
    """unsupported (read only)"""
    offset = 0xf8
    reset = 0x0
    #: Count since reset, modulo 2^64.
    VALUE = Field(0, 64)


class Unexpected:
    """unexpected (read only)"""
    offset = 0x100
    reset = 0x0
    #: Count since reset, modulo 2^64.
    VALUE = Field(0, 64)


class FlushTimeouts:
    """flush_timeouts (read only)"""
    offset = 0x108
    reset = 0x0
    #: Count since reset, modulo 2^64.
    VALUE = Field(0, 64)


class OutstandingTimeouts:
    """outstanding_timeouts (read only)"""
    offset = 0x110
    reset = 0x0
    #: Count since reset, modulo 2^64.
    VALUE = Field(0, 64)


class Outstanding:
    """outstanding (read only)"""
    offset = 0x118
    reset = 0x0
    #: Device requests that Host A has not answered.
    HOST_A = Field(0, 16)
    #: Device requests that Host B has not answered.
    HOST_B = Field(16, 16)


class Opaque:
    """opaque (read only)"""
    offset = 0x120
    reset = 0x0
    #: A translated request (AT = 10) has passed.
    TRANSLATED = Field(0, 1)
    #: A TLP with an IDE prefix has passed.
    ENCRYPTED = Field(1, 1)
    #: A request to the window has passed in another traffic class than 0. It went where its page is, and its write marked the page dirty.
    CLASSED = Field(2, 1)


class OpaqueOver:
    """opaque_over (read and write)"""
    offset = 0x128
    reset = 0x0
    #: Write 1 to set the bits of opaque to 0, when the device sends no more of these.
    FORGET = Field(0, 1)


class SwitchoverCommand:
    """switchover_command (read and write)"""
    offset = 0x130
    reset = 0x100
    #: Write 1 to make to_host the active host when nothing of the device is on its way. Ignored while one runs.
    START = Field(0, 1)
    #: Write 1 to let translated requests of the device pass again: they hold addresses of the active host now.
    UNBLOCK = Field(1, 1)
    #: The new active host (0 is A, 1 is B).
    TO_HOST = Field(8, 1)


class SwitchoverStatus:
    """switchover_status (read only)"""
    offset = 0x138
    reset = 0x0
    #: 1 while a switchover runs.
    BUSY = Field(0, 1)
    #: 1 when the last switchover ended with the new active host.
    DONE = Field(1, 1)
    #: 1 when the last switchover ended with nothing changed.
    FAILED = Field(2, 1)
    #: The active host that is in force: what control was last written with, or what a switchover has made it since.
    ACTIVE_HOST = Field(3, 1)
    #: Translated requests of the device are blocked: posted ones dropped, others answered with UR, and counted in unsupported.
    BLOCKS = Field(4, 1)
    #: Why the last switchover failed. Encoded as :class:`SwitchoverError`.
    ERROR = Field(8, 4)
    #: Cycles of the last switchover, for all of which the device's requests waited.
    CYCLES = Field(32, 32)


class MoveStatus:
    """move_status (read only)"""
    offset = 0x140
    reset = 0x0
    #: All 8; ``offset`` is that of the first.
    array = Memory(0x140, 8)
    #: 1 from the start of a move until it is done or aborted and nothing of it is in flight.
    BUSY = Field(0, 1)
    #: 1 when the last move ended with the page at its destination.
    DONE = Field(1, 1)
    #: 1 when the last move ended without moving the page.
    FAILED = Field(2, 1)
    #: What the move is doing; in host it waits for the host to copy the page. Encoded as :class:`MovePhase`.
    PHASE = Field(4, 4)
    #: Why the last move or request failed. Encoded as :class:`MoveError`.
    ERROR = Field(8, 4)
    #: Error of the last start that was refused because a move was running in the slot. Encoded as :class:`MoveError`.
    REFUSED = Field(12, 4)
    #: Moves ended since reset, modulo 2^32.
    ENDED = Field(32, 32)


class MoveCycles:
    """move_cycles (read only)"""
    offset = 0x180
    reset = 0x0
    #: All 8; ``offset`` is that of the first.
    array = Memory(0x180, 8)
    #: Cycles for which the last move held the page; in merge and host_copy that is the turn of its owner.
    HOLD = Field(0, 32)
    #: Cycles of the last move from its request to its end.
    TOTAL = Field(32, 32)


class QueueBase:
    """queue_base (read and write)"""
    offset = 0x1c0
    reset = 0x0
    #: Where the ring of descriptors begins; bits 4:0 are 0.
    ADDRESS = Field(0, 64)


class QueueRecords:
    """queue_records (read and write)"""
    offset = 0x1c8
    reset = 0x0
    #: Where the records begin, one for each descriptor of the ring; bits 3:0 are 0.
    ADDRESS = Field(0, 64)


class QueueControl:
    """queue_control (read and write)"""
    offset = 0x1d0
    reset = 0x0
    #: 1 starts with descriptor 0. Set to 0, the queue starts nothing more; 1 again takes effect when it is idle. Everything else of the queue but its
    #: tail may change only while it is idle.
    ENABLE = Field(0, 1)
    #: Host whose memory has the ring and the records (0 is A, 1 is B).
    HOST = Field(1, 1)
    #: Base-2 logarithm of the descriptors in the ring.
    ORDER = Field(4, 4)
    #: Slots that make the moves of the queue, a bit each. Software starts no moves there.
    SLOTS = Field(8, 8)


class QueueTail:
    """queue_tail (read and write)"""
    offset = 0x1d8
    reset = 0x0
    #: Descriptors that software has put into the ring, modulo 2^16.
    COUNT = Field(0, 16)


class QueueStatus:
    """queue_status (read only)"""
    offset = 0x1e0
    reset = 0x0
    #: Descriptors that slots have taken, modulo 2^16.
    TAKEN = Field(0, 16)
    #: Records that were written, modulo 2^16.
    DONE = Field(16, 16)
    #: Slots that move pages of the queue.
    RUNNING = Field(32, 8)
    #: Nothing of the queue is on its way.
    IDLE = Field(40, 1)
    #: A descriptor could not be read, and the queue stands still.
    ERROR = Field(41, 1)


class PortLimits:
    """port_limits (read and write)"""
    offset = 0x200
    reset = 0x0
    #: Cycles for the device.
    DEVICE = Field(0, 32)
    #: Cycles for the hosts.
    HOSTS = Field(32, 32)


class PortCommand:
    """port_command (read and write)"""
    offset = 0x208
    reset = 0x0
    #: Write 1 to take the device for down.
    STOP_DEVICE = Field(0, 1)
    #: Write 1 to take Host A for down.
    STOP_HOST_A = Field(1, 1)
    #: Write 1 to take Host B for down.
    STOP_HOST_B = Field(2, 1)
    #: Write 1 to send to the device again.
    RESUME_DEVICE = Field(8, 1)
    #: Write 1 to send to Host A again.
    RESUME_HOST_A = Field(9, 1)
    #: Write 1 to send to Host B again.
    RESUME_HOST_B = Field(10, 1)


class PortStatus:
    """port_status (read only)"""
    offset = 0x210
    reset = 0x0
    #: The device is down.
    DOWN_DEVICE = Field(0, 1)
    #: Host A is down, and no page moves.
    DOWN_HOST_A = Field(1, 1)
    #: Host B is down, and no page moves.
    DOWN_HOST_B = Field(2, 1)
    #: The limit has expired at the device since the last resume.
    EXPIRED_DEVICE = Field(8, 1)
    #: The limit has expired at Host A since the last resume.
    EXPIRED_HOST_A = Field(9, 1)
    #: The limit has expired at Host B since the last resume.
    EXPIRED_HOST_B = Field(10, 1)


class DiscardedPosted:
    """discarded_posted (read only)"""
    offset = 0x218
    reset = 0x0
    #: Count since reset, modulo 2^64.
    VALUE = Field(0, 64)


class DiscardedRequests:
    """discarded_requests (read only)"""
    offset = 0x220
    reset = 0x0
    #: Count since reset, modulo 2^64.
    VALUE = Field(0, 64)


class DiscardedCompletions:
    """discarded_completions (read only)"""
    offset = 0x228
    reset = 0x0
    #: Count since reset, modulo 2^64.
    VALUE = Field(0, 64)


class Mapped:
    """mapped (read only)"""
    offset = 0x240
    reset = 0x0
    #: The first of these pages. A reset leaves it.
    LOW = Field(0, 32)
    #: The first page that is not one of these any more, modulo 2^32.
    HIGH = Field(32, 32)


class Slide:
    """slide (read and write)"""
    offset = 0x248
    reset = 0x0
    #: Number of that page, a multiple of 64.
    TARGET = Field(0, 32)


class SlideStatus:
    """slide_status (read only)"""
    offset = 0x250
    reset = 0x0
    #: 1 until the range has slid, or the request was refused.
    BUSY = Field(0, 1)
    #: 1 when a request was ignored because the last one was busy, until the next is taken.
    REFUSED = Field(1, 1)
    #: Why the last request was refused. It has changed nothing then. Encoded as :class:`SlideError`.
    ERROR = Field(4, 3)


class WrongDigests:
    """wrong_digests (read only)"""
    offset = 0x258
    reset = 0x0
    #: Count since reset, modulo 2^64.
    VALUE = Field(0, 64)


class PageSizes:
    """page_sizes (read only)"""
    offset = 0x268
    reset = 0x0
    #: Base-2 logarithm of the largest page that moves as one.
    LARGEST = Field(0, 8)


class PayloadLimits:
    """payload_limits (read and write)"""
    offset = 0x280
    reset = 0x50505
    #: For the device.
    DEVICE = Field(0, 3)
    #: For Host A.
    HOST_A = Field(8, 3)
    #: For Host B.
    HOST_B = Field(16, 3)


class ProcessingHints:
    """processing_hints (read and write)"""
    offset = 0x288
    reset = 0x0
    #: Strip those to Host A.
    STRIP_HOST_A = Field(0, 1)
    #: Strip those to Host B.
    STRIP_HOST_B = Field(1, 1)


class Independent:
    """independent (read and write)"""
    offset = 0x2a0
    reset = 0xffff0000
    #: All 4; ``offset`` is that of the first.
    array = Memory(0x2a0, 4)
    #: Bus, device and function.
    REQUESTER_ID = Field(0, 16)
    #: Bits of the requester ID that are compared; 0xFFFF names one function, 0xFFF8 all of a device.
    MASK = Field(16, 16)
    #: 1 makes those requesters a group of their own, in order among themselves alone.
    ENABLE = Field(32, 1)


class LogBase:
    """log_base (read and write)"""
    offset = 0x2c0
    reset = 0x0
    #: All 4; ``offset`` is that of the first.
    array = Memory(0x2c0, 4)
    #: Where the range begins, as the device addresses it; bits 11:0 are 0.
    ADDRESS = Field(0, 64)


class LogSize:
    """log_size (read and write)"""
    offset = 0x2e0
    reset = 0xc00000000
    #: All 4; ``offset`` is that of the first.
    array = Memory(0x2e0, 4)
    #: 4 KiB pages of the range. 0 logs nothing.
    PAGES = Field(0, 32)
    #: Base-2 logarithm of the bytes that one bit stands for, 11 (2 KiB) to 21 (2 MiB).
    SHIFT = Field(32, 5)


class LogBitmap:
    """log_bitmap (read and write)"""
    offset = 0x300
    reset = 0x0
    #: All 4; ``offset`` is that of the first.
    array = Memory(0x300, 4)
    #: Where the bitmap begins in the memory of the log's host; bits 2:0 are 0.
    ADDRESS = Field(0, 64)


class LogSecond:
    """log_second (read and write)"""
    offset = 0x320
    reset = 0x0
    #: All 4; ``offset`` is that of the first.
    array = Memory(0x320, 4)
    #: Where its second bitmap begins, when who writes a bitmap takes turns.
    ADDRESS = Field(0, 64)


class LogControl:
    """log_control (read and write)"""
    offset = 0x340
    reset = 0x0
    #: 1 logs what the device writes to the ranges from now on; sync before the first copy. 0 forgets what is not in the bitmaps yet, and an error.
    ENABLE = Field(0, 1)
    #: Host whose memory has the bitmaps, or the page tables (0 is A, 1 is B).
    HOST = Field(1, 1)
    #: 0 sets bits by compare-and-swap, while software takes words by atomic exchange. 1 uses no atomics: each sync changes the bitmap that is
    #: written, and software reads and clears the other.
    PING_PONG = Field(2, 1)
    #: 1 sets A and D of page-table entries instead, by compare-and-swap; ping_pong is 0 then. Only where log_status.tables is 1.
    TABLES = Field(3, 1)


class LogCommand:
    """log_command (read and write)"""
    offset = 0x348
    reset = 0x0
    #: Write 1 to bring all bits to memory, change the bitmap if turns are taken, and prove visible what the device wrote. Ignored while
    #: log_status.busy.
    SYNC = Field(0, 1)


class LogStatus:
    """log_status (read only)"""
    offset = 0x350
    reset = 0x0
    #: 1 while a sync runs.
    BUSY = Field(0, 1)
    #: The bitmap that is written: 1 is log_second.
    ACTIVE = Field(1, 1)
    #: 1 when bits may be missing for the reason in error, until the log has been off: take everything as dirty.
    EVERYTHING_DIRTY = Field(2, 1)
    #: Why everything counts as dirty. Encoded as :class:`LogError`.
    ERROR = Field(4, 3)
    #: 1 when this hardware can mark page tables.
    TABLES = Field(8, 1)


class LogTraffic:
    """log_traffic (read only)"""
    offset = 0x358
    reset = 0x0
    #: Requests and writes to words of the bitmaps since reset, modulo 2^32.
    REQUESTS = Field(0, 32)
    #: Cycles since reset in which the device waited for the log, modulo 2^32.
    WAITS = Field(32, 32)


class LogRoot:
    """log_root (read and write)"""
    offset = 0x360
    reset = 0x0
    #: Number of the page of the root in the memory of the log's host; where a root is four tables in a row, that of the first, a multiple of 4.
    PPN = Field(0, 44)
    #: 0: three levels (Sv39x4, or 3-level). 1: four (Sv48x4, or 4-level).
    DEEP = Field(44, 1)
