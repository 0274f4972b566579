"""A log of a run in which large writes may come out in pieces, as one of smaller writes."""

from collections.abc import Iterator

from pagehop_tb.checker.log import EventLog, Kind

__all__ = ["in_pieces"]

#: Where a write of each kind of event has its address and its data, and its byte enables.
_WRITES = {
    Kind.DEVICE_WRITE: (3, 4, 5), Kind.PERFORMED_WRITE: (3, 4, 5), Kind.CPU_STORE: (3, 4, None), Kind.LINK: (5, 6, None),
}


def in_pieces(log: EventLog, boundary: int) -> EventLog:
    """The log with every write cut at the multiples of ``boundary`` in its addresses, where it went in and where it came out or became visible.

    A write without RO becomes visible in increasing order of addresses (2.4.1), so its parts are so many writes, one behind the other: they match
    whether a port cut it or not, each exactly once and in order.
    """
    cut = EventLog()
    for event in log.events:
        cut.events += _parts(event, boundary) if event[0] in _WRITES else (event,)
    return cut


def _parts(event: tuple, boundary: int) -> Iterator[tuple]:
    kind = Kind(event[0])
    where, what, enables = _WRITES[kind]
    address, data = event[where], event[what]
    if (kind is Kind.LINK and event[4] != "MWR") or address % boundary + len(data) <= boundary:
        yield event
        return
    start = 0
    while start < len(data):
        stop = min(len(data), start + boundary - (address + start) % boundary)
        part = list(event)
        part[where], part[what] = address + start, data[start:stop]
        if enables is not None and event[enables] is not None:
            part[enables] = event[enables] >> start & (1 << stop - start) - 1
        yield tuple(part)
        start = stop
