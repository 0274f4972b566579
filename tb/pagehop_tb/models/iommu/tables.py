"""What stands in memory for an IOMMU, bit by bit: device directory, page tables, fault records, commands.

Sources: RISC-V IOMMU Architecture Specification 1.0 (sections 3.1, 4.1, 4.2), RISC-V Privileged Architecture (Sv39, Sv48, x4 forms, Svnapot), Intel
VT-d (second-stage paging entries). Everything is little-endian.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass, field, fields, replace
from enum import Enum, IntEnum
from functools import cache
from typing import Any, ClassVar, Self

__all__ = ["DDI_BITS", "EVERYTHING", "LEVEL_BITS", "NAPOT_SIZE", "PAGE", "PAGE_BITS", "Access", "AtsCommand", "Cause", "Command", "DeviceContext",
           "DirectoryCommand", "DirectoryEntry", "DirectoryMode", "Entry", "FaultRecord", "Fence", "Invalidation", "Kind", "Mode", "Move",
           "MovePages", "MoveStatus", "Opcode", "Packed", "RiscvEntry", "VtdEntry", "page_size"]

PAGE_BITS, LEVEL_BITS = 12, 9
PAGE = 1 << PAGE_BITS
#: Bytes of the only size that Svnapot knows.
NAPOT_SIZE = 16 * PAGE
#: Size of what is translated alike when nothing is translated.
EVERYTHING = 1 << 64
#: Bits of DDI[0] and DDI[1] of a device's number, base format: DDI[0] finds a context in a page, DDI[1] an entry of the level above.
DDI_BITS = (7, 9)


def page_size(level: int) -> int:
    """Bytes that a leaf of this level maps, 0 being the level of the smallest pages."""
    return PAGE << LEVEL_BITS * level


class Cause(IntEnum):
    """CAUSE of a fault record, those that this subset can have."""
    NONE                    = 0
    READ_ACCESS_FAULT       = 5
    WRITE_ACCESS_FAULT      = 7
    READ_PAGE_FAULT         = 13
    WRITE_PAGE_FAULT        = 15
    READ_GUEST_PAGE_FAULT   = 21
    WRITE_GUEST_PAGE_FAULT  = 23
    ALL_DISALLOWED          = 256
    DIRECTORY_ACCESS_FAULT  = 257
    DIRECTORY_NOT_VALID     = 258
    DIRECTORY_MISCONFIGURED = 259
    TYPE_DISALLOWED         = 260
    DIRECTORY_CORRUPTED     = 268
    TABLE_CORRUPTED         = 274


class Access(IntEnum):
    """TTYP of a fault record. An AtomicOp is a write. Reads for execution need process contexts: they are outside this subset."""
    READ             = 2
    WRITE            = 3
    TRANSLATED_READ  = 6
    TRANSLATED_WRITE = 7
    ATS_REQUEST      = 8


class DirectoryMode(IntEnum):
    """``ddtp.iommu_mode``."""
    OFF       = 0
    BARE      = 1
    ONE_LEVEL = 2
    TWO_LEVEL = 3

    @property
    def levels(self) -> int:
        """Of the directory; 0 when there is none."""
        return max(0, self - 1)

    @property
    def device_bits(self) -> int:
        """Bits that a device's number may have: those of the indices of all levels."""
        return sum(DDI_BITS[:self.levels])


class Mode(IntEnum):
    """MODE of ``iosatp`` and, as Sv39x4 and Sv48x4, of ``iohgatp``."""
    BARE = 0
    SV39 = 8
    SV48 = 9

    @property
    def levels(self) -> int:
        """Of the tables."""
        return 4 if self is Mode.SV48 else 3

    @property
    def bits(self) -> int:
        """Of an address of the first stage; the x4 forms have two more."""
        return PAGE_BITS + LEVEL_BITS * self.levels


def at(low: int, width: int = 1, default: int = 0) -> Any:
    """A field of a :class:`Packed` number: its lowest bit, its width, and what it is when nothing is said."""
    return field(default=default, metadata={"place": (low, width)})


