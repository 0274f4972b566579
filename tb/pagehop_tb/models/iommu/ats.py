"""Devices that keep translations, as far as their messages go (PCIe base specification, chapter 10): invalidations and how they are answered; and
what an IOMMU makes of their page requests (RISC-V IOMMU specification, sections 3.11 and 4.3)."""

import random
from dataclasses import dataclass, field
from enum import Enum

from pagehop_tb.models.iommu.model import Fault, Iommu
from pagehop_tb.models.iommu.tables import Cause, DirectoryMode, FaultRecord, Packed, at

__all__ = ["AtsDevice", "Completion", "Manner", "PageOutcome", "PageRecord", "PageRequest", "PageResponse", "Queued", "Received", "page_request"]

#: ITags of a device, and completions that one invalidation may take: a count of 0 says 8.
ITAGS, MOST_COMPLETIONS = 32, 8
#: TTYP of a fault record that is about a message.
_TTYP_MESSAGE = 9


@dataclass(frozen=True)
class Completion:
    """An Invalidate Completion as it is sent."""
    requester_id: int
    itags: int
    count: int


@dataclass(frozen=True)
class Manner:
    """How a device answers an invalidation.

    ``count``: completions, one a traffic class. ``delays``: cycles to each, least and most. ``missing``: so many of them never come.
    ``strays``: so many times another device answers with the same ITag before.
    """
    count: int = 1
    delays: tuple[int, int] = (1, 40)
    missing: int = 0
    strays: int = 0

    def __post_init__(self) -> None:
        if not 1 <= self.count <= MOST_COMPLETIONS or not 0 <= self.missing <= self.count:
            raise ValueError(f"An invalidation takes 1 to 8 completions, of which not more can be missing, not {self.count} and {self.missing}")


@dataclass
class Received:
    """An invalidation at a device. ``due``: cycles in which completions are to be sent; ``left``: how many are still to be heard by the IOMMU."""
    itag: int
    payload: int
    process: int | None
    cycle: int
    manner: Manner
    due: list[int] = field(default_factory=list)
    left: int = 0


class AtsDevice:
    """One device. It may use what it was told to forget until it has sent the last completion (H32); so the IOMMU may not use an ITag again before
    it has heard that. :meth:`invalidate` raises when it does."""

    def __init__(self, requester_id: int, rng: random.Random) -> None:
        self.requester_id, self.rng = requester_id, rng
        self.outstanding: dict[int, Received] = {}

    def invalidate(self, cycle: int, itag: int, payload: int, process: int | None, manner: Manner) -> Received:
        """An Invalidate Request comes."""
        if not 0 <= itag < ITAGS or payload >> 1 & 0x3FF:
            raise ValueError(f"An invalidation with ITag {itag} and payload {payload:#x} is malformed")
        if itag in self.outstanding:
            raise AssertionError(f"ITag {itag} is used again by {self.requester_id:#x} while {self.outstanding[itag]} is outstanding")
        due = sorted(cycle + self.rng.randint(*manner.delays) for _ in range(manner.count))
        one = Received(itag, payload, process, cycle, manner, due[:manner.count - manner.missing], manner.count)
        self.outstanding[itag] = one
        return one

    def reset(self) -> None:
        """A reset of the device: it forgets all, and answers nothing more."""
        self.outstanding.clear()

    def completion(self, cycle: int) -> Completion | None:
        """What the device sends now, if anything is due. Those that say the same count may go in one message."""
        ready = [one for one in self.outstanding.values() if one.due and one.due[0] <= cycle]
        if not ready:
            return None
        first = self.rng.choice(ready)
        together = [one for one in ready if one is first or (one.manner.count == first.manner.count and self.rng.random() < 0.7)]
        for one in together:
            one.due.pop(0)
        return Completion(self.requester_id, sum(1 << one.itag for one in together), first.manner.count % MOST_COMPLETIONS)

    def heard(self, itags: int) -> list[Received]:
        """The IOMMU has taken a completion with these ITags. Returns what it ended."""
        ended = []
        for itag in range(ITAGS):
            if itags >> itag & 1:
                one = self.outstanding[itag]
                one.left -= 1
                if not one.left:
                    ended.append(self.outstanding.pop(itag))
        return ended


