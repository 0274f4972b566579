"""Registers of the block ``iommu``. Generated from its ``registers.rdl`` by ``make docs``; change that file, not this one.

Each register is a class: ``offset`` in bytes, ``reset`` as a word, and in capitals its fields.
"""

from enum import IntEnum

from pagehop_tb.driver.register_fields import Field, Memory

#: Bytes of the map.
SIZE = 0x400

#: MSI table: for each vector its address, and its data (31:0) with the mask (32).
MSI_CFG_TBL = Memory(0x300, 32)


class DirectoryMode(IntEnum):
    """Values of fields that the register map calls ``directory_mode``."""
    #: Nothing is let through.
    OFF = 0
    #: Nothing is translated.
    BARE = 1
    #: Devices 0 to 127.
    ONE_LEVEL = 2
    #: Devices 0 to 65535.
    TWO_LEVEL = 3


class Capabilities:
    """capabilities (read only)"""
    offset = 0x0
    reset = 0x0
    #: Version of the specification, 1.0.
    VERSION = Field(0, 8)
    #: First stage with 39 bits.
    SV39 = Field(9, 1)
    #: First stage with 48 bits.
    SV48 = Field(10, 1)
    #: Second stage with 41 bits.
    SV39X4 = Field(17, 1)
    #: Second stage with 50 bits.
    SV48X4 = Field(18, 1)
    #: Hardware sets A and D.
    AMO_HWAD = Field(24, 1)
    #: ATS.
    ATS = Field(25, 1)
    #: How interrupts are sent: 0 as MSI, 1 by wires, 2 either.
    IGS = Field(28, 2)
    #: Performance counters.
    HPM = Field(30, 1)
    #: The debug interface.
    DBG = Field(31, 1)
    #: Bits of a physical address.
    PAS = Field(32, 6)
    #: The command that moves a page is there.
    MODIFY = Field(56, 1)


class Fctl:
    """fctl (read and write)"""
    offset = 0x8
    reset = 0x0
    #: Interrupts go by wires. Kept while the directory is not off or a queue is on.
    WSI = Field(1, 1)


class Ddtp:
    """ddtp (read and write)"""
    offset = 0x10
    reset = 0x0
    #: What becomes of requests. Another value leaves what was there. Encoded as :class:`DirectoryMode`.
    MODE = Field(0, 4)
    #: 1 until nothing is found by the old value any more.
    BUSY = Field(4, 1)
    #: Page of the root.
    PPN = Field(10, 44)


class Cqb:
    """cqb (read and write)"""
    offset = 0x18
    reset = 0x0
    #: Base-2 logarithm of the entries, less one; up to 2^16 entries.
    LOG2SZ = Field(0, 4)
    #: Page where it begins; a queue of more than a page is aligned to its size.
    PPN = Field(10, 44)


class Cqh:
    """cqh (read only)"""
    offset = 0x20
    reset = 0x0
    #: Number of an entry.
    INDEX = Field(0, 16)


class Cqt:
    """cqt (read and write)"""
    offset = 0x24
    reset = 0x0
    #: Number of an entry.
    INDEX = Field(0, 16)


class Fqb:
    """fqb (read and write)"""
    offset = 0x28
    reset = 0x0
    #: Base-2 logarithm of the entries, less one; up to 2^16 entries.
    LOG2SZ = Field(0, 4)
    #: Page where it begins; a queue of more than a page is aligned to its size.
    PPN = Field(10, 44)


class Fqh:
    """fqh (read and write)"""
    offset = 0x30
    reset = 0x0
    #: Number of an entry.
    INDEX = Field(0, 16)


class Fqt:
    """fqt (read only)"""
    offset = 0x34
    reset = 0x0
    #: Number of an entry.
    INDEX = Field(0, 16)


class Pqb:
    """pqb (read and write)"""
    offset = 0x38
    reset = 0x0
    #: Base-2 logarithm of the entries, less one; up to 2^16 entries.
    LOG2SZ = Field(0, 4)
    #: Page where it begins; a queue of more than a page is aligned to its size.
    PPN = Field(10, 44)


class Pqh:
    """pqh (read and write)"""
    offset = 0x40
    reset = 0x0
    #: Number of an entry.
    INDEX = Field(0, 16)


class Pqt:
    """pqt (read only)"""
    offset = 0x44
    reset = 0x0
    #: Number of an entry.
    INDEX = Field(0, 16)


