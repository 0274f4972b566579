"""What a device asks of an IOMMU, and what it is answered."""

from dataclasses import dataclass
from enum import Enum

from pagehop_tb.models.iommu.tables import PAGE, Access, Cause, FaultRecord, page_size

__all__ = ["Outcome", "Request", "Status", "ats_entry"]


@dataclass(frozen=True)
class Request:
    """What a device asks for. ``no_write``: NW of an ATS request. ``process_id``, ``privileged``: of its PASID, if it has one."""
    device_id: int
    iova: int
    access: Access = Access.READ
    no_write: bool = False
    process_id: int | None = None
    privileged: bool = False

    @property
    def is_ats(self) -> bool:
        """It asks for a translation, not for data."""
        return self.access is Access.ATS_REQUEST

    @property
    def is_translated(self) -> bool:
        """Its address is one that an ATS request was answered with."""
        return self.access in (Access.TRANSLATED_READ, Access.TRANSLATED_WRITE)

    @property
    def writes(self) -> bool:
        """It needs D: a store, or "an ATS translation request with NW=0", which "counts as a write"."""
        return self.access is Access.WRITE or (self.is_ats and not self.no_write)


class Status(Enum):
    """How a request is answered. An ATS request that finds no page is answered with a translation that permits nothing."""
    TRANSLATED          = "translated"
    UNSUPPORTED_REQUEST = "UR"
    COMPLETER_ABORT     = "CA"


@dataclass(frozen=True)
class Outcome:
    """What becomes of a request.

    ``address``: where its IOVA is; ``size``: bytes around it, aligned, that are translated alike, :data:`EVERYTHING` if nothing is translated.
    ``readable``, ``writable``: what may be done there without another walk, so that a page whose D is 0 is not writable. ``cause``: why it was
    refused or, of an ATS request, why it got no permission. ``record``: what the fault queue gets. ``iotval2`` may be compared without bits 11:2,
    which "an IOMMU may report as 0", as may those of ``iotval``.
    """
    status: Status
    address: int = 0
    size: int = PAGE
    readable: bool = False
    writable: bool = False
    cause: Cause = Cause.NONE
    record: FaultRecord | None = None


def ats_entry(outcome: Outcome, largest: int = page_size(2)) -> int:
    """The translation as a completion for an ATS request has it: address, S (bit 11), W (1), R (0). The size is in the low bits of the address: ones
    from bit 12 up, then a 0. Of both stages Bare it is up to the IOMMU, here ``largest``. N, Global, Priv, Exe and U are 0 in this subset."""
    if not (outcome.readable or outcome.writable):
        return 0
    size = min(outcome.size, largest)
    sized = outcome.address & ~(size - 1) | (size // 2 - 1 & ~(PAGE - 1))
    return sized | (size > PAGE) << 11 | outcome.writable << 1 | outcome.readable
