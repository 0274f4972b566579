"""The RISC-V IOMMU in software: what a request's translation is now, by the letter of the specification, without caches.

It is the reference that hardware is compared with. Numbered steps are those of the RISC-V IOMMU Architecture Specification, "Process to translate an
IOVA" and "Process to locate the Device-context" (section 3.3), and of the Privileged Architecture, "Virtual Address Translation Process" (Sv32's
algorithm with the sizes of Sv39 and Sv48) and "Two-Stage Address Translation".

The subset: base device contexts, directories of one and two levels, Sv39, Sv48 and their x4 forms, ATS without T2GPA, hardware update of A and D.
Absent are process contexts (``pdtp.MODE`` can only be Bare), MSI page tables, big-endian tables, 32-bit modes, Svpbmt, QoS IDs, reads for execution.
"""

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from functools import partial
from typing import Protocol

from pagehop_tb.models.iommu.build import AccessFault, Corruption
from pagehop_tb.models.iommu.commands import Cached, Keeps
from pagehop_tb.models.iommu.requests import Outcome, Request, Status
from pagehop_tb.models.iommu.tables import (
    DDI_BITS,
    EVERYTHING,
    LEVEL_BITS,
    PAGE,
    PAGE_BITS,
    Access,
    Cause,
    DeviceContext,
    DirectoryEntry,
    DirectoryMode,
    Entry,
    FaultRecord,
    Kind,
    Mode,
    RiscvEntry,
    page_size,
)

__all__ = ["BUILT", "Fault", "Implicit", "Iommu", "Memory", "Subset", "misconfiguration"]


class Memory(Protocol):
    """What holds the tables. Accesses raise :class:`AccessFault` when they are refused and :class:`Corruption` when data is bad."""

    def read(self, address: int, size: int) -> bytes:
        """Bytes at a physical address."""

    def compare_and_set(self, address: int, expected: int, value: int) -> bool:
        """Write 8 bytes if they are as expected, as one step; say whether it was done."""


class Implicit(Enum):
    """What an access of the first stage's walk to its own table is for the second stage when hardware may update A and D of the first (SADE).

    "Permissions and the need to set A and/or D bits at the G-stage level are checked as though for an implicit load or store", but "updates to the D
    bit in G-stage PTEs may be performed by an implicit access to a VS-stage PTE, if the G-stage PTE provides write permission, before" it is known
    whether there is a store. Implementations may differ, so which it is has to be said.
    """
    EXACT = "exact"    # a load; a store too when the entry that was read has to be changed
    AHEAD = "ahead"    # the same, but the D bit is set, and asked for, with the load, where the second stage lets write; as the public C model does
    STORE = "store"    # always a store as well: where the second stage does not let write, that is a fault


@dataclass(frozen=True)
class Subset:
    """What an IOMMU can do, as its ``capabilities`` say: modes of both stages, ATS, AMO_HWAD (``updates``), PAS, the format of the second stage's
    entries; and what it makes of what the specification leaves open.

    ``implicit``: see there. ``custom``: the custom bits of a context may be set. ``processes``: requests with a PASID are of a type that it knows,
    for contexts whose PDTV is 1. ``beyond``: an address that nothing translates is passed on when it has more bits than PAS, and is no access fault.
    """
    first: tuple[Mode, ...] = (Mode.BARE, Mode.SV39, Mode.SV48)
    second: tuple[Mode, ...] = (Mode.BARE, Mode.SV39, Mode.SV48)
    ats: bool = True
    updates: bool = True
    pas: int = 56
    second_entries: type[Entry] = RiscvEntry
    implicit: Implicit = Implicit.AHEAD
    custom: bool = True
    processes: bool = True
    beyond: bool = True


#: The IOMMU that is built (docs/iommu.md).
BUILT = Subset(implicit=Implicit.STORE, custom=False, processes=False, beyond=False)


class Fault(Exception):
    """A translation stops, for this cause."""

    def __init__(self, cause: Cause, iotval2: int = 0) -> None:
        super().__init__(cause.name)
        self.cause, self.iotval2 = cause, iotval2


