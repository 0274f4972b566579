"""Registers of the block ``ots``. Generated from its ``registers.rdl`` by ``make docs``; change that file, not this one.

Each register is a class: ``offset`` in bytes, ``reset`` as a word, and in capitals its fields.
"""

from enum import IntEnum

from pagehop_tb.driver.register_fields import Field, Memory

#: Bytes of the map.
SIZE = 0xc000

#: Windows.
WINDOWS = Memory(0x1000, 128)

#: Bytes written.
BYTES = Memory(0x2000, 1024)

#: Accessed leaves.
PEEK_ACCESSED = Memory(0x4000, 1024)

#: Accessed leaves, read and clear.
TAKE_ACCESSED = Memory(0x6000, 1024)

#: Dirty leaves.
PEEK_DIRTY = Memory(0x8000, 1024)

#: Dirty leaves, read and clear.
TAKE_DIRTY = Memory(0xa000, 1024)


class WindowOp(IntEnum):
    """Values of fields that the register map calls ``window_op``."""
    #: Nothing; refused.
    NONE = 0
    #: A closed window leads to window_target, and holds what comes until it is opened.
    TAKE = 1
    #: Let through what came, and what comes.
    OPEN = 2
    #: Hold what comes. It ends by itself after limits.hold cycles.
    HOLD = 3
    #: Forget what came through, and note it anew.
    TRACK = 4
    #: If nothing was written since track, and no atomic waits for its answer, lead to window_target from now on.
    COMMIT = 5
    #: End the window: what still comes to its address gets UR. Taken again it has another address.
    CLOSE = 6
    #: Copy the page to window_target while devices go on, and lead there when all is copied.
    COPY = 7


class WindowRefusal(IntEnum):
    """Values of fields that the register map calls ``window_refusal``."""
    #: It was carried out.
    NONE = 0
    #: The order before was not carried out yet.
    BUSY = 1
    #: take of a window that is open, another order of one that is not, or no order at all.
    STATE = 2
    #: commit: something was written, or an atomic waits for its answer.
    WRITTEN = 3
    #: There is no such window.
    UNKNOWN = 4
    #: copy: a copy runs already, or it failed and the page stays where it is, see copy_status.
    COPY = 5


class Identification:
    """identification (read only)"""
    offset = 0x0
    reset = 0x3000170686770
    #: ASCII 'pghp'.
    MAGIC = Field(0, 32)
    #: Version of this register map.
    VERSION = Field(32, 16)
    #: Mechanism: 3 is the on-the-side device.
    MECHANISM = Field(48, 16)


class Capabilities:
    """capabilities (read only)"""
    offset = 0x8
    reset = 0x0
    #: Leaves: entries of page tables that it holds.
    LEAVES = Field(0, 32)
    #: Windows.
    WINDOWS = Field(32, 8)
    #: 1 when it copies pages itself.
    COPIES = Field(40, 1)
    #: Payload bytes of one beat.
    DATA_BYTES = Field(48, 16)


class WindowTarget:
    """window_target (read and write)"""
    offset = 0x10
    reset = 0x0
    #: Address of the page that the next take, commit or copy leads to; bits 11:0 are ignored.
    ADDRESS = Field(0, 64)


class WindowOrder:
    """window_order (read and write)"""
    offset = 0x18
    reset = 0x0
    #: Which window.
    WINDOW = Field(0, 8)
    #: What to do. Encoded as :class:`WindowOp`.
    OP = Field(8, 4)
    #: take: reads leave this window without relaxed ordering, and all requests without no-snoop. Writes and atomics never have relaxed ordering.
    PLAIN = Field(12, 1)


class WindowStatus:
    """window_status (read only)"""
    offset = 0x20
    reset = 0x0
    #: 1 while an order is carried out.
    BUSY = Field(0, 1)
    #: Why the last order was refused. Encoded as :class:`WindowRefusal`.
    REFUSAL = Field(4, 4)
    #: Orders that were carried out or refused, modulo 256.
    ORDERS = Field(8, 8)


