"""Commands as they stand in the command queue, 16 bytes each, and which of them are legal (section 4.1)."""

from amaranth.hdl import Mux, Value
from amaranth.lib import data, enum

from pagehop.iommu.directory_walk import is_too_wide
from pagehop.iommu.layouts import DEVICE_BITS, PPN_BITS

__all__ = [
    "COMMAND_BITS", "DeviceMessage", "Fence", "InvalidateContexts", "InvalidatePages", "Kind", "Modify", "ModifyPages", "Opcode", "kind_of",
    "reserved_of",
]

COMMAND_BITS = 128


class Opcode(enum.Enum, shape=7):
    """The first seven bits."""
    IOTINVAL = 1
    IOFENCE  = 2
    IODIR    = 3
    ATS      = 4
    MODIFY   = 64
    MODIFY_PAGES = 65


class Kind(enum.Enum, shape=3):
    """What is to be done with a command."""
    ILLEGAL   = 0
    PAGES     = 1
    CONTEXTS  = 2
    FENCE     = 3
    ATS       = 4
    MODIFY    = 5


class InvalidatePages(data.Struct):
    """IOTINVAL.VMA (function 0) and .GVMA (1). Neither NL nor S is built, so their bits are reserved."""
    opcode:    Opcode
    function:  3
    av:        1
    reserved_11: 1
    pscid:     20
    pscv:      1
    gv:        1
    reserved_34: 10
    gscid:     16
    reserved_60: 14
    page:      52
    reserved_126: 2


class Fence(data.Struct):
    """IOFENCE.C (0)."""
    opcode:    Opcode
    function:  3
    av:        1
    wsi:       1
    pr:        1
    pw:        1
    reserved_14: 18
    data:      32
    address:   62   # from bit 2 on
    reserved_126: 2


class InvalidateContexts(data.Struct):
    """IODIR.INVAL_DDT (0) and .INVAL_PDT (1)."""
    opcode:    Opcode
    function:  3
    reserved_10: 2
    process:   20
    reserved_32: 1
    dv:        1
    reserved_34: 6
    device_id: DEVICE_BITS
    reserved_64: 64


class DeviceMessage(data.Struct):
    """ATS.INVAL (0) and .PRGR (1)."""
    opcode:    Opcode
    function:  3
    reserved_10: 2
    process:   20
    pv:        1
    dsv:       1
    reserved_34: 6
    requester_id: 16
    segment:   8
    payload:   64


class Modify(data.Struct):
    """First half of a move: which entry, and how.

    ``function``: 0, the entry by which ``address`` of the device ``device_id`` is translated; 1, the entry at the physical ``address``.
    ``optimistic``: up to ``tries`` times without holding anybody, and once more than that with. ``bare``: nothing is copied. ``tells``: the ATS
    devices of the domain ``gscid`` forget the page first. ``more``: the next move is of an entry in the same line, and done in one go with this one.
    ``precaches``: the IOTLB gets what the pages are translated to then, for function 0 and where there is one stage.
    """
    opcode:    Opcode
    function:  3
    optimistic: 1
    bare:      1
    more:      1
    tells:     1
    tries:     4
    precaches: 1
    reserved_19: 5
    gscid:     16
    device_id: DEVICE_BITS
    address:   64


class ModifyPages(data.Struct):
    """Second half: the page that the entry must lead to, and the one it is to lead to then.

    ``size``: 0, a page of 4 KiB; others are not built. ``recorded``: what becomes of it is stored in the record of this number.
    """
    opcode:    Opcode
    size:      3
    reserved_10: 5
    recorded:  1
    record:    16
    old:       PPN_BITS
    new:       PPN_BITS
    reserved_120: 8


def reserved_of(layout):
    """Mask of the bits of a command that must be 0."""
    fields = [field for name, field in data.Layout.cast(layout) if name.startswith("reserved")]
    return sum(((1 << field.width) - 1) << field.offset for field in fields)


def kind_of(command, *, mode, wired, ats, modify):
    """What a command is; everything that is not known, or has a reserved bit or encoding, is ILLEGAL.

    ``mode``, ``wired`` : of the directory, and of interrupts. ``ats``, ``modify`` : whether there is a block that executes these commands.
    A device's number must not be wider than the directory has it; that of a process not wider than 8 bits, for there are no directories of processes.
    """
    pages, fence, contexts, message, move, move_pages = (data.View(layout, command) for layout in (
        InvalidatePages, Fence, InvalidateContexts, DeviceMessage, Modify, ModifyPages))
    opcode, function = pages.opcode.as_value(), pages.function
    wide = is_too_wide(contexts.device_id, mode)
    wrong = Mux(function[0], ~contexts.dv | contexts.process[8:].any(), contexts.process.any()) | (contexts.dv & wide)
    unaligned = Mux(function[0], move.address[:3].any(), move.address[:12].any() | is_too_wide(move.device_id, mode))
    forms = [
        (Kind.PAGES, Opcode.IOTINVAL, pages, ~function[1:].any() & ~(function[0] & pages.pscv)),
        (Kind.CONTEXTS, Opcode.IODIR, contexts, ~function[1:].any() & ~wrong),
        (Kind.FENCE, Opcode.IOFENCE, fence, ~function.any() & (wired | ~fence.wsi)),
        *([(Kind.ATS, Opcode.ATS, message, ~function[1:].any())] if ats else []),
        *([
            (Kind.MODIFY, Opcode.MODIFY, move, ~function[1:].any() & ~unaligned & ~(move.tells & int(not ats))),
            (Kind.MODIFY, Opcode.MODIFY_PAGES, move_pages, ~move_pages.size.any()),
        ] if modify else []),
    ]
    kind = Kind.ILLEGAL.value
    for name, one, form, legal in forms:
        fits = (opcode == one.value) & legal & ~(Value.cast(form) & reserved_of(form.shape())).any()
        kind = Mux(fits, name.value, kind)
    return kind
