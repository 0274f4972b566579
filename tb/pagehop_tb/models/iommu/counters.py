"""Performance counters of a RISC-V IOMMU in software: which events a request is, and who counts them (sections 5.19 to 5.23)."""

from dataclasses import dataclass
from enum import IntEnum
from typing import Any

from pagehop_tb.models.iommu.model import Iommu
from pagehop_tb.models.iommu.requests import Outcome, Request, Status
from pagehop_tb.models.iommu.tables import PAGE_BITS, DeviceContext, Mode

__all__ = ["CountingIommu", "Event", "EventCounter", "Happened"]


class Event(IntEnum):
    """"Standard Events list", and those of moves."""
    NONE            = 0
    UNTRANSLATED    = 1
    TRANSLATED      = 2
    ATS_REQUEST     = 3
    TLB_MISS        = 4
    DIRECTORY_WALK  = 5
    PROCESS_WALK    = 6     # there are no directories of processes
    FIRST_WALK      = 7
    SECOND_WALK     = 8
    MOVED           = 16384
    FAILED          = 16385
    DISTURBED       = 16386
    FELL_BACK       = 16387
    HOLDS           = 16388
    KEEPS_WAITING   = 16389
    DRAINS          = 16390


@dataclass(frozen=True)
class Happened:
    """An event, and whose request it is of. ``gscid``, ``pscid``: None when they are not valid."""
    event: Event
    device_id: int = 0
    process_id: int | None = None
    gscid: int | None = None
    pscid: int | None = None


@dataclass
class EventCounter:
    """A counter and its selector, as registers have them."""
    selector: int = 0
    value: int = 0

    def counts(self, happened: Happened) -> bool:
        """The filters: "If IDT is not supported for an event then the associated counter does not increment"."""
        select = self.selector
        event, dmask, process, device = select & 0x7FFF, select >> 15 & 1, select >> 16 & 0xF_FFFF, select >> 36 & 0xFF_FFFF
        by_process, by_device, by_space = (select >> bit & 1 for bit in (60, 61, 62))
        if event != happened.event:
            return False
        if event >= Event.MOVED:
            return not (by_process or by_device or by_space)
        if by_space and event not in (Event.TLB_MISS, Event.FIRST_WALK, Event.SECOND_WALK):
            return False
        process_id, device_id = (happened.pscid, happened.gscid) if by_space else (happened.process_id, happened.device_id)
        # "The lower bits of the DID_GSCID all the way to the first low order 0 bit (including the 0 bit position itself) are masked".
        ignored, bit = 0, 1
        while dmask:
            ignored |= bit
            if not device & bit:
                break
            bit <<= 1
        return (not by_process or process_id == process) and (
            not by_device or (device_id is not None and device_id & ~ignored == device & ~ignored))

    def count(self, happened: Happened) -> bool:
        """Count it, if it is to be; returns whether an interrupt is asked for: it has wrapped, and OF was 0."""
        if not self.counts(happened):
            return False
        self.value = (self.value + 1) % (1 << 64)
        wraps = self.value == 0 and not self.selector >> 63
        if self.value == 0:
            self.selector |= 1 << 63
        return wraps


class CountingIommu(Iommu):
    """An IOMMU that says what happened, with caches that keep all that they are told until :meth:`forget`: contexts, and pages by their spaces of
    addresses. What it is asked must be such that nothing which is kept refuses an access."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.happened: list[Happened] = []
        self._request = Request(0, 0)
        self._contexts: dict[int, DeviceContext] = {}
        self._pages: set[tuple[int | None, int | None, int]] = set()

    def forget(self) -> None:
        """All is invalidated."""
        self._contexts.clear()
        self._pages.clear()

    def translate(self, request: Request) -> Outcome:
        """As :meth:`Iommu.translate`; ``happened`` is what it was that could be counted."""
        self._request, self.happened = request, []
        self._tell(Event.ATS_REQUEST if request.is_ats else Event.TRANSLATED if request.is_translated else Event.UNTRANSLATED)
        return super().translate(request)

    def locate(self, device_id: int) -> DeviceContext:
        if device_id not in self._contexts:
            self._tell(Event.DIRECTORY_WALK)
            self._contexts[device_id] = super().locate(device_id)
        return self._contexts[device_id]

    def _translate(self, request: Request, context: DeviceContext) -> Outcome:
        gscid, pscid = self._space(context)
        page = (gscid, pscid, request.iova >> PAGE_BITS)
        silent = page in self._pages
        if not silent:
            self._tell(Event.TLB_MISS, context)
        before = len(self.happened)
        outcome = super()._translate(request, context)
        if silent:
            del self.happened[before:]
        elif outcome.status is Status.TRANSLATED and not request.is_ats:
            self._pages.add(page)
        return outcome

    def _first(self, context: DeviceContext, iova: int, *arguments: Any) -> Any:
        if context.first_mode != Mode.BARE and iova >> Mode(context.first_mode).bits - 1 in (0, (1 << 65 - Mode(context.first_mode).bits) - 1):
            self._tell(Event.FIRST_WALK, context)
        return super()._first(context, iova, *arguments)

    def _second(self, context: DeviceContext, guest: int, *arguments: Any) -> Any:
        if context.second_mode != Mode.BARE and not guest >> Mode(context.second_mode).bits + self.subset.second_entries.ROOT_BITS:
            self._tell(Event.SECOND_WALK, context)
        return super()._second(context, guest, *arguments)

    @staticmethod
    def _space(context: DeviceContext) -> tuple[int | None, int | None]:
        return (None if context.second_mode == Mode.BARE else context.gscid, None if context.first_mode == Mode.BARE else context.pscid)

    def _tell(self, event: Event, context: DeviceContext | None = None) -> None:
        gscid, pscid = self._space(context) if context else (None, None)
        self.happened.append(Happened(event, self._request.device_id, self._request.process_id, gscid, pscid))
