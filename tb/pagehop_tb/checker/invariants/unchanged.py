"""I10: posted TLPs come out of the interposer as they went in, and not in an order that PCIe forbids."""

from pagehop_tb.checker.replay import Replay
from pagehop_tb.checker.space import HOST_SPACE, PAGE, CheckConfig
from pagehop_tb.checker.verdict import Verdict

__all__ = ["check_unchanged"]

PORTS = ("the device port", "Host A", "Host B")


def check_unchanged(replay: Replay, verdict: Verdict) -> None:
    """*Invented*: a TLP on a link that did not come in like that. *Reordered*: it passed an earlier one that it may not pass, or kept IDO (H62).

    It may change its address (to that of the owner) and must lose IDO on its way to a host; it may lose RO on its way to a page that moves while
    devices write to it. Order is that of TLPs which come in by one link and go out by one, and of one group of requesters: what the two hosts send to
    the device has none.
    Judges the ``link`` events of the log; without any it says nothing. What goes in and does not come out is seen where it should have been
    performed (I3).
    """
    waiting: dict[tuple, list[tuple[int, int]]] = {}     # the event and the port of each TLP that came in
    latest: dict[tuple, int] = {}
    for event in replay.links:
        _, cycle, port, upstream, kind, address, data, requester_id, traffic_class, ro, ido, no_snoop, poisoned = replay.log.events[event]
        place = _place(replay.config, port, upstream, address)
        key = (upstream, kind, place, data, requester_id, traffic_class, no_snoop, poisoned)
        if upstream == (port == 0):
            waiting.setdefault(key, []).append((event, port))
        elif requester_id not in replay.config.engine_ids:
            what = f"cycle {cycle}: a {kind} of requester {requester_id:#06x} at {address:#x} came out at {PORTS[port]}"
            came_in = waiting.get(key)
            if not came_in:
                verdict.add("invented", f"{what} as none came in")
                continue
            # Both hosts may have sent the same: it is the one of which this order is allowed.
            way = (port, traffic_class, replay.config.group_of(requester_id) if upstream else 0)
            found = next((one for one in came_in if one[0] >= latest.get((one[1], *way), -1)), came_in[0])
            came_in.remove(found)
            sent, stream = found[0], (found[1], *way)
            relaxed = replay.log.events[sent][9]
            if ro != relaxed and (ro or not _moving(replay, place, sent, event)):
                verdict.add("invented", f"{what} with{'' if ro else 'out'} RO, as it did not come in")
            if upstream and ido:
                verdict.add("reordered", f"{what} with IDO")
            own = (*stream, requester_id)
            if sent < max(latest.get(stream, -1), latest.get(own, -1)):
                verdict.add("reordered", f"{what} after one that came in later and may not pass it")
            if not relaxed:
                bound = own if replay.log.events[sent][10] else stream      # with IDO it may pass those of other requesters
                latest[bound] = max(sent, latest.get(bound, -1))


def _moving(replay: Replay, place: tuple[bool, int], sent: int, event: int) -> bool:
    """Between the two positions the page of ``place`` was moving, and devices could write to it."""
    in_guest, location = place
    return in_guest and any(begin < event and sent < ends for begin, ends in _moves(replay, location // PAGE))


def _moves(replay: Replay, page: int) -> list[tuple[int, int]]:
    last = len(replay.log.events)
    return [(move[0], move[1] if len(move) > 1 else last) for move in replay.absorbing.get(page, ())]


def _place(config: CheckConfig, port: int, upstream: bool, address: int) -> tuple[bool, int]:
    """What names the destination on both sides: the place in the guest, or the address that goes through as it is, as that of an interrupt."""
    if upstream:
        location = config.of_device(address) if port == 0 else config.of_host(port - 1, address)
        if location < HOST_SPACE[0]:
            return True, location
    return False, address