class Cqcsr:
    """cqcsr (read and write)"""
    offset = 0x48
    reset = 0x0
    #: The queue shall be on.
    CQEN = Field(0, 1)
    #: Its interrupt is enabled.
    CIE = Field(1, 1)
    #: A command could not be read, or a fence could not write. It stops the queue.
    CQMF = Field(8, 1)
    #: A command took too long. It stops the queue.
    CMD_TO = Field(9, 1)
    #: A command is illegal. It stops the queue.
    CMD_ILL = Field(10, 1)
    #: A fence asked for an interrupt.
    FENCE_W_IP = Field(11, 1)
    #: The queue is on.
    CQON = Field(16, 1)
    #: The queue goes on or off.
    BUSY = Field(17, 1)


class Fqcsr:
    """fqcsr (read and write)"""
    offset = 0x4c
    reset = 0x0
    #: The queue shall be on.
    FQEN = Field(0, 1)
    #: Its interrupt is enabled.
    FIE = Field(1, 1)
    #: A record could not be written. Until it is cleared all are dropped.
    FQMF = Field(8, 1)
    #: There was no room for a record. Until it is cleared all are dropped.
    FQOF = Field(9, 1)
    #: The queue is on.
    FQON = Field(16, 1)
    #: The queue goes on or off.
    BUSY = Field(17, 1)


class Pqcsr:
    """pqcsr (read and write)"""
    offset = 0x50
    reset = 0x0
    #: The queue shall be on.
    PQEN = Field(0, 1)
    #: Its interrupt is enabled.
    PIE = Field(1, 1)
    #: A record could not be written. Until it is cleared all are dropped.
    PQMF = Field(8, 1)
    #: There was no room for a record. Until it is cleared all are dropped.
    PQOF = Field(9, 1)
    #: The queue is on.
    PQON = Field(16, 1)
    #: The queue goes on or off.
    BUSY = Field(17, 1)


class Ipsr:
    """ipsr (read and write)"""
    offset = 0x54
    reset = 0x0
    #: Of the command queue.
    CIP = Field(0, 1)
    #: Of the fault queue.
    FIP = Field(1, 1)
    #: Of counters: one has overflowed whose OF was 0.
    PMIP = Field(2, 1)
    #: Of the page request queue.
    PIP = Field(3, 1)


class Iocountovf:
    """iocountovf (read only)"""
    offset = 0x58
    reset = 0x0
    #: Of iohpmcycles.
    CY = Field(0, 1)
    #: Of iohpmevt1 and up.
    HPM = Field(1, 31)


class Iocountinh:
    """iocountinh (read and write)"""
    offset = 0x5c
    reset = 0x0
    #: iohpmcycles.
    CY = Field(0, 1)
    #: iohpmctr1 and up; bits of counters that there are not are 0.
    HPM = Field(1, 31)


class Iohpmcycles:
    """iohpmcycles (read and write)"""
    offset = 0x60
    reset = 0x0
    #: Cycles in which it did not stand still.
    COUNTER = Field(0, 63)
    #: It has wrapped. While it is 1 there is no interrupt.
    OF = Field(63, 1)


class Iohpmctr:
    """iohpmctr (read and write)"""
    offset = 0x68
    reset = 0x0
    #: All 31; ``offset`` is that of the first.
    array = Memory(0x68, 31)
    #: Events that its selector names.
    COUNTER = Field(0, 64)


class Iohpmevt:
    """iohpmevt (read and write)"""
    offset = 0x160
    reset = 0x0
    #: All 31; ``offset`` is that of the first.
    array = Memory(0x160, 31)
    #: 1 untranslated, 2 translated requests, 3 requests of ATS, 4 misses of the IOTLB, 5 walks of the directory, 7 of the first stage, 8 of the
    #: second. Of moves: 16384 pages moved, 16385 moves that failed, 16386 attempts that were disturbed, 16387 batches that held after those, 16388
    #: cycles in which a line was held, 16389 in which somebody waited for it, 16390 in which it was drained.
    EVENT_ID = Field(0, 15)
    #: did_gscid is compared only above its lowest 0.
    DMASK = Field(15, 1)
    #: Number of a process, or of an address space of the first stage.
    PID_PSCID = Field(16, 20)
    #: Number of a device, or of a domain.
    DID_GSCID = Field(36, 24)
    #: Only what pid_pscid names is counted.
    PV_PSCV = Field(60, 1)
    #: Only what did_gscid names is counted.
    DV_GSCV = Field(61, 1)
    #: The numbers are those of address spaces and domains. Of events 4, 7 and 8 only.
    IDT = Field(62, 1)
    #: The counter has wrapped. While it is 1 there is no interrupt.
    OF = Field(63, 1)


class TrReqIova:
    """tr_req_iova (read and write)"""
    offset = 0x258
    reset = 0x0
    #: Number of the page that is asked for.
    VPN = Field(12, 52)


