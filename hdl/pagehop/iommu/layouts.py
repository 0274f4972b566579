"""What travels between the parts of the IOMMU, and what stands in memory, each declared once.

Names and positions follow the RISC-V IOMMU Architecture Specification 1.0 (sections 3.1 to 3.3, 4) and the RISC-V Privileged Architecture (Sv39,
Sv48 and their x4 forms), of which a subset is built: base device contexts of 32 bytes, no process contexts, little-endian.
"""

from itertools import pairwise

from amaranth.hdl import Cat, Const, Mux
from amaranth.lib import data, enum

from pagehop.iommu.tilelink import ADDRESS_BITS

__all__ = [
    "PPN_BITS", "PAGE_BITS", "VPN_BITS", "DEVICE_BITS", "LEVEL_BITS", "MAX_LEVEL", "Cause", "Access", "TableMode", "DirectoryMode", "Status",
    "PageSize", "TranslationControl", "TableRoot", "DeviceContext", "Context", "TranslationRequest", "TranslationResponse", "Translation",
    "EntryInfo", "EntryUpdateRequest", "EntryUpdateStatus", "FaultRecord", "Located", "PageRecord", "COMMON", "bits_of_level", "same_parts",
    "sized", "translated",
]

#: Bits of the number of a physical page, base-2 logarithm of a page, bits of the number of a guest's page (Sv48x4).
PPN_BITS, PAGE_BITS, VPN_BITS = 44, 12, 38

#: Bits of the number of a device: its requester ID, and above it the segment.
DEVICE_BITS = 24

#: Bits of the index into a table below the root, and levels of the deepest tree, from 0 for leaves of 4 KiB.
LEVEL_BITS, MAX_LEVEL = 9, 3


class Cause(enum.Enum, shape=12):
    """Why a transaction was refused (table 11)."""
    NONE                       = 0
    READ_ACCESS_FAULT          = 5
    WRITE_ACCESS_FAULT         = 7
    READ_PAGE_FAULT            = 13
    WRITE_PAGE_FAULT           = 15
    READ_GUEST_PAGE_FAULT      = 21
    WRITE_GUEST_PAGE_FAULT     = 23
    ALL_DISALLOWED             = 256
    DIRECTORY_ACCESS_FAULT     = 257
    DIRECTORY_NOT_VALID        = 258
    DIRECTORY_MISCONFIGURED    = 259
    TYPE_DISALLOWED            = 260
    DIRECTORY_CORRUPTED        = 268
    MESSAGE_ACCESS_FAULT       = 273
    TABLE_CORRUPTED            = 274


class Access(enum.Enum, shape=6):
    """Transaction types as a fault record names them (table 12). An AtomicOp is a write."""
    NONE             = 0
    READ             = 2
    WRITE            = 3
    TRANSLATED_READ  = 6
    TRANSLATED_WRITE = 7
    ATS_REQUEST      = 8
    MESSAGE          = 9
    PRECACHE         = 32    # nobody's: what a read would find is to be kept


class TableMode(enum.Enum, shape=4):
    """MODE of ``iosatp`` and ``iohgatp``: the second column of names is that of the second stage, Sv39x4 and Sv48x4."""
    BARE = 0
    SV39 = 8
    SV48 = 9


class DirectoryMode(enum.Enum, shape=4):
    """``ddtp.iommu_mode``."""
    OFF       = 0
    BARE      = 1
    ONE_LEVEL = 2
    TWO_LEVEL = 3


class Status(enum.Enum, shape=2):
    """How a request is answered: by its translation (of an ATS request perhaps one without permissions), with UR, or with CA."""
    TRANSLATED          = 0
    UNSUPPORTED_REQUEST = 1
    COMPLETER_ABORT     = 2


class PageSize(enum.Enum, shape=3):
    """Size of what one translation covers."""
    SIZE_4K   = 0
    SIZE_64K  = 1
    SIZE_2M   = 2
    SIZE_1G   = 3
    SIZE_512G = 4
    #: All addresses: nothing is translated.
    EVERYTHING = 7


class TranslationControl(data.Struct):
    """``DC.tc``, least significant bit first. Bits from ``reserved`` on are 0 in a valid context."""
    valid:    1
    ats:      1
    pri:      1
    t2gpa:    1
    dtf:      1     # faults of translation leave no record
    pdtv:     1
    prpr:     1
    gade:     1     # the second stage's A and D are written by hardware
    sade:     1     # the first stage's
    dpe:      1
    sbe:      1
    sxl:      1
    reserved: 52


class TableRoot(data.Struct):
    """``iosatp`` or ``iohgatp``; ``id`` is the GSCID of the latter and 0 in the former."""
    ppn:  PPN_BITS
    id:   16
    mode: 4


class DeviceContext(data.Struct):
    """A device context as it stands in memory, base format."""
    tc:      TranslationControl
    iohgatp: TableRoot
    ta:      data.StructLayout({"low": 12, "pscid": 20, "high": 32})
    fsc:     TableRoot