@dataclass(frozen=True)
class Packed:
    """A little-endian number of ``SIZE`` bytes with named fields. ``reserved`` has, in their places, the bits that belong to no field."""
    SIZE: ClassVar[int] = 8
    reserved: int = field(default=0, kw_only=True)

    @classmethod
    @cache
    def places(cls) -> dict[str, tuple[int, int]]:
        """Lowest bit and width of each field."""
        return {one.name: one.metadata["place"] for one in fields(cls) if "place" in one.metadata}

    @property
    def value(self) -> int:
        """The number."""
        value = self.reserved
        for name, (low, width) in self.places().items():
            part = int(getattr(self, name))
            if part >> width:
                raise ValueError(f"{type(self).__name__}.{name} must fit {width} bits, not be {part:#x}")
            value |= part << low
        return value

    @classmethod
    def of(cls, value: int) -> Self:
        """What a number means."""
        places = cls.places()
        known = sum((1 << width) - 1 << low for low, width in places.values())
        return cls(**{name: value >> low & (1 << width) - 1 for name, (low, width) in places.items()}, reserved=value & ~known)

    def pack(self) -> bytes:
        """As it stands in memory."""
        return self.value.to_bytes(self.SIZE, "little")

    @classmethod
    def unpack(cls, data: bytes) -> Self:
        """From memory."""
        return cls.of(int.from_bytes(data, "little"))


@dataclass(frozen=True)
class DirectoryEntry(Packed):
    """An entry of the upper level of a device directory."""
    valid: int = at(0, 1, 1)
    ppn: int = at(10, 44)


@dataclass(frozen=True)
class DeviceContext(Packed):
    """A device context of the base format: ``tc`` (bits 63:0), ``iohgatp``, ``ta``, ``fsc``.

    RCID and MCID of ``ta`` belong to an extension that is not there: they are reserved. ``first_`` is ``iosatp``, or ``pdtp`` when ``pdtv``;
    ``second_`` is ``iohgatp``.
    """
    SIZE = 32
    valid: int = at(0, 1, 1)
    ats: int = at(1)
    pri: int = at(2)
    t2gpa: int = at(3)
    dtf: int = at(4)
    pdtv: int = at(5)
    prpr: int = at(6)
    gade: int = at(7)
    sade: int = at(8)
    dpe: int = at(9)
    sbe: int = at(10)
    sxl: int = at(11)
    custom: int = at(24, 8)
    second_ppn: int = at(64, 44)
    gscid: int = at(108, 16)
    second_mode: int = at(124, 4, Mode.BARE)
    pscid: int = at(140, 20)
    first_ppn: int = at(192, 44)
    first_mode: int = at(252, 4, Mode.BARE)


class Kind(Enum):
    """What an entry of a page table is at its level."""
    FAULT   = "fault"      # not valid, or malformed
    POINTER = "pointer"
    LEAF    = "leaf"


@dataclass(frozen=True)
class Entry(Packed, ABC):
    """An entry of a page table. Both formats have these fields and answer these questions; ``napot`` and ``user`` are 0 and 1 where there are
    none."""
    valid: int = 1
    readable: int = 1
    writable: int = 1
    user: int = 1
    accessed: int = 1
    dirty: int = 1
    global_: int = 0
    ppn: int = 0
    napot: int = 0

    #: What a root table has more than other tables, in bits of its index, when the entry is one of the second stage.
    ROOT_BITS: ClassVar[int] = 0

    @property
    def present(self) -> bool:
        """Whether it may be kept in a cache, whatever else is wrong with it."""
        return bool(self.valid)

    @abstractmethod
    def kind(self, level: int) -> Kind:
        """What it is in a table of this level."""

    @abstractmethod
    def grants(self, level: int) -> tuple[bool, bool]:
        """Whether it lets read, and write: of a pointer, what it does not take away."""

    @classmethod
    @abstractmethod
    def pointer(cls, ppn: int) -> Self:
        """One that leads to the table at page ``ppn``."""

    @classmethod
    @abstractmethod
    def leaf(cls, ppn: int, level: int, **flags: int) -> Self:
        """One that maps to ``ppn`` at this level; by default all is allowed, and it was accessed and written."""

    def size(self, level: int) -> int:
        """Bytes that a leaf of this level maps."""
        return NAPOT_SIZE if self.napot else page_size(level)

    def misaligned(self, level: int) -> bool:
        """Whether a leaf of this level begins at no multiple of its size."""
        return bool(self.ppn & (page_size(level) >> PAGE_BITS) - 1)

    def marked(self, dirty: bool) -> Self:
        """The same, accessed, and written to if ``dirty``."""
        return replace(self, accessed=1, dirty=self.dirty | dirty)


