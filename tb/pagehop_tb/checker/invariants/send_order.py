"""I5: what may not pass a posted write does not become visible before it."""

from itertools import product

import numpy as np

from pagehop_tb.checker.log import Kind
from pagehop_tb.checker.records import DEVICE_STREAM
from pagehop_tb.checker.replay import Replay
from pagehop_tb.checker.space import host_name
from pagehop_tb.checker.values import SHIFT, Values
from pagehop_tb.checker.verdict import Verdict

__all__ = ["came_aside", "check_order_at_hosts", "check_order_at_places", "visible_writes"]


def visible_writes(replay: Replay) -> list[int]:
    """Posted writes of the device port that became visible, in the order in which they were sent."""
    return [i for i, write in enumerate(replay.writes) if write.stream == DEVICE_STREAM and write.performed >= 0 and write.atomic is None]


def check_order_at_hosts(replay: Replay, verdict: Verdict) -> None:
    """*Reordered*: a posted write of the device, interrupts included, became visible before one sent earlier that it may not pass.

    That holds at each host; over both hosts only where the fence policy promises it; within each group of requesters; and on each way to a host.
    """
    numbers = visible_writes(replay)
    writes = [replay.writes[number] for number in numbers]
    performed = np.array([write.performed for write in writes], np.int64)
    strong = np.array([write.strong for write in writes], bool)
    host = np.array([write.host for write in writes], np.int64)
    group = np.array([replay.config.group_of(write.agent) for write in writes], np.int64)
    place = [f" to {host_name(h)}" for h in (0, 1)]
    if replay.config.global_order:
        host[:], place[0] = 0, ""
    aside = np.array([came_aside(replay, write.performed) for write in writes], bool)
    for h, g, way in product((0, 1), np.unique(group), np.unique(aside)):
        mine = np.flatnonzero((host == h) & (group == g) & (aside == way))
        if len(mine) < 2:
            continue
        latest = np.maximum.accumulate(performed[mine])
        verdict.checked["edges"] += len(mine) - 1
        for i in mine[1:][strong[mine[1:]] & (performed[mine[1:]] < latest[:-1])]:
            replay.blamed.add(writes[int(i)].event)
            verdict.add("reordered", f"{replay.told(numbers[int(i)])} became visible before an earlier one{place[h]}")


def came_aside(replay: Replay, performed: int) -> bool:
    """Whether a write that became visible with this event came through the on-the-side device."""
    if not replay.config.detours:
        return False
    event = replay.log.events[performed]
    return event[0] == Kind.PERFORMED_WRITE and event[6] in replay.config.detours


def check_order_at_places(values: Values, verdict: Verdict) -> None:
    """*Reordered*: the same for the writes to one dword, at whichever host each of them arrived.

    Atomics are left out: a posted write may pass them, and what they may not pass is visible in what they return.
    """
    replay, writes = values.replay, values.replay.writes
    posted = np.array([write.stream == DEVICE_STREAM and write.atomic is None for write in writes], bool)
    mine = np.flatnonzero((values.writer >= 0) & posted[values.writer]) if len(writes) else np.zeros(0, np.int64)
    if not len(mine):
        return
    sent = np.array([write.event for write in writes], np.int64)[values.writer[mine]]
    mine = mine[np.argsort((values.rank[mine] << SHIFT) | sent, kind="stable")]
    all_strong = np.array([write.strong for write in writes], bool)[values.writer[mine]]
    groups = np.array([replay.config.group_of(write.agent) for write in writes], np.int64)[values.writer[mine]]
    for group in np.unique(groups):
        ours, strong = mine[groups == group], all_strong[groups == group]
        # In the order of sending, which within one place is also the order of its versions, no version comes before one already reached.
        latest = np.maximum.accumulate(ours)
        bad = ours[1:][strong[1:] & (ours[1:] < latest[:-1])]
        for index in dict.fromkeys(values.writer[bad].tolist()):
            replay.blamed.add(writes[index].event)
            verdict.add("reordered", f"{replay.told(index)} became visible before an earlier one to the same place")
