"""What ATS and its page requests say to devices and hear from them, apart from translations (PCIe base specification, chapter 10)."""

from amaranth.lib import data, enum

__all__ = ["ITAG_BITS", "InvalidateCompletion", "InvalidateRequest", "PageRequest", "PageResponse", "ResponseCode"]

#: Bits of the number of an invalidation, which a device answers with.
ITAG_BITS = 5


class ResponseCode(enum.Enum, shape=4):
    """What a device is told of a group of page requests."""
    SUCCESS = 0
    INVALID = 1
    FAILURE = 15


class InvalidateRequest(data.Struct):
    """To a device: forget translations. MsgD, code 0x01, routed by id.

    ``payload``: 63:12 address, 11 S (its low bits say how many pages), 10:1 zero, 0 of all processes.
    """
    requester_id:  16
    itag:          ITAG_BITS
    payload:       64
    process_valid: 1
    process:       20


class InvalidateCompletion(data.Struct):
    """From a device: those of the invalidations, a bit an ITag, are done as far as this traffic class goes. Msg, code 0x02.

    ``count``: how many of these come for each, one a traffic class; 0 means 8.
    """
    requester_id: 16
    itags:        1 << ITAG_BITS
    count:        3


class PageRequest(data.Struct):
    """From a device: a page that it wants. Msg, code 0x04.

    ``payload``: bytes 8 to 15 of the header as a number: 63:12 page, 11:3 group, 2 last of its group, 1 write, 0 read. Last, without read and write,
    it is a stop marker.
    """
    requester_id:  16
    process_valid: 1
    process:       20
    privileged:    1
    execute:       1
    payload:       64


class PageResponse(data.Struct):
    """To a device: what became of its group. Msg, code 0x05, routed by id. ``code`` : a :class:`ResponseCode`, or another that software chose."""
    requester_id:  16
    process_valid: 1
    process:       20
    group:         9
    code:          4