def misconfiguration(context: DeviceContext, subset: Subset) -> str:
    """Which of the "Device-context configuration checks" (section 3.1.4) a valid context fails; empty when it is in order."""
    first = (Mode.BARE,) if context.pdtv else subset.first
    rules = {
        "any bits or encodings that are reserved for future standard use are set": context.reserved or (context.custom and not subset.custom),
        "capabilities.ATS is 0 and EN_ATS, EN_PRI or PRPR is 1": not subset.ats and (context.ats or context.pri or context.prpr),
        "EN_ATS is 0 and T2GPA is 1": not context.ats and context.t2gpa,
        "EN_ATS is 0 and EN_PRI is 1": not context.ats and context.pri,
        "EN_PRI is 0 and PRPR is 1": not context.pri and context.prpr,
        "capabilities.T2GPA is 0 and T2GPA is 1": context.t2gpa,
        "the mode of iosatp, or with PDTV of pdtp, is not a supported one": context.first_mode not in first,
        "PDTV is 0 and DPE is 1": not context.pdtv and context.dpe,
        "iohgatp.MODE is not a supported mode": context.second_mode not in subset.second,
        "iohgatp.MODE is not Bare and the root is not aligned to 16 KiB": context.second_mode != Mode.BARE and context.second_ppn % 4,
        "capabilities.AMO_HWAD is 0 and SADE or GADE is 1": not subset.updates and (context.sade or context.gade),
        "capabilities.END is 0 and fctl.BE is not SBE": context.sbe,
        "SXL is not a legal value": context.sxl,
    }
    return next((rule for rule, broken in rules.items() if broken), "")


#: Section 3.6: an ATS request that finds no page is a success without permissions; a configuration error is answered with CA, a permanent one with
#: UR.
_NO_PAGE = (Cause.READ_PAGE_FAULT, Cause.WRITE_PAGE_FAULT, Cause.READ_GUEST_PAGE_FAULT, Cause.WRITE_GUEST_PAGE_FAULT)
#: Bad data is answered with CA, too (section 8.4).
_ABORTS = (Cause.READ_ACCESS_FAULT, Cause.WRITE_ACCESS_FAULT, Cause.DIRECTORY_CORRUPTED, Cause.TABLE_CORRUPTED)


class _PageFault(Exception):
    """A walk of one stage finds no page for this access."""


@dataclass(frozen=True)
class _Intent:
    """What an access is for a stage. ``writes``: D is to be set where the stage lets write. ``must_read``, ``must_write``: it is a fault when the
    stage does not let it: never for an ATS request, which is told of "the denied permission", but otherwise gets "the value determined from the
    tables"."""
    writes: bool
    must_read: bool
    must_write: bool


@dataclass(frozen=True)
class _Stage:
    """One stage of a translation: its tables, and ``tags`` of what may be cached of them. ``locate`` finds the physical address of an entry, for a
    load or (True) a store."""
    entries: type[Entry]
    root: int
    levels: int
    root_bits: int
    updates: bool
    tags: Cached
    locate: Callable[[int, bool], int]


@dataclass(frozen=True)
class _Found:
    """What a stage translates an address to."""
    address: int
    size: int = EVERYTHING
    readable: bool = True
    writable: bool = True


