"""Writes of devices that their page's old place shows only after the commit, because their bytes went into the copy as well."""

from collections.abc import Mapping

from pagehop_tb.checker.log import EventLog, Kind
from pagehop_tb.checker.space import HOST_SPACE, PAGE, CheckConfig

__all__ = ["absorbed_writes"]


def absorbed_writes(log: EventLog, config: CheckConfig, owned_at_first: Mapping[int, int]) -> dict[int, list[int]]:
    """For each commit of a move in which devices go on writing: the events, before the end of the move, at which writes of devices became visible at
    the page's old place. Both are positions in the log. Nothing of the rest of the log is judged here.
    """
    if not any(entry[0] == Kind.MOVE_BEGIN and entry[4] for entry in log.events):
        return {}
    owners = dict(owned_at_first)
    absorbs: dict[int, bool] = {}           # page: the move that runs is one of these
    commits: dict[int, int] = {}            # page: event of the commit of such a move, until its end
    found: dict[int, list[int]] = {}
    for event, entry in enumerate(log.events):
        kind = entry[0]
        if kind == Kind.MOVE_BEGIN:
            absorbs[entry[2]] = entry[4]
        elif kind == Kind.MOVE_END:
            absorbs.pop(entry[2], None)
            commits.pop(entry[2], None)
        elif kind == Kind.COMMIT:
            owners[entry[2]] = entry[3]
            if absorbs.get(entry[2]):
                commits[entry[2]] = event
        elif kind == Kind.PERFORMED_WRITE and commits:
            _, _, host, address, _, _, requester_id, source = entry
            location = config.of_host(host, address)
            page = location // PAGE
            if (location < HOST_SPACE[0] and page in commits and owners[page] != host
                    and source == "link" and requester_id not in config.engine_ids):
                found.setdefault(commits[page], []).append(event)
    return found
