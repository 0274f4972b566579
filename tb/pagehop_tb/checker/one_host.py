"""The log of a run with one host that has two memories, as one of two hosts."""

from pagehop_tb.checker.log import EventLog, Kind
from pagehop_tb.checker.space import CheckConfig

__all__ = ["by_place"]

#: Kinds whose third and fourth element are a host and an address of its memory.
_AT_HOSTS = (Kind.PERFORMED_WRITE, Kind.PERFORMED_READ, Kind.PERFORMED_ATOMIC, Kind.PRESET, Kind.INJECTED)


def by_place(log: EventLog, config: CheckConfig) -> EventLog:
    """The log, told as if each memory were that of a host of its own."""
    told = EventLog()
    for entry in log.events:
        if entry[0] in _AT_HOSTS:
            entry = (*entry[:2], config.place(*entry[2:4]), *entry[3:])
        elif entry[0] == Kind.LINK and entry[2]:
            entry = (*entry[:2], 1 + config.place(0, entry[5]), *entry[3:])
        told.events.append(entry)
    return told