@dataclass(frozen=True)
class RiscvEntry(Entry):
    """An entry of Sv39, Sv48 or their x4 forms, with Svnapot and without Svpbmt. ``software`` is free for software."""
    ROOT_BITS = 2
    valid: int = at(0, 1, 1)
    readable: int = at(1, 1, 1)
    writable: int = at(2, 1, 1)
    executable: int = at(3)
    user: int = at(4, 1, 1)
    global_: int = at(5)
    accessed: int = at(6, 1, 1)
    dirty: int = at(7, 1, 1)
    software: int = at(8, 2)
    ppn: int = at(10, 44)
    pbmt: int = at(61, 2)
    napot: int = at(63)

    def kind(self, level: int) -> Kind:
        # Step 3. "If pte.v=0, or if pte.r=0 and pte.w=1, or if any bits or encodings that are reserved for future standard use are set within pte",
        # it is a fault. PBMT is reserved without Svpbmt.
        if not self.valid or (self.writable and not self.readable) or self.reserved or self.pbmt:
            return Kind.FAULT
        # Step 4. "If pte.r=1 or pte.x=1", it is a leaf. "Otherwise, this PTE is a pointer to the next level [...] Let i=i-1. If i<0", it is a fault.
        # Of pointers, D, A and U are reserved, and N, as it is of all entries above level 0.
        if not (self.readable or self.executable):
            wrong = level == 0 or self.dirty or self.accessed or self.user or self.napot
            return Kind.FAULT if wrong else Kind.POINTER
        # Svnapot: N is for leaves of level 0, and the only encoding that is not reserved is ppn[3:0] = 1000, 64 KiB.
        if self.napot and (level > 0 or self.ppn & 0xF != 0b1000):
            return Kind.FAULT
        # Step 5. "If i>0 and pte.ppn[i-1:0] is not 0, this is a misaligned superpage": it is a fault.
        return Kind.FAULT if self.misaligned(level) else Kind.LEAF

    def grants(self, level: int) -> tuple[bool, bool]:
        is_leaf = self.kind(level) is Kind.LEAF
        return bool(self.readable or not is_leaf), bool(self.writable or not is_leaf)

    @classmethod
    def pointer(cls, ppn: int) -> Self:
        return cls(ppn=ppn, readable=0, writable=0, user=0, accessed=0, dirty=0)

    @classmethod
    def leaf(cls, ppn: int, level: int, **flags: int) -> Self:
        if flags.get("napot"):
            ppn = ppn & ~0xF | 0b1000
        return cls(**{"ppn": ppn, **flags})


@dataclass(frozen=True)
class VtdEntry(Entry):
    """An entry of VT-d's second stage: no valid bit (it is there if it lets read or write), no user bit, no 64 KiB, and each level takes away
    permissions. Bits 11, 10, 6:2 and 62:52 are ignored. Whether A and D are written is said by ``DC.tc.GADE``, as for RISC-V's entries."""
    readable: int = at(0, 1, 1)
    writable: int = at(1, 1, 1)
    large: int = at(7)
    accessed: int = at(8, 1, 1)
    dirty: int = at(9, 1, 1)
    ppn: int = at(12, 40)

    @property
    def present(self) -> bool:
        return bool(self.readable or self.writable)

    def kind(self, level: int) -> Kind:
        # Present means R or W. PS makes a leaf of an entry above level 0, of 2 MiB or 1 GiB, and is reserved above.
        if not self.present or (self.large and level > 2):
            return Kind.FAULT
        if level > 0 and not self.large:
            return Kind.POINTER
        return Kind.FAULT if self.misaligned(level) else Kind.LEAF

    def grants(self, level: int) -> tuple[bool, bool]:
        return bool(self.readable), bool(self.writable)

    @classmethod
    def pointer(cls, ppn: int) -> Self:
        return cls(ppn=ppn, accessed=0, dirty=0)

    @classmethod
    def leaf(cls, ppn: int, level: int, **flags: int) -> Self:
        return cls(**{"ppn": ppn, "large": int(level > 0), **flags})


