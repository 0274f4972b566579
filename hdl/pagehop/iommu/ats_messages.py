"""ATS messages, as the parts of the IOMMU hand them to each other (PCI Express 5.0, chapter 10)."""

from amaranth.lib import data

__all__ = ["InvalidateRequest", "InvalidateCompletion", "PageRequest", "PageResponse"]


class InvalidateRequest(data.Struct):
    """To a device. ``payload``: bits 63:12 address, 11 S, 0 G."""
    requester_id:  16
    itag:          5
    payload:       64
    process_valid: 1
    process:       20


class InvalidateCompletion(data.Struct):
    """From a device. ``count`` completions end each request whose bit is set in ``itags``; 0 means 8."""
    requester_id: 16
    itags:        32
    count:        3


class PageRequest(data.Struct):
    """From a device. ``payload``: bits 63:12 page, 11:3 index of the group, 2 L, 1 W, 0 R."""
    requester_id:  16
    process_valid: 1
    process:       20
    privileged:    1
    execute:       1
    payload:       64


class PageResponse(data.Struct):
    """To a device: the answer to a group of page requests."""
    requester_id:  16
    process_valid: 1
    process:       20
    group:         9
    code:          4