@dataclass(frozen=True)
class PageRequest:
    """A Page Request message, or a stop marker: the last of its group, for neither read nor write. ``payload``: bytes 8 to 15 of the header."""
    requester_id: int
    payload: int
    process: int | None = None
    privileged: int = 0
    execute: int = 0

    @property
    def wants_response(self) -> bool:
        """It is the last of its group, and no stop marker."""
        return bool(self.payload & 4) and bool(self.payload & 3)


@dataclass(frozen=True)
class PageResponse:
    """A Page Request Group Response. ``code``: 0 success, 1 invalid request, 15 failure."""
    requester_id: int
    process: int | None
    group: int
    code: int


@dataclass(frozen=True)
class PageRecord(Packed):
    """A record of the page request queue."""
    SIZE = 16
    process_id: int = at(12, 20)
    process_valid: int = at(32)
    privileged: int = at(33)
    execute: int = at(34)
    device_id: int = at(40, 24)
    payload: int = at(64, 64)


class Queued(Enum):
    """What becomes of a record that is put into the queue."""
    STORED   = "stored"
    LOST     = "lost"         # the queue is off, or has met a memory fault
    OVERFLOW = "overflow"     # it is full, or was


@dataclass(frozen=True)
class PageOutcome:
    """What a page request leads to: a record of the queue, whatever becomes of it; a record of a fault; a response."""
    record: PageRecord | None = None
    fault: FaultRecord | None = None
    response: PageResponse | None = None


def page_request(iommu: Iommu, request: PageRequest, queued: Queued) -> PageOutcome:
    """"PCIe ATS Page Request handling". ``queued`` is what becomes of the record, if there is one."""
    context, cause = None, Cause.NONE
    # Mode Off: cause 256. Mode Bare, and a device that is too wide for the mode: cause 260.
    if iommu.mode is DirectoryMode.OFF:
        cause = Cause.ALL_DISALLOWED
    elif iommu.mode is DirectoryMode.BARE or request.requester_id >> iommu.mode.device_bits:
        cause = Cause.TYPE_DISALLOWED
    else:
        try:
            context = iommu.locate(request.requester_id)
            if not context.pri:
                cause = Cause.TYPE_DISALLOWED
        except Fault as fault:
            cause = fault.cause
    # "If PV is 0, then PID, PRIV and EXEC are 0", in both records.
    process = {} if request.process is None else {"process_id": request.process, "process_valid": 1, "privileged": request.privileged}
    execute = 0 if request.process is None else request.execute
    record = fault_record = None
    if cause is Cause.NONE:
        record = PageRecord(device_id=request.requester_id, execute=execute, payload=request.payload, **process)
        if queued is Queued.STORED:
            return PageOutcome(record)
    elif context is None or not context.dtf:
        # The message's code is what there is instead of an address.
        fault_record = FaultRecord(cause=cause, access=_TTYP_MESSAGE, device_id=request.requester_id, iotval=0x04, **process)
    if not request.wants_response:
        return PageOutcome(record, fault_record)
    # Success when the queue is full, so the device asks again; Invalid Request for cause 260; else Response Failure. A failure has the PASID that the
    # request had, the others only with PRPR, which is 0 where there is no context.
    code = 1 if cause is Cause.TYPE_DISALLOWED else 0 if cause is Cause.NONE and queued is Queued.OVERFLOW else 15
    with_process = code == 15 or (context is not None and context.prpr)
    group = request.payload >> 3 & 0x1FF
    return PageOutcome(record, fault_record, PageResponse(request.requester_id, request.process if with_process else None, group, code))