class Context(data.Struct):
    """What is kept of a device context that was found in order: modes have the two low bits of :class:`TableMode` and say whether there is a stage.

    ``first``, ``second``: there is such a stage, ``first_deep``, ``second_deep``: it has four levels.
    """
    ats:         1
    pri:         1
    prpr:        1
    dtf:         1
    gade:        1
    sade:        1
    first:       1
    first_deep:  1
    second:      1
    second_deep: 1
    gscid:       16
    pscid:       20
    first_root:  PPN_BITS
    second_root: PPN_BITS


class TranslationRequest(data.StructLayout):
    """An address to be translated. ``id`` comes back with the answer. ``no_write``: of an ATS request, that it asks for no permission to write.

    ``process``, ``privileged``: of the PASID prefix, when ``process_valid``.
    """
    def __init__(self, id_bits):
        super().__init__({
            "id": id_bits, "device_id": DEVICE_BITS, "iova": 64, "access": Access, "no_write": 1,
            "process_valid": 1, "process": 20, "privileged": 1,
        })


class Translation(data.Struct):
    """What a translation gives: the page, how much around it is translated alike, and what may be done there."""
    ppn:      PPN_BITS
    size:     PageSize
    readable: 1
    writable: 1


class TranslationResponse(data.StructLayout):
    """The answer to a :class:`TranslationRequest`. ``translation`` means something when ``status`` is TRANSLATED."""
    def __init__(self, id_bits):
        super().__init__({"id": id_bits, "status": Status, "translation": Translation})


class EntryInfo(data.Struct):
    """What a page-table entry says, whatever its format. Exactly one of ``fault``, ``pointer`` and ``leaf`` is 1.

    ``fault``: not present, or malformed, at this level. ``pointer``: ``ppn`` is that of the next table. ``napot``: a leaf of 64 KiB.
    ``user``: not for supervisors only. Of a pointer, ``readable`` and ``writable`` are what the format lets it take away: 1 when it takes nothing.
    """
    fault:    1
    pointer:  1
    leaf:     1
    readable: 1
    writable: 1
    user:     1
    accessed: 1
    dirty:    1
    napot:    1
    ppn:      PPN_BITS


class EntryUpdateRequest(data.Struct):
    """Write ``value`` to the entry at ``address`` (in double words of 8 bytes), if ``expected`` is still there, as one step for everybody."""
    address:  ADDRESS_BITS - 3
    expected: 64
    value:    64


class EntryUpdateStatus(enum.Enum, shape=2):
    """What became of it."""
    WRITTEN = 0
    CHANGED = 1     # the entry is another now, and stays so
    ERROR   = 2     # memory refused, or has lost what stood there


class Located(data.Struct):
    """Where the entry is by which a page is translated: its ``address`` in double words, what it says, and whether there is any (``found``).

    ``nested``: the context has two stages, of which the entry is of the second.
    """
    found:       1
    nested:      1
    address:     ADDRESS_BITS - 3
    translation: Translation


class FaultRecord(data.Struct):
    """A record of the fault queue, 32 bytes (section 3.2)."""
    cause:      Cause
    process:    20
    process_valid: 1
    privileged: 1
    access:     Access
    device_id:  DEVICE_BITS
    custom:     32
    reserved:   32
    iotval:     64
    iotval2:    64


class PageRecord(data.Struct):
    """A record of the page request queue, 16 bytes (section 4.3). ``payload`` as :class:`PageRequest` has it."""
    low:        12
    process:    20
    process_valid: 1
    privileged: 1
    execute:    1
    reserved:   5
    device_id:  DEVICE_BITS
    payload:    64


def bits_of_level(level):
    """Position of the index into the tables of a level, from 0, in the number of a page."""
    return LEVEL_BITS * level


#: First bit of the number of a page that two pages have in common when they are translated as one, by :class:`PageSize`.
COMMON = (0, 4, *(bits_of_level(level) for level in range(1, MAX_LEVEL + 1)))


def translated(page, ppn, size):
    """Number of the physical page that ``page`` is, when ``ppn`` is that of any page that is translated as one with it, by their ``size``."""
    bounds = [*COMMON, PPN_BITS]
    return Cat(Mux(size > place, page[low:high], ppn[low:high]) for place, (low, high) in enumerate(pairwise(bounds)))


def sized(translation):
    """``ppn`` of a :class:`Translation` that says the size, when that is more than 4 KiB: ones below a zero, as many as the number of a page within
    has bits, less one (PCIe, 10.2.3.2). What nothing translates is said to be 2 MiB: identity is that too."""
    page, large = translation.ppn, {PageSize(place): bits for place, bits in enumerate(COMMON) if place}
    for size, bits in (large | {PageSize.EVERYTHING: large[PageSize.SIZE_2M]}).items():
        page = Mux(translation.size == size, Cat(Const((1 << bits - 1) - 1, bits), translation.ppn[bits:]), page)
    return page


def same_parts(size, one, other):
    """All ones when two pages are translated as one, if what has the one has this ``size``: a bit for each of ``COMMON``."""
    bounds = [*COMMON, len(one)]
    return Cat((size > place) | (one[low:high] == other[low:high]) for place, (low, high) in enumerate(pairwise(bounds)))