class TrReqCtl:
    """tr_req_ctl (read and write)"""
    offset = 0x260
    reset = 0x0
    #: 1 asks; 1 until the answer is there.
    GO_BUSY = Field(0, 1)
    #: With pv: privileged.
    PRIV = Field(1, 1)
    #: A read; if 0, a write.
    NW = Field(3, 1)
    #: Number of a process.
    PID = Field(12, 20)
    #: There is one.
    PV = Field(32, 1)
    #: Number of the device.
    DID = Field(40, 24)


class TrResponse:
    """tr_response (read only)"""
    offset = 0x268
    reset = 0x0
    #: It is refused; why is in the fault queue. The rest means nothing then.
    FAULT = Field(0, 1)
    #: Always 0, for there is no Svpbmt.
    PBMT = Field(7, 2)
    #: More than 4 KiB: as many as the ones at the low end of ppn, below a zero, say.
    S = Field(9, 1)
    #: Number of the page.
    PPN = Field(10, 44)


class AtsDevice0:
    """ats_device_0 (read and write)"""
    offset = 0x2b0
    reset = 0x0
    #: Its requester ID.
    REQUESTER_ID = Field(0, 16)
    #: Its domain.
    GSCID = Field(16, 16)


class AtsDevice1:
    """ats_device_1 (read and write)"""
    offset = 0x2b4
    reset = 0x0
    #: Its requester ID.
    REQUESTER_ID = Field(0, 16)
    #: Its domain.
    GSCID = Field(16, 16)


class AtsDevice2:
    """ats_device_2 (read and write)"""
    offset = 0x2b8
    reset = 0x0
    #: Its requester ID.
    REQUESTER_ID = Field(0, 16)
    #: Its domain.
    GSCID = Field(16, 16)


class AtsDevice3:
    """ats_device_3 (read and write)"""
    offset = 0x2bc
    reset = 0x0
    #: Its requester ID.
    REQUESTER_ID = Field(0, 16)
    #: Its domain.
    GSCID = Field(16, 16)


class AtsTimeout:
    """ats_timeout (read and write)"""
    offset = 0x2c0
    reset = 0x53d1ac100
    #: Cycles after which an invalidation is given up. The specification of PCIe has a minute, and half of it more.
    CYCLES = Field(0, 36)


class AtsStatus:
    """ats_status (read and write)"""
    offset = 0x2c8
    reset = 0x0
    #: Devices that are valid, by their register.
    VALID = Field(0, 4)
    #: Devices that did not answer the invalidation of a move. To be cleared when they have been reset.
    QUARANTINED = Field(4, 4)
    #: Completions that fitted nothing, modulo 2^16.
    UNEXPECTED = Field(16, 16)
    #: ITags of invalidations that were given up. Not used before they are answered, or cleared when their device has been reset.
    LATE = Field(32, 32)


class ModifyRecords:
    """modify_records (read and write)"""
    offset = 0x2d0
    reset = 0x0
    #: Page where they begin.
    PPN = Field(10, 44)


class ModifyLimits:
    """modify_limits (read and write)"""
    offset = 0x2d8
    reset = 0x2625a0000030d4
    #: For which who wants the line of an entry is kept waiting, at most, by a move that holds it.
    HOLD = Field(0, 16)
    #: For which the copy of a page waits for memory.
    COPY = Field(32, 32)


class ModifyCounts:
    """modify_counts (read only)"""
    offset = 0x2e0
    reset = 0x0
    #: Batches of which something was moved.
    MOVED = Field(0, 16)
    #: Batches of which nothing was moved.
    FAILED = Field(16, 16)
    #: Attempts that somebody disturbed.
    RETRIED = Field(32, 16)
    #: Batches that held the line after as many attempts as they had without.
    FELL_BACK = Field(48, 16)


class DrainAddress:
    """drain_address (read and write)"""
    offset = 0x2e8
    reset = 0x0
    #: Any address that the host answers, aligned to 4 bytes.
    ADDRESS = Field(0, 64)


class DrainLimit:
    """drain_limit (read and write)"""
    offset = 0x2f0
    reset = 0x2625a0
    #: Cycles after which a drain that is not answered is given up.
    CYCLES = Field(0, 32)


class Icvec:
    """icvec (read and write)"""
    offset = 0x2f8
    reset = 0x0
    #: Of the command queue.
    CIV = Field(0, 4)
    #: Of the fault queue.
    FIV = Field(4, 4)
    #: Of counters.
    PMIV = Field(8, 4)
    #: Of the page request queue.
    PIV = Field(12, 4)