class Iommu:
    """An IOMMU that has no caches. ``mode`` and ``ppn`` are those of ``ddtp``.

    Like hardware, it writes A and D while it walks, and those stay written when the walk fails later.
    """

    def __init__(self, memory: Memory, subset: Subset | None = None, mode: DirectoryMode = DirectoryMode.OFF, ppn: int = 0) -> None:
        self.memory, self.subset, self.mode, self.ppn = memory, subset or Subset(), mode, ppn

    def translate(self, request: Request) -> Outcome:
        """"Process to translate an IOVA"."""
        context = None
        try:
            # 1. "If ddtp.iommu_mode == Off then stop and report 'All inbound transactions disallowed'".
            if self.mode is DirectoryMode.OFF:
                raise Fault(Cause.ALL_DISALLOWED)
            # 2. "If ddtp.iommu_mode == Bare and [...] transaction type is a Translated request or is a PCIe ATS Translation request", then "stop and
            # report 'Transaction type disallowed'; else go to step 20 with translated address same as the IOVA".
            if self.mode is DirectoryMode.BARE:
                if request.is_translated or request.is_ats:
                    raise Fault(Cause.TYPE_DISALLOWED)
                return self._as_it_is(request)
            # 3. to 5. "If the device_id is wider than that supported by the IOMMU mode", "Transaction type disallowed".
            if request.device_id >> self.mode.device_bits:
                raise Fault(Cause.TYPE_DISALLOWED)
            # 6. "Use device_id to then locate the device-context".
            context = self.locate(request.device_id)
            # 7. "Transaction type disallowed" if "transaction type is a Translated request or is a PCIe ATS Translation request and EN_ATS is 0", or
            # it "has a valid process_id and PDTV is 0", or it "is not supported by the IOMMU". With PDTV, pdtp is Bare here, and process_id has no
            # width to exceed.
            if (request.is_translated or request.is_ats) and not context.ats:
                raise Fault(Cause.TYPE_DISALLOWED)
            if request.process_id is not None and not (context.pdtv and self.subset.processes):
                raise Fault(Cause.TYPE_DISALLOWED)
            # 8. "If request is a Translated request and T2GPA is 0 then the translation process is complete". 9. is for T2GPA, which is always 0.
            if request.is_translated:
                return self._as_it_is(request)
            # 10. "If PDTV is set to 0 then [...] let iosatp be [...] the DC.fsc field". 11. to 16. With PDTV, pdtp.MODE is Bare: "let iosatp.MODE be
            # Bare". Either way first_mode says it.
            if context.first_mode == context.second_mode == Mode.BARE:
                return self._as_it_is(request)
            # 17. "Determine the GPA accessed by the transaction. If a fault is detected by the first stage address translation process then stop and
            # report the fault". 18. There are no MSI page tables. 19. "Use the second-stage address translation process [...] to translate the GPA".
            # 20. "Translation process is complete".
            return self._translate(request, context)
        except Fault as fault:
            return _refusal(request, fault, context)

    def _as_it_is(self, request: Request) -> Outcome:
        if request.iova >> self.subset.pas and not self.subset.beyond:
            raise Fault(Cause.WRITE_ACCESS_FAULT if request.access in (Access.WRITE, Access.TRANSLATED_WRITE) else Cause.READ_ACCESS_FAULT)
        return _success(_Found(request.iova))

    def locate(self, device_id: int) -> DeviceContext:
        """"Process to locate the Device-context"; raises :class:`Fault`."""
        # 1. "Let a be ddtp.PPN x 2^12 and let i = LEVELS - 1".
        ppn, low = self.ppn, DDI_BITS[0]
        # 2. "If i == 0 go to step 8".
        if self.mode is DirectoryMode.TWO_LEVEL:
            # 3. "Let ddte be the value of the eight bytes at address a + DDI[i] x 8". "DDT entry load access fault", 4. "DDT data corruption".
            data = self._directory(ppn * PAGE + 8 * (device_id >> low), 8, Cached(Keeps.DIRECTORY, device_id, leaf=False))
            entry = DirectoryEntry.unpack(data)
            # 5. "If ddte.V == 0, stop and report 'DDT entry not valid'".
            if not entry.valid:
                raise Fault(Cause.DIRECTORY_NOT_VALID)
            # 6. "If any bits or encoding that are reserved for future standard use are set within ddte", "DDT entry misconfigured".
            if entry.reserved:
                raise Fault(Cause.DIRECTORY_MISCONFIGURED)
            # 7. "Let i = i - 1 and let a = ddte.PPN x 2^12".
            ppn = entry.ppn
        # 8. "Let DC be the value of DC_SIZE bytes at address a + DDI[0] * DC_SIZE": the same faults as in 3. and 4.
        place = ppn * PAGE + DeviceContext.SIZE * (device_id & (1 << low) - 1)
        context = DeviceContext.unpack(self._directory(place, DeviceContext.SIZE, Cached(Keeps.CONTEXT, device_id)))
        # 9. "If DC.tc.V == 0, stop and report 'DDT entry not valid'".
        if not context.valid:
            raise Fault(Cause.DIRECTORY_NOT_VALID)
        # 10. "If the DC is misconfigured", "DDT entry misconfigured". 11. "The device-context has been successfully located".
        if misconfiguration(context, self.subset):
            raise Fault(Cause.DIRECTORY_MISCONFIGURED)
        return context

    def _directory(self, address: int, size: int, cached: Cached) -> bytes:
        try:
            return self._read(address, size, lambda data: cached if data[0] & 1 else None)
        except AccessFault:
            raise Fault(Cause.DIRECTORY_ACCESS_FAULT) from None
        except Corruption:
            raise Fault(Cause.DIRECTORY_CORRUPTED) from None

    def _translate(self, request: Request, context: DeviceContext) -> Outcome:
        # "Corresponding to the original access type": a read of what is written as well is a write; an ATS request reads, whatever it asks for.
        write = request.access is Access.WRITE
        intent = _Intent(request.writes, not request.is_ats and not write, write)
        try:
            first = self._first(context, request.iova, intent, write)
            second = self._second(context, first.address, intent, write, first.address & ~3)
        except AccessFault:
            raise Fault(Cause.WRITE_ACCESS_FAULT if write else Cause.READ_ACCESS_FAULT) from None
        except Corruption:
            raise Fault(Cause.TABLE_CORRUPTED) from None
        return _success(_Found(second.address, min(first.size, second.size), first.readable and second.readable, first.writable and second.writable))

    def _first(self, context: DeviceContext, iova: int, intent: _Intent, write: bool) -> _Found:
        """The first stage, whose tables are where the second stage says."""
        if context.first_mode == Mode.BARE:
            return _Found(iova)
        mode = Mode(context.first_mode)
        ahead = bool(context.sade) and self.subset.implicit is not Implicit.EXACT
        store = bool(context.sade) and self.subset.implicit is Implicit.STORE

        def locate(place: int, stores: bool) -> int:
            # "For a memory access made to support VS-stage address translation (such as to read/write a VS-level page table), permissions and the
            # need to set A and/or D bits at the G-stage level are checked as though for an implicit load or store, not for the original access type.
            # However, any exception is always reported for the original access type". iotval2: "if bit 0 is 1, then the guest-page-fault was caused
            # by an implicit memory access for first-stage address translation. If bit 0 is 1, and the implicit access was a write then bit 1".
            stores = stores or store
            implicit = _Intent(writes=stores or ahead, must_read=not stores, must_write=stores)
            return self._second(context, place, implicit, write, place & ~3 | 1 | stores << 1).address

        try:
            # Sv39, Sv48: an address "must have bits 63-39 all equal to bit 38 [63-48, 47], or else a page-fault exception will occur".
            if iova >> mode.bits - 1 not in (0, (1 << 65 - mode.bits) - 1):
                raise _PageFault
            tags = Cached(Keeps.FIRST, gscid=_gscid(context), pscid=context.pscid, address=iova)
            return self._walk(_Stage(RiscvEntry, context.first_ppn * PAGE, mode.levels, 0, bool(context.sade), tags, locate), iova, intent)
        except _PageFault:
            raise Fault(Cause.WRITE_PAGE_FAULT if write else Cause.READ_PAGE_FAULT) from None

    def _second(self, context: DeviceContext, guest: int, intent: _Intent, write: bool, iotval2: int) -> _Found:
        """The second stage; ``iotval2`` is that of its faults."""
        if context.second_mode == Mode.BARE:
            return _Found(guest)
        mode, entries = Mode(context.second_mode), self.subset.second_entries
        try:
            # Sv39x4, Sv48x4: "address bits 63:41 [63:50] must all be zeros, or else a guest-page-fault exception occurs".
            if guest >> mode.bits + entries.ROOT_BITS:
                raise _PageFault
            tags = Cached(Keeps.SECOND, gscid=_gscid(context), address=guest)
            stage = _Stage(entries, context.second_ppn * PAGE, mode.levels, entries.ROOT_BITS, bool(context.gade), tags, lambda place, stores: place)
            return self._walk(stage, guest, intent)
        except _PageFault:
            raise Fault(Cause.WRITE_GUEST_PAGE_FAULT if write else Cause.READ_GUEST_PAGE_FAULT, iotval2) from None

    def _walk(self, stage: _Stage, address: int, intent: _Intent) -> _Found:
        """"Virtual Address Translation Process" of one stage. The first stage always acts as user: no request with privileges comes as far as
        that."""
        # 1. "Let a be satp.ppn x PAGESIZE, and let i = LEVELS - 1".
        table, level, common, above_grants = stage.root, stage.levels - 1, False, (True, True)
        while True:
            # 2. "Let pte be the value of the PTE at address a + va.vpn[i] x PTESIZE. If accessing pte violates a PMA or PMP check, raise an
            # access-fault exception". The root of an x4 form has two bits more of index.
            bits = LEVEL_BITS + (stage.root_bits if level == stage.levels - 1 else 0)
            place = table + 8 * (address >> PAGE_BITS + LEVEL_BITS * level & (1 << bits) - 1)
            physical = stage.locate(place, False)
            entry = stage.entries.unpack(self._read(physical, 8, partial(_cached, stage, level, common)))
            # 3. to 5. Valid, well-formed, a pointer or a leaf, aligned: see RiscvEntry.kind.
            kind = entry.kind(level)
            if kind is Kind.FAULT:
                raise _PageFault
            may_read, may_write = (here and above for here, above in zip(entry.grants(level), above_grants, strict=True))
            if kind is Kind.POINTER:
                # 4. "Let i = i - 1 [...] let a = pte.ppn x PAGESIZE and go to step 2". What is below a pointer with G is global, too.
                table, level, common, above_grants = entry.ppn * PAGE, level - 1, common or bool(entry.global_), (may_read, may_write)
                continue
            # 6. "Determine if the requested memory access is allowed by the pte.u bit": in both stages as a user's.
            # 8. "Determine if the requested memory access is allowed by the pte.r, pte.w, and pte.x bits". (7. is for shadow stacks.)
            if not entry.user or (intent.must_read and not may_read) or (intent.must_write and not may_write):
                raise _PageFault
            # 9. "If pte.a=0, or if the original memory access is a store and pte.d=0". An ATS request is a store only where it may be one.
            dirties = intent.writes and may_write
            if not entry.accessed or (dirties and not entry.dirty):
                # SADE, GADE: "If SADE is 0, the IOMMU causes a page-fault corresponding to the original access type".
                if not stage.updates:
                    raise _PageFault
                # "If a store to the PTE would violate a PMA or PMP check, raise an access-fault". "Perform the following steps atomically: compare
                # pte to the value of the PTE [...] if the values match, set pte.a to 1 and, if the original memory access is a store, also set pte.d
                # to 1 [...] if the comparison fails, return to step 2".
                marked = entry.marked(dirties)
                if not self._compare_and_set(stage.locate(place, True), entry.value, marked.value):
                    continue
                entry = marked
            # 10. "If i>0, then this is a superpage translation and pa.ppn[i-1:0] = va.vpn[i-1:0]. pa.ppn[LEVELS-1:i] = pte.ppn[LEVELS-1:i]". Svnapot:
            # the low bits of the number of the page are those of the address, too.
            size = entry.size(level)
            return _Found(entry.ppn * PAGE & ~(size - 1) | address & size - 1, size, may_read, may_write and bool(entry.dirty))

    def _read(self, address: int, size: int, cached: Callable[[bytes], Cached | None]) -> bytes:
        """Read memory. ``cached`` says of data what an IOMMU may keep it as, None if it may not."""
        self._reach(address)
        return self.memory.read(address, size)

    def _compare_and_set(self, address: int, expected: int, value: int) -> bool:
        self._reach(address)
        return self.memory.compare_and_set(address, expected, value)

    def _reach(self, address: int) -> None:
        # PAS "determines what the IOMMU itself can address"; translated addresses are checked by who uses them.
        if address >> self.subset.pas:
            raise AccessFault(f"{address:#x} has more than {self.subset.pas} bits")