class Flush:
    """flush (read and write)"""
    offset = 0x28
    reset = 0x0
    #: Which window.
    WINDOW = Field(0, 8)
    #: 1 proves only what windows have let through, and waits for no hold.
    PASSED = Field(8, 1)


class FlushStatus:
    """flush_status (read only)"""
    offset = 0x30
    reset = 0x0
    #: 1 while a flush runs. What is written meanwhile is ignored.
    BUSY = Field(0, 1)
    #: 1 when the last flush was not answered in time, or with an error: nothing is proven.
    FAILED = Field(1, 1)
    #: Flushes that ended, modulo 256.
    FLUSHES = Field(8, 8)


class Limits:
    """limits (read and write)"""
    offset = 0x38
    reset = 0xc350000030d4
    #: Cycles after which a window that holds opens by itself to the page that it leads to.
    HOLD = Field(0, 32)
    #: Cycles after which a read of ours counts as not answered.
    COMPLETION = Field(32, 32)


class CopyStatus:
    """copy_status (read only)"""
    offset = 0x40
    reset = 0x0
    #: 1 while a page is copied.
    BUSY = Field(0, 1)
    #: 1 when the last copy failed: the page stays where it was.
    FAILED = Field(1, 1)
    #: Why: as move_error of the interposer, 8 UR, 9 CA, 10 poison, 11 timeout; 12: devices wrote for longer than limits.hold after it was told to
    #: end.
    ERROR = Field(4, 4)


class Now:
    """now (read only)"""
    offset = 0x48
    reset = 0x0
    #: Cycles since reset.
    CYCLES = Field(0, 48)


class LeafControl:
    """leaf_control (read and write)"""
    offset = 0x50
    reset = 0x0
    #: 1 shows A and D in the leaves that software reads, as the bitmaps have them.
    IN_ENTRIES = Field(0, 1)
    #: Requester ID of software's reads of leaves. Whoever else reads a leaf walks tables.
    HOST_ID = Field(16, 16)


class LeafHold:
    """leaf_hold (read and write)"""
    offset = 0x58
    reset = 0x0
    #: Which line of eight leaves. Stays while hold is 1.
    LINE = Field(0, 13)
    #: 1 lets walks of this line wait, for limits.hold cycles at most.
    HOLD = Field(16, 1)


class LeafStatus:
    """leaf_status (read only)"""
    offset = 0x60
    reset = 0x0
    #: 1 while a walk waits.
    WAITING = Field(0, 1)
    #: Holds that ended by their limit, modulo 256.
    EXPIRED = Field(8, 8)


class Refused:
    """refused (read only)"""
    offset = 0x80
    reset = 0x0
    #: Count since reset, modulo 2^64.
    VALUE = Field(0, 64)


class Dropped:
    """dropped (read only)"""
    offset = 0x88
    reset = 0x0
    #: Count since reset, modulo 2^64.
    VALUE = Field(0, 64)


class Unsupported:
    """unsupported (read only)"""
    offset = 0x90
    reset = 0x0
    #: Count since reset, modulo 2^64.
    VALUE = Field(0, 64)


class Unexpected:
    """unexpected (read only)"""
    offset = 0x98
    reset = 0x0
    #: Count since reset, modulo 2^64.
    VALUE = Field(0, 64)


class Timeouts:
    """timeouts (read only)"""
    offset = 0xa0
    reset = 0x0
    #: Count since reset, modulo 2^64.
    VALUE = Field(0, 64)


class FlushTimeouts:
    """flush_timeouts (read only)"""
    offset = 0xa8
    reset = 0x0
    #: Count since reset, modulo 2^64.
    VALUE = Field(0, 64)


class Expired:
    """expired (read only)"""
    offset = 0xb0
    reset = 0x0
    #: Count since reset, modulo 2^64.
    VALUE = Field(0, 64)


class Held:
    """held (read only)"""
    offset = 0xb8
    reset = 0x0
    #: Count since reset, modulo 2^64.
    VALUE = Field(0, 64)


class Walked:
    """walked (read only)"""
    offset = 0xc0
    reset = 0x0
    #: Count since reset, modulo 2^64.
    VALUE = Field(0, 64)
