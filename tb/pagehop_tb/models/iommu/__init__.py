"""The RISC-V IOMMU in software: tables in memory, translation, commands, and what may be answered while tables change."""

from pagehop_tb.models.iommu.build import AccessFault, AddressSpace, Corruption, Directory, TableMemory, pages_from
from pagehop_tb.models.iommu.commands import Cached, Keeps, decode, illegal, invalidates
from pagehop_tb.models.iommu.counters import CountingIommu, Event, EventCounter, Happened
from pagehop_tb.models.iommu.history import History, Undecided
from pagehop_tb.models.iommu.model import BUILT, Implicit, Iommu, Subset, misconfiguration
from pagehop_tb.models.iommu.requests import Outcome, Request, Status, ats_entry
from pagehop_tb.models.iommu.tables import (
    EVERYTHING,
    NAPOT_SIZE,
    PAGE,
    Access,
    AtsCommand,
    Cause,
    DeviceContext,
    DirectoryCommand,
    DirectoryEntry,
    DirectoryMode,
    FaultRecord,
    Fence,
    Invalidation,
    Mode,
    Move,
    MovePages,
    MoveStatus,
    RiscvEntry,
    VtdEntry,
    page_size,
)

__all__ = ["BUILT", "EVERYTHING", "NAPOT_SIZE", "PAGE", "Access", "AccessFault", "AddressSpace", "AtsCommand", "Cached", "Cause", "Corruption",
           "CountingIommu", "DeviceContext", "Directory", "DirectoryCommand", "DirectoryEntry", "DirectoryMode", "Event", "EventCounter",
           "FaultRecord", "Fence", "Happened", "History", "Implicit", "Invalidation", "Iommu", "Keeps", "Mode", "Move", "MovePages", "MoveStatus",
           "Outcome", "Request", "RiscvEntry", "Status", "Subset", "TableMemory", "Undecided", "VtdEntry", "ats_entry", "decode", "illegal",
           "invalidates", "misconfiguration", "page_size", "pages_from"]