@dataclass(frozen=True)
class FaultRecord(Packed):
    """A record of the fault queue (section 4.2)."""
    SIZE = 32
    cause: int = at(0, 12)
    process_id: int = at(12, 20)
    process_valid: int = at(32)
    privileged: int = at(33)
    access: int = at(34, 6)
    device_id: int = at(40, 24)
    custom: int = at(64, 32)
    iotval: int = at(128, 64)
    iotval2: int = at(192, 64)


class Opcode(IntEnum):
    """Of commands. 64 to 127 are free for custom commands, all others are reserved."""
    IOTINVAL = 1
    IOFENCE  = 2
    IODIR    = 3
    ATS      = 4


@dataclass(frozen=True)
class Command(Packed):
    """A command of 16 bytes, as far as all have it in common."""
    SIZE = 16
    opcode: int = at(0, 7)
    func3: int = at(7, 3)


@dataclass(frozen=True)
class Invalidation(Command):
    """IOTINVAL.VMA (func3 0) and IOTINVAL.GVMA (1). ``page`` is ADDR[63:12]. NL and S belong to extensions that are not there: they are reserved."""
    opcode: int = at(0, 7, Opcode.IOTINVAL)
    av: int = at(10)
    pscid: int = at(12, 20)
    pscv: int = at(32)
    gv: int = at(33)
    gscid: int = at(44, 16)
    page: int = at(74, 52)


@dataclass(frozen=True)
class Fence(Command):
    """IOFENCE.C (func3 0). ``dword`` is ADDR[63:2]."""
    opcode: int = at(0, 7, Opcode.IOFENCE)
    av: int = at(10)
    wsi: int = at(11)
    pr: int = at(12)
    pw: int = at(13)
    data: int = at(32, 32)
    dword: int = at(64, 62)


@dataclass(frozen=True)
class DirectoryCommand(Command):
    """IODIR.INVAL_DDT (func3 0) and IODIR.INVAL_PDT (1)."""
    opcode: int = at(0, 7, Opcode.IODIR)
    process_id: int = at(12, 20)
    dv: int = at(33)
    device_id: int = at(40, 24)


@dataclass(frozen=True)
class AtsCommand(Command):
    """ATS.INVAL (func3 0) and ATS.PRGR (1). ``payload`` is the body of the message; nothing in it makes the command illegal."""
    opcode: int = at(0, 7, Opcode.ATS)
    process_id: int = at(12, 20)
    pv: int = at(32)
    dsv: int = at(33)
    requester: int = at(40, 16)
    segment: int = at(56, 8)
    payload: int = at(64, 64)


@dataclass(frozen=True)
class Move(Command):
    """First half of pagehop's own command (docs/iommu.md, "To move a page"). ``func3``: 0 by the device's address, 1 by that of the entry."""
    opcode: int = at(0, 7, 64)
    optimistic: int = at(10)
    bare: int = at(11)
    more: int = at(12)
    tells: int = at(13)
    tries: int = at(14, 4)
    precaches: int = at(18)
    gscid: int = at(24, 16)
    device_id: int = at(40, 24)
    address: int = at(64, 64)


@dataclass(frozen=True)
class MovePages(Command):
    """Second half: the pages, and where the record is to be."""
    opcode: int = at(0, 7, 65)
    recorded: int = at(15)
    record: int = at(16, 16)
    old: int = at(32, 44)
    new: int = at(76, 44)


class MoveStatus(IntEnum):
    """What a record says of a move, in its bits 3:0."""
    MOVED     = 1
    MISMATCH  = 2
    NOT_FOUND = 3
    TOO_LARGE = 4
    MISPLACED = 5
    UNTOLD    = 6
    NO_COPY   = 7
    NO_LINE   = 8
    EXPIRED   = 9
    UNDRAINED = 10
    HALF      = 11