def _gscid(context: DeviceContext) -> int | None:
    return None if context.second_mode == Mode.BARE else context.gscid


def _cached(stage: _Stage, level: int, common: bool, data: bytes) -> Cached | None:
    """What an entry may be kept as. "This specification does not allow the caching of PTEs whose V (valid) bit is clear"."""
    entry = stage.entries.unpack(data)
    if not entry.present:
        return None
    tags, kind = stage.tags, entry.kind(level)
    # What is no leaf, but malformed, says nothing of the pages around.
    size = entry.size(level) if kind is Kind.LEAF else page_size(level)
    return Cached(tags.keeps, tags.device_id, tags.gscid, tags.pscid, tags.address, size, kind is not Kind.POINTER,
                  common or bool(entry.global_))


def _success(found: _Found) -> Outcome:
    return Outcome(Status.TRANSLATED, found.address, found.size, found.readable, found.writable)


def _refusal(request: Request, fault: Fault, context: DeviceContext | None) -> Outcome:
    cause = fault.cause
    # "When translation could not be completed due to the following causes a Success Response with R and W bits set to 0 is generated. No faults are
    # logged in the fault queue on these errors."
    if request.is_ats and cause in _NO_PAGE:
        return Outcome(Status.TRANSLATED, cause=cause)
    status = Status.COMPLETER_ABORT if request.is_ats and cause in _ABORTS else Status.UNSUPPORTED_REQUEST
    # "If a fault condition prevents locating a valid device context then the DTF value assumed for reporting such faults is 0": so the causes that
    # table 11 has reported even with DTF = 1 are, and of those that are left none is.
    if context is not None and context.dtf:
        return Outcome(status, cause=cause)
    # "If PV is 0, then PID and PRIV are 0."
    process = {} if request.process_id is None else {"process_id": request.process_id, "process_valid": 1, "privileged": int(request.privileged)}
    return Outcome(status, cause=cause, record=FaultRecord(cause=cause, access=request.access, device_id=request.device_id, iotval=request.iova,
                                                            iotval2=fault.iotval2, **process))
