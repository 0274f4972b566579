"""Commands of the command queue: which are illegal, and what each makes an IOMMU forget (RISC-V IOMMU specification, section 4.1)."""

from dataclasses import dataclass
from enum import Enum

from pagehop_tb.models.iommu.tables import PAGE, PAGE_BITS, AtsCommand, Command, DirectoryCommand, DirectoryMode, Fence, Invalidation, Opcode

__all__ = ["Cached", "Keeps", "decode", "illegal", "invalidates"]

_FORMS: dict[int, type[Command]] = {
    Opcode.IOTINVAL: Invalidation, Opcode.IOFENCE: Fence, Opcode.IODIR: DirectoryCommand, Opcode.ATS: AtsCommand,
}
#: Functions of each opcode: func3 goes from 0 to one less.
_FUNCTIONS: dict[int, int] = {Opcode.IOTINVAL: 2, Opcode.IOFENCE: 1, Opcode.IODIR: 2, Opcode.ATS: 2}
#: Bits of a process number that IODIR.INVAL_PDT may have where PD17 and PD20 are absent.
_PROCESS_BITS = 8


def decode(data: bytes) -> Command:
    """The 16 bytes of a command, in the form that its opcode gives them; a plain :class:`Command` when the opcode is none."""
    return _FORMS.get(Command.unpack(data).opcode, Command).unpack(data)


def illegal(data: bytes, *, ats: bool = True, wired: bool = False, directory: DirectoryMode = DirectoryMode.TWO_LEVEL) -> str:
    """Why a command sets ``cmd_ill``; empty when it is legal.

    ``ats``: ``capabilities.ATS``. ``wired``: ``fctl.WSI``. ``directory``: ``ddtp.iommu_mode``; device numbers of any width are legal while it is Off
    or Bare, of which the specification says nothing.
    """
    command = decode(data)
    # "All undefined functions of command opcodes 0 through 63 are reserved for future standard use"; there is no custom command.
    if command.opcode not in _FORMS or (command.opcode == Opcode.ATS and not ats):
        return f"opcode {command.opcode} is reserved or not supported"
    if command.func3 >= _FUNCTIONS[command.opcode]:
        return f"func3 {command.func3} of opcode {command.opcode} is reserved"
    # "A command is determined to be illegal if it uses a reserved encoding or if a reserved bit is set to 1."
    if command.reserved:
        return f"reserved bits {command.reserved:#x} are set"
    match command:
        case Invalidation(func3=1, pscv=1):
            return "PSCV of IOTINVAL.GVMA must be 0"
        # "This bit is reserved if the IOMMU does not support wired-interrupts or wired-interrupts have not been enabled."
        case Fence(wsi=1) if not wired:
            return "WSI of IOFENCE.C must be 0 when fctl.WSI is 0"
        case DirectoryCommand(func3=0) if command.process_id:
            return "PID of IODIR.INVAL_DDT must be 0"
        case DirectoryCommand(func3=1, dv=0):
            return "DV of IODIR.INVAL_PDT must be 1"
        case DirectoryCommand(func3=1) if command.process_id >> _PROCESS_BITS:
            return f"PID {command.process_id:#x} of IODIR.INVAL_PDT is wider than the IOMMU supports"
        # "When DV operand is 1, the value of the DID operand must not be wider than that supported by the ddtp.iommu_mode."
        case DirectoryCommand(dv=1) if directory.levels and command.device_id >> directory.device_bits:
            return f"DID {command.device_id:#x} is wider than ddtp.iommu_mode supports"
    return ""


class Keeps(Enum):
    """What something in a cache was read from."""
    DIRECTORY = "directory"    # the upper level of the device directory
    CONTEXT   = "context"
    FIRST     = "first stage"
    SECOND    = "second stage"


@dataclass(frozen=True)
class Cached:
    """Something that an IOMMU may keep: an entry of a table as it was, and what it is tagged with.

    ``device_id``: of a context. ``gscid``: of both stages, None where there is no second stage. ``pscid``, ``global_``: of the first stage.
    ``address``, ``size``: bytes that a leaf of the first stage (IOVA) or of the second (guest's physical address) maps. What joins both stages must
    be forgotten when either part must.
    """
    keeps: Keeps
    device_id: int = 0
    gscid: int | None = None
    pscid: int = 0
    address: int = 0
    size: int = PAGE
    leaf: bool = True
    global_: bool = False


def invalidates(command: Command, cached: Cached) -> bool:
    """Whether a legal command makes an IOMMU forget this."""
    match command:
        # IODIR.INVAL_DDT: "If DV is 0, then the command invalidates all DDT and PDT entries cached for all devices [...] If DV is 1, then the command
        # invalidates cached leaf-level DDT entry for the device identified by DID".
        case DirectoryCommand(func3=0):
            leaf = cached.keeps is Keeps.CONTEXT and (not command.dv or cached.device_id == command.device_id)
            return leaf or (cached.keeps is Keeps.DIRECTORY and not command.dv)
        # IOTINVAL.VMA: "When GV is 0, the translations associated with the host (i.e. those where the second-stage is Bare) are operated on", else
        # those of GSCID; with PSCV those of one PSCID, except global ones; with AV leaves that map one address.
        case Invalidation(func3=0) if cached.keeps is Keeps.FIRST:
            return (cached.gscid == (command.gscid if command.gv else None)
                    and (not command.pscv or (cached.pscid == command.pscid and not cached.global_))
                    and (not command.av or _maps(cached, command.page << PAGE_BITS)))
        # IOTINVAL.GVMA: GV=0, "AV ignored: information cached from any level of the second-stage page table, for all VM address spaces"; GV=1, those
        # of GSCID; and with AV leaves that map one guest's address.
        case Invalidation(func3=1) if cached.keeps is Keeps.SECOND:
            return not command.gv or (cached.gscid == command.gscid and (not command.av or _maps(cached, command.page << PAGE_BITS)))
    return False


def _maps(cached: Cached, address: int) -> bool:
    return cached.leaf and (cached.address ^ address) & ~(cached.size - 1) == 0
